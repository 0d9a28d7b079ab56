"""How far apart two plain values are, judged on numbers alone with functions captured at import."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .codec import Elsewhere, Foreign, Ref

_absolute, _isnan, _isinf, _maximum, _equal = np.absolute, np.isnan, np.isinf, np.maximum, np.equal
_to, _to_numpy, _detach = torch.Tensor.to, torch.Tensor.numpy, torch.Tensor.detach

# Relative to the largest value: what rounding does in a chain of a few hundred operations.
TOLERANCE = {
    "float64": 1e-10,
    "complex128": 1e-10,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}


def dtype_name(x: Any) -> str:
    """The dtype of an array without its library: ``float32``."""
    return str(x.dtype).removeprefix("torch.")


def tolerance_of(*values: Any) -> float:
    """The loosest tolerance among the dtypes of these values; 0 where none is floating."""
    found = [TOLERANCE.get(dtype_name(v), 0.0) for v in values if isinstance(v, (torch.Tensor, np.ndarray))]
    found += [1e-6 for v in values if isinstance(v, (float, complex))]
    return max(found, default=0.0)


def as_numpy(x: Any) -> np.ndarray:
    """A plain number or array as a numpy array (half precisions widened to float32)."""
    if isinstance(x, torch.Tensor):
        x = _detach(x)
        if x.dtype in (torch.bfloat16, torch.float16):
            x = _to(x, torch.float32)
        return _to_numpy(x)
    return np.asarray(x)


def distance(got: Any, want: Any) -> float:
    """Largest absolute difference divided by the largest wanted magnitude; NaN and infinity must agree in
    place.

    Where all wanted values are zero the difference counts as it is; differences a thousand times below the
    tolerance of the dtype count as none, so that rounding next to zero is not taken for an error.
    """
    floor = 1e-3 * max(tolerance_of(got, want), 1e-10)
    a, b = as_numpy(got), as_numpy(want)
    if a.shape != b.shape:
        return math.inf
    if a.size == 0:
        return 0.0
    wide: Any = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        unequal = ~_equal(a, b)
        if not unequal.any():
            return 0.0
    a, b = a.astype(wide), b.astype(wide)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if odd.any():
        same = (_isnan(a) & _isnan(b)) | _equal(a, b)
        if not same[odd].all():
            return math.inf
        a, b = np.where(odd, 0, a), np.where(odd, 0, b)
    top = float(_maximum.reduce(_absolute(a - b), axis=None))
    if top <= floor:
        return 0.0
    scale = float(_maximum.reduce(_absolute(b), axis=None))
    return top / scale if scale > 0 else top


def near(a: Any, b: Any, tolerance: float | None = None) -> bool:
    """Whether two plain values are of one form and equal up to rounding (0-d arrays count as numbers, lists
    as tuples).
    """
    a, b = _item(a), _item(b)
    arrays = (torch.Tensor, np.ndarray)
    if isinstance(a, arrays) or isinstance(b, arrays):
        if type(a) is not type(b) or a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape):
            return False
        return distance(a, b) <= (max(tolerance_of(a, b), 1e-300) * 10 if tolerance is None else tolerance)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(near(v, w, tolerance) for v, w in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return set(a) == set(b) and all(near(v, b[k], tolerance) for k, v in a.items())
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float, complex)) and isinstance(b, (int, float, complex)):
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return distance(a, b) <= (1e-5 if tolerance is None else tolerance)
    if isinstance(a, (Foreign, Ref)) and isinstance(b, (Foreign, Ref)):
        return type(a) is type(b)
    if isinstance(a, Elsewhere) and isinstance(b, Elsewhere):
        return a == b
    return type(a) is type(b) and bool(a == b)


def _item(x: Any) -> Any:
    return x.item() if isinstance(x, (torch.Tensor, np.ndarray)) and x.ndim == 0 else x


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two replies of answers tell the same: the same error, or values equal up to rounding."""
    if "error" in a or "error" in b:
        keys = {"exception": ("type", "message"), "stub": ()}.get(str(a.get("error")), ())
        return a.get("error") == b.get("error") and all(a.get(k) == b.get(k) for k in keys)
    return bool(a.get("changed")) == bool(b.get("changed")) and near(a.get("value"), b.get("value"))
