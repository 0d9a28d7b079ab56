"""The `coursekit` command as it is typed: what it prints, and how it fails."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from coursekit.cli import main

COURSE = Path(__file__).parent / "small_course" / "course"


def coursekit(*arguments):
    """The command with these arguments, in this process: starting another one costs more than most commands do."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["coursekit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return SimpleNamespace(returncode=ended.value.code or 0, stdout=out.getvalue(), stderr=err.getvalue())


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from coursekit.cli import app\ntry:\n    app(['--help'])\nfinally:\n    "
    code += (
        "print(sorted({'torch', 'numpy', 'nbformat', 'nbgrader', 'jupytext', 'IPython'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    for command in ("build", "lab-copy", "run", "book-pages", "book", "exercises"):
        assert f"  {command} " in ran.stdout
    assert ran.stdout.endswith("[]\n")


@pytest.mark.slow
def test_build_says_what_it_wrote(tmp_path):
    first = coursekit("build", "--course", COURSE, "--out", tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith(f"4 files changed in {tmp_path}\n")
    again = coursekit("build", "01", "--course", COURSE, "--out", tmp_path)
    assert again.stdout == f"0 files changed in {tmp_path}\n"


@pytest.mark.slow
def test_lab_copy_places_and_keeps(tmp_path):
    work = tmp_path / "work"
    assert "is ready" in coursekit("lab-copy", "--course", COURSE, "--work", work).stdout
    (work / "01_small.ipynb").write_text("mine")
    ran = coursekit("lab-copy", "--course", COURSE, "--work", work)
    assert ran.returncode == 0
    assert "is left alone" in ran.stdout
    assert (work / "01_small.ipynb").read_text() == "mine"


@pytest.mark.parametrize("arguments", [("build", "nope"), ("run", "nope"), ("book-pages", "nope")])
def test_an_unknown_lesson_is_one_sentence(arguments):
    ran = coursekit(*arguments, "--course", COURSE)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert "the lessons are: 01_small" in ran.stderr


def test_a_malformed_lesson_is_named_with_file_and_line(tmp_path):
    course = tmp_path / "course"
    course.mkdir()
    text = (COURSE / "01_small.py").read_text().replace('"points": 2', '"points": 0')
    (course / "01_small.py").write_text(text)
    ran = coursekit("build", "--course", course, "--out", tmp_path / "build")
    assert ran.returncode == 1
    line = 1 + text[: text.index('"points": 0')].count("\n")
    assert ran.stderr.startswith(
        f"{course / '01_small.py'}:{line}: the graded cell 'half-grade' has points 0"
    )
    assert not (tmp_path / "build").exists()


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    # The second as it is typed, in a process of its own: what is printed there is all that a user sees.
    typed = [sys.executable, "-c", "from coursekit.cli import main; main()"]
    typed += ["lab-copy", "--work", str(blocked), "--course", str(COURSE)]
    for ran in (
        coursekit("build", "--out", blocked, "--course", COURSE),
        subprocess.run(typed, capture_output=True, text=True, check=False),
    ):
        assert ran.returncode == 1
        assert str(blocked) in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_missing_course_folder_is_one_sentence(tmp_path):
    ran = coursekit("build", "--course", tmp_path / "nowhere")
    assert ran.returncode == 1
    assert (
        ran.stderr
        == f"{tmp_path / 'nowhere'} is not a folder; give --course the folder that holds the lessons\n"
    )


def test_a_wrong_option_is_a_usage_error():
    ran = coursekit("run", "--jobs", "0", "--course", COURSE)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_exercises_are_listed():
    ran = coursekit("exercises", "--json")
    assert ran.returncode == 0, ran.stderr
    entries = json.loads(ran.stdout)
    for entry in entries:
        assert {"exercise", "lesson", "points", "alternatives", "misconceptions", "hints"} <= set(entry)
    table = coursekit("exercises").stdout.splitlines()
    assert table[0].split() == ["lesson", "exercise", "points", "alternatives", "misconceptions", "hints"]
    assert len(table) == 2 + len(entries)


@pytest.mark.slow
def test_run_prints_the_table_and_fails_with_the_reason(tmp_path):
    ran = coursekit("run", "--course", COURSE, "--cache", tmp_path / "cache")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("lesson "))
    assert lines[head].split("  ")[0] == "lesson"
    assert [line.split()[0:2] for line in lines[head + 2 :]] == [
        ["01_small", "solution"],
        ["01_small", "student"],
    ]
    assert "5/5" in lines[head + 2]
    again = coursekit("run", "--solution", "--course", COURSE, "--cache", tmp_path / "cache")
    assert again.stdout.rstrip().endswith("kept")
    course = tmp_path / "course"
    course.mkdir()
    (course / "01_small.py").write_text(
        (COURSE / "01_small.py").read_text().replace("halved = x / 2", "halved = x / 3")
    )
    failing = coursekit("run", "--solution", "--course", course, "--cache", tmp_path / "cache")
    assert failing.returncode == 1
    assert "FAILS" in failing.stdout
    assert "cell 'half-grade' raises ValueError" in failing.stderr


@pytest.mark.slow
def test_book_pages_are_written(tmp_path):
    ran = coursekit(
        "book-pages", "--course", COURSE, "--out", tmp_path / "book", "--cache", tmp_path / "cache"
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "book" / "01_small.ipynb").is_file()
