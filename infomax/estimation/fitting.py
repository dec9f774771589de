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
from torch.optim.adamw import adamw

from infomax import critics
from infomax.errors import UserError
from infomax.estimation.critic import GatedCritic
from infomax.estimation.estimator import Budget, scores
from infomax.estimation.pairs import Pairs, jackknife_error, without_a_group
from infomax.objectives import Objective
from infomax.spelling import parse

DEFAULT_CRITIC = "Separable"
GAIN_GROUPS = 10
CLIP = 5.0  # the norm of a gradient, at most, times the number of critics
WARM = 50  # steps


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


@dataclass(frozen=True)
class Ascent:
    """How critics are trained: at most `steps` steps of AdamW on batches of `batch_size` pairs, at `rate`.

    every: steps from one look at the validation pairs to the next; patience: looks that may bring nothing better.
    decay: AdamW's, of weights. scheduled: whether the rate rises for 50 steps and then falls to 0 as a half cosine.
    """

    steps: int
    batch_size: int
    rate: float
    every: int
    patience: int
    decay: float = 0.0
    scheduled: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, from 1."""
        if not self.scheduled:
            return self.rate
        return self.rate * min(1.0, step / WARM) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class FitResult:
    """The best that an ascent met: its criterion, [] or [critics], its step, the steps taken, and why no more."""

    best: Tensor
    best_step: Tensor
    steps: int
    stopped: str


class _AdamW:
    """torch's AdamW with its defaults, by the function that is behind it: the first torch.optim.Optimizer of a process
    imports torch's compiler, which takes seconds. (Loshchilov & Hutter, 2019)"""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.decay = decay
        self.state = [(p, torch.zeros_like(p), torch.zeros_like(p), torch.tensor(0.0)) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at a learning rate."""
        held = [entry for entry in self.state if entry[0].grad is not None]
        if not held:
            return
        weights, means, squares, steps = (list(column) for column in zip(*held, strict=True))
        gradients = [p.grad for p in weights]
        # On a CPU one kernel a tensor instead of ten: an eighth of the time.
        fused = all(p.device.type == "cpu" and p.is_floating_point() for p in weights)
        adamw(
            weights, gradients, means, squares, [], steps, amsgrad=False, beta1=0.9, beta2=0.999, lr=rate,
            weight_decay=self.decay, eps=1e-8, maximize=False, foreach=False if fused else None, fused=fused or None,
        )  # fmt: skip


def ascend(
    parameters: Sequence[nn.Parameter],
    bound: Callable[[Tensor], Tensor],
    criterion: Callable[[], Tensor],
    kept: Callable[[], Sequence[Tensor]],
    pairs: int,
    how: Ascent,
    seed: int,
    start: Tensor,
    after: Callable[[int], None] | None = None,
) -> FitResult:
    """Trains one critic, or several that are stacked along the first axis of all tensors: the only such loop.

    parameters: what is trained. bound: from the numbers of a batch's training pairs [b], what is ascended, [] or
    [critics]. criterion: of the validation pairs, what says which state is best, [] or [critics]. kept: the tensors of
    a state, which are left at each critic's best. pairs: how many training pairs there are. start: the criterion of the
    state before the first step, or -inf where any later state is preferred. after: called with the number of each step
    that was taken.
    """
    best, best_step = start, torch.zeros(start.shape)
    if not parameters or how.steps == 0:
        return FitResult(best, best_step, 0, "there was nothing to train")
    state = [t.detach().clone() for t in kept()]
    size, clip = min(how.batch_size, pairs), CLIP * max(1, start.numel())
    optimizer = _AdamW(parameters, how.decay)
    generator = torch.Generator().manual_seed(seed)
    stopped, step, order = "the budget was used up", 0, torch.empty(0, dtype=torch.long)
    for step in range(1, how.steps + 1):
        if len(order) < size:
            order = torch.randperm(pairs, generator=generator)
        index, order = order[:size], order[size:]
        loss = -bound(index).sum()
        for p in parameters:
            p.grad = None
        loss.backward()
        if not bool(torch.nn.utils.clip_grad_norm_(parameters, clip).isfinite()):
            stopped = f"the gradient was not finite at step {step}"
            break
        optimizer.step(how.rate_at(step))
        if after is not None:
            after(step)
        if step % how.every == 0 or step == how.steps:
            value = criterion()
            better = value > best  # never for one that is not a number
            for saved, t in zip(state, kept(), strict=True):
                saved[better] = t.detach()[better]
            best, best_step = torch.where(better, value, best), torch.where(better.cpu(), float(step), best_step)
            if step - float(best_step.max()) >= how.every * how.patience:
                stopped = "the validation pairs stopped improving"
                break
    with torch.no_grad():
        for saved, t in zip(state, kept(), strict=True):
            t.copy_(saved)
    return FitResult(best, best_step, step, stopped)


def train(
    objective: Objective, model: GatedCritic, fit: Pairs, select: Pairs, budget: Budget, seed: int
) -> dict[str, Any]:
    """Trains a critic and its objective in place on mapped pairs, and closes the gate where that gained nothing.

    fit, select: training and validation pairs. Returns how it went, for the protocol.
    """

    def criterion(pairs: Pairs = select) -> float:
        model.eval()
        objective.eval()
        formula = objective.surrogate if objective.select_by_surrogate else objective.estimate
        with torch.no_grad():
            value = float(formula(scores(model, pairs)))
        model.train()
        objective.train()
        return value if math.isfinite(value) else -math.inf

    model.open = False
    zero = criterion()
    model.open = True
    start, initial = criterion(), _state(model, objective)
    result = ascend_budget(
        (model, objective), lambda batch: objective.surrogate(scores(model, batch)), criterion, fit, budget, seed
    )
    best, best_step = float(result.best), int(result.best_step)
    if start > zero and start >= best:
        best, best_step = start, 0
        model.load_state_dict(initial[0])
        objective.load_state_dict(initial[1])
    # Where zero is best, the weights stay behind the closed gate: their noise says how little such data could show.
    learned = _state(objective)[0]
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
            objective.load_state_dict(learned)
            gains.append(criterion(rest) - without)
        gain_error = jackknife_error(gains)
    model.open = best - zero > gain_error
    if not model.open:
        objective.load_state_dict(initial[1])
    model.eval()
    objective.eval()
    return {
        "steps": result.steps,
        "best_step": best_step,
        "stopped": result.stopped,
        "kept": "trained" if model.open and best_step else "untrained" if model.open else "zero",
        "criterion_on_select": best,
        "criterion_of_zero": zero,
        "gain_error": gain_error,
    }


def ascend_budget(
    modules: Sequence[nn.Module],
    bound: Callable[[Pairs], Tensor],
    criterion: Callable[[], float],
    fit: Pairs,
    budget: Budget,
    seed: int,
    rate: float = 1.0,
) -> FitResult:
    """`ascend` of modules by a user's budget, from the first state that was looked at, on batches of pairs.

    bound: [] of a batch. criterion: of the validation pairs. fit: the training pairs. rate: times the budget's.
    """
    return ascend(
        [p for module in modules for p in module.parameters() if p.requires_grad],
        lambda index: bound(fit[index.to(fit.x.device)]),
        lambda: torch.tensor(criterion(), dtype=torch.float64),
        lambda: [t for module in modules for t in module.state_dict().values()],
        len(fit),
        Ascent(budget.steps, budget.batch_size, rate * budget.learning_rate, budget.every, budget.patience),
        seed,
        torch.tensor(-math.inf, dtype=torch.float64),
    )


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
    """Raises UserError: a critic that cannot score such pairs."""
    try:
        with torch.no_grad():
            critic.pair(*critic.embed(pairs.x[:2], pairs.y[:2]))
    except (UserError, RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"The critic {critic.named} cannot score x with {pairs.x.shape[1]} and y with {pairs.y.shape[1]} "
            f"columns: {str(error).removesuffix('.')}."
        ) from error
