"""Make `sre.npz`: numbers of the public SRE-Conv package (1.0.2) for the ring layers and the whole ResNet.

Run in an environment of its own with torch, numpy, scipy and SRE-Conv 1.0.2 (it also imports torchvision and
torchio without declaring them; empty modules of these names suffice). Its transposed layer cannot be built
(arguments out of order in 1.0.2), so ours is checked as the adjoint of the convolution instead:

    python tests/golden/make_sre.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from SRE_Conv import SRE_Conv2d, sre_resnet18


def main() -> None:
    torch.manual_seed(0)
    out: dict[str, np.ndarray] = {
        "versions": np.array([f"SRE_Conv {version('SRE_Conv')}", f"torch {version('torch')}"])
    }
    for k in (3, 5, 7, 9, 11):
        layer = SRE_Conv2d(3, 4, k, padding=k // 2).double()
        x = torch.randn(2, 3, 13, 16, dtype=torch.float64)
        out |= {f"conv{k}.x": x.numpy(), f"conv{k}.y": layer(x).detach().numpy()}
        out |= {
            f"conv{k}.weight": layer.weight.detach().numpy(),
            f"conv{k}.bias": layer.bias.detach().numpy(),
        }

    # Small widths keep the file small; the skeleton and the stages' kernels are the paper's.
    net = sre_resnet18(
        num_classes=9, inplanes=4, sre_conv_size=[9, 9, 5, 5], skip_first_maxpool=True
    ).double()
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    net.train()
    net(x)  # moves the running statistics away from 0 and 1
    net.eval()
    out |= {"resnet.x": x.numpy(), "resnet.y": net(x).detach().numpy()}
    for name, value in net.state_dict().items():
        if "index_mat" not in name and "infer" not in name:
            out[f"resnet.state.{name}"] = value.numpy()
    np.savez_compressed(Path(__file__).with_name("sre.npz"), **out)


if __name__ == "__main__":
    main()
