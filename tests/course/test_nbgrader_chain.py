"""The round of an instructor with plain nbgrader, as `course/instructors.md` tells it, for a class of three.

Every command of the guide is run as it stands there, in a copy of the course, with the small lesson; for the
others the exchange is left out, which does not depend on the lesson. Alice hands in
all solutions, Bob about half of them, Carol none. The scores are read from the gradebook. Written answers get
their points from a person, as in nbgrader's formgrader, at the end.

To save time all three delete the cells of a large lesson that only show something. The untouched notebook is
run whole in `tests/browser`, the solved one by `make course`. Bob sits in the small and in the first lesson only:
what he shows, that half an answer counts half, does not depend on the lesson either.
"""

import csv
import dis
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from coursekit.lesson import (
    Lesson,
    insert_solutions,
    is_answer,
    is_graded,
    notebook_text,
    read_lesson,
    solution_notebook,
    student_notebook,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "course"
SMALL = ROOT / "tests" / "coursekit" / "small_course" / "course" / "01_small.py"
LESSONS = [SMALL, *sorted(COURSE.glob("[0-9][0-9]_*.py"))]

EXPORT = "nbgrader export --to ../build/classroom/grades.csv"


def blocks(name: str) -> list[str]:
    """The shell blocks of the guide, for a lesson of this name."""
    text = (COURSE / "instructors.md").read_text(encoding="utf-8")
    return [block.replace("01_symmetry", name) for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


class Round:
    """A copy of the course with one lesson, and a shell in it."""

    def __init__(self, folder: Path, source: Path):
        self.root = folder / "repository"
        (self.root / "course").mkdir(parents=True)
        (self.root / "pyproject.toml").touch()
        (self.root / ".venv" / "bin").mkdir(parents=True)
        (self.root / ".venv" / "bin" / "activate").touch()  # the environment is active already
        for file in (source, COURSE / "nbgrader_config.py", COURSE / "instructors.md"):
            shutil.copy(file, self.root / "course")
        home = folder / "home"
        home.mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("COURSEKIT", "JUPYTER"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }
        self.log: list[str] = []

    def run(self, block: str) -> None:
        """Runs a block of the guide; fails with what it said where a command fails."""
        ran = subprocess.run(
            ["bash", "-euc", block],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.log.append(ran.stdout + ran.stderr)
        assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"


def partly_solved(lesson: Lesson) -> tuple[nbformat.NotebookNode, float]:
    """The notebook with every other exercise solved, and the points that it is worth.

    An exercise is a graded cell with the answer cells since the last graded cell. Later exercises may build
    on earlier answers, so those of the first half are solved: they stand on their own.
    """
    groups: list[tuple[list[str], float]] = []
    answers: list[str] = []
    for cell in lesson.notebook.cells:
        if is_answer(cell):
            answers.append(cell.id)
        elif is_graded(cell):
            groups.append((answers, cell.metadata.nbgrader.points))
            answers = []
    solved = groups[: (len(groups) + 1) // 2]
    names = {name for group, _ in solved for name in group}
    return insert_solutions(lesson, names), sum(points for _, points in solved)


def names_of(source: str) -> tuple[set[str], set[str]]:
    """(read, made): the global names that a cell needs, and those that it makes."""
    codes = [compile(TransformerManager().transform_cell(source), "cell", "exec")]
    read: set[str] = set()
    made: set[str] = set()
    for code in codes:
        codes += [part for part in code.co_consts if hasattr(part, "co_code")]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                read.add(step.argval)
            elif step.opname in ("STORE_NAME", "STORE_GLOBAL"):
                made.add(step.argval)
    return read, made


def without_shows(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the code cells that neither nbgrader nor any cell that stays has need of."""
    needed: set[str] = set()
    kept = []
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code":
            read, made = names_of(cell.source)
            if "nbgrader" not in cell.metadata and not made & needed:
                continue
            needed |= read
        kept.append(cell)
    return nbformat.from_dict({**notebook, "cells": kept[::-1]})


@pytest.mark.parametrize("source", LESSONS, ids=lambda path: path.stem)
def test_a_round(source, tmp_path, subtests):
    """One test a lesson: a fixture would be made twice where its tests fall to two workers."""
    round_, lesson, worth = whole_round(source, tmp_path)
    for part in PARTS:
        with subtests.test(part.__name__):
            part(round_, lesson, worth)


def whole_round(source: Path, folder: Path) -> tuple[Round, Lesson, float]:
    """A whole round on one lesson: (round, lesson, points that Bob's notebook is worth)."""
    lesson = read_lesson(source)
    round_ = Round(folder / "round", source)
    activate, prepare, release, hand_in, collect, by_hand, grade, feedback = blocks(lesson.name)
    full, (half, worth), none = solution_notebook(lesson), partly_solved(lesson), student_notebook(lesson)
    if source != SMALL:  # `make course` runs the large lessons; here the small one shows the command
        assert f"coursekit run {lesson.name}\n" in prepare
        prepare = prepare.replace(f"coursekit run {lesson.name}\n", "")
        full, half, none = without_shows(full), without_shows(half), without_shows(none)
        if written(lesson):  # the scores are exported once a person has given points too
            assert EXPORT in grade
            grade = grade.replace(EXPORT, "")
        assert len(none.cells) < len(student_notebook(lesson).cells)
    handed_in = {"alice": full, "bob": half, "carol": none}
    handed_in = {name: handed_in[name] for name in class_of(lesson)}
    for block in (activate, prepare):
        round_.run(block)
    by_mail = {"bob", "carol"} if exchanged(lesson) else set(handed_in)
    if exchanged(lesson):
        round_.run(release)
        (fetch, submit) = hand_in.strip().rsplit("\n", 1)
        for name in sorted(handed_in.keys() - by_mail):
            round_.run(fetch.replace("alice", name))
            fetched = round_.root / "work" / name / lesson.name / f"{lesson.name}.ipynb"
            assert fetched.read_bytes() == notebook_text(student_notebook(lesson)).encode()
            fetched.write_text(notebook_text(handed_in[name]), encoding="utf-8")
            round_.run(f"cd work/{name}\n{submit}".replace("alice", name))
        round_.run(collect)
    for name in sorted(by_mail):
        (round_.root / f"{name}.ipynb").write_text(notebook_text(handed_in[name]), encoding="utf-8")
        round_.run(by_hand.replace("carol", name))
    round_.run(grade)
    if exchanged(lesson):
        round_.run(feedback)
    return round_, lesson, worth


def exchanged(lesson: Lesson) -> bool:
    """Whether this round goes through nbgrader's exchange folder."""
    return lesson.path == SMALL


def class_of(lesson: Lesson) -> list[str]:
    """Who hands this lesson in."""
    everyone = ["alice", "bob", "carol"]
    return everyone if lesson.path in LESSONS[:2] else ["alice", "carol"]


def gradebook_scores(round_: Round, lesson: Lesson) -> dict[str, tuple[float, float]]:
    """(points, most points) of every student, from the gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{round_.root}/build/classroom/gradebook.db") as gradebook:
        return {s.student_id: (s.score, s.max_score) for s in gradebook.assignment_submissions(lesson.name)}


def written(lesson: Lesson) -> dict[str, float]:
    """The cells that a person grades, with their points."""
    cells = [cell for cell in lesson.notebook.cells if is_answer(cell) and is_graded(cell)]
    return {cell.id: cell.metadata.nbgrader.points for cell in cells}


def exported_scores(round_: Round) -> dict[str, float]:
    """Points of every student, as `nbgrader export` writes them."""
    with open(round_.root / "build" / "classroom" / "grades.csv", newline="") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def scores_are_exact(round_: Round, lesson: Lesson, worth: float) -> None:
    most, automatic = lesson.points, lesson.points - sum(written(lesson).values())
    assert 0 < worth < automatic
    points = {"alice": automatic, "bob": worth, "carol": 0.0}
    points = {name: points[name] for name in class_of(lesson)}
    assert gradebook_scores(round_, lesson) == {name: (score, most) for name, score in points.items()}
    if lesson.path == SMALL or not written(lesson):
        assert exported_scores(round_) == points


def student_version_is_what_nbgrader_generates(round_: Round, lesson: Lesson, worth: float) -> None:
    released = round_.root / "build" / "classroom" / "release" / lesson.name / f"{lesson.name}.ipynb"
    assert released.read_bytes() == notebook_text(student_notebook(lesson)).encode()
    assert released.read_bytes() == (round_.root / "build" / "student" / released.name).read_bytes()
    # Nothing else reached the release: a lesson's source would carry the solutions.
    assert [p.name for p in released.parent.iterdir()] == [released.name]


def everyone_gets_feedback(round_: Round, lesson: Lesson, worth: float) -> None:
    for name in class_of(lesson):
        page = round_.root / "build" / "classroom" / "feedback" / name / lesson.name / f"{lesson.name}.html"
        assert page.stat().st_size > 1000
    if exchanged(lesson):
        assert list((round_.root / "work" / "alice" / lesson.name).glob("feedback/*/*.html"))


def the_course_folder_stays_clean(round_: Round, lesson: Lesson, worth: float) -> None:
    inside = {p.name for p in (round_.root / "course").iterdir()}
    assert inside == {f"{lesson.name}.py", "nbgrader_config.py", "instructors.md"}


def stderr_costs_no_points_and_partial_credit_counts(round_: Round, lesson: Lesson, worth: float) -> None:
    if lesson.path != SMALL:
        return  # the small lesson is the one whose answers are written here
    notebook = student_notebook(lesson)
    cells = {cell.id: cell for cell in notebook.cells}
    cells[
        "half"
    ].source = "def half(x):\n    import sys\n    print('a warning', file=sys.stderr)\n    return x / 2"
    cells[
        "order"
    ].source = "def order(name):\n    return 4"  # right for p4, wrong for the hidden p4m: half of 3 points
    folder = round_.root / "build" / "classroom" / "submitted" / "dora" / lesson.name
    folder.mkdir(parents=True)
    (folder / f"{lesson.name}.ipynb").write_text(notebook_text(notebook), encoding="utf-8")
    round_.run(f"cd course\nnbgrader autograde {lesson.name} --student dora")
    assert gradebook_scores(round_, lesson)["dora"] == (2 + 1.5, 5.0)


def written_answers_wait_for_a_person_whose_points_count(round_: Round, lesson: Lesson, worth: float) -> None:
    from nbgrader.api import Gradebook

    questions = written(lesson)
    if not questions:
        return
    with Gradebook(f"sqlite:///{round_.root}/build/classroom/gradebook.db") as gradebook:
        waiting = {
            (name, cell)
            for name in class_of(lesson)
            for cell in questions
            if gradebook.find_grade(cell, lesson.name, lesson.name, name).needs_manual_grade
        }
        # Alice wrote answers; the others left these cells as they were, so nobody has to read them.
        assert waiting == {("alice", cell) for cell in questions}
        for cell, points in questions.items():
            grade = gradebook.find_grade(cell, lesson.name, lesson.name, "alice")
            grade.manual_score, grade.needs_manual_grade = points - 0.5, False
        gradebook.db.commit()
    round_.run(f"cd course\n{EXPORT}")
    by_hand = {"alice": lesson.points - 0.5 * len(questions), "bob": worth, "carol": 0.0}
    assert exported_scores(round_) == {name: by_hand[name] for name in class_of(lesson)}


PARTS = (
    scores_are_exact,
    student_version_is_what_nbgrader_generates,
    everyone_gets_feedback,
    the_course_folder_stays_clean,
    stderr_costs_no_points_and_partial_credit_counts,
    written_answers_wait_for_a_person_whose_points_count,
)
