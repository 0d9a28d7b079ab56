"""Tasks on vector slides: items of the agreed form, split by patient, nested, the same for everyone who asks."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from equipath.data import load
from equipath.data.items import IGNORE, read_folder, write_folder
from equipath.data.slides import MATERIALS, TASKS, TexturePatches, TumourPatches

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"patients": 4, "per_patient": 6, "size": 48}


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a
    )


@pytest.mark.parametrize("task", TASKS)
def test_items_have_the_agreed_form(task):
    data = load("slides", task=task, **SMALL)
    assert data.task == task
    assert data.split == "train"
    assert len(data) == len(data.patients) > 3
    item = data[1]
    assert item["image"].shape == (3, 48, 48)
    assert item["image"].dtype == torch.float32
    assert 0 <= float(item["image"].min()) < float(item["image"].max()) <= 1
    assert isinstance(item["patient"], str)
    assert item["mpp"] > 0
    for key in ("mask", "context_mask"):
        if key in item:
            assert item[key].dtype == torch.int64
            assert set(item[key].unique().tolist()) <= {IGNORE, *range(len(data.classes))}
    if "instances" in item:
        assert item["instances"].dtype == torch.int32
        assert torch.equal(item["mask"], (item["instances"] > 0).long())
        assert int(item["instances"].max()) == len(item["instances"].unique()) - 1
    if "label" in item:
        assert 0 <= item["label"] < len(data.classes)
    assert item["name"] == data.names[1]
    assert len(set(data.names)) == len(data)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_item_for_everyone(task):
    data, again = TASKS[task](**SMALL), TASKS[task](**SMALL)
    assert same(data[2], again[2])
    assert same(data[2], pickle.loads(pickle.dumps(data))[2])
    together = data.__getitems__([3, 2, 2])
    assert same(together[1], together[2])
    torch.testing.assert_close(together[1]["image"], data[2]["image"], rtol=0, atol=1e-6)
    assert not torch.equal(TASKS[task](**SMALL, seed=1)[2]["image"], data[2]["image"])


@pytest.mark.slow
def test_workers_give_what_the_main_process_gives():
    data = TumourPatches(**SMALL)
    alone = torch.cat([batch["image"] for batch in DataLoader(data, batch_size=8)])
    workers = torch.cat([batch["image"] for batch in DataLoader(data, batch_size=8, num_workers=2)])
    assert alone.shape == (24, 3, 48, 48)
    torch.testing.assert_close(workers, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "task", [pytest.param(t, marks=pytest.mark.slow) if t == "texture" else t for t in TASKS]
)
def test_patients_are_split_and_fractions_nested(task):
    sets = {s: TASKS[task](s, **SMALL) for s in ("train", "val", "test")}
    who = [set(d.patients) for d in sets.values()]
    assert len(set.union(*who)) == sum(len(w) for w in who)
    seeds = [{slide.seed for slide in d.slides} for d in sets.values()]
    assert len(set.union(*seeds)) == sum(len(s) for s in seeds)
    inner: set[str] = set()
    for fraction in (0.125, 0.25, 0.5, 1.0):
        names = set(TASKS[task]("train", fraction, **SMALL).names)
        assert inner <= names
        assert len(names) == max(1, round(fraction * len(sets["train"])))
        inner = names


def test_tumour_labels_say_whether_the_middle_holds_tumour():
    data = TumourPatches(patients=12, per_patient=8)
    items = data.__getitems__(range(len(data)))
    labels = np.array([i["label"] for i in items])
    assert 0.2 < labels.mean() < 0.8
    for item in items:
        assert item["label"] == int(item["mask"][32:64, 32:64].any())
    assert any(
        i["label"] == 0 and i["mask"].any() for i in items
    )  # tumour at the border alone does not count


@pytest.mark.slow
def test_texture_patches_are_mostly_their_class():
    data = TexturePatches(patients=6, per_patient=12, size=96)
    labels = [item["label"] for item in data.__getitems__(range(len(data)))]
    for k in range(len(data)):
        slide, center = data._places[k]
        material = TexturePatches.materials[data._targets[k]]
        points = np.array(center) + np.random.default_rng(0).uniform(-20, 20, (50, 2))
        ground = data.slides[slide].ground(points)
        assert (ground == MATERIALS.index(material)).mean() > 0.6
        assert labels[k] == data._targets[k]
    assert len(set(labels)) >= 8


def test_pairs_show_the_small_field_inside_the_large_one():
    """The large field, read where the offset says, has the small field's labels and looks like it."""
    data = TASKS["pairs"](patients=3, per_patient=4, size=64, mpp=0.5)
    for item in data.__getitems__(range(len(data))):
        assert item["context_mpp"] == 4 * item["mpp"]
        x, y = (float(v) * 64 for v in item["offset"])
        assert 8 <= x <= 56
        assert 8 <= y <= 56
        assert x == round(x)
        left, top = int(x) - 8, int(y) - 8
        part = item["context"][:, top : top + 16, left : left + 16]
        small = torch.nn.functional.avg_pool2d(item["image"][None], 4)[0]
        if float(small.std()) > 0.03:
            assert float(torch.corrcoef(torch.stack([part.ravel(), small.ravel()]))[0, 1]) > 0.8
        mask = torch.nn.functional.avg_pool2d(item["mask"][None].float(), 4)[0]
        sure = (mask == 0) | (mask == 1)
        inside = item["context_mask"][top : top + 16, left : left + 16]
        assert float((inside[sure] == mask[sure]).double().mean()) > 0.98


@pytest.mark.slow
def test_cores_hold_every_grade_and_ignore_glass():
    data = TASKS["cores"](patients=12, size=128, mpp=8.0)
    items = data.__getitems__(range(len(data)))
    assert len(set(data.patients)) == 12
    assert {int(v) for i in items for v in i["mask"].unique()} == {IGNORE, 0, 1, 2, 3}
    for item in items:
        assert int(item["mask"][0, 0]) == IGNORE


@pytest.mark.parametrize("task", [pytest.param("tumour", marks=pytest.mark.slow), "nuclei", "pairs"])
def test_a_written_set_reads_back(task, tmp_path):
    data = TASKS[task](patients=2, per_patient=2, size=40)
    back = read_folder(write_folder(data, tmp_path / "set"))
    assert (back.task, back.classes, back.names) == (data.task, data.classes, data.names)
    for k in range(len(data)):
        a, b = data[k], back[k]
        assert a.keys() == b.keys()
        assert float((a["image"] - b["image"]).abs().max()) <= 0.5 / 255 + 1e-6
        for key in ("mask", "instances", "context_mask"):
            if key in a:
                assert torch.equal(a[key], b[key])


def test_angle_turns_every_item():
    plain, turned = TumourPatches(**SMALL)[5], TumourPatches(**SMALL, angle=90.0)[5]
    torch.testing.assert_close(turned["image"], torch.rot90(plain["image"], 1, (-2, -1)), rtol=0, atol=1e-6)
    assert torch.equal(turned["mask"], torch.rot90(plain["mask"], 1, (-2, -1)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "holdout"}, "train"),
        ({"fraction": 0.0}, "fraction"),
        ({"patients": 0}, "patients is a whole number"),
        ({"size": 3.5}, "size is a whole number"),
        ({"mpp": -1.0}, "mpp"),
        ({"stain": "pas"}, "stain"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"seed": 2**70}, "seed is a whole number"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        TumourPatches(**(SMALL | options))


def test_an_index_out_of_range_is_an_error():
    data = TumourPatches(**SMALL)
    for k in (len(data), -len(data) - 1):
        with pytest.raises(IndexError):
            data[k]
