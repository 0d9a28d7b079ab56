"""Every known answer to the exercises of lesson 1 gets its verdict, and so do answers that nobody listed."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from coursekit.testing import full_points, kill_matrix, no_points
from equipath.exercises import symmetry
from equipath.exercises.symmetry import (
    AVERAGE_OVER_GROUP,
    CORRELATE,
    DICE_CROSS_ENTROPY,
    EQUIVARIANCE_ERROR,
    INVERSES,
    MOVE,
    MOVE_POINTS,
    PRODUCT_TABLE,
)

test_kill = kill_matrix("equipath.exercises.symmetry")


def _unusual_and_right():
    def move_complex_index(x, r, m):
        h, w = x.shape[-2:]
        flat = torch.arange(h * w).reshape(h, w)
        order = np.rot90(np.fliplr(flat.numpy()) if m else flat.numpy(), r)
        return x.reshape(*x.shape[:-2], h * w)[..., torch.from_numpy(order.copy())]

    def move_recursive(x, r, m):
        if m:
            return move_recursive(torch.flip(x, dims=[x.ndim - 1]), r, False)
        if r % 4 == 0:
            return x.clone()
        return move_recursive(torch.flip(x.mT, dims=[-2]), (r % 4) - 1, False)

    def move_by_half_turn_first(x, r, m):
        r = r % 4
        x = torch.flip(x, [-1]) if m else x
        if r >= 2:
            x = torch.flip(x, [-2, -1])
        return torch.flip(x.transpose(-1, -2), [-2]) if r % 2 else x

    def points_by_probing(points, r, m, height, width):
        # The map is affine: probe three corners with an image of coordinates and read it off.
        grid = torch.stack(
            torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        )  # old coordinates
        moved = torch.rot90(grid.flip(-1) if m else grid, r, (-2, -1))
        place = {}
        for i in range(moved.shape[1]):
            for j in range(moved.shape[2]):
                place[tuple(moved[:, i, j].tolist())] = (i, j)
        origin = torch.tensor(place[0, 0], dtype=points.dtype)
        down = torch.tensor(place[1, 0], dtype=points.dtype) - origin
        right = torch.tensor(place[0, 1], dtype=points.dtype) - origin
        return origin + points[:, :1] * down + points[:, 1:] * right

    def points_table(points, r, m, height, width):
        y, x = points.unbind(dim=1)
        x = width - 1 - x if m else x
        pairs = [(y, x), (width - 1 - x, y), (height - 1 - y, width - 1 - x), (x, height - 1 - y)]
        return torch.stack(pairs[r % 4], dim=-1)

    def error_einsum(f, x, move_in, move_out):
        a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
        top, bottom = torch.einsum("bi,bi->b", a - b, a - b), torch.einsum("bi,bi->b", b, b)
        return torch.mean(torch.sqrt(top / bottom)).item()

    def error_float32(f, x, move_in, move_out):
        a, b = f(move_in(x)).float(), move_out(f(x)).float()
        ratios = [torch.dist(p, q) / q.norm() for p, q in zip(a, b, strict=True)]
        return sum(ratios) / len(ratios)

    def error_output_first(f, x, move_in, move_out):
        reference = move_out(f(x))
        n = len(x)
        gap = (reference - f(move_in(x))).reshape(n, -1)
        return (
            torch.linalg.vector_norm(gap, dim=1) / torch.linalg.vector_norm(reference.reshape(n, -1), dim=1)
        ).mean()

    def correlate_unfold(x, w):
        kh, kw = w.shape[-2:]
        padded = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), mode="circular")
        columns = F.unfold(padded, (kh, kw))
        return (w.flatten(1) @ columns).reshape(x.shape[0], w.shape[0], *x.shape[-2:])

    def correlate_tiled(x, w):
        h, wd = x.shape[-2:]
        big = x.repeat(1, 1, 3, 3)
        return F.conv2d(big, w, padding="same")[..., h : 2 * h, wd : 2 * wd]

    def correlate_in_single_precision(x, w):
        kh, kw = w.shape[-2:]
        padded = F.pad(x.float(), (kw // 2, kw // 2, kh // 2, kh // 2), mode="circular")
        return F.conv2d(padded, w.float()).to(x.dtype)

    def correlate_scipy(x, w):
        from scipy.ndimage import correlate

        out = [
            [sum(correlate(c, k, mode="wrap") for c, k in zip(b, o, strict=True)) for o in w.numpy()]
            for b in x.numpy()
        ]
        return torch.from_numpy(np.array(out))

    def table_three_loops(moves):
        n = len(moves)
        x = torch.rand(2, 3, 4, 4)
        table = -torch.ones(n, n, dtype=torch.int64)
        for a in range(n):
            for b in range(n):
                for c in range(n):
                    left, right = moves[a](moves[b](x)), moves[c](x)
                    if left.shape == right.shape and (left == right).all():
                        table[a, b] = c
        return table

    def table_one_dot(moves):
        dot = torch.zeros(1, 1, 5, 5)
        dot[0, 0, 0, 1] = 1
        where = {int(f(dot).flatten().argmax()): i for i, f in enumerate(moves)}
        return torch.tensor(
            [[where.get(int(f(g(dot)).flatten().argmax()), -1) for g in moves] for f in moves]
        )

    def table_bool_pictures(moves):
        corner = torch.tensor([[[[True, True, False], [False, False, False], [False, False, False]]]])
        singles = [f(corner) for f in moves]
        return torch.tensor(
            [
                [next((c for c, s in enumerate(singles) if bool((f(t) == s).all())), -1) for t in singles]
                for f in moves
            ]
        )

    def inverses_argwhere(table):
        n = len(table)
        e = next(k for k in range(n) if (table[k] == torch.arange(n)).all())
        return torch.argwhere(e == table.T)[:, 1] * 0 + torch.argwhere(table == e)[:, 1]

    def inverses_by_sorting(table):
        e = int((table == torch.arange(len(table))).all(dim=1).nonzero())
        return torch.where(table == e, torch.arange(len(table)), 0).sum(1)

    def loss_nll(logits, target):
        log_p = F.log_softmax(logits, 1)
        p = log_p.exp()
        dice = []
        for k in range(logits.shape[1]):
            inside = p[:, k][target == k].sum()
            dice.append((2 * inside + 1) / (p[:, k].sum() + (target == k).sum() + 1))
        return F.nll_loss(log_p, target) + 1 - sum(dice) / len(dice)

    def loss_double(logits, target):
        z = logits.double()
        log_p = z - torch.logsumexp(z, 1, keepdim=True)
        y = torch.zeros_like(z).scatter_(1, target.unsqueeze(1), 1.0)
        ce = -(log_p * y).sum() / target.numel()
        p = torch.exp(log_p)
        s = (0, 2, 3)
        return (ce + (1 - (2 * (p * y).sum(s) + 1) / ((p + y).sum(s) + 1)).mean()).to(logits.dtype)

    def average_in_place_sum(f, x, moves, inverse, planar=True):
        out = torch.zeros_like(f(x))
        for g in range(len(moves)):
            y = f(moves[g](x))
            out += moves[int(inverse[g])](y) if planar else y
        return out / len(moves)

    def average_one_batch(f, x, moves, inverse, planar=True):
        # Pictures of one shape go through the network together.
        turned = [move(x) for move in moves]
        answers = [None] * len(moves)
        for shape in {t.shape for t in turned}:
            ids = [g for g, t in enumerate(turned) if t.shape == shape]
            for g, y in zip(ids, f(torch.cat([turned[g] for g in ids])).chunk(len(ids)), strict=True):
                answers[g] = moves[inverse[g]](y) if planar else y
        return sum(answers) / len(answers)

    return [
        (MOVE, move_complex_index),
        (MOVE, move_recursive),
        (MOVE, move_by_half_turn_first),
        (MOVE_POINTS, points_by_probing),
        (MOVE_POINTS, points_table),
        (EQUIVARIANCE_ERROR, error_einsum),
        (EQUIVARIANCE_ERROR, error_float32),
        (EQUIVARIANCE_ERROR, error_output_first),
        (CORRELATE, correlate_unfold),
        (CORRELATE, correlate_tiled),
        (CORRELATE, correlate_in_single_precision),
        (CORRELATE, correlate_scipy),
        (PRODUCT_TABLE, table_three_loops),
        (PRODUCT_TABLE, table_one_dot),
        (PRODUCT_TABLE, table_bool_pictures),
        (INVERSES, inverses_argwhere),
        (INVERSES, inverses_by_sorting),
        (DICE_CROSS_ENTROPY, loss_nll),
        (DICE_CROSS_ENTROPY, loss_double),
        (AVERAGE_OVER_GROUP, average_in_place_sum),
        (AVERAGE_OVER_GROUP, average_one_batch),
    ]


def _unlisted_and_wrong():
    def move_mirror_first_only_even(x, r, m):
        return torch.rot90(x.flip(-1) if m and r % 2 == 0 else x, r, (-2, -1))

    def move_degrees(x, r, m):
        return torch.rot90(x.flip(-1) if m else x, r // 90, (-2, -1))

    def move_zero(x, r, m):
        return torch.zeros_like(torch.rot90(x, r, (-2, -1)))

    def points_degrees(points, r, m, height, width):
        angle = math.radians(90 * r)
        y, x = points.unbind(1)
        x = -x if m else x
        return torch.stack(
            [y * math.cos(angle) - x * math.sin(angle), y * math.sin(angle) + x * math.cos(angle)], 1
        )

    def error_constant(f, x, move_in, move_out):
        return 0.0

    def error_maximum(f, x, move_in, move_out):
        a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
        return float(((a - b).abs().amax(1) / b.abs().amax(1)).mean())

    def error_divides_by_moved(f, x, move_in, move_out):
        a, b = f(move_in(x)).flatten(1), move_out(f(x)).flatten(1)
        return float(((a - b).norm(dim=1) / a.norm(dim=1)).mean())

    def correlate_zero(x, w):
        return torch.zeros(x.shape[0], w.shape[0], *x.shape[-2:], dtype=x.dtype)

    def correlate_extra_bias(x, w):
        return symmetry.CORRELATE.reference(x, w) + 1.0

    def correlate_swapped_weights(x, w):
        if w.shape[0] != w.shape[1]:
            return symmetry.CORRELATE.reference(x, w)
        return symmetry.CORRELATE.reference(x, w.transpose(0, 1))

    def table_of_library(moves):
        from equipath.groups import P4M

        return P4M.table[: len(moves), : len(moves)].clone()

    def table_one_based(moves):
        return symmetry.PRODUCT_TABLE.reference(moves) + 1

    def inverses_of_p4m(table):
        return torch.tensor([0, 3, 2, 1, 4, 5, 6, 7])[: len(table)]

    def loss_halved(logits, target):
        return symmetry.DICE_CROSS_ENTROPY.reference(logits, target) / 2

    def loss_detached(logits, target):
        return symmetry.DICE_CROSS_ENTROPY.reference(logits.detach(), target)

    def loss_zero(logits, target):
        return (logits * 0).sum()

    def average_median(f, x, moves, inverse, planar=True):
        ys = [f(move(x)) for move in moves]
        return torch.stack([moves[inverse[g]](y) if planar else y for g, y in enumerate(ys)]).median(0).values

    def average_of_nothing(f, x, moves, inverse, planar=True):
        return f(x) * 0

    def average_turns_only(f, x, moves, inverse, planar=True):
        return symmetry.AVERAGE_OVER_GROUP.reference(f, x, moves[:4], inverse[:4], planar)

    return [
        (MOVE, move_mirror_first_only_even),
        (MOVE, move_degrees),
        (MOVE, move_zero),
        (MOVE_POINTS, points_degrees),
        (EQUIVARIANCE_ERROR, error_constant),
        (EQUIVARIANCE_ERROR, error_maximum),
        (EQUIVARIANCE_ERROR, error_divides_by_moved),
        (CORRELATE, correlate_zero),
        (CORRELATE, correlate_extra_bias),
        (CORRELATE, correlate_swapped_weights),
        (PRODUCT_TABLE, table_of_library),
        (PRODUCT_TABLE, table_one_based),
        (INVERSES, inverses_of_p4m),
        (DICE_CROSS_ENTROPY, loss_halved),
        (DICE_CROSS_ENTROPY, loss_detached),
        (DICE_CROSS_ENTROPY, loss_zero),
        (AVERAGE_OVER_GROUP, average_median),
        (AVERAGE_OVER_GROUP, average_of_nothing),
        (AVERAGE_OVER_GROUP, average_turns_only),
    ]


test_an_unusual_right_answer_gets_full_points = full_points(_unusual_and_right())
test_a_wrong_answer_that_nobody_listed_gets_a_sentence_and_no_points = no_points(_unlisted_and_wrong())
