"""The sentence to believe of an estimate: its value where that is trusted, else what is certain whatever the critic."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infomax.estimation.result import Check, Estimate

NATS_A_BIT = math.log(2)
UNITS = {"nats": 1.0, "bits": NATS_A_BIT}  # nats in one of each
LEVEL = 0.05  # of a p-value that shows dependence
# A floor holds for independent pairs. Where these checks fail, they are not, and nothing is certified.
DEPENDENT = ("row order", "duplicated pairs", "near copies")
# By the name of a check that failed, why its value is not trusted. The check's own sentence says more.
WHY = {
    "finite": "it is not finite",
    "own ceiling": "a part of it is the highest that the estimator can give",
    "told entirely": "it is below the entropy of a column that the other side determines",
    "splits": "what was learned does not carry over to held-out pairs",
    "bracket": "its interval contradicts a known bound",
    "block length": "rows of different blocks are alike",
    "rival": "a model in closed form bounds MI from below by more",
    "sign": "its interval is below 0",
    "width": "its interval is too wide",
    "few pairs": "its interval is too wide for so few pairs",
    "columns": "there are too many columns for so few pairs",
    "components": "a part of a side was not read",
    "folds": "the folds' critics disagree",
    "learning curve": "it still rises with the number of pairs",
    "drawn pairs": "there is dependence that was missed",
    "permutation": "pairs that were matched anew score as high",
    "normalisation": "its critic is not a density ratio",
    "effective pairs": "a few pairs decide it",
    "identical": "x and y are the same array",
    "function": "one side is a function of the other",
    "duplicated pairs": "pairs repeat each other",
    "near copies": "pairs nearly repeat each other",
    "row order": "rows are like later ones, and no blocks were given",
}


def statement(estimate: "Estimate", unit: str = "nats") -> str:
    """One sentence, in "nats" or "bits", without a full stop.

    "0.83 nats [0.79, 0.88]" where the estimate is trusted; else "at least 5.20 nats (95 %); the point estimate 8.01 is
    not trusted: ...".
    """
    per = UNITS[unit]
    if estimate.trusted:
        low, high = estimate.interval
        return f"{_two(estimate.mi / per)} {unit} [{_two(low / per)}, {_two(high / per)}]"
    why = f"the point estimate {_two(estimate.mi / per)} is not trusted: {_why(estimate)}"
    return f"{certified(estimate, unit)}; {why}"


def certified(estimate: "Estimate", unit: str = "nats") -> str:
    """What holds at 95 % whatever the critic: "at least 5.20 nats (95 %)", or that nothing does, and what a small
    p-value says all the same."""
    if any(_base(check.name) in DEPENDENT for check in _failed(estimate)):
        return "nothing is certified, as pairs depend on each other"
    floor = rounded_down(estimate.floor / UNITS[unit])
    if floor > 0:
        return f"at least {floor:.2f} {unit} (95 %)"
    p = estimate.p_value
    dependent = "" if p is None or p > LEVEL else f", though they are dependent (p = {p:.2g})"
    return f"nothing above 0 {unit} is certified (95 %){dependent}"


def rounded_down(floor: float) -> float:
    """A certified lower bound to two digits after the point, never more than it is; NaN as 0."""
    return math.floor(100 * floor + 1e-9) / 100 if math.isfinite(floor) else 0.0


def _two(value: float) -> str:
    """With two digits after the point, and no minus sign before 0."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def _failed(estimate: "Estimate") -> "list[Check]":
    return [check for check in estimate.checks if check.verdict == "fail"]


def _base(name: str) -> str:
    """A check's own name: that of a part of a conditional estimate has the part's before it."""
    return name.rpartition(": ")[2]


def _why(estimate: "Estimate") -> str:
    first, *more = _failed(estimate)
    name = _base(first.name)
    if name == "ceiling":
        where = "above" if estimate.mi > estimate.ceiling else "too near to"
        why = f"{where} log of the {estimate.splits[2]:,} held-out pairs"
    else:
        why = WHY.get(name, first.sentence.removesuffix("."))
    others = "" if not more else f" (and {len(more)} more check{'s' if len(more) > 1 else ''} failed)"
    return why + others
