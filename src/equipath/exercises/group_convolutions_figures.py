"""The figures of lesson 3: a stencil in four poses, the planes of a feature map as they move, votes, sizes, angles.

Each function takes arrays and returns a matplotlib figure; nothing is computed here that a lesson claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from coursekit.figures import palette, tissue

STYLES = (("blue", "o-"), ("vermilion", "s--"), ("black", "^:"), ("purple", "d-."))
# One frame an element, a colour for the turn and dashes for the mirror, none of the colours in PuOr; its number
# stands beside it, as colour alone tells nothing.
FRAMES = tuple(
    (colour, line) for line in ("-", (0, (2, 1.5))) for colour in ("black", "sky", "green", "yellow")
)


def _numbers(ax: Axes, grid: Tensor, title: str, caption: str = "") -> None:
    """A grid of numbers, dark where they are low."""
    a = np.asarray(grid, dtype=float)
    low, high = a.min(), a.max()
    ax.imshow(a, cmap="cividis", vmin=low - 0.1, vmax=high + 0.1)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            dark = a[i, j] < (low + high) / 2
            text = f"{a[i, j]:g}".replace("-", "\N{MINUS SIGN}")
            ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    ax.set(xticks=[], yticks=[], title=title, xlabel=caption)


def stencil_by_hand(
    patches: Sequence[Tensor], names: Sequence[str], poses: Sequence[Tensor], answers: Tensor
) -> Figure:
    """A row for each patch (3, 3): its numbers, the stencil in its poses, and under each what it answers.

    Args:
        answers: (number of patches, number of poses).
    """
    rows, columns = len(patches), len(poses) + 1
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 2.35 * rows), layout="constrained", squeeze=False
    )
    for row, (patch, name) in enumerate(zip(patches, names, strict=True)):
        _numbers(axes[row, 0], patch, name)
        for r, pose in enumerate(poses):
            _numbers(
                axes[row, r + 1],
                pose,
                f"stencil, {90 * r}°",
                f"answer {r}: {float(answers[row, r]):g}".replace("-", "\N{MINUS SIGN}"),
            )
    return figure


def _plane(ax: Axes, plane: Tensor, limit: float, element: int | None = None) -> AxesImage:
    """Purple is positive and orange negative; the frame is that of an element, if there is one."""
    image = ax.imshow(np.asarray(plane), cmap="PuOr", vmin=-limit, vmax=limit)
    ax.set(xticks=[], yticks=[])
    if element is not None:
        colour, line = FRAMES[element]
        for spine in ax.spines.values():
            spine.set(visible=True, color=palette[colour], linewidth=2.6, linestyle=line)
    return image


def one_filter(image: Tensor, kernel: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """A picture (3, H, W), a filter (k, k), and what it answers: maps (H', W') on one scale, with its key."""
    figure, axes = plt.subplots(
        1,
        2 + len(maps),
        figsize=(3.1 * (1.4 + len(maps)), 3.3),
        width_ratios=[1, 0.4] + [1] * len(maps),
        layout="constrained",
    )
    tissue(axes[0], image, title="the picture")
    _plane(axes[1], kernel, float(kernel.abs().max()))
    axes[1].set(title="the filter", xlabel=f"{kernel.shape[-1]} px")
    limit = max(float(values.abs().max()) for values in maps.values())
    for ax, (name, values) in zip(axes[2:], maps.items(), strict=True):
        drawn = _plane(ax, values, limit)
        ax.set_title(name, fontsize=11)
    figure.colorbar(drawn, ax=axes[2:], shrink=0.75, label="answer of the filter")
    return figure


def planes(image: Tensor, filters: Sequence[Tensor], field: Tensor, names: Sequence[str]) -> Figure:
    """A picture (3, H, W), and for each plane of a field (n, H, W) the filter's pose and the response.

    Planes stand in rows of four: the turns, then the mirrored ones; each with its small filter above it.
    """
    n = len(field)
    limit = float(field.abs().max()) * 0.8
    figure = plt.figure(figsize=(11, 3.4 * (n // 4)), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, width_ratios=(1, 3.2), squeeze=False)
    ax = left.subplots()
    tissue(ax, image, title="the picture")
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
    grid = right.subplots(2 * (n // 4), 4, height_ratios=[1, 2.6] * (n // 4), squeeze=False)
    for g in range(n):
        row, column = divmod(g, 4)
        small, large = grid[2 * row, column], grid[2 * row + 1, column]
        _plane(small, filters[g], float(filters[g].abs().max()), g)
        small.set_title(f"{g}: {names[g]}", fontsize=10)
        _plane(large, field[g], limit, g)
    return figure


def moving_planes(
    images: Sequence[Tensor], before: Tensor, after: Tensor, sources: Sequence[int], title: str
) -> Figure:
    """One frame of the moving field: a picture and its planes on the left, the moved ones on the right.

    Args:
        images: the picture (3, H, W) and the moved one.
        before, after: their fields (n, H, W). sources: for each place of ``after``, the plane of ``before`` that
            stands there; its number and its frame go with it.
    """
    n = len(before)
    rows = n // 4
    limit = float(before.abs().max()) * 0.8
    figure = plt.figure(figsize=(12, 1.75 * rows + 2.1), layout="constrained")
    (halves,) = figure.subfigures(1, 2, wspace=0.06, squeeze=False)
    for half, image, field, origin, name in zip(
        halves, images, (before, after), (range(n), sources), ("before", title), strict=True
    ):
        half.suptitle(name)
        top, bottom = half.subfigures(2, 1, height_ratios=(2.1, 1.75 * rows))
        ax = top.subplots()
        tissue(ax, image)
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
        grid = bottom.subplots(rows, 4, squeeze=False)
        for place, (plane, source) in enumerate(zip(field, origin, strict=True)):
            ax = grid[divmod(place, 4)]
            _plane(ax, plane, limit, source)
            ax.set_title(f"place {place}: plane {source}", fontsize=9)
    return figure


def maps_in_a_row(
    image: Tensor,
    maps: Mapping[str, Tensor],
    points: Tensor | None = None,
    um_per_px: float | None = None,
) -> Figure:
    """A picture (3, H, W) and maps (H', W') that see its middle, each with its own scale; points (N, 2) are marked.

    Points are (row, column) in the picture; maps are drawn where their pixels lie in it, and points that lie outside
    of a map are left out there.
    """
    figure, axes = plt.subplots(
        1, 1 + len(maps), figsize=(3.5 * (1 + len(maps)), 3.7), layout="constrained", squeeze=False
    )
    tissue(axes[0, 0], image, um_per_px=um_per_px, title="the picture")
    height, width = image.shape[-2:]
    size = 1.0 if um_per_px is None else um_per_px
    for ax, (name, values) in zip(axes[0, 1:], maps.items(), strict=True):
        a = np.full((height, width), np.nan)
        top, left = (height - values.shape[0]) // 2, (width - values.shape[1]) // 2
        a[top : top + values.shape[0], left : left + values.shape[1]] = np.asarray(values)
        drawn = ax.imshow(a, cmap="cividis", extent=(0, width * size, 0, height * size))
        figure.colorbar(drawn, ax=ax, shrink=0.75, location="right")
        unit = "px" if um_per_px is None else "µm"
        ax.set(title=name, xlabel=f"x ({unit})")
    if points is not None:
        at = np.asarray(points)
        for ax, seen in zip(axes[0], (image[0], *maps.values()), strict=True):
            border = (np.array([height, width]) - np.array(seen.shape)) // 2
            row, col = at[((at >= border) & (at <= border + np.array(seen.shape) - 1)).all(1)].T
            x, y = (col + 0.5) * size, (height - row - 0.5) * size
            ax.plot(x, y, "o", color="black", markerfacecolor="none", mew=1.8, ms=13)
            ax.plot(x, y, "o", color=palette["yellow"], markerfacecolor="none", mew=0.8, ms=13)
            ax.set(xlim=(0, width * size), ylim=(0, height * size))
    return figure


def error_by_size(
    panels: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[int]]], floor: float = 1e-17
) -> Figure:
    """Errors against the size of the picture, a panel for each (sizes, errors, exact sizes); exact ones are ringed."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 3.7), layout="constrained", sharey=True, squeeze=False
    )
    for k, (ax, (title, (sizes, errors, exact))) in enumerate(zip(axes[0], panels.items(), strict=True)):
        values = np.maximum(errors, floor)
        ax.semilogy(sizes, values, "s", color=palette["vermilion"], markersize=5, label="measured")
        ringed = [(s, v) for s, v in zip(sizes, values, strict=True) if s in set(exact)]
        if ringed:
            ax.semilogy(
                *zip(*ringed, strict=True),
                "o",
                color=palette["blue"],
                markerfacecolor="none",
                markersize=12,
                markeredgewidth=1.8,
                label="in your list",
            )
        ax.set(
            title=title,
            xlabel="side of the picture (px)",
            ylabel="error under a quarter turn" if k == 0 else "",
        )
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, loc="center left", fontsize=9)
    return figure


def curves(x: Sequence[float], lines: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Curves over one axis, from zero, told apart by colour, line and mark."""
    figure, ax = plt.subplots(figsize=(7.5, 3.5), layout="constrained")
    for (name, values), (colour, line) in zip(lines.items(), STYLES, strict=False):
        ax.plot(x, values, line, color=palette[colour], label=name, markersize=5)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure
