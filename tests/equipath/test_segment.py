"""Segmenting picture and slide: windows give what the whole picture gives, whatever stops the run."""

import json
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("openslide")
pytest.importorskip("tifffile")
import tifffile

from equipath import segment as room
from equipath.data import DataError
from equipath.data.wsi import WholeSlide, write_pyramid
from equipath.models.gunet import GUNet
from equipath.models.seunet import SEUNet
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.unet import UNet
from equipath.nn.sizes import SizeContract
from equipath.segment import OUTSIDE, cluster_folder, reach, segment


def tissue(high, wide, seed=0):
    """Coloured noise of several sizes: nothing repeats, nothing is grey."""
    rng = np.random.default_rng(seed)
    image = np.full((high, wide, 3), (200.0, 120.0, 170.0))
    for step in (3, 17, 60):
        coarse = rng.normal(0, 18, (high // step + 2, wide // step + 2, 3))
        image += np.kron(coarse, np.ones((step, step, 1)))[:high, :wide]
    return image.clip(0, 255).astype(np.uint8)


def picture(folder, high=150, wide=230, seed=0):
    path = folder / "core.png"
    Image.fromarray(tissue(high, wide, seed)).save(path)
    return path


def lively(model, seed=0):
    """Weights and running means under which answers differ from place to place."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return model.double().eval()


def unet(pooling=2, depth=2, classes=3, seed=0, **options):
    torch.manual_seed(seed)
    model = lively(
        UNet(3, classes, width=4, depth=depth, pooling=pooling, pad_to_valid=True, **options), seed
    )
    with torch.no_grad():  # no class wins everywhere
        x = torch.from_numpy(tissue(96, 96, 5)).movedim(-1, 0)[None].double() / 255
        model.head.weight /= model(x).std()
        model.head.bias -= model(x).mean((0, 2, 3))
    return model


def whole(model, path):
    """What the network says of the whole picture at once: probabilities (K, H, W)."""
    x = torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0)[None].double() / 255
    with torch.no_grad():
        return (model.predict(x) if hasattr(model, "predict") else model(x).softmax(1))[0]


def labels(folder, stem="core"):
    return tifffile.imread(folder / f"{stem}.mask.tif", key=0)


@pytest.mark.parametrize("size", [(150, 230), (97, 64), (201, 141)])
@pytest.mark.parametrize("pooling", [2, 3])
@pytest.mark.parametrize("blend", ["linear", "crop"])
def test_windows_give_the_answer_of_the_whole_picture(tmp_path, size, pooling, blend, monkeypatch):
    path, model = picture(tmp_path, *size), unet(pooling)
    seen = []
    monkeypatch.setattr(room, "_ask", lambda *a, ask=room._ask: seen.append(1) or ask(*a))
    made = segment(model, path, tmp_path / "out", tile=128, blend=blend, everywhere=True)
    assert made.exact
    assert made.size == size
    assert len(seen) == made.tiles == made.windows >= 1
    expected = whole(model, path)
    sure = expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5  # the windows' answers are float32
    got = torch.from_numpy(labels(tmp_path / "out").astype(np.int64))
    assert sure.float().mean() > 0.99
    assert torch.equal(got[sure], expected.argmax(0)[sure])
    assert len(got.unique()) == 3
    assert made.shares["class 1"] == pytest.approx(float((got == 1).double().mean()))


def test_a_margin_that_is_too_small_is_said_and_shows(tmp_path):
    path, model = picture(tmp_path), unet()
    made = segment(model, path, tmp_path / "out", tile=64, margin=4, blend="crop", everywhere=True)
    assert not made.exact
    wrong = labels(tmp_path / "out") != whole(model, path).argmax(0).numpy()
    assert 0 < wrong.mean() < 0.2


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: UNet(3, 2, 2, 2), id="unet"),
        pytest.param(lambda: UNet(3, 2, 2, 3, pooling=3), id="unet, pooling 3"),
        pytest.param(lambda: GUNet(3, 2, 2, 2), id="p4m"),
        pytest.param(lambda: SteerableUNet(3, 2, 2, 2, depth=1), id="steerable"),
    ],
)
def test_reach_is_no_less_than_what_moves_an_answer(model):
    """Every pixel whose change moves the answer at some place, over a whole pooling step of places."""
    net = lively(model())
    margin, step = reach(net), net.sizes.step
    n = net.sizes.nearest(2 * margin + 4 * step)
    torch.manual_seed(1)
    x = torch.rand(1, 3, n, n, dtype=torch.float64, requires_grad=True)
    y = net(x)
    for place in range(n // 2, n // 2 + step):
        (slope,) = torch.autograd.grad(y[0, :, place, place].sum(), x, retain_graph=True)
        rows = slope.abs().sum((0, 1, 3)).nonzero()[:, 0]
        assert place - margin <= int(rows.min())
        assert int(rows.max()) <= place + margin


def test_scale_networks_are_nearly_the_same(tmp_path):
    """Their aligned up-sampling depends on the size of the picture: windows cannot be exact, and say so."""
    torch.manual_seed(0)
    model = lively(SEUNet(3, 2, width=1, depth=1, scales=2, pad_to_valid=True))
    path = picture(tmp_path, 100, 140)
    made = segment(model, path, tmp_path / "out", tile=64, everywhere=True)
    assert not made.exact
    same = labels(tmp_path / "out") == whole(model, path).argmax(0).numpy()
    assert same.mean() > 0.97


def slide_with_glass(folder, mpp=1.0):
    """A slide of 400 x 600 µm, tissue in the right two thirds of its upper half."""
    pixels = np.full((int(400 / mpp), int(600 / mpp), 3), 245, np.uint8)
    high, wide = pixels.shape[:2]
    pixels[: high // 2, wide // 3 :] = tissue(high - high // 2, wide - wide // 3)[: high // 2]
    return write_pyramid(
        lambda y, x, h, w: pixels[y : y + h, x : x + w], folder / "slide.tif", (high, wide), mpp, smallest=64
    ), pixels


@pytest.mark.slow
def test_a_slide_is_looked_at_where_there_is_tissue(tmp_path):
    path, pixels = slide_with_glass(tmp_path)
    model = unet()
    steps = []
    made = segment(
        model, path, tmp_path, tile=128, classes=("a", "b", "c"), progress=lambda *s: steps.append(s)
    )
    got = labels(tmp_path, "slide")
    assert got.shape == (400, 600)
    assert 0 < made.tiles < 0.6 * made.windows
    assert steps[-1] == (made.tiles, made.tiles)
    assert [s[0] for s in steps] == sorted(s[0] for s in steps)
    assert (got[220:] == OUTSIDE).all()
    assert (got[:, :180] == OUTSIDE).all()
    assert (got[:180, 220:] != OUTSIDE).all()
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    expected = whole(model, tmp_path / "plain.png")
    sure = (expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5).numpy() & (got != OUTSIDE)
    assert np.array_equal(got[sure], expected.argmax(0).numpy()[sure])
    with WholeSlide(tmp_path / "slide.mask.tif") as mask:  # any viewer shows it, in colours and to scale
        assert mask.mpp == pytest.approx(1.0)
        assert len(mask.levels) >= 2
        shown = mask.read(0, 0, (400, 600))
    assert tuple(shown[350, 50]) == (255, 255, 255)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 4
    with Image.open(tmp_path / "slide.preview.png") as preview:
        assert preview.width > 1.9 * preview.height
    said = json.loads((tmp_path / "slide.json").read_text())
    assert sum(said["shares"].values()) == pytest.approx(1)
    assert list(said["shares"]) == ["a", "b", "c"]
    assert not (tmp_path / "slide.work").exists()


def test_a_slide_is_read_at_the_resolution_of_the_training(tmp_path):
    path, _ = slide_with_glass(tmp_path, 0.5)
    made = segment(unet(), path, tmp_path, mpp=2.0, tile=64)
    assert made.size == (200, 300)
    assert made.mpp == 2.0
    with pytest.raises(DataError, match="finer detail than was scanned"):
        segment(unet(), path, tmp_path / "b", mpp=0.2)


def test_labels_of_coarser_levels_are_those_of_most_pixels(tmp_path):
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 4, (300, 420)).astype(np.uint8)
    colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    path = write_pyramid(
        lambda y, x, h, w: fine[y : y + h, x : x + w], tmp_path / "m.tif", fine.shape, 1.0, tile=64, smallest=100,
        colours=colours,
    )  # fmt: skip
    levels = [page.asarray() for page in tifffile.TiffFile(path).pages]
    assert np.array_equal(levels[0], fine)
    assert len(levels) == 4
    for above, below in pairwise(levels):
        for y, x in rng.integers(0, below.shape, (200, 2)):
            counts = np.bincount(above[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel())
            assert below[y, x] == counts.argmax()


def test_a_run_that_stops_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    path, model = picture(tmp_path, 260, 300), unet()
    segment(model, path, tmp_path / "a", tile=128, everywhere=True)

    def ask(*arguments, real=room._ask, left=[6]):  # noqa: B006
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments)

    calls = []
    monkeypatch.setattr(room, "_ask", ask)
    with pytest.raises(KeyboardInterrupt):
        segment(model, path, tmp_path / "b", tile=128, everywhere=True)
    monkeypatch.undo()
    with pytest.raises(DataError, match="unfinished run with another margin"):
        segment(model, path, tmp_path / "b", tile=128, margin=16, everywhere=True)
    with pytest.raises(DataError, match="another model"):
        segment(unet(seed=1), path, tmp_path / "b", tile=128, everywhere=True)
    monkeypatch.setattr(room, "_ask", lambda *a, real=room._ask: calls.append(1) or real(*a))
    made = segment(model, path, tmp_path / "b", tile=128, everywhere=True)
    assert 0 < len(calls) < made.tiles
    assert np.array_equal(labels(tmp_path / "a"), labels(tmp_path / "b"))
    with pytest.raises(DataError, match="there already"):
        segment(model, path, tmp_path / "b", tile=128, everywhere=True)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path):
    """SIGKILL in the middle of a row, from outside; the labels are those of a run that was left alone."""
    path = picture(tmp_path, 300, 260)
    program = """
import os, sys, torch
from equipath import segment as room
from equipath.models.unet import UNet
torch.manual_seed(0), torch.set_num_threads(1)
net = UNet(3, 3, width=4, depth=2, pad_to_valid=True).eval()

def segment(out, left):  # in a process of its own, forked, because importing everything takes seconds
    def ask(*a, real=room._ask):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return real(*a)
    child = os.fork()
    if child == 0:
        room._ask = ask
        room.segment(net, sys.argv[1], os.path.join(sys.argv[2], out), tile=128, everywhere=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(segment("a", -1), *(segment("b", 9) for _ in range(3)))
"""
    words = [sys.executable, "-c", program, str(path), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "-9", "-9", "0"], done.stdout + done.stderr
    assert np.array_equal(labels(tmp_path / "a"), labels(tmp_path / "b"))


def test_a_full_disk_is_said_and_nothing_done_is_lost(tmp_path, monkeypatch):
    path, model = picture(tmp_path), unet()
    segment(model, path, tmp_path / "a", tile=128, everywhere=True)
    real, calls = room.os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(room.os, "fsync", fsync)
    with pytest.raises(DataError, match=r"No space left on device.*make room"):
        segment(model, path, tmp_path / "b", tile=128, everywhere=True)
    segment(model, path, tmp_path / "b", tile=128, everywhere=True)
    assert np.array_equal(labels(tmp_path / "a"), labels(tmp_path / "b"))


def test_what_stops_the_writing_is_said_with_what_to_do(tmp_path, monkeypatch):
    path, model = picture(tmp_path, 64, 64), unet()
    with pytest.raises(DataError, match=r"core.work could not be written .*; choose another folder and run"):
        segment(model, path, path)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=900))
    with pytest.raises(DataError, match=r"has 900 B free and the mask may need 6\.1 kB: make room"):
        segment(model, path, tmp_path / "a")


def test_a_folder_that_may_not_be_written_is_no_full_disk(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a"))

    path, model = picture(tmp_path, 64, 64), unet()
    monkeypatch.setattr(room.Path, "mkdir", refused)  # root may write anywhere
    with pytest.raises(DataError, match=r"could not be written \(Permission denied\); choose another folder"):
        segment(model, path, tmp_path / "a")


def test_two_runs_at_once_do_not_share_a_folder(tmp_path):
    path, model, said = picture(tmp_path, 260, 300), unet(), []

    def meanwhile(done, windows):
        if not said:
            with pytest.raises(DataError, match=r"Another process .*wait for its end, or choose") as two:
                segment(model, path, tmp_path / "a", tile=128, everywhere=True)
            said.append(two)

    segment(model, path, tmp_path / "a", tile=128, everywhere=True, progress=meanwhile)
    segment(model, path, tmp_path / "b", tile=128, everywhere=True)
    assert said
    assert np.array_equal(labels(tmp_path / "a"), labels(tmp_path / "b"))
    assert not (tmp_path / "a" / "core.work").exists()


def test_a_run_that_came_second_leaves_what_the_first_one_made(tmp_path, monkeypatch):
    """The mask appears between the first look and the taking of the folder."""
    path, model = picture(tmp_path, 64, 64), unet()
    real = room._Unfinished.__enter__

    def enter(self):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "core.mask.tif").write_text("the first one's")
        return real(self)

    monkeypatch.setattr(room._Unfinished, "__enter__", enter)
    with pytest.raises(DataError, match="there already"):
        segment(model, path, tmp_path / "a")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["core.mask.tif"]
    assert (tmp_path / "a" / "core.mask.tif").read_text() == "the first one's"


def test_a_photograph_is_seen_as_viewers_show_it(tmp_path):
    """A camera held upright leaves the turn to who reads the file; what is transparent is glass."""
    upright, model = tissue(90, 60), unet()
    tag = Image.Exif()
    tag[0x0112] = 6  # shown after a quarter turn clockwise
    lying = Image.fromarray(np.rot90(upright).copy())
    lying.save(tmp_path / "turned.png", exif=tag)
    Image.fromarray(upright).save(tmp_path / "plain.png")
    for name in ("turned", "plain"):
        segment(model, tmp_path / f"{name}.png", tmp_path, everywhere=True)
    assert labels(tmp_path, "turned").shape == (90, 60)
    assert np.array_equal(labels(tmp_path, "turned"), labels(tmp_path, "plain"))
    clear = np.dstack([tissue(400, 300), np.full((400, 300), 255, np.uint8)])
    clear[:200] = 0  # black, if one did not look at the fourth channel
    Image.fromarray(clear).save(tmp_path / "clear.png")
    segment(model, tmp_path / "clear.png", tmp_path, mpp=2.0)
    there = labels(tmp_path, "clear")
    assert (there[:180] == OUTSIDE).all()
    assert (there[220:] != OUTSIDE).mean() > 0.99


def test_the_mask_comes_last_since_it_says_that_all_is_done(tmp_path, monkeypatch):
    path, model = picture(tmp_path), unet()

    def stopped(*arguments, **options):
        assert {"core.json", "core.preview.png"} <= {file.name for file in (tmp_path / "a").iterdir()}
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "write_pyramid", stopped)
    with pytest.raises(KeyboardInterrupt):
        segment(model, path, tmp_path / "a", tile=128, everywhere=True)
    monkeypatch.undo()
    monkeypatch.setattr(room, "_ask", None)  # all windows are done
    made = segment(model, path, tmp_path / "a", tile=128, everywhere=True)
    assert json.loads((tmp_path / "a" / "core.json").read_text())["tiles"] == made.tiles
    assert not (tmp_path / "a" / "core.work").exists()


def test_notes_of_an_unfinished_run_that_are_damaged_are_named(tmp_path):
    path, work = picture(tmp_path), tmp_path / "a" / "core.work"
    work.mkdir(parents=True)
    (work / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings.json is damaged .*; delete \S*core.work to start anew"):
        segment(unet(), path, tmp_path / "a", tile=128)


def test_a_mask_says_microns_only_where_they_are_known(tmp_path):
    path, model = picture(tmp_path, 64, 64), unet()
    segment(model, path, tmp_path / "a")
    with pytest.raises(DataError, match="does not say its microns per pixel"):
        WholeSlide(tmp_path / "a" / "core.mask.tif")
    segment(model, path, tmp_path / "b", mpp=0.5)
    assert WholeSlide(tmp_path / "b" / "core.mask.tif").mpp == pytest.approx(0.5)


def test_memory_does_not_grow_with_the_slide(tmp_path):
    """numpy's and torch's peak while a row of windows goes by, at two widths."""
    import tracemalloc

    peaks = []
    for wide in (1000, 4000):
        base = tissue(300, 1000)
        path = write_pyramid(
            lambda y, x, h, w, base=base: base[y : y + h][:, np.arange(x, x + w) % 1000],
            tmp_path / f"{wide}.tif", (300, wide), 1.0,
        )  # fmt: skip
        model = nn.Conv2d(3, 2, 3, padding=1)
        tracemalloc.start()
        segment(model, path, tmp_path, tile=128, margin=2, everywhere=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # One row's labels, the writer's strip of tiles and the preview do grow: bytes a column, no activations.
    assert peaks[1] - peaks[0] < 3000 * 300 * 8


def test_one_channel_is_class_one_against_the_rest(tmp_path):
    torch.manual_seed(0)
    path = picture(tmp_path, 80, 90)
    model = nn.Conv2d(3, 1, 3, padding=1)
    segment(model, path, tmp_path / "out", margin=1, tile=64, everywhere=True, classes=("rest", "gland"))
    x = torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0)[None] / 255
    got = labels(tmp_path / "out")
    with torch.no_grad():
        logit = model(x)[0, 0]
    sure = logit.abs() > 1e-4
    assert np.array_equal(got[sure], (logit > 0)[sure].numpy())


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (lambda f: f / "no.png", {}, DataError, "is missing"),
        (lambda f: f, {}, DataError, "is a folder"),
        (lambda f: _bytes(f / "a.png", b""), {}, DataError, "a.png is empty"),
        (lambda f: _bytes(f / "a.png", b"words"), {}, DataError, "cannot be read as a picture"),
        (lambda f: _bytes(f / "a.tif", b"II*\0\x08\0"), {}, DataError, "truncated or damaged"),
        (lambda f: _white(f / "a.png"), {}, DataError, "no tissue.*--everywhere"),
        (picture, {"margin": 64, "tile": 128}, ValueError, "less than half"),
        (picture, {"classes": ("a",)}, ValueError, "1 names for a network of 3"),
        (picture, {"mpp": -1.0}, ValueError, "positive"),
        (picture, {"mpp": 1.0, "slide_mpp": 0.5}, DataError, "plain picture .*or give 0.5 as mpp too"),
        (picture, {"device": "cuda:99"}, ValueError, "cuda:99"),
        (picture, {"device": "gpu"}, ValueError, "'gpu' is not to be had"),
        (picture, {"tile": 0}, ValueError, "tile of 0"),
        (lambda f: _deep(f / "a.png"), {}, DataError, "more than 8 bits"),
        (picture, {"blend": "magic"}, ValueError, "known are"),
    ],
)
def test_mistakes_are_said(tmp_path, make, options, error, words):
    with pytest.raises(error, match=words):
        segment(unet(), make(tmp_path), tmp_path / "out", **options)


def _bytes(path, body):
    path.write_bytes(body)
    return path


def _white(path):
    Image.new("RGB", (400, 400), (244, 244, 244)).save(path)
    return path


def _deep(path):
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(path)
    return path


def test_a_truncated_slide_is_said(tmp_path):
    path, _ = slide_with_glass(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated"):
        segment(unet(), path, tmp_path / "out")


def test_a_network_without_a_map_is_said(tmp_path):
    from equipath.models.resnet import ResNet18

    with pytest.raises(ValueError, match="no map of classes"):
        segment(ResNet18(3, 2, 2, pad_to_valid=True), picture(tmp_path, 64, 64), tmp_path / "out", tile=64)
    with pytest.raises(ValueError, match="give a margin"):
        segment(nn.Conv2d(3, 2, 3, padding=1), picture(tmp_path), tmp_path / "out", tile=64)


def test_a_network_of_ones_own_is_taken_or_told_what_it_lacks(tmp_path):
    class Halves(nn.Conv2d):
        """Pools once and goes up again, as many do: even sizes only."""

        def forward(self, x):
            y = super().forward(nn.functional.max_pool2d(x, 2))
            return nn.functional.interpolate(y, scale_factor=2) + x.mean(1, keepdim=True)

    class Named(Halves):
        def forward(self, x):
            return {"out": super().forward(x)}

    path, model = picture(tmp_path, 75, 61), Halves(3, 2, 1)
    with pytest.raises(ValueError, match=r"Halves failed on a window of 75 x 61 pixels \(.*\); .* as `sizes`"):
        segment(model, path, tmp_path / "a", everywhere=True)
    with pytest.raises(ValueError, match=r"Named gives a dict for \(1, 3, 76, 64\), no map of classes"):
        segment(Named(3, 2, 1), picture(tmp_path, 76, 64), tmp_path / "b", everywhere=True)
    path, model.sizes = picture(tmp_path, 75, 61), SizeContract(2)
    segment(model, path, tmp_path / "c", everywhere=True)
    x = torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0)[None].float() / 255
    with torch.no_grad():
        expected = model(nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"))[0, :, :75, :61].argmax(0)
    assert np.array_equal(labels(tmp_path / "c"), expected)


def test_cores_are_clustered_alike(tmp_path):
    """Two sorts of tissue in every core: the clusters follow them, with the same number in all cores."""

    class Colours(nn.Module):
        """Features that are known: mean colours."""

        stages = (1,)

        def features(self, x, layer):
            assert layer == 2
            assert x.shape[1:] == (3, 96, 128)
            return nn.functional.avg_pool2d(x, 4)

    cores = tmp_path / "cores"
    cores.mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        pixels = np.zeros((96, 128, 3), np.uint8)
        pixels[:, :64] = (200, 80, 150)
        pixels[:, 64:] = (90, 60, 160)
        noise = rng.integers(-6, 7, pixels.shape)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(cores / f"core{k}.png")
    model = Colours()
    rows = cluster_folder(model, cores, tmp_path / "out", 2, layer=2, side=128)
    assert [row["name"] for row in rows] == ["core0.png", "core1.png", "core2.png"]
    found = [np.array(Image.open(tmp_path / "out" / f"core{k}.clusters.png")) for k in range(3)]
    for one in found:
        assert one.shape == (96, 128)
        assert (one[24:72, 12:52] == found[0][48, 32]).mean() > 0.95
        assert (one[24:72, 76:116] == 1 - found[0][48, 32]).mean() > 0.95
    assert all(row["cluster 1"] + row["cluster 2"] == pytest.approx(1, abs=1e-3) for row in rows)
    assert (tmp_path / "out" / "clusters.csv").read_text().count("\n") == 4
    white = np.array(Image.open(cores / "core0.png"))
    white[:, :64] = 240
    Image.fromarray(white).save(cores / "core0.png")
    for everywhere, left in ((False, {OUTSIDE}), (True, {0, 1})):
        place = tmp_path / f"everywhere {everywhere}"
        cluster_folder(model, cores, place, 2, layer=2, side=128, everywhere=everywhere)
        labels = np.array(Image.open(place / "core0.clusters.png"))[24:72, 12:52]
        assert set(labels.ravel().tolist()) <= left
    with pytest.raises(DataError, match="there already"):
        cluster_folder(model, cores, tmp_path / "out", 2)
    for place in (cores, cores / "core0.png"):
        with pytest.raises(DataError, match="choose another for the results"):
            cluster_folder(model, cores, place, 2)
    with pytest.raises(DataError, match="could not be written"):
        cluster_folder(model, cores, cores / "core0.png" / "out", 2, layer=2, side=128)
    model.features = lambda x, layer: nn.functional.avg_pool2d(x / 0, 4)
    with pytest.raises(ValueError, match="features that are not finite"):
        cluster_folder(model, cores, tmp_path / "out3", 2, layer=2, side=128)
    (cores / "core0.jpg").write_bytes((cores / "core0.png").read_bytes())
    with pytest.raises(DataError, match="would have one name"):
        cluster_folder(model, cores, tmp_path / "out3", 2)
    assert not (tmp_path / "out3").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        cluster_folder(model, tmp_path / "empty", tmp_path / "out3", 2)
    with pytest.raises(ValueError, match="no layers to cluster"):
        cluster_folder(unet(), cores, tmp_path / "out3", 2)


def test_an_unreadable_core_is_left_out_and_said(tmp_path):
    class Colours(nn.Module):
        stages = (1,)

        def features(self, x, layer):
            return nn.functional.avg_pool2d(x, 4)

    cores = tmp_path / "cores"
    cores.mkdir()
    pixels = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8)
    for k in range(4):
        Image.fromarray(np.roll(pixels, k, 0)).save(cores / f"core{k}.png")
    whole = (cores / "core0.png").read_bytes()
    (cores / "core0.png").write_bytes(whole[: len(whole) // 2])
    (cores / "core2.png").write_text("no picture")
    (cores / "._core1.png").write_text("what a Mac puts beside a file")
    said: list[str] = []
    rows = cluster_folder(Colours(), cores, tmp_path / "out", 2, side=32, left_out=said.append)
    assert [row["name"] for row in rows] == ["core1.png", "core3.png"]
    assert [line.split(":")[0] for line in said] == ["core0.png is left out", "core2.png is left out"]
    table = (tmp_path / "out" / "clusters.csv").read_text()
    assert table.count("\n") == 3
    with pytest.warns(UserWarning, match="core[02].png is left out"):
        cluster_folder(Colours(), cores, tmp_path / "warned", 2, side=32)
    # What is left out does not change the others' clusters.
    for name in ("core0.png", "core2.png"):
        (cores / name).unlink()
    cluster_folder(Colours(), cores, tmp_path / "without", 2, side=32)
    assert (tmp_path / "without" / "clusters.csv").read_text() == table
    (cores / "core1.png").write_bytes(whole[:40])
    (cores / "core3.png").write_bytes(whole[:40])
    with pytest.raises(DataError, match="none of the 2 pictures"):
        cluster_folder(Colours(), cores, tmp_path / "none", 2, side=32, left_out=said.append)
    _white(cores / "core1.png")
    with pytest.raises(ValueError, match=r"cannot make 2 clusters: .*--everywhere"):
        cluster_folder(Colours(), cores, tmp_path / "none", 2, side=32, left_out=said.append)
    assert not (tmp_path / "none").exists()


def test_the_command_says_which_core_is_unreadable_and_ends_with_1(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from equipath import cli
    from equipath.models.resnet import ResNet18

    monkeypatch.setattr(cli, "_network", lambda _: (ResNet18(3, 2, 2, pad_to_valid=True), ("a", "b"), None))
    cores = tmp_path / "cores"
    cores.mkdir()
    pixels = np.random.default_rng(0).integers(60, 200, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(cores / "sound.png")
    (cores / "torn.png").write_bytes((cores / "sound.png").read_bytes()[:500])
    order = [
        "segment",
        cores,
        "--model",
        "any",
        "--cluster",
        2,
        "--layer",
        1,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(cli.app, [str(word) for word in order])
    assert done.exit_code == 1
    assert "1 pictures in 2 clusters" in done.output
    assert [line for line in done.output.splitlines() if "torn.png is left out" in line]
    assert (tmp_path / "out" / "sound.clusters.png").exists()


def test_every_label_has_its_own_colour():
    assert len({room._rgb(k) for k in range(OUTSIDE)} - {(255, 255, 255)}) == OUTSIDE


def test_the_command(tmp_path, monkeypatch):
    typer = pytest.importorskip("typer.testing")
    from equipath.cli import app

    monkeypatch.chdir(tmp_path)
    picture(tmp_path, 96, 120)
    done = typer.CliRunner().invoke(
        app, ["segment", "core.png", "--model", "first_unet", "--everywhere", "--tile", "64", "--margin", "8"]
    )
    assert done.exit_code == 0, done.output
    assert "healthy gland" in done.output
    assert "96 x 120 pixels" in done.output
    assert labels(tmp_path / "segmented").shape == (96, 120)
    assert "core.png does not say its microns per pixel and was taken to have 2, those of the training" in done.output
    bad = typer.CliRunner().invoke(app, ["segment", "core.png", "--model", "nowhere"])
    assert bad.exit_code == 1
    assert "There is no folder 'nowhere'" in bad.output
    bad = typer.CliRunner().invoke(
        app, ["segment", "core.png", "--model", "first_unet", "--mpp", "0", "--out", "b"]
    )
    assert bad.exit_code == 1
    assert "got mpp=0" in bad.output
    bad = typer.CliRunner().invoke(app, ["segment", "none.png", "--model", "first_unet"])
    assert bad.exit_code == 1
    assert bad.output.strip().endswith("give the path of a picture or a slide.")
    bad = typer.CliRunner().invoke(app, ["segment", "core.png", "--model", "."])
    assert bad.exit_code == 1
    assert "equipath.segment.segment take any network" in bad.output
