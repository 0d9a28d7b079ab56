"""`equipath train`, `run` and `report`: what they make, and the one sentence that a mistake ends in."""

import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("typer")
from typer.testing import CliRunner

from equipath.cli import app
from equipath.groups import P4M
from equipath.models.named import NETWORKS, build
from equipath.train import TrainingError, in_memory, load_model, predict, roto_reflections


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)

    return run


@pytest.fixture
def small(monkeypatch):
    """Data sets by name, small ones: tissue with masks and labels."""
    chance = torch.Generator().manual_seed(0)

    class Small(list):
        classes = ("background", "gland")

    def load(name, task, split, fraction, seed, root):
        if name == "nothing":
            return Small()
        images = torch.rand(8, 3, 16, 16, generator=chance)
        masks = (images[:, 0] > 0.5).long()
        return Small(
            {"image": x, "mask": m, "label": k % 2} if name == "both" else {"image": x, "label": k % 2}
            for k, (x, m) in enumerate(zip(images, masks, strict=True))
        )

    monkeypatch.setattr("equipath.data.load", load)


@pytest.mark.parametrize(
    "network", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seunet", "resnet18"))]
)
def test_train_leaves_a_network_that_can_be_taken_up_again(call, small, tmp_path, network):
    words = ("train", network, "--data", "both", "--epochs", 1, "--width", 2, "--lr", 0.01, "--batch-size", 4)
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert f"{network}-both-0: best of 1 epochs is 1" in done.output
    model, about = load_model(tmp_path / "runs" / f"{network}-both-0")
    assert about["settings"]["config"]["classes"] == ["background", "gland"]
    images = torch.rand(2, 3, 16, 16)
    assert predict(model, images).shape[:2] == (2, 2)
    again = call(*words[:4], "--epochs", 2, *words[6:])
    assert "best of 2 epochs" in again.output
    assert "epoch 1/" not in again.output


@pytest.mark.slow
def test_what_train_left_segments_a_picture(call, small, tmp_path):
    """`segment` takes classes and weights from the folder: its mask is the trained network's answer."""
    from PIL import Image
    from tifffile import imread

    done = call(
        "train", "unet", "--data", "both", "--epochs", 12, "--width", 2, "--lr", 0.05, "--batch-size", 4
    )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "unet-both-0"
    pixels = torch.randint(256, (48, 80, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "tissue.png")
    done = call("segment", "tissue.png", "--model", folder, "--everywhere", "--slide-mpp", 1, "--mpp", 1)
    assert done.exit_code == 0, done.output
    assert "gland" in done.output
    model, _ = load_model(folder)
    with torch.no_grad():
        expected = model(pixels.permute(2, 0, 1)[None].float() / 255).argmax(1)[0]
    found = torch.from_numpy(imread(tmp_path / "segmented" / "tissue.mask.tif", key=0))
    assert len(expected.unique()) == 2
    assert (found == expected).float().mean() > 0.999
    (folder / "best.safetensors").unlink()
    bad = call("segment", "tissue.png", "--model", folder, "--everywhere")
    assert (bad.exit_code, "best.safetensors is missing" in bad.output) == (1, True)


def test_train_says_in_a_sentence_what_does_not_fit(call, small):
    for words, said in (
        (("lion",), "got the network 'lion'; known are unet, p4_unet"),
        (("unet", "--data", "labels"), "unet wants a mask for each picture; labels has none"),
        (("unet", "--data", "nothing"), "training set is empty"),
        (("unet", "--data", "both", "--crop", "99"), "16 x 16 pixels has no central 99 x 99"),
        (("unet", "--data", "both", "--crop", "0"), "got a crop of 0 pixels"),
        (("unet", "--data", "both", "--optimizer", "lion"), "known are 'adam', 'sgd'"),
    ):
        done = call("train", *words)
        assert done.exit_code == 1
        assert done.output.startswith("equipath: ")
        assert said in done.output
        assert len(done.output.splitlines()) == 1


def test_train_lists_the_networks(call):
    assert all(name in call("train", "list").output for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_is_a_network_that_takes_pictures(name):
    net = build(name, 3, width=2).eval()
    side = 96 if "densenet" in name else 32
    with torch.no_grad():
        out = net(torch.rand(1, 3, side, side))
    assert out.shape[:2] == (1, 3)
    assert out.shape[-2:] == (side, side) if NETWORKS[name].task == "segment" else out.shape == (1, 3)


def test_a_name_nobody_knows_and_a_folder_of_something_else(tmp_path):
    with pytest.raises(ValueError, match="got the network 'lion'; known are unet"):
        build("lion", 2)
    with pytest.raises(TrainingError, match="is no folder of `equipath train`"):
        load_model(tmp_path)


def test_run_hands_its_words_on_and_shows_the_numbers(call, monkeypatch):
    said = {}
    module = ModuleType("equipath.experiments.gunet")
    module.run = lambda **words: said.update(words) or {"p4m": {"dice": 0.8125}, "n": 3, "curve": [1, 2]}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    done = call("run", "gunet", "--data", "ebhi", "--size", "paper", "--seed", 3)
    assert done.exit_code == 0, done.output
    place = Path("runs/gunet")
    assert said == {"data": "ebhi", "size": "paper", "seed": 3, "folder": place, "root": None}
    assert [line.split() for line in done.output.splitlines()] == [["p4m.dice", "0.8125"], ["n", "3"]]
    for words, text in (
        (("lion",), "known are steerable"),
        (("gunet", "--size", "huge"), "known are small, paper"),
    ):
        done = call("run", *words)
        assert (done.exit_code, text in done.output) == (1, True)


def test_run_takes_several_seeds_and_some_networks(call, monkeypatch):
    said = []
    module = ModuleType("equipath.experiments.seunet")
    module.run = lambda **words: (
        said.append(words) or {"CNN": {"iou": 0.25 * words["seed"], "note": f"seed {words['seed']}"}}
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    done = call("run", "seunet", "--seed", 1, "--seeds", 2, "--arm", "CNN", "--arm", "SEUNet, fixed σ")
    assert done.exit_code == 0, done.output
    assert [words["seed"] for words in said] == [1, 2]
    assert all(words["arms"] == ["CNN", "SEUNet, fixed σ"] for words in said)
    assert [words["folder"] for words in said] == 2 * [Path("runs/seunet")]
    assert [line.split(maxsplit=1) for line in done.output.splitlines()] == [
        ["CNN.iou", "0.3750 ± 0.1768"],
        ["CNN.note", "seed 1, seed 2"],
    ]
    call("run", "seunet", "--seeds", 2, "--folder", "mine")
    assert [words["folder"] for words in said[2:]] == 2 * [Path("mine")]
    assert call("run", "seunet", "--seeds", 0).exit_code == 2


def test_run_takes_parts_of_the_training_set_where_an_experiment_has_them(call, monkeypatch):
    said = []

    def some(fractions=None, **_):
        said.append(fractions)
        return {"p4m": {"dice": 0.5}}

    module = ModuleType("equipath.experiments.gunet")
    module.run = some
    monkeypatch.setitem(sys.modules, module.__name__, module)
    done = call("run", "gunet", "--fraction", 0.5, "--fraction", 0.125)
    assert done.exit_code == 0, done.output
    call("run", "gunet")
    assert said == [[0.5, 0.125], None]
    assert call("run", "gunet", "--fraction", 2).exit_code == 2
    done = call("run", "srenet", "--fraction", 0.5)
    assert (done.exit_code, "leave --fraction out" in done.output) == (1, True)


def test_run_takes_a_rate_where_an_experiment_has_one(call, monkeypatch):
    said = []
    module = ModuleType("equipath.experiments.pcam")
    module.run = lambda lr=None, **_: said.append(lr) or {"p4m": {"nll": 0.5}}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert call("run", "pcam", "--rate", 0.005).exit_code == 0
    call("run", "pcam")
    assert said == [0.005, None]
    done = call("run", "srenet", "--rate", 0.5)
    assert (done.exit_code, "leave --rate out" in done.output) == (1, True)


def test_report_says_what_it_wrote_or_why_not(call, monkeypatch, tmp_path):
    monkeypatch.setattr("equipath.experiments.report.write", lambda: tmp_path / "results.md")
    assert call("report").output == f"wrote {tmp_path / 'results.md'}\n"

    def nothing():
        raise ValueError("there is no result yet.")

    monkeypatch.setattr("equipath.experiments.report.write", nothing)
    done = call("report")
    assert (done.exit_code, done.output) == (1, "equipath: there is no result yet.\n")

    def full():
        raise OSError(28, "No space left on device", "results.md")

    monkeypatch.setattr("equipath.experiments.report.write", full)
    done = call("report")
    assert (done.exit_code, done.output) == (1, "equipath: results.md: No space left on device.\n")


@pytest.mark.slow
def test_a_training_asks_for_its_memory_to_be_kept():
    """In a process of its own: the same large tensors again cost almost no new pages."""
    code = """
import platform, resource, torch, equipath.cli
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2_500_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = pages()
if equipath.cli._keep_memory():
    pages()
    assert pages() < usual / 5, (pages(), usual)
else:
    assert platform.libc_ver()[0] != "glibc"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]


# ---- what the command trains with


def test_each_picture_is_moved_by_one_of_eight_and_its_map_with_it(generator):
    images = torch.arange(64 * 9.0).reshape(64, 1, 3, 3)
    moved, maps = roto_reflections(images, images[:, 0].long(), generator)
    drawn = set()
    for before, after, target in zip(images, moved, maps, strict=True):
        (h,) = (h for h in range(8) if torch.equal(P4M.act(before, h), after))
        drawn.add(h)
        assert torch.equal(after[0].long(), target)
    assert drawn == set(range(8))
    labels = torch.arange(64)
    assert roto_reflections(images, labels, generator)[1] is labels
    with pytest.raises(ValueError, match=r"wants square pictures; got \(3, 4\)"):
        roto_reflections(torch.rand(2, 1, 3, 4), labels[:2], generator)


def test_bytes_stay_bytes_in_memory_and_other_ranges_are_refused():
    image = torch.arange(48, dtype=torch.uint8).view(3, 4, 4) * 5
    assert torch.equal(in_memory([(image, 0)])[0][0], image)
    assert torch.equal(in_memory([(image.float() / 255, 0)])[0][0], image)
    with pytest.raises(ValueError, match="item 0 has values from 0 to 235; give floats"):
        in_memory([(image.float(), 0)])
    with pytest.raises(ValueError, match="item 0 has values from nan to nan"):
        in_memory([(image.float() * math.nan, 0)])


def test_a_prediction_of_nothing_is_refused():
    net = torch.nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match="got 0 items and batch_size=64"):
        predict(net, [])
    with pytest.raises(ValueError, match="batch_size=0"):
        predict(net, torch.zeros(2, 3, 4, 4), 0)
    assert predict(net, torch.zeros(0, 3, 4, 4)).shape == (0, 2, 4, 4)


def test_a_set_is_read_once_into_memory():
    pairs = [(torch.full((3, 2, 2), k / 255), k) for k in range(70)]
    seen = []
    images, targets = in_memory(pairs, lambda done, total: seen.append((done, total)))
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == targets.tolist() == list(range(70))
    assert seen == [(32, 70), (64, 70), (70, 70)]
    with pytest.raises(ValueError, match=r"item 1 has 3 x 2 pixels, the first one 2 x 2"):
        in_memory([pairs[0], (torch.zeros(3, 3, 2), 0)])
