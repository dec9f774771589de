"""Learned residuals: one network a fold, all folds in one descent; and classifiers of labels likewise."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.critics import Embedded, InnerProduct
from infomax.estimation import fitting
from infomax.estimation.bases import discriminant, kernels
from infomax.estimation.bases.base import Base, Map, Unmixed
from infomax.estimation.bases.gains import is_gain, jensen_shannon, jensen_shannon_slope, rolled_scores
from infomax.estimation.bases.gaussian import COMPONENTS
from infomax.estimation.bases.normal_scores import hermite
from infomax.estimation.bases.pair_copula import noise, products
from infomax.estimation.critic import GatedCritic, gated
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.pairs import Pairs

HIDDEN, OUT, LAYERS = 128, 32, 2
STEPS, FEWER, PATIENCE = 1000, 600, 5  # at most, of the stacked residual; those from MANY training pairs on
LOOK = 250  # validation pairs that are each other's negatives
SEEN = 1000  # training rows, below which a classifier's network may learn what a score test does not see
LOST = 2  # looks of kernels that have lost already, for what so many pairs could show
RATE, DECAY = 8e-3, 1e-2
EPOCHS = 5  # at most, between two looks at a classifier's select pairs
EVIDENT = 2.5  # standard errors, of all folds together, from which something is fitted: by chance in one of 160
WORTH, CLEAR = 1e-3, 4.0  # many pairs see what is worth no descent: less than so many nats, and standard errors
MANY = 3000  # training pairs, from which on a network learns more than kernels do, in less time
ATTENUATED = 0.1  # how much weaker a column starts that no pair of columns speaks for


class Stack(nn.Module):
    """Networks of one shape, a fold each, in one: [folds, n, in] -> [folds, n, out]."""

    def __init__(self, folds: int, sizes: Sequence[int], silent: bool):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            # Wide enough a start for functions that bend: torch's own is 2.4 times narrower and learns far slower.
            bound = 0.0 if silent and i == len(sizes) - 2 else math.sqrt(6 / a)
            self.weights.append(nn.Parameter(torch.empty(folds, a, b).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(folds, 1, b).uniform_(-bound, bound)))

    def forward(self, t: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            t = torch.baddbmm(bias, F.silu(t) if i else t, weight)
        return t

    def fold(self, k: int) -> nn.Sequential:
        """One fold's network, alone."""
        layers: list[nn.Module] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data, linear.bias.data = weight[k].T.detach().clone(), bias[k, 0].detach().clone()
            layers += [linear, nn.SiLU()]
        return nn.Sequential(*layers[:-1])


class Columns(nn.Module):
    """What a network reads of a mapped side: its columns, weak ones weaker, and the length of the row."""

    weights: Tensor  # [d]

    def __init__(self, weights: Tensor):
        super().__init__()
        self.register_buffer("weights", weights)

    @property
    def width(self) -> int:
        """Of a row."""
        return len(self.weights) + (len(self.weights) > 1)

    def forward(self, z: Tensor) -> Tensor:
        d = z.shape[1]
        length = (z**2).mean(1, keepdim=True).add(1e-3).log() * math.sqrt(d / 2) if d > 1 else z[:, :0]
        return torch.cat([z * self.weights, length], 1)


class Residual(InnerProduct):
    """<g(x), h(y)> + c of features of each side."""

    def __init__(self, columns: tuple[Columns, Columns], g: nn.Module, h: nn.Module, constant: Tensor):
        super().__init__()
        self.columns_x, self.columns_y = columns
        self.g, self.h, self.constant = g, h, nn.Parameter(constant)

    @property
    def columns(self) -> tuple[Columns, Columns]:
        return self.columns_x, self.columns_y

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        g, h = self.g(self.columns_x(x)), self.h(self.columns_y(y))
        return torch.cat([g, self.constant.expand(len(g), 1)], 1), torch.cat([h, h.new_ones(len(h), 1)], 1)

    def __repr__(self) -> str:
        if isinstance(self.g, kernels.Kernels):
            return repr(self.g)
        return f"Separable(hidden={HIDDEN}, out={OUT}, layers={LAYERS}), SiLU"


class Nothing(InnerProduct):
    """A residual of zeros, where nothing was fitted."""

    def __init__(self, columns: tuple[Columns, Columns]):
        super().__init__()
        self.columns_x, self.columns_y = columns

    @property
    def columns(self) -> tuple[Columns, Columns]:
        return self.columns_x, self.columns_y

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        return x.new_zeros(len(x), 1), y.new_zeros(len(y), 1)

    def __repr__(self) -> str:
        return "the copula alone"


def _columns(fit: Pairs) -> tuple[Columns, Columns]:
    """Columns that no column of the other side speaks for, in any product of Hermite polynomials of degree 1 to 3,
    start weaker: sparse dependence is then found among many columns. Where none or all are spoken for, all are equal;
    so they are in wide arrays, of which the polynomials would take several times the memory.
    """
    if max(fit.x.shape[1], fit.y.shape[1]) > COMPONENTS:
        return Columns(torch.ones(fit.x.shape[1])), Columns(torch.ones(fit.y.shape[1]))
    known = products(hermite(fit.x), hermite(fit.y))
    heard = noise(len(fit), fit.x.shape[1], fit.y.shape[1])
    found = []
    for strongest in (known.amax((0, 2, 3)), known.amax((0, 1, 2))):
        spoken = strongest > heard
        found.append(torch.where(spoken, 1.0, ATTENUATED) if bool(spoken.any()) else torch.ones(len(spoken)))
    return Columns(found[0]), Columns(found[1])


def fitted_residuals(
    estimator: Estimator, bases: Sequence[Base], budget: Budget, seed: int, device: str
) -> list[Fitted]:
    """Adds to each fold's copula what validation pairs confirm: kernels, or a network where these leave something over.

    Whether anything can be added is tested first, of all folds together. Most often nothing can, and a residual that
    was trained would be thrown away.
    """
    copulas = [base.copula.to(device) for base in bases]
    least = _evident_from(sum(len(base.select) for base in bases))
    columns = [_columns(base.fit) for base in bases]
    for pair in columns:
        for own in pair:
            own.to(device)
    fits, selects = [base.fit.to(device) for base in bases], [base.select.to(device) for base in bases]
    fold = list(zip(columns, fits, selects, strict=True))

    def evident(critics: Sequence[Any], role: int) -> float:
        each = [kernels.evidence(critic, *own, 2 * seed + role) for critic, own in zip(critics, fold, strict=True)]
        return sum(each) / math.sqrt(len(each))  # validation pairs of different folds are different pairs

    models: list[GatedCritic] = []
    gains: list[float] = []  # nats, on validation pairs
    protocols: list[dict[str, Any]] = []
    surest = evident(copulas, 0)
    for copula, own in zip(copulas, fold, strict=True):
        residual, how = Nothing(own[0]), {"steps": 0, "best_step": 0}
        # A zero critic's error is that of what lost to it, which is fitted for that alone.
        if copula.strength == 0 or (surest > least and len(own[1]) < MANY):
            sides, how = kernels.fitted(copula, *own, seed, patience=kernels.PATIENCE if surest > least else LOST)
            residual = Residual(own[0], *sides, own[1].x.new_zeros(1))
        model = gated(copula, residual).to(device).eval()
        gains.append(_gain(model, copula, own[2]) if surest > least else 0.0)
        model.open = gains[-1] > 0
        models.append(model)
        protocols.append(how | {"kept": "kernels" if model.open else "zero", "evidence": surest})
    if surest > least and (left := evident(models, 1)) > least:
        networks, ascents = _networks(copulas, fold, budget, seed, device)
        for k, network in enumerate(networks):
            model = gated(copulas[k], network).to(device).eval()
            protocols[k] |= {"evidence_after_kernels": left}
            if _gain(model, copulas[k], selects[k]) > gains[k]:
                models[k] = model
                protocols[k] |= {"kept": "trained"} | ascents[k]
    return [
        Fitted(estimator, model, base.maps, how | {
            "copula": base.copula.protocol(), "components": [isinstance(m, Unmixed) for m in base.maps]
        })
        for model, base, how in zip(models, bases, protocols, strict=True)
    ]  # fmt: skip


def _evident_from(pairs: int) -> float:
    """Standard errors of a score test on so many validation pairs in all, from which something is fitted. Half their
    square a pair is what a step along the slope gains."""
    return max(EVIDENT, min(CLEAR, math.sqrt(2 * WORTH * pairs)))


@torch.no_grad()
def _gain(model: Any, rival: Any, select: Pairs) -> float:
    """What validation pairs gain by a critic beside what it was made from, in nats of the Jensen-Shannon bound; 0 where
    they do not prefer it. The best of many is better by luck alone, so by one standard error; and not at the expense of
    high scores, which that bound hardly sees and a residual may spoil for the rest, nor of the value, which what was
    missing raises and too smooth a residual may lower: by no more than a mean ratio above 1 had raised it."""
    new, old = (rolled_scores(critic, select.x, select.y) for critic in (model, rival))
    gain, high = new.js_shares() - old.js_shares(), new.infonce_shares() - old.infonce_shares()
    if not (is_gain(gain) and float(high.mean()) > 0):
        return 0.0
    value, before = float(new.own.mean()), float(old.own.mean())
    return float(gain.mean()) if value > before - max(0.0, old.log_partition()) else 0.0


def _networks(
    copulas: Sequence[Any], fold: Sequence[tuple[tuple[Columns, Columns], Pairs, Pairs]], budget: Budget,
    seed: int, device: str,
) -> tuple[list[Residual], list[dict[str, Any]]]:  # fmt: skip
    """A network for each fold, added to its copula, all in one ascent; and how that went."""
    splits = {}
    for name, at in (("fit", 1), ("select", 2)):
        parts: list[Pairs] = [own[at] for own in fold]  # type: ignore[misc]
        least = min(map(len, parts))
        parts = [part.first(least) for part in parts]
        with torch.no_grad():
            embedded = [copula.embed(part.x, part.y) for copula, part in zip(copulas, parts, strict=True)]
        splits[name] = _Stacked(
            torch.stack([own[0][0](part.x) for own, part in zip(fold, parts, strict=True)]),
            torch.stack([own[0][1](part.y) for own, part in zip(fold, parts, strict=True)]),
            torch.stack([part.ids for part in parts]), copulas, embedded,
        )  # fmt: skip
    fit, select = splits["fit"], splits["select"]
    folds = len(copulas)
    g = Stack(folds, (fit.x.shape[2], *[HIDDEN] * LAYERS, OUT), silent=False).to(device)
    h = Stack(folds, (fit.y.shape[2], *[HIDDEN] * LAYERS, OUT), silent=True).to(device)
    constant = nn.Parameter(torch.zeros(folds, 1, 1, device=device))

    def bound(part: _Stacked, index: Tensor | slice) -> Tensor:
        """Or, where gradients are asked for, what has the bound's."""
        gx, hy = g(part.x[:, index]), h(part.y[:, index])
        ascends = torch.is_grad_enabled()
        ids = None if part.ids is None else part.ids[:, index]
        with torch.no_grad():
            s = torch.baddbmm(constant + part.base(index), gx, hy.transpose(1, 2))
            if not ascends:
                return jensen_shannon(s, ids)
            slope = jensen_shannon_slope(s, ids)
            towards_g, towards_h, towards_c = slope @ hy, slope.transpose(1, 2) @ gx, slope.sum((1, 2))
        return (gx * towards_g).sum((1, 2)) + (hy * towards_h).sum((1, 2)) + constant[:, 0, 0] * towards_c

    ascents = _ascended([*g.parameters(), *h.parameters(), constant], fit, select, bound, budget, seed)
    found = [Residual(own[0], g.fold(k), h.fold(k), constant[k, 0].detach().clone()) for k, own in enumerate(fold)]
    return found, ascents


class _Stacked:
    """Features of every fold's pairs, [folds, n, ...], beside what the folds' bases made of them."""

    def __init__(
        self, x: Tensor, y: Tensor, ids: Tensor, bases: Sequence[Any], embedded: Sequence[tuple[Tensor, Tensor]]
    ):
        self.x, self.y, self.bases, self.embedded = x, y, bases, embedded
        repeated = any(len(own.unique()) < len(own) for own in ids)
        self.ids = ids.to(x.device) if repeated else None  # None: all rows differ

    def __len__(self) -> int:
        return self.x.shape[1]

    @torch.no_grad()
    def base(self, index: Tensor | slice) -> Tensor:
        """The bases' scores of the indexed rows [folds, b, b]."""
        found = zip(self.bases, self.embedded, strict=True)
        return torch.stack([base.score(ex[index], ey[index]) for base, (ex, ey) in found])


def _ascended(
    parameters: list[nn.Parameter],
    fit: Any,
    select: Any,
    bound: Callable[[Any, Any], Tensor],
    budget: Budget,
    seed: int,
    every: int | None = None,
) -> list[dict[str, Any]]:
    """Ascends `bound` [folds] on batches of training pairs; each fold keeps its weights of the best on validation."""

    @torch.no_grad()
    def criterion() -> Tensor:
        number = max(1, len(select) // LOOK)  # parts, which bound memory and time
        parts = torch.arange(len(select), device=select.x.device).tensor_split(number)
        return torch.stack([bound(select, part) for part in parts]).mean(0)

    how = fitting.Ascent(
        min(budget.steps, FEWER if len(fit) >= MANY else STEPS), budget.batch_size, RATE, every or budget.every,
        min(budget.patience, PATIENCE), DECAY, scheduled=True,
    )  # fmt: skip
    result = fitting.ascend(
        parameters, lambda index: bound(fit, index.to(fit.x.device)), criterion, lambda: parameters, len(fit), how,
        seed, criterion(),
    )  # fmt: skip
    return [{"steps": result.steps, "best_step": int(step)} for step in result.best_step]


class Network(nn.Sequential):
    """A fold's network on a side's columns."""

    def __repr__(self) -> str:
        return f"Network(hidden={HIDDEN}, layers={LAYERS})"


@dataclass(frozen=True)
class _Labelled:
    x: Tensor  # [folds, n, d], features
    y: Tensor  # [folds, n], labels
    known: Tensor  # [folds, n, labels], logits of the base
    log_prior: Tensor  # [folds, n], of the rows' labels

    def __len__(self) -> int:
        return self.x.shape[1]

    def log_ratio(self, learned: Tensor, index: Tensor | slice, doubt: float) -> Tensor:
        """Of the indexed rows [folds, b], with what a network adds to the base's logits."""
        log_q = (self.known[:, index] + learned).log_softmax(2).gather(2, self.y[:, index, None]).squeeze(2)
        return discriminant.mixed(log_q - self.log_prior[:, index], doubt)

    def surprise(self, k: int) -> Tensor:
        """By how much each label of fold k is there more than the base said [n, labels]."""
        return F.one_hot(self.y[k], self.known.shape[2]) - self.known[k].softmax(1)


def fitted_classifiers(
    estimator: Estimator, folds: Sequence[tuple[Pairs, Pairs]], label: int, budget: Budget, seed: int, device: str
) -> list[Fitted]:
    """Each fold's closed form, and what a network, which starts at 0, adds to its logits by the labels' likelihood."""
    doubt = 1 / min(len(select) for _, select in folds)  # what none of n select rows shows may be in one of n
    bases = [discriminant.base_of(fit, select, label, doubt) for fit, select in folds]
    columns: list[Columns] = []
    parts: dict[str, list[tuple[Tensor, ...]]] = {"fit": [], "select": []}
    for base, both in zip(bases, folds, strict=True):
        for name, part in zip(parts, both, strict=True):
            other, own = (part.x, part.y) if label == 1 else (part.y, part.x)
            z, y = base.map(other), own.argmax(1)
            if name == "fit":
                columns.append(Columns(torch.ones(z.shape[1])))
            known = base.log_prior.expand(len(z), -1) if base.classifier is None else base.classifier.logits(z)
            parts[name].append((columns[-1](z), y, known, base.log_prior[y]))

    def stacked(name: str) -> _Labelled:
        least = min(len(part[0]) for part in parts[name])
        return _Labelled(*(torch.stack([t[:least] for t in of]).to(device) for of in zip(*parts[name], strict=True)))

    fit, select = stacked("fit"), stacked("select")
    labels = len(bases[0].log_prior)
    network = Stack(len(folds), (fit.x.shape[2], *[HIDDEN] * LAYERS, labels), silent=True).to(device)
    every = min(budget.every, math.ceil(EPOCHS * len(fit) / min(budget.batch_size, len(fit))))

    def bound(part: _Labelled, index: Tensor | slice) -> Tensor:
        return part.log_ratio(network(part.x[:, index]), index, doubt).mean(1)

    surprises = [(fit.surprise(k), select.surprise(k)) for k in range(len(folds))]
    each = [
        kernels.label_evidence(fit.x[k], own, select.x[k], other, 2 * seed) for k, (own, other) in enumerate(surprises)
    ]
    surest = sum(each) / math.sqrt(len(each))
    ascents: list[dict[str, Any]] = [{"steps": 0, "best_step": 0} for _ in folds]
    if surest > _evident_from(len(folds) * len(select)) or len(fit) < SEEN:
        ascents = _ascended(list(network.parameters()), fit, select, bound, budget, seed, every)
    with torch.no_grad():
        all_rows = slice(None)
        learned = network(select.x)
        gains = select.log_ratio(learned, all_rows, doubt) - select.log_ratio(0 * learned, all_rows, doubt)
    found = []
    for k, (base, gain) in enumerate(zip(bases, gains, strict=True)):
        # The best of many looks beats the base by luck alone: it has to by one standard error.
        kept = is_gain(gain)
        # Where all is zero, the plain closed form stays behind the closed gate: its noise says how little such pairs
        # could show.
        lost = base.classifier is None and not kept
        inner = base.plain if lost else Network(columns[k], *network.fold(k))
        model = discriminant.Classifier(label, base.log_prior, doubt, inner, base=base.classifier)
        model.open = kept
        protocol = ascents[k] | {
            "kept": "trained" if kept else "zero", "base": base.protocol, "labels": labels, "evidence": surest,
        }  # fmt: skip
        maps: tuple[Map, Map] = (
            (base.map, discriminant.as_they_are) if label == 1 else (discriminant.as_they_are, base.map)
        )
        found.append(Fitted(estimator, model.to(device).eval(), maps, protocol))
    return found
