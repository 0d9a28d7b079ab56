"""What the `run` of every experiment has in common: words that are checked, and one network trained, measured, kept."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from equipath.experiments.results import SIZES, save
from equipath.models.summary import count_parameters
from equipath.train import fit

__all__ = ["Runs"]


@dataclass(frozen=True)
class Runs:
    """The runs of one call of an experiment: one data set, one size, one seed, several networks.

    Attributes:
        experiment: its name.
        folder: checkpoints lie in `folder/DATA-SIZE-SEED/NETWORK`; a run that was stopped goes on there. None: no
            checkpoints.
        results: where the JSONs go; `book/results` by default.
        lr: the rate of learning, where it is not that of the settings; its checkpoints lie in a folder of their own.
    """

    experiment: str
    data: str
    size: str
    seed: int
    folder: str | os.PathLike[str] | None = None
    progress: bool = True
    results: str | os.PathLike[str] | None = None
    lr: float | None = None

    def check(self, data: Iterable[str], arms: Sequence[str], known: Sequence[str]) -> None:
        """Refuse a data set that is none of `data`, an unknown size, and `arms` that are not `known`.

        Raises:
            ValueError: names what is wrong and what there is.
        """
        if self.data not in (names := list(data)):
            raise ValueError(f"{self.experiment} runs on {', '.join(names)}; got data={self.data!r}.")
        if self.size not in SIZES:
            raise ValueError(f"got size={self.size!r}; known are {', '.join(SIZES)}.")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(f"a rate of learning is a positive number; got {self.lr:g}.")
        if unknown := set(arms) - set(known):
            raise ValueError(f"got the arms {', '.join(sorted(unknown))}; known are {', '.join(known)}.")

    def one(
        self,
        net: nn.Module,
        train: Any,
        validation: Any,
        config: dict[str, Any],
        measure: Callable[[nn.Module], dict[str, Any]],
        *,
        source: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Train a network, measure it once, save the result and return its metrics.

        Args:
            config: everything that tells this run from the others, among it "model" (the arm), "epochs", "batch",
                "batches" and "lr", by which it is trained, and "fraction" where the training set is cut.
            measure: asked once, of the network with the weights that were best on validation, on the processor.
            source: the set that is trained on, where it is not the one that results are filed under.
            options: of `equipath.train.fit`.

        Returns:
            What `measure` returned, `best_epoch`, `training_seconds` and, unless epochs came from a checkpoint,
            `processor_seconds` of the training: what else runs on the machine hardly counts there.
        """
        start, clock = time.perf_counter(), time.process_time()
        config = {"parameters": count_parameters(net)} | config
        place = None
        if self.folder:
            name = re.sub(r"[ ,]+", "_", config["model"])
            if "fraction" in config:
                name += f"-{config['fraction']:g}"
            if self.lr is not None:
                name += f"-rate{self.lr:g}"
            place = Path(self.folder) / f"{source or self.data}-{self.size}-{self.seed}" / name
        done = fit(
            net, train, validation, epochs=config["epochs"], batch_size=config["batch"],
            batches_per_epoch=config["batches"], lr=config["lr"], folder=place, seed=self.seed, progress=self.progress,
            config=config, **options,
        )  # fmt: skip
        trained = time.perf_counter()
        training = max(trained - start, done.seconds)  # epochs from a checkpoint took their time too
        metrics = {"best_epoch": done.best_epoch, "training_seconds": done.seconds}
        if trained - start >= done.seconds:  # else epochs were taken from a checkpoint
            metrics["processor_seconds"] = time.process_time() - clock
        metrics |= measure(net.cpu())
        save(
            experiment=self.experiment, data=self.data, size=self.size, config=config, seed=self.seed,
            metrics=metrics, seconds=training + time.perf_counter() - trained, device=done.device, folder=self.results,
        )  # fmt: skip
        return metrics
