"""SRENet's experiments: how steady are unsupervised segmentations while the picture turns.

Paper 001 (results, the first three experiments, the open questions and next checks). Four ResNet-18, alike in
all but their filters and with about equally many parameters, learn to tell tissues apart: with ring filters
(SRE), plain, plain with augmentation, and on p4m fields by e2cnn. Their features, never trained on the
pictures that follow, are clustered (``equipath.cluster``) and the clusters followed through twelve angles:
within a picture, where its own unturned pixels made the clusters, and between patients, where those of other
patients did.

``run`` makes one result a network; ``report`` makes the tables. Choices of ours where the paper is silent are
in ``Settings`` and in the names of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from equipath.cluster import ANGLES, TissueClusters, feature_icc, feature_map, paint_background, turned
from equipath.data import load
from equipath.data.items import IGNORE
from equipath.experiments.results import Picture, Table, grouped, mean_sd
from equipath.experiments.runs import Runs
from equipath.experiments.summary import Claim
from equipath.metrics import dice_score
from equipath.models.resnet import E2CNNResNet18, ResNet18, SREResNet18
from equipath.nn.sre import SREConv2d
from equipath.train import Pairs, predict

NAME = "srenet"
TITLE = "SRENet: segmentation without labels, as the picture turns"
MODELS = ("SRE-ResNet18", "ResNet18", "ResNet18 augmented", "e2cnn ResNet18")
CLAIMS = tuple(
    Claim(sources, "SRE-ResNet18", "ResNet18 augmented", f"kappa over 12 angles, {on}", f"{target}.within.kappa", digits=2)
    for sources, target, on in (
        (("ebhi", "pcam"), "ebhi", "EBHI"), (("ebhi", "pcam"), "tnbc", "TNBC"), (("slides",), "cores", "cores")
    )
)  # fmt: skip
TARGETS = {
    "slides": ("cores",),
    "pcam": ("ebhi", "tnbc"),
    "ebhi": ("ebhi", "tnbc"),
    "nct_crc": ("gleason2019",),
}
"""What the pictures are on which features of a pre-training set are clustered; the last is the paper's."""
CLASSES = {"slides": 9, "pcam": 2, "ebhi": 6, "nct_crc": 9}
"""How many classes a pre-training set tells apart: what chance is there."""


@dataclass(frozen=True)
class Settings:
    """What a run does; the defaults are the paper's.

    Attributes:
        widths: of the networks, in the order of ``MODELS``.
        patch: side of the pre-training pictures in pixels, cut from their middle; smaller ones stay whole.
        mpp: microns per pixel of slides, patches and cores alike.
        epochs, batch, batches, lr: of SGD with a cosine.
        limit: at most so many training pictures (None: all); a quarter of it for validation and test.
        side: side of the clustered pictures in pixels.
        fit_images, test_images: how many pictures, of different patients where there are as many.
        k, layer: clusters and the stage whose features are clustered.
        ks, layers: the values tried besides, on ``study_images`` test pictures and ``study_angles``.
    """

    widths: tuple[int, ...] = (64, 38, 38, 17)
    patch: int = 224
    mpp: float = 0.5
    epochs: int = 100
    batch: int = 128
    batches: int | None = None
    lr: float = 2e-2
    limit: int | None = None
    side: int = 512
    fit_images: int = 40
    test_images: int = 40
    k: int = 3
    layer: int = 4
    ks: tuple[int, ...] = (2, 3, 4, 5, 6)
    layers: tuple[int, ...] = (1, 2, 3, 4)
    study_images: int = 10
    study_angles: tuple[int, ...] = (0, 30, 60, 90)


SETTINGS = {
    "paper": Settings(),
    "small": Settings(
        widths=(8, 5, 5, 2), patch=32, mpp=4.5, epochs=4, batch=16, batches=20, lr=0.1, limit=400, side=224,
        fit_images=4, test_images=4, ks=(2, 3, 4, 5), study_images=1,
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------
# the networks and what they learn from


def network(model: str, classes: int, settings: Settings, seed: int = 0) -> nn.Module:
    """One of ``MODELS``, freshly drawn."""
    width = settings.widths[MODELS.index(model)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model == "SRE-ResNet18":
            return SREResNet18(3, classes, width)
        if model == "e2cnn ResNet18":
            return E2CNNResNet18(3, classes, width)
        return ResNet18(3, classes, width)


def turn_and_mirror(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmentation: every picture at an angle of its own, half of them mirrored; the border is repeated."""
    count = len(images)
    angle = 2 * np.pi * torch.rand(count, generator=generator)
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    matrix = torch.stack([cos * mirror, -sin, zero, sin * mirror, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), targets


def pretraining(data: str, settings: Settings, root: str | Path | None = None) -> tuple[int, dict[str, Any]]:
    """The number of classes, and train, val and test as ``fit`` takes them.

    Slides: textures of colon in NCT-CRC's nine classes; PCam: tumour or not; EBHI: six stages.
    """
    task = {"slides": "texture", "ebhi": "texture"}.get(data)
    sets: dict[str, Any] = {}
    classes = 0
    for split in ("train", "val", "test"):
        count = None
        if settings.limit is not None:
            count = settings.limit if split == "train" else settings.limit // 4
        options: dict[str, Any] = {}
        if data == "slides":
            options = {"size": settings.patch, "mpp": settings.mpp}
            options |= {"patients": -(-count // 18)} if count else {}
        items: Any = load(data, task, split, root=root, **options)
        classes = len(items.classes)
        if count is None:
            # PCam's patches have 96 pixels, less than the paper's 224: they are taken whole.
            side = min(settings.patch, *items[0]["image"].shape[-2:])
            sets[split] = Pairs(items, "label", side)
            continue
        draw = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:count].tolist()
        # Rendered slides give many views faster together.
        found = items.__getitems__(draw) if hasattr(items, "__getitems__") else [items[i] for i in draw]
        images = torch.stack([_fit_patch(item["image"], settings.patch) for item in found])
        sets[split] = images, torch.tensor([item["label"] for item in found])
    return classes, sets


def _fit_patch(image: Tensor, side: int) -> Tensor:
    """The middle of a picture, as (3, side, side): large pictures shrink to at most twice the side first."""
    shortest = min(image.shape[-2:])
    if shortest > 2 * side:
        factor = 2 * side / shortest
        image = F.interpolate(
            image[None], scale_factor=factor, mode="bilinear", antialias=True, recompute_scale_factor=True
        )[0]
    top, left = ((n - side) // 2 for n in image.shape[-2:])
    return image[:, top : top + side, left : left + side].contiguous()


@dataclass(frozen=True)
class Pictures:
    """Pictures to cluster, (3, N, N), their glass black, with classes (N, N), ``IGNORE`` where unknown."""

    images: list[Tensor]
    masks: list[Tensor]
    classes: tuple[str, ...]


def pictures(
    target: str, split: str, count: int, settings: Settings, root: str | Path | None = None
) -> Pictures:
    """Up to ``count`` pictures of a set to cluster, drawn once for all, a patient each before any has a second."""
    options: dict[str, Any] = {}
    if target == "cores":
        options = {"size": settings.side, "mpp": settings.mpp, "patients": count}
    name, task = ("slides", "cores") if target == "cores" else (target, None)
    items: Any = load(name, task, split, root=root, **options)
    nth: dict[str, int] = {}
    turn, patients = [], items.patients
    # Not in the order of the files: EBHI's are sorted by stage, and the first are all of one.
    drawn = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    for place, i in enumerate(drawn):
        patient = patients[i]
        turn.append((nth.setdefault(patient, 0), place, i))
        nth[patient] += 1
    images, masks = [], []
    for _, _, i in sorted(turn)[:count]:
        item = items[i]
        image = item["image"][None]
        mask = item["mask"][None, None].double()
        if image.shape[-1] != settings.side or image.shape[-2] != settings.side:
            side = min(image.shape[-2:])
            top, left = ((n - side) // 2 for n in image.shape[-2:])
            image, mask = (x[..., top : top + side, left : left + side] for x in (image, mask))
            size = (settings.side, settings.side)
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
            mask = F.interpolate(mask, size=size, mode="nearest-exact")
        images.append(paint_background(image[0]))
        masks.append(mask[0, 0].long())
    return Pictures(images, masks, items.classes)


# --------------------------------------------------------------------------------------------------
# what is measured


def square_on_black(side: int = 33) -> float:
    """The paper's first check: the largest error, in float64, of a SRE layer on a white square on black that
    is turned by 90°, 180° and 270°; the square lies off the centre.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = SREConv2d(1, 4, 5, padding=2).double()
    picture = torch.zeros(1, 1, side, side, dtype=torch.float64)
    picture[..., side // 4 : side // 2, side // 3 : side // 2 + 4] = 1
    with torch.no_grad():
        here = layer(picture)
        return max(
            float((layer(turned(picture, angle)) - turned(here, angle)).abs().max())
            for angle in (90, 180, 270)
        )


def quarter_turn_icc(model: Any, image: Tensor, layer: int = 4, samples: int = 1000) -> float:
    """The paper's second check: ICC(2,1) of the feature vectors of the same pixels at 0° and at 90°."""
    there = torch.rot90(feature_map(model, torch.rot90(image, 1, (-2, -1)), layer), -1, (-2, -1))
    both = torch.stack([feature_map(model, image, layer), there]).flatten(2)
    draw = torch.randperm(both.shape[-1], generator=torch.Generator().manual_seed(0))[:samples]
    return feature_icc(both[..., draw])


def gratings(count: int, side: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Stripes of two pinks with noise, horizontal (0) or vertical (1): a structure whose direction is all that
    tells the classes apart.
    """
    chance = np.random.default_rng(seed)
    label = np.arange(count) % 2
    place = np.arange(side)
    images = np.empty((count, 3, side, side))
    for i in range(count):
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (place / chance.uniform(5, 12) + chance.uniform()))
        stripes = np.broadcast_to(wave if label[i] else wave[:, None], (side, side))
        ends = np.array([[0.85, 0.6, 0.75], [0.55, 0.35, 0.6]])[..., None, None]
        images[i] = ends[0] * stripes + ends[1] * (1 - stripes)
    images += chance.normal(0, 0.05, images.shape)
    return torch.from_numpy(images).float().clamp(0, 1), torch.from_numpy(label)


def direction_accuracy(model: Any, layer: int = 4) -> float:
    """Next check 1: can a linear classifier read the direction of stripes from features averaged over the
    picture. What forced symmetry discards; 0.5 is chance.
    """
    vectors = []
    for seed in (0, 1):
        images, label = gratings(60, seed=seed)
        with torch.no_grad():
            means = model.features(images, layer).mean((-2, -1)).double()
        vectors.append((means.numpy(), label.numpy()))
    (x, y), (test_x, test_y) = vectors
    spread = x.std(0) + 1e-12
    reader = LogisticRegression(max_iter=500).fit((x - x.mean(0)) / spread, y)
    return float(reader.score((test_x - x.mean(0)) / spread, test_y))


def majority(
    clusters: Sequence[Tensor], masks: Sequence[Tensor], k: int, classes: int
) -> tuple[Tensor, Tensor]:
    """Which class each cluster stands for: (K,) the most frequent, and the counts (K, classes)."""
    counts = torch.zeros(k, classes, dtype=torch.long)
    for cluster, mask in zip(clusters, masks, strict=True):
        small = _on_grid(mask, cluster)
        known = (cluster != IGNORE) & (small != IGNORE)
        joint = cluster[known] * classes + small[known]
        counts += torch.bincount(joint, minlength=k * classes).view(k, classes)
    return counts.argmax(1), counts


def _on_grid(mask: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[-2], like.shape[-1])
    return F.interpolate(mask[None, None].double(), size=size, mode="nearest-exact")[0, 0].long()


def against_labels(found: TissueClusters, fitted: Pictures, test: Pictures) -> dict[str, Any]:
    """Clusters against labels on patients who took no part in either the clusters or their meaning.

    Each cluster stands for the class that is most frequent in it on the ``fitted`` pictures. On the ``test``
    pictures: ``ari`` (adjusted Rand index, which needs no such naming; mean over pictures), ``accuracy`` and
    ``mean_dice`` of the named clusters, and for every cluster ``precision`` (how much of it is its class; NaN of a
    cluster without a pixel there), ``recall`` (how much of its class it holds; NaN where there is none of it) and
    ``f1``.
    """
    k, classes = found.k, len(test.classes)
    named, _ = majority([found.predict(i) for i in fitted.images], fitted.masks, k, classes)
    clusters = [found.predict(image) for image in test.images]
    _, counts = majority(clusters, test.masks, k, classes)
    right = counts[torch.arange(k), named].double()
    precision = right / counts.sum(1)  # 0 / 0, NaN, where there is nothing to be right about
    recall = right / counts.sum(0)[named]
    truth, answer, rand = [], [], []
    for cluster, mask in zip(clusters, test.masks, strict=True):
        small = _on_grid(mask, cluster)
        known = (cluster != IGNORE) & (small != IGNORE)
        truth.append(small[known])
        answer.append(named[cluster[known]])
        if len(small[known].unique()) > 1:
            rand.append(adjusted_rand_score(small[known].numpy(), cluster[known].numpy()))
    together = dice_score(torch.cat(answer), torch.cat(truth), classes)
    return {
        "ari": float(np.mean(rand)) if rand else float("nan"),
        "accuracy": float(right.sum() / counts.sum()),
        "mean_dice": float(np.nanmean(together)),
        "cluster_class": [test.classes[n] for n in named.tolist()],
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": (2 * precision * recall / (precision + recall).clamp_min(1e-12)).tolist(),
    }


class _Remembered:
    """A network that remembers its last features, since many questions are asked of one picture's turns."""

    def __init__(self, model: Any, most: int = 64) -> None:
        self.model, self.most = model, most
        self.kept: dict[Any, Tensor] = {}

    def features(self, x: Tensor, layer: int = 4) -> Tensor:
        key = layer, tuple(x.shape), hash(x.numpy().tobytes())
        if key not in self.kept:
            if len(self.kept) == self.most:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = self.model.features(x, layer)
        return self.kept[key]


def measure(model: Any, target: str, fitted: Pictures, test: Pictures, settings: Settings) -> dict[str, Any]:
    """Everything that is asked of one network's features on one set of pictures; the names begin with the set's.

    ``within`` and ``between``: the agreement (``Turns.agreement``) over twelve angles, the mean over the test
    pictures and their standard deviation (``_sd``), of clusters fitted on the picture itself and of clusters
    fitted on other patients. ``half_turn``: between patients, 0° against 180°. ``layer.L``, ``k.K``: within,
    at another layer or with other numbers of clusters, on fewer pictures and angles. ``labels``: see
    ``against_labels``; ``layer_ari.L``: the adjusted Rand index of another layer's clusters.
    """
    model = _Remembered(model)
    k, layer = settings.k, settings.layer
    between = TissueClusters.fit(model, fitted.images, k, layer=layer)
    rows: dict[str, list[dict[str, float]]] = {}

    def turn(name: str, found: TissueClusters, image: Tensor, angles: Sequence[float]) -> None:
        rows.setdefault(name, []).append(found.over_rotations(image, angles).agreement())

    quarter = []
    for i, image in enumerate(test.images):
        own = TissueClusters.fit(model, [image], k, layer=layer)
        turn("within", own, image, ANGLES)
        turn("between", between, image, ANGLES)
        turn("half_turn", between, image, (0, 180))
        if i < settings.study_images:
            quarter.append(quarter_turn_icc(model, image, layer))
            for n in settings.ks:
                own = TissueClusters.fit(model, [image], n, layer=layer)
                turn(f"k.{n}", own, image, settings.study_angles)
            for n in settings.layers:
                own = TissueClusters.fit(model, [image], k, layer=n)
                turn(f"layer.{n}", own, image, settings.study_angles)
    out: dict[str, Any] = {"quarter_icc": float(np.mean(quarter))}
    for name, found in rows.items():
        for key in found[0]:
            values = [row[key] for row in found]
            out[f"{name}.{key}"] = float(np.mean(values))
            out[f"{name}.{key}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    out |= {f"labels.{key}": value for key, value in against_labels(between, fitted, test).items()}
    for n in settings.layers:
        shallow = TissueClusters.fit(model, fitted.images, k, layer=n)
        out[f"layer_ari.{n}"] = against_labels(shallow, fitted, test)["ari"]
    return {f"{target}.{name}": value for name, value in out.items()}


# --------------------------------------------------------------------------------------------------
# the run and its tables


def run(
    data: str = "slides",
    size: str = "small",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    *,
    root: str | Path | None = None,
    arms: Sequence[str] = MODELS,
    settings: Settings | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Pre-train every network on ``data``, cluster its features on the target pictures, save one result each.

    Args:
        data: what networks are pre-trained on: "slides" (clustered: prostate cores), "pcam" or "ebhi"
            (clustered: EBHI and TNBC), "nct_crc" (clustered: Gleason 2019, as in the paper).
        size: "small" (minutes on two cores) or "paper".
        folder: checkpoints of the training, one folder a network: a run that was stopped goes on there.
        root: folder of the data sets.
        arms: some of ``MODELS``.
        settings: in place of those of ``size``.
        results: where the JSONs go; `book/results` by default.

    Returns:
        {model: metrics}.
    """
    runs = Runs(NAME, data, size, seed, folder, progress, results)
    runs.check(TARGETS, arms, MODELS)
    settings = settings or SETTINGS[size]
    classes, sets = pretraining(data, settings, root)
    # Before anything is trained: a set that is missing is said at once.
    targets = {
        target: (
            pictures(target, "train", settings.fit_images, settings, root),
            pictures(target, "test", settings.test_images, settings, root),
        )
        for target in TARGETS[data]
    }

    def test_once(net: nn.Module) -> dict[str, Any]:
        answer = predict(net, sets["test"]).argmax(1)
        labels = sets["test"][1] if isinstance(sets["test"], tuple) else _labels(sets["test"])
        metrics: dict[str, Any] = {
            "accuracy": float((answer == labels).double().mean()),
            "square_on_black": square_on_black(),
            "direction_accuracy": direction_accuracy(net, settings.layer),
        }
        for target, (fitted, test) in targets.items():
            metrics |= measure(net, target, fitted, test, settings)
        return metrics

    return {
        model: runs.one(
            network(model, classes, settings, seed), sets["train"], sets["val"], asdict(settings) | {"model": model},
            test_once, loss=F.cross_entropy, optimizer="sgd", schedule="cosine",
            augment=turn_and_mirror if model.endswith("augmented") else None,
        )
        for model in arms
    }  # fmt: skip


def _labels(pairs: Pairs) -> Tensor:
    return torch.tensor([int(pairs.items[i][pairs.target]) for i in range(len(pairs))])


PAPER = {"icc21": "0.92 ± 0.04", "kappa": "0.90 ± 0.02", "dice": "0.90 ± 0.03"}
"""SRENet on Gleason 2019 after pre-training on NCT-CRC; ± over pictures. Its baselines' numbers are not known."""
SHORT = {"cores": "slides' prostate cores", "ebhi": "EBHI", "tnbc": "TNBC", "gleason2019": "Gleason 2019"}


def report(results: list[dict[str, Any]]) -> list[Any]:
    """The page's parts: steadiness within and between patients, the paper's checks, layers and K, labels."""
    parts: list[Any] = [
        "Four ResNet-18 of about one size, alike in all but their filters, learn to tell tissues apart on one set "
        "without turning it (but for the augmented one). Their features on other pictures are clustered by "
        "k-means, and the clusters followed while the picture turns by 0°, 30° … 330°: kappa and Dice of the "
        "labels against those at 0°, and the intraclass correlation of the features, the mean over the channels "
        "(the paper does not say which it took)."
    ]
    for (data, size), runs in grouped(results, "data", "size").items():
        models = [(model, some) for (model,), some in grouped(runs, "model").items()]
        models.sort(key=lambda pair: MODELS.index(pair[0]))
        about = f"pre-trained on {data} ({size})"
        first = runs[0]["config"]
        for target in TARGETS[data]:
            on = f"{SHORT[target]}, {about}"
            rows = []
            for model, some in models:
                between = _cells(some, target, "between")[2:]
                rows.append([model, _size(some), *_cells(some, target, "within"), *between])
            paper = (PAPER["icc21"], "–", PAPER["kappa"], PAPER["dice"], "–", "–")
            rows.append(["SRENet, the paper", "3.996 million", *paper])
            header = ["network", "weights", "ICC(2,1)", "ICC(3,1)", "kappa", "Dice", "kappa, between"]
            caption = (
                f"Steadiness over twelve angles on {on}: clusters made on the picture itself, and (between) on "
                f"{first['fit_images']} pictures of other patients. Mean over {first['test_images']} pictures. "
                "The paper's line is for Gleason 2019 {cite}`chen2025`."
            )
            parts.append(Table([*header, "Dice, between"], rows, caption))
            parts += _least_learned(models, target)
            parts.append(_checks(models, target, on))
            parts.append(_layers_and_k(models, target, on, first))
            parts += _labels_tables(models, target, on)
        parts.append(_picture(models, data, size))
    return parts + _sources(results)


def _sources(results: list[dict[str, Any]]) -> list[str | Table]:
    """Pictures whose clusters come from several pre-training sets: the sets side by side, for each set of pictures."""
    tables: list[str | Table] = []
    for (size,), runs in grouped(results, "size").items():
        of_source = {data: some for (data,), some in grouped(runs, "data").items()}
        for target in SHORT:
            sources = [data for data in of_source if target in TARGETS[data]]
            if len(sources) < 2:
                continue
            names = ("accuracy", f"{target}.within.kappa", f"{target}.between.kappa", f"{target}.labels.ari")
            rows = [
                [model, source, *(_get(some, name) for name in names), str(len(some))]
                for model in MODELS
                for source in sources
                if (some := [run for run in of_source[source] if run["config"]["model"] == model])
            ]
            tables.append(Table(
                ["network", "pre-trained on", "test accuracy there", "kappa", "kappa, between", "Rand index", "seeds"],
                rows, f"{SHORT[target]} by what the networks were pre-trained on ({size}): kappa over twelve angles within "
                "pictures and between patients, and the clusters against the labels (adjusted Rand index). A blind guess in "
                f"pre-training is right in {' and '.join(f'1/{CLASSES[source]} on {source}' for source in sources)}.",
            ))  # fmt: skip
    if tables:
        tables.append(
            "Two things these tables do not settle. The public sets are clustered at another magnification than their "
            "patches were learned at: pictures are brought to a number of pixels, and EBHI does not say its microns. And "
            "whole patients make unequal classes: EBHI's stages have other shares among its training patients than among "
            "its test patients, so that a network which has learned no more than the commonest stage can be right "
            "far less often than a blind guess."
        )
    return tables


def _size(runs: list[dict[str, Any]]) -> str:
    return f"{runs[0]['config']['parameters']:,}".replace(",", " ")


def _cells(runs: list[dict[str, Any]], target: str, where: str) -> list[str]:
    names = ("icc21", "icc31", "kappa", "dice")
    return [mean_sd(run["metrics"].get(f"{target}.{where}.{name}") for run in runs) for name in names]


def _get(runs: list[dict[str, Any]], name: str, digits: int = 3) -> str:
    return mean_sd((run["metrics"].get(name) for run in runs), digits)


def _least_learned(models: list[tuple[str, list[dict[str, Any]]]], target: str) -> list[str]:
    """The run with the lowest accuracy, where it is steadier than most: what kappa alone does not tell."""
    every = [(model, run) for model, some in models for run in some]
    model, run = min(every, key=lambda pair: pair[1]["metrics"]["accuracy"])
    metrics, name = run["metrics"], f"{target}.within.kappa"
    middle = float(np.median([other["metrics"][name] for _, other in every]))
    if metrics[name] <= middle:
        return []
    return [
        f"Steady is not the same as good: the run with fewest of the pre-training's test pictures right ({model}, seed "
        f"{run['seed']}, {100 * metrics['accuracy']:.0f} %) has a kappa of {metrics[name]:.2f} within the pictures of "
        f"{SHORT[target]}; half of the runs have {middle:.2f} or less."
    ]


def _checks(models: list[tuple[str, list[dict[str, Any]]]], target: str, on: str) -> Table:
    names = ("accuracy", f"{target}.quarter_icc", f"{target}.half_turn.kappa", "direction_accuracy")
    rows = [[model, *(_get(some, name) for name in names)] for model, some in models]
    square = max(run["metrics"]["square_on_black"] for _, some in models for run in some)
    return Table(
        ["network", "test accuracy, pre-training", "feature ICC, 0° and 90°", "kappa, 0° and 180°",
         "direction of stripes"],
        rows,
        f"The checks that the paper names, on {on}. Direction of stripes: how often a linear classifier reads it "
        "from features averaged over the picture (chance: 0.5); what symmetry discards. A single SRE layer on a "
        f"white square on black, turned by 90°, 180° and 270°, is off by {square:.1g} at most.",
    )  # fmt: skip


def _layers_and_k(
    models: list[tuple[str, list[dict[str, Any]]]], target: str, on: str, settings: dict[str, Any]
) -> Table:
    layers = [f"layer.{n}.kappa" for n in settings["layers"]]
    ks = [f"k.{n}.kappa" for n in settings["ks"]]
    rows = [[model, *(_get(some, f"{target}.{name}") for name in (*layers, *ks))] for model, some in models]
    header = ["network", *(f"L = {n}" for n in settings["layers"]), *(f"K = {n}" for n in settings["ks"])]
    return Table(
        header, rows,
        f"Kappa within pictures by the layer L (with K = {settings['k']}) and by the number of clusters K (at "
        f"L = {settings['layer']}), {on}: {settings['study_images']} picture(s) at "
        f"{', '.join(f'{a}°' for a in settings['study_angles'])}.",
    )  # fmt: skip


def _labels_tables(models: list[tuple[str, list[dict[str, Any]]]], target: str, on: str) -> list[Any]:
    layers = models[0][1][0]["config"]["layers"]
    names = ("labels.ari", "labels.accuracy", "labels.mean_dice", *(f"layer_ari.{n}" for n in layers))
    rows = [[model, *(_get(some, f"{target}.{name}") for name in names)] for model, some in models]
    header = ["network", "Rand index", "accuracy", "mean Dice", *(f"Rand index, L = {n}" for n in layers)]
    first = Table(
        header, rows,
        f"Clusters against labels, {on}: adjusted Rand index (0 is chance); accuracy and mean Dice of the classes "
        "that the clusters stand for, by the majority in other patients.",
    )  # fmt: skip
    each = []
    for model, some in models:
        metrics = some[0]["metrics"]
        for k, name in enumerate(metrics[f"{target}.labels.cluster_class"]):
            numbers = [metrics[f"{target}.labels.{key}"][k] for key in ("precision", "recall", "f1")]
            each.append([f"{model}, cluster {k + 1}", name, *(mean_sd([value]) for value in numbers)])
    caption = f"Every cluster against the class that it stands for, {on}, seed {models[0][1][0]['seed']}."
    table = Table(["cluster", "stands for", "precision", "recall", "F1"], each, caption)
    stood = {
        name
        for _, some in models
        for run in some
        for name in run["metrics"][f"{target}.labels.cluster_class"]
    }
    if len(stood) > 1:
        return [first, table]
    return [
        first,
        f"On the pictures that name them every cluster of every network holds more of *{stood.pop()}* than of any other "
        "class. So accuracy and mean Dice are those of answering this class everywhere; what the clusters are worth "
        "shows in the Rand index and in how far their precisions lie apart.",
        table,
    ]


def _picture(models: list[tuple[str, list[dict[str, Any]]]], data: str, size: str) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure((7.2, 2.6), layout="constrained")
    targets = TARGETS[data]
    axes = figure.subplots(1, 2 * len(targets), sharey=True, squeeze=False)[0]
    colours = ("#0072B2", "#D55E00", "#E69F00", "#009E73")
    panels = [(target, where) for target in targets for where in ("within", "between")]
    said = []
    for axis, (target, where) in zip(axes, panels, strict=True):
        for i, (model, some) in enumerate(models):
            values = [run["metrics"][f"{target}.{where}.kappa"] for run in some]
            spread = [run["metrics"][f"{target}.{where}.kappa_sd"] or 0.0 for run in some]
            axis.bar(i, np.mean(values), color=colours[MODELS.index(model)], label=model)
            axis.errorbar(i, np.mean(values), np.mean(spread), color="black", capsize=3, lw=1)
            said.append(f"{model} {where} {SHORT[target]} {np.mean(values):.2f}")
        axis.set_title(f"{SHORT[target]}\n{where}", fontsize=9)
        axis.set_xticks([])
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("kappa over 12 angles")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return Picture(
        f"kappa-{data}-{size}", figure, f"Bars of kappa over twelve angles: {'; '.join(said)}.",
        f"Kappa of the clusters over twelve angles, networks pre-trained on {data}; the bars' whiskers are the "
        "standard deviation over pictures.",
    )  # fmt: skip
