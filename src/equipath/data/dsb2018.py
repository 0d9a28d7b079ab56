"""2018 Data Science Bowl, the fields of stained tissue: nuclei one by one in bright-field pictures (BBBC038).

Facts and where they were found. Place, CC0 licence and the tree (``stage1_train/ID/images/ID.png``,
``…/masks/*.png``, one nucleus a file): the Broad Bioimage Benchmark Collection
(bbbc.broadinstitute.org/BBBC038). No hash is published; the first download is recorded. Most of its pictures
are fluorescence; only colour pictures on a bright ground are tissue and are kept. The tissue pictures of 256
x 320 are quarters of larger fields: a copy with ``groups.csv`` says which belong together and is split by
field; in the full set each picture stands for itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import (
    DataError,
    Items,
    check_split,
    check_task,
    data_root,
    read_array,
    read_table,
    split_of,
)


def is_stained(image: np.ndarray) -> bool:
    """Whether a picture ``(H, W, 3)`` uint8 is stained tissue: coloured, on a bright ground."""
    values = image.astype(np.int16)
    return bool((values.max(2) - values.min(2)).mean() > 8 and values.mean() > 100)


def _convert(folder: Path, out: Path) -> None:
    """Instance maps of the stained pictures, of which there are 50 to 100 masks each."""
    top = folder / "stage1_train"
    kept = []
    for place in sorted(p for p in top.iterdir() if p.is_dir()) if top.is_dir() else []:
        picture = read_array(place / "images" / f"{place.name}.png")
        if not is_stained(picture):
            continue
        instances = np.zeros(picture.shape[:2], np.uint16)
        for number, mask in enumerate(sorted((place / "masks").glob("*.png")), 1):
            instances[read_array(mask, "L") > 0] = number
        (out / "images").mkdir(exist_ok=True)
        (out / "masks").mkdir(exist_ok=True)
        Image.fromarray(picture).save(out / "images" / f"{place.name}.png")
        Image.fromarray(instances).save(out / "masks" / f"{place.name}.png")
        kept.append(place.name)
    if kept:
        (out / "kept.json").write_text(json.dumps(kept))


def pairs(folder: Path) -> list[tuple[str, str, Path, Path]]:
    """Name, group, picture and instance map of every stained picture."""
    top = folder / "converted" if (folder / "converted" / "kept.json").exists() else folder
    groups: dict[str, str] = {}
    if (top / "groups.csv").exists():
        rows = read_table(top / "groups.csv", ("image", "field_group"))
        groups = {row["image"]: row["field_group"] for row in rows}
    return [
        (p.stem, groups.get(p.name, p.stem), p, top / "masks" / p.name)
        for p in sorted((top / "images").glob("*.png"))
        if (top / "masks" / p.name).exists()
    ]


def _found(folder: Path) -> str | None:
    there = pairs(folder)
    return f"{len(there)} stained pictures of {len({g for _, g, _, _ in there})} fields" if there else None


SOURCE = Source(
    name="dsb2018",
    title="2018 Data Science Bowl (BBBC038): nuclei one by one; the stained tissue among its 670 pictures",
    folder="dsb2018_tissue",
    homepage="https://bbbc.broadinstitute.org/BBBC038",
    licence="CC0 1.0",
    cite=(
        "Caicedo et al., Nucleus segmentation across imaging experiments, Nature Methods 16, 1247-1253, "
        "2019 (image set BBBC038v1)"
    ),
    tasks=("nuclei",),
    files=(
        RemoteFile(
            "stage1_train.zip",
            "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
            unpack="zip",
            into="stage1_train",
        ),
    ),
    found=_found,
    download=83_000_000,
    disk=300_000_000,
    convert=_convert,
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    by: str = "patient",
) -> Items:
    """Read the stained pictures: ``image``, ``instances`` and ``mask``; fields shared out 70/15/15.

    ``mpp`` is not known (nan).
    """
    check_split("dsb2018", split)
    task = check_task("dsb2018", task, ("nuclei",))
    folder = data_root(root) / "dsb2018_tissue"
    there = pairs(folder)
    if not there:
        raise DataError(
            f"The stained pictures of the Data Science Bowl are not in {folder}; run `equipath data fetch "
            "dsb2018`."
        )
    part = split_of([group for _, group, _, _ in there], seed=0)
    there = [entry for entry in there if part[entry[1]] == split]

    def get(i: int) -> dict[str, Any]:
        return {"image": read_array(there[i][2]), "instances": read_array(there[i][3], None).astype(np.int32)}

    return Items(
        name="dsb2018",
        task=task,
        split=split,
        classes=("background", "nucleus"),
        names=[e[0] for e in there],
        patients=[e[1] for e in there],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
