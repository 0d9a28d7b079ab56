"""Convolutions at several scales with mixtures of separable filters, and how they are evaluated.

Gaussian-derivative and Hermite layers compute, scale by scale, ``out_k[o] = Σ_c Σ_ij weight[o, c, ij] ·
(column_k,j ⊗ row_k,i ⋆ x_k[c])``: one set of weights for all scales, and for each scale k a few 1-D factors.
Two evaluations of a scale give the same numbers:

* **expand**: mix the basis into dense filters *of that scale's own size*, then one ordinary convolution
  (padding all scales to the largest size, the published way, multiplies mostly zeros);
* **factor**: filter along the rows, mix the channels, filter along the columns. A 1-D pass is a product with
  a banded matrix, cut into tiles for wide pictures: matrix products are what processors do best, while
  grouped 1-D convolutions run at a fraction of that speed.

The cost model chooses for each scale on its own: small scales are often cheaper expanded, large ones
factored.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from equipath.kernels.evaluate import cheapest, separable_conv_work

TILE = 64  # pixels of a row or column that share one banded matrix


def derivative_orders(order: int) -> list[tuple[int, int]]:
    """The pairs (i, j), i along x and j along y, with i + j ≤ ``order``, lowest total first.

    >>> derivative_orders(1)
    [(0, 0), (1, 0), (0, 1)]
    """
    if not isinstance(order, int) or order < 0:
        raise ValueError(f"the order of a basis is a whole number from 0 up; got {order!r}")
    return [(total - j, j) for total in range(order + 1) for j in range(total + 1)]


def separable_basis(rows: Tensor, columns: Tensor) -> Tensor:
    """Planar filters (..., n, k, k) from 1-D factors along x and y, each (..., order + 1, k)."""
    pairs = derivative_orders(rows.shape[-2] - 1)
    x_order, y_order = ([p[a] for p in pairs] for a in (0, 1))
    return columns[..., y_order, :, None] * rows[..., x_order, None, :]


def banded(taps: Tensor, outputs: int) -> Tensor:
    """The matrix of a 1-D correlation: ``window @ banded(taps, n)`` gives n samples from n + k - 1.

    Args:
        taps: (..., k).

    Returns:
        (..., n + k - 1, n), column p holding the taps from row p on; differentiable.
    """
    reach = outputs + taps.shape[-1] - 1
    strip = F.pad(taps, (outputs - 1, outputs - 1))
    return strip.unfold(-1, reach, 1).flip(-2).transpose(-1, -2)


def _tiles(size: int) -> list[tuple[int, int]]:
    count = -(-size // TILE)
    edges = [size * n // count for n in range(count + 1)]
    return list(pairwise(edges))


def _window(matrix: Tensor, start: int, stop: int, reach: int, size: int) -> tuple[slice, Tensor]:
    """Which inputs a tile of outputs needs, and the part of the banded matrix that stays in the picture."""
    first, last = max(0, start - reach), min(size, stop + reach)
    skip = first - (start - reach)
    return slice(first, last), matrix[..., skip : skip + last - first, : stop - start]


def _along_rows(x: Tensor, matrices: Tensor, reach: int) -> Tensor:
    """(P, C, H, W) filtered along W by (P, N, L, T) banded matrices: (P, N·C, H, W), order outermost."""
    planes, channels, height, width = x.shape
    flat = x.reshape(planes, channels * height, width)
    orders = []
    for n in range(matrices.shape[1]):
        parts = []
        for start, stop in _tiles(width):
            inputs, matrix = _window(matrices[:, n], start, stop, reach, width)
            parts.append(torch.bmm(flat[..., inputs], matrix))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        orders.append(joined.view(planes, channels, height, width))
    return torch.cat(orders, 1)


def _along_columns(terms: Sequence[Tensor], matrices: Sequence[Tensor], reach: int) -> Tensor:
    """Σ_j of (P, C, H, W) filtered along H by (P, L, T): (P, C, H, W); the sum is taken inside the
    product."""
    planes, channels, height, width = terms[0].shape
    flat = [t.reshape(planes * channels, height, width) for t in terms]
    spread = [m.mT[:, None].expand(-1, channels, -1, -1).flatten(0, 1) for m in matrices]
    parts = []
    for start, stop in _tiles(height):
        inputs, cut = _window(spread[0].mT, start, stop, reach, height)
        total = torch.bmm(cut.mT, flat[0][:, inputs])
        for term, matrix in zip(flat[1:], spread[1:], strict=True):
            inputs, cut = _window(matrix.mT, start, stop, reach, height)
            total = torch.baddbmm(total, cut.mT, term[:, inputs])
        parts.append(total)
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return joined.reshape(planes, channels, height, width)


def _factored(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(S, B, C, H, W) with one-dimensional factors (S, N + 1, 2 R + 1): (S, B, O, H, W)."""
    scales, batch, channels, height, width = x.shape
    count, reach = rows.shape[1], rows.shape[2] // 2
    out_channels, pairs = weight.shape[0], derivative_orders(count - 1)
    per_plane = [
        banded(taps, min(TILE, size))[:, None].expand(-1, batch, -1, -1, -1).flatten(0, 1)
        for taps, size in ((rows, width), (columns, height))
    ]
    along = _along_rows(x.flatten(0, 1), per_plane[0], reach)
    down = per_plane[1]
    planes = scales * batch
    if count * out_channels <= len(pairs) * channels:
        # mix, then go down the columns: order j of the columns mixes all rows of order i ≤ N - j
        mixed = []
        for j in range(count):
            index = [pairs.index((i, j)) for i in range(count - j)]
            mixing = weight[:, :, index].transpose(1, 2).flatten(1)  # (O, (N + 1 - j)·C), order outermost
            part = along.flatten(2)[:, : mixing.shape[1]]
            mixed.append(
                torch.bmm(mixing.expand(planes, -1, -1), part).view(planes, out_channels, height, width)
            )
        y = _along_columns(mixed, [down[:, j] for j in range(count)], reach)
    else:
        # fewer channels in than out, as in a first layer: down the columns, then mix
        responses = []
        split = along.unflatten(1, (count, channels)).unbind(1)
        for i, j in pairs:
            responses.append(_along_columns([split[i]], [down[:, j]], reach))
        mixing = weight.transpose(1, 2).flatten(1)
        flat = torch.cat(responses, 1).flatten(2)
        y = torch.bmm(mixing.expand(planes, -1, -1), flat)
    return y.view(scales, batch, out_channels, height, width)


def _expanded(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """One scale, (1, B, C, H, W) with factors (1, N + 1, 2 R + 1): (1, B, O, H, W)."""
    basis = separable_basis(rows[0], columns[0]).to(weight.dtype)
    filters = torch.einsum("ocn,nyx->ocyx", weight, basis)
    return F.conv2d(x[0], filters.to(x.dtype), padding=rows.shape[-1] // 2)[None]


def evaluations(shape: Sequence[int], out_channels: int, radii: Sequence[int], count: int, like: Tensor,
                *, training: bool) -> list[str]:  # fmt: skip
    """How each scale of an input (S, B, C, H, W) will be computed: "expand" or "factor".

    Args:
        radii: of each scale's filter, in pixels.
        count: 1-D factors, the order of the basis plus one.
    """
    return [
        cheapest(separable_conv_work(shape[1:], out_channels, r, count, training=training), like)
        for r in radii
    ]


def scale_conv2d(
    x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor, radii: Sequence[int],
    padding_mode: str = "zeros",
) -> Tensor:  # fmt: skip
    """Filter every scale by its own mixtures of one shared set of weights: (S, B, C, H, W) to (S, B, O, H,
    W).

    Args:
        weight: (O, C, n), n = len(derivative_orders(N)).
        rows, columns: 1-D factors along x and y, (S, N + 1, 2 R + 1), correlated with the picture; R is the
            largest of ``radii`` and the taps of scale k are zero beyond ``radii[k]``.
        radii: half sizes in pixels, one a scale.
        padding_mode: "zeros", or "reflect", "replicate", "circular"; the output has the input's size.
    """
    count = rows.shape[1]
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    hows = evaluations(x.shape, weight.shape[0], radii, count, x, training=training)
    if not torch.is_autocast_enabled(x.device.type):
        rows, columns = rows.to(x.dtype), columns.to(x.dtype)
    centre, parts = rows.shape[-1] // 2, []
    for how, group in groupby(range(len(radii)), key=lambda k: (hows[k], hows[k] == "factor" or k)):
        members = list(group)
        first, last = members[0], members[-1] + 1
        reach = max(radii[k] for k in members)
        row, column = (t[first:last, :, centre - reach : centre + reach + 1] for t in (rows, columns))
        part, border = x[first:last], 0
        if padding_mode != "zeros" and reach:
            part = F.pad(part.flatten(0, 1), (reach,) * 4, mode=padding_mode)
            part, border = part.unflatten(0, (last - first, x.shape[1])), reach
        run = _factored if how[0] == "factor" else _expanded
        y = run(part, weight, row, column)
        parts.append(y[..., border : y.shape[-2] - border, border : y.shape[-1] - border])
    return parts[0] if len(parts) == 1 else torch.cat(parts, 0)
