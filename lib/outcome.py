"""What a finished Panning process found."""

from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from . import display
from . import masks as masking


@dataclass(frozen=True)
class PanResult:
    """What a finished process found.

    Attributes:
        masks: {parameter name: bool tensor}, in all exactly the number of weights asked for.
        effective: The same, of the effective weights only: train these.
        history: One row an iteration.
        sparsity: ρ of `masks`.
        effective_sparsity: ρ_e, of `effective`.
    """

    masks: dict[str, Tensor] = field(repr=False)
    effective: dict[str, Tensor] = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    sparsity: float
    effective_sparsity: float

    @property
    def layers(self) -> pd.DataFrame:
        """One row a layer: weights, kept and effective ones, and their fraction."""
        rows = {
            name: {
                "shape": "x".join(map(str, mask.shape)),
                "weights": mask.numel(),
                "kept": masking.count(mask),
                "effective": masking.count(self.effective[name]),
            }
            for name, mask in self.masks.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")
        return table.assign(density=table["effective"] / table["weights"])

    def _repr_html_(self) -> str:
        return display.layers(self.layers)
