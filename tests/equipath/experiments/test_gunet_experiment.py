"""The GU-Net experiment: what is measured is what is said, and runs can be read and repeated."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from equipath.experiments import gunet, results
from equipath.experiments.gunet import ARMS, SMALL, Settings, measure, network, report, run
from equipath.groups import P4M
from equipath.metrics import dice_score
from equipath.models.summary import count_parameters

TINY = Settings(
    **asdict(SMALL) | dict(patients=3, per_patient=4, side=16, epochs=1, batches=2, batch=2, stability=2)
)


@pytest.mark.parametrize("settings", [SMALL, Settings()])
def test_all_arms_have_about_the_same_number_of_weights(settings):
    counts = [count_parameters(network(arm, settings)) for arm in ARMS]
    assert max(counts) / min(counts) < 1.15


def test_the_p4m_network_does_not_flicker_and_averaging_changes_nothing():
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 16, 16), generator=chance, dtype=torch.uint8)
    masks = torch.randint(2, (3, 16, 16), generator=chance)
    steady = measure(network("P4M U-Net", SMALL).eval(), images, masks)
    assert steady["spread"] < 1e-6
    assert steady["averaged_dice"] == pytest.approx(steady["dice"], abs=1e-3)
    flickering = measure(network("U-Net+", SMALL).eval(), images, masks)
    assert flickering["spread"] > 1e-4


def test_spread_and_dice_by_hand():
    class Lean(nn.Module):
        """Sees tumour where a picture is bright, and more of it to the right."""

        output_field = "planar"

        def forward(self, x):
            return 4 * x[:, :1] - 2 + torch.linspace(-1, 1, x.shape[-1])

    chance = torch.Generator().manual_seed(2)
    images = torch.rand(4, 3, 8, 8, generator=chance)
    masks = torch.randint(2, (4, 8, 8), generator=chance)
    found = measure(Lean(), images, masks)
    copies = [P4M.act(torch.sigmoid(Lean()(P4M.act(images, h))), P4M.inverse(h)) for h in range(8)]
    together = torch.stack(copies)
    assert found["spread"] == pytest.approx(float(together.std(0, correction=0).mean()), rel=1e-5)
    assert found["averaged_dice"] == dice_score(together.mean(0)[:, 0] > 0.5, masks)
    assert found["dice"] == dice_score(copies[0][:, 0] > 0.5, masks)
    assert found["background_dice"] == dice_score(copies[0][:, 0] <= 0.5, 1 - masks)
    few = measure(Lean(), images, masks, stability=2)
    assert "averaged_dice" not in few
    assert few["spread"] == pytest.approx(float(together[:, [0, 3]].std(0, correction=0).mean()), rel=1e-5)


@pytest.mark.slow
def test_the_page_says_who_was_done_early_where_data_are_fewest():
    def runs(*epochs):
        return [
            {
                "seed": k,
                "config": {"model": model, "fraction": 0.125, "epochs": 8},
                "metrics": {"best_epoch": epoch, "pictures": 37},
            }
            for model, several in zip(("P4M U-Net", "U-Net+"), epochs, strict=True)
            for k, epoch in enumerate(several)
        ]

    (text,) = gunet._longest(runs((4, 5), (7, 8)), 0.125)
    assert "At 12.5 % (37 pictures with seed 0) P4M U-Net is best on validation after 4.5 of 8 epochs" in text
    assert "U-Net+ after 7.5. P4M has stopped getting better there while U-Net+ still does" in text
    assert gunet._longest(runs((7, 7), (7, 8)), 0.125)[0].endswith("after 7.5.")
    assert gunet._longest(runs((4, 5), (7, 8)), 0.5) == []


@pytest.mark.slow
def test_a_run_is_saved_reported_and_repeated(tmp_path):
    options = dict(folder=tmp_path / "ck", progress=False, settings=TINY, results=tmp_path)
    first = run("slides", arms=("U-Net+", "P4M U-Net"), fractions=(1.0, 0.5), **options)
    runs = results.load("gunet", folder=tmp_path)
    assert sorted(r["metrics"]["pictures"] for r in runs) == [6, 6, 12, 12]
    again = run("slides", arms=("P4M U-Net",), fractions=(0.5,), **options)
    assert again["P4M U-Net, 50 %"]["dice"] == first["P4M U-Net, 50 %"]["dice"]
    parts = report(runs)
    assert [len(part.rows) for part in parts if isinstance(part, results.Table)] == [3, 2]
    assert sum(isinstance(part, results.Picture) for part in parts) == 1
