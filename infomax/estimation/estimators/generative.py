"""Estimators that model densities: log r is a difference of log-likelihoods, and no classifier is trained.

Sides go to normal scores first, at no cost in MI, so that neither scale nor tail of a column has to be learnt. One
model of p(y|x) serves Barber & Agakov's value and both upper bounds: read from scores s = log q(y|x) - log q(y), the
marginal cancels in the bounds. Flows are zuko's, autoregressive: of neural splines (NSF; Durkan et al., 2019), or
affine (MAF; Papamakarios et al., 2017), which take a fifth of the time and are right for normals.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from infomax.critics import Embedded, InnerProduct, mlp
from infomax.errors import UserError
from infomax.estimation import fitting
from infomax.estimation.bases.gains import is_gain
from infomax.estimation.bases.normal_scores import NormalScores, Standard
from infomax.estimation.critic import FittedCritic
from infomax.estimation.estimator import Budget, Estimator, Fitted, PlugIn, scores
from infomax.estimation.pairs import Pairs, has_density, require_density
from infomax.estimation.result import Check
from infomax.scores import Scores

DENSITIES = ("NSF", "MAF", "Gaussian")
BLOCK = 64  # pairs whose n^2 scores a flow reads an upper bound from: a score costs it a pass of its own
RATE = 4.0  # times the critics' learning rate: a likelihood's gradient is less noisy than a bound's


class _ByDensity(Estimator):
    """Those whose scores are a ratio of densities that were fitted each by itself."""

    def __init__(self, density: str, transforms: int, hidden: int, densities: tuple[str, ...] = DENSITIES):
        if density not in densities:
            raise UserError(f"density is {' or '.join(map(repr, densities))}, not {density!r}.")
        if not all(isinstance(size, int) and size > 0 for size in (transforms, hidden)):
            raise UserError(f"transforms={transforms!r} and hidden={hidden!r} must be whole numbers, at least 1.")
        self.density, self.transforms, self.hidden = density, transforms, hidden

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        self._require(fit)
        # What has no density conditions only, and its steps are no scores.
        maps = tuple((NormalScores if has_density(side) else Standard)(side) for side in (fit.x, fit.y))
        fit, select = (Pairs(maps[0](p.x), maps[1](p.y), p.ids).to(device) for p in (fit, select))
        model = self._model(fit).to(device)
        protocol: dict[str, Any] = {
            name: _likely(density, fit, select, budget, seed) for name, density in model.named_children()
        }
        model.eval()
        with torch.no_grad():
            each = model.pair(*model.embed(select.x, select.y))
        # Two models apart by luck alone are no dependence: it has to be there by one standard error.
        model.open = is_gain(each)
        protocol["kept"] = "trained" if model.open else "zero"
        return Fitted(self, model, (maps[0], maps[1]), protocol, self._checks())

    def _require(self, fit: Pairs) -> None:
        require_density(repr(self), fit, ("y",))

    def _model(self, fit: Pairs) -> "DensityRatio":
        raise TypeError(f"{type(self).__name__} defines no densities.")

    def _flow(self, features: int, context: int = 0) -> "Flow":
        return Flow(self.density, features, context, self.transforms, self.hidden)

    def _checks(self) -> tuple[Check, ...]:
        return ()


class _Conditional(_ByDensity):
    """Those that model y given x."""

    @property
    def trained_by(self) -> str:
        return f"ConditionalDensity(density={self.density!r}, transforms={self.transforms}, hidden={self.hidden})"

    def _model(self, fit: Pairs) -> "DensityRatio":
        dx, dy = fit.x.shape[1], fit.y.shape[1]
        if self.density == "Gaussian":
            return _GaussianRatio(Gaussian(dx, dy, self.hidden), Marginal("y", FullGaussian(fit.y)))
        return DensityRatio(self._flow(dy, dx), Marginal("y", self._flow(dy)))


class BarberAgakov(PlugIn, _Conditional):
    """Mean of log q(y|x) - log q(y), a conditional flow against a marginal one. (Barber & Agakov, 2003)

    With the true p(y) it is a lower bound on MI; both models' errors enter it, with opposite signs, so it is none.
    density: of y given x, a flow "NSF" or "MAF", or "Gaussian" for a network's mean and variance. Ceiling: none.
    Variance: that of log r over pairs. Raises UserError: a y without a density (labels, quantised numbers).

    In words: Learns how y is distributed, with x known and without; the gain is the MI.
    """

    def __init__(self, density: str = "NSF", transforms: int = 2, hidden: int = 64):
        super().__init__(density, transforms, hidden)


class DifferenceOfEntropies(PlugIn, _ByDensity):
    """h(X) + h(Y) - h(X, Y), each entropy by a flow's likelihood of held-out pairs. (Song & Ermon, 2020)

    No bound: three models' errors enter it. density: a flow, "NSF" or "MAF". Ceiling: none. Variance: that of log r
    over pairs. Raises UserError: a side without a density (labels, quantised numbers).

    In words: Learns the spread of x, of y and of both, and subtracts.
    """

    def __init__(self, density: str = "NSF", transforms: int = 2, hidden: int = 64):
        super().__init__(density, transforms, hidden, DENSITIES[:2])

    def _require(self, fit: Pairs) -> None:
        require_density(repr(self), fit)

    def _model(self, fit: Pairs) -> "DensityRatio":
        dx, dy = fit.x.shape[1], fit.y.shape[1]
        joint = Joint(self._flow(dx + dy))
        return DensityRatio(joint, Marginal("y", self._flow(dy)), Marginal("x", self._flow(dx)))


class _UpperBound(_Conditional):
    value_from = "upper bound"

    def __init__(self, density: str = "Gaussian", transforms: int = 2, hidden: int = 64):
        super().__init__(density, transforms, hidden)

    def _checks(self) -> tuple[Check, ...]:
        sentence = (
            "an upper bound on MI, if the model of p(y|x) is right, and no estimate of it: read it beside a lower "
            "bound, such as the floor, and take another method for the value."
        )
        return (Check("upper bound", 1.0, 0.0, "fail", sentence),)

    def read(self, critic: FittedCritic, pairs: Pairs) -> Tensor:
        if not critic.costly:
            return self.estimate(scores(critic, pairs))
        blocks = [pairs[at] for at in torch.arange(len(pairs), device=pairs.x.device).tensor_split(_number(len(pairs)))]
        return torch.stack([self.estimate(scores(critic, block)) for block in blocks]).mean()


class CLUB(_UpperBound):
    """Upper bound on MI if q(y|x) is right: mean log q(y|x) over pairs less that over negatives. (Cheng et al., 2020)

    Far above MI where that is high: for normals of correlation rho it is rho^2 / (1 - rho^2). density: "Gaussian", a
    network's mean and variance of y, or a flow, "NSF" or "MAF". Ceiling: none. Variance: that of log q over negatives.
    Raises UserError: a y without a density (labels, quantised numbers).

    In words: Meant as an upper bound: it is one where the learnt distribution of y for an x is right.
    """

    def estimate(self, s: Scores) -> Tensor:
        return s.positive.mean() - s.negative.mean()


class LeaveOneOut(_UpperBound):
    """Upper bound on MI if q(y|x) is right: p(y) is the mean of q(y|x) over the other pairs' x. (Poole et al., 2019)

    density: "Gaussian", a network's mean and variance of y, or a flow, "NSF" or "MAF", which is read in blocks of 64
    pairs. Ceiling: none; far above MI where the others are fewer than e^MI. Variance: that of log r over pairs. Raises
    UserError: a y without a density (labels, quantised numbers).

    In words: Meant as an upper bound, as CLUB; the other pairs stand for y's distribution without x.
    """

    def estimate(self, s: Scores) -> Tensor:
        return s.positive.mean() - s.negative.logmeanexp(dim=0).mean()


def _number(pairs: int) -> int:
    return max(1, round(pairs / BLOCK))


def _likely(density: nn.Module, fit: Pairs, select: Pairs, budget: Budget, seed: int) -> dict[str, Any]:
    """Fits a density to the likelihood of `fit`, stopped on that of `select`; returns how it went."""

    def criterion() -> float:
        density.eval()
        with torch.no_grad():
            value = float(density(select.x, select.y).mean())
        density.train()
        return value if math.isfinite(value) else -math.inf

    result = fitting.ascend_budget((density,), lambda p: density(p.x, p.y).mean(), criterion, fit, budget, seed, RATE)
    return {"steps": result.steps, "best_step": int(result.best_step), "stopped": result.stopped}


class Flow(nn.Module):
    """log q(y|x), or log q(y) where context is 0: [n]."""

    def __init__(self, kind: str, features: int, context: int, transforms: int, hidden: int):
        from zuko import flows

        super().__init__()
        self.context = context
        self.flow = getattr(flows, kind)(features, context, transforms=transforms, hidden_features=(hidden, hidden))
        self.width = transforms * (2 * hidden + 24 * features)  # 23 numbers a feature make a spline

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.flow(x if self.context else None).log_prob(y)


class Joint(nn.Module):
    """log q(x, y) by a flow: [n]."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow, self.width = flow, flow.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y], 1)
        return self.flow(both, both)


class Gaussian(nn.Module):
    """log N(y; mean(x), variance(x)), independent columns: [n]."""

    width = 1

    def __init__(self, dx: int, dy: int, hidden: int):
        super().__init__()
        self.mean, self.log_variance = mlp(dx, hidden, dy, 2), mlp(dx, hidden, dy, 2)
        for last in (self.mean[-1], self.log_variance[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), 7 * torch.tanh(self.log_variance(x) / 7)  # no variance of 0 at a pair it knows by heart

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = self.moments(x)
        return -0.5 * ((y - mean) ** 2 * (-log_variance).exp() + log_variance + math.log(2 * math.pi)).sum(1)


class FullGaussian(nn.Module):
    """log N(y; mean, covariance) by the moments of the rows it is made from: [n]; nothing is left to learn."""

    def __init__(self, rows: Tensor):
        super().__init__()
        rows = rows.double()
        covariance = torch.atleast_2d(torch.cov(rows.T)) + 1e-6 * torch.eye(rows.shape[1]).to(rows)
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("factor", torch.linalg.cholesky(covariance))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        normal = torch.distributions.MultivariateNormal(self.mean, scale_tril=self.factor, validate_args=False)  # type: ignore[arg-type]
        return normal.log_prob(y.double()).float()


class Marginal(nn.Module):
    """The density of one side, asked as the others are, with both."""

    def __init__(self, side: str, density: Any):
        super().__init__()
        self.side, self.density = side, density

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.density(x, x if self.side == "x" else y)


class DensityRatio(FittedCritic):
    """A critic: log q of the pair less that of its marginals; a gate closes it where it found nothing."""

    costly = True  # a score takes a pass through a flow of its own

    def __init__(self, pairs: Any, of_y: Marginal, of_x: Marginal | None = None):
        super().__init__()
        self.pairs, self.of_y, self.of_x = pairs, of_y, of_x
        self.open = True

    def __repr__(self) -> str:
        return "none"  # that a user may choose

    @property
    def is_zero(self) -> bool:
        return not self.open

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.pairs.width

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        own_x = x.new_zeros(len(x)) if self.of_x is None else self.of_x(x, x)
        return torch.cat([x, own_x[:, None]], 1), torch.cat([y, self.of_y(y, y)[:, None]], 1)

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        n, m = len(ex), len(ey)
        every = ex[:, None].expand(n, m, -1).flatten(0, 1), ey[None].expand(n, m, -1).flatten(0, 1)
        return self.pair(*every).view(n, m)

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        if not self.open:
            return ex.new_zeros(len(ex))
        return self.pairs(ex[:, :-1], ey[:, :-1]) - ex[:, -1] - ey[:, -1]


class _GaussianRatio(InnerProduct, DensityRatio):
    """The same as an inner product, so that n^2 scores cost one product; of zeros behind a closed gate."""

    costly = False

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        if not self.open:
            return x.new_zeros(len(x), 1), y.new_zeros(len(y), 1)
        mean, log_variance = self.pairs.moments(x)
        precision = (-log_variance).exp()
        own = -0.5 * (mean**2 * precision + log_variance + math.log(2 * math.pi)).sum(1, keepdim=True)
        one = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        ex = torch.cat([-0.5 * precision, mean * precision, own, one[0]], 1)
        return ex, torch.cat([y**2, y, one[1], -self.of_y(y, y)[:, None]], 1)


ESTIMATORS = (BarberAgakov, DifferenceOfEntropies, CLUB, LeaveOneOut)
