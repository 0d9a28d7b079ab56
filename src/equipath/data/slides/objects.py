"""What is counted on a slide: glands, vessels and nuclei, each placed by a hash of its lattice cell and
asked for near a few grids at a time.

An object's place, shape and stain follow from the seed and its lattice indices, never from the grid that
asks, so neighbouring tiles agree on it. Positions are float64 µm in the scene's noise frame (the slide
turned by an angle of its own, so that no lattice shows).
"""

import math
from dataclasses import dataclass, fields
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .noise import (
    PERIOD,
    PERIODS,
    attributes,
    first_attribute,
    hash_lattice,
    sample,
    scattered,
    scattered_planar,
)
from .tissue import MATERIAL, MATERIALS, NUCLEI, NUCLEUS, Glands, Kind

_LOOK = np.array(
    [
        (t.size, t.spread, *t.aspect, t.h, t.e, t.rim, t.chromatin, t.bump, t.along, t.nucleolus, t.counts)
        for t in NUCLEI.values()
    ]
)


class Scene:
    """The slides and grids of one batch: of one kind and one size in pixels."""

    def __init__(self, kind: Kind, slides, grids):
        self.kind, self.slides, self.grids, self.size = kind, slides, grids, grids[0].size
        self.seeds = np.array([s.hash for s in slides], dtype=np.int64)
        self.params = {k: np.array([s.params[k] for s in slides]) for k in slides[0].params}
        self.params32 = {k: v.astype(np.float32) for k, v in self.params.items()}
        self.offsets = np.stack([self.params["offset_x"], self.params["offset_y"]])
        self.shape = [k for k in self.params if k.split("_")[0] not in ("offset", "fold", "pen")]
        frames = np.stack([s.frame for s in slides])
        self.matrix = np.stack(
            [f @ g.matrix() for f, g in zip(frames, grids, strict=True)]
        )  # screen to noise frame
        self.center = np.stack([f @ np.array(g.center) for f, g in zip(frames, grids, strict=True)])
        self.mpp = np.array([g.mpp for g in grids])
        self.dab = any(s.stain.vectors[2].any() for s in slides)
        blur = np.array([s.stain.blur for s in slides])
        self.soft = np.sqrt(0.4**2 + (0.85 * self.mpp) ** 2 + (2.5 * blur) ** 2)  # width of an edge, µm
        self.sigma = np.sqrt((0.29 * self.mpp) ** 2 + blur**2)  # of the smoothing that noise undergoes, µm
        self.coarse = np.clip(
            (self.mpp - 4.0) / 2.0, 0.0, 1.0
        )  # nuclei give way to their mean between 4 and 6 µm a pixel

    def at(self, item):
        """What areas depend on, float32 (N,), and noise offsets (2, N) of points of batch items `item` (N,)."""
        p = {k: torch.from_numpy(self.params32[k][item]) for k in self.shape}
        return p, torch.from_numpy(self.offsets[:, item])


# ---------------------------------------------------------------- continuous fields


def planar(points):
    """Points (N, 2), numpy float64, as the tensor (2, N) that the fields are asked with."""
    return torch.from_numpy(np.ascontiguousarray(points.T))


def coarse_and_middle(kind, xy, offsets):
    """Unit noise of the kind's two lattices at points (2, ...): float32 (4, ...) each; offsets (2, ...)
    broadcast.
    """
    return sample(xy, 1.0 / kind.macro, offsets), middle(kind, xy, offsets)


def middle(kind, xy, offsets):
    """Unit noise of the kind's finer lattice alone."""
    return sample(xy, 1.0 / kind.meso, offsets * 7.0)


def outline(kind, x, y, m, n, p):
    """Depth below the tissue's outline in µm, positive inside: tensors, float32, or spans."""
    c, s = p["outline_c"], p["outline_s"]
    u, v = (x * c - y * s) / p["half_width"], (x * s + y * c) / p["half_height"]
    r2 = u * u + v * v
    wave = (u * u - 3 * v * v) * u / (r2 + 0.3) * p["lobe"]  # a three-fold bulge
    depth = (1.0 + wave - r2.sqrt()) * p["half_short"]
    return depth + kind.edge * (m[1] + 0.5 * m[2]).clamp(-2.5, 1.0) + 5.0 * n[2]


def areas(kind, xy, m, n, p):
    """(material index, signed distance in µm) of a kind, bottom first, glass last; glands are left out.

    xy (2, ...) and the rest are tensors or spans; a distance is a function without arguments.
    """

    @cache
    def depth():
        x, y = xy.float() if isinstance(xy, torch.Tensor) else xy
        return outline(kind, x, y, m, n, p)

    for name, distance in kind.areas(m, n, depth, p):
        yield MATERIAL[name], distance
    yield MATERIAL["glass"], lambda: -depth()


def fold_depth(xy, m, n, p):
    """Signed distance in µm into a slide's fold: tensors or spans."""
    across = xy[0] * p["fold_x"] + xy[1] * p["fold_y"] - p["fold_at"]
    return p["fold_half"] - (across + 60.0 * m[2] + 3.0 * n[0]).abs()


def pen_depth(xy, m, n, p):
    """Signed distance in µm into a slide's ring of ink: tensors or spans."""
    x, y = xy[0] - p["pen_x"], xy[1] - p["pen_y"]
    r = (x * x + y * y).sqrt() + 90.0 * m[1]
    half = p["pen_half"] * (1 + 0.25 * m[0]).clamp(0.2, math.inf)
    return half - (r - p["pen_r"]).abs() + 4.0 * n[1]


def material_at(scene, item, xy):
    """Index of the topmost material at points (N, 2) of batch items (N,), glands left out: int64 (N,)."""
    p, offsets = scene.at(item)
    points = planar(xy)
    m, n = coarse_and_middle(scene.kind, points, offsets)
    rank = torch.zeros(len(item))  # the topmost layer's number, which grows upwards
    order = [MATERIAL[scene.kind.base]]
    for material, distance in areas(scene.kind, points, m, n, p):
        torch.maximum(rank, distance().sign().mul_(len(order)), out=rank)
        order.append(material)
    return np.array(order)[rank.numpy().astype(np.int64)]


def fibre_coordinates(xy, m, n):
    """18th parts of µm along and µm across the fibres, float64 (2, ...): the fibres are the level sets of a
    warped plane wave.
    """
    out = torch.stack([9.0 * n[3], across_fibres(m[3], n[2])]).double().add_(xy)
    out[0] *= 1 / 18.0
    return out


def across_fibres(coarse, middle):
    """How far noise shifts places across the fibres, in µm."""
    return (9.0 * middle).add_(130.0 * coarse)


def fibre_angle(scene, item, xy, step=0.5):
    """Direction of the fibres at points, radians in the noise frame."""
    _, offsets = scene.at(item)
    across = []
    for dx, dy in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)):
        q = planar(xy + np.array([dx, dy]))
        m = sample(q, 1.0 / scene.kind.macro, offsets, 3, 1)[0]
        n = sample(q, 1.0 / scene.kind.meso, offsets * 7.0, 2, 1)[0]
        across.append((q[1] + across_fibres(m, n)).numpy())
    return np.arctan2(across[1] - across[0], across[2] - across[3])


BORDER_CELLS = 16  # a side of the table of borders


@lru_cache(maxsize=1)
def border_table():
    """Distance to the nearest border between the cells of 16 x 16 scattered points, in cells: float32 (1, 1,
    1025, 1025).
    """
    n, fine = BORDER_CELLS, 64
    points = scattered()[:n, :n]
    t = np.arange(n * fine) / fine
    cell = np.floor(t).astype(np.int64)
    border = np.empty((n * fine, n * fine))
    for i in range(n):  # a row of cells at a time: all at once would take 0.65 GB
        rows = slice(i * fine, (i + 1) * fine)
        px, py = [], []
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                p = points[(i + di) % n, (cell + dj) % n][None]
                px.append(p[..., 0] + (i + di - t[rows])[:, None])
                py.append(np.broadcast_to(p[..., 1] + (cell + dj - t), px[-1].shape))
        dx, dy = np.stack(px), np.stack(py)
        r = dx * dx + dy * dy
        nearest = r.argmin(0)[None]
        x0, y0, r0 = (np.take_along_axis(v, nearest, 0) for v in (dx, dy, r))
        gap = np.sqrt((dx - x0) ** 2 + (dy - y0) ** 2)
        border[rows] = np.where(gap > 0, (r - r0) / (2 * np.maximum(gap, 1e-9)), 9.0).min(0)
    return torch.from_numpy(np.pad(border, (0, 1), mode="wrap").T.astype(np.float32).copy())[None, None]


def voronoi_edge(xy, spacing):
    """Distance in µm to the nearest border between cells about `spacing` µm wide: float32 (N,), for xy
    float64 (2, N).
    """
    t = torch.mul(xy, 1.0 / (BORDER_CELLS * spacing)).add_(PERIODS).frac_().to(torch.float32).mul_(2.0).sub_(1.0)
    table = border_table().to(xy.device)
    return F.grid_sample(table, t.T[None, None], padding_mode="border", align_corners=True).view(-1) * spacing


FAT_CELL = 62.0  # µm


def fat_points(xy, n):
    """Points moved by middle noise, so that the walls of fat cells bend: float64."""
    return xy + 4.0 * n[:2]


def opening(spec: Glands, depth, thickness, n, xy, offsets):
    """Signed distance in µm into the lumen of a gland, or into a hole of a cribriform one: float32."""
    inner = depth - thickness - 1.5 * n[0]
    if spec.holes:
        hole = (sample(xy, 1 / 13.0, offsets * 9.0, 3, 1)[0] - spec.holes) * 11.0
        inner = inner.maximum(hole.minimum(depth - 10.0))
    return inner


# ---------------------------------------------------------------- lattices


def lattice_points(scene, spacing, margin):
    """Scattered points `spacing` µm apart that lie within `margin` µm of a grid: item, i, j (N,) int64 and xy
    (N, 2).
    """
    pattern, (height, width) = scattered_planar(), scene.size
    half_x, half_y = width * scene.mpp / 2 + margin, height * scene.mpp / 2 + margin
    a, c = scene.matrix, scene.center
    span = np.abs(a) @ np.stack([half_x, half_y], -1)[:, :, None]
    lo = np.floor((c - span[..., 0]) / spacing).astype(np.int64)
    hi = np.floor((c + span[..., 0]) / spacing).astype(np.int64)
    count = (hi - lo).max(0) + 1
    i = lo[:, 0, None, None] + np.arange(count[0])[None, :, None]
    j = lo[:, 1, None, None] + np.arange(count[1])[None, None, :]
    place = (i % PERIOD) * PERIOD + j % PERIOD
    x, y = (pattern[0].take(place) + i) * spacing, (pattern[1].take(place) + j) * spacing
    dx, dy = x - c[:, 0, None, None], y - c[:, 1, None, None]
    b = a[:, :, :, None, None]  # orthogonal: its transpose takes the noise frame back to the screen
    near = np.abs(b[:, 0, 0] * dx + b[:, 1, 0] * dy) <= half_x[:, None, None]
    near &= np.abs(b[:, 0, 1] * dx + b[:, 1, 1] * dy) <= half_y[:, None, None]
    item, ii, jj = np.nonzero(near)
    return item, lo[item, 0] + ii, lo[item, 1] + jj, np.stack([x[near], y[near]], -1)


def near_grid(scene, item, xy, margin):
    """Whether points (N, 2) lie within `margin` µm, one number or (N,), of the grids of batch items (N,)."""
    height, width = scene.size
    local = np.abs(np.einsum("nij,ni->nj", scene.matrix[item], xy - scene.center[item]))
    mpp = scene.mpp[item]
    return (local[:, 0] <= width * mpp / 2 + margin) & (local[:, 1] <= height * mpp / 2 + margin)


def _key(item, i, j):
    return (item << 40) + ((i + (1 << 18)) << 20) + (j + (1 << 18))


class GlandSet:
    """The glands of one sort near a scene's grids: arrays with one entry a gland, in a fixed order."""

    def __init__(self, scene, spec: Glands, salt, margin, others=()):
        self.spec = spec
        reach = spec.radius[1] * (1 + 2.0 * spec.rough) * math.sqrt(spec.stretch[1])
        item, i, j, xy = lattice_points(scene, spec.spacing, reach + margin)
        h = attributes(hash_lattice(scene.seeds[item], i, j, salt=salt))
        keep = h[:, 0] < spec.keep
        self.item, self.i, self.j, self.xy, h = item[keep], i[keep], j[keep], xy[keep], h[keep]
        self._shape(h)
        if len(self):  # the whole gland must lie in its material: its centre and eight points of its wall
            ok = material_at(scene, self.item, self.xy) == MATERIAL[spec.inside]
            self._select(ok)
        if len(self):
            which = np.repeat(np.arange(len(self)), 8)
            rim, _ = self.wall_point(which, np.tile(np.arange(8) * (math.pi / 4), len(self)), -2.0)
            ok = material_at(scene, self.item[which], rim) == MATERIAL[spec.inside]
            self._select(ok.reshape(-1, 8).all(1))
        for other in others:  # and outside the glands that were there before it
            if len(self) and other.spec.inside == spec.inside:
                which = np.repeat(np.arange(len(self)), 8)
                rim, _ = self.wall_point(which, np.tile(np.arange(8) * (math.pi / 4), len(self)), -4.0)
                hit = other.deepest(self.item[which], rim, 0.0) > 0
                hit = hit.reshape(-1, 8).any(1) | (other.deepest(self.item, self.xy, 0.0) > 0)
                self._select(~hit)

    def _shape(self, h):
        spec = self.spec
        self.radius = spec.radius[0] + (spec.radius[1] - spec.radius[0]) * h[:, 1]
        self.thickness = spec.thickness[0] + (spec.thickness[1] - spec.thickness[0]) * h[:, 2]
        root = np.sqrt(spec.stretch[0] + (spec.stretch[1] - spec.stretch[0]) * h[:, 3])
        c, s = np.cos(h[:, 4] * 2 * math.pi), np.sin(h[:, 4] * 2 * math.pi)
        self.to_local = np.stack([c / root, s / root, -s * root, c * root], -1).reshape(-1, 2, 2)
        self.from_local = np.stack([c * root, -s / root, s * root, c / root], -1).reshape(-1, 2, 2)
        self.waves = (h[:, 5:11] * 2 - 1) * spec.rough * np.array([1.0, 1.0, 0.8, 0.8, 0.6, 0.6])
        self.extent = self.radius * (
            1 + np.abs(self.waves).sum(1)
        )  # in the gland's own, unstretched coordinates
        self.reach = self.extent * root

    def farthest(self):
        """How far the outlines go from their centres, in the glands' own coordinates: tighter than `extent`.

        It is the largest of 64 radii, and what the waves can add between two of them.
        """
        k, theta = np.repeat([2, 3, 4], 2), np.arange(64) * (2 * math.pi / 64)
        wave = np.where(
            np.arange(6)[:, None] % 2 == 0, np.cos(k[:, None] * theta), np.sin(k[:, None] * theta)
        )
        between = (np.abs(self.waves) * k**2).sum(1) * (math.pi / 64) ** 2 / 2
        return self.radius * (1 + (self.waves @ wave).max(1) + between)

    def _select(self, keep):
        for name in (
            "item",
            "i",
            "j",
            "xy",
            "radius",
            "thickness",
            "to_local",
            "from_local",
            "waves",
            "extent",
            "reach",
        ):
            setattr(self, name, getattr(self, name)[keep])

    def __len__(self):
        return len(self.item)

    @staticmethod
    def depth(u, v, wave, radius, to_local):
        """Depth below the outside of the wall in µm at local offsets (u, v); wave six tensors,
        to_local four, radius one, all (N,).
        """
        rho = (u * u + v * v).sqrt() + 1e-6
        c, s = u / rho, v / rho
        c2, s2 = c * c - s * s, 2 * c * s
        c3, s3 = c2 * c - s2 * s, s2 * c + c2 * s
        c4, s4 = c2 * c2 - s2 * s2, 2 * c2 * s2
        w = wave
        edge = radius * (1 + w[0] * c2 + w[1] * s2 + w[2] * c3 + w[3] * s3 + w[4] * c4 + w[5] * s4)
        t = to_local
        gx, gy = t[0] * c + t[2] * s, t[1] * c + t[3] * s  # gradient of rho: undoes the stretch
        return (edge - rho) / (gx * gx + gy * gy).sqrt()

    def depth_at(self, which, offset):
        """The same for offsets (N, 2) in the noise frame from the centres of glands `which`: float64 numpy
        (N,).
        """
        t = self.to_local.reshape(-1, 4).T[:, which]
        u, v = t[0] * offset[:, 0] + t[1] * offset[:, 1], t[2] * offset[:, 0] + t[3] * offset[:, 1]
        u, v, waves, radius, t = (
            torch.from_numpy(x) for x in (u, v, self.waves.T[:, which], self.radius[which], t)
        )
        return self.depth(u, v, waves, radius, t).numpy()

    def wall_point(self, which, theta, inset):
        """Points (N, 2) `inset` µm inside the wall at local angle theta, and the angle of the outward
        direction there.
        """
        w = self.waves.T[:, which]
        shape = (
            w[0] * np.cos(2 * theta)
            + w[1] * np.sin(2 * theta)
            + w[2] * np.cos(3 * theta)
            + w[3] * np.sin(3 * theta)
        )
        r = self.radius[which] * (1 + shape + w[4] * np.cos(4 * theta) + w[5] * np.sin(4 * theta))
        unit = np.stack([np.cos(theta), np.sin(theta)], -1)
        normal = np.einsum("nji,nj->ni", self.to_local[which], unit)
        length = np.sqrt((normal**2).sum(-1))
        out = np.einsum("nij,nj->ni", self.from_local[which], unit * (r - inset * length)[:, None])
        return self.xy[which] + out, np.arctan2(normal[:, 1], normal[:, 0])

    def deepest(self, item, xy, margin):
        """Depth in µm of points (N, 2) in these glands: float64 (N,), -inf where a point is farther out than
        `margin`.
        """
        out = np.full(len(item), -np.inf)
        if not len(self):
            return out
        key = _key(self.item, self.i, self.j)
        order = np.argsort(key)
        key = key[order]
        cell = np.floor(xy / self.spec.spacing).astype(np.int64)
        steps = np.array([(di << 20) + dj for di in (-1, 0, 1) for dj in (-1, 0, 1)])
        want = _key(item, cell[:, 0], cell[:, 1])[:, None] + steps
        place = np.minimum(np.searchsorted(key, want), len(key) - 1)
        found, column = np.nonzero(key[place] == want)
        which = order[place[found, column]]
        offset = xy[found] - self.xy[which]
        near = (offset**2).sum(-1) < (self.reach[which] + margin) ** 2
        found, which = found[near], which[near]
        np.maximum.at(out, found, self.depth_at(which, offset[near]))
        return out


# ---------------------------------------------------------------- nuclei


@dataclass
class Blobs:
    """Ellipses that carry stain, one entry each; `id` > 0 names a nucleus, 0 is anything else (a red cell, a
    drop of mucin).
    """

    item: np.ndarray
    xy: np.ndarray
    axes: np.ndarray  # (N, 2) semi-axes, µm
    angle: np.ndarray  # of the first axis, radians in the noise frame
    look: np.ndarray  # (N, 5): bump, haematoxylin, eosin, rim, chromatin
    haze: np.ndarray  # how many times softer the edge is: a nucleus out of focus
    id: np.ndarray

    @staticmethod
    def join(parts):
        """All blobs of several parts in one, in their order."""
        return Blobs(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Blobs)))


def _blobs(scene, item, xy, types, angle, h, ids):
    """Nuclei of the given types with uniform numbers h (N, 12), and the nucleoli of those that show them."""
    look = _LOOK[types]
    size = look[:, 0] * (1 + look[:, 1] * 1.7 * (2 * h[:, 2] - 1))
    root = np.sqrt(look[:, 2] + (look[:, 3] - look[:, 2]) * h[:, 3])
    axes = np.stack([size * root, size / root], -1)
    out = (h[:, 10] < 0.16) & (look[:, 11] > 0)  # out of focus: softer and paler
    dark = (1 + 0.5 * (h[:, 4] - 0.5)) * np.where(out, 0.62, 1.0)
    bump = look[:, 8] * (2 * h[:, 5] - 1)
    stain = np.stack([bump, look[:, 4] * dark, look[:, 5], look[:, 6], look[:, 7]], -1)
    main = Blobs(item, xy, axes, angle, stain, np.where(out, 3.0, 1.0), np.where(look[:, 11] > 0, ids, 0))
    spot = (look[:, 10] > 0) & (h[:, 8] < 0.7) & ~out & (scene.mpp[item] < 1.0)
    if not spot.any():
        return main
    item, h, look = item[spot], h[spot], look[spot]
    place = (h[:, 8:10] / np.array([0.7, 1.0]) - 0.5) * 0.7 * axes[spot].min(1)[:, None]
    radius = look[:, 10] * (0.7 + 0.6 * h[:, 11])
    fade = np.clip((1.0 - scene.mpp[item]) / 0.4, 0.0, 1.0)
    zero = np.zeros(len(item))
    stain = np.stack([zero, 0.75 * fade, 0.25 * fade, zero, zero], -1)
    one = np.ones(len(item))
    spots = Blobs(
        item, xy[spot] + place, np.stack([radius, radius], -1), zero, stain, one, np.full(len(item), -1)
    )
    return Blobs.join([main, spots])


def nuclei(scene, gland_sets, margin):
    """All nuclei, red cells and drops of mucin within `margin` µm of a scene's grids, or None."""
    parts, drawn = [], []
    for k, population in enumerate(scene.kind.populations):
        chance, types = np.zeros(len(MATERIALS)), np.zeros(len(MATERIALS), dtype=np.int64)
        for name, (probability, nucleus) in population.where.items():
            chance[MATERIAL[name]], types[MATERIAL[name]] = probability, NUCLEUS[nucleus]
        item, i, j, xy = lattice_points(scene, population.spacing, margin)
        code = hash_lattice(scene.seeds[item], i, j, salt=20 + k)
        luck = first_attribute(code)
        keep = luck < chance.max()
        drawn.append((chance, types, *(x[keep] for x in (item, i, j, xy, code, luck))))
    items, places = (np.concatenate([d[n] for d in drawn]) for n in (2, 5))
    tops = np.split(material_at(scene, items, places), np.cumsum([len(d[2]) for d in drawn])[:-1])
    blood = MATERIAL["blood"]
    for k, (top, (chance, types, item, i, j, xy, code, luck)) in enumerate(zip(tops, drawn, strict=True)):
        keep = luck < np.maximum(chance[top], chance[blood])  # the others have no chance in a vessel either
        item, i, j, xy, code, luck = item[keep], i[keep], j[keep], xy[keep], code[keep], luck[keep]
        top = top[keep]
        inside, flows = np.zeros(len(item), dtype=bool), np.zeros(len(item), dtype=bool)
        drawn = luck < chance[top]  # the rest lives in blood only
        for glands in gland_sets:
            vessel = glands.spec.lumen == "blood" and chance[blood] > 0
            some = np.arange(len(item)) if vessel else np.nonzero(drawn)[0]
            depth = glands.deepest(item[some], xy[some], 2.0)
            inside[some] |= depth > -2.0
            if vessel:
                flows[some] |= depth > glands.spec.thickness[1] + 1.5
        top[flows] = blood
        keep = (luck < chance[top]) & (~inside | flows)
        item, i, j, xy, top = item[keep], i[keep], j[keep], xy[keep], top[keep]
        h = attributes(code[keep])
        in_fat = top == MATERIAL["fat"]
        if in_fat.any():  # fat cells have their nuclei at the wall
            points = planar(xy[in_fat])
            _, offsets = scene.at(item[in_fat])
            n = middle(scene.kind, points, offsets)
            keep = np.ones(len(item), dtype=bool)
            keep[in_fat] = voronoi_edge(fat_points(points, n), FAT_CELL).numpy() < 1.6
            item, i, j, xy, h, top = item[keep], i[keep], j[keep], xy[keep], h[keep], top[keep]
        if not len(item):
            continue
        kinds = types[top]
        kinds[(kinds == NUCLEUS["tumour"]) & (h[:, 11] < 0.02)] = NUCLEUS["mitosis"]
        angle = h[:, 6] * 2 * math.pi
        along = _LOOK[kinds, 9] > 0
        if along.any():
            angle[along] = fibre_angle(scene, item[along], xy[along]) + (h[along, 6] - 0.5) * 0.8
        ids = ((k + 1) << 26) | ((i & 0x1FFF) << 13) | (j & 0x1FFF)
        parts.append(_blobs(scene, item, xy, kinds, angle, h, ids))
    for g, glands in enumerate(gland_sets):
        if len(glands):
            parts.extend(_wall_cells(scene, glands, g + len(scene.kind.populations) + 1, margin))
    return Blobs.join(parts) if parts else None


ROW = 7.6  # µm between rows of nuclei in a wall


def _wall_cells(scene, glands, population, margin):
    """Nuclei in the walls of glands, standing across the wall, and the mucin drops above them."""
    spec, parts = glands.spec, []
    near = near_grid(
        scene, glands.item, glands.xy, glands.reach + margin
    )  # others were there to keep clear of
    seeds = hash_lattice(scene.seeds[glands.item], glands.i, glands.j, salt=50).astype(np.int64)
    for row in range(spec.rows):
        inset = (4.9 if spec.lumen != "blood" else 2.2) + ROW * row
        room = (glands.thickness > inset + 3.0) | (row == 0)
        inner = glands.radius - inset
        count = np.where(
            near & room & (inner > 4.0), np.maximum(3, np.round(2 * math.pi * inner / spec.pitch)), 0
        ).astype(np.int64)
        which = np.repeat(np.arange(len(glands)), count)
        if not len(which):
            continue
        k = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        h = attributes(hash_lattice(seeds[which], k, k + 64 * row, salt=51))
        theta = 2 * math.pi * (k + 0.35 * (2 * h[:, 7] - 1) + 0.5 * (row % 2)) / count[which]
        deep = inset + (h[:, 8] - 0.5) * min(3.0, 0.25 * spec.thickness[0])
        xy, outward = glands.wall_point(which, theta, deep)
        item = glands.item[which]
        seen = near_grid(scene, item, xy, margin + spec.thickness[1])  # a drop lies that far from its nucleus
        which, k, h, theta, xy = which[seen], k[seen], h[seen], theta[seen], xy[seen]
        item, outward = item[seen], outward[seen]
        keep = np.ones(len(which), dtype=bool)
        if spec.lumen != "blood":  # no nucleus hangs in the lumen
            _, offsets = scene.at(item)
            points = planar(xy)
            n = middle(scene.kind, points, offsets)
            depth = torch.from_numpy(glands.depth_at(which, xy - glands.xy[which])).float()
            thick = torch.from_numpy(glands.thickness[which]).float()
            keep = (opening(spec, depth, thick, n, points, offsets) < -1.5).numpy()
        if not keep.any():
            continue
        turn = math.pi / 2 if spec.lumen == "blood" else 0.0  # endothelium lies flat
        angle = outward + turn + (h[:, 6] - 0.5) * 0.5
        if row and spec.rows > 2:
            angle = h[:, 6] * 2 * math.pi
        types = np.full(len(which), NUCLEUS[spec.nucleus])
        ids = (population << 26) | ((glands.i[which] & 0x1FF) << 17) | ((glands.j[which] & 0x1FF) << 8)
        ids |= (k + 64 * row) & 0xFF
        parts.append(_blobs(scene, item[keep], xy[keep], types[keep], angle[keep], h[keep], ids[keep]))
        drop = keep & (h[:, 1] < spec.goblet) & (k % 2 == 0)
        if drop.any():
            some = which[drop]
            xy, outward = glands.wall_point(
                some, theta[drop], glands.thickness[some] * (0.58 + 0.12 * h[drop, 9])
            )
            types = np.full(len(some), NUCLEUS["mucin"])
            size = h[drop]
            parts.append(
                _blobs(scene, item[drop], xy, types, outward, size, np.zeros(len(some), dtype=np.int64))
            )
    return parts
