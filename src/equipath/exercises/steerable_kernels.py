"""What lesson 2 asks of the student: which kernels make arrows that turn with the tissue, and what may follow them.

Nine exercises in the order of `course/02_steerable_kernels.py`, each with its solutions, known slips and checks.
Conventions are those of `equipath.nn.steerable`: a vector is (x, y) with x to the right and y upwards, a packed
feature map holds the scalars first and then x and y of each vector, and the element (r, m) of p4m first mirrors
left-right if m, then turns by r quarter turns counter-clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
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
    equivariant_map,
    expect,
    sensitive,
)
from equipath.groups import P4M
from equipath.kernels.radial import expand_kernels
from equipath.nn.steerable import GatedReLU, NormReLU, SteerableConv2d, SteerablePool2d, act_packed

Kernel = Callable[[Tensor], Tensor]
Profile = Callable[[Tensor], Tensor]

# ------------------------------------------------------------------------------------- 1. move_vectors


def move_vectors(v: Tensor, r: int, m: bool) -> Tensor:
    if m:
        x, y = v.flip(-1).unbind(dim=-3)
        v = torch.stack([-x, y], dim=-3)
    for _ in range(r % 4):
        x, y = torch.rot90(v, 1, (-2, -1)).unbind(dim=-3)
        v = torch.stack([-y, x], dim=-3)
    return v


def _arrows(v: Tensor, matrix: Tensor) -> Tensor:
    """The arrows of v (..., 2, H, W) multiplied by a 2 x 2 matrix, each where it is."""
    return torch.einsum("ab,...bhw->...ahw", matrix.to(v.dtype), v)


def _pixels(v: Tensor, r: int, m: bool) -> Tensor:
    return torch.rot90(v.flip(-1) if m else v, r, (-2, -1))


def _matrix(r: int, m: bool) -> Tensor:
    """(r, m) as a 2 x 2 matrix on (x right, y up): mirror first, then turn."""
    angle = math.pi / 2 * (r % 4)
    cos, sin = math.cos(angle), math.sin(angle)
    mirror = torch.tensor([[-1.0 if m else 1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64) @ mirror


def _vectors_by_matrix(v: Tensor, r: int, m: bool) -> Tensor:
    return _arrows(_pixels(v, r, m), _matrix(r, m))


def _vectors_complex(v: Tensor, r: int, m: bool) -> Tensor:
    z = torch.complex(v[..., 0, :, :], v[..., 1, :, :])
    if m:
        z = -z.flip(-1).conj()
    z = torch.rot90(z, r, (-2, -1)) * [1, 1j, -1, -1j][r % 4]
    return torch.stack([z.real, z.imag], dim=-3)


def _vectors_by_cases(v: Tensor, r: int, m: bool) -> Tensor:
    moved = _pixels(v, r, m)
    x, y = moved[..., 0, :, :], moved[..., 1, :, :]
    x = -x if m else x
    pair = [(x, y), (-y, x), (-x, -y), (y, -x)][r % 4]
    return torch.stack(pair, dim=-3)


def _vectors_pixels_only(v: Tensor, r: int, m: bool) -> Tensor:
    return _pixels(v, r, m)


def _vectors_arrows_only(v: Tensor, r: int, m: bool) -> Tensor:
    return _arrows(v, _matrix(r, m))


def _vectors_arrows_clockwise(v: Tensor, r: int, m: bool) -> Tensor:
    return _arrows(_pixels(v, r, m), _matrix(-r, m))


def _vectors_all_clockwise(v: Tensor, r: int, m: bool) -> Tensor:
    return _vectors_by_matrix(v, -r, m)


def _vectors_mirror_flips_y(v: Tensor, r: int, m: bool) -> Tensor:
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    return _arrows(_pixels(v, r, m), _matrix(r, False) @ (flip if m else flip @ flip))


def _vectors_mirror_keeps_arrows(v: Tensor, r: int, m: bool) -> Tensor:
    return _arrows(_pixels(v, r, m), _matrix(r, False))


def _vectors_components_mirrored_last(v: Tensor, r: int, m: bool) -> Tensor:
    moved = _arrows(_pixels(v, r, m), _matrix(r, False))
    return _arrows(moved, _matrix(0, m))


def _vectors_turn_then_mirror(v: Tensor, r: int, m: bool) -> Tensor:
    return _vectors_by_matrix(_vectors_by_matrix(v, r, False), 0, m)


def _vectors_swapped_without_sign(v: Tensor, r: int, m: bool) -> Tensor:
    moved = _pixels(v, r, m)
    x, y = moved.unbind(-3)
    x = -x if m else x
    return torch.stack([y, x] if r % 2 else [x, y], dim=-3)


def _vectors_loop_over_r(v: Tensor, r: int, m: bool) -> Tensor:
    return move_vectors(v, max(r, 0), m)


def _vectors_second_axis(v: Tensor, r: int, m: bool) -> Tensor:
    if v.dim() != 4:
        return (
            _vectors_by_matrix(v.transpose(1, 2), r, m)
            if v.dim() == 5 and v.shape[1] == 2
            else _pixels(v, r, m)
        )
    return _vectors_by_matrix(v, r, m)


def _vectors_in_double(v: Tensor, r: int, m: bool) -> Tensor:
    return move_vectors(v.double(), r, m)


# ----------------------------------------------------------------------------------- 2. constraint_gap


def constraint_gap(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    left = kernel(points @ g.T)
    right = rho_out @ kernel(points) @ torch.linalg.inv(rho_in)
    return float((left - right).abs().max())


def _gap_einsum(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> Tensor:
    left = kernel(torch.einsum("ij,nj->ni", g, points))
    right = torch.einsum("ab,nbc,cd->nad", rho_out, kernel(points), rho_in.inverse())
    return torch.max(torch.abs(left - right))


def _gap_point_by_point(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    worst = 0.0
    back = np.linalg.inv(rho_in.numpy())
    for x in points:
        left = kernel((g @ x)[None])[0].numpy()
        right = rho_out.numpy() @ kernel(x[None])[0].numpy() @ back
        worst = max(worst, float(np.abs(left - right).max()))
    return worst


def _gap_solve(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> Tensor:
    # K ρ_in⁻¹ = (ρ_in⁻ᵀ Kᵀ)ᵀ
    right = torch.linalg.solve(rho_in.T, (rho_out @ kernel(points)).mT).mT
    return (kernel((g @ points.T).T) - right).abs().amax()


def _gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def _gap_without_inverse(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T), rho_out @ kernel(points) @ rho_in)


def _gap_transposed(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T), rho_out @ kernel(points) @ rho_in.T)


def _gap_moved_back(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g), rho_out @ kernel(points) @ rho_in.inverse())


def _gap_forgets_input(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T), rho_out @ kernel(points))


def _gap_forgets_output(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T), kernel(points) @ rho_in.inverse())


def _gap_forgets_both(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T), kernel(points))


def _gap_does_not_move(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points), rho_out @ kernel(points) @ rho_in.inverse())


def _gap_inverse_on_output(
    kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor
) -> float:
    return _gap(kernel(points @ g.T), rho_out.inverse() @ kernel(points) @ rho_in)


def _gap_mean(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return float((kernel(points @ g.T) - rho_out @ kernel(points) @ rho_in.inverse()).abs().mean())


def _gap_norm(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return float((kernel(points @ g.T) - rho_out @ kernel(points) @ rho_in.inverse()).norm())


def _gap_signed(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return float((kernel(points @ g.T) - rho_out @ kernel(points) @ rho_in.inverse()).max())


def _gap_relative(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    left, right = kernel(points @ g.T), rho_out @ kernel(points) @ rho_in.inverse()
    return float((left - right).abs().max() / right.abs().max())


def _gap_frobenius(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    apart = kernel(points @ g.T) - rho_out @ kernel(points) @ rho_in.inverse()
    return float(apart.norm(dim=(1, 2)).max())


def _gap_multiplied_out(kernel: Kernel, g: Tensor, rho_out: Tensor, rho_in: Tensor, points: Tensor) -> float:
    return _gap(kernel(points @ g.T) @ rho_in, rho_out @ kernel(points))


# --------------------------------------------------------------------------------- 3. steerable_kernel


def steerable_kernel(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    r = points.norm(dim=1)
    column, row = points[:, :, None], points[:, None, :]
    first, second = f1(r)[:, None, None], f2(r)[:, None, None]
    if source == "scalar" and target == "scalar":
        return first
    if source == "scalar":
        return first * column
    if target == "scalar":
        return first * row
    return first * torch.eye(2, dtype=points.dtype) + second * column * row


def _kernel_einsum(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    r = torch.hypot(points[:, 0], points[:, 1])
    out = points if target == "vector" else torch.ones_like(points[:, :1])
    inn = points if source == "vector" else torch.ones_like(points[:, :1])
    if source == target == "vector":
        identity = torch.einsum("n,ab->nab", f1(r), torch.eye(2, dtype=points.dtype))
        return identity + torch.einsum("n,na,nb->nab", f2(r), out, inn)
    return torch.einsum("n,na,nb->nab", f1(r), out, inn)


def _kernel_point_by_point(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    made = []
    for x, y in points.tolist():
        r = torch.tensor([math.sqrt(x * x + y * y)], dtype=points.dtype)
        a, b = float(f1(r)), float(f2(r))
        made.append(
            {
                ("scalar", "scalar"): [[a]],
                ("scalar", "vector"): [[a * x], [a * y]],
                ("vector", "scalar"): [[a * x, a * y]],
                ("vector", "vector"): [[a + b * x * x, b * x * y], [b * x * y, a + b * y * y]],
            }[source, target]
        )
    return torch.tensor(made, dtype=points.dtype)


def _kernel_filled_in(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    a, b = 1 + (target == "vector"), 1 + (source == "vector")
    out = torch.zeros(len(points), a, b, dtype=points.dtype)
    r = (points**2).sum(1) ** 0.5
    if (a, b) == (2, 2):
        for i in range(2):
            out[:, i, i] = f1(r)
            for j in range(2):
                out[:, i, j] += f2(r) * points[:, i] * points[:, j]
    else:
        x = points if (a, b) != (1, 1) else points[:, :1] * 0 + 1
        out[:] = (f1(r)[:, None] * x).reshape(-1, a, b)
    return out


def _on_other_radius(name: str, radius: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right kernel, but for its profiles, which are taken at another number than |x|."""

    def answer(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
        s = radius(points)
        return steerable_kernel(points, source, target, lambda r: f1(s), lambda r: f2(s))

    answer.__name__ = name
    return answer


_kernel_of_square = _on_other_radius("_kernel_of_square", lambda p: p.square().sum(1))
_kernel_of_taxi_radius = _on_other_radius("_kernel_of_taxi_radius", lambda p: p.abs().sum(1))
_kernel_of_x_alone = _on_other_radius("_kernel_of_x_alone", lambda p: p[:, 0])


def _kernel_row_for_column(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    return steerable_kernel(points, target, source, f1, f2)


def _kernel_unit_vectors(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    u = F.normalize(points, dim=1)
    r = points.norm(dim=1)
    return steerable_kernel(u, source, target, lambda _: f1(r), lambda _: f2(r))


def _kernel_dot(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source != "vector" or target != "vector":
        return steerable_kernel(points, source, target, f1, f2)
    r = points.norm(dim=1)
    return (f1(r) + f2(r) * r**2)[:, None, None] * torch.eye(2, dtype=points.dtype)


def _kernel_diagonal(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source != "vector" or target != "vector":
        return steerable_kernel(points, source, target, f1, f2)
    return steerable_kernel(points, source, target, f1, f2) * torch.eye(2, dtype=points.dtype)


def _kernel_of_ones(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    made = steerable_kernel(points, source, target, f1, f2)
    if source == target == "vector":
        off = 1 - torch.eye(2, dtype=points.dtype)
        made = made + f1(points.norm(dim=1))[:, None, None] * off
    return made


def _kernel_profiles_swapped(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source == target == "vector":
        return steerable_kernel(points, source, target, f2, f1)
    return steerable_kernel(points, source, target, f1, f2)


def _kernel_identity_only(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    return steerable_kernel(points, source, target, f1, lambda r: 0 * r)


def _kernel_outer_only(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source == target == "vector":
        return steerable_kernel(points, source, target, lambda r: 0 * r, f2)
    return steerable_kernel(points, source, target, f1, f2)


def _kernel_across(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source == target:
        return steerable_kernel(points, source, target, f1, f2)
    across = torch.stack([-points[:, 1], points[:, 0]], dim=1)
    return steerable_kernel(across, source, target, f1, f2)


def _kernel_in_double(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    return steerable_kernel(points, source, target, f1, f2).double()


def _kernel_of_number(points: Tensor, source: str, target: str, f1: Profile, f2: Profile) -> Tensor:
    if source != "vector" or target != "vector":
        return steerable_kernel(points, source, target, f1, f2)
    r = points.norm(dim=1)[:, None, None]
    return f1(r) * torch.eye(2, dtype=points.dtype) + f2(r) * r**2


# ------------------------------------------------------------------------------------ 4. count_kernels


def count_kernels(rho_out: Tensor, rho_in: Tensor) -> int:
    a, b = rho_out.shape[-1], rho_in.shape[-1]
    eye_a, eye_b = torch.eye(a, dtype=rho_out.dtype), torch.eye(b, dtype=rho_in.dtype)
    # K written as a column, row by row: ρ_out K is (ρ_out ⊗ I) K, and K ρ_in is (I ⊗ ρ_inᵀ) K.
    equations = [
        torch.kron(left, eye_b) - torch.kron(eye_a, right.T.contiguous())
        for left, right in zip(rho_out, rho_in, strict=True)
    ]
    return a * b - int(torch.linalg.matrix_rank(torch.cat(equations), tol=1e-8))


def _count_characters(rho_out: Tensor, rho_in: Tensor) -> int:
    back = torch.linalg.inv(rho_in)
    traces = rho_out.diagonal(dim1=1, dim2=2).sum(1) * back.diagonal(dim1=1, dim2=2).sum(1)
    return round(traces.mean().item())


def _count_projector(rho_out: Tensor, rho_in: Tensor) -> int:
    back = torch.linalg.inv(rho_in)
    kept = 0.0
    for i in range(rho_out.shape[1]):
        for j in range(rho_in.shape[1]):
            unit = torch.zeros(rho_out.shape[1], rho_in.shape[1], dtype=rho_out.dtype)
            unit[i, j] = 1
            kept += float((rho_out @ unit @ back).mean(0)[i, j])
    return round(kept)


def _count_svd(rho_out: Tensor, rho_in: Tensor) -> int:
    columns = []
    for i in range(rho_out.shape[1]):
        for j in range(rho_in.shape[1]):
            unit = np.zeros((rho_out.shape[1], rho_in.shape[1]))
            unit[i, j] = 1
            columns.append((rho_out.numpy() @ unit - unit @ rho_in.numpy()).ravel())
    values = np.linalg.svd(np.stack(columns, 1), compute_uv=False)
    return len(columns) - int((values > 1e-6).sum())


def _count_everything(rho_out: Tensor, rho_in: Tensor) -> int:
    return rho_out.shape[1] * rho_in.shape[1]


def _count_equations(rho_out: Tensor, rho_in: Tensor) -> int:
    return rho_out.shape[1] * rho_in.shape[1] - count_kernels(rho_out, rho_in)


def _count_last_only(rho_out: Tensor, rho_in: Tensor) -> int:
    return count_kernels(rho_out[-1:], rho_in[-1:])


def _count_one_at_a_time(rho_out: Tensor, rho_in: Tensor) -> int:
    return min(count_kernels(a[None], b[None]) for a, b in zip(rho_out, rho_in, strict=True))


def _count_transposed(rho_out: Tensor, rho_in: Tensor) -> int:
    return count_kernels(rho_out, rho_in.mT)


def _count_characters_summed(rho_out: Tensor, rho_in: Tensor) -> int:
    return _count_characters(rho_out, rho_in) * len(rho_out)


def _count_diagonals(rho_out: Tensor, rho_in: Tensor) -> int:
    a, b = rho_out.diagonal(dim1=1, dim2=2), rho_in.diagonal(dim1=1, dim2=2)
    return int(torch.isclose(a[:, :, None], b[:, None, :], atol=1e-8).all(0).sum())


def _count_invariant_only(rho_out: Tensor, rho_in: Tensor) -> int:
    one = torch.ones(len(rho_in), 1, 1, dtype=rho_in.dtype)
    return count_kernels(rho_out, one) * count_kernels(one, rho_in)


def _count_summed(rho_out: Tensor, rho_in: Tensor) -> int:
    return count_kernels(rho_out.sum(0, keepdim=True), rho_in.sum(0, keepdim=True))


# ------------------------------------------------------------------------------------ 5. sample_kernel


def sample_kernel(kernel: Kernel, size: int) -> Tensor:
    at = torch.arange(size, dtype=torch.float64) - size // 2
    down, right = torch.meshgrid(at, at, indexing="ij")
    values = kernel(torch.stack([right, -down], dim=-1).reshape(-1, 2))
    return values.permute(1, 2, 0).reshape(*values.shape[1:], size, size)


def _sample_tap_by_tap(kernel: Kernel, size: int) -> Tensor:
    c = size // 2
    rows = []
    for i in range(size):
        taps = [
            kernel(torch.tensor([[float(j - c), float(c - i)]], dtype=torch.float64))[0] for j in range(size)
        ]
        rows.append(torch.stack(taps, dim=-1))
    return torch.stack(rows, dim=-2)


def _sample_rows(kernel: Kernel, size: int) -> Tensor:
    c = size // 2
    x = torch.linspace(-c, c, size, dtype=torch.float64)
    lines = [kernel(torch.stack([x, torch.full_like(x, c - i)], dim=1)) for i in range(size)]
    return torch.stack(lines).movedim((0, 1), (-2, -1))


def _sample_numpy(kernel: Kernel, size: int) -> Tensor:
    row, column = np.mgrid[:size, :size]
    points = np.stack([column.ravel() - size // 2, size // 2 - row.ravel()], 1).astype(float)
    values = kernel(torch.from_numpy(points)).numpy()
    return torch.from_numpy(np.moveaxis(values, 0, -1).reshape(*values.shape[1:], size, size).copy())


def _sample_at(
    name: str, points: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
) -> Callable[..., Tensor]:
    """Samples at other points than it should: ``points(column, row, size)`` gives x and y."""

    def answer(kernel: Kernel, size: int) -> Tensor:
        at = torch.arange(size, dtype=torch.float64)
        row, column = torch.meshgrid(at, at, indexing="ij")
        values = kernel(torch.stack(points(column, row, size), dim=-1).reshape(-1, 2))
        return values.permute(1, 2, 0).reshape(*values.shape[1:], size, size)

    answer.__name__ = name
    return answer


_sample_y_down = _sample_at("_sample_y_down", lambda c, r, k: (c - k // 2, r - k // 2))
_sample_xy_swapped = _sample_at("_sample_xy_swapped", lambda c, r, k: (k // 2 - r, c - k // 2))
_sample_row_for_x = _sample_at("_sample_row_for_x", lambda c, r, k: (r - k // 2, c - k // 2))
_sample_x_left = _sample_at("_sample_x_left", lambda c, r, k: (k // 2 - c, k // 2 - r))
_sample_from_the_corner = _sample_at("_sample_from_the_corner", lambda c, r, k: (c, -r))
_sample_unit_square = _sample_at(
    "_sample_unit_square", lambda c, r, k: ((c - k // 2) / (k // 2), (k // 2 - r) / (k // 2))
)
_sample_half_a_pixel_off = _sample_at("_sample_half_a_pixel_off", lambda c, r, k: (c - k / 2, k / 2 - r))
_sample_upside_down = _sample_at("_sample_upside_down", lambda c, r, k: (k // 2 - c, r - k // 2))


def _sample_matrix_transposed(kernel: Kernel, size: int) -> Tensor:
    return sample_kernel(kernel, size).transpose(0, 1)


def _sample_without_permute(kernel: Kernel, size: int) -> Tensor:
    good = sample_kernel(kernel, size)
    return good.movedim((0, 1), (2, 3)).reshape(good.shape)


# -------------------------------------------------------------------------------------- 6. mixed_layer


def mixed_layer(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    scalars = torch.einsum("scn,nij->scij", f, rings)
    vectors = torch.einsum("vcm,maij->vacij", g, arrows).flatten(0, 1)
    return F.conv2d(x, torch.cat([scalars, vectors]), padding=rings.shape[-1] // 2)


def _mixed_filter(rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    scalars = torch.einsum("scn,nij->scij", f, rings)
    return torch.cat([scalars, torch.einsum("vcm,maij->vacij", g, arrows).flatten(0, 1)])


def _mixed_filter_by_filter(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    pad = rings.shape[-1] // 2
    channels = []
    for weights, bank in [(f, rings[:, None]), (g, arrows)]:
        for out in weights:
            for a in range(bank.shape[1]):
                kernel = (out[:, :, None, None] * bank[:, a]).sum(1)
                channels.append(F.conv2d(x, kernel[None], padding=pad))
    return torch.cat(channels, dim=1)


def _mixed_responses_first(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    # Filter every colour with every basis kernel, then mix: the sums may change places.
    b, c, h, w = x.shape
    k = rings.shape[-1]
    bank = torch.cat([rings, arrows.flatten(0, 1)])[:, None]
    seen = F.conv2d(x.reshape(b * c, 1, h, w), bank, padding=k // 2).reshape(b, c, len(bank), h, w)
    scalars = torch.einsum("scn,bcnhw->bshw", f, seen[:, :, : len(rings)])
    vectors = torch.einsum("vcm,bcmahw->bvahw", g, seen[:, :, len(rings) :].unflatten(2, (len(arrows), 2)))
    return torch.cat([scalars, vectors.flatten(1, 2)], dim=1)


def _mixed_unfolded(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    filters = torch.zeros(len(f) + 2 * len(g), x.shape[1], *rings.shape[-2:], dtype=x.dtype)
    filters[: len(f)] = torch.tensordot(f, rings, dims=1)
    filters[len(f) :: 2] = torch.tensordot(g, arrows[:, 0], dims=1)
    filters[len(f) + 1 :: 2] = torch.tensordot(g, arrows[:, 1], dims=1)
    columns = F.unfold(x, rings.shape[-1], padding=rings.shape[-1] // 2)
    return (filters.flatten(1) @ columns).reshape(len(x), len(filters), *x.shape[-2:])


def _mixed_all_x_then_all_y(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    y = mixed_layer(x, rings, arrows, f, g)
    vectors = y[:, len(f) :].unflatten(1, (len(g), 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat([y[:, : len(f)], vectors], dim=1)


def _mixed_vectors_first(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    y = mixed_layer(x, rings, arrows, f, g)
    return torch.cat([y[:, len(f) :], y[:, : len(f)]], dim=1)


def _mixed_flipped(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, arrows.flip((-2, -1)), f, g)


def _mixed_yx(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, arrows.flip(1), f, g)


def _mixed_valid(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return F.conv2d(x, _mixed_filter(rings, arrows, f, g))


def _mixed_padded_by_one(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return F.conv2d(x, _mixed_filter(rings, arrows, f, g), padding=1)


def _mixed_circular(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return F.conv2d(
        F.pad(x, (rings.shape[-1] // 2,) * 4, mode="circular"), _mixed_filter(rings, arrows, f, g)
    )


def _mixed_replicated(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return F.conv2d(
        F.pad(x, (rings.shape[-1] // 2,) * 4, mode="replicate"), _mixed_filter(rings, arrows, f, g)
    )


def _mixed_colours_alike(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, arrows, f[:, :1].expand_as(f), g[:, :1].expand_as(g))


def _mixed_one_ring(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings[:1], arrows[:1], f[..., :1], g[..., :1])


def _mixed_averaged(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, arrows, f, g) / x.shape[1]


def _mixed_x_twice(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, arrows[:, :1].expand_as(arrows), f, g)


def _mixed_minus(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings, -arrows, f, g)


def _mixed_all_flipped(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    return mixed_layer(x, rings.flip((-2, -1)), arrows.flip((-2, -1)), f, g)


def _mixed_reshaped(x: Tensor, rings: Tensor, arrows: Tensor, f: Tensor, g: Tensor) -> Tensor:
    scalars = torch.einsum("scn,nij->scij", f, rings)
    vectors = torch.einsum("vcm,maij->vcaij", g, arrows).reshape(2 * len(g), -1, *rings.shape[1:])
    return F.conv2d(x, torch.cat([scalars, vectors]), padding=rings.shape[-1] // 2)


# ---------------------------------------------------------------------------------------- 7. norm_relu


def norm_relu(v: Tensor, b: Tensor) -> Tensor:
    length = (v.square().sum(dim=2, keepdim=True) + 1e-12).sqrt()
    return v * torch.relu(length + b[:, None, None, None]) / length


def _norm_normalize(v: Tensor, b: Tensor) -> Tensor:
    length = v.norm(dim=2, keepdim=True)
    return F.normalize(v, dim=2) * F.relu(length + b.reshape(1, -1, 1, 1, 1))


def _norm_complex(v: Tensor, b: Tensor) -> Tensor:
    z = torch.complex(v[:, :, 0], v[:, :, 1])
    z = torch.sgn(z) * (z.abs() + b[:, None, None]).clamp_min(0)
    return torch.view_as_real(z).movedim(-1, 2)


def _norm_factor(v: Tensor, b: Tensor) -> Tensor:
    # relu(|v| + b) / |v| = max(1 + b / |v|, 0), with a zero arrow asked for nothing
    x, y = v.unbind(2)
    out = []
    for n in range(v.shape[1]):
        length = torch.sqrt(x[:, n] ** 2 + y[:, n] ** 2 + 1e-14)
        factor = torch.clamp(1 + b[n] / length, min=0)
        out.append(torch.stack([x[:, n] * factor, y[:, n] * factor], dim=1))
    return torch.stack(out, dim=1)


def _norm_where(v: Tensor, b: Tensor) -> Tensor:
    square = (v * v).sum(2, keepdim=True)
    zero = square == 0
    length = torch.where(zero, 1.0, square).sqrt()
    return torch.where(zero, 0.0, v * torch.relu(length + b[None, :, None, None, None]) / length)


def _with_length(name: str, length: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right nonlinearity but for what it calls a length: (B, N, 2, H, W) to something that broadcasts."""

    def answer(v: Tensor, b: Tensor) -> Tensor:
        n = length(v)
        return v * torch.relu(n + b[:, None, None, None]) / n.clamp_min(1e-9)

    answer.__name__ = name
    return answer


_norm_taxi = _with_length("_norm_taxi", lambda v: v.abs().sum(2, keepdim=True))
_norm_largest = _with_length("_norm_largest", lambda v: v.abs().amax(2, keepdim=True))
_norm_squared = _with_length("_norm_squared", lambda v: v.square().sum(2, keepdim=True))
_norm_over_fields = _with_length("_norm_over_fields", lambda v: v.square().sum((1, 2), keepdim=True).sqrt())
_norm_over_picture = _with_length(
    "_norm_over_picture", lambda v: v.square().sum((2, 3, 4), keepdim=True).sqrt()
)


def _norm_components(v: Tensor, b: Tensor) -> Tensor:
    return torch.relu(v + b[:, None, None, None])


def _norm_plain_components(v: Tensor, b: Tensor) -> Tensor:
    return torch.relu(v)


def _norm_unsafe(v: Tensor, b: Tensor) -> Tensor:
    length = v.norm(dim=2, keepdim=True)
    return v * torch.relu(length + b[:, None, None, None]) / length


def _norm_where_too_late(v: Tensor, b: Tensor) -> Tensor:
    length = v.square().sum(dim=2, keepdim=True).sqrt()
    made = v * torch.relu(length + b[:, None, None, None]) / length
    return torch.where(length > 0, made, 0.0)


def _norm_bias_outside(v: Tensor, b: Tensor) -> Tensor:
    length = v.norm(dim=2, keepdim=True)
    return v * (torch.relu(length) + b[:, None, None, None]) / length.clamp_min(1e-9)


def _norm_without_bias(v: Tensor, b: Tensor) -> Tensor:
    return v * 1.0


def _norm_not_divided(v: Tensor, b: Tensor) -> Tensor:
    return v * torch.relu(v.norm(dim=2, keepdim=True) + b[:, None, None, None])


def _norm_minus_bias(v: Tensor, b: Tensor) -> Tensor:
    return norm_relu(v, -b)


def _norm_lengths_only(v: Tensor, b: Tensor) -> Tensor:
    return torch.relu(v.norm(dim=2) + b[:, None, None])


def _norm_bias_on_arrow(v: Tensor, b: Tensor) -> Tensor:
    w = v + b[:, None, None, None]
    return w * torch.relu(w.norm(dim=2, keepdim=True)) / w.norm(dim=2, keepdim=True).clamp_min(1e-9)


_norm_over_axis_1 = _with_length("_norm_over_axis_1", lambda v: v.square().sum(1, keepdim=True).sqrt())


def _norm_one_bias(v: Tensor, b: Tensor) -> Tensor:
    return norm_relu(v, b[:1].expand_as(b))


def _norm_large_safeguard(v: Tensor, b: Tensor) -> Tensor:
    length = (v.square().sum(dim=2, keepdim=True) + 1e-6).sqrt()
    return v * torch.relu(length + b[:, None, None, None]) / length


# --------------------------------------------------------------------------------------- 8. gated_relu


def gated_relu(x: Tensor, s: int, v: int) -> Tensor:
    gates = torch.sigmoid(x[:, s : s + v])
    vectors = x[:, s + v :] * gates.repeat_interleave(2, dim=1)
    return torch.cat([torch.relu(x[:, :s]), vectors], dim=1)


def _gated_unflattened(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = x.split([s, v, 2 * v], dim=1)
    arrows = arrows.unflatten(1, (v, 2)) * gates.sigmoid().unsqueeze(2)
    return torch.cat([F.relu(scalars), arrows.flatten(1, 2)], 1)


def _gated_in_a_loop(x: Tensor, s: int, v: int) -> Tensor:
    out = torch.empty(x.shape[0], s + 2 * v, *x.shape[2:], dtype=x.dtype)
    out[:, :s] = x[:, :s].clamp(min=0)
    for n in range(v):
        gate = 1 / (1 + torch.exp(-x[:, s + n]))
        for a in range(2):
            out[:, s + 2 * n + a] = gate * x[:, s + v + 2 * n + a]
    return out


def _gated_einsum(x: Tensor, s: int, v: int) -> Tensor:
    b, _, h, w = x.shape
    arrows = torch.einsum("bvhw,bvahw->bvahw", x[:, s : s + v].sigmoid(), x[:, s + v :].view(b, v, 2, h, w))
    return torch.cat([x[:, :s] * (x[:, :s] > 0), arrows.reshape(b, 2 * v, h, w)], dim=1)


def _gated_parts(x: Tensor, s: int, v: int) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, :s], x[:, s : s + v], x[:, s + v :]


def _gated_tiled(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows * gates.sigmoid().repeat(1, 2, 1, 1)], 1)


def _gated_by_relu(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows * gates.relu().repeat_interleave(2, 1)], 1)


def _gated_raw(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows * gates.repeat_interleave(2, 1)], 1)


def _gated_scalars_untouched(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars, arrows * gates.sigmoid().repeat_interleave(2, 1)], 1)


def _gated_gates_kept(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), gates.relu(), arrows * gates.sigmoid().repeat_interleave(2, 1)], 1)


def _gated_gates_first(x: Tensor, s: int, v: int) -> Tensor:
    gates, scalars, arrows = x[:, :v], x[:, v : v + s], x[:, s + v :]
    return torch.cat([scalars.relu(), arrows * gates.sigmoid().repeat_interleave(2, 1)], 1)


def _gated_relu_first(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows * gates.relu().sigmoid().repeat_interleave(2, 1)], 1)


def _gated_arrows_cut(x: Tensor, s: int, v: int) -> Tensor:
    return torch.relu(gated_relu(x, s, v))


def _gated_tanh(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows * gates.tanh().repeat_interleave(2, 1)], 1)


def _gated_no_gate(x: Tensor, s: int, v: int) -> Tensor:
    scalars, _, arrows = _gated_parts(x, s, v)
    return torch.cat([scalars.relu(), arrows], 1)


def _gated_read_apart(x: Tensor, s: int, v: int) -> Tensor:
    scalars, gates, arrows = _gated_parts(x, s, v)
    arrows = (arrows.unflatten(1, (2, v)) * gates.sigmoid()[:, None]).transpose(1, 2).flatten(1, 2)
    return torch.cat([scalars.relu(), arrows], 1)


# ------------------------------------------------------------------------------------- 9. pool_vectors


def pool_vectors(v: Tensor, k: int) -> Tensor:
    b, n, _, h, w = v.shape
    windows = v.reshape(b, n, 2, h // k, k, w // k, k).movedim(4, 5).flatten(5)
    longest = windows.square().sum(dim=2, keepdim=True).argmax(dim=-1, keepdim=True)
    return windows.gather(5, longest.expand(-1, -1, 2, -1, -1, -1))[..., 0]


def _pool_by_indices(v: Tensor, k: int) -> Tensor:
    length = v.norm(dim=2)
    _, index = F.max_pool2d(length, k, return_indices=True)
    flat = index.flatten(2)[:, :, None].expand(-1, -1, 2, -1)
    return v.flatten(3).gather(3, flat).reshape(*v.shape[:3], *index.shape[2:])


def _pool_in_loops(v: Tensor, k: int) -> Tensor:
    b, n, _, h, w = v.shape
    out = torch.zeros(b, n, 2, h // k, w // k, dtype=v.dtype)
    square = (v**2).sum(2)
    for p in range(b):
        for q in range(n):
            for i in range(h // k):
                for j in range(w // k):
                    window = square[p, q, i * k : (i + 1) * k, j * k : (j + 1) * k]
                    at = int(window.argmax())
                    out[p, q, :, i, j] = v[p, q, :, i * k + at // k, j * k + at % k]
    return out


def _pool_running(v: Tensor, k: int) -> Tensor:
    best = v[..., ::k, ::k]
    for i in range(k):
        for j in range(k):
            other = v[..., i::k, j::k]
            longer = other.norm(dim=2, keepdim=True) > best.norm(dim=2, keepdim=True)
            best = torch.where(longer, other, best)
    return best.clone()


def _pool_by(name: str, score: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Keeps the arrow with the largest score, which is not its length: (B, N, 2, H, W) to (B, N or 1, 1, H, W)."""

    def answer(v: Tensor, k: int) -> Tensor:
        b, n, _, h, w = v.shape

        def cut(x: Tensor) -> Tensor:
            return x.reshape(b, -1, x.shape[2], h // k, k, w // k, k).movedim(4, 5).flatten(5)

        at = cut(score(v)).argmax(dim=-1, keepdim=True)
        return cut(v).gather(5, at.expand(-1, n, 2, -1, -1, -1))[..., 0]

    answer.__name__ = name
    return answer


_pool_taxi = _pool_by("_pool_taxi", lambda v: v.abs().sum(2, keepdim=True))
_pool_largest_component = _pool_by("_pool_largest_component", lambda v: v.abs().amax(2, keepdim=True))
_pool_shortest = _pool_by("_pool_shortest", lambda v: -v.norm(dim=2, keepdim=True))
_pool_rightmost = _pool_by("_pool_rightmost", lambda v: v[:, :, :1])
_pool_one_for_all = _pool_by("_pool_one_for_all", lambda v: v.square().sum((1, 2), keepdim=True))


_pool_first_field = _pool_by("_pool_first_field", lambda v: v[:, :1].norm(dim=2, keepdim=True))
_pool_over_axis_1 = _pool_by("_pool_over_axis_1", lambda v: v.square().sum(1, keepdim=True))


def _pool_components(v: Tensor, k: int) -> Tensor:
    return F.max_pool2d(v.flatten(1, 2), k).unflatten(1, (v.shape[1], 2))


def _pool_components_by_size(v: Tensor, k: int) -> Tensor:
    up = F.max_pool2d(v.flatten(1, 2), k)
    down = F.max_pool2d(-v.flatten(1, 2), k)
    return torch.where(up >= down, up, -down).unflatten(1, (v.shape[1], 2))


def _pool_mean(v: Tensor, k: int) -> Tensor:
    return F.avg_pool2d(v.flatten(1, 2), k).unflatten(1, (v.shape[1], 2))


def _pool_corner(v: Tensor, k: int) -> Tensor:
    return v[..., ::k, ::k].clone()


def _pool_lengths(v: Tensor, k: int) -> Tensor:
    return F.max_pool2d(v.norm(dim=2), k)


def _pool_mean_direction(v: Tensor, k: int) -> Tensor:
    mean = F.avg_pool2d(v.flatten(1, 2), k).unflatten(1, (v.shape[1], 2))
    return F.normalize(mean, dim=2) * F.max_pool2d(v.norm(dim=2), k)[:, :, None]


# ------------------------------------------------------------------------------------------------ checks

LESSON = "02_steerable_kernels"


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _turn(degrees: float, mirror: bool = False) -> Tensor:
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([-1.0 if mirror else 1.0, 1.0], dtype=torch.float64))


def _words(a: int) -> str:
    return f"a move by {P4M.label(a)}" if a else "no move"


def _vector_moves(
    elements: tuple[int, ...],
) -> list[tuple[str, Callable[..., Tensor], Callable[..., Tensor]]]:
    return [
        (_words(a), lambda v, a=a: P4M.act_vector(v, a), lambda v, a=a: P4M.act_vector(v, a))
        for a in elements
    ]


def _vector_map_follows_all_angles(f: Callable[[Tensor], Tensor], v: Tensor) -> None:
    """A map that works arrow by arrow has no grid to blame: it must follow arrows turned by any angle."""
    for degrees, mirror in ((30.0, False), (37.0, True)):
        turn = _turn(degrees, mirror)
        close(
            f(_arrows(v, turn)),
            _arrows(f(v), turn),
            f"Turn every arrow by {degrees:g}°{' after a mirror' if mirror else ''}, each at its place, and the "
            "result must turn by as much: lengths and directions know no axes",
            tol=1e-5,
        )


def _check_vectors_one_arrow(ask: Ask) -> None:
    v = torch.zeros(2, 2, 3, dtype=torch.float64)
    v[:, 0, 2] = torch.tensor([2.0, 1.0])  # in the top right corner: mostly to the right, a little up
    for r, m, place, arrow in (
        (1, False, (0, 0), (-1.0, 2.0)),
        (0, True, (0, 0), (-2.0, 1.0)),
        (2, False, (1, 0), (-2.0, -1.0)),
        (1, True, (2, 0), (-1.0, -2.0)),
    ):
        got = ask(v, r, m)
        where = f"r = {r}, m = {m}, a field of 2 rows and 3 columns with one arrow"
        total = float(got.square().sum())
        expect(abs(total - 5) < 1e-6, f"A move leaves every arrow as long as it was ({where}).")
        expect(
            float(got[(slice(None), *place)].square().sum()) > 1,
            f"The arrow is not at the pixel to which the picture moves its own pixel ({where}).",
        )
        expect(
            torch.allclose(got[(slice(None), *place)], torch.tensor(arrow, dtype=torch.float64), atol=1e-6),
            f"The arrow stands at the right pixel and points the wrong way ({where}): what an arrow points at "
            "must move with it.",
        )


def _check_vectors_numbers(ask: Ask) -> None:
    for shape in ((2, 5, 5), (2, 3, 2, 4, 6), (3, 2, 5, 4), (2, 2, 2, 3, 5)):
        v = _random(*shape)
        for a in (0, 1, 4, 5, 2, 3, 6, 7):
            r, m = a % 4, a >= 4
            close(
                ask(v, r, m),
                P4M.act_vector(v, a),
                f"Pixels move as in lesson 1, and the components at axis −3 turn along (r = {r}, m = {m})",
                tol=1e-6,
            )
    v = _random(2, 3, 5)
    for r in (-1, 6):
        close(
            ask(v, r, True),
            P4M.act_vector(v, 4 + r % 4),
            f"r may be any whole number, and only r modulo 4 matters (r = {r})",
            tol=1e-6,
        )


def _check_vectors_dtype(ask: Ask) -> None:
    v = _random(2, 3, 4).float()
    close(
        ask(v, 1, True),
        P4M.act_vector(v, 5),
        "A float32 field stays float32, and moves like any other (r = 1, m = True)",
        tol=1e-5,
    )


def _bump(r: Tensor) -> Tensor:
    return torch.exp(-((r - 1) ** 2))


def _slope(r: Tensor) -> Tensor:
    return 0.3 * r - 0.5 * torch.exp(-r)


def _rho(kind: str, g: Tensor) -> Tensor:
    return g if kind == "vector" else torch.ones(1, 1, dtype=torch.float64)


_KINDS = (("scalar", "scalar"), ("scalar", "vector"), ("vector", "scalar"), ("vector", "vector"))


def _check_gap_zero(ask: Ask) -> None:
    points = _random(7, 2, seed=1)
    for source, target in _KINDS:
        for degrees, mirror in ((90.0, False), (40.0, True)):
            g = _turn(degrees, mirror)
            gap = ask(
                lambda p, s=source, t=target: steerable_kernel(p.double(), s, t, _bump, _slope),
                g,
                _rho(target, g),
                _rho(source, g),
                points,
            )
            expect(
                abs(gap) < 1e-6,
                f"The kernel of the table in section 3 from {source} to {target} obeys the constraint under a turn by "
                f"{degrees:g}°{' after a mirror' if mirror else ''}: its gap must be 0.",
            )
    # The same field in slanted coordinates: ρ is then no longer orthogonal.
    slant = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    back, g = slant.inverse(), _turn(70.0)
    gap = ask(
        lambda p: slant @ steerable_kernel(p.double(), "vector", "vector", _bump, _slope) @ back,
        g,
        slant @ g @ back,
        slant @ g @ back,
        points,
    )
    expect(
        abs(gap) < 1e-6,
        "In slanted coordinates ρ(g) is not orthogonal any more, and its inverse is not its transpose. The gap "
        "of a kernel that obeys the constraint is 0 there too.",
    )


def _check_gap_value(ask: Ask) -> None:
    points = _random(5, 2, seed=2)

    def wild(p: Tensor, seed: int = 3, a: int = 2, b: int = 2) -> Tensor:
        w = _random(a * b, 2, seed=seed)
        return torch.sin(p.double() @ w.T + torch.arange(a * b)).reshape(-1, a, b)

    cases = [
        (lambda p: wild(p), _turn(50.0), _turn(50.0), _turn(50.0)),
        (lambda p: wild(p, 4, 2, 1), _turn(80.0, True), _turn(80.0, True), _rho("scalar", _turn(0.0))),
        (lambda p: wild(p, 5, 1, 2), _turn(20.0), _rho("scalar", _turn(0.0)), _turn(20.0)),
        (lambda p: wild(p, 6, 2, 2), _turn(25.0), _turn(60.0), 2 * _turn(100.0, True)),
        (lambda p: wild(p, 7, 3, 2) - 1, _turn(10.0), _random(3, 3, seed=8), _random(2, 2, seed=9)),
        (lambda p: wild(p, 7, 3, 2) + 3, _turn(10.0), -_random(3, 3, seed=8), _random(2, 2, seed=9)),
    ]
    for kernel, g, out, inn in cases:
        close(
            ask(kernel, g, out, inn, points),
            constraint_gap(kernel, g, out, inn, points),
            "The gap is the largest absolute entry of K(g x) − ρ_out K(x) ρ_in⁻¹ over all points",
            tol=1e-5,
        )


def _check_kernel_obeys(ask: Ask) -> None:
    points = _random(6, 2, seed=1)
    for source, target in _KINDS:
        got = ask(points, source, target, _bump, _slope)
        expect(
            float(got.abs().max()) > 1e-3 and not torch.allclose(got[0], got[1]),
            f"The kernel from {source} to {target} must depend on x.",
        )
        for degrees, mirror in ((90.0, False), (40.0, False), (0.0, True)):
            g = _turn(degrees, mirror)
            moved = ask(points @ g.T, source, target, _bump, _slope)
            word = "a left-right mirror" if mirror else f"a turn by {degrees:g}°"
            close(
                moved,
                _rho(target, g) @ got @ _rho(source, g).inverse(),
                f"Under {word} the kernel from {source} to {target} must obey K(g x) = ρ_out(g) K(x) ρ_in(g)⁻¹",
                tol=1e-6,
            )


def _check_kernel_numbers(ask: Ask) -> None:
    points = torch.cat([_random(5, 2, seed=2), torch.zeros(1, 2, dtype=torch.float64)])
    for f1, f2 in ((_bump, _slope), (_slope, torch.cos), (lambda r: r + 1, lambda r: 0 * r + 2)):
        for source, target in _KINDS:
            close(
                ask(points, source, target, f1, f2),
                steerable_kernel(points, source, target, f1, f2),
                f"The kernel from {source} to {target} is that of the table, with f₁ and f₂ taken at the radius "
                "|x| (one point is x = 0)",
                tol=1e-6,
            )


def _check_kernel_dtype(ask: Ask) -> None:
    points = _random(4, 2, seed=3).float()
    for source, target in _KINDS:
        close(
            ask(points, source, target, _bump, _slope),
            steerable_kernel(points, source, target, _bump, _slope),
            f"At float32 points the kernel from {source} to {target} is float32 and has the same numbers",
            tol=1e-4,
        )


def _representations() -> dict[str, Tensor]:
    """Of D4: the trivial one, the vectors, both kinds of sign, the eight planes, and vectors in other axes."""
    matrices = torch.stack([P4M.matrix(a).double() for a in range(8)])
    regular = F.one_hot(P4M.table, 8).double().transpose(1, 2).contiguous()
    slant = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    return {
        "trivial": torch.ones(8, 1, 1, dtype=torch.float64),
        "vector": matrices,
        "sign": torch.linalg.det(matrices)[:, None, None],
        "regular": regular,
        "slanted vector": slant @ matrices @ slant.inverse(),
    }


def _check_count_ray(ask: Ask) -> None:
    mirror = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))]).double()
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    kinds = {"scalar": one, "vector": mirror}
    for source, target in _KINDS:
        want = 2 if source == target == "vector" else 1
        expect(
            ask(kinds[target], kinds[source]) == want,
            "With the identity and the mirror that keeps the ray of x, as in O(2), your number of kernels from "
            f"{source} to {target} is not right: it must be that of the free profiles in the table.",
        )
        expect(
            ask(kinds[target][:1], kinds[source][:1]) == kinds[target].shape[1] * kinds[source].shape[1],
            f"The identity alone forbids nothing: every entry of a matrix from {source} to {target} is free.",
        )


def _check_count_groups(ask: Ask) -> None:
    known = _representations()
    turns = torch.stack([_turn(90.0 * r) for r in range(4)])
    thirds = torch.stack([_turn(120.0 * r) for r in range(3)])
    cases = [(known[a], known[b], f"D4, {b} to {a}") for a in known for b in known]
    cases += [
        (turns, turns, "four turns, vector to vector"),
        (thirds, thirds, "three turns, vector to vector"),
    ]
    cases += [(known["vector"].repeat_interleave(1, 0)[:4], known["regular"][:4], "the four turns of D4")]
    for out, inn, name in cases:
        expect(
            ask(out, inn) == count_kernels(out, inn),
            f"Your number of independent solutions is not right for this case: {name}. K must obey the equation "
            "for all elements at once.",
        )


def _yours(point: Tensor) -> str:
    return f"yours at ({float(point[0]):g}, {float(point[1]):g})"


def _check_sample_place(ask: Ask) -> None:
    got = ask(lambda p: p.double()[:, :, None], 3)
    expect(
        float(got[0, 0, 1, 2]) > 0 and abs(float(got[1, 0, 1, 2])) < 1e-6,
        f"The tap to the right of the centre lies at (x, y) = (1, 0); {_yours(got[:, 0, 1, 2])}.",
    )
    expect(
        float(got[1, 0, 0, 1]) > 0 and abs(float(got[0, 0, 0, 1])) < 1e-6,
        f"The tap above the centre lies at (x, y) = (0, 1), {_yours(got[:, 0, 0, 1])}: rows count downwards, and y "
        "points upwards.",
    )
    for size in (1, 5):
        middle = ask(lambda p: p.double()[:, :, None] ** 2 + 1, size)[:, 0, size // 2, size // 2]
        expect(
            torch.allclose(middle, torch.ones(2, dtype=torch.float64)),
            "The tap in the centre lies at (0, 0).",
        )


def _check_sample_numbers(ask: Ask) -> None:
    w = _random(6, 2, seed=5)

    def wild(p: Tensor) -> Tensor:
        return torch.cos(p.double() @ w.T).reshape(-1, 3, 2) + p.double()[:, :1, None]

    for size in (3, 5, 7):
        close(
            ask(wild, size),
            sample_kernel(wild, size),
            f"Entry [a, b, i, j] is K[a, b] at x = j − c and y = c − i with c = {size // 2} (size {size})",
            tol=1e-5,
        )


def _solution(source: str, target: str) -> Kernel:
    """The solution from source to target under a name of its own: the port tells functions apart by name."""

    def kernel(points: Tensor) -> Tensor:
        return steerable_kernel(points.double(), source, target, _bump, _slope)

    kernel.__name__ = f"{source}_to_{target}"
    return kernel


def _check_sample_symmetry(ask: Ask) -> None:
    for source, target in _KINDS:
        got = ask(_solution(source, target), 5)
        for a in (1, 4):
            g = P4M.matrix(a).double()
            moved = torch.einsum("ab,bcij,cd->adij", _rho(target, g), got, _rho(source, g).inverse())
            close(
                P4M.act(moved, a),
                got,
                f"On the grid a kernel from {source} to {target} still obeys the constraint for {_words(a)}",
                tol=1e-5,
            )


def _bases(size: int) -> tuple[Tensor, Tensor]:
    """The library's rings (n, k, k) and arrows (m, 2, k, k)."""
    made = expand_kernels(size)
    return made["scalar", "scalar"][:, 0, 0], made["scalar", "vector"][:, :, 0]


def _library_mixed(x: Tensor, parameters: dict[str, Tensor], size: int) -> Tensor:
    f, g = parameters["f"], parameters["g"]
    layer = SteerableConv2d(
        f.shape[1], (len(f), len(g)), size, padding=size // 2, bias=False, dtype=torch.float64
    )
    with torch.no_grad():
        layer.named_weights()["scalar", "scalar"].copy_(f)
        layer.named_weights()["scalar", "vector"].copy_(g)
        return F.conv2d(x, layer.filters, padding=size // 2)


def _check_mixed(ask: Ask) -> None:
    rings, arrows = _bases(5)
    weights = {"f": _random(2, 3, len(rings), seed=3), "g": _random(2, 3, len(arrows), seed=4)}
    equivariant_map(
        lambda x, p: ask(x, rings, arrows, p["f"], p["g"]),
        lambda x, p: _library_mixed(x, p, 5),
        moves=[
            (_words(a), lambda x, a=a: P4M.act(x, a), lambda y, a=a: act_packed(y, (2, 2), a)) for a in (1, 4)
        ],
        parameters=weights,
        square=_random(2, 3, 5, 5, seed=1),
        oblong=_random(2, 3, 4, 6, seed=2),
        what="your mixed layer",
        tol=1e-6,
    )
    rings, arrows = _bases(3)
    other = {"f": _random(1, 2, len(rings), seed=3), "g": _random(3, 2, len(arrows), seed=4)}
    agrees(
        lambda x: ask(x, rings, arrows, other["f"], other["g"]),
        lambda x: _library_mixed(x, other, 3),
        [_random(1, 2, 5, 4, seed=5)],
        what="your mixed layer",
        tol=1e-6,
    )


def _check_mixed_slope(ask: Ask) -> None:
    ramp = torch.arange(9.0, dtype=torch.float64).expand(1, 1, 9, 9)
    rings, arrows = _bases(3)
    y = ask(
        ramp,
        rings,
        arrows,
        torch.ones(1, 1, 2, dtype=torch.float64),
        torch.ones(1, 1, 1, dtype=torch.float64),
    )
    expect(
        float(y[0, 1, 4, 4]) > 0.1 and abs(float(y[0, 2, 4, 4])) < 1e-6,
        "On a picture that brightens to the right, the kernel f(r) x must give arrows to the right, away from the "
        "border.",
    )


def _check_mixed_rings(ask: Ask) -> None:
    """Other bases than the library's: the layer takes what it is given."""
    rings, arrows = _random(2, 5, 5, seed=6), _random(3, 2, 5, 5, seed=7)
    f, g, x = _random(3, 2, 2, seed=8), _random(2, 2, 3, seed=9), _random(1, 2, 6, 8, seed=10)
    close(
        ask(x, rings, arrows, f, g),
        mixed_layer(x, rings, arrows, f, g),
        "Kernel (j, i) is the sum over n of weight [j, i, n] times basis kernel n, whatever basis is handed in",
        tol=1e-6,
    )


def _with_zeros(*shape: int, seed: int = 0) -> Tensor:
    """Arrows of length 0.2 and more, and some of length 0."""
    v = _random(*shape, seed=seed)
    v = v * (1 + 0.2 / v.norm(dim=2, keepdim=True))
    v[:, :, :, 0, 1] = 0
    return v


def _library_norm(v: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    layer = NormReLU((0, v.shape[1])).double()
    with torch.no_grad():
        layer.bias.copy_(parameters["b"])
        return layer(v.flatten(1, 2)).unflatten(1, (v.shape[1], 2))


def _check_norm_zero(ask: Ask) -> None:
    v = _with_zeros(1, 2, 2, 3, 4)
    got = ask(v, torch.tensor([-0.5, 0.3], dtype=torch.float64))
    expect(
        not got.isnan().any(),
        "An arrow of length 0 gives nan: 0/0. It has no direction, and stays 0.",
    )
    expect(
        float(got[:, :, :, 0, 1].abs().max()) < 1e-6,
        "An arrow of length 0 has no direction, and must stay 0.",
    )


def _check_norm_map(ask: Ask) -> None:
    b = torch.tensor([-0.6, 0.4, -1.2], dtype=torch.float64)
    _vector_map_follows_all_angles(lambda v: ask(v, b), _with_zeros(2, 3, 2, 3, 5))
    equivariant_map(
        lambda v, p: ask(v, p["b"]),
        _library_norm,
        moves=_vector_moves((1, 4, 7)),
        parameters={"b": b},
        square=_with_zeros(2, 3, 2, 5, 5, seed=1),
        oblong=_with_zeros(2, 3, 2, 4, 6, seed=2),
        what="your nonlinearity",
        tol=1e-5,
    )


def _check_norm_cuts(ask: Ask) -> None:
    v = torch.zeros(1, 1, 2, 1, 3, dtype=torch.float64)
    v[0, 0, :, 0] = torch.tensor([[0.3, 1.2, -3.0], [0.4, -1.6, 4.0]])  # lengths 0.5, 2, 5
    got = ask(v, torch.tensor([-1.0], dtype=torch.float64)).norm(dim=2).flatten()
    close(
        got,
        torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64),
        "With b = −1 arrows of length 0.5, 2 and 5 must come out with length 0, 1 and 4",
        tol=1e-5,
    )


def _check_norm_gradient(ask: Ask) -> None:
    v, b = _with_zeros(1, 2, 2, 3, 3, seed=3), torch.tensor([-0.7, -0.2], dtype=torch.float64)
    cotangent = _random(1, 2, 2, 3, 3, seed=4)
    found = ask.gradient(v, b, wrt=[0, 1], cotangent=cotangent)
    expect(
        all(g is not None for g in found),
        "A network learns from gradients, and yours has none for v or for b: stay in torch.",
    )
    expect(
        all(bool(g.isfinite().all()) for g in found),
        "The values are right, but the gradient at an arrow of length 0 is nan: the root has an infinite slope at "
        "0. Keep the length a little above 0 before you take the root or divide.",
    )
    free, bias = v.clone().requires_grad_(), b.clone().requires_grad_()
    want = torch.autograd.grad((norm_relu(free, bias) * cotangent).sum(), [free, bias])
    away = torch.ones_like(v)
    away[:, :, :, 0, 1] = 0
    close(found[0] * away, want[0] * away, "The gradient with respect to v is that of the formula", tol=1e-4)
    close(found[1], want[1], "The gradient with respect to b is that of the formula", tol=1e-4)


def _check_norm_short(ask: Ask) -> None:
    v = torch.zeros(1, 1, 2, 1, 2, dtype=torch.float64)
    v[0, 0, :, 0] = torch.tensor([[3e-4, -5e-4], [-4e-4, 0.0]])  # length 0.0005 both
    got = ask(v, torch.tensor([0.5], dtype=torch.float64)).norm(dim=2).flatten()
    close(
        got,
        torch.tensor([0.5005, 0.5005], dtype=torch.float64),
        "An arrow of length 0.0005 is short, not zero: with b = 0.5 it must come out with length 0.5005. If it does "
        "not, your safeguard against 0/0 is too large",
        tol=4e-3,
    )


def _gated_library(x: Tensor, s: int, v: int) -> Tensor:
    return GatedReLU((s, v))(x)


def _check_gated_map(ask: Ask) -> None:
    for s, v in ((2, 3), (1, 1), (4, 2)):
        x = _random(2, s + 3 * v, 5, 5, seed=s)
        moves = [
            (
                _words(a),
                lambda x, a=a, s=s, v=v: act_packed(x, (s + v, v), a),
                lambda y, a=a, s=s, v=v: act_packed(y, (s, v), a),
            )
            for a in (1, 4)
        ]

        def gate(x: Tensor, s: int = s, v: int = v) -> Tensor:
            return ask(x, s, v)

        commutes(gate, x, moves, what="your gates", tol=1e-6)
        sensitive(gate, x, what="your gates")
        oblong = _random(3, s + 3 * v, 3, 6, seed=7 + s)
        agrees(gate, lambda x, s=s, v=v: _gated_library(x, s, v), [x, oblong], what="your gates", tol=1e-6)
        batched(gate, oblong, what="your gates", tol=1e-6)


def _check_gated_open(ask: Ask) -> None:
    x = torch.zeros(1, 1 + 2 + 4, 1, 1, dtype=torch.float64)
    x[0, :, 0, 0] = torch.tensor([-2.0, 30.0, -30.0, 1.0, 2.0, 3.0, 4.0])
    y = ask(x, 1, 2)[0, :, 0, 0]
    expect(abs(float(y[0])) < 1e-6, "A negative scalar must become 0.")
    close(
        y[1:3],
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        "A gate of +30 is open: both components of the first arrow pass as they are",
        tol=1e-6,
    )
    expect(
        float(y[3:].abs().max()) < 1e-6,
        "A gate of −30 is shut: both components of the second arrow must become 0.",
    )


def _pool_library(v: Tensor, k: int) -> Tensor:
    return SteerablePool2d((0, v.shape[1]), k)(v.flatten(1, 2)).unflatten(1, (v.shape[1], 2))


def _check_pool_copies(ask: Ask) -> None:
    v = _random(1, 1, 2, 4, 6, seed=1)
    got = ask(v, 2)
    for i in range(2):
        for j in range(3):
            window = v[0, 0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
            near = (window - got[0, 0, :, i, j, None]).abs().amax(0).min()
            expect(
                float(near) < 1e-6,
                "Every arrow of the result must be one of the arrows of its window, both components together; "
                "yours has one that is none of them.",
            )
    close(
        ask(v, 2).norm(dim=2),
        F.max_pool2d(v.norm(dim=2), 2),
        "The arrow that stays is the longest of its window",
        tol=1e-6,
    )
    expect(
        float(ask(torch.zeros(1, 2, 2, 4, 4, dtype=torch.float64), 2).abs().max()) == 0,
        "A window without arrows pools to an arrow of length 0.",
    )


def _check_pool_map(ask: Ask) -> None:
    for k, square, oblong in (
        (2, _random(2, 3, 2, 6, 6, seed=2), _random(2, 2, 2, 4, 8, seed=3)),
        (3, _random(2, 1, 2, 9, 9, seed=4), _random(2, 2, 2, 3, 6, seed=5)),
        (4, _random(2, 4, 2, 12, 12, seed=8), _random(3, 5, 2, 8, 16, seed=9)),
    ):

        def pool(v: Tensor, k: int = k) -> Tensor:
            return ask(v, k)

        _vector_map_follows_all_angles(pool, square)
        commutes(pool, square, _vector_moves((1, 4)), what="your pooling", tol=1e-6)
        commutes(pool, oblong, _vector_moves((1, 7)), what="your pooling", tol=1e-6)
        for v in (square, oblong):
            close(
                pool(v),
                _pool_library(v, k),
                f"Each of the N fields keeps, of each of its windows of {k} × {k} pixels, its own longest arrow",
                tol=1e-6,
            )
        batched(pool, oblong, what="your pooling", tol=1e-6)
    one = _random(2, 2, 2, 3, 4, seed=7)
    close(ask(one, 1), one, "Windows of one pixel leave the field as it is", tol=1e-6)


# ---------------------------------------------------------------------------------------------- exercises

MOVE_VECTORS = Exercise(
    name="move_vectors",
    lesson=LESSON,
    title="Move a vector field",
    points=2,
    objective="Move a vector field by every element of p4m: the pixels go elsewhere, and the arrows turn.",
    statement="""
Write `move_vectors(v, r, m)`: the vector field after the tissue under it is mirrored left-right (if `m`) and
then turned by `r` quarter turns counter-clockwise.

- `v`: float tensor (..., 2, H, W). Axis −3 holds the components of each arrow: first x, to the right, then y,
  upwards. H and W may differ; there may be any leading axes, or none.
- `r`: any whole number, also negative; only r modulo 4 matters. `m`: bool.
- Returns the moved field: (..., 2, H, W) for even r, (..., 2, W, H) for odd r, dtype as in `v`. `v` itself
  stays as it is.
""".strip(),
    reference=move_vectors,
    alternatives=(_vectors_by_matrix, _vectors_complex, _vectors_by_cases),
    misconceptions=(
        Misconception(
            _vectors_pixels_only,
            "You move the arrows to new pixels, but they still point where they pointed before. An arrow that "
            "pointed at a nucleus must point at it after the turn.",
        ),
        Misconception(
            _vectors_arrows_only,
            "You turn every arrow on its spot and leave the picture where it was. Pixels and arrows move together.",
        ),
        Misconception(
            _vectors_arrows_clockwise,
            "Your pixels turn counter-clockwise and your arrows clockwise. With y upwards a quarter turn takes "
            "an arrow to the right (1, 0) to one upwards (0, 1).",
        ),
        Misconception(_vectors_all_clockwise, "Pixels and arrows turn together, but clockwise."),
        Misconception(
            _vectors_mirror_flips_y,
            "Your mirror turns the arrows upside down. Left-right is x: the mirror changes the sign of x alone.",
        ),
        Misconception(
            _vectors_mirror_keeps_arrows,
            "Your mirror moves the pixels and forgets the arrows: what pointed right must point left.",
        ),
        Misconception(
            _vectors_components_mirrored_last,
            "Your pixels are mirrored first and turned then, your arrows turned first and mirrored then. The "
            "order matters: keep it the same for both.",
        ),
        Misconception(
            _vectors_turn_then_mirror,
            "You turn first and mirror afterwards. First the mirror, then the turn.",
        ),
        Misconception(
            _vectors_swapped_without_sign,
            "For a quarter turn you swap x and y, which is a mirror at the diagonal. One of the two also changes "
            "its sign; and a half turn changes both.",
        ),
        Misconception(
            _vectors_loop_over_r,
            "For a negative r your loop over range(r) does nothing. Only r modulo 4 matters: use r % 4.",
        ),
        Misconception(
            _vectors_in_double,
            "You return float64 whatever comes in. The dtype of the result is that of `v`.",
        ),
        Misconception(
            _vectors_second_axis,
            "You take axis 1 for the components. They are at axis −3, counted from the end: any axes may come "
            "before.",
        ),
    ),
    hints=(
        "Two things happen: pixels go elsewhere, as in lesson 1, and the two numbers in each pixel change. Do one "
        "after the other.",
        "On x and y: the mirror makes (−x, y) of (x, y). A quarter turn counter-clockwise takes (1, 0) to (0, 1) "
        "and (0, 1) to (−1, 0): what does it make of (x, y)?",
        "Quarter turn: rot90 of the picture, then stack([−y, x], dim=−3), r % 4 times. Before it, if m: flip(−1) "
        "and stack([−x, y], dim=−3).",
    ),
    checks=(_check_vectors_one_arrow, _check_vectors_numbers, _check_vectors_dtype),
)

CONSTRAINT_GAP = Exercise(
    name="constraint_gap",
    lesson=LESSON,
    title="Test a kernel against the constraint",
    points=2,
    objective="Derive the constraint on a kernel, and test any kernel against it.",
    statement=r"""
Write `constraint_gap(kernel, g, rho_out, rho_in, points)`: the largest absolute entry of

$$K(g\,x) - \rho_\text{out}(g)\, K(x)\, \rho_\text{in}(g)^{-1}$$

over all points x.

- `kernel`: a function from points (N, 2), each row one x = (x, y), to matrices (N, a, b), float64.
- `g`: the 2 × 2 matrix that moves a point, a turn or a mirror; it multiplies the column x from the left.
- `rho_out`: ρ_out(g), a matrix (a, a). `rho_in`: ρ_in(g), a matrix (b, b). They are invertible, and need not be
  orthogonal. `points`: (N, 2). All float64.
- Returns one number (a Python float or a tensor without axes).
""".strip(),
    reference=constraint_gap,
    alternatives=(_gap_einsum, _gap_point_by_point, _gap_solve),
    misconceptions=(
        Misconception(
            _gap_without_inverse,
            "You multiply with ρ_in(g) on the right. Its inverse belongs there: the input was moved by g, and the "
            "kernel must undo that before it reads.",
        ),
        Misconception(
            _gap_transposed,
            "You take the transpose of ρ_in for its inverse. That is right for turns and mirrors, not for every "
            "matrix: use the inverse.",
        ),
        Misconception(
            _gap_moved_back,
            "You evaluate the kernel at g⁻¹x. With points in rows, the point g x is the row times the transpose "
            "of g.",
        ),
        Misconception(
            _gap_forgets_input, "ρ_in is missing: the components of the input turn too when the picture does."
        ),
        Misconception(
            _gap_forgets_output, "ρ_out is missing: the components of the output must turn with the picture."
        ),
        Misconception(
            _gap_forgets_both,
            "You compare K(g x) with K(x): that asks for a round kernel, right from scalar to scalar only.",
        ),
        Misconception(_gap_does_not_move, "You never move the point: the left side is the kernel at g x."),
        Misconception(
            _gap_inverse_on_output,
            "You have the inverse on the wrong side: ρ_out stands on the left as it is, ρ_in on the right inverted.",
        ),
        Misconception(_gap_mean, "You return the mean difference. Wanted is the largest."),
        Misconception(
            _gap_norm, "You return the root of the sum of squares. Wanted is the largest absolute entry."
        ),
        Misconception(
            _gap_frobenius,
            "You take a norm of each matrix and then the largest. Wanted is the largest absolute entry of all.",
        ),
        Misconception(
            _gap_multiplied_out,
            "K(g x) ρ_in − ρ_out K(x) is 0 in the same cases, but elsewhere it is another number. Bring ρ_in to the "
            "other side as its inverse.",
        ),
        Misconception(
            _gap_signed, "You take the largest difference with its sign: a large negative one escapes you."
        ),
        Misconception(
            _gap_relative, "You divide by the size of the kernel. Wanted is the difference as it is."
        ),
    ),
    hints=(
        "Two stacks of matrices, (N, a, b) each: the kernel at the moved points, and the kernel at the points "
        "between two matrices.",
        "Points are rows, so all of them are moved at once by `points @ g.T`. `@` multiplies stacks of matrices: "
        "(a, a) @ (N, a, b) @ (b, b).",
        "(kernel(points @ g.T) − rho_out @ kernel(points) @ inverse of rho_in).abs().max(), with torch.linalg.inv.",
    ),
    checks=(_check_gap_zero, _check_gap_value),
)

STEERABLE_KERNEL = Exercise(
    name="steerable_kernel",
    lesson=LESSON,
    title="The four solutions",
    points=3,
    objective="Solve the constraint for maps between scalar and vector fields.",
    statement=r"""
Write `steerable_kernel(points, source, target, f1, f2)`: the kernel that maps `source` to `target`, evaluated at
points.

| source → target | K(x) | shape of K(x) |
|---|---|---|
| scalar → scalar | $f_1(\lvert x\rvert)$ | 1 × 1 |
| scalar → vector | $f_1(\lvert x\rvert)\, x$ | 2 × 1 |
| vector → scalar | $f_1(\lvert x\rvert)\, x^T$ | 1 × 2 |
| vector → vector | $f_1(\lvert x\rvert)\, I + f_2(\lvert x\rvert)\, x x^T$ | 2 × 2 |

- `points`: float tensor (N, 2), each row one x = (x, y). x may be 0.
- `source`, `target`: "scalar" or "vector". `f1`, `f2`: functions of the radius, from a tensor to a tensor of the
  same shape; f2 is ignored in the first three lines.
- Returns (N, a, b): N matrices, a components of the target times b of the source; dtype as in `points`.
""".strip(),
    reference=steerable_kernel,
    alternatives=(_kernel_einsum, _kernel_point_by_point, _kernel_filled_in),
    misconceptions=(
        Misconception(
            _kernel_of_square, "Your profiles see |x|². They are functions of the radius |x|: take the root."
        ),
        Misconception(
            _kernel_of_taxi_radius,
            "Your radius is |x| + |y|, which a quarter turn keeps and a turn by 40° does not. Take the Euclidean "
            "length.",
        ),
        Misconception(
            _kernel_of_x_alone,
            "Your profiles see the first coordinate alone. They may depend on the radius, and on nothing else: "
            "that is what the constraint says for one orbit.",
        ),
        Misconception(
            _kernel_row_for_column,
            "Rows and columns are exchanged. To a vector the kernel is a column (2 × 1), from a vector it is a "
            "row (1 × 2).",
        ),
        Misconception(
            _kernel_unit_vectors,
            "You use the direction x/|x|. That kernel is allowed as well, with another profile; but here the "
            "table says x itself, with its length.",
        ),
        Misconception(
            _kernel_dot,
            "You use xᵀx, one number, where x xᵀ, a matrix, is wanted: the vector kernel then knows no direction.",
        ),
        Misconception(
            _kernel_of_number,
            "x xᵀ is a 2 × 2 matrix (column times row); xᵀ x is a number, and you add it to all four entries.",
        ),
        Misconception(
            _kernel_in_double,
            "You return float64 whatever comes in. The dtype of the result is that of `points`: mind the unit matrix.",
        ),
        Misconception(
            _kernel_diagonal,
            "Your x xᵀ has nothing off its diagonal. Entry [i, j] is x_i x_j for every pair i, j.",
        ),
        Misconception(
            _kernel_of_ones,
            "You add f₁ to all four entries. f₁ I adds it to the diagonal only: I is the unit matrix.",
        ),
        Misconception(_kernel_profiles_swapped, "f₁ and f₂ are exchanged: f₁ goes with I, f₂ with x xᵀ."),
        Misconception(
            _kernel_identity_only,
            "From vector to vector you have f₁ I alone. The constraint allows a second, independent solution: "
            "f₂ x xᵀ.",
        ),
        Misconception(
            _kernel_outer_only,
            "From vector to vector you have f₂ x xᵀ alone. The constraint allows f₁ I as well.",
        ),
        Misconception(
            _kernel_across,
            "Your arrows run across x instead of along it, like a whirl. Turns allow that. A mirror reverses a "
            "whirl, so O(2) forbids it.",
        ),
    ),
    hints=(
        "Compute the radius once. Then make x a column for each point, (N, 2, 1), and a row, (N, 1, 2).",
        "A column times a row, entry by entry with broadcasting, is the matrix x xᵀ. f1(r) needs two axes more to "
        "multiply a stack of matrices: f1(r)[:, None, None].",
        "points[:, :, None] is the column, points[:, None, :] the row. Four cases: first; first * column; first * "
        "row; first * torch.eye(2) + second * column * row (mind the dtype of the unit matrix).",
    ),
    checks=(_check_kernel_obeys, _check_kernel_numbers, _check_kernel_dtype),
)

COUNT_KERNELS = Exercise(
    name="count_kernels",
    lesson=LESSON,
    title="Count what is allowed",
    points=2,
    objective="Count the kernels that a group allows, and say what mirrors forbid.",
    statement=r"""
Write `count_kernels(rho_out, rho_in)`: how many linearly independent matrices K (a × b) obey

$$\rho_\text{out}(s)\, K = K\, \rho_\text{in}(s) \quad\text{for all elements } s \text{ of a finite group?}$$

- `rho_out`: float64 tensor (n, a, a), `rho_in`: (n, b, b): the matrices of the n elements of the group, in the
  same order; the identity is one of them. The matrices are invertible, and need not be orthogonal.
- Returns a whole number (an int, or an integer tensor without axes).
""".strip(),
    reference=count_kernels,
    alternatives=(_count_characters, _count_projector, _count_svd),
    misconceptions=(
        Misconception(
            _count_everything,
            "You count all a·b entries. Each element of the group ties some of them to others.",
        ),
        Misconception(
            _count_equations,
            "You count the independent equations (the rank). What is free is the rest: a·b minus the rank.",
        ),
        Misconception(
            _count_last_only,
            "You look at the last element alone. K must obey the equation for every element.",
        ),
        Misconception(
            _count_one_at_a_time,
            "You count for each element alone and take the smallest number. What one element allows, another may "
            "forbid: stack the equations of all of them.",
        ),
        Misconception(
            _count_summed,
            "You add the equations of all elements up. Write the equations under each other; their sum is only one of "
            "them.",
        ),
        Misconception(
            _count_transposed,
            "One of your matrices is transposed: you solve ρ_out K = K ρ_inᵀ. With K written out row by row, K ρ_in "
            "is kron(I, ρ_inᵀ) times K.",
        ),
        Misconception(
            _count_characters_summed,
            "You sum the products of traces over the group. Their mean is the number of solutions.",
        ),
        Misconception(
            _count_diagonals,
            "You compare diagonal entries. That works where all matrices are diagonal, like the one mirror, and "
            "nowhere else.",
        ),
        Misconception(
            _count_invariant_only,
            "You count only kernels that forget how things turn (invariant times invariant). The identity map "
            "from vectors to vectors is allowed, too, and it forgets nothing.",
        ),
    ),
    hints=(
        "The equations are linear in the entries of K. Write K as a column of a·b numbers; then each s gives a "
        "matrix that must send it to 0.",
        "Try each of the a·b matrices with a single 1 and zeros elsewhere as K, and write ρ_out(s) K − K ρ_in(s) for "
        "all s under each other: one column of a large matrix. The number of solutions is the number of columns minus "
        "the rank. (Or use torch.kron, which may want .contiguous() after a transpose. Or take the mean of "
        "tr ρ_out(s) · tr ρ_in(s)⁻¹.)",
        "equations = [kron(ρ_out, I_b) − kron(I_a, ρ_inᵀ) for each s]; a * b − matrix_rank(torch.cat(equations)).",
    ),
    checks=(_check_count_ray, _check_count_groups),
)

SAMPLE_KERNEL = Exercise(
    name="sample_kernel",
    lesson=LESSON,
    title="Put a kernel on the grid",
    points=2,
    objective="Sample a kernel on the pixel grid, and measure what sampling breaks.",
    statement="""
Write `sample_kernel(kernel, size)`: the taps of a kernel on a grid of `size` × `size` pixels.

- `kernel`: a function from points (N, 2), each row one x = (x, y) in pixels, x to the right and y upwards, to
  matrices (N, a, b).
- `size`: an odd whole number from 1 up. The middle tap lies at x = 0.
- Returns a float64 tensor (a, b, size, size), as conv2d wants it. Tap [..., i, j], row i and column j, is the
  kernel at x = j − c and y = c − i with c = (size − 1) / 2: rows count downwards, y upwards.
""".strip(),
    reference=sample_kernel,
    alternatives=(_sample_tap_by_tap, _sample_rows, _sample_numpy),
    misconceptions=(
        Misconception(
            _sample_y_down,
            "Your y points down, like the rows. Here it points up: the first row has the largest y.",
        ),
        Misconception(
            _sample_xy_swapped,
            "x and y are exchanged: your first coordinate runs along the rows, from top to bottom. x runs from "
            "left to right, with the column.",
        ),
        Misconception(
            _sample_row_for_x,
            "Your x is the row and your y the column: the tap to the right of the centre lies at (0, 1) for you. It "
            "lies at (1, 0): x = j − c, y = c − i.",
        ),
        Misconception(
            _sample_x_left,
            "Your x points to the left: the tap to the right of the centre lies at (−1, 0) for you. It lies at "
            "(1, 0): x = j − c.",
        ),
        Misconception(
            _sample_from_the_corner,
            "Your origin is the top left tap. It belongs in the middle, so that the kernel reaches equally far to "
            "all sides.",
        ),
        Misconception(
            _sample_unit_square,
            "You scale the coordinates to −1 … 1. They are in pixels: a kernel of another size must not be "
            "another function.",
        ),
        Misconception(
            _sample_half_a_pixel_off,
            "You are half a pixel off: with size / 2 no tap lies at x = 0. The centre is (size − 1) / 2.",
        ),
        Misconception(
            _sample_upside_down,
            "You turn the kernel by 180°, as in a true convolution. conv2d does not flip: the tap at the right "
            "reads what lies to the right.",
        ),
        Misconception(
            _sample_matrix_transposed,
            "Your matrices are transposed: the first axis counts the components of the target, the second those "
            "of the source.",
        ),
        Misconception(
            _sample_without_permute,
            "You reshape (N, a, b) into (a, b, size, size) without moving the axis of the points to the end "
            "first: that shuffles taps and entries.",
        ),
    ),
    hints=(
        "Make the x and y of all taps, hand them to the kernel as rows, and bring the result into the shape of a "
        "filter.",
        "torch.meshgrid of two ranges gives the row and the column of each tap. The order of points is up to you, as "
        "long as you undo it afterwards. (N, a, b) becomes (a, b, N) with permute, and then (a, b, size, size).",
        "points = stack([column − c, c − row], −1).reshape(−1, 2) in float64; values.permute(1, 2, "
        "0).reshape(a, b, size, size).",
    ),
    checks=(_check_sample_place, _check_sample_numbers, _check_sample_symmetry),
)

MIXED_LAYER = Exercise(
    name="mixed_layer",
    lesson=LESSON,
    title="Colours to scalars and vectors",
    points=3,
    objective="Build a layer from colours to scalar and vector fields as one convolution.",
    statement=r"""
Write `mixed_layer(x, rings, arrows, f, g)`: from C scalar channels to S scalar and V vector fields,

$$J_s^{\,j} = \sum_{i} \Big(\sum_n f_{jin}\, R_n\Big) \star I_i, \qquad
J_v^{\,j} = \sum_{i} \Big(\sum_m g_{jim}\, A_m\Big) \star I_i .$$

- `x`: the channels $I_i$, float64 (B, C, H, W). H and W may differ.
- `rings`: round kernels $R_n$, (n, k, k), k odd. `arrows`: kernels $A_m$ from scalar to vector, (m, 2, k, k),
  components x, y.
- `f`: weights (S, C, n). `g`: weights (V, C, m).
- $\star$ is what conv2d does (the kernel is not flipped), with zeros around the picture, so that H and W stay.
- Returns (B, S + 2 V, H, W): the scalars, then x and y of vector 0, then x and y of vector 1, and so on. No input
  is changed.
""".strip(),
    reference=mixed_layer,
    alternatives=(_mixed_filter_by_filter, _mixed_responses_first, _mixed_unfolded),
    misconceptions=(
        Misconception(
            _mixed_all_x_then_all_y,
            "You put the x of all vectors first and then all y. Each vector keeps its two components together: x, "
            "y, x, y.",
        ),
        Misconception(
            _mixed_vectors_first, "Your vectors come first. The scalars come first, then the vectors."
        ),
        Misconception(
            _mixed_flipped,
            "Your kernels are flipped, as in a true convolution: round kernels do not mind, but your arrows point "
            "the other way.",
        ),
        Misconception(
            _mixed_all_flipped,
            "You flip the whole kernel, as in a true convolution: all your arrows point the other way. conv2d does "
            "not flip.",
        ),
        Misconception(
            _mixed_minus,
            "All your arrows point the other way: do you flip the kernel, or is a sign lost?",
        ),
        Misconception(
            _mixed_reshaped,
            "You reshape (V, C, 2, k, k) to (2 V, C, k, k) with the component still behind the channels, which mixes "
            "the two. Move the component next to V first.",
        ),
        Misconception(
            _mixed_yx, "The components of your arrows are exchanged: x, to the right, comes first, then y."
        ),
        Misconception(
            _mixed_valid,
            "Your picture shrinks at its border. Put k // 2 zeros around it, so that H and W stay.",
        ),
        Misconception(
            _mixed_padded_by_one,
            "You put one row of zeros around the picture, whatever the kernel: right for k = 3 only. It takes "
            "k // 2.",
        ),
        Misconception(
            _mixed_circular,
            "Your picture wraps around at its border. Outside of the picture there are zeros.",
        ),
        Misconception(
            _mixed_replicated, "You repeat the border pixels outside. Outside of the picture there are zeros."
        ),
        Misconception(
            _mixed_colours_alike,
            "You treat all channels with the weights of the first. Each channel i has weights of its own: f[j, i].",
        ),
        Misconception(
            _mixed_one_ring,
            "You use the first basis kernel only. A profile is a sum over all of them: Σ_n f[j, i, n] R_n.",
        ),
        Misconception(
            _mixed_averaged,
            "You take the mean over the channels. The formula sums over them, as conv2d does.",
        ),
        Misconception(
            _mixed_x_twice,
            "Both components of your vectors are computed from the x kernels: the y kernels are unused.",
        ),
    ),
    hints=(
        "Make one filter bank of shape (S + 2 V, C, k, k), and call conv2d once.",
        "einsum writes the sums: with indices s (scalar), c (channel), n (kernel), i and j (taps) the first block is "
        '"scn,nij->scij". The second has one index more, a, for the component.',
        '"vcm,maij->vacij" gives (V, 2, C, k, k); flatten(0, 1) makes (2 V, C, k, k) with x and y of each vector '
        "side by side. torch.cat of both blocks, then conv2d with padding k // 2.",
    ),
    checks=(_check_mixed_slope, _check_mixed, _check_mixed_rings),
)

NORM_RELU = Exercise(
    name="norm_relu",
    lesson=LESSON,
    title="A nonlinearity for arrows",
    points=3,
    objective="Say why ReLU on components is wrong, and build a nonlinearity that acts on lengths.",
    statement=r"""
Write `norm_relu(v, b)`: every arrow keeps its direction and gets a new length,

$$v \;\mapsto\; \operatorname{relu}(\lvert v\rvert + b)\, \frac{v}{\lvert v\rvert}.$$

- `v`: float64 tensor (B, N, 2, H, W): N vector fields. |v| is the Euclidean length of the one arrow in a pixel.
- `b`: (N,), one number for each field; may be negative.
- Returns a tensor like `v`, through which gradients flow to v and b. Where an arrow has length 0 the result is 0,
  and the gradients are finite there, too. Adding up to 10⁻⁶ to a length, or up to 10⁻¹² under the root, is fine.
""".strip(),
    reference=norm_relu,
    alternatives=(_norm_normalize, _norm_complex, _norm_factor, _norm_where),
    misconceptions=(
        Misconception(
            _norm_components,
            "You apply ReLU to the components, with b added to each. All arrows then point to the upper right: "
            "the axes of the picture decide, not the tissue.",
        ),
        Misconception(
            _norm_plain_components,
            "You apply ReLU to the components. All arrows then point to the upper right: the axes of the picture "
            "decide, not the tissue.",
        ),
        Misconception(
            _norm_taxi,
            "Your length is |x| + |y|. A quarter turn keeps it, a turn by 30° does not. Take the Euclidean length.",
        ),
        Misconception(
            _norm_largest,
            "Your length is the larger component. A quarter turn keeps it, a turn by 30° does not. Take the "
            "Euclidean length.",
        ),
        Misconception(_norm_squared, "You use the square of the length. Take its root."),
        Misconception(
            _norm_over_fields,
            "Your length is taken over all fields of a pixel. Each of the N fields has arrows of its own: sum over "
            "axis 2 only.",
        ),
        Misconception(
            _norm_over_picture,
            "Your length is taken over the whole picture. Each pixel has an arrow of its own: sum over axis 2 only.",
        ),
        Misconception(
            _norm_over_axis_1, "You take the length over the fields (axis 1); x and y lie on axis 2."
        ),
        Misconception(_norm_one_bias, "Field n gets b[n]; you use one b for all."),
        Misconception(
            _norm_large_safeguard,
            "Your safeguard is too large: 10⁻⁶ under the root is 10⁻³ in length.",
        ),
        Misconception(
            _norm_unsafe,
            "An arrow of length 0 gives nan: you divide 0 by 0. It has no direction, and must stay 0.",
        ),
        Misconception(
            _norm_where_too_late,
            "The values are right, but you repair the 0/0 afterwards (torch.where or nan_to_num): the gradient is "
            "still nan. Make the length safe before you divide.",
        ),
        Misconception(
            _norm_bias_outside,
            "You add b after the ReLU: with a negative b short arrows turn round. It belongs inside: relu(|v| + b).",
        ),
        Misconception(_norm_without_bias, "Your b does nothing: arrows leave as they came."),
        Misconception(
            _norm_minus_bias, "You subtract b. The length becomes relu(|v| + b): a negative b shortens."
        ),
        Misconception(
            _norm_not_divided,
            "You multiply v by its new length and forget to divide by the old one: lengths are squared.",
        ),
        Misconception(
            _norm_lengths_only, "You return lengths. The direction is needed, too: two components."
        ),
        Misconception(
            _norm_bias_on_arrow,
            "You add b to both components of the arrow. That pulls all arrows to the upper right. b is added to "
            "the length.",
        ),
    ),
    hints=(
        "Direction and length are two things. Change the second, leave the first.",
        "Length: root of the sum of squares over axis 2, with keepdim. b[:, None, None, None] lines up with (N, 1, "
        "H, W). And think of pixels whose arrow is 0: what is the slope of the root there?",
        "length = (v.square().sum(2, keepdim=True) + 1e-12).sqrt(); the answer is v times relu(length + b) divided by "
        "length.",
    ),
    checks=(_check_norm_zero, _check_norm_cuts, _check_norm_map, _check_norm_gradient, _check_norm_short),
)

GATED_RELU = Exercise(
    name="gated_relu",
    lesson=LESSON,
    title="Scalars open the gates",
    points=2,
    objective="Gate vectors with scalars.",
    statement="""
Write `gated_relu(x, s, v)`: ReLU on the scalars; each vector is multiplied by the sigmoid of a scalar of its own.

- `x`: float64 tensor (B, s + v + 2 v, H, W), on axis 1 in this order: s scalars, v gates, and x, y of each of v
  vectors (x, y, x, y, …). s and v are at least 1.
- Returns (B, s + 2 v, H, W): relu of the s scalars, then the v vectors, number n times the sigmoid of gate n. The
  gates themselves are used up. `x` stays as it is.
""".strip(),
    reference=gated_relu,
    alternatives=(_gated_unflattened, _gated_in_a_loop, _gated_einsum),
    misconceptions=(
        Misconception(
            _gated_tiled,
            "Your gates meet the wrong components: either repeat made g0 g1 g0 g1 of them, or you read the vectors as "
            "all x, then all y. They lie as x0 y0 x1 y1, and x and y of one need the same gate, or it turns.",
        ),
        Misconception(
            _gated_read_apart,
            "You read the vectors as all x, then all y, and hand them back interleaved. They come as x0 y0 x1 y1.",
        ),
        Misconception(
            _gated_by_relu, "Your gate is a ReLU. Wanted is the sigmoid, between 0 (shut) and 1 (open)."
        ),
        Misconception(
            _gated_raw, "You multiply by the gate as it is. Its sigmoid is wanted, between 0 and 1."
        ),
        Misconception(
            _gated_relu_first,
            "You apply ReLU to the gates before the sigmoid: then no gate ever closes below one half.",
        ),
        Misconception(_gated_tanh, "Your gate is a tanh, which turns arrows round where it is negative."),
        Misconception(
            _gated_scalars_untouched,
            "Your scalars pass as they are. They get a ReLU: negative ones become 0.",
        ),
        Misconception(
            _gated_gates_kept,
            "You hand the gates on to the output. They are used up: s scalars and v vectors remain.",
        ),
        Misconception(
            _gated_gates_first,
            "You take the first v channels for gates. The s scalars come first, then the gates.",
        ),
        Misconception(
            _gated_arrows_cut,
            "You apply ReLU to everything at the end, and so to the components of the vectors as well.",
        ),
        Misconception(_gated_no_gate, "Your vectors pass without a gate: the gates change nothing."),
    ),
    hints=(
        "Cut axis 1 into three pieces of s, v and 2 v channels.",
        "Each gate must multiply two neighbouring channels. repeat_interleave doubles each, repeat the whole row: "
        "which one do you need?",
        "torch.cat of relu(x[:, :s]) and x[:, s + v:] times sigmoid(x[:, s:s + v]) with every gate doubled by "
        "repeat_interleave(2, dim=1).",
    ),
    checks=(_check_gated_open, _check_gated_map),
)

POOL_VECTORS = Exercise(
    name="pool_vectors",
    lesson=LESSON,
    title="Pool vectors",
    points=2,
    objective="Shrink vector fields without breaking them.",
    statement="""
Write `pool_vectors(v, k)`: of every window of k × k pixels the longest arrow stays, whole.

- `v`: float64 tensor (B, N, 2, H, W); H and W are multiples of k and may differ. Windows do not overlap.
- Returns (B, N, 2, H / k, W / k): for each of the N fields the arrow, x and y, with the largest Euclidean length in
  the window. If several are equally long, any of them will do. `v` stays as it is.
""".strip(),
    reference=pool_vectors,
    alternatives=(_pool_by_indices, _pool_in_loops, _pool_running),
    misconceptions=(
        Misconception(
            _pool_components,
            "You take the maximum of each component. The result need not be any arrow of the window, and −3 loses "
            "against 1: compare lengths, and keep whole arrows.",
        ),
        Misconception(
            _pool_components_by_size,
            "You keep the component of the largest absolute value, x and y each on its own. They may come from two "
            "different arrows: keep whole arrows.",
        ),
        Misconception(
            _pool_taxi,
            "Your length is |x| + |y|. A quarter turn keeps it, a turn by 30° does not. Take the Euclidean length.",
        ),
        Misconception(
            _pool_largest_component,
            "You choose by the larger component. A quarter turn keeps it, a turn by 30° does not. Take the "
            "Euclidean length.",
        ),
        Misconception(_pool_shortest, "You keep the shortest arrow of each window. Wanted is the longest."),
        Misconception(
            _pool_rightmost, "You choose by x alone: arrows to the left never win. Compare lengths."
        ),
        Misconception(
            _pool_one_for_all,
            "All fields of your result come from one pixel. Each of the N fields chooses its own longest arrow.",
        ),
        Misconception(
            _pool_first_field,
            "All fields take the pixel that suits field 0. Each of the N fields chooses its own pixel.",
        ),
        Misconception(
            _pool_over_axis_1, "You take the length over the fields (axis 1); x and y lie on axis 2."
        ),
        Misconception(
            _pool_mean,
            "You take the mean of the arrows of a window. That is equivariant too, but wanted is the longest.",
        ),
        Misconception(
            _pool_corner,
            "You keep the top left arrow of each window. After a turn another corner is the top left one, so this "
            "does not commute with turns.",
        ),
        Misconception(
            _pool_lengths, "You return the largest length. The arrow itself is wanted, with x and y."
        ),
        Misconception(
            _pool_mean_direction,
            "You combine the mean direction with the largest length: an arrow that is in no pixel of the window.",
        ),
    ),
    hints=(
        "First find out where the longest arrow of each window is; then fetch x and y from that place.",
        "F.max_pool2d(length, k, return_indices=True) says where, as a number in the flattened picture. gather fetches; "
        "expand the index over the two components.",
        "Or cut windows: v.reshape(B, N, 2, H // k, k, W // k, k).movedim(4, 5).flatten(5), argmax of the squared "
        "length over the last axis, gather with that index expanded over axis 2.",
    ),
    checks=(_check_pool_copies, _check_pool_map),
)
