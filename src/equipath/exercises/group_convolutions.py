"""What lesson 3 asks of the student: feature maps on p4 and p4m, the convolutions between them, and P4M-DenseNet.

Ten exercises in the order of `course/03_group_convolutions.py`, each with its solutions, known slips and checks.
Conventions are those of `equipath.groups`: element 4 m + r first mirrors left-right if m, then turns by r quarter
turns counter-clockwise; a regular field is (B, C, n, H, W) with one plane for each of n = 4 or 8 elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.check import (
    Ask,
    Exercise,
    Misconception,
    agrees,
    batched,
    close,
    commutes,
    depends,
    equivariant_map,
    expect,
    sensitive,
)
from equipath.groups import P4, P4M, Group
from equipath.kernels.regular import regular_taps
from equipath.nn.group import GroupBatchNorm2d, GroupConv2d, GroupToPlaneConv2d, LiftingConv2d

Map = Callable[[Tensor], Tensor]
Steps = Sequence[tuple[int, int, int]]

LESSON = "03_group_convolutions"
move = P4M.act  # of an element 0 … 7; 0 … 3 are the turns, so p4 moves by it as well

# ------------------------------------------------------------------------------------- 1. four_answers


def four_answers(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(patch * torch.rot90(w, r)).sum(dim=(1, 2)) for r in range(4)], dim=1)


def _answers_turn_the_patch(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(torch.rot90(patch, -r, (1, 2)) * w).sum((1, 2)) for r in range(4)], 1)


def _answers_as_a_product(patch: Tensor, w: Tensor) -> Tensor:
    poses = torch.stack([torch.rot90(w, r).reshape(9) for r in range(4)])
    return patch.reshape(-1, 9) @ poses.T


def _answers_tap_by_tap(patch: Tensor, w: Tensor) -> Tensor:
    out = torch.zeros(len(patch), 4, dtype=patch.dtype)
    for i in range(3):
        for j in range(3):
            row, col = i, j
            for r in range(4):
                out[:, r] += patch[:, row, col] * w[i, j]
                row, col = 2 - col, row
    return out


def _answers_by_convolution(patch: Tensor, w: Tensor) -> Tensor:
    bank = torch.stack([torch.rot90(w, r) for r in range(4)])[:, None]
    return F.conv2d(patch[:, None], bank)[:, :, 0, 0]


def _answers_clockwise(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(patch * torch.rot90(w, -r)).sum((1, 2)) for r in range(4)], 1)


def _answers_flipped(patch: Tensor, w: Tensor) -> Tensor:
    return four_answers(patch, w.flip((0, 1)))


def _answers_without_turning(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(patch * w).sum((1, 2))] * 4, 1)


def _answers_transposed(patch: Tensor, w: Tensor) -> Tensor:
    poses = [w, w.T, w.flip((0, 1)), w.T.flip((0, 1))]
    return torch.stack([(patch * pose).sum((1, 2)) for pose in poses], 1)


def _answers_mirrored(patch: Tensor, w: Tensor) -> Tensor:
    poses = [w, w.flip(1), w.flip(0), w.flip((0, 1))]
    return torch.stack([(patch * pose).sum((1, 2)) for pose in poses], 1)


def _answers_mean(patch: Tensor, w: Tensor) -> Tensor:
    return four_answers(patch, w) / 9


def _answers_from_one(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(patch * torch.rot90(w, r)).sum((1, 2)) for r in range(1, 5)], 1)


def _answers_matrix_product(patch: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(patch @ torch.rot90(w, r)).sum((1, 2)) for r in range(4)], 1)


def _answers_sorted(patch: Tensor, w: Tensor) -> Tensor:
    return four_answers(patch, w).sort(dim=1).values


def _answers_turns_add_up(patch: Tensor, w: Tensor) -> Tensor:
    out = []
    for r in range(4):
        w = torch.rot90(w, r)
        out.append((patch * w).sum((1, 2)))
    return torch.stack(out, 1)


def _answers_added(patch: Tensor, w: Tensor) -> Tensor:
    return four_answers(patch, w).sum(1, keepdim=True).expand(-1, 4).clone()


# --------------------------------------------------------------------------------------------- 2. lift


def lift(x: Tensor, w: Tensor, n: int) -> Tensor:
    return torch.stack([F.conv2d(x, move(w, g)) for g in range(n)], dim=2)


def _inverse_of(g: int) -> int:
    return g if g >= 4 else -g % 4


def _lift_one_convolution(x: Tensor, w: Tensor, n: int) -> Tensor:
    bank = torch.stack([move(w, g) for g in range(n)], 1)  # (O, n, I, k, k)
    return F.conv2d(x, bank.flatten(0, 1)).unflatten(1, (len(w), n))


def _lift_moves_the_picture(x: Tensor, w: Tensor, n: int) -> Tensor:
    return torch.stack([move(F.conv2d(move(x, _inverse_of(g)), w), g) for g in range(n)], 2)


def _lift_unfolded(x: Tensor, w: Tensor, n: int) -> Tensor:
    k = w.shape[-1]
    windows = x.unfold(2, k, 1).unfold(3, k, 1)
    poses = torch.stack([torch.rot90(w.flip(-1) if g > 3 else w, g % 4, (2, 3)) for g in range(n)])
    return torch.einsum("bihwkl,goikl->boghw", windows, poses)


def _lift_filled_in(x: Tensor, w: Tensor, n: int) -> Tensor:
    k = w.shape[-1]
    out = torch.zeros(len(x), len(w), n, x.shape[2] - k + 1, x.shape[3] - k + 1, dtype=x.dtype)
    for o in range(len(w)):
        for g in range(n):
            out[:, o, g] = F.conv2d(x, move(w[o], g)[None])[:, 0]
    return out


def _stacked(x: Tensor, poses: Sequence[Tensor]) -> Tensor:
    return torch.stack([F.conv2d(x, pose) for pose in poses], 2)


def _lift_clockwise(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [torch.rot90(w.flip(-1) if g > 3 else w, -g, (2, 3)) for g in range(n)])


def _lift_by_inverse(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [move(w, _inverse_of(g)) for g in range(n)])


def _lift_without_moving(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [w] * n)


def _lift_turns_only(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [move(w, g % 4) for g in range(n)])


def _lift_turn_then_mirror(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [move(move(w, g % 4), 4 * (g // 4)) for g in range(n)])


def _lift_default_axes(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [torch.rot90(w.flip(-1) if g > 3 else w, g) for g in range(n)])


def _lift_mirrors_up_down(x: Tensor, w: Tensor, n: int) -> Tensor:
    return _stacked(x, [move(w.flip(-2) if g > 3 else w, g % 4) for g in range(n)])


def _lift_moves_add_up(x: Tensor, w: Tensor, n: int) -> Tensor:
    poses = []
    for g in range(n):
        w = move(w, g)
        poses.append(w)
    return _stacked(x, poses)


def _lift_planes_outside(x: Tensor, w: Tensor, n: int) -> Tensor:
    bank = torch.cat([move(w, g) for g in range(n)])  # (n · O, I, k, k)
    return F.conv2d(x, bank).unflatten(1, (len(w), n))


def _lift_moves_outputs_only(x: Tensor, w: Tensor, n: int) -> Tensor:
    y = F.conv2d(x, w)
    side = min(y.shape[-2:])
    return torch.stack([move(y[..., :side, :side], g) for g in range(n)], 2)


def _lift_never_back(x: Tensor, w: Tensor, n: int) -> Tensor:
    ys = [F.conv2d(move(x, _inverse_of(g)), w) for g in range(n)]
    return torch.stack([y if y.shape == ys[0].shape else y.transpose(-1, -2) for y in ys], 2)


def _lift_padded(x: Tensor, w: Tensor, n: int) -> Tensor:
    return torch.stack([F.conv2d(x, move(w, g), padding=w.shape[-1] // 2) for g in range(n)], 2)


def _lift_flipped(x: Tensor, w: Tensor, n: int) -> Tensor:
    return lift(x, w.flip((2, 3)), n)


def _lift_mean_colour(x: Tensor, w: Tensor, n: int) -> Tensor:
    return lift(x, w, n) / w.shape[1]


# --------------------------------------------------------------------------------------- 3. move_field


def move_field(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    places = table[inverse[g]]
    return move(f[:, :, places], g)


def _field_plane_by_plane(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    planes = [move(f[:, :, int(table[int(inverse[g]), h])], g) for h in range(len(table))]
    return torch.stack(planes, 2)


def _field_sends(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    moved = move(f, g)
    out = torch.empty_like(moved)
    out[:, :, table[g]] = moved  # plane h goes to place g · h
    return out


def _field_by_matrix(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    send = F.one_hot(table[g], len(table)).to(f.dtype)  # row h has its 1 at g · h
    return torch.einsum("hp,bchyx->bcpyx", send, torch.rot90(f.flip(-1) if g > 3 else f, g % 4, (-2, -1)))


def _field_pixels_only(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f, g)


def _field_planes_only(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return f[:, :, table[inverse[g]]]


def _field_planes_wrong_way(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, table[g]], g)


def _field_pixels_wrong_way(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, table[inverse[g]]], int(inverse[g]))


def _field_all_wrong_way(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, table[g]], int(inverse[g]))


def _field_from_the_right(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, table[:, inverse[g]]], g)


def _field_from_the_right_forward(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, table[:, g]], g)


def _field_rolled(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f.roll(g, 2), g)


def _field_rolled_back(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f.roll(-g, 2), g)


def _field_inverse_of_planes(f: Tensor, g: int, table: Tensor, inverse: Tensor) -> Tensor:
    return move(f[:, :, inverse[table[inverse[g]]]], g)


# --------------------------------------------------------------------------------------- 4. group_conv


def group_conv(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    planes = []
    for g in range(len(table)):
        moved = move(w[:, :, table[inverse[g]]], g)
        planes.append(F.conv2d(f.flatten(1, 2), moved.flatten(1, 2)))
    return torch.stack(planes, dim=2)


def _group_double_loop(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    planes = []
    for g in range(len(table)):
        total = torch.zeros(())
        for h in range(len(table)):
            k = int(table[int(inverse[g]), h])
            total = total + F.conv2d(f[:, :, h], move(w[:, :, k], g))
        planes.append(total)
    return torch.stack(planes, 2)


def _group_one_convolution(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    y = F.conv2d(f.flatten(1, 2), group_taps(w, table, inverse))
    return y.unflatten(1, (len(w), len(table)))


def _group_moves_the_field(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    planes = []
    for g in range(len(table)):
        back = move_field(f, int(inverse[g]), table, inverse)
        planes.append(move(F.conv2d(back.flatten(1, 2), w.flatten(1, 2)), g))
    return torch.stack(planes, 2)


def _group_einsum(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    k = w.shape[-1]
    windows = f.unfold(3, k, 1).unfold(4, k, 1)
    bank = torch.stack([move(w[:, :, table[inverse[g]]], g) for g in range(len(table))])
    return torch.einsum("bihyxkl,goihkl->bogyx", windows, bank)


def _with_bank(f: Tensor, bank: Sequence[Tensor]) -> Tensor:
    return torch.stack([F.conv2d(f.flatten(1, 2), moved.flatten(1, 2)) for moved in bank], 2)


def _bank_without_planes(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w, g) for g in range(len(table))]


def _bank_without_turning(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [w[:, :, table[inverse[g]]] for g in range(len(table))]


def _bank_forward(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w[:, :, table[g]], g) for g in range(len(table))]


def _bank_from_the_right(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w[:, :, table[:, inverse[g]]], g) for g in range(len(table))]


def _bank_rolled(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w.roll(g, 2), g) for g in range(len(table))]


def _bank_turned_back(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w[:, :, table[inverse[g]]], int(inverse[g])) for g in range(len(table))]


def _bank_unmoved(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [w for _ in range(len(table))]


def _bank_inverse_entry(w: Tensor, table: Tensor, inverse: Tensor) -> list[Tensor]:
    return [move(w[:, :, inverse[table[inverse[g]]]], g) for g in range(len(table))]


Bank = Callable[[Tensor, Tensor, Tensor], list[Tensor]]


def _conv_with(name: str, bank: Bank) -> Callable[..., Tensor]:
    def answer(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
        return _with_bank(f, bank(w, table, inverse))

    answer.__name__ = name
    return answer


_group_without_planes = _conv_with("_group_without_planes", _bank_without_planes)
_group_without_turning = _conv_with("_group_without_turning", _bank_without_turning)
_group_forward = _conv_with("_group_forward", _bank_forward)
_group_from_the_right = _conv_with("_group_from_the_right", _bank_from_the_right)
_group_rolled = _conv_with("_group_rolled", _bank_rolled)
_group_turned_back = _conv_with("_group_turned_back", _bank_turned_back)
_group_unmoved = _conv_with("_group_unmoved", _bank_unmoved)
_group_inverse_entry = _conv_with("_group_inverse_entry", _bank_inverse_entry)


def _group_plane_by_plane(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    return torch.stack([F.conv2d(f[:, :, g], move(w[:, :, g], g)) for g in range(len(table))], 2)


def _group_first_plane_of_filter(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    return torch.stack([F.conv2d(f.sum(2), move(w[:, :, g], g)) for g in range(len(table))], 2)


def _group_taps_by_h(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    n = len(table)
    return torch.stack(
        [
            _total([F.conv2d(f[:, :, h], move(w[:, :, int(table[inverse[g], h])], h)) for h in range(n)])
            for g in range(n)
        ],
        2,
    )


def _group_axes_joined_apart(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    bank = [move(w[:, :, table[inverse[g]]], g) for g in range(len(table))]
    maps = f.transpose(1, 2).flatten(1, 2)
    return torch.stack([F.conv2d(maps, moved.flatten(1, 2)) for moved in bank], 2)


def _group_mean(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    return group_conv(f, w, table, inverse) / len(table)


def _group_planes_outside(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    y = group_conv(f, w, table, inverse)
    return y.transpose(1, 2).flatten(1, 2).unflatten(1, (len(w), len(table)))


def _group_padded(f: Tensor, w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    p = w.shape[-1] // 2
    return group_conv(F.pad(f, (p, p, p, p)), w, table, inverse)


# --------------------------------------------------------------------------------------- 5. group_taps


def group_taps(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    copies = [move(w[:, :, table[inverse[g]]], g) for g in range(n)]
    return torch.stack(copies, dim=1).reshape(o * n, i * n, k, k)


def _taps_block_by_block(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = w.new_zeros(o, n, i, n, k, k)
    for g in range(n):
        for h in range(n):
            taps[:, g, :, h] = move(w[:, :, int(table[int(inverse[g]), h])], g)
    return taps.flatten(2, 3).flatten(0, 1)


def _taps_by_index(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    grid = torch.arange(n * k * k).reshape(n, k, k)
    index = torch.stack([move(grid[table[inverse[g]]], g) for g in range(n)])
    return w.reshape(o, i, -1)[:, :, index].movedim(2, 1).reshape(o * n, i * n, k, k)


def _taps_by_moving(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    return torch.cat(
        [
            move_field(w[a : a + 1], g, table, inverse).reshape(1, i * n, k, k)
            for a in range(o)
            for g in range(n)
        ]
    )


def _laid_out(bank: Sequence[Tensor]) -> Tensor:
    o, i, n, k, _ = bank[0].shape
    return torch.stack(list(bank), 1).reshape(o * n, i * n, k, k)


def _taps_with(name: str, bank: Bank) -> Callable[..., Tensor]:
    def answer(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
        return _laid_out(bank(w, table, inverse))

    answer.__name__ = name
    return answer


_taps_without_planes = _taps_with("_taps_without_planes", _bank_without_planes)
_taps_without_turning = _taps_with("_taps_without_turning", _bank_without_turning)
_taps_forward = _taps_with("_taps_forward", _bank_forward)
_taps_from_the_right = _taps_with("_taps_from_the_right", _bank_from_the_right)
_taps_rolled = _taps_with("_taps_rolled", _bank_rolled)
_taps_turned_back = _taps_with("_taps_turned_back", _bank_turned_back)


def _taps_rows_by_element(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = group_taps(w, table, inverse).reshape(o, n, i * n, k, k)
    return taps.transpose(0, 1).reshape(o * n, i * n, k, k)


def _taps_columns_by_element(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = group_taps(w, table, inverse).reshape(o * n, i, n, k, k)
    return taps.transpose(1, 2).reshape(o * n, i * n, k, k)


def _taps_both_by_element(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = group_taps(w, table, inverse).reshape(o, n, i, n, k, k)
    return taps.permute(1, 0, 3, 2, 4, 5).reshape(o * n, i * n, k, k)


def _taps_repeated(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    return w.flatten(1, 2).repeat_interleave(len(table), 0)


def _taps_transposed(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = group_taps(w, table, inverse).reshape(o, n, i, n, k, k)
    return taps.transpose(1, 3).reshape(o * n, i * n, k, k)


def _taps_on_the_diagonal(w: Tensor, table: Tensor, inverse: Tensor) -> Tensor:
    o, i, n, k, _ = w.shape
    taps = w.new_zeros(o, n, i, n, k, k)
    for g in range(n):
        taps[:, g, :, g] = move(w[:, :, 0], g)
    return taps.reshape(o * n, i * n, k, k)


# --------------------------------------------------------------------------------- 6. group_batch_norm

AXES = (0, 2, 3, 4)


def group_batch_norm(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = f - f.mean(dim=(0, 2, 3, 4), keepdim=True)
    variance = centred.square().mean(dim=(0, 2, 3, 4))
    scale = weight / torch.sqrt(variance + eps)
    return centred * scale[:, None, None, None] + bias[:, None, None, None]


def _norm_by_torch(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.batch_norm(f, None, None, weight, bias, training=True, eps=eps)


def _norm_field_by_field(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(f)
    for c in range(f.shape[1]):
        values = f[:, c]
        centred = values - values.mean()
        out[:, c] = weight[c] * centred * (centred.square().mean() + eps) ** -0.5 + bias[c]
    return out


def _norm_rows(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = f.transpose(0, 1).flatten(1)  # one row a field
    second = (rows**2).mean(1) - rows.mean(1) ** 2
    slope = weight / (second + eps).sqrt()
    return f * slope.view(-1, 1, 1, 1) + (bias - rows.mean(1) * slope).view(-1, 1, 1, 1)


def _norm_over(name: str, axes: tuple[int, ...]) -> Callable[..., Tensor]:
    """Batch norm with mean and variance over other axes."""

    def answer(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, variance = f.mean(axes, keepdim=True), f.var(axes, unbiased=False, keepdim=True)
        return (f - mean) / (variance + eps).sqrt() * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    answer.__name__ = name
    return answer


_norm_each_plane = _norm_over("_norm_each_plane", (0, 3, 4))
_norm_each_image = _norm_over("_norm_each_image", (2, 3, 4))
_norm_all_fields = _norm_over("_norm_all_fields", (0, 1, 2, 3, 4))
_norm_each_pixel = _norm_over("_norm_each_pixel", (0, 2))
_norm_one_image = _norm_over("_norm_one_image", (1, 2, 3, 4))


def _norm_each_plane_and_image(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _norm_over("", (3, 4))(f, weight, bias, eps)


def _norm_unbiased(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    spread = (f.var(AXES, keepdim=True) + eps).sqrt()
    return (f - f.mean(AXES, keepdim=True)) / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


def _norm_eps_outside(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    spread = f.std(AXES, unbiased=False, keepdim=True) + eps
    return (f - f.mean(AXES, keepdim=True)) / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


def _norm_without_eps(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return group_batch_norm(f, weight, bias, 0.0)


def _norm_own_eps(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.batch_norm(f, None, None, weight, bias, training=True)


def _norm_weight_on_columns(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    normal = group_batch_norm(f, torch.ones_like(weight), torch.zeros_like(bias), eps)
    return normal * weight + bias


def _norm_statistics_detached(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    variance, mean = torch.var_mean(f.detach(), AXES, correction=0, keepdim=True)
    return (f - mean) / (variance + eps).sqrt() * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


def _norm_by_variance(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    spread = f.var(AXES, unbiased=False, keepdim=True) + eps
    return (f - f.mean(AXES, keepdim=True)) / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


def _norm_not_centred(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    spread = (f.var(AXES, unbiased=False, keepdim=True) + eps).sqrt()
    return f / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)


def _norm_plain(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return group_batch_norm(f, torch.ones_like(weight), torch.zeros_like(bias), eps)


def _norm_bias_inside(f: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    normal = group_batch_norm(f, torch.ones_like(weight), torch.zeros_like(bias), eps)
    return (normal + bias.view(-1, 1, 1, 1)) * weight.view(-1, 1, 1, 1)


# -------------------------------------------------------------------------------------- 7. exact_sizes


def exact_sizes(steps: Steps, largest: int) -> list[int]:
    sizes = []
    for size in range(1, largest + 1):
        n, exact = size, True
        for kernel, stride, padding in steps:
            left = n + 2 * padding - kernel
            exact = exact and left >= 0 and left % stride == 0
            n = left // stride + 1
        if exact:
            sizes.append(size)
    return sizes


def _sizes_backwards(steps: Steps, largest: int) -> list[int]:
    top = largest + 2 * sum(padding for _, _, padding in steps)  # no grid on the way is larger
    good = set(range(1, top + 1))
    for kernel, stride, padding in reversed(steps):
        room = {n: n + 2 * padding - kernel for n in range(1, top + 1)}
        good = {n for n, r in room.items() if r >= 0 and r % stride == 0 and r // stride + 1 in good}
    return sorted(n for n in good if n <= largest)


def _sizes_by_experiment(steps: Steps, largest: int) -> list[int]:
    """Lays windows on a line, and the same windows from its other end."""
    found = []
    for size in range(1, largest + 1):
        n, good = size, True
        for kernel, stride, padding in steps:
            starts = list(range(0, n + 2 * padding - kernel + 1, stride))
            mirrored = sorted(n + 2 * padding - kernel - start for start in starts)
            good = good and bool(starts) and starts == mirrored
            n = max(len(starts), 0)
        if good:
            found.append(size)
    return found


def _sizes_recursive(steps: Steps, largest: int) -> list[int]:
    def fits(n: int, rest: Steps) -> bool:
        if not rest:
            return True
        kernel, stride, padding = rest[0]
        whole, over = divmod(n + 2 * padding - kernel, stride)
        return whole >= 0 and over == 0 and fits(whole + 1, rest[1:])

    return [n for n in range(1, largest + 1) if fits(n, list(steps))]


def _sizes_where(step_is_exact: Callable[[int, int, int, int], bool]) -> Callable[[Steps, int], list[int]]:
    """Sizes for which a given test holds at every step, the grids shrinking as they should."""

    def answer(steps: Steps, largest: int) -> list[int]:
        found = []
        for size in range(1, largest + 1):
            n, good = size, True
            for kernel, stride, padding in steps:
                good = good and step_is_exact(n, kernel, stride, padding)
                n = (n + 2 * padding - kernel) // stride + 1
            if good:
                found.append(size)
        return found

    return answer


def _sizes_divide(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: n + 2 * p >= k and n % s == 0)(steps, largest)


def _sizes_without_padding(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: n >= k and (n - k) % s == 0)(steps, largest)


def _sizes_padding_once(steps: Steps, largest: int) -> list[int]:
    found = []
    for size in range(1, largest + 1):
        n, good = size, True
        for kernel, stride, padding in steps:
            left = n + padding - kernel
            good = good and left >= 0 and left % stride == 0
            n = left // stride + 1
        if good:
            found.append(size)
    return found


def _sizes_without_kernel(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: n + 2 * p >= k and (n + 2 * p) % s == 0)(steps, largest)


def _sizes_too_small(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: (n + 2 * p - k) % s == 0)(steps, largest)


def _sizes_first_step(steps: Steps, largest: int) -> list[int]:
    return exact_sizes(steps[:1], largest)


def _sizes_never_shrink(steps: Steps, largest: int) -> list[int]:
    return [n for n in range(1, largest + 1) if all(n in exact_sizes([step], n) for step in steps)]


def _sizes_even(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: n + 2 * p >= k and (s == 1 or (n + 2 * p) % 2 == 0))(
        steps, largest
    )


def _sizes_all_that_fit(steps: Steps, largest: int) -> list[int]:
    return _sizes_where(lambda n, k, s, p: n + 2 * p >= k)(steps, largest)


def _sizes_exclusive(steps: Steps, largest: int) -> list[int]:
    return exact_sizes(steps, largest - 1)


def _sizes_one_too_few(steps: Steps, largest: int) -> list[int]:
    found = []
    for size in range(1, largest + 1):
        n, good = size, True
        for kernel, stride, padding in steps:
            left = n + 2 * padding - kernel
            good = good and left >= 0 and left % stride == 0
            n = left // stride
        if good:
            found.append(size)
    return found


def _sizes_at_the_end(steps: Steps, largest: int) -> list[int]:
    ends = []
    for size in exact_sizes(steps, largest):
        n = size
        for kernel, stride, padding in steps:
            n = (n + 2 * padding - kernel) // stride + 1
        ends.append(n)
    return ends


def _sizes_yes_or_no(steps: Steps, largest: int) -> list[bool]:
    good = exact_sizes(steps, largest)
    return [n in good for n in range(1, largest + 1)]


def _sizes_that_break(steps: Steps, largest: int) -> list[int]:
    good = exact_sizes(steps, largest)
    return [n for n in range(1, largest + 1) if n not in good]


# ----------------------------------------------------------------------------------------- 8. to_plane


def to_plane(f: Tensor, w: Tensor) -> Tensor:
    return torch.stack([F.conv2d(f[:, :, h], move(w, h)) for h in range(f.shape[2])]).sum(dim=0)


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _plane_one_convolution(f: Tensor, w: Tensor) -> Tensor:
    bank = torch.stack([move(w, h) for h in range(f.shape[2])], 2)  # (O, I, n, k, k)
    return F.conv2d(f.flatten(1, 2), bank.flatten(1, 2))


def _plane_summed(f: Tensor, w: Tensor) -> Tensor:
    return sum((F.conv2d(f[:, :, h], move(w, h)) for h in range(f.shape[2])), torch.zeros(()))


def _plane_moves_planes(f: Tensor, w: Tensor) -> Tensor:
    n = f.shape[2]
    return torch.stack([move(F.conv2d(move(f[:, :, h], _inverse_of(h)), w), h) for h in range(n)]).sum(0)


def _plane_einsum(f: Tensor, w: Tensor) -> Tensor:
    k = w.shape[-1]
    windows = f.unfold(3, k, 1).unfold(4, k, 1)
    return torch.einsum("bihyxkl,hoikl->boyx", windows, torch.stack([move(w, h) for h in range(f.shape[2])]))


def _plane_axes_joined_apart(f: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(f.flatten(1, 2), torch.cat([move(w, h) for h in range(f.shape[2])], 1))


def _plane_pools_first(f: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(f.mean(2), w)


def _plane_same_filter(f: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(f.sum(2), w)


def _plane_mean(f: Tensor, w: Tensor) -> Tensor:
    return to_plane(f, w) / f.shape[2]


def _plane_turned_back(f: Tensor, w: Tensor) -> Tensor:
    return _total([F.conv2d(f[:, :, h], move(w, _inverse_of(h))) for h in range(f.shape[2])])


def _plane_first_only(f: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(f[:, :, 0], w)


def _plane_maximum(f: Tensor, w: Tensor) -> Tensor:
    return torch.stack([F.conv2d(f[:, :, h], move(w, h)) for h in range(f.shape[2])]).amax(0)


def _plane_turns_only(f: Tensor, w: Tensor) -> Tensor:
    return _total([F.conv2d(f[:, :, h], move(w, h % 4)) for h in range(f.shape[2])])


def _plane_symmetric_filter(f: Tensor, w: Tensor) -> Tensor:
    n = f.shape[2]
    return F.conv2d(f.sum(2), _total([move(w, h) for h in range(n)]) / n)


def _plane_keeps_planes(f: Tensor, w: Tensor) -> Tensor:
    return torch.stack([F.conv2d(f[:, :, h], move(w, h)) for h in range(f.shape[2])], 2)


def _plane_turn_then_mirror(f: Tensor, w: Tensor) -> Tensor:
    return _total([F.conv2d(f[:, :, h], move(move(w, h % 4), 4 * (h // 4))) for h in range(f.shape[2])])


# ------------------------------------------------------------------------------------ 9. count_weights


def count_weights(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    filters = c_in * c_out * k * k
    if kind == "lift":
        return filters, n * filters
    if kind == "group":
        return n * filters, n * n * filters
    return filters, n * filters


def _counts_of_tensors(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    group = {4: P4, 8: P4M}[n]
    make: Any = {"lift": LiftingConv2d, "group": GroupConv2d, "plane": GroupToPlaneConv2d}[kind]
    layer = make(c_in, c_out, k, bias=False, group=group)
    return layer.weight.numel(), layer.taps().numel()


def _counts_from_maps(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    maps_in = c_in * (1 if kind == "lift" else n)
    maps_out = c_out * (1 if kind == "plane" else n)
    plain = maps_in * maps_out * k**2
    return plain // n, plain  # each weight stands in n places


def _counts_table(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = {"lift": (1, n), "group": (n, n * n), "plane": (1, n)}[kind]
    return free * c_in * c_out * k * k, plain * c_in * c_out * k * k


def _counts_group_without_planes(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    filters = c_in * c_out * k * k
    return filters, n * (n if kind == "group" else 1) * filters


def _counts_plain_without_output(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free = count_weights(kind, c_in, c_out, k, n)[0]
    return free, c_in * c_out * k * k * (1 if kind == "lift" else n)


def _counts_same_width(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    return count_weights(kind, c_in, c_out, k, n)[0], c_in * c_out * k * k


def _counts_swapped(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = count_weights(kind, c_in, c_out, k, n)
    return plain, free


def _counts_k_once(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = count_weights(kind, c_in, c_out, k, n)
    return free // k, plain // k


def _counts_both_equal(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    plain = count_weights(kind, c_in, c_out, k, n)[1]
    return plain, plain


def _counts_with_bias(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = count_weights(kind, c_in, c_out, k, n)
    return free + c_out, plain + c_out * (1 if kind == "plane" else n)


def _counts_plane_like_group(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    return count_weights("group" if kind == "plane" else kind, c_in, c_out, k, n)


def _counts_plane_has_planes(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = count_weights(kind, c_in, c_out, k, n)
    return (n * free if kind == "plane" else free), plain


def _counts_lift_per_element(kind: str, c_in: int, c_out: int, k: int, n: int) -> tuple[int, int]:
    free, plain = count_weights(kind, c_in, c_out, k, n)
    return (n * free if kind == "lift" else free), plain


# --------------------------------------------------------------------------------------- 10. dense_step


def dense_step(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    border = (f.shape[-1] - new.shape[-1]) // 2
    old = f[..., border : f.shape[-2] - border, border : f.shape[-1] - border]
    y = transition(torch.cat([old, new], dim=1))
    return F.avg_pool2d(y.flatten(1, 2), 2).unflatten(1, y.shape[1:3])


def _step_by_padding(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    b = (new.shape[-1] - f.shape[-1]) // 2
    return F.avg_pool3d(transition(torch.cat([F.pad(f, (b, b, b, b)), new], 1)), (1, 2, 2))


def _step_by_slices(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    height, width = new.shape[-2:]
    top, left = (f.shape[-2] - height) // 2, (f.shape[-1] - width) // 2
    both = torch.cat((f[:, :, :, top : top + height, left : left + width], new), 1)
    y = transition(both)
    return (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4


def _step_narrowed(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    (b, _, n), (height, width) = f.shape[:3], new.shape[-2:]
    old = f.narrow(3, (f.shape[3] - height) // 2, height).narrow(4, (f.shape[4] - width) // 2, width)
    y = transition(torch.cat([old, new], 1))
    windows = y.reshape(b, y.shape[1], n, height // 2, 2, width // 2, 2)
    return windows.mean(dim=(4, 6))


def _centre(f: Tensor, new: Tensor) -> Tensor:
    b = (f.shape[-1] - new.shape[-1]) // 2
    return f[..., b : f.shape[-2] - b, b : f.shape[-1] - b]


def _halved(y: Tensor) -> Tensor:
    return F.avg_pool3d(y, (1, 2, 2))


def _step_top_left(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    old = f[..., : new.shape[-2], : new.shape[-1]]
    return _halved(transition(torch.cat([old, new], 1)))


def _step_border_of_one(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(transition(torch.cat([f[..., 1:-1, 1:-1], new], 1)))


def _step_pads_new(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    b = (f.shape[-1] - new.shape[-1]) // 2
    y = transition(torch.cat([f, F.pad(new, (b, b, b, b))], 1))
    return _halved(y)


def _step_resizes(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    old = F.interpolate(f.flatten(1, 2), size=new.shape[-2:], mode="bilinear").unflatten(1, f.shape[1:3])
    return _halved(transition(torch.cat([old, new], 1)))


def _step_new_first(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(transition(torch.cat([new, _centre(f, new)], 1)))


def _step_relu_on_new(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f).relu()
    return _halved(transition(torch.cat([_centre(f, new), new], 1)))


def _step_drops_old(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(transition(torch.cat([torch.zeros_like(_centre(f, new)), new], 1)))


def _step_without_new(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(transition(torch.cat([_centre(f, new), torch.zeros_like(new)], 1)))


def _step_without_pooling(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return transition(torch.cat([_centre(f, new), new], 1))


def _step_maximum(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return F.max_pool3d(transition(torch.cat([_centre(f, new), new], 1)), (1, 2, 2))


def _step_pools_planes(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return F.avg_pool3d(transition(torch.cat([_centre(f, new), new], 1)), 2)


def _step_pools_first(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return transition(_halved(torch.cat([_centre(f, new), new], 1)))


def _step_without_transition(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(torch.cat([_centre(f, new), new], 1))


def _step_every_other_pixel(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return transition(torch.cat([_centre(f, new), new], 1))[..., ::2, ::2].clone()


def _step_crops_last(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    b = (f.shape[-1] - new.shape[-1]) // 2
    y = transition(torch.cat((f, F.pad(new, (b, b, b, b))), 1))
    return _halved(y[..., b:-b, b:-b])


def _step_layer_twice(f: Tensor, layer: Map, transition: Map) -> Tensor:
    b = (f.shape[-1] - layer(f).shape[-1]) // 2
    return _halved(transition(torch.cat((f[..., b:-b, b:-b], layer(f)), 1)))


def _step_transition_twice(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    both = torch.cat((_centre(f, new), new), 1)
    n, fields = f.shape[2], transition(both).shape[1]
    return F.avg_pool2d(transition(both).flatten(1, 2), 2).unflatten(1, (fields, n))


def _step_detaches_new(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f).detach()
    return _halved(transition(torch.cat((_centre(f, new), new), 1)))


def _step_detaches_old(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    return _halved(transition(torch.cat((_centre(f, new).detach(), new), 1)))


# ---------------------------------------------------------------------------------------------- checks


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _words(a: int) -> str:
    """An element as one says it: "a mirror and a turn by 90°"."""
    mirror, turns = divmod(a, 4)
    parts = ["a left-right mirror"] * mirror + [f"a turn by {90 * turns}°"] * (turns > 0)
    return " and ".join(parts) or "no move"


GROUPS = (P4, P4M)
_ELEMENTS = {4: (1, 2), 8: (1, 4, 7)}


def _tables(group: Group) -> tuple[Tensor, Tensor]:
    return group.table, group.inverses


def _check_answers_place(ask: Ask) -> None:
    patch = torch.arange(9.0, dtype=torch.float64).reshape(1, 3, 3)
    top = torch.zeros(3, 3, dtype=torch.float64)
    top[0, 1] = 1
    got = ask(patch, top)
    expect(
        abs(float(got[0, 0]) - 1) < 1e-9,
        "A stencil with a single 1 in the middle of its top row picks the pixel in the middle of the top row of the "
        "patch, as answer 0.",
    )
    expect(
        abs(float(got[0, 1]) - 3) < 1e-9,
        "A quarter turn counter-clockwise brings the middle of the stencil's top row to the middle of its left column. "
        "Answer 1 must pick that pixel of the patch.",
    )


def _check_answers_roll(ask: Ask) -> None:
    patch, w = _random(5, 3, 3, seed=1), _random(3, 3, seed=2)
    got = ask(patch, w)
    for turns in (1, 2, 3):
        close(
            ask(torch.rot90(patch, turns, (1, 2)), w),
            got.roll(turns, 1),
            f"When the patch is turned by {90 * turns}°, the four answers must change by a rule that holds for every patch "
            "and stencil (you will find it in the next cells). Yours do not",
        )
    sensitive(lambda p: ask(p, w), patch, what="your four answers")


def _check_answers_numbers(ask: Ask) -> None:
    w = _random(3, 3, seed=3)
    for patch in (_random(4, 3, 3, seed=4), _random(1, 3, 3, seed=5)):
        close(
            ask(patch, w),
            four_answers(patch, w),
            "Answer r is the sum over all nine taps of the patch times the stencil turned r times",
        )
    depends(
        lambda p, weights: ask(p, weights["w"]),
        lambda p, weights: four_answers(p, weights["w"]),
        _random(2, 3, 3, seed=6),
        {"w": w},
    )
    batched(lambda p: ask(p, w), _random(3, 3, 3, seed=7), what="your stencil")
    single = _random(2, 3, 3, seed=8, dtype=torch.float32), _random(3, 3, seed=9, dtype=torch.float32)
    close(ask(*single), four_answers(*single), "Patches in single precision give answers in single precision")


def _learns(
    ask: Ask, reference: Callable[..., Tensor], args: tuple[Any, ...], learned: dict[int, str]
) -> None:
    """A network is trained through this answer: its gradients are those of the reference.

    ``learned`` names the arguments that gradients must reach, by their number.
    """
    inputs = [a.clone().requires_grad_() if i in learned else a for i, a in enumerate(args)]
    y = reference(*inputs)
    cotangent = _random(*y.shape, seed=40)
    want = torch.autograd.grad((y * cotangent).sum(), [inputs[i] for i in learned])
    found = ask.gradient(*args, wrt=list(learned), cotangent=cotangent)
    reached = [name for name, mine in zip(learned.values(), found, strict=True) if mine is not None]
    missing = [name for name in learned.values() if name not in reached]
    there = f" ({' and '.join(reached)}: as it should be)" if reached else ""
    expect(
        not missing,
        f"The numbers are right, but no gradient flows to {' and '.join(missing)}{there}, and a network shall learn "
        "through this function: stay in torch, without numpy, `.detach()`, `.data`, `.item()`, `torch.no_grad()` or a new "
        "tensor made from numbers.",
    )
    for name, mine, theirs in zip(learned.values(), found, want, strict=True):
        close(
            mine,
            theirs,
            f"The numbers are right, but the gradient that reaches {name} is another than that of the formula: a part of "
            "what you compute is cut off from it.",
            tol=1e-6,
        )


Moves = list[tuple[str, Map, Map]]


def _by(act: Callable[[Tensor, int], Tensor], a: int) -> Map:
    return lambda x: act(x, a)


def _moves(
    group: Group, before: Callable[[Tensor, int], Tensor], after: Callable[[Tensor, int], Tensor]
) -> Moves:
    """(name, move of the input, move of the output) for a few elements of the group."""
    return [(_words(a), _by(before, a), _by(after, a)) for a in _ELEMENTS[group.order]]


def _planar_moves(group: Group) -> Moves:
    return _moves(group, group.act, group.act_regular)


def _regular_moves(group: Group) -> Moves:
    return _moves(group, group.act_regular, group.act_regular)


def _library(layer: Any, weight: Tensor) -> Any:
    layer = layer.to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _lifted(x: Tensor, w: Tensor, group: Group) -> Tensor:
    with torch.no_grad():
        return _library(LiftingConv2d(w.shape[1], len(w), w.shape[2], bias=False, group=group), w)(x)


def _check_lift_planes(ask: Ask) -> None:
    """What each plane sees, told on a filter with one tap."""
    x, w = _random(1, 1, 5, 6, seed=1), torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    w[0, 0, 0, 1] = 1
    places = ((0, 1), (1, 0), (2, 1), (1, 2))
    got = ask(x, w, 4)
    for g, (row, col) in enumerate(places):
        close(
            got[0, 0, g],
            x[0, 0, row : row + 3, col : col + 4],
            f"With a filter whose single 1 is in the middle of its top row, plane {g} sees the filter turned by "
            f"{90 * g}° counter-clockwise",
        )


def _five_parts(
    group: Group,
    mine: Callable[..., Tensor],
    library: Callable[..., Tensor],
    moves: Moves,
    w: Tensor,
    square: Tensor,
    oblong: Tensor,
    what: str,
) -> None:
    """The five parts of a check for a layer with the weights ``w``; ``library`` takes the group as well."""
    equivariant_map(
        lambda x, p: mine(x, p["w"]),
        lambda x, p: library(x, p["w"], group),
        moves=moves,
        parameters={"w": w},
        square=square,
        oblong=oblong,
        what=what,
    )


def _check_lift_map(ask: Ask) -> None:
    w, square, oblong = _random(3, 2, 3, 3, seed=2), _random(2, 2, 5, 5, seed=3), _random(2, 2, 4, 7, seed=4)
    for group in (P4M, P4):

        def mine(x: Tensor, w: Tensor, n: int = group.order) -> Tensor:
            return ask(x, w, n)

        _five_parts(group, mine, _lifted, _planar_moves(group), w, square, oblong, "your lifting convolution")


def _check_lift_sizes(ask: Ask) -> None:
    for k, dtype in ((1, torch.float64), (2, torch.float64), (5, torch.float32)):
        w = _random(2, 3, k, k, seed=k, dtype=dtype)
        agrees(
            lambda x, w=w: ask(x, w, 8),
            lambda x, w=w: _lifted(x, w, P4M),
            [_random(1, 3, 6, 7, seed=5, dtype=dtype)],
            what=f"your lifting convolution with a filter of {k} × {k}",
        )


def _check_lift_learns(ask: Ask) -> None:
    args = (_random(1, 2, 4, 5, seed=41), _random(3, 2, 3, 3, seed=42), 8)
    _learns(ask, lift, args, {0: "`x`", 1: "`w`"})


def _check_field_places(ask: Ask) -> None:
    """Planes that are constant show only how they change places; planes that are alike only how pixels move."""
    for group in GROUPS:
        n = group.order
        names = torch.arange(n, dtype=torch.float64).view(1, 1, n, 1, 1).expand(1, 1, n, 3, 3).contiguous()
        for g in (1, n - 1):
            got = ask(names, g, *_tables(group))
            for h in range(n):
                want = group.product(group.inverse(g), h)
                expect(
                    bool((got[0, 0, h] - want).abs().max() < 1e-9),
                    f"The planes do not change places as they must ({group}, {n} planes, {_words(g)}): plane h of "
                    f"the moved field is plane g⁻¹h of the field, moved. Look at plane {h}.",
                )
        alike = _random(1, 1, 1, 3, 4, seed=6).expand(1, 1, n, 3, 4).contiguous()
        for g in range(n):
            close(
                ask(alike, g, *_tables(group)),
                group.act(alike, g),
                f"Where all planes are alike, only the pixels move ({group}, {_words(g)})",
            )


def _check_field_group(ask: Ask) -> None:
    for group, pairs in ((P4M, ((1, 4), (4, 1), (6, 3))), (P4, ((1, 2), (3, 3)))):
        f = _random(2, 2, group.order, 3, 4, seed=7)
        tables = _tables(group)
        close(ask(f, 0, *tables), f, f"Element 0 of {group} leaves the field as it is")
        for a, b in pairs:
            close(
                ask(ask(f, b, *tables), a, *tables),
                ask(f, group.product(a, b), *tables),
                f"First {_words(b)}, then {_words(a)}, must be the same as their product at once ({group})",
            )


def _check_field_lift(ask: Ask) -> None:
    for group in GROUPS:
        x, w = _random(2, 1, 5, 7, seed=8), _random(2, 1, 3, 3, seed=9)
        f = _lifted(x, w, group)
        for g in range(group.order):
            close(
                ask(f, g, *_tables(group)),
                _lifted(group.act(x, g), w, group),
                f"Moved by {_words(g)}, the output of a lifting convolution must be that of the moved picture ({group})",
            )
    single = _random(1, 3, 8, 2, 2, seed=10, dtype=torch.float32)
    close(ask(single, 5, *_tables(P4M)), P4M.act_regular(single, 5), "A float32 field stays float32")


def _group_library(f: Tensor, w: Tensor, group: Group) -> Tensor:
    layer = GroupConv2d(w.shape[1], len(w), w.shape[3], bias=False, group=group)
    with torch.no_grad():
        return _library(layer, w)(f)


def _check_group_map(ask: Ask) -> None:
    for group in GROUPS:
        n = group.order

        def mine(f: Tensor, w: Tensor, group: Group = group) -> Tensor:
            return ask(f, w, *_tables(group))

        w, square, oblong = (
            _random(3, 2, n, 3, 3, seed=11),
            _random(2, 2, n, 5, 5, seed=12),
            _random(2, 2, n, 4, 6, seed=13),
        )
        _five_parts(
            group, mine, _group_library, _regular_moves(group), w, square, oblong, "your group convolution"
        )


def _check_group_mixes(ask: Ask) -> None:
    """A 1 x 1 filter has no taps to turn: what is left is the convolution over the group."""
    n, tables = 8, _tables(P4M)
    f = torch.zeros(1, 1, n, 1, 1, dtype=torch.float64)
    f[0, 0, 2] = 1
    w = torch.arange(n, dtype=torch.float64).view(1, 1, n, 1, 1)
    got = ask(f, w, *tables).flatten()
    for g in range(n):
        expect(
            abs(float(got[g]) - P4M.product(P4M.inverse(g), 2)) < 1e-9,
            "With a 1 × 1 filter and a field whose only 1 is in plane h = 2, output plane g must be the filter's plane "
            f"g⁻¹h. It is not for g = {g}.",
        )


def _check_group_sizes(ask: Ask) -> None:
    for k, group, dtype in ((1, P4M, torch.float64), (2, P4, torch.float64), (3, P4M, torch.float32)):
        w = _random(2, 3, group.order, k, k, seed=k, dtype=dtype)
        agrees(
            lambda f, w=w, group=group: ask(f, w, *_tables(group)),
            lambda f, w=w, group=group: _group_library(f, w, group),
            [_random(1, 3, group.order, 4, 5, seed=14, dtype=dtype)],
            what=f"your group convolution with a filter of {k} × {k}",
        )


def _taps_as_layer(ask: Ask, f: Tensor, w: Tensor, group: Group) -> Tensor:
    taps = ask(w, *_tables(group))
    return F.conv2d(f.flatten(1, 2), taps).unflatten(1, (len(w), group.order))


def _check_taps_layout(ask: Ask) -> None:
    group = P4
    w = torch.zeros(2, 3, 4, 1, 1, dtype=torch.float64)
    w[1, 2, 0] = 1  # field 2 in, field 1 out, plane 0: output plane g sees input plane g
    taps = ask(w, *_tables(group))[:, :, 0, 0]
    for g in range(4):
        expect(
            abs(float(taps[4 + g, 8 + g]) - 1) < 1e-9,
            "A weight between input field i and output field o stands in rows o·n + g and columns i·n + h: the planes "
            f"of one field lie side by side. (Looked for the weight of o = 1, i = 2, g = h = {g} in row {4 + g}, column "
            f"{8 + g}.)",
        )
    close(
        taps.sum(), torch.tensor(4.0, dtype=torch.float64), "One weight of a 1 × 1 filter stands at n places"
    )


def _check_taps_map(ask: Ask) -> None:
    for group in GROUPS:
        n = group.order

        def mine(f: Tensor, w: Tensor, group: Group = group) -> Tensor:
            return _taps_as_layer(ask, f, w, group)

        w, square, oblong = (
            _random(3, 2, n, 3, 3, seed=15),
            _random(2, 2, n, 5, 5, seed=16),
            _random(2, 2, n, 4, 6, seed=17),
        )
        what = "a plain convolution with your filters"
        _five_parts(group, mine, _group_library, _regular_moves(group), w, square, oblong, what)


def _check_taps_numbers(ask: Ask) -> None:
    for k, group, dtype in ((2, P4M, torch.float64), (5, P4, torch.float32), (1, P4M, torch.float64)):
        w = _random(2, 3, group.order, k, k, seed=18, dtype=dtype)
        close(
            ask(w, *_tables(group)),
            regular_taps(w, group),
            f"The block (o·n + g, i·n + h) is plane g⁻¹h of filter (o, i), moved by g ({group}, {k} × {k})",
        )


def _check_taps_learn(ask: Ask) -> None:
    _learns(ask, group_taps, (_random(2, 2, 8, 3, 3, seed=43), *_tables(P4M)), {0: "`w`"})


def _norm_library(f: Tensor, parameters: dict[str, Tensor], eps: float) -> Tensor:
    layer = GroupBatchNorm2d(f.shape[1], eps).to(f.dtype).train()
    with torch.no_grad():
        layer.weight.copy_(parameters["weight"])
        layer.bias.copy_(parameters["bias"])
        return layer(f)


def _uneven(*shape: int, seed: int) -> Tensor:
    """A field whose planes differ in mean and spread, as those of a trained network do."""
    f = _random(*shape, seed=seed)
    n = shape[2]
    slope = torch.linspace(0.5, 2.0, n, dtype=torch.float64).view(1, 1, n, 1, 1)
    offset = torch.linspace(-1.0, 3.0, n, dtype=torch.float64).view(1, 1, n, 1, 1)
    channel = torch.arange(1.0, shape[1] + 1, dtype=torch.float64).view(1, -1, 1, 1, 1)
    image = torch.arange(1.0, shape[0] + 1, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    return (f * slope + offset) * channel + image


def _check_norm_map(ask: Ask) -> None:
    eps = 0.1
    weights = {
        "weight": torch.tensor([0.5, 2.0, -1.5], dtype=torch.float64),
        "bias": torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64),
    }

    def norm(f: Tensor) -> Tensor:
        return ask(f, weights["weight"], weights["bias"], eps)

    for group in GROUPS:
        # No axis beside axis 1 is as long as there are fields: weights on a wrong axis must not fit by chance.
        square = _uneven(2, 3, group.order, 5, 5, seed=19)
        oblong = _uneven(2, 3, group.order, 2, 4, seed=20)
        for f in (square, oblong):
            commutes(norm, f, _regular_moves(group), what="your batch norm")
        sensitive(norm, square, what="your batch norm")
        agrees(norm, lambda f: _norm_library(f, weights, eps), [square, oblong], what="your batch norm")
    depends(
        lambda f, p: ask(f, p["weight"], p["bias"], eps),
        lambda f, p: _norm_library(f, p, eps),
        _uneven(2, 3, 4, 2, 5, seed=21),
        weights,
    )


def _check_norm_one_turns(ask: Ask) -> None:
    """Turn one picture of the batch: the others must not notice."""
    f = _uneven(3, 2, 8, 3, 3, seed=45)
    weight, bias = torch.tensor([1.0, 2.0]).double(), torch.tensor([0.0, 1.0]).double()
    before = ask(f, weight, bias, 1e-3)
    for g in (1, 6):
        turned, want = f.clone(), before.clone()
        turned[1:2] = P4M.act_regular(f[1:2], g)
        want[1:2] = P4M.act_regular(before[1:2], g)
        close(
            ask(turned, weight, bias, 1e-3),
            want,
            f"When one picture of the batch is moved by {_words(g)}, its normalised field must move and those of the others "
            "stay",
        )


def _check_norm_properties(ask: Ask) -> None:
    f = _uneven(2, 2, 8, 3, 4, seed=22)
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    got = ask(f, one, zero, 1e-9)
    flat = got.transpose(0, 1).flatten(1)
    close(
        flat.mean(1),
        zero,
        "With weight 1 and bias 0 every field has mean 0 over batch, planes and pixels",
        tol=1e-6,
    )
    close(
        flat.var(1, unbiased=False),
        one,
        "With weight 1, bias 0 and a tiny eps every field has variance 1 over batch, planes and pixels (divide by "
        "their number, not by one less)",
        tol=1e-6,
    )
    close(
        ask(torch.full_like(f, 3.0), one, zero + 0.5, 1e-3),
        torch.full_like(f, 0.5),
        "A field that is constant has variance 0. With eps under the root it comes out as the bias",
    )


def _check_norm_single(ask: Ask) -> None:
    f = _uneven(2, 3, 4, 3, 5, seed=23).float()
    weights = {"weight": torch.tensor([1.0, 2.0, 3.0]), "bias": torch.tensor([0.0, 1.0, -1.0])}
    close(
        ask(f, weights["weight"], weights["bias"], 1e-5),
        _norm_library(f, weights, 1e-5),
        "A float32 field comes out as float32, with the library's numbers",
    )


def _check_norm_learns(ask: Ask) -> None:
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 0.1], dtype=torch.float64)
    args = (_uneven(2, 2, 4, 2, 3, seed=44), *weights, 0.01)
    _learns(ask, group_batch_norm, args, {0: "`f`", 1: "`weight`", 2: "`bias`"})


_POOL3 = (3, 2, 1)
_CASES: tuple[tuple[str, list[tuple[int, int, int]], int], ...] = (
    ("one step: window 2, stride 2", [(2, 2, 0)], 12),
    ("one step: window 3, stride 2, padding 1", [_POOL3], 12),
    ("one step: window 3, stride 3", [(3, 3, 0)], 14),
    ("one step: window 5, stride 2, padding 2", [(5, 2, 2)], 13),
    ("one step: window 2, stride 3, padding 1", [(2, 3, 1)], 16),
    ("one step: window 4, stride 2", [(4, 2, 0)], 11),
    ("one step: window 3, stride 1: a convolution without padding", [(3, 1, 0)], 6),
    ("two poolings by 2", [(2, 2, 0), (2, 2, 0)], 20),
    ("a convolution and a pooling, twice", [(3, 1, 0), (2, 2, 0)] * 2, 34),
    ("window 3, stride 2, padding 1, four times", [_POOL3] * 4, 60),
    ("a window of 5 with stride 3 and padding 1, then one of 3", [(5, 3, 1), (3, 1, 0)], 30),
)


def _check_sizes(ask: Ask) -> None:
    for name, steps, largest in _CASES:
        answer = ask(steps, largest)
        expect(not any(isinstance(n, bool) for n in answer), "", id="_sizes_yes_or_no")
        got = [int(n) for n in answer]
        want = exact_sizes(steps, largest)
        wrong = sorted(set(got) ^ set(want))
        if wrong:
            n = wrong[0]
            word = "is missing in" if n in want else "should not be in"
            expect(False, f"Size {n} {word} your list ({name}; sizes up to {largest}).")
        expect(got == want, f"Each size stands once in the list, and they rise ({name}).")


def _check_sizes_whole(ask: Ask) -> None:
    steps = [(3, 1, 0)] + [(3, 1, 0), (1, 1, 0), (2, 2, 0)] * 5
    got = [int(n) for n in ask(steps, 130)]
    expect(
        got == [96, 128],
        "A stem and five steps of P4M-DenseNet take 96 and 128 of the sizes up to 130, no others.",
    )
    expect(list(ask(steps, 90)) == [], "Where no size is exact the list is empty.")


def _plane_library(f: Tensor, w: Tensor, group: Group) -> Tensor:
    layer = GroupToPlaneConv2d(w.shape[1], len(w), w.shape[2], bias=False, group=group)
    with torch.no_grad():
        return _library(layer, w)(f)


def _check_plane_map(ask: Ask) -> None:
    w = _random(3, 2, 3, 3, seed=24)
    for group in GROUPS:
        n = group.order
        square, oblong = _random(2, 2, n, 5, 5, seed=25), _random(2, 2, n, 4, 6, seed=26)
        moves = _moves(group, group.act_regular, P4M.act)
        _five_parts(group, ask, _plane_library, moves, w, square, oblong, "your way back to the plane")


def _check_plane_sees(ask: Ask) -> None:
    """One plane at a time: plane h sees the filter moved by h."""
    w = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    w[0, 0, 0, 1] = 1
    picture = _random(1, 1, 5, 6, seed=27)
    for h, (row, col) in enumerate(((0, 1), (1, 0), (2, 1), (1, 2))):
        f = torch.zeros(1, 1, 4, 5, 6, dtype=torch.float64)
        f[:, :, h] = picture
        close(
            ask(f, w),
            picture[..., row : row + 3, col : col + 4],
            f"With a filter whose single 1 is in the middle of its top row, and a field that is 0 but for plane {h}, "
            f"that plane must see the filter turned by {90 * h}° counter-clockwise",
        )


def _check_plane_sizes(ask: Ask) -> None:
    for k, group, dtype in ((1, P4M, torch.float64), (2, P4M, torch.float64), (5, P4, torch.float32)):
        w = _random(2, 3, k, k, seed=k, dtype=dtype)
        agrees(
            lambda f, w=w: ask(f, w),
            lambda f, w=w, group=group: _plane_library(f, w, group),
            [_random(1, 3, group.order, 6, 5, seed=28, dtype=dtype)],
            what=f"your way back to the plane with a filter of {k} × {k}",
        )


def _check_counts(ask: Ask) -> None:
    words = {
        "lift": "from {} channels to {} fields",
        "group": "from {} to {} fields",
        "plane": "from {} fields to {} maps",
    }
    for kind, c_in, c_out, k, n in (
        ("lift", 3, 8, 3, 8),
        ("group", 5, 7, 3, 4),
        ("plane", 6, 2, 5, 8),
        ("group", 8, 4, 1, 8),
        ("lift", 1, 2, 5, 4),
        ("plane", 3, 3, 2, 4),
    ):
        got = ask(kind, c_in, c_out, k, n)
        want = count_weights(kind, c_in, c_out, k, n)
        case = f'"{kind}" {words[kind].format(c_in, c_out)}, {k} × {k}, {n} planes'
        over = int(got[0]) - want[0], int(got[1]) - want[1]
        biases = (c_out, n * c_out)
        expect(
            not ((over[0] in biases or over[1] in biases) and all(d in (0, *biases) for d in over)),
            "",
            id="_counts_with_bias",
        )
        expect(
            int(got[0]) == want[0],
            f"The number of free weights is not right ({case}). Which filter does this layer learn, and what shape has it?",
        )
        expect(
            int(got[1]) == want[1],
            f"The number of weights of the plain convolution is not right ({case}). It sees and makes feature maps: one "
            "for each channel of a picture, n for each field.",
        )


_LAYER3 = 0.3 * _random(2, 3, 4, 3, 3, seed=29)
_LAYER5 = 0.3 * _random(1, 2, 8, 5, 5, seed=30)
_MIX4 = _random(4, 5, 4, 1, 1, seed=31)
_MIX8 = _random(3, 3, 8, 1, 1, seed=32)


def _conv(f: Tensor, w: Tensor, group: Group) -> Tensor:
    taps = regular_taps(w.to(f.dtype), group)
    return F.conv2d(f.flatten(1, 2), taps).unflatten(1, (len(w), group.order))


def _p4_layer(f: Tensor) -> Tensor:
    return _conv(torch.relu(f), _LAYER3, P4)


def _p4_transition(f: Tensor) -> Tensor:
    return _conv(torch.relu(f - 0.2), _MIX4, P4)


def _p4m_layer(f: Tensor) -> Tensor:
    return _conv(torch.relu(f), _LAYER5, P4M)


def _p4m_transition(f: Tensor) -> Tensor:
    return _conv(torch.relu(f - 0.2), _MIX8, P4M)


def _library_step(f: Tensor, layer: Map, transition: Map) -> Tensor:
    new = layer(f)
    b = (f.shape[-1] - new.shape[-1]) // 2
    y = transition(torch.cat([F.pad(f, (-b, -b, -b, -b)), new], 1))
    return F.avg_pool3d(y, (1, 2, 2))


def _check_step_map(ask: Ask) -> None:
    for group, layer, transition, square, oblong in (
        (P4, _p4_layer, _p4_transition, _random(2, 3, 4, 8, 8, seed=33), _random(2, 3, 4, 6, 10, seed=34)),
        (P4M, _p4m_layer, _p4m_transition, _random(2, 2, 8, 8, 8, seed=35), _random(2, 2, 8, 6, 8, seed=36)),
    ):

        def step(f: Tensor, layer: Map = layer, transition: Map = transition) -> Tensor:
            return ask(f, layer, transition)

        def library(f: Tensor, layer: Map = layer, transition: Map = transition) -> Tensor:
            return _library_step(f, layer, transition)

        for f in (square, oblong):
            commutes(step, f, _regular_moves(group), what="your dense step")
        sensitive(step, square, what="your dense step")
        agrees(step, library, [square, oblong], what="your dense step")
        batched(step, oblong, what="your dense step")


def _all_ones(f: Tensor) -> Tensor:
    return torch.ones_like(f[:, :1, :, 1:-1, 1:-1])


def _as_it_is(f: Tensor) -> Tensor:
    return f


def _check_step_crop(ask: Ask) -> None:
    f = _random(1, 2, 4, 6, 6, seed=37)
    got = ask(f, _all_ones, _as_it_is)
    close(
        got[:, 2:],
        torch.ones(1, 1, 4, 2, 2, dtype=torch.float64),
        "The new fields come after the old ones on axis 1 (here the layer makes one field of ones)",
    )
    close(
        got[:, :2],
        F.avg_pool3d(f[..., 1:-1, 1:-1], (1, 2, 2)),
        "The old fields are the middle of f, cut to the size of the new ones, and then the mean of each 2 × 2 pixels",
    )
    single = f.float()
    close(
        ask(single, _all_ones, _as_it_is),
        _library_step(single, _all_ones, _as_it_is),
        "float32 stays float32",
    )


def _normed(f: Tensor) -> Tensor:
    """A batch norm in training: what comes out at one pixel depends on all."""
    return torch.relu(F.batch_norm(f, None, None, training=True))


def _check_step_batch_norm(ask: Ask) -> None:
    """The step as the lesson uses it: a batch norm stands before each convolution."""
    calls = {"layer": 0, "transition": 0}

    def layer(f: Tensor) -> Tensor:
        calls["layer"] += 1
        return _conv(_normed(f), _LAYER3, P4)

    def transition(f: Tensor) -> Tensor:
        calls["transition"] += 1
        return _conv(_normed(f), _MIX4, P4)

    f = _random(2, 3, 4, 8, 6, seed=38) + 1
    got = ask(f, layer, transition)
    made = dict(calls)
    close(
        got,
        _library_step(f, layer, transition),
        "Where `layer` and `transition` hold a batch norm in training, each must be given the pixels that the statement "
        "names, no more and no fewer.",
    )
    for name, times in made.items():
        expect(times == 1, "", id=f"_step_{name}_twice")


def _check_step_learns(ask: Ask) -> None:
    for layer, transition, f in (
        (_p4_layer, _p4_transition, _random(2, 3, 4, 6, 8, seed=39)),
        (_p4m_layer, _p4m_transition, _random(1, 2, 8, 8, 6, seed=46)),
    ):
        _learns(ask, dense_step, (f, layer, transition), {0: "`f`"})


# ------------------------------------------------------------------------------------------- exercises

FOUR_ANSWERS = Exercise(
    name="four_answers",
    lesson=LESSON,
    title="A stencil in four poses",
    points=2,
    objective="Compute p4 by hand on a 3 × 3 stencil, and say what its four answers do when the picture turns.",
    statement=r"""
Write `four_answers(patch, w)`: what a stencil says about a patch in each of its four poses,

$$a_r = \sum_{i,j} \text{patch}[i, j] \cdot (\text{turn}^r w)[i, j], \qquad r = 0, 1, 2, 3,$$

where turn is a quarter turn counter-clockwise, as in `torch.rot90`.

- `patch`: float tensor (N, 3, 3), N patches. `w`: float tensor (3, 3), the stencil, same dtype.
- Returns (N, 4), dtype as in `patch`: entry [p, r] is the answer of the stencil turned r times about patch p. Neither input
  is changed.
""".strip(),
    reference=four_answers,
    alternatives=(
        _answers_turn_the_patch,
        _answers_as_a_product,
        _answers_tap_by_tap,
        _answers_by_convolution,
    ),
    misconceptions=(
        Misconception(
            _answers_clockwise,
            "Your stencil turns clockwise. A quarter turn counter-clockwise brings the right edge of the stencil to its "
            "top.",
        ),
        Misconception(
            _answers_flipped,
            "You flip the stencil before you use it, as in a convolution of mathematics. Here answer 0 is the stencil as "
            "it is: multiply and add.",
        ),
        Misconception(
            _answers_without_turning,
            "Your four answers are equal: between patch and stencil nothing turns. For answer r turn the stencil r times, "
            "and leave the patch as it is.",
        ),
        Misconception(
            _answers_transposed,
            "You transpose the stencil. A transpose is a mirror along the diagonal; a quarter turn is a transpose "
            "followed by a flip.",
        ),
        Misconception(
            _answers_mirrored,
            "Your four poses are flips, not turns: left-right, up-down and both. A flip changes the handedness of the "
            "stencil.",
        ),
        Misconception(_answers_mean, "You take the mean over the nine taps. The answer is their sum."),
        Misconception(
            _answers_from_one,
            "Your first answer belongs to the stencil turned once. Count from r = 0, the stencil as it is.",
        ),
        Misconception(
            _answers_matrix_product,
            "You multiply the patch and the stencil as matrices (`@`). Multiply them tap by tap (`*`), and add up.",
        ),
        Misconception(
            _answers_sorted,
            "You sort the four answers. Their places say which pose gave which answer: leave them.",
        ),
        Misconception(
            _answers_turns_add_up,
            "You turn the stencil that is already turned, so the turns add up: 0, 1, 3 and 6. Turn the first stencil r times, "
            "or the last one once.",
        ),
        Misconception(
            _answers_added,
            "You add the four answers up, and with that you forget which pose gave which. Keep them apart.",
        ),
    ),
    hints=(
        "One pose first: multiply patch and stencil tap by tap, and add up over the two last axes.",
        "`torch.rot90(w, r)` is the stencil after r quarter turns. `patch * torch.rot90(w, r)` works for all N patches at "
        "once.",
        "Make a list of the four tensors `(patch * torch.rot90(w, r)).sum(dim=(1, 2))`, each of shape (N,), and stack "
        "them along a new last axis.",
    ),
    checks=(_check_answers_place, _check_answers_numbers, _check_answers_roll),
)

LIFT = Exercise(
    name="lift",
    lesson=LESSON,
    title="The lifting convolution",
    points=2,
    objective="Build the lifting convolution, from a picture to a feature map on p4 or p4m.",
    statement=r"""
Write `lift(x, w, n)`: the lifting convolution Z² → G, from the grid of pixels to the group. Output plane g is the
picture correlated with the filter moved by element g (a pose; the places are what `F.conv2d` takes care of):

$$y_{b,o,g} = \sum_i x_{b,i} \star (g\, w_{o,i}), \qquad g = 0 \ldots n - 1,$$

where ⋆ is what `F.conv2d` computes: stride 1, no padding.

- `x`: float tensor (B, I, H, W). `w`: float tensor (O, I, k, k), same dtype; any k ≥ 1 that fits. `n`: 4 for p4, 8
  for p4m.
- `move(w, g)`, given, moves the two last axes of any tensor by element g: a left-right mirror first if g ≥ 4, then
  g mod 4 quarter turns counter-clockwise.
- Returns (B, O, n, H − k + 1, W − k + 1), dtype as in `x`; gradients flow to `x` and `w`. Neither input is changed.
""".strip(),
    reference=lift,
    alternatives=(_lift_one_convolution, _lift_moves_the_picture, _lift_unfolded, _lift_filled_in),
    misconceptions=(
        Misconception(
            _lift_clockwise,
            "Your filters turn clockwise. Plane g must see the filter moved by g, and `move` turns counter-clockwise.",
        ),
        Misconception(
            _lift_by_inverse,
            "You move the filter by the inverse of g. In ψ(g⁻¹y) the inverse stands at the point; as a whole, the filter "
            "is moved by g.",
        ),
        Misconception(
            _lift_without_moving,
            "All planes see the filter in the same pose, so all are equal. Move the filter by g before plane g.",
        ),
        Misconception(
            _lift_turns_only,
            "Your planes 4 to 7 repeat the planes 0 to 3. In p4m they see the filter mirrored first, then turned.",
        ),
        Misconception(
            _lift_turn_then_mirror,
            "For g ≥ 4 you turn first and mirror second. Element 4 + r mirrors first, then turns r times.",
        ),
        Misconception(
            _lift_default_axes,
            "`torch.rot90` turns the two first axes unless told otherwise, and here these are output and input channels. "
            "Name the two last axes, or use `move`.",
        ),
        Misconception(
            _lift_mirrors_up_down,
            "Your mirror is up-down (axis −2). Elements 4 to 7 mirror left-right: axis −1.",
        ),
        Misconception(
            _lift_moves_add_up,
            "You move the filter that is already moved, so the moves add up. Move the `w` that was handed in, by each g.",
        ),
        Misconception(
            _lift_planes_outside,
            "Your planes and output channels are interleaved the wrong way: the n planes of one output channel belong "
            "side by side on axis 2. Order the filters as (O, n), not as (n, O).",
        ),
        Misconception(
            _lift_moves_outputs_only,
            "You move the response of one unmoved filter about. A turned response shows other places of the picture, and "
            "no other pose of the filter.",
        ),
        Misconception(
            _lift_never_back,
            "You move the picture instead of the filter, which is allowed; but the planes then lie in different poses. "
            "Move each back to the pose of the picture.",
        ),
        Misconception(
            _lift_padded,
            "You pad the picture. Without padding an output of H − k + 1 by W − k + 1 pixels is wanted.",
        ),
        Misconception(
            _lift_flipped,
            "Your filters are flipped on both axes, which is half a turn too many. `F.conv2d` multiplies without "
            "flipping.",
        ),
        Misconception(
            _lift_mean_colour,
            "You take the mean over the input channels. The responses to the channels are added up.",
        ),
    ),
    hints=(
        "What does one plane see? One ordinary convolution of the picture, with all filters of w in one pose.",
        "`F.conv2d(x, move(w, g))` is plane g for all output channels at once: (B, O, H', W').",
        "Make the list of these n planes for g = 0 … n − 1, and `torch.stack` it along a new axis 2.",
    ),
    checks=(_check_lift_planes, _check_lift_map, _check_lift_sizes, _check_lift_learns),
)

MOVE_FIELD = Exercise(
    name="move_field",
    lesson=LESSON,
    title="Move a feature map on a group",
    points=3,
    objective="Move a feature map on a group: its planes move on the grid, and they change places.",
    statement=r"""
Write `move_field(f, g, table, inverse)`: the feature map on a group after the picture below it has been moved by
element g. Plane h of the moved field is plane g⁻¹h of the field, moved by g:

$$(g \cdot f)_h = \text{move}\big(f_{g^{-1} h},\ g\big).$$

- `f`: float tensor (B, C, n, H, W): C fields, each with one plane for each of the n = 4 or 8 elements. `g`: a whole number,
  0 … n − 1.
- `table`: int64 tensor (n, n); `table[a, b]` is the product ab, in which b acts first. `inverse`: int64 tensor (n,);
  `inverse[a]` undoes a.
- `move(x, g)`, given, moves the two last axes of any tensor by element g.
- Returns the moved field (B, C, n, H, W), or (B, C, n, W, H) where g turns by an odd number of quarter turns, dtype as
  in `f`. `f` itself stays as it is.
""".strip(),
    reference=move_field,
    alternatives=(_field_plane_by_plane, _field_sends, _field_by_matrix),
    misconceptions=(
        Misconception(
            _field_pixels_only,
            "You move every plane on the grid and leave the planes in their places. What the filter saw in pose h, it "
            "now sees in pose gh: the planes must change places too.",
        ),
        Misconception(
            _field_planes_only,
            "Your planes change places, but nothing moves on the grid. Move each plane by g as well.",
        ),
        Misconception(
            _field_planes_wrong_way,
            "Your planes change places the wrong way round: place h takes plane g⁻¹h, and you take plane gh.",
        ),
        Misconception(
            _field_pixels_wrong_way,
            "Your planes change places as they should, but on the grid they move by g⁻¹. Move them by g.",
        ),
        Misconception(
            _field_all_wrong_way,
            "You move the field by the inverse of g, planes and pixels both. The inverse belongs to the place only.",
        ),
        Misconception(
            _field_from_the_right,
            "You take plane hg⁻¹ where plane g⁻¹h is wanted. With turns alone that is the same; with mirrors the order "
            "matters.",
        ),
        Misconception(
            _field_from_the_right_forward,
            "You read column g of the table (hg). Wanted is the row of the inverse: g⁻¹h for every h.",
        ),
        Misconception(
            _field_rolled,
            "You roll the planes by g. That is right for p4, where the planes are in a ring; in p4m a mirror reverses "
            "the ring. Read the places from the table.",
        ),
        Misconception(
            _field_rolled_back,
            "You roll the planes, and backwards. In p4 they roll forwards, and for p4m rolling is not enough: read the "
            "places from the table.",
        ),
        Misconception(
            _field_inverse_of_planes,
            "You take plane (g⁻¹h)⁻¹. One inverse is enough: that of g, before the product.",
        ),
    ),
    hints=(
        "Two things happen: the planes change places, and each of them moves on the grid. Do one after the other.",
        "The place first. For each h you need the number of g⁻¹h: `inverse` gives g⁻¹, and `table` multiplies. For all h at "
        "once that is one row of the table.",
        "A tensor of numbers can index an axis: `f[:, :, places]` has plane `places[h]` in place h. Then the pixels: `move` "
        "takes any number of planes at once.",
    ),
    checks=(_check_field_places, _check_field_group, _check_field_lift),
)

GROUP_CONV = Exercise(
    name="group_conv",
    lesson=LESSON,
    title="The group convolution",
    points=3,
    objective="Build the convolution from one feature map on a group to the next, for p4 and p4m.",
    statement=r"""
Write `group_conv(f, w, table, inverse)`: the group convolution G → G. Output plane g correlates the field with the
filter moved by g, as a whole: the taps of every plane are moved by g, and the plane that meets plane h of the field is
plane g⁻¹h of the filter.

$$y_{b,o,g} = \sum_{h} \sum_i f_{b,i,h} \star \text{move}\big(w_{o,i,g^{-1}h},\ g\big)$$

⋆ is what `F.conv2d` computes: stride 1, no padding.

- `f`: float tensor (B, I, n, H, W): I fields of n = 4 or 8 planes. `w`: float tensor (O, I, n, k, k), same dtype, any k ≥ 1
  that fits.
- `table`, `inverse` and `move` as in exercise 3. No speed is asked for: loops are welcome.
- Returns (B, O, n, H − k + 1, W − k + 1), dtype as in `f`. Neither input is changed.
""".strip(),
    reference=group_conv,
    alternatives=(_group_double_loop, _group_one_convolution, _group_moves_the_field, _group_einsum),
    misconceptions=(
        Misconception(
            _group_without_planes,
            "You turn the filter on the grid, but its planes stay in their places. The filter is a function on the group, "
            "and moves like one: the plane that meets plane h is g⁻¹h.",
        ),
        Misconception(
            _group_without_turning,
            "The planes of your filter change places, but its taps are not moved by g on the grid.",
        ),
        Misconception(
            _group_unmoved,
            "All your output planes are equal: the filter is not moved at all. Move it by g for plane g.",
        ),
        Misconception(
            _group_forward,
            "Plane h of the field meets plane gh of your filter. It must meet plane g⁻¹h, since h is compared with g.",
        ),
        Misconception(
            _group_from_the_right,
            "You use hg⁻¹ in place of g⁻¹h. For p4 they are equal; for p4m the product depends on the order.",
        ),
        Misconception(
            _group_rolled,
            "You roll the planes of the filter by g. That is right for p4; in p4m a mirror reverses the ring. Read the "
            "places from the table.",
        ),
        Misconception(
            _group_turned_back,
            "You move the taps by the inverse of g. Planes and taps belong to one move, that by g.",
        ),
        Misconception(
            _group_inverse_entry,
            "You use plane (g⁻¹h)⁻¹ of the filter, that is h⁻¹g. Wanted is g⁻¹h.",
        ),
        Misconception(
            _group_plane_by_plane,
            "Your output plane g sees input plane g alone. The sum runs over all input planes h: only so can one pose "
            "be compared with another.",
        ),
        Misconception(
            _group_first_plane_of_filter,
            "You add up the planes of the field before you filter, and with them the poses are lost. Each plane h meets a "
            "filter plane of its own.",
        ),
        Misconception(
            _group_taps_by_h,
            "You move the taps by h, the pose of the input plane. The whole filter is moved by g, the pose of the output "
            "plane.",
        ),
        Misconception(
            _group_axes_joined_apart,
            "Field and filter join channels and planes in different orders, so planes meet filter planes that are not theirs. "
            "Join both in the same way: (I, n) in field and filter.",
        ),
        Misconception(
            _group_mean, "You take the mean over the input planes. Equation and library take the sum."
        ),
        Misconception(
            _group_planes_outside,
            "Your output planes and channels are interleaved the wrong way. The n planes of one output channel belong "
            "side by side on axis 2.",
        ),
        Misconception(
            _group_padded,
            "You pad the field. Without padding an output of H − k + 1 by W − k + 1 pixels is wanted.",
        ),
    ),
    hints=(
        "You have done it twice already. In `lift` plane g is a convolution with the filter moved by g. Here the filter "
        "itself is a function on the group, and exercise 3 says how such a thing moves.",
        "For one g, move all filters as exercise 3 moves a field: w has its planes on axis 2, too. Then the sum over i and h: "
        "`F.conv2d` sums over channels, so it does both if channels and planes are one axis.",
        "`flatten(1, 2)` makes channels and planes one axis, in the field and in the moved filters alike. One `F.conv2d` of the "
        "two gives output plane g for all o. The n planes are stacked along axis 2.",
    ),
    checks=(_check_group_mixes, _check_group_map, _check_group_sizes),
)

GROUP_TAPS = Exercise(
    name="group_taps",
    lesson=LESSON,
    title="One convolution for the whole group",
    points=3,
    objective="Write a group convolution as one ordinary convolution, and time it against loops and the library.",
    statement=r"""
Write `group_taps(w, table, inverse)`: the bank of the one ordinary convolution that a group convolution is. With
it, `F.conv2d(f.flatten(1, 2), taps)` gives the same numbers as exercise 4: field i, plane h is input map i·n + h, and
field o, plane g is output map o·n + g.

- `w`: float tensor (O, I, n, k, k), n = 4 or 8. `table`, `inverse` and `move` as in exercise 3.
- Returns (O·n, I·n, k, k), dtype as in `w`, with gradients that flow to `w`. The k × k entry [o·n + g, i·n + h] is
  `move(w[o, i, g⁻¹h], g)`. `w` itself stays as it is.
- Speed counts: your network of exercise 10 calls this at every step, with up to 48 fields. A loop over the n elements is
  fast. With a loop over o and i as well the check still passes, but a step of training then takes some forty times as long.
""".strip(),
    reference=group_taps,
    alternatives=(_taps_block_by_block, _taps_by_index, _taps_by_moving),
    misconceptions=(
        Misconception(
            _taps_rows_by_element,
            "Your rows are ordered with the element outside (g·O + o). The planes of one output field lie side by side: "
            "row o·n + g. Stack the copies along axis 1, not 0.",
        ),
        Misconception(
            _taps_columns_by_element,
            "Your columns are ordered with the element outside (h·I + i). The planes of one input field lie side by "
            "side: column i·n + h.",
        ),
        Misconception(
            _taps_both_by_element,
            "Rows and columns have the element outside. `flatten(1, 2)` of (B, I, n, H, W) puts the planes of one "
            "field side by side.",
        ),
        Misconception(
            _taps_without_planes,
            "The taps are turned, but the planes of the filter stay in their places: between g and h stands plane "
            "g⁻¹h of it.",
        ),
        Misconception(
            _taps_without_turning,
            "The planes change places, but the taps are not moved on the grid: move them by g.",
        ),
        Misconception(
            _taps_forward, "Between g and h you put plane gh of the filter. It must be plane g⁻¹h."
        ),
        Misconception(
            _taps_from_the_right,
            "You use hg⁻¹ in place of g⁻¹h. For p4 they are equal; for p4m the product depends on the order.",
        ),
        Misconception(
            _taps_rolled,
            "You roll the planes by g, which is right for p4 only. In p4m a mirror reverses the ring: read the table.",
        ),
        Misconception(
            _taps_turned_back,
            "You move the taps by the inverse of g. Planes and taps belong to one move, that by g.",
        ),
        Misconception(
            _taps_repeated,
            "Your n copies of each filter are equal. Copy g must be moved by g, planes and taps.",
        ),
        Misconception(
            _taps_transposed,
            "You have exchanged g and h. Rows belong to output planes g, and the filter is moved by g, not by h.",
        ),
        Misconception(
            _taps_on_the_diagonal,
            "Only the blocks with g = h are filled. Every output plane sees every input plane.",
        ),
    ),
    hints=(
        "You have all pieces: in exercise 4 you moved all filters (the bank) by g, once for each g. Now keep the n moved "
        "banks instead of using them one by one.",
        "Each moved bank is (O, I, n, k, k), with its planes already ordered by h. Where must the new axis g stand, so "
        "that (O, g) becomes o·n + g?",
        "`torch.stack(copies, dim=1)` is (O, n, I, n, k, k). A reshape to (O·n, I·n, k, k) joins each pair.",
    ),
    checks=(_check_taps_layout, _check_taps_map, _check_taps_numbers, _check_taps_learn),
)

GROUP_BATCH_NORM = Exercise(
    name="group_batch_norm",
    lesson=LESSON,
    title="Batch norm that does not break the group",
    points=2,
    objective="Normalise a feature map on a group without breaking equivariance, and measure the per-orientation trap.",
    statement=r"""
Write `group_batch_norm(f, weight, bias, eps)`: batch norm as it works while training, with one mean and one variance
for each field, taken over the batch, all planes and all pixels:

$$y_c = \text{weight}_c\, \frac{f_c - \text{mean}_c}{\sqrt{\text{variance}_c + \text{eps}}} + \text{bias}_c$$

The variance is the mean of the squared distances to the mean (divide by their number, not by one less).

- `f`: float tensor (B, C, n, H, W). `weight`, `bias`: float tensors (C,), same dtype. `eps`: a small float above 0.
- Returns (B, C, n, H, W), dtype as in `f`; gradients flow to all three tensors. `f` itself stays as it is.
""".strip(),
    reference=group_batch_norm,
    alternatives=(_norm_by_torch, _norm_field_by_field, _norm_rows),
    misconceptions=(
        Misconception(
            _norm_each_plane,
            "You normalise every plane on its own: n means and variances for each field. Wanted is one of each, taken over "
            "the planes, too. What goes wrong otherwise you will see in the next cells.",
        ),
        Misconception(
            _norm_each_image,
            "You normalise every image on its own (instance norm). Batch norm takes its mean and variance over the whole "
            "batch.",
        ),
        Misconception(
            _norm_each_plane_and_image,
            "You normalise every plane of every image on its own. One mean and one variance for each field are wanted, over "
            "batch, planes and pixels.",
        ),
        Misconception(
            _norm_all_fields,
            "One mean and variance for all fields together: the fields lose their scale against each other. Leave axis 1 "
            "out of the mean.",
        ),
        Misconception(
            _norm_one_image,
            "You normalise each image over all its fields (layer norm). Wanted is each field, over all images.",
        ),
        Misconception(
            _norm_each_pixel,
            "You take the mean over batch and planes only, so every pixel has its own. Take it over the pixels, too.",
        ),
        Misconception(
            _norm_unbiased,
            "Your variance divides by the number less one, as `var` does unless told otherwise. Here it is the plain mean "
            "of the squares (`unbiased=False`).",
        ),
        Misconception(
            _norm_eps_outside,
            "You add eps to the standard deviation. It belongs under the root, beside the variance.",
        ),
        Misconception(
            _norm_without_eps,
            "You leave eps out. Where a field is constant the variance is 0, and 0/0 is not a number.",
        ),
        Misconception(
            _norm_own_eps,
            "Your eps is 1e-5, whatever is handed in: that is what `F.batch_norm` takes unless told otherwise. Use the eps "
            "that is handed in.",
        ),
        Misconception(
            _norm_weight_on_columns,
            "weight and bias have shape (C,), and beside f torch lays them along the last axis, its columns. They belong "
            "to axis 1: give them three more axes of length 1.",
        ),
        Misconception(
            _norm_statistics_detached,
            "The numbers are right, but mean and variance are cut off from the gradient (`.detach()`, `torch.no_grad()`). "
            "They depend on f, and the gradient that reaches f must know it.",
        ),
        Misconception(_norm_by_variance, "You divide by the variance. Divide by its root."),
        Misconception(_norm_not_centred, "You divide by the spread but do not take the mean away first."),
        Misconception(
            _norm_plain,
            "You normalise, but weight and bias are not used: each field has its own pair of them.",
        ),
        Misconception(
            _norm_bias_inside,
            "You add the bias before you multiply by the weight. The weight comes first, then the bias.",
        ),
    ),
    hints=(
        "What must be shared so that exchanging planes changes nothing? Everything that is computed from the planes.",
        "`mean` and `var` take several axes: (0, 2, 3, 4) leaves one number a field. With `keepdim=True` it fits beside f. "
        "Mind `unbiased=False`.",
        "weight has shape (C,); `weight[:, None, None, None]` has shape (C, 1, 1, 1) and meets axis 1 of f.",
    ),
    checks=(
        _check_norm_map,
        _check_norm_one_turns,
        _check_norm_properties,
        _check_norm_single,
        _check_norm_learns,
    ),
)

EXACT_SIZES = Exercise(
    name="exact_sizes",
    lesson=LESSON,
    title="The size contract",
    points=2,
    objective="Find the picture sizes at which stride and pooling break equivariance, and those that keep it.",
    statement="""
Write `exact_sizes(steps, largest)`: the sizes of square pictures for which a chain of windowed steps follows a turn
exactly.

- `steps`: a list of (kernel, stride, padding), one for each convolution or pooling, in order. A step takes a grid of n ×
  n pixels, adds `padding` pixels on each of its four sides, and lays its first window on the first pixel; the next ones
  follow every `stride` pixels as long as they fit. Each window gives one pixel of the next grid.
- A step is exact on a grid if at least one window fits and the last window ends on the last pixel (of the padded grid):
  then the windows lie alike from both ends. A size is exact if every step is exact on the grid that reaches it.
- kernel and stride are at least 1, padding at least 0. `largest`: a whole number, at least 1.
- Returns a list of whole numbers, rising: every exact size (of the picture, before the first step) from 1 to `largest`,
  both included. `steps` itself stays as it is.
""".strip(),
    reference=exact_sizes,
    alternatives=(_sizes_backwards, _sizes_by_experiment, _sizes_recursive),
    misconceptions=(
        Misconception(
            _sizes_divide,
            "You ask whether the stride divides the grid. What must divide is the way of the windows: padded size minus "
            "kernel.",
        ),
        Misconception(
            _sizes_without_padding,
            "You leave the padding out: it is added on both sides before windows are laid.",
        ),
        Misconception(
            _sizes_padding_once,
            "You add the padding once. It is added on each side, so a grid grows by twice the padding.",
        ),
        Misconception(
            _sizes_without_kernel,
            "You ask whether the stride divides the padded size. The first window takes up `kernel` pixels before any "
            "stride is made.",
        ),
        Misconception(
            _sizes_too_small,
            "Your list has grids into which not even one window fits. (In Python -4 % 2 is 0.)",
        ),
        Misconception(
            _sizes_first_step,
            "You look at the first step only. The grid that it leaves must suit the next step, and so on.",
        ),
        Misconception(
            _sizes_never_shrink,
            "You hold every step against the size of the picture. The grid changes from step to step: go on with the size "
            "that a step leaves.",
        ),
        Misconception(
            _sizes_even,
            "You ask whether the grid is even. That is right for windows of 2 with stride 2, and for few others.",
        ),
        Misconception(
            _sizes_all_that_fit,
            "You list every size into which the windows fit, also those that leave pixels over at one end.",
        ),
        Misconception(
            _sizes_exclusive, "`largest` itself is missing where it is exact: `range` stops before its end."
        ),
        Misconception(
            _sizes_one_too_few,
            "Between the steps your grid is one too small: padded size minus kernel, over stride, plus 1.",
        ),
        Misconception(
            _sizes_at_the_end,
            "You list the grids at the end of the chain. Wanted are the sizes of the picture, before the first step: keep "
            "the size apart from the grid that shrinks.",
        ),
        Misconception(
            _sizes_yes_or_no,
            "Your list holds True and False. Wanted are the exact sizes themselves, as whole numbers.",
        ),
        Misconception(
            _sizes_that_break, "You list the sizes that break equivariance. Wanted are those that keep it."
        ),
    ),
    hints=(
        "Draw ten pixels in a row and lay windows of 3 with stride 2 on them. How many pixels are left over at the end? "
        "Which length leaves none?",
        "With n + 2·padding pixels, the windows move by n + 2·padding − kernel in all. That must be a whole number of "
        "strides, and not negative.",
        "For each size: start with n = size; for each step compute left = n + 2·padding − kernel, check it, and go on with "
        "n = left // stride + 1.",
    ),
    checks=(_check_sizes, _check_sizes_whole),
    free=frozenset({"shape"}),  # a list of another length is told by the first size that is wrong in it
)

TO_PLANE = Exercise(
    name="to_plane",
    lesson=LESSON,
    title="From the group back to the plane",
    points=2,
    objective="Go back from the group to the plane with a learned filter, and compare it with pooling over the group.",
    statement=r"""
Write `to_plane(f, w)`: the convolution G → Z², from the group back to the grid of pixels. One planar filter for each pair
of channels; plane h of the field sees it moved by h, and the planes are added up:

$$y_{b,o} = \sum_{h} \sum_i f_{b,i,h} \star (h\, w_{o,i})$$

⋆ is what `F.conv2d` computes: stride 1, no padding.

- `f`: float tensor (B, I, n, H, W), n = 4 or 8. `w`: float tensor (O, I, k, k), same dtype, any k ≥ 1 that fits.
- `move(w, h)`, given, moves the two last axes by element h.
- Returns planar maps (B, O, H − k + 1, W − k + 1), dtype as in `f`. Neither input is changed.
""".strip(),
    reference=to_plane,
    alternatives=(_plane_one_convolution, _plane_summed, _plane_moves_planes, _plane_einsum),
    misconceptions=(
        Misconception(
            _plane_pools_first,
            "You pool the planes (mean) and filter the result. That commutes with no turn, unless the filter is symmetric: "
            "plane h must see the filter moved by h.",
        ),
        Misconception(
            _plane_same_filter,
            "All planes see the filter in the same pose. In a turned picture the planes have changed places, but your filter "
            "has not. Move it by h for plane h.",
        ),
        Misconception(
            _plane_axes_joined_apart,
            "Field and filters join channels and planes in different orders: `flatten(1, 2)` of the field gives (i, h), and "
            "your filters stand as (h, i). Stack them along a new axis 2 first.",
        ),
        Misconception(_plane_mean, "You take the mean over the planes. The equation takes their sum."),
        Misconception(
            _plane_turned_back, "You move the filter by the inverse of h. Plane h sees it moved by h."
        ),
        Misconception(_plane_first_only, "You use plane 0 alone. All planes are filtered and added up."),
        Misconception(
            _plane_maximum,
            "You take the maximum over the planes. Equivariant, but not what is asked: a convolution adds.",
        ),
        Misconception(
            _plane_turns_only,
            "Your planes 4 to 7 see turned filters without the mirror: move by h, mirror included.",
        ),
        Misconception(
            _plane_symmetric_filter,
            "You average the filter over the group and let all planes see that. Equivariant, but then it cannot tell the "
            "poses apart: move the filter by h for plane h.",
        ),
        Misconception(
            _plane_keeps_planes,
            "You return the planes side by side. Add them up: the result lives on the plane.",
        ),
        Misconception(
            _plane_turn_then_mirror,
            "For h ≥ 4 you turn first and mirror second. Element 4 + r mirrors first, then turns.",
        ),
    ),
    hints=(
        "Take one plane: an ordinary convolution of f[:, :, h] with all filters in one pose. Which pose?",
        "What plane h adds has shape (B, O, H', W'), as what plane 0 adds: `F.conv2d(f[:, :, 0], w)`. Only the filters are in "
        "another pose.",
        "Make the list of these n tensors, with n = f.shape[2]: `move` brings the filters into pose h. `torch.stack` it, and "
        "add up along the new axis.",
    ),
    checks=(_check_plane_sees, _check_plane_map, _check_plane_sizes),
)

COUNT_WEIGHTS = Exercise(
    name="count_weights",
    lesson=LESSON,
    title="Count what is shared",
    points=1,
    objective="Count the weights that a group shares.",
    statement="""
Write `count_weights(kind, c_in, c_out, k, n)`: the number of weights of a layer, without bias, and of the plain
convolution that computes it.

- `kind`: "lift" (from a picture to fields, exercise 2), "group" (from fields to fields, exercise 4) or "plane" (from
  fields back to planar maps, which you will write as exercise 9: for each pair of field and map it learns one planar
  filter of k × k; plane h sees that filter moved by h, and the planes are added up).
- `c_in`, `c_out`: numbers of channels of a picture or of planar maps, or of fields. `k`: side of the filter. `n`: planes of
  a field, 4 or 8.
- Returns two whole numbers, (free, plain). free: how many numbers the layer learns, all filters together. plain: how many
  weights the one ordinary convolution has that gives the same maps, where a field counts as n maps.
""".strip(),
    reference=count_weights,
    alternatives=(_counts_of_tensors, _counts_from_maps, _counts_table),
    misconceptions=(
        Misconception(
            _counts_group_without_planes,
            'A filter from field to field ("group") has n planes of its own, one for each element: (O, I, n, k, k).',
        ),
        Misconception(
            _counts_plain_without_output,
            "Your plain convolution makes too few maps: where the output is a field, each of its n planes is a map.",
        ),
        Misconception(
            _counts_same_width,
            "You compare with a plain layer of the same number of channels. Wanted is the one that gives the same maps: a "
            "field counts as n of them.",
        ),
        Misconception(
            _counts_swapped, "You return the two numbers in the other order: first free, then plain."
        ),
        Misconception(_counts_k_once, "A filter of side k has k² taps, not k."),
        Misconception(
            _counts_both_equal,
            "You return the plain number twice. What the layer learns is less: one filter serves in all n poses.",
        ),
        Misconception(_counts_with_bias, "You count a bias. Only the filters are asked for."),
        Misconception(
            _counts_plane_like_group,
            'The layer "plane" has a planar filter and makes planar maps: no n for the filter, one n for the maps that come in.',
        ),
        Misconception(
            _counts_plane_has_planes,
            'The filter of the layer "plane" is planar, k × k: plane h sees the same one, moved by h.',
        ),
        Misconception(
            _counts_lift_per_element,
            "The lifting layer learns one filter and makes its n poses from it. Count it once.",
        ),
    ),
    hints=(
        "Write down the shape of all filters of each of the three layers, and multiply.",
        "For the plain convolution: maps in times maps out times k². A picture with c channels is c maps, a field with c "
        "channels is n·c maps.",
        "In all three cases plain / free is the same number. Which?",
    ),
    checks=(_check_counts,),
)

DENSE_STEP = Exercise(
    name="dense_step",
    lesson=LESSON,
    title="A dense step",
    points=2,
    objective="Assemble a P4M-DenseNet from your own parts.",
    statement="""
Write `dense_step(f, layer, transition)`: one dense block and its transition, the piece of which P4M-DenseNet is made.

- `f`: float tensor (B, C, n, H, W). `layer` and `transition`: functions from a field to a field. `layer` gives new fields
  (B, C', n, H − 2b, W − 2b), for some b ≥ 1: it convolves without padding. `transition` keeps rows and columns.
- First the new fields: `layer` of f. Then f, cut to the size of the new fields (its middle: b rows and columns less on
  each side), and after it on axis 1 the new fields. Then `transition` of both together. Last the mean over each 2 × 2
  pixels, plane by plane.
- Call `layer` and `transition` once each, and hand them just that. Both may hold a batch norm in training: it takes its
  means over every pixel that it is given, and notes them down at each call.
- H and W may differ; H − 2b and W − 2b are even.
- Returns (B, C'', n, (H − 2b)/2, (W − 2b)/2), where C'' is what `transition` makes, dtype as in `f`. Gradients flow to
  `f`, by way of both functions. `f` itself stays as it is.
""".strip(),
    reference=dense_step,
    alternatives=(_step_by_padding, _step_by_slices, _step_narrowed),
    misconceptions=(
        Misconception(
            _step_top_left,
            "You cut f at its lower right only, so old and new fields show places that are b pixels apart, and a turn moves "
            "them apart the other way. Cut b from each side.",
        ),
        Misconception(
            _step_border_of_one,
            "You always cut one pixel from each side. How many it must be follows from the sizes of f and of the new fields.",
        ),
        Misconception(
            _step_pads_new, "You pad the new fields with zeros up to the size of f. Cut f instead."
        ),
        Misconception(
            _step_resizes,
            "You shrink f to the new size. Then its pixels lie elsewhere than those of the new fields: cut it.",
        ),
        Misconception(
            _step_new_first, "Your new fields come first. The order on axis 1 is: old fields, new fields."
        ),
        Misconception(
            _step_relu_on_new,
            "You cut the new fields off at zero. They go on as `layer` gives them: the nonlinearities are inside `layer` and "
            "`transition`.",
        ),
        Misconception(
            _step_drops_old,
            "The old fields are missing. In a DenseNet a layer's input goes on beside its output.",
        ),
        Misconception(_step_without_new, "The new fields are missing: what `layer` makes must go on, too."),
        Misconception(
            _step_without_pooling, "The pooling at the end is missing: the mean over each 2 × 2 pixels."
        ),
        Misconception(_step_maximum, "You take the largest of each 2 × 2 pixels. Wanted is their mean."),
        Misconception(
            _step_pools_planes,
            "You pool over pairs of planes, too. That mixes poses that have nothing to do with each other: pool each plane by "
            "itself.",
        ),
        Misconception(
            _step_pools_first,
            "You pool before the transition. It has a nonlinearity inside, so the order matters: transition first.",
        ),
        Misconception(
            _step_without_transition,
            "You leave the transition out: old and new fields must pass it before pooling.",
        ),
        Misconception(
            _step_every_other_pixel,
            "You keep every other pixel instead of the mean. The kept ones lie to one side, so this does not follow a turn.",
        ),
        Misconception(
            _step_crops_last,
            "You cut after the transition, and until then the new fields carry a border of zeros. A batch norm in the "
            "transition takes its means over that border too: cut f first.",
        ),
        Misconception(
            _step_layer_twice,
            "You call `layer` more than once, perhaps to learn the size of what it makes. A batch norm inside notes down "
            "the means of its batch at every call: call it once and keep the result.",
        ),
        Misconception(
            _step_transition_twice,
            "You call `transition` more than once. It takes time, and a batch norm inside notes down the means of its "
            "batch at every call: call it once and keep the result.",
        ),
        Misconception(
            _step_detaches_new,
            "The numbers are right, but the new fields are cut off from the gradient (`.detach()`, `torch.no_grad()`): "
            "`layer` would never learn.",
        ),
        Misconception(
            _step_detaches_old,
            "The numbers are right, but the old fields are cut off from the gradient (`.detach()`, `torch.no_grad()`): "
            "the layers before this step would learn by way of `layer` alone.",
        ),
    ),
    hints=(
        "Four lines: the new fields; the middle of f; both through the transition; the mean of each 2 × 2 pixels.",
        "b = (f.shape[-1] − new.shape[-1]) // 2. The middle of f is `f[..., b : f.shape[-2] − b, b : f.shape[-1] − b]`, and "
        "`torch.cat([old, new], dim=1)` puts fields side by side.",
        "`F.avg_pool3d(y, (1, 2, 2))` takes the planes as a third direction in which it pools nothing. Or use `F.avg_pool2d`, "
        "which takes four axes: `flatten(1, 2)` joins fields and planes to maps, and `unflatten(1, y.shape[1:3])` parts them "
        "again.",
    ),
    checks=(_check_step_crop, _check_step_map, _check_step_batch_norm, _check_step_learns),
)
