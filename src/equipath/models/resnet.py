"""ResNet-18 with plain and with ring filters: the networks of the SRENet paper and their baselines.

Section "network" of the SRENet paper on He et al. 2016. Both here share one skeleton, so that they differ in
nothing but the filters: a stem without max-pooling (with it the network is off by 0.3 to 2 % under a quarter
turn), four stages of two basic blocks with 1, 2, 4 and 8 times ``width`` channels, average pooling and a
linear classifier. A stride of 2 is a 2x2 average pool before a convolution with stride 1, also in the
shortcut.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from equipath.models.summary import Summary, count_parameters
from equipath.nn.sizes import SizeContract
from equipath.nn.sre import EvenAvgPool2d, SREConv2d

Convolution = Callable[[int, int, int], nn.Module]  # in_channels, out_channels, kernel_size


class BasicBlock(nn.Module):
    """Two k x k convolutions with a shortcut: ``relu(f(x) + shortcut(x))``, He et al. 2016, figure 2."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, convolution: Convolution
    ) -> None:
        super().__init__()
        self.pool = EvenAvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv1 = convolution(in_channels, out_channels, kernel_size)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(out_channels, out_channels, kernel_size)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(pointwise, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _ResNet18(nn.Module):
    output_field = "invariant"
    sizes = SizeContract(8, 0, 8)

    def __init__(
        self, in_channels: int, num_classes: int, width: int, stem_kernel_size: int,
        kernel_sizes: Sequence[int], pad_to_valid: bool, convolution: Convolution,
    ) -> None:  # fmt: skip
        super().__init__()
        who = type(self).__name__
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"{who} needs {name} of at least 1; got {value}")
        if len(kernel_sizes) != 4 or any(k < 1 or k % 2 == 0 for k in (*kernel_sizes, stem_kernel_size)):
            raise ValueError(
                f"{who} needs an odd stem_kernel_size and four odd kernel_sizes, one a stage; got "
                f"{stem_kernel_size} and {tuple(kernel_sizes)}"
            )
        self.stem_kernel_size, self.kernel_sizes = stem_kernel_size, tuple(kernel_sizes)
        self.pad_to_valid = pad_to_valid
        self.stem = nn.Sequential(
            convolution(in_channels, width, stem_kernel_size), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages, channels = [], width
        for stage, side in enumerate(kernel_sizes):
            wide = width * 2**stage
            stages.append(
                nn.Sequential(
                    BasicBlock(channels, wide, side, 1 if stage == 0 else 2, convolution),
                    BasicBlock(wide, wide, side, 1, convolution),
                )
            )
            channels = wide
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((-2, -1)))

    def features(self, x: Tensor, layer: int = 4) -> Tensor:
        """Feature maps after stage ``layer`` (1 to 4): (B, s·width, H / s, W / s) with s = 2^(layer - 1).

        They move with the picture: an equivariant planar field when the filters are ring filters.
        """
        if not 1 <= layer <= 4:
            raise ValueError(f"the stages are 1 to 4; got layer={layer}")
        if self.pad_to_valid:
            x, _, _ = self.sizes.pad(x)
        else:
            self.sizes.check(x, type(self).__name__)
        x = self.stem(x)
        for stage in self.stages[:layer]:
            x = stage(x)
        return x

    def _summary(self, equivariant_to: str) -> Summary:
        return Summary(
            type(self).__name__, count_parameters(self), None, self.sizes, self.output_field, equivariant_to
        )


class ResNet18(_ResNet18):
    """Plain ResNet-18 on the skeleton of SRENet, (B, C, H, W) to logits (B, K): the paper's baseline.

    Args:
        in_channels, num_classes: colours in, classes out.
        width: channels of the first stage.
        stem_kernel_size, kernel_sizes: of the stem and the four stages.
        pad_to_valid: repeat the edges up to the next multiple of 8; without it such a size is an error.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 9,
        width: int = 64,
        *,
        stem_kernel_size: int = 3,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        pad_to_valid: bool = False,
    ) -> None:
        def convolution(c_in: int, c_out: int, side: int) -> nn.Module:
            conv = nn.Conv2d(c_in, c_out, side, padding=side // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            return conv

        super().__init__(
            in_channels, num_classes, width, stem_kernel_size, kernel_sizes, pad_to_valid, convolution
        )

    def summary(self) -> Summary:
        """Parameters, picture sizes and how the output moves."""
        return self._summary("nothing exactly: the answer is pooled over the picture, not over its turns")


class SREResNet18(_ResNet18):
    """ResNet-18 with ring filters, (B, C, H, W) to logits (B, K): exactly invariant to p4m (SRENet paper).

    With the defaults 3.996 million parameters. ``features(x, layer)`` is the equivariant field that the paper
    clusters.

    Args:
        in_channels, num_classes: colours in, classes out (9 tissue classes of NCT-CRC-HE).
        width: channels of the first stage.
        stem_kernel_size: 5 (the paper's classification code) or 7 (its segmentation code).
        kernel_sizes: one a stage.
        pad_to_valid: repeat the edges up to the next multiple of 8; without it such a size is an error.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 9,
        width: int = 64,
        *,
        stem_kernel_size: int = 5,
        kernel_sizes: Sequence[int] = (9, 9, 5, 5),
        pad_to_valid: bool = False,
    ) -> None:
        def convolution(c_in: int, c_out: int, side: int) -> nn.Module:
            return SREConv2d(c_in, c_out, side, padding=side // 2, bias=False)

        super().__init__(
            in_channels, num_classes, width, stem_kernel_size, kernel_sizes, pad_to_valid, convolution
        )

    def summary(self) -> Summary:
        """Parameters, picture sizes and how the output moves."""
        return self._summary("p4m: the features move with the picture, the answer does not change")
