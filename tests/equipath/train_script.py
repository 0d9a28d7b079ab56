"""What the tests of training run in processes of their own, below FOLDER: a run that is killed again and again, and
one run by a single process and one by two that torchrun's launcher starts. All are forked from this one.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from equipath.train import fit


def flipped(images, targets, generator):
    return (images.flip(2) if torch.rand((), generator=generator) < 0.5 else images), targets


def run(folder, progress=False, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(options.pop("dropout", 0.0)),
                          nn.Linear(16, 2))  # fmt: skip
    images = torch.rand(72, 1, 4, 4)
    targets = (images[..., :2].mean((1, 2, 3)) > 0.5).long()
    return fit(model, (images[:48], targets[:48]), (images[48:], targets[48:]), loss=nn.functional.cross_entropy,
               epochs=8, batch_size=16, lr=1e-2, schedule="onecycle", folder=folder, progress=progress,
               **options)  # fmt: skip


def share(folder):
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    train_shared(folder / "one")
    # As `torchrun --standalone --nproc-per-node=2` starts them, but forked: they need not import everything again.
    two = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                       start_method="fork")  # fmt: skip
    elastic_launch(two, train_shared)(folder / "two")


def train_shared(folder):
    run(folder, precision="64-true")
    shared = torch.distributed.is_initialized()
    (folder / f"by {torch.distributed.get_world_size() if shared else 1}").touch()


def kill(folder):
    whole, killed = folder / "whole", folder / "killed"
    run(whole, augment=flipped, dropout=0.2)
    places = [("step", 2), ("last.pt", 2), ("after last.pt", 1), ("best.safetensors", 1), ("log.csv", 2), ("step", 4),
              ("config.json", 1), ("last.pt", 1), ("step", 7)]  # fmt: skip
    deaths = 0
    for place, times in places:
        child = os.fork()
        if child == 0:
            die_at(place, times)
            run(killed, augment=counted(place, times), dropout=0.2)
            os._exit(0)
        deaths += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    run(killed, augment=flipped, dropout=0.2)
    print(json.dumps({"killed": deaths, "places": len(places)}))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def counted(place, times):
    """`flipped`, in a child that dies at its `times`-th batch."""
    left = [times]

    def augment(images, targets, generator):
        left[0] -= 1
        if place == "step" and left[0] == 0:
            die()
        return flipped(images, targets, generator)

    augment.__qualname__ = flipped.__qualname__
    return augment


def die_at(place, times):
    """Die in the middle of the `times`-th writing of a file, or right after it took its place."""
    opened, left = Path.open, [times]

    def half(self, mode="r", *more, **options):
        file = opened(self, mode, *more, **options)
        if mode == "wb" and self.name == f"{place}.part":
            left[0] -= 1
            if left[0] == 0:

                class Half:
                    def __enter__(self):
                        return self

                    def __exit__(self, *_):
                        pass

                    def write(self, data):
                        file.write(data[: len(data) // 2])
                        file.flush()
                        die()

                return Half()
        return file

    replaced = Path.replace

    def after(self, target):
        replaced(self, target)
        if place == f"after {Path(target).name}":
            die()

    Path.open, Path.replace = half, after


if __name__ == "__main__":
    share(Path(sys.argv[1]))
    kill(Path(sys.argv[1]))
