"""Layers between scalar and vector fields that commute with rotations and reflections of the plane.

From the slides on scalar and vector kernels; the kernels are those of ``kernels/radial.py``. A feature map
holds s scalar fields and v vector fields, packed on the channel axis as (B, s + 2 v, H, W): the scalars first,
then x and y of each vector (x right, y up). ``pack`` and ``unpack`` go between this and (B, s, H, W) with
(B, v, 2, H, W). On the pixel grid quarter turns and mirrors are exact; other angles are as good as the
sampling of the kernels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from equipath.groups import P4M
from equipath.kernels.basis import basis_conv2d, crop_filters, evaluation, expand_filters
from equipath.kernels.evaluate import dense_conv2d, open_preferences
from equipath.kernels.radial import planar_bank, tyings
from equipath.nn.cache import KeptFilters, ShortWay
from equipath.nn.sizes import PADDING_MODES, check_border, check_numbers, check_stride, check_windows

GROUPS = {"O(2)": True, "SO(2)": False}


class Fields(NamedTuple):
    """How many scalar and vector fields a packed feature map holds.

    >>> Fields(4, 2).channels
    8
    """

    scalars: int
    vectors: int = 0

    @property
    def channels(self) -> int:
        """Planar channels: s + 2 v."""
        return self.scalars + 2 * self.vectors


def fields(value: "Fields | tuple[int, int] | int") -> Fields:
    """``Fields`` from a pair, or from a number of scalars; refuses negative and empty ones."""
    made = Fields(value) if isinstance(value, int) else Fields(*value)
    if made.scalars < 0 or made.vectors < 0 or made.channels == 0:
        raise ValueError(f"a feature map needs some scalar or vector fields; got {tuple(made)}")
    return made


def pack(scalars: Tensor, vectors: Tensor) -> Tensor:
    """(B, s, H, W) and (B, v, 2, H, W) to packed (B, s + 2 v, H, W)."""
    return torch.cat([scalars, vectors.flatten(1, 2)], 1)


def unpack(x: Tensor, layout: "Fields | tuple[int, int]") -> tuple[Tensor, Tensor]:
    """Packed (B, s + 2 v, H, W) to views (B, s, H, W) and (B, v, 2, H, W)."""
    made = fields(layout)
    if x.dim() != 4 or x.shape[1] != made.channels:
        raise ValueError(
            f"{made.scalars} scalars and {made.vectors} vectors are packed as (B, {made.channels}, H, W); got "
            f"{tuple(x.shape)}"
        )
    return _split(x, made)


def _split(x: Tensor, layout: Fields) -> tuple[Tensor, Tensor]:
    return x[:, : layout.scalars], x[:, layout.scalars :].unflatten(1, (layout.vectors, 2))


def _check(x: Tensor, layout: Fields, who: str) -> None:
    if x.dim() != 4 or x.shape[1] != layout.channels:
        raise ValueError(
            f"{who} wants {layout.scalars} scalars and {layout.vectors} vectors as (B, {layout.channels}, H, W); "
            f"got {tuple(x.shape)}"
        )


def act_packed(x: Tensor, layout: "Fields | tuple[int, int]", element: int) -> Tensor:
    """Move a packed feature map by an element of p4m: scalars move, vectors move and turn; exact."""
    scalars, vectors = unpack(x, layout)
    return pack(P4M.act(scalars, element), P4M.act_vector(vectors, element))


class SteerableConv2d(ShortWay):
    """Convolution between packed scalar and vector fields, (B, s + 2 v, H, W) to (B, s' + 2 v', H', W').

    The most general linear map of its kind up to the sampling of its radial profiles (slides; table in
    ``kernels/radial.py``). Commutes exactly with p4m (with p4 for "SO(2)"), and with every angle up to
    sampling.

    Args:
        in_channels, out_channels: ``Fields``, a pair (scalars, vectors), or a number of scalars.
        kernel_size: odd side in pixels.
        stride: the samples must lie symmetric in the picture: ``H + 2·padding - kernel_size`` must be a
            multiple of it, for W likewise.
        padding: pixels at each side, or "same".
        bias: on scalars only; a constant vector would point somewhere.
        group: "O(2)", rotations and reflections, or "SO(2)", rotations alone (more kernels, no mirror).

    Attributes:
        weight: the mixing weights of all four kinds of kernel in one flat vector; ``named_weights`` has them
            by kind.

    >>> layer = SteerableConv2d(3, (2, 2), 5, padding=2)  # the slides' example: colours to 2 scalars, 2 vectors
    >>> layer(torch.zeros(1, 3, 9, 9)).shape
    torch.Size([1, 6, 9, 9])
    """

    bank: Tensor

    def __init__(
        self,
        in_channels: "Fields | tuple[int, int] | int",
        out_channels: "Fields | tuple[int, int] | int",
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        group: str = "O(2)",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_fields, self.out_fields = fields(in_channels), fields(out_channels)
        if group not in GROUPS:
            raise ValueError(f"the group is {group!r}; the choices are {', '.join(GROUPS)}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode is {padding_mode!r}; the choices are {', '.join(PADDING_MODES)}")
        if padding == "same":
            if stride != 1:
                raise ValueError(f"padding='same' goes with stride 1; got stride={stride}")
            padding = kernel_size // 2
        if isinstance(padding, str) or padding < 0 or stride < 1:
            raise ValueError(
                f"padding must be 'same' or from 0 up, stride from 1; got {padding!r} and {stride}"
            )
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.padding_mode, self.group = padding_mode, group
        factory: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        made = tyings(kernel_size, GROUPS[group])
        bank = planar_bank(kernel_size)
        self.register_buffer("bank", bank.to(**factory), persistent=False)
        self._supports = tuple(f.shape[-1] for f in crop_filters(bank))
        self._kept = KeptFilters()
        counts = {"scalar": self.in_fields.scalars, "vector": self.in_fields.vectors}
        outs = {"scalar": self.out_fields.scalars, "vector": self.out_fields.vectors}
        self._shapes: dict[tuple[str, str], tuple[int, int, int]] = {}
        for (source, target), tying in made.items():
            if counts[source] and outs[target] and len(tying):
                self._shapes[source, target] = (outs[target], counts[source], len(tying))
                self.register_buffer(f"_tie_{source}_{target}", tying.to(**factory), persistent=False)
        size = sum(o * i * c for o, i, c in self._shapes.values())
        if not size:
            raise ValueError(
                f"a {kernel_size} x {kernel_size} kernel has no direction, so it cannot map between scalars and "
                "vectors: use at least 3"
            )
        self.weight = nn.Parameter(torch.empty(size, **factory))
        self.bias = nn.Parameter(torch.empty(self.out_fields.scalars, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights that pass variance 2 to every component of the output for white input, zero bias."""
        with torch.no_grad():
            for target in ("scalar", "vector"):
                # Kernels have unit energy a component, so the fan-in counts basis kernels, each once per
                # component of its input that it reads on average.
                fan = sum(i * c for (_, t), (_, i, c) in self._shapes.items() if t == target)
                for (_, t), weight in self.named_weights().items():
                    if t == target:
                        weight.normal_(0, (2 / fan) ** 0.5)
            if self.bias is not None:
                self.bias.zero_()

    def named_weights(self) -> dict[tuple[str, str], Tensor]:
        """Views into ``weight`` by (from, to), each (fields out, fields in, basis kernels)."""
        return self._named(self.weight)

    def _named(self, weight: Tensor) -> dict[tuple[str, str], Tensor]:
        parts = weight.split([o * i * c for o, i, c in self._shapes.values()])
        return {
            kinds: part.view(shape) for (kinds, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def mixing_weights(self) -> Tensor:
        """The tied mixing weights over the planar bank: (s' + 2 v', s + 2 v, filters)."""
        return self._mix(self.weight)

    def _mix(self, weight: Tensor) -> Tensor:
        weights, filters = self._named(weight), len(self.bank)
        rows = []
        for target, outs, a in (
            ("scalar", self.out_fields.scalars, 1),
            ("vector", self.out_fields.vectors, 2),
        ):
            row = []
            for source, ins, b in (
                ("scalar", self.in_fields.scalars, 1),
                ("vector", self.in_fields.vectors, 2),
            ):
                if not (outs and ins):
                    continue
                if (source, target) not in weights:
                    row.append(weight.new_zeros(outs * a, ins * b, filters))
                    continue
                tying = getattr(self, f"_tie_{source}_{target}").to(weight.dtype)
                block = torch.einsum("oic,cabp->oaibp", weights[source, target], tying)
                row.append(block.reshape(outs * a, ins * b, filters))
            if row:
                rows.append(torch.cat(row, 1))
        return torch.cat(rows)

    @property
    def filters(self) -> Tensor:
        """The dense filters (s' + 2 v', s + 2 v, k, k) of an ordinary convolution that does the same."""
        return expand_filters(self.mixing_weights(), self.bank.to(self.weight.dtype))

    def _full_bias(self) -> Tensor | None:
        return None if self.bias is None else F.pad(self.bias, (0, 2 * self.out_fields.vectors))

    def forward(self, x: Tensor) -> Tensor:
        weight = self._straight(x)
        if weight is not None:
            taps = self._kept.get_eagerly("dense", weight, self._densely)
            return dense_conv2d(x, taps, self._full_bias(), self.stride, self.padding)
        check_numbers(x, self.weight, "SteerableConv2d")
        if x.dim() != 4 or x.shape[1] != self.in_fields.channels:
            raise ValueError(
                f"SteerableConv2d wants {self.in_fields.scalars} scalars and {self.in_fields.vectors} vectors as "
                f"(B, {self.in_fields.channels}, H, W); got {tuple(x.shape)}"
            )
        check_stride(x, self.kernel_size, self.stride, self.padding, "SteerableConv2d")
        padding = self.padding
        if self.padding_mode != "zeros" and padding:
            check_border(x, padding, self.padding_mode, "SteerableConv2d")
            x, padding = F.pad(x, (padding,) * 4, mode=self.padding_mode), 0
        elif not is_compiling() and not open_preferences:
            self._known = x.shape if self.evaluation(x) == "expand" else None
        return basis_conv2d(
            x, self.out_fields.channels, self.kernel_size, self._supports, self._cropped, self._mixing,
            self._dense, self._full_bias(), self.stride, padding,
        )  # fmt: skip

    def evaluation(self, x: Tensor) -> str:
        """How this input would be filtered: "expand" or "factor" (``kernels/basis.py``)."""
        return evaluation(x, self.out_fields.channels, self._supports, self.kernel_size, self.stride)

    def _cropped(self) -> list[Tensor]:
        half = self.kernel_size // 2
        return [
            f[half - k // 2 : half + k // 2 + 1, half - k // 2 : half + k // 2 + 1]
            for f, k in zip(self.bank, self._supports, strict=True)
        ]

    # Both are remembered while no gradient is wanted and the weights stay what they are.
    def _mixing(self) -> Tensor:
        return self._kept.get("mixing", self.weight, self._mix)

    def _dense(self) -> Tensor:
        return self._kept.get("dense", self.weight, self._densely)

    def _densely(self, weight: Tensor) -> Tensor:
        return expand_filters(self._mix(weight), self.bank.to(weight.dtype))

    def to_plain(self) -> nn.Conv2d:
        """The same map as an ordinary ``torch.nn.Conv2d``."""
        plain = nn.Conv2d(
            self.in_fields.channels, self.out_fields.channels, self.kernel_size, self.stride, self.padding,
            bias=self.bias is not None, padding_mode=self.padding_mode,  # type: ignore[arg-type]
            device=self.weight.device, dtype=self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            plain.weight.copy_(self.filters)
            full = self._full_bias()
            if full is not None and plain.bias is not None:
                plain.bias.copy_(full)
        return plain

    def extra_repr(self) -> str:
        def words(f: Fields) -> str:
            return f"{f.scalars} scalars + {f.vectors} vectors"

        parts = [f"{words(self.in_fields)} -> {words(self.out_fields)}, kernel_size={self.kernel_size}"]
        for name, default in (("stride", 1), ("padding", 0), ("padding_mode", "zeros"), ("group", "O(2)")):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class SteerableBatchNorm2d(nn.Module):
    """Batch norm of packed fields: scalars as usual, vectors divided by their root mean square length.

    A vector field keeps its directions: no mean is taken off and no bias added, only a learned factor. The
    length statistic is over (B, H, W) and both components, so it does not change when the picture turns.
    """

    running_square: Tensor

    def __init__(
        self, layout: "Fields | tuple[int, int] | int", eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.layout, self.eps, self.momentum = fields(layout), eps, momentum
        self.scalars = nn.BatchNorm2d(self.layout.scalars, eps, momentum) if self.layout.scalars else None
        self.scale = nn.Parameter(torch.ones(self.layout.vectors))
        self.register_buffer("running_square", torch.ones(self.layout.vectors))

    def forward(self, x: Tensor) -> Tensor:
        _check(x, self.layout, "SteerableBatchNorm2d")
        return self.body(x)

    def body(self, x: Tensor) -> Tensor:
        """The layer without its check of the shape: what ``export`` traces."""
        scalars, vectors = _split(x, self.layout)
        parts = [] if self.scalars is None else [self.scalars(scalars)]
        if self.layout.vectors:
            if self.training:
                wide = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
                square = wide.square().sum(2).mean((0, 2, 3))
                if wide.numel():  # the mean of an empty batch would stay in the running one as nan
                    with torch.no_grad():
                        self.running_square.lerp_(square.to(self.running_square.dtype), self.momentum)
            else:
                square = self.running_square
            factor = self.scale * (square.to(self.scale.dtype) + self.eps).rsqrt()
            parts.append((vectors * factor.to(vectors.dtype)[:, None, None, None]).flatten(1, 2))
        return torch.cat(parts, 1)

    def extra_repr(self) -> str:
        return f"{self.layout.scalars} scalars + {self.layout.vectors} vectors"


class NormReLU(nn.Module):
    """ReLU on scalars; vectors keep their direction and get the length ``relu(|v| + b)``, b learned a field.

    ReLU on the components of a vector would prefer the axes of the picture, which breaks equivariance.
    """

    def __init__(self, layout: "Fields | tuple[int, int] | int", eps: float = 1e-6) -> None:
        super().__init__()
        self.layout, self.eps = fields(layout), eps
        self.bias = nn.Parameter(torch.zeros(self.layout.vectors))

    def forward(self, x: Tensor) -> Tensor:
        _check(x, self.layout, "NormReLU")
        if x.dtype in (torch.float16, torch.bfloat16):
            # Squares and eps leave the range of float16: a zero vector would become 0 / 0, one of 256 infinite.
            return self.body(x.float()).to(x.dtype)
        return self.body(x)

    def body(self, x: Tensor) -> Tensor:
        """The layer without its check of the shape: what ``export`` traces."""
        scalars, vectors = _split(x, self.layout)
        # The root of a sum of squares has an infinite slope at 0: eps keeps the gradient finite.
        length = (vectors.square().sum(2, keepdim=True) + self.eps**2).sqrt()
        factor = torch.relu(length + self.bias.to(length.dtype)[:, None, None, None]) / length
        return pack(torch.relu(scalars), vectors * factor)

    def extra_repr(self) -> str:
        return f"{self.layout.scalars} scalars + {self.layout.vectors} vectors"


class GatedReLU(nn.Module):
    """ReLU on scalars; each vector is multiplied by the sigmoid of a scalar of its own, which is used up.

    Takes s + v scalars and v vectors (the last v scalars are the gates) and returns s scalars and v vectors;
    ``takes`` is the layout that the layer before it must produce.
    """

    def __init__(self, layout: "Fields | tuple[int, int] | int") -> None:
        super().__init__()
        self.layout = fields(layout)
        self.takes = Fields(self.layout.scalars + self.layout.vectors, self.layout.vectors)

    def forward(self, x: Tensor) -> Tensor:
        _check(x, self.takes, "GatedReLU")
        return self.body(x)

    def body(self, x: Tensor) -> Tensor:
        """The layer without its check of the shape: what ``export`` traces."""
        scalars, vectors = _split(x, self.takes)
        gates = torch.sigmoid(scalars[:, self.layout.scalars :])[:, :, None]
        return pack(torch.relu(scalars[:, : self.layout.scalars]), vectors * gates)

    def extra_repr(self) -> str:
        return f"{self.layout.scalars} scalars + {self.layout.vectors} gated vectors"


class SteerablePool2d(nn.Module):
    """k x k pooling with stride k that keeps vectors vectors; exact, because it insists on multiples of k.

    Args:
        mode: "max" takes the largest scalar and the longest vector of each window (equally long ones are
            averaged, or the order of the pixels would decide); "mean" averages both.
    """

    def __init__(
        self, layout: "Fields | tuple[int, int] | int", kernel_size: int = 2, mode: str = "max"
    ) -> None:
        super().__init__()
        if mode not in ("max", "mean"):
            raise ValueError(f"mode is {mode!r}; the choices are 'max' and 'mean'")
        self.layout, self.kernel_size, self.mode = fields(layout), kernel_size, mode

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size
        _check(x, self.layout, "SteerablePool2d")
        check_windows(x, k)
        return self.body(x)

    def body(self, x: Tensor) -> Tensor:
        """The layer without its checks of the shape: what ``export`` traces."""
        k = self.kernel_size
        if self.mode == "mean":
            return F.avg_pool2d(x, k)
        scalars, vectors = _split(x, self.layout)
        if not self.layout.vectors:
            return F.max_pool2d(scalars, k)
        square = vectors.detach().square().sum(2)
        longest = F.interpolate(F.max_pool2d(square, k), scale_factor=float(k), mode="nearest")
        chosen = (square == longest).to(x.dtype)
        weight = chosen / F.interpolate(
            F.avg_pool2d(chosen, k) * k * k, scale_factor=float(k), mode="nearest"
        )
        picked = F.avg_pool2d((vectors * weight[:, :, None]).flatten(1, 2), k) * k * k
        return torch.cat([F.max_pool2d(scalars, k), picked], 1) if self.layout.scalars else picked

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, mode={self.mode}"
