"""The figures show the numbers that the layers use, the right way up."""

import io

import matplotlib.image
import numpy as np
import pytest
import torch
from PIL import Image

from equipath.groups import P4, P4M
from equipath.kernels.gaussian import gaussian_basis
from equipath.nn.group import GroupConv2d, LiftingConv2d
from equipath.nn.scale import DISCOConv2d
from equipath.nn.sre import SREConv2d
from equipath.nn.steerable import SteerableConv2d
from equipath.viz import filters

FIGURES = {
    "lifted p4m": filters.lifted_filters,
    "lifted p4": lambda: filters.lifted_filters(group="p4"),
    "regular p4": filters.regular_filters,
    "regular p4m": lambda: filters.regular_filters(group="p4m"),
    "rings": filters.ring_filters,
    "one ring": lambda: filters.ring_filters((5,)),
    "steerable": filters.steerable_kernels,
    "steerable 5": lambda: filters.steerable_kernels(5, ring=1),
    "gaussian": filters.gaussian_derivatives,
    "gaussian 1": lambda: filters.gaussian_derivatives((1.0,), order=1),
    "hermite": filters.hermite_functions,
    "dilated": filters.dilated,
}


def pictures(figure):
    """The arrays that are drawn, axes by axes, as (k, k) float64."""
    found = []
    for ax in figure.axes:
        for child in ax.get_children():
            if isinstance(child, matplotlib.image.AxesImage):
                found.append(np.asarray(child.get_array(), dtype=float))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", FIGURES)
def test_draws_something_within_its_frame(which):
    canvas = io.BytesIO()
    FIGURES[which]().savefig(canvas, dpi=60)
    picture = np.asarray(Image.open(canvas).convert("RGB")).astype(int)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    margin = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (margin > 200).all()  # no text or frame is cut off


def test_lifted_and_regular_filters_are_those_of_the_layers():
    torch.manual_seed(0)
    lifting, between = LiftingConv2d(1, 1, 5, bias=False), GroupConv2d(1, 1, 3, bias=False, group="p4")
    learnt, *copies = pictures(filters.lifted_filters(lifting.weight[0, 0]))
    assert np.allclose(learnt, lifting.weight[0, 0].detach())
    for g, copy in enumerate(copies):
        assert np.allclose(copy, P4M.act(lifting.weight[0, 0].detach(), g))
    spot = torch.zeros(1, 1, 4, 5, 5)
    spot[:, :, 1, 2, 2] = 1  # of orientation 1 alone: the answer is column 1 of the matrix, turned by 180
    with torch.no_grad():
        answers = between(spot)[0, 0]
    shown = pictures(filters.regular_filters(between.weight[0, 0], "p4"))
    for g in range(4):
        assert np.allclose(shown[4 * g + 1], P4.act(answers[g], 2), atol=1e-6)


def test_ring_filters_share_one_value_a_ring():
    shown = pictures(filters.ring_filters((7,)))
    index, taps = shown[-2], shown[-1]
    assert [len(np.unique(taps[index == n])) for n in range(4)] == [1, 1, 1, 1]
    assert np.array_equal(np.isnan(index), (SREConv2d(1, 1, 7).basis.sum(0) == 0).numpy())


def test_steerable_arrows_point_where_the_kernel_says():
    figure = filters.steerable_kernels(7, 2)
    outward, around = figure.axes[1], figure.axes[6]
    for ax, wanted in ((outward, lambda x, y: (x, y)), (around, lambda x, y: (-y, x))):
        (arrows,) = [c for c in ax.get_children() if type(c).__name__ == "Quiver"]
        x, y = np.asarray(arrows.XY).T
        u, v = np.asarray(arrows.U), np.asarray(arrows.V)
        p, q = wanted(x, y)
        assert np.allclose(u * q, v * p, atol=1e-12)  # along the same line
        assert (u * p + v * q > 0).all()  # and the same way


def test_an_arrow_is_what_the_centre_receives():
    layer = SteerableConv2d(1, (0, 1), 7, padding=3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1.0, 0.0]))  # the second ring
        spot = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
        spot[..., 3, 5] = 1  # two pixels right of the centre
        x, y = layer(spot)[0, :, 3, 3].tolist()
    (arrows,) = [
        c for c in filters.steerable_kernels(7, 2).axes[1].get_children() if type(c).__name__ == "Quiver"
    ]
    (place,) = [n for n, at in enumerate(np.asarray(arrows.XY).tolist()) if at == [2.0, 0.0]]
    assert x > 0.1
    assert abs(y) < 1e-12
    assert arrows.U[place] > 0.9  # drawn relative to the longest


def test_scales_are_drawn_at_their_own_size():
    sizes = [p.shape[0] for p in pictures(filters.gaussian_derivatives(order=0))]
    assert sizes == [3, 5, 7, 9, 11]
    (shown,) = pictures(filters.gaussian_derivatives((1.5,), order=0))
    assert np.allclose(shown, gaussian_basis(torch.tensor([1.5], dtype=torch.float64), 0)[0, 0])
    layer = DISCOConv2d(1, 1, (1, 3))
    one, three = pictures(filters.dilated(layer.weight[0, 0], (1, 3)))
    assert np.array_equal(one, three[::3, ::3])
    assert np.count_nonzero(three) == 9


def test_a_ring_that_is_not_there():
    with pytest.raises(ValueError, match="rings 1 to 2; got 3"):
        filters.steerable_kernels(5, ring=3)
