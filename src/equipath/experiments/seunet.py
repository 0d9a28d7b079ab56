"""SEUNet's experiments: who still segments when pictures come at another scale than the one trained on.

Paper 002, section 4 (tables 1 and 2, figure 2), section 5 (table 3, figure 3) and appendix C (figure 5). All
networks share one backbone and are trained at one scale, without scale augmentation; then they are tested at
17 scales from 1/4 to 4. On slides the test pictures are rendered again at every scale, so nothing is
interpolated; pictures of public sets are resampled from their finest pixels.

``run`` makes one result an arm; ``report`` makes the tables and figures. Choices of ours where the paper is
silent are in ``Settings`` and in the names of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import Dataset

from equipath.data import load
from equipath.data.items import IGNORE
from equipath.data.stains import StainNormalizer
from equipath.equivariance import Scaling, pair_ratios
from equipath.experiments.comparisons import seeds_of
from equipath.experiments.results import Picture, Table, grouped, mean_sd
from equipath.experiments.runs import Runs
from equipath.experiments.summary import Claim
from equipath.metrics import confusion_matrix
from equipath.models.seunet import (
    STRATEGIES,
    DISCOUNet,
    PlainUNet,
    SESNUNet,
    SEUNet,
    scale_ensemble,
    sigma_ranges,
)

NAME = "seunet"
TITLE = "SEUNet: segmentation at other scales than the one trained on"
ARMS = ("CNN", "N-Jet", "SESN", "DISCO", "SEUNet", "SEUNet, fixed σ", "SEUNet, free σ")
FINE = ("CNN fine", "SEUNet fine")
"""The same tissue in twice as many pixels along a side: do filters of large σ lack pixels? Only made when asked for."""
CLAIMS = (
    Claim(
        ("tnbc", "slides"),
        "SEUNet",
        "CNN",
        "IoU over 17 scales in percent",
        lambda r: _final(r, "mean_iou"),
        False,
        1,
        100,
    ),
    Claim(
        ("tnbc",),
        "SEUNet fine",
        "CNN fine",
        "IoU over 17 scales in percent",
        lambda r: _final(r, "mean_iou"),
        False,
        1,
        100,
    ),
    Claim(("tnbc", "slides"), "SEUNet", "CNN", "kept away from scale 1", lambda r: _final(r, "kept")),
)
SCALES = tuple(2.0 ** (k / 4) for k in range(-8, 9))
"""The paper's test scales; 1 is the scale of training, larger ones enlarge."""
FIRST_LAYER_SCALES = (-4, -3, 3, 4)
"""At which of 2^(n/4) the first layer's error matrices (eq. 12) are taken: 0.5, 0.59, 1.68 and 2."""
BATCH_PIXELS = 2**19
"""Pixels of test pictures that go through a network at once."""
KEEP = 2**28
"""Bytes of test pictures that are kept from one network to the next instead of being made again."""
TASKS = {"slides": "tissue", "bcss": "tissue", "tnbc": "nuclei", "monuseg": "nuclei"}


def _final(run: dict[str, Any], number: str) -> float | None:
    """A number of a run's final answer: of P_Ens where there are several heads."""
    return run["metrics"].get(
        f"{number}.{'P_Ens' if run['config']['model'].startswith('SEUNet') else 'head 1'}"
    )


@dataclass(frozen=True)
class Settings:
    """What a run does; the defaults are the paper's.

    Attributes:
        widths: channels of the first block, of all scales together for "CNN" and of each scale for the rest, in
            the order of ``ARMS``.
        lrs: peak of Adam's one cycle, in the order of ``ARMS``.
        depth: how often the pictures are halved.
        tile: side of the training pictures in pixels; ``field`` that of the test pictures at scale 1.
        mpp: microns per pixel at scale 1; None: that of the set.
        tiles, test_tiles: at most so many of them (None: all).
        balance: weigh the classes in the cross-entropy by one over the root of their frequency, so that a rare
            class is found after a short training too.
        stain: whether public sets are normalised (Vahadane) to the first training picture.
    """

    widths: tuple[int, ...] = (60, 12, 12, 12, 12, 12, 12)
    lrs: tuple[float, ...] = (0.015,) * 7
    depth: int = 4
    tile: int = 400
    field: int = 400
    mpp: float | None = None
    tiles: int | None = None
    test_tiles: int | None = None
    epochs: int = 70
    batch: int = 20
    batches: int | None = None
    weight_decay: float = 1e-4
    balance: bool = False
    stain: bool = True


SMALL = Settings(
    widths=(4, 6, 3, 4, 6, 6, 6), lrs=(0.05,) * 7, depth=2, tile=32, field=48, tiles=256, test_tiles=12, epochs=4,
    batch=4, batches=50, balance=True,
)  # fmt: skip
"""Rates were chosen on validation slides (seed 0). Losses at 0.015, 0.05 and 0.15: CNN 1.147, 0.990, 1.009; SESN 0.993,
0.959, 1.007; DISCO 1.226, 1.210, 1.197, which hardly learns at any. Letting σ learn ten times more slowly than the
weights changed SEUNet's from 0.923 to 0.859 with seed 0 and from 0.932 to 0.976 with seed 1: nothing that two seeds can
tell, so σ has the rate of all, as in the paper."""
SETTINGS: dict[str, dict[str, Settings]] = {
    "paper": {
        "monuseg": Settings(),
        "bcss": Settings(tile=512, field=512),
        "slides": Settings(tile=256, field=256, mpp=1.0),
        "tnbc": Settings(tile=256, field=256),
    },
    "small": {
        "monuseg": Settings(**asdict(SMALL) | {"mpp": 1.0}),
        "bcss": Settings(**asdict(SMALL) | {"mpp": 2.0}),
        "slides": Settings(**asdict(SMALL) | {"mpp": 2.0}),
        "tnbc": Settings(**asdict(SMALL) | {"mpp": 0.5, "tile": 64, "field": 96}),
    },
}
"""TNBC's pixels were chosen on validation pictures (seed 0). At 1 µm a nucleus is 8 pixels wide at scale 1, 2 at the smallest; the
widest filters see nothing of it, and head 1 alone is better than all together: mean IoU over five scales is 0.500, 0.469, 0.443,
0.404 and 0.360 by head, 0.457 of P_Ens, 0.482 of the CNN. At 0.5 µm it is 0.484, 0.487, 0.492, 0.419, 0.381, 0.482 and 0.488; at
the paper's 0.25 µm 0.450, 0.475, 0.509, 0.492, 0.476, 0.499 and 0.477. Half a micron is what minutes allow; `FINE` has 0.25."""


def of_arm(arm: str, settings: Settings) -> Settings:
    """The settings of one arm: for ``FINE`` with pixels of half the size, and twice as many.

    Raises:
        ValueError: the settings are those of the set's own pixels, and there are no finer ones.
    """
    if arm not in FINE:
        return settings
    if settings.mpp is None:
        raise ValueError(
            f"{arm} wants pixels of half the size, and these settings already take the set's own."
        )
    return replace(settings, mpp=settings.mpp / 2, tile=2 * settings.tile, field=2 * settings.field)


def network(arm: str, classes: int, settings: Settings, seed: int = 0) -> nn.Module:
    """One of ``ARMS`` or ``FINE``, freshly drawn; pictures of any size are padded and the answer cropped."""
    arm = arm.removesuffix(" fine")
    width, depth = settings.widths[ARMS.index(arm)], settings.depth
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arm == "CNN":
            return PlainUNet(3, classes, width, depth, pad_to_valid=True)
        if arm == "SESN":
            return SESNUNet(3, classes, width, depth, pad_to_valid=True)
        if arm == "DISCO":
            return DISCOUNet(3, classes, width, depth, pad_to_valid=True)
        if arm == "N-Jet":
            return SEUNet(3, classes, width, 1, depth, mode="free", pad_to_valid=True)
        mode = {"SEUNet": "constrained", "SEUNet, fixed σ": "fixed", "SEUNet, free σ": "free"}[arm]
        return SEUNet(3, classes, width, 5, depth, mode=mode, pad_to_valid=True)


def trained_network() -> SEUNet:
    """The small SEUNet of the kept result on slides (seed 0), in eval mode; 5 classes of ``TissueTypes``.

    ``equipath run seunet --folder RUNS`` makes the weights again, in ``RUNS/slides-small-0/SEUNet/best.safetensors``.
    """
    net = network("SEUNet", 5, SETTINGS["small"]["slides"])
    net.load_state_dict(
        load_file(str(files("equipath.experiments") / "weights" / "seunet_slides.safetensors"))
    )
    assert isinstance(net, SEUNet)
    return net.eval()


def loss_of(net: nn.Module, weights: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, its classes weighted by ``weights`` (K,); of all heads, by eq. 9, for SEUNet."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        given = None if weights is None else weights.to(logits.device)
        if isinstance(net, SEUNet):
            return net.loss(logits, target, class_weights=given)
        return F.cross_entropy(logits, target, weight=given)

    return loss


def class_weights(pairs: Any, classes: int) -> Tensor:
    """One over the root of each class's share of the labelled pixels, (K,), 1 on average over the pixels."""
    masks = pairs[1] if isinstance(pairs, tuple) else [mask for _, mask in pairs]
    counts = torch.zeros(classes, dtype=torch.float64)
    for mask in masks:
        counts += torch.bincount(mask[mask != IGNORE], minlength=classes)
    share = counts / counts.sum()
    weights = share.clamp_min(1e-4).rsqrt()
    return (weights / (weights * share).sum()).float()


# --------------------------------------------------------------------------------------------------
# pictures at a scale


class Fields:
    """The pictures of one split of a set, at any scale.

    Args:
        data: a key of ``TASKS``.
        split: "train", "val" or "test".
        side: pixels along a side at scale 1.
        count: at most so many pictures, spread over the patients.
        normalizer: recolours the pictures of public sets.
    """

    def __init__(
        self,
        data: str,
        split: str,
        side: int,
        settings: Settings,
        count: int | None = None,
        root: str | Path | None = None,
        normalizer: StainNormalizer | None = None,
    ) -> None:
        self.data, self.split, self.side = data, split, side
        self._kept: dict[tuple[float, int, int], tuple[Tensor, Tensor]] = {}
        if data == "slides":
            self.mpp = settings.mpp or 1.0
            self._options: dict[str, Any] = (
                {} if count is None else {"per_patient": 6, "patients": -(-count // 6)}
            )
            items: Any = self._rendered(side)
            self.count = min(len(items), count or len(items))
        else:
            native = float(load(data, TASKS[data], split, root=root)[0]["mpp"])
            self.mpp = settings.mpp or native
            crop = round(side * self.mpp / native)
            items = load(data, TASKS[data], split, root=root, tile=crop, stride=crop)
            order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
            self._tiles = []
            for i in sorted(order[: count or len(order)]):
                image, mask = items[i]["image"], items[i]["mask"]
                if normalizer is not None:
                    image = normalizer(image)
                # Bytes: a whole public set fits in memory.
                self._tiles.append(((image * 255).round().byte(), mask.to(torch.int8)))
            self.count = len(self._tiles)
        self.classes: tuple[str, ...] = items.classes

    def _rendered(self, size: int) -> Any:
        mpp = self.mpp * self.side / size
        return load("slides", TASKS[self.data], self.split, size=size, mpp=mpp, **self._options)

    def at(self, scale: float = 1.0, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (N, 3, n, n) and masks (N, n, n) with n = round(side · scale), all of the same tissue.

        ``first``, ``last``: only the pictures from one number to another.
        """
        last = self.count if last is None else min(last, self.count)
        key = scale, first, last
        if key not in self._kept:
            found = self._make(round(self.side * scale), range(first, last))
            if sum(image.nbytes for image, _ in self._kept.values()) + found[0].nbytes > KEEP:
                return found
            self._kept[key] = found
        return self._kept[key]

    def _make(self, size: int, which: range) -> tuple[Tensor, Tensor]:
        if self.data == "slides":
            found = self._rendered(size).__getitems__(which)
            return torch.stack([i["image"] for i in found]), torch.stack([i["mask"] for i in found])
        images, masks = [], []
        for i in which:
            image, mask = self._tiles[i][0][None].float() / 255, self._tiles[i][1][None, None].double()
            if image.shape[-1] != size or image.shape[-2] != size:
                smaller = size < image.shape[-1]
                image = F.interpolate(image, size=(size, size), mode="bicubic", antialias=smaller).clamp(0, 1)
                mask = F.interpolate(mask, size=(size, size), mode="nearest-exact")
            images.append(image[0])
            masks.append(mask[0, 0].long())
        return torch.stack(images), torch.stack(masks)

    def pairs(self) -> Any:
        """All pictures at scale 1 with their masks, as ``fit`` takes them."""
        if self.data != "slides" and self._tiles[0][0].shape[-1] == self.side:
            return _Tiles(self._tiles)
        return self.at(1.0)


class _Tiles(Dataset):
    """Bytes as (image, mask): a set too large for floats."""

    def __init__(self, tiles: list[tuple[Tensor, Tensor]]) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.tiles[index]
        return image.float() / 255, mask.long()


# --------------------------------------------------------------------------------------------------
# what is measured


def last_features(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature field (B, C, S, H, W) before the head, and the logits made of it."""
    padded, top, left = net.sizes.pad(x)  # type: ignore[operator, union-attr]
    height, width = x.shape[-2:]
    features = net.features(padded)  # type: ignore[operator]
    logits = net.head(features)  # type: ignore[operator]
    return tuple(y[..., top : top + height, left : left + width] for y in (features, logits))  # type: ignore[return-value]


def probabilities(logits: Tensor) -> dict[str, Tensor]:
    """Class probabilities (B, K, H, W) by the name of what made them: the ensembles and heads of a network with
    several heads, else "head 1".
    """
    if logits.dim() == 4:
        return {"head 1": torch.softmax(logits, 1)}
    heads = {f"head {k + 1}": torch.softmax(logits[:, :, k], 1) for k in range(logits.shape[2])}
    if len(heads) == 1:
        return heads
    return {strategy: scale_ensemble(logits, strategy) for strategy in STRATEGIES} | heads


def pair_errors(moved: Tensor, seen: Tensor, border: int) -> Tensor:
    """Eq. 12 between two scale fields (N, C, S, H, W) on one grid, ``border`` pixels at the edges left out.

    Entry (k, k') is ``mean_i ||moved_k - seen_k'||² / ||moved_k||²``; moved is the transformed answer for the
    picture, seen the answer for the transformed picture. With S = 1 it is eq. 10. Pictures on which scale k is
    silent (zero everywhere) have no such ratio and are left out; NaN if none is left.

    Returns: (S, S) float64.
    """
    return _ratios(moved, seen, border).nanmean(0)


def _ratios(moved: Tensor, seen: Tensor, border: int) -> Tensor:
    inner = (..., slice(border, moved.shape[-2] - border), slice(border, moved.shape[-1] - border))
    return pair_ratios(moved[inner], seen[inner])


def _rescaled(x: Tensor, size: int) -> Tensor:
    """Maps (..., H, W) resampled to (size, size), bicubic, filtered first where they shrink."""
    return Scaling(size / x.shape[-1]).planar(x)


@torch.no_grad()
def measure(net: nn.Module, fields: Fields, scales: Sequence[float] = SCALES) -> dict[str, Any]:
    """IoU and equivariance error at every test scale, 1 among them.

    Returns:
        ``iou.NAME``: one number a scale for every answer of ``probabilities``: of the nucleus class where there
        are two classes, else the mean over the classes (pixels of all test pictures counted together).
        ``mean_iou.NAME``: their mean. ``kept.NAME``: that mean over the IoU at scale 1.
        ``class_iou``: of each class, the mean over the scales, for the final answer (P_Ens for SEUNet).
        ``error``: eq. 10 for the last feature field, at every scale but 1. For a network of several scales each
        scale k of the picture is compared with the scale k' of the rescaled picture that fits it best, then
        the mean over k is taken (the paper does not say how it paired them); ``mean_error``. ``silent``: the
        share of pictures and scales that have no error, since their features are zero.
        ``answer_error``, ``mean_answer_error``: eq. 10 for the probabilities that the network finally gives
        (P_Ens for SEUNet), where nothing is paired.
        ``pairs``: the matrices (eq. 12) of the last field at every scale.
    """
    net.eval()
    classes = len(fields.classes)
    counts: dict[str, np.ndarray] = {}
    ratios: dict[float, list[Tensor]] = {scale: [] for scale in scales if scale != 1}
    answers = dict.fromkeys(scales, 0.0)
    step = max(1, int(BATCH_PIXELS / (fields.side * max(scales)) ** 2))
    for first in range(0, fields.count, step):
        part = min(step, fields.count - first)
        features, logits = _by_batches(net, fields.at(1.0, first, first + step)[0])
        answer = next(iter(probabilities(logits).values()))
        for n, scale in enumerate(scales):
            x, masks = fields.at(scale, first, first + step)
            there, new_logits = _by_batches(net, x)
            found = probabilities(new_logits)
            for name, p in found.items():
                matrix = confusion_matrix(p.argmax(1), masks, classes, ignore_index=IGNORE)
                counts.setdefault(name, np.zeros((len(scales), classes, classes)))[n] += matrix
            if scale == 1:
                continue
            size = x.shape[-1]
            ratios[scale].append(_ratios(_rescaled(features, size), there, size // 8))
            moved, new = _rescaled(answer, size)[:, :, None], next(iter(found.values()))[:, :, None]
            answers[scale] += float(pair_errors(moved, new, size // 8)) * part / fields.count
    away = list(ratios)
    every = {scale: torch.cat(several) for scale, several in ratios.items()}
    pairs = {scale: found.nanmean(0) for scale, found in every.items()}
    out: dict[str, Any] = {
        "scales": list(scales),
        "error": [float(pairs[scale].amin(1).nanmean()) for scale in away],
        "silent": [float(every[scale].isnan().double().mean()) for scale in away],
        "answer_error": [answers[scale] for scale in away],
        "pairs": [pairs[scale].tolist() for scale in away],
    }
    here = list(scales).index(1)
    for name, matrices in counts.items():
        values = [_iou(matrix) for matrix in matrices]
        out[f"iou.{name}"] = values
        out[f"mean_iou.{name}"] = float(np.mean(values))
        out[f"kept.{name}"] = float(np.mean(values)) / values[here] if values[here] else float("nan")
    of_classes = np.array([_class_iou(matrix) for matrix in next(iter(counts.values()))])
    times = np.isfinite(of_classes).sum(0)  # at how many scales there was anything to say of a class
    mean = np.where(times > 0, np.nansum(of_classes, 0) / np.maximum(times, 1), np.nan)
    out["class_iou"] = dict(zip(fields.classes, mean.tolist(), strict=True))
    out["mean_error"] = float(torch.tensor(out["error"]).nanmean())
    out["mean_answer_error"] = float(np.mean(out["answer_error"]))
    return out | best_heads(out)


def _iou(matrix: np.ndarray) -> float:
    """Of the second of two classes, else the mean over the classes that occur, from a confusion matrix."""
    each = _class_iou(matrix)
    return float(each[1] if len(each) == 2 else np.nanmean(each))


def _class_iou(matrix: np.ndarray) -> np.ndarray:
    """Of every class, from a confusion matrix; NaN of one that neither occurs nor is answered."""
    both = matrix.diagonal()
    either = matrix.sum(0) + matrix.sum(1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def _by_batches(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """``last_features`` of all images, so many at a time that memory stays small."""
    step = max(1, BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))
    parts = [last_features(net, some) for some in images.split(step)]
    return torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts])


def best_heads(measured: dict[str, Any]) -> dict[str, Any]:
    """Does the best head move to larger σ as pictures grow: the best head (from 1) at every scale, and
    Spearman's rank correlation of the head's number with the scale. Nothing for a network of one head.
    """
    names = [key for key in measured if key.startswith("iou.head ")]
    if len(names) < 2:
        return {}
    table = np.array([measured[name] for name in sorted(names)])
    best = table.argmax(0) + 1
    # A centre of gravity of the heads, each weighted by what it has over the worst, moves where argmax sticks.
    gain = table - table.min(0)
    centre = (gain * np.arange(1, len(names) + 1)[:, None]).sum(0) / np.maximum(gain.sum(0), 1e-12)
    trend = {
        name: float(spearmanr(measured["scales"], v).statistic) if len(set(v.tolist())) > 1 else 0.0
        for name, v in (("best_head_trend", best), ("head_centre_trend", centre))
    }
    return {"best_head": best.tolist(), "head_centre": centre.tolist()} | trend


@torch.no_grad()
def first_layer_matrices(net: SEUNet, fields: Fields) -> dict[str, Any]:
    """Appendix C: σ of the first layer and its error matrices (eq. 12) at ``FIRST_LAYER_SCALES``, on up to 16
    pictures.
    """
    layer = net.down[0][0]  # type: ignore[index]
    images = fields.at(1.0, 0, 16)[0]
    here = layer(images)
    matrices = []
    for n in FIRST_LAYER_SCALES:
        x, _ = fields.at(2.0 ** (n / 4), 0, 16)
        matrices.append(pair_errors(_rescaled(here, x.shape[-1]), layer(x), x.shape[-1] // 8).tolist())
    return {"first_sigma": layer.sigma.tolist(), "first_matrices": matrices}  # type: ignore[union-attr, operator]


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
    settings: Settings | None = None,
    results: str | Path | None = None,
) -> dict[str, Any]:
    """Train every arm at one scale, test it at 17, save one result each.

    Args:
        data: "slides" (tissue classes of breast), "tnbc" or "monuseg" (nuclei), "bcss" (tissue classes).
        size: "small" (minutes on two cores) or "paper".
        folder: checkpoints of the training, one folder an arm: a run that was stopped goes on there.
        root: folder of the data sets.
        arms: some of ``ARMS`` and ``FINE``.
        settings: in place of those of ``size``.
        results: where the JSONs go; `book/results` by default.

    Returns:
        {arm: metrics}.
    """
    runs = Runs(NAME, data, size, seed, folder, progress, results)
    runs.check(TASKS, arms, (*ARMS, *FINE))
    settings = settings or SETTINGS[size][data]
    by_settings: dict[Settings, list[str]] = {}
    for arm in arms:
        by_settings.setdefault(of_arm(arm, settings), []).append(arm)
    normalizer = None
    if settings.stain and data != "slides":
        normalizer = StainNormalizer("vahadane").fit(load(data, TASKS[data], "train", root=root)[0]["image"])
    out: dict[str, Any] = {}
    for one, its in by_settings.items():
        out |= _run(runs, its, one, root, normalizer)
    return {arm: out[arm] for arm in arms}


def _run(
    runs: Runs,
    arms: Sequence[str],
    settings: Settings,
    root: str | Path | None,
    normalizer: StainNormalizer | None,
) -> dict[str, Any]:
    """Arms that share their pictures."""
    data, count = runs.data, settings.tiles
    train = Fields(data, "train", settings.tile, settings, count, root, normalizer)
    val = Fields(data, "val", settings.tile, settings, count and max(1, count // 8), root, normalizer)
    test = Fields(data, "test", settings.field, settings, settings.test_tiles, root, normalizer)
    train_set, val_set = train.pairs(), val.pairs()
    weights = class_weights(train_set, len(train.classes)) if settings.balance else None

    def test_once(net: nn.Module) -> dict[str, Any]:
        metrics = measure(net, test, SCALES)
        if isinstance(net, SEUNet):
            metrics["sigma"] = [sigma.tolist() for sigma in net.sigmas]
            metrics["eta"] = net.eta.tolist()
            metrics |= first_layer_matrices(net, test)
        return metrics

    out = {}
    for arm in arms:
        net = network(arm, len(train.classes), settings, runs.seed)
        which = ARMS.index(arm.removesuffix(" fine"))
        config = asdict(settings) | {"model": arm, "lr": settings.lrs[which], "width": settings.widths[which]}
        # What concerns the other networks does not tell this run from others.
        del config["lrs"], config["widths"]
        out[arm] = runs.one(
            net, train_set, val_set, config, test_once, loss=loss_of(net, weights), optimizer="adam",
            weight_decay=settings.weight_decay, schedule="onecycle",
        )  # fmt: skip
    return out


# --------------------------------------------------------------------------------------------------
# the tables

PAPER = {
    "nuclei": {
        "CNN": ("54.94", "0.64"), "SESN": ("57.29", "0.57"), "DISCO": ("59.77", "0.39"),
        "SEUNet, mean": ("59.96", "–"), "SEUNet, P_Dist": ("59.93", "–"), "SEUNet, P_Ens": ("59.98", "0.26"),
        "SEUNet, fixed σ": ("58.36", "–"), "SEUNet, free σ": ("57.40", "–"),
    },
    "tissue": {
        "CNN": ("34.48", "0.74"), "SESN": ("35.36", "0.72"), "DISCO": ("40.51", "0.61"),
        "SEUNet, mean": ("40.51", "–"), "SEUNet, P_Dist": ("42.10", "–"), "SEUNet, P_Ens": ("42.43", "0.54"),
        "SEUNet, fixed σ": ("41.45", "–"), "SEUNet, free σ": ("39.02", "–"),
    },
}  # fmt: skip
"""Tables 2 and 3: mean IoU over the scales (%) and E_err, on MoNuSeg (nuclei) and BCSS (tissue classes)."""
COLOURS = {
    "CNN": "#000000", "N-Jet": "#999999", "SESN": "#E69F00", "DISCO": "#009E73", "SEUNet": "#0072B2",
    "SEUNet, fixed σ": "#56B4E9", "SEUNet, free σ": "#CC79A7",
}  # fmt: skip
Arms = list[tuple[str, list[dict[str, Any]]]]


def report(results: list[dict[str, Any]]) -> list[Any]:
    """The page's parts: arms over the scales, heads, σ in its three settings, error matrices."""
    parts: list[Any] = [
        "All networks share one backbone and about one number of weights, are trained at one scale, without "
        "scale augmentation, and tested at 17 scales from 1/4 to 4. *Kept* is the mean IoU over the scales as a "
        "part of the IoU at the training scale: who loses least away from it. E_err (eq. 10) compares the "
        "last features of the rescaled picture with the rescaled features; in a network of several scales each "
        "scale with the best fitting one. *Answer error* is the same for the final probabilities, where nothing "
        "is matched."
    ]
    for (data, size), runs in grouped(results, "data", "size").items():
        by = grouped(runs, "model")
        found = sorted(
            ((key, some) for key, some in by.items() if key[0] in ARMS),
            key=lambda pair: ARMS.index(pair[0][0]),
        )
        arms: Arms = [(arm, some) for (arm,), some in found]
        parts.append(_main_table(arms, data, size))
        parts += _silent(arms)
        parts.append(_scales_picture(arms, data, size))
        if TASKS[data] == "tissue" and all("class_iou" in run["metrics"] for _, runs in arms for run in runs):
            parts.append(_classes_table(arms, data, size))
        for arm, some in arms:
            if arm == "SEUNet":
                parts += _heads(some, data, size)
                parts.append(_matrices_picture(some, data, size))
        parts += _finer(by, data, size)
        if any(arm.endswith("σ") for arm, _ in arms):
            parts += _sigma_table(arms, data, size)
            parts += _sigma_text(arms)
            parts.append(_sigma_picture(arms, data, size))
    return parts


def _of(arms: Arms, size: str) -> str:
    """The size, and how many seeds the arms have."""
    return f"{size}, {seeds_of(*(len(runs) for _, runs in arms))}"


def _numbers(runs: list[dict[str, Any]], name: str, digits: int = 3, scale: float = 1.0) -> str:
    return mean_sd((run["metrics"].get(name) for run in runs), digits, scale)


def _finer(by: dict[Any, list[dict[str, Any]]], data: str, size: str) -> list[str | Table]:
    """What pixels of half the size change for the CNN and for SEUNet, on the seeds that all four have."""
    pairs = {arm: [by.get((f"{arm}{end}",), []) for end in ("", " fine")] for arm in ("CNN", "SEUNet")}
    every = [some for pair in pairs.values() for some in pair]
    if not (seeds := set.intersection(*({run["seed"] for run in some} for some in every))):
        return []
    kind = "IoU" if TASKS[data] == "nuclei" else "mIoU"
    rows, means = [], {}
    for arm, pair in pairs.items():
        for number, some in enumerate(pair):
            kept = sorted((run for run in some if run["seed"] in seeds), key=lambda run: run["seed"])
            last = "P_Ens" if arm == "SEUNet" else "head 1"
            heads = [name for k in range(1, 6) if (name := f"mean_iou.head {k}") in kept[0]["metrics"]]
            each = " / ".join(_numbers(kept, name, 1, 100).split(" ")[0] for name in heads)
            here = mean_sd([run["metrics"][f"iou.{last}"][_middle(run)] for run in kept], 1, 100)
            rows.append([
                arm, f"{kept[0]['config']['mpp']:g}", here,
                _numbers(kept, f"mean_iou.{last}", 1, 100), _numbers(kept, f"kept.{last}", 2),
                each if len(heads) > 1 else "–",
            ])  # fmt: skip
            means[arm, number] = np.array([100 * run["metrics"][f"mean_iou.{last}"] for run in kept])
    gaps = [means["SEUNet", number] - means["CNN", number] for number in (0, 1)]
    text = (
        f"SEUNet's mean {kind} is {gaps[0].mean():+.1f} points from the CNN's at {rows[0][1]} µm a pixel and "
        f"{gaps[1].mean():+.1f} at {rows[1][1]} µm."
    )
    if (gaps[1] > gaps[0]).all():
        text += (
            " On every seed finer pixels bring it nearer or further ahead: σ is counted in pixels, and the filters of the last "
            "heads cover whole nuclei or more where a nucleus has few of them."
            if kind == "IoU"
            else " On every seed finer pixels bring it nearer or further ahead: σ is counted in pixels."
        )
    return [
        Table(
            ("network", "µm a pixel", f"{kind} at 1 (%)", f"mean {kind} (%)", "kept", "mean of heads 1 to 5 alone"), rows,
            f"The same tissue in twice as many pixels along a side ({data}, size {size}, {seeds_of(len(seeds))}; SEUNet: P_Ens).",
        ),
        text,
    ]  # fmt: skip


def _main_table(arms: Arms, data: str, size: str) -> Table:
    rows = []
    for arm, runs in arms:
        for head in STRATEGIES[::-1] if "P_Ens" in str(runs[0]["metrics"].keys()) else ("head 1",):
            name = f"{arm}, {head}" if arm == "SEUNet" else arm
            if arm.endswith("σ") and head != "P_Ens":
                continue
            final = head in ("head 1", "P_Ens")
            here = mean_sd([run["metrics"][f"iou.{head}"][_middle(run)] for run in runs], 1, 100)
            paper = PAPER[TASKS[data]].get(name, ("–", "–"))
            rows.append([
                name, str(runs[0]["config"]["parameters"]), here,
                _numbers(runs, f"mean_iou.{head}", 1, 100), _numbers(runs, f"kept.{head}", 2),
                _numbers(runs, "mean_error", 2) if final else "–",
                _numbers(runs, "mean_answer_error", 2) if final else "–", *paper,
            ])  # fmt: skip
    kind, paper_set = ("IoU", "MoNuSeg") if TASKS[data] == "nuclei" else ("mIoU", "BCSS")
    header = ["network", "weights", f"{kind} at 1 (%)", f"mean {kind} (%)", "kept", "E_err", "answer error"]
    header += [f"paper: {kind}", "paper: E_err"]
    count = arms[0][1][0]["config"].get("test_tiles")
    on = f"{count} test pictures of {data}" if count else data
    return Table(
        header, rows,
        f"Mean over 17 scales on {on} ({_of(arms, size)}). The paper's columns are for {paper_set} "
        "{cite}`yang2023`, tables 2 and 3.",
    )  # fmt: skip


def _silent(arms: Arms) -> list[str]:
    """Which networks have features that are zero, or nearly, for which eq. 10 says nothing."""
    shares = {
        arm: 100 * float(np.mean([np.mean(run["metrics"].get("silent", 0)) for run in runs]))
        for arm, runs in arms
    }
    words = [f"{arm} {share:.1f} %" for arm, share in shares.items() if share > 0]
    large = [
        arm for arm, runs in arms if np.mean([run["metrics"].get("mean_error") or 0 for run in runs]) > 2
    ]
    if not (words or large):
        return []
    text = "E_err divides by the size of the features."
    if words:
        text += (
            f" Where a scale of a picture has none but zeros it is left out: {', '.join(words)} of all scales and "
            "pictures."
        )
    if large:
        text += (
            " Where features are nearly zero at the training scale the ratio is huge, and one such picture may make the "
            f"mean: {' and '.join(large)} above the 2 of unrelated features says no more than that some features are larger "
            "at another scale. Nothing divides by so little in the answer error."
        )
    return [text]


def _middle(run: dict[str, Any]) -> int:
    return run["metrics"]["scales"].index(1.0)


def _mean(runs: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.mean([run["metrics"][name] for run in runs], 0)


def _scales_picture(arms: Arms, data: str, size: str) -> Picture:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure((7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    said = []
    for arm, runs in arms:
        name = "iou.P_Ens" if "iou.P_Ens" in runs[0]["metrics"] else "iou.head 1"
        scales = np.array(runs[0]["metrics"]["scales"])
        values = 100 * _mean(runs, name)
        style = {"color": COLOURS[arm], "label": arm, "lw": 1.6, "ls": "--" if arm.endswith("σ") else "-"}
        left.plot(scales, values, **style)
        right.plot(scales[scales != 1], _mean(runs, "error"), **style)
        said.append(f"{arm} {values[0]:.0f}, {values[len(values) // 2]:.0f}, {values[-1]:.0f}")
    kind = "IoU" if TASKS[data] == "nuclei" else "mIoU"
    for axis, label in ((left, f"{kind} (%)"), (right, "E_err of the last features")):
        axis.set_xscale("log", base=2)
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        axis.set_xlabel("test scale")
        axis.set_ylabel(label)
        axis.axvline(1, color="0.8", lw=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_ylim(0)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return Picture(
        f"scales-{data}-{size}", figure,
        f"{kind} in percent at scales 1/4, 1 and 4: {'; '.join(said)}. Errors in the second panel.",
        f"{kind} and equivariance error by test scale on {data} ({_of(arms, size)}; SEUNet: P_Ens); the paper's figure 2.",
    )  # fmt: skip


def _classes_table(arms: Arms, data: str, size: str) -> Table:
    names = next(iter(arms))[1][0]["metrics"]["class_iou"]
    rows = [
        [arm, *(mean_sd([run["metrics"]["class_iou"][name] for run in runs], 1, 100) for name in names)]
        for arm, runs in arms
    ]
    return Table(
        ["network", *names], rows,
        f"IoU of each class in percent, mean over 17 scales, on {data} ({_of(arms, size)}, SEUNet: P_Ens): what the mean "
        "hides, a class of few pixels that one run finds and another does not.",
    )  # fmt: skip


def _heads(runs: list[dict[str, Any]], data: str, size: str) -> list[Any]:
    scales = runs[0]["metrics"]["scales"]
    chosen = range(0, len(scales), 2)
    count = len([name for name in runs[0]["metrics"] if name.startswith("iou.head ")])
    table = np.array([100 * _mean(runs, f"iou.head {k + 1}") for k in range(count)])
    rows = []
    for k in range(count):
        cells = [
            f"**{table[k, i]:.1f}**" if table[:, i].argmax() == k else f"{table[k, i]:.1f}" for i in chosen
        ]
        rows.append([f"head {k + 1}", *cells, f"{table[k].mean():.1f}"])
    best = table.argmax(0) + 1
    middle = len(best) // 2
    alone = np.array([[100 * run["metrics"][f"mean_iou.head {k + 1}"] for k in range(count)] for run in runs])
    text = (
        f"Heads on {data}: the best one, from the smallest scale to the largest, is "
        f"{', '.join(map(str, best))} (1 has the smallest σ). Mean of the best head's number: "
        f"{best[:middle].mean():.1f} below the training scale, {best[middle + 1 :].mean():.1f} above it; rank "
        f"correlation with the scale {_numbers(runs, 'best_head_trend', 2)} (of the heads' centre of gravity: "
        f"{_numbers(runs, 'head_centre_trend', 2)}). In the paper the best heads are 1 and 2 below the training scale, 5 "
        "at the largest scales. "
        + _alone(alone, np.array([100 * run["metrics"]["mean_iou.P_Ens"] for run in runs]))
    )
    header = ["", *(f"{scales[i]:.2g}" for i in chosen), "mean"]
    caption = (
        f"SEUNet's heads by test scale on {data} ({size}, {seeds_of(len(runs))}), IoU in percent, best in bold; the "
        "paper's table 1."
    )
    return [Table(header, rows, caption), text]


def _alone(heads: np.ndarray, together: np.ndarray) -> str:
    """The head that is best over the scales, (R, S) of R runs, against all heads together (R,): hindsight, and so
    said.
    """
    best = int(heads.mean(0).argmax())
    ahead = int((heads[:, best] > together).sum())
    return (
        f"Over all scales all heads together (P_Ens) have {together.mean():.1f}; the head that the test itself shows to be "
        f"best, {best + 1}, has {heads[:, best].mean():.1f} alone and is ahead in {ahead} of {len(together)} runs."
    )


SIGMAS = {"SEUNet": "constrained", "SEUNet, fixed σ": "fixed", "SEUNet, free σ": "free"}


def _common(arms: Arms) -> Arms:
    """The settings of σ, each with its runs of the seeds that all of them have; nothing if there is no such seed."""
    kinds = [(arm, runs) for arm, runs in arms if arm in SIGMAS]
    seeds = set.intersection(*({run["seed"] for run in runs} for _, runs in kinds))
    return [(arm, [run for run in runs if run["seed"] in seeds]) for arm, runs in kinds] if seeds else []


def _sigma_table(arms: Arms, data: str, size: str) -> list[Table]:
    rows = []
    for arm, runs in (common := _common(arms)):
        paper = PAPER[TASKS[data]]["SEUNet, P_Ens" if arm == "SEUNet" else arm][0]
        rows.append([
            SIGMAS[arm], _numbers(runs, "mean_iou.P_Ens", 1, 100), _numbers(runs, "mean_error", 2),
            _numbers(runs, "processor_seconds", 0), paper,
        ])  # fmt: skip
    header = ["σ", "mean IoU (%)", "E_err", "processor seconds of training", "paper: IoU"]
    if not rows:
        return []
    seeds = sorted(run["seed"] for run in common[0][1])
    caption = (
        f"σ constrained to its interval, fixed in its middle, or free, on {data} ({size}), all from the same "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}. "
        "In the paper ({cite}`yang2023`, section 5) free σ takes three times as long."
    )
    return [Table(header, rows, caption)]


def _sigma_text(arms: Arms) -> list[str]:
    """Whether seeds differ more than the settings of σ, and how far the smallest constrained σ has gone."""
    kinds = {arm: runs for arm, runs in arms if arm in SIGMAS}
    common = dict(_common(arms))
    values = {arm: [100 * run["metrics"]["mean_iou.P_Ens"] for run in runs] for arm, runs in common.items()}
    words = []
    if len(values) > 1 and min(map(len, values.values())) == 1:
        words.append("One seed tells no order of the settings.")
    elif len(values) > 1:
        means = [np.mean(some) for some in values.values()]
        reach = {arm: max(some) - min(some) for arm, some in values.items()}
        widest = max(reach, key=lambda arm: reach[arm])
        between, within = max(means) - min(means), reach[widest]
        words.append(
            f"The settings' means lie {between:.1f} points apart, the seeds of one setting up to {within:.1f}"
            + (": so few runs tell no order of the settings, neither the paper's nor another."
               if within > between else ".")
        )  # fmt: skip
        apart: dict[str, float] = {}
        for name in common[widest][0]["metrics"].get("class_iou", {}):
            some = [100 * (run["metrics"]["class_iou"][name] or 0.0) for run in common[widest]]
            apart[name] = max(some) - min(some)
        name = max(apart, key=lambda one: apart[one], default="")
        if name and apart[name] / len(apart) > within / 2:
            words.append(
                f"Most of that is one class: of *{name}* the IoU is {apart[name]:.0f} points apart there."
            )
    if "SEUNet" in kinds:
        least, layer = min(
            (min(sigma), number)
            for run in kinds["SEUNet"]
            for number, sigma in enumerate(run["metrics"]["sigma"], start=1)
        )
        config = kinds["SEUNet"][0]["config"]
        low, high = sigma_ranges(5, config["depth"])[0][0]
        words.append(
            f"The smallest σ that is held in its interval ends at {least:.2f} pixels, in layer {layer}. Eq. 6 allows "
            f"it, since the first interval goes from {low:g} to {high:g}; there a filter is hardly more than the pixel "
            "itself, and the first head keeps the finest detail."
        )
    if "SEUNet, free σ" in kinds:
        layers = [sigma for run in kinds["SEUNet, free σ"] for sigma in run["metrics"]["sigma"]]
        kept = sum(sorted(sigma) == list(sigma) for sigma in layers)
        words.append(
            f"Left free, the σs of the scales are still in their order in {kept} of {len(layers)} layers of all runs."
        )
    return [" ".join(words)] if words else []


def _sigma_picture(arms: Arms, data: str, size: str) -> Picture:
    from matplotlib.figure import Figure

    shown = ("SEUNet", "SEUNet, free σ")
    some = [(arm, runs) for arm, runs in _common(arms) or arms if arm in shown]
    figure = Figure((7.2, 2.6), layout="constrained")
    axes = figure.subplots(1, len(some), sharey=True, squeeze=False)[0]
    for axis, (arm, runs) in zip(axes, some, strict=True):
        sigma = np.array(runs[0]["metrics"]["sigma"])
        layers = np.arange(1, len(sigma) + 1)
        for k in range(sigma.shape[1]):
            axis.plot(layers, sigma[:, k], marker="o", ms=3, color=("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")[k],
                      label=f"scale {k + 1}")  # fmt: skip
        axis.set_title("constrained" if arm == "SEUNet" else "free", fontsize=9)
        axis.set_xlabel("layer")
        axis.set_xticks(layers)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("σ (pixels)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return Picture(
        f"sigma-{data}-{size}", figure,
        "Lines of σ over the layers, one a scale: constrained ones stay apart; free ones go where training takes them.",
        f"σ of every layer after training on {data}, seed {' and '.join(sorted({str(few[0]['seed']) for _, few in some}))}; "
        "the paper's figure 3.",
    )  # fmt: skip


def _matrices_picture(runs: list[dict[str, Any]], data: str, size: str) -> Picture:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    metrics = runs[0]["metrics"]
    sigma = metrics["first_sigma"]
    figure = Figure((7.2, 2.5), layout="constrained")
    axes = figure.subplots(1, len(FIRST_LAYER_SCALES))
    said, found = [], []
    for axis, n, matrix in zip(axes, FIRST_LAYER_SCALES, metrics["first_matrices"], strict=True):
        table = np.array(matrix)
        axis.imshow(np.log10(table.T + 1e-12), cmap="viridis", origin="lower")
        k, j = divmod(int(table.argmin()), len(sigma))
        axis.add_patch(Rectangle((k - 0.5, j - 0.5), 1, 1, fill=False, ec="red", lw=1.5))
        ticks = [f"{s:.1f}" for s in sigma]
        axis.set_xticks(range(len(sigma)), ticks, fontsize=6)
        axis.set_yticks(range(len(sigma)), ticks, fontsize=6)
        axis.set_title(f"s = {2 ** (n / 4):.2f}", fontsize=9)
        axis.set_xlabel("σ, original", fontsize=8)
        said.append(f"at s = {2 ** (n / 4):.2f} σ {sigma[k]:.2f} fits σ {sigma[j]:.2f}")
        found.append(f"{sigma[j] / max(sigma[k], 1e-6):.2f} at s = {2 ** (n / 4):.2f}")
    axes[0].set_ylabel("σ, rescaled picture", fontsize=8)
    return Picture(
        f"matrices-{data}-{size}", figure, f"Smallest errors: {'; '.join(said)}.",
        f"Error matrices (eq. 12, logarithmic colours, dark is small) of SEUNet's first layer on {data}, seed "
        f"{runs[0]['seed']}; red: the smallest, with σs in a ratio of {', '.join(found)}. In the paper's figure 5 the ratio "
        "is about s.",
    )  # fmt: skip
