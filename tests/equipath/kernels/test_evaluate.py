"""How filters are applied changes no number."""

import pytest
import torch
import torch.nn.functional as F

from equipath.kernels import evaluate


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "groups"),
    [(4, 1, 1, 1), (7, 1, 1, 1), (4, 2, 1, 1), (5, 1, 2, 1), (4, 1, 1, 2), (3, 1, 1, 1)],
)
def test_wide_padding_is_an_ordinary_convolution(padding, stride, dilation, groups, last, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 12, 11, dtype=torch.float64)
    if last:
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    w = torch.randn(6, 4 // groups, 9 // dilation, 9 // dilation, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, dtype=torch.float64, requires_grad=True)
    seen = []
    pad = F.pad
    monkeypatch.setattr(evaluate.F, "pad", lambda *given: seen.append(given[1]) or pad(*given))
    y = evaluate.dense_conv2d(x, w, b, stride, padding, dilation, groups)
    assert bool(seen) == (padding > 3 and groups == 1 and not last)
    plain = F.conv2d(x, w, b, stride, padding, dilation, groups)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(out, (x, w, b), seed) for out in (y, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
