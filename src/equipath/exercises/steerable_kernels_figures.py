"""The figures of lesson 2: arrows over tissue, what ReLU does to a fan of arrows, what sampling breaks.

Each function takes arrays and returns a matplotlib figure; nothing is computed here that a lesson claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from coursekit.figures import arrows, palette, tissue

STYLES = (("blue", "o-"), ("vermilion", "s--"), ("black", "^:"), ("purple", "d-."), ("green", "v-"))


def fields_on_tissue(
    tiles: Sequence[Tensor], fields: Sequence[Tensor], titles: Sequence[str], scale: float, step: int = 8
) -> Figure:
    """Tiles (3, H, W) side by side, each under its vector field (2, H, W), all arrows drawn to one scale."""
    figure, axes = plt.subplots(
        1, len(tiles), figsize=(3.6 * len(tiles), 3.9), layout="constrained", squeeze=False
    )
    for k, (ax, tile, field, title) in enumerate(zip(axes[0], tiles, fields, titles, strict=True)):
        tissue(ax, 0.45 + 0.55 * tile, title=title)
        arrows(ax, field, step=step, scale=scale, color=palette["black"])
        ax.set(xlabel="x (px)", ylabel="y (px)" if k == 0 else "")
    return figure


def fans(groups: Mapping[str, Tensor]) -> Figure:
    """Arrows (n, 2) from one point, a panel for each group of them."""
    figure, axes = plt.subplots(1, len(groups), figsize=(3.1 * len(groups), 3.3), layout="constrained")
    for ax, (title, ends) in zip(axes, groups.items(), strict=True):
        x, y = ends.numpy().T
        zero = np.zeros_like(x)
        ax.quiver(
            zero, zero, x, y, angles="xy", scale_units="xy", scale=1, color=palette["blue"], width=0.012
        )
        ax.plot(x, y, "o", color=palette["vermilion"], markersize=3.5)
        ax.axhline(0, color="0.8", zorder=0)
        ax.axvline(0, color="0.8", zorder=0)
        ax.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", title=title, xlabel="x", ylabel="y")
    return figure


def error_curves(
    panels: Sequence[tuple[str, str, Sequence[float], Mapping[str, Sequence[float]]]], floor: float = 1e-16
) -> Figure:
    """Errors on logarithmic axes: a panel for each (title, x label, x values, curves); below `floor` on it."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.0 * len(panels), 3.9), layout="constrained", sharey=True, squeeze=False
    )
    for k, (ax, (title, label, x, curves)) in enumerate(zip(axes[0], panels, strict=True)):
        for (name, values), (color, line) in zip(curves.items(), STYLES, strict=False):
            ax.semilogy(x, np.maximum(values, floor), line, color=palette[color], label=name, markersize=5)
        ax.set(title=title, xlabel=label, ylabel="relative error" if k == 0 else "")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9)
    return figure


def turning_arrows(image: Tensor, field: Tensor, distance: Tensor, title: str, scale: float) -> Figure:
    """One frame of the turning slide: tissue with its arrows, and how far each arrow is from where it should be.

    Args:
        image: (3, H, W); field: (2, H, W), what the layer says about it.
        distance: (H, W), length of the difference between that and the turned arrows of the upright picture,
            over their mean length.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.0), layout="constrained")
    tissue(axes[0], 0.45 + 0.55 * image, title=title)
    arrows(axes[0], field, step=7, scale=scale, color=palette["black"])
    shown = axes[1].imshow(
        distance.numpy(), cmap="cividis", vmin=0, vmax=1, extent=axes[0].get_images()[0].get_extent()
    )
    axes[1].set(title="distance to the turned arrows", xlabel="x (px)", xticks=[], yticks=[])
    axes[0].set(xticks=[], yticks=[], xlabel="x (px)", ylabel="y (px)")
    figure.colorbar(shown, ax=axes[1], label="over the mean length", extend="max", shrink=0.85)
    return figure
