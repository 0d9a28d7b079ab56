"""Where p4 and p4m filters come from: one filter, copied by the group.

Pure functions from parameters to the taps of an ordinary convolution, by index tables: lifting (Z² → G, eq.
1 of the GU-Net paper), group convolution (G → G, eq. 2), its transpose, and the projection G → Z² (eq. 3).
In all of them a filter moved by g carries the taps of the pixel grid with it; a filter on the group also has
its planes change places. The number of taps is k² for a k x k filter; G is the group's order. ``tables`` are
those of ``copy_tables``, for callers that keep them on the weight's device.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from equipath.groups import Group


@lru_cache(maxsize=256)
def tap_table(group: Group, kernel_size: int) -> Tensor:
    """(G, k²) int64: entry (g, y) is the tap that lands on y when the filter is moved by g, that is g⁻¹ y."""
    grid = torch.arange(kernel_size**2).reshape(kernel_size, kernel_size)
    return torch.stack([group.act(grid, g).flatten() for g in range(group.order)])


@lru_cache(maxsize=256)
def regular_table(group: Group, kernel_size: int) -> Tensor:
    """(G, G, k²) int64: entry (g, h, y) is where the parameter of plane g⁻¹ h, tap g⁻¹ y lies in (G · k²)."""
    planes = group.table[group.inverses]  # (g, h) -> g⁻¹ h
    return planes[:, :, None] * kernel_size**2 + tap_table(group, kernel_size)[:, None]


Tables = tuple[Tensor, Tensor]

# Multiply-adds up to which a product with a matrix of zeros and ones copies faster than a gather with a gradient
# of its own: for layers of a few fields, starting the calls is what costs.
SMALL = 2_000_000


@lru_cache(maxsize=256)
def copy_tables(group: Group, kernel_size: int, planes: int) -> Tables:
    """The flat table from a filter's numbers to its G copies, and the flat table back, each copy on its
    own."""
    table = regular_table(group, kernel_size) if planes > 1 else tap_table(group, kernel_size)
    flat = table.reshape(group.order, -1)
    back = flat.argsort(1) + torch.arange(group.order)[:, None] * flat.shape[1]
    return flat.flatten(), back.flatten()


@lru_cache(maxsize=64)
def _selection(group: Group, kernel_size: int, planes: int, dtype: torch.dtype) -> Tensor:
    """(planes · k², G · planes · k²): one 1 in each column, at the parameter that ``copy_tables`` has there."""
    table, _ = copy_tables(group, kernel_size, planes)
    return F.one_hot(table, planes * kernel_size**2).t().to(dtype).contiguous()


class _Copy(torch.autograd.Function):
    """(N, P) -> (N, G, P): the G permuted copies of each filter. The gradient gathers and sums (no
    scatter)."""

    @staticmethod
    def forward(weight: Tensor, table: Tensor, back: Tensor) -> Tensor:
        return weight.index_select(1, table)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])
        ctx.size = inputs[0].shape[1]

    @staticmethod
    def backward(ctx, *grads):
        table, back = ctx.saved_tensors
        add = _Sum.apply if torch.is_grad_enabled() else _Sum.forward  # the second has no gradient of its own
        return add(grads[0], table, back, ctx.size), None, None


class _Sum(torch.autograd.Function):
    """The adjoint of ``_Copy``; it and ``_Copy`` are each other's gradients, so any order of gradient
    exists."""

    @staticmethod
    def forward(copies: Tensor, table: Tensor, back: Tensor, size: int) -> Tensor:
        return copies.index_select(1, back).reshape(copies.shape[0], -1, size).sum(1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx, *grads):
        table, back = ctx.saved_tensors
        return _Copy.apply(grads[0], table, back), None, None, None


def _multiplies(weight: Tensor) -> bool:
    """Whether a matrix product with zeros and ones gives the very numbers (not in low precision, not TF32)."""
    exact = weight.is_cpu and weight.dtype in (torch.float32, torch.float64)
    return exact and not torch.is_autocast_enabled("cpu")


def _copies(weight: Tensor, group: Group, kernel_size: int, planes: int, tables: Tables | None) -> Tensor:
    """(A, B, planes · k²) parameters -> (A, B, G, planes, k²)."""
    table, back = copy_tables(group, kernel_size, planes) if tables is None else tables
    flat = weight.reshape(-1, planes * kernel_size**2)
    if torch.compiler.is_compiling():  # a compiler writes its own gradient of the plain gather
        copies = flat.index_select(1, table)
    elif flat.shape[0] * flat.shape[1] ** 2 * group.order <= SMALL and _multiplies(weight):
        copies = flat @ _selection(group, kernel_size, planes, weight.dtype)
    else:
        copies = _Copy.apply(flat, table.to(weight.device), back.to(weight.device))
    return copies.reshape(*weight.shape[:2], group.order, planes, kernel_size**2)


def _check(weight: Tensor, dims: int, wanted: str) -> None:
    if weight.dim() != dims or weight.shape[-1] != weight.shape[-2]:
        raise ValueError(f"the filter has shape {tuple(weight.shape)}; wanted {wanted}, square")


def lifting_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """Z² → G: filters (O, I, k, k) to conv2d taps (O · G, I, k, k); output plane g sees the filter moved by
    g."""
    _check(weight, 4, "(O, I, k, k)")
    o, i, k, _ = weight.shape
    return _copies(weight, group, k, 1, tables).movedim(2, 1).reshape(o * group.order, i, k, k)


def regular_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """G → G: filters (O, I, G, k, k) to conv2d taps (O · G, I · G, k, k).

    Between output plane g and input plane h stands plane g⁻¹ h of the filter, moved by g. The same taps
    serve a transposed convolution, for which O counts the *input* fields (torch's order for
    ``conv_transpose2d``).
    """
    _check(weight, 5, "(O, I, G, k, k)")
    o, i, g, k, _ = weight.shape
    if g != group.order:
        raise ValueError(f"a filter on {group.name} has {group.order} planes; got {tuple(weight.shape)}")
    return _copies(weight, group, k, g, tables).movedim(2, 1).reshape(o * g, i * g, k, k)


def projection_taps(weight: Tensor, group: Group, tables: Tables | None = None) -> Tensor:
    """G → Z²: planar filters (O, I, k, k) to conv2d taps (O, I · G, k, k); input plane h sees it moved by
    h."""
    _check(weight, 4, "(O, I, k, k)")
    o, i, k, _ = weight.shape
    return _copies(weight, group, k, 1, tables).reshape(o, i * group.order, k, k)
