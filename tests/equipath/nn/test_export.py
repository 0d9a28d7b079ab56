"""Exported networks: the same numbers, from a file, in a process that cannot import equipath; and in
onnxruntime."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import equipath
from equipath.models.densenet import DenseNet, P4DenseNet, P4MDenseNet
from equipath.models.gunet import GUNet
from equipath.models.resnet import E2CNNResNet18, ResNet18, SREResNet18
from equipath.models.seunet import DISCOUNet, SESNUNet, SEUNet
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.tta import TestTimeAverage
from equipath.models.unet import UNet
from equipath.nn.group import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d
from equipath.nn.sre import SREConvTranspose2d
from equipath.nn.steerable import NormReLU


def shaken(model):
    """Statistics and biases away from their first values, so that a lost one shows."""
    torch.manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dim() == 1:
            value.data.uniform_(0.5, 1.5)
        assert name
    for module in model.modules():
        if isinstance(module, NormReLU):
            module.bias.data.neg_()  # a length added to every vector would have no direction near zero
    return model.eval()


NETWORKS = {
    "gunet p4m 2": (lambda: GUNet(2, 3, 2, 2), (12, 16)),
    "gunet p4 3": (lambda: GUNet(2, 1, 2, 2, group="p4", pooling=3), (13, 17)),
    "densenet": (lambda: P4MDenseNet(2, 1, 1), (96, 96)),
    "densenet map": (lambda: P4MDenseNet(2, 1, 1, dense=True), (96, 128)),
    "sequence": (
        lambda: nn.Sequential(
            LiftingConv2d(2, 2, 3, padding=1, padding_mode="circular"),
            GroupBatchNorm2d(2),
            nn.ReLU(),
            GroupConv2d(2, 4, 3, padding=2, dilation=2, groups=2, bias=False),
            GroupPool("max"),
        ),
        (9, 8),
    ),
    "densenet plain": (lambda: DenseNet(2, 1, 2), (96, 96)),
    "densenet p4": (lambda: P4DenseNet(2, 1, 1), (96, 96)),
    "averaged": (lambda: TestTimeAverage(UNet(2, 1, 2, 2), activation=torch.sigmoid), (12, 16)),
    "averaged answer": (lambda: TestTimeAverage(ResNet18(2, 3, 2), "p4"), (16, 24)),
    "plain": (lambda: UNet(2, 1, 2, 2), (12, 16)),
    "plain 3": (lambda: UNet(2, 1, 2, 2, pooling=3, norm="group"), (13, 17)),
    "resnet": (lambda: ResNet18(2, 3, 2), (16, 24)),
    "resnet rings": (lambda: SREResNet18(2, 3, 2), (16, 24)),
    "steerable gate": (lambda: SteerableUNet(2, 3, 2, 1, 1, kernel_size=3), (8, 12)),
    "steerable norm": (
        lambda: SteerableUNet(2, 1, 1, 2, 1, kernel_size=3, nonlinearity="norm", group="SO(2)"),
        (8, 12),
    ),
    "scale": (lambda: SEUNet(2, 2, 2, 2, 1), (12, 16)),
    "scale hermite": (lambda: SESNUNet(2, 2, 1, 1, scales=(1, 2), kernel_size=5), (12, 16)),
    "scale disco": (lambda: DISCOUNet(2, 2, 1, 1, scales=(1, 2)), (12, 16)),
}
ONNX = [
    "gunet p4m 2", "gunet p4 3", "densenet", "sequence", "plain", "averaged", "resnet", "resnet rings", "steerable gate",
    "steerable norm", "scale",
]  # fmt: skip


@pytest.mark.parametrize("which", NETWORKS)
def test_same_outputs(which):
    make, size = NETWORKS[which]
    model = shaken(make()).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain = equipath.export(model)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), atol=1e-12, rtol=1e-12)
    for module in plain.modules():
        assert module is plain or type(module).__module__.startswith("torch.nn")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    single, x = model.float(), x.float()
    with torch.no_grad():
        torch.testing.assert_close(equipath.export(single)(x), single(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_e2cnn_becomes_plain(group):
    pytest.importorskip("e2cnn")
    model = shaken(E2CNNResNet18(2, 3, 1, group=group, stem_kernel_size=3)).double()
    plain = equipath.export(model)
    x = torch.randn(2, 2, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), atol=1e-12, rtol=1e-12)
    assert all(m is plain or type(m).__module__.startswith("torch.nn") for m in plain.modules())


def test_networks_inside_networks_and_parts_called_body():
    """Sizes are looked at inside, too; and a part named body is not taken for the network."""

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = SREResNet18(2, 3, 1)

        def forward(self, x):
            return 2 * self.body(x)

    model = shaken(nn.Sequential(nn.Conv2d(2, 2, 1), Doubled())).double()
    x = torch.randn(1, 2, 8, 16, dtype=torch.float64)
    torch.testing.assert_close(equipath.export(model)(x), model(x))


@pytest.mark.slow
def test_file_loads_without_equipath(tmp_path):
    model = shaken(GUNet(2, 1, 1, 1, group="p4"))
    x = torch.randn(1, 2, 6, 8)
    torch.save((equipath.export(model), x, model(x).detach()), tmp_path / "plain.pt")
    code = (
        "import sys; sys.modules['equipath'] = None\n"
        "import torch\n"
        f"plain, x, y = torch.load({str(tmp_path / 'plain.pt')!r}, weights_only=False)\n"
        "torch.testing.assert_close(plain(x), y)\n"
        "print('same')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("which", ONNX)
def test_onnx(which, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    make, size = NETWORKS[which]
    model = make()
    if which == "sequence":  # ONNX has no circular padding of this kind before opset 19
        model[0] = LiftingConv2d(2, 2, 3, padding=1)
    model = shaken(model)
    path = equipath.export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 2, *size))
    session = runtime.InferenceSession(str(path))
    bigger = (96, 96) if "densenet" in which else tuple(n + 8 for n in size)
    for batch, shape in ((1, size), (3, bigger)):
        x = torch.randn(batch, 2, *shape)
        (theirs,) = session.run(None, {"picture": x.numpy()})
        assert theirs.ndim == 2 or session.get_outputs()[0].shape[-2:] == ["height", "width"]
        ours = model(x).detach()  # the shaken networks answer with numbers from 1 to 10⁷
        torch.testing.assert_close(
            torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-5 * max(1.0, ours.abs().max().item())
        )


def test_what_cannot_be_traced_says_so():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="to_plain"):
        equipath.export(Branches())
    with pytest.raises(TypeError, match="got function"):
        equipath.export(lambda x: x)


def test_an_example_that_the_file_would_not_take_is_told_in_words(tmp_path):
    pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    for net, shape, says in (
        (UNet(2, 1, 1, 1), (1, 3, 8, 8), r"takes pictures \(B, 2, H, W\)"),
        (UNet(2, 1, 1, 1, pad_to_valid=True), (1, 2, 9, 8), "9 x 8 pixels; it wants"),
    ):
        with pytest.raises(ValueError, match=says):
            equipath.export_onnx(net, path, torch.zeros(shape))
    assert not path.exists()


def test_layers_of_torch_alone_are_exported_too():
    """A network that is one layer becomes a layer of torch, which a tracer calls and does not enter."""
    for layer, shape in (
        (GroupBatchNorm2d(2), (2, 2, 4, 3, 5)),
        (SREConvTranspose2d(2, 3, 3, 2, 1), (2, 2, 3, 5)),
        (GroupConv2d(2, 3, 3, group="p4"), (2, 2, 4, 3, 5)),
    ):
        x = torch.randn(shape)
        torch.testing.assert_close(equipath.export(shaken(layer))(x), layer(x))


def test_package_offers_export_by_name_only():
    with pytest.raises(AttributeError, match="no attribute"):
        _ = equipath.nonsense
