"""Ring layers against the public package's numbers, against ordinary convolutions, and under every turn."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.groups import P4M
from equipath.kernels.evaluate import basis_conv_work, cheapest, prefer
from equipath.nn.sre import EvenAvgPool2d, SREConv2d, SREConvTranspose2d, sre_gain

GOLDEN = Path(__file__).parents[2] / "golden" / "sre.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return {k: torch.from_numpy(data[k]) for k in data.files if k != "versions"}


@pytest.mark.parametrize("how", ["expand", "factor"])
@pytest.mark.parametrize("k", [3, 5, 7, 9, 11])
def test_same_numbers_as_the_public_package(golden, k, how):
    layer = SREConv2d(3, 4, k, padding=k // 2).double()
    layer.load_state_dict({"weight": golden[f"conv{k}.weight"], "bias": golden[f"conv{k}.bias"]})
    with prefer(how):
        torch.testing.assert_close(layer(golden[f"conv{k}.x"]), golden[f"conv{k}.y"], rtol=0, atol=1e-12)


def worst(module, x):
    return max(
        equivariance_error(module, x, t, squared=False, output_field="planar") for t in roto_reflections()
    )


@settings(max_examples=25, deadline=None)
@given(
    k=st.sampled_from([1, 3, 5, 7, 9]),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(10, 17), st.integers(10, 17)),
    padding=st.integers(0, 5),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    how=st.sampled_from([None, "expand", "factor"]),
    seed=st.integers(0, 99),
)
def test_exactly_equivariant_for_any_size_padding_and_dilation(
    k, channels, size, padding, dilation, mode, how, seed
):
    if min(size) + 2 * padding <= dilation * (k - 1):
        return
    torch.manual_seed(seed)
    layer = SREConv2d(*channels, k, 1, padding, dilation, padding_mode=mode).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    with prefer(how):
        assert worst(layer, x) < 1e-12
        torch.testing.assert_close(layer(x), layer.to_plain()(x), rtol=0, atol=1e-11)
        assert (layer(x) - layer(2 * x)).abs().max() > 1e-3  # and it looks at its input


@pytest.mark.parametrize(
    ("size", "k", "stride", "padding"), [(17, 5, 2, 2), (16, 3, 3, 1), (20, 4 + 1, 3, 0)]
)
def test_strides_are_exact_on_the_sizes_that_are_allowed(size, k, stride, padding):
    layer = SREConv2d(2, 3, k, stride, padding).double()
    x = torch.randn(2, 2, size, size + 2 * stride, dtype=torch.float64)
    assert worst(layer, x) < 1e-12


def test_strides_that_sample_off_centre_are_refused():
    layer = SREConv2d(2, 3, 3, stride=2, padding=1)
    with pytest.raises(ValueError, match="off centre"):
        layer(torch.zeros(1, 2, 16, 16))
    # and rightly so: the plain convolution with the same filters is not equivariant there
    plain = layer.to_plain().double()
    assert worst(plain, torch.randn(1, 2, 16, 16, dtype=torch.float64)) > 0.1


@pytest.mark.parametrize(
    ("k", "stride", "padding", "groups"), [(3, 1, 0, 1), (5, 2, 2, 2), (3, 2, 1, 1), (7, 3, 1, 2)]
)
def test_transpose_is_the_adjoint_and_equivariant(k, stride, padding, groups):
    up = SREConvTranspose2d(4, 2, k, stride, padding, groups, bias=False).double()
    y = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    out = up(y)
    assert worst(up, y) < 1e-12
    # <up(y), x> = <y, down(x)> with the convolution of the same rings
    down = SREConv2d(2, 4, k, stride, padding, groups=groups, bias=False).double()
    down.weight.data = up.weight.data
    x = torch.randn_like(out)
    torch.testing.assert_close((out * x).sum(), (y * down(x)).sum(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("k", [3, 5, 9])
def test_evaluations_agree_in_values_and_first_and_second_derivatives(k):
    x = torch.randn(2, 3, 11, 12, dtype=torch.float64, requires_grad=True)
    layer = SREConv2d(3, 4, k, padding=k // 2 - 1 if k > 3 else 0).double()
    results = []
    for how in ("expand", "factor"):
        with prefer(how):
            y = layer(x)
        first = torch.autograd.grad(y.pow(3).sum(), [x, layer.weight, layer.bias], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, layer.weight])
        results.append([y, *first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8)


def test_gradcheck_of_the_factored_evaluation():
    layer = SREConv2d(2, 2, 5, padding=1).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().requires_grad_()

    def apply(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    with prefer("factor"):
        assert torch.autograd.gradcheck(apply, (x, weight))
        assert torch.autograd.gradgradcheck(apply, (x, weight))


def test_state_dict_round_trip_and_training_keep_it_exact():
    torch.manual_seed(0)
    layer = SREConv2d(3, 3, 7, padding=3).double()
    x = torch.randn(2, 3, 12, 15, dtype=torch.float64)
    opt = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(5):
        opt.zero_grad()
        layer(x).square().mean().backward()
        opt.step()
    assert worst(layer, x) < 1e-12
    other = SREConv2d(3, 3, 7, padding=3).double()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    "broken",
    [
        lambda w: w.roll(1, 1),  # rings off centre
        lambda w: w + torch.eye(9).to(w) * 0.1,  # one diagonal heavier: not a ring
        lambda w: torch.cat([w[:1] * 1.01, w[1:]], 0),  # one row heavier
    ],
)
def test_the_measure_sees_broken_rings(broken):
    layer = SREConv2d(2, 2, 9, padding=4).double()
    layer.basis = torch.stack([broken(b) for b in layer.basis])
    assert worst(layer, torch.randn(1, 2, 15, 16, dtype=torch.float64)) > 1e-4


def test_every_weight_matters():
    layer = SREConv2d(2, 3, 7, padding=3)
    layer(torch.randn(2, 2, 12, 12)).square().sum().backward()
    assert (layer.weight.grad.abs() > 0).all()
    assert layer.weight.shape == (3, 2, 4)


@pytest.mark.parametrize("how", ["expand", "factor"])
def test_low_precision_memory_formats_and_autocast(how):
    layer = SREConv2d(16, 16, 5, padding=2)
    x = torch.randn(2, 16, 12, 10)
    want = layer(x)
    with prefer(how):
        low_precision(layer, x, want)


def low_precision(layer, x, want):
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), want, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), want, rtol=0.05, atol=0.1)
    low.float().square().mean().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "k", "how"), [(16, 3, "expand"), (16, 9, "factor")])
def test_compiles_without_a_graph_break(channels, k, how):
    layer = SREConv2d(channels, channels, k, padding=k // 2)
    x = torch.randn(2, channels, 20, 20, requires_grad=True)
    works = basis_conv_work(x.shape, channels, range(1, k + 1, 2), k, x.dtype)
    assert cheapest(works, x) == how
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("k", [3, 5, 7, 9, 11])
def test_initial_gain_is_two_for_white_input(k):
    torch.manual_seed(1)
    layer = SREConv2d(32, 256, k, padding=0, bias=False)
    x = torch.randn(2, 32, 24, 24)
    gain = (layer(x).var() / x.var()).item()
    assert gain == pytest.approx(sre_gain(k), rel=0.15)
    assert sre_gain(k) == pytest.approx(2)


def test_pooling_commutes_and_refuses_odd_sizes():
    pool = EvenAvgPool2d()
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    assert worst(pool, x) < 1e-15
    with pytest.raises(ValueError, match="multiples of 2; got 7 x 8"):
        pool(torch.zeros(1, 1, 7, 8))


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match="odd; got 4"):
        SREConv2d(1, 1, 4)
    with pytest.raises(ValueError, match="in_channels"):
        SREConv2d(0, 1, 3)
    with pytest.raises(ValueError, match="divide"):
        SREConv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="padding_mode"):
        SREConv2d(1, 1, 3, padding_mode="mirror")
    with pytest.raises(ValueError, match=r"wants \(B, 3, H, W\); got \(1, 1, 8, 8\)"):
        SREConv2d(3, 1, 3)(torch.zeros(1, 1, 8, 8))


def test_a_ring_filter_is_nearly_blind_to_any_angle_and_a_plain_one_is_not():
    # 45 degrees on a smooth picture: the ring filter's error must be small beside the plain filter's
    from equipath.equivariance import Rotation

    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-3, 3, 65), torch.linspace(-3, 3, 65), indexing="ij")
    x = (torch.sin(2 * rows) + torch.cos(3 * columns + rows))[None, None].double()
    ring = SREConv2d(1, 4, 9, bias=False).double()
    plain = torch.nn.Conv2d(1, 4, 9, bias=False).double()
    errors = [equivariance_error(f, x, Rotation(45), output_field="planar") for f in (ring, plain)]
    assert errors[0] < 0.01 * errors[1]


def test_filters_are_rotationally_symmetric_planes():
    filters = SREConv2d(2, 2, 11).filters
    for a in range(8):
        torch.testing.assert_close(P4M.act(filters, a), filters)
    assert F.conv2d(torch.ones(1, 2, 11, 11), filters).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_the_short_way_asks_what_the_long_one_asks(bias, last):
    """An input of the last shape goes straight on, unless anything else about it or the layer is different."""
    layer = SREConv2d(2, 4, 5, padding=2, groups=2, bias=bias)
    x = torch.randn(2, 2, 7, 6)
    if last:
        x = x.to(memory_format=torch.channels_last)
    first = layer(x)
    assert layer._known == x.shape
    torch.testing.assert_close(layer(x), first)
    torch.testing.assert_close(layer.to_plain()(x), first)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), first)
        torch.testing.assert_close(layer(x.flip(-1)), first.flip(-1))
    with pytest.raises(TypeError, match="takes a tensor"):
        layer(x.tolist())
    with pytest.raises(ValueError, match="float64"):
        layer(x.double())
    with pytest.raises(ValueError, match=r"\(B, 2, H, W\)"):
        layer(x[:, :1])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    mine = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    with prefer("factor"):  # which has no say in a layer of groups, but takes the long way
        torch.testing.assert_close(mine, torch.autograd.grad(layer(x).square().sum(), layer.weight))
    layer.double()
    assert layer._known is None
    torch.testing.assert_close(layer(x.double()).float(), first)
