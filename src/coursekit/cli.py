"""The `coursekit` command: build, run and show the course.

Each command imports what it needs when it runs, so that `coursekit --help` answers at once. A failure the
user can mend is one sentence on stderr and exit status 1, never a traceback.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="coursekit",
    help="Build, run and show the lessons of a course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Lessons = Annotated[
    list[str] | None,
    typer.Argument(
        help="Lessons by name or number (01_symmetry, 01); all of them if left out.", show_default=False
    ),
]
Course = Annotated[
    Path | None,
    typer.Option(
        "--course", help="The folder of the lessons. Default: course/ of this repository.", show_default=False
    ),
]
Cache = Annotated[
    Path | None, typer.Option(help="Where results are kept. Default: build/cache.", show_default=False)
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Lessons to run at a time.")]


def main() -> None:
    """Entry point: runs the command and turns what the user can mend into a sentence."""
    try:
        app(standalone_mode=True)
    except SystemExit as ending:
        if ending.code == 130:  # how typer ends a command that was interrupted: without a word
            fail(["interrupted; what was finished is kept"], status=130)
        raise
    except KeyboardInterrupt:
        fail(["interrupted; what was finished is kept"], status=130)
    except FileNotFoundError as error:
        fail([str(error) if not error.filename else f"{error.filename}: {error.strerror}"])
    except (OSError, ValueError) as error:
        fail([getattr(error, "strerror", None) or str(error)])
    except Exception as error:
        # Named here, not imported: the import would cost every command its start-up time.
        if type(error).__name__ not in {"LessonError", "BookError"}:
            raise
        fail(getattr(error, "problems", None) or [str(error)])


def fail(sentences: Sequence[str], status: int = 1) -> None:
    """Prints sentences to stderr and ends the program."""
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    raise SystemExit(status)


def course_of(course: Path | None) -> Path:
    """The course folder that was named, else the one of this repository."""
    from coursekit.lesson import course_folder

    if course is None:
        return course_folder()
    if not course.is_dir():
        raise FileNotFoundError(f"{course} is not a folder; give --course the folder that holds the lessons")
    return course.resolve()


def plural(count: int, word: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


@app.command()
def build(
    lessons: Lessons = None,
    course: Course = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. Default: build/.", show_default=False)
    ] = None,
) -> None:
    """Make the instructor, student and solution notebooks."""
    from coursekit import lesson

    folder = course_of(course)
    target = out or folder.parent / "build"
    changed = lesson.build(folder, target, lessons or ())
    for path in changed:
        print(f"{path} {'written' if path.exists() else 'removed (its lesson is gone)'}")
    print(f"{plural(len(changed), 'file')} changed in {target}")


@app.command("lab-copy")
def lab_copy(
    course: Course = None,
    work: Annotated[
        Path | None, typer.Option(help="The students' folder. Default: work/.", show_default=False)
    ] = None,
) -> None:
    """Put the student notebooks into the working folder; a file you changed is never overwritten."""
    from coursekit import lesson

    folder = course_of(course)
    target = work or folder.parent / "work"
    notebooks: dict[str, str] = {}
    for one in lesson.read_lessons(folder):
        student = lesson.student_notebook(one)
        leaks = lesson.find_leaks(one, student)
        if leaks:
            raise lesson.LessonError(leaks)
        notebooks[f"{one.name}.ipynb"] = lesson.notebook_text(student)
    placed = lesson.place_student_notebooks(notebooks, target)
    for item in placed:
        print(item.note, file=sys.stderr if item.how == "failed" else sys.stdout)
    if any(item.how == "failed" for item in placed):
        raise SystemExit(1)


@app.command()
def run(
    lessons: Lessons = None,
    course: Course = None,
    student: Annotated[bool, typer.Option("--student", help="Run the student version only.")] = False,
    solution: Annotated[
        bool, typer.Option("--solution", help="Run the version with solutions only.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run everything again, whatever is kept.")] = False,
    jobs: Jobs = 2,
    cache: Cache = None,
) -> None:
    """Run lessons from the first cell to the last, with solutions and as students get them."""
    from coursekit import run as runner
    from coursekit.lesson import read_lessons

    folder = course_of(course)
    both: tuple[runner.Variant, ...] = ("solution", "student")
    variants = tuple(v for v in both if {"solution": solution, "student": student}[v]) or both
    with progress() as (say, step):
        results = runner.execute_lessons(
            read_lessons(folder, lessons or ()),
            cache=cache or folder.parent / "build" / "cache",
            variants=variants,
            jobs=jobs,
            fresh=fresh,
            say=say,
            step=step,
        )
    head = ("lesson", "version", "seconds", "peak RAM (MB)", "figures", "points", "state")
    print_table(head, runner.table(results))
    problems = [problem for result in results for problem in result.problems]
    if problems:
        fail(problems)


@app.command("book-pages")
def book_pages(
    lessons: Lessons = None,
    course: Course = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. Default: build/book/pages.", show_default=False)
    ] = None,
    jobs: Jobs = 2,
    cache: Cache = None,
) -> None:
    """Make the executed pages of the book: stubs as source, the solutions' outputs below."""
    from coursekit import run as runner

    folder = course_of(course)
    target = out or folder.parent / "build" / "book" / "pages"
    with progress() as (say, step):
        pages, problems = runner.book_pages(
            folder,
            target,
            cache=cache or folder.parent / "build" / "cache",
            names=lessons or (),
            jobs=jobs,
            say=say,
            step=step,
        )
    for page in pages:
        print(page)
    if problems:
        fail(problems)


@app.command()
def book(
    course: Course = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. Default: build/book.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Look at every page afterwards: links, alt text, requests.")
    ] = True,
) -> None:
    """Build the book: run the lessons for it, make the pages, and check them."""
    from coursekit import book as maker

    print(maker.build(course_of(course).parent, out=out, check=check))


@app.command()
def exercises(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List every exercise: lesson, points, how many alternatives, misconceptions and hints."""
    from coursekit.check import list_exercises

    entries = list_exercises()
    if as_json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    columns = ("lesson", "exercise", "points", "alternatives", "misconceptions", "hints")
    print_table(columns, [tuple(str(entry[column]) for column in columns) for entry in entries])


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    numeric = [bool(rows) and all(row[i][:1].isdigit() and i > 0 for row in rows) for i in range(len(head))]

    def show(row: Sequence[str]) -> None:
        cells = (
            text.rjust(w) if right else text.ljust(w)
            for text, w, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip())

    show(head)
    show(["-" * width for width in widths])
    for row in rows:
        show(row)


@contextmanager
def progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """(say, step): lines in a log; on a terminal also a bar for each lesson that is running."""
    if not sys.stdout.isatty():
        lock = threading.Lock()

        def log(line: str) -> None:
            with lock:
                print(line, flush=True)

        yield log, lambda name, cell, cells: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, transient=True) as bars:
        tasks: dict[str, object] = {}

        def step(name: str, cell: int, cells: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=cells)
            bars.update(tasks[name], completed=cell, visible=cell < cells)  # type: ignore[arg-type]

        yield bars.console.print, step
