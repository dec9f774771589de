"""A base in closed form: normal scores of each column, and the log-ratio of a Gaussian copula between the sides.

MI is invariant under invertible maps of each side, so columns may be mapped to normal scores at no cost; what the
Gaussian dependence explains then needs no learning, and no e^MI samples. (Normal scores: van der Waerden, 1952;
Gaussian copula: Joe, 1989; canonical correlations: Hotelling, 1936)
"""

import math
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from infomax.critics import InnerProduct
from infomax.estimation.bases.gains import is_gain
from infomax.estimation.bases.normal_scores import ROWS
from infomax.estimation.critic import ClosedForm

COMPONENTS = 256  # a side, at most: a ratio of projections is still a ratio, and its cost stays bounded
RIDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
STRENGTHS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
STRONGEST = 0.9999  # correlation of a canonical pair: 4.3 nats
REACH, KNOTS = 6.0, 2401  # of the table of t-scores
EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0)  # of squared correlations that are noise, in units of (dx + dy) / n


class GaussianCopula(InnerProduct, ClosedForm):
    """log r of jointly normal x [n, dx] and y [n, dy], as a critic: an inner product of features.

    Canonical directions and correlations come from the fit rows: of all columns, or, where the dependence is
    sparse, with correlations within three standard errors of 0 set to 0 (Bickel & Levina, 2008); of very many
    columns, of their leading principal components, or of the columns that correlate. A ridge, a threshold below
    which correlations are the noise's (those of n rows of d columns reach sqrt(d / n)), and one strength, by which
    all shrink, maximise the mean log-ratio of the select rows (Barber & Agakov, 2003). strength 0 is the zero
    critic.
    """

    a: Tensor  # [dx, k], to canonical variates
    b: Tensor  # [dy, k]
    rho: Tensor  # [k]

    def __init__(self, fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor):
        super().__init__()
        fit, select = Moments(fit_x, fit_y), Moments(select_x, select_y)
        self.share_read = min(Axes(second).share for second in (fit.xx, fit.yy))
        best = (0.0, 0.0, 0.0)  # mean log-ratio on select, strength, ridge
        found: _Directions | None = None
        for moments in (fit, *fit.sparse(len(fit_x))):
            sides = Axes(moments.xx), Axes(moments.yy)
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
                shrunk = (torch.tensor(STRENGTHS).to(rho)[:, None, None] * kept).clamp(max=STRONGEST)  # [s, e, k]
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
            if not is_gain(each):
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
    def at_ceiling(self) -> bool:
        return bool((self.rho > STRONGEST - 1e-6).any())

    @property
    def features(self) -> int:
        return self.rho.numel() + 2

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = x @ self.a, y @ self.b  # [n, k]
        rho = self.rho
        square = -0.5 * rho**2 / (1 - rho**2)
        constant = -0.5 * torch.log1p(-(rho**2)).sum()
        one = u.new_ones(len(u), 1), v.new_ones(len(v), 1)
        own = (u**2 @ square)[:, None] + constant, (v**2 @ square)[:, None]
        return torch.cat([u * (rho / (1 - rho**2)), own[0], one[0]], 1), torch.cat([v, one[1], own[1]], 1)


@dataclass(frozen=True)
class _Directions:
    a: Tensor  # [dx, k]
    b: Tensor  # [dy, k]
    rho: Tensor  # [k]


class Moments:
    """Second moments of x and y, float64, read by rows so that wide arrays are never held twice."""

    def __init__(self, x: Tensor, y: Tensor):
        self.xx, self.yy, self.xy = (
            sum((s.double().T @ t.double() for s, t in zip(p.split(ROWS), q.split(ROWS), strict=True)), torch.zeros(()))
            / len(x)
            for p, q in ((x, x), (y, y), (x, y))
        )

    def seconds(self) -> tuple[tuple[Tensor, int, int], ...]:
        return (self.xx, 0, 0), (self.yy, 1, 1), (self.xy, 0, 1)

    def sparse(self, n: int) -> list["Moments"]:
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


class Axes:
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
