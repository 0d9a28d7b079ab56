"""Steerable kernels: the constraint itself, the counts, and the same space as e2cnn's."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from equipath.groups import P4M
from equipath.kernels.radial import expand_kernels, planar_bank, ring_profiles, tyings

COMPONENTS = {"scalar": 1, "vector": 2}


@pytest.mark.parametrize("k", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("reflections", [True, False])
def test_the_constraint_holds_on_the_grid(k, reflections):
    # K(g x) = rho_out(g) K(x) rho_in(g)^-1 for every g of p4m (p4 without reflections)
    for (source, target), kernels in expand_kernels(k, reflections).items():
        for a in range(8 if reflections else 4):
            rho = {"scalar": torch.ones(1, 1, dtype=torch.float64), "vector": P4M.matrix(a)}
            want = torch.einsum("ab,cbdyx,ed->caeyx", rho[target], kernels, rho[source])
            # moving a kernel by g puts K(x) where K(g x) is read
            torch.testing.assert_close(P4M.act(want, a), kernels, rtol=0, atol=1e-15)


def test_mirrors_break_what_only_rotations_allow():
    both, turns = expand_kernels(7, True), expand_kernels(7, False)
    for kinds, kernels in turns.items():
        extra = kernels[len(both[kinds]) :]
        for kernel in extra:
            rho = {"scalar": torch.ones(1, 1, dtype=torch.float64), "vector": P4M.matrix(4)}
            moved = P4M.act(torch.einsum("ab,bdyx,ed->aeyx", rho[kinds[1]], kernel, rho[kinds[0]]), 4)
            torch.testing.assert_close(moved, -kernel)  # pseudo-scalars and axial vectors change sign


@pytest.mark.parametrize(("reflections", "counts"), [(True, [4, 3, 3, 7]), (False, [4, 6, 6, 14])])
def test_counts_of_the_7x7_basis(reflections, counts):
    made = tyings(7, reflections)
    order = [("scalar", "scalar"), ("scalar", "vector"), ("vector", "scalar"), ("vector", "vector")]
    assert [len(made[kinds]) for kinds in order] == counts


@pytest.mark.parametrize("k", [3, 5, 7, 9])
@pytest.mark.parametrize("reflections", [True, False])
def test_kernels_are_independent_and_of_unit_energy(k, reflections):
    for (source, target), kernels in expand_kernels(k, reflections).items():
        assert kernels.shape[1:] == (COMPONENTS[target], COMPONENTS[source], k, k)
        assert torch.linalg.matrix_rank(kernels.flatten(1)) == len(kernels)
        energy = kernels.square().sum((1, 2, 3, 4)) / COMPONENTS[target]
        torch.testing.assert_close(energy, torch.ones_like(energy))


def rotation(angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


def test_the_bank_is_the_formula_at_every_tap():
    # the same kernels written down once more, tap by tap, from the text's formula
    k = 5
    radii, widths = ring_profiles(k)
    bank = planar_bank(k)
    for row in range(k):
        for column in range(k):
            x, y = column - k // 2, k // 2 - row
            r = math.hypot(x, y)
            rings = torch.exp(-((r - radii) ** 2) / (2 * widths**2))
            u = (x / r, y / r) if r else (0.0, 0.0)
            want = [rings] + [rings[1:] * f for f in (u[0], u[1], u[0] ** 2 - u[1] ** 2, 2 * u[0] * u[1])]
            torch.testing.assert_close(bank[:, row, column], torch.cat(want))
    assert torch.equal(rotation(0.0), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("k", [5, 7])
@pytest.mark.parametrize("reflections", [True, False])
def test_same_space_as_e2cnn_had(k, reflections):
    """Its stored kernels, whether or not e2cnn is here; unnormalised, or missing one, the spans would differ."""
    group = "O(2)" if reflections else "SO(2)"
    with np.load(Path(__file__).parents[2] / "golden" / "group.npz") as data:
        for (source, target), ours in expand_kernels(k, reflections).items():
            theirs = torch.from_numpy(data[f"{group}.{k}.{source}.{target}"])
            mine = ours.flatten(1)
            assert len(mine) == len(theirs) == torch.linalg.matrix_rank(theirs, rtol=1e-5)
            for a, b in ((mine, theirs), (theirs, mine)):
                fit = torch.linalg.lstsq(b.T, a.T).solution
                assert (b.T @ fit - a.T).norm() < 1e-5 * a.norm()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # e2cnn's own
@pytest.mark.parametrize("k", [5, 7])  # on 3x3, e2cnn fails with a basis of one kernel on this torch
@pytest.mark.parametrize("reflections", [True, False])
def test_same_space_as_e2cnn(k, reflections):
    e2cnn = pytest.importorskip("e2cnn", reason="the independent library is in the course environment only")
    spaces = e2cnn.gspaces
    # axis 0: e2cnn's reflection matrix diag(1, -1) is then the mirror that acts on the plane, as for arrows
    plane = spaces.FlipRot2dOnR2(-1, 2, axis=0.0) if reflections else spaces.Rot2dOnR2(-1, 2)
    made = {
        "scalar": plane.trivial_repr,
        "vector": plane.irrep(1, 1) if reflections else plane.irrep(1),
    }
    for (source, target), ours in expand_kernels(k, reflections).items():
        types = [e2cnn.nn.FieldType(plane, [made[kind]]) for kind in (source, target)]
        conv = e2cnn.nn.R2Conv(
            *types,
            kernel_size=k,
            frequencies_cutoff=lambda r: 2 if r > 0 else 0,
            bias=False,
            initialize=False,
        )
        count = conv.weights.numel()
        theirs = []
        for weights in torch.eye(count):
            theirs.append(conv.basisexpansion(weights).reshape(-1).double())
        theirs = torch.stack(theirs).detach()
        mine = ours.flatten(1)
        assert len(mine) == torch.linalg.matrix_rank(theirs, rtol=1e-5) == count
        for a, b in ((mine, theirs), (theirs, mine)):  # each lies in the span of the other
            fit = torch.linalg.lstsq(b.T, a.T).solution
            assert (b.T @ fit - a.T).norm() < 1e-5 * a.norm()


def test_bad_sides_are_told():
    with pytest.raises(ValueError, match="odd; got 4"):
        planar_bank(4)
    with pytest.raises(ValueError, match="at least 1"):
        planar_bank(0)
