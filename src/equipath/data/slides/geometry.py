"""How a pixel grid lies on a slide: centre, size, microns per pixel, angle and reflection, and the map from
pixels to micrometres.

The slide's coordinates are micrometres, x to the right and y up. A grid is rotated and mirrored as
`equipath.groups` does it: the tissue on the screen is first mirrored left-right (if `flip`) and then turned
counter-clockwise by `angle` degrees.
"""

import math
from dataclasses import dataclass

import numpy as np


def turn(degrees):
    """The 2x2 matrix of a counter-clockwise rotation, exact at multiples of 90 degrees."""
    degrees = math.fmod(degrees, 360.0)
    quarter = round(degrees / 90.0)
    rest = math.radians(degrees - 90.0 * quarter)
    c, s = math.cos(rest), math.sin(rest)
    for _ in range(quarter % 4):
        c, s = -s, c
    return np.array([[c, -s], [s, c]])


@dataclass(frozen=True)
class Grid:
    """A pixel grid on a slide.

    Args:
        center: (x, y) of the grid's centre in µm.
        size: (H, W) in pixels, or one number for a square.
        mpp: microns per pixel, > 0.
        angle: degrees, counter-clockwise, by which the tissue is turned on the screen.
        flip: mirror the tissue left-right on the screen, before it is turned.

    Raises:
        ValueError: a size, mpp, angle or centre that does not make a grid.
    """

    center: tuple[float, float]
    size: tuple[int, int]
    mpp: float = 0.5
    angle: float = 0.0
    flip: bool = False

    def __post_init__(self):
        size = (self.size, self.size) if isinstance(self.size, int | np.integer) else self.size
        try:
            height, width = (int(n) for n in size)
            exact = all(float(n) == int(n) for n in size)
        except (TypeError, ValueError):
            raise ValueError(f"Grid size is (H, W) in pixels, got {self.size!r}.") from None
        if not exact or height < 1 or width < 1:
            raise ValueError(f"Grid size is (H, W) in whole pixels, both at least 1, got {self.size!r}.")
        try:
            x, y = (float(v) for v in self.center)
        except (TypeError, ValueError):
            raise ValueError(f"Grid center is (x, y) in µm, got {self.center!r}.") from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"Grid center must be finite, got {self.center!r}.")
        if not (isinstance(self.mpp, int | float | np.number) and math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"Grid mpp is microns per pixel and must be above 0, got {self.mpp!r}.")
        if not (isinstance(self.angle, int | float | np.number) and math.isfinite(self.angle)):
            raise ValueError(f"Grid angle is in degrees and must be finite, got {self.angle!r}.")
        object.__setattr__(self, "size", (height, width))
        object.__setattr__(self, "center", (x, y))
        object.__setattr__(self, "mpp", float(self.mpp))
        object.__setattr__(self, "angle", float(self.angle))
        object.__setattr__(self, "flip", bool(self.flip))

    def matrix(self):
        """The 2x2 matrix from screen offsets in µm (x right, y up, from the grid's centre) to offsets on the
        slide.
        """
        back = turn(-self.angle)
        return np.diag([-1.0, 1.0]) @ back if self.flip else back

    def points(self):
        """The pixel centres on the slide in µm: float64 (H, W, 2)."""
        height, width = self.size
        dx = (np.arange(width) - (width - 1) / 2) * self.mpp
        dy = ((height - 1) / 2 - np.arange(height)) * self.mpp
        a = self.matrix()
        x = (a[0, 0] * dx[None, :] + a[0, 1] * dy[:, None]) + self.center[0]
        y = (a[1, 0] * dx[None, :] + a[1, 1] * dy[:, None]) + self.center[1]
        return np.stack([x, y], axis=-1)

    def shifted(self, rows, columns):
        """The grid moved on the screen by whole or fractional pixels (down, right)."""
        move = self.matrix() @ np.array([columns * self.mpp, -rows * self.mpp])
        center = (self.center[0] + move[0], self.center[1] + move[1])
        return Grid(center, self.size, self.mpp, self.angle, self.flip)
