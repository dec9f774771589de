"""Student's copula: a Gaussian's with heavier joint tails, and the choice between the two."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.bases.gains import is_gain, is_no_loss, js_shares
from infomax.estimation.bases.gaussian import COMPONENTS, KNOTS, REACH, STRONGEST, Axes, GaussianCopula, Moments
from infomax.estimation.critic import ClosedForm

DEGREES = (40.0, 20.0, 12.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0)  # of freedom, that are tried


class StudentCopula(ClosedForm):
    """log r of a Student copula with the directions and correlations of a Gaussian one, as a critic of normal scores.

    Degrees of freedom are those under which the select rows' joint density is highest, a proper score. Tails depend on
    each other even where nothing correlates, which no Gaussian copula sees. (Demarta & McNeil, 2005)
    """

    left: Tensor  # [dx, k], to correlated variates of t-scores
    right: Tensor  # [dy, k]
    wx: Tensor  # [dx, dx], whitens a side's t-scores
    wy: Tensor
    rho: Tensor  # [k]
    table: Tensor  # asinh of the t-score at each normal score of a grid

    def __init__(self, gaussian: GaussianCopula, wx: Tensor, wy: Tensor, dof: float):
        """wx, wy: what `whitener` makes of each side's fit rows, the same for all degrees of freedom."""
        super().__init__()
        dx, dy = len(wx), len(wy)
        self.dof, self.strength, self.share_read = dof, 1.0, gaussian.share_read
        k = gaussian.rho.numel()
        self.register_buffer("wx", wx.float())
        self.register_buffer("wy", wy.float())
        self.register_buffer("left", gaussian.a.clone())
        self.register_buffer("right", gaussian.b.clone())
        self.register_buffer("rho", gaussian.rho.clone())
        self.register_buffer("table", torch.from_numpy(_t_scores(dof)).float())
        from scipy.special import gammaln

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
    def at_ceiling(self) -> bool:
        return bool((self.rho > STRONGEST - 1e-6).any())

    @property
    def features(self) -> int:
        return self.rho.numel() + 3

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._embed(self.t_scores(x), self.t_scores(y))

    def _embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of t-scores."""
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

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"dof": self.dof}

    @torch.no_grad()
    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """The joint copula's log-density of each row [n], up to a constant that all degrees of freedom share."""
        from scipy.special import gammaln

        dof, p = self.dof, sum(self.sizes)
        x, y = self.t_scores(x), self.t_scores(y)
        ex, ey = self._embed(x, y)
        each = 0.5 * (dof + 1) * sum(torch.log1p(side**2 / dof).sum(1) for side in (x, y))
        gammas = gammaln((dof + p) / 2) + (p - 1) * gammaln(dof / 2) - p * gammaln((dof + 1) / 2)
        return each - self._joint((ex[:, :-1] * ey[:, :-1]).sum(1)) + float(gammas)


def whitener(side: Tensor) -> Tensor:
    """What makes a side's normal scores [n, d] uncorrelated, of variance 1 [d, k]."""
    axes = Axes(Moments(side, side[:, :1]).xx)
    return axes.basis * axes.values.rsqrt()


@functools.cache
def _t_scores(dof: float) -> np.ndarray:
    """asinh of the t-score at each normal score of the grid."""
    from scipy.special import ndtr, stdtrit

    half = np.linspace(-REACH, REACH, KNOTS)[: KNOTS // 2 + 1]  # the lower half, where a probability keeps its digits
    lower = np.arcsinh(stdtrit(dof, ndtr(half)))
    return np.concatenate([lower, -lower[-2::-1]])


def elliptical(
    fit_x: Tensor, fit_y: Tensor, select_x: Tensor, select_y: Tensor, gaussian: GaussianCopula | None = None
) -> GaussianCopula | StudentCopula:
    """The Gaussian copula, or Student's where the select rows are the likelier under it, beyond one standard error.

    And where it tells them from other rows as well: columns that repeat each other have no joint density to speak of,
    and look like tails. gaussian: the Gaussian copula of these rows, where it is fitted already.
    """
    if gaussian is None:
        gaussian = GaussianCopula(fit_x, fit_y, select_x, select_y)
    if max(fit_x.shape[1], fit_y.shape[1]) > COMPONENTS:
        return gaussian
    found: GaussianCopula | StudentCopula = gaussian
    wx, wy = whitener(fit_x), whitener(fit_y)
    best = StudentCopula(gaussian, wx, wy, 1000.0).log_density(select_x, select_y)
    for dof in DEGREES:
        tried = StudentCopula(gaussian, wx, wy, dof)
        gain = (each := tried.log_density(select_x, select_y)) - best
        if not is_no_loss(gain):
            break  # from light tails to heavy ones, it only falls from here
        if is_gain(gain):
            found, best = tried, each
    if found is gaussian:
        return gaussian
    as_ratios = [float(js_shares(copula, select_x, select_y).mean()) for copula in (found, gaussian)]
    return found if as_ratios[0] >= as_ratios[1] else gaussian
