"""What colour is made of in a stained section, and how to give all sections the same colours.

Light that passes a stain is weakened exponentially (Beer–Lambert), so the optical density of a pixel is a sum
of stain vectors weighted by concentrations. :func:`find_stains` estimates the vectors of an image (Macenko et
al., ISBI 2009; Vahadane et al., IEEE TMI 2016), :func:`separate` the concentrations, :class:`StainNormalizer`
moves images to the colours of a reference (with Reinhard et al., IEEE CG&A 2001, as the third method),
:func:`augment` varies the concentrations (Tellez et al., IEEE TMI 2018). Everything is torch, in batches, on
any device; float32 and float64. An image from which no stains can be told (white, grey, of one colour) comes
back unchanged, with a warning.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

__all__ = [
    "HED",
    "StainNormalizer",
    "StainWarning",
    "augment",
    "combine",
    "find_stains",
    "from_density",
    "optical_density",
    "separate",
]

HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64)
"""Haematoxylin, eosin and DAB as measured by Ruifrok and Johnston (2001), one row each.

Optical density in red, green, blue.
"""

_FLOOR = 1 / 255  # the darkest step of an 8-bit picture; below it a logarithm tells nothing
# Macenko et al. (section 2.2) drop pixels below 0.15 in a channel. Pure eosin hardly takes red and would be
# lost, so the bound is on the whole density: 0.15 in each of three channels.
_STAINED = 0.26
_PIXELS = 100_000  # more pixels than this do not sharpen the estimate; they are thinned out evenly


class StainWarning(UserWarning):
    """An image had no stains that could be told apart and was left as it was."""


def optical_density(image: torch.Tensor) -> torch.Tensor:
    """Optical density ``-ln I`` of intensities in [0, 1], any shape.

    Intensities below 1/255 count as 1/255.
    """
    return -torch.log(image.clamp(_FLOOR, 1))


def from_density(density: torch.Tensor) -> torch.Tensor:
    """Intensities ``exp(-D)`` in [0, 1] of optical densities."""
    return torch.exp(-density).clamp(0, 1)


def _images(image: torch.Tensor) -> torch.Tensor:
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"got {type(image).__name__}; give a tensor: torch.as_tensor(x) makes one of an array."
        )
    if (
        image.ndim not in (3, 4)
        or image.shape[-3] != 3
        or 0 in image.shape[-2:]
        or image.dtype not in (torch.float32, torch.float64)
    ):
        raise ValueError(
            f"got {image.dtype} of shape {tuple(image.shape)}; give floating point RGB images (float32 or float64) "
            "of shape (3, H, W) or (B, 3, H, W) with values in [0, 1]."
        )
    if image.numel() and float(image.max()) > 1.5:
        raise ValueError(
            f"got an image with values up to {float(image.max()):g}; give values in [0, 1] (divide 8-bit ones by 255)."
        )
    return image if image.ndim == 4 else image[None]


def separate(image: torch.Tensor, stains: torch.Tensor) -> torch.Tensor:
    """Concentrations of stains: the least-squares solution of ``density = concentrations · stains``; negative
    ones are possible.

    Args:
        image: ``(B, 3, H, W)`` or ``(3, H, W)`` in [0, 1].
        stains: ``(S, 3)`` for all images or ``(B, S, 3)``, one row a stain, S at most 3.

    Returns:
        ``(B, S, H, W)`` or ``(S, H, W)``.
    """
    batch = _images(image)
    inverse = torch.linalg.pinv(_one_each(stains, batch))  # (B, 3, S)
    result = torch.einsum("bchw,bcs->bshw", optical_density(batch), inverse)
    return result if image.ndim == 4 else result[0]


def combine(concentrations: torch.Tensor, stains: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`separate`.

    Concentrations ``(B, S, H, W)`` or ``(S, H, W)`` to an image in [0, 1].
    """
    batch = concentrations if concentrations.ndim == 4 else concentrations[None]
    density = torch.einsum("bshw,bsc->bchw", batch, _one_each(stains, batch))
    image = from_density(density)
    return image if concentrations.ndim == 4 else image[0]


def _one_each(stains: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    if stains.ndim not in (2, 3) or stains.shape[-1] != 3 or not 1 <= stains.shape[-2] <= 3:
        raise ValueError(
            f"got stains of shape {tuple(stains.shape)}; give (S, 3) or (B, S, 3) with one to three stains."
        )
    if stains.ndim == 3 and len(stains) not in (1, len(batch)):
        raise ValueError(
            f"got stains for {len(stains)} images and {len(batch)} images; give one matrix, or one per image."
        )
    return stains.to(batch).expand(len(batch), -1, -1)


def find_stains(image: torch.Tensor, method: str = "macenko") -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate the two stain vectors of each image, haematoxylin first.

    Args:
        image: ``(B, 3, H, W)`` or ``(3, H, W)`` in [0, 1].
        method: ``"macenko"`` (extreme angles in the plane of the two main directions) or ``"vahadane"``
            (sparse non-negative factorisation).

    Returns:
        Unit vectors ``(B, 2, 3)`` (or ``(2, 3)``), and for each image whether stains were found ``(B,)`` (or
        a scalar); where not, the vectors are those of Ruifrok and Johnston, and a :class:`StainWarning` is
        given.
    """
    if method not in _METHODS:
        raise ValueError(f"got method={method!r}; known are {', '.join(sorted(_METHODS))}.")
    batch = _images(image)
    found, vectors = [], []
    for one in batch:
        stains = _METHODS[method](one)
        found.append(stains is not None)
        vectors.append(HED[:2].to(one) if stains is None else stains)
    ok = torch.tensor(found, dtype=torch.bool, device=batch.device)
    if not all(found):
        _warn(len(found) - sum(found), len(found), "find two stains in")
    result = torch.stack(vectors) if vectors else batch.new_zeros(0, 2, 3)
    return (result, ok) if image.ndim == 4 else (result[0], ok[0])


def _warn(bad: int, total: int, what: str) -> None:
    warnings.warn(
        f"Could not {what} {bad} of {total} images: too little stained tissue, grey, or of a single colour. "
        "They are left as they are.",
        StainWarning,
        stacklevel=3,
    )


def _stained_pixels(image: torch.Tensor) -> torch.Tensor | None:
    """Optical densities ``(N, 3)`` of the stained pixels, thinned out evenly; None if there are too few."""
    if not bool(torch.isfinite(image).all()):
        return None
    density = optical_density(image).flatten(1).T
    density = density[density.norm(dim=1) > _STAINED]
    if len(density) < max(16, image[0].numel() // 1000):
        return None
    return density[:: -(-len(density) // _PIXELS)]


def _plane(density: torch.Tensor) -> torch.Tensor | None:
    """Basis ``(3, 2)`` of the plane in which the densities lie; None if they lie along one direction."""
    # Directions of the second-moment matrix: the plane of two stains passes through the origin, whatever the
    # mean colour is.
    moment = (density.double().T @ density.double()) / len(density)
    values, vectors = torch.linalg.eigh(moment)
    # Rounding to 8 bits alone spreads a single colour by about 1e-5 of its squared density.
    if float(values[1]) < 2e-4 * float(values[2]):
        return None
    basis = vectors[:, [2, 1]]
    return basis * torch.where(basis.sum(0) < 0, -1.0, 1.0).to(basis)


def _macenko(image: torch.Tensor) -> torch.Tensor | None:
    density = _stained_pixels(image)
    if density is None or (basis := _plane(density)) is None:
        return None
    shares = density.double() @ basis
    angle = torch.atan2(shares[:, 1], shares[:, 0]).sort().values
    extreme = angle[[round(0.01 * (len(angle) - 1)), round(0.99 * (len(angle) - 1))]]
    return _ordered((basis @ torch.stack([extreme.cos(), extreme.sin()])).T.to(image))


def _ordered(stains: torch.Tensor) -> torch.Tensor | None:
    """Unit rows without negative entries, haematoxylin (which takes more red) first.

    None if the two are the same or not finite.
    """
    stains = stains.clamp_min(0)
    norms = stains.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(stains).all()) or bool((norms < 1e-3).any()):
        return None
    stains = stains / norms
    if float(stains[0] @ stains[1]) > 0.9995:  # less than 2 degrees apart
        return None
    return stains if stains[0, 0] >= stains[1, 0] else stains.flip(0)


def _vahadane(image: torch.Tensor, sparsity: float = 0.1, rounds: int = 100) -> torch.Tensor | None:
    start, density = _macenko(image), _stained_pixels(image)
    if start is None or density is None:
        return None
    density = density[:: -(-len(density) // 5_000)].double()
    stains = start.double()
    for _ in range(rounds):
        shares = _sparse_shares(density, stains, sparsity)
        gram, cross = shares.T @ shares, shares.T @ density
        new = stains.clone()
        for k in range(
            2
        ):  # one stain at a time: block coordinate descent on the dictionary, as in Mairal et al. (2009)
            if float(gram[k, k]) > 1e-12:
                row = (new[k] + (cross[k] - gram[k] @ new) / gram[k, k]).clamp_min(0)
                new[k] = row / row.norm().clamp_min(1e-12)
        moved, stains = float((new - stains).abs().max()), new
        if moved < 1e-6:
            break
    return _ordered(stains.to(image))


def _sparse_shares(density: torch.Tensor, stains: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Minimise ``|d - c·W|² / 2 + sparsity · |c|₁`` over ``c ≥ 0`` for two unit stains.

    In two unknowns the solution has a closed form.
    """
    pull = density @ stains.T - sparsity
    overlap = stains[0] @ stains[1]
    determinant = (1 - overlap**2).clamp_min(1e-9)
    both = (
        torch.stack([pull[:, 0] - overlap * pull[:, 1], pull[:, 1] - overlap * pull[:, 0]], 1) / determinant
    )
    single = pull.clamp_min(0)
    first = single * torch.tensor([1.0, 0.0]).to(single)
    second = single * torch.tensor([0.0, 1.0]).to(single)
    # With one stain alone the objective falls by its share squared over two: the larger share wins.
    alone = torch.where((single[:, :1] >= single[:, 1:]), first, second)
    return torch.where((both >= 0).all(1, keepdim=True), both, alone)


_METHODS = {"macenko": _macenko, "vahadane": _vahadane}


def _strength(batch: torch.Tensor, concentrations: torch.Tensor) -> torch.Tensor:
    """99th percentile of each stain's concentration among the stained pixels, ``(B, S)``.

    That is "full" staining, which outliers do not move. Glass is left out: a tile that is mostly glass would
    otherwise count as faintly stained, and its glass would be coloured.
    """
    stained = optical_density(batch).norm(dim=1).flatten(1) > _STAINED
    result = []
    for shares, inside in zip(concentrations.flatten(2), stained, strict=True):
        chosen = shares[:, inside] if bool(inside.any()) else shares
        result.append(chosen.kthvalue(max(1, round(0.99 * chosen.shape[1])), dim=1).values)
    return torch.stack(result)


# Reinhard et al. (2001), equations 4 to 6: RGB to cone responses, and their logarithms to three nearly
# independent axes.
_LMS = torch.tensor(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], dtype=torch.float64
)
_AXES = torch.diag(torch.tensor([3.0, 6.0, 2.0], dtype=torch.float64).rsqrt()) @ torch.tensor(
    [[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]], dtype=torch.float64
)


def _to_axes(image: torch.Tensor) -> torch.Tensor:
    cones = torch.einsum("ij,bjhw->bihw", _LMS.to(image), image.clamp(_FLOOR, 1))
    return torch.einsum("ij,bjhw->bihw", _AXES.to(image), cones.log10())


def _from_axes(axes: torch.Tensor) -> torch.Tensor:
    cones = 10 ** torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_AXES).to(axes), axes)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_LMS).to(axes), cones).clamp(0, 1)


class StainNormalizer(nn.Module):
    """Move images to the colours of a reference image.

    ``macenko`` and ``vahadane`` replace the stain vectors by the reference's and scale each stain so that its
    99th percentile agrees; ``reinhard`` matches mean and standard deviation of three opponent axes of the
    whole image, glass included, and so colours tiles that are mostly glass. The reference's values are
    buffers: ``state_dict`` keeps them.

    Args:
        method: ``"macenko"``, ``"vahadane"`` or ``"reinhard"``.

    Raises:
        ValueError: another method; and by ``fit`` and each call: images that are not float32 or float64 RGB in
            [0, 1].

    Example: ``StainNormalizer("vahadane").fit(reference)(images)``.
    """

    stains: torch.Tensor
    strength: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor
    fitted: torch.Tensor

    def __init__(self, method: str = "macenko") -> None:
        super().__init__()
        if method not in (*_METHODS, "reinhard"):
            raise ValueError(f"got method={method!r}; known are macenko, reinhard, vahadane.")
        self.method = method
        self.register_buffer("stains", HED[:2].clone())
        self.register_buffer("strength", torch.ones(2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(3, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def extra_repr(self) -> str:
        return f"{self.method!r}, fitted={bool(self.fitted)}"

    def fit(self, reference: torch.Tensor) -> StainNormalizer:
        """Take the colours of ``reference`` ``(3, H, W)`` in [0, 1]; returns itself.

        Raises:
            ValueError: the reference shows no two stains: a white tile is no reference.
        """
        batch = _images(reference)
        if len(batch) != 1:
            raise ValueError(
                f"got {len(batch)} reference images; give one (join several side by side into one)."
            )
        if self.method == "reinhard":
            axes = _to_axes(batch.double()).flatten(2)[0]
            if not _lively(axes):
                raise ValueError("the reference image is of one colour; choose a piece of stained tissue.")
            self.mean, self.spread = axes.mean(1).to(self.mean), axes.std(1, correction=0).to(self.spread)
        else:
            found = _METHODS[self.method](batch[0])
            if found is None:
                raise ValueError(
                    "no two stains can be told apart in the reference image (white, grey or of one colour); "
                    "choose stained tissue."
                )
            self.stains = found.to(self.stains)
            self.strength = _strength(batch, separate(batch, found))[0].to(self.strength)
        self.fitted = torch.ones_like(self.fitted)
        return self

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` or ``(3, H, W)`` in [0, 1], normalised each by itself.

        Those without stains are returned unchanged.
        """
        if not bool(self.fitted):
            raise RuntimeError("this StainNormalizer has no reference yet; call fit(reference) first.")
        batch = _images(image)
        if not len(batch):
            return image
        result, ok = self._reinhard(batch) if self.method == "reinhard" else self._restain(batch)
        if not bool(ok.all()):
            _warn(int((~ok).sum()), len(ok), "normalise")
        result = torch.where(ok[:, None, None, None], result, batch)
        return result if image.ndim == 4 else result[0]

    def _restain(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = [_METHODS[self.method](one) for one in batch]
        ok = torch.tensor([f is not None for f in found], device=batch.device)
        own = torch.stack([HED[:2].to(batch) if f is None else f for f in found])
        shares = separate(batch, own)
        strength = _strength(batch, shares)
        ok &= (strength > 1e-3).all(1)
        scale = self.strength.to(batch) / strength.clamp_min(1e-3)
        return combine(shares * scale[..., None, None], self.stains.to(batch)), ok

    def _reinhard(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        axes = _to_axes(batch)
        flat = axes.flatten(2)
        # Without the first condition the noise of a scanner on glass would be stretched into colours.
        ok = torch.tensor(
            [_stained_pixels(one) is not None and _lively(two) for one, two in zip(batch, flat, strict=True)],
            device=batch.device,
        )
        mean, spread = (
            flat.mean(2)[..., None, None],
            flat.std(2, correction=0).clamp_min(1e-6)[..., None, None],
        )
        moved = (axes - mean) / spread * self.spread.to(batch)[:, None, None] + self.mean.to(batch)[
            :, None, None
        ]
        return _from_axes(moved), ok


def _lively(axes: torch.Tensor) -> bool:
    """Whether opponent axes ``(3, N)`` vary in brightness and in colour.

    A white, grey or one-coloured picture does not, nor one with a scanner's noise of a level or two of 255.
    The palest fields of TNBC and PCam spread five times as far in brightness and twice as far in colour.
    """
    if not bool(torch.isfinite(axes).all()):
        return False
    spread = axes.double().std(1, correction=0)
    return bool(spread[0] > 1e-2) and bool(spread[1:].max() > 2e-3)


@torch.no_grad()
def augment(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    scale: float = 0.2,
    shift: float = 0.2,
    stains: torch.Tensor | str = "macenko",
) -> torch.Tensor:
    """Vary the staining of each image: every concentration ``c`` becomes ``a·c + b·σ_c`` with ``a`` in 1 ±
    scale, ``b`` in ± shift.

    What the stains do not explain of the density is kept, so that ``scale = shift = 0`` is the identity;
    ``σ_c`` is the stain's standard deviation in the image. White stays white to within the shift.

    Args:
        image: ``(B, 3, H, W)`` or ``(3, H, W)`` in [0, 1].
        generator: of the random numbers; on the CPU, so that a seed means the same on every device.
        stains: vectors ``(2, 3)`` or ``(B, 2, 3)``, or the method that finds them in each image.
    """
    for what, value in (("scale", scale), ("shift", shift)):
        if value < 0:
            raise ValueError(
                f"got {what}={value}; it is the half width of an interval and must not be negative."
            )
    batch = _images(image)
    if not len(batch):
        return image
    if isinstance(stains, str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StainWarning)
            vectors, ok = find_stains(batch, stains)
        if not bool(ok.all()):
            _warn(int((~ok).sum()), len(ok), "vary the stains of")
    else:
        vectors = _one_each(stains, batch)
        ok = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
    shares = separate(batch, vectors)
    draws = (torch.rand(2, len(batch), shares.shape[1], 1, 1, generator=generator) * 2 - 1).to(batch)
    change = shares * (scale * draws[0]) + shares.std(dim=(2, 3), keepdim=True, correction=0) * (
        shift * draws[1]
    )
    density = optical_density(batch) + torch.einsum("bshw,bsc->bchw", change, vectors)
    result = torch.where(ok[:, None, None, None], from_density(density), batch)
    return result if image.ndim == 4 else result[0]
