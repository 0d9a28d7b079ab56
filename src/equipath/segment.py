"""How a picture or a whole slide is segmented: window by window, on tissue alone, in memory that does not grow
with the slide.

Windows lie on the grid on which the network would pool the whole picture, and each has no say on a margin at
the sides that it shares with others (:mod:`equipath.data.tiles`). With a margin of the network's reach, the
default where the window has room for it, the probabilities are therefore those of the whole picture at once,
to rounding. Finished rows of windows wait on disk: a run that is killed goes on with the row it was at.
:func:`cluster_folder` groups the features of many small pictures instead, without labels.
"""

from __future__ import annotations

import colorsys
import csv
import errno
import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from equipath.data.fetch import human
from equipath.data.items import IGNORE, DataError, read_array
from equipath.data.tiles import starts, weights
from equipath.data.wsi import WholeSlide, _refuse_truncated, find_tissue, write_pyramid

__all__ = ["OUTSIDE", "Segmentation", "cluster_folder", "is_slide", "open_picture", "reach", "segment"]

OUTSIDE = 255
"""The label of pixels that were not looked at: glass."""

LOOK = 8.0  # µm per pixel at which tissue is told from glass
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Okabe and Ito's colours, told apart by nearly everyone; the first, pale one is for what lies around.
COLOURS = ("#D9D9D9", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")


class Picture(Protocol):
    """What `segment` needs of a source: its size (H, W), microns per pixel (None where not known), pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def mpp(self) -> float | None:
        """Microns per pixel."""
        ...

    def read(self, y: int, x: int, high: int, wide: int) -> np.ndarray:
        """A block (high, wide, 3) uint8 that lies inside."""
        ...

    def thumbnail(self, side: int) -> np.ndarray:
        """All of it, the longer side about `side` pixels."""
        ...


class _Plain:
    def __init__(self, path: Path, mpp: float | None) -> None:
        self.pixels, self.mpp = read_array(path), mpp
        self.size: tuple[int, int] = self.pixels.shape[0], self.pixels.shape[1]

    def read(self, y: int, x: int, high: int, wide: int) -> np.ndarray:
        return self.pixels[y : y + high, x : x + wide]

    def thumbnail(self, side: int) -> np.ndarray:
        share = min(1.0, side / max(self.size))
        wide, high = (max(1, round(n * share)) for n in self.size[::-1])
        return np.asarray(Image.fromarray(self.pixels).resize((wide, high), Image.Resampling.BOX))


class _Slide:
    def __init__(self, slide: WholeSlide, mpp: float) -> None:
        self.slide, self.mpp = slide, mpp
        self.size = slide.grid_size(mpp)

    def read(self, y: int, x: int, high: int, wide: int) -> np.ndarray:
        return self.slide.read(x * self.mpp, y * self.mpp, (high, wide), self.mpp)

    def thumbnail(self, side: int) -> np.ndarray:
        return self.slide.thumbnail(max(self.mpp, max(self.slide.extent) / side))


def is_slide(path: str | os.PathLike[str]) -> bool:
    """Whether OpenSlide reads the file: slides know their resolution, plain pictures do not."""
    import openslide

    return openslide.OpenSlide.detect_format(str(path)) is not None


def open_picture(
    path: str | os.PathLike[str], mpp: float | None = None, slide_mpp: float | None = None
) -> Picture:
    """Open a slide at a resolution, or a plain picture (PNG, JPEG, …) pixel for pixel, as viewers show it: turned
    as its EXIF tag says, white where it is transparent.

    Args:
        mpp: at which a slide is read; its finest level's by default.
        slide_mpp: microns per pixel of the file's own pixels, where the file does not say.

    Raises:
        DataError: the file is missing, truncated, damaged or no picture; or a plain picture is wanted at another
            resolution than its own.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one picture or slide (--cluster takes a folder of cores).")
    if not path.is_file():
        raise DataError(f"{path} is missing; give the path of a picture or a slide.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it was never written or copied whole.")
    for name, value in (("mpp", mpp), ("slide_mpp", slide_mpp)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"got {name}={value}; microns per pixel are a positive number.")
    if is_slide(path):
        slide = WholeSlide(path, slide_mpp)
        if mpp is not None and mpp < slide.mpp * 0.66:
            raise DataError(
                f"{path} has {slide.mpp:g} µm per pixel and is wanted at {mpp:g}: finer detail than was scanned "
                "cannot be made up. Use a model for coarser pixels."
            )
        return _Slide(slide, mpp or slide.mpp)
    _refuse_truncated(path)
    if mpp is not None and slide_mpp is not None and abs(mpp / slide_mpp - 1) > 0.05:
        raise DataError(
            f"{path} is a plain picture of {slide_mpp:g} µm per pixel and is wanted at {mpp:g}: resize it, or give "
            f"{slide_mpp:g} as mpp too to take its pixels as they are."
        )
    return _Plain(path, slide_mpp or mpp)


def reach(model: nn.Module) -> int | None:
    """How far, in pixels, an answer of the network can look: the margin at which windows change nothing.

    Half its receptive field, and half a pooling step since the field need not be centred; a multiple of the step.
    None for a network that does not tell its receptive field.
    """
    summary = getattr(model, "summary", None)
    field = summary().receptive_field if callable(summary) else None
    if field is None:
        return None
    step: int = model.sizes.step  # type: ignore[union-attr, assignment]
    return -(-(field // 2 + step // 2) // step) * step


@dataclass(frozen=True)
class Segmentation:
    """What `segment` made.

    Attributes:
        mask: pyramidal TIFF of labels, `OUTSIDE` where there is glass.
        preview: PNG, the picture beside the classes.
        size: height and width of the mask's finest level; mpp: its microns per pixel, None where not known.
        shares: the part of the tissue that each class takes.
        tiles: windows that went through the network, of `windows` in all.
        tile, margin: side of a window, and how much of it has no say, in pixels.
        exact: whether the margin is as large as the network's reach.
        seconds: of all runs together; megapixels: of those windows' pixels that count, once each.
        device: where the network ran.
    """

    mask: str
    preview: str
    size: tuple[int, int]
    mpp: float | None
    classes: tuple[str, ...]
    shares: dict[str, float]
    tiles: int
    windows: int
    tile: int
    margin: int
    exact: bool
    seconds: float
    megapixels: float
    device: str


@torch.inference_mode()
def segment(
    model: nn.Module,
    picture: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    tile: int = 1024,
    margin: int | None = None,
    blend: str = "linear",
    everywhere: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Segmentation:
    """Segment a picture or a slide and write ``NAME.mask.tif``, ``NAME.preview.png`` and ``NAME.json`` into ``out``.

    Memory holds one window's activations and, on disk, one row of windows' overlap. What is unfinished lies in
    ``NAME.work`` beside the results; the same call goes on there.

    Args:
        model: (B, 3, h, w) in [0, 1] to logits (B, K, h, w), or with ``predict`` to probabilities; K = 1 is class 1
            against the rest. One that takes certain sizes only says so as ``sizes``
            (:class:`equipath.nn.sizes.SizeContract`).
        picture: file of a slide or a plain picture (:func:`open_picture`).
        classes: names of the K classes (two for K = 1).
        mpp: microns per pixel that the model was trained on.
        tile: side of a window; met by the next size that the network takes.
        margin: pixels at shared sides that have no say; :func:`reach` by default, at most a quarter of a window.
        everywhere: look at glass too.
        progress: called with (windows done, windows in all).

    Raises:
        DataError: the picture cannot be read, there is no tissue, results are there already, other settings
            than those of the unfinished run, a full disk.
        ValueError: a model that fails or gives no map of classes, a window too small for its margin.
    """
    out = Path(out)
    name = Path(picture).name
    stem = name.removesuffix(Path(name).suffix) or name
    mask_file, preview, about = (out / f"{stem}{end}" for end in (".mask.tif", ".preview.png", ".json"))
    there_already = f"{mask_file} is there already; delete it, or choose another folder."
    if mask_file.exists():
        raise DataError(there_already)
    source = open_picture(picture, mpp, slide_mpp)
    size = source.size
    if tile < 1:
        raise ValueError(f"got a tile of {tile}; a window has at least 1 pixel.")
    model, run_on = _on_device(model, device)

    contract = getattr(model, "sizes", None)
    step = contract.step if contract else 1
    canvas = [contract.nearest(n) if contract else n for n in size]
    side = contract.nearest(tile) if contract else tile
    top, left = ((large - n) // 2 for large, n in zip(canvas, size, strict=True))
    needed = reach(model)
    single = max(canvas) <= side  # one window sees it all
    if margin is None:
        if needed is None and not single:
            raise ValueError(
                f"{type(model).__name__} does not tell how far it looks; give a margin in pixels."
            )
        margin = 0 if single else min(needed or 0, side // 4 // step * step)
    if margin < 0 or 2 * margin >= side:
        raise ValueError(
            f"got a margin of {margin} for windows of {side}; it must be less than half of them."
        )
    exact = single or (needed is not None and margin >= needed)
    zone = 0 if blend == "crop" else side // 8
    stride = max((side - 2 * margin - zone) // step, 1) * step
    rows, columns = (starts(n, side, stride, step) for n in canvas)
    down = weights(canvas[0], side, rows, margin, blend)
    across = weights(canvas[1], side, columns, margin, blend)

    tissue = _Tissue(source, everywhere)
    if not tissue.mask.any():
        raise DataError(
            f"{picture} shows no tissue at {LOOK:g} µm per pixel; --everywhere segments every pixel all the same."
        )

    def wanted(i: int, j: int) -> bool:
        """Whether window (i, j) has a say on any tissue."""
        y, x = (_span(w, first) for w, first in ((down[i], rows[i] - top), (across[j], columns[j] - left)))
        return tissue.any(*y, *x)

    todo = [[j for j in range(len(columns)) if wanted(i, j)] for i in range(len(rows))]
    total = sum(map(len, todo))
    settings = {
        "picture": str(Path(picture).resolve()),
        "bytes": Path(picture).stat().st_size,
        "changed": Path(picture).stat().st_mtime_ns,
        "model": _fingerprint(model),
        "mpp": source.mpp,
        "tile": side,
        "margin": margin,
        "blend": blend,
        "everywhere": everywhere,
    }
    work = out / f"{stem}.work"
    try:
        with _Unfinished(work, settings, size) as state:
            if mask_file.exists():  # by another process, which held the folder until now
                raise DataError(there_already)
            for i in range(state.row, len(rows)):
                begun = time.perf_counter()
                done = sum(map(len, todo[:i]))
                with state.band(i) as band:
                    _row(
                        model, source, run_on, (rows, columns), (top, left), (down, across), canvas, side, i,
                        todo[i], tissue, band,
                        lambda k, done=done: progress(done + k, total) if progress else None,  # type: ignore[misc]
                    )  # fmt: skip
                state.finish(band, time.perf_counter() - begun)
                if progress:
                    progress(done + len(todo[i]), total)
            names = _names(classes, state.channels)
            seconds, counts, labels = state.seconds, state.counts(), state.labels()
            result = Segmentation(
                str(mask_file), str(preview), size, source.mpp, names,
                {n: float(counts[k + 1] / max(counts[1:].sum(), 1)) for k, n in enumerate(names)},
                total, len(rows) * len(columns), side, margin, exact, seconds, float(counts[1:].sum() / 1e6), str(run_on),
            )  # fmt: skip
            _preview(source, labels, names).save(preview)
            about.write_text(json.dumps(asdict(result), indent=1) + "\n")
            _write(source, labels, names, mask_file)  # last: being there, it says that all is done
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"{error.filename or out} could not be written ({error.strerror or error}); "
            f"{'make room' if full else 'choose another folder'} and run the same again: what is done is kept."
        ) from error
    finally:
        if mask_file.exists():
            shutil.rmtree(work, ignore_errors=True)
    return result


def _on_device(model: nn.Module, device: str) -> tuple[nn.Module, torch.device]:
    """The model in eval mode on a device, "auto" being a GPU where there is one."""
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        return model.to(place).eval(), place
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not to be had here ({error}).") from error


# --------------------------------------------------------------------------------------------------
# one row of windows


def _row(
    model: nn.Module,
    source: Picture,
    device: torch.device,
    first: tuple[list[int], list[int]],
    offset: tuple[int, int],
    weight: tuple[list[Tensor], list[Tensor]],
    canvas: list[int],
    side: int,
    i: int,
    todo: list[int],
    tissue: _Tissue,
    band: _Band,
    progress: Callable[[int], None],
) -> None:
    """Send row i through the network from left to right. Columns that no later window reaches are final: their
    upper part becomes labels, the lower part, which the next row adds to, is carried over on disk.
    """
    (rows, columns), (top, left), (down, across) = first, offset, weight
    begin, high = rows[i], len(down[i])
    until = rows[i + 1] if i + 1 < len(rows) else canvas[0]
    kept = slice(max(begin, top), min(until, top + source.size[0]))  # rows of the canvas that become final
    total: Tensor | None = None
    for j, column in enumerate(columns):
        wide = len(across[j])
        final = (columns[j + 1] if j + 1 < len(columns) else canvas[1]) - column
        if j in todo:
            pixels = _read(source, begin - top, column - left, high, wide)
            answer = _ask(model, torch.from_numpy(pixels).to(device))
            part = answer * (down[i][:, None] * across[j])
            total = part if total is None else _add(total, part)
            progress(todo.index(j) + 1)
        ready, total = (None, None) if total is None else (total[..., :final], total[..., final:])
        if total is not None and total.shape[-1] == 0:
            total = None
        if ready is not None and ready.shape[-1] < final:
            ready = nn.functional.pad(ready, (0, final - ready.shape[-1]))
        above = band.above()
        if above is not None:
            if ready is None:
                ready = above.new_zeros(above.shape[0], high, final)
            ready = ready.clone()
            ready[:, : above.shape[1]] += above
        x = slice(max(column, left), min(column + final, left + source.size[1]))
        shape = max(kept.stop - kept.start, 0), max(x.stop - x.start, 0)
        if ready is None:
            labels = np.zeros(shape, np.uint8)
            band.below(None)
        else:
            band.see(ready.shape[0])
            seen = ready[:, kept.start - begin : kept.stop - begin, x.start - column : x.stop - column]
            chosen = seen.argmax(0) if len(seen) > 1 else (seen[0] > 0.5).long()
            there = tissue.block(kept.start - top, x.start - left, *shape)
            labels = np.where(there, chosen.numpy().astype(np.uint8) + 1, 0).astype(np.uint8)
            rest = ready[:, until - begin :]
            band.below(rest if rest.numel() and bool(rest.any()) else None)
        band.labels(labels)


def _add(total: Tensor, part: Tensor) -> Tensor:
    wide = max(total.shape[-1], part.shape[-1])
    both = part.new_zeros(*part.shape[:-1], wide)
    both[..., : total.shape[-1]] += total
    both[..., : part.shape[-1]] += part
    return both


def _read(source: Picture, y: int, x: int, high: int, wide: int) -> np.ndarray:
    """A block that may reach over the picture's edge, where the edge is repeated, as the networks pad."""
    y0, x0 = max(y, 0), max(x, 0)
    y1, x1 = min(y + high, source.size[0]), min(x + wide, source.size[1])
    pixels = source.read(y0, x0, y1 - y0, x1 - x0)
    if (y1 - y0, x1 - x0) != (high, wide):
        pixels = np.pad(pixels, ((y0 - y, y + high - y1), (x0 - x, x + wide - x1), (0, 0)), mode="edge")
    return np.require(pixels, requirements=["C", "W"])


def _ask(model: nn.Module, pixels: Tensor) -> Tensor:
    """Probabilities (K, h, w) on the CPU for pixels (h, w, 3) uint8."""
    parameter = next(model.parameters(), torch.zeros(()))
    x = pixels.movedim(-1, 0)[None].to(parameter.dtype) / 255
    try:
        y = model.predict(x) if hasattr(model, "predict") else model(x)  # type: ignore[operator]
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "memory" in str(error):
            raise DataError(
                f"a window of {x.shape[-2]} x {x.shape[-1]} pixels does not fit into memory; choose a smaller tile. "
                "What is done is kept."
            ) from error
        raise ValueError(
            f"{type(model).__name__} failed on a window of {x.shape[-2]} x {x.shape[-1]} pixels "
            f"({' '.join(str(error).split())[:300]}); a network that takes certain sizes only says so as `sizes`, an "
            "equipath.nn.sizes.SizeContract."
        ) from error
    if not isinstance(y, Tensor):
        raise ValueError(
            f"{type(model).__name__} gives a {type(y).__name__} for {tuple(x.shape)}, no map of classes: wrap it in a "
            "module that gives one tensor of logits."
        )
    if y.ndim != 4 or y.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"{type(model).__name__} gives {tuple(y.shape)} for {tuple(x.shape)}, no map of classes: take a model for "
            "segmentation (`equipath train list` names them)."
        )
    if y.shape[1] > OUTSIDE - 1:
        raise ValueError(
            f"{type(model).__name__} gives {y.shape[1]} classes; a mask holds at most {OUTSIDE - 1}."
        )
    if not hasattr(model, "predict"):
        y = y.sigmoid() if y.shape[1] == 1 else y.softmax(1)
    if not bool(torch.isfinite(y).all()):
        raise ValueError(f"{type(model).__name__} answers with numbers that are not finite; train it anew.")
    return y[0].float().cpu()


class _Tissue:
    """Where there is tissue, asked in pixels of the picture."""

    def __init__(self, source: Picture, everywhere: bool) -> None:
        self.size = source.size
        if everywhere:
            self.mask = np.ones((1, 1), bool)
            return
        mpp = source.mpp or 0.5
        picture = source.thumbnail(math.ceil(max(source.size) * mpp / LOOK))
        if min(picture.shape[:2]) < 8:  # too small to tell glass from tissue
            self.mask = np.ones((1, 1), bool)
        else:
            self.mask = find_tissue(picture, max(source.size) * mpp / max(picture.shape[:2]))

    def block(self, y: int, x: int, high: int, wide: int) -> np.ndarray:
        rows, columns = (
            (np.arange(first, first + n) * m // full).clip(0, m - 1)
            for first, n, m, full in zip((y, x), (high, wide), self.mask.shape, self.size, strict=True)
        )
        return self.mask[rows][:, columns]

    def any(self, y0: int, y1: int, x0: int, x1: int) -> bool:
        ranges = []
        for first, last, m, full in zip((y0, x0), (y1, x1), self.mask.shape, self.size, strict=True):
            first, last = max(first, 0), min(last, full)
            if first >= last:
                return False
            ranges.append(slice(first * m // full, (last - 1) * m // full + 1))
        return bool(self.mask[tuple(ranges)].any())


def _span(weight: Tensor, first: int) -> tuple[int, int]:
    """Where a window along one side has a say."""
    there = weight.nonzero()[:, 0]
    return first + int(there[0]), first + int(there[-1]) + 1


# --------------------------------------------------------------------------------------------------
# what is on disk while it runs


class _Band:
    """One row of windows on its way to disk: pieces of the last row's lower part come in, this row's go out."""

    def __init__(self, above: BinaryIO | None, below: BinaryIO) -> None:
        self._above, self._below = above, below
        self._labels: list[np.ndarray] = []
        self.channels = 0

    def see(self, channels: int) -> None:
        self.channels = channels

    def above(self) -> Tensor | None:
        if self._above is None:
            return None
        piece = np.load(self._above)
        return torch.from_numpy(piece) if piece.size else None

    def below(self, rest: Tensor | None) -> None:
        np.save(self._below, np.zeros(0, np.float32) if rest is None else rest.numpy())

    def labels(self, labels: np.ndarray) -> None:
        self._labels.append(labels)

    def joined(self) -> np.ndarray:
        return np.concatenate(self._labels, 1)

    def __enter__(self) -> _Band:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._above, self._below):
            if file is not None:
                file.close()


class _Unfinished:
    """The folder of a run that is not finished: labels so far (0 unseen, k + 1 class k), the overlap that the next
    row adds to, and the row reached. A row counts when `progress.json`, written last and by renaming, says so. One
    process at a time has the folder.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], size: tuple[int, int]) -> None:
        self.folder, self.size, self.settings = folder, size, json.loads(json.dumps(settings))
        self.row, self.lines, self.seconds, self.channels = 0, 0, 0.0, 0
        self.lock: Any = None

    def __enter__(self) -> _Unfinished:
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / "lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout as error:
            raise DataError(
                f"Another process works in {self.folder} right now; wait for its end, or choose another folder."
            ) from error
        try:
            self._begin()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def _begin(self) -> None:
        """Go on where an earlier run was, or note what this one does."""
        folder, size, settings = self.folder, self.size, self.settings
        note = folder / "settings.json"
        if note.exists():
            kept = self._noted(note)
            if kept != settings:
                other = ", ".join(key for key in settings if kept.get(key) != settings[key])
                raise DataError(
                    f"{folder} holds an unfinished run with another {other}; delete that folder, or repeat its "
                    "settings to go on."
                )
            progress = folder / "progress.json"
            if progress.exists():
                state = self._noted(progress)
                self.row, self.lines = state["row"], state["lines"]
                self.seconds, self.channels = state["seconds"], state["channels"]
            return
        room = shutil.disk_usage(folder).free
        if room < 1.5 * size[0] * size[1]:
            raise DataError(
                f"{folder.parent} has {human(room)} free and the mask may need {human(1.5 * math.prod(size))}: make room "
                "or choose another folder."
            )
        part = folder / "settings.json.part"
        part.write_text(json.dumps(settings, indent=1))
        part.replace(note)

    @staticmethod
    def _noted(note: Path) -> dict[str, Any]:
        try:
            return json.loads(note.read_text())
        except ValueError as error:
            raise DataError(f"{note} is damaged ({error}); delete {note.parent} to start anew.") from error

    def band(self, row: int) -> _Band:
        above = (self.folder / f"{row - 1}.carry").open("rb") if row else None
        return _Band(above, (self.folder / f"{row}.carry").open("wb"))

    def finish(self, band: _Band, seconds: float) -> None:
        labels = band.joined()
        with (self.folder / "labels.raw").open("r+b" if self.lines else "wb") as file:
            file.seek(self.lines * self.size[1])  # a row that was half written is written again
            file.write(labels.tobytes())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self.row, self.lines = self.row + 1, self.lines + len(labels)
        self.seconds, self.channels = self.seconds + seconds, max(self.channels, band.channels)
        part = self.folder / "progress.json.part"
        state = {"row": self.row, "lines": self.lines, "seconds": self.seconds, "channels": self.channels}
        part.write_text(json.dumps(state))
        part.replace(self.folder / "progress.json")
        (self.folder / f"{self.row - 2}.carry").unlink(missing_ok=True)

    def labels(self) -> np.ndarray:
        return np.memmap(self.folder / "labels.raw", np.uint8, "r", shape=self.size)

    def counts(self) -> np.ndarray:
        raw = self.labels()
        counts = np.zeros(256, np.int64)
        for y in range(0, self.size[0], 512):
            counts += np.bincount(np.asarray(raw[y : y + 512]).ravel(), minlength=256)
        return counts


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------
# what people look at


def _names(classes: Sequence[str] | None, channels: int) -> tuple[str, ...]:
    count = max(channels, 2)  # one channel tells two classes apart
    if classes is None:
        return tuple(f"class {k}" for k in range(count))
    if len(classes) != count:
        raise ValueError(f"got {len(classes)} names for a network of {count} classes.")
    return tuple(classes)


def _rgb(k: int) -> tuple[int, int, int]:
    if k >= len(COLOURS):  # steps of the golden ratio go round the hues and never meet
        hue, light = k * 0.618034 % 1, (0.3, 0.45, 0.6, 0.75)[k % 4]
        red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.7))
        return red, green, blue
    code = COLOURS[k]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _overlay(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Colours of labels (0 unseen, k + 1 class k) over a picture, half transparent; class 0 nearly so."""
    out = picture.astype(np.float32)
    for k in range(int(labels.max())):
        there = labels == k + 1
        share = 0.15 if k == 0 else 0.55
        out[there] = (1 - share) * out[there] + share * np.array(_rgb(k), np.float32)
    return out.round().astype(np.uint8)


def _sheet(panels: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """Panels of one size side by side, the colours' names below."""
    high, wide = panels[0].shape[:2]
    gap, line = 8, 26
    font = ImageFont.load_default(size=15)
    lengths = [30 + math.ceil(font.getlength(name)) + 14 for name in names]
    places, x, y = [], gap, 0
    width = max(len(panels) * (wide + gap) + gap, max(lengths) + gap)
    for length in lengths:
        if x + length > width and x > gap:
            x, y = gap, y + line
        places.append((x, y))
        x += length
    sheet = Image.new("RGB", (width, high + 2 * gap + y + line + 4), "white")
    for k, panel in enumerate(panels):
        sheet.paste(Image.fromarray(panel), (gap + k * (wide + gap), gap))
    draw = ImageDraw.Draw(sheet)
    for k, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        y += high + 2 * gap
        draw.rectangle((x, y + 3, x + 20, y + 19), fill=_rgb(k), outline="#555555")
        draw.text((x + 28, y + 1), name, fill="black", font=font)
    return sheet


def _write(source: Picture, raw: np.ndarray, names: Sequence[str], mask: Path) -> None:
    """The pyramid of labels."""
    colours = np.full((256, 3), 255, np.uint8)
    for k in range(len(names)):
        colours[k] = _rgb(k)

    def read(y: int, x: int, high: int, wide: int) -> np.ndarray:
        return np.asarray(raw[y : y + high, x : x + wide]) - np.uint8(1)  # 0, unseen, becomes 255

    write_pyramid(read, mask, source.size, source.mpp, colours=colours)


def _preview(source: Picture, raw: np.ndarray, names: Sequence[str], side: int = 900) -> Image.Image:
    picture = source.thumbnail(side)
    high, wide = picture.shape[:2]
    rows, columns = (
        ((np.arange(n) + 0.5) * full / n).astype(int)
        for n, full in ((high, raw.shape[0]), (wide, raw.shape[1]))
    )
    return _sheet([picture, _overlay(picture, np.asarray(raw[rows])[:, columns])], names)


# --------------------------------------------------------------------------------------------------
# without labels


def cluster_folder(
    model: Any,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    k: int = 3,
    *,
    layer: int = 4,
    side: int = 512,
    seed: int = 0,
    everywhere: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    left_out: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Group the tissue of a folder of cores into k clusters of a network's features, the same for all of them.

    The SRENet pipeline (:mod:`equipath.cluster`): glass painted black, features of one layer, k-means on unturned
    pictures. Writes ``NAME.clusters.png`` (labels, `OUTSIDE` on glass, in the size of the picture as it was seen),
    ``NAME.preview.png`` and ``clusters.csv`` with the share of each cluster.

    Args:
        model: with ``features(x, layer)``, such as the ResNets.
        folder: PNG, JPEG or TIFF pictures; hidden files are none.
        side: to which a picture's longer side is resized (the paper: 512).
        everywhere: cluster glass too, and paint nothing black.
        progress: called with (pictures done, pictures in all).
        left_out: called with a sentence for each picture that cannot be read; the others go on. A warning by default.

    Returns:
        One row a picture: name, size, share of each cluster.

    Raises:
        DataError: no folder, no pictures or none that can be read, two of one name, results that are there already
            or cannot be written.
        ValueError: a network without layers to cluster, or numbers that cannot be.
    """
    from equipath.cluster import TissueClusters, paint_background

    folder, out = Path(folder), Path(out)
    if not hasattr(model, "features") or not hasattr(model, "stages"):
        raise ValueError(
            f"{type(model).__name__} has no layers to cluster; take sre_resnet18 or resnet18 (`equipath train list`)."
        )
    if not 2 <= k <= OUTSIDE - 1 or side < 32:
        raise ValueError(
            f"got {k} clusters and a side of {side}; give 2 to {OUTSIDE - 1} and at least 32 pixels."
        )
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; --cluster takes a folder of pictures, one a core.")
    there = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    files = sorted(p for p in there if not p.name.startswith("."))  # a Mac puts ._NAME.png beside NAME.png
    if not files:
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}).")
    stems: dict[str, Path] = {}
    for path in files:
        if (other := stems.setdefault(path.stem, path)) is not path:
            raise DataError(
                f"{other.name} and {path.name} would have one name for their results; rename one."
            )
    if out.resolve() == folder.resolve() or (out.exists() and not out.is_dir()):
        raise DataError(f"{out} is the folder of the pictures, or no folder; choose another for the results.")
    if (out / "clusters.csv").exists():
        raise DataError(f"{out / 'clusters.csv'} is there already; delete it, or choose another folder.")
    model, run_on = _on_device(model, device)

    def read(path: Path) -> tuple[np.ndarray, Tensor]:
        pixels = read_array(path)
        share = side / max(pixels.shape[:2])
        wide, high = (max(8, round(n * share / 8) * 8) for n in pixels.shape[1::-1])
        pixels = np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.LANCZOS))
        image = torch.from_numpy(pixels.copy()).to(run_on).movedim(-1, 0).float() / 255
        return pixels, image if everywhere else paint_background(image)

    unreadable: set[Path] = set()

    def read_if_possible(path: Path) -> tuple[np.ndarray, Tensor] | None:
        if path in unreadable:
            return None
        try:
            return read(path)
        except DataError as error:
            unreadable.add(path)
            if len(unreadable) == len(files):
                raise DataError(
                    f"none of the {len(files)} pictures in {folder} can be read: {error}"
                ) from error
            say = f"{path.name} is left out: {error}"
            left_out(say) if left_out else warnings.warn(say, stacklevel=3)
            return None

    def spread() -> Iterator[Tensor]:
        """The 2000 vectors come from at most 100 pictures, which memory holds at once."""
        step = math.ceil(len(files) / 100)
        for start in range(0, len(files), step):
            for path in files[start : start + step]:
                if (both := read_if_possible(path)) is not None:
                    yield both[1]
                    break

    found = TissueClusters.fit(model, spread(), k, layer=layer, seed=seed)
    names = [f"cluster {c + 1}" for c in range(k)]
    palette = np.full((256, 3), 255, np.uint8)
    palette[:k] = [_rgb(c + 1) for c in range(k)]
    rows: list[dict[str, Any]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in files:
            if (both := read_if_possible(path)) is None:
                continue
            pixels, painted = both
            small = found.predict(painted).cpu().numpy()
            small = np.where(small == IGNORE, OUTSIDE, small).astype(np.uint8)
            high, wide = pixels.shape[:2]
            labels = Image.fromarray(small).resize((wide, high), Image.Resampling.NEAREST)
            flat = np.asarray(labels)
            labels.putpalette(palette.ravel().tolist())
            labels.save(out / f"{path.stem}.clusters.png")
            over = np.where(
                flat == OUTSIDE, 0, flat.astype(np.int64) + 2
            )  # 1 would be class 0, what lies around
            _sheet([pixels, _overlay(pixels, over)], ["glass", *names]).save(out / f"{path.stem}.preview.png")
            seen = np.bincount(flat.ravel(), minlength=256)[:k]
            rows.append(
                {"name": path.name, "height": high, "width": wide}
                | {n: round(float(c / max(seen.sum(), 1)), 4) for n, c in zip(names, seen, strict=True)}
            )
            if progress:
                progress(len(rows), len(files) - len(unreadable))
        part = out / "clusters.csv.part"
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        part.replace(out / "clusters.csv")
    except OSError as error:
        raise DataError(
            f"{error.filename or out} could not be written ({error.strerror or error}); make room or choose another "
            "folder."
        ) from error
    return rows
