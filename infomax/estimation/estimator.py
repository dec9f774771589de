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
from infomax.estimation.methods import DEFAULT, row
from infomax.estimation.result import Check, Estimate
from infomax.estimation.rows import Budget, Estimator, Fitted
from infomax.objectives import Objective


def estimate(
    x: Any,
    y: Any,
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    *,
    ids: Any = None,
    device: str | torch.device = "cpu",
) -> Estimate:
    """The mutual information, in nats, of pairs x [n, ...] and y [n, ...], numpy or torch; row i of both is a pair.

    objective: any row of `infomax.estimation.registry`, as a text such as "SMILE(tau=3)" or an object. critic: a text
    such as "Concat" or "Separable(hidden=64)", or a module, of which a copy is trained; by default Separable. ids [n]:
    rows of one id are views of one sample; they stay in one split and are no negatives of each other. A column of
    integers is read as a label.
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
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
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
    objective: str | Estimator | Objective,
    critic: str | nn.Module | None,
    seed: int,
    budget: Budget,
    device: str,
) -> Estimate:
    # Modules initialise and drop out by the global generator: it is forked, and only the CPU's is seeded, as seeding
    # all devices would reach a user's GPU state.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        method = row(objective)
        if critic is not None and not method.takes_critic:
            raise UserError(f"{method!r} trains no critic of yours: leave the critic {critic!r} out.")
        result = method.fit(fit, select, critic, budget, seed, device)
        rival = uncertainty.gaussian(result, fit, select)
        other, other_error = uncertainty.rival(rival, report)
        # Whatever bounds MI from below may certify the floor, so a row without a critic borrows the rival's.
        certifies = rival if result.critic is None else result
        on = "cpu" if certifies is rival else device
        floor_select, floor_report = (_read_by(certifies, part, seed, on) for part in (select, report))
        floor = uncertainty.floor(certifies.critic, floor_select, floor_report)
        if method.reads_all:
            report = inputs.joined([fit, select, report])
            fit, select = fit.first(0), select.first(0)
        # Shuffled, since a value on the first m pairs, and the floor's blocks, mean nothing on rows that are in order.
        fit, select, report = (_read_by(result, part, seed, device) for part in (fit, select, report))
        kind = method.leans_on
        mi = result.value(report)
        stderr, half = uncertainty.jackknife(result, report, seed)
        value_on = {"report": mi}
        if not method.reads_all:  # as many pairs as report, since a value may depend on their number
            value_on |= {name: result.value(p.first(len(report))) for name, p in (("fit", fit), ("select", select))}
        ceiling = math.log(len(report))
        found = [
            *found,
            *result.checks,
            checks.finite(mi, stderr),
            checks.ceiling(mi, ceiling, kind),
            *([] if method.reads_all else [checks.splits(value_on["fit"], value_on["select"], mi, stderr)]),
            checks.bracket(mi - half, mi + half, floor, cap),
            checks.rival(mi + half, other, other_error),
            checks.negative(mi + half),
        ]
        s = None if kind == "rows" else result.scores(report)
        if s is not None:
            log_partition, error, effective = uncertainty.partition(s)
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
        critic=result.named,
        seed=seed,
        protocol={
            "budget": asdict(budget),
            "training": result.protocol,
            "value_on": value_on,
            "interval": "delete-a-group jackknife over report ids, Student's t; given the critic",
            "floor": "one-sided 95 %, InfoNCE in disjoint blocks, betting bound",
            "torch": torch.__version__,
        },
    )


def _read_by(fitted: Fitted, part: Pairs, seed: int, device: str) -> Pairs:
    return inputs.shuffled(fitted.mapped(part), seed).to(device)
