"""Whole slides: pyramidal files of many gigapixels, read by physical size and written in bounded memory.

Places on a slide are in micrometres from its upper left corner, x to the right and y down; resolution is
microns per pixel (mpp), never a level number. :class:`WholeSlide` reads through OpenSlide: it takes the
nearest finer level and averages down to the asked resolution, so that regions that touch fit together.
:func:`write_pyramid` writes a tiled pyramidal TIFF (lossless, with its resolution) strip by strip;
:func:`write_slide` does so for a rendered scene of :mod:`equipath.data.slides`.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from equipath.data.items import DataError
from equipath.data.tiles import starts

__all__ = ["Tile", "WholeSlide", "find_tissue", "open_slide", "write_pyramid", "write_slide"]

_PIXELS_AT_ONCE = 1 << 22  # level pixels decoded for one piece of a region: bounds memory at about 200 MB


@dataclass(frozen=True)
class Tile:
    """One tile of a slide: ``image`` ``(h, w, 3)`` uint8, its first pixel ``(row, column)`` in the grid's
    pixels, and its corner in µm.
    """

    image: np.ndarray
    row: int
    column: int
    x: float
    y: float
    mpp: float


class WholeSlide:
    """A pyramidal slide file.

    Args:
        path: a file OpenSlide can read (Aperio, Hamamatsu, Philips TIFF, generic tiled TIFF, …).
        mpp: microns per pixel of the finest level, where the file does not say.

    Raises:
        DataError: the file is missing, truncated, damaged, of an unknown format, or says no resolution and
            none is given.
    """

    def __init__(self, path: str | os.PathLike[str], mpp: float | None = None) -> None:
        import openslide

        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path} is missing (or is not a file); give the path of a slide.")
        if self.path.stat().st_size == 0:
            raise DataError(
                f"{self.path} is empty; it was never written or downloaded whole. Fetch it again."
            )
        _refuse_truncated(self.path)
        try:
            self._slide = openslide.OpenSlide(str(self.path))
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise DataError(
                f"{self.path} is not a slide OpenSlide can read; it wants a tiled pyramid (TIFF, SVS, NDPI, "
                "MRXS, …). "
                "A plain picture is read with equipath.data.items.read_array."
            ) from error
        except openslide.OpenSlideError as error:
            raise DataError(
                f"{self.path} is damaged and cannot be opened ({error}); fetch it again."
            ) from error
        found = self._slide.properties.get("openslide.mpp-x")
        if mpp is None and found is None:
            raise DataError(
                f"{self.path} does not say its microns per pixel; say them, mpp=… in Python or --slide-mpp on "
                "the command line (about 0.25 at 40x, 0.5 at 20x)."
            )
        self.mpp = float(found or 0) if mpp is None else float(mpp)
        if not (self.mpp > 0 and math.isfinite(self.mpp)):
            raise DataError(f"{self.path}: got mpp={self.mpp}; microns per pixel must be a positive number.")
        width, height = self._slide.dimensions
        self.size = (height, width)
        """Height and width of the finest level, in pixels."""
        # Levels halve with rounding, so OpenSlide's ratio of sizes is 8.06 where the pixels are 8 wide.
        self._factors = [
            _whole_factor(height, level[1], ratio)
            for level, ratio in zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
        ]

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in micrometres."""
        return self.size[0] * self.mpp, self.size[1] * self.mpp

    @property
    def levels(self) -> list[float]:
        """Microns per pixel of the stored levels, finest first."""
        return [self.mpp * factor for factor in self._factors]

    def __repr__(self) -> str:
        return (
            f"WholeSlide({self.path.name!r}, size={self.size}, mpp={self.mpp:g}, levels={len(self._factors)})"
        )

    def __enter__(self) -> WholeSlide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def read(self, x: float, y: float, size: tuple[int, int], mpp: float | None = None) -> np.ndarray:
        """Read a region.

        Args:
            x, y: its upper left corner in µm; parts outside the slide are white.
            size: height and width of the answer in pixels.
            mpp: its resolution; the finest level's by default. Coarser ones are area averages, finer ones
                interpolated.

        Returns:
            ``(H, W, 3)`` uint8. OpenSlide takes places in whole pixels of the finest level. Where a level's size is
            no whole part of the finest's (1562 of 50,000), a region of it may so lie off by up to half such a
            pixel, which changes colours at edges by a level or two of 255.
        """
        mpp = self.mpp if mpp is None else mpp
        if not (mpp > 0 and math.isfinite(mpp)) or min(size) < 1 or any(n != int(n) for n in size):
            raise ValueError(
                f"got mpp={mpp} and size={size}; both must be positive, the size in whole pixels."
            )
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"got the corner ({x}, {y}); places are finite numbers of µm.")
        size = int(size[0]), int(size[1])
        # The coarsest level that is still as fine as asked; a level within 1 % of it counts as equal.
        level = max((k for k, f in enumerate(self._factors) if self.mpp * f <= mpp * 1.01), default=0)
        ratio = mpp / (self.mpp * self._factors[level])
        if abs(ratio - 1) < 1e-3:
            ratio = 1.0
        rows = max(1, int(_PIXELS_AT_ONCE / max(size[1] * ratio * ratio, 1)))
        if rows >= size[0]:
            return self._piece(x, y, size, mpp, level, ratio)
        out = np.empty((*size, 3), np.uint8)
        for first in range(0, size[0], rows):
            high = min(rows, size[0] - first)
            out[first : first + high] = self._piece(x, y + first * mpp, (high, size[1]), mpp, level, ratio)
        return out

    def _piece(
        self, x: float, y: float, size: tuple[int, int], mpp: float, level: int, ratio: float
    ) -> np.ndarray:
        unit = self.mpp * self._factors[level]
        left, top = x / unit, y / unit
        if ratio == 1 and abs(left - round(left)) < 1e-3 and abs(top - round(top)) < 1e-3:
            return self._pixels(level, round(left), round(top), size[0], size[1])
        fine = ratio < 1 or ratio == 1  # interpolating needs a neighbour on each side
        extra = 2 if fine else 0
        height, width = size[0] + 2 * extra, size[1] + 2 * extra
        left, top = left - extra * ratio, top - extra * ratio
        # Positions within a thousandth of a pixel of a pixel edge are on it: sums of decimal microns are not
        # exact.
        left, top = _snap(left), _snap(top)
        right, bottom = _snap(left + width * ratio), _snap(top + height * ratio)
        x0, y0 = math.floor(left), math.floor(top)
        x1, y1 = math.ceil(right), math.ceil(bottom)
        pixels = self._pixels(level, x0, y0, y1 - y0, x1 - x0)
        if not fine:
            down = _area_mean(pixels, top - y0, height, ratio)
            across = _area_mean(down.swapaxes(0, 1), left - x0, width, ratio).swapaxes(0, 1)
            return (across + 0.5).astype(np.uint8)
        scaled = Image.fromarray(pixels).resize(
            (width, height), Image.Resampling.BILINEAR, box=(left - x0, top - y0, right - x0, bottom - y0)
        )
        return np.asarray(scaled)[extra : height - extra, extra : width - extra].copy()

    def _pixels(self, level: int, x: int, y: int, height: int, width: int) -> np.ndarray:
        import openslide

        factor = self._factors[level]
        # OpenSlide divides places by its own ratio of sizes: multiplied by the same they are pixels again.
        theirs = self._slide.level_downsamples[level]
        try:
            region = self._slide.read_region((round(x * theirs), round(y * theirs)), level, (width, height))
        except openslide.OpenSlideError as error:
            raise DataError(
                f"{self.path} is damaged: the region at ({x * factor * self.mpp:.0f}, "
                f"{y * factor * self.mpp:.0f}) µm cannot be decoded "
                f"({error}); fetch the slide again."
            ) from error
        white = Image.new("RGB", region.size, (255, 255, 255))
        white.paste(region, mask=region.getchannel("A"))
        return np.asarray(white)

    def thumbnail(self, mpp: float = 8.0) -> np.ndarray:
        """The whole slide at a coarse resolution, ``(H, W, 3)`` uint8.

        Read strip by strip where the file has no coarse level.
        """
        return self.read(0, 0, self.grid_size(mpp), mpp)

    def grid_size(self, mpp: float) -> tuple[int, int]:
        """Height and width in pixels of the whole slide at a resolution."""
        if not (mpp > 0 and math.isfinite(mpp)):
            raise ValueError(f"got mpp={mpp}; microns per pixel are a positive number.")
        return max(1, round(self.extent[0] / mpp)), max(1, round(self.extent[1] / mpp))

    def tissue(self, mpp: float = 8.0, **options: float) -> np.ndarray:
        """Where there is tissue: :func:`find_tissue` on the thumbnail; ``(H, W)`` bool at ``mpp``."""
        return find_tissue(self.thumbnail(mpp), mpp, **options)

    def tiles(
        self,
        size: int = 512,
        mpp: float | None = None,
        overlap: int = 0,
        tissue: np.ndarray | None = None,
        least: float = 0.05,
    ) -> Iterator[Tile]:
        """Go through the slide tile by tile, row by row; nothing is read before it is asked for.

        Args:
            size, overlap: side of a tile and overlap of neighbours, in pixels of ``mpp``. The last row and
                column touch the border.
            tissue: mask of the whole slide at any resolution (:meth:`tissue`); tiles with less than the part
                ``least`` are left out.
        """
        if not 0 <= overlap < size:
            raise ValueError(
                f"got tiles of {size} with an overlap of {overlap}; it must be from 0 to less than a tile."
            )
        mpp = self.mpp if mpp is None else mpp
        height, width = self.grid_size(mpp)
        for row in starts(height, size, size - overlap):
            for column in starts(width, size, size - overlap):
                high, wide = min(size, height - row), min(size, width - column)
                if tissue is not None and _part(tissue, (row, column, high, wide), (height, width)) < least:
                    continue
                x, y = column * mpp, row * mpp
                yield Tile(self.read(x, y, (high, wide), mpp), row, column, x, y, mpp)


def _area_mean(pixels: np.ndarray, first: float, count: int, ratio: float) -> np.ndarray:
    """Means over ``count`` intervals of length ``ratio`` from ``first`` on along the first axis, parts of
    pixels counted
    as parts: differences of the running sum, read between its steps."""
    total = np.zeros((len(pixels) + 1, *pixels.shape[1:]))
    np.cumsum(pixels, axis=0, out=total[1:])
    place = np.clip(first + ratio * np.arange(count + 1), 0, len(pixels))
    below = np.minimum(place.astype(int), len(pixels) - 1)
    share = (place - below).reshape(-1, *[1] * (pixels.ndim - 1))
    return np.diff(total[below] * (1 - share) + total[below + 1] * share, axis=0) / ratio


def _whole_factor(fine: int, coarse: int, ratio: float) -> float:
    whole = 2 ** round(math.log2(ratio))
    return float(whole) if abs(fine - coarse * whole) <= whole else float(ratio)


def _snap(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < 1e-3 else value


def _part(mask: np.ndarray, window: tuple[int, int, int, int], size: tuple[int, int]) -> float:
    """Part of a window that is set in a mask of another resolution."""
    row, column, high, wide = window
    down, across = mask.shape[0] / size[0], mask.shape[1] / size[1]
    y0, x0 = int(row * down), int(column * across)
    y1, x1 = max(y0 + 1, math.ceil((row + high) * down)), max(x0 + 1, math.ceil((column + wide) * across))
    return float(mask[y0:y1, x0:x1].mean())


def _refuse_truncated(path: Path) -> None:
    """Compare where a TIFF says its tiles are with the length of the file.

    A cut file is told at once, not at the tile that is missing.
    """
    with path.open("rb") as file:
        if file.read(4)[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
    import tifffile

    length = path.stat().st_size
    log = logging.getLogger("tifffile")  # of a broken file it speaks on stderr too, before it raises
    quiet, log.disabled = log.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) == 0:
                raise DataError(
                    f"{path} is a TIFF without a picture: it is truncated. Fetch or write it again."
                )
            for page in tiff.pages:
                if not isinstance(page, tifffile.TiffPage):
                    page = page.aspage()
                if not page.dataoffsets:
                    continue
                ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
                if int(ends.max()) > length:
                    raise DataError(
                        f"{path} is truncated: it has {length} bytes and refers to byte {int(ends.max())}. "
                        "Fetch or write it again."
                    )
    except DataError:
        raise
    except Exception as error:  # tifffile raises many kinds of errors on broken files
        raise DataError(
            f"{path} is truncated or damaged: its TIFF directory cannot be read ({error}). Fetch it again."
        ) from error
    finally:
        log.disabled = quiet


@lru_cache(maxsize=16)
def _opened(path: str, mpp: float | None, _process: int) -> WholeSlide:
    return WholeSlide(path, mpp)


def open_slide(path: str | os.PathLike[str], mpp: float | None = None) -> WholeSlide:
    """A :class:`WholeSlide` that is kept open in this process.

    For data sets that read many regions of a few slides.
    """
    return _opened(str(path), mpp, os.getpid())


FLAT = 1.2
"""Glass is flat: its brightness changes by less than this a pixel, in levels of 255, where nothing lies on it."""


def find_tissue(
    image: np.ndarray, mpp: float = 8.0, least_area: float = 20_000.0, holes: float = 20_000.0
) -> np.ndarray:
    """Tell tissue from glass: what is pale and flat shows the glass's colour, and what has that colour is glass.

    A picture without a pale, flat place is tissue throughout: no threshold splits it. (Otsu's threshold on
    saturation, the usual rule, cuts every picture in two, and with it pale stroma away.) Black is no tissue. Glass
    more colourful than a saturation of 0.15 counts as tissue, as does a gap of only a few pixels.

    Args:
        image: ``(H, W, 3)`` uint8, a slide at low resolution or a tile at any.
        mpp: microns per pixel, which turns the areas into pixels.
        least_area, holes: pieces and holes smaller than this many µm² are dropped and filled; in a tile of a few
            times that size, those smaller than a tenth of it.

    Returns:
        ``(H, W)`` bool; all False for an empty slide.
    """
    from scipy import ndimage

    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"got {image.dtype} of shape {image.shape}; give an RGB picture (H, W, 3) of uint8.")
    if not mpp > 0:
        raise ValueError(f"got mpp={mpp}; microns per pixel are a positive number.")
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (1, 1, 0))
    high, grey = smooth.max(2), smooth.mean(2)
    saturation = (high - smooth.min(2)) / np.maximum(high, 1)
    change = np.zeros_like(grey)
    for channel in np.moveaxis(smooth, 2, 0):
        np.maximum(change, sum(_slope(channel, axis) ** 2 for axis in (0, 1)), out=change)
    rough = np.sqrt(ndimage.gaussian_filter(change, 1.2)) * (255 / np.maximum(grey, 40))
    # Flat and pale, or white and nearly flat (noise and sharpening of the scanner).
    seed = (rough < FLAT) & (saturation < 0.15) & (grey > 100)
    seed |= (rough < 3 * FLAT) & (saturation < 0.045) & (grey > 225)
    seed = _without_small(_opened_by(seed, 3), 60)
    tissue = high >= 25
    if seed.any():
        bright = seed & (grey > 0.93 * np.quantile(grey[seed], 0.98))
        glass = np.median(smooth[bright], axis=0)
        # Smoothed less than before, so that glass reaches up to the tissue.
        near = ndimage.gaussian_filter(image.astype(np.float32), (0.6, 0.6, 0))
        density = np.log10(np.maximum(glass, 1) / np.maximum(near, 1))
        dark, hue = density.max(2), np.ptp(density, axis=2)
        like = (dark < 0.03) & (hue < 0.03) & ((dark < 0.01) | (rough < 2.5 * FLAT))
        # Glass outside the cover slip, or in a darker stripe of the scanner.
        shade = seed & (dark < 0.1) & (hue < 0.03)
        tissue &= ~(like | shade)
    tissue = ~_opened_by(~tissue, 2)
    tissue = _opened_by(tissue, 2)
    # A tile may be smaller than a piece that counts on a slide: all of it would be a speck, or a hole.
    most = tissue.size / 10
    tissue = _without_small(tissue, min(least_area / mpp**2, most))
    return ~_without_small(~tissue, min(holes / mpp**2, most))


def _slope(pixels: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(np.gradient(pixels, axis=axis)) if pixels.shape[axis] > 1 else np.zeros_like(pixels)


def _opened_by(mask: np.ndarray, radius: int) -> np.ndarray:
    """Opened by a disk; beyond the border the mask goes on as it ends there."""
    from scipy import ndimage

    around = radius + 1
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.3
    wide = ndimage.binary_opening(np.pad(mask, around, mode="edge"), disk)
    return wide[around:-around, around:-around]


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if not count:
        return mask
    keep = np.bincount(labels.ravel()) >= pixels
    keep[0] = False
    return keep[labels]


# --------------------------------------------------------------------------------------------- writing


def write_pyramid(
    read: Callable[[int, int, int, int], np.ndarray],
    path: str | os.PathLike[str],
    size: tuple[int, int],
    mpp: float | None,
    tile: int = 512,
    block: int = 2048,
    smallest: int = 512,
    progress: Callable[[int, int], None] | None = None,
    colours: np.ndarray | None = None,
) -> Path:
    """Write a tiled pyramidal BigTIFF, lossless (deflate), strip by strip.

    Memory holds one strip of tiles (``tile`` times the width, three bytes a pixel) and one block; each
    coarser level waits on disk beside the file until the finer one is written. The file appears under its
    name when it is whole.

    Args:
        read: ``read(y, x, h, w)`` gives the pixels ``(h, w, 3)`` uint8 of a block of the finest level.
        size: height and width of the finest level.
        mpp: microns per pixel, written as TIFF resolution, where OpenSlide finds it; None where not known.
        tile: side of the stored tiles, a multiple of 16.
        block: width of what ``read`` is asked for at once.
        smallest: levels are added, each half of the one before (rounded down), until both sides are at most
            this.
        progress: called with (rows of tiles done, rows of tiles in all) of the finest level.
        colours: ``(256, 3)`` uint8 makes it a map of labels: ``read`` gives ``(h, w)`` uint8, a viewer shows
            label k in the k-th colour, and a pixel of a coarser level has the label that most of its four have
            (the smaller of two).
    """
    import tifffile

    height, width = size
    if min(height, width) < 1 or (mpp is not None and not mpp > 0) or block < 1:
        raise ValueError(f"got size={size}, mpp={mpp} and block={block}; they must be positive.")
    if tile < 16 or tile % 16:
        raise ValueError(f"got tile={tile}; TIFF wants a multiple of 16.")
    if colours is not None and (colours.shape != (256, 3) or colours.dtype != np.uint8):
        raise ValueError(f"got colours of {colours.dtype} and shape {colours.shape}; give uint8 (256, 3).")
    depth: tuple[int, ...] = (3,) if colours is None else ()
    look: dict[str, Any] = (
        {"photometric": "rgb", "predictor": 2}
        if colours is None
        else {"photometric": "palette", "colormap": colours.T.astype(np.uint16) * 257}
    )
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file that is not there yet.")
    shapes = [(height, width)]
    while max(shapes[-1]) > smallest and min(shapes[-1]) > 1:
        shapes.append((shapes[-1][0] // 2, shapes[-1][1] // 2))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch,
            tifffile.TiffWriter(part, bigtiff=True) as tiff,
        ):
            for level, (rows, columns) in enumerate(shapes):
                above = Path(scratch) / f"{level + 1}.raw" if level + 1 < len(shapes) else None
                below = Path(scratch) / f"{level}.raw"
                strips = (
                    _rendered(read, size, depth, tile, block, progress)
                    if level == 0
                    else _stored(below, (rows, columns, *depth), tile)
                )
                tiff.write(
                    _tiles_of(strips, tile, (rows, columns), above),
                    shape=(rows, columns, *depth),
                    dtype=np.uint8,
                    tile=(tile, tile),
                    compression="zlib",
                    compressionargs={"level": 4},
                    resolution=None if mpp is None else (1e4 / (mpp * 2**level),) * 2,
                    resolutionunit=None if mpp is None else "CENTIMETER",
                    subfiletype=1 if level else 0,
                    metadata=None,
                    maxworkers=1,  # more would encode ahead of the writer and hold what they encode
                    **look,
                )
                below.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise DataError(
            f"{path} could not be written ({error.strerror or error}); make room or choose another folder."
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    return path


def _rendered(
    read: Callable[[int, int, int, int], np.ndarray],
    size: tuple[int, int],
    depth: tuple[int, ...],
    tile: int,
    block: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    height, width = size
    for count, y in enumerate(range(0, height, tile), 1):
        high = min(tile, height - y)
        strip = np.empty((high, width, *depth), np.uint8)
        for x in range(0, width, block):
            wide = min(block, width - x)
            pixels = read(y, x, high, wide)
            wanted = (high, wide, *depth)
            if pixels.shape != wanted or pixels.dtype != np.uint8:
                raise ValueError(
                    f"read(…) gave {pixels.dtype} of shape {pixels.shape} where uint8 {wanted} was asked for."
                )
            strip[:, x : x + wide] = pixels
        if progress:
            progress(count, -(-height // tile))
        yield strip


def _stored(path: Path, shape: tuple[int, ...], tile: int) -> Iterator[np.ndarray]:
    rows, row = shape[0], shape[1:]
    with path.open("rb") as file:
        for y in range(0, rows, tile):
            high = min(tile, rows - y)
            yield np.fromfile(file, np.uint8, high * math.prod(row)).reshape(high, *row)


def _tiles_of(
    strips: Iterator[np.ndarray], tile: int, shape: tuple[int, int], above: Path | None
) -> Iterator[np.ndarray]:
    """Cut strips into tiles, padded at the border, and put them, halved, into the file of the next coarser
    level.
    """
    columns = shape[1]
    out = above.open("wb") if above else None
    try:
        for strip in strips:
            if out:
                even = strip[: len(strip) // 2 * 2, : columns // 2 * 2]
                (_mean if even.ndim == 3 else _majority)(even).tofile(out)
            for x in range(0, columns, tile):
                piece = strip[:, x : x + tile]
                if piece.shape[:2] == (tile, tile):
                    yield np.ascontiguousarray(piece)
                else:
                    # The padding is never shown; repeating the border keeps it small.
                    more = [(0, tile - piece.shape[0]), (0, tile - piece.shape[1]), (0, 0)]
                    yield np.pad(piece, more[: piece.ndim], mode="edge")
    finally:
        if out:
            out.close()


def _mean(pixels: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) at half the size, rounded means of four."""
    half = pixels.astype(np.uint16)
    half = half[::2] + half[1::2]
    half = half[:, ::2] + half[:, 1::2]
    return ((half + 2) >> 2).astype(np.uint8)


def _majority(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) at half the size: of four the commonest, the smaller one where two are."""
    a, b, c, d = np.sort([labels[y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=0)
    return np.where(a == b, a, np.where(b == c, b, np.where(c == d, c, a)))


def write_slide(
    slide: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    mpp: float = 0.5,
    tile: int = 512,
    block: int = 2048,
    progress: Callable[[int, int], None] | None = None,
    compiled: bool | None = None,
) -> Path:
    """Write a rendered scene (:class:`equipath.data.slides.Slide`) as a pyramidal TIFF, in bounded memory.

    Args:
        size: height and width in pixels; the slide's whole extent by default. The picture is centred on the
            middle of the extent.
        compiled: as in :func:`equipath.data.slides.render_batch`.
    """
    from equipath.data.slides import Grid

    x0, y0, x1, y1 = slide.extent
    if not (mpp > 0 and math.isfinite(mpp)):
        raise ValueError(f"got mpp={mpp}; microns per pixel are a positive number.")
    if size is None:
        size = max(1, math.ceil((y1 - y0) / mpp)), max(1, math.ceil((x1 - x0) / mpp))
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    height, width = size

    def read(y: int, x: int, high: int, wide: int) -> np.ndarray:
        # Rows run down the picture, the scene's y runs up.
        centre = middle_x + (x + wide / 2 - width / 2) * mpp, middle_y - (y + high / 2 - height / 2) * mpp
        image = slide.render(Grid(center=centre, size=(high, wide), mpp=mpp), compiled=compiled).image
        return (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()

    return write_pyramid(read, path, size, mpp, tile=tile, block=block, progress=progress)
