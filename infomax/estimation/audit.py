"""Checks that estimate again, on a user's own pairs changed in ways whose effect on MI is known.

Independence, data processing and additivity are the self-consistency tests of Song & Ermon (2020), made on the data
that the value is about; calibration and the spread over seeds ask whether the method finds what it claims at this size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import pairs as inputs
from infomax.estimation.estimate import estimate, estimate_splits
from infomax.estimation.estimator import Budget, Estimator
from infomax.estimation.pairs import Pairs, frames
from infomax.estimation.registry import DEFAULT, chosen
from infomax.estimation.result import Check, Estimate, Verdict
from infomax.objectives import Objective

REFITS = 9  # of which three are of half the pairs
ZERO = 0.05  # nat: what may pass for 0
SLACK = 0.02  # nat: below it a ratio is that of two noises
SHARE = 0.05  # how far from 1 or 2 a ratio may be
WRONG, WRONG_SHARE = 0.25, 0.1  # off by more than a quarter of a nat and a tenth: a wrong value
SHAPE_ROWS = 512  # that lend a Gaussian their covariance

_Again = Callable[[Sequence[tuple[Any, Any, Any]], int], Estimate]


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
    device: str | torch.device = "cpu",
    estimator: str | Estimator | Objective | None = None,
    missing: str = "refuse",
) -> Estimate:
    """`estimate`, with checks that take nine more estimates (three of half the pairs): about nine times its time.

    x [n, ...], y [n, ...], critic, seed, budget, ids [n], blocks, device, estimator, missing, and objective, its
    earlier name: as `estimate` takes them. Where pairs are changed, blocks and ids move as a whole, their rows in
    order; the Gaussian of "calibration" alone has independent rows.
    Added: "independence" (pairs deranged), "data processing" (sides repeated), "data processing, lossy" (a side
    folded), "additivity" (two halves of the pairs side by side), "calibration" (a Gaussian of this shape and about this
    MI), "seeds". One that could not be made is a warning that says why. What each estimate gave is in
    `protocol["audit"]`. Works for every estimator of the registry. Raises UserError as `estimate` does.
    """

    method = chosen(estimator, objective)

    def again(parts: Sequence[tuple[Any, Any, Any]], seed: int) -> Estimate:
        x, y, ids = parts[0]
        return estimate(x, y, critic=critic, seed=seed, budget=budget, ids=ids, device=device, estimator=method)

    tables = frames.read({"x": x, "y": y}, ids, blocks, missing)
    return tables.described(_audited([(tables.sides["x"], tables.sides["y"], tables.ids)], again, seed))


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

    def again(parts: Sequence[tuple[Any, Any, Any]], seed: int) -> Estimate:
        train, validation, test = parts
        return estimate_splits(
            train, validation, test, critic=critic, seed=seed, budget=budget, device=device, estimator=method
        )

    return _audited([(*part, None) if len(part) == 2 else tuple(part) for part in (fit, select, report)], again, seed)


# What each says ------------------------------------------------------------------------------------------------------


def independence(deranged: Estimate) -> Check:
    """MI of deranged pairs is 0. Under .05 nat passes for 0; from a quarter of a nat on, the size of error that makes a
    value wrong, wide intervals excuse nothing."""
    found, (low, high) = abs(deranged.mi), deranged.interval
    covered = low <= 0 <= high
    fail = not found <= WRONG or (found >= ZERO and not covered)
    told = f"{_shown(deranged)} nats between x and another pair's y, where there are 0"
    if fail:
        told += ": the method finds what is not there; use another method or more pairs."
    elif not covered:
        told += ": small, though beyond its interval."
    elif found >= ZERO:
        told += ": within its interval, but such data cannot tell small MI from none; give more pairs."
    else:
        told += "."
    return Check("independence", found, ZERO, _verdict(fail, not (covered and found < ZERO)), told)


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

_Rows = tuple[Tensor, Tensor, Tensor]  # x, y, ids


@dataclass(frozen=True)
class _Part:
    """The pairs of one split, or of all. A label is a column of integers; `labels` counts its values, 0 for numbers."""

    sides: tuple[Tensor, Tensor]
    labels: tuple[int, int]
    ids: Tensor

    def rows(self, index: Tensor) -> _Rows:
        return self.sides[0][index], self.sides[1][index], self.ids[index]

    def deranged(self, generator: torch.Generator) -> _Rows:
        """Every x with a y of another id: ids in a random order, the rows of each in their own, so that blocks stay
        series; y moved on by the most rows that an id has."""
        _, sample, counts = self.ids.unique(return_inverse=True, return_counts=True)
        most = int(counts.max())
        if 2 * most > len(sample):
            raise UserError(f"one id has {most} of {len(sample)} pairs, so its rows cannot all be given another's.")
        order = torch.randperm(len(counts), generator=generator)[sample].argsort(stable=True)
        return self.sides[0][order], self.sides[1][order.roll(most)], self.ids[order]

    def doubled(self) -> _Rows:
        """x twice, y beside a function of itself. A label stays alone, as integers have one column."""
        if all(self.labels):
            raise UserError("both sides are labels, which cannot be given twice.")
        x, y = self.sides
        x = x if self.labels[0] else torch.cat([x, x], 1)
        return x, y if self.labels[1] else torch.cat([y, _folded(y)], 1), self.ids

    def folded(self) -> _Rows:
        """One side by a function that loses something: y, or x where y is a label of two values."""
        x, y = self.sides
        if self.labels[1] != 2:
            return x, y // 2 if self.labels[1] else _folded(y), self.ids
        if self.labels[0] != 2:
            return x // 2 if self.labels[0] else _folded(x), y, self.ids
        raise UserError("both sides are labels of two values, and a function of one loses all or nothing.")

    def halves(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows i and j of two halves without a common id: the samples with most rows first, by turns, row by row."""
        _, sample, counts = self.ids.unique(return_inverse=True, return_counts=True)
        shuffled = torch.randperm(len(counts), generator=generator)
        shuffled = shuffled[counts[shuffled].argsort(descending=True, stable=True)]
        shuffled = shuffled[: len(shuffled) // 2 * 2]
        rows = sample.argsort(stable=True)
        start = counts.cumsum(0) - counts
        size = counts[shuffled[1::2]]  # the smaller of each two
        within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
        left, right = (rows[start[half].repeat_interleave(size) + within] for half in (shuffled[::2], shuffled[1::2]))
        return left, right

    def beside(self, left: Tensor, right: Tensor) -> _Rows:
        """Columns of two rows next to each other; of two labels, their pair as one label."""
        x, y = (
            side[left] * number + side[right] if number else torch.cat([side[left], side[right]], 1)
            for side, number in zip(self.sides, self.labels, strict=True)
        )
        return x, y, self.ids[left]


def _folded(columns: Tensor) -> Tensor:
    # Not at the mean: a column of as many 1s as -1s would fold into a constant.
    return (columns - columns.mean(0) - columns.std(0) / 2).abs()


def _parts(pairs: Sequence[Pairs], told: Sequence[Check]) -> list[_Part]:
    names = {check.name for check in told}
    labelled = [f"labels in {name}" in names for name in ("x", "y")]
    found: list[_Part] = []
    for part in pairs:
        # Images stay images, that they may be read as such again: columns next to each other are then channels.
        both = tuple(
            side if image is None else image(side) for side, image in zip((part.x, part.y), part.images, strict=True)
        )
        sides = [
            side.argmax(1, keepdim=True) if is_label else side for side, is_label in zip(both, labelled, strict=True)
        ]
        labels = [side.shape[1] if is_label else 0 for side, is_label in zip(both, labelled, strict=True)]
        found.append(_Part((sides[0], sides[1]), (labels[0], labels[1]), part.ids))
    return found


def _gaussians(pairs: Sequence[Pairs], nats: float, generator: torch.Generator) -> list[_Rows]:
    """Normal pairs with these sizes and each side's covariance, whose MI is `nats`: as many of the largest principal
    components are correlated, all alike, as the flatter side's spectrum is wide (its participation ratio)."""
    shapes = [_shape(torch.cat([getattr(part, side) for part in pairs]), generator) for side in ("x", "y")]
    width = max(1, round(min(float(scale.square().sum() ** 2 / scale.pow(4).sum()) for scale, _ in shapes)))
    rho = math.sqrt(-math.expm1(-2 * nats / width))
    made: list[_Rows] = []
    for part in pairs:
        u, v = (torch.randn(len(part), len(scale), generator=generator) for scale, _ in shapes)
        v[:, :width] = rho * u[:, :width] + math.sqrt(1 - rho**2) * v[:, :width]
        x, y = (white @ (scale[:, None] * axes) for white, (scale, axes) in zip((u, v), shapes, strict=True))
        made.append((x, y, part.ids))
    return made


def _shape(side: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Deviations [r], largest first, and axes [r, d] of the standardised columns of some rows: their covariance."""
    rows = side[torch.randperm(len(side), generator=generator)[:SHAPE_ROWS]].double()
    rows = rows - rows.mean(0)
    deviation = rows.std(0)
    rows = rows / torch.where(deviation > 0, deviation, 1.0)
    _, scale, axes = torch.linalg.svd(rows / math.sqrt(len(rows) - 1), full_matrices=False)
    keep = scale > 1e-6 * scale[0]
    return scale[keep].float(), axes[keep].float()


def _audited(given: Sequence[tuple[Any, Any, Any]], again: _Again, seed: int) -> Estimate:
    value = again(given, seed)
    pairs, told, _ = inputs.prepared(given)
    parts = _parts(pairs, told)
    generator = torch.Generator().manual_seed(seed)
    record: dict[str, Any] = {}

    def fitted(name: str, changed: Sequence[tuple[Any, Any, Any]], seed: int = seed) -> Estimate:
        found = again(changed, seed)
        record[name] = {"mi": found.mi, "interval": list(found.interval), "n": found.n, "trusted": found.trusted}
        return found

    def check_independence() -> Check:
        return independence(fitted("independence", [part.deranged(generator) for part in parts]))

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
        found = fitted("calibration", _gaussians(pairs, known, generator))
        record["calibration"]["known"] = known
        return calibration(known, found)

    def check_seeds() -> Check:
        return seeds([value, *(fitted(f"seeds, {more}", given, more) for more in (seed + 1, seed + 2))])

    checks: list[Check] = []
    for name, check in {
        "independence": check_independence,
        "data processing": check_repeated,
        "data processing, lossy": check_lossy,
        "additivity": check_additivity,
        "calibration": check_calibration,
        "seeds": check_seeds,
    }.items():
        try:
            checks.append(check())
        except UserError as error:
            checks.append(Check(name, math.nan, math.nan, "warn", f"could not be tested: {error}"))
    return replace(value, checks=(*value.checks, *checks), protocol={**value.protocol, "audit": record})


def _shown(found: Estimate) -> str:
    return f"{found.mi:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def _verdict(fail: bool, warn: bool) -> Verdict:
    return "fail" if fail else "warn" if warn else "pass"
