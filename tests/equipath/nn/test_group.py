"""The p4 and p4m layers: exact in float64, right against independent numbers, and every break is caught."""

import copy
import io
import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.groups import P4, P4M
from equipath.kernels import regular
from equipath.kernels.evaluate import prefer
from equipath.nn.group import (
    GroupAvgPool2d,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupMaxPool2d,
    GroupPool,
    GroupToPlaneConv2d,
    GroupUpsample,
    LiftingConv2d,
)

EXACT = 1e-12
NAMES = pytest.mark.parametrize("name", ["p4", "p4m"])
CONVOLUTIONS = [LiftingConv2d, GroupConv2d, GroupConvTranspose2d, GroupToPlaneConv2d]


def order(name):
    return {"p4": 4, "p4m": 8}[name]


def field_for(layer, name, size, channels=3, batch=2, seed=0):
    torch.manual_seed(seed)
    planes = (order(name),) if layer.input_field == "regular" else ()
    return torch.randn(batch, channels, *planes, *size, dtype=torch.float64)


def worst(layer, x, name, training=False):
    """The largest relative error over the whole group; the harness that mutations must not pass."""
    return max(
        equivariance_error(layer, x, move, squared=False, training=training)
        for move in roto_reflections(name)
    )


def train_a_little(layer, x, steps=3):
    """Moves weights, biases and running statistics away from where they started."""
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05) if list(layer.parameters()) else None
    layer.train()
    for _ in range(steps):
        y = layer(x)
        loss = (y - torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).square().mean()
        if optimiser:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return layer.eval()


LAYERS = {
    "lifting": (lambda g: LiftingConv2d(3, 2, 3, padding=1, group=g), (6, 9)),
    "lifting even kernel": (lambda g: LiftingConv2d(3, 2, 2, padding=1, group=g), (6, 9)),
    "lifting strided": (lambda g: LiftingConv2d(3, 2, 3, stride=2, padding=1, group=g), (7, 9)),
    "group": (lambda g: GroupConv2d(3, 2, 3, padding=1, group=g), (6, 9)),
    "group valid 5x5": (lambda g: GroupConv2d(3, 2, 5, group=g), (8, 7)),
    "group strided": (lambda g: GroupConv2d(3, 2, 3, stride=2, padding=1, group=g), (5, 9)),
    "group strided even": (lambda g: GroupConv2d(3, 2, 2, stride=2, group=g), (6, 8)),
    "group dilated": (lambda g: GroupConv2d(3, 2, 3, padding="same", dilation=2, group=g), (6, 9)),
    "group 1x1": (lambda g: GroupConv2d(3, 2, 1, group=g), (4, 5)),
    "group in groups": (lambda g: GroupConv2d(3, 6, 3, padding=1, groups=3, group=g), (4, 5)),
    "group circular": (lambda g: GroupConv2d(3, 2, 3, padding=1, padding_mode="circular", group=g), (4, 5)),
    "group reflect": (lambda g: GroupConv2d(3, 2, 3, padding=1, padding_mode="reflect", group=g), (4, 5)),
    "transposed": (lambda g: GroupConvTranspose2d(3, 2, 3, stride=2, padding=1, group=g), (4, 5)),
    "transposed even": (lambda g: GroupConvTranspose2d(3, 2, 2, stride=2, group=g), (4, 5)),
    "transposed in groups": (lambda g: GroupConvTranspose2d(3, 3, 3, stride=3, groups=3, group=g), (4, 5)),
    "projection": (lambda g: GroupToPlaneConv2d(3, 2, 3, padding=1, group=g), (6, 9)),
    "projection 1x1": (lambda g: GroupToPlaneConv2d(3, 2, 1, group=g), (6, 9)),
    "batch norm": (lambda g: GroupBatchNorm2d(3), (6, 9)),
    "group pool mean": (lambda g: GroupPool("mean"), (6, 9)),
    "group pool max": (lambda g: GroupPool("max"), (6, 9)),
    "max pool 2": (lambda g: GroupMaxPool2d(2), (6, 8)),
    "max pool 3": (lambda g: GroupMaxPool2d(3, stride=2, padding=1), (7, 9)),
    "average pool": (lambda g: GroupAvgPool2d(2), (6, 8)),
    "upsample": (lambda g: GroupUpsample(2), (4, 5)),
}


@NAMES
@pytest.mark.parametrize("which", LAYERS)
def test_layers_are_exact(which, name):
    make, size = LAYERS[which]
    torch.manual_seed(1)
    layer = make(name).double()
    x = field_for(layer, name, size)
    with torch.no_grad():
        assert layer(x).std() > 1e-2, "a constant would be equivariant too"
    assert worst(layer, x, name) < EXACT
    train_a_little(layer, x)
    assert worst(layer, x, name) < EXACT
    assert worst(layer, x, name, training=True) < EXACT
    again = make(name).double()
    again.load_state_dict(layer.state_dict())
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(x), layer(x))
    assert worst(again, x, name) < EXACT


@NAMES
@pytest.mark.parametrize("which", ["group", "group valid 5x5", "group dilated", "group 1x1"])
def test_group_convolution_is_exact_by_fourier_too(which, name):
    make, size = LAYERS[which]
    layer = make(name).double()
    x = field_for(layer, name, size)
    with prefer("fourier"):
        assert layer.evaluation(x) == "fourier"
        assert worst(layer, x, name) < EXACT
        fourier = layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), fourier, atol=1e-13, rtol=1e-13)
    with prefer("expand"):
        torch.testing.assert_close(layer(x), fourier, atol=1e-12, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["p4", "p4m"]),
    kind=st.sampled_from(CONVOLUTIONS),
    k=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_any_accepted_size_is_exact_and_any_other_is_refused(name, kind, k, stride, padding, size, channels):
    layer = kind(channels[0], channels[1], k, stride=stride, padding=padding, group=name).double()
    x = field_for(layer, name, size, channels[0])
    try:
        y = layer(x)
    except ValueError:
        left = [n + 2 * padding - k for n in size]
        assert kind is not GroupConvTranspose2d
        assert min(left) < 0 or any(n % stride for n in left), "a size that works was refused"
        return
    except RuntimeError:
        assert kind is GroupConvTranspose2d  # torch: the output would be empty
        return
    if y.numel() and y.abs().max() > 0:
        assert worst(layer, x, name) < EXACT


@NAMES
def test_not_equivariant_to_what_it_does_not_claim(name):
    layer = GroupConv2d(3, 2, 3, padding=1, group=name).double()
    x = field_for(layer, name, (6, 6))
    turned = torch.rot90(x, 1, (-2, -1))  # the planes stay where they were: not the action
    assert (layer(turned) - torch.rot90(layer(x), 1, (-2, -1))).abs().max() > 1e-2
    if name == "p4":
        plain = LiftingConv2d(3, 2, 3, padding=1, group="p4").double()
        picture = field_for(plain, name, (6, 6))
        pooled = nn.Sequential(plain, GroupPool("max"))
        assert worst(pooled, picture, "p4") < EXACT
        assert worst(pooled, picture, "p4m") > 1e-2


# ---- independent numbers ----


@NAMES
def test_against_the_sum_over_the_group(name):
    """Eq. 2 with every term written out: positions by the group's matrices, planes by its products."""
    G = {"p4": P4, "p4m": P4M}[name]
    layer = GroupConv2d(2, 2, 3, padding=1, group=name).double()
    x = field_for(layer, name, (5, 4), channels=2, batch=1)
    w, b = layer.weight.detach(), layer.bias.detach()
    expected = torch.zeros(1, 2, G.order, 5, 4, dtype=torch.float64)
    for g in range(G.order):
        matrix = G.matrix(g)
        for h in range(G.order):
            plane = G.product(G.inverse(g), h)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    right, up = (matrix @ torch.tensor([dx, -dy], dtype=torch.float64)).long().tolist()
                    # Filter tap (dy, dx) looks at the place that g carries it to.
                    seen = F.pad(x[:, :, h], (1, 1, 1, 1))[..., 1 - up : 6 - up, 1 + right : 5 + right]
                    expected[:, :, g] += torch.einsum("oi,bihw->bohw", w[:, :, plane, dy + 1, dx + 1], seen)
    expected += b.view(-1, 1, 1, 1)
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=1e-13)


@NAMES
def test_transposed_is_the_adjoint(name):
    torch.manual_seed(0)
    down = GroupConv2d(3, 2, 3, stride=2, padding=1, bias=False, group=name).double()
    up = GroupConvTranspose2d(2, 3, 3, stride=2, padding=1, bias=False, group=name).double()
    up.weight.data.copy_(down.weight.data)
    x = torch.randn(2, 3, order(name), 7, 9, dtype=torch.float64)
    y = torch.randn(2, 2, order(name), 4, 5, dtype=torch.float64)
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def e2cnn_layer(name, c_in, c_out, k, lifting):
    """e2cnn's convolution with its first-use warning silenced."""
    e2cnn = pytest.importorskip("e2cnn")
    from e2cnn import gspaces
    from e2cnn import nn as enn

    assert e2cnn is not None
    space = gspaces.Rot2dOnR2(4) if name == "p4" else gspaces.FlipRot2dOnR2(4)
    first = [space.trivial_repr] if lifting else [space.regular_repr]
    source, target = enn.FieldType(space, first * c_in), enn.FieldType(space, [space.regular_repr] * c_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = enn.R2Conv(source, target, k, padding=k // 2, bias=False).double().eval()
        filters, _ = layer.expand_parameters()
    return layer, source, filters.detach()


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[2] / "golden" / "group.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if key != "versions"}


@NAMES
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("way", ["expand", "fourier"])
def test_same_numbers_as_e2cnn_had(golden, name, k, way):
    """Its stored filters and outputs, lifting, group to group and head, one after the other."""
    n = order(name)
    stored = {key.removeprefix(f"{name}.{k}."): value for key, value in golden.items()}
    places = [stored["order"].tolist().index(g) for g in range(n)]  # where e2cnn keeps our plane g
    lift = LiftingConv2d(2, 3, k, padding=k // 2, bias=False, group=name).double()
    hidden = GroupConv2d(3, 2, k, padding=k // 2, bias=False, group=name).double()
    head = GroupToPlaneConv2d(2, 2, k, padding=k // 2, bias=False, group=name).double()
    filters = stored["group.filters"].view(2, n, 3, n, k, k)[:, places][:, :, :, places]
    with torch.no_grad(), prefer(way):
        lift.weight.copy_(stored["lifting.filters"].view(3, n, 2, k, k)[:, places[0]])
        hidden.weight.copy_(filters[:, 0])
        head.weight.copy_(stored["head.filters"].view(2, 2, n, k, k)[:, :, places[0]])
        torch.testing.assert_close(
            regular.regular_taps(hidden.weight, hidden.group).view_as(filters), filters
        )
        field = stored["x"]
        for layer, step in ((lift, "lifting"), (hidden, "group"), (head, "head")):
            field, want = layer(field), stored[f"{step}.y"]
            if step != "head":
                want = want.unflatten(1, (-1, n))[:, :, places]
            torch.testing.assert_close(field, want, rtol=0, atol=1e-6 * want.abs().max().item())


@pytest.mark.slow
@NAMES
@pytest.mark.parametrize("k", [3, 5])
def test_against_e2cnn(name, k):
    """A filter that e2cnn expands is a fixed point of our tying: our taps made from one plane are all of its
    taps."""
    G = {"p4": P4, "p4m": P4M}[name]
    _, _, lifted = e2cnn_layer(name, 2, 3, k, lifting=True)
    layer, source, filters = e2cnn_layer(name, 3, 2, k, lifting=False)
    n = G.order
    lifted = lifted.view(3, n, 2, k, k)
    # e2cnn numbers its planes its own way: plane j holds the filter moved by the element perm[j] from plane
    # 0.
    perm = []
    for j in range(n):
        match = [g for g in range(n) if torch.allclose(lifted[:, j], G.act(lifted[:, 0], g), atol=1e-8)]
        assert len(match) == 1
        perm.append(match[0])
    assert sorted(perm) == list(range(n))
    inverse = [perm.index(g) for g in range(n)]
    torch.testing.assert_close(
        regular.lifting_taps(lifted[:, 0], G).view(3, n, 2, k, k), lifted[:, inverse], atol=1e-8, rtol=0
    )
    theirs = filters.view(2, n, 3, n, k, k)[:, inverse][:, :, :, inverse]
    weight = theirs[:, 0].contiguous()  # output plane 0 sees the filter unmoved: (O, I, G, k, k)
    ours = regular.regular_taps(weight, G).view(2, n, 3, n, k, k)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)
    # and the whole layer on data
    from e2cnn import nn as enn

    conv = GroupConv2d(3, 2, k, padding=k // 2, bias=False, group=name).double()
    conv.weight.data.copy_(weight)
    x = torch.randn(2, 3, n, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        out = layer(enn.GeometricTensor(x[:, :, perm].flatten(1, 2), source)).tensor.view(2, 2, n, 8, 9)
        torch.testing.assert_close(conv(x), out[:, :, inverse], atol=1e-8, rtol=0)


def test_batch_norm_by_hand():
    norm = GroupBatchNorm2d(3).double().train()
    x = torch.randn(4, 3, 8, 5, 6, dtype=torch.float64) * 2 + 1
    y = norm(x)
    mean, var = x.mean((0, 2, 3, 4), keepdim=True), x.var((0, 2, 3, 4), keepdim=True, correction=0)
    torch.testing.assert_close(y, (x - mean) / (var + norm.eps).sqrt())
    torch.testing.assert_close(norm.running_mean, 0.1 * mean.flatten())


# ---- every break is caught ----


def turned_the_wrong_way(self, weight):
    G = self.group
    good = type(self)._expand(self, weight)
    o, i = weight.shape[:2]
    shape = good.shape
    blocks = good.view(o, G.order, i, -1, *shape[-2:])
    return torch.stack([torch.rot90(blocks[:, g], -2 * (g % 4), (-2, -1)) for g in range(G.order)], 1).view(
        shape
    )


def orientations_not_rolled(self, weight):
    G = self.group
    planes = [G.act(weight, g) for g in range(G.order)]  # the taps move, the planes stay
    return torch.stack(planes, 1).flatten(0, 1).flatten(1, 2)


def rolled_the_wrong_way(self, weight):
    G = self.group
    planes = [G.act(weight[:, :, G.table[g]], g) for g in range(G.order)]  # g h in place of g⁻¹ h
    return torch.stack(planes, 1).flatten(0, 1).flatten(1, 2)


def taps_not_turned(self, weight):
    G = self.group
    planes = [weight[:, :, G.table[G.inverse(g)]] for g in range(G.order)]
    return torch.stack(planes, 1).flatten(0, 1).flatten(1, 2)


def one_copy_wrong(self, weight):
    good = type(self)._expand(self, weight).clone()
    good[1] = good[1].transpose(-1, -2).clone()
    return good


def lifted_not_turned(self, weight):
    return weight.repeat_interleave(self.group.order, 0)


def lifted_backwards(self, weight):
    G = self.group
    return torch.stack([G.act(weight, G.inverse(g)) for g in range(G.order)], 1).flatten(0, 1)


def projected_not_turned(self, weight):
    return weight.repeat_interleave(self.group.order, 1)


def projected_backwards(self, weight):
    G = self.group
    return torch.stack([G.act(weight, G.inverse(g)) for g in range(G.order)], 2).flatten(1, 2)


MUTANTS = [
    ("lifting", lifted_not_turned),
    ("lifting", lifted_backwards),
    ("lifting", one_copy_wrong),
    ("group", turned_the_wrong_way),
    ("group", orientations_not_rolled),
    ("group", rolled_the_wrong_way),
    ("group", taps_not_turned),
    ("group", one_copy_wrong),
    ("transposed", orientations_not_rolled),
    ("transposed", taps_not_turned),
    ("transposed", one_copy_wrong),
    ("projection", projected_not_turned),
    ("projection", projected_backwards),
    ("projection", one_copy_wrong),
]


@NAMES
@pytest.mark.parametrize(("which", "mutant"), MUTANTS, ids=lambda v: getattr(v, "__name__", v))
def test_broken_convolutions_are_caught(which, mutant, name):
    make, size = LAYERS[which]
    torch.manual_seed(3)
    layer = make(name).double()
    broken = copy.deepcopy(layer)
    broken._expand = mutant.__get__(broken)
    x = field_for(layer, name, size)
    with prefer("expand"):
        assert worst(layer, x, name) < EXACT
        assert worst(broken, x, name) > 1e-3


class PlaneBias(GroupConv2d):
    def _plane_bias(self):
        return torch.arange(self.out_channels * self.group.order, dtype=torch.float64)


class OneSided(GroupConvTranspose2d):
    def forward(self, x):
        w = self.taps()
        y = F.conv_transpose2d(x.flatten(1, 2), w, self._plane_bias(), self.stride, self.padding, 1)
        return y.unflatten(1, (self.out_channels, self.group.order))


class RunningApart(GroupBatchNorm2d):
    def forward(self, x):
        return x * torch.linspace(0.5, 1.5, x.shape[2], dtype=x.dtype).view(-1, 1, 1)


class PlaceApart(GroupBatchNorm2d):
    def forward(self, x):
        return (x - x.mean((0, 2), keepdim=True)) * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)


class FirstPlane(GroupPool):
    def forward(self, x):
        return x[:, :, 0]


class WeightedPool(GroupPool):
    def forward(self, x):
        return (x * torch.linspace(0, 1, x.shape[2], dtype=x.dtype).view(-1, 1, 1)).sum(2)


class RotationsOnly(GroupPool):
    def forward(self, x):
        return x[:, :, ::2].amax(2)


class OffCentre(GroupMaxPool2d):
    def forward(self, x):
        return F.max_pool2d(F.pad(x.flatten(1, 2), (0, 1, 0, 1)), 2, 2).unflatten(1, x.shape[1:3])


class Decimated(GroupMaxPool2d):
    def forward(self, x):
        return x[..., ::2, ::2]


class AcrossPlanes(GroupMaxPool2d):
    def forward(self, x):
        return torch.maximum(x, x.roll(1, 1).roll(1, 2).flip(-1))[..., :, :]


@NAMES
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda g: PlaneBias(3, 2, 3, padding=1, group=g), (6, 6)),
        (lambda g: OneSided(3, 2, 3, stride=2, padding=1, group=g), (4, 5)),
        (lambda g: RunningApart(3), (6, 6)),
        (lambda g: PlaceApart(3), (6, 6)),
        (lambda g: FirstPlane(), (6, 6)),
        (lambda g: WeightedPool(), (6, 6)),
        (lambda g: RotationsOnly(), (6, 6)),
        (lambda g: OffCentre(2), (5, 5)),
        (lambda g: Decimated(2), (6, 6)),
        (lambda g: AcrossPlanes(2), (6, 6)),
    ],
)
def test_other_breaks_are_caught(make, size, name):
    layer = make(name).double()
    assert worst(layer, field_for(layer, name, size), name) > 1e-3


class ApartNorm(nn.Module):
    """Batch norm that keeps statistics for every orientation, as one published implementation does."""

    input_field = output_field = "regular"

    def __init__(self, fields, planes):
        super().__init__()
        self.norm = nn.BatchNorm2d(fields * planes)

    def forward(self, x):
        return self.norm(x.flatten(1, 2)).view_as(x)


class _BesideAnother(nn.Module):
    """Only the first half of the batch is turned; the statistics it shares with the rest must not notice."""

    input_field = output_field = "regular"

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        other = torch.linspace(-3, 3, x[0].numel(), dtype=x.dtype).view_as(x[0])[None]
        return self.norm(torch.cat([x, other]))[: len(x)]


@NAMES
def test_norm_apart_by_orientation_is_caught(name):
    """While training, in a mixed batch; afterwards, by the statistics it kept. Ours passes both."""
    x = field_for(GroupBatchNorm2d(3), name, (6, 6))
    x = x * torch.linspace(0.5, 3, x.shape[2], dtype=x.dtype).view(-1, 1, 1)
    good, apart = GroupBatchNorm2d(3).double(), ApartNorm(3, order(name)).double()
    assert worst(_BesideAnother(good), x, name, training=True) < EXACT
    assert worst(_BesideAnother(apart), x, name, training=True) > 1e-3
    assert worst(train_a_little(good, x), x, name) < EXACT
    assert worst(train_a_little(apart, x), x, name) > 1e-3


# ---- what a layer owes its users ----


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_and_autocast(kind, dtype):
    layer = kind(2, 3, 3, padding=1).to(dtype)
    x = field_for(layer, "p4m", (5, 6), 2).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    y.float().square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    if dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16):
            low = layer(x)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), y, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_double_backward(kind):
    layer = kind(2, 1, 2, padding=1).double()
    x = field_for(layer, "p4m", (3, 3), 2, batch=1).requires_grad_()
    for way in ("expand", "fourier") if kind is GroupConv2d else ("expand",):
        with prefer(way):
            (g,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
            g.square().sum().backward()
        assert layer.weight.grad.abs().sum() > 0
        first = layer.weight.grad.clone()
        eps = torch.zeros_like(layer.weight)
        eps.view(-1)[3] = 1e-6

        def penalty(shift, eps=eps, way=way):
            weight = layer.weight.detach() + shift * eps
            with prefer(way):
                z = x.detach().requires_grad_()
                y = torch.func.functional_call(layer, {"weight": weight, "bias": layer.bias.detach()}, (z,))
                (gz,) = torch.autograd.grad(y.pow(3).sum(), z)
            return gz.square().sum()

        slope = (penalty(1) - penalty(-1)) / 2e-6
        torch.testing.assert_close(first.view(-1)[3], slope, rtol=1e-5, atol=1e-6)
        layer.zero_grad()


def test_channels_last_is_the_same_function():
    layer = GroupConv2d(2, 3, 3, padding=1)
    x = torch.randn(2, 2, 8, 6, 7)
    last = x.flatten(1, 2).to(memory_format=torch.channels_last).unflatten(1, (2, 8))
    torch.testing.assert_close(layer(last), layer(x))
    lift = LiftingConv2d(3, 2, 3, padding=1)
    picture = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(lift(picture.to(memory_format=torch.channels_last)), lift(picture))
    net = torch.nn.Sequential(lift, torch.nn.ReLU(), GroupConv2d(2, 3, 3, padding=1)).double()
    want, weight = net(picture.double()), net[2].weight
    net.to(memory_format=torch.channels_last)  # the usual recipe, for a whole network
    assert net[2].weight is weight
    torch.testing.assert_close(net(picture.double()), want)
    assert net.to(torch.float32)[2].weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_compiles_without_a_graph_break(kind):
    layer = kind(2, 3, 3, padding=1)
    x = field_for(layer, "p4m", (5, 6), 2).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    torch.testing.assert_close(y, layer(x))
    y.square().sum().backward()
    mine = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(mine, layer.weight.grad, rtol=1e-4, atol=1e-4)


STALE = {
    "in place": lambda layer: layer.weight.add_(1.0),
    "through .data": lambda layer: layer.weight.data.add_(1.0),
    "element": lambda layer: layer.weight.data.view(-1).__setitem__(5, 7.0),
    "swapped tensor": lambda layer: setattr(layer.weight, "data", layer.weight.data.flip(0) + 1),
    "new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn_like(layer.weight))),
    "state_dict": lambda layer: layer.load_state_dict(type(layer)(2, 2, 3, padding=1).state_dict()),
    "dtype": lambda layer: layer.double(),
    "there and back": lambda layer: layer.bfloat16().float(),
    "permuted": lambda layer: layer.weight.data.copy_(layer.weight.data.flip(-1)),
    "optimiser": None,
}


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("way", ["expand", "fourier", "short"])
def test_kept_filters_are_never_stale(how, way):
    torch.manual_seed(0)
    layer = GroupConv2d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 8, 5, 5)
    with (
        nullcontext() if way == "short" else prefer(way)
    ):  # short: the way of a layer of few fields, seen before
        with torch.no_grad():
            old = layer(x)
            assert torch.equal(layer(x), old)
        if how == "optimiser":
            optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
            layer(x).square().sum().backward()
            optimiser.step()
        else:
            with torch.no_grad():
                STALE[how](layer)
        x = x.to(layer.weight.dtype)
        taps = regular.regular_taps(layer.weight.detach(), layer.group)
        fresh = F.conv2d(x.flatten(1, 2), taps, layer.bias.detach().repeat_interleave(8), padding=1)
        with torch.no_grad():
            torch.testing.assert_close(layer(x).flatten(1, 2), fresh, atol=1e-5, rtol=1e-5)
            if how not in ("dtype", "there and back"):
                assert (layer(x) - old).abs().max() > 1e-3


def test_filters_are_kept_for_inference_and_let_go_for_training():
    layer = GroupConv2d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 8, 5, 5)
    with torch.no_grad(), prefer("expand"):
        layer(x)
        assert layer.taps() is layer.taps()
    layer(x)
    assert not layer._kept._made
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()  # nothing made in inference mode leaks into training


@pytest.mark.parametrize("bias", [True, False])
def test_the_short_way_asks_what_the_long_one_asks(bias):
    """An input of the last shape goes straight on, unless anything else about it or the layer is different."""
    layer = GroupConv2d(2, 2, 3, padding=1, bias=bias)
    x = torch.randn(1, 2, 8, 5, 5)
    first = layer(x)
    assert layer._known == x.shape
    assert layer._gives == first.shape
    torch.testing.assert_close(layer(x), first)
    with pytest.raises(TypeError, match="takes a tensor"):
        layer(x.tolist())
    with pytest.raises(ValueError, match="float64"):
        layer(x.double())
    with pytest.raises(ValueError, match="regular field"):
        layer(x[:, :1])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    nn.utils.parametrize.register_parametrization(layer, "weight", _Twice())
    plain = F.conv2d(x.flatten(1, 2), layer.taps(), layer._plane_bias(), padding=1).view(first.shape)
    torch.testing.assert_close(layer(x), plain)
    assert (plain - first).abs().max() > 1e-2
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer(x), plain)
    twice = torch.func.functional_call(layer, {"weight": layer.weight * 2}, (x,))
    linear = plain if layer.bias is None else plain - layer.bias.view(-1, 1, 1, 1)
    torch.testing.assert_close(twice, plain + linear)
    assert layer(x.to(memory_format=torch.contiguous_format).transpose(-1, -2)).shape == first.shape


class _Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.slow
def test_compiles_after_it_was_called_without():
    layer = GroupConv2d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 8, 5, 5)
    with torch.no_grad():
        layer(x)
        y = layer(x)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), y)


def test_copies_and_files_leave_kept_filters_behind():
    layer = GroupConv2d(2, 2, 3)
    with torch.no_grad():
        layer(torch.randn(1, 2, 8, 5, 5))
    assert not pickle.loads(pickle.dumps(layer))._kept._made
    twin = copy.deepcopy(layer)
    assert not twin._kept._made
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_prints_itself():
    text = repr(GroupConv2d(4, 6, 3, stride=2, padding=1, bias=False, group="p4"))
    assert text == "GroupConv2d(4, 6, kernel_size=3, stride=2, padding=1, bias=False, group=p4)"


def test_initial_scale_is_that_of_an_ordinary_convolution():
    torch.manual_seed(0)
    ours, plain = GroupConv2d(16, 16, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)
    x = torch.randn(2, 16, 8, 10, 10)
    assert 0.8 < ours(x).std() / plain(x.flatten(1, 2)).std() < 1.25


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GroupConv2d(2, 2, (3, 5)), "one whole number for both"),
        (lambda: GroupConv2d(0, 2, 3), "in_channels as a whole number from 1 up"),
        (lambda: GroupConv2d(2, 2, 2, padding="same"), "odd kernel_size"),
        (lambda: GroupConv2d(2, 2, 3, padding="valid"), "'same'"),
        (lambda: GroupConv2d(2, 3, 3, groups=2), "do not divide"),
        (lambda: GroupConv2d(2, 2, 3, padding_mode="mirror"), "reflect"),
        (lambda: GroupConv2d(2, 2, 3, group="p6m"), "'p4' and 'p4m'"),
        (lambda: GroupConvTranspose2d(2, 2, 3, 2, 1, 1), "output_padding=1"),
        (lambda: GroupPool("sum"), "'mean' and 'max'"),
        (lambda: GroupUpsample(1.5), "whole number"),
        (lambda: GroupConv2d(2, 2, 3)(torch.zeros(1, 2, 5, 5)), r"\(B, 2, 8, H, W\); got \(1, 2, 5, 5\)"),
        (lambda: LiftingConv2d(3, 2, 3)(torch.zeros(1, 1, 5, 5)), r"picture \(B, 3, H, W\)"),
        (lambda: GroupConv2d(2, 2, 3, stride=2, padding=1)(torch.zeros(1, 2, 8, 6, 6)), "such as 5 or 7"),
        (lambda: GroupMaxPool2d(2)(torch.zeros(1, 2, 8, 5, 5)), "such as 4 or 6"),
        (lambda: GroupConv2d(2, 2, 5)(torch.zeros(1, 2, 8, 3, 3)), "smaller than its window"),
        (lambda: GroupBatchNorm2d(3)(torch.zeros(2, 3, 5, 5)), "regular field"),
    ],
)
def test_errors_at_the_door(call, says):
    with pytest.raises(ValueError, match=says):
        call()
