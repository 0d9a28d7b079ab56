"""Camelyon16: 399 whole slides of sentinel lymph nodes with outlined metastases, and patches drawn from them
as the papers do.

Facts and where they were found. CC0 licence, places: the challenge's data page
(camelyon17.grand-challenge.org/Data) and the registry of open data of AWS (bucket ``camelyon-dataset``, which
holds ``images/``, ``masks/``, ``annotations/`` and the official ``checksums.md5``). Layout of the GigaScience
copy (``training/{normal,tumor}``, ``testing/images``): the documentation of kaiko-ai's eva. Outlines are
ASAP's XML; in the groups ``_0`` and ``_1`` (or ``Tumor``) they enclose tumour, in ``_2`` (or ``Exclusion``)
they cut something out (the challenge's README). Mask files: 1 is tumour, 2 tissue cut out. Slides are 0.243
µm per pixel at 40x.

Patches follow the two papers: slides drawn uniformly, tumour and other patches with equal probability, and a
patch kept if, in HSV and after a blur, its largest saturation exceeds 0.07 and its largest value 0.1 (GU-Net
section 3.1; PCam paper section 3).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import DataError, Items, check_split, check_task, data_root, split_of
from equipath.data.wsi import open_slide

CLASSES = ("normal", "tumour")
BASE = "https://camelyon-dataset.s3.us-west-2.amazonaws.com/CAMELYON16"
_SLIDE = re.compile(r"^(normal|tumor|test)_\d{3}$")


def _more_files(folder: Path, only: Sequence[str], one: Callable[[RemoteFile], Path]) -> list[RemoteFile]:
    """The list of files is the publisher's ``checksums.md5``.

    Slides are gigabytes each, so a person has to name those wanted.
    """
    table: dict[str, str] = {}
    for line in one(RemoteFile("checksums.md5", f"{BASE}/checksums.md5")).read_text().splitlines():
        md5, _, name = line.strip().partition(" ")
        name = name.strip().lstrip("*").removeprefix("./").removeprefix("CAMELYON16/")
        if re.fullmatch(r"[0-9a-f]{32}", md5) and name:
            table[name] = md5
    slides = sorted(Path(n).stem for n in table if n.startswith("images/"))
    if not slides:
        raise DataError(
            f"{BASE}/checksums.md5 does not list any slide; the publisher changed it. See {SOURCE.homepage}."
        )
    if not only:
        raise DataError(
            f"Camelyon16 has {len(slides)} slides, about 700 GB: name those you want with --only, for "
            "example "
            "`equipath data fetch camelyon16 --only tumor_001 --only normal_001`, or --only all."
        )
    wanted = slides if list(only) == ["all"] else list(only)
    unknown = sorted(set(wanted) - set(slides))
    if unknown:
        raise DataError(
            f"Camelyon16 has no slide {', '.join(unknown)}; slides are called like {', '.join(slides[:3])}."
        )
    names = [
        n
        for s in wanted
        for n in (f"images/{s}.tif", f"masks/{s}_mask.tif", f"annotations/{s}.xml")
        if n in table
    ]
    return [
        RemoteFile(n, f"{BASE}/{n}", None, f"md5:{table[n]}", origin="the publisher's checksums.md5")
        for n in names
    ]


def slides_in(folder: Path) -> dict[str, Path]:
    """Slides by name (``tumor_001``), in the bucket's layout or in GigaScience's."""
    found = {}
    for where in ("images", "training/normal", "training/tumor", "testing/images"):
        for path in sorted((folder / where).glob("*.tif")):
            if _SLIDE.match(path.stem):
                found[path.stem] = path
    return dict(sorted(found.items()))


def outlines_of(folder: Path, name: str) -> Path | None:
    """The XML outlines of a slide, if it has any."""
    for where in (
        "annotations",
        "training/lesion_annotations",
        "testing/lesion_annotations",
        "lesion_annotations",
    ):
        for stem in (name, name.capitalize()):
            if (path := folder / where / f"{stem}.xml").exists():
                return path
    return None


def _found(folder: Path) -> str | None:
    slides = slides_in(folder)
    if not slides:
        return None
    outlined = sum(outlines_of(folder, name) is not None for name in slides)
    return f"{len(slides)} slides, {outlined} with outlines"


SOURCE = Source(
    name="camelyon16",
    title="Camelyon16: whole slides of lymph nodes with outlined breast cancer metastases, H&E, 399 slides",
    folder="camelyon16",
    homepage="https://camelyon17.grand-challenge.org/Data/ (bucket: https://registry.opendata.aws/camelyon/)",
    licence="CC0 1.0",
    cite="Ehteshami Bejnordi et al., JAMA 318(22), 2199-2210, 2017; Litjens et al., GigaScience 7(6), 2018",
    tasks=("tumour",),
    files=(),
    found=_found,
    download=700_000_000_000,
    disk=700_000_000_000,
    access="open; name the slides you want (--only)",
    more_files=_more_files,
)


@lru_cache(maxsize=512)
def outlines(path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tumour outlines and cut-outs of an ASAP XML file, each ``(N, 2)`` as (x, y) in pixels of the finest
    level.
    """
    try:
        tree = ET.parse(path)
    except (ET.ParseError, OSError) as error:
        raise DataError(f"{path} is not whole XML ({error}); delete it and fetch it again.") from error
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    for annotation in tree.iter("Annotation"):
        points = [
            (int(c.get("Order", "0")), float(c.get("X", "nan")), float(c.get("Y", "nan")))
            for c in annotation.iter("Coordinate")
        ]
        if len(points) < 3:
            continue
        polygon = np.array([p[1:] for p in sorted(points)])
        group = annotation.get("PartOfGroup", "").lower()
        (outside if group in ("_2", "exclusion") else inside).append(polygon)
    return inside, outside


def mask_of(
    path: Path | None, x: float, y: float, size: tuple[int, int], mpp: float, slide_mpp: float
) -> np.ndarray:
    """Tumour in a region, ``(H, W)`` bool, drawn from the outlines.

    Corner (x, y) in µm, ``size`` in pixels of ``mpp``.
    """
    from skimage.draw import polygon2mask

    mask = np.zeros(size, bool)
    if path is None:
        return mask
    inside, outside = outlines(str(path))
    for polygons, value in ((inside, True), (outside, False)):
        for polygon in polygons:
            # Outlines run between pixel edges; polygon2mask asks for pixel centres, half a pixel away.
            place = (polygon * slide_mpp - (x, y)) / mpp - 0.5
            if (place.max(0) < -1).any() or place[:, 0].min() > size[1] or place[:, 1].min() > size[0]:
                continue
            mask[polygon2mask(size, place[:, ::-1])] = value
    return mask


def is_tissue(image: np.ndarray, saturation: float = 0.07, value: float = 0.1, blur: float = 2.0) -> bool:
    """The papers' filter: after a blur, the largest saturation of a patch exceeds 0.07 and its largest value
    0.1 (HSV, both in [0, 1]).

    Args:
        image: ``(H, W, 3)`` uint8.
        blur: standard deviation of the Gaussian in pixels; the papers do not say theirs.
    """
    from scipy import ndimage
    from skimage.color import rgb2hsv

    hsv = rgb2hsv(image)
    return bool(
        ndimage.gaussian_filter(hsv[..., 1], blur).max() > saturation
        and ndimage.gaussian_filter(hsv[..., 2], blur).max() > value
    )


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    patches: int = 1000,
    size: int = 320,
    mpp: float = 0.972,
    slide_mpp: float | None = None,
    by: str = "patient",
) -> Items:
    """Draw patches from the slides that are there: ``image``, ``mask`` (tumour, pixel by pixel) and ``label``
    (any tumour in the patch).

    Slides are split 8:1:1, as the GU-Net paper splits, tumour and normal slides each for themselves;
    ``test_…`` slides always belong to ``test``. The places are drawn once for a number of patches, size and
    seed, and kept in ``patches/``.

    Args:
        patches: how many in this split.
        size, mpp: side in pixels and microns per pixel of a patch.
        slide_mpp: of the slides, where the files do not say.
    """
    check_split("camelyon16", split)
    task = check_task("camelyon16", task, ("tumour",))
    folder = data_root(root) / "camelyon16"
    slides = slides_in(folder)
    if not slides:
        raise DataError(
            f"No Camelyon16 slides in {folder}; run `equipath data fetch camelyon16 --only …`, or set "
            "EQUIPATH_DATA."
        )
    mine: list[str] = []
    for kind in ("normal", "tumor"):
        names = [n for n in slides if n.startswith(kind)]
        parts = split_of(names, (0.8, 0.1, 0.1), 0)
        mine += [n for n in names if parts[n] == split]
    mine += [n for n in slides if n.startswith("test") and split == "test"]
    if not mine:
        raise DataError(
            f"None of the {len(slides)} slides in {folder} falls into {split!r}; fetch more slides."
        )
    places = _places(folder, slides, sorted(mine), patches, size, mpp, slide_mpp, seed, split)

    def get(i: int) -> dict[str, Any]:
        name, x, y, _ = places[i]
        slide = open_slide(slides[name], slide_mpp)
        mask = mask_of(outlines_of(folder, name), x, y, (size, size), mpp, slide.mpp)
        return {
            "image": slide.read(x, y, (size, size), mpp),
            "mask": mask,
            "label": int(mask.any()),
            "mpp": mpp,
        }

    return Items(
        name="camelyon16",
        task=task,
        split=split,
        classes=CLASSES,
        names=[f"{name}_{round(x)}_{round(y)}_{i}" for i, (name, x, y, _) in enumerate(places)],
        patients=[place[0] for place in places],
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )


Place = tuple[str, float, float, int]


def _places(
    folder: Path,
    slides: dict[str, Path],
    mine: list[str],
    count: int,
    size: int,
    mpp: float,
    slide_mpp: float | None,
    seed: int,
    split: str,
) -> list[Place]:
    import hashlib
    import json

    key = hashlib.sha256(json.dumps([mine, count, size, mpp, slide_mpp, seed, split]).encode()).hexdigest()[
        :16
    ]
    kept = folder / "patches" / f"{split}_{count}_{key}.json"
    if kept.exists():
        return [(n, float(x), float(y), int(t)) for n, x, y, t in json.loads(kept.read_text())]
    places = draw_places(folder, {n: slides[n] for n in mine}, count, size, mpp, slide_mpp, seed)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(places))
        part.replace(kept)
    except OSError:
        pass  # a read-only folder: the places are drawn anew next time, to the same result
    return places


def draw_places(
    folder: Path,
    slides: dict[str, Path],
    count: int,
    size: int,
    mpp: float,
    slide_mpp: float | None = None,
    seed: int = 0,
) -> list[Place]:
    """Draw ``(slide, x, y, tumour)`` for patches: a slide uniformly, then tumour or not with equal
    probability, then a place in it.

    Raises:
        DataError: the slides hold no tissue that passes the filter.
    """
    rng = np.random.default_rng(seed)
    coarse = 8.0 * mpp
    maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def map_of(name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in maps:
            slide = open_slide(slides[name], slide_mpp)
            tissue = slide.tissue(coarse)
            tumour = mask_of(
                outlines_of(folder, name), 0, 0, (tissue.shape[0], tissue.shape[1]), coarse, slide.mpp
            )
            maps[name] = np.argwhere(tumour), np.argwhere(tissue & ~tumour)
        return maps[name]

    places: list[Place] = []
    names = sorted(slides)
    with_tumour = [n for n in names if outlines_of(folder, n) is not None]
    tries = 0
    while len(places) < count:
        tries += 1
        if tries > 50 * count + 1000:
            raise DataError(
                f"Only {len(places)} of {count} patches of tissue were found in {len(names)} slides; fetch "
                "more slides."
            )
        tumour = bool(with_tumour) and rng.random() < 0.5
        name = str(rng.choice(with_tumour if tumour else names))
        spots = map_of(name)[0 if tumour else 1]
        if not len(spots):
            continue
        row, column = spots[rng.integers(len(spots))] + rng.random(2)
        slide = open_slide(slides[name], slide_mpp)
        # On whole pixels of the patch's resolution, so that a pixel is never resampled twice.
        x, y = (round((float(p) * coarse - size * mpp / 2) / mpp) * mpp for p in (column, row))
        has = bool(mask_of(outlines_of(folder, name), x, y, (size, size), mpp, slide.mpp).any())
        if has != tumour or not is_tissue(slide.read(x, y, (size, size), mpp)):
            continue
        places.append((name, x, y, int(has)))
    return places
