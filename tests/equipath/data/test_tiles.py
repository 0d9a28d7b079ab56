"""Sliding windows give the whole result back: exactly for functions of local support inside the margin."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from equipath.data.tiles import join, sliding, split, starts, weights

SIZES = [(64, 64), (65, 47), (31, 80), (90, 33), (70, 81), (7, 9), (1, 50)]


def blur(radius, dtype=torch.float64):
    """A function that looks exactly ``radius`` pixels far and is not shift-blind: a fixed random filter."""
    taps = torch.randn(
        2, 3, 2 * radius + 1, 2 * radius + 1, generator=torch.Generator().manual_seed(radius), dtype=dtype
    )
    return lambda x: F.conv2d(x, taps.to(x), padding=radius).tanh()


def picture(size, dtype=torch.float64, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("blend", ["crop", "linear", "hann"])
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_result_comes_back(size, blend):
    f, x = blur(3), picture(size)
    whole = f(x)
    for tile, margin, stride, batch in ((32, 3, None, 1), (32, 5, 20, 3), (40, 3, 13, 2), (300, 3, None, 1)):
        got = sliding(f, x, tile, margin, stride, blend, batch=batch)
        assert torch.allclose(got, whole, rtol=0, atol=1e-13), (tile, margin, stride)


def test_cropping_is_exact_to_the_bit_where_the_function_is():
    x = picture((101, 77), torch.float32)

    def neighbours(x):  # sums in a fixed order, whatever the size of the picture
        p = F.pad(x, (2, 2, 2, 2))
        return p[..., 2:-2, :-4] + 2 * p[..., :-4, 2:-2] - p[..., 4:, 4:]

    assert torch.equal(sliding(neighbours, x, 32, 2, blend="crop"), neighbours(x))


def test_a_margin_that_is_too_small_shows():
    f, x = blur(6), picture((90, 90))
    assert not torch.allclose(sliding(f, x, 32, 2, 20), f(x), atol=1e-6)


def test_a_network_that_pools_needs_aligned_windows():
    def net(x):
        return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8, mode="nearest").sin()

    x = picture((96, 136))
    assert torch.allclose(sliding(net, x, 48, 8, 24, align=8), net(x), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="multiple of align"):
        sliding(net, x, 48, 8, 20, align=8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pad", ["reflect", "constant", "replicate", "circular"])
def test_padding_gives_every_window_the_same_size(size, pad):
    seen = set()

    def look(x):
        seen.add(tuple(x.shape[-2:]))
        return x[:, :1] * 2

    x = picture(size)
    assert torch.allclose(sliding(look, x, 48, 4, pad=pad, batch=4), x[:, :1] * 2)
    assert seen == {(48, 48)}


@pytest.mark.parametrize("blend", ["crop", "linear", "hann"])
@pytest.mark.parametrize(
    ("length", "tile", "stride", "margin"),
    [(100, 32, 20, 4), (97, 40, 13, 6), (33, 32, 32, 0), (10, 32, 8, 3)],
)
def test_weights_are_a_partition_of_unity(blend, length, tile, stride, margin):
    first = starts(length, tile, stride)
    total = torch.zeros(length, dtype=torch.float64)
    for k, (begin, weight) in enumerate(
        zip(first, weights(length, tile, first, margin, blend, torch.float64), strict=True)
    ):
        total[begin : begin + len(weight)] += weight
        assert (weight >= 0).all()
        if k:
            assert (weight[:margin] == 0).all()
        if k + 1 < len(first):
            assert (weight[len(weight) - margin :] == 0).all()
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-15)


def test_a_window_without_a_say_may_answer_nan():
    def f(x):
        y = x.clone()
        y[..., 0] = torch.nan  # as a network without padding would leave its border
        return y

    x = picture((20, 60))
    got = sliding(f, x, 20, 2, 12)
    assert torch.equal(got[..., 1:], x[..., 1:].clone()) or torch.allclose(
        got[..., 1:], x[..., 1:], atol=1e-14
    )
    assert torch.isnan(got[..., 0]).all()


def test_half_precision_and_the_device_are_kept():
    x = picture((50, 50), torch.float32).to(torch.bfloat16)
    got = sliding(lambda t: t * 2, x, 32, 4)
    assert got.dtype == torch.bfloat16
    assert got.device == x.device


@pytest.mark.gpu
def test_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    f, x = blur(3, torch.float64), picture((100, 90)).cuda()
    assert torch.allclose(sliding(f, x, 40, 4), f(x), atol=1e-12)


def test_the_papers_tiling():
    image = torch.rand(3, 1000, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows, places = split(image)
    assert windows.shape == (16, 3, 400, 400)
    assert places[:5] == [(0, 0), (0, 200), (0, 400), (0, 600), (200, 0)]
    assert torch.allclose(join(windows, places, (1000, 1000)), image, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [(400, 400), (401, 999), (613, 450)])
def test_the_papers_tiling_of_other_sizes_loses_no_pixel(size):
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows, places = split(image)
    assert torch.allclose(join(windows, places, size), image, rtol=0, atol=1e-15)


def test_windows_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(300):
        length, tile = int(rng.integers(1, 200)), int(rng.integers(1, 80))
        stride = int(rng.integers(1, tile + 1))
        first = starts(length, tile, stride)
        seen = np.zeros(length, int)
        for begin in first:
            seen[begin : begin + tile] += 1
        assert seen.min() >= 1
        assert first[-1] == max(length - tile, 0)
        assert all(b - a <= stride for a, b in pairwise(first))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: starts(10, 5, 6), "left out"),
        (lambda: starts(0, 5, 5), "at least 1"),
        (lambda: sliding(torch.relu, torch.zeros(3, 8, 8)), "give \\(B, C, H, W\\)"),
        (lambda: sliding(torch.relu, torch.zeros(1, 3, 8, 8), 8, 4), "less than half"),
        (lambda: sliding(torch.relu, torch.zeros(1, 3, 64, 64), 16, 4, 12), "less than two margins"),
        (lambda: sliding(lambda x: x[..., 1:], torch.zeros(1, 3, 64, 64), 32, 4), "must keep batch"),
        (lambda: sliding(torch.relu, torch.zeros(1, 3, 64, 64), 32, 4, blend="cosine"), "known are"),
        (lambda: sliding(torch.relu, torch.zeros(1, 3, 64, 64), 32, 1.5), "whole number"),
        (lambda: sliding(torch.relu, torch.zeros(1, 3, 64, 64), 32, 4, batch=0), "batch=0"),
        (lambda: split(torch.zeros(3, 100, 500)), "at least 400"),
        (lambda: join(torch.zeros(1, 1, 4, 4), [(0, 1)], (4, 4)), "windows of 4 that reach out"),
        (lambda: join(torch.zeros(1, 1, 4, 4), [(0, 0)], (5, 5)), "uncovered"),
        (lambda: join(torch.zeros(2, 1, 4, 4), [(0, 0)], (4, 4)), "one place per window"),
    ],
)
def test_mistakes_are_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
