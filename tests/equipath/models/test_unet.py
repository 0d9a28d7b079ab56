"""The plain U-Net: shapes, sizes, receptive field measured, and equivariance to no more than it claims."""

import pytest
import torch

from equipath.equivariance import Rotation, Shift, equivariance_error
from equipath.models.unet import UNet


def small(seed=0, **kw):
    torch.manual_seed(seed)
    return UNet(**{"in_channels": 2, "out_channels": 3, "width": 4, "depth": 2, **kw})


@pytest.mark.parametrize(("pooling", "sizes"), [(2, (16, 20)), (3, (17, 21))])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_shapes_and_gradients(pooling, sizes, norm):
    net = small(pooling=pooling, norm=norm)
    y = net(torch.randn(2, 2, *sizes))
    assert y.shape == (2, 3, *sizes)
    y.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if "weight" in n
    )


@pytest.mark.parametrize(("pooling", "bad", "good"), [(2, 18, 20), (3, 18, 21)])
def test_size_contract(pooling, bad, good):
    with pytest.raises(ValueError, match=f"18 x 18.*{good} x {good}.*pad_to_valid"):
        small(pooling=pooling)(torch.zeros(1, 2, bad, bad))
    padded = small(pooling=pooling, pad_to_valid=True).eval()
    assert padded(torch.zeros(1, 2, bad, 13)).shape == (1, 3, bad, 13)
    x = torch.randn(1, 2, good, good)
    with torch.no_grad():
        torch.testing.assert_close(padded(x), small(pooling=pooling).eval()(x))


@pytest.mark.parametrize(("pooling", "size"), [(2, 64), (3, 65)])
@pytest.mark.parametrize("head", [1, 3])
def test_receptive_field_is_what_gradients_reach(pooling, size, head):
    net = small(pooling=pooling, norm="none", head_kernel_size=head).double()
    net.pool = torch.nn.AvgPool2d(
        net.pool.kernel_size, 2, net.pool.padding
    )  # so that all of the window counts
    for p in net.parameters():
        torch.nn.init.constant_(p, 0.1)
    reached = 0
    for row in range(28, 36):
        x = torch.ones(1, 2, size, size, dtype=torch.float64, requires_grad=True)
        net(x)[0, 0, row, 32].backward()
        rows = (x.grad.abs().sum((0, 1, 3)) > 0).nonzero()
        reached = max(reached, int(rows.max() - rows.min()) + 1)
    assert net.summary().receptive_field == reached


def test_equivariance_is_what_the_summary_says():
    net, x = small(norm="batch").double(), torch.randn(2, 2, 96, 96, dtype=torch.float64)
    assert equivariance_error(net, x, Shift(4, -8, wrap=False), border=34, squared=False) < 1e-12
    assert equivariance_error(net, x, Shift(1, 0, wrap=False), border=34, squared=False) > 1e-6
    assert equivariance_error(net, x, Rotation(90), squared=False) > 1e-2
    text = str(net.summary())
    assert "multiples of 4" in text
    assert f"{sum(p.numel() for p in net.parameters()):,}" in text


def test_default_sizes_are_the_papers():
    assert UNet(3, 1, pooling=3).sizes.accepts(321)
    assert not UNet(3, 1, pooling=3).sizes.accepts(320)
    assert UNet(3, 1).sizes.accepts(96)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"width": 0}, "width as a whole number from 1 up; got 0"),
        ({"width": 2.5}, "width as a whole number from 1 up; got 2.5"),
        ({"depth": 0}, "depth as a whole number from 1 up"),
        ({"pooling": 4}, "2 or 3"),
        ({"norm": "layer"}, "'group'"),
        ({"head_kernel_size": 2}, "odd"),
    ],
)
def test_constructor_says_what_it_wants(bad, says):
    with pytest.raises(ValueError, match=says):
        small(**bad)


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    net = small().eval()
    x = torch.randn(1, 2, 16, 16)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
