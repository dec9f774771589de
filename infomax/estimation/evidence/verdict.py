"""The list of checks of an estimate, where a new one is added: a function of the evidence, None where it says nothing.

It pulls what it needs, is named in CHECKS, and hands numbers to a function of `checks.py`: its threshold and words.
What can be said of the pairs before they are split stands in `pairs/`, what needs a second estimate in `audit.py`.
"""

import math
from collections.abc import Callable

from infomax.estimation.evidence import checks
from infomax.estimation.evidence.evidence import Evidence
from infomax.estimation.pairs.functions import NAME as FUNCTION
from infomax.estimation.result import Check


def finite(e: Evidence) -> Check:
    return checks.finite(e.whole.mi, e.whole.stderr)


def ceiling(e: Evidence) -> Check:
    return checks.ceiling(e.whole.mi, e.ceiling, e.estimator.value_from)


def own_ceiling(e: Evidence) -> Check | None:
    """None where the estimator has no ceiling of its own that it can be seen to reach, and of one that is not near."""
    highest = e.estimator.highest(e.whole.reported)
    reached = any(fold.fitted.critic is not None and fold.fitted.critic.at_ceiling for fold in e.folds)
    return checks.own_ceiling(reached, highest - e.whole.mi) if reached or highest < math.inf else None


def told_entirely(e: Evidence) -> Check | None:
    entropies = [c.statistic for c in e.request.noticed if c.name == FUNCTION and c.verdict == "pass"]
    return checks.told_entirely(e.whole.interval[1], max(entropies)) if entropies else None


def order_of_labels(e: Evidence) -> Check | None:
    """Which reading of labels won. Their values differ by the gain in validation labels' likelihood that decides it, so
    that readings between which nothing decides agree within noise."""
    kinds = [(fitted.protocol.get("base") or {}).get("kind") for fitted in e.results]
    return checks.order_of_labels(kinds.count("ordered"), len(kinds)) if "ordered" in kinds else None


def splits(e: Evidence) -> Check | None:
    if e.estimator.training_free:
        return None
    on = e.whole.value_on
    return checks.splits(on["fit"], on["select"], e.whole.mi, e.whole.stderr)


def bracket(e: Evidence) -> Check:
    return checks.bracket(*e.whole.interval, e.whole.floor, e.cap, e.whole.mi)


def rival(e: Evidence) -> Check:
    return checks.rival(e.whole.interval[1], *e.whole.rival)


def negative(e: Evidence) -> Check:
    return checks.negative(e.whole.interval[1])


def width(e: Evidence) -> Check:
    return checks.width(*e.whole.interval)


def few_pairs(e: Evidence) -> Check | None:
    return checks.few_pairs(e.request.number, e.whole.mi, *e.whole.interval)


def columns(e: Evidence) -> Check | None:
    return None if e.estimator.training_free else checks.columns(e.columns, len(e.request.parts[0][0]))


def components(e: Evidence) -> Check | None:
    return None if e.share_read is None else checks.components(e.share_read)


def folds(e: Evidence) -> Check | None:
    return None if len(e.folds) == 1 else checks.folds(e.whole.spread, e.whole.mi)


def learning_curve(e: Evidence) -> Check | None:
    if e.rise is None:
        return None
    if e.beside is not None and e.to_come is not None:
        return checks.still_to_come(e.rise, e.to_come, e.whole.mi)
    return checks.learning_curve(e.rise, e.whole.mi)


def finer(e: Evidence) -> Check | None:
    return None if e.finer is None else checks.finer(*e.finer)


def drawn_pairs(e: Evidence) -> Check | None:
    return None if e.misfit is None else checks.drawn_pairs(e.misfit.shown, e.misfit.moved, e.whole.mi)


def score_test(e: Evidence) -> Check | None:
    return None if e.left_over is None else checks.score_test(e.left_over, e.whole.reported, e.whole.mi)


def permutation(e: Evidence) -> Check | None:
    p = e.whole.null if e.beside is None else e.p_value
    return None if p is None else checks.permutation(p, e.whole.interval[0])


def normalisation(e: Evidence) -> Check | None:
    """None where the value does not depend on the constant that this looks at."""
    if e.whole.partition is None or not e.estimator.normalised:
        return None
    return checks.normalisation(*e.whole.partition)


def effective(e: Evidence) -> Check | None:
    if e.whole.partition is None or e.estimator.value_from != "partition":
        return None
    return checks.effective(e.whole.partition[2])


CHECKS: list[Callable[[Evidence], Check | None]] = [
    finite, ceiling, own_ceiling, told_entirely, order_of_labels, splits, bracket, rival, negative, width, few_pairs,
    columns, components, folds, learning_curve, finer, drawn_pairs, score_test, permutation, normalisation, effective,
]  # fmt: skip


def verdict(e: Evidence) -> tuple[Check, ...]:
    """What the arrays, the fit and each of CHECKS have to say."""
    return (*e.request.noticed, *e.results[0].checks, *(found for check in CHECKS if (found := check(e)) is not None))
