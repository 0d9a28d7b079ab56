"""SEUNet, the scale-equivariant U-Net, and the networks it is compared with, all on one backbone.

Yang et al. 2023 (paper 002): section 3 and figure 1 for the network, eq. 8 and 9 for its loss, section 3.4
and algorithm 1 for the ensembles, section 4.3 for the peers. Two convolutions a block with batch norm and
ReLU, 2x2 max-pooling, bilinear up-sampling by 2 with a 1x1 convolution shared by the scales, skip connections
scale by scale. Only the layers differ:

===============  =====================================================  =================================
network          layers                                                 answer
===============  =====================================================  =================================
``SEUNet``       Gaussian derivatives, σ by layer and scale             logits of each scale's own head
the same with    N-Jet: one free σ a layer                              one head
``scales=1``
``SESNUNet``     Hermite functions at fixed scales                      maximum over the scales, one head
``DISCOUNet``    dilated 3x3 filters                                    maximum over the scales, one head
``PlainUNet``    ordinary 3x3 convolutions, all channels in one scale   one head
===============  =====================================================  =================================
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equipath.losses import scale_head_loss
from equipath.models.summary import Summary, count_parameters
from equipath.nn.scale import (
    DISCOConv2d,
    DISCOLiftingConv2d,
    GaussianDerivativeConv2d,
    GaussianDerivativeLiftingConv2d,
    ScaleBatchNorm2d,
    ScaleHeads,
    ScaleMaxPool2d,
    ScaleProjection,
    ScaleSharedConv2d,
    ScaleStack,
    ScaleUpsample,
    SESNConv2d,
    SESNLiftingConv2d,
)
from equipath.nn.sizes import SizeContract, at_valid_size, check_whole

Convolution = Callable[[int, int, int], nn.Module]  # in_channels, out_channels, level (0 is the finest)
STRATEGIES = ("P_Ens", "P_Dist", "mean")


def sigma_ranges(scales: int = 5, depth: int = 4) -> list[list[tuple[float, float]]]:
    """The paper's intervals of σ in pixels, one list a level: figure 3's dashed lines.

    A level spans 2.5 pixels, from 0 at the finest and half a pixel further at each next, cut into ``scales``
    intervals of equal length. One scale (N-Jet) has the whole span.

    >>> sigma_ranges()[4][0], sigma_ranges()[4][-1]
    ((2.0, 2.5), (4.0, 4.5))
    """
    step = 2.5 / scales
    return [
        [(0.5 * level + step * k, 0.5 * level + step * (k + 1)) for k in range(scales)]
        for level in range(depth + 1)
    ]


def scale_ensemble(logits: Tensor, strategy: str = "P_Ens") -> Tensor:
    """One probability map from the heads of all scales: section 3.4 and algorithm 1 of the SEUNet paper.

    Args:
        logits: (B, K, S, H, W); K = 1 is a binary mask with a sigmoid.
        strategy: "mean", the mean of the probabilities; "P_Dist", at each pixel those of the most confident
            head; "P_Ens", their mean weighted by softmax over the heads of the confidence. Confidence is the
            distance of the two most probable classes. The paper's algorithm leaves out the sum over the
            heads in P_Ens; the predicted class here is ``argmax_c Σ_k w_k p_kc``.

    Returns:
        (B, K, H, W) probabilities; they sum to 1 over the classes if K > 1.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"the strategy is {strategy!r}; the choices are {', '.join(STRATEGIES)}")
    if logits.dim() != 5:
        raise ValueError(f"logits are (B, K, S, H, W), one head a scale; got {tuple(logits.shape)}")
    binary = logits.shape[1] == 1
    p = torch.sigmoid(logits) if binary else torch.softmax(logits, 1)
    if strategy == "mean":
        return p.mean(2)
    if binary:
        distance = (2 * p[:, 0] - 1).abs()
    else:
        first, second = p.topk(2, 1).values.unbind(1)
        distance = first - second  # (B, S, H, W)
    if strategy == "P_Dist":
        best = distance.argmax(1)[:, None, None].expand(-1, p.shape[1], -1, -1, -1)
        return p.gather(2, best)[:, :, 0]
    return (p * torch.softmax(distance, 1)[:, None]).sum(2)


class _ScaleUNet(nn.Module):
    """The backbone: what convolves and what answers are given, the rest is the same for every network."""

    name = "U-Net"
    equivariant_to = ""

    def __init__(
        self, in_channels: int, width: int, depth: int, first: Convolution, layer: Convolution,
        head: nn.Module, norm_scales: int | None, pad_to_valid: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels, self.depth, self.pad_to_valid = in_channels, depth, pad_to_valid
        self.sizes = SizeContract(2**depth, 0, 2**depth)
        widths = [width * 2**level for level in range(depth + 1)]

        def block(c_in: int, level: int, entry: Convolution = layer) -> nn.Sequential:
            c_out = widths[level]
            modules: list[nn.Module] = []
            for convolution, c in ((entry, c_in), (layer, c_out)):
                modules += [convolution(c, c_out, level), ScaleBatchNorm2d(c_out, norm_scales)]
                modules.append(nn.ReLU(inplace=True))
            return nn.Sequential(*modules)

        down = [block(in_channels, 0, first)]
        down += [block(widths[level - 1], level) for level in range(1, depth)]
        self.down = nn.ModuleList(down)
        self.pool = ScaleMaxPool2d(2)
        self.bottleneck = block(widths[depth - 1], depth)
        rising = range(depth - 1, -1, -1)
        self.up = nn.ModuleList(
            nn.Sequential(ScaleUpsample(), ScaleSharedConv2d(widths[n + 1], widths[n], 1)) for n in rising
        )
        self.merge = nn.ModuleList(block(2 * widths[n], n) for n in rising)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        shared: Tensor = self.up[0][1].weight  # type: ignore[index, assignment]
        y, top, left = at_valid_size(self, x, shared)
        return self.body(y)[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    def body(self, x: Tensor) -> Tensor:
        """The network on a picture of valid size, without looking at sizes: what ``export`` traces."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The scale field (B, width, S, H, W) before the head, for a picture of valid size."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            # Along the channels of (S, B, C, H, W), so that the scale stays outermost in memory.
            both = torch.cat([up(x).movedim(2, 0), skips.pop().movedim(2, 0)], 2)
            x = merge(both.movedim(0, 2))
        return x

    def _reach(self) -> list[list[int]]:
        """Half sizes of the filters in the order they are met: down, bottleneck, up."""
        blocks = [*self.down, self.bottleneck, *self.merge]
        reaches = []
        for block in blocks:
            layers = [m for m in block if isinstance(m, _CONVOLUTIONS)]
            reaches.append(
                [m.kernel_size[0] // 2 if isinstance(m, nn.Conv2d) else max(m.radii) for m in layers]
            )
        return reaches

    def summary(self) -> Summary:
        """Parameters, receptive field of the largest scale, picture sizes and how the output moves."""
        return Summary(
            self.name,
            count_parameters(self),
            scale_unet_receptive_field(self.depth, self._reach()),
            self.sizes,
            str(self.output_field),
            self.equivariant_to,
        )


_CONVOLUTIONS = (GaussianDerivativeConv2d, SESNConv2d, DISCOConv2d, ScaleSharedConv2d)


def scale_unet_receptive_field(depth: int, reaches: Sequence[Sequence[int]]) -> int:
    """Side of the square of pixels that can influence one output pixel, the widest over a large picture.

    Args:
        reaches: half sizes of the filters of each block: down (``depth`` of them), bottleneck, up.

    Bilinear up-sampling with aligned corners reads pixel p of 2 n pixels at ``p (n - 1) / (2 n - 1)``, so the
    field shifts slightly across the picture; what is returned is its width far from the borders.
    """
    size, widest = 2**depth * 256, 0
    middle = size // 2
    for pixel in range(middle, middle + 2 ** (depth + 1)):
        first = last = pixel
        for level in range(depth):
            reach = sum(reaches[2 * depth - level])
            first, last = first - reach, last + reach
            n = size // 2 ** (level + 1)
            # exact fractions, since floor of a rounded quotient may be off by one
            first, last = first * (n - 1) // (2 * n - 1), -(-last * (n - 1) // (2 * n - 1))
        for level in range(depth, -1, -1):
            reach = sum(reaches[level])
            first, last = first - reach, last + reach
            if level:
                first, last = 2 * first, 2 * last + 1
        widest = max(widest, last - first + 1)
    return widest


class SEUNet(_ScaleUNet):
    """The scale-equivariant U-Net: (B, C, H, W) to one logit map a scale, (B, K, S, H, W).

    Args:
        in_channels, out_channels: colours in, classes out (1 for a binary mask with a sigmoid).
        width: channels of each scale in the first block, doubled at each pooling; the paper's 12 with 5
            scales (60 in all).
        scales: γ. One scale, with ``mode="free"``, is the N-Jet U-Net.
        depth: how often the picture is halved.
        order: N of eq. 4; the paper found 1 best.
        mode: σ "constrained" to its interval (eq. 6), "fixed" in its middle, or "free" (the ablation of
            section 5).
        sigmas: the intervals, a list of (low, high) for each of the depth + 1 levels; ``sigma_ranges()`` by
            default.
        sampling, truncate: see ``GaussianDerivativeConv2d``.
        norm: batch norm "shared" by the scales (equivariant) or "separate" (the published code).
        pad_to_valid: pad pictures of other sizes by repeating their edges, and crop the answer.

    Attributes:
        eta: (S,) learnt numbers behind the weights of the heads' losses, eq. 9.

    Heads answer for one scale each; ``predict`` combines them, ``loss`` trains them.

    >>> net = SEUNet(3, 2, width=2, depth=2)
    >>> net(torch.zeros(1, 3, 16, 20)).shape, net.predict(torch.zeros(1, 3, 16, 20)).shape
    (torch.Size([1, 2, 5, 16, 20]), torch.Size([1, 2, 16, 20]))
    """

    output_field = "scale"
    name = "SEUNet"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 12,
        scales: int = 5,
        depth: int = 4,
        *,
        order: int = 1,
        mode: str = "constrained",
        sigmas: Sequence[Sequence[tuple[float, float]]] | None = None,
        sampling: str = "discrete",
        truncate: float = 2.0,
        norm: str = "shared",
        pad_to_valid: bool = False,
    ) -> None:
        check_whole(
            type(self).__name__, in_channels=in_channels, out_channels=out_channels, width=width, scales=scales,
            depth=depth,
        )  # fmt: skip
        if norm not in ("shared", "separate"):
            raise ValueError(f"norm is {norm!r}; the choices are 'shared' and 'separate'")
        if sigmas is None:
            sigmas = sigma_ranges(scales, depth)
        if len(sigmas) != depth + 1 or any(len(level) != scales for level in sigmas):
            raise ValueError(
                f"SEUNet with depth {depth} and {scales} scales wants {depth + 1} lists of {scales} intervals "
                f"of σ, finest level first; got lists of {[len(level) for level in sigmas]}"
            )
        options: dict[str, Any] = {"mode": mode, "sampling": sampling, "truncate": truncate}

        def first(c_in: int, c_out: int, level: int) -> nn.Module:
            return GaussianDerivativeLiftingConv2d(c_in, c_out, sigmas[level], order, **options)

        def layer(c_in: int, c_out: int, level: int) -> nn.Module:
            return GaussianDerivativeConv2d(c_in, c_out, sigmas[level], order, **options)

        head = ScaleHeads(width, out_channels, scales)
        separate = scales if norm == "separate" else None
        super().__init__(in_channels, width, depth, first, layer, head, separate, pad_to_valid)
        self.scales = scales
        self.eta = nn.Parameter(torch.zeros(scales))

    def loss(self, logits: Tensor, target: Tensor, **options) -> Tensor:
        """The weighted cross-entropies of all heads, eq. 8 and 9; options as for ``scale_head_loss``."""
        return scale_head_loss(logits, target, self.eta, **options)

    def predict(self, x: Tensor, strategy: str = "P_Ens") -> Tensor:
        """Class probabilities (B, K, H, W), the heads combined by ``scale_ensemble``."""
        return scale_ensemble(self(x), strategy)

    @property
    def sigmas(self) -> list[Tensor]:
        """σ of every layer, (S,) each, in the order of figure 3: what training made of them."""
        return [m.sigma for m in self.modules() if isinstance(m, GaussianDerivativeConv2d)]

    @property
    def equivariant_to(self) -> str:  # type: ignore[override]
        return (
            f"scaling, as far as pixels allow, each scale's answer moving to the next; shifts by multiples "
            f"of {2**self.depth} pixels, away from the border (up-sampling with aligned corners bends them)"
        )


class _ProjectedUNet(_ScaleUNet):
    """The peers: scales are projected away before one head."""

    output_field = "planar"

    def __init__(
        self, in_channels: int, out_channels: int, width: int, depth: int, first: Convolution,
        layer: Convolution, projection: str, pad_to_valid: bool,
    ) -> None:  # fmt: skip
        check_whole(
            type(self).__name__, in_channels=in_channels, out_channels=out_channels, width=width, depth=depth
        )
        head = nn.Sequential(ScaleProjection(projection), nn.Conv2d(width, out_channels, 1))
        super().__init__(in_channels, width, depth, first, layer, head, None, pad_to_valid)


class SESNUNet(_ProjectedUNet):
    """The backbone with SESN layers: (B, C, H, W) to logits (B, K, H, W).

    Args:
        width: channels of each scale in the first block.
        scales, kernel_size, order: see ``SESNConv2d``; the defaults are the paper's.
        projection: "max" (SESN's) or "mean" over the scales before the head.

    >>> SESNUNet(3, 2, width=2, depth=2)(torch.zeros(1, 3, 16, 20)).shape
    torch.Size([1, 2, 16, 20])
    """

    name = "SESN U-Net"
    equivariant_to = "scaling, as far as pixels and the fixed scales allow"

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 12, depth: int = 4, *,
        scales: Sequence[float] = (1, 2, 3, 4, 5), kernel_size: int = 11, order: int = 4,
        projection: str = "max", pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        def first(c_in: int, c_out: int, level: int) -> nn.Module:
            return SESNLiftingConv2d(c_in, c_out, scales, kernel_size, order)

        def layer(c_in: int, c_out: int, level: int) -> nn.Module:
            return SESNConv2d(c_in, c_out, scales, kernel_size, order)

        super().__init__(in_channels, out_channels, width, depth, first, layer, projection, pad_to_valid)


class DISCOUNet(_ProjectedUNet):
    """The backbone with DISCO layers at whole scales: (B, C, H, W) to logits (B, K, H, W).

    Args:
        width: channels of each scale in the first block.
        scales: whole scale factors; the default is the paper's.
        projection: "max" or "mean" over the scales before the head.

    >>> DISCOUNet(3, 2, width=2, depth=2)(torch.zeros(1, 3, 16, 20)).shape
    torch.Size([1, 2, 16, 20])
    """

    name = "DISCO U-Net"
    equivariant_to = "scaling between its whole scales, as far as pixels allow"

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 12, depth: int = 4, *,
        scales: Sequence[float] = (1, 2, 3, 4, 5), projection: str = "max", pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        def first(c_in: int, c_out: int, level: int) -> nn.Module:
            return DISCOLiftingConv2d(c_in, c_out, scales)

        def layer(c_in: int, c_out: int, level: int) -> nn.Module:
            return DISCOConv2d(c_in, c_out, scales)

        super().__init__(in_channels, out_channels, width, depth, first, layer, projection, pad_to_valid)


class PlainUNet(_ProjectedUNet):
    """The backbone with ordinary 3x3 convolutions, the paper's CNN: (B, C, H, W) to logits (B, K, H, W).

    ``width`` counts all channels of the first block (the paper's 60). ``models.unet.UNet`` is the course's
    general U-Net; this one differs from SEUNet in nothing but its filters.

    >>> PlainUNet(3, 2, width=4, depth=2)(torch.zeros(1, 3, 16, 20)).shape
    torch.Size([1, 2, 16, 20])
    """

    name = "plain U-Net on SEUNet's backbone"
    equivariant_to = "nothing exactly; shifts nearly"

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 60, depth: int = 4, *,
        pad_to_valid: bool = False,
    ) -> None:  # fmt: skip
        def layer(c_in: int, c_out: int, level: int) -> nn.Module:
            return ScaleSharedConv2d(c_in, c_out, 3, padding=1, bias=False)

        def first(c_in: int, c_out: int, level: int) -> nn.Module:
            return nn.Sequential(ScaleStack(), layer(c_in, c_out, level))

        super().__init__(in_channels, out_channels, width, depth, first, layer, "max", pad_to_valid)

    def _reach(self) -> list[list[int]]:
        return [[1, 1]] * (2 * self.depth + 1)
