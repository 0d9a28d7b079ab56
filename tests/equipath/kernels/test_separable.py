"""Factored scale convolutions: the same numbers however many scales are filtered at a time, nothing kept but the
inputs."""

import pytest
import torch

from equipath.kernels import separable


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
@pytest.mark.parametrize("needs", [(0, 1, 2, 3), (0,), (1,), (2, 3), (1, 3)])
def test_any_number_of_scales_at_a_time(scales, needs, monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 2, 4, 7, 9), torch.randn(5, 4, 6)
    rows, columns = torch.randn(2, 3, 3, 5)
    inputs = [t.double() for t in (x, weight, rows, columns)]
    for n in needs:
        inputs[n].requires_grad_()
    wanted = [inputs[n] for n in needs]
    plain = separable._factored_plainly(*inputs)
    seed = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, wanted, seed)
    monkeypatch.setattr(separable, "PART_BYTES", scales * x[0].numel() * 8)
    y = separable._factored(*inputs)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(y, wanted, seed), expected, rtol=1e-10, atol=1e-10)
    again = torch.autograd.grad(separable._factored(*inputs).square().sum(), wanted, create_graph=True)
    direct = torch.autograd.grad(
        separable._factored_plainly(*inputs).square().sum(), wanted, create_graph=True
    )
    second, truth = (
        torch.autograd.grad(sum(g.sin().sum() for g in found), wanted) for found in (again, direct)
    )
    torch.testing.assert_close(second, truth, rtol=1e-9, atol=1e-9)


def test_only_the_inputs_are_kept():
    x, weight = torch.randn(3, 2, 4, 7, 9, requires_grad=True), torch.randn(5, 4, 6, requires_grad=True)
    rows, columns = torch.randn(2, 3, 3, 5)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        separable._factored(x, weight, rows, columns)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, weight, rows, columns)}
