"""Exported networks: the same numbers, from a file, in a process that cannot import equipath; and in
onnxruntime."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import equipath
from equipath.models.densenet import P4MDenseNet
from equipath.models.gunet import GUNet
from equipath.models.unet import UNet
from equipath.nn.group import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d


def shaken(model):
    """Statistics and biases away from their first values, so that a lost one shows."""
    torch.manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dim() == 1:
            value.data.uniform_(0.5, 1.5)
        assert name
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
    "plain": (lambda: UNet(2, 1, 2, 2), (12, 16)),
}


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


@pytest.mark.parametrize("which", ["gunet p4m 2", "gunet p4 3", "densenet", "sequence"])
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
    bigger = (96, 96) if "densenet" in which else tuple(n + 4 for n in size)
    for batch, shape in ((1, size), (3, bigger)):
        x = torch.randn(batch, 2, *shape)
        (theirs,) = session.run(None, {"picture": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), model(x).detach(), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_traced_says_so():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="to_plain"):
        equipath.export(Branches())


def test_package_offers_export_by_name_only():
    with pytest.raises(AttributeError, match="no attribute"):
        _ = equipath.nonsense
