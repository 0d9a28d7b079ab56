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

from equipath.kernels.evaluate import (
    cheapest,
    dense_conv2d,
    pulled_back,
    separable_conv_work,
    transforming,
)

TILE = 64  # pixels of a row or column that share one banded matrix

# Of an input, what is filtered at a time, in whole scales: in between it grows several times over. An accelerator
# has more memory, and waits for every call.
PART_BYTES = 4 << 20
ACCELERATOR = 64  # times as much there


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
    if transforming():  # unfolding cannot be batched
        first, step = torch.arange(outputs, device=taps.device), torch.arange(reach, device=taps.device)
        windows = strip[..., first[:, None] + step]
    else:
        windows = strip.unfold(-1, reach, 1)
    return windows.flip(-2).transpose(-1, -2)


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


def _spread(rows: Tensor, columns: Tensor, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Banded matrices (S·B, N + 1, L, T) along W and along H, one copy a picture."""
    across, down = (
        banded(taps, min(TILE, size))[:, None].expand(-1, batch, -1, -1, -1).flatten(0, 1)
        for taps, size in ((rows, width), (columns, height))
    )
    return across, down


def _mixings(weight: Tensor, count: int, planes: int) -> list[Tensor]:
    """For each order j along y the weights (planes, O, (N + 1 - j)·C) of the orders i ≤ N - j along x."""
    pairs = derivative_orders(count - 1)
    mixings = []
    for j in range(count):
        index = [pairs.index((i, j)) for i in range(count - j)]
        mixings.append(weight[:, :, index].transpose(1, 2).flatten(1).expand(planes, -1, -1))
    return mixings


def _mix_early(channels: int, out_channels: int, count: int) -> bool:
    """Whether mixing before the columns leaves fewer planes to filter: not in a first layer of 3
    channels."""
    return count * out_channels <= count * (count + 1) // 2 * channels


def _factored(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(S, B, C, H, W) with one-dimensional factors (S, N + 1, 2 R + 1): (S, B, O, H, W)."""
    early = _mix_early(x.shape[2], weight.shape[0], rows.shape[1])
    if not early or torch.compiler.is_compiling() or transforming():
        return _factored_plainly(x, weight, rows, columns)
    if torch.is_autocast_enabled(x.device.type):
        # autocast casts the operands of products only; an autograd function is handed them as they are
        low = torch.get_autocast_dtype(x.device.type)
        x, weight, rows, columns = (t.to(low) for t in (x, weight, rows, columns))
    out: Tensor = _Factored.apply(x, weight, rows, columns)
    return out


def _factored_plainly(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same in operations that autograd and compilers follow."""
    scales, batch, channels, height, width = x.shape
    count, reach, planes = rows.shape[1], rows.shape[2] // 2, scales * batch
    out_channels, pairs = weight.shape[0], derivative_orders(count - 1)
    across, down = _spread(rows, columns, batch, height, width)
    along = _along_rows(x.flatten(0, 1), across, reach)
    if _mix_early(channels, out_channels, count):
        flat = along.flatten(2)
        mixed = [
            torch.bmm(m, flat[:, : m.shape[2]]).view(planes, out_channels, height, width)
            for m in _mixings(weight, count, planes)
        ]
        y = _along_columns(mixed, [down[:, j] for j in range(count)], reach)
    else:
        split = along.unflatten(1, (count, channels)).unbind(1)
        responses = [_along_columns([split[i]], [down[:, j]], reach) for i, j in pairs]
        mixing = weight.transpose(1, 2).flatten(1).expand(planes, -1, -1)
        y = torch.bmm(mixing, torch.cat(responses, 1).flatten(2))
    return y.view(scales, batch, out_channels, height, width)


def _sum_along_rows(terms: Sequence[Tensor], matrices: Sequence[Tensor], reach: int) -> Tensor:
    """Σ_i of (P, C, H, W) filtered along W by (P, L, T): (P, C, H, W)."""
    planes, channels, height, width = terms[0].shape
    flat = [t.reshape(planes, channels * height, width) for t in terms]
    parts = []
    for start, stop in _tiles(width):
        total = None
        for term, matrix in zip(flat, matrices, strict=True):
            inputs, cut = _window(matrix, start, stop, reach, width)
            seen = term[..., inputs]
            total = torch.bmm(seen, cut) if total is None else total.baddbmm_(seen, cut)
        parts.append(total)
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, -1)  # type: ignore[arg-type]
    return joined.view(planes, channels, height, width)  # type: ignore[union-attr]


def _tap_gradient(x: Tensor, grad: Tensor, scales: int, reach: int) -> Tensor:
    """Gradient (S, 2 R + 1) of the taps of a pass along W: of (S·K, M, W) inputs and output gradients."""
    width = x.shape[-1]
    tile = min(TILE, width)
    total = x.new_zeros(scales, tile + 2 * reach, tile)
    for start, stop in _tiles(width):
        first, last = max(0, start - reach), min(width, stop + reach)
        skip = first - (start - reach)
        part = torch.bmm(x[..., first:last].mT, grad[..., start:stop])
        part = part.view(scales, -1, *part.shape[1:]).sum(1)
        total[:, skip : skip + last - first, : stop - start] += part
    # entry (p + t, p) belongs to tap t: sum along the diagonals
    step, row, _ = total.stride()
    return total.as_strided((scales, 2 * reach + 1, tile), (step, row, row + 1)).sum(-1)


def _scales_at_a_time(x: Tensor) -> int:
    limit = PART_BYTES * (1 if x.is_cpu else ACCELERATOR)
    return max(1, min(len(x), limit // max(1, x[0].numel() * x.element_size())))


class _Factored(torch.autograd.Function):
    """Keeps the input alone: what it holds in between is several times as large, and cheap to make
    again."""

    @staticmethod
    def forward(ctx, x, weight, rows, columns):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight, rows, columns)
        step = _scales_at_a_time(x)
        if step == len(x):
            return _factored_plainly(x, weight, rows, columns)
        y = x.new_empty(*x.shape[:2], weight.shape[0], *x.shape[3:])
        for k in range(0, len(x), step):
            part = slice(k, k + step)
            y[part] = _factored_plainly(x[part], weight, rows[part], columns[part])
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled() or transforming(grad):  # a second derivative: let autograd write it
            return tuple(pulled_back(_factored_plainly, inputs, needs, grad))
        x, weight, rows, columns = inputs
        step = _scales_at_a_time(x)
        if step == len(x):
            return _gradients(x, weight, rows, columns, grad, needs)
        totals = [torch.zeros_like(t) if need else None for t, need in zip(inputs, needs, strict=True)]
        for k in range(0, len(x), step):
            part = slice(k, k + step)
            made = _gradients(x[part], weight, rows[part], columns[part], grad[part], needs)
            for n, (total, gradient) in enumerate(zip(totals, made, strict=True)):
                if total is None or gradient is None:
                    continue
                if n == 1:  # the weights are those of all scales
                    total += gradient
                else:
                    total[part] = gradient
        return tuple(totals)


def _gradients(
    x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor, grad: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of the input, the weights and the one-dimensional factors, as far as they are needed."""
    scales, batch, channels, height, width = x.shape
    count, reach, planes = rows.shape[1], rows.shape[2] // 2, scales * batch
    out_channels, pairs = weight.shape[0], derivative_orders(count - 1)
    x, grad = x.flatten(0, 1), grad.flatten(0, 1)
    mixings = _mixings(weight, count, planes)
    # The adjoint of correlating with some taps, zeros outside, is correlating with the flipped ones.
    across, down = _spread(rows.flip(-1), columns.flip(-1), batch, height, width)
    grad_mixed = [_along_columns([grad], [down[:, j]], reach).flatten(2) for j in range(count)]
    grad_x = grad_weight = grad_rows = grad_columns = None
    if needs[1] or needs[3]:
        forward_across, _ = _spread(rows, columns[..., :1], batch, height, width)
        along = _along_rows(x, forward_across, reach).flatten(2)
    if needs[1]:
        grad_weight = torch.empty_like(weight)
        for j, g in enumerate(grad_mixed):
            part = torch.bmm(g, along[:, : (count - j) * channels].mT).sum(0)
            index = [pairs.index((i, j)) for i in range(count - j)]
            grad_weight[:, :, index] = part.view(out_channels, count - j, channels).transpose(1, 2)
    if needs[3]:
        turned = grad.reshape(planes * out_channels, height, width).mT
        per_order = []
        for m in mixings:
            mixed = torch.bmm(m, along[:, : m.shape[2]]).view(planes * out_channels, height, width)
            per_order.append(_tap_gradient(mixed.mT, turned, scales, reach))
        grad_columns = torch.stack(per_order, 1)
    if needs[1] or needs[3]:
        del along
    if needs[0] or needs[2]:
        grad_along = []
        for i in range(count):
            total = None
            for m, g in zip(mixings[: count - i], grad_mixed, strict=False):
                part = m[:, :, i * channels : (i + 1) * channels].mT
                total = torch.bmm(part, g) if total is None else total.baddbmm_(part, g)
            grad_along.append(total.view(planes, channels, height, width))  # type: ignore[union-attr]
        if needs[0]:
            grad_x = _sum_along_rows(grad_along, [across[:, i] for i in range(count)], reach)
            grad_x = grad_x.view(scales, batch, channels, height, width)
        if needs[2]:
            lines = x.reshape(planes, channels * height, width)
            grad_rows = torch.stack(
                [_tap_gradient(lines, g.flatten(1, 2), scales, reach) for g in grad_along], 1
            )
    return grad_x, grad_weight, grad_rows, grad_columns


def _expanded(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """One scale, (1, B, C, H, W) with factors (1, N + 1, 2 R + 1): (1, B, O, H, W)."""
    basis = separable_basis(rows[0], columns[0]).to(weight.dtype)
    filters = torch.einsum("ocn,nyx->ocyx", weight, basis)
    return dense_conv2d(x[0], filters.to(x.dtype), padding=rows.shape[-1] // 2)[None]


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
