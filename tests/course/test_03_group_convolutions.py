"""Lesson 3 and its exercises say the same thing: statements, solutions and objectives agree word for word."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

from coursekit.check.catalogue import exercises_in
from coursekit.lesson import read_lesson
from equipath.exercises import group_convolutions

SOURCE = Path(__file__).parents[2] / "course" / "03_group_convolutions.py"
EXERCISES = exercises_in(group_convolutions)


@pytest.fixture(scope="module")
def lesson():
    return read_lesson(SOURCE)


def _solution(lesson, name):
    """The function that a solution cell of the notebook defines, as a syntax tree without its docstring."""
    for cell in lesson.notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution") and f"def {name}(" in cell.source:
            return _bare(ast.parse(cell.source).body[0])
    raise AssertionError(f"the lesson has no solution cell for {name}")


def _bare(function):
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    names = [argument.arg for argument in function.args.args]
    return names, [ast.dump(node) for node in body]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_notebook_solves_each_exercise_as_the_reference_does(lesson, exercise):
    reference = ast.parse(textwrap.dedent(inspect.getsource(exercise.reference))).body[0]
    assert _solution(lesson, exercise.name) == _bare(reference)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_notebook_states_each_exercise_word_for_word(lesson, exercise):
    prose = [cell.source for cell in lesson.notebook.cells if cell.cell_type == "markdown"]
    assert any(exercise.statement in text and f"({exercise.points} point" in text for text in prose)


def test_every_exercise_is_checked_hinted_and_graded_for_its_points(lesson):
    code = [cell for cell in lesson.notebook.cells if cell.cell_type == "code"]
    for exercise in EXERCISES:
        graded = [c for c in code if c.source.endswith(f".grade({exercise.name})")]
        assert [c.metadata["nbgrader"]["points"] for c in graded] == [exercise.points]
        assert any(c.source.endswith(f".check({exercise.name})") for c in code)
        assert any(c.source.endswith(f"group_convolutions.{exercise.name.upper()}.hint()") for c in code)


def test_every_objective_is_met_by_an_exercise(lesson):
    assert set(lesson.objectives) == {exercise.objective for exercise in EXERCISES}
