"""``torch.func`` and forward-mode derivatives through every convolution and both ways to compute it.

What they give is held against ordinary backward passes, one sample, one direction or one member at a time. Filters
kept for inference must neither hide a derivative nor outlive a transform.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from equipath.kernels.evaluate import prefer
from equipath.nn.group import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupToPlaneConv2d,
    LiftingConv2d,
)
from equipath.nn.scale import (
    DISCOConv2d,
    GaussianDerivativeConv2d,
    GaussianDerivativeLiftingConv2d,
    SESNConv2d,
)
from equipath.nn.sre import SREConv2d, SREConvTranspose2d
from equipath.nn.steerable import GatedReLU, NormReLU, SteerableBatchNorm2d, SteerableConv2d

SIGMAS = [(0.0, 0.5), (0.5, 1.0)]
# what makes the layer, one input of it without the batch, an evaluation to force
LAYERS = {
    "lifting": (lambda: LiftingConv2d(2, 2, 3, padding=1), (2, 4, 5), None),
    "group": (lambda: GroupConv2d(2, 1, 3, padding=1, group="p4"), (2, 4, 4, 5), None),
    "group, Fourier": (lambda: GroupConv2d(2, 1, 3, padding=1), (2, 8, 4, 5), "fourier"),
    "transposed group": (lambda: GroupConvTranspose2d(2, 1, 3, 2, 1, group="p4"), (2, 4, 4, 5), None),
    "group to plane": (lambda: GroupToPlaneConv2d(2, 1, 3, padding=1), (2, 8, 4, 5), None),
    "rings": (lambda: SREConv2d(2, 2, 5, padding=2), (2, 4, 5), "expand"),
    "rings, wide": (lambda: SREConv2d(1, 2, 9, padding=4), (1, 4, 5), "expand"),  # dense_conv2d's own border
    "rings, factored": (lambda: SREConv2d(2, 2, 5, padding=2), (2, 4, 5), "factor"),
    "transposed rings": (lambda: SREConvTranspose2d(2, 1, 3, 2, 1), (2, 4, 5), None),
    "steerable": (lambda: SteerableConv2d((1, 1), (1, 1), 5, padding=2), (3, 4, 5), "expand"),
    "steerable, factored": (lambda: SteerableConv2d((1, 1), (1, 1), 3, padding=1), (3, 4, 5), "factor"),
    "Gaussian": (lambda: GaussianDerivativeConv2d(2, 1, SIGMAS), (2, 2, 4, 5), "expand"),
    "Gaussian, factored": (lambda: GaussianDerivativeConv2d(2, 1, SIGMAS), (2, 2, 4, 5), "factor"),
    "Gaussian lifting": (lambda: GaussianDerivativeLiftingConv2d(2, 1, SIGMAS), (2, 4, 5), "factor"),
    "SESN": (lambda: SESNConv2d(2, 1, (1, 2), 5, 2), (2, 2, 4, 5), "factor"),
    "DISCO": (lambda: DISCOConv2d(2, 1, (1, 2)), (2, 2, 4, 5), None),
}


@pytest.fixture(params=LAYERS)
def case(request):
    make, shape, way = LAYERS[request.param]
    torch.manual_seed(0)
    layer = make().double()
    weights = {name: w.detach() for name, w in layer.named_parameters()}
    x = torch.randn(3, *shape, dtype=torch.float64)
    with prefer(way) if way else nullcontext():
        yield layer, weights, x


def same(a, b):
    """Two trees of tensors (dicts or tuples) agree to rounding."""
    keys = a if isinstance(a, dict) else range(len(a))
    for key in keys:
        torch.testing.assert_close(a[key], b[key], rtol=1e-10, atol=1e-10)


def energy(layer, weights, x):
    return functional_call(layer, weights, (x,)).pow(3).sum()


def backward(layer, weights, x):
    """The gradient of ``energy`` by an ordinary backward pass."""
    free = {name: w.clone().requires_grad_() for name, w in weights.items()}
    found = torch.autograd.grad(energy(layer, free, x), list(free.values()))
    return dict(zip(weights, found, strict=True))


def test_gradients_of_each_sample(case):
    layer, weights, x = case
    found = vmap(grad(lambda w, one: energy(layer, w, one[None])), (None, 0))(weights, x)
    for n in range(len(x)):
        same({name: g[n] for name, g in found.items()}, backward(layer, weights, x[n : n + 1]))


@pytest.mark.parametrize("quiet", [False, True])
def test_several_sets_of_weights_at_once(case, quiet):
    layer, weights, x = case
    with torch.no_grad():
        before = layer(x)
    members = {name: torch.stack([w, -2 * w, w + 1]) for name, w in weights.items()}
    with torch.no_grad() if quiet else nullcontext():
        found = vmap(lambda w, z: functional_call(layer, w, (z,)), (0, None))(members, x)
        apart = vmap(lambda w, z: functional_call(layer, w, (z,)), (0, 1))(members, torch.stack([x, x, x], 1))
    for n in range(3):
        one = {name: w[n] for name, w in members.items()}
        want = functional_call(layer, one, (x,))
        torch.testing.assert_close(found[n], want, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(apart[n], want, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # nothing of the transform was kept
        torch.testing.assert_close(layer(x), before, rtol=0, atol=0)


def test_forward_derivatives(case):
    layer, weights, x = case
    names, values = list(weights), [x, *weights.values()]
    directions = [torch.randn_like(v) for v in values]

    def apply(z, *free):
        return functional_call(layer, dict(zip(names, free, strict=True)), (z,))

    _, want = torch.autograd.functional.jvp(apply, tuple(values), tuple(directions))  # two backward passes
    _, found = jvp(apply, tuple(values), tuple(directions))
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    with forward_ad.dual_level(), torch.no_grad():  # no gradient is asked for, yet there is a derivative
        dual = apply(*(forward_ad.make_dual(v, d) for v, d in zip(values, directions, strict=True)))
        found = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), apply(*values), rtol=0, atol=0)


def test_jacobians_and_second_derivatives(case):
    layer, weights, x = case
    name = "weight"
    weight, rest = weights[name], {n: w for n, w in weights.items() if n != name}

    def sums(w):
        return functional_call(layer, {name: w, **rest}, (x[:1],)).pow(2).flatten(2).mean((0, 2))

    want = torch.autograd.functional.jacobian(sums, weight)
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(sums)(weight), want, rtol=1e-10, atol=1e-10)
    for way in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(sums, weight, vectorize=True, strategy=way)
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)

    def total(w):
        return sums(w).pow(2).sum()

    direction = torch.randn_like(weight)
    _, want = torch.autograd.functional.hvp(total, weight, direction)
    _, found = jvp(grad(total), (weight,), (direction,))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)
    if weight.numel() < 50:
        second = hessian(total)(weight).reshape(weight.numel(), -1) @ direction.flatten()
        torch.testing.assert_close(second.view_as(weight), want, rtol=1e-9, atol=1e-9)


def test_batched_gradients_of_an_ordinary_step(case):
    layer, _, x = case
    leaves = [x.requires_grad_(), *layer.parameters()]
    y = layer(x)
    seeds = torch.randn(3, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, leaves, seeds, retain_graph=True, is_grads_batched=True)
    for n, seed in enumerate(seeds):
        same([g[n] for g in found], torch.autograd.grad(y, leaves, seed, retain_graph=True))


def test_torchs_own_checks(case):
    layer, weights, x = case
    inputs = [v.clone().requires_grad_() for v in (x[:1], *weights.values())]

    def apply(z, *free):
        return functional_call(layer, dict(zip(weights, free, strict=True)), (z,))

    assert torch.autograd.gradcheck(
        apply,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=True,
    )
    assert torch.autograd.gradgradcheck(
        apply, inputs, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True
    )


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (GroupBatchNorm2d(2), (2, 4, 3, 5)),
        (SteerableBatchNorm2d((1, 2)), (5, 3, 5)),
        (NormReLU((1, 2)), (5, 3, 5)),
        (GatedReLU((1, 2)), (7, 3, 5)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, torch.nn.Module) else "",
)
def test_layers_between_the_convolutions(module, shape):
    torch.manual_seed(0)
    module = module.double()
    module(torch.randn(4, *shape, dtype=torch.float64))  # running statistics that are not those of the start
    module.eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    found = vmap(lambda one: module(one[None])[0])(x)
    torch.testing.assert_close(found, module(x), rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(x)
    _, want = torch.autograd.functional.jvp(module, x, direction)
    torch.testing.assert_close(jvp(module, (x,), (direction,))[1], want, rtol=1e-10, atol=1e-10)
