"""A base for columns that go in pairs: beside a Gaussian copula of all columns, each pair's own copula, by kernels.

Columns that depend by a curve, by uneven noise or with either sign are no Gaussian copula, however they are mapped one
by one. Two columns alone need no network: their joint density is estimated from few hundred rows.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.critics import InnerProduct
from infomax.estimation.bases.gains import is_gain, is_no_loss, rolled_scores
from infomax.estimation.bases.gaussian import COMPONENTS, STRONGEST, GaussianCopula
from infomax.estimation.bases.normal_scores import hermite
from infomax.estimation.bases.student import elliptical
from infomax.estimation.critic import ClosedForm
from infomax.threads import one_blas_thread

BANDWIDTHS = (0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75)  # of decorrelated normal scores; 1 would be the Gaussian itself
SHARE = 0.99  # of the kernels, the rest the Gaussian's: no pair of rows is impossible
REACH, KNOTS = 8.0, 161  # of the decorrelated grid that densities are worked out on
EDGE = 4.5  # of the table's grid, in normal scores; beyond it, the nearest entry
STEPS = (0.1, 0.05, 0.025)  # of that grid
ACCURACY = 0.01  # nat: root mean square of what the table and the inner product that stands for it are apart
Mirrors = tuple[tuple[int, int], ...]
# Signs of the two decorrelated scores under which a density may be the same: rows then stand for their mirror images.
MIRRORS: tuple[Mirrors, ...] = (
    ((1, 1),), ((1, 1), (-1, -1)), ((1, 1), (1, -1)), ((1, 1), (-1, 1)), ((1, 1), (-1, -1), (1, -1), (-1, 1))
)  # fmt: skip
TIES = 0.02  # of the rows, at most, have one value of a column that has kernels
WIDEST = 2048  # features in all: the pairs that gain most
CERTAIN = 2.0  # standard errors by which a pair's own copula has to be likelier


class PairwiseCopula(InnerProduct, ClosedForm):
    """log r of a Gaussian copula of all columns, plus, pair of columns by pair, what kernels add to theirs.

    Of two columns' normal scores u and v with correlation rho, (u + v) / sqrt(2 (1 + rho)) and (u - v) / sqrt(2 (1 -
    rho)) are uncorrelated; kernels of width h about sqrt(1 - h^2) times each row's keep them so, of variance 1, and
    normal where they are normal: only what is not Gaussian is added, and h = 1 adds nothing. h maximises the fit rows'
    likelihood, each left out of its own density. Pairs are matched one to one by the strongest correlation of products
    of Hermite polynomials, and one counts where fit and select rows both find its own copula likelier. A sum over pairs
    is a ratio only of pairs that do not depend on each other, so of columns of a side that do, one is taken.
    (Shrunk kernels: West, 1993; copula densities in normal scores: Geenens, Charpentier & Paindaveine, 2017)
    """

    def __init__(self, gaussian: GaussianCopula, fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor):
        super().__init__()
        self.gaussian, self.strength, self.share_read = gaussian, 1.0, gaussian.share_read
        correlations: dict[tuple[int, int], float] = {}
        tried: list[tuple[float, tuple[int, int], tuple[Tensor, Tensor]]] = []
        hx, hy = hermite(fit_x), hermite(fit_y)
        for i, j in matches(fit_x, fit_y, products(hx, hy)):
            density = _Density(fit_x[:, i], fit_y[:, j])
            if density.certain:
                factors = density.factors()
                gain = _read(factors, select_x[:, i], select_y[:, j])
                if is_gain(gain):
                    tried.append((float(gain.mean()), (i, j), factors))
                    correlations[i, j] = abs(density.rho)
        alone = [_independent(h) for h in (hx, hy)] if len(tried) > 1 else []
        self.strongest = 0.0  # correlation of the pairs that count
        self.matched: list[tuple[int, int]] = []
        rank = 0
        for _, (i, j), (left, right) in sorted(tried, key=lambda pair: -pair[0]):
            near = any(not alone[0][i, k] or not alone[1][j, m] for k, m in self.matched)
            if not near and rank + left.shape[1] <= WIDEST:
                rank += left.shape[1]
                self.register_buffer(f"left_{len(self.matched)}", left)  # [grid, rank], at knots of normal scores
                self.register_buffer(f"right_{len(self.matched)}", right)
                self.matched.append((i, j))
                self.strongest = max(self.strongest, correlations[i, j])
        self.rank = rank

    @property
    def at_ceiling(self) -> bool:
        return self.gaussian.at_ceiling or self.strongest >= STRONGEST

    @property
    def features(self) -> int:
        return self.gaussian.features + self.rank

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ex, ey = self.gaussian.embed(x, y)
        own_x = [_between(self.get_buffer(f"left_{k}"), x[:, i]) for k, (i, _) in enumerate(self.matched)]
        own_y = [_between(self.get_buffer(f"right_{k}"), y[:, j]) for k, (_, j) in enumerate(self.matched)]
        return torch.cat([ex, *own_x], 1), torch.cat([ey, *own_y], 1)

    @property
    def known(self) -> GaussianCopula:
        return self.gaussian

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"pairs": len(self.matched)}


def closed_form(fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor) -> ClosedForm:
    """Of normal scores [n, d]: a Gaussian copula, Student's, or one with pairs of columns that have their own.

    Pairs count where the select rows say so, each and together, and against Student's where they tell rows from others
    better.
    """
    gaussian = GaussianCopula(fit_x, fit_y, select_x, select_y)
    found = elliptical(fit_x, fit_y, select_x, select_y, gaussian)
    if max(fit_x.shape[1], fit_y.shape[1]) > COMPONENTS:
        return found
    with one_blas_thread():
        pairwise = PairwiseCopula(gaussian, fit_x, fit_y, select_x, select_y)
    if not pairwise.matched:
        return found
    new, old = (rolled_scores(copula, select_x, select_y) for copula in (pairwise, found))
    for gain in (new.js_shares() - old.js_shares(), new.infonce_shares() - old.infonce_shares()):
        # Of high MI both are flat: no loss is asked for, and a gain against Student's.
        if not (is_no_loss(gain) if found is gaussian else float(gain.mean()) >= 0):
            return found
    return pairwise


def _independent(h: Tensor) -> Tensor:
    """Which columns show no dependence on which others [d, d], by their Hermite polynomials [n, 3 d]."""
    d = h.shape[1] // 3
    return products(h, h).amax((0, 2)) < noise(len(h), d, d)


def _has_ties(side: Tensor) -> Tensor:
    """Columns of which a value repeats more often than by rounding [d]: they have no density, and no kernels."""
    most = [int(column.unique(return_counts=True)[1].max()) for column in side.T]
    return torch.tensor(most) > max(2.0, TIES * len(side))


def products(hx: Tensor, hy: Tensor) -> Tensor:
    """|correlations| of Hermite polynomials of degree 1 to 3, [n, 3 dx] and [n, 3 dy]: [3, dx, 3, dy]."""
    return (hx.T @ hy / len(hx)).abs().view(3, hx.shape[1] // 3, 3, hy.shape[1] // 3)


def noise(n: int, dx: int, dy: int) -> float:
    """What the largest of these products stays below where nothing depends, one time in a few."""
    return math.sqrt(2 * math.log(9 * dx * dy) / n) + 1 / math.sqrt(n)


def matches(x: Tensor, y: Tensor, known: Tensor) -> list[tuple[int, int]]:
    """Columns of x and y without ties, one to one, whose products are above the noise, and the largest in sum.

    known: `products` of x and y.
    """
    strongest = known.amax((0, 2)).clamp(max=STRONGEST)
    heard = strongest > noise(len(x), x.shape[1], y.shape[1])
    heard &= ~torch.logical_or(_has_ties(x)[:, None], _has_ties(y))
    weight = torch.where(heard, -torch.log1p(-(strongest**2)), 0.0)
    if 1 in weight.shape:  # the one that weighs most, without an import of half a second
        found = [divmod(int(weight.argmax()), weight.shape[1])]
    else:
        from scipy.optimize import linear_sum_assignment

        found = [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(weight.numpy(), maximize=True), strict=True)]
    return [(i, j) for i, j in found if heard[i, j]]


# A pair --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Evenly spaced knots -reach .. reach, and where numbers lie among them."""

    reach: float
    knots: int

    @functools.cached_property
    def points(self) -> np.ndarray:
        return np.linspace(-self.reach, self.reach, self.knots)

    def around(self, t: np.ndarray) -> "_Grid":
        """Of these knots, 0 in their middle, those that reach around all of t and around -t."""
        step = 2 * self.reach / (self.knots - 1)
        each_side = min(self.knots // 2, 1 + int(np.abs(t).max() / step))
        return _Grid(each_side * step, 2 * each_side + 1)

    def at(self, t: np.ndarray) -> np.ndarray:
        return np.clip((t + self.reach) * ((self.knots - 1) / (2 * self.reach)), 0, self.knots - 1)


@dataclass(frozen=True)
class _Best:
    """The likeliest of the densities that were tried: the rows' mean log-likelihood, and that in standard errors."""

    value: float
    deviations: float = 0.0
    h: tuple[float, float] = (1.0, 1.0)
    mirrors: Mirrors = ((1, 1),)


class _Density:
    """Of two columns' normal scores u, v [n]: what kernels know of log c(u, v) beyond the Gaussian copula."""

    grid = _Grid(REACH, KNOTS)

    def __init__(self, u: Tensor, v: Tensor):
        a, b = u.double().numpy(), v.double().numpy()
        n = len(a)
        self.rho = float(np.clip(np.mean(a * b), -STRONGEST, STRONGEST))
        p, q = self._decorrelated(a, b)
        # Most knots are far from all rows. Those that are not, and their mirror images, are looked at while widths are
        # tried, which takes a tenth of the time.
        inner = [self.grid.around(t) for t in (p, q)]
        among = _among(inner, p, q)
        counts = (among.T @ np.full(n, 1 / n)).reshape(*(grid.knots for grid in inner))
        base = _normal(p) * _normal(q)
        found = _Best(-math.inf)

        @functools.cache
        def kernel(side: int, h: float) -> np.ndarray:
            return _kernel(h, inner[side], inner[side])

        @functools.cache
        def along_p(h: float) -> np.ndarray:
            return kernel(0, h) @ counts

        @functools.cache
        def smoothed(h: tuple[float, float]) -> np.ndarray:
            return along_p(h[0]) @ kernel(1, h[1]).T

        @functools.cache
        def own_of(side: int, h: float, sign: int) -> np.ndarray:
            return _normal((1 - sign * math.sqrt(1 - h * h)) * (p, q)[side], h)

        @functools.cache  # once: what was tried before is no better now
        def attempt(mirrors: Mirrors, h: tuple[float, float]) -> None:
            nonlocal found
            smooth = smoothed(h)
            density = _mirrored(smooth, mirrors)
            own = sum(own_of(0, h[0], i) * own_of(1, h[1], j) for i, j in mirrors) / len(mirrors)
            rest = (among @ density.ravel() - own / n).clip(min=0) * (n / (n - 1))
            each = np.log(SHARE * rest / base + 1 - SHARE)
            if (value := float(each.mean())) > found.value:
                found = _Best(value, value / max(float(each.std()), 1e-12) * math.sqrt(n), h, mirrors)

        for mirrors in MIRRORS:
            for h in BANDWIDTHS:
                attempt(mirrors, (h, h))
        while True:
            before = found
            for side in (0, 1):
                at = BANDWIDTHS.index(found.h[side])
                for h in BANDWIDTHS[max(0, at - 1) : at + 2]:
                    attempt(found.mirrors, (h, found.h[1]) if side == 0 else (found.h[0], h))
            if found is before:
                break
        self.h, self.mirrors = found.h, found.mirrors
        along = [_kernel(h, self.grid, grid) for h, grid in zip(found.h, inner, strict=True)]
        density, normal = _mirrored(along[0] @ counts @ along[1].T, found.mirrors), _normal(self.grid.points)
        self.table = np.log(SHARE * density / (normal[:, None] * normal) + 1 - SHARE)
        self.certain = found.deviations > CERTAIN

    def _decorrelated(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, q = (u + v) / math.sqrt(2 * (1 + self.rho)), (u - v) / math.sqrt(2 * (1 - self.rho))
        return np.clip(p, -REACH, REACH), np.clip(q, -REACH, REACH)

    def _read(self, table: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return _among([self.grid, self.grid], p, q) @ table.ravel()

    def factors(self) -> tuple[Tensor, Tensor]:
        """left [grid, rank] and right, on a grid of u and v: their product is the table, and so an inner product."""
        fine = 0.5 * min(self.h) * math.sqrt(1 - abs(self.rho))
        step = next((step for step in STEPS if step <= fine), STEPS[-1])
        points = _Grid(EDGE, round(2 * EDGE / step) + 1).points
        u, v = np.meshgrid(points, points, indexing="ij")
        read = self._read(self.table, *self._decorrelated(u.ravel(), v.ravel()))
        table = torch.from_numpy(read.reshape(u.shape))
        # The smallest singular values are left out: few are needed, as such tables are smooth.
        values, right = torch.linalg.eigh(table.T @ table)
        lost = values.clamp(min=0).cumsum(0).sqrt() / len(points)
        right = right[:, lost > ACCURACY]
        return (table @ right).float(), right.float()


def _among(grids: Sequence[_Grid], p: np.ndarray, q: np.ndarray) -> Any:
    """A sparse matrix [n, knots of p's grid * knots of q's]: of each row, the weights of the four knots around it.

    It bins rows, and reads a table linearly between its knots.
    """
    from scipy.sparse import csr_array

    at = [grid.at(t) for grid, t in zip(grids, (p, q), strict=True)]
    low = [np.minimum(t.astype(np.int64), grid.knots - 2) for grid, t in zip(grids, at, strict=True)]
    part = [t - below for t, below in zip(at, low, strict=True)]
    near = [(i, j) for i in (0, 1) for j in (0, 1)]
    weights = np.stack([np.abs(1 - i - part[0]) * np.abs(1 - j - part[1]) for i, j in near], 1)
    knots = np.stack([(low[0] + i) * grids[1].knots + low[1] + j for i, j in near], 1)
    starts = np.arange(0, 4 * len(p) + 1, 4)
    return csr_array((weights.ravel(), knots.ravel(), starts), shape=(len(p), grids[0].knots * grids[1].knots))


def _mirrored(smooth: np.ndarray, mirrors: Mirrors) -> np.ndarray:
    """The mean of a table's mirror images."""
    return sum((smooth[::i, ::j] for i, j in mirrors), np.zeros(())) / len(mirrors)


def _kernel(h: float, at: _Grid, about: _Grid) -> np.ndarray:
    """At each knot of a grid, the kernel of width h about each knot of another [knots, knots]."""
    return _normal(at.points[:, None] - math.sqrt(1 - h * h) * about.points, h)


def _normal(t: np.ndarray, deviation: float = 1.0) -> np.ndarray:
    return np.exp(-0.5 * (t / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def _between(table: Tensor, t: Tensor) -> Tensor:
    """The table's rows [grid, rank] at normal scores t [n], linearly between its knots."""
    knots = len(table)
    at = ((t.clamp(-EDGE, EDGE) + EDGE) * ((knots - 1) / (2 * EDGE))).clamp(max=knots - 1.001)
    low = at.floor()
    index = low.long()
    return torch.lerp(table[index], table[index + 1], (at - low)[:, None])


def _read(factors: tuple[Tensor, Tensor], u: Tensor, v: Tensor) -> Tensor:
    return (_between(factors[0], u) * _between(factors[1], v)).sum(1)
