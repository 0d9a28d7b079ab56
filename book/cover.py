"""Draws the picture of the README: `python book/cover.py` writes `book/cover.png`.

A slide of colon is turned in quarter turns. A plain U-Net, trained here for a minute or two, answers
differently each time; its average over the group p4m does not. Predictions are turned back and compared.
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from coursekit.figures import overlay, palette, scale_bar, style
from equipath.data.slides import CLASSES, Grid, Slide
from equipath.groups import P4
from equipath.losses import dice_cross_entropy
from equipath.models.tta import TestTimeAverage
from equipath.models.unet import UNet

MPP = 2.0  # µm per pixel
GLAND = torch.tensor([CLASSES.index(name) for name in ("epithelium", "lumen", "tumour")])


def view(seed: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile of a slide of colon, (3, size, size), and its gland map, (size, size), 1 in a gland."""
    seen = Slide(seed, "colon").render(Grid(center=(0.0, 0.0), size=(size, size), mpp=MPP))
    return seen.image, torch.isin(seen.tissue, GLAND).long()


def trained(steps: int = 160, batch: int = 6) -> UNet:
    """A small U-Net after a minute or two of training on slides that were never turned."""
    torch.manual_seed(0)
    net = UNet(3, 2, width=8, depth=3)
    images, glands = map(torch.stack, zip(*(view(seed, 160) for seed in range(60)), strict=True))
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,))
        loss = dice_cross_entropy(net(images[chosen]), glands[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def main() -> None:
    """Train, render, predict, draw, save."""
    style()
    image, _ = view(9003, 192)
    plain = trained()
    nets = {"a plain U-Net": plain, "the same U-Net,\naveraged over p4m": TestTimeAverage(plain)}
    figure, axes = plt.subplots(2, 5, figsize=(9.2, 3.9), layout="constrained")
    for i, (name, net) in enumerate(nets.items()):
        glands = []
        for turns in range(4):
            turned = P4.act(image[None], turns)
            with torch.no_grad():
                gland = net(turned)[0].argmax(0) == 1
            glands.append(P4.act(gland, P4.inverse(turns)))
            overlay(axes[i, turns], turned[0], gland, um_per_px=MPP, color=palette["blue"], hatch="")
            axes[i, turns].set(title=f"{90 * turns}°" if i == 0 else "", xlabel="", ylabel="")
        axes[i, 0].set_ylabel(name)
        changed = (torch.stack(glands) != glands[0]).any(0)
        axes[i, 4].imshow(changed, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        axes[i, 4].set_xlabel(f"{100 * changed.float().mean():.1f} % of pixels")
    axes[0, 4].set_title("depends on the turn")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    scale_bar(axes[0, 0])
    canvas = io.BytesIO()
    figure.savefig(canvas, dpi=90)
    # 48 colours are enough for a picture of two stains and one outline, and a quarter of the bytes.
    Image.open(canvas).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(
        Path(__file__).with_name("cover.png"), optimize=True
    )


if __name__ == "__main__":
    main()
