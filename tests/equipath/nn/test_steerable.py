"""Scalar and vector layers: exact on p4m, close at every angle, right about every parameter, and breakable."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equipath.equivariance import Rotation, inside
from equipath.groups import P4M
from equipath.kernels.evaluate import prefer
from equipath.nn.export import export
from equipath.nn.steerable import (
    Fields,
    GatedReLU,
    NormReLU,
    SteerableBatchNorm2d,
    SteerableConv2d,
    SteerablePool2d,
    act_packed,
    fields,
    pack,
    unpack,
)


def worst(module, x, source, target, elements=range(8)):
    """The largest relative error of commuting with the elements of p4m."""
    with torch.no_grad():
        y = module(x)
        errors = [
            (module(act_packed(x, source, a)) - act_packed(y, target, a)).norm() / y.norm() for a in elements
        ]
    return max(e.item() for e in errors)


some_fields = st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda f: f[0] + f[1] > 0)


@settings(max_examples=25, deadline=None)
@given(
    source=some_fields,
    target=some_fields,
    k=st.sampled_from([3, 5, 7]),
    size=st.tuples(st.integers(8, 13), st.integers(8, 13)),
    padding=st.integers(0, 3),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    group=st.sampled_from(["O(2)", "SO(2)"]),
    how=st.sampled_from([None, "expand", "factor"]),
)
def test_exactly_equivariant(source, target, k, size, padding, mode, group, how):
    layer = SteerableConv2d(source, target, k, 1, padding, padding_mode=mode, group=group).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, Fields(*source).channels, *size, dtype=torch.float64)
    with prefer(how):
        assert worst(layer, x, source, target, range(8 if group == "O(2)" else 4)) < 1e-12
        torch.testing.assert_close(layer(x), layer.to_plain()(x), rtol=0, atol=1e-10)
    assert (layer(x) - layer(2 * x)).norm() > 1e-3 * layer(x).norm()


def test_so2_sees_handedness_and_o2_does_not():
    torch.manual_seed(0)
    x = torch.randn(1, 5, 11, 11, dtype=torch.float64)
    left_right = [4]
    assert (
        worst(SteerableConv2d((1, 2), (1, 2), 5, group="SO(2)").double(), x, (1, 2), (1, 2), left_right) > 0.1
    )
    assert worst(SteerableConv2d((1, 2), (1, 2), 5).double(), x, (1, 2), (1, 2), left_right) < 1e-12


def test_the_slides_example():
    layer = SteerableConv2d(3, (2, 2), 5, padding=2)
    assert layer(torch.zeros(1, 3, 9, 9)).shape == (1, 6, 9, 9)
    # 3 colours to 2 scalars by 3 rings each, to 2 vectors by 2 rings each (none at the centre), 2 biases
    assert sum(p.numel() for p in layer.parameters()) == 2 * 3 * 3 + 2 * 3 * 2 + 2
    assert "3 scalars + 0 vectors -> 2 scalars + 2 vectors" in repr(layer)


@pytest.mark.parametrize(("size", "stride", "padding"), [(13, 2, 2), (14, 3, 0), (11, 2, 0)])
def test_strides_are_exact_where_allowed(size, stride, padding):
    layer = SteerableConv2d((1, 1), (1, 2), 5, stride, padding).double()
    x = torch.randn(1, 3, size, size + 2 * stride, dtype=torch.float64)
    assert worst(layer, x, (1, 1), (1, 2)) < 1e-12
    with pytest.raises(ValueError, match="off centre"):
        layer(torch.zeros(1, 3, size + 1, size, dtype=torch.float64))


@pytest.mark.parametrize(
    "mutation", ["components swapped", "y downwards", "ties shared wrongly", "bias on vectors"]
)
def test_the_measure_sees_broken_layers(mutation):
    torch.manual_seed(0)
    layer = SteerableConv2d((2, 1), (1, 2), 5, padding=2).double()
    forward = layer.forward
    if mutation == "components swapped":
        layer.forward = lambda x: forward(torch.cat([x[:, :2], x[:, 2:].flip(1)], 1))
    elif mutation == "y downwards":
        flip = torch.tensor([1, 1, 1, -1.0, 1]).double()[:4, None, None]
        layer.forward = lambda x: (
            forward(x * flip)[:, [0, 1, 2, 3, 4]] * torch.ones(5).double()[:, None, None]
        )
    elif mutation == "ties shared wrongly":
        layer._tie_vector_vector[3:] = layer._tie_vector_vector[3:].abs()
    else:
        layer.forward = lambda x: forward(x) + torch.tensor([0, 1, 0, 0, 0.0]).double()[:, None, None]
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64)
    assert worst(layer, x, (2, 1), (1, 2)) > 1e-3


@pytest.mark.parametrize("k", [3, 5, 9])
def test_evaluations_agree_in_values_and_first_and_second_derivatives(k):
    layer = SteerableConv2d((2, 1), (1, 2), k, padding=1).double()
    x = torch.randn(2, 4, 10, 9, dtype=torch.float64, requires_grad=True)
    results = []
    for how in ("expand", "factor"):
        with prefer(how):
            y = layer(x)
        first = torch.autograd.grad(y.pow(3).sum(), [x, layer.weight, layer.bias], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, layer.weight])
        results.append([y, *first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8)


def test_every_weight_matters_and_the_gain_is_two():
    torch.manual_seed(0)
    layer = SteerableConv2d((4, 3), (16, 16), 7)
    x = torch.randn(8, 10, 24, 24)
    y = layer(x)
    scalars, vectors = unpack(y, (16, 16))
    assert scalars.var().item() == pytest.approx(2, rel=0.25)
    assert vectors.var().item() == pytest.approx(2, rel=0.25)
    y.square().sum().backward()
    assert (layer.weight.grad != 0).all()


def test_training_and_state_dict_round_trip_keep_it_exact():
    torch.manual_seed(0)
    layout = Fields(2, 2)
    gate = GatedReLU(layout)

    def build():
        return torch.nn.Sequential(
            SteerableConv2d(3, gate.takes, 5, padding=2), SteerableBatchNorm2d(gate.takes), GatedReLU(layout),
            SteerableConv2d(layout, layout, 3, padding=1), SteerableBatchNorm2d(layout), NormReLU(layout),
            SteerablePool2d(layout),
        ).double()  # fmt: skip

    net, x = build(), torch.randn(2, 3, 12, 16, dtype=torch.float64)
    opt = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(4):
        opt.zero_grad()
        (net(x) - 1).square().mean().backward()
        opt.step()
    again = build()
    again.load_state_dict(net.state_dict())
    for model in (net, again):
        for training in (True, False):
            model.train(training)
            assert worst(model, x, (3, 0), layout) < 1e-12
    net.eval()
    again.eval()
    torch.testing.assert_close(again(x), net(x))
    assert not any(name.endswith("bank") or "_tie_" in name for name in net.state_dict())


def test_relu_on_components_breaks_what_norm_and_gate_keep():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    norm, gate = NormReLU((1, 2)).double(), GatedReLU((1, 2))
    norm.bias.data.uniform_(-0.5, 0.5)
    assert worst(torch.relu, x, (1, 2), (1, 2)) > 0.3
    assert worst(norm, x, (1, 2), (1, 2)) < 1e-14
    assert worst(gate, torch.randn(2, 7, 9, 9, dtype=torch.float64), (3, 2), (1, 2)) < 1e-14


def test_norm_relu_is_the_formula_and_has_finite_slopes_at_zero():
    layer = NormReLU((0, 2)).double()
    layer.bias.data = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    _, v = unpack(x, (0, 2))
    length = v.norm(dim=2, keepdim=True)
    want = v / length * torch.relu(length + layer.bias[:, None, None, None])
    torch.testing.assert_close(layer(x), want.flatten(1, 2), rtol=1e-5, atol=1e-5)
    zero = torch.zeros(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_pooling_takes_the_longest_vector_and_shares_ties():
    pool = SteerablePool2d((1, 2)).double()
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    assert worst(pool, x, (1, 2), (1, 2)) == 0.0
    windows = unpack(x, (1, 2))[1].unfold(3, 2, 2).unfold(4, 2, 2).flatten(-2)  # (B, v, 2, H/2, W/2, 4)
    best = windows.norm(dim=2, keepdim=True).argmax(-1, keepdim=True).expand(-1, -1, 2, -1, -1, -1)
    want = windows.gather(-1, best)[..., 0]
    torch.testing.assert_close(unpack(pool(x), (1, 2))[1], want)
    # four equally long vectors: their mean, so that no corner is preferred
    tie = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, 1]]).T.reshape(1, 2, 2, 2)
    torch.testing.assert_close(SteerablePool2d((0, 1))(tie).flatten(), torch.tensor([0, 0.5]))
    assert (
        worst(SteerablePool2d((1, 2), 3, "mean").double(), torch.randn(1, 5, 9, 6).double(), (1, 2), (1, 2))
        < 1e-14
    )
    with pytest.raises(ValueError, match="7 x 8"):
        pool(torch.zeros(1, 5, 7, 8, dtype=torch.float64))


def test_batch_norm_makes_vectors_of_unit_mean_square_and_scalars_of_unit_variance():
    norm = SteerableBatchNorm2d((2, 3))
    x = torch.randn(4, 8, 7, 9) * torch.linspace(0.5, 4, 8)[:, None, None] + 1
    scalars, vectors = unpack(norm(x), (2, 3))
    torch.testing.assert_close(scalars.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scalars.var((0, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(vectors.square().sum(2).mean((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    directions = F.cosine_similarity(vectors, unpack(x, (2, 3))[1], dim=2)
    torch.testing.assert_close(directions, torch.ones_like(directions))  # no mean taken off


def test_any_angle_on_a_smooth_picture_beats_a_plain_convolution_by_far():
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-4, 4, 81), torch.linspace(-4, 4, 81), indexing="ij")
    bumps = [
        torch.exp(-((rows - a) ** 2 + (columns - b) ** 2) / 0.6) for a, b in ((0.5, 1), (-1, -0.7), (1.2, -1))
    ]
    x = torch.stack([bumps[0] - bumps[1], bumps[1] + bumps[2]])[None].double()
    turn = Rotation(30)
    seen = inside(81, 81, 20)

    def error(net, scalars, vectors):
        y, moved = net(x), net(turn.planar(x))
        s, v = unpack(y, (scalars, vectors))
        want = pack(turn.planar(s), turn.vector(v)) if vectors else turn.planar(s)
        return ((want - moved) * seen).norm() / (want * seen).norm()

    layout = Fields(3, 3)
    net = torch.nn.Sequential(
        SteerableConv2d(2, layout, 9, padding=4),
        NormReLU(layout),
        SteerableConv2d(layout, (3, 2), 9, padding=4),
    ).double()
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(2, 9, 9, padding=4), torch.nn.ReLU(), torch.nn.Conv2d(9, 7, 9, padding=4)
    ).double()
    with torch.no_grad():
        # the budget: what interpolating the turned picture costs by itself on this input
        assert error(net, 3, 2) < 0.02 + turn.budget(x, squared=False)
        assert error(plain, 7, 0) > 0.2


def test_low_precision_autocast_and_layouts():
    layer = SteerableConv2d((4, 4), (4, 4), 5, padding=2)
    x = torch.randn(2, 12, 10, 10)
    want = layer(x)
    for how in ("expand", "factor"):
        with prefer(how), torch.autocast("cpu", torch.bfloat16):
            low = layer(x)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), want, rtol=0.1, atol=0.2)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), want, rtol=1e-4, atol=1e-5)
    half = SteerableConv2d(3, (1, 1), 3, dtype=torch.bfloat16)
    assert half(torch.zeros(1, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    net = torch.nn.Sequential(half, SteerableBatchNorm2d((1, 1)).bfloat16(), NormReLU((1, 1)).bfloat16())
    assert net(torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_no_and_of_long_vectors_keep_to_the_range_of_half_precision(dtype):
    x = torch.tensor([0.0, 0.0, 1e-3, 300.0, 400.0, 0.0]).view(2, 3, 1, 1)  # a scalar and a vector, twice
    torch.testing.assert_close(NormReLU((1, 1)).to(dtype)(x.to(dtype)).float(), x, rtol=1e-2, atol=1e-4)


def test_an_empty_batch_leaves_the_running_length_as_it_is():
    norm = SteerableBatchNorm2d((1, 1))
    norm(torch.randn(2, 3, 4, 4))
    before = norm.running_square.clone()
    assert norm(torch.randn(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert torch.equal(norm.running_square, before)


@pytest.mark.slow
def test_compiles_without_a_graph_break_and_exports():
    layout = Fields(3, 3)
    net = torch.nn.Sequential(
        SteerableConv2d(3, layout, 5, padding=2), SteerableBatchNorm2d(layout), NormReLU(layout),
        SteerablePool2d(layout), SteerableConv2d(layout, 2, 3, padding=1),
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    net.eval()
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    conv = torch.nn.Sequential(net[0])
    torch.testing.assert_close(export(conv)(x), conv(x), rtol=1e-4, atol=1e-5)


def test_packing_round_trip_and_bad_input():
    s, v = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 2, 4, 5)
    a, b = unpack(pack(s, v), (3, 2))
    assert torch.equal(a, s)
    assert torch.equal(b, v)
    assert torch.equal(act_packed(pack(s, v), (3, 2), 1), pack(P4M.act(s, 1), P4M.act_vector(v, 1)))
    with pytest.raises(ValueError, match=r"packed as \(B, 7, H, W\)"):
        unpack(torch.zeros(1, 6, 4, 4), (3, 2))
    with pytest.raises(ValueError, match="some scalar or vector"):
        fields((0, 0))
    with pytest.raises(ValueError, match="no direction"):
        SteerableConv2d(1, (0, 1), 1)
    with pytest.raises(ValueError, match="choices are O"):
        SteerableConv2d(1, 1, 3, group="O2")
    with pytest.raises(ValueError, match="3 scalars and 1 vectors"):
        SteerableConv2d((3, 1), 1, 3)(torch.zeros(1, 3, 8, 8))
    assert math.isclose(Fields(4, 2).channels, 8)


@pytest.mark.parametrize("bias", [True, False])
def test_the_short_way_asks_what_the_long_one_asks(bias):
    """An input of the last shape goes straight on, unless anything else about it or the layer is different."""
    layer = SteerableConv2d((2, 1), (1, 2), 3, padding=1, bias=bias)
    x = torch.randn(2, 4, 7, 6)
    first = layer(x)
    assert layer._known == x.shape
    torch.testing.assert_close(layer(x), first)
    torch.testing.assert_close(layer.to_plain()(x), first)
    with pytest.raises(TypeError, match="takes a tensor"):
        layer(x.tolist())
    with pytest.raises(ValueError, match="float64"):
        layer(x.double())
    with pytest.raises(ValueError, match="2 scalars and 1 vectors"):
        layer(x[:, :3])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    twice = torch.func.functional_call(layer, {"weight": layer.weight * 2}, (x,))
    torch.testing.assert_close(
        twice, 2 * first - (0 if layer.bias is None else layer._full_bias()[:, None, None])
    )
    layer.double()
    assert layer._known is None
    torch.testing.assert_close(layer(x.double()).float(), first)
