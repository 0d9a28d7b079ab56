"""Kill matrices: every exercise against every answer that must pass and every one that must not.

One line in a test file, ``test_kill = kill_matrix("package.exercises.topic")``, makes a test of each pair:
the reference and the alternatives pass; each misconception earns its own message; an untouched stub is "not
attempted"; and general sabotage (zeros, identity, NaN, numpy, in-place, an endless loop ...) is rejected
with a fitting word. No message may hold a line of the reference's source.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .check.catalogue import exercises_in
from .check.exercise import Exercise
from .check.verdict import Verdict

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One row of the matrix: an answer, the verdict's status it must get, and the kinds that may be named."""

    name: str
    answer: Any
    status: str
    kinds: tuple[str, ...] = ()  # () allows any
    misconception: str | None = None
    seconds: float | None = None


class EqualToAll:
    """Compares equal to everything and claims to be whatever is asked: must never reach a checker."""

    __class__ = torch.Tensor  # type: ignore[assignment]
    shape, dtype, ndim = (), torch.float64, 0

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True

    def __sub__(self, other: object) -> float:
        return 0.0

    __rsub__ = __sub__

    def __abs__(self) -> float:
        return 0.0

    def __float__(self) -> float:
        return 0.0


def distorted(reference: Answer, change: Callable[[Any, tuple[Any, ...]], Any]) -> Answer:
    """An answer that does what the reference does and then changes the result: ``change(value, arguments)``.

    Works for functions, classes, modules, and functions that make functions or modules.
    """
    if isinstance(reference, type):

        @functools.wraps(reference, updated=())
        def made(*args: Any, **kwargs: Any) -> Any:
            return _distort_object(reference(*args, **kwargs), args, change)

        return made

    @functools.wraps(reference)
    def function(*args: Any, **kwargs: Any) -> Any:
        return _distort_object(reference(*args, **kwargs), args, change)

    return function


def _distort_object(value: Any, args: tuple[Any, ...], change: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
    if isinstance(value, torch.nn.Module):
        forward = value.forward
        value.forward = lambda *a, **k: change(forward(*a, **k), a)
        return value
    if callable(value):
        inner = value

        @functools.wraps(inner, updated=())
        def called(*a: Any, **k: Any) -> Any:
            return change(inner(*a, **k), a)

        return called
    return change(value, args)


def _leaves(change: Callable[[Any], Any]) -> Callable[[Any, tuple[Any, ...]], Any]:
    def walk(value: Any, args: tuple[Any, ...] = ()) -> Any:
        if isinstance(value, (list, tuple)):
            return (
                type(value)(walk(v) for v in value)
                if type(value) in (list, tuple)
                else tuple(map(walk, value))
            )
        if isinstance(value, dict):
            return {k: walk(v) for k, v in value.items()}
        return change(value)

    return walk


def _zero(v: Any) -> Any:
    if isinstance(v, torch.Tensor):
        return torch.zeros_like(v)
    if isinstance(v, np.ndarray):
        return np.zeros_like(v)
    return type(v)() if isinstance(v, (bool, int, float, complex, str)) else v


def _nan(v: Any) -> Any:
    if isinstance(v, torch.Tensor) and v.is_floating_point():
        return torch.full_like(v, float("nan"))
    if isinstance(v, np.ndarray) and v.dtype.kind == "f":
        return np.full_like(v, np.nan)
    return float("nan") if type(v) is float else v


def _other_dtype(v: Any) -> Any:
    if isinstance(v, torch.Tensor):
        return v.to(torch.float64 if v.dtype == torch.float32 else torch.float32)
    if isinstance(v, np.ndarray):
        return v.astype(np.float64 if v.dtype == np.float32 else np.float32)
    return v


def _noise(v: Any) -> Any:
    if isinstance(v, torch.Tensor):
        return (
            v + torch.rand(v.shape).to(v.dtype)
            if v.is_floating_point()
            else torch.randint_like(v.long(), 9).to(v.dtype)
        )
    if isinstance(v, np.ndarray):
        return (v + torch.randint(1, 9, v.shape).numpy() * (1 if v.dtype.kind in "iu" else 0.1)).astype(
            v.dtype
        )
    return v + float(torch.rand(())) if type(v) is float else v


def _leaf_values(x: Any) -> Iterator[Any]:
    if isinstance(x, (list, tuple)):
        for v in x:
            yield from _leaf_values(v)
    elif isinstance(x, dict):
        for v in x.values():
            yield from _leaf_values(v)
    else:
        yield x


def _bump(value: Any, args: tuple[Any, ...]) -> Any:
    value = value.clone() if isinstance(value, torch.Tensor) else value  # the result stays right
    for v in _leaf_values(args):
        if isinstance(v, torch.Tensor):
            with torch.no_grad():
                v.logical_not_() if v.dtype == torch.bool else v.add_(1)
        elif isinstance(v, np.ndarray):
            v += 1
    return value


def _raise(value: Any, args: tuple[Any, ...]) -> Any:
    raise ValueError("made to fail")


def _loop(value: Any, args: tuple[Any, ...]) -> Any:
    while True:
        pass


def _identity(value: Any, args: tuple[Any, ...]) -> Any:
    return next(
        (v for v in _leaf_values(args) if isinstance(v, (torch.Tensor, np.ndarray))),
        args[0] if args else None,
    )


def sabotage(exercise: Exercise) -> list[Case]:
    """General wrong answers to an exercise, as far as they apply to what it asks for."""
    log = exercise.rehearse().log
    calls = [o for o in log if "value" in o.reply]
    values = [v for o in calls for v in _leaf_values(o.reply["value"])]
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    arrays = tensors + [v for v in values if isinstance(v, np.ndarray)]
    floating = any(v.is_floating_point() for v in tensors) or any(type(v) is float for v in values)
    given = any(" (" in o.shown for o in log)  # an array among the arguments
    ref, free = exercise.reference, exercise.free
    known = ("misconception",)

    def case(name: str, change: Callable[[Any, tuple[Any, ...]], Any], *kinds: str, **more: Any) -> Case:
        return Case(name, distorted(ref, change), "wrong", (*kinds, *known) if kinds else (), **more)

    def same(value: Any, args: tuple[Any, ...]) -> Any:
        return EqualToAll()

    cases = [
        case("zero map", _leaves(_zero)),
        case("raises", _raise, "exception"),
        case("equal to everything", same, "type", "kind"),
        case("forgotten return", lambda value, args: None, "none", "type", "kind"),
        case("endless loop", _loop, "slow", seconds=0.2),
        Case("ellipsis", distorted(ref, lambda value, args: ...), "not attempted"),
        Case("a number", 3, "wrong", ("not callable",)),
        Case("a tensor", torch.zeros(2), "wrong", ("not callable",)),
    ]
    if given and not isinstance(ref, type):
        cases.append(case("identity", _identity))
    if (
        arrays
        and any(not isinstance(v, torch.Tensor) or v.numel() > 1 for v in arrays)
        and "random" not in free
    ):
        cases.append(case("noise", _leaves(_noise)))
    if floating and "nan" not in free:
        cases.append(case("NaN", _leaves(_nan), "nan"))
    if arrays and not free & {"dtype", "kind"}:
        cases.append(case("other dtype", _leaves(_other_dtype), "dtype"))
    if tensors and "kind" not in free:
        as_array = _leaves(lambda v: v.detach().numpy() if isinstance(v, torch.Tensor) else v)
        as_list = _leaves(lambda v: v.tolist() if isinstance(v, torch.Tensor) else v)
        elsewhere = _leaves(lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v)
        cases.append(case("numpy", as_array, "kind"))
        cases.append(case("list", as_list, "kind"))
        cases.append(case("other device", elsewhere, "device"))
    if given and "inplace" not in free and not isinstance(ref, type):
        cases.append(case("in-place", _bump, "inplace"))
    if inspect.signature(ref).parameters and not isinstance(ref, type):

        def no_arguments() -> None:
            return None

        cases.append(Case("no arguments", no_arguments, "wrong", ("arguments", *known)))
    return cases


def stubs(exercise: Exercise) -> list[Case]:
    """The untouched forms of an answer."""

    @functools.wraps(exercise.reference, updated=())
    def stub(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError()

    def silent(*args: Any, **kwargs: Any) -> Any:
        pass

    class Empty(torch.nn.Module):
        def __init__(self, *args: Any, **kwargs: Any):
            raise NotImplementedError()

    cases = [Case("stub", stub, "not attempted"), Case("empty stub", silent, "not attempted")]
    return (
        [*cases, Case("class stub", Empty, "not attempted")]
        if isinstance(exercise.reference, type)
        else cases
    )


def cases(exercise: Exercise) -> list[Case]:
    """Every row of an exercise's matrix."""
    rows = [Case("reference", exercise.reference, "correct")]
    for i, answer in enumerate(exercise.alternatives):
        rows.append(Case(f"alternative {i + 1}", answer, "correct"))
    for m in exercise.misconceptions:
        rows.append(Case(f"misconception {m.id}", m.answer, "wrong", ("misconception",), m.id))
    return rows + stubs(exercise) + sabotage(exercise)


def kill(exercise: Exercise, case: Case) -> Verdict:
    """Judge one row; AssertionError with what came instead where it is not as it must be."""
    judged = exercise if case.seconds is None else dataclasses.replace(exercise, seconds=case.seconds)
    verdict = judged.judge(case.answer)
    said = f"{exercise.name} / {case.name}: {verdict.status} ({verdict.kind or '-'}): {verdict.message}"
    assert verdict.status == case.status, said
    assert verdict.kind != "unjudged", f"{said} | the check must not fail on this answer: test its form first"
    if case.kinds:
        assert verdict.kind in case.kinds, f"{said} | wanted one of {', '.join(case.kinds)}"
    if case.misconception is not None:
        own = next(m for m in exercise.misconceptions if m.id == case.misconception)
        assert verdict.misconception == own.id, f"{said} | wanted {own.id}; {_why(exercise, own.id)}"
        assert own.message in verdict.message, said
        for other in exercise.misconceptions:
            assert other.id == own.id or other.message not in verdict.message, said
    if case.status == "correct":
        assert verdict.points == exercise.points, said
    assert (verdict.status == "wrong") == bool(verdict.message) or verdict.status == "not attempted", said
    leaked = [line for line in _secrets(exercise, case.answer) if line in verdict.message]
    assert not leaked, f"{said} | shows the reference's {leaked}"
    return verdict


def _why(exercise: Exercise, id: str) -> str:
    """What makes a misconception hard to name: nothing tells it from the reference, or from another one."""
    from .check.compare import alike

    log = exercise.rehearse().log
    own = exercise._replies(next(m for m in exercise.misconceptions if m.id == id))
    if all(alike(a, o.reply) for a, o in zip(own, log, strict=True)):
        return "on the checks' inputs it does what the reference does"
    twins = [
        m.id
        for m in exercise.misconceptions
        if m.id != id and all(alike(a, b) for a, b in zip(exercise._replies(m), own, strict=True))
    ]
    return (
        f"on the checks' inputs it does the same as {', '.join(twins)}"
        if twins
        else "it behaves differently each time"
    )


def _secrets(exercise: Exercise, answer: Any) -> set[str]:
    """Lines of the reference that no message may show, but for those the answer has itself."""
    return _code_lines(exercise.reference) - (_code_lines(answer) if callable(answer) else set())


def _code_lines(x: Any) -> set[str]:
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(x)))
    except (OSError, TypeError):
        return set()
    lines = {line.strip() for line in source.splitlines()[1:]}
    return {line for line in lines if len(line) >= 10 and not line.startswith(("#", '"', "def ", "class "))}


def timings(module: str | ModuleType) -> list[tuple[str, str, float]]:
    """Seconds that each row takes: (exercise, case, seconds), slowest first."""
    rows = [(e.name, c.name, e.judge(c.answer).seconds) for e in exercises_in(module) for c in cases(e)]
    return sorted(rows, key=lambda row: -row[2])


def kill_matrix(module: str | ModuleType) -> Callable[..., None]:
    """A test function for all rows of all exercises of a module: ``test_kill =
    kill_matrix("package.topic")``.

    The seconds of each verdict are recorded as a property of the test (``--junitxml`` shows them), never
    asserted.
    """
    import pytest

    rows = [
        pytest.param(e, c, id=f"{e.name}-{c.name}".replace(" ", "_"))
        for e in exercises_in(module)
        for c in cases(e)
    ]
    if not rows:
        raise ValueError(f"{module} holds no exercise")

    @pytest.mark.parametrize(("exercise", "case"), rows)
    def test(exercise: Exercise, case: Case, record_property: Callable[[str, Any], None]) -> None:
        verdict = kill(exercise, case)
        record_property("seconds", round(verdict.seconds, 3))

    return test


def full_points(answers: Iterable[tuple[Exercise, Answer]]) -> Callable[..., None]:
    """A test function: each of these (exercise, answer), however unusual, is correct and gets every point."""
    import pytest

    @pytest.mark.parametrize(("exercise", "answer"), list(answers), ids=_own_name)
    def test(exercise: Exercise, answer: Answer) -> None:
        verdict = exercise.judge(answer)
        assert verdict.status == "correct", verdict.message
        assert verdict.points == exercise.points

    return test


def no_points(answers: Iterable[tuple[Any, ...]]) -> Callable[..., None]:
    """A test function: each of these (exercise, answer) or (exercise, answer, words) is wrong, gets no points
    and is told why in a sentence, in which the words stand.
    """
    import pytest

    rows = [(exercise, answer, words[0] if words else "") for exercise, answer, *words in answers]

    @pytest.mark.parametrize(("exercise", "answer", "words"), rows, ids=_own_name)
    def test(exercise: Exercise, answer: Answer, words: str) -> None:
        verdict = exercise.judge(answer)
        assert (verdict.status, verdict.points) == ("wrong", 0)
        assert len(verdict.message.split()) > 5
        assert words in verdict.message

    return test


def _own_name(part: Any) -> str:
    return part.__name__ if callable(part) else ""


__all__ = [
    "Case",
    "EqualToAll",
    "cases",
    "distorted",
    "full_points",
    "kill",
    "kill_matrix",
    "no_points",
    "sabotage",
    "stubs",
    "timings",
]
