"""GU-Net's experiment: how much fewer labelled pictures an equivariant U-Net needs, and how it answers a turned one.

Linmans, Winkens et al. 2018 (paper 003, table 1 and figure 2). A U-Net trained with roto-reflected pictures
(U-Net+), the same network averaged over the eight roto-reflections when it is asked (TTA), a P4 and a P4M U-Net
of equal weights, each on 100, 50, 25 and 12.5 % of the training patients.

Choices of ours: Dice + cross-entropy as the loss (the paper names none); Dice over all test pixels together. In
size ``small`` pictures are averaged down to 32 pixels, with 2x2 pooling, two levels and one cycle of the
learning rate. The paper's 320 pixels are 321 here, the next size at which its 3x3 pooling is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.data import load, nested
from equipath.equivariance import stability_map
from equipath.experiments.comparisons import seeds_of
from equipath.experiments.results import Picture, Table, cell, grouped
from equipath.experiments.runs import Runs
from equipath.experiments.summary import Claim
from equipath.losses import dice_cross_entropy
from equipath.metrics import dice_score, iou
from equipath.models.gunet import GUNet
from equipath.models.unet import UNet
from equipath.train import Pairs, in_memory, roto_reflections

NAME = "gunet"
TITLE = "GU-Net: fewer labelled pictures"
ARMS = ("U-Net+", "P4 U-Net", "P4M U-Net", "U-Net+ long")
"""long: three times as many epochs, because a P4M step takes about three times as long as a plain one."""
TTA = "U-Net+ averaged"
CLAIMS = tuple(
    Claim(("ebhi", "slides"), "P4M U-Net", plain, "Dice in percent", "dice", digits=1, scale=100)
    for plain in ("U-Net+", "U-Net+ long")
)
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
TASKS = {"slides": "tumour", "ebhi": "tissue", "camelyon16": "tumour"}
PUBLISHED = {
    "U-Net+": {1.0: 79.8, 0.5: 78.5, 0.25: 77.6, 0.125: 74.2},
    "P4 U-Net": {1.0: 82.5},
    "P4M U-Net": {1.0: 83.7, 0.5: 82.1, 0.25: 81.6, 0.125: 79.6},
}
"""Dice in percent on PCam's 320² pictures (table 1 and the text below it)."""
COLOURS = {
    "U-Net+ long": "#CC79A7",
    "U-Net+": "#D55E00",
    TTA: "#E69F00",
    "P4 U-Net": "#56B4E9",
    "P4M U-Net": "#0072B2",
}


@dataclass(frozen=True)
class Settings:
    """What a run does; the defaults are the paper's.

    Attributes:
        widths: first block of the U-Net in channels, of P4 and P4M in fields; chosen for equal weights.
        lrs: Adam's rate for U-Net+, P4 and P4M.
        side: pixels of a picture as the network sees it.
        shrink: public pictures are cut to the central ``side * shrink`` pixels and averaged down.
        patients, per_patient, mpp: of rendered slides, for training; a third as many for validation, and for
            the test.
        pictures: patches drawn from Camelyon16's training slides, an eighth as many from the others. They lie in memory
            with 3 bytes a pixel, their masks with 8: 28 GB, and as much as 23 GB more for what a fraction keeps
            (the paper has 240 000).
        stability: on how many test pictures the standard deviation is taken (None: all).
    """

    widths: tuple[int, int, int] = (16, 8, 6)
    lrs: tuple[float, float, float] = (1e-3, 1e-3, 1e-3)
    depth: int = 4
    pooling: int = 3
    side: int = 321
    shrink: int = 1
    patients: int = 64
    per_patient: int = 32
    mpp: float = 0.972
    pictures: int = 20_000
    epochs: int = 100
    batches: int = 468
    batch: int = 64
    schedule: str = "plateau"
    patience: int = 20
    stability: int | None = None


SMALL = Settings(
    widths=(8, 4, 3), lrs=(0.02, 0.005, 0.005), depth=2, pooling=2, side=32, shrink=7, patients=18, per_patient=16,
    mpp=3.0, epochs=8, batches=20, batch=8, schedule="onecycle", stability=24,
)  # fmt: skip
"""Rates and widths were chosen on EBHI's validation pictures. A P4M U-Net of two fields lost half of them at a rate
of 0.02, for good: its ReLUs never opened again. With three fields and a lower rate none was lost. The plain U-Net
takes either rate."""
SLIDES = Settings(**asdict(SMALL) | {"lrs": (0.05, 0.002, 0.005)})
"""Rates chosen on validation slides (seed 0). Losses of U-Net+ at 0.007, 0.02 and 0.05: 0.676, 0.675, 0.616; at 0.002, 0.005 and
0.015 of P4 U-Net 0.762, 0.773, 0.804 and of P4M U-Net 0.797, 0.667, 0.742."""
SETTINGS: dict[str, dict[str, Settings]] = {
    "small": {"slides": SLIDES, "ebhi": SMALL, "camelyon16": SMALL},
    "paper": {
        "slides": Settings(),
        "ebhi": Settings(**asdict(Settings()) | {"side": 209}),
        "camelyon16": Settings(),
    },
}


def _kind(arm: str) -> int:
    return ("U-Net+", "P4 U-Net", "P4M U-Net").index(arm.removesuffix(" long"))


def network(arm: str, settings: Settings, seed: int = 0) -> nn.Module:
    """One of ``ARMS``, freshly drawn, with one logit a pixel."""
    width = settings.widths[_kind(arm)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arm.startswith("U-Net+"):
            return UNet(3, 1, width, settings.depth, pooling=settings.pooling)
        group = "p4" if arm == "P4 U-Net" else "p4m"
        return GUNet(3, 1, width, settings.depth, group=group, pooling=settings.pooling)


def pictures(
    data: str, split: str, settings: Settings, seed: int = 0, root: str | Path | None = None
) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, side, side) as bytes, masks (N, side, side) of 0 and 1, and the patient of each.

    On slides ``seed`` draws who the training patients are; validation and test are the same for all seeds.
    """
    options: dict[str, Any] = {}
    cut = settings.side * settings.shrink
    if data == "slides":
        patients = settings.patients if split == "train" else max(2, settings.patients // 3)
        options = dict(
            patients=patients, per_patient=settings.per_patient, size=settings.side, mpp=settings.mpp
        )
        cut = settings.side
    elif data == "camelyon16":
        options = dict(patches=settings.pictures if split == "train" else settings.pictures // 8, size=cut)
    items: Any = load(data, TASKS[data], split, seed=seed if split == "train" else 0, root=root, **options)
    images, masks = in_memory(Pairs(items, "mask", cut))
    step = cut // settings.side
    if step > 1:
        images = F.avg_pool2d(images.float(), step).round().to(torch.uint8)
        masks = (F.avg_pool2d(masks[:, None].float(), step)[:, 0] >= 0.5).long()
    return images, masks, items.patients


@torch.no_grad()
def measure(net: nn.Module, images: Tensor, masks: Tensor, stability: int | None = None) -> dict[str, float]:
    """Dice of the foreground and of the background, IoU, and the spread over the eight roto-reflections.

    Args:
        images: (N, 3, H, H), bytes or floats.
        masks: (N, H, H) of 0 and 1.
        stability: the spread is taken on so many pictures, which are spread over the set.

    Returns:
        ``dice``, ``background_dice``, ``iou`` over all pixels together; ``averaged_dice`` and ``averaged_iou`` of
        the probabilities' mean over the eight copies, if all pictures were turned (``stability=None``); ``spread``,
        the standard deviation of the probability over the eight, averaged over pixels.
    """

    def floats(some: Tensor) -> Tensor:
        return some.float() / 255 if some.dtype == torch.uint8 else some

    net.eval()
    probability = torch.cat([torch.sigmoid(net(floats(some))) for some in images.split(32)])[:, 0]
    out = _overlap(probability, masks)
    chosen = torch.arange(len(images))
    if stability is not None and stability < len(images):
        chosen = torch.linspace(0, len(images) - 1, stability).round().long()
    turned = [
        stability_map(net, floats(images[some]), "p4m", activation=torch.sigmoid) for some in chosen.split(32)
    ]
    out["spread"] = float(torch.cat([deviation for _, deviation in turned]).mean())
    if len(chosen) == len(images):
        averaged = _overlap(torch.cat([mean for mean, _ in turned])[:, 0], masks)
        out |= {f"averaged_{name}": value for name, value in averaged.items()}
    return out


def _overlap(probability: Tensor, masks: Tensor) -> dict[str, float]:
    found = probability > 0.5
    return {
        "dice": dice_score(found, masks),
        "background_dice": dice_score(~found, 1 - masks),
        "iou": iou(found, masks),
    }


def run(
    data: str = "slides",
    size: str = "small",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    *,
    root: str | Path | None = None,
    arms: Sequence[str] = ARMS,
    fractions: Sequence[float] = FRACTIONS,
    settings: Settings | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Train every arm on every fraction, test each once, save one result each.

    Args:
        data: "slides" (tumour in lymph nodes), "ebhi" (glands and lesions of the colon), "camelyon16" (the
            paper's, from the slides that are there).
        size: "small" (minutes on two cores) or "paper".
        folder: checkpoints of the training, one folder an arm and fraction: a run that was stopped goes on there.
        root: folder of the data sets.
        arms, fractions: some of ``ARMS`` and ``FRACTIONS``.
        settings: in place of those of ``size``.
        results: where the JSONs go; `book/results` by default.

    Returns:
        {"arm, percent": metrics}.
    """
    runs = Runs(NAME, data, size, seed, folder, progress, results)
    runs.check(TASKS, arms, ARMS)
    settings = settings or SETTINGS[size][data]
    images, masks, patients = pictures(data, "train", settings, seed, root)
    validation = pictures(data, "val", settings, root=root)[:2]
    test = pictures(data, "test", settings, root=root)[:2]
    out = {}
    for fraction in fractions:
        kept = nested(patients, fraction, seed)
        train = images[kept], masks[kept]
        for arm in arms:
            plain = arm.startswith("U-Net+")
            config = asdict(settings) | {
                "model": arm,
                "fraction": fraction,
                "lr": settings.lrs[_kind(arm)],
                "epochs": settings.epochs * (3 if arm.endswith("long") else 1),
            }

            def test_once(
                net: nn.Module, plain: bool = plain, pictures: int = len(train[0])
            ) -> dict[str, Any]:
                stability = None if plain else settings.stability
                return measure(net, *test, stability=stability) | {"pictures": pictures}

            out[f"{arm}, {100 * fraction:g} %"] = runs.one(
                network(arm, settings, seed), train, validation, config, test_once, loss=dice_cross_entropy,
                schedule=settings.schedule, patience=settings.patience, classes=2,
                augment=roto_reflections if plain else None,
            )  # fmt: skip
    return out


# --------------------------------------------------------------------------------------------------
# the page


def report(results: Sequence[dict[str, Any]]) -> list[str | Table | Picture]:
    """Tables of Dice and of the spread over roto-reflections, and a figure, for each data set and size."""
    parts: list[str | Table | Picture] = [
        "U-Net+ is trained on pictures that are turned and mirrored at random; *averaged* is the same network, asked "
        "about all eight copies of a picture, and *long* is trained for three times as many epochs, since a P4M step takes "
        "about three times as long. P4 and P4M U-Nets see the training pictures as they are. All have about "
        "the same number of weights. A fraction keeps whole patients."
    ]
    for (data, size), runs in grouped(results, "data", "size").items():
        parts += _of_one(runs, data, size)
    return parts


def _longest(runs: list[dict[str, Any]], fraction: float) -> list[str]:
    """Whether more steps would have helped where data are fewest: when each network was best on validation."""
    when = {}
    for arm in ("P4M U-Net", "U-Net+"):
        some = [r for r in runs if (r["config"]["model"], r["config"]["fraction"]) == (arm, fraction)]
        if not some:
            return []
        when[arm] = sum(run["metrics"]["best_epoch"] for run in some) / len(some)
    pictures, epochs = some[0]["metrics"]["pictures"], some[0]["config"]["epochs"]
    text = (
        f"At {100 * fraction:g} % ({pictures} pictures with seed {some[0]['seed']}) P4M U-Net is best on validation after "
        f"{when['P4M U-Net']:.1f} of {epochs} epochs, U-Net+ after {when['U-Net+']:.1f}."
    )
    if when["P4M U-Net"] + 1 < when["U-Net+"]:
        text += " P4M has stopped getting better there while U-Net+ still does: what it lacks seems to be pictures, not steps."
    return [text]


def _of_one(runs: list[dict[str, Any]], data: str, size: str) -> list[str | Table | Picture]:
    fractions = sorted({run["config"]["fraction"] for run in runs}, reverse=True)
    by = grouped(runs, "model", "fraction")
    rows, steady, lines = [], [], {}
    for arm in ("U-Net+", TTA, "U-Net+ long", "P4 U-Net", "P4M U-Net"):
        key, metric = ("U-Net+", "averaged_dice") if arm == TTA else (arm, "dice")
        some = {fraction: by.get((key, fraction), []) for fraction in fractions}
        known = [run for few in some.values() for run in few]
        if not known:
            continue
        weights = f"{known[0]['config']['parameters'] / 1000:.0f}K"
        paper = [f"{PUBLISHED.get(arm, {}).get(fraction, '–')}" for fraction in fractions]
        rows.append([arm, weights, *(cell(few, metric, 1, 100) for few in some.values()), " / ".join(paper)])
        if arm != TTA:
            steady.append([arm, *(cell(few, "spread", 4) for few in some.values())])
            background = [cell(few, "background_dice", 1, 100) for few in some.values()]
            steady[-1] += [" / ".join(value.split(" ")[0] for value in background)]
        lines[arm] = {f: [run["metrics"].get(metric) for run in few] for f, few in some.items() if few}
    names = [f"{100 * fraction:g} %" for fraction in fractions]
    on = f"{data}, size {size}, {seeds_of(*map(len, by.values()))}"
    return [
        Table(
            ("network", "weights", *names, "paper"), rows,
            f"Dice in percent by the share of training patients ({on}). The last column has the paper's numbers for "
            f"{' / '.join(names)}, on PCam's pictures of 320 pixels {{cite}}`linmans2018`.",
        ),
        *(_longest(runs, fractions[-1]) if len(fractions) > 1 else ()),
        Table(
            ("network", *names, "Dice of the background"), steady,
            f"How much a pixel's probability moves while the picture is turned and mirrored: standard deviation over "
            f"the eight roto-reflections, mean over pixels ({on}). The last column has the background's Dice, "
            f"{' / '.join(names)}.",
        ),
        Picture(
            f"{data}-{size}", _figure(lines), f"Dice against the share of training patients on {data}, one line a network.",
            f"Dice by the share of training patients ({on}); dots are single seeds, lines their means.",
        ),
    ]  # fmt: skip


def _figure(lines: dict[str, dict[float, list[float]]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    marks = {"U-Net+ long": "v", "U-Net+": "o", TTA: "s", "P4 U-Net": "^", "P4M U-Net": "D"}
    for number, (arm, points) in enumerate(lines.items()):
        places = [100 * fraction * 1.03 ** (number - 1.5) for fraction in points]
        means = [100 * sum(values) / len(values) for values in points.values()]
        axes.plot(places, means, color=COLOURS[arm], label=arm)
        for place, values in zip(places, points.values(), strict=True):
            axes.plot(
                [place] * len(values),
                [100 * v for v in values],
                marks[arm],
                ms=4,
                color=COLOURS[arm],
                alpha=0.6,
            )
    axes.set_xscale("log")
    ticks = sorted({100 * fraction for points in lines.values() for fraction in points})
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="share of the training patients", ylabel="Dice in percent")
    # Below the axes: there is no corner that dots never reach.
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure
