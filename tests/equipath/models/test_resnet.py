"""SRE-ResNet18 against the public network weight for weight, and exactly invariant to p4m."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.kernels.evaluate import prefer
from equipath.models.resnet import ResNet18, SREResNet18

GOLDEN = Path(__file__).parents[2] / "golden" / "sre.npz"


def rename(name: str) -> str:
    """From the public network's parameter names to ours."""
    top, *rest = name.split(".")
    if top in ("conv1", "bn1"):
        return ".".join(["stem", "0" if top == "conv1" else "1", *rest])
    if top == "fc":
        return ".".join(["head", *rest])
    stage, block = int(top.removeprefix("layer")) - 1, rest[0]
    layer, *rest = rest[1:]
    if layer == "downsample":  # (pool, convolution, norm): ours pools before the block
        return ".".join([f"stages.{stage}.{block}.shortcut", str(int(rest[0]) - 1), *rest[1:]])
    if layer == "conv1" and rest[0] == "1":  # (pool, convolution)
        rest = rest[1:]
    return ".".join([f"stages.{stage}.{block}", layer.replace("bn", "norm"), *rest])


@pytest.mark.parametrize("how", [None, "expand", "factor"])
def test_same_numbers_as_the_public_network(how):
    with np.load(GOLDEN) as data:
        prefix = "resnet.state."
        state = {rename(k[len(prefix) :]): torch.from_numpy(data[k]) for k in data if k.startswith(prefix)}
        x, y = torch.from_numpy(data["resnet.x"]), torch.from_numpy(data["resnet.y"])
    net = SREResNet18(width=4).double().eval()
    net.load_state_dict(state)
    with prefer(how):
        torch.testing.assert_close(net(x), y, rtol=0, atol=1e-11)


def trained(net, x):
    opt = torch.optim.SGD(net.parameters(), 0.02)
    for step in range(3):
        opt.zero_grad()
        F.cross_entropy(net(x), torch.tensor([step, 2])).backward()
        opt.step()
    return net.eval()


@pytest.mark.parametrize(("size", "training"), [((24, 24), False), ((16, 32), True)])
def test_exactly_invariant_features_exactly_equivariant(size, training):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    net = trained(SREResNet18(width=4).double(), x)
    again = SREResNet18(width=4).double().eval()
    again.load_state_dict(net.state_dict())
    for model in (net, again):
        model.train(training)
        for t in roto_reflections():
            assert equivariance_error(model, x, t, squared=False) < 1e-12
            for layer in (1, 4):
                error = equivariance_error(
                    lambda v, m=model, n=layer: m.features(v, n), x, t, squared=False, output_field="planar"
                )
                assert error < 1e-12
    assert (net(x)[0] - net(x)[1]).abs().max() > 1e-6  # and it tells pictures apart


def test_the_plain_network_is_not_invariant():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    net = trained(ResNet18(width=4).double(), x)
    assert max(equivariance_error(net, x, t) for t in roto_reflections()) > 1e-4


def test_published_size():
    assert SREResNet18().summary().parameters == 3_996_105  # 3.996 M with the 5x5 stem and 9 classes
    assert "multiples of 8" in str(SREResNet18(width=4).summary())
    assert ResNet18(width=64).summary().parameters > 11_000_000


def test_sizes_are_enforced_or_padded_on_request():
    x = torch.randn(1, 3, 30, 24)
    with pytest.raises(ValueError, match="30 x 24"):
        SREResNet18(width=4)(x)
    assert SREResNet18(width=4, pad_to_valid=True)(x).shape == (1, 9)
    with pytest.raises(ValueError, match="stages are 1 to 4"):
        SREResNet18(width=4).features(torch.zeros(1, 3, 8, 8), 5)
    with pytest.raises(ValueError, match="four odd"):
        SREResNet18(kernel_sizes=(9, 9, 4, 5))


@pytest.mark.slow
def test_compiles_and_exports():
    net = SREResNet18(width=4).eval()
    x = torch.randn(1, 3, 24, 24)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-4)
