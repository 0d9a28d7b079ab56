"""Equivariant deep learning on tissue images: groups, kernels, layers, networks and data."""
