"""How a filter bank is applied: one cost model for every family of layers.

A layer that can be computed in several ways states the work of each (``Work``: products, numbers moved,
calls) and takes the ``cheapest`` for this shape, dtype and device. The prices were fitted to measurements;
``make bench`` shows in each row what was chosen and what the best choice would have been. All evaluations of
a layer give the same numbers, so the choice is never seen in a result; ``prefer`` forces one, for tests and
benchmarks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling


@dataclass(frozen=True)
class Work:
    """What an evaluation has to do.

    Attributes:
        products: multiply-adds inside dense convolutions or matrix products.
        depthwise: multiply-adds inside depthwise convolutions, one filter a channel.
        gathered: numbers written by irregular copies and read back, such as shifted copies of a field.
        copied: numbers written by permuting or transforming *filters* (small beside the field, contiguous).
        calls: library calls, for layers so small that starting them is what costs.
    """

    products: float = 0.0
    gathered: float = 0.0
    copied: float = 0.0
    calls: float = 1.0
    depthwise: float = 0.0


@dataclass(frozen=True)
class Prices:
    """What each kind of work costs, in multiply-adds of a large dense convolution on the same device."""

    product: float = 1.0
    gathered: float = 150.0
    copied: float = 60.0
    call: float = 2e5
    depthwise: float = 2.8


# Fitted on x86 cores with AVX2 and AVX-512, one and two threads, float32. Accelerators have far more
# arithmetic for every byte of bandwidth and pay more for a call.
PRICES = {"cpu": Prices(), "cuda": Prices(gathered=4000.0, copied=1000.0, call=2e7, depthwise=40.0)}

# Columns of zeros that oneDNN's direct convolution for AVX2 takes on the left: more than a register block is slow.
ONEDNN_COLUMNS = 3

_preferred: ContextVar[str | None] = ContextVar("preferred", default=None)

# One entry for each ``prefer`` block that is open anywhere: while there is none, which is cheap to see, nobody
# need ask what is preferred here.
open_preferences: list[str | None] = []


def transforming(*tensors: Tensor) -> bool:
    """Whether ``torch.func`` (vmap, grad, jvp, ...), batched gradients or forward-mode derivatives are at work.

    They follow torch's own operations only. So in them nothing is written in place, no gradient is our own, and no
    filter is kept: a number there may carry a derivative, or stand for a whole batch, that its content does not show.
    Batched gradients (``is_grads_batched``) come in another kind of tensor, which only the ``tensors`` tell.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:  # torch.compile follows both
        return True
    if is_dynamo_compiling():  # it cannot trace the question below, and never meets such tensors
        return False
    return bool(tensors) and any(torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)


def pulled_back(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needs: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of ``function(*inputs)`` that are needed, by autograd: for the backward pass of an autograd
    function that is itself to be differentiated or batched.

    ``function`` is to be made of operations that torch differentiates, any number of times.
    """
    with torch.enable_grad():
        inputs = [t.view_as(t) for t in inputs]  # not leaves: autograd goes on to what they came from
        wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
        return [next(found) if need else None for need in needs]


def price(work: Work, device: torch.device | str = "cpu") -> float:
    """The price of some work on a device; only ratios of prices mean anything."""
    p = PRICES.get(torch.device(device).type, PRICES["cuda"])
    return (
        p.product * work.products
        + p.depthwise * work.depthwise
        + p.gathered * work.gathered
        + p.copied * work.copied
        + p.call * work.calls
    )


def cheapest(works: Mapping[str, Work], like: Tensor) -> str:
    """The name of the cheapest evaluation on the device of ``like``, or the preferred one if it is
    offered."""
    if not torch.compiler.is_compiling():  # a compiler cannot follow context variables
        name = preferred()
        if name in works:
            return str(name)
    best, least = "", float("inf")
    for name, work in works.items():  # a plain loop: the compiler cannot follow min with a key
        cost = price(work, like.device)
        if cost < least:
            best, least = name, cost
    return best


def preferred() -> str | None:
    """The evaluation that ``prefer`` asks for here, if any."""
    return _preferred.get()


@contextmanager
def prefer(name: str | None) -> Iterator[None]:
    """Within the block, layers that offer an evaluation called ``name`` use it whatever it costs.

    Names in use: "expand" (one dense convolution), "fourier" (p4 and p4m, through the group's Fourier
    transform), "factor" (filter by a fixed basis, then mix channels). Families of layers add theirs.
    """
    token = _preferred.set(name)
    open_preferences.append(name)
    try:
        yield
    finally:
        open_preferences.pop()
        _preferred.reset(token)


def dense_conv2d(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """``conv2d``, the same numbers, two to three times as fast where filters of 9 x 9 and larger are padded.

    oneDNN's direct convolution for AVX2 takes at most three columns of zeros on the left; beyond, it falls back
    to a slow one. So the rest of the zeros is laid around the picture first. (Channels innermost in memory, it has
    another kernel, without that limit.)
    """
    more = padding - ONEDNN_COLUMNS
    if more <= 0 or groups != 1 or not x.is_cpu:
        return F.conv2d(x, taps, bias, stride, padding, dilation, groups)
    # under vmap the order of channels in memory cannot be asked
    if transforming() or x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, taps, bias, stride, padding, dilation, groups)
    wide = F.pad(x, (more, more, 0, 0))
    return F.conv2d(wide, taps, bias, stride, (padding, ONEDNN_COLUMNS), dilation)


def group_conv_work(
    order: int, fields_in: int, fields_out: int, taps: int, places: int, *, training: bool, kept: bool
) -> dict[str, Work]:
    """The work of a p4 (order 4) or p4m (order 8) convolution with stride 1, expanded and by Fourier
    transform.

    Args:
        taps: k² of a k x k filter.
        places: output pixels of the whole batch.
        training: gradients of input and filter included.
        kept: the filters are at hand from an earlier call (inference).
    """
    passes = 3 if training else 1
    pairs = fields_in * fields_out * taps
    fourier_products = {4: 6, 8: 12}[order]
    new_filters = 0 if kept else (2 if training else 1)
    # Backwards, the other field is transformed beside the gathered one, and both gradients are laid out anew.
    gathered = order * taps * places * (fields_in + (1.7 * fields_out if training else 0))
    return {
        "expand": Work(passes * order**2 * pairs * places, 0, new_filters * order**2 * pairs, passes),
        # Products of blocks that just fit the cache run at about 3/4 of a large convolution's rate.
        "fourier": Work(
            1.3 * passes * fourier_products * pairs * places, gathered, new_filters * 3 * order * pairs, 40
        ),
    }


@lru_cache(maxsize=4096)
def _cheaper_group_conv(
    order: int,
    fields_in: int,
    fields_out: int,
    taps: int,
    places: int,
    training: bool,
    kept: bool,
    device: str,
) -> str:
    works = group_conv_work(order, fields_in, fields_out, taps, places, training=training, kept=kept)
    return min(works, key=lambda name: price(works[name], device))


def cheaper_group_conv(
    order: int,
    fields_in: int,
    fields_out: int,
    taps: int,
    places: int,
    training: bool,
    kept: bool,
    device: str,
) -> str:
    """``cheapest`` of ``group_conv_work``, remembered: in a small layer, asking anew would show."""
    name = preferred()
    if name in ("expand", "fourier"):
        return str(name)
    return _cheaper_group_conv(order, fields_in, fields_out, taps, places, training, kept, device)


def basis_conv_work(
    shape: Sequence[int], out_channels: int, supports: Sequence[int], kernel_size: int, dtype: torch.dtype
) -> dict[str, Work]:
    """The work of mixing a few fixed filters (rings, steerable and Hermite bases), expanded and factored.

    Args:
        shape: (B, C, H, W) of the input; the output is taken to have the same H and W.
        supports: side of each basis filter, cropped to its taps.
        kernel_size: side of the dense filter.
    """
    batch, channels, height, width = shape
    places, count = batch * height * width, len(supports)

    def blocks(c: int) -> int:  # convolutions work in blocks of 16 channels: 6 out of a layer cost like 16
        return -(-c // 16) * 16

    # Few channels have kernels of their own, pictures among them: measured to cost by their number, from 3 up.
    inputs = max(3, channels) if channels <= 8 else blocks(channels)
    # Reading and writing a plane costs like three taps more. Without float64 in oneDNN, depthwise
    # convolutions fall back to plain loops, thirty times slower than expanding.
    slow = 100.0 if dtype == torch.float64 else 1.0
    taps = slow * sum(k * k + 3 for k in supports if k > 1)
    return {
        "expand": Work(places * inputs * blocks(out_channels) * kernel_size**2),
        "factor": Work(
            # a 1x1 convolution of many responses runs at 5/8 of a large one's rate
            products=1.6 * places * blocks(channels * count) * blocks(out_channels),
            depthwise=places * channels * taps,
            copied=places * channels * count,
            calls=3 * (count + 2),  # autograd's bookkeeping included: measured at 16 channels, 48²
        ),
    }


def separable_conv_work(
    shape: Sequence[int], out_channels: int, radius: int, count: int, *, training: bool
) -> dict[str, Work]:
    """The work of one scale of a Gaussian-derivative or Hermite layer, expanded and factored.

    Args:
        shape: (B, C, H, W) of that scale; the output has the same H and W.
        radius: half the size of the scale's filter.
        count: 1-D factors, the order of the basis plus one.
        training: gradients of input and filter included.
    """
    batch, channels, height, width = shape
    places, passes = batch * height * width, 3 if training else 1
    functions = count * (count + 1) // 2

    def blocks(c: int) -> int:  # convolutions work in blocks of 8 channels; pictures have their own kernels
        return c if c <= 4 else -(-c // 8) * 8

    # A tile of 64 outputs multiplies 64 + 2 radius inputs, most of them by zero, at matrix-product speed:
    # for matrices this slim, 4/5 of a convolution's. Planes are written, and read back, between passes.
    across, along = (min(size, 64 + 2 * radius) for size in (width, height))
    early = count * out_channels <= functions * channels  # see separable.py: mix before the columns
    vertical = count * out_channels if early else functions * channels
    planes = count * channels + vertical + channels + out_channels
    return {
        "expand": Work(
            products=passes * places * blocks(channels) * blocks(out_channels) * (2 * radius + 1) ** 2,
            copied=passes * places * (blocks(channels) + blocks(out_channels)),
        ),
        "factor": Work(
            products=1.25
            * passes
            * places
            * (count * channels * across + functions * channels * out_channels + vertical * along),
            copied=passes * places * planes,
            calls=2 * passes * count,
        ),
    }
