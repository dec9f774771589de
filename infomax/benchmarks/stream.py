"""The default estimator on a stream of pairs, whose law may change: what it is made of, learnt as pairs pass by."""

from typing import Any

import torch
from torch import Tensor

from infomax.benchmarks.stacked import matrices
from infomax.critics import Separable
from infomax.estimation import fitting
from infomax.estimation.copula import NormalScores, elliptical
from infomax.objectives import JSPlugin

WINDOW = 16_384  # latest pairs: normal scores and copula know no others, so a law that changed is forgotten
EVERY = 250  # steps from one copula to the next
JUDGED = 1024  # pairs of the window that say which copulas count
REPLAYED = 192  # pairs of the window that train the residual beside each new batch


class Stream:
    """Normal scores and a copula from the latest pairs, and a residual trained by JS: `read`, then `learn`, each batch.

    A second copula, between the columns' absolute values, sees dependence whose sign varies (a mixture of channels is
    uncorrelated). One, the other or their sum is the base, as a quarter of the window says that the others did not fit.

    What `read` says of a batch rests on earlier ones alone. The residual counts where, since the last copula, it
    raised the JS bound of batches that it had not learnt from, by more than one standard error. Draws from torch's
    CPU generator.
    """

    def __init__(self, columns: int, learning_rate: float = 5e-4):
        self.window = torch.empty(0, columns), torch.empty(0, columns)
        self.residual = Separable(columns, columns, out=64)
        fitting.silence(self.residual)
        self.optimizer = torch.optim.Adam(self.residual.parameters(), lr=learning_rate, fused=True)
        self.objective, self.steps, self.open = JSPlugin(), 0, False
        self.gains: list[float] = []
        self.maps: tuple[NormalScores, NormalScores] | None = None
        self.bases: list[tuple[bool, Any]] = []  # whether of absolute values, and the copula

    @torch.no_grad()
    def read(self, x: Tensor, y: Tensor) -> float:
        """The plug-in value of a batch x, y [n, d], in nats; 0 before there is a copula."""
        if self.maps is None:
            return 0.0
        u, v = self._mapped(x, y)
        base = self._base(u, v)
        both = base + self.residual(u, v)
        one, two = matrices(torch.stack([base, both]))
        self.gains.append(float(self.objective.surrogate(two) - self.objective.surrogate(one)))
        return float((both if self.open else base).diagonal().mean())

    def learn(self, x: Tensor, y: Tensor) -> None:
        """Takes a batch in."""
        self.steps += 1
        if self.maps is not None:
            again = torch.randint(len(self.window[0]), (REPLAYED,))
            u, v = self._mapped(*(torch.cat([new, old[again]]) for new, old in zip((x, y), self.window, strict=True)))
            with torch.no_grad():
                base = self._base(u, v)
            loss = -self.objective.surrogate(matrices((base + self.residual(u, v))[None])[0])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.window = tuple(torch.cat([old, new])[-WINDOW:] for old, new in zip(self.window, (x, y), strict=True))  # type: ignore[assignment]
        if self.steps % EVERY == 0 or self.steps in (4, 16, 64):
            self._refresh()

    def _refresh(self) -> None:
        # 4 batches are too few to hold some out: the first copula lasts for 12 steps.
        x, y = self.window
        self.maps = NormalScores(x), NormalScores(y)
        u, v = self._mapped(x, y)
        order = torch.randperm(len(u))
        select, fit = order[: len(u) // 4], order[len(u) // 4 :]
        self.folds = NormalScores(u.abs()), NormalScores(v.abs())
        plain = elliptical(u[fit], v[fit], u[select], v[select])
        a, b = self._folded(u, v)
        folded = elliptical(a[fit], b[fit], a[select], b[select])
        judged = select[:JUDGED]
        best = -torch.inf
        with torch.no_grad():
            for bases in ([(False, plain)], [(True, folded)], [(False, plain), (True, folded)]):
                s = self._base(u[judged], v[judged], bases)
                value = float(self.objective.surrogate(matrices(s[None])[0]))
                if value > best:
                    best, self.bases = value, bases
        if self.gains:
            gains = torch.tensor(self.gains)
            self.open = bool(gains.mean() > gains.std() / len(gains) ** 0.5)
            self.gains = []

    def _mapped(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert self.maps is not None
        return self.maps[0](x), self.maps[1](y)

    def _folded(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.folds[0](u.abs()), self.folds[1](v.abs())

    def _base(self, u: Tensor, v: Tensor, bases: list[tuple[bool, Any]] | None = None) -> Tensor:
        total = u.new_zeros(len(u), len(v))
        for folded, copula in self.bases if bases is None else bases:
            total = total + copula.score(*copula.embed(*(self._folded(u, v) if folded else (u, v))))
        return total
