"""How a lesson goes on where an exercise is still open: with the course's own function, and it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coursekit.check import Exercise


def use(exercise: Exercise, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Return `answer` where it is correct, else the exercise's reference, and print which in one sentence.

    A student who is stuck at one exercise can go on to the next ones; running the cell again takes over the
    own answer as soon as it is correct. The answer is judged anew each time: a function may depend on others
    that the student has changed since, and one judgement takes well under a second.
    """
    verdict = exercise.judge(answer)
    if verdict.status == "correct":
        print(f"From here on the lesson uses your {exercise.name}.")
        return answer
    state = "is not written yet" if verdict.status == "not attempted" else "is not correct yet"
    print(
        f"{exercise.name} {state}, so the cells below use the course's own. "
        "Run this cell again when yours is correct, and they will use yours."
    )
    return exercise.reference
