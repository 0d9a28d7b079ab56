"""`use` goes on with the student's answer where it is right and with the course's own where it is not."""

import pytest
import torch

from coursekit.check import Exercise, Misconception, close
from coursekit.use import use


def double(x):
    return 2 * x


def check_double(ask):
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    close(ask(x), 2 * x, "Twice the input comes out")


@pytest.fixture
def exercise():
    wrong = [(lambda x, k=k: k * x, f"You multiply by {k} and not by two.") for k in (-2, -1, 0, 1, 3, 4)]
    return Exercise(
        name="double",
        lesson="01_small",
        title="Double",
        points=1,
        objective="Double a number.",
        statement="`x`: tensor. Returns 2x.",
        reference=double,
        alternatives=(lambda x: x + x, lambda x: x * 2.0),
        misconceptions=tuple(Misconception(f, m, id=f"times-{k}") for k, (f, m) in enumerate(wrong)),
        hints=("What is twice?", "Add it to itself.", "x + x"),
        checks=(check_double,),
    )


def test_a_right_answer_is_used(exercise, capsys):
    def own(x):
        return x + x

    assert use(exercise, own) is own
    assert capsys.readouterr().out == "From here on the lesson uses your double.\n"


def test_an_open_or_wrong_answer_is_replaced_and_the_reader_is_told(exercise, capsys):
    def stub(x):
        raise NotImplementedError

    for answer, words in ((stub, "is not written yet"), (lambda x: 3 * x, "is not correct yet")):
        assert use(exercise, answer) is exercise.reference
        said = capsys.readouterr()
        assert words in said.out
        assert "Run this cell again" in said.out
        assert said.err == ""


def test_what_was_wrong_before_is_judged_anew(exercise, capsys):
    factor = 3

    def own(x):
        return factor * x

    assert use(exercise, own) is exercise.reference
    factor = 2
    assert use(exercise, own) is own
