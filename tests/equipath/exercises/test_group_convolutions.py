"""Every known answer to the exercises of lesson 3 gets its verdict, and so do answers that nobody listed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coursekit.testing import full_points, kill_matrix, no_points
from equipath.exercises.group_convolutions import (
    COUNT_WEIGHTS,
    DENSE_STEP,
    EXACT_SIZES,
    FOUR_ANSWERS,
    GROUP_BATCH_NORM,
    GROUP_CONV,
    GROUP_TAPS,
    LIFT,
    MOVE_FIELD,
    TO_PLANE,
    move,
)
from equipath.groups import P4, P4M

# The quick run judges lesson 1's exercises, which is enough to see that the checks work.
pytestmark = pytest.mark.slow

test_kill = kill_matrix("equipath.exercises.group_convolutions")


def _unusual_and_right():
    def answers_einsum(patch, w):
        poses = torch.stack([w, w.T.flip(0), w.flip(0, 1), w.T.flip(1)])
        return torch.einsum("nij,rij->nr", patch, poses)

    def answers_numpy(patch, w):
        a, b = patch.numpy(), w.numpy()
        return torch.from_numpy(np.stack([(a * np.rot90(b, r)).sum((1, 2)) for r in range(4)], 1))

    def answers_patch_by_patch(patch, w):
        rows = []
        for p in patch:
            pose, row = w.clone(), []
            for _ in range(4):
                row.append(torch.tensordot(p, pose, 2))
                pose = torch.rot90(pose)
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def answers_in_double(patch, w):
        poses = torch.stack([torch.rot90(w, r) for r in range(4)]).double()
        return torch.einsum("nij,rij->nr", patch.double(), poses).to(patch.dtype)

    def lift_picture_by_picture(x, w, n):
        out = []
        for picture in x:
            poses = [F.conv2d(picture[None], move(w, g))[0] for g in range(n)]
            out.append(torch.stack(poses, dim=1))
        return torch.stack(out)

    def lift_group_convolution(x, w, n):
        many = torch.cat([x] * n, 1)
        bank = torch.cat([move(w, g) for g in range(n)], 0)
        y = F.conv2d(many, bank, groups=n).unflatten(1, (n, len(w)))
        return y.transpose(1, 2)

    def lift_fourier(x, w, n):
        h, width, k = *x.shape[-2:], w.shape[-1]
        bank = torch.stack([move(w, g) for g in range(n)], 1).double()
        spectrum = torch.einsum(
            "bihw,ogihw->boghw",
            torch.fft.rfft2(x.double()),
            torch.fft.rfft2(bank, s=(h, width)).conj(),
        )
        y = torch.fft.irfft2(spectrum, s=(h, width))
        return y[..., : h - k + 1, : width - k + 1].to(x.dtype)

    def lift_mirrored_second_half(x, w, n):
        def four(x):
            return torch.stack([F.conv2d(x, torch.rot90(w, r, (2, 3))) for r in range(4)], 2)

        upright = four(x)
        if n == 4:
            return upright
        # Seen in a mirror: the mirrored picture meets the filter turned the other way.
        mirrored = four(x.flip(-1)).flip(-1)
        return torch.cat([upright, mirrored[:, :, [0, 3, 2, 1]]], 2)

    def field_rolled_and_mirrored(f, g, table, inverse):
        n, r = f.shape[2], g % 4
        if n == 4:
            return torch.rot90(f.roll(r, 2), r, (-2, -1))
        turns, mirrored = f[:, :, :4], f[:, :, 4:]
        if g >= 4:  # a mirror swaps the halves and reverses the ring of each
            turns, mirrored = mirrored[:, :, [0, 3, 2, 1]].flip(-1), turns[:, :, [0, 3, 2, 1]].flip(-1)
        both = torch.cat([turns.roll(r, 2), mirrored.roll(r, 2)], 2)
        return torch.rot90(both, r, (-2, -1))

    def field_by_search(f, g, table, inverse):
        places = [int((table[g] == h).nonzero()) for h in range(len(table))]  # g · place = h
        return move(f.index_select(2, torch.tensor(places)), g)

    def field_numpy(f, g, table, inverse):
        a = f.numpy()[:, :, table.numpy()[inverse.numpy()[g]]]
        a = np.rot90(np.flip(a, -1) if g > 3 else a, g % 4, (-2, -1))
        return torch.from_numpy(a.copy())

    def group_by_lifting_each_plane(f, w, table, inverse):
        total = 0
        for h in range(len(table)):
            y = torch.stack(
                [F.conv2d(f[:, :, h], move(w[:, :, table[inverse[g], h]], g)) for g in range(len(table))], 2
            )
            total = total + y
        return total

    def group_conv3d(f, w, table, inverse):
        bank = [move(w[:, :, table[inverse[g]]], g) for g in range(len(table))]
        return torch.cat([F.conv3d(f, moved) for moved in bank], 2)

    def group_pair_by_pair(f, w, table, inverse):
        b, _, n, height, width = f.shape
        o, k = len(w), w.shape[-1]
        out = torch.zeros(b, o, n, height - k + 1, width - k + 1, dtype=f.dtype)
        for g in range(n):
            for h in range(n):
                plane = torch.rot90(
                    w[:, :, table[inverse[g]][h]].flip(-1) if g > 3 else w[:, :, table[inverse[g]][h]],
                    g,
                    (-2, -1),
                )
                out[:, :, g] += F.conv2d(f[:, :, h], plane)
        return out

    def group_in_double(f, w, table, inverse):
        return GROUP_CONV.reference(f.double(), w.double(), table, inverse).to(f.dtype)

    def taps_advanced_index(w, table, inverse):
        o, i, n, k, _ = w.shape
        g, h = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        planes = w[:, :, table[inverse[g], h]]  # (O, I, g, h, k, k)
        turned = torch.stack([move(planes[:, :, a], a) for a in range(n)], 2)
        return turned.permute(0, 2, 1, 3, 4, 5).reshape(o * n, i * n, k, k)

    def taps_concatenated(w, table, inverse):
        rows = []
        for o in range(w.shape[0]):
            for g in range(w.shape[2]):
                rows.append(torch.cat([move(w[o, i, table[inverse[g]]], g) for i in range(w.shape[1])]))
        return torch.stack(rows)

    def norm_layer(f, weight, bias, eps):
        layer = torch.nn.BatchNorm3d(f.shape[1], eps=eps, dtype=f.dtype)
        state = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, state, (f,))

    def norm_two_dimensional(f, weight, bias, eps):
        b, c, n, h, w = f.shape
        y = F.batch_norm(f.reshape(b, c, n * h, w), None, None, weight, bias, True, 0.1, eps)
        return y.view(b, c, n, h, w)

    def norm_keeps_planes_last(f, weight, bias, eps):
        x = f.movedim(1, -1)
        mean = x.mean((0, 1, 2, 3))
        power = ((x - mean) ** 2).mean((0, 1, 2, 3))
        return ((x - mean) * torch.rsqrt(power + eps) * weight + bias).movedim(-1, 1)

    def sizes_numpy(steps, largest):
        found = np.arange(1, largest + 1)
        grid = found.copy()
        for kernel, stride, padding in steps:
            room = grid + 2 * padding - kernel
            good = (room >= 0) & (room % stride == 0)
            found, grid = found[good], (room[good] // stride) + 1
        return [int(n) for n in found]

    def sizes_by_filtering_a_picture(steps, largest):
        chance = torch.Generator().manual_seed(0)
        found = []
        for size in range(1, largest + 1):
            x = torch.rand(1, 1, size, size, generator=chance, dtype=torch.float64)
            y, z = x, torch.rot90(x, 2, (2, 3))
            for kernel, stride, padding in steps:
                if y.shape[-1] + 2 * padding < kernel:
                    break
                w = torch.rand(1, 1, kernel, kernel, generator=chance, dtype=torch.float64)
                y = F.conv2d(y, w, None, stride, padding)
                z = F.conv2d(z, torch.rot90(w, 2, (2, 3)), None, stride, padding)
            else:
                if torch.allclose(torch.rot90(y, 2, (2, 3)), z):
                    found.append(size)
        return found

    def sizes_as_tuple(steps, largest):
        return tuple(EXACT_SIZES.reference(steps, largest))

    def plane_of_group_convolution(f, w):
        group = {4: P4, 8: P4M}[f.shape[2]]
        bank = torch.stack([move(w, h) for h in range(group.order)], 2)
        return F.conv3d(f, bank)[:, :, 0]

    def plane_accumulated(f, w):
        y = F.conv2d(f[:, :, 0], w)
        for h in range(1, f.shape[2]):
            y = y + F.conv2d(f[:, :, h], torch.rot90(w.flip(-1) if h > 3 else w, h % 4, (2, 3)))
        return y

    def counts_as_list(kind, c_in, c_out, k, n):
        shape = (c_out, c_in, n, k, k) if kind == "group" else (c_out, c_in, k, k)
        free = int(np.prod(shape))
        return [free, free * n]

    def counts_as_tensors(kind, c_in, c_out, k, n):
        free = torch.zeros(c_out, c_in, *([n] if kind == "group" else []), k, k).numel()
        return torch.tensor(free), torch.tensor(n * free)

    def step_split(f, layer, transition):
        new = layer(f)
        b, rest = divmod(f.shape[3] - new.shape[3], 2)
        assert rest == 0
        old = f[:, :, :, b:-b, b:-b]
        y = transition(torch.concat((old, new), axis=1))
        planes = [F.avg_pool2d(plane, kernel_size=2, stride=2) for plane in y.unbind(2)]
        return torch.stack(planes, 2)

    def step_interpolated(f, layer, transition):
        new = layer(f)
        b = (f.shape[-2] - new.shape[-2]) // 2
        y = transition(torch.cat([f[..., b:-b, b:-b], new], 1))
        small = F.interpolate(y, size=(y.shape[2], y.shape[3] // 2, y.shape[4] // 2), mode="area")
        return small

    def step_with_modules_of_its_own(f, layer, transition):
        made = layer(f)
        rows, columns = made.size(-2), made.size(-1)
        top, left = (f.size(-2) - rows) // 2, (f.size(-1) - columns) // 2
        kept = torch.nn.functional.pad(f, (-left, -left, -top, -top))
        y = torch.nn.Identity()(transition(torch.cat((kept, made), 1)))
        return torch.nn.AvgPool3d((1, 2, 2))(y)

    return [
        (FOUR_ANSWERS, answers_einsum),
        (FOUR_ANSWERS, answers_numpy),
        (FOUR_ANSWERS, answers_patch_by_patch),
        (FOUR_ANSWERS, answers_in_double),
        (LIFT, lift_picture_by_picture),
        (LIFT, lift_group_convolution),
        (LIFT, lift_fourier),
        (LIFT, lift_mirrored_second_half),
        (MOVE_FIELD, field_rolled_and_mirrored),
        (MOVE_FIELD, field_by_search),
        (MOVE_FIELD, field_numpy),
        (GROUP_CONV, group_by_lifting_each_plane),
        (GROUP_CONV, group_conv3d),
        (GROUP_CONV, group_pair_by_pair),
        (GROUP_CONV, group_in_double),
        (GROUP_TAPS, taps_advanced_index),
        (GROUP_TAPS, taps_concatenated),
        (GROUP_BATCH_NORM, norm_layer),
        (GROUP_BATCH_NORM, norm_two_dimensional),
        (GROUP_BATCH_NORM, norm_keeps_planes_last),
        (EXACT_SIZES, sizes_numpy),
        (EXACT_SIZES, sizes_by_filtering_a_picture),
        (EXACT_SIZES, sizes_as_tuple),
        (TO_PLANE, plane_of_group_convolution),
        (TO_PLANE, plane_accumulated),
        (COUNT_WEIGHTS, counts_as_list),
        (COUNT_WEIGHTS, counts_as_tensors),
        (DENSE_STEP, step_split),
        (DENSE_STEP, step_interpolated),
        (DENSE_STEP, step_with_modules_of_its_own),
    ]


def _unlisted_and_wrong():
    def answers_rolled_the_other_way(patch, w):
        return FOUR_ANSWERS.reference(patch, w).flip(1)

    def answers_with_relu(patch, w):
        return torch.relu(FOUR_ANSWERS.reference(patch, w))

    def answers_normalised(patch, w):
        return FOUR_ANSWERS.reference(patch, w) / w.norm()

    def answers_last_axis_wrong(patch, w):
        return FOUR_ANSWERS.reference(patch, w).T.contiguous()

    def answers_of_first_patch(patch, w):
        return FOUR_ANSWERS.reference(patch[:1], w).expand(len(patch), -1).clone()

    def lift_half_turns(x, w, n):
        return torch.stack([F.conv2d(x, move(w, (2 * g) % n)) for g in range(n)], 2)

    def lift_symmetric_filter(x, w, n):
        mean = sum(move(w, g) for g in range(n)) / n
        return torch.stack([F.conv2d(x, mean)] * n, 2)

    def lift_always_turns_first_channel(x, w, n):
        return LIFT.reference(x[:, :1].expand_as(x), w, n)

    def lift_with_relu(x, w, n):
        return LIFT.reference(x, w, n).relu()

    def lift_first_output_channel(x, w, n):
        return LIFT.reference(x, w[:1].expand_as(w), n)

    def field_mirror_ignored(f, g, table, inverse):
        return MOVE_FIELD.reference(f, g % 4, table, inverse)

    def field_swaps_halves(f, g, table, inverse):
        halves = f.roll(4, 2) if g > 3 else f
        return move(halves.roll(g % 4, 2) if g < 4 else halves, g)

    def field_identity(f, g, table, inverse):
        return f.clone()

    def field_pooled(f, g, table, inverse):
        y = MOVE_FIELD.reference(f, g, table, inverse)
        return y.mean(2, keepdim=True).expand_as(y).clone()

    def group_pooled(f, w, table, inverse):
        y = GROUP_CONV.reference(f, w, table, inverse)
        return y.mean(2, keepdim=True).expand_as(y).clone()

    def group_zero(f, w, table, inverse):
        return 0 * GROUP_CONV.reference(f, w, table, inverse)

    def group_of_identity_plane(f, w, table, inverse):
        only = torch.zeros_like(w)
        only[:, :, 0] = w[:, :, 0]
        return GROUP_CONV.reference(f, only, table, inverse)

    def group_for_p4_only(f, w, table, inverse):
        n = len(table)
        return torch.stack(
            [F.conv2d(f.flatten(1, 2), torch.rot90(w.roll(g, 2), g, (3, 4)).flatten(1, 2)) for g in range(n)],
            2,
        )

    def group_flipped(f, w, table, inverse):
        return GROUP_CONV.reference(f, w.flip((3, 4)), table, inverse)

    def taps_zero(w, table, inverse):
        return torch.zeros_like(GROUP_TAPS.reference(w, table, inverse))

    def taps_scaled(w, table, inverse):
        return GROUP_TAPS.reference(w, table, inverse) / len(table)

    def taps_flipped(w, table, inverse):
        return GROUP_TAPS.reference(w, table, inverse).flip((2, 3))

    def norm_group_mean_plane_variance(f, weight, bias, eps):
        mean = f.mean((0, 2, 3, 4), keepdim=True)
        spread = (f.var((0, 3, 4), unbiased=False, keepdim=True) + eps).sqrt()
        return (f - mean) / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    def norm_by_largest(f, weight, bias, eps):
        return f / f.abs().amax((0, 2, 3, 4), keepdim=True) * weight.view(-1, 1, 1, 1) + bias.view(
            -1, 1, 1, 1
        )

    def norm_fixed_eps(f, weight, bias, eps):
        return GROUP_BATCH_NORM.reference(f, weight, bias, 1e-5)

    def norm_root_of_weight(f, weight, bias, eps):
        return GROUP_BATCH_NORM.reference(f, weight.abs(), bias, eps)

    def sizes_of_the_paper(steps, largest):
        return [96, 128]

    def sizes_empty(steps, largest):
        return []

    def sizes_odd(steps, largest):
        return list(range(1, largest + 1, 2))

    def sizes_total_stride(steps, largest):
        total = 1
        for _, stride, _ in steps:
            total *= stride
        return [n for n in range(1, largest + 1) if n % total == 0]

    def sizes_from_zero(steps, largest):
        return [0, *EXACT_SIZES.reference(steps, largest)]

    def plane_of_symmetric_part(f, w):
        n = f.shape[2]
        return n * F.conv2d(f.mean(2), sum(move(w, h) for h in range(n)) / n)

    def plane_zero(f, w):
        return 0 * TO_PLANE.reference(f, w)

    def plane_minus(f, w):
        return -TO_PLANE.reference(f, w)

    def counts_square_root(kind, c_in, c_out, k, n):
        free, plain = COUNT_WEIGHTS.reference(kind, c_in, c_out, k, n)
        return free, int(plain / n**0.5)

    def counts_of_first_layer(kind, c_in, c_out, k, n):
        return c_in * c_out * k * k, n * c_in * c_out * k * k

    def step_sum(f, layer, transition):
        new = layer(f)
        b = (f.shape[-1] - new.shape[-1]) // 2
        old = f[..., b:-b, b:-b]
        y = transition(torch.cat([old, new + old[:, :1]], 1))
        return F.avg_pool3d(y, (1, 2, 2))

    def step_transition_twice(f, layer, transition):
        new = layer(f)
        b = (f.shape[-1] - new.shape[-1]) // 2
        y = transition(transition(torch.cat([f[..., b:-b, b:-b], new], 1)))
        return F.avg_pool3d(y, (1, 2, 2))

    def step_square_only(f, layer, transition):
        new = layer(f)
        side = new.shape[-1]
        b = (f.shape[-1] - side) // 2
        y = transition(torch.cat([f[..., b : b + side, b : b + side], new[..., :side, :side]], 1))
        return F.avg_pool3d(y, (1, 2, 2))

    return [
        (FOUR_ANSWERS, answers_rolled_the_other_way),
        (FOUR_ANSWERS, answers_with_relu),
        (FOUR_ANSWERS, answers_normalised),
        (FOUR_ANSWERS, answers_last_axis_wrong),
        (FOUR_ANSWERS, answers_of_first_patch),
        (LIFT, lift_half_turns),
        (LIFT, lift_symmetric_filter),
        (LIFT, lift_always_turns_first_channel),
        (LIFT, lift_with_relu),
        (LIFT, lift_first_output_channel),
        (MOVE_FIELD, field_mirror_ignored),
        (MOVE_FIELD, field_swaps_halves),
        (MOVE_FIELD, field_identity),
        (MOVE_FIELD, field_pooled),
        (GROUP_CONV, group_pooled),
        (GROUP_CONV, group_zero),
        (GROUP_CONV, group_of_identity_plane),
        (GROUP_CONV, group_for_p4_only),
        (GROUP_CONV, group_flipped),
        (GROUP_TAPS, taps_zero),
        (GROUP_TAPS, taps_scaled),
        (GROUP_TAPS, taps_flipped),
        (GROUP_BATCH_NORM, norm_group_mean_plane_variance),
        (GROUP_BATCH_NORM, norm_by_largest),
        (GROUP_BATCH_NORM, norm_fixed_eps),
        (GROUP_BATCH_NORM, norm_root_of_weight),
        (EXACT_SIZES, sizes_of_the_paper),
        (EXACT_SIZES, sizes_empty),
        (EXACT_SIZES, sizes_odd),
        (EXACT_SIZES, sizes_total_stride),
        (EXACT_SIZES, sizes_from_zero),
        (TO_PLANE, plane_of_symmetric_part),
        (TO_PLANE, plane_zero),
        (TO_PLANE, plane_minus),
        (COUNT_WEIGHTS, counts_square_root),
        (COUNT_WEIGHTS, counts_of_first_layer),
        (DENSE_STEP, step_sum),
        (DENSE_STEP, step_transition_twice),
        (DENSE_STEP, step_square_only),
    ]


def _numbers_only():
    """Answers with the right numbers through which not everything learns, and what the message must name."""

    def lift_filters_cut(x, w, n):
        return LIFT.reference(x, w.detach(), n)

    def lift_made_of_numbers(x, w, n):
        return torch.tensor(LIFT.reference(x, w, n).tolist(), dtype=x.dtype)

    def taps_detached(w, table, inverse):
        return GROUP_TAPS.reference(w.detach(), table, inverse)

    def norm_through_numpy(f, weight, bias, eps):
        a = f.detach().numpy()
        mean, variance = a.mean((0, 2, 3, 4), keepdims=True), a.var((0, 2, 3, 4), keepdims=True)
        normal = torch.from_numpy((a - mean) / np.sqrt(variance + eps))
        return normal * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    def norm_weight_data(f, weight, bias, eps):
        return GROUP_BATCH_NORM.reference(f, weight.data, bias, eps)

    def norm_two_kept_back(f, weight, bias, eps):
        return GROUP_BATCH_NORM.reference(f, weight.data, bias.detach(), eps)

    def norm_mean_detached(f, weight, bias, eps):
        mean = f.mean((0, 2, 3, 4), keepdim=True).detach()
        root = ((f - mean).square().mean((0, 2, 3, 4), keepdim=True) + eps).sqrt()
        return (f - mean) / root * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    def step_new_detached(f, layer, transition):
        new = layer(f).detach()
        b = (f.shape[-1] - new.shape[-1]) // 2
        return F.avg_pool3d(transition(torch.cat([f[..., b:-b, b:-b], new], 1)), (1, 2, 2))

    def step_layer_without_grad(f, layer, transition):
        with torch.no_grad():
            new = layer(f)
        b = (f.shape[-1] - new.shape[-1]) // 2
        return F.avg_pool3d(transition(torch.cat([f[..., b:-b, b:-b], new], 1)), (1, 2, 2))

    def step_pools_in_numpy(f, layer, transition):
        y = DENSE_STEP.reference(f, layer, transition)
        return torch.from_numpy(y.detach().numpy().copy())

    def step_transition_without_grad(f, layer, transition):
        def quiet(x):
            with torch.no_grad():
                return transition(x)

        return DENSE_STEP.reference(f, layer, quiet)

    return [
        (LIFT, lift_filters_cut, "no gradient flows to `w` (`x`: as it should be)"),
        (LIFT, lift_made_of_numbers, "no gradient flows to `x` and `w`,"),
        (GROUP_TAPS, taps_detached, "no gradient flows to `w`,"),
        (
            GROUP_BATCH_NORM,
            norm_through_numpy,
            "no gradient flows to `f` (`weight` and `bias`: as it should be)",
        ),
        (
            GROUP_BATCH_NORM,
            norm_weight_data,
            "no gradient flows to `weight` (`f` and `bias`: as it should be)",
        ),
        (GROUP_BATCH_NORM, norm_two_kept_back, "no gradient flows to `weight` and `bias` (`f`:"),
        (
            GROUP_BATCH_NORM,
            norm_mean_detached,
            "the gradient that reaches `f` is another than that of the formula",
        ),
        (DENSE_STEP, step_new_detached, "the new fields are cut off from the gradient"),
        (DENSE_STEP, step_layer_without_grad, "the new fields are cut off from the gradient"),
        (DENSE_STEP, step_pools_in_numpy, "no gradient flows to `f`,"),
        (DENSE_STEP, step_transition_without_grad, "no gradient flows to `f`,"),
    ]


def _told():
    """Further ways to write known mistakes, and what the message must say."""

    def answers_turn_the_turned(patch, w):
        rows = []
        for r in range(4):
            w = w.rot90(r)
            rows.append(torch.einsum("nij,ij->n", patch, w))
        return torch.stack(rows, -1)

    def answers_wrong_for_turns(patch, w):
        return FOUR_ANSWERS.reference(patch, w)[:, [0, 1, 1, 3]]

    def lift_rot90_without_axes(x, w, n):
        return torch.stack([F.conv2d(x, torch.rot90(w, g)) for g in range(n)], 2)

    def lift_flips_rows(x, w, n):
        poses = [w.rot90(r, (2, 3)) for r in range(4)] + [w.flip(2).rot90(r, (2, 3)) for r in range(4)]
        return F.conv2d(x, torch.stack(poses[:n], 1).flatten(0, 1)).unflatten(1, (len(w), n))

    def lift_in_single(x, w, n):
        return LIFT.reference(x.float(), w.float(), n).to(x.dtype)

    def group_in_single(f, w, table, inverse):
        return GROUP_CONV.reference(f.float(), w.float(), table, inverse).to(f.dtype)

    def group_moves_by_h(f, w, table, inverse):
        out = 0
        for h in range(len(table)):
            banks = [move(w[:, :, table[inverse[g], h]], h) for g in range(len(table))]
            out = out + torch.stack([F.conv2d(f[:, :, h], bank) for bank in banks], 2)
        return out

    def group_transposes_before_joining(f, w, table, inverse):
        planes = []
        for g in range(len(table)):
            moved = move(w[:, :, table[inverse[g]]], g)
            planes.append(F.conv2d(f.transpose(1, 2).flatten(1, 2), moved.flatten(1, 2)))
        return torch.stack(planes, 2)

    def plane_bank_of_poses(f, w):
        bank = torch.stack([move(w, h) for h in range(f.shape[2])], 1)  # (O, n, I, k, k)
        return F.conv2d(f.flatten(1, 2), bank.flatten(1, 2))

    def counts_bias_once(kind, c_in, c_out, k, n):
        free, plain = COUNT_WEIGHTS.reference(kind, c_in, c_out, k, n)
        return free + c_out, plain

    def counts_bias_of_both(kind, c_in, c_out, k, n):
        free, plain = COUNT_WEIGHTS.reference(kind, c_in, c_out, k, n)
        return free + c_out, plain + c_out

    def norm_last_axis(f, weight, bias, eps):
        mean, variance = f.mean((0, 2, 3, 4), keepdim=True), f.var((0, 2, 3, 4), unbiased=False, keepdim=True)
        return (f - mean) / torch.sqrt(variance + eps) * weight + bias

    def norm_torch_eps(f, weight, bias, eps):
        return F.batch_norm(f, None, None, weight=weight, bias=bias, training=True)

    def norm_without_grad_for_the_mean(f, weight, bias, eps):
        with torch.no_grad():
            mean = f.mean((0, 2, 3, 4), keepdim=True)
            spread = torch.sqrt((f - mean).square().mean((0, 2, 3, 4), keepdim=True) + eps)
        return (f - mean) / spread * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    def sizes_of_last_grids(steps, largest):
        found = []
        for n in range(1, largest + 1):
            for kernel, stride, padding in steps:
                n += 2 * padding - kernel
                if n < 0 or n % stride:
                    break
                n = n // stride + 1
            else:
                found.append(n)
        return found

    def sizes_as_flags(steps, largest):
        return [n in EXACT_SIZES.reference(steps, largest) for n in range(1, largest + 1)]

    def sizes_reverses_the_list(steps, largest):
        sizes = EXACT_SIZES.reference(steps, largest)
        steps.reverse()
        return sizes

    def sizes_takes_steps_away(steps, largest):
        kernel, _, padding = steps.pop(0)
        return [n for n in range(1, largest + 1) if n + 2 * padding >= kernel]

    def step_cuts_after_the_transition(f, layer, transition):
        new = layer(f)
        b = (f.shape[-1] - new.shape[-1]) // 2
        y = transition(torch.cat((f, F.pad(new, (b, b, b, b))), 1))[..., b:-b, b:-b]
        return F.avg_pool2d(y.flatten(1, 2), 2).unflatten(1, y.shape[1:3])

    def step_asks_the_layer_for_its_size(f, layer, transition):
        b = (f.shape[-1] - layer(f).shape[-1]) // 2
        y = transition(torch.cat((f[..., b:-b, b:-b], layer(f)), 1))
        return F.avg_pool2d(y.flatten(1, 2), 2).unflatten(1, y.shape[1:3])

    return [
        (FOUR_ANSWERS, answers_turn_the_turned, "the turns add up"),
        (FOUR_ANSWERS, answers_wrong_for_turns, "Answer r is the sum over all nine taps"),
        (LIFT, lift_rot90_without_axes, "turns the two first axes"),
        (LIFT, lift_flips_rows, "Your mirror is up-down"),
        (LIFT, lift_in_single, "become float32 on the way"),
        (GROUP_CONV, group_in_single, "become float32 on the way"),
        (GROUP_CONV, group_moves_by_h, "You move the taps by h"),
        (GROUP_CONV, group_transposes_before_joining, "in different orders"),
        (TO_PLANE, plane_bank_of_poses, "in different orders"),
        (COUNT_WEIGHTS, counts_bias_once, "You count a bias"),
        (COUNT_WEIGHTS, counts_bias_of_both, "You count a bias"),
        (GROUP_BATCH_NORM, norm_last_axis, "They belong to axis 1"),
        (GROUP_BATCH_NORM, norm_torch_eps, "Your eps is 1e-5"),
        (GROUP_BATCH_NORM, norm_without_grad_for_the_mean, "mean and variance are cut off from the gradient"),
        (EXACT_SIZES, sizes_of_last_grids, "the grids at the end of the chain"),
        (EXACT_SIZES, sizes_as_flags, "Your list holds True and False"),
        (EXACT_SIZES, sizes_reverses_the_list, "changes its input `steps` in place"),
        (EXACT_SIZES, sizes_takes_steps_away, "changes its input `steps` in place"),
        (DENSE_STEP, step_cuts_after_the_transition, "You cut after the transition"),
        (DENSE_STEP, step_asks_the_layer_for_its_size, "You call `layer` more than once"),
    ]


test_an_unusual_right_answer_gets_full_points = full_points(_unusual_and_right())
test_a_wrong_answer_that_nobody_listed_gets_a_sentence_and_no_points = no_points(_unlisted_and_wrong())
test_an_answer_through_which_something_does_not_learn_is_told_what = no_points(_numbers_only())
test_a_known_mistake_in_other_words_is_told_by_its_name = no_points(_told())


def test_no_message_says_what_a_prediction_of_the_lesson_asks_for():
    """The answers of the cells that follow exercises 1 and 7: a wrong answer must not be told them."""
    for exercise, told in ((FOUR_ANSWERS, "place further"), (GROUP_BATCH_NORM, "change places")):
        wrong = [m.answer for m in exercise.misconceptions]
        wrong += [answer for other, answer in _unlisted_and_wrong() if other is exercise]
        for answer in wrong:
            assert told not in exercise.judge(answer).message
