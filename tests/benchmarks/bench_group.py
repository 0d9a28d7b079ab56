"""p4 and p4m convolutions beside one ordinary convolution of the same shape, and beside e2cnn."""

import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from equipath.groups import group
from equipath.kernels.evaluate import prefer
from equipath.nn.group import GroupConv2d

from .harness import Row, Step, asked, compare

# fields, side, batch; 3x3. From small layers on large grids to deep layers on small ones.
SHAPES = [(4, 32, 4), (8, 48, 4), (16, 32, 8), (32, 16, 8), (64, 16, 8), (128, 12, 8), (192, 8, 8)]

# "Not slower", to within what the same convolution shows beside itself from one run to the next.
EQUAL = 1.02


def training_step(forward, leaves, seed) -> Step:
    """Forward and the gradients of input and weights."""

    def step() -> object:
        return torch.autograd.grad(forward(), leaves, seed)

    return step


# Asked from 16 fields up. Beyond these, starting a layer in Python shows beside a convolution of a millisecond.
FEW = (
    "asked from 16 fields up; at 4, the row 'bare module' shows what any module costs that does no more than call "
    "this convolution and view its input and output as fields"
)


class Bare(torch.nn.Module):
    """No more than a convolution with ready-made taps, of fields seen as maps."""

    def __init__(self, taps: torch.Tensor) -> None:
        super().__init__()
        self.taps = taps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x.flatten(1, 2), self.taps, padding=1).view(x.shape)


def quiet(forward) -> Step:
    def step() -> object:
        with torch.no_grad():
            return forward()

    return step


def e2cnn_convolution(name: str, fields: int, x):
    """The same convolution by e2cnn, filters cached in eval mode: (layer, input tensor) or None without
    e2cnn."""
    try:
        from e2cnn import gspaces
        from e2cnn import nn as enn
    except ImportError:
        return None
    space = gspaces.Rot2dOnR2(4) if name == "p4" else gspaces.FlipRot2dOnR2(4)
    kind = enn.FieldType(space, [space.regular_repr] * fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Random initialisation: its own takes minutes at many fields, and times do not depend on the numbers.
        layer = enn.R2Conv(kind, kind, 3, padding=1, bias=False, initialize=False)
    nn.init.normal_(layer.weights, std=0.01)
    return layer, enn.GeometricTensor(x, kind)


def rows(device: torch.device, *, brief: bool = False) -> Iterator[Row | None]:
    for name in ("p4m", "p4"):
        order = group(name).order
        for fields, side, batch in SHAPES[2:6:3] if brief else SHAPES:
            shape, label = f"{fields} fields {side}², batch {batch}", f"{name} conv 3x3"
            if not any(
                asked(f"{what}{label}, {mode}", "conv2d", "e2cnn", shape=shape)
                for what in ("", "bare module, ")
                for mode in ("training step", "inference")
            ):
                continue
            torch.manual_seed(0)
            layer = GroupConv2d(fields, fields, 3, padding=1, bias=False, group=name, device=device)
            x = torch.randn(batch, fields, order, side, side, device=device, requires_grad=True)
            seed = torch.randn_like(x)
            flat = x.detach().flatten(1, 2).requires_grad_()
            taps = layer.taps().detach().clone().requires_grad_()

            def ready(flat=flat, taps=taps):
                return F.conv2d(flat, taps, padding=1)

            chosen = layer.evaluation(x)
            with torch.no_grad():
                layer(x)
                chosen_still = layer.evaluation(x)

            def ours(way, auto, layer=layer, x=x):
                if way == auto:  # as it is used: the layer chooses
                    return layer(x)
                with prefer(way):
                    return layer(x)

            ways = ("expand", "fourier")
            train = {
                way: training_step(
                    lambda way=way, ours=ours, auto=chosen: ours(way, auto), (x, layer.weight), seed
                )
                for way in ways
            }
            plain = training_step(ready, (flat, taps), seed.flatten(1, 2))
            infer = {way: quiet(lambda way=way, ours=ours, a=chosen_still: ours(way, a)) for way in ways}
            pair = (lambda layer=layer, x=x: layer(x).flatten(1, 2), ready)
            if name == "p4m" and fields >= 128:
                goal = 0.5
            elif name == "p4m" and fields >= 64:
                goal = 1 / 1.3
            else:
                goal = 1.10
            yield compare(
                f"{label}, training step",
                "conv2d",
                shape,
                train,
                plain,
                chosen=chosen,
                goal=goal,
                device=device,
                output=pair,
            )
            yield compare(
                f"{label}, inference",
                "conv2d",
                shape,
                infer,
                quiet(ready),
                chosen=chosen_still,
                goal=1.02,
                device=device,
                note=FEW if fields < 16 else "",
            )
            if fields == 4:
                bare = Bare(taps.detach())
                yield compare(
                    f"bare module, {label}, inference",
                    "conv2d",
                    shape,
                    {"bare": quiet(lambda bare=bare, x=x: bare(x))},
                    quiet(ready),
                    chosen="bare",
                    goal=2.0,
                    device=device,
                    note="not a layer of ours: for comparison",
                )
            beside = device.type == "cpu" and any(
                asked(f"{label}, {mode}", "e2cnn", shape=shape) for mode in ("training step", "inference")
            )
            peer = e2cnn_convolution(name, fields, flat) if beside else None
            if peer is not None:
                other, tensor = peer
                other.train()
                step = training_step(
                    lambda o=other, t=tensor: o(t).tensor, (flat, other.weights), seed.flatten(1, 2)
                )
                yield compare(
                    f"{label}, training step", "e2cnn", shape, train, step, chosen=chosen, goal=EQUAL
                )
                other.eval()
                yield compare(
                    f"{label}, inference",
                    "e2cnn",
                    shape,
                    infer,
                    quiet(lambda o=other, t=tensor: o(t).tensor),
                    chosen=chosen_still,
                    goal=EQUAL,
                )
