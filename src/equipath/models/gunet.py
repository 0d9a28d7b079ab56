"""GU-Net: the U-Net of p4 or p4m, exactly equivariant from picture to segmentation.

Linmans, Winkens et al. 2018 (paper 003, section 2.2): the plain U-Net with every convolution replaced by its
group counterpart, batch norm per group feature map, and a G → Z² convolution as the head. Fields are the
plain widths divided by √|G|, so that both networks have about the same number of parameters.
``models/unet.py`` has the table of poolings and sizes, which are the same here; 3 is the paper's pooling,
for which its 320 pixels are not exact.
"""

from itertools import pairwise

from torch import Tensor, nn

from equipath.groups import P4M, Group
from equipath.groups import group as named_group
from equipath.models.summary import Summary, count_parameters
from equipath.models.unet import check_unet_arguments, unet_features, unet_receptive_field, unet_sizes
from equipath.nn.group import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupMaxPool2d,
    GroupToPlaneConv2d,
    GroupUpsample,
    LiftingConv2d,
)
from equipath.nn.sizes import at_valid_size


class GUNet(nn.Module):
    """U-Net on p4 or p4m, (B, C, H, W) to logits (B, K, H, W) that turn (and reflect) exactly with the
    picture.

    Args:
        in_channels, out_channels: colours in, classes out (1 for a binary mask with a sigmoid).
        width: fields of the first block, doubled at each pooling; by default 16 / √|G|, rounded (8 for p4, 6
            for p4m), the counterpart of ``UNet``'s 16.
        depth: how often the picture is halved.
        group: "p4" or "p4m".
        pooling: 2 or 3 (the paper's).
        norm: "batch" (per field) or "none".
        head_kernel_size: of the G → Z² convolution; 1 sees no more than group pooling does.
        pad_to_valid: pad pictures of other sizes by repeating their edges, and crop the answer. Exact where
            the same can be added on both sides (``sizes.keeps_centre``): even sizes for pooling 2, odd ones
            for 3.

    >>> GUNet(3, 2, width=2, depth=2)(torch.zeros(1, 3, 20, 24)).shape
    torch.Size([1, 2, 20, 24])
    """

    output_field = "planar"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int | None = None,
        depth: int = 4,
        *,
        group: Group | str = P4M,
        pooling: int = 2,
        norm: str = "batch",
        head_kernel_size: int = 3,
        pad_to_valid: bool = False,
    ) -> None:
        super().__init__()
        self.group = g = named_group(group)
        width = max(1, round(16 / g.order**0.5)) if width is None else width
        check_unet_arguments("GUNet", in_channels, out_channels, width, depth, pooling, head_kernel_size)
        if norm not in ("batch", "none"):
            raise ValueError(f"norm is {norm!r}; the choices are 'batch' and 'none'")
        self.in_channels, self.depth = in_channels, depth
        self.pooling, self.head_kernel_size = pooling, head_kernel_size
        self.pad_to_valid, self.sizes = pad_to_valid, unet_sizes(depth, pooling)
        widths = [width * 2**level for level in range(depth + 1)]
        bias = norm == "none"

        def layer(convolution: nn.Module, fields: int) -> list[nn.Module]:
            return [convolution, nn.Identity() if bias else GroupBatchNorm2d(fields), nn.ReLU(inplace=True)]

        def block(
            c_in: int, c_out: int, first: type[GroupConv2d] | type[LiftingConv2d] = GroupConv2d
        ) -> nn.Module:
            return nn.Sequential(
                *layer(first(c_in, c_out, 3, padding=1, bias=bias, group=g), c_out),
                *layer(GroupConv2d(c_out, c_out, 3, padding=1, bias=bias, group=g), c_out),
            )

        def up(c_in: int, c_out: int) -> nn.Module:
            if pooling == 3:
                return nn.Sequential(
                    *layer(GroupConvTranspose2d(c_in, c_out, 3, 2, 1, bias=bias, group=g), c_out)
                )
            return nn.Sequential(
                GroupUpsample(2), *layer(GroupConv2d(c_in, c_out, 3, padding=1, bias=bias, group=g), c_out)
            )

        down = [block(in_channels, width, LiftingConv2d)]
        down += [block(a, b) for a, b in pairwise(widths[:-1])]
        self.down = nn.ModuleList(down)
        self.pool = GroupMaxPool2d(2) if pooling == 2 else GroupMaxPool2d(3, stride=2, padding=1)
        self.bottleneck = block(widths[-2], widths[-1])
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # deepest first
        self.up = nn.ModuleList(up(a, b) for a, b in steps)
        self.merge = nn.ModuleList(block(2 * b, b) for _, b in steps)
        self.head = GroupToPlaneConv2d(
            width, out_channels, head_kernel_size, padding=head_kernel_size // 2, group=g
        )

    def forward(self, x: Tensor) -> Tensor:
        y, top, left = at_valid_size(self, x, self.head.weight)
        return self.body(y)[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    def features(self, x: Tensor) -> Tensor:
        """The regular field (B, width, G, H, W) before the head, for a picture of valid size."""
        return unet_features(self, x)

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        return self.head(self.features(x))

    def summary(self) -> Summary:
        """Parameters, receptive field, picture sizes and what the network is equivariant to."""
        what = "quarter turns" if self.group.order == 4 else "quarter turns and reflections"
        return Summary(
            f"GUNet ({self.group.name})",
            count_parameters(self),
            unet_receptive_field(self.depth, self.pooling, self.head_kernel_size),
            self.sizes,
            self.output_field,
            f"{what}, exactly; shifts by multiples of {2**self.depth} pixels, away from the border",
        )
