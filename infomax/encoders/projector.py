"""The projector: what follows an encoder while it is trained."""

from typing import final

import torch
from torch import nn

from infomax.errors import UserError


@final
class Projector(nn.Module):
    """Linear - norm - ReLU - Linear: [n, in_features] -> [n, out]. (Chen et al., 2020)

    in_features, hidden, out: the widths. norm: "batch" normalises over the batch, "layer" over each row, which does not
    see the batch. Raises UserError for a width below 1 or another norm.
    """

    def __init__(self, in_features: int, hidden: int = 512, out: int = 128, norm: str = "batch") -> None:
        super().__init__()
        for what, width in (("in_features", in_features), ("hidden", hidden), ("out", out)):
            if not isinstance(width, int) or width < 1:
                raise UserError(f"A projector's {what} is a whole number of at least 1, not {width!r}.")
        if norm not in ("batch", "layer"):
            raise UserError(f"A projector's norm is 'batch' or 'layer', not {norm!r}.")
        self.in_features, self.hidden, self.out, self.norm = in_features, hidden, out, norm
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden, bias=False),  # the norm's own bias follows
            nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [n, in_features] -> [n, out]."""
        return self.layers(features)

    def __repr__(self) -> str:
        norm = "" if self.norm == "batch" else f", norm={self.norm!r}"
        return f"Projector({self.in_features}, hidden={self.hidden}, out={self.out}{norm})"
