"""What the checks of verdict.py say of numbers: threshold, verdict and sentence, a function each.

A check is added in verdict.py. What it hands over to here are numbers, so that it can be shown to fire and not to.
"""

import math

from infomax.estimation.estimator import ValueFrom
from infomax.estimation.result import Check, Verdict

FEW = 250  # pairs
WRONG, WRONG_SHARE = 0.25, 0.1  # off by more than a quarter of a nat and a tenth: a wrong value


def ceiling(mi: float, ceiling: float, value_from: ValueFrom) -> Check:
    """A value near log N. One that leans on rows never passes log N and falls short before it: at 1.5 nats below, by
    more than half a nat, even with a perfect critic."""
    fail, warn = (1.5, 2.5) if value_from == "rows" else (0.5, 1.0)
    room = ceiling - mi
    if room < fail:
        sentence = (
            f"the value is {abs(room):.2f} nats {'below' if room >= 0 else 'above'} the ceiling, log of the number of "
            "report pairs: no data of this size can certify it; give more pairs."
        )
    elif room < warn:
        sentence = f"the value is only {room:.2f} nats below the ceiling; more pairs would give it room."
    else:
        sentence = f"{room:.2f} nats of room below the ceiling."
    return Check("ceiling", room, fail, _verdict(room < fail, room < warn), sentence)


def own_ceiling(reached: bool, room: float) -> Check:
    """A value of which a part is the highest that its estimator can give: the true one may be any above it."""
    fail, warn = reached or room < 0.5, room < 1.0
    if fail:
        sentence = "a part of the value is the highest that the estimator gives: the true MI may be any above it."
    else:
        sentence = f"{room:.2f} nats of room below the highest value that the estimator gives."
    return Check("own ceiling", 0.0 if reached else room, 0.5, _verdict(fail, warn), sentence)


def told_entirely(high: float, entropy: float) -> Check:
    """The interval against the entropy of a column that is a function of the other side: MI is no less."""
    allowed = 0.05
    short = entropy - high
    if short > allowed:
        sentence = f"a column that the other side tells has an entropy of {entropy:.2f} nats: the value is too low."
    else:
        sentence = f"not below the entropy of a column that the other side tells, {entropy:.2f} nats."
    return Check("told entirely", short, allowed, _verdict(short > allowed, False), sentence)


def order_of_labels(ordered: int, folds: int) -> Check:
    """Says that labels were read as numbers in order, in how many folds."""
    sentence = f"the labels were read as numbers in order in {ordered} of {folds} folds, else as names of classes."
    return Check("order of labels", float(ordered), 0.0, "pass", sentence)


def normalisation(log_partition: float, stderr: float, effective: float) -> Check:
    """E_neg[r] = 1 for a true density ratio r = e^s, weighed by how many pairs decide the mean."""
    few, allowed = 30.0, 0.15
    distance = abs(log_partition)
    beyond = distance - 2 * stderr
    if not math.isfinite(log_partition):
        return Check("normalisation", math.inf, allowed, "fail", "the mean ratio over negatives is not finite.")
    sentence = f"log E_neg[r] = {log_partition:.2f} +- {stderr:.2f} (0 for a true ratio)"
    if effective < few:
        sentence = f"{sentence} rests on about {effective:.0f} pairs, too few to tell."
        return Check("normalisation", distance, allowed, "warn", sentence)
    if beyond > allowed:
        sentence = f"{sentence}: the critic is no density ratio; give it more pairs or training."
        return Check("normalisation", distance, allowed, "fail", sentence)
    return Check("normalisation", distance, allowed, "pass", f"{sentence}.")


def effective(number: float) -> Check:
    """How many pairs decide the partition that a value subtracts: too few, and the value is theirs."""
    fail, warn = 20.0, 60.0
    sentence = f"the partition in the value rests on about {number:.0f} pairs"
    sentence += "; such a value's error grows as e^MI: use CopulaJS or more pairs." if number < warn else "."
    return Check("effective pairs", number, fail, _verdict(number < fail, number < warn), sentence)


def splits(fit: float, select: float, report: float, stderr: float) -> Check:
    """Values on the three splits: apart, the critic learnt its own pairs by heart, or the splits are not alike."""
    noise = 3 * stderr
    overfit = fit - report - noise
    apart = abs(select - report) - 2 * noise
    scale = max(0.0, report)
    fail, warn = 0.25 + 0.25 * scale, 0.1 + 0.1 * scale
    statistic = max(overfit, apart)
    sentence = f"{fit:.2f} on the fit, {select:.2f} on the select and {report:.2f} on the report split"
    if not math.isfinite(statistic):
        return Check("splits", statistic, fail, "fail", f"{sentence}: a value is not finite.")
    if statistic > fail:
        sentence += ": the critic does not carry over to new pairs, so the true MI may be far away; give more pairs."
    elif statistic > warn:
        sentence += ": some of what the critic learnt does not carry over; more pairs would raise the value."
    else:
        sentence += ": alike."
    return Check("splits", statistic, fail, _verdict(statistic > fail, statistic > warn), sentence)


def bracket(low: float, high: float, floor: float, cap: float | None, value: float = math.inf) -> Check:
    """The interval, and the value that is believed, against what is certain: the floor below, and the entropy of a
    label above. The entropy is that of all pairs, and a part's labels are shared out otherwise by chance: of two in 40
    pairs, by .02 nats. What is certain is so at 95 %, and a value may be below by .02 nats and 1 %."""
    chance = 0.05
    under = floor - value - 0.02 - 0.01 * floor
    crossed = max(floor - high, under, low - cap - chance if cap is not None else -math.inf)
    if floor > high:
        sentence = f"all of the interval lies below the certified floor {floor:.2f}: the value is too low."
    elif under > 0:
        sentence = f"the value {value:.2f} lies below the certified floor {floor:.2f}: believe the floor."
    elif cap is not None and low > cap + chance:
        sentence = f"all of the interval lies above the label's entropy {cap:.2f}: the value is too high."
    else:
        sentence = "the interval agrees with the floor" + ("." if cap is None else " and the cap.")
    return Check("bracket", crossed, 0.0, _verdict(crossed > 0, False), sentence)


def rival(high: float, other: float, stderr: float) -> Check:
    """The interval against InfoNCE of the closed form alone on the same report pairs: a lower bound on MI in
    expectation, so a value below it, beyond both errors, has missed dependence."""
    allowed = 0.05
    shortfall = other - 2 * stderr - high
    if shortfall > allowed:
        sentence = f"a model in closed form bounds MI from below by {other:.2f} +- {stderr:.2f}: the value is too"
        sentence += " low; use CopulaJS, more pairs or a longer budget."
    else:
        sentence = f"not below the lower bound of a model in closed form, {other:.2f} +- {stderr:.2f}."
    return Check("rival", shortfall, allowed, _verdict(shortfall > allowed, False), sentence)


def width(low: float, high: float) -> Check:
    """The interval's width. One that is wider than half a nat and half the value cannot tell a value from one that is
    wrong by a quarter nat and a quarter: it says that there are too few pairs, whatever its middle is."""
    middle = max(0.0, (low + high) / 2) if math.isfinite(high - low) else 0.0
    fail, warn = 0.5 + 0.5 * middle, 0.25 + 0.25 * middle
    statistic = high - low
    if not statistic <= warn:
        sentence = f"the interval is {statistic:.2f} nats wide: too few pairs for what there is to learn; give more."
    else:
        sentence = f"the interval is {statistic:.2f} nats wide."
    return Check("width", statistic, fail, _verdict(not statistic <= fail, not statistic <= warn), sentence)


def few_pairs(pairs: int, mi: float, low: float, high: float) -> Check | None:
    """Whether all of the interval is near the value, of fewer than 250 pairs: within a quarter nat or a tenth of it. A
    value that is further off is wrong, and so few pairs hide from all other checks what they lack: without this one, of
    65 known distributions 9 of 46 values of 60 and 100 pairs were trusted and wrong, with it none (docs/accuracy.md).
    """
    if pairs >= FEW:
        return None
    statistic, allowed = max(high - mi, mi - low), max(WRONG, WRONG_SHARE * mi)
    sentence = f"the interval ends {statistic:.2f} nats from the value at most"
    if not statistic <= allowed:
        sentence = (
            f"of {pairs} pairs the interval ends {statistic:.2f} nats from the value: so few say no more than the "
            "interval, whose upper end may be too low; give more."
        )
    else:
        sentence += f", which {pairs} pairs can tell."
    return Check("few pairs", statistic, allowed, _verdict(not statistic <= allowed, False), sentence)


def columns(number: int, fit: int) -> Check:
    """Columns of both sides per pair that a critic is fitted on. From one on, independent pairs have canonical
    correlations of 1 (Wachter, 1980): dependence looks like noise, and what a critic misses of it leaves no sign."""
    fail, warn = 1.0, 0.5
    statistic = number / fit
    sentence = f"{number} columns, and a critic is fitted on {fit} pairs"
    if statistic > warn:
        sentence += (
            ": dependence can be missed unseen; give more pairs, or fewer columns, such as principal components."
        )
    else:
        sentence += "."
    return Check("columns", statistic, fail, _verdict(statistic >= fail, statistic > warn), sentence)


def components(share: float) -> Check:
    """The share of the variance of a side of very many columns that the copula read, as the largest 256 principal
    components. Dependence in the rest leaves no sign; were it spread as the variance is, a quarter of it would be lost
    at the threshold, and a value off by a quarter is wrong."""
    fail, warn = 0.25, 0.1
    left = 1 - share
    sentence = f"{share:.0%} of a side's variance lies in the 256 principal components that were read"
    sentence += (
        "; dependence in the rest can be missed unseen: give fewer columns, those that matter." if left > warn else "."
    )
    return Check("components", left, fail, _verdict(left > fail, left > warn), sentence)


def folds(spread: float, mi: float) -> Check:
    """How far the folds' values differ beyond their sampling noise: each has a critic of its own, so that they agree
    only if what is learned does not depend on which pairs and which start it was learned from. Thresholds as those of
    splits, as it is the same defect seen from another side."""
    fail, warn = 0.15 + 0.15 * max(0.0, mi), 0.05 + 0.05 * max(0.0, mi)
    sentence = f"the folds' critics differ by {spread:.2f} nats beyond sampling noise"
    sentence += "; give more pairs." if spread > warn else "."
    return Check("folds", spread, fail, _verdict(not spread <= fail, not spread <= warn), sentence)


def learning_curve(rise: float, mi: float) -> Check:
    """By how much the value rose at the last doubling of pairs. An error that falls as 1 / sqrt(N), the slower of the
    usual rates, has 1 / (sqrt(2) - 1) = 2.4 times that still to go: threshold, a quarter nat and a quarter, as those of
    splits, over 2.4."""
    fail, warn = 0.1 + 0.1 * max(0.0, mi), 0.05 + 0.05 * max(0.0, mi)
    sentence = (
        f"from half of the pairs the value is {rise:.2f} nats lower" if rise > 0 else "half of the pairs give as much"
    )
    sentence += ": it has not settled, so the true MI may be far above; give more pairs." if rise > warn else "."
    return Check("learning curve", rise, fail, _verdict(not rise <= fail, not rise <= warn), sentence)


def still_to_come(rise: float, to_come: float, mi: float) -> Check:
    """What a value of neighbours may still lack, as its rise from half of the pairs tells. One that may be off by a
    quarter nat and a tenth may be wrong."""
    missing, allowed = max(0.0, to_come), max(WRONG, WRONG_SHARE * mi)
    sentence = (
        f"from half of the pairs the value is {rise:.2f} nats lower" if rise > 0 else "half of the pairs give as much"
    )
    if missing > allowed:
        sentence += f": it has not settled, and may be {missing:.2f} nats too low; give more pairs."
    else:
        sentence += "."
    return Check("learning curve", missing, allowed, _verdict(missing > allowed, 2 * missing > allowed), sentence)


def finer(more: float, stderr: float) -> Check:
    """By how much one neighbour tells more than three, against its noise: dependence that varies within the distance
    of three, such as waves, of which a value says little, and its rise with pairs may say nothing."""
    allowed = 3.0
    statistic = more / stderr if stderr > 0 else 0.0
    sentence = f"one neighbour tells {more:.2f} +- {stderr:.2f} nats more than three"
    if statistic > allowed:
        sentence += ": there is dependence finer than the distances between pairs; give more pairs."
    else:
        sentence += "."
    return Check("finer neighbours", statistic, allowed, _verdict(statistic > allowed, statistic > 2), sentence)


def drawn_pairs(shown: float, moved: float, mi: float) -> Check:
    """What pairs drawn from the critic's own ratio lack beside the pairs: dependence that it missed, in nats. Both
    statistics see a part of it only (a cubic curve with noise: .03 to .13 where 1.0 was missed), and what is shown is
    beyond noise already, so that far less is allowed than elsewhere: the least that leaves 70 % of the values of
    `infomax benchmark accuracy` trusted at 2,000 pairs. Most right values show 0."""
    fail, warn = 0.02 + 0.02 * max(0.0, mi), 0.005
    if shown > warn:
        sentence = (
            f"pairs drawn from the critic's own ratio lack {shown:.2f} nats that the pairs have: there is dependence "
            "that it has missed; give more pairs."
        )
    elif moved < 0.5:
        sentence = (
            f"drawn from the critic's own ratio, {moved:.0%} of pairs change: dependence too strong to look behind."
        )
    else:
        sentence = "pairs drawn from the critic's own ratio are like the pairs."
    return Check("drawn pairs", shown, fail, _verdict(not shown <= fail, shown > warn or moved < 0.5), sentence)


def score_test(deviations: float, pairs: int, mi: float) -> Check:
    """The slope of the Jensen-Shannon bound of test pairs in the steepest direction that training pairs know, of smooth
    functions of each side: about a standard normal number where scores are log r. Half its square a pair is what a step
    along it gains, of which a small part is not worth a doubt: many pairs see any misfit."""
    gain = max(0.0, deviations) ** 2 / (2 * pairs)
    fail, seen = 0.0075 + 0.0075 * max(0.0, mi), deviations > 3
    sentence = f"the slope towards a better critic is {deviations:.1f} standard errors on test pairs"
    if seen:
        sentence += ": there is dependence that it has missed; give more pairs."
    else:
        sentence += ", as chance has it." if deviations < 2 else ", which chance may have made."
    return Check("score test", gain, fail, _verdict(seen and gain > fail, seen), sentence)


def permutation(p: float, low: float) -> Check:
    """Deranged pairs must not score as high as the pairs do, where dependence is claimed: the interval is above 0."""
    allowed = 0.05
    fail = low > 1e-4 and p > allowed  # above rounding
    if fail:
        sentence = f"deranged pairs score as high (p = {p:.3f}): the value is no sign of dependence; give more pairs."
    else:
        sentence = f"pairs against deranged pairs: p = {p:.3f}."
    return Check("permutation", p, allowed, _verdict(fail, False), sentence)


def negative(high: float) -> Check:
    """MI is never negative; a value that is, beyond its noise, tells of a critic that is wrong on new pairs."""
    fail = high < -0.02
    sentence = "all of the interval is below 0: the critic is wrong on new pairs." if fail else "not below 0."
    return Check("sign", high, -0.02, _verdict(fail, False), sentence)


def finite(mi: float, stderr: float) -> Check:
    """A value that overflowed is reported as such."""
    fine = math.isfinite(mi) and math.isfinite(stderr)
    sentence = (
        "value and error are finite."
        if fine
        else "the value or its error is not finite: scores overflowed; use CopulaJS or SMILE."
    )
    return Check("finite", float(not fine), 0.0, _verdict(not fine, False), sentence)


def _verdict(fail: bool, warn: bool) -> Verdict:
    return "fail" if fail else "warn" if warn else "pass"
