"""Spans: no value of a field lies outside the bounds that interval arithmetic gives for a patch."""

import math

import numpy as np
import pytest
import torch

from equipath.data.slides import KINDS, Grid, Slide
from equipath.data.slides.objects import Scene, areas, coarse_and_middle, fold_depth, pen_depth, planar
from equipath.data.slides.span import Span


def test_operations_hold_all_results(rng):
    for _ in range(50):
        (a, b), (c, d) = np.sort(rng.uniform(-3, 3, (2, 2)))
        x, y = rng.uniform(a, b, 200), rng.uniform(c, d, 200)
        p, q, k = Span(a, b), Span(c, d), float(rng.uniform(-2, 2))
        pairs = [
            (p + q, x + y), (p - q, x - y), (p * q, x * y), (p * p, x * x), (p * k, x * k), (k * p, k * x),
            (k - p, k - x), (p - k, x - k), (k + p, k + x), (-p, -x), (p / k, x / k), (p / q, x / y),
            (p.abs(), np.abs(x)), (p.minimum(q), np.minimum(x, y)), (p.clamp(-1, 1), x.clip(-1, 1)),
            (p.sqrt(), np.sqrt(x.clip(0))),
        ]  # fmt: skip
        for span, values in pairs:
            assert span.lo - 1e-12 <= values.min()
            assert values.max() <= span.hi + 1e-12
    assert (Span(-1.0, 2.0) * Span(-1.0, 2.0)).lo == -2.0
    assert Span(-1.0, 2.0).abs().lo == 0.0
    assert math.isinf((Span(1.0, 2.0) / Span(-1.0, 1.0)).hi)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_a_patch_hold_every_distance(kind, rng):
    """Areas, folds and pen, at random patches small and large: all values within the bounds of the fields."""
    slides = [Slide(seed, kind) for seed in range(12)]
    scene = Scene(KINDS[kind], slides, [Grid((0.0, 0.0), (1, 1), 1.0)] * len(slides))
    tight = 0
    for item, slide in enumerate(slides):
        wide = slide.extent[2] - slide.extent[0]
        corner, side = rng.uniform(-wide / 2, wide / 2, 2), float(rng.choice([20.0, 200.0, 2000.0]))
        points = planar(corner + side * rng.random((3000, 2)))
        p, offsets = scene.at(np.full(1, item))
        p |= {k: torch.tensor([slide.params[k]]) for k in slide.params if k[:4] in ("fold", "pen_")}
        m, n = coarse_and_middle(scene.kind, points, offsets)

        def spans(x):
            return [Span(*ends) for ends in zip(x.amin(1).tolist(), x.amax(1).tolist(), strict=True)]

        fields = (spans(points), spans(m), spans(n), {k: float(v) for k, v in p.items()})
        pairs = [
            (bound(), distance())
            for (_, bound), (_, distance) in zip(
                areas(scene.kind, *fields), areas(scene.kind, points, m, n, p), strict=True
            )
        ]
        pairs += [(depth(*fields), depth(points, m, n, p)) for depth in (fold_depth, pen_depth)]
        for bound, values in pairs:
            assert bound.lo - 0.1 <= float(values.min())
            assert float(values.max()) <= bound.hi + 0.1
            tight += bound.hi < 0
    assert tight > 12  # and they exclude something
