"""The default estimator: a base in closed form, and a learned residual for what the base missed."""

from torch import Tensor, nn

from infomax.estimation import fitting
from infomax.estimation.copula import GaussianCopula, NormalScores
from infomax.estimation.inputs import Pairs
from infomax.estimation.rows import Budget, Estimator, Fitted
from infomax.objectives import JSPlugin
from infomax.scores import Scores


class CopulaJS(Estimator):
    """A Gaussian copula in closed form plus a learned residual: log r = log r_copula + f. The default.

    f starts at 0 and learns by the Jensen-Shannon bound, so that only what the copula missed costs samples. No bound:
    its value is the plug-in mean of log r. Ceiling: none in the value. Variance: that of log r over pairs.
    (This project; Gaussian copula: Joe, 1989; plug-in: Letizia & Tonello, 2022)
    """

    takes_critic = True

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        maps = NormalScores(fit.x), NormalScores(fit.y)
        fit, select = (Pairs(maps[0](p.x), maps[1](p.y), p.ids) for p in (fit, select))
        base = GaussianCopula(fit.x, fit.y, select.x, select.y)
        residual = fitting.fresh(critic, fit)
        if not isinstance(critic, nn.Module):  # a module that was handed in keeps what it knows
            fitting.silence(residual)
        model = fitting.Together(base, residual).to(device)
        fit, select = fit.to(device), select.to(device)
        fitting.require_scores(model, fit)
        protocol = fitting.train(JSPlugin(), model, fit, select, budget, seed)
        protocol["copula"] = {"strength": base.strength, "ridge": base.ridge, "select_nats": base.value_on_select}
        return Fitted(self, model, maps, protocol)

    def estimate(self, s: Scores) -> Tensor:
        return s.positive.mean()
