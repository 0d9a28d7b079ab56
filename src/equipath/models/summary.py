"""What one asks a network before using it: parameters, receptive field, sizes, how its output moves."""

from dataclasses import dataclass

from torch import nn

from equipath.nn.sizes import SizeContract


@dataclass(frozen=True)
class Summary:
    """The facts about a network; ``print(model.summary())`` shows them in five lines.

    Attributes:
        parameters: trainable numbers.
        receptive_field: the side, in input pixels, of the square that can influence one output pixel; for a
            network with one answer a picture, one pixel of the last maps before they are pooled.
        sizes: valid heights and widths.
        output_field: how the output moves when the input moves ("planar", "invariant", …).
        equivariant_to: the symmetries that are exact by construction.
    """

    name: str
    parameters: int
    receptive_field: int
    sizes: SizeContract
    output_field: str
    equivariant_to: str

    def __str__(self) -> str:
        return "\n".join(
            [
                self.name,
                f"  parameters       {self.parameters:,}",
                f"  receptive field  {self.receptive_field} pixels",
                f"  picture sizes    {self.sizes}",
                f"  output           {self.output_field} field",
                f"  equivariant to   {self.equivariant_to}",
            ]
        )


def count_parameters(model: nn.Module) -> int:
    """The number of trainable numbers in a module."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
