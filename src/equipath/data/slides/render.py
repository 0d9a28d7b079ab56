"""How a scene becomes pixels: noise and areas at the pixel centres, glands and nuclei in windows around
their centres, stain to colour.

Every quantity is a function of the pixel centre's position in µm and of the microns per pixel alone. Edges
are softened and noise is attenuated by an amount that depends on the microns per pixel, which stands for
the mean over a pixel and has no direction: no filter ever runs over the pixel grid, and so every angle,
reflection and tile gives the same value for the same place.
"""

import itertools
import math
import operator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .noise import sample
from .objects import (
    FAT_CELL,
    GlandSet,
    Scene,
    areas,
    coarse_and_middle,
    fat_points,
    fibre_coordinates,
    fold_depth,
    nuclei,
    opening,
    pen_depth,
    voronoi_edge,
)
from .span import Span
from .stain import transmit
from .tissue import CLASS_OF, GROUND, IS_TUMOUR, MATERIAL, MATERIALS, MERGE, NUCLEI, Kind

FAR = -1e3  # depth of a point that lies in no gland, µm
CHUNK = 1 << 16  # pixels worked on at once: enough to hide the cost of a call, few enough for the cache
WIDE = 512  # columns of a chunk at most
WINDOWS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 384,
           512, 768, 1024)  # fmt: skip
GLAND_WINDOWS = (16, 32)
BLOCK = 1 << 17  # pixels of windows worked on at once


@dataclass(frozen=True)
class View:
    """What a grid sees.

    Attributes:
        image: float32 (3, H, W), RGB in [0, 1].
        tissue: int64 (H, W), an index into `CLASSES`.
        nuclei: int32 (H, W), 0 or the nucleus's number, which is the same in every view of the slide.
        tumour: bool (H, W): tumour cells and the lumens of tumour glands.
        artefact: int64 (H, W), 0 none, 1 fold, 2 pen.
        material: int64 (H, W), an index into `MATERIALS`, finer than the classes (which stroma, whose lumen).
    """

    image: torch.Tensor
    tissue: torch.Tensor
    nuclei: torch.Tensor
    tumour: torch.Tensor
    artefact: torch.Tensor
    material: torch.Tensor


def _windows(scene, item, xy, reach, sizes=WINDOWS):
    """Square windows of pixels around objects, grouped by size: yields (objects, dx, dy, columns, rows),
    each (n, K) or (n,). Objects larger than the largest of `sizes` take several windows.

    dx and dy are the offsets of a window's columns and rows from the object's centre on the screen, in
    pixels; they are formed in float64 so that they change sign and place, and nothing else, when the grid
    is turned by a right angle.
    """
    height, width = scene.size
    local = np.einsum("nij,ni->nj", scene.matrix[item], xy - scene.center[item]) / scene.mpp[item][:, None]
    col, row = local[:, 0] + (width - 1) / 2, (height - 1) / 2 - local[:, 1]
    r = reach / scene.mpp[item]
    seen = (col + r > -0.5) & (col - r < width - 0.5) & (row + r > -0.5) & (row - r < height - 0.5)
    side = np.ceil(2 * r).astype(np.int64) + 1
    bins = np.searchsorted(sizes, side)
    for k in np.unique(bins[seen]):
        some = np.nonzero(seen & (bins == k))[0]
        size = sizes[min(k, len(sizes) - 1)]
        if k < len(sizes):
            left, top = (np.ceil(x[some] - size / 2).astype(np.int64) for x in (col, row))
        else:  # without those off the grid or out of reach
            across = -(-side[some] // size)
            some = np.repeat(some, across**2)
            nth = np.arange(len(some)) - np.repeat(np.cumsum(across**2) - across**2, across**2)
            down, right = np.divmod(nth, np.repeat(across, across**2))
            left = np.floor(col[some] - r[some]).astype(np.int64) + size * right
            top = np.floor(row[some] - r[some]).astype(np.int64) + size * down
            dx, dy = (
                np.maximum(np.maximum(at - x[some], x[some] - (at + size - 1)), 0)
                for at, x in ((left, col), (top, row))
            )
            near = dx * dx + dy * dy <= (r[some] + 1) ** 2
            near &= (left < width) & (left + size > 0) & (top < height) & (top + size > 0)
            some, left, top = some[near], left[near], top[near]
        step = max(1, BLOCK // (size * size))
        for start in range(0, len(some), step):
            part = slice(start, start + step)
            columns, rows = (x[part, None] + np.arange(size) for x in (left, top))
            dx = (columns - (width - 1) / 2) - local[some[part], 0:1]
            dy = ((height - 1) / 2 - rows) - local[some[part], 1:2]
            yield some[part], dx, dy, columns, rows


def _pixels(scene, item, mask, columns, rows, device):
    """Where a window mask (n, K, K) holds on the grid: indices into the windows (M,) and flat pixel indices
    (M,).
    """
    height, width = scene.size
    count, size = mask.shape[:2]
    ok_r, ok_c = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    cut = np.flatnonzero(~(ok_r.all(1) & ok_c.all(1)))  # windows that lie partly off the grid
    if len(cut):
        ok = torch.from_numpy(ok_r[cut, :, None] & ok_c[cut, None, :]).to(device)
        some = torch.from_numpy(cut).to(device)
        mask[some] = mask[some] & ok
    flat = _indices(mask)
    if device.type == "cpu":  # numpy repeats several times faster than torch
        each = np.diff(np.searchsorted(flat.numpy(), np.arange(count + 1) * (size * size)))
        which = torch.from_numpy(np.repeat(np.arange(count), each))
    else:
        number = torch.arange(count, device=device)
        which = number.repeat_interleave(mask.view(count, -1).sum(1), output_size=len(flat))
    base = torch.from_numpy(item * (height * width) + rows[:, 0] * width + columns[:, 0]).to(device)
    step = torch.from_numpy((width * np.arange(size)[:, None] + np.arange(size)).ravel()).to(device)
    return flat, which, (base[:, None] + step).view(-1).index_select(0, flat)


def _compare(ufunc, x, y):
    """x < y and the like for tensors, bool: on a CPU numpy is several times faster than torch."""
    if x.device.type == "cpu":
        return torch.from_numpy(ufunc(x.numpy(), y.numpy() if isinstance(y, torch.Tensor) else y))
    return ufunc(x, y)


def _indices(mask):
    """Where a mask holds, flat: int64 (M,); on a CPU, again by numpy."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _tensor(x, device):
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)


def _affine(q, x, y):
    """Two linear forms q (n, 2, 2) of window offsets x, y (n, K): float32 (n, K, K) each."""
    u = (q[:, 0, 0:1] * x)[:, None, :] + (q[:, 0, 1:2] * y)[:, :, None]
    v = (q[:, 1, 0:1] * x)[:, None, :] + (q[:, 1, 1:2] * y)[:, :, None]
    return u, v


def gland_outlines(scene, glands):
    """Of each gland on the screen: (N, 2, 2) from pixels to its own frame in µm, how far its softened outline goes in
    that frame, and on the tissue, in µm.
    """
    soft = scene.soft[glands.item]
    to_local = glands.to_local @ (scene.matrix * scene.mpp[:, None, None])[glands.item]
    root, farthest = np.sqrt(glands.reach / glands.extent), glands.farthest()
    return to_local, farthest + soft * root, farthest * root**2 + soft


def _gland_maps(scene, sets, device):
    """Per pixel, flat: depth in a gland (FAR elsewhere) and its wall's thickness, float32, and the number of
    its set, int8, -1 for none; before them, in which rows a set may be: bool (sets, B, H).
    """
    count = len(scene.grids) * scene.size[0] * scene.size[1]
    present = np.zeros((len(sets), len(scene.grids), scene.size[0]), dtype=bool)
    depth = torch.full((count,), FAR, device=device)
    thickness = torch.ones(count, device=device)
    owner = torch.full((count,), -1, dtype=torch.int8, device=device)
    for number, glands in enumerate(sets):
        if not len(glands):
            continue
        to_local, limit, reach = gland_outlines(scene, glands)
        around = _windows(scene, glands.item, glands.xy, reach, GLAND_WINDOWS)
        for some, dx, dy, columns, rows in around:
            u, v = _affine(_tensor(to_local[some], device), _tensor(dx, device), _tensor(dy, device))
            mask = _compare(operator.lt, u * u + v * v, _tensor(limit[some] ** 2, device)[:, None, None])
            flat, which, pixel = _pixels(scene, glands.item[some], mask, columns, rows, device)
            attr = [
                glands.waves,
                glands.radius[:, None],
                glands.to_local.reshape(-1, 4),
                glands.thickness[:, None],
            ]
            own = _tensor(np.concatenate([x[some] for x in attr], 1).T, device)
            a = [x.index_select(0, which) for x in own[:11]]
            u, v = u.view(-1).index_select(0, flat), v.view(-1).index_select(0, flat)
            d = glands.depth(u, v, a[:6], a[6], a[7:])
            depth.scatter_reduce_(0, pixel, d, "amax")
            won = _indices(_compare(operator.eq, depth.index_select(0, pixel), d))
            pixel = pixel.index_select(0, won)
            thickness.scatter_(0, pixel, own[11].index_select(0, which.index_select(0, won)))
            owner.index_fill_(0, pixel, number)
            for item, row in zip(glands.item[some], rows, strict=True):
                present[number, item, max(row[0], 0) : row[-1] + 1] = True
    return present, depth, thickness, owner


@dataclass(frozen=True)
class Outlines:
    """How blobs lie on the screen, one entry each.

    Attributes:
        to_unit: (N, 2, 2), from pixels to the unit disc.
        limit: the outline's softened outer end, in units of the semi-axes.
        far: how far it goes at most, in the same units; reach: the same in µm.
        corner: distance in pixels from which the cubic term may have won.
        per: (N, 6): haematoxylin a + b r², eosin, chromatin, sharpness, shrinking.
    """

    to_unit: np.ndarray
    limit: np.ndarray
    far: np.ndarray
    reach: np.ndarray
    corner: np.ndarray
    per: np.ndarray


def outlines(scene, blobs):
    """The `Outlines` of a scene's blobs."""
    soft = scene.soft[blobs.item] * blobs.haze
    area = blobs.axes.prod(1)
    inverse = np.stack(
        [np.cos(blobs.angle), np.sin(blobs.angle), -np.sin(blobs.angle), np.cos(blobs.angle)], -1
    )
    inverse = inverse.reshape(-1, 2, 2) / blobs.axes[:, :, None]
    to_unit = (
        inverse @ (scene.matrix * scene.mpp[:, None, None])[blobs.item]
    )  # pixels on the screen -> unit disc
    steep = np.sqrt(area) / soft
    shrink = area / (area + soft**2 / 20)  # a soft edge widens a small disc: keep its area
    # The outline is r² + bump r³ cos 3θ = limit², r in units of the semi-axes. `far` is how far it goes at most. The
    # same holds again beyond r = 2 / (3 bump), where the cubic term has won: that is no part of a nucleus.
    limit = 1 + 0.5 / steep
    bent = np.maximum(-1.5 * math.sqrt(3) * np.abs(blobs.look[:, 0]) * limit, -1.0)
    far = math.sqrt(0.75) * limit / np.cos(np.arccos(bent) / 3)
    reach = blobs.axes.max(1) * far
    corner = 2 / (3 * np.maximum(np.abs(blobs.look[:, 0]), 1e-9)) * blobs.axes.min(1) / scene.mpp[blobs.item]
    h, rim = blobs.look[:, 1], blobs.look[:, 3]
    # a nucleus's haematoxylin is a + b r²: pale in the middle by its rim
    per = np.stack([h * (1 - 0.5 * rim), h * rim, blobs.look[:, 2], blobs.look[:, 4], 6 * steep, shrink], 1)
    return Outlines(to_unit, limit, far, reach, corner, per)


def _splat(scene, blobs, ids):
    """What nuclei add to each pixel: (4, B*H*W) float32 coverage, haematoxylin, eosin, chromatin; their numbers
    go into `ids`, int32 (B*H*W,).
    """
    device = ids.device
    sums = torch.zeros((4, len(ids)), device=device)
    if blobs is None:
        return sums
    lines, bump, solid = outlines(scene, blobs), blobs.look[:, 0], blobs.id >= 0
    to_unit, limit, far, per = lines.to_unit, lines.limit, lines.far, lines.per
    for some, dx, dy, columns, rows in _windows(scene, blobs.item, blobs.xy, lines.reach):
        u, v = _affine(_tensor(to_unit[some], device), _tensor(dx, device), _tensor(dy, device))
        uu, vv = u * u, v.mul_(v)
        f = uu + vv
        inside = None
        if columns.shape[1] + 1 > math.sqrt(2) * lines.corner[some].min():  # a window reaches to where it holds again
            inside = _compare(operator.le, f, _tensor(far[some] ** 2, device)[:, None, None])
        f += (
            uu.sub_(vv.mul_(3)).mul_(u).mul_(_tensor(bump[some], device)[:, None, None])
        )  # a three-cornered irregularity
        mask = _compare(operator.lt, f, _tensor(limit[some] ** 2, device)[:, None, None])
        if inside is not None:
            mask &= inside
        flat, which, pixel = _pixels(scene, blobs.item[some], mask, columns, rows, device)
        f = f.view(-1).index_select(0, flat).clamp_(min=0.0)
        a, b, e, chromatin, sharp, shrunk = (x.index_select(0, which) for x in _tensor(per[some].T, device))
        edge = F.hardsigmoid((1.0 - f.sqrt()).mul_(sharp), inplace=True)
        cover = torch.rsub(edge, 3.0, alpha=2.0).mul_(edge).mul_(edge).mul_(shrunk)
        density = f.clamp(max=1.0).mul_(b).add_(a).mul_(cover)
        sums[1].scatter_add_(0, pixel, density)
        sums[3].scatter_add_(0, pixel, density.mul_(chromatin))
        sums[2].scatter_add_(0, pixel, e.mul_(cover))
        if not solid[some].all():  # a nucleolus lies in a nucleus that covers already
            cover.mul_(_tensor(solid[some], device).index_select(0, which))
        sums[0].scatter_add_(0, pixel, cover)
        name = torch.from_numpy(np.maximum(blobs.id[some], 0).astype(np.int32)).to(device)
        inside = _compare(operator.lt, f, 1.0)
        ids.scatter_reduce_(0, pixel, name.index_select(0, which).mul_(inside), "amax")
    return sums


@lru_cache(maxsize=8)
def mean_nuclei(kind: Kind):
    """For each material of a kind: the fraction that nuclei cover, and their haematoxylin and eosin: float32
    (materials, 3).
    """
    out = np.zeros((len(MATERIALS), 3))
    for population in kind.populations:
        for name, (probability, nucleus) in population.where.items():
            look = NUCLEI[nucleus]
            chance = 0.05 if name == "fat" else probability  # only those at a wall are kept
            area = math.pi * look.size**2 * (1 + look.spread**2) / population.spacing**2
            out[MATERIAL[name]] += chance * area * np.array([1.0, look.h, look.e])
    for spec in kind.glands:
        look = NUCLEI[spec.nucleus]
        thick = min(sum(spec.thickness) / 2, sum(spec.radius) / 2)
        rows = min(spec.rows, thick / 7.6)
        area = rows * math.pi * look.size**2 / (spec.pitch * thick)
        out[MATERIAL[spec.wall]] = area * np.array([1.0, look.h, look.e])
    cover = np.minimum(out[:, :1], 0.85)
    out[:, 1:] /= np.maximum(out[:, :1], 1e-9)
    return torch.from_numpy(np.concatenate([cover, cover * out[:, 1:]], 1).astype(np.float32))


def _chunks(batch, height, width, limit):
    """(first item, last item, first row, last row, first column, last column) blocks of about `limit` pixels,
    compact where a grid is wide: so that fewer areas reach into each.
    """
    if height * width <= limit:
        step = max(1, limit // (height * width))
        return [(b, min(b + step, batch), 0, height, 0, width) for b in range(0, batch, step)]
    wide = width if width <= WIDE else -(-width // -(-width // WIDE))
    step = max(1, limit // wide)
    return [
        (b, b + 1, r, min(r + step, height), c, min(c + wide, width))
        for b in range(batch)
        for r in range(0, height, step)
        for c in range(0, width, wide)
    ]


def _part(x, shape, chunk):
    """A chunk (..., b, N) of x (..., B * H * W), shape being (B, H, W): a view where its memory is in one piece."""
    b0, b1, r0, r1, c0, c1 = chunk
    part = x.view(*x.shape[:-1], *shape)[..., b0:b1, r0:r1, c0:c1]
    return part.reshape(*x.shape[:-1], b1 - b0, -1)


def render_scene(scene: Scene, device):
    """Render a scene: image (B, 3, H, W), tissue, nuclei, tumour, artefact and material (B, H, W)."""
    batch, (height, width) = len(scene.grids), scene.size
    count = batch * height * width
    image = torch.empty((batch, 3, height * width), device=device)
    label, tissue = (torch.empty(count, dtype=torch.int64, device=device) for _ in range(2))
    tumour = torch.empty(count, dtype=torch.bool, device=device)
    artefact = torch.zeros(count, dtype=torch.int64, device=device)
    ids = torch.zeros(count, dtype=torch.int32, device=device)
    with torch.inference_mode():  # cheaper calls; what is returned was made outside and can be trained on
        _paint(scene, image, label, tissue, tumour, artefact, ids)
    shape = (batch, height, width)
    return image.view(batch, 3, height, width), *(
        x.view(shape) for x in (tissue, ids, tumour, artefact, label)
    )


def placed(scene):
    """The glands of a scene, a list of sets, and its nuclei, or None where there are none to be seen."""
    sets: list[GlandSet] = []
    for g, spec in enumerate(
        scene.kind.glands
    ):  # the first are asked for farther out, since later ones keep clear of them
        sets.append(GlandSet(scene, spec, 10 + g, 46.0 + 50.0 * (len(scene.kind.glands) - 1 - g), sets))
    reach = float(scene.soft.max()) * 3.6 + 8.7  # of the longest spindle, out of focus
    return sets, nuclei(scene, sets, reach) if scene.coarse.min() < 1 else None


def _paint(scene, image, label, tissue, tumour, artefact, ids):
    """Fill a scene's image (B, 3, H * W) and labels, flat."""
    batch, (height, width), device = len(scene.grids), scene.size, image.device
    shape = (batch, height, width)
    sets, blobs = placed(scene)
    present, *glands = _gland_maps(scene, sets, device)
    sums = _splat(scene, blobs, ids)
    if scene.coarse.max() >= 1:
        ids.view(batch, -1).mul_(torch.from_numpy(scene.coarse < 1).to(device)[:, None])

    shader = Shader(scene, sets, device)
    limit = CHUNK if device.type == "cpu" else len(label)  # a GPU works best on all at once
    for chunk in _chunks(batch, height, width, limit):
        b0, b1, r0, r1, c0, c1 = chunk
        here = np.flatnonzero(present[:, b0:b1, r0:r1].any((1, 2)))
        mark, nuclear, *mine = (_part(x, shape, chunk) for x in (artefact, sums, *glands))
        order, rank, rgb = shader.shade(chunk, (here, *mine), nuclear, mark)
        image.view(batch, 3, height, width)[b0:b1, :, r0:r1, c0:c1] = rgb.view(b1 - b0, 3, r1 - r0, -1)
        rank = rank.view(-1).int()
        tables = ((label, order), (tissue, CLASS_OF[order]), (tumour, IS_TUMOUR[order]))
        for out, table in tables:
            values = torch.from_numpy(table).to(device).index_select(0, rank)
            out.view(shape)[b0:b1, r0:r1, c0:c1] = values.view(b1 - b0, r1 - r0, -1)
        if c1 - c0 < width:
            artefact.view(shape)[b0, r0:r1, c0:c1] = mark.view(r1 - r0, -1)


class Shader:
    """Colours chunks of a scene's pixels; holds what all chunks share: numbers of the items, (B, 1) float32
    unless said otherwise.
    """

    def __init__(self, scene, sets, device):
        self.scene, self.sets, self.device = scene, sets, device

        def tensor(x):
            return torch.from_numpy(x).to(device)

        def each(x):
            return _tensor(x, device)[:, None]

        def fade(wave):  # the amplitude smoothing leaves to a wave of this length in µm; 0 where under 1 %
            left = np.exp(-2 * (math.pi * scene.sigma / wave) ** 2)
            return np.where(left < 0.01, 0.0, left)

        height, width = scene.size
        steps = scene.matrix * scene.mpp[:, None, None]  # µm in the noise frame for a pixel right, a pixel up
        self.steps, self.centers = steps.tolist(), scene.center.tolist()
        # where the columns and the rows lie, (2, B, 1, W) and (2, B, H, 1) float64: formed as in `_windows`, so
        # that they change place and sign, and nothing else, when the grid is turned by a right angle
        right = (np.arange(width) - (width - 1) / 2) * scene.mpp[:, None]
        up = ((height - 1) / 2 - np.arange(height)) * scene.mpp[:, None]
        self.columns = tensor(np.stack([a[:, None] * right for a in scene.matrix[:, :, 0].T])[:, :, None])
        self.rows = tensor(np.stack([a[:, None] * up for a in scene.matrix[:, :, 1].T])[..., None])
        self.center = tensor(scene.center.T.copy())[..., None, None]
        self.offsets = tensor(scene.offsets)[..., None]  # (2, B, 1) float64
        self.names = list(scene.params32)
        self.params = tensor(np.stack(list(scene.params32.values())))[..., None]  # (P, B, 1)
        self.marks = {k: tensor(v)[:, None] for k, v in scene.params.items() if k[:4] in ("fold", "pen_")}
        self.soft = each(scene.soft)
        self.widths = np.sqrt(scene.soft[:, None] ** 2 + MERGE**2).tolist()  # of a material's edge, µm
        self.numbers = [
            dict(zip(scene.params32, v, strict=True))
            for v in np.stack(list(scene.params32.values()), 1).tolist()
        ]
        self.sharp = each(1.0 / np.sqrt(scene.soft**2 + 1.0))
        self.steep = {w: each(6.0 / np.sqrt(scene.soft**2 + w**2)) for w in set(MERGE.tolist())}
        fine, micro, self.line, self.kept = fade(7.0), fade(2.2), each(fade(4.0)), each(fade(14.0))
        self.fine = torch.stack([each(fine), each(0.35 * fine)])  # (2, B, 1): grain, and chromatin
        self.micro = each(micro) if micro.max() > 0 else None
        columns = [*range(7), *[7] * scene.dab, *[8, 9, 10] * bool(scene.coarse.max() > 0)]
        self.table = torch.cat([tensor(GROUND), mean_nuclei(scene.kind).to(device)], 1)[:, columns]
        self.coarse = each(scene.coarse)
        count = 3 if scene.dab else 2
        self.vectors = _tensor(np.stack([s.stain.vectors[:count] for s in scene.slides]), device)
        self.white = _tensor(np.stack([s.stain.white for s in scene.slides]), device)

    def _points(self, chunk):
        """Pixel centres of a chunk in the noise frame: float64 (2, b, rows * columns), all x before all y."""
        b0, b1, r0, r1, c0, c1 = chunk
        xy = self.columns[:, b0:b1, :, c0:c1] + self.rows[:, b0:b1, r0:r1]
        return xy.add_(self.center[:, b0:b1]).view(2, b1 - b0, -1)

    def _bounds(self, chunk, m, n):
        """Between what bounds the fields stay in a chunk: for each item the place, coarse and middle noise, as
        spans, and the parameters.
        """
        b0, b1, r0, r1, c0, c1 = chunk
        height, width = self.scene.size
        right, up = (c0 + c1 - width) / 2, (height - r0 - r1) / 2  # of the chunk's middle, in pixels
        ends = [f(-1).T.tolist() for f in (m.amin, m.amax, n.amin, n.amax)]
        for item, *bounds in zip(range(b0, b1), *ends, strict=True):
            xy = []
            for (a, b), c in zip(self.steps[item], self.centers[item], strict=True):
                at, far = c + a * right + b * up, (abs(a) * (c1 - c0) + abs(b) * (r1 - r0)) / 2
                xy.append(Span(at - far, at + far))
            noise = [[Span(*e) for e in zip(*bounds[k : k + 2], strict=True)] for k in (0, 2)]
            yield item, xy, *noise, self.numbers[item]

    def _possible(self, chunk, m, n):
        """What can reach into a chunk, by the bounds of its fields: which areas, a list of bool in their order,
        and which items' fold and ink, lists of places in the chunk.
        """
        found: list[bool] = []
        folded: list[int] = []
        inked: list[int] = []
        for item, *fields in self._bounds(chunk, m, n):
            for k, (material, distance) in enumerate(areas(self.scene.kind, *fields)):
                if k == len(found):
                    found.append(False)
                # half of a softened edge, and what rounding may add; a bound that is NaN excludes nothing
                if not found[k]:
                    found[k] = not distance().hi < -0.51 * self.widths[item][material] - 0.1
            edge = 0.51 * self.widths[item][0] + 4.0  # ink's is 6 µm softer
            for items, half, depth in ((folded, "fold_half", fold_depth), (inked, "pen_half", pen_depth)):
                if self.numbers[item][half] > 0 and not depth(*fields).hi < -edge:
                    items.append(item - chunk[0])
        return found, folded, inked

    def shade(self, chunk, glands, nuclear, mark):
        """Colour a chunk of pixels, and label its folds and ink in mark (b, N).

        Returns:
            The materials of the layers, numpy int64; which layer is topmost (b, N), and light (b, 3, N), float32.
        """
        scene, kind, device = self.scene, self.scene.kind, self.device
        items = slice(chunk[0], chunk[1])
        offsets, steep = self.offsets[:, items], {w: v[items] for w, v in self.steep.items()}
        xy = self._points(chunk)
        m, n = coarse_and_middle(kind, xy, offsets)

        possible, folded, inked = self._possible(chunk, m, n)
        here, depth, thickness, owner = glands
        order = [MATERIAL[kind.base]]
        rank = torch.zeros(xy.shape[1:], device=device)  # the topmost layer's number, which grows upwards
        count = 1 + sum(possible) + 2 * len(here)
        # the layers' covers, and then their weights
        weights = torch.empty((count, *rank.shape), device=device)

        def paint(material, d):
            cover = torch.mul(d, steep[float(MERGE[material])], out=weights[len(order)])
            F.hardsigmoid(cover, inplace=True)  # that of 6 x is x + 0.5, held in [0, 1]
            torch.maximum(rank, d.sign().mul_(len(order)), out=rank)  # above 0 inside
            order.append(material)

        p = dict(zip(self.names, self.params[:, items].unbind(), strict=True))
        *layers, glass = zip(areas(kind, xy, m, n, p), possible, strict=True)
        for (material, distance), reaches in layers:
            if reaches:
                paint(material, distance())
        for number in here:
            spec, d = self.sets[number].spec, depth
            if len(here) > 1:
                mine = _compare(operator.eq, owner, int(number))
                d = torch.where(mine, depth, FAR)
            hole = opening(spec, d, thickness, n, xy, offsets)
            paint(MATERIAL[spec.wall], d)
            paint(MATERIAL[spec.lumen], hole)
        (material, distance), reaches = glass
        if reaches:
            paint(material, distance())

        thicker, light = self._artefacts(chunk, xy, m, n, folded, inked, mark)

        # from front to back: each layer's weight is its cover times what those in front let through
        left = torch.ones(rank.shape, device=device)
        for k in range(len(order) - 1, 0, -1):
            left.sub_(weights[k].mul_(left))
        weights[0] = left
        ground = (self.table[order].T @ weights.view(len(order), -1)).view(-1, *rank.shape)
        if MATERIAL["fat"] in order:
            fat = weights[[k for k, x in enumerate(order) if x == MATERIAL["fat"]]].sum(0).view(-1)
            some = _indices(_compare(operator.gt, fat, 0))
            if len(some):
                near = n[:3].view(3, -1).index_select(1, some)
                place = xy.view(2, -1).index_select(1, some)
                border = voronoi_edge(fat_points(place, near), FAT_CELL)
                w = self.sharp[items].view(-1).index_select(0, some // rank.shape[1])
                thick = 0.9 * (1 + 0.35 * near[2])
                wall = ((thick - border) * w).add_(0.5).clamp_(0, 1)
                wall *= fat.index_select(0, some) * (2.0 * w).clamp(max=1.0)
                change = self.table[MATERIAL["membrane"]] - self.table[MATERIAL["fat"]]
                ground.view(len(ground), -1).index_add_(1, some, change[:, None] * wall)

        # texture
        grain = sample(xy, 1 / 2.6, offsets * 3.0, 0, 2).mul_(self.fine[:, items])
        if self.micro is not None:
            grain.addcmul_(sample(xy, 1 / 0.8, offsets * 5.0, 0, 2), self.micro[items], value=0.9)
        rough, clumps = grain
        line = fibre_coordinates(xy, m, n)
        fibre = sample(line, 1 / 1.4, offsets * 13.0, 2, 1)[0].mul_(self.line[items])
        gaps = sample(xy, 1 / 5.5, offsets * 11.0, 2, 1)[0]
        hole = (fibre + rough).mul_(0.4).add_(gaps).sub_(0.3).mul_(0.9).clamp_(0, 1)
        hole = torch.rsub(hole, 3.0, alpha=2.0).mul_(hole).mul_(hole)
        kept = self.kept[items]  # beyond what a pixel can show, gaps give way to their mean
        hole = hole.mul_(kept).add_(0.32 * (1 - kept))
        solid = hole.mul_(ground[6]).neg_().add_(1)
        haem = ground[0].addcmul_(ground[1], rough).addcmul_(ground[2], fibre).mul_(solid).clamp_(min=0)
        eosin = ground[3].addcmul_(ground[4], rough).addcmul_(ground[5], fibre).mul_(solid).clamp_(min=0)
        dab = (ground[7] * (1 + 0.3 * rough)).mul_(solid).clamp_(min=0) if scene.dab else None

        # nuclei in front of the ground; where they overlap the stain does not simply add
        cover, add_h, add_e, add_c = nuclear
        crowd = (cover - 1).clamp_(0, 1).mul_(0.25).add_(1).div_(cover.clamp(min=1))
        clear = (1 - cover).clamp_(min=0)
        nuclear_h = add_h.addcmul_(add_c, clumps).mul_(crowd)
        stains = [nuclear_h.addcmul_(haem, clear).clamp_(min=0), add_e.mul_(crowd).addcmul_(eosin, clear)]
        if dab is not None:
            stains.append(dab * clear)

        vectors, white = self.vectors[items], self.white[items]
        for (k, t), stain in itertools.product(thicker.items(), stains):
            stain[k] *= t
        rgb = transmit(stains, vectors, white)
        if len(ground) > 8:  # a pixel wider than a nucleus: mean light of what nuclei cover and leave
            mean = ground[-3:]
            bare = [haem, eosin] + ([dab] if dab is not None else [])
            full = [mean[1] / mean[0].clamp(min=1e-6), mean[2] / mean[0].clamp(min=1e-6)]
            full += [torch.zeros_like(haem)] if dab is not None else []
            for (k, t), stain in itertools.product(thicker.items(), bare + full):
                stain[k] *= t
            share = mean[0].clamp(0, 1)[:, None]
            far = transmit(bare, vectors, white) * (1 - share) + transmit(full, vectors, white) * share
            k = self.coarse[items][:, None]
            rgb.mul_(1 - k).add_(far * k)
        for k, passes in light.items():
            rgb[k] *= passes
        return np.array(order), rank, rgb

    def _artefacts(self, chunk, xy, m, n, folded, inked, mark):
        """Folds and ink on some of a chunk's items, labelled in mark (b, N): how much thicker the section is (N,)
        and the light that ink lets through (3, N), each by the item's place in the chunk.
        """
        thick, light = {}, {}

        def fields(k):
            return xy[:, k], m[:, k], n[:, k], {name: v[chunk[0] + k] for name, v in self.marks.items()}

        for k in folded:
            d = fold_depth(*fields(k)).float()
            thick[k] = (d * (1 / self.soft[chunk[0] + k])).add_(0.5).clamp_(0, 1).mul_(0.9).add_(1)
            mark[k] = d > 0
        for k in inked:
            d = pen_depth(*fields(k)).float()
            ink = (d * (1 / (self.soft[chunk[0] + k] + 6.0))).add_(0.5).clamp_(0, 1) * (1 + 0.15 * n[2, k])
            colour = _tensor(self.scene.slides[chunk[0] + k].pen, self.device)
            light[k] = (colour[:, None] * ink * -2.302585).exp_()
            mark[k].masked_fill_(d > 0, 2)
        return thick, light
