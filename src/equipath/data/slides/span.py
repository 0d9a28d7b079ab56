"""Between which bounds a field stays over a patch of tissue: interval arithmetic.

The areas of a kind are sums, products and minima of a few fields. Asked with spans instead of tensors, the
same functions tell what cannot occur in a patch, so that it need not be computed for every pixel there.
"""

import math


class Span:
    """All numbers from `lo` to `hi`; arithmetic with numbers and other spans gives a span that holds every
    result, up to rounding.

    A bound that cannot be told is infinite or NaN: compare so that NaN means "may occur".
    """

    __slots__ = ("hi", "lo")

    def __init__(self, lo: float, hi: float):
        self.lo, self.hi = lo, hi

    def __neg__(self):
        return Span(-self.hi, -self.lo)

    def __add__(self, other):
        if isinstance(other, Span):
            return Span(self.lo + other.lo, self.hi + other.hi)
        return Span(self.lo + other, self.hi + other)

    __radd__ = __add__

    def __sub__(self, other):
        if isinstance(other, Span):
            return Span(self.lo - other.hi, self.hi - other.lo)
        return Span(self.lo - other, self.hi - other)

    def __rsub__(self, other):
        return Span(other - self.hi, other - self.lo)

    def __mul__(self, other):
        if not isinstance(other, Span):
            a, b = self.lo * other, self.hi * other
            return Span(a, b) if other >= 0 else Span(b, a)
        ends = [a * b for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        if other is self and self.lo < 0 < self.hi:  # a square
            return Span(0.0, max(ends))
        return Span(min(ends), max(ends))

    __rmul__ = __mul__

    def __truediv__(self, other):
        if not isinstance(other, Span):
            return self * (1 / other)
        if other.lo <= 0 <= other.hi:
            return Span(-math.inf, math.inf)
        return self * Span(1 / other.hi, 1 / other.lo)

    def abs(self):
        """The span of the absolute value."""
        top = max(-self.lo, self.hi)
        return Span(0.0 if self.lo < 0 < self.hi else min(abs(self.lo), abs(self.hi)), top)

    def sqrt(self):
        """The span of the square root; what is below 0 counts as 0."""
        return Span(math.sqrt(max(self.lo, 0.0)), math.sqrt(max(self.hi, 0.0)))

    def clamp(self, low, high):
        """The span of the value held between two numbers."""
        return Span(min(max(self.lo, low), high), min(max(self.hi, low), high))

    def minimum(self, other):
        """The span of the lesser of two values."""
        return Span(min(self.lo, other.lo), min(self.hi, other.hi))
