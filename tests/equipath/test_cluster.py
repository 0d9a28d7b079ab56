"""Clusters of features: what the pipeline keeps, what it leaves out, and that equivariant features turn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from equipath.cluster import (
    ANGLES,
    TissueClusters,
    Turns,
    feature_icc,
    feature_map,
    paint_background,
    tissue_mask,
    turned,
)
from equipath.data.items import IGNORE
from equipath.equivariance import Rotation
from equipath.metrics import icc
from equipath.models.resnet import ResNet18, SREResNet18


class Colours(torch.nn.Module):
    """Features that are the colours themselves, at every second pixel."""

    def features(self, x, layer=4):
        return x[..., ::layer, ::layer]


def three_tissues(size=64, noise=0.02, seed=0):
    """A disc of three sectors of colour on white glass, with the sector of every pixel (-1 on glass)."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    sector = ((np.arctan2(rows, columns) + np.pi) / (2 * np.pi) * 3).astype(int) % 3
    colours = np.array([[0.8, 0.3, 0.5], [0.4, 0.2, 0.7], [0.9, 0.6, 0.3]])
    image = colours[sector]
    glass = rows**2 + columns**2 > (0.45 * size) ** 2
    image[glass] = 0.97
    image = image + np.random.default_rng(seed).normal(0, noise * ~glass[..., None], image.shape)
    return torch.from_numpy(image).permute(2, 0, 1).float().clamp(0, 1), np.where(glass, -1, sector)


def test_glass_is_painted_black_and_tissue_kept():
    image, sector = three_tissues(96)
    painted = paint_background(image)
    kept = tissue_mask(painted).numpy()
    assert (kept == (sector >= 0)).mean() > 0.96
    assert torch.equal(painted[:, kept], image[:, kept])
    assert not painted[:, ~kept].any()
    all_tissue = image[:, 36:60, 36:60]
    assert torch.equal(paint_background(all_tissue), all_tissue)


@pytest.mark.parametrize("side", [8, 9])
def test_turning_agrees_with_the_library_and_comes_back(side):
    x = torch.rand(2, side, side, dtype=torch.float64)
    for angle in (90, 180, -90, 270):
        assert torch.equal(turned(x, angle), Rotation(angle).planar(x))
        assert torch.equal(turned(turned(x, angle), -angle), x)
    labels = torch.arange(side * side).view(side, side)
    assert torch.equal(turned(labels, 450, "nearest"), torch.rot90(labels, 1))
    rotation = Rotation(30, "bilinear")
    inner = rotation.seen(side, side)
    assert torch.allclose(turned(x, 30)[:, inner], rotation.planar(x)[:, inner], atol=1e-12)
    assert float(turned(torch.ones(1, side, side), 30).min()) == pytest.approx(1.0)  # the border is repeated


def test_feature_vectors_have_length_one_on_the_asked_grid():
    torch.manual_seed(0)
    net = SREResNet18(3, 2, 4).eval()
    image = torch.rand(3, 48, 32)
    assert feature_map(net, image).shape == (32, 12, 8)
    maps = feature_map(net, image, layer=2, size=(10, 6))
    assert maps.shape == (8, 10, 6)
    assert torch.allclose(maps.square().sum(0), torch.ones(10, 6), atol=1e-5)
    assert not maps.requires_grad


def test_clusters_find_the_tissues_and_serve_other_pictures():
    image, sector = three_tissues()
    painted = paint_background(image)
    found = TissueClusters.fit(Colours(), [painted], 3, layer=1, size=(64, 64), pixels=300)
    assert found.k == 3
    for seed in (0, 1):
        other, sector = three_tissues(seed=seed)
        labels = found.predict(paint_background(other)).numpy()
        both = (labels != IGNORE) & (sector >= 0)
        assert both.mean() > 0.55
        assert adjusted_rand_score(sector[both], labels[both]) > 0.98
        assert set(np.unique(labels)) == {IGNORE, 0, 1, 2}
    again = TissueClusters.fit(Colours(), [painted], 3, layer=1, size=(64, 64), pixels=300)
    assert torch.equal(found.centers, again.centers)


def test_labels_turned_back_agree_where_features_follow_the_turn():
    image, _ = three_tissues(noise=0.0)
    found = TissueClusters.fit(Colours(), [paint_background(image)], 3, layer=1, size=(64, 64), pixels=300)
    turns = found.over_rotations(paint_background(image))
    assert turns.labels.shape == (12, 64, 64)
    assert turns.features.shape == (12, 3, 1000)
    assert turns.angles == tuple(float(a) for a in ANGLES)
    agreement = turns.agreement()
    assert agreement["kappa"] > 0.95  # sectors' edges are off by a pixel
    assert agreement["dice"] > 0.96
    assert agreement["icc21"] > 0.95
    assert (turns.labels[:, 0, 0] == IGNORE).all()


def test_equivariant_features_give_equal_clusters_under_quarter_turns_and_plain_ones_do_not():
    torch.manual_seed(0)
    image = torch.rand(3, 48, 48, dtype=torch.float64)
    scores = {}
    for net in (SREResNet18(3, 2, 3), ResNet18(3, 2, 3)):
        net = net.double().eval()
        found = TissueClusters.fit(net, [image], 4, pixels=100)
        turns = found.over_rotations(image, (0, 90, 180, 270))
        scores[type(net).__name__] = turns.agreement()
    assert all(scores["SREResNet18"][key] == pytest.approx(1.0, abs=1e-9) for key in scores["SREResNet18"])
    assert scores["ResNet18"]["kappa"] < 0.9
    assert scores["ResNet18"]["icc21"] < 0.9


def test_agreement_is_that_of_the_labels():
    first = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [IGNORE] * 4])
    other = first.clone()
    other[0, 0] = 1  # of 12 pixels one
    turns = Turns((0.0, 30.0), torch.stack([first, other]), torch.rand(2, 3, 40))
    agreement = turns.agreement()
    p_observed, p_chance = 11 / 12, (4 * 3 + 4 * 5 + 4 * 4) / 144
    assert agreement["kappa"] == pytest.approx((p_observed - p_chance) / (1 - p_chance))
    assert agreement["dice"] == pytest.approx(np.mean([6 / 7, 8 / 9, 1]))
    values = turns.features.double()
    assert agreement["icc31"] == pytest.approx(np.mean([icc(values[:, c].T, "ICC(3,1)") for c in range(3)]))


def test_constant_channels_have_no_correlation():
    values = torch.rand(3, 2, 20)
    dead = torch.cat([values, torch.zeros(3, 1, 20)], 1)
    assert feature_icc(dead) == pytest.approx(feature_icc(values))
    with pytest.raises(ValueError, match="every channel is constant"):
        feature_icc(torch.zeros(3, 1, 20))


def test_errors_at_the_door():
    net = SREResNet18(3, 2, 2).eval()
    picture = torch.rand(3, 16, 24)
    with pytest.raises(ValueError, match="no pictures"):
        TissueClusters.fit(net, [])
    with pytest.raises(ValueError, match="glass or black"):
        TissueClusters.fit(net, [torch.zeros(3, 16, 16)])
    flat = torch.full((3, 16, 16), 0.5)
    with pytest.raises(ValueError, match="layer 1 of Colours tells 1 kinds of pixel apart, too few for 2"):
        TissueClusters.fit(Colours(), [flat], 2, layer=1)
    with pytest.raises(ValueError, match="only square maps"):
        TissueClusters(net, torch.rand(2, 16)).over_rotations(picture)
    with pytest.raises(ValueError, match="begin with 0"):
        TissueClusters(net, torch.rand(2, 16)).over_rotations(picture, (30, 60))
    with pytest.raises(ValueError, match=r"a picture is \(3, H, W\)"):
        feature_map(net, picture[None])
