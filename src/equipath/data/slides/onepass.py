"""How a scene becomes pixels in one pass of compiled code: the same slides as `render.py` makes, on a CPU, faster.

PyTorch goes over memory for every sum. `loops.c` takes a few rows at a time, which stay in a core's cache: it draws the
nuclei and glands that reach into them, then colours pixel by pixel. Here a scene is laid out for it. Labels are the
same and colours differ in the last digits. Where pixels are wider than a nucleus, `render.py` does the work.
"""

import ctypes
from typing import Any, ClassVar

import numpy as np
import torch

from .native import REAL, WHOLE, Loops, address, use
from .noise import CHANNELS, WAVES, first_periods, table
from .objects import BORDER_CELLS, FAT_CELL, areas, border_table
from .render import GLAND_WINDOWS, WINDOWS, Shader, gland_outlines, outlines, placed
from .tape import Tape
from .tissue import CLASS_OF, IS_TUMOUR, MATERIAL, MERGE


class _Scene(ctypes.Structure):
    """The structure `scene` of `loops.c`: sizes, numbers and where arrays lie."""

    _fields_: ClassVar[Any] = (
        [(name, WHOLE) for name in ("height", "width", "items")]
        + [(name, ctypes.c_void_p) for name in ("columns", "rows", "centre", "start", "alpha", "noises")]
        + [("side", WHOLE), ("tape", ctypes.c_void_p), ("steps", WHOLE), ("scalars", ctypes.c_void_p)]
        + [("layers", WHOLE), *((name, ctypes.c_void_p) for name in ("order", "steep", "table"))]
        + [("stains", WHOLE), *((name, ctypes.c_void_p) for name in ("fat", "change", "border"))]
        + [("border_side", WHOLE), ("border_alpha", REAL), ("fat_cell", REAL)]
        + [
            (name, ctypes.c_void_p)
            for name in (
                "material", "tissue", "tumour", "own", "absorb", "white", "marks", "pen", "soft", "blob_from",
                "blob_at", "blob_look", "blob_name", "blob_solid", "gland_from", "gland_box", "gland_at",
                "gland_shape", "gland_set", "holes", "image", "label", "class", "tumours", "artefact", "names",
            )
        ]
    )  # fmt: skip


# The noise fields of `loops.c`: lattice cells per µm, what offsets are multiplied with, first channel, channels.
_TEXTURE = ((1 / 2.6, 3.0, 0, 2), (1 / 0.8, 5.0, 0, 2), (1 / 1.4, 13.0, 2, 1), (1 / 5.5, 11.0, 2, 1), (1 / 13.0, 9.0, 3, 1))
_MARKS = ("fold_half", "fold_x", "fold_y", "fold_at", "pen_half", "pen_x", "pen_y", "pen_r")


def serves(scene) -> bool:
    """Whether the compiled loops can render a scene: no pixel is so wide that nuclei give way to their mean."""
    return scene.coarse.max() == 0


def render_scene(scene, loops: Loops):
    """Render a scene: image (B, 3, H, W), tissue, nuclei, tumour, artefact and material (B, H, W)."""
    batch, (height, width) = len(scene.grids), scene.size
    shape = (batch, height, width)
    image = torch.empty((batch, 3, height, width))
    label, tissue = torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.int64)
    tumour, ids = torch.empty(shape, dtype=torch.bool), torch.empty(shape, dtype=torch.int32)
    artefact = torch.zeros(shape, dtype=torch.int64)
    out = {"image": image, "label": label, "class": tissue, "tumours": tumour, "artefact": artefact, "names": ids}
    with torch.inference_mode(), use(loops):
        sets, blobs = placed(scene)
        shader = Shader(scene, sets, torch.device("cpu"))
        arrays = _fields(scene, shader) | _layers(scene, sets, shader) | _blobs(scene, blobs) | _glands(scene, sets) | out
    numbers = {"height": height, "width": width, "items": batch}
    numbers |= {k: arrays.pop(k) for k, kind in _Scene._fields_ if kind is not ctypes.c_void_p and k in arrays}
    laid = {k: address(x) for k, x in arrays.items()}
    loops.render(_Scene(**numbers, **laid), height, width, batch)
    return image, tissue, ids, tumour, artefact, label


def _fields(scene, shader):
    """Where pixels lie, noise, and what differs from slide to slide."""
    kind = scene.kind
    fields = ((1.0 / kind.macro, 1.0, 0, CHANNELS), (1.0 / kind.meso, 7.0, 0, CHANNELS), *_TEXTURE)
    tables = [table(torch.device("cpu"), first, count) for _, _, first, count in fields]
    micro = np.zeros((len(scene.grids), 1)) if shader.micro is None else shader.micro.numpy()
    own = [shader.sharp, *shader.fine, micro, shader.line, shader.kept]
    return {
        "columns": shader.columns.contiguous(),
        "rows": shader.rows.contiguous(),
        "centre": shader.center.contiguous(),
        "start": np.ascontiguousarray(np.stack([first_periods(scene.offsets * times) for _, times, _, _ in fields])),
        "alpha": np.array([cells / WAVES for cells, _, _, _ in fields]),
        "noises": np.array([address(x) for x in tables], dtype=np.uint64),
        "side": tables[0].shape[-1],
        "own": np.concatenate([np.asarray(x) for x in own], 1).astype(np.float32),
        "absorb": (shader.vectors * -2.302585).contiguous(),
        "white": shader.white.contiguous(),
        "marks": np.stack([scene.params[name] for name in _MARKS], 1),
        "pen": np.stack([s.pen for s in scene.slides]).astype(np.float32),
        "soft": scene.soft.astype(np.float32),
    }


def _layers(scene, sets, shader):
    """What lies over what: the areas' steps, and of each layer its field, its edge's steepness, and its look."""
    tape = Tape(10, len(scene.grids))
    known = tape.fields
    *below, glass = areas(scene.kind, known[8:10], known[:4], known[4:8], scene.params32)
    below = [(material, distance()) for material, distance in below]
    glass = (glass[0], glass[1]())
    steps, scalars, places = tape.finish([d for _, d in (*below, glass)])
    order, layers = [MATERIAL[scene.kind.base], *(material for material, _ in below)], places[:-1]
    for number, glands in enumerate(sets):
        if len(glands):
            order += [MATERIAL[glands.spec.wall], MATERIAL[glands.spec.lumen]]
            layers += [-1 - 2 * number, -2 - 2 * number]
    order.append(glass[0])
    layers.append(places[-1])
    border = border_table()
    return {
        "tape": steps,
        "steps": len(steps),
        "scalars": scalars,
        "layers": len(layers),
        "order": np.array(layers, dtype=np.int32),
        "steep": torch.stack([shader.steep[float(MERGE[k])][:, 0] for k in order[1:]]),
        "table": shader.table[order].contiguous(),
        "stains": shader.vectors.shape[1],
        "fat": np.array([k == MATERIAL["fat"] for k in order], dtype=np.uint8),
        "change": shader.table[MATERIAL["membrane"]] - shader.table[MATERIAL["fat"]],
        "border": border,
        "border_side": border.shape[-1],
        "border_alpha": 1.0 / (BORDER_CELLS * FAT_CELL),
        "fat_cell": FAT_CELL,
        "material": np.array(order, dtype=np.int64),
        "tissue": CLASS_OF[order],
        "tumour": IS_TUMOUR[order],
        "holes": np.array([glands.spec.holes for glands in sets] or [0.0], dtype=np.float32),
    }


def _on_screen(scene, item, xy):
    """Where objects lie in pixels right of and above the grid's middle: (N, 2)."""
    return np.einsum("nij,ni->nj", scene.matrix[item], xy - scene.center[item]) / scene.mpp[item][:, None]


def _ends(scene, item):
    """Where the objects of each item begin, if they are sorted by item."""
    return np.searchsorted(item, np.arange(len(scene.grids) + 1)).astype(np.int64)


def _blobs(scene, blobs):
    """Nuclei and other ellipses, those of an item together, in the order in which `render.py` adds them up."""
    if blobs is None:
        item, at, look, names, solid = np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 13)), np.zeros(0), np.zeros(0)
    else:
        lines = outlines(scene, blobs)
        local, reach = _on_screen(scene, blobs.item, blobs.xy), lines.reach / scene.mpp[blobs.item]
        height, width = scene.size
        seen = np.flatnonzero((np.abs(local) - reach[:, None] < np.array([width, height]) / 2).all(1))
        size = np.searchsorted(WINDOWS, np.ceil(2 * reach[seen]) + 1)
        seen = seen[np.lexsort((size, blobs.item[seen]))]
        item, at = blobs.item[seen], np.concatenate([local[seen], reach[seen, None]], 1)
        bump, limit, far = blobs.look[seen, 0], lines.limit[seen], lines.far[seen]
        look = np.concatenate(
            [lines.to_unit[seen].reshape(-1, 4), np.stack([bump, limit**2, far**2], 1), lines.per[seen]], 1
        )
        names, solid = np.maximum(blobs.id[seen], 0), blobs.id[seen] >= 0
    return {
        "blob_from": _ends(scene, item),
        "blob_at": np.ascontiguousarray(at),
        "blob_look": look.astype(np.float32),
        "blob_name": names.astype(np.int32),
        "blob_solid": solid.astype(np.uint8),
    }


def _glands(scene, sets):
    """The glands, those of an item together, in the order of their sets."""
    height, width = scene.size
    items, places, boxes, shapes, owners = [], [], [], [], []
    for number, glands in enumerate(sets):
        if not len(glands):
            continue
        to_local, limit, reach = gland_outlines(scene, glands)
        local, r = _on_screen(scene, glands.item, glands.xy), reach / scene.mpp[glands.item]
        # the same pixels as the windows of `render.py`
        column, row = local[:, 0] + (width - 1) / 2, (height - 1) / 2 - local[:, 1]
        side, largest = np.ceil(2 * r).astype(np.int64) + 1, GLAND_WINDOWS[-1]
        fits = side <= largest
        size = np.array([*GLAND_WINDOWS, 0])[np.searchsorted(GLAND_WINDOWS, side)]
        size = np.where(fits, size, largest * -(-side // largest))
        left, top = (
            np.where(fits, np.ceil(x - size / 2), np.floor(x - r)).astype(np.int64) for x in (column, row)
        )
        seen = (left < width) & (left + size > 0) & (top < height) & (top + size > 0)
        items.append(glands.item[seen])
        places.append(local[seen])
        boxes.append(np.stack([left, top, left + size - 1, top + size - 1], 1)[seen])
        shape = [
            glands.waves,
            glands.radius[:, None],
            glands.to_local.reshape(-1, 4),
            glands.thickness[:, None],
            to_local.reshape(-1, 4),
            limit[:, None] ** 2,
        ]
        shapes.append(np.concatenate(shape, 1)[seen])
        owners.append(np.full(seen.sum(), number))
    item = np.concatenate([*items, np.zeros(0, int)])
    order = np.argsort(item, kind="stable")
    return {
        "gland_from": _ends(scene, item[order]),
        "gland_box": np.ascontiguousarray(np.concatenate([*boxes, np.zeros((0, 4), int)])[order].astype(np.int64)),
        "gland_at": np.ascontiguousarray(np.concatenate([*places, np.zeros((0, 2))])[order]),
        "gland_shape": np.ascontiguousarray(np.concatenate([*shapes, np.zeros((0, 17))])[order].astype(np.float32)),
        "gland_set": np.concatenate([*owners, np.zeros(0, int)])[order].astype(np.uint8),
    }
