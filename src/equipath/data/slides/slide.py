"""A vector slide: tissue as a scene in micrometres, made from a seed, that can be rendered on any pixel grid."""


import numpy as np
import torch

from .geometry import Grid, turn
from .noise import hash_lattice
from .render import Scene, View, render_scene
from .tissue import KINDS


class Slide:
    """A tissue section in µm, the same for the same seed and kind.

    Args:
        seed: a whole number >= 0.
        kind: one of `KINDS`: "lymph_node", "colon", "breast", "prostate_core".
        patient: the seed of the patient whose stain and tissue the slide shares; the slide's own seed when left out.

    Raises:
        ValueError: an unknown kind or a seed that is no whole number.
    """

    def __init__(self, seed=0, kind="lymph_node"):
        if kind not in KINDS:
            raise ValueError(f"Unknown kind of slide {kind!r}; choose one of {', '.join(map(repr, KINDS))}.")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**62:
            raise ValueError(f"A slide's seed is a whole number from 0 to 2**62, got {seed!r}.")
        self.seed, self.kind = int(seed), kind
        spec = KINDS[kind]
        self.hash = int(hash_lattice(self.seed, list(KINDS).index(kind), 0, salt=1).astype(np.int64))
        rng = np.random.default_rng([self.seed, list(KINDS).index(kind)])
        self.frame = turn(360.0 * rng.random())
        width, height = spec.size
        self.params = {name: lo + (hi - lo) * rng.random() for name, (lo, hi) in spec.ranges.items()}
        back = self.frame.T
        self.params |= {
            "offset_x": 128.0 * rng.random(),
            "offset_y": 128.0 * rng.random(),
            "half_width": width / 2 * (0.85 + 0.15 * rng.random()),
            "half_height": height / 2 * (0.85 + 0.15 * rng.random()),
            "lobe": 0.14 * (rng.random() - 0.5) if kind != "prostate_core" else 0.0,
            "outline_c": back[0, 0],
            "outline_s": back[1, 0],
        }
        self._stain(rng)

    def _stain(self, rng):
        def near(v, spread):
            v = np.array(v) + spread * (2 * rng.random(3) - 1)
            return v / np.sqrt((v**2).sum())

        strength = 0.75 + 0.5 * rng.random()
        h = near((0.62, 0.72, 0.30), 0.08)
        e = near((0.14, 0.95, 0.28), 0.07)
        self.stain = {
            "h": h * strength * (0.85 + 0.3 * rng.random()),
            "e": e * strength * 0.62 * (0.75 + 0.5 * rng.random()),
            "white": 0.93 + 0.05 * rng.random() + np.array([0.0, -0.004, -0.002]),
            "blur": 0.15 + 0.35 * rng.random(),
        }

    @property
    def extent(self):
        """(x0, y0, x1, y1) in µm: the tissue with a margin of glass."""
        width, height = KINDS[self.kind].size
        return (-width / 2 - 100.0, -height / 2 - 100.0, width / 2 + 100.0, height / 2 + 100.0)

    def render(self, grid, device=None):
        """Render the slide on a `Grid`: a `View`."""
        return render_batch([(self, grid)], device)[0]

    def __repr__(self):
        return f"Slide(seed={self.seed}, kind={self.kind!r})"


BLOCK = 1 << 19  # pixels rendered at once: bounds the memory


def render_batch(pairs, device=None):
    """Render many (slide, grid) pairs at once, which is much faster than one by one for small grids: a list of `View`s."""
    device = torch.device("cpu" if device is None else device)
    groups: dict = {}
    for k, (slide, grid) in enumerate(pairs):
        if not isinstance(slide, Slide) or not isinstance(grid, Grid):
            raise TypeError(f"render_batch wants (Slide, Grid) pairs, got ({type(slide).__name__}, {type(grid).__name__}).")
        groups.setdefault((slide.kind, grid.size), []).append(k)
    views: list = [None] * len(pairs)
    for (kind, size), members in groups.items():
        step = max(1, BLOCK // (size[0] * size[1]))
        for start in range(0, len(members), step):
            some = members[start : start + step]
            scene = Scene(KINDS[kind], [pairs[k][0] for k in some], [pairs[k][1] for k in some])
            for k, *parts in zip(some, *render_scene(scene, device), strict=True):
                views[k] = View(*parts)
    return views
