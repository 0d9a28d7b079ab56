"""OCELOT: a small field with its cells inside a large field with its tissue, from 306 slides of six organs.

Facts and where they were found. File structure, the two fields and their coordinates: the authors' page
(lunit-io.github.io/research/ocelot_dataset); address, size and MD5 of version 1.0.1: Zenodo record 8417503,
as quoted by projects that use it. Its Terms and Conditions must be accepted there first, so a person
downloads it and the script verifies and unpacks it. Cells are ``x,y,label`` without a header, 1 other and 2
tumour cell; tissue masks hold 1 background, 2 cancer, 255 unknown; ``metadata.json`` gives for each pair the
slide, the microns per pixel and the centre of the small field in the large one (``patch_x_offset``,
``patch_y_offset``, as parts of its side). The pictures are 1024 x 1024, at about 0.2 and 0.8 µm.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import (
    IGNORE,
    DataError,
    Items,
    as_image,
    check_split,
    check_task,
    data_root,
    read_array,
)

CLASSES = ("background", "cancer")
CELLS = ("other cell", "tumour cell")


def top(folder: Path) -> Path | None:
    """The folder that holds ``images/``, ``annotations/`` and ``metadata.json``."""
    for place in (
        folder,
        *sorted(folder.glob("ocelot2023_v*")),
        *sorted(folder.glob("ocelot2023_v*/ocelot2023_v*")),
    ):
        if (
            (place / "metadata.json").exists()
            and (place / "images").is_dir()
            and (place / "annotations").is_dir()
        ):
            return place
    return None


def _found(folder: Path) -> str | None:
    place = top(folder)
    if place is None:
        return None
    counts = [len(list((place / "images" / s / "cell").glob("*.jpg"))) for s in ("train", "val", "test")]
    return f"{counts[0]} training, {counts[1]} validation and {counts[2]} test pairs" if counts[0] else None


SOURCE = Source(
    name="ocelot",
    title="OCELOT 2023: cells in a small field, tissue in the large field around it, H&E, 663 pairs",
    folder="ocelot",
    homepage=(
        "https://lunit-io.github.io/research/ocelot_dataset/ (files: https://zenodo.org/records/8417503)"
    ),
    licence="OCELOT's own Terms and Conditions, to be read and accepted on Zenodo",
    cite="Ryu et al., OCELOT: overlapped cell on tissue dataset for histopathology, CVPR 2023",
    tasks=("pairs", "tissue"),
    files=(
        RemoteFile(
            "ocelot2023_v1.0.1.zip",
            hash="md5:215230295b0440b4dc356519ef9ff644",
            unpack="zip",
            origin="Zenodo",
        ),
    ),
    found=_found,
    download=303_000_000,
    disk=650_000_000,
    access="accept the terms on Zenodo, download by hand",
    by_hand=(
        "  1. open https://zenodo.org/records/8417503, read and accept the Terms and Conditions\n"
        "  2. save ocelot2023_v1.0.1.zip in {folder}"
    ),
)


def _tissue(path: Path) -> np.ndarray:
    raw = read_array(path, None)
    mask = np.full(raw.shape, IGNORE, np.int64)
    mask[raw == 1], mask[raw == 2] = 0, 1
    if not np.isin(raw, (1, 2, 255)).all():
        raise DataError(f"{path} holds other values than 1, 2 and 255; it is not a tissue mask of OCELOT.")
    return mask


def cell_points(path: Path) -> np.ndarray:
    """Cells of a small field: rows ``x, y, class`` (0 other, 1 tumour cell), ``(N, 3)`` float32."""
    rows = []
    try:
        with path.open(newline="") as file:
            for row in csv.reader(file):
                if row:
                    rows.append((float(row[0]), float(row[1]), int(row[2]) - 1))
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is not a list of cells x,y,label ({error}); delete it and unpack the archive again."
        ) from error
    return np.array(rows, np.float32).reshape(-1, 3)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    points: bool = False,
    by: str = "patient",
) -> Items:
    """Read the pairs.

    ``pairs``: ``image`` is the small field, ``context`` ``(3, 1024, 1024)`` the large one, ``context_mask``
    its tissue, ``mask`` the tissue of the small field (cut from the large field's and enlarged), ``offset``
    (x right, y down) the small field's centre as parts of the large one's side, ``context_mpp`` its
    resolution. ``tissue``: ``image`` and ``mask`` of the large field. The given splits do not share slides.

    Args:
        points: add ``points`` ``(N, 3)`` (:func:`cell_points`); their number varies, so batches need a
            collate function of their own.
    """
    check_split("ocelot", split)
    task = check_task("ocelot", task, ("pairs", "tissue"))
    folder = data_root(root) / "ocelot"
    place = top(folder)
    if place is None:
        raise DataError(
            f"OCELOT is not in {folder}; run `equipath data fetch ocelot` for what to put there, or set "
            "EQUIPATH_DATA."
        )
    try:
        about = json.loads((place / "metadata.json").read_text())["sample_pairs"]
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{place / 'metadata.json'} is not OCELOT's table of pairs ({error!r}); unpack the archive again."
        ) from error
    names = sorted(p.stem for p in (place / "images" / split / "cell").glob("*.jpg"))
    if missing := [n for n in names if n not in about]:
        raise DataError(
            f"metadata.json does not name the pairs {', '.join(missing[:3])}; unpack the archive again."
        )
    if not names:
        raise DataError(f"{place} has no pairs for {split}; unpack the archive again.")

    def get(i: int) -> dict[str, Any]:
        name, info = names[i], about[names[i]]
        large, tissue = (
            place / "images" / split / "tissue" / f"{name}.jpg",
            place / "annotations" / split / "tissue" / f"{name}.png",
        )
        wide = float(info["tissue"]["resized_mpp_x"])
        mask = _tissue(tissue)
        if task == "tissue":
            return {"image": read_array(large), "mask": mask, "mpp": wide}
        small = read_array(place / "images" / split / "cell" / f"{name}.jpg")
        near = float(info["cell"]["resized_mpp_x"])
        offset = float(info["patch_x_offset"]), float(info["patch_y_offset"])
        item: dict[str, Any] = {
            "image": small,
            "mask": _inside(mask, offset, (small.shape[0], small.shape[1]), near / wide),
            "mpp": near,
            "context": as_image(read_array(large)),
            "context_mask": torch.from_numpy(mask),
            "context_mpp": wide,
            "offset": torch.tensor(offset),
        }
        if points:
            item["points"] = torch.from_numpy(
                cell_points(place / "annotations" / split / "cell" / f"{name}.csv")
            )
        return item

    return Items(
        name="ocelot",
        task=task,
        split=split,
        classes=CLASSES,
        names=[f"{split}_{n}" for n in names],
        patients=[str(about[n].get("slide_name", n))[:12] for n in names],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )


def _inside(mask: np.ndarray, offset: tuple[float, float], size: tuple[int, int], ratio: float) -> np.ndarray:
    """The part of the large field's mask that the small field covers, by nearest neighbour.

    ``ratio`` is small over large pixel size.
    """
    places = []
    for length, count, centre in ((mask.shape[0], size[0], offset[1]), (mask.shape[1], size[1], offset[0])):
        position = centre * length + (np.arange(count) + 0.5 - count / 2) * ratio
        places.append(np.clip(np.floor(position).astype(int), 0, length - 1))
    return mask[np.ix_(*places)]
