"""The PCam experiment: maps are patches, candidates are maxima, intervals hold patients together."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from equipath.experiments import pcam, results
from equipath.experiments.pcam import (
    ARMS,
    SMALL,
    Settings,
    findings,
    fitted,
    most_suspicious,
    network,
    probabilities,
    report,
    run,
    spread,
    transfer,
    tumour_map,
    with_interval,
)
from equipath.groups import P4M
from equipath.metrics import accuracy
from equipath.models.summary import count_parameters

TINY = Settings(
    **asdict(SMALL)
    | dict(
        growths=(1, 1, 1, 2, 3, 2), patients=6, per_patient=2, epochs=1, batches=2, batch=2, rotations=3, turned=2,
        fields=4, crops=2, regions=4, region=160,
    )
)  # fmt: skip


def pictures(count: int, side: int = 96) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [SMALL, Settings()])
def test_weights_and_maps_are_matched(settings):
    count = {arm: count_parameters(network(arm, settings)) for arm in ARMS}
    same = [count[arm] for arm in ("P4M-DenseNet", "P4-DenseNet", "DenseNet+", "DenseNet")]
    assert max(same) / min(same) < 1.25
    growth = dict(zip(ARMS, settings.growths, strict=True))
    assert growth["DenseNet+ M"] == 8 * growth["P4M-DenseNet"]
    assert abs(8 * growth["P4M-DenseNet M"] - growth["DenseNet"]) <= 4


def test_the_map_of_a_slide_holds_the_answers_about_its_patches():
    net = network("P4M-DenseNet", TINY)
    image = pictures(1, 160)[0]
    found = tumour_map(net, image)
    assert found.shape == (3, 3)
    assert not net.dense
    for i, j in ((0, 0), (2, 1)):
        patch = image[None, :, 32 * i : 32 * i + 96, 32 * j : 32 * j + 96]
        assert float(probabilities(net, patch)) == pytest.approx(float(found[i, j]), rel=1e-4)


def test_candidates_are_the_maxima_and_lesions_without_a_patch_do_not_count():
    score = np.zeros((5, 5))
    score[1, 1], score[1, 2], score[4, 4] = 0.9, 0.8, 0.4
    lesions = np.zeros((224, 224), int)
    lesions[70:90, 70:90] = 1
    lesions[0:10, 0:10] = 2  # no patch has its middle third there
    found = findings(score, lesions, 3)
    assert found.lesions == (0.9,)
    assert sorted(found.false_positives)[-1] == 0.4
    assert 0.8 not in found.false_positives


def test_the_most_suspicious_crop_is_one_of_the_field():
    net = network("DenseNet", TINY)
    field = pictures(1, 98)[0]
    every = [
        float(probabilities(net, field[None, :, top : top + 96, left : left + 96]))
        for top in range(3)
        for left in range(3)
    ]
    assert most_suspicious(net, field, 64) == pytest.approx(max(every), rel=1e-4)
    few = most_suspicious(net, field, 1, seed=3)
    assert min(abs(few - value) for value in every) < 1e-5
    with pytest.raises(ValueError, match="no crop"):
        most_suspicious(net, field[:, :90], 4)


def test_the_threshold_comes_from_validation_fields(monkeypatch):
    monkeypatch.setattr(
        "equipath.experiments.pcam.most_suspicious", lambda _net, image, *_: float(image.mean())
    )
    shades = [torch.full((3, 2, 2), v) for v in (0.1, 0.2, 0.3, 0.4)]
    labels = torch.tensor([0, 0, 1, 1])
    found = transfer(None, (shades, labels), (shades[1:] + shades[:1], labels.roll(-1)), 1)
    assert found == {"transfer_accuracy": 1.0, "transfer_auc": 1.0}
    brighter = [shade + 0.2 for shade in shades]
    assert transfer(None, (shades, labels), (brighter, labels), 1)["transfer_accuracy"] == 0.5


def test_an_interval_draws_patients_and_not_patches():
    p, t = torch.tensor([0.9] * 50 + [0.1] * 50), torch.ones(100, dtype=torch.long)
    value, (low, high) = with_interval(accuracy, p, t, ["a"] * 50 + ["b"] * 50)
    assert value == 0.5
    assert (low, high) == (0.0, 1.0)
    value, (low, high) = with_interval(accuracy, p, t, [str(k) for k in range(100)])
    assert 0.35 < low < 0.5 < high < 0.65


def test_quarter_turns_move_the_plain_answer_only():
    quarters = [P4M.act(pictures(4).double(), h) for h in range(4)]
    found = {}
    for arm in ("P4M-DenseNet", "DenseNet"):
        net = network(arm, TINY).double()
        for module in net.modules():
            if hasattr(module, "momentum"):
                module.momentum = 1.0
        net(quarters[0])  # statistics of these pictures: without them the answer is nearly flat
        found[arm] = spread(net, quarters)
    assert found["P4M-DenseNet"] < 1e-12
    assert found["DenseNet"] > 1e-4


def test_what_was_fitted_is_measured_on_patches_spread_over_the_set(monkeypatch):
    monkeypatch.setattr(
        "equipath.experiments.pcam.probabilities", lambda _net, images: images[:, 0, 0, 0].float()
    )
    shades = torch.tensor([0.2, 0.9, 0.4, 0.9, 0.8]).view(5, 1, 1, 1)
    found = fitted(None, "training", (shades, torch.tensor([0, 0, 1, 0, 1])), most=3)
    assert found["training_auc"] == 1.0
    assert found["training_nll"] == pytest.approx(-np.log([0.8, 0.4, 0.8]).mean(), abs=1e-6)
    assert fitted(None, "v", (shades, torch.tensor([0, 0, 1, 0, 1])))["v_auc"] == pytest.approx(2 / 6)


def test_fractions_are_for_the_networks_that_are_compared(tmp_path, monkeypatch):
    asked = []

    def some(data, split, settings, fraction=1.0, seed=0, root=None):
        asked.append((split, fraction))
        return (pictures(4) * 255).byte(), torch.tensor([0, 1, 0, 1]), list("abcd")

    monkeypatch.setattr("equipath.experiments.pcam.patches", some)
    monkeypatch.setattr(
        "equipath.experiments.pcam._measures", lambda *_: [lambda net: {"auc": 0.5, "nll": 0.7}]
    )
    arms = ("P4-DenseNet", "DenseNet")
    found = run("pcam", arms=arms, fractions=(0.5,), progress=False, settings=TINY, results=tmp_path)
    assert list(found) == ["DenseNet, 50 %"]
    assert asked == [("val", 1.0), ("train", 0.5)]
    runs = results.load("pcam", folder=tmp_path)
    assert {r["config"]["fraction"] for r in runs} == {0.5}


@pytest.mark.slow
def test_the_page_says_where_a_network_is_behind():
    """At training already, or on other patients only: told from the numbers, and only where they say so."""

    def page(training, test, patches=8000):
        runs = []
        known = (("P4M-DenseNet", (training, test)), ("DenseNet+", (0.5, 0.52)))
        for arm, (here, there) in known:
            metrics = dict.fromkeys(("accuracy", "auc", "spread", "validation_nll"), 0.5)
            metrics |= {"auc_interval": [0.4, 0.6], "training_nll": here, "nll": there}
            config = asdict(SMALL) | {"model": arm, "parameters": 9000, "fraction": 1.0, "patches": patches}
            runs.append({"data": "pcam", "size": "small", "seed": 0, "config": config, "metrics": metrics})
        return report(runs)

    *_, table, words = page(0.53, 0.56)
    assert table.rows[0][:4] == ["P4M-DenseNet", "0.0015", "3 fields of 8 maps", "0.530"]
    assert "0.030 higher than DenseNet+'s on the training patches and 0.040 higher on the test" in words
    assert "changes by +0.030, DenseNet+'s by +0.020" in words
    assert "it has learned less" in words
    assert "hardly a patch of 8,000 comes twice" in words
    assert "a plain network of 3 channels a layer, averaged over the eight copies" in words
    words = page(0.48, 0.56, patches=125)[-1]
    assert "0.020 lower than DenseNet+'s on the training patches" in words
    assert "learned less" not in words
    assert "comes twice" not in words


def test_the_variety_of_maps_is_told():
    """One feature in every map counts as one; poses that differ share little, filters of full symmetry all."""
    images = pictures(6)
    plain = pcam.network("DenseNet", SMALL).eval()
    free = pcam.variety(plain, images)
    assert 1 < free["independent"] <= 48
    with torch.no_grad():
        for step in plain.steps:  # every map of a step is the mean of the maps before
            step.transition[2].weight.fill_(1.0)
    assert pcam.variety(plain, images)["independent"] == pytest.approx(1, abs=1e-3)
    group = pcam.network("P4M-DenseNet", SMALL).eval()
    assert 1 / 8 < pcam.variety(group, images)["alike"] < 0.95
    with torch.no_grad():
        for weight in group.parameters():
            if weight.dim() == 5:  # all poses alike: the same number for every element and place
                weight.copy_(weight.mean((2, 3, 4), keepdim=True).expand_as(weight))
        group.stem.weight.copy_(group.stem.weight.mean((2, 3), keepdim=True).expand_as(group.stem.weight))
    assert pcam.variety(group, images)["alike"] == pytest.approx(1, abs=1e-5)


def test_p4m_contains_the_plain_network_averaged_over_eight_copies():
    """Filters on the neutral element alone: each pose works for itself, and the mean over poses is the answer."""
    plain = pcam.network("DenseNet", Settings(growths=(2,) * 6)).double().eval()
    group = pcam.network("P4M-DenseNet", Settings(growths=(2,) * 6)).double().eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        plain.train()(pictures(4).double())  # statistics with which the answers differ
    plain.eval()
    state = {}
    for (name, mine), theirs in zip(group.state_dict().items(), plain.state_dict().values(), strict=True):
        state[name] = theirs
        if mine.dim() == 5:
            state[name] = torch.zeros_like(mine)
            state[name][:, :, 0] = theirs
    group.load_state_dict(state)
    x = pictures(2).double()
    with torch.no_grad():
        copies = torch.stack([plain(P4M.act(x, h)) for h in range(8)])
        torch.testing.assert_close(group(x), copies.mean(0), rtol=0, atol=1e-12)
    assert copies.std(0).min() > 1e-3  # the plain network itself is not invariant


def test_the_page_says_what_the_rate_does(monkeypatch):
    def of(arm, lr, reached, seed=0, **more):
        metrics = {
            "training_nll": 0.3,
            "validation_nll": reached,
            "nll": 0.4,
            "auc": 0.9,
            "independent": 1.2,
        } | more
        config = asdict(SMALL) | {"model": arm, "fraction": 1.0, "lr": lr}
        return {"data": "pcam", "size": "small", "seed": seed, "config": config, "metrics": metrics}

    fast, slow = of("P4M-DenseNet", 0.01, 0.5, alike=0.99), of("P4M-DenseNet", SMALL.lr, 0.44, alike=0.5)
    plain = [of("DenseNet+", 0.01, 0.46), of("DenseNet+", SMALL.lr, 0.45)]
    other = of("P4M-DenseNet", SMALL.lr, 9.0, seed=1)
    part = of("DenseNet+", SMALL.lr, 0.5)
    part["config"]["fraction"] = 0.25
    monkeypatch.setattr(pcam, "load_runs", lambda *_, **__: [fast, slow, *plain, part])
    assert pcam.stored("pcam") == [slow, plain[1]]  # what a lesson shows: the best on validation patches
    table, text = pcam._rates([fast, slow, other, *plain], "pcam, size small")
    assert [row[1] for row in table.rows] == [f"{SMALL.lr:g}", "0.01"] * 2
    assert [row[3] for row in table.rows] == ["0.440", "0.500", "0.450", "0.460"]
    assert [row[6] for row in table.rows] == ["0.50", "0.99", "–", "–"]
    assert "changes by -0.060 for P4M-DenseNet and by -0.010 for DenseNet+. Each at the rate" in text
    assert "the test has 0.400 (P4M-DenseNet, 0.0015) and 0.400 (DenseNet+, 0.0015)." in text
    assert "P4M-DenseNet wants a lower rate" in text
    assert "the group is wasted" in text
    assert (
        "wasted"
        not in pcam._rates(
            [fast, of("P4M-DenseNet", SMALL.lr, 0.44, alike=0.97), *plain], "pcam, size small"
        )[1]
    )
    worse = of("P4M-DenseNet", SMALL.lr, 0.6)
    assert "lower rate" not in pcam._rates([fast, worse, *plain], "pcam, size small")[1]
    (alone,) = pcam._rates([slow, *plain], "pcam, size small")  # P4M at one rate: nothing to say of the two
    assert [row[0] for row in alone.rows] == ["DenseNet+"] * 2
    (alone,) = pcam._rates([fast, other, *plain], "pcam, size small")  # P4M's rates have no seed in common
    assert [row[0] for row in alone.rows] == ["DenseNet+"] * 2


def test_the_page_says_where_the_symmetry_pays():
    def runs(training, test):
        return [{"metrics": {"training_nll": training, "nll": test}}]

    few = {
        "P4M-DenseNet": [runs(0.52, 0.52), runs(0.44, 0.51)],
        "DenseNet+": [runs(0.47, 0.50), runs(0.30, 0.61)],
        "DenseNet": [runs(0.46, 0.49), runs(0.08, 0.80)],
    }
    (text,) = pcam._scarce(few, 125)
    assert "by +0.070 (P4M-DenseNet), +0.310 (DenseNet+), +0.720 (DenseNet)." in text
    assert "pays where patches are few" in text
    few["DenseNet"][1] = runs(0.4, 0.5)
    assert "pays" not in pcam._scarce(few, 125)[0]
    few["DenseNet"][1] = []
    assert pcam._scarce(few, 125) == []


@pytest.mark.slow
def test_a_run_is_saved_reported_and_repeated(tmp_path):
    options = dict(folder=tmp_path / "ck", progress=False, settings=TINY, results=tmp_path)
    first = run("slides", arms=("P4M-DenseNet", "DenseNet"), **options)
    runs = results.load("pcam", folder=tmp_path)
    assert {r["config"]["model"] for r in runs} == {"P4M-DenseNet", "DenseNet"}
    again = run("slides", arms=("DenseNet",), **options)
    for metric in ("nll", "froc", "transfer_auc", "spread"):
        assert again["DenseNet, 100 %"][metric] == first["DenseNet, 100 %"][metric]
    tables = [part for part in report(runs) if isinstance(part, results.Table)]
    assert [len(table.rows) for table in tables] == [2, 2, 2]


def test_the_page_says_whether_p4m_was_behind_for_want_of_steps():
    def whole(long_gap, seeds=(0,)):
        found = []
        for arm, at in (
            ("P4M-DenseNet", 0.5),
            ("DenseNet+", 0.46),
            (pcam.LONG[0], 0.4 + long_gap),
            (pcam.LONG[1], 0.4),
        ):
            found += [
                {
                    "seed": seed,
                    "config": asdict(SMALL) | {"model": arm, "epochs": 15 if "long" in arm else 5},
                    "metrics": {"training_nll": 0.3, "validation_nll": at + seed, "nll": 0.5, "auc": 0.8},
                }
                for seed in (seeds if "long" in arm else (0, 1))
            ]
        return found

    table, text = pcam._longer(whole(-0.01), "pcam, size small")
    assert [row[:2] for row in table.rows] == [
        ["P4M-DenseNet", "5"], [pcam.LONG[0], "15"], ["DenseNet+", "5"], [pcam.LONG[1], "15"],
    ]  # fmt: skip
    assert table.rows[0][3] == "0.500"  # of the seeds of the long training alone
    assert "(pcam, size small, 1 seed)" in table.caption
    assert "is +0.040 after the short training and -0.010 after the long one: it was behind for want" in text
    assert "more than half" in pcam._longer(whole(0.01), "")[1]
    assert "not lack steps alone" in pcam._longer(whole(0.03), "")[1]
    assert f"rate of learning: {SMALL.lr:g}." in table.caption
    few = [run for run in whole(0.03) if run["config"]["model"] != pcam.LONG[1]]
    (alone,) = pcam._longer(few, "")  # nothing to compare with: no sentence
    assert [row[0] for row in alone.rows] == ["P4M-DenseNet", pcam.LONG[0]]
    # Short and long runs are compared at one rate.
    for each in (mixed := whole(0.03)):
        each["config"]["lr"] *= 1 + ("long" in each["config"]["model"])
    assert pcam._longer(mixed, "") == []
