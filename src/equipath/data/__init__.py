"""Where images come from: rendered slides that need no file, and public data sets, by name and in one form.

``load("slides")`` and ``load("pcam")`` give the same kind of items (:class:`equipath.data.items.Items`), so
an experiment changes its data by changing a word. :data:`SOURCES` says what is known of each public set;
:mod:`equipath.data.fetch` brings it here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from equipath.data import (
    bcss,
    breakhis,
    camelyon16,
    dsb2018,
    ebhi,
    gleason2019,
    monuseg,
    nct_crc,
    ocelot,
    pcam,
    tnbc,
)
from equipath.data.fetch import Source
from equipath.data.items import IGNORE, DataError, Items, data_root, nested, read_folder, write_folder

__all__ = [
    "IGNORE",
    "READERS",
    "SOURCES",
    "DataError",
    "Items",
    "data_root",
    "load",
    "nested",
    "read_folder",
    "write_folder",
]


def _slides(
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    **options: Any,
) -> Dataset:
    from equipath.data.slides import TASKS

    task = task or "tumour"
    if task not in TASKS:
        raise ValueError(f"the rendered slides have the tasks {', '.join(TASKS)}; got task={task!r}.")
    return TASKS[task](split=split, fraction=fraction, seed=seed, **options)


_MODULES = (bcss, breakhis, camelyon16, dsb2018, ebhi, gleason2019, monuseg, nct_crc, ocelot, pcam, tnbc)

READERS: dict[str, Callable[..., Dataset]] = {"slides": _slides, **{m.SOURCE.name: m.read for m in _MODULES}}
"""The function behind each name."""

SOURCES: dict[str, Source] = {m.SOURCE.name: m.SOURCE for m in _MODULES}
"""What is known of each public set before it is fetched."""


def _check_options(name: str, task: str | None, options: dict[str, Any]) -> None:
    """Raise TypeError for an option that the set does not have, with those that it has."""
    functions: list[Callable[..., Any]] = [READERS[name]]
    if name == "slides":
        from equipath.data.slides import TASKS

        if (task or "tumour") not in TASKS:
            return  # the reader says so
        functions += [vars(cls)["__init__"] for cls in TASKS[task or "tumour"].__mro__[:2]]
    elif name == "pcam":
        if options.get("variant") != "segmentation":
            return  # the reader says which options belong to which variant
        functions.append(camelyon16.read)
    known = {
        key: None
        for function in functions
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and (name, key) not in (("pcam", "size"), ("pcam", "mpp"))
    }
    if unknown := [key for key in options if key not in known]:
        raise TypeError(f"{name} does not know {', '.join(unknown)}; its options are {', '.join(known)}.")


def load(
    name: str,
    task: str | None = None,
    split: str = "train",
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
    **options: Any,
) -> Dataset:
    """Open a data set by name.

    Args:
        name: ``"slides"`` (rendered, no files) or a public set: a key of :data:`READERS`.
        task: ``tumour``, ``tissue``, ``nuclei``, ``texture``, ``cores`` or ``pairs``; the set's own by
            default.
        split: ``train``, ``val`` or ``test``; splits never share a patient where patients are known.
        fraction: part of the split, nested: 12.5 % is contained in 25 %.
        seed: of the fraction (and of what is rendered or drawn).
        root: folder of the data sets; ``$EQUIPATH_DATA`` or ``~/equipath-data`` by default.
        options: of the set's own reader.

    Returns:
        A data set of dictionaries: ``image`` float32 ``(3, H, W)`` in [0, 1]; ``label``, ``mask`` int64
        ``(H, W)`` or ``instances`` int32 ``(H, W)``; ``patient``, ``mpp`` and ``name``.

    Raises:
        ValueError: an unknown name, task, split or fraction.
        TypeError: an option that the set does not have.
        DataError: the set is not there, or damaged; the message says what to run.
    """
    if name not in READERS:
        raise ValueError(f"got the data set {name!r}; known are {', '.join(READERS)}.")
    _check_options(name, task, options)
    items = READERS[name](task, split, fraction, seed, root, **options)
    if isinstance(items, Items):
        items.recipe = load, (name, task, split, fraction, seed, root), options
    return items
