"""The page of results: made from the runs in `book/results` and from nothing else, so that no number is typed.

`equipath report` writes `book/results.md` and the figures in `book/images/results/`; a test makes the page again
and compares.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from equipath.experiments import NAMES
from equipath.experiments.results import SIZES, Picture, Table, grouped, load, results_folder
from equipath.experiments.summary import summary

__all__ = ["page", "write"]

INTRODUCTION = """\
# Results

The papers' experiments, run again with this library: `equipath run NAME --data … --size … --seed …` makes one run of
each network (`--seeds N`: N runs), `equipath report` makes this page from all of them. Every number of ours is the
mean ± standard deviation over the runs that differ in their seed alone; a number without ± comes from one run. The ±
tells how far one training lies from the next. How far other test patients would move a number it does not tell; in size
`small` that may be more, since the test pictures are few.
Numbers of a paper stand beside ours with the paper cited. They were measured on the paper's data with the paper's
networks; ours were not, unless the table says so: compare the order of the rows rather than their height.

Size `small` takes minutes on two cores: small networks, few pictures, short training. Size `paper` is the paper's own
setting. Data sets: *slides* are rendered ([vector slides](vector_slides.md)), the others are real tissue
([data sets](library/datasets.md)), split by patient where patients are known. Whatever was tuned was tuned on
validation data.
"""


def page(folder: Path | None = None) -> tuple[str, dict[str, Any]]:
    """The page as Markdown, and its figures by file name.

    Args:
        folder: of the results; `results_folder()` by default.
    """
    parts: list[str] = []
    figures: dict[str, Any] = {}
    every = {name: load(name, folder=folder) for name in NAMES}
    for name, runs in every.items():
        if not runs:
            continue
        module = import_module(f"equipath.experiments.{name}")
        _one_setting(name, runs, getattr(module, "RATES_APART", False))
        parts.append(f"## {getattr(module, 'TITLE', name)}\n")
        with _told(name):
            made = list(module.report(runs))
        for part in made:
            if isinstance(part, Picture):
                file = f"{name}-{part.name}.png"
                if file in figures:
                    raise ValueError(
                        f"{name} has two pictures called {part.name!r}; name one of them otherwise."
                    )
                figures[file] = part.figure
                parts.append(_picture(part, file))
            else:
                parts.append(_table(part) if isinstance(part, Table) else _paragraph(part))
    parts.append(_runs(every))
    with _told("one of the experiments"):
        return "\n".join([INTRODUCTION, *_in_short(every), *parts]), figures


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What a run does not hold is said with its experiment."""
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"a run of {name} does not tell its {error}: it was made by another version; run it again, or delete "
            "its file."
        ) from error
    except TypeError as error:
        raise ValueError(
            f"a run of {name} holds something else than was expected ({error}); run it again, or delete its file."
        ) from error


def _in_short(every: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the experiments compare, in one table for each size."""
    compared = []
    for name, runs in every.items():
        module = import_module(f"equipath.experiments.{name}")
        compared.append((getattr(module, "CLAIMS", ()), getattr(module, "shown", list), runs))
    found = [part for size in SIZES for part in summary(compared, size)]
    shown = [_table(part) if isinstance(part, Table) else _paragraph(part) for part in found]
    return ["## In short\n", *shown] if shown else []


def _one_setting(name: str, runs: Sequence[dict[str, Any]], rates_apart: bool = False) -> None:
    """Refuse runs of one row that were made with different settings: their mean would be of nothing.

    ``rates_apart``: the experiment's page keeps runs of different rates apart.
    """
    first: dict[Any, dict[str, Any]] = {}
    for run in runs:
        # How many pictures a share of the patients has, the draw of the patients decides.
        config = {key: value for key, value in run["config"].items() if key != "patches"}
        rate = config.get("lr") if rates_apart else None
        row = run["data"], run["size"], config.get("model"), config.get("fraction"), rate
        other = first.setdefault(row, config)
        if differing := [key for key in config.keys() | other.keys() if config.get(key) != other.get(key)]:
            raise ValueError(
                f"runs of {name} ({', '.join(str(part) for part in row if part is not None)}) differ in "
                f"{', '.join(sorted(differing))}; run them again with one setting, or delete the old files."
            )


def write(book: Path | None = None, folder: Path | None = None) -> Path:
    """Write the page and its figures into `book` and return the page's path.

    Raises:
        ValueError: there is no result yet, or no book here.
    """
    book = results_folder().parent if book is None else book
    text, figures = page(folder)
    if not any(load(name, folder=folder) for name in NAMES):
        raise ValueError("there is no result yet; `equipath run NAME` makes one.")
    if not (book / "_toc.yml").is_file():
        raise ValueError(f"{book} is no folder of the book; run this in a checkout of the course.")
    pictures = book / "images" / "results"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in set(pictures.glob("*.png")) - {pictures / file for file in figures}:
        old.unlink()
    for file, figure in figures.items():
        (pictures / file).write_bytes(png(figure))
    (book / "results.md").write_text(text)
    return book / "results.md"


def png(figure: Any) -> bytes:
    """A figure as the page shows it."""
    store = io.BytesIO()
    figure.savefig(store, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    return store.getvalue()


def _paragraph(part: str) -> str:
    # A network's + at the start of a sentence is no bullet of a list.
    return re.sub(r"^([-+*]) ", r"\\\1 ", part.strip()) + "\n"


def _picture(part: Picture, file: str) -> str:
    alt = " ".join(part.alt.split())
    if not alt:
        raise ValueError(
            f"the picture {part.name!r} has no alt text: say what a reader who cannot see it needs."
        )
    return f"```{{figure}} images/results/{file}\n:alt: {alt}\n:width: 100%\n\n{part.caption.strip()}\n```\n"


def _table(part: Table) -> str:
    if wrong := [row for row in part.rows if len(row) != len(part.header)]:
        raise ValueError(f"a row has {len(wrong[0])} cells under {len(part.header)} headers: {wrong[0]}")
    # Numbers to the right, words to the left.
    columns = zip(*part.rows, strict=True)
    rule = [
        "---:" if all(re.match(r"(below |[*−–-]*)\d|–", cell) for cell in column) else "---"
        for column in columns
    ]
    lines = [list(part.header), rule, *map(list, part.rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f":::{{table}} {' '.join(part.caption.split())}\n\n{body}\n:::\n"


def _runs(every: dict[str, list[dict[str, Any]]]) -> str:
    """What was run, for how long, on what: the last table of the page."""
    rows: list[Sequence[str]] = []
    for name, runs in every.items():
        for (data, size), some in grouped(runs, "data", "size").items():
            seeds = len({run["seed"] for run in some})
            with _told(name):
                minutes = sum(run["seconds"] for run in some) / 60
            devices = "; ".join(sorted({run["device"] for run in some}))
            rows.append((name, data, size, str(len(some)), str(seeds), f"{minutes:.0f}", devices))
    header = ("experiment", "data", "size", "runs", "seeds", "minutes", "device")
    text = "Each run is a file in `book/results/`, with its settings, versions and all its numbers.\n"
    return f"## What was run\n\n{text}\n" + _table(Table(header, rows, "All runs behind this page."))
