"""What tissue is where: the materials a slide is made of, and for each kind of slide which areas they fill.

A kind paints areas one over the other. An area is a signed distance in µm (positive inside) made of smooth noise at two scales, so it can be
asked for at any point of the slide. The same function answers for pixels and for the centres of nuclei.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

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

# Each material: its class, then how much haematoxylin and eosin its ground holds (optical density at the stain's strongest wavelength):
# constant, times fine grain, times fibres; how much of it is empty gaps; how far gaps reach (a threshold on unit noise).
_MATERIALS = {
    # name:            class          h0    hf    hb    e0    ef    eb    gap   gap threshold
    "glass":          ("background",  0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.0),
    "stroma":         ("stroma",      0.06, 0.02, 0.02, 0.36, 0.06, 0.13, 0.6),
    "dense":          ("stroma",      0.07, 0.02, 0.02, 0.55, 0.06, 0.15, 0.2),
    "tumour":         ("tumour",      0.22, 0.07, 0.00, 0.50, 0.12, 0.02, 0.35),
    "lymphoid":       ("lymphocytes", 0.13, 0.05, 0.00, 0.26, 0.10, 0.04, 0.9),
    "germinal":       ("lymphocytes", 0.18, 0.06, 0.00, 0.32, 0.10, 0.00, 0.4),
    "sinus":          ("lymphocytes", 0.06, 0.04, 0.00, 0.18, 0.08, 0.04, 1.0),
    "necrosis":       ("necrosis",    0.16, 0.10, 0.00, 0.62, 0.18, 0.00, 0.2),
    "fat":            ("fat",         0.01, 0.00, 0.00, 0.01, 0.00, 0.00, 0.0),
    "membrane":       ("fat",         0.10, 0.03, 0.00, 0.34, 0.08, 0.00, 0.0),
    "mucus":          ("mucus",       0.13, 0.03, 0.05, 0.06, 0.02, 0.03, 0.3),
    "muscle":         ("muscle",      0.12, 0.02, 0.03, 0.72, 0.05, 0.12, 0.15),
    "lamina":         ("stroma",      0.10, 0.04, 0.01, 0.34, 0.10, 0.06, 0.8),
    "bed":            ("stroma",      0.09, 0.03, 0.02, 0.38, 0.07, 0.13, 0.5),
    "bed_3":          ("muscle",      0.10, 0.02, 0.03, 0.55, 0.05, 0.12, 0.3),
    "bed_4":          ("muscle",      0.10, 0.02, 0.03, 0.55, 0.05, 0.12, 0.3),
    "epithelium":     ("epithelium",  0.24, 0.06, 0.00, 0.40, 0.08, 0.00, 0.0),
    "lumen":          ("lumen",       0.01, 0.01, 0.00, 0.02, 0.02, 0.00, 0.0),
    "blood":          ("blood",       0.02, 0.00, 0.00, 0.75, 0.10, 0.00, 0.3),
    "gleason_3":      ("gleason_3",   0.22, 0.05, 0.00, 0.42, 0.09, 0.00, 0.0),
    "gleason_4":      ("gleason_4",   0.24, 0.05, 0.00, 0.44, 0.09, 0.00, 0.1),
    "gleason_5":      ("gleason_5",   0.24, 0.06, 0.00, 0.46, 0.09, 0.00, 0.3),
}  # fmt: skip
MATERIALS = tuple(_MATERIALS)
MATERIAL = {name: k for k, name in enumerate(MATERIALS)}
CLASS_OF = np.array([CLASS[row[0]] for row in _MATERIALS.values()], dtype=np.int64)
GROUND = np.array([row[1:] for row in _MATERIALS.values()], dtype=np.float32)  # (materials, 7)


@dataclass(frozen=True)
class Nucleus:
    """How nuclei of one type look: semi-axes in µm, stain, texture."""

    size: float  # geometric mean of the semi-axes
    spread: float  # relative spread of the size
    aspect: tuple[float, float]
    h: float
    e: float
    rim: float  # how much darker the envelope is than the middle
    chromatin: float
    bump: float = 0.1  # irregularity of the outline
    along: bool = False  # lies along the fibres


NUCLEI = {
    "lymphocyte": Nucleus(3.1, 0.10, (1.0, 1.18), 1.25, 0.30, 0.10, 0.28, 0.06),
    "germinal": Nucleus(4.1, 0.15, (1.0, 1.4), 0.72, 0.25, 0.35, 0.30, 0.12),
    "tumour": Nucleus(5.0, 0.20, (1.05, 1.6), 0.72, 0.30, 0.30, 0.34, 0.14),
    "spindle": Nucleus(3.0, 0.18, (2.2, 4.2), 0.95, 0.30, 0.15, 0.25, 0.10, True),
    "epithelial": Nucleus(3.5, 0.10, (1.2, 1.9), 0.85, 0.28, 0.22, 0.30, 0.06),
    "tumour_gland": Nucleus(4.3, 0.14, (1.3, 2.2), 0.90, 0.30, 0.22, 0.34, 0.10),
    "debris": Nucleus(1.4, 0.45, (1.0, 1.6), 1.2, 0.35, 0.0, 0.2, 0.15),
}
NUCLEUS = {name: k for k, name in enumerate(NUCLEI)}


@dataclass(frozen=True)
class Population:
    """Nuclei scattered `spacing` µm apart: in which materials, how likely, of which type."""

    spacing: float
    where: dict  # material -> (probability, nucleus type)


@dataclass(frozen=True)
class Glands:
    """Glands on a lattice of `spacing` µm inside one material."""

    spacing: float
    inside: str  # material the centre must lie in
    wall: str  # material of the epithelium
    radius: tuple[float, float]  # µm
    thickness: tuple[float, float]  # epithelium, µm
    rough: float  # relative amplitude of the outline's harmonics
    stretch: tuple[float, float]
    keep: float
    nucleus: str
    pitch: float  # distance between nuclei along the wall
    rows: int = 1


@dataclass(frozen=True)
class Kind:
    """What a slide of one organ is made of."""

    size: tuple[float, float]  # width and height of the tissue, µm
    macro: float  # lattice of the coarse noise, µm
    meso: float
    base: str  # material under all others
    areas: Callable  # (coarse noise, middle noise, depth below the outline in µm, parameters) -> (material, distance), in painting order
    populations: tuple[Population, ...]
    glands: tuple[Glands, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # parameters that vary from slide to slide


def _level(m, n, wm, wn, t, macro, meso):
    """Signed distance, roughly in µm, to the level t of wm * m + wn * n (unit noise of two lattices)."""
    steep = ((1.1 * wm / macro) ** 2 + (1.1 * wn / meso) ** 2) ** 0.5
    return (m * wm + n * wn - t) * (1.0 / steep)


def _band(v, half, scale):
    """Positive inside the band |v| < half of unit noise with a lattice of `scale` µm."""
    return (half - v.abs()) * (scale / 1.1)


def _lymph_node(m, n, depth, p):
    macro, meso = 260.0, 30.0
    inner = depth - p["fat_rim"] + 10.0 * n[3]  # depth below the outer side of the capsule
    tumour = _level(m[0], n[0], 1.0, 0.35, p["tumour"], macro, meso)
    yield "germinal", _level(m[1], n[2], 1.0, 0.15, 1.15, macro, meso)
    yield "sinus", _band(m[2] + 0.25 * n[1], 0.10, 90.0)
    yield "tumour", tumour
    yield "stroma", (tumour - 6.0).minimum(_band(n[1] + 0.5 * m[3], p["septa"], 26.0))
    yield "necrosis", _level(m[0], n[2], 1.0, 0.2, p["tumour"] + 1.1, macro, meso)
    yield "dense", inner.minimum(40.0 - inner)
    yield "fat", -inner


def _colon(m, n, depth, p):
    macro, meso = 300.0, 32.0
    yield "lymphoid", _level(m[1], n[1], 1.0, 0.2, 1.5, macro, meso)
    yield "stroma", _level(m[2], n[1], 1.0, 0.15, 0.75, macro, meso)
    yield "muscle", _level(m[2], n[1], 1.0, 0.1, 1.1, macro, meso)
    yield "mucus", _level(m[3], n[2], 1.0, 0.15, 1.5, macro, meso)
    yield "bed", _level(m[0], n[0], 1.0, 0.1, p["tumour"], macro, meso)
    yield "necrosis", _level(m[0], n[2], 1.0, 0.2, p["tumour"] + 1.3, macro, meso)
    yield "fat", _level(-m[1], n[3], 1.0, 0.1, 1.4, macro, meso)


def _breast(m, n, depth, p):
    macro, meso = 280.0, 34.0
    tumour = _level(m[0], n[0], 1.0, 0.45, p["tumour"], macro, meso)
    yield "dense", _level(m[2], n[1], 1.0, 0.3, 0.4, macro, meso)
    yield "lymphoid", _level(m[3], n[3], 1.0, 0.5, 1.4, macro, meso)
    yield "tumour", tumour
    yield "stroma", (tumour - 6.0).minimum(_band(n[1] + 0.5 * m[3], p["septa"], 28.0))
    yield "necrosis", _level(m[0], n[2], 1.0, 0.2, p["tumour"] + 1.1, macro, meso)
    yield "fat", _level(m[1], n[1], 1.0, 0.12, 0.6, macro, meso)


def _prostate(m, n, depth, p):
    macro, meso = 220.0, 28.0
    grade = m[0]
    yield "bed_3", _level(grade, n[0], 1.0, 0.1, p["grade"], macro, meso)
    yield "bed_4", _level(grade, n[0], 1.0, 0.1, p["grade"] + 0.7, macro, meso)
    five = _level(grade, n[0], 1.0, 0.1, p["grade"] + 1.4, macro, meso)
    yield "gleason_5", five
    yield "muscle", (five - 4.0).minimum(_band(n[1] + 0.5 * m[3], 0.22, 26.0))


_SPARSE = {"stroma": (0.6, "spindle"), "dense": (0.45, "spindle"), "muscle": (0.8, "spindle"), "membrane": (0.1, "spindle")}
_LYMPH = {"lymphoid": (0.93, "lymphocyte"), "sinus": (0.25, "lymphocyte"), "stroma": (0.04, "lymphocyte"), "lamina": (0.28, "lymphocyte")}

KINDS: dict[str, Kind] = {
    "lymph_node": Kind(
        (6000.0, 4200.0), 260.0, 30.0, "lymphoid", _lymph_node,
        (
            Population(7.3, _LYMPH),
            Population(11.5, {"tumour": (0.96, "tumour"), "germinal": (0.9, "germinal")}),
            Population(17.0, _SPARSE | {"sinus": (0.5, "spindle"), "fat": (0.25, "spindle")}),
            Population(6.0, {"necrosis": (0.3, "debris")}),
        ),
        (),
        {"tumour": (-0.4, 1.2), "septa": (0.1, 0.45), "fat_rim": (150.0, 400.0)},
    ),
    "colon": Kind(
        (6000.0, 4200.0), 300.0, 32.0, "lamina", _colon,
        (
            Population(7.3, _LYMPH | {"bed": (0.10, "lymphocyte")}),
            Population(17.0, _SPARSE | {"lamina": (0.5, "spindle"), "bed": (0.7, "spindle"), "fat": (0.2, "spindle")}),
            Population(6.0, {"necrosis": (0.3, "debris")}),
        ),
        (
            Glands(86.0, "lamina", "epithelium", (26.0, 38.0), (16.0, 21.0), 0.06, (1.0, 1.15), 0.97, "epithelial", 4.6),
            Glands(120.0, "bed", "tumour", (36.0, 60.0), (15.0, 22.0), 0.16, (1.0, 1.5), 0.95, "tumour_gland", 5.6, 2),
        ),
        {"tumour": (-0.2, 1.0)},
    ),
    "breast": Kind(
        (6000.0, 4200.0), 280.0, 34.0, "stroma", _breast,
        (
            Population(7.3, _LYMPH),
            Population(11.5, {"tumour": (0.96, "tumour")}),
            Population(19.0, _SPARSE | {"fat": (0.2, "spindle")}),
            Population(6.0, {"necrosis": (0.3, "debris")}),
        ),
        (Glands(150.0, "dense", "epithelium", (20.0, 42.0), (9.0, 13.0), 0.12, (1.0, 1.6), 0.6, "epithelial", 5.4),),
        {"tumour": (-0.3, 0.9), "septa": (0.15, 0.5)},
    ),
    "prostate_core": Kind(
        (1000.0, 1000.0), 220.0, 28.0, "muscle", _prostate,
        (
            Population(10.0, {"gleason_5": (0.85, "tumour")}),
            Population(16.0, {"muscle": (0.8, "spindle"), "bed_3": (0.7, "spindle"), "bed_4": (0.5, "spindle")}),
        ),
        (
            Glands(150.0, "muscle", "epithelium", (40.0, 62.0), (10.0, 14.0), 0.22, (1.0, 1.4), 0.85, "epithelial", 5.0),
            Glands(62.0, "bed_3", "gleason_3", (17.0, 26.0), (10.0, 13.0), 0.08, (1.0, 1.3), 0.95, "tumour_gland", 5.2),
            Glands(74.0, "bed_4", "gleason_4", (30.0, 42.0), (14.0, 24.0), 0.16, (1.0, 1.3), 1.0, "tumour_gland", 5.4, 2),
        ),
        {"grade": (-1.2, 1.2)},
    ),
}  # fmt: skip
