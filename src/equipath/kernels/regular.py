"""Where p4 and p4m filters come from: one filter, copied by the group.

Pure functions from parameters to the taps of an ordinary convolution, by index tables: lifting (Z² → G, eq.
1 of the GU-Net paper), group convolution (G → G, eq. 2), its transpose, and the projection G → Z² (eq. 3).
In all of them a filter moved by g carries the taps of the pixel grid with it; a filter on the group also has
its planes change places. The number of taps is k² for a k x k filter; G is the group's order. ``tables`` are
those of ``copy_tables``, for callers that keep them on the weight's device.
"""

from functools import lru_cache

import torch
from torch import Tensor

from equipath.groups import Group
from equipath.kernels.evaluate import transforming


# Tables are kept for all that follows, training too, which refuses tensors made in inference mode.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def tap_table(group: Group, kernel_size: int) -> Tensor:
    """(G, k²) int64: entry (g, y) is the tap that lands on y when the filter is moved by g, that is g⁻¹ y."""
    grid = torch.arange(kernel_size**2).reshape(kernel_size, kernel_size)
    return torch.stack([group.act(grid, g).flatten() for g in range(group.order)])


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def regular_table(group: Group, kernel_size: int) -> Tensor:
    """(G, G, k²) int64: entry (g, h, y) is where the parameter of plane g⁻¹ h, tap g⁻¹ y lies in (G · k²)."""
    planes = group.table[group.inverses]  # (g, h) -> g⁻¹ h
    return planes[:, :, None] * kernel_size**2 + tap_table(group, kernel_size)[:, None]


Tables = tuple[Tensor, Tensor]

# Taps up to which one table from parameters to taps, as they lie in the end, is fastest: for layers of a few
# fields, starting the calls is what costs. Beyond, torch's scatter of the gradient is slow.
SMALL = 160_000
PIECE = 1024  # filters that are copied at a time


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def copy_tables(group: Group, kernel_size: int, planes: int) -> Tables:
    """The flat table from a filter's numbers to its G copies, and the flat table back, each copy on its
    own."""
    table = regular_table(group, kernel_size) if planes > 1 else tap_table(group, kernel_size)
    flat = table.reshape(group.order, -1)
    back = flat.argsort(1) + torch.arange(group.order)[:, None] * flat.shape[1]
    return flat.flatten(), back.flatten()


class _Copy(torch.autograd.Function):
    """(A, B, P) -> (A, G, B, P): the G permuted copies of each filter. The gradient gathers and sums (no
    scatter). Some of the A at a time, so that what lies in between stays in the cache and takes no memory."""

    @staticmethod
    def forward(weight: Tensor, table: Tensor, back: Tensor) -> Tensor:
        first, second, size = weight.shape
        copies = weight.new_empty(first, len(table) // size, second, size)
        step = max(1, PIECE // second)
        for a in range(0, first, step):
            some = weight[a : a + step].reshape(-1, size).index_select(1, table)
            copies[a : a + step] = some.view(-1, second, len(table) // size, size).transpose(1, 2)
        return copies

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx, *grads):
        table, back = ctx.saved_tensors
        add = _Sum.apply if torch.is_grad_enabled() else _Sum.forward  # the second has no gradient of its own
        return add(grads[0], table, back), None, None


class _Sum(torch.autograd.Function):
    """The adjoint of ``_Copy``; it and ``_Copy`` are each other's gradients, so any order of gradient
    exists."""

    @staticmethod
    def forward(copies: Tensor, table: Tensor, back: Tensor) -> Tensor:
        first, order, second, size = copies.shape
        total = copies.new_empty(first, second, size)
        step = max(1, PIECE // second)
        for a in range(0, first, step):
            some = copies[a : a + step].transpose(1, 2).reshape(-1, order * size).index_select(1, back)
            torch.sum(some.view(-1, second, order, size), 2, out=total[a : a + step])
        return total

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx, *grads):
        table, back = ctx.saved_tensors
        return _Copy.apply(grads[0], table, back), None, None


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _places(group: Group, kernel_size: int, planes: int, first: int, second: int, outward: bool) -> Tensor:
    """Which parameter each tap is, for filters (first, second, planes, k, k); flat."""
    table, _ = copy_tables(group, kernel_size, planes)
    numbers = torch.arange(first * second * planes * kernel_size**2).view(first * second, -1)
    return _arranged(numbers[:, table], group, kernel_size, first, second, outward).flatten()


def _arranged(copies: Tensor, group: Group, k: int, first: int, second: int, outward: bool) -> Tensor:
    """(A · B, G · planes · k²) copies as taps (A G, B planes, k, k), or (A, B G planes, k, k) if not outward."""
    copies = copies.reshape(first, second, group.order, -1, k * k)
    if not outward:
        return copies.reshape(first, -1, k, k)
    return copies.movedim(2, 1).reshape(first * group.order, -1, k, k)


def _copies(weight: Tensor, group: Group, planes: int, outward: bool, tables: Tables | None) -> Tensor:
    """The taps of filters (A, B, k, k) or (A, B, planes, k, k)."""
    first, second, k = weight.shape[0], weight.shape[1], weight.shape[-1]
    compiling = torch.compiler.is_compiling()
    if weight.is_cpu and weight.numel() * group.order <= SMALL and not compiling:
        index = _places(group, k, planes, first, second, outward)
        taps = weight.reshape(-1).index_select(0, index)
        if outward:
            return taps.view(first * group.order, second * planes, k, k)
        return taps.view(first, second * group.order * planes, k, k)
    table, back = copy_tables(group, k, planes) if tables is None else tables
    if compiling or transforming():  # these write their own gradient of the plain gather
        flat = weight.reshape(-1, planes * k * k)
        return _arranged(flat[:, table], group, k, first, second, outward)
    # (A, B, planes k²) to (A, G, B, planes k²), or (A, B, 1, P) to (A B, G, 1, P) if not outward
    filters = weight.reshape(first, second, -1) if outward else weight.reshape(first * second, 1, -1)
    copies: Tensor = _Copy.apply(filters, table.to(weight.device), back.to(weight.device))
    return copies.view(first * group.order if outward else first, -1, k, k)


def _check(weight: Tensor, dims: int, wanted: str) -> None:
    if weight.dim() != dims or weight.shape[-1] != weight.shape[-2]:
        raise ValueError(f"the filter has shape {tuple(weight.shape)}; wanted {wanted}, square")


def lifting_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """Z² → G: filters (O, I, k, k) to conv2d taps (O · G, I, k, k); output plane g sees the filter moved by
    g."""
    _check(weight, 4, "(O, I, k, k)")
    return _copies(weight, group, 1, True, tables)


def regular_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """G → G: filters (O, I, G, k, k) to conv2d taps (O · G, I · G, k, k).

    Between output plane g and input plane h stands plane g⁻¹ h of the filter, moved by g. The same taps
    serve a transposed convolution, for which O counts the *input* fields (torch's order for
    ``conv_transpose2d``).
    """
    _check(weight, 5, "(O, I, G, k, k)")
    if weight.shape[2] != group.order:
        raise ValueError(f"a filter on {group.name} has {group.order} planes; got {tuple(weight.shape)}")
    return _copies(weight, group, group.order, True, tables)


def projection_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """G → Z²: planar filters (O, I, k, k) to conv2d taps (O, I · G, k, k); input plane h sees it moved by
    h."""
    _check(weight, 4, "(O, I, k, k)")
    return _copies(weight, group, 1, False, tables)
