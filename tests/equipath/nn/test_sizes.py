"""What layers and networks say about a picture that they cannot take; and that all of them ask."""

import numpy as np
import pytest
import torch

from equipath.equivariance import equivariance_error, roto_reflections
from equipath.models.densenet import DenseNet, P4DenseNet, P4MDenseNet
from equipath.models.gunet import GUNet
from equipath.models.resnet import ResNet18, SREResNet18
from equipath.models.seunet import DISCOUNet, PlainUNet, SESNUNet, SEUNet
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.tta import TestTimeAverage
from equipath.models.unet import UNet
from equipath.nn.export import export
from equipath.nn.group import GroupConv2d, GroupConvTranspose2d, GroupToPlaneConv2d, LiftingConv2d
from equipath.nn.scale import DISCOConv2d, GaussianDerivativeLiftingConv2d, SESNConv2d
from equipath.nn.sizes import SizeContract
from equipath.nn.sre import SREConv2d, SREConvTranspose2d
from equipath.nn.steerable import SteerableConv2d

NETWORKS = {
    "UNet": lambda **kw: UNet(3, 2, 2, 1, **kw),
    "GUNet": lambda **kw: GUNet(3, 2, 1, 1, **kw),
    "SteerableUNet": lambda **kw: SteerableUNet(3, 2, 1, 1, 1, **kw),
    "SEUNet": lambda **kw: SEUNet(3, 2, 1, 2, 1, **kw),
    "SESNUNet": lambda **kw: SESNUNet(3, 2, 1, 1, scales=(1, 2), kernel_size=5, **kw),
    "DISCOUNet": lambda **kw: DISCOUNet(3, 2, 1, 1, scales=(1, 2), **kw),
    "PlainUNet": lambda **kw: PlainUNet(3, 2, 2, 1, **kw),
    "ResNet18": lambda **kw: ResNet18(3, 2, 1, **kw),
    "SREResNet18": lambda **kw: SREResNet18(3, 2, 1, **kw),
    "DenseNet": lambda **kw: DenseNet(3, 2, 1, **kw),
    "P4DenseNet": lambda **kw: P4DenseNet(3, 2, 1, **kw),
    "P4MDenseNet": lambda **kw: P4MDenseNet(3, 2, 1, **kw),
}
WRONG = {
    "no batch": (lambda x: x[0], r"\(3, 96, 96\): x\[None\] is a batch of one"),
    "one plane": (lambda x: x[0, 0], r"\(B, 3, H, W\); got \(96, 96\)"),
    "colours last": (lambda x: x.movedim(1, -1), r"colours come before rows"),
    "alpha": (lambda x: torch.cat([x, x[:, :1]], 1), r"x\[:, :3\]"),
    "grey": (lambda x: x[:, :1], r"x.expand\(-1, 3, -1, -1\)"),
    "five": (lambda x: torch.cat([x, x[:, :2]], 1), r"\(B, 3, H, W\); got \(1, 5, 96, 96\)$"),
    "bytes": (lambda x: x.to(torch.uint8), r"divide bytes by 255"),
    "doubles": (lambda x: x.double(), r"x.to\(torch.float32\)"),
    "elsewhere": (lambda x: x.to("meta"), r"weights on cpu and got a tensor on meta"),
    "an array": (lambda x: x.numpy(), r"ndarray"),
    "nothing": (lambda x: x[..., :0, :0], r"0 x 0 pixels"),
    "too large": (lambda x: torch.nn.functional.pad(x, (0, 1)), r"96 x 97 pixels.*next valid size"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_say_in_one_sentence_what_is_wrong(name, wrong):
    make, says = WRONG[wrong]
    net, x = NETWORKS[name]().eval(), torch.rand(1, 3, 96, 96)
    with pytest.raises((ValueError, TypeError), match=says) as told:
        net(make(x))
    assert str(told.value).startswith(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_pads_on_request_and_takes_autocast_and_empty_batches(name):
    net = NETWORKS[name](pad_to_valid=True).eval()
    with torch.no_grad():
        y = net(torch.rand(2, 3, 97, 90))
        assert y.isfinite().all()
        if net.output_field != "invariant":
            assert y.shape[-2:] == (97, 90)
        assert net(torch.rand(0, 3, 96, 96)).shape[0] == 0
        with pytest.raises(ValueError, match="0 x 96 pixels, which hold nothing"):
            net(torch.rand(1, 3, 0, 96))
        with torch.autocast("cpu", torch.bfloat16):
            assert net(torch.rand(1, 3, 96, 96)).isfinite().all()
    assert str(net.sizes) in str(net.summary())


@pytest.mark.parametrize("kind", [DenseNet, P4MDenseNet])
def test_a_padded_patch_is_classified_as_its_edges_repeated(kind):
    torch.manual_seed(0)
    net, x = kind(2, 1, 1, pad_to_valid=True).double().eval(), torch.rand(2, 2, 90, 96, dtype=torch.float64)
    wide = torch.nn.functional.pad(x, (0, 0, 3, 3), mode="replicate")
    with torch.no_grad():
        assert torch.equal(net(x), net(wide))
    if kind is P4MDenseNet:  # three rows on each side: centred, so still exact
        assert net.sizes.keeps_centre(90, 96)
        assert max(equivariance_error(net, x, t, squared=False) for t in roto_reflections()) < 1e-12


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (LiftingConv2d(3, 2, 3), (1, 3, 9, 9)),
        (GroupConv2d(3, 2, 3), (1, 3, 8, 9, 9)),
        (GroupConvTranspose2d(3, 2, 3), (1, 3, 8, 9, 9)),
        (GroupToPlaneConv2d(3, 2, 3), (1, 3, 8, 9, 9)),
        (SREConv2d(3, 2, 3), (1, 3, 9, 9)),
        (SREConvTranspose2d(3, 2, 3), (1, 3, 9, 9)),
        (SteerableConv2d(3, 2, 3), (1, 3, 9, 9)),
        (GaussianDerivativeLiftingConv2d(3, 2, [(0, 0.5)]), (1, 3, 9, 9)),
        (SESNConv2d(3, 2, (1, 2), 5), (1, 3, 2, 9, 9)),
        (DISCOConv2d(3, 2, (1, 2)), (1, 3, 2, 9, 9)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, torch.nn.Module) else "",
)
def test_layers_look_at_numbers_too(layer, shape):
    x = torch.rand(shape)
    for wrong, says in (
        (x.to(torch.uint8), "divide bytes"),
        (x.double(), "weights of torch.float32; got numbers of torch.float64"),
        (np.zeros(shape), "takes a tensor; got ndarray"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"{type(layer).__name__} .*{says}"):
            layer(wrong)
    # Filters made under autocast are of low precision, and must not be met again outside it.
    with torch.no_grad():
        want = layer(x)
        layer.weight.mul_(2)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        after = layer(x)
    assert after.dtype == torch.float32
    if layer.bias is None:
        torch.testing.assert_close(after, 2 * want)
    else:
        bias = layer.bias.detach().view(-1, *[1] * (after.dim() - 2))
        if isinstance(layer, SteerableConv2d | SREConv2d | SREConvTranspose2d | GroupConv2d | LiftingConv2d):
            torch.testing.assert_close(after - bias, 2 * (want - bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_a_border_is_filled_from_what_is_there(mode):
    for layer, shape in (
        (LiftingConv2d(3, 2, 9, padding=4, padding_mode=mode), (1, 3)),
        (GroupConv2d(2, 3, 9, padding=4, padding_mode=mode), (1, 2, 8)),
        (SREConv2d(2, 3, 9, padding=4, padding_mode=mode), (1, 2)),
        (SteerableConv2d((2, 1), (1, 1), 9, padding=4, padding_mode=mode), (1, 4)),
        (SESNConv2d(2, 3, (1, 2), 9, 1, padding_mode=mode), (1, 2, 2)),
        (DISCOConv2d(2, 3, (1, 4), padding_mode=mode), (1, 2, 2)),
    ):
        least = {"reflect": 5, "circular": 4, "replicate": 1}[mode]
        assert layer(torch.zeros(*shape, least, 9)).shape[-2:] == (least, 9)
        if least > 1:
            with pytest.raises(ValueError, match=f"{least - 1} x 9 pixels, too few to fill a border of 4"):
                layer(torch.zeros(*shape, least - 1, 9))


def test_averages_over_a_group_ask_and_tell_as_well():
    told = TestTimeAverage(UNet(3, 1, 2, 1), "p4").summary()
    assert told.name == "UNet, averaged over p4"
    assert told.equivariant_to.startswith("quarter turns, exactly")
    assert told.parameters == UNet(3, 1, 2, 1).summary().parameters
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\)"):
        TestTimeAverage(UNet(3, 1, 2, 1))(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="got ndarray"):
        TestTimeAverage(UNet(3, 1, 2, 1))(np.zeros((1, 3, 8, 8)))


class Classifier(torch.nn.Module):
    """Somebody's network, which says nothing of its output."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2)
        )

    def forward(self, x):
        return self.layers(x)


def test_an_average_tells_classes_from_maps_by_the_answer():
    x = torch.rand(2, 3, 8, 8)  # as many pictures as classes: turning these axes would go unnoticed
    net = Classifier().eval()
    average = TestTimeAverage(net)
    want = torch.stack([net(move.planar(x)) for move in roto_reflections()]).mean(0)
    torch.testing.assert_close(average(x), want)
    assert average.output_field == "invariant"
    assert equivariance_error(average, x, roto_reflections()[5], squared=False) < 1e-6
    torch.testing.assert_close(export(average)(x), want)
    with pytest.raises(ValueError, match="call it once before it is exported"):
        export(TestTimeAverage(net))
    with pytest.raises(ValueError, match="output='invariant'"):
        TestTimeAverage(net, output="planar")(x)
    with pytest.raises(TypeError, match="returns tuple"):
        TestTimeAverage(lambda x: (x, x))(x)


def test_contracts():
    contract = SizeContract(16, 1, 17)
    assert [n for n in range(60) if contract.accepts(n)] == [17, 33, 49]
    assert (contract.nearest(1), contract.nearest(33), contract.nearest(34)) == (17, 33, 49)
    padded, top, left = contract.pad(torch.arange(30.0).view(1, 1, 5, 6))
    assert padded.shape[-2:] == (17, 17)
    assert (top, left) == (6, 5)
    assert torch.equal(padded[..., top : top + 5, left : left + 6], torch.arange(30.0).view(1, 1, 5, 6))
    assert contract.keeps_centre(15, 31)
    assert not contract.keeps_centre(16, 31)
