"""Every known answer to the exercises of lesson 2 gets its verdict, and so do answers that nobody listed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coursekit.testing import full_points, kill_matrix, no_points
from equipath.exercises.steerable_kernels import (
    CONSTRAINT_GAP,
    COUNT_KERNELS,
    GATED_RELU,
    MIXED_LAYER,
    MOVE_VECTORS,
    NORM_RELU,
    POOL_VECTORS,
    SAMPLE_KERNEL,
    STEERABLE_KERNEL,
)

# The quick run judges lesson 1's exercises, which is enough to see that the checks work.
pytestmark = pytest.mark.slow

test_kill = kill_matrix("equipath.exercises.steerable_kernels")


def _unusual_and_right():
    def vectors_recursive(v, r, m):
        if m:
            sign = torch.tensor([-1.0, 1.0], dtype=v.dtype)[:, None, None]
            return vectors_recursive(torch.flip(v, dims=[-1]) * sign, r, False)
        if r % 4 == 0:
            return v.clone()
        turned = torch.flip(v.transpose(-1, -2), [-2])
        return vectors_recursive(
            torch.cat([-turned[..., 1:, :, :], turned[..., :1, :, :]], -3), r % 4 - 1, False
        )

    def vectors_numpy(v, r, m):
        a = np.rot90(np.flip(v.numpy(), -1) if m else v.numpy(), r, (-2, -1)).copy()
        x, y = a[..., 0, :, :] * (-1 if m else 1), a[..., 1, :, :]
        c, s = round(math.cos(r * math.pi / 2)), round(math.sin(r * math.pi / 2))
        return torch.from_numpy(np.stack([c * x - s * y, s * x + c * y], axis=-3))

    def vectors_in_place_on_a_copy(v, r, m):
        out = v.clone()
        if m:
            out = out.flip(-1)
            out[..., 0, :, :] *= -1
        out = torch.rot90(out, r, [-2, -1])
        for _ in range(r % 4):
            out = torch.stack((-out.select(-3, 1), out.select(-3, 0)), dim=-3)
        return out

    def gap_single_precision(kernel, g, rho_out, rho_in, points):
        left = kernel(points @ g.T)
        right = rho_out @ kernel(points) @ torch.inverse(rho_in)
        return (left.float() - right.float()).abs().max().item()

    def gap_right_multiplied(kernel, g, rho_out, rho_in, points):
        # (K(gx) rho_in - rho_out K(x)) rho_in^-1 is the same matrix
        return float(
            ((kernel(points @ g.t()) @ rho_in - rho_out @ kernel(points)) @ rho_in.inverse()).abs().max()
        )

    def gap_bmm(kernel, g, rho_out, rho_in, points):
        n = len(points)
        moved = torch.stack([g.mv(p) for p in points])
        right = torch.bmm(
            torch.bmm(rho_out.repeat(n, 1, 1), kernel(points)), rho_in.inverse().repeat(n, 1, 1)
        )
        return max((kernel(moved) - right).abs().flatten().tolist())

    def kernel_by_lists(points, source, target, f1, f2):
        r = torch.linalg.vector_norm(points, dim=-1)
        x, y = points.T
        one = torch.ones_like(x)
        rows = {
            "scalarscalar": [[one]],
            "scalarvector": [[x], [y]],
            "vectorscalar": [[x, y]],
        }.get(source + target)
        if rows is None:
            a, b = f1(r), f2(r)
            rows = [[a + b * x * x, b * x * y], [b * y * x, a + b * y * y]]
        else:
            rows = [[f1(r) * entry for entry in row] for row in rows]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def kernel_keepdim(points, source, target, f1, f2):
        r = points.norm(dim=1, keepdim=True)[..., None]  # the profiles see (N, 1, 1)
        left = points[..., None] if target == "vector" else torch.ones_like(r)
        right = points[:, None] if source == "vector" else torch.ones_like(r)
        if source == target == "vector":
            return f2(r) * (left @ right) + f1(r) * torch.eye(2).to(points)
        return f1(r) * (left @ right)

    def count_null_space(rho_out, rho_in):
        from scipy.linalg import null_space

        a, b = rho_out.shape[1], rho_in.shape[1]
        rows = [
            np.kron(np.eye(b), o) - np.kron(i.T, np.eye(a))
            for o, i in zip(rho_out.numpy(), rho_in.numpy(), strict=True)
        ]
        return null_space(np.concatenate(rows), rcond=1e-8).shape[1]

    def count_plain_rank(rho_out, rho_in):
        a, b = rho_out.shape[-1], rho_in.shape[-1]
        units = torch.eye(a * b, dtype=torch.float64).reshape(a * b, a, b)
        columns = rho_out[:, None] @ units - units @ rho_in[:, None]
        return a * b - torch.linalg.matrix_rank(columns.transpose(0, 1).reshape(a * b, -1)).item()

    def count_integer_tensor(rho_out, rho_in):
        return torch.tensor(COUNT_KERNELS.reference(rho_out, rho_in))

    def count_eigenvalues(rho_out, rho_in):
        a, b = rho_out.shape[-1], rho_in.shape[-1]
        mean = sum(
            torch.kron(o.contiguous(), torch.linalg.inv(i).T.contiguous())
            for o, i in zip(rho_out, rho_in, strict=True)
        ) / len(rho_out)
        values = torch.linalg.eigvals(mean).abs()
        assert mean.shape == (a * b, a * b)
        return int((values > 0.5).sum())

    def sample_columns_first(kernel, size):
        c = (size - 1) // 2
        points = torch.tensor(
            [[x, y] for x in range(-c, c + 1) for y in range(c, -c - 1, -1)], dtype=torch.float64
        )
        values = kernel(points).reshape(size, size, *kernel(points[:1]).shape[1:])
        return values.permute(2, 3, 1, 0)

    def sample_cartesian(kernel, size):
        line = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size, dtype=torch.double)
        x, y = torch.meshgrid(line, line.flip(0), indexing="xy")
        values = kernel(torch.stack([x.flatten(), y.flatten()], 1))
        return torch.einsum("nab->abn", values).unflatten(-1, (size, size)).contiguous()

    def mixed_two_convolutions(x, rings, arrows, f, g):
        pad = rings.shape[-1] // 2
        scalars = F.conv2d(x, (f[..., None, None] * rings).sum(2), padding=pad)
        right = F.conv2d(x, torch.tensordot(g, arrows[:, 0], 1), padding=pad)
        up = F.conv2d(x, torch.tensordot(g, arrows[:, 1], 1), padding=pad)
        return torch.cat([scalars, torch.stack([right, up], 2).flatten(1, 2)], 1)

    def mixed_same(x, rings, arrows, f, g):
        bank = [sum(f[s, :, n, None, None] * rings[n] for n in range(len(rings))) for s in range(len(f))]
        for v in range(len(g)):
            for a in range(2):
                bank.append(sum(g[v, :, m, None, None] * arrows[m, a] for m in range(len(arrows))))
        return F.conv2d(x, torch.stack(bank), padding="same")

    def mixed_single_precision(x, rings, arrows, f, g):
        args = [t.float() for t in (x, rings, arrows, f, g)]
        return mixed_two_convolutions(*args).double()

    def norm_clamped(v, b):
        length = v.pow(2).sum(2, keepdim=True).clamp(min=1e-20).sqrt()
        return (v / length) * torch.relu(length + b.view(1, -1, 1, 1, 1))

    def norm_with_eps_outside(v, b):
        length = torch.linalg.vector_norm(v, dim=2)
        factor = F.relu(length + b[None, :, None, None]) / (length + 1e-8)
        return v * factor.unsqueeze(2)

    def norm_with_the_largest_allowed_eps(v, b):
        length = v.norm(dim=2, keepdim=True)
        return v * F.relu(length + b[:, None, None, None]) / (length + 1e-6)

    def norm_by_field(v, b):
        fields = []
        for n, bias in enumerate(b):
            length = torch.sqrt((v[:, n] ** 2).sum(1, keepdim=True) + 1e-13)
            fields.append(torch.where(length + bias > 0, (length + bias) / length, 0 * length) * v[:, n])
        return torch.stack(fields, 1)

    def gated_where(x, s, v):
        scalars = torch.where(x[:, :s] > 0, x[:, :s], torch.zeros_like(x[:, :s]))
        gates = torch.special.expit(x[:, s : s + v])
        right = x[:, s + v :: 2] * gates
        up = x[:, s + v + 1 :: 2] * gates
        return torch.cat([scalars, torch.stack((right, up), dim=2).reshape(len(x), -1, *x.shape[2:])], 1)

    def gated_on_a_copy(x, s, v):
        x = x.clone()
        x[:, :s] = x[:, :s].clamp_min(0)
        for n in range(v):
            x[:, s + v + 2 * n : s + v + 2 * n + 2] *= torch.sigmoid(x[:, s + n : s + n + 1])
        return torch.cat((x[:, :s], x[:, s + v :]), 1)

    def pool_unfolded(v, k):
        windows = v.unfold(3, k, k).unfold(4, k, k).flatten(5)
        best = windows.norm(dim=2).argmax(-1)
        chosen = F.one_hot(best, k * k).to(v.dtype)
        return (windows * chosen[:, :, None]).sum(-1)

    def pool_by_sorting(v, k):
        b, n, _, h, w = v.shape
        windows = F.unfold(v.reshape(b * n, 2, h, w), k, stride=k).reshape(b * n, 2, k * k, -1)
        order = (windows**2).sum(1, keepdim=True).argsort(dim=2, descending=True)[:, :, :1]
        return windows.gather(2, order.expand(-1, 2, -1, -1)).reshape(b, n, 2, h // k, w // k)

    def pool_mean_of_the_longest(v, k):
        from equipath.nn.steerable import SteerablePool2d

        n = v.shape[1]
        return SteerablePool2d((0, n), k)(v.flatten(1, 2)).unflatten(1, (n, 2))

    return [
        (MOVE_VECTORS, vectors_recursive),
        (MOVE_VECTORS, vectors_numpy),
        (MOVE_VECTORS, vectors_in_place_on_a_copy),
        (CONSTRAINT_GAP, gap_single_precision),
        (CONSTRAINT_GAP, gap_right_multiplied),
        (CONSTRAINT_GAP, gap_bmm),
        (STEERABLE_KERNEL, kernel_by_lists),
        (STEERABLE_KERNEL, kernel_keepdim),
        (COUNT_KERNELS, count_null_space),
        (COUNT_KERNELS, count_plain_rank),
        (COUNT_KERNELS, count_integer_tensor),
        (COUNT_KERNELS, count_eigenvalues),
        (SAMPLE_KERNEL, sample_columns_first),
        (SAMPLE_KERNEL, sample_cartesian),
        (MIXED_LAYER, mixed_two_convolutions),
        (MIXED_LAYER, mixed_same),
        (MIXED_LAYER, mixed_single_precision),
        (NORM_RELU, norm_clamped),
        (NORM_RELU, norm_with_eps_outside),
        (NORM_RELU, norm_with_the_largest_allowed_eps),
        (NORM_RELU, norm_by_field),
        (GATED_RELU, gated_where),
        (GATED_RELU, gated_on_a_copy),
        (POOL_VECTORS, pool_unfolded),
        (POOL_VECTORS, pool_by_sorting),
        (POOL_VECTORS, pool_mean_of_the_longest),
    ]


def _unlisted_and_wrong():
    def vectors_degrees(v, r, m):
        a = math.radians(r)
        x, y = torch.rot90(v, r, (-2, -1)).unbind(-3)
        return torch.stack([math.cos(a) * x - math.sin(a) * y, math.sin(a) * x + math.cos(a) * y], -3)

    def vectors_other_sign(v, r, m):
        return -MOVE_VECTORS.reference(v, r, m)

    def vectors_square_only(v, r, m):
        return MOVE_VECTORS.reference(v, r, m).reshape(v.shape)

    def gap_always_zero(kernel, g, rho_out, rho_in, points):
        return 0.0

    def gap_first_point(kernel, g, rho_out, rho_in, points):
        return CONSTRAINT_GAP.reference(kernel, g, rho_out, rho_in, points[:1])

    def gap_squared(kernel, g, rho_out, rho_in, points):
        return CONSTRAINT_GAP.reference(kernel, g, rho_out, rho_in, points) ** 2

    def kernel_constant(points, source, target, f1, f2):
        a, b = 1 + (target == "vector"), 1 + (source == "vector")
        return f1(points.norm(dim=1))[:, None, None] * torch.ones(a, b, dtype=points.dtype)

    def kernel_minus(points, source, target, f1, f2):
        return STEERABLE_KERNEL.reference(-points, source, target, f1, f2) * (1 if source == target else 2)

    def kernel_traceless(points, source, target, f1, f2):
        made = STEERABLE_KERNEL.reference(points, source, target, f1, f2)
        if source == target == "vector":
            r = points.norm(dim=1)[:, None, None]
            made = made - f2(r) * r**2 / 2 * torch.eye(2, dtype=points.dtype)
        return made

    def count_one(rho_out, rho_in):
        return 1

    def count_smaller(rho_out, rho_in):
        return min(rho_out.shape[1], rho_in.shape[1])

    def count_table(rho_out, rho_in):
        return 2 if rho_out.shape[1] == rho_in.shape[1] == 2 else 1

    def sample_even_centre(kernel, size):
        at = torch.arange(size, dtype=torch.float64) - size // 2 - 1
        y, x = torch.meshgrid(-at, at, indexing="ij")
        return kernel(torch.stack([x, y], -1).reshape(-1, 2)).movedim(0, -1).unflatten(-1, (size, size))

    def sample_normalised(kernel, size):
        made = SAMPLE_KERNEL.reference(kernel, size)
        return made / made.abs().sum()

    def mixed_bias(x, rings, arrows, f, g):
        return MIXED_LAYER.reference(x, rings, arrows, f, g) + 0.1

    def mixed_scalars_only(x, rings, arrows, f, g):
        y = MIXED_LAYER.reference(x, rings, arrows, f, g)
        y[:, len(f) :] = 0
        return y

    def mixed_minus(x, rings, arrows, f, g):
        return MIXED_LAYER.reference(x, rings, -arrows, f, g)

    def norm_leaky(v, b):
        return 0.99 * NORM_RELU.reference(v, b) + 0.01 * v

    def norm_detached(v, b):
        return NORM_RELU.reference(v, b.detach())

    def norm_unit(v, b):
        return F.normalize(v, dim=2)

    def norm_root_of_1e_8(v, b):
        length = (v.square().sum(2, keepdim=True) + 1e-8).sqrt()
        return v * torch.relu(length + b[:, None, None, None]) / length

    def norm_sigmoid(v, b):
        return v * torch.sigmoid(v.norm(dim=2, keepdim=True) + b[:, None, None, None])

    def gated_reversed(x, s, v):
        return GATED_RELU.reference(torch.cat([x[:, :s], x[:, s : s + v].flip(1), x[:, s + v :]], 1), s, v)

    def gated_twice(x, s, v):
        y = GATED_RELU.reference(x, s, v)
        return torch.cat([y[:, :s], y[:, s:] * 2], 1)

    def pool_two_only(v, k):
        return POOL_VECTORS.reference(v, 2) if v.shape[-1] % 2 == 0 and v.shape[-2] % 2 == 0 else v

    def pool_unit(v, k):
        return F.normalize(POOL_VECTORS.reference(v, k), dim=2)

    def pool_last(v, k):
        return v[..., k - 1 :: k, k - 1 :: k].clone()

    return [
        (MOVE_VECTORS, vectors_degrees),
        (MOVE_VECTORS, vectors_other_sign),
        (MOVE_VECTORS, vectors_square_only),
        (CONSTRAINT_GAP, gap_always_zero),
        (CONSTRAINT_GAP, gap_first_point),
        (CONSTRAINT_GAP, gap_squared),
        (STEERABLE_KERNEL, kernel_constant),
        (STEERABLE_KERNEL, kernel_minus),
        (STEERABLE_KERNEL, kernel_traceless),
        (COUNT_KERNELS, count_one),
        (COUNT_KERNELS, count_smaller),
        (COUNT_KERNELS, count_table),
        (SAMPLE_KERNEL, sample_even_centre),
        (SAMPLE_KERNEL, sample_normalised),
        (MIXED_LAYER, mixed_bias),
        (MIXED_LAYER, mixed_scalars_only),
        (MIXED_LAYER, mixed_minus),
        (NORM_RELU, norm_leaky),
        (NORM_RELU, norm_detached),
        (NORM_RELU, norm_unit),
        (NORM_RELU, norm_root_of_1e_8),
        (NORM_RELU, norm_sigmoid),
        (GATED_RELU, gated_reversed),
        (GATED_RELU, gated_twice),
        (POOL_VECTORS, pool_two_only),
        (POOL_VECTORS, pool_unit),
        (POOL_VECTORS, pool_last),
    ]


test_an_unusual_right_answer_gets_full_points = full_points(_unusual_and_right())
test_a_wrong_answer_that_nobody_listed_gets_a_sentence_and_no_points = no_points(_unlisted_and_wrong())


def test_a_repaired_division_is_told_apart_from_a_safe_one():
    def repaired(v, b):
        length = v.square().sum(2, keepdim=True).sqrt()
        return torch.nan_to_num(v * torch.relu(length + b[:, None, None, None]) / length)

    assert "repair the 0/0 afterwards" in NORM_RELU.judge(repaired).message


def test_a_matrix_of_other_precision_is_told():
    def doubled(v, r, m):
        return MOVE_VECTORS.reference(v, r, m).double()

    assert "float64 whatever comes in" in MOVE_VECTORS.judge(doubled).message
