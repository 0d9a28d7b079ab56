"""Labelled sets rendered from vector slides: the papers' tasks without a file, in the same items as the
public data sets.

Each patient is one slide, and the patients of different splits and seeds are different slides. An item is
rendered when it is asked for, the same on every call and in every worker; a `DataLoader` fetches its
batches through `__getitems__`, which renders them together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from equipath.data.items import IGNORE, SPLITS, Items, check_split
from equipath.data.nct_crc import CLASSES as NCT_CRC_CLASSES

from .geometry import Grid
from .noise import hash_lattice, unit
from .render import View
from .slide import Slide, render_batch
from .tissue import CLASS, CLASSES, MATERIAL, MATERIALS

Place = tuple[int, tuple[float, float]]  # slide, centre in µm


def _new(cls):
    return cls.__new__(cls)


class Rendered(Items):
    """A set of views of vector slides; the tasks below say where to look and what to ask.

    Args:
        split: "train", "val" or "test".
        fraction: keep this part of the items; smaller parts lie inside larger ones.
        seed: of the patients and of the places.
        patients: how many patients the split has; 64 for training and 16 otherwise when left out.
        per_patient: views a patient.
        size: pixels along a side.
        mpp: microns per pixel.
        angle: degrees by which every view is turned; the places stay.
        stain: "he" or "dab".
        artefacts: whether slides may have folds and pen marks.
        compiled: whether compiled loops render, see `render_batch`.

    Raises:
        ValueError: an unknown split, or a number that cannot be.
    """

    task = ""
    names_of_classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        split: str = "train",
        fraction: float = 1.0,
        seed: int = 0,
        *,
        patients: int | None = None,
        per_patient: int = 32,
        size: int = 96,
        mpp: float = 1.0,
        angle: float = 0.0,
        stain: str = "he",
        artefacts: bool = True,
        compiled: bool | None = None,
    ):
        check_split("slides", split)
        if patients is None:
            patients = 64 if split == "train" else 16
        for name, value in (("patients", patients), ("per_patient", per_patient), ("size", size)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is a whole number of at least 1, got {value!r}.")
        if not isinstance(seed, int | np.integer) or abs(seed) >= 2**62:
            raise ValueError(f"seed is a whole number between -2**62 and 2**62, got {seed!r}.")
        Grid((0.0, 0.0), (size, size), mpp, angle)  # raises for a bad mpp or angle before any work is done
        self.size, self.mpp, self.angle = int(size), float(mpp), float(angle)
        self.compiled = compiled
        number = list(TASKS).index(self.task) if self.task in TASKS else 0
        key = np.arange(patients) + 1_000_000 * SPLITS.index(split)
        seeds = hash_lattice(seed, key, number, salt=99) >> np.uint64(4)
        self.slides = [
            Slide(int(s), self.kinds[i % len(self.kinds)], stain, artefacts) for i, s in enumerate(seeds)
        ]
        self._places: list[Place] = []
        self._targets: list[int] = []
        names, who = [], []
        for i, slide in enumerate(self.slides):
            for k, (center, target) in enumerate(self._choose(slide, int(seeds[i]), per_patient)):
                self._places.append((i, center))
                self._targets.append(target)
                who.append(f"slides-{self.task}-{seed}-{split}-{i:04d}")
                names.append(f"{who[-1]}-{k:03d}")
        super().__init__(
            name="slides",
            task=self.task,
            split=split,
            classes=self.names_of_classes,
            names=names,
            patients=who,
            read=self._read_one,
            fraction=fraction,
            seed=seed,
        )
        self._ready: dict[int, dict[str, Any]] = {}

    def __reduce__(self):  # all that an item needs is in the object: it travels to other processes as it is
        return _new, (type(self),), self.__dict__

    # where to look ----------------------------------------------------------

    def _wanted(self, slide: Slide) -> Sequence[tuple[int, tuple[str, ...]]]:
        """(target, materials to centre on) in turn; an empty tuple stands for anywhere on the tissue."""
        raise NotImplementedError

    def _choose(self, slide, seed, count):
        """`count` places of a slide, the wanted materials in turn; a material the slide lacks leaves its turn
        to the next.
        """
        points = self._candidates(slide, seed, max(600, 24 * count))
        ground = slide.ground(points)
        queues = []
        for target, materials in self._wanted(slide):
            where = (
                np.isin(ground, [MATERIAL[m] for m in materials])
                if materials
                else ground != MATERIAL["glass"]
            )
            queues.append((target, list(np.nonzero(where)[0])))
        chosen: list = []
        while len(chosen) < count and any(queue for _, queue in queues):
            for target, queue in queues:
                if queue and len(chosen) < count:
                    chosen.append(((float(points[queue[0], 0]), float(points[queue[0], 1])), target))
                    queue.pop(0)
        return chosen

    def _candidates(self, slide, seed, count):
        x0, y0, x1, y1 = slide.extent
        k = np.arange(count)
        u = np.stack([unit(hash_lattice(seed, k, 0, salt=7)), unit(hash_lattice(seed, k, 1, salt=7))], -1)
        return np.array([x0, y0]) + u * np.array([x1 - x0, y1 - y0])

    # what is seen -----------------------------------------------------------

    def _grids(self, center) -> list[Grid]:
        return [Grid(center, (self.size, self.size), self.mpp, self.angle)]

    def _item(self, views: list[View], target: int) -> dict[str, Any]:
        raise NotImplementedError

    def _render(self, positions) -> list[dict[str, Any]]:
        pairs, counts = [], []
        for position in positions:
            slide, center = self._places[position]
            grids = self._grids(center)
            pairs += [(self.slides[slide], grid) for grid in grids]
            counts.append(len(grids))
        views, out, start = render_batch(pairs, compiled=self.compiled), [], 0
        for position, count in zip(positions, counts, strict=True):
            out.append(self._item(views[start : start + count], self._targets[position]) | {"mpp": self.mpp})
            start += count
        return out

    def _read_one(self, position):
        found = self._ready.get(position)
        return found if found is not None else self._render([position])[0]

    def __getitems__(self, indices) -> list[dict[str, Any]]:
        """Items of several indices, rendered together."""
        indices = [int(i) for i in indices]
        positions = [int(self._chosen[i]) for i in indices]  # an index out of range raises IndexError here
        some = sorted(set(positions))
        self._ready = dict(zip(some, self._render(some), strict=True))
        try:
            return [self[i] for i in indices]
        finally:
            self._ready = {}


def _table(groups, other):
    """From material index to class: groups are tuples of class names or material names."""
    out = np.full(len(MATERIALS), other, dtype=np.int64)
    from .tissue import CLASS_OF

    for k, names in enumerate(groups):
        for name in names:
            if name in MATERIAL:
                out[MATERIAL[name]] = k
            if name in CLASS:
                out[CLASS[name] == CLASS_OF] = k
    return torch.from_numpy(out)


class TumourPatches(Rendered):
    """Lymph node patches as in PCam: `label` 1 if the middle third (32 of 96 px) holds tumour, and `mask` of
    tumour (H, W).
    """

    task = "tumour"
    names_of_classes = ("normal", "tumour")
    kinds = ("lymph_node",)

    def __init__(self, split="train", fraction=1.0, seed=0, *, size=96, mpp=0.97, **options):
        super().__init__(split, fraction, seed, size=size, mpp=mpp, **options)

    def _wanted(self, slide):
        normal = tuple(m for m in MATERIALS if m not in ("tumour", "glass"))
        common = ("lymphoid", "germinal", "sinus")
        rare = tuple(m for m in normal if m not in common)
        return (1, ("tumour",)), (0, common), (1, ("tumour",)), (0, rare), (0, ())

    def _item(self, views, target):
        mask = views[0].tumour.long()
        edge = self.size // 3
        middle = mask[edge : self.size - edge, edge : self.size - edge]
        return {"image": views[0].image, "label": int(middle.any()), "mask": mask}


class TissueTypes(Rendered):
    """Breast regions with `mask` (H, W) of BCSS's five classes: tumour, stroma, inflammatory, necrosis,
    other.
    """

    task = "tissue"
    names_of_classes = ("tumour", "stroma", "inflammatory", "necrosis", "other")
    kinds = ("breast",)
    groups = _table((("tumour",), ("stroma", "muscle"), ("lymphocytes",), ("necrosis",)), 4)

    def __init__(self, split="train", fraction=1.0, seed=0, *, size=256, mpp=1.0, per_patient=16, **options):
        super().__init__(split, fraction, seed, size=size, mpp=mpp, per_patient=per_patient, **options)

    def _wanted(self, slide):
        return (
            (0, ("tumour",)),
            (0, ("stroma", "dense")),
            (0, ("lymphoid",)),
            (0, ("tumour",)),
            (0, ("necrosis",)),
            (0, ("fat",)),
        )

    def _item(self, views, target):
        return {"image": views[0].image, "mask": self.groups[views[0].material]}


class Nuclei(Rendered):
    """Fields of several organs with nucleus `instances` (H, W), 1 to n, and their `mask`, as in MoNuSeg."""

    task = "nuclei"
    names_of_classes = ("background", "nucleus")
    kinds = ("breast", "colon", "prostate_core", "lymph_node")

    def __init__(
        self,
        split="train",
        fraction=1.0,
        seed=0,
        *,
        size=256,
        mpp=0.25,
        per_patient=16,
        artefacts=False,
        **options,
    ):
        super().__init__(
            split, fraction, seed, size=size, mpp=mpp, per_patient=per_patient, artefacts=artefacts, **options
        )

    def _wanted(self, slide):
        cells = ("tumour", "gleason_5", "bed_3", "bed_4", "bed", "germinal")
        return (
            (0, cells),
            (0, ("lamina", "stroma", "dense", "muscle")),
            (0, cells),
            (0, ("lymphoid", "sinus")),
        )

    def _item(self, views, target):
        ids, place = views[0].nuclei.unique(return_inverse=True)
        return {"image": views[0].image, "instances": place.view_as(views[0].nuclei) + int(ids[0] != 0)}


class TexturePatches(Rendered):
    """Colon patches of one tissue each, `label` by NCT-CRC's nine classes."""

    task = "texture"
    names_of_classes = NCT_CRC_CLASSES
    materials = ("fat", "glass", "necrosis", "lymphoid", "mucus", "muscle", "lamina", "stroma", "bed")
    kinds = ("colon",)

    def __init__(self, split="train", fraction=1.0, seed=0, *, size=224, mpp=0.5, per_patient=18, **options):
        super().__init__(split, fraction, seed, size=size, mpp=mpp, per_patient=per_patient, **options)

    def _choose(self, slide, seed, count):
        """Places whose whole patch is one material, as far as the slide has them: the purest first, the
        classes in turn.
        """
        points = self._candidates(slide, seed, 2500)
        ground = slide.ground(points)
        steps = np.linspace(-0.42, 0.42, 5) * self.size * self.mpp
        probe = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        queues = []
        for target, material in enumerate(self.materials):
            some = points[ground == MATERIAL[material]][:80]
            if not len(some):
                continue
            pure = (
                (slide.ground((some[:, None] + probe).reshape(-1, 2)) == MATERIAL[material])
                .reshape(len(some), -1)
                .mean(1)
            )
            order = np.argsort(-pure, kind="stable")
            queues.append([(some[k], target) for k in order if pure[k] >= 0.8])
        chosen: list = []
        while len(chosen) < count and any(queues):
            for queue in queues:
                if queue and len(chosen) < count:
                    center, target = queue.pop(0)
                    chosen.append(((float(center[0]), float(center[1])), target))
        return chosen

    def _item(self, views, target):
        return {"image": views[0].image, "label": target}


class TissueCores(Rendered):
    """Whole prostate cores, one a patient, with `mask` (H, W) of benign tissue and Gleason patterns 3 to 5;
    glass is ignored (-100).
    """

    task = "cores"
    names_of_classes = ("benign", "grade 3", "grade 4", "grade 5")
    kinds = ("prostate_core",)
    groups = _table(
        (
            ("stroma", "muscle", "epithelium", "lumen", "blood"),
            ("gleason_3", "bed_3", "lumen_3"),
            ("gleason_4", "bed_4", "lumen_4"),
            ("gleason_5",),
        ),
        IGNORE,
    )

    def __init__(self, split="train", fraction=1.0, seed=0, *, size=512, mpp=2.0, per_patient=1, **options):
        super().__init__(split, fraction, seed, size=size, mpp=mpp, per_patient=per_patient, **options)

    def _choose(self, slide, seed, count):
        if count == 1:
            return [((0.0, 0.0), 0)]
        return super()._choose(slide, seed, count)

    def _wanted(self, slide):
        return ((0, ()),)

    def _item(self, views, target):
        return {"image": views[0].image, "mask": self.groups[views[0].material]}


class CellTissuePairs(Rendered):
    """A small field inside a large one, as in OCELOT.

    `image`, `mask` (tumour or not) and `mpp` of the small field; `context` (3, H, W), `context_mask` and
    `context_mpp` of the large one, four times as wide; `offset` (x right, y down), the small field's centre
    as parts of the large one's side.
    """

    task = "pairs"
    names_of_classes = ("background", "cancer")
    kinds = ("breast", "colon", "lymph_node")
    ratio = 4

    def __init__(self, split="train", fraction=1.0, seed=0, *, size=256, mpp=0.25, per_patient=16, **options):
        super().__init__(split, fraction, seed, size=size, mpp=mpp, per_patient=per_patient, **options)

    def _wanted(self, slide):
        return (0, ("tumour", "bed")), (0, ("stroma", "dense", "lamina", "lymphoid", "sinus", "germinal"))

    def _shift(self, center):
        """Where the small field lies in the large one, in small pixels from its centre: whole numbers, the
        same for the same place.
        """
        room = self.size * (self.ratio - 1) // 2 // self.ratio * self.ratio
        u = unit(hash_lattice(int(center[0] * 16), int(center[1] * 16), np.arange(2), salt=3))
        return np.round((2 * u - 1) * room / self.ratio).astype(int) * self.ratio

    def _grids(self, center):
        small = Grid(center, (self.size, self.size), self.mpp, self.angle)
        right, down = self._shift(center)
        moved = small.shifted(-down, -right)
        return [small, Grid(moved.center, small.size, self.mpp * self.ratio, self.angle)]

    def _render(self, positions):
        out = super()._render(positions)
        for position, raw in zip(positions, out, strict=True):
            right, down = self._shift(self._places[position][1])
            side = self.size * self.ratio
            raw["offset"] = torch.tensor([0.5 + right / side, 0.5 + down / side], dtype=torch.float32)
        return out

    def _item(self, views, target):
        return {
            "image": views[0].image,
            "mask": views[0].tumour.long(),
            "context": views[1].image,
            "context_mask": views[1].tumour.long(),
            "context_mpp": self.mpp * self.ratio,
        }


TASKS: dict[str, type[Rendered]] = {
    cls.task: cls
    for cls in (TumourPatches, TissueTypes, Nuclei, TexturePatches, TissueCores, CellTissuePairs)
}

__all__ = [
    "CLASSES",
    "TASKS",
    "CellTissuePairs",
    "Nuclei",
    "Rendered",
    "TexturePatches",
    "TissueCores",
    "TissueTypes",
    "TumourPatches",
]
