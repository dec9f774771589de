"""Two readings of a column of few numbers, by a copula or as labels in order: which one validation pairs prefer."""

import math

import torch

from infomax.estimation.bases.gains import is_gain, js_shares, standard_error
from infomax.estimation.evidence.evidence import Evidence
from infomax.estimation.result import Check

DECIDED = 2.0  # standard errors of the gain, from which on what the losing reading says is no reason for doubt


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
