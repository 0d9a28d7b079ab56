"""Filtering by a basis and mixing gives the numbers of the dense filters, however many responses are mixed at a
time, and keeps nothing but what it was given."""

import pytest
import torch
import torch.nn.functional as F

from equipath.kernels import basis
from equipath.kernels.radial import planar_bank
from equipath.kernels.rings import ring_basis

BANKS = {"rings": ring_basis(5, torch.float64), "steerable": planar_bank(5).double()}


def case(name, padding, batch=2):
    torch.manual_seed(0)
    bank = BANKS[name]
    filters = basis.crop_filters(bank)
    largest = max(f.shape[-1] for f in filters)
    x = torch.randn(batch, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, len(bank), dtype=torch.float64, requires_grad=True)

    def factored():
        return basis.factored_conv2d(x, weight, filters, padding - (5 - largest) // 2)

    def dense():
        return F.conv2d(x, basis.expand_filters(weight, bank), padding=padding)

    return x, weight, factored, dense


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("padding", [0, 2, 3, 6])  # 6: some rows of filters see zeros alone
@pytest.mark.parametrize("responses", [0, 1, 2, 1000])
def test_any_number_of_responses_at_a_time(name, padding, responses, monkeypatch):
    x, weight, factored, dense = case(name, padding)
    monkeypatch.setattr(basis, "PART_BYTES", responses * x.numel() * 8)
    ours, theirs = factored(), dense()
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    seed = torch.randn_like(theirs)
    for wanted in ((x, weight), (x,), (weight,)):
        mine = torch.autograd.grad(factored(), wanted, seed)
        torch.testing.assert_close(mine, torch.autograd.grad(dense(), wanted, seed), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BANKS)
def test_gradients_of_gradients(name):
    x, weight, factored, dense = case(name, 2, batch=1)
    found = []
    for y in (factored(), dense()):
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        found.append(torch.autograd.grad(sum(g.sin().sum() for g in first), (x, weight)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_only_what_was_given_is_kept():
    x, weight, factored, _ = case("rings", 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        factored()
    large = [t for t in kept if t.numel() >= x.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in kept) < x.numel() + weight.numel() + 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    x, weight, _, dense = case("rings", 2)
    filters = basis.crop_filters(BANKS["rings"])
    with torch.no_grad():
        low = basis.factored_conv2d(x.to(dtype), weight.to(dtype), filters, 2)
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
        assert low.dtype == dtype
        assert (low - dense()).abs().max() < tolerance * dense().abs().max()


def test_no_pictures():
    x, weight, factored, _ = case("rings", 2, batch=0)
    y = factored()
    assert y.shape == (0, 4, 9, 11)
    grads = torch.autograd.grad(y.sum(), (x, weight))
    assert not grads[1].any()
