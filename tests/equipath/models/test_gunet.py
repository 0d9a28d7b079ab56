"""GU-Net and the DenseNets: exact as whole networks, random and trained, and what they claim in numbers."""

import pytest
import torch

from equipath.equivariance import Reflection, equivariance_error, roto_reflections, stability_map
from equipath.groups import P4M
from equipath.kernels.evaluate import prefer
from equipath.models.densenet import DenseNet, GroupDenseNet, P4DenseNet, P4MDenseNet
from equipath.models.gunet import GUNet
from equipath.models.summary import count_parameters
from equipath.models.unet import UNet

EXACT = 1e-12


def worst(model, x, name, training=False):
    return max(
        equivariance_error(model, x, move, squared=False, training=training)
        for move in roto_reflections(name)
    )


def trained(model, x, steps=3):
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(steps):
        y = model(x)
        target = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        optimiser.zero_grad()
        (y - target).square().mean().backward()
        optimiser.step()
    return model.eval()


def gunet(name, pooling, **kw):
    torch.manual_seed(0)
    return GUNet(2, 3, 2, 2, group=name, pooling=pooling, **kw).double()


@pytest.mark.parametrize("name", ["p4", "p4m"])
@pytest.mark.parametrize(("pooling", "size"), [(2, (16, 16)), (2, (12, 20)), (3, (17, 17)), (3, (13, 21))])
def test_gunet_is_exact(name, pooling, size):
    net, x = gunet(name, pooling), torch.randn(2, 2, *size, dtype=torch.float64)
    assert worst(net, x, name, training=True) < EXACT
    trained(net, x)
    assert worst(net, x, name) < EXACT
    with torch.no_grad():
        assert net(x).std((2, 3)).min() > 1e-3
    again = gunet(name, pooling)
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net(x))
    if name == "p4":
        assert equivariance_error(net, x, Reflection(), squared=False) > 1e-3
    with prefer("fourier"):
        assert worst(net, x, name) < EXACT


def test_plain_unet_is_not():
    torch.manual_seed(0)
    net, x = UNet(2, 3, 4, 2).double(), torch.randn(2, 2, 16, 16, dtype=torch.float64)
    assert worst(trained(net, x), x, "p4") > 1e-2


def test_a_wrong_size_is_refused_because_it_would_not_be_exact():
    net = gunet("p4m", 3)
    with pytest.raises(ValueError, match="N = 1 modulo 4"):
        net(torch.zeros(1, 2, 16, 16, dtype=torch.float64))
    # pad_to_valid answers at any size; exact where the padding can be centred, and it says where that is.
    padded = gunet("p4m", 3, pad_to_valid=True).eval()
    for size, centred in (((15, 19), True), ((16, 17), False)):
        x = torch.randn(1, 2, *size, dtype=torch.float64)
        assert padded(x).shape[-2:] == size
        assert padded.sizes.keeps_centre(*size) is centred
        assert (worst(padded, x, "p4m") < EXACT) is centred


def test_stability_is_rounding_error():
    net = gunet("p4m", 2)
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    _, std = stability_map(net, x, "p4m", activation=torch.sigmoid)
    assert std.max() < 1e-13


@pytest.mark.parametrize("name", ["p4", "p4m"])
def test_parameters_match_the_plain_network(name):
    plain = count_parameters(UNet(3, 1, 48, 3))
    ours = count_parameters(GUNet(3, 1, {"p4": 24, "p4m": 17}[name], 3, group=name))
    assert 0.9 < ours / plain < 1.1
    assert f"{ours:,}" in str(GUNet(3, 1, {"p4": 24, "p4m": 17}[name], 3, group=name).summary())


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_parameter_learns(norm):
    net = gunet("p4", 3, norm=norm)
    net(torch.randn(2, 2, 17, 17, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for n, p in net.named_parameters() if "weight" in n)


def test_receptive_field_is_what_gradients_reach():
    net = GUNet(1, 1, 1, 2, group="p4", pooling=2, norm="none").double()
    net.pool = torch.nn.AvgPool3d((1, 2, 2))
    for p in net.parameters():
        torch.nn.init.constant_(p, 0.1)
    reached = 0
    for row in range(30, 34):
        x = torch.ones(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
        net(x)[0, 0, row, 32].backward()
        rows = (x.grad.abs().sum((0, 1, 3)) > 0).nonzero()
        reached = max(reached, int(rows.max() - rows.min()) + 1)
    assert net.summary().receptive_field == reached


@pytest.mark.slow
def test_gunet_compiles_without_a_graph_break():
    net = GUNet(1, 1, 1, 1, group="p4").eval()
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(P4DenseNet, "p4"), (P4MDenseNet, "p4m")])
@pytest.mark.parametrize("dense", [False, True])
def test_densenet_is_exact(kind, name, dense):
    torch.manual_seed(0)
    net = kind(2, 3, 1, dense=dense).double()
    x = torch.randn(2, 2, 96, 128 if dense else 96, dtype=torch.float64)
    trained(net, x, 2)
    with torch.no_grad():
        y = net(x)
    assert y.shape == ((2, 3, 1, 2) if dense else (2, 3))
    assert y.std() > 1e-2
    assert worst(net, x, name) < EXACT
    assert worst(net, x, name, training=True) < 1e-10


def test_plain_densenet_is_not_and_a_map_is_the_patches_answers():
    torch.manual_seed(0)
    net = DenseNet(2, 1, 4, dense=True).double().eval()
    x = torch.randn(1, 2, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        y = net(x)
        for k in range(3):  # fully convolutional: each answer is that of its own 96² patch
            torch.testing.assert_close(y[..., k : k + 1], net(x[..., 32 * k : 32 * k + 96]))
        net.dense = False
        torch.testing.assert_close(net(x), y.mean((2, 3)))
        net.dense = True
    assert worst(net, x, "p4") > 1e-3
    with pytest.raises(ValueError, match="multiples of 32"):
        net(torch.zeros(1, 2, 97, 96, dtype=torch.float64))


@pytest.mark.parametrize(
    ("net", "thousands"),
    [
        (lambda: P4MDenseNet(), 116),
        (lambda: P4MDenseNet(growth=3), 16),
        (lambda: P4DenseNet(), 130),
        (lambda: DenseNet(), 130),
        (lambda: DenseNet(growth=64), 924),
    ],
)
def test_published_sizes(net, thousands):
    """Filter weights, without norms and biases, as the paper's table 1 is read here."""
    weights = sum(p.numel() for n, p in net().named_parameters() if p.dim() > 1)
    assert abs(weights / 1000 - thousands) < 1
    assert net().summary().receptive_field == 96


def test_densenet_receptive_field_by_gradient():
    net = DenseNet(1, 1, 2, dense=True).double().eval()
    for p in net.parameters():  # all positive, so that no ReLU hides a pixel
        torch.nn.init.constant_(p, 0.1)
    x = torch.ones(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, 1, 1].backward()
    seen = x.grad[0, 0].abs() > 0
    assert not seen[:32].any()
    assert not seen[128:].any()
    assert seen[32:128, 32:128].all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GUNet(3, 1, 0), "width"),
        (lambda: GUNet(3, 1, norm="group"), "'batch' and 'none'"),
        (lambda: GUNet(3, 1, group="p5"), "'p4' and 'p4m'"),
        (lambda: GroupDenseNet(growth=0), "growth"),
        (lambda: DenseNet(0), "in_channels"),
    ],
)
def test_constructors_say_what_they_want(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_default_width_is_the_plain_one_over_the_root_of_the_group():
    assert GUNet(3, 1, depth=1).head.in_channels == 6
    assert GUNet(3, 1, depth=1, group="p4").head.in_channels == 8
    assert GUNet(3, 1, depth=1).group is P4M
