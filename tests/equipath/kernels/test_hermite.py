"""The Hermite basis of SESN against the authors' numbers and against scipy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from equipath.kernels.hermite import hermite_radii, hermite_taps
from equipath.kernels.separable import derivative_orders, separable_basis

GOLDEN = Path(__file__).parents[2] / "golden" / "scale.npz"


def test_same_basis_as_the_public_code():
    with np.load(GOLDEN) as data:
        theirs = torch.from_numpy(data["sesn.basis"])
    scales = (1, 2, 3, 4, 5)
    taps = hermite_taps(scales, hermite_radii(11, scales), 4)
    ours = separable_basis(taps, taps)  # (S, 15, 11, 11)
    listed = [(columns, rows) for columns in range(5) for rows in range(5 - columns)]
    for n, pair in enumerate(listed):
        torch.testing.assert_close(ours[:, derivative_orders(4).index(pair)], theirs[n], rtol=1e-5, atol=1e-6)


def test_polynomials_times_gaussian_with_unit_norm_at_the_smallest_scale():
    scales, radii = (2.0, 1.0, 1.5), (4, 2, 3)
    taps = hermite_taps(scales, radii, 3, torch.float64)
    torch.testing.assert_close(taps[1].norm(dim=-1), torch.ones(4, dtype=torch.float64))
    at = np.arange(-4, 5)
    for k, (s, r) in enumerate(zip(scales, radii, strict=True)):
        for n in range(4):
            shape = special.eval_hermitenorm(n, at / s) * np.exp(-(at**2) / (2 * s * s)) / s
            shape[np.abs(at) > r] = 0
            unit = special.eval_hermitenorm(n, at) * np.exp(-(at**2) / 2) * (np.abs(at) <= 2)
            np.testing.assert_allclose(taps[k, n].numpy(), shape / np.linalg.norm(unit), atol=1e-14)


def test_at_most_nine_functions_are_independent_on_three_by_three_pixels():
    taps = hermite_taps((1, 2), (1, 2), 4, torch.float64)
    basis = separable_basis(taps, taps)
    assert basis.shape[1] == 15
    ranks = [int(torch.linalg.matrix_rank(b.flatten(1))) for b in basis]
    assert ranks[0] <= 9
    assert ranks[1] == 15


def test_sizes_grow_with_the_scale():
    assert hermite_radii(11, (1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]
    assert hermite_radii(15, (1, 1.26, 1.59, 2)) == [3, 4, 5, 7]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hermite_radii(10, (1, 2)), "odd side"),
        (lambda: hermite_radii(11, ()), "at least one"),
        (lambda: hermite_radii(11, (0, 1)), "positive"),
        (lambda: hermite_radii(5, (1, 4)), "one pixel"),
        (lambda: hermite_taps((1, 2), (1,)), "one radius a scale"),
        (lambda: hermite_taps((1, 2), (1, 2), -1), "from 0 up"),
    ],
)
def test_bad_arguments_are_told(call, says):
    with pytest.raises(ValueError, match=says):
        call()
