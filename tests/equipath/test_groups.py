"""p4 and p4m: the axioms, the pictures, and the three actions, each against an independent statement."""

import pytest
import torch

from equipath.groups import P4, P4M, Group, group

BOTH = pytest.mark.parametrize("G", [P4, P4M], ids=str)


@BOTH
def test_axioms(G):
    elements = range(G.order)
    for a in elements:
        assert sorted(G.table[a].tolist()) == list(elements)
        assert G.product(a, G.inverse(a)) == G.product(G.inverse(a), a) == 0
        assert G.product(a, 0) == G.product(0, a) == a
        assert G.inverses[a] == G.inverse(a)
        for b in elements:
            for c in elements:
                assert G.product(G.product(a, b), c) == G.product(a, G.product(b, c))


def test_p4m_does_not_commute():
    assert P4M.product(1, 4) != P4M.product(4, 1)


@BOTH
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (1, 2, 4, 6), (3, 7)])
def test_action_is_a_homomorphism_and_faithful(G, shape):
    x = torch.arange(torch.tensor(shape).prod()).reshape(shape)
    for a in range(G.order):
        for b in range(G.order):
            assert torch.equal(G.act(G.act(x, b), a), G.act(x, G.product(a, b)))
    images = {(tuple(y.shape), tuple(y.flatten().tolist())) for y in (G.act(x, a) for a in range(G.order))}
    assert len(images) == G.order


@BOTH
def test_regular_and_vector_actions_are_homomorphisms(G):
    regular, vector = torch.randn(2, 3, G.order, 4, 5), torch.randn(2, 3, 2, 4, 5)
    for a in range(G.order):
        for b in range(G.order):
            ab = G.product(a, b)
            assert torch.equal(G.act_regular(G.act_regular(regular, b), a), G.act_regular(regular, ab))
            assert torch.equal(G.act_vector(G.act_vector(vector, b), a), G.act_vector(vector, ab))
            torch.testing.assert_close(G.matrix(a) @ G.matrix(b), G.matrix(ab))


def test_the_conventions():
    x = torch.arange(9).reshape(3, 3)
    assert torch.equal(P4.act(x, 1), torch.rot90(x))
    assert P4.act(x, 1).tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    assert torch.equal(P4M.act(x, 4), x.flip(-1))
    assert torch.equal(P4M.act(x, 5), torch.rot90(x.flip(-1)))
    assert (P4.matrix(1) @ torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist() == [0.0, 1.0]


@BOTH
def test_a_pixel_moves_where_its_matrix_says(G):
    """The grid action and the matrix are written independently; a lit pixel must obey both."""
    for a in range(G.order):
        x = torch.zeros(5, 5)
        x[1, 4] = 1  # row 1 is y = +1, column 4 is x = +2
        right, up = (G.matrix(a) @ torch.tensor([2.0, 1.0], dtype=torch.float64)).tolist()
        assert G.act(x, a)[int(2 - up), int(2 + right)] == 1


@BOTH
def test_gradient_of_an_image_is_a_vector_field(G):
    """Central differences commute with the group: they fix the sign and the order of the components."""

    def gradient(x):
        right = torch.roll(x, -1, -1) - torch.roll(x, 1, -1)
        up = torch.roll(x, 1, -2) - torch.roll(x, -1, -2)
        return torch.stack([right, up], 2)

    x = torch.randn(2, 3, 6, 6)
    for a in range(G.order):
        torch.testing.assert_close(gradient(G.act(x, a)), G.act_vector(gradient(x), a))


@BOTH
def test_regular_action_follows_a_lifting_by_hand(G):
    """Plane h of the lifted image is its best match with the filter moved by h: the definition, in words."""
    x, taps = torch.randn(1, 1, 6, 6, dtype=torch.float64), torch.randn(1, 1, 3, 3, dtype=torch.float64)

    def lift(image):
        planes = [torch.nn.functional.conv2d(image, G.act(taps, h), padding=1) for h in range(G.order)]
        return torch.stack(planes, 2)

    for a in range(G.order):
        torch.testing.assert_close(lift(G.act(x, a)), G.act_regular(lift(x), a), atol=1e-12, rtol=0)
        if a:
            assert not torch.allclose(lift(G.act(x, a)), G.act(lift(x), a), atol=1e-3)


def test_group_by_name_and_hash():
    assert group("p4") is P4
    assert group(P4M) is P4M
    assert Group("p4m") == P4M
    assert len({P4, P4M, Group("p4")}) == 2
    assert [P4M.label(a) for a in (0, 2, 4, 7)] == ["identity", "turn 180°", "mirror", "mirror, turn 270°"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: group("p6"), "'p4' and 'p4m'"),
        (lambda: P4.act(torch.zeros(3, 3), 4), "0 to 3"),
        (lambda: P4.act(torch.zeros(3), 1), r"\(\.\.\., H, W\)"),
        (lambda: P4M.act_regular(torch.zeros(1, 1, 4, 3, 3), 1), "8 planes"),
        (lambda: P4M.act_vector(torch.zeros(1, 1, 3, 3, 3), 1), "2 components"),
    ],
)
def test_errors_say_what_is_wanted(call, says):
    with pytest.raises(ValueError, match=says):
        call()
