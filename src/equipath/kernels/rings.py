"""Ring filters: one weight for all taps at (nearly) the same distance from the centre.

Symmetric rotation-equivariant (SRE) convolution, section 2 of the SRENet paper. A k x k filter, k odd, has
``⌊k/2⌋ + 1`` rings with edges ``linspace(0, ⌊k/2⌋ + 0.5, rings + 1)``; taps farther out than the last edge
are zero. Such a filter equals its own turned and mirrored copies, so convolving with it commutes exactly with
p4m, and nearly with other angles.
"""

import torch
from torch import Tensor


def ring_count(kernel_size: int) -> int:
    """The number of rings of a k x k filter; k must be odd.

    >>> [ring_count(k) for k in (1, 3, 5, 9)]
    [1, 2, 3, 5]
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"a ring filter has a pixel in its centre, so its side is odd; got {kernel_size}")
    return kernel_size // 2 + 1


def ring_basis(kernel_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """One indicator filter a ring, innermost first: (rings, k, k) of zeros and ones.

    >>> ring_basis(5).sum((1, 2)).int().tolist()
    [1, 8, 12]
    """
    rings, half = ring_count(kernel_size), kernel_size // 2
    at = torch.arange(-half, half + 1)
    # Compared as whole numbers: the edges are n (2·half + 1) / (2·rings), so (2·rings·r)² against
    # (n·(2·half + 1))² has no rounding, whatever the size.
    distance = (2 * rings) ** 2 * (at[:, None] ** 2 + at[None] ** 2)
    edges = (torch.arange(rings + 1) * (2 * half + 1)) ** 2
    ring = torch.bucketize(distance, edges, right=True) - 1
    return (ring == torch.arange(rings)[:, None, None]).to(dtype)


def ring_sizes(kernel_size: int) -> Tensor:
    """The number of taps of each ring, innermost first, (rings,) int64."""
    return ring_basis(kernel_size).sum((1, 2)).long()
