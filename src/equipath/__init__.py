"""Equivariant deep learning on tissue images: groups, kernels, layers, networks and data.

The rooms, from the ground up: ``groups``, ``metrics``, ``losses``; ``kernels``, ``equivariance``, ``data``;
``nn``; ``models``; ``train``, ``segment``; ``experiments``. ``equipath.export`` turns a network into plain
torch.
"""

from typing import Any

__all__ = ["export", "export_onnx"]


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that `import equipath` and the command line start without loading torch.
    if name in __all__:
        import equipath.nn.export

        return getattr(equipath.nn.export, name)
    raise AttributeError(f"module 'equipath' has no attribute {name!r}")
