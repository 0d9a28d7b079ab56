"""Taps of p4 and p4m filters against the defining sums, and the Fourier evaluation against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equipath.groups import P4, P4M
from equipath.kernels import fourier, regular
from equipath.kernels.evaluate import Work, cheapest, group_conv_work, prefer, price

BOTH = pytest.mark.parametrize("G", [P4, P4M], ids=str)


def point(G, g, row, column, k):
    """Where g carries a tap of a k x k filter, by its matrix (x right, y up), not by rot90."""
    centre = (k - 1) / 2
    right, up = (G.matrix(g) @ torch.tensor([column - centre, centre - row], dtype=torch.float64)).tolist()
    return round(centre - up), round(centre + right)


def by_definition(G, weight, k):
    """Taps (O, G, I, G, k, k) of eq. 2, one number at a time: ψ(g⁻¹ h) with g acting on positions and
    planes."""
    o, i = weight.shape[:2]
    out = torch.zeros(o, G.order, i, G.order, k, k, dtype=weight.dtype)
    for g in range(G.order):
        for h in range(G.order):
            plane = G.product(G.inverse(g), h)
            for row in range(k):
                for column in range(k):
                    to = point(G, g, row, column, k)
                    out[:, g, :, h, to[0], to[1]] = weight[:, :, plane, row, column]
    return out


@BOTH
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_regular_taps_are_the_definition(G, k):
    weight = torch.randn(2, 3, G.order, k, k, dtype=torch.float64)
    expected = by_definition(G, weight, k).reshape(2 * G.order, 3 * G.order, k, k)
    assert torch.equal(regular.regular_taps(weight, G), expected)


@BOTH
@pytest.mark.parametrize("k", [2, 3])
def test_lifting_and_projection_taps_are_moved_filters(G, k):
    weight = torch.randn(2, 3, k, k)
    lifted = regular.lifting_taps(weight, G).view(2, G.order, 3, k, k)
    projected = regular.projection_taps(weight, G).view(2, 3, G.order, k, k)
    for g in range(G.order):
        assert torch.equal(lifted[:, g], G.act(weight, g))
        assert torch.equal(projected[:, :, g], G.act(weight, g))


@pytest.mark.slow
@BOTH
def test_gradients_of_the_copies(G):
    weight = torch.randn(2, 2, G.order, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: regular.regular_taps(w, G), (weight,))
    assert torch.autograd.gradgradcheck(
        lambda w: regular.regular_taps(w, G) ** 2, (weight[:1, :1].detach().requires_grad_(),)
    )
    planar = weight[:, :, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: regular.lifting_taps(w, G), (planar,))
    # and the same as the gather's own gradient
    table = regular.regular_table(G, 3).flatten()
    plain = weight.flatten(2)[..., table].sum(-1) * 0 + (weight.flatten(2)[..., table] ** 3).sum(-1)
    ours = (regular.regular_taps(weight, G) ** 3).sum()
    torch.testing.assert_close(
        torch.autograd.grad(ours, weight)[0], torch.autograd.grad(plain.sum(), weight)[0]
    )


def test_wrong_filters_are_refused():
    with pytest.raises(ValueError, match="8 planes"):
        regular.regular_taps(torch.zeros(1, 1, 4, 3, 3), P4M)
    with pytest.raises(ValueError, match="square"):
        regular.lifting_taps(torch.zeros(1, 1, 3, 2), P4M)


# ---- through the group's Fourier transform ----


@BOTH
def test_signal_transform_is_orthogonal(G):
    signal, kernel, ones, rows = fourier.fourier_matrices(G)
    torch.testing.assert_close(signal @ signal.t(), torch.eye(G.order, dtype=torch.float64))
    assert ones + 2 * rows == G.order
    assert kernel.shape == (ones + 4, G.order)


@settings(max_examples=25, deadline=None)
@given(
    G=st.sampled_from([P4, P4M]),
    k=st.integers(1, 5),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 4),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    batch=st.integers(1, 3),
    block=st.sampled_from([1 << 10, 1 << 14, 3 << 20]),
)
def test_fourier_is_the_plain_convolution(G, k, dilation, padding, size, channels, batch, block):
    reach = dilation * (k - 1)
    padding = min(padding, reach)
    if min(size) + 2 * padding <= reach:
        return
    torch.manual_seed(0)
    x = torch.randn(batch, channels[0], G.order, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(channels[1], channels[0], G.order, k, k, dtype=torch.float64, requires_grad=True)
    before, fourier.BLOCK_BYTES = fourier.BLOCK_BYTES, block
    try:
        y = fourier.fourier_group_conv(x, w, G, padding, dilation)
        plain = F.conv2d(x.flatten(1, 2), regular.regular_taps(w, G), padding=padding, dilation=dilation)
        plain = plain.unflatten(1, (-1, G.order))
        r = torch.randn_like(y)
        torch.testing.assert_close(y, plain, atol=1e-11, rtol=1e-11)
        ours, theirs = (torch.autograd.grad(out, (x, w), r) for out in (y, plain))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)
    finally:
        fourier.BLOCK_BYTES = before


@pytest.mark.slow
@BOTH
def test_fourier_double_backward_and_single_gradients(G):
    x = torch.randn(1, 2, G.order, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 2, G.order, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: fourier.fourier_group_conv(a, b, G, 1), (x, w))
    assert torch.autograd.gradgradcheck(lambda a, b: fourier.fourier_group_conv(a, b, G, 1), (x, w))
    both = torch.autograd.grad(fourier.fourier_group_conv(x, w, G, 1).square().sum(), (x, w))
    (only_x,) = torch.autograd.grad(fourier.fourier_group_conv(x, w.detach(), G, 1).square().sum(), (x,))
    (only_w,) = torch.autograd.grad(fourier.fourier_group_conv(x.detach(), w, G, 1).square().sum(), (w,))
    torch.testing.assert_close(both, (only_x, only_w))


def test_fourier_refuses_padding_beyond_the_filter():
    with pytest.raises(ValueError, match="wider than the filter"):
        fourier.fourier_group_conv(torch.zeros(1, 1, 4, 5, 5), torch.zeros(1, 1, 4, 3, 3), P4, 3)


# ---- the choice ----


def test_prices_and_preference():
    x = torch.zeros(1)
    works = {"expand": Work(products=10.0, calls=1), "fourier": Work(products=1e9, calls=1)}
    assert cheapest(works, x) == "expand"
    with prefer("fourier"):
        assert cheapest(works, x) == "fourier"
        assert cheapest({"expand": Work(1.0)}, x) == "expand"
    assert cheapest(works, x) == "expand"
    assert price(Work(gathered=1.0, calls=0)) > price(Work(products=1.0, calls=0)) > 0


def test_few_fields_expand_and_many_transform():
    def chosen(order, fields, places):
        return cheapest(
            group_conv_work(order, fields, fields, 9, places, training=True, kept=False), torch.zeros(1)
        )

    assert chosen(8, 8, 8 * 48 * 48) == "expand"
    assert chosen(8, 128, 8 * 12 * 12) == "fourier"
    assert chosen(8, 64, 8 * 16 * 16) == "fourier"
    assert chosen(4, 16, 8 * 16 * 16) == "expand"


def test_where_few_fields_skip_the_question_the_model_would_expand():
    from equipath.nn.group import FEW

    for order, few in FEW.items():
        for a in range(1, few):
            for b in range(1, -(-few // a)):
                for training in (True, False):
                    works = group_conv_work(order, a, b, 9, 10**6, training=training, kept=not training)
                    assert price(works["expand"]) <= price(works["fourier"]), (order, a, b)


@BOTH
def test_small_filters_are_copied_by_one_table_and_large_ones_by_a_gather_a_copy(G, monkeypatch):
    w = torch.randn(3, 2, G.order, 3, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for limit in (0, 10**9):
        monkeypatch.setattr(regular, "SMALL", limit)
        taps = regular.regular_taps(w, G)
        (first,) = torch.autograd.grad(taps.pow(3).sum(), w, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), w)
        found.append(
            (taps, first, second, torch.autograd.grad(regular.regular_taps(w, G).pow(3).sum(), w)[0])
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[0][0], found[1][0])
