"""PatchCamelyon (PCam): is there metastasis in the middle of a patch of lymph node; and the segmentation
variant of the GU-Net paper.

Facts and where they were found. Layout, sizes of the splits, CC0 licence: the authors' repository
(github.com/basveeling/pcam); files and their place: Zenodo record 2546921; SHA-256 and byte counts: the
checksum file of TensorFlow Datasets' ``patch_camelyon``, taken from the same record. The authors' MD5 table
names the files of ``valid`` and ``test`` the other way round than Zenodo serves them; where the table of
slides (``…_meta.csv``) is there, the reader therefore holds it against the labels and leaves it aside if the
two do not agree. Patches are 96 x 96 at 10x (0.972 µm per pixel); the label speaks of the middle 32 x 32
pixels (paper "Rotation equivariant CNNs for digital pathology", section 3). Three layouts are read: the
converted arrays, the HDF5 files, and ``{train,valid,test}.tar`` of JPEGs with a CSV each.
"""

from __future__ import annotations

import io
import tarfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from equipath.data.fetch import RemoteFile, Source
from equipath.data.items import DataError, Items, check_split, check_task, data_root, read_table

MPP = 0.972
CLASSES = ("normal", "tumour")
_OFFICIAL = {"train": "train", "val": "valid", "test": "test"}
_STEM = "camelyonpatch_level_2_split_{}_{}"
_BYTES = {"train": (6421353462, 21378), "valid": (805965320, 3038), "test": (800875929, 3040)}
_SHA = {
    "train": (
        "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c",
        "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a",
    ),
    "valid": (
        "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2",
        "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c",
    ),
    "test": (
        "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245",
        "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef",
    ),
}
_ZENODO = "https://zenodo.org/records/2546921/files/{}?download=1"


def _files() -> tuple[RemoteFile, ...]:
    files = []
    for split in ("train", "valid", "test"):
        for kind, size, sha in zip("xy", _BYTES[split], _SHA[split], strict=True):
            name = _STEM.format(split, kind) + ".h5"
            files.append(
                RemoteFile(
                    f"{name}.gz",
                    _ZENODO.format(f"{name}.gz"),
                    size,
                    f"sha256:{sha}",
                    "gz",
                    name,
                    "TensorFlow Datasets' checksum file",
                )
            )
        meta = _STEM.format(split, "meta") + ".csv"
        files.append(RemoteFile(meta, _ZENODO.format(meta), optional=True))
    return tuple(files)


def _convert(folder: Path, out: Path) -> None:
    """HDF5 to plain arrays, which many workers can map into memory at once."""
    import h5py

    for split in _OFFICIAL.values():
        for kind in "xy":
            path = folder / (_STEM.format(split, kind) + ".h5")
            try:
                with h5py.File(path) as file:
                    data = file[kind]
                    array = np.lib.format.open_memmap(out / f"{split}_{kind}.npy", "w+", np.uint8, data.shape)
                    for begin in range(0, len(data), 2048):
                        array[begin : begin + 2048] = data[begin : begin + 2048]
                    array.flush()
            except (OSError, KeyError) as error:
                raise DataError(
                    f"{path} is not a whole HDF5 file of PCam ({error}); delete it and {path.name}.gz and "
                    "fetch again."
                ) from error


def _found(folder: Path) -> str | None:
    splits = [s for s in _OFFICIAL.values() if _layout(folder, s)]
    if len(splits) < 3:
        return None
    kind = _layout(folder, "train")
    count = _count(folder, "train", kind)
    return (
        f"{count} training patches, {'sample of JPEGs' if kind == 'tar' else 'full resolution ' + str(kind)}"
    )


def _layout(folder: Path, split: str) -> str | None:
    if all((folder / "converted" / f"{split}_{k}.npy").exists() for k in "xy"):
        return "arrays"
    if all((folder / (_STEM.format(split, k) + ".h5")).exists() for k in "xy"):
        return "HDF5"
    if (folder / f"{split}.tar").exists() and (folder / f"{split}.csv").exists():
        return "tar"
    return None


def _count(folder: Path, split: str, kind: str | None) -> int:
    if kind == "tar":
        with (folder / f"{split}.csv").open() as file:
            return sum(1 for _ in file) - 1
    return len(_labels(folder, split, kind))


def _stored(folder: Path, split: str, part: str, kind: str | None, *, read: bool = False) -> Any:
    """Pixels ("x") or labels ("y") of a split as they lie on disk, or with ``read`` in memory."""
    path = folder / (_STEM.format(split, part) + ".h5")
    try:
        if kind == "arrays":
            path = folder / "converted" / f"{split}_{part}.npy"
            found = np.load(path, mmap_mode="r")
        else:
            import h5py

            found = h5py.File(path)[part]
        return np.array(found) if read else found
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it and run `equipath data fetch pcam`."
        ) from error


def _labels(folder: Path, split: str, kind: str | None) -> np.ndarray:
    return _stored(folder, split, "y", kind, read=True).reshape(-1)


SOURCE = Source(
    name="pcam",
    title="PatchCamelyon (PCam): metastases in 96 px patches of lymph node, H&E, 327 680 patches",
    folder="pcam",
    homepage="https://github.com/basveeling/pcam (files: https://zenodo.org/records/2546921)",
    licence="CC0 1.0",
    cite=(
        "Veeling et al., Rotation equivariant CNNs for digital pathology, MICCAI 2018; Ehteshami Bejnordi "
        "et al., JAMA 318(22), 2017"
    ),
    tasks=("tumour",),
    files=_files(),
    found=_found,
    download=sum(sum(v) for v in _BYTES.values()),
    disk=25_000_000_000,
    convert=_convert,
    notes=(
        "variant='segmentation' (320 px with masks) is cut from Camelyon16's slides: fetch camelyon16 first",
    ),
)


def read(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    variant: str = "classification",
    by: str = "patient",
    **options: Any,
) -> Items:
    """Read PCam: ``image`` ``(3, 96, 96)`` and ``label`` (tumour in the middle 32 x 32 pixels or not).

    Args:
        variant: ``"segmentation"`` gives patches of 320 px with ``mask`` and ``label``, cut from Camelyon16's
            slides and masks as in the GU-Net paper (section 3.1); ``options`` go to
            :func:`equipath.data.camelyon16.read`.

    The patient is the slide where the table of slides is there, else each patch stands for itself (the given
    splits do not share slides).
    """
    check_split("pcam", split)
    task = check_task("pcam", task, ("tumour",))
    if variant == "segmentation":
        from equipath.data import camelyon16

        return camelyon16.read(task, split, fraction, seed, root, size=320, mpp=MPP, **options)
    if variant != "classification":
        raise ValueError(f"got variant={variant!r}; PCam has 'classification' and 'segmentation'.")
    if options:
        raise TypeError(f"pcam does not know {', '.join(options)}; those belong to variant='segmentation'.")
    folder, official = data_root(root) / "pcam", _OFFICIAL[split]
    kind = _layout(folder, official)
    if kind is None:
        raise DataError(
            f"PCam's {official} split is not in {folder}; run `equipath data fetch pcam`, or set "
            "EQUIPATH_DATA."
        )
    if kind == "tar":
        files, labels = _table(folder, official)
        tar = str(folder / f"{official}.tar")

        def get(i: int) -> dict[str, Any]:
            return {"image": _member(tar, files[i]), "label": labels[i], "mpp": MPP}

        names = [f"{official}/{Path(name).stem}" for name in files]  # numbers are repeated between the splits
        patients = names
    else:
        y = _labels(folder, official, kind)
        names = [f"{official}_{i:06d}" for i in range(len(y))]
        patients = _slides(folder, official, y) or names

        def get(i: int) -> dict[str, Any]:
            return {"image": _pixels(str(folder), official, str(kind))[i], "label": int(y[i]), "mpp": MPP}

    return Items(
        name="pcam",
        task=task,
        split=split,
        classes=CLASSES,
        names=names,
        patients=patients,
        read=get,
        fraction=fraction,
        seed=seed,
        by=by,
    )


@lru_cache(maxsize=6)
def _pixels(folder: str, split: str, kind: str) -> Any:
    return _stored(Path(folder), split, "x", kind)


def _slides(folder: Path, split: str, labels: np.ndarray) -> list[str] | None:
    path = folder / (_STEM.format(split, "meta") + ".csv")
    if not path.exists():
        return None
    try:
        rows = read_table(path, ("wsi", "center_tumor_patch"))
    except DataError:
        rows = []
    if len(rows) != len(labels) or not rows:
        warnings.warn(
            f"{path} does not belong to the {len(labels)} patches of {split}; slides are taken as not known.",
            stacklevel=4,
        )
        return None
    said = np.array([row["center_tumor_patch"] == "True" for row in rows])
    if np.mean(said != (labels > 0)) > 0.01:
        warnings.warn(
            f"{path} contradicts the labels of {split} (valid and test are swapped?); slides are taken as "
            "not known.",
            stacklevel=4,
        )
        return None
    return [row["wsi"] for row in rows]


@lru_cache(maxsize=6)
def _table_cached(folder: str, split: str) -> tuple[list[str], list[int]]:
    path = Path(folder) / f"{split}.csv"
    rows = read_table(path, ("image", "label"))
    if not rows or not {row["label"] for row in rows} <= {"0", "1"}:
        raise DataError(f"{path} wants at least one row, and labels of 0 and 1. Put a whole copy there.")
    return [row["image"] for row in rows], [int(row["label"]) for row in rows]


def _table(folder: Path, split: str) -> tuple[list[str], list[int]]:
    return _table_cached(str(folder), split)


@lru_cache(maxsize=6)
def _index(tar: str) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(tar) as bundle:
            return {member.name: (member.offset_data, member.size) for member in bundle if member.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{tar} is damaged ({error}); put a whole copy there.") from error


def _member(tar: str, name: str) -> np.ndarray:
    place = _index(tar).get(name)
    if place is None:
        raise DataError(
            f"{tar} does not hold {name}, which its table names; the two do not belong together, or the "
            "archive is cut."
        )
    with open(tar, "rb") as file:
        file.seek(place[0])
        data = file.read(place[1])
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{name} in {tar} is damaged ({error}); put a whole copy there.") from error
