"""Gaussian derivatives against scipy, against their defining integrals, and under every evaluation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, ndimage, special

from equipath.kernels import separable
from equipath.kernels.evaluate import prefer
from equipath.kernels.gaussian import (
    SAMPLINGS,
    constrained_sigma,
    correlation_factors,
    gaussian_basis,
    gaussian_radius,
    gaussian_size,
    gaussian_taps,
)
from equipath.kernels.separable import banded, derivative_orders, scale_conv2d, separable_basis

SIGMAS = torch.tensor([0.7, 1.3, 2.2], dtype=torch.float64)


def continuous(x, sigma, order):
    """The n-th derivative of a Gaussian, by the closed form that scipy's Hermite polynomials give."""
    bell = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return (-1) ** order / sigma**order * special.eval_hermitenorm(order, x / sigma) * bell


def impulse_response(sigma, order, radius):
    impulse = np.zeros(2 * radius + 1)
    impulse[radius] = 1
    # far more pixels than the radius, so that scipy's own normalisation by the sum has nothing to do
    return ndimage.gaussian_filter1d(np.pad(impulse, 40), sigma, order=order, radius=30)[40:-40]


@pytest.mark.parametrize("order", range(5))
def test_sampled_taps_are_those_of_scipy(order):
    radius = 8
    taps = gaussian_taps(SIGMAS[1:], 4, [radius] * 2, "sampled")[:, order]
    for row, sigma in zip(taps, SIGMAS[1:].tolist(), strict=True):
        mine = row.numpy() / sigma**order
        np.testing.assert_allclose(mine, continuous(np.arange(-8, 9), sigma, order), atol=1e-14)
        # scipy divides by the sum of its smoothing taps, which at these sigmas is 1 within 1e-3
        np.testing.assert_allclose(mine, impulse_response(sigma, order, radius), atol=2e-3 / sigma**order)


@pytest.mark.parametrize("order", range(5))
def test_integrated_taps_are_integrals_over_pixels(order):
    for sigma in (0.2, 0.7, 1.9):
        taps = gaussian_taps(torch.tensor([sigma], dtype=torch.float64), 4, [6], "integrated")[0, order]
        for at, tap in zip(range(-6, 7), taps.tolist(), strict=True):
            mean, _ = integrate.quad(lambda x: continuous(x, sigma, order), at - 0.5, at + 0.5)  # noqa: B023
            assert tap == pytest.approx(mean * sigma**order, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.9, 2.0, 4.5])
def test_discrete_taps_are_bessel_functions_and_their_differences(sigma):
    radius = gaussian_radius(sigma)
    taps = gaussian_taps(torch.tensor([sigma], dtype=torch.float64), 4, None, "discrete")[0].numpy()
    wide = special.ive(np.abs(np.arange(-radius - 4, radius + 5)), sigma**2)
    for order in range(5):
        kernel = wide
        for _ in range(order // 2):
            kernel = np.convolve(kernel, [1, -2, 1], "same")
        if order % 2:
            kernel = np.convolve(kernel, [0.5, 0, -0.5], "same")
        np.testing.assert_allclose(taps[order], sigma**order * kernel[4:-4], atol=1e-14)


def test_discrete_gaussians_form_a_semigroup_and_sampled_ones_do_not():
    # smoothing by s and then by t is smoothing by the root of s² + t²: exact on pixels for the discrete one
    def off(sampling, s, t):
        pair = gaussian_taps(torch.tensor([s, t], dtype=torch.float64), 0, [30, 30], sampling)[:, 0]
        both = gaussian_taps(
            torch.tensor([math.hypot(s, t)], dtype=torch.float64), 0, [60], sampling
        )[0, 0]  # fmt: skip
        return np.abs(np.convolve(*pair.numpy()) - both.numpy()).max()

    assert off("discrete", 0.6, 0.8) < 1e-14
    assert off("sampled", 0.4, 0.3) > 0.1


def test_what_happens_to_small_scales():
    """The trap of the first interval, which starts at 0: the table in the module's first paragraph."""
    first = {}
    for sampling in SAMPLINGS:
        taps = gaussian_taps(torch.tensor([0.1, 0.25, 2.0], dtype=torch.float64), 1, [8] * 3, sampling)
        first[sampling] = taps[:, 1].abs().amax(1)
        smooth = taps[:, 0].sum(1)
        if sampling == "sampled":
            assert smooth[0] > 3  # one tap of 1 / (σ √2π)
        else:
            torch.testing.assert_close(smooth[:2], torch.ones(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert first["sampled"][1] < 2e-2 * first["discrete"][1]
    assert first["integrated"][0] < 1e-3 * first["discrete"][0]
    # at larger scales all three are the same derivative, to within the pixel's own width
    for sampling in SAMPLINGS:
        assert first[sampling][2] == pytest.approx(first["sampled"][2].item(), rel=0.1)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_scale_normalisation_makes_responses_comparable(sampling):
    # An edge between two plains has the same normalised slope at every scale, 1 / √2π at its centre.
    edge = torch.cat([torch.zeros(60), torch.ones(60)]).double()
    slopes = []
    for sigma in (2.0, 4.0, 8.0):
        taps = gaussian_taps(torch.tensor([sigma], dtype=torch.float64), 1, [40], sampling)[0, 1]
        slopes.append(np.convolve(edge.numpy(), taps.numpy(), "same")[59:61].mean())
    assert slopes == pytest.approx([1 / math.sqrt(2 * math.pi)] * 3, rel=0.05)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_gradients_reach_sigma(sampling, order):
    radii = [3, 4, 5]

    def taps(sigma):
        return gaussian_taps(sigma, order, radii, sampling)

    sigma = SIGMAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(taps, (sigma,), fast_mode=True)
    assert torch.autograd.gradgradcheck(taps, (sigma,), fast_mode=True)
    # and they are right, not only consistent: centred differences of the taps themselves
    step = 1e-5
    slope = (taps(SIGMAS + step) - taps(SIGMAS - step)) / (2 * step)
    for k in range(3):
        (mine,) = torch.autograd.grad(taps(sigma)[k].square().sum(), sigma)
        assert mine[k] == pytest.approx(2 * (taps(SIGMAS)[k] * slope[k]).sum().item(), abs=1e-7)
        assert mine.count_nonzero() == 1


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_basis_parity_under_flips(sampling):
    basis = gaussian_basis(SIGMAS, 4, None, sampling)
    for n, (i, j) in enumerate(derivative_orders(4)):
        for filters, order, axis in ((basis[:, n], i, -1), (basis[:, n], j, -2)):
            torch.testing.assert_close(filters.flip(axis), (-1) ** order * filters, atol=1e-15, rtol=0)
        # turning (i, j) gives (j, i): x runs right and y runs up, so ∂x turned by 90° is ∂y
        partner = derivative_orders(4).index((j, i))
        turned = torch.rot90(basis[:, n], 1, (-2, -1))
        torch.testing.assert_close(turned, (-1) ** j * basis[:, partner], atol=1e-15, rtol=0)


def test_first_derivatives_point_right_and_up():
    right = torch.arange(15.0, dtype=torch.float64).expand(1, 1, 15, 15)
    up = -right.mT
    taps = gaussian_taps(torch.tensor([1.0], dtype=torch.float64), 1, [6])
    rows, columns = correlation_factors(taps)
    weight = torch.eye(3, dtype=torch.float64)[:, None]
    for picture, want in ((right, [1.0, 0.0]), (up, [0.0, 1.0])):
        y = scale_conv2d(picture[None], weight, rows, columns, [6])[0, 0, 1:, 7, 7]
        torch.testing.assert_close(y, torch.tensor(want, dtype=torch.float64), atol=1e-3, rtol=0)


def test_planar_basis_is_scipys_in_two_dimensions():
    impulse = np.zeros((61, 61))
    impulse[30, 30] = 1
    basis = gaussian_basis(torch.tensor([1.6], dtype=torch.float64), 2, [10], "sampled")[0].numpy()
    for taps, (i, j) in zip(basis, derivative_orders(2), strict=True):
        want = ndimage.gaussian_filter(impulse, 1.6, order=(j, i), radius=30)[20:41, 20:41]
        np.testing.assert_allclose(taps / 1.6 ** (i + j), (-1) ** j * want, atol=1e-6)


def test_size_and_interval_of_the_paper():
    assert [gaussian_size(s) for s in (0.25, 0.5, 0.51, 1.0, 2.25, 4.5, 9.99)] == [3, 3, 5, 5, 11, 19, 41]
    low, high = torch.tensor([0.0, 0.5]), torch.tensor([0.5, 1.0])
    x = torch.tensor([0.0, 0.0])
    torch.testing.assert_close(constrained_sigma(x, low, high), torch.tensor([0.25, 0.75]))
    far = constrained_sigma(torch.tensor([30.0, -30.0]), low, high)
    torch.testing.assert_close(far, torch.tensor([0.5, 0.5]))
    # inside the paper's intervals the size is that of the upper end, whatever σ is
    for k in range(9):
        inside = (0.5 * k + torch.linspace(0.001, 0.499, 20)).tolist()
        assert {gaussian_size(s) for s in inside} == {gaussian_size(0.5 * k + 0.5)}


def test_taps_end_at_each_scales_own_radius():
    taps = gaussian_taps(SIGMAS, 1)
    assert taps.shape == (3, 2, 2 * gaussian_radius(2.2) + 1)
    for row, sigma in zip(taps, SIGMAS.tolist(), strict=True):
        r = gaussian_radius(sigma)
        assert (row[:, : 5 - r] == 0).all()
        assert (row[0, 5 - r : 6 + r] != 0).all()


@pytest.mark.parametrize("tile", [4, 64])
@pytest.mark.parametrize(("channels", "out"), [(3, 2), (1, 4)])
@pytest.mark.parametrize("size", [(5, 13), (4, 3), (9, 8)])
def test_every_evaluation_is_the_sum_it_stands_for(monkeypatch, tile, channels, out, size):
    monkeypatch.setattr(separable, "TILE", tile)
    torch.manual_seed(0)
    order, radii = 2, [1, 3]
    leaves = {
        "x": torch.randn(2, 2, channels, *size),
        "weight": torch.randn(out, channels, 6),
        "rows": torch.randn(2, 3, 7),
        "columns": torch.randn(2, 3, 7),
    }
    inside = torch.tensor([[0.0, 0, 1, 1, 1, 0, 0], [1.0] * 7])[:, None]
    leaves["rows"], leaves["columns"] = leaves["rows"] * inside, leaves["columns"] * inside
    leaves = {k: v.double().requires_grad_() for k, v in leaves.items()}

    def brute(x, weight, rows, columns):
        basis = separable_basis(rows, columns)
        planes = []
        for k in range(2):
            filters = sum(
                weight[:, :, n, None, None] * rows[k, i] * columns[k, j][:, None]
                for n, (i, j) in enumerate(derivative_orders(order))
            )
            torch.testing.assert_close(filters, torch.einsum("ocn,nyx->ocyx", weight, basis[k]))
            planes.append(F.conv2d(x[k], filters, padding=3))
        return torch.stack(planes)

    def derivatives(y):
        first = torch.autograd.grad(y.pow(3).sum(), leaves.values(), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves.values())
        return [y, *first, *second]

    want = derivatives(brute(**leaves))
    for how in ("expand", "factor"):
        with prefer(how):
            got = derivatives(scale_conv2d(*leaves.values(), radii))
        # taps that lie outside a scale's own radius are zeros by contract, and get no gradient when expanded
        for a, b in itertools.islice(zip(got, want, strict=True), 3):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        for n in (3, 4):
            torch.testing.assert_close(got[n] * inside, want[n] * inside, rtol=1e-9, atol=1e-9)
    with prefer("factor"):  # first derivatives without a graph take a path of their own
        y = scale_conv2d(*leaves.values(), radii)
    alone = torch.autograd.grad(y.pow(3).sum(), leaves.values())
    for n, a in enumerate(alone):
        mask = inside if n > 1 else 1
        torch.testing.assert_close(a * mask, want[n + 1] * mask, rtol=1e-9, atol=1e-9)


def test_banded_matrix_is_a_correlation():
    taps, window = torch.randn(2, 5), torch.randn(2, 11)
    want = F.conv1d(window[None], taps[:, None], groups=2)[0]
    torch.testing.assert_close((window[:, None] @ banded(taps, 7))[:, 0], want)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: gaussian_taps(SIGMAS, 1, sampling="exact"), "discrete, integrated, sampled"),
        (lambda: gaussian_taps(SIGMAS[None], 1), "shape"),
        (lambda: gaussian_taps(SIGMAS, -1), "whole number from 0"),
        (lambda: gaussian_taps(SIGMAS * 0, 1), "positive"),
        (lambda: gaussian_size(float("nan")), "positive"),
        (lambda: gaussian_radius(1.0, 0), "truncate"),
    ],
)
def test_bad_arguments_are_told(call, says):
    with pytest.raises(ValueError, match=says):
        call()
