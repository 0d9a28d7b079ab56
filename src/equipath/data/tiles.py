"""How a large picture goes through a network: windows that overlap, and a blend that gives the whole result
back.

:func:`sliding` runs a function over overlapping windows and joins the answers. Each window's weights are zero
on a margin along the sides it shares with other windows, and the weights of all windows add up to one at
every pixel. A function that looks no farther than the margin therefore gives exactly what it gives on the
whole picture. :func:`split` and :func:`join` are the plain cutting and averaging of the SEUNet paper (section
4.1: windows of 400 pixels with a stride of 200, 16 for a picture of 1000).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

__all__ = ["join", "sliding", "split", "starts", "weights"]


def starts(length: int, tile: int, stride: int, align: int = 1) -> list[int]:
    """First pixels of the windows along one side; the windows cover the side and the last one ends with it
    (or past it, if ``align`` asks).

    Args:
        length: of the side, in pixels.
        tile: of a window. A side no longer than this has the one window that starts at 0.
        stride: from window to window, at most ``tile``.
        align: windows start at multiples of this (the total stride of a network that pools).
    """
    for what, value in (("length", length), ("tile", tile), ("stride", stride), ("align", align)):
        if value < 1 or value != int(value):
            raise ValueError(f"got {what}={value}; it must be a whole number of at least 1.")
    if stride > tile:
        raise ValueError(
            f"got stride={stride} for windows of {tile}: pixels between the windows would be left out; use "
            f"a stride of at most {tile}."
        )
    if stride % align:
        raise ValueError(f"got stride={stride} and align={align}; the stride must be a multiple of align.")
    last = -(-max(length - tile, 0) // align) * align
    return sorted({*range(0, last, stride), last})


def weights(
    length: int,
    tile: int,
    first: list[int],
    margin: int,
    blend: str = "linear",
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    """Weights of the windows along one side, a partition of unity: at every pixel they add up to one.

    On sides that meet another window the outer ``margin`` pixels have weight zero, then the weight rises to
    one over the rest of the overlap (``linear``, ``hann``) or at once in its middle (``crop``). Sides on the
    border of the picture have full weight.

    Returns:
        One tensor per window, of the window's length inside the picture.
    """
    if blend not in ("crop", "linear", "hann"):
        raise ValueError(f"got blend={blend!r}; known are 'crop', 'linear' and 'hann'.")
    raw = []
    for k, begin in enumerate(first):
        end = min(begin + tile, length)
        position = torch.arange(begin, end, dtype=torch.float64) + 0.5
        weight = torch.ones_like(position)
        if k:
            weight *= _ramp(position, begin, min(first[k - 1] + tile, length), margin, blend)
        if k + 1 < len(first):
            weight *= 1 - _ramp(position, first[k + 1], end, margin, blend)
        raw.append(weight)
    total = torch.zeros(length, dtype=torch.float64)
    for begin, weight in zip(first, raw, strict=True):
        total[begin : begin + len(weight)] += weight
    return [(w / total[b : b + len(w)]).to(dtype) for b, w in zip(first, raw, strict=True)]


def _ramp(position: torch.Tensor, begin: int, end: int, margin: int, blend: str) -> torch.Tensor:
    """Rise from 0 to 1 across the overlap [begin, end), flat on ``margin`` pixels at both of its ends."""
    low, high = begin + margin, end - margin
    if high < low:
        raise ValueError(
            f"windows overlap by {end - begin} pixels, which is less than two margins of {margin}: use a "
            "smaller stride or a smaller margin."
        )
    if blend == "crop" or high == low:
        return (position >= low + (high - low) // 2).double()
    share = ((position - low) / (high - low)).clamp(0, 1)
    return share if blend == "linear" else torch.sin(share * (torch.pi / 2)) ** 2


@torch.no_grad()
def sliding(
    function: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    tile: int = 512,
    margin: int = 32,
    stride: int | None = None,
    blend: str = "linear",
    align: int = 1,
    batch: int = 1,
    pad: str | None = None,
) -> torch.Tensor:
    """Apply a function window by window and join the answers.

    The answer equals ``function(image)`` wherever the function looks no farther than ``margin`` pixels and,
    for a network that pools by ``align`` in all, does so on the same grid: exactly with ``blend="crop"``, to
    rounding with the others.

    Args:
        function: ``(N, C, h, w)`` to ``(N, D, h, w)``, the same for every window.
        image: ``(B, C, H, W)``, of any size, on any device.
        tile, stride: side and step of the windows in pixels; the step defaults to ``tile - 2 * margin`` less
            a blending zone of an eighth.
        batch: windows that go through the function at once, where they have the same size.
        pad: None gives windows at the border (and pictures smaller than a window) as they are; a mode of
            ``torch.nn.functional.pad`` (``"reflect"``, ``"constant"``, …) fills them up to ``tile``, for
            networks with a size contract.

    Returns:
        ``(B, D, H, W)``.
    """
    if image.ndim != 4:
        raise ValueError(f"got an image of shape {tuple(image.shape)}; give (B, C, H, W).")
    if margin < 0 or margin != int(margin) or 2 * margin >= tile:
        raise ValueError(
            f"got margin={margin} for windows of {tile}; the margin must be a whole number of at least 0 and less "
            "than half the window."
        )
    if batch < 1:
        raise ValueError(f"got batch={batch}; at least one window goes through the function at once.")
    if stride is None:
        stride = max((tile - 2 * margin - (tile // 8 if blend != "crop" else 0)) // align * align, align)
    height, width = image.shape[-2:]
    rows, columns = starts(height, tile, stride, align), starts(width, tile, stride, align)
    weight_dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    row_weights = weights(height, tile, rows, margin, blend, weight_dtype)
    column_weights = weights(width, tile, columns, margin, blend, weight_dtype)
    windows = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    result: torch.Tensor | None = None
    for group in _same_size(windows, row_weights, column_weights, batch, pad is not None):
        pieces = []
        for i, j in group:
            piece = image[..., rows[i] : rows[i] + tile, columns[j] : columns[j] + tile]
            if pad is not None:
                piece = _fill(piece, tile, pad)
            pieces.append(piece)
        answers = function(torch.cat(pieces))
        if answers.shape[-2:] != pieces[0].shape[-2:] or len(answers) != len(pieces) * len(image):
            raise ValueError(
                f"the function turned {tuple(torch.cat(pieces).shape)} into {tuple(answers.shape)}; it must "
                "keep batch, height and width."
            )
        if result is None:
            result = answers.new_zeros(len(image), answers.shape[1], height, width)
        for (i, j), answer in zip(group, answers.split(len(image)), strict=True):
            down, across = row_weights[i].to(answer), column_weights[j].to(answer)
            part = answer[..., : len(down), : len(across)]
            weight = down[:, None] * across
            # Where a window has no say its answer may be anything, NaN included.
            result[..., rows[i] : rows[i] + len(down), columns[j] : columns[j] + len(across)] += torch.where(
                weight > 0, part * weight, 0
            )
    assert result is not None
    return result


def _same_size(
    windows: list[tuple[int, int]],
    down: list[torch.Tensor],
    across: list[torch.Tensor],
    batch: int,
    padded: bool,
) -> list[list[tuple[int, int]]]:
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in windows:
        groups.setdefault((0, 0) if padded else (len(down[i]), len(across[j])), []).append((i, j))
    return [members[k : k + batch] for members in groups.values() for k in range(0, len(members), batch)]


def _fill(piece: torch.Tensor, tile: int, mode: str) -> torch.Tensor:
    """Pad at the bottom and right up to ``tile``.

    Reflection is repeated where the piece is too small for one.
    """
    while piece.shape[-2] < tile or piece.shape[-1] < tile:
        down, across = tile - piece.shape[-2], tile - piece.shape[-1]
        if mode in ("reflect", "circular"):
            if min(piece.shape[-2:]) < 2:
                mode = "replicate"
                continue
            limit = 1 if mode == "reflect" else 0
            down, across = min(down, piece.shape[-2] - limit), min(across, piece.shape[-1] - limit)
        piece = F.pad(piece, (0, across, 0, down), mode=mode)
    return piece


def split(
    image: torch.Tensor, tile: int = 400, stride: int = 200
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Cut a picture into windows as the SEUNet paper does; the last row and column touch the border, so that
    no pixel is lost.

    Args:
        image: ``(C, H, W)``, at least ``tile`` high and wide.

    Returns:
        Windows ``(N, C, tile, tile)`` and their first pixels ``(y, x)``.
    """
    if image.ndim != 3 or min(image.shape[-2:]) < tile:
        raise ValueError(
            f"got an image of shape {tuple(image.shape)}; give (C, H, W) with both sides at least {tile}."
        )
    places = [
        (y, x) for y in starts(image.shape[-2], tile, stride) for x in starts(image.shape[-1], tile, stride)
    ]
    return torch.stack([image[:, y : y + tile, x : x + tile] for y, x in places]), places


def join(windows: torch.Tensor, places: list[tuple[int, int]], size: tuple[int, int]) -> torch.Tensor:
    """Put windows ``(N, C, t, t)`` back at their places in a picture of ``size`` (H, W).

    Where they overlap, their mean is taken.
    """
    if len(windows) != len(places):
        raise ValueError(f"got {len(windows)} windows and {len(places)} places; give one place per window.")
    tile = windows.shape[-1]
    if any(y < 0 or x < 0 or y + tile > size[0] or x + tile > size[1] for y, x in places):
        raise ValueError(f"got windows of {tile} that reach out of a picture of {size[0]} x {size[1]}.")
    total = windows.new_zeros(windows.shape[1], *size)
    count = windows.new_zeros(1, *size)
    for window, (y, x) in zip(windows, places, strict=True):
        total[:, y : y + tile, x : x + tile] += window
        count[:, y : y + tile, x : x + tile] += 1
    if bool((count == 0).any()):
        raise ValueError(
            f"the windows leave {int((count == 0).sum())} pixels of {size[0]} x {size[1]} uncovered."
        )
    return total / count
