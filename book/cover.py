"""Draws the picture of the README: `python book/cover.py` writes `book/cover.png`.

A slide of colon is turned in quarter turns. The plain U-Net of lesson 1 answers differently each time; its
average over the group p4m does not. The predictions are turned back before they are compared.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from coursekit.figures import overlay, palette, scale_bar, style
from equipath.data.slides import Grid, Slide
from equipath.experiments.first_unet import MPP, trained_unet
from equipath.groups import P4
from equipath.models.tta import TestTimeAverage

SEED, CENTRE, SIZE = 9003, (0.0, 0.0), 192


def main() -> None:
    """Render, predict, draw, save."""
    style()
    image = Slide(SEED, "colon").render(Grid(center=CENTRE, size=(SIZE, SIZE), mpp=MPP)).image
    plain = trained_unet()
    nets = {"a plain U-Net": plain, "the same U-Net,\naveraged over p4m": TestTimeAverage(plain)}
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.6), layout="constrained")
    for row, (name, net) in zip(axes, nets.items(), strict=True):
        glands = []
        for turns in range(4):
            turned = P4.act(image[None], turns)
            with torch.no_grad():
                gland = net(turned)[0].argmax(0) == 1
            glands.append(P4.act(gland, P4.inverse(turns)))
            overlay(row[turns], turned[0], gland, um_per_px=MPP, color=palette["blue"], hatch="")
            row[turns].set(
                title=f"{90 * turns}°" if row is axes[0] else "", xticks=[], yticks=[], xlabel="", ylabel=""
            )
        row[0].set_ylabel(name)
        changed = (torch.stack(glands) != glands[0]).any(0)
        row[4].imshow(changed, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        row[4].set(xticks=[], yticks=[], xlabel=f"{100 * changed.float().mean():.1f} % of pixels")
    axes[0, 4].set_title("answer depends on the turn")
    scale_bar(axes[0, 0], um_per_px=MPP)
    figure.savefig(Path(__file__).with_name("cover.png"), dpi=110)


if __name__ == "__main__":
    main()
