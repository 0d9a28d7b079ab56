"""What lesson 1 asks of the student: how a tile moves under the eight symmetries of the pixel grid.

Eight exercises in the order of `course/01_symmetry.py`. Each one gives the statement, the reference solution,
other correct ways (never to be rejected), plausible wrong answers with the sentence each must trigger, and
checks that look at properties before they look at numbers. The convention is that of `equipath.groups`: the
element (r, m) first mirrors left-right if m, then turns by r quarter turns counter-clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.check import (
    Ask,
    Exercise,
    Misconception,
    agrees,
    close,
    commutes,
    depends,
    expect,
    sensitive,
    wrong,
)
from equipath.groups import P4, P4M

Move = Callable[[Tensor], Tensor]

# --------------------------------------------------------------------------------------------- 1. move


def move(x: Tensor, r: int, m: bool) -> Tensor:
    if m:
        x = x.flip(-1)
    return torch.rot90(x, r, (-2, -1))


def _move_by_transposes(x: Tensor, r: int, m: bool) -> Tensor:
    if m:
        x = torch.flip(x, (-1,))
    for _ in range(r % 4):
        x = x.transpose(-2, -1).flip(-2)
    return x


def _move_by_index(x: Tensor, r: int, m: bool) -> Tensor:
    height, width = x.shape[-2:]
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if m:
        col = col.flip(1)
    for _ in range(r % 4):
        row, col = row.T.flip(0), col.T.flip(0)
    return x[..., row, col]


def _move_pixel_by_pixel(x: Tensor, r: int, m: bool) -> Tensor:
    for _ in range(r % 4):
        height, width = x.shape[-2:]
        turned = torch.empty((*x.shape[:-2], width, height), dtype=x.dtype)
        for i in range(width):
            for j in range(height):
                turned[..., i, j] = x[..., j, width - 1 - i] if not m else x[..., j, i]
        x, m = turned, False
    return x.flip(-1) if m else x


def _move_with_numpy(x: Tensor, r: int, m: bool) -> Tensor:
    a = x.numpy()
    a = np.flip(a, -1) if m else a
    return torch.from_numpy(np.rot90(a, r, (-2, -1)).copy())


# wrong: each with its sentence in MOVE below
def _move_clockwise(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if m else x, -r, (-2, -1))


def _move_turn_then_mirror(x: Tensor, r: int, m: bool) -> Tensor:
    x = torch.rot90(x, r, (-2, -1))
    return x.flip(-1) if m else x


def _move_mirror_rows(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-2) if m else x, r, (-2, -1))


def _move_first_axes(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if m else x, r)


def _move_by_transpose(x: Tensor, r: int, m: bool) -> Tensor:
    x = x.flip(-1) if m else x
    if r % 2:
        x = x.transpose(-2, -1)
    return x.flip((-2, -1)) if r % 4 >= 2 else x


def _move_ignores_mirror(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x, r, (-2, -1))


def _move_ignores_turn(x: Tensor, r: int, m: bool) -> Tensor:
    return x.flip(-1) if m else x


def _move_once(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if m else x, 1 if r else 0, (-2, -1))


def _move_interpolated(x: Tensor, r: int, m: bool) -> Tensor:
    height, width = x.shape[-2:]
    flat = x.reshape(1, -1, height, width).to(torch.float64)
    flat = torch.rot90(flat.flip(-1) if m else flat, r, (-2, -1))
    flat = F.interpolate(flat, scale_factor=2, mode="bilinear", align_corners=False)
    flat = F.avg_pool2d(F.avg_pool2d(flat, 3, 1, 1), 2)
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:]).to(x.dtype)


def _move_to_float(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if m else x, r, (-2, -1)).float()


def _move_keeps_shape(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if m else x, r, (-2, -1)).reshape(x.shape)


def _move_fliplr(x: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(torch.fliplr(x) if m else x, r, (-2, -1))


def _move_loop_over_r(x: Tensor, r: int, m: bool) -> Tensor:
    x = x.flip(-1) if m else x
    for _ in range(r):
        x = torch.rot90(x, 1, (-2, -1))
    return x


# -------------------------------------------------------------------------------------- 2. move_points


def move_points(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0], points[:, 1]
    if m:
        col = width - 1 - col
    for _ in range(r % 4):
        row, col = width - 1 - col, row
        height, width = width, height
    return torch.stack([row, col], dim=1)


def _points_about_the_centre(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    centre = torch.tensor([(height - 1) / 2, (width - 1) / 2], dtype=points.dtype)
    p = points - centre
    if m:
        p = p * torch.tensor([1, -1], dtype=points.dtype)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=points.dtype)
    p = p @ torch.matrix_power(turn, r % 4).T
    return p + (centre.flip(0) if r % 2 else centre)


def _points_from_table(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    moved = torch.empty_like(points)
    for i, (y, x) in enumerate(points.tolist()):
        x = width - 1 - x if m else x
        moved[i] = torch.tensor(
            [(y, x), (width - 1 - x, y), (height - 1 - y, width - 1 - x), (x, height - 1 - y)][r % 4]
        )
    return moved


def _points_complex(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    z = torch.complex(points[:, 1] - (width - 1) / 2, (height - 1) / 2 - points[:, 0])  # x right, y up
    z = -z.conj() if m else z
    z = z * [1, 1j, -1, -1j][r % 4]
    if r % 2:
        height, width = width, height
    return torch.stack([(height - 1) / 2 - z.imag, z.real + (width - 1) / 2], dim=1)


def _points_off_by_one(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0], points[:, 1]
    col = width - col if m else col
    for _ in range(r % 4):
        row, col = width - col, row
        height, width = width, height
    return torch.stack([row, col], dim=1)


def _points_clockwise(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    return move_points(points, -r, m, height, width)


def _points_turn_then_mirror(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    moved = move_points(points, r, False, height, width)
    if r % 2:
        height, width = width, height
    return move_points(moved, 0, m, height, width)


def _points_square_only(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0], points[:, 1]
    col = width - 1 - col if m else col
    for _ in range(r % 4):
        row, col = width - 1 - col, row
    return torch.stack([row, col], dim=1)


def _points_same_centre(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0] - (height - 1) / 2, points[:, 1] - (width - 1) / 2
    col = -col if m else col
    for _ in range(r % 4):
        row, col = -col, row
    return torch.stack([row + (height - 1) / 2, col + (width - 1) / 2], dim=1)


def _points_about_the_corner(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0], points[:, 1]
    col = -col if m else col
    for _ in range(r % 4):
        row, col = -col, row
    return torch.stack([row, col], dim=1)


def _points_x_first(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    return move_points(points.flip(1), r, m, height, width).flip(1)


def _points_mirror_rows(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    if m:
        points = torch.stack([height - 1 - points[:, 0], points[:, 1]], dim=1)
    return move_points(points, r, False, height, width)


def _points_rounded(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    return move_points(points.round(), r, m, height, width)


def _points_loop_over_r(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    return move_points(points, max(r, 0), m, height, width)


def _points_mirror_off_by_one(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    if m:
        points = torch.stack([points[:, 0], width - points[:, 1]], dim=1)
    return move_points(points, r, False, height, width)


def _points_turn_off_by_one(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    row, col = points[:, 0], points[:, 1]
    col = width - 1 - col if m else col
    for _ in range(r % 4):
        row, col = width - col, row
        height, width = width, height
    return torch.stack([row, col], dim=1)


def _points_ignore_mirror(points: Tensor, r: int, m: bool, height: int, width: int) -> Tensor:
    return move_points(points, r, False, height, width)


# ------------------------------------------------------------------------------- 3. equivariance_error


def equivariance_error(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    moved_then_mapped = f(move_in(x)).flatten(1)
    mapped_then_moved = move_out(f(x)).flatten(1)
    difference = (moved_then_mapped - mapped_then_moved).norm(dim=1)
    return float((difference / mapped_then_moved.norm(dim=1)).mean())


def _error_with_sums(f: Move, x: Tensor, move_in: Move, move_out: Move) -> Tensor:
    a, b = f(move_in(x)).double(), move_out(f(x)).double()
    axes = tuple(range(1, a.dim()))
    return (((a - b) ** 2).sum(axes) / (b**2).sum(axes)).sqrt().mean()


def _error_with_numpy(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = np.asarray(f(move_in(x))), np.asarray(move_out(f(x)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.mean(
            [np.linalg.norm((p - q).ravel()) / np.linalg.norm(q.ravel()) for p, q in zip(a, b, strict=True)]
        )


def _error_in_a_loop(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    ratios = []
    for i in range(len(x)):
        p, q = f(move_in(x[i : i + 1])).flatten().tolist(), move_out(f(x[i : i + 1])).flatten().tolist()
        bottom = math.sqrt(sum(v**2 for v in q))
        if bottom == 0:
            return math.nan
        ratios.append(math.sqrt(sum((u - v) ** 2 for u, v in zip(p, q, strict=True))) / bottom)
    return sum(ratios) / len(ratios)


def _ratio(top: Tensor, bottom: Tensor) -> float:
    return float((top.flatten(1).norm(dim=1) / bottom.flatten(1).norm(dim=1)).mean())


def _error_invariance(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), f(x)
    return _ratio(a.reshape(b.shape) - b, b)


def _error_moves_with_move_in(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), f(x)
    b = move_in(b) if b.dim() == 4 else b
    return _ratio(a - b, b)


def _error_moves_input_twice(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), f(move_out(x))
    return _ratio(a - b, b)


def _error_moves_both(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = move_out(f(move_in(x))), move_out(f(x))
    return _ratio(a - b, b)


def _error_absolute(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    return float((f(move_in(x)) - move_out(f(x))).flatten(1).norm(dim=1).mean())


def _error_mean_square(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    return float(((f(move_in(x)) - move_out(f(x))) ** 2).mean())


def _error_squared(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
    return float(((a - b).square().sum(1) / b.square().sum(1)).mean())


def _error_by_input(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    return _ratio(f(move_in(x)) - move_out(f(x)), x)


def _error_signed(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
    return float(((a - b).sum(1) / b.sum(1)).mean())


def _error_whole_batch(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), move_out(f(x))
    return float((a - b).norm() / b.norm())


def _error_forgives_zero(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
    return float(((a - b).norm(dim=1) / (b.norm(dim=1) + 1e-12)).mean())


def _error_norm_over_channels(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), move_out(f(x))
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).mean())


def _error_number_by_number(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), move_out(f(x))
    return float(((a - b).abs() / b.abs()).mean())


def _error_summed(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    return equivariance_error(f, x, move_in, move_out) * len(x)


def _error_of_absolute_values(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
    return float(((a - b).abs().sum(1) / b.abs().sum(1)).mean())


def _error_of_the_worst(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).max())


def _error_divides_by_moved(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(move_in(x)), move_out(f(x))
    return _ratio(a - b, a)


def _error_forgets_move_in(f: Move, x: Tensor, move_in: Move, move_out: Move) -> float:
    a, b = f(x), move_out(f(x))
    return _ratio(a - b, b)


# ------------------------------------------------------------------------------------------ 4. correlate


def correlate(x: Tensor, w: Tensor) -> Tensor:
    kh, kw = w.shape[-2:]
    out = torch.zeros(x.shape[0], w.shape[0], *x.shape[-2:], dtype=x.dtype)
    for u in range(kh):
        for v in range(kw):
            shifted = torch.roll(x, (kh // 2 - u, kw // 2 - v), dims=(-2, -1))
            out = out + torch.einsum("oc,bchw->bohw", w[:, :, u, v], shifted)
    return out


def _correlate_padded(x: Tensor, w: Tensor) -> Tensor:
    kh, kw = w.shape[-2:]
    return F.conv2d(F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), mode="circular"), w)


def _correlate_fft(x: Tensor, w: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    kh, kw = w.shape[-2:]
    kernel = torch.zeros(*w.shape[:2], height, width, dtype=x.dtype)
    kernel[..., :kh, :kw] = w
    kernel = torch.roll(kernel, (-(kh // 2), -(kw // 2)), dims=(-2, -1))
    spectrum = torch.einsum("ochw,bchw->bohw", torch.fft.rfft2(kernel).conj(), torch.fft.rfft2(x))
    return torch.fft.irfft2(spectrum, s=(height, width)).to(x.dtype)


def _correlate_by_gather(x: Tensor, w: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    kh, kw = w.shape[-2:]
    rows = (torch.arange(height)[:, None] + torch.arange(kh) - kh // 2) % height
    cols = (torch.arange(width)[:, None] + torch.arange(kw) - kw // 2) % width
    patches = x[:, :, rows][..., cols]  # (B, C, H, kh, W, kw)
    return torch.einsum("bchuwv,ocuv->bohw", patches, w)


def _correlate_seven_loops(x: Tensor, w: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    kh, kw = w.shape[-2:]
    a, k = x.numpy(), w.numpy()
    out = np.zeros((batch, w.shape[0], height, width), a.dtype)
    for i in range(height):
        for j in range(width):
            for u in range(kh):
                for v in range(kw):
                    pixel = a[:, :, (i + u - kh // 2) % height, (j + v - kw // 2) % width]
                    out[:, :, i, j] += pixel @ k[:, :, u, v].T
    return torch.from_numpy(out)


def _correlate_flipped_kernel(x: Tensor, w: Tensor) -> Tensor:
    return correlate(x, w.flip((-2, -1)))


def _correlate_zero_padding(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, padding=(w.shape[-2] // 2, w.shape[-1] // 2))


def _correlate_valid(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w)


def _correlate_off_centre(x: Tensor, w: Tensor) -> Tensor:
    kh, kw = w.shape[-2:]
    return torch.roll(correlate(x, w), (-(kh // 2), -(kw // 2)), dims=(-2, -1))


def _correlate_first_channel(x: Tensor, w: Tensor) -> Tensor:
    return correlate(x[:, :1], w[:, :1])


def _correlate_mean_channels(x: Tensor, w: Tensor) -> Tensor:
    return correlate(x, w) / x.shape[1]


def _correlate_transposed_kernel(x: Tensor, w: Tensor) -> Tensor:
    return correlate(x, w.transpose(-2, -1))


def _correlate_centre_tap(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", w[:, :, w.shape[-2] // 2, w.shape[-1] // 2], x)


def _correlate_sums_filters(x: Tensor, w: Tensor) -> Tensor:
    return correlate(x, w.sum(0, keepdim=True)).expand(-1, w.shape[0], -1, -1).clone()


def _correlate_reflect(x: Tensor, w: Tensor) -> Tensor:
    kh, kw = w.shape[-2:]
    return F.conv2d(F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), mode="reflect"), w)


def _correlate_rolls_first_axes(x: Tensor, w: Tensor) -> Tensor:
    kh, kw = w.shape[-2:]
    out = torch.zeros(x.shape[0], w.shape[0], *x.shape[-2:], dtype=x.dtype)
    for u in range(kh):
        for v in range(kw):
            shifted = torch.roll(x, (kh // 2 - u, kw // 2 - v), dims=(0, 1))
            out = out + torch.einsum("oc,bchw->bohw", w[:, :, u, v], shifted)
    return out


# -------------------------------------------------------------------------------------- 5. product_table


def product_table(moves: Sequence[Move]) -> Tensor:
    probe = torch.arange(12.0).reshape(1, 1, 3, 4)
    single = [move(probe) for move in moves]
    table = torch.full((len(moves), len(moves)), -1)
    for a in range(len(moves)):
        for b in range(len(moves)):
            double = moves[a](single[b])
            for c in range(len(moves)):
                if torch.equal(double, single[c]):
                    table[a, b] = c
    return table


def _table_by_dictionary(moves: Sequence[Move]) -> Tensor:
    probe = torch.arange(9).reshape(1, 1, 3, 3)
    name = {tuple(f(probe).flatten().tolist()): i for i, f in enumerate(moves)}
    rows = [[name.get(tuple(f(g(probe)).flatten().tolist()), -1) for g in moves] for f in moves]
    return torch.tensor(rows)


def _table_by_permutation(moves: Sequence[Move]) -> Tensor:
    size, n = 5, len(moves)
    probe = torch.arange(float(size * size)).reshape(1, 1, size, size)
    perm = torch.stack([f(probe).flatten().long() for f in moves])  # f(x).flatten() == x.flatten()[perm]
    product = torch.stack([perm[b][perm[a]] for a in range(n) for b in range(n)])
    same = (product[:, None] == perm[None]).all(-1)
    return torch.where(same.any(1), same.long().argmax(1), -1).reshape(n, n)


def _table_from_noise(moves: Sequence[Move]) -> Tensor:
    probe = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    single = [f(probe) for f in moves]
    table = torch.full((len(moves), len(moves)), -1, dtype=torch.long)
    for a, f in enumerate(moves):
        for b in range(len(moves)):
            hits = [c for c, y in enumerate(single) if torch.allclose(f(single[b]), y)]
            if hits:
                table[a, b] = hits[0]
    return table


def _table_other_order(moves: Sequence[Move]) -> Tensor:
    return product_table(moves).T.contiguous()


def _table_symmetric_probe(moves: Sequence[Move]) -> Tensor:
    probe = torch.ones(1, 1, 4, 4)
    single = [move(probe) for move in moves]
    table = torch.full((len(moves), len(moves)), -1)
    for a, f in enumerate(moves):
        for b in range(len(moves)):
            table[a, b] = next(c for c, y in enumerate(single) if torch.equal(f(single[b]), y))
    return table


def _table_by_pixel_sum(moves: Sequence[Move]) -> Tensor:
    probe = torch.arange(16.0).reshape(1, 1, 4, 4)
    total = [float(move(probe).sum()) for move in moves]
    table = torch.full((len(moves), len(moves)), -1)
    for a, f in enumerate(moves):
        for b, g in enumerate(moves):
            table[a, b] = len(total) - 1 - total[::-1].index(float(f(g(probe)).sum()))
    return table


def _table_adds_indices(moves: Sequence[Move]) -> Tensor:
    n = torch.arange(len(moves))
    return (n[:, None] + n) % len(moves)


def _table_by_formula(moves: Sequence[Move]) -> Tensor:
    n = len(moves)
    r, m = torch.arange(n) % 4, torch.arange(n) // 4
    turn = (r[:, None] + torch.where(m[:, None] == 1, -r, r)) % 4
    return 4 * ((m[:, None] + m) % 2) + turn


def _table_zero_where_open(moves: Sequence[Move]) -> Tensor:
    return product_table(moves).clamp_min(0)


def _table_compares_with_second(moves: Sequence[Move]) -> Tensor:
    n = len(moves)
    return torch.arange(n)[:, None].expand(n, n).clone()


def _table_inverse_second(moves: Sequence[Move]) -> Tensor:
    table = product_table(moves)
    n = len(moves)
    out = torch.full((n, n), -1)
    for a in range(n):
        for b in range(n):
            hits = (table[a] == b).nonzero().flatten()
            out[a, b] = hits[0] if len(hits) else -1
    return out


# ------------------------------------------------------------------------------------------- 6. inverses


def inverses(table: Tensor) -> Tensor:
    n = len(table)
    identity = next(e for e in range(n) if torch.equal(table[e], torch.arange(n)))
    return (table == identity).int().argmax(dim=1)


def _inverses_by_loops(table: Tensor) -> Tensor:
    rows = table.tolist()
    n = len(rows)
    e = next(a for a in range(n) if all(rows[a][b] == b and rows[b][a] == b for b in range(n)))
    return torch.tensor([row.index(e) for row in rows])


def _inverses_by_powers(table: Tensor) -> Tensor:
    e = int((table.diagonal() == torch.arange(len(table))).int().argmax())  # only e satisfies e e = e
    found = []
    for a in range(len(table)):
        power = e
        while int(table[power, a]) != e:
            power = int(table[power, a])
        found.append(power)
    return torch.tensor(found)


def _inverses_by_nonzero(table: Tensor) -> Tensor:
    e = table[0].tolist().index(0)  # 0·e = 0
    return (table == e).nonzero()[:, 1]


def _inverses_identity_first(table: Tensor) -> Tensor:
    return (table == 0).int().argmax(dim=1)


def _inverses_all_their_own(table: Tensor) -> Tensor:
    return torch.arange(len(table))


def _inverses_negated(table: Tensor) -> Tensor:
    return -torch.arange(len(table)) % len(table)


def _inverses_squares(table: Tensor) -> Tensor:
    return table.diagonal().clone()


def _inverses_mirrors_too(table: Tensor) -> Tensor:
    n = torch.arange(len(table))
    return 4 * (n // 4) + (-n) % 4


def _inverses_order(table: Tensor) -> Tensor:
    e = int((table.diagonal() == torch.arange(len(table))).int().argmax())
    orders = []
    for a in range(len(table)):
        k, power = 1, a
        while power != e:
            k, power = k + 1, int(table[power, a])
        orders.append(k)
    return torch.tensor(orders)


def _inverses_as_mask(table: Tensor) -> Tensor:
    e = int((table.diagonal() == torch.arange(len(table))).int().argmax())
    return (table == e).long()


# --------------------------------------------------------------------------------- 7. dice_cross_entropy


def dice_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, dim=1)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    cross_entropy = -(y * log_p).sum(dim=1).mean()
    p = log_p.exp()
    overlap = (p * y).sum(dim=(0, 2, 3))
    total = p.sum(dim=(0, 2, 3)) + y.sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return cross_entropy + 1 - dice.mean()


def _loss_with_library(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(1)
    dice = torch.zeros((), dtype=p.dtype)
    for k in range(logits.shape[1]):
        y = (target == k).to(p.dtype)
        dice = dice + (2 * (p[:, k] * y).sum() + 1) / (p[:, k].sum() + y.sum() + 1)
    return F.cross_entropy(logits, target) + 1 - dice / logits.shape[1]


def _loss_by_hand(logits: Tensor, target: Tensor) -> Tensor:
    shifted = logits - logits.amax(dim=1, keepdim=True)
    log_p = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    loss = -log_p.gather(1, target[:, None]).mean()
    p = log_p.exp().transpose(0, 1).flatten(1)
    y = torch.stack([(target == k).flatten() for k in range(logits.shape[1])]).to(p.dtype)
    return loss + (1 - (2 * torch.einsum("kn,kn->k", p, y) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()


def _loss_pieces(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return F.cross_entropy(logits, target), logits.softmax(1), y


def _soft_dice(p: Tensor, y: Tensor, axes: tuple[int, ...] = (0, 2, 3), smooth: float = 1.0) -> Tensor:
    return (2 * (p * y).sum(axes) + smooth) / (p.sum(axes) + y.sum(axes) + smooth)


def _loss_unstable(logits: Tensor, target: Tensor) -> Tensor:
    e = logits.exp()
    p = e / e.sum(1, keepdim=True)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return -(y * p.log()).sum(1).mean() + 1 - _soft_dice(p, y).mean()


def _loss_log_of_softmax(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.softmax(1)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return -(y * (p + 1e-8).log()).sum(1).mean() + 1 - _soft_dice(p, y).mean()


def _loss_wrong_axis(logits: Tensor, target: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return -(y * log_p).sum(1).mean() + 1 - _soft_dice(log_p.exp(), y).mean()


def _loss_adds_dice(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + _soft_dice(p, y).mean()


def _loss_without_two(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    axes = (0, 2, 3)
    return ce + 1 - (((p * y).sum(axes) + 1) / (p.sum(axes) + y.sum(axes) + 1)).mean()


def _loss_hard_dice(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    hard = F.one_hot(p.argmax(1), p.shape[1]).movedim(-1, 1).to(p.dtype)
    return ce + 1 - _soft_dice(hard, y).mean()


def _loss_only_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target)


def _loss_only_dice(logits: Tensor, target: Tensor) -> Tensor:
    _, p, y = _loss_pieces(logits, target)
    return 1 - _soft_dice(p, y).mean()


def _loss_dice_per_image(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(p, y, (2, 3)).mean()


def _loss_dice_over_classes(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(p, y, (0, 1, 2, 3))


def _loss_skips_background(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(p, y)[1:].mean()


def _loss_no_smoothing(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(p, y, smooth=0.0).mean()


def _loss_sums_pixels(logits: Tensor, target: Tensor) -> Tensor:
    _, p, y = _loss_pieces(logits, target)
    return F.cross_entropy(logits, target, reduction="sum") + 1 - _soft_dice(p, y).mean()


def _loss_dice_of_logits(logits: Tensor, target: Tensor) -> Tensor:
    ce, _, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(logits, y).mean()


def _loss_sigmoid(logits: Tensor, target: Tensor) -> Tensor:
    ce, _, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(logits.sigmoid(), y).mean()


def _loss_log_of_plain_softmax(logits: Tensor, target: Tensor) -> Tensor:
    _, p, y = _loss_pieces(logits, target)
    return -(y * p.log()).sum(1).mean() + 1 - _soft_dice(p, y).mean()


def _loss_softmax_twice(logits: Tensor, target: Tensor) -> Tensor:
    _, p, y = _loss_pieces(logits, target)
    return F.cross_entropy(p, target) + 1 - _soft_dice(p, y).mean()


def _loss_dice_wrong_axis(logits: Tensor, target: Tensor) -> Tensor:
    ce, _, y = _loss_pieces(logits, target)
    return ce + 1 - _soft_dice(logits.softmax(-1), y).mean()


def _loss_of_intersection_over_union(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    both = (p * y).sum((0, 2, 3))
    return ce + 1 - ((both + 1) / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)) - both + 1)).mean()


def _loss_squares_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    axes = (0, 2, 3)
    return ce + 1 - ((2 * (p * y).sum(axes) + 1) / ((p * p).sum(axes) + y.sum(axes) + 1)).mean()


def _loss_sums_classes(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, y = _loss_pieces(logits, target)
    return ce + (1 - _soft_dice(p, y)).sum()


def _loss_reshaped_target(logits: Tensor, target: Tensor) -> Tensor:
    ce, p, _ = _loss_pieces(logits, target)
    y = F.one_hot(target, logits.shape[1]).reshape(logits.shape).to(logits.dtype)
    return ce + 1 - _soft_dice(p, y).mean()


# --------------------------------------------------------------------------------- 8. average_over_group


def average_over_group(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    answers = []
    for g, move_by_g in enumerate(moves):
        y = f(move_by_g(x))
        answers.append(moves[int(inverse[g])](y) if planar else y)
    return torch.stack(answers).mean(dim=0)


def _average_summed(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    total = torch.zeros_like(f(x))
    for g, move_by_g in enumerate(moves):
        y = f(move_by_g(x))
        total = total + (moves[int(inverse[g])](y) if planar else y)
    return total / len(moves)


def _average_from_the_other_side(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    # g runs over the whole group, and so does its inverse: undo first, then redo.
    answers = []
    for g in range(len(moves)):
        y = f(moves[int(inverse[g])](x))
        answers.append(moves[g](y) if planar else y)
    return sum(answers[1:], answers[0]) / len(answers)


def _average_running(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    mean = None
    for n, g in enumerate(reversed(range(len(moves))), start=1):
        y = f(moves[g](x)).double()
        y = moves[inverse.tolist()[g]](y) if planar else y
        mean = y if mean is None else mean + (y - mean) / n
    assert mean is not None
    return mean.to(x.dtype)


def _average_never_back(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    first = f(moves[0](x))
    answers = [f(g(x)) for g in moves]
    return torch.stack([y if y.shape == first.shape else y.transpose(-2, -1) for y in answers]).mean(0)


def _average_back_with_g(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    answers = [f(g(x)) for g in moves]
    return torch.stack([g(y) if planar else y for g, y in zip(moves, answers, strict=True)]).mean(0)


def _average_sum(f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True) -> Tensor:
    return average_over_group(f, x, moves, inverse, planar) * len(moves)


def _average_maximum(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    answers = [f(g(x)) for g in moves]
    return torch.stack([moves[int(inverse[g])](y) if planar else y for g, y in enumerate(answers)]).amax(0)


def _average_of_inputs(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    if x.shape[-1] != x.shape[-2]:
        return f(x)
    return f(torch.stack([g(x) for g in moves]).mean(0))


def _average_moves_outputs_only(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    y = f(x)
    if not planar or x.shape[-1] != x.shape[-2]:
        return y
    return torch.stack([g(y) for g in moves]).mean(0)


def _average_skips_first(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    answers = [f(g(x)) for g in moves]
    return torch.stack([moves[int(inverse[g])](y) if planar else y for g, y in enumerate(answers)][1:]).mean(
        0
    )


def _average_planar_always(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    if planar:
        return average_over_group(f, x, moves, inverse)
    answers = [moves[int(inverse[g])](f(move_by_g(x))) for g, move_by_g in enumerate(moves)]
    return torch.stack([y.reshape(answers[0].shape) for y in answers]).mean(0)


def _average_stacks_poses(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    return torch.stack([f(move_by_g(x)) for move_by_g in moves]).mean(dim=0)


def _average_ignores_planar(
    f: Move, x: Tensor, moves: Sequence[Move], inverse: Tensor, planar: bool = True
) -> Tensor:
    return torch.stack([moves[int(inverse[g])](f(moves[g](x))) for g in range(len(moves))]).mean(dim=0)


# ------------------------------------------------------------------------------------------------ checks

LESSON = "01_symmetry"


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _p4m(a: int) -> Move:
    return lambda x: P4M.act(x, a)


def _words(r: int, m: bool) -> str:
    return f"r = {r}, m = {m}"


# The turns and mirrors that the first two exercises are asked about; they tell the usual slips apart.
_ELEMENTS = [(1, False), (0, True), (1, True), (2, False), (3, False), (2, True), (3, True), (0, False)]


def _check_move_grid(ask: Ask) -> None:
    tile = torch.arange(6.0).reshape(1, 1, 2, 3)
    y = ask(tile, 1, False)
    expect(
        float(y[0, 0, 0, 0]) == float(tile[0, 0, 0, -1]),
        "One quarter turn counter-clockwise takes the right edge of the picture to the top: its top right "
        "pixel must become the top left one.",
    )
    y = ask(tile, 0, True)
    expect(torch.equal(y[..., 0], tile[..., -1]), "Mirroring left-right takes the last column to the first.")
    for r, m in _ELEMENTS:
        y = ask(tile, r, m)
        expect(
            torch.equal(y.flatten().sort().values, tile.flatten()),
            f"A move changes where pixels are and never what they are ({_words(r, m)}).",
        )
        close(
            y,
            P4M.act(tile, 4 * m + r),
            f"Mirror first if m, then turn r times counter-clockwise ({_words(r, m)})",
            tol=0,
        )


def _check_move_turns(ask: Ask) -> None:
    x = _random(3, 5)
    y = x
    for _ in range(4):
        y = ask(y, 1, False)
    close(y, x, "Four quarter turns bring the picture back", tol=0)
    close(ask(ask(x, 0, True), 0, True), x, "Mirroring twice brings the picture back", tol=0)
    for r in (-1, 5, 8):
        close(
            ask(x, r, False),
            P4M.act(x, r % 4),
            f"r may be any whole number, and only r modulo 4 matters (r = {r})",
            tol=0,
        )


def _check_move_labels(ask: Ask) -> None:
    nuclei = torch.tensor([[0, 16777217, 3], [7, 7, 16777219]])
    close(
        ask(nuclei, 1, True), P4M.act(nuclei, 5), "A label map moves without changing a single label", tol=0
    )
    mask = torch.tensor([[True, False, False], [True, True, False]])[None]
    close(ask(mask, 3, False), P4M.act(mask, 3), "A mask moves as the picture does", tol=0)


def _check_move_batches(ask: Ask) -> None:
    for shape in ((2, 3, 4, 7), (2, 3, 5, 5), (1, 6)):
        x = _random(*shape)
        for r, m in ((1, True), (2, False)):
            close(
                ask(x, r, m),
                P4M.act(x, 4 * m + r),
                "Only the last two axes are the picture's rows and columns; all others stay where they are "
                f"({_words(r, m)})",
                tol=0,
            )


def _check_points(ask: Ask) -> None:
    height, width = 5, 8
    points = torch.tensor([[0.0, 0.0], [1.0, 6.0], [4.0, 2.0], [3.0, 7.0]], dtype=torch.float64)
    image = torch.arange(float(height * width)).reshape(height, width)
    for r, m in _ELEMENTS:
        moved = ask(points, r, m, height, width)
        picture = P4M.act(image, 4 * m + r)
        limit = torch.tensor(picture.shape)
        expect(
            bool(((moved > -0.5) & (moved < limit - 0.5)).all()),
            f"With {_words(r, m)} a point of a picture of {height} rows and {width} columns leaves the "
            "moved picture.",
        )
        row, col = moved.round().long().unbind(1)
        row0, col0 = points.long().unbind(1)
        expect(
            torch.equal(picture[row, col], image[row0, col0]),
            "A point must stay on its pixel: look up the moved picture at the moved point and you find the "
            f"old pixel ({_words(r, m)}, a picture of {height} rows and {width} columns).",
        )


def _check_points_between(ask: Ask) -> None:
    points = _random(6, 2).abs() * 2
    for (r, m), (height, width) in zip(_ELEMENTS, [(7, 4), (4, 7)] * 4, strict=True):
        close(
            ask(points, r, m, height, width),
            move_points(points, r, m, height, width),
            f"Points between pixel centres move just as far as those on them ({_words(r, m)}, {height} "
            f"rows, {width} columns)",
            tol=1e-6,
        )
    for r, m in ((-1, False), (5, True)):
        close(
            ask(points, r, m, 7, 4),
            move_points(points, r, m, 7, 4),
            f"r may be any whole number, and only r modulo 4 matters ({_words(r, m)})",
            tol=1e-6,
        )
    square = ask(points, 1, True, 6, 6)
    close(square, move_points(points, 1, True, 6, 6), "A square picture is no exception", tol=1e-6)
    expect(
        ask(torch.zeros(0, 2, dtype=torch.float64), 1, False, 3, 4).shape == (0, 2),
        "No points in, no points out.",
    )


def _blur(x: Tensor) -> Tensor:
    """A map that no turn commutes with: zero-padded filters with a direction, and a bend."""
    w = _random(2, x.shape[1], 3, 3, seed=3)
    return F.conv2d(x, w, padding=1).relu()


def _subsampled(x: Tensor) -> Tensor:
    w = _random(2, x.shape[1], 3, 3, seed=4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w, stride=2)


def _summary(x: Tensor) -> Tensor:
    """Three numbers for each picture that depend on how it lies."""
    w = _random(3, x.shape[1], 3, 3, seed=5)
    return F.conv2d(x, w).relu().mean((-2, -1))


def _same(x: Tensor) -> Tensor:
    return x


def _uneven_batch(seed: int = 0) -> Tensor:
    x = _random(3, 2, 6, 6, seed=seed) + 0.3
    return x * torch.tensor([1.0, 3.0, 0.1], dtype=torch.float64)[:, None, None, None]


def _check_error_zero(ask: Ask) -> None:
    x = _uneven_batch()
    turn = _p4m(1)
    expect(
        abs(ask(lambda v: v * v - v, x, turn, turn)) < 1e-6,
        "A map that treats every pixel alike, such as x² − x, is equivariant to a turn: its error must be 0.",
    )
    expect(
        abs(ask(lambda v: v.mean((-2, -1)), x, turn, _same)) < 1e-6,
        "The mean over all pixels is invariant to a turn: with move_out = identity its error must be 0.",
    )
    shift, half = (lambda v: v.roll(2, -1)), (lambda v: v.roll(1, -1))
    expect(
        abs(ask(_subsampled, x, shift, half)) < 1e-6,
        "A map with stride 2 follows a shift by 2 pixels with a shift by 1: move the input with move_in "
        "and the output with move_out, and the error must be 0.",
    )


def _check_error_value(ask: Ask) -> None:
    x = _uneven_batch()
    for f, move_in, move_out in (
        (_blur, _p4m(1), _p4m(1)),
        (_blur, _p4m(5), _p4m(5)),
        (_summary, _p4m(1), _same),
        (_subsampled, lambda v: v.roll(1, -1), _same),
    ):
        got = ask(f, x, move_in, move_out)
        expect(
            math.isfinite(got),
            "Your error is nan or infinite, although no image's output is 0 everywhere. Take one norm for each "
            "image, over all numbers of its output, and divide norm by norm.",
        )
        expect(got > 0, "A map that does not commute with the move must have an error above 0.")
        close(
            got,
            equivariance_error(f, x, move_in, move_out),
            "The error is the norm of the difference over the norm of move_out(f(x)), one ratio for each "
            "image, then their mean",
            tol=1e-5,
        )
    oblong = _random(2, 2, 4, 7, seed=2)
    close(
        ask(_blur, oblong, _p4m(3), _p4m(3)),
        equivariance_error(_blur, oblong, _p4m(3), _p4m(3)),
        "A picture need not be square",
        tol=1e-5,
    )


def _check_error_scale(ask: Ask) -> None:
    x, turn = _uneven_batch(), _p4m(1)
    close(
        ask(lambda v: 1000 * _blur(v), x, turn, turn),
        ask(_blur, x, turn, turn),
        "The error is relative: multiplying the map by 1000 changes nothing",
        tol=1e-5,
    )


def _check_error_of_nothing(ask: Ask) -> None:
    got = ask(lambda v: torch.zeros_like(v), _uneven_batch(), _p4m(1), _p4m(1))
    expect(
        not math.isfinite(got),
        "The map that returns 0 for every picture commutes with everything and has seen nothing. 0/0 is no "
        "error of 0: return nan for it.",
    )


def _check_correlate_shifts(ask: Ask) -> None:
    x, w = _random(2, 3, 6, 7), _random(4, 3, 3, 3, seed=1)
    y = ask(x, w)
    close(
        ask(x.roll((2, -3), (-2, -1)), w),
        y.roll((2, -3), (-2, -1)),
        "Shifting the input and then filtering must equal filtering and then shifting, borders included: "
        "the grid wraps around",
        tol=1e-6,
    )
    sensitive(lambda v: ask(v, w), x, what="your filter")


def _check_correlate_dot(ask: Ask) -> None:
    dot = torch.zeros(1, 1, 5, 6, dtype=torch.float64)
    dot[0, 0, 2, 3] = 1
    w = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 1, 3, 3)
    y = ask(dot, w)
    expect(
        abs(float(y.sum() - w.sum())) < 1e-3, "A single bright pixel must show every tap of the filter once."
    )
    expect(
        abs(float(y[0, 0, 2, 3] - w[0, 0, 1, 1])) < 1e-3,
        "The middle tap of the filter belongs to the pixel itself.",
    )
    close(
        y[0, 0, 1:4, 2:5],
        w[0, 0].flip((0, 1)),
        "w[u, v] multiplies the pixel u − 1 rows below and v − 1 columns to the right of the one computed "
        "(3 x 3 taps), so a single bright pixel shows the filter turned by 180°",
        tol=1e-6,
    )


def _check_correlate_numbers(ask: Ask) -> None:
    cases = [
        (_random(2, 3, 6, 7), _random(4, 3, 3, 3, seed=1)),
        (_random(1, 2, 5, 8), _random(3, 2, 1, 5, seed=2)),
        (_random(3, 1, 7, 4), _random(1, 1, 5, 3, seed=3)),
        (_random(2, 2, 4, 5), _random(2, 2, 1, 1, seed=4)),
    ]
    agrees(lambda x, w: ask(x, w), _correlate_padded, cases, what="your filter", tol=1e-6)
    single = (_random(1, 2, 5, 6).float(), _random(2, 2, 3, 3, seed=5).float())
    agrees(lambda x, w: ask(x, w), _correlate_padded, [single], what="your filter")
    depends(
        lambda x, p: ask(x, p["w"]),
        lambda x, p: _correlate_padded(x, p["w"]),
        _random(2, 2, 5, 6),
        {"w": _random(2, 2, 3, 3, seed=6)},
    )


# p4m in an order of our own, with the identity not in front.
_SHUFFLED = (3, 6, 0, 5, 1, 7, 4, 2)


def _moves(elements: Sequence[int]) -> list[Move]:
    return [_p4m(a) for a in elements]


def _check_table_action(ask: Ask) -> None:
    x = _random(1, 1, 5, 7)
    for elements in ((0, 1, 2, 3), tuple(range(8)), _SHUFFLED):
        moves = _moves(elements)
        table = ask(moves)
        expect(
            bool(((table >= 0) & (table < len(moves))).all()),
            "These moves are closed: doing two of them is always one of them, so every entry is an index "
            "into the list.",
        )
        for a, move_a in enumerate(moves):
            for b, move_b in enumerate(moves):
                expect(
                    torch.equal(move_a(move_b(x)), moves[int(table[a, b])](x)),
                    "Your table names the wrong element for a product. table[a, b] is the move that equals "
                    "moves[b] first, moves[a] second, on every picture.",
                )


def _check_table_open(ask: Ask) -> None:
    for elements in ((0, 1, 4), (2, 5), (7,)):
        moves = _moves(elements)
        table, wanted = ask(moves), product_table(moves)
        if bool((table[wanted == -1] >= 0).any()):
            # Said before anything else is compared: what stands there may be any index, or a random one.
            wrong("Where the product is not in the list your table names an element all the same. Write −1.")
        close(
            table,
            wanted,
            "A product that is none of the given moves is written as −1: the list is then no group",
        )


def _check_inverses(ask: Ask) -> None:
    tables = [
        P4M.table,
        product_table(_moves(_SHUFFLED)),
        P4.table,
        (torch.arange(5)[:, None] + torch.arange(5)) % 5,
        (torch.arange(7)[:, None] + torch.arange(7) + 3)
        % 7,  # shifts of a ring of 7, numbered from another start
        torch.zeros(1, 1, dtype=torch.long),
    ]
    for table in tables:
        n = len(table)
        found = ask(table)
        expect(
            bool(((found >= 0) & (found < n)).all()),
            "Every inverse is an element: an index from 0 to n − 1.",
        )
        e = next(k for k in range(n) if torch.equal(table[k], torch.arange(n)))
        expect(
            torch.equal(table[torch.arange(n), found], torch.full((n,), e)),
            "An element times its inverse must be the identity, the element e with table[e, b] = b for "
            "every b.",
        )


def _loss_case(classes: int, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    logits = 2 * _random(shape[0], classes, *shape[1:], seed=seed)
    target = torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))
    return logits, target


def _check_loss_properties(ask: Ask) -> None:
    logits, target = _loss_case(3, (2, 4, 7), 0)
    perfect = 40 * F.one_hot(target, 3).movedim(-1, 1).double()
    good, bad = ask(perfect, target), ask(-perfect, target)
    expect(abs(float(good)) < 1e-6, "A perfect and confident prediction must cost 0.")
    expect(float(bad) > float(good), "A wrong prediction must cost more than a right one.")
    offset = _random(2, 1, 4, 7, seed=9)
    close(
        ask(logits + offset, target),
        ask(logits, target),
        "Adding one number to all class scores of a pixel changes no probability, so it must not change "
        "the loss",
    )
    close(
        ask(P4M.act(logits, 5), P4M.act(target, 5)),
        ask(logits, target),
        "Turning prediction and target together must not change the loss",
    )


def _check_loss_values(ask: Ask) -> None:
    cases = [_loss_case(3, (2, 4, 7), 0), _loss_case(2, (1, 5, 5), 1), _loss_case(4, (3, 3, 6), 2)]
    logits, target = _loss_case(3, (2, 4, 6), 3)
    cases.append((logits, target.clamp_max(1)))  # no pixel of class 2
    images = _loss_case(2, (2, 4, 6), 4)
    images[1][0] = 0  # a class that only one image of the batch has
    cases.append(images)
    for logits, target in cases:
        close(
            ask(logits, target),
            dice_cross_entropy(logits, target),
            f"The loss is the mean cross-entropy plus one minus the mean soft Dice of the {logits.shape[1]} "
            "classes",
            tol=1e-6,
        )


def _check_loss_stable(ask: Ask) -> None:
    logits, target = _loss_case(3, (2, 4, 5), 5)
    close(
        ask(logits + 1000, target),
        dice_cross_entropy(logits + 1000, target),
        "Class scores around a thousand are legal: subtract the largest score before exp, or use log_softmax",
        tol=1e-6,
    )
    huge = 1e4 * logits
    close(
        ask(huge, target),
        dice_cross_entropy(huge, target),
        "Class scores of ten thousand are legal: subtract the largest score before exp, or use log_softmax",
        tol=1e-6,
    )


def _check_loss_gradient(ask: Ask) -> None:
    logits, target = _loss_case(3, (2, 4, 5), 6)
    free = logits.clone().requires_grad_()
    (want,) = torch.autograd.grad(dice_cross_entropy(free, target), free)
    got = ask.gradient(logits, target)
    expect(
        got is not None,
        "A network learns from the gradient of its loss, and yours has none: stay in torch, without argmax.",
    )
    close(
        got,
        want,
        "The gradient with respect to the logits must flow through both terms of the loss",
        tol=1e-6,
    )


def _check_average_equivariant(ask: Ask) -> None:
    moves = _moves(_SHUFFLED)
    inverse = inverses(product_table(moves))

    def mean(x: Tensor) -> Tensor:
        return ask(_blur, x, moves, inverse, True)

    x = _random(2, 2, 5, 5)
    commutes(mean, x, [(P4M.label(a), _p4m(a), _p4m(a)) for a in (1, 4)], what="the averaged map", tol=1e-6)
    expect(float(mean(x).std()) > 0, "The averaged map must still see the picture.")


def _check_average_invariant(ask: Ask) -> None:
    x = _random(2, 2, 5, 5, seed=1)
    moves = _moves(_SHUFFLED)
    inverse = inverses(product_table(moves))
    close(
        ask(_summary, P4M.act(x, 1), moves, inverse, False),
        ask(_summary, x, moves, inverse, False),
        "With planar=False the averaged scores must not change at all when the picture is turned",
        tol=1e-6,
    )


def _check_average_numbers(ask: Ask) -> None:
    square, oblong = _random(2, 2, 5, 5, seed=2), _random(3, 1, 4, 6, seed=3)
    for elements, x, f, planar in (
        (_SHUFFLED, oblong, _blur, True),
        (range(8), square, _summary, False),
        (range(4), square, _blur, True),
        (range(4), oblong, _summary, False),
        ((0, 4), oblong, _blur, True),
    ):
        moves = _moves(elements)
        inverse = inverses(product_table(moves))
        close(
            ask(f, x, moves, inverse, planar),
            average_over_group(f, x, moves, inverse, planar),
            f"The average runs over all {len(moves)} moves: move the picture, ask f"
            + (", move the answer back" if planar else ""),
            tol=1e-6,
        )
    already = ask(lambda v: v * v, oblong, _moves(range(8)), P4M.inverses, True)
    close(already, oblong**2, "A map that is already equivariant must come out unchanged", tol=1e-6)


# ---------------------------------------------------------------------------------------------- exercises

MOVE = Exercise(
    name="move",
    lesson=LESSON,
    title="Move a tile",
    points=2,
    objective="Move an image and its label map by every element of p4m, without touching a single pixel "
    "value.",
    statement="""
Write `move(x, r, m)`: if `m` is true, mirror the picture left-right; after that, turn it by `r` quarter
turns counter-clockwise.

- `x`: tensor of shape (..., H, W) with any leading axes, or none; H and W may differ; any dtype (images
  are floats, label maps integers, masks bool).
- `r`: any whole number, also negative; only r modulo 4 matters. `m`: bool.
- Returns the moved picture: (..., H, W) for even r, (..., W, H) for odd r, dtype as in `x`. `x` itself
  stays as it is.
""".strip(),
    reference=move,
    alternatives=(_move_by_transposes, _move_by_index, _move_pixel_by_pixel, _move_with_numpy),
    misconceptions=(
        Misconception(
            _move_clockwise,
            "You turn clockwise. A counter-clockwise quarter turn takes the right edge of the picture to "
            "the top.",
        ),
        Misconception(
            _move_turn_then_mirror,
            "You turn first and mirror afterwards. The two do not commute: mirror first, then turn.",
        ),
        Misconception(
            _move_mirror_rows,
            "You mirror top-bottom. Left-right means that the columns, the last axis, change order.",
        ),
        Misconception(
            _move_first_axes,
            "You turn the first two axes of the tensor. Rows and columns are the last two, axes −2 and −1; "
            "batch and channels come before them.",
        ),
        Misconception(
            _move_by_transpose,
            "Swapping rows and columns is not a turn but a mirror at the diagonal: handedness changes. A "
            "quarter turn is a transpose and a flip.",
        ),
        Misconception(
            _move_ignores_mirror, "You never mirror: the argument m has no effect in your function."
        ),
        Misconception(_move_ignores_turn, "You never turn: the argument r has no effect in your function."),
        Misconception(
            _move_once,
            "You turn at most once. r counts the quarter turns: r = 2 is upside down, r = 3 three quarters "
            "round.",
        ),
        Misconception(
            _move_fliplr,
            "torch.fliplr flips axis 1, whatever the number of axes. Here the columns are the last axis: flip(-1).",
        ),
        Misconception(
            _move_loop_over_r,
            "Your loop over range(r) does nothing for a negative r. Only r modulo 4 matters: use r % 4.",
        ),
        Misconception(
            _move_interpolated,
            "You interpolate between pixels. On a square grid a quarter turn maps pixels onto pixels: "
            "every value must be copied as it is, or labels 3 and 7 blend into a class 5 that is not there.",
        ),
        Misconception(
            _move_to_float,
            "You turn everything into floats. Label maps and masks must keep their dtype, and float32 "
            "cannot even hold the label 16777217.",
        ),
        Misconception(
            _move_keeps_shape,
            "You force the old shape onto the turned picture. After a quarter turn a picture of H rows and "
            "W columns has W rows and H columns.",
        ),
    ),
    hints=(
        "Two steps, in this order: mirror, then turn. Which axis of the tensor runs from left to right?",
        "`torch.flip` reverses axes that you name, `torch.rot90` turns in a plane of two axes that you "
        "name. Name them from the end (−2 and −1), and leading axes take care of themselves.",
        "If m: `x = x.flip(-1)`. Then `torch.rot90(x, r, (a, b))`, with (a, b) such that the right edge "
        "goes to the top.",
    ),
    checks=(_check_move_grid, _check_move_turns, _check_move_labels, _check_move_batches),
)

MOVE_POINTS = Exercise(
    name="move_points",
    lesson=LESSON,
    title="Move the points with the tile",
    points=2,
    objective="Move annotated points along with the image they belong to.",
    statement="""
Write `move_points(points, r, m, height, width)`: where do annotated points lie after `move(image, r, m)`?

- `points`: float tensor of shape (N, 2), each row one point (row, column) in an image of `height` rows
  and `width` columns. The centre of the top left pixel is (0, 0), that of the bottom right pixel (height
  − 1, width − 1). Points may lie between pixel centres; N may be 0.
- `r`: any whole number. `m`: bool. First mirror left-right if `m`, then turn by `r` quarter turns
  counter-clockwise.
- Returns the (row, column) of each point in the moved image: shape (N, 2), dtype as in `points`. `points`
  itself stays as it is.
""".strip(),
    reference=move_points,
    alternatives=(_points_about_the_centre, _points_from_table, _points_complex),
    misconceptions=(
        Misconception(
            _points_off_by_one,
            "You are off by one. Pixel centres run from 0 to width − 1, so the mirror image of column 0 is "
            "column width − 1: a point at width would lie outside.",
        ),
        Misconception(
            _points_loop_over_r,
            "For a negative r your points do not turn at all: range(r) is empty. Only r modulo 4 matters.",
        ),
        Misconception(
            _points_ignore_mirror, "Your points turn but never mirror. If m is true, mirror left-right first."
        ),
        Misconception(
            _points_mirror_off_by_one,
            "Your mirror is off by one: column 0 goes to column width − 1, the last there is, not to width.",
        ),
        Misconception(
            _points_turn_off_by_one,
            "Your turn is off by one: column 0 becomes row width − 1, the last there is, not row width.",
        ),
        Misconception(
            _points_clockwise,
            "Your points turn clockwise while the picture turns counter-clockwise: the top right corner "
            "must become the top left one.",
        ),
        Misconception(
            _points_turn_then_mirror,
            "You turn first and mirror afterwards: the picture does it the other way round.",
        ),
        Misconception(
            _points_square_only,
            "You forget that a quarter turn swaps height and width: before the second turn the picture has "
            "another width.",
        ),
        Misconception(
            _points_same_centre,
            "You turn about the old centre. The turned picture of H rows and W columns has W rows and H "
            "columns, and its centre lies elsewhere.",
        ),
        Misconception(
            _points_about_the_corner,
            "You turn about the pixel (0, 0). The picture turns about its centre, and your points get "
            "negative coordinates.",
        ),
        Misconception(
            _points_x_first,
            "You read the points as (column, row). They are (row, column), like the indices of a tensor.",
        ),
        Misconception(_points_mirror_rows, "You mirror the rows. Left-right mirroring changes columns only."),
        Misconception(
            _points_rounded,
            "You round to whole pixels. Points may lie between pixel centres, and must move as they are.",
        ),
    ),
    hints=(
        "Do one move at a time. Draw a picture of 2 rows and 3 columns, put a dot in one corner, and "
        "follow it.",
        "Mirroring leaves the row and sends column c to width − 1 − c. For one quarter turn: which old "
        "coordinate becomes the new column, and which one, counted from the other end, the new row?",
        "One counter-clockwise quarter turn: (row, column) → (width − 1 − column, row). Do it r % 4 times, "
        "and swap height and width each time.",
    ),
    checks=(_check_points, _check_points_between),
)

EQUIVARIANCE_ERROR = Exercise(
    name="equivariance_error",
    lesson=LESSON,
    title="Measure equivariance",
    points=2,
    objective="Measure how far a map is from equivariant, or from invariant, with one number.",
    statement=r"""
Write `equivariance_error(f, x, move_in, move_out)`: the mean over the batch of the relative error

$$\varepsilon = \frac1B \sum_{i=1}^{B} \frac{\lVert f(T x_i) - T' f(x_i) \rVert}{\lVert T' f(x_i) \rVert}$$

- `f`: a function from a batch to a batch; axis 0 of its output is the batch, and at least one more axis
  follows. Its output may have another shape than `x`.
- `x`: float tensor (B, C, H, W). `move_in` is $T$, a function that moves inputs; `move_out` is $T'$, a
  function that moves outputs.
- $\lVert\cdot\rVert$ is the Euclidean norm over all numbers of one image's output.
- Returns one number (a Python float or a tensor without axes). Where $f$ is 0 for every picture the error
  is 0/0: return nan, not 0.
""".strip(),
    reference=equivariance_error,
    alternatives=(_error_with_sums, _error_with_numpy, _error_in_a_loop),
    misconceptions=(
        Misconception(
            _error_invariance,
            "You compare f(Tx) with f(x): that measures invariance. For equivariance the output has to "
            "move too: compare with move_out(f(x)).",
        ),
        Misconception(
            _error_moves_with_move_in,
            "You move the output with move_in. Outputs may move in another way than inputs (a stride "
            "halves a shift; a diagnosis does not move at all): use move_out.",
        ),
        Misconception(
            _error_moves_input_twice,
            "You apply move_out to the input. It belongs after f: compare f(move_in(x)) with move_out(f(x)).",
        ),
        Misconception(
            _error_moves_both,
            "You also apply move_out to f(move_in(x)). That output has moved already; only f(x) still has "
            "to.",
        ),
        Misconception(
            _error_absolute,
            "You do not divide. Without the norm of move_out(f(x)) a map with large outputs looks worse "
            "than it is.",
        ),
        Misconception(
            _error_mean_square,
            "You return a mean squared difference. Wanted is a relative error: norm of the difference over "
            "norm of the output.",
        ),
        Misconception(
            _error_squared,
            "You return the squared ratio. Take the norms, not their squares (papers use both; this "
            "exercise the unsquared one).",
        ),
        Misconception(
            _error_by_input,
            "You divide by the norm of the input. Divide by the norm of the output, move_out(f(x)).",
        ),
        Misconception(
            _error_signed,
            "You add signed differences, and they cancel: a wrong output can come out as error 0. Take the "
            "norm.",
        ),
        Misconception(
            _error_whole_batch,
            "You take one norm over the whole batch, so bright images drown faint ones. Wanted is one "
            "ratio for each image, then the mean.",
        ),
        Misconception(
            _error_norm_over_channels,
            "Your norm runs over the channels alone and gives one ratio for each pixel. Wanted is one norm for "
            "each image, over all numbers of its output: flatten(1) first.",
        ),
        Misconception(
            _error_summed, "You add up the ratios of the images. Wanted is their mean over the batch."
        ),
        Misconception(
            _error_of_absolute_values,
            "You add absolute values. The norm is the Euclidean one: the root of the sum of squares.",
        ),
        Misconception(
            _error_of_the_worst,
            "You return the largest ratio of the batch. Wanted is the mean over its images.",
        ),
        Misconception(
            _error_divides_by_moved,
            "You divide by the norm of f(move_in(x)). The one to divide by is that of move_out(f(x)).",
        ),
        Misconception(
            _error_forgets_move_in,
            "You compare move_out(f(x)) with f(x): nothing has moved the input. One of the two roads is "
            "f(move_in(x)).",
        ),
        Misconception(
            _error_number_by_number,
            "You divide number by number. Take the norm of the difference and the norm of move_out(f(x)) of "
            "each image first, then divide.",
        ),
        Misconception(
            _error_forgives_zero,
            "Your error of the zero map is 0: a map that never looks at the picture passes as perfectly "
            "equivariant. Adding a small number to the denominator hides 0/0; let it be nan.",
        ),
    ),
    hints=(
        "Follow the two paths to the same place: move, then map; and map, then move. You need both results "
        "before you compare.",
        "`flatten(1)` turns each image's output into one row. `.norm(dim=1)` then gives one norm for each "
        "image.",
        "a = f(move_in(x)).flatten(1), b = move_out(f(x)).flatten(1); the ratio of (a − b).norm(dim=1) to "
        "b.norm(dim=1), then the mean.",
    ),
    checks=(_check_error_zero, _check_error_value, _check_error_scale, _check_error_of_nothing),
    free=frozenset({"nan"}),
)

CORRELATE = Exercise(
    name="correlate",
    lesson=LESSON,
    title="Convolution from shifts",
    points=3,
    objective="Explain by experiment why convolution commutes with shifts, and what breaks that.",
    statement=r"""
Write `correlate(x, w)`: the layer that torch calls convolution, on a grid that wraps around at its
borders:

$$y_{b,o}[i,j] = \sum_{c,u,v} w_{o,c}[u,v]\; x_{b,c}\big[(i + u - \lfloor k_h/2 \rfloor) \bmod H,\
(j + v - \lfloor k_w/2 \rfloor) \bmod W\big]$$

- `x`: float tensor (B, C, H, W). `w`: float tensor (O, C, k_h, k_w), same dtype; k_h and k_w are odd, may
  differ, and are no larger than H and W.
- The sum runs over all channels c and all taps: u = 0 … k_h − 1, v = 0 … k_w − 1.
- Returns `y`: (B, O, H, W), dtype as in `x`. Neither input is changed.
""".strip(),
    reference=correlate,
    alternatives=(_correlate_padded, _correlate_fft, _correlate_by_gather, _correlate_seven_loops),
    misconceptions=(
        Misconception(
            _correlate_flipped_kernel,
            "You filter with the kernel turned by 180°, or shift the wrong way. torch.roll(x, 1) brings "
            "pixel i − 1 to place i; the formula asks for pixel i + u − ⌊k/2⌋.",
        ),
        Misconception(
            _correlate_zero_padding,
            "Your borders see zeros. Here the grid wraps around: what leaves on the right comes in on the "
            "left.",
        ),
        Misconception(
            _correlate_valid,
            "You compute only where the whole kernel fits, and the output shrinks. It must have the size "
            "of the input.",
        ),
        Misconception(
            _correlate_off_centre,
            "Your kernel is not centred: its top left tap sits on the pixel. Subtract ⌊k/2⌋, so that the "
            "middle tap does.",
        ),
        Misconception(
            _correlate_rolls_first_axes,
            "You roll the axes 0 and 1, batch and channels. Rows and columns are the last two: dims=(-2, -1).",
        ),
        Misconception(
            _correlate_first_channel,
            "You use the first input channel only. The sum runs over all channels c.",
        ),
        Misconception(
            _correlate_mean_channels, "You take the mean over the input channels. The formula has a sum."
        ),
        Misconception(
            _correlate_transposed_kernel,
            "You swap the kernel's rows and columns: w[..., u, v] belongs to a step of u rows and v columns.",
        ),
        Misconception(
            _correlate_centre_tap,
            "You use the middle tap only. Every tap of the kernel has a shifted picture of its own.",
        ),
        Misconception(
            _correlate_sums_filters,
            "You add the filters up: every output channel is the same. Output channel o uses w[o] alone.",
        ),
        Misconception(
            _correlate_reflect,
            "Your borders are mirrored. Here the grid wraps around: what leaves on the right comes in on "
            "the left.",
        ),
    ),
    hints=(
        "Turn the loops inside out: do not walk over pixels. For one tap (u, v) the sum needs the whole "
        "picture, shifted once.",
        "`torch.roll(x, (a, b), dims=(-2, -1))` moves everything a rows down and b columns to the right. "
        "Which a brings pixel i + u − ⌊k_h/2⌋ to place i?",
        "For each u, v: shifted = roll by (k_h//2 − u, k_w//2 − v); add the sum over c of w[o, c, u, v] · "
        "shifted[b, c]. `torch.einsum('oc,bchw->bohw', ...)` does the channels.",
    ),
    checks=(_check_correlate_shifts, _check_correlate_dot, _check_correlate_numbers),
)

PRODUCT_TABLE = Exercise(
    name="product_table",
    lesson=LESSON,
    title="A multiplication table from the action alone",
    points=3,
    objective="Derive the multiplication table of a group from the action of its elements.",
    statement="""
Write `product_table(moves)`: who is who, when one move follows another?

- `moves`: a list of n different functions. Each takes a tensor of shape (B, C, H, W), any sizes, and
  returns the moved picture. Each is one of the eight turns and mirrors, in an order that you do not know.
- Returns an int64 tensor of shape (n, n). `table[a, b]` is the index c for which `moves[c](x)` equals
  `moves[a](moves[b](x))` for every picture x: b acts first, then a. Where no move in the list does that,
  the entry is −1.
""".strip(),
    reference=product_table,
    alternatives=(_table_by_dictionary, _table_by_permutation, _table_from_noise),
    misconceptions=(
        Misconception(
            _table_other_order,
            "Your table is transposed: table[a, b] lets b act first and a second, as in "
            "moves[a](moves[b](x)).",
        ),
        Misconception(
            _table_symmetric_probe,
            "Your test picture looks the same after every move, so it cannot tell them apart. Take one in "
            "which all pixels differ.",
        ),
        Misconception(
            _table_by_pixel_sum,
            "You compare a summary of the pictures (such as their sum) that no move changes. Compare them "
            "pixel by pixel.",
        ),
        Misconception(
            _table_adds_indices,
            "You add indices. That works for turns in their natural order; mirrors do not add up, and the "
            "list may come in any order.",
        ),
        Misconception(
            _table_by_formula,
            "You compute from index numbers, as if move 4m + r were known to be at place 4m + r. The list "
            "may come in any order: let the moves act and look.",
        ),
        Misconception(
            _table_zero_where_open,
            "Where the product is not in the list you write 0, and 0 is an element. Write −1 there.",
        ),
        Misconception(
            _table_compares_with_second,
            "Your table does not depend on b: let moves[b] act first, then moves[a].",
        ),
        Misconception(
            _table_inverse_second,
            "Your entry answers another question: which c gives a·c = b. Wanted is the product itself, c = "
            "a·b.",
        ),
    ),
    hints=(
        "You cannot look into the functions, but you can let them act. Choose a picture on which no two of "
        "the eight moves look alike.",
        "Keep the picture that each single move makes. Then make each double move, and look it up among "
        "the single ones.",
        "probe = torch.arange(12.).reshape(1, 1, 3, 4); `torch.equal(p, q)` is False when shapes differ. "
        "Start from a table full of −1.",
    ),
    checks=(_check_table_action, _check_table_open),
    seconds=4.0,  # three nested loops, each move asked again and again, are right too
)

INVERSES = Exercise(
    name="inverses",
    lesson=LESSON,
    title="Undo every move",
    points=1,
    objective="Find the inverse of every element of a group.",
    statement="""
Write `inverses(table)`: which element undoes which?

- `table`: int64 tensor of shape (n, n), the multiplication table of a group whose elements are 0 to n − 1
  in any order: `table[a, b]` is the product a·b. The identity is the one element e with `table[e, b] ==
  b` for every b. It need not be element 0.
- Returns an int64 tensor of shape (n,): entry a is the b with a·b = e.
""".strip(),
    reference=inverses,
    alternatives=(_inverses_by_loops, _inverses_by_powers, _inverses_by_nonzero),
    misconceptions=(
        Misconception(
            _inverses_identity_first,
            "You take element 0 for the identity. Look for the element that leaves all others as they are; "
            "it can be anywhere in the list.",
        ),
        Misconception(
            _inverses_all_their_own,
            "You return every element as its own inverse. That holds for mirrors and half turns, not for "
            "quarter turns.",
        ),
        Misconception(
            _inverses_negated,
            "You negate indices modulo n. That fits turns in their natural order only: read it off the "
            "table.",
        ),
        Misconception(
            _inverses_squares,
            "You return a·a, the diagonal of the table. Wanted is the b for which a·b is the identity.",
        ),
        Misconception(
            _inverses_mirrors_too,
            "You invert the turn and keep the mirror. A mirror followed by a turn undoes itself, whatever "
            "the turn.",
        ),
        Misconception(
            _inverses_order,
            "You return how often an element must act to give the identity: its order, not its inverse.",
        ),
        Misconception(
            _inverses_as_mask,
            "You return the whole table of hits. Wanted is one index for each element: the column of the "
            "hit.",
        ),
    ),
    hints=(
        "First find the identity: its row of the table is 0, 1, 2, … n − 1.",
        "Row a of the table lists all products a·b. In which column does the identity stand?",
        "`(table == e)` has one True in every row. `.int().argmax(dim=1)` says where.",
    ),
    checks=(_check_inverses,),
)

DICE_CROSS_ENTROPY = Exercise(
    name="dice_cross_entropy",
    lesson=LESSON,
    title="The loss: every pixel, and every region",
    points=3,
    objective="Train a segmentation network as a pixel classifier with the Dice and cross-entropy loss.",
    statement=r"""
Write `dice_cross_entropy(logits, target)` $= \text{CE} + 1 - \text{Dice}$ with $p = \text{softmax over
the classes}$:

$$\text{CE} = -\frac{1}{N}\sum_{\text{pixels}} \log p_{\,\text{target}}, \qquad
\text{Dice} = \frac1K \sum_{k=1}^{K} \frac{2 \sum p_k y_k + 1}{\sum p_k + \sum y_k + 1}$$

- `logits`: float tensor (B, K, H, W), one score for each of K ≥ 2 classes. `target`: int64 tensor (B, H,
  W) with values 0 to K − 1.
- $y_k$ is 1 where the target is $k$, else 0. N counts the pixels of the whole batch, and the sums in Dice
  run over all of them. The 1 keeps a class that is absent from dividing 0 by 0.
- Returns a tensor without axes, dtype as in `logits`, through which gradients flow to the logits. Logits
  of ±10⁴ must not give inf or nan.
""".strip(),
    reference=dice_cross_entropy,
    alternatives=(_loss_with_library, _loss_by_hand),
    misconceptions=(
        Misconception(
            _loss_unstable,
            "Your exp overflows: exp(1000) is infinite. Subtract the largest score first, or use "
            "log_softmax, which does so for you.",
        ),
        Misconception(
            _loss_log_of_plain_softmax,
            "The softmax of a very low score rounds to 0, and the log of 0 is −inf. Never take the log of a "
            "softmax: log_softmax gives it in one stable step.",
        ),
        Misconception(
            _loss_softmax_twice,
            "You hand probabilities to F.cross_entropy. It wants the raw scores and applies the softmax itself.",
        ),
        Misconception(
            _loss_dice_wrong_axis,
            "The softmax in your Dice runs along a row of pixels. The classes are axis 1.",
        ),
        Misconception(
            _loss_reshaped_target,
            "reshape does not move an axis, it cuts the same numbers into other pieces. Bring the classes of the "
            "one-hot target to axis 1 with movedim(-1, 1).",
        ),
        Misconception(
            _loss_log_of_softmax,
            "You take the log of a softmax with a small number added. Where p rounds to 0 the "
            "cross-entropy stops growing and its gradient vanishes. Use log_softmax.",
        ),
        Misconception(
            _loss_wrong_axis,
            "Your softmax runs along a row of pixels. Classes are axis 1: the scores of one pixel compete "
            "with each other.",
        ),
        Misconception(
            _loss_adds_dice, "You add Dice itself, so a better overlap raises the loss. Add 1 − Dice."
        ),
        Misconception(
            _loss_without_two,
            "Your Dice lacks the factor 2 in its numerator: a perfect prediction would get about one half.",
        ),
        Misconception(
            _loss_hard_dice,
            "Your Dice compares hard decisions (argmax). They do not change under a small step of the "
            "weights, so no gradient flows. Use the probabilities.",
        ),
        Misconception(
            _loss_only_cross_entropy, "This is the cross-entropy alone. The Dice term, 1 − Dice, is missing."
        ),
        Misconception(_loss_only_dice, "This is the Dice term alone. The cross-entropy is missing."),
        Misconception(
            _loss_dice_per_image,
            "You compute Dice image by image and average. Here its sums run over all pixels of the batch, "
            "one Dice for each class.",
        ),
        Misconception(
            _loss_dice_over_classes,
            "You put all classes into one Dice, so the largest class decides. Compute one Dice for each "
            "class, then the mean.",
        ),
        Misconception(
            _loss_of_intersection_over_union,
            "You divide by the union, which gives the Jaccard index. Dice is twice the overlap over the sum of "
            "the two areas.",
        ),
        Misconception(
            _loss_squares_probabilities,
            "You square the probabilities in the denominator, as some papers do. Here the areas are plain sums "
            "of p and of y.",
        ),
        Misconception(
            _loss_sums_classes,
            "You add up 1 − Dice over the classes. Wanted is one minus the mean Dice of the K classes.",
        ),
        Misconception(
            _loss_skips_background, "You leave class 0 out of the Dice mean. All K classes count here."
        ),
        Misconception(
            _loss_no_smoothing,
            "The + 1 in numerator and denominator of Dice is missing: a class that is absent must not "
            "count as a total miss.",
        ),
        Misconception(
            _loss_sums_pixels,
            "You sum the cross-entropy over the pixels. Take the mean, or the loss grows with the tile.",
        ),
        Misconception(
            _loss_dice_of_logits,
            "Your Dice uses the raw scores. They are no probabilities: apply the softmax first.",
        ),
        Misconception(
            _loss_sigmoid,
            "Your Dice uses a sigmoid for each class. With exclusive classes the probabilities must add up "
            "to 1: softmax.",
        ),
    ),
    hints=(
        "Write the two terms apart, test each on a target that you predict perfectly, and add them at the "
        "end.",
        "`F.cross_entropy` is allowed. For Dice you need p (softmax over axis 1) and y (one-hot target "
        "with the classes moved to axis 1), and sums over the axes 0, 2 and 3.",
        "y = F.one_hot(target, K).movedim(-1, 1); dice = (2·(p·y).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) "
        "+ y.sum((0, 2, 3)) + 1); then CE + 1 − dice.mean().",
    ),
    checks=(_check_loss_properties, _check_loss_values, _check_loss_stable, _check_loss_gradient),
)

AVERAGE_OVER_GROUP = Exercise(
    name="average_over_group",
    lesson=LESSON,
    title="Ask from all sides",
    points=3,
    objective="Make any network exactly equivariant by averaging over a group, and name the price.",
    statement=r"""
Write `average_over_group(f, x, moves, inverse, planar)`:

$$\bar f(x) = \frac{1}{|G|} \sum_{g \in G} g^{-1} f(g\,x) \ \text{ if planar}, \qquad
\bar f(x) = \frac{1}{|G|} \sum_{g \in G} f(g\,x)\ \text{ if not.}$$

- `f`: a function from a batch of pictures (B, C, H, W) to a batch: of maps (B, K, H, W) with the rows and
  columns of its input if `planar` is true, of scores (B, K) if not.
- `x`: float tensor (B, C, H, W); H and W may differ, and f takes pictures of either shape.
- `moves`: a list of |G| functions that move pictures or maps, in any order, together a group. `inverse`:
  int64 tensor; `moves[inverse[g]]` undoes `moves[g]`.
- Returns what f returns: a tensor of the same shape and dtype as `f(x)`.
""".strip(),
    reference=average_over_group,
    alternatives=(_average_summed, _average_from_the_other_side, _average_running),
    misconceptions=(
        Misconception(
            _average_never_back,
            "You average maps that lie in eight different poses: the pixels on top of each other are not "
            "the same tissue. Move each answer back before you add.",
        ),
        Misconception(
            _average_stacks_poses,
            "You stack the answers in the poses in which f gave them. Move each answer back first; then all have "
            "the shape of the picture, and their pixels show the same tissue.",
        ),
        Misconception(
            _average_back_with_g,
            "You move the answers on by g instead of back: that undoes mirrors and half turns, and turns a "
            "quarter turn into a half turn. Use moves[inverse[g]].",
        ),
        Misconception(_average_sum, "You return the sum. Divide by the number of moves."),
        Misconception(_average_maximum, "You return the largest answer. Wanted is the mean over the group."),
        Misconception(
            _average_of_inputs,
            "You average the pictures and ask once. f is not linear: the answer to a blend of eight "
            "pictures is not the blend of eight answers.",
        ),
        Misconception(
            _average_moves_outputs_only,
            "You ask f about the upright picture only, and move its answer about. f must see the picture "
            "in every pose.",
        ),
        Misconception(
            _average_skips_first,
            "You leave the first move of the list out. All of them count, and the identity may be any of "
            "them.",
        ),
        Misconception(
            _average_planar_always,
            "You move scores as if they were maps. With planar=False the answer has no rows and columns: "
            "nothing is to be moved back.",
        ),
        Misconception(
            _average_ignores_planar,
            "You move the answer back whatever planar says. Scores (B, K) have no rows and columns: with "
            "planar=False leave them as they are.",
        ),
    ),
    hints=(
        "Walk over the moves. For each: move the picture, ask f, and think about where the answer lies now.",
        "The answer to a moved picture is a moved answer. `moves[inverse[g]]` brings a map back; a score "
        "needs no bringing back.",
        "Add up moves[inverse[g]](f(moves[g](x))) for all g, or f(moves[g](x)) if not planar, and divide "
        "by len(moves).",
    ),
    checks=(_check_average_equivariant, _check_average_invariant, _check_average_numbers),
)
