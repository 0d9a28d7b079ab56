"""What p4 and p4m are: elements, products, inverses, and how an element moves images and feature maps.

p4 holds the four quarter turns of the pixel grid; p4m adds their mirror images (Cohen & Welling 2016,
section 4). Every convention of the library is written here, once.

**Elements.** Element ``r`` of p4 turns by ``r · 90°`` counter-clockwise, exactly like
``torch.rot90(x, r, (-2, -1))``. Element ``4 m + r`` of p4m first mirrors left-right (if ``m`` is 1), then
turns: ``rot^r · mirror^m``. What ``rot90`` does::

    0 1 2          2 5 8
    3 4 5   --->   1 4 7        the right edge becomes the top edge
    6 7 8          0 3 6

**Shapes.** ``(B, C, H, W)`` is a planar field, ``(B, C, G, H, W)`` a regular field with one plane per group
element, and ``(B, C, 2, H, W)`` a vector field whose components are (x to the right, y upwards), so that a
quarter turn maps the vector (1, 0) to (0, 1).

**Regular fields.** ``(g · f)[h] = act(f[g⁻¹ h], g)``: the planes move on the grid *and* change places. This
is what the output of a lifting convolution does when its input is turned.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

_ORDERS = {"p4": 4, "p4m": 8}


@dataclass(frozen=True)
class Group:
    """A group of quarter turns ("p4", order 4) or of quarter turns and reflections ("p4m", order 8).

    Elements are the integers ``0 … order - 1``; 0 is the identity. The module's text gives the numbering.

    >>> P4M.product(1, 4), P4M.inverse(1), P4M.order
    (5, 3, 8)
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _ORDERS:
            raise ValueError(f"the group is called {self.name!r}; the choices are 'p4' and 'p4m'")

    @property
    def order(self) -> int:
        """The number of elements, without the translations: 4 or 8."""
        return _ORDERS[self.name]

    def __len__(self) -> int:
        return self.order

    def __str__(self) -> str:
        return self.name

    def _check(self, *elements: int) -> None:
        for a in elements:
            if not 0 <= int(a) < self.order:
                raise ValueError(f"element {a} is not in {self.name}: its elements are 0 to {self.order - 1}")

    def product(self, a: int, b: int) -> int:
        """The element that does ``b`` first, then ``a``: ``act(act(x, b), a) == act(x, product(a, b))``."""
        self._check(a, b)
        mirror_a, turns_a = divmod(int(a), 4)
        mirror_b, turns_b = divmod(int(b), 4)
        # A mirror on the left of a rotation turns it the other way: mirror · rot = rot⁻¹ · mirror.
        turns = (turns_a + (-turns_b if mirror_a else turns_b)) % 4
        return 4 * (mirror_a ^ mirror_b) + turns

    def inverse(self, a: int) -> int:
        """The element that undoes ``a``."""
        self._check(a)
        mirror, turns = divmod(int(a), 4)
        return int(a) if mirror else (-turns) % 4  # every reflection undoes itself

    @cached_property
    def _rows(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(self.product(a, b) for b in range(self.order)) for a in range(self.order))

    @property
    def table(self) -> Tensor:
        """The multiplication table, (order, order) int64: ``table[a, b] = product(a, b)``."""
        return torch.tensor(self._rows)

    @property
    def inverses(self) -> Tensor:
        """The inverse of every element, (order,) int64."""
        return torch.tensor([self.inverse(a) for a in range(self.order)])

    def matrix(self, a: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """The 2x2 matrix of ``a``, acting on column vectors (x to the right, y upwards)."""
        self._check(a)
        mirror, turns = divmod(int(a), 4)
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        flip = -1 if mirror else 1
        return torch.tensor([[cos * flip, -sin], [sin * flip, cos]], dtype=dtype)

    def label(self, a: int) -> str:
        """The element in words, for axes and tables: "turn 90°", "mirror, turn 180°"."""
        self._check(a)
        mirror, turns = divmod(int(a), 4)
        turn = f"turn {90 * turns}°" if turns else ""
        return ", ".join(part for part in ("mirror" if mirror else "", turn) if part) or "identity"

    def act(self, x: Tensor, a: int) -> Tensor:
        """Move a planar field or a mask (..., H, W) by element ``a``; exact, for any dtype.

        Odd quarter turns swap H and W.
        """
        self._check(a)
        _needs_axes(x, 2, "(..., H, W)")
        mirror, turns = divmod(int(a), 4)
        return torch.rot90(x.flip(-1) if mirror else x, turns, (-2, -1))

    def act_regular(self, x: Tensor, a: int) -> Tensor:
        """Move a regular field (..., G, H, W) by element ``a``: ``(a · f)[h] = act(f[a⁻¹ h], a)``."""
        _needs_axes(x, 3, "(B, C, G, H, W)")
        if x.shape[-3] != self.order:
            raise ValueError(
                f"a regular field of {self.name} has {self.order} planes on its third axis from the end; "
                f"this one is {tuple(x.shape)}"
            )
        inverse = self.inverse(a)
        places = torch.tensor(self._rows[inverse], device=x.device)
        return self.act(x.index_select(x.dim() - 3, places), a)

    def act_vector(self, x: Tensor, a: int) -> Tensor:
        """Move a vector field (..., 2, H, W) by element ``a``: the arrows move and turn."""
        _needs_axes(x, 3, "(B, C, 2, H, W)")
        if x.shape[-3] != 2:
            raise ValueError(
                f"a vector field has its 2 components on its third axis from the end; got {tuple(x.shape)}"
            )
        moved = self.act(x, a)
        (xx, xy), (yx, yy) = self.matrix(a).tolist()
        right, up = moved.select(-3, 0), moved.select(-3, 1)
        # Each row of the matrix has one entry ±1, so this is a swap and a sign: exact in every dtype.
        return torch.stack([right * xx if xx else up * xy, right * yx if yx else up * yy], dim=-3)


P4 = Group("p4")
P4M = Group("p4m")


@lru_cache
def _named(name: str) -> Group:
    return {"p4": P4, "p4m": P4M}.get(name) or Group(name)


def group(name: "str | Group") -> Group:
    """The group called ``name`` ("p4" or "p4m"); a ``Group`` is passed through."""
    return name if isinstance(name, Group) else _named(name)


def _needs_axes(x: Tensor, axes: int, wanted: str) -> None:
    if x.dim() < axes:
        raise ValueError(f"got a tensor of shape {tuple(x.shape)}; wanted {wanted}")
