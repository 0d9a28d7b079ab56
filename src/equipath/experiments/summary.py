"""The first table of the page of results: where the equivariant network is ahead of the plain one, and by how much.

Each experiment names its comparisons (`CLAIMS`); they are made seed by seed, on the seeds that both networks have, on
all training data and on the fewest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipath.experiments.comparisons import seeds_of
from equipath.experiments.results import Table, grouped

__all__ = ["Claim", "summary"]

NARROW = "\N{NO-BREAK SPACE}"
"""Between words that a narrow column is not to part."""


@dataclass(frozen=True)
class Claim:
    """One comparison of two networks by one number.

    Attributes:
        data: the sets on which it is made.
        ours, plain: arms of the experiment.
        name: the number in words, as the page shows it.
        metric: its key in a run's metrics; a function of the run where it depends on the network.
        lower: whether less is better.
        digits, scale: how it is shown; a scale of 100 gives percent.
    """

    data: tuple[str, ...]
    ours: str
    plain: str
    name: str
    metric: str | Callable[[dict[str, Any]], float | None]
    lower: bool = False
    digits: int = 3
    scale: float = 1.0

    def of(self, run: dict[str, Any]) -> float | None:
        """The number of one run; None where it was not measured."""
        return self.metric(run) if callable(self.metric) else run["metrics"].get(self.metric)


@dataclass(frozen=True)
class _Gap:
    ours: float
    plain: float
    ahead: float
    seeds_ahead: int
    seeds: int


def _gap(claim: Claim, ours: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> _Gap | None:
    first, second = (
        {run["seed"]: value for run in some if (value := claim.of(run)) is not None} for some in (ours, plain)
    )
    if not (seeds := sorted(first.keys() & second.keys())):
        return None
    a, b = (
        np.array([values[seed] for seed in seeds], dtype=float) * claim.scale for values in (first, second)
    )
    ahead = b - a if claim.lower else a - b
    return _Gap(a.mean(), b.mean(), ahead.mean(), int((ahead > 0).sum()), len(seeds))


def _told(gap: _Gap | None, digits: int) -> list[str]:
    """Two cells: "0.767 / 0.734" and "+0.033 (3 of 3)", which breaks before the parenthesis only; dashes where there is
    nothing to compare.
    """
    if gap is None:
        return ["–", "–"]
    return [
        f"{gap.ours:.{digits}f} / {gap.plain:.{digits}f}",
        f"{gap.ahead:+.{digits}f} ({gap.seeds_ahead}{NARROW}of{NARROW}{gap.seeds})",
    ]


def _agreed(gaps: Sequence[_Gap]) -> str:
    """ "ahead on every seed in 9 of 21 rows, behind on every seed in 3": in the others the seeds do not agree."""
    ahead, behind = (
        sum(gap.seeds_ahead == wanted(gap) for gap in gaps) for wanted in (lambda g: g.seeds, lambda g: 0)
    )
    rest = len(gaps) - ahead - behind
    text = f"ahead on every seed in {ahead} of {len(gaps)} row{'s' * (len(gaps) != 1)} and behind on every seed in {behind}"
    return text + f" (in the other {rest} the seeds do not agree)" * (rest > 0)


def summary(
    experiments: Sequence[
        tuple[Sequence[Claim], Callable[..., list[dict[str, Any]]], Sequence[dict[str, Any]]]
    ],
    size: str = "small",
) -> list[str | Table]:
    """The table and a sentence that counts its rows.

    Args:
        experiments: of each its claims, what picks the runs on one set that its page shows, and all runs.

    Returns:
        Nothing where no pair of networks has a seed in common.
    """
    rows: list[list[str]] = []
    full: list[_Gap] = []
    fewer: list[tuple[_Gap, _Gap]] = []
    seeds: list[int] = []
    for claims, shown, runs in experiments:
        for claim in claims:
            for data in claim.data:
                some = [run for run in runs if (run["data"], run["size"]) == (data, size)]
                by = grouped(shown(some), "model", "fraction")
                at = {
                    fraction or 1.0: gap
                    for arm, fraction in by
                    if arm == claim.ours
                    and (gap := _gap(claim, by[arm, fraction], by.get((claim.plain, fraction), [])))
                }
                if 1.0 not in at:
                    continue
                least = min(at)
                few = at[least] if least < 1 else None
                rows.append([
                    f"{data}: {claim.ours} / {claim.plain}", claim.name, *_told(at[1.0], claim.digits),
                    f"{100 * least:.3g}{NARROW}%" if few else "–", *_told(few, claim.digits),
                ])  # fmt: skip
                full.append(at[1.0])
                seeds.append(at[1.0].seeds)
                if few:
                    fewer.append((at[1.0], few))
                    seeds.append(few.seeds)
    if not rows:
        return []
    text = f"On all training data the first network of a row is {_agreed(full)}"
    if fewer:
        more = sum(few.ahead > whole.ahead for whole, few in fewer)
        text += (
            f"; on the fewest it is {_agreed([few for _, few in fewer])}, and in {more} of these the mean difference is more "
            "in its favour than on all"
        )
    return [
        Table(
            ("data: networks", "measure", "all data", "ahead by", "share", "fewest data", "ahead by"), rows,
            f"The first network against the second (size {size}, {seeds_of(*seeds)}): both numbers, means over the seeds that "
            "both have; by how much the first is better (negative: worse), and on how many of the seeds; the same "
            "after training on the smallest share of the data that was tried.",
        ),
        f"{text}.",
    ]  # fmt: skip
