"""The steerable U-Net commutes exactly with p4m, before and after training and saving."""

import pytest
import torch
import torch.nn.functional as F

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.unet import UNet


def build(**kwargs):
    return SteerableUNet(3, 2, scalars=2, vectors=2, depth=2, **kwargs).double()


def train(net, x):
    target = (x.mean(1) > 0).long()
    opt = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(3):
        opt.zero_grad()
        F.cross_entropy(net(x), target).backward()
        opt.step()
    return net


@pytest.mark.parametrize(
    ("kwargs", "size"),
    [({}, (16, 16)), ({"nonlinearity": "norm", "kernel_size": 3}, (12, 20)), ({"group": "SO(2)"}, (8, 16))],
)
def test_exactly_equivariant(kwargs, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    net = train(build(**kwargs), x)
    again = build(**kwargs)
    again.load_state_dict(net.state_dict())
    moves = roto_reflections("p4m" if kwargs.get("group") != "SO(2)" else "p4")
    for model in (net, again):
        for training in (False, True):
            errors = [equivariance_error(model, x, t, squared=False, training=training) for t in moves]
            assert max(errors) < 1e-11
    net.eval()
    torch.testing.assert_close(again.eval()(x), net(x))
    assert (net(x)[0] - net(x)[1]).abs().max() > 1e-3


def test_the_plain_net_and_a_wrong_concatenation_are_seen():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    turn = roto_reflections()[1]
    assert equivariance_error(UNet(3, 2, width=4, depth=2).double(), x, turn) > 1e-3
    net = build()
    first = net.merge[0][0]
    forward = first.forward
    # joining packed maps end to end would hand scalars of the skip to vector kernels
    first.forward = lambda v: forward(torch.cat([v[:, :4], v[:, 8:12], v[:, 4:8], v[:, 12:]], 1))
    assert equivariance_error(net, x, turn) > 1e-4


def test_receptive_field_is_what_gradients_reach():
    net = (
        SteerableUNet(1, 1, scalars=1, vectors=1, depth=1, kernel_size=3, nonlinearity="norm").double().eval()
    )
    field = net.summary().receptive_field
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    widest = 0
    for pixel in (32, 33):
        grad = torch.autograd.grad(net(x)[0, 0, pixel, 32], x, retain_graph=False)[0]
        rows = grad[0, 0].abs().sum(1).nonzero()
        widest = max(widest, int(rows.max() - rows.min()) + 1)
    # max-pooling passes one pixel of each window, so the reach of one gradient may fall short by a pixel a side
    assert field - 2 <= widest <= field


def test_sizes_and_arguments():
    net = build()
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.zeros(1, 3, 10, 12, dtype=torch.float64))
    padded = build(pad_to_valid=True)
    x = torch.randn(1, 3, 10, 14, dtype=torch.float64)
    assert padded(x).shape == (1, 2, 10, 14)
    assert max(equivariance_error(padded, x, t, squared=False) for t in roto_reflections()) < 1e-11
    with pytest.raises(ValueError, match="nonlinearity"):
        build(nonlinearity="relu")
    with pytest.raises(ValueError, match="vector"):
        SteerableUNet(3, 2, vectors=0)
    assert "p4m exactly" in str(net.summary())
