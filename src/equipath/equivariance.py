"""How equivariant is a network: transforms, the equivariance error, error matrices and stability maps.

A network ``f`` is equivariant when moving its input moves its output: ``f(T x) = T' f(x)``. Each transform
here knows how a planar, regular, scale or vector field (and a mask) moves; each network says which of these
it returns by an attribute ``output_field`` ("planar", "regular", "scale", "vector" or "invariant"), and
layers also say what they take (``input_field``, "planar" unless said). The error is eq. 10 of the SEUNet
paper, the error matrix its eq. 12, the stability maps are those of GU-Net (figure 2) and of P4M-DenseNet
(figure 3).

Directions: angles are in degrees, counter-clockwise on the screen; rows count downwards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.groups import P4, P4M, Group
from equipath.groups import group as named_group

Field = Literal["planar", "regular", "scale", "vector", "invariant"]
SILENT = "an output is zero everywhere, so its relative error says nothing; give another input"
FIELDS = ("planar", "regular", "scale", "vector", "invariant")


class Transform:
    """One movement of the image plane. ``move(x, field)`` moves a field; ``inverse()`` undoes it.

    ``exact`` tells whether it only permutes pixels. An interpolating transform has an error of its own:
    measure it with ``budget(x)`` and read every equivariance error beside it.
    """

    exact = True

    def planar(self, x: Tensor) -> Tensor:
        """Move an image or feature maps (..., H, W)."""
        raise NotImplementedError

    def regular(self, x: Tensor) -> Tensor:
        """Move a regular field (B, C, G, H, W): planes move and change places."""
        return self.planar(x)

    def scale(self, x: Tensor) -> Tensor:
        """Move a scale field (B, C, S, H, W): every plane moves, none changes place."""
        return self.planar(x)

    def vector(self, x: Tensor) -> Tensor:
        """Move a vector field (B, C, 2, H, W), components (x right, y up)."""
        return self.planar(x)

    def mask(self, x: Tensor) -> Tensor:
        """Move labels (..., H, W) of any dtype; no new values appear except 0 outside the picture."""
        return self.planar(x)

    def inverse(self) -> "Transform":
        """The transform that undoes this one (up to interpolation and what left the picture)."""
        raise NotImplementedError

    def seen(self, height: int, width: int, border: int = 0) -> Tensor:
        """(H, W) bool: pixels of a moved field whose content, ``border`` pixels round it too, was inside."""
        return inside(height, width, border)

    def move(self, x: Tensor, field: str = "planar") -> Tensor:
        """Move ``x``, a field of the named kind; an "invariant" one is returned as it is."""
        if field not in FIELDS:
            raise ValueError(f"the field is called {field!r}; the choices are {', '.join(FIELDS)}")
        if field == "invariant":
            return x
        return getattr(self, field)(x)

    def budget(self, x: Tensor, *, squared: bool = True) -> float:
        """The interpolation budget: the error (eq. 10) of moving ``x`` there and back; 0 when exact.

        An equivariance error below this number says nothing about the network.
        """
        back = self.inverse().planar(self.planar(x))
        border = max(1, math.ceil(0.02 * min(x.shape[-2:])))
        height, width = x.shape[-2], x.shape[-1]
        seen = self.seen(height, width, border) & self.inverse().seen(height, width, border)
        return _relative_error(x, back, seen.to(x.device), squared)


class RotoReflection(Transform):
    """Element ``element`` of p4 or p4m: exact on every grid, a permutation of pixels.

    A regular field is moved as one of p4 or p4m according to the length of its group axis.
    """

    def __init__(self, element: int, group: Group | str = P4M) -> None:
        self.group, self.element = named_group(group), int(element)
        self.group._check(self.element)

    def __repr__(self) -> str:
        return f"RotoReflection({self.element}, {self.group.name!r})"

    def planar(self, x: Tensor) -> Tensor:
        return self.group.act(x, self.element)

    def regular(self, x: Tensor) -> Tensor:
        planes = x.shape[-3]
        if planes == 4 and self.element < 4:  # the quarter turns have the same numbers in p4 and p4m
            return P4.act_regular(x, self.element)
        if planes == 8:
            return P4M.act_regular(x, self.element)
        raise ValueError(
            f"a regular field {tuple(x.shape)} with {planes} planes cannot be moved by {self!r}: quarter "
            f"turns need "
            "4 (p4) or 8 (p4m) planes, reflections need 8"
        )

    def vector(self, x: Tensor) -> Tensor:
        return self.group.act_vector(x, self.element)

    def inverse(self) -> "RotoReflection":
        return RotoReflection(self.group.inverse(self.element), self.group)


class Reflection(RotoReflection):
    """Mirror left-right (``axis="left-right"``) or top-bottom (``axis="top-bottom"``); exact."""

    def __init__(self, axis: str = "left-right") -> None:
        if axis not in ("left-right", "top-bottom"):
            raise ValueError(f"the axis is {axis!r}; the choices are 'left-right' and 'top-bottom'")
        super().__init__(4 if axis == "left-right" else 6, P4M)
        self.axis = axis

    def __repr__(self) -> str:
        return f"Reflection({self.axis!r})"

    def inverse(self) -> "Reflection":
        return self


class Rotation(Transform):
    """Turn by ``angle`` degrees counter-clockwise about the centre of the picture.

    Multiples of 90° are exact. Other angles are interpolated ("bilinear" or "bicubic"; masks by "nearest")
    with zeros outside, keep the picture's size, and are compared inside the inscribed disc only. Regular
    fields can only be turned by multiples of 90°; vectors turn by any angle.
    """

    def __init__(self, angle: float, interpolation: str = "bicubic") -> None:
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {interpolation!r}; the choices are 'bilinear' and 'bicubic'")
        self.angle, self.interpolation = float(angle), interpolation
        turns, rest = divmod(self.angle, 90.0)
        self._quarter = RotoReflection(int(turns) % 4, P4) if rest == 0 else None
        self.exact = self._quarter is not None

    def __repr__(self) -> str:
        return f"Rotation({self.angle:g}" + ("" if self.exact else f", {self.interpolation!r}") + ")"

    def _turn(self, x: Tensor, mode: str) -> Tensor:
        *lead, height, width = x.shape
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
        columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
        down, right = torch.meshgrid(rows, columns, indexing="ij")
        # Where the content of each output pixel comes from: the inverse turn, in (right, down) coordinates.
        from_right, from_down = cos * right - sin * down, sin * right + cos * down
        grid = torch.stack([2 * from_right / width, 2 * from_down / height], -1)
        grid = grid.to(device=x.device, dtype=x.dtype)
        flat = x.reshape(1, -1, height, width)
        turned = F.grid_sample(flat, grid[None], mode=mode, padding_mode="zeros", align_corners=False)
        return turned.reshape(*lead, height, width)

    def planar(self, x: Tensor) -> Tensor:
        return self._quarter.planar(x) if self._quarter else self._turn(x, self.interpolation)

    def regular(self, x: Tensor) -> Tensor:
        if self._quarter is None:
            raise ValueError(
                f"a regular field has one plane per quarter turn and cannot be turned by {self.angle:g}°; "
                f"pool over "
                "the group first, or use a multiple of 90°"
            )
        return self._quarter.regular(x)

    def vector(self, x: Tensor) -> Tensor:
        if self._quarter:
            return self._quarter.vector(x)
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        right, up = self.planar(x).unbind(-3)
        return torch.stack([cos * right - sin * up, sin * right + cos * up], -3)

    def mask(self, x: Tensor) -> Tensor:
        return self._quarter.mask(x) if self._quarter else self._turn(x.double(), "nearest").to(x.dtype)

    def inverse(self) -> "Rotation":
        return Rotation(-self.angle, self.interpolation)

    def seen(self, height: int, width: int, border: int = 0) -> Tensor:
        if self.exact:
            return inside(height, width, border)
        rows = torch.arange(height) - (height - 1) / 2
        columns = torch.arange(width) - (width - 1) / 2
        radius = (
            min(height, width) / 2 - 1 - border
        )  # bicubic taps reach one pixel further than bilinear ones
        return rows[:, None] ** 2 + columns[None] ** 2 <= max(radius, 0) ** 2


class Scaling(Transform):
    """Resample by ``factor`` (> 1 enlarges): a picture of N pixels becomes round(N · factor) pixels wide.

    Interpolated ("bilinear" or "bicubic"); shrinking filters first (anti-aliasing), or detail too fine for
    the new grid would be folded into it. The size of the field changes.
    """

    exact = False

    def __init__(self, factor: float, interpolation: str = "bicubic") -> None:
        if factor <= 0:
            raise ValueError(f"the factor is {factor}; it must be positive")
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {interpolation!r}; the choices are 'bilinear' and 'bicubic'")
        self.factor, self.interpolation = float(factor), interpolation
        self.exact = self.factor == 1

    def __repr__(self) -> str:
        return f"Scaling({self.factor:g})"

    def _resize(self, x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
        flat = x.reshape(1, -1, *x.shape[-2:])
        if mode == "nearest-exact":
            out = F.interpolate(flat, size=size, mode=mode)
        else:
            out = F.interpolate(flat, size=size, mode=mode, align_corners=False, antialias=self.factor < 1)
        return out.reshape(*x.shape[:-2], *size)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size of a (height, width) picture after scaling."""
        return max(1, round(height * self.factor)), max(1, round(width * self.factor))

    def planar(self, x: Tensor) -> Tensor:
        return x if self.exact else self._resize(x, self.size(*x.shape[-2:]), self.interpolation)

    def mask(self, x: Tensor) -> Tensor:
        if self.exact:
            return x
        return self._resize(x.double(), self.size(*x.shape[-2:]), "nearest-exact").to(x.dtype)

    def inverse(self) -> "Scaling":
        return Scaling(1 / self.factor, self.interpolation)

    def budget(self, x: Tensor, *, squared: bool = True) -> float:
        there = self.planar(x)
        back = x if self.exact else self._resize(there, (x.shape[-2], x.shape[-1]), self.interpolation)
        return _relative_error(x, back, inside(x.shape[-2], x.shape[-1], 2).to(x.device), squared)


class Shift(Transform):
    """Shift by whole pixels, ``rows`` down and ``columns`` to the right.

    ``wrap=True`` moves what leaves one edge in at the other (exact, a permutation); otherwise zeros come in
    and the pixels that came in are left out of comparisons. A network with stride s moves its output by 1/s
    of the input's shift: say ``stride=s``, and shift by multiples of s.
    """

    def __init__(self, rows: int = 0, columns: int = 0, *, wrap: bool = True, stride: int = 1) -> None:
        if rows != int(rows) or columns != int(columns):
            raise ValueError(f"shifts are whole pixels; got ({rows}, {columns})")
        if rows % stride or columns % stride:
            raise ValueError(f"a shift by ({rows}, {columns}) is no multiple of the stride {stride}")
        self.rows, self.columns, self.wrap, self.stride = int(rows), int(columns), wrap, int(stride)

    def __repr__(self) -> str:
        return f"Shift({self.rows}, {self.columns}, wrap={self.wrap})"

    def planar(self, x: Tensor) -> Tensor:
        moved = torch.roll(x, (self.rows, self.columns), (-2, -1))
        return moved if self.wrap else moved * self.seen(*x.shape[-2:]).to(x.device)

    def inverse(self) -> "Shift":
        return Shift(-self.rows, -self.columns, wrap=self.wrap, stride=self.stride)

    def at_stride(self) -> "Shift":
        """The shift of the output of a network with this stride."""
        return Shift(self.rows // self.stride, self.columns // self.stride, wrap=self.wrap)

    def seen(self, height: int, width: int, border: int = 0) -> Tensor:
        seen = inside(height, width, border)
        if not self.wrap:
            came_in = torch.roll(seen, (self.rows, self.columns), (0, 1))
            down = torch.arange(height)[:, None] - self.rows
            right = torch.arange(width)[None] - self.columns
            seen = seen & came_in & (down >= 0) & (down < height) & (right >= 0) & (right < width)
        return seen


def inside(height: int, width: int, border: int = 0) -> Tensor:
    """(H, W) bool, False on a frame ``border`` pixels wide."""
    seen = torch.zeros(height, width, dtype=torch.bool)
    seen[border : height - border, border : width - border] = True
    return seen


def roto_reflections(group: Group | str = P4M) -> list[RotoReflection]:
    """The transforms of every element of p4 or p4m, in order."""
    g = named_group(group)
    return [RotoReflection(a, g) for a in range(g.order)]


def equivariance_error(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    transform: Transform,
    *,
    output_field: str | None = None,
    input_field: str | None = None,
    squared: bool = True,
    border: int = 0,
    training: bool = False,
) -> float:
    """How far ``model(T x)`` is from ``T model(x)``: eq. 10 of the SEUNet paper, averaged over the batch.

    ``mean_i ||T f(x_i) - f(T x_i)||² / ||T f(x_i)||²``: 0 for an equivariant model, about 2 for unrelated
    outputs. ``squared=False`` gives the mean of the unsquared ratios, the right one to compare with a
    rounding error (1e-16 in float64).

    Args:
        model: any function of a batch. How its output moves is taken from ``model.output_field`` unless
            given as ``output_field``; a function without it is "planar" if it returns (B, C, H, W), "invariant" if it
            returns (B, C). ``input_field`` likewise, "planar" by default.
        x: the batch, first axis B.
        border: leave out so many pixels at the edge of the output, where padding has its say.
        training: measure in training mode (batch statistics); by default the model is measured in eval mode.
            The model's mode is restored.

    Raises:
        ValueError: if the two outputs differ in shape (the transform changes the size and the model does not
            follow) or the model does not say how its output moves.
    """
    field_in: str = input_field or getattr(model, "input_field", None) or "planar"
    _check_batch(x, border)
    with _quiet(model, training):
        moved_after = model(x)
        moved_before = model(transform.move(x, field_in))
    field_out = _output_field(model, moved_after, output_field)
    if isinstance(transform, Shift) and field_out != "invariant":
        transform = transform.at_stride()
    moved_after = transform.move(moved_after, field_out)
    if moved_after.shape != moved_before.shape:
        raise ValueError(
            f"moving the output gives {tuple(moved_after.shape)} but the model returns "
            f"{tuple(moved_before.shape)} for "
            f"the moved input: choose an input size for which {transform!r} maps to whole output pixels"
        )
    if field_out == "invariant":
        return _relative_error(moved_after, moved_before, None, squared)
    seen = transform.seen(moved_after.shape[-2], moved_after.shape[-1], border).to(moved_after.device)
    return _relative_error(moved_after, moved_before, seen, squared)


def error_matrix(
    features: Callable[[Tensor], Tensor],
    x: Tensor,
    transform: Transform,
    *,
    squared: bool = True,
    border: int = 0,
) -> Tensor:
    """The error between every pair of scales (or orientations): eq. 12 of the SEUNet paper.

    ``features`` maps a batch to (B, C, S, H, W). Entry (k, k') compares plane k of the original, moved, with
    plane k' of the moved picture: ``mean_i ||T f(x_i)_k - f(T x_i)_k'||² / ||T f(x_i)_k||²``. For a scale
    equivariant layer and ``Scaling(s)`` the smallest entry of each row sits where sigma_k' = s sigma_k. Pictures on
    which plane k is zero everywhere have no such ratio and are left out.

    Returns: (S, S) float64 tensor.

    Raises:
        ValueError: a plane is zero for every picture, or holds NaN or infinity; the shapes do not fit.
    """
    _check_batch(x, border)
    with _quiet(features, False):
        after, before = transform.planar(features(x)), features(transform.planar(x))
    if after.dim() != 5:
        raise ValueError(f"features must return (B, C, S, H, W); got {tuple(after.shape)}")
    if after.shape != before.shape:
        raise ValueError(
            f"moving the features gives {tuple(after.shape)}, the moved picture gives "
            f"{tuple(before.shape)}; choose a "
            "size that the transform maps to whole pixels"
        )
    seen = transform.seen(after.shape[-2], after.shape[-1], border).to(after.device)
    after, before = _compared(after, seen), _compared(before, seen)
    _check_finite(after, before)
    ratios = pair_ratios(after, before)
    matrix = (ratios if squared else ratios.sqrt()).nanmean(0)
    if bool(matrix.isnan().any()):
        raise ValueError(SILENT)
    return matrix


def pair_ratios(moved: Tensor, answer: Tensor) -> Tensor:
    """What eq. 12 takes the mean of, between two fields (B, C, S, H, W) on one grid: (B, S, S) float64.

    Entry (i, k, k') is ``||moved_ik - answer_ik'||² / ||moved_ik||²``: ``moved`` is the moved answer for picture i,
    ``answer`` that for the moved picture. NaN where plane k of the picture is silent (zero everywhere). With S = 1 it
    is eq. 10.
    """
    a, b = moved.detach().double(), answer.detach().double()  # the sums, not the model, in float64
    size = a.square().sum((1, 3, 4))  # (B, S)
    planes = range(a.shape[2])
    rows = [
        torch.stack([(a[:, :, k] - b[:, :, j]).square().sum((1, 2, 3)) for j in planes], 1) for k in planes
    ]
    return torch.where(size[..., None] > 0, torch.stack(rows, 1) / size[..., None], torch.nan)


def stability_map(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    orbit: Group | str | Sequence[Transform] = "p4m",
    *,
    activation: Callable[[Tensor], Tensor] | None = None,
    output_field: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the prediction over moved copies of the input, moved back.

    Args:
        orbit: "p4" or "p4m" (GU-Net, figure 2), or any transforms, such as 32 rotations below 90°
            (P4M-DenseNet, figure 3): ``[Rotation(90 * k / 32) for k in range(32)]``.
        activation: applied to each prediction before averaging, such as ``torch.sigmoid``.

    Returns:
        (mean, std), each shaped like ``model(x)``; the population standard deviation. Pixels that some
        transform carried out of the picture are NaN.
    """
    moves: Sequence[Transform] = roto_reflections(orbit) if isinstance(orbit, Group | str) else list(orbit)
    if not moves:
        raise ValueError("the orbit is empty: give a group or at least one transform")
    mean = spread = seen = None
    _check_batch(x)
    with _quiet(model, False):
        for count, move in enumerate(moves, start=1):
            y = model(move.planar(x))
            y = activation(y) if activation else y
            field = _output_field(model, y, output_field)
            y = y if y.is_floating_point() else y.double()  # labels and masks have means too
            if field != "invariant":
                back = (move.at_stride() if isinstance(move, Shift) else move).inverse()
                y = back.move(y, field)
                visible = back.seen(*y.shape[-2:])
                seen = visible if seen is None else seen & visible
            if mean is None or spread is None:
                mean, spread = y, torch.zeros_like(y)
            else:  # Welford's update: no cancellation, so an equivariant model shows its rounding error only
                delta = y - mean
                mean = mean + delta / count
                spread = spread + delta * (y - mean)
    assert mean is not None and spread is not None  # noqa: PT018 (checked above)
    std = (spread / len(moves)).clamp_min(0).sqrt()
    if seen is not None and not bool(seen.all()):
        mean, std = (t.masked_fill(~seen.to(t.device), math.nan) for t in (mean, std))
    return mean, std


def _check_batch(x: Tensor, border: int = 0) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a batch as a tensor; got {type(x).__name__}: torch.as_tensor(x) makes one")
    if not x.numel():
        raise ValueError(f"x holds nothing to compare, {tuple(x.shape)}; give at least one picture")
    if border < 0:
        raise ValueError(f"border is how many pixels are left out, at least 0; got {border}")


def _output_field(model: object, y: Tensor, given: str | None) -> str:
    if not isinstance(y, Tensor):
        raise TypeError(
            f"the model returns {type(y).__name__}; give a function that returns one tensor, such as "
            "lambda x: model(x)[0]"
        )
    field = (
        given
        or getattr(model, "output_field", None)
        or {4: "planar", 2: "invariant", 1: "invariant"}.get(y.dim())
    )
    if field not in FIELDS:
        raise ValueError(
            f"how does an output of shape {tuple(y.shape)} move? Give output_field, one of: "
            + ", ".join(FIELDS)
        )
    return field


def _relative_error(a: Tensor, b: Tensor, seen: Tensor | None, squared: bool) -> float:
    if seen is not None:
        a, b = _compared(a, seen), _compared(b, seen)
    _check_finite(a, b)
    ratio = pair_ratios(*(t.flatten(1)[:, :, None, None, None] for t in (a, b)))
    if bool(ratio.isnan().any()):
        raise ValueError(SILENT)
    return float((ratio if squared else ratio.sqrt()).mean())


def _compared(x: Tensor, seen: Tensor) -> Tensor:
    """Zero where nothing is compared: where, not a product, lest NaN or infinity outside leak in."""
    if not bool(seen.any()):
        raise ValueError("no pixel is left to compare: the border is wider than the output")
    return torch.where(seen, x, 0)


def _check_finite(*fields: Tensor) -> None:
    if not all(bool(x.isfinite().all()) for x in fields):
        raise ValueError(
            "an output holds NaN or infinity, so it has no error: look at the input and the weights with "
            "torch.isfinite"
        )


@contextmanager
def _quiet(model: object, training: bool) -> Iterator[None]:
    """No gradients, the asked mode, and every submodule's own mode restored (some may be frozen apart)."""
    modes = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    if isinstance(model, nn.Module):
        model.train(training)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
