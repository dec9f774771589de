"""The estimators of a value, a row each: every objective, and those that are not objectives."""

import functools
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infomax import critics, objectives
from infomax.errors import UserError
from infomax.estimation.copula import GaussianCopula, NormalScores, Standard
from infomax.estimation.inputs import Pairs, jackknife_error, without_a_group
from infomax.objectives import Objective, jensen_shannon
from infomax.parsing import parse
from infomax.scores import Scores

# What a value leans on, and with it which checks apply: "rows" on each row's own negatives (never above log N),
# "partition" on a mean of e^s over all negatives, "plug-in" on the critic alone.
Leaning = Literal["rows", "partition", "plug-in"]


@dataclass(frozen=True)
class Budget:
    """How long a critic may train: at most `steps` steps of `batch_size` pairs; it stops when `patience` evaluations on
    the select split, one every `every` steps, bring nothing better. `parts`: of the ids, how many fit, select, report.
    """

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 5e-4
    every: int = 50
    patience: int = 10
    parts: tuple[float, float, float] = (0.6, 0.15, 0.25)

    def __post_init__(self):
        for name in ("steps", "batch_size", "every", "patience", "learning_rate"):
            least = {"batch_size": 3, "steps": 0}.get(name, 1)
            value = getattr(self, name)
            if not (value > 0 if name == "learning_rate" else value >= least):
                raise UserError(f"Budget's {name} is {value}; at least {least} is needed, and a positive rate.")
        if len(self.parts) != 3 or min(self.parts) <= 0 or abs(sum(self.parts) - 1) > 1e-6:
            raise UserError(f"Budget's parts must be three positive shares that sum to 1, and are {self.parts}.")


class CopulaJS(Objective):
    """A Gaussian copula in closed form plus a learned residual: log r = log r_copula + f. The default.

    f starts at 0 and learns by the Jensen-Shannon bound, so that only what the copula missed costs samples. No bound:
    its value is the plug-in mean of log r. Ceiling: none in the value. Variance: that of log r over pairs.
    (This project; Gaussian copula: Joe, 1989; plug-in: Letizia & Tonello, 2022)
    """

    def surrogate(self, s: Scores) -> Tensor:
        return jensen_shannon(s)

    def estimate(self, s: Scores) -> Tensor:
        return s.positive.mean()


registry: dict[str, Callable[..., Any]] = {**objectives.registry, "copulajs": CopulaJS}
DEFAULT = "CopulaJS"

_LEANING: dict[type, Leaning] = {
    objectives.InfoNCE: "rows",
    objectives.Anchor: "plug-in",
    objectives.SigLIP: "plug-in",
    CopulaJS: "plug-in",
}
GAIN_GROUPS = 10

# Where the trained formula, not the value, says how good a critic is: a plug-in or clipped value grows without limit.
_SELECTED_BY_SURROGATE = (objectives.Anchor, objectives.SigLIP, objectives.JS, objectives.SMILE, CopulaJS)


def objective(text: str | Objective) -> Objective:
    """The estimator that a text spells, from the registry or as `module:Class`; an objective is copied."""
    if not isinstance(text, str):
        if not callable(getattr(text, "estimate", None)):
            raise UserError(f"objective must be a name or have estimate(scores), and is {text!r}.")
        return deepcopy(text)
    found = parse(text, registry, "estimator")
    if not callable(getattr(found, "estimate", None)):
        raise UserError(f"estimator {text!r} has no estimate(scores); derive it from infomax.objectives.Objective.")
    return found


def leaning(objective: Objective) -> Leaning:
    """What an objective's value leans on; a user's own is taken to lean on the partition."""
    return _LEANING.get(type(objective), "partition")


def critic(text: str | nn.Module, dx: int, dy: int) -> Any:
    """A fresh critic of x [n, dx] and y [n, dy]: from its text, sizes filled in, or a copy of a given module."""
    if not isinstance(text, str):
        return deepcopy(text)
    sized = {
        name: functools.partial(kind, dx, dy) if kind is not critics.Cosine else kind
        for name, kind in critics.registry.items()
    }
    return parse(text, sized, "critic")


class Together(nn.Module):
    """The sum of a base (or none) and a residual that a gate can close: one critic, embeddings side by side."""

    def __init__(self, base: GaussianCopula | None, residual: Any):
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
        k = self.base.rho.numel() + 2  # type: ignore[operator]
        s = getattr(self.base, kind)(ex[:, :k], ey[:, :k])
        return s + getattr(self.residual, kind)(ex[:, k:], ey[:, k:]) if self.open else s


@dataclass(frozen=True)
class Fitted:
    """A critic that is done learning, the maps that its sides go through first, and how it came about."""

    objective: Objective
    critic: Together
    maps: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
    protocol: dict[str, Any]

    def mapped(self, pairs: Pairs) -> Pairs:
        return Pairs(self.maps[0](pairs.x), self.maps[1](pairs.y), pairs.ids)

    def scores(self, mapped: Pairs) -> Scores:
        return _scores(self.critic, mapped)

    def value(self, mapped: Pairs) -> float:
        with torch.no_grad():
            return float(self.objective.estimate(self.scores(mapped)))


def fitted(
    objective: Objective, text: str | nn.Module, fit: Pairs, select: Pairs, budget: Budget, seed: int, device: str
) -> Fitted:
    """Trains a critic on `fit`, stopped and chosen on `select`. Draws from torch's CPU generator: fork it around."""
    on_copula = isinstance(objective, CopulaJS)
    kind = NormalScores if on_copula else Standard
    maps = kind(fit.x), kind(fit.y)
    fit = Pairs(maps[0](fit.x), maps[1](fit.y), fit.ids)
    select = Pairs(maps[0](select.x), maps[1](select.y), select.ids)
    base = GaussianCopula(fit.x, fit.y, select.x, select.y) if on_copula else None
    residual = critic(text, fit.x.shape[1], fit.y.shape[1])
    if base is not None:
        _silence(residual)
    model = Together(base, residual).to(device)
    objective = objective.to(device)
    fit, select = fit.to(device), select.to(device)
    _try(model, fit)
    protocol = _train(objective, model, fit, select, budget, seed)
    if base is not None:
        protocol["copula"] = {"strength": base.strength, "ridge": base.ridge, "select_nats": base.value_on_select}
    model.eval()
    objective.eval()
    return Fitted(objective, model, maps, protocol)


def _train(
    objective: Objective, model: Together, fit: Pairs, select: Pairs, budget: Budget, seed: int
) -> dict[str, Any]:
    def criterion(pairs: Pairs = select) -> float:
        model.eval()
        objective.eval()
        formula = objective.surrogate if isinstance(objective, _SELECTED_BY_SURROGATE) else objective.estimate
        with torch.no_grad():
            value = float(formula(_scores(model, pairs)))
        model.train()
        objective.train()
        return value if math.isfinite(value) else -math.inf

    model.open = False
    zero = criterion()
    model.open = True
    start, initial = criterion(), _state(model, objective)
    best, best_step, state = -math.inf, 0, initial
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    size = min(budget.batch_size, len(fit))
    generator = torch.Generator().manual_seed(seed)
    stopped, step = "the budget was used up", 0
    if not parameters or budget.steps == 0:
        stopped = "there was nothing to train"
    else:
        optimizer = torch.optim.Adam(parameters, lr=budget.learning_rate)
        order = torch.empty(0, dtype=torch.long)
        for step in range(1, budget.steps + 1):
            if len(order) < size:
                order = torch.randperm(len(fit), generator=generator)
            batch, order = fit[order[:size].to(fit.x.device)], order[size:]
            loss = -objective.surrogate(_scores(model, batch))
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
                    best, best_step, state = value, step, _state(model, objective)
                elif step - best_step >= budget.every * budget.patience:
                    stopped = "the select split stopped improving"
                    break
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
            without = criterion(rest)
            model.open = True
            gains.append(criterion(rest) - without)
        gain_error = jackknife_error(gains)
    model.open = best - zero > gain_error
    return {
        "steps": step,
        "best_step": best_step,
        "stopped": stopped,
        "kept": "trained" if model.open and best_step else "untrained" if model.open else "zero",
        "criterion_on_select": best,
        "criterion_of_zero": zero,
        "gain_error": gain_error,
    }


def _scores(critic: Any, pairs: Pairs) -> Scores:
    # Each process estimates on its own: an estimate is the same under a launcher as without.
    ids = None if len(pairs.ids.unique()) == len(pairs) else pairs.ids  # without ids a tile's mask is its diagonal
    return Scores(critic, pairs.x, pairs.y, ids, local=True)


def _state(*modules: nn.Module) -> list[dict[str, Any]]:
    return [{name: t.detach().clone() for name, t in m.state_dict().items()} for m in modules]


def _silence(critic: Any) -> None:
    """Makes an inner product of networks start at 0: the last layer of one side, so that gradients still flow."""
    side = getattr(critic, "h", None) or getattr(critic, "rest", None)
    last = side[-1] if isinstance(side, nn.Sequential) else None
    if isinstance(last, nn.Linear):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def _try(critic: Any, pairs: Pairs) -> None:
    try:
        with torch.no_grad():
            critic.pair(*critic.embed(pairs.x[:2], pairs.y[:2]))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"The critic {critic.residual!r} cannot score x with {pairs.x.shape[1]} and y with {pairs.y.shape[1]} "
            f"columns: {error}."
        ) from error
