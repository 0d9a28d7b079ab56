"""Gaussian derivatives as filters: any order, three ways to put them on a pixel grid, gradients through σ.

Equations 3, 4, 6, 7 and 11 of the SEUNet paper (002). The filter (i, j) at scale σ is the scale-normalised
derivative ``σ^(i + j) ∂ⁱ/∂xⁱ ∂ʲ/∂yʲ G(x, y; σ)``, x to the right and y up, and it is *convolved* with the
picture: the response is the scale-normalised derivative of the smoothed picture. It is a product of a factor
along x and one along y. The normalisation is what lets one set of weights serve all scales: a picture
enlarged by s and filtered at s σ gives the enlarged response, number for number (Lindeberg 1998).

Continuous functions become taps in three ways (``sampling``):

==============  ==================================================  =====================================
"sampled"       the function's value at each pixel                  exact scaling law for σ from about 1 up;
                                                                    below about 0.5 derivatives vanish and
                                                                    the smoothing filter sums to more than 1
"integrated"    its mean over each pixel                            smoothing keeps its sum; derivatives
                                                                    vanish below about 0.2
"discrete"      the discrete Gaussian e^-t Iₙ(t), t = σ², and its   sound at every σ > 0: tends to the pixel
                central differences (Lindeberg 1990)                itself and its plain differences
==============  ==================================================  =====================================

The first interval of SEUNet's σ begins at 0, so "discrete" is the default everywhere in this library.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equipath.kernels.separable import derivative_orders, separable_basis

SAMPLINGS = ("discrete", "integrated", "sampled")


def gaussian_radius(sigma: float, truncate: float = 2.0) -> int:
    """Half the size of a filter: ⌈truncate · σ⌉ pixels; eq. 7 has truncate = 2.

    >>> [gaussian_radius(s) for s in (0.25, 0.5, 1.2, 4.5)]
    [1, 1, 3, 9]
    """
    if not sigma > 0 or not math.isfinite(sigma):
        raise ValueError(f"σ is a positive number of pixels; got {sigma}")
    if not truncate > 0:
        raise ValueError(f"truncate tells how many σ a filter reaches, more than 0; got {truncate}")
    return max(1, math.ceil(truncate * sigma - 1e-6))  # 2 · 1.5 computed in float32 is not 4 pixels


def gaussian_size(sigma: float, truncate: float = 2.0) -> int:
    """The side of a filter, eq. 7 of the SEUNet paper: 2⌈2σ⌉ + 1 pixels.

    >>> gaussian_size(2.5)
    11
    """
    return 2 * gaussian_radius(sigma, truncate) + 1


def constrained_sigma(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """σ between ``low`` and ``high`` from an unconstrained number, eq. 6; the middle at x = 0."""
    return (high - low) / 2 * torch.tanh(x) + (high + low) / 2


def _hermite(u: Tensor, order: int) -> list[Tensor]:
    """The probabilists' Hermite polynomials He_0 … He_order at u."""
    values = [torch.ones_like(u), u]
    for n in range(1, order):
        values.append(u * values[n] - n * values[n - 1])
    return values[: order + 1]


def _continuous(x: Tensor, sigma: Tensor, order: int) -> list[Tensor]:
    """σⁱ G⁽ⁱ⁾(x; σ) for i = 0 … order."""
    u = x / sigma
    bell = torch.exp(-0.5 * u * u) / (sigma * math.sqrt(2 * math.pi))
    return [(-1) ** n * h * bell for n, h in enumerate(_hermite(u, order))]


def gaussian_taps(
    sigma: Tensor, order: int, radii: Sequence[int] | None = None, sampling: str = "discrete",
) -> Tensor:  # fmt: skip
    """Scale-normalised 1-D Gaussian derivatives on pixels, differentiable in σ.

    Args:
        sigma: (S,) positive, in pixels.
        order: the highest derivative N.
        radii: half sizes, one a scale; eq. 7 of the current σ by default (which reads σ: an accelerator has
            to wait).
        sampling: "discrete", "integrated" or "sampled", see the module's table.

    Returns:
        (S, N + 1, 2 R + 1), R = max(radii): taps at -R … R, to be *convolved* (flip them to correlate); zero
        beyond a scale's own radius. Computed in float32 or float64, never in half precision.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}; the choices are {', '.join(SAMPLINGS)}")
    if sigma.dim() != 1:
        raise ValueError(f"sigma is one number a scale, shape (S,); got {tuple(sigma.shape)}")
    derivative_orders(order)  # says what is wrong with the order
    if radii is None:
        radii = [gaussian_radius(s) for s in sigma.tolist()]
    if sigma.dtype in (torch.float16, torch.bfloat16):
        sigma = sigma.float()
    reach = max(radii)
    at = torch.arange(-reach, reach + 1, dtype=sigma.dtype, device=sigma.device)
    s = sigma[:, None]
    if sampling == "sampled":
        factors = _continuous(at, s, order)
    elif sampling == "integrated":
        cumulative = 0.5 * (torch.erf((at + 0.5) / (s * 2**0.5)) - torch.erf((at - 0.5) / (s * 2**0.5)))
        right, left = (_continuous(at + half, s, max(order - 1, 0)) for half in (0.5, -0.5))
        factors = [cumulative] + [s * (right[n] - left[n]) for n in range(order)]
    else:
        factors = _discrete(at, s, order, reach)
    inside = at.abs() <= torch.tensor(list(radii), device=sigma.device)[:, None]
    return torch.stack(factors, 1) * inside[:, None]


def _discrete(at: Tensor, sigma: Tensor, order: int, reach: int) -> list[Tensor]:
    """σⁱ times the i-th central difference of the discrete Gaussian T(n; σ²) = e^-t Iₙ(t).

    Written by its Fourier series, exp(t (cos θ - 1)): smooth in σ down to 0, free of recurrences and of
    Bessel functions that torch lacks. A second difference multiplies it by 2 cos θ - 2, a central first
    difference by i sin θ. The sum over M frequencies errs by T(M - n), far below rounding for the M taken.
    """
    frequencies = 8 * reach + 48
    theta = torch.arange(frequencies, dtype=at.dtype, device=at.device) * (2 * math.pi / frequencies)
    cos, sin = torch.cos(theta), torch.sin(theta)
    phase = at[:, None] * theta  # (2 R + 1, M)
    spectrum = torch.exp(sigma * sigma * (cos - 1)) / frequencies  # (S, M)
    wave = torch.cos(phase), -sin * torch.sin(phase)
    return [
        sigma**n * ((spectrum * (2 * cos - 2) ** (n // 2)) @ wave[n % 2].T) for n in range(order + 1)
    ]  # fmt: skip


def gaussian_basis(
    sigma: Tensor, order: int, radii: Sequence[int] | None = None, sampling: str = "discrete",
) -> Tensor:  # fmt: skip
    """The planar basis of eq. 4 and 11, (S, n, k, k), as drawn: rows count downwards, y counts up.

    The n filters follow ``derivative_orders(order)``; arguments as for ``gaussian_taps``. Convolve with
    them, or correlate with ``basis.flip(-2, -1)``.

    >>> gaussian_basis(torch.tensor([0.5, 1.0]), 1).shape
    torch.Size([2, 3, 5, 5])
    """
    taps = gaussian_taps(sigma, order, radii, sampling)
    return separable_basis(taps, taps.flip(-1))


def correlation_factors(taps: Tensor) -> tuple[Tensor, Tensor]:
    """Factors along x and along y by which ``kernels.separable`` correlates, from taps to convolve.

    Along x the taps are flipped; along y they are flipped twice, since rows count downwards and y up.
    """
    return taps.flip(-1), taps
