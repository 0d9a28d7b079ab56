"""Writes measured rows into the book's page on speed, between the two lines that mark their place."""

import re
from pathlib import Path

from .harness import FEW, Row

BEGIN, END = "% rows of make bench: written by its option --page", "% end of the rows"
# Families in the order of the page. Others, such as the rendering of slides, have pages of their own.
FAMILIES = ("bare", "p4m", "p4 ", "steerable", "ring", "SREResNet", "Gaussian", "SESN", "DISCO", "SEUNet")


def is_goal(row: Row) -> bool:
    """Whether the row compares a layer of ours: the bare modules are there to compare with."""
    return not row.row.startswith("bare")


def _place(row: Row) -> tuple:
    family = next(n for n, start in enumerate(FAMILIES) if row.row.startswith(start))
    kernel = re.search(r"(\d+)x\d+", row.row)
    size = re.search(r"\d+", row.shape)
    return (
        family, "e2cnn" in row.against, "inference" in row.row, int(kernel[1]) if kernel else 0,
        int(size[0]) if size else 0,
    )  # fmt: skip


def _line(row: Row) -> str:
    goal = f"{row.goal:.2f}, {'met' if row.met else '**not met**'}" if is_goal(row) else ""
    few = f" ({row.rounds})" if 0 < row.rounds < FEW else ""
    chosen = row.chosen if row.within <= 1.2 else f"{row.chosen} ({row.best}: {1 / row.within:.2f})"
    memory = f"{row.ours_mb:.0f} / {row.theirs_mb:.0f}" + ("" if row.memory else ", **more**")
    return (
        f"| {row.row} | {row.against} | {row.shape} | {row.ours_ms:.1f} | {row.theirs_ms:.1f} | "
        f"{row.ratio:.2f}{few} | {goal} | {chosen} | {memory} |"
    )


def _device(name: str) -> str:
    words = {"cpu, 1 threads": "one thread", "cpu, 2 threads": "two threads"}
    return words.get(name, name)


def tables(rows: list[Row]) -> str:
    """One table a device, each after a sentence on its goals."""
    parts = []
    for device in dict.fromkeys(r.device for r in rows):
        every = [r for r in rows if r.device == device and any(r.row.startswith(start) for start in FAMILIES)]
        ours = [r for r in every if is_goal(r)]
        if not ours:
            continue
        days = sorted(r.when[:10] for r in every)
        parts.append(
            f"**{_device(device).capitalize()}**, {days[0]}"
            + (f" to {days[-1]}" if days[-1] != days[0] else "")
            + f", with {min(r.load for r in every):.0f} to {max(r.load for r in every):.0f} processes wanting a "
            f"core: {sum(r.met for r in ours)} of {len(ours)} goals are met; the choice was within 20 % of the best "
            f"in {sum(r.within <= 1.2 for r in ours)}, memory as asked in {sum(r.memory for r in ours)}.\n\n"
            "| what | beside | shape | ours, ms | theirs, ms | ratio | goal | chosen | MB, ours / theirs |\n"
            "|---|---|---|---|---|---|---|---|---|\n" + "\n".join(_line(r) for r in sorted(every, key=_place))
        )
    return "\n\n".join(parts)


def refresh(file: Path, rows: list[Row]) -> None:
    """Put the tables of ``rows`` in place of those in ``file``.

    Raises:
        ValueError: the page has no lines that mark the place.
    """
    text = file.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{file} has no place for the rows: one line `{BEGIN}` and, after it, one `{END}`")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    file.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{after}")
