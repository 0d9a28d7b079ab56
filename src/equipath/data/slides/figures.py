"""The figures of the vector slides' page: tissue classes, one scene on many grids, rendered beside real,
and their statistics.

``python -m equipath.data.slides.figures FOLDER`` writes them as JPEG; the two that show real tissue are
made only where PCam and TNBC are found (``EQUIPATH_DATA``). Matplotlib is needed here and nowhere else in
the package.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipath.data.items import DataError

from .compare import GROUPS, compare, measure
from .geometry import Grid
from .slide import Slide, render_batch
from .tasks import Nuclei, TumourPatches
from .tissue import MATERIAL, MATERIALS

GALLERY = (  # caption, kind, material to centre on
    ("lymphocytes", "lymph_node", "lymphoid"),
    ("germinal centre", "lymph_node", "germinal"),
    ("metastasis", "lymph_node", "tumour"),
    ("vessel", "lymph_node", "blood"),
    ("normal crypts", "colon", "epithelium"),
    ("tumour glands", "colon", "lumen_t"),
    ("muscle", "colon", "muscle"),
    ("mucus", "colon", "mucus"),
    ("necrosis", "colon", "necrosis"),
    ("stroma", "breast", "stroma"),
    ("fat", "breast", "fat"),
    ("tumour nests", "breast", "tumour"),
    ("benign glands", "prostate_core", "epithelium"),
    ("Gleason 3", "prostate_core", "gleason_3"),
    ("Gleason 4", "prostate_core", "gleason_4"),
    ("Gleason 5", "prostate_core", "gleason_5"),
)


def find(kind: str, material: str, first_seed: int = 0, tries: int = 60) -> tuple[Slide, tuple[float, float]]:
    """The first slide of a kind that shows a material, and the place deepest inside it at 16 µm a pixel."""
    from scipy import ndimage

    for seed in range(first_seed, first_seed + tries):
        slide = Slide(seed, kind, artefacts=False)
        mpp = 16.0 if slide.extent[2] > 1000 else 4.0
        size = (
            int((slide.extent[3] - slide.extent[1]) / mpp),
            int((slide.extent[2] - slide.extent[0]) / mpp),
        )
        grid = Grid((0.0, 0.0), size, mpp)
        depth = ndimage.distance_transform_edt(slide.render(grid).material.numpy() == MATERIAL[material])
        if depth.max() >= 1.4:
            x, y = grid.points()[np.unravel_index(depth.argmax(), depth.shape)]
            return slide, (float(x), float(y))
    raise ValueError(
        f"No slide of kind {kind!r} shows {material!r}; the materials are {', '.join(MATERIALS)}."
    )


def gallery(path: Path) -> None:
    """Sixteen sorts of tissue, 190 µm wide."""
    import matplotlib.pyplot as plt

    places = [find(kind, material, 3 * k) for k, (_, kind, material) in enumerate(GALLERY)]
    views = render_batch([(slide, Grid(center, (256, 256), 0.75)) for slide, center in places])
    figure, axes = plt.subplots(4, 4, figsize=(8, 8.6))
    for axis, view, (caption, _, _) in zip(axes.flat, views, GALLERY, strict=True):
        axis.imshow(view.image.permute(1, 2, 0))
        axis.set_title(caption, fontsize=9, pad=3)
        axis.axis("off")
    _save(figure, path)


def one_scene(path: Path) -> None:
    """One place at four angles and at four scales, with the outlines of the nuclei in one view of each row."""
    import matplotlib.pyplot as plt

    slide, center = find("colon", "tumour", 1)
    angles, scales = (0.0, 37.0, 90.0, 200.0), (0.25, 0.5, 1.0, 4.0)
    grids = [Grid(center, (240, 240), 0.6, a) for a in angles] + [Grid(center, (240, 240), m) for m in scales]
    captions = [f"{a:g}°, 0.6 µm/px" for a in angles] + [f"{m:g} µm/px" for m in scales]
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4))
    for axis, view, caption in zip(
        axes.flat, render_batch([(slide, g) for g in grids]), captions, strict=True
    ):
        axis.imshow(view.image.permute(1, 2, 0))
        if caption.startswith(("37", "0.25")):
            axis.contour((view.nuclei > 0).numpy(), levels=[0.5], colors="#E69F00", linewidths=0.7)
        axis.set_title(caption, fontsize=10, pad=3)
        axis.axis("off")
    _save(figure, path)


def proof(path: Path, size: int = 96, angle: float = 37.0) -> dict[str, float]:
    """A turned rendering beside its pixels rendered one by one and beside a turned picture; returns the largest
    difference to either, `alone` and `turned`.
    """
    import matplotlib.pyplot as plt
    from scipy import ndimage

    slide, center = find("colon", "tumour", 1)
    grid = Grid(center, (size, size), 0.5, angle)
    rendered = slide.render(grid).image.numpy()
    places = grid.points().reshape(-1, 2)
    pixels = render_batch([(slide, Grid((float(x), float(y)), (1, 1), 0.5)) for x, y in places])
    alone = torch.cat([v.image[:, 0] for v in pixels], 1).view(3, size, size).numpy()
    wide = slide.render(Grid(center, (2 * size, 2 * size), 0.5)).image.numpy()
    turned = ndimage.rotate(wide, angle, axes=(1, 2), reshape=False, order=3)  # a cubic spline
    edge = size // 2
    turned = turned[:, edge : edge + size, edge : edge + size].clip(0, 1)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
    shown = (
        (f"rendered at {angle:g}°", rendered),
        (f"a picture turned by {angle:g}°", turned),
        ("difference to it, × 10", 10 * abs(rendered - turned)),
        ("to single pixels, × 10", 10 * abs(rendered - alone)),
    )
    for axis, (caption, image) in zip(axes, shown, strict=True):
        axis.imshow(image.clip(0, 1).transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(caption, fontsize=10, pad=3)
        axis.axis("off")
    _save(figure, path)
    return {
        "alone": float(abs(rendered - alone).max()),
        "turned": float(abs(rendered - turned).max()),
    }


def _real(count: int):
    from equipath.data import load

    order = np.random.default_rng(0).permutation
    pcam: Any = load("pcam", split="train")
    tnbc: Any = load("tnbc", split="train")
    return (
        [pcam[int(i)] for i in order(len(pcam))[:count]],
        [tnbc[int(i)]["image"][:, 128:384, 128:384] for i in order(len(tnbc))[:8]],
    )


def _rendered(count: int):
    patches = TumourPatches(patients=max(8, count // 8), per_patient=8)
    order = np.random.default_rng(1).permutation(len(patches))[:count]
    fields = Nuclei(patients=8, per_patient=3)
    return patches.__getitems__(order), [i["image"] for i in fields.__getitems__(range(0, len(fields), 3))]


def beside(path: Path, count: int = 400) -> dict:
    """Real and rendered patches of one scale in turn, unchosen; returns what `compare` says of `count` lymph
    node patches.
    """
    import matplotlib.pyplot as plt

    (real, near), (made, fields) = _real(count), _rendered(count)
    by_label = [[[i["image"] for i in s if i["label"] == k][:10] for k in (0, 1)] for s in (real, made)]
    rows = [
        ("PCam, normal", by_label[0][0]),
        ("rendered, normal", by_label[1][0]),
        ("PCam, tumour", by_label[0][1]),
        ("rendered, tumour", by_label[1][1]),
    ]
    figure, axes = plt.subplots(6, 1, figsize=(9.6, 7.6), height_ratios=[1, 1, 1, 1, 1.25, 1.25])
    for axis, (caption, images) in zip(axes, [*rows, ("TNBC", near), ("rendered", fields)], strict=True):
        strip = torch.cat([torch.nn.functional.pad(i, (0, 4, 0, 0), value=1.0) for i in images], 2)
        axis.imshow(strip.permute(1, 2, 0))
        axis.set_title(caption, fontsize=9, loc="left", pad=2)
        axis.axis("off")
    _save(figure, path)
    return compare([i["image"] for i in real], [i["image"] for i in made], 0.97)


def statistics(path: Path, count: int = 400) -> None:
    """Histograms of the three colours, power over frequency, and nuclear density of PCam and of rendered
    patches.
    """
    import matplotlib.pyplot as plt

    real, made = ([i["image"] for i in s[0]] for s in (_real(count), _rendered(count)))
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.5))
    for k, name in enumerate(("red", "green", "blue")):
        for images, style, label in ((real, "-", "PCam"), (made, "--", "rendered")):
            values = torch.stack(images)[:, k].ravel().numpy()
            levels = np.arange(-0.5, 256, 8) / 255  # a bin holds eight of a picture's 256 levels: no comb
            height, edges = np.histogram(values, levels, density=True)
            axes[k].plot((edges[1:] + edges[:-1]) / 2, height, style, color="k", label=label)
        axes[k].set_xlabel(name)
        axes[k].set_yticks([])
    axes[0].legend(fontsize=7)
    a, b = measure(real, 0.97), measure(made, 0.97)
    frequency = (np.arange(12) + 0.5) / 24
    axes[3].plot(frequency, a["sharpness"].mean(0), "k-", frequency, b["sharpness"].mean(0), "k--")
    axes[3].set_xlabel("cycles per pixel")
    axes[3].set_ylabel("log power")
    axes[4].hist([a["nuclei"][:, 0], b["nuclei"][:, 0]], 12, color=["k", "0.7"], label=["PCam", "rendered"])
    axes[4].set_xlabel("dark spots per 1000 µm²")
    _save(figure, path)


def _save(figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 70})
    plt.close(figure)


def main(arguments=None) -> None:
    """Write all figures into a folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    gallery(folder / "gallery.jpg")
    one_scene(folder / "one_scene.jpg")
    print("largest difference of a turned rendering:", proof(folder / "proof.jpg"))
    try:
        found = beside(folder / "beside.jpg")
        statistics(folder / "statistics.jpg")
    except DataError as error:
        print(f"The figures with real tissue are left out: {error}")
        return
    print(json.dumps({"auc": found["auc"]}, indent=1))
    for group in GROUPS:
        print(
            group, np.round(found["real"][group], 3).tolist(), np.round(found["rendered"][group], 3).tolist()
        )


if __name__ == "__main__":
    main()

__all__ = ["GALLERY", "beside", "find", "gallery", "main", "one_scene", "proof", "statistics"]
