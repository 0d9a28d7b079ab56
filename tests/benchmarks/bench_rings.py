"""SRE-ResNet18 and its layers beside dense filters of the same values, which is how the public package runs.

The package itself cannot be a dependency (it installs modules called ``utils`` and ``main``); its way is to
expand the rings into dense filters in every training step, and to keep the dense filters for inference. Both
are here in torch's fastest memory layout.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from equipath.kernels.evaluate import prefer
from equipath.models.resnet import SREResNet18
from equipath.nn.export import export
from equipath.nn.sre import SREConv2d

from .bench_group import quiet, training_step
from .harness import Row, asked, compare

# channels, side, kernel: the stages of SRE-ResNet18 on 224², and small ones
SHAPES = [(64, 112, 9), (128, 112, 9), (256, 56, 5), (512, 28, 5), (16, 48, 5), (16, 32, 3)]


def rows(device: torch.device, *, brief: bool = False) -> Iterator[Row | None]:
    for channels, side, k in SHAPES[2:4] if brief else SHAPES:
        label, shape = f"ring conv {k}x{k}", f"{channels} channels {side}²"
        if not (
            asked(f"{label}, training step", "dense filters", shape=shape)
            or asked(f"{label}, inference", "dense filters, kept", shape=shape)
        ):
            continue
        torch.manual_seed(0)
        layer = SREConv2d(channels, channels, k, padding=k // 2, bias=False, device=device)
        x = torch.randn(1, channels, side, side, device=device).to(memory_format=torch.channels_last)
        x.requires_grad_()
        seed = torch.randn_like(x)
        dense = layer.filters.detach().to(memory_format=torch.channels_last)

        def published(layer=layer, x=x, k=k):
            return F.conv2d(x, layer.filters, padding=k // 2)

        chosen = layer.evaluation(x)

        def ours(way, layer=layer, x=x, chosen=chosen):
            if way == chosen:  # as it is used: the layer chooses
                return layer(x)
            with prefer(way):
                return layer(x)

        train = {
            way: training_step(lambda way=way, ours=ours: ours(way), (x, layer.weight), seed)
            for way in ("expand", "factor")
        }
        infer = {way: quiet(lambda way=way, ours=ours: ours(way)) for way in ("expand", "factor")}
        yield compare(
            f"{label}, training step", "dense filters", shape, train,
            training_step(published, (x, layer.weight), seed), chosen=chosen, goal=1.1, device=device,
            output=(lambda layer=layer, x=x: layer(x), published),
        )  # fmt: skip
        yield compare(
            f"{label}, inference", "dense filters, kept", shape, infer,
            quiet(lambda x=x, dense=dense, k=k: F.conv2d(x, dense, padding=k // 2)), chosen=chosen, goal=1.1,
            device=device,
        )  # fmt: skip
    if brief:
        return
    torch.manual_seed(0)
    net = SREResNet18().to(device)
    x = torch.randn(1, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    label = torch.tensor([3], device=device)

    def loss(way):
        with prefer(way):
            return F.cross_entropy(net(x), label)

    parameters = list(net.parameters())
    one = torch.ones((), device=device)
    # Training mode moves the running statistics; both sides do the same work on them.
    net.train()
    yield compare(
        "SREResNet18, training step", "dense filters", "224², batch 1",
        {"auto": training_step(lambda: loss(None), parameters, one)},
        training_step(lambda: loss("expand"), parameters, one), chosen="auto", goal=0.25, device=device,
        output=(lambda: loss(None)[None], lambda: loss("expand")[None]), tolerance=1e-3, rounds=5,
        seconds=30,
    )  # fmt: skip
    net.eval()
    plain: nn.Module = export(_Checked(net)).to(memory_format=torch.channels_last)
    yield compare(
        "SREResNet18, inference", "dense filters, kept", "224², batch 1", {"auto": quiet(lambda: net(x))},
        quiet(lambda: plain(x)), chosen="auto", goal=0.25, device=device,
        output=(lambda: net(x), lambda: plain(x)), tolerance=1e-3, rounds=5, seconds=30,
    )  # fmt: skip


class _Checked(nn.Module):
    """The network without its question about sizes, for the tracer."""

    def __init__(self, net: SREResNet18) -> None:
        super().__init__()
        self.stem, self.stages, self.head = net.stem, net.stages, net.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((-2, -1)))
