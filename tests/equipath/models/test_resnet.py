"""SRE-ResNet18 against the public network weight for weight, exactly invariant to p4m; and e2cnn's on its
skeleton."""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.groups import group as named_group
from equipath.kernels.evaluate import prefer
from equipath.models.resnet import E2CNN_WIDTHS, E2CNNResNet18, ResNet18, SREResNet18

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


@pytest.mark.parametrize("kind", [ResNet18, SREResNet18])
def test_receptive_field_is_what_gradients_reach_before_pooling(kind):
    net = kind(1, 2, width=1, stem_kernel_size=3, kernel_sizes=(5, 3, 1, 3)).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1e-3)  # nothing cancels, no ReLU shuts
    x = torch.ones(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net.features(x)[0, 0, 8, 8], x)
    rows, columns = torch.nonzero(grad[0, 0], as_tuple=True)
    field = net.summary().receptive_field
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == field
    assert f"{field} pixels" in str(net.summary())


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
    compiled = torch.compile(net, fullgraph=True, backend="eager")  # its layers are tried with aot_eager
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-4)


def small(group, **options):
    """e2cnn's network with few fields, or a skip where e2cnn is not installed."""
    pytest.importorskip("e2cnn")
    return E2CNNResNet18(3, 9, 1, group=group, stem_kernel_size=3, **options).double()


@pytest.mark.slow
@pytest.mark.parametrize("group", ["p4", "p4m"])
@pytest.mark.parametrize("training", [False, True])
def test_e2cnn_exactly_invariant_to_its_group(group, training):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    net = trained(small(group), x).train(training)
    mirrors = roto_reflections()[4:]
    for t in roto_reflections(group):
        assert equivariance_error(net, x, t, squared=False, training=training) < 1e-10
        for layer in (1, 4):
            error = equivariance_error(
                lambda v, n=layer: net.features(v, n), x, t, squared=False, output_field="planar"
            )
            assert error < 1e-10
    assert net.features(x, 2).shape == (2, 2, 8, 12)
    assert (net(x)[0] - net(x)[1]).abs().max() > 1e-6
    if group == "p4":  # rotations alone: a mirror image is another picture
        assert min(equivariance_error(net, x, t, squared=False) for t in mirrors) > 1e-4


@pytest.mark.slow
def test_e2cnn_numbers_are_those_of_e2cnn_own_layers():
    pytest.importorskip("e2cnn")
    from e2cnn import gspaces
    from e2cnn import nn as enn

    net = small("p4m")
    block = net.stages[1][0]
    space = gspaces.FlipRot2dOnR2(4)
    one, two = (enn.FieldType(space, [space.regular_repr] * n) for n in (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = enn.R2Conv(one, two, 3, padding=1, bias=False).double()
    with torch.no_grad():
        theirs.weights.copy_(block.conv1.weight)
    norm = enn.InnerBatchNorm(two).double()
    x = torch.randn(2, 8, 8, 12, dtype=torch.float64)
    for training in (True, False):
        block.train(training), norm.train(training)
        y = norm(theirs(enn.GeometricTensor(x, one))).tensor
        torch.testing.assert_close(block.norm1(block.conv1(x)), y, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_e2cnn_state_copies_and_says_nothing(recwarn):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 16, dtype=torch.float64)
    net, other = small("p4").train(), small("p4").eval()
    assert not [w for w in recwarn if "uint8" in str(w.message)]
    net(x)  # moves the statistics
    assert net.state_dict().keys() == other.state_dict().keys()
    with torch.no_grad():
        before = other(x)
        other.load_state_dict(net.state_dict())
        after = other(x)
    assert (before - after).abs().max() > 1e-6  # no filter left over from the old weights
    torch.testing.assert_close(net.eval()(x), after)
    torch.testing.assert_close(copy.deepcopy(net)(x), after)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_e2cnn_is_as_large_as_the_ring_network(group, monkeypatch):
    # Building it at its width takes half a minute. Every layer's numbers go as the product of its fields in and
    # out, so the network's are a polynomial of degree 2 in the width, known from three widths.
    pytest.importorskip("e2cnn")
    order = named_group(group).order
    wide, sizes = E2CNN_WIDTHS[order], []
    for width in (1, 2, 3, 4):
        monkeypatch.setitem(E2CNN_WIDTHS, order, width)  # the default, when nothing is said
        sizes.append(E2CNNResNet18(group=group).summary().parameters)
    polynomial = np.polynomial.Polynomial.fit((1, 2, 3), sizes[:3], 2)
    assert round(polynomial(4)) == sizes[3]
    assert abs(polynomial(wide) / 3_996_105 - 1) < 0.07


def test_e2cnn_missing_or_misused(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "e2cnn", None)
        with pytest.raises(ImportError, match="pip install e2cnn"):
            E2CNNResNet18()
    pytest.importorskip("e2cnn")
    with monkeypatch.context() as patched:
        patched.setattr(np, "__version__", "2.1.0")
        with pytest.raises(ImportError, match="numpy<2"):
            E2CNNResNet18()
    with pytest.raises(ValueError, match="at least 3"):
        E2CNNResNet18(stem_kernel_size=1)


def test_an_untrained_network_fits_float16_once_its_norms_have_seen_pictures():
    torch.manual_seed(0)
    net = SREResNet18(width=16).eval()
    pictures = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert not net(pictures).abs().max() < 65504  # what the docstring says of float16
        torch.optim.swa_utils.update_bn([pictures], net)
        assert net(pictures).abs().max() < 20
        torch.testing.assert_close(net.half()(pictures.half()).float(), net.float()(pictures), rtol=0.05, atol=0.05)
