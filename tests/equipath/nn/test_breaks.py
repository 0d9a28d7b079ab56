"""Layers broken on purpose, each in at least three ways: every break is seen by the measure that the layer passes.

Lifting, group, ring, steerable and Gaussian-derivative convolutions are broken beside their other tests; here
are the layers around them.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.kernels.disco import dilated_filters
from equipath.kernels.evaluate import prefer
from equipath.kernels.hermite import hermite_radii, hermite_taps
from equipath.kernels.separable import separable_basis
from equipath.nn.group import GroupAvgPool2d, GroupUpsample
from equipath.nn.scale import (
    DISCOConv2d,
    ScaleBatchNorm2d,
    ScaleHeads,
    ScaleMaxPool2d,
    ScaleProjection,
    ScaleSharedConv2d,
    ScaleUpsample,
    SESNConv2d,
)
from equipath.nn.sre import EvenAvgPool2d, SREConvTranspose2d
from equipath.nn.steerable import (
    Fields,
    GatedReLU,
    NormReLU,
    SteerableBatchNorm2d,
    SteerablePool2d,
    act_packed,
    pack,
    unpack,
)

EXACT, SEEN = 1e-12, 1e-3


def worst(layer, x, training=False):
    moves = roto_reflections()
    return max(equivariance_error(layer, x, move, squared=False, training=training) for move in moves)


def seeded(make):
    torch.manual_seed(0)
    return make().double()


def off_centre(x, k):
    return F.avg_pool2d(F.pad(x.flatten(1, 2), (0, 1, 0, 1)), k)[..., : x.shape[-2] // k, : x.shape[-1] // k]


POOLS_AND_RINGS = {
    "group average pool": (
        lambda: GroupAvgPool2d(2),
        (2, 3, 8, 6, 8),
        {
            "off centre": lambda m: lambda x: off_centre(x.roll(1, -1), 2).unflatten(1, x.shape[1:3]),
            "one pixel of each window": lambda m: lambda x: x[..., ::2, ::2],
            "planes exchanged": lambda m: lambda x: type(m).forward(m, x.flip(2)),
            "one row twice": lambda m: lambda x: type(m).forward(m, x) + x[..., ::2, ::2] / 4,
        },
    ),
    "group up-sampling": (
        lambda: GroupUpsample(2),
        (2, 3, 8, 4, 5),
        {
            "a pixel late": lambda m: lambda x: type(m).forward(m, x).roll(1, -2),
            "zeros between": lambda m: lambda x: (
                type(m).forward(m, x) * torch.tensor([1.0, 0]).repeat(x.shape[-1])
            ),
            "planes exchanged": lambda m: lambda x: type(m).forward(m, x.flip(2)),
        },
    ),
    "transposed rings": (
        lambda: SREConvTranspose2d(3, 2, 5, stride=2, padding=2),
        (2, 3, 6, 8),
        {
            "output_padding 1": lambda m: lambda x: F.conv_transpose2d(
                x, m.filters, m.bias, m.stride, m.padding, 1
            ),
            "rings off centre": lambda m: lambda x: F.conv_transpose2d(
                x, m.filters.roll(1, -1), m.bias, m.stride, m.padding
            ),
            "one corner kept": lambda m: lambda x: F.conv_transpose2d(
                x, F.pad(m.filters[..., 1:, 1:], (1, 0, 1, 0), value=0.1), m.bias, m.stride, m.padding
            ),
            "cut on one side": lambda m: lambda x: F.conv_transpose2d(
                x, m.filters, m.bias, m.stride, m.padding - 1
            )[..., 2:, 2:],
        },
    ),
    "ring pooling": (
        lambda: EvenAvgPool2d(2),
        (2, 3, 6, 8),
        {
            "strided": lambda m: lambda x: x[..., ::2, ::2],
            "windows shifted": lambda m: lambda x: F.avg_pool2d(x.roll(1, -2), 2),
            "overlapping, padded on all sides": lambda m: lambda x: F.max_pool2d(x, 3, 2, 1),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS_AND_RINGS)
def test_pools_and_rings(name):
    make, shape, breaks = POOLS_AND_RINGS[name]
    x = torch.randn(shape, dtype=torch.float64)
    assert worst(seeded(make), x) < EXACT
    assert len(breaks) >= 3
    for label, broken in breaks.items():
        layer = seeded(make)
        layer.forward = broken(layer)
        assert worst(layer, x) > SEEN, label


LAYOUT = Fields(2, 2)


def parts(x, layout=LAYOUT):
    scalars, vectors = unpack(x, layout)
    return scalars, vectors


def gated(m, gate):
    def forward(x):
        scalars, vectors = parts(x, m.takes)
        return pack(torch.relu(scalars[:, :2]), vectors * gate(scalars, vectors))

    return forward


def normed(change):
    def forward(x):
        scalars, vectors = parts(x)
        return pack(scalars, change(vectors))

    return forward


STEERABLE = {
    "batch norm": (
        lambda: SteerableBatchNorm2d(LAYOUT),
        LAYOUT,
        {
            "mean taken off vectors": lambda m: normed(lambda v: v - v.mean((0, 3, 4), keepdim=True) - 0.1),
            "components scaled apart": lambda m: normed(lambda v: v * torch.tensor([1.0, 2.0])[:, None, None]),
            "learned offset": lambda m: normed(lambda v: v + torch.tensor([0.3, -0.2])[:, None, None]),
        },
    ),
    "norm": (
        lambda: NormReLU(LAYOUT),
        LAYOUT,
        {
            "components": lambda m: normed(torch.relu),
            "offset a component": lambda m: normed(lambda v: torch.relu(v + 0.3) - torch.relu(-v)),
            "length by one component": lambda m: normed(lambda v: v * torch.relu(v[:, :, :1].abs() - 0.3)),
        },
    ),
    "gate": (
        lambda: GatedReLU(LAYOUT),
        GatedReLU(LAYOUT).takes,
        {
            "a gate a component": lambda m: gated(
                m, lambda s, v: torch.sigmoid(s[:, None, :2] * torch.ones(1, 2, 1, 1, 1))
            ),
            "gated by a component": lambda m: gated(m, lambda s, v: torch.sigmoid(v[:, :, :1])),
            "gate off centre": lambda m: gated(m, lambda s, v: torch.sigmoid(s[:, 2:].roll(1, -1))[:, :, None]),
        },
    ),
    "pooling": (
        lambda: SteerablePool2d(LAYOUT),
        LAYOUT,
        {
            "largest component": lambda m: lambda x: F.max_pool2d(x, 2),
            "first pixel": lambda m: lambda x: x[..., ::2, ::2],
            "windows shifted": lambda m: lambda x: F.avg_pool2d(x.roll(1, -1), 2),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEERABLE)
def test_steerable_layers_around_the_convolution(name):
    make, source, breaks = STEERABLE[name]
    torch.manual_seed(0)
    x = torch.randn(2, source.channels, 6, 8, dtype=torch.float64) + 0.2

    def error(layer):
        y = layer(x)
        return max(
            ((layer(act_packed(x, source, a)) - act_packed(y, LAYOUT, a)).norm() / y.norm()).item()
            for a in range(8)
        )

    with torch.no_grad():
        assert error(seeded(make)) < EXACT
        assert len(breaks) >= 3
        for label, broken in breaks.items():
            layer = seeded(make)
            layer.forward = broken(layer)
            assert error(layer) > SEEN, label


# ---- layers of scale fields, against their formulas ----


def sesn_by_hand(layer, x):
    basis = separable_basis(layer.taps, layer.taps)
    filters = torch.einsum("ocn,snyx->socyx", layer.weight, basis)
    planes = [F.conv2d(x[:, :, k], f, padding=f.shape[-1] // 2) for k, f in enumerate(filters)]
    return torch.stack(planes, 2)


def disco_by_hand(layer, x):
    filters = dilated_filters(layer.weight, layer.dilations)
    planes = [F.conv2d(x[:, :, k], f, padding=f.shape[-1] // 2) for k, f in enumerate(filters)]
    return torch.stack(planes, 2)


def scaled(taps, factors):
    return taps * torch.tensor(factors, dtype=taps.dtype)[:, None, None]


CONVOLUTIONS = {
    "SESN": (
        lambda: SESNConv2d(2, 3, (1, 2, 3), 7, 2),
        sesn_by_hand,
        {
            "scales in another order": lambda m: setattr(m, "taps", m.taps.flip(0)),
            "not normalised": lambda m: setattr(m, "taps", scaled(m.taps, [1.0, 2, 3])),
            "orders in another order": lambda m: setattr(m, "taps", m.taps[:, [0, 2, 1]]),
            "one scale for all": lambda m: setattr(m, "taps", m.taps[:1].expand(3, -1, -1)),
        },
    ),
    "DISCO": (
        lambda: DISCOConv2d(2, 3, (1, 2, 3)),
        disco_by_hand,
        {
            "dilations in another order": lambda m: setattr(m, "dilations", [3, 2, 1]),
            "no dilation": lambda m: setattr(m, "dilations", [1, 1, 1]),
            "taps turned": lambda m: setattr(m.weight, "data", m.weight.data.flip(-1)),
            "scales mixed": lambda m: setattr(
                m, "_planes", lambda x: x.movedim(2, 0) + x.movedim(2, 0).roll(1, 0)
            ),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_scale_convolutions_against_dense_filters(name):
    make, by_hand, breaks = CONVOLUTIONS[name]
    layer = seeded(make)
    x = torch.randn(2, 2, 3, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        want = by_hand(layer, x)
        assert want.std() > 0.1
        if name == "SESN":  # the taps themselves are held by golden numbers elsewhere
            radii = hermite_radii(7, (1, 2, 3))
            torch.testing.assert_close(layer.taps, hermite_taps((1, 2, 3), radii, 2, torch.float64))
        for how in ("expand", "factor"):
            with prefer(how):
                torch.testing.assert_close(layer(x), want, rtol=1e-11, atol=1e-11)
        assert len(breaks) >= 3
        for label, broken in breaks.items():
            mutant = seeded(make)
            broken(mutant)
            y = mutant(x)
            assert y.shape != want.shape or (y - want).norm() > 1e-2 * want.norm(), label


def each(function):
    """The same planar function on every scale: what these layers must be."""
    return lambda x: torch.stack([function(x[:, :, k]) for k in range(x.shape[2])], 2)


def bilinear(aligned):
    return lambda v: F.interpolate(v, scale_factor=2.0, mode="bilinear", align_corners=aligned)


def batch_norm(x, over):
    mean, var = x.mean(over, keepdim=True), x.var(over, keepdim=True, correction=0)
    return (x - mean) / (var + 1e-5).sqrt()


AROUND = {
    "norm": (
        lambda: ScaleBatchNorm2d(3),
        lambda m: lambda x: batch_norm(x, (0, 2, 3, 4)),
        {
            "each scale apart": lambda x, good: batch_norm(x, (0, 3, 4)),
            "channels together": lambda x, good: batch_norm(x, (0, 1, 2, 3, 4)),
            "each picture apart": lambda x, good: batch_norm(x, (2, 3, 4)),
        },
    ),
    "pooling": (
        ScaleMaxPool2d,
        lambda m: each(lambda v: F.max_pool2d(v, 2)),
        {
            "over two scales": lambda x, good: torch.maximum(good, good.roll(1, 2)),
            "mean": lambda x, good: F.avg_pool3d(x, (1, 2, 2)),
            "strided": lambda x, good: x[..., ::2, ::2],
        },
    ),
    "up-sampling": (
        ScaleUpsample,
        lambda m: each(bilinear(True)),
        {
            "corners not aligned": lambda x, good: each(bilinear(False))(x),
            "repeated": lambda x, good: x.repeat_interleave(2, -1).repeat_interleave(2, -2),
            "scales in another order": lambda x, good: good.flip(2),
        },
    ),
    "projection": (
        lambda: ScaleProjection("max"),
        lambda m: lambda x: x.max(2).values,
        {
            "first scale": lambda x, good: x[:, :, 0],
            "mean": lambda x, good: x.mean(2),
            "largest size": lambda x, good: x.abs().amax(2),
        },
    ),
    "shared convolution": (
        lambda: ScaleSharedConv2d(3, 3, 1),
        lambda m: each(lambda v: F.conv2d(v, m.weight, m.bias)),
        {
            "another scale's plane": lambda x, good: good.roll(1, 2),
            "no bias": lambda x, good: good - good.mean((0, 2, 3, 4), keepdim=True),
            "scales summed": lambda x, good: good.sum(2, keepdim=True).expand_as(good),
        },
    ),
    "heads": (
        lambda: ScaleHeads(3, 2, 4),
        lambda m: lambda x: torch.stack(
            [
                F.conv2d(x[:, :, k], m.weight[k][:, :, None, None], m.bias[k])
                for k in range(4)
            ],
            2,
        ),
        {
            "one head for all": lambda x, good: good[:, :, :1].expand_as(good),
            "heads in another order": lambda x, good: good.flip(2),
            "classes exchanged": lambda x, good: good.flip(1),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_layers_around_scale_convolutions(name):
    make, formula, breaks = AROUND[name]
    layer = seeded(make)
    x = torch.randn(2, 3, 4, 6, 8, dtype=torch.float64) * torch.arange(1, 5)[:, None, None] + 0.3
    if isinstance(layer, nn.Module):
        layer.train()
    with torch.no_grad():
        want, got = formula(layer)(x), layer(x)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        assert len(breaks) >= 3
        for label, broken in breaks.items():
            y = broken(x, want)
            assert y.shape == want.shape
            assert (y - got).norm() > 1e-2 * got.norm(), label
