"""Filters kept from one inference call to the next, never stale.

Expanding a filter costs little beside a training step but shows in a small inference call. What is kept is
compared with the parameters *by content* at each use: one pass over numbers that are few beside the expanded
filter, and right whatever happened to them (an optimiser, ``load_state_dict``, ``.to``, an edit through
``.data``, a swapped tensor). Version counters would miss edits through ``.data``, addresses would miss edits
in place.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from equipath.kernels.evaluate import open_preferences, transforming


class KeptFilters:
    """What was last computed from one parameter, by name of the computation."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._made: dict[str, Any] = {}

    def usable(self, parameter: Tensor) -> bool:
        """Whether filters may be kept now: no derivative wanted, on the CPU, not under a compiler.

        On accelerators expansion is cheap beside the wait that a comparison would cost.
        """
        if parameter.requires_grad and torch.is_grad_enabled():
            return False
        return parameter.is_cpu and not is_compiling() and not transforming()

    def has(self, name: str, parameter: Tensor) -> bool:
        """Whether ``get`` would find it, as far as can be told without comparing."""
        return name in self._made and self.usable(parameter)

    def get(self, name: str, parameter: Tensor, compute: Callable[[Tensor], Any]) -> Any:
        """``compute(parameter)``, or the kept result if the parameter has the very same content."""
        if is_compiling():
            self._source, self._made = None, {}
            return compute(parameter)
        if transforming():  # what is kept stays: it is compared before it is used again
            return compute(parameter)
        return self.get_eagerly(name, parameter, compute)

    def get_eagerly(self, name: str, parameter: Tensor, compute: Callable[[Tensor], Any]) -> Any:
        """``get`` for a caller who knows that no compiler and no transform is at work: in a small layer each question
        shows."""
        if (parameter.requires_grad and torch.is_grad_enabled()) or not parameter.is_cpu:
            self._source, self._made = None, {}  # training: hold no memory
            return compute(parameter)
        source = self._source
        if source is None or source.dtype != parameter.dtype or not torch.equal(source, parameter):
            self._source, self._made = parameter.detach().clone(), {}
        made = self._made.get(name)
        if made is None:
            # Not under autocast: what it makes is of low precision and must not outlive the block. Nor in inference
            # mode, whose tensors later gradients of the input would refuse.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(parameter.device.type, enabled=False),
            ):
                made = self._made[name] = compute(parameter.detach())
        return made

    def __deepcopy__(self, memo: dict) -> "KeptFilters":
        return KeptFilters()

    def __reduce__(self) -> tuple:
        return KeptFilters, ()


class ShortWay(nn.Module):
    """A layer whose small convolutions take less than a millisecond, beside which each line of Python shows.

    So an input of the last shape, which has passed every check and is to be expanded, goes straight on, with the
    weight that is not looked up by nn.Module's own long way. The layer notes such a shape in ``_known``.
    """

    _known: torch.Size | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._known = None  # moved or cast: its inputs are looked at anew
        return super()._apply(fn, recurse)

    def _straight(self, x: Tensor) -> Tensor | None:
        """The weight if ``x`` is known and nothing else is asked for, else None."""
        known = self._known
        if known is None or is_dynamo_compiling() or type(x) is not Tensor or x.shape != known:
            return None
        if open_preferences or transforming():
            return None
        weight = self._parameters.get("weight")  # none if it is computed (torch.nn.utils.parametrize)
        if weight is None or not x.is_cpu or x.dtype != weight.dtype:
            return None
        return weight
