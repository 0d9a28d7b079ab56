"""Fields written down as steps: what `span.py` does for bounds, done for compiled loops.

The areas of a kind are sums, products and minima of a few fields. Asked with recorders instead of tensors, the same
functions write down what they compute, and `loops.c` repeats it for every pixel: so an area is written in one place.
"""

import math

import numpy as np

OPERATIONS = ("add", "sub", "mul", "div", "min", "max", "adds", "rsub", "muls", "divs", "mins", "maxs", "abs", "neg",
              "sqrt")  # fmt: skip
"""As in `loops.c`; those after "max" take one register and, up to "maxs", one number an item."""
REGISTERS = 48
_UNARY = ("abs", "neg", "sqrt")


class Tape:
    """Steps over registers that hold a field's values; the first `given` hold what is known before.

    Numbers may differ from item to item of a batch: float32 arrays (items,), or one number for all.
    """

    def __init__(self, given: int, items: int):
        self.given, self.items = given, items
        self.fields = [Field(self, k) for k in range(given)]
        self._steps: list[tuple[str, int, int, int]] = []  # operation, result, operands: values in order of making
        self._scalars: list[np.ndarray] = []

    def record(self, name, a, b=None):
        """One more step: a field of the operation on field a and field or number b."""
        second = -1
        if isinstance(b, Field):
            second = b.number
        elif b is not None:
            second = len(self._scalars)
            self._scalars.append(np.broadcast_to(np.asarray(b, dtype=np.float32), (self.items,)))
        number = self.given + len(self._steps)
        self._steps.append((name, number, a.number, second))
        return Field(self, number)

    def finish(self, wanted):
        """For fields `wanted`: steps int32 (n, 4) of operation, register of the result and of the operands (or the
        number's row), numbers float32 (rows, items), and the registers of the wanted.

        A register is used again once nothing needs what it holds.
        """
        keep = {f.number for f in wanted}
        last = {}
        for at, (name, _, a, b) in enumerate(self._steps):
            last[a] = at
            if OPERATIONS.index(name) < OPERATIONS.index("adds"):
                last[b] = at
        place, used = {k: k for k in range(self.given)}, self.given
        free: list[int] = []
        out: list[tuple[int, int, int, int]] = []
        for at, (name, number, a, b) in enumerate(self._steps):
            if number not in last and number not in keep:
                continue
            two = OPERATIONS.index(name) < OPERATIONS.index("adds")
            if not free:
                free, used = [used], used + 1
            place[number] = free.pop()
            out.append((OPERATIONS.index(name), place[number], place[a], place[b] if two else b))
            for operand in {a, b} if two else {a}:
                if last[operand] == at and operand not in keep and operand >= self.given:
                    free.append(place[operand])
        if used > REGISTERS:
            raise ValueError(f"The areas of this kind take {used} registers, and there are {REGISTERS}.")
        numbers = np.stack(self._scalars) if self._scalars else np.zeros((1, self.items), dtype=np.float32)
        return np.array(out, dtype=np.int32).reshape(-1, 4), numbers, [place[f.number] for f in wanted]


class Field:
    """A field on a tape; arithmetic with fields and numbers is written down."""

    __array_ufunc__ = None  # an array on the left leaves the arithmetic to us
    __slots__ = ("number", "tape")

    def __init__(self, tape, number):
        self.tape, self.number = tape, number

    def _do(self, both, single, other):
        return self.tape.record(both if isinstance(other, Field) else single, self, other)

    def __neg__(self):
        return self.tape.record("neg", self)

    def __add__(self, other):
        return self._do("add", "adds", other)

    __radd__ = __add__

    def __sub__(self, other):
        return self._do("sub", "adds", other if isinstance(other, Field) else -other)

    def __rsub__(self, other):
        return self.tape.record("rsub", self, other)

    def __mul__(self, other):
        return self._do("mul", "muls", other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self._do("div", "divs", other)

    def abs(self):
        """The absolute value."""
        return self.tape.record("abs", self)

    def sqrt(self):
        """The square root."""
        return self.tape.record("sqrt", self)

    def clamp(self, low, high):
        """The value held between two numbers."""
        held = self.tape.record("maxs", self, low)
        return held if high == math.inf else self.tape.record("mins", held, high)

    def minimum(self, other):
        """The lesser of two values."""
        return self._do("min", "mins", other)

    def maximum(self, other):
        """The greater of two values."""
        return self._do("max", "maxs", other)
