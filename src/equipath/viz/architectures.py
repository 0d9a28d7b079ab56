"""How do U-Net, Mask R-CNN and DeepLab turn a picture into a mask: the three, drawn side by side.

Each box is a feature map: its height is the map's height, its width stands for the number of channels. Read
from left to right. Sources: Ronneberger et al. 2015 (U-Net), He et al. 2017 (Mask R-CNN), Chen et al. 2017
(DeepLab v3).
"""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

# Okabe-Ito: told apart with every common colour blindness, and in grey by their lightness.
INK, GREY = "#222222", "#8a8a8a"
IMAGE, ENCODER, DECODER, CONTEXT, ANSWER = "#d9d9d9", "#0072b2", "#e69f00", "#56b4e9", "#cc79a7"


def _box(ax: Axes, x: float, y: float, width: float, height: float, color: str, hatch: str = "") -> None:
    ax.add_patch(
        Rectangle(
            (x - width / 2, y - height / 2),
            width,
            height,
            facecolor=color,
            edgecolor=INK,
            linewidth=0.8,
            hatch=hatch,
        )
    )


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = INK,
    style: str = "-",
    bend: float = 0,
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            linewidth=1.1,
            color=color,
            linestyle=style,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
        )
    )


def _note(ax: Axes, x: float, y: float, text: str, **kwargs: object) -> None:
    style: dict = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, "linespacing": 1.25}
    ax.text(x, y, text, **(style | kwargs))


def _unet(ax: Axes) -> None:
    """A path down, a path up, and a bridge at every resolution."""
    sizes, widths = (3.2, 1.6, 0.8), (0.22, 0.4, 0.7)
    down, up = (2.0, 3.2, 4.5), (10.0, 8.8, 7.5)
    middle = 6.0
    _box(ax, 0.9, 0, 0.12, 3.2, IMAGE)
    _note(ax, 0.9, 2.05, "image")
    _arrow(ax, (1.05, 0), (1.85, 0))
    for x, size, width in zip(down, sizes, widths, strict=True):
        _box(ax, x, 0, width, size, ENCODER)
    _box(ax, middle, 0, 1.1, 0.4, ENCODER)
    for x, size, width in zip(up, sizes, widths, strict=True):
        _box(ax, x, 0, width, size, DECODER, "//")
    stops = [*zip(down, widths, strict=True), (middle, 1.1), *zip(up[::-1], widths[::-1], strict=True)]
    for (x0, w0), (x1, w1) in pairwise(stops):
        _arrow(ax, (x0 + w0 / 2 + 0.06, 0), (x1 - w1 / 2 - 0.06, 0))
    # Skip connections run over the top, from each encoder map to the decoder map of its size.
    for x0, x1, size, lift in (
        (down[0], up[0], sizes[0], 0.7),
        (down[1], up[1], sizes[1], 0.5),
        (down[2], up[2], sizes[2], 0.3),
    ):
        top = size / 2 + 0.08
        ax.plot([x0, x0, x1], [top, top + lift, top + lift], color=GREY, linewidth=1.4, linestyle="--")
        _arrow(ax, (x1, top + lift), (x1, top), GREY)
    _note(ax, 6.0, 2.58, "skip connections carry the fine detail across", color="#5a5a5a")
    _arrow(ax, (up[0] + 0.17, 0), (10.97, 0))
    _box(ax, 11.1, 0, 0.14, 3.2, ANSWER, "..")
    _note(ax, 11.1, 2.05, "one class\nper pixel")
    _note(ax, 3.3, -2.1, "encoder: halve the map, widen it")
    _note(ax, 8.9, -2.1, "decoder: double it again")


def _mask_rcnn(ax: Axes) -> None:
    """First propose boxes, then answer three questions inside each."""
    _box(ax, 0.9, 0, 0.12, 3.2, IMAGE)
    _note(ax, 0.9, 2.05, "image")
    _arrow(ax, (1.05, 0), (2.0, 0))
    for x, size, width in ((2.2, 2.4, 0.3), (2.9, 1.5, 0.5)):
        _box(ax, x, 0, width, size, ENCODER)
    _note(ax, 2.55, -2.15, "backbone")
    _arrow(ax, (3.2, 0), (3.9, 0))
    _box(ax, 4.75, 0, 1.6, 1.5, CONTEXT)
    for x, y, w, h in ((4.4, 0.25, 0.5, 0.6), (5.05, -0.2, 0.6, 0.5), (4.45, -0.42, 0.36, 0.36)):
        ax.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=INK, linewidth=1.4))
    _note(ax, 4.75, -2.15, "region proposals:\nwhere is an object?")
    _arrow(ax, (5.65, 0), (6.85, 0))
    for shift in (0.24, 0.12, 0.0):
        _box(ax, 7.4 + shift, shift, 0.85, 0.85, ENCODER)
    _note(ax, 7.5, -2.15, "each region cut out\nat one fixed size")
    for y, text, size in (
        (1.55, "which class", 0.34),
        (0.1, "which box, finer", 0.34),
        (-1.35, "which pixels: its mask", 0.8),
    ):
        _arrow(ax, (8.25, 0.1), (9.0, y))
        _box(ax, 9.0 + size / 2 + 0.05, y, size, size, ANSWER, "..")
        _note(ax, 9.0 + size + 0.25, y, text, ha="left")


def _deeplab(ax: Axes) -> None:
    """Stop shrinking; look at several distances at once."""
    _box(ax, 0.9, 0, 0.12, 3.2, IMAGE)
    _note(ax, 0.9, 2.05, "image")
    _arrow(ax, (1.05, 0), (2.0, 0))
    for x, size, width in ((2.2, 1.9, 0.3), (2.95, 1.2, 0.6), (3.95, 1.2, 0.8)):
        _box(ax, x, 0, width, size, ENCODER)
    _note(ax, 2.9, -1.7, "backbone: shrinks a little,\nthen keeps its size")
    for y, gap in ((1.6, 1), (0.0, 2), (-1.6, 3)):
        _arrow(ax, (4.42, 0), (5.4, y))
        # The nine taps of a 3x3 filter on a fine grid, `gap` cells apart.
        step, half = 0.19, 3
        for i in range(-half, half + 1):
            ax.plot(
                [6.2 + i * step] * 2,
                [y - half * step, y + half * step],
                color="#c8c8c8",
                linewidth=0.5,
                zorder=0,
            )
            ax.plot(
                [6.2 - half * step, 6.2 + half * step],
                [y + i * step] * 2,
                color="#c8c8c8",
                linewidth=0.5,
                zorder=0,
            )
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                ax.plot(
                    6.2 + i * gap * step, y + j * gap * step, "s", color=CONTEXT, markeredgecolor=INK, ms=4.5
                )
        _note(ax, 6.95, y, f"rate {gap}", ha="left")
        _arrow(ax, (7.75, y), (8.55, 0))
    _box(ax, 8.95, 0, 0.7, 1.2, DECODER, "//")
    _note(ax, 8.95, -1.05, "join")
    _arrow(ax, (9.36, 0), (10.95, 0))
    _note(ax, 10.1, 0.32, "enlarge")
    _box(ax, 11.1, 0, 0.14, 3.2, ANSWER, "..")
    _note(ax, 11.1, 2.05, "one class\nper pixel")
    _note(ax, 6.6, -2.75, "dilated 3x3 filters: nine weights, a wider and wider view")


def three_networks() -> Figure:
    """Draw U-Net, Mask R-CNN and DeepLab under each other; returns the figure (9 x 10 inches)."""
    figure = Figure(figsize=(9, 10), layout="constrained")
    axes = figure.subplots(3, 1)
    titles = (
        "U-Net: down, up, and bridges between",
        "Mask R-CNN: find the objects, then cut each one out",
        "DeepLab: look near and far at once",
    )
    for ax, title, draw in zip(axes, titles, (_unet, _mask_rcnn, _deeplab), strict=True):
        draw(ax)
        ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
        ax.set(xlim=(0.3, 12.2), ylim=(-3.0, 3.0), aspect="equal")
        ax.axis("off")
    return figure
