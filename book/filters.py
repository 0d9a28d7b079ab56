"""Draws the filters of every family for the library's pages: `python book/filters.py` writes `book/images/filters/`."""

import io
from pathlib import Path

from PIL import Image

from equipath.viz import filters

FIGURES = {
    "lifted": filters.lifted_filters,
    "regular": filters.regular_filters,
    "rings": filters.ring_filters,
    "steerable": filters.steerable_kernels,
    "gaussian": filters.gaussian_derivatives,
    "hermite": filters.hermite_functions,
    "dilated": filters.dilated,
}


def main() -> None:
    """Draw, reduce to a palette, save."""
    folder = Path(__file__).parent / "images" / "filters"
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        canvas = io.BytesIO()
        draw().savefig(canvas, dpi=180, format="png")
        # Flat colours and thin lines: a palette keeps the edges sharp in a third of the bytes.
        picture = Image.open(canvas).convert("RGB").quantize(160, dither=Image.Dither.NONE)
        picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
