"""Equivariant deep learning on tissue images: groups, kernels, layers, networks and data.

What most work begins with is here by name; the rooms hold the rest. From the ground up: ``groups``,
``metrics``, ``losses``; ``kernels``, ``equivariance``, ``data``; ``nn``; ``models``; ``train``, ``segment``;
``experiments``, ``viz``.

>>> import torch, equipath
>>> net = equipath.GUNet(3, 2, width=2, depth=2).double().eval()  # p4m: quarter turns and mirrors
>>> tissue = torch.rand(1, 3, 64, 64, dtype=torch.float64)
>>> turned = equipath.RotoReflection(5)  # mirror, then a quarter turn
>>> equipath.equivariance_error(net, tissue, turned) < 1e-20
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Each name and the module that has it. Looked up on first use, so that `import equipath` and the command
# line start without loading torch.
_HOMES = {
    "export": "equipath.nn.export",
    "export_onnx": "equipath.nn.export",
    "P4": "equipath.groups",
    "P4M": "equipath.groups",
    "equivariance_error": "equipath.equivariance",
    "stability_map": "equipath.equivariance",
    "Reflection": "equipath.equivariance",
    "Rotation": "equipath.equivariance",
    "RotoReflection": "equipath.equivariance",
    "Scaling": "equipath.equivariance",
    "Shift": "equipath.equivariance",
    "TestTimeAverage": "equipath.models.tta",
    "UNet": "equipath.models.unet",
    "GUNet": "equipath.models.gunet",
    "DenseNet": "equipath.models.densenet",
    "P4DenseNet": "equipath.models.densenet",
    "P4MDenseNet": "equipath.models.densenet",
    "ResNet18": "equipath.models.resnet",
    "SREResNet18": "equipath.models.resnet",
    "SEUNet": "equipath.models.seunet",
    "SteerableUNet": "equipath.models.steerable_unet",
}

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from equipath.equivariance import (
        Reflection,
        Rotation,
        RotoReflection,
        Scaling,
        Shift,
        equivariance_error,
        stability_map,
    )
    from equipath.groups import P4, P4M
    from equipath.models.densenet import DenseNet, P4DenseNet, P4MDenseNet
    from equipath.models.gunet import GUNet
    from equipath.models.resnet import ResNet18, SREResNet18
    from equipath.models.seunet import SEUNet
    from equipath.models.steerable_unet import SteerableUNet
    from equipath.models.tta import TestTimeAverage
    from equipath.models.unet import UNet
    from equipath.nn.export import export, export_onnx

__all__ = [
    "P4",
    "P4M",
    "DenseNet",
    "GUNet",
    "P4DenseNet",
    "P4MDenseNet",
    "Reflection",
    "ResNet18",
    "Rotation",
    "RotoReflection",
    "SEUNet",
    "SREResNet18",
    "Scaling",
    "Shift",
    "SteerableUNet",
    "TestTimeAverage",
    "UNet",
    "equivariance_error",
    "export",
    "export_onnx",
    "stability_map",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'equipath' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
