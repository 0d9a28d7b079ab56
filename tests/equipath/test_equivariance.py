"""Transforms move fields as they say, and the error tells an equivariant model from one that is not."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from equipath.equivariance import (
    Reflection,
    Rotation,
    RotoReflection,
    Scaling,
    Shift,
    equivariance_error,
    error_matrix,
    pair_ratios,
    roto_reflections,
    stability_map,
)
from equipath.groups import P4, P4M
from equipath.models.tta import TestTimeAverage


def smooth(batch=2, channels=3, height=48, width=48, seed=0, sigma=3.0):
    noise = np.random.default_rng(seed).normal(size=(batch, channels, height, width))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, sigma, sigma)) * 10 + 1)


def net(seed=0, **kw):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, **kw), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ).double()


# ---- transforms ----


@pytest.mark.parametrize("angle", [90, -90, 180, 270, 450])
def test_quarter_turns_are_exact(angle):
    x = torch.randn(2, 3, 5, 7)
    turn = Rotation(angle)
    assert turn.exact
    assert torch.equal(turn.planar(x), torch.rot90(x, angle // 90, (-2, -1)))
    assert torch.equal(turn.inverse().planar(turn.planar(x)), x)
    assert turn.budget(x) == 0


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_rotation_agrees_with_scipy_and_turns_counter_clockwise(mode):
    x = smooth(1, 1, 41, 41)
    turn = Rotation(30, mode)
    ours = turn.planar(x)[0, 0].numpy()
    theirs = ndimage.rotate(x[0, 0].numpy(), 30, reshape=False, order=3)
    seen = turn.seen(41, 41, 3).numpy()
    assert np.abs(ours - theirs)[seen].max() < 0.06 * np.abs(theirs[seen]).max()
    # and it continues the quarter turns: three times 30° is one rot90
    thrice = turn.planar(turn.planar(turn.planar(x)))
    quarter = torch.rot90(x, 1, (-2, -1))
    inner = torch.from_numpy(turn.seen(41, 41, 6).numpy())
    assert (thrice - quarter)[..., inner].abs().max() < 0.1 * quarter.abs().max()


def test_rotation_of_non_square_pictures_keeps_pixels_square():
    x = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    x[0, 0, 10, 26] = 1  # six pixels to the right of the centre
    y = Rotation(60, "bilinear").planar(x)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(41.0), indexing="ij")
    up, right = 10 - (y * rows).sum() / y.sum(), (y * columns).sum() / y.sum() - 20
    assert math.isclose(float(right), 6 * math.cos(math.pi / 3), abs_tol=0.3)
    assert math.isclose(float(up), 6 * math.sin(math.pi / 3), abs_tol=0.3)


def test_budget_falls_with_smoothness_and_bounds_nothing_exact():
    turn = Rotation(20)
    assert 0 < turn.budget(smooth(sigma=4)) < turn.budget(smooth(sigma=1)) < 0.5
    assert turn.budget(smooth(), squared=False) > turn.budget(smooth())
    assert 0 < Scaling(0.5).budget(smooth()) < 0.05


def test_masks_get_no_new_values():
    mask = torch.randint(0, 3, (2, 31, 31)) * 7
    for transform in (Rotation(25), Scaling(1.5), Scaling(0.6), Shift(2, 3, wrap=False), Reflection()):
        moved = transform.mask(mask)
        assert moved.dtype == mask.dtype
        assert set(moved.unique().tolist()) <= {0, 7, 14}


def test_vectors_turn_with_the_picture():
    """The gradient of a smooth picture, turned by any angle, is the gradient of the turned picture."""

    def gradient(x):
        right = (torch.roll(x, -1, -1) - torch.roll(x, 1, -1)) / 2
        up = (torch.roll(x, 1, -2) - torch.roll(x, -1, -2)) / 2
        return torch.stack([right, up], 2)

    x = smooth(sigma=6)
    for angle in (40, 90, -70):
        assert equivariance_error(gradient, x, Rotation(angle), output_field="vector", border=4) < 0.02
        assert equivariance_error(gradient, x, Rotation(angle), output_field="scale", border=4) > 0.3


def test_scaling_sizes_and_inverse():
    x = smooth(1, 1, 40, 60)
    big = Scaling(1.5)
    assert big.planar(x).shape == (1, 1, 60, 90)
    assert big.inverse().planar(big.planar(x)).shape == x.shape
    assert torch.equal(Scaling(1).planar(x), x)


def test_shift_with_zeros_and_wrap():
    x = torch.arange(12.0).reshape(3, 4)
    assert Shift(1, 0).planar(x)[0].tolist() == [8, 9, 10, 11]
    assert Shift(1, -1, wrap=False).planar(x).tolist() == [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]


def test_regular_fields():
    four, eight = torch.randn(1, 2, 4, 5, 5), torch.randn(1, 2, 8, 5, 5)
    assert torch.equal(Rotation(90).regular(four), P4.act_regular(four, 1))
    assert torch.equal(Rotation(90).regular(eight), P4M.act_regular(eight, 1))
    assert torch.equal(Reflection().regular(eight), P4M.act_regular(eight, 4))
    with pytest.raises(ValueError, match="reflections need 8"):
        Reflection().regular(four)
    with pytest.raises(ValueError, match="multiple of 90°"):
        Rotation(45).regular(four)


# ---- the error ----


def test_error_is_eq_10_by_hand():
    x, model = smooth(3), net()
    with torch.no_grad():
        a, b = torch.rot90(model(x), 1, (-2, -1)), model(torch.rot90(x, 1, (-2, -1)))
    ratios = [float(((p - q) ** 2).sum() / (p**2).sum()) for p, q in zip(a, b, strict=True)]
    assert math.isclose(equivariance_error(model, x, Rotation(90)), np.mean(ratios), rel_tol=1e-12)
    unsquared = equivariance_error(model, x, Rotation(90), squared=False)
    assert math.isclose(unsquared, np.mean(np.sqrt(ratios)), rel_tol=1e-12)
    assert unsquared > 0.01


def test_convolution_commutes_with_shifts_only():
    x = smooth()
    circular = net(padding_mode="circular")[0]
    assert equivariance_error(circular, x, Shift(5, -3), squared=False) < 1e-14
    assert equivariance_error(circular, x, Rotation(90), squared=False) > 0.01
    padded = net()
    assert equivariance_error(padded, x, Shift(5, -3, wrap=False), squared=False) > 1e-3
    assert equivariance_error(padded, x, Shift(5, -3, wrap=False), squared=False, border=2) < 1e-14


def test_stride_moves_the_output_less():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 3, stride=2, padding=1, padding_mode="circular").double()
    assert equivariance_error(model, smooth(), Shift(4, 2, stride=2), squared=False) < 1e-14
    with pytest.raises(ValueError, match="no multiple"):
        Shift(3, 2, stride=2)


def test_batch_norm_and_mode_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).double()
    model[2].eval()
    equivariance_error(model, smooth(), Rotation(90))
    assert model[1].num_batches_tracked == 0
    assert (model.training, model[1].training, model[2].training) == (True, True, False)


@pytest.mark.parametrize("name", ["p4", "p4m"])
@pytest.mark.parametrize("size", [(24, 24), (23, 31)])
def test_test_time_average_is_exact_for_any_network(name, size):
    x = smooth(2, 3, *size)
    plain, averaged = net(), TestTimeAverage(net(), name)
    pooled = nn.Sequential(net(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    invariant = TestTimeAverage(pooled, name, output="invariant", activation=torch.sigmoid)
    group = {"p4": P4, "p4m": P4M}[name]
    assert averaged(x).shape == (2, 2, *size)
    assert averaged(x).std() > 1e-2
    for move in roto_reflections(group)[1:]:
        assert equivariance_error(averaged, x, move, squared=False) < 1e-14
        assert equivariance_error(invariant, x, move, squared=False) < 1e-14
        assert equivariance_error(plain, x, move, squared=False) > 1e-3
    if name == "p4":
        assert equivariance_error(averaged, x, Reflection(), squared=False) > 1e-3


def test_stability_map_is_zero_for_equivariant_models_only():
    x = smooth()
    mean, std = stability_map(TestTimeAverage(net()), x)
    assert std.max() < 1e-13
    plain_mean, plain_std = stability_map(net(), x, activation=torch.sigmoid)
    assert plain_std.max() > 1e-3
    with torch.no_grad():
        copies = [P4M.act(torch.sigmoid(net()(P4M.act(x, a))), P4M.inverse(a)) for a in range(8)]
    torch.testing.assert_close(plain_mean, torch.stack(copies).mean(0))
    torch.testing.assert_close(plain_std, torch.stack(copies).std(0, correction=0))
    assert mean.shape == (2, 2, 48, 48)


def test_stability_map_over_small_rotations_marks_what_left_the_picture():
    mean, std = stability_map(lambda x: x, smooth(sigma=6), [Rotation(90 * k / 8) for k in range(8)])
    assert mean[0, 0, 0, 0].isnan()
    assert std[0, 0, 0, 0].isnan()
    assert std[..., 10:38, 10:38].max() < 0.05


def test_error_matrix_finds_the_matching_scale():
    """Gaussian blurs at σ = 1, 2, 4: enlarged twofold, plane k must match plane k + 1 (SEUNet, eq. 12)."""

    def blurs(x):
        planes = [ndimage.gaussian_filter(x.numpy(), (0, 0, s, s)) for s in (1.0, 2.0, 4.0)]
        return torch.from_numpy(np.stack(planes, 2))

    x = smooth(sigma=1.0) - 1
    matrix = error_matrix(blurs, x, Scaling(2), border=8)
    assert matrix.shape == (3, 3)
    assert matrix[0].argmin() == 1
    assert matrix[1].argmin() == 2
    assert matrix[0, 1] < 0.2 * matrix[0, 0]
    one = float(((blurs(x)[:, :, 0] - blurs(x)[:, :, 2]) ** 2).flatten(1).sum(1)[0])
    assert one > 0
    assert error_matrix(blurs, x, Scaling(1)).diagonal().tolist() == [0, 0, 0]


def test_error_matrix_leaves_out_the_pictures_on_which_a_plane_is_silent():
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)

    def features(y):
        planes = torch.stack([y, y.flip(-1)], 2)
        planes[1:2, :, 0] = 0
        return planes

    ratios = pair_ratios(features(x), features(x))
    assert ratios.shape == (3, 2, 2)
    assert ratios.isnan().tolist() == [[[False] * 2] * 2, [[True] * 2, [False] * 2], [[False] * 2] * 2]
    want = float(((x - x.flip(-1)).square().sum((1, 2, 3)) / x.square().sum((1, 2, 3)))[[0, 2]].mean())
    matrix = error_matrix(features, x, RotoReflection(0))
    assert matrix[0].tolist() == pytest.approx([0, want], rel=1e-12)
    with pytest.raises(ValueError, match="zero everywhere"):
        error_matrix(features, torch.zeros_like(x), RotoReflection(0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        error_matrix(features, x / 0, RotoReflection(0))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: equivariance_error(lambda t: t * 0, x, Rotation(90)), "zero everywhere"),
        (lambda x: equivariance_error(lambda t: t[None], x, Rotation(90)), "Give output_field"),
        (lambda x: equivariance_error(lambda t: t, x, Rotation(90), border=30), "no pixel"),
        (lambda x: equivariance_error(lambda t: t[..., :40, :40], x, Scaling(2)), "whole output pixels"),
        (lambda x: equivariance_error(lambda t: t, x, Rotation(90), border=-1), "at least 0; got -1"),
        (lambda x: equivariance_error(lambda t: t, x[:0], Rotation(90)), "at least one picture"),
        (lambda x: Rotation(10, "cubic"), "'bicubic'"),
        (lambda x: Scaling(0), "positive"),
        (lambda x: Shift(1.5), "whole pixels"),
        (lambda x: Reflection("up"), "left-right"),
        (lambda x: RotoReflection(9), "0 to 7"),
        (lambda x: stability_map(net(), x, []), "empty"),
        (lambda x: TestTimeAverage(net(), output="vector"), "planar"),
        (lambda x: Rotation(90).move(x, "scalar"), "the choices are"),
    ],
)
def test_errors_at_the_door(call, says):
    with pytest.raises(ValueError, match=says):
        call(smooth())


def test_answers_that_are_no_tensor_are_told_and_labels_have_a_spread_too():
    x = smooth()
    for measure in (lambda f, x: equivariance_error(f, x, Reflection()), stability_map):
        with pytest.raises(TypeError, match="returns dict; give a function"):
            measure(lambda t: {"out": t}, x)
        with pytest.raises(TypeError, match="got ndarray"):
            measure(lambda t: t, x.numpy())
    mean, spread = stability_map(lambda t: t > t.mean(), x)
    torch.testing.assert_close(mean, (x > x.mean()).double())
    assert spread.max() == 0


def test_a_network_that_answers_nan_is_told_apart_from_one_that_answers_zero():
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="NaN or infinity"):
        equivariance_error(lambda v: v / 0, x, Reflection())
    with pytest.raises(ValueError, match="zero everywhere"):
        equivariance_error(lambda v: v * 0, x, Reflection())
