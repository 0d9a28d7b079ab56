"""U-Net on scalar and vector fields: the equivariant network of the slides on tissue segmentation.

The plain U-Net of ``models/unet.py`` with every convolution replaced by a steerable one, batch norm by vector
length, gates (or norms) as nonlinearity, vector max-pooling and nearest-neighbour up-sampling (slides). The
head reads scalars and vectors and gives scalar logits.
"""

import torch
from torch import Tensor, nn

from equipath.models.summary import Summary, count_parameters
from equipath.models.unet import check_unet_arguments
from equipath.nn.sizes import SizeContract, at_valid_size, check_whole
from equipath.nn.steerable import (
    Fields,
    GatedReLU,
    NormReLU,
    SteerableBatchNorm2d,
    SteerableConv2d,
    SteerablePool2d,
)


class SteerableUNet(nn.Module):
    """Steerable U-Net, (B, C, H, W) to logits (B, K, H, W) that turn and reflect exactly with the picture.

    Exact for p4m on the grid ("SO(2)": for p4), and close for other angles, as far as sampling and pooling
    allow.

    Args:
        in_channels, out_channels: colours in, classes out (1 for a binary mask with a sigmoid).
        scalars, vectors: fields of the first block, doubled at each pooling.
        depth: how often the picture is halved.
        kernel_size: of all convolutions but the head.
        nonlinearity: "gate" or "norm".
        group: "O(2)" or "SO(2)".
        pad_to_valid: pad pictures of other sizes by repeating their edges, and crop the answer; exact for even
            sizes.

    >>> SteerableUNet(3, 2, scalars=2, vectors=1, depth=1)(torch.zeros(1, 3, 8, 12)).shape
    torch.Size([1, 2, 8, 12])
    """

    output_field = "planar"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scalars: int = 8,
        vectors: int = 4,
        depth: int = 4,
        *,
        kernel_size: int = 5,
        nonlinearity: str = "gate",
        group: str = "O(2)",
        pad_to_valid: bool = False,
    ) -> None:
        super().__init__()
        check_unet_arguments("SteerableUNet", in_channels, out_channels, scalars, depth, 2, 1)
        check_whole("SteerableUNet", vectors=vectors)
        if nonlinearity not in ("gate", "norm"):
            raise ValueError(f"nonlinearity is {nonlinearity!r}; the choices are 'gate' and 'norm'")
        self.in_channels, self.depth = in_channels, depth
        self.kernel_size, self.group = kernel_size, group
        self.pad_to_valid, self.sizes = pad_to_valid, SizeContract(2**depth, 0, 2**depth)
        layouts = [Fields(scalars * 2**level, vectors * 2**level) for level in range(depth + 1)]

        def layer(source: Fields, target: Fields) -> list[nn.Module]:
            act = GatedReLU(target) if nonlinearity == "gate" else NormReLU(target)
            made = act.takes if isinstance(act, GatedReLU) else target
            # The bias comes after the norm on scalars, inside batch norm.
            conv = SteerableConv2d(source, made, kernel_size, padding="same", bias=False, group=group)
            return [conv, SteerableBatchNorm2d(made), act]

        def block(source: Fields, target: Fields) -> nn.Sequential:
            return nn.Sequential(*layer(source, target), *layer(target, target))

        def twice(layout: Fields) -> Fields:
            return Fields(2 * layout.scalars, 2 * layout.vectors)

        sources = [Fields(in_channels), *layouts[:-2]]
        self.down = nn.ModuleList(block(a, b) for a, b in zip(sources, layouts[:-1], strict=True))
        self.pool = nn.ModuleList(SteerablePool2d(layout) for layout in layouts[:-1])
        self.bottleneck = block(layouts[-2], layouts[-1])
        steps = list(zip(layouts[:0:-1], layouts[-2::-1], strict=True))  # deepest first
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), *layer(a, b)) for a, b in steps
        )
        self.merge = nn.ModuleList(block(twice(b), b) for _, b in steps)
        self.head = SteerableConv2d(layouts[0], out_channels, kernel_size, padding="same", group=group)
        self._layouts = layouts

    def forward(self, x: Tensor) -> Tensor:
        y, top, left = at_valid_size(self, x, self.head.weight)
        return self.body(y)[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of a valid size, which is not checked."""
        skips = []
        for block, pool in zip(self.down, self.pool, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x)
        x = self.bottleneck(x)
        for level, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            scalars = self._layouts[self.depth - 1 - level].scalars
            above, skip = up(x), skips.pop()
            # Packed fields are joined kind by kind: scalars of both, then vectors of both.
            joined = [above[:, :scalars], skip[:, :scalars], above[:, scalars:], skip[:, scalars:]]
            x = merge(torch.cat(joined, 1))
        return self.head(x)

    def summary(self) -> Summary:
        """Parameters, receptive field, picture sizes and how the output moves."""
        reach = self.kernel_size // 2
        widest = 0
        for pixel in range(
            2**self.depth
        ):  # walk back from an output pixel, for every place in the coarse grid
            first = last = pixel + 2 ** (self.depth + 8)
            first, last = first - reach, last + reach
            for _ in range(self.depth):
                first, last = first - 2 * reach, last + 2 * reach
                first, last = (first - reach) // 2, (last + reach) // 2
            first, last = first - 2 * reach, last + 2 * reach
            for _ in range(self.depth):
                first, last = 2 * first - 2 * reach, 2 * last + 1 + 2 * reach
            widest = max(widest, last - first + 1)
        exact = "p4m exactly" if self.group == "O(2)" else "p4 exactly"
        return Summary(
            "SteerableUNet",
            count_parameters(self),
            widest,
            self.sizes,
            self.output_field,
            f"{exact}, other angles as far as sampling allows",
        )
