"""Small exercises of every shape an answer may have, to try the checker on: a function, a class, a function
of functions, a function that returns a function, numbers and tables, numpy, and partial credit."""

from __future__ import annotations

import numpy as np
import torch

from coursekit.check import Exercise, Misconception, close, commutes, equivariant_map, expect, worth, wrong

HINTS = ("Think of the axes.", "Which axes are height and width?", "It is one call with two axes.")


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- a function --------------------------------------------------------------------------------------------

IMAGE = seeded(2, 3, 5, 7)


def turn(x, r):
    return torch.rot90(x, r, (-2, -1))


def turn_by_flips(x, r):
    for _ in range(r % 4):
        x = x.transpose(-2, -1).flip(-2)
    return x


def turn_by_index(x, r):
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.rot90(rows * width + columns, r, (0, 1))
    return x.flatten(-2)[..., place]


def clockwise(x, r):
    return torch.rot90(x, -r, (-2, -1))


def mirrored(x, r):
    return x.flip(-1) if r else x


def wrong_axes(x, r):
    return torch.rot90(x, r, (0, 1))


def transposed(x, r):
    return x.transpose(-2, -1) if r % 2 else x


def always_once(x, r):
    return torch.rot90(x, 1, (-2, -1))


def not_turned(x, r):
    return x


def turns_four_times(ask):
    y = IMAGE
    for _ in range(4):
        y = ask(y, 1)
    close(y, IMAGE, "Turning four times by 90 degrees gives the image back")


def turns_the_right_way(ask):
    for r in range(4):
        close(
            ask(IMAGE, r),
            turn(IMAGE, r),
            f"With r = {r} the image is turned {90 * r} degrees counter-clockwise",
        )


turn_image = Exercise(
    name="turn_image",
    lesson="01_toys",
    title="Turn an image",
    points=2,
    statement="Return x (B, C, H, W) turned counter-clockwise by r times 90 degrees.",
    reference=turn,
    alternatives=(turn_by_flips, turn_by_index),
    misconceptions=(
        Misconception(clockwise, "You turn clockwise; r counts turns counter-clockwise."),
        Misconception(mirrored, "You mirror the image instead of turning it."),
        Misconception(wrong_axes, "You turn the batch and channel axes, not height and width."),
        Misconception(transposed, "You transpose, which mirrors along the diagonal; a turn also flips."),
        Misconception(always_once, "Your result does not depend on r."),
        Misconception(not_turned, "You return the image as it was."),
    ),
    hints=HINTS,
    checks=(turns_four_times, turns_the_right_way),
    objective="move an image by a group element",
)


# -- a class: a layer with parameters ----------------------------------------------------------------------


class Affine(torch.nn.Module):
    """Each channel times its weight plus its bias."""

    def __init__(self, channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(channels))
        self.bias = torch.nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x * self.weight[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)


class AffineByEinsum(Affine):
    def forward(self, x):
        return torch.einsum("bchw,c->bchw", x, self.weight.to(x.dtype)) + self.bias.to(x.dtype).reshape(
            1, -1, 1, 1
        )


class AffineByLoop(Affine):
    def forward(self, x):
        w, b = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return torch.stack([x[:, c] * w[c] + b[c] for c in range(x.shape[1])], dim=1)


class NoBias(Affine):
    def forward(self, x):
        return x * self.weight[:, None, None].to(x.dtype)


class NoWeight(Affine):
    def forward(self, x):
        return x + self.bias[:, None, None].to(x.dtype)


class BiasFirst(Affine):
    def forward(self, x):
        return (x + self.bias[:, None, None].to(x.dtype)) * self.weight[:, None, None].to(x.dtype)


class FirstImageOnly(Affine):
    def forward(self, x):
        return super().forward(x[:1]).expand_as(x)


class Subtracts(Affine):
    def forward(self, x):
        return x * self.weight[:, None, None].to(x.dtype) - self.bias[:, None, None].to(x.dtype)


class Normalises(Affine):
    def forward(self, x):
        return super().forward(x - x.mean(dim=(-2, -1), keepdim=True))


SQUARE, OBLONG = seeded(2, 3, 5, 5, seed=1), seeded(2, 3, 5, 8, seed=2)
WEIGHTS = {"weight": torch.tensor([0.5, -2.0, 1.5]), "bias": torch.tensor([0.25, 1.0, -3.0])}


def affine_library(x, p):
    w, b = (p[k].to(x.dtype)[None, :, None, None] for k in ("weight", "bias"))
    return x * w + b


def affine_is_equivariant(ask):
    layer = ask.make(3)
    expect(
        set(layer.parameters()) == {"weight", "bias"}, "The layer has two parameters, `weight` and `bias`."
    )
    moves = [
        (f"turning by {90 * r} degrees", lambda x, r=r: turn(x, r), lambda y, r=r: turn(y, r)) for r in (1, 2)
    ]
    equivariant_map(
        lambda x, p: layer.load(p)(x),
        affine_library,
        moves=moves,
        parameters=WEIGHTS,
        square=SQUARE,
        oblong=OBLONG,
        count=6,
    )


def affine_has_gradients(ask):
    layer = ask.make(3).load(WEIGHTS).train()
    grads = layer.parameter_gradients(SQUARE)
    for name in ("weight", "bias"):
        expect(grads[name] is not None, f"The loss has no gradient with respect to `{name}`.")
    want = WEIGHTS["weight"].to(torch.float64)[None, :, None, None].expand_as(SQUARE)
    close(
        layer.eval().gradient(SQUARE),
        want,
        "The gradient with respect to the input is the weight of its channel",
    )


affine_layer = Exercise(
    name="affine_layer",
    lesson="01_toys",
    title="A layer with two parameters",
    points=3,
    statement="Write a module with parameters weight and bias (C,): y = weight x + bias for each channel.",
    reference=Affine,
    alternatives=(AffineByEinsum, AffineByLoop),
    misconceptions=(
        Misconception(NoBias, "Your layer never adds its bias to the result."),
        Misconception(NoWeight, "Your layer never uses its weight at all."),
        Misconception(BiasFirst, "You add the bias before you multiply by the weight."),
        Misconception(FirstImageOnly, "You use the first image of the batch for all."),
        Misconception(Subtracts, "You subtract the bias instead of adding it."),
        Misconception(Normalises, "You take away the mean of each channel first."),
    ),
    hints=HINTS,
    checks=(affine_is_equivariant, affine_has_gradients),
    objective="write a layer",
)


# -- a function of functions, with a number as its result --------------------------------------------------


def shift_error(f, x):
    """Relative error of f against a shift by one column."""
    want = torch.roll(f(x), 1, -1)
    return float((f(torch.roll(x, 1, -1)) - want).norm() / want.norm())


def shift_error_tensor(f, x):
    a, b = f(x.roll(1, -1)), f(x).roll(1, -1)
    return ((a - b).square().sum() / b.square().sum()).sqrt()


def shift_error_numpy(f, x):
    a, b = f(x.roll(1, -1)).numpy(), f(x).roll(1, -1).numpy()
    return np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel())


def error_absolute(f, x):
    return float((f(x.roll(1, -1)) - f(x).roll(1, -1)).norm())


def error_squared(f, x):
    return shift_error(f, x) ** 2


def error_output_not_moved(f, x):
    return float((f(x.roll(1, -1)) - f(x)).norm() / f(x).norm())


def error_input_not_moved(f, x):
    return float((f(x) - f(x).roll(1, -1)).norm() / f(x).norm())


def error_other_way(f, x):
    want = torch.roll(f(x), -1, -1)
    return float((f(torch.roll(x, 1, -1)) - want).norm() / want.norm())


def error_never_calls(f, x):
    return float((x.roll(1, -1) - x).norm() / x.norm())


def pointwise(x):
    return torch.relu(x) + 0.5 * x


def with_border(x):
    return torch.cumsum(x, -1)


def error_is_zero_for_pointwise(ask):
    expect(ask(pointwise, IMAGE) < 1e-12, "A pointwise function commutes with a shift: its error is zero.")


def error_is_relative(ask):
    big = ask(lambda x: 1000 * with_border(x), IMAGE)
    close(big, ask(with_border, IMAGE), "A thousand times the output has the same relative error")
    close(
        ask(with_border, IMAGE),
        shift_error(with_border, IMAGE),
        "A running sum does not commute with a shift",
    )


measure_error = Exercise(
    name="measure_error",
    lesson="01_toys",
    title="Measure the error",
    points=1,
    statement="Return the relative error of f(shift x) against shift f(x), a number.",
    reference=shift_error,
    alternatives=(shift_error_tensor, shift_error_numpy),
    misconceptions=(
        Misconception(error_absolute, "Your error is absolute: divide by the norm of the wanted output."),
        Misconception(error_squared, "You return the squared error; take the root."),
        Misconception(error_output_not_moved, "You never move the output: compare with the moved f(x)."),
        Misconception(error_input_not_moved, "You never move the input: compare with f of the moved x."),
        Misconception(error_other_way, "You move the output the other way than the input."),
        Misconception(error_never_calls, "You never call f: its output is what counts."),
    ),
    hints=HINTS,
    checks=(error_is_zero_for_pointwise, error_is_relative),
    objective="measure equivariance",
)


# -- a function that returns a function --------------------------------------------------------------------


def make_shift(k):
    return lambda x: torch.roll(x, k, -1)


def make_shift_by_cat(k):
    def shift(x):
        n = k % x.shape[-1]
        return torch.cat([x[..., x.shape[-1] - n :], x[..., : x.shape[-1] - n]], dim=-1)

    return shift


class Shift(torch.nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return x.roll(self.k, -1)


def shifts_back(k):
    return lambda x: torch.roll(x, -k, -1)


def shifts_rows(k):
    return lambda x: torch.roll(x, k, -2)


def shifts_one(k):
    return lambda x: torch.roll(x, 1, -1)


def shifts_flat(k):
    return lambda x: torch.roll(x, k)


def shifts_with_zeros(k):
    def shift(x):
        y = torch.zeros_like(x)
        n = k % x.shape[-1]
        y[..., n:] = x[..., : x.shape[-1] - n]
        return y

    return shift


def shifts_channels(k):
    return lambda x: torch.roll(x, k, 1)


def shift_commutes(ask):
    shift = ask.make(2)
    commutes(shift, IMAGE, [("doubling", lambda x: 2 * x, lambda y: 2 * y)], what="the shift")
    close(ask.make(-2)(shift(IMAGE)), IMAGE, "Shifting by -2 undoes shifting by 2")
    close(ask.make(2)(IMAGE), torch.roll(IMAGE, 2, -1), "Column 0 moves to column 2, the last two come round")


maker = Exercise(
    name="maker",
    lesson="02_toys",
    title="Make a shift",
    points=1,
    statement="Return a function that shifts its input by k columns, around the border.",
    reference=make_shift,
    alternatives=(make_shift_by_cat, Shift),
    misconceptions=(
        Misconception(shifts_back, "You shift to the left; k counts columns to the right."),
        Misconception(shifts_rows, "You shift rows; the columns are the last axis."),
        Misconception(shifts_one, "Your shift does not depend on k at all."),
        Misconception(shifts_flat, "You shift the flattened array: pixels leave their row."),
        Misconception(shifts_with_zeros, "You fill with zeros; the image goes around the border."),
        Misconception(shifts_channels, "You shift the channels instead of the columns."),
    ),
    hints=HINTS,
    checks=(shift_commutes,),
    objective="make a function",
)


# -- a table of integers, two parts with points of their own, numpy ----------------------------------------


def table(n, sign):
    i = np.arange(n)
    return (i[:, None] + sign * i[None, :]) % n


def table_by_loop(n, sign):
    return np.array([[(i + sign * j) % n for j in range(n)] for i in range(n)])


def table_by_outer(n, sign):
    return np.mod(np.add.outer(np.arange(n), sign * np.arange(n)), n)


def table_no_mod(n, sign):
    return np.add.outer(np.arange(n), sign * np.arange(n))


def table_plus_only(n, sign):
    return table(n, 1)


def table_minus_only(n, sign):
    return table(n, -1)


def table_product(n, sign):
    return np.multiply.outer(np.arange(n), np.arange(n)) % n


def table_transposed(n, sign):
    return table(n, sign).T


def table_from_one(n, sign):
    return (table(n, sign) + 1) % n


def table_adds(ask):
    for n in (4, 5):
        close(ask(n, 1), table(n, 1), f"Entry (i, j) of the table of {n} elements is their sum, modulo {n}")


def table_subtracts(ask):
    t = ask(5, -1)
    expect((np.diagonal(t) == 0).all(), "An element minus itself is 0, so the diagonal is 0.")
    if (t == table(5, 1)).all():
        wrong(id="table_plus_only")
    close(t, table(5, -1), "Entry (i, j) is i - j")


tables = Exercise(
    name="tables",
    lesson="02_toys",
    title="Two tables",
    points=3,
    statement="Return the n x n table of i + sign j modulo n as a numpy array.",
    reference=table,
    alternatives=(table_by_loop, table_by_outer),
    misconceptions=(
        Misconception(table_no_mod, "You never take the remainder modulo n."),
        Misconception(table_plus_only, "You ignore the sign: both tables add."),
        Misconception(table_minus_only, "You ignore the sign: both tables subtract."),
        Misconception(table_product, "You multiply the elements instead of adding them."),
        Misconception(table_transposed, "Your rows and columns are exchanged: i numbers the rows."),
        Misconception(table_from_one, "You count from one; the neutral element is 0."),
    ),
    hints=HINTS,
    checks=(worth(1, "the sum", table_adds), worth(2, "the difference", table_subtracts)),
    objective="write a table",
)
ALL = (turn_image, affine_layer, measure_error, maker, tables)
