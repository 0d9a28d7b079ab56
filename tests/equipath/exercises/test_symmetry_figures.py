"""The figures of lesson 1 show what they were given: every changed pixel, every label, and no invented ones."""

import numpy as np
import pytest
import torch

from equipath.exercises import symmetry_figures as draw


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_pixels_that_changed_are_black_and_no_others():
    image = random(3, 20, 24)
    masks = [random(20, 24, seed=k) > 0.5 for k in range(4)]
    figure = draw.turned_back(image, masks, random(20, 24) / 2, "gland", um_per_px=2.0)
    (panel,) = [ax for ax in figure.axes if ax.get_title().startswith("black")]
    shown = np.asarray(panel.images[0].get_array())
    black = (shown == 0).all(axis=-1)
    assert np.array_equal(black, (masks[0] != masks[1]).numpy())


def test_four_masks_are_wanted():
    image, spread = random(3, 8, 8), random(8, 8) / 2
    with pytest.raises(ValueError, match="zip"):
        draw.turned_back(image, [random(8, 8) > 0.5] * 3, spread, "gland")


def test_without_a_pixel_size_axes_are_in_pixels():
    figure = draw.turned_back(random(3, 8, 8), [random(8, 8) > 0.5] * 4, random(8, 8) / 2, "gland")
    labels = {ax.get_xlabel() for ax in figure.axes} | {ax.get_ylabel() for ax in figure.axes}
    assert {"x (px)", "y (px)"} <= labels
    assert not any("µm" in label for label in labels)


def test_class_maps_share_one_legend_and_one_size():
    maps = [torch.randint(3, (16, 16), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    classes = ("elsewhere", "healthy gland", "tumour")
    figure = draw.class_maps(maps, ["a", "b", "c"], classes, um_per_px=2.0)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(classes)
    assert all(ax.get_legend() is None for ax in figure.axes)
    widths = [ax.get_window_extent().width for ax in figure.axes]
    assert max(widths) - min(widths) < 1
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c"]


def test_points_lie_on_the_pixel_centres():
    tile = random(3, 6, 10)
    points = torch.tensor([[0.0, 0.0], [5.0, 9.0]])
    figure = draw.points_on_tiles([tile, tile], [points, points], ["one", "two"], um_per_px=2.0)
    x, y = figure.axes[0].lines[-1].get_data()
    assert np.allclose(np.stack([x, y]), [[0.0, 9.0], [0.0, 5.0]])
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (left, right, bottom, top) == (-0.5, 9.5, 5.5, -0.5)  # pixel (0, 0) is centred on 0, at the top


def test_an_error_of_zero_stands_at_the_lowest_mark():
    figure = draw.shift_errors(range(3), {"one": [0.0, 1e-3, 1e-2], "two": [0.0, 0.0, 1.0]}, floor=1e-9)
    assert min(figure.axes[0].lines[0].get_ydata()) == 1e-9
    assert max(figure.axes[0].lines[1].get_ydata()) == 1.0
    assert figure.axes[0].get_legend() is not None
    single = draw.shift_errors(range(3), {"one": [0.0, 1e-3, 1e-2]})
    assert single.axes[0].get_legend() is None


def test_what_is_out_of_view_is_grey_and_not_unchanged():
    change = random(12, 12) / 2
    change[:3] = torch.nan
    figure = draw.turn_and_look(random(3, 12, 12), random(12, 12), change, "tile", um_per_px=2.0)
    panel = figure.axes[2]
    cover = np.ma.filled(np.ma.masked_invalid(panel.images[1].get_array()), np.nan)
    assert np.array_equal(np.isfinite(cover), torch.isnan(change).numpy())
    whole = draw.turn_and_look(random(3, 12, 12), random(12, 12), change.nan_to_num(), "tile", um_per_px=2.0)
    assert len(whole.axes[2].images) == 1
