"""Does every lesson run, from the first cell to the last, within the time and memory that it declares?

Each lesson runs in a kernel of its own, two at a time, in an empty working directory and without a network. A
result is kept in a cache together with the hash of everything that it depends on: the cells, the `src`
modules that the kernel really imported, the data files that it really opened, the installed packages. So a
change in `src` reruns the lessons that import it and no others.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib.metadata
import json
import os
import queue
import shutil
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from coursekit.lesson import (
    LESSON_NAME,
    Lesson,
    book_page,
    is_answer,
    is_graded,
    notebook_text,
    parse,
    read_lessons,
    student_notebook,
    write_if_changed,
)

__all__ = ["Result", "Variant", "book_pages", "execute_lessons", "table"]

Variant = Literal["solution", "student", "book"]
CACHE_VERSION = 1
SAMPLE_SECONDS = 0.05  # how often the memory of the kernel's process tree is looked at
LARGE_FILE = 64 * 2**20  # bytes; larger data files are told apart by size and time of change, not by content

# Run in the kernel before the first cell and after the last.
WATCH = "import sys, coursekit.probe; sys.addaudithook(coursekit.probe.watch)"
FACTS = "__import__('coursekit.probe').probe.facts()"


@dataclass
class Result:
    """What one run of one lesson gave; `problems` is empty where all is well."""

    lesson: str
    variant: Variant
    seconds: float = 0.0
    peak_mb: float = 0.0
    figures: int = 0
    points: float = 0.0
    max_points: float = 0.0
    problems: list[str] = field(default_factory=list)
    cached: bool = False
    notebook: NotebookNode | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Did the run end without a problem?"""
        return not self.problems


# ---------------------------------------------------------------------- dependencies


def digest(data: bytes) -> str:
    """Hash of bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's content; of a large file's size and time of change; `absent` where there is none."""
    try:
        stat = path.stat()
        if stat.st_size > LARGE_FILE:
            return f"{stat.st_size}:{stat.st_mtime_ns}"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "absent"


def pins() -> str:
    """Hash of the Python version and of all installed packages with their versions.

    The packages of this repository are left out: of them the files count.
    """
    own = {"equipath", "coursekit"}
    # Not all of sys.path: setuptools adds its own copies to it when it is imported.
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = {(d.metadata["Name"], d.version) for d in importlib.metadata.distributions(path=folders)}
    return digest("\n".join([sys.version, *(f"{n}=={v}" for n, v in sorted(found) if n not in own)]).encode())


def data_folder(course: Path) -> Path | None:
    """The folder of public data sets: `EQUIPATH_DATA`, else `shared/data` beside the repository; None where
    there is none.
    """
    named = os.environ.get("EQUIPATH_DATA")
    folder = Path(named) if named else course.resolve().parent.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def data_state(course: Path) -> str:
    """Hash of what lies in the data folder, two levels deep, by name, size and time: compiled readers open
    files unseen.
    """
    folder = data_folder(course)
    if folder is None:
        return "no data"
    entries = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        stat = path.stat()
        entries.append(
            f"{path.relative_to(folder)} {'' if path.is_dir() else stat.st_size} {stat.st_mtime_ns}"
        )
    return digest("\n".join([str(folder), *entries]).encode())


def cells_digest(notebook: NotebookNode) -> str:
    """Hash of everything in a notebook that a run depends on or shows."""
    cells = [[c.id, c.cell_type, c.source, c.metadata] for c in notebook.cells]
    return digest(json.dumps([cells, notebook.metadata], sort_keys=True).encode())


def dependencies(facts: dict[str, Any], scratch: Path) -> list[Path]:
    """The files outside the Python installation that a kernel imported or read, and the data files of the
    packages among them.

    Compiled code (safetensors, HDF5) opens files without telling Python; so every file that is not Python in
    an imported package of ours counts as read.
    """
    temporary = Path(tempfile.gettempdir()).resolve()
    home = Path.home()
    # Settings and caches of the tools, and what the system holds, are no part of a lesson.
    outside = [
        Path("/proc"),
        Path("/sys"),
        Path("/dev"),
        Path("/etc"),
        home / ".cache",
        home / ".config",
        home / ".local",
    ]
    outside += [home / ".ipython", home / ".jupyter", home / ".matplotlib", scratch.resolve()]
    installed = [Path(p).resolve() for p in {sys.prefix, sys.base_prefix, sys.exec_prefix}]
    installed += [Path(p).resolve() for p in {os.path.dirname(os.__file__)}]

    def ours(path: Path) -> bool:
        if any(path.is_relative_to(p) for p in (*installed, *outside)):
            return (
                any(part in {"equipath", "coursekit"} for part in path.parts)
                and "site-packages" in path.parts
            )
        return True

    files: set[Path] = set()
    packages: set[Path] = set()
    for name in facts["modules"]:
        path = Path(name).resolve()
        # Some modules name a file that does not exist (torch's `_classes.py`).
        if path.suffix == ".py" and path.is_file() and ours(path):
            files.add(path)
            folder = path.parent
            while (folder.parent / "__init__.py").is_file():
                folder = folder.parent
            if (folder / "__init__.py").is_file():
                packages.add(folder)
    for folder in packages:
        for path in folder.rglob("*"):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
            if path.is_file() and path.suffix not in {".py", ".pyc"} and not hidden:
                files.add(path)
    for name in facts["read"]:
        path = Path(name).resolve()
        if (
            ours(path)
            and path.is_file()
            and path.suffix != ".pyc"
            and not path.is_relative_to(temporary / "ipykernel")
        ):
            files.add(path)
    return sorted(files)


def cache_file(cache: Path, lesson: str, variant: Variant) -> Path:
    """Where a result is kept."""
    return cache / variant / f"{lesson}.json"


def load_cached(file: Path, key: dict[str, str]) -> Result | None:
    """The kept result where everything that it depends on is unchanged; anything unreadable counts as nothing
    kept.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["version"] != CACHE_VERSION or kept["key"] != key:
            return None
        if any(file_digest(Path(path)) != value for path, value in kept["files"].items()):
            return None
        result = Result(**kept["result"])
        result.notebook = nbformat.reads(json.dumps(kept["notebook"]), as_version=4)
        result.cached = True
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep(file: Path, key: dict[str, str], files: dict[str, str], result: Result) -> None:
    """Writes a sound result into the cache, whole or not at all."""
    measured = {
        k: getattr(result, k)
        for k in ("lesson", "variant", "seconds", "peak_mb", "figures", "points", "max_points")
    }
    content = {
        "version": CACHE_VERSION,
        "key": key,
        "files": files,
        "result": measured,
        "notebook": result.notebook,
    }
    write_if_changed(file, json.dumps(content, indent=1, sort_keys=True) + "\n")


# ---------------------------------------------------------------------- execution


class Memory(threading.Thread):
    """Watches the resident memory of a process and its children; `peak_mb` after `stop()`."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.peak = 0
        self.ended = threading.Event()

    def look(self) -> None:
        """One look; the kernel's own highest mark is kept by Linux, the children's has to be caught."""
        try:
            own = self.process.memory_info().rss
            children = sum(child.memory_info().rss for child in self.process.children(recursive=True))
        except psutil.Error:
            return
        self.peak = max(self.peak, own + children)
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            self.look()

    def stop(self) -> float:
        """Ends the watch and returns the peak in megabytes (2**20 bytes)."""
        self.look()
        self.ended.set()
        self.join()
        return self.peak / 2**20


class Running:
    """The kernels that are alive, so that an interrupt can end them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pids: set[int] = set()
        self.stopped = False

    def add(self, pid: int) -> None:
        """A kernel has started."""
        with self.lock:
            self.pids.add(pid)
            late = self.stopped
        if late:  # it was starting when the interrupt came
            self.stop()

    def remove(self, pid: int) -> None:
        """A kernel has ended."""
        with self.lock:
            self.pids.discard(pid)

    def stop(self) -> None:
        """Ends every kernel with its children."""
        with self.lock:
            self.stopped = True
            for pid in self.pids:
                try:
                    process = psutil.Process(pid)
                    for child in [*process.children(recursive=True), process]:
                        child.kill()
                except psutil.Error:
                    pass


def kernel_environment(scratch: Path, variant: Variant, jobs: int) -> dict[str, str]:
    """The kernel's environment: this one, made the same for every user, with the cores shared between the
    jobs.
    """
    # A backend that was chosen for scripts would keep pictures out of the notebook.
    environment = {k: v for k, v in os.environ.items() if k not in {"COURSEKIT_BOOK", "MPLBACKEND"}}
    environment["IPYTHONDIR"] = str(scratch / "ipython")
    environment["PYTHONHASHSEED"] = "0"
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    if variant == "book":
        environment["COURSEKIT_BOOK"] = "1"
    return environment


async def execute(
    lesson: Lesson,
    notebook: NotebookNode,
    variant: Variant,
    scratch: Path,
    jobs: int,
    running: Running,
    progress: Callable[[int, int], None],
) -> tuple[Result, dict[str, Any] | None]:
    """Runs one notebook in a kernel of its own; the result, and what the kernel imported and read (None where
    it died).
    """
    result = Result(lesson.name, variant, max_points=lesson.points, notebook=notebook)
    (scratch / "lesson").mkdir()
    client = NotebookClient(
        notebook,
        # A lesson that hangs is ended well after the time that it declares.
        timeout=int(lesson.run_minutes * 60 * 3 + 60),
        startup_timeout=180,
        kernel_name="python3",
        allow_errors=variant == "student",
        force_raise_errors=variant != "student",
        record_timing=False,
        store_widget_state=True,
        extra_arguments=["--HistoryManager.hist_file=:memory:"],
    )
    facts: dict[str, Any] | None = None
    cell: NotebookNode | None = None
    with open(scratch / "kernel.log", "wb") as log:
        async with client.async_setup_kernel(
            cwd=str(scratch / "lesson"),
            env=kernel_environment(scratch, variant, jobs),
            stdout=log,
            stderr=log,
        ):
            pid = kernel_pid(client)
            running.add(pid)
            memory = Memory(pid)
            memory.start()
            try:
                await reply(client, WATCH)
                start = time.perf_counter()
                code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
                for count, index in enumerate(code, start=1):
                    cell = notebook.cells[index]
                    progress(count, len(code))
                    await client.async_execute_cell(cell, index)
                result.seconds = time.perf_counter() - start
                client.set_widgets_metadata()
                raw = await reply(client, "", FACTS)
                facts = json.loads(ast.literal_eval(raw))
            except CellExecutionError as error:
                where = lesson.where(cell.id) if cell else lesson.name
                name = cell.id if cell else "?"
                result.problems.append(
                    f"{where}: cell {name!r} raises {error.ename}: {first_line(error.evalue)}"
                )
            except CellTimeoutError:
                where = lesson.where(cell.id) if cell else lesson.name
                result.problems.append(
                    f"{where}: the cell did not end within {client.timeout} seconds and was stopped"
                )
            except DeadKernelError:
                where = lesson.where(cell.id) if cell else lesson.name
                result.problems.append(
                    f"{where}: the kernel died in this cell (out of memory, or a crash in compiled code)"
                )
            finally:
                result.peak_mb = memory.stop()
                running.remove(pid)
    return result, facts


def kernel_pid(client: NotebookClient) -> int:
    """The process of a started kernel."""
    provisioner = client.km.provisioner if client.km else None
    pid = getattr(provisioner, "pid", None)
    if pid is None:
        raise RuntimeError(
            "the kernel runs in no process of this machine; use the kernel python3 of this environment"
        )
    return pid


async def reply(client: NotebookClient, code: str, expression: str = "None") -> str:
    """Runs code in the kernel without a trace in the notebook and returns the `repr` of an expression.

    Raises DeadKernelError where the kernel ends meanwhile.
    """
    channel: Any = client.kc
    manager: Any = client.km
    deadline = time.monotonic() + 120
    message = channel.execute(code, silent=True, store_history=False, user_expressions={"value": expression})
    while True:
        try:
            answer = await channel.get_shell_msg(timeout=0.5)
        except queue.Empty:
            if time.monotonic() > deadline:
                raise RuntimeError("the kernel runs but does not answer") from None
            if await manager.is_alive():
                continue
            raise DeadKernelError("the kernel ended before it answered") from None
        if answer["parent_header"].get("msg_id") == message:
            break
    content = answer["content"]
    if content["status"] != "ok" or content["user_expressions"]["value"]["status"] != "ok":
        raise RuntimeError(f"the kernel could not be asked for its state: {content}")
    return content["user_expressions"]["value"]["data"]["text/plain"]


def first_line(text: str) -> str:
    """The first line of an error's message."""
    return (str(text).strip().splitlines() or [""])[0]


# ---------------------------------------------------------------------- judgement


def figures_in(notebook: NotebookNode) -> int:
    """How many pictures and interactive views the outputs show."""
    return sum(is_figure(output) for cell in notebook.cells for output in cell.get("outputs", []))


def is_figure(output: NotebookNode) -> bool:
    """Is this output a picture or an interactive view?"""
    kinds = output.get("data", {})
    return any(k.startswith("image/") or k == "application/vnd.jupyter.widget-view+json" for k in kinds)


def lacks_alt(output: NotebookNode) -> bool:
    """Is this output a picture without alt text in its metadata (its own, or that of its type)?"""
    kinds = [k for k in output.get("data", {}) if k.startswith("image/")]
    metadata = output.get("metadata", {})
    return bool(kinds) and not (metadata.get("alt") or any(metadata.get(k, {}).get("alt") for k in kinds))


def errors_of(cell: NotebookNode) -> list[NotebookNode]:
    """The error outputs of a cell."""
    return [o for o in cell.get("outputs", []) if o.output_type == "error"]


def stderr_of(cell: NotebookNode) -> str:
    """What a cell wrote to stderr."""
    return "".join(
        o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stderr"
    )


def shown_text(cell: NotebookNode) -> str:
    """Everything that a cell shows as text, in small letters."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts += [v for v in output.get("data", {}).values() if isinstance(v, str)]
    return "".join(parts).casefold()


def says_not_attempted(error: NotebookNode) -> bool:
    """Is this the error of an exercise that nobody has answered, and not a mistake of the lesson?"""
    return error.ename == "NotImplementedError" or (
        error.ename == "NoPoints" and "not attempted" in error.evalue.casefold()
    )


def asks_for_verdict(source: str) -> bool:
    """Does the cell call some exercise's `.check(...)`?"""
    calls = (node for node in ast.walk(parse(source)) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Attribute) and call.func.attr == "check" for call in calls)


def judge(lesson: Lesson, result: Result, facts: dict[str, Any] | None) -> None:
    """Adds to `result.problems` all that is wrong with a run that came to its end, and counts figures and
    points.
    """
    notebook = result.notebook
    assert notebook is not None
    result.figures = figures_in(notebook)
    if facts is None:
        return
    if facts["reached"] and not lesson.download_mb:
        result.problems.append(
            f"{lesson.path}: declares download_mb: 0 but reaches for "
            f"{', '.join(facts['reached'])}; ship the file, or declare it"
        )
    # A lesson declares what it costs a student; the book, which draws every frame of every interactive
    # figure, may cost more.
    for_student = result.variant != "book"
    if for_student and result.seconds > lesson.run_minutes * 60:
        result.problems.append(
            f"{lesson.path}: ran for {result.seconds:.0f} s but declares run_minutes: "
            f"{lesson.run_minutes:g}; "
            "make it do less, or declare more"
        )
    if for_student and result.peak_mb > lesson.ram_mb:
        result.problems.append(
            f"{lesson.path}: used {result.peak_mb:.0f} MB but declares ram_mb: {lesson.ram_mb:g}; "
            "make it use less, or declare more"
        )
    if result.variant == "student":
        judge_student(lesson, result)
    else:
        judge_solution(lesson, result)


def judge_solution(lesson: Lesson, result: Result) -> None:
    """With solutions in place: full points, no stderr in graded cells, alt text on every picture."""
    from nbgrader.utils import determine_grade

    assert result.notebook is not None
    for cell in result.notebook.cells:
        if cell.cell_type != "code":
            continue
        where = lesson.where(cell.id)
        if any(lacks_alt(o) for o in cell.outputs):
            result.problems.append(
                f"{where}: a picture without alt text; show it with coursekit.figures.show(fig, alt=...)"
            )
        if not is_graded(cell) or is_answer(cell):
            continue
        if stderr_of(cell):
            result.problems.append(
                f"{where}: graded cell {cell.id!r} writes to stderr "
                f"({first_line(stderr_of(cell))}); nbgrader scores that 0"
            )
        try:
            score, most = determine_grade(cell)
        except ValueError as error:  # more points than there are
            result.problems.append(f"{where}: graded cell {cell.id!r}: {error}")
            continue
        result.points += score or 0
        if score is not None and score < most and not stderr_of(cell):
            result.problems.append(f"{where}: the solution earns {score:g} of {most:g} points in {cell.id!r}")


def judge_student(lesson: Lesson, result: Result) -> None:
    """Untouched: every check says `not attempted`, every graded cell fails cleanly, no other cell fails."""
    assert result.notebook is not None
    for cell in result.notebook.cells:
        if cell.cell_type != "code":
            continue
        where = f"{lesson.where(cell.id)}: student version, cell {cell.id!r}"
        errors = errors_of(cell)
        if is_graded(cell):
            if is_answer(cell):
                continue
            if not errors:
                result.problems.append(f"{where} is graded and passes without an answer")
            elif not says_not_attempted(errors[0]):
                result.problems.append(
                    f"{where} is graded and fails with {errors[0].ename}: {first_line(errors[0].evalue)}; "
                    "it must say 'not attempted' (end it with exercise.grade(answer))"
                )
            if stderr_of(cell):
                result.problems.append(
                    f"{where} is graded and writes to stderr: {first_line(stderr_of(cell))}"
                )
        elif errors:
            result.problems.append(
                f"{where} raises {errors[0].ename}: {first_line(errors[0].evalue)}; only graded "
                "cells may, so let it cope "
                "with an answer that is not there yet"
            )
        elif asks_for_verdict(cell.source) and "not attempted" not in shown_text(cell):
            result.problems.append(f"{where} checks an exercise and does not say 'not attempted'")


# ---------------------------------------------------------------------- all together


def execute_lessons(
    lessons: Sequence[Lesson],
    *,
    cache: Path,
    variants: Sequence[Variant] = ("solution",),
    jobs: int = 2,
    fresh: bool = False,
    say: Callable[[str], None] = lambda line: None,
    step: Callable[[str, int, int], None] = lambda name, cell, cells: None,
) -> list[Result]:
    """Runs lessons, `jobs` at a time, and returns one result for each lesson and variant in that order.

    Variants: `solution` (instructor notebook), `student` (nothing answered, errors allowed), `book`
    (instructor notebook with COURSEKIT_BOOK=1). Sound results are kept in `cache`; `fresh` ignores them.
    `say` gets a line at each start and end, `step` the cell that a lesson is at. An interrupt ends the
    kernels; what was finished stays kept.

    Raises ValueError where jobs is not positive.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; run at least one lesson at a time")
    running = Running()
    installed = pins()
    tasks = [(lesson, variant) for lesson in lessons for variant in variants]

    def one(lesson: Lesson, variant: Variant) -> Result:
        name = lesson.name if variant == "solution" else f"{lesson.name} ({variant})"
        notebook = student_notebook(lesson) if variant == "student" else deepcopy(lesson.notebook)
        key = {
            "cells": cells_digest(notebook),
            "lesson": digest(repr((lesson.run_minutes, lesson.ram_mb, lesson.download_mb)).encode()),
            "pins": installed,
            "data": data_state(lesson.path.parent),
        }
        file = cache_file(cache, lesson.name, variant)
        kept = None if fresh else load_cached(file, key)
        if kept:
            say(f"{name}: unchanged, kept from the last run")
            return kept
        if running.stopped:
            raise KeyboardInterrupt
        say(f"{name}: starts")
        started = time.time_ns()
        scratch = Path(tempfile.mkdtemp(prefix="coursekit-run-"))
        try:
            result, facts = asyncio.run(
                execute(lesson, notebook, variant, scratch, jobs, running, lambda i, n: step(name, i, n))
            )
            if running.stopped:
                raise KeyboardInterrupt
            judge(lesson, result, facts)
            if result.ok and facts is not None:
                used = dependencies(facts, scratch)
                # A file that changed during the run may have been read before or after: such a run says
                # nothing about it.
                if all(path.stat().st_mtime_ns < started for path in used):
                    keep(file, key, {str(p): file_digest(p) for p in used}, result)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        ended = "done" if result.ok else f"{len(result.problems)} problem{'s' * (len(result.problems) > 1)}"
        say(f"{name}: {ended} after {result.seconds:.0f} s, {result.peak_mb:.0f} MB")
        return result

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(one, lesson, variant) for lesson, variant in tasks]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            running.stop()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Rows (lesson, version, seconds, peak RAM in MB, figures, points, state) for people to read."""
    rows: list[tuple[str, ...]] = []
    for r in results:
        points = f"{r.points:g}/{r.max_points:g}" if r.variant != "student" else f"0/{r.max_points:g}"
        state = ("kept" if r.cached else "ran") if r.ok else "FAILS"
        rows.append(
            (r.lesson, r.variant, f"{r.seconds:.1f}", f"{r.peak_mb:.0f}", str(r.figures), points, state)
        )
    return rows


def book_pages(
    course: Path,
    out: Path,
    *,
    cache: Path,
    names: Sequence[str] = (),
    jobs: int = 2,
    say: Callable[[str], None] = lambda line: None,
    step: Callable[[str, int, int], None] = lambda name, cell, cells: None,
) -> tuple[list[Path], list[str]]:
    """Runs lessons for the book and writes `out/NN_topic.ipynb`: stubs as source, the solutions' outputs
    below.

    Returns the pages and the problems of lessons that did not run (their pages are not written). Pages of
    lessons that no longer exist are removed when all lessons are made.
    """
    lessons = read_lessons(course, names)
    results = execute_lessons(lessons, cache=cache, variants=("book",), jobs=jobs, say=say, step=step)
    pages, problems = [], []
    for lesson, result in zip(lessons, results, strict=True):
        problems += result.problems
        if result.ok and result.notebook is not None:
            page = Path(out) / f"{lesson.name}.ipynb"
            write_if_changed(page, notebook_text(book_page(lesson, result.notebook)))
            pages.append(page)
    if not names:
        for stale in Path(out).glob("[0-9][0-9]_*.ipynb"):
            if LESSON_NAME.match(stale.stem) and stale.stem not in {lesson.name for lesson in lessons}:
                stale.unlink()
    return pages, problems
