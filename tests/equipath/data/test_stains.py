"""Stains: recovered from mixtures of known vectors, equal to scikit-image's colour deconvolution, unmoved by
what
must not matter, and harmless on pictures without stains."""

import warnings

import numpy as np
import pytest
import torch

from equipath.data.stains import (
    HED,
    StainNormalizer,
    StainWarning,
    augment,
    combine,
    find_stains,
    from_density,
    optical_density,
    separate,
)

VECTORS = torch.tensor([[0.62, 0.71, 0.33], [0.12, 0.95, 0.28]], dtype=torch.float64)
VECTORS = VECTORS / VECTORS.norm(dim=1, keepdim=True)


def tissue(vectors=VECTORS, size=(96, 90), seed=0, noise=0.0, dtype=torch.float64, strength=(1.0, 0.8)):
    """A mixture of two known stains: pixels of one, of the other, of both, and of none."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.rand(size, generator=g, dtype=torch.float64)
    amount = 0.3 + torch.rand(2, *size, generator=g, dtype=torch.float64)
    shares = torch.stack([(kind < 0.6) * amount[0] * strength[0], (kind > 0.3) * amount[1] * strength[1]])
    shares *= kind < 0.9
    image = combine(shares, vectors.to(shares))
    image = image + noise * torch.randn(image.shape, generator=g, dtype=torch.float64)
    return image.clamp(0, 1).to(dtype), shares


def angles(a, b):
    """Degrees between the rows of two matrices."""
    a, b = a.double(), b.double()
    cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def test_density_and_back():
    image = torch.rand(2, 3, 20, 21, dtype=torch.float64) * 0.99 + 0.01
    assert torch.allclose(from_density(optical_density(image)), image, rtol=0, atol=1e-15)
    assert torch.isfinite(optical_density(torch.zeros(3, 2, 2))).all()


def test_separating_undoes_combining():
    image, shares = tissue()
    assert torch.allclose(separate(image, VECTORS), shares, rtol=0, atol=1e-12)
    assert torch.allclose(combine(separate(image, VECTORS), VECTORS), image, rtol=0, atol=1e-12)
    batch = torch.stack([image, image.flip(2)])
    each = torch.stack([VECTORS, VECTORS])
    assert torch.allclose(separate(batch, each)[1].flip(2), separate(image, VECTORS), atol=1e-12)


def test_three_stains_equal_scikit_image():
    from skimage.color import separate_stains

    image = (
        torch.rand(3, 30, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9 + 0.05
    )
    rows = HED / HED.norm(dim=1, keepdim=True)
    theirs = separate_stains(image.permute(1, 2, 0).numpy(), np.linalg.inv(rows.numpy()))
    # scikit-image counts density in units of -ln(1e-6) and cuts negative concentrations off.
    ours = separate(image, rows).permute(1, 2, 0).numpy() / -np.log(1e-6)
    assert np.allclose(np.maximum(ours, 0), theirs, rtol=0, atol=1e-12)
    assert theirs.max() > 0.01


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_stains_are_recovered(method, dtype):
    image, _ = tissue(dtype=dtype)
    found, ok = find_stains(image, method)
    assert bool(ok)
    assert found.dtype == dtype
    assert (
        angles(found, VECTORS).max() < {"macenko": 0.05, "vahadane": 3.0}[method]
    )  # the sparsity penalty pulls a little
    assert torch.allclose(found.norm(dim=1), torch.ones(2, dtype=dtype), atol=1e-6)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_noise_and_eight_bits_move_them_little(method):
    image, _ = tissue(size=(200, 200), noise=0.01)
    found, _ = find_stains((image * 255).round() / 255, method)
    assert angles(found, VECTORS).max() < 6


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_what_must_not_matter_does_not(method):
    image, _ = tissue()
    found, _ = find_stains(image, method)
    for changed in (image.flip(1), image.transpose(1, 2), image.rot90(1, (1, 2))):
        assert angles(find_stains(changed, method)[0], found).max() < (0.01 if method == "macenko" else 0.5)
    darker, _ = tissue(strength=(1.3, 1.04))  # the same section, cut thicker
    assert angles(find_stains(darker, method)[0], found).max() < 1.0
    both, ok = find_stains(torch.stack([image, image.flip(1)]), method)
    assert ok.all()
    assert torch.allclose(both[0], found, atol=1e-12)


def test_haematoxylin_comes_first_whatever_the_order():
    image, _ = tissue(VECTORS.flip(0))
    assert angles(find_stains(image)[0], VECTORS).max() < 0.05


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_a_reference_normalised_to_itself_is_itself(method):
    image, _ = tissue()
    again = StainNormalizer(method).fit(image)(image)
    assert (again - image).abs().max() < (1e-10 if method != "vahadane" else 0.03)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_another_scanner_is_undone(method):
    """The same concentrations seen through other stain vectors and strengths come back as the reference's
    colours.
    """
    reference, shares = tissue()
    other = torch.tensor([[0.75, 0.60, 0.28], [0.25, 0.90, 0.36]], dtype=torch.float64)
    other = other / other.norm(dim=1, keepdim=True)
    seen = combine(shares * torch.tensor([0.7, 1.2])[:, None, None], other)
    back = StainNormalizer(method).fit(reference)(seen)
    assert (seen - reference).abs().mean() > 0.05
    assert (back - reference).abs().mean() < (0.005 if method == "macenko" else 0.02)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_a_tile_that_is_mostly_glass_keeps_its_glass_and_gets_the_same_colours(method):
    reference, _ = tissue(seed=7)
    image, _ = tissue(seed=8, size=(60, 60))
    glass = torch.full((3, 60, 1200), 0.95, dtype=torch.float64)
    normalise = StainNormalizer(method).fit(reference)
    alone, within = normalise(image), normalise(torch.cat([image, glass], 2))
    assert (within[..., :60] - alone).abs().mean() < 0.01
    assert (within[..., 60:] - glass).abs().max() < 0.05


def test_reinhard_matches_mean_and_spread():
    from equipath.data.stains import _to_axes

    reference, _ = tissue()
    shifted = tissue(seed=5)[0] * 0.8 + 0.1
    got = StainNormalizer("reinhard").fit(reference)(shifted)
    a, b = _to_axes(got[None]).flatten(2), _to_axes(reference[None]).flatten(2)
    inside = ((got > 0.01) & (got < 0.99)).all(0).double().mean()
    assert inside > 0.5  # the rest was cut at black and white, which moves the moments a little
    assert (a.mean(2) - b.mean(2)).abs().max() < 0.05
    assert (a.std(2) - b.std(2)).abs().max() < 0.05


BAD = {
    "white": torch.ones(3, 40, 40),
    "black": torch.zeros(3, 40, 40),
    "one colour": torch.tensor([0.6, 0.3, 0.7])[:, None, None].expand(3, 40, 40).contiguous(),
    "grey": torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0)).expand(3, 40, 40).contiguous(),
    "one stain": from_density(
        torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0)) * VECTORS[0].float()[:, None, None]
    ),
    "one pixel": torch.ones(3, 1, 1) * 0.5,
    "nearly white": 1 - 0.02 * torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)),
    "one colour with noise": torch.tensor([0.9, 0.5, 0.7])[:, None, None]
    + 0.004 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)),
    "not a number": torch.full((3, 40, 40), torch.nan),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_bad_input_is_left_alone_with_a_warning(name, method):
    bad = BAD[name]
    reference, _ = tissue(dtype=torch.float32)
    normalise = StainNormalizer(method).fit(reference)
    if method == "reinhard" and name == "one stain":
        return  # Reinhard needs no two stains, only colour that varies
    with pytest.warns(StainWarning, match="left as they are"):
        got = normalise(bad)
    assert torch.equal(got, bad) or (name == "not a number" and torch.isnan(got).all())
    if method != "reinhard":
        with pytest.warns(StainWarning):
            vectors, ok = find_stains(bad, method)
        assert not bool(ok)
        assert torch.isfinite(vectors).all()
        with pytest.warns(StainWarning):
            assert torch.equal(torch.nan_to_num(augment(bad, stains=method)), torch.nan_to_num(bad))
    with pytest.raises(ValueError, match="reference image"):
        StainNormalizer(method).fit(bad)


def test_a_bad_image_does_not_spoil_its_batch():
    good, _ = tissue(size=(40, 40), dtype=torch.float32)
    other, _ = tissue(size=(40, 40), seed=9, dtype=torch.float32)
    normalise = StainNormalizer().fit(other)
    with pytest.warns(StainWarning, match="1 of 3 images"):
        got = normalise(torch.stack([good, torch.ones_like(good), other]))
    assert torch.allclose(got[0], normalise(good), atol=1e-6)
    assert torch.equal(got[1], torch.ones_like(good))
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augmentation(dtype):
    image, _ = tissue(dtype=dtype)
    batch = torch.stack([image, image])
    g = torch.Generator().manual_seed(0)
    varied = augment(batch, g)
    assert varied.dtype == dtype
    assert not torch.allclose(varied[0], varied[1], atol=1e-3)
    assert (varied >= 0).all()
    assert (varied <= 1).all()
    assert torch.allclose(augment(batch, g, scale=0, shift=0), batch, atol=1e-6)
    again = augment(batch, torch.Generator().manual_seed(0))
    assert torch.equal(again, varied)
    # The vectors stay, only the amounts change.
    scaled = augment(image, torch.Generator().manual_seed(3), scale=0.3, shift=0, stains=VECTORS)
    ratio = separate(scaled, VECTORS).double() / separate(image, VECTORS).double()
    inside = separate(image, VECTORS) > 0.2
    for k in range(2):
        values = ratio[k][inside[k]]
        assert 0.7 <= float(values.mean()) <= 1.3
        assert float(values.std()) < 1e-3
    with pytest.raises(ValueError, match="scale=-1"):
        augment(image, scale=-1)


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_the_reference_survives_a_state_dict(method):
    reference, _ = tissue()
    image, _ = tissue(seed=3)
    normalise = StainNormalizer(method).fit(reference)
    other = StainNormalizer(method)
    with pytest.raises(RuntimeError, match="call fit"):
        other(image)
    other.load_state_dict(normalise.state_dict())
    assert torch.equal(other(image), normalise(image))
    assert "fitted=True" in repr(other)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: StainNormalizer("magic"), "known are macenko"),
        (lambda: StainNormalizer().fit(torch.rand(3, 8, 8) * 255), "divide 8-bit ones by 255"),
        (lambda: find_stains(torch.rand(3, 8, 8), "magic"), "known are macenko"),
        (lambda: find_stains(torch.zeros(3, 8, 8, dtype=torch.uint8)), "floating point RGB"),
        (lambda: find_stains(torch.rand(4, 8, 8)), "floating point RGB"),
        (lambda: augment(torch.rand(3, 8, 8).half()), "float32 or float64"),
        (lambda: augment(torch.rand(3, 0, 8)), r"shape \(3, 0, 8\)"),
        (lambda: augment(torch.rand(3, 8, 8) * 255), "divide 8-bit ones by 255"),
        (lambda: separate(torch.rand(3, 8, 8), torch.rand(4, 3)), "one to three stains"),
        (lambda: separate(torch.rand(2, 3, 8, 8), torch.rand(3, 2, 3)), "one per image"),
        (lambda: StainNormalizer().fit(torch.rand(2, 3, 8, 8)), "give one"),
    ],
)
def test_mistakes_are_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_arrays_are_refused_and_empty_batches_are_nothing_to_do(method):
    normalise = StainNormalizer(method).fit(tissue()[0])
    with pytest.raises(TypeError, match="ndarray"):
        normalise(tissue()[0].numpy())
    none = torch.zeros(0, 3, 8, 8)
    assert normalise(none).shape == augment(none).shape == none.shape
    if method != "reinhard":
        vectors, ok = find_stains(none, method)
        assert vectors.shape == (0, 2, 3)
        assert ok.shape == (0,)


def test_real_tissue(tissue_data):
    from equipath import data

    items = data.load("tnbc", split="train", root=tissue_data)
    images = torch.stack([items[i]["image"][:, :256, :256] for i in (1, 6, 12)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("macenko", "vahadane"):
            vectors, ok = find_stains(images, method)
            assert ok.all()
            # Haematoxylin takes more red than eosin, in every section of the set, and the two are far apart.
            assert (vectors[:, 0, 0] > vectors[:, 1, 0] + 0.05).all()
            assert (angles(vectors[:, 0], vectors[:, 1]) > 8).all()
            got = StainNormalizer(method).fit(images[0])(images)
            assert torch.isfinite(got).all()
            before = images.mean((2, 3)).std(0).mean()
            assert got.mean((2, 3)).std(0).mean() < before


@pytest.mark.gpu
def test_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image, _ = tissue()
    for method in ("macenko", "vahadane", "reinhard"):
        normalise = StainNormalizer(method).fit(tissue(seed=2)[0])
        assert torch.allclose(normalise.cuda()(image.cuda()).cpu(), normalise.cpu()(image), atol=1e-8)
