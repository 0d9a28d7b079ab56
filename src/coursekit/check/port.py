"""The checker's side of the port: `Ask` sends plain values to an answer and returns plain values, or stops
with a finding.

A check is a function ``check(ask)``. ``ask(*args)`` calls the answer; what is generally wrong with a reply
(an exception, None, a wrong kind, shape, dtype or device, an argument changed in place ...) becomes a
`Finding` here, so that a check starts where the subject starts. What is expected in form is known from the
reference's reply to the same message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from .answer import Responder
from .codec import CodecError, Elsewhere, Foreign, Ref, clean, decode, encode, wrap
from .compare import as_numpy

CallBack = Callable[[bytes], bytes]


class Transport(Protocol):
    """Carries one request to where the answer lives and brings back its reply, serving its calls back in
    between.
    """

    def exchange(self, request: bytes, call_back: CallBack) -> bytes:
        """Send ``request``; while waiting answer each message that comes the other way with ``call_back``."""
        ...


class InProcess:
    """The answer lives in this process; messages are encoded and decoded all the same."""

    def __init__(self, answer: Any):
        self._responder = Responder(answer)

    def exchange(self, request: bytes, call_back: CallBack) -> bytes:
        """Hand the request to the answer's side and return its reply."""
        return self._responder.handle(request, call_back)


class Finding(Exception):
    """What a check found wrong: a stable ``kind``, a sentence, and perhaps a known misconception's id."""

    def __init__(self, message: str, kind: str = "property", id: str | None = None):
        super().__init__(message)
        self.message, self.kind, self.id = message, kind, id


@dataclass
class Outcome:
    """One request and what came of it, in a form that can be compared with another answer's."""

    request: bytes
    key: str
    reply: dict[str, Any]
    functions: tuple[Callable[..., Any], ...] = ()
    shown: str = ""
    op: str = ""


@dataclass
class Expected:
    """What the reference did with each request: the form that replies must have."""

    replies: dict[str, dict[str, Any]] = field(default_factory=dict)
    signature: str = ""


class Ask:
    """The answer as a check sees it: call it with plain values, get plain values back.

    ``ask(x, 1)`` calls a function. ``ask.make(...)`` makes something that stays with the answer (an
    instance, a function) and returns a `Handle`. Functions among the arguments stay here and are called
    from there with arrays; a gradient flows through them to their positional arguments.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        expected: Expected | None = None,
        free: frozenset[str] = frozenset(),
        seconds: float = 1.5,
        seed: int = 0,
        quiet: bool = False,
    ):
        self._transport, self._expected, self._free = transport, expected, free
        self._left, self._seconds, self._seed, self._quiet = seconds, seconds, seed, quiet
        self._functions: list[Callable[..., Any]] = []
        self.log: list[Outcome] = []
        self._root = Handle(self, 0, "answer")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the answer with these plain values (or functions, or handles) and return its plain value."""
        return self._root(*args, **kwargs)

    def make(self, *args: Any, **kwargs: Any) -> Handle:
        """Call the answer (a class, or a function that returns a function or module) and keep what it
        makes.
        """
        return self._root.make(*args, **kwargs)

    def error(self, *args: Any, **kwargs: Any) -> tuple[str, str] | None:
        """Call the answer where it should refuse: the exception's type name and message, or None if it did
        not raise.
        """
        return self._root.error(*args, **kwargs)

    def gradient(self, *args: Any, wrt: int | Sequence[int] = 0, cotangent: Any = None, **kwargs: Any) -> Any:
        """Gradient of ``sum(answer(*args) * cotangent)`` with respect to the arguments numbered ``wrt``."""
        return self._root.gradient(*args, wrt=wrt, cotangent=cotangent, **kwargs)

    def describe(self) -> dict[str, Any]:
        """Type, name and kind of the answer, as its side reports them."""
        reply = self._root._checked(self._send({"op": "describe", "target": 0}, log=False))
        if not isinstance(reply.get("value"), dict):
            raise Finding("What your answer sent cannot be read.", "malformed")
        return reply["value"]

    # -- one request ---------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any], *, log: bool = True) -> dict[str, Any]:
        functions: list[Callable[..., Any]] = []

        def refer(x: Any) -> Ref | None:
            if isinstance(x, Handle):
                return Ref(x._number, "object", x._name)
            if callable(x) and not isinstance(x, type):
                functions.append(x)
                return Ref(len(functions) - 1, "function", getattr(x, "__name__", "function"))
            return None

        # The key is made of what is asked; the time that is left and the seed are no part of it.
        request = encode(message, refer=refer)
        outcome = Outcome(
            request, hashlib.sha256(request).hexdigest(), {}, tuple(functions), op=message["op"]
        )
        outcome.shown = describe_call(message, self._names(message))
        outcome.reply = self._resend(outcome)
        if log:
            self.log.append(outcome)
        return outcome.reply

    def _names(self, message: dict[str, Any]) -> list[str]:
        if self._expected is None or message.get("target") != 0 or message.get("method") is not None:
            return []
        return self._expected.signature.strip("()").split(", ")

    def _resend(self, outcome: Outcome) -> dict[str, Any]:
        """Put a recorded request to this answer, under this port's seed and what is left of its time."""
        order = {"seconds": max(self._left, 0.05), "seed": self._seed, "quiet": self._quiet}
        raw = self._transport.exchange(
            wrap(order, outcome.request), lambda data: _serve(data, outcome.functions)
        )
        try:
            reply = decode(raw)
        except CodecError as error:
            raise Finding(f"What your answer sent cannot be read: {error}.", "malformed") from error
        if "error" in reply:  # words from the answer's side: short, on one line
            reply = {k: clean(v, 300) if isinstance(v, str) else v for k, v in reply.items()}
        if isinstance(reply.get("spent"), float):
            self._left -= min(max(reply["spent"], 0.0), self._seconds)
        return reply


def _serve(data: bytes, functions: Sequence[Callable[..., Any]]) -> bytes:
    """Evaluate one of the checker's functions for the answer."""
    try:
        m = decode(data)
        if (
            m.get("op") != "callback"
            or type(m.get("target")) is not int
            or not 0 <= m["target"] < len(functions)
        ):
            return encode({"error": "this is no call of a function that was given"})
        for x in (*m["args"], *m["kwargs"].values()):
            if isinstance(x, (Foreign, Ref, Elsewhere)):
                name = x.type if isinstance(x, Foreign) else "tensor on another device"
                words = f"the function you were given takes arrays and numbers, and was called with a {name}"
                return encode({"error": words})
        function = functions[m["target"]]
        if "cotangent" in m:
            return encode({"value": _pull_back(function, m)})
        with torch.no_grad():
            value = function(*m["args"], **m["kwargs"])
        return encode({"value": value})
    except CodecError as error:
        return encode({"error": f"the function you were given could not be called: {error}"})
    except Exception as error:
        return encode(
            {"error": f"the function you were given could not be evaluated on this: {str(error)[:200]}"}
        )


def _pull_back(function: Callable[..., Any], m: dict[str, Any]) -> list[Any]:
    """The gradient of ``sum(function(*args) * cotangent)`` for each argument that is learned through."""
    args = list(m["args"])
    leaves = [args[i].requires_grad_() for i in m["wrt"]]
    with torch.enable_grad():
        value = function(*args, **m["kwargs"])
        if not value.requires_grad:
            return [None] * len(leaves)
        return list(torch.autograd.grad(value, leaves, m["cotangent"], allow_unused=True))


class Handle:
    """Something that an answer made and that stays on its side: a module, an instance or a function."""

    def __init__(self, ask: Ask, number: int, name: str):
        self._ask, self._number, self._name = ask, number, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it with plain values and return a plain value."""
        return self._value("call", args, kwargs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call one of its methods, or read a plain attribute."""
        return self._value("call", args, kwargs, method=method)

    def make(self, *args: Any, **kwargs: Any) -> Handle:
        """Call it and keep what it returns on the answer's side."""
        reply = self._send("make", args, kwargs)
        value = reply.get("value")
        if not isinstance(value, Ref):
            self._refuse_nothing(reply)
            raise Finding(
                f"Your answer returned {kind_of(value)} where a function or a module is "
                f"wanted.{self._shown()}",
                "type",
            )
        return Handle(self._ask, value.number, value.name)

    def error(self, *args: Any, **kwargs: Any) -> tuple[str, str] | None:
        """Call it where it should refuse: the exception's type name and message, or None if it did not
        raise.
        """
        reply = self._ask._send(self._message("call", args, kwargs))
        if reply.get("error") == "exception":
            return str(reply.get("type")), str(reply.get("message"))
        if "error" in reply:
            self._failed(reply)
        return None

    def parameters(self) -> dict[str, Any]:
        """The module's parameters as arrays, by name."""
        return self._plain(self._checked(self._ask._send({"op": "parameters", "target": self._number})))

    def state(self) -> dict[str, Any]:
        """The module's state (parameters and buffers) as arrays, by name."""
        return self._plain(self._checked(self._ask._send({"op": "state", "target": self._number})))

    def load(self, state: dict[str, Any]) -> Handle:
        """Copy these arrays into the module's state; names and shapes must be there."""
        self._checked(self._ask._send({"op": "load", "target": self._number, "args": (state,)}))
        return self

    def train(self, mode: bool = True) -> Handle:
        """Put the module into training mode."""
        self._checked(self._ask._send({"op": "train", "target": self._number, "args": (mode,)}))
        return self

    def eval(self) -> Handle:
        """Put the module into evaluation mode."""
        return self.train(False)

    def gradient(self, *args: Any, wrt: int | Sequence[int] = 0, cotangent: Any = None, **kwargs: Any) -> Any:
        """Gradients of ``sum(value * cotangent)`` (``cotangent`` default: ones).

        With respect to one argument (its array, or None where the value does not depend on it), or a list
        of arguments (a list). A handle's parameters: see `parameter_gradients`.
        """
        found = self._gradients(args, kwargs, [wrt] if isinstance(wrt, int) else list(wrt), cotangent)[
            "inputs"
        ]
        return found[0] if isinstance(wrt, int) else found

    def parameter_gradients(self, *args: Any, cotangent: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Gradients of ``sum(value * cotangent)`` with respect to each parameter, by name; None where there
        is none.
        """
        return self._gradients(args, kwargs, [], cotangent)["parameters"]

    def _gradients(self, args: Any, kwargs: Any, wrt: list[int], cotangent: Any) -> dict[str, Any]:
        message = self._message("gradient", args, kwargs) | {"wrt": wrt, "cotangent": cotangent}
        found = self._plain(self._checked(self._ask._send(message)))
        if found["inputs"] is None:
            raise Finding(
                f"Your answer returned {kind_of(found['value'])}, and a torch tensor is "
                f"wanted.{self._shown()}",
                "type",
            )
        return found

    def _message(self, op: str, args: Any, kwargs: Any, method: str | None = None) -> dict[str, Any]:
        return {
            "op": op,
            "target": self._number,
            "args": tuple(args),
            "kwargs": dict(kwargs),
            "method": method,
        }

    def _send(self, op: str, args: Any, kwargs: Any, method: str | None = None) -> dict[str, Any]:
        return self._checked(self._ask._send(self._message(op, args, kwargs, method)))

    def _value(self, op: str, args: Any, kwargs: Any, method: str | None = None) -> Any:
        reply = self._send(op, args, kwargs, method)
        self._refuse_nothing(reply)
        value = self._plain(reply)
        expected = self._ask._expected
        like = expected.replies.get(self._ask.log[-1].key) if expected is not None else None
        if like is not None and "value" in like:
            value = conform(value, like["value"], self._ask._free, self._shown())
        elif method is None:
            _refuse_foreign(value, self._shown())
        if reply.get("changed") and "inplace" not in self._ask._free:
            names = " and ".join(f"`{n}`" for n in dict.fromkeys(reply["changed"]))
            raise Finding(
                f"Your code changes its input {names} in place: after the call, what was handed in is "
                "another. "
                f"Work on a copy, or build the result anew.{self._shown()}",
                "inplace",
            )
        return value

    def _plain(self, reply: dict[str, Any]) -> Any:
        return reply.get("value")

    def _shown(self) -> str:
        return f" ({self._ask.log[-1].shown})" if self._ask.log and self._ask.log[-1].shown else ""

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" in reply:
            self._failed(reply)
        return reply

    def _refuse_nothing(self, reply: dict[str, Any]) -> None:
        value = reply.get("value")
        if value is Ellipsis or (value is None and reply.get("stub")):
            raise Finding("Not attempted yet.", "not attempted")
        expected = self._ask._expected
        like = expected.replies.get(self._ask.log[-1].key) if expected is not None else None
        if value is None and not (like is not None and like.get("value", 0) is None):
            raise Finding(f"Your function returns None. Does it end with `return`?{self._shown()}", "none")

    def _failed(self, r: dict[str, Any]) -> None:
        kind, at = r["error"], ""
        if r.get("line"):
            inside = f" of `{r['function']}`" if r.get("function") else ""
            at = (
                f" In line {r['line']}{inside}: `{str(r.get('text', '')).replace('`', '´')}`."
                if r.get("text")
                else f" In line {r['line']}{inside}."
            )
        if kind == "stub":
            if r.get("function") in ("", r.get("answer"), "forward", "__init__", "__call__", None):
                raise Finding("Not attempted yet.", "not attempted")
            raise Finding(
                f"Not attempted yet: `{r['function']}`, which this one uses, is still to be written.",
                "not attempted",
            )
        if kind == "exception":
            words = f": {r['message']}" if r.get("message") else ""
            raise Finding(
                f"Your code stops with {r['type']}{words.rstrip('.')}.{at}{self._shown()}", "exception"
            )
        if kind == "arguments":
            wanted = self._ask._expected.signature if self._ask._expected is not None else ""
            how = f" It is called as {wanted}." if wanted else ""
            raise Finding(
                f"The arguments do not fit: yours takes {r['signature']}.{how}{self._shown()}", "arguments"
            )
        if kind == "slow":
            raise Finding(
                f"Your code takes too long: it was stopped after {r['seconds']:.1f} s. Look for a "
                "loop that does not end, or "
                f"for one over single pixels that a tensor operation could do.{self._shown()}",
                "slow",
            )
        if kind == "size":
            raise Finding(f"What your code returns cannot be checked: {r['message']}.{self._shown()}", "size")
        if kind == "not callable":
            raise Finding(
                f"What your code made is {_a(r['type'])}, and cannot be called like a function.",
                "not callable",
            )
        if kind == "gone":
            raise Finding(f"The process that ran your code is gone: {r['message']}.", "gone")
        if kind == "no module":
            raise Finding(f"What your code made is {_a(r['type'])}, and a torch.nn.Module is wanted.", "type")
        if kind == "no attribute":
            raise Finding(f"Your {r['type']} has no `{r['name']}`.", "attribute")
        if kind == "state":
            have = ", ".join(r["names"]) or "none"
            if r["absent"]:
                raise Finding(
                    f"Your module has no parameter named {', '.join(r['absent'])} (it has: {have}).",
                    "parameters",
                )
            raise Finding(
                f"A parameter of your module has another shape than wanted: {', '.join(r['shapes'])}.",
                "parameters",
            )
        raise Finding("Your answer's side sent something unreadable.", "malformed")


# -- the form of a value -----------------------------------------------------------------------------------


def kind_of(x: Any) -> str:
    """The kind of a plain value in words: ``a torch tensor``, ``a numpy array``, ``a list`` ..."""
    if isinstance(x, torch.Tensor):
        return "a torch tensor"
    if isinstance(x, np.ndarray):
        return "a numpy array" if x.ndim else "a numpy number"
    if isinstance(x, Elsewhere):
        return f"a tensor on device {x.device}"
    if isinstance(x, Foreign):
        return _a(x.type)
    if isinstance(x, Ref):
        return f"a {x.kind}"
    return (
        "None"
        if x is None
        else _a({"str": "text", "dict": "dictionary"}.get(type(x).__name__, type(x).__name__))
    )


def _a(word: str) -> str:
    return f"an {word}" if word[:1].lower() in "aeiou" else f"a {word}"


def _refuse_foreign(x: Any, shown: str) -> None:
    if isinstance(x, (Foreign, Ref)):
        why = f" ({x.why})" if isinstance(x, Foreign) and x.why else ""
        raise Finding(
            f"Your code returns {kind_of(x)}{why}, and plain arrays or numbers are wanted.{shown}", "type"
        )
    if isinstance(x, Elsewhere):
        raise Finding(
            f"Your result is on device {x.device}; it must stay where the input is (cpu).{shown}", "device"
        )
    if isinstance(x, (list, tuple)):
        for v in x:
            _refuse_foreign(v, shown)
    elif isinstance(x, dict):
        for v in x.values():
            _refuse_foreign(v, shown)


def conform(x: Any, like: Any, free: frozenset[str], shown: str = "", part: str = "Your result") -> Any:
    """Hold the form of a value against the reference's (kind, device, dtype, shape, NaN), or raise a
    `Finding`.

    ``free`` names what the statement leaves open: any of "kind", "dtype", "shape", "nan", "inplace". A 0-d
    array stands for a number, a list for a tuple, where the reference gives these; the value is returned in
    the reference's form.
    """
    if isinstance(x, Elsewhere):
        raise Finding(
            f"{part} is on device {x.device}; it must stay where the input is (cpu).{shown}", "device"
        )
    if isinstance(x, (Foreign, Ref)):
        why = f" ({x.why})" if isinstance(x, Foreign) and x.why else ""
        raise Finding(f"{part} is {kind_of(x)}{why}; wanted: {kind_of(like)}.{shown}", "type")
    if "kind" in free:
        return x
    if isinstance(like, (torch.Tensor, np.ndarray)):
        if type(x) is not type(like):
            raise Finding(f"{part} is {kind_of(x)}; wanted: {kind_of(like)}.{shown}", "kind")
        if "shape" not in free and tuple(x.shape) != tuple(like.shape):
            raise Finding(f"{part} has shape {tuple(x.shape)}; wanted: {tuple(like.shape)}.{shown}", "shape")
        if "dtype" not in free and x.dtype != like.dtype:
            got, want = (str(v.dtype).removeprefix("torch.") for v in (x, like))
            raise Finding(f"{part} has dtype {got}; wanted: {want}.{shown}", "dtype")
        if "nan" not in free:
            _refuse_nan(x, like, shown, part)
        return x
    if isinstance(like, (bool, int, float, complex)):
        return _number(x, like, free, shown, part)
    if isinstance(like, (list, tuple)):
        if not isinstance(x, (list, tuple)):
            raise Finding(f"{part} is {kind_of(x)}; wanted: {kind_of(like)}.{shown}", "kind")
        if len(x) != len(like) and "shape" not in free:
            raise Finding(f"{part} has {len(x)} entries; wanted: {len(like)}.{shown}", "shape")
        if len(x) != len(like):
            return type(like)(x)
        one = "One entry of your result" if part == "Your result" else part
        return type(like)(conform(v, w, free, shown, one) for v, w in zip(x, like, strict=True))
    if isinstance(like, dict):
        if not isinstance(x, dict):
            raise Finding(f"{part} is {kind_of(x)}; wanted: a dictionary.{shown}", "kind")
        if set(x) != set(like) and "shape" not in free:
            raise Finding(f"{part} has other keys ({_keys(x)}) than wanted ({_keys(like)}).{shown}", "shape")
        return {
            k: conform(v, like[k], free, shown, f"The entry {k!r} of your result") if k in like else v
            for k, v in x.items()
        }
    if like is None:
        if x is not None:
            raise Finding(f"{part} is {kind_of(x)}; wanted here: None.{shown}", "kind")
        return x
    if type(x) is not type(like):
        raise Finding(f"{part} is {kind_of(x)}; wanted: {kind_of(like)}.{shown}", "kind")
    return x


def _keys(x: dict[Any, Any]) -> str:
    names = [repr(k) for k in list(x)[:6]]
    return ", ".join(names) + (" ..." if len(x) > 6 else "") or "none"


def _number(x: Any, like: Any, free: frozenset[str], shown: str, part: str) -> Any:
    want = {bool: "True or False", int: "an integer", float: "a number", complex: "a complex number"}[
        type(like)
    ]
    if isinstance(x, (torch.Tensor, np.ndarray)):
        if x.ndim != 0:
            raise Finding(f"{part} is {kind_of(x)} of shape {tuple(x.shape)}; wanted: {want}.{shown}", "kind")
        x = x.item()
    fits = {bool: (bool,), int: (int,), float: (int, float), complex: (int, float, complex)}[type(like)]
    if not isinstance(x, fits) or (isinstance(x, bool) and not isinstance(like, bool)):
        raise Finding(f"{part} is {kind_of(x)}; wanted: {want}.{shown}", "kind")
    x = type(like)(x)
    if "nan" not in free and isinstance(x, float) and x != x and like == like:
        raise Finding(
            f"{part} is NaN (not a number): look for 0/0, a logarithm or root of a negative number.{shown}",
            "nan",
        )
    if (
        "nan" not in free
        and isinstance(x, float)
        and x in (np.inf, -np.inf)
        and like not in (np.inf, -np.inf)
    ):
        raise Finding(f"{part} is infinite: look for a division by zero.{shown}", "nan")
    return x


def _refuse_nan(x: Any, like: Any, shown: str, part: str) -> None:
    a, b = as_numpy(x), as_numpy(like)
    if a.dtype.kind not in "fc" or a.shape != b.shape:
        return
    if (np.isnan(a) & ~np.isnan(b)).any():
        raise Finding(
            f"{part} contains NaN (not a number): look for 0/0, a logarithm or root of a "
            f"negative number.{shown}",
            "nan",
        )
    if (np.isinf(a) & ~np.isinf(b)).any():
        raise Finding(
            f"{part} contains infinite values: look for a division by zero or an overflow.{shown}", "nan"
        )


def describe_call(message: dict[str, Any], names: Sequence[str] = ()) -> str:
    """What an answer was asked with, in a few words: ``asked with x: float64 (1, 2, 5, 7), r: 3``."""
    if message["op"] not in ("call", "make", "gradient"):
        return ""
    args = [describe_value(v) for v in message.get("args", ())]
    parts = [f"{names[i]}: {v}" if i < len(names) and names[i] else v for i, v in enumerate(args)]
    parts += [f"{k}: {describe_value(v)}" for k, v in message.get("kwargs", {}).items()]
    method = f" .{message['method']}" if message.get("method") else ""
    return f"asked{method} with {', '.join(parts)}" if parts else f"asked{method} without arguments"


def describe_value(x: Any) -> str:
    """A value in a word or two: dtype and shape of an array, a short number or text as it is."""
    if isinstance(x, (torch.Tensor, np.ndarray)):
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    if isinstance(x, Handle):
        return x._name
    if isinstance(x, float):
        return f"{x:.4g}"
    if callable(x):
        return "a function"
    if isinstance(x, (list, tuple, dict)):
        if len(x) <= 4 and all(
            isinstance(v, (bool, int, float, str)) for v in (x if not isinstance(x, dict) else x.values())
        ):
            return repr(x)[:60]
        return f"{_a(type(x).__name__)} of {len(x)}"
    return repr(x)[:40]
