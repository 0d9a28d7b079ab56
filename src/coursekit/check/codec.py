"""How values travel between the checker and an answer: a JSON header followed by raw array bytes, never a
pickle.

A message is ``b"CK1\\n"``, the header's length (4 bytes, big endian), the header, and the arrays one after
the other. Only plain things can be said in it: None, bool, int, float, complex, str, list, tuple, dict,
torch tensors and numpy arrays of the usual types, dtypes, and numbered references to functions and objects
that stay on their own side. What is read back is rebuilt from bytes as exactly these types, so no object of
a student ever reaches the checker, whatever it claims to be equal to. Every limit and every malformed
message is a `CodecError`.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MAGIC = b"CK1\n"
MAX_BYTES = 64 * 2**20  # one message
MAX_HEADER = 4 * 2**20
MAX_DEPTH = 24
MAX_NODES = 200_000
MAX_ARRAYS = 4096
MAX_TEXT = 100_000

_TORCH_DTYPES = {
    name: getattr(torch, name)
    for name in (
        [
            "bool",
            "uint8",
            "int8",
            "int16",
            "int32",
            "int64",
            "float16",
            "bfloat16",
            "float32",
            "float64",
            "complex64",
            "complex128",
        ]
    )
}
_TORCH_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}
_NUMPY_NAMES = (*tuple(name for name in _TORCH_DTYPES if name != "bfloat16"), "uint16", "uint32", "uint64")
_ITEMSIZE = {name: dtype.itemsize for name, dtype in _TORCH_DTYPES.items()} | {
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}
# Captured now: a notebook may replace the attributes of torch later.
_detach, _cpu_contiguous, _view = torch.Tensor.detach, torch.Tensor.contiguous, torch.Tensor.view
_reshape, _numpy, _resolve_conj, _resolve_neg = (
    torch.Tensor.reshape,
    torch.Tensor.numpy,
    torch.Tensor.resolve_conj,
    torch.Tensor.resolve_neg,
)
_as_strided = torch.Tensor.as_strided
_frombuffer, _numel, _NoSubclass = torch.frombuffer, torch.Tensor.numel, torch._C.DisableTorchFunctionSubclass


class CodecError(ValueError):
    """A message that is too large, malformed, or asks for something that cannot be sent."""


@dataclass(frozen=True)
class Foreign:
    """Stands for something that cannot be sent: only the name of its type, and a reason, travel."""

    type: str
    why: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """Stands for a tensor that is not in main memory (device ``cuda:0``, ``meta`` ...): its form travels,
    not its values.
    """

    device: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A function or object that stays where it is; the other side names it by number."""

    number: int
    kind: str  # "function", "module", "object"
    name: str


class _Writer:
    def __init__(self, refer: Callable[[Any], Ref | None] | None, limit: int):
        self.refer, self.limit = refer, limit
        self.arrays: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self.size = self.nodes = 0

    def value(self, x: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise CodecError(f"the value is nested more than {MAX_DEPTH} levels deep")
        if self.nodes > MAX_NODES:
            raise CodecError(f"the value has more than {MAX_NODES} parts")
        kind = type(x)
        if x is None or kind is bool:
            return x
        if kind is str:
            if len(x) > MAX_TEXT:
                raise CodecError(
                    f"a text of {len(x)} characters is longer than the {MAX_TEXT} that can be sent"
                )
            return x.encode("utf-8", "replace").decode("utf-8")
        if kind is int:
            return x if -(2**63) <= x < 2**63 else {"i": hex(x)} if x.bit_length() < 8192 else self._huge()
        if kind is float:
            return x if math.isfinite(x) else {"f": repr(x)}
        if kind is complex:
            return {"c": [x.real.hex(), x.imag.hex()]}
        if x is Ellipsis:
            return {"e": 0}
        # The type itself, never `__class__`, which an object may choose; and below the base classes' own
        # iteration, so that a subclass cannot say something other than what it holds.
        if issubclass(kind, torch.Tensor):
            return self._tensor(x)
        if issubclass(kind, (np.ndarray, np.generic)):
            return self._numpy(x)
        if kind is torch.dtype:
            return {"dtype": _TORCH_NAMES[x]} if x in _TORCH_NAMES else {"x": ["dtype", str(x)[:80]]}
        if issubclass(kind, list):
            return [self.value(v, depth + 1) for v in list.__iter__(x)]
        if issubclass(kind, tuple):
            return {"t": [self.value(v, depth + 1) for v in tuple.__iter__(x)]}
        if issubclass(kind, dict):
            return {"d": [[self.value(k, depth + 1), self.value(v, depth + 1)] for k, v in dict.items(x)]}
        if kind is Foreign:
            return {"x": [x.type, x.why]}
        if kind is Ref:
            return {"r": [x.number, x.kind, x.name]}
        if self.refer is not None:
            ref = self.refer(x)
            if ref is not None:
                return {"r": [ref.number, ref.kind, ref.name]}
        return {"x": [kind.__name__[:80], ""]}

    def _huge(self) -> Any:
        return {"x": ["int", "it has more than 8192 bits"]}

    def _room(self, nbytes: int) -> None:
        if self.size + nbytes > self.limit:
            raise CodecError(
                f"{(self.size + nbytes) / 2**20:.0f} MiB is more than the "
                f"{self.limit / 2**20:.0f} MiB allowed"
            )
        if len(self.arrays) >= MAX_ARRAYS:
            raise CodecError(f"more than {MAX_ARRAYS} arrays in one message")
        self.size += nbytes

    def _tensor(self, x: torch.Tensor) -> Any:
        with _NoSubclass(), torch.no_grad():
            x = _detach(x)
            name = _TORCH_NAMES.get(x.dtype)
            if x.layout is not torch.strided or x.is_nested:
                return {"x": ["tensor", "it is sparse or nested, not a plain dense tensor"]}
            if name is None:
                return {"x": ["tensor", f"its dtype {x.dtype} is unusual"]}
            shape = [int(n) for n in x.shape]
            if x.device.type != "cpu":
                return {"m": [str(x.device), name, shape]}
            nbytes = _numel(x) * _ITEMSIZE[name]
            self._room(nbytes)
            x = _cpu_contiguous(_resolve_neg(_resolve_conj(x)))
            # A contiguous tensor of one element may have any stride, which `view` refuses: say the stride.
            flat = _as_strided(x, (_numel(x),), (1,))
            raw = _numpy(_view(flat, torch.uint8)).tobytes() if nbytes else b""
        return self._add("torch", name, shape, raw)

    def _numpy(self, x: Any) -> Any:
        x = np.asarray(x) if isinstance(x, np.generic) else np.ndarray.view(x, np.ndarray)
        name = x.dtype.name
        if name not in _NUMPY_NAMES:
            return {"x": ["ndarray", f"its dtype {name[:40]} is not numeric"]}
        self._room(x.size * x.dtype.itemsize)
        raw = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).tobytes()
        return self._add("numpy", name, list(x.shape), raw)

    def _add(self, lib: str, dtype: str, shape: list[int], raw: bytes) -> Any:
        self.arrays.append({"lib": lib, "dtype": dtype, "shape": shape})
        self.blobs.append(raw)
        return {"a": len(self.arrays) - 1}


def encode(
    message: dict[str, Any], *, refer: Callable[[Any], Ref | None] | None = None, limit: int = MAX_BYTES
) -> bytes:
    """Write one message as bytes.

    ``refer(obj)`` may give a `Ref` for a thing that stays on this side (a function, a module); everything
    else that is not plain becomes `Foreign`. Raises `CodecError` where the message would exceed ``limit``
    bytes.
    """
    writer = _Writer(refer, limit)
    body = {str(key): writer.value(value) for key, value in message.items()}
    header = json.dumps(
        {"body": body, "arrays": writer.arrays}, allow_nan=False, separators=(",", ":")
    ).encode()
    if len(header) > MAX_HEADER:
        raise CodecError(f"a header of {len(header)} bytes is more than the {MAX_HEADER} allowed")
    return b"".join([MAGIC, struct.pack(">I", len(header)), header, *writer.blobs])


class _Reader:
    def __init__(self, arrays: list[Any]):
        self.arrays = arrays
        self.used: set[int] = set()
        self.nodes = 0

    def value(self, node: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise CodecError("the value is nested too deeply or has too many parts")
        if node is None or isinstance(node, (bool, float)):
            return node
        if isinstance(node, str):
            if len(node) > MAX_TEXT:
                raise CodecError("a text is too long")
            return node
        if isinstance(node, int):
            return node
        if isinstance(node, list):
            return [self.value(v, depth + 1) for v in node]
        if not isinstance(node, dict) or len(node) != 1:
            raise CodecError("a tagged value must be an object with one key")
        ((tag, v),) = node.items()
        try:
            return self._tagged(tag, v, depth)
        except CodecError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise CodecError(f"malformed value tagged {tag!r}") from error

    def _tagged(self, tag: str, v: Any, depth: int) -> Any:
        if tag == "a":
            if type(v) is not int or not 0 <= v < len(self.arrays) or v in self.used:
                raise CodecError("an array is missing or named twice")
            self.used.add(v)
            return self.arrays[v]
        if tag == "t" and isinstance(v, list):
            return tuple(self.value(x, depth + 1) for x in v)
        if tag == "d" and isinstance(v, list):
            items = [(self.value(k, depth + 1), self.value(x, depth + 1)) for k, x in v]
            if any(not isinstance(k, (str, int, float, bool, tuple, type(None))) for k, _ in items):
                raise CodecError("a dictionary key must be a text or a number")
            out = dict(items)
            if len(out) != len(items):
                raise CodecError("a dictionary key appears twice")
            return out
        if tag == "f" and v in ("nan", "inf", "-inf"):
            return float(v)
        if tag == "i" and isinstance(v, str) and len(v) < 4096:
            return int(v, 16)
        if tag == "c":
            real, imag = v
            return complex(float.fromhex(real), float.fromhex(imag))
        if tag == "e":
            return Ellipsis
        if tag == "dtype":
            return _TORCH_DTYPES[v]
        if tag == "x":
            name, why = v
            return Foreign(str(name)[:80], str(why)[:200])
        if tag == "m":
            device, name, shape = v
            return Elsewhere(str(device)[:40], str(name)[:20], tuple(int(n) for n in shape))
        if tag == "r":
            number, kind, name = v
            if type(number) is not int or kind not in ("function", "module", "object"):
                raise CodecError("malformed reference")
            return Ref(number, kind, str(name)[:80])
        raise CodecError(f"unknown tag {tag!r}")


def _array(spec: Any, raw: memoryview) -> Any:
    lib, name, shape = spec["lib"], spec["dtype"], tuple(spec["shape"])
    if lib == "torch":
        if not raw:
            return torch.empty(shape, dtype=_TORCH_DTYPES[name])
        flat = _frombuffer(bytearray(raw), dtype=torch.uint8)
        if name == "bool":
            return _reshape(flat != 0, shape)  # a byte other than 0 or 1 is no bool
        return _reshape(_view(flat, _TORCH_DTYPES[name]), shape)
    flat_np = np.frombuffer(bytearray(raw), dtype=np.uint8)
    if name == "bool":
        return (flat_np != 0).reshape(shape)
    return flat_np.view(np.dtype(name).newbyteorder("<")).astype(name, copy=False).reshape(shape)


def decode(data: bytes, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Read one message; what it holds is rebuilt as exact plain types. Raises `CodecError` for anything
    malformed.
    """
    if len(data) > limit + MAX_HEADER + 8:
        raise CodecError(f"a message of {len(data)} bytes is more than the {limit} allowed")
    if len(data) < 8 or data[:4] != MAGIC:
        raise CodecError("this is no message: the first bytes are wrong")
    (length,) = struct.unpack(">I", data[4:8])
    if length > MAX_HEADER or 8 + length > len(data):
        raise CodecError("the header's length is wrong")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CodecError("the header is not JSON") from error
    if not isinstance(header, dict) or set(header) != {"body", "arrays"}:
        raise CodecError("the header must have a body and arrays")
    body, specs = header["body"], header["arrays"]
    if not isinstance(body, dict) or not isinstance(specs, list) or len(specs) > MAX_ARRAYS:
        raise CodecError("the header must have a body and arrays")
    arrays, view, at = [], memoryview(data), 8 + length
    for spec in specs:
        nbytes = _nbytes(spec)
        if at + nbytes > len(data):
            raise CodecError("an array is longer than the message")
        arrays.append(_array(spec, view[at : at + nbytes]))
        at += nbytes
    if at != len(data):
        raise CodecError("the message is longer than its arrays")
    reader = _Reader(arrays)
    return {key: reader.value(value) for key, value in body.items()}


def _nbytes(spec: Any) -> int:
    if not isinstance(spec, dict) or set(spec) != {"lib", "dtype", "shape"}:
        raise CodecError("an array needs lib, dtype and shape")
    lib, name, shape = spec["lib"], spec["dtype"], spec["shape"]
    known = {"torch": tuple(_TORCH_DTYPES), "numpy": _NUMPY_NAMES}.get(
        lib if isinstance(lib, str) else "", ()
    )
    if name not in known:
        raise CodecError("unknown array library or dtype")
    if not isinstance(shape, list) or len(shape) > 16:
        raise CodecError("an array has at most 16 axes")
    if any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
        raise CodecError("an array's sizes must be counts")
    return math.prod(shape) * _ITEMSIZE[name]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def wrap(order: dict[str, Any], request: bytes) -> bytes:
    """Put a request under how it is to be carried out (seconds, seed), which is no part of what is asked."""
    head = encode(order)
    return struct.pack(">I", len(head)) + head + request


def unwrap(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The order and the request that `wrap` put together. Raises `CodecError` where they are not there."""
    length = struct.unpack(">I", data[:4])[0] if len(data) >= 4 else -1
    if not 0 <= length <= len(data) - 4:
        raise CodecError("the order's length is wrong")
    return decode(data[4 : 4 + length]), data[4 + length :]


def plain(x: Any) -> Any:
    """Copy a value as the port would: encoded and decoded again."""
    return decode(encode({"value": x}))["value"]


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str, room: int) -> str:
    """Text from an answer's side on one line of at most ``room`` characters, without colours and control
    characters.
    """
    text = " ".join(_CONTROL.sub("", text[: 20 * room]).split())
    return text if len(text) <= room else text[: room - 1] + "…"
