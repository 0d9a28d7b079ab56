"""NCT-CRC-HE-100K and CRC-VAL-HE-7K: nine kinds of colorectal tissue in patches of 224 px.

Facts and where they were found. Classes, 0.5 µm per pixel, CC BY 4.0, MD5 and byte counts: Zenodo record
1214456; the sums were read in several public projects that quote the record and agree (one swaps the two
large archives, so the name of the folder inside is checked as well). ``NCT-CRC-HE-100K`` is
Macenko-normalised, ``…-NONORM`` is not; ``CRC-VAL-HE-7K`` comes from 50 other patients. Layout:
``SET/CLASS/CLASS-NAME.tif``. The patients of the large set are not published: its training and validation
parts can share patients, the test set cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import DataError, Items, check_split, check_task, data_root, read_array, split_of

CODES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
CLASSES = (
    "adipose",
    "background",
    "debris",
    "lymphocytes",
    "mucus",
    "smooth muscle",
    "normal mucosa",
    "stroma",
    "tumour epithelium",
)
LARGE, PLAIN, SMALL = "NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM", "CRC-VAL-HE-7K"
_URL = "https://zenodo.org/records/1214456/files/{}.zip?download=1"


def _found(folder: Path) -> str | None:
    there = [name for name in (LARGE, PLAIN, SMALL) if all((folder / name / code).is_dir() for code in CODES)]
    return " and ".join(there) if SMALL in there and len(there) > 1 else None


SOURCE = Source(
    name="nct_crc",
    title=(
        "NCT-CRC-HE-100K and CRC-VAL-HE-7K: nine kinds of colorectal tissue, H&E, 107 180 patches of 224 px"
    ),
    folder="nct_crc",
    homepage="https://zenodo.org/records/1214456",
    licence="CC BY 4.0",
    cite=(
        "Kather et al., Predicting survival from colorectal cancer histology slides using deep learning, "
        "PLOS Medicine 16(1), 2019"
    ),
    tasks=("texture",),
    files=(
        RemoteFile(
            f"{LARGE}.zip",
            _URL.format(LARGE),
            11690284003,
            "md5:6fd702d11df6292bc054397ae038a464",
            "zip",
            origin="Zenodo",
        ),
        RemoteFile(
            f"{SMALL}.zip",
            _URL.format(SMALL),
            800276929,
            "md5:2fd1651b4f94ebd818ebf90ad2b6ce06",
            "zip",
            origin="Zenodo",
        ),
    ),
    found=_found,
    download=12_490_560_932,
    disk=30_000_000_000,
    notes=(
        f"{PLAIN}.zip of the same record (not normalised) is read too where it is unpacked in the folder",
    ),
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    normalised: bool = True,
    by: str = "item",
) -> Items:
    """Read the patches: ``image`` ``(3, 224, 224)`` and ``label`` (nine classes).

    ``test`` is CRC-VAL-HE-7K; ``train`` and ``val`` are 85 and 15 % of the large set, by patch, since its
    patients are not known.
    """
    check_split("nct_crc", split)
    task = check_task("nct_crc", task, ("texture",))
    folder = data_root(root) / "nct_crc"
    top = folder / (SMALL if split == "test" else LARGE if normalised else PLAIN)
    paths = [(code, path) for code in CODES for path in sorted((top / code).glob("*.tif"))]
    if not paths:
        raise DataError(f"{top} has no patches; run `equipath data fetch nct_crc`, or set EQUIPATH_DATA.")
    if split != "test":
        chosen = []
        for code in CODES:  # class by class, so that both parts have the same mixture
            mine = [p for c, p in paths if c == code]
            part = split_of([p.stem for p in mine], (0.85, 0.15, 0.0), 0)
            chosen += [(code, p) for p in mine if part[p.stem] == split]
        paths = chosen

    def get(i: int) -> dict[str, Any]:
        code, path = paths[i]
        return {"image": read_array(path), "label": CODES.index(code), "mpp": 0.5}

    names = [f"{top.name}/{path.stem}" for _, path in paths]
    return Items(
        name="nct_crc",
        task=task,
        split=split,
        classes=CLASSES,
        names=names,
        patients=names,
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
