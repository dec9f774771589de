"""Checks that estimate again, on a user's own pairs changed in ways whose effect on MI is known.

Independence, data processing and additivity are the self-consistency tests of Song & Ermon (2020), made on the data
that the value is about; calibration and the spread over seeds ask whether the method finds what it claims at this size.
All of them hold for I(X; Y | Z) too, where rows keep their z. No test without assumptions certifies conditional
dependence (Shah & Peters, 2020), so there two more ask: rows that share z alone, and other estimators.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from infomax.errors import UserError
from infomax.estimation import pairs as inputs
from infomax.estimation.estimate import estimate, estimate_splits
from infomax.estimation.estimator import Budget, Estimator
from infomax.estimation.evidence.changed import Rows, gaussians, gaussians_about, parts_of
from infomax.estimation.evidence.checks import WRONG, WRONG_SHARE
from infomax.estimation.pairs import frames
from infomax.estimation.pairs.arrays import tensor_of
from infomax.estimation.registry import DEFAULT, chosen
from infomax.estimation.result import Check, Estimate, Verdict
from infomax.objectives import Objective

REFITS = 9  # of which three are of half the pairs
ZERO = 0.05  # nat: what may pass for 0
SLACK = 0.02  # nat: below it a ratio is that of two noises
SHARE = 0.05  # how far from 1 or 2 a ratio may be
OTHERS = ("CopulaJS", "GCMI", "KSG")  # of three kinds: what each cannot see, another may

_Again = Callable[..., Estimate]  # of each part's rows, a seed, and another estimator's name in place of the method


def audit(
    x: Any,
    y: Any,
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    *,
    ids: Any = None,
    blocks: Any = None,
    given: Any = None,
    device: str | torch.device = "cpu",
    estimator: str | Estimator | Objective | None = None,
    missing: str = "refuse",
    labels: str | None = None,
) -> Estimate:
    """`estimate`, with checks that take nine more estimates (three of half the pairs): about nine times its time.

    x [n, ...], y [n, ...], critic, seed, budget, ids [n], blocks, given [n, ...], device, estimator, missing, labels,
    and objective, its earlier name: as `estimate` takes them. Where pairs are changed, blocks and ids move as a whole,
    their rows in order; the Gaussian of "calibration" alone has independent rows.
    Added: "independence" (pairs deranged), "data processing" (sides repeated), "data processing, lossy" (a side
    folded), "additivity" (two halves of the pairs side by side), "calibration" (a Gaussian of this shape and about this
    MI), "seeds". With `given`, z goes with its rows, the Gaussians stand about what a linear regression on z predicts,
    and there are two more: "conditional independence" (such Gaussians that share z alone) and "other estimators" (the
    value by those of CopulaJS, GCMI and KSG that are another and can read such rows; it never fails).
    One that could not be made is a warning that says why. What each estimate gave is in `protocol["audit"]`. Works for
    every estimator of the registry. Raises UserError as `estimate` does.
    """

    method = chosen(estimator, objective)

    def again(parts: Sequence[Rows], seed: int, other: str | None = None) -> Estimate:
        x, y, *z, ids = parts[0]
        rows = {"x": x, "y": y} | ({"given": z[0]} if z else {})
        # Gaussians of labels' shape are numbers.
        named = [side for side in tables.unordered if not tensor_of(side, rows[side]).is_floating_point()]
        return estimate(
            x, y, critic=None if other else critic, seed=seed, budget=budget, ids=ids if blocks is None else None,
            blocks=None if blocks is None else ids, given=z[0] if z else None, device=device, estimator=other or method,
            labels=",".join(named) or None,
        )  # fmt: skip

    tables = frames.read({"x": x, "y": y} | ({} if given is None else {"given": given}), ids, blocks, missing, labels)
    return tables.described(_audited([(*tables.sides.values(), tables.ids)], again, seed))


def audit_splits(
    fit: Sequence[Any],
    select: Sequence[Any],
    report: Sequence[Any],
    objective: str | Estimator | Objective = DEFAULT,
    critic: str | nn.Module | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    *,
    device: str | torch.device = "cpu",
    estimator: str | Estimator | Objective | None = None,
) -> Estimate:
    """`audit` with given splits: pairs are changed within each.

    fit, select, report (train / validation / test), critic, seed, budget, device, estimator, and objective, its earlier
    name: as `estimate_splits` takes them.
    """

    method = chosen(estimator, objective)

    def again(parts: Sequence[Rows], seed: int, other: str | None = None) -> Estimate:
        train, validation, test = parts
        return estimate_splits(
            train, validation, test, critic=critic, seed=seed, budget=budget, device=device, estimator=other or method
        )

    return _audited(frames.splits(fit, select, report), again, seed)


# What each says ------------------------------------------------------------------------------------------------------


def independence(deranged: Estimate, name: str = "independence", of: str = "between x and another pair's y") -> Check:
    """MI of deranged pairs is 0. Under .05 nat passes for 0; from a quarter of a nat on, the size of error that makes a
    value wrong, wide intervals excuse nothing. name, of: the check, and between what there are 0 nats, in words."""
    found, (low, high) = abs(deranged.mi), deranged.interval
    covered = low <= 0 <= high
    fail = not found <= WRONG or (found >= ZERO and not covered)
    told = f"{_shown(deranged)} nats {of}, where there are 0"
    if fail:
        told += ": the method finds what is not there; use another method or more pairs."
    elif not covered:
        told += ": small, though beyond its interval."
    elif found >= ZERO:
        told += ": within its interval, but such data cannot tell small MI from none; give more pairs."
    else:
        told += "."
    return Check(name, found, ZERO, _verdict(fail, not (covered and found < ZERO)), told)


def repeated(value: Estimate, doubled: Estimate) -> Check:
    """I([X, X]; [Y, g(Y)]) = I(X; Y): nothing is added, nothing lost. Within 5 %, as the value itself should be."""
    told = "with x given twice and y beside a function of itself, MI stays as it is"
    return _ratio("data processing", doubled, value.mi, value.reach, 1, told, "the critic loses its way in columns")


def lossy(value: Estimate, processed: Estimate) -> Check:
    """I(X; g(Y)) <= I(X; Y). 5 % over it passes, as that is how far the value itself may be."""
    over, noise = processed.mi - value.mi, math.hypot(processed.reach[0], value.reach[1])
    allowed = max(SHARE * abs(value.mi), SLACK)
    fail, warn = not over <= max(allowed, noise), not over <= allowed
    told = f"{_shown(processed)} nats where one side is folded, which cannot add to {value.mi:.2f}"
    if fail:
        told += ": but it does, so the value itself is too low; give more pairs or a longer budget."
    elif warn:
        told += ": it seems to, though by no more than the noise."
    else:
        told += "."
    return Check("data processing, lossy", over, allowed, _verdict(fail, warn), told)


def additivity(first: Estimate, second: Estimate, both: Estimate) -> Check:
    """Two independent halves of the pairs, side by side, have twice the MI of one. Within 5 %; where twice the MI is
    above the ceiling of half the pairs, no method could show it."""
    mean = (first.mi + second.mi) / 2
    below, above = (math.hypot(a, b) / 2 for a, b in zip(first.reach, second.reach, strict=True))
    if 2 * mean >= both.ceiling:
        ratio = both.mi / mean if mean else math.nan
        told = (
            f"{both.mi:.2f} nats of two halves side by side, {mean:.2f} of one: twice that is above the ceiling "
            f"{both.ceiling:.2f} of half the pairs, so it cannot be tested; give more pairs."
        )
        return Check("additivity", ratio, SHARE, "warn", told)
    told = "two halves of the pairs side by side have twice the MI of one"
    return _ratio("additivity", both, mean, (below, above), 2, told, "the method does not reach values twice as high")


def calibration(known: float, found: Estimate) -> Check:
    """A Gaussian whose MI is known, with this data's number of pairs, columns and covariances, and about its MI. Fails
    where the value would be called wrong, off by more than a quarter of a nat and a tenth."""
    off = found.mi - known
    fail = not (abs(off) <= WRONG or abs(off) <= WRONG_SHARE * known)
    warn = not abs(off) <= max(found.reach[off < 0], ZERO + SHARE * known)
    told = f"{_shown(found)} nats on a Gaussian of this shape that has {known:.2f}"
    if fail:
        told += ": at this size the method does not find a value like this one; use another or give more pairs."
    elif warn:
        told += ": beyond its interval."
    else:
        told += "."
    return Check("calibration", off, WRONG, _verdict(fail, warn), told)


def seeds(values: Sequence[Estimate]) -> Check:
    """The range over seeds, of splits and critics. The range of three draws exceeds 3.3 standard errors 1 time in 20;
    beyond that it is the fit's luck, which fails where it makes a value wrong: a quarter of a nat and a tenth."""
    found = [value.mi for value in values]
    mean = sum(found) / len(found)
    spread = max(found) - min(found) if math.isfinite(mean) else math.nan
    noise = 3.3 * sum(value.stderr for value in values) / len(values)
    warn = not spread <= noise + SLACK
    fail = warn and not spread <= max(WRONG, WRONG_SHARE * abs(mean))
    told = f"{', '.join(f'{value:.2f}' for value in found)} nats with {len(found)} seeds"
    if fail:
        told += ": the value depends on the luck of a fit; give more pairs or a longer budget."
    elif warn:
        told += ": further apart than the intervals say."
    else:
        told += "."
    return Check("seeds", spread, noise + SLACK, _verdict(fail, warn), told)


def other_estimators(value: Estimate, found: Sequence[Estimate], left_out: Sequence[str] = ()) -> Check:
    """The value beside those of estimators of other kinds. It warns where one is beyond both intervals and 5 %, and
    never fails: GCMI sees a Gaussian copula alone, KSG few columns. left_out: sentences of those that cannot read such
    rows."""
    apart = [abs(other.mi - value.mi) for other in found]
    allowed = max(SHARE * abs(value.mi), ZERO)
    beyond = [
        other.method
        for other, off in zip(found, apart, strict=True)
        if not off <= max(allowed, math.hypot(value.reach[other.mi > value.mi], other.reach[other.mi < value.mi]))
    ]
    told = f"{_shown(value)} nats by {value.method}; " + (
        ", ".join(f"{_shown(other)} by {other.method}" for other in found) or "no other estimator reads such rows"
    )
    if beyond:
        told += f": {' and '.join(beyond)} further off than the intervals say, so look at the data for what one misses"
    told += "".join(f"; {sentence}" for sentence in left_out) + "."
    return Check("other estimators", max(apart, default=math.nan), allowed, _verdict(False, bool(beyond)), told)


def _ratio(name: str, got: Estimate, one: float, reach: tuple[float, float], target: int, told: str, why: str) -> Check:
    ratio = got.mi / one if one else math.nan
    off, low = abs(got.mi - target * one), got.mi < target * one
    noise = math.hypot(got.reach[low], target * reach[not low])  # of the ends that face each other
    allowed = max(SHARE * target * abs(one), SLACK)
    fail, warn = not off <= max(allowed, noise), not off <= allowed
    told = f"{told}: {_shown(got)} nats to {one:.2f}, a ratio of {ratio:.2f}"
    if fail:
        told += f": {why}, so believe no more than the floor; give more pairs or use another method."
    elif warn:
        told += ", which is further off than 5 %, though by no more than the noise."
    else:
        told += "."
    return Check(name, ratio, SHARE, _verdict(fail, warn), told)


# How -----------------------------------------------------------------------------------------------------------------


def _audited(asked: Sequence[Rows], again: _Again, seed: int) -> Estimate:
    value = again(asked, seed)
    pairs, told, _ = inputs.prepared([(part[0], part[1], part[-1]) for part in asked])
    z = inputs.side("given", asked[0][2]) if len(asked[0]) == 4 else None
    parts = parts_of(pairs, told, z)
    generator = torch.Generator().manual_seed(seed)
    record: dict[str, Any] = {}

    def fitted(name: str, changed: Sequence[Rows], seed: int = seed, other: str | None = None) -> Estimate:
        found = again(changed, seed, other)
        record[name] = {"mi": found.mi, "interval": list(found.interval), "n": found.n, "trusted": found.trusted}
        return found

    def normal(nats: float) -> list[Rows]:
        return gaussians(pairs, nats, generator) if z is None else [gaussians_about(z, pairs[0], nats, generator)]

    def check_independence() -> Check:
        found = fitted("independence", [part.deranged(generator) for part in parts])
        return independence(found) if z is None else independence(found, of="between x and another row's y and given")

    def check_repeated() -> Check:
        return repeated(value, fitted("data processing", [part.doubled() for part in parts]))

    def check_lossy() -> Check:
        return lossy(value, fitted("data processing, lossy", [part.folded() for part in parts]))

    def check_additivity() -> Check:
        halves = [part.halves(generator) for part in parts]
        both = [(part, *indices) for part, indices in zip(parts, halves, strict=True)]
        first = fitted("additivity, first half", [part.rows(left) for part, left, _ in both])
        second = fitted("additivity, second half", [part.rows(right) for part, _, right in both])
        together = fitted("additivity, side by side", [part.beside(left, right) for part, left, right in both])
        return additivity(first, second, together)

    def check_calibration() -> Check:
        known = min(max(value.mi, 2 * ZERO), value.ceiling) if math.isfinite(value.mi) else 1.0
        found = fitted("calibration", normal(known))
        record["calibration"]["known"] = known
        return calibration(known, found)

    def check_seeds() -> Check:
        return seeds([value, *(fitted(f"seeds, {more}", asked, more) for more in (seed + 1, seed + 2))])

    def check_conditional() -> Check:
        name = "conditional independence"
        return independence(fitted(name, normal(0.0)), name, "between Gaussians that share given alone")

    def check_others() -> Check:
        found, left_out = [], []
        for other in OTHERS:
            if not value.method.startswith(other):
                try:
                    found.append(fitted(f"other estimators, {other}", asked, other=other))
                except UserError as error:
                    left_out.append(f"{other} is left out ({str(error).removesuffix('.')})")
        return other_estimators(value, found, left_out)

    of_all = {
        "independence": check_independence,
        "data processing": check_repeated,
        "data processing, lossy": check_lossy,
        "additivity": check_additivity,
        "calibration": check_calibration,
        "seeds": check_seeds,
    }
    of_given = {"conditional independence": check_conditional, "other estimators": check_others}
    checks: list[Check] = []
    for name, check in (of_all if z is None else of_all | of_given).items():
        try:
            checks.append(check())
        except UserError as error:
            checks.append(Check(name, math.nan, math.nan, "warn", f"could not be tested: {error}"))
    return replace(value, checks=(*value.checks, *checks), protocol={**value.protocol, "audit": record})


def _shown(found: Estimate) -> str:
    return f"{found.mi:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def _verdict(fail: bool, warn: bool) -> Verdict:
    return "fail" if fail else "warn" if warn else "pass"
