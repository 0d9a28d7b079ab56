"""Rendering vector slides in batches, beside the same views one by one; the time is that of the whole batch."""

from collections.abc import Iterator

import numpy as np
import torch

from equipath.data.slides import KINDS, Grid, Slide, render_batch

from .harness import Row, compare

CASES = [("96 px at 0.97 µm, 32 views", 96, 0.97, 32, 0.5), ("512 px at 0.5 µm, 2 views", 512, 0.5, 2, 1.1)]


def rows(device, brief=False) -> Iterator[Row]:
    """One row a kind and size: ours is the batch, theirs the loop; divide by the number of views."""
    for kind in list(KINDS)[: 1 if brief else None]:
        for shape, size, mpp, count, goal in CASES:
            rng = np.random.default_rng(0)
            pairs = [
                (Slide(k, kind), Grid(tuple(rng.uniform(-300, 300, 2)), size, mpp, rng.uniform(0, 360)))
                for k in range(count)
            ]

            def batch(pairs=pairs):
                return torch.stack([view.image for view in render_batch(pairs, device)])

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
