"""What came out of an experiment: one JSON a run, written by `save`, read by `load`, summed up by `cell`.

A run is one experiment on one data set with one config and one seed. Its file in `book/results/<experiment>/`
holds `{experiment, data, size, config, seed, versions, seconds, device, metrics}`; the book's page of results is
made from these files by `equipath.experiments.report` and from nothing else. An experiment's `report(results)`
gives that page its parts, in order: paragraphs (str, Markdown), `Table` and `Picture`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from equipath.train import TrainingError, device_name

__all__ = [
    "Picture",
    "Table",
    "cell",
    "flat",
    "grouped",
    "load",
    "mean_sd",
    "results_folder",
    "save",
]

FIELDS = ("experiment", "data", "size", "config", "seed", "versions", "seconds", "device", "metrics")
SIZES = ("small", "paper")


@dataclass(frozen=True)
class Table:
    """A table of the page: `rows` of cells (Markdown) under `header`, with a caption.

    `caption` says what is compared, on what, over how many seeds; a paper's numbers stand in columns or rows of
    their own, and the caption cites it, as in "{cite}`yang2023`, table 1".
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Picture:
    """A figure of the page: a matplotlib Figure, `name` for its file, alt text and a caption."""

    name: str
    figure: Any = field(repr=False)
    alt: str
    caption: str


def results_folder() -> Path:
    """Where results lie: `book/results` of this checkout, or `equipath-results` in the working folder where the
    library is installed without its book.
    """
    book = Path(__file__).resolve().parents[3] / "book"
    return book / "results" if (book / "_toc.yml").is_file() else Path.cwd() / "equipath-results"


def save(
    *,
    experiment: str,
    data: str,
    size: str,
    config: dict[str, Any],
    seed: int,
    metrics: dict[str, Any],
    seconds: float,
    device: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one run and return its file, `<experiment>/<data>-<size>-<hash of config>-<seed>.json`; the same run,
    saved again, takes the place of the old one.

    Args:
        config: everything that tells this run from the others of the experiment: model, width, fraction, epochs.
        metrics: numbers, or lists and dictionaries of numbers; NaN is written as null.
        seconds: how long the run took.
        device: in words; this machine's processor by default.
        folder: in place of `results_folder()`.

    Raises:
        ValueError: a name that is no file's name, no metrics.
        TrainingError: the file cannot be written.
    """
    for name, value in (("experiment", experiment), ("data", data)):
        if not re.fullmatch(r"\w[\w.-]*", value):
            raise ValueError(f"{name}={value!r} names a file: letters, digits, '_', '.' and '-' only.")
    if size not in SIZES:
        raise ValueError(f"got size={size!r}; known are {', '.join(SIZES)}.")
    if not metrics:
        raise ValueError(f"the run of {experiment} on {data} has no metrics; nothing is worth saving.")
    plain = _plain(config)
    run = {
        "experiment": experiment,
        "data": data,
        "size": size,
        "config": plain,
        "seed": int(seed),
        "versions": {name: metadata.version(name) for name in ("equipath", "torch", "numpy")},
        "seconds": round(float(seconds), 1),
        "device": device or device_name(),
        "metrics": _plain(metrics),
    }
    code = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    path = Path(folder or results_folder()) / experiment / f"{data}-{size}-{code}-{seed}.json"
    text = json.dumps(run, indent=1, allow_nan=False) + "\n"
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written ({error.strerror or error}); make room, or mend the folder, and run the same "
            "again: what is trained is kept where the run has a folder."
        ) from error
    return path


def load(
    experiment: str,
    *,
    data: str | None = None,
    size: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """All runs of an experiment, in the order of their file names; those of one data set or size on request.

    Raises:
        ValueError: a file is no run; the message names it.
    """
    runs = []
    for path in sorted((Path(folder or results_folder()) / experiment).glob("*.json")):
        try:
            run = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no JSON ({error}); run the experiment again.") from error
        if not isinstance(run, dict):
            raise ValueError(f"{path} holds a {type(run).__name__}, no run; delete it.")
        if missing := [name for name in FIELDS if name not in run]:
            raise ValueError(f"{path} has no {', '.join(missing)}; run the experiment again.")
        if wrong := [name for name in ("config", "metrics", "versions") if not isinstance(run[name], dict)]:
            raise ValueError(f"{path} has no names in {', '.join(wrong)}; run the experiment again.")
        if data in (None, run["data"]) and size in (None, run["size"]):
            runs.append(run)
    return runs


def grouped(runs: Iterable[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Runs by the values of `names`, each a field of the run ("data", "size") or of its config ("model"), in the
    order in which the values come.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        key = tuple(
            run[name] if name in ("data", "size", "seed") else run["config"].get(name) for name in names
        )
        groups.setdefault(key, []).append(run)
    return groups


def mean_sd(values: Iterable[float | None], digits: int = 3, scale: float = 1.0) -> str:
    """ "0.812 ± 0.020" (mean and standard deviation over seeds, n - 1), "0.812" of one value, "–" of none."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)], dtype=float) * scale
    if len(known) == 0:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    return f"{known.mean():.{digits}f} ± {known.std(ddof=1):.{digits}f}"


def cell(runs: Iterable[dict[str, Any]], metric: str, digits: int = 3, scale: float = 1.0) -> str:
    """`mean_sd` of one metric over runs that differ in their seed alone; `scale=100` gives percent."""
    return mean_sd((run["metrics"].get(metric) for run in runs), digits, scale)


def flat(metrics: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Nested metrics by their path, {"a": {"b": 1}} as {"a.b": 1}; lists are left out."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= flat(value, f"{start}{name}.")
        elif not isinstance(value, list | tuple):
            found[f"{start}{name}"] = value
    return found


def _plain(value: Any) -> Any:
    """Tensors, arrays and numpy's numbers as JSON knows them; NaN and infinities as None."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
