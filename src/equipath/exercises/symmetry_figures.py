"""The figures of lesson 1: a tile in eight poses, what a network says about each, a multiplication table.

Each function takes arrays and returns a matplotlib figure; nothing is computed here that a lesson claims.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from coursekit.figures import error_map, overlay, palette, scale_bar, tissue


def eight_poses(poses: Sequence[Tensor], labels: Sequence[str], um_per_px: float | None = None) -> Figure:
    """Eight pictures (3, H, W) in two rows of four, each under its name."""
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    for a, (ax, pose, label) in enumerate(zip(axes.flat, poses, labels, strict=True)):
        tissue(ax, pose, um_per_px=um_per_px, title=f"{a}: {label}")
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
        if um_per_px:
            scale_bar(ax)
    return figure


def points_on_tiles(
    tiles: Sequence[Tensor], points: Sequence[Tensor], titles: Sequence[str], um_per_px: float
) -> Figure:
    """Tiles (3, H, W) side by side with their points (N, 2), given as (row, column) of pixel centres."""
    figure, axes = plt.subplots(1, len(tiles), figsize=(4.6 * len(tiles), 4.2), layout="constrained")
    for ax, tile, p, title in zip(axes, tiles, points, titles, strict=True):
        tissue(ax, tile, um_per_px=um_per_px, title=title)
        row, col = (p.numpy() + 0.5).T * um_per_px
        ax.plot(col, tile.shape[-2] * um_per_px - row, "o", mfc="none", mec="black", mew=1.4, ms=9)
        ax.plot(col, tile.shape[-2] * um_per_px - row, "+", color=palette["yellow"], mew=1.6, ms=6)
    return figure


def turned_back(
    image: Tensor, masks: Sequence[Tensor], spread: Tensor, label: str, um_per_px: float | None = None
) -> Figure:
    """Four predictions for one tile, each made in another pose and turned back, and where the eight disagree.

    Args:
        image: (3, H, W); masks: four bool (H, W), for the turns by 0, 90, 180 and 270 degrees, turned back.
        spread: (H, W) standard deviation over the eight poses. label: what the masks mark.
    """
    figure, axes = plt.subplots(1, 5, figsize=(13.5, 3.1), layout="constrained")
    for turns, (ax, mask) in enumerate(zip(axes, masks, strict=False)):
        overlay(ax, image, mask, um_per_px=um_per_px)
        ax.set_title(f"{label}, as it lay" if turns == 0 else f"seen at {90 * turns}°, turned back")
        if um_per_px:
            scale_bar(ax)
    error_map(axes[4], spread, um_per_px=um_per_px, vmax=0.5, label="standard deviation")
    axes[4].set_title("where the eight disagree")
    for ax in axes:
        ax.set(xlabel="" if um_per_px else "x (px)", ylabel="", yticks=[])
        if um_per_px:
            ax.set_xticks([])
    return figure


def multiplication_table(table: Tensor, labels: Sequence[str]) -> Figure:
    """A group's table (n, n): colour and number say which element a product is; rows act second, columns
    first."""
    n = len(table)
    figure, ax = plt.subplots(figsize=(7.2, 5.6), layout="constrained")
    ax.imshow(np.asarray(table), cmap="cividis", vmin=-1, vmax=n - 1)
    for a in range(n):
        for b in range(n):
            value = int(table[a, b])
            ax.text(b, a, str(value), ha="center", va="center", color="white" if value < n / 2 else "black")
    ax.set_xticks(range(n), [f"{k}" for k in range(n)])
    ax.set_yticks(range(n), [f"{k}: {label}" for k, label in enumerate(labels)])
    ax.set(xlabel="b, acts first", ylabel="a, acts second")
    return figure


def shift_errors(shifts: Sequence[int], curves: dict[str, Sequence[float]], floor: float = 1e-17) -> Figure:
    """The equivariance error for shifts by 0, 1, 2 … pixels, one curve for each map; logarithmic, errors of 0
    at `floor`."""
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    styles = zip(("blue", "vermilion", "black", "purple"), ("o-", "s--", "^:", "d-."), strict=True)
    for (label, values), (color, style) in zip(curves.items(), styles, strict=False):
        ax.semilogy(shifts, np.maximum(values, floor), style, color=palette[color], label=label, markersize=5)
    ax.set(xlabel="shift of the input (px)", ylabel="equivariance error")
    ax.set_xticks(list(shifts))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(curves), frameon=False)
    return figure


def turn_and_look(
    image: Tensor, probability: Tensor, change: Tensor, title: str, um_per_px: float | None = None
) -> Figure:
    """One frame of the turning slide: the tile as it lies, the network's map, and how far that map, turned
    back, changed.

    Args:
        image: (3, H, W); probability: (H, W); change: (H, W) absolute difference to the upright answer, NaN
        outside.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.9), layout="constrained")
    tissue(axes[0], image, um_per_px=um_per_px, title=title)
    shown = axes[1].imshow(np.asarray(probability), cmap="cividis", vmin=0, vmax=1)
    axes[1].set(title="the network's answer", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1], label="probability of healthy gland", shrink=0.8)
    error_map(axes[2], torch.nan_to_num(change), um_per_px=um_per_px, vmax=1.0, label="change")
    axes[2].set_title("turned back: what changed")
    return figure
