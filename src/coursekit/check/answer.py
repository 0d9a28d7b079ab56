"""The student's side of the port: holds the answer, calls it when a message asks for it, and replies with a
message.

The same `Responder` works in the notebook's own process and behind a pipe (`serve`); it keeps nothing back
from the checker and decides nothing. It reports what happened: the value, which arguments were changed in
place, or the error with the line of the student's own code where it arose.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any

import torch

from .codec import CodecError, Ref, clean, decode, encode, unwrap
from .guard import TimeUp, calm, spent, time_limit

CallBack = Callable[[bytes], bytes]
_LIBRARY = tuple(
    {
        os.path.realpath(p) + os.sep
        for k, p in sysconfig.get_paths().items()
        if k in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {os.path.dirname(os.path.realpath(__file__)) + os.sep}
)


class Responder:
    """Answers the checker's messages for one answer (a function, a class or a module)."""

    def __init__(self, answer: Any):
        self.objects: list[Any] = [answer]
        self.room = 4000  # characters of the answer's own output that are shown during one check

    def handle(self, request: bytes, call_back: CallBack) -> bytes:
        """Carry out one request. ``call_back`` sends the checker a message and returns its reply (functions
        as arguments).
        """
        try:
            order, body = unwrap(request)
            reply = self._do(order | decode(body), call_back)
        except CodecError as error:
            return encode({"error": "size", "message": str(error)})
        except Exception as error:  # an attribute or a state_dict of the student's own making
            reply = _failure(error, self.objects[0])
        try:
            return encode(reply, refer=None)
        except CodecError as error:
            return encode({"error": "size", "message": str(error), "spent": float(reply.get("spent", 0.0))})

    def _do(self, m: dict[str, Any], call_back: CallBack) -> dict[str, Any]:
        op, number = m["op"], m.get("target", 0)
        if op == "reset":
            del self.objects[1:]
            return {"value": None}
        if not 0 <= number < len(self.objects):
            return {"error": "no object"}
        target = self.objects[number]
        if op == "describe":
            return {"value": describe(target)}
        if op in ("call", "make", "gradient", "train"):
            args = self._localise(m.get("args", ()), call_back)
            kwargs = self._localise(m.get("kwargs", {}), call_back)
            return self._run(op, target, m, args, kwargs)
        if op in ("parameters", "state"):
            if not isinstance(target, torch.nn.Module):
                return {"error": "no module", "type": type(target).__name__}
            named = (
                torch.nn.Module.named_parameters(target)
                if op == "parameters"
                else target.state_dict().items()
            )
            return {"value": {name: value for name, value in named}}
        if op == "load":
            return self._load(target, m["args"][0])
        raise CodecError(f"unknown request {op!r}")

    def _localise(self, x: Any, call_back: CallBack) -> Any:
        if isinstance(x, Ref):
            return _proxy(x, call_back) if x.kind == "function" else self.objects[x.number]
        if isinstance(x, (list, tuple)):
            return type(x)(self._localise(v, call_back) for v in x)
        if isinstance(x, dict):
            return {k: self._localise(v, call_back) for k, v in x.items()}
        return x

    def _load(self, target: Any, state: dict[str, torch.Tensor]) -> dict[str, Any]:
        if not isinstance(target, torch.nn.Module):
            return {"error": "no module", "type": type(target).__name__}
        own = target.state_dict()
        wrong = [f"{k} {tuple(own[k].shape)}" for k in state if k in own and own[k].shape != state[k].shape]
        absent = [k for k in state if k not in own]
        if absent or wrong:
            return {"error": "state", "absent": absent, "shapes": wrong, "names": list(own)}
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)
        return {"value": None}

    def _run(self, op: str, target: Any, m: dict[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
        method = m.get("method")
        if op == "train":
            torch.nn.Module.train(target, bool(args[0])) if isinstance(target, torch.nn.Module) else None
            return {"value": None}
        if method is not None:
            if method.startswith("_") or not hasattr(target, method):
                return {"error": "no attribute", "type": type(target).__name__, "name": method}
            target = getattr(target, method)
            if not callable(target) and not args and not kwargs:
                return {"value": target}
        if not callable(target):
            return {"error": "not callable", "type": type(target).__name__}
        misfit = _misfit(target, args, kwargs)
        if misfit is not None:
            return {"error": "arguments", "signature": misfit, "name": _name(target)}
        before = [(name, x, _copy(x)) for name, x in _handed((args, kwargs), target)]
        used, clock, sink = 0.0, spent(), None
        out = sys.stdout if self.room > 0 and not m.get("quiet") else None
        try:
            with calm(int(m.get("seed", 0)), out, self.room) as sink:
                clock = spent()
                with time_limit(float(m.get("seconds", 1.5))):
                    if op == "gradient":
                        value = _gradient(target, args, kwargs, m["wrt"], m["cotangent"])
                    else:
                        value = target(*args, **kwargs)
                used = clock()
        except KeyboardInterrupt:
            raise
        except TimeUp:
            return {"error": "slow", "seconds": float(m.get("seconds", 1.5)), "spent": clock()}
        except BaseException as error:  # whatever the student's code throws, SystemExit too, is an answer
            return _failure(error, self.objects[0]) | {"spent": clock()}
        finally:
            if out is not None and sink is not None:
                self.room = sink.room
        changed = [name for name, x, old in before if not _same(x, old)]
        reply: dict[str, Any] = {"changed": changed, "spent": used}
        if op == "make" and not _is_plain(value):
            self.objects.append(value)
            kind = (
                "module"
                if isinstance(value, torch.nn.Module)
                else "function"
                if inspect.isroutine(value)
                else "object"
            )
            reply["value"] = Ref(len(self.objects) - 1, kind, _name(value))
            reply["callable"] = callable(value)
        else:
            reply["value"] = value
            if value is None or value is Ellipsis:
                reply["stub"] = value is Ellipsis or _is_stub(target)
        return reply


def describe(answer: Any) -> dict[str, Any]:
    """What kind of thing an answer is: its type, name, and whether it can be called."""
    return {
        "callable": callable(answer),
        "class": isinstance(answer, type),
        "module": isinstance(answer, torch.nn.Module),
        "type": type(answer).__name__,
        "name": _name(answer),
    }


def _name(x: Any) -> str:
    name = getattr(x, "__name__", None)
    return name[:80] if isinstance(name, str) else type(x).__name__[:80]


def _is_plain(x: Any) -> bool:
    return (
        x is None
        or x is Ellipsis
        or isinstance(x, (bool, int, float, complex, str, list, tuple, dict, torch.Tensor))
    )


def _handed(x: Any, target: Any) -> list[tuple[str, Any]]:
    """What could be changed in place among the arguments (arrays, lists, dictionaries), each with the name
    that the student gave the argument.
    """
    import numpy as np

    args, kwargs = x
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        names = []
    found: list[tuple[str, Any]] = []

    def walk(name: str, v: Any) -> None:
        if isinstance(v, (torch.Tensor, np.ndarray, list, dict)):
            found.append((name, v))
        if isinstance(v, (list, tuple)):
            for w in v:
                walk(name, w)
        elif isinstance(v, dict):
            for w in v.values():
                walk(name, w)

    for i, v in enumerate(args):
        walk(names[i] if i < len(names) else f"argument {i + 1}", v)
    for k, v in kwargs.items():
        walk(k, v)
    return found


def _copy(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, torch.Tensor) else x.copy()


def _same(x: Any, old: Any) -> bool:
    if isinstance(x, (list, dict)):
        return _holds_the_same(x, old)
    if isinstance(x, torch.Tensor):
        if x.shape != old.shape or x.dtype != old.dtype:
            return False
        x, old = x.detach(), old
        return bool(((x == old) | ((x != x) & (old != old))).all())
    return bool(x.shape == old.shape and x.tobytes() == old.tobytes())


def _holds_the_same(x: Any, old: Any) -> bool:
    """Whether a list or a dictionary still holds what it held; what its parts hold is looked at there."""
    if x is old:
        return True
    if type(x) is not type(old):
        return False
    if isinstance(x, dict):
        return list(x) == list(old) and all(_holds_the_same(x[k], old[k]) for k in old)
    if isinstance(x, (list, tuple)):
        return len(x) == len(old) and all(_holds_the_same(v, w) for v, w in zip(x, old, strict=True))
    return isinstance(x, (bool, int, float, complex, str)) and (x == old or (x != x and old != old))


def _proxy(ref: Ref, call_back: CallBack) -> Callable[..., Any]:
    """A function of the checker's as the student's code sees it: arrays in, arrays out, and gradients back
    through it.
    """

    def send(args: Any, kwargs: Any, **more: Any) -> Any:
        request = encode({"op": "callback", "target": ref.number, "args": args, "kwargs": kwargs, **more})
        reply = decode(call_back(request))
        if "error" in reply:
            raise TypeError(reply["error"])
        return reply["value"]

    def function(*args: Any, **kwargs: Any) -> Any:
        value = send(args, kwargs)
        learned = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor) and x.requires_grad]
        if not (learned and torch.is_grad_enabled() and isinstance(value, torch.Tensor)):
            return value
        if not value.is_floating_point():
            return value
        now = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in args]
        return _Through.apply(
            lambda cotangent: send(now, kwargs, wrt=learned, cotangent=cotangent),
            value,
            *(args[i] for i in learned),
        )

    function.__name__ = function.__qualname__ = ref.name if ref.name.isidentifier() else "function"
    return function


class _Through(torch.autograd.Function):
    """A value of the checker's function in the student's graph; its gradient is asked of the checker."""

    @staticmethod
    def forward(ctx: Any, ask: Callable[[torch.Tensor], Any], value: torch.Tensor, *_: Any) -> torch.Tensor:
        ctx.ask = ask
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return (None, None, *ctx.ask(cotangents[0]))


def _gradient(target: Any, args: Any, kwargs: Any, wrt: list[int], cotangent: Any) -> dict[str, Any]:
    leaves = []
    args = list(args)
    for i in wrt:
        args[i] = args[i].detach().clone().requires_grad_(True)
        leaves.append(args[i])
    named = list(target.named_parameters()) if isinstance(target, torch.nn.Module) else []
    value = target(*args, **kwargs)
    if not isinstance(value, torch.Tensor):
        return {"inputs": None, "parameters": None, "value": value}
    total = value.sum() if cotangent is None else (value * cotangent).sum()
    if not total.requires_grad:
        return {"inputs": [None] * len(leaves), "parameters": {n: None for n, _ in named}, "value": value}
    grads = torch.autograd.grad(total, leaves + [p for _, p in named], allow_unused=True)
    return {
        "inputs": list(grads[: len(leaves)]),
        "parameters": {n: g for (n, _), g in zip(named, grads[len(leaves) :], strict=True)},
        "value": value,
    }


def _misfit(target: Any, args: Any, kwargs: Any) -> str | None:
    """The signature as text where these arguments do not fit it, else None."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return "(" + ", ".join(signature.parameters) + ")"
    return None


_IDLE = {
    "RESUME",
    "NOP",
    "LOAD_CONST",
    "RETURN_CONST",
    "RETURN_VALUE",
    "POP_TOP",
    "COPY_FREE_VARS",
    "CACHE",
    "PRECALL",
}


def _is_stub(target: Any) -> bool:
    """Whether a function's body does nothing at all (``pass``, ``...``, only a docstring)."""
    code = getattr(target, "__code__", None)
    return isinstance(code, CodeType) and all(i.opname in _IDLE for i in dis.get_instructions(code))


def _failure(error: BaseException, answer: Any) -> dict[str, Any]:
    """What went wrong in the student's code: type, message, and the innermost line that is theirs."""
    frames: list[TracebackType] = []
    tb = error.__traceback__
    while tb is not None:
        if not os.path.realpath(tb.tb_frame.f_code.co_filename).startswith(_LIBRARY):
            frames.append(tb)
        last, tb = tb, tb.tb_next
    made_of = [answer, *vars(answer).values()] if isinstance(answer, type) else [answer]
    home = next(
        (c.co_filename for x in made_of if isinstance(c := getattr(x, "__code__", None), CodeType)), None
    )
    own = [f for f in frames if f.tb_frame.f_code.co_filename == home] or frames
    where: dict[str, Any] = {"line": 0, "text": "", "function": ""}
    if own:
        frame = own[-1]
        code = frame.tb_frame.f_code
        text = linecache.getline(code.co_filename, frame.tb_lineno).strip()
        where = {
            "line": frame.tb_lineno - code.co_firstlineno + 1,
            "text": clean(text, 160),
            "function": code.co_name,
        }
    if isinstance(error, NotImplementedError) and own and last is own[-1] and _raised_here(last):
        return {"error": "stub", **where, "answer": _name(answer)}
    kind = type(error).__name__ if isinstance(type(error).__name__, str) else "Exception"
    try:
        words = builtins.str(error)
    except Exception:
        words = ""
    return {"error": "exception", "type": clean(kind, 60), "message": clean(words, 300), **where}


def _raised_here(tb: TracebackType) -> bool:
    """Whether the frame itself says ``raise``: torch raises NotImplementedError too, for dtypes an
    operation lacks.
    """
    code = tb.tb_frame.f_code.co_code
    return 0 <= tb.tb_lasti < len(code) and dis.opname[code[tb.tb_lasti]] == "RAISE_VARARGS"
