"""A real kernel: a verdict is shown once, a graded cell is read by nbgrader as meant, and a failure is one
line.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a kernel with torch
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
utils = pytest.importorskip("nbgrader.utils")

HERE = Path(__file__).parent
GRADED = {"grade": True, "solution": False, "locked": True, "points": 3, "grade_id": "g", "schema_version": 3}
CELLS = {
    "set up": f"import sys; sys.path.insert(0, {str(HERE.parent)!r})\nfrom check import toys",
    "stub": "def turn(x, r):\n    raise NotImplementedError()",
    "last": "toys.turn_image.check(toys.clockwise)",
    "kept": "v = toys.turn_image.check(toys.turn)\nprint('after')",
    "again": "v",
    "hint": "toys.turn_image.hint()",
    "grade right": "toys.tables.grade(toys.table)",
    "grade part": "toys.tables.grade(toys.table_plus_only)",
    "grade stub": "toys.tables.grade(turn)",
    "grade wrong": "toys.tables.grade(toys.table_product)",
    "grade loud": "def loud(n, sign):\n    import sys, warnings\n    warnings.warn('careful')\n"
    "    print('progress', file=sys.stderr)\n    return toys.table(n, sign)\ntoys.tables.grade(loud)",
}


@pytest.fixture(scope="module")
def cells():
    notebook = nbformat.v4.new_notebook()
    for name, source in CELLS.items():
        extra = {"nbgrader": GRADED} if name.startswith("grade") else {}
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"name": name, **extra}))
    nbclient.NotebookClient(notebook, timeout=120, startup_timeout=120, allow_errors=True, kernel_name="python3").execute()
    return {c.metadata["name"]: c for c in notebook.cells}


def test_a_verdict_is_shown_once(cells):
    assert [o.output_type for o in cells["last"].outputs] == ["display_data"]
    assert "You turn clockwise" in cells["last"].outputs[0].data["text/html"]
    assert "You turn clockwise" in cells["last"].outputs[0].data["text/plain"]
    assert [o.output_type for o in cells["kept"].outputs] == ["display_data", "stream"]
    assert [o.output_type for o in cells["again"].outputs] == ["display_data"]
    assert [o.output_type for o in cells["hint"].outputs] == ["display_data"]


@pytest.mark.parametrize(
    ("name", "points"),
    [("grade right", 3), ("grade part", 1), ("grade stub", 0), ("grade wrong", 0), ("grade loud", 3)],
)
def test_nbgrader_reads_the_points(cells, name, points):
    assert utils.determine_grade(cells[name]) == (points, 3)


def test_a_failed_graded_cell_is_one_line_and_nothing_on_stderr(cells):
    for name, words in [
        ("grade stub", "not attempted, 0 of 3 points"),
        ("grade wrong", "You multiply the elements"),
    ]:
        (output,) = cells[name].outputs
        assert output.output_type == "error"
        assert output.ename == "NoPoints"
        assert len(output.traceback) == 1
        assert words in output.traceback[0]
        assert "File" not in output.traceback[0]
    streams = [o.name for c in cells.values() for o in c.outputs if o.output_type == "stream"]
    assert "stderr" not in streams
