"""Training: it learns, keeps the best weights, survives SIGKILL, a full disk and bad numbers, and shares a batch
between processes.
"""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from equipath import train as room
from equipath.train import Pairs, Training, TrainingError, curves, fit, load_weights, predict

SCRIPT = Path(__file__).with_name("train_script.py")


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Drawing takes longer than these trainings: only the tests of curves draw them."""
    if "curves" not in request.node.name:
        blank = SimpleNamespace(savefig=lambda store, **options: store.write(b"a figure"))
        monkeypatch.setattr(room, "curves", lambda history: blank)


def net(seed=0, dropout=0.2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(),
                             nn.Linear(16, 2))  # fmt: skip


def data(count=48, seed=0):
    """Images (count, 1, 4, 4); class 1 where the left half is brighter."""
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return images, (images[..., :2].mean((1, 2, 3)) > images[..., 2:].mean((1, 2, 3))).long()


def flipped(images, targets, generator):
    return (images.flip(2) if torch.rand((), generator=generator) < 0.5 else images), targets


def run(model, epochs=4, **options):
    settings = dict(loss=nn.functional.cross_entropy, batch_size=16, lr=1e-2, progress=False, augment=flipped)
    return fit(model, data(), data(24, seed=1), epochs=epochs, **(settings | options))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


# ---- it learns


@pytest.mark.parametrize(
    "settings",
    [dict(lr=0.02), dict(optimizer="sgd", lr=0.2, schedule="cosine"), dict(lr=0.05, schedule="onecycle")],
)
def test_it_learns_what_a_validation_set_confirms(settings):
    model = net()
    train, test = data(256), data(128, seed=2)
    said = fit(model, train, data(64, seed=1), loss=nn.functional.cross_entropy, epochs=25, batch_size=32,
               progress=False, **settings)  # fmt: skip
    assert (predict(model, test[0]).argmax(1) == test[1]).float().mean() > 0.85
    assert len(said.history) == 25
    assert said.seconds > 0
    assert not model.training


def test_the_model_holds_the_weights_of_the_best_epoch_by_the_score_given():
    seen = []

    def score(model, validation):
        assert not model.training
        assert torch.equal(validation[0], data(24, seed=1)[0])
        seen.append({name: t.clone() for name, t in model.state_dict().items()})
        return [0.1, 0.7, 0.7, 0.3][len(seen) - 1]

    model = net()
    said = run(model, score=score)
    assert (said.best_epoch, said.best_score) == (2, 0.7)
    assert same(model.state_dict(), seen[1])
    assert not same(model.state_dict(), seen[2])


def test_without_a_score_the_lowest_validation_loss_is_best_and_is_the_mean_over_items():
    model = net()
    said = run(model, batch_size=10)  # 24 validation items: batches of 10, 10 and 4
    losses = [row["validation_loss"] for row in said.history]
    assert said.best_score == -min(losses)
    images, targets = data(24, seed=1)
    assert nn.functional.cross_entropy(model(images), targets).item() == pytest.approx(min(losses), rel=1e-5)


def test_each_pass_shows_each_item_once_and_batches_go_on_into_the_next_pass():
    order = room._order(10, 4, 5, seed=3)
    assert [len(chosen) for chosen in order] == [4] * 5
    shown = torch.cat(order)
    assert sorted(shown[:10].tolist()) == sorted(shown[10:].tolist()) == list(range(10))
    assert shown[:10].tolist() != shown[10:].tolist()
    assert torch.cat(room._order(10, 4, 5, seed=4)).tolist() != shown.tolist()


@pytest.mark.parametrize(("wanted", "batches"), [(None, 3), (7, 7)])
def test_an_epoch_has_the_batches_asked_for(wanted, batches):
    steps = []
    run(net(), epochs=2, batches_per_epoch=wanted, augment=lambda x, y, g: (steps.append(len(x)), (x, y))[1])
    assert steps == [16] * batches * 2


def test_one_step_of_sgd_is_the_formula():
    model, (images, targets) = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), data(8)
    before = model[1].weight.detach().clone()
    nn.functional.cross_entropy(model(images), targets).backward()
    expected = before - 0.5 * (model[1].weight.grad + 0.1 * before)
    # the gradient stays where it is: what a caller left behind must not count
    fit(model, (images, targets), (images, targets), loss=nn.functional.cross_entropy, epochs=1, batch_size=64,
        optimizer="sgd", lr=0.5, weight_decay=0.1, progress=False)  # fmt: skip
    assert torch.allclose(model[1].weight, expected, atol=1e-6)


def test_the_rate_halves_once_so_many_epochs_were_no_better():
    model, worse = net(), iter(range(1, 100))

    def loss(output, target):  # a validation loss that only ever grows: the first epoch stays best
        return output.sum() * 0 + (1.0 if model.training else next(worse))

    rates = [row["lr"] for row in run(model, 9, loss=loss, schedule="plateau", patience=3, lr=0.8).history]
    assert rates == [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]


def test_cosine_and_one_cycle_follow_their_formulas():
    rates = [row["lr"] for row in run(net(), 4, schedule="cosine", lr=0.1).history]
    last = (2, 5, 8, 11)  # the last of the three batches of each epoch, of twelve
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 12)) for k in last], abs=1e-12)
    rates = [row["lr"] for row in run(net(), 10, schedule="onecycle", lr=0.1).history]
    assert max(rates) == rates[2] > 0.09  # the top lies at 30 %
    assert rates[-1] < 1e-6


# ---- data in every form


class Drawn(Dataset):
    """Pairs that draw from numpy's and torch's global random numbers, as many data sets do."""

    def __init__(self, noise=0.0):
        self.images, self.targets, self.noise = *data(), noise

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = self.noise * (np.random.rand() + torch.rand(()))  # noqa: NPY002
        return self.images[index] + noise, int(self.targets[index])


def test_a_data_set_of_pairs_gives_what_whole_tensors_give():
    one, two = (
        net(dropout=0.0),
        net(dropout=0.0),
    )  # the data set draws from the numbers that dropout draws from
    first = run(one)
    second = fit(two, Drawn(), Drawn(), loss=nn.functional.cross_entropy, epochs=4, batch_size=16, lr=1e-2,
                 progress=False, augment=flipped)  # fmt: skip
    assert [r["train_loss"] for r in first.history] == [r["train_loss"] for r in second.history]
    assert torch.equal(predict(one, Drawn(), batch_size=7), predict(one, data()[0], batch_size=7))


@pytest.mark.slow
def test_readers_in_other_processes_give_the_same_run_each_time():
    models = [net(), net()]
    said = [
        fit(
            model,
            Drawn(0.1),
            Drawn(),
            loss=nn.functional.cross_entropy,
            epochs=2,
            batch_size=16,
            workers=2,
            progress=False,
        )
        for model in models
    ]
    assert without_seconds(said[0].history) == without_seconds(said[1].history)
    assert same(models[0].state_dict(), models[1].state_dict())


def test_bytes_become_floats_a_batch_at_a_time():
    images, targets = data()
    small = (images * 255).to(torch.uint8)
    seen = []
    fit(net(), (small, targets), (small, targets), loss=nn.functional.cross_entropy, epochs=1, progress=False,
        augment=lambda x, y, g: (seen.append(x), (x, y))[1])  # fmt: skip
    assert seen[0].dtype == torch.float32
    assert sorted(seen[0].unique().tolist()) == sorted((small.unique() / 255).tolist())


def test_arrays_give_what_tensors_give():
    (images, targets), validation, model, other = data(), data(24, seed=1), net(), net()
    options = dict(loss=nn.functional.cross_entropy, epochs=2, batch_size=16, progress=False)
    fit(model, (images.numpy(), targets.numpy()), (validation[0].numpy(), validation[1].numpy()), **options)
    fit(other, (images, targets), validation, **options)
    assert same(model.state_dict(), other.state_dict())
    expected = predict(other, images)
    assert torch.equal(predict(model, images.numpy()), expected)
    assert torch.equal(predict(model, (images.numpy(), targets.numpy())), expected)


@pytest.mark.parametrize(("weights", "pictures"), [("float", "double"), ("double", "float")])
def test_pictures_come_in_the_precision_of_the_weights(weights, pictures):
    """NumPy draws doubles where nobody asks; training takes them as validation does."""
    model = getattr(net(), weights)()
    images = [getattr(part, pictures)() for part in (data()[0], data(24, seed=1)[0])]
    train, validation = zip(images, (data()[1], data(24, seed=1)[1]), strict=True)
    fit(model, train, validation, loss=nn.functional.cross_entropy, epochs=1, progress=False)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, weights)}


def test_items_of_the_data_room_become_pairs():
    items = [{"image": torch.rand(3, 9, 8), "mask": torch.arange(72).view(9, 8), "name": "a"}]
    image, mask = Pairs(items, size=4)[0]
    assert torch.equal(image, items[0]["image"][:, 2:6, 2:6])
    assert torch.equal(mask, items[0]["mask"][2:6, 2:6])
    assert Pairs([{"image": torch.rand(3, 9, 8), "label": 3}])[0][1] == 3
    with pytest.raises(ValueError, match="9 x 8 pixels has no central 10 x 10"):
        Pairs(items, size=10)[0]
    with pytest.raises(ValueError, match="neither mask nor label"):
        Pairs([{"image": 1, "name": "a"}])


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_learn_and_are_measured_in_that_of_the_weights(precision):
    model = net()
    said = run(model, 12, precision=precision, lr=0.03)
    assert said.history[-1]["train_loss"] < said.history[0]["train_loss"]
    assert next(model.parameters()).dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert predict(model, data()[0]).dtype == next(model.parameters()).dtype


def test_prediction_leaves_the_mode_as_it_was():
    model = net().train()
    assert predict(model, data()[0]).shape == (48, 2)
    assert model.training


def test_the_callers_random_numbers_stay_untouched():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    run(net(), 1)
    assert torch.equal(torch.rand(3), before[0])
    assert np.array_equal(np.random.rand(3), before[1])  # noqa: NPY002


def test_a_seed_repeats_a_run_and_another_changes_it():
    one, two, three = net(), net(), net()
    a, b, c = run(one), run(two), run(three, seed=1)
    assert without_seconds(a.history) == without_seconds(b.history)
    assert same(one.state_dict(), two.state_dict())
    assert a.history[0]["train_loss"] != c.history[0]["train_loss"]


# ---- what is kept


def test_a_folder_holds_weights_config_log_and_curves(tmp_path):
    model = net()
    said = run(model, folder=tmp_path / "a", config={"model": "tiny", "width": (4, 2)})
    assert {path.name for path in (tmp_path / "a").iterdir()} - {"lock"} == {
        *("last.pt", "best.safetensors", "config.json", "log.csv", "curves.png"),
    }
    assert same(load_file(tmp_path / "a" / "best.safetensors"), model.state_dict())
    about = json.loads((tmp_path / "a" / "config.json").read_text())
    assert about["best_epoch"] == said.best_epoch
    assert about["settings"]["config"] == {"model": "tiny", "width": [4, 2]}
    assert about["settings"]["lr"] == 1e-2
    with (tmp_path / "a" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == [row["train_loss"] for row in said.history]
    assert (tmp_path / "a" / "curves.png").read_bytes()[1:4] == b"PNG"
    other = net(seed=9)
    assert load_weights(other, tmp_path / "a")["best_score"] == said.best_score
    assert same(other.state_dict(), model.state_dict())


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path):
    run(net(), 1, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"best.safetensors does not fit Linear: .*config.json"):
        load_weights(nn.Linear(3, 3), tmp_path)
    with pytest.raises(TrainingError, match="is missing; train first"):
        load_weights(nn.Linear(3, 3), tmp_path / "nowhere.safetensors")


def test_curves_show_every_epoch_and_the_best():
    history = [
        dict(epoch=e, train_loss=1 / e, validation_loss=2 / e, score=[0.2, 0.9, 0.5][e - 1], lr=0.1)
        for e in (1, 2, 3)
    ]
    left, right, rate = curves(history).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    assert right.lines[1].get_xydata().tolist() == [[2, 0.9]]
    assert list(rate.lines[0].get_ydata()) == [0.1] * 3


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("adam", None), ("sgd", "plateau"), ("adam", "onecycle"), ("sgd", "cosine")],
)
def test_a_continued_run_is_the_run_that_never_stopped(tmp_path, optimizer, schedule):
    settings = dict(schedule=schedule, patience=1, optimizer=optimizer)
    whole, halves = net(), net()
    expected = run(whole, 5, folder=tmp_path / "whole", **settings)

    class Stop(Exception):
        pass

    def stop(images, targets, generator):
        stop.steps += 1
        if stop.steps == 8:  # in the middle of the third epoch
            raise Stop
        return flipped(images, targets, generator)

    stop.steps, stop.__qualname__ = 0, flipped.__qualname__
    with pytest.raises(Stop):
        run(halves, 5, folder=tmp_path / "halves", augment=stop, **settings)
    again = net(seed=7)  # other weights: everything comes from the folder
    said = run(again, 5, folder=tmp_path / "halves", **settings)
    assert without_seconds(said.history) == without_seconds(expected.history)
    assert same(again.state_dict(), whole.state_dict())
    ends = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "halves")]
    assert same(ends[0]["model"], ends[1]["model"])
    assert str(ends[0]["optimizer"]) == str(ends[1]["optimizer"])
    assert ends[0]["schedule"] == ends[1]["schedule"]


def test_a_finished_run_is_not_trained_again_and_can_be_made_longer(tmp_path):
    one, two, whole = net(), net(), net()
    run(one, 2, folder=tmp_path)

    def never(images, targets, generator):
        raise AssertionError("trained again")

    never.__qualname__ = flipped.__qualname__
    said = run(two, 2, folder=tmp_path, augment=never)
    assert len(said.history) == 2
    assert same(one.state_dict(), two.state_dict())
    longer = run(two, 4, folder=tmp_path)
    assert without_seconds(longer.history) == without_seconds(run(whole, 4).history)


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """(folder, what it said) of the script with all runs in processes of their own: importing everything takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=280, env=one_thread())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder, done.stdout


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on_to_the_same_numbers(in_processes):
    """SIGKILL between batches, while each kind of file is half written, and just after the checkpoint."""
    folder, printed = in_processes
    said = json.loads(printed.splitlines()[-1])
    assert said["killed"] == said["places"] >= 6
    whole, killed = folder / "whole", folder / "killed"
    assert (whole / "best.safetensors").read_bytes() == (killed / "best.safetensors").read_bytes()
    ends = [torch.load(folder / "last.pt", weights_only=True) for folder in (whole, killed)]
    assert same(ends[0]["model"], ends[1]["model"])
    assert str(ends[0]["optimizer"]) == str(ends[1]["optimizer"])
    logs = []
    for folder in (whole, killed):
        with (folder / "log.csv").open() as file:
            logs.append(without_seconds(csv.DictReader(file)))
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_two_processes_give_what_one_gives_with_the_same_batch(in_processes):
    folder, _ = in_processes
    assert (folder / "one" / "by 1").exists()
    assert (folder / "two" / "by 2").exists()
    one, two = (load_file(folder / name / "best.safetensors") for name in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=0, atol=1e-12), name
    logs = [(folder / name / "log.csv").read_text().splitlines() for name in ("one", "two")]
    for a, b in zip(*(list(csv.DictReader(log)) for log in logs), strict=True):
        for column in ("train_loss", "validation_loss", "score"):
            assert float(a[column]) == pytest.approx(float(b[column]), abs=1e-6)


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# ---- what goes wrong is said in a sentence, and nothing good is lost


def test_a_loss_that_is_no_number_stops_and_keeps_the_best_weights(tmp_path):
    model, kept = net(), {}

    def loss(output, target):
        return nn.functional.cross_entropy(output, target) * (math.nan if kept.get("epochs", 0) >= 2 else 1)

    def score(model, validation):
        kept["epochs"] = kept.get("epochs", 0) + 1
        kept[kept["epochs"]] = {name: t.clone() for name, t in model.state_dict().items()}
        return -kept["epochs"]

    with pytest.raises(
        TrainingError, match=r"became nan in epoch 3.*weights of epoch 1, the best of 2, are kept"
    ):
        run(model, 5, loss=loss, score=score, folder=tmp_path)
    assert same(model.state_dict(), kept[1])
    assert same(load_file(tmp_path / "best.safetensors"), kept[1])
    assert len(torch.load(tmp_path / "last.pt", weights_only=True)["history"]) == 2


def test_a_first_epoch_without_numbers_says_that_nothing_was_lost():
    with pytest.raises(TrainingError, match=r"became nan in epoch 1.*no epoch had ended"):
        run(net(), loss=lambda o, t: o.sum() * math.nan)
    with pytest.raises(TrainingError, match="score nan; try a smaller lr"):
        run(net(), score=lambda model, validation: math.nan)
    with pytest.raises(ValueError, match="score gave None; it must return one number"):
        run(net(), score=lambda model, validation: None)


@pytest.mark.parametrize("what", ["nan", "stop"])
def test_a_first_epoch_that_does_not_end_leaves_the_weights_as_they_were(tmp_path, what):
    """So that the same call gives the bits of a run that nobody stopped, and pretrained weights are not lost."""
    model, calls = net(), []

    def loss(output, target):
        calls.append(1)
        if what == "stop" and len(calls) == 3:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target) * (math.nan if what == "nan" else 1)

    with pytest.raises((TrainingError, KeyboardInterrupt)):
        run(model, loss=loss, folder=tmp_path)
    assert len(calls) == 3
    assert same(model.state_dict(), net().state_dict())
    assert not model.training


def test_a_checkpoint_that_does_not_fit_leaves_the_weights_as_they_were(tmp_path):
    frozen, model = net(), net(seed=3)
    frozen[0].requires_grad_(False)
    run(frozen, 1, folder=tmp_path)
    with pytest.raises(TrainingError, match="holds another network"):
        run(model, 2, folder=tmp_path)
    assert same(model.state_dict(), net(seed=3).state_dict())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
@pytest.mark.parametrize("file", ["last.pt", "best.safetensors", "log.csv", "curves.png"])
def test_a_full_disk_stops_and_the_run_continues_once_there_is_room(tmp_path, file):
    whole = net()
    expected = run(whole, 4)
    model = net()

    def fill(model, validation):
        fill.epochs += 1
        if fill.epochs == (4 if file == "curves.png" else 3):
            (tmp_path / f"{file}.part").symlink_to("/dev/full")
        return float(fill.epochs)

    fill.epochs, fill.__qualname__ = 0, "growing"
    with pytest.raises(
        TrainingError, match=rf"{file} could not be written \(No space left on device\); make room"
    ):
        run(model, 4, folder=tmp_path, score=fill)
    assert not list(tmp_path.glob("*.part"))
    before = torch.load(tmp_path / "last.pt", weights_only=True)
    assert same(before["best"], model.state_dict())

    def growing(model, validation):
        growing.epochs += 1
        return float(growing.epochs)

    growing.epochs, growing.__qualname__ = len(before["history"]), "growing"
    said = run(net(seed=3), 4, folder=tmp_path, score=growing)
    assert [r["train_loss"] for r in said.history] == [r["train_loss"] for r in expected.history]


def test_an_empty_set_is_named():
    nothing = data()[0][:0], data()[1][:0]
    with pytest.raises(TrainingError, match="training set is empty; check its split"):
        fit(net(), nothing, data(), loss=nn.functional.cross_entropy, epochs=1)
    with pytest.raises(TrainingError, match="validation set is empty"):
        fit(net(), data(), nothing, loss=nn.functional.cross_entropy, epochs=1)
    with pytest.raises(ValueError, match="48 images and 47 targets"):
        fit(net(), (data()[0], data()[1][1:]), data(), loss=nn.functional.cross_entropy, epochs=1)


def test_a_missing_class_is_named_with_its_set():
    images, targets = data()
    with pytest.raises(TrainingError, match="No training target holds class 2, 3 of the 4 classes"):
        run(net(), classes=4)
    chosen = targets == 1
    with pytest.raises(TrainingError, match="No validation target holds class 0 of the 2 classes"):
        fit(
            net(),
            Drawn(),
            (images[chosen], targets[chosen]),
            loss=nn.functional.cross_entropy,
            epochs=1,
            classes=2,
        )
    run(net(), 1, classes=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(lr=0.5), "lr was 0.01, is 0.5"),
        (dict(seed=3), "seed was 0, is 3"),
        (dict(augment=None), "augment was 'flipped', is None"),
        (dict(config={"width": 8}), r"config.width was None, is 8\. Give"),
        (dict(schedule="cosine"), "schedule was None, is 'cosine'"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path, change, said):
    run(net(), 1, folder=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match=rf"holds a run with other settings: .*{said}"):
        run(net(), 2, folder=tmp_path, **change)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_folder_in_which_a_run_goes_on_is_refused_until_it_ends(tmp_path):
    refused = []

    def second(images, targets, generator):
        with pytest.raises(TrainingError, match="Another process trains in"):
            run(net(), 1, folder=tmp_path)
        refused.append(True)
        return images, targets

    run(net(), 1, folder=tmp_path, augment=second)
    assert refused
    run(net(), 2, folder=tmp_path / "other")
    with pytest.raises(TrainingError, match="other settings"):
        run(net(), 2, folder=tmp_path)
    run(net(), 2, folder=tmp_path, augment=second)  # the refusals left it free


def test_a_folder_of_another_network_or_a_spoilt_checkpoint_is_refused(tmp_path):
    run(net(), 1, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"weights was 'Sequential 9 tensors.*, is 'Sequential 2 tensors"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 1, folder=tmp_path)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:500])
    with pytest.raises(TrainingError, match=r"last.pt is damaged .*delete it to start anew"):
        run(net(), 1, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="file cannot be made"):
        run(net(), 1, folder=tmp_path / "file")


def test_one_bit_that_turned_in_a_checkpoint_is_noticed(tmp_path):
    run(net(), 1, folder=tmp_path)
    path = tmp_path / "last.pt"
    kept = torch.load(path, weights_only=True)["best"]["5.weight"]
    spoilt = bytearray(path.read_bytes())
    spoilt[path.read_bytes().index(kept.numpy().tobytes()) + 3] ^= 64
    path.write_bytes(spoilt)
    # torch does not look
    assert not torch.equal(torch.load(path, weights_only=True)["best"]["5.weight"], kept)
    model = net()
    with pytest.raises(TrainingError, match=r"last.pt is damaged"):
        run(model, 2, folder=tmp_path)
    assert same(model.state_dict(), net().state_dict())


def test_a_checkpoint_of_another_version_or_of_other_tensors_is_refused(tmp_path):
    run(net(), 1, folder=tmp_path)
    path = tmp_path / "last.pt"
    kept = torch.load(path, weights_only=True)
    torch.save(kept | {"version": 2}, path)
    with pytest.raises(TrainingError, match=r"another version of EquiPath \(checkpoint 2, here 1\)"):
        run(net(), 2, folder=tmp_path)
    torch.save({name: value for name, value in kept.items() if name != "best"}, path)
    with pytest.raises(TrainingError, match=r"last.pt is damaged or no checkpoint"):
        run(net(), 2, folder=tmp_path)
    torch.save(kept, path)
    other = nn.Sequential(nn.Flatten(), *net()[:0])  # as many tensors and numbers, under other names
    other.extend([nn.Unflatten(1, (1, 4, 4)), *net()[:-1], nn.Linear(16, 2)])
    with pytest.raises(TrainingError, match=r"last.pt holds another network than this Sequential .*Missing key"):
        run(other, 2, folder=tmp_path)
    older = {name: value for name, value in kept.items() if name != "version"}
    older["settings"] = {k: v for k, v in kept["settings"].items() if k not in ("training data", "validation data",
                                                                               "processes")}  # fmt: skip
    torch.save(older, path)
    assert len(run(net(), 2, folder=tmp_path).history) == 2


def test_other_labels_items_or_numbers_of_processes_are_other_settings(tmp_path):
    run(net(), 1, folder=tmp_path)
    images, labels = data()
    with pytest.raises(TrainingError, match=r"training data was '[0-9a-f]{8}', is '[0-9a-f]{8}'"):
        fit(net(), (images, 1 - labels), data(24, seed=1), loss=nn.functional.cross_entropy, epochs=2, batch_size=16,
            lr=1e-2, augment=flipped, progress=False, folder=tmp_path)  # fmt: skip
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save(kept | {"settings": kept["settings"] | {"processes": 2}}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="processes was 2, is 1"):
        run(net(), 2, folder=tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([(torch.zeros(1, 4, 4 + i % 2), 0) for i in range(4)], r"1 x 4 x 4 and 1 x 4 x 5 cannot be one batch"),
        ([(np.zeros((1, 4, 4 + i % 2)), 0) for i in range(4)], r"1 x 4 x 4 and 1 x 4 x 5 cannot be one batch"),
        ([(torch.zeros(1, 4, 4), torch.zeros(i)) for i in range(4)], r"cannot be one batch \(.* of one size"),
        ([(SimpleNamespace(), 0)] * 4, r"cannot be one batch \(.*SimpleNamespace.*are tensors, arrays or numbers"),
        ([{"image": torch.zeros(1, 4, 4), "label": 0}] * 4, r"is a dict, no pair \(image, target\); Pairs\(items\)"),
    ],
)
def test_items_that_make_no_batch_are_named(items, said, workers):
    with pytest.raises(ValueError, match=said):
        fit(net(), items, data(), loss=nn.functional.cross_entropy, epochs=1, workers=workers)


def test_items_that_are_no_pairs_are_named_where_classes_are_counted_too():
    with pytest.raises(ValueError, match="is a dict, no pair"):
        fit(net(), [{"image": 0, "label": 0}], data(), loss=nn.functional.cross_entropy, epochs=1, classes=2)


@pytest.mark.parametrize("what", [None, torch.utils.data.DataLoader([1, 2]), iter([1])])
def test_data_without_items_by_number_is_named(what):
    with pytest.raises(ValueError, match=r"got a \w+ as data; give a data set of \(image, target\) pairs"):
        fit(net(), what, data(), loss=nn.functional.cross_entropy, epochs=1)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda output, target: nn.functional.cross_entropy(output, target + 1), "Target 2 is out of bounds"),
        (lambda output, target: output.sum(1), "grad can be implicitly created only for scalar"),
        (lambda output, target: output.detach().sum(), "does not require grad"),
        (lambda output, target: 1.0, "'float' object has no attribute"),
    ],
)
def test_a_loss_that_fails_is_told_with_its_batch(loss, said):
    batch = r"epoch 1, batch 1, on images \(16, 1, 4, 4\) float32 from 0\S* to [01]\S* and targets \(16,\) int64 from 0 to 1"
    with pytest.raises(TrainingError, match=f"{batch}: .*{said}"):
        run(net(), 1, loss=loss)


def test_a_network_that_does_not_learn_is_named():
    with pytest.raises(ValueError, match="Sequential has no parameter that learns"):
        run(net().requires_grad_(False), 1)


def test_spoilt_weights_or_a_spoilt_config_are_named_and_made_again(tmp_path):
    run(net(), 1, folder=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TrainingError, match=r"config.json is damaged .*start the same training again"):
        load_weights(net(), tmp_path)
    with pytest.raises(TrainingError, match=r"config.json is damaged .*start the same training again"):
        room.load_model(tmp_path)
    whole = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"best.safetensors is damaged .*start the same training again"):
        load_weights(net(), tmp_path)
    run(net(), 1, folder=tmp_path)
    assert (tmp_path / "best.safetensors").read_bytes() == whole
    assert load_weights(net(), tmp_path)["best_epoch"] == 1
    with pytest.raises(TrainingError, match=r"is no folder of .*no 'model' in config.json"):
        room.load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(optimizer="lion"), "known are 'adam', 'sgd'"),
        (dict(schedule="step"), "known are None, 'plateau', 'onecycle', 'cosine'"),
        (dict(epochs=0), "epochs=0; it must be a whole number of at least 1"),
        (dict(batches_per_epoch=-1), "batches_per_epoch=-1"),
        (dict(batches_per_epoch=0), "batches_per_epoch=0; it must be a whole number of at least 1"),
        (dict(batch_size=2.5), "batch_size=2.5; it must be a whole number"),
        (dict(lr=0.0), "lr=0.0; it must be greater than 0"),
        (dict(lr=math.nan), "lr=nan; it must be greater than 0"),
        (dict(seed=-1), "seed=-1; it must not be negative"),
        (dict(seed=1.5), "seed=1.5; it must be a whole number"),
        (dict(lr="1e-3"), "lr='1e-3'; it must be a number"),  # YAML reads 1e-3 as a word
        (dict(batch_size="8"), "batch_size='8'; it must be a whole number"),
        (dict(weight_decay=None), "weight_decay=None; it must be a number"),
    ],
)
def test_arguments_out_of_range_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        run(net(), **change)


def test_numbers_of_numpy_and_a_device_of_torch_are_as_good(tmp_path):
    options = dict(batch_size=np.int64(16), lr=np.float64(0.01), seed=np.int64(0), device=torch.device("cpu"))
    run(net(), np.int64(1), folder=tmp_path, **options)
    assert len(run(net(), 2, folder=tmp_path).history) == 2


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(TrainingError, match="device='tpu' with precision='32-true' is not to be had here"):
        run(net(), device="tpu")


def test_an_interrupted_run_leaves_the_best_weights_in_the_model():
    model = net()

    def score(model, validation):
        score.calls += 1
        if score.calls == 3:
            raise KeyboardInterrupt
        score.states.append({name: t.clone() for name, t in model.state_dict().items()})
        return -score.calls

    score.calls, score.states = 0, []
    with pytest.raises(KeyboardInterrupt):
        run(model, 5, score=score)
    assert same(model.state_dict(), score.states[0])
    assert not model.training


# ---- progress


def test_progress_is_lines_on_stdout_where_there_is_no_terminal(capfd):
    run(net(), 30, progress=True)
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[-1].startswith("epoch 30/30  loss 0.")
    assert "best score -0." in lines[-1]
    run(net(), 2, progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    run(net(), 3, progress=True)
    out, err = capfd.readouterr()
    assert err == ""
    assert "epoch 3/3  loss 0." in out
    assert "━" in out


@pytest.mark.slow
def test_progress_in_a_notebook_is_one_line_that_changes(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import train_script
train_script.run(None, progress=True)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code + "None")])
    client.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert output.data["text/plain"].startswith("epoch 8/8  loss 0.")


def test_training_says_nothing_before_it_began():
    assert Training().best_score == -math.inf
