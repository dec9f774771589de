"""A base in closed form: normal scores of each column, and the log-ratio of a Gaussian copula between the sides.

MI is invariant under invertible maps of each side, so columns may be mapped to normal scores at no cost; what the
Gaussian dependence explains then needs no learning, and no e^MI samples. (Normal scores: van der Waerden, 1952;
Gaussian copula: Joe, 1989; canonical correlations: Hotelling, 1936)
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

COMPONENTS = 256  # a side, at most: a ratio of projections is still a ratio, and its cost stays bounded
RIDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
COLUMNS = 64  # at a time in float64, so that wide arrays are never held twice
STRENGTHS = tuple(np.linspace(0.0, 1.0, 21).tolist())


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

    Canonical directions and correlations come from the fit rows; a ridge and one strength, by which all correlations
    shrink, maximise the mean log-ratio of the select rows (Barber & Agakov, 2003). strength 0 is the zero critic.
    """

    width = 1
    a: Tensor  # [dx, k], to canonical variates
    b: Tensor  # [dy, k]
    rho: Tensor  # [k]

    def __init__(self, fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor):
        super().__init__()
        sides = [_Side(fit_x, select_x), _Side(fit_y, select_y)]
        cross = sides[0].fit.T @ sides[1].fit / len(fit_x)
        best = (0.0, 0.0, 0.0)  # mean log-ratio on select, strength, ridge
        found: tuple[Tensor, Tensor, Tensor] | None = None
        for ridge in RIDGES:
            wx, wy = (side.whitener(ridge) for side in sides)
            left, rho, right = torch.linalg.svd(wx[:, None] * cross * wy, full_matrices=False)
            a, b = wx[:, None] * left, wy[:, None] * right.T
            u, v = sides[0].fit @ a, sides[1].fit @ b
            a, b = a / u.std(0), b / v.std(0)
            rho = (rho * (u.std(0) * v.std(0)).reciprocal()).clamp(max=0.9999) if ridge else rho.clamp(max=0.9999)
            u, v = sides[0].select @ a, sides[1].select @ b
            uu, vv, uv = (u * u).mean(0), (v * v).mean(0), (u * v).mean(0)
            for strength in STRENGTHS:
                value = float(_log_ratio(rho * strength, uu + vv, uv).sum())
                if value > best[0]:
                    best, found = (value, strength, ridge), (a, b, rho * strength)
        if found is not None:
            # The best of many tries beats zero by luck alone: it has to by one standard error.
            u, v, rho = sides[0].select @ found[0], sides[1].select @ found[1], found[2]
            each = _log_ratio(rho, u * u + v * v, u * v).sum(1)
            if float(each.mean()) < float(each.std()) / math.sqrt(len(each)):
                best, found = (0.0, 0.0, 0.0), None
        self.value_on_select, self.strength, self.ridge = best
        if found is None:
            found = (torch.zeros(sides[0].fit.shape[1], 0), torch.zeros(sides[1].fit.shape[1], 0), torch.zeros(0))
        a, b, rho = found
        self.register_buffer("a", (sides[0].basis @ a.to(sides[0].basis)).float())  # [dx, k]
        self.register_buffer("b", (sides[1].basis @ b.to(sides[1].basis)).float())
        self.register_buffer("rho", rho.float())

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


class _Side:
    """One side in its own principal axes, float64."""

    def __init__(self, fit: Tensor, select: Tensor):
        fit, select = fit.double(), select.double()
        values, vectors = torch.linalg.eigh(fit.T @ fit / len(fit))
        keep = min(COMPONENTS, int((values > 1e-8 * values[-1]).sum()))
        self.values, self.basis = values[-keep:], vectors[:, -keep:]
        self.fit, self.select = fit @ self.basis, select @ self.basis

    def whitener(self, ridge: float) -> Tensor:
        return ((1 - ridge) * self.values + ridge * self.values.mean()).rsqrt()


def _log_ratio(rho: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    return -0.5 * torch.log1p(-(rho**2)) - (rho**2 * squares - 2 * rho * product) / (2 * (1 - rho**2))
