"""The figures of lesson 2 show what they were given: every arrow in its direction, every curve, one scale for all."""

import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver

from equipath.exercises import steerable_kernels_figures as draw


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def quivers(figure):
    return [[a for a in ax.collections if isinstance(a, Quiver)] for ax in figure.axes]


def test_fields_are_drawn_at_their_pixels_to_one_scale():
    fields = [random(2, 24, 30, seed=k) - 0.5 for k in range(2)]
    figure = draw.fields_on_tissue([random(3, 24, 30)] * 2, fields, ["a", "b"], scale=7.0, step=6)
    for (arrows,), field in zip(quivers(figure), fields, strict=True):
        assert arrows.scale == 7.0
        assert np.allclose(arrows.U, field[0, 3::6, 3::6].numpy().ravel())
        assert np.allclose(arrows.V, field[1, 3::6, 3::6].numpy().ravel())
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]


def test_as_many_fields_as_tiles_are_wanted():
    with pytest.raises(ValueError, match="zip"):
        draw.fields_on_tissue([random(3, 8, 8)], [random(2, 8, 8)] * 2, ["a"], scale=1.0)


def test_fans_start_at_zero_and_end_where_they_should():
    groups = {"before": random(5, 2) - 0.5, "after": random(5, 2, seed=1) - 0.5}
    figure = draw.fans(groups)
    for (arrows,), ends in zip(quivers(figure), groups.values(), strict=True):
        assert np.allclose(np.stack([arrows.U, arrows.V], 1), ends.numpy())
        assert not arrows.XY.any()


def test_curves_below_the_floor_lie_on_it():
    panels = [
        ("a", "x", [0, 1], {"one": [0.0, 1e-3], "two": [1e-2, 1e-1]}),
        ("b", "x", [0, 1], {"one": [1, 2]}),
    ]
    figure = draw.error_curves(panels, floor=1e-6)
    first = figure.axes[0]
    assert [line.get_ydata().tolist() for line in first.lines] == [[1e-6, 1e-3], [1e-2, 1e-1]]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["one", "two"]
    assert first.get_yscale() == "log"


def test_a_turning_frame_shows_arrows_and_their_distance():
    distance = random(21, 21, seed=2)
    figure = draw.turning_arrows(random(3, 21, 21), random(2, 21, 21, seed=1), distance, "at 30°", scale=9.0)
    assert np.allclose(figure.axes[1].images[0].get_array(), distance.numpy())
    ((arrows,), *_) = quivers(figure)
    assert len(arrows.U) == 9
    assert figure.axes[0].get_title() == "at 30°"
