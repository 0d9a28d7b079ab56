"""A vector slide: tissue as a scene in micrometres, made from a seed, rendered on any pixel grid."""

import numpy as np
import torch

from . import native, onepass
from .geometry import Grid, turn
from .noise import hash_lattice
from .objects import Scene, material_at
from .render import View, render_scene
from .stain import Stain
from .tissue import KINDS

STAINS = ("he", "dab")
ABSENT = -1e4  # µm: a half width so far below nothing that no softened edge reaches it
BLOCK = 1 << 20  # pixels rendered at once, which bounds the memory (about 70 bytes each)
PENS = ((1.1, 0.7, 0.15), (1.0, 0.35, 0.75), (1.0, 1.0, 0.95))  # optical density of blue, green and black ink


class Slide:
    """A tissue section in µm; the same seed, kind and stain give the same slide on every machine.

    Args:
        seed: a whole number from 0.
        kind: "lymph_node", "colon", "breast" or "prostate_core" (the keys of `KINDS`).
        stain: "he" for haematoxylin and eosin, "dab" for haematoxylin and a brown marker of epithelium
            (keratin).
        artefacts: whether the slide may have a fold or a pen mark.

    Raises:
        ValueError: an unknown kind or stain, or a seed that is no whole number.
    """

    def __init__(self, seed: int = 0, kind: str = "lymph_node", stain: str = "he", artefacts: bool = True):
        if kind not in KINDS:
            raise ValueError(f"Unknown kind of slide {kind!r}; choose one of {', '.join(map(repr, KINDS))}.")
        if stain not in STAINS:
            raise ValueError(f"Unknown stain {stain!r}; choose one of {', '.join(map(repr, STAINS))}.")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**62:
            raise ValueError(f"A slide's seed is a whole number from 0 to 2**62, got {seed!r}.")
        self.seed, self.kind = int(seed), kind
        number = list(KINDS).index(kind)
        spec = KINDS[kind]
        self.hash = int(hash_lattice(self.seed, number, 0, salt=1).astype(np.int64))
        # one stream a topic: a change to one leaves the others as they are
        place, shape, look, dirt = (np.random.default_rng([self.seed, number, k]) for k in range(4))
        self.frame = turn(360.0 * place.random())
        back, (width, height) = self.frame.T, spec.size
        wide, high = width / 2 * (0.74 + 0.12 * shape.random()), height / 2 * (0.74 + 0.12 * shape.random())
        if width == height:
            high = wide
        self.params = {name: lo + (hi - lo) * shape.random() for name, (lo, hi) in spec.ranges.items()}
        self.params |= {
            "offset_x": 128.0 * place.random(),
            "offset_y": 128.0 * place.random(),
            "half_width": wide,
            "half_height": high,
            "half_short": min(wide, high),
            "lobe": 0.16 * (shape.random() - 0.5) if width != height else 0.0,
            "outline_c": back[0, 0],
            "outline_s": back[1, 0],
        }
        self.stain = Stain.draw(look, spec.families, dab=stain == "dab")
        self._artefacts(dirt, wide, high, artefacts and width != height)

    def _artefacts(self, rng, wide, high, wanted):
        fold, pen, *u = rng.random(9)
        direction = turn(360.0 * u[0])[0]
        spot = self.frame @ np.array([(u[2] - 0.5) * wide, (u[3] - 0.5) * high])
        self.params |= {
            "fold_half": (4.0 + 14.0 * u[1]) if wanted and fold < 0.3 else ABSENT,
            "fold_x": direction[0],
            "fold_y": direction[1],
            "fold_at": (u[2] - 0.5) * 1.2 * min(wide, high),
            "pen_half": (45.0 + 60.0 * u[4]) if wanted and pen < 0.2 else ABSENT,
            "pen_x": spot[0],
            "pen_y": spot[1],
            "pen_r": (0.5 + 0.3 * u[5]) * min(wide, high),
        }
        self.pen = np.array(PENS[int(u[6] * len(PENS))])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in µm: the tissue and a margin of glass."""
        width, height = KINDS[self.kind].size
        return (-width / 2, -height / 2, width / 2, height / 2)

    def render(self, grid: Grid, device=None, compiled: bool | None = None) -> View:
        """Render the slide on a grid; see `render_batch` for `device` and `compiled`."""
        return render_batch([(self, grid)], device, compiled)[0]

    def ground(self, points) -> np.ndarray:
        """The material under points (N, 2) in µm, glands and vessels left out: int64 (N,), indices into
        `MATERIALS`.

        A quick question about where on the slide to look; `render` gives the labels.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        scene = Scene(KINDS[self.kind], [self], [Grid((0.0, 0.0), (1, 1), 1.0)])
        return material_at(scene, np.zeros(len(points), dtype=np.int64), points @ self.frame.T)

    def __repr__(self):
        return f"Slide(seed={self.seed}, kind={self.kind!r})"


def render_batch(pairs, device=None, compiled: bool | None = None) -> list[View]:
    """Render (slide, grid) pairs together, which for small grids is many times faster than one by one.

    Args:
        pairs: a list of (`Slide`, `Grid`); kinds and sizes may be mixed.
        device: a torch device, the CPU when left out.
        compiled: whether compiled loops do the work on a CPU, several times faster on a core. The machine's C compiler
            makes them when they are first asked for, in a second or two, and they are kept. Labels are the same with
            and without and colours agree to 1e-5. Left out, they are used where there is a compiler; True also warns
            where there is none.

    Returns:
        One `View` a pair, in order; each equals what `Slide.render` gives.

    Raises:
        TypeError: an entry that is no (Slide, Grid) pair.
    """
    device = torch.device("cpu" if device is None else device)
    pairs = list(pairs)
    loops = native.loops(compiled) if device.type == "cpu" and pairs else None
    groups: dict = {}
    for k, pair in enumerate(pairs):
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and isinstance(pair[0], Slide)
            and isinstance(pair[1], Grid)
        ):
            raise TypeError(f"render_batch wants (Slide, Grid) pairs, got {pair!r} at position {k}.")
        slide, grid = pair
        groups.setdefault((slide.kind, bool(slide.stain.vectors[2].any()), grid.size), []).append(k)
    views: list = [None] * len(pairs)
    for (kind, _, size), members in groups.items():
        step = max(1, BLOCK // (size[0] * size[1]))
        for start in range(0, len(members), step):
            some = members[start : start + step]
            scene = Scene(KINDS[kind], [pairs[k][0] for k in some], [pairs[k][1] for k in some])
            if loops is not None and onepass.serves(scene):
                parts = onepass.render_scene(scene, loops)
            else:
                parts = render_scene(scene, device)
            for k, *part in zip(some, *parts, strict=True):
                views[k] = View(*part)
    return views
