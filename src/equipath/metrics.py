"""How good is a prediction, and how repeatable: overlap, probability, ranking, localisation and agreement.

Every function takes (prediction, target) in this order, as tensors or arrays. Overlap and agreement are
counts of a confusion matrix; AUC and kappa are scikit-learn's; intervals are percentile bootstraps over
cases. FROC follows the Camelyon16 evaluation (Bejnordi et al. 2017), the intraclass correlations Shrout &
Fleiss 1979.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn import metrics as sk
from torch import Tensor

Array = Any  # a tensor, an array, or nested sequences of numbers


def _array(x: Array) -> np.ndarray:
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # numpy knows no bfloat16
    return np.asarray(x)


def _pair(prediction: Array, target: Array) -> tuple[np.ndarray, np.ndarray]:
    p, t = _array(prediction), _array(target)
    if p.shape != t.shape:
        raise ValueError(f"prediction and target must have one shape; got {p.shape} and {t.shape}")
    if p.size == 0:
        raise ValueError("prediction and target are empty")
    return p, t


def _labels(x: np.ndarray, name: str) -> np.ndarray:
    x = x.ravel()
    with np.errstate(invalid="ignore"):  # NaN has no whole number, which shows in the next line
        labels = x.astype(np.int64)
    if x.dtype.kind == "f" and (other := x[labels != x]).size:
        raise ValueError(
            f"the {name} holds numbers that are no labels, such as {other[0]:g}: take argmax of probabilities over "
            "the classes, or a threshold, first"
        )
    return labels


# ---- overlap of segmentations ----


def confusion_matrix(
    prediction: Array, target: Array, num_classes: int, *, ignore_index: int | None = None
) -> np.ndarray:
    """Counts (K, K) int64: entry (i, j) is how many pixels of true class i were called j.

    Args:
        prediction, target: class indices 0 … K-1, any equal shapes.
        ignore_index: pixels whose target is this label are left out.
    """
    p, t = (
        _labels(x, name) for x, name in zip(_pair(prediction, target), ("prediction", "target"), strict=True)
    )
    if ignore_index is not None:
        p, t = p[t != ignore_index], t[t != ignore_index]
    for name, labels in (("prediction", p), ("target", t)):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            raise ValueError(
                f"the {name} has labels {labels.min()} to {labels.max()}; with {num_classes} classes they "
                f"are 0 to "
                f"{num_classes - 1}. Logits? Take argmax first. A label for unknown? Give it as ignore_index"
            )
    return np.bincount(t * num_classes + p, minlength=num_classes**2).reshape(num_classes, num_classes)


def _overlap(
    prediction: Array, target: Array, num_classes: int | None, ignore_index: int | None, kind: str
) -> Any:
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"got num_classes={num_classes}; there is at least 1, or None for masks of 0 and 1")
    if num_classes is None:
        p, t = _pair(prediction, target)
        if ignore_index is not None:
            p, t = p[t != ignore_index], t[t != ignore_index]
        values = np.unique(np.concatenate([np.unique(p), np.unique(t)]))
        if not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"without num_classes both are masks of 0 and 1; got values {values[:5]}. Threshold "
                "probabilities first, or give num_classes"
            )
    matrix = confusion_matrix(prediction, target, num_classes or 2, ignore_index=ignore_index).astype(float)
    both, either = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    top, bottom = (2 * both, either) if kind == "dice" else (both, either - both)
    with np.errstate(invalid="ignore"):
        score = np.where(bottom > 0, top / bottom, np.nan)
    if num_classes is None:
        return 1.0 if np.isnan(score[1]) else float(score[1])
    return torch.from_numpy(score)


def dice_score(
    prediction: Array, target: Array, num_classes: int | None = None, *, ignore_index: int | None = None
) -> Any:
    """Dice coefficient ``2 |P ∩ T| / (|P| + |T|)`` of hard segmentations.

    Two masks of 0 and 1 (or bool) give a float, 1.0 if both are empty. With ``num_classes`` the labels give
    a (K,) float64 tensor, NaN for classes that are in neither picture. Sums run over everything given: call
    it once a picture for a mean over pictures.
    """
    return _overlap(prediction, target, num_classes, ignore_index, "dice")


def iou(
    prediction: Array, target: Array, num_classes: int | None = None, *, ignore_index: int | None = None
) -> Any:
    """Intersection over union ``|P ∩ T| / |P ∪ T|`` (Jaccard index); the conventions of ``dice_score``."""
    return _overlap(prediction, target, num_classes, ignore_index, "iou")


def mean_iou(prediction: Array, target: Array, num_classes: int, *, ignore_index: int | None = None) -> float:
    """mIoU: the mean of ``iou`` over the classes that occur in the prediction or the target; NaN if none does."""
    return float(iou(prediction, target, num_classes, ignore_index=ignore_index).nanmean())


# ---- classification ----


def _probabilities(prediction: Array, target: Array) -> tuple[np.ndarray, np.ndarray]:
    p, t = _array(prediction).astype(float), _array(target)
    if p.ndim == 2 and p.shape[1] == 1:
        p = p[:, 0]
    t = t.reshape(-1)
    if p.ndim not in (1, 2) or len(p) != len(t) or len(t) == 0:
        raise ValueError(
            f"probabilities are (N,) for two classes or (N, K), with N targets; got {p.shape} and {t.shape}"
        )
    if np.isnan(p).any() or p.min() < 0 or p.max() > 1:
        raise ValueError("probabilities lie between 0 and 1: apply sigmoid or softmax to logits first")
    t, classes = _labels(t, "target"), 2 if p.ndim == 1 else p.shape[1]
    if t.min() < 0 or t.max() >= classes:
        raise ValueError(
            f"targets are the classes 0 to {classes - 1}; got {t.min()} to {t.max()}. Leave cases of which nothing is "
            "known out first"
        )
    return p, t


def nll(prediction: Array, target: Array) -> float:
    """Mean negative log-likelihood in nats (log loss).

    Args:
        prediction: probabilities, (N,) of class 1 or (N, K).
        target: (N,) class indices.
    """
    p, t = _probabilities(prediction, target)
    if p.ndim == 2 and (off := np.abs(p.sum(1) - 1)).max() > 0.02:  # bfloat16 sums to 1 within that
        raise ValueError(
            f"the probabilities of a case add up to one; those of case {off.argmax()} to {p[off.argmax()].sum():.3g}: "
            "apply softmax to logits, or give (N,) for two classes"
        )
    chosen = np.where(t == 1, p, 1 - p) if p.ndim == 1 else p[np.arange(len(t)), t]
    return float(-np.log(np.clip(chosen, np.finfo(float).tiny, 1)).mean())


def accuracy(prediction: Array, target: Array) -> float:
    """The share of correct answers, of (N,) probabilities above 0.5 or the largest of (N, K)."""
    p, t = _probabilities(prediction, target)
    answer = (p > 0.5).astype(np.int64) if p.ndim == 1 else p.argmax(1)
    return float((answer == t).mean())


def auc(prediction: Array, target: Array) -> float:
    """Area under the ROC curve: the chance to rank a positive case above a negative one (ties: half).

    Args:
        prediction: (N,) scores or probabilities of class 1; any increasing transform gives the same value.
        target: (N,) of 0 and 1, both present.
    """
    p, t = _array(prediction), _array(target).reshape(-1)
    if p.ndim == 2 and p.shape[1] == 2 and len(t) == len(p):
        raise ValueError(
            f"AUC wants one score a case, (N,); got {p.shape}: take the column of class 1, scores[:, 1]"
        )
    p, t = _pair(p.reshape(-1), t)
    if not np.isfinite(p).all():
        raise ValueError(
            f"{int((~np.isfinite(p)).sum())} of {p.size} scores are not finite and cannot be ranked: find out why, or "
            "leave those cases out"
        )
    if set(np.unique(t)) != {0, 1}:
        raise ValueError(f"AUC needs cases of both classes, 0 and 1; the targets are {np.unique(t)[:5]}")
    return float(sk.roc_auc_score(t, p))


# ---- intervals ----


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: Array,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic(*samples)``, drawing cases with replacement.

    All samples are indexed together on their first axis, which should hold independent cases (patients,
    slides), not pixels. Draws for which the statistic is undefined (NaN or a ``ValueError``, such as for one
    class only) are drawn again.

    Returns: (low, high).
    """
    if not samples:
        raise ValueError("a bootstrap needs samples to draw from; got none")
    arrays = [_array(s) for s in samples]
    n = len(arrays[0])
    if any(len(a) != n for a in arrays):
        raise ValueError(f"samples have different numbers of cases: {[len(a) for a in arrays]}")
    if n < 2:
        raise ValueError(f"a bootstrap needs at least 2 cases; got {n}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"got resamples={resamples} and level={level}; they are at least 1 and between 0 and 1"
        )
    rng, failures = np.random.default_rng(seed), 0
    values: list[float] = []
    while len(values) < resamples:
        draw = rng.integers(0, n, n)
        try:
            value = float(statistic(*(a[draw] for a in arrays)))
            if np.isnan(value):
                raise ValueError("the statistic is NaN for nearly every draw of cases, so it has no interval")
            values.append(value)
        except ValueError:
            failures += 1
            if failures > 10 * resamples:
                raise
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- localisation: FROC of Camelyon16 ----

FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class SlideFindings:
    """What a detector found on one slide.

    Attributes:
        lesions: for each lesion the best score of a candidate on it, ``-inf`` if it was missed.
        false_positives: the scores of candidates on no lesion.
    """

    lesions: tuple[float, ...]
    false_positives: tuple[float, ...]


def slide_findings(
    rows: Array, columns: Array, scores: Array, lesions: Array, *, ignore: Sequence[int] = ()
) -> SlideFindings:
    """Match candidate points of one slide with its lesions, as Camelyon16 does.

    Args:
        rows, columns, scores: (N,) each, pixel positions in ``lesions`` and confidences.
        lesions: (H, W) int map, 0 outside, 1 … L inside the lesions.
        ignore: lesions that count neither as found nor as false (Camelyon16: isolated tumour cells).
    """
    labels = _array(lesions)
    row, column = np.round(_array(rows)).astype(int), np.round(_array(columns)).astype(int)
    score = _array(scores).astype(float)
    if labels.ndim != 2:
        raise ValueError(f"the lesion map is (H, W); got {labels.shape}")
    if not (row.shape == column.shape == score.shape) or row.ndim != 1:
        raise ValueError(
            f"rows, columns and scores are (N,) each; got {row.shape}, {column.shape}, {score.shape}"
        )
    outside = (row < 0) | (column < 0) | (row >= labels.shape[0]) | (column >= labels.shape[1])
    if outside.any():
        raise ValueError(f"{outside.sum()} candidates lie outside the {labels.shape} lesion map")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} scores are NaN and cannot be ranked")
    hit = labels[row, column]
    wanted = [k for k in np.unique(labels) if k != 0 and k not in ignore]
    best = tuple(float(score[hit == k].max(initial=-np.inf)) for k in wanted)
    return SlideFindings(best, tuple(score[hit == 0].tolist()))


@dataclass(frozen=True)
class Froc:
    """A free-response ROC curve.

    Attributes:
        false_positives: mean false positives a slide, increasing, one entry a threshold.
        sensitivity: the share of lesions found at each of them.
        score: the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives a slide.
    """

    false_positives: np.ndarray
    sensitivity: np.ndarray
    score: float

    def at(self, rate: float) -> float:
        """The sensitivity at ``rate`` false positives a slide, interpolated; constant past the ends."""
        return float(np.interp(rate, self.false_positives, self.sensitivity))


def froc(slides: Sequence[SlideFindings]) -> Froc:
    """FROC curve and score over slides, normal slides among them (no lesions, perhaps false positives).

    Raises:
        ValueError: if no slide has a lesion.
    """
    hits = np.array([s for slide in slides for s in slide.lesions], dtype=float)
    wrong = np.array([s for slide in slides for s in slide.false_positives], dtype=float)
    if hits.size == 0:
        raise ValueError("FROC needs at least one lesion; these slides have none")
    if np.isnan(hits).any() or np.isnan(wrong).any():
        raise ValueError("some scores are NaN and cannot be ranked; a missed lesion has -inf")
    thresholds = np.unique(np.concatenate([hits[np.isfinite(hits)], wrong]))[::-1]
    # From "nothing reported" down to "everything reported".
    hits, wrong = np.sort(hits), np.sort(wrong)
    found = hits.size - np.searchsorted(hits, thresholds)
    false = wrong.size - np.searchsorted(wrong, thresholds)
    rates = np.concatenate([[0.0], false / len(slides)])
    sensitivity = np.concatenate([[0.0], found / hits.size])
    # Where several thresholds share a rate, the last (highest sensitivity) is the curve's value there.
    last = np.append(rates[1:] > rates[:-1], True)
    rates, sensitivity = rates[last], sensitivity[last]
    return Froc(rates, sensitivity, float(np.interp(FROC_RATES, rates, sensitivity).mean()))


def froc_interval(
    slides: Sequence[SlideFindings], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the FROC score over slides; 2000 draws as in the P4M-DenseNet paper."""
    index = np.arange(len(slides))
    return bootstrap_interval(
        lambda draw: froc([slides[i] for i in draw]).score, index, resamples=resamples, level=level, seed=seed
    )


# ---- agreement ----


def icc(ratings: Array, kind: str = "ICC(2,1)") -> float:
    """Intraclass correlation of single ratings (Shrout & Fleiss 1979).

    Args:
        ratings: (N, R): N targets, each rated once by each of R raters (here: one feature at R rotations).
        kind: "ICC(2,1)", absolute agreement with raters drawn at random, or "ICC(3,1)", consistency of these
            raters: an offset common to all of a rater's numbers lowers the first and not the second.

    Raises:
        ValueError: if ratings are missing, or all equal (no variance to share out).
    """
    y = _array(ratings).astype(float)
    if kind not in ("ICC(2,1)", "ICC(3,1)"):
        raise ValueError(f"kind is {kind!r}; the choices are 'ICC(2,1)' and 'ICC(3,1)'")
    if y.ndim != 2 or min(y.shape) < 2:
        raise ValueError(f"ratings are (targets, raters), at least 2 of each; got {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("ratings must be finite: drop the targets with missing ratings")
    n, r = y.shape
    if np.ptp(y) == 0:  # before a mean, whose rounding would be taken for variance
        raise ValueError("all ratings are equal, so there is no variance to attribute")
    centred = y - y.mean()
    rows, columns = centred.mean(1), centred.mean(0)
    ms_rows = r * (rows**2).sum() / (n - 1)
    ms_columns = n * (columns**2).sum() / (r - 1)
    residual = centred - rows[:, None] - columns[None]
    ms_error = (residual**2).sum() / ((n - 1) * (r - 1))
    bottom = ms_rows + (r - 1) * ms_error
    if kind == "ICC(2,1)":
        bottom += r * (ms_columns - ms_error) / n
    if bottom <= 1e-28 * float((y**2).max()):  # rounding
        raise ValueError(
            "targets do not differ, nor do raters disagree on one: there is no variance to attribute"
        )
    return float((ms_rows - ms_error) / bottom)


def kappa(prediction: Array, target: Array, *, weights: str | None = None) -> float:
    """Cohen's kappa: agreement of two labellings beyond chance; 1 if they are equal, even constant.

    Args:
        prediction, target: class indices of equal shape; the measure is symmetric.
        weights: None, "linear" or "quadratic" (for ordered classes).
    """
    p, t = _pair(prediction, target)
    p, t = _labels(p, "prediction"), _labels(t, "target")
    if (p == t).all():
        return 1.0  # one constant label: 0/0 in the formula
    return float(sk.cohen_kappa_score(p, t, weights=weights))
