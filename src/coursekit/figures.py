"""Figures that every reader can use: alt text stored with the output, colours that survive colour
blindness, scale in micrometres.

Images are `(3, H, W)` or `(H, W, 3)` or `(H, W)`, as tensors or arrays; label maps are `(H, W)`; vector
fields are `(2, H, W)` with components (x right, y up). With `um_per_px` an axis is drawn in micrometres, x
to the right and y up, row 0 of the image on top.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox
from matplotlib.patches import Patch
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

__all__ = [
    "arrows",
    "class_map",
    "error_map",
    "image_row",
    "overlay",
    "palette",
    "scale_bar",
    "show",
    "style",
    "tissue",
]

# Okabe and Ito (2008), "Color Universal Design": told apart under the three common forms of colour blindness.
palette: dict[str, str] = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
    "black": "#000000",
}

# Colour alone must never carry a class: class k also has its own hatching and its own outline.
_HATCHES = ("", "//", "..", "\\\\", "xx", "oo", "++", "--")
_LINES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (5, 1)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 3)),
)


def show(fig: Figure, alt: str, *, scale: float = 2.0) -> None:
    """Display `fig` once, as a PNG with `alt` as its alternative text, and close it.

    `alt` says what a reader who cannot see the picture needs to know. It is stored in the output's metadata
    (`metadata["image/png"]["alt"]`). JupyterLab 4 and nbconvert's lab template show a bare PNG without that
    text, so the output also holds an HTML `img` that carries it. `scale` is the number of pixels a CSS
    pixel gets (2: sharp on dense screens).

    Raises `TypeError` if `fig` is no matplotlib figure and `ValueError` if `alt` is empty.
    """
    if not isinstance(fig, Figure):
        raise TypeError(
            f"show: got {type(fig).__name__}, want a matplotlib Figure, such as the one from plt.subplots()"
        )
    text = _need_alt(alt)
    store = io.BytesIO()
    fig.savefig(
        store, format="png", dpi=fig.dpi * scale, facecolor="white", bbox_inches="tight", pad_inches=0.08,
        pil_kwargs={"optimize": True},
    )  # fmt: skip
    plt.close(fig)
    png = store.getvalue()
    # A PNG states its size in its header; the screen size is that divided by the scale.
    width, height = (round(int.from_bytes(png[i : i + 4], "big") / scale) for i in (16, 20))
    mime, small = _smaller(png)
    uri = f"data:{mime};base64,{base64.b64encode(small).decode()}"
    markup = (
        f'<img src="{uri}" alt="{html.escape(text)}" width="{width}" height="{height}" class="ck-figure" '
        'style="max-width: 100%; height: auto; background: #fff; border-radius: 6px">'
    )
    display(
        {"image/png": base64.b64encode(png).decode(), "text/html": markup, "text/plain": text},
        metadata={"image/png": {"alt": text, "width": width, "height": height}},
        raw=True,
    )


def _need_alt(alt: str) -> str:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(
            'show: the figure has no alt text; pass alt="…" that says in one or two sentences what a '
            "reader who cannot see the picture needs to know"
        )
    return " ".join(alt.split())


def _smaller(png: bytes) -> tuple[str, bytes]:
    """The same picture as WebP where that is smaller; text and edges stay sharp at this quality."""
    from PIL import Image

    store = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(store, "WEBP", quality=90, method=4)
    webp = store.getvalue()
    return ("image/webp", webp) if len(webp) < len(png) else ("image/png", png)


def style() -> None:
    """Set the course's matplotlib style: fonts, palette, a white ground on dark pages too."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.prop_cycle": cycler(color=[c for n, c in palette.items() if n != "yellow"]),
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "hatch.linewidth": 0.8,
        }
    )


# --------------------------------------------------------------------------------------------------
# one axis


def _array(x: Any) -> np.ndarray:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _image(x: Any) -> np.ndarray:
    """`(3, H, W)`, `(1, H, W)`, `(H, W, 3)` or `(H, W)` → what imshow takes."""
    a = _array(x)
    if a.dtype == np.float16:
        a = a.astype(np.float32)
    if a.ndim == 3 and a.shape[0] in (1, 3) and a.shape[-1] not in (3, 4):
        a = np.moveaxis(a, 0, -1)
    elif a.ndim == 3 and a.shape[0] == 3 and a.shape[-1] == 3:
        raise ValueError(
            "an image of shape (3, H, 3) could be read in two ways: pass it as (H, W, 3) with H > 3"
        )
    if a.ndim == 3 and a.shape[-1] == 1:
        a = a[..., 0]
    if a.ndim != 2 and not (a.ndim == 3 and a.shape[-1] in (3, 4)):
        raise ValueError(f"want an image of shape (3, H, W), (H, W, 3) or (H, W), got {tuple(a.shape)}")
    if a.ndim == 3 and np.issubdtype(a.dtype, np.floating):
        a = np.clip(a, 0, 1)
    return a


def _plane(x: Any, what: str) -> np.ndarray:
    a = _array(x)
    if a.ndim == 3 and a.shape[0] == 1:
        a = a[0]
    if a.ndim != 2:
        raise ValueError(f"want {what} of shape (H, W), got {tuple(a.shape)}")
    return a


def _need_um(um_per_px: float | None) -> None:
    if um_per_px is not None and not (math.isfinite(um_per_px) and um_per_px > 0):
        raise ValueError(
            f"um_per_px is the size of a pixel in micrometres and must be above zero, got {um_per_px}"
        )


def _extent(shape: Sequence[int], um_per_px: float | None) -> tuple[float, float, float, float]:
    step = 1.0 if um_per_px is None else um_per_px
    return (0.0, shape[1] * step, 0.0, shape[0] * step)


def _label_axes(ax: Axes, um_per_px: float | None) -> None:
    unit = "px" if um_per_px is None else "µm"
    ax.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    for spine in ax.spines.values():
        spine.set_visible(False)


def tissue(ax: Axes, image: Any, *, um_per_px: float | None = None, title: str = "", **imshow: Any) -> Any:
    """Draw an image `(3, H, W)`, `(H, W, 3)` or `(H, W)` on axes in µm (pixels without `um_per_px`), y up."""
    _need_um(um_per_px)
    a = _image(image)
    if a.ndim == 2:
        imshow = {"cmap": "gray"} | imshow
    drawn = ax.imshow(a, extent=_extent(a.shape, um_per_px), origin="upper", **imshow)
    _label_axes(ax, um_per_px)
    if title:
        ax.set_title(title)
    return drawn


def _nice_length(room: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `room`."""
    power = 10.0 ** math.floor(math.log10(room) + 1e-12)
    return max(m * power for m in (1, 2, 5) if m * power <= room * (1 + 1e-9))


def scale_bar(
    ax: Axes, um_per_px: float = 1.0, *, length_um: float | None = None, loc: str = "lower right"
) -> AnchoredOffsetbox:
    """Put a bar of a round length in micrometres on an image axis; at most a third of the width unless
    `length_um` says otherwise.

    `um_per_px` is micrometres per unit of the axis: the pixel size for a plain `imshow`, 1 (the default)
    for an axis that `tissue` has drawn in micrometres. The label turns to mm or nm where that reads better.
    Call it after the image is drawn.
    """
    _need_um(um_per_px)
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    if length_um is None:
        length_um = _nice_length(abs(right - left) * um_per_px / 3)
    elif not 0 < length_um <= abs(right - left) * um_per_px:
        raise ValueError(
            f"scale_bar: {length_um:g} µm does not fit an axis of {abs(right - left) * um_per_px:g} µm; "
            "leave length_um out, or check um_per_px"
        )
    if length_um >= 1000:
        label = f"{length_um / 1000:g} mm"
    elif length_um < 1:
        label = f"{length_um * 1000:g} nm"
    else:
        label = f"{length_um:g} µm"
    bar = AnchoredSizeBar(
        ax.transData, length_um / um_per_px, label, loc, pad=0.35, borderpad=0.5, sep=3, color="black",
        size_vertical=abs(top - bottom) * 0.012,
    )  # fmt: skip
    bar.patch.set(facecolor="white", alpha=0.8, edgecolor="none", boxstyle="round,pad=0,rounding_size=0.2")
    ax.add_artist(bar)
    return bar


def _outline(ax: Axes, mask: np.ndarray, extent: Any, color: str, line: Any, width: float = 1.6) -> None:
    if not mask.any():
        return
    # One ring of background: a region that touches the border is closed there as well.
    dx, dy = (extent[1] - extent[0]) / mask.shape[1], (extent[3] - extent[2]) / mask.shape[0]
    padded = np.pad(mask, 1).astype(float)
    wide = (extent[0] - dx, extent[1] + dx, extent[2] - dy, extent[3] + dy)
    lines = ax.contour(
        padded, levels=[0.5], colors=[color], linewidths=width, linestyles=[line], extent=wide, origin="upper"
    )
    lines.set_path_effects(
        [patheffects.Stroke(linewidth=width + 1.2, foreground="white"), patheffects.Normal()]
    )
    ax.set(xlim=extent[:2], ylim=extent[2:])


def _hatch(ax: Axes, mask: np.ndarray, extent: Any, color: str, hatch: str) -> None:
    if not mask.any() or not hatch:
        return
    filled = ax.contourf(
        mask.astype(float), levels=[0.5, 1.5], colors="none", hatches=[hatch], extent=extent, origin="upper"
    )
    filled.set_edgecolor(color)
    filled.set_linewidth(0)


def overlay(
    ax: Axes,
    image: Any,
    mask: Any,
    *,
    um_per_px: float | None = None,
    label: str = "",
    color: str = palette["blue"],
    hatch: str = "//",
    line: Any = "-",
    alpha: float = 0.25,
    title: str = "",
) -> None:
    """Draw one mask `(H, W)` over an image: tinted, hatched and outlined, so that it reads without colour.

    `label` adds a legend. Raises `ValueError` if image and mask differ in size.
    """
    region = _plane(mask, "a mask").astype(bool)
    picture = _image(image)
    if picture.shape[:2] != region.shape:
        raise ValueError(f"overlay: the image is {picture.shape[:2]} pixels and the mask {region.shape}")
    tissue(ax, image, um_per_px=um_per_px, title=title)
    extent = _extent(region.shape, um_per_px)
    tint = np.zeros((*region.shape, 4))
    tint[region] = (*mpl.colors.to_rgb(color), alpha)
    ax.imshow(tint, extent=extent, origin="upper")
    _hatch(ax, region, extent, color, hatch)
    _outline(ax, region, extent, color, line)
    if label:
        patch = Patch(facecolor=(*mpl.colors.to_rgb(color), alpha), edgecolor=color, hatch=hatch, label=label)
        _legend(ax, [patch])


def class_map(
    ax: Axes,
    labels: Any,
    classes: Sequence[str],
    *,
    image: Any = None,
    um_per_px: float | None = None,
    colors: Sequence[str] | None = None,
    alpha: float | None = None,
    title: str = "",
    legend: bool = True,
) -> None:
    """Draw a label map `(H, W)`, values 0 … len(classes) − 1: each class has its colour, hatching and
    outline, and a legend entry.

    Over an `image` class 0 (background) stays clear; alone it is light grey. At most nine classes.
    Raises `ValueError` for labels without a class and for more classes than can be told apart.
    """
    a = _plane(labels, "a label map")
    if a.dtype == bool:
        a = a.astype(np.int64)
    if np.issubdtype(a.dtype, np.floating):
        raise ValueError("class_map: the label map holds fractions; take argmax over the classes first")
    if a.size == 0 or a.min() < 0 or a.max() >= len(classes):
        raise ValueError(
            f"class_map: labels run from {a.min() if a.size else None} to {a.max() if a.size else None}, "
            f"but {len(classes)} classes are named"
        )
    hues = list(colors) if colors is not None else list(palette.values())
    if len(classes) - 1 > min(len(hues), len(_HATCHES)):
        raise ValueError(
            f"class_map: {len(classes)} classes cannot be told apart; merge some, nine is the most"
        )
    extent = _extent(a.shape, um_per_px)
    strength = alpha if alpha is not None else (0.35 if image is not None else 0.6)
    if image is not None:
        if _image(image).shape[:2] != a.shape:
            raise ValueError(
                f"class_map: the image is {_image(image).shape[:2]} pixels and the label map {a.shape}"
            )
        tissue(ax, image, um_per_px=um_per_px)
    tint = np.zeros((*a.shape, 4))
    if image is None:
        tint[a == 0] = (0.93, 0.93, 0.93, 1.0)
    for k, color in zip(range(1, len(classes)), hues, strict=False):
        tint[a == k] = (*mpl.colors.to_rgb(color), strength)
    _need_um(um_per_px)
    ax.imshow(tint, extent=extent, origin="upper")
    _label_axes(ax, um_per_px)
    patches = [
        Patch(facecolor="none" if image is not None else "#ededed", edgecolor="#999999", label=classes[0])
    ]
    for k, color in zip(range(1, len(classes)), hues, strict=False):
        _hatch(ax, a == k, extent, color, _HATCHES[k - 1])
        _outline(ax, a == k, extent, color, _LINES[k - 1], width=1.8)
        face = (*mpl.colors.to_rgb(color), strength)
        patches.append(
            Patch(
                facecolor=face,
                edgecolor=color,
                hatch=_HATCHES[k - 1],
                linestyle=_LINES[k - 1],
                label=classes[k],
            )
        )
    if title:
        ax.set_title(title)
    if legend:
        _legend(ax, patches)


def _legend(ax: Axes, patches: list[Patch]) -> None:
    ax.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        handlelength=2.2,
        handleheight=1.4,
    )


def error_map(
    ax: Axes,
    error: Any,
    *,
    um_per_px: float | None = None,
    label: str = "absolute error",
    vmax: float | None = None,
    title: str = "",
) -> Any:
    """Draw a non-negative error `(H, W)` on a scale that starts at zero (dark: none), with a labelled
    colour bar.

    Pass the same `vmax` to maps that are to be compared. Raises `ValueError` for negative or non-finite
    errors.
    """
    a = _plane(error, "an error map").astype(float)
    if not np.isfinite(a).all() or (a < 0).any():
        raise ValueError("error_map: want finite values from zero up; pass the absolute difference")
    top = float(a.max()) if vmax is None else float(vmax)
    drawn = tissue(
        ax, a, um_per_px=um_per_px, title=title, cmap="cividis", vmin=0, vmax=top if top > 0 else 1.0
    )
    extend = "max" if vmax is not None and a.max() > vmax else "neither"
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=ax, label=label, extend=extend, shrink=0.85)
    return drawn


def arrows(
    ax: Axes,
    field: Any,
    *,
    um_per_px: float | None = None,
    step: int | None = None,
    color: str = palette["vermilion"],
    scale: float | None = None,
) -> Any:
    """Draw a vector field `(2, H, W)`, components (x right, y up), as arrows at every `step`-th pixel centre.

    Meant for an axis that `tissue` has drawn with the same `um_per_px`. `scale` is field units per axis
    width (matplotlib's quiver); pass the same to fields that are to be compared.
    """
    _need_um(um_per_px)
    a = _array(field).astype(float)
    if a.ndim != 3 or a.shape[0] != 2:
        raise ValueError(
            f"arrows: want a vector field of shape (2, H, W), components (x right, y up), "
            f"got {tuple(a.shape)}"
        )
    h, w = a.shape[1:]
    every = step or max(1, round(max(h, w) / 24))
    rows, columns = np.arange(every // 2, h, every), np.arange(every // 2, w, every)
    size = 1.0 if um_per_px is None else um_per_px
    x, y = np.meshgrid((columns + 0.5) * size, (h - rows - 0.5) * size)
    u, v = a[0][np.ix_(rows, columns)], a[1][np.ix_(rows, columns)]
    drawn = ax.quiver(x, y, u, v, color=color, pivot="mid", angles="uv", scale=scale, width=0.005)
    drawn.set_path_effects([patheffects.Stroke(linewidth=1.2, foreground="white"), patheffects.Normal()])
    ax.set(xlim=(0, w * size), ylim=(0, h * size), aspect="equal")
    _label_axes(ax, um_per_px)
    return drawn


def image_row(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    um_per_px: float | None = None,
    height: float = 2.6,
    bar: bool = True,
    **imshow: Any,
) -> tuple[Figure, list[Axes]]:
    """Images side by side on shared axes; with `um_per_px` in micrometres and a scale bar on the last.

    Returns `(figure, axes)`. Raises `ValueError` for no image or a different number of titles.
    """
    if len(images) == 0:
        raise ValueError("image_row: no image given")
    if titles and len(titles) != len(images):
        raise ValueError(f"image_row: {len(images)} images and {len(titles)} titles")
    shapes = [_image(i).shape[:2] for i in images]
    same = len(set(shapes)) == 1
    width = sum(height * s[1] / s[0] for s in shapes) + 0.7
    fig, grid = plt.subplots(
        1,
        len(images),
        figsize=(width, height + 0.7),
        squeeze=False,
        sharex=same,
        sharey=same,
        layout="constrained",
    )
    axes = list(grid[0])
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        tissue(ax, image, um_per_px=um_per_px, title=titles[i] if titles else "", **imshow)
        if i and same:
            ax.set_ylabel("")
    if um_per_px is not None and bar:
        scale_bar(axes[-1])
    return fig, axes
