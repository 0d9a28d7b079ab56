"""Which pictures and numbers a network accepts: what is wrong with one is said in words; sizes are met by padding on
request.

Halving a grid and doubling it again returns to the same pixels only for some sizes, and a strided layer
commutes with turns only if its grid of samples is symmetric in the picture. Both are one statement about the
size: ``N ≡ remainder (mod step)``.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
"""How torch fills what a filter sees beyond the picture."""


def check_whole(who: str, least: int = 1, **values: int) -> None:
    """Raise unless each of the named values is a whole number from ``least`` up."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{who} needs {name} as a whole number from {least} up; got {value!r}")


def check_numbers(x: Tensor, like: Tensor, who: str) -> None:
    """Raise unless ``x`` has the dtype and the device of the weights ``like``, or autocast sees to the dtype.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: it holds whole numbers, or numbers of another dtype, or lies on another device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{who} takes a tensor; got {type(x).__name__}: torch.as_tensor(x) makes one of an array"
        )
    if x.device != like.device:
        raise ValueError(
            f"{who} has its weights on {like.device} and got a tensor on {x.device}: move one of them"
        )
    if x.dtype == like.dtype:
        return
    if not x.is_floating_point():
        raise ValueError(
            f"{who} computes with {like.dtype}; got {x.dtype}: divide bytes by 255, x.to({like.dtype}) / 255, or "
            "normalise as in training"
        )
    if not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{who} has weights of {like.dtype}; got numbers of {x.dtype}: x.to({like.dtype}) or .to({x.dtype}) on "
            "the network"
        )


def check_picture(x: Tensor, channels: int, like: Tensor, who: str) -> None:
    """Raise unless ``x`` is a batch of pictures (B, ``channels``, H, W) that weights ``like`` can work on.

    Raises:
        TypeError, ValueError: one sentence on what was wrong and what to do (``check_numbers``; axes, colours,
            no pixels at all).
    """
    check_numbers(x, like, who)
    if x.dim() == 4 and x.shape[1] == channels:
        if x.shape[2] == 0 or x.shape[3] == 0:
            raise ValueError(
                f"{who} got pictures of {x.shape[2]} x {x.shape[3]} pixels, which hold nothing: look at how they were "
                "cut"
            )
        return
    hint = ""
    if x.dim() == 3 and x.shape[0] == channels:
        hint = ": x[None] is a batch of one"
    elif x.dim() in (3, 4) and x.shape[-1] == channels:
        hint = ": colours come before rows, x.movedim(-1, -3)"
    elif x.dim() == 4 and x.shape[1] == channels + 1:
        hint = f": to leave an alpha channel out, x[:, :{channels}]"
    elif x.dim() == 4 and x.shape[1] == 1:
        hint = f": a grey picture as {channels} equal channels is x.expand(-1, {channels}, -1, -1)"
    raise ValueError(f"{who} takes pictures (B, {channels}, H, W); got {tuple(x.shape)}{hint}")


def check_stride(x: Tensor, window: int, stride: int, padding: int, who: str) -> None:
    """Raise unless a strided grid of samples ends as far from one edge as from the other: else it does not commute
    with turns.

    Args:
        window: pixels along the side of a dilated filter or a pooling window.
        padding: pixels at each side.
    """
    height, width = x.shape[-2:]
    for size in (height, width):
        left = size + 2 * padding - window
        if left < 0:
            raise ValueError(
                f"{who} got {height} x {width} pixels, smaller than its window of {window} with padding {padding}"
            )
        if left % stride:
            raise ValueError(
                f"{who} with stride {stride} samples {height} x {width} pixels off centre, which does not commute with "
                f"turns. Sizes N with N = {(window - 2 * padding) % stride} modulo {stride} work, such as "
                f"{size - left % stride} or {size - left % stride + stride}"
            )


def check_border(x: Tensor, padding: int, mode: str, who: str) -> None:
    """Raise unless a picture has the pixels that its border of ``padding`` pixels is filled with."""
    height, width = x.shape[-2:]
    if min(height, width) < padding + (mode == "reflect") and mode in ("reflect", "circular"):
        raise ValueError(
            f"{who} got {height} x {width} pixels, too few to fill a border of {padding} with by "
            f"padding_mode={mode!r}; 'zeros' and 'replicate' take any size"
        )


def check_windows(x: Tensor, side: int) -> None:
    """Raise unless windows of ``side`` pixels, side by side, cover a picture without a rest."""
    height, width = x.shape[-2:]
    if height % side or width % side:
        raise ValueError(
            f"pooling by {side} wants heights and widths that are multiples of {side}; got {height} x {width}: the "
            "pixels left over would lie on one side only"
        )


@dataclass(frozen=True)
class SizeContract:
    """Heights and widths N with ``N ≡ remainder (mod step)`` and ``N ≥ minimum``; each axis on its own.

    >>> SizeContract(16, 1).nearest(320)
    321
    """

    step: int
    remainder: int = 0
    minimum: int = 1

    def accepts(self, size: int) -> bool:
        """Whether a height or width of ``size`` pixels is valid."""
        return size >= self.minimum and size % self.step == self.remainder % self.step

    def nearest(self, size: int) -> int:
        """The smallest valid size that is not below ``size``."""
        size = max(size, self.minimum)
        return size + (self.remainder - size) % self.step

    def check(self, x: Tensor, who: str) -> None:
        """Raise a ``ValueError`` that names the sizes that would do, unless H and W of ``x`` are valid."""
        height, width = x.shape[-2:]
        if not (self.accepts(height) and self.accepts(width)):
            raise ValueError(
                f"{who} got a picture of {height} x {width} pixels; it wants {self}. The next valid size is "
                f"{self.nearest(height)} x {self.nearest(width)}: crop or pad, or build it with "
                f"pad_to_valid=True"
            )

    def pad(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Repeat the edges up to the next valid size; returns it and where the original starts.

        Half is added on each side. If the difference is odd, the extra row or column is added at the bottom
        or right: the picture is then no longer centred, and a network that is exactly equivariant on valid
        sizes is only nearly so (``keeps_centre`` tells).
        """
        height, width = x.shape[-2:]
        rows, columns = self.nearest(height) - height, self.nearest(width) - width
        top, left = rows // 2, columns // 2
        if rows or columns:
            x = F.pad(x, (left, columns - left, top, rows - top), mode="replicate")
        return x, top, left

    def keeps_centre(self, height: int, width: int) -> bool:
        """Whether padding to the next valid size adds the same on both sides, so that turns stay exact."""
        return (self.nearest(height) - height) % 2 == 0 and (self.nearest(width) - width) % 2 == 0

    def __str__(self) -> str:
        first = [self.nearest(self.minimum) + k * self.step for k in range(3)]
        if self.step == 1:
            return f"any height and width from {self.nearest(self.minimum)} pixels"
        kind = (
            f"N = {self.remainder % self.step} modulo {self.step}"
            if self.remainder
            else f"multiples of {self.step}"
        )
        return f"heights and widths that are {kind} ({', '.join(map(str, first))}, …)"


def at_valid_size(model: Any, x: Tensor, like: Tensor) -> tuple[Tensor, int, int]:
    """A network's input at a size that it takes, and the row and column where the picture starts in it.

    Args:
        model: a network with ``in_channels``, ``sizes`` and ``pad_to_valid``: whether other sizes are padded or an
            error.
        like: one of its weights.

    Raises:
        TypeError, ValueError: see ``check_picture`` and ``SizeContract.check``.
    """
    who = type(model).__name__
    check_picture(x, model.in_channels, like, who)
    sizes: SizeContract = model.sizes
    if model.pad_to_valid:
        return sizes.pad(x)
    sizes.check(x, who)
    return x, 0, 0
