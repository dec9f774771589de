"""estimate(x, y): three splits, a fresh critic, a value on pairs that it never saw, and whether to believe it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from infomax.errors import UserError
from infomax.estimation import checks, inputs, uncertainty
from infomax.estimation.inputs import Pairs
from infomax.estimation.methods import DEFAULT, Budget, fitted, leaning
from infomax.estimation.methods import objective as named
from infomax.estimation.result import Check, Estimate
from infomax.objectives import Objective


def estimate(
    x: Any,
    y: Any,
    objective: str | Objective = DEFAULT,
    critic: str | nn.Module = "Separable",
    seed: int = 0,
    budget: Budget | None = None,
    *,
    ids: Any = None,
    device: str | torch.device = "cpu",
) -> Estimate:
    """The mutual information, in nats, of pairs x [n, ...] and y [n, ...], numpy or torch; row i of both is a pair.

    objective: any row of `infomax.estimation.registry`, as a text such as "SMILE(tau=3)" or an object. critic: a text
    such as "Concat" or "Separable(hidden=64)", or a module, of which a copy is trained. ids [n]: rows of one id are
    views of one sample; they stay in one split and are no negatives of each other. A column of integers is read as
    a label.
    Same arguments and seed, same numbers; the global random state is left as it was.
    Raises UserError: x and y of different lengths, fewer than 50 pairs, NaN or infinity (which rows), a constant side,
    integers that are no labels, an unknown objective or critic. x equal to y, copied pairs and constant columns are
    told in the checks.
    """
    budget = budget or Budget()
    [pairs], found, cap = inputs.prepared([(x, y, ids)])
    fit, select, report = inputs.split(pairs, budget.parts, seed)
    return _estimate(fit, select, report, found, cap, objective, critic, seed, budget, str(device))


def estimate_splits(
    fit: Sequence[Any],
    select: Sequence[Any],
    report: Sequence[Any],
    objective: str | Objective = DEFAULT,
    critic: str | nn.Module = "Separable",
    seed: int = 0,
    budget: Budget | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Estimate:
    """`estimate` with given splits, each (x, y) or (x, y, ids); no id may be in two of them.

    `budget.parts` is unused. Raises UserError as `estimate` does, and for a split of fewer than 10 pairs.
    """
    parts = [(*part, None) if len(part) == 2 else tuple(part) for part in (fit, select, report)]
    pairs, found, cap = inputs.prepared(parts)
    for name, part in zip(("fit", "select", "report"), pairs, strict=True):
        if len(part) < inputs.FEWEST_A_SPLIT:
            raise UserError(f"The {name} split has {len(part)} pairs; it needs at least {inputs.FEWEST_A_SPLIT}.")
    return _estimate(pairs[0], pairs[1], pairs[2], found, cap, objective, critic, seed, budget or Budget(), str(device))


def _estimate(
    fit: Pairs,
    select: Pairs,
    report: Pairs,
    found: list[Check],
    cap: float | None,
    objective: str | Objective,
    critic: str | nn.Module,
    seed: int,
    budget: Budget,
    device: str,
) -> Estimate:
    # Modules initialise and drop out by the global generator: it is forked, and only the CPU's is seeded, as seeding
    # all devices would reach a user's GPU state.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = named(objective)
        result = fitted(method, critic, fit, select, budget, seed, device)
        other, other_error = uncertainty.rival(result, fit, select, report)
        # Shuffled, since a value on the first m pairs, and the floor's blocks, mean nothing on rows that are in order.
        fit, select, report = (inputs.shuffled(result.mapped(part), seed).to(device) for part in (fit, select, report))
        kind = leaning(method)
        mi = result.value(report)
        stderr, half = uncertainty.jackknife(result, report, seed)
        floor = uncertainty.floor(result, select, report)
        # As many pairs as report, since a value may depend on their number.
        on_fit, on_select = result.value(fit.first(len(report))), result.value(select.first(len(report)))
        ceiling = math.log(len(report))
        found = [
            *found,
            checks.finite(mi, stderr),
            checks.ceiling(mi, ceiling, kind),
            checks.splits(on_fit, on_select, mi, stderr),
            checks.bracket(mi - half, mi + half, floor, cap),
            checks.rival(mi + half, other, other_error),
            checks.negative(mi + half),
        ]
        if kind != "rows":
            log_partition, error, effective = uncertainty.partition(result, report)
            if method.fixes_constant:  # else the value does not depend on the constant that this looks at
                found.append(checks.normalisation(log_partition, error, effective))
            if kind == "partition":
                found.append(checks.effective(effective))
    return Estimate(
        mi=mi,
        stderr=stderr,
        interval=(mi - half, mi + half),
        n=len(fit) + len(select) + len(report),
        splits=(len(fit), len(select), len(report)),
        ceiling=ceiling,
        floor=floor,
        cap=cap,
        checks=tuple(found),
        method=repr(method),
        critic=repr(result.critic.residual),
        seed=seed,
        protocol={
            "budget": asdict(budget),
            "training": result.protocol,
            "value_on": {"fit": on_fit, "select": on_select, "report": mi},
            "interval": "delete-a-group jackknife over report ids, Student's t; given the critic",
            "floor": "one-sided 95 %, InfoNCE in disjoint blocks, betting bound",
            "torch": torch.__version__,
        },
    )
