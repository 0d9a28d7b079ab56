"""How a scene becomes pixels: noise and areas at the pixel centres, glands and nuclei as windows around their centres, stains to colour.

Every quantity is a function of the pixel centre's position in µm and of the microns per pixel alone. Edges are softened and noise is
attenuated by an amount that depends on the microns per pixel, which replaces the area average over a pixel by a smoothing that has no
direction: no filter ever runs over the pixel grid, and so every angle, reflection and tile gives the same value for the same place.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .noise import PERIOD, attributes, hash_lattice, sample, scattered
from .tissue import CLASS_OF, GROUND, MATERIAL, MATERIALS, NUCLEI

FAR = -1e3  # signed distance of a point that no gland reaches, µm
NUCLEUS_TYPES = tuple(NUCLEI)


@dataclass(frozen=True)
class View:
    """What a grid sees: image float32 (3, H, W) in [0, 1], tissue int64 (H, W), nuclei int32 (H, W), tumour bool (H, W)."""

    image: torch.Tensor
    tissue: torch.Tensor
    nuclei: torch.Tensor
    tumour: torch.Tensor


class Scene:
    """The slides and grids of one batch: all of one kind and one size in pixels."""

    def __init__(self, kind, slides, grids):
        self.kind = kind
        self.slides = slides
        self.grids = grids
        self.size = grids[0].size
        self.params = {k: np.array([s.params[k] for s in slides], dtype=np.float64) for k in slides[0].params}
        self.frame = np.stack([s.frame for s in slides])  # (B, 2, 2) from slide to noise frame
        self.matrix = np.stack([f @ g.matrix() for f, g in zip(self.frame, grids, strict=True)])
        self.center = np.stack([f @ np.array(g.center) for f, g in zip(self.frame, grids, strict=True)])
        self.mpp = np.array([g.mpp for g in grids])


def pixel_points(scene, device):
    """Pixel centres in the noise frame: float64 (B, H * W, 2)."""
    height, width = scene.size
    dx = (torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2)[None, None, :]
    dy = ((height - 1) / 2 - torch.arange(height, dtype=torch.float64, device=device))[None, :, None]
    mpp = torch.as_tensor(scene.mpp, device=device)[:, None, None]
    a = torch.as_tensor(scene.matrix, device=device)[:, :, :, None, None]
    c = torch.as_tensor(scene.center, device=device)[:, :, None, None]
    dx, dy = dx * mpp, dy * mpp
    out = torch.empty((len(scene.mpp), height, width, 2), dtype=torch.float64, device=device)
    for k in (0, 1):
        torch.add(a[:, k, 0] * dx + a[:, k, 1] * dy, c[:, k], out=out[..., k])
    return out.reshape(len(scene.mpp), -1, 2)


def lookups(kind, xy, offsets):
    """Coarse and middle noise, float32 (4, ...) each, at points (..., 2); offsets (..., 2) broadcast."""
    m = sample(xy * (1.0 / kind.macro) + offsets)
    n = sample(xy * (1.0 / kind.meso) + offsets * 7.0)
    return m, n


def outline(xy, p):
    """Depth below the slide's tissue outline in µm, positive inside: float32."""
    x, y = xy[..., 0] * p["outline_c"] - xy[..., 1] * p["outline_s"], xy[..., 0] * p["outline_s"] + xy[..., 1] * p["outline_c"]
    u, v = (x / p["half_width"]).float(), (y / p["half_height"]).float()
    r2 = u * u + v * v
    r = r2.sqrt() + 1e-6
    wave = (u * u * u - 3 * u * v * v) / r2.add(0.3) * p["lobe"].float()  # a three-fold bulge
    return (1.0 + wave - r) * torch.minimum(p["half_width"], p["half_height"]).float()


def areas(kind, xy, m, n, p):
    """The (material index, signed distance in µm float32) list of a kind at points, in painting order, glands left out."""
    pf = {k: v.float() for k, v in p.items()}
    depth = outline(xy, p) + 6.0 * n[2] + 2.0 * n[1]
    found = [(MATERIAL[name], d) for name, d in kind.areas(m, n, depth, pf)]
    found.append((MATERIAL["glass"], -depth))
    return found


def material_at(kind, xy, offsets, p):
    """Index of the material at each point (N, 2): int64 numpy (N,)."""
    m, n = lookups(kind, xy, offsets)
    top = torch.full(xy.shape[:-1], MATERIAL[kind.base])
    for material, d in areas(kind, xy, m, n, p):
        top[d > 0] = material
    return top.numpy()


def fibre_coordinates(xy, m, n):
    """Along and across the fibres, in µm, float64 (..., 2): level sets of a warped plane wave."""
    across = xy[..., 1] + (9.0 * n[2] + 130.0 * m[3]).double()
    along = xy[..., 0] + (9.0 * n[3]).double()
    return along, across


# ---------------------------------------------------------------- glands


class GlandSet:
    """Glands near the grids of a scene: arrays with one entry a gland, in a fixed order."""

    def __init__(self, scene, spec, salt, margin):
        kind = scene.kind
        rows = []
        reach = spec.radius[1] * (1 + 2.5 * spec.rough) * spec.stretch[1]
        for b, (i, j, xy) in enumerate(lattice_points(scene, spec.spacing, reach + margin)):
            rows.append((np.full(len(i), b), i, j, xy))
        item, i, j, xy = (np.concatenate(x) for x in zip(*rows, strict=True))
        seeds = np.array([s.hash for s in scene.slides], dtype=np.int64)[item]
        h = attributes(hash_lattice(seeds, i, j, salt=salt))
        keep = h[:, 0] < spec.keep
        item, i, j, xy, h = item[keep], i[keep], j[keep], xy[keep], h[keep]
        if len(item):
            p, offsets = at_points(scene, item)
            keep = material_at(kind, torch.from_numpy(xy), offsets, p) == MATERIAL[spec.inside]
            item, i, j, xy, h = item[keep], i[keep], j[keep], xy[keep], h[keep]
        self.spec, self.item, self.i, self.j, self.xy = spec, item, i, j, xy
        self.radius = spec.radius[0] + (spec.radius[1] - spec.radius[0]) * h[:, 1]
        self.thickness = spec.thickness[0] + (spec.thickness[1] - spec.thickness[0]) * h[:, 2]
        stretch = spec.stretch[0] + (spec.stretch[1] - spec.stretch[0]) * h[:, 3]
        phi = h[:, 4] * 2 * math.pi
        c, s = np.cos(phi), np.sin(phi)
        root = np.sqrt(stretch)
        self.to_local = np.stack([np.stack([c / root, s / root], -1), np.stack([-s * root, c * root], -1)], -2)  # (n, 2, 2)
        self.from_local = np.stack([np.stack([c * root, -s / root], -1), np.stack([s * root, c / root], -1)], -2)
        self.waves = (h[:, 5:11] * 2 - 1) * spec.rough * np.array([1.0, 1.0, 0.8, 0.8, 0.6, 0.6])
        self.reach = self.radius * (1 + np.abs(self.waves).sum(1)) * root
        self.h = h

    def __len__(self):
        return len(self.item)

    def distance(self, which, dx, dy):
        """Depth below the wall's outer side in µm for offsets (in the noise frame) from gland `which`; torch float."""
        dtype, device = dx.dtype, dx.device
        t = torch.as_tensor(self.to_local, dtype=dtype, device=device)
        w = torch.as_tensor(self.waves, dtype=dtype, device=device)
        radius = torch.as_tensor(self.radius, dtype=dtype, device=device)
        which = torch.as_tensor(which, device=device)
        t, w, radius = t[which], w[which], radius[which]
        u = t[:, 0, 0] * dx + t[:, 0, 1] * dy
        v = t[:, 1, 0] * dx + t[:, 1, 1] * dy
        rho = (u * u + v * v).sqrt() + 1e-6
        c, s = u / rho, v / rho
        c2, s2 = c * c - s * s, 2 * c * s
        c3, s3 = c2 * c - s2 * s, s2 * c + c2 * s
        c4, s4 = c2 * c2 - s2 * s2, 2 * c2 * s2
        edge = radius * (1 + w[:, 0] * c2 + w[:, 1] * s2 + w[:, 2] * c3 + w[:, 3] * s3 + w[:, 4] * c4 + w[:, 5] * s4)
        gx, gy = t[:, 0, 0] * c + t[:, 1, 0] * s, t[:, 0, 1] * c + t[:, 1, 1] * s
        return (edge - rho) / (gx * gx + gy * gy).sqrt()

    def wall_point(self, which, theta, inset):
        """Points (n, 2) at angle theta, `inset` µm inside the wall, and the outward direction's angle in the noise frame."""
        w = self.waves[which]
        c, s = np.cos(theta), np.sin(theta)
        shape = w[:, 0] * np.cos(2 * theta) + w[:, 1] * np.sin(2 * theta) + w[:, 2] * np.cos(3 * theta)
        shape += w[:, 3] * np.sin(3 * theta) + w[:, 4] * np.cos(4 * theta) + w[:, 5] * np.sin(4 * theta)
        r = self.radius[which] * (1 + shape) - inset
        q = np.stack([r * c, r * s], -1)
        out = np.einsum("nij,nj->ni", self.from_local[which], q)
        normal = np.einsum("nji,nj->ni", self.to_local[which], np.stack([c, s], -1))
        return self.xy[which] + out, np.arctan2(normal[:, 1], normal[:, 0])


def lattice_points(scene, spacing, margin):
    """For each grid: lattice indices (i, j) and scattered points (N, 2) in the noise frame within `margin` µm of the grid."""
    pattern = scattered()
    height, width = scene.size
    for b in range(len(scene.grids)):
        a, c, mpp = scene.matrix[b], scene.center[b], scene.mpp[b]
        half = np.array([width * mpp / 2 + margin, height * mpp / 2 + margin])
        span = np.abs(a) @ half
        lo = np.floor((c - span) / spacing).astype(np.int64)
        hi = np.floor((c + span) / spacing).astype(np.int64)
        i, j = np.meshgrid(np.arange(lo[0], hi[0] + 1), np.arange(lo[1], hi[1] + 1), indexing="ij")
        i, j = i.ravel(), j.ravel()
        xy = (pattern[i % PERIOD, j % PERIOD] + np.stack([i, j], -1)) * spacing
        local = np.abs((xy - c) @ a)  # the matrix is orthogonal: this is its inverse applied
        near = (local <= half).all(1)
        yield i[near], j[near], xy[near]


def at_points(scene, item):
    """The scene's parameters for points that belong to the batch items `item`."""
    p = {k: torch.from_numpy(v[item]) for k, v in scene.params.items()}
    offsets = torch.stack([p["offset_x"], p["offset_y"]], -1)
    return p, offsets


def windows(scene, item, xy, reach, device):
    """Pixels around objects, grouped by window size: yields (object indices, dx (n, K), dy (n, K) in px, flat pixel base, rows, columns).

    dx and dy are the offsets of the window's columns and rows from the object's centre on the screen, in pixels, computed in float64
    so that they change sign and place, and nothing else, when the grid is turned by a right angle.
    """
    height, width = scene.size
    local = np.einsum("nij,ni->nj", scene.matrix[item], xy - scene.center[item]) / scene.mpp[item][:, None]
    col, row = local[:, 0] + (width - 1) / 2, (height - 1) / 2 - local[:, 1]
    r = reach / scene.mpp[item]
    seen = (col + r > -0.5) & (col - r < width - 0.5) & (row + r > -0.5) & (row - r < height - 0.5)
    need = np.ceil(2 * r).astype(np.int64) + 1
    order = [4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096, 8192]
    bins = np.searchsorted(order, need)
    for k in np.unique(bins[seen]):
        size = order[k]
        chosen = np.nonzero(seen & (bins == k))[0]
        block = max(1, (1 << 20) // (size * size))
        for start in range(0, len(chosen), block):
            some = chosen[start : start + block]
            c0 = np.ceil(col[some] - size / 2).astype(np.int64)
            r0 = np.ceil(row[some] - size / 2).astype(np.int64)
            steps = np.arange(size)
            columns, rows = c0[:, None] + steps, r0[:, None] + steps
            dx = (columns - (width - 1) / 2) - local[some, 0:1]
            dy = ((height - 1) / 2 - rows) - local[some, 1:2]
            yield some, dx, dy, rows, columns


def visible(rows, columns, size, device):
    """Which window pixels lie on the grid: bool (n, K, K)."""
    inside_r = torch.from_numpy((rows >= 0) & (rows < size[0])).to(device)
    inside_c = torch.from_numpy((columns >= 0) & (columns < size[1])).to(device)
    return inside_r[:, :, None] & inside_c[:, None, :]


def gland_maps(scene, sets, device):
    """Per pixel: depth inside the nearest gland (FAR elsewhere), its wall's thickness and the index of its material; float32, flat."""
    count = len(scene.grids) * scene.size[0] * scene.size[1]
    depth = torch.full((count,), FAR, device=device)
    thickness = torch.ones(count, device=device)
    material = torch.zeros(count, dtype=torch.int64, device=device)
    height, width = scene.size
    for glands in sets:
        if not len(glands):
            continue
        soft = 2.0 * scene.mpp[glands.item] + 2.0
        for some, dx, dy, rows, columns in windows(scene, glands.item, glands.xy, glands.reach + soft, device):
            mask = visible(rows, columns, scene.size, device)
            which, a, b = mask.nonzero(as_tuple=True)
            px = torch.from_numpy(dx).to(device)[which, b]
            py = torch.from_numpy(dy).to(device)[which, a]
            index = torch.from_numpy(some).to(device)[which]
            item = torch.from_numpy(glands.item).to(device)[index]
            m = torch.from_numpy(scene.matrix * scene.mpp[:, None, None]).to(device)[item]
            ox = (m[:, 0, 0] * px + m[:, 0, 1] * py).float()
            oy = (m[:, 1, 0] * px + m[:, 1, 1] * py).float()
            d = glands.distance(index, ox, oy)
            flat = item * (height * width) + torch.from_numpy(rows).to(device)[which, a] * width
            flat += torch.from_numpy(columns).to(device)[which, b]
            depth.scatter_reduce_(0, flat, d, "amax")
            won = depth[flat] == d
            flat, index = flat[won], index[won]
            thickness[flat] = torch.from_numpy(glands.thickness).float().to(device)[index]
            material[flat] = MATERIAL[glands.spec.wall]
    return depth, thickness, material


# ---------------------------------------------------------------- nuclei


@dataclass
class Blobs:
    """Ellipses with a stain: one entry an object, float64 numpy; `id` > 0 names a nucleus, 0 is anything else."""

    item: np.ndarray
    xy: np.ndarray
    axes: np.ndarray  # (n, 2) semi-axes, µm
    angle: np.ndarray
    h: np.ndarray
    e: np.ndarray
    rim: np.ndarray
    chromatin: np.ndarray
    bump: np.ndarray
    id: np.ndarray

    @staticmethod
    def join(parts):
        return Blobs(*(np.concatenate([getattr(p, f) for p in parts]) for f in Blobs.__dataclass_fields__))


def make_blobs(item, xy, types, angle, h, ids):
    """Nuclei of the given types (n,), at xy, lying at `angle`; h (n, 12) uniform numbers."""
    table = np.array([(t.size, t.spread, *t.aspect, t.h, t.e, t.rim, t.chromatin, t.bump) for t in NUCLEI.values()])[types]
    size = table[:, 0] * (1 + table[:, 1] * 1.7 * (2 * h[:, 2] - 1))
    aspect = np.sqrt(table[:, 2] + (table[:, 3] - table[:, 2]) * h[:, 3])
    axes = np.stack([size * aspect, size / aspect], -1)
    dark = 1 + 0.25 * (2 * h[:, 4] - 1)
    return Blobs(item, xy, axes, angle, table[:, 4] * dark, table[:, 5], table[:, 6], table[:, 7], table[:, 8] * (2 * h[:, 5] - 1), ids)


def nuclei(scene, gland_sets, margin):
    """All nuclei near the grids of a scene."""
    kind = scene.kind
    parts = []
    seeds = np.array([s.hash for s in scene.slides], dtype=np.int64)
    for k, pop in enumerate(kind.populations):
        rows = [(np.full(len(i), b), i, j, xy) for b, (i, j, xy) in enumerate(lattice_points(scene, pop.spacing, margin + 14.0))]
        item, i, j, xy = (np.concatenate(x) for x in zip(*rows, strict=True))
        chance = np.zeros(len(MATERIALS))
        types = np.zeros(len(MATERIALS), dtype=np.int64)
        for name, (probability, nucleus) in pop.where.items():
            chance[MATERIAL[name]], types[MATERIAL[name]] = probability, NUCLEUS_TYPES.index(nucleus)
        h = attributes(hash_lattice(seeds[item], i, j, salt=20 + k))
        keep = h[:, 0] < chance.max()
        item, i, j, xy, h = item[keep], i[keep], j[keep], xy[keep], h[keep]
        if not len(item):
            continue
        p, offsets = at_points(scene, item)
        points = torch.from_numpy(xy)
        m, n = lookups(kind, points, offsets)
        top = torch.full((len(item),), MATERIAL[kind.base])
        for material, d in areas(kind, points, m, n, p):
            top[d > 0] = material
        top = top.numpy()
        keep = h[:, 0] < chance[top]
        for glands in gland_sets:
            if len(glands):
                keep &= ~inside_gland(glands, item, xy, -3.0)
        item, i, j, xy, h, top = item[keep], i[keep], j[keep], xy[keep], h[keep], top[keep]
        if not len(item):
            continue
        kinds = types[top]
        along = np.array([t.along for t in NUCLEI.values()])[kinds]
        angle = h[:, 6] * 2 * math.pi
        if along.any():
            angle[along] = fibre_angle(scene, item[along], xy[along]) + (h[along, 6] - 0.5) * 0.7
        ids = ((k + 1) << 26) | ((i & 0x1FFF) << 13) | (j & 0x1FFF)
        parts.append(make_blobs(item, xy, kinds, angle, h, ids))
    for g, glands in enumerate(gland_sets):
        if len(glands):
            parts.append(wall_nuclei(glands, g + len(kind.populations) + 1, seeds))
    if not parts:
        return None
    return Blobs.join(parts)


def fibre_angle(scene, item, xy, step=0.5):
    """Direction of the fibres at points, radians in the noise frame."""
    p, offsets = at_points(scene, item)
    values = []
    for dx, dy in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)):
        q = torch.from_numpy(xy + np.array([dx, dy]))
        m, n = lookups(scene.kind, q, offsets)
        values.append(fibre_coordinates(q, m, n)[1].numpy())
    gx, gy = values[0] - values[1], values[2] - values[3]
    return np.arctan2(-gx, gy)


def inside_gland(glands, item, xy, margin):
    """Whether points lie inside a gland, or nearer to it than -margin µm."""
    order = np.lexsort((glands.j, glands.i, glands.item))
    key = pack(glands.item, glands.i, glands.j)[order]
    i, j = np.floor(xy[:, 0] / glands.spec.spacing).astype(np.int64), np.floor(xy[:, 1] / glands.spec.spacing).astype(np.int64)
    hit = np.zeros(len(item), dtype=bool)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            want = pack(item, i + di, j + dj)
            pos = np.minimum(np.searchsorted(key, want), len(key) - 1)
            found = np.nonzero(key[pos] == want)[0]
            if len(found):
                which = order[pos[found]]
                d = xy[found] - glands.xy[which]
                depth = glands.distance(which, torch.from_numpy(d[:, 0]), torch.from_numpy(d[:, 1])).numpy()
                hit[found[depth > margin]] = True
    return hit


def pack(item, i, j):
    return (item << 40) + ((i + (1 << 18)) << 20) + (j + (1 << 18))


def wall_nuclei(glands, population, seeds):
    """Nuclei along the walls of glands, standing across the wall."""
    spec = glands.spec
    count = np.maximum(6, np.round(2 * math.pi * (glands.radius - 5.0) / spec.pitch)).astype(np.int64)
    which = np.repeat(np.arange(len(glands)), count)
    k = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    h = attributes(hash_lattice(hash_lattice(seeds[glands.item[which]], glands.i[which], glands.j[which], salt=50).astype(np.int64), k, k, salt=51))
    theta = 2 * math.pi * (k + 0.35 * (h[:, 7] - 0.5) * 2 + 0.5) / count[which]
    thick = glands.thickness[which]
    inset = 5.2 + (h[:, 8] - 0.5) * 2.0
    if spec.rows > 1:
        inset = 5.2 + (thick - 9.5) * np.where(k % 2 == 0, 0.25 * h[:, 8], 0.45 + 0.4 * h[:, 8])
    xy, outward = glands.wall_point(which, theta, inset)
    types = np.full(len(which), NUCLEUS_TYPES.index(spec.nucleus))
    ids = (population << 26) | ((glands.i[which] & 0x1FF) << 17) | ((glands.j[which] & 0x1FF) << 8) | (k & 0xFF)
    return make_blobs(glands.item[which], xy, types, outward + (h[:, 6] - 0.5) * 0.5, h, ids)


def splat(scene, blobs, device):
    """Coverage, haematoxylin, eosin and chromatin that nuclei add to each pixel, and their ids: (4, B*H*W) float32, (B*H*W,) int32."""
    height, width = scene.size
    count = len(scene.grids) * height * width
    sums = torch.zeros((count, 4), device=device)
    ids = torch.zeros(count, dtype=torch.int32, device=device)
    if blobs is None:
        return sums, ids
    soft = scene.soft[blobs.item]
    reach = blobs.axes.max(1) * (1 + np.abs(blobs.bump)) + soft
    c, s = np.cos(blobs.angle), np.sin(blobs.angle)
    inverse = np.stack([np.stack([c, s], -1) / blobs.axes[:, :1], np.stack([-s, c], -1) / blobs.axes[:, 1:]], 1)
    to_unit = inverse @ (scene.matrix * scene.mpp[:, None, None])[blobs.item]  # pixels on the screen -> unit disc
    radius = np.sqrt(blobs.axes.prod(1))
    mean = blobs.axes.prod(1) ** 0.5
    per = np.stack([blobs.bump, mean / soft, blobs.h, blobs.e, blobs.rim, blobs.chromatin], 1)
    for some, dx, dy, rows, columns in windows(scene, blobs.item, blobs.xy, reach, device):
        q = torch.from_numpy(to_unit[some].astype(np.float32)).to(device)
        x = torch.from_numpy(dx.astype(np.float32)).to(device)
        y = torch.from_numpy(dy.astype(np.float32)).to(device)
        attr = torch.from_numpy(per[some].astype(np.float32)).to(device)
        u = (q[:, 0, 0:1] * x)[:, None, :] + (q[:, 0, 1:2] * y)[:, :, None]
        v = (q[:, 1, 0:1] * x)[:, None, :] + (q[:, 1, 1:2] * y)[:, :, None]
        uu, vv = u * u, v * v
        f = uu + vv
        f += (uu - 3 * vv) * u * attr[:, 0, None, None]
        limit = (1.0 + 1.0 / attr[:, 1]) ** 2
        mask = (f < limit[:, None, None]) & visible(rows, columns, scene.size, device)
        which, a, b = mask.nonzero(as_tuple=True)
        f = f[mask].clamp_(min=0.0)
        g = attr[which]
        edge = ((1.0 - f.sqrt()) * g[:, 1] + 0.5).clamp_(0.0, 1.0)
        cover = edge * edge * (3.0 - 2.0 * edge)
        density = cover * g[:, 2] * (1.0 + g[:, 4] * (f.clamp(max=1.0) - 0.5))
        flat = torch.from_numpy(blobs.item[some] * (height * width)).to(device)[which]
        flat += torch.from_numpy(rows * width).to(device)[which, a] + torch.from_numpy(columns).to(device)[which, b]
        sums.index_add_(0, flat, torch.stack([cover, density, cover * g[:, 3], density * g[:, 5]], 1))
        inner = f < 1.0
        name = torch.from_numpy(blobs.id[some].astype(np.int32)).to(device)[which]
        ids.scatter_reduce_(0, flat[inner], name[inner], "amax")
    return sums, ids


# ---------------------------------------------------------------- pixels


def voronoi_edge(xy, spacing):
    """Distance in µm to the nearest border between the cells of scattered points `spacing` µm apart: float32 (N,)."""
    pattern = torch.from_numpy(scattered()).to(xy.device)
    q = xy / spacing
    cell = q.floor()
    rel = (q - cell).float()
    cell = cell.long()
    points = []
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            i, j = cell[:, 0] + di, cell[:, 1] + dj
            o = pattern[i % PERIOD, j % PERIOD].float()
            points.append(torch.stack([o[:, 0] + di - rel[:, 0], o[:, 1] + dj - rel[:, 1]], 1))
    d = torch.stack(points)  # (9, N, 2)
    r = (d * d).sum(-1)
    best = r.argmin(0)
    near = d.gather(0, best[None, :, None].expand(1, -1, 2))
    gap = ((d - near) ** 2).sum(-1).sqrt()
    border = (r - r.gather(0, best[None])) / (2 * gap.clamp(min=1e-6))
    border.scatter_(0, best[None], 9.0)
    return border.min(0).values * spacing


def render_scene(scene, device):
    """Render a scene: image (B, 3, H, W), tissue, nuclei, tumour (B, H, W)."""
    kind = scene.kind
    batch, (height, width) = len(scene.grids), scene.size
    blur = np.array([s.stain["blur"] for s in scene.slides])
    scene.soft = np.sqrt(0.5**2 + (1.1 * scene.mpp) ** 2 + (2.5 * blur) ** 2)  # width of an edge, µm
    sigma = np.sqrt((0.35 * scene.mpp) ** 2 + blur**2)

    def fade(wave):  # amplitude left of a wave of this length, µm, after smoothing by sigma
        return torch.as_tensor(np.exp(-2 * (math.pi * sigma / wave) ** 2), dtype=torch.float32, device=device)[:, None]

    xy = pixel_points(scene, device)
    p = {k: torch.as_tensor(v, device=device)[:, None] for k, v in scene.params.items()}
    offsets = torch.stack([p["offset_x"], p["offset_y"]], -1)
    m, n = lookups(kind, xy, offsets)
    layers = areas(kind, xy, m, n, p)

    sets = [GlandSet(scene, spec, 10 + g, 40.0) for g, spec in enumerate(kind.glands)]
    sharp = torch.as_tensor(1.0 / scene.soft, dtype=torch.float32, device=device)[:, None]
    label = torch.full(xy.shape[:2], MATERIAL[kind.base], dtype=torch.int64, device=device)
    covers = [(MATERIAL[kind.base], torch.ones_like(m[0]))]
    for material, d in layers[:-1]:
        label.masked_fill_(d > 0, material)
        covers.append((material, (d * sharp + 0.5).clamp_(0, 1)))
    if any(len(s) for s in sets):
        depth, thickness, wall = (t.view(batch, -1) for t in gland_maps(scene, sets, device))
        label = torch.where(depth > 0, wall, label)
        cover = (depth * sharp + 0.5).clamp_(0, 1)
        for material in sorted({MATERIAL[s.spec.wall] for s in sets}):
            covers.append((material, cover * (wall == material)))
        inner = depth - thickness - 1.5 * n[0]
        label.masked_fill_(inner > 0, MATERIAL["lumen"])
        covers.append((MATERIAL["lumen"], (inner * sharp + 0.5).clamp_(0, 1)))
    material, d = layers[-1]
    label.masked_fill_(d > 0, material)
    covers.append((material, (d * sharp + 0.5).clamp_(0, 1)))

    # weights from front to back, then the ground's stain
    ground = torch.zeros((7, batch, height * width), device=device)
    left = torch.ones_like(m[0])
    table = torch.from_numpy(GROUND).to(device)
    fat = None
    for material, cover in reversed(covers):
        weight = left * cover
        left = left - weight
        if material == MATERIAL["fat"]:
            fat = weight
        ground += table[material][:, None, None] * weight
    if fat is not None:
        some = (fat > 0).nonzero(as_tuple=True)
        if len(some[0]):
            border = voronoi_edge(xy[some], 62.0)
            w = sharp.expand_as(fat)[some]
            wall = ((0.9 - border) * w + 0.5).clamp_(0, 1) * fat[some] * (1.8 * w).clamp(max=1.0)
            ground[:, some[0], some[1]] += (table[MATERIAL["membrane"]] - table[MATERIAL["fat"]])[:, None] * wall

    fine = sample(xy * (1 / 2.6) + offsets * 3.0, 0, 2)
    along, across = fibre_coordinates(xy, m, n)
    fibre = sample(torch.stack([along * (1 / 26.0), across * (1 / 1.5)], -1) + offsets * 5.0, 2, 1)[0] * fade(4.0)
    gaps = sample(xy * (1 / 5.5) + offsets * 11.0, 2, 1)[0]
    grain = fine[0] * fade(7.0)
    haem = ground[0] + ground[1] * grain + ground[2] * fibre
    eosin = ground[3] + ground[4] * grain + ground[5] * fibre
    hole = ground[6] * ((gaps + 0.5 * fibre - 0.7) * 1.6).clamp_(0, 1)
    haem, eosin = (haem * (1 - hole)).clamp_(min=0), (eosin * (1 - hole)).clamp_(min=0)

    reach = float(scene.soft.max()) + 4.0
    blobs = nuclei(scene, sets, reach)
    sums, ids = splat(scene, blobs, device)
    sums = sums.view(batch, height * width, 4)
    open_ = (1 - sums[..., 0]).clamp_(min=0)
    chromatin = fine[1] * fade(6.0)
    haem = haem * open_ + sums[..., 1] + sums[..., 3] * chromatin
    eosin = eosin * open_ + sums[..., 2]
    haem.clamp_(min=0)

    on_glass = label == MATERIAL["glass"]
    ids = ids.view(batch, -1)
    image = colour(scene, haem, eosin, device).view(batch, 3, height, width)
    tissue = torch.from_numpy(CLASS_OF).to(device)[label].view(batch, height, width)
    tumour = torch.from_numpy(np.isin(CLASS_OF, (2, 11, 12, 13))).to(device)[label].view(batch, height, width)
    del on_glass
    return image, tissue, ids.view(batch, height, width), tumour


def colour(scene, haem, eosin, device):
    """Beer-Lambert: transmitted light of the stains' concentrations, float32 (B, 3, N) in [0, 1]."""
    h = torch.as_tensor(np.stack([s.stain["h"] for s in scene.slides]), dtype=torch.float32, device=device)
    e = torch.as_tensor(np.stack([s.stain["e"] for s in scene.slides]), dtype=torch.float32, device=device)
    white = torch.as_tensor(np.stack([s.stain["white"] for s in scene.slides]), dtype=torch.float32, device=device)
    density = h[:, :, None] * haem[:, None] + e[:, :, None] * eosin[:, None]
    return (white[:, :, None] * (density * -2.302585).exp()).clamp_(0, 1)
