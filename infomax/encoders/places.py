"""Encoders of signals whose places are features too, one place after another: what CPC predicts."""

import itertools
import math
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from infomax.errors import UserError
from infomax.spelling import Spelled


@final
class StridedConv1d(Spelled, nn.Module):
    """Signals [n, channels, time] -> features [n, width], the mean over places; places() gives each place's own.

    channels: of the signals. width: features of a place. strides: of each convolution, times or places; their product
    is the distance of two places, in times. A convolution of stride s reads 2 s - 1, so that a place sees little more
    than its own stretch. Layer normalisation is of each place alone, so that none knows of later ones. (after van den
    Oord et al., 2018) Raises UserError: sizes below 1.
    """

    def __init__(self, channels: int, width: int = 64, strides: Sequence[int] = (4, 2)) -> None:
        super().__init__()
        strides = tuple(strides)
        if not strides or not all(isinstance(size, int) and size >= 1 for size in (channels, width, *strides)):
            raise UserError(
                "StridedConv1d's channels, width and strides, one or more, are whole numbers of at least 1, not"
                f" {channels!r}, {width!r} and {strides!r}."
            )
        self.channels, self.width, self.strides = channels, width, strides
        self.num_features, self.stride = width, math.prod(strides)
        widths = [channels] + [width] * len(strides)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 2 * s - 1, s, padding=s - 1)
            for s, (a, b) in zip(strides, itertools.pairwise(widths), strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in strides)
        self.head = nn.Linear(width, width)

    def places(self, signals: Tensor) -> Tensor:
        """signals [n, channels, time] -> [n, places, width], time / stride places, rounded up. Raises UserError: other
        shapes."""
        if signals.ndim != 3 or signals.shape[1] != self.channels:
            raise UserError(
                f"This StridedConv1d takes signals [n, {self.channels}, time], and these are {list(signals.shape)}."
            )
        x = signals
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x).transpose(1, 2)).relu().transpose(1, 2)
        return self.head(x.transpose(1, 2))

    def forward(self, signals: Tensor) -> Tensor:
        """signals [n, channels, time] -> [n, width]. Raises UserError: as places() does."""
        return self.places(signals).mean(1)
