"""Networks broken on purpose: each slip that is easily made is seen by the error of the whole network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.models.densenet import P4DenseNet, P4MDenseNet
from equipath.models.gunet import GUNet
from equipath.models.resnet import SREResNet18
from equipath.models.seunet import DISCOUNet, SESNUNet
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.tta import TestTimeAverage
from equipath.models.unet import UNet

EXACT, SEEN = 1e-10, 1e-5


def worst(net, x, training=False):
    moves = roto_reflections(getattr(net, "group", "p4m") if not isinstance(net, SteerableUNet) else "p4m")
    return max(equivariance_error(net, x, move, squared=False, training=training) for move in moves)


def replaced(module, forward):
    module.forward = forward.__get__(module)


def strided(self, x):
    return x[..., ::2, ::2]


def late(self, x):
    return type(self).forward(self, x).roll(1, -1)


def planes_reversed(self, x):
    return type(self).forward(self, x).flip(2)


def first_plane(self, x):
    return x[:, :, 0]


def one_plane(self, x):
    return F.conv2d(x[:, :, 0], self.weight, self.bias, padding=1)


def one_wrong_copy(layer):
    good = layer._expand

    def expand(weight):
        taps = good(weight).clone()
        taps[1] = taps[1].transpose(-1, -2).clone()
        return taps

    layer._expand = expand


def off_centre(self, x):
    new = self.layer(x)
    return self.transition(torch.cat([F.pad(x, (-2, 0, -2, 0)), new], 1))


def corner(self, x):
    return self.head(self._maps(x, 4)[..., 0, 0])


def plain(layer):
    taps = layer.filters.detach().clone()
    taps[..., 0, 0] += taps.abs().max()
    layer.forward = lambda x: F.conv2d(x, taps, padding=layer.padding)


def joined_end_to_end(net):
    first = net.merge[0][0]
    forward = first.forward
    first.forward = lambda v: forward(torch.cat([v[:, :2], v[:, 4:8], v[:, 2:4], v[:, 8:]], 1))


def fewer(net):
    def average(x, act):
        moved = [act(net.model(act(x, a)), net.group.inverse(a)) for a in range(7)]
        return torch.stack(moved).mean(0)

    net._average = average


def not_moved_back(net):
    net._average = lambda x, act: torch.stack([net.model(act(x, a)) for a in (0, 2, 4, 6)]).mean(0)


def moved_back_the_same_way(net):
    net._average = lambda x, act: torch.stack([act(net.model(act(x, a)), a) for a in range(8)]).mean(0)


NETWORKS = {
    "GU-Net": (
        lambda: GUNet(2, 2, 2, 1),
        (2, 2, 12, 12),
        {
            "strided in place of pooled": lambda n: replaced(n.pool, strided),
            "skips with other planes": lambda n: replaced(n.down[0], planes_reversed),
            "up-sampled a pixel late": lambda n: replaced(n.up[0][0], late),
            "one plane for the head": lambda n: replaced(n.head, one_plane),
            "one copy of a filter wrong": lambda n: one_wrong_copy(n.bottleneck[0]),
        },
    ),
    "P4M-DenseNet": (
        lambda: P4MDenseNet(2, 1, 1),
        (1, 2, 96, 96),
        {
            "crop off centre": lambda n: replaced(n.steps[1], off_centre),
            "one plane pooled": lambda n: replaced(n.head[2], first_plane),
            "one copy of the stem wrong": lambda n: one_wrong_copy(n.stem),
        },
    ),
    "P4-DenseNet": (
        lambda: P4DenseNet(2, 1, 1),
        (1, 2, 96, 96),
        {
            "strided in place of pooled": lambda n: replaced(n.steps[0].transition[3], strided),
            "one plane pooled": lambda n: replaced(n.head[2], first_plane),
            "one copy of a filter wrong": lambda n: one_wrong_copy(n.steps[0].layer[2]),
        },
    ),
    "SRE-ResNet18": (
        lambda: SREResNet18(2, 3, 2),
        (2, 2, 16, 24),
        {
            "max-pooling after the stem": lambda n: n.stem.append(nn.MaxPool2d(3, 2, 1)).append(nn.Upsample(scale_factor=2)),
            "strided in place of pooled": lambda n: replaced(n.stages[1][0].pool, strided),
            "a corner in place of the mean": lambda n: setattr(n, "body", corner.__get__(n)),
            "a tap outside the rings": lambda n: plain(n.stages[0][0].conv1),
        },
    ),
    "steerable U-Net": (
        lambda: SteerableUNet(2, 2, 2, 1, 1, kernel_size=3),
        (2, 2, 12, 12),
        {
            "fields joined end to end": joined_end_to_end,
            "ReLU of components": lambda n: n.bottleneck.append(nn.ReLU()),
            "pooled by components": lambda n: n.pool.__setitem__(0, nn.MaxPool2d(2)),
            "up-sampled a pixel late": lambda n: replaced(n.up[0][0], late),
        },
    ),
    "test-time average": (
        lambda: TestTimeAverage(UNet(2, 2, 2, 1)),
        (2, 2, 12, 12),
        {
            "one element left out": fewer,
            "not moved back": not_moved_back,
            "moved the same way twice": moved_back_the_same_way,
        },
    ),
}  # fmt: skip


def seeded(make, x):
    """Random weights; norms with gains and offsets away from 1 and 0, and the statistics of a batch."""
    torch.manual_seed(0)
    net = make().double().train()
    for module in net.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.dim() == 1 and not name.endswith(".x"):
                value.uniform_(0.5, 1.5)
    net(x)  # with gradients, so that no filter is kept
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_breaks_are_seen(name):
    make, shape, breaks = NETWORKS[name]
    x = torch.randn(shape, dtype=torch.float64)
    good = seeded(make, x)
    assert worst(good, x) < EXACT
    with torch.no_grad():
        assert (good(x) - good(x + torch.randn_like(x) / 4)).abs().max() > 1e-4, "it looks at its input"
    assert len(breaks) >= 3
    for label, broken in breaks.items():
        net = seeded(make, x)
        with torch.no_grad():
            broken(net)
        assert worst(net, x) > SEEN, label


def mix(field):
    return field + field.roll(1, 2)


SCALE_BREAKS = {
    "scales mixed before the norm": lambda n: replaced(n.down[0][1], lambda self, x: type(self).forward(self, mix(x))),
    "scales pooled together": lambda n: replaced(n.pool, lambda self, x: mix(type(self).forward(self, x))),
    "skips of another scale": lambda n: replaced(n.down[0], lambda self, x: type(self).forward(self, x).roll(1, 2)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("many", "one"),
    [
        (lambda: DISCOUNet(2, 2, 2, 1, scales=(1, 2, 3)), lambda: DISCOUNet(2, 2, 2, 1, scales=(1,))),
        (
            lambda: SESNUNet(2, 2, 2, 1, scales=(1, 2, 3), kernel_size=9),
            lambda: SESNUNet(2, 2, 2, 1, scales=(1,), kernel_size=3),
        ),
    ],
    ids=["DISCO", "SESN"],
)
def test_scales_of_the_peers_are_networks_of_their_own(many, one):
    """As in SEUNet: alone, the finest scale computes what it computes beside the others."""
    x = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    alone = seeded(one, x)
    with torch.no_grad():
        want = alone.features(x)[:, :, 0]
        assert want.std() > 1e-2

        def error(net):
            net.load_state_dict(alone.state_dict())
            return (net.features(x)[:, :, 0] - want).norm() / want.norm()

        assert error(seeded(many, x)) < EXACT
        for label, broken in SCALE_BREAKS.items():
            net = seeded(many, x)
            broken(net)
            assert error(net) > 1e-3, label
