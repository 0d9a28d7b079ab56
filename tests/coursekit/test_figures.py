"""`figures`: alt text that arrives, colours under simulated colour blindness, true lengths and directions."""

import base64
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from coursekit import figures
from coursekit.figures import (
    arrows,
    class_map,
    error_map,
    image_row,
    overlay,
    palette,
    scale_bar,
    show,
    style,
    tissue,
)

ALT = 'Two glands & a vessel, "cut" across.'


@pytest.fixture(autouse=True)
def tidy():
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(figures, "display", lambda data, **kw: calls.append((data, kw)))
    return calls


def test_show_stores_alt_text_and_closes(shown):
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.imshow(np.eye(4))
    assert show(fig, alt=ALT) is None
    assert not plt.get_fignums()
    [(data, options)] = shown
    meta = options["metadata"]["image/png"]
    assert meta["alt"] == ALT == data["text/plain"]
    size = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size
    assert size == pytest.approx((2 * meta["width"], 2 * meta["height"]), abs=1)


@pytest.mark.parametrize("alt", ["", "   ", None, 3])
def test_show_wants_alt_text(alt):
    with pytest.raises(ValueError, match="no alt text"):
        show(plt.figure(), alt=alt)


def test_show_wants_a_figure():
    with pytest.raises(TypeError, match="matplotlib Figure"):
        show(np.zeros((3, 3)), alt=ALT)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["lab", "classic"])
def test_alt_text_reaches_the_page_of_nbconvert(shown, template):
    from html.parser import HTMLParser

    from nbconvert import HTMLExporter

    fig, _ = plt.subplots(figsize=(2, 1))
    show(fig, alt=ALT)
    data, options = shown[0]
    output = new_output("display_data", data, metadata=options["metadata"])
    notebook = new_notebook(cells=[new_code_cell("show(fig)", outputs=[output])])
    nbformat.validate(notebook)
    page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
    found = []

    class Images(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "img":
                found.append(dict(attrs).get("alt"))

    Images().feed(page)
    assert found == [ALT]


# Viénot, Brettel and Mollon (1999): what linear RGB turns into.
SEES = {
    "normal": np.eye(3),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
}


def seen(colour, matrix):
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    out = np.clip(matrix @ linear, 0, 1)
    return np.where(out <= 0.0031308, 12.92 * out, 1.055 * out ** (1 / 2.4) - 0.055)


def closest(colours, matrix):
    labs = [rgb2lab(seen(c, matrix)) for c in colours]
    return min(deltaE_ciede2000(a, b) for i, a in enumerate(labs) for b in labs[:i])


@pytest.mark.parametrize("eye", SEES)
def test_palette_is_told_apart_by_every_eye(eye):
    assert closest(palette.values(), SEES[eye]) > 10


def test_the_test_of_the_palette_can_fail():
    assert closest(["#d62728", "#2ca02c", "#8c564b"], SEES["deuteranopia"]) < 10


@pytest.mark.parametrize(
    ("width_px", "um_per_px", "label"),
    [
        (320, 0.5, "50 µm"),
        (100, 0.25, "5 µm"),
        (1000, 1.0, "200 µm"),
        (40000, 0.25, "2 mm"),
        (12, 0.1, "200 nm"),
        (300, 1.0, "100 µm"),
    ],
)
def test_scale_bar_has_a_round_length_that_is_true(width_px, um_per_px, label):
    _fig, ax = plt.subplots()
    ax.set(xlim=(0, width_px), ylim=(0, width_px))
    bar = scale_bar(ax, um_per_px)
    assert bar.txt_label.get_text() == label
    number, unit = label.split()
    um = float(number) * {"nm": 1e-3, "µm": 1, "mm": 1e3}[unit]
    drawn = bar.size_bar.get_children()[0].get_width()
    assert drawn * um_per_px == pytest.approx(um)


def test_scale_bar_refuses_what_does_not_fit():
    _, ax = plt.subplots()
    ax.set(xlim=(0, 100))
    with pytest.raises(ValueError, match="does not fit"):
        scale_bar(ax, 0.5, length_um=80)
    with pytest.raises(ValueError, match="above zero"):
        scale_bar(ax, 0.0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 7)),
        np.zeros((3, 5, 7)),
        np.zeros((5, 7, 3)),
        torch.rand(3, 5, 7, requires_grad=True),
        torch.zeros(1, 5, 7),
    ],
)
def test_tissue_is_in_micrometres_with_row_zero_on_top(image):
    _, ax = plt.subplots()
    drawn = tissue(ax, image, um_per_px=0.5)
    assert tuple(drawn.get_extent()) == (0, 3.5, 0, 2.5)
    assert drawn.origin == "upper"
    assert ax.get_xlabel() == "x (µm)"
    assert ax.get_ylim() == (0, 2.5)


@pytest.mark.parametrize("shape", [(7,), (2, 5, 7), (1, 3, 5, 7), (3, 5, 3)])
def test_what_is_no_image_is_refused(shape):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"image of shape"):
        tissue(ax, np.zeros(shape))


def test_a_class_differs_in_colour_hatching_and_outline():
    labels = np.zeros((30, 40), int)
    for k in range(1, 9):
        labels[3 * k : 3 * k + 2, 5:30] = k
    _, ax = plt.subplots()
    class_map(ax, labels, [f"class {k}" for k in range(9)], um_per_px=0.5)
    patches = ax.get_legend().get_patches()
    assert len(patches) == 9
    assert len({p.get_facecolor() for p in patches[1:]}) == 8
    assert len({p.get_hatch() for p in patches[1:]}) == 8
    outlines = [c for c in ax.collections if c.get_linewidth()[0] > 0]
    assert len({str(c.get_linestyle()) for c in outlines}) == 8
    assert [t.get_text() for t in ax.get_legend().get_texts()][3] == "class 3"


def test_class_map_puts_classes_where_they_are():
    labels = np.zeros((6, 8), int)
    labels[0, 0] = 1
    _fig, ax = plt.subplots()
    class_map(ax, labels, ["background", "gland"])
    tint = ax.get_images()[0].get_array()
    assert np.allclose(tint[0, 0, :3], mpl.colors.to_rgb(palette["blue"]))
    assert np.allclose(tint[0, 1, :3], 0.93)
    assert ax.get_xlim() == (0, 8)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (np.full((3, 3), 2), ["a", "b"], "2 classes are named"),
        (np.full((3, 3), -1), ["a", "b"], "run from -1"),
        (np.full((3, 3), 0.5), ["a", "b"], "argmax"),
        (np.zeros((3, 3), int), [str(i) for i in range(10)], "nine is the most"),
        (np.zeros((2, 3, 3), int), ["a", "b"], "shape"),
    ],
)
def test_class_map_refuses(labels, classes, said):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=said):
        class_map(ax, labels, classes)


def test_overlay_sizes_must_agree():
    _, ax = plt.subplots()
    overlay(ax, np.zeros((5, 7, 3)), np.ones((5, 7)), label="tumour")
    assert ax.get_legend().get_texts()[0].get_text() == "tumour"
    with pytest.raises(ValueError, match="the mask"):
        overlay(ax, np.zeros((5, 7, 3)), np.ones((5, 6)))


def test_error_map_starts_at_zero():
    _fig, ax = plt.subplots()
    drawn = error_map(ax, np.array([[0.2, 0.4]]), vmax=1.0)
    assert drawn.get_clim() == (0, 1)
    assert error_map(ax, np.zeros((2, 2))).get_clim() == (0, 1)
    for bad in (np.array([[-1.0]]), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="finite values from zero up"):
            error_map(ax, bad)


def test_arrows_point_right_and_up():
    field = np.zeros((2, 5, 9))
    field[1, 0, 0] = 1.0  # top left pixel, pointing up
    _, ax = plt.subplots()
    drawn = arrows(ax, field, um_per_px=2.0, step=1)
    k = int(np.argmax(drawn.V))
    assert (drawn.X[k], drawn.Y[k]) == (1.0, 9.0)
    assert ax.get_ylim() == (0, 10)
    assert drawn.angles == "uv"
    with pytest.raises(ValueError, match=r"\(2, H, W\)"):
        arrows(ax, np.zeros((3, 5, 9)))


def test_image_row():
    style()
    _fig, axes = image_row([np.zeros((4, 6))] * 3, ["a", "b", "c"], um_per_px=0.5)
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert axes[0].get_shared_x_axes().joined(axes[0], axes[2])
    image_row([np.zeros((4, 6)), np.zeros((6, 4))])
    with pytest.raises(ValueError, match="titles"):
        image_row([np.zeros((4, 6))], ["a", "b"])
    with pytest.raises(ValueError, match="no image"):
        image_row([])
