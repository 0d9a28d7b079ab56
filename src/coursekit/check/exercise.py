"""An exercise: what is asked, its solutions, the known mistakes, hints and checks; and how an answer is
judged.

An answer that fails a check is compared, on every input the checks use, with what each known misconception
returns: the same behaviour earns the misconception's message, whatever the code looks like. No match, and
the check's own sentence stands: a true statement about this answer, never a guess.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .codec import Foreign, Ref, clean, decode
from .compare import alike
from .guard import calm, trusted
from .port import Ask, Expected, Finding, InProcess, Outcome, Transport
from .verdict import Hint, NoPoints, Points, Verdict

Check = Callable[[Ask], None]
FREE = frozenset({"kind", "dtype", "shape", "nan", "inplace", "random"})


class ExerciseError(Exception):
    """An exercise that is not well made: for its author, never for a student."""


def wrong(message: str = "", *, id: str | None = None) -> NoReturn:
    """Stop the check: the answer is wrong, and this sentence says why.

    ``id`` names a misconception of the exercise; without a ``message`` its own message is used.
    """
    if not message and id is None:
        raise ExerciseError("wrong() needs a message or a misconception's id")
    raise Finding(message, "property", id)


@dataclass(frozen=True)
class Misconception:
    """A plausible wrong answer and the sentence that a student who gives it, in whatever form, shall read.

    ``id`` is stable and defaults to the function's name.
    """

    answer: Callable[..., Any]
    message: str
    id: str = ""

    def __post_init__(self) -> None:
        if not callable(self.answer):
            raise ExerciseError(
                f"a misconception must be a function or a class, got {type(self.answer).__name__}"
            )
        name = self.id or getattr(self.answer, "__name__", "")
        if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
            raise ExerciseError(f"a misconception needs an id that is a word, got {name!r}: give id=...")
        object.__setattr__(self, "id", name)
        if len(self.message.split()) < 4:
            raise ExerciseError(f"misconception {name}: the message must be a sentence, got {self.message!r}")


@dataclass(frozen=True)
class Worth:
    """A check that earns ``points`` of its own, whatever becomes of the others; made by `worth`."""

    points: float
    what: str
    check: Check

    def __call__(self, ask: Ask) -> None:
        """Run the check."""
        self.check(ask)


def worth(points: float, what: str, check: Check) -> Worth:
    """Give partial credit: this check alone earns ``points``; ``what`` names it to the student (three
    words).
    """
    if not points > 0:
        raise ExerciseError(f"worth() needs points > 0, got {points}")
    return Worth(points, what, check)


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise, written once: for the notebook, the grader, the book and the tests.

    ``reference`` solves it; ``alternatives`` (2 or more) are other right ways; ``misconceptions`` (6 or
    more) are wrong ones with their messages; ``hints`` are three, from a nudge to nearly the answer.
    ``checks`` are functions of an `Ask`, run in order; the first that stops decides. A check wrapped in
    `worth` earns its own points; all other checks must pass before any points are given. ``free`` names
    what the statement leaves open in form: "kind" (tensor, array, number), "dtype", "shape", "nan",
    "inplace", "random". ``seconds`` of processor time are given to an answer. Raises `ExerciseError` where
    a part is missing or malformed.
    """

    name: str
    lesson: str
    title: str
    points: float
    statement: str
    reference: Callable[..., Any]
    alternatives: tuple[Callable[..., Any], ...]
    misconceptions: tuple[Misconception, ...]
    hints: tuple[str, str, str]
    checks: tuple[Check, ...]
    objective: str
    free: frozenset[str] = frozenset()
    seconds: float = 1.5
    _memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("alternatives", "misconceptions", "hints", "checks"):
            value = getattr(self, name)
            if isinstance(value, str) or callable(value):
                raise ExerciseError(
                    f"exercise {self.name}: {name} must be a tuple, got {type(value).__name__}"
                )
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "free", frozenset({self.free} if isinstance(self.free, str) else self.free))
        problems = list(self._problems())
        if problems:
            raise ExerciseError(f"exercise {self.name}: " + "; ".join(problems))

    def _problems(self) -> Any:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            yield f"name must be an identifier, got {self.name!r}"
        if not isinstance(self.lesson, str) or not re.fullmatch(r"\d\d_\w+", self.lesson):
            yield f"lesson must look like '01_topic', got {self.lesson!r}"
        for part in ("title", "statement", "objective"):
            value = getattr(self, part)
            if not isinstance(value, str) or not value.strip():
                yield f"{part} must say something"
        if not isinstance(self.points, (int, float)) or not self.points > 0:
            yield f"points must be a number > 0, got {self.points!r}"
        if not callable(self.reference):
            yield "reference must be a function or a class"
        if len(self.alternatives) < 2:
            yield f"at least 2 alternatives are needed, got {len(self.alternatives)}"
        if any(not callable(a) for a in self.alternatives):
            yield "every alternative must be a function or a class"
        if len(self.misconceptions) < 6:
            yield f"at least 6 misconceptions are needed, got {len(self.misconceptions)}"
        if any(not isinstance(m, Misconception) for m in self.misconceptions):
            yield "every misconception must be a Misconception(answer, message)"
        else:
            ids = [m.id for m in self.misconceptions]
            doubled = sorted({i for i in ids if ids.count(i) > 1})
            if doubled:
                yield f"two misconceptions have the id {', '.join(doubled)}"
            if len({m.message for m in self.misconceptions}) < len(ids):
                yield "two misconceptions have the same message"
        if len(self.hints) != 3 or any(not isinstance(h, str) or not h.strip() for h in self.hints):
            yield f"three hints are needed, got {len(self.hints)}"
        if not self.checks or any(not callable(c) for c in self.checks):
            yield "checks must be functions of an Ask, at least one"
        unknown = self.free - FREE
        if unknown:
            yield f"free may name {', '.join(sorted(FREE))}, got {', '.join(sorted(unknown))}"
        shares = [c.points for c in self.checks if isinstance(c, Worth)]
        if shares and abs(sum(shares) - self.points) > 1e-9:
            yield f"the checks are worth {sum(shares):g} in sum, the exercise {self.points:g}"
        if not self.seconds > 0:
            yield f"seconds must be > 0, got {self.seconds!r}"

    # -- what a notebook calls -----------------------------------------------------------------------------

    def check(self, answer: Any) -> Verdict:
        """Judge an answer (the function or class itself), show the verdict, and return it."""
        verdict = self.judge(answer)
        verdict.show()
        return verdict

    def grade(self, answer: Any) -> Points:
        """Judge an answer in a graded cell: return the points earned, or raise `NoPoints` (one line) when
        there are none.

        nbgrader reads the returned number as partial credit when the call is the cell's last line.
        """
        verdict = self.judge(answer)
        if verdict.points > 0:
            return Points(verdict)
        raise NoPoints(verdict)

    def hint(self, number: int | None = None) -> Hint:
        """Show the next hint, or the ``number``-th (1, 2, 3); after the last, the last again."""
        if number is None:
            number = min(self._memory.get("hint", 0) + 1, len(self.hints))
        if number not in (1, 2, 3):
            raise ValueError(f"there are hints 1, 2 and 3; got {number!r}")
        self._memory["hint"] = number
        hint = Hint(self.title, number, len(self.hints), self.hints[number - 1])
        hint.show()
        return hint

    # -- judging -------------------------------------------------------------------------------------------

    def judge(self, answer: Any = None, *, transport: Transport | None = None) -> Verdict:
        """The verdict on an answer in this process, or behind a ``transport``, without showing it."""
        start = time.monotonic()
        if transport is None:
            transport = InProcess(answer)
        with trusted(), calm(0, sys.stdout, 100_000):
            rehearsal = self.rehearse()
            ask = Ask(transport, expected=rehearsal.expected, free=self.free, seconds=self.seconds)
            try:
                finding = self._unfit(ask.describe())
            except Finding as found:
                finding = found
            parts, first = self._nothing(), True
            if finding is None:
                finding, parts, first = self._run(ask)
            verdict = self._verdict(finding, parts, first, ask, transport)
        object.__setattr__(verdict, "seconds", time.monotonic() - start)
        return verdict

    def _unfit(self, what: dict[str, Any]) -> Finding | None:
        kind = clean(str(what.get("type", "object")), 60)
        if what.get("callable") is not True:
            article = "an" if kind[:1].lower() in "aeiou" else "a"
            return Finding(
                f"This is {article} {kind}, not a function. Hand over the function itself, "
                "without parentheses and "
                "arguments.",
                "not callable",
            )
        if isinstance(self.reference, type) and what.get("module") and not what.get("class"):
            message = f"This is an object of the class {kind}. Hand over the class itself, not yet called."
            return Finding(message, "not callable")
        return None

    def _nothing(self) -> list[tuple[str, float, float]]:
        return [(c.what, 0.0, c.points) for c in self.checks if isinstance(c, Worth)]

    def _run(self, ask: Ask) -> tuple[Finding | None, list[tuple[str, float, float]], bool]:
        """Run the checks: the first finding, the parts earned, and whether nothing had been returned
        before.
        """
        gates = [c for c in self.checks if not isinstance(c, Worth)]
        shares = [c for c in self.checks if isinstance(c, Worth)]
        for gate in gates:
            finding = _attempt(gate, ask)
            if finding is not None:
                return finding, self._nothing(), _nothing_yet(ask)
        first: Finding | None = None
        parts, alone, over = [], False, False
        for share in shares:
            found = Finding("", "slow") if over else _attempt(share, ask)
            if found is not None and first is None:
                first, alone = found, _nothing_yet(ask)
            over = over or (found is not None and found.kind in ("slow", "not attempted", "gone"))
            parts.append((share.what, 0.0 if found else share.points, share.points))
        return first, parts, alone

    def _verdict(
        self, f: Finding | None, parts: list[Any], first: bool, ask: Ask, transport: Transport
    ) -> Verdict:
        def make(status: str, message: str, points: float, kind: str = "", id: str | None = None) -> Verdict:
            shown = tuple(parts) if 0 < points < self.points else ()
            return Verdict(self.name, self.title, status, message, points, self.points, kind, id, shown)

        if f is None:
            return make("correct", "", float(self.points))
        earned = round(sum(got for _, got, _ in parts), 2)
        if f.kind == "not attempted":
            if first or (not earned and f.message != "Not attempted yet."):
                return make(
                    "not attempted", "" if f.message == "Not attempted yet." else f.message, 0.0, f.kind
                )
            shown = f" ({ask.log[-1].shown})" if ask.log and ask.log[-1].shown else ""
            return make("wrong", f"Your code still leaves this case unwritten.{shown}", earned, "unwritten")
        if f.kind in ("slow", "not callable", "malformed", "gone"):
            return make("wrong", f.message, earned, f.kind)
        try:
            known = self.diagnose(transport)
            wavers = known is None and f.kind == "property" and f.id is None and self._wavers(transport, ask)
        except Finding:  # what came back could not be read
            known, wavers = None, False
        if known is not None:
            message = (
                f"{f.message} A likely reason: {known.message}" if f.kind == "exception" else known.message
            )
            return make("wrong", message, earned, "misconception", known.id)
        message = f.message
        if f.id is not None:
            message = message or next((m.message for m in self.misconceptions if m.id == f.id), "")
            if not message:
                raise ExerciseError(f"exercise {self.name}: wrong(id={f.id!r}) names no misconception")
            return make("wrong", message, earned, "misconception", f.id)
        if wavers and "random" not in self.free:
            message = (
                "Called again with the same input, your function gives another result. It must "
                "not depend on random "
                f"numbers or on what it keeps from earlier calls. ({ask.log[-1].shown})"
            )
            return make("wrong", message, earned, "random")
        if f.kind == "property" and ask.log and ask.log[-1].shown:
            message = f"{message} ({ask.log[-1].shown})"
        return make("wrong", message, earned, f.kind)

    # -- rehearsal and diagnosis ---------------------------------------------------------------------------

    def rehearse(self) -> Rehearsal:
        """Run the reference through the checks once; what it was asked and replied is the form that answers
        must have.
        """
        if "rehearsal" not in self._memory:
            with trusted(), calm(0):
                ask = Ask(InProcess(self.reference), free=self.free, seconds=60.0, quiet=True)
                for check in self.checks:
                    finding = _attempt(check, ask)
                    if finding is not None:
                        raise ExerciseError(
                            f"exercise {self.name}: the reference does not pass: {finding.message}"
                        )
                if not ask.log:
                    raise ExerciseError(f"exercise {self.name}: the checks never ask the answer anything")
            try:
                signature = "(" + ", ".join(inspect.signature(self.reference).parameters) + ")"
            except (TypeError, ValueError):
                signature = ""
            expected = Expected({o.key: o.reply for o in ask.log}, signature)
            self._memory["rehearsal"] = Rehearsal(ask.log, expected)
        return self._memory["rehearsal"]

    def diagnose(self, transport: Transport) -> Misconception | None:
        """The misconception whose behaviour this answer shows on every input of the checks, or None."""
        log = self.rehearse().log
        candidates = [(m, self._replies(m)) for m in self.misconceptions]
        candidates = [
            (m, r) for m, r in candidates if any(not alike(a, o.reply) for a, o in zip(r, log, strict=True))
        ]
        # A machine that is slow or shared must not change what is said: the course's answers need a sixth of this at most.
        replay = Replay(transport, 2 * self.seconds)
        for i, outcome in enumerate(log):
            if not candidates:
                return None
            reply = replay(outcome)
            if reply is None:
                return None
            candidates = [(m, r) for m, r in candidates if alike(reply, r[i])]
        return candidates[0][0] if candidates else None

    def _replies(self, m: Misconception) -> list[dict[str, Any]]:
        known = self._memory.setdefault("replies", {})
        if m.id not in known:
            replay = Replay(InProcess(m.answer), 3 * self.seconds)
            known[m.id] = [replay(o) or {"error": "slow"} for o in self.rehearse().log]
        return known[m.id]

    def _wavers(self, transport: Transport, ask: Ask) -> bool:
        """Whether the last request, sent again under another random seed and after other calls, gets
        another reply.
        """
        last = ask.log[-1] if ask.log else None
        if last is None or "error" in last.reply:
            return False
        message = decode(last.request)
        if message["op"] != "call" or message["target"] != 0 or _holds_handle(message["args"]):
            return False
        replay = Replay(transport, self.seconds)
        reply = replay(last, seed=1)
        return reply is not None and reply.get("error") != "slow" and not alike(reply, last.reply)


@dataclass(frozen=True)
class Rehearsal:
    """The reference's run through the checks: every request with its reply, and the form expected of
    answers.
    """

    log: list[Outcome]
    expected: Expected


class Replay:
    """Puts recorded requests to another answer and returns its replies, or None when the time is over."""

    def __init__(self, transport: Transport, seconds: float):
        self._ask = Ask(transport, seconds=seconds, quiet=True)
        self._ask._send({"op": "reset", "target": 0}, log=False)

    def __call__(self, outcome: Outcome, seed: int = 0) -> dict[str, Any] | None:
        """Ask what was asked then."""
        if self._ask._left <= 0:
            return None
        self._ask._seed = seed
        return self._ask._resend(outcome)


def _holds_handle(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(_holds_handle(v) for v in x)
    return (isinstance(x, Ref) and x.kind == "object") or isinstance(x, Foreign)


def _attempt(check: Check, ask: Ask) -> Finding | None:
    """Run one check; what it finds, or None. A check that fails on an odd result says that, and does not
    raise.
    """
    try:
        check(ask)
    except Finding as finding:
        return finding
    except ExerciseError:
        raise
    except Exception as error:
        shown = f" ({ask.log[-1].shown})" if ask.log and ask.log[-1].shown else ""
        words = " ".join(str(error).split())[:200]
        return Finding(
            f"Your result cannot be worked with further ({type(error).__name__}: {words}).{shown}", "unjudged"
        )
    return None


def _nothing_yet(ask: Ask) -> bool:
    """Whether no call before the last one returned anything (making an object is not yet an answer)."""
    return not any(o.op in ("call", "gradient") and "error" not in o.reply for o in ask.log[:-1])
