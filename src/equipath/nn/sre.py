"""Symmetric rotation-equivariant (SRE) convolutions: ordinary planar layers whose filters are made of rings.

The SRENet paper's layer. Feature maps stay planar, ``(B, C, H, W)``, so batch norm, ReLU and global pooling
are the ordinary ones; only pooling windows and strides must leave the grid of samples symmetric in the
picture, and these layers refuse sizes for which it is not.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from equipath.kernels.basis import basis_conv2d, crop_filters, evaluation, expand_filters
from equipath.kernels.evaluate import dense_conv2d, open_preferences
from equipath.kernels.rings import ring_basis, ring_count, ring_sizes
from equipath.nn.cache import KeptFilters, ShortWay
from equipath.nn.sizes import (
    PADDING_MODES,
    check_border,
    check_numbers,
    check_stride,
    check_whole,
    check_windows,
)


class _SREBase(nn.Module):
    """What the convolution and its transpose share: the rings, the weights, how both print and start."""

    output_field = "planar"
    basis: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, dilation: int,
        groups: int, bias: bool, weight_channels: tuple[int, int], device, dtype,
    ) -> None:  # fmt: skip
        super().__init__()
        who = type(self).__name__
        check_whole(
            who,
            in_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        check_whole(who, 0, padding=padding)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{who} splits its channels into {groups} groups, which must divide in_channels "
                f"({in_channels}) and out_channels ({out_channels})"
            )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        rings = ring_count(kernel_size)
        self.weight = nn.Parameter(torch.empty(*weight_channels, rings, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        basis = ring_basis(kernel_size, self.weight.dtype).to(self.weight.device)
        self.register_buffer("basis", basis, persistent=False)  # recomputed, so never stale in a state_dict
        self._supports = tuple(f.shape[-1] for f in crop_filters(basis))
        self._kept = KeptFilters()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights with variance gain 2 for white input, each ring contributing the same.

        A ring of m taps passes ``m·w²`` of the variance of a white input, so its weights have variance
        ``2 / (fan_in · rings · m)``; with one variance for all, the outermost ring would outweigh the rest.
        """
        fan_in = self.in_channels // self.groups
        taps = ring_sizes(self.kernel_size).to(self.weight)
        with torch.no_grad():
            self.weight.normal_().mul_((2.0 / (fan_in * len(taps) * taps)).sqrt())
            if self.bias is not None:
                self.bias.zero_()

    @property
    def filters(self) -> Tensor:
        """The dense filters (…, …, k, k) that the rings and weights stand for."""
        return expand_filters(self.weight, self.basis.to(self.weight.dtype))

    def _dense(self) -> Tensor:
        """The dense filters, remembered while no gradient is wanted and the weights stay what they are."""
        return self._kept.get("dense", self.weight, self._densely)

    def _densely(self, weight: Tensor) -> Tensor:
        return expand_filters(weight, self.basis.to(weight.dtype))

    def _densely_last(self, weight: Tensor) -> Tensor:
        return self._densely(weight).contiguous(memory_format=torch.channels_last)

    def _cropped(self) -> list[Tensor]:
        half = self.kernel_size // 2
        return [
            self.basis[n, half - k // 2 : half + k // 2 + 1, half - k // 2 : half + k // 2 + 1]
            for n, k in enumerate(self._supports)
        ]

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join([*parts, f"rings={self.weight.shape[-1]}"])

    def _check(self, x: Tensor) -> None:
        check_numbers(x, self.weight, type(self).__name__)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} wants (B, {self.in_channels}, H, W); got {tuple(x.shape)}"
            )


class SREConv2d(ShortWay, _SREBase):
    """Ring-filter convolution, (B, C, H, W) to (B, C', H', W'), exactly equivariant to p4m.

    Arguments are those of ``torch.nn.Conv2d``; kernel_size, stride, padding and dilation are one number each.

    Args:
        kernel_size: side of the filter, odd.
        stride: the samples must lie symmetric in the picture: ``(H + 2·padding - dilation·(k - 1) - 1)`` must
            be a multiple of it, for W likewise.
        padding: pixels at each side, or "same" (stride 1).
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Attributes:
        weight: (C', C / groups, rings), innermost ring first.

    Raises:
        ValueError: even kernel sizes, or picture sizes that a stride would sample off centre.

    >>> SREConv2d(3, 8, 5, padding=2)(torch.zeros(1, 3, 20, 24)).shape
    torch.Size([1, 8, 20, 24])
    """

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
        device=None,
        dtype=None,
    ) -> None:
        if padding == "same":
            if stride != 1:
                raise ValueError(f"padding='same' goes with stride 1; got stride={stride}")
            padding = dilation * (kernel_size // 2)
        if isinstance(padding, str):
            raise ValueError(f"padding is {padding!r}; give a number of pixels or 'same'")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode is {padding_mode!r}; the choices are {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // max(1, groups))
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            shape,
            device,
            dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self._straight(x)
        if weight is not None:
            # torch brings filters into the order of the picture at every call, unless they have it
            last = x.is_contiguous(memory_format=torch.channels_last)
            taps = self._kept.get_eagerly(
                "dense last" if last else "dense", weight, self._densely_last if last else self._densely
            )
            return dense_conv2d(x, taps, self.bias, self.stride, self.padding, self.dilation, self.groups)
        self._check(x)
        window = self.dilation * (self.kernel_size - 1) + 1
        check_stride(x, window, self.stride, self.padding, "SREConv2d")
        padding = self.padding
        if self.padding_mode != "zeros" and padding:
            check_border(x, padding, self.padding_mode, "SREConv2d")
            x, padding = F.pad(x, (padding,) * 4, mode=self.padding_mode), 0
        elif not is_compiling() and not open_preferences:
            self._known = x.shape if self.evaluation(x) == "expand" else None
        return basis_conv2d(
            x, self.out_channels, self.kernel_size, self._supports, self._cropped, lambda: self.weight,
            self._dense, self.bias, self.stride, padding, self.dilation, self.groups,
        )  # fmt: skip

    def evaluation(self, x: Tensor) -> str:
        """How this input would be filtered: "expand" or "factor" (``kernels/basis.py``)."""
        return evaluation(
            x, self.out_channels, self._supports, self.kernel_size, self.stride, self.dilation, self.groups
        )

    def to_plain(self) -> nn.Conv2d:
        """The same map as an ordinary ``torch.nn.Conv2d``."""
        plain = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation,
            self.groups, self.bias is not None, self.padding_mode, self.weight.device,  # type: ignore[arg-type]
            self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            plain.weight.copy_(self.filters)
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        return plain


class SREConvTranspose2d(_SREBase):
    """Transposed ring-filter convolution, (B, C, H, W) to (B, C', H', W'), exactly equivariant to p4m.

    ``H' = (H - 1)·stride - 2·padding + dilation·(k - 1) + 1``. There is no ``output_padding``: it adds a row
    on one side only, which breaks equivariance.

    Attributes:
        weight: (C, C' / groups, rings), innermost ring first.

    >>> SREConvTranspose2d(4, 2, 3, stride=2, padding=1)(torch.zeros(1, 4, 9, 11)).shape
    torch.Size([1, 2, 17, 21])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        *,
        device=None,
        dtype=None,
    ) -> None:
        shape = (in_channels, out_channels // max(1, groups))
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            shape,
            device,
            dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        return F.conv_transpose2d(
            x, self._dense(), self.bias, self.stride, self.padding, 0, self.groups, self.dilation
        )

    def to_plain(self) -> nn.ConvTranspose2d:
        """The same map as an ordinary ``torch.nn.ConvTranspose2d``."""
        plain = nn.ConvTranspose2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, 0, self.groups,
            self.bias is not None, self.dilation, device=self.weight.device, dtype=self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            plain.weight.copy_(self.filters)
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        return plain


class EvenAvgPool2d(nn.Module):
    """Average over k x k windows, stride k; commutes exactly with p4m because it insists on multiples of k.

    The SRENet paper's down-sampling: pool, then convolve with stride 1.
    """

    output_field = "planar"

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        check_windows(x, self.kernel_size)
        return F.avg_pool2d(x, self.kernel_size)

    def to_plain(self) -> nn.AvgPool2d:
        """The same layer in plain torch, for the exported network."""
        return nn.AvgPool2d(self.kernel_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"


def sre_gain(kernel_size: int, smooth: bool = False) -> float:
    """Variance gain of a freshly initialised ring layer: 2 for white input, more for a smooth one.

    ``smooth``: all taps of a window see the same value, the other extreme. What a picture gives lies between.
    """
    taps = ring_sizes(kernel_size).double()
    per_ring = 2.0 / (len(taps) * taps)
    total = (per_ring * taps**2).sum() if smooth else (per_ring * taps).sum()
    return float(math.fsum([total.item()]))
