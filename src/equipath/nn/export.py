"""Equivariant networks as plain ones: the same function, made of torch's own modules, and as ONNX.

Once trained, an equivariant layer is an ordinary convolution with tied taps. ``export`` writes the taps out
and returns a ``torch.fx.GraphModule`` that needs torch and nothing of this library; ``export_onnx`` saves it
for other runtimes. A layer takes part by a method ``to_plain()`` that returns torch modules (or a module
whose forward is nothing but torch operations); a layer or network whose forward looks at shapes offers a
method ``body``, the part that does not.
"""

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from equipath.nn.sizes import SizeContract


class _Body(nn.Module):
    """Calls ``body`` of a module, so that a tracer enters there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        enter: Callable[[Tensor], Tensor] = self.module.body  # type: ignore[assignment]
        return enter(x)


class Reduced(nn.Module):
    """Mean or max over the third axis, (B, C, N, H, W) to (B, C, H, W): pooling over a group or over scales, as plain
    arithmetic that a tracer can follow.
    """

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2) if self.reduce == "mean" else x.amax(2)


def _plain(module: nn.Module) -> nn.Module:
    to_plain: Callable[[], nn.Module] | None = getattr(module, "to_plain", None)
    if to_plain is not None:
        return to_plain()
    for name, child in module.named_children():
        setattr(module, name, _plain(child))
    # A method of the class: a part that somebody called "body" is not the whole network.
    return _Body(module) if callable(getattr(type(module), "body", None)) else module


def export(model: nn.Module) -> fx.GraphModule:
    """A plain copy of an equivariant network: same outputs, no dependency on equipath; ``model`` is
    untouched.

    The copy is in eval mode and takes pictures of the network's valid sizes (it neither checks nor pads).
    Save it with ``torch.save(plain, path)`` and load it with ``torch.load(path, weights_only=False)`` on a
    machine with torch.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if a layer's forward depends on the values or sizes of its input in a way that cannot be
        traced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"export writes a torch.nn.Module as plain operations; got {type(model).__name__}")
    plain = _plain(copy.deepcopy(model)).eval()
    if fx.Tracer().is_leaf_module(plain, ""):
        plain = nn.Sequential(plain)  # one of torch's own: called as it is, not traced from within
    try:
        return fx.symbolic_trace(plain).eval()
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot be written as plain operations: {error}. Give the network a "
            f"method "
            "body(x) without branches on sizes, or the layer a method to_plain()"
        ) from error


def export_onnx(model: nn.Module, path: str | os.PathLike, example: Tensor, *, opset: int = 17) -> Path:
    """Write the plain copy of ``model`` as ONNX, with batch, height and width left free.

    Args:
        example: a picture (B, C, H, W) of a valid size, used to trace.

    Returns:
        The path of the file.

    Raises:
        ImportError: if the package ``onnx`` is missing.
        ValueError: if the network cannot be traced (``export``), or does not take the example as it is.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError("writing ONNX needs the package onnx: pip install onnx") from error
    plain, path = export(model), Path(path)
    sizes = getattr(model, "sizes", None)
    if isinstance(sizes, SizeContract):  # the file does not pad, even where the network would
        sizes.check(example, type(model).__name__)
    with torch.no_grad():
        # The network itself: it says in words what is wrong with an example.
        answer = copy.deepcopy(model).eval()(example)
    # Maps, (B, …, H, W), are as free as the picture; their sizes are its own only where nothing strides.
    same = answer.shape[-2:] == example.shape[-2:]
    rows, columns = ("height", "width") if same else ("rows", "columns")
    free = {0: "batch"}
    if answer.dim() >= 4:
        free |= {answer.dim() - 2: rows, answer.dim() - 1: columns}
    with warnings.catch_warnings():
        # The tracing exporter announces its successor, which needs one more package and gives the same file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            plain,
            (example,),
            str(path),
            input_names=["picture"],
            output_names=["logits"],
            dynamic_axes={"picture": {0: "batch", 2: "height", 3: "width"}, "logits": free},
            opset_version=opset,
            dynamo=False,
        )
    return path
