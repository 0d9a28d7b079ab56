"""What the rate of learning and more steps change: the tables that several experiments show, made in one way.

Rates are told from the seeds that all rates of a network have, steps from those of all rows, and both say who is ahead
on validation data, never on the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipath.experiments.results import Table, cell, grouped

__all__ = ["BEST", "Column", "Rates", "at_best_rate", "rates_of", "seeds_of", "steps_of", "want_of_steps"]

Run = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of measured numbers: its header, the metric, digits and a factor (100 gives percent)."""

    header: str
    metric: str
    digits: int = 3
    scale: float = 1.0


BEST = "Each network has the rate of learning, of those tried, that is best for it on validation data."


def at_best_rate(runs: Iterable[Run], chosen_by: str) -> list[Run]:
    """Of every network, on every part of the training data, the runs at the rate that is best on validation data.

    Args:
        chosen_by: a metric on validation data, better where lower. Rates are compared on the seeds that all of them
            have; where there are none, that of most runs is taken (of equally many, the lowest).
    """
    kept: list[Run] = []
    for some in grouped(runs, "model", "fraction").values():
        of_rate = {lr: its for (lr,), its in grouped(some, "lr").items()}
        common = _on_common_seeds(of_rate)
        if common and all(chosen_by in run["metrics"] for its in common.values() for run in its):
            best = _best(common, chosen_by)
        else:
            best = min((-len(its), lr) for lr, its in of_rate.items())[1]
        kept += of_rate[best]
    return kept


def _on_common_seeds(of_rate: dict[float, list[Run]]) -> dict[float, list[Run]]:
    """The runs of one network at each rate, those of the seeds that every rate has; nothing where there is none."""
    seeds = set.intersection(*({run["seed"] for run in its} for its in of_rate.values()))
    return {lr: [run for run in its if run["seed"] in seeds] for lr, its in of_rate.items()} if seeds else {}


def _best(of_rate: dict[float, list[Run]], chosen_by: str) -> float:
    """The rate with the lowest mean of a metric; of equal ones the lowest."""
    return min(
        (float(np.mean([run["metrics"][chosen_by] for run in its])), lr) for lr, its in of_rate.items()
    )[1]


def seeds_of(*counts: int) -> str:
    """ "3 seeds" where every number of a table is of three, "1 to 3 seeds" where some are of fewer."""
    least, most = min(counts), max(counts)
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most != 1)}"


@dataclass(frozen=True)
class Rates:
    """Every network at every rate.

    Attributes:
        table: a row for each.
        runs: {(network, rate): runs of the seeds that all rates of the network have}.
        best: the rate of each network that is best on validation data.
    """

    table: Table
    runs: dict[tuple[str, float], list[Run]]
    best: dict[str, float]

    def mean(self, arm: str, lr: float, metric: str) -> float:
        """The mean of a metric over these runs."""
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
    of_arm: dict[str, dict[float, list[Run]]] = {}
    for (arm, lr), some in grouped(runs, "model", "lr").items():
        # Runs from before a metric was taken say nothing here.
        whole = [r for r in some if r["config"].get("fraction", 1) == 1 and chosen_by in r["metrics"]]
        if whole and arm in arms:
            of_arm.setdefault(arm, {})[lr] = whole
    of_arm = {
        arm: dict(sorted(common.items()))
        for arm in arms
        if len(of_arm.get(arm, {})) > 1 and (common := _on_common_seeds(of_arm[arm]))
    }
    if not of_arm:
        return None
    by = {(arm, lr): its for arm, rates in of_arm.items() for lr, its in rates.items()}
    rows = [
        [arm, f"{lr:g}", *(cell(its, c.metric, c.digits, c.scale) for c in columns)]
        for (arm, lr), its in by.items()
    ]
    table = Table(
        ("network", "rate", *(c.header for c in columns)), rows,
        f"The rate of learning ({on}, {seeds_of(*map(len, by.values()))}).{more}",
    )  # fmt: skip
    return Rates(table, by, {arm: _best(rates, chosen_by) for arm, rates in of_arm.items()})


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
