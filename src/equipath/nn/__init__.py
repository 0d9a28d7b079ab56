"""The layers, as torch modules."""
