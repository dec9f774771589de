"""How far a value on the report split may be from its expectation, and what is certain whatever the critic."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infomax.estimation.bases.gains import standard_error
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.estimator import Estimator, Fitted
from infomax.estimation.pairs import (
    FEWEST_A_SPLIT,
    Pairs,
    jackknife_error,
    joined,
    one_a_sample,
    shuffled,
    without_a_group,
)
from infomax.estimation.registry import Variational
from infomax.objectives import InfoNCE
from infomax.scores import Scores

GROUPS = 25
DERANGEMENTS = 199
COSTLY = 256  # pairs whose n^2 scores are looked at, where each costs a flow's pass
MISSED = 0.15  # of what a critic learned, how much it may lack beside what its fit pairs tell: measured, see LOG.md
CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256)
UNIFORM = 0.02  # the share of a uniform guess in the floor's classifier, which bounds its loss


@dataclass(frozen=True)
class Reading:
    """What is read of one report part, or of all folds' together; nats.

    sizes: fit, select and report pairs. learned: what a network or kernels added to a closed form.
    partition: its logarithm, standard error and effective pairs, where scores are read. null: a p-value. spread: the
    folds' standard deviation beyond their sampling noise. missed: by how much the interval's upper end is raised.
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
    spread: float = 0.0
    missed: float = 0.0

    @property
    def reported(self) -> int:
        return self.sizes[2]


def read(
    method: Estimator, fitted: Fitted, fit: Pairs, select: Pairs, report: Pairs, seed: int, device: str, level: float
) -> Reading:
    """The value on a report part that `fitted` never saw, its error, what checks need. No part is mapped yet."""
    closed_form = gaussian(fitted, fit, select)
    other = rival(closed_form, report)
    # Whatever bounds MI from below may certify the floor: where n^2 scores are none or costly, the rival does.
    certifies = closed_form if fitted.critic is None or fitted.costly else fitted
    on = "cpu" if certifies is closed_form else device
    bound = floor(certifies.critic, *(read_by(certifies, part, seed, on) for part in (select, report)), level=level)
    if method.reads_all:
        report = joined([fit, select, report])
        fit, select = fit.first(0), select.first(0)
    sizes = len(fit), len(select), len(report)
    # Shuffled, since a value on the first m pairs, and the floor's blocks, mean nothing on rows that are in order.
    fit, select, report = (read_by(fitted, part, seed, device) for part in (fit.first(len(report)), select, report))
    mi = fitted.value(report)
    stderr, half = jackknife(fitted, report, seed)
    value_on = {"report": mi}
    if not method.reads_all:  # as many pairs as report, since a value may depend on their number
        value_on |= {name: fitted.value(p.first(len(report))) for name, p in (("fit", fit), ("select", select))}
    s = None if method.leans_on == "rows" else fitted.scores(report.first(COSTLY) if fitted.costly else report)
    learned = 0.0
    if method.cross_fits:
        base = None if fitted.critic is None else fitted.critic.closed_form
        with torch.no_grad():  # kernels learn too, and as slowly: they are not known
            known = 0.0 if base is None else float(base.known.pair(*base.known.embed(report.x, report.y)).mean())
        learned = abs(mi - known)
    return Reading(
        sizes, mi, stderr, (mi - half, mi + half), value_on, bound, other, None if s is None else partition(s),
        permutation(fitted, report, seed) if method.cross_fits else None, learned,
    )  # fmt: skip


def read_by(fitted: Fitted, part: Pairs, seed: int, device: str) -> Pairs:
    return shuffled(fitted.mapped(part), seed).to(device)


def halved(fit: Pairs, select: Pairs, seed: int) -> tuple[Pairs, Pairs] | None:
    """Half of the ids of a fold's fit and select pairs, at random; None where too few would be left to select on."""
    found = []
    for part in (fit, select):
        ids = part.ids.unique()
        chosen = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(ids))[: len(ids) // 2])
        found.append(part[torch.isin(part.ids, ids[chosen])])
    return None if min(map(len, found)) < FEWEST_A_SPLIT else (found[0], found[1])


def rise(whole: Sequence[Fitted], half: Sequence[Fitted], reports: Sequence[Pairs], seed: int, device: str) -> float:
    """By how much the value on the same report pairs is higher if fitted on all pairs than if on half of them; nats."""
    gains = [
        full.value(read_by(full, report, seed, device)) - less.value(read_by(less, report, seed, device))
        for full, less, report in zip(whole, half, reports, strict=True)
    ]
    return float(np.average(gains, weights=[len(report) for report in reports]))


def combined(each: Sequence[Reading], rise: float | None = None, lack: float = 0.0) -> Reading:
    """The folds' readings as one, by their numbers of report pairs.

    The error is that of the mean: sampling, as reports are different pairs, and what folds differ by beyond it, as each
    has a critic of its own. The floor is the highest, each of which holds at a level divided by their number.

    What a critic lacks lowers a plug-in value that normalises, so that the interval's upper end is raised. What pairs
    were too few for shows in the value's rise at the last doubling of their number, or in how much better fit pairs are
    known than report pairs, two signs of one thing: for a model that can fit the truth, both exceed what is still to
    come (1/N, of the closed form's error). What the critic's family cannot fit shows in pairs drawn from it (`lack`).
    What neither shows, the slow learning of networks and kernels, is a share of what they learned.
    """
    from scipy.stats import t

    weights = np.array([reading.reported for reading in each], float)
    weights /= weights.sum()

    def mean(of: Callable[[Reading], float]) -> float:
        return float(sum(w * of(reading) for w, reading in zip(weights, each, strict=True)))

    def error(of: Callable[[Reading], float]) -> float:
        return math.sqrt(float(sum((w * of(reading)) ** 2 for w, reading in zip(weights, each, strict=True))))

    mi, sampling = mean(lambda r: r.mi), error(lambda r: r.stderr)
    number, spread = len(each), 0.0
    if number > 1:
        variance = float(np.var([r.mi for r in each], ddof=1)) - mean(lambda r: r.stderr**2)
        spread = math.sqrt(variance) if variance > 0 else 0.0
    stderr = math.hypot(sampling, spread / math.sqrt(number))
    # The factor has the degrees of freedom of all groups, or of the folds where they decide.
    half = float(t.ppf(0.975, (GROUPS - 1) * number if spread == 0 else 4 * number)) * stderr
    if number == 1:
        half = (each[0].interval[1] - each[0].interval[0]) / 2
    value_on = {name: mean(lambda r, name=name: r.value_on[name]) for name in each[0].value_on}
    learned = mean(lambda r: r.learned)
    few = max(0.0, value_on.get("fit", mi) - mi, rise or 0.0) if learned > 0 or rise is not None else 0.0
    missed = few + MISSED * learned + max(0.0, lack)
    parts = [r.partition for r in each if r.partition is not None]
    whole = None
    if parts:
        errors = math.sqrt(sum(p[1] ** 2 for p in parts)) / len(parts)
        whole = sum(p[0] for p in parts) / len(parts), errors, min(p[2] for p in parts)
    nulls = [r.null for r in each if r.null is not None]
    return Reading(
        sizes=(each[0].sizes[0], each[0].sizes[1], sum(r.reported for r in each)),
        mi=mi,
        stderr=stderr,
        interval=(mi - half, mi + half + missed),
        value_on=value_on,
        floor=max(r.floor for r in each),
        rival=(mean(lambda r: r.rival[0]), error(lambda r: r.rival[1])),
        partition=whole,
        # Of p-values from different report pairs, the least by Bonferroni.
        null=min(1.0, len(nulls) * min(nulls)) if nulls else None,
        learned=learned,
        spread=spread,
        missed=missed,
    )


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
    own = float(critic.pair(ex, ey).mean())
    generator = torch.Generator().manual_seed(seed)
    beaten = 0
    for _ in range(DERANGEMENTS):
        cycle = torch.randperm(len(report), generator=generator).to(ex.device)
        beaten += float(critic.pair(ex[cycle], ey[cycle.roll(1)]).mean()) >= own
    return (1 + beaten) / (1 + DERANGEMENTS)


def jackknife(fitted: Fitted, report: Pairs, seed: int) -> tuple[float, float]:
    """Half of what a 95 % interval needs: the standard error, and t's factor times it, of the value on `report`.

    Delete-a-group jackknife: the value without each of 25 groups of ids. Pairs, not scores, are left out, so it is
    valid for a function of means over all n (n - 1) negatives as for a mean over pairs, for any objective, and ids stay
    together. (Shao & Wu, 1989)

    The zero critic's value is 0 without noise, which would claim that there is nothing to find. Its error is therefore
    that of the trained critic which lost to it: what such data could have shown.
    """
    from scipy.stats import t

    critic = fitted.critic
    if critic is not None and critic.is_zero:
        critic.open = True
        try:
            return jackknife(fitted, report, seed)
        finally:
            critic.open = False
    values = [fitted.value(report[index]) for index in without_a_group(report, GROUPS, seed)]
    stderr = jackknife_error(values)
    return stderr, float(t.ppf(0.975, len(values) - 1)) * stderr


def floor(critic: Any, select: Pairs, report: Pairs, level: float = 0.05) -> float:
    """A one-sided 95 % lower confidence bound on the true MI, in nats, whatever the critic; it may be negative.

    Report pairs are cut into blocks of k, which share nothing. In each, a classifier finds y_i among the block's y: the
    critic's softmax, mixed with a uniform guess. The block's mean of log(k q_i) is at most I in expectation (van den
    Oord et al., 2018: any classifier that sums to one) and bounded by the mixture, so the mean over blocks has a lower
    confidence bound that holds at any number of blocks: that of betting (Waudby-Smith & Ramdas, 2024). k is
    chosen on the select split. It assumes independent samples; of rows with one id, the first is used.
    """
    select, report = one_a_sample(select), one_a_sample(report)
    best, chosen = -math.inf, CANDIDATES[0]
    for k in CANDIDATES:
        if len(report) // k < 8 or len(select) // k < 4:
            break
        values, reach = _blocks(critic, select, k)
        blocks, log = len(report) // k, math.log(1 / level)
        guess = values.mean() - math.sqrt(2 * log * values.var(ddof=1) / blocks) - reach * log / blocks
        if guess > best:
            best, chosen = guess, k
    values, reach = _blocks(critic, report, chosen)
    bottom = math.log(UNIFORM)
    return bottom + reach * _betting((values - bottom) / reach, level)


@torch.no_grad()
def _blocks(critic: Any, pairs: Pairs, k: int) -> tuple[NDArray[np.float64], float]:
    """The mean log(k q) of every block [blocks], and the width of the range that each is in."""
    means: list[float] = []
    ex, ey = critic.embed(pairs.x, pairs.y)
    for start in range(0, len(pairs) - k + 1, k):
        log_q = critic.score(ex[start : start + k], ey[start : start + k]).double().log_softmax(1).diagonal()
        log_q = torch.logaddexp(log_q + math.log1p(-UNIFORM), torch.full_like(log_q, math.log(UNIFORM / k)))
        means.append(float(log_q.mean()) + math.log(k))
    top = math.log(k * (1 - UNIFORM) + UNIFORM)
    return np.array(means), top - math.log(UNIFORM)


def _betting(values: NDArray[np.float64], level: float) -> float:
    """A lower confidence bound on the mean of independent values in [0, 1]. (Waudby-Smith & Ramdas, 2024, theorem 3)

    For each mean m of a grid, a gambler bets against "the mean is m"; bets know only earlier values, so wealth is a
    martingale under the truth, and an m at which it ever reaches 1 / level is excluded (Ville's inequality).
    """
    n = len(values)
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bet = np.sqrt(2 * math.log(1 / level) / (n * before))  # [n]
    grid = np.linspace(0, 1, 2001)[1:]
    wealth = np.zeros(len(grid))
    highest = np.zeros(len(grid))
    for value, stake in zip(values, bet, strict=True):
        wealth += np.log1p(np.minimum(stake, 0.75 / grid) * (value - grid))
        np.maximum(highest, wealth, out=highest)
    excluded = highest >= math.log(1 / level)
    # Wealth against m falls as m rises, up to the grid's step: the bound is the end of the first excluded stretch.
    return float(grid[int(np.argmin(excluded)) - 1]) if excluded[0] else 0.0


def gaussian(fitted: Fitted, fit: Pairs, select: Pairs) -> Fitted:
    """A Gaussian copula's critic, fitted on the same pairs, which InfoNCE reads. No part is mapped yet."""
    base = None if fitted.critic is None else fitted.critic.closed_form
    if base is not None:
        # A copy, as moving a module moves it for everyone.
        return Fitted(Variational(InfoNCE()), deepcopy(base).cpu(), fitted.maps, {})
    maps = NormalScores(fit.x), NormalScores(fit.y)
    sides = (side for part in (fit, select) for side in (maps[0](part.x), maps[1](part.y)))
    return Fitted(Variational(InfoNCE()), GaussianCopula(*sides), maps, {})


@torch.no_grad()
def rival(gaussian: Fitted, report: Pairs) -> tuple[float, float]:
    """InfoNCE of a Gaussian copula on `report`, and its standard error over rows. `report` is not mapped yet."""
    report = gaussian.mapped(one_a_sample(report))
    s = Scores(gaussian.critic, report.x, report.y, local=True)
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
