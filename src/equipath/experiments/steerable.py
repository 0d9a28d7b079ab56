"""The slides' experiment: a steerable U-Net against a plain one, each with and without augmentation.

Liem 2025 (paper 000). The slides compare an equivariant U-Net without augmentation with a plain U-Net that has it
(loss 1.168 and 2.294, Dice 0.627 and 0.684 on one split of OCELOT) and ask what both together do: the 2 x 2 table.
How equivariant the networks are is measured at the eight roto-reflections, and at other angles with slides that
are rendered again, so that no input is interpolated. The slides' core problem, whether the large field of view
helps in the small one, is tried on cell-tissue pairs: a first network segments the large field, and its answer,
cut to the small field, is one more channel for the second (OCELOT's and SoftCTM's tissue injection).

Choices of ours: Dice is the mean over classes, all test pixels together; augmentation is by the eight
roto-reflections; both networks have about the same number of weights; size ``small`` has 32-pixel pictures, two
levels and one cycle of the learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.data import load
from equipath.data.items import IGNORE, nested
from equipath.data.slides.tasks import TissueTypes
from equipath.equivariance import Rotation, RotoReflection, equivariance_error
from equipath.experiments.comparisons import BEST, Column, at_best_rate, rates_of, seeds_of, steps_of
from equipath.experiments.results import Picture, Table, cell, grouped, mean_sd
from equipath.experiments.results import load as load_runs
from equipath.experiments.runs import Runs
from equipath.experiments.summary import Claim
from equipath.losses import dice_cross_entropy
from equipath.metrics import dice_score
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.unet import UNet
from equipath.train import Pairs, in_memory, roto_reflections

NAME = "steerable"
TITLE = "Steerable U-Net: equivariance and augmentation"
ARMS = ("U-Net", "U-Net+", "steerable U-Net", "steerable U-Net+")
"""+ is trained on roto-reflected pictures."""
LONG = tuple(f"{arm} long" for arm in ARMS)
"""Three times as many epochs: is a network behind for want of steps? Only made when asked for."""
PAIR_ARMS = (
    "U-Net", "U-Net with context", "U-Net narrow",
    "steerable U-Net", "steerable U-Net with context", "steerable U-Net narrow",
)  # fmt: skip
"""narrow: the second network of the two, alone; what context brings is told from the weights that it costs."""
CLAIMS = (
    Claim(("ebhi", "slides"), "steerable U-Net", "U-Net+", "Dice", "dice"),
    Claim(("ebhi", "slides"), "steerable U-Net", "U-Net+", "loss", "loss", lower=True),
)
RATES_APART = True
"""The page keeps runs of different rates of learning apart (`at_best_rate`)."""
DATA = ("slides", "ebhi", "pairs", "ocelot")
ANGLES = (15.0, 30.0, 45.0, 60.0, 75.0)
RATIO = 4  # the large field of a pair is so many times as wide
PUBLISHED = {"U-Net+": (0.684, 2.294), "steerable U-Net": (0.627, 1.168)}
"""Dice and loss on OCELOT."""


@dataclass(frozen=True)
class Settings:
    """What a run does; the defaults are full-size networks (the slides do not give theirs).

    Attributes:
        width: channels of the plain U-Net's first block; ``scalars`` and ``vectors`` of the steerable one's.
        pair_width, pair_scalars, pair_vectors: the same for each of the two networks of a pair with context.
        side, shrink: pixels of a picture, and how far a public picture is averaged down to it.
        patients, per_patient, mpp: of rendered slides, for training; a third as many for validation, and for
            the test. In pairs ``mpp`` is that of the small field.
        lr, steerable_lr: Adam's rate for the plain and for the steerable network; None: the same.
        pictures: how many test pictures the equivariance errors are measured on.
    """

    width: int = 8
    scalars: int = 8
    vectors: int = 4
    pair_width: int = 6
    pair_scalars: int = 6
    pair_vectors: int = 3
    depth: int = 4
    side: int = 256
    shrink: int = 1
    patients: int = 96
    per_patient: int = 16
    mpp: float = 1.0
    epochs: int = 100
    batches: int | None = None
    batch: int = 16
    lr: float = 1e-3
    steerable_lr: float | None = None
    schedule: str = "plateau"
    patience: int = 20
    pictures: int = 64


SMALL = Settings(
    width=4, scalars=4, vectors=2, pair_width=3, pair_scalars=2, pair_vectors=2, depth=2, side=32, shrink=7,
    patients=18, per_patient=16, mpp=3.0, epochs=6, batches=20, batch=8, lr=0.02, schedule="onecycle", pictures=24,
)  # fmt: skip
EBHI_RATES = {"lr": 0.007, "steerable_lr": 0.2}
"""Chosen on validation pictures, of which the kept runs show the best two with more seeds. EBHI, seed 0: losses of U-Net at 0.002,
0.007, 0.02 and 0.06 are 0.979, 0.784, 0.876, 0.921; of steerable U-Net at 0.02, 0.06, 0.2 and 0.5 0.847, 0.783, 0.691, 0.761. On
slides and pairs 0.02 is best for all. Slides, seed 0: 1.863, 1.501, 1.490 (U-Net, 0.002 to 0.02) and 1.296, 1.277, 1.707, 1.808
(steerable, 0.02 to 0.5; with three seeds 0.02 is ahead of 0.06). Pairs, seed 0: 1.083, 1.035, 1.106 and with context 1.129, 0.934,
0.950 (U-Net, 0.002 to 0.02; with three seeds 0.02 is ahead of 0.007); 0.726, 0.966, 1.274 and with context 0.849, 0.891, 1.226
(steerable, 0.02 to 0.2; with context 1.036 at 0.007)."""
SETTINGS: dict[str, dict[str, Settings]] = {
    "small": {
        "slides": SMALL,
        "ebhi": Settings(**asdict(SMALL) | EBHI_RATES),
        "pairs": Settings(**asdict(SMALL) | {"mpp": 1.0}),
        "ocelot": Settings(**asdict(SMALL) | {"shrink": 32}),
    },
    "paper": {
        "slides": Settings(),
        "ebhi": Settings(**asdict(Settings()) | {"side": 224}),
        "pairs": Settings(**asdict(Settings()) | {"mpp": 0.5}),
        "ocelot": Settings(**asdict(Settings()) | {"shrink": 4}),
    },
}


def unet(
    steerable: bool, in_channels: int, classes: int, settings: Settings, pair: bool = False
) -> nn.Module:
    """A U-Net of one kind or the other; ``pair`` takes the widths of two networks that work together."""
    s = settings
    if steerable:
        scalars, vectors = (s.pair_scalars, s.pair_vectors) if pair else (s.scalars, s.vectors)
        return SteerableUNet(in_channels, classes, scalars, vectors, s.depth)
    return UNet(in_channels, classes, s.pair_width if pair else s.width, s.depth)


class WithContext(nn.Module):
    """Segments a small field with the help of the large one around it: (B, 7, H, W) to logits (B, 2, H, W).

    Channels 0-2 are the small field, 3-5 the large one, 6 marks where in the large one the small one lies. The
    answer's first channel is about the small field, its second about the large one. Whatever turns all seven
    channels alike turns both answers, if both networks are equivariant.
    """

    output_field = "planar"

    def __init__(self, wide: nn.Module, near: nn.Module) -> None:
        super().__init__()
        self.wide, self.near = wide, near

    def forward(self, x: Tensor) -> Tensor:
        large = self.wide(x[:, 3:6])
        side = x.shape[-1] // RATIO
        cut = []
        for answer, place in zip(large, x[:, 6], strict=True):
            top, left = (int(place.amax(axis).nonzero()[0]) for axis in (1, 0))
            cut.append(answer[:, top : top + side, left : left + side])
        hint = torch.sigmoid(torch.stack(cut))
        hint = F.interpolate(hint, scale_factor=float(RATIO), mode="nearest")
        return torch.cat([self.near(torch.cat([x[:, :3], hint], 1)), large], 1)


class WithoutContext(nn.Module):
    """The small field alone: takes the seven channels of ``WithContext`` and looks at the first three."""

    output_field = "planar"

    def __init__(self, near: nn.Module) -> None:
        super().__init__()
        self.near = near

    def forward(self, x: Tensor) -> Tensor:
        return self.near(x[:, :3])


def network(arm: str, classes: int, settings: Settings, seed: int = 0, pair: bool = False) -> nn.Module:
    """One of ``ARMS``, or of ``PAIR_ARMS`` with ``pair=True``, freshly drawn."""
    steerable = arm.startswith("steerable")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not pair:
            return unet(steerable, 3, classes, settings)
        if "with context" not in arm:
            return WithoutContext(unet(steerable, 3, 1, settings, pair=arm.endswith("narrow")))
        wide = unet(steerable, 3, 1, settings, pair=True)
        return WithContext(wide, unet(steerable, 4, 1, settings, pair=True))


def rate(arm: str, settings: Settings) -> float:
    """The learning rate of a network."""
    return settings.steerable_lr or settings.lr if arm.startswith("steerable") else settings.lr


def pair_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice + cross-entropy of the small field, and of the large one where it is answered: masks (B, 2, H, W)."""
    parts = [dice_cross_entropy(logits[:, k : k + 1], masks[:, k]) for k in range(logits.shape[1])]
    return torch.stack(parts).sum()


def pair_score(net: nn.Module, validation: tuple[Tensor, Tensor]) -> float:
    """Minus the loss of the small field, by which the best weights are chosen, with context as without."""
    with torch.no_grad():
        logits = torch.cat([net(some) for some in validation[0].split(32)])
    return -float(dice_cross_entropy(logits[:, :1], validation[1][:, 0]))


# --------------------------------------------------------------------------------------------------
# pictures


def pictures(
    data: str,
    split: str,
    settings: Settings,
    seed: int = 0,
    root: str | Path | None = None,
    angle: float = 0.0,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images as bytes, masks, and the classes' names. Pairs: floats (N, 7, H, W) and masks (N, 2, H, W).

    On slides ``seed`` draws who the training patients are; validation and test are the same for all seeds. ``angle``
    turns slides, in degrees.
    """
    options: dict[str, Any] = {}
    cut = settings.side * settings.shrink
    if data in ("slides", "pairs"):
        patients = settings.patients if split == "train" else max(3, settings.patients // 3)
        options = dict(
            patients=patients,
            per_patient=settings.per_patient,
            size=settings.side,
            mpp=settings.mpp,
            angle=angle,
        )
        cut = settings.side
    task = "pairs" if data in ("pairs", "ocelot") else "tissue"
    name = "slides" if data == "pairs" else data
    items: Any = load(name, task, split, seed=seed if split == "train" else 0, root=root, **options)
    step = cut // settings.side
    if task == "pairs":
        return *_pairs(items, step), items.classes
    images, masks = in_memory(Pairs(items, "mask", cut))
    if step > 1:
        images = F.avg_pool2d(images.float(), step).round().to(torch.uint8)
        masks = _majority(masks, step)
    return images, masks, items.classes


def _pairs(items: Any, step: int) -> tuple[Tensor, Tensor]:
    """Pairs as ``WithContext`` takes them, both fields averaged down by ``step``."""
    images, masks = [], []
    for chosen in torch.arange(len(items)).split(32):
        several = getattr(items, "__getitems__", lambda some: [items[i] for i in some])
        for item in several(chosen.tolist()):
            both = torch.cat([item["image"], item["context"]])
            targets = torch.stack([item["mask"], item["context_mask"]])
            if step > 1:
                both, targets = F.avg_pool2d(both, step), _majority(targets, step)
            size = both.shape[-1]
            side = size // RATIO
            # OCELOT's place need not lie on a whole pixel: the nearest is within half of one.
            left, top = (round(float(v) * size - side / 2) for v in item["offset"])
            left, top = (min(max(v, 0), size - side) for v in (left, top))
            place = torch.zeros(1, size, size)
            place[:, top : top + side, left : left + side] = 1
            images.append(torch.cat([both, place]))
            masks.append(targets.long())
    return torch.stack(images), torch.stack(masks)


def _majority(masks: Tensor, step: int) -> Tensor:
    """Masks (K, H, W) of 0, 1 and ``IGNORE``, a pixel for each block of ``step``²: what at least half of its known
    pixels say, ``IGNORE`` where fewer than half are known.
    """
    known = masks != IGNORE
    share = F.avg_pool2d(known.double(), step)
    ones = F.avg_pool2d((masks == 1).double(), step)
    return (2 * ones >= share).long().where(share >= 0.5, IGNORE)


# --------------------------------------------------------------------------------------------------
# measuring


@torch.no_grad()
def measure(net: nn.Module, images: Tensor, masks: Tensor, classes: int) -> dict[str, Any]:
    """``loss``, ``dice_of_class`` and their mean ``dice``, over all pixels together; of a pair for the small field."""
    net.eval()
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    logits = torch.cat([net(some) for some in x.split(32)])
    if masks.dim() == 4:  # pairs: the small field is what is asked for
        logits, masks = logits[:, :1], masks[:, 0]
    dice = (
        [dice_score(logits[:, 0] > 0, masks, ignore_index=IGNORE)]
        if logits.shape[1] == 1
        else dice_score(logits.argmax(1), masks, classes, ignore_index=IGNORE).tolist()
    )
    return {
        "dice": float(np.nanmean(dice)),
        "dice_of_class": dice,
        "loss": float(dice_cross_entropy(logits, masks)),
    }


def fitted(
    net: nn.Module, name: str, pairs: tuple[Tensor, Tensor], classes: int, most: int = 96
) -> dict[str, float]:
    """``NAME_dice`` and ``NAME_loss`` on up to ``most`` pictures that are spread over a set: what a network made of
    the pictures that it was trained or chosen on, as they are.
    """
    some = torch.linspace(0, len(pairs[0]) - 1, min(most, len(pairs[0]))).round().long()
    found = measure(net, pairs[0][some], pairs[1][some], classes)
    return {f"{name}_{measured}": found[measured] for measured in ("dice", "loss")}


def answers(net: nn.Module) -> Any:
    """The network's probabilities, as a function that says how they move."""

    def probability(x: Tensor) -> Tensor:
        logits = net(x)
        return torch.sigmoid(logits) if logits.shape[1] <= 2 and x.shape[1] == 7 else torch.softmax(logits, 1)

    probability.output_field = "planar"  # type: ignore[attr-defined]
    return probability


def grid_error(net: nn.Module, images: Tensor) -> float:
    """Eq. 10 of the SEUNet paper for the probabilities, mean over the seven roto-reflections but the identity."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    return float(np.mean([equivariance_error(answers(net), x, RotoReflection(h)) for h in range(1, 8)]))


@torch.no_grad()
def angle_errors(net: nn.Module, turned: Sequence[tuple[Tensor, Tensor]], classes: int) -> dict[str, Any]:
    """What happens between the grid's angles, on slides that are rendered again.

    Args:
        turned: images and masks at 0° and at each of ``ANGLES``.

    Returns:
        ``angle_error``: eq. 10 at each angle, for the probabilities inside the circle that stays in the picture;
        ``label_error``: the same for the true masks, which is what resampling alone costs; ``angle_dice``: Dice at
        each angle, which resamples nothing.
    """
    net.eval()
    ask = answers(net)
    first, truth = turned[0][0].float() / 255, F.one_hot(turned[0][1], classes).movedim(-1, 1).float()
    here = ask(first)
    side = first.shape[-1]
    centre = torch.arange(side) - (side - 1) / 2
    circle = (centre[:, None] ** 2 + centre[None] ** 2).sqrt() < side / 2 - 2
    out: dict[str, Any] = {"angle_error": [], "label_error": [], "angle_dice": []}
    for angle, (images, masks) in zip(ANGLES, turned[1:], strict=True):
        move = Rotation(angle, "bilinear")
        there = ask(images.float() / 255)
        found = F.one_hot(masks, classes).movedim(-1, 1).float()
        for name, before, after in (("angle_error", here, there), ("label_error", truth, found)):
            moved = move.planar(before) * circle
            ratio = (moved - after * circle).square().sum((1, 2, 3)) / moved.square().sum((1, 2, 3))
            out[name].append(float(ratio.mean()))
        out["angle_dice"].append(float(np.nanmean(dice_score(there.argmax(1), masks, classes).numpy())))
    return out | {f"mean_{name}": float(np.mean(values)) for name, values in out.items()}


# --------------------------------------------------------------------------------------------------
# the run


def run(
    data: str = "slides",
    size: str = "small",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    *,
    root: str | Path | None = None,
    arms: Sequence[str] | None = None,
    fractions: Sequence[float] = (1.0,),
    lr: float | None = None,
    settings: Settings | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Train every arm, test it once, save one result each.

    Args:
        data: "slides" (five tissue classes of breast) or "ebhi" (glands of the colon) for the 2 x 2 table;
            "pairs" (rendered) or "ocelot" for cell-tissue pairs with and without the large field.
        size: "small" (minutes on two cores) or "paper".
        folder: checkpoints of the training, one folder an arm: a run that was stopped goes on there.
        root: folder of the data sets.
        arms: some of ``ARMS`` and ``LONG``, or of ``PAIR_ARMS``.
        fractions: of EBHI's training pictures, whole patients; every training has the same number of steps.
        lr: in place of the networks' rates in the settings.
        settings: in place of those of ``size``.
        results: where the JSONs go; `book/results` by default.

    Returns:
        {arm: metrics}, {"arm, percent": metrics} for a part of the pictures.
    """
    pair = data in ("pairs", "ocelot")
    known = PAIR_ARMS if pair else ARMS
    runs = Runs(NAME, data, size, seed, folder, progress, results, lr)
    runs.check(DATA, arms or (), known if pair else (*ARMS, *LONG))
    if data != "ebhi" and set(fractions) != {1}:
        raise ValueError(f"steerable cuts EBHI's training pictures alone; leave the fractions out on {data}.")
    settings = settings or SETTINGS[size][data]
    settings = settings if lr is None else replace(settings, lr=lr, steerable_lr=lr)
    images, masks, names = pictures(data, "train", settings, seed, root)
    validation = pictures(data, "val", settings, root=root)[:2]
    test = pictures(data, "test", settings, root=root)[:2]
    chosen = torch.linspace(0, len(test[0]) - 1, min(settings.pictures, len(test[0]))).round().long()
    turned = []
    if data == "slides":
        turned = [(test[0][chosen], test[1][chosen])]
        for angle in ANGLES:
            again = pictures(data, "test", settings, root=root, angle=angle)
            turned.append((again[0][chosen], again[1][chosen]))

    out = {}
    for fraction in fractions:
        train = images, masks
        if fraction != 1:
            patients = load(data, "tissue", "train", root=root).patients  # type: ignore[attr-defined]
            kept = nested(patients, fraction, seed)
            train = images[kept], masks[kept]

        def test_once(net: nn.Module, train: tuple[Tensor, Tensor] = train) -> dict[str, Any]:
            metrics = measure(net, *test, len(names)) | {"grid_error": grid_error(net, test[0][chosen])}
            metrics |= fitted(net, "training", train, len(names))
            metrics |= fitted(net, "validation", validation, len(names))
            return metrics | angle_errors(net, turned, len(names)) if turned else metrics

        for arm in arms or known:
            config = asdict(settings) | {"model": arm, "pictures_of_training": len(train[0])}
            config["epochs"] *= 3 if arm in LONG else 1
            config["lr"] = rate(arm, settings)
            del config["steerable_lr"]  # a run has one rate
            config |= {} if fraction == 1 else {"fraction": fraction}
            out[arm if fraction == 1 else f"{arm}, {100 * fraction:g} %"] = runs.one(
                network(arm, len(names), settings, seed, pair), train, validation, config, test_once,
                loss=pair_loss if pair else dice_cross_entropy, score=pair_score if pair else None,
                classes=len(names), schedule=settings.schedule, patience=settings.patience,
                augment=roto_reflections if "+" in arm or pair else None,
            )  # fmt: skip
    return out


# --------------------------------------------------------------------------------------------------
# the page


def stored(data: str, size: str = "small") -> list[dict[str, Any]]:
    """The kept runs on all training pictures, each network at the rate that is best on validation pictures."""
    whole = [run for run in load_runs(NAME, data=data, size=size) if run["config"].get("fraction", 1) == 1]
    return shown(whole)


def shown(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the runs on a set that the page shows: of several rates the best on validation pictures."""
    return at_best_rate(runs, "validation_loss")


def report(results: Sequence[dict[str, Any]]) -> list[str | Table | Picture]:
    """The 2 x 2 table with its equivariance errors, a figure over angles, and the pairs."""
    parts: list[str | Table | Picture] = [
        "+ marks networks that are trained on pictures turned and mirrored by the eight roto-reflections. Plain and "
        "steerable networks have about the same number of weights."
    ]
    for (data, size), runs in grouped(results, "data", "size").items():
        everything, runs = runs, shown(runs)
        where = f"{data}, size {size}"
        by = grouped([run for run in runs if run["config"].get("fraction", 1) == 1], "model")
        on = f"{where}, {seeds_of(*(len(some) for (arm,), some in by.items() if arm not in LONG))}"
        if data in ("pairs", "ocelot"):
            parts += [_pair_table(by, on), *_context(by), *_rates(everything, PAIR_ARMS, where)]
            continue
        if any((arm,) in by for arm in ARMS):
            parts.append(_square(by, on))
        parts += _rates(everything, ARMS, where)
        parts += _longer(everything, where)
        parts += _fewer(runs, data, size)
        if data == "slides":
            parts += [_by_class(by, on), _angles(by, data, size, on)]
    return parts


def _square(by: dict[Any, list[dict[str, Any]]], on: str) -> Table:
    rows = []
    for arm in ARMS:
        if some := by.get((arm,)):
            paper = " / ".join(map(str, PUBLISHED[arm])) if arm in PUBLISHED else "–"
            grid = mean_sd([run["metrics"]["grid_error"] for run in some], 3)
            if max(run["metrics"]["grid_error"] for run in some) < 1e-6:
                grid = "below 1e-6"
            rows.append([
                arm, f"{some[0]['config']['lr']:g}", f"{some[0]['config']['parameters'] / 1000:.1f}K", cell(some, "dice"),
                cell(some, "loss"), grid,
                cell(some, "mean_angle_error"), paper,
            ])  # fmt: skip
    floor = cell([run for runs in by.values() for run in runs][:1], "mean_label_error")
    between = (
        ", between them at 15° to 75° with pictures rendered again. Resampling alone costs "
        f"{floor} between them, measured on the true masks."
        if floor != "–"
        else "; between them photographs cannot be turned without resampling."
    )
    return Table(
        ("network", "rate", "weights", "Dice", "loss", "error on the grid", "error between", "slides: Dice / loss"), rows,
        f"Equivariance and augmentation ({on}). Errors are eq. 10 of the SEUNet paper for the probabilities: on the "
        f"grid at the seven roto-reflections{between} {BEST} The last column has the numbers of the slides, on OCELOT "
        "{cite}`liem2025`.",
    )  # fmt: skip


def _rates(runs: Sequence[dict[str, Any]], arms: Sequence[str], on: str) -> list[str | Table]:
    """What the rate does to each network."""
    columns = (
        Column("loss, training", "training_loss"), Column("loss, validation", "validation_loss"),
        Column("loss, test", "loss"), Column("Dice, test", "dice"),
    )  # fmt: skip
    if (found := rates_of(runs, arms, columns, "validation_loss", on)) is None:
        return []
    best = ", ".join(f"{lr:g} ({arm})" for arm, lr in found.best.items())
    text = f"On validation pictures the best of these rates are {best}."
    kinds = [
        [lr for arm, lr in found.best.items() if arm.startswith("steerable") == kind]
        for kind in (True, False)
    ]
    if all(kinds) and min(kinds[0]) > max(kinds[1]):
        text += (
            " Adam moves every weight by about the rate, so what a rate does depends on how large the weights are. A "
            "steerable layer weighs kernels of unit energy, and its weights are several times as large as a plain "
            "filter's: it wants a higher rate."
        )
    return [found.table, text]


def _longer(runs: Sequence[dict[str, Any]], on: str) -> list[str | Table]:
    """What three times as many steps change."""
    columns = (
        Column("loss, training", "training_loss"), Column("loss, validation", "validation_loss"),
        Column("loss, test", "loss"), Column("Dice, training", "training_dice"), Column("Dice, test", "dice"),
    )  # fmt: skip
    against = [(arm, f"steerable {arm}") for arm in ("U-Net", "U-Net+")]
    gap = Column("loss on validation pictures", "validation_loss")
    return steps_of(runs, ARMS, against, columns, gap, on)


def _fewer(runs: Sequence[dict[str, Any]], data: str, size: str) -> list[str | Table]:
    """The same test after training on fewer patients, and which of plain+ and steerable is ahead where."""
    shares = sorted({run["config"].get("fraction", 1) for run in runs}, reverse=True)
    if len(shares) == 1:
        return []
    by = {
        (arm, share): [
            run for run in runs if (run["config"]["model"], run["config"].get("fraction", 1)) == (arm, share)
        ]
        for arm in (*ARMS, *LONG)
        for share in shares
    }
    arms = [arm for arm in (*ARMS, *LONG) if all(by[arm, share] for share in shares)]
    seeds = {share: {run["seed"] for arm in arms for run in by[arm, share]} for share in shares}
    common = set.intersection(*seeds.values())
    few = {key: [run for run in some if run["seed"] in common] for key, some in by.items()}
    if not arms or not all(few[arm, share] for arm in arms for share in shares):
        return []
    counts = [few[arms[0], share][0]["config"]["pictures_of_training"] for share in shares]
    rows = [
        [
            arm,
            *(cell(few[arm, share], "dice") for share in shares),
            *(cell(few[arm, share], "training_dice") for share in shares),
            *(cell(few[arm, share], "loss") for share in shares),
        ]
        for arm in arms
    ]
    header = [f"{what}, {count}" for what in ("Dice", "Dice, training", "loss") for count in counts]
    return [
        Table(
            ("network", *header), rows,
            f"The same test after training on fewer pictures, whole patients ({data}, size {size}, {seeds_of(len(common))}): "
            f"{', '.join(map(str, counts))} of them. The number of steps is the same. {BEST}",
        ),
        *_lost(few, arms, shares, counts),
    ]  # fmt: skip


def _lost(few: dict[Any, Any], arms: list[str], shares: list[float], counts: list[int]) -> list[str]:
    """Who is ahead on all pictures and on the fewest, and what each network loses between them."""

    def dice(arm: str, share: float) -> float:
        return float(np.mean([run["metrics"]["dice"] for run in few[arm, share]]))

    most, least = shares[0], shares[-1]
    changes = ", ".join(f"{dice(arm, least) - dice(arm, most):+.3f} ({arm})" for arm in arms)
    ahead = []
    for share, count in ((most, counts[0]), (least, counts[-1])):
        best = max(dice(arm, share) for arm in arms)
        ahead.append(f"on {count}: {', '.join(arm for arm in arms if dice(arm, share) > best - 0.005)}")
    return [
        f"From {counts[0]} pictures to {counts[-1]} Dice changes by {changes}. Within 0.005 of the best are {'; '.join(ahead)}."
    ]


def _by_class(by: dict[Any, list[dict[str, Any]]], on: str) -> Table:
    rows = []
    for arm in (arm for arm in ARMS if (arm,) in by):
        values = zip(*(run["metrics"]["dice_of_class"] for run in by[(arm,)]), strict=True)
        rows.append([arm, *(mean_sd(value) for value in values)])
    return Table(
        ("network", *TissueTypes.names_of_classes), rows,
        f"Dice of each class ({on}): what the mean hides, a class of few pixels that a network never answers.",
    )  # fmt: skip


def _pair_table(by: dict[Any, list[dict[str, Any]]], on: str) -> Table:
    rows = [
        [
            arm, f"{by[(arm,)][0]['config']['lr']:g}", f"{by[(arm,)][0]['config']['parameters'] / 1000:.1f}K",
            cell(by[(arm,)], "dice"), cell(by[(arm,)], "loss"),
        ]
        for arm in PAIR_ARMS
        if (arm,) in by
    ]  # fmt: skip
    return Table(
        ("network", "rate", "weights", "Dice", "loss"), rows,
        f"Tumour in the small field, alone and with what a second network says of the field four times as wide ({on}). "
        "All are trained on turned and mirrored pairs. Alone and with context a network has about the same number of "
        f"weights; *narrow* is the second one of the two without the first. {BEST}",
    )  # fmt: skip


def _context(by: dict[Any, list[dict[str, Any]]]) -> list[str]:
    """What the large field brings and what the weights that it takes cost, over the seeds that all three arms have."""
    words = []
    for kind in ("U-Net", "steerable U-Net"):
        dice = [
            {run["seed"]: run["metrics"]["dice"] for run in by.get((f"{kind}{end}",), [])}
            for end in ("", " with context", " narrow")
        ]
        if seeds := set.intersection(*(set(of_arm) for of_arm in dice)):
            wide, context, narrow = ([of_arm[seed] for seed in sorted(seeds)] for of_arm in dice)
            brought, cost = (np.subtract(context, some).tolist() for some in (narrow, wide))
            words.append(
                f"{kind}: {_signed(brought)} beside the narrow network alone, {_signed(cost)} beside one of all the weights"
            )
    if not words:
        return []
    return [f"What context changes in Dice, mean over seeds: {'; '.join(words)}."]


def _signed(values: list[float]) -> str:
    """The mean with its sign, and how many of the values share it: "+0.031 (2 of 3 seeds up)"."""
    up = sum(value > 0 for value in values)
    return f"{np.mean(values):+.3f} ({up} of {len(values)} up)"


def _angles(by: dict[Any, list[dict[str, Any]]], data: str, size: str, on: str) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9")
    for arm, colour, style in zip(ARMS, colours, ("-", "--", "-", "--"), strict=True):
        if some := by.get((arm,)):
            for axes, metric in ((left, "angle_error"), (right, "angle_dice")):
                values = np.mean([run["metrics"][metric] for run in some], 0)
                axes.plot(ANGLES, values, style, marker="o", ms=4, color=colour, label=arm)
    floor = next(iter(by.values()))[0]["metrics"]["label_error"]
    left.plot(ANGLES, floor, ":", color="#767676", label="true masks")
    left.set(xlabel="angle in degrees", ylabel="equivariance error", xticks=ANGLES, ylim=(0, None))
    right.set(xlabel="angle in degrees", ylabel="Dice", xticks=ANGLES)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8
    )
    return Picture(
        f"{data}-{size}", figure,
        "Equivariance error and Dice at angles from 15 to 75 degrees, one line for each of four networks.",
        f"Between the grid's angles, with slides rendered again ({on}): the equivariance error of the probabilities, "
        "beside what resampling alone costs the true masks, and Dice.",
    )  # fmt: skip
