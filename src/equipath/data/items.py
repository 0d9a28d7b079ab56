"""What every data set gives: items in one form, splits by patient, nested fractions, and a folder form on
disk.

A data set, public or rendered, is a :class:`Items`: a ``torch.utils.data.Dataset`` whose items are plain
dictionaries (``image``, then ``label``, ``mask`` or ``instances``, then ``patient``, ``mpp``, ``name``). An
experiment can thus exchange one set for another by name (:func:`equipath.data.load`). Splits are made between
patients, never between the images of one patient; a fraction of a training set is contained in every larger
fraction, as in the label-efficiency tables of the GU-Net paper (100, 50, 25 and 12.5 %).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset

from equipath.data.tiles import starts

__all__ = [
    "IGNORE",
    "SPLITS",
    "DataError",
    "Items",
    "as_image",
    "crops",
    "data_root",
    "nested",
    "read_array",
    "read_folder",
    "read_table",
    "split_of",
    "write_folder",
]

IGNORE = -100
"""Mask value of a pixel about which nothing is known: torch's own default ``ignore_index``."""

SPLITS = ("train", "val", "test")


class DataError(RuntimeError):
    """Something about data on disk or on the network that the reader of the message can mend.

    Always one clear sentence or two.
    """


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the data sets.

    ``root``, else ``$EQUIPATH_DATA``, else ``~/equipath-data``.
    """
    return Path(root or os.environ.get("EQUIPATH_DATA") or Path.home() / "equipath-data").expanduser()


class Items(Dataset):
    """A set of labelled tissue images that are read when they are asked for.

    Args:
        name: name of the set.
        task: one of ``tumour``, ``tissue``, ``nuclei``, ``texture``, ``cores``, ``pairs``.
        split: ``train``, ``val`` or ``test``.
        classes: names of the classes, in the order of ``label`` or of the mask's values.
        names, patients: one string per item; ``names`` are unique in the set.
        read: from the position of an item to its arrays: ``image`` ``(H, W, 3)`` uint8 (or ``(3, H, W)``
            float) and any of ``label`` (int), ``mask`` ``(H, W)``, ``instances`` ``(H, W)``, ``mpp``
            (micrometres per pixel) and further entries, which are passed on.
        fraction: keep this part of the items, nested (:func:`nested`); ``by`` says whether whole patients or
            single items are dropped.

    Items are dictionaries: ``image`` float32 ``(3, H, W)`` in [0, 1]; ``mask`` int64 ``(H, W)``;
    ``instances`` int32 ``(H, W)``, 0 being background, always with ``mask`` (nucleus or not); ``label`` int;
    ``patient`` and ``name`` str; ``mpp`` float, nan where not known.
    """

    def __init__(
        self,
        *,
        name: str,
        task: str,
        split: str,
        classes: Sequence[str],
        names: Sequence[str],
        patients: Sequence[str],
        read: Callable[[int], Mapping[str, Any]],
        fraction: float = 1.0,
        seed: int = 0,
        by: str = "patient",
    ) -> None:
        if len(names) != len(patients):
            raise ValueError(
                f"{name}: got {len(names)} names and {len(patients)} patients; give one patient per item."
            )
        if by not in ("patient", "item"):
            raise ValueError(f"got by={by!r}; say by='patient' (drop whole patients first) or by='item'.")
        self.name, self.task, self.split, self.classes = name, task, split, tuple(classes)
        groups = patients if by == "patient" else names
        if fraction == 1:
            self._chosen = np.arange(len(names))
        else:
            self._chosen = np.asarray(nested(groups, fraction, seed), dtype=np.int64)
        self._names, self._patients, self._read = names, patients, read
        self.recipe: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers of a DataLoader that are started afresh (Windows, macOS) open the set anew: what reads it is
        # a closure.
        if self.recipe is None:
            raise TypeError(
                "only data sets opened with equipath.data.load or read_folder can be sent to other processes."
            )
        return _open_again, self.recipe

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def patients(self) -> list[str]:
        """The patient of every item."""
        return [self._patients[i] for i in self._chosen]

    @property
    def names(self) -> list[str]:
        """The name of every item."""
        return [self._names[i] for i in self._chosen]

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"items are asked for one at a time by whole numbers; got {index!r}. torch.utils.data.Subset takes "
                "several."
            ) from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} ({self.split}) has {len(self)} items; item {index} was asked for.")
        position = int(self._chosen[index])
        raw = dict(self._read(position))
        item: dict[str, Any] = {"image": as_image(raw.pop("image"))}
        if "label" in raw:
            item["label"] = int(raw.pop("label"))
        if "instances" in raw:
            instances = torch.from_numpy(np.asarray(raw.pop("instances"), dtype=np.int32))
            item["instances"] = instances
            item["mask"] = (instances > 0).long()
        if "mask" in raw:
            item["mask"] = torch.from_numpy(np.asarray(raw.pop("mask"), dtype=np.int64))
        picture = tuple(item["image"].shape[-2:])
        if "mask" in item and tuple(item["mask"].shape) != picture:
            raise DataError(
                f"{self.name}: the mask of {self._names[position]} has shape {tuple(item['mask'].shape)} and its "
                f"picture {picture[0]} x {picture[1]} pixels; they do not belong together. Fetch the set again."
            )
        item["patient"] = self._patients[position]
        item["mpp"] = float(raw.pop("mpp", math.nan))
        item["name"] = self._names[position]
        return item | raw

    def __repr__(self) -> str:
        return (
            f"Items(name={self.name!r}, task={self.task!r}, split={self.split!r}, items={len(self)}, "
            f"patients={len(set(self.patients))}, classes={self.classes})"
        )


def _open_again(function: Callable[..., Any], places: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return function(*places, **options)


def as_image(picture: Any) -> torch.Tensor:
    """Turn ``(H, W, 3)`` uint8 (array or PIL picture) or ``(3, H, W)`` float into float32 ``(3, H, W)`` in
    [0, 1].
    """
    if isinstance(picture, torch.Tensor):
        return picture.float()
    array = np.asarray(picture)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float().div_(255)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def read_array(path: str | os.PathLike[str], mode: str | None = "RGB") -> np.ndarray:
    """Read a picture as an array, ``(H, W, 3)`` uint8 by default, as viewers show it: turned as its EXIF tag says,
    white where it is transparent. ``mode=None`` keeps the values of the file (label maps).

    Raises:
        DataError: the file is missing, truncated or not a picture.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = (
        None  # scanned regions are larger than pillow's guard against decompression bombs
    )
    try:
        with Image.open(path) as picture:
            if mode == "RGB" and picture.mode[0] in "IF":
                raise DataError(
                    f"{path} has more than 8 bits a pixel, and what counts as white there is not known; save it with "
                    "8 bits a colour."
                )
            if mode == "RGB":
                ImageOps.exif_transpose(picture, in_place=True)
                if picture.has_transparency_data:
                    clear = picture.convert("RGBA")
                    shown = Image.new("RGB", picture.size, "white")
                    shown.paste(clear, mask=clear.getchannel("A"))
                    return np.array(shown)
            return np.array(picture if mode is None or picture.mode == mode else picture.convert(mode))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; fetch the data set again, or put the file there.") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({error}); it is damaged, or none. A file of a data set: delete it "
            "and fetch the set again."
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table in CSV, by the names in its first line.

    Raises:
        DataError: the file is no table, or lacks one of ``columns``.
    """
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            rows, there = list(table), table.fieldnames or ()
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no table ({error}); delete it and fetch the data set again.") from error
    if missing := [name for name in columns if name not in there]:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it wants the columns {', '.join(columns)}. Fetch the data set again."
        )
    return rows


def _rank(group: str, seed: int) -> str:
    """A reproducible place in a random order that depends on the group's name alone, not on what else is in
    the set.
    """
    return hashlib.sha256(f"{seed}\x00{group}".encode()).hexdigest()


def nested(patients: Sequence[str], fraction: float, seed: int = 0) -> list[int]:
    """Choose a fraction of the items such that every smaller fraction is contained in every larger one.

    Whole patients are taken in an order drawn from ``seed``; only the last one taken may be cut, so that the
    number of items is exact.

    Args:
        patients: the patient of every item.
        fraction: in (0, 1].

    Returns:
        Sorted positions, ``max(1, round(fraction * len(patients)))`` of them.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"got fraction={fraction}; it must lie in (0, 1], for example 0.125 for 12.5 %.")
    place = {patient: _rank(patient, seed) for patient in set(patients)}
    order = sorted(range(len(patients)), key=lambda i: (place[patients[i]], i))
    return sorted(order[: max(1, round(fraction * len(patients)))] if patients else [])


def split_of(
    patients: Sequence[str], shares: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0
) -> dict[str, str]:
    """Assign every patient to ``train``, ``val`` or ``test`` so that the items are shared out about as asked.

    Patients are dealt in an order drawn from ``seed`` and their names, largest shortfall first; the result
    does not depend on the order of the items. Used where a data set has no official split.
    """
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"got shares={shares}; give three numbers that add up to 1: train, val, test.")
    counts: dict[str, int] = {}
    for patient in patients:
        counts[patient] = counts.get(patient, 0) + 1
    total, filled, result = len(patients), [0.0, 0.0, 0.0], {}
    # Big patients first: dealt last they would overshoot whichever split is left.
    for patient in sorted(counts, key=lambda p: (-counts[p], _rank(p, seed))):
        k = max(range(3), key=lambda j: shares[j] * total - filled[j])
        result[patient] = SPLITS[k]
        filled[k] += counts[patient]
    return result


def check_split(name: str, split: str, known: Sequence[str] = SPLITS) -> None:
    """Raise ValueError unless ``split`` is one of the splits the set has."""
    if split not in known:
        raise ValueError(f"{name} has the splits {', '.join(known)}; got split={split!r}.")


def check_task(name: str, task: str | None, known: Sequence[str]) -> str:
    """Return the task, the set's first one for None; raise ValueError for one the set has no labels for."""
    if task is None:
        return known[0]
    if task not in known:
        raise ValueError(f"{name} has labels for {', '.join(known)}; got task={task!r}.")
    return task


def crops(
    size: tuple[int, int], tile: int | None, stride: int | None = None
) -> list[tuple[int, int, int, int]]:
    """Cut a picture of ``size`` (H, W) into windows ``(y, x, h, w)`` that lie wholly inside; the last row and
    column touch the border.

    With ``tile=None`` the whole picture is the only window. A picture smaller than the tile gives itself,
    uncut.
    """
    height, width = size
    if tile is None:
        return [(0, 0, height, width)]
    stride = stride or tile
    return [
        (y, x, min(tile, height), min(tile, width))
        for y in starts(height, tile, stride)
        for x in starts(width, tile, stride)
    ]


@lru_cache(maxsize=4)
def cached_array(path: str, mode: str | None = "RGB") -> np.ndarray:
    """:func:`read_array` that remembers the last few pictures, for windows read one after the other."""
    return read_array(path, mode)


def png_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, without decoding it."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({error}); delete it and fetch the set again."
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


BATCH = 16  # items asked for at once: rendered ones are several times cheaper together


def write_folder(
    items: Dataset, folder: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a data set as files: ``images/NAME.png``, ``masks/``, ``instances/`` (16-bit), and ``items.csv``
    with the rest.

    The table is written last and at once, so that a folder with ``items.csv`` is whole. Until then
    ``items.jsonl.part`` says what is finished: the same call goes on there, keeps the files that are as they were
    written and writes the others. Pixel values are rounded to 8 bits; a mask's IGNORE becomes 255. Read it back
    with :func:`read_folder`.

    Raises:
        DataError: the folder is whole already, was begun with other items, or cannot be written.
    """
    folder = Path(folder)
    if (folder / "items.csv").exists():
        raise DataError(
            f"{folder} already holds a data set (items.csv); choose another folder, or delete this one."
        )
    total = len(items)  # type: ignore[arg-type]
    head = {
        "set": getattr(items, "name", ""),
        "task": getattr(items, "task", ""),
        "split": getattr(items, "split", ""),
        "classes": "|".join(getattr(items, "classes", ())),
    }
    begun = head | {"items": total, "names": _rank("|".join(getattr(items, "names", ())), 0)}
    journal = folder / "items.jsonl.part"
    try:
        rows = _finished(journal, begun)
        last = max(rows, default=-1)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(
            journal, "".join(json.dumps(x) + "\n" for x in (begun, *([k, *rows[k]] for k in sorted(rows))))
        )
        with journal.open("a") as notes:
            for start in range(0, total, BATCH):
                some = range(start, min(start + BATCH, total))
                # One finished batch is looked at again: are these the items that the folder was begun with?
                if last not in some and all(k in rows for k in some):
                    for k in some if progress else ():
                        progress(k + 1, total)  # type: ignore[misc]
                    continue
                together = getattr(items, "__getitems__", None)
                found = together(list(some)) if together else map(items.__getitem__, some)
                for k, item in zip(some, found, strict=True):
                    row, pictures = _row(item)
                    if k not in rows:
                        rows[k] = row, {name: _write_png(folder / name, x) for name, x in pictures.items()}
                        notes.write(json.dumps([k, *rows[k]]) + "\n")
                        notes.flush()
                    elif rows[k][0] != row or any(
                        not np.array_equal(read_array(folder / name, None), x) for name, x in pictures.items()
                    ):
                        raise DataError(
                            f"{folder} was begun with other settings or another version; delete it, or choose another "
                            "folder."
                        )
                    if progress:
                        progress(k + 1, total)
        text = io.StringIO(newline="")
        text.write("# " + ";".join(f"{key}={value}" for key, value in head.items()) + "\n")
        table = [rows[k][0] for k in range(total)]
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)))
        writer.writeheader()
        writer.writerows(table)
        _replace(folder / "items.csv", text.getvalue())
        journal.unlink()
    except OSError as error:
        raise DataError(
            f"{folder} could not be written ({error.strerror or error}); make room or choose another folder. The same "
            "command goes on where it stopped."
        ) from error
    return folder


def _row(item: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """An item's line of the table, and its pictures by their names in the folder."""
    file = item["name"].replace("/", "__") + ".png"
    row: dict[str, Any] = {
        "name": item["name"],
        "patient": item["patient"],
        "mpp": repr(float(item["mpp"])),  # text, in which nan equals nan
        "label": item.get("label", ""),
    }
    pictures: dict[str, np.ndarray] = {}

    def add(column: str, place: str, values: np.ndarray) -> None:
        row[column] = f"{place}/{file}"
        pictures[row[column]] = values

    def colours(image: torch.Tensor) -> np.ndarray:
        return (image * 255).round().byte().permute(1, 2, 0).numpy()

    def labels(mask: torch.Tensor) -> np.ndarray:
        return torch.where(mask == IGNORE, 255, mask).byte().numpy()

    add("image", "images", colours(item["image"]))
    if "instances" in item:
        if int(item["instances"].max()) > 65535:
            raise DataError(
                f"{item['name']} has more than 65535 instances, which a 16-bit picture cannot hold."
            )
        add("instances", "instances", item["instances"].numpy().astype(np.uint16))
    elif "mask" in item:
        add("mask", "masks", labels(item["mask"]))
    if "context" in item:
        add("context", "context", colours(item["context"]))
        add("context_mask", "context_masks", labels(item["context_mask"]))
        row["offset_x"], row["offset_y"] = (float(v) for v in item["offset"])
        row["context_mpp"] = float(item["context_mpp"])
    return row, pictures


def _finished(journal: Path, begun: dict[str, Any]) -> dict[int, tuple[dict[str, Any], dict[str, str]]]:
    """What an unfinished folder holds: its lines of the table and the hashes of its files, by position; only
    those whose files are as they were written.
    """
    if not journal.exists():
        return {}
    found: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
    with journal.open() as file:
        for number, line in enumerate(file):
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the line that was being written
            if number == 0:
                if entry != begun:
                    raise DataError(
                        f"{journal.parent} was begun with other items ({entry.get('items')} of {entry.get('set')}, "
                        f"{entry.get('task')}, {entry.get('split')}); delete it, or choose another folder."
                    )
                continue
            k, row, files = entry
            if all(
                (journal.parent / name).is_file()
                and hashlib.sha256((journal.parent / name).read_bytes()).hexdigest() == known
                for name, known in files.items()
            ):
                found[k] = row, files
    return found


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".new")
    part.write_text(text, newline="")
    part.replace(path)


def _write_png(path: Path, array: np.ndarray) -> str:
    """Write a picture, which appears under its name when it is whole, and return its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = io.BytesIO()
    Image.fromarray(array).save(body, "PNG")
    part = path.with_name(path.name + ".part")
    part.write_bytes(body.getvalue())
    part.replace(path)
    return hashlib.sha256(body.getvalue()).hexdigest()


def read_folder(folder: str | os.PathLike[str], fraction: float = 1.0, seed: int = 0) -> Items:
    """Read what :func:`write_folder` wrote, or a fraction of it (:func:`nested`).

    Raises:
        DataError: the folder has no table, or one that is damaged; or, when an item is asked for, its files are.
    """
    folder = Path(folder)
    table = folder / "items.csv"
    if not table.exists():
        raise DataError(
            f"{folder} has no items.csv: it is not a written data set, or writing it was interrupted; the same "
            "command that began it goes on."
        )
    try:
        with table.open(newline="") as file:
            head = dict(part.split("=", 1) for part in file.readline().removeprefix("# ").strip().split(";"))
            rows = list(csv.DictReader(file))
        whole = {"set", "task", "split", "classes"} <= head.keys() and all(
            row.get(key) is not None for row in rows for key in ("name", "patient", "mpp", "image")
        )
    except (ValueError, OSError, csv.Error):
        whole = False
    if not whole:
        raise DataError(
            f"{table} is damaged: it wants a first line with set, task, split and classes, then a table with a name, "
            "patient, mpp and image for each item. Write the set anew."
        )

    def read(i: int) -> dict[str, Any]:
        row = rows[i]
        out: dict[str, Any] = {"image": read_array(folder / row["image"]), "mpp": float(row["mpp"])}
        if row.get("label"):
            out["label"] = int(row["label"])
        for key in ("mask", "context_mask"):
            if row.get(key):
                values = read_array(folder / row[key], None).astype(np.int64)
                values[values == 255] = IGNORE
                out[key] = values if key == "mask" else torch.from_numpy(values)
        if row.get("instances"):
            out["instances"] = read_array(folder / row["instances"], None)
        if row.get("context"):
            out["context"] = as_image(read_array(folder / row["context"]))
            out["offset"] = torch.tensor([float(row["offset_x"]), float(row["offset_y"])])
            out["context_mpp"] = float(row["context_mpp"])
        return out

    items = Items(
        name=head["set"],
        task=head["task"],
        split=head["split"],
        classes=tuple(c for c in head["classes"].split("|") if c),
        names=[row["name"] for row in rows],
        patients=[row["patient"] for row in rows],
        read=read,
        fraction=fraction,
        seed=seed,
    )
    items.recipe = read_folder, (folder, fraction, seed), {}
    return items
