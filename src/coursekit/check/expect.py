"""Words for the author of checks: ``close``, ``expect``, and the five parts of a check for an equivariant
map.

Each helper stops the check with a sentence that names the property, the input and how far it is off; none
of them prints the wanted numbers. What a group does to an input or an output is handed in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from .compare import as_numpy, distance, dtype_name, tolerance_of
from .port import Finding, conform, describe_value

Map = Callable[..., Any]


def expect(condition: Any, message: str, *, id: str | None = None) -> None:
    """Stop the check with ``message`` (or a misconception's ``id``) unless the condition holds."""
    if not bool(condition):
        raise Finding(message, "property", id)


def close(got: Any, want: Any, what: str, *, tol: float | None = None, id: str | None = None) -> None:
    """Stop the check unless ``got`` equals ``want`` up to rounding.

    ``what`` is a full sentence of what should hold ("Turning four times gives the image back"). ``tol`` is
    relative to the largest wanted value; by default it follows the dtype (float64 1e-10, float32 1e-4,
    float16 1e-2, bfloat16 5e-2, integers exact). The message says how far off the answer is, never the
    wanted values.
    """
    value = conform(got, want, frozenset({"dtype"}))
    tol = tolerance_of(value, want) if tol is None else tol
    if isinstance(want, (list, tuple)):
        if all(
            distance(v, w) <= (tolerance_of(v, w) if tol == 0 else tol)
            for v, w in zip(value, want, strict=True)
        ):
            return
        raise Finding(f"{_sentence(what)} That does not hold.", "property", id)
    if isinstance(want, (torch.Tensor, np.ndarray, bool, int, float, complex)):
        far = distance(value, want)
        if far <= tol:
            return
        raise Finding(f"{_sentence(what)} {_how_far(value, want, far)}", "property", id)
    if value != want:
        raise Finding(f"{_sentence(what)} That does not hold.", "property", id)


def _sentence(what: str) -> str:
    what = what.strip()
    return what if what.endswith((".", "?", "!", ":")) else what + "."


def _how_far(got: Any, want: Any, far: float) -> str:
    a, b = as_numpy(got), as_numpy(want)
    if a.size <= 1 or a.shape != b.shape:
        return "That does not hold."
    if a.dtype.kind in "biu":
        return f"That fails at {int((a != b).sum())} of {a.size} places."
    if not np.isfinite(far):
        return "That does not hold."
    if dtype_name(a) in ("float64", "complex128") and 1e-9 < far < 3e-6:
        return (
            f"That is off by {far:.1g} of the largest value, about as much as float32 rounds: has something become "
            "float32 on the way?"
        )
    return (
        f"That is off by {far:.1g} of the largest value."
        if far < 0.1
        else f"That is off by {100 * far:.0f} % of the largest value."
    )


def commutes(
    f: Map,
    x: torch.Tensor,
    moves: Iterable[tuple[str, Map, Map]],
    *,
    what: str = "your map",
    tol: float | None = None,
    id: str | None = None,
) -> None:
    """Stop the check unless ``f(move_in(x)) == move_out(f(x))`` for each (name, move_in, move_out) in
    ``moves``.
    """
    y = f(x)
    for name, move_in, move_out in moves:
        close(
            f(move_in(x)),
            move_out(y),
            f"First {name}, then {what}, must equal first {what}, then {name} (on {describe_value(x)}).",
            tol=tol,
            id=id,
        )


def sensitive(f: Map, x: torch.Tensor, *, what: str = "your map", id: str | None = None) -> None:
    """Stop the check where the output does not follow the input: another input, or one changed pixel,
    changes nothing.
    """
    y = as_numpy(f(x))
    generator = torch.Generator().manual_seed(11)
    other = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    if np.array_equal(as_numpy(f(other)), y):
        raise Finding(
            f"The output of {what} does not depend on its input: two different images give the same result.",
            "property",
            id,
        )
    bumped = x.clone()
    middle = tuple(n // 2 for n in x.shape)
    bumped[middle] = bumped[middle] + 1
    if np.array_equal(as_numpy(f(bumped)), y):
        raise Finding(
            f"One pixel of the input was changed and the output of {what} stayed the same.", "property", id
        )


def agrees(
    f: Map,
    library: Map,
    inputs: Iterable[Any],
    *,
    what: str = "your map",
    tol: float | None = None,
    id: str | None = None,
) -> None:
    """Stop the check unless ``f`` and ``library`` give the same numbers on each input (a tuple is spread as
    arguments).
    """
    for item in inputs:
        args = item if isinstance(item, tuple) else (item,)
        shown = ", ".join(describe_value(a) for a in args)
        close(
            f(*args),
            library(*args),
            f"With the same weights {what} must give the library's numbers ({shown}).",
            tol=tol,
            id=id,
        )


def depends(
    f: Callable[[Any, dict[str, Any]], Any],
    library: Callable[[Any, dict[str, Any]], Any],
    x: Any,
    parameters: Mapping[str, torch.Tensor],
    *,
    entries: int = 12,
    id: str | None = None,
) -> None:
    """Stop the check unless the output depends on every parameter where the library's does, and nowhere else.

    ``f(x, parameters)`` and ``library(x, parameters)`` take the weights with the input. Up to ``entries``
    single numbers of each parameter are changed in turn: no dead weight, no weight used where it should not
    be.
    """
    base, base_library = as_numpy(f(x, dict(parameters))), as_numpy(library(x, dict(parameters)))
    for name, value in parameters.items():
        count = value.numel()
        for i in sorted({round(k * (count - 1) / max(entries - 1, 1)) for k in range(min(entries, count))}):
            flat = value.clone().reshape(-1)
            flat[i] = flat[i] + 1
            changed = {**parameters, name: flat.reshape(value.shape)}
            mine = not np.array_equal(as_numpy(f(x, changed)), base)
            theirs = not np.allclose(as_numpy(library(x, changed)), base_library, rtol=1e-7, atol=1e-12)
            place = tuple(int(n) for n in np.unravel_index(i, tuple(value.shape))) if value.ndim else ()
            if theirs and not mine:
                raise Finding(
                    f"The output does not depend on `{name}` at index {list(place)}: a weight that "
                    "does nothing.",
                    "property",
                    id,
                )
            if mine and not theirs and not np.allclose(as_numpy(f(x, changed)), base, rtol=1e-7, atol=1e-12):
                raise Finding(
                    f"The output depends on `{name}` at index {list(place)}, and should not.", "property", id
                )


def batched(
    f: Map, x: torch.Tensor, *, what: str = "your map", tol: float | None = None, id: str | None = None
) -> None:
    """Stop the check unless each image of a batch (axis 0) is treated on its own."""
    y = f(x)
    for i in range(x.shape[0]):
        close(
            f(x[i : i + 1]),
            y[i : i + 1],
            f"An image gives the same result alone and in a batch (image {i} of {describe_value(x)}).",
            tol=tol,
            id=id,
        )


def equivariant_map(
    f: Callable[[Any, dict[str, Any]], Any],
    library: Callable[[Any, dict[str, Any]], Any],
    *,
    moves: Iterable[tuple[str, Map, Map]],
    parameters: Mapping[str, torch.Tensor],
    square: torch.Tensor,
    oblong: torch.Tensor,
    moves_oblong: Iterable[tuple[str, Map, Map]] | None = None,
    count: int | None = None,
    what: str = "your layer",
    tol: float | None = None,
) -> None:
    """The five parts of a check for an equivariant map; alone, commuting proves nothing, since the zero map
    commutes.

    1. it commutes with each exact ``move`` of a group, on the ``square`` input (choose odd sides) and, for
    ``moves_oblong`` (default: the same moves), on the ``oblong`` one; 2. it is sensitive to its input; 3.
    at the injected ``parameters`` it agrees with ``library``; 4. it depends on every parameter as the
    library does, and their number is ``count`` where that is given; 5. it treats batch > 1 and channels > 1
    on a non-square image as it should. ``f(x, parameters)`` asks the answer; both inputs need batch > 1,
    and ``oblong`` a height other than its width.
    """
    if oblong.shape[-1] == oblong.shape[-2] or min(square.shape[0], oblong.shape[0]) < 2:
        raise ValueError("equivariant_map needs batch > 1 and an oblong image whose height is not its width")
    weights, moves = dict(parameters), list(moves)

    def with_weights(x: Any) -> Any:
        return f(x, weights)

    commutes(with_weights, square, moves, what=what, tol=tol)
    commutes(with_weights, oblong, moves if moves_oblong is None else moves_oblong, what=what, tol=tol)
    sensitive(with_weights, square, what=what)
    agrees(with_weights, lambda x: library(x, weights), [square, oblong], what=what, tol=tol)
    depends(f, library, square, weights)
    if count is not None:
        total = sum(int(v.numel()) for v in weights.values())
        expect(total == count, f"Your layer has {total} parameters; it should have {count}.")
    batched(with_weights, oblong, what=what, tol=tol)
