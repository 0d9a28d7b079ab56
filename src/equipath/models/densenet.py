"""DenseNets that classify patches: the plain one, P4-DenseNet and P4M-DenseNet, and their published sizes.

Veeling, Linmans, Winkens et al. 2018 (paper 004, section 2.2). A 3x3 stem, then five times a dense block of
one layer (BN-ReLU-3x3, its output beside its input) and a transition (BN-ReLU-1x1, 2x2 average pooling), all
without padding, so that a picture larger than 96 pixels gives one answer every 32 pixels, each computed from
its own 96² and nothing else. Grid sizes for 96: 94, 92, 46, 44, 22, 20, 10, 8, 4, 2, 1.

The paper leaves open how many channels a transition keeps; keeping all of them (no compression) comes
closest to its weight counts, in thousands:

=================  ========  ====  =========  =====
network            growth    maps  published  here
=================  ========  ====  =========  =====
P4M-DenseNet       8         64    119        116
P4M-DenseNet M     3         24    19         17
P4-DenseNet        12        48    125        131
DenseNet           24        24    128        132
DenseNet M         64        64    902        929
=================  ========  ====  =========  =====
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.groups import P4, P4M, Group
from equipath.groups import group as named_group
from equipath.models.summary import Summary, count_parameters
from equipath.nn.group import (
    GroupAvgPool2d,
    GroupBatchNorm2d,
    GroupConv2d,
    GroupPool,
    LiftingConv2d,
)
from equipath.nn.sizes import SizeContract, at_valid_size, check_whole

BLOCKS = 5


class _DenseStep(nn.Module):
    """A dense block and its transition; ``layer`` is valid 3x3, ``transition`` 1x1 and pooling."""

    def __init__(self, layer: nn.Module, transition: nn.Module) -> None:
        super().__init__()
        self.layer, self.transition = layer, transition

    def forward(self, x: Tensor) -> Tensor:
        new = self.layer(x)
        norm, relu, mix, pool = self.transition.children()
        y = relu(norm(torch.cat([F.pad(x, (-1, -1, -1, -1)), new], 1)))  # the centre crop of the input
        # A 1x1 convolution without bias commutes with pooling, and a quarter of the pixels is left to mix.
        return mix(pool(y))


class DenseNet(nn.Module):
    """The plain DenseNet: pictures (B, C, H, W) to logits (B, K), or (B, K, h, w) with ``dense=True``.

    Args:
        in_channels, out_channels: colours in, logits out (1 for tumour or not, with a sigmoid).
        growth: channels that each dense block adds (24 in the paper, 64 for "M").
        dense: return the map of logits, one every 32 pixels, in place of their mean.
        pad_to_valid: repeat the edges of pictures of other sizes up to the next valid one; without it such a size
            is an error. The map of logits is that of the padded picture.

    Pictures have sides of 96 + 32 n pixels.

    >>> DenseNet(3, 1, growth=4)(torch.zeros(2, 3, 96, 96)).shape
    torch.Size([2, 1])
    """

    sizes: ClassVar[SizeContract] = SizeContract(32, 0, 96)

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, growth: int = 24, *, dense: bool = False,
        pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_whole(type(self).__name__, in_channels=in_channels, out_channels=out_channels, growth=growth)
        self.in_channels, self.growth, self.dense = in_channels, growth, dense
        self.pad_to_valid = pad_to_valid
        self.output_field = "planar" if dense else "invariant"
        self.stem = nn.Conv2d(in_channels, growth, 3, bias=False)
        steps, channels = [], growth
        for _ in range(BLOCKS):
            layer = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(inplace=False), nn.Conv2d(channels, growth, 3, bias=False)
            )
            channels += growth
            transition = nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.AvgPool2d(2),
            )
            steps.append(_DenseStep(layer, transition))
        self.steps = nn.Sequential(*steps)
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(at_valid_size(self, x, self.stem.weight)[0])

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        y = self.head(self.steps(self.stem(x)))
        return y if self.dense else y.mean((2, 3))

    def summary(self) -> Summary:
        """Parameters, receptive field, picture sizes and how the output moves."""
        equivariant_to = "shifts by multiples of 32 pixels" if self.dense else "nothing, exactly"
        return _summary(self, type(self).__name__, self.output_field, equivariant_to)


class GroupDenseNet(nn.Module):
    """DenseNet on p4 or p4m: logits (B, K) that do not change when the picture turns (and reflects).

    With ``dense=True`` the logits (B, K, h, w) turn with it. ``growth`` counts fields: each is G feature maps,
    one for each element of the group. ``P4DenseNet`` and ``P4MDenseNet`` build it with the paper's growth.
    Arguments otherwise as for ``DenseNet``.
    """

    sizes: ClassVar[SizeContract] = SizeContract(32, 0, 96)

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        growth: int = 8,
        *,
        group: Group | str = P4M,
        dense: bool = False,
        pad_to_valid: bool = False,
    ) -> None:
        super().__init__()
        self.group = g = named_group(group)
        check_whole(type(self).__name__, in_channels=in_channels, out_channels=out_channels, growth=growth)
        self.in_channels, self.growth, self.dense = in_channels, growth, dense
        self.pad_to_valid = pad_to_valid
        self.output_field = "planar" if dense else "invariant"
        self.stem = LiftingConv2d(in_channels, growth, 3, bias=False, group=g)
        steps, fields = [], growth
        for _ in range(BLOCKS):
            layer = nn.Sequential(
                GroupBatchNorm2d(fields),
                nn.ReLU(inplace=False),
                GroupConv2d(fields, growth, 3, bias=False, group=g),
            )
            fields += growth
            transition = nn.Sequential(
                GroupBatchNorm2d(fields),
                nn.ReLU(inplace=True),
                GroupConv2d(fields, fields, 1, bias=False, group=g),
                GroupAvgPool2d(2),
            )
            steps.append(_DenseStep(layer, transition))
        self.steps = nn.Sequential(*steps)
        # Pooling commutes with a 1x1 convolution that treats all planes alike, so the mean is taken first.
        self.head = nn.Sequential(
            GroupBatchNorm2d(fields),
            nn.ReLU(inplace=True),
            GroupPool("mean"),
            nn.Conv2d(fields, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(at_valid_size(self, x, self.stem.weight)[0])

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        y = self.head(self.steps(self.stem(x)))
        return y if self.dense else y.mean((2, 3))

    def summary(self) -> Summary:
        """Parameters, receptive field, picture sizes and how the output moves."""
        what = "quarter turns" if self.group.order == 4 else "quarter turns and reflections"
        kind = "equivariant" if self.dense else "invariant"
        return _summary(self, f"DenseNet ({self.group.name})", self.output_field, f"{what}, exactly {kind}")


class P4DenseNet(GroupDenseNet):
    """P4-DenseNet: 12 fields of 4 planes (48 maps) a block; see ``GroupDenseNet``."""

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, growth: int = 12, *, dense: bool = False,
        pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, growth, group=P4, dense=dense, pad_to_valid=pad_to_valid)


class P4MDenseNet(GroupDenseNet):
    """P4M-DenseNet: 8 fields of 8 planes (64 maps) a block, 3 for "M"; see ``GroupDenseNet``."""

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, growth: int = 8, *, dense: bool = False,
        pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, growth, group=P4M, dense=dense, pad_to_valid=pad_to_valid)


def _summary(model: nn.Module, name: str, output_field: str, equivariant_to: str) -> Summary:
    field = 3 + sum(
        (2 + 1) * 2**step for step in range(BLOCKS)
    )  # stem, then 3x3 and pooling at each stride: 96
    return Summary(name, count_parameters(model), field, DenseNet.sizes, output_field, equivariant_to)
