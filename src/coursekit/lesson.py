"""From one lesson source to its notebooks: what does each reader of a lesson get to see?

A lesson is `course/NN_topic.py` (jupytext py:percent, nbgrader metadata in the cell headers). This file reads
it, refuses what is malformed with file, line and remedy, and makes the instructor notebook (nbgrader's
source), the student notebook (made by nbgrader's own `generate_assignment` preprocessors, so that both agree
byte for byte), the solution notebook and the book page. Everything is a function of the source text: two
builds give the same bytes.
"""

from __future__ import annotations

import ast
import difflib
import errno
import hashlib
import html
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from jupytext.stringparser import StringParser
from nbformat import NotebookNode

__all__ = [
    "Lesson",
    "LessonError",
    "Placed",
    "book_page",
    "build",
    "course_folder",
    "find_leaks",
    "insert_solutions",
    "link_terms",
    "notebook_text",
    "place_student_notebooks",
    "read_lesson",
    "read_lessons",
    "solution_notebook",
    "student_notebook",
    "unmet_objectives",
    "write_if_changed",
]

LESSON_NAME = re.compile(r"^\d\d_[a-z0-9_]+$")
GRADE_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
MARKER = re.compile(r"^\s*#\s*(%%|<codecell>|In\[[0-9 ]*\]:?)(\s|%|$)")
MAX_RUN_MINUTES = 3  # a lesson with its solutions runs from the first cell to the last in at most this time

# nbgrader's own words; its defaults are left as they are, so plain nbgrader reads the same regions.
REGIONS = {
    "SOLUTION": "solution",
    "HIDDEN TESTS": "grade",
    "MARK SCHEME": "task",
}
STUB = "raise NotImplementedError()"

LESSON_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "title": (str, "a short text"),
    "minutes": ((int, float), "the student's working time in minutes"),
    "run_minutes": ((int, float), f"the longest that the solved lesson may run, at most {MAX_RUN_MINUTES}"),
    "ram_mb": ((int, float), "the peak memory in megabytes"),
    "download_mb": ((int, float), "what has to be fetched first in megabytes, 0 for nothing"),
    "objectives": (list, "a list of sentences"),
}
NBGRADER_KEYS = {
    "grade_id",
    "grade",
    "points",
    "solution",
    "locked",
    "task",
    "schema_version",
    "cell_type",
    "checksum",
}
# Written by jupytext about the layout of the text file; no part of the lesson.
LAYOUT_KEYS = {"lines_to_next_cell", "lines_to_end_of_cell_marker", "endofcell"}
CELL_KEYS = {"nbgrader", "tags"}
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class LessonError(Exception):
    """A lesson source that cannot be built; `problems` holds one sentence each, as `file:line: what, and what
    to do`.
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Lesson:
    """One lesson as its source declares it; `notebook` is the instructor version (solutions and hidden tests
    inside).
    """

    name: str
    path: Path
    title: str
    minutes: float
    run_minutes: float
    ram_mb: float
    download_mb: float
    objectives: tuple[str, ...]
    notebook: NotebookNode = field(repr=False)
    lines: dict[str, int] = field(repr=False)  # cell id -> line of its header in the source

    @property
    def points(self) -> float:
        """The most points that a submission can earn."""
        return float(sum(cell.metadata.nbgrader.points for cell in self.notebook.cells if is_graded(cell)))

    def where(self, cell_id: str) -> str:
        """`file:line` of a cell, as editors and terminals open it."""
        return f"{self.path}:{self.lines.get(cell_id, 1)}"


def nbgrader_of(cell: NotebookNode) -> dict[str, Any]:
    """The nbgrader metadata of a cell, empty where it has none."""
    return cell.metadata.get("nbgrader", {})


def is_graded(cell: NotebookNode) -> bool:
    """Does this cell carry points?"""
    meta = nbgrader_of(cell)
    return bool(meta.get("grade") or meta.get("task"))


def is_answer(cell: NotebookNode) -> bool:
    """Does a student write in this cell?"""
    return bool(nbgrader_of(cell).get("solution"))


# ---------------------------------------------------------------------- reading


def course_folder(start: Path | None = None) -> Path:
    """The `course` folder of the repository around `start` (default: here), else of the one that coursekit is
    installed from.

    Raises FileNotFoundError where neither holds one.
    """
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "course").is_dir() and (folder / "pyproject.toml").is_file():
            return folder / "course"
    raise FileNotFoundError(
        f"no course found from {here} upwards: run this inside a clone of the repository, or name "
        "the folder with --course"
    )


def read_lessons(course: Path, names: Collection[str] = ()) -> list[Lesson]:
    """All lessons of a course folder in the order of the syllabus, or the named ones (`01_symmetry`, `01` or
    a path).

    Raises LessonError with the problems of all lessons together.
    """
    course = Path(course)
    paths = sorted(p for p in course.glob("[0-9][0-9]_*.py"))
    if names:
        chosen: list[Path] = []
        for name in names:
            stem = Path(name).stem
            found = [p for p in paths if p.stem == stem] or [p for p in paths if p.stem.split("_")[0] == stem]
            if not found:
                known = ", ".join(p.stem for p in paths) or "none yet"
                raise LessonError([f"{course}: there is no lesson {name!r}; the lessons are: {known}"])
            chosen += [p for p in found if p not in chosen]
        paths = sorted(chosen)
    if not paths:
        raise LessonError(
            [f"{course}: no lessons found; a lesson is a file like 01_symmetry.py in this folder"]
        )
    lessons, problems = [], []
    for path in paths:
        try:
            lessons.append(read_lesson(path))
        except LessonError as error:
            problems += error.problems
    if problems:
        raise LessonError(problems)
    return lessons


def read_lesson(path: Path) -> Lesson:
    """Reads one lesson source and checks everything that can be checked without running it.

    Raises LessonError listing every problem as `file:line: sentence`.
    """
    path = Path(path)
    problems: list[str] = []

    def wrong(line: int, sentence: str) -> None:
        problems.append(f"{path}:{line}: {sentence}")

    if not LESSON_NAME.match(path.stem):
        wrong(1, f"the file is named {path.name}; name it with two digits and a topic, like 01_symmetry.py")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LessonError(
            [f"{path}:1: the file is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"]
        ) from None
    except OSError as error:
        raise LessonError([f"{path}:1: cannot be read: {error.strerror}"]) from None
    try:
        notebook = jupytext.reads(text, fmt="py:percent")
    except yaml.YAMLError as error:
        sentence = " ".join(str(error).split())
        raise LessonError(
            [f"{path}:1: the header between the two '# ---' lines is not readable YAML: {sentence}"]
        ) from None
    except nbformat.ValidationError as error:
        sentence = " ".join(str(error).split())
        odd = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"# %%.*\btags=(?!\[)", line)]
        raise LessonError(
            [f'{path}:{n}: tags must be a list of texts, like tags=["hide-input"]' for n in odd]
            or [f"{path}:1: not a notebook: {sentence}"]
        ) from None

    header_end, starts = cell_starts(text)
    first = starts[0] if starts else len(text.splitlines()) + 1
    for number, line in enumerate(text.splitlines()[header_end : first - 1], start=header_end + 1):
        if line.strip():
            wrong(number, "text outside a cell; put a line '# %%' (code) or '# %% [markdown]' above it")
            break
    if problems:  # what jupytext read from stray text cannot be matched with the markers
        raise LessonError(problems)
    if not starts:
        raise LessonError(
            [f"{path}:1: the lesson has no cells; a cell starts with '# %%' or '# %% [markdown]'"]
        )
    if len(starts) != len(notebook.cells):
        raise LessonError(
            [
                f"{path}:{first}: {len(starts)} cell markers but {len(notebook.cells)} cells; is "
                "a '# %%' inside a string?"
            ]
        )

    about = check_header(notebook.metadata, wrong)
    seen: dict[str, int] = {}
    for cell, start in zip(notebook.cells, starts, strict=True):
        check_cell(cell, start, seen, wrong)
    if problems:
        raise LessonError(problems)

    lines = dict(zip(assign_ids(notebook.cells), starts, strict=True))
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return Lesson(
        name=path.stem,
        path=path,
        title=about["title"],
        minutes=about["minutes"],
        run_minutes=about["run_minutes"],
        ram_mb=about["ram_mb"],
        download_mb=about["download_mb"],
        objectives=tuple(str(o) for o in about["objectives"]),
        notebook=notebook,
        lines=lines,
    )


def cell_starts(text: str) -> tuple[int, list[int]]:
    """Number of header lines, and the line (from 1) of every cell marker; markers inside strings do not
    count.
    """
    lines = text.splitlines()
    header = 0
    if lines and lines[0].strip() == "# ---":
        header = next((i + 1 for i, line in enumerate(lines[1:], start=1) if line.strip() == "# ---"), 0)
    starts: list[int] = []
    parser = StringParser("python")
    for number, line in enumerate(lines[header:], start=header + 1):
        if not parser.is_quoted() and MARKER.match(line):
            starts.append(number)
            parser = StringParser("python")
            continue
        parser.read_line(line)
    return header, starts


def check_header(metadata: NotebookNode, wrong: Callable[[int, str], None]) -> dict[str, Any]:
    """The `coursekit` section of the header, each key checked."""
    about = metadata.get("coursekit")
    if not isinstance(about, dict):
        wrong(
            1,
            "the header has no 'coursekit' section under 'jupyter'; give it the keys "
            f"{', '.join(LESSON_KEYS)}",
        )
        return {}
    for key in about:
        if key not in LESSON_KEYS:
            wrong(1, f"unknown key {key!r} in the header's 'coursekit' section{suggest(key, LESSON_KEYS)}")
    for key, (kind, meaning) in LESSON_KEYS.items():
        value = about.get(key)
        if key not in about:
            wrong(1, f"the header's 'coursekit' section lacks {key!r}: {meaning}")
        elif not isinstance(value, kind) or isinstance(value, bool):
            wrong(1, f"{key!r} in the header is {value!r}; it must be {meaning}")
        elif isinstance(value, int | float) and (value < 0 or (value == 0 and key != "download_mb")):
            wrong(1, f"{key!r} in the header is {value}; it must be {meaning}, and positive")
    run_minutes = about.get("run_minutes")
    if isinstance(run_minutes, int | float) and run_minutes > MAX_RUN_MINUTES:
        wrong(
            1,
            f"'run_minutes' is {run_minutes}; a lesson may run for {MAX_RUN_MINUTES} minutes: "
            "train less, or ship weights",
        )
    objectives = about.get("objectives")
    if isinstance(objectives, list) and not (
        objectives and all(isinstance(o, str) and o.strip() for o in objectives)
    ):
        wrong(1, "'objectives' in the header must be a list of at least one sentence")
    if isinstance(about.get("title"), str) and not about["title"].strip():
        wrong(1, "'title' in the header is empty; give the lesson a title")
    for key in metadata:
        if key not in {"coursekit", "jupytext", "kernelspec"}:
            wrong(
                1, f"unknown section {key!r} in the header; it holds 'coursekit', 'jupytext' and 'kernelspec'"
            )
    kernel = metadata.get("kernelspec", {}).get("name", "python3")
    if kernel != "python3":
        wrong(1, f"the header asks for the kernel {kernel!r}; lessons run on 'python3'")
    return about


def suggest(key: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known word is near, else the known words."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def check_cell(
    cell: NotebookNode, line: int, seen: dict[str, int], wrong: Callable[[int, str], None]
) -> None:
    """Checks one cell and completes its nbgrader metadata in place."""
    for key in LAYOUT_KEYS & set(cell.metadata):
        del cell.metadata[key]
    broken = cell.metadata.get("incorrectly_encoded_metadata")
    if broken:
        wrong(
            line,
            f"the cell header {broken!r} is not key=JSON; write true, false and double quotes, "
            "and close the braces",
        )
        return
    for key in sorted(set(cell.metadata) - CELL_KEYS):
        if key == "title":
            wrong(
                line,
                f"text {cell.metadata.title!r} in the cell header; put it into the cell, or write key=JSON",
            )
        else:
            wrong(line, f"unknown metadata {key!r} in the cell header{suggest(key, CELL_KEYS)}")
    tags = cell.metadata.get("tags", [])
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        wrong(line, f'tags={tags!r} in the cell header; write a list of texts, like tags=["hide-input"]')
        return
    meta = cell.metadata.get("nbgrader")
    if meta is not None and not isinstance(meta, dict):
        wrong(line, f'nbgrader={meta!r} in the cell header; write nbgrader={{"grade_id": ..., ...}}')
        return
    if meta is not None:
        complete_nbgrader(cell, meta, line, seen, wrong)
    for sentence, offset in region_problems(cell):
        wrong(line + offset, sentence)
    if cell.cell_type == "code":
        check_code(cell, line, wrong)


def complete_nbgrader(
    cell: NotebookNode,
    meta: dict[str, Any],
    line: int,
    seen: dict[str, int],
    wrong: Callable[[int, str], None],
) -> None:
    """Checks the nbgrader metadata of a cell and fills in what nbgrader wants to see spelled out."""
    for key in meta:
        if key not in NBGRADER_KEYS:
            wrong(line, f"unknown key {key!r} in nbgrader={{...}}{suggest(key, NBGRADER_KEYS)}")
            return
    for key in ("grade", "solution", "locked", "task"):
        if not isinstance(meta.setdefault(key, False), bool):
            wrong(line, f"{key!r} is {meta[key]!r}; write true or false")
            return
    grade, solution, task = meta["grade"], meta["solution"], meta["task"]
    if not (grade or solution or task or meta["locked"]):
        wrong(line, "nbgrader={...} says neither grade, solution, task nor locked; say which, or remove it")
    grade_id = meta.get("grade_id")
    if grade_id is None or grade_id == "":
        wrong(line, 'the nbgrader cell has no grade_id; add "grade_id": "a-name-of-its-own"')
    elif not isinstance(grade_id, str) or not GRADE_ID.match(grade_id):
        wrong(line, f"grade_id {grade_id!r} must be 1 to 64 letters, digits, '-' or '_'")
    elif grade_id in seen:
        wrong(
            line,
            f"grade_id {grade_id!r} is taken by the cell at line {seen[grade_id]}; give each cell its own",
        )
    else:
        seen[grade_id] = line
    points = meta.get("points")
    if grade or task:
        if points is None:
            wrong(line, f'the graded cell {grade_id!r} has no points; add "points": 2 or the like')
        elif isinstance(points, bool) or not isinstance(points, int | float) or points <= 0:
            wrong(line, f"the graded cell {grade_id!r} has points {points!r}; it must be a positive number")
    elif points is not None:
        wrong(
            line,
            f'the cell {grade_id!r} has points but is not graded; add "grade": true or remove the points',
        )
    if task and cell.cell_type != "markdown":
        wrong(line, f"the task cell {grade_id!r} must be markdown: '# %% [markdown] nbgrader=...'")
    if cell.cell_type == "markdown" and not task and grade != solution:
        wrong(
            line,
            f'the markdown cell {grade_id!r} must have both "grade": true and "solution": true: '
            "it is a written answer",
        )
    if cell.cell_type == "code" and grade and not solution:
        meta["locked"] = (
            True  # nbgrader puts the tests back before it grades; so the cell says that it is locked
        )
        # A graded cell raises until it is answered. The tag lets Run All in JupyterLab go on behind it.
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "raises-exception"]
    meta["schema_version"] = 3
    for key in ("checksum", "cell_type"):  # computed when the student version is made
        meta.pop(key, None)


def region_problems(cell: NotebookNode) -> Iterator[tuple[str, int]]:
    """(sentence, lines below the cell's header) for each BEGIN/END region that is open, nested, or in the
    wrong kind of cell.
    """
    meta = nbgrader_of(cell)
    for word, key in REGIONS.items():
        opened: int | None = None
        found = False
        for offset, text in enumerate(cell.source.split("\n"), start=1):
            if f"BEGIN {word}" in text:
                found = True
                if opened is not None:
                    yield f"BEGIN {word} inside a region that is already open; write END {word} first", offset
                opened = offset
            elif f"END {word}" in text:
                if opened is None:
                    yield f"END {word} without BEGIN {word}; add the beginning or remove this line", offset
                opened = None
        if opened is not None:
            yield f"BEGIN {word} is never closed; add a line '### END {word}'", opened
        if found and not meta.get(key):
            region = word.lower()
            yield f'{region} region in a cell without "{key}": true; mark the cell and give it a grade_id', 0
        if key == "solution" and not found and meta.get(key) and cell.cell_type == "code":
            yield (
                "answer cell without BEGIN SOLUTION: the whole cell would be emptied; mark the "
                "part to be written",
                0,
            )


def check_code(cell: NotebookNode, line: int, wrong: Callable[[int, str], None]) -> None:
    """Is the code Python, as the instructor and as the student will see it, and is the stub where a student's
    answer goes?
    """
    if "AUTOTEST" in cell.source:
        wrong(
            line,
            "the word AUTOTEST makes nbgrader generate tests, which this course does not use; "
            "choose another word",
        )
    try:
        parse(cell.source)
    except SyntaxError as error:
        wrong(line + (error.lineno or 1), f"not Python: {error.msg}")
        return
    if not is_answer(cell):
        # nbgrader gives all points to a graded cell that neither raises nor shows a number.
        if is_graded(cell) and not all(
            ends_in_grade(text) for text in (cell.source, without_regions(cell.source, "HIDDEN TESTS"))
        ):
            wrong(
                line,
                f"the graded cell {nbgrader_of(cell).get('grade_id')!r} does not end in "
                "exercise.grade(answer); make this call its last line, without a semicolon, or nbgrader "
                "gives all points to any answer",
            )
        return
    stubbed = without_regions(cell.source, "SOLUTION", stub=f"# YOUR CODE HERE\n{STUB}")
    try:
        tree = parse(stubbed)
    except SyntaxError as error:
        wrong(
            line,
            f"with the solution taken out the cell is not Python ({error.msg}); put whole "
            "statements into the region",
        )
        return
    if any(isinstance(node, ast.Raise) for node in tree.body):
        wrong(
            line,
            "the solution region is outside a function: every student's cell would raise; put it "
            "into a function body",
        )


def ends_in_grade(source: str) -> bool:
    """Is the last statement of a cell a bare call `something.grade(...)` whose result is shown?"""
    text = TransformerManager().transform_cell(source)
    match ast.parse(text).body:
        case [*_, ast.Expr(ast.Call(ast.Attribute(attr="grade"))) as last] if last.end_lineno:
            # A semicolon hides the result, from nbgrader too.
            rest = text.split("\n")[last.end_lineno - 1].encode()[last.end_col_offset :]
            return not rest.lstrip().startswith(b";")
    return False


def parse(source: str) -> ast.Module:
    """The syntax tree of a cell; IPython's magics and shell lines are allowed."""
    return ast.parse(TransformerManager().transform_cell(source))


def without_regions(source: str, word: str, stub: str = "") -> str:
    """Takes BEGIN..END regions out of a text and leaves an (indented) stub: the leak check's own reading of
    the rule.
    """
    kept: list[str] = []
    inside = False
    for line in source.split("\n"):
        if f"BEGIN {word}" in line:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            kept += [indent + s for s in stub.split("\n")] if stub else []
        elif f"END {word}" in line:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def region_lines(source: str, word: str) -> list[str]:
    """The lines inside the BEGIN..END regions of a text."""
    lines: list[str] = []
    inside = False
    for line in source.split("\n"):
        if f"BEGIN {word}" in line or f"END {word}" in line:
            inside = f"BEGIN {word}" in line
        elif inside:
            lines.append(line)
    return lines


def assign_ids(cells: list[NotebookNode]) -> list[str]:
    """Gives every cell its id in place: the grade_id, else a hash of its content (and a number where a
    content is repeated).

    An edit changes the id of the edited cell only, so a difference between two releases shows what was
    edited.
    """
    taken = {meta["grade_id"] for cell in cells if (meta := nbgrader_of(cell))}
    for cell in cells:
        meta = nbgrader_of(cell)
        if meta:
            cell.id = meta["grade_id"]
            continue
        stem = f"{cell.cell_type}-{hashlib.sha256(cell.source.encode()).hexdigest()[:10]}"
        name, count = stem, 1
        while name in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name)
        cell.id = name
    return [cell.id for cell in cells]


# ---------------------------------------------------------------------- versions


@cache
def assignment_exporter() -> Any:
    """The exporter of `nbgrader generate_assignment` with all of its preprocessors but the one that writes
    the gradebook.
    """
    from nbconvert.exporters import NotebookExporter
    from nbgrader.converters import GenerateAssignment
    from nbgrader.preprocessors import SaveCells
    from traitlets.config import Config

    config = Config()
    config.Exporter.default_preprocessors = []
    exporter = NotebookExporter(config=config)
    for preprocessor in GenerateAssignment.preprocessors.default_args[0]:
        if preprocessor is not SaveCells:
            exporter.register_preprocessor(preprocessor, enabled=True)
    return exporter


def student_notebook(lesson: Lesson) -> NotebookNode:
    """The notebook that students receive: exactly what `nbgrader generate_assignment` makes of the instructor
    notebook.
    """
    text, _ = assignment_exporter().from_notebook_node(deepcopy(lesson.notebook))
    return nbformat.reads(text, as_version=4)


def insert_solutions(lesson: Lesson, grade_ids: Collection[str]) -> NotebookNode:
    """The student notebook with the given answer cells solved, as a student who knows these answers would
    hand it in.

    Raises KeyError naming the answer cells where a grade_id is not one.
    """
    answers = {cell.id: cell for cell in lesson.notebook.cells if is_answer(cell)}
    unknown = set(grade_ids) - set(answers)
    if unknown:
        raise KeyError(f"{lesson.name} has no answer cells {sorted(unknown)}; it has {sorted(answers)}")
    notebook = student_notebook(lesson)
    for cell in notebook.cells:
        if cell.id in grade_ids:
            marks = ("BEGIN SOLUTION", "END SOLUTION")
            cell.source = "\n".join(
                line
                for line in answers[cell.id].source.split("\n")
                if not any(mark in line for mark in marks)
            )
    return notebook


def solution_notebook(lesson: Lesson) -> NotebookNode:
    """The student notebook with every answer in place and nothing hidden: what may be shown after the
    deadline.
    """
    return insert_solutions(lesson, {cell.id for cell in lesson.notebook.cells if is_answer(cell)})


def book_page(lesson: Lesson, executed: NotebookNode) -> NotebookNode:
    """The lesson as a page of the book: the source that students see, with the outputs that the solutions
    gave.

    `executed` is the instructor notebook after a run. Graded cells stay, without outputs, under the tag
    `remove-cell`.
    """
    page = student_notebook(lesson)
    ran = {cell.id: cell for cell in executed.cells}
    for cell in page.cells:
        tags = [tag for tag in cell.metadata.pop("tags", []) if tag != "raises-exception"]
        graded_code = cell.cell_type == "code" and is_graded(cell)
        if graded_code:
            tags.append("remove-cell")
        elif cell.cell_type == "code":
            cell.outputs = deepcopy(ran[cell.id].outputs)
            cell.execution_count = ran[cell.id].execution_count
        for key in ("nbgrader", "deletable", "editable"):
            cell.metadata.pop(key, None)
        if tags:
            cell.metadata["tags"] = tags
    if "widgets" in executed.metadata:
        page.metadata["widgets"] = deepcopy(executed.metadata["widgets"])
    page.metadata["title"] = lesson.title
    page.metadata["coursekit"] = {
        "title": lesson.title,
        "minutes": lesson.minutes,
        "objectives": list(lesson.objectives),
    }
    return page


def notebook_text(notebook: NotebookNode) -> str:
    """A notebook as the bytes of its file, the same on every build and the same as nbgrader writes them."""
    text = nbformat.writes(notebook, version=4)
    return text if text.endswith("\n") else text + "\n"


# ---------------------------------------------------------------------- building


def write_if_changed(path: Path, text: str) -> bool:
    """Writes a text file whole or not at all, and only where its content differs; returns whether it wrote.

    Raises OSError with a sentence naming the file where the disk is full or the folder cannot be written.
    """
    data = text.encode("utf-8")
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp makes private files
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, cannot_write(path, error)) from error
    return True


@cache
def current_umask() -> int:
    """The process's umask, which can only be read by setting it; read once."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def cannot_write(path: Path, error: OSError) -> str:
    """One sentence on why a file could not be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left for {path}; free some disk space and run this again (what was there is untouched)"
        )
    if isinstance(error, PermissionError):
        remedy = "close what holds it or make its folder writable, then run this again"
        return f"{path} cannot be written: permission denied; {remedy}"
    return f"{path} cannot be written: {error.strerror or error}"


def build(course: Path, out: Path, names: Collection[str] = ()) -> list[Path]:
    """Writes every version of the lessons that needs no run, and returns the files that changed.

    `out/instructor`, `out/student` and `out/solution` hold `NN_topic.ipynb`;
    `out/source/NN_topic/NN_topic.ipynb` is nbgrader's source folder and holds nothing but notebooks, since
    nbgrader hands every other file there to the students. Versions of lessons that no longer exist are
    removed when all lessons are built.

    Raises LessonError where a lesson is malformed or its student version would show a solution.
    """
    lessons = read_lessons(course, names)
    out = Path(out)
    texts: dict[Path, str] = {}
    problems: list[str] = []
    for lesson in lessons:
        student = student_notebook(lesson)
        problems += find_leaks(lesson, student)
        file = f"{lesson.name}.ipynb"
        instructor = notebook_text(lesson.notebook)
        texts[out / "instructor" / file] = instructor
        texts[out / "source" / lesson.name / file] = instructor
        texts[out / "student" / file] = notebook_text(student)
        texts[out / "solution" / file] = notebook_text(solution_notebook(lesson))
    if problems:
        raise LessonError(problems)
    changed = [path for path, text in texts.items() if write_if_changed(path, text)]
    if not names:
        for pattern in ("instructor/*.ipynb", "student/*.ipynb", "solution/*.ipynb", "source/*/*.ipynb"):
            for path in out.glob(pattern):
                if path not in texts and LESSON_NAME.match(path.stem):
                    path.unlink()
                    if path.parent.name == path.stem and not any(path.parent.iterdir()):
                        path.parent.rmdir()
                    changed.append(path)
    return changed


# ---------------------------------------------------------------------- leaks


def find_leaks(lesson: Lesson, *where: NotebookNode | Path) -> list[str]:
    """One sentence for each solution line, hidden test or mark scheme of the lesson found in what students
    receive.

    Takes notebooks and files (notebooks are looked through with their outputs and metadata, other files as
    text). A line that students see in the lesson anyway is no leak; in files of another kind only lines of 20
    characters or more count, since short ones occur everywhere.
    """
    hidden: dict[str, str] = {}
    shown: set[str] = set()
    for cell in lesson.notebook.cells:
        visible = cell.source
        for word in REGIONS:
            for line in region_lines(cell.source, word):
                hidden.setdefault(squeeze(line), f"{word.lower()} of {cell.id!r}")
            visible = without_regions(visible, word)
        if cell.cell_type == "markdown" and is_answer(cell) and "BEGIN SOLUTION" not in cell.source:
            for line in cell.source.split("\n"):  # the whole cell is the model answer
                hidden.setdefault(squeeze(line), f"answer of {cell.id!r}")
            continue
        shown |= {squeeze(line) for line in visible.split("\n")}
    secrets = {
        line: origin
        for line, origin in hidden.items()
        if line not in shown and sum(map(str.isalnum, line)) >= 2
    }
    leaks: list[str] = []
    for item in where:
        if isinstance(item, Path):
            name, text = str(item), item.read_text(encoding="utf-8", errors="replace")
            exact = item.suffix == ".ipynb"
            pieces = list(strings_in(json.loads(text))) if exact else [text, html.unescape(text)]
        else:
            name, exact = f"the student version of {lesson.name}", True
            pieces = list(strings_in(item))
        lines = {squeeze(line) for piece in pieces for line in piece.split("\n")}
        whole = [squeeze(piece) for piece in pieces]
        for secret, origin in secrets.items():
            if (exact and secret in lines) or (len(secret) >= 20 and any(secret in piece for piece in whole)):
                leaks.append(f"{lesson.path}: {name} shows a line of the {origin}: {secret!r}")
    return leaks


def squeeze(text: str) -> str:
    """A text with every run of white space made one space."""
    return " ".join(text.split())


def strings_in(value: Any) -> Iterator[str]:
    """Every text inside a JSON value; a list of texts also as the one text that notebooks mean by it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            yield "".join(value)
        else:
            for item in value:
                yield from strings_in(item)


# ---------------------------------------------------------------------- content


def unmet_objectives(lesson: Lesson, objectives: Iterable[str]) -> list[str]:
    """The declared objectives that none of the given objectives (those of the lesson's exercises) meets, word
    for word.
    """
    met = {squeeze(o).rstrip(".").casefold() for o in objectives}
    return [o for o in lesson.objectives if squeeze(o).rstrip(".").casefold() not in met]


# What a glossary link must not touch: code, math, roles, links and images, HTML, headings, directive fences.
PROTECTED = re.compile(
    r"```.*?```|~~~.*?~~~|:::.*?\n|\$\$.*?\$\$|\$[^$\n]+\$|\\\[.*?\\\]|\\\(.*?\\\)|\{[\w:-]+\}`[^`]*`|`[^`\n]+`"
    r"|!?\[[^\]]*\]\([^)]*\)|<[^>\n]+>|^#{1,6} .*?$",
    re.DOTALL | re.MULTILINE,
)


def link_terms(
    notebook: NotebookNode,
    terms: Iterable[str],
    link: Callable[[str, str], str] = lambda text, term: f"{{term}}`{text} <{term}>`",
) -> tuple[NotebookNode, list[str]]:
    """A copy of the notebook with the first use of each glossary term in its prose linked, and the terms that
    it uses.

    `link(text, term)` makes the link (default: MyST's `{term}` role). A plural in -s counts; longer terms win
    over shorter ones.
    """
    linked = deepcopy(notebook)
    open_terms = {term.casefold(): term for term in terms}
    used: list[str] = []
    if not open_terms:
        return linked, used
    choice = "|".join(
        re.escape(term).replace(r"\ ", r"\s+") for term in sorted(open_terms, key=len, reverse=True)
    )
    pattern = re.compile(rf"(?<![\w-])({choice})(s?)(?![\w-])", re.IGNORECASE)

    def replace(match: re.Match[str]) -> str:
        term = open_terms.pop(squeeze(match[1]).casefold(), None)
        if term is None:
            return match[0]
        used.append(term)
        return link(squeeze(match[0]), term)

    for cell in linked.cells:
        if cell.cell_type != "markdown":
            continue
        pieces, end = [], 0
        for guard in PROTECTED.finditer(cell.source):
            pieces += [pattern.sub(replace, cell.source[end : guard.start()]), guard[0]]
            end = guard.end()
        cell.source = "".join([*pieces, pattern.sub(replace, cell.source[end:])])
    return linked, used


# ---------------------------------------------------------------------- placing


@dataclass(frozen=True)
class Placed:
    """What became of one notebook: `how` is new, current, updated, kept, beside, restored or failed; `note`
    is one sentence.
    """

    path: Path
    how: str
    note: str


def place_student_notebooks(notebooks: dict[str, str], work: Path) -> list[Placed]:
    """Puts student notebooks (file name -> text) into the working folder without ever overwriting a student's
    change.

    `work/.released.json` remembers the hash of everything released. A file that still has a released hash is
    brought up to date. A file with any other content is the student's: it stays, and a newer release is put
    beside it as `NN_topic.new-HASH.ipynb`. A lost or broken record only makes this more careful: unknown
    content is taken for the student's.
    """
    work = Path(work)
    if work.exists() and not work.is_dir():
        return [Placed(work, "failed", f"{work} is a file, not a folder; move it away and run this again")]
    results: list[Placed] = []
    record = work / ".released.json"
    released, note = read_record(record)
    if note:
        results.append(Placed(record, "restored", note))
    for name, text in notebooks.items():
        try:
            results += place_one(work / name, text, released)
        except OSError as error:
            results.append(Placed(work / name, "failed", error.strerror or str(error)))
    try:
        write_if_changed(
            record, json.dumps({"version": 1, "released": released}, indent=1, sort_keys=True) + "\n"
        )
    except OSError as error:
        results.append(Placed(record, "failed", error.strerror or str(error)))
    return results


def read_record(record: Path) -> tuple[dict[str, list[str]], str]:
    """The hashes released so far by file name, oldest first, and a sentence where the record was not
    readable.
    """
    try:
        released = json.loads(record.read_text(encoding="utf-8"))["released"]
        sound = all(
            isinstance(n, str) and isinstance(h, list) and all(isinstance(x, str) for x in h)
            for n, h in released.items()
        )
        if sound:
            return released, ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return (
        {},
        f"{record} could not be read and is made anew; files that differ from this release count "
        "as yours and are kept",
    )


def place_one(path: Path, text: str, released: dict[str, list[str]]) -> list[Placed]:
    """Places one notebook; notes the hash in `released` once the file is on disk."""
    new = hashlib.sha256(text.encode()).hexdigest()
    known = released.get(path.name, [])

    def note_release() -> None:
        released[path.name] = [*(h for h in known if h != new), new]

    if path.is_dir():
        return [
            Placed(
                path,
                "failed",
                f"{path} is a folder where a notebook should be; move it away and run this again",
            )
        ]
    if not path.exists():
        write_if_changed(path, text)
        note_release()
        again = f"{path} was missing and is placed again" if known else f"{path} is ready"
        return [Placed(path, "new", again)]
    try:
        present = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be read: {error.strerror}; make it readable and run this again"
        ) from error
    if present == new:
        note_release()
        return [Placed(path, "current", f"{path} is up to date")]
    if present in known:
        write_if_changed(path, text)
        note_release()
        return [Placed(path, "updated", f"{path} had no changes of yours and is now the newest release")]
    if known and known[-1] == new:
        return [Placed(path, "kept", f"{path} holds your work and is left alone")]
    beside = path.with_name(f"{path.stem}.new-{new[:8]}{path.suffix}")
    if beside.exists():
        note_release()
        return [
            Placed(
                path, "kept", f"{path} holds your work and is left alone; the newest release is {beside.name}"
            )
        ]
    write_if_changed(beside, text)
    note_release()
    for older in sorted(path.parent.glob(f"{glob_escape(path.stem)}.new-*{path.suffix}")):
        if older != beside and hashlib.sha256(older.read_bytes()).hexdigest() in known:
            older.unlink()  # an earlier release put beside, never touched
    return [
        Placed(
            beside,
            "beside",
            f"{path} holds your work and is left alone; the newer release is beside it: {beside.name}",
        )
    ]


def glob_escape(text: str) -> str:
    """A file name with the signs that `Path.glob` reads as wildcards made plain."""
    return re.sub(r"([*?[])", r"[\1]", text)
