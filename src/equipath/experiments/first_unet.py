"""The small U-Net of lesson 1: it finds healthy glands and tumour on vector slides of colon, and flickers as
they turn.

`python -m equipath.experiments.first_unet` repeats the long run whose weights the lesson loads (a few minutes
on two cores). The lesson trains the same network for half a minute with the same function. Nothing here is
augmented: that a network trained on slides as they come does not follow a turned slide is the point. The
long run draws its tiles at random, the lesson's short one in turn by class, which learns faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipath.data.slides import CLASSES, Grid, Slide, render_batch
from equipath.losses import dice_cross_entropy
from equipath.models.unet import UNet

MPP = 2.0  # µm per pixel
PIXEL_CLASSES = ("elsewhere", "healthy gland", "tumour")
HEALTHY, TUMOUR = CLASSES.index("epithelium"), CLASSES.index("tumour")
TRAINING_SEEDS, TEST_SEEDS = 1000, 9000  # where the slides' seeds start; the two never meet


def gland_tiles(
    count: int, size: int = 96, seed: int = TRAINING_SEEDS, per_slide: int = 4
) -> tuple[Tensor, Tensor]:
    """Tiles of vector slides of colon with their class maps, at 2 µm per pixel.

    Returns images (count, 3, size, size) float32 in [0, 1] and targets (count, size, size) int64: 1 in the
    wall of a healthy gland, 2 in tumour, 0 elsewhere. Slide k has seed `seed + k` and gives at most
    `per_slide` tiles; tiles with less than 5 % of classes 1 and 2 are passed over.
    """
    images: list[Tensor] = []
    targets: list[Tensor] = []
    k = 0
    while len(images) < count:
        slide, rng = Slide(seed + k, "colon"), np.random.default_rng(seed + k)
        x0, y0, x1, y1 = slide.extent
        places = rng.uniform((0.7 * x0, 0.7 * y0), (0.7 * x1, 0.7 * y1), size=(2 * per_slide, 2))
        views = render_batch([(slide, Grid(center=tuple(p), size=(size, size), mpp=MPP)) for p in places])
        kept = 0
        for view in views:
            target = classes_of(view.tissue)
            if float((target > 0).float().mean()) > 0.05 and kept < per_slide and len(images) < count:
                images.append(view.image)
                targets.append(target)
                kept += 1
        k += 1
    return torch.stack(images), torch.stack(targets)


def classes_of(tissue: Tensor) -> Tensor:
    """A vector slide's tissue map (H, W) as classes: 0 elsewhere, 1 healthy gland, 2 tumour."""
    return (tissue == HEALTHY).long() + 2 * (tissue == TUMOUR).long()


def small_unet(seed: int = 0) -> UNet:
    """The network of lesson 1: 8 channels at full size, three poolings, 3 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(3, len(PIXEL_CLASSES), width=8, depth=3)


def train(
    net: torch.nn.Module,
    images: Tensor,
    targets: Tensor,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    batch: int = 4,
    peak: float = 5e-3,
    balanced: bool = True,
    seed: int = 0,
) -> Iterator[float]:
    """Train `net` with Adam and a one-cycle learning rate (Smith 2018); yields the loss of every step.

    With `balanced` each batch draws in turn from the tiles that hold class 1, class 2 and so on, so that a
    class on few tiles is seen as often as one on many; without, from all tiles alike. `net` is in eval mode
    at the end.
    """
    holders = tiles_of_each_class(targets) if balanced else [torch.arange(len(targets))]
    chance = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps)
    # Channels side by side in memory: a third less time for a step of this network on a CPU.
    net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(steps):
        draws = [holders[i % len(holders)] for i in range(batch)]
        chosen = torch.stack([tiles[torch.randint(len(tiles), (), generator=chance)] for tiles in draws])
        x = images[chosen].contiguous(memory_format=torch.channels_last)
        loss = loss_function(net(x), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield loss.item()
    net.eval()


def tiles_of_each_class(targets: Tensor) -> list[Tensor]:
    """For class 1, 2 and so on: the indices of the targets (N, H, W) that hold it; classes without are left out.

    Targets that hold nothing but class 0 everywhere give one list of all indices.
    """
    classes = range(1, int(targets.max()) + 1)
    holders = [(targets == k).flatten(1).any(dim=1).nonzero()[:, 0] for k in classes]
    return [tiles for tiles in holders if len(tiles)] or [torch.arange(len(targets))]


def weights_path() -> Path:
    """Where the weights of the long run lie (under 1 MB)."""
    return Path(str(files("equipath.experiments") / "weights" / "first_unet.npz"))


def trained_unet(path: Path | None = None) -> UNet:
    """The small U-Net in eval mode, with the weights of the long run or those in ``path``."""
    net = small_unet()
    with np.load(path or weights_path()) as stored:
        net.load_state_dict(
            {name: torch.from_numpy(stored[name].astype(_dtype(stored[name]))) for name in stored.files}
        )
    return net.eval()


def _dtype(array: np.ndarray) -> np.dtype:
    return np.dtype(np.float32) if array.dtype == np.float16 else array.dtype


def main(arguments: list[str] | None = None) -> None:
    """Repeat the long run and write its weights; ``arguments`` stand for the command line's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--tiles", type=int, default=160)
    parser.add_argument("--out", type=Path, default=weights_path())
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    images, targets = gland_tiles(options.tiles)
    print(f"{len(images)} tiles in {time.perf_counter() - start:.0f} s")
    net = small_unet()
    run = train(
        net, images, targets, dice_cross_entropy, steps=options.steps, batch=8, peak=1e-2, balanced=False
    )
    for step, loss in enumerate(run, start=1):
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Half precision halves the file; the network computes in float32.
    np.savez_compressed(
        options.out,
        **{
            k: v.numpy().astype(np.float16) if v.is_floating_point() else v.numpy()
            for k, v in net.state_dict().items()
        },
    )
    print(f"wrote {options.out.name}: {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
