"""estimate(x, y): three splits, a fresh critic, a value on pairs that it never saw, and whether to believe it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from infomax import errors
from infomax.errors import UserError
from infomax.estimation import fitting
from infomax.estimation import pairs as inputs
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.evidence import checks, rematching, uncertainty
from infomax.estimation.evidence.histogram import histogram
from infomax.estimation.pairs import Pairs
from infomax.estimation.registry import DEFAULT, row
from infomax.estimation.result import Check, Estimate
from infomax.objectives import Objective

CURVE = 500  # report pairs, on which the value from half of the pairs is read: more folds are not fitted again
WIDE = 50_000_000  # numbers in both sides, above which one split is fitted instead of folds


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
    integers that are no labels, an unknown objective or critic. x equal to y, copied pairs, rows in some order and
    constant columns are told in the checks.
    """
    budget = budget or Budget()
    errors.require_seed(seed)
    [pairs], found, cap = inputs.prepared([(x, y, ids)], fitting.reads_images(critic))
    return estimate_pairs(pairs, found, cap, objective, critic, seed, budget, str(device))


def estimate_pairs(
    pairs: Pairs,
    found: list[Check],
    cap: float | None,
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    device: str = "cpu",
) -> Estimate:
    """`estimate` of what `inputs.prepared` made of arrays: in folds if the estimator cross-fits, else in one split."""
    budget, method = budget or Budget(), row(objective)
    wide = len(pairs) * (pairs.x.shape[1] + pairs.y.shape[1]) > WIDE
    if method.cross_fits and critic is None and budget.folds > 1 and not wide:
        parts = inputs.folds(pairs, budget.folds, seed)
    else:
        parts = [inputs.split(pairs, budget.parts, seed)]
    return _estimate(parts, len(pairs), found, cap, method, critic, seed, budget, device)


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
    pairs, found, cap = inputs.prepared(parts, fitting.reads_images(critic))
    for name, part in zip(("fit", "select", "report"), pairs, strict=True):
        if len(part) < inputs.FEWEST_A_SPLIT:
            raise UserError(f"The {name} split has {len(part)} pairs; it needs at least {inputs.FEWEST_A_SPLIT}.")
    number = sum(map(len, pairs))
    return _estimate([pairs], number, found, cap, row(objective), critic, seed, budget or Budget(), str(device))


def _estimate(
    parts: Sequence[Sequence[Pairs]],
    number: int,
    found: list[Check],
    cap: float | None,
    method: Estimator,
    critic: str | nn.Module | None,
    seed: int,
    budget: Budget,
    device: str,
) -> Estimate:
    """From one (fit, select, report), or one for each fold: the report parts are then different pairs."""
    if critic is not None and not method.takes_critic:
        raise UserError(f"{method!r} trains no critic of yours: leave the critic {critic!r} out.")
    # Modules initialise and drop out by the global generator: it is forked, and only the CPU's is seeded, as seeding
    # all devices would reach a user's GPU state.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if len(parts) == 1:
            results = [method.fit(parts[0][0], parts[0][1], critic, budget, seed, device)]
        else:
            results = method.fit_folds([(part[0], part[1]) for part in parts], budget, seed, device)
        each = [
            uncertainty.read(method, fitted, part[0], part[1], part[2], seed, device, 0.05 / len(parts))
            for fitted, part in zip(results, parts, strict=True)
        ]
        result = results[0]
        has_scores = result.critic is not None and not result.costly
        shape = histogram(result.critic, uncertainty.read_by(result, parts[0][2], seed, device)) if has_scores else None
        rise = _rise(method, results, parts, budget, seed, device) if len(parts) > 1 else None
        looks = method.cross_fits and result.critic is not None
        lack = rematching.lack(results, [part[2] for part in parts], seed, device) if looks else None
    whole = uncertainty.combined(each, rise, lack.mean if lack is not None else 0.0)
    low, high = whole.interval
    ceiling = math.log(whole.reported)
    wide = parts[0][0].x.shape[1] + parts[0][0].y.shape[1]
    value_on = whole.value_on
    found = [
        *found,
        *result.checks,
        checks.finite(whole.mi, whole.stderr),
        checks.ceiling(whole.mi, ceiling, method.leans_on),
        *([] if method.reads_all else [checks.splits(value_on["fit"], value_on["select"], whole.mi, whole.stderr)]),
        checks.bracket(low, high, whole.floor, cap),
        checks.rival(high, *whole.rival),
        checks.negative(high),
        checks.width(low, high),
        *([] if method.reads_all else [checks.columns(wide, len(parts[0][0]))]),
        *([] if (share := _least_read(results)) is None else [checks.components(share)]),
        *([] if len(each) == 1 else [checks.folds(whole.spread, whole.mi)]),
        *([] if rise is None else [checks.learning_curve(rise, whole.mi)]),
        *([] if lack is None else [checks.drawn_pairs(lack.shown, lack.moved, whole.mi)]),
        *([] if whole.null is None else [checks.permutation(whole.null, low)]),
    ]
    if whole.partition is not None:
        log_partition, error, effective = whole.partition
        if method.fixes_constant:  # else the value does not depend on the constant that this looks at
            found.append(checks.normalisation(log_partition, error, effective))
        if method.leans_on == "partition":
            found.append(checks.effective(effective))
    return Estimate(
        mi=whole.mi,
        stderr=whole.stderr,
        interval=whole.interval,
        n=number,
        splits=(each[0].sizes[0], each[0].sizes[1], whole.reported),
        ceiling=ceiling,
        floor=whole.floor,
        cap=cap,
        checks=tuple(found),
        method=repr(method),
        critic=result.named,
        seed=seed,
        protocol={
            "budget": asdict(budget),
            "training": result.protocol if len(results) == 1 else [fitted.protocol for fitted in results],
            "value_on": value_on,
            "scores": shape,
            "folds": [reading.mi for reading in each],
            "missed": whole.missed,
            "rise": rise,
            "lack": None if lack is None else asdict(lack),
            "interval": "delete-a-group jackknife over report ids, Student's t, and the spread of folds; the upper end"
            " is raised by what the critic may have missed: the rise from half of the pairs (or by how much better fit"
            " pairs are known), what drawn pairs lack, a share of what was learned",
            "floor": "one-sided 95 %, InfoNCE in disjoint blocks, betting bound",
            "torch": torch.__version__,
        },
    )


def _least_read(results: Sequence[Fitted]) -> float | None:
    """The least share of a side's variance that a fold's copula read; None where none left any of it out."""
    found = [fitted.protocol["copula"]["share_read"] for fitted in results if "copula" in fitted.protocol]
    return min(found) if found and min(found) < 0.999 else None


def _rise(
    method: Estimator,
    results: Sequence[Fitted],
    parts: Sequence[Sequence[Pairs]],
    budget: Budget,
    seed: int,
    device: str,
) -> float | None:
    """The value's rise from half of the pairs to all, on as many folds as it takes; None of too few pairs to halve."""
    number = min(len(parts), math.ceil(CURVE / len(parts[0][2])))
    halves = [uncertainty.halved(part[0], part[1], seed) for part in parts[:number]]
    found = [half for half in halves if half is not None]
    if len(found) < number:
        return None
    torch.default_generator.manual_seed(seed)  # as for all pairs: the same start
    fitted = method.fit_folds(found, budget, seed, device)
    return uncertainty.rise(results[:number], fitted, [part[2] for part in parts[:number]], seed, device)
