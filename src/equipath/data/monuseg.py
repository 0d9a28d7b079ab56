"""MoNuSeg 2018: every nucleus outlined in 51 fields of seven organs and more, H&E at 40x.

Facts and where they were found. Licence (CC BY-NC-SA 4.0), Google Drive links, 37 training and 14 test fields
of 1000 x 1000: the challenge's data page (monuseg.grand-challenge.org/Data). Layout (``MoNuSeg 2018 Training
Data/{Tissue Images,Annotations}``, ``MoNuSegTestData``) and SHA-256: the loader of torch-em and further
projects that quote the same sums; the challenge itself publishes none. Outlines are Aperio XML
(``Region/Vertices/Vertex`` with X and Y in pixels). The files sit on Google Drive, which a program cannot
fetch reliably: a person downloads two archives, the script verifies and converts them. The field's name
(``TCGA-38-6178-01Z-00-DX1``) names the patient (``TCGA-38-6178``).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import (
    DataError,
    Items,
    cached_array,
    check_split,
    check_task,
    crops,
    data_root,
    png_size,
    read_array,
    split_of,
)

MPP = 0.25
_TRAIN, _TEST = "MoNuSeg 2018 Training Data", "MoNuSegTestData"


def fields(folder: Path) -> dict[str, dict[str, tuple[Path, Path]]]:
    """Image and XML of every field that has both, by ``train`` and ``test``.

    The test archive is found nested or not.
    """
    found: dict[str, dict[str, tuple[Path, Path]]] = {"train": {}, "test": {}}
    for image in sorted((folder / _TRAIN / "Tissue Images").glob("*.tif")):
        if (xml := folder / _TRAIN / "Annotations" / f"{image.stem}.xml").exists():
            found["train"][image.stem] = image, xml
    for image in sorted((folder / _TEST).rglob("*.tif")):
        if (xml := image.with_suffix(".xml")).exists():
            found["test"][image.stem] = image, xml
    return found


def instances_of(xml: Path, size: tuple[int, int]) -> np.ndarray:
    """Turn the outlines of an Aperio XML file into an instance map ``(H, W)`` int32, 0 being background.

    Where outlines overlap the smaller nucleus lies on top; outlines of less than three points are left out.

    Raises:
        DataError: the file is not whole.
    """
    from skimage.draw import polygon

    try:
        tree = ET.parse(xml)
    except (ET.ParseError, OSError) as error:
        raise DataError(f"{xml} is not whole XML ({error}); delete it and fetch the set again.") from error
    outlines = []
    for region in tree.iter("Region"):
        points = np.array(
            [(float(v.get("X", "nan")), float(v.get("Y", "nan"))) for v in region.iter("Vertex")]
        )
        if len(points) >= 3 and np.isfinite(points).all():
            x, y = points.T
            outlines.append((abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2, points))
    result = np.zeros(size, np.int32)
    for number, (_, points) in enumerate(sorted(outlines, key=lambda o: -o[0]), 1):
        # Vertices are in the coordinates of pixel edges; polygon() asks for those of pixel centres.
        rows, columns = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, size)
        result[rows, columns] = number
    return result


def _size(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]


def _convert(folder: Path, out: Path) -> None:
    for split, members in fields(folder).items():
        (out / split).mkdir()
        for name, (image, xml) in members.items():
            picture = read_array(image)
            Image.fromarray(picture).save(out / split / f"{name}.png")
            Image.fromarray(instances_of(xml, _size(picture)).astype(np.uint16)).save(
                out / split / f"{name}_instances.png"
            )


def _found(folder: Path) -> str | None:
    if (folder / "converted").is_dir():
        counts = [len(list((folder / "converted" / s).glob("*_instances.png"))) for s in ("train", "test")]
    else:
        counts = [len(members) for members in fields(folder).values()]
    return f"{counts[0]} training and {counts[1]} test fields" if counts[0] else None


SOURCE = Source(
    name="monuseg",
    title="MoNuSeg 2018: outlined nuclei of several organs, H&E 40x, 51 fields of 1000 px",
    folder="monuseg",
    homepage="https://monuseg.grand-challenge.org/Data/",
    licence="CC BY-NC-SA 4.0 (not for commercial use)",
    cite=(
        "Kumar et al., A multi-organ nucleus segmentation challenge, IEEE TMI 39(5), 1380-1391, 2020; Kumar "
        "et al., IEEE TMI 36(7), 2017"
    ),
    tasks=("nuclei",),
    files=(
        RemoteFile(
            f"{_TRAIN}.zip",
            hash="sha256:25d3d3185bb2970b397cafa72eb664c9b4d24294aee382e7e3df9885affce742",
            unpack="zip",
            origin="torch-em; the challenge publishes none",
        ),
        RemoteFile(
            f"{_TEST}.zip",
            hash="sha256:13e522387ae8b1bcc0530e13ff9c7b4d91ec74959ef6f6e57747368d7ee6f88a",
            unpack="zip",
            origin="torch-em; the challenge publishes none",
        ),
    ),
    found=_found,
    download=150_000_000,
    disk=500_000_000,
    access="download two archives from Google Drive by hand",
    by_hand=(
        "  1. open https://monuseg.grand-challenge.org/Data/ and follow its links to Google Drive\n"
        "  2. training data: save 'MoNuSeg 2018 Training Data.zip' in {folder}\n"
        "  3. test data: save 'MoNuSegTestData.zip' in {folder}"
    ),
    convert=_convert,
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    tile: int | None = 400,
    stride: int | None = 200,
    by: str = "patient",
) -> Items:
    """Read MoNuSeg: ``image``, ``instances`` and ``mask`` in windows of 400 px with a stride of 200, 16 a
    field (SEUNet, section 4.1).

    ``val`` is about 15 % of the training patients; ``tile=None`` gives whole fields.
    """
    check_split("monuseg", split)
    task = check_task("monuseg", task, ("nuclei",))
    folder = data_root(root) / "monuseg"
    given = "test" if split == "test" else "train"
    pictures: dict[str, tuple[Path, Path]]
    if (folder / "converted" / given).is_dir():
        base = folder / "converted" / given
        pictures = {
            p.stem.removesuffix("_instances"): (base / p.name.replace("_instances", ""), p)
            for p in sorted(base.glob("*_instances.png"))
        }
    else:
        pictures = fields(folder)[given]
    if not pictures:
        raise DataError(
            f"MoNuSeg's {given} fields are not in {folder}; run `equipath data fetch monuseg`, or set "
            "EQUIPATH_DATA."
        )
    if split != "test":
        part = split_of([name[:12] for name in pictures], (0.85, 0.15, 0.0), 0)
        pictures = {n: p for n, p in pictures.items() if part[n[:12]] == split}
    places = [
        (name, window)
        for name, (image, _) in pictures.items()
        for window in crops(png_size(image), tile, stride)
    ]

    def get(i: int) -> dict[str, Any]:
        name, (y, x, high, wide) = places[i]
        image, labels = pictures[name]
        picture = cached_array(str(image))
        nuclei = (
            cached_array(str(labels), None)
            if labels.suffix == ".png"
            else instances_of(labels, _size(picture))
        )
        return {
            "image": picture[y : y + high, x : x + wide],
            "instances": nuclei[y : y + high, x : x + wide],
            "mpp": MPP,
        }

    return Items(
        name="monuseg",
        task=task,
        split=split,
        classes=("background", "nucleus"),
        names=[f"{name}_{y}_{x}" for name, (y, x, _, _) in places],
        patients=[name[:12] for name, _ in places],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
