"""Dilated filters commute exactly with keeping every s-th pixel, which is why DISCO takes whole scales."""

import pytest
import torch
import torch.nn.functional as F

from equipath.kernels.disco import dilated_filters, whole_scales


def test_dense_filters_are_the_dilated_convolutions():
    weight, x = torch.randn(3, 2, 3, 3).double(), torch.randn(2, 2, 12, 13).double()
    filters = dilated_filters(weight, [1, 2, 4])
    assert filters.shape == (3, 3, 2, 9, 9)
    for taps, s in zip(filters, (1, 2, 4), strict=True):
        torch.testing.assert_close(F.conv2d(x, taps, padding=4), F.conv2d(x, weight, padding=s, dilation=s))


@pytest.mark.parametrize("s", [2, 3, 5])
def test_dilating_is_the_exact_filter_for_keeping_every_sth_pixel(s):
    weight, x = torch.randn(3, 2, 3, 3).double(), torch.randn(1, 2, 30, 60).double()
    narrow, wide = dilated_filters(weight, [1, s])
    after = F.conv2d(x, wide, padding=s)[..., ::s, ::s]
    before = F.conv2d(x[..., ::s, ::s], narrow, padding=s)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
    # another scale's filter does not do
    other = F.conv2d(x, narrow, padding=s)[..., ::s, ::s]
    assert (other - before).abs().max() > 0.1


@pytest.mark.parametrize("scales", [(), (1, 1.5), (0,), (-1, 2)])
def test_other_scales_are_refused_with_the_reason(scales):
    with pytest.raises(ValueError, match="whole scales"):
        whole_scales(scales)
