"""Scale layers: the authors' numbers, exact shifts and separate scales, and scaling measured honestly."""

import copy
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import equipath
from equipath.equivariance import Shift, Transform, equivariance_error, error_matrix
from equipath.kernels.evaluate import prefer
from equipath.kernels.gaussian import gaussian_basis, gaussian_size
from equipath.kernels.separable import derivative_orders
from equipath.nn import scale as layers
from equipath.nn.scale import (
    DISCOConv2d,
    DISCOLiftingConv2d,
    GaussianDerivativeConv2d,
    GaussianDerivativeLiftingConv2d,
    ScaleBatchNorm2d,
    ScaleHeads,
    ScaleMaxPool2d,
    ScaleProjection,
    ScaleSharedConv2d,
    ScaleUpsample,
    SESNConv2d,
    SESNLiftingConv2d,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "scale.npz"
THIRDS = [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]

LIFTING = {
    "gaussian": lambda: GaussianDerivativeLiftingConv2d(2, 3, THIRDS, 2, bias=True),
    "sesn": lambda: SESNLiftingConv2d(2, 3, (1, 2, 3), 7, bias=True),
    "disco": lambda: DISCOLiftingConv2d(2, 3, (1, 2, 3), bias=True),
}
HIDDEN = {
    "gaussian": lambda: GaussianDerivativeConv2d(2, 3, THIRDS, 2, bias=True),
    "free": lambda: GaussianDerivativeConv2d(2, 3, THIRDS, mode="free", bias=True),
    "njet": lambda: GaussianDerivativeConv2d(2, 3, [(0.5, 1.5)], 3, mode="free", bias=True),
    "sesn": lambda: SESNConv2d(2, 3, (1, 2, 3), 7, bias=True),
    "disco": lambda: DISCOConv2d(2, 3, (1, 2, 3), bias=True),
}


def shaken(layer):
    """Every parameter away from the values it starts with."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return layer.double()


def field(layer, size=(9, 12), batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, layer.in_channels, layer.scales, *size, dtype=torch.float64)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return {k: torch.from_numpy(data[k]) for k in data.files if k != "versions"}


@pytest.mark.parametrize("how", ["expand", "factor"])
@pytest.mark.parametrize("name", ["lift", "hidden"])
def test_sesn_has_the_public_codes_numbers(golden, name, how):
    weight = golden[f"sesn.{name}.weight"]
    kind = {"lift": SESNLiftingConv2d, "hidden": SESNConv2d}[name]
    layer = kind(weight.shape[1], weight.shape[0], bias=True)
    # theirs are listed column order first, and their x runs down the rows
    listed = [(columns, rows) for columns in range(5) for rows in range(5 - columns)]
    order = [listed.index(pair) for pair in derivative_orders(4)]
    layer.load_state_dict({"weight": weight[..., order], "bias": golden[f"sesn.{name}.bias"]})
    with prefer(how):
        y = layer(golden[f"sesn.{name}.x"])
    torch.testing.assert_close(y, golden[f"sesn.{name}.y"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["lift", "hidden"])
def test_disco_has_the_public_codes_numbers(golden, name):
    weight = golden[f"disco.{name}.weight"]
    kind = {"lift": DISCOLiftingConv2d, "hidden": DISCOConv2d}[name]
    layer = kind(weight.shape[1], weight.shape[0], bias=True)
    # theirs mix a Hermite basis of the 3x3 taps; ours are the taps
    taps = torch.einsum("ocn,nyx->ocyx", weight, golden["disco.basis"])
    layer.load_state_dict({"weight": taps, "bias": golden[f"disco.{name}.bias"]})
    torch.testing.assert_close(
        layer(golden[f"disco.{name}.x"]), golden[f"disco.{name}.y"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sampling", ["discrete", "integrated", "sampled"])
def test_gaussian_layer_is_the_sum_of_equation_4(sampling):
    layer = shaken(GaussianDerivativeConv2d(2, 3, THIRDS, 2, sampling=sampling, bias=True))
    x, sigma = field(layer), layer.sigma
    assert ((sigma > torch.tensor([0, 0.5, 1.0])) & (sigma < torch.tensor([0.5, 1.0, 1.5]))).all()
    basis = gaussian_basis(sigma, 2, layer.radii, sampling)
    want = torch.zeros(2, 3, 3, 9, 12, dtype=torch.float64)
    for k in range(3):
        assert layer.filters[k].shape[-1] == gaussian_size(sigma[k].item())
        for o in range(3):
            for c in range(2):
                for n in range(6):
                    # convolved as drawn: correlated with the flipped filter
                    taps = basis[k, n].flip(-2, -1)[None, None]
                    want[:, o, k] += (
                        layer.weight[o, c, n]
                        * F.conv2d(x[:, c : c + 1, k], taps, padding=taps.shape[-1] // 2)
                    )[:, 0]
            want[:, o, k] += layer.bias[o]
    for how in ("expand", "factor"):
        with prefer(how):
            torch.testing.assert_close(layer(x), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", HIDDEN)
def test_scales_never_mix_and_channels_do(name):
    layer = shaken(HIDDEN[name]())
    x = field(layer)
    for how in ("expand", "factor"):
        with prefer(how):
            y = layer(x)
            for k in range(layer.scales):
                changed = x.clone()
                changed[:, 0, k] += 1
                difference = (layer(changed) - y).abs().amax((0, 1, 3, 4))
                assert difference[k] > 1e-2
                assert (difference[torch.arange(layer.scales) != k] == 0).all()


@pytest.mark.parametrize("mode", layers.PADDING_MODES)
@pytest.mark.parametrize("name", HIDDEN)
def test_shifts_are_exact_and_the_plain_form_agrees(name, mode):
    layer = shaken(HIDDEN[name]())
    layer.padding_mode = mode
    x = field(layer, (9, 12))
    for how in ("expand", "factor"):
        with prefer(how):
            if mode == "circular":
                assert equivariance_error(layer, x, Shift(2, -5), squared=False) < 1e-12
            torch.testing.assert_close(layer.to_plain()(x), layer(x), rtol=1e-11, atol=1e-11)
    inner, border = Shift(1, 2, wrap=False), max(layer.radii)
    wide = field(layer, (2 * border + 5, 2 * border + 6))
    assert equivariance_error(layer, wide, inner, squared=False, border=border) < 1e-12
    assert layer(x).std() > 1e-2


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(["gaussian", "sesn", "disco"]),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    scales=st.integers(1, 4),
    order=st.integers(0, 3),
    size=st.tuples(st.integers(1, 20), st.sampled_from([1, 2, 7, 30, 64, 65, 129])),
    batch=st.integers(1, 3),
    how=st.sampled_from([None, "expand", "factor"]),
    seed=st.integers(0, 99),
)
def test_any_size_order_and_number_of_scales(family, channels, scales, order, size, batch, how, seed):
    """Pictures narrower than the filters and wider than the tiles of the factored evaluation, too."""
    torch.manual_seed(seed)
    if family == "gaussian":
        ends = (torch.rand(scales + 1).cumsum(0) * 1.2).tolist()
        layer = GaussianDerivativeConv2d(*channels, list(pairwise(ends)), order, bias=True)
    elif family == "sesn":
        layer = SESNConv2d(*channels, range(1, scales + 1), 2 * scales + 1, order, bias=True)
    else:
        layer = DISCOConv2d(*channels, range(1, scales + 1), bias=True)
    layer = layer.double()
    nn.init.normal_(layer.bias)
    x = torch.randn(batch, channels[0], scales, *size, dtype=torch.float64, requires_grad=True)
    with prefer(how):
        y = layer(x)
    want = layer.to_plain()(x)
    torch.testing.assert_close(y, want, rtol=1e-10, atol=1e-10)
    seen = torch.randn_like(y)
    ours, plainly = (torch.autograd.grad(out, x, seen)[0] for out in (y, want))
    torch.testing.assert_close(ours, plainly, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LIFTING)
def test_lifting_shows_every_scale_the_whole_picture(name):
    layer = shaken(LIFTING[name]())
    x = torch.randn(2, 2, 11, 8, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (2, 3, 3, 11, 8)
    hidden = HIDDEN[name]()
    hidden.double().load_state_dict(layer.state_dict())
    torch.testing.assert_close(y, hidden(x[:, :, None].expand(-1, -1, 3, -1, -1)), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer.to_plain()(x), y, rtol=1e-11, atol=1e-11)


def test_parity_of_gaussian_filters_under_mirrors():
    # a mirror negates the odd derivatives: the mirrored picture's response is that of mirrored weights
    layer = shaken(GaussianDerivativeConv2d(2, 3, THIRDS, 3))
    x = field(layer, (9, 12))
    for axis, which in ((-1, 0), (-2, 1)):
        mirrored = copy.deepcopy(layer)
        signs = torch.tensor([(-1.0) ** pair[which] for pair in derivative_orders(3)])
        mirrored.weight.data *= signs
        torch.testing.assert_close(layer(x.flip(axis)).flip(axis), mirrored(x), rtol=1e-12, atol=1e-12)
    smooth = GaussianDerivativeConv2d(2, 3, THIRDS, 0).double()
    for turns in range(4):
        torch.testing.assert_close(
            smooth(torch.rot90(x, turns, (-2, -1))), torch.rot90(smooth(x), turns, (-2, -1))
        )


def blobs(pixels, extent=12.0, seed=0):
    """Gaussian blobs in a square of ``extent``, rendered analytically on ``pixels`` x ``pixels``: any
    resolution, no interpolation."""
    generator = torch.Generator().manual_seed(seed)
    centres = (torch.rand(8, 2, generator=generator, dtype=torch.float64) - 0.5) * 0.5 * extent
    widths = 0.35 + 0.4 * torch.rand(8, generator=generator, dtype=torch.float64)
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels * extent - extent / 2
    across = torch.exp(-((at[:, None] - centres[:, 0]) ** 2) / (2 * widths**2))
    down = torch.exp(-((at[:, None] - centres[:, 1]) ** 2) / (2 * widths**2))
    return (down @ across.T)[None, None]


def scaling_error(pixels, sigma, sampling="discrete", ratio=2.0, exponent=0):
    """How far σ on a grid is from ratio·σ on a grid twice as fine, at the same places; on one that
    interleaves."""
    pair = [(s - 0.1, s + 0.1) for s in (sigma, ratio * sigma)]
    torch.manual_seed(3)
    layer = GaussianDerivativeLiftingConv2d(1, 4, pair, 2, sampling=sampling, truncate=5.0).double()
    factors = torch.tensor([0, 1, 1, 2, 2, 2]) * exponent
    layer.weight.data *= sigma ** -factors.double()
    coarse = layer(blobs(pixels))[:, :, 0]
    layer.weight.data *= (ratio ** -factors.double()) if exponent else 1
    fine = layer(blobs(2 * pixels))[:, :, 1]
    at_coarse = F.avg_pool2d(fine, 2)
    return ((at_coarse - coarse).norm() / coarse.norm()).item()


def test_scaling_is_equivariant_up_to_pixels_and_better_on_finer_grids():
    # the scene stays, the grid becomes finer, and the filters are as wide in the scene
    errors = [scaling_error(n, 1.0 * n / 32) for n in (32, 64, 128)]
    assert errors[0] < 0.06
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3  # second order: each halving of the pixel divides it by about four
    assert scaling_error(64, 2.0, "sampled") < 0.03
    # σ at the wrong ratio is another filter, and a derivative without its normalisation another amplitude
    assert scaling_error(64, 2.0, ratio=1.3) > 5 * errors[1]
    assert scaling_error(64, 2.0, exponent=1) > 5 * errors[1]


def test_a_plain_convolution_is_not_scale_equivariant():
    torch.manual_seed(3)
    plain = nn.Conv2d(1, 4, 11, padding=5, bias=False).double()
    coarse, fine = plain(blobs(64)), F.avg_pool2d(plain(blobs(128)), 2)
    assert (coarse - fine).norm() / coarse.norm() > 10 * scaling_error(64, 2.0)


def test_error_matrix_is_smallest_where_sigma_grows_with_the_picture():
    # eq. 12 and figure 5: twice the picture matches twice the σ
    sigmas = [1.0, 1.414, 2.0, 2.828, 4.0]
    torch.manual_seed(0)
    layer = GaussianDerivativeLiftingConv2d(
        1, 6, [(s - 0.05, s + 0.05) for s in sigmas], 2, mode="fixed", truncate=4.0
    ).double()

    class Redrawn(Transform):
        exact = False

        def planar(self, x):
            if x.dim() == 4:
                return blobs(2 * x.shape[-1])
            fine = F.interpolate(x.flatten(1, 2), scale_factor=2.0, mode="bicubic")
            return fine.unflatten(1, x.shape[1:3])

    matrix = error_matrix(layer, blobs(48), Redrawn(), border=8)
    for k in range(3):
        assert int(matrix[k].argmin()) == k + 2
        assert matrix[k, k + 2] < 0.02 * matrix[k, k]


def test_sigma_modes():
    constrained = GaussianDerivativeConv2d(2, 3, THIRDS)
    fixed = GaussianDerivativeConv2d(2, 3, THIRDS, mode="fixed")
    free = GaussianDerivativeConv2d(2, 3, THIRDS, mode="free")
    for layer in (constrained, fixed, free):
        torch.testing.assert_close(layer.sigma, torch.tensor([0.25, 0.75, 1.25]))
        assert layer.radii == [1, 2, 3]
    assert set(fixed.state_dict()) == {"weight"}
    assert set(constrained.state_dict()) == set(free.state_dict()) == {"weight", "x"}
    with torch.no_grad():
        constrained.x.fill_(5.0)
        free.x.fill_(math.log(2.6))
    assert constrained.radii == [1, 2, 3]
    assert (constrained.sigma < torch.tensor([0.5, 1, 1.5])).all()
    assert free.radii == [6, 6, 6]  # free scales grow, and may meet
    x = torch.randn(1, 2, 3, 12, 12)
    y = free(x)
    assert y.shape == (1, 3, 3, 12, 12)
    torch.testing.assert_close(free.to_plain()(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_moves_sigma_to_where_the_picture_is():
    # the target was made with σ = 1.4; a layer that starts at 1 finds it by gradients alone
    torch.manual_seed(0)
    teacher = GaussianDerivativeConv2d(1, 2, [(0.5, 1.5)]).double()
    student = copy.deepcopy(teacher)
    teacher.x.data.fill_(math.atanh(0.8))
    x = torch.randn(1, 1, 1, 12, 12, dtype=torch.float64)
    optimiser = torch.optim.Adam([student.x], 0.1)
    for _ in range(40):
        optimiser.zero_grad()
        (student(x) - teacher(x)).square().mean().backward()
        optimiser.step()
    assert student.sigma.item() == pytest.approx(1.4, abs=0.08)


@pytest.mark.parametrize("name", HIDDEN)
def test_every_parameter_learns_by_each_evaluation_alike(name):
    layer = shaken(HIDDEN[name]())
    grads = []
    for how in ("expand", "factor"):
        x = field(layer, (6, 7)).requires_grad_()
        with prefer(how):
            y = layer(x)
        wanted = [x, *layer.parameters()]
        grads.append(torch.autograd.grad(y.pow(3).sum(), wanted))
        with prefer(how):
            first = torch.autograd.grad(layer(x).pow(3).sum(), wanted, create_graph=True)
        grads[-1] += torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
        assert (a.abs() > 0).all()


@pytest.mark.parametrize("name", HIDDEN)
def test_state_round_trip(name):
    layer, other = shaken(HIDDEN[name]()), HIDDEN[name]().double()
    x = field(layer)
    assert not torch.allclose(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert {"taps", "low", "high"}.isdisjoint(layer.state_dict())


def test_layers_that_become_float64_are_as_exact_as_ones_born_so():
    grown, born = SESNConv2d(1, 1).double(), SESNConv2d(1, 1, dtype=torch.float64)
    assert torch.equal(grown.taps, born.taps)
    assert torch.equal(grown.float().double().taps, born.taps)


@pytest.mark.parametrize("how", ["expand", "factor"])
@pytest.mark.parametrize("name", HIDDEN)
def test_low_precision_memory_formats_and_autocast(name, how):
    torch.manual_seed(0)
    layer = HIDDEN[name]()
    x = torch.randn(2, 2, layer.scales, 10, 12)
    with prefer(how):
        want = layer(x)
        innermost = x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
        torch.testing.assert_close(layer(innermost), want, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = layer(x)
        assert low.dtype == torch.bfloat16
        assert (low.float() - want).norm() < 0.02 * want.norm()
        low.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
        y = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - want).norm() < 0.05 * want.norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "free", "sesn", "disco"])
def test_compiles_without_a_graph_break(name):
    layer = HIDDEN[name]()
    x = torch.randn(2, 2, layer.scales, 20, 20, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    compiled(x).square().sum().backward()
    (mine,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(x.grad, mine, rtol=1e-3, atol=1e-3)


def test_batch_norm_shared_and_separate():
    x = torch.randn(3, 2, 4, 5, 6) * torch.tensor([1.0, 2, 3, 4])[:, None, None]
    shared, separate = ScaleBatchNorm2d(2), ScaleBatchNorm2d(2, 4)
    y = shared(x)
    want = (x - x.mean((0, 2, 3, 4), keepdim=True)) / x.var((0, 2, 3, 4), keepdim=True, correction=0).sqrt()
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    # shared norms leave the scales' proportions alone; separate ones level them
    assert y[:, :, 3].std() > 3 * y[:, :, 0].std()
    levelled = separate(x)
    torch.testing.assert_close(levelled.std((0, 3, 4), correction=0), torch.ones(2, 4), rtol=1e-3, atol=1e-3)
    assert len(shared.weight) == 2
    assert len(separate.weight) == 8
    # exchanging the scales before a shared norm is exchanging them after it
    order = [2, 0, 3, 1]
    torch.testing.assert_close(shared(x[:, :, order]), shared(x)[:, :, order])
    assert not torch.allclose(shaken_eval(separate)(x[:, :, order]), separate(x)[:, :, order])


def shaken_eval(norm):
    nn.init.uniform_(norm.weight)
    return norm.eval()


def test_planar_layers_treat_every_scale_alike():
    x = torch.randn(2, 3, 4, 6, 8)
    pool, up, shared = ScaleMaxPool2d(), ScaleUpsample(), ScaleSharedConv2d(3, 5, 1)
    for k in range(4):
        plane = x[:, :, k]
        torch.testing.assert_close(pool(x)[:, :, k], F.max_pool2d(plane, 2))
        want = F.interpolate(plane, scale_factor=2.0, mode="bilinear", align_corners=True)
        torch.testing.assert_close(up(x)[:, :, k], want)
        torch.testing.assert_close(shared(x)[:, :, k], F.conv2d(plane, shared.weight, shared.bias))
    heads = ScaleHeads(3, 2, 4)
    y = heads(x)
    for k in range(4):
        want = torch.einsum("kc,bchw->bkhw", heads.weight[k], x[:, :, k]) + heads.bias[k][:, None, None]
        torch.testing.assert_close(y[:, :, k], want)
    torch.testing.assert_close(ScaleProjection("max")(x), x.max(2).values)
    torch.testing.assert_close(ScaleProjection("mean")(x), x.mean(2))


def test_export_has_the_same_outputs():
    net = nn.Sequential(
        GaussianDerivativeLiftingConv2d(2, 3, THIRDS),
        ScaleBatchNorm2d(3),
        nn.ReLU(),
        ScaleMaxPool2d(),
        SESNConv2d(3, 4, (1, 2, 3), 7),
        ScaleBatchNorm2d(4, 3),
        ScaleUpsample(),
        DISCOConv2d(4, 3, (1, 2, 3), bias=True),
        ScaleSharedConv2d(3, 3, 1),
        ScaleHeads(3, 2, 3),
        ScaleProjection("mean"),
    )
    net = net.double()
    x = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    net(x)  # statistics away from 0 and 1
    net.eval()
    plain = equipath.export(net)
    torch.testing.assert_close(plain(x), net(x), rtol=1e-12, atol=1e-12)
    assert all(type(m).__module__.startswith("torch.nn") for m in plain.modules() if m is not plain)


BREAKS = {
    "scales mixed": lambda m, patch: patch.setattr(
        type(m), "_planes", lambda self, x: torch.roll(x.movedim(2, 0), 1, 0)
    ),
    "scales in another order": lambda m, patch: patch.setattr(
        layers, "gaussian_taps", lambda s, *a, real=layers.gaussian_taps: real(s.flip(0), *a)
    ),
    "derivatives not normalised": lambda m, patch: patch.setattr(
        layers,
        "gaussian_taps",
        lambda s, *a, real=layers.gaussian_taps: real(s, *a) / s[:, None, None] ** torch.arange(3)[:, None],
    ),
    "another order of derivative": lambda m, patch: patch.setattr(
        layers, "gaussian_taps", lambda *a, real=layers.gaussian_taps: real(*a)[:, [0, 2, 1]]
    ),
    "x and y exchanged": lambda m, patch: patch.setattr(
        layers, "correlation_factors", lambda t, real=layers.correlation_factors: real(t)[::-1]
    ),
    "correlated in place of convolved": lambda m, patch: patch.setattr(
        layers, "correlation_factors", lambda t: (t, t.flip(-1))
    ),
    "too small a filter": lambda m, patch: patch.setattr(m, "_radii", [1, 1, 2]),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_sum_of_equation_4_sees_every_break(broken, monkeypatch):
    layer = shaken(GaussianDerivativeConv2d(2, 3, THIRDS, 2))
    x = field(layer)
    basis = gaussian_basis(layer.sigma, 2, [1, 2, 3]).flip(-2, -1)
    filters = torch.einsum("ocn,snyx->socyx", layer.weight, basis)
    want = torch.stack([F.conv2d(x[:, :, k], filters[k], padding=3) for k in range(3)], 2)
    torch.testing.assert_close(layer(x), want, rtol=1e-11, atol=1e-11)
    BREAKS[broken](layer, monkeypatch)
    assert (layer(x) - want).norm() > 1e-2 * want.norm()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GaussianDerivativeConv2d(0, 1, THIRDS), "in_channels"),
        (lambda: GaussianDerivativeConv2d(1, 1, []), "one interval"),
        (lambda: GaussianDerivativeConv2d(1, 1, [(1, 1)]), "low < high"),
        (lambda: GaussianDerivativeConv2d(1, 1, [(-1, 1)]), "low < high"),
        (lambda: GaussianDerivativeConv2d(1, 1, THIRDS, -1), "from 0 up"),
        (lambda: GaussianDerivativeConv2d(1, 1, THIRDS, mode="loose"), "constrained, fixed, free"),
        (lambda: GaussianDerivativeConv2d(1, 1, THIRDS, sampling="no"), "discrete"),
        (lambda: GaussianDerivativeConv2d(1, 1, THIRDS, padding_mode="no"), "reflect"),
        (lambda: SESNConv2d(1, 1, (1, 2), 4), "odd side"),
        (lambda: DISCOConv2d(1, 1, (1, 1.5)), "whole scales"),
        (lambda: DISCOConv2d(1, 1, (1, 2), 2), "odd"),
        (lambda: ScaleProjection("sum"), "'max' and 'mean'"),
        (lambda: ScaleBatchNorm2d(0), "num_features"),
        (lambda: ScaleHeads(1, 0, 2), "out_channels"),
        (lambda: ScaleMaxPool2d()(torch.zeros(1, 1, 2, 5, 6)), "multiples of 2; got 5 x 6"),
        (lambda: GaussianDerivativeConv2d(1, 1, THIRDS)(torch.zeros(1, 1, 2, 5, 5)), r"\(B, 1, 3, H, W\)"),
        (lambda: SESNLiftingConv2d(3, 1)(torch.zeros(1, 1, 5, 5)), r"\(B, 3, H, W\); got \(1, 1, 5, 5\)"),
    ],
)
def test_bad_arguments_are_told(call, says):
    with pytest.raises(ValueError, match=says):
        call()
