"""Vector slides: tissue scenes in micrometres, rendered exactly on any pixel grid, with labels from the same
geometry.
"""

from .geometry import Grid
from .render import View
from .slide import Slide, render_batch
from .tasks import (
    TASKS,
    CellTissuePairs,
    Nuclei,
    TexturePatches,
    TissueCores,
    TissueTypes,
    TumourPatches,
)
from .tissue import CLASSES, KINDS, MATERIALS

__all__ = [
    "CLASSES",
    "KINDS",
    "MATERIALS",
    "TASKS",
    "CellTissuePairs",
    "Grid",
    "Nuclei",
    "Slide",
    "TexturePatches",
    "TissueCores",
    "TissueTypes",
    "TumourPatches",
    "View",
    "render_batch",
]
