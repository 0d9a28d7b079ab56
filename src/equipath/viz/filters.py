"""What the filters of each family look like: one figure a family, from the same functions that the layers use.

Every tap is one square of the same size within a figure, so that larger filters are drawn larger. Blue is
negative, white zero, orange positive (Okabe and Ito's colours, told apart with every common colour
blindness). Arrows have components (x right, y up). Each function returns a matplotlib ``Figure``; ``python
book/filters.py`` draws them all for the book.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from equipath.groups import P4, P4M, Group
from equipath.groups import group as named_group
from equipath.kernels.disco import dilated_filters, whole_scales
from equipath.kernels.gaussian import gaussian_basis, gaussian_radius
from equipath.kernels.hermite import hermite_radii, hermite_taps
from equipath.kernels.radial import expand_kernels, ring_profiles
from equipath.kernels.regular import lifting_taps, regular_taps
from equipath.kernels.rings import ring_basis, ring_sizes
from equipath.kernels.separable import derivative_orders, separable_basis

INK, QUIET = "#222222", "#767676"
SIGNED = LinearSegmentedColormap.from_list("signed", ["#004a75", "#0072b2", "#ffffff", "#e69f00", "#9a5b00"])
RINGS = LinearSegmentedColormap.from_list(
    "rings", ["#0072b2", "#56b4e9", "#cfe8f5", "#f7d58a", "#e69f00", "#b35900"]
)
CELL = 0.1  # inches a tap


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _empty(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _taps(ax: Axes, taps: Tensor, limit: float | None = None, *, span: int | None = None) -> None:
    """A filter (k, k), row 0 on top, in the middle of a square that has room for ``span`` taps."""
    values = _array(taps)
    k = values.shape[-1]
    limit = float(np.abs(values).max()) if limit is None else limit
    half, room = k / 2, (span or k) / 2
    ax.imshow(
        values,
        cmap=SIGNED,
        vmin=-limit,
        vmax=limit,
        extent=(-half, half, -half, half),
        interpolation="nearest",
    )
    edges = np.arange(k + 1) - half
    ax.vlines(edges, -half, half, color="#d0d0d0", linewidth=0.4)
    ax.hlines(edges, -half, half, color="#d0d0d0", linewidth=0.4)
    ax.plot(
        [-half, half, half, -half, -half], [-half, -half, half, half, -half], color=INK, linewidth=0.7,
        solid_joinstyle="miter",
    )  # fmt: skip
    ax.set(xlim=(-room - 0.1, room + 0.1), ylim=(-room - 0.1, room + 0.1), aspect="equal")
    _empty(ax)


def _field(ax: Axes, vectors: Tensor) -> None:
    """Vectors (2, k, k) as arrows on their length in grey."""
    values = _array(vectors)
    k, length = values.shape[-1], np.hypot(*values)
    half, longest = k / 2, float(np.hypot(*values).max())
    grey = LinearSegmentedColormap.from_list("length", ["#ffffff", "#c9c9c9"])
    ax.imshow(
        length, cmap=grey, vmin=0, vmax=longest, extent=(-half, half, -half, half), interpolation="nearest"
    )
    at = np.arange(k) - (k - 1) / 2
    x, y = np.meshgrid(at, -at)  # row 0 is at the top, where y is largest
    shown = length > 0.12 * longest
    ax.quiver(
        x[shown], y[shown], values[0][shown] / longest, values[1][shown] / longest, color="#0072b2", pivot="mid",
        angles="xy", scale_units="xy", scale=1.05, width=0.017, headwidth=3.6, headlength=4, headaxislength=3.6,
    )  # fmt: skip
    ax.plot(
        [-half, half, half, -half, -half], [-half, -half, half, half, -half], color=INK, linewidth=0.7,
        solid_joinstyle="miter",
    )  # fmt: skip
    ax.set(xlim=(-half - 0.1, half + 0.1), ylim=(-half - 0.1, half + 0.1), aspect="equal")
    _empty(ax)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _hook(size: int = 5) -> Tensor:
    """A filter without any symmetry, so that all eight copies differ: a stroke with a foot, and a shadow."""
    taps = torch.zeros(size, size)
    c = size // 2
    taps[: size - 1, c] = 1.0
    taps[size - 2, c:] = 0.75
    taps[size - 2, -1] = 0.45
    taps[1 : size - 1, c - 1] = -0.6
    return taps


def lifted_filters(weight: Tensor | None = None, group: Group | str = P4M) -> Figure:
    """One planar filter and its copies by p4 or p4m: the filters of ``LiftingConv2d``.

    Args:
        weight: (k, k), for instance ``layer.weight[0, 0]``; a hook without symmetry by default.
    """
    symmetry = named_group(group)
    weight = _hook() if weight is None else weight
    copies = lifting_taps(weight[None, None], symmetry)[:, 0]
    rows = symmetry.order // 4
    figure = _figure(7.4, 1.62 * rows + 0.35 * (rows == 1))
    grid = figure.add_gridspec(rows, 6, width_ratios=[1.0 if rows == 1 else 1.55, 0.16, 1, 1, 1, 1])
    ax = figure.add_subplot(grid[:, 0])
    _taps(ax, weight)
    ax.set_title("what is learnt", fontsize=10, color=INK)
    for g, copy in enumerate(copies):
        ax = figure.add_subplot(grid[g // 4, 2 + g % 4])
        _taps(ax, copy)
        ax.set_title(symmetry.label(g), fontsize=8.5, color=INK, pad=4)
    return figure


def regular_filters(weight: Tensor | None = None, group: Group | str = P4) -> Figure:
    """A group convolution's filter as a matrix of planar ones: row = orientation out, column = in.

    The same planes stand in every row, each moved by the row's element and in another column. The planes are
    numbered as they are learnt.

    Args:
        weight: (G, k, k), for instance ``layer.weight[0, 0]``; random by default.
    """
    symmetry = named_group(group)
    order = symmetry.order
    if weight is None:
        weight = torch.randn(order, 3, 3, generator=torch.Generator().manual_seed(4))
    taps = (
        regular_taps(weight[None, None], symmetry).unflatten(0, (1, order)).unflatten(2, (1, order))[0, :, 0]
    )
    limit = float(weight.detach().abs().max())
    side, size = (0.95, 8.5) if order == 4 else (0.85, 7.0)
    names = [symmetry.label(g).replace(", ", ",\n") for g in range(order)]
    figure = _figure(side * order + 1.0, side * order * 1.12 + 0.5)
    axes = figure.subplots(order, order)
    for g in range(order):
        for h in range(order):
            ax = axes[g, h]
            _taps(ax, taps[g, h], limit)
            plane = symmetry.product(symmetry.inverse(g), h)
            ax.set_xlabel(f"plane {plane}", fontsize=7.5, color=QUIET, labelpad=1.5)
            if g == 0:
                ax.set_title(f"in: {names[h]}", fontsize=size, color=INK)
            if h == 0:
                ax.set_ylabel(f"out: {names[g]}", fontsize=size, color=INK)
    return figure


def ring_filters(kernel_sizes: Sequence[int] = (3, 5, 7, 9, 11), seed: int = 1) -> Figure:
    """The rings of SRE filters, with their numbers of taps, above filters with random weights a ring.

    Args:
        kernel_sizes: odd sides in pixels.
        seed: of the random weights.
    """
    widest = max(kernel_sizes)
    figure = _figure(1.62 * len(kernel_sizes) + 0.6, 3.9)
    axes = figure.subplots(2, len(kernel_sizes), squeeze=False)
    for column, k in enumerate(kernel_sizes):
        basis, counts = ring_basis(k), ring_sizes(k).tolist()
        index = torch.where(basis.sum(0) > 0, basis.argmax(0).float(), torch.nan)
        top, bottom = axes[:, column]
        _taps(top, torch.zeros(k, k), 1.0, span=widest)
        half = k / 2
        colours = ListedColormap(RINGS(np.linspace(0, 1, len(counts))))
        top.imshow(
            _array(index), cmap=colours, vmin=-0.5, vmax=len(counts) - 0.5, extent=(-half, half, -half, half),
            interpolation="nearest", alpha=0.9,
        )  # fmt: skip
        for row, col in np.argwhere(~np.isnan(_array(index))):
            top.text(
                col - half + 0.5, half - row - 0.5, f"{int(index[row, col]) + 1}", fontsize=5.6, ha="center",
                va="center", color=INK,
            )  # fmt: skip
        top.set_title(f"{k} × {k}", fontsize=10, color=INK)
        top.set_xlabel("taps a ring:\n" + ", ".join(map(str, counts)), fontsize=7.5, color=QUIET)
        weight = torch.randn(len(counts), generator=torch.Generator().manual_seed(seed + k))
        _taps(bottom, torch.einsum("n,nyx->yx", weight, basis), span=widest)
    axes[0, 0].set_ylabel("number of the ring", fontsize=9, color=INK)
    axes[1, 0].set_ylabel("a filter", fontsize=9, color=INK)
    return figure


def steerable_kernels(kernel_size: int = 7, ring: int = 2) -> Figure:
    """One ring of each kind of kernel between scalar and vector fields, for O(2), and what SO(2) adds.

    Colour shows a scalar kernel. Arrows show, for each place around the centre, the vector that a bright
    pixel there adds to the answer (scalar to vector), the direction in which a vector there counts (vector to
    scalar), and what a vector there adds if it points right (vector to vector).

    Args:
        kernel_size: odd side in pixels, from 3 up.
        ring: which of the rings is shown, from 1 (next to the centre) to (kernel_size - 1) / 2.
    """
    radii, _ = ring_profiles(kernel_size)
    if not 1 <= ring < len(radii):
        raise ValueError(
            f"a {kernel_size} x {kernel_size} kernel has rings 1 to {len(radii) - 1}; got {ring}"
        )
    kernels = expand_kernels(kernel_size, reflections=False)
    rings, turning = len(radii), len(radii) - 1
    right = torch.tensor([1.0, 0.0], dtype=torch.float64)
    mapped = torch.einsum("cabyx,b->cayx", kernels["vector", "vector"], right)
    out, read = kernels["scalar", "vector"][:, :, 0], kernels["vector", "scalar"][:, 0]
    both = rings + turning  # f₁ I and f₂ (2 u uᵀ - I) come first, their products with J after them
    panels = [
        ("scalar → scalar", "$f(r)$", kernels["scalar", "scalar"][ring, 0, 0], "", None),
        ("scalar → vector", "$f(r)\\,u$", out[ring - 1], "$f(r)\\,Ju$", out[turning + ring - 1]),
        ("vector → scalar", "$f(r)\\,u^\\mathsf{T}$", read[ring - 1], "$f(r)\\,(Ju)^\\mathsf{T}$", read[turning + ring - 1]),
        ("vector → vector", "$f_1(r)\\,I$", mapped[ring], "$f_1(r)\\,J$", mapped[both + ring]),
        (
            "vector → vector", "$f_2(r)\\,(2uu^\\mathsf{T}\\!-I)$", mapped[rings + ring - 1],
            "$f_2(r)\\,J(2uu^\\mathsf{T}\\!-I)$", mapped[both + rings + ring - 1],
        ),
    ]  # fmt: skip
    figure = _figure(8.6, 4.1)
    axes = figure.subplots(2, 5)
    for column, (kind, first, taps, second, added) in enumerate(panels):
        for ax, formula, shown in ((axes[0, column], first, taps), (axes[1, column], second, added)):
            if shown is None:
                _empty(ax)
                ax.text(0.5, 0.5, "nothing\nmore", ha="center", va="center", fontsize=9, color=QUIET)
                continue
            (_taps if shown.dim() == 2 else _field)(ax, shown)
            ax.set_xlabel(formula, fontsize=10, color=INK, labelpad=4)
        axes[0, column].set_title(kind, fontsize=9.5, color=INK)
    axes[0, 0].set_ylabel("rotations and\nreflections, O(2)", fontsize=9.5, color=INK)
    axes[1, 0].set_ylabel("rotations alone,\nSO(2), add", fontsize=9.5, color=INK)
    return figure


def _bank(filters: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str]) -> Figure:
    """Filters as a table, drawn to scale, each with a colour scale of its own."""
    widths = [max(row[n].shape[-1] for row in filters) for n in range(len(columns))]
    heights = [max(taps.shape[-1] for taps in row) for row in filters]
    cell = min(CELL, 7.6 / (sum(widths) + 4 * len(columns)))
    figure = _figure(
        cell * (sum(widths) + 4 * len(columns)) + 0.7, cell * (sum(heights) + 4 * len(rows)) + 0.4
    )
    grid = figure.add_gridspec(
        len(rows), len(columns), width_ratios=[w + 2 for w in widths], height_ratios=[h + 2 for h in heights]
    )
    for r, row in enumerate(filters):
        for c, taps in enumerate(row):
            ax = figure.add_subplot(grid[r, c])
            _taps(ax, taps)
            room, tall = widths[c] / 2 + 0.2, heights[r] / 2 + 0.2
            ax.set(xlim=(-room, room), ylim=(-tall, tall))
            if r == 0:
                ax.set_title(columns[c], fontsize=9.5, color=INK)
            if c == 0:
                ax.set_ylabel(rows[r], fontsize=9, color=INK, rotation=0, ha="right", va="center")
    return figure


def gaussian_derivatives(
    sigmas: Sequence[float] = (0.25, 0.75, 1.25, 1.75, 2.25), order: int = 2, sampling: str = "discrete"
) -> Figure:
    """The scale-normalised Gaussian derivatives of SEUNet (eq. 4), one row a σ, each at its own size (eq. 7).

    The default σ are the middles of the five intervals of SEUNet's first block.
    """
    exact = torch.tensor(list(sigmas), dtype=torch.float64)
    basis = gaussian_basis(exact, order, sampling=sampling)
    centre = basis.shape[-1] // 2
    filters = []
    for k, sigma in enumerate(sigmas):
        r = gaussian_radius(sigma)
        filters.append(list(basis[k, :, centre - r : centre + r + 1, centre - r : centre + r + 1]))
    names = []
    for i, j in derivative_orders(order):
        parts = "".join(s * n for s, n in (("x", i), ("y", j)) if n)
        scale = "" if i + j == 0 else ("\\sigma\\," if i + j == 1 else f"\\sigma^{i + j}")
        names.append(f"${scale}G_{{{parts}}}$" if parts else "$G$")
    return _bank(filters, names, [f"σ = {s:g}" for s in sigmas])


def hermite_functions(
    scales: Sequence[float] = (1, 2, 3, 4, 5), kernel_size: int = 11, order: int = 2
) -> Figure:
    """The basis of SESN up to a total order, one row a scale, each at its own size."""
    radii = hermite_radii(kernel_size, scales)
    taps = hermite_taps(scales, radii, order, torch.float64)
    basis = separable_basis(taps, taps)
    centre = basis.shape[-1] // 2
    filters = [
        list(basis[k, :, centre - r : centre + r + 1, centre - r : centre + r + 1])
        for k, r in enumerate(radii)
    ]
    names = [f"$H_{i}(x)\\,H_{j}(y)$" for i, j in derivative_orders(order)]
    return _bank(filters, names, [f"scale {s:g}" for s in scales])


def dilated(weight: Tensor | None = None, scales: Sequence[int] = (1, 2, 3, 4, 5)) -> Figure:
    """One filter of DISCO at several whole scales: the same taps, farther and farther apart.

    Args:
        weight: (k, k), for instance ``layer.weight[0, 0]``; random by default.
    """
    if weight is None:
        weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
    factors = whole_scales(scales)
    dense = dilated_filters(weight[None, None], factors)[:, 0, 0]
    centre, half = dense.shape[-1] // 2, weight.shape[-1] // 2
    row = [d[centre - half * s : centre + half * s + 1, centre - half * s : centre + half * s + 1]
           for d, s in zip(dense, factors, strict=True)]  # fmt: skip
    return _bank([row], [f"scale {s}" for s in factors], [""])
