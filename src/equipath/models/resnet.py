"""ResNet-18 with plain filters, with ring filters and with e2cnn's: the network of the SRENet paper and its
baselines.

Section "network" of the SRENet paper on He et al. 2016. All here share one skeleton, so that they differ in
nothing but the filters: a stem without max-pooling (with it the network is off by 0.3 to 2 % under a quarter
turn), four stages of two basic blocks with 1, 2, 4 and 8 times ``width`` channels, average pooling and a
linear classifier. A stride of 2 is a 2x2 average pool before a convolution with stride 1, also in the
shortcut.
"""

import copy
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.groups import P4M, Group
from equipath.groups import group as named_group
from equipath.models.summary import Summary, count_parameters
from equipath.nn.cache import KeptFilters
from equipath.nn.sizes import SizeContract, at_valid_size, check_whole
from equipath.nn.sre import EvenAvgPool2d, SREConv2d

# Fields of e2cnn's first stage, by the group's order, with which it has as many parameters as SREResNet18.
E2CNN_WIDTHS = {4: 23, 8: 17}

Convolution = Callable[[int, int, int], nn.Module]  # in_channels, out_channels, kernel_size
Norm = Callable[[int], nn.Module]  # channels


def _plain_pointwise(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel_size, bias=False)


class BasicBlock(nn.Module):
    """Two k x k convolutions with a shortcut: ``relu(f(x) + shortcut(x))``, He et al. 2016, figure 2."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, convolution: Convolution,
        norm: Norm, pointwise: Convolution,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pool = EvenAvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv1 = convolution(in_channels, out_channels, kernel_size)
        self.norm1 = norm(out_channels)
        self.conv2 = convolution(out_channels, out_channels, kernel_size)
        self.norm2 = norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(pointwise(in_channels, out_channels, 1), norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _ResNet18(nn.Module):
    output_field = "invariant"
    sizes = SizeContract(8, 0, 8)

    def __init__(
        self, in_channels: int, num_classes: int, width: int, stem_kernel_size: int,
        kernel_sizes: Sequence[int], pad_to_valid: bool, convolution: Convolution, stem: Convolution,
        norm: Norm = nn.BatchNorm2d, pointwise: Convolution = _plain_pointwise,
    ) -> None:  # fmt: skip
        super().__init__()
        who = type(self).__name__
        check_whole(who, in_channels=in_channels, num_classes=num_classes, width=width)
        if len(kernel_sizes) != 4 or any(k < 1 or k % 2 == 0 for k in (*kernel_sizes, stem_kernel_size)):
            raise ValueError(
                f"{who} needs an odd stem_kernel_size and four odd kernel_sizes, one a stage; got "
                f"{stem_kernel_size} and {tuple(kernel_sizes)}"
            )
        self.stem_kernel_size, self.kernel_sizes = stem_kernel_size, tuple(kernel_sizes)
        self.in_channels, self.pad_to_valid = in_channels, pad_to_valid
        self.stem = nn.Sequential(stem(in_channels, width, stem_kernel_size), norm(width), nn.ReLU())
        stages, channels = [], width
        for stage, side in enumerate(kernel_sizes):
            wide = width * 2**stage
            stages.append(
                nn.Sequential(
                    BasicBlock(channels, wide, side, 1 if stage == 0 else 2, convolution, norm, pointwise),
                    BasicBlock(wide, wide, side, 1, convolution, norm, pointwise),
                )
            )
            channels = wide
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self._valid(x))

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        return self.head(self._maps(x, 4).mean((-2, -1)))

    def features(self, x: Tensor, layer: int = 4) -> Tensor:
        """Feature maps after stage ``layer`` (1 to 4): (B, s·width, H / s, W / s) with s = 2^(layer - 1).

        They move with the picture: an equivariant planar field unless the filters are plain.
        """
        if not 1 <= layer <= 4:
            raise ValueError(f"the stages are 1 to 4; got layer={layer}")
        return self._maps(self._valid(x), layer)

    def _valid(self, x: Tensor) -> Tensor:
        return at_valid_size(self, x, self.head.weight)[0]

    def _maps(self, x: Tensor, layer: int) -> Tensor:
        x = self.stem(x)
        for stage in self.stages[:layer]:
            x = stage(x)
        return x

    def _summary(self, equivariant_to: str) -> Summary:
        field, step = self.stem_kernel_size, 1
        for stage, side in enumerate(self.kernel_sizes):
            if stage:  # the 2x2 average pool
                field, step = field + step, 2 * step
            field += 4 * (side - 1) * step
        return Summary(
            type(self).__name__, count_parameters(self), field, self.sizes, self.output_field, equivariant_to
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
            in_channels, num_classes, width, stem_kernel_size, kernel_sizes, pad_to_valid, convolution,
            convolution,
        )  # fmt: skip

    def summary(self) -> Summary:
        """Parameters, picture sizes and how the output moves."""
        return self._summary("nothing exactly: the answer is pooled over the picture, not over its turns")


class SREResNet18(_ResNet18):
    """ResNet-18 with ring filters, (B, C, H, W) to logits (B, K): exactly invariant to p4m (SRENet paper).

    With the defaults 3.996 million parameters. ``features(x, layer)`` is the equivariant field that the paper
    clusters.

    Before it has seen a picture, the running statistics of its norms are those of none. A ring adds up what is alike
    along it, so a fresh filter multiplies what is smooth in its input, its mean too, by up to 5.3 (the root of
    ``nn.sre.sre_gain``); in eval mode nothing takes that back, logits are of the order 10⁷, and float16 overflows.
    Training fills the statistics; for an untrained network ``torch.optim.swa_utils.update_bn(batches, net)`` does, and
    its logits are of the order 1.

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
            in_channels, num_classes, width, stem_kernel_size, kernel_sizes, pad_to_valid, convolution,
            convolution,
        )  # fmt: skip

    def summary(self) -> Summary:
        """Parameters, picture sizes and how the output moves."""
        return self._summary("p4m: the features move with the picture, the answer does not change")


class _E2CNNConv2d(nn.Module):
    """One of e2cnn's convolutions between plain tensors: its basis and weights, torch's convolution.

    e2cnn's own layer keeps its expanded filter in the ``state_dict`` in eval mode only, goes on using it after
    other weights are loaded, and cannot be copied once in eval mode with gradients. So only its basis is kept,
    and the filter is remembered as everywhere in this library. Its own initialisation would take minutes for
    a ResNet; here the weights are normal and scaled, as He's, to pass twice the variance of a white input.
    """

    def __init__(
        self, space: object, fields: tuple[int, int], kernel_size: int, lifting: bool = False
    ) -> None:
        super().__init__()
        from e2cnn import nn as enn

        source = [space.trivial_repr if lifting else space.regular_repr] * fields[0]  # type: ignore[attr-defined]
        target = [space.regular_repr] * fields[1]  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            # It indexes with uint8 masks and calls an old name of numpy's. Both warn on stderr, which costs a
            # graded notebook cell its points.
            warnings.simplefilter("ignore")
            layer = enn.R2Conv(
                enn.FieldType(space, source), enn.FieldType(space, target), kernel_size, bias=False,
                initialize=False,
            )  # fmt: skip
        self.weight = layer.weights
        # A copy: e2cnn shares one basis among all layers alike in a process, so that one network's `.double()`
        # would change another's.
        self.basis = copy.deepcopy(layer.basisexpansion).to(self.weight.dtype)
        self.shape = (layer.out_type.size, layer.in_type.size, kernel_size, kernel_size)
        self._kept = KeptFilters()
        with torch.no_grad():
            energy = self._expand(self.weight.normal_()).square().sum((1, 2, 3)).mean()
            self.weight.mul_((2 / energy).sqrt())

    def _expand(self, weight: Tensor) -> Tensor:
        return self.basis(weight).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._kept.get("dense", self.weight, self._expand), padding=self.shape[-1] // 2)

    def to_plain(self) -> nn.Conv2d:
        """The same map as an ordinary ``torch.nn.Conv2d``."""
        out_channels, in_channels, side, _ = self.shape
        plain = nn.Conv2d(
            in_channels, out_channels, side, padding=side // 2, bias=False,
            device=self.weight.device, dtype=self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            plain.weight.copy_(self._expand(self.weight))
        return plain

    def extra_repr(self) -> str:
        return f"{self.shape[1]}, {self.shape[0]}, kernel_size={self.shape[-1]}"


class _FieldBatchNorm2d(nn.Module):
    """Batch norm of regular fields packed as (B, C·G, H, W): one mean and variance a field."""

    def __init__(self, fields: int, order: int) -> None:
        super().__init__()
        self.order, self.norm = order, nn.BatchNorm3d(fields)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unflatten(1, (-1, self.order))).flatten(1, 2)


class _FieldMax(nn.Module):
    """The largest of a field's orientations: (B, C·G, H, W) to (B, C, H, W)."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.order)).amax(2)


class E2CNNResNet18(_ResNet18):
    """ResNet-18 on regular fields by e2cnn, (B, C, H, W) to logits (B, K): the SRENet paper's other baseline.

    Needs the package e2cnn (Weiler and Cesa 2019), which works with numpy 1. Features are the largest over the
    orientations, so ``features(x, layer)`` is an equivariant planar field here as for ``SREResNet18``. The
    width that the paper gave this baseline is not published; the default has as many parameters as
    ``SREResNet18`` (4.0 million). Copy and save it by its ``state_dict``: e2cnn's objects cannot be pickled.

    Args:
        in_channels, num_classes: colours in, classes out.
        width: fields of the first stage, each of as many planes as the group has elements; by default 17 for
            p4m and 23 for p4.
        group: "p4m" (e2cnn's D4) or "p4" (C4).
        stem_kernel_size, kernel_sizes: of the stem, from 3 up, and the four stages.
        pad_to_valid: repeat the edges up to the next multiple of 8; without it such a size is an error.

    Raises:
        ImportError: without e2cnn, or with a numpy that it cannot work with.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 9,
        width: int | None = None,
        *,
        group: Group | str = P4M,
        stem_kernel_size: int = 5,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        pad_to_valid: bool = False,
    ) -> None:
        try:
            from e2cnn import gspaces
        except ImportError as error:
            raise ImportError("E2CNNResNet18 needs the package e2cnn: pip install e2cnn 'numpy<2'") from error
        if int(np.__version__.split(".")[0]) > 1:
            raise ImportError(
                f"e2cnn 0.2.3 fails with numpy {np.__version__}: pip install 'numpy<2' to use E2CNNResNet18"
            )
        if stem_kernel_size < 3:
            raise ValueError(f"E2CNNResNet18 needs a stem_kernel_size of at least 3; got {stem_kernel_size}")
        symmetry = named_group(group)
        order = symmetry.order
        space = gspaces.Rot2dOnR2(4) if order == 4 else gspaces.FlipRot2dOnR2(4)

        def convolution(c_in: int, c_out: int, side: int) -> nn.Module:
            return _E2CNNConv2d(space, (c_in, c_out), side)

        def lifting(c_in: int, c_out: int, side: int) -> nn.Module:
            return _E2CNNConv2d(space, (c_in, c_out), side, lifting=True)

        def norm(fields: int) -> nn.Module:
            return _FieldBatchNorm2d(fields, order)

        super().__init__(
            in_channels, num_classes, E2CNN_WIDTHS[order] if width is None else width,
            stem_kernel_size, kernel_sizes, pad_to_valid, convolution, lifting, norm, convolution,
        )  # fmt: skip
        self.group, self.pool = symmetry, _FieldMax(order)

    def _maps(self, x: Tensor, layer: int) -> Tensor:
        return self.pool(super()._maps(x, layer))

    def summary(self) -> Summary:
        """Parameters, picture sizes and how the output moves."""
        return self._summary(
            f"{self.group.name}: the features move with the picture, the answer does not change"
        )
