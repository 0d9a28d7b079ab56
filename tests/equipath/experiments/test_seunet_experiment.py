"""SEUNet's experiments: pictures at every scale of one tissue, the errors of eq. 10 and 12, one small run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equipath.data.items import IGNORE
from equipath.equivariance import Scaling, error_matrix
from equipath.experiments import results, seunet
from equipath.experiments.seunet import Fields, Settings, pair_errors
from equipath.metrics import mean_iou
from equipath.nn.scale import GaussianDerivativeLiftingConv2d

TINY = Settings(
    widths=(2,) * 7, lrs=(0.02,) * 7, depth=1, tile=16, field=16, mpp=4.0, tiles=4, test_tiles=2, epochs=1, batch=2,
    batches=1,
)  # fmt: skip


def test_the_scales_are_the_papers():
    assert len(seunet.SCALES) == 17
    assert seunet.SCALES[0] == 0.25
    assert seunet.SCALES[8] == 1
    assert seunet.SCALES[-1] == 4
    ratios = np.array(seunet.SCALES[1:]) / np.array(seunet.SCALES[:-1])
    assert np.allclose(ratios, 2**0.25)


def test_slides_show_the_same_tissue_at_every_scale():
    fields = Fields("slides", "test", 32, TINY, 2)
    images, masks = fields.at(1.0)
    assert images.shape == (2, 3, 32, 32)
    assert masks.shape == (2, 32, 32)
    for scale in (0.5, 2.0):
        other, other_masks = fields.at(scale)
        assert other.shape[-1] == 32 * scale
        back = torch.nn.functional.interpolate(other_masks[:, None].double(), (32, 32), mode="nearest-exact")
        assert (back[:, 0] == masks).double().mean() > 0.93
        a, b = (torch.nn.functional.interpolate(x, (8, 8), mode="area") for x in (images, other))
        assert (a - b).abs().mean() < 0.5 * (a - a.flip(0)).abs().mean()
    odd, _ = fields.at(2**0.25)
    assert odd.shape[-1] == 38


def test_the_networks_have_as_many_parameters_as_the_cnn():
    settings = seunet.SETTINGS["small"]["slides"]
    counts = {a: sum(p.numel() for p in seunet.network(a, 5, settings).parameters()) for a in seunet.ARMS}
    for count in counts.values():
        assert 0.8 < count / counts["CNN"] < 1.05, counts


def test_pair_errors_are_those_of_the_library():
    layer = GaussianDerivativeLiftingConv2d(3, 4, [(0.5, 1.5), (1.5, 2.5)]).double()
    x = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    up = Scaling(2.0)
    with torch.no_grad():
        ours = pair_errors(up.planar(layer(x)), layer(up.planar(x)), 4)
    assert torch.allclose(ours, error_matrix(layer, x, up, border=4), rtol=1e-10)


def test_an_error_of_nothing_is_nothing_and_of_unrelated_fields_about_two():
    x = torch.randn(3, 5, 2, 40, 40)
    assert torch.equal(pair_errors(x, x, 5).diagonal(), torch.zeros(2, dtype=torch.float64))
    assert pair_errors(x, torch.randn(3, 5, 2, 40, 40), 0).mean() == pytest.approx(2.0, abs=0.1)


def test_a_silent_scale_of_a_picture_has_no_error():
    """A network whose ReLUs are all closed at one scale made an error of 1e30 of what is 0 / 0."""
    x, seen = torch.randn(3, 5, 2, 20, 20), torch.randn(3, 5, 2, 20, 20)
    silent = x.clone()
    silent[1, :, 0] = 0
    found = pair_errors(silent, seen, 2)
    assert torch.allclose(found[0], pair_errors(x[[0, 2]], seen[[0, 2]], 2)[0], rtol=1e-10)
    assert torch.allclose(found[1], pair_errors(x, seen, 2)[1], rtol=1e-10)
    silent[:, :, 0] = 0
    assert pair_errors(silent, seen, 2)[0].isnan().all()


def test_rare_classes_weigh_more():
    masks = torch.zeros(2, 5, 5, dtype=torch.long)
    masks[0, 0] = 1  # 5 pixels
    masks[1, 0] = -100
    weights = seunet.class_weights((masks, masks), 2)
    assert float(weights[1] / weights[0]) == pytest.approx((40 / 5) ** 0.5)
    assert float(40 * weights[0] + 5 * weights[1]) == pytest.approx(45, rel=1e-5)


def test_answers_of_one_head_and_of_several():
    one = seunet.probabilities(torch.randn(2, 5, 8, 8))
    assert list(one) == ["head 1"]
    several = seunet.probabilities(torch.randn(2, 5, 3, 8, 8))
    assert list(several) == ["P_Ens", "P_Dist", "mean", "head 1", "head 2", "head 3"]
    for p in several.values():
        assert torch.allclose(p.sum(1), torch.ones(2, 8, 8), atol=1e-5)


def test_the_best_head_is_followed_over_the_scales():
    table = {"scales": [0.5, 1.0, 2.0]}
    for k, values in enumerate([(0.6, 0.5, 0.2), (0.5, 0.6, 0.3), (0.1, 0.5, 0.4)]):
        table[f"iou.head {k + 1}"] = list(values)
    found = seunet.best_heads(table)
    assert found["best_head"] == [1, 2, 3]
    assert found["best_head_trend"] == pytest.approx(1.0)
    assert found["head_centre_trend"] == pytest.approx(1.0)
    assert seunet.best_heads({"scales": [1.0], "iou.head 1": [0.5]}) == {}


def test_pictures_measured_a_few_at_a_time_give_what_they_give_together(monkeypatch):
    fields = Fields("slides", "test", 16, TINY, 3)
    assert fields.count == 3
    net = seunet.network("SEUNet", 5, TINY)
    together = seunet.measure(net, fields, (0.5, 1.0, 2.0))
    monkeypatch.setattr(seunet, "BATCH_PIXELS", 2 * 32**2)
    apart = seunet.measure(net, fields, (0.5, 1.0, 2.0))
    for name in ("iou.P_Ens", "error", "answer_error"):
        assert apart[name] == pytest.approx(together[name], rel=1e-4)
    images, masks = fields.at(2.0)
    p = net.eval().predict(images).argmax(1)
    assert together["iou.P_Ens"][2] == pytest.approx(mean_iou(p, masks, 5))
    values = {name: [] for name in fields.classes}
    for scale in (0.5, 1.0, 2.0):
        images, masks = fields.at(scale)
        p = net.predict(images).argmax(1)
        for k, name in enumerate(fields.classes):
            either = ((p == k) & (masks != IGNORE)) | (masks == k)
            if either.any():
                values[name].append(float(((p == k) & (masks == k)).sum() / either.sum()))
    expected = {name: np.mean(v) if v else np.nan for name, v in values.items()}
    assert together["class_iou"] == pytest.approx(expected, nan_ok=True)


def test_the_head_that_is_best_with_hindsight_is_held_against_all_together():
    words = seunet._alone(np.array([[30.0, 46.0, 20.0], [50.0, 48.0, 20.0]]), np.array([42.0, 49.0]))
    assert "(P_Ens) have 45.5;" in words
    assert words.endswith("to be best, 2, has 47.0 alone and is ahead in 1 of 2 runs.")


def sigma_arm(name, *values, first=0):
    """Runs of one setting of σ with these IoUs, their seeds counted from ``first``."""
    runs = [
        {
            "seed": seed,
            "config": {"depth": 2},
            "metrics": {
                "mean_iou.P_Ens": v, "mean_error": 0.1, "processor_seconds": 30.0,
                "sigma": [[0.2, 0.7], [0.03, 0.9], [0.6, 1.1]],
            },
        }
        for seed, v in enumerate(values, start=first)
    ]  # fmt: skip
    return name, runs


def test_settings_of_sigma_are_compared_on_the_seeds_that_all_have():
    arms = [
        sigma_arm("CNN", 0.9),
        sigma_arm("SEUNet", 0.5, 0.4, 0.3),
        sigma_arm("SEUNet, fixed σ", 0.35, first=2),
    ]
    (table,) = seunet._sigma_table(arms, "tnbc", "small")
    assert [row[:2] for row in table.rows] == [["constrained", "30.0"], ["fixed", "35.0"]]
    assert "all from the same seed 2." in table.caption
    assert seunet._sigma_text(arms)[0].startswith("One seed tells no order of the settings. The smallest")
    apart = [sigma_arm("SEUNet", 0.5), sigma_arm("SEUNet, free σ", 0.3, first=1)]
    assert seunet._sigma_table(apart, "tnbc", "small") == []
    assert seunet._sigma_text(apart)[0].startswith("The smallest")
    assert "on 7 test pictures of tnbc (small, 1 to 3 seeds)" in seunet._main_table(
        [(arm, [run | {"config": {"parameters": 5, "test_tiles": 7}, "metrics": CURVE} for run in runs]) for arm, runs in arms],
        "tnbc", "small",
    ).caption  # fmt: skip


CURVE = {"scales": [0.5, 1.0], "iou.head 1": [0.1, 0.2], "mean_iou.head 1": 0.15, "kept.head 1": 0.75}


def test_seeds_that_differ_more_than_the_settings_of_sigma_tell_no_order():
    arm = sigma_arm
    (text,) = seunet._sigma_text(
        [arm("CNN", 0.1), arm("SEUNet", 0.4, 0.5), arm("SEUNet, fixed σ", 0.46, 0.48)]
    )
    assert "lie 2.0 points apart, the seeds of one setting up to 10.0: so few runs tell no order" in text
    assert "ends at 0.03 pixels, in layer 2" in text
    assert "goes from 0 to 0.5;" in text
    assert "one class" not in text
    fixed = arm("SEUNet, fixed σ", 0.36, 0.58)
    for run, rare in zip(fixed[1], (0.0, 0.55), strict=True):
        run["metrics"]["class_iou"] = {"tumour": 0.5, "necrosis": rare}
    (text,) = seunet._sigma_text([arm("SEUNet", 0.46, 0.48), fixed])
    assert "one class: of *necrosis* the IoU is 55 points apart there" in text
    (text,) = seunet._sigma_text([arm("SEUNet", 0.40, 0.41), arm("SEUNet, free σ", 0.46, 0.48)])
    assert "lie 6.5 points apart, the seeds of one setting up to 2.0. The smallest" in text
    free = arm("SEUNet, free σ", 0.4)
    free[1][0]["metrics"]["sigma"][1] = [0.9, 0.1]
    assert seunet._sigma_text([free]) == [
        "Left free, the σs of the scales are still in their order in 2 of 3 layers of all runs."
    ]


def test_an_error_that_divides_by_nearly_nothing_is_explained():
    _, runs = sigma_arm("SESN", 0.1)
    runs[0]["metrics"] |= {"silent": [0.5, 0.0], "mean_error": 41.0}
    other = sigma_arm("CNN", 0.1)
    (text,) = seunet._silent([("SESN", runs), other])
    assert "SESN 25.0 % of all scales" in text
    assert "SESN above the 2 of unrelated features" in text
    assert seunet._silent([other]) == []
    # Hardly any features, but no zeros: nothing is left out, and the huge mean is explained all the same.
    (text,) = seunet._silent([("SESN", [{"metrics": {"silent": [0.0], "mean_error": 65.0}}])])
    assert "left out" not in text
    assert "SESN" in text


def test_fine_arms_see_the_same_tissue_in_twice_as_many_pixels(monkeypatch):
    given = {}
    monkeypatch.setattr(
        seunet.Runs,
        "one",
        lambda self, net, train, val, config, *_, **__: (
            given.update({config["model"]: (net, train, config)}) or {}
        ),
    )
    out = seunet.run("slides", arms=("CNN fine", "CNN"), settings=TINY, progress=False)
    assert list(out) == ["CNN fine", "CNN"]
    (net, (images, _), config), (other, (coarse, _), told) = given["CNN fine"], given["CNN"]
    assert (config["mpp"], config["tile"], config["field"]) == (TINY.mpp / 2, 2 * TINY.tile, 2 * TINY.field)
    assert config["lr"] == told["lr"]
    assert images.shape[-1] == 2 * coarse.shape[-1]
    smaller = torch.nn.functional.avg_pool2d(images, 2)
    same, other_tissue = ((smaller - x).abs().mean() for x in (coarse, coarse.flip(0)))
    assert same < other_tissue / 2
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="already take the set's own"):
        seunet.run("tnbc", arms=("SEUNet fine",), settings=replace(TINY, mpp=None))


def test_the_page_says_what_finer_pixels_change():
    def runs(arm, mpp, values):
        found = []
        for seed, value in enumerate(values):
            metrics = {"scales": [0.5, 1.0]}
            for name in ("P_Ens", *(f"head {k}" for k in range(1, 6))) if "SEUNet" in arm else ("head 1",):
                metrics |= {f"iou.{name}": [0.2, 0.5], f"mean_iou.{name}": value, f"kept.{name}": 0.8}
            found.append({"seed": seed, "config": {"model": arm, "mpp": mpp}, "metrics": metrics})
        return {(arm,): found}

    by = runs("CNN", 0.5, [0.5, 0.4]) | runs("CNN fine", 0.25, [0.5]) | runs("SEUNet", 0.5, [0.4])
    assert seunet._finer(by, "tnbc", "small") == []
    table, text = seunet._finer(by | runs("SEUNet fine", 0.25, [0.55, 0.1]), "tnbc", "small")
    assert [row[:2] for row in table.rows] == [
        ["CNN", "0.5"], ["CNN", "0.25"], ["SEUNet", "0.5"], ["SEUNet", "0.25"],
    ]  # fmt: skip
    assert table.rows[3][2:] == ["50.0", "55.0", "0.80", "55.0 / 55.0 / 55.0 / 55.0 / 55.0"]
    assert "small, 1 seed" in table.caption
    assert "is -10.0 points from the CNN's at 0.5 µm a pixel and +5.0 at 0.25 µm. On every seed" in text
    text = seunet._finer(by | runs("SEUNet fine", 0.25, [0.3]), "tnbc", "small")[1]
    assert text.endswith("-20.0 at 0.25 µm.")


@pytest.mark.slow
def test_the_shipped_weights_give_the_kept_result():
    kept = [
        run for run in results.load("seunet", data="slides", size="small")
        if run["config"]["model"] == "SEUNet" and run["seed"] == 0
    ]  # fmt: skip
    settings = seunet.SETTINGS["small"]["slides"]
    fields = Fields("slides", "test", settings.field, settings, settings.test_tiles)
    found = seunet.measure(seunet.trained_network(), fields, (0.5, 1.0))
    scales = kept[0]["metrics"]["scales"]
    for scale, value in zip((0.5, 1.0), found["iou.P_Ens"], strict=True):
        assert value == pytest.approx(kept[0]["metrics"]["iou.P_Ens"][scales.index(scale)], abs=0.005)


@pytest.mark.slow
def test_a_run_saves_what_its_report_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    monkeypatch.setattr(seunet, "SCALES", (0.5, 1.0, 2.0))
    out = seunet.run("slides", "small", 0, tmp_path / "runs", progress=False, settings=TINY,
                     arms=("CNN", "SEUNet"))  # fmt: skip
    assert set(out) == {"CNN", "SEUNet"}
    for metrics in out.values():
        assert len(metrics["error"]) == 2
        assert metrics["mean_error"] == pytest.approx(np.mean(metrics["error"]))
    assert len(out["SEUNet"]["iou.P_Ens"]) == 3
    assert out["SEUNet"]["mean_iou.P_Ens"] == pytest.approx(np.mean(out["SEUNet"]["iou.P_Ens"]))
    assert len(out["SEUNet"]["sigma"]) == 6  # two layers in each of three blocks
    assert np.array(out["SEUNet"]["first_matrices"]).shape == (4, 5, 5)
    assert len(list((tmp_path / "seunet").glob("*.json"))) == 2
    shown = seunet.report(results.load("seunet", folder=tmp_path))
    tables = [part for part in shown if isinstance(part, results.Table)]
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    assert [row[0] for row in tables[0].rows] == ["CNN", "SEUNet, mean", "SEUNet, P_Dist", "SEUNet, P_Ens"]
    assert tables[0].rows[3][3] == f"{100 * out['SEUNet']['mean_iou.P_Ens']:.1f}"
    assert tables[0].rows[0][5] == f"{out['CNN']['mean_error']:.2f}"
    assert {part.name for part in shown if isinstance(part, results.Picture)} == {
        "scales-slides-small", "matrices-slides-small",
    }  # fmt: skip
