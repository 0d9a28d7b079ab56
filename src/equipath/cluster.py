"""Segmentation without labels: a network's features grouped by k-means, and how steady the groups are as the
picture turns.

The pipeline of the SRENet paper (section "Method Summary"; numbers from its published code): glass is painted
black; feature vectors of one layer, resized to a common grid and divided by their length, are clustered on
2000 tissue pixels of unturned pictures; the same clusters label the turned pictures. Labels and features
turned back are compared with those of the unturned picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equipath.data.items import IGNORE
from equipath.data.wsi import find_tissue
from equipath.metrics import dice_score, icc, kappa

ANGLES = tuple(range(0, 360, 30))
"""The paper's twelve angles, degrees counter-clockwise."""

BLACK = 20 / 255
"""Pixels whose RGB vector is no longer than this are background (the paper's 20 of 0–255)."""


class FeatureNetwork(Protocol):
    """A network with feature maps, such as the ResNets of ``equipath.models.resnet``."""

    def features(self, x: Tensor, layer: int = 4) -> Tensor:
        """(B, 3, H, W) to the maps (B, C, h, w) of a layer."""
        ...


def paint_background(image: Tensor, least_area: float = 400.0) -> Tensor:
    """The picture (3, H, W) with its glass painted black (:func:`equipath.data.wsi.find_tissue`).

    The paper takes Otsu's threshold, which cuts any picture in two: on fields without glass it took more than
    half of pale stroma for glass. So we differ here: glass is what is pale and flat.

    ``least_area``: pieces of tissue and holes in it smaller than this many pixels are dropped and filled. A
    picture of tissue alone stays whole.
    """
    _check_picture(image)
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    tissue = torch.from_numpy(find_tissue(pixels, 1.0, least_area, least_area)).to(image.device)
    return image * tissue


def tissue_mask(image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Where a painted picture (3, H, W) is not black: (h, w) bool, after resizing to ``size``."""
    _check_picture(image)
    if size is not None and tuple(size) != tuple(image.shape[-2:]):
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    return image.square().sum(0).sqrt() > BLACK


def turned(x: Tensor, angle: float, mode: str = "bilinear") -> Tensor:
    """Square maps (…, N, N) turned counter-clockwise about their centre by ``angle`` degrees.

    Multiples of 90° move pixels and are exact. At other angles values are interpolated, and what comes in at
    the corners repeats the border, as in the paper. ``mode="nearest"`` is for label maps of any dtype.
    """
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"only square maps turn on their own grid; got {tuple(x.shape[-2:])}: crop or pad the picture first"
        )
    if angle % 90 == 0:
        return torch.rot90(x, int(angle // 90) % 4, (-2, -1))
    values = x if x.is_floating_point() else x.double()
    radians = np.deg2rad(angle)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    # Where the value of each output pixel comes from, (right, down) in units of half the side.
    matrix = values.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])[None]
    flat = values.reshape(1, -1, *x.shape[-2:])
    grid = F.affine_grid(matrix, list(flat.shape), align_corners=False)
    out = F.grid_sample(flat, grid, mode=mode, padding_mode="border", align_corners=False)
    return out.reshape(x.shape).to(x.dtype)


def feature_map(
    model: FeatureNetwork, image: Tensor, layer: int = 4, size: tuple[int, int] | None = None
) -> Tensor:
    """Feature vectors of unit length: (C, h, w) of a picture (3, H, W); a vector of zeros stays zero.

    ``size``: the grid to which they are resized; a quarter of the picture's by default (the paper: 128 of
    512). Without gradients; the network should be in eval mode.
    """
    _check_picture(image)
    size = size or (max(1, image.shape[-2] // 4), max(1, image.shape[-1] // 4))
    with torch.no_grad():
        maps = model.features(image[None], layer)
        if tuple(maps.shape[-2:]) != tuple(size):
            maps = F.interpolate(maps, size=size, mode="bilinear", antialias=True)
    return F.normalize(maps[0], dim=0)


@dataclass(frozen=True)
class Turns:
    """A picture's labels and features at several angles, turned back onto the unturned picture.

    Attributes:
        angles: degrees, the first being 0.
        labels: (R, h, w) int64 clusters; ``IGNORE`` off the tissue and outside the inscribed circle, where
            some angle sees what another does not.
        features: (R, C, N) values at up to N sampled pixels of the compared region.
    """

    angles: tuple[float, ...]
    labels: Tensor
    features: Tensor

    def agreement(self) -> dict[str, float]:
        """How steady labels and features are: means over the angles after the first, against the first.

        ``kappa`` (Cohen's), ``dice`` (mean over the clusters that occur in either), ``icc21`` and ``icc31``:
        mean over the channels of the intraclass correlations of a feature's values, pixels being the targets
        and angles the raters. The paper does not say which ICC it took; ICC(2,1) is our first choice.
        """
        seen = self.labels[0] != IGNORE
        first, count = self.labels[0][seen], int(self.labels.max()) + 1
        if not len(first):
            raise ValueError("no tissue pixel is seen at every angle, so there is nothing to compare")
        others = [labels[seen] for labels in self.labels[1:]]
        return {
            "kappa": float(np.mean([kappa(other, first) for other in others])),
            "dice": float(np.mean([np.nanmean(dice_score(other, first, count)) for other in others])),
            "icc21": feature_icc(self.features, "ICC(2,1)"),
            "icc31": feature_icc(self.features, "ICC(3,1)"),
        }


def feature_icc(features: Tensor, kind: str = "ICC(2,1)") -> float:
    """Mean over the channels of the intraclass correlation of (R, C, N) features: N pixels rated R times.

    Channels that are nearly constant (a standard deviation below 1e-6, dead after ReLU) have none and are
    left out.
    """
    values = features.double()
    alive = values.flatten(2).std((0, 2)) > 1e-6
    if not bool(alive.any()):
        raise ValueError("every channel is constant, so there is no variance to attribute")
    return float(np.mean([icc(channel.T, kind) for channel in values[:, alive].unbind(1)]))


@dataclass(frozen=True)
class TissueClusters:
    """K clusters of a layer's feature vectors: made by ``fit``, then used on any picture at any angle.

    Attributes:
        model: the network, in eval mode.
        centers: (K, C), in the space of unit vectors.
        layer: of ``model.features``.
        size: the grid of features and labels; a quarter of the picture's if None.

    >>> from equipath.models.resnet import SREResNet18
    >>> net = SREResNet18(3, 2, 2).eval()
    >>> found = TissueClusters.fit(net, [torch.rand(3, 32, 32)], k=2, pixels=50)
    >>> found.predict(torch.rand(3, 32, 32)).shape
    torch.Size([8, 8])
    """

    model: Any
    centers: Tensor
    layer: int = 4
    size: tuple[int, int] | None = None

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(self.centers)

    @classmethod
    def fit(
        cls,
        model: FeatureNetwork,
        images: Iterable[Tensor],
        k: int = 3,
        *,
        layer: int = 4,
        size: tuple[int, int] | None = None,
        pixels: int = 2000,
        seed: int = 0,
    ) -> TissueClusters:
        """Cluster the tissue of unturned pictures (3, H, W), the glass painted black.

        ``pixels`` in all are drawn, the same number from every picture as far as it has tissue.

        Raises:
            ValueError: no pictures, fewer tissue pixels or fewer distinct features than clusters, features that
                are not finite, or a whole number below 1.
        """
        from sklearn.cluster import KMeans

        if k < 1 or pixels < 1:
            raise ValueError(f"k and pixels are whole numbers from 1 up; got k={k} and pixels={pixels}")
        chance = torch.Generator().manual_seed(seed)
        pictures = list(images)
        if not pictures:
            raise ValueError("there are no pictures to cluster: give at least one (3, H, W)")
        vectors = []
        for image in pictures:
            maps = feature_map(model, image, layer, size).cpu()
            found = maps[:, tissue_mask(image, (maps.shape[-2], maps.shape[-1])).cpu()].T
            draw = torch.randperm(len(found), generator=chance)[: -(-pixels // len(pictures))]
            vectors.append(found[draw])
        drawn = torch.cat(vectors)[:pixels].double()
        if len(drawn) < k:
            raise ValueError(
                f"{len(drawn)} tissue pixels cannot make {k} clusters: the pictures are glass or black; look at "
                "tissue_mask(picture), or cluster glass too (--everywhere on the command line)"
            )
        if not bool(drawn.isfinite().all()):
            raise ValueError(
                f"{type(model).__name__} answers with features that are not finite; look at its weights with torch.isfinite"
            )
        if (distinct := len(np.unique(drawn.numpy(), axis=0))) < k:
            raise ValueError(
                f"layer {layer} of {type(model).__name__} tells {distinct} kinds of pixel apart, too few for {k} clusters: "
                "take fewer, another layer, or a network that is trained"
            )
        means = KMeans(k, n_init=10, random_state=seed).fit(drawn.numpy())
        return cls(model, torch.from_numpy(means.cluster_centers_).float(), layer, size)

    def predict(self, image: Tensor) -> Tensor:
        """Clusters (h, w) int64 of a picture (3, H, W), 0 to K - 1, ``IGNORE`` off the tissue."""
        return self._labels(image, feature_map(self.model, image, self.layer, self.size))

    def _labels(self, image: Tensor, maps: Tensor) -> Tensor:
        vectors = maps.flatten(1).T
        labels = torch.cdist(vectors, self.centers.to(vectors)).argmin(1).view(maps.shape[-2:])
        return labels.masked_fill(~tissue_mask(image, (maps.shape[-2], maps.shape[-1])), IGNORE)

    def over_rotations(
        self, image: Tensor, angles: Sequence[float] = ANGLES, *, samples: int = 1000, seed: int = 0
    ) -> Turns:
        """Label a square picture (3, N, N) at every angle with these clusters, and turn the labels back.

        ``samples``: at how many tissue pixels features are kept for the intraclass correlations.

        Raises:
            ValueError: a picture that is not square, or angles that do not begin with 0.
        """
        if len(angles) < 2 or angles[0] != 0:
            raise ValueError(f"the angles begin with 0 and at least one other follows; got {tuple(angles)}")
        labels, features, where = [], [], torch.empty(0)
        for angle in angles:
            picture = turned(image, angle)
            maps = feature_map(self.model, picture, self.layer, self.size)
            back = turned(self._labels(picture, maps), -angle, "nearest")
            if angle == 0:
                seen = (back != IGNORE) & _inscribed(back.shape[-1]).to(back.device)
                where = seen.flatten().nonzero()[:, 0]
                draw = torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:samples]
                where = where[draw.to(where.device)]
            labels.append(back)
            features.append(turned(maps, -angle).flatten(1)[:, where])
        stack = torch.stack(labels)
        everywhere = (stack != IGNORE).all(0) & _inscribed(stack.shape[-1]).to(stack.device)
        return Turns(
            tuple(float(a) for a in angles), stack.masked_fill(~everywhere, IGNORE), torch.stack(features)
        )


def _inscribed(side: int) -> Tensor:
    """(N, N) bool: pixels that no turn about the centre carries out of the square."""
    middle = torch.arange(side) - (side - 1) / 2
    return middle[:, None] ** 2 + middle[None] ** 2 <= (side / 2 - 0.5) ** 2


def _check_picture(image: Tensor) -> None:
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(
            f"a picture is (3, H, W), of floats in [0, 1] (bytes divided by 255); got {image.dtype} of shape "
            f"{tuple(image.shape)}"
        )
