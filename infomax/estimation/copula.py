"""A base in closed form: normal scores of each column, and the log-ratio of a Gaussian copula between the sides.

MI is invariant under invertible maps of each side, so columns may be mapped to normal scores at no cost; what the
Gaussian dependence explains then needs no learning, and no e^MI samples. (Normal scores: van der Waerden, 1952;
Gaussian copula: Joe, 1989; canonical correlations: Hotelling, 1936)
"""

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

COMPONENTS = 256  # a side, at most: a ratio of projections is still a ratio, and its cost stays bounded
RIDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
COLUMNS = 64  # at a time in float64, so that wide arrays are never held twice
ROWS = 8192  # at a time in float64
STRENGTHS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
DEGREES = (40.0, 20.0, 12.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0)  # of freedom, that are tried
REACH, KNOTS = 6.0, 2401  # of the table of t-scores
SHIFTS = 50  # by which rows are moved against each other, to meet negatives
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0)  # of squared correlations that are noise, in units of (dx + dy) / n


class Standard:
    """Columns to mean 0 and deviation 1 by the statistics of the rows it is made from."""

    def __init__(self, fit: Tensor):
        # float64, or a large offset or scale would take the digits that matter with it.
        moments = [(c.mean(0), c.std(0)) for c in map(Tensor.double, fit.split(COLUMNS, 1))]
        self.mean = torch.cat([mean for mean, _ in moments])
        deviation = torch.cat([deviation for _, deviation in moments])
        self.scale = torch.where(deviation > 0, deviation, 1.0)  # constant within this split only

    def __call__(self, t: Tensor) -> Tensor:
        out = torch.empty(t.shape, dtype=torch.float32)
        for c in torch.arange(t.shape[1]).split(COLUMNS):
            out[:, c] = ((t[:, c].double() - self.mean[c]) / self.scale[c]).float()
        return out


class NormalScores:
    """Columns to normal scores by the ranks of the rows it is made from; between two of them, linearly; ties share."""

    def __init__(self, fit: Tensor):
        from scipy.special import ndtri

        self.knots: list[tuple[np.ndarray, np.ndarray]] = []
        for column in fit.T.contiguous().numpy():
            values, counts = np.unique(column, return_counts=True)
            middle = np.cumsum(counts) - counts / 2  # mid-ranks, in (0, n)
            scores = ndtri(middle / len(column))
            scores -= np.sum(scores * counts) / len(column)
            spread = math.sqrt(float(np.sum(scores**2 * counts)) / len(column))
            self.knots.append((values, scores / spread if spread > 0 else scores))

    def __call__(self, t: Tensor) -> Tensor:
        columns = t.T.contiguous().numpy()
        scores = [np.interp(c, v, s) for c, (v, s) in zip(columns, self.knots, strict=True)]
        return torch.from_numpy(np.stack(scores, 1).astype(np.float32))


class GaussianCopula(nn.Module):
    """log r of jointly normal x [n, dx] and y [n, dy], as a critic: an inner product of features.

    Canonical directions and correlations come from the fit rows: of all columns, or, where the dependence is
    sparse, with correlations within three standard errors of 0 set to 0 (Bickel & Levina, 2008); of very many
    columns, of their leading principal components, or of the columns that correlate. A ridge, a threshold below
    which correlations are the noise's (those of n rows of d columns reach sqrt(d / n)), and one strength, by which
    all shrink, maximise the mean log-ratio of the select rows (Barber & Agakov, 2003). strength 0 is the zero
    critic.
    """

    width = 1
    a: Tensor  # [dx, k], to canonical variates
    b: Tensor  # [dy, k]
    rho: Tensor  # [k]

    def __init__(self, fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor):
        super().__init__()
        fit, select = _Moments(fit_x, fit_y), _Moments(select_x, select_y)
        self.share_read = min(_Axes(second).share for second in (fit.xx, fit.yy))
        best = (0.0, 0.0, 0.0)  # mean log-ratio on select, strength, ridge
        found: _Directions | None = None
        for moments in (fit, *fit.sparse(len(fit_x))):
            sides = _Axes(moments.xx), _Axes(moments.yy)
            if not all(len(side.values) for side in sides):
                continue  # a side that does not vary in these rows
            bases = sides[0].basis, sides[1].basis
            cross = bases[0].T @ moments.xy @ bases[1]
            held = [bases[i].T @ second @ bases[j] for second, i, j in select.seconds()]
            noise = (len(sides[0].values) + len(sides[1].values)) / len(fit_x)
            for ridge in RIDGES:
                wx, wy = (side.whitener(ridge) for side in sides)
                left, rho, right = torch.linalg.svd(wx[:, None] * cross * wy, full_matrices=False)
                a, b = wx[:, None] * left, wy[:, None] * right.T
                u, v = (((c * side.values[:, None]) * c).sum(0).sqrt() for c, side in ((a, sides[0]), (b, sides[1])))
                rho = rho / (u * v)
                a, b = a / u, b / v
                squares = (a * (held[0] @ a)).sum(0) + (b * (held[1] @ b)).sum(0)
                products = (a * (held[2] @ b)).sum(0)
                edges = torch.tensor(EDGES).to(rho) * noise
                kept = ((rho**2 - edges[:, None]).clamp(min=0) / (1 - edges[:, None]).clamp(min=0.01)).sqrt()
                shrunk = (torch.tensor(STRENGTHS).to(rho)[:, None, None] * kept).clamp(max=0.9999)  # [s, e, k]
                values = _log_ratio(shrunk, squares, products).sum(2)
                value, index = values.flatten().max(0)
                if float(value) > best[0]:
                    s, e = divmod(int(index), len(EDGES))
                    best = (float(value), STRENGTHS[s], ridge)
                    found = _Directions(bases[0] @ a, bases[1] @ b, shrunk[s, e])
        if found is not None:
            # The best of many tries beats zero by luck alone: it has to by one standard error.
            u, v = select_x.double() @ found.a, select_y.double() @ found.b
            each = _log_ratio(found.rho, u * u + v * v, u * v).sum(1)
            if float(each.mean()) < float(each.std()) / math.sqrt(len(each)):
                best, found = (0.0, 0.0, 0.0), None
        self.value_on_select, self.strength, self.ridge = best
        if found is None:
            found = _Directions(
                fit_x.new_zeros(fit_x.shape[1], 0), fit_y.new_zeros(fit_y.shape[1], 0), fit_x.new_zeros(0)
            )
        used = found.rho > 0
        self.register_buffer("a", found.a[:, used].float())
        self.register_buffer("b", found.b[:, used].float())
        self.register_buffer("rho", found.rho[used].float())

    @property
    def features(self) -> int:
        """How many features embed makes of a side."""
        return self.rho.numel() + 2

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = x @ self.a, y @ self.b  # [n, k]
        rho = self.rho
        square = -0.5 * rho**2 / (1 - rho**2)
        constant = -0.5 * torch.log1p(-(rho**2)).sum()
        one = u.new_ones(len(u), 1), v.new_ones(len(v), 1)
        own = (u**2 @ square)[:, None] + constant, (v**2 @ square)[:, None]
        return torch.cat([u * (rho / (1 - rho**2)), own[0], one[0]], 1), torch.cat([v, one[1], own[1]], 1)

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex @ ey.T

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        return (ex * ey).sum(1)


@dataclass(frozen=True)
class _Directions:
    a: Tensor  # [dx, k]
    b: Tensor  # [dy, k]
    rho: Tensor  # [k]


class _Moments:
    """Second moments of x and y, float64, read by rows so that wide arrays are never held twice."""

    def __init__(self, x: Tensor, y: Tensor):
        self.xx, self.yy, self.xy = (
            sum((s.double().T @ t.double() for s, t in zip(p.split(ROWS), q.split(ROWS), strict=True)), torch.zeros(()))
            / len(x)
            for p, q in ((x, x), (y, y), (x, y))
        )

    def seconds(self) -> tuple[tuple[Tensor, int, int], ...]:
        return (self.xx, 0, 0), (self.yy, 1, 1), (self.xy, 0, 1)

    def sparse(self, n: int) -> list["_Moments"]:
        """The same with correlations of n rows within three standard errors of 0 set to 0: none where there are none.

        Of more than COMPONENTS columns, those alone whose strongest correlation with the other side no noise reaches,
        so many at most: what is sparse is then found though it has no share in the principal components.
        """
        if min(self.xy.shape) < 2:
            return []
        found, wide = copy(self), max(self.xy.shape) > COMPONENTS
        threshold = (math.sqrt(2 * math.log(self.xy.numel())) if wide else 3.0) / math.sqrt(n)
        for name in ("xx", "yy", "xy"):
            second = getattr(self, name)
            setattr(found, name, torch.where(second.abs() > threshold, second, 0.0))
        if wide:
            strongest = found.xy.abs().amax(1), found.xy.abs().amax(0)
            kept = []
            for strength in strongest:
                least = strength.topk(min(COMPONENTS, len(strength))).values[-1]
                kept.append((strength > 0) & (strength >= least))
            found.xx, found.yy = found.xx * torch.outer(kept[0], kept[0]), found.yy * torch.outer(kept[1], kept[1])
            found.xy = found.xy * torch.outer(kept[0], kept[1])
            return [found] if bool((found.xy != 0).any()) else []
        return [found] if bool((found.xy != self.xy).any()) else []


class _Axes:
    """The principal axes of a side."""

    def __init__(self, second: Tensor):
        values, vectors = torch.linalg.eigh(second)
        keep = min(COMPONENTS, int((values > 1e-8 * values[-1]).sum()))
        self.values, self.basis = values[len(values) - keep :], vectors[:, len(values) - keep :]
        total = float(values.clamp(min=0).sum())
        self.share = float(self.values.sum()) / total if total > 0 else 1.0  # of the variance that these axes hold

    def whitener(self, ridge: float) -> Tensor:
        return ((1 - ridge) * self.values + ridge * self.values.mean()).rsqrt()


def _log_ratio(rho: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    return -0.5 * torch.log1p(-(rho**2)) - (rho**2 * squares - 2 * rho * product) / (2 * (1 - rho**2))


class StudentCopula(nn.Module):
    """log r of a Student copula with the directions and correlations of a Gaussian one, as a critic of normal scores.

    Degrees of freedom are those under which the select rows' joint density is highest, a proper score. Tails depend on
    each other even where nothing correlates, which no Gaussian copula sees. (Demarta & McNeil, 2005)
    """

    width = 1
    left: Tensor  # [dx, k], to correlated variates of t-scores
    right: Tensor  # [dy, k]
    wx: Tensor  # [dx, dx], whitens a side's t-scores
    wy: Tensor
    rho: Tensor  # [k]
    table: Tensor  # asinh of the t-score at each normal score of a grid

    def __init__(self, gaussian: GaussianCopula, fit_x: Tensor, fit_y: Tensor, dof: float):
        super().__init__()
        dx, dy = fit_x.shape[1], fit_y.shape[1]
        self.dof, self.strength, self.share_read = dof, 1.0, gaussian.share_read
        roots = []
        for side in (fit_x, fit_y):
            axes = _Axes(_Moments(side, side[:, :1]).xx)
            roots.append(axes.basis * axes.values.rsqrt())
        k = gaussian.rho.numel()
        self.register_buffer("wx", roots[0].float())
        self.register_buffer("wy", roots[1].float())
        self.register_buffer("left", gaussian.a.clone())
        self.register_buffer("right", gaussian.b.clone())
        self.register_buffer("rho", gaussian.rho.clone())
        from scipy.special import gammaln, ndtr, stdtrit

        grid = np.linspace(-REACH, REACH, KNOTS)
        half = grid[: KNOTS // 2 + 1]  # the lower half, where a probability keeps its digits
        lower = np.arcsinh(stdtrit(dof, ndtr(half)))
        self.register_buffer("table", torch.from_numpy(np.concatenate([lower, -lower[-2::-1]])).float())
        gammas = [float(gammaln((dof + p) / 2)) for p in (dx + dy, dx, dy, 0)]
        constant = gammas[0] - gammas[1] - gammas[2] + gammas[3] - 0.5 * float(torch.log1p(-(self.rho**2)).sum())
        self.sizes, self.constant, self.k = (dx, dy), constant, k

    def t_scores(self, z: Tensor) -> Tensor:
        """Student's quantile of each normal score, between the knots of a table."""
        at = ((z.clamp(-REACH, REACH) + REACH) * ((KNOTS - 1) / (2 * REACH))).clamp(max=KNOTS - 1.001)
        low = at.floor()
        index = low.long()
        return torch.lerp(self.table[index], self.table[index + 1], at - low).sinh()

    @property
    def features(self) -> int:
        """How many features embed makes of a side."""
        return self.rho.numel() + 3

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.t_scores(x), self.t_scores(y)
        dof, (dx, dy), rho = self.dof, self.sizes, self.rho
        own = [((side @ root) ** 2).sum(1, keepdim=True) for side, root in ((x, self.wx), (y, self.wy))]
        u, v = x @ self.left, y @ self.right
        square = rho**2 / (1 - rho**2)
        one = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        ex = [-2 * u * (rho / (1 - rho**2)), own[0] + (u**2 @ square)[:, None], one[0]]
        ey = [v, one[1], own[1] + (v**2 @ square)[:, None]]
        ex.append(0.5 * (dof + dx) * torch.log1p(own[0] / dof) + self.constant)
        ey.append(0.5 * (dof + dy) * torch.log1p(own[1] / dof))
        return torch.cat(ex, 1), torch.cat(ey, 1)

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex[:, -1:] + ey[:, -1] - self._joint(ex[:, :-1] @ ey[:, :-1].T)

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex[:, -1] + ey[:, -1] - self._joint((ex[:, :-1] * ey[:, :-1]).sum(1))

    def _joint(self, square: Tensor) -> Tensor:
        return 0.5 * (self.dof + sum(self.sizes)) * torch.log1p(square.clamp(min=0) / self.dof)

    @torch.no_grad()
    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """The joint copula's log-density of each row [n], up to a constant that all degrees of freedom share."""
        from scipy.special import gammaln

        dof, p = self.dof, sum(self.sizes)
        ex, ey = self.embed(x, y)
        each = 0.5 * (dof + 1) * sum(torch.log1p(self.t_scores(s) ** 2 / dof).sum(1) for s in (x, y))
        gammas = gammaln((dof + p) / 2) + (p - 1) * gammaln(dof / 2) - p * gammaln((dof + 1) / 2)
        return each - self._joint((ex[:, :-1] * ey[:, :-1]).sum(1)) + float(gammas)


def is_gain(each: Tensor) -> bool:
    """Whether what rows gain [n] is above 0 by one standard error of its mean: the best of many is better by luck."""
    return float(each.mean()) > float(each.std()) / math.sqrt(len(each))


@torch.no_grad()
def js_shares(critic: Any, x: Tensor, y: Tensor) -> Tensor:
    """Each row's share of the Jensen-Shannon bound [n]: a proper score of log r at any height."""
    n = len(x)
    ex, ey = critic.embed(x, y)
    shifts = _shifts(n)
    negative = sum(softplus(critic.pair(ex, ey.roll(k, 0))) for k in shifts) / len(shifts)
    return -softplus(-critic.pair(ex, ey)) - negative


@torch.no_grad()
def infonce_shares(critic: Any, x: Tensor, y: Tensor) -> Tensor:
    """Each row's share of InfoNCE among SHIFTS others [n]: a proper score of log r up to a constant of each x, which
    sees scores far above 0, where the Jensen-Shannon bound is flat, and where one row weighs no more than one row's
    share of the standard error."""
    n = len(x)
    ex, ey = critic.embed(x, y)
    found = [critic.pair(ex, ey.roll(k, 0)) for k in _shifts(n)]
    own = critic.pair(ex, ey)
    return own - torch.stack([own, *found]).logsumexp(0) + math.log(1 + len(found))


def _shifts(n: int) -> list[int]:
    return sorted({max(1, (k * (n - 1)) // SHIFTS) for k in range(1, SHIFTS + 1)})


def elliptical(fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor) -> GaussianCopula | StudentCopula:
    """The Gaussian copula, or Student's where the select rows are the likelier under it, beyond one standard error.

    And where it tells them from other rows as well: columns that repeat each other have no joint density to speak of,
    and look like tails.
    """
    gaussian = GaussianCopula(fit_x, fit_y, select_x, select_y)
    if max(fit_x.shape[1], fit_y.shape[1]) > COMPONENTS:
        return gaussian
    found: GaussianCopula | StudentCopula = gaussian
    best = StudentCopula(gaussian, fit_x, fit_y, 1000.0).log_density(select_x, select_y)
    for dof in DEGREES:
        tried = StudentCopula(gaussian, fit_x, fit_y, dof)
        gain = (each := tried.log_density(select_x, select_y)) - best
        if float(gain.mean()) < -float(best.std()) / math.sqrt(len(best)):
            break  # from light tails to heavy ones, it only falls from here
        if is_gain(gain):
            found, best = tried, each
    as_ratios = [float(js_shares(copula, select_x, select_y).mean()) for copula in (found, gaussian)]
    return found if as_ratios[0] >= as_ratios[1] else gaussian
