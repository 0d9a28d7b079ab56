"""Test-time averaging: any network made exactly equivariant by asking it about every roto-reflected copy.

The eight-times-the-price baseline of both p4m papers (Liu et al. 2017; Cireşan et al. 2013). The mean over
the group of ``g⁻¹ f(g x)`` commutes with the group whatever ``f`` is, because moving ``x`` only changes the
order of the sum.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from equipath.groups import P4M, Group
from equipath.groups import group as named_group
from equipath.models.summary import Summary


def _act_unchecked(x: Tensor, element: int) -> Tensor:
    """``Group.act`` by flips and transposes alone, which every runtime has."""
    x = x.flip(-1) if element >= 4 else x
    turns = element % 4
    if turns == 2:
        return x.flip(-2, -1)
    return x.transpose(-2, -1).flip(-2 if turns == 1 else -1) if turns else x


class TestTimeAverage(nn.Module):
    """Average ``model`` over p4 or p4m: (B, C, H, W) in, planar or invariant out.

    Exactly equivariant (``output="planar"``) or invariant (``output="invariant"``), up to the rounding of
    the mean, at ``group.order`` times the price. Height and width change places in half of the copies, so a
    non-square input must be one that the model accepts both ways.

    Args:
        model: any network; its weights are not touched.
        group: "p4" or "p4m".
        output: how the model's output moves, "planar" or "invariant". By default ``model.output_field``; of a model
            without one the first answer tells: (B, K) is invariant, a map is planar.
        activation: applied to each output before the mean, such as ``torch.sigmoid``: averages
            probabilities, not logits.

    >>> import torch
    >>> net = TestTimeAverage(nn.Conv2d(3, 2, 3, padding=1), "p4")
    >>> net(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """

    __test__ = False  # the name starts with "Test", but it is no test case for pytest

    def __init__(
        self,
        model: nn.Module,
        group: Group | str = P4M,
        output: str | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        output = output or getattr(model, "output_field", None)
        self._guess, self._looked = output is None, False
        output = output or "planar"
        if output not in ("planar", "invariant"):
            raise ValueError(f"output is {output!r}; only 'planar' and 'invariant' outputs can be averaged")
        self.model, self.group, self.output_field, self.activation = (
            model,
            named_group(group),
            output,
            activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dim() != 4:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"TestTimeAverage takes pictures (B, C, H, W) as a tensor; got {got}")
        return self._average(x, self.group.act)

    def body(self, x: Tensor) -> Tensor:
        """The same without looking at shapes: what ``export`` traces."""
        if self._guess and not self._looked:
            raise ValueError(
                "TestTimeAverage does not know yet how its model's answers move: call it once before it is exported, or "
                "say output='planar' or 'invariant'"
            )
        return self._average(x, _act_unchecked)

    def _look(self, y: Tensor) -> None:
        """Raise for an answer that cannot be averaged; turning the axes of (B, K) would mix cases and classes."""
        if not isinstance(y, Tensor):
            raise TypeError(
                f"TestTimeAverage averages one tensor; the model returns {type(y).__name__}: wrap it so that it "
                "returns the logits alone"
            )
        if self._guess and y.dim() < 3:
            self.output_field = "invariant"
        self._looked = True
        if self.output_field == "planar" and y.dim() < 3:
            raise ValueError(
                f"a planar output is a map (B, K, H, W); the model returns {tuple(y.shape)}: say output='invariant'"
            )

    def _average(self, x: Tensor, act: Callable[[Tensor, int], Tensor]) -> Tensor:
        total = None
        for a in range(self.group.order):
            y = self.model(act(x, a))
            if act is not _act_unchecked:
                self._look(y)
            if self.activation is not None:
                y = self.activation(y)
            if self.output_field == "planar":
                y = act(y, self.group.inverse(a))
            total = y if total is None else total + y
        assert total is not None  # for type checkers: a group has an element
        return total / self.group.order

    def summary(self) -> Summary:
        """The model's own facts, with what averaging makes of its symmetry.

        Raises:
            AttributeError: if the model has no ``summary``.
        """
        own: Summary = self.model.summary()  # type: ignore[operator]
        what = "quarter turns" if self.group.order == 4 else "quarter turns and reflections"
        return replace(
            own,
            name=f"{own.name}, averaged over {self.group.name}",
            output_field=self.output_field,
            equivariant_to=f"{what}, exactly, at {self.group.order} times the price",
        )

    def extra_repr(self) -> str:
        return f"group={self.group.name}, output={self.output_field}"
