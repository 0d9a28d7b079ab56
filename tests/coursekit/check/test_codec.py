"""Messages: every plain value comes back exact, nothing else comes through, and no bytes do more than raise
CodecError.
"""

import json
import random
import struct

import numpy as np
import pytest
import torch

from coursekit.check import codec
from coursekit.check.codec import CodecError, Elsewhere, Foreign, decode, encode, plain
from coursekit.testing import EqualToAll

TORCH = [
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
NUMPY = [
    "bool",
    "uint8",
    "uint16",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 5)])
@pytest.mark.parametrize("name", TORCH)
def test_tensors_come_back_exact(name, shape):
    x = (torch.randn(shape, dtype=torch.float64) * 3).to(getattr(torch, name))
    y = plain(x)
    assert type(y) is torch.Tensor
    assert y.dtype == x.dtype
    assert torch.equal(y, x)


@pytest.mark.parametrize("name", NUMPY)
def test_arrays_come_back_exact(name):
    x = (np.random.default_rng(0).standard_normal((2, 3)) * 3).astype(name)
    for given in (x, x[:, ::-1], np.asfortranarray(x), x.astype(x.dtype.newbyteorder(">")), x[0, 0]):
        y = plain(given)
        assert type(y) is np.ndarray
        assert y.dtype == np.dtype(name)
        assert np.array_equal(y, given)


def test_views_parameters_and_gradients_come_back_as_plain_values():
    x = torch.randn(4, 6, requires_grad=True)
    for given in (x.t()[::2], x[:, 1:3] * 2, torch.nn.Parameter(x.detach()), x.expand(2, 4, 6)):
        y = plain(given)
        assert type(y) is torch.Tensor
        assert not y.requires_grad
        assert torch.equal(y, given.detach())
    z = torch.randn(3, dtype=torch.complex64)
    assert torch.equal(plain(z.conj()), z.conj().resolve_conj())
    assert torch.equal(plain(z.conj().imag), z.conj().imag.resolve_neg())


def test_nan_infinity_and_negative_zero_keep_their_bits():
    x = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    assert plain(x).numpy().tobytes() == x.numpy().tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -7,
        2**62,
        2**63,
        -(10**300),
        0.1,
        -0.0,
        1e300,
        "",
        "Gewebe µm 🔬",
        1 + 2j,
        ...,
        [],
        (),
        {},
        [1, (2, [3.5, None])],
        {"a": 1, 2: (3,), (1, 2): "b", None: False},
        torch.float64,
        float("inf"),
    ],
)
def test_plain_values_come_back_exact(value):
    got = plain(value)
    assert type(got) is type(value)
    assert repr(got) == repr(value)


def test_lists_tuples_and_dictionaries_hold_arrays():
    x = torch.arange(6.0).reshape(2, 3)
    got = plain({"a": [x, (x.numpy(), 1)], "b": {"c": x.long()}})
    assert torch.equal(got["a"][0], x)
    assert np.array_equal(got["a"][1][0], x.numpy())
    assert torch.equal(got["b"]["c"], x.long())


def test_structured_results_of_torch_become_tuples():
    got = plain(torch.tensor([[1.0, 3.0], [4.0, 2.0]]).max(1))
    assert type(got) is tuple
    assert torch.equal(got[1], torch.tensor([1, 0]))
    assert plain(torch.zeros(2, 3).shape) == (2, 3)


class Liar(torch.Tensor):
    def __eq__(self, other):
        return torch.ones((), dtype=torch.bool)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.zeros(2)


class FullList(list):
    def __iter__(self):
        return iter([1, 2, 3])

    def __eq__(self, other):
        return True


def test_subclasses_cannot_lie_about_what_they_hold():
    x = torch.tensor([5.0, 6.0]).as_subclass(Liar)
    y = plain(x)
    assert type(y) is torch.Tensor
    assert y.tolist() == [5.0, 6.0]
    assert plain(FullList([9])) == [9]
    assert type(plain(FullList([9]))) is list


@pytest.mark.parametrize(
    "value", [EqualToAll(), object(), {1, 2}, iter([]), "x".join, int, lambda: 0, b"raw"]
)
def test_everything_else_is_only_named(value):
    assert plain(value) == Foreign(type(value).__name__)


def test_tensors_elsewhere_and_odd_ones_send_their_form_only():
    assert plain(torch.zeros(2, 3, device="meta")) == Elsewhere("meta", "float32", (2, 3))
    assert isinstance(plain(torch.eye(3).to_sparse()), Foreign)
    assert isinstance(plain(np.array(["a"])), Foreign)
    assert isinstance(plain(np.array([object()])), Foreign)


def test_limits_hold_before_memory_is_used():
    with pytest.raises(CodecError, match="MiB"):
        encode({"x": torch.zeros(1).expand(10**11)})
    nested: list = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(CodecError, match="levels"):
        encode({"x": nested})
    endless: list = []
    endless.append(endless)
    with pytest.raises(CodecError, match="levels"):
        encode({"x": endless})
    with pytest.raises(CodecError, match="parts"):
        encode({"x": [0] * (codec.MAX_NODES + 1)})
    with pytest.raises(CodecError, match="characters"):
        encode({"x": "a" * (codec.MAX_TEXT + 1)})
    with pytest.raises(CodecError, match="bytes"):
        decode(b"x" * 3000, limit=-codec.MAX_HEADER)


def message(header, blob=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return codec.MAGIC + struct.pack(">I", len(text)) + text + blob


ARRAY = {"lib": "torch", "dtype": "float32", "shape": [2]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"CK1\n",
        b"PK" + b"\0" * 20,
        codec.MAGIC + struct.pack(">I", 2**31) + b"{}",
        message(b"not json"),
        message(b"[" * 100_000),
        message([]),
        message({"body": {}}),
        message({"body": [], "arrays": []}),
        message({"body": {}, "arrays": {}}),
        message({"body": {}, "arrays": [3]}),
        message({"body": {"x": {"a": 0}}, "arrays": []}),
        message({"body": {"x": {"a": True}}, "arrays": [ARRAY]}, b"\0" * 8),
        message({"body": {"x": [{"a": 0}, {"a": 0}]}, "arrays": [ARRAY]}, b"\0" * 8),
        message({"body": {}, "arrays": [ARRAY]}, b"\0" * 7),
        message({"body": {}, "arrays": [ARRAY]}, b"\0" * 9),
        message({"body": {}, "arrays": [ARRAY | {"dtype": "object"}]}, b"\0" * 8),
        message({"body": {}, "arrays": [ARRAY | {"dtype": ["float32"]}]}, b"\0" * 8),
        message({"body": {}, "arrays": [ARRAY | {"lib": {}}]}, b"\0" * 8),
        message({"body": {}, "arrays": [ARRAY | {"shape": [-1]}]}),
        message({"body": {}, "arrays": [ARRAY | {"shape": [2**39, 2**39]}]}),
        message({"body": {}, "arrays": [ARRAY | {"shape": [True, 2]}]}, b"\0" * 8),
        message({"body": {}, "arrays": [ARRAY | {"shape": [1] * 17}]}, b"\0" * 4),
        message({"body": {"x": {"pickle": "abc"}}, "arrays": []}),
        message({"body": {"x": {"a": 0, "t": []}}, "arrays": [ARRAY]}, b"\0" * 8),
        message({"body": {"x": {"d": [["k", 1], ["k", 2]]}}, "arrays": []}),
        message({"body": {"x": {"d": [[[1], 1]]}}, "arrays": []}),
        message({"body": {"x": {"d": [[{"t": [[1]]}, 1]]}}, "arrays": []}),
        message({"body": {"x": {"d": [1]}}, "arrays": []}),
        message({"body": {"x": {"c": ["z", "1"]}}, "arrays": []}),
        message({"body": {"x": {"dtype": "quint8"}}, "arrays": []}),
        message({"body": {"x": {"r": ["0", "function", "f"]}}, "arrays": []}),
        message(b'{"body":{"x":NaN},"arrays":[]}'),
        message({"body": {"x": {"f": "1.0"}}, "arrays": []}),
    ],
)
def test_malformed_messages_are_refused(data):
    with pytest.raises(CodecError):
        decode(data)


def test_damaged_messages_are_refused_or_read_never_worse():
    good = encode({"op": "call", "args": (torch.randn(3), np.arange(4), "text", {"k": [1, 2.5, None]})})
    dice = random.Random(0)
    refused = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            data = data[: dice.randrange(len(data))]
        try:
            decode(bytes(data))
        except CodecError:
            refused += 1
    assert refused > 1000


def test_a_bool_is_always_true_or_false():
    spec = {"lib": "torch", "dtype": "bool", "shape": [3]}
    got = decode(message({"body": {"x": {"a": 0}}, "arrays": [spec]}, b"\x00\x02\xff"))["x"]
    assert got.view(torch.uint8).tolist() == [0, 1, 1]
