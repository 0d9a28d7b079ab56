"""A group convolution through the Fourier transform of p4 or p4m: the same numbers with fewer
multiplications.

For each tap t and plane h gather ``F[t, h](x) = f_h(x + h t)`` and reorder the filter, ``v_t[k] = w[k, k
t]``. Then eq. 2 of the GU-Net paper reads ``out_g(x) = Σ_t Σ_h v_t[g⁻¹ h] F[t, h](x)``: for every tap a
convolution over the group alone, which the group's own Fourier transform turns into small matrix products.
D4 has irreducible representations of dimension 1, 1, 1, 1, 2, so 4 + 2³ = 12 multiplications stand in place
of 64; C4 has 1, 1 and a rotating pair, 6 in place of 16. The price is moving k² gathered copies of the input
through memory, so it pays for deep layers on small grids; ``evaluate.py`` decides.

The gradient of the input is the same computation with the filter's planes inverted, and the gathered copies
of the output's gradient give the filter's gradient as well: a training step gathers twice and scatters never.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from equipath.groups import Group
from equipath.kernels.evaluate import pulled_back, transforming
from equipath.kernels.regular import regular_taps, tap_table

# Gathered rows of one block: small enough to stay in cache between gather, transform and product, large enough
# that two cores seldom wait for each other.
BLOCK_BYTES = 4 << 20
# Of few fields, pixels of one block that make its products efficient; more would only take memory.
BLOCK_PLACES = 96


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def fourier_matrices(group: Group) -> tuple[Tensor, Tensor, int, int]:
    """The transform of signals (orthogonal) and that of filters, in float64, and the shape of the irreps.

    Four values, in this order: ``signal`` (G, G), first the ``ones`` one-dimensional irreps χ(h) / √G, then
    the entries [a, b] of the two-dimensional one, ρ(h)[a, b] √(2 / G), ordered b, then a (all a for D4; a = 0
    for C4, whose second row repeats the first); ``kernel`` (ones + 4, G), χ(k), then ρ(k)[c, b] in the order
    b, c; ``ones``, how many one-dimensional irreps; ``rows``, how many rows a.
    """
    rho = torch.stack([group.matrix(h) for h in range(group.order)])
    sign = torch.tensor([(-1.0) ** (h % 4) for h in range(group.order)], dtype=torch.float64)
    det = torch.linalg.det(rho).round()
    one = torch.ones_like(sign)
    characters = torch.stack([one, sign] if group.order == 4 else [one, sign, det, sign * det])
    rows = 1 if group.order == 4 else 2
    pair = torch.stack([rho[:, a, b] for b in range(2) for a in range(rows)])
    signal = torch.cat([characters / group.order**0.5, pair * (2 / group.order) ** 0.5])
    kernel = torch.cat([characters, torch.stack([rho[:, c, b] for b in range(2) for c in range(2)])])
    return signal, kernel, len(characters), rows


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _moved_taps(group: Group, kernel_size: int) -> Tensor:
    """(G, k²): entry (h, t) is the tap h t."""
    return tap_table(group, kernel_size)[group.inverses]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _gather_table(
    group: Group,
    k: int,
    dilation: int,
    images: int,
    rows: int,
    columns: int,
    padded: tuple[int, int],
    flip: bool,
) -> Tensor:
    """Which rows of a (images, Hp, Wp, G) grid make F[h, image, y, x, t]; flat, in this order."""
    tap = _moved_taps(group, k)
    if flip:
        tap = k * k - 1 - tap
    height, width = padded
    b = torch.arange(images).view(1, -1, 1, 1, 1)
    y = torch.arange(rows).view(1, 1, -1, 1, 1) + (tap // k * dilation).view(group.order, 1, 1, 1, -1)
    x = torch.arange(columns).view(1, 1, 1, -1, 1) + (tap % k * dilation).view(group.order, 1, 1, 1, -1)
    h = torch.arange(group.order).view(-1, 1, 1, 1, 1)
    return (((b * height + y) * width + x) * group.order + h).flatten()


def filter_transform(filters: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Filters on the group (G, T, I, O) to (ones, T · I, O) and (2, T · I, 2 · O), one matrix an irrep."""
    _, kernel, ones, _ = fourier_matrices(group)
    g, t, i, o = filters.shape
    every = (kernel.to(filters) @ filters.reshape(g, -1)).view(-1, t * i, o)
    pair = every[ones:].view(2, 2, t * i, o).transpose(1, 2).reshape(2, t * i, 2 * o)
    return every[:ones].clone(), pair  # a view would keep the memory of all


def _forward_filters(weight: Tensor, group: Group) -> Tensor:
    """v_t[k] = w[k, k t], as (G, T, I, O)."""
    o, i, g, k, _ = weight.shape
    index = torch.arange(g)[:, None] * k * k + _moved_taps(group, k)
    moved = weight.reshape(o * i, g * k * k).t().index_select(0, index.flatten().to(weight.device))
    return moved.view(g, k * k, o, i).transpose(2, 3)


def _backward_filters(weight: Tensor, group: Group) -> Tensor:
    """u_t[k] = w[k⁻¹, t], as (G, T, O, I): the filters of the transposed convolution."""
    o, i, g, k, _ = weight.shape
    flat = weight.reshape(o * i, g, k * k).permute(1, 2, 0).index_select(0, group.inverses.to(weight.device))
    return flat.reshape(g, k * k, o, i)


def _rows_last(x: Tensor, padding: int) -> Tensor:
    """(B, C, G, H, W) to zero-padded (B, H', W', G, C): the channels of one place lie side by side."""
    b, c, g, h, w = x.shape
    out = x.new_zeros(b, h + 2 * padding, w + 2 * padding, g, c)
    out[:, padding : padding + h, padding : padding + w] = x.permute(0, 3, 4, 2, 1)
    return out


def _blocks(images: int, rows: int, columns: int, bytes_per_place: int) -> list[tuple[int, int, int, int]]:
    """(first image, images, first row, rows) of blocks of whole images, or of rows of one image, about equal."""
    places = max(1, min(BLOCK_PLACES, BLOCK_BYTES // bytes_per_place))
    if places >= rows * columns:
        step = places // (rows * columns)
        return [(b, min(step, images - b), 0, rows) for b in range(0, images, step)]
    step = -(-rows // -(-rows * columns // places))
    return [(b, 1, y, min(step, rows - y)) for b in range(images) for y in range(0, rows, step)]


class _Plan:
    """The gathered and transformed blocks of one field (B, C, G, H, W), in the order they are wanted.

    It is padded, and its channels laid side by side, for the pictures of one block at a time.
    """

    def __init__(self, x: Tensor, padding: int, group: Group, k: int, dilation: int, flip: bool) -> None:
        self.x, self.padding, self.group = x, padding, group
        self.k, self.dilation, self.flip = k, dilation, flip
        b, c, g, h, w = x.shape
        shrink = dilation * (k - 1) - 2 * padding
        self.height, self.width = h - shrink, w - shrink
        self.signal = fourier_matrices(group)[0].to(x)
        self.blocks = _blocks(b, self.height, self.width, g * k * k * c * x.element_size())
        self._held: tuple[int, int, Tensor] | None = None

    def _padded(self, b: int, images: int) -> Tensor:
        if self._held is None or self._held[:2] != (b, images):
            self._held = None  # let go before the next takes its place
            self._held = b, images, _rows_last(self.x[b : b + images], self.padding)
        return self._held[2]

    def block(self, b: int, images: int, y: int, rows: int) -> Tensor:
        """(G irrep entries, places, T · C) of one block."""
        padded = self._padded(b, images)
        _, hp, wp, g, c = padded.shape
        reach = rows + self.dilation * (self.k - 1)
        piece = padded[:, y : y + reach]
        table = _gather_table(
            self.group,
            self.k,
            self.dilation,
            images,
            rows,
            self.width,
            (reach if images == 1 else hp, wp),
            self.flip,
        )
        gathered = piece.reshape(-1, c).index_select(0, table.to(piece.device))
        return torch.mm(self.signal, gathered.view(g, -1)).view(g, -1, self.k * self.k * c)


def _multiply(signal: Tensor, ones: Tensor, pair: Tensor, rows: int) -> Tensor:
    """Signals (G, M, K) times filters (ones, K, N), (2, K, 2 N): (G, M, N) in the same order of irreps."""
    n1, _, n = ones.shape
    g, m, _ = signal.shape
    out = signal.new_empty(g, m, n)
    for j in range(n1):
        torch.mm(signal[j], ones[j], out=out[j])
    entries = signal[n1:].view(2, rows * m, -1)
    product = torch.addmm(entries[0] @ pair[0], entries[1], pair[1])
    out[n1:].view(2, rows, m, n).copy_(product.view(rows, m, 2, n).permute(2, 0, 1, 3))
    return out


def _place(product: Tensor, plan: _Plan, block: tuple[int, int, int, int], out: Tensor) -> None:
    """Bring one block's products (G irrep entries, places, C) back from the transform, into (B, C, G, H, W)."""
    first, images, y, rows = block
    g = len(plan.signal)
    back = torch.mm(plan.signal.t(), product.view(g, -1)).view(g, images, rows, plan.width, -1)
    out[first : first + images, :, :, y : y + rows] = back.permute(1, 4, 0, 2, 3)


def _weight_gradient(
    signal: Tensor, field: Tensor, ones: int, rows: int, total: tuple[Tensor, Tensor]
) -> None:
    """Add one block's ``signalᵀ field``, irrep by irrep, to the gradients of the transformed filters."""
    _, m, n = field.shape
    for j in range(ones):
        total[0][j].addmm_(signal[j].t(), field[j])
    pairs = field[ones:].view(2, rows, m, n).permute(1, 2, 0, 3).reshape(rows * m, 2 * n)
    for gradient, entries in zip(total[1], signal[ones:].view(2, rows * m, -1), strict=True):
        gradient.addmm_(entries.t(), pairs)


def _plainly(x: Tensor, weight: Tensor, group: Group, padding: int, dilation: int) -> Tensor:
    """The same numbers by one ordinary convolution."""
    y = F.conv2d(x.flatten(1, 2), regular_taps(weight, group), None, 1, padding, dilation)
    return y.unflatten(1, (-1, group.order))


class _FourierConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, group: Group, padding: int, dilation: int) -> Tensor:
        filters = filter_transform(_forward_filters(weight, group), group)
        return convolve_transformed(x, filters, group, weight.shape[-1], padding, dilation)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.group, ctx.padding, ctx.dilation = inputs[2:]

    @staticmethod
    def backward(ctx, *grads):
        x, weight = ctx.saved_tensors
        group, padding, dilation = ctx.group, ctx.padding, ctx.dilation
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or transforming(grads[0]):  # the plain way has gradients of its own
            made = pulled_back(
                lambda x, weight: _plainly(x, weight, group, padding, dilation), (x, weight), wanted, grads[0]
            )
            return *made, None, None, None
        o, i, g, k, _ = weight.shape
        plan = _Plan(grads[0], dilation * (k - 1) - padding, group, k, dilation, True)
        _, kernel, ones, rows = fourier_matrices(group)
        grad_weight = None
        filters = filter_transform(_backward_filters(weight, group), group) if wanted[0] else None
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if wanted[0] else None
        total = (x.new_zeros(ones, k * k * o, i), x.new_zeros(2, k * k * o, 2 * i))
        for block in plan.blocks:  # each gathered block serves both gradients
            first, images, top, lines = block
            signal = plan.block(*block)
            if filters is not None and grad_x is not None:
                _place(_multiply(signal, *filters, rows), plan, block, grad_x)
            if wanted[1]:
                piece = x[first : first + images, :, :, top : top + lines].permute(2, 0, 3, 4, 1)
                field = torch.mm(plan.signal, piece.reshape(g, -1)).view(g, -1, i)
                _weight_gradient(signal, field, ones, rows, total)
        # Large beside the fields of deep layers: each is let go when the next is made of it.
        del filters, plan
        if wanted[1]:
            every = total[0].new_empty(ones + 4, k * k * o * i)
            every[:ones] = total[0].view(ones, -1)
            every[ones:].view(2, 2, k * k * o, i).copy_(total[1].view(2, k * k * o, 2, i).transpose(1, 2))
            del total
            grad_weight = (kernel.to(every).t() @ every).view(g, k * k, o, i)
            del every
            # u[k] = w[k⁻¹], and inverting twice changes nothing: the same index brings the gradient home.
            grad_weight = grad_weight.index_select(0, group.inverses.to(x.device))
            grad_weight = grad_weight.permute(2, 3, 0, 1).reshape(o, i, g, k, k)
        return grad_x, grad_weight, None, None, None


def convolve_transformed(
    x: Tensor, filters: tuple[Tensor, Tensor], group: Group, kernel_size: int, padding: int, dilation: int = 1
) -> Tensor:
    """The convolution with filters already transformed (they can be kept for inference). No gradients."""
    plan = _Plan(x, padding, group, kernel_size, dilation, False)
    out = x.new_empty(x.shape[0], filters[0].shape[-1], group.order, plan.height, plan.width)
    rows = fourier_matrices(group)[3]
    for block in plan.blocks:
        _place(_multiply(plan.block(*block), *filters, rows), plan, block, out)
    return out


def transformed(weight: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """The transform of a filter (O, I, G, k, k), for ``convolve_transformed``."""
    return filter_transform(_forward_filters(weight, group), group)


def fourier_group_conv(
    x: Tensor, weight: Tensor, group: Group, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Group convolution (B, I, G, H, W) with filters (O, I, G, k, k), stride 1: (B, O, G, H', W').

    Differentiable any number of times; within ``torch.func`` and forward-mode derivatives it is one ordinary
    convolution. ``padding`` must not exceed ``dilation · (k - 1)``.
    """
    reach = dilation * (weight.shape[-1] - 1)
    if padding > reach:
        raise ValueError(
            f"padding {padding} is wider than the filter reaches ({reach}); use the plain evaluation"
        )
    if transforming():
        return _plainly(x, weight, group, padding, dilation)
    return _FourierConv.apply(x, weight, group, padding, dilation)
