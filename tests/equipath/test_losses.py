"""Losses against their formulas, written out, and against torchmetrics."""

import math

import pytest
import torch

from equipath.data.items import IGNORE
from equipath.losses import dice_cross_entropy, dice_loss, scale_head_loss, scale_weights


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.randint(0, 3, (2, 8, 9))


def test_dice_by_hand(batch):
    logits, target = batch
    p = logits.softmax(1)
    scores = []
    for k in range(3):
        t = (target == k).double()
        scores.append((2 * (p[:, k] * t).sum() + 1) / (p[:, k].sum() + t.sum() + 1))
    torch.testing.assert_close(dice_loss(logits, target), 1 - torch.stack(scores).mean())


def test_dice_bounds():
    target = torch.randint(0, 2, (2, 16, 16))
    right = torch.stack([1.0 - target, 1.0 * target], 1) * 100
    assert dice_loss(right, target) < 1e-6
    assert dice_loss(-right, target) > 0.95
    binary = (target[:, None] * 2.0 - 1) * 100
    assert dice_loss(binary, target) < 1e-6
    assert dice_loss(binary, target[:, None].bool()) < 1e-6
    assert dice_loss(-binary, target) > 0.95


def test_two_softmax_classes_agree_with_one_sigmoid_in_cross_entropy():
    torch.manual_seed(1)
    z, target = torch.randn(2, 1, 5, 6), torch.randint(0, 2, (2, 5, 6))
    two = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(
        dice_cross_entropy(z, target, dice_weight=0.0), dice_cross_entropy(two, target, dice_weight=0.0)
    )


def test_ignored_pixels_count_nowhere(batch):
    logits, target = batch
    cut, marked = logits[..., :7], target.clone()
    marked[..., 7:] = 255
    for loss in (dice_loss, dice_cross_entropy):
        torch.testing.assert_close(loss(logits, marked, ignore_index=255), loss(cut, target[..., :7]))
    z, mask = logits[:, :1], (marked > 0).long()
    mask[..., 7:] = 255
    for loss in (dice_loss, dice_cross_entropy):
        torch.testing.assert_close(loss(z, mask, ignore_index=255), loss(z[..., :7], mask[..., :7]))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)])
def test_unknown_pixels_of_a_data_set_count_nowhere_without_being_named(batch, weights):
    """-100 is what `equipath.data` marks them with, and torch's own default."""
    logits, target = batch
    marked = target.clone()
    marked[..., 7:] = IGNORE
    got = dice_cross_entropy(logits, marked, class_weights=weights)
    torch.testing.assert_close(
        got, dice_cross_entropy(logits[..., :7], target[..., :7], class_weights=weights)
    )
    oracle = torch.nn.functional.cross_entropy(logits, marked, weight=weights)
    torch.testing.assert_close(
        dice_cross_entropy(logits, marked, class_weights=weights, dice_weight=0.0), oracle
    )
    free = logits.clone().requires_grad_()
    none = dice_cross_entropy(free, torch.full_like(target, IGNORE), class_weights=weights)
    assert none == 0  # nothing known, nothing learnt, and no NaN in the weights
    none.backward()
    assert torch.equal(free.grad, torch.zeros_like(free))
    assert scale_head_loss(logits[:, :, None], torch.full_like(target, IGNORE), torch.zeros(1).double()) == 0
    masks = (target > 0).to(torch.uint8)
    torch.testing.assert_close(
        dice_cross_entropy(logits[:, :1], masks), dice_cross_entropy(logits[:, :1], masks.long())
    )


def test_per_image_is_the_mean_over_pictures(batch):
    logits, target = batch
    each = torch.stack([dice_loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(dice_loss(logits, target, per_image=True), each.mean())


def test_gradients(batch):
    logits, target = batch
    small, cut = logits[:1, :, :2, :3].clone().requires_grad_(), target[:1, :2, :3]
    assert torch.autograd.gradcheck(lambda z: dice_cross_entropy(z, cut), (small,))


def test_bfloat16_sums_in_float32():
    logits, target = torch.zeros(1, 1, 256, 256, dtype=torch.bfloat16), torch.zeros(1, 256, 256)
    assert dice_loss(logits, target).dtype == torch.float32
    assert math.isclose(dice_loss(logits, target).item(), 1 - 1 / (0.5 * 256 * 256 + 1), rel_tol=1e-6)


def test_scale_weights_eq_9():
    eta = torch.tensor([0.3, -2.0, 50.0, 0.0, 1.0], dtype=torch.float64)
    soft = eta.softmax(0)
    torch.testing.assert_close(scale_weights(eta), (soft + 0.2) / (soft + 0.2).sum())
    assert scale_weights(eta).min() >= 0.1
    assert scale_weights(eta).max() <= 0.6
    torch.testing.assert_close(scale_weights(torch.zeros(5)), torch.full((5,), 0.2))


def test_scale_head_loss_eq_8(batch):
    _, target = batch
    torch.manual_seed(2)
    logits, eta = torch.randn(2, 3, 4, 8, 9, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    each = []
    for k in range(4):
        p = logits[:, :, k].softmax(1).gather(1, target[:, None])
        each.append(-p.log().mean())
    torch.testing.assert_close(
        scale_head_loss(logits, target, eta), (scale_weights(eta) * torch.stack(each)).sum()
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z, t: dice_loss(z[0], t), "B, K, H, W"),
        (lambda z, t: dice_loss(z, t[:, :4]), "want a target"),
        (lambda z, t: scale_head_loss(z[:, :, None], t, torch.zeros(2)), "S = 2"),
        (lambda z, t: scale_weights(torch.zeros(2, 2)), "one number a scale"),
    ],
)
def test_errors(batch, call, says):
    with pytest.raises(ValueError, match=says):
        call(*batch)
