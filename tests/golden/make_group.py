"""Make `group.npz`: numbers of e2cnn for the p4 and p4m layers, and its kernels for scalar and vector fields.

Run in the course environment (e2cnn 0.2.3, numpy 1.26):

    python tests/golden/make_group.py

e2cnn numbers the planes of a regular field its own way. ``order`` says which element of ours moves its plane 0
into its plane j, found from its own expanded filters; what is stored is e2cnn's, in e2cnn's order.
"""

import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from e2cnn import gspaces
from e2cnn import nn as enn

from equipath.groups import group

OPTIONS = {"bias": False, "initialize": False}


def convolution(space, first, second, k: int):
    layer = enn.R2Conv(
        enn.FieldType(space, first), enn.FieldType(space, second), k, padding=k // 2, **OPTIONS
    )
    layer = layer.double()
    torch.nn.init.normal_(layer.weights)
    return layer


def regular(name: str, k: int) -> dict[str, np.ndarray]:
    ours, key = group(name), f"{name}.{k}"
    space = gspaces.Rot2dOnR2(4) if name == "p4" else gspaces.FlipRot2dOnR2(4)
    lifting = convolution(space, [space.trivial_repr] * 2, [space.regular_repr] * 3, k)
    hidden = convolution(space, [space.regular_repr] * 3, [space.regular_repr] * 2, k)
    head = convolution(space, [space.regular_repr] * 2, [space.trivial_repr] * 2, k)
    x = torch.randn(2, 2, 7, 9, dtype=torch.float64)
    out = {f"{key}.x": x}
    field = enn.GeometricTensor(x, lifting.in_type)
    for step, layer in (("lifting", lifting), ("group", hidden), ("head", head)):
        filters, _ = layer.expand_parameters()
        field = layer(enn.GeometricTensor(field.tensor, layer.in_type))
        out |= {f"{key}.{step}.filters": filters, f"{key}.{step}.y": field.tensor}
    planes = out[f"{key}.lifting.filters"].view(3, ours.order, 2, k, k)
    order = [
        next(
            g for g in range(ours.order) if torch.allclose(planes[:, j], ours.act(planes[:, 0], g), atol=1e-7)
        )
        for j in range(ours.order)
    ]
    assert sorted(order) == list(range(ours.order))
    return {label: t.detach().numpy() for label, t in out.items()} | {f"{key}.order": np.array(order)}


def steerable(reflections: bool, k: int) -> dict[str, np.ndarray]:
    # axis 0: the reflection is then the mirror that acts on the plane, as for arrows
    space = gspaces.FlipRot2dOnR2(-1, 2, axis=0.0) if reflections else gspaces.Rot2dOnR2(-1, 2)
    fields = [space.trivial_repr, space.irrep(1, 1) if reflections else space.irrep(1)]
    name, out = "O(2)" if reflections else "SO(2)", {}
    for i, source in enumerate(fields):
        for j, target in enumerate(fields):
            layer = enn.R2Conv(
                enn.FieldType(space, [source]), enn.FieldType(space, [target]), k,
                frequencies_cutoff=lambda r: 2 if r > 0 else 0, **OPTIONS,
            )  # fmt: skip
            kernels = [layer.basisexpansion(w).detach() for w in torch.eye(layer.weights.numel())]
            kinds = ("scalar", "vector")
            out[f"{name}.{k}.{kinds[i]}.{kinds[j]}"] = torch.stack(kernels).double().flatten(1).numpy()
    return out


def main() -> None:
    torch.manual_seed(0)
    versions = [f"{name} {version(name)}" for name in ("e2cnn", "torch", "numpy")]
    out: dict[str, np.ndarray] = {"versions": np.array(versions)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uint8 masks and an old name of numpy's
        for name in ("p4", "p4m"):
            for k in (3, 5):
                out |= regular(name, k)
        for reflections in (True, False):
            for k in (5, 7):  # on 3x3, e2cnn fails with a basis of one kernel on this torch
                out |= steerable(reflections, k)
    np.savez_compressed(Path(__file__).with_name("group.npz"), **out)


if __name__ == "__main__":
    main()
