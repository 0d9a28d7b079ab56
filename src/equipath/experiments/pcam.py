"""P4M-DenseNet's experiments: tumour or not in a patch, how steady the answer is, lesions on slides, transfer.

Veeling, Linmans, Winkens et al. 2018 (paper 004). Table 1: six DenseNets by weights, NLL, accuracy and AUC, here
with bootstrap intervals. Section 3.2: the spread of the answer over 32 rotations below 90°. Figure 4: FROC of
lesions, here on vector slides. BreakHis: a field is as malignant as the most suspicious of its random crops.

Choices of ours: intervals by bootstrap over patients, where they are known; in size ``small`` networks with about
a third of the paper's growth, short training with one cycle of the learning rate, and smaller fractions, because
a short training sees no more than 4800 patches; rotated public patches get their corners by mirroring the
patch at its edges, while slides are rendered again; breast slides stand in for BreakHis where it is not at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from equipath.data import load
from equipath.data.slides import Grid, Slide, render_batch
from equipath.equivariance import Rotation
from equipath.experiments.comparisons import BEST, Column, at_best_rate, rates_of, seeds_of, steps_of
from equipath.experiments.results import Picture, Table, cell, grouped, mean_sd
from equipath.experiments.results import load as load_runs
from equipath.experiments.runs import Runs
from equipath.experiments.summary import Claim
from equipath.metrics import (
    SlideFindings,
    accuracy,
    auc,
    bootstrap_interval,
    froc,
    froc_interval,
    nll,
    slide_findings,
)
from equipath.models.densenet import DenseNet, P4DenseNet, P4MDenseNet
from equipath.train import Pairs, in_memory, roto_reflections

NAME = "pcam"
TITLE = "P4M-DenseNet: tumour in patches and on slides"
ARMS = ("P4M-DenseNet", "P4M-DenseNet M", "P4-DenseNet", "DenseNet+", "DenseNet+ M", "DenseNet")
"""The rows of the paper's table 1; + is trained on roto-reflected patches, M has the planar maps of the other kind."""
LONG = ("P4M-DenseNet long", "DenseNet+ long")
"""Three times as many epochs, on all patches: is P4M behind for want of steps? Only made when asked for."""
COMPARED = ("P4M-DenseNet", "DenseNet+", "DenseNet")
"""Trained on every fraction, the others on all patches only."""
CLAIMS = (
    Claim(("pcam", "slides"), "P4M-DenseNet", "DenseNet+", "NLL", "nll", lower=True),
    Claim(("pcam", "slides"), "P4M-DenseNet", "DenseNet+", "AUC in percent", "auc", digits=1, scale=100),
)
RATES_APART = True
"""The page keeps runs of different rates of learning apart (`at_best_rate`)."""
COLOURS = ("#0072B2", "#D55E00", "#767676")
DATA = ("slides", "pcam", "breakhis")
SIDE = 96
MPP = 0.972  # PCam's microns per pixel
MERGE = 37.5  # µm around a tumour that count as lesion in Camelyon16, so that close ones are one
PUBLISHED = {
    "P4M-DenseNet": (0.260, 89.8, 96.3),
    "P4M-DenseNet M": (0.273, 89.3, 95.8),
    "P4-DenseNet": (0.329, 89.0, 94.5),
    "DenseNet+": (0.306, 88.1, 95.1),
    "DenseNet+ M": (0.365, 87.2, 94.6),
    "DenseNet": (0.315, 87.6, 95.5),
}
"""NLL, accuracy and AUC in percent (table 1)."""


@dataclass(frozen=True)
class Settings:
    """What a run does; the defaults are the paper's.

    Attributes:
        growths: of ``ARMS``, in fields for P4 and P4M, in channels otherwise.
        fractions: of the training patches, for ``COMPARED``.
        patients, per_patient: of rendered slides, for training; a third as many for validation, and for the test.
        validation, test: at most so many patches of public sets (None: all).
        rotations, turned: how many rotations below 90°, and of how many test patches.
        fields: breast fields for the transfer, as many for choosing the threshold; ``crops`` of each.
        regions: parts of slides for FROC, of ``region`` pixels a side; half as many for choosing the window.
    """

    growths: tuple[int, ...] = (8, 3, 12, 24, 64, 24)
    fractions: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    patients: int = 256
    per_patient: int = 128
    validation: int | None = None
    test: int | None = None
    epochs: int = 100
    batches: int = 312
    batch: int = 64
    lr: float = 1e-3
    schedule: str = "plateau"
    patience: int = 20
    rotations: int = 32
    turned: int = 256
    fields: int = 64
    crops: int = 1000
    regions: int = 32
    region: int = 1120


SMALL = Settings(
    growths=(3, 1, 4, 8, 24, 8), fractions=(1.0, 1 / 4, 1 / 16, 1 / 64), patients=24, per_patient=16,
    validation=400, test=1500, epochs=5, batches=60, batch=16, lr=0.0015, schedule="onecycle", turned=8, fields=16,
    crops=16, regions=8, region=480,
)  # fmt: skip
"""Growth, length and rate were chosen on validation patches. After 200 steps on PCam (seed 0, 1000 patches, AUC and NLL) a
P4M-DenseNet of growth 2 stood at 85.6 and 0.492, one of growth 3 at 88.1 and 0.463, DenseNet+ of growth 9 at 86.8
and 0.463: two fields a layer are too few. On slides (seed 0, NLL) P4M-DenseNet reaches 0.261, 0.224 and 0.315 at rates of 0.0006,
0.0015 and 0.005, DenseNet+ 0.207 and 0.229 at the last two; on PCam DenseNet+ reaches 0.466 and 0.470 there."""
SETTINGS = {"small": SMALL, "paper": Settings()}


def network(arm: str, settings: Settings, seed: int = 0, dense: bool = False) -> nn.Module:
    """One of ``ARMS`` or ``LONG``, freshly drawn, with one logit a patch."""
    growth = settings.growths[ARMS.index(arm.removesuffix(" long"))]
    kind = P4MDenseNet if arm.startswith("P4M") else P4DenseNet if arm.startswith("P4") else DenseNet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(3, 1, growth, dense=dense)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, 1) and labels (B,)."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))


def patches(
    data: str,
    split: str,
    settings: Settings,
    fraction: float = 1.0,
    seed: int = 0,
    root: str | Path | None = None,
) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, 96, 96) as bytes, labels (N,), and the patient of each.

    ``seed`` draws what a fraction keeps, and on slides who the training patients are; validation and test are the
    same for all seeds.
    """
    options: dict[str, Any] = {}
    if data == "slides":
        patients = settings.patients if split == "train" else max(2, settings.patients // 3)
        options = dict(patients=patients, per_patient=settings.per_patient, size=SIDE, mpp=MPP)
    most = {"train": None, "val": settings.validation, "test": settings.test}[split]
    items = load(data, "tumour", split, fraction, seed if split == "train" else 0, root, **options)
    if data != "slides" and most is not None and most < len(items):  # type: ignore[arg-type]
        items = load(data, "tumour", split, most / len(items), 0, root)  # type: ignore[arg-type]
    return *in_memory(Pairs(items, "label")), items.patients  # type: ignore[attr-defined, return-value]


@torch.no_grad()
def probabilities(net: nn.Module, images: Tensor) -> Tensor:
    """The chance of tumour (N,) for images (N, 3, H, W), bytes or floats, 64 at a time."""
    net.eval()
    parts = [some.float() / 255 if some.dtype == torch.uint8 else some for some in images.split(64)]
    return torch.cat([torch.sigmoid(net(some))[:, 0] for some in parts])


def fitted(net: nn.Module, name: str, pairs: tuple[Tensor, Tensor], most: int = 400) -> dict[str, float]:
    """``NAME_nll`` and ``NAME_auc`` on up to ``most`` patches that are spread over a set: what a network made of
    the patches that it was trained or chosen on, as they are.
    """
    images, labels = pairs
    some = torch.linspace(0, len(images) - 1, min(most, len(images))).round().long()
    p, t = probabilities(net, images[some]).double().numpy(), labels[some].numpy()
    return {f"{name}_nll": nll(p, t), f"{name}_auc": auc(p, t)}


@torch.no_grad()
def variety(net: Any, images: Tensor, most: int = 64) -> dict[str, float]:
    """How different the maps of a network are, on up to ``most`` images (N, 3, H, W) that are spread over a set.

    Returns:
        ``independent``: as how many independent features the maps count that go into the head: the participation
        ratio of the eigenvalues of their correlation matrix, 1 where all tell the same. ``alike``, for P4 and P4M:
        what share of a field's variance all its poses have in common, mean over the fields after the third of five
        steps; 1 where the poses tell nothing apart.
    """
    net.eval()
    some = images[torch.linspace(0, len(images) - 1, min(most, len(images))).round().long()]
    x = net.stem(some.float() / 255 if some.dtype == torch.uint8 else some)
    found = {}
    for number, step in enumerate(net.steps):
        x = step(x)
        if number == 2 and x.dim() == 5:
            common = x.mean(2).var((0, 2, 3), correction=0)
            found["alike"] = float((common / x.var((0, 2, 3, 4), correction=0).clamp_min(1e-12)).mean())
    maps = (x.flatten(1, 2) if x.dim() == 5 else x).double()
    vectors = maps.movedim(1, -1).flatten(0, -2)
    vectors = (vectors - vectors.mean(0)) / vectors.std(0, correction=0).clamp_min(1e-12)
    powers = torch.linalg.eigvalsh(vectors.T @ vectors).clamp_min(0)
    return found | {"independent": float(powers.sum() ** 2 / powers.square().sum())}


def with_interval(
    statistic: Callable[..., float], probability: Tensor, labels: Tensor, patients: Sequence[str]
) -> tuple[float, list[float]]:
    """A statistic and its 95 % interval, by a bootstrap over patients (200 draws)."""
    p, t = probability.double().numpy(), labels.numpy()
    who = np.unique(np.asarray(patients), return_inverse=True)[1]
    theirs = np.split(np.argsort(who, kind="stable"), np.cumsum(np.bincount(who))[:-1])

    def of(drawn: np.ndarray) -> float:
        chosen = np.concatenate([theirs[i] for i in drawn])
        return statistic(p[chosen], t[chosen])

    return statistic(p, t), list(bootstrap_interval(of, np.arange(len(theirs)), resamples=200))


# --------------------------------------------------------------------------------------------------
# a turning patch


def turned_patches(data: str, settings: Settings, root: str | Path | None = None) -> list[Tensor]:
    """Test patches at every rotation below 90°: for each angle (N, 3, 96, 96) floats.

    Slides are rendered again at the angle; public patches are mirrored at their edges and resampled (bicubic).
    """
    angles = [90 * k / settings.rotations for k in range(settings.rotations)]
    if data == "slides":
        patients = max(2, settings.patients // 3)
        each = max(1, settings.turned // patients)
        sets = (
            load(
                "slides",
                "tumour",
                "test",
                patients=patients,
                per_patient=each,
                size=SIDE,
                mpp=MPP,
                angle=angle,
            )
            for angle in angles
        )
        return [in_memory(Pairs(items, "label"))[0][: settings.turned].float() / 255 for items in sets]
    share = min(1.0, settings.turned / len(load(data, "tumour", "test", root=root)))  # type: ignore[arg-type]
    images = in_memory(Pairs(load(data, "tumour", "test", share, 0, root), "label"))[0].float() / 255
    margin = 20  # a turned square of 96 pixels reaches 68 pixels from its centre
    wide = F.pad(images, (margin,) * 4, mode="reflect")
    return [
        Rotation(angle).planar(wide)[..., margin:-margin, margin:-margin].clamp(0, 1).contiguous()
        for angle in angles
    ]


def spread(net: nn.Module, turned: Sequence[Tensor]) -> float:
    """Standard deviation of the probability over the angles, mean over patches."""
    answers = torch.stack([probabilities(net, images) for images in turned])
    return float(answers.std(0, correction=0).mean())


# --------------------------------------------------------------------------------------------------
# lesions on slides


def regions(split: str, count: int, side: int) -> list[tuple[Tensor, np.ndarray]]:
    """Parts of lymph node slides of the vector kind: images (3, side, side) and lesion maps (side, side), 0 or 1 … L.

    As in Camelyon16 tumour grows by 37.5 µm before it is parted into lesions. Places are drawn on the tissue.
    """
    items = load("slides", "tumour", split, seed=1, patients=count, per_patient=1, size=SIDE, mpp=MPP)
    pairs = []
    for k, (_, centre) in enumerate(items._places):  # type: ignore[attr-defined]
        away = np.random.default_rng([k, 5]).uniform(-0.3, 0.3, 2) * side * MPP
        centre = (centre[0] + away[0], centre[1] + away[1])
        pairs.append((items.slides[k], Grid(centre, (side, side), MPP)))  # type: ignore[attr-defined]
    found = []
    for view in render_batch(pairs):
        near = ndimage.distance_transform_edt(~view.tumour.numpy()) < MERGE / MPP
        if not view.tumour.any():
            near[:] = False
        found.append((view.image, ndimage.label(near)[0]))
    return found


@torch.no_grad()
def tumour_map(net: nn.Module, image: Tensor) -> np.ndarray:
    """Probabilities (h, w), one every 32 pixels, of an image (3, H, W): entry (i, j) is of the patch at (32 i, 32 j)."""
    net.eval()
    dense = net.dense
    net.dense = True  # type: ignore[assignment]
    try:
        return torch.sigmoid(net(image[None]))[0, 0].numpy()
    finally:
        net.dense = dense


def findings(score: np.ndarray, lesions: np.ndarray, window: int) -> SlideFindings:
    """Candidates are the maxima of square windows (non-maximum suppression), matched with the lesions."""
    rows, columns = np.nonzero(score == ndimage.maximum_filter(score, window, mode="nearest"))
    middle = SIDE // 2
    seen = np.zeros_like(lesions)  # only lesions that some patch is centred near can be found
    edge = SIDE // 3
    seen[edge : edge + 32 * score.shape[0], edge : edge + 32 * score.shape[1]] = 1
    return slide_findings(32 * rows + middle, 32 * columns + middle, score[rows, columns], lesions * seen)


def lesion_score(net: nn.Module, validation: list[Any], test: list[Any]) -> dict[str, Any]:
    """The FROC score on test regions with its interval; the window is chosen on the validation regions."""

    def of(maps: list[Any], places: list[Any], window: int) -> list[SlideFindings]:
        return [findings(m, lesions, window) for m, (_, lesions) in zip(maps, places, strict=True)]

    maps = [tumour_map(net, image) for image, _ in validation]
    window = max((3, 5, 7), key=lambda w: froc(of(maps, validation, w)).score)
    found = of([tumour_map(net, image) for image, _ in test], test, window)
    curve = froc(found)
    return {"froc": curve.score, "froc_interval": list(froc_interval(found)), "froc_window": window}


# --------------------------------------------------------------------------------------------------
# transfer to another tissue


def fields(
    data: str, split: str, settings: Settings, root: str | Path | None = None
) -> tuple[list[Tensor], Tensor]:
    """Fields of breast tissue, floats (3, H, W), and whether they are malignant (N,).

    BreakHis's own at 40x, brought to PCam's microns per pixel; or slides, where a field is malignant if tumour
    covers more than a twentieth of it.
    """
    if data == "breakhis":
        items = load(data, "tumour", split, root=root)
        images, labels = [], []
        for item in (items[i] for i in range(len(items))):  # type: ignore[arg-type]
            images.append(
                F.interpolate(
                    item["image"][None], scale_factor=item["mpp"] / MPP, mode="bilinear", antialias=True,
                    align_corners=False,
                )[0]
            )  # fmt: skip
            labels.append(item["label"])
        return images, torch.tensor(labels)
    first = 70_000 if split == "val" else 80_000
    pairs = []
    for k in range(4 * settings.fields):
        slide = Slide(first + k, "breast")
        x0, y0, x1, y1 = slide.extent
        place = np.random.default_rng(first + k).uniform((0.6 * x0, 0.6 * y0), (0.6 * x1, 0.6 * y1))
        pairs.append((slide, Grid((float(place[0]), float(place[1])), (224, 224), MPP)))
    views = render_batch(pairs)
    kinds = [float(view.tumour.float().mean()) for view in views]
    half = settings.fields // 2
    ill = [k for k, share in enumerate(kinds) if share > 0.05][:half]
    well = [k for k, share in enumerate(kinds) if share == 0][:half]
    return [views[k].image for k in ill + well], torch.tensor([1] * len(ill) + [0] * len(well))


def most_suspicious(net: nn.Module, image: Tensor, crops: int, seed: int = 0) -> float:
    """The largest probability over random crops of 96 pixels of an image (3, H, W)."""
    chance = torch.Generator().manual_seed(seed)
    height, width = image.shape[-2:]
    if min(height, width) < SIDE:
        raise ValueError(f"a field of {height} x {width} pixels has no crop of {SIDE} pixels.")
    tops = torch.randint(height - SIDE + 1, (crops,), generator=chance).tolist()
    lefts = torch.randint(width - SIDE + 1, (crops,), generator=chance).tolist()
    cut = [image[:, top : top + SIDE, left : left + SIDE] for top, left in zip(tops, lefts, strict=True)]
    return float(probabilities(net, torch.stack(cut)).max())


def transfer(net: nn.Module, validation: Any, test: Any, crops: int) -> dict[str, float]:
    """Accuracy and AUC on test fields; the threshold is the one that is right most often on validation fields."""
    tuned, score = (
        np.array([most_suspicious(net, image, crops, k) for k, image in enumerate(images)])
        for images, _ in (validation, test)
    )
    places = np.unique(tuned)
    thresholds = [0.0, *((places[1:] + places[:-1]) / 2), 1.0]
    right = [float(((tuned > threshold) == validation[1].numpy()).mean()) for threshold in thresholds]
    best = thresholds[int(np.argmax(right))]
    labels = test[1].numpy()
    return {"transfer_accuracy": float(((score > best) == labels).mean()), "transfer_auc": auc(score, labels)}


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
    arms: Sequence[str] = ARMS,
    fractions: Sequence[float] | None = None,
    lr: float | None = None,
    settings: Settings | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Train every arm, test it once, save one result each.

    Args:
        data: "slides" (all measures), "pcam" (patches and their stability, on four fractions of the training
            set), "breakhis" (trained on PCam, tested on BreakHis).
        size: "small" (minutes on two cores) or "paper".
        folder: checkpoints of the training, one folder an arm and fraction: a run that was stopped goes on there.
        root: folder of the data sets.
        arms: some of ``ARMS`` and ``LONG``.
        fractions: of PCam's training patches, some of those of the settings; all by default.
        lr: in place of the rate of the settings; the page shows each network at the rate that is best on validation.
        settings: in place of those of ``size``.
        results: where the JSONs go; `book/results` by default.

    Returns:
        {"arm, percent": metrics}.
    """
    runs = Runs(NAME, data, size, seed, folder, progress, results, lr)
    runs.check(DATA, arms, (*ARMS, *LONG))
    if data != "pcam" and fractions:
        raise ValueError(f"pcam cuts PCam's training patches alone; leave the fractions out on {data}.")
    settings = settings or SETTINGS[size]
    settings = settings if lr is None else replace(settings, lr=lr)
    shares = (fractions or settings.fractions) if data == "pcam" else (1.0,)
    if 1 not in shares and not set(arms) & set(COMPARED):
        raise ValueError(f"parts of the training set are for {', '.join(COMPARED)}; got {', '.join(arms)}.")
    source = "pcam" if data == "breakhis" else data
    validation = patches(source, "val", settings, root=root)[:2]
    measures = _measures(data, settings, root)
    out = {}
    for fraction in shares:
        train = patches(source, "train", settings, fraction, seed, root)[:2]

        def test_once(net: nn.Module, train: tuple[Tensor, Tensor] = train) -> dict[str, Any]:
            metrics: dict[str, Any] = fitted(net, "training", train) | fitted(net, "validation", validation)
            metrics |= variety(net, validation[0])
            for measure in measures:
                metrics |= measure(net)
            return metrics

        for arm in [arm for arm in arms if fraction == 1 or arm in COMPARED]:
            config = asdict(settings) | {"model": arm, "fraction": fraction, "patches": len(train[0])}
            config["epochs"] *= 3 if arm in LONG else 1
            out[f"{arm}, {100 * fraction:.3g} %"] = runs.one(
                network(arm, settings, seed), train, validation, config, test_once, source=source, loss=loss,
                schedule=settings.schedule, patience=settings.patience, classes=2,
                augment=roto_reflections if "+" in arm else None,
            )  # fmt: skip
    return out


def _measures(
    data: str, settings: Settings, root: str | Path | None
) -> list[Callable[[nn.Module], dict[str, Any]]]:
    """What is asked of a trained network, with the pictures that it takes."""
    if data == "breakhis":
        tuned, tested = (fields(data, split, settings, root) for split in ("val", "test"))
        return [lambda net: transfer(net, tuned, tested, settings.crops)]
    images, labels, patients = patches(data, "test", settings, root=root)
    turned = turned_patches(data, settings, root)

    def classify(net: nn.Module) -> dict[str, Any]:
        p = probabilities(net, images)
        found: dict[str, Any] = {}
        for name, statistic in (("nll", nll), ("accuracy", accuracy), ("auc", auc)):
            found[name], found[f"{name}_interval"] = with_interval(statistic, p, labels, patients)
        return found | {"spread": spread(net, turned)}

    if data == "pcam":
        return [classify]
    few = regions("val", max(2, settings.regions // 2), settings.region)
    many = regions("test", settings.regions, settings.region)
    tuned, tested = (fields(data, split, settings) for split in ("val", "test"))
    return [
        classify,
        lambda net: lesion_score(net, few, many),
        lambda net: transfer(net, tuned, tested, settings.crops),
    ]


# --------------------------------------------------------------------------------------------------
# the page


def stored(data: str, size: str = "small") -> list[dict[str, Any]]:
    """The kept runs on all training patches, each network at the rate that is best on validation patches."""
    whole = [run for run in load_runs(NAME, data=data, size=size) if run["config"]["fraction"] == 1]
    return shown(whole)


def shown(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the runs on a set that the page shows: of several rates the best on validation patches."""
    return at_best_rate(runs, "validation_nll")


def report(results: Sequence[dict[str, Any]]) -> list[str | Table | Picture]:
    """Table 1 and the rotations for each data set, fractions where there are some, lesions and transfer."""
    parts: list[str | Table | Picture] = [
        "+ marks networks that are trained on turned and mirrored patches. P4M-DenseNet, P4-DenseNet and DenseNet have "
        "about the same number of weights; M marks networks that match the number of planar maps in place of it."
    ]
    for (data, size), runs in grouped(results, "data", "size").items():
        everything, runs = runs, shown(runs)
        where = f"{data}, size {size}"
        whole = grouped([run for run in runs if run["config"]["fraction"] == 1], "model")
        arms = [arm for arm in ARMS if (arm,) in whole]
        on = f"{where}, {seeds_of(*(len(whole[(arm,)]) for arm in arms))}"
        if data != "breakhis":
            parts.append(_patches(whole, arms, on, data))
            parts += _fitting(whole, arms, on)
            parts += _rates(everything, where)
            parts += _longer(everything, where)
        lesser = grouped(runs, "model", "fraction")
        if len({run["config"]["fraction"] for run in runs}) > 1:
            parts += _fractions(lesser, data, size)
        if data != "pcam":
            parts.append(_slides(whole, arms, on))
    return parts


def _interval(runs: Sequence[dict[str, Any]], metric: str, digits: int, scale: float = 1.0) -> str:
    """The mean over seeds of both ends of an interval: "0.91 to 0.95"."""
    ends = np.array([run["metrics"][metric] for run in runs], dtype=float).mean(0) * scale
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def _patches(whole: dict[Any, list[dict[str, Any]]], arms: list[str], on: str, data: str) -> Table:
    rows = []
    config = whole[(arms[0],)][0]["config"]
    seen = config["epochs"] * config["batches"] * config["batch"]
    interval = "The interval is a bootstrap over test patients, its ends averaged over the seeds."
    if data == "pcam":
        interval = (
            "The interval is a bootstrap over test patches, its ends averaged over the seeds; PCam does not tell which "
            "patches are of one slide, so it is too narrow."
        )
    for arm in arms:
        some = whole[(arm,)]
        rows.append([
            arm, f"{some[0]['config']['lr']:g}", f"{some[0]['config']['parameters'] / 1000:.1f}K", cell(some, "nll"),
            cell(some, "accuracy", 1, 100), cell(some, "auc", 1, 100), _interval(some, "auc_interval", 1, 100),
            cell(some, "spread"), " / ".join(map(str, PUBLISHED[arm])),
        ])  # fmt: skip
    return Table(
        ("network", "rate", "weights", "NLL", "accuracy", "AUC", "95 % of AUC", "spread", "paper"), rows,
        f"Tumour or not in a patch ({on}); accuracy and AUC in percent. {BEST} "
        f"A training sees {seen:,} patches. {interval} Spread: "
        f"standard deviation of the probability over {config['rotations']} rotations below 90°, mean over "
        f"{config['turned']} patches. The last column has the paper's NLL / accuracy / AUC on the whole of PCam "
        "{cite}`veeling2018`.",
    )  # fmt: skip


def _fitting(whole: dict[Any, list[dict[str, Any]]], arms: list[str], on: str) -> list[str | Table]:
    """NLL on training, validation and test patches, and what follows for P4M-DenseNet against DenseNet+."""
    names = ("training_nll", "validation_nll", "nll")
    if any(name not in run["metrics"] for arm in arms for run in whole[(arm,)] for name in names):
        return []
    rows = []
    for arm in arms:
        config = whole[(arm,)][0]["config"]
        growth, poses = config["growths"][ARMS.index(arm)], {"P4M": 8, "P4-": 4}.get(arm[:3], 1)
        adds = f"{growth} channels" if poses == 1 else f"{growth} field{'s' * (growth > 1)} of {poses} maps"
        rows.append([arm, f"{config['lr']:g}", adds, *(cell(whole[(arm,)], name) for name in names)])
    table = Table(
        ("network", "rate", "a layer adds", "NLL, training", "NLL, validation", "NLL, test"), rows,
        f"What the networks made of the patches that they were trained on, chosen on and tested on ({on}); 400 of the first two "
        "each, as they are.",
    )  # fmt: skip
    if not {"P4M-DenseNet", "DenseNet+"} <= set(arms):
        return [table]
    ours, plain = whole[("P4M-DenseNet",)], whole[("DenseNet+",)]
    training, _, test = (
        np.mean([run["metrics"][name] for run in ours]) - np.mean([run["metrics"][name] for run in plain])
        for name in names
    )

    def apart(gap: float) -> str:
        return f"{abs(gap):.3f} {'higher' if gap > 0 else 'lower'}"

    text = (
        f"P4M-DenseNet's NLL is {apart(training)} than DenseNet+'s on the training patches and {apart(test)} on the "
        f"test patches; from the ones to the others it changes by {_rise(ours):+.3f}, DenseNet+'s by {_rise(plain):+.3f}."
    )
    config = ours[0]["config"]
    if all(gap > 0 for name in ("training_nll", "nll") for gap in _gaps(ours, plain, name)):
        text += (
            " It is behind where it was trained, before anything is said of other patients: it has learned less. It could "
            f"do as well as a plain network of {config['growths'][0]} channels a layer, averaged over the eight copies of a "
            "patch: that is one of the functions that its weights can be."
        )
    if config["epochs"] * config["batches"] * config["batch"] <= config["patches"]:
        text += (
            f" And hardly a patch of {config['patches']:,} comes twice in a training of this length. So there is little to "
            "learn by heart, and to need fewer examples, which is what a symmetry is good for, is of little use."
        )
    return [table, text]


def _gaps(ours: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]], name: str) -> list[float]:
    """By how much a metric of ours is higher, on each seed that both have."""
    theirs = {run["seed"]: run["metrics"][name] for run in plain}
    return [run["metrics"][name] - theirs[run["seed"]] for run in ours if run["seed"] in theirs]


def _rates(runs: Sequence[dict[str, Any]], on: str) -> list[str | Table]:
    """What the rate does to P4M-DenseNet and to DenseNet+."""
    ours, plain = COMPARED[:2]
    columns = (
        Column("NLL, training", "training_nll"), Column("NLL, validation", "validation_nll"), Column("NLL, test", "nll"),
        Column("AUC", "auc", 1, 100), Column("poses alike", "alike", 2), Column("features", "independent", 1),
    )  # fmt: skip
    found = rates_of(
        runs, (ours, plain), columns, "validation_nll", on,
        " Poses alike: what share of a field's variance its eight poses have in common, after the third of five steps. "
        "Features: as how many independent ones the maps count that the head sees (participation ratio).",
    )  # fmt: skip
    if found is None:
        return []
    rates = {arm: [lr for its, lr in found.runs if its == arm] for arm in found.best}
    if set(rates) != {ours, plain} or rates[ours] != rates[plain]:
        return [found.table]
    low, high = rates[ours][0], rates[ours][-1]
    gained = {
        arm: found.mean(arm, high, "validation_nll") - found.mean(arm, low, "validation_nll") for arm in rates
    }
    text = (
        f"From a rate of {high:g} to {low:g} the NLL on validation patches changes by {-gained[ours]:+.3f} for {ours} "
        f"and by {-gained[plain]:+.3f} for {plain}."
    )
    told = " and ".join(f"{found.mean(arm, lr, 'nll'):.3f} ({arm}, {lr:g})" for arm, lr in found.best.items())
    text += f" Each at the rate that is best for it on validation patches, the test has {told}."
    every = _gaps(found.runs[ours, high], found.runs[ours, low], "validation_nll")
    if found.best[ours] == low and min(every) > 0 and gained[ours] > gained[plain]:
        text += (
            f" {ours} wants a lower rate, and there is a reason that fits, which so few runs do not prove. "
            "Adam moves every weight by about the rate, whatever its gradient. "
            "A p4m filter has eight weights for each one of a plain filter, each √8 times smaller at first, so that their sum "
            "comes out as large. The eight move together for what looks the same in all poses: that part of the filter "
            "changes eight times as fast as a plain filter of as many fields."
        )
        alike = [[run["metrics"].get("alike") for run in found.runs[ours, lr]] for lr in (high, low)]
        if all(all(values) for values in alike) and np.mean(alike[0]) > np.mean(alike[1]) + 0.05:
            text += " At the higher rate little else is left: the poses come out more alike, and the group is wasted."
    return [found.table, text]


def _longer(runs: Sequence[dict[str, Any]], on: str) -> list[str | Table]:
    """What three times as many steps change for P4M-DenseNet and DenseNet+."""
    columns = (
        Column("NLL, training", "training_nll"), Column("NLL, validation", "validation_nll"), Column("NLL, test", "nll"),
        Column("AUC", "auc", 1, 100),
    )  # fmt: skip
    ours, plain = COMPARED[:2]
    gap = Column("NLL on validation patches", "validation_nll")
    return steps_of(runs, (ours, plain), [(plain, ours)], columns, gap, on)


def _rise(runs: Sequence[dict[str, Any]]) -> float:
    """Mean NLL on test patches less that on training patches."""
    return float(np.mean([run["metrics"]["nll"] - run["metrics"]["training_nll"] for run in runs]))


def _fractions(by: dict[Any, list[dict[str, Any]]], data: str, size: str) -> list[str | Table | Picture]:
    from matplotlib.figure import Figure

    shares = sorted({fraction for arm, fraction in by if arm in COMPARED}, reverse=True)
    runs_of = [len(some) for (arm, _), some in by.items() if arm in COMPARED]
    on = f"{data}, size {size}, {seeds_of(*runs_of)}"
    known = [next(by[(arm, share)] for arm in COMPARED if (arm, share) in by) for share in shares]
    counts = [runs[0]["config"]["patches"] for runs in known]
    rows, said = [], []
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    panels = figure.subplots(1, 2)
    for arm, colour, mark in zip(COMPARED, COLOURS, "Dos", strict=True):
        some = [by.get((arm, share), []) for share in shares]
        if not any(some):
            continue
        rows += [[f"{arm}, AUC", *(cell(few, "auc", 1, 100) for few in some)]]
        rows += [[f"{arm}, NLL", *(cell(few, "nll") for few in some)]]
        if all("training_nll" in run["metrics"] for few in some for run in few):
            rows += [[f"{arm}, NLL on its training patches", *(cell(few, "training_nll") for few in some)]]
        areas = [100 * np.mean([run["metrics"]["auc"] for run in few]) for few in some if few]
        said.append(f"{arm} {', '.join(f'{area:.0f}' for area in areas)}")
        for axes, metric, label in zip(panels, ("auc", "nll"), ("AUC", "NLL"), strict=True):
            values = [[run["metrics"][metric] for run in few] for few in some]
            axes.plot(counts, [np.mean(v) if v else np.nan for v in values], color=colour, label=arm)
            for count, several in zip(counts, values, strict=True):
                axes.plot([count] * len(several), several, mark, ms=4, color=colour, alpha=0.6)
            axes.set_xscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
            axes.set(xlabel="training patches", ylabel=label)
    panels[0].legend(frameon=False)
    return [
        Table(
            ("network", *(f"{count} patches" for count in counts)), rows,
            f"The same test after training on fewer patches ({on}); AUC in percent. {BEST}",
        ),
        *_scarce({arm: [by.get((arm, share), []) for share in (shares[0], shares[-1])] for arm in COMPARED}, counts[-1]),
        Picture(
            f"{data}-{size}", figure,
            f"AUC and NLL against the number of training patches. AUC in percent from {counts[0]} patches downwards: "
            f"{'; '.join(said)}.",
            f"AUC and NLL by the number of training patches ({on}); dots are single seeds, lines their means.",
        ),
    ]  # fmt: skip


def _scarce(few: dict[str, list[list[dict[str, Any]]]], count: int) -> list[str]:
    """Who is ahead on the fewest patches, and how much of that was learnt by heart, against all patches.

    ``few``: the runs of each network on all patches and on ``count`` of them.
    """
    if any("training_nll" not in run["metrics"] for pair in few.values() for some in pair for run in some):
        return []
    if not all(some for pair in few.values() for some in pair):
        return []
    rises = ", ".join(f"{_rise(least):+.3f} ({arm})" for arm, (_, least) in few.items())
    text = f"On {count} patches the NLL rises from training to test patches by {rises}."
    best = [min(few, key=lambda arm: np.mean([run["metrics"]["nll"] for run in few[arm][k]])) for k in (0, 1)]
    if best[1] == "P4M-DenseNet" != best[0] and min(few, key=lambda arm: _rise(few[arm][1])) == best[1]:
        text += (
            " There P4M-DenseNet answers the test best and learns least by heart: the symmetry pays where patches are "
            "few and come often, and not where every patch is new."
        )
    return [text]


def _slides(whole: dict[Any, list[dict[str, Any]]], arms: list[str], on: str) -> Table:
    rows = []
    config = whole[(arms[0],)][0]["config"]
    for arm in arms:
        some = whole[(arm,)]
        lesions = ["–", "–"]
        if "froc" in some[0]["metrics"]:
            lesions = [cell(some, "froc"), _interval(some, "froc_interval", 2)]
        values = ([run["metrics"][name] for run in some] for name in ("transfer_accuracy", "transfer_auc"))
        rows.append(
            [arm, f"{some[0]['config']['lr']:g}", *lesions, *(mean_sd(value, 1, 100) for value in values)]
        )
    return Table(
        ("network", "rate", "FROC score", "95 % of it", "breast, accuracy", "breast, AUC"), rows,
        f"Lesions in {config['regions']} parts of slides (mean sensitivity at 1/4 … 8 false positives a part), and "
        f"{config['fields']} fields of breast tissue, which no network was trained on, by the most suspicious of "
        f"{config['crops']} random crops ({on}). The paper reports "
        "an accuracy of 96.1 ± 3.2 for P4M-DenseNet and 93.5 ± 4.7 for DenseNet+ on BreakHis {cite}`veeling2018`.",
    )  # fmt: skip
