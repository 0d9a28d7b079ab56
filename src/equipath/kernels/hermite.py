"""The basis of scale-equivariant steerable networks (SESN): Hermite polynomials times a Gaussian.

Sosnovik et al. 2020, section 4, in the setting of the SEUNet paper (section 4.3): functions ``He_i(x / s)
He_j(y / s) exp(-(x² + y²) / 2s²) / s²`` with i + j at most 4, sampled at fixed scales s = 1, 2, … on grids
that grow with s (3 to 11 pixels), all of them divided by their norm at the smallest scale. Each is a product
of a factor along x and one along y, so the layers share ``kernels.separable`` with the Gaussian derivatives.
With total order 4 there are 15 functions; on the 3x3 pixels of the smallest scale at most 9 are independent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from equipath.kernels.separable import derivative_orders


def hermite_radii(kernel_size: int, scales: Sequence[float]) -> list[int]:
    """Half sizes of the filters when that of the largest scale is ``kernel_size`` pixels wide.

    >>> hermite_radii(11, (1, 2, 3, 4, 5))
    [1, 2, 3, 4, 5]
    """
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"the largest filter has an odd side from 3 up; got {kernel_size}")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales are positive numbers, at least one; got {tuple(scales)}")
    radii = [int(kernel_size * s / max(scales)) // 2 for s in scales]
    if min(radii) < 1:
        raise ValueError(
            f"with a largest filter of {kernel_size} pixels, scale {min(scales)} beside {max(scales)} would be "
            f"left with one pixel; take a larger kernel_size or closer scales"
        )
    return radii


def hermite_taps(
    scales: Sequence[float], radii: Sequence[int], order: int = 4, dtype: torch.dtype = torch.float32
) -> Tensor:
    """1-D factors ``He_i(x / s) exp(-x² / 2s²) / s``, each divided by its norm at the smallest scale.

    Returns:
        (S, order + 1, 2 R + 1), R = max(radii), zero beyond a scale's own radius; to be *correlated*, as SESN
        does, y counting with the rows.
    """
    derivative_orders(order)
    if len(scales) != len(radii):
        raise ValueError(f"one radius a scale: got {len(radii)} for {len(scales)} scales")
    reach = max(radii)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    s = torch.tensor(list(scales), dtype=torch.float64)[:, None]
    u = at / s
    polynomials = [torch.ones_like(u), u]
    for n in range(1, order):
        polynomials.append(u * polynomials[n] - n * polynomials[n - 1])
    inside = at.abs() <= torch.tensor(list(radii))[:, None]
    bell = torch.exp(-0.5 * u * u) / s * inside
    taps = torch.stack(polynomials[: order + 1], 1) * bell[:, None]
    smallest = min(range(len(scales)), key=lambda k: scales[k])
    return (taps / taps[smallest].norm(dim=-1)[:, None]).to(dtype)
