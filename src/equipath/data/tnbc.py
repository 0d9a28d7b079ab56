"""TNBC: nuclei of triple-negative breast cancer in 50 fields of 512 px from 11 patients, H&E at 40x.

Facts and where they were found. Place and licence (CC BY 4.0): Zenodo record 1175282 (first version) and
3552674, linked on the author's page (peterjacknaylor.github.io/data). Layout
(``TNBC_NucleiSegmentation/{Slide_XX,GT_XX}/XX_N.png``) and the SHA-256: the loader of torch-em; Zenodo's own
MD5 could not be looked up. Masks are binary, so touching nuclei are one instance here. The first number of a
name is the patient. A smaller copy (``images/``, ``masks/``, ``groups.csv``) is read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import (
    DataError,
    Items,
    check_split,
    check_task,
    crops,
    data_root,
    png_size,
    read_array,
    split_of,
)

MPP = 0.25


def pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name (``01_1``), picture and mask of every field."""
    for top in (folder / "TNBC_NucleiSegmentation", folder / "TNBC_and_Brain_dataset", folder):
        found = [
            (image.stem, image, top / image.parent.name.replace("Slide_", "GT_") / image.name)
            for image in sorted(top.glob("Slide_*/*.png"))
        ]
        found = [f for f in found if f[2].exists()]
        if found:
            return found
    return [
        (p.stem, p, folder / "masks" / p.name)
        for p in sorted((folder / "images").glob("*.png"))
        if (folder / "masks" / p.name).exists()
    ]


def _found(folder: Path) -> str | None:
    there = pairs(folder)
    return (
        f"{len(there)} fields of {len({name.split('_')[0] for name, _, _ in there})} patients"
        if there
        else None
    )


SOURCE = Source(
    name="tnbc",
    title="TNBC: nuclei of triple-negative breast cancer, H&E 40x, 50 fields of 512 px from 11 patients",
    folder="tnbc",
    homepage="https://zenodo.org/records/1175282",
    licence="CC BY 4.0",
    cite=(
        "Naylor et al., Segmentation of nuclei in histopathology images by deep regression of the distance "
        "map, IEEE TMI 38(2), 2019"
    ),
    tasks=("nuclei",),
    files=(
        RemoteFile(
            "TNBC_NucleiSegmentation.zip",
            "https://zenodo.org/records/1175282/files/TNBC_NucleiSegmentation.zip?download=1",
            hash="sha256:da708c3a988f4ad4b9bbb9283b387faf703f0bc0e5e689927306bd27ea13a57f",
            unpack="zip",
            origin="torch-em's loader",
        ),
    ),
    found=_found,
    download=26_000_000,
    disk=52_000_000,
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    tile: int | None = None,
    stride: int | None = None,
    by: str = "patient",
) -> Items:
    """Read TNBC: ``image``, ``instances`` (connected pieces of the mask) and ``mask``.

    Patients shared out 70/15/15.
    """
    from scipy import ndimage

    check_split("tnbc", split)
    task = check_task("tnbc", task, ("nuclei",))
    folder = data_root(root) / "tnbc"
    there = pairs(folder)
    if not there:
        raise DataError(f"TNBC is not in {folder}; run `equipath data fetch tnbc`, or set EQUIPATH_DATA.")
    patient = {name: f"patient_{name.split('_')[0]}" for name, _, _ in there}
    part = split_of(list(patient.values()), seed=0)
    places = [
        (name, image, mask, window)
        for name, image, mask in there
        if part[patient[name]] == split
        for window in crops(png_size(image), tile, stride)
    ]

    def get(i: int) -> dict[str, Any]:
        _, image, mask, (y, x, high, wide) = places[i]
        instances, _ = ndimage.label(read_array(mask, "L") >= 128)
        return {
            "image": read_array(image)[y : y + high, x : x + wide],
            "instances": instances[y : y + high, x : x + wide],
            "mpp": MPP,
        }

    return Items(
        name="tnbc",
        task=task,
        split=split,
        classes=("background", "nucleus"),
        names=[name if tile is None else f"{name}_{w[0]}_{w[1]}" for name, _, _, w in places],
        patients=[patient[name] for name, _, _, _ in places],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
