"""EBHI-Seg: gland or lesion against the rest in colorectal biopsies of six stages, patches of 224 px at 400x.

Facts and where they were found. Licence (CC BY 4.0) and the file's address: figshare article 21540159, as
quoted by dataset-ninja's copy; its tree (``EBHI-SEG/<stage>/{image,label}/NAME.png``) also. No hash is
published; the first download is recorded. Masks were resized with interpolation by the authors, so they are
cut at 128. The number in a file's name (``GT2012165-1-400-001.png``) names the case; cases have several
images and several stages, and are split whole. A smaller copy (``images/<stage>``, ``masks/<stage>``,
``groups.csv``) is read as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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

STAGES = ("Normal", "Polyp", "Low-grade IN", "High-grade IN", "Serrated adenoma", "Adenocarcinoma")
_CASE = re.compile(r"^[A-Za-z]*(\d+)")


def pairs(folder: Path) -> list[tuple[str, str, str, Path, Path]]:
    """Name, stage, case, picture and mask of every image that has a mask."""
    found = []
    for stage in STAGES:
        for top in (folder / "EBHI-SEG", folder):
            for image in sorted((top / stage / "image").glob("*.png")):
                mask = top / stage / "label" / image.name
                match = _CASE.match(image.stem)
                if mask.exists() and match:
                    found.append((f"{stage}/{image.stem}", stage, f"case_{match[1]}", image, mask))
    table = folder / "groups.csv"
    if not found and table.exists():
        for row in read_table(table, ("class", "image", "case_group")):
            stage = row["class"].replace("_", " ")
            path = Path(row["image"])
            found.append(
                (
                    f"{stage}/{path.stem}",
                    stage,
                    row["case_group"],
                    folder / "images" / path,
                    folder / "masks" / path,
                )
            )
    return found


def _found(folder: Path) -> str | None:
    there = pairs(folder)
    return f"{len(there)} images of {len({p[2] for p in there})} cases" if there else None


SOURCE = Source(
    name="ebhi",
    title=(
        "EBHI-Seg: glands and lesions in colorectal biopsies of six stages, H&E 400x, 2226 images of 224 px"
    ),
    folder="ebhi_seg",
    homepage="https://figshare.com/articles/dataset/EBHI-SEG/21540159/1",
    licence="CC BY 4.0",
    cite="Shi et al., EBHI-Seg, Frontiers in Medicine 10:1114673, 2023",
    tasks=("tissue", "texture"),
    files=(RemoteFile("EBHI-SEG.zip", "https://figshare.com/ndownloader/files/38179080", unpack="zip"),),
    found=_found,
    download=280_000_000,
    disk=560_000_000,
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    by_stage: bool = False,
    by: str = "patient",
) -> Items:
    """Read EBHI-Seg: ``image`` ``(3, 224, 224)``, ``mask`` and ``label`` (the stage).

    ``tissue``: the mask is 0 or 1, or, with ``by_stage``, 0 or one plus the stage (seven classes).
    ``texture``: the label is what is asked for. The set does not say its microns per pixel; ``mpp`` is nan.
    """
    check_split("ebhi", split)
    task = check_task("ebhi", task, ("tissue", "texture"))
    folder = data_root(root) / "ebhi_seg"
    there = pairs(folder)
    if not there:
        raise DataError(f"EBHI-Seg is not in {folder}; run `equipath data fetch ebhi`, or set EQUIPATH_DATA.")
    part = split_of([p[2] for p in there], seed=0)
    there = [p for p in there if part[p[2]] == split]

    def get(i: int) -> dict[str, Any]:
        _, stage, _, image, mask = there[i]
        label = STAGES.index(stage)
        inside = read_array(mask, "L") >= 128
        return {"image": read_array(image), "mask": inside * (label + 1 if by_stage else 1), "label": label}

    if task == "texture":
        classes: tuple[str, ...] = STAGES
    else:
        classes = ("background", *STAGES) if by_stage else ("background", "gland or lesion")
    return Items(
        name="ebhi",
        task=task,
        split=split,
        classes=classes,
        names=[p[0] for p in there],
        patients=[p[2] for p in there],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )
