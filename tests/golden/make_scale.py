"""Make `scale.npz`: numbers of the public SESN and DISCO code for the Hermite and the dilated layers.

Run with torch, numpy and a checkout of each repository (both MIT), which name their modules alike and so are
imported one after the other:

    python tests/golden/make_scale.py path/to/sesn path/to/disco

github.com/ISosnovik/sesn at deaa16c73ed28fc1e1ced9a8e39892f4ee8bf9ac, github.com/ISosnovik/disco at
f832fa0636caae59d4fc693e48582a06006e189d. SESN's basis of type B with effective size 4 has 16 functions: the
15 of total order at most 4, and one of a narrower Gaussian, whose weight is set to zero here.
"""

import contextlib
import importlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

SCALES = [1.0, 2.0, 3.0, 4.0, 5.0]


def load(folder: str, module: str):
    for name in [n for n in sys.modules if n == "models" or n.startswith("models.")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)


def commit(folder: str) -> str:
    return subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def sesn(folder: str) -> dict[str, np.ndarray]:
    code = load(folder, "models.impl.ses_conv")
    size = {"kernel_size": 11, "effective_size": 4, "scales": SCALES, "padding": 5, "bias": True}
    first = code.SESConv_Z2_H(3, 4, **size, basis_type="B")
    hidden = code.SESConv_H_H(4, 3, 1, **size, basis_type="B")
    out = {"sesn.basis": first.basis[:15].numpy()}
    x = torch.randn(2, 3, 13, 16)
    for name, layer in (("lift", first), ("hidden", hidden)):
        with torch.no_grad():
            layer.weight[..., 15] = 0
            layer.bias.normal_()
            y = layer(x)
        out |= {f"sesn.{name}.weight": layer.weight.detach()[..., :15].numpy().squeeze()}
        out |= {f"sesn.{name}.bias": layer.bias.detach().numpy()}
        out |= {f"sesn.{name}.x": x.numpy(), f"sesn.{name}.y": y.numpy()}
        x = y  # the hidden layer goes on from the first
    return out


def disco(folder: str) -> dict[str, np.ndarray]:
    basis = load(folder, "models.basis.disco")
    code = load(folder, "models.ses_conv")
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        # At whole scales nothing is trained: the authors' proxy basis is dilated unit filters.
        proxy = basis.ApproximateProxyBasis(size=11, scales=SCALES, effective_size=3)
        torch.save(proxy.get_basis(), Path(scratch) / basis.get_basis_filename(11, 3, SCALES))
        size = {"kernel_size": 11, "effective_size": 3, "scales": SCALES, "padding": 5, "bias": True}
        options = {"basis_type": "disco_a", "basis_save_dir": scratch, "basis_min_scale": 1.9}
        first = code.SESConv_Z2_H(3, 4, **size, **options)
        hidden = code.SESConv_H_H(4, 3, 1, **size, **options)
    out = {"disco.basis": first.basis.basis[:, 0, 4:7, 4:7].numpy()}
    x = torch.randn(2, 3, 13, 16)
    for name, layer in (("lift", first), ("hidden", hidden)):
        with torch.no_grad():
            layer.bias.normal_()
            y = layer(x)
        out |= {f"disco.{name}.weight": layer.weight.detach().numpy().squeeze()}
        out |= {f"disco.{name}.bias": layer.bias.detach().numpy()}
        out |= {f"disco.{name}.x": x.numpy(), f"disco.{name}.y": y.numpy()}
        x = y  # the hidden layer goes on from the first
    return out


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        out = sesn(sys.argv[1]) | disco(sys.argv[2])
    versions = [f"sesn {commit(sys.argv[1])}", f"disco {commit(sys.argv[2])}", f"torch {torch.__version__}"]
    np.savez_compressed(Path(__file__).with_name("scale.npz"), versions=np.array(versions), **out)


if __name__ == "__main__":
    main()
