"""Estimators that follow a stream of pairs, whose law may change: what they are made of is learnt as pairs pass by.

`read` gives the value of a batch x, y [n, d] in nats, which rests on earlier batches alone (0 before there is anything
to read with); `learn` then takes in the batch that was read last. Both draw from torch's CPU generator.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from infomax.benchmarks.stacked import matrices
from infomax.estimation.bases.base import base_of
from infomax.estimation.bases.gains import is_gain
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.bases.student import elliptical
from infomax.estimation.estimators import generative, residuals
from infomax.estimation.pairs import Pairs
from infomax.objectives import Anchor

WINDOW = 16_384  # latest pairs: normal scores and copulas know no others, so a law that changed is forgotten
EVERY = 500  # steps from one copula to the next
EARLY = (4, 16, 64, 250)  # steps of the first ones
JUDGED = 1024  # pairs of the window that say which copulas count
REPLAYED = 320  # pairs of the window that train the residual beside each new batch
RATE, DECAY = 2e-3, 1e-2  # of the residual
KEPT = 0.99  # of the averaged residual at each step
HEARD = 16  # batches since the last copula that say whether the residual counts; before, what was said last holds
NU = 64.0  # Anchor's: at 1, log r keeps too high a constant for a long time; at 512, little is learnt at 10 nats
HIDDEN, LAYERS, OUT = 128, 2, 64
MAF = generative.BarberAgakov(density="MAF")


class Latest:
    """The latest WINDOW rows of some tensors [n, ...] that belong together."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.taken = 0

    def __len__(self) -> int:
        return min(self.taken, WINDOW)

    def take(self, new: list[Tensor]) -> None:
        if not self.rows:
            self.rows = [t.new_empty(WINDOW, *t.shape[1:]) for t in new]
        at = (self.taken + torch.arange(len(new[0]))) % WINDOW
        for kept, t in zip(self.rows, new, strict=True):
            kept[at] = t
        self.taken += len(at)

    def all(self) -> list[Tensor]:
        return [t[: len(self)] for t in self.rows]

    def beside(self, new: list[Tensor], number: int) -> list[Tensor]:
        """New rows, and after them so many old ones, drawn with replacement."""
        at = torch.randint(len(self), (number,))
        return [torch.cat([t, kept[at]]) for t, kept in zip(new, self.rows, strict=True)]


class Follower(ABC):
    """What makes itself anew from the latest pairs, now and then."""

    def __init__(self) -> None:
        self.pairs, self.steps = Latest(), 0

    @abstractmethod
    def read(self, x: Tensor, y: Tensor) -> float:
        """The value of a batch, by what earlier ones taught."""

    def learn(self, x: Tensor, y: Tensor) -> None:
        self.steps += 1
        self.pairs.take([x, y])
        if self.steps % EVERY == 0 or self.steps in EARLY:
            x, y = self.pairs.all()
            # 4 batches are too few to hold some out: what they give lasts for 12 steps.
            order = torch.randperm(len(x))
            fit, select = (Pairs(x[i], y[i], i) for i in (order[len(x) // 4 :], order[: len(x) // 4]))
            self._refresh(fit, select)

    @abstractmethod
    def _refresh(self, fit: Pairs, select: Pairs) -> None:
        """Makes itself anew from the window's pairs, three quarters of them and the rest."""


class Copula(Follower):
    """The Gaussian copula of the latest pairs' normal scores, in closed form."""

    copula: GaussianCopula | None = None

    def read(self, x: Tensor, y: Tensor) -> float:
        if self.copula is None:
            return 0.0
        return float(self.copula.pair(*self.copula.embed(self.maps[0](x), self.maps[1](y))).mean())

    def _refresh(self, fit: Pairs, select: Pairs) -> None:
        f, g = self.maps = NormalScores(fit.x), NormalScores(fit.y)
        self.copula = GaussianCopula(f(fit.x), g(fit.y), f(select.x), g(select.y))


class Flow(Follower):
    """Barber & Agakov's value by flows of normal scores, which learn by the likelihood of each batch."""

    def __init__(self, columns: int, rate: float):
        super().__init__()
        none = torch.empty(0, columns)
        self.model = MAF._model(Pairs(none, none, torch.arange(0)))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=generative.RATE * rate)
        self.maps: tuple[NormalScores, NormalScores] | None = None

    @torch.no_grad()
    def read(self, x: Tensor, y: Tensor) -> float:
        if self.maps is None:
            return 0.0
        return float(self.model.pair(*self.model.embed(self.maps[0](x), self.maps[1](y))).mean())

    def learn(self, x: Tensor, y: Tensor) -> None:
        if self.maps is not None:
            u, v = self.maps[0](x), self.maps[1](y)
            self.optimizer.zero_grad()
            (-self.model.pairs(u, v) - self.model.of_y(v, v)).mean().backward()
            self.optimizer.step()
        super().learn(x, y)

    def _refresh(self, fit: Pairs, select: Pairs) -> None:
        self.maps = NormalScores(fit.x), NormalScores(fit.y)


class Folded:
    """Normal scores of the absolute values of normal scores: dependence whose sign varies shows in them."""

    def __init__(self, fit: Tensor):
        self.plain = NormalScores(fit)
        self.folded = NormalScores(self.plain(fit).abs())

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        plain = self.plain(t)
        return plain, self.folded(plain.abs())


class Stream(Follower):
    """The default estimator: copulas of the latest pairs, and a residual that learns from batches and their window.

    The library's own base (normal scores of columns or of independent components, a Gaussian copula or Student's); a
    copula of the columns' absolute values, which sees dependence whose sign varies (a mixture of channels is
    uncorrelated); or the sum of both: as a quarter of the window says, which the others did not fit. The residual
    <g(x), h(y)> reads normal scores, those of absolute values too where their copula counts. It learns by Anchor,
    whose optimum is log r as Jensen-Shannon's is, and whose gradient is larger at 10 nats: it comes from pairs below
    the logarithm of a batch, one in ten, and the other one's from pairs below 0, two in a thousand. Its averaged
    weights are read, and count where, since the last copula, they raised Anchor's bound on batches that they had not
    learnt from, by more than one standard error: what they learnt beside one copula may be wrong beside the next.
    """

    def __init__(self, columns: int):
        super().__init__()
        self.residual = _residual(columns)
        self.average = deepcopy(self.residual).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.residual.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        self.columns = residuals.Columns(torch.ones(columns))
        self.objective, self.open = Anchor(nu=NU), False
        self.gains: list[float] = []
        self.copulas: dict[str, Any] = {}

    @torch.no_grad()
    def read(self, x: Tensor, y: Tensor) -> float:
        if not self.copulas:
            return 0.0
        self.new = self._embedded(x, y)
        base = self._base(self.new)
        both = base + self.average.score(*self.average.embed(*self.new[:2]))
        self.gain = self._bound(both) - self._bound(base)
        return float((both if self.open else base).diagonal().mean())

    def learn(self, x: Tensor, y: Tensor) -> None:
        if self.copulas:
            self.gains.append(self.gain)
            if len(self.gains) >= HEARD:
                self.open = is_gain(torch.tensor(self.gains))
            batch = self.embedded.beside(self.new, REPLAYED)
            with torch.no_grad():
                base = self._base(batch)
            s = base + self.residual.score(*self.residual.embed(*batch[:2]))
            self.optimizer.zero_grad()
            (-self.objective.surrogate(matrices(s[None])[0])).backward()
            self.optimizer.step()
            with torch.no_grad():
                for kept, p in zip(self.average.parameters(), self.residual.parameters(), strict=True):
                    kept.lerp_(p, 1 - KEPT)
            self.embedded.take(self.new)
        super().learn(x, y)

    @torch.no_grad()
    def _refresh(self, fit: Pairs, select: Pairs) -> None:
        base = base_of(fit, select, seed=0)
        self.maps, self.folds = base.maps, (Folded(fit.x), Folded(fit.y))
        (_, a), (_, b), (_, c), (_, d) = (
            f(side) for part in (fit, select) for f, side in zip(self.folds, (part.x, part.y), strict=True)
        )
        plain, folded = {"plain": base.copula}, {"folded": elliptical(a, b, c, d)}
        judged = select.first(JUDGED)
        values: list[float] = []
        options = (plain, folded, plain | folded)
        for self.copulas in options:
            values.append(self._bound(self._base(self._embedded(judged.x, judged.y))))
        self.copulas = options[values.index(max(values))]
        self.embedded = Latest()
        self.embedded.take(self._embedded(*self.pairs.all()))
        self.gains = []

    def _embedded(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """All that scores are made of: the residual's features of both sides, then each copula's."""
        (u, a), (v, b) = self.folds[0](x), self.folds[1](y)
        counts = float("folded" in self.copulas)
        found = [torch.cat([self.columns(u), counts * a], 1), torch.cat([self.columns(v), counts * b], 1)]
        for name, copula in self.copulas.items():
            found += copula.embed(a, b) if name == "folded" else copula.embed(self.maps[0](x), self.maps[1](y))
        return found

    def _base(self, embedded: list[Tensor]) -> Tensor:
        sides = zip(embedded[2::2], embedded[3::2], strict=True)
        return torch.stack([c.score(*e) for c, e in zip(self.copulas.values(), sides, strict=True)]).sum(0)

    def _bound(self, s: Tensor) -> float:
        return float(self.objective.surrogate(matrices(s[None])[0]))


def _residual(columns: int) -> residuals.Residual:
    sizes = (2 * columns + (columns > 1), *[HIDDEN] * LAYERS, OUT)
    g, h = (residuals.Stack(1, sizes, silent=silent).fold(0) for silent in (False, True))
    same: Any = nn.Identity()  # features come from `_embedded`
    return residuals.Residual((same, same), g, h, torch.zeros(1))
