"""Compiled loops of vector slides: the same noise, labels and images as without, on every grid; and without a compiler."""

import itertools
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from equipath.cli import app
from equipath.data import load
from equipath.data.slides import CLASSES, KINDS, MATERIALS, Grid, Slide, native, render_batch
from equipath.data.slides.noise import sample
from equipath.data.wsi import write_slide

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]  # compiles; most draw whole slides

ATOL = 2e-4  # PyTorch's square roots of the outline, half a millimetre wide, end before a soft edge's 0.1 nm
LABELS = ("tissue", "nuclei", "tumour", "artefact", "material")


@pytest.fixture
def compiler():
    found = native.loops()
    if found is None:
        pytest.skip("no C compiler works here")
    return found


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """An empty cache on disk, and whatever is found during a test is forgotten after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._found.cache_clear()
    yield tmp_path / "cache" / "equipath"
    native._found.cache_clear()


def equal(a, b):
    for name in LABELS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=ATOL)


def test_noise_is_the_same_at_rows_and_at_single_points(compiler, rng):
    for shape, count, scale in itertools.product([(3, 70), (1, 1), (200,)], (1, 2, 4), (1 / 260, 1 / 2.6)):
        xy = torch.from_numpy(rng.uniform(-4000, 4000, (2, *shape)))
        each = len(shape) == 1
        offsets = torch.from_numpy(rng.uniform(0, 128, (2, *shape) if each else (2, shape[0], 1)))
        plain = sample(xy, scale, offsets, 4 - count, count)
        with native.use(compiler):
            got = sample(xy, scale, offsets, 4 - count, count)
        assert len(plain.unique()) > 1 or plain.numel() == 1
        assert torch.equal(got, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_the_same(compiler, kind, rng):
    """Sizes, resolutions from single nuclei to whole sections, angles, reflections and both stains, in one batch."""
    pairs = [
        (
            Slide(seed, kind, stain),
            Grid(tuple(rng.uniform(-300, 300, 2)), size, mpp, rng.uniform(0, 360), bool(seed % 2)),
        )
        for seed, ((size, mpp), stain) in enumerate(
            itertools.product(
                [((64, 45), 0.2), (96, 0.97), ((33, 70), 2.3), (40, 5.0), (1, 0.7), ((60, 80), 60.0)],
                ("he", "dab"),
            )
        )
    ]
    pairs.append((Slide(7, kind), Grid((10.0, 20.0), (300, 260), 0.5, 20.0)))  # more than one chunk
    seen = set()
    for plain, view in zip(render_batch(pairs, compiled=False), render_batch(pairs), strict=True):
        equal(plain, view)
        seen |= set(view.nuclei.unique().tolist())
    assert len(seen) > 50


def test_folds_ink_and_fat_are_the_same(compiler):
    """Where marks and fat lie, with pixels so fine that the loops do the colouring."""
    pairs = []
    for seed in (2, 8, 9):  # a fold, both, a ring of ink
        slide = Slide(seed, "lymph_node")
        p = slide.params
        fold = p["fold_at"] * np.array([p["fold_x"], p["fold_y"]])
        ring = np.array([p["pen_x"] + p["pen_r"], p["pen_y"]])
        pairs += [(slide, Grid(tuple(slide.frame.T @ place), (60, 120), 3.0)) for place in (fold, ring)]
    slide = Slide(8, "breast")
    points = np.random.default_rng(0).uniform(-1500, 1500, (2000, 2))
    fatty = points[slide.ground(points) == MATERIALS.index("fat")]
    pairs += [(slide, Grid(tuple(place), 60, 1.5)) for place in fatty[:2]]
    seen, fat = set(), 0
    for plain, view in zip(render_batch(pairs, compiled=False), render_batch(pairs), strict=True):
        equal(plain, view)
        seen |= set(view.artefact.unique().tolist())
        fat += int((view.tissue == CLASSES.index("fat")).sum())
    assert seen == {0, 1, 2}
    assert fat > 1000


def test_quarter_turns_permute_pixels(compiler):
    slide, size = Slide(3, "breast"), (45, 64)
    plain = slide.render(Grid((40.0, 10.0), size, 0.5), compiled=True)
    assert plain.image.std() > 0.01
    for flip, r in itertools.product((False, True), range(4)):
        turned = Grid((40.0, 10.0), size if r % 2 == 0 else size[::-1], 0.5, 90.0 * r, flip)
        view = slide.render(turned, compiled=True)
        for name in ("image", *LABELS):
            x = getattr(plain, name)
            want = torch.rot90(x.flip(-1) if flip else x, r, (-2, -1))
            atol = 1e-6 if name == "image" else 0
            torch.testing.assert_close(getattr(view, name), want, rtol=0, atol=atol)


def test_a_library_is_compiled_once_and_found_again(anew, monkeypatch):
    calls, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (calls.append(a), run(*a, **k))[1])
    if native.loops() is None:
        pytest.skip("no C compiler works here")
    before = len(calls)
    grid = Grid((0.0, 0.0), (30, 20), 0.9)
    want = Slide(2).render(grid).image
    for kind, size in itertools.product(KINDS, (5, 17)):
        Slide(1, kind).render(Grid((0.0, 0.0), (size, size + 3), 0.9))
    native._found.cache_clear()  # as in another process
    assert torch.equal(Slide(2).render(grid).image, want)
    assert before in (1, 2)
    assert len(calls) == before
    assert len(list(anew.iterdir())) == 1


def test_a_damaged_library_is_made_again(anew):
    if native.loops() is None:
        pytest.skip("no C compiler works here")
    (kept,) = anew.iterdir()
    want = kept.read_bytes()
    kept.unlink()  # another file: the loaded one stays as it is
    kept.write_bytes(want[: len(want) // 2])
    native._found.cache_clear()
    assert native.loops() is not None
    assert [len(path.read_bytes()) for path in anew.iterdir()] == [len(want)]


def test_where_nothing_may_be_written_it_is_compiled_for_the_process(anew, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))  # no folder can be made there
    if native.loops() is None:
        pytest.skip("no C compiler works here")
    grid = Grid((0.0, 0.0), (30, 20), 0.9)
    equal(Slide(2).render(grid, compiled=False), Slide(2).render(grid, compiled=True))


@pytest.mark.parametrize("how", ["absent", "broken"])
def test_without_a_compiler_a_sentence_says_so_and_the_view_is_the_same(anew, monkeypatch, tmp_path, how):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if how == "broken":
        (tmp_path / "cc").write_text("#!/bin/sh\necho no licence >&2\nexit 1\n")
        (tmp_path / "cc").chmod(0o755)
    grid = Grid((0.0, 0.0), (20, 30), 0.9)
    says = "none of cc, gcc and clang is found" if how == "absent" else "no licence"
    want = Slide(2).render(grid, compiled=False).image
    assert torch.equal(Slide(2).render(grid).image, want)  # nobody asked: no warning, which would be an error here
    with pytest.warns(UserWarning, match=says):
        assert torch.equal(Slide(2).render(grid, compiled=True).image, want)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_work_of_one_view(compiler, threads):
    slide, grid = Slide(3, "colon"), Grid((40.0, 10.0), (130, 301), 0.5)
    want = slide.render(grid)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = slide.render(grid)
    finally:
        torch.set_num_threads(before)
    for name in ("image", *LABELS):
        assert torch.equal(getattr(got, name), getattr(want, name)), name


def test_views_in_parts_and_in_batches_are_the_same_bit_for_bit(compiler):
    """A tile of a view, and a view beside others, have the values of the view alone."""
    for kind in KINDS:
        slide, size = Slide(5, kind), (90, 150)
        grid = Grid((30.0, -20.0), size, 0.5, 33.0)
        whole = slide.render(grid)
        batch = render_batch([(Slide(6, kind), grid), (slide, grid), (Slide(7, kind), grid)])[1]
        wide = slide.render(Grid((30.0, -20.0), (700, 150), 0.5, 33.0))  # more than one band
        for name in ("image", *LABELS):
            x = getattr(whole, name)
            assert torch.equal(getattr(batch, name), x), name
            torch.testing.assert_close(getattr(wide, name)[..., 305:395, :], x, rtol=0, atol=1e-5)


def test_pixels_wider_than_a_nucleus_and_other_devices_are_left_to_pytorch(compiler, monkeypatch):
    used = []
    render = native.Loops.render
    monkeypatch.setattr(native.Loops, "render", lambda self, *a: (used.append(1), render(self, *a))[1])
    Slide(2).render(Grid((0.0, 0.0), 20, 5.0))
    Slide(2).render(Grid((0.0, 0.0), 20, 1.0), compiled=False)
    assert not used
    Slide(2).render(Grid((0.0, 0.0), 20, 1.0))
    assert len(used) == 1
    assert render_batch([]) == []


def test_threads_and_their_neighbours_do_not_disturb_each_other(compiler):
    pairs = [(Slide(k, kind), Grid((0.0, 30.0), 60, 0.8, 20.0 * k)) for k, kind in enumerate([*KINDS] * 2)]
    want = [slide.render(grid, compiled=False) for slide, grid in pairs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda k: pairs[k][0].render(pairs[k][1], compiled=[False, None, True][k % 3]), range(8)))
    for a, b in zip(want, got, strict=True):
        equal(a, b)
    assert native.active(torch.empty(0)) is None  # nothing is left switched on


def test_workers_render_what_the_process_itself_renders(compiler):
    options = {"patients": 2, "per_patient": 4, "size": 40}
    plain, data = load("slides", "tumour", compiled=False, **options), load("slides", "tumour", **options)
    batches = DataLoader(data, 4, num_workers=2)
    images = torch.cat([batch["image"] for batch in batches])
    want = torch.stack([plain[k]["image"] for k in range(len(plain))])
    torch.testing.assert_close(images, want, rtol=0, atol=ATOL)


def test_whole_slides_and_the_command_line(compiler, tmp_path, monkeypatch):
    used = []
    render = native.Loops.render
    monkeypatch.setattr(native.Loops, "render", lambda self, *a: (used.append(1), render(self, *a))[1])
    write_slide(Slide(3, "breast"), tmp_path / "a.tif", (300, 200), 0.5, compiled=False)
    assert not used
    write_slide(Slide(3, "breast"), tmp_path / "b.tif", (300, 200), 0.5)
    assert used
    for flag, name in (("--compiled", "b.tif"), ("--plain", "a.tif")):
        used.clear()
        arguments = ["data", "slide", str(tmp_path / f"c{flag}.tif"), "--seed", "3", "--kind", "breast"]
        result = CliRunner().invoke(app, [*arguments, "--size", "300", "200", flag])
        assert result.exit_code == 0, result.output
        assert bool(used) == (flag == "--compiled")
        assert (tmp_path / f"c{flag}.tif").read_bytes() == (tmp_path / name).read_bytes()
