"""The networks by name: what the command line trains and takes up again.

A name stands for a class and the arguments that make it what the papers call by that name; everything else keeps
the class's defaults, except that pictures are padded to a valid size.
"""

from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

__all__ = ["NETWORKS", "Network", "build"]


class Network(NamedTuple):
    """Where a network's class is, the arguments that its name stands for, its task ("segment" or "classify") and
    what its width is called.
    """

    module: str
    cls: str
    options: dict[str, Any]
    task: str
    width: str


NETWORKS = {
    "unet": Network("unet", "UNet", {}, "segment", "width"),
    "p4_unet": Network("gunet", "GUNet", {"group": "p4"}, "segment", "width"),
    "p4m_unet": Network("gunet", "GUNet", {"group": "p4m"}, "segment", "width"),
    "steerable_unet": Network("steerable_unet", "SteerableUNet", {}, "segment", "scalars"),
    "seunet": Network("seunet", "SEUNet", {}, "segment", "width"),
    "sesn_unet": Network("seunet", "SESNUNet", {}, "segment", "width"),
    "disco_unet": Network("seunet", "DISCOUNet", {}, "segment", "width"),
    "densenet": Network("densenet", "DenseNet", {}, "classify", "growth"),
    "p4_densenet": Network("densenet", "P4DenseNet", {}, "classify", "growth"),
    "p4m_densenet": Network("densenet", "P4MDenseNet", {}, "classify", "growth"),
    "resnet18": Network("resnet", "ResNet18", {}, "classify", "width"),
    "sre_resnet18": Network("resnet", "SREResNet18", {}, "classify", "width"),
}
"""The networks that `equipath train` knows."""


def build(
    name: str, classes: int, width: int | None = None, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Make a network by its name.

    Args:
        name: a key of `NETWORKS`.
        classes: channels of the output, K logits.
        width: channels, fields or growth of the first block; the class's default for None.
        options: further arguments of the class.
    """
    if name not in NETWORKS:
        raise ValueError(f"got the network {name!r}; known are {', '.join(NETWORKS)}.")
    network = NETWORKS[name]
    cls = getattr(import_module(f"equipath.models.{network.module}"), network.cls)
    named = {} if width is None else {network.width: width}
    return cls(in_channels, classes, **({"pad_to_valid": True} | network.options | named | options))
