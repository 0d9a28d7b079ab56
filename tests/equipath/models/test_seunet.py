"""SEUNet and its peers: the paper's layers, loss and ensembles, exact where exact, exported, and every part
used."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipath
from equipath.equivariance import equivariance_error, roto_reflections
from equipath.kernels.evaluate import prefer
from equipath.losses import scale_head_loss, scale_weights
from equipath.models.seunet import (
    DISCOUNet,
    PlainUNet,
    SESNUNet,
    SEUNet,
    scale_ensemble,
    scale_unet_receptive_field,
    sigma_ranges,
)
from equipath.nn.scale import GaussianDerivativeConv2d

NETWORKS = {
    "seunet": lambda: SEUNet(2, 3, 2, 3, 2),
    "separate": lambda: SEUNet(2, 3, 2, 3, 2, norm="separate", mode="fixed"),
    "njet": lambda: SEUNet(2, 1, 4, 1, 2, mode="free"),
    "sesn": lambda: SESNUNet(2, 3, 2, 2, scales=(1, 2, 3), kernel_size=7),
    "disco": lambda: DISCOUNet(2, 3, 2, 2, scales=(1, 2, 3)),
    "plain": lambda: PlainUNet(2, 3, 4, 2),
}


def shaken(net):
    """Every number that starts as 0 or 1 away from it; offsets above 0, so that no ReLU is silent."""
    torch.manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and value.dim() == 1 and len(value) > 1:
            value.data.uniform_(*((-0.1, 0.1) if "running_mean" in name else (0.5, 1.5)))
    return net.double().eval()


def picture(size=(12, 16)):
    torch.manual_seed(1)
    return torch.randn(2, 2, *size, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_state_and_every_evaluation(name):
    net, other, x = shaken(NETWORKS[name]()), NETWORKS[name]().double().eval(), picture()
    with torch.no_grad():
        y = net(x)
        assert y.shape[-2:] == x.shape[-2:]
        assert y.dim() == {"scale": 5, "planar": 4}[net.output_field]
        assert y.std((0, -2, -1)).min() > 1e-4
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x), y)
        for how in ("expand", "factor"):
            with prefer(how):
                torch.testing.assert_close(net(x), y, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(equipath.export(net)(x), y, rtol=1e-10, atol=1e-10)
    assert f"{sum(p.numel() for p in net.parameters()):,}" in str(net.summary())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name):
    net, x = NETWORKS[name]().double(), picture((16, 16))
    y = net(x)
    if net.output_field == "scale":
        target = torch.randint(0, 2, (2, 16, 16))
        net.eta.data.uniform_()
        loss = net.loss(y, target)
    else:
        loss = y.square().mean()
    loss.backward()
    for label, parameter in net.named_parameters():
        if not (label == "eta" and parameter.numel() == 1):  # one head has weight 1 whatever eta is
            assert parameter.grad.abs().max() > 0, label


def test_scales_are_networks_of_their_own():
    """Figure 1: filters of one colour form an independent network; only the weights are shared."""
    net, x = shaken(SEUNet(2, 3, 2, 3, 2)), picture()
    alone = shaken(SEUNet(2, 3, 2, 1, 2, sigmas=[[level[1]] for level in sigma_ranges(3, 2)]))
    state = net.state_dict()
    for key in alone.state_dict():
        if key.endswith(".x") or key in ("eta", "head.weight", "head.bias"):
            state[key] = state[key][1:2]
    alone.load_state_dict(state)
    with torch.no_grad():
        assert alone(x).std((0, 3, 4)).min() > 1e-2
        torch.testing.assert_close(alone(x)[:, :, 0], net(x)[:, :, 1], rtol=1e-9, atol=1e-9)


def test_the_papers_layers():
    net = SEUNet(3, 5)
    found = [m for m in net.modules() if isinstance(m, GaussianDerivativeConv2d)]
    assert len(found) == 18  # layers 1-8 down, 9-10 bottleneck, 11-18 up
    assert [m.out_channels * 5 for m in found] == [60] * 2 + [120] * 2 + [240] * 2 + [480] * 2 + [960] * 2 + [
        480
    ] * 2 + [240] * 2 + [120] * 2 + [60] * 2
    assert [2 * r + 1 for r in found[0].radii] == [3, 5, 7, 9, 11]  # "consistent with SESN and DISCO"
    assert [2 * r + 1 for r in found[8].radii] == [11, 13, 15, 17, 19]
    for layer, level in zip(found, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0], strict=True):
        assert layer.intervals == [(0.5 * level + 0.5 * k, 0.5 * level + 0.5 * k + 0.5) for k in range(5)]
        middle = torch.tensor([0.5 * level + 0.5 * k + 0.25 for k in range(5)])
        torch.testing.assert_close(layer.sigma, middle)
        assert layer.order == 1
        assert layer.bias is None
    # far fewer than the CNN's, as the paper's table 2 says
    assert net.summary().parameters * 50 < PlainUNet(3, 5).summary().parameters
    assert net.sizes.step == 16
    assert len(net.sigmas) == 18


def test_loss_is_equations_8_and_9():
    net = SEUNet(1, 3, 1, 4, 1).double()
    net.eta.data = torch.tensor([0.3, -1.0, 2.0, 0.0]).double()
    logits, target = torch.randn(2, 3, 4, 4, 6).double(), torch.randint(0, 3, (2, 4, 6))
    eta = net.eta.exp() / net.eta.exp().sum()
    tilde = (eta + 1 / 4) / (eta + 1 / 4).sum()
    want = 0.0
    for k in range(4):
        p = logits[:, :, k].softmax(1)
        want = want - tilde[k] * p.gather(1, target[:, None]).log().mean()
    torch.testing.assert_close(net.loss(logits, target), want)
    weights = scale_weights(net.eta)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0).double())
    assert weights.min() >= 1 / 8
    assert weights.max() <= 5 / 8
    torch.testing.assert_close(scale_weights(torch.zeros(5)), torch.full((5,), 0.2))
    assert scale_head_loss(logits, target, net.eta).requires_grad


def algorithm_1(p, strategy):
    """The paper's algorithm read line by line for one pixel, p a list of γ lists of C probabilities; the sum
    over k that its line 18 leaves out is put in."""
    distances = []
    for vector in p:
        vector = list(vector)
        top = max(vector)
        at = vector.index(top)
        vector[at] = -1
        distances.append(top - max(vector))
        vector[at] = top
    if strategy == "P_Dist":
        best = p[distances.index(max(distances))]
        return list(best).index(max(best))
    exponentials = [2.718281828459045**d for d in distances]
    weights = [e / sum(exponentials) for e in exponentials]
    total = [sum(w * vector[c] for w, vector in zip(weights, p, strict=True)) for c in range(len(p[0]))]
    return total.index(max(total))


@pytest.mark.parametrize("strategy", ["P_Dist", "P_Ens", "mean"])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_ensembles_are_algorithm_1(strategy, classes):
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, classes, 5, 6, 7, dtype=torch.float64)
    combined = scale_ensemble(logits, strategy)
    assert combined.shape == (2, classes, 6, 7)
    p = logits.softmax(1)
    if classes == 1:
        p = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
        combined = torch.cat([1 - combined, combined], 1)
    torch.testing.assert_close(combined.sum(1), torch.ones(2, 6, 7).double())
    got = combined.argmax(1)
    for b in range(2):
        for row in range(6):
            for column in range(7):
                pixel = p[b, :, :, row, column].T.tolist()
                if strategy == "mean":
                    mean = [sum(v[c] for v in pixel) / 5 for c in range(len(pixel[0]))]
                    want = mean.index(max(mean))
                else:
                    want = algorithm_1(pixel, strategy)
                assert got[b, row, column] == want


def test_the_strategies_differ_where_they_should():
    # two mildly sure heads against one very sure one; each strategy has its own answer
    p = torch.tensor([[0.99, 0.01], [0.2, 0.8], [0.2, 0.8], [0.25, 0.75]])
    logits = p.log().T[None, :, :, None, None]
    assert scale_ensemble(logits, "P_Dist").argmax(1).item() == 0
    assert scale_ensemble(logits, "mean").argmax(1).item() == 1
    torch.testing.assert_close(scale_ensemble(logits, "P_Dist").flatten(), p[0])
    weights = torch.softmax(torch.tensor([0.98, 0.6, 0.6, 0.5]), 0)
    torch.testing.assert_close(scale_ensemble(logits, "P_Ens").flatten(), weights @ p)


def test_predict_is_the_forward_pass_combined():
    net, x = shaken(SEUNet(2, 3, 2, 3, 2)), picture()
    with torch.no_grad():
        torch.testing.assert_close(net.predict(x, "mean"), net(x).softmax(1).mean(2))
    with pytest.raises(ValueError, match="P_Ens, P_Dist, mean"):
        net.predict(x, "vote")
    with pytest.raises(ValueError, match=r"\(B, K, S, H, W\)"):
        scale_ensemble(torch.zeros(1, 2, 3, 4))


def test_mirrors_and_turns_move_smoothing_networks_exactly():
    """Order 0 is blind to direction, and all else of the backbone commutes with p4m: so must the whole."""
    net = shaken(SEUNet(2, 3, 2, 2, 2, order=0))
    x = picture((16, 16))
    for move in roto_reflections():
        assert equivariance_error(net, x, move, squared=False) < 1e-12
    odd = shaken(SEUNet(2, 3, 2, 2, 2, order=1))
    assert equivariance_error(odd, x, roto_reflections()[1], squared=False) > 1e-2


@pytest.mark.slow
def test_larger_sigmas_answer_for_larger_pictures():
    """A trained head's scale moves with the picture: the trend of table 1, on blobs of two sizes."""
    torch.manual_seed(0)
    net = SEUNet(1, 1, 4, 3, 1, sigmas=[[(0.5, 0.9), (1.1, 1.7), (2.2, 3.2)]] * 2, mode="fixed").double()

    def scene(size, seed):
        """Blobs of one size are the object; those half and twice as wide are not."""
        generator = torch.Generator().manual_seed(seed)
        at = torch.arange(32, dtype=torch.float64)
        image, mask = torch.zeros(32, 32).double(), torch.zeros(32, 32)
        for n, width in enumerate((size, size, size / 2, size * 2)):
            cy, cx = (8 + 16 * torch.tensor([n // 2, n % 2])) + torch.randint(
                -2, 3, (2,), generator=generator
            )
            d2 = (at[:, None] - cy) ** 2 + (at[None] - cx) ** 2
            image = image + torch.exp(-d2 / (2 * width**2))
            if width == size:
                mask = torch.maximum(mask, (d2 < (1.2 * width) ** 2).float())
        return image[None, None], mask[None]

    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for step in range(40):
        image, mask = scene(1.6, step)
        optimiser.zero_grad()
        net.loss(net(image), mask).backward()
        optimiser.step()
    net.eval()

    def head_losses(size):
        losses = torch.zeros(3)
        with torch.no_grad():
            for seed in range(100, 106):
                image, mask = scene(size, seed)
                y = net(image)
                losses += torch.stack(
                    [F.binary_cross_entropy_with_logits(y[0, 0, k].float(), mask[0]) for k in range(3)]
                )
        return losses

    small, large = head_losses(0.8), head_losses(3.2)
    # seen against the finest head, the coarsest one loses ground on small objects and gains on large ones
    assert large[2] - large[0] < small[2] - small[0]


def test_sizes_are_refused_or_padded():
    net = shaken(SEUNet(2, 3, 2, 2, 2))
    with pytest.raises(ValueError, match=r"multiples of 4 .* The next valid size is 12 x 16"):
        net(picture((11, 14)))
    net.pad_to_valid = True
    assert net(picture((11, 14))).shape == (2, 3, 2, 11, 14)
    assert torch.equal(net(picture()), net.body(picture()))


@pytest.mark.parametrize("name", ["seunet", "sesn", "disco", "plain"])
def test_receptive_field_is_what_gradients_reach(name):
    net = {
        "seunet": lambda: SEUNet(1, 1, 1, 1, 1, sigmas=[[(0.5, 1.0)], [(1.0, 1.5)]]),
        "sesn": lambda: SESNUNet(1, 1, 1, 1, scales=(1, 2), kernel_size=5, order=1, projection="mean"),
        "disco": lambda: DISCOUNet(1, 1, 1, 1, scales=(1, 2), projection="mean"),
        "plain": lambda: PlainUNet(1, 1, 1, 1),
    }[name]().double().eval()  # fmt: skip
    for block in [*net.down, net.bottleneck, *net.merge]:
        for k in (2, 5):
            block[k] = nn.Identity()  # a ReLU may close a way that the weights leave open
    net.pool = nn.AvgPool3d((1, 2, 2))
    size, reached = 96, 0
    for row in range(46, 50):
        x = torch.randn(1, 1, size, size, dtype=torch.float64, requires_grad=True)
        y = net(x)
        y.sum(dim=(0, 1, 2) if y.dim() == 5 else (0, 1))[row, 48].backward()
        rows = (x.grad.abs().sum((0, 1, 3)) > 0).nonzero()
        reached = max(reached, int(rows.max() - rows.min()) + 1)
    assert reached <= net.summary().receptive_field <= reached + 2


def test_receptive_field_of_convolutions_alone():
    assert scale_unet_receptive_field(0, [[1, 2]]) == 7


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    net = SEUNet(1, 1, 1, 2, 1).eval()
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["seunet", "sesn", "disco", "njet"])
def test_low_precision(name):
    net = NETWORKS[name]().train()
    x = picture().float()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if n != "eta")
    assert copy.deepcopy(net).bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
def test_onnx(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    for name in ("seunet", "sesn"):
        net, x = shaken(NETWORKS[name]()).float(), picture().float()
        path = equipath.export_onnx(net, tmp_path / f"{name}.onnx", x)
        (theirs,) = runtime.InferenceSession(str(path)).run(None, {"picture": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), net(x).detach(), atol=1e-3, rtol=1e-3)


BREAKS = {
    "scales mixed by the norm": lambda net: setattr(
        net.down[0][1], "forward", lambda x: x - x.mean(2, keepdim=True)
    ),
    "scales pooled together": lambda net: setattr(
        net, "pool", nn.Sequential(nn.MaxPool3d((3, 2, 2), (1, 2, 2), (1, 0, 0)))
    ),
    "skips from another scale": lambda net: setattr(
        net.down[0][5], "forward", lambda x: torch.relu(x).roll(1, 2)
    ),
    "heads in another order": lambda net: setattr(net.head.weight, "data", net.head.weight.data.flip(0)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_network_that_mixes_scales_is_caught(broken):
    net, x = shaken(SEUNet(2, 3, 2, 3, 2)), picture()
    alone = shaken(SEUNet(2, 3, 2, 1, 2, sigmas=[[level[0]] for level in sigma_ranges(3, 2)]))
    state = net.state_dict()
    for key in alone.state_dict():
        if key.endswith(".x") or key in ("eta", "head.weight", "head.bias"):
            state[key] = state[key][:1]
    alone.load_state_dict({k: v.clone() for k, v in state.items()})
    with torch.no_grad():
        want = alone(x)[:, :, 0]
        assert want.std((0, 2, 3)).min() > 1e-2
        torch.testing.assert_close(net(x)[:, :, 0], want, rtol=1e-9, atol=1e-9)
        BREAKS[broken](net)
        assert (net(x)[:, :, 0] - want).norm() > 1e-3 * want.norm()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SEUNet(3, 1, 0), "width"),
        (lambda: SEUNet(3, 1, scales=0), "scales"),
        (lambda: SEUNet(3, 1, norm="group"), "'shared' and 'separate'"),
        (lambda: SEUNet(3, 1, mode="none"), "constrained"),
        (lambda: SEUNet(3, 1, 2, 2, 1, sigmas=[[(0, 1)], [(0, 1)]]), "2 lists of 2 intervals"),
        (lambda: SESNUNet(3, 1, 2, 0), "depth"),
        (lambda: DISCOUNet(3, 1, 2, 1, projection="sum"), "'max' and 'mean'"),
        (lambda: PlainUNet(0, 1, 2, 1), "in_channels"),
    ],
)
def test_constructors_say_what_they_want(call, says):
    with pytest.raises(ValueError, match=says):
        call()
