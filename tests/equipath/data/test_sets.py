"""The readers of the public data sets: tiny files in each set's real layout, brought in by the real fetching
code from a local server, and the real files of the data folder where it is there."""

import csv
import dataclasses
import gzip
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_fetch import Server, tarred, zipped
from torch.utils.data import DataLoader

from equipath import data
from equipath.data import DataError, bcss, dsb2018, gleason2019, monuseg, ocelot, pcam
from equipath.data.fetch import fetch, status
from equipath.data.items import IGNORE, Items, crops, nested, read_array, read_folder, split_of, write_folder

OPTIONS = {"tries": 2, "pause": 0.0, "timeout": 5.0, "say": lambda _: None}


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.server.shutdown()


def picture(size=(8, 8), seed=0, kind="PNG", mode="RGB"):
    """A file of a small random picture; sizes are (H, W)."""
    rng = np.random.default_rng(seed)
    array = rng.integers(60, 250, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    out = io.BytesIO()
    (image if mode == "RGB" else image.convert(mode)).save(out, kind)
    return out.getvalue()


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def served(server, name, bodies):
    """The set's own Source, with its files coming from the local server.

    Sizes and hashes are those of the tiny files.
    """
    source = data.SOURCES[name]
    files = []
    for file in source.files:
        if file.name in bodies:
            path = f"/{name}/{file.name}".replace(" ", "_")
            server.put(path, bodies[file.name], f'"{path}"')
            files.append(dataclasses.replace(file, url=server.url + path, size=None, hash=None))
    return dataclasses.replace(source, files=tuple(files))


def check(items, task, patients=None):
    """What holds for the items of every set."""
    assert isinstance(items, Items)
    assert items.task == task
    assert len(items) == len(items.names) == len(set(items.names)) > 0
    item = items[0]
    assert item["image"].dtype == torch.float32
    assert item["image"].shape[0] == 3
    assert 0 <= float(item["image"].min()) <= float(item["image"].max()) <= 1
    for key, dtype in (("mask", torch.int64), ("instances", torch.int32)):
        if key in item:
            assert item[key].dtype == dtype
            assert item[key].shape == item["image"].shape[1:]
    if "mask" in item:
        known = item["mask"][item["mask"] != IGNORE]
        assert ((known >= 0) & (known < len(items.classes))).all()
    if "label" in item and task not in ("tissue",):
        assert 0 <= item["label"] < len(items.classes)
    assert isinstance(item["patient"], str)
    assert isinstance(item["mpp"], float)
    batch = next(iter(DataLoader(items, batch_size=2)))
    assert batch["image"].ndim == 4
    if patients is not None:
        assert set(items.patients) == patients
    return item


def by_split(name, root, **options):
    sets = {s: data.load(name, split=s, root=root, **options) for s in ("train", "val", "test")}
    for a in sets:
        for b in sets:
            assert a == b or not set(sets[a].patients) & set(sets[b].patients), (a, b)
    return sets


# --- one by one


def h5(array, key):
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_dataset(key, data=array, chunks=True)
    return out.getvalue()


def pcam_bodies(swap=False):
    pytest.importorskip("h5py")
    bodies, arrays = {}, {}
    for k, (split, count) in enumerate((("train", 6), ("valid", 4), ("test", 4))):
        rng = np.random.default_rng(k)
        x = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        y = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
        arrays[split] = x, y.reshape(-1)
        stem = f"camelyonpatch_level_2_split_{split}_"
        bodies[stem + "x.h5.gz"] = gzip.compress(h5(x, "x"))
        bodies[stem + "y.h5.gz"] = gzip.compress(h5(y, "y"))
        rows = [",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
        for i in range(count):
            tumour = bool(y[i, 0, 0, 0]) != swap
            rows.append(
                f"{i},10,20,{tumour},{tumour},camelyon16_{split}_{'tumor' if tumour else 'normal'}_00{i // 2}"
            )
        bodies[stem + "meta.csv"] = "\n".join(rows).encode()
    return bodies, arrays


@pytest.mark.parametrize("form", ["h5", "npy"])
@pytest.mark.parametrize("part", ["x", "y"])
def test_damaged_arrays_of_pcam_are_said(tmp_path, form, part):
    pytest.importorskip("h5py")
    bodies, arrays = pcam_bodies()
    folder = tmp_path / "pcam"
    (folder / "converted").mkdir(parents=True)
    for name, values in zip("xy", arrays["train"], strict=True):
        if form == "npy":
            np.save(folder / "converted" / f"train_{name}.npy", values)
        else:
            stem = f"camelyonpatch_level_2_split_train_{name}.h5"
            (folder / stem).write_bytes(gzip.decompress(bodies[stem + ".gz"]))
    assert len(data.load("pcam", root=tmp_path)) == 6
    (damaged,) = folder.rglob(f"*train_{part}.{form}")
    damaged.write_bytes(b"no array at all")
    pcam._pixels.cache_clear()
    with pytest.raises(DataError, match=rf"train_{part}.{form} is damaged"):
        data.load("pcam", root=tmp_path)[0]


def test_pcam(server, tmp_path):
    bodies, arrays = pcam_bodies()
    source = served(server, "pcam", bodies)
    folder = fetch(source, tmp_path, **OPTIONS)
    assert (folder / "converted/train_x.npy").exists()
    assert status(source, tmp_path)[0] == "installed"
    for split, official in (("train", "train"), ("val", "valid"), ("test", "test")):
        items = data.load("pcam", split=split, root=tmp_path)
        item = check(items, "tumour")
        assert item["image"].shape == (3, 96, 96)
        assert item["mpp"] == pytest.approx(0.972)
        for i in range(len(items)):
            expected = torch.from_numpy(arrays[official][0][i]).permute(2, 0, 1) / 255
            assert torch.equal(items[i]["image"], expected)
            assert items[i]["label"] == arrays[official][1][i]
    assert items[0]["patient"] == "camelyon16_test_normal_000"
    (folder / "converted/train_x.npy").unlink()  # the HDF5 files are read too
    assert torch.equal(
        data.load("pcam", root=tmp_path)[2]["image"],
        torch.from_numpy(arrays["train"][0][2]).permute(2, 0, 1) / 255,
    )


def test_pcam_does_not_believe_a_table_that_contradicts_the_labels(server, tmp_path):
    fetch(served(server, "pcam", pcam_bodies(swap=True)[0]), tmp_path, **OPTIONS)
    with pytest.warns(UserWarning, match="contradicts the labels"):
        items = data.load("pcam", split="val", root=tmp_path)
    assert len(set(items.patients)) == len(items)


def test_pcam_with_a_truncated_file_says_which(server, tmp_path):
    bodies, _ = pcam_bodies()
    name = "camelyonpatch_level_2_split_valid_x.h5.gz"
    bodies[name] = gzip.compress(gzip.decompress(bodies[name])[:3000])
    with pytest.raises(DataError, match=r"valid_x.h5 is not a whole HDF5 file"):
        fetch(served(server, "pcam", bodies), tmp_path, **OPTIONS)
    assert not (tmp_path / "pcam/converted").exists()


def test_pcam_as_jpegs(tmp_path):
    folder = tmp_path / "pcam"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        members = {f"patch{i:07d}.jpg": picture((96, 96), i, "JPEG") for i in range(3)}
        (folder / f"{split}.tar").write_bytes(tarred(members, "w"))
        (folder / f"{split}.csv").write_text("image,label\npatch0000002.jpg,1\npatch0000000.jpg,0\n")
    items = data.load("pcam", split="val", root=tmp_path)
    check(items, "tumour")
    assert [items[i]["label"] for i in range(2)] == [1, 0]
    (folder / "train.csv").write_text("image,label\nother.jpg,1\n")
    with pytest.raises(DataError, match=r"does not hold other\.jpg"):
        data.load("pcam", root=tmp_path)[0]


def test_breakhis(server, tmp_path):
    members = {}
    for k in range(12):
        kind, folder = (
            ("B_F", "benign/SOB/fibroadenoma") if k % 2 else ("M_DC", "malignant/SOB/ductal_carcinoma")
        )
        slide = f"SOB_{kind}_14-{9000 + k}"
        for power in (40, 100):
            for n in range(2):
                name = f"SOB_{kind}-14-{9000 + k}-{power}-{n + 1:03d}.png"
                top = "BreaKHis_v1/histology_slides/breast"
                members[f"{top}/{folder}/{slide}/{power}X/{name}"] = picture((46, 70), k)
    fetch(served(server, "breakhis", {"BreaKHis_v1.tar.gz": tarred(members)}), tmp_path, **OPTIONS)
    sets = by_split("breakhis", tmp_path)
    assert sum(map(len, sets.values())) == 24
    for items in sets.values():
        check(items, "tumour")
        assert {items[i]["label"] for i in range(len(items))} == {0, 1}  # both kinds in each split
    types = data.load("breakhis", "texture", root=tmp_path, magnification=100)
    assert {types.classes[types[i]["label"]] for i in range(len(types))} == {
        "fibroadenoma",
        "ductal carcinoma",
    }
    with pytest.raises(ValueError, match="magnification=20"):
        data.load("breakhis", root=tmp_path, magnification=20)


def nct_bodies():
    bodies = {}
    for top, count in (("NCT-CRC-HE-100K", 20), ("CRC-VAL-HE-7K", 2)):
        codes = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
        members = {
            f"{top}/{c}/{c}-{'ABCDEFGHIJKLMNOPQRST'[i]}AAFLCLY.tif": picture((24, 24), i, "TIFF")
            for c in codes
            for i in range(count)
        }
        bodies[f"{top}.zip"] = zipped(members)
    return bodies


def test_nct_crc(server, tmp_path):
    fetch(served(server, "nct_crc", nct_bodies()), tmp_path, **OPTIONS)
    sets = by_split("nct_crc", tmp_path)
    assert {s: len(i) for s, i in sets.items()} == {"train": 9 * 17, "val": 9 * 3, "test": 18}
    check(sets["train"], "texture")
    assert sets["test"].classes[sets["test"][17]["label"]] == "tumour epithelium"


XML = """<?xml version="1.0"?>
<Annotations MicronsPerPixel="0.252000"><Annotation Id="1" Name="" LineColor="65280"><Regions>
<Region Id="1" Area="100.0"><Vertices>
<Vertex X="10.0" Y="20.0" Z="0"/><Vertex X="30.0" Y="20.0" Z="0"/>
<Vertex X="30.0" Y="30.0" Z="0"/><Vertex X="10.0" Y="30.0" Z="0"/></Vertices></Region>
<Region Id="2" Area="16.0"><Vertices>
<Vertex X="12.0" Y="22.0" Z="0"/><Vertex X="16.0" Y="22.0" Z="0"/>
<Vertex X="16.0" Y="26.0" Z="0"/><Vertex X="12.0" Y="26.0" Z="0"/></Vertices></Region>
<Region Id="3"><Vertices><Vertex X="1.0" Y="1.0" Z="0"/></Vertices></Region>
</Regions></Annotation></Annotations>"""


def monuseg_bodies():
    train = {}
    for k in range(8):
        name = f"TCGA-A7-A13{k}-01Z-00-DX1"
        train[f"MoNuSeg 2018 Training Data/Tissue Images/{name}.tif"] = picture((100, 100), k, "TIFF")
        train[f"MoNuSeg 2018 Training Data/Annotations/{name}.xml"] = XML.encode()
    train["__MACOSX/._x"] = b"mac"
    test = {
        "MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.tif": picture((100, 100), 9, "TIFF"),
        "MoNuSegTestData/TCGA-2Z-A9J9-01A-01-TS1.xml": XML.encode(),
    }
    return {"MoNuSeg 2018 Training Data.zip": zipped(train), "MoNuSegTestData.zip": zipped(test)}


def test_monuseg_outlines_become_instances_to_the_pixel(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(XML)
    instances = monuseg.instances_of(path, (100, 100))
    assert instances.max() == 2
    assert (instances > 0).sum() == 20 * 10  # rows 20-29, columns 10-29
    assert (instances == 2).sum() == 16  # the smaller nucleus lies on top
    assert (instances[20:30, 10:30] > 0).all()
    path.write_text(XML[:200])
    with pytest.raises(DataError, match="not whole XML"):
        monuseg.instances_of(path, (100, 100))


def test_monuseg(server, tmp_path):
    bodies = monuseg_bodies()
    source = data.SOURCES["monuseg"]
    with pytest.raises(DataError, match=r"by hand:\n  1\. open https://monuseg"):
        fetch(source, tmp_path, **OPTIONS)
    for name, body in bodies.items():
        (tmp_path / "monuseg" / name).write_bytes(body)
    with pytest.raises(DataError, match="damaged or another version"):  # not the published archive
        fetch(source, tmp_path, **OPTIONS)
    (tmp_path / "monuseg/MoNuSeg 2018 Training Data.zip").unlink()
    (tmp_path / "monuseg/MoNuSegTestData.zip").unlink()
    fetch(served(server, "monuseg", bodies), tmp_path, **OPTIONS)
    sets = by_split("monuseg", tmp_path, tile=40, stride=20)
    assert len(sets["test"]) == 16  # as the paper's 400/200 on 1000: here 40/20 on 100
    assert len(sets["train"]) + len(sets["val"]) == 8 * 16
    item = check(sets["train"], "nuclei")
    assert item["image"].shape == (3, 40, 40)
    whole = data.load("monuseg", split="test", root=tmp_path, tile=None)[0]
    assert int(whole["mask"].sum()) == 200
    raw = data.load("monuseg", split="test", root=tmp_path, tile=None)[0]["instances"].clone()
    import shutil

    shutil.rmtree(tmp_path / "monuseg/converted")
    assert torch.equal(data.load("monuseg", split="test", root=tmp_path, tile=None)[0]["instances"], raw)


def test_bcss(tmp_path):
    folder = tmp_path / "bcss"
    with pytest.raises(DataError, match=r"rgbs_colorNormalized.*into .*bcss"):
        fetch(data.SOURCES["bcss"], tmp_path, **OPTIONS)
    codes = np.arange(22, dtype=np.uint8).repeat(30).reshape(22, 30)
    for where in ("rgbs_colorNormalized", "masks"):
        (folder / where).mkdir(parents=True)
    for site in ("A2", "AR", "OL", "LL", "BH", "S3"):
        name = f"TCGA-{site}-A0CM-DX1_xmin18562_ymin56852_MPP-0.2500.png"
        (folder / "rgbs_colorNormalized" / name).write_bytes(picture((22, 30)))
        (folder / "masks" / name).write_bytes(png(codes))
    unconverted = data.load("bcss", root=tmp_path)[0]
    fetch(data.SOURCES["bcss"], tmp_path, **OPTIONS)
    sets = by_split("bcss", tmp_path)
    assert set(sets["test"].patients) == {"TCGA-OL-A0CM", "TCGA-LL-A0CM", "TCGA-S3-A0CM"}
    assert set(sets["val"].patients) == {"TCGA-BH-A0CM"}
    item = check(sets["train"], "tissue")
    assert torch.equal(item["mask"], unconverted["mask"])
    assert torch.equal(item["image"], unconverted["image"])
    assert item["mpp"] == 0.25
    groups = item["mask"][:, 0].tolist()
    other = bcss.CLASSES.index("other")
    assert groups[:5] == [IGNORE, 0, 1, 2, 3]
    assert [groups[k] for k in (10, 11, 19, 20)] == [2, 2, 0, 0]
    assert all(groups[k] == other for k in (5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 21))
    tiles = data.load("bcss", root=tmp_path, tile=20, stride=10)
    assert tiles[0]["image"].shape == (3, 20, 20)
    with pytest.raises(ValueError, match="and in the validation"):
        data.load("bcss", root=tmp_path, test_institutions=["BH"])
    (folder / "masks" / name).write_bytes(png(codes[:-1]))
    import shutil

    shutil.rmtree(folder / "converted")
    with pytest.raises(DataError, match="download both again"):
        fetch(data.SOURCES["bcss"], tmp_path, **OPTIONS)


def test_gleason_consensus():
    maps = [np.array([[0, 1, 3, 3, 4, 6]]), np.array([[0, 1, 3, 4, 4, 6]]), np.array([[1, 3, 5, 5, 5, 3]])]
    assert gleason2019.consensus(maps).tolist() == [[IGNORE, 0, 1, 3, 2, 0]]
    assert gleason2019.consensus(maps, background=0)[0, 0] == 0
    with pytest.raises(DataError, match=r"values \[9\]"):
        gleason2019.consensus([np.array([[9]])])
    with pytest.raises(DataError, match="different sizes"):
        gleason2019.consensus([np.zeros((2, 2)), np.zeros((2, 3))])


def test_gleason2019(tmp_path):
    folder = tmp_path / "gleason2019"
    with pytest.raises(DataError, match=r"register at https://gleason2019"):
        fetch(data.SOURCES["gleason2019"], tmp_path, **OPTIONS)
    (folder / "Train Imgs").mkdir()
    nested_zip = {}
    for slide in range(1, 8):
        for core in (3, 11):
            name = f"slide{slide:03d}_core{core:03d}"
            (folder / "Train Imgs" / f"{name}.jpg").write_bytes(picture((40, 50), slide, "JPEG"))
            nested_zip[f"{name}_classimg_nonconvex.png"] = png(np.full((40, 50), 4, np.uint8))
    (folder / "Maps1_T.zip").write_bytes(zipped(nested_zip))
    (folder / "Maps3_T").mkdir()
    (folder / "Maps3_T/slide001_core003_classimg_nonconvex.png").write_bytes(
        png(np.full((40, 50), 5, np.uint8))
    )
    fetch(data.SOURCES["gleason2019"], tmp_path, **OPTIONS)
    sets = by_split("gleason2019", tmp_path)
    assert sum(map(len, sets.values())) == 14
    check(sets["train"], "cores")
    alone = [data.load("gleason2019", split=s, root=tmp_path, expert=3) for s in sets]
    assert sum(map(len, alone)) == 1
    tiled = data.load("gleason2019", root=tmp_path, tile=20)
    assert tiled[0]["mask"].shape == (20, 20)
    assert (tiled[0]["mask"] == 2).all() or (tiled[0]["mask"] == 3).all()


def ocelot_body():
    members, pairs = {}, {}
    for k, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        name = f"{k + 1:03d}"
        top = "ocelot2023_v1.0.1"
        members[f"{top}/images/{split}/cell/{name}.jpg"] = picture((64, 64), k, "JPEG")
        members[f"{top}/images/{split}/tissue/{name}.jpg"] = picture((64, 64), 50 + k, "JPEG")
        tissue = np.full((64, 64), 1, np.uint8)
        tissue[:, 32:] = 2
        tissue[:4] = 255
        members[f"{top}/annotations/{split}/tissue/{name}.png"] = png(tissue)
        members[f"{top}/annotations/{split}/cell/{name}.csv"] = b"5,6,1\n30,40,2\n" if k else b""
        pairs[name] = {
            "slide_name": f"TCGA-AA-000{k}-01Z-00-DX1",
            "mpp_x": 0.25,
            "mpp_y": 0.25,
            "cell": {"resized_mpp_x": 0.2, "resized_mpp_y": 0.2},
            "tissue": {"resized_mpp_x": 0.8, "resized_mpp_y": 0.8},
            "patch_x_offset": 0.5,
            "patch_y_offset": 0.375,
        }
    members["ocelot2023_v1.0.1/metadata.json"] = json.dumps({"sample_pairs": pairs}).encode()
    return zipped(members)


def test_ocelot(server, tmp_path):
    with pytest.raises(DataError, match="accept the Terms"):
        fetch(data.SOURCES["ocelot"], tmp_path, **OPTIONS)
    fetch(served(server, "ocelot", {"ocelot2023_v1.0.1.zip": ocelot_body()}), tmp_path, **OPTIONS)
    sets = by_split("ocelot", tmp_path)
    assert [len(sets[s]) for s in sets] == [4, 2, 2]
    item = check(sets["train"], "pairs")
    assert item["context"].shape == (3, 64, 64)
    assert item["offset"].tolist() == [0.5, 0.375]
    # The small field is a quarter of the large one wide, centred on column 32, where cancer begins.
    assert (item["mask"][:, :32] == 0).all()
    assert (item["mask"][:, 32:] == 1).all()
    assert (item["context_mask"][:4] == IGNORE).all()
    points = data.load("ocelot", root=tmp_path, points=True)
    assert points[0]["points"].shape == (0, 3)
    assert points[1]["points"].tolist() == [[5, 6, 0], [30, 40, 1]]
    check(data.load("ocelot", "tissue", root=tmp_path), "tissue")
    (tmp_path / "ocelot/ocelot2023_v1.0.1/metadata.json").write_text("{}")
    with pytest.raises(DataError, match="table of pairs"):
        data.load("ocelot", root=tmp_path)


def test_ocelot_mask_that_is_none():
    assert ocelot.CLASSES == ("background", "cancer")
    inside = ocelot._inside(np.arange(64 * 64).reshape(64, 64), (0.5, 0.5), (64, 64), 1.0)
    assert np.array_equal(inside, np.arange(64 * 64).reshape(64, 64))  # the same field: the same pixels


def test_ebhi(server, tmp_path):
    members = {}
    for k in range(12):
        stage = data.SOURCES and ("Normal", "Low-grade IN", "Adenocarcinoma")[k % 3]
        name = f"{'GTxc' if k % 2 else 'GT'}20120{k // 2:02d}-1-400-00{k}.png"
        members[f"EBHI-SEG/{stage}/image/{name}"] = picture((22, 22), k)
        mask = np.zeros((22, 22), np.uint8)
        mask[:11] = 255
        mask[11] = 100  # an interpolated border
        members[f"EBHI-SEG/{stage}/label/{name}"] = png(mask)
    members["EBHI-SEG/Normal/image/GT2012999-1-400-001.png"] = picture((22, 22))  # has no mask: left out
    fetch(served(server, "ebhi", {"EBHI-SEG.zip": zipped(members)}), tmp_path, **OPTIONS)
    sets = by_split("ebhi", tmp_path)
    assert sum(map(len, sets.values())) == 12
    item = check(sets["train"], "tissue")
    assert int(item["mask"].sum()) == 11 * 22
    staged = data.load("ebhi", root=tmp_path, by_stage=True)
    assert all(int(staged[i]["mask"].max()) == staged[i]["label"] + 1 for i in range(len(staged)))
    assert math.isnan(item["mpp"])


def test_tnbc(server, tmp_path):
    members = {}
    for patient in range(1, 8):
        for n in (1, 2):
            name = f"{patient:02d}_{n}.png"
            mask = np.zeros((32, 32), np.uint8)
            mask[2:8, 2:8] = mask[20:28, 20:28] = 255
            members[f"TNBC_NucleiSegmentation/Slide_{patient:02d}/{name}"] = picture(
                (32, 32), patient, mode="RGBA"
            )
            members[f"TNBC_NucleiSegmentation/GT_{patient:02d}/{name}"] = png(mask)
    fetch(served(server, "tnbc", {"TNBC_NucleiSegmentation.zip": zipped(members)}), tmp_path, **OPTIONS)
    sets = by_split("tnbc", tmp_path)
    assert sum(map(len, sets.values())) == 14
    item = check(sets["train"], "nuclei")
    assert int(item["instances"].max()) == 2
    assert int(item["mask"].sum()) == 36 + 64


def test_dsb2018(server, tmp_path):
    members = {}
    for k in range(10):
        name = f"{k:064x}"
        grey = k >= 8
        image = np.full((32, 40, 4), 30 if grey else 200, np.uint8)
        if not grey:
            image[..., 1] = 120
        members[f"{name}/images/{name}.png"] = png(image)
        for n in range(3):
            mask = np.zeros((32, 40), np.uint8)
            mask[10 * n : 10 * n + 5, :5] = 255
            members[f"{name}/masks/{n:064x}.png"] = png(mask)
    fetch(served(server, "dsb2018", {"stage1_train.zip": zipped(members)}), tmp_path, **OPTIONS)
    sets = by_split("dsb2018", tmp_path)
    assert sum(map(len, sets.values())) == 8  # fluorescence is left out
    item = check(sets["train"], "nuclei")
    assert int(item["instances"].max()) == 3
    assert not dsb2018.is_stained(np.full((8, 8, 3), 200, np.uint8))


# --- the real files, where they are


@pytest.mark.parametrize(
    ("name", "counts", "task"),
    [
        ("pcam", (8000, 2000, 3000), "tumour"),
        ("ebhi", None, "tissue"),
        ("tnbc", None, "nuclei"),
        ("dsb2018", None, "nuclei"),
    ],
)
def test_real_files(tissue_data, name, counts, task):
    sets = by_split(name, tissue_data)
    total = {"pcam": 13000, "ebhi": 422, "tnbc": 33, "dsb2018": 64}[name]
    assert sum(map(len, sets.values())) == total
    if counts:
        assert tuple(len(sets[s]) for s in ("train", "val", "test")) == counts
    for items in sets.values():
        item = check(items, task)
        assert float(item["image"].std()) > 0.02
    assert status(data.SOURCES[name], tissue_data)[0] == "installed"


def test_real_nuclei_agree_with_the_table(tissue_data):
    with (tissue_data / "dsb2018_tissue/groups.csv").open() as file:
        table = {row["image"].removesuffix(".png"): row for row in csv.DictReader(file)}
    items = data.load("dsb2018", split="test", root=tissue_data)
    for item in (items[i] for i in range(len(items))):
        row = table[item["name"]]
        assert int(item["instances"].max()) == int(row["n_instances"])
        assert float(item["mask"].float().mean()) == pytest.approx(float(row["fg_fraction"]), abs=1e-4)


# --- what all sets share


def test_fractions_are_nested_and_exact():
    patients = [f"p{i % 37}" for i in range(1000)]
    chosen = {f: set(nested(patients, f, seed=3)) for f in (0.125, 0.25, 0.5, 1.0)}
    assert [len(chosen[f]) for f in chosen] == [125, 250, 500, 1000]
    assert chosen[0.125] < chosen[0.25] < chosen[0.5] < chosen[1.0]
    assert len({patients[i] for i in chosen[0.125]}) <= 6  # whole patients: 27 items each
    assert nested(patients, 0.25, seed=4) != nested(patients, 0.25, seed=3)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            nested(patients, bad)


def test_a_fraction_does_not_depend_on_the_order_of_the_items():
    patients = [f"p{i // 10}" for i in range(100)]
    turned = patients[::-1]
    assert {patients[i] for i in nested(patients, 0.5)} == {turned[i] for i in nested(turned, 0.5)}


def test_splits_share_no_patient_and_have_about_the_sizes_asked():
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i, n in enumerate(rng.integers(1, 20, 60)) for _ in range(n)]
    part = split_of(patients)
    shares = [sum(part[p] == s for p in patients) / len(patients) for s in ("train", "val", "test")]
    assert np.abs(np.array(shares) - (0.7, 0.15, 0.15)).max() < 0.03
    assert split_of(patients[::-1]) == part
    with pytest.raises(ValueError, match="add up to 1"):
        split_of(patients, (0.5, 0.5, 0.5))


def test_windows_cover_the_picture():
    for height, width, tile, stride in (
        (1000, 1000, 400, 200),
        (513, 700, 512, None),
        (30, 40, 64, 16),
        (7, 100, 10, 3),
    ):
        seen = np.zeros((height, width), bool)
        for y, x, high, wide in crops((height, width), tile, stride):
            assert y + high <= height
            assert x + wide <= width
            seen[y : y + high, x : x + wide] = True
        assert seen.all()
    assert len(crops((1000, 1000), 400, 200)) == 16


def test_unknown_names_are_said(tmp_path):
    with pytest.raises(ValueError, match="known are slides"):
        data.load("imagenet")
    with pytest.raises(ValueError, match="split='dev'"):
        data.load("tnbc", split="dev", root=tmp_path)
    with pytest.raises(ValueError, match="task='cores'"):
        data.load("tnbc", "cores", root=tmp_path)
    with pytest.raises(TypeError, match="tnbc does not know rows; its options are tile, stride, by"):
        data.load("tnbc", rows=3, root=tmp_path)
    with pytest.raises(TypeError, match=r"slides does not know rows; .*size, mpp.*stain"):
        data.load("slides", "cores", rows=3)
    with pytest.raises(TypeError, match=r"pcam does not know rows, size; its options are variant"):
        data.load("pcam", variant="segmentation", rows=3, size=5, root=tmp_path)


@pytest.mark.parametrize("name", sorted(data.SOURCES))
def test_a_missing_set_says_what_to_run(name, tmp_path):
    with pytest.raises(DataError, match=rf"equipath data fetch {name}"):
        data.load(name, root=tmp_path)


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIPATH_DATA", str(tmp_path))
    assert data.data_root() == tmp_path
    assert data.data_root("/x").as_posix() == "/x"


def test_a_truncated_picture_is_said(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture((64, 64))[:500])
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_array(path)
    with pytest.raises(DataError, match="is missing"):
        read_array(tmp_path / "b.png")


def test_items_are_written_and_read_back(tmp_path, rng):
    images = rng.integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (4, 9, 7)).astype(np.int64)
    masks[:, 0] = IGNORE

    def make(**more):
        return Items(
            name="toy",
            task="tissue",
            split="train",
            classes=("a", "b", "c"),
            names=[f"n/{i}" for i in range(4)],
            patients=["p", "p", "q", "q"],
            read=lambda i: (
                {"image": images[i], "label": i % 2, "mpp": 0.5} | {k: v[i] for k, v in more.items()}
            ),
        )

    for key, values in (("mask", masks), ("instances", rng.integers(0, 900, (4, 9, 7)))):
        written = make(**{key: values})
        back = read_folder(write_folder(written, tmp_path / key))
        assert (back.classes, back.task, back.patients) == (written.classes, written.task, written.patients)
        for i in range(4):
            for k, v in written[i].items():
                assert torch.equal(v, back[i][k]) if isinstance(v, torch.Tensor) else v == back[i][k]
    with pytest.raises(DataError, match="already holds"):
        write_folder(make(), tmp_path / "mask")
    (tmp_path / "mask/items.csv").unlink()
    with pytest.raises(DataError, match=r"no items\.csv"):
        read_folder(tmp_path / "mask")


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def toy(count=40, shade=0, stop=None):
    """Pictures of noise, 40 of them; reading item ``stop`` is interrupted."""

    def read(i):
        if i == stop:
            raise KeyboardInterrupt
        rng = np.random.default_rng(i + 1000 * shade)
        return {"image": rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), "mask": rng.integers(0, 3, (8, 9))}

    names = [f"n{i:02d}" for i in range(count)]
    return Items(
        name="toy", task="tissue", split="val", classes=("a",), names=names, patients=names, read=read
    )


def test_an_interrupted_folder_goes_on(tmp_path):
    """What is whole is kept; what is cut, changed or missing is written again; the end is as if never stopped."""
    write_folder(toy(), tmp_path / "whole")
    folder = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        write_folder(toy(stop=29), folder)
    with pytest.raises(DataError, match="goes on"):
        read_folder(folder)
    times = {p.name: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    assert len(times) == 29
    body = (folder / "images/n03.png").read_bytes()
    (folder / "images/n03.png").write_bytes(body[:30])
    (folder / "masks/n05.png").unlink()
    with (folder / "items.jsonl.part").open("a") as file:
        file.write('[29, {"name": "n2')  # the line that was being written
    read, done = [], []
    items = toy()
    once = items._read
    items._read = lambda i: read.append(i) or once(i)
    write_folder(items, folder, progress=lambda *a: done.append(a))
    assert done == [(k, 40) for k in range(1, 41)]
    assert contents(folder) == contents(tmp_path / "whole")
    kept = {n for n, when in times.items() if (folder / "images" / n).stat().st_mtime_ns == when}
    assert kept == set(times) - {"n03.png", "n05.png"}
    with pytest.raises(KeyboardInterrupt):
        write_folder(toy(stop=35), tmp_path / "later")
    read.clear()
    write_folder(items, tmp_path / "later")
    assert read == list(range(32, 40))  # whole batches are not made again


def test_a_folder_is_not_finished_with_other_items(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_folder(toy(stop=20), tmp_path / "a")
    before = contents(tmp_path / "a")
    for other in (toy(count=39), toy(shade=1)):
        with pytest.raises(DataError, match="begun with other"):
            write_folder(other, tmp_path / "a")
    assert contents(tmp_path / "a") == before


def test_a_full_disk_keeps_what_is_written(tmp_path, monkeypatch):
    import equipath.data.items as room

    write, count = room._write_png, []

    def full(path, array):
        count.append(path)
        if len(count) == 11:
            raise OSError(28, "No space left on device")
        return write(path, array)

    monkeypatch.setattr(room, "_write_png", full)
    with pytest.raises(DataError, match=r"No space left.*goes on"):
        write_folder(toy(), tmp_path / "a")
    assert len(list((tmp_path / "a/images").iterdir())) == 5
    write_folder(toy(), tmp_path / "a")
    assert len(count) == 11 + 70
    assert len(read_folder(tmp_path / "a")) == 40


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path):
    """Killed without warning amid writing; the next process finishes, and keeps what was whole."""
    import subprocess
    import sys
    import time

    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); import test_sets as t; items = t.toy(); once = items._read; "
        "items._read = lambda i: time.sleep(0.02) or once(i); t.write_folder(items, sys.argv[1])"
    )
    images = tmp_path / "a/images"
    command = [sys.executable, "-c", script, str(tmp_path / "a"), str(Path(__file__).parent)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as writing:
        while writing.poll() is None and len(list(images.glob("*.png"))) < 18:
            time.sleep(0.005)
        writing.kill()
    assert not (tmp_path / "a/items.csv").exists()
    times = {p: p.stat().st_mtime_ns for p in images.glob("*.png")}
    write_folder(toy(), tmp_path / "a")
    assert sum(p.stat().st_mtime_ns == when for p, when in times.items()) >= 17
    write_folder(toy(), tmp_path / "whole")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_a_set_can_be_sent_to_a_fresh_process(tmp_path):
    import pickle

    for k in range(1, 8):
        for where in ("images", "masks"):
            (tmp_path / "tnbc" / where).mkdir(parents=True, exist_ok=True)
            (tmp_path / "tnbc" / where / f"{k:02d}_1.png").write_bytes(picture((16, 16), k))
    items = data.load("tnbc", root=tmp_path, fraction=0.5, tile=8)
    again = pickle.loads(pickle.dumps(items))
    assert again.names == items.names
    assert torch.equal(again[1]["image"], items[1]["image"])
    written = read_folder(write_folder(items, tmp_path / "out"))
    assert pickle.loads(pickle.dumps(written)).names == items.names
    plain = Items(name="x", task="t", split="train", classes=(), names=[], patients=[], read=lambda _: {})
    with pytest.raises(TypeError, match=r"equipath\.data\.load"):
        pickle.dumps(plain)


@pytest.mark.parametrize("text", ["", "# set=x;task\nname\n", "name,patient\na,b\n", "cut"])
def test_a_damaged_table_is_said(tmp_path, text):
    items = Items(
        name="x", task="t", split="train", classes=("a",), names=["a", "b"], patients=["p", "q"],
        read=lambda _: {"image": np.zeros((4, 4, 3), np.uint8), "label": 0},
    )  # fmt: skip
    table = write_folder(items, tmp_path / "out") / "items.csv"
    table.write_text(text if text != "cut" else table.read_text()[:-20])
    with pytest.raises(DataError, match="is damaged: it wants a first line"):
        read_folder(tmp_path / "out")


def test_tables_and_masks_that_do_not_fit_are_said(tmp_path):
    table = tmp_path / "ebhi_seg" / "groups.csv"
    table.parent.mkdir()
    for body, says in ((b"a,b\n1,2\n", "lacks class, image, case_group"), (b"\xff\xfe\x00", "is no table")):
        table.write_bytes(body)
        with pytest.raises(DataError, match=says):
            data.load("ebhi", root=tmp_path)
        assert status(data.SOURCES["ebhi"], tmp_path)[0] == "damaged"
    for k, values in enumerate((np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8))):
        path = tmp_path / "tnbc" / ("images", "masks")[k] / "01_1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=r"mask of 01_1 has shape \(4, 4\) and its picture 4 x 5"):
        data.load("tnbc", root=tmp_path)[0]


def test_items_out_of_range_and_bad_arguments():
    items = Items(
        name="x", task="t", split="train", classes=(), names=["a"], patients=["p"], read=lambda _: {}
    )
    with pytest.raises(IndexError, match="has 1 items"):
        items[1]
    with pytest.raises(TypeError, match="one at a time"):
        items[:1]
    with pytest.raises(ValueError, match="one patient per item"):
        Items(name="x", task="t", split="train", classes=(), names=["a"], patients=[], read=lambda _: {})
    with pytest.raises(ValueError, match="by='patient'"):
        Items(
            name="x",
            task="t",
            split="train",
            classes=(),
            names=[],
            patients=[],
            read=lambda _: {},
            by="slide",
        )
