"""SRENet's experiments: the checks that the paper names, and one small run from data to result."""

import math

import pytest
import torch

from equipath.cluster import TissueClusters
from equipath.data import DataError, ebhi, nct_crc
from equipath.data.items import IGNORE
from equipath.experiments import results, srenet
from equipath.experiments.srenet import Pictures, Settings
from equipath.models.resnet import ResNet18, SREResNet18

TINY = Settings(
    widths=(2, 2, 2, 1), patch=16, mpp=9.0, epochs=1, batch=4, batches=1, lr=0.01, limit=8, side=64,
    fit_images=2, test_images=2, k=2, ks=(3,), layers=(4,), study_images=1, study_angles=(0, 90),
)  # fmt: skip


def test_the_square_on_black_turns_with_the_picture():
    assert srenet.square_on_black() < 1e-12
    assert srenet.square_on_black(24) < 1e-12


def test_features_at_a_quarter_turn_agree_for_rings_only():
    torch.manual_seed(0)
    image = torch.rand(3, 32, 32)
    assert srenet.quarter_turn_icc(SREResNet18(3, 2, 3).eval(), image) == pytest.approx(1.0, abs=1e-4)
    assert srenet.quarter_turn_icc(ResNet18(3, 2, 3).eval(), image) < 0.9


def test_only_plain_features_know_the_direction_of_stripes():
    images, label = srenet.gratings(6)
    assert torch.equal(label, torch.tensor([0, 1, 0, 1, 0, 1]))
    across, along = images[0].std(1).mean(), images[0].std(2).mean()
    assert across > 1.5 * along  # horizontal stripes change from row to row
    torch.manual_seed(0)
    assert srenet.direction_accuracy(ResNet18(3, 2, 4).eval()) > 0.9
    assert 0.25 < srenet.direction_accuracy(SREResNet18(3, 2, 4).eval()) < 0.75


def test_augmentation_turns_and_mirrors_what_it_was_given():
    images = torch.rand(6, 3, 17, 17)
    targets = torch.arange(6)
    out, same = srenet.turn_and_mirror(images, targets, torch.Generator().manual_seed(0))
    assert same is targets
    assert out.shape == images.shape
    again, _ = srenet.turn_and_mirror(images, targets, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)
    # The centre pixel stays where it is at every angle.
    assert torch.allclose(out[..., 8, 8], images[..., 8, 8], atol=1e-5)
    assert not torch.allclose(out, images, atol=0.1)


def test_every_model_is_of_one_size():
    counts = {}
    for size in ("small", "paper"):
        for model in ("SRE-ResNet18", "ResNet18", "e2cnn ResNet18")[: 3 if size == "small" else 2]:
            net = srenet.network(model, 9, srenet.SETTINGS[size])
            counts[size, model] = sum(p.numel() for p in net.parameters())
    for (size, model), count in counts.items():
        assert count == pytest.approx(counts[size, "SRE-ResNet18"], rel=0.1), (size, model)


def test_clusters_are_named_on_some_patients_and_graded_on_others():
    class Colours(torch.nn.Module):
        def features(self, x, layer=4):
            return x

    def picture(split: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.full((3, 12, 12), 0.2)
        image[0, :, :split] = 0.9  # red on the left
        mask = torch.zeros(12, 12, dtype=torch.long)
        mask[:, :6] = 1
        mask[0] = IGNORE
        return image, mask

    (fit_image, fit_mask), (test_image, test_mask) = picture(6), picture(8)
    found = TissueClusters.fit(Colours(), [fit_image], 2, size=(12, 12), pixels=100)
    fitted = Pictures([fit_image], [fit_mask], ("stroma", "gland"))
    test = Pictures([test_image], [test_mask], ("stroma", "gland"))
    graded = srenet.against_labels(found, fitted, test)
    red = graded["cluster_class"].index("gland")
    # Of 132 known pixels 88 are red, 66 of them gland; all gland is red.
    assert graded["accuracy"] == pytest.approx(110 / 132)
    assert graded["precision"][red] == pytest.approx(66 / 88)
    assert graded["recall"][red] == pytest.approx(1.0)
    assert graded["precision"][1 - red] == pytest.approx(1.0)
    assert graded["recall"][1 - red] == pytest.approx(44 / 66)
    assert graded["f1"][red] == pytest.approx(2 * 66 / (88 + 66))
    assert graded["mean_dice"] == pytest.approx((2 * 66 / (88 + 66) + 2 * 44 / (44 + 66)) / 2)
    perfect = srenet.against_labels(found, fitted, fitted)
    assert perfect["ari"] == pytest.approx(1.0)
    assert perfect["accuracy"] == 1.0
    # A cluster that no test pixel belongs to is neither right nor wrong.
    pale, none = torch.full((3, 12, 12), 0.2), torch.zeros(12, 12, dtype=torch.long)
    absent = srenet.against_labels(found, fitted, Pictures([pale], [none], ("stroma", "gland")))
    for name in ("precision", "recall", "f1"):
        assert math.isnan(absent[name][red])
        assert absent[name][1 - red] == 1.0


def test_patches_that_are_smaller_than_the_settings_ask_stay_whole(monkeypatch):
    class Patches:
        classes, patients, names = ("normal", "tumour"), ["a"] * 3, ["x", "y", "z"]

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return {"image": torch.zeros(3, 96, 96), "label": i % 2}

    monkeypatch.setattr(srenet, "load", lambda *_, **__: Patches())
    _, sets = srenet.pretraining("pcam", srenet.SETTINGS["paper"])
    assert [tuple(sets[split][0][0].shape) for split in ("train", "val", "test")] == [(3, 96, 96)] * 3
    _, sets = srenet.pretraining("pcam", Settings(patch=64))
    assert sets["train"][0][0].shape == (3, 64, 64)


def test_pictures_to_cluster_are_drawn_from_the_whole_set(monkeypatch):
    class Sorted:
        """24 patients with two pictures each, sorted by stage as files are."""

        classes = ("background", "gland")
        patients = [f"case {i // 2}" for i in range(48)]  # noqa: RUF012

        def __len__(self):
            return 48

        def __getitem__(self, i):
            mask = torch.full((16, 16), i // 16)  # three stages, which the mask tells here
            return {"image": torch.rand(3, 16, 16), "mask": mask}

    monkeypatch.setattr(srenet, "load", lambda *_, **__: Sorted())
    found = srenet.pictures("ebhi", "test", 12, Settings(side=16))
    assert {int(mask[0, 0]) for mask in found.masks} == {0, 1, 2}
    again = srenet.pictures("ebhi", "test", 12, Settings(side=16))
    assert all(torch.equal(a, b) for a, b in zip(found.masks, again.masks, strict=True))
    seen = []
    one = Sorted.__getitem__
    monkeypatch.setattr(Sorted, "__getitem__", lambda self, i: seen.append(i) or one(self, i))
    srenet.pictures("ebhi", "test", 24, Settings(side=16))
    assert sorted(i // 2 for i in seen) == list(range(24))  # a patient each


def test_a_run_that_learned_little_is_named_where_it_is_steadier_than_most():
    def runs(*kappas):
        return [
            (model, [{"seed": 0, "metrics": {"accuracy": accuracy, "ebhi.within.kappa": kappa}}])
            for model, accuracy, kappa in zip("abc", (0.5, 0.2, 0.7), kappas, strict=True)
        ]

    (text,) = srenet._least_learned(runs(0.3, 0.8, 0.6), "ebhi")
    assert "(b, seed 0, 20 %) has a kappa of 0.80" in text
    assert text.endswith("half of the runs have 0.60 or less.")
    assert srenet._least_learned(runs(0.8, 0.3, 0.9), "ebhi") == []


@pytest.mark.slow
def test_a_run_saves_what_its_report_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    out = srenet.run("slides", "small", 0, tmp_path / "runs", progress=False, settings=TINY,
                     arms=("SRE-ResNet18", "ResNet18"))  # fmt: skip
    assert set(out) == {"SRE-ResNet18", "ResNet18"}
    assert out["SRE-ResNet18"]["cores.quarter_icc"] == pytest.approx(1.0, abs=1e-3)
    assert out["ResNet18"]["cores.quarter_icc"] < 0.999
    assert len(list((tmp_path / "srenet").glob("*.json"))) == 2
    assert (tmp_path / "runs" / "slides-small-0" / "ResNet18" / "best.safetensors").is_file()
    runs = results.load("srenet", folder=tmp_path)
    shown = srenet.report(runs)
    tables = [part for part in shown if isinstance(part, results.Table)]
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    kappa = out["SRE-ResNet18"]["cores.within.kappa"]
    assert [row[0] for row in tables[0].rows] == ["SRE-ResNet18", "ResNet18", "SRENet, the paper"]
    assert tables[0].rows[0][4] == f"{kappa:.3f}"
    assert f"SRE-ResNet18 within slides' prostate cores {kappa:.2f}" in shown[-1].alt
    words = " ".join(part for part in shown if isinstance(part, str))
    stood = {name for metrics in out.values() for name in metrics["cores.labels.cluster_class"]}
    assert ("than of any other class" in words) == (len(stood) == 1)
    for run in runs:
        named = run["metrics"]["cores.labels.cluster_class"]
        run["metrics"]["cores.labels.cluster_class"] = ["stroma"] * len(named)
    assert any("more of *stroma* than" in part for part in srenet.report(runs) if isinstance(part, str))


def test_pre_training_sets_stand_side_by_side():
    def one(data, model, seed, kappa):
        metrics = {"accuracy": 0.5}
        for target in srenet.TARGETS[data]:
            metrics |= {
                f"{target}.within.kappa": kappa,
                f"{target}.between.kappa": 0.1,
                f"{target}.labels.ari": 0.2,
            }
        return {"data": data, "size": "small", "seed": seed, "config": {"model": model}, "metrics": metrics}

    runs = [one("pcam", "ResNet18", 0, 0.4), one("pcam", "ResNet18", 1, 0.6), one("ebhi", "SRE-ResNet18", 0, 0.9),
            one("ebhi", "ResNet18", 0, 0.3), one("slides", "ResNet18", 0, 0.8)]  # fmt: skip
    colon, breast, limits = srenet._sources(runs)
    assert "another magnification" in limits
    assert [row[:2] for row in colon.rows] == [
        ["SRE-ResNet18", "ebhi"],
        ["ResNet18", "pcam"],
        ["ResNet18", "ebhi"],
    ]
    assert colon.rows[1][3:] == ["0.500 ± 0.141", "0.100 ± 0.000", "0.200 ± 0.000", "2"]
    assert breast.caption.startswith("TNBC by what")
    assert breast.caption.endswith("A blind guess in pre-training is right in 1/2 on pcam and 1/6 on ebhi.")
    assert srenet._sources(runs[:2] + runs[4:]) == []


def test_chance_is_that_of_the_sets():
    assert srenet.CLASSES["ebhi"] == len(ebhi.STAGES)
    assert srenet.CLASSES["nct_crc"] == srenet.CLASSES["slides"] == len(nct_crc.CLASSES)
    assert srenet.CLASSES["pcam"] == 2
    assert srenet.CLASSES.keys() == srenet.TARGETS.keys()


def test_missing_pictures_are_said_before_anything_is_trained(tmp_path, monkeypatch):
    sets = {"train": (torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))}
    monkeypatch.setattr(srenet, "pretraining", lambda *_: (2, sets))
    monkeypatch.setattr("equipath.experiments.runs.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match="gleason2019"):
        srenet.run("nct_crc", root=tmp_path, results=tmp_path)
