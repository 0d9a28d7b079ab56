"""The figures of lesson 3 show what they were given: every number, every plane in its place, every exact size."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from coursekit.figures import palette
from equipath.exercises import group_convolutions_figures as draw


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def all_axes(figure):
    """Those of subfigures too, in the order of drawing."""
    return list(figure.axes)


def frame(ax):
    return ax.spines["left"].get_edgecolor()


def test_stencils_are_written_out_with_what_they_answer():
    patches = torch.arange(18.0).reshape(2, 3, 3)
    stencil = torch.tensor([[-1.0, 0, 1], [-1, 0, 2], [-1, 0, 0]])
    poses = [torch.rot90(stencil, r) for r in range(4)]
    figure = draw.stencil_by_hand(patches, ["one", "two"], poses, torch.tensor([[1, -2, 3, 4], [5, 6, 7, 8]]))
    axes = all_axes(figure)
    assert [ax.get_title() for ax in axes[::5]] == ["one", "two"]
    assert [t.get_text() for t in axes[5].texts] == [str(n) for n in range(9, 18)]
    assert [t.get_text() for t in axes[2].texts] == ["1", "2", "0", "0", "0", "0", "−1", "−1", "−1"]
    assert [ax.get_xlabel() for ax in axes[1:5]] == [
        "answer 0: 1",
        "answer 1: −2",
        "answer 2: 3",
        "answer 3: 4",
    ]


def test_numbers_can_be_read_on_their_ground():
    figure = draw.stencil_by_hand([torch.tensor([[0.0, 9.0]])], ["one"], [torch.ones(1, 1)], torch.ones(1, 1))
    low, high = all_axes(figure)[0].texts
    assert (low.get_color(), high.get_color()) == ("white", "black")


@pytest.mark.parametrize("n", [4, 8])
def test_each_plane_stands_under_its_filter_to_one_scale(n):
    filters, field = random(n, 3, 3) - 0.5, random(n, 10, 12, seed=1) - 0.5
    figure = draw.planes(random(3, 10, 12), filters, field, [f"pose {g}" for g in range(n)])
    axes = all_axes(figure)[1:]
    for g in range(n):
        row, column = divmod(g, 4)
        small, large = axes[8 * row + column], axes[8 * row + 4 + column]
        assert small.get_title() == f"{g}: pose {g}"
        assert np.allclose(small.images[0].get_array(), filters[g])
        assert np.allclose(large.images[0].get_array(), field[g])
        assert frame(small) == frame(large)
    assert len({ax.images[0].get_clim() for ax in axes[4:8]}) == 1


def test_a_moved_plane_keeps_its_number_and_its_colour():
    before = random(8, 6, 6) - 0.5
    sources = [3, 0, 1, 2, 5, 6, 7, 4]
    figure = draw.moving_planes([random(3, 6, 6)] * 2, before, before[sources], sources, "turned")
    axes = all_axes(figure)
    left, right = axes[1:9], axes[10:]
    assert len(right) == 8
    for place, source in enumerate(sources):
        assert right[place].get_title() == f"place {place}: plane {source}"
        assert frame(right[place]) == frame(left[source])
        assert np.allclose(right[place].images[0].get_array(), left[source].images[0].get_array())


def test_maps_lie_where_their_pixels_are_and_points_in_the_middle_of_theirs():
    values = random(6, 8, seed=1)
    figure = draw.maps_in_a_row(
        random(3, 10, 12), {"votes": values}, torch.tensor([[2.0, 3.0]]), um_per_px=0.5
    )
    picture, votes, _ = all_axes(figure)
    drawn = votes.images[0].get_array()
    assert np.allclose(drawn[2:8, 2:10], values)
    assert np.isnan(np.ma.filled(drawn, np.nan)[:2]).all()
    assert votes.get_title() == "votes"
    for ax in (picture, votes):
        assert ax.lines[0].get_xydata().tolist() == [[1.75, 3.75]]
        assert "µm" in ax.get_xlabel()


def test_points_outside_a_map_are_left_out_there():
    figure = draw.maps_in_a_row(
        random(3, 10, 12), {"votes": random(6, 8)}, torch.tensor([[2.0, 3.0], [1.0, 3.0], [5.0, 10.5]])
    )
    picture, votes = all_axes(figure)[:2]
    assert len(picture.lines[0].get_xydata()) == 3
    assert votes.lines[0].get_xydata().tolist() == [[3.5, 7.5]]


def test_a_filter_stands_between_the_picture_and_its_answers_which_share_a_scale():
    kernel, maps = random(3, 3) - 0.5, {"one": random(6, 6) - 0.5, "two": 3 * random(6, 6, seed=1)}
    axes = all_axes(draw.one_filter(random(3, 8, 8), kernel, maps))
    assert np.allclose(axes[1].images[0].get_array(), kernel)
    assert [ax.get_title() for ax in axes[1:4]] == ["the filter", "one", "two"]
    for ax, values in zip(axes[2:4], maps.values(), strict=True):
        assert np.allclose(ax.images[0].get_array(), values)
    assert axes[2].images[0].get_clim() == axes[3].images[0].get_clim()
    assert axes[4].get_ylabel() == "answer of the filter"


def test_no_two_elements_have_the_same_frame():
    assert len(set(draw.FRAMES)) == 8


def test_maps_without_a_scale_are_in_pixels():
    figure = draw.maps_in_a_row(random(3, 8, 8), {"a": random(8, 8), "b": random(4, 4)})
    assert [ax.get_xlabel() for ax in all_axes(figure)[1:3]] == ["x (px)"] * 2


def test_every_error_is_drawn_and_the_exact_sizes_are_ringed():
    panels = {"one": ([4, 5, 6], [0.1, 0.0, 0.2], [5]), "two": ([7, 8], [0.1, 0.2], [])}
    first, second = all_axes(draw.error_by_size(panels, floor=1e-12))
    measured, ringed = first.lines
    assert measured.get_xydata().tolist() == [[4, 0.1], [5, 1e-12], [6, 0.2]]
    assert ringed.get_xydata().tolist() == [[5, 1e-12]]
    assert to_rgba(palette["blue"]) == to_rgba(ringed.get_markeredgecolor())
    assert len(second.lines) == 1
    assert (first.get_title(), first.get_yscale()) == ("one", "log")


def test_curves_start_at_zero_and_are_told_apart_without_colour():
    figure = draw.curves([0, 45, 90], {"a": [0, 0.2, 0], "b": [0.1, 0.3, 0.2]}, "angle (°)", "change")
    (ax,) = all_axes(figure)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0, 0.2, 0], [0.1, 0.3, 0.2]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2
    assert ax.get_ylim()[0] == 0
    assert ax.get_xlabel() == "angle (°)"
