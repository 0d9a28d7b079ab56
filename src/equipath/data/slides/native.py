"""The renderer's innermost loops in C: noise looked up at points, nuclei drawn into pixels, layers and texture mixed.

PyTorch takes a dozen passes over memory for each of the first two, and fifty for the last. Here a point or a pixel is
done in one go, by the same arithmetic in the same order: noise comes out bit for bit as `noise.sample` gives it, labels
are the same, and colours differ in the last digits. Change the look of a slide there, and here too: the tests compare.
The code is compiled when it is first asked for, by the machine's own C compiler, in about a second; no file is kept.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

SOURCE = r"""
#include <math.h>
#include <stdint.h>

enum { LOT = 64 };

/* Noise at rows x columns points: x and y (y lies `rows * columns` behind x), where each row or (each) each point starts,
   a table (side, side, count), all channels of a place together; out (count, rows * columns). */
#define NOISE(COUNT)                                                                                          \
static void noise_##COUNT(const double *xy, const double *start, int64_t rows, int64_t columns, int each,     \
                          double alpha, const float *table, int64_t side, float *out)                         \
{                                                                                                             \
    const int64_t all = rows * columns, apart = each ? all : rows, wide = side * COUNT;                       \
    const float half = 0.5f * (side - 1);                                                                     \
    for (int64_t r = 0; r < rows; r++)                                                                        \
        for (int64_t c = 0; c < columns; c += LOT) {                                                          \
            const int lot = columns - c < LOT ? columns - c : LOT;                                            \
            const int64_t at = r * columns + c;                                                               \
            float w[2][LOT]; int32_t cell[2][LOT]; float value[COUNT][LOT];                                   \
            for (int axis = 0; axis < 2; axis++) {                                                            \
                const double *x = xy + axis * all + at;                                                       \
                const double *s = start + axis * apart + (each ? at : r);                                     \
                for (int k = 0; k < lot; k++) {                                                               \
                    double t = fma(x[k], alpha, s[each ? k : 0]);                                             \
                    t -= floor(t);                                                                            \
                    float g = 2.0f * (float)t - 1.0f;                                                         \
                    float place = (g + 1.0f) * half, whole = floorf(place);                                   \
                    cell[axis][k] = (int32_t)whole;                                                           \
                    w[axis][k] = place - whole;                                                               \
                }                                                                                             \
            }                                                                                                 \
            for (int k = 0; k < lot; k++) {                                                                   \
                const int32_t i = cell[1][k], j = cell[0][k];                                                 \
                const float *nw = table + i * wide + j * COUNT;                                               \
                const int64_t right = j < side - 1 ? COUNT : 0, down = i < side - 1 ? wide : 0;               \
                const float *ne = nw + right, *sw = nw + down, *se = sw + right;                              \
                const float x = w[0][k], y = w[1][k], e = 1.0f - x, s = 1.0f - y;                             \
                const float a = s * e, b = s * x, d = y * e, f = y * x;                                       \
                for (int m = 0; m < COUNT; m++)                                                               \
                    value[m][k] = fmaf(se[m], f, fmaf(sw[m], d, fmaf(ne[m], b, nw[m] * a)));                  \
            }                                                                                                 \
            for (int m = 0; m < COUNT; m++)                                                                   \
                for (int k = 0; k < lot; k++) out[m * all + at + k] = value[m][k];                            \
        }                                                                                                     \
}
NOISE(1) NOISE(2) NOISE(3) NOISE(4)

void noise(const double *xy, const double *start, int64_t rows, int64_t columns, int each, double alpha,
           const float *table, int64_t side, int count, float *out)
{
    switch (count) {
    case 1: noise_1(xy, start, rows, columns, each, alpha, table, side, out); break;
    case 2: noise_2(xy, start, rows, columns, each, alpha, table, side, out); break;
    case 3: noise_3(xy, start, rows, columns, each, alpha, table, side, out); break;
    case 4: noise_4(xy, start, rows, columns, each, alpha, table, side, out); break;
    }
}

/* What `count` ellipses add to the pixels of grids (height, width): sums (4, pixels) of cover, haematoxylin, eosin and
   chromatin, and the largest of the numbers of those that a pixel lies in. Each ellipse: grid, centre and reach in
   pixels; look: the map to the unit disc (4), bump, limit and farthest squared, haematoxylin a + b r2, eosin, chromatin,
   sharpness, shrinking; number; whether it covers. */
void draw(int64_t count, const int64_t *item, const double *centre, const float *look, const int32_t *number,
          const uint8_t *solid, int64_t height, int64_t width, int64_t pixels, float *sums, int32_t *ids)
{
    const double mid_x = 0.5 * (width - 1), mid_y = 0.5 * (height - 1);
    for (int64_t n = 0; n < count; n++, look += 13) {
        const float ux = look[0], vx = look[2], bump = look[4], limit = look[5], far = look[6];
        const float a = look[7], b = look[8], eosin = look[9], chromatin = look[10], sharp = look[11], shrink = look[12];
        const double x = centre[3 * n], y = centre[3 * n + 1], reach = centre[3 * n + 2];
        const int top = fmax(ceil(mid_y - y - reach), 0), low = fmin(floor(mid_y - y + reach), height - 1);
        const int32_t name = number[n];
        for (int row = top; row <= low; row++) {
            const double down = (mid_y - row) - y, half = sqrt(fmax(reach * reach - down * down, 0)) + 1;
            const int left = fmax(ceil(mid_x + x - half), 0), right = fmin(floor(mid_x + x + half), width - 1);
            const float dy = (float)down, uy = look[1] * dy, vy = look[3] * dy;
            for (int from = left; from <= right; from += LOT) {
                const int lot = right - from + 1 < LOT ? right - from + 1 : LOT;
                const int64_t at = (item[n] * height + row) * width + from;
                float cover[LOT], density[LOT];
                int32_t inner[LOT];
                for (int k = 0; k < lot; k++) {
                    const float dx = (float)(((from + k) - mid_x) - x);
                    const float u = ux * dx + uy, v = vx * dx + vy, uu = u * u, vv = v * v, rr = uu + vv;
                    float f = rr + (uu - vv * 3.0f) * u * bump;
                    const int within = (f < limit) & (rr <= far);
                    f = f > 0.0f ? f : 0.0f;
                    float edge = (1.0f - sqrtf(f)) * sharp + 3.0f;
                    edge = (edge < 0.0f ? 0.0f : edge > 6.0f ? 6.0f : edge) / 6.0f;
                    const float covers = (3.0f - 2.0f * edge) * edge * edge * shrink;
                    const float holds = ((f < 1.0f ? f : 1.0f) * b + a) * covers;
                    cover[k] = within ? covers : 0.0f;
                    density[k] = within ? holds : 0.0f;
                    inner[k] = within & (f < 1.0f) ? name : 0;
                }
                for (int k = 0; k < lot; k++) ids[at + k] = ids[at + k] < inner[k] ? inner[k] : ids[at + k];
                for (int k = 0; solid[n] && k < lot; k++) sums[at + k] += cover[k];
                for (int k = 0; k < lot; k++) sums[pixels + at + k] += density[k];
                for (int k = 0; k < lot; k++) sums[2 * pixels + at + k] += eosin * cover[k];
                for (int k = 0; k < lot; k++) sums[3 * pixels + at + k] += density[k] * chromatin;
            }
        }
    }
}

/* From the distances of `layers` layers above a base to light, for rows x columns pixels: which layer is topmost, and the
   logarithm of the light (rows, 3, columns). steep (layers, rows), table (layers + 1, wide) and fat (layers + 1) belong to
   the layers; change (wide) is what a fat cell's wall adds, near and border tell where there is one; own (6, rows) holds
   sharpness, the amplitudes of grain, chromatin, fine grain and fibres, and how far gaps are kept; absorb (rows, stains, 3).
   border, micro and thick may be missing. */
#define EACH for (int k = 0; k < lot; k++)
static inline float hold(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

void colour(int64_t rows, int64_t columns, int layers, int wide, int stains, const float **distance, const float *steep,
            const float *table, const uint8_t *fat, const float *change, const float *near, const float *border,
            const float *own, const float *absorb, const float *grain, const float *micro, const float *fibre,
            const float *gaps, const float **nuclear, const float *thick, float *rank, float *light)
{
    const int64_t all = rows * columns;
    for (int64_t r = 0; r < rows; r++) {
        const float sharp = own[r], fine = own[rows + r], coarse = own[2 * rows + r], tiny = own[3 * rows + r];
        const float line = own[4 * rows + r], kept = own[5 * rows + r], lost = 0.32f * (1 - kept);
        for (int64_t c = 0; c < columns; c += LOT) {
            const int lot = columns - c < LOT ? columns - c : LOT;
            const int64_t at = r * columns + c;
            float left[LOT], top[LOT], ground[8][LOT] = {{0}}, fats[LOT] = {0}, stain[3][LOT];
            EACH left[k] = 1;
            EACH top[k] = 0;
            for (int n = layers; n > 0; n--) {
                const float *d = distance[n - 1] + at, s = steep[(n - 1) * rows + r];
                float w[LOT];
                EACH top[k] = top[k] == 0 && d[k] > 0 ? n : top[k];
                EACH w[k] = hold(d[k] * s + 3, 0, 6) / 6 * left[k];
                EACH left[k] -= w[k];
                if (fat[n]) EACH fats[k] += w[k];
                for (int j = 0; j < wide; j++) {
                    const float t = table[n * wide + j];
                    if (t != 0) EACH ground[j][k] += t * w[k];
                }
            }
            EACH rank[at + k] = top[k];
            if (fat[0]) EACH fats[k] += left[k];
            for (int j = 0; j < wide; j++) EACH ground[j][k] += table[j] * left[k];
            if (border) {
                float wall[LOT];
                const float most = 2 * sharp < 1 ? 2 * sharp : 1;
                EACH wall[k] = hold((0.9f * (1 + 0.35f * near[at + k]) - border[at + k]) * sharp + 0.5f, 0, 1)
                               * (fats[k] * most);
                for (int j = 0; j < wide; j++) EACH ground[j][k] += change[j] * wall[k];
            }
            EACH {
                float rough = grain[at + k] * fine, clumps = grain[all + at + k] * coarse;
                if (micro) {
                    rough += 0.9f * micro[at + k] * tiny;
                    clumps += 0.9f * micro[all + at + k] * tiny;
                }
                const float thread = fibre[at + k] * line;
                float hole = hold(((thread + rough) * 0.4f + gaps[at + k] - 0.3f) * 0.9f, 0, 1);
                hole = (3 - 2 * hole) * hole * hole * kept + lost;
                const float solid = 1 - hole * ground[6][k];
                float haem = (ground[0][k] + ground[1][k] * rough + ground[2][k] * thread) * solid;
                float eosin = (ground[3][k] + ground[4][k] * rough + ground[5][k] * thread) * solid;
                float dab = ground[7][k] * (1 + 0.3f * rough) * solid;
                const float cover = nuclear[0][at + k], most = cover < 1 ? 1 : cover;
                const float crowd = (hold(cover - 1, 0, 1) * 0.25f + 1) / most, clear = cover < 1 ? 1 - cover : 0;
                haem = (haem < 0 ? 0 : haem) * clear + (nuclear[1][at + k] + nuclear[3][at + k] * clumps) * crowd;
                stain[0][k] = haem < 0 ? 0 : haem;
                stain[1][k] = nuclear[2][at + k] * crowd + (eosin < 0 ? 0 : eosin) * clear;
                stain[2][k] = (dab < 0 ? 0 : dab) * clear;
            }
            if (thick)
                for (int s = 0; s < stains; s++) EACH stain[s][k] *= thick[at + k];
            for (int j = 0; j < 3; j++) {
                const float *a = absorb + 3 * stains * r + j;
                float *out = light + (3 * r + j) * columns + c;
                if (stains == 3) EACH out[k] = a[0] * stain[0][k] + a[3] * stain[1][k] + a[6] * stain[2][k];
                else EACH out[k] = a[0] * stain[0][k] + a[3] * stain[1][k];
            }
        }
    }
}
"""


def _pointer(x):
    return ctypes.c_void_p(x.data_ptr() if isinstance(x, torch.Tensor) else x.ctypes.data)


class Loops:
    """The compiled loops of a loaded library."""

    def __init__(self, library):
        self._noise, self._draw, self._colour = library.noise, library.draw, library.colour
        self._noise.restype = self._draw.restype = self._colour.restype = None

    def noise(self, xy, start, alpha, table, count):
        """Noise at xy, float64 (2, ...), as `noise.sample` has it; start (2, ...) of each point or each row."""
        shape = xy.shape[1:]
        xy, start = xy.contiguous(), start.contiguous()
        each = start.numel() == xy.numel()
        rows = 1 if each else start.numel() // 2
        out = torch.empty((count, *shape), dtype=torch.float32)
        size = ctypes.c_int64
        self._noise(
            _pointer(xy), _pointer(start), size(rows), size(out[0].numel() // max(rows, 1)), ctypes.c_int(each),
            ctypes.c_double(alpha), _pointer(table), size(table.shape[-1]), ctypes.c_int(count), _pointer(out),
        )  # fmt: skip
        return out

    def draw(self, item, centre, look, number, solid, size, sums, ids):
        """Add ellipses to sums (4, pixels) and ids (pixels,), in place; see the C code for what describes them."""
        item, centre = np.ascontiguousarray(item, dtype=np.int64), np.ascontiguousarray(centre, dtype=np.float64)
        look, number = np.ascontiguousarray(look, dtype=np.float32), np.ascontiguousarray(number, dtype=np.int32)
        solid = np.ascontiguousarray(solid, dtype=np.uint8)
        arrays = [_pointer(x) for x in (item, centre, look, number, solid)]
        sizes = [ctypes.c_int64(k) for k in (*size, len(ids))]
        self._draw(ctypes.c_int64(len(item)), *arrays, *sizes, _pointer(sums), _pointer(ids))

    def colour(self, distances, steep, table, fat, change, near, border, own, absorb, texture, nuclear, thick):
        """Which of the layers is topmost (b, N), float32, and the logarithm of the light (b, 3, N).

        distances: of the layers (b, N); steep (layers, b); table (layers + 1, columns); fat: which of them are fat;
        change (columns,); near, border (b, N) or None; own (6, b); absorb (b, stains, 3); texture: grain (2, b, N), finer
        grain or None, fibres and gaps (b, N); nuclear: four (b, N); thick (b, N) or None.
        """
        planes = [x.contiguous() for x in distances]
        nuclear = [x.contiguous() for x in nuclear]
        rows, columns = nuclear[0].shape
        rank, light = torch.empty((rows, columns)), torch.empty((rows, 3, columns))
        lists = [(ctypes.c_void_p * max(1, len(x)))(*(p.data_ptr() for p in x)) for x in (planes, nuclear)]
        kept = [None if x is None else x.contiguous() for x in
                (steep, table, fat, change, near, border, own, absorb, *texture, thick, rank, light)]  # fmt: skip
        rest = [None if x is None else _pointer(x) for x in kept]
        numbers = [ctypes.c_int(k) for k in (len(planes), table.shape[1], absorb.shape[1])]
        self._colour(
            ctypes.c_int64(rows), ctypes.c_int64(columns), *numbers, lists[0], *rest[:12], lists[1], *rest[12:]
        )  # fmt: skip
        return rank, light


@lru_cache(maxsize=1)
def loops():
    """The compiled loops; None, and a warning, where no compiler makes them."""
    wanted = [os.environ.get("CC"), "cc", "gcc", "clang"]
    compiler = next((found for name in wanted if name and (found := shutil.which(name))), None)
    reason = "none of cc, gcc and clang is found"
    if compiler:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "loops.c"), Path(folder, "loops.so")
            source.write_text(SOURCE)
            # no fusing of sums and products but where PyTorch does it too, which is written out
            exact = ["-O3", "-std=c99", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
            for tuned in (["-march=native"], []):
                command = [compiler, *exact, *tuned, "-shared", "-fPIC", "-o", str(library), str(source), "-lm"]
                try:
                    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
                    return Loops(ctypes.CDLL(str(library)))
                except subprocess.CalledProcessError as error:
                    reason = f"{compiler} failed: {(error.stderr or '').strip()[:200]}"
                except (OSError, subprocess.TimeoutExpired) as error:
                    reason = f"{compiler} failed: {error}"
    warnings.warn(
        f"Vector slides are rendered without compiled loops, slower and otherwise the same: {reason}.",
        stacklevel=2,
    )
    return None


_active: ContextVar[Loops | None] = ContextVar("compiled loops", default=None)


@contextmanager
def use(compiled: bool):
    """Within it, `active` gives the compiled loops if they are wanted and there are any."""
    token = _active.set(loops() if compiled else None)
    try:
        yield
    finally:
        _active.reset(token)


def active(tensor):
    """The compiled loops, if they are in use and can work on a tensor's device; or None."""
    return _active.get() if tensor.device.type == "cpu" else None
