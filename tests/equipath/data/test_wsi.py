"""Whole slides: written strip by strip and read back equal, at any resolution and place.

Broken files are told.
"""

import numpy as np
import pytest

from equipath.data import DataError, camelyon16, load
from equipath.data.wsi import WholeSlide, find_tissue, write_pyramid, write_slide

openslide = pytest.importorskip("openslide")
pytest.importorskip("tifffile")


def smooth(height, width, seed=0):
    """A picture with structure at all scales, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / p + a) + np.cos(y / q + b) for p, q, a, b in rng.uniform(3, 60, (3, 4))]
    return (
        (127 + 40 * np.stack(waves, -1) + rng.normal(0, 3, (height, width, 3))).clip(0, 255).astype(np.uint8)
    )


def write(path, picture, **options):
    def read(y, x, high, wide):
        return picture[y : y + high, x : x + wide]

    return write_pyramid(
        read, path, picture.shape[:2], **({"mpp": 0.5, "tile": 64, "block": 100, "smallest": 50} | options)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    picture = smooth(403, 517)
    return picture, write(tmp_path_factory.mktemp("slide") / "a.tif", picture)


def halved(picture):
    p = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2].astype(int)
    return ((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2] + 2) // 4).astype(np.uint8)


def test_the_finest_level_comes_back_equal(written):
    picture, path = written
    with WholeSlide(path) as slide:
        assert slide.size == (403, 517)
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.read(0, 0, (403, 517)), picture)
        assert np.array_equal(slide.read(30 * 0.5, 201 * 0.5, (64, 100)), picture[201:265, 30:130])


def test_every_level_is_the_mean_of_the_one_before(written):
    picture, path = written
    with WholeSlide(path) as slide:
        assert slide.levels == pytest.approx([0.5, 1, 2, 4, 8])
        for k in range(1, 5):
            picture = halved(picture)
            assert slide._slide.level_dimensions[k] == (picture.shape[1], picture.shape[0])
            assert np.array_equal(slide.read(0, 0, picture.shape[:2], 0.5 * 2**k), picture), k


def test_openslide_finds_the_resolution_and_the_tiles(written):
    properties = openslide.OpenSlide(str(written[1])).properties
    assert float(properties["openslide.mpp-x"]) == pytest.approx(0.5)
    assert float(properties["openslide.mpp-y"]) == pytest.approx(0.5)
    assert properties["openslide.level[0].tile-width"] == "64"


def test_no_scratch_is_left(written):
    assert [p.name for p in written[1].parent.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("mpp", [0.3, 0.5, 0.75, 1.0, 1.3, 2.9])
def test_neighbouring_regions_fit_together(tmp_path, mpp):
    with WholeSlide(write(tmp_path / "b.tif", smooth(448, 512))) as slide:
        whole = slide.read(10.0, 20.0, (60, 48), mpp)
        upper, lower = slide.read(10.0, 20.0, (25, 48), mpp), slide.read(10.0, 20.0 + 25 * mpp, (35, 48), mpp)
        difference = np.abs(np.concatenate([upper, lower]).astype(int) - whole)
        assert difference.max() <= 1  # PIL interpolates with 8 bits of weight


@pytest.mark.parametrize("ratio", [3, 5])
def test_a_whole_ratio_is_an_area_mean(tmp_path, ratio):
    picture = smooth(300, 300)
    path = write(tmp_path / "flat.tif", picture, smallest=1000)  # one level only
    with WholeSlide(path) as slide:
        assert len(slide.levels) == 1
        got = slide.read(0, 0, (300 // ratio, 300 // ratio), 0.5 * ratio)
        n = 300 // ratio * ratio
        mean = picture[:n, :n].reshape(n // ratio, ratio, n // ratio, ratio, 3).mean((1, 3))
        assert np.abs(got - mean).max() <= 1


def test_a_large_region_is_read_in_pieces(written, monkeypatch):
    import equipath.data.wsi as wsi

    with WholeSlide(written[1]) as slide:
        whole = slide.read(3.3, 4.4, (90, 70), 0.9)
        monkeypatch.setattr(wsi, "_PIXELS_AT_ONCE", 2000)
        assert np.abs(slide.read(3.3, 4.4, (90, 70), 0.9).astype(int) - whole).max() <= 1


def test_outside_the_slide_is_white(written):
    picture, path = written
    with WholeSlide(path) as slide:
        got = slide.read(-10, -5, (30, 40), 0.5)
        assert (got[:10] == 255).all()
        assert (got[:, :20] == 255).all()
        assert np.array_equal(got[10:, 20:], picture[:20, :20])
        assert (slide.read(10_000, 10_000, (5, 5)) == 255).all()


@pytest.mark.parametrize("overlap", [0, 16])
def test_tiles_cover_the_slide_lazily(written, overlap):
    picture, path = written
    with WholeSlide(path) as slide:
        seen = np.zeros((403, 517), int)
        for tile in slide.tiles(100, overlap=overlap):
            high, wide = tile.image.shape[:2]
            window = np.s_[tile.row : tile.row + high, tile.column : tile.column + wide]
            assert np.array_equal(tile.image, picture[window])
            assert (tile.x, tile.y) == (tile.column * 0.5, tile.row * 0.5)
            seen[window] += 1
        assert seen.min() == 1
        calls = []
        slide.read = lambda *a: calls.append(a)
        iterator = slide.tiles(100)
        assert not calls
        next(iterator)
        assert len(calls) == 1


def stained(height=320, width=400):
    """A slide with a disk of tissue, a hole, and dust; and where the tissue is."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - 160, x - 200) < 100
    picture = np.full((height, width, 3), 243, np.uint8)
    rng = np.random.default_rng(0)
    picture[inside] = rng.integers(-20, 20, (inside.sum(), 3)) + np.array((190, 110, 170))
    picture[np.hypot(y - 160, x - 200) < 3] = 243
    picture[10:13, 10:13] = (60, 20, 120)
    return picture, inside


def test_tissue_is_found():
    picture, inside = stained()
    mask = find_tissue(picture, mpp=8.0)
    overlap = 2 * (mask & inside).sum() / (mask.sum() + inside.sum())
    assert overlap > 0.98
    assert mask[160, 200]  # the small hole is filled
    assert not mask[:40].any()  # the dust is dropped


def test_glass_has_no_tissue_and_tissue_no_glass():
    assert not find_tissue(np.full((50, 60, 3), 240, np.uint8)).any()
    full = np.random.default_rng(0).integers(100, 200, (80, 80, 3)).astype(np.uint8)
    full[..., 1] //= 2
    assert find_tissue(full).mean() > 0.95
    for none in (np.zeros((5, 5)), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="RGB picture"):
            find_tissue(none)
    with pytest.raises(ValueError, match="mpp=0"):
        find_tissue(full, 0)


@pytest.mark.parametrize("side", [20, 96, 256])
def test_a_tile_smaller_than_the_least_piece_is_told_too(side):
    """At 0.5 µm a pixel, all of these are less than the 20 000 µm² that count on a slide."""
    white, black = np.full((side, side, 3), 244, np.uint8), np.zeros((side, side, 3), np.uint8)
    assert not find_tissue(white, 0.5).any()
    assert not find_tissue(black, 0.5).any()
    noise = np.random.default_rng(0).integers(-20, 20, (side, side, 3))
    full = (noise + np.array((190, 110, 170))).astype(np.uint8)
    assert find_tissue(full, 0.5).mean() > 0.95
    if side >= 96:
        half = full.copy()
        half[:, : side // 2] = 244
        mask = find_tissue(half, 0.5)
        assert mask[:, : side // 2].mean() < 0.1
        assert mask[:, side // 2 :].mean() > 0.9


def pasted(picture, glass, seed, part):
    """A picture with glass of one colour, noise of a scanner and a blurred edge over a part of it; and where."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    wave = ndimage.gaussian_filter(rng.normal(size=(height, width)), height / 7, mode="reflect")
    where = wave > np.quantile(wave, 1 - part)
    share = ndimage.gaussian_filter(where.astype(float), 1)[..., None]
    noisy = np.array(glass) + rng.normal(0, 1, picture.shape)
    return (noisy * share + picture * (1 - share)).round().clip(0, 255).astype(np.uint8), where


def told(picture, where):
    """Part of the glass that is missed and part of the tissue that is taken for glass, 3 pixels off the edge."""
    from scipy import ndimage

    found = ~find_tissue(picture, 1.0, 400, 400)
    missed = ~found[ndimage.binary_erosion(where, iterations=3, border_value=1)]
    return missed.mean(), found[~ndimage.binary_dilation(where, iterations=3)].mean()


def test_pale_stroma_is_no_glass():
    """Fibres paler than any threshold on saturation would keep, alone and beside glass of several tints."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    fibres = ndimage.gaussian_filter(rng.normal(size=(200, 200)), (1.5, 5))
    fibres = (fibres / fibres.std())[..., None]
    stroma = np.array((222, 206, 209)) + fibres * np.array((5, 9, 8)) + rng.normal(0, 1, (200, 200, 3))
    stroma = stroma.round().clip(0, 255).astype(np.uint8)
    assert find_tissue(stroma, 1.0, 400, 400).all()
    for glass in ((243, 243, 243), (232, 234, 240), (238, 230, 222)):
        missed, false = told(*pasted(stroma, glass, 1, 0.4))
        assert missed < 0.02
        assert false < 0.02


def test_glass_of_two_shades_and_black_borders_are_no_tissue():
    picture, inside = stained()
    picture[:, :60] = (222, 222, 223)  # outside the cover slip
    picture[:40] = 0  # never scanned
    mask = find_tissue(picture, mpp=8.0)
    assert (mask == inside).mean() > 0.98


WHOLE = ("01_1", "01_3", "01_5", "03_4", "04_8", "05_2")
"""Fields of TNBC that hold no glass, to the eye."""


def test_real_fields_without_glass_stay_whole_and_with_it_are_told(tissue_data):
    seen = 0
    for split in ("train", "val", "test"):
        items = load("tnbc", split=split, root=tissue_data)
        for k, name in enumerate(items.names):
            if name not in WHOLE:
                continue
            picture = (items[k]["image"].permute(1, 2, 0) * 255).round().byte().numpy()
            seen += 1
            assert find_tissue(picture, 1.0, 400, 400).mean() > 0.95, name
            if seen % 2 == 0:
                missed, false = told(*pasted(picture, (235, 235, 238), k, 0.35))
                assert missed < 0.05, name
                assert false < 0.05, name
    assert seen == len(WHOLE)


@pytest.mark.parametrize(("kind", "seed"), [("breast", 3), ("prostate_core", 5)])
def test_rendered_glass_is_found_at_low_and_at_high_resolution(kind, seed):
    from scipy import ndimage

    from equipath.data.slides import MATERIALS, Grid, Slide

    slide = Slide(seed, kind, artefacts=False)
    x0, y0, x1, y1 = slide.extent
    whole = Grid((0.0, 0.0), (int((y1 - y0) / 12), int((x1 - x0) / 12)), 12.0)
    tiles = [Grid((x0 * 0.3, y0 * 0.2), (160, 160), 0.5), Grid((0.0, y1 * 0.1), (160, 160), 2.0)]
    empty = ("fat", "mucus", "blood", "lumen", "lumen_t", "lumen_3", "lumen_4")
    for grid, area in ((whole, 20_000.0), (tiles[0], 200.0), (tiles[1], 800.0)):
        view = slide.render(grid)
        picture = (view.image.permute(1, 2, 0) * 255).round().byte().numpy()
        found = ~find_tissue(picture, grid.mpp, area, area)
        near = {
            name: np.isin(view.material.numpy(), [MATERIALS.index(m) for m in names])
            for name, names in (("glass", ("glass",)), ("empty", empty))
        }
        core = ndimage.binary_erosion(near["glass"], iterations=2, border_value=1)
        tissue = ~ndimage.binary_dilation(near["glass"] | near["empty"], iterations=3)
        assert not core.any() or found[core].mean() > 0.97
        assert found[tissue].mean() < 0.03


def test_only_tiles_with_tissue(tmp_path):
    picture, inside = stained()
    with WholeSlide(write(tmp_path / "a.tif", picture, mpp=8.0)) as slide:
        tissue = slide.tissue(16.0)
        assert tissue.shape == (160, 200)
        tiles = list(slide.tiles(40, tissue=tissue, least=0.3))
        assert 10 < len(tiles) < 45
        for tile in tiles:
            assert inside[tile.row : tile.row + 40, tile.column : tile.column + 40].mean() > 0.2


# --- broken files


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_truncated_slides_are_told_at_once(written, tmp_path, part):
    body = written[1].read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(body[: int(len(body) * part)])
    with pytest.raises(DataError, match=r"truncated|damaged"):
        WholeSlide(path)


def test_damaged_tiles_are_told_when_read(written, tmp_path):
    body = bytearray(written[1].read_bytes())
    import tifffile

    with tifffile.TiffFile(written[1]) as tiff:
        begin = tiff.pages[0].dataoffsets[0]
    body[begin : begin + 400] = b"\xff" * 400
    path = tmp_path / "bad.tif"
    path.write_bytes(body)
    with WholeSlide(path) as slide, pytest.raises(DataError, match="cannot be decoded"):
        slide.read(0, 0, (64, 64))


@pytest.mark.parametrize(
    ("body", "words"), [(b"", "empty"), (b"hello", "not a slide"), (b"II*\0garbage", "truncated")]
)
def test_what_is_no_slide_is_told(tmp_path, body, words, capfd):
    path = tmp_path / "x.tif"
    path.write_bytes(body)
    with pytest.raises(DataError, match=words):
        WholeSlide(path)
    assert capfd.readouterr().err == ""  # the sentence is all; tifffile would add lines of its own
    with pytest.raises(DataError, match="missing"):
        WholeSlide(tmp_path / "none.tif")


def test_a_slide_without_a_resolution_asks_for_it(tmp_path):
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(128, 128), tile=(64, 64), photometric="rgb", metadata=None)
    with pytest.raises(DataError, match="mpp="):
        WholeSlide(path)
    with WholeSlide(path, mpp=0.25) as slide:
        assert slide.extent == (32.0, 32.0)
        for call, words in (
            (lambda: slide.read(0, 0, (8, 8), mpp=-1), "must be positive"),
            (lambda: slide.read(0, 0, (8.5, 8)), "whole pixels"),
            (lambda: slide.read(float("nan"), 0, (8, 8)), "finite numbers"),
            (lambda: next(slide.tiles(64, overlap=64)), "overlap of 64"),
            (lambda: next(slide.tiles(64, overlap=-1)), "overlap of -1"),
            (lambda: next(slide.tiles(64, mpp=0)), "mpp=0"),
        ):
            with pytest.raises(ValueError, match=words):
                call()


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def read(y, x, high, wide):
        if y > 100:
            raise KeyboardInterrupt
        return np.zeros((high, wide, 3), np.uint8)

    with pytest.raises(KeyboardInterrupt):
        write_pyramid(read, tmp_path / "a.tif", (300, 300), 0.5, tile=64)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path):
    def read(y, x, high, wide):
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        write_pyramid(read, tmp_path / "a.tif", (300, 300), 0.5, tile=64)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="could not be written"):
        write_pyramid(read, tmp_path / "file" / "a.tif", (300, 300), 0.5)
    with pytest.raises(DataError, match="is a folder"):
        write_pyramid(read, tmp_path, (300, 300), 0.5)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="multiple of 16"):
        write_pyramid(read, tmp_path / "a.tif", (300, 300), 0.5, tile=50)
    with pytest.raises(ValueError, match="asked for"):
        write_pyramid(lambda *_: np.zeros((1, 1, 3), np.uint8), tmp_path / "a.tif", (300, 300), 0.5)


# --- rendered slides


def test_a_rendered_slide_is_written_and_read_back(tmp_path):
    slides = pytest.importorskip("equipath.data.slides")
    scene = slides.Slide(seed=3)
    done = []
    path = write_slide(
        scene,
        tmp_path / "scene.tif",
        (200, 260),
        mpp=2.0,
        tile=64,
        block=128,
        progress=lambda *a: done.append(a),
    )
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    x0, y0, x1, y1 = scene.extent
    whole = scene.render(slides.Grid(center=((x0 + x1) / 2, (y0 + y1) / 2), size=(200, 260), mpp=2.0)).image
    expected = (whole * 255).round().byte().permute(1, 2, 0).numpy()
    with WholeSlide(path) as slide:
        assert np.array_equal(slide.read(0, 0, (200, 260)), expected)
        assert slide.mpp == pytest.approx(2.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_pixels_of_a_section_in_bounded_memory(tmp_path):
    """A core rendered at 10,000 x 10,000 px, glass in its corners: the process that writes it holds, PyTorch
    included, less than twice the picture; regions at all levels equal the rendering.
    """
    import subprocess
    import sys

    from equipath.data.slides import Grid, Slide

    path, side, mpp = tmp_path / "core.tif", 10_000, 0.08
    script = (
        "import resource, sys, torch; torch.set_num_threads(1); from equipath.data.slides import Slide; "
        "from equipath.data.wsi import write_slide; "
        f"write_slide(Slide(5, 'prostate_core'), sys.argv[1], ({side}, {side}), {mpp}); "
        # Not ru_maxrss where there is another way: it starts from what the process that started this one held.
        "print(*[int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')] "
        "if sys.platform == 'linux' else [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(made.stdout) * unit < 600e6  # the picture alone has 300e6 bytes
    scene, rng, busy = Slide(5, "prostate_core"), np.random.default_rng(0), []
    with WholeSlide(path) as slide:
        assert slide.size == (side, side)
        assert len(slide.levels) == 6
        for k in range(20):
            level = k % 6
            size = 128 if level < 4 else 1024 >> level
            step = 2**level
            y, x = (int(v) for v in rng.integers(0, side // step - size, 2))
            middle = [(v * step + size * step / 2 - side / 2) * mpp for v in (x, y)]
            grid = Grid((middle[0], -middle[1]), size * step, mpp)
            expected = (scene.render(grid).image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            for _ in range(level):
                expected = halved(expected)
            got = slide.read(x * step * mpp, y * step * mpp, (size, size), mpp * step)
            difference = np.abs(got.astype(int) - expected)
            if level < 5:  # a colour may lie on the border of two of the 256 levels, but rarely
                assert (difference > 0).mean() < 1e-4
                assert difference.max() <= 1
            else:  # 312 pixels are no whole part of 10,000: the place is right to half a pixel of the finest
                assert difference.max() <= 4
                assert difference.mean() < 0.2
            busy.append(got.std() > 5)
    assert sum(busy) >= 12  # the others lie on the glass of the corners


# --- Camelyon16 and the segmentation variant of PCam


OUTLINE = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
<Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="_0" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="1100" Y="700"/><Coordinate Order="1" X="1500" Y="700"/>
<Coordinate Order="2" X="1500" Y="1100"/><Coordinate Order="3" X="1100" Y="1100"/></Coordinates></Annotation>
<Annotation Name="Annotation 1" Type="Polygon" PartOfGroup="_2" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="1200" Y="800"/><Coordinate Order="1" X="1300" Y="800"/>
<Coordinate Order="2" X="1300" Y="900"/><Coordinate Order="3" X="1200" Y="900"/></Coordinates></Annotation>
</Annotations><AnnotationGroups/></ASAP_Annotations>"""


@pytest.fixture(scope="module")
def camelyon(tmp_path_factory):
    """Slides at 0.243 µm in the bucket's layout: a disk of tissue each, a square of tumour in one of two."""
    root = tmp_path_factory.mktemp("camelyon")
    y, x = np.mgrid[:1600, :2000]
    rng = np.random.default_rng(0)
    picture = np.full((1600, 2000, 3), 243, np.uint8)
    inside = np.hypot(y - 800, x - 1000) < 700
    picture[inside] = rng.integers(-20, 20, (inside.sum(), 3)) + np.array((190, 110, 170))
    (root / "camelyon16/images").mkdir(parents=True)
    (root / "camelyon16/annotations").mkdir()
    for k in range(1, 11):
        for kind in ("normal", "tumor"):
            name = f"{kind}_{k:03d}"
            target = root / "camelyon16/images" / f"{name}.tif"
            if k == 1 and kind == "normal":
                write(target, picture, mpp=0.243, tile=256, block=2000, smallest=200)
                first = target
            else:
                target.symlink_to(first)
            if kind == "tumor":
                (root / "camelyon16/annotations" / f"{name}.xml").write_text(OUTLINE)
    return root


def test_outlines_become_masks_to_the_pixel(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(OUTLINE)
    mask = camelyon16.mask_of(path, 0, 0, (1600, 2000), 0.25, 0.25)
    assert mask.sum() == 400 * 400 - 100 * 100
    assert mask[700, 1100]
    assert mask[1099, 1499]
    assert not mask[850, 1250]
    coarse = camelyon16.mask_of(path, 0, 0, (400, 500), 1.0, 0.25)
    assert coarse.sum() == 100 * 100 - 25 * 25
    assert not camelyon16.mask_of(path, 5000, 5000, (10, 10), 1.0, 0.25).any()
    path.write_text(OUTLINE[:300])
    camelyon16.outlines.cache_clear()
    with pytest.raises(DataError, match="not whole XML"):
        camelyon16.mask_of(path, 0, 0, (10, 10), 1.0, 0.25)


def test_the_papers_tissue_filter():
    glass = np.full((64, 64, 3), 240, np.uint8)
    assert not camelyon16.is_tissue(glass)
    assert not camelyon16.is_tissue(np.zeros((64, 64, 3), np.uint8))
    tissue = glass.copy()
    tissue[20:44, 20:44] = (190, 110, 170)
    assert camelyon16.is_tissue(tissue)
    speck = glass.copy()
    speck[30, 30] = (190, 110, 170)  # a single pixel is blurred away
    assert not camelyon16.is_tissue(speck)


def test_patches_of_camelyon16(camelyon):
    options = {"root": camelyon, "patches": 40, "size": 32}
    sets = {s: load("camelyon16", split=s, **options) for s in ("train", "val", "test")}
    patients = {s: set(d.patients) for s, d in sets.items()}
    assert patients["train"].isdisjoint(patients["val"] | patients["test"])
    train = sets["train"]
    labels = [train[i]["label"] for i in range(len(train))]
    assert 8 <= sum(labels) <= 32
    for i in range(len(train)):
        item = train[i]
        assert item["image"].shape == (3, 32, 32)
        assert int(item["mask"].any()) == item["label"]
        assert camelyon16.is_tissue((item["image"].permute(1, 2, 0) * 255).byte().numpy())
    again = load("camelyon16", **options)
    assert again.names == train.names
    part = load("camelyon16", fraction=0.25, **options)
    assert len(part) == 10
    assert set(part.names) < set(train.names)


def test_pcams_segmentation_variant(camelyon):
    items = load("pcam", root=camelyon, variant="segmentation", patches=6)
    item = items[0]
    assert item["image"].shape == (3, 320, 320)
    assert item["mask"].shape == (320, 320)
    assert item["mpp"] == pytest.approx(0.972)
    with pytest.raises(ValueError, match="variant='x'"):
        load("pcam", root=camelyon, variant="x")
    with pytest.raises(TypeError, match="patches"):
        load("pcam", root=camelyon, patches=3)


def test_the_official_list_of_camelyon16(tmp_path):
    """The publisher's checksums.md5 names the files; slides have to be named, and exist."""
    import hashlib

    from test_fetch import Server

    from equipath.data import SOURCES
    from equipath.data.fetch import fetch

    server = Server()
    bodies = {f"/C/images/{n}.tif": n.encode() * 100 for n in ("tumor_001", "normal_001")}
    bodies |= {"/C/annotations/tumor_001.xml": OUTLINE.encode(), "/C/masks/tumor_001_mask.tif": b"m" * 50}
    for path, body in bodies.items():
        server.put(path, body)
    lines = [f"{hashlib.md5(body).hexdigest()} *{path.removeprefix('/C/')}" for path, body in bodies.items()]
    server.put("/C/checksums.md5", "\n".join(lines).encode())
    options = {"say": lambda _: None, "tries": 1, "pause": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camelyon16, "BASE", server.url + "/C")
        with pytest.raises(DataError, match=r"2 slides.*--only"):
            fetch(SOURCES["camelyon16"], tmp_path, **options)
        with pytest.raises(DataError, match="no slide tumor_999"):
            fetch(SOURCES["camelyon16"], tmp_path, only=["tumor_999"], **options)
        folder = fetch(SOURCES["camelyon16"], tmp_path, only=["tumor_001"], **options)
        assert sorted(p.name for p in folder.rglob("tumor_001*")) == [
            "tumor_001.tif",
            "tumor_001.xml",
            "tumor_001_mask.tif",
        ]
        assert not (folder / "images/normal_001.tif").exists()
        server.put("/C/images/normal_001.tif", b"other")
        with pytest.raises(DataError, match="not what was published"):
            fetch(SOURCES["camelyon16"], tmp_path, only=["normal_001"], **options)
    server.server.shutdown()
