"""Encoders for data that are not images: rows of numbers, and sequences."""

import itertools
from typing import final

from torch import Tensor, nn

from infomax.errors import UserError
from infomax.spelling import Spelled


def _check(kind: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{kind}'s {name} is a whole number of at least 1, not {size!r}.")


@final
class MLP(Spelled, nn.Module):
    """Rows of numbers [n, ...] of in_features in all -> features [n, out], by so many hidden ReLU layers.

    in_features: numbers in a row. hidden: units of a hidden layer. out: features. layers: hidden layers. Layer
    normalisation follows each, so that no row's features depend on its batch. Raises UserError: sizes below 1.
    """

    def __init__(self, in_features: int, hidden: int = 256, out: int = 128, layers: int = 2) -> None:
        super().__init__()
        _check("MLP", in_features=in_features, hidden=hidden, out=out, layers=layers)
        self.in_features, self.hidden, self.out, self.layers = in_features, hidden, out, layers
        self.num_features = out
        widths = [in_features] + [hidden] * layers
        body = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU())]
        self.body = nn.Sequential(*body, nn.Linear(hidden, out))

    def forward(self, rows: Tensor) -> Tensor:
        """rows [n, ...] -> [n, out]. Raises UserError: rows of another number of numbers."""
        flat = rows.flatten(1).float()
        if flat.shape[1] != self.in_features:
            raise UserError(f"This MLP takes rows of {self.in_features} numbers, and these have {flat.shape[1]}.")
        return self.body(flat)


@final
class ResNet1d(Spelled, nn.Module):
    """Signals [n, channels, time] -> features [n, out]: a small residual network over time, averaged over all of it.

    channels: of the signals. width: of the first stage; each further one has twice the width at half the rate. stages:
    of one residual block each, after a stem of stride 2. Group normalisation, so
    that no signal's features depend on its batch. (after He et al., 2016) Raises UserError: sizes below 1.
    """

    def __init__(self, channels: int, width: int = 32, stages: int = 3) -> None:
        super().__init__()
        _check("ResNet1d", channels=channels, width=width, stages=stages)
        self.channels, self.width, self.stages = channels, width, stages
        widths = [width * 2**stage for stage in range(stages)]
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv1d(channels, width, 7, 2, padding=3, bias=False), nn.GroupNorm(1, width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in itertools.pairwise([width, *widths]))

    def forward(self, signals: Tensor) -> Tensor:
        """signals [n, channels, time] -> [n, num_features]. Raises UserError: other shapes."""
        if signals.ndim != 3 or signals.shape[1] != self.channels:
            raise UserError(
                f"This ResNet1d takes signals [n, {self.channels}, time], and these are {list(signals.shape)}."
            )
        x = self.stem(signals)
        for block in self.blocks:
            x = block(x)
        return x.mean(2)


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.branch = nn.Sequential(
            nn.Conv1d(before, after, 5, stride, padding=2, bias=False), nn.GroupNorm(1, after), nn.ReLU(),
            nn.Conv1d(after, after, 5, padding=2, bias=False), nn.GroupNorm(1, after),
        )  # fmt: skip
        self.way = nn.Identity() if stride == 1 else nn.Conv1d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.way(x) + self.branch(x))


@final
class Tokens(Spelled, nn.Module):
    """Texts as tokens [n, length] -> features [n, out]: embedded, two convolutions, the maximum over places.

    vocabulary: how many tokens there are, from 0, of which 0 is what follows the text. width: of a token. out:
    features. Raises UserError: sizes below 1.
    """

    def __init__(self, vocabulary: int, width: int = 64, out: int = 128) -> None:
        super().__init__()
        _check("Tokens", vocabulary=vocabulary, width=width, out=out)
        self.vocabulary, self.width, self.out = vocabulary, width, out
        self.num_features = out
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        self.body = nn.Sequential(
            nn.Conv1d(width, out, 5, padding=2), nn.GroupNorm(1, out), nn.ReLU(), nn.Conv1d(out, out, 3, padding=1)
        )

    def forward(self, texts: Tensor) -> Tensor:
        """texts [n, length], whole numbers -> [n, out]. Raises UserError: tokens that the vocabulary does not have."""
        if texts.ndim != 2 or texts.is_floating_point():
            raise UserError(f"Tokens takes whole numbers [n, length], not {texts.dtype} {list(texts.shape)}.")
        if texts.numel() and not 0 <= int(texts.min()) <= int(texts.max()) < self.vocabulary:
            raise UserError(f"Tokens lie in 0 .. {self.vocabulary - 1}, and these reach from {int(texts.min())} to "
                            f"{int(texts.max())}.")  # fmt: skip
        return self.body(self.table(texts).transpose(1, 2)).amax(2)


@final
class Times(Spelled, nn.Module):
    """Sequences [n, time, channels] -> features [n, time / stride, out] of each place, by two convolutions.

    channels: of the sequence. out: features of a place. stride: times between two places. Raises UserError: sizes
    below 1.
    """

    def __init__(self, channels: int, out: int = 64, stride: int = 4) -> None:
        super().__init__()
        _check("Times", channels=channels, out=out, stride=stride)
        self.channels, self.out, self.stride = channels, out, stride
        self.num_features = out
        self.body = nn.Sequential(
            nn.Conv1d(channels, out, 2 * stride - 1, stride, padding=stride - 1), nn.GroupNorm(1, out), nn.ReLU(),
            nn.Conv1d(out, out, 1),
        )  # fmt: skip

    def forward(self, sequences: Tensor) -> Tensor:
        """sequences [n, time, channels] -> [n, places, out]."""
        return self.body(sequences.transpose(1, 2).float()).transpose(1, 2)
