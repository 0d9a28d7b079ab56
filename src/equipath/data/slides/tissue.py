"""What tissue is where: the materials a slide is made of, and for each kind of slide which areas they fill.

A kind paints areas one over the other. An area is a signed distance in µm (positive inside) made of smooth
noise at two scales, so it can be asked for at any point of the slide. The same function answers for pixels,
for the centres of nuclei and, given spans (`span.py`), for what a whole patch may hold.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

CLASSES = (
    "background",
    "stroma",
    "tumour",
    "lymphocytes",
    "necrosis",
    "fat",
    "mucus",
    "muscle",
    "epithelium",
    "lumen",
    "blood",
    "gleason_3",
    "gleason_4",
    "gleason_5",
)
CLASS = {name: k for k, name in enumerate(CLASSES)}

# Each material: its class, then how much stain its ground holds (optical density along the stain's own
# colour): haematoxylin and eosin, each constant, times grain, times fibres; how much of it opens into gaps;
# DAB for keratin where that is the stain; and how gradually it meets its neighbours, in µm.
_MATERIALS = {
    # name:        class            h0    hf    hb    e0    ef    eb    gap   dab   merge
    "glass":      ("background",    0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 1.0),
    "stroma":     ("stroma",        0.06, 0.03, 0.03, 0.30, 0.10, 0.18, 0.85, 0.02, 3.0),
    "dense":      ("stroma",        0.06, 0.02, 0.02, 0.46, 0.08, 0.17, 0.45, 0.02, 8.0),
    "tumour":     ("tumour",        0.11, 0.06, 0.00, 0.36, 0.14, 0.02, 0.75, 0.95, 1.5),
    "lymphoid":   ("lymphocytes",   0.10, 0.06, 0.00, 0.24, 0.13, 0.04, 1.00, 0.02, 6.0),
    "germinal":   ("lymphocytes",   0.12, 0.06, 0.00, 0.28, 0.13, 0.00, 0.75, 0.02, 10.0),
    "sinus":      ("lymphocytes",   0.07, 0.05, 0.00, 0.18, 0.10, 0.05, 1.00, 0.02, 8.0),
    "necrosis":   ("necrosis",      0.12, 0.10, 0.00, 0.50, 0.20, 0.00, 0.55, 0.25, 8.0),
    "fat":        ("fat",           0.00, 0.00, 0.00, 0.01, 0.00, 0.00, 0.00, 0.00, 1.0),
    "membrane":   ("fat",           0.12, 0.04, 0.00, 0.40, 0.10, 0.00, 0.00, 0.02, 1.0),
    "mucus":      ("mucus",         0.13, 0.04, 0.03, 0.07, 0.03, 0.02, 0.40, 0.03, 3.0),
    "muscle":     ("muscle",        0.10, 0.02, 0.04, 0.55, 0.07, 0.15, 0.35, 0.02, 6.0),
    "lamina":     ("stroma",        0.08, 0.05, 0.01, 0.28, 0.12, 0.08, 0.95, 0.02, 6.0),
    "bed":        ("stroma",        0.09, 0.03, 0.03, 0.38, 0.08, 0.16, 0.60, 0.02, 8.0),
    "bed_3":      ("muscle",        0.10, 0.02, 0.03, 0.52, 0.06, 0.14, 0.35, 0.02, 8.0),
    "bed_4":      ("muscle",        0.10, 0.02, 0.03, 0.50, 0.06, 0.14, 0.40, 0.02, 8.0),
    "epithelium": ("epithelium",    0.16, 0.06, 0.00, 0.36, 0.10, 0.00, 0.20, 0.80, 1.0),
    "wall":       ("muscle",        0.08, 0.02, 0.00, 0.55, 0.08, 0.00, 0.05, 0.02, 1.0),
    "lumen":      ("lumen",         0.01, 0.02, 0.00, 0.02, 0.03, 0.00, 0.00, 0.01, 1.0),
    "lumen_t":    ("lumen",         0.03, 0.04, 0.00, 0.06, 0.07, 0.00, 0.00, 0.02, 1.0),
    "lumen_3":    ("lumen",         0.02, 0.03, 0.00, 0.04, 0.05, 0.00, 0.00, 0.01, 1.0),
    "lumen_4":    ("lumen",         0.02, 0.03, 0.00, 0.04, 0.05, 0.00, 0.00, 0.01, 1.0),
    "blood":      ("blood",         0.01, 0.01, 0.00, 0.10, 0.05, 0.00, 0.00, 0.02, 1.0),
    "gleason_3":  ("gleason_3",     0.15, 0.06, 0.00, 0.36, 0.11, 0.00, 0.20, 0.85, 1.0),
    "gleason_4":  ("gleason_4",     0.16, 0.06, 0.00, 0.38, 0.11, 0.00, 0.25, 0.90, 1.0),
    "gleason_5":  ("gleason_5",     0.15, 0.07, 0.00, 0.38, 0.12, 0.00, 0.50, 0.95, 2.0),
}  # fmt: skip
MATERIALS = tuple(_MATERIALS)
MATERIAL = {name: k for k, name in enumerate(MATERIALS)}
CLASS_OF = np.array([CLASS[row[0]] for row in _MATERIALS.values()], dtype=np.int64)
GROUND = np.array([row[1:9] for row in _MATERIALS.values()], dtype=np.float32)  # (materials, 8)
MERGE = np.array([row[9] for row in _MATERIALS.values()])  # µm
IS_TUMOUR = np.array(
    [name.split("_")[0] in ("tumour", "gleason") or name[:6] == "lumen_" for name in MATERIALS]
)


@dataclass(frozen=True)
class Nucleus:
    """How nuclei of one type look: semi-axes in µm, stain (optical density), texture."""

    size: float  # geometric mean of the semi-axes
    spread: float  # relative spread of the size
    aspect: tuple[float, float]
    h: float
    e: float
    rim: float  # how much darker the envelope is than the middle
    chromatin: float  # how clumped
    bump: float = 0.1  # irregularity of the outline
    along: bool = False  # lies along the fibres
    nucleolus: float = 0.0  # radius, µm
    counts: bool = True  # is a nucleus: red cells and mucin drops are drawn the same way but are not labelled


NUCLEI = {
    "lymphocyte": Nucleus(2.85, 0.12, (1.0, 1.25), 1.15, 0.28, 0.20, 0.50, 0.08),
    "germinal": Nucleus(4.0, 0.18, (1.0, 1.5), 0.60, 0.25, 0.70, 0.55, 0.14, nucleolus=0.7),
    "tumour": Nucleus(4.6, 0.22, (1.05, 1.75), 0.56, 0.22, 0.70, 0.60, 0.16, nucleolus=1.0),
    "spindle": Nucleus(2.7, 0.22, (2.0, 4.6), 0.88, 0.30, 0.15, 0.30, 0.14, along=True),
    "epithelial": Nucleus(3.4, 0.12, (1.2, 2.0), 0.80, 0.28, 0.25, 0.36, 0.08),
    "tumour_gland": Nucleus(4.1, 0.18, (1.3, 2.4), 0.76, 0.28, 0.40, 0.50, 0.12, nucleolus=0.8),
    "debris": Nucleus(1.3, 0.55, (1.0, 1.9), 1.10, 0.35, 0.0, 0.30, 0.20),
    "mitosis": Nucleus(3.0, 0.20, (1.6, 3.2), 1.90, 0.30, -0.2, 0.50, 0.24),
    "red_cell": Nucleus(3.0, 0.08, (1.0, 1.4), 0.03, 0.85, 0.30, 0.0, 0.06, counts=False),
    "mucin": Nucleus(4.6, 0.20, (1.1, 1.6), 0.10, 0.06, 0.35, 0.10, 0.08, counts=False),
    "hole": Nucleus(5.0, 0.35, (1.0, 1.5), 0.03, 0.06, 0.0, 0.0, 0.12, counts=False),
}
NUCLEUS = {name: k for k, name in enumerate(NUCLEI)}


@dataclass(frozen=True)
class Population:
    """Nuclei scattered `spacing` µm apart: material -> (probability, nucleus type)."""

    spacing: float
    where: dict[str, tuple[float, str]]


@dataclass(frozen=True)
class Glands:
    """Glands, ducts or vessels scattered `spacing` µm apart inside one material."""

    spacing: float
    inside: str  # material that the whole gland must lie in
    wall: str  # material of the epithelium
    radius: tuple[float, float]  # µm
    thickness: tuple[float, float]  # of the epithelium, µm
    rough: float  # relative amplitude of the outline's waves
    stretch: tuple[float, float]
    keep: float  # probability that there is a gland
    nucleus: str
    pitch: float  # distance between nuclei along the wall, µm
    rows: int = 1
    lumen: str = "lumen"
    goblet: float = 0.0  # probability of a mucin drop above each nucleus
    holes: float = 0.0  # noise level above which the epithelium opens (cribriform); 0: never


@dataclass(frozen=True, eq=False)
class Kind:
    """What a slide of one organ is made of."""

    size: tuple[float, float]  # width and height of the tissue, µm
    macro: float  # lattice of the coarse noise, µm
    meso: float
    base: str  # material under all others
    areas: Callable  # (coarse noise, middle noise, depth, parameters) -> (material, distance), bottom first;
    # depth and each distance are functions without arguments, since most are not needed in most places
    populations: tuple[Population, ...]
    glands: tuple[Glands, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # what varies from slide to slide
    edge: float = 60.0  # how far the outline wanders, µm
    families: tuple[int, ...] = (0, 1, 2, 3)  # which laboratories' stains, see `stain.FAMILIES`


def _level(m, n, wm, wn, t, macro, meso):
    """Signed distance, roughly in µm, to the level t of wm * m + wn * n (unit noise of two lattices)."""
    steep = ((1.1 * wm / macro) ** 2 + (1.1 * wn / meso) ** 2) ** 0.5
    return ((m if wm == 1.0 else m * wm) + n * wn - t) * (1.0 / steep)


def _band(v, half, scale):
    """Positive inside the band |v| < half of unit noise with a lattice of `scale` µm."""
    return (half - v.abs()) * (scale / 1.1)


def _lymph_node(m, n, depth, p):
    macro, meso = 260.0, 30.0

    @cache
    def inner():  # depth below the outer side of the capsule
        return depth() - p["fat_rim"] - 40.0 * m[3] + 6.0 * n[3]

    @cache
    def tumour():
        return _level(m[0], n[0], 1.0, 0.35, p["tumour"], macro, meso).minimum(inner() - 20.0)

    yield "germinal", lambda: _level(m[1], n[2], 1.0, 0.15, 1.25, macro, meso)
    yield "sinus", lambda: _band(m[2] + 0.25 * n[1], 0.10, 90.0)
    yield "dense", lambda: _band(m[1] + 0.1 * n[3], 0.03, 240.0)
    yield "tumour", tumour
    yield "stroma", lambda: (tumour() - 6.0).minimum(_band(n[1] + 0.5 * m[3], p["septa"], 26.0))
    yield "necrosis", lambda: _level(m[0], n[2], 1.0, 0.2, p["tumour"] + 1.7, macro, meso)
    yield "dense", lambda: inner().minimum(38.0 - inner())
    yield "fat", lambda: -inner()
    yield "stroma", lambda: (-inner()).minimum(_band(m[1] + 0.3 * n[1], 0.10, 150.0))


def _colon(m, n, depth, p):
    macro, meso = 300.0, 32.0
    yield "lymphoid", lambda: _level(m[1], n[1], 1.0, 0.25, 1.5, macro, meso)
    yield "stroma", lambda: _level(m[2], n[1], 1.0, 0.15, 0.75, macro, meso)
    yield "muscle", lambda: _level(m[2], n[1], 1.0, 0.1, 1.1, macro, meso)
    yield "mucus", lambda: _level(m[3], n[2], 1.0, 0.15, 1.5, macro, meso)
    yield "bed", lambda: _level(m[0], n[0], 1.0, 0.1, p["tumour"], macro, meso)
    yield "necrosis", lambda: _level(m[0], n[2], 1.0, 0.25, p["tumour"] + 1.5, macro, meso)
    yield "fat", lambda: _level(-m[1], n[3], 1.0, 0.1, 1.4, macro, meso)


def _breast(m, n, depth, p):
    macro, meso = 280.0, 34.0

    @cache
    def tumour():
        return _level(m[0], n[0], 1.0, 0.5, p["tumour"], macro, meso)

    yield "dense", lambda: _level(m[2], n[1], 1.0, 0.3, 0.3, macro, meso)
    yield "lymphoid", lambda: _level(m[3], n[3], 1.0, 0.5, 1.45, macro, meso)
    yield "tumour", tumour
    yield "stroma", lambda: (tumour() - 6.0).minimum(_band(n[1] + 0.5 * m[3], p["septa"], 28.0))
    yield "necrosis", lambda: _level(m[0], n[2], 1.0, 0.2, p["tumour"] + 1.6, macro, meso)
    yield "fat", lambda: _level(m[1], n[1], 1.0, 0.12, 0.7, macro, meso)


def _prostate(m, n, depth, p):
    macro, meso = 220.0, 28.0

    @cache
    def five():
        return _level(m[0], n[0], 1.0, 0.1, p["grade"] + 1.6, macro, meso)

    yield "bed_3", lambda: _level(m[0], n[0], 1.0, 0.1, p["grade"], macro, meso)
    yield "bed_4", lambda: _level(m[0], n[0], 1.0, 0.1, p["grade"] + 0.8, macro, meso)
    yield "gleason_5", five
    yield "muscle", lambda: (five() - 3.0).minimum(_band(n[1] + 0.5 * m[3], 0.30, 26.0))


_SPARSE = {
    "stroma": (0.5, "spindle"),
    "dense": (0.4, "spindle"),
    "muscle": (0.7, "spindle"),
    "lamina": (0.45, "spindle"),
    "bed": (0.6, "spindle"),
    "bed_3": (0.6, "spindle"),
    "bed_4": (0.5, "spindle"),
    "sinus": (0.4, "spindle"),
    "fat": (0.9, "spindle"),
    "mucus": (0.06, "lymphocyte"),
    "germinal": (0.12, "hole"),
}
_LYMPH = {
    "lymphoid": (0.93, "lymphocyte"),
    "sinus": (0.25, "lymphocyte"),
    "stroma": (0.05, "lymphocyte"),
    "lamina": (0.24, "lymphocyte"),
    "bed": (0.08, "lymphocyte"),
    "tumour": (0.03, "lymphocyte"),
    "bed_4": (0.03, "lymphocyte"),
    "blood": (0.9, "red_cell"),
}
_CELLS = {"tumour": (0.95, "tumour"), "germinal": (0.9, "germinal"), "gleason_5": (0.9, "tumour")}
_DEBRIS = {"necrosis": (0.3, "debris"), "germinal": (0.02, "debris")}


def _populations(cell, sparse):
    return (
        Population(7.2, _LYMPH),
        Population(cell, _CELLS),
        Population(sparse, _SPARSE),
        Population(6.0, _DEBRIS),
    )


def _vessels(inside, spacing=190.0, keep=0.5):
    return Glands(
        spacing, inside, "wall", (9.0, 22.0), (3.0, 5.5), 0.12, (1.0, 2.2), keep, "spindle", 12.0, 1, "blood"
    )


KINDS: dict[str, Kind] = {
    "lymph_node": Kind(
        (6000.0, 4200.0), 260.0, 30.0, "lymphoid", _lymph_node, _populations(11.2, 17.0),
        (_vessels("lymphoid"), _vessels("fat", 240.0), _vessels("stroma", 90.0)),
        {"tumour": (-0.3, 1.2), "septa": (0.1, 0.45), "fat_rim": (150.0, 400.0)}, 90.0, (0, 0, 1, 4),
    ),
    "colon": Kind(
        (6000.0, 4200.0), 300.0, 32.0, "lamina", _colon, _populations(11.2, 16.0),
        (
            Glands(92.0, "lamina", "epithelium", (30.0, 41.0), (22.0, 30.0), 0.05, (1.0, 1.2), 0.97, "epithelial", 4.6,
                   goblet=0.85),
            Glands(124.0, "bed", "tumour", (38.0, 62.0), (17.0, 24.0), 0.15, (1.0, 1.5), 0.97, "tumour_gland", 5.4, 2,
                   lumen="lumen_t", holes=1.6),
            _vessels("stroma", 130.0, 0.8), _vessels("muscle", 260.0),
        ),
        {"tumour": (-0.3, 1.0)}, 120.0, (1, 2, 3),
    ),
    "breast": Kind(
        (6000.0, 4200.0), 280.0, 34.0, "stroma", _breast, _populations(11.6, 18.0),
        (
            Glands(150.0, "dense", "epithelium", (20.0, 42.0), (10.0, 14.0), 0.12, (1.0, 1.6), 0.7, "epithelial", 5.0),
            _vessels("stroma", 160.0, 0.7), _vessels("fat", 260.0),
        ),
        {"tumour": (-0.3, 0.9), "septa": (0.15, 0.5)}, 110.0, (0, 1, 2, 2),
    ),
    "prostate_core": Kind(
        (1000.0, 1000.0), 220.0, 28.0, "muscle", _prostate, _populations(10.4, 15.0),
        (
            Glands(150.0, "muscle", "epithelium", (38.0, 60.0), (11.0, 15.0), 0.2, (1.0, 1.4), 0.9, "epithelial", 4.8),
            Glands(62.0, "bed_3", "gleason_3", (16.0, 26.0), (10.0, 13.0), 0.08, (1.0, 1.3), 0.95, "tumour_gland", 5.2,
                   lumen="lumen_3"),
            Glands(76.0, "bed_4", "gleason_4", (33.0, 44.0), (60.0, 70.0), 0.12, (1.0, 1.2), 1.0, "tumour_gland", 5.0, 4,
                   lumen="lumen_4", holes=0.75),
            _vessels("muscle", 170.0, 0.5),
        ),
        {"grade": (-1.4, 1.6)}, 14.0,
    ),
}  # fmt: skip
