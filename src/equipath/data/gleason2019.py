"""Gleason 2019: prostate tissue microarray cores, graded pixel by pixel by up to six pathologists.

Facts and where they were found. Place and the need to register: the challenge's page
(gleason2019.grand-challenge.org/Register); no licence is named there. Layout (``Train
Imgs/slide001_core003.jpg``, ``Maps1_T/slide001_core003_classimg_nonconvex.png`` to ``Maps6_T``): several
public projects that read the set, A. Foucart's among them (Processing multi-expert annotations in digital
pathology, SIPAIM 2021, which lists its defects). Values found in the maps by a public survey of all of them:
0, 1, 3, 4, 5, 6; 0 is background, 1 and 6 benign, 3 to 5 the Gleason grade. Each of the 244 cores has at
least three maps. The patients are not published; cores of one array slide stay together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from equipath.data.fetch import RemoteFile, Source
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
    split_of,
)

CLASSES = ("benign", "grade 3", "grade 4", "grade 5")
MPP = 0.25
_CODES = {1: 0, 6: 0, 3: 1, 4: 2, 5: 3}
_IMAGES = ("Train Imgs", "Train_imgs", "Train_Imgs")
_CORE = re.compile(r"^(slide\d{3})_core\d{3}$")


def cores(folder: Path) -> dict[str, tuple[Path, dict[int, Path]]]:
    """Picture and the experts' maps of every core that has any map."""
    found: dict[str, tuple[Path, dict[int, Path]]] = {}
    for image in sorted(p for where in _IMAGES for p in (folder / where).rglob("slide*_core*.jpg")):
        if _CORE.match(image.stem):
            maps = {
                expert: path
                for expert in range(1, 7)
                for where in (folder / f"Maps{expert}_T", folder / f"Maps{expert}_T" / f"Maps{expert}_T")
                for path in (where / f"{image.stem}_classimg_nonconvex.png", where / f"{image.stem}.png")
                if path.exists()
            }
            if maps:
                found[image.stem] = image, maps
    return found


def consensus(maps: list[np.ndarray], background: int = IGNORE) -> np.ndarray:
    """The grade most experts gave each pixel, ``(H, W)`` int64; of grades with equally many votes, the worse
    one.

    Args:
        maps: raw maps ``(H, W)``. A pixel that most experts left at 0 becomes ``background``.
    """
    votes = np.zeros((5, *maps[0].shape), np.uint8)
    for one in maps:
        if one.shape != maps[0].shape:
            raise DataError(
                f"the experts' maps of one core have different sizes, {one.shape} and {maps[0].shape}."
            )
        unknown = set(np.unique(one).tolist()) - {0, *_CODES}
        if unknown:
            raise DataError(
                f"a map holds the values {sorted(unknown)}; Gleason 2019 knows 0, 1, 3, 4, 5 and 6."
            )
        votes[0] += one == 0
        for code, grade in _CODES.items():
            votes[grade + 1] += one == code
    best = 4 - votes[::-1].argmax(0)  # argmax takes the first of equals: turned round, the worst grade
    return np.where(best == 0, background, best.astype(np.int64) - 1)


def _found(folder: Path) -> str | None:
    there = cores(folder)
    return f"{len(there)} cores, {sum(len(m) for _, m in there.values())} expert maps" if there else None


SOURCE = Source(
    name="gleason2019",
    title="Gleason 2019: prostate cores graded pixel by pixel by up to six pathologists, H&E 40x, 244 cores",
    folder="gleason2019",
    homepage="https://gleason2019.grand-challenge.org/Register/",
    licence="not stated; the terms one accepts when registering hold",
    cite=(
        "Nir et al., Medical Image Analysis 50, 167-180, 2018; Karimi et al., IEEE JBHI 24(5), 1413-1426, "
        "2020"
    ),
    tasks=("cores",),
    files=(
        *(RemoteFile(f"Maps{k}_T.zip", unpack="zip", into=f"Maps{k}_T", optional=True) for k in range(1, 7)),
        RemoteFile("Train Imgs.zip", unpack="zip", into="Train Imgs", optional=True),
    ),
    found=_found,
    download=1_100_000_000,
    disk=2_200_000_000,
    access="register with the challenge, download by hand",
    by_hand=(
        "  1. register at https://gleason2019.grand-challenge.org/Register/ and download the training data\n"
        "  2. put the pictures into {folder}/Train Imgs (slide001_core003.jpg …)\n"
        "  3. put the experts' maps into {folder}/Maps1_T … {folder}/Maps6_T "
        "(slide001_core003_classimg_nonconvex.png …),\n"
        "     or the archives Maps1_T.zip … Maps6_T.zip into {folder}"
    ),
    notes=("no hashes are published; those of the archives put there are recorded",),
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    expert: int | None = None,
    background: str = "ignore",
    tile: int | None = None,
    stride: int | None = None,
    by: str = "patient",
) -> Items:
    """Read the cores: ``image`` and ``mask`` (benign, grades 3 to 5); about 5000 x 5000 px, or windows of
    ``tile``.

    Args:
        expert: 1 to 6 takes that pathologist's map alone (cores without it are left out); None the majority
            (:func:`consensus`).
        background: ``"ignore"`` or ``"benign"``: what glass counts as (the challenge scored it with benign).
    """
    check_split("gleason2019", split)
    task = check_task("gleason2019", task, ("cores",))
    if background not in ("ignore", "benign"):
        raise ValueError(f"got background={background!r}; say 'ignore' or 'benign'.")
    if expert is not None and expert not in range(1, 7):
        raise ValueError(f"got expert={expert}; the experts are numbered 1 to 6.")
    folder = data_root(root) / "gleason2019"
    there = {name: entry for name, entry in cores(folder).items() if expert is None or expert in entry[1]}
    if not there:
        raise DataError(
            f"No cores of Gleason 2019 in {folder}; run `equipath data fetch gleason2019` for what to put "
            "there."
        )
    part = split_of([name[:8] for name in there], seed=0)
    names = [name for name in there if part[name[:8]] == split]
    places = [(name, window) for name in names for window in crops(png_size(there[name][0]), tile, stride)]
    outside = IGNORE if background == "ignore" else 0

    def get(i: int) -> dict[str, Any]:
        name, (y, x, high, wide) = places[i]
        image, maps = there[name]
        window = np.s_[y : y + high, x : x + wide]
        chosen = [maps[expert]] if expert is not None else list(maps.values())
        votes = [
            _gray(read_array(path, None) if tile is None else cached_array(str(path), None))[window]
            for path in chosen
        ]
        picture = read_array(image) if tile is None else cached_array(str(image))
        if votes[0].shape != picture[window].shape[:2]:
            raise DataError(f"{name}: the picture and its map have different sizes; download both again.")
        return {"image": picture[window], "mask": consensus(votes, outside), "mpp": MPP}

    return Items(
        name="gleason2019",
        task=task,
        split=split,
        classes=CLASSES,
        names=[name if tile is None else f"{name}_{w[0]}_{w[1]}" for name, w in places],
        patients=[name[:8] for name, _ in places],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )


def _gray(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 2 else values[..., 0]
