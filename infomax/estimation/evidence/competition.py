"""Two readings of the same pairs, and which one is believed: of a column of few numbers, by a copula or as labels in
order; of few columns, by a critic or by distances to neighbours."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from infomax.estimation.bases.gains import is_gain, js_shares, standard_error
from infomax.estimation.estimators.classical import Neighbours
from infomax.estimation.evidence.evidence import Evidence, Request
from infomax.estimation.evidence.verdict import verdict
from infomax.estimation.pairs import Pairs, is_label
from infomax.estimation.pairs.circle import is_circle
from infomax.estimation.result import Check, Verdict

DECIDED = 2.0  # standard errors of the gain, from which on what the losing reading says is no reason for doubt
CELL = 20  # pairs for each two labels, on average, from which on their counts are known
LACKING = ("drawn pairs", "score test")  # checks that see dependence that critics have missed
LITTLE = 2.0  # standard errors of a value, below which what was learned does not make it another
ROUNDING = 1e-4  # nats
MOST_PAIRS = 20_000  # of which neighbours are looked for: 25 times for the error


@torch.no_grad()
def _gain(numbers: Evidence, labels: Evidence) -> torch.Tensor:
    """By how much each validation pair is told from other pairs better by the critics of labels [n], in nats."""
    shares = []
    for evidence in (numbers, labels):
        of_folds = [(fold.fitted.critic, fold.validation) for fold in evidence.folds]
        shares.append(torch.cat([js_shares(critic, part.x, part.y).double() for critic, part in of_folds]))
    return shares[1] - shares[0]


def preferred(numbers: Evidence, labels: Evidence, side: str) -> tuple[Evidence, Check]:
    """The evidence of numbers where validation pairs gain by one standard error, else of labels; and what to say. A
    copula of values that recur is none, while labels in order have the same MI whatever type they are held in.

    side: "x" or "y", which the two read apart. Values that differ by more than their errors fail where the pairs do not
    decide between them.
    """
    gain = _gain(numbers, labels)
    won, lost = (numbers, labels) if is_gain(-gain) else (labels, numbers)
    apart = abs(won.whole.mi - lost.whole.mi)
    noise = 2 * math.hypot(won.whole.stderr, lost.whole.stderr)
    decided = abs(float(gain.mean())) > DECIDED * standard_error(gain)
    fail = apart > noise and not decided
    names = ("labels in order", "numbers") if won is labels else ("numbers", "labels in order")
    sentence = (
        f"the few values of {side} were read as {names[0]}, by which validation pairs are known "
        f"{'better than' if decided else 'about as well as'} by {names[1]} ({won.whole.mi:.2f} against "
        f"{lost.whole.mi:.2f} nats)"
    )
    sentence += ": which of these is right cannot be told; give more pairs." if fail else "."
    return won, Check(f"reading of {side}", apart, noise, "fail" if fail else "pass", sentence)


def has_neighbours(request: Request) -> bool:
    """Whether distances tell the MI of such pairs: folds of few columns of numbers a side, no angles, not too many
    pairs, no two of one sample, and none that their own checks doubt, such as copies, which are neighbours too. Whole
    numbers on both sides are numbers here, unless they are said to have no order or have many pairs for each two."""
    pairs = request.pairs
    sides = (pairs.x, pairs.y)
    labels = [is_label(side) for side in sides]
    if all(labels):
        fits = not pairs.unordered and CELL * sides[0].shape[1] * sides[1].shape[1] > len(pairs)
    else:
        fits = not any(labels) and max(side.shape[1] for side in sides) <= Neighbours.widest
        fits = fits and not any(map(is_circle, sides))
    alone = len(pairs) <= MOST_PAIRS and len(pairs.ids.unique()) == len(pairs)
    return fits and alone and len(request.parts) > 1 and _trusted(request.noticed)


def _numbers(pairs: Pairs) -> Pairs:
    """Labels as the numbers in whose order they are."""
    x, y = (side.argmax(1, keepdim=True).float() if is_label(side) else side for side in (pairs.x, pairs.y))
    return replace(pairs, x=x, y=y)


def nearest(
    critics: Evidence, noticed: Sequence[Check] = (), counted: bool = False
) -> tuple[Evidence, tuple[Check, ...]]:
    """The evidence of the two to believe, of critics or of neighbours, and what there is to say of the choice.

    critics: evidence that `has_neighbours`. noticed: checks beside those of its verdict. counted: whether a side has
    few values, which were read as labels beside numbers. A closed form that is trusted and has little added to it, and
    a trusted reading of few values, are believed where their interval reaches the neighbours' value, as they have the
    smaller error. What was learned is low where pairs are few, and in few columns neighbours are not: theirs is the
    value where none of their own checks fails, unless it is below a trusted interval or, of two columns on a side,
    below the critics' value by an error: they understate there, and a critic's value on pairs that it never saw does
    not overstate. Where neither is trusted, it is the higher one, which has seen more. Among more than two columns what
    critics are seen to lack stays a reason for doubt: neighbours tell .3 to .4 of the .69 nats that the signs of two
    columns together tell about a third, and neither their rise nor a nearer neighbour says so.
    """
    request = critics.request
    parts = [[_numbers(part) for part in request.parts[0]]]
    own = replace(request, parts=parts, estimator=Neighbours(request.seed))
    near = Evidence(own, own.fitted(), critics)
    low, high = critics.whole.interval
    failed = [check for check in (*verdict(critics), *noticed) if check.verdict == "fail"]
    value, trusted = near.folds[0].mi, not failed
    numbers = not is_label(request.pairs.x)  # of labels the closed form is a table of few pairs a cell
    little = numbers and critics.whole.learned < ROUNDING + LITTLE * critics.whole.stderr
    if trusted and (value < low or (value <= high and (counted or little))):
        return critics, (_neighbours(value, critics.whole.mi, "pass"),)
    # What critics are seen to lack, neighbours may lack too among more columns, and no check of theirs looks for it.
    lacking = [check for check in failed if check.name in LACKING] if own.columns > 2 else []
    least = critics.whole.mi - critics.whole.stderr if own.columns > 2 else -math.inf
    theirs = "the value is theirs" + ("" if numbers else ", of whole numbers in their order")
    if value >= least and not lacking and is_trusted(near):
        return near, (_neighbours(value, critics.whole.mi, "pass", theirs),)
    if trusted:
        missed = near.whole.interval[0] > high
        return critics, (_neighbours(value, critics.whole.mi, "fail" if missed else "pass"),)
    if value <= critics.whole.mi:
        return critics, ()
    return near, (_neighbours(value, critics.whole.mi, "pass", theirs), *lacking)


def is_trusted(evidence: Evidence, more: Sequence[Check] = ()) -> bool:
    """Whether none of its verdict's checks fails, nor one of these."""
    return _trusted((*verdict(evidence), *more))


def _trusted(checks: Sequence[Check]) -> bool:
    return all(check.verdict != "fail" for check in checks)


def _neighbours(value: float, critics: float, verdict: Verdict, more: str = "") -> Check:
    sentence = f"distances to neighbours tell {value:.2f} nats, critics {critics:.2f}"
    if verdict == "fail":
        sentence += ": there is dependence that critics have missed; give more pairs."
    else:
        sentence += f": {more}." if more else "."
    return Check("neighbours", value - critics, 0.0, verdict, sentence)
