"""Where the randomness of a vector slide comes from: integer hashes, a table of smooth noise and a pattern
of scattered points.

Everything here is a function of integers and of exact IEEE arithmetic (no FFT, no transcendental function,
no global random state), so that the same seed gives the same numbers on every machine. The noise is a
periodic cubic B-spline over random lattice values; it is looked up at continuous coordinates, so it belongs
to the tissue and not to a pixel grid.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from . import native

PERIOD = 128  # lattice cells after which the point pattern repeats
WAVES = 64  # lattice cells after which noise repeats: a channel's table fits a processor's cache
PERIODS = 1048576.0
FINE = 4  # table samples per lattice cell
CHANNELS = 4

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPLINE = np.array([[64, 256, 64, 0], [27, 235, 121, 1], [8, 184, 184, 8], [1, 121, 235, 27]], dtype=np.int64)


def _mix(h):
    """Scramble 64-bit integers (the finaliser of splitmix64)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def hash_lattice(seed, i, j, salt=0):
    """Hash lattice positions (i, j), integer arrays of one shape, to uint64 values that depend on the seed
    and a salt.
    """
    with np.errstate(over="ignore"):
        h = np.asarray(seed, dtype=np.int64).astype(np.uint64) * _GOLDEN
        h = h + np.uint64(salt) * np.uint64(0xD1342543DE82EF95)
        h = _mix(h + np.asarray(i, dtype=np.int64).astype(np.uint64))
        return _mix(h * _GOLDEN + np.asarray(j, dtype=np.int64).astype(np.uint64))


def unit(h):
    """Turn uint64 hashes into float64 numbers in [0, 1)."""
    return (h >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=1)
def random_rows():
    """A (65536, 12) float64 table of uniform numbers: a row of attributes for an object's hash."""
    with np.errstate(over="ignore"):
        k = np.arange(65536 * 12, dtype=np.uint64)
        return unit(_mix(_mix(k + np.uint64(77)) * _GOLDEN + k)).reshape(65536, 12)


@lru_cache(maxsize=1)
def _first_column():
    return random_rows()[:, 0].copy()


def first_attribute(h):
    """The first of the numbers that `attributes` gives (N,): cheap, for a choice of whose others are wanted."""
    return _first_column()[(h & np.uint64(0xFFFF)).astype(np.int64)]


def attributes(h):
    """Rows (N, 12) of uniform numbers for N hashes."""
    return random_rows()[(h & np.uint64(0xFFFF)).astype(np.int64)]


@lru_cache(maxsize=1)
def _tables():
    """Noise as a (CHANNELS, S + 1, S + 1) float32 array, S = WAVES * FINE, zero mean, unit variance, wrapped
    by one sample.
    """
    n = WAVES
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    out = []
    for c in range(CHANNELS):
        v = (hash_lattice(2024, i, j, salt=c + 1) >> np.uint64(56)).astype(np.int64) - 128
        for axis in (0, 1):  # B-spline values at quarter cells, in integers: exact
            parts = [sum(int(w[m]) * np.roll(v, 1 - m, axis) for m in range(4)) for w in _SPLINE]
            v = np.stack(parts, axis + 1).reshape(
                [s * (FINE if a == axis else 1) for a, s in enumerate(v.shape)]
            )
        size = n * FINE
        mean = int(v.sum()) / (size * size)
        v = v - mean
        out.append(v / np.sqrt((v * v).mean()))
    wrapped = np.pad(np.stack(out), ((0, 0), (0, 1), (0, 1)), mode="wrap")
    return torch.from_numpy(wrapped.astype(np.float32))[None].contiguous()


_MINUS_ONE = torch.tensor(-1.0)
_on_device: dict[tuple[str, int, int], torch.Tensor] = {}


def table(device, first, count):
    """Some channels of the table; a place's channels lie side by side, so that a cache line brings them all."""
    key = (str(device), first, count)
    if key not in _on_device:
        values = _tables()[:, first : first + count].to(device)
        _on_device[key] = values.contiguous(memory_format=torch.channels_last)
    return _on_device[key]


def first_periods(offsets):
    """Where noise with offsets in lattice cells starts, in its periods: far from 0, so that none is negative."""
    return offsets * (1.0 / WAVES) + PERIODS


def sample(xy, scale, offsets, first=0, count=CHANNELS):
    """Noise at points.

    Args:
        xy: float64 (2, ...) in µm: all x, then all y.
        scale: lattice cells per µm.
        offsets: float64 (2, ...), broadcasts with xy, in lattice cells and at least 0.
        first, count: which channels.

    Returns:
        float32 (count, ...), zero mean and unit variance over the plane.
    """
    start = first_periods(offsets)
    loops = native.active(xy)
    if loops is not None:
        return loops.noise(xy, start, scale / WAVES, table(xy.device, first, count), count)
    t = torch.add(start, xy, alpha=scale / WAVES).frac_()  # whole periods leave before precision does
    grid = t.to(torch.float32)
    grid = torch.add(_MINUS_ONE, grid, alpha=2.0, out=grid).view(2, -1).T[None, None]
    values = table(xy.device, first, count)
    if scale > 0.1 and grid.shape[2] >= 1 << 14 and xy.device.type == "cpu":
        # many points all over the table: read in order, it comes into the cache far faster than by leaps
        values.max()
    out = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out.view(count, *xy.shape[1:])


@lru_cache(maxsize=1)
def scattered():
    """One point in each of PERIOD x PERIOD unit cells, pushed apart until they are evenly spread: (PERIOD,
    PERIOD, 2), in [0, 1).
    """
    n = PERIOD
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    p = attributes(hash_lattice(9, i, j))[..., :2] * 0.9 + 0.05
    for _ in range(7):
        push = np.zeros_like(p)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if di or dj:
                    d = p - (np.roll(p, (-di, -dj), (0, 1)) + np.array([di, dj], dtype=np.float64))
                    r = np.sqrt(d[..., 0] ** 2 + d[..., 1] ** 2)
                    push += d * (np.maximum(0.92 - r, 0.0) / (r + 1e-9))[..., None]
        p = np.clip(p + 0.25 * push, 0.0, 0.999)
    return p


@lru_cache(maxsize=1)
def scattered_planar():
    """The same points, all x, then all y: (2, PERIOD * PERIOD)."""
    return np.ascontiguousarray(scattered().reshape(-1, 2).T)
