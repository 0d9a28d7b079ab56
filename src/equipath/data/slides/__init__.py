"""Vector slides: tissue scenes in micrometres, rendered exactly on any pixel grid, with labels from the same geometry."""

from .geometry import Grid
from .render import View
from .slide import Slide, render_batch
from .tissue import CLASSES, KINDS

__all__ = ["CLASSES", "KINDS", "Grid", "Slide", "View", "render_batch"]
