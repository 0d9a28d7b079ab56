/* Pixels of vector slides in one pass: `onepass.py` says what goes in, and why all of it is done as it is.

   Work goes in bands of a few rows that stay in a core's cache: nuclei and glands are drawn into a band, then each lot
   of its pixels gets its noise, its materials and its light. Arithmetic and its order are those of the renderer in
   Python, so that noise is bit for bit the same and labels are the same. It is compiled without fusing of sums and
   products; where PyTorch fuses, `fma` says so. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LOT = 64, LANES = 8, BAND = 8192, REGISTERS = 48, LAYERS = 32, COLUMNS = 8, SETS = 8, LOOK = 13, SHAPE = 17 };
enum { COARSE, MIDDLE, GRAIN, MICRO, FIBRE, GAPS, HOLES, FIELDS };
enum { ADD, SUB, MUL, DIV, MIN, MAX, ADDS, RSUB, MULS, DIVS, MINS, MAXS, ABS, NEG, SQRT };

static const float FAR = -1e3f;

#define EACH for (int k = 0; k < n; k++)
#define LANE for (int k = 0; k < LANES; k++)

static inline float hold(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* ---------------------------------------------------------------- noise */

/* Noise at n points: x and y, where they start in periods and alpha, periods per µm; table (side, side, count), the
   channels of a place together. */
#define NOISE(COUNT)                                                                                          \
static inline void noise_##COUNT(const double *x, const double *y, const double *sx, const double *sy,        \
                                 double alpha, const float *table, int64_t side, float (*out)[LOT], int n)    \
{                                                                                                             \
    const float half = 0.5f * (side - 1);                                                                     \
    const int32_t wide = side * COUNT, last = side - 1;                                                       \
    float w[2][LOT], pixel[LOT][COUNT]; int32_t first[LOT], cell[2][LOT];                                     \
    for (int axis = 0; axis < 2; axis++) {                                                                    \
        const double *at = axis ? y : x, *s = axis ? sy : sx;                                                 \
        float t[LOT];                                                                                         \
        EACH { double v = fma(at[k], alpha, s[k]); t[k] = v - floor(v); }                                     \
        EACH {                                                                                                \
            const float place = ((2.0f * t[k] - 1.0f) + 1.0f) * half, whole = floorf(place);                  \
            cell[axis][k] = (int32_t)whole;                                                                   \
            w[axis][k] = place - whole;                                                                       \
        }                                                                                                     \
    }                                                                                                         \
    EACH first[k] = cell[1][k] * wide + cell[0][k] * COUNT;                                                   \
    EACH {                                                                                                    \
        __builtin_prefetch(table + first[k]);                                                                 \
        __builtin_prefetch(table + first[k] + wide);                                                          \
    }                                                                                                         \
    EACH {                                                                                                    \
        const float *nw = table + first[k];                                                                   \
        const float *ne = nw + (cell[0][k] < last ? COUNT : 0), *sw = nw + (cell[1][k] < last ? wide : 0);    \
        const float *se = sw + (ne - nw);                                                                     \
        const float u = w[0][k], v = w[1][k], e = 1.0f - u, s = 1.0f - v;                                     \
        const float a = s * e, b = s * u, c = v * e, d = v * u;                                               \
        for (int m = 0; m < COUNT; m++)                                                                       \
            pixel[k][m] = fmaf(se[m], d, fmaf(sw[m], c, fmaf(ne[m], b, nw[m] * a)));                          \
    }                                                                                                         \
    for (int m = 0; m < COUNT; m++) EACH out[m][k] = pixel[k][m];                                             \
}
NOISE(1) NOISE(2) NOISE(4)

/* Noise of `count` channels, 1, 2 or 4, at points (2, all) with a start each; out (count, all). */
void noise(int64_t all, const double *xy, const double *start, double alpha, const float *table, int64_t side,
           int64_t count, float *out)
{
    for (int64_t at = 0; at < all; at += LOT) {
        const int n = all - at < LOT ? all - at : LOT;
        const double *x = xy + at, *y = x + all, *sx = start + at, *sy = sx + all;
        float value[4][LOT];
        if (count == 1) noise_1(x, y, sx, sy, alpha, table, side, value, n);
        else if (count == 2) noise_2(x, y, sx, sy, alpha, table, side, value, n);
        else noise_4(x, y, sx, sy, alpha, table, side, value, n);
        for (int64_t m = 0; m < count; m++) memcpy(out + m * all + at, value[m], n * sizeof(float));
    }
}

/* ---------------------------------------------------------------- a scene, as `onepass.py` lays it out */

typedef struct {
    int64_t height, width, items;
    const double *columns, *rows, *centre;      /* (2, items, width), (2, items, height), (2, items) */
    const double *start, *alpha;                /* (fields, 2, items), (fields) */
    const float *const *noises;                 /* (fields) tables */
    int64_t side;
    const int32_t *tape; int64_t steps;         /* (steps, 4): what, into which register, from which two */
    const float *scalars;                       /* (scalars, items) */
    int64_t layers; const int32_t *order;        /* above the base; register of each, or -1 - 2 * set, -2 - 2 * set */
    const float *steep, *table;                 /* (layers, items), (layers + 1, columns) */
    int64_t stains;
    const uint8_t *fat; const float *change;    /* (layers + 1), (columns) */
    const float *border; int64_t border_side; double border_alpha; /* walls of fat cells */
    double fat_cell;
    const int64_t *material, *tissue; const uint8_t *tumour; /* (layers + 1) */
    const float *own, *absorb, *white;          /* (items, 6), (items, stains, 3), (items, 3) */
    const double *marks; const float *pen, *soft; /* (items, 8), (items, 3), (items) */
    const int64_t *blob_from; const double *blob_at; const float *blob_look;
    const int32_t *blob_name; const uint8_t *blob_solid;
    const int64_t *gland_from, *gland_box; const double *gland_at; const float *gland_shape; const uint8_t *gland_set;
    const float *holes;                         /* (sets) */
    float *image; int64_t *label, *class; uint8_t *tumours; int64_t *artefact; int32_t *names;
} scene;

/* ---------------------------------------------------------------- nuclei and glands, drawn into a band */

typedef struct { float *sum[4], *depth, *thick; int8_t *owner; int32_t *names; } band;

/* What the ellipses of an item add to rows top..low: cover, haematoxylin, eosin and chromatin, and the largest of the
   numbers of those that a pixel lies in. Each has a centre and a reach in pixels; look: the map to the unit disc (4),
   bump, limit and farthest squared, haematoxylin a + b r2, eosin, chromatin, sharpness, shrinking. */
static void draw(const scene *s, int64_t item, int top, int low, const band *b)
{
    const double mid_x = 0.5 * (s->width - 1), mid_y = 0.5 * (s->height - 1);
    const int64_t width = s->width;
    for (int64_t i = s->blob_from[item]; i < s->blob_from[item + 1]; i++) {
        const double x = s->blob_at[3 * i], y = s->blob_at[3 * i + 1], reach = s->blob_at[3 * i + 2];
        const double above = ceil(mid_y - y - reach), under = floor(mid_y - y + reach);
        if (above > low || under < top) continue;
        const int start = above > top ? above : top, end = under < low ? under : low;
        const float *look = s->blob_look + LOOK * i;
        const float ux = look[0], vx = look[2], bump = look[4], limit = look[5], far = look[6];
        const float one = look[7], two = look[8], eosin = look[9], chromatin = look[10];
        const float sharp = look[11], shrink = look[12], solid = s->blob_solid[i] ? 1.0f : 0.0f;
        const int32_t name = s->blob_name[i];
        for (int row = start; row <= end; row++) {
            const double down = (mid_y - row) - y, half = sqrt(fmax(reach * reach - down * down, 0)) + 1;
            const int left = fmax(ceil(mid_x + x - half), 0), right = fmin(floor(mid_x + x + half), width - 1);
            const float dy = (float)down, uy = look[1] * dy, vy = look[3] * dy;
            const int64_t line = (row - top) * width;
            for (int from = left; from <= right; from += LANES) {
                const int64_t at = line + from;
                const int most = right - from;
                float cover[LANES], density[LANES], dx[LANES];
                int32_t inner[LANES];
                LANE dx[k] = (float)(((from + k) - mid_x) - x);
                LANE {
                    const float u = ux * dx[k] + uy, v = vx * dx[k] + vy, uu = u * u, vv = v * v, rr = uu + vv;
                    float f = rr + (uu - vv * 3.0f) * u * bump;
                    const int within = (f < limit) & (rr <= far) & (k <= most);
                    f = f > 0.0f ? f : 0.0f;
                    float edge = (1.0f - sqrtf(f)) * sharp + 3.0f;
                    edge = (edge < 0.0f ? 0.0f : edge > 6.0f ? 6.0f : edge) / 6.0f;
                    const float covers = (3.0f - 2.0f * edge) * edge * edge * shrink;
                    const float holds = ((f < 1.0f ? f : 1.0f) * two + one) * covers;
                    cover[k] = within ? covers : 0.0f;
                    density[k] = within ? holds : 0.0f;
                    inner[k] = within & (f < 1.0f) ? name : 0;
                }
                int32_t *names = b->names + at;
                float *c = b->sum[0] + at, *h = b->sum[1] + at, *e = b->sum[2] + at, *m = b->sum[3] + at;
                LANE names[k] = names[k] < inner[k] ? inner[k] : names[k];
                LANE c[k] += solid * cover[k];
                LANE h[k] += density[k];
                LANE e[k] += eosin * cover[k];
                LANE m[k] += density[k] * chromatin;
            }
        }
    }
}

/* The glands of an item in rows top..low: how deep a pixel lies in one, its wall's thickness and its set. Each has a
   place and a box in pixels; shape: six waves, radius, the map to its own frame in µm (4), thickness, the same map in
   pixels (4), and how far it goes squared. Whether there is any. */
static int glands(const scene *s, int64_t item, int top, int low, const band *b, int64_t count)
{
    const double mid_x = 0.5 * (s->width - 1), mid_y = 0.5 * (s->height - 1);
    int any = 0;
    for (int64_t i = s->gland_from[item]; i < s->gland_from[item + 1]; i++) {
        const int64_t *box = s->gland_box + 4 * i; /* left, top, right, bottom */
        const int start = box[1] > top ? box[1] : top, end = box[3] < low ? box[3] : low;
        const int left = box[0] > 0 ? box[0] : 0, right = box[2] < s->width - 1 ? box[2] : s->width - 1;
        if (start > end || left > right) continue;
        if (!any) {
            for (int64_t k = 0; k < count; k++) b->depth[k] = FAR;
            for (int64_t k = 0; k < count; k++) b->thick[k] = 1.0f;
            memset(b->owner, -1, count);
            any = 1;
        }
        const float *w = s->gland_shape + SHAPE * i, *t = w + 7, *q = w + 12;
        const float radius = w[6], thickness = w[11], limit = w[16];
        const int8_t set = s->gland_set[i];
        for (int row = start; row <= end; row++) {
            const float dy = (float)((mid_y - row) - s->gland_at[2 * i + 1]);
            for (int from = left; from <= right; from += LANES) {
                const int most = right - from;
                const int64_t at = (row - top) * s->width + from;
                float u[LANES], v[LANES], d[LANES];
                int near[LANES], some = 0;
                LANE {
                    const float dx = (float)(((from + k) - mid_x) - s->gland_at[2 * i]);
                    u[k] = q[0] * dx + q[1] * dy;
                    v[k] = q[2] * dx + q[3] * dy;
                    near[k] = (u[k] * u[k] + v[k] * v[k] < limit) & (k <= most);
                }
                LANE some |= near[k];
                if (!some) continue;
                LANE {
                    const float rho = sqrtf(u[k] * u[k] + v[k] * v[k]) + 1e-6f, c = u[k] / rho, z = v[k] / rho;
                    const float c2 = c * c - z * z, s2 = 2 * c * z, c3 = c2 * c - s2 * z, s3 = s2 * c + c2 * z;
                    const float c4 = c2 * c2 - s2 * s2, s4 = 2 * c2 * s2;
                    const float edge = radius * (1 + w[0] * c2 + w[1] * s2 + w[2] * c3 + w[3] * s3 + w[4] * c4 + w[5] * s4);
                    const float gx = t[0] * c + t[2] * z, gy = t[1] * c + t[3] * z;
                    d[k] = (edge - rho) / sqrtf(gx * gx + gy * gy);
                }
                LANE {
                    const int won = near[k] & (d[k] >= b->depth[at + k]);
                    b->depth[at + k] = won ? d[k] : b->depth[at + k];
                    b->thick[at + k] = won ? thickness : b->thick[at + k];
                    b->owner[at + k] = won ? set : b->owner[at + k];
                }
            }
        }
    }
    return any;
}

/* ---------------------------------------------------------------- light */

/* exp, within two units in the last place: argument to a power of two and a polynomial (Cephes). */
static inline void exponential(float *x, int n)
{
    int32_t bits[LOT];
    float scale[LOT];
    EACH {
        const float v = hold(x[k], -87.0f, 87.0f), whole = floorf(v * 1.44269504f + 0.5f);
        const float r = (v - whole * 0.693359375f) + whole * 2.12194440e-4f;
        float y = 1.9875691500e-4f;
        y = y * r + 1.3981999507e-3f;
        y = y * r + 8.3334519073e-3f;
        y = y * r + 4.1665795894e-2f;
        y = y * r + 1.6666665459e-1f;
        y = y * r + 5.0000001201e-1f;
        x[k] = y * (r * r) + r + 1.0f;
        bits[k] = ((int32_t)whole + 127) * (1 << 23);
    }
    memcpy(scale, bits, sizeof scale);
    EACH x[k] *= scale[k];
}

static inline void all_steps(const scene *s, int64_t item, float (*reg)[LOT], int n)
{
    for (int64_t i = 0; i < s->steps; i++) {
        const int32_t *step = s->tape + 4 * i;
        float *out = reg[step[1]];
        const float *a = reg[step[2]], *b = step[0] < ADDS ? reg[step[3]] : a;
        const float c = step[0] >= ADDS && step[0] < ABS ? s->scalars[step[3] * s->items + item] : 0;
        switch (step[0]) {
        case ADD: EACH out[k] = a[k] + b[k]; break;
        case SUB: EACH out[k] = a[k] - b[k]; break;
        case MUL: EACH out[k] = a[k] * b[k]; break;
        case DIV: EACH out[k] = a[k] / b[k]; break;
        case MIN: EACH out[k] = a[k] < b[k] ? a[k] : b[k]; break;
        case MAX: EACH out[k] = a[k] > b[k] ? a[k] : b[k]; break;
        case ADDS: EACH out[k] = a[k] + c; break;
        case RSUB: EACH out[k] = c - a[k]; break;
        case MULS: EACH out[k] = a[k] * c; break;
        case DIVS: EACH out[k] = a[k] / c; break;
        case MINS: EACH out[k] = a[k] < c ? a[k] : c; break;
        case MAXS: EACH out[k] = a[k] > c ? a[k] : c; break;
        case ABS: EACH out[k] = fabsf(a[k]); break;
        case NEG: EACH out[k] = -a[k]; break;
        case SQRT: EACH out[k] = sqrtf(a[k]); break;
        }
    }
}

/* Into the lumens of a set's glands, or the holes of cribriform ones. */
static void opening(const float *depth, const float *thick, const float *n0, const float *hole, float level,
                    float *out, int n)
{
    EACH out[k] = depth[k] - thick[k] - 1.5f * n0[k];
    if (level == 0) return;
    EACH {
        const float h = (hole[k] - level) * 11.0f, d = depth[k] - 10.0f, gap = h < d ? h : d;
        out[k] = out[k] > gap ? out[k] : gap;
    }
}

/* `lot` pixels of an item's row from column c0: light and labels. */
static void shade(const scene *s, int64_t item, int64_t row, int64_t c0, int lot, const band *b, int64_t at, int has_glands)
{
    const int n = (lot + LANES - 1) / LANES * LANES, wide = s->stains == 3 ? 8 : 7;
    const int64_t pixels = s->height * s->width, all = s->items, to = item * pixels + row * s->width + c0;
    double x[LOT], y[LOT], sx[LOT], sy[LOT];
    float reg[REGISTERS][LOT];
    float (*m)[LOT] = reg, (*mid)[LOT] = reg + 4;
#define START(FIELD) do { \
        const double u = s->start[(2 * FIELD) * all + item], v = s->start[(2 * FIELD + 1) * all + item]; \
        EACH sx[k] = u; EACH sy[k] = v; } while (0)
#define SAMPLE(COUNT, FIELD, X, Y, OUT) do { \
        START(FIELD); \
        noise_##COUNT(X, Y, sx, sy, s->alpha[FIELD], s->noises[FIELD], s->side, OUT, n); } while (0)

    {
        const double *cx = s->columns + item * s->width + c0, *cy = cx + all * s->width;
        const double rx = s->rows[item * s->height + row], ry = s->rows[(all + item) * s->height + row];
        const double mx = s->centre[item], my = s->centre[all + item];
        for (int k = 0; k < lot; k++) x[k] = cx[k] + rx + mx;
        for (int k = 0; k < lot; k++) y[k] = cy[k] + ry + my;
        for (int k = lot; k < n; k++) { x[k] = x[lot - 1]; y[k] = y[lot - 1]; }
    }
    SAMPLE(4, COARSE, x, y, m);
    SAMPLE(4, MIDDLE, x, y, mid);
    EACH reg[8][k] = (float)x[k];
    EACH reg[9][k] = (float)y[k];
    all_steps(s, item, reg, n);

    /* glands: of which sets, and how deep in them and their lumens */
    float depth[2][SETS][LOT];
    unsigned sets = 0;
    if (has_glands) {
        const int8_t *owner = b->owner + at;
        for (int k = 0; k < lot; k++) sets |= owner[k] < 0 ? 0 : 1u << owner[k];
        float hole[1][LOT];
        int holed = 0;
        for (int set = 0; set < SETS; set++)
            if (sets >> set & 1) {
                if (s->holes[set] != 0 && !holed) {
                    SAMPLE(1, HOLES, x, y, hole);
                    holed = 1;
                }
                EACH depth[0][set][k] = owner[k] == set ? b->depth[at + k] : FAR;
                opening(depth[0][set], b->thick + at, mid[0], hole[0], s->holes[set], depth[1][set], n);
            }
    }

    /* layers, from front to back: each one's weight is its cover times what those in front let through */
    float left[LOT], ground[COLUMNS][LOT], fats[LOT];
    int32_t top[LOT];
    int fat = s->fat[0];
    EACH { left[k] = 1; top[k] = 0; fats[k] = 0; }
    memset(ground, 0, sizeof ground);
    for (int i = s->layers; i > 0; i--) {
        const int from = s->order[i - 1];
        if (from < 0 && !(sets >> ((-1 - from) / 2) & 1)) continue;
        const float *d = from >= 0 ? reg[from] : depth[(-1 - from) % 2][(-1 - from) / 2];
        const float *t = s->table + i * wide, steep = s->steep[(i - 1) * all + item];
        float w[LOT];
        int some = 0;
        EACH w[k] = hold(d[k] * steep + 3, 0, 6) / 6 * left[k];
        EACH some |= w[k] > 0;
        EACH top[k] = (top[k] == 0) & (d[k] > 0) ? i : top[k];
        if (!some) continue;
        EACH left[k] -= w[k];
        if (s->fat[i]) {
            EACH fats[k] += w[k];
            fat = 1;
        }
        for (int j = 0; j < wide; j++)
            if (t[j] != 0) EACH ground[j][k] += t[j] * w[k];
    }
    if (s->fat[0]) EACH fats[k] += left[k];
    for (int j = 0; j < wide; j++) EACH ground[j][k] += s->table[j] * left[k];

    const float *own = s->own + 6 * item;
    const float sharp = own[0], fine = own[1], coarse = own[2], tiny = own[3], line = own[4], kept = own[5];
    if (fat) { /* the walls of fat cells */
        double px[LOT], py[LOT];
        float edge[1][LOT];
        const float most = 2 * sharp < 1 ? 2 * sharp : 1;
        EACH px[k] = (x[k] + (double)(4.0f * mid[0][k])) * s->border_alpha;
        EACH py[k] = (y[k] + (double)(4.0f * mid[1][k])) * s->border_alpha;
        EACH sx[k] = sy[k] = 1048576.0;
        noise_1(px, py, sx, sy, 1.0, s->border, s->border_side, edge, n);
        EACH {
            const float border = edge[0][k] * (float)s->fat_cell, thick = 0.9f * (1 + 0.35f * mid[2][k]);
            edge[0][k] = hold((thick - border) * sharp + 0.5f, 0, 1) * (fats[k] * most);
        }
        for (int j = 0; j < wide; j++) EACH ground[j][k] += s->change[j] * edge[0][k];
    }

    float rough[LOT], clumps[LOT], two[2][LOT], fibre[1][LOT], gaps[1][LOT];
    SAMPLE(2, GRAIN, x, y, two);
    EACH { rough[k] = two[0][k] * fine; clumps[k] = two[1][k] * coarse; }
    if (tiny != 0) {
        SAMPLE(2, MICRO, x, y, two);
        EACH { rough[k] += 0.9f * two[0][k] * tiny; clumps[k] += 0.9f * two[1][k] * tiny; }
    }
    SAMPLE(1, GAPS, x, y, gaps);
    if (line != 0) {
        double along[LOT], across[LOT];
        EACH along[k] = ((double)(9.0f * mid[3][k]) + x[k]) * (1 / 18.0);
        EACH across[k] = (double)(9.0f * mid[2][k] + 130.0f * m[3][k]) + y[k];
        SAMPLE(1, FIBRE, along, across, fibre);
        EACH fibre[0][k] *= line;
    } else EACH fibre[0][k] = 0;

    /* stain: nuclei in front of the ground, and what fibres and gaps make of it */
    float stain[3][LOT];
    const float lost = 0.32f * (1 - kept);
    const float *cover = b->sum[0] + at, *add_h = b->sum[1] + at, *add_e = b->sum[2] + at, *add_c = b->sum[3] + at;
    EACH {
        float hole = hold(((fibre[0][k] + rough[k]) * 0.4f + gaps[0][k] - 0.3f) * 0.9f, 0, 1);
        hole = (3 - 2 * hole) * hole * hole * kept + lost;
        const float solid = 1 - hole * ground[6][k];
        const float haem = (ground[0][k] + ground[1][k] * rough[k] + ground[2][k] * fibre[0][k]) * solid;
        const float eosin = (ground[3][k] + ground[4][k] * rough[k] + ground[5][k] * fibre[0][k]) * solid;
        const float dab = ground[7][k] * (1 + 0.3f * rough[k]) * solid;
        const float most = cover[k] < 1 ? 1 : cover[k], clear = cover[k] < 1 ? 1 - cover[k] : 0;
        const float crowd = (hold(cover[k] - 1, 0, 1) * 0.25f + 1) / most;
        const float h = (haem < 0 ? 0 : haem) * clear + (add_h[k] + add_c[k] * clumps[k]) * crowd;
        stain[0][k] = h < 0 ? 0 : h;
        stain[1][k] = add_e[k] * crowd + (eosin < 0 ? 0 : eosin) * clear;
        stain[2][k] = (dab < 0 ? 0 : dab) * clear;
    }

    /* a fold makes the section thicker, ink keeps light back */
    const double *mark = s->marks + 8 * item;
    const float soft = s->soft[item];
    float ink[LOT];
    const int inked = mark[4] > 0;
    if (mark[0] > 0 || inked)
        for (int k = 0; k < lot; k++) s->artefact[to + k] = 0;
    if (mark[0] > 0) {
        const float steep = 1 / soft;
        float d[LOT];
        EACH {
            const double across = x[k] * mark[1] + y[k] * mark[2] - mark[3];
            d[k] = mark[0] - fabs(across + (double)(60.0f * m[2][k]) + (double)(3.0f * mid[0][k]));
        }
        for (int j = 0; j < s->stains; j++) EACH stain[j][k] *= hold(d[k] * steep + 0.5f, 0, 1) * 0.9f + 1;
        for (int k = 0; k < lot; k++) s->artefact[to + k] = d[k] > 0;
    }
    if (inked) {
        const float steep = 1 / (soft + 6.0f);
        EACH {
            const double u = x[k] - mark[5], v = y[k] - mark[6];
            const double r = sqrt(u * u + v * v) + (double)(90.0f * m[1][k]), wave = 1 + 0.25f * m[0][k];
            const float d = mark[4] * (wave < (double)0.2f ? (double)0.2f : wave) - fabs(r - mark[7]) + (double)(4.0f * mid[1][k]);
            ink[k] = hold(d * steep + 0.5f, 0, 1) * (1 + 0.15f * mid[2][k]);
            if (d > 0 && k < lot) s->artefact[to + k] = 2;
        }
    }

    for (int j = 0; j < 3; j++) {
        const float *a = s->absorb + 3 * s->stains * item + j;
        const float white = s->white[3 * item + j];
        float light[LOT];
        if (s->stains == 3) EACH light[k] = a[0] * stain[0][k] + a[3] * stain[1][k] + a[6] * stain[2][k];
        else EACH light[k] = a[0] * stain[0][k] + a[3] * stain[1][k];
        exponential(light, n);
        EACH light[k] = hold(light[k] * white, 0, 1);
        if (inked) {
            float passes[LOT];
            EACH passes[k] = s->pen[3 * item + j] * ink[k] * -2.302585f;
            exponential(passes, n);
            EACH light[k] *= passes[k];
        }
        memcpy(s->image + 3 * item * pixels + j * pixels + row * s->width + c0, light, lot * sizeof(float));
    }
    for (int k = 0; k < lot; k++) s->label[to + k] = s->material[top[k]];
    for (int k = 0; k < lot; k++) s->class[to + k] = s->tissue[top[k]];
    for (int k = 0; k < lot; k++) s->tumours[to + k] = s->tumour[top[k]];
}

/* Rows in a band, of which `render` does a number. */
int64_t band_rows(int64_t width) { return width < BAND ? BAND / width : 1; }

/* Bands first..last - 1 of a scene, counted through its items. 0, or -1 where memory is short. */
int64_t render(const scene *s, int64_t first, int64_t last)
{
    const int64_t high = band_rows(s->width), bands = (s->height + high - 1) / high, most = high * s->width + LOT;
    float *memory = malloc(most * (6 * sizeof(float) + sizeof(int32_t) + 1));
    if (!memory) return -1;
    band b = {{memory, memory + most, memory + 2 * most, memory + 3 * most}, memory + 4 * most, memory + 5 * most,
              (int8_t *)(memory + 7 * most), (int32_t *)(memory + 6 * most)};
    const int64_t parts = (s->width + LOT - 1) / LOT;
    memset(memory, 0, most * (6 * sizeof(float) + sizeof(int32_t) + 1));
    for (int64_t job = first; job < last; job++) {
        const int64_t item = job / bands, top = job % bands * high, low = top + high < s->height ? top + high : s->height;
        const int64_t count = (low - top) * s->width;
        memset(memory, 0, 4 * most * sizeof(float));
        memset(b.names, 0, most * sizeof(int32_t));
        draw(s, item, top, low - 1, &b);
        const int any = glands(s, item, top, low - 1, &b, count);
        memcpy(s->names + item * s->height * s->width + top * s->width, b.names, count * sizeof(int32_t));
        for (int64_t row = top; row < low; row++)
            for (int64_t part = 0; part < parts; part++) {
                const int64_t c0 = part * s->width / parts, c1 = (part + 1) * s->width / parts;
                shade(s, item, row, c0, c1 - c0, &b, (row - top) * s->width + c0, any);
            }
    }
    free(memory);
    return 0;
}
