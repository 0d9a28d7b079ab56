"""The small U-Net of lesson 1: its tiles are reproducible, its training learns, its stored weights work."""

import pytest
import torch

from equipath.equivariance import Rotation, equivariance_error
from equipath.experiments import first_unet
from equipath.losses import dice_cross_entropy


def test_tiles_are_the_same_every_time_and_hold_the_classes():
    images, targets = first_unet.gland_tiles(3, size=32, seed=5)
    again, _ = first_unet.gland_tiles(3, size=32, seed=5)
    other, _ = first_unet.gland_tiles(3, size=32, seed=600)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert set(targets.unique().tolist()) <= {0, 1, 2}
    assert ((targets > 0).float().mean((1, 2)) > 0.05).all()
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


@pytest.mark.slow
def test_training_lowers_the_loss_and_ends_in_eval_mode():
    images, targets = first_unet.gland_tiles(2, size=32, seed=5)
    net = first_unet.small_unet()
    losses = list(first_unet.train(net, images, targets, dice_cross_entropy, steps=25, batch=2))
    assert len(losses) == 25
    assert losses[-1] < 0.8 * losses[0]
    assert not net.training


@pytest.mark.slow
def test_the_stored_weights_find_glands_on_new_slides_and_flicker():
    net = first_unet.trained_unet()
    images, targets = first_unet.gland_tiles(4, seed=first_unet.TEST_SEEDS + 500)
    with torch.no_grad():
        decision = net(images).argmax(1)
    assert (decision == targets).float().mean() > 0.85
    assert equivariance_error(net, images, Rotation(90), squared=False) > 0.01
    assert first_unet.weights_path().stat().st_size < 1_000_000
