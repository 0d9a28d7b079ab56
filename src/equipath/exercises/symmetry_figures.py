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

from coursekit.figures import class_map, error_map, overlay, palette, scale_bar, tissue


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
    """Tiles (3, H, W) side by side with their points (N, 2), both in rows and columns of pixels from the top."""
    widths = [tile.shape[-1] for tile in tiles]
    figure, axes = plt.subplots(1, len(tiles), figsize=(9.5, 4.4), width_ratios=widths, layout="constrained")
    for ax, tile, p, title in zip(axes, tiles, points, titles, strict=True):
        ax.imshow(tile.movedim(0, -1).numpy())
        row, col = p.numpy().T
        ax.plot(col, row, "+", color="black", mew=3.5, ms=11)
        ax.plot(col, row, "+", color=palette["yellow"], mew=1.8, ms=10)
        ax.set(xlabel=f"column (px of {um_per_px:g} µm)", ylabel="row (px)", title=title)
        ax.set(xlim=(-0.5, tile.shape[-1] - 0.5), ylim=(tile.shape[-2] - 0.5, -0.5))
    return figure


def class_maps(
    maps: Sequence[Tensor], titles: Sequence[str], classes: Sequence[str], um_per_px: float
) -> Figure:
    """Label maps (H, W) side by side under one legend."""
    figure, axes = plt.subplots(1, len(maps), figsize=(10.5, 4.1), layout="constrained", sharey=True)
    for k, (ax, labels, title) in enumerate(zip(axes, maps, titles, strict=True)):
        class_map(ax, labels, classes, um_per_px=um_per_px, title=title, legend=k == 0)
        ax.set_ylabel("y (µm)" if k == 0 else "")
    # One legend above all panels, so that they stay of one size.
    own = axes[0].get_legend()
    names = [text.get_text() for text in own.get_texts()]
    figure.legend(own.legend_handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    own.remove()
    return figure


def turned_back(
    image: Tensor, masks: Sequence[Tensor], spread: Tensor, label: str, um_per_px: float | None = None
) -> Figure:
    """Four predictions for one tile, each made in another pose and turned back, and where they disagree.

    Args:
        image: (3, H, W); masks: four bool (H, W), for the turns by 0, 90, 180 and 270 degrees, turned back.
        spread: (H, W) standard deviation over the eight poses. label: what the masks mark.
    """
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 7), layout="constrained")
    places = (axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1])
    for turns, (ax, mask) in enumerate(zip(places, masks, strict=True)):
        overlay(ax, image, mask, um_per_px=um_per_px)
        ax.set_title(f"{label}, as it lay" if turns == 0 else f"seen at {90 * turns}°, turned back")
    # What changed is painted black on the faded tile: black on pale needs no colour.
    faded = 1 - 0.35 * (1 - image.mean(dim=0, keepdim=True).expand(3, -1, -1))
    tissue(axes[0, 2], torch.where(masks[0] != masks[1], 0.0, faded), um_per_px=um_per_px)
    axes[0, 2].set_title("black: 0° and 90° disagree")
    error_map(axes[1, 2], spread, um_per_px=um_per_px, vmax=0.5, label="standard deviation")
    axes[1, 2].set_title("spread over all eight poses")
    for ax in axes.flat:
        if um_per_px:
            ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
            scale_bar(ax)
        else:
            last_row, first_column = ax in axes[1], ax in axes[:, 0]
            ax.set(xlabel="x (px)" if last_row else "", ylabel="y (px)" if first_column else "")
    return figure


def multiplication_table(table: Tensor, labels: Sequence[str]) -> Figure:
    """A group's table (n, n): colour and number say which element a product is; rows act second."""
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


def shift_errors(
    shifts: Sequence[int],
    curves: dict[str, Sequence[float]],
    floor: float = 1e-17,
    ylabel: str = "equivariance error",
) -> Figure:
    """An error for shifts by 0, 1, 2 … pixels, one curve for each map; logarithmic, errors below `floor` on it."""
    figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
    styles = zip(("blue", "vermilion", "black", "purple"), ("o-", "s--", "^:", "d-."), strict=True)
    for (label, values), (color, style) in zip(curves.items(), styles, strict=False):
        ax.semilogy(shifts, np.maximum(values, floor), style, color=palette[color], label=label, markersize=6)
    ax.set(xlabel="shift of the input (px); an error of 0 stands at the lowest mark", ylabel=ylabel)
    ax.set_xticks(list(shifts))
    ax.grid(alpha=0.3)
    if len(curves) > 1:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(curves), frameon=False)
    else:
        ax.set_title(next(iter(curves)))
    return figure


def turn_and_look(
    image: Tensor, probability: Tensor, change: Tensor, title: str, um_per_px: float | None = None
) -> Figure:
    """One frame of the turning slide: the tile as it lies, the network's map, and how far that map changed.

    Args:
        image: (3, H, W); probability: (H, W).
        change: (H, W) absolute difference to the upright answer after turning back, NaN where the turned tile
            did not reach.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.7), layout="constrained")
    tissue(axes[0], image, um_per_px=um_per_px, title=title)
    shown = tissue(axes[1], probability, um_per_px=um_per_px, cmap="cividis", vmin=0, vmax=1)
    axes[1].set_title("the network's answer")
    figure.colorbar(shown, ax=axes[1], label="probability of healthy gland", shrink=0.85)
    error_map(axes[2], torch.nan_to_num(change), um_per_px=um_per_px, vmax=1.0, label="change")
    axes[2].set_title("turned back: what changed")
    outside = np.asarray(torch.isnan(change))
    if outside.any():
        axes[2].imshow(
            np.where(outside, 0.85, np.nan),
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=axes[2].get_images()[0].get_extent(),
        )
        axes[2].set_xlabel("grey: out of view")
    for ax in axes:
        ax.set(xticks=[], yticks=[], ylabel="")
        if um_per_px:
            scale_bar(ax)
    for ax in axes[:2]:
        ax.set_xlabel("")
    return figure
