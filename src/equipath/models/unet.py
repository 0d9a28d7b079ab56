"""The plain U-Net: the baseline beside which every equivariant segmentation network of the course stands.

Ronneberger et al. 2015 with padded convolutions and normalisation, as in section 2.2 of the GU-Net paper:
blocks of two 3x3 convolutions, max-pooling down, up-sampling with skip connections, a head that gives one
logit map a class. Two ways down and up, each with its picture sizes:

==========  =========================  ==================================  ==================
pooling     down                       up                                  sizes at depth 4
==========  =========================  ==================================  ==================
2           2x2 max-pool               repeat pixels, 3x3 convolution      16, 32, … 96, 320
3 (paper)   3x3 max-pool, stride 2     3x3 transposed convolution          17, 33, … 97, 321
==========  =========================  ==================================  ==================
"""

from typing import Any

import torch
from torch import Tensor, nn

from equipath.models.summary import Summary, count_parameters
from equipath.nn.sizes import SizeContract, at_valid_size, check_whole


def unet_sizes(depth: int, pooling: int) -> SizeContract:
    """The picture sizes that a U-Net with ``depth`` poolings brings back to the same pixels."""
    step = 2**depth
    return SizeContract(step, 0, step) if pooling == 2 else SizeContract(step, 1, step + 1)


def unet_receptive_field(depth: int, pooling: int, head_kernel_size: int) -> int:
    """Side in pixels of the square that one output pixel of a U-Net can see (the largest over all pixels)."""
    # Walk back from an output pixel through the bottleneck: [first, last] pixel needed on the current grid,
    # for both parities of the pixel, the widest kept.
    widest = 0
    for pixel in range(2**depth):
        first = last = pixel + 2 ** (depth + 8)
        reach = (head_kernel_size - 1) // 2
        first, last = first - reach, last + reach
        for _ in range(depth):
            first, last = first - 2, last + 2  # the block after the skip connection
            if pooling == 2:
                first, last = (first - 1) // 2, (last + 1) // 2  # 3x3 after repeated pixels
            else:
                first, last = -(-(first - 1) // 2), (last + 1) // 2  # 2 q - 1 <= p <= 2 q + 1
        first, last = first - 2, last + 2  # the bottleneck
        for _ in range(depth):
            first, last = (2 * first, 2 * last + 1) if pooling == 2 else (2 * first - 1, 2 * last + 1)
            first, last = first - 2, last + 2
        widest = max(widest, last - first + 1)
    return widest


def check_unet_arguments(
    who: str, in_channels: int, out_channels: int, width: int, depth: int, pooling: int, head_kernel_size: int
) -> None:
    """One sentence for each argument that cannot be built; shared by the plain and the group U-Net."""
    check_whole(who, in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
    if pooling not in (2, 3):
        raise ValueError(f"{who} pools with windows of 2 or 3 pixels; got pooling={pooling}")
    if head_kernel_size < 1 or head_kernel_size % 2 == 0:
        raise ValueError(f"{who} needs an odd head_kernel_size; got {head_kernel_size}")


def unet_features(net: Any, x: Tensor) -> Tensor:
    """Down, through the bottleneck and up again, each step up beside what was seen at its size on the way down.

    ``net`` has the parts ``down``, ``pool``, ``bottleneck``, ``up`` and ``merge``; maps are joined on axis 1.
    """
    skips = []
    for block in net.down:
        x = block(x)
        skips.append(x)
        x = net.pool(x)
    x = net.bottleneck(x)
    for up, merge in zip(net.up, net.merge, strict=True):
        x = merge(torch.cat([up(x), skips.pop()], 1))
    return x


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    return nn.Identity()


class UNet(nn.Module):
    """U-Net, (B, C, H, W) to logits (B, K, H, W): equivariant to shifts by whole strides, to nothing else.

    Args:
        in_channels, out_channels: colours in, classes out (1 for a binary mask with a sigmoid).
        width: channels of the first block; doubled at each of the ``depth`` poolings.
        pooling: 2 or 3, see the module's table.
        norm: "batch", "group" (independent of the batch, good for batches of a few pictures) or "none".
        head_kernel_size: of the last convolution.
        pad_to_valid: pad pictures of other sizes by repeating their edges, and crop the answer. Without it,
            a size outside the contract is an error.

    >>> UNet(3, 2, width=4, depth=2)(torch.zeros(1, 3, 20, 24)).shape
    torch.Size([1, 2, 20, 24])
    """

    output_field = "planar"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 16,
        depth: int = 4,
        *,
        pooling: int = 2,
        norm: str = "batch",
        head_kernel_size: int = 1,
        pad_to_valid: bool = False,
    ) -> None:
        super().__init__()
        check_unet_arguments("UNet", in_channels, out_channels, width, depth, pooling, head_kernel_size)
        if norm not in ("batch", "group", "none"):
            raise ValueError(f"norm is {norm!r}; the choices are 'batch', 'group' and 'none'")
        self.in_channels, self.depth = in_channels, depth
        self.pooling, self.head_kernel_size = pooling, head_kernel_size
        self.pad_to_valid, self.sizes = pad_to_valid, unet_sizes(depth, pooling)
        widths = [width * 2**level for level in range(depth + 1)]

        def layer(convolution: nn.Module, channels: int) -> list[nn.Module]:
            return [convolution, _norm(norm, channels), nn.ReLU(inplace=True)]

        def block(c_in: int, c_out: int) -> nn.Sequential:
            convolutions = [nn.Conv2d(c, c_out, 3, padding=1, bias=norm == "none") for c in (c_in, c_out)]
            return nn.Sequential(*(m for conv in convolutions for m in layer(conv, c_out)))

        def up(c_in: int, c_out: int) -> nn.Sequential:
            bias = norm == "none"
            if pooling == 3:
                return nn.Sequential(*layer(nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, bias=bias), c_out))
            convolution = nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias)
            return nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), *layer(convolution, c_out))

        self.down = nn.ModuleList(
            block(a, b) for a, b in zip([in_channels, *widths], widths[:-1], strict=False)
        )
        self.pool = nn.MaxPool2d(2) if pooling == 2 else nn.MaxPool2d(3, stride=2, padding=1)
        self.bottleneck = block(widths[-2], widths[-1])
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # deepest first
        self.up = nn.ModuleList(up(a, b) for a, b in steps)
        self.merge = nn.ModuleList(block(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(width, out_channels, head_kernel_size, padding=head_kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        y, top, left = at_valid_size(self, x, self.head.weight)
        return self.body(y)[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The (B, width, H, W) feature maps before the head, for a picture of valid size."""
        return unet_features(self, x)

    def summary(self) -> Summary:
        """Parameters, receptive field, picture sizes and how the output moves."""
        return Summary(
            "UNet",
            count_parameters(self),
            unet_receptive_field(self.depth, self.pooling, self.head_kernel_size),
            self.sizes,
            self.output_field,
            f"shifts by multiples of {2**self.depth} pixels, away from the border",
        )
