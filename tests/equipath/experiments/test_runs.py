"""What the experiments share: words at the door, where checkpoints lie, what is kept of a run."""

from importlib import import_module

import pytest
import torch
from torch import nn

from equipath.data import DataError
from equipath.experiments import NAMES, pcam, results, steerable
from equipath.experiments import runs as runs_room
from equipath.experiments.runs import Runs

CONFIG = {"model": "SEUNet, fixed σ", "epochs": 1, "batch": 2, "batches": 1, "lr": 0.1}


def train(folder, config=CONFIG, source=None, **changes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 2, 1))
    pairs = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 1)
    runs = Runs("pcam", "breakhis", "small", 3, folder / "ck", progress=False, results=folder)
    options = dict(loss=nn.functional.mse_loss, source=source) | changes
    return runs.one(
        net, pairs, pairs, config, lambda net: {"bias": net[1].bias.item(), "mode": net.training}, **options
    )


@pytest.mark.parametrize("name", NAMES)
def test_wrong_words_are_refused(name):
    experiment = import_module(f"equipath.experiments.{name}")
    for options, words in (
        ({"data": "mars"}, f"^{name} runs on slides, .*got data='mars'"),
        ({"size": "huge"}, "got size='huge'; known are small, paper"),
        ({"arms": ["VGG"]}, "got the arms VGG; known are "),
    ):
        with pytest.raises(ValueError, match=words):
            experiment.run(**options)


def test_a_repeated_run_took_as_long_as_its_training(tmp_path, monkeypatch):
    train(tmp_path)
    real = runs_room.fit

    def an_hour_ago(*arguments, **options):
        done = real(*arguments, **options)
        done.seconds = 3600.0  # of epochs that lie in the checkpoint
        return done

    monkeypatch.setattr(runs_room, "fit", an_hour_ago)
    train(tmp_path)
    (run,) = results.load("pcam", folder=tmp_path)
    assert 3600 <= run["seconds"] < 3660


def test_a_run_is_kept_with_all_that_tells_it_from_others(tmp_path):
    metrics = train(tmp_path)
    assert (tmp_path / "ck" / "breakhis-small-3" / "SEUNet_fixed_σ" / "best.safetensors").is_file()
    (run,) = results.load("pcam", folder=tmp_path)
    assert run["config"] == CONFIG | {"parameters": 13}
    assert (run["data"], run["size"], run["seed"]) == ("breakhis", "small", 3)
    assert run["metrics"] == pytest.approx(metrics)
    assert run["metrics"]["processor_seconds"] > 0
    assert run["metrics"]["best_epoch"] == 1
    again = train(tmp_path)  # nothing is trained a second time, so nothing is said of its cost
    assert again["bias"] == metrics["bias"]
    assert again["training_seconds"] == metrics["training_seconds"]


def test_parts_of_a_set_and_its_source_have_folders_of_their_own(tmp_path):
    train(tmp_path, CONFIG | {"fraction": 0.25}, source="pcam")
    train(tmp_path, CONFIG | {"fraction": 1.0}, source="pcam")
    kept = {
        path.parent.relative_to(tmp_path / "ck").as_posix() for path in tmp_path.rglob("best.safetensors")
    }
    assert kept == {f"pcam-small-3/SEUNet_fixed_σ-{part}" for part in ("0.25", "1")}


def test_another_rate_has_checkpoints_of_its_own_and_is_a_positive_number(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    pairs = torch.rand(4, 3, 2, 2), torch.zeros(4, 1)
    runs = Runs("pcam", "pcam", "small", 0, tmp_path / "ck", False, tmp_path, 0.25)
    runs.one(net, pairs, pairs, CONFIG, lambda net: {"bias": 1.0}, loss=nn.functional.mse_loss)
    assert (tmp_path / "ck" / "pcam-small-0" / "SEUNet_fixed_σ-rate0.25" / "best.safetensors").is_file()
    for name in ("pcam", "steerable"):
        for lr in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="a rate of learning is a positive number"):
                import_module(f"equipath.experiments.{name}").run(lr=lr)
    given = []
    monkeypatch.setattr(
        Runs, "one", lambda self, net, train, validation, config, *_, **__: given.append(config) or {}
    )
    monkeypatch.setattr(
        steerable, "pictures", lambda *_, **__: (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), "ab")
    )
    arms = ("U-Net", "steerable U-Net")
    steerable.run("ebhi", lr=0.3, arms=arms)
    steerable.run("ebhi", arms=arms)
    small = steerable.SETTINGS["small"]["ebhi"]
    assert [config["lr"] for config in given] == [0.3, 0.3, small.lr, small.steerable_lr]


def test_parts_of_pcam_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="leave the fractions out on slides"):
        pcam.run("slides", fractions=[0.25])
    with pytest.raises(ValueError, match=r"are for P4M-DenseNet, DenseNet.*; got P4-DenseNet"):
        pcam.run("pcam", arms=["P4-DenseNet"], fractions=[0.25])


@pytest.mark.parametrize("size", results.SIZES)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("steerable", "ebhi"), ("steerable", "ocelot"), ("pcam", "pcam"), ("pcam", "breakhis"), ("gunet", "ebhi"),
        ("gunet", "camelyon16"), ("seunet", "bcss"), ("seunet", "tnbc"), ("seunet", "monuseg"), ("srenet", "pcam"),
        ("srenet", "ebhi"), ("srenet", "nct_crc"),
    ],
)  # fmt: skip
def test_a_missing_set_is_said_before_anything_is_trained(tmp_path, name, data, size):
    experiment = import_module(f"equipath.experiments.{name}")
    source = "pcam" if data == "breakhis" else data
    with pytest.raises(DataError, match=f"equipath data fetch {source}"):
        experiment.run(data, size, folder=tmp_path / "ck", root=tmp_path, results=tmp_path)
    assert list(tmp_path.iterdir()) == []
