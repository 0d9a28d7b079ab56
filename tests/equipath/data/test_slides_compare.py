"""Measures of real and rendered tissue: right on pictures whose answer is known, and near on tissue."""

import numpy as np
import pytest
import torch

from equipath.data.slides import TumourPatches
from equipath.data.slides.compare import GROUPS, colour, compare, measure, spectrum, spots
from equipath.data.slides.figures import find, proof
from equipath.data.slides.tissue import MATERIAL


def test_colour_of_a_known_image():
    image = np.stack(
        [np.full((8, 8), 0.2), np.linspace(0, 1, 64).reshape(8, 8), np.linspace(1, 0, 64).reshape(8, 8)]
    )
    found = colour(image)
    assert found[:3] == pytest.approx([0.2, 0.5, 0.5])
    assert found[3] == pytest.approx(0)
    assert found[-1] == pytest.approx(-1)  # green and blue run against each other


def test_spectrum_of_noise_is_flat_and_of_a_wave_is_one_ring(rng):
    flat = np.mean([spectrum(np.repeat(rng.normal(size=(1, 64, 64)), 3, 0)) for _ in range(20)], 0)
    assert np.ptp(flat[1:]) < 0.1
    assert flat[3] == pytest.approx(0, abs=0.1)  # unit variance: unit power everywhere
    wave = np.sin(2 * np.pi * 0.25 * np.arange(64))
    assert spectrum(np.broadcast_to(wave, (3, 64, 64))).argmax() in (5, 6)


def test_spots_counts_discs():
    y, x = np.mgrid[:120, :120]
    image = np.full((3, 120, 120), 0.9)
    for cy in range(15, 120, 30):
        for cx in range(15, 120, 30):
            image[:, (y - cy) ** 2 + (x - cx) ** 2 < 49] = 0.2
    number, area, spread, share, _ = spots(image, 0.5)
    assert number == pytest.approx(1000 * 16 / 3600, rel=1e-6)
    assert area == pytest.approx(np.pi * 49 * 0.25, rel=0.15)
    assert spread < 1
    assert share == pytest.approx(number / 1000 * area, rel=1e-6)
    assert not spots(np.full((3, 40, 40), 0.9), 0.5).any()


@pytest.mark.slow
def test_compare_cannot_tell_like_from_like_and_tells_a_change(rng, monkeypatch):
    import sklearn.ensemble

    forest = sklearn.ensemble.RandomForestClassifier
    monkeypatch.setattr(  # a fifth of the trees tells as much of pictures as plain as these
        sklearn.ensemble, "RandomForestClassifier", lambda _, **options: forest(20, **options)
    )

    def draw(count, tint):
        return [
            torch.from_numpy((rng.random((3, 32, 32)) * 0.5 + tint).astype(np.float32)) for _ in range(count)
        ]

    assert compare(draw(40, 0.2), draw(40, 0.2), 1.0)["auc"]["colour"] < 0.7
    found = compare(draw(40, 0.2), draw(40, 0.3), 1.0)
    assert set(found["auc"]) == {*GROUPS, "all"}
    assert found["auc"]["colour"] > 0.95
    with pytest.raises(ValueError, match="at least 20"):
        compare(draw(5, 0.2), draw(40, 0.2), 1.0)


def test_the_figure_of_the_proof_measures_what_it_shows(tmp_path):
    """A turned rendering equals its pixels one by one; a turned picture does not."""
    found = proof(tmp_path / "proof.jpg", size=24)
    assert found["alone"] < 2e-5
    assert found["turned"] > 0.02
    assert (tmp_path / "proof.jpg").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "material"), [("colon", "mucus"), ("prostate_core", "gleason_4")])
def test_find_shows_the_material(kind, material):
    slide, center = find(kind, material)
    from equipath.data.slides import Grid

    view = slide.render(Grid(center, 9, 1.0))
    assert (view.material == MATERIAL[material]).any()
    with pytest.raises(ValueError, match="No slide"):
        find("lymph_node", "gleason_4", tries=2)


@pytest.mark.slow
def test_rendered_patches_resemble_pcam(tissue_data):
    """Mean colour, its spread and the density of nuclei are those of PCam's patches, roughly."""
    from equipath.data import load

    real = load("pcam", split="train", root=tissue_data)
    order = np.random.default_rng(0).permutation(len(real))[:200]
    made = TumourPatches(patients=40, per_patient=4)
    a = measure([real[int(i)]["image"] for i in order], 0.97)
    b = measure([i["image"] for i in made.__getitems__(range(len(made)))], 0.97)
    assert np.abs(a["colour"].mean(0) - b["colour"].mean(0))[:6].max() < 0.1
    assert 0.6 < b["nuclei"].mean(0)[0] / a["nuclei"].mean(0)[0] < 1.6
    assert np.abs(a["sharpness"].mean(0) - b["sharpness"].mean(0)).max() < 0.7
