"""BCSS: tissue regions of 151 breast cancers, grouped into the five classes of the SEUNet paper and split by
institution.

Facts and where they were found. Codes of the 22 regions, "0 is outside, not a class", folder and file names,
CC0 licence, Google Drive link: the authors' repository (github.com/PathologyDataScience/BCSS). The grouping
into five classes and the six test institutions (OL, LL, E2, EW, GM, S3) are those of the challenge's baseline
page (bcsegmentation.grand-challenge.org/Baseline), as kaiko-ai's eva quotes them; so are eva's validation
institutions (BH, C8, A8, A1, E9). The SEUNet paper holds out seven institutions without naming them: give
``test_institutions`` to try others. Names such as ``TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png`` say
institution (A1), patient (TCGA-A1-A0SK) and resolution. The files sit in a Google Drive folder, which a
program cannot fetch reliably: a person downloads it, the script verifies and converts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from equipath.data.fetch import Source
from equipath.data.items import (
    IGNORE,
    DataError,
    Items,
    cached_array,
    check_split,
    check_task,
    crops,
    data_root,
    png_size,
    read_array,
)

CLASSES = ("tumour", "stroma", "inflammatory", "necrosis", "other")
TEST_INSTITUTIONS = ("OL", "LL", "E2", "EW", "GM", "S3")
VAL_INSTITUTIONS = ("BH", "C8", "A8", "A1", "E9")
_GROUPS = {
    0: (1, 19, 20),  # tumour, angioinvasion, ductal carcinoma in situ
    1: (2,),
    2: (3, 10, 11),  # lymphocytic infiltrate, plasma cells, other immune infiltrate
    3: (4,),
}
_NAME = re.compile(r"^(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}).*MPP-([0-9.]+)$")


def grouping() -> np.ndarray:
    """Table from BCSS's codes (0 to 255) to the five classes.

    Outside the region (0) becomes IGNORE, all unnamed codes "other".
    """
    table = np.full(256, CLASSES.index("other"), np.int64)
    for group, codes in _GROUPS.items():
        table[list(codes)] = group
    table[0] = IGNORE
    return table


def regions(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Picture and mask of every region, whichever of the two ways of downloading was used."""
    for top in (folder, folder / "0_Public-data-Amgad2019_0.25MPP"):
        for where in ("rgbs_colorNormalized", "images", "rgbs"):
            pairs = {
                p.stem: (p, top / "masks" / p.name)
                for p in sorted((top / where).glob("TCGA-*.png"))
                if (top / "masks" / p.name).exists()
            }
            if pairs:
                return pairs
    return {}


def _convert(folder: Path, out: Path) -> None:
    """Plain arrays, of which a window can be read without decoding a picture of 30 megapixels."""
    for name, (image, mask) in regions(folder).items():
        picture, codes = read_array(image), read_array(mask, None)
        if codes.shape[:2] != picture.shape[:2]:
            raise DataError(
                f"{name}: the picture is {picture.shape[:2]} and its mask {codes.shape[:2]} pixels; "
                "download both again."
            )
        np.save(out / f"{name}_image.npy", picture)
        np.save(out / f"{name}_mask.npy", codes if codes.ndim == 2 else codes[..., 0])


def _found(folder: Path) -> str | None:
    count = len(list((folder / "converted").glob("*_mask.npy"))) or len(regions(folder))
    return f"{count} regions" if count else None


SOURCE = Source(
    name="bcss",
    title="BCSS: tissue regions of 151 breast cancers, H&E at 0.25 µm per pixel",
    folder="bcss",
    homepage="https://github.com/PathologyDataScience/BCSS",
    licence="CC0 1.0",
    cite=(
        "Amgad et al., Structured crowdsourcing enables convolutional segmentation of histology images, "
        "Bioinformatics 35(18), 2019"
    ),
    tasks=("tissue",),
    files=(),
    found=_found,
    download=5_000_000_000,
    disk=16_000_000_000,
    access="download a folder from Google Drive by hand, or with the authors' script",
    by_hand=(
        "  1. open https://github.com/PathologyDataScience/BCSS and follow 'this link' (Google Drive, 0.25 "
        "MPP),\n"
        "     or run the authors' script download_crowdsource_dataset.py\n"
        "  2. put the folders 'rgbs_colorNormalized' (or 'images') and 'masks' into {folder}"
    ),
    convert=_convert,
    notes=("no hashes are published; the layout and the sizes of picture and mask are checked",),
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    tile: int | None = 512,
    stride: int | None = None,
    test_institutions: Sequence[str] = TEST_INSTITUTIONS,
    val_institutions: Sequence[str] = VAL_INSTITUTIONS,
    by: str = "patient",
) -> Items:
    """Read BCSS: ``image`` and ``mask`` (five classes, IGNORE outside the annotated region) in windows of 512
    px (SEUNet, section 4.1).
    """
    check_split("bcss", split)
    task = check_task("bcss", task, ("tissue",))
    if both := set(test_institutions) & set(val_institutions):
        raise ValueError(f"{', '.join(sorted(both))} cannot be in the test set and in the validation set.")
    folder = data_root(root) / "bcss"
    converted = {
        p.name.removesuffix("_mask.npy"): p for p in sorted((folder / "converted").glob("*_mask.npy"))
    }
    pairs = regions(folder) if not converted else {}
    names = []
    for name in converted or pairs:
        match = _NAME.match(name)
        if match is None:
            raise DataError(
                f"{name} in {folder} is not named as BCSS names its regions (TCGA-A1-A0SK-DX1_…_MPP-0.2500)."
            )
        where = (
            "test" if match[2] in test_institutions else "val" if match[2] in val_institutions else "train"
        )
        if where == split:
            names.append((name, match[1], float(match[3])))
    if not names:
        raise DataError(
            f"BCSS has no {split} regions in {folder}; run `equipath data fetch bcss`, or set EQUIPATH_DATA."
        )
    places = []
    for name, patient, mpp in names:
        size = _array(str(converted[name])).shape if converted else png_size(pairs[name][1])
        places += [(name, patient, mpp, window) for window in crops((size[0], size[1]), tile, stride)]
    table = grouping()

    def get(i: int) -> dict[str, Any]:
        name, _, mpp, (y, x, high, wide) = places[i]
        if converted:
            picture, codes = (
                _array(str(folder / "converted" / f"{name}_image.npy")),
                _array(str(converted[name])),
            )
        else:
            picture, codes = cached_array(str(pairs[name][0])), cached_array(str(pairs[name][1]), None)
        window = np.s_[y : y + high, x : x + wide]
        return {"image": np.ascontiguousarray(picture[window]), "mask": table[codes[window]], "mpp": mpp}

    return Items(
        name="bcss",
        task=task,
        split=split,
        classes=CLASSES,
        names=[f"{name}_{w[0]}_{w[1]}" for name, _, _, w in places],
        patients=[patient for _, patient, _, _ in places],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )


@lru_cache(maxsize=512)
def _array(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not whole ({error}); delete the folder 'converted' and fetch again."
        ) from error
