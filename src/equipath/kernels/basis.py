"""How a layer whose filters are mixtures of a few fixed spatial filters is applied, and what each way costs.

Ring (SRE), steerable and Hermite layers all compute ``out[o] = Σ_c Σ_n weight[o, c, n] · (basis[n] ⋆ x[c])``.
Two evaluations of that sum give the same numbers:

* **expand**: mix the basis into dense filters first, then one ordinary convolution;
* **factor**: filter every channel by every basis filter, each cropped to its own support, then mix the
  channels with a 1x1 convolution.

Expanding multiplies ``O·C·k²`` numbers a pixel, factoring ``C·Σ k_n² + O·C·n``: for large kernels with few
basis filters the second is several times cheaper. ``kernels/evaluate.py`` predicts which.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from equipath.kernels.evaluate import (
    basis_conv_work,
    cheapest,
    dense_conv2d,
    preferred,
    price,
    pulled_back,
    transforming,
)

# Responses that are there at a time: products over many channels run faster, more would only take memory. An
# accelerator has more of it, and waits for every call.
PART_BYTES = 2 << 20
ACCELERATOR = 64  # times as many there


def crop_filters(basis: Tensor) -> list[Tensor]:
    """Each filter of a bank (n, k, k), k odd, cut to the smallest centred odd square with all its taps."""
    if basis.dim() != 3 or basis.shape[1] != basis.shape[2] or basis.shape[1] % 2 == 0:
        raise ValueError(f"a filter bank is (n, k, k) with odd k; got {tuple(basis.shape)}")
    half = basis.shape[1] // 2
    cropped = []
    for taps in basis:
        rows, columns = torch.nonzero(taps, as_tuple=True)
        reach = int(torch.cat([(rows - half).abs(), (columns - half).abs()]).max()) if len(rows) else 0
        cropped.append(taps[half - reach : half + reach + 1, half - reach : half + reach + 1].contiguous())
    return cropped


def expand_filters(weight: Tensor, basis: Tensor) -> Tensor:
    """Dense filters (O, C, k, k) from mixing weights (O, C, n) and a filter bank (n, k, k)."""
    return torch.einsum("ocn,nyx->ocyx", weight, basis)


def factored_conv2d(x: Tensor, weight: Tensor, filters: Sequence[Tensor], padding: int = 0) -> Tensor:
    """Filter by the basis, then mix: (B, C, H, W) to (B, O, H', W'), stride 1, zero padding.

    Args:
        weight: mixing weights (O, C, n); gradients flow to it and to ``x``, not to the filters.
        filters: n cropped filters (k_n, k_n); the largest, k, sets the size: ``H' = H + 2·padding - k + 1``.
        padding: zeros at each side.

    The responses to the basis are n times as large as the input. So a few filters at a time, or a few rows of the
    picture, are made and mixed into the output, and they are computed again in the backward pass instead of being
    kept: one more round of cheap depthwise filters for a fraction of the memory. Within ``torch.func`` and
    forward-mode derivatives they are made all at once.
    """
    if transforming():
        return _plainly(x, weight, padding, filters)
    out: Tensor = _Factored.apply(x, weight, padding, *filters)
    return out


def _plainly(x: Tensor, weight: Tensor, padding: int, filters: Sequence[Tensor]) -> Tensor:
    """The same in operations that torch differentiates."""
    return F.conv2d(_responses(x, filters, padding), _as_pointwise(weight))


def _responses(x: Tensor, filters: Sequence[Tensor], padding: int) -> Tensor:
    """(B, n·C, H', W'): every channel filtered by every basis filter, filter by filter."""
    largest = max(f.shape[-1] for f in filters)
    return torch.cat([_depthwise(x, f, padding - (largest - f.shape[-1]) // 2) for f in filters], 1)


def _depthwise(x: Tensor, taps: Tensor, padding: int, rows: tuple[int, int] | None = None) -> Tensor:
    """Every channel of (B, C, H, W) filtered alike; of the output, the rows from the first to before the last."""
    channels, side = x.shape[1], taps.shape[-1]
    above, below = padding, padding
    if rows is not None:  # the rows of x that they see, and the zeros above and below: perhaps only zeros
        first, last = rows[0] - padding, rows[1] - padding + side - 1
        top, bottom = (min(max(0, place), x.shape[-2]) for place in (first, last))
        above = min(max(0, -first), last - first)
        below = last - first - above - (bottom - top)
        x = x[..., top:bottom, :]
    elif padding < 0:  # a small filter in a valid convolution: the frame it cannot need is cut off first
        x, above, below = x[..., -padding:padding, :], 0, 0
    if padding < 0:
        x, padding = x[..., -padding:padding], 0
    if side == 1:
        x = F.pad(x, (padding, padding, above, below)) if padding or above or below else x
        return x * taps.to(x.dtype)
    if rows is not None and (above or below):
        x, above = F.pad(x, (0, 0, above, below)), 0
    taps = taps.to(x.dtype).expand(channels, 1, side, side)
    return F.conv2d(x, taps, padding=(above, padding), groups=channels)


def _as_pointwise(weight: Tensor) -> Tensor:
    """Mixing weights (O, C, n) as a 1x1 convolution over the n·C responses."""
    return weight.transpose(1, 2).flatten(1)[:, :, None, None]


def _matrix(x: Tensor) -> Tensor:
    """(B, C, H, W) with channels innermost as (B·H·W, C): a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _in_parts(x: Tensor) -> bool:
    """Whether responses are mixed a few at a time: in low precision a sum in steps would be rounded at each, and
    a compiler orders the work itself."""
    return x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def _offset(filters: Sequence[Tensor], taps: Tensor) -> int:
    return (max(f.shape[-1] for f in filters) - taps.shape[-1]) // 2


class _Part(NamedTuple):
    """Responses to the filters from ``first`` to before ``last``, as (places, filters·C): of all places, or of
    the given rows of one picture."""

    first: int
    last: int
    pictures: slice
    rows: slice
    responses: Tensor


def _parts(x: Tensor, filters: Sequence[Tensor], padding: int) -> Iterator[_Part]:
    """All responses, a few filters at a time, or a few rows at a time where the response to one is large."""
    everything, count = slice(None), len(filters)
    one, limit = x.numel() * x.element_size(), PART_BYTES * (1 if x.is_cpu else ACCELERATOR)
    if one <= limit:
        step = max(1, min(count, limit // max(1, one)))
        for first in range(0, count, step):
            last = min(first + step, count)
            yield _Part(
                first, last, everything, everything, _joined(x, filters[first:last], padding, filters)
            )
        return
    height = x.shape[-2] - max(f.shape[-1] for f in filters) + 1 + 2 * padding
    step = max(1, height * len(x) * limit // (2 * one))
    for n in range(len(x)):
        for top in range(0, height, step):
            rows = top, min(top + step, height)
            for first in range(count):
                taps = filters[first : first + 1]
                responses = _joined(x[n : n + 1], taps, padding, filters, rows)
                yield _Part(first, first + 1, slice(n, n + 1), slice(*rows), responses)


def _joined(
    x: Tensor,
    some: Sequence[Tensor],
    padding: int,
    filters: Sequence[Tensor],
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """The responses to some of the filters side by side, (places, filters·C)."""
    buffer = None
    for n, taps in enumerate(some):
        response = _depthwise(x, taps, padding - _offset(filters, taps), rows)
        if len(some) == 1:
            return _matrix(response)
        batch, channels, height, width = response.shape
        if buffer is None:
            buffer = response.new_empty(batch, height, width, channels * len(some)).permute(0, 3, 1, 2)
        buffer[:, n * channels : (n + 1) * channels] = response
    return _matrix(buffer)  # type: ignore[arg-type]


class _Factored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, padding, *filters):  # type: ignore[no-untyped-def]
        ctx.padding = padding
        ctx.save_for_backward(
            x, weight, *filters
        )  # x itself: a copy would be cut off from second derivatives
        # Depthwise and 1x1 convolutions are several times faster with channels innermost.
        x = x.contiguous(memory_format=torch.channels_last)
        if not _in_parts(x):
            return _plainly(x, weight, padding, filters)
        grow = 2 * padding + 1 - max(f.shape[-1] for f in filters)
        batch, _, height, width = x.shape
        total = x.new_empty(batch, height + grow, width + grow, weight.shape[0])
        for part in _parts(x, filters, padding):
            mixing = weight[:, :, part.first : part.last].transpose(1, 2).flatten(1).t()
            place = total[part.pictures, part.rows].view(-1, weight.shape[0])
            if part.first == 0:
                torch.mm(part.responses, mixing, out=place)
            else:
                place.addmm_(part.responses, mixing)
        return total.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, *filters = ctx.saved_tensors
        padding, channels = ctx.padding, x.shape[1]
        if transforming(grad):
            needs = ctx.needs_input_grad[:2]
            made = pulled_back(lambda x, w: _plainly(x, w, padding, filters), (x, weight), needs, grad)
            return *made, None, *[None] * len(filters)
        x = x.contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last)
        # A second derivative is wanted: differentiable operations only, so that it needs no code of its own.
        again = torch.is_grad_enabled() or not _in_parts(x)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            if again:
                responses = _responses(x, filters, padding)
                flat = conv2d_weight(responses, (weight.shape[0], responses.shape[1], 1, 1), grad)
                grad_weight = flat.reshape(weight.shape[0], len(filters), channels).transpose(1, 2)
            else:
                flat = weight.new_zeros(weight.shape[0], len(filters) * channels)
                for part in _parts(x, filters, padding):
                    place = flat[:, part.first * channels : part.last * channels]
                    place.addmm_(_matrix(grad[part.pictures, :, part.rows]).t(), part.responses)
                grad_weight = flat.view(weight.shape[0], len(filters), channels).transpose(1, 2)
        if ctx.needs_input_grad[0]:
            mixed = F.conv2d(grad, _as_pointwise(weight).transpose(0, 1)) if again else None
            for n, taps in enumerate(filters):
                if mixed is None:
                    batch, _, height, width = grad.shape
                    seen = (_matrix(grad) @ weight[:, :, n]).view(batch, height, width, channels)
                    seen = seen.permute(0, 3, 1, 2)
                else:
                    seen = mixed[:, n * channels : (n + 1) * channels]
                # The adjoint of filtering with padding p is filtering by the turned filter with k - 1 - p.
                margin = taps.shape[-1] - 1 - padding + _offset(filters, taps)
                seen = _depthwise(seen, taps.flip(-2, -1), margin)
                grad_x = seen if grad_x is None else grad_x + seen if again else grad_x.add_(seen)
        return grad_x, grad_weight, None, *[None] * len(filters)


@lru_cache(maxsize=4096)
def _cheaper(
    shape: tuple[int, ...], out_channels: int, supports: tuple[int, ...], kernel_size: int, dtype: torch.dtype,
    device: str,
) -> str:  # fmt: skip
    works = basis_conv_work(shape, out_channels, supports, kernel_size, dtype)
    return min(works, key=lambda name: price(works[name], device))


def evaluation(
    x: Tensor,
    out_channels: int,
    supports: tuple[int, ...],
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> str:
    """Which way ``basis_conv2d`` takes for this input: "expand" or "factor".

    Strided, dilated and grouped layers are always expanded; ``evaluate.prefer`` forces one for the others.
    """
    if stride != 1 or dilation != 1 or groups != 1:
        return "expand"
    if torch.compiler.is_compiling():  # symbolic sizes cannot be remembered
        return cheapest(basis_conv_work(x.shape, out_channels, supports, kernel_size, x.dtype), x)
    name = preferred()
    if name in ("expand", "factor"):
        return str(name)
    return _cheaper(tuple(x.shape), out_channels, supports, kernel_size, x.dtype, x.device.type)


def basis_conv2d(
    x: Tensor,
    out_channels: int,
    kernel_size: int,
    supports: tuple[int, ...],
    filters: Callable[[], Sequence[Tensor]],
    mixing: Callable[[], Tensor],
    dense: Callable[[], Tensor],
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with the mixtures ``Σ_n mixing[o, c, n] filters[n]``: (B, C, H, W) to (B, O, H', W').

    Args:
        supports: sides of the basis filters, each cropped to its taps (``crop_filters``).
        filters: gives these, of a bank of side ``kernel_size``; called if the layer is factored, as is
        mixing: gives the mixing weights (O, C, n).
        dense: gives the dense filters (O, C / groups, k, k); called if it is expanded. All are functions, so
            that a layer computes (or remembers) only what is used.
    """
    if evaluation(x, out_channels, supports, kernel_size, stride, dilation, groups) == "expand":
        return dense_conv2d(x, dense(), bias, stride, padding, dilation, groups)
    weight = mixing()
    if torch.is_autocast_enabled(x.device.type):
        # autocast casts the operands of convolutions only; an autograd function is handed them as they are
        low = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(low), weight.to(low)
        bias = None if bias is None else bias.to(low)
    padding -= (kernel_size - max(supports)) // 2
    out = factored_conv2d(x, weight, filters(), padding)
    return out if bias is None else out + bias[:, None, None]
