"""Which picture sizes a network accepts: said in words, enforced, or met by padding on request.

Halving a grid and doubling it again returns to the same pixels only for some sizes, and a strided layer
commutes with turns only if its grid of samples is symmetric in the picture. Both are one statement about the
size: ``N ≡ remainder (mod step)``.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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
        or
        right: the picture is then no longer centred, and a network that is exactly equivariant on valid
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
