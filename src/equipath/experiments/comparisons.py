"""What the rate of learning and more steps change: the tables that several experiments show, made in one way.

Both are told from the seeds that all their rows have, and both say who is ahead on validation data, never on the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipath.experiments.results import Table, cell, grouped

__all__ = ["Column", "Rates", "at_best_rate", "rates_of", "seeds_of", "steps_of", "want_of_steps"]

Run = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of measured numbers: its header, the metric, digits and a factor (100 gives percent)."""

    header: str
    metric: str
    digits: int = 3
    scale: float = 1.0


def at_best_rate(runs: Iterable[Run], chosen_by: str) -> list[Run]:
    """Of every network, on every part of the training data, the runs at the rate that is best on validation data.

    Args:
        chosen_by: a metric on validation data, better where lower. Rates are compared on the seeds that all of them
            have; where there are none, that of most runs is taken (of equally many, the lowest).
    """
    kept: list[Run] = []
    for some in grouped(runs, "model", "fraction").values():
        of_rate: dict[float, dict[int, Run]] = {}
        for run in some:
            of_rate.setdefault(run["config"]["lr"], {})[run["seed"]] = run
        seeds = set.intersection(*(set(theirs) for theirs in of_rate.values()))
        reached = {
            lr: [theirs[seed]["metrics"].get(chosen_by) for seed in seeds] for lr, theirs in of_rate.items()
        }
        if seeds and all(value is not None for values in reached.values() for value in values):
            best = min(of_rate, key=lambda lr, reached=reached: (float(np.mean(reached[lr])), lr))  # type: ignore[misc]
        else:
            best = min(of_rate, key=lambda lr, of_rate=of_rate: (-len(of_rate[lr]), lr))  # type: ignore[misc]
        kept += of_rate[best].values()
    return kept


def seeds_of(*counts: int) -> str:
    """ "3 seeds" where every number of a table is of three, "1 to 3 seeds" where some are of fewer."""
    least, most = min(counts), max(counts)
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most != 1)}"


@dataclass(frozen=True)
class Rates:
    """Every network at every rate.

    Attributes:
        table: a row for each.
        runs: {(network, rate): runs of the common seeds}.
        best: the rate of each network that is best on validation data.
    """

    table: Table
    runs: dict[tuple[str, float], list[Run]]
    best: dict[str, float]

    def mean(self, arm: str, lr: float, metric: str) -> float:
        """The mean of a metric over the common seeds."""
        return float(np.mean([run["metrics"][metric] for run in self.runs[arm, lr]]))


def rates_of(
    runs: Iterable[Run],
    arms: Sequence[str],
    columns: Sequence[Column],
    chosen_by: str,
    on: str,
    more: str = "",
) -> Rates | None:
    """What the rate does to those of `arms` that have several, on all training data; None if none has.

    Args:
        chosen_by: the metric, on validation data and better where it is lower, by which a rate is best.
        on: data set and size, for the caption; `more` ends it.
    """
    by = {
        (arm, lr): some
        for (arm, lr), some in grouped(
            # Runs from before a metric was taken say nothing here.
            (r for r in runs if r["config"].get("fraction", 1) == 1 and chosen_by in r["metrics"]),
            "model",
            "lr",
        ).items()
        if arm in arms
    }
    several = {arm: sorted(lr for its, lr in by if its == arm) for arm in arms}
    several = {arm: lrs for arm, lrs in several.items() if len(lrs) > 1}
    keys = [(arm, lr) for arm, lrs in several.items() for lr in lrs]
    if not keys or not (seeds := set.intersection(*({run["seed"] for run in by[key]} for key in keys))):
        return None
    by = {key: [run for run in by[key] if run["seed"] in seeds] for key in keys}
    rows = [
        [arm, f"{lr:g}", *(cell(by[arm, lr], c.metric, c.digits, c.scale) for c in columns)]
        for arm, lr in keys
    ]
    table = Table(
        ("network", "rate", *(c.header for c in columns)), rows,
        f"The rate of learning ({on}, {seeds_of(len(seeds))}).{more}",
    )  # fmt: skip
    found = Rates(table, by, {})
    reached = {key: found.mean(*key, chosen_by) for key in keys}
    best = {arm: min((reached[arm, lr], lr) for lr in lrs)[1] for arm, lrs in several.items()}
    return Rates(table, by, best)


def steps_of(
    runs: Iterable[Run],
    arms: Sequence[str],
    against: Sequence[tuple[str, str]],
    columns: Sequence[Column],
    chosen_by: Column,
    on: str,
) -> list[str | Table]:
    """What three times as many steps change for those of `arms` that have a run "ARM long" at the rate of a short one.

    Args:
        against: pairs (plain, ours): is ours behind for want of steps? Answered by the gap in `chosen_by`, which is
            measured on validation data; its header ends the sentence.
    """
    by = grouped((run for run in runs if run["config"].get("fraction", 1) == 1), "model", "lr")
    pairs: dict[str, list[list[Run]]] = {}
    for arm in arms:
        if both := sorted(lr for its, lr in by if its == arm and (f"{arm} long", lr) in by):
            pairs[arm] = [by[arm, both[0]], by[f"{arm} long", both[0]]]
    every = [some for pair in pairs.values() for some in pair]
    if not every or any(c.metric not in run["metrics"] for c in columns for some in every for run in some):
        return []
    if not (seeds := set.intersection(*({run["seed"] for run in some} for some in every))):
        return []
    rows: list[list[str]] = []
    gaps: dict[str, list[dict[int, float]]] = {}
    rates: dict[float, list[str]] = {}
    for arm, pair in pairs.items():
        rates.setdefault(pair[0][0]["config"]["lr"], []).append(arm)
        for end, some in zip(("", " long"), pair, strict=True):
            kept = [run for run in some if run["seed"] in seeds]
            epochs = f"{kept[0]['config']['epochs']}"
            rows.append([f"{arm}{end}", epochs, *(cell(kept, c.metric, c.digits, c.scale) for c in columns)])
            gaps.setdefault(arm, []).append({run["seed"]: run["metrics"][chosen_by.metric] for run in kept})
    words = []
    for plain, ours in against:
        if plain in gaps and ours in gaps:
            short, long = (
                [b[seed] - a[seed] for seed in sorted(seeds)]
                for a, b in zip(gaps[plain], gaps[ours], strict=True)
            )
            words.append(
                f"Against {plain}, {ours}'s {chosen_by.header} is {np.mean(short):+.3f} after the short training and "
                f"{np.mean(long):+.3f} after the long one{want_of_steps(short, long)}."
            )
    told = ", ".join(
        f"{lr:g}" if len(rates) == 1 else f"{lr:g} ({', '.join(some)})" for lr, some in rates.items()
    )
    table = Table(
        ("network", "epochs", *(c.header for c in columns)), rows,
        f"Three times as many steps ({on}, {seeds_of(len(seeds))}); rate of learning: {told}.",
    )  # fmt: skip
    return [table, *([" ".join(words)] if words else [])]


def want_of_steps(short: Sequence[float], long: Sequence[float]) -> str:
    """What the gaps to another network (positive: behind), seed by seed, after a short and a long training say, as the
    end of a sentence: "" for a network that was not behind in the mean.
    """
    if np.mean(short) <= 0:
        return ""
    if min(short) <= 0:
        return "; behind or ahead, the seeds do not agree"
    if max(long) <= 0:
        return ": it was behind for want of steps"
    if max(b / a for a, b in zip(short, long, strict=True)) < 0.5:
        return ": more than half of what it lacked was steps"
    if min(b / a for a, b in zip(short, long, strict=True)) >= 0.5:
        return ": it does not lack steps alone"
    return "; how much of it was steps, the seeds do not agree"
