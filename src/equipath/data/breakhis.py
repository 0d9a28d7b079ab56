"""BreakHis: benign or malignant, and eight tumour types, in fields of breast tissue at four magnifications.

Facts and where they were found. Numbers (7909 fields of 700 x 460 from 82 patients), naming and CC BY 4.0
licence: the laboratory's page
(web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis). Layout and the download's
address: the documentation and code of kaiko-ai's eva, whose test files show the tree. No hash is published;
the first download is recorded. A name such as ``SOB_M_DC-14-2523-40-001.png`` says biopsy, class (M), type
(DC), year, slide (the patient), magnification, number. The microns per pixel of the four objectives are those
of the paper (Spanhol et al. 2016, table I), which could not be looked up a second time: measure before
relying on them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import DataError, Items, check_split, check_task, data_root, read_array, split_of

TYPES = ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")
TYPE_NAMES = (
    "adenosis",
    "fibroadenoma",
    "phyllodes tumour",
    "tubular adenoma",
    "ductal carcinoma",
    "lobular carcinoma",
    "mucinous carcinoma",
    "papillary carcinoma",
)
MPP = {40: 0.49, 100: 0.20, 200: 0.10, 400: 0.05}
_NAME = re.compile(r"^SOB_([BM])_([A-Z]+)-(\d+)-([0-9A-Z]+)-(40|100|200|400)-(\d+)$")


def _fields(folder: Path) -> list[Path]:
    top = folder / "BreaKHis_v1" / "histology_slides" / "breast"
    return sorted(top.rglob("*.png"), key=lambda p: p.name) if top.is_dir() else []


def _found(folder: Path) -> str | None:
    count = len(_fields(folder))
    return f"{count} fields" if count else None


SOURCE = Source(
    name="breakhis",
    title=(
        "BreakHis: benign and malignant breast tumours at 40x, 100x, 200x, 400x, H&E, 7909 fields of 82 "
        "patients"
    ),
    folder="breakhis",
    homepage="https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/",
    licence="CC BY 4.0",
    cite=(
        "Spanhol et al., A dataset for breast cancer histopathological image classification, IEEE TBME "
        "63(7), 1455-1462, 2016"
    ),
    tasks=("tumour", "texture"),
    files=(
        RemoteFile(
            "BreaKHis_v1.tar.gz", "http://www.inf.ufpr.br/vri/databases/BreaKHis_v1.tar.gz", unpack="tar"
        ),
    ),
    found=_found,
    download=4_300_000_000,
    disk=8_600_000_000,
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    magnification: int = 40,
    by: str = "patient",
) -> Items:
    """Read BreakHis: ``image`` ``(3, 460, 700)`` and ``label``: malignant or not (``tumour``), or the type
    (``texture``, eight classes).

    Patients are shared out 70/15/15, benign and malignant each for themselves. The PCam paper uses the lowest
    magnification (section 4).
    """
    check_split("breakhis", split)
    task = check_task("breakhis", task, ("tumour", "texture"))
    if magnification not in MPP:
        raise ValueError(f"got magnification={magnification}; BreakHis has {', '.join(map(str, MPP))}.")
    folder = data_root(root) / "breakhis"
    fields: dict[str, tuple[Path, str, str, str]] = {}
    for path in _fields(folder):
        match = _NAME.match(path.stem)
        if match is None:
            raise DataError(
                f"{path} is not named as BreakHis names its fields (SOB_M_DC-14-2523-40-001.png); the tree "
                "was changed."
            )
        # The slide's year and number name the patient. One ductal carcinoma (13412) is filed under lobular
        # too: both are one patient.
        if int(match[5]) == magnification:
            fields[path.stem] = path, match[1], match[2], f"{match[3]}-{match[4]}"
    if not fields:
        raise DataError(
            f"No BreakHis fields at {magnification}x in {folder}; run `equipath data fetch breakhis`, or "
            "set EQUIPATH_DATA."
        )
    part: dict[str, str] = {}
    for kind in "BM":
        part = split_of([f[3] for f in fields.values() if f[1] == kind], seed=0) | part
    chosen = [(name, *entry) for name, entry in fields.items() if part[entry[3]] == split]

    def get(i: int) -> dict[str, Any]:
        _, path, kind, sort, _ = chosen[i]
        label = int(kind == "M") if task == "tumour" else TYPES.index(sort)
        return {"image": read_array(path), "label": label, "mpp": MPP[magnification]}

    return Items(
        name="breakhis",
        task=task,
        split=split,
        classes=("benign", "malignant") if task == "tumour" else TYPE_NAMES,
        names=[c[0] for c in chosen],
        patients=[c[4] for c in chosen],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
