"""Discrete scale convolutions (DISCO): one 3x3 filter, dilated by the scale.

Sosnovik et al. 2021, "DISCO: accurate discrete scale convolutions". For a whole scale factor s, convolving
and then keeping every s-th pixel equals keeping every s-th pixel and then convolving, *exactly*, when the
filter at scale s is the filter at scale 1 with s - 1 zeros between its taps. So at scales 1, 2, 3, … a DISCO
layer is a handful of dilated convolutions with the same weights, and is computed as that: 9 multiplications
a pixel at every scale, in place of a dense filter of the largest size.

Scales that are not whole numbers have no such filter. There the authors' basis is found by minimising the
equivariance error against the neighbouring whole scales on random pictures, a small optimisation for each
set of scales whose result is stored in a file; this library takes whole scales, which is what the SEUNet
paper compares with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def whole_scales(scales: Sequence[float]) -> list[int]:
    """The scales as whole numbers, or a ``ValueError`` that says what other scales would need."""
    if not scales or any(s < 1 or s != int(s) for s in scales):
        raise ValueError(
            f"DISCO's filters are exact dilations at whole scales from 1 up; got {tuple(scales)}. Other scales "
            "need a basis optimised for them; SESN and Gaussian-derivative layers take any scale"
        )
    return [int(s) for s in scales]


def dilated_filters(weight: Tensor, scales: Sequence[int]) -> Tensor:
    """The dense filters (S, O, C, k, k) that dilation stands for, k the size at the largest scale."""
    half = weight.shape[-1] // 2
    reach = half * max(scales)
    filters = weight.new_zeros(len(scales), *weight.shape[:2], 2 * reach + 1, 2 * reach + 1)
    for n, s in enumerate(scales):
        at = torch.arange(-half, half + 1, device=weight.device) * s + reach
        filters[n][:, :, at[:, None], at] = weight
    return filters
