"""How fast a device does the three things that convolutions are made of; what the cost models count with.

Only ratios matter: an evaluation is chosen by comparing predictions. The CPU numbers are medians measured on
two cores (`tests/benchmarks` prints, for every row, what was chosen and what would have been best); on other
CPUs they scale together. On a GPU depthwise convolutions run far from peak and dense ones near it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Multiplications (or numbers moved) in a millisecond, and the fixed price of a call in milliseconds."""

    dense: float
    depthwise: float
    memory: float
    call: float


_CPU = Rates(dense=1.8e8, depthwise=6.5e7, memory=5e6, call=0.02)
_GPU = Rates(dense=1.5e10, depthwise=4e8, memory=4e8, call=0.01)


def rates(device: str) -> Rates:
    """The rates of a device type ("cpu", "cuda", …)."""
    return _CPU if device == "cpu" else _GPU
