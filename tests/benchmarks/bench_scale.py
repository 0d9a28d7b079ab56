"""SEUNet beside the published way of computing it; SESN and DISCO layers beside theirs.

The peers are the published evaluations, restated here: for every layer one dense kernel a scale, all padded
to the largest, mixed from a table of basis filters at each step (``weight @ basis``), and one grouped
convolution. Public code is not shipped with this library; the numbers of its layers are in
``tests/golden/scale.npz``, and these restatements are compared with ours before anything is timed.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipath.kernels.evaluate import prefer
from equipath.kernels.gaussian import gaussian_taps
from equipath.kernels.separable import separable_basis
from equipath.models.seunet import SEUNet, sigma_ranges
from equipath.nn.scale import DISCOConv2d, GaussianDerivativeConv2d, SESNConv2d

from .harness import Row, asked, compare

# channels of a scale in and out, level of the U-Net, side: the layers of the paper's SEUNet on 256² pixels
LAYERS = [(12, 12, 0, 256), (24, 24, 1, 128), (48, 48, 2, 64), (96, 96, 3, 32), (192, 192, 4, 16)]
MIXED = "chosen by scale"


class Padded(nn.Module):
    """A scale layer as published: every scale padded to the largest kernel, one grouped convolution."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.layer, self.weight = layer, layer.weight
        self.lifting = layer.lifting
        if isinstance(layer, DISCOConv2d):
            # the authors' basis: dilated unit taps, with zeros between them, in the largest frame
            side = 2 * max(layer.radii) + 1
            basis = torch.zeros(layer.kernel_size**2, layer.scales, side, side)
            for k, s in enumerate(layer.dilations):
                at = (torch.arange(layer.kernel_size) - layer.kernel_size // 2) * s + side // 2
                for n in range(layer.kernel_size**2):
                    basis[n, k, at[n // layer.kernel_size], at[n % layer.kernel_size]] = 1
            self.register_buffer("basis", basis.to(layer.weight))
        elif isinstance(layer, SESNConv2d):
            self.register_buffer("basis", separable_basis(layer.taps, layer.taps).transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, GaussianDerivativeConv2d):  # σ moves, so the basis is made at each step
            taps = gaussian_taps(layer.sigma, layer.order, layer.radii, layer.sampling)
            basis = separable_basis(taps.flip(-1), taps).transpose(0, 1)
        else:
            basis = self.basis
        functions, scales, side, _ = basis.shape
        out_channels, in_channels = self.weight.shape[:2]
        kernel = self.weight.reshape(out_channels, in_channels, -1) @ basis.reshape(functions, -1)
        kernel = kernel.view(out_channels, in_channels, scales, side, side).permute(2, 0, 1, 3, 4)
        kernel = kernel.reshape(scales * out_channels, in_channels, side, side)
        if self.lifting:
            flat, groups = x, 1
        else:
            flat, groups = x.transpose(1, 2).flatten(1, 2), scales
        y = F.conv2d(flat, kernel, padding=side // 2, groups=groups)
        return y.unflatten(1, (scales, out_channels)).transpose(1, 2)


def padded(net: SEUNet) -> SEUNet:
    """The same network, its parameters shared, every scale layer evaluated the published way."""
    twin = SEUNet(3, 5, net.head.weight.shape[2], net.scales, net.depth)
    twin.load_state_dict(net.state_dict())
    for block in [*twin.down, twin.bottleneck, *twin.merge]:
        for n in (0, 3):
            block[n] = Padded(block[n])
    return twin


def network_step(net: SEUNet, x: Tensor, target: Tensor):
    parameters = list(net.parameters())

    def step() -> object:
        return torch.autograd.grad(net.loss(net(x), target), parameters)

    return step


def rows(device: torch.device, *, brief: bool = False) -> Iterator[Row | None]:
    yield from layer_rows(device, brief)
    side = 64 if brief else 256
    shape = f"3 → 5 classes, width 60, {side}², batch 1"
    if not asked("SEUNet, training step", "padded dense kernels", shape=shape):
        return
    torch.manual_seed(0)
    net = SEUNet(3, 5).to(device)
    twin = padded(net).to(device)
    x = torch.randn(1, 3, side, side, device=device)
    target = torch.randint(0, 5, (1, side, side), device=device)
    steps = {}
    own = network_step(net, x, target)
    for name in ("expand", "factor", MIXED):

        def run(name=name, step=own):
            with prefer(None if name == MIXED else name):
                return step()

        steps[name] = run
    yield compare(
        "SEUNet, training step", "padded dense kernels", shape,
        steps, network_step(twin, x, target), chosen=MIXED, goal=0.1, device=device,
        output=(lambda: net(x), lambda: twin(x)), rounds=5 if brief else 2, seconds=60.0,
    )  # fmt: skip


def layer_rows(device: torch.device, brief: bool) -> Iterator[Row | None]:
    ranges = sigma_ranges()
    for c_in, c_out, level, side in LAYERS[2:4] if brief else LAYERS:
        for family, goal in (("Gaussian derivatives", 0.1), ("SESN", 1 / 3), ("DISCO", 0.1)):
            shape = f"{c_in} → {c_out} a scale, {side}²"
            if not asked(f"{family} layer, training step", "padded dense kernels", shape=shape):
                continue
            torch.manual_seed(0)
            if family == "SESN":
                layer: nn.Module = SESNConv2d(c_in, c_out)
            elif family == "DISCO":
                layer = DISCOConv2d(c_in, c_out)
            else:
                layer = GaussianDerivativeConv2d(c_in, c_out, ranges[level])
            layer = layer.to(device)
            # each has the field in the order of memory that it makes itself
            x = torch.randn(5, 1, c_in, side, side, device=device).movedim(0, 2).requires_grad_()
            flat = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            twin = Padded(layer)
            seed = torch.randn(5, 1, c_out, side, side, device=device).movedim(0, 2)
            leaves = list(layer.parameters())

            def ours(way, layer=layer, x=x, leaves=leaves, seed=seed):
                with prefer(way):
                    y = layer(x)
                return torch.autograd.grad(y, [x, *leaves], seed)

            def theirs(twin=twin, flat=flat, leaves=leaves, seed=seed):
                return torch.autograd.grad(twin(flat), [flat, *leaves], seed)

            if family == "DISCO":
                ways, chosen = {"dilate": lambda ours=ours: ours(None)}, "dilate"
            else:
                ways = {w: (lambda w=w, ours=ours: ours(w)) for w in ("expand", "factor")}
                found = set(layer.evaluation(x))  # type: ignore[operator]
                chosen = found.pop() if len(found) == 1 else MIXED
                if chosen == MIXED:
                    ways[MIXED] = lambda ours=ours: ours(None)
            yield compare(
                f"{family} layer, training step", "padded dense kernels", shape, ways, theirs, chosen=chosen,
                goal=goal, device=device,
                output=(lambda layer=layer, x=x: layer(x), lambda twin=twin, x=x: twin(x)),
                rounds=9, seconds=7.0,
            )  # fmt: skip
