"""The ring table of the published code, and what any ring basis must satisfy."""

import numpy as np
import pytest
import torch

from equipath.kernels.basis import basis_conv2d, crop_filters, expand_filters
from equipath.kernels.evaluate import basis_conv_work, prefer, price
from equipath.kernels.rings import ring_basis, ring_count, ring_sizes


@pytest.mark.parametrize(
    ("k", "taps"),
    [
        (1, [1]),
        (3, [1, 8]),
        (5, [1, 8, 12]),
        (7, [1, 8, 12, 16]),
        (9, [1, 8, 12, 16, 32]),
        (11, [1, 8, 12, 24, 24, 28]),
    ],
)
def test_taps_per_ring(k, taps):
    assert ring_sizes(k).tolist() == taps


@pytest.mark.parametrize("k", range(1, 33, 2))
def test_rings_are_the_bins_of_the_distance(k):
    basis = ring_basis(k).numpy()
    at = np.arange(k) - k // 2
    distance = np.hypot(at[:, None], at[None])
    edges = np.linspace(0, k // 2 + 0.5, k // 2 + 2)
    for ring in range(ring_count(k)):
        inside = (distance >= edges[ring] - 1e-9) & (distance < edges[ring + 1] - 1e-9)
        np.testing.assert_array_equal(basis[ring] == 1, inside)
    assert basis.sum(0).max() == 1  # no tap in two rings
    np.testing.assert_array_equal(basis.sum(0) == 0, distance >= k // 2 + 0.5 - 1e-9)


def test_even_sides_are_refused():
    with pytest.raises(ValueError, match="odd; got 6"):
        ring_basis(6)


def test_cropped_filters_keep_all_taps():
    basis = ring_basis(9)
    cropped = crop_filters(basis)
    assert [f.shape[-1] for f in cropped] == [1, 3, 5, 7, 9]
    assert [f.sum() for f in cropped] == [f.sum() for f in basis]
    with pytest.raises(ValueError, match="odd k"):
        crop_filters(torch.zeros(2, 4, 4))


@pytest.mark.parametrize("padding", [0, 1, 2, 3, 5])
def test_asymmetric_filters_and_small_supports_in_both_evaluations(padding):
    # the general bank of a steerable layer: nothing symmetric, nothing reaching the border in two of three
    torch.manual_seed(0)
    basis = torch.zeros(3, 7, 7, dtype=torch.float64)
    basis[0, 3, 3] = 2.0
    basis[1, 2:5, 2:5] = torch.randn(3, 3)
    basis[2, 1:6, 1:6] = torch.randn(5, 5)
    weight = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64)
    results = []
    for how in ("expand", "factor"):
        with prefer(how):
            y = basis_conv2d(
                x, 4, 7, (1, 3, 5), lambda: crop_filters(basis), lambda: weight,
                lambda: expand_filters(weight, basis), bias, padding=padding,
            )  # fmt: skip
        results.append([y, *torch.autograd.grad(y.pow(3).sum(), [x, weight])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert expand_filters(weight, basis).shape == (4, 2, 7, 7)


@pytest.mark.parametrize(
    ("shape", "out", "k", "dtype", "best"),
    [
        ((1, 64, 64, 64), 64, 9, torch.float32, "factor"),
        ((1, 512, 28, 28), 512, 5, torch.float32, "factor"),
        ((1, 16, 20, 20), 16, 3, torch.float32, "expand"),
        ((1, 64, 64, 64), 64, 9, torch.float64, "expand"),
    ],
)
def test_the_cost_model_factors_large_kernels_and_expands_small_ones(shape, out, k, dtype, best):
    works = basis_conv_work(shape, out, range(1, k + 1, 2), k, dtype)
    assert min(works, key=lambda name: price(works[name])) == best
