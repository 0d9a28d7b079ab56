"""What colour tissue has: Beer-Lambert absorption of haematoxylin, eosin and DAB, and how a slide's stain
and scanner differ from others'.

A pixel's optical density is the sum over stains of concentration times the stain's absorption in red, green
and blue (Ruifrok and Johnston, 2001); light falls by ten to the power of minus that. Laboratories form
families, measured on public slides by the method of Macenko (2009): pink-brown, violet, rose, blue and
faded.
"""

from dataclasses import dataclass

import numpy as np
import torch

FAMILIES = (  # absorption of haematoxylin and of eosin in (R, G, B), unit length, and the strength of each
    ((0.55, 0.69, 0.47), (0.18, 0.81, 0.56), 1.00, 0.80),  # pink-brown
    ((0.57, 0.76, 0.31), (0.20, 0.94, 0.26), 1.00, 0.85),  # violet
    ((0.68, 0.67, 0.30), (0.22, 0.86, 0.46), 0.75, 0.55),  # rose
    ((0.70, 0.69, 0.18), (0.24, 0.96, 0.14), 1.10, 0.95),  # blue
    ((0.55, 0.68, 0.48), (0.22, 0.79, 0.57), 0.85, 0.65),  # faded brown
)
DAB = (0.27, 0.57, 0.78)


@dataclass(frozen=True)
class Stain:
    """A slide's stain and scanner: `vectors` (3, 3) absorption of haematoxylin, eosin, DAB; `white` (3,);
    `blur` σ in µm.
    """

    vectors: np.ndarray
    white: np.ndarray
    blur: float

    @staticmethod
    def draw(rng, families=(0, 1, 2, 3), dab=False):
        """A laboratory at random, and a slide of it."""

        def near(v, spread):
            v = np.array(v) + spread * (2 * rng.random(3) - 1)
            return v / np.sqrt((v * v).sum())

        h, e, hs, es = FAMILIES[families[int(rng.random() * len(families))]]
        strength = 0.8 + 0.4 * rng.random()
        hv = near(h, 0.04) * (hs * strength * (0.85 + 0.3 * rng.random()))
        ev = near(e, 0.05) * (es * strength * (0.75 + 0.5 * rng.random()))
        white = 0.955 + 0.045 * rng.random() + 0.012 * (rng.random(3) - 0.5)
        blur = 0.12 + 0.28 * rng.random()
        if dab:
            ev, hv = 0.08 * ev, 0.6 * hv
        return Stain(np.stack([hv, ev, np.array(DAB) * (1.0 if dab else 0.0)]), white, blur)


def transmit(concentrations, vectors, white):
    """Light through stain: concentrations (S, B, N), vectors (B, S, 3), white (B, 3) -> float32 (B, 3, N)
    in [0, 1].
    """
    absorb = (vectors * -2.302585).unbind(1)  # 10 ** -x is exp(-2.302585 x)
    out = concentrations[0].new_empty((len(white), 3, concentrations[0].shape[1]))
    for channel, light in enumerate(out.unbind(1)):
        torch.mul(concentrations[0], absorb[0][:, channel, None], out=light)
        for c, v in zip(concentrations[1:], absorb[1:], strict=True):
            light.addcmul_(c, v[:, channel, None])
        light.exp_().mul_(white[:, channel, None]).clamp_(0, 1)
    return out
