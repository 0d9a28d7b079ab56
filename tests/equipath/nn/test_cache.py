"""Filters kept for inference are those of the weights, whatever happened to the weights, in every family."""

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipath.kernels import fourier, regular
from equipath.kernels.evaluate import prefer
from equipath.nn.group import GroupConv2d, GroupConvTranspose2d, GroupToPlaneConv2d, LiftingConv2d
from equipath.nn.scale import DISCOConv2d, GaussianDerivativeConv2d, SESNConv2d
from equipath.nn.sre import SREConv2d, SREConvTranspose2d
from equipath.nn.steerable import SteerableConv2d

FAMILIES = {
    "lifting": (lambda: LiftingConv2d(2, 2, 3, padding=1), (1, 2, 6, 7)),
    "group": (lambda: GroupConv2d(2, 2, 3, padding=1), (1, 2, 8, 6, 7)),
    "transposed": (lambda: GroupConvTranspose2d(2, 2, 3, padding=1), (1, 2, 8, 6, 7)),
    "head": (lambda: GroupToPlaneConv2d(2, 2, 3, padding=1), (1, 2, 8, 6, 7)),
    "rings": (lambda: SREConv2d(2, 2, 5, padding=2), (1, 2, 6, 7)),
    "transposed rings": (lambda: SREConvTranspose2d(2, 2, 5, padding=2), (1, 2, 6, 7)),
    "steerable": (lambda: SteerableConv2d((1, 1), (1, 1), 3, padding=1), (1, 3, 6, 7)),
    "gaussian": (lambda: GaussianDerivativeConv2d(2, 2, [(0.0, 0.5), (0.5, 1.0)]), (1, 2, 2, 6, 7)),
    "hermite": (lambda: SESNConv2d(2, 2, (1, 2), 5), (1, 2, 2, 6, 7)),
    "disco": (lambda: DISCOConv2d(2, 2, (1, 2)), (1, 2, 2, 6, 7)),
}


def step(layer, x):
    layer.train()
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), 0.05).step()
    layer.zero_grad()
    layer.eval()


def shuffled(layer):
    return {name: value.flip(0) + 0.5 for name, value in layer.state_dict().items()}


EVENTS = {
    "a step": step,
    "an edit in place": lambda layer, x: _under_no_grad(layer),
    "an edit through .data": lambda layer, x: layer.weight.data.add_(0.25),
    "loaded": lambda layer, x: layer.load_state_dict(shuffled(layer)),
    "loaded and assigned": lambda layer, x: layer.load_state_dict(shuffled(layer), assign=True),
    "to float and back": lambda layer, x: layer.float().double(),
    "drawn anew": lambda layer, x: layer.reset_parameters(),
    "trained, then measured": lambda layer, x: [step(layer, x), layer(x)],
    "in inference mode": lambda layer, x: _in_inference(layer, x),
}


def _under_no_grad(layer):
    with torch.no_grad():
        layer.weight.mul_(1.5)


def _in_inference(layer, x):
    with torch.inference_mode():
        layer(x)


def same(layer, x):
    """The layer's answer without gradients beside that of ordinary convolutions written out now."""
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.to_plain()(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(
    events=st.lists(st.sampled_from(sorted(EVENTS)), min_size=1, max_size=4),
    how=st.sampled_from(["expand", "factor", "fourier", "as it likes"]),
)
def test_never_stale(name, events, how):
    make, shape = FAMILIES[name]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    # left alone, a small layer takes a short way for an input of the last shape
    with nullcontext() if how == "as it likes" else prefer(how):
        same(layer, x)  # something is kept
        for event in events:
            EVENTS[event](layer, x)
            same(layer, x)
        twin = copy.deepcopy(layer)
        same(twin, x)
        before = twin(x).detach()
        layer.weight.data.mul_(2)
        same(layer, x)
        with torch.no_grad():
            assert torch.equal(twin(x), before)  # a copy keeps its own


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("how", ["expand", "fourier", "as it likes"])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_inference_mode_made_serves_gradients_later(name, how, frozen):
    """Tables and filters that are kept from a first call in inference mode must be no inference tensors."""
    for room in (fourier, regular):
        for kept in vars(room).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()
    make, shape = FAMILIES[name]
    layer, x = make().requires_grad_(not frozen), torch.randn(shape, requires_grad=True)
    with nullcontext() if how == "as it likes" else prefer(how):
        with torch.inference_mode():
            layer(x)
        layer(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
