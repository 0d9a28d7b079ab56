"""Tapes: what is written down gives, step by step, what the fields themselves give."""

import numpy as np
import pytest
import torch

from equipath.data.slides import KINDS, Grid, Slide
from equipath.data.slides.objects import Scene, areas, coarse_and_middle
from equipath.data.slides.tape import OPERATIONS, REGISTERS, Tape

TWO = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "min": torch.minimum, "max": torch.maximum,
}  # fmt: skip
ONE = {
    "adds": torch.add, "rsub": lambda x, c: c - x, "muls": torch.mul, "divs": torch.div,
    "mins": lambda x, c: torch.minimum(x, torch.full_like(x, c)),
    "maxs": lambda x, c: torch.maximum(x, torch.full_like(x, c)),
}  # fmt: skip


def play(steps, numbers, given, item):
    """Carry a tape out with tensors: the registers."""
    registers = [*given, *[None] * (REGISTERS - len(given))]
    for operation, out, a, b in steps.tolist():
        name = OPERATIONS[operation]
        x = registers[a]
        if name in TWO:
            registers[out] = TWO[name](x, registers[b])
        elif name in ONE:
            registers[out] = ONE[name](x, float(numbers[b, item]))
        else:
            registers[out] = {"abs": torch.abs, "neg": torch.neg, "sqrt": torch.sqrt}[name](x)
    return registers


def test_every_operation_is_written_down(rng):
    x, y = (torch.from_numpy(rng.uniform(0.5, 3, 50).astype(np.float32)) for _ in range(2))
    c = np.array([0.7, 1.9], dtype=np.float32)

    def all_of(a, b, c):
        yield from (a + b, a - b, a * b, a / b, a.minimum(b), a + 2.0, 2.0 + a, a - 2.0, 2.0 - a, a * 3.0, 3.0 * a)
        yield from (-a, (-a).abs(), a.sqrt(), a.clamp(1.0, 2.0), a.clamp(1.0, float("inf")), a / c, c - a, c * a, a + c)
        yield ((a * b + c) * (a - b).abs()).minimum(b * b - a)

    tape = Tape(2, 2)
    fields = list(all_of(*tape.fields, c))
    steps, numbers, places = tape.finish(fields)
    for item in range(2):
        registers = play(steps, numbers, [x, y], item)
        for place, want in zip(places, all_of(x, y, torch.tensor(c[item])), strict=True):
            torch.testing.assert_close(registers[place], want, rtol=0, atol=0)


def test_a_maximum_and_registers_used_again(rng):
    x = torch.from_numpy(rng.normal(size=30).astype(np.float32))
    tape = Tape(1, 1)
    a = tape.fields[0]
    total = a.maximum(0.5).maximum(-a)
    for k in range(200):  # many values, few of them needed at a time
        total = total * 0.9 + a.abs() * float(k % 3)
    unused = a * 7.0
    steps, numbers, (place,) = tape.finish([total])
    want = torch.maximum(x.clamp(min=0.5), -x)
    for k in range(200):
        want = want * 0.9 + x.abs() * float(k % 3)
    assert steps[:, 1].max() < 8
    assert len(steps) == 2 + 1 + 200 * 4  # nothing for what nobody wants
    torch.testing.assert_close(play(steps, numbers, [x], 0)[place], want, rtol=0, atol=0)
    assert unused.number < 1 + 1000


def test_too_many_values_at_once_are_refused():
    tape = Tape(1, 1)
    fields = [tape.fields[0] + float(k) for k in range(REGISTERS)]
    with pytest.raises(ValueError, match="registers"):
        tape.finish(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_areas_come_out_of_the_tape(kind, rng):
    slides = [Slide(seed, kind) for seed in range(3)]
    scene = Scene(KINDS[kind], slides, [Grid((0.0, 0.0), (1, 1), 1.0)] * 3)
    tape = Tape(10, 3)
    known = tape.fields
    recorded = [
        (m, d()) for m, d in areas(scene.kind, known[8:10], known[:4], known[4:8], scene.params32)
    ]
    steps, numbers, places = tape.finish([d for _, d in recorded])
    for item in range(3):
        xy = torch.from_numpy(rng.uniform(-2500, 2500, (2, 400)))
        p, offsets = scene.at(np.full(1, item))
        m, n = coarse_and_middle(scene.kind, xy, offsets)
        registers = play(steps, numbers, [*m, *n, *xy.float()], item)
        wanted = list(areas(scene.kind, xy, m, n, p))
        assert [material for material, _ in wanted] == [material for material, _ in recorded]
        for place, (_, distance) in zip(places, wanted, strict=True):
            want = distance()
            assert want.std() > 0
            torch.testing.assert_close(registers[place], want, rtol=0, atol=0)
