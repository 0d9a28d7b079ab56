"""How a scene becomes pixels: noise and areas at the pixel centres, glands and nuclei in windows around
their centres, stain to colour.

Every quantity is a function of the pixel centre's position in µm and of the microns per pixel alone. Edges
are softened and noise is attenuated by an amount that depends on the microns per pixel, which stands for
the mean over a pixel and has no direction: no filter ever runs over the pixel grid, and so every angle,
reflection and tile gives the same value for the same place.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .noise import sample
from .objects import (
    FAT_CELL,
    GlandSet,
    Scene,
    areas,
    coarse_and_middle,
    fat_points,
    fibre_coordinates,
    nuclei,
    opening,
    voronoi_edge,
)
from .stain import transmit
from .tissue import CLASS_OF, GROUND, IS_TUMOUR, MATERIAL, MATERIALS, MERGE, NUCLEI, Kind

FAR = -1e3  # depth of a point that lies in no gland, µm
CHUNK = 1 << 17  # pixels worked on at once: enough to hide the cost of a call, few enough for the cache
WINDOWS = (
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    14,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    512,
    768,
    1024,
)


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


def _windows(scene, item, xy, reach):
    """Square windows of pixels around objects, grouped by size: yields (objects, dx, dy, columns, rows),
    each (n, K) or (n,).

    dx and dy are the offsets of a window's columns and rows from the object's centre on the screen, in
    pixels; they are formed in float64 so that they change sign and place, and nothing else, when the grid
    is turned by a right angle.
    """
    height, width = scene.size
    local = np.einsum("nij,ni->nj", scene.matrix[item], xy - scene.center[item]) / scene.mpp[item][:, None]
    col, row = local[:, 0] + (width - 1) / 2, (height - 1) / 2 - local[:, 1]
    r = reach / scene.mpp[item]
    seen = (col + r > -0.5) & (col - r < width - 0.5) & (row + r > -0.5) & (row - r < height - 0.5)
    bins = np.searchsorted(WINDOWS, np.ceil(2 * r).astype(np.int64) + 1)
    for k in np.unique(bins[seen]):
        chosen = np.nonzero(seen & (bins == k))[0]
        size = WINDOWS[k] if k < len(WINDOWS) else int(np.ceil(2 * r[chosen].max())) + 1
        block = max(1, (1 << 18) // (size * size))
        for start in range(0, len(chosen), block):
            some = chosen[start : start + block]
            columns = np.ceil(col[some] - size / 2).astype(np.int64)[:, None] + np.arange(size)
            rows = np.ceil(row[some] - size / 2).astype(np.int64)[:, None] + np.arange(size)
            dx = (columns - (width - 1) / 2) - local[some, 0:1]
            dy = ((height - 1) / 2 - rows) - local[some, 1:2]
            yield some, dx, dy, columns, rows


def _pixels(scene, item, mask, columns, rows, device):
    """Where a window mask (n, K, K) holds on the grid: indices into the windows (M,) and flat pixel indices
    (M,).
    """
    height, width = scene.size
    if (columns < 0).any() or (columns >= width).any() or (rows < 0).any() or (rows >= height).any():
        ok_r = torch.from_numpy((rows >= 0) & (rows < height)).to(device)
        ok_c = torch.from_numpy((columns >= 0) & (columns < width)).to(device)
        mask = mask & ok_r[:, :, None] & ok_c[:, None, :]
    size = mask.shape[1]
    mask = mask.view(len(mask), -1)
    flat = mask.view(-1).nonzero()[:, 0]
    number = torch.arange(len(mask), device=device)
    which = number.repeat_interleave(mask.sum(1), output_size=len(flat))
    base = torch.from_numpy(item * (height * width) + rows[:, 0] * width + columns[:, 0]).to(device)
    step = (width * torch.arange(size, device=device)[:, None] + torch.arange(size, device=device)).view(-1)
    inner = flat - (number * (size * size)).index_select(0, which)  # no division for every pixel
    return flat, which, step.index_select(0, inner).add_(base.index_select(0, which))


def _tensor(x, device):
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)


def _affine(q, x, y):
    """Two linear forms q (n, 2, 2) of window offsets x, y (n, K): float32 (n, K, K) each."""
    u = (q[:, 0, 0:1] * x)[:, None, :] + (q[:, 0, 1:2] * y)[:, :, None]
    v = (q[:, 1, 0:1] * x)[:, None, :] + (q[:, 1, 1:2] * y)[:, :, None]
    return u, v


def _gland_maps(scene, sets, device):
    """Per pixel, flat: depth in a gland (FAR elsewhere) and its wall's thickness, float32, and the number of
    its set, int64.
    """
    count = len(scene.grids) * scene.size[0] * scene.size[1]
    depth = torch.full((count,), FAR, device=device)
    thickness = torch.ones(count, device=device)
    owner = torch.full((count,), -1, dtype=torch.int64, device=device)
    for number, glands in enumerate(sets):
        if not len(glands):
            continue
        soft = scene.soft[glands.item]
        to_local = glands.to_local @ (scene.matrix * scene.mpp[:, None, None])[glands.item]
        limit = glands.extent + soft * np.sqrt(glands.reach / glands.extent)
        for some, dx, dy, columns, rows in _windows(scene, glands.item, glands.xy, glands.reach + soft):
            u, v = _affine(_tensor(to_local[some], device), _tensor(dx, device), _tensor(dy, device))
            mask = (u * u + v * v) < _tensor(limit[some] ** 2, device)[:, None, None]
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
            won = (depth.index_select(0, pixel) == d).nonzero()[:, 0]
            pixel = pixel.index_select(0, won)
            thickness.index_copy_(0, pixel, own[11].index_select(0, which.index_select(0, won)))
            owner.index_fill_(0, pixel, number)
    return depth, thickness, owner


def _splat(scene, blobs, device):
    """What nuclei add to each pixel: (4, B*H*W) float32 coverage, haematoxylin, eosin, chromatin; and their
    numbers, int32.
    """
    height, width = scene.size
    count = len(scene.grids) * height * width
    sums = torch.zeros((4, count), device=device)
    ids = torch.zeros(count, dtype=torch.int32, device=device)
    if blobs is None:
        return sums, ids
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
    limit = (1 + 0.5 / steep) * (1 + 0.6 * np.abs(blobs.look[:, 0]))
    reach = blobs.axes.max(1) * limit
    per = np.concatenate([blobs.look, steep[:, None], shrink[:, None], (blobs.id >= 0)[:, None]], 1)
    for some, dx, dy, columns, rows in _windows(scene, blobs.item, blobs.xy, reach):
        u, v = _affine(_tensor(to_unit[some], device), _tensor(dx, device), _tensor(dy, device))
        attr = _tensor(per[some], device)
        uu, vv = u * u, v * v
        f = uu + vv
        f += (uu - 3 * vv).mul_(u).mul_(attr[:, 0, None, None])  # a three-cornered irregularity
        mask = f < _tensor((1 + 0.5 / steep[some]) ** 2, device)[:, None, None]
        flat, which, pixel = _pixels(scene, blobs.item[some], mask, columns, rows, device)
        f = f.view(-1).index_select(0, flat).clamp_(min=0.0)
        h, e, rim, chromatin, sharp, shrunk, solid = (
            a.index_select(0, which) for a in attr[:, 1:].T.contiguous()
        )
        edge = (1.0 - f.sqrt()).mul_(sharp).add_(0.5).clamp_(0.0, 1.0)
        cover = (3.0 - 2.0 * edge).mul_(edge).mul_(edge).mul_(shrunk)
        density = (f.clamp(max=1.0) - 0.5).mul_(rim).add_(1.0).mul_(h).mul_(cover)
        sums[0].scatter_add_(0, pixel, cover * solid)
        sums[1].scatter_add_(0, pixel, density)
        sums[2].scatter_add_(0, pixel, cover * e)
        sums[3].scatter_add_(0, pixel, density * chromatin)
        name = torch.from_numpy(np.maximum(blobs.id[some], 0).astype(np.int32)).to(device)
        ids.scatter_reduce_(0, pixel, name.index_select(0, which) * (f < 1.0), "amax")
    return sums, ids


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


def _chunks(batch, height, width):
    """(first item, last item, first row, last row) blocks of about CHUNK pixels."""
    if height * width <= CHUNK:
        step = max(1, CHUNK // (height * width))
        return [(b, min(b + step, batch), 0, height) for b in range(0, batch, step)]
    step = max(1, CHUNK // width)
    return [(b, b + 1, r, min(r + step, height)) for b in range(batch) for r in range(0, height, step)]


def _points(scene, chunk, device):
    """Pixel centres of a chunk in the noise frame: float64 (b, rows * W, 2), all x before all y in memory."""
    b0, b1, r0, r1 = chunk
    height, width = scene.size
    mpp = torch.from_numpy(scene.mpp[b0:b1]).to(device)[:, None, None]
    a = torch.from_numpy(scene.matrix[b0:b1]).to(device)[:, :, :, None, None]
    c = torch.from_numpy(scene.center[b0:b1]).to(device)[:, :, None, None]
    dx = (torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2)[None, None, :] * mpp
    dy = ((height - 1) / 2 - torch.arange(r0, r1, dtype=torch.float64, device=device))[None, :, None] * mpp
    out = torch.empty((2, b1 - b0, r1 - r0, width), dtype=torch.float64, device=device)
    for k in (0, 1):
        torch.add(a[:, k, 0] * dx, a[:, k, 1] * dy, out=out[k]).add_(c[:, k])
    return out.view(2, b1 - b0, -1).movedim(0, -1)


def render_scene(scene: Scene, device):
    """Render a scene: image (B, 3, H, W), tissue, nuclei, tumour, artefact and material (B, H, W)."""
    batch, (height, width) = len(scene.grids), scene.size
    sets: list[GlandSet] = []
    for g, spec in enumerate(
        scene.kind.glands
    ):  # the first are asked for farther out, since later ones keep clear of them
        sets.append(GlandSet(scene, spec, 10 + g, 46.0 + 50.0 * (len(scene.kind.glands) - 1 - g), sets))
    glands = None
    if any(len(s) for s in sets):
        glands = [t.view(batch, height, width) for t in _gland_maps(scene, sets, device)]
    reach = float(scene.soft.max()) * 1.5 + 9.0
    blobs = nuclei(scene, sets, reach) if scene.coarse.min() < 1 else None
    sums, ids = _splat(scene, blobs, device)
    sums, ids = sums.view(4, batch, height, width), ids.view(batch, height, width)

    image = torch.empty((batch, 3, height, width), device=device)
    label = torch.empty((batch, height, width), dtype=torch.int64, device=device)
    artefact = torch.zeros((batch, height, width), dtype=torch.int64, device=device)
    for chunk in _chunks(batch, height, width):
        b0, b1, r0, r1 = chunk
        mine = None if glands is None else [t[b0:b1, r0:r1].reshape(b1 - b0, -1) for t in glands]
        nuclear = sums[:, b0:b1, r0:r1].reshape(4, b1 - b0, -1)
        rgb, top, mark = _shade(scene, chunk, sets, mine, nuclear, device)
        image[b0:b1, :, r0:r1] = rgb.view(b1 - b0, 3, r1 - r0, width)
        label[b0:b1, r0:r1] = top.view(b1 - b0, r1 - r0, width)
        if mark is not None:
            artefact[b0:b1, r0:r1] = mark.view(b1 - b0, r1 - r0, width)
    flat = label.view(-1)
    tissue = torch.from_numpy(CLASS_OF).to(device).index_select(0, flat).view_as(label)
    tumour = torch.from_numpy(IS_TUMOUR).to(device).index_select(0, flat).view_as(label)
    ids = ids * torch.from_numpy(scene.coarse < 1).to(device)[:, None, None]
    return image, tissue, ids, tumour, artefact, label


def _shade(scene, chunk, sets, glands, nuclear, device):
    """Colour (b, 3, N), material (b, N) and artefact (b, N), or None for none, of a chunk of pixels."""
    kind, items = scene.kind, slice(chunk[0], chunk[1])
    xy = _points(scene, chunk, device)
    p = {k: torch.from_numpy(v[items]).to(device)[:, None] for k, v in scene.params.items()}
    offsets = torch.from_numpy(scene.offsets[items]).to(device)[:, None]
    m, n = coarse_and_middle(kind, xy, offsets)

    def each(values):  # one number an item, ready to meet (b, N)
        return torch.from_numpy(np.asarray(values[items], dtype=np.float32)).to(device)[:, None]

    def fade(
        wave,
    ):  # the amplitude that smoothing leaves to a wave of this length in µm; exactly 0 where it is under 1 %
        left = np.exp(-2 * (math.pi * scene.sigma / wave) ** 2)
        return np.where(left < 0.01, 0.0, left)

    sharp = {w: each(1.0 / np.sqrt(scene.soft**2 + w**2)) for w in set(MERGE.tolist())}
    base = MATERIAL[kind.base]
    rank = torch.zeros(xy.shape[:2], device=device)  # the topmost layer's number, which grows upwards
    covers = [(base, None)]

    def paint(material, d, where=None):
        inside = d.sign().mul_(len(covers))  # above 0 inside, below outside
        cover = (d * sharp[float(MERGE[material])]).add_(0.5).clamp_(0, 1)
        if where is not None:
            inside.mul_(where)
            cover.mul_(where)
        torch.maximum(rank, inside, out=rank)
        covers.append((material, cover))

    layers = list(areas(kind, xy, m, n, p))

    def reaches(material, d):  # any of its softened edge
        return bool(d.max() > -0.51 * np.sqrt(scene.soft.max() ** 2 + MERGE[material] ** 2))

    for material, d in layers[:-1]:
        if reaches(material, d):
            paint(material, d)
    if glands is not None:
        depth, thickness, owner = glands
        for number, s in enumerate(sets):
            here = (owner == number).float()
            if len(s) and bool(here.max() > 0):
                paint(MATERIAL[s.spec.wall], depth, here)
                paint(MATERIAL[s.spec.lumen], opening(s.spec, depth, thickness, n, xy, offsets), here)
    if reaches(*layers[-1]):
        paint(*layers[-1])

    order = torch.tensor([material for material, _ in covers], device=device)
    top = order.index_select(0, rank.view(-1).long()).view_as(rank)

    # from front to back: each layer's weight is its cover times what those in front let through
    columns = [torch.from_numpy(GROUND).to(device)]
    coarse = bool(scene.coarse[items].max() > 0)
    if coarse:
        columns.append(mean_nuclei(kind).to(device))
    table = torch.cat(columns, 1)
    used = sorted({material for material, _ in covers})
    weights = torch.zeros((len(used), *top.shape), device=device)
    left = torch.ones(top.shape, device=device)
    for material, cover in reversed(covers):
        weight = left if cover is None else cover.mul_(left)
        weights[used.index(material)].add_(weight)
        if cover is not None:
            left.sub_(weight)
    ground = (table[used].T @ weights.view(len(used), -1)).view(-1, *top.shape)
    if MATERIAL["fat"] in used:
        fat = weights[used.index(MATERIAL["fat"])].view(-1)
        some = (fat > 0).nonzero()[:, 0]
        if len(some):
            near = n[:3].view(3, -1).index_select(1, some)
            place = torch.stack([xy[..., k].reshape(-1).index_select(0, some) for k in (0, 1)], -1)
            border = voronoi_edge(fat_points(place, near), FAT_CELL)
            w = sharp[1.0].view(-1).index_select(0, some // top.shape[1])
            thick = 0.9 * (1 + 0.35 * near[2])
            wall = ((thick - border) * w).add_(0.5).clamp_(0, 1)
            wall *= fat.index_select(0, some) * (2.0 * w).clamp(max=1.0)
            change = table[MATERIAL["membrane"]] - table[MATERIAL["fat"]]
            ground.view(len(ground), -1).index_add_(1, some, change[:, None] * wall)

    # texture
    fine, micro = fade(7.0), fade(2.2)
    grain = sample(xy, 1 / 2.6, offsets * 3.0, 0, 2).mul_(each(fine))
    rough, clumps = grain[0], grain[1].mul_(0.35)
    if micro[items].max() > 0:
        grain.add_(sample(xy, 1 / 0.8, offsets * 5.0, 0, 2).mul_(each(micro)), alpha=0.9)
    along, across = fibre_coordinates(xy, m, n)
    line = torch.stack([along.mul_(1 / 18.0), across]).movedim(0, -1)
    fibre = sample(line, 1 / 1.4, offsets * 13.0, 2, 1)[0].mul_(each(fade(4.0)))
    gaps = sample(xy, 1 / 5.5, offsets * 11.0, 2, 1)[0]
    kept = each(fade(14.0))  # beyond what a pixel can show, gaps give way to their mean
    hole = (fibre + rough).mul_(0.4).add_(gaps).sub_(0.3).mul_(0.9).clamp_(0, 1)
    hole = (3.0 - 2.0 * hole).mul_(hole).mul_(hole).mul_(kept).add_(0.32 * (1 - kept))
    solid = hole.mul_(ground[6]).neg_().add_(1)
    haem = (ground[1] * rough).add_(ground[0]).addcmul_(ground[2], fibre).mul_(solid).clamp_(min=0)
    eosin = (ground[4] * rough).add_(ground[3]).addcmul_(ground[5], fibre).mul_(solid).clamp_(min=0)
    dab = (ground[7] * (1 + 0.3 * rough)).mul_(solid).clamp_(min=0) if scene.dab else None

    # nuclei in front of the ground; where they overlap the stain does not simply add
    cover, add_h, add_e, add_c = nuclear
    crowd = (cover - 1).clamp_(0, 1).mul_(0.25).add_(1).div_(cover.clamp(min=1))
    clear = (1 - cover).clamp_(min=0)
    nuclear_h = (add_c * clumps).add_(add_h).mul_(crowd)
    stains = [nuclear_h.addcmul_(haem, clear).clamp_(min=0), (add_e * crowd).addcmul_(eosin, clear)]
    if dab is not None:
        stains.append(dab * clear)

    thick, mark, pen = _artefacts(scene, items, xy, m, n, p)
    vectors = torch.from_numpy(
        np.stack([s.stain.vectors for s in scene.slides[items]]).astype(np.float32)
    ).to(device)
    vectors = vectors[:, : len(stains)]
    white = torch.from_numpy(np.stack([s.stain.white for s in scene.slides[items]]).astype(np.float32)).to(
        device
    )
    if thick is not None:
        stains = [s * thick for s in stains]
    rgb = transmit(stains, vectors, white)
    if coarse:  # a pixel wider than a nucleus: mean light of what nuclei cover and of what they leave
        mean = ground[8:11]
        bare = [haem, eosin] + ([dab] if dab is not None else [])
        full = [mean[1] / mean[0].clamp(min=1e-6), mean[2] / mean[0].clamp(min=1e-6)]
        full += [torch.zeros_like(haem)] if dab is not None else []
        if thick is not None:
            bare, full = [s * thick for s in bare], [s * thick for s in full]
        share = mean[0].clamp(0, 1)[:, None]
        far = transmit(bare, vectors, white) * (1 - share) + transmit(full, vectors, white) * share
        k = each(scene.coarse)[:, None]
        rgb = rgb * (1 - k) + far * k
    if pen is not None:
        rgb = rgb * pen
    return rgb, top, mark


def _artefacts(scene, items, xy, m, n, p):
    """Folds and pen: how much thicker the section is (b, N), artefact labels (b, N) and the light that ink
    lets through (b, 3, N); None for what no item has.
    """
    shape, device = xy.shape[:2], xy.device
    soft = torch.from_numpy(scene.soft[items].astype(np.float32)).to(device)[:, None]
    folded = torch.from_numpy(np.nonzero(scene.params["fold_half"][items] > 0)[0]).to(device)
    inked = torch.from_numpy(np.nonzero(scene.params["pen_half"][items] > 0)[0]).to(device)
    if not len(folded) and not len(inked):
        return None, None, None
    mark, thick, pen = torch.zeros(shape, dtype=torch.int64, device=device), None, None
    if len(folded):  # few slides have one: the rest of the batch is left alone
        half, ax, ay, at = (p["fold_" + k][folded] for k in ("half", "x", "y", "at"))
        x, y = xy[folded, :, 0], xy[folded, :, 1]
        d = (half - (x * ax + y * ay - at + 60.0 * m[2, folded] + 3.0 * n[0, folded]).abs()).float()
        thick = torch.ones(shape, device=device)
        thick[folded] += 0.9 * (d * (1 / soft[folded])).add_(0.5).clamp_(0, 1)
        mark[folded] = (d > 0).long()
    if len(inked):
        half, ax, ay, at = (p["pen_" + k][inked] for k in ("half", "x", "y", "r"))
        x, y = xy[inked, :, 0], xy[inked, :, 1]
        r = ((x - ax) ** 2 + (y - ay) ** 2).sqrt() + 90.0 * m[1, inked]
        d = (half * (1 + 0.25 * m[0, inked]).clamp(min=0.2) - (r - at).abs() + 4.0 * n[1, inked]).float()
        ink = (d * (1 / (soft[inked] + 6.0))).add_(0.5).clamp_(0, 1) * (1 + 0.15 * n[2, inked])
        colour = np.stack([s.pen for s in scene.slides[items]]).astype(np.float32)
        density = torch.from_numpy(colour).to(device)[inked][:, :, None] * ink[:, None]
        pen = torch.ones((shape[0], 3, shape[1]), device=device)
        pen[inked] = (density * -2.302585).exp_()
        mark[inked] = mark[inked].masked_fill(d > 0, 2)
    return thick, mark, pen
