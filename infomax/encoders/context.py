"""Context networks for CPC: they read a sequence of features causally, from its start."""

from typing import final

from torch import Tensor, nn

from infomax.errors import UserError
from infomax.spelling import Spelled


@final
class CausalGRU(Spelled, nn.Module):
    """Features [n, t, in_features] -> contexts [n, t, out], each of what came up to it: a gated recurrent unit.

    in_features: of each place. out: of each context. layers: of the unit. (Cho et al., 2014) Raises UserError: sizes
    that are no positive whole numbers.
    """

    def __init__(self, in_features: int, out: int = 256, layers: int = 1) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out", out), ("layers", layers)):
            if not isinstance(size, int) or size < 1:
                raise UserError(f"A context network's {name} is a whole number of at least 1, not {size!r}.")
        self.in_features, self.out, self.layers = in_features, out, layers
        self.unit = nn.GRU(in_features, out, layers, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """features [n, t, in_features] -> [n, t, out]. Raises UserError: features of another width."""
        if features.shape[-1] != self.in_features:
            raise UserError(
                f"CausalGRU was made for {self.in_features} features a place, and is given {features.shape[-1]}: make"
                f" it of in_features={features.shape[-1]}."
            )
        return self.unit(features)[0]
