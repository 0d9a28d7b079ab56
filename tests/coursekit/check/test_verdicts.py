"""What is said about answers nobody listed, and that it neither depends on the notebook around nor changes
it.
"""

import dataclasses
import random
import re
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from coursekit.check import Exercise, ExerciseError, Misconception, NoPoints, Points, close, guard, worth
from coursekit.check.catalogue import exercises_in, list_exercises
from coursekit.check.guard import TimeUp, time_limit
from coursekit.testing import cases

from . import toys
from .toys import turn, turn_image


def judge(answer, exercise=turn_image):
    return exercise.judge(answer)


# -- sentences that are true of this answer ----------------------------------------------------------------


def test_the_same_mistake_in_other_code_gets_the_same_message():
    def by_index(x, r):
        for _ in range(r % 4):
            x = x.flip(-2).transpose(-2, -1)
        return x

    assert judge(by_index).misconception == "clockwise"
    assert judge(lambda x, r: x.clone()).misconception == "not_turned"


def test_a_mistake_nobody_listed_gets_the_property_and_no_misconception():
    for wrong in (
        lambda x, r: 1.01 * turn(x, r),
        lambda x, r: turn(x, r).flip(0),
        lambda x, r: turn(x, r).abs(),
    ):
        verdict = judge(wrong)
        assert (verdict.status, verdict.kind, verdict.misconception) == ("wrong", "property", None)
        assert "asked with x: float64 (2, 3," in verdict.message
        assert "off by" in verdict.message
        assert not any(m.message in verdict.message for m in turn_image.misconceptions)


def test_a_misconception_in_part_is_not_the_misconception():
    def mixed(x, r):  # clockwise, except for one turn
        return turn(x, 1) if r == 1 else turn(x, -r) if r != 3 else turn(x, 2).transpose(-2, -1)

    verdict = judge(mixed)
    assert verdict.status == "wrong"
    assert verdict.misconception is None


def test_a_slow_machine_does_not_change_what_is_said():
    """A wrong answer that takes two thirds of its time is known by its replies all the same."""
    pause = turn_image.seconds / 1.5 / len(turn_image.rehearse().log)

    def slowly(x, r):
        start = time.thread_time()
        while time.thread_time() - start < pause:
            pass
        return toys.clockwise(x, r)

    assert turn_image.judge(slowly).misconception == "clockwise"



@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda x, r: x[..., :-1], "shape", r"shape \(2, 3, 5, 6\); wanted: \(2, 3, 7, 5\)"),
        (lambda x, r: turn(x, r).float(), "dtype", "dtype float32; wanted: float64"),
        (lambda x, r: turn(x, r).numpy(), "kind", "is a numpy array; wanted: a torch tensor"),
        (lambda x, r: turn(x, r).tolist(), "kind", "is a list; wanted: a torch tensor"),
        (lambda x, r: 1.5, "kind", "is a float"),
        (lambda x, r: turn(x, r).to("meta"), "device", "device meta"),
        (lambda x, r: turn(x, r) / 0, "nan", "infinite"),
        (lambda x, r: turn(x, r) * float("nan"), "nan", "NaN"),
        (lambda x, r: torch.nn.Linear(2, 2), "type", "is a Linear"),
        (lambda x, r: lambda y: y, "type", "function"),
        (lambda x, r: (v for v in x), "type", "generator"),
        (lambda x, r: turn(x, r).to_sparse(), "type", "sparse"),
        (lambda x, r: torch.zeros(1, dtype=torch.float64).expand(10**11), "size", "MiB"),
        (lambda x, r: turn(x.add_(0.0).mul_(2), r) / 2, "inplace", "`x` in place"),
        (lambda x: x, "arguments", r"takes \(x\). It is called as \(x, r\)"),
        (lambda x, r: sys.exit("bye"), "exception", "SystemExit"),
        (lambda x, r: turn(x, r) + torch.rand(1), "random", "random"),
        (lambda image, r: [][1], "exception", "IndexError"),
    ],
)
def test_general_faults_have_words_of_their_own(answer, kind, words):
    verdict = judge(answer)
    assert verdict.status == "wrong"
    assert verdict.kind == kind
    assert re.search(words, verdict.message), verdict.message
    assert verdict.points == 0


def test_a_result_of_single_precision_that_was_cast_back_is_told_as_such():
    verdict = judge(lambda x, r: (turn(x, r).float() * (1 / 3)).double() * 3)
    assert verdict.kind == "property"
    assert "become float32 on the way" in verdict.message


def _exercise(reference, check):
    """An exercise with these two and with wrong answers that nobody gives."""
    others = tuple((lambda *_, k=k: float(k)) for k in range(6))
    return Exercise(
        name="small",
        lesson="01_toys",
        title="Small",
        points=1,
        statement="Do it.",
        reference=reference,
        alternatives=(reference, reference),
        misconceptions=tuple(
            Misconception(f, f"You always return the number {k}.", f"always_{k}")
            for k, f in enumerate(others)
        ),
        hints=("one", "two", "three"),
        checks=(check,),
        objective="do it",
    )


def test_lists_and_dictionaries_changed_in_place_are_noticed():
    def total(steps, names):
        return sum(a + b for a, b in steps["all"]) + len(names)

    def check(ask):
        close(ask({"all": [(1, 2), [3, 4]]}, ["a"]), 11, "The sum of all steps and the number of names")

    def after(change):
        def answer(steps, names):
            value = total(steps, names)
            change(steps, names)
            return value

        return answer

    exercise = _exercise(total, check)
    for change in (
        lambda steps, names: steps["all"].reverse(),
        lambda steps, names: steps["all"][1].append(5),
        lambda steps, names: steps.clear(),
        lambda steps, names: steps.update(more=1),
    ):
        verdict = judge(after(change), exercise)
        assert (verdict.status, verdict.kind) == ("wrong", "inplace")
        assert "`steps` in place" in verdict.message
    assert "`names`" in judge(after(lambda steps, names: names.pop()), exercise).message
    same = after(lambda steps, names: (steps.update(all=list(steps["all"])), names.sort()))
    assert judge(same, exercise).status == "correct"


def test_a_gradient_flows_through_a_function_that_is_handed_in():
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)

    def square(x):
        return x * x

    def twice(f, x):
        return f(f(x) + x)

    def check(ask):
        with_grad = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(twice(square, with_grad).sum(), with_grad)
        close(ask(square, x), twice(square, x), "The function of the function")
        got = ask.gradient(square, x, wrt=1)
        close(torch.zeros_like(x) if got is None else got, want, "The gradient is that of the chain rule")

    def in_two_lines(f, x):
        y = x + f(x)
        return f(y)

    def cut(f, x):
        return f(f(x).detach() + x)

    def cut_by_mode(f, x):
        with torch.no_grad():
            y = f(x)
        return f(y + x)

    exercise = _exercise(twice, check)
    assert judge(in_two_lines, exercise).status == "correct"
    for answer in (cut, cut_by_mode):
        assert "chain rule" in judge(answer, exercise).message


def test_an_exception_names_the_students_own_line():
    def helper(x):
        return x @ torch.ones(3, dtype=x.dtype)

    def answer(x, r):
        y = x * 2
        return helper(y)

    message = judge(answer).message
    assert "RuntimeError" in message
    assert "line 2 of `helper`: `return x @ torch.ones(3, dtype=x.dtype)`" in message
    assert "coursekit" not in message


def test_deep_recursion_and_odd_exceptions_are_answers_too():
    def endless(x, r):
        return endless(x, r)

    class Odd(Exception):
        def __str__(self):
            raise ValueError

    def odd(x, r):
        raise Odd

    def coloured(x, r):
        raise ValueError("\x1b[31mred\x1b[0m\n" + "a" * 10_000 + "<script>")

    assert "RecursionError" in judge(endless).message
    assert judge(odd).kind == "exception"
    verdict = judge(coloured)
    assert "\x1b" not in verdict.message
    assert len(verdict.message) < 800
    assert "<script>" not in verdict._repr_html_()


def test_not_attempted_in_all_its_forms():
    def raises(x, r):
        # YOUR CODE HERE
        raise NotImplementedError()

    def silent(x, r):
        """Only words."""

    def dots(x, r): ...

    def to_fill(x, r):
        y = ...
        return y

    for stub in (raises, silent, dots, to_fill, lambda x, r: raises(x, r)):
        verdict = judge(stub)
        assert verdict.status == "not attempted", verdict
        assert verdict.points == 0
    assert "`raises`" in judge(lambda x, r: raises(x, r)).message


def test_not_implemented_by_torch_is_not_an_untouched_stub():
    def answer(x, r):
        return torch.linalg.inv(x[0, 0, :5, :5].half())

    verdict = judge(answer)
    assert (verdict.status, verdict.kind) == ("wrong", "exception")


def test_a_case_left_unwritten_is_wrong_not_untouched():
    def half(x, r):
        if r == 1:
            return turn(x, 1)
        raise NotImplementedError

    verdict = judge(half)
    assert (verdict.status, verdict.kind) == ("wrong", "unwritten")


def test_not_callable():
    for thing in (3, None, turn(toys.IMAGE, 1), "turn"):
        verdict = judge(thing)
        assert (verdict.status, verdict.kind) == ("wrong", "not callable")
    assert judge(toys.Affine(3), toys.affine_layer).kind == "not callable"


def test_right_in_odd_ways_is_right():
    class Callable:
        def __call__(self, x, r):
            return turn(x, r)

    import functools

    def with_grad(x, r):
        return turn(x, r) * torch.ones((), requires_grad=True)

    def noisy(x, r):
        warnings.warn("careful", stacklevel=1)
        print("debugging", x.shape)
        print("progress", file=sys.stderr)
        np.array([1.0]) / np.array([0.0])
        return turn(x, r)

    def defaults(x, r, *, k=3, **rest):
        return turn(x, r)

    def seeds(x, r):
        torch.manual_seed(7)
        return turn(x, r)

    for answer in (
        Callable(),
        functools.partial(torch.rot90, dims=(-2, -1)),
        with_grad,
        noisy,
        defaults,
        seeds,
    ):
        assert judge(answer).status == "correct"
    assert judge(lambda x, r: x if r == 0 else turn(x, r)).status == "correct"  # an alias of the input


def test_nothing_is_written_to_stderr_and_little_to_stdout(capfd):
    def loud(x, r):
        print("x" * 1000)
        print("y" * 1000, file=sys.stderr)
        return turn(x, r)

    assert judge(loud).status == "correct"
    out, err = capfd.readouterr()
    assert err == ""
    assert 1000 < len(out) < 5000


# -- time --------------------------------------------------------------------------------------------------


def spin(x, r):
    while True:
        pass


def swallow(x, r):
    while True:
        try:
            while True:
                x = x + 1
        except BaseException:
            continue


def sleep(x, r):
    time.sleep(60)


@pytest.mark.parametrize("answer", [spin, swallow, sleep])
def test_endless_code_is_stopped(answer):
    brief = dataclasses.replace(turn_image, seconds=0.1)
    verdict = brief.judge(answer)
    assert (verdict.status, verdict.kind) == ("wrong", "slow")


@pytest.mark.parametrize(
    ("cpu", "elapsed", "up"),
    [(1.5, 1.6, True), (0.8, 30.0, False), (0.8, 60.0, True), (0.01, 5.0, False), (0.01, 6.0, True)],
    ids=["worked", "starved", "starved for too long", "waits", "waits for too long"],
)
def test_work_on_a_crowded_machine_is_no_waiting(cpu, elapsed, up):
    assert guard._time_is_up(cpu, elapsed, seconds=1.5, wall=6.0) is up


@pytest.mark.parametrize("answer", [spin, sleep])
def test_endless_code_is_stopped_in_another_thread_too(answer):
    brief = dataclasses.replace(turn_image, seconds=0.1)
    if answer is sleep:  # Python raises in a thread between two steps, not within a wait
        answer = lambda x, r: [time.sleep(0.05) for _ in range(1200)]  # noqa: E731
    found = []
    thread = threading.Thread(target=lambda: found.append(brief.judge(answer)))
    thread.start()
    thread.join(60)
    assert found[0].kind == "slow"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no alarm signals")
def test_another_alarm_survives():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    timer = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with time_limit(5.0):
            sum(range(1000))
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 900 < left <= 1000
        assert not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(TimeUp), time_limit(0.05):
        spin(0, 0)


# -- the notebook around -----------------------------------------------------------------------------------


def mess():
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    np.random.seed(3)  # noqa: NPY002
    random.seed(5)
    np.seterr(all="raise")
    warnings.simplefilter("error")
    torch.set_default_device("meta")


def state():
    return (
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        repr(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        np.geterr(),
        list(warnings.filters),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_default_device(),
        torch.get_num_threads(),
        sys.stdout,
        sys.stderr,
        signal.getsignal(signal.SIGALRM),
    )


@pytest.fixture
def tidy():
    errors = np.geterr()
    with warnings.catch_warnings():
        yield
    np.seterr(**errors)
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


def careless(x, r):
    """Right, and changes every setting it can find."""
    torch.set_default_dtype(torch.float16)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    np.seterr(all="print")
    warnings.simplefilter("always")
    torch.set_num_threads(torch.get_num_threads() + 1)
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.set_default_device("meta")
    return turn(x, r)


def test_an_answer_runs_on_one_thread():
    """Threads of torch that wait for each other use up processor time, more than an answer has on a busy machine."""
    before, seen = torch.get_num_threads(), set()

    def watched(x, r):
        seen.add(torch.get_num_threads())
        return turn(x, r)

    torch.set_num_threads(3)
    try:
        assert turn_image.judge(watched).status == "correct"
        assert (seen, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("tidy")
def test_verdicts_do_not_depend_on_the_notebook_nor_change_it():
    picked = [(e, c) for e in toys.ALL for c in cases(e) if c.name in ("reference", "noise", "zero map")]
    picked += [(e, c) for e in toys.ALL for c in cases(e) if c.misconception == e.misconceptions[2].id]
    calm = [e.judge(c.answer) for e, c in picked]
    for e in toys.ALL:  # as after a restart
        e._memory.clear()
    mess()
    before = state()
    for (e, c), verdict in zip(picked, calm, strict=True):
        assert e.judge(c.answer) == verdict, f"{e.name} / {c.name}"
    assert turn_image.judge(careless).status == "correct"
    assert state() == before


@pytest.mark.slow  # the setting imports torch's compiler
@pytest.mark.usefixtures("tidy")
def test_deterministic_mode_is_kept_and_does_not_matter():
    torch.use_deterministic_algorithms(True, warn_only=True)
    before = state()
    assert turn_image.judge(turn).status == "correct"
    assert turn_image.judge(toys.clockwise).misconception == "clockwise"
    assert state() == before


@pytest.mark.usefixtures("tidy")
def test_inference_mode_and_autocast_around_do_not_matter():
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert toys.affine_layer.judge(toys.Affine).status == "correct"
        assert turn_image.judge(turn).status == "correct"
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")


def test_replaced_functions_change_nothing_and_stay_replaced(monkeypatch):
    def yes(*args, **kwargs):
        return True

    def zero(*args, **kwargs):
        return 0.0

    wrong = [e.judge(c.answer) for e in toys.ALL for c in cases(e) if c.name.startswith(("misc", "noise"))]
    for owner, name in [
        (torch, "allclose"),
        (torch, "equal"),
        (torch, "isclose"),
        (np, "array_equal"),
        (np, "allclose"),
    ]:
        monkeypatch.setattr(owner, name, yes)
    for owner, name in [
        (np, "absolute"),
        (torch.Tensor, "norm"),
        (torch, "rot90"),
        (torch.Tensor, "__sub__"),
        (np, "abs"),
    ]:
        monkeypatch.setattr(owner, name, zero)
    assert wrong == [
        e.judge(c.answer) for e in toys.ALL for c in cases(e) if c.name.startswith(("misc", "noise"))
    ]
    assert torch.allclose is yes
    assert torch.Tensor.__sub__ is zero


# -- credit ------------------------------------------------------------------------------------------------


def test_parts_earn_their_own_points():
    verdict = toys.tables.judge(toys.table_plus_only)
    assert (verdict.status, verdict.points, verdict.misconception) == ("wrong", 1.0, "table_plus_only")
    assert verdict.parts == (("the sum", 1, 1), ("the difference", 0.0, 2))
    points = toys.tables.grade(toys.table_plus_only)
    assert isinstance(points, Points)
    assert float(repr(points)) == 1.0
    assert toys.tables.judge(toys.table_minus_only).points == 2
    assert repr(toys.tables.grade(toys.table)) == "3.0"
    assert "1 of 3 points" in str(verdict)


def test_no_points_is_one_clean_line():
    def stub(x, r):
        raise NotImplementedError

    with pytest.raises(NoPoints, match="not attempted, 0 of 2 points") as caught:
        turn_image.grade(stub)
    lines = caught.value._render_traceback_()
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert not isinstance(caught.value, AssertionError)
    with pytest.raises(NoPoints, match="You turn clockwise"):
        turn_image.grade(toys.clockwise)


def test_hints_come_in_order_and_by_number(capsys):
    exercise = dataclasses.replace(turn_image, _memory={})
    assert [exercise.hint().number for _ in range(4)] == [1, 2, 3, 3]
    assert exercise.hint(2).text == exercise.hints[1]
    assert exercise.hints[2] in capsys.readouterr().out
    with pytest.raises(ValueError, match="1, 2 and 3"):
        exercise.hint(4)


def test_a_verdict_reads_without_colour_and_without_tags(capsys):
    verdict = turn_image.check(toys.clockwise)
    assert capsys.readouterr().out.strip() == str(verdict)
    html = verdict._repr_html_()
    assert "Wrong" in html
    assert "✗" in html
    assert re.search(r"[^-]color:", html) is None  # the theme's own text colour


# -- exercises that are not well made ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alternatives": (turn,)}, "at least 2 alternatives"),
        ({"misconceptions": turn_image.misconceptions[:5]}, "at least 6 misconceptions"),
        (
            {"misconceptions": turn_image.misconceptions + turn_image.misconceptions[:1]},
            "have the id clockwise",
        ),
        ({"hints": ("one", "two")}, "three hints"),
        ({"hints": "one"}, "hints must be a tuple"),
        ({"checks": ()}, "checks must be"),
        ({"points": 0}, "points must be"),
        ({"name": "no name"}, "identifier"),
        ({"lesson": "symmetry"}, "01_topic"),
        ({"objective": " "}, "objective must say"),
        ({"free": ("colour",)}, "free may name"),
        ({"checks": (worth(1, "half", toys.turns_four_times),)}, "worth 1 in sum, the exercise 2"),
    ],
)
def test_a_malformed_exercise_is_refused_when_it_is_written(change, words):
    with pytest.raises(ExerciseError, match=words):
        dataclasses.replace(turn_image, _memory={}, **change)


def test_a_misconception_needs_a_name_and_a_sentence():
    with pytest.raises(ExerciseError, match="give id="):
        Misconception(lambda x: x, "You do nothing to the input.")
    with pytest.raises(ExerciseError, match="sentence"):
        Misconception(turn, "Wrong.")
    with pytest.raises(ExerciseError, match="worth"):
        worth(0, "nothing", toys.turns_four_times)


def test_a_reference_that_fails_its_checks_is_the_authors_error():
    broken = dataclasses.replace(turn_image, reference=toys.clockwise, _memory={})
    with pytest.raises(ExerciseError, match="the reference does not pass"):
        broken.judge(turn)


def test_exercises_are_listed():
    rows = list_exercises(toys.__name__)
    assert [r["exercise"] for r in rows] == [e.name for e in toys.ALL]
    assert rows[0] == {
        "exercise": "turn_image",
        "lesson": "01_toys",
        "title": "Turn an image",
        "points": 2,
        "alternatives": 2,
        "misconceptions": 6,
        "hints": 3,
        "objective": "move an image by a group element",
    }
    assert exercises_in(toys) == list(toys.ALL)


# -- words for authors -------------------------------------------------------------------------------------


def one_check(check):
    return dataclasses.replace(turn_image, reference=turn, checks=(check,), _memory={})


def test_close_follows_the_dtype_and_never_shows_the_wanted_numbers():
    for dtype, passes, fails in [
        (torch.float64, 1e-12, 1e-8),
        (torch.float32, 1e-6, 1e-2),
        (torch.bfloat16, 1e-3, 0.3),
    ]:
        x = toys.seeded(4, 4).to(dtype)

        def check(ask, x=x):
            close(ask(x, 1), turn(x, 1), "The image is turned")

        exercise = one_check(check)
        assert exercise.judge(lambda x, r, e=passes: turn(x, r) * (1 + e)).status == "correct"
        verdict = exercise.judge(lambda x, r, e=fails: turn(x, r) * (1 + e))
        assert verdict.kind == "property"
        assert not any(f"{v:.4f}" in verdict.message for v in x.flatten().tolist())


def test_a_wanted_zero_allows_rounding_and_a_wrong_number_stays_hidden():
    x = torch.zeros(3, 3, dtype=torch.float64)

    def check(ask):
        close(ask(x, 1), x, "Nothing stays nothing")

    assert one_check(check).judge(lambda x, r: turn(x, r) + 1e-17).status == "correct"
    assert one_check(check).judge(lambda x, r: turn(x, r) + 1e-6).status == "wrong"


def test_an_exercise_without_a_lesson_number_has_no_place():
    assert all(isinstance(e, Exercise) and e.lesson[:2].isdigit() for e in toys.ALL)
