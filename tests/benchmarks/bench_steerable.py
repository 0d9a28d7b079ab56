"""Scalar and vector convolutions beside e2cnn's O(2) convolution with the same fields and kernels."""

import warnings
from collections.abc import Iterator

import torch
from torch import nn

from equipath.kernels.evaluate import prefer
from equipath.nn.steerable import SteerableConv2d

from .bench_group import EQUAL, quiet, training_step
from .harness import Row, asked, compare

# scalars = vectors, side, kernel, batch
SHAPES = [
    (4, 48, 5, 4), (16, 32, 5, 4), (16, 32, 7, 4), (16, 32, 9, 4), (32, 24, 9, 4), (64, 12, 5, 4), (64, 24, 9, 2),
]  # fmt: skip

FACTORED = (
    "factoring a 9 x 9 kernel of O(2) mixes 21 basis filters in place of 81 taps and filters each channel 21 times: "
    "beside one dense convolution with ready-made filters that is at most 1.3 to 1.5 times as fast in a training step"
)


def e2cnn_convolution(count: int, k: int, x):
    """e2cnn's layer with ``count`` scalars and vectors, and the input as its tensor; None without e2cnn."""
    try:
        from e2cnn import gspaces
        from e2cnn import nn as enn
    except ImportError:
        return None
    space = gspaces.FlipRot2dOnR2(-1, 2, axis=0.0)
    kind = enn.FieldType(space, [space.trivial_repr] * count + [space.irrep(1, 1)] * count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = enn.R2Conv(
            kind, kind, k, padding=k // 2, bias=False, initialize=False,
            frequencies_cutoff=lambda r: 2 if r > 0 else 0,
        )  # fmt: skip
    nn.init.normal_(layer.weights, std=0.01)
    return layer, enn.GeometricTensor(x, kind)


def rows(device: torch.device, *, brief: bool = False) -> Iterator[Row | None]:
    if device.type != "cpu":
        return
    for count, side, k, batch in SHAPES[1:4:2] if brief else SHAPES:
        label = f"steerable conv {k}x{k}"
        shape = f"{count} scalars, {count} vectors, {side}², batch {batch}"
        if not any(
            asked(f"{label}, {mode}", "e2cnn O(2)", shape=shape) for mode in ("training step", "inference")
        ):
            continue
        torch.manual_seed(0)
        layer = SteerableConv2d((count, count), (count, count), k, padding=k // 2, bias=False)
        x = torch.randn(batch, 3 * count, side, side, requires_grad=True)
        peer = e2cnn_convolution(count, k, x)
        if peer is None:
            return
        other, tensor = peer
        seed = torch.randn(batch, 3 * count, side, side)

        chosen = layer.evaluation(x)

        def ours(way, layer=layer, x=x, chosen=chosen):
            if way == chosen:  # as it is used: the layer chooses
                return layer(x)
            with prefer(way):
                return layer(x)

        ways = ("expand", "factor")
        train = {
            way: training_step(lambda way=way, ours=ours: ours(way), (x, layer.weight), seed) for way in ways
        }
        infer = {way: quiet(lambda way=way, ours=ours: ours(way)) for way in ways}

        def theirs(other=other, tensor=tensor):
            return other(tensor).tensor

        other.train()
        step = training_step(theirs, (x, other.weights), seed)
        # Tests compare the numbers (the same space of kernels); here both run with weights of their own.
        factored = chosen == "factor"
        yield compare(
            f"{label}, training step", "e2cnn O(2)", shape, train, step, chosen=chosen,
            goal=0.5 if factored else EQUAL, note=FACTORED if factored else "",
        )  # fmt: skip
        other.eval()
        yield compare(
            f"{label}, inference", "e2cnn O(2)", shape, infer, quiet(theirs), chosen=chosen, goal=EQUAL
        )
