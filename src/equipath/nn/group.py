"""The layers of p4 and p4m networks: lifting, group and transposed convolution, projection, norm and pooling.

Regular fields are (B, C, G, H, W), one plane a group element (``groups.py`` has the conventions); C counts
fields, so a p4m layer with C fields works on 8 C feature maps. Cohen & Welling 2016; section 2 of the GU-Net
paper (003), section 2.2 of the P4M-DenseNet paper (004). Every layer commutes exactly with its group, and
refuses the strides and sizes for which it would not.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from equipath.groups import P4M, Group
from equipath.groups import group as named_group
from equipath.kernels import fourier, regular
from equipath.kernels.evaluate import cheaper_group_conv, open_preferences, preferred, transforming
from equipath.nn.cache import KeptFilters, ShortWay
from equipath.nn.export import Reduced
from equipath.nn.sizes import PADDING_MODES, check_border, check_numbers, check_stride, check_whole

# Pairs of fields, by the group's order, below which the Fourier transform never pays: the cost model is not asked.
FEW = {4: 70, 8: 24}


def _one(value: int | tuple[int, ...], name: str, who: str) -> int:
    """One number for both axes; a pair of different ones cannot commute with quarter turns."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(set(values)) != 1 or not all(isinstance(v, int) for v in values):
        raise ValueError(
            f"{who}: {name}={value!r}; quarter turns swap the axes, so it must be one whole number for both"
        )
    return values[0]


def _check_regular(x: Tensor, channels: int | None, order: int | None, who: str) -> None:
    # == one by one, not `in`: a compiler's symbolic sizes do not know `in`.
    fits = (
        x.dim() == 5
        and (channels is None or x.shape[1] == channels)
        and (order is None or x.shape[2] == order)
    )
    if not fits:
        c, g = ("C" if channels is None else channels), ("G" if order is None else order)
        raise ValueError(f"{who} takes a regular field (B, {c}, {g}, H, W); got {tuple(x.shape)}")


class _GroupConvolution(nn.Module):
    """What the four convolutions share: arguments in torch's order, one bias a field, filters kept for
    inference."""

    input_field: ClassVar[str]
    output_field: ClassVar[str]
    planes_in = planes_out = True  # whether input and output are regular fields
    filter_on_group = False
    transposed = False
    _table: Tensor
    _back: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        group: Group | str = P4M,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.group = named_group(group)
        self.order = self.group.order
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _one(kernel_size, "kernel_size", who)
        self.stride, self.dilation = _one(stride, "stride", who), _one(dilation, "dilation", who)
        if padding == "same":
            if self.kernel_size % 2 == 0 or self.stride != 1:
                raise ValueError(f"{who}: padding='same' needs an odd kernel_size and stride 1")
            padding = self.dilation * (self.kernel_size - 1) // 2
        elif isinstance(padding, str):
            raise ValueError(f"{who}: padding={padding!r}; give a number or 'same'")
        self.padding = _one(padding, "padding", who)
        check_whole(
            who, in_channels=in_channels, out_channels=out_channels, kernel_size=self.kernel_size,
            stride=self.stride, dilation=self.dilation, groups=groups,
        )  # fmt: skip
        check_whole(who, 0, padding=self.padding)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{who}: {in_channels} and {out_channels} channels do not divide into groups={groups}"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"{who}: padding_mode={padding_mode!r}; torch knows {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        planes = (self.group.order,) if self.filter_on_group else ()
        k = self.kernel_size
        self.weight = nn.Parameter(
            torch.empty(first, second // groups, *planes, k, k, device=device, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        # Index tables travel with the layer (a copy at each call would make an accelerator wait) but not in
        # its state.
        table, back = regular.copy_tables(self.group, k, self.group.order if self.filter_on_group else 1)
        self.register_buffer("_table", table.to(self.weight.device), persistent=False)
        self.register_buffer("_back", back.to(self.weight.device), persistent=False)
        self._kept = KeptFilters()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's own initialisation of an ordinary convolution with the expanded filter's fan-in."""
        fan_in = (
            self.in_channels
            // self.groups
            * self.kernel_size**2
            * (self.group.order if self.planes_in else 1)
        )
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.to(memory_format=torch.channels_last)` of a whole network refuses a weight with five axes. Its taps
        # are made anew in any case, so it goes by with four and keeps its own order.
        def with_four_axes(t: Tensor) -> Tensor:
            return fn(t.flatten(1, 2)).unflatten(1, t.shape[1:3]).contiguous() if t.dim() == 5 else fn(t)

        return super()._apply(with_four_axes, recurse)

    def _expand(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def taps(self) -> Tensor:
        """The taps of the ordinary convolution that this layer is, differentiable; (O, I / groups, k, k) of
        maps."""
        return self._kept.get("taps", self.weight, self._expand)

    def _plane_bias(self) -> Tensor | None:
        """One bias a feature map: the field's own, on each of its planes."""
        if self.bias is None or not self.planes_out:
            return self.bias
        return self.bias.repeat_interleave(self.group.order)

    def _check_input(self, x: Tensor) -> None:
        weight = self.weight
        if (
            self.planes_in
            and isinstance(x, Tensor)
            and x.dtype == weight.dtype
            and x.device == weight.device
            and x.dim() == 5
            and x.shape[1] == self.in_channels
            and x.shape[2] == self.order
        ):
            return  # in one go: in a small layer, each call shows
        who = type(self).__name__
        check_numbers(x, weight, who)
        if self.planes_in:
            _check_regular(x, self.in_channels, self.order, who)
        elif x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"{who} takes a picture (B, {self.in_channels}, H, W); got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        window = self.dilation * (self.kernel_size - 1) + 1
        check_stride(x, window, self.stride, self.padding, type(self).__name__)
        return self._plainly(x)

    def _plainly(self, x: Tensor) -> Tensor:
        """One ordinary convolution of an input that has been looked at."""
        flat = x.flatten(1, 2) if self.planes_in else x  # (B, C G, H, W): a view
        padding = self.padding
        if padding and self.padding_mode != "zeros":
            check_border(flat, padding, self.padding_mode, type(self).__name__)
            flat, padding = F.pad(flat, (padding,) * 4, mode=self.padding_mode), 0
        taps = self._kept.get("taps", self.weight, self._expand)
        bias = None if self.bias is None else self._plane_bias()
        y = F.conv2d(flat, taps, bias, self.stride, padding, self.dilation, self.groups)
        if not self.planes_out:
            return y
        return y.view(y.shape[0], self.out_channels, self.order, y.shape[2], y.shape[3])

    def to_plain(self) -> nn.Module:
        """The same function made of torch's own modules, for ``export``."""
        g = self.group.order
        kind: Any = nn.ConvTranspose2d if self.transposed else nn.Conv2d
        plain = kind(
            self.in_channels * (g if self.planes_in else 1),
            self.out_channels * (g if self.planes_out else 1),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        with torch.no_grad():
            plain.weight.copy_(self._expand(self.weight))
            bias = self._plane_bias()
            if bias is not None and plain.bias is not None:
                plain.bias.copy_(bias)
        parts: list[nn.Module] = [nn.Flatten(1, 2)] if self.planes_in else []
        parts.append(plain)
        if self.planes_out:
            parts.append(nn.Unflatten(1, (self.out_channels, g)))
        return nn.Sequential(*parts)

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        for name, plain in (("padding", 0), ("dilation", 1), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != plain:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join([*parts, f"group={self.group.name}"])


class LiftingConv2d(_GroupConvolution):
    """Z² → G convolution: picture (B, I, H, W) to regular field (B, O, G, H', W'); eq. 1 of the GU-Net paper.

    Arguments as for ``nn.Conv2d`` (square kernels; ``padding`` a number or "same"), then ``group``: "p4" or
    "p4m". Output plane g is the picture correlated with the filter moved by g. ``weight`` is (O, I / groups,
    k, k).

    >>> LiftingConv2d(3, 4, 3, padding=1)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 4, 8, 8, 8])
    """

    input_field, output_field = "planar", "regular"
    planes_in = False

    def _expand(self, weight: Tensor) -> Tensor:
        return regular.lifting_taps(weight, self.group, (self._table, self._back))


class GroupConv2d(ShortWay, _GroupConvolution):
    """G → G convolution: regular field (B, I, G, H, W) to (B, O, G, H', W'); eq. 2 of the GU-Net paper.

    Arguments as for ``nn.Conv2d`` (square kernels; ``padding`` a number or "same"), then ``group``: "p4" or
    "p4m". ``weight`` is (O, I / groups, G, k, k). Computed as one ordinary convolution or through the
    group's Fourier transform, whichever is cheaper for the shape (``kernels/evaluate.py``); the numbers are
    the same.

    >>> GroupConv2d(4, 6, 3, padding=1, group="p4")(torch.zeros(1, 4, 4, 8, 8)).shape
    torch.Size([1, 6, 4, 8, 8])
    """

    input_field = output_field = "regular"
    filter_on_group = True
    _gives: torch.Size  # the shape of the output for the known one of the input

    def _expand(self, weight: Tensor) -> Tensor:
        return regular.regular_taps(weight, self.group, (self._table, self._back))

    @property
    def _few(self) -> bool:
        return self.in_channels * self.out_channels < FEW[self.order]

    def evaluation(self, x: Tensor) -> str:
        """How this input will be computed: "expand" or "fourier"."""
        if is_compiling():  # one dense convolution compiles to one kernel
            return "expand"
        if self._few and preferred() is None:
            return "expand"
        reach = self.dilation * (self.kernel_size - 1)
        possible = (
            self.stride == self.groups == 1
            and self.padding_mode == "zeros"
            and self.padding <= reach
            and x.dtype == self.weight.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled(x.device.type)
            and not transforming()
        )
        if not possible:
            return "expand"
        training = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        grow = 2 * self.padding - reach
        return cheaper_group_conv(
            self.order,
            self.in_channels,
            self.out_channels,
            self.kernel_size**2,
            x.shape[0] * (x.shape[3] + grow) * (x.shape[4] + grow),
            training,
            self._kept.usable(self.weight),
            x.device.type,
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self._straight(x)
        if weight is not None:
            taps = self._kept.get_eagerly("taps", weight, self._expand)
            bias = None if self.bias is None else self._plane_bias()
            y = F.conv2d(x.flatten(1, 2), taps, bias, self.stride, self.padding, self.dilation, self.groups)
            return y.view(self._gives)
        self._check_input(x)
        window = self.dilation * (self.kernel_size - 1) + 1
        if self.stride > 1 or x.shape[3] < window or x.shape[4] < window:  # else nothing can be wrong
            check_stride(x, window, self.stride, self.padding, "GroupConv2d")
        if self.evaluation(x) == "expand":
            y = self._plainly(x)
            if not is_compiling() and self._few and self.padding_mode == "zeros" and not open_preferences:
                self._known, self._gives = x.shape, y.shape
            return y
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            y = fourier.fourier_group_conv(x, self.weight, self.group, self.padding, self.dilation)
        else:
            filters = self._kept.get("fourier", self.weight, lambda w: fourier.transformed(w, self.group))
            y = fourier.convolve_transformed(
                x, filters, self.group, self.kernel_size, self.padding, self.dilation
            )
        return y if self.bias is None else y + self.bias.view(-1, 1, 1, 1)


class GroupConvTranspose2d(_GroupConvolution):
    """Transposed G → G convolution: (B, I, G, H, W) to (B, O, G, H', W'), H' = (H - 1) stride - 2 padding +
    k.

    Arguments as for ``nn.ConvTranspose2d``, then ``group``. Exact for every stride (GU-Net paper, section
    2.1), but only with ``output_padding`` 0: the extra row would be added on one side. With k = 3, stride 2,
    padding 1 it maps H to 2 H - 1. ``weight`` is (I, O / groups, G, k, k), torch's order.

    >>> GroupConvTranspose2d(4, 2, 3, stride=2, padding=1)(torch.zeros(1, 4, 8, 5, 5)).shape
    torch.Size([1, 2, 8, 9, 9])
    """

    input_field = output_field = "regular"
    filter_on_group = transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        padding_mode: str = "zeros",
        *,
        group: Group | str = P4M,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if output_padding not in (0, (0, 0)):
            raise ValueError(
                f"GroupConvTranspose2d: output_padding={output_padding} adds pixels on one side only, "
                f"which breaks "
                "equivariance; use 0 and sizes 2 N - 1 (kernel 3, stride 2, padding 1)"
            )
        if padding_mode != "zeros":
            raise ValueError(
                "GroupConvTranspose2d: torch's transposed convolution knows padding_mode='zeros' only"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            group=group,
            device=device,
            dtype=dtype,
        )

    def _expand(self, weight: Tensor) -> Tensor:
        return regular.regular_taps(weight, self.group, (self._table, self._back))

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        y = F.conv_transpose2d(
            x.flatten(1, 2),
            self.taps(),
            self._plane_bias(),
            self.stride,
            self.padding,
            0,
            self.groups,
            self.dilation,
        )
        return y.unflatten(1, (self.out_channels, self.group.order))


class GroupToPlaneConv2d(_GroupConvolution):
    """G → Z² convolution: regular field (B, I, G, H, W) to planar maps (B, O, H', W'); eq. 3 of the GU-Net
    paper.

    One planar filter a pair of channels, ``weight`` (O, I / groups, k, k): plane h sees it moved by h, and
    the planes are summed. The most general linear equivariant map of its kind, more expressive than pooling
    over the group.

    >>> GroupToPlaneConv2d(4, 2, 3, padding=1)(torch.zeros(1, 4, 8, 9, 9)).shape
    torch.Size([1, 2, 9, 9])
    """

    input_field, output_field = "regular", "planar"
    planes_out = False

    def _expand(self, weight: Tensor) -> Tensor:
        return regular.projection_taps(weight, self.group, (self._table, self._back))


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch norm of regular fields: one mean and variance a field, over (B, G, H, W).

    Normalising each orientation on its own would break equivariance while training, since a turn exchanges
    the planes. Arguments and state as for ``nn.BatchNorm2d``; ``num_features`` counts fields.
    """

    input_field = output_field = "regular"

    def _check_input_dim(self, input: Tensor) -> None:
        _check_regular(input, self.num_features, None, "GroupBatchNorm2d")

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        plain = nn.BatchNorm3d(
            self.num_features, self.eps, self.momentum, self.affine, self.track_running_stats
        )
        plain.load_state_dict(self.state_dict())
        reference = next(iter(self.state_dict().values()), None)
        if reference is not None:
            plain = plain.to(device=reference.device)
        if self.weight is not None:
            plain = plain.to(dtype=self.weight.dtype)
        return plain.train(self.training)


class GroupPool(nn.Module):
    """Pool over the group, "mean" or "max": regular field (B, C, G, H, W) to planar maps (B, C, H, W)."""

    input_field, output_field = "regular", "planar"

    def __init__(self, reduce: str = "mean") -> None:
        super().__init__()
        if reduce not in ("mean", "max"):
            raise ValueError(f"GroupPool: reduce={reduce!r}; the choices are 'mean' and 'max'")
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        _check_regular(x, None, None, "GroupPool")
        return x.mean(2) if self.reduce == "mean" else x.amax(2)

    def extra_repr(self) -> str:
        return self.reduce

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return Reduced(self.reduce)


class _SpatialPool(nn.Module):
    input_field = output_field = "regular"

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        who = type(self).__name__
        self.kernel_size = _one(kernel_size, "kernel_size", who)
        self.stride = self.kernel_size if stride is None else _one(stride, "stride", who)
        self.padding = _one(padding, "padding", who)
        if 2 * self.padding > self.kernel_size:
            raise ValueError(f"{who}: padding {padding} is more than half of the window {kernel_size}")

    def _window(self) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]:
        return (
            (1, self.kernel_size, self.kernel_size),
            (1, self.stride, self.stride),
            (0, self.padding, self.padding),
        )

    def _check(self, x: Tensor) -> None:
        _check_regular(x, None, None, type(self).__name__)
        check_stride(x, self.kernel_size, self.stride, self.padding, type(self).__name__)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class GroupMaxPool2d(_SpatialPool):
    """Max-pooling in the plane, every plane of a regular field alike: (B, C, G, H, W) to (B, C, G, H', W').

    Arguments as for ``nn.MaxPool2d``. Sizes for which the windows would not be centred are refused.
    """

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        y = F.max_pool2d(x.flatten(1, 2), self.kernel_size, self.stride, self.padding)
        return y.unflatten(1, x.shape[1:3])

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return nn.MaxPool3d(*self._window())


class GroupAvgPool2d(_SpatialPool):
    """Average-pooling in the plane: (B, C, G, H, W) to (B, C, G, H', W'); arguments as for
    ``nn.AvgPool2d``."""

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        y = F.avg_pool2d(x.flatten(1, 2), self.kernel_size, self.stride, self.padding)
        return y.unflatten(1, x.shape[1:3])

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return nn.AvgPool3d(*self._window())


class GroupUpsample(nn.Module):
    """Repeat every pixel ``scale_factor`` times along both axes: (B, C, G, H, W) to (B, C, G, sH, sW)."""

    input_field = output_field = "regular"

    def __init__(self, scale_factor: int = 2) -> None:
        super().__init__()
        if scale_factor != int(scale_factor) or scale_factor < 1:
            raise ValueError(f"GroupUpsample repeats pixels a whole number of times; got {scale_factor}")
        self.scale_factor = int(scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        _check_regular(x, None, None, "GroupUpsample")
        y = F.interpolate(x.flatten(1, 2), scale_factor=float(self.scale_factor), mode="nearest")
        return y.unflatten(1, x.shape[1:3])

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}"

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return nn.Upsample(
            scale_factor=(1.0, float(self.scale_factor), float(self.scale_factor)), mode="nearest"
        )
