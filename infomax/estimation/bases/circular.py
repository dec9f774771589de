"""A base for two angles, each a side of (cos, sin): log r of their copula on the torus, by kernels that wrap around.

Normal scores of a cosine and a sine are no coordinates of an angle: the one is no function of the other, and nearly so.
(Copulas of angles that depend by their difference or sum: Jones, Pewsey & Kato, 2015; kernels of order 4 by their
Fourier transform: Wand & Jones, 1995)
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infomax.critics import InnerProduct
from infomax.estimation.bases.gains import is_gain, standard_error
from infomax.estimation.critic import ClosedForm
from infomax.estimation.pairs.circle import angle

BANDWIDTHS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 1.1, math.inf)  # radians; inf: all is alike
FREQUENCIES = 48  # at most, of each angle
READ = 2000  # rows whose likelihood chooses a bandwidth
HIGHEST = 3.0  # nats, above which widths and frequencies are too few
FINE = 3.0  # knots of the table a bandwidth
KNOTS = (64, 256)  # of the table, an angle
CERTAIN = 2.0  # standard errors by which the fit rows have to be likelier, as the best of many widths is by luck
ACCURACY = 0.01  # nat: root mean square of what the table and the inner product that stands for it are apart


class Turned:
    """(cos, sin) of an angle to those of its rank around the circle, times sqrt(2): mean 0 and deviation 1. By the rows
    that it is made from; between two of them, linearly."""

    def __init__(self, fit: Tensor):
        values, counts = np.unique(angle(fit), return_counts=True)
        ranks = 2 * math.pi * (np.cumsum(counts) - counts / 2) / len(fit)
        self.angles = np.concatenate([values[-1:] - 2 * math.pi, values, values[:1] + 2 * math.pi])
        self.ranks = np.concatenate([ranks[-1:] - 2 * math.pi, ranks, ranks[:1] + 2 * math.pi])

    def __call__(self, t: Tensor) -> Tensor:
        return _point(np.interp(angle(t), self.angles, self.ranks))


class Unturned:
    """(cos, sin) of an angle as they are, times sqrt(2)."""

    def __call__(self, t: Tensor) -> Tensor:
        return _point(angle(t))


def _point(u: np.ndarray) -> Tensor:
    return torch.from_numpy((math.sqrt(2) * np.stack([np.cos(u), np.sin(u)], 1)).astype(np.float32))


@dataclass(frozen=True)
class _Best:
    """The likeliest density that was tried: the rows' mean log-ratio and its standard error, its bandwidths, and the
    kernel's order."""

    value: float
    stderr: float
    h: tuple[float, float]
    order: int


class CircularCopula(InnerProduct, ClosedForm):
    """log r of two angles, mapped by `Turned`, x [n, 2] and y [n, 2], as an inner product of a table's factors.

    Kernels have a width along the sum of the angles and one along their difference; either may be infinite, so that
    only the other counts. The fit rows' likelihood chooses, each row left out of its own density. It is zero where fit
    rows are not likelier by two standard errors, or select rows by one.
    """

    share_read = 1.0
    left: Tensor  # [knots, rank]
    right: Tensor

    def __init__(self, fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor):
        super().__init__()
        density = _Series(angle(fit_x), angle(fit_y))
        self.likelihood = density.best.value  # nats
        left, right = density.factors()
        self.register_buffer("left", left)
        self.register_buffer("right", right)
        self.strength = 1.0
        ex, ey = self.embed(select_x, select_y)
        certain = density.best.value > CERTAIN * density.best.stderr
        if not (certain and is_gain((ex * ey).sum(1))):
            self.strength = 0.0
            self.left, self.right = 0 * left[:, :1], 0 * right[:, :1]

    @property
    def at_ceiling(self) -> bool:
        return self.strength > 0 and self.likelihood > HIGHEST

    @property
    def features(self) -> int:
        return self.left.shape[1]

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _around(self.left, x), _around(self.right, y)


def _around(table: Tensor, t: Tensor) -> Tensor:
    """The table's rows [knots, rank] at the angles of (cos, sin) [n, 2], linearly between its knots."""
    knots = len(table)
    at = torch.atan2(t[:, 1], t[:, 0]).remainder(2 * math.pi) * (knots / (2 * math.pi))
    low = at.floor()
    index = low.long()
    return torch.lerp(table[index % knots], table[(index + 1) % knots], (at - low)[:, None])


class _Series:
    """Densities of two angles u, v [n] over those of uniform ones, by their Fourier series: p(v | u) by kernels, and
    p(v) by kernels of its own."""

    def __init__(self, u: np.ndarray, v: np.ndarray):
        self.n = len(u)
        self.k = np.arange(FREQUENCIES + 1)[:, None]  # of u; those below 0 are their conjugates
        self.m = np.arange(-FREQUENCIES, FREQUENCIES + 1)
        self.twice = np.where(self.k == 0, 1.0, 2.0)
        eu, ev = np.exp(-1j * u[:, None] * self.k.T), np.exp(-1j * v[:, None] * self.m)
        self.series = eu.T @ ev / self.n * self.twice
        self.rows = eu[:READ].conj(), ev[:READ].conj()
        self.alone, self.weights_alone = self._alone()
        self.tried: dict[tuple[tuple[float, float], int], tuple[float, float]] = {}
        finite = BANDWIDTHS[:-1]
        for order in (2, 4):
            for h in finite:
                for pair in ((h, h), (h, math.inf), (math.inf, h)):
                    self._attempt(pair, order)
        best = self.best
        while True:
            at = [BANDWIDTHS.index(h) for h in best.h]
            for i in range(max(0, at[0] - 1), min(len(BANDWIDTHS), at[0] + 2)):
                for j in range(max(0, at[1] - 1), min(len(BANDWIDTHS), at[1] + 2)):
                    self._attempt((BANDWIDTHS[i], BANDWIDTHS[j]), best.order)
            if self.best == best:
                break
            best = self.best

    @property
    def best(self) -> _Best:
        (h, order), value = max(self.tried.items(), key=lambda item: item[1])
        return _Best(*value, h, order)

    def _alone(self) -> tuple[np.ndarray, np.ndarray]:
        """log p(v) of the rows that are read, each left out, and what kernels leave of its terms, at the likeliest."""
        best, found = -math.inf, (np.zeros(0), np.zeros(0))
        for h in BANDWIDTHS:
            weights = _left(self.m.astype(float), h)
            weights = weights * (2 - weights)
            density = (self.rows[1] @ (weights * self.series[0])).real
            each = np.log(self._left_out(density, float(weights.sum())))
            if float(each.mean()) > best:
                best, found = float(each.mean()), (each, weights)
        return found

    def _left_out(self, density: np.ndarray, own: float) -> np.ndarray:
        rest = (density - own / self.n) * (self.n / (self.n - 1))
        return self._never_zero(rest)

    def _never_zero(self, density: np.ndarray) -> np.ndarray:
        """What none of n rows shows may be in one of n."""
        return (1 - 1 / self.n) * density.clip(min=0) + 1 / self.n

    def _weights(self, h: tuple[float, float], order: int) -> np.ndarray:
        """What kernels along the sum and the difference of the angles leave of each term of the series."""
        along = (self.k + self.m) / math.sqrt(2), (self.k - self.m) / math.sqrt(2)
        weights = _left(along[0], h[0]) * _left(along[1], h[1])
        return weights if order == 2 else weights * (2 - weights)

    def _attempt(self, h: tuple[float, float], order: int) -> None:
        if (h, order) in self.tried:
            return
        few = min(FREQUENCIES, math.ceil(3.5 / min(h)))
        some = slice(FREQUENCIES - few, FREQUENCIES + few + 1)
        weights = self._weights(h, order)[: few + 1, some] * self.twice[: few + 1]
        series = weights / self.twice[: few + 1] * self.series[: few + 1, some]
        eu, ev = self.rows[0][:, : few + 1], self.rows[1][:, some]
        both = self._left_out(((eu @ series) * ev).sum(1).real, float(weights.sum()))
        given = self._left_out((eu @ series[:, few]).real, float(weights[:, few].sum()))
        each = np.log(both / given) - self.alone
        self.tried[h, order] = float(each.mean()), standard_error(torch.from_numpy(each))

    def factors(self) -> tuple[Tensor, Tensor]:
        """left [knots, rank] and right: their product is the table of log r at knots of both angles."""
        best = self.best
        knots = int(np.clip(2 * math.pi * FINE / min(best.h), *KNOTS))
        points = 2 * math.pi * np.arange(knots) / knots
        eu, ev = np.exp(1j * points[:, None] * self.k.T), np.exp(1j * points[:, None] * self.m)
        series = self._weights(best.h, best.order) * self.series
        parts = (
            (eu @ series @ ev.T).real,
            (eu @ series[:, FREQUENCIES]).real,
            (ev @ (self.weights_alone * self.series[0])).real,
        )
        both, given, alone = (np.log(self._never_zero(part)) for part in parts)
        table = torch.from_numpy(both - given[:, None] - alone)
        values, right = torch.linalg.eigh(table.T @ table)
        lost = values.clamp(min=0).cumsum(0).sqrt() / knots
        right = right[:, -max(1, int((lost > ACCURACY).sum())) :]
        return (table @ right).float(), right.float()


def _left(frequency: np.ndarray, h: float) -> np.ndarray:
    """What a normal kernel of this width leaves of a term."""
    return (frequency == 0) * 1.0 if math.isinf(h) else np.exp(-0.5 * (frequency * h) ** 2)
