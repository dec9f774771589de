"""The registry: every objective as an estimator of a value, and the estimators that are not objectives."""

import functools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from infomax import objectives
from infomax.errors import UserError
from infomax.estimation import fitting
from infomax.estimation.bases.normal_scores import Standard
from infomax.estimation.critic import gated
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.estimators import classical, generative
from infomax.estimation.estimators.copula_js import CopulaJS
from infomax.estimation.pairs import Pairs
from infomax.objectives import Objective
from infomax.scores import Scores
from infomax.spelling import parse


class Variational(Estimator):
    """An objective as an estimator, spelled as it: its surrogate trains the critic, its estimate is the value."""

    takes_critic = True

    def __init__(self, objective: Objective):
        self.objective = objective
        self.value_from, self.normalised = objective.value_from, objective.normalised

    def __repr__(self) -> str:
        return repr(self.objective)

    @property
    def trained_by(self) -> str:
        return self.objective.trained_by

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        maps = Standard(fit.x), Standard(fit.y)
        fit, select = (Pairs(maps[0](p.x), maps[1](p.y), p.ids).to(device) for p in (fit, select))
        model = gated(None, fitting.fresh(critic, fit)).to(device)
        fitting.require_scores(model, fit)
        trained = Variational(deepcopy(self.objective).to(device))  # running averages and baselines are the fit's own
        return Fitted(trained, model, maps, fitting.train(trained.objective, model, fit, select, budget, seed))

    def estimate(self, s: Scores) -> Tensor:
        return self.objective.estimate(s)


def _estimator(kind: type[Objective]) -> Callable[..., Variational]:
    @functools.wraps(kind, updated=())  # its name, docstring and parameters
    def make(*arguments: Any, **options: Any) -> Variational:
        return Variational(kind(*arguments, **options))

    return make


registry: dict[str, Callable[..., Estimator]] = {
    **{name: _estimator(kind) for name, kind in objectives.registry.items()},
    **{kind.__name__.lower(): kind for kind in (CopulaJS, *generative.ESTIMATORS, *classical.ESTIMATORS)},
}
DEFAULT = "CopulaJS"


def row(spelled: str | Estimator | Objective) -> Estimator:
    """The estimator that a text spells, from the registry or as `module:Class`; an objective becomes an estimator.

    spelled: a text such as "SMILE(tau=3)", an Estimator or an Objective. Raises UserError: an unknown name, with the
    nearest ones; arguments that the estimator refuses; what is not an estimator.
    """
    found = parse(spelled, registry, "estimator") if isinstance(spelled, str) else spelled
    if isinstance(found, Estimator):
        return found
    if isinstance(found, Objective):
        return Variational(found)
    if isinstance(spelled, str):
        raise UserError(f"estimator {spelled!r} has no estimate(scores); derive it from infomax.objectives.Objective.")
    raise UserError(f"estimator must be a name or have estimate(scores), and is {spelled!r}.")


def chosen(estimator: str | Estimator | Objective | None, objective: str | Estimator | Objective) -> Estimator:
    """The estimator of an argument with an earlier name. Raises UserError: both are given; else as `row`."""
    if estimator is None:
        return row(objective)
    if objective != DEFAULT:
        raise UserError(
            f"estimator={estimator!r} and objective={objective!r} are one argument by two names; give estimator."
        )
    return row(estimator)
