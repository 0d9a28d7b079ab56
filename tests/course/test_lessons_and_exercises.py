"""Every lesson and its exercises say the same thing: statements, solutions and objectives agree word for word."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

from coursekit.check.catalogue import exercises_in
from coursekit.lesson import read_lesson

LESSONS = {
    source.stem[3:]: read_lesson(source)
    for source in sorted((Path(__file__).parents[2] / "course").glob("[0-9][0-9]_*.py"))
}
EXERCISES = {topic: exercises_in(f"equipath.exercises.{topic}") for topic in LESSONS}
each_exercise = pytest.mark.parametrize(
    ("lesson", "exercise"),
    [(LESSONS[topic], exercise) for topic, exercises in EXERCISES.items() for exercise in exercises],
    ids=lambda part: part.name,
)
each_lesson = pytest.mark.parametrize("topic", LESSONS)


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


@each_exercise
def test_the_notebook_solves_each_exercise_as_the_reference_does(lesson, exercise):
    reference = ast.parse(textwrap.dedent(inspect.getsource(exercise.reference))).body[0]
    assert _solution(lesson, exercise.name) == _bare(reference)


@each_exercise
def test_the_notebook_states_each_exercise_word_for_word(lesson, exercise):
    prose = [cell.source for cell in lesson.notebook.cells if cell.cell_type == "markdown"]
    assert any(exercise.statement in text and f"({exercise.points} point" in text for text in prose)


@each_lesson
def test_every_exercise_is_checked_hinted_and_graded_for_its_points(topic):
    code = [cell for cell in LESSONS[topic].notebook.cells if cell.cell_type == "code"]
    for exercise in EXERCISES[topic]:
        graded = [c for c in code if c.source.endswith(f".grade({exercise.name})")]
        assert [c.metadata["nbgrader"]["points"] for c in graded] == [exercise.points]
        assert any(c.source.endswith(f".check({exercise.name})") for c in code)
        assert any(c.source.endswith(f"{topic}.{exercise.name.upper()}.hint()") for c in code)


@each_lesson
def test_every_objective_is_met_by_an_exercise(topic):
    assert set(LESSONS[topic].objectives) == {exercise.objective for exercise in EXERCISES[topic]}
