"""The same exercise gives the same verdict whether the answer lives here or behind a pipe in another
process.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coursekit.check import PipeTransport
from coursekit.testing import Case, cases

from . import toys

HERE = Path(__file__).parent
PICKED = {
    "zero map",
    "raises",
    "equal to everything",
    "forgotten return",
    "numpy",
    "NaN",
    "in-place",
    "stub",
    "ellipsis",
}
PICKED |= {"other dtype", "other device", "reference", "a number", "no arguments", "list"}


def rows(exercise):
    """The rows of the matrix that this test sends to the other process, in an order both sides know."""
    return [
        c for c in cases(exercise) if c.name in PICKED or c.name.startswith(("alternative", "misconception"))
    ]


CHILD = """
import sys
sys.path.insert(0, {place!r})
from check import toys
from check.test_process import rows
from coursekit.check.pipe import serve
print("noise on stdout must not disturb the messages")
for exercise, case, (reader, writer) in zip(*zip(*((e, c) for e in toys.ALL for c in rows(e))), {pipes!r}):
    serve(case.answer, reader, writer)
"""


@pytest.fixture(scope="module")
def elsewhere():
    """One process that serves every answer in turn, each on its own two pipes."""
    wanted = [(e, c) for e in toys.ALL for c in rows(e)]
    mine, theirs = [], []
    for _ in wanted:
        (a, b), (c, d) = os.pipe(), os.pipe()
        mine.append((c, b))
        theirs.append((a, d))
    fds = [fd for pair in theirs for fd in pair]
    code = CHILD.format(place=str(HERE.parent), pipes=theirs)
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=fds, stdout=subprocess.DEVNULL)
    for fd in fds:
        os.close(fd)
    transports = [PipeTransport(*pair, patience=60.0) for pair in mine]
    yield list(zip(wanted, transports, strict=True))
    child.kill()
    child.wait()


@pytest.mark.slow
def test_same_verdicts_from_another_process(elsewhere):
    seen = set()
    for (exercise, case), transport in elsewhere:
        there = exercise.judge(transport=transport)
        transport.close()
        assert there == exercise.judge(case.answer), f"{exercise.name} / {case.name}"
        seen.add((there.status, there.kind))
    assert {("correct", ""), ("not attempted", "not attempted"), ("wrong", "misconception")} <= seen
    assert {k for _, k in seen} >= {
        "exception",
        "kind",
        "nan",
        "inplace",
        "dtype",
        "device",
        "type",
        "arguments",
    }


def start(code):
    (a, b), (c, d) = os.pipe(), os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code, str(a), str(d)], pass_fds=(a, d))
    os.close(a)
    os.close(d)
    return child, (c, b)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import os; os._exit(3)", "gone"),
        ("import sys, time; time.sleep(60)", "slow"),
        ("import sys, os; os.read(int(sys.argv[1]), 10); os.write(int(sys.argv[2]), b'\\xff' * 100)", "gone"),
        (
            "import sys, os; os.read(int(sys.argv[1]), 10); os.write(int(sys.argv[2]), b'\\0\\0\\0\\3Rxy')",
            "malformed",
        ),
        (
            "import sys, os, struct\nwhile True:\n os.read(int(sys.argv[1]), 99999)\n"
            " os.write(int(sys.argv[2]), struct.pack('>I', 5) + b'Ceval')",
            "slow",
        ),
    ],
)
def test_whatever_the_other_process_does_there_is_a_verdict(code, kind):
    child, (reader, writer) = start(code)
    try:
        begun = time.monotonic()
        verdict = toys.turn_image.judge(transport=PipeTransport(reader, writer, patience=2.0))
        assert verdict.status == "wrong"
        assert verdict.points == 0
        assert verdict.kind == kind
        assert time.monotonic() - begun < 60
    finally:
        child.kill()
        child.wait()
        os.close(reader)
        os.close(writer)


def test_cases_are_the_same_on_both_sides():
    assert all(isinstance(c, Case) for e in toys.ALL for c in rows(e))
    assert sum(len(rows(e)) for e in toys.ALL) > 80
