"""How a network is trained: one loop that a student can read, on Lightning Fabric.

`fit` shuffles, steps, measures on the validation set, and keeps the best weights. With a `folder` every
epoch ends in one checkpoint that is written whole or not at all, so that a run may be killed at any moment
and continued by the same call. Whatever is random in epoch e is drawn anew from (seed, e): a continued run
therefore gives the very numbers of one that was never stopped, on the same device. Under `torchrun` several
processes share each batch.

The settings are those of the papers: Adam with the rate halved on a plateau (GU-Net and P4M-DenseNet), Adam
with one cycle (SEUNet), SGD with a cosine (SRENet).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
import platform
import random
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from equipath.groups import P4M
from equipath.models.named import build

__all__ = [
    "Pairs",
    "Training",
    "TrainingError",
    "curves",
    "device_name",
    "fit",
    "in_memory",
    "load_model",
    "load_weights",
    "predict",
    "roto_reflections",
]

Data = Dataset | tuple[Tensor, Tensor]
VERSION = 1  # of last.pt
CHECKPOINT = {"model", "optimizer", "schedule", "precision", "history", "best", "best_epoch", "best_score"}
LOOK = 20  # batches between two looks at the loss: a look makes a GPU wait


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says what was wrong, what to do, and what is kept."""


@dataclass
class Training:
    """What `fit` leaves behind.

    Attributes:
        history: one row an epoch: epoch, train_loss, validation_loss, score, lr (of its last batch),
            seconds.
        best_epoch: the epoch, from 1, whose weights the model now holds.
        best_score: its score; higher is better.
        seconds: time of all epochs, those before an interruption included.
        device: the device in words.
        folder: where checkpoints and logs lie, if anywhere.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -math.inf
    seconds: float = 0.0
    device: str = ""
    folder: Path | None = None


def fit(
    model: nn.Module,
    train: Data,
    validation: Data,
    *,
    loss: Callable[[Any, Any], Tensor],
    epochs: int,
    batch_size: int = 64,
    batches_per_epoch: int | None = None,
    optimizer: str = "adam",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    schedule: str | None = None,
    patience: int = 20,
    augment: Callable[[Any, Any, torch.Generator], tuple[Any, Any]] | None = None,
    score: Callable[[nn.Module, Any], float] | None = None,
    classes: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    workers: int = 0,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Training:
    """Train `model`; it holds the weights of the best epoch afterwards, in eval mode, on the training device.

    Args:
        train, validation: a data set of (image, target) pairs (`Pairs` makes one from `equipath.data`), or a
            tuple (images, targets) of whole sets, tensors or arrays; uint8 images become float in [0, 1], floats
            the precision of the weights, a batch at a time.
        loss: loss(output, target), the mean over the batch.
        epochs: passes; with `batches_per_epoch` each has that many batches, drawn from one shuffled pass after
            the other. Without, an epoch is one pass, and what is left over from whole batches waits for
            another epoch.
        batch_size: items a step, over all processes together.
        optimizer: "adam" or "sgd"; `momentum` is SGD's.
        schedule: None, "plateau" (halve `lr` after `patience` epochs without a lower validation loss),
            "onecycle" (up to `lr` and down again; Smith 2018) or "cosine" (from `lr` down to 0).
        augment: augment(images, targets, generator) -> (images, targets), on each training batch, on the
            training device; draw from `generator`, which lives on the CPU.
        score: score(model, validation), higher is better; minus the mean validation loss by default.
        classes: stop at once if a class 0 … classes-1 is in no training target, or in no validation target.
        folder: for `last.pt` (checkpoint), `best.safetensors` with `config.json`, `log.csv`, `curves.png`.
            A folder that holds a run of the same settings is continued.
        seed: of shuffling, augmentation and dropout; the initial weights are the model's own.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: as Lightning Fabric names it: "32-true", "bf16-mixed", "16-mixed", "64-true". Validation
            runs in the precision of the weights.
        workers: processes that read a data set ahead.
        progress: a few lines on stdout, with a bar below on a terminal; one changing line in a notebook.
        config: what you want to have written beside the weights; it must not change between a run and its
            continuation.

    Raises:
        TrainingError: an empty split, a missing class, settings that differ from those of the run in `folder`,
            a damaged checkpoint, a batch that network or loss cannot take, a loss that is no longer finite, a disk
            that is full. Best weights and checkpoint are kept; before an epoch has ended, the weights as they were.
        ValueError: an unknown optimizer or schedule, a number out of range, data that are no (image, target) pairs.
    """
    train, validation = _tensors(train), _tensors(validation)
    given: dict[str, Any] = dict(
        batch_size=batch_size, batches_per_epoch=batches_per_epoch, optimizer=optimizer, lr=lr,
        weight_decay=weight_decay, momentum=momentum, schedule=schedule, patience=patience, seed=seed,
        precision=precision, loss=_named(loss), augment=_named(augment), score=_named(score),
        config=_plain(config or {}),
    )  # fmt: skip
    _check(given, epochs)
    # Neither JSON nor a checkpoint knows the numbers of NumPy.
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    lr, weight_decay, momentum, seed = (given[name] for name in ("lr", "weight_decay", "momentum", "seed"))
    batch_size, batches_per_epoch, epochs = given["batch_size"], given["batches_per_epoch"], int(epochs)
    for data, name in ((train, "training"), (validation, "validation")):
        if _count(data) == 0:
            raise TrainingError(f"The {name} set is empty; check its split, its fraction and its folder.")
        if classes is not None:
            _need_classes(data, classes, name)

    fabric = _fabric(str(device), precision)
    batch = _batch_size(batch_size, _count(train), fabric.world_size)
    batches = batches_per_epoch or _count(train) // batch
    given |= {"training items": _count(train), "validation items": _count(validation)}
    given |= {"training data": _mark(train), "validation data": _mark(validation)}
    given["processes"] = fabric.world_size
    if schedule in ("onecycle", "cosine"):
        given["epochs"] = epochs  # the rate depends on where the end is

    model.train()
    stepper = _optimizer(model, optimizer, lr, weight_decay, momentum)
    rate = _schedule(stepper, schedule, lr, patience, epochs * batches)
    network, wrapped = fabric.setup(model, stepper)
    kind = next(model.parameters()).dtype
    keeper = _Keeper(fabric, model, stepper, rate, folder, given)
    with keeper, _own_randomness(), _repeatable(fabric.device):
        run = keeper.resume()
        run.device = device_name(fabric.device)
        with _Bar(progress and fabric.is_global_zero, epochs, batches, run) as bar:
            for epoch in range(len(run.history) + 1, epochs + 1):
                start = time.perf_counter()
                _seed_everything(seed, epoch, fabric.global_rank)
                chance = torch.Generator().manual_seed(_derive(seed, epoch, fabric.global_rank, 1))
                order = _order(_count(train), batch, batches, _derive(seed, epoch, 0, 2))
                mine = [chosen[fabric.global_rank :: fabric.world_size] for chosen in order]

                total = torch.zeros((), device=fabric.device)
                network.train()
                for step, (images, targets) in enumerate(_read(train, mine, workers, fabric.device), start=1):
                    if augment is not None:
                        images, targets = augment(images, targets, chance)
                    with _told(epoch, step, images, targets):
                        output = network(images.to(kind) if images.is_floating_point() else images)
                        error = loss(output, targets)
                        wrapped.zero_grad()
                        fabric.backward(error)
                    wrapped.step()
                    used = stepper.param_groups[0]["lr"]
                    if schedule in ("onecycle", "cosine"):
                        rate.step()
                    total += error.detach()
                    if step % LOOK == 0 or step == batches:
                        mean = float(fabric.all_reduce(total, reduce_op="mean")) / step
                        if not math.isfinite(mean):
                            raise TrainingError(
                                f"The training loss became {mean} in epoch {epoch}, by batch {step}; a smaller "
                                f"lr than {lr:g} is the first thing to try, a look for such numbers in the data the "
                                f"second. {keeper.kept(run)}"
                            )
                        bar.step(epoch, step, mean)

                model.eval()
                for buffer in model.buffers() if fabric.world_size > 1 else ():
                    torch.distributed.broadcast(buffer, 0)  # the running means that will be measured
                row = {"epoch": epoch, "train_loss": mean}
                # One process measures and tells the others: they would wait for nothing else.
                row |= fabric.broadcast(
                    _measure(model, validation, loss, score, batch, workers) if fabric.is_global_zero else {}
                )
                if math.isnan(row["score"]) or not math.isfinite(row["validation_loss"]):
                    raise TrainingError(
                        f"After epoch {epoch} the validation loss is {row['validation_loss']} and the score "
                        f"{row['score']}; try a smaller lr, or look for such numbers in the data. "
                        f"{keeper.kept(run)}"
                    )
                if schedule == "plateau":
                    rate.step(row["validation_loss"])
                row["lr"] = used
                row["seconds"] = time.perf_counter() - start
                keeper.keep(run, row)
                bar.epoch(row, run)
        keeper.publish(run, figure=True)
    return run


# --------------------------------------------------------------------------------------------------
# what a batch is


class Pairs(Dataset):
    """A data set of `equipath.data` as (image, target) pairs, the target being `mask` or `label`.

    Args:
        items: dictionaries with `image` and the target.
        target: the target's name; what the first item has by default.
        size: cut every image and mask to the central (size, size) pixels, for networks that want one size.
    """

    def __init__(self, items: Any, target: str | None = None, size: int | None = None) -> None:
        if target is None and len(items):
            first = items[0]
            target = next((name for name in ("mask", "label") if name in first), None)
            if target is None:
                raise ValueError(f"items have {', '.join(first)}, neither mask nor label; name the target.")
        if size is not None and size < 1:
            raise ValueError(f"got a crop of {size} pixels; it has at least 1, or is None for whole images.")
        self.items, self.target, self.size = items, target or "label", size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self._pair(self.items[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Any]]:
        """Several at a time, which rendered slides do faster."""
        several = getattr(self.items, "__getitems__", None)
        items = several(indices) if several else [self.items[i] for i in indices]
        return [self._pair(item) for item in items]

    def _pair(self, item: dict[str, Any]) -> tuple[Tensor, Any]:
        image, target = item["image"], item[self.target]
        return self._cut(image), self._cut(target) if isinstance(target, Tensor) else target

    def _cut(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        height, width = x.shape[-2:]
        if min(height, width) < self.size:
            raise ValueError(
                f"an image of {height} x {width} pixels has no central {self.size} x {self.size}."
            )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return x[..., top : top + self.size, left : left + self.size]


def in_memory(data: Dataset, progress: Callable[[int, int], None] | None = None) -> tuple[Tensor, Tensor]:
    """Read every pair once: images (N, C, H, W) as bytes (0 … 255) and targets (N, …) int64.

    For sets that fit: rendering or unpacking them anew in every epoch costs more than the training.
    `progress` is told (done, all).
    """
    images: list[Tensor] = []
    targets: list[Tensor] = []
    several = getattr(data, "__getitems__", lambda indices: [data[i] for i in indices])
    for chosen in torch.arange(_count(data)).split(32):
        for image, target in several(chosen.tolist()):
            if images and image.shape != images[0].shape:
                raise ValueError(
                    f"item {len(images)} has {' x '.join(map(str, image.shape[-2:]))} pixels, the first one "
                    f"{' x '.join(map(str, images[0].shape[-2:]))}; cut all to one size: Pairs(items, size=...)."
                )
            if image.dtype != torch.uint8:
                if not (image.min() > -0.001 and image.max() < 1.001):  # 256 would be 0
                    raise ValueError(
                        f"item {len(images)} has values from {image.min():g} to {image.max():g}; give floats in [0, 1] or "
                        "bytes."
                    )
                image = (image * 255).round().to(torch.uint8)
            images.append(image)
            targets.append(torch.as_tensor(target))
        if progress is not None:
            progress(len(images), _count(data))
    if not images:
        return torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    return torch.stack(images), torch.stack(targets).long()


def roto_reflections(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The papers' augmentation: each picture by one of the eight roto-reflections, its map of classes with it.

    Args:
        images: (B, C, H, W), square.
        targets: (B, H, W) or (B, C, H, W) maps that move with the picture, or (B,) labels that do not.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"a quarter turn wants square pictures; got {tuple(images.shape[-2:])}.")
    drawn = torch.randint(len(P4M), (len(images),), generator=generator).tolist()
    moved = torch.stack([P4M.act(image, h) for image, h in zip(images, drawn, strict=True)])
    if targets.dim() < 3:
        return moved, targets
    return moved, torch.stack([P4M.act(target, h) for target, h in zip(targets, drawn, strict=True)])


def _tensors(data: Data) -> Data:
    """Arrays of whole sets as tensors, which share their memory."""
    if not isinstance(data, tuple):
        return data
    first, second = (torch.as_tensor(x) if isinstance(x, np.ndarray) else x for x in data)
    return first, second


def _count(data: Data) -> int:
    if isinstance(data, tuple):
        if len(data[0]) != len(data[1]):
            raise ValueError(
                f"got {len(data[0])} images and {len(data[1])} targets; give one target an image."
            )
        return len(data[0])
    if not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        raise ValueError(
            f"got a {type(data).__name__} as data; give a data set of (image, target) pairs with a length and items by "
            "number, or the tuple (images, targets)."
        )
    return len(data)


def _mark(data: Data) -> str | None:
    """A short word that is another for other labels or items, the same on every machine; None where only the data
    itself would tell.
    """
    if isinstance(data, tuple):
        labels = data[1]
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            return None
        text = str(labels.tolist())
    elif isinstance(data, Pairs) and isinstance(names := getattr(data.items, "names", None), list):
        text = "\n".join([*names, data.target, str(data.size)])
    else:
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _need_classes(data: Data, classes: int, name: str) -> None:
    missing = set(range(classes))
    for i in range(_count(data)):
        target = data[1][i] if isinstance(data, tuple) else _pair(data[i])[1]
        missing -= set(torch.as_tensor(target).unique().tolist())
        if not missing:
            return
    raise TrainingError(
        f"No {name} target holds class {', '.join(map(str, sorted(missing)))} of the {classes} classes; choose "
        "another split or a larger fraction, or leave the class out."
    )


def _batch_size(wanted: int, items: int, processes: int) -> int:
    """The batch of one step over all processes: equal shares, so that their mean is the batch's mean."""
    if wanted % processes:
        raise ValueError(
            f"batch_size={wanted} cannot be shared by {processes} processes; take a multiple of {processes}."
        )
    batch = min(wanted, items - items % processes)
    if batch == 0:
        raise TrainingError(f"{items} training items cannot be shared by {processes} processes.")
    return batch


def _order(items: int, batch: int, batches: int, seed: int) -> list[Tensor]:
    """The items of each batch of an epoch: shuffled passes, one after the other, cut into batches."""
    chance = torch.Generator().manual_seed(seed)
    passes = math.ceil(batches * batch / items)
    return list(
        torch.cat([torch.randperm(items, generator=chance) for _ in range(passes)])[: batches * batch].split(
            batch
        )
    )


def _read(data: Data, order: list[Tensor], workers: int, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """The batches of `order` on `device`, images as floats."""
    loaded: Any
    if isinstance(data, tuple):
        loaded = ((data[0][chosen], data[1][chosen]) for chosen in order)
    else:
        loaded = DataLoader(
            data,
            batch_sampler=[chosen.tolist() for chosen in order],
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_seed_worker,
            pin_memory=device.type == "cuda",
        )
    for images, targets in loaded:
        images = images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        yield images, _to(targets, device)


def _pair(item: Any) -> Any:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(
            f"an item of the data set is a {type(item).__name__}, no pair (image, target); Pairs(items) makes pairs of "
            "the dictionaries of equipath.data."
        )
    return item


def _collate(pairs: list[Any]) -> Any:
    """default_collate, with a word about what cannot be one batch."""
    _pair(pairs[0])
    sizes = {tuple(image.shape) for image, _ in pairs if isinstance(image, Tensor | np.ndarray)}
    if len(sizes) > 1:
        one, two = (" x ".join(map(str, size)) for size in sorted(sizes)[:2])
        raise ValueError(
            f"pictures of {one} and {two} cannot be one batch; cut all to one size, Pairs(items, size=…), or take "
            "batch_size=1."
        )
    try:
        return default_collate(pairs)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the items cannot be one batch ({' '.join(str(error).split())}); images and targets are tensors, arrays or "
            "numbers, of one size."
        ) from error


@contextmanager
def _told(epoch: int, step: int, images: Any, targets: Any) -> Iterator[None]:
    """What network or loss cannot do with a batch is said with the batch."""
    try:
        yield
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        batch = []
        for name, x in (("images", images), ("targets", targets)):
            if isinstance(x, Tensor) and x.numel() and "CUDA" not in str(error):
                least, most = x.min().item(), x.max().item()
                batch.append(f"{name} {tuple(x.shape)} {str(x.dtype)[6:]} from {least:g} to {most:g}")
            else:
                batch.append(f"{name} {tuple(x.shape)}" if isinstance(x, Tensor) else name)
        raise TrainingError(
            f"Network and loss failed in epoch {epoch}, batch {step}, on {' and '.join(batch)}: "
            f"{' '.join(str(error).split())[:500]}"
        ) from error


def _to(x: Any, device: torch.device) -> Any:
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    if isinstance(x, dict):
        return {name: _to(value, device) for name, value in x.items()}
    return type(x)(_to(value, device) for value in x) if isinstance(x, list | tuple) else x


# --------------------------------------------------------------------------------------------------
# measuring


@torch.no_grad()
def predict(model: nn.Module, data: Data | Tensor, batch_size: int = 64, workers: int = 0) -> Tensor:
    """The outputs for all images, in order, on the CPU; in eval mode, on the device and in the precision of
    the model.

    Args:
        data: as for `fit`, or images (N, C, H, W) alone, a tensor or an array.

    Returns:
        (N, …): what the model gives for one batch, for all of them.
    """
    data = torch.as_tensor(data) if isinstance(data, np.ndarray) else data
    pairs = (data, torch.zeros(len(data))) if isinstance(data, Tensor) else _tensors(data)
    if batch_size < 1 or not (_count(pairs) or isinstance(data, Tensor | tuple)):
        raise ValueError(f"got {_count(pairs)} items and batch_size={batch_size}; both are at least 1.")
    before, model = model.training, model.eval()
    try:
        return torch.cat([output.cpu() for output, _ in _outputs(model, pairs, batch_size, workers)])
    finally:
        model.train(before)


def _outputs(model: nn.Module, data: Data, batch_size: int, workers: int) -> Iterator[tuple[Any, Any]]:
    first = next(model.parameters())
    order = list(torch.arange(_count(data)).split(batch_size))
    for images, targets in _read(data, order, workers, first.device):
        yield model(images.to(first.dtype)), targets


@torch.no_grad()
def _measure(
    model: nn.Module, data: Data, loss: Callable, score: Callable | None, batch_size: int, workers: int
) -> dict[str, float]:
    """The mean validation loss an item, and the score."""
    total = 0.0
    done = 0
    for output, targets in _outputs(model, data, batch_size, workers):
        share = min(batch_size, _count(data) - done)
        total += share * float(loss(output, targets))
        done += share
    mean = total / done
    said: Any = -mean if score is None else score(model, data)
    try:
        return {"validation_loss": mean, "score": float(said)}
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"score gave {said!r}; it must return one number, the higher the better.") from error


# --------------------------------------------------------------------------------------------------
# steps and their size


def _check(given: dict[str, Any], epochs: int) -> None:
    for name, known in (
        ("optimizer", ("adam", "sgd")),
        ("schedule", (None, "plateau", "onecycle", "cosine")),
    ):
        if given[name] not in known:
            raise ValueError(f"got {name}={given[name]!r}; known are {', '.join(map(repr, known))}.")
    numbers: dict[str, Any] = {"epochs": epochs} | {
        name: given[name] for name in ("batches_per_epoch", "batch_size", "patience")
    }
    for name, value in numbers.items():
        if value is None and name == "batches_per_epoch":
            continue
        if not isinstance(value, Integral) or int(value) < 1:
            raise ValueError(f"got {name}={value!r}; it must be a whole number of at least 1.")
    for name in ("lr", "weight_decay", "momentum"):
        if not isinstance(given[name], Real):
            raise ValueError(f"got {name}={given[name]!r}; it must be a number.")
    if not isinstance(given["seed"], Integral):
        raise ValueError(f"got seed={given['seed']!r}; it must be a whole number.")
    if not given["lr"] > 0:
        raise ValueError(f"got lr={given['lr']}; it must be greater than 0.")
    if given["seed"] < 0:
        raise ValueError(f"got seed={given['seed']}; it must not be negative.")


def _optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameter that learns (requires_grad).")
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum)


def _schedule(
    optimizer: torch.optim.Optimizer, name: str | None, lr: float, patience: int, steps: int
) -> Any:
    """The object whose `step` changes the rate: after an epoch for "plateau", after a batch for the others."""
    rates = torch.optim.lr_scheduler
    if name == "plateau":
        # torch halves once more than `patience` epochs were bad; the papers, once that many were.
        return rates.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1, threshold=0)
    if name == "onecycle":
        return rates.OneCycleLR(optimizer, lr, total_steps=max(steps, 2))
    return rates.CosineAnnealingLR(optimizer, steps) if name == "cosine" else None


# --------------------------------------------------------------------------------------------------
# what is kept


class _Keeper:
    """The memory of a run: best weights, and the checkpoint from which it goes on.

    `last.pt` alone is the truth; log, figure and best weights are made from what it holds.
    """

    def __init__(
        self,
        fabric: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        folder: str | os.PathLike[str] | None,
        given: dict[str, Any],
    ) -> None:
        self.fabric, self.model, self.optimizer, self.schedule = fabric, model, optimizer, schedule
        self.folder = None if folder is None else Path(folder)
        self.given = given | {"weights": f"{type(model).__name__} {_shapes(model)}"}
        self.best: dict[str, Tensor] | None = None
        self.begun: dict[str, Tensor] | None = None  # the weights before there are best ones
        self.drawn = time.monotonic()
        self.lock: Any = None

    def __enter__(self) -> None:
        """Take the folder: two processes that train in one would spoil each other's files."""
        if self.folder is None:
            return
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.fabric.is_global_zero:
                self.lock = FileLock(self.folder / "lock", timeout=0)
                self.lock.acquire()
        except Timeout as error:  # an OSError too, so it comes first
            raise TrainingError(
                f"Another process trains in {self.folder} right now; wait for its end, or name another folder."
            ) from error
        except OSError as error:
            raise TrainingError(f"{self.folder} cannot be made ({error.strerror}); name another.") from error

    def __exit__(self, *error: object) -> None:
        """Give the model its best weights, or those with which it came, and leave the folder to others."""
        if (weights := self.begun if self.best is None else self.best) is not None:
            self.model.load_state_dict(weights)
        self.model.eval()
        if self.lock is not None:
            self.lock.release()

    def resume(self) -> Training:
        """The run in the folder, put back into model, optimiser and schedule; a new one if there is none."""
        run = Training(folder=self.folder)
        self.begun = self._weights()
        if self.folder is None:
            return run
        self.fabric.barrier()
        path = self.folder / "last.pt"
        if not path.exists():
            return run
        try:
            with zipfile.ZipFile(path) as parts:  # torch.load does not look at the check sums
                if spoilt := parts.testzip():
                    raise OSError(f"{spoilt} is not as it was written")
            kept = torch.load(path, map_location="cpu", weights_only=True)
            before, version = dict(kept["settings"]), kept.get("version", VERSION)
            if version == VERSION and (lost := CHECKPOINT - kept.keys()):
                raise KeyError(*lost)
        except Exception as error:
            raise TrainingError(
                f"{path} is damaged or no checkpoint ({error.__class__.__name__}); delete it to start anew, or name "
                "another folder."
            ) from error
        if version != VERSION:
            raise TrainingError(
                f"{path} was written by another version of EquiPath (checkpoint {version}, here {VERSION}); continue "
                "with that version, or name another folder."
            )
        for name in ("training data", "validation data", "processes"):  # older checkpoints do not tell
            before.setdefault(name, self.given[name])
        now, before = _spread(json.loads(json.dumps(self.given))), _spread(before)
        if differing := [name for name in now | before if now.get(name) != before.get(name)]:
            raise TrainingError(
                f"{self.folder} holds a run with other settings: "
                + "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing)
                + ". Give the same settings to continue it, or name another folder."
            )
        try:
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.fabric.strategy.precision.load_state_dict(kept["precision"])
            if self.schedule is not None:
                self.schedule.load_state_dict(kept["schedule"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"{path} holds another network than this {type(self.model).__name__} "
                f"({' '.join(str(error).split())[:300].rstrip('.')}); make the network as it was, or name another folder."
            ) from error
        self.best = kept["best"]
        run.history, run.best_epoch, run.best_score = kept["history"], kept["best_epoch"], kept["best_score"]
        run.seconds = sum(row["seconds"] for row in run.history)
        self.publish(run)
        return run

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def keep(self, run: Training, row: dict[str, float]) -> None:
        """Take an epoch that went well into the run, in memory and on disk."""
        better = row["score"] > run.best_score or not run.history
        best = self._weights() if better else self.best
        epoch, value = (len(run.history) + 1, row["score"]) if better else (run.best_epoch, run.best_score)
        history = [*run.history, row]
        if self.folder is not None and self.fabric.is_global_zero:
            store = io.BytesIO()
            kept = dict(
                version=VERSION, settings=json.loads(json.dumps(self.given)), history=history, best=best, best_epoch=epoch,
                best_score=value, model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
                schedule=None if self.schedule is None else self.schedule.state_dict(),
                precision=self.fabric.strategy.precision.state_dict(),
            )  # fmt: skip
            torch.save(kept, store)
            _write(self.folder / "last.pt", store.getvalue(), self.kept(run))
        run.history, run.best_epoch, run.best_score, self.best = history, epoch, value, best
        self.begun = None
        run.seconds = sum(row["seconds"] for row in history)
        self.publish(run, weights=better)

    def publish(self, run: Training, weights: bool = True, figure: bool = False) -> None:
        """Write what people and lessons read: log, best weights and their config; the figure now and then."""
        if self.folder is None or not self.fabric.is_global_zero or not run.history or self.best is None:
            return
        kept = self.kept(run)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(run.history[0]))
        writer.writeheader()
        writer.writerows(run.history)
        _write(self.folder / "log.csv", table.getvalue().encode(), kept)
        if weights:
            from safetensors.torch import save

            about = {
                "best_epoch": run.best_epoch,
                "best_score": run.best_score,
                "settings": self.given,
                "versions": {name: metadata.version(name) for name in ("equipath", "torch", "numpy")},
                "device": run.device or device_name(self.fabric.device),
            }
            _write(
                self.folder / "best.safetensors",
                save({n: t.contiguous() for n, t in self.best.items()}),
                kept,
            )
            _write(self.folder / "config.json", json.dumps(about, indent=1).encode() + b"\n", kept)
        if (figure or time.monotonic() - self.drawn > 60) and find_spec("matplotlib"):
            picture = io.BytesIO()
            curves(run.history).savefig(picture, format="png", dpi=150)
            _write(self.folder / "curves.png", picture.getvalue(), kept)
            self.drawn = time.monotonic()

    def kept(self, run: Training) -> str:
        """The sentence about what an interrupted run still has."""
        if not run.history:
            return "Nothing was lost: no epoch had ended."
        where = f" in {self.folder}" if self.folder is not None else ""
        return f"The weights of epoch {run.best_epoch}, the best of {len(run.history)}, are kept{where}."


def _write(path: Path, data: bytes, kept: str) -> None:
    """Put a whole file in the place of `path`, or leave what was there: a rename is one step for a disk."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"{path} could not be written ({error.strerror or error}); make room, or name another folder, and "
            f"run the same again to continue. {kept}"
        ) from error


def load_weights(model: nn.Module, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the best weights that `fit` left in `folder` into `model`, which is in eval mode afterwards.

    Args:
        folder: a training folder, or a .safetensors file with `config.json` beside it.

    Returns:
        What `config.json` says of them; {} where there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    path = path / "best.safetensors" if path.is_dir() else path
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing; train first, or name the folder of a training.") from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    except Exception as error:
        raise TrainingError(
            f"{path} does not fit {type(model).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}; make the model "
            "with the arguments that it was trained with (config.json beside the weights)."
        ) from error
    model.eval()
    about = path.with_name("config.json")
    try:
        return json.loads(about.read_text()) if about.exists() else {}
    except ValueError as error:
        raise _damaged(about, error) from error


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"{path} is damaged ({error}); start the same training again, which writes it anew from last.pt."
    )


def load_model(folder: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The network that `equipath train` left in `folder`, in eval mode, and what `config.json` says of it."""
    path = Path(folder)
    about = path / "config.json"
    try:
        text = about.read_text()
        try:
            said = json.loads(text)
        except ValueError as error:
            raise _damaged(about, error) from error
        config = said["settings"]["config"]
        model = build(config["model"], len(config["classes"]), config["width"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        why = f"no {error} in config.json" if isinstance(error, KeyError) else error
        raise TrainingError(
            f"{path} is no folder of `equipath train` ({why}): it wants best.safetensors and a config.json that names "
            "the network. In Python, load_weights and equipath.segment.segment take any network."
        ) from error
    return model, load_weights(model, path)


def curves(history: list[dict[str, float]]) -> Any:
    """A matplotlib figure of a training: losses on the left, score and learning rate on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 20 else ""
    for name, style, colour in (("train_loss", "-", "#0072B2"), ("validation_loss", "--", "#D55E00")):
        values = [row[name] for row in history]
        left.plot(epochs, values, style, marker=marker, ms=3, color=colour, label=name.replace("_", " "))
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    scores = [row["score"] for row in history]
    right.plot(epochs, scores, "-", marker=marker, ms=3, color="#009E73", label="validation score")
    best = max(range(len(scores)), key=scores.__getitem__)
    right.plot(epochs[best], scores[best], "*", ms=12, color="black", label=f"best: epoch {epochs[best]:g}")
    right.set(xlabel="epoch", ylabel="score")
    twin = right.twinx()
    twin.plot(epochs, [row["lr"] for row in history], ":", color="#767676", label="learning rate")
    twin.set(ylabel="learning rate")
    lines = [*right.get_lines(), *twin.get_lines()]
    right.legend(lines, [str(line.get_label()) for line in lines], frameon=False)
    return figure


def _named(function: Any) -> str | None:
    """A function in words that stay the same from one start to the next."""
    if function is None:
        return None
    if isinstance(function, partial):
        options = ", ".join(f"{k}={v!r}" for k, v in function.keywords.items() if not isinstance(v, Tensor))
        return f"{_named(function.func)}({options})"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The config as JSON knows it: tuples become lists, paths and other things their words."""
    return json.loads(json.dumps(config, default=str))


def _spread(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of the config one by one, as "config.width"."""
    config = {f"config.{name}": value for name, value in (settings.get("config") or {}).items()}
    return {name: value for name, value in settings.items() if name != "config"} | config


def _shapes(model: nn.Module) -> str:
    tensors = model.state_dict().values()
    return f"{len(tensors)} tensors, {sum(t.numel() for t in tensors)} numbers"


# --------------------------------------------------------------------------------------------------
# machine and chance


def _fabric(device: str, precision: str) -> Any:
    """Lightning Fabric for this device, or for all processes of `torchrun`."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise TrainingError(
            "Training needs Lightning Fabric and safetensors: pip install lightning-fabric safetensors."
        ) from error

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it greets on stderr
    here, everywhere = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    kind, _, number = device.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fabric = Fabric(
                accelerator=kind,
                devices=[int(number)] if number and here == 1 else here,
                num_nodes=everywhere // here,
                strategy="ddp" if everywhere > 1 else "auto",
                precision=precision,  # type: ignore[arg-type]
            )
            fabric.launch()
        except Exception as error:
            raise TrainingError(
                f"device={device!r} with precision={precision!r} is not to be had here: {error}"
            ) from error
    return fabric


def device_name(device: torch.device | str = "cpu") -> str:
    """The device in words, such as "NVIDIA H100 80GB HBM3" or the processor's name and how many threads work."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def _derive(*numbers: int) -> int:
    """One seed from several numbers; neighbours give unrelated ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _seed_everything(*numbers: int) -> None:
    seed = _derive(*numbers)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  what data sets of others draw from


def _seed_worker(_worker: int) -> None:
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave the caller's random numbers as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)  # noqa: NPY002


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Ask a GPU for algorithms that give the same sum every time; a CPU does anyway."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    search, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark = search


class _Bar:
    """Progress on stdout: at most a dozen lines, on a terminal with a bar below; one line that changes in a
    notebook.
    """

    def __init__(self, wanted: bool, epochs: int, batches: int, run: Training) -> None:
        self.wanted, self.epochs, self.batches = wanted, epochs, batches
        self.done, self.shown = len(run.history), 0.0
        self.bar: Any = None
        self.line: Any = None

    def __enter__(self) -> _Bar:
        if not self.wanted or self.done >= self.epochs:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stdout)
        if console.is_jupyter:
            # The notebook brought IPython along; the library itself does without. An output that is replaced
            # leaves one line in the saved notebook, where a widget would leave nothing.
            self.line = sys.modules["IPython"].display.display(
                {"text/plain": "training"}, raw=True, display_id=True
            )
        elif console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task(
                "training", total=self.epochs * self.batches, completed=self.done * self.batches
            )
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, epoch: int, step: int, mean: float) -> None:
        """Show that a few more batches are done."""
        text, done = f"epoch {epoch}/{self.epochs}  loss {mean:.4f}", (epoch - 1) * self.batches + step
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=text)
        if self.line is not None and time.monotonic() - self.shown > 0.2:
            full = 30 * done // (self.epochs * self.batches)
            self.line.update({"text/plain": f"{'━' * full}{'╌' * (30 - full)}  {text}"}, raw=True)
            self.shown = time.monotonic()

    def epoch(self, row: dict[str, float], run: Training) -> None:
        """Show what an epoch brought."""
        text = (
            f"epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}  validation "
            f"{row['validation_loss']:.4f}  best score {run.best_score:.4f} (epoch {run.best_epoch})"
        )
        last = row["epoch"] == self.epochs
        if self.line is not None:
            if last:
                self.line.update({"text/plain": text}, raw=True)
        elif self.wanted and (last or row["epoch"] == 1 or row["epoch"] % math.ceil(self.epochs / 10) == 0):
            if self.bar is None:
                print(text, flush=True)
            else:
                self.bar.console.print(text, highlight=False, soft_wrap=True)  # above the bar
