"""Layers of scale-equivariant networks: Gaussian derivatives (SEUNet, N-Jet), SESN and DISCO.

Section 3 of the SEUNet paper (002). Scale fields are (B, C, S, H, W), one plane a scale; a hidden layer's
scale k sees scale k only, and all scales share the weights, so that enlarging the picture moves the response
from one scale towards the next. In memory the scale axis is outermost: (S, B, C, H, W), seen through a
permuted view. So what does not depend on the scale (norms, pooling, up-sampling, 1x1 convolutions) is an
ordinary planar layer on a batch of S·B pictures, without a copy.

Exact here: shifts (by whole pixels), and that no scale leaks into another. Scale equivariance itself is as
good as pixels allow; measure it with ``equipath.equivariance`` (eq. 10 and 12).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.kernels.disco import whole_scales
from equipath.kernels.evaluate import dense_conv2d
from equipath.kernels.gaussian import (
    SAMPLINGS,
    constrained_sigma,
    correlation_factors,
    gaussian_radius,
    gaussian_taps,
)
from equipath.kernels.hermite import hermite_radii, hermite_taps
from equipath.kernels.separable import derivative_orders, evaluations, scale_conv2d, separable_basis
from equipath.nn.export import Reduced
from equipath.nn.sizes import PADDING_MODES, check_border, check_numbers, check_whole, check_windows

MODES = ("constrained", "fixed", "free")


def _fold(x: Tensor) -> Tensor:
    """(B, C, S, H, W) as a batch of planar maps (S·B, C, H, W): a view if the scale is outermost in
    memory."""
    return x.movedim(2, 0).flatten(0, 1)


def _unfold(x: Tensor, scales: int) -> Tensor:
    """(S·B, C, H, W) as a scale field (B, C, S, H, W), a view."""
    return x.unflatten(0, (scales, -1)).movedim(0, 2)


def _check_field(x: Tensor, channels: int | None, scales: int | None, who: str) -> None:
    fits = (
        x.dim() == 5
        and (channels is None or x.shape[1] == channels)
        and (scales is None or x.shape[2] == scales)
    )
    if not fits:
        c, s = ("C" if channels is None else channels), ("S" if scales is None else scales)
        raise ValueError(f"{who} takes a scale field (B, {c}, {s}, H, W); got {tuple(x.shape)}")


class _Planes(nn.Module):
    """Runs per-scale plain convolutions: what the layers become when written as plain torch."""

    def __init__(self, convolutions: Sequence[nn.Module], lifting: bool) -> None:
        super().__init__()
        self.convolutions, self.lifting = nn.ModuleList(convolutions), lifting

    def forward(self, x: Tensor) -> Tensor:
        planes = [conv(x if self.lifting else x[:, :, k]) for k, conv in enumerate(self.convolutions)]
        return torch.stack(planes, 2)


class _ScaleConvolution(nn.Module):
    """What the three families share: one set of weights for all scales, a bias a field, the plain form."""

    input_field = output_field = "scale"
    lifting = False

    def __init__(
        self, in_channels: int, out_channels: int, scales: int, functions: tuple[int, ...], bias: bool,
        padding_mode: str, device: torch.device | str | None, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_whole(type(self).__name__, in_channels=in_channels, out_channels=out_channels)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode is {padding_mode!r}; the choices are {', '.join(PADDING_MODES)}")
        self.in_channels, self.out_channels, self.scales = in_channels, out_channels, scales
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels, *functions)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None

    def _planes(self, x: Tensor) -> Tensor:
        """The input as (S, B, C, H, W), checked."""
        who = type(self).__name__
        check_numbers(x, self.weight, who)
        if not self.lifting:
            _check_field(x, self.in_channels, self.scales, who)
            return x.movedim(2, 0)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"{who} takes a picture (B, {self.in_channels}, H, W); got {tuple(x.shape)}")
        return x.expand(self.scales, -1, -1, -1, -1)

    def _biased(self, y: Tensor) -> Tensor:
        """(S, B, O, H, W) as a scale field, with the bias."""
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None]
        return y.movedim(0, 2)

    def _plain(self, filters: Sequence[Tensor], dilations: Sequence[int] | None = None) -> nn.Module:
        convolutions = []
        for k, taps in enumerate(filters):
            dilation = dilations[k] if dilations else 1
            plain = nn.Conv2d(
                self.in_channels, self.out_channels, taps.shape[-1], dilation=dilation,
                padding=dilation * (taps.shape[-1] // 2), bias=self.bias is not None,
                padding_mode=self.padding_mode,  # type: ignore[arg-type]
                device=taps.device, dtype=taps.dtype,
            )  # fmt: skip
            with torch.no_grad():
                plain.weight.copy_(taps)
                if self.bias is not None and plain.bias is not None:
                    plain.bias.copy_(self.bias)
            convolutions.append(plain)
        return _Planes(convolutions, self.lifting)

    def _repr(self) -> list[str]:
        parts = [f"{self.in_channels}, {self.out_channels}, scales={self.scales}"]
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        if self.bias is not None:
            parts.append("bias=True")
        return parts


class _SeparableConvolution(_ScaleConvolution):
    """Gaussian-derivative and Hermite layers: shared mixing weights of separable functions."""

    def _factors(self, radii: list[int]) -> tuple[Tensor, Tensor]:
        """1-D factors along x and y, (S, order + 1, 2 R + 1) each, to be correlated."""
        raise NotImplementedError

    @property
    def radii(self) -> list[int]:
        """Half the size of each scale's filter, in pixels."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        planes, radii = self._planes(x), self.radii
        check_border(x, max(radii), self.padding_mode, type(self).__name__)
        rows, columns = self._factors(radii)
        return self._biased(scale_conv2d(planes, self.weight, rows, columns, radii, self.padding_mode))

    def evaluation(self, x: Tensor) -> list[str]:
        """How each scale of this input will be computed: "expand" or "factor"."""
        training = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        planes, radii = self._planes(x), self.radii
        count = self._factors(radii)[0].shape[1]
        return evaluations(planes.shape, self.out_channels, radii, count, planes, training=training)

    @property
    def filters(self) -> list[Tensor]:
        """The dense filters (O, C, k, k) of each scale, as they are correlated with the picture."""
        radii = self.radii
        rows, columns = (t.to(self.weight.dtype) for t in self._factors(radii))
        basis = separable_basis(rows, columns)
        centre = basis.shape[-1] // 2
        dense = []
        for k, r in enumerate(radii):
            cut = basis[k, :, centre - r : centre + r + 1, centre - r : centre + r + 1]
            dense.append(torch.einsum("ocn,nyx->ocyx", self.weight, cut))
        return dense

    def to_plain(self) -> nn.Module:
        """The same map as one ordinary convolution a scale, for ``export``."""
        with torch.no_grad():
            return self._plain(self.filters)


class GaussianDerivativeConv2d(_SeparableConvolution):
    """Gaussian-derivative convolution, scale field (B, C, S, H, W) to (B, C', S, H, W); eq. 4 of the SEUNet
    paper.

    Each scale's filters are the same mixtures of the Gaussian derivatives up to ``order`` at that scale's
    own σ, scale-normalised. With one scale it is the N-Jet layer of Pintea et al. 2021.

    Args:
        in_channels, out_channels: channels of each scale.
        sigmas: one interval (low, high) a scale, in pixels; 0 ≤ low < high.
        order: the highest total order N of derivatives (the paper's 1).
        mode: "constrained": σ is learnt within its interval, eq. 6; "fixed": the middle of the interval;
            "free": learnt, positive, starting in the middle.
        sampling: how functions become taps, see ``kernels.gaussian``; "discrete" is sound at every σ.
        truncate: filters reach ⌈truncate · σ⌉ pixels; the paper's eq. 7 has 2.
        bias: one a field; the paper has none.

    The size of a filter follows the *upper end* of its interval in "constrained" mode. On the paper's
    intervals, which are half a pixel long, this is eq. 7 exactly, since ⌈2σ⌉ is the same for every σ inside;
    on longer ones no filter is smaller than eq. 7 asks. Sizes never change while training, so the layer
    compiles once and never reads σ back from an accelerator. A "free" σ has no upper end: its layer reads
    the current σ at each call, grows and shrinks, and is slower by the size of the filters it finds (the
    paper: three times); compiled, it keeps the sizes of the last call that was not.

    Attributes:
        weight: (C', C, n), α of eq. 4, ordered as ``kernels.separable.derivative_orders``; starts as N(0, 1).
        x: (S,) learnt numbers behind σ (absent if fixed): eq. 6's x, or log σ if free.

    >>> layer = GaussianDerivativeConv2d(4, 6, [(0, 0.5), (0.5, 1)])
    >>> layer(torch.zeros(1, 4, 2, 16, 20)).shape
    torch.Size([1, 6, 2, 16, 20])
    """

    low: Tensor
    high: Tensor
    x: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        sigmas: Sequence[tuple[float, float]],
        order: int = 1,
        *,
        mode: str = "constrained",
        sampling: str = "discrete",
        truncate: float = 2.0,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        who = type(self).__name__
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; the choices are {', '.join(MODES)}")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; the choices are {', '.join(SAMPLINGS)}")
        intervals = [tuple(float(v) for v in pair) for pair in sigmas]
        if not intervals or any(len(p) != 2 or not 0 <= p[0] < p[1] < math.inf for p in intervals):
            raise ValueError(
                f"{who} wants one interval (low, high) of σ a scale, 0 ≤ low < high; got {list(sigmas)}"
            )
        functions = len(derivative_orders(order))
        super().__init__(
            in_channels, out_channels, len(intervals), (functions,), bias, padding_mode, device, dtype
        )
        self.intervals, self.order, self.mode = intervals, order, mode
        self.sampling, self.truncate = sampling, truncate
        for name, end in (("low", 0), ("high", 1)):
            ends = torch.tensor([p[end] for p in intervals], device=device, dtype=self.weight.dtype)
            self.register_buffer(name, ends, persistent=False)  # said by the constructor, never by a file
        self.x = None if mode == "fixed" else nn.Parameter(torch.empty_like(self.low))
        middles = [(low + high) / 2 for low, high in intervals]
        bounds = {"constrained": [high for _, high in intervals], "fixed": middles, "free": middles}[mode]
        self._radii = [gaussian_radius(s, truncate) for s in bounds]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1), σ in the middle of its interval, bias 0."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.x is not None:
            with torch.no_grad():
                self.x.copy_(((self.low + self.high) / 2).log() if self.mode == "free" else self.low * 0)

    @property
    def sigma(self) -> Tensor:
        """σ of each scale in pixels, (S,), differentiable; in float32 at least."""
        low, high = self.low, self.high
        if low.dtype in (torch.float16, torch.bfloat16):
            low, high = low.float(), high.float()
        if self.x is None:
            return (low + high) / 2
        x = self.x.to(low.dtype)
        return constrained_sigma(x, low, high) if self.mode == "constrained" else x.exp()

    @property
    def radii(self) -> list[int]:
        if self.mode == "free" and not torch.compiler.is_compiling():
            self._radii = [gaussian_radius(s, self.truncate) for s in self.sigma.tolist()]
        return self._radii

    def _factors(self, radii: list[int]) -> tuple[Tensor, Tensor]:
        return correlation_factors(gaussian_taps(self.sigma, self.order, radii, self.sampling))

    def extra_repr(self) -> str:
        sigmas = ", ".join(f"{low:g}–{high:g}" for low, high in self.intervals)
        return ", ".join([*self._repr(), f"order={self.order}, sigma={self.mode} in {sigmas}"])


class GaussianDerivativeLiftingConv2d(GaussianDerivativeConv2d):
    """The first layer: every scale sees the whole picture, (B, C, H, W) to (B, C', S, H, W).

    Arguments as for ``GaussianDerivativeConv2d``.

    >>> GaussianDerivativeLiftingConv2d(3, 6, [(0, 0.5), (0.5, 1)])(torch.zeros(1, 3, 16, 20)).shape
    torch.Size([1, 6, 2, 16, 20])
    """

    input_field = "planar"
    lifting = True


class SESNConv2d(_SeparableConvolution):
    """Scale-equivariant steerable convolution, (B, C, S, H, W) to (B, C', S, H, W); Sosnovik et al. 2020.

    Mixtures of Hermite functions (``kernels.hermite``) at fixed scales; without interaction between scales.

    Args:
        scales: the scale factors, such as (1, 2, 3, 4, 5).
        kernel_size: side of the filter at the largest scale, odd; the others shrink in proportion.
        order: the highest total order of the polynomials.

    Attributes:
        weight: (C', C, n), ordered as ``kernels.separable.derivative_orders``.

    >>> SESNConv2d(4, 6, (1, 2, 3))(torch.zeros(1, 4, 3, 16, 20)).shape
    torch.Size([1, 6, 3, 16, 20])
    """

    taps: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scales: Sequence[float] = (1, 2, 3, 4, 5),
        kernel_size: int = 11,
        order: int = 4,
        *,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        radii, functions = hermite_radii(kernel_size, scales), len(derivative_orders(order))
        super().__init__(
            in_channels, out_channels, len(radii), (functions,), bias, padding_mode, device, dtype
        )
        self.scale_factors, self.kernel_size, self.order = tuple(scales), kernel_size, order
        self._radii = radii
        # In float64, so that `.double()` later gives exact taps and not the rounded ones of float32.
        self._exact = hermite_taps(scales, radii, order, torch.float64)
        taps = self._exact.to(device=self.weight.device, dtype=self.weight.dtype)
        self.register_buffer("taps", taps, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform weights of variance 1 / (C n), as an ordinary convolution's over its taps."""
        bound = math.sqrt(3 / (self.in_channels * self.weight.shape[-1]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def radii(self) -> list[int]:
        return self._radii

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        module = super()._apply(fn, recurse)
        if self.taps.device.type != "meta":
            self.taps = self._exact.to(device=self.taps.device, dtype=self.taps.dtype)
        return module

    def _factors(self, radii: list[int]) -> tuple[Tensor, Tensor]:
        return self.taps, self.taps

    def extra_repr(self) -> str:
        return ", ".join([*self._repr(), f"kernel_size={self.kernel_size}, order={self.order}"])


class SESNLiftingConv2d(SESNConv2d):
    """The first SESN layer, (B, C, H, W) to (B, C', S, H, W); arguments as for ``SESNConv2d``."""

    input_field = "planar"
    lifting = True


class DISCOConv2d(_ScaleConvolution):
    """Discrete scale convolution, (B, C, S, H, W) to (B, C', S, H, W): one filter, dilated by the scale.

    Sosnovik et al. 2021 at whole scales (``kernels.disco`` says what others would need); without interaction
    between scales.

    Args:
        scales: whole scale factors, such as (1, 2, 3, 4, 5).
        kernel_size: side of the filter at scale 1, odd; at scale s it spans (k - 1)·s + 1 pixels.

    Attributes:
        weight: (C', C, k, k), the taps themselves. (The authors mix the same taps by a Hermite basis: a
            change of coordinates.)

    >>> DISCOConv2d(4, 6, (1, 2, 3))(torch.zeros(1, 4, 3, 16, 20)).shape
    torch.Size([1, 6, 3, 16, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scales: Sequence[float] = (1, 2, 3, 4, 5),
        kernel_size: int = 3,
        *,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dilations = whole_scales(scales)
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"{type(self).__name__} dilates about a centre pixel, so its side is odd; got {kernel_size!r}"
            )
        super().__init__(
            in_channels, out_channels, len(dilations), (kernel_size, kernel_size), bias, padding_mode,
            device, dtype,
        )  # fmt: skip
        self.dilations, self.kernel_size = dilations, kernel_size
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's own initialisation of an ordinary convolution."""
        bound = 1 / math.sqrt(self.in_channels * self.kernel_size**2)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def radii(self) -> list[int]:
        """Half the span of each scale's filter, in pixels."""
        return [self.kernel_size // 2 * s for s in self.dilations]

    def forward(self, x: Tensor) -> Tensor:
        planes = []
        planes_in = self._planes(x)
        check_border(x, max(self.radii), self.padding_mode, type(self).__name__)
        for plane, dilation, reach in zip(planes_in, self.dilations, self.radii, strict=True):
            padding = reach
            if self.padding_mode != "zeros" and reach:
                plane, padding = F.pad(plane, (reach,) * 4, mode=self.padding_mode), 0
            planes.append(dense_conv2d(plane, self.weight, padding=padding, dilation=dilation))
        return self._biased(torch.stack(planes))

    def to_plain(self) -> nn.Module:
        """The same map as ordinary dilated convolutions, for ``export``."""
        return self._plain([self.weight.detach()] * self.scales, self.dilations)

    def extra_repr(self) -> str:
        return ", ".join([*self._repr(), f"kernel_size={self.kernel_size}, dilations={self.dilations}"])


class DISCOLiftingConv2d(DISCOConv2d):
    """The first DISCO layer, (B, C, H, W) to (B, C', S, H, W); arguments as for ``DISCOConv2d``."""

    input_field = "planar"
    lifting = True


class ScaleSharedConv2d(nn.Conv2d):
    """One ordinary convolution, the same for every scale: (B, C, S, H, W) to (B, C', S, H', W').

    Arguments as for ``nn.Conv2d``. With ``kernel_size=1`` it commutes with scaling; larger ones do not.
    """

    input_field = output_field = "scale"

    def forward(self, input: Tensor) -> Tensor:
        _check_field(input, self.in_channels, None, "ScaleSharedConv2d")
        return _unfold(super().forward(_fold(input)), input.shape[2])

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return _PlainFold(_plain_copy(self, nn.Conv2d))


class ScaleBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of scale fields (B, C, S, H, W).

    Args:
        num_features: channels of each scale.
        scales: None: one mean, variance, gain and offset a channel for all scales, over (B, S, H, W), which
            keeps scale equivariance. A number S: separate ones for each scale, as SEUNet's published code
            has them, which lets a channel mean different things at different scales.

    The other arguments are those of ``nn.BatchNorm2d``.
    """

    input_field = output_field = "scale"

    def __init__(self, num_features: int, scales: int | None = None, **options) -> None:
        check_whole("ScaleBatchNorm2d", num_features=num_features)
        if scales is not None:
            check_whole("ScaleBatchNorm2d", scales=scales)
        super().__init__(num_features * (scales or 1), **options)
        self.scales, self.channels = scales, num_features

    def forward(self, input: Tensor) -> Tensor:
        _check_field(input, self.channels, self.scales, "ScaleBatchNorm2d")
        if self.scales is None:
            return _unfold(super().forward(_fold(input)), input.shape[2])
        return super().forward(input.flatten(1, 2)).unflatten(1, (self.channels, self.scales))

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        plain = _plain_copy(self, nn.BatchNorm2d)
        if self.scales is None:
            return _PlainFold(plain)
        return nn.Sequential(nn.Flatten(1, 2), plain, nn.Unflatten(1, (self.channels, self.scales)))

    def extra_repr(self) -> str:
        kind = "shared by the scales" if self.scales is None else f"separate for {self.scales} scales"
        return f"{self.channels}, {kind}, eps={self.eps}, momentum={self.momentum}"


class ScaleMaxPool2d(nn.Module):
    """Max-pooling in the plane, every scale alike: (B, C, S, H, W) to (B, C, S, H / k, W / k)."""

    input_field = output_field = "scale"

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__()
        check_whole("ScaleMaxPool2d", kernel_size=kernel_size)
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        _check_field(x, None, None, "ScaleMaxPool2d")
        k = self.kernel_size
        check_windows(x, k)
        return _unfold(F.max_pool2d(_fold(x), k), x.shape[2])

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return nn.MaxPool3d((1, self.kernel_size, self.kernel_size))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"


class ScaleUpsample(nn.Module):
    """Bilinear up-sampling by 2, corners on corners (``align_corners=True``): the SEUNet paper's way up."""

    input_field = output_field = "scale"

    def forward(self, x: Tensor) -> Tensor:
        _check_field(x, None, None, "ScaleUpsample")
        y = F.interpolate(_fold(x), scale_factor=2.0, mode="bilinear", align_corners=True)
        return _unfold(y, x.shape[2])

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return _PlainFold(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True))


class ScaleProjection(nn.Module):
    """Max or mean over the scales: (B, C, S, H, W) to (B, C, H, W), the last layer of SESN and DISCO nets."""

    input_field, output_field = "scale", "planar"

    def __init__(self, reduce: str = "max") -> None:
        super().__init__()
        if reduce not in ("max", "mean"):
            raise ValueError(f"ScaleProjection: reduce={reduce!r}; the choices are 'max' and 'mean'")
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        _check_field(x, None, None, "ScaleProjection")
        return x.amax(2) if self.reduce == "max" else x.mean(2)

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return Reduced(self.reduce)

    def extra_repr(self) -> str:
        return self.reduce


class ScaleHeads(nn.Module):
    """One 1x1 convolution a scale, each with weights of its own: (B, C, S, H, W) to logits (B, K, S, H, W).

    SEUNet's classifiers, figure 1 of the paper; ``weight`` is (S, K, C), ``bias`` (S, K).
    """

    input_field = output_field = "scale"

    def __init__(
        self, in_channels: int, out_channels: int, scales: int, *,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_whole("ScaleHeads", in_channels=in_channels, out_channels=out_channels, scales=scales)
        self.weight = nn.Parameter(torch.empty(scales, out_channels, in_channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(scales, out_channels, device=device, dtype=dtype))
        bound = 1 / math.sqrt(in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        _check_field(x, self.weight.shape[2], self.weight.shape[0], "ScaleHeads")
        planes = zip(x.unbind(2), self.weight.unbind(0), self.bias.unbind(0), strict=True)
        return torch.stack([F.conv2d(p, w[:, :, None, None], b) for p, w, b in planes], 2)

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        convolutions = []
        for weight, bias in zip(self.weight.detach(), self.bias.detach(), strict=True):
            plain = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
            plain.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
            convolutions.append(plain)
        return _Planes(convolutions, lifting=False)

    def extra_repr(self) -> str:
        scales, classes, channels = self.weight.shape
        return f"{channels}, {classes}, scales={scales}"


class ScaleStack(nn.Module):
    """A picture as a scale field with one scale: (B, C, H, W) to (B, C, 1, H, W)."""

    input_field, output_field = "planar", "scale"

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)

    def to_plain(self) -> nn.Module:
        """The same layer in plain torch, for the exported network."""
        return nn.Unflatten(1, (-1, 1))


class _PlainFold(nn.Module):
    """Only the arithmetic of applying a planar layer to every scale."""

    def __init__(self, planar: nn.Module) -> None:
        super().__init__()
        self.planar = planar

    def forward(self, x: Tensor) -> Tensor:
        y = self.planar(x.movedim(2, 0).flatten(0, 1))
        return y.unflatten(0, (x.shape[2], -1)).movedim(0, 2)


def _plain_copy(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A torch layer with the attributes and the state of a subclass of it."""
    plain = kind.__new__(kind)
    nn.Module.__init__(plain)
    plain.__dict__.update({k: v for k, v in layer.__dict__.items() if k not in ("scales", "channels")})
    return plain
