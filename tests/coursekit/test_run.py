"""Lessons run in kernels of their own; results are kept until something that they depend on changes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from coursekit import run
from coursekit.lesson import read_lesson
from coursekit.run import book_pages, execute_lessons

SMALL = Path(__file__).parent / "small_course" / "course" / "01_small.py"
TEXT = SMALL.read_text(encoding="utf-8")
HEADER = TEXT[: TEXT.index("# %%")]
GRADED = '# %% nbgrader={"grade_id": "g", "grade": true, "points": 2}\n'
GRADED += "class E:\n    grade = staticmethod(lambda answer: answer)\n\n"


@pytest.fixture
def write(tmp_path):
    """Writes a lesson with these cells and reads it."""

    def writer(cells: str, header: str = HEADER, name: str = "01_small"):
        path = tmp_path / "course" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(header + cells, encoding="utf-8")
        return read_lesson(path)

    return writer


@pytest.fixture
def execute(tmp_path):
    """Runs one lesson with a cache of this test."""

    def executor(lesson, variant="solution", **options):
        (result,) = execute_lessons([lesson], cache=tmp_path / "cache", variants=(variant,), **options)
        return result

    return executor


def test_a_lesson_runs_and_is_kept(write, execute, tmp_path):
    lesson = write(TEXT[len(HEADER) :])
    first = execute(lesson)
    assert first.ok, first.problems
    assert (first.points, first.max_points, first.figures, first.cached) == (5.0, 5.0, 1, False)
    assert first.seconds > 0
    assert first.peak_mb > 20
    assert list((tmp_path / "cache").rglob("*.json"))
    again = execute(lesson)
    assert again.cached
    assert again.notebook == first.notebook
    assert (again.points, again.figures, again.peak_mb) == (first.points, first.figures, first.peak_mb)
    assert not list(lesson.path.parent.parent.rglob("line.png")), "the lesson's own files stay in its folder"


@pytest.mark.slow
def test_untouched_the_student_version_is_not_attempted(write, execute):
    result = execute(write(TEXT[len(HEADER) :]), "student")
    assert result.ok, result.problems
    cells = {c.id: c for c in result.notebook.cells}
    assert cells["half-grade"].outputs[0].ename == "NotImplementedError"


@pytest.mark.slow
def test_the_page_of_the_book_knows_that_it_is_one(tmp_path):
    pages, problems = book_pages(SMALL.parent, tmp_path / "book", cache=tmp_path / "cache")
    assert problems == []
    page = nbformat.read(pages[0], as_version=4)
    assert page.cells[-1].outputs[0].data["text/plain"] == "'book'"
    assert "NotImplementedError" in next(c.source for c in page.cells if c.id == "half")
    assert not any(o.output_type == "error" for c in page.cells for o in c.get("outputs", []))
    before = (pages[0].read_bytes(), pages[0].stat().st_mtime_ns)
    stale = tmp_path / "book" / "09_gone.ipynb"
    stale.write_text("{}")
    book_pages(SMALL.parent, tmp_path / "book", cache=tmp_path / "cache")
    assert (pages[0].read_bytes(), pages[0].stat().st_mtime_ns) == before
    assert not stale.exists()


FAILING = {
    "error": ("# %%\n1 / 0\n", "raises ZeroDivisionError: division by zero"),
    "stderr": (GRADED + "import sys\nprint('careful', file=sys.stderr)\nE.grade(2)\n", "writes to stderr (careful)"),
    "too few points": (GRADED + "E.grade(1.5)\n", "the solution earns 1.5 of 2 points"),
    "too many points": (GRADED + "E.grade(3)\n", "partial credit cannot be greater"),
    "no alt text": (
        "# %%\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n",
        "picture without alt text",
    ),
    "network": (
        "# %%\nimport socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), "
        "timeout=1)\nexcept OSError:\n    pass\n",
        "reaches for 192.0.2.1",
    ),
    "dead kernel": ("# %%\nimport os\nos._exit(3)\n", "the kernel died in this cell"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", FAILING)
def test_what_is_wrong_with_a_run_is_told_with_its_line_and_not_kept(write, execute, tmp_path, case):
    cells, words = FAILING[case]
    lesson = write(cells)
    for _ in range(2 if case == "error" else 1):  # each run starts a kernel
        result = execute(lesson)
        assert not result.cached
        assert any(words in p and p.startswith(str(lesson.path)) for p in result.problems), result.problems
        assert not list((tmp_path / "cache").rglob("*.json")), "a failed run was kept"


STUDENT_FAILING = {
    "passes": (GRADED + "E.grade(2)\n", "passes without an answer"),
    "assertion": (GRADED + "assert False\nE.grade(2)\n", "fails with AssertionError"),
    "name": (GRADED + "nowhere.grade(2)\n", "fails with NameError"),
    "raises elsewhere": ("# %%\nraise NotImplementedError\n", "only graded cells may"),
    "silent check": (
        "# %%\nclass E:\n    def check(self, answer): print('correct')\n\nE().check(None)\n",
        "does not say 'not attempted'",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", STUDENT_FAILING)
def test_what_is_wrong_with_a_student_version_is_told(write, execute, case):
    cells, words = STUDENT_FAILING[case]
    result = execute(write(cells), "student")
    assert any(words in p for p in result.problems), result.problems


@pytest.mark.slow
def test_memory_of_the_lesson_and_its_children_counts(write, execute):
    small_ram = HEADER.replace("ram_mb: 2000", "ram_mb: 400")
    child = "x = b'x' * (400 * 2**20); import time; time.sleep(3)"  # seen on a crowded machine too
    cells = f"# %%\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    result = execute(write(cells, small_ram))
    assert result.peak_mb > 400
    assert any("declares ram_mb: 400" in p for p in result.problems)
    brief = execute(write("# %%\nx = b'x' * (400 * 2**20)\ndel x\n", small_ram))
    assert brief.peak_mb > 400, "a peak between two looks is seen too"


@pytest.mark.slow
def test_a_lesson_that_runs_longer_than_it_declares_fails(write, execute):
    hasty = HEADER.replace("run_minutes: 3", "run_minutes: 0.01")
    result = execute(write("# %%\nimport time\ntime.sleep(0.7)\n", hasty))
    assert any("declares run_minutes: 0.01" in p for p in result.problems)
    assert execute(write("# %%\nimport time\ntime.sleep(0.7)\n", hasty), "book").ok, (
        "what is declared is a student's cost"
    )


# ---- what a kept result depends on


@pytest.mark.slow
def test_a_module_may_name_a_file_that_does_not_exist(write, execute):
    ghost = "ghost = sys.modules['ghost'] = types.ModuleType('ghost')\nghost.__file__ = '_ghost.py'\n"
    lesson = write("# %%\nimport sys, types\n" + ghost)
    assert execute(lesson).ok
    assert execute(lesson).cached


@pytest.mark.slow
def test_a_change_reruns_what_depends_on_it_and_nothing_else(write, tmp_path, monkeypatch):
    source = tmp_path / "src" / "somepackage"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "used.py").write_text("from somepackage.deeper import value\n")
    (source / "deeper.py").write_text("value = 1\n")
    (source / "weights.bin").write_bytes(b"1")
    (source / "unused.py").write_text("")
    data = tmp_path / "numbers.csv"
    data.write_text("1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    reading = "# %%\nfrom somepackage.used import value\n"
    reading += f"with open({str(data)!r}) as file:\n    print(value, file.read())\n"
    lessons = [write(reading), write("# %%\nprint('alone')\n", name="02_alone")]

    def cached():
        time.sleep(0.05)  # a change in the very moment of a run makes it count as unsafe to keep
        results = execute_lessons(lessons, cache=tmp_path / "cache")
        assert all(r.ok for r in results), [r.problems for r in results]
        return [r.cached for r in results]

    # Files made just now, in the same tick as the first run, must not look as if they changed during it.
    past = time.time() - 60
    for path in [*source.iterdir(), data]:
        os.utime(path, (past, past))
    assert cached() == [False, False]
    assert cached() == [True, True]
    for path, content in [
        (source / "deeper.py", "value = 2\n"),
        (source / "weights.bin", "2"),
        (data, "2"),
    ]:
        path.write_text(content)
        assert cached() == [False, True], path
        assert cached() == [True, True], path
    (source / "unused.py").write_text("x = 1\n")
    assert cached() == [True, True]
    lessons[1] = write("# %%\nprint('changed')\n", name="02_alone")
    assert cached() == [True, False]
    monkeypatch.setattr(run, "pins", lambda: "another torch")
    assert cached() == [False, False]


@pytest.mark.slow
def test_a_run_during_which_its_source_changed_is_not_kept(write, execute, tmp_path, monkeypatch):
    module = tmp_path / "src" / "moving.py"
    module.parent.mkdir()
    module.write_text("value = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(module.parent))
    lesson = write(f"# %%\nimport moving\nfrom pathlib import Path\nPath({str(module)!r}).touch()\n")
    assert execute(lesson).ok
    assert not execute(lesson).cached


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"version": 1}', '{"version": 1, "key": {}, "files": 3}'])
def test_a_broken_record_counts_as_none(tmp_path, broken):
    file = tmp_path / "kept.json"
    file.write_text(broken)
    assert run.load_cached(file, {}) is None


def test_a_record_for_another_key_or_a_changed_file_counts_as_none(tmp_path):
    used = tmp_path / "used.py"
    used.write_text("1")
    result = run.Result("01_small", "solution", 1.0, 2.0, 3, 4.0, 5.0, notebook=nbformat.v4.new_notebook())
    file = tmp_path / "kept.json"
    run.keep(file, {"cells": "a"}, {str(used): run.file_digest(used)}, result)
    kept = run.load_cached(file, {"cells": "a"})
    assert kept is not None
    assert (kept.seconds, kept.peak_mb, kept.figures, kept.cached) == (1.0, 2.0, 3, True)
    assert run.load_cached(file, {"cells": "b"}) is None
    used.write_text("2")
    assert run.load_cached(file, {"cells": "a"}) is None
    used.unlink()
    assert run.load_cached(file, {"cells": "a"}) is None


@pytest.mark.slow
def test_an_interrupt_ends_the_kernels_and_keeps_what_was_finished(write, tmp_path):
    write("# %%\nprint('quick')\n", name="01_quick")
    write("# %%\nprint('waits')\nimport time\ntime.sleep(600)\n", name="02_long")
    # A test run in the background inherits that Ctrl-C is ignored; at a terminal it is not.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from coursekit.cli import main; main()"
    command = [sys.executable, "-c", start, "run", "--solution", "-j", "1"]
    command += ["--course", str(tmp_path / "course"), "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kernels: list[psutil.Process] = []

    def interrupt() -> None:
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            if (tmp_path / "cache" / "solution" / "01_quick.json").exists():
                kernels[:] = [
                    p
                    for p in psutil.Process(process.pid).children(recursive=True)
                    if "ipykernel" in " ".join(p.cmdline())
                ]
                if kernels:
                    process.send_signal(2)
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    _, errors = process.communicate(timeout=280)
    thread.join()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert kernels
    _, alive = psutil.wait_procs(kernels, timeout=60)
    assert not alive
    assert (
        json.loads((tmp_path / "cache" / "solution" / "01_quick.json").read_text())["result"]["lesson"]
        == "01_quick"
    )
    assert not (tmp_path / "cache" / "solution" / "02_long.json").exists()


def test_jobs_must_be_positive(write, tmp_path):
    with pytest.raises(ValueError, match="at least one lesson"):
        execute_lessons([write("# %%\n1\n")], cache=tmp_path, jobs=0)
