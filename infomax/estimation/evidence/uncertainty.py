"""How far a value on the report split may be from its expectation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infomax.estimation.bases.gains import standard_error
from infomax.estimation.estimator import Fitted
from infomax.estimation.evidence import independence
from infomax.estimation.evidence.floor import lower_bound
from infomax.estimation.pairs import (
    FEWEST_A_SPLIT,
    Pairs,
    jackknife_error,
    one_a_sample,
    without_a_group,
)
from infomax.estimation.result import half_width
from infomax.scores import Scores

if TYPE_CHECKING:
    from infomax.estimation.evidence.fold import Fold

GROUPS = 25
DERANGEMENTS = 199
MISSED = 0.15  # of what a critic learned, how much it may lack beside what its fit pairs tell: measured, see LOG.md


@dataclass(frozen=True)
class Reading:
    """The numbers of one fold, or of all folds together; nats.

    sizes: training, validation and test pairs. learned: what a network or kernels added to a closed form.
    partition: its logarithm, standard error and effective pairs, where scores are read. null: a p-value. freedom: the
    degrees of freedom of the interval's Student's t. spread: the folds' standard deviation beyond their sampling noise.
    missed: by how much the interval's upper end is raised. floor_values: pseudo-values of the floor
    (`floor.pseudo_values`), of each sample; None where there are none.
    """

    sizes: tuple[int, int, int]
    mi: float
    stderr: float
    interval: tuple[float, float]
    value_on: dict[str, float]
    floor: float
    rival: tuple[float, float]
    partition: tuple[float, float, float] | None
    null: float | None
    learned: float
    freedom: float = math.inf
    spread: float = 0.0
    missed: float = 0.0
    floor_values: NDArray[np.float64] | None = None

    @property
    def reported(self) -> int:
        return self.sizes[2]


def halved(fit: Pairs, select: Pairs, seed: int) -> tuple[Pairs, Pairs] | None:
    """Half of the ids of a fold's fit and select pairs, at random; None where too few would be left to select on."""
    found = []
    for part in (fit, select):
        ids = part.ids.unique()
        chosen = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(ids))[: len(ids) // 2])
        found.append(part[torch.isin(part.ids, ids[chosen])])
    return None if min(map(len, found)) < FEWEST_A_SPLIT else (found[0], found[1])


class _Shares:
    """Means over folds, by their numbers of test pairs, and the error of such a mean."""

    def __init__(self, each: "Sequence[Reading | Fold]"):
        numbers = np.array([fold.reported for fold in each], float)
        self.each, self.weights = each, numbers / numbers.sum()

    def mean(self, of: "Callable[[Reading | Fold], float]") -> float:
        return float(sum(w * of(fold) for w, fold in zip(self.weights, self.each, strict=True)))

    def error(self, of: "Callable[[Reading | Fold], float]") -> float:
        return math.sqrt(float(sum((w * of(fold)) ** 2 for w, fold in zip(self.weights, self.each, strict=True))))


def combined(each: "Sequence[Reading | Fold]", rise: float | None = None, misfit: float = 0.0) -> Reading:
    """The folds as one, by their numbers of test pairs.

    The error is that of the mean: sampling, as test pairs are different pairs, and what folds differ by beyond it, as
    each has a critic of its own. The floor is that of all folds' samples together: each fold's mean is a lower bound in
    expectation, so theirs is, and its error is a mean's, as folds report on different pairs (Bayle et al., 2020).
    rise, misfit: what raises the upper end, see _missed.
    """
    of, number = _Shares(each), len(each)
    mi, sampling, spread = of.mean(lambda r: r.mi), of.error(lambda r: r.stderr), 0.0
    if number > 1:
        variance = float(np.var([r.mi for r in each], ddof=1)) - of.mean(lambda r: r.stderr**2)
        spread = math.sqrt(variance) if variance > 0 else 0.0
    stderr = math.hypot(sampling, spread / math.sqrt(number))
    # Of all groups, or of the folds where they decide.
    freedom = (GROUPS - 1) * number if spread == 0 else 4 * number
    half = half_width(stderr, freedom)
    if number == 1:
        freedom, half = each[0].freedom, (each[0].interval[1] - each[0].interval[0]) / 2
    value_on = {name: of.mean(lambda r, name=name: r.value_on[name]) for name in each[0].value_on}
    learned = of.mean(lambda r: r.learned)
    missed = _missed(value_on.get("fit", mi) - mi, rise, misfit, learned)
    nulls = [r.null for r in each if r.null is not None]
    values = [r.floor_values for r in each if r.floor_values is not None]
    return Reading(
        sizes=(each[0].sizes[0], each[0].sizes[1], sum(r.reported for r in each)),
        mi=mi,
        stderr=stderr,
        interval=(mi - half, mi + half + missed),
        value_on=value_on,
        floor=lower_bound(np.concatenate(values)) if len(values) == number else max(r.floor for r in each),
        rival=(of.mean(lambda r: r.rival[0]), of.error(lambda r: r.rival[1])),
        partition=_mean_partition([r.partition for r in each if r.partition is not None]),
        # Of p-values from different test pairs, the least by Bonferroni.
        null=min(1.0, len(nulls) * min(nulls)) if nulls else None,
        learned=learned,
        freedom=freedom,
        spread=spread,
        missed=missed,
        floor_values=np.concatenate(values) if len(values) == number else None,
    )


def _missed(overfit: float, rise: float | None, misfit: float, learned: float) -> float:
    """What a critic missed lowers a plug-in value that normalises, so that the interval's upper end is raised by it.

    What pairs were too few for shows in the value's rise at the last doubling of their number, or in how much better
    training pairs are known than test pairs, two signs of one thing: for a model that can fit the truth, both exceed
    what is still to come (1/N, of the closed form's error). What the critic's family cannot fit shows in pairs matched
    by its own ratio (`misfit`). What neither shows, the slow learning of networks and kernels, is a share of what they
    learned.
    """
    few = max(0.0, overfit, rise or 0.0) if learned > 0 or rise is not None else 0.0
    return few + MISSED * learned + max(0.0, misfit)


def _mean_partition(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    if not parts:
        return None
    errors = math.sqrt(sum(p[1] ** 2 for p in parts)) / len(parts)
    return sum(p[0] for p in parts) / len(parts), errors, min(p[2] for p in parts)


@torch.no_grad()
def permutation(fitted: Fitted, report: Pairs, seed: int = 0) -> float | None:
    """The p-value of "x and y are independent": how often deranged report pairs score as high as the pairs do.

    Derangements, as a pair that stays would carry its score over: cycles through all rows, each in an order of its own,
    so that even few rows have enough of them; nothing is refitted. One sided, with the pairs themselves counted.
    (Fisher, 1935) None where every score is 0, which claims nothing, and where ids repeat, as a row could then meet its
    own sample.
    """
    critic = fitted.critic
    if critic is None or critic.is_zero or len(report.ids.unique()) < len(report):
        return None
    ex, ey = critic.embed(report.x, report.y)
    known = independence.table(critic, ex, ey)
    own = float((critic.pair(ex, ey).double() if known is None else known.diagonal()).mean())
    own -= 1e-9 * max(1.0, abs(own))  # sums in another order differ in their last digits
    generator = torch.Generator().manual_seed(seed)
    beaten = 0
    for _ in range(DERANGEMENTS):
        cycle = torch.randperm(len(report), generator=generator).to(ex.device)
        if known is None:
            each = critic.pair(ex[cycle], ey[cycle.roll(1)]).double()
        else:
            each = known.take(cycle * len(report) + cycle.roll(1))
        beaten += float(each.mean()) >= own
    return (1 + beaten) / (1 + DERANGEMENTS)


def jackknife(fitted: Fitted, report: Pairs, seed: int) -> tuple[float, int]:
    """What an interval needs: the standard error of the value on `report`, and Student's degrees of freedom.

    Delete-a-group jackknife: the value without each of 25 groups of ids. Pairs, not scores, are left out, so it is
    valid for a function of means over all n (n - 1) negatives as for a mean over pairs, for any objective, and ids stay
    together. (Shao & Wu, 1989)

    The zero critic's value is 0 without noise, which would claim that there is nothing to find. Its error is therefore
    that of the trained critic which lost to it: what such data could have shown.
    """
    values = jackknife_values(fitted, report, seed)
    return jackknife_error(values), len(values) - 1


def one_sided(mi: float, stderr: float, folds: int) -> float:
    """The p-value of "the value is not above 0", by Student's t with the degrees of freedom of all folds' groups."""
    from scipy.special import stdtr

    if not stderr > 0 or not math.isfinite(mi):
        return 1.0
    return float(stdtr((GROUPS - 1) * folds, -mi / stderr))


def jackknife_values(fitted: Fitted, report: Pairs, seed: int) -> list[float]:
    """The value on `report` without each group; of a zero critic, that of the trained critic which lost to it."""
    critic = fitted.critic
    if critic is not None and critic.is_zero:
        critic.open = True
        try:
            return jackknife_values(fitted, report, seed)
        finally:
            critic.open = False
    return fitted.values(report, without_a_group(report, GROUPS, seed))


@torch.no_grad()
def infonce(critic: Any, pairs: Pairs) -> tuple[float, float]:
    """A critic's InfoNCE on mapped pairs, in nats, and its standard error over rows; of rows with one id, the first."""
    pairs = one_a_sample(pairs)
    s = Scores(critic, pairs.x, pairs.y, local=True)
    k = s.negative.per_row
    each = (k + 1).log() - torch.nn.functional.softplus(s.negative.logmeanexp(dim=1) + k.log() - s.positive)
    return float(each.mean()), standard_error(each)


def partition(s: Scores) -> tuple[float, float, float]:
    """log E_neg[e^s], its standard error, and the effective number of pairs that decide it.

    The mean of e^s is one over pairs of pairs, so its error and weight are those of a pair's share in it, as row and as
    column (Hoeffding's projection), and the effective number is Kish's, of the shares.
    """
    with torch.no_grad():
        rows: Tensor = s.negative.logmeanexp(dim=1).double()
        columns: Tensor = s.negative.logmeanexp(dim=0).double()
    top = torch.maximum(rows.max(), columns.max())
    if not bool(top.isfinite()):
        return math.nan, math.inf, 0.0
    share = ((rows - top).exp() + (columns - top).exp()) / 2  # [n]
    n = len(share)
    effective = float(share.sum() ** 2 / share.square().sum())
    log = float(share.mean().log() + top)
    return log, float(2 * share.std() / share.mean() / math.sqrt(n)), effective
