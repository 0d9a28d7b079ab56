"""How rendered tissue differs from real tissue: colour, sharpness and nuclei measured on both, and a
classifier that tells them apart.

The measures follow the eye: the distribution of each colour and of the stains' optical density, the power
of the image over spatial frequency, and the number, size and darkness of dark spots the size of a nucleus.
`compare` scores each group alone by the area under the ROC curve of a cross-validated classifier: 0.5 means
that the group cannot tell real from rendered, 1.0 that it always can.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

GROUPS = ("colour", "sharpness", "nuclei")
RINGS = 12


def colour(image: np.ndarray) -> np.ndarray:
    """Mean, spread and five quantiles of each channel of a (3, H, W) image in [0, 1], and the correlations
    between channels: (24,).
    """
    flat = image.reshape(3, -1)
    quantiles = np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1).T.ravel()
    with np.errstate(invalid="ignore"):
        link = np.nan_to_num(np.corrcoef(flat)[[0, 0, 1], [1, 2, 2]])
    return np.concatenate([flat.mean(1), flat.std(1), quantiles, link])


def spectrum(image: np.ndarray) -> np.ndarray:
    """Log power of the grey image in rings of equal width from 0 to half a cycle a pixel, the mean left out:
    (12,).
    """
    grey = image.mean(0)
    height, width = grey.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring = np.minimum((radius * 2 * RINGS).astype(int), RINGS)
    count = np.bincount(ring.ravel(), minlength=RINGS + 1)[:RINGS]
    return np.log10(np.bincount(ring.ravel(), power.ravel(), minlength=RINGS + 1)[:RINGS] / count + 1e-9)


def spots(image: np.ndarray, mpp: float) -> np.ndarray:
    """Dark spots of a nucleus's size: number per 1000 µm², mean area in µm², its spread, share of the area,
    darkness: (5,).
    """
    red = ndimage.gaussian_filter(image[0], 0.7 / mpp)
    level = red.min() + 0.5 * (np.quantile(red, 0.9) - red.min())
    mask = red < min(level, 0.75)
    label, _ = ndimage.label(ndimage.binary_opening(mask, iterations=1))
    area = np.bincount(label.ravel())[1:] * mpp**2
    keep = area > 8.0
    field = red.size * mpp**2
    if not keep.any():
        return np.zeros(5)
    dark = 1.0 - image[0][label > 0].mean()
    return np.array(
        [1000 * keep.sum() / field, area[keep].mean(), area[keep].std(), area[keep].sum() / field, dark]
    )


def measure(images: Sequence[torch.Tensor], mpp: float) -> dict[str, np.ndarray]:
    """The measures of images (3, H, W), a matrix (N, features) for each group."""
    arrays = [np.asarray(image, dtype=np.float64) for image in images]
    return {
        "colour": np.stack([colour(a) for a in arrays]),
        "sharpness": np.stack([spectrum(a) for a in arrays]),
        "nuclei": np.stack([spots(a, mpp) for a in arrays]),
    }


def compare(real: Sequence[torch.Tensor], rendered: Sequence[torch.Tensor], mpp: float) -> dict:
    """Compare two sets of images (3, H, W) of one size and mpp.

    Returns:
        `auc`: for each group and for "all", the cross-validated area under the ROC curve of real against
        rendered; `real` and `rendered`: each group's mean feature vector.

    Raises:
        ValueError: fewer than 20 images of either sort.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if min(len(real), len(rendered)) < 20:
        raise ValueError(
            f"compare needs at least 20 images of each sort, got {len(real)} and {len(rendered)}."
        )
    a, b = measure(real, mpp), measure(rendered, mpp)
    target = np.repeat([1, 0], [len(real), len(rendered)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    auc = {}
    for group in (*GROUPS, "all"):
        names = GROUPS if group == "all" else (group,)
        x = np.concatenate([np.concatenate([a[n], b[n]]) for n in names], 1)
        forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
        score = cross_val_predict(forest, x, target, cv=folds, method="predict_proba")[:, 1]
        auc[group] = float(roc_auc_score(target, score))
    return {
        "auc": auc,
        "real": {n: a[n].mean(0) for n in GROUPS},
        "rendered": {n: b[n].mean(0) for n in GROUPS},
    }
