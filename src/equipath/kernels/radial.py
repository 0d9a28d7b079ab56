"""Steerable kernels between scalar and vector fields: which kernels commute with rotations, and their basis.

The slides on scalar and vector kernels solve ``K(g x) = ρ_out(g) K(x) ρ_in(g)⁻¹``:

===================  =============================  ==========================================
from → to            rotations and reflections      rotations only add, J a quarter turn
===================  =============================  ==========================================
scalar → scalar      f(r)
scalar → vector      f(r) u                         f(r) J u
vector → scalar      f(r) uᵀ                        f(r) (J u)ᵀ
vector → vector      f₁(r) I + f₂(r) (2 u uᵀ - I)   f₁(r) J + f₂(r) J (2 u uᵀ - I)
===================  =============================  ==========================================

with ``r = |x|`` and u = x / r, x to the right and y upwards, in pixels. (The slides write ``x`` where this has
``u`` and ``x xᵀ`` where this has ``2 u uᵀ - I``: the same space, with better conditioned profiles.) A profile f
is a mixture of Gaussian rings, so every entry of every kernel is a mixture of a few fixed planar filters: the
rings, the rings times u, and the rings times the two entries of ``2 u uᵀ - I``. ``planar_bank`` holds those
filters, ``tyings`` says which of them each kernel uses.
"""

import torch
from torch import Tensor

KINDS = ("scalar", "vector")


def ring_profiles(kernel_size: int) -> tuple[Tensor, Tensor]:
    """Radii and widths, in pixels, of the Gaussian rings of a k x k kernel: two float64 tensors (n,).

    n = ⌈k / 2⌉ radii evenly from 0 to (k - 1) / 2; width 0.6, the outermost 0.4 so that it ends in the kernel,
    the one at radius 0 so narrow that it is the centre tap alone (e2cnn's and escnn's choice: all three
    libraries span the same kernels).
    """
    if kernel_size < 1:
        raise ValueError(f"kernel_size is {kernel_size}; it must be at least 1")
    if kernel_size % 2 == 0:
        raise ValueError(
            f"a steerable kernel has a pixel in its centre, so its side is odd; got {kernel_size}"
        )
    count = kernel_size // 2 + 1
    radii = torch.linspace(0, (kernel_size - 1) // 2, count, dtype=torch.float64)
    widths = torch.full((count,), 0.6, dtype=torch.float64)
    widths[-1], widths[0] = 0.4, 0.005
    return radii, widths


def planar_bank(kernel_size: int) -> Tensor:
    """The planar filters that every steerable kernel is mixed from: (n + 4 m, k, k) float64.

    n rings, then m = n - 1 rings (without the one at the centre, where u is undefined) times u_x, u_y,
    ``u_x² - u_y²`` and ``2 u_x u_y``.
    """
    radii, widths = ring_profiles(kernel_size)
    at = torch.arange(kernel_size, dtype=torch.float64) - kernel_size // 2
    x, y = at[None, :].expand(kernel_size, -1), -at[:, None].expand(-1, kernel_size)
    square = x * x + y * y  # whole numbers: equal for taps that a turn exchanges, to the last bit
    r = square.sqrt()
    rings = torch.exp(-((r - radii[:, None, None]) ** 2) / (2 * widths[:, None, None] ** 2))
    inverse = torch.where(square > 0, 1 / square.clamp_min(1), 0.0)
    ux, uy = x * inverse.sqrt(), y * inverse.sqrt()
    angular = [ux, uy, (x * x - y * y) * inverse, 2 * x * y * inverse]
    return torch.cat([rings, *(rings[1:] * factor for factor in angular)])


def tyings(kernel_size: int, reflections: bool = True) -> dict[tuple[str, str], Tensor]:
    """How each kind of kernel is put together from ``planar_bank``: by (from, to), a float64 tensor.

    Entry (from, to) has shape (count, components out, components in, filters): basis kernel c is the matrix
    of planar filters ``Σ_p tying[c, a, b, p] bank[p]``, scaled so that for white input each of its components
    passes the same variance, 1 on average.

    Args:
        reflections: True for O(2), False for SO(2), which allows more kernels. Counts for 7 x 7: 4, 3, 3, 7
            for O(2) and 4, 6, 6, 14 for SO(2) in the order of the module's table.
    """
    bank = planar_bank(kernel_size)
    n = len(ring_profiles(kernel_size)[0])
    m = n - 1
    rings = torch.eye(n, len(bank), dtype=torch.float64)
    ux, uy, cos, sin = (
        torch.eye(len(bank), dtype=torch.float64)[n + part * m : n + (part + 1) * m] for part in range(4)
    )

    def matrix(rows: list[list[Tensor]]) -> Tensor:
        """A (count, a, b, p) tying from a matrix of (count, p) selections."""
        return torch.stack([torch.stack(row, 1) for row in rows], 1)

    none = torch.zeros_like(rings)
    made = {
        ("scalar", "scalar"): [matrix([[rings]])],
        ("scalar", "vector"): [matrix([[ux], [uy]])],
        ("vector", "scalar"): [matrix([[ux, uy]])],
        ("vector", "vector"): [matrix([[rings, none], [none, rings]]), matrix([[cos, sin], [sin, -cos]])],
    }
    if not reflections:  # J maps (x, y) to (-y, x); J (2 u uᵀ - I) has the rows (-sin, cos) and (cos, sin)
        made["scalar", "vector"].append(matrix([[-uy], [ux]]))
        made["vector", "scalar"].append(matrix([[-uy, ux]]))
        made["vector", "vector"] += [
            matrix([[none, -rings], [rings, none]]),
            matrix([[-sin, cos], [cos, sin]]),
        ]
    result = {}
    for kinds, parts in made.items():
        tying = torch.cat(parts)
        energy = torch.einsum("cabp,pyx->cabyx", tying, bank).square().sum((1, 2, 3, 4)) / tying.shape[1]
        result[kinds] = tying / energy.sqrt()[:, None, None, None]
    return result


def expand_kernels(kernel_size: int, reflections: bool = True) -> dict[tuple[str, str], Tensor]:
    """The basis kernels themselves: by (from, to), (count, components out, components in, k, k) float64."""
    bank = planar_bank(kernel_size)
    return {
        kinds: torch.einsum("cabp,pyx->cabyx", tying, bank)
        for kinds, tying in tyings(kernel_size, reflections).items()
    }
