"""Rendering vector slides in batches, beside the same views one by one, and beside the same batch without compiled
loops; the time is that of the whole batch."""

from collections.abc import Iterator

import numpy as np
import torch

from equipath.data.slides import KINDS, Grid, Slide, native, render_batch

from .harness import Row, compare

CASES = [("96 px at 0.97 µm, 32 views", 96, 0.97, 32, 0.5), ("512 px at 0.5 µm, 2 views", 512, 0.5, 2, 1.1)]


def rows(device, brief=False) -> Iterator[Row]:
    """Two rows a kind and size: the batch beside the loop, and beside the plain batch; divide by the number
    of views.
    """
    for kind in list(KINDS)[: 1 if brief else None]:
        for shape, size, mpp, count, goal in CASES:
            rng = np.random.default_rng(0)
            pairs = [
                (Slide(k, kind), Grid(tuple(rng.uniform(-300, 300, 2)), size, mpp, rng.uniform(0, 360)))
                for k in range(count)
            ]

            def batch(pairs=pairs):
                return torch.stack([view.image for view in render_batch(pairs, device)])

            def plain(pairs=pairs):
                return torch.stack([view.image for view in render_batch(pairs, device, compiled=False)])

            def loop(pairs=pairs):
                return torch.stack([slide.render(grid, device).image for slide, grid in pairs])

            yield compare(
                f"render {kind}",
                "one by one",
                shape,
                {"batch": batch},
                loop,
                chosen="batch",
                goal=goal,
                device=device,
                output=(batch, loop),
                tolerance=1e-3,
                rounds=7,
                seconds=6.0,
            )
            if torch.device(device).type == "cpu" and native.loops():
                yield compare(
                    f"render {kind}, compiled",
                    "the plain batch",
                    shape,
                    {"batch": batch},
                    plain,
                    chosen="batch",
                    goal=0.6,
                    device=device,
                    output=(batch, plain),
                    tolerance=1e-3,
                    rounds=7,
                    seconds=6.0,
                )
