"""How a critic is fitted: from its text to weights that were stopped and chosen on the select split."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infomax import critics
from infomax.errors import UserError
from infomax.estimation.bases.pair_copula import Base
from infomax.estimation.estimator import Budget, scores
from infomax.estimation.pairs import Pairs, jackknife_error, without_a_group
from infomax.objectives import Objective
from infomax.spelling import parse

DEFAULT_CRITIC = "Separable"
GAIN_GROUPS = 10


def fresh(critic: str | nn.Module | None, pairs: Pairs) -> Any:
    """A fresh critic of such pairs: from its text, sizes filled in, or a copy of a given module; None: the default."""
    if isinstance(critic, nn.Module):
        return deepcopy(critic)
    dx, dy = pairs.x.shape[1], pairs.y.shape[1]
    sized = {
        name: functools.partial(kind, dx, dy) if "dx" in inspect.signature(kind).parameters else kind
        for name, kind in critics.registry.items()
    }
    return parse(DEFAULT_CRITIC if critic is None else critic, sized, "critic")


def reads_images(critic: str | nn.Module | None) -> bool:
    """Whether a critic needs all columns of its sides, as it reads them as images."""
    if not isinstance(critic, str):
        return hasattr(critic, "shape")
    kind = critics.registry.get(critic.partition("(")[0].strip().lower())
    return kind is not None and "shape" in inspect.signature(kind).parameters


class Together(nn.Module):
    """The sum of a base (or none) and a residual that a gate can close: one critic, embeddings side by side."""

    def __init__(self, base: Base | None, residual: Any):
        super().__init__()
        self.base, self.residual, self.open = base, residual, True

    @property
    def is_zero(self) -> bool:
        """Whether every score is 0, by choice on the select split."""
        return not self.open and (self.base is None or self.base.strength == 0)

    @property
    def width(self) -> int:
        return getattr(self.residual, "width", 1)

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ex, ey = self.residual.embed(x, y)
        if self.base is None:
            return ex, ey
        bx, by = self.base.embed(x, y)
        return torch.cat([bx, ex], 1), torch.cat([by, ey], 1)

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        return self._sum(ex, ey, "score")

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        return self._sum(ex, ey, "pair")

    def _sum(self, ex: Tensor, ey: Tensor, kind: str) -> Tensor:
        if self.base is None:
            s = getattr(self.residual, kind)(ex, ey)
            return s if self.open else torch.zeros_like(s)
        k = self.base.features
        s = getattr(self.base, kind)(ex[:, :k], ey[:, :k])
        return s + getattr(self.residual, kind)(ex[:, k:], ey[:, k:]) if self.open else s


@dataclass(frozen=True)
class Climbed:
    """The best state that a climb met: that of each module, its criterion, its step, and why there were no more."""

    best: float
    best_step: int
    state: list[dict[str, Any]]
    steps: int
    stopped: str


def climb(
    modules: Sequence[nn.Module],
    gain: Callable[[Pairs], Tensor],
    criterion: Callable[[], float],
    fit: Pairs,
    budget: Budget,
    seed: int,
    rate: float = 1.0,
) -> Climbed:
    """Adam on batches of `fit`, up `gain` [0-d], until `criterion` stops rising; modules are left where it ended.

    rate: times the budget's learning rate. With nothing to train, the best is -inf at step 0.
    """
    best, best_step, state = -math.inf, 0, _state(*modules)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    size = min(budget.batch_size, len(fit))
    generator = torch.Generator().manual_seed(seed)
    stopped, step = "the budget was used up", 0
    if not parameters or budget.steps == 0:
        return Climbed(best, best_step, state, step, "there was nothing to train")
    optimizer = torch.optim.Adam(parameters, lr=rate * budget.learning_rate)
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, budget.steps + 1):
        if len(order) < size:
            order = torch.randperm(len(fit), generator=generator)
        batch, order = fit[order[:size].to(fit.x.device)], order[size:]
        loss = -gain(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        if not bool(norm.isfinite()):
            stopped = f"the gradient was not finite at step {step}"
            break
        optimizer.step()
        if step % budget.every == 0 or step == budget.steps:
            value = criterion()
            if value > best:
                best, best_step, state = value, step, _state(*modules)
            elif step - best_step >= budget.every * budget.patience:
                stopped = "the select split stopped improving"
                break
    return Climbed(best, best_step, state, step, stopped)


def train(
    objective: Objective, model: Together, fit: Pairs, select: Pairs, budget: Budget, seed: int
) -> dict[str, Any]:
    """Trains model and objective in place on mapped pairs; returns how it went, for the protocol."""

    def criterion(pairs: Pairs = select) -> float:
        model.eval()
        objective.eval()
        formula = objective.surrogate if objective.ranked_by_surrogate else objective.estimate
        with torch.no_grad():
            value = float(formula(scores(model, pairs)))
        model.train()
        objective.train()
        return value if math.isfinite(value) else -math.inf

    model.open = False
    zero = criterion()
    model.open = True
    start, initial = criterion(), _state(model, objective)
    climbed = climb((model, objective), lambda p: objective.surrogate(scores(model, p)), criterion, fit, budget, seed)
    best, best_step, state = climbed.best, climbed.best_step, climbed.state
    if start > zero and start >= best:
        best, best_step, state = start, 0, initial
    # Where zero is best, the weights stay behind the closed gate: their noise says how little such data could show.
    model.load_state_dict(state[0])
    objective.load_state_dict(state[1])
    gain_error = 0.0
    if best > zero:
        # The best of many evaluations beats zero by luck alone: it has to by one standard error.
        gains: list[float] = []
        for index in without_a_group(select, GAIN_GROUPS, seed):
            rest = select[index]
            model.open = False
            objective.load_state_dict(initial[1])  # a constant that was learnt belongs to the critic that was learnt
            without = criterion(rest)
            model.open = True
            objective.load_state_dict(state[1])
            gains.append(criterion(rest) - without)
        gain_error = jackknife_error(gains)
    model.open = best - zero > gain_error
    if not model.open:
        objective.load_state_dict(initial[1])
    model.eval()
    objective.eval()
    return {
        "steps": climbed.steps,
        "best_step": best_step,
        "stopped": climbed.stopped,
        "kept": "trained" if model.open and best_step else "untrained" if model.open else "zero",
        "criterion_on_select": best,
        "criterion_of_zero": zero,
        "gain_error": gain_error,
    }


def _state(*modules: nn.Module) -> list[dict[str, Any]]:
    return [{name: t.detach().clone() for name, t in m.state_dict().items()} for m in modules]


def silence(critic: Any) -> None:
    """Makes an inner product of networks start at 0: the last layer of one side, so that gradients still flow."""
    side = getattr(critic, "h", None) or getattr(critic, "rest", None)
    last = side[-1] if isinstance(side, nn.Sequential) else None
    if isinstance(last, nn.Linear):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def require_scores(critic: Any, pairs: Pairs) -> None:
    try:
        with torch.no_grad():
            critic.pair(*critic.embed(pairs.x[:2], pairs.y[:2]))
    except (UserError, RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"The critic {critic.residual!r} cannot score x with {pairs.x.shape[1]} and y with {pairs.y.shape[1]} "
            f"columns: {str(error).removesuffix('.')}."
        ) from error
