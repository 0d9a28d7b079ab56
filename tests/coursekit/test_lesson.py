# ruff: noqa: E501 (the tables of malformed lessons are read line by line)
"""A lesson source becomes notebooks: the same bytes each time, no solution in what students get, and clear
words for what is wrong.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

from coursekit.lesson import (
    LessonError,
    book_page,
    build,
    find_leaks,
    insert_solutions,
    is_answer,
    is_graded,
    link_terms,
    notebook_text,
    read_lesson,
    read_lessons,
    solution_notebook,
    student_notebook,
    unmet_objectives,
)

SMALL = Path(__file__).parent / "small_course" / "course" / "01_small.py"
COURSE = Path(__file__).resolve().parents[2] / "course"
TEXT = SMALL.read_text(encoding="utf-8")
HEADER = TEXT[: TEXT.index("# %%")]


@pytest.fixture(scope="module")
def lesson():
    return read_lesson(SMALL)


def problems_of(folder: Path, text: str, name: str = "01_small.py") -> list[str]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LessonError) as caught:
        read_lesson(path)
    return caught.value.problems


def by_id(notebook):
    return {cell.id: cell for cell in notebook.cells}


def test_header_and_cells_are_read(lesson):
    assert (lesson.name, lesson.title, lesson.minutes, lesson.points) == (
        "01_small",
        "A small lesson",
        5,
        5.0,
    )
    assert lesson.objectives == ("Halve a number.", "Count the elements of a group.")
    lines = TEXT.splitlines()
    for cell in lesson.notebook.cells:
        header = lines[lesson.lines[cell.id] - 1]
        assert header.startswith("# %%")
        if "nbgrader" in cell.metadata:
            assert f'"grade_id": "{cell.id}"' in header
    nbformat.validate(lesson.notebook)


def test_student_version_has_stubs_and_no_solutions(lesson):
    student = student_notebook(lesson)
    nbformat.validate(student)
    cells = by_id(student)
    assert cells["half"].source.endswith("    # YOUR CODE HERE\n    raise NotImplementedError()")
    assert "HIDDEN" not in cells["order-grade"].source
    assert cells["order-grade"].source.count("Asked") == 1
    assert not find_leaks(lesson, student)
    assert [c.id for c in student.cells] == [c.id for c in lesson.notebook.cells]


def test_student_version_locks_and_lets_run_all_go_on(lesson):
    cells = by_id(student_notebook(lesson))
    assert cells["half-grade"].metadata.editable is False
    assert "raises-exception" in cells["half-grade"].metadata.tags
    assert "editable" not in cells["half"].metadata
    assert cells["setup"].metadata.deletable is False


def test_solution_version_solves_without_marks_or_hidden_tests(lesson):
    solution = solution_notebook(lesson)
    text = notebook_text(solution)
    assert "halved = x / 2" in text
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    assert "NotImplementedError()" not in by_id(solution)["half"].source
    # It is a submission that nbgrader accepts: everything but the answers is the students' notebook.
    student = by_id(student_notebook(lesson))
    assert all(c == student[c.id] for c in solution.cells if not is_answer(c))


def test_some_answers_can_be_put_in(lesson):
    cells = by_id(insert_solutions(lesson, {"order"}))
    assert "return {" in cells["order"].source
    assert "raise NotImplementedError()" in cells["half"].source
    with pytest.raises(KeyError, match=r"no answer cells \['nope'\]"):
        insert_solutions(lesson, {"nope"})


def test_page_of_the_book_shows_stubs_and_the_solutions_outputs(lesson):
    executed = nbformat.from_dict(json.loads(json.dumps(lesson.notebook)))
    for number, cell in enumerate(executed.cells, start=1):
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"output of {cell.id}")]
    page = book_page(lesson, executed)
    nbformat.validate(page)
    for cell in page.cells:
        assert "nbgrader" not in cell.metadata
        if cell.cell_type == "code":
            graded = cell.id.endswith("-grade")
            assert ("remove-cell" in cell.metadata.get("tags", [])) == graded
            assert [o.text for o in cell.outputs] == ([] if graded else [f"output of {cell.id}"])
    assert not find_leaks(lesson, page)
    assert "raise NotImplementedError()" in by_id(page)["half"].source


# ---- stable


def test_two_builds_give_the_same_bytes_and_write_nothing_twice(tmp_path):
    first = build(SMALL.parent, tmp_path)
    assert len(first) == 4
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first}
    assert build(SMALL.parent, tmp_path) == []
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first} == before
    other = tmp_path / "again"
    build(SMALL.parent, other)
    assert {p.relative_to(tmp_path): b for p, (b, _) in before.items()} == {
        p.relative_to(other): p.read_bytes() for p in other.rglob("*.ipynb")
    }


def test_an_edit_changes_no_other_cells_id(tmp_path):
    before = read_lesson(SMALL)
    path = tmp_path / "01_small.py"
    path.write_text(
        TEXT.replace("# %% [markdown]\n", "# %% [markdown]\n# New first cell.\n\n# %% [markdown]\n", 1)
    )
    after = read_lesson(path)
    assert [c.id for c in after.notebook.cells][1:] == [c.id for c in before.notebook.cells]


def test_equal_cells_get_different_ids(tmp_path):
    path = tmp_path / "01_small.py"
    path.write_text(HEADER + "# %%\n1 + 1\n\n# %%\n1 + 1\n\n# %%\n1 + 1\n")
    ids = [c.id for c in read_lesson(path).notebook.cells]
    assert len(set(ids)) == 3
    assert ids[1] == f"{ids[0]}-2"


def test_versions_of_a_lesson_that_is_gone_are_removed(tmp_path):
    course = tmp_path / "course"
    course.mkdir()
    (course / "01_small.py").write_text(TEXT)
    (course / "02_other.py").write_text(TEXT)
    out = tmp_path / "build"
    build(course, out)
    mine = out / "student" / "notes.ipynb"
    mine.write_text("{}")
    (course / "02_other.py").unlink()
    gone = build(course, out)
    assert {p.stem for p in gone} == {"02_other"}
    assert not list(out.rglob("02_other*"))
    assert mine.exists()
    assert len(list(out.rglob("01_small.ipynb"))) == 4


def test_nothing_is_left_half_written_where_the_disk_is_full(tmp_path, monkeypatch):
    build(SMALL.parent, tmp_path)
    file = tmp_path / "student" / "01_small.ipynb"
    before = file.read_bytes()
    changed = tmp_path / "course"
    changed.mkdir()
    (changed / "01_small.py").write_text(TEXT.replace("It isn't long", "It is short"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"no space left for .*free some disk space"):
        build(changed, tmp_path)
    assert file.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


# ---- malformed lessons

ANSWER = '# %% nbgrader={"grade_id": "a", "solution": true}\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n'
GRADED = '# %% nbgrader={"grade_id": "g", "grade": true, "points": 1}\n'

MALFORMED = {
    "no grade_id": (ANSWER.replace('"grade_id": "a", ', ""), 0, 'no grade_id; add "grade_id"'),
    "empty grade_id": (ANSWER.replace('"a"', '""'), 0, "no grade_id"),
    "bad grade_id": (ANSWER.replace('"a"', '"a b"'), 0, "must be 1 to 64 letters"),
    "duplicate grade_id": (ANSWER + "\n" + ANSWER, 6, "taken by the cell at line"),
    "open solution": (ANSWER.replace("    ### END SOLUTION\n", ""), 2, "never closed; add a line '### END SOLUTION'"),
    "nested solution": (ANSWER.replace("    return 1", "    ### BEGIN SOLUTION"), 3, "already open"),
    "end alone": (ANSWER.replace("### BEGIN SOLUTION", "pass"), 4, "END SOLUTION without BEGIN"),
    "no region": (ANSWER.replace("    ### BEGIN SOLUTION\n", "").replace("    ### END SOLUTION\n", ""), 0, "would be emptied"),
    "not marked": ("# %%" + ANSWER[ANSWER.index("\n") :], 0, 'without "solution": true'),
    "solution at top": (
        '# %% nbgrader={"grade_id": "a", "solution": true}\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n', 0, "outside a function"),
    "half a statement": (ANSWER.replace("    return 1", "    return (1,").replace("TION\n", "TION\n", 2) + "    )\n", 0, "whole statements"),
    "no points": ('# %% nbgrader={"grade_id": "g", "grade": true}\nex.grade(f)\n', 0, "has no points"),
    "no positive points": ('# %% nbgrader={"grade_id": "g", "grade": true, "points": 0}\n1\n', 0, "positive number"),
    "points for nothing": (ANSWER.replace('"solution"', '"points": 2, "solution"'), 0, "has points but is not graded"),
    "no grade call": (GRADED + "assert f() == 1\n", 0, "does not end in exercise.grade(answer)"),
    "grade call not last": (GRADED + "points = ex.grade(f)\nprint(points)\n", 0, "does not end in exercise.grade(answer)"),
    "grade call kept": (GRADED + "points = ex.grade(f)\n", 0, "does not end in exercise.grade(answer)"),
    "grade call hushed": (GRADED + "ex.grade(f);  # quiet\n# the end\n", 0, "without a semicolon"),
    "grade call hidden": (
        GRADED + "ex\n### BEGIN HIDDEN TESTS\nex.grade(f)\n### END HIDDEN TESTS\n", 0, "does not end in exercise.grade(answer)"),
    "empty graded cell": (GRADED + "# nothing\n", 0, "does not end in exercise.grade(answer)"),
    "hidden tests not graded": ("# %%\n1\n### BEGIN HIDDEN TESTS\n2\n### END HIDDEN TESTS\n", 0, 'without "grade": true'),
    "hidden tests open": (
        '# %% nbgrader={"grade_id": "g", "grade": true, "points": 1}\n1\n### BEGIN HIDDEN TESTS\n2\n', 2, "never closed"),
    "markdown answer": ('# %% [markdown] nbgrader={"grade_id": "g", "solution": true}\n# Text\n', 0, 'both "grade": true'),
    "task in code": ('# %% nbgrader={"grade_id": "g", "task": true, "points": 1}\n1\n', 0, "must be markdown"),
    "unknown nbgrader key": (ANSWER.replace('"solution"', '"sollution"'), 0, "did you mean 'solution'"),
    "open braces": (ANSWER.replace("true}", "true"), 0, "close the braces"),
    "unknown metadata": ("# %% slideshow={}\n1\n", 0, "unknown metadata 'slideshow'"),
    "title in header": ("# %% look here\n1\n", 0, "text 'look here' in the cell header"),
    "tags as text": ('# %% tags="hide"\n1\n', 0, "tags must be a list of texts"),
    "nbgrader of nothing": ('# %% nbgrader={"grade_id": "g"}\n1\n', 0, "neither grade, solution, task nor locked"),
    "not python": ("# %%\nx = 1\ny = (\n", 2, "not Python"),
    "autotest": ("# %%\n### AUTOTEST x\n", 0, "AUTOTEST"),
    "no cells": ("", None, "no cells"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_cells_are_named_with_file_line_and_remedy(tmp_path, case):
    body, offset, words = MALFORMED[case]
    problems = problems_of(tmp_path, HEADER + body)
    start = HEADER.count("\n") + 1
    line = 1 if offset is None else start + offset
    assert any(p.startswith(f"{tmp_path / '01_small.py'}:{line}: ") and words in p for p in problems), (
        problems
    )


def test_a_graded_cell_may_end_in_a_comment_or_follow_a_magic(tmp_path):
    body = GRADED + "%matplotlib inline\nex.grade(f)  # one; two\n# the end;\n"
    (tmp_path / "01_small.py").write_text(HEADER + body)
    assert read_lesson(tmp_path / "01_small.py").points == 1


HEADERS = {
    "text outside cells": (HEADER + "x = 1\n\n# %%\n1\n", "text outside a cell; put a line '# %%'"),
    "no coursekit": (re.sub(r"#   coursekit:.*?#   jupytext", "#   jupytext", HEADER, flags=re.S) + "# %%\n1\n", "no 'coursekit' section"),
    "unknown key": (HEADER.replace("minutes: 5", "minuts: 5") + "# %%\n1\n", "did you mean 'minutes'"),
    "missing key": (HEADER.replace("#     ram_mb: 2000\n", "") + "# %%\n1\n", "lacks 'ram_mb'"),
    "wrong kind": (HEADER.replace("ram_mb: 2000", "ram_mb: much") + "# %%\n1\n", "'ram_mb' in the header is 'much'"),
    "too long": (HEADER.replace("run_minutes: 3", "run_minutes: 9") + "# %%\n1\n", "train less, or ship weights"),
    "negative": (HEADER.replace("minutes: 5", "minutes: -5") + "# %%\n1\n", "positive"),
    "no objectives": (re.sub(r"(objectives:)\n.*?(#   jupytext)", r"\1 []\n\2", HEADER, flags=re.S) + "# %%\n1\n", "at least one sentence"),
    "no header": ("# %%\n1\n", "no 'coursekit' section"),
    "broken yaml": (HEADER.replace("title: A small", "title: [A small") + "# %%\n1\n", "not readable YAML"),
    "other kernel": (HEADER.replace("name: python3", "name: julia") + "# %%\n1\n", "kernel 'julia'"),
    "unknown section": (HEADER.replace("#   kernelspec", "#   widgets: {}\n#   kernelspec") + "# %%\n1\n", "unknown section 'widgets'"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_malformed_headers_are_named(tmp_path, case):
    text, words = HEADERS[case]
    problems = problems_of(tmp_path, text)
    assert any(words in p for p in problems), problems


def test_all_problems_are_told_at_once(tmp_path):
    body = MALFORMED["no points"][0] + "\n" + MALFORMED["unknown metadata"][0]
    assert len(problems_of(tmp_path, HEADER + body)) == 2


def test_names_and_bytes_of_files(tmp_path):
    assert "name it with two digits" in problems_of(tmp_path, TEXT, "symmetry.py")[0]
    (tmp_path / "02_latin.py").write_bytes("# é".encode("latin-1"))
    with pytest.raises(LessonError, match="not UTF-8"):
        read_lesson(tmp_path / "02_latin.py")
    with pytest.raises(LessonError, match="cannot be read"):
        read_lesson(tmp_path / "03_absent.py")


def test_markers_in_strings_and_magics_are_no_cells(tmp_path):
    path = tmp_path / "01_small.py"
    path.write_text(HEADER + '# %%\ntext = """\n# %% not a cell\n"""\n\n# %%\n# %matplotlib inline\n1\n')
    cells = read_lesson(path).notebook.cells
    assert len(cells) == 2
    assert cells[1].source.startswith("%matplotlib inline")


def test_lessons_are_found_by_name_number_or_path():
    for name in ("01_small", "01", str(SMALL)):
        assert [lesson.name for lesson in read_lessons(SMALL.parent, [name])] == ["01_small"]
    with pytest.raises(LessonError, match="no lesson '07'; the lessons are: 01_small"):
        read_lessons(SMALL.parent, ["07"])


def test_an_empty_course_says_so(tmp_path):
    with pytest.raises(LessonError, match="no lessons found"):
        read_lessons(tmp_path)


# ---- leaks


def test_a_leak_is_found_in_notebooks_and_files(lesson, tmp_path):
    student = student_notebook(lesson)
    student.cells[0].source += "\n    halved  =  x / 2"
    assert "solution of 'half'" in find_leaks(lesson, student)[0]
    output = student_notebook(lesson)
    by_id(output)["half"].outputs = [
        nbformat.v4.new_output("stream", text='    return {"p4": 4, "p4m": 8}[name]\n')
    ]
    assert "solution of 'order'" in find_leaks(lesson, output)[0]
    page = tmp_path / "page.html"
    page.write_text("<pre>return {&quot;p4&quot;: 4, &quot;p4m&quot;: 8}[name]</pre>")
    assert len(find_leaks(lesson, page)) == 1
    file = tmp_path / "release.ipynb"
    file.write_text(notebook_text(lesson.notebook))
    origins = " ".join(find_leaks(lesson, file))
    assert "solution of 'half'" in origins
    assert "hidden tests of 'order-grade'" in origins


def test_what_students_see_anyway_is_no_leak(tmp_path):
    path = tmp_path / "01_small.py"
    path.write_text(
        TEXT.replace(
            "# It isn't long",
            "# `halved = x / 2`\n#\n# halved = x / 2\n#\n# return halved\n#\n# It isn't long",
        )
    )
    lesson = read_lesson(path)
    assert not find_leaks(lesson, student_notebook(lesson))


def test_a_written_model_answer_is_a_secret(tmp_path):
    path = tmp_path / "01_small.py"
    cell = '# %% [markdown] nbgrader={"grade_id": "why", "grade": true, "solution": true, "points": 1}\n# Because it commutes with turns.\n'
    path.write_text(HEADER + cell)
    lesson = read_lesson(path)
    assert by_id(student_notebook(lesson))["why"].source == "YOUR ANSWER HERE"
    assert find_leaks(lesson, lesson.notebook)
    assert not find_leaks(lesson, student_notebook(lesson))


def test_a_build_with_a_leak_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("coursekit.lesson.student_notebook", solution_notebook_of(SMALL))
    with pytest.raises(LessonError, match="shows a line of the solution"):
        build(SMALL.parent, tmp_path)
    assert not list(tmp_path.rglob("*.ipynb"))


def solution_notebook_of(path):
    notebook = solution_notebook(read_lesson(path))
    return lambda lesson: notebook


# ---- content


def test_objectives_without_an_exercise_are_named(lesson):
    assert unmet_objectives(lesson, ["halve a number", "Count  the elements of a group."]) == []
    assert unmet_objectives(lesson, ["Halve a number."]) == ["Count the elements of a group."]


def test_terms_are_linked_once_and_not_in_code_math_links_or_headings():
    source = (
        "# A group\nSee `group`, $group$, [a group](x.md), {ref}`group` and\n```\ngroup\n```\n"
        "then groups act: a group is a set. A subgroup is no group.\nThe dice score and dice."
    )
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(source),
            nbformat.v4.new_code_cell("group"),
            nbformat.v4.new_markdown_cell("group"),
        ]
    )
    linked, used = link_terms(notebook, ["group", "Dice score", "Dice", "orbit"])
    assert used == ["group", "Dice score", "Dice"]
    text = "".join(c.source for c in linked.cells)
    assert text.count("{term}`") == 3
    assert "then {term}`groups <group>` act: a group" in text
    assert "{term}`dice score <Dice score>` and {term}`dice <Dice>`." in text
    assert notebook.cells[0].source == source
    custom, _ = link_terms(notebook, ["group"], link=lambda text, term: f"[{text}](#{term})")
    assert "[groups](#group)" in custom.cells[0].source


# ---- the course's own lessons

LESSONS = sorted(COURSE.glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_lessons_of_the_course_are_sound(path):
    lesson = read_lesson(path)
    student = student_notebook(lesson)
    assert not find_leaks(lesson, student)
    assert sum(is_graded(c) for c in student.cells) >= 6
    from coursekit.check.catalogue import all_exercises

    exercises = [x for x in all_exercises() if x.lesson == lesson.name]
    assert unmet_objectives(lesson, [x.objective for x in exercises]) == []
