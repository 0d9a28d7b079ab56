"""Whole networks under ``torch.func``: gradients of each sample and forward derivatives, against ordinary backward
passes."""

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

from equipath.models.densenet import P4DenseNet
from equipath.models.gunet import GUNet
from equipath.models.resnet import SREResNet18
from equipath.models.seunet import SEUNet
from equipath.models.steerable_unet import SteerableUNet

NETWORKS = {
    "GUNet": (lambda: GUNet(3, 2, 2, 1), 6),
    "SteerableUNet": (lambda: SteerableUNet(3, 2, 1, 1, 1, kernel_size=3), 6),
    "SEUNet": (lambda: SEUNet(3, 2, 2, 2, 1), 8),
    "SREResNet18": (lambda: SREResNet18(3, 2, 2), 8),
    "P4DenseNet": (lambda: P4DenseNet(growth=2), 96),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    net = make().double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    net(x)
    net.eval()
    weights = {n: w.detach() for n, w in net.named_parameters()}

    def energy(w, one):
        return functional_call(net, w, (one[None],)).square().sum()

    found = vmap(grad(energy), (None, 0))(weights, x)
    for n in range(2):
        net.zero_grad()
        net(x[n : n + 1]).square().sum().backward()
        for key, w in net.named_parameters():
            want = torch.zeros_like(w) if w.grad is None else w.grad  # SEUNet's weights of its losses
            torch.testing.assert_close(found[key][n], want, rtol=1e-8, atol=1e-8)
    direction = torch.randn_like(x)
    _, want = torch.autograd.functional.jvp(net, x, direction)
    torch.testing.assert_close(jvp(net, (x,), (direction,))[1], want, rtol=1e-8, atol=1e-8)
