"""Goodness-of-fit test: x and y are re-matched at random with the critic's own density ratio.

If scores are log r, then given all x and all y, unordered, the pairs are matched as they are with a chance in
proportion to prod_i r(x_i, y_pi(i)). Matchings drawn from it are exchangeable with the real one, so that no statistic
tells them apart. A statistic that still does shows dependence that the critic missed; nothing is fitted for it.
(The conditional permutation test: Berrett et al., 2020)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.bases.circular import Unturned
from infomax.estimation.bases.gaussian import COMPONENTS
from infomax.estimation.bases.normal_scores import NormalScores, hermite
from infomax.estimation.estimator import Fitted
from infomax.estimation.neighbours import by_codes, by_distances
from infomax.estimation.pairs import Pairs, has_density, is_label, shuffled
from infomax.estimation.pairs.circle import is_smooth_circle

DRAWN = 19  # matchings: what is there exceeds all of them by chance in one of twenty cases
SWEEPS = 200
LARGEST = 1500  # pairs that are looked at: beyond, their n^2 distances cost more than they tell
NEIGHBOURS = 5
FAR = 4  # deviations, of statistics so noisy that what exceeds three by luck is several times what there is
RECUR = 20  # rows that a combination of few values has on average, from which on it is looked at as a label is
SHARED = 5  # rows on average that have a number which repeats, from which on their distances are looked at
ROWS = 20  # for each coefficient of a quadratic form, at least
SEVERAL = range(2, 13)  # columns of a side whose products are looked at


@dataclass(frozen=True)
class Misfit:
    """By how much pairs differ from pairs that were matched anew by the critic's own ratio, in nats.

    mean: from the mean of the re-matched ones, noise and all. shown: where noise, as re-matched pairs have it, cannot
    be all of it, else 0. moved: the share of pairs that a matching parts; where it is near 0, nothing can be told.
    """

    mean: float
    shown: float
    moved: float


def misfit(each: Sequence[Fitted], tests: Sequence[Pairs], seed: int, device: str) -> Misfit | None:
    """From each fold's critic and its test pairs, which no map has seen yet; None where `looked_at` is."""
    found = looked_at(tests, seed)
    if found is None:
        return None
    of_folds = zip(each, found, strict=True)
    return misfit_of(found, [scores_of(fitted, fitted.mapped(test).to(device)) for fitted, test in of_folds], seed)


def looked_at(tests: Sequence[Pairs], seed: int) -> list[Pairs] | None:
    """The first of each fold's shuffled test pairs; None where nothing can be told: more than 256 columns a side,
    repeated ids."""
    found = [shuffled(test, seed).first(LARGEST // len(tests)) for test in tests]
    widest = max(found[0].x.shape[1], found[0].y.shape[1])
    return None if widest > COMPONENTS or any(len(test.ids.unique()) < len(test) for test in found) else found


@torch.no_grad()
def scores_of(fitted: Fitted, mapped: Pairs) -> Tensor:
    """All scores of mapped pairs [n, n], on the CPU."""
    critic: Any = fitted.critic
    return critic.score(*critic.embed(mapped.x, mapped.y)).cpu()


def misfit_of(tests: Sequence[Pairs], scores: Sequence[Tensor], seed: int) -> Misfit:
    """From test pairs that no map has seen, and their scores [n, n].

    Statistics of which each is blind where another sees. Nearest neighbours' MI, in few columns at any shape of
    dependence (Kraskov et al., 2004; of a label: Ross, 2014): of five neighbours, and of one, which sees a wave that
    five span. Means of products of Hermite polynomials of a column of each side, among many columns: half the sum of
    squares of those that differ by more than in any matching, which is a ratio's divergence to second order. And how
    well a quadratic form of several columns predicts another side, which neighbours miss where it is a small
    difference of large numbers. Labels have no distances; their products are with indicators, and so are those of
    columns of few values, by the combinations that recur. Numbers that repeat have distances, some of them 0; where few
    are equal, by rounding, no neighbours are looked at, as they tell of the rounding.
    """
    x, y = (torch.cat(sides) for sides in zip(*((test.x, test.y) for test in tests), strict=True))
    generator = torch.Generator().manual_seed(seed)
    matchings, start = [], 0
    for s in scores:
        matchings.append(start + matched(s, DRAWN, generator))
        start += len(s)
    drawn = torch.cat(matchings, 1)  # [DRAWN, n]
    moved = float((drawn != torch.arange(start)).double().mean())
    dense = [not is_label(side) and has_density(side) for side in (x, y)]
    normal = [None if is_label(side) else _scores(side) for side in (x, y)]
    codes = [None if is_dense else _codes(side) for side, is_dense in zip((x, y), dense, strict=True)]
    hx, hy = (_columns(side, z, code) for side, z, code in zip((x, y), normal, codes, strict=True))
    products = _products(hx, hy, drawn)
    mean, shown = products, [products]
    for rows, to, order in ((x, hy, drawn), (y, hx, drawn.argsort(1))):
        if not is_label(rows) and rows.shape[1] in SEVERAL and (near := _predicted(rows, to, order)) is not None:
            shown.append(_beyond(*near, FAR)[1])
    if all(is_dense or _repeats(side) for side, is_dense in zip((x, y), dense, strict=True)):
        dx, dy = (torch.cdist(z, z, p=math.inf) for z in normal if z is not None)
        ways = [dy, *(dy.index_select(0, m).index_select(1, m) for m in drawn)]
        few, one = zip(*((by_distances(dx, each, NEIGHBOURS), by_distances(dx, each, 1)) for each in ways), strict=True)
        gap, seen = _beyond(few[0], few[1:])
        mean, shown = max(0.0, gap, products), [*shown, seen, _beyond(one[0], one[1:], FAR)[1]]
    if any(dense) and not all(dense):
        side = 0 if dense[0] else 1
        z, code = normal[side], codes[1 - side]
        if code is not None and z is not None:
            orders = drawn if side == 0 else drawn.argsort(1)  # of codes beside the rows that have distances
            # Of several columns Euclidean distances tell more; by differences, as a product's rounding is as large.
            d = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
            own, *others = (by_codes(d, each, NEIGHBOURS) for each in (code, *(code[m] for m in orders)))
            shown.append(_beyond(own, others, FAR)[1])
    return Misfit(max(mean, *shown), max(shown), moved)


def _beyond(own: float, others: Sequence[float], deviations: float = 3) -> tuple[float, float]:
    """By how much the pairs' statistic exceeds the mean of re-matched ones; and the same where noise, as these have
    it, cannot be all of it, else 0: beyond so many of its deviations."""
    gap = own - float(np.mean(others))
    noise = float(np.std(others, ddof=1)) * math.sqrt(1 + 1 / len(others))
    return gap, gap if gap > deviations * noise and own > max(others) else 0.0


def _repeats(side: Tensor) -> bool:
    """Whether rows that are no label come SHARED times or more on average."""
    return not is_label(side) and SHARED * len(side.unique(dim=0)) <= len(side)


def _codes(side: Tensor) -> Tensor | None:
    """A label's class, or the combination of values that a row of few values has, as a whole number [n]; None where
    combinations do not recur."""
    if is_label(side):
        return side.argmax(1)
    rows, code = side.unique(dim=0, return_inverse=True)
    return code if 1 < len(rows) <= len(side) / RECUR else None


def _columns(side: Tensor, z: Tensor | None, code: Tensor | None) -> Tensor:
    """What products are taken of: indicators of a label, else Hermite polynomials, and indicators of combinations."""
    if z is None:
        return _shares(side)
    parts = [hermite(z)]
    if code is not None and side.shape[1] > 1:
        parts.append(_shares(torch.nn.functional.one_hot(code).to(z.dtype)))
    return torch.cat(parts, 1)


def _predicted(rows: Tensor, to: Tensor, orders: Tensor) -> tuple[float, list[float]] | None:
    """By how much more than usual a quadratic form of rows [n, d] tells of a column of `to` [n, p], in nats: as they
    are, and in each of the orders [m, n].

    R2 is that of rows which the form was not fitted on, by least squares; the usual one is the mean over all orders.
    None where there are too few rows for so many products.
    """
    n, d = rows.shape
    i, j = torch.triu_indices(d, d)
    if ROWS * (d + len(i)) > n or to.shape[1] > 3 * SEVERAL[-1]:
        return None
    z = _robust(rows.double())
    raw = torch.cat([z, z[:, i] * z[:, j]], 1)
    form = torch.cat([torch.ones(n, 1).double(), (raw - raw.mean(0)) / raw.std(0).clamp(min=1e-12)], 1)
    ways = torch.stack([to, *(to[order] for order in orders)]).double()  # [1 + m, n, p]
    told = []
    for fit, rest in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        a = form[fit]
        square = a.T @ a + 1e-7 * len(a) * torch.eye(a.shape[1]).double()
        weights = torch.linalg.solve(square, a.T @ ways[:, fit].transpose(0, 1).flatten(1))
        missed = (ways[:, rest].transpose(0, 1).flatten(1) - form[rest] @ weights).square().mean(0)
        # By the variance of all rows, which no order changes: that of half of a rare class may be 0.
        told.append(1 - missed.view(len(ways), -1) / to.double().var(0).clamp(min=1e-12))
    share = ((told[0] + told[1]) / 2).clamp(min=-1)  # [1 + m, p]
    more = (share - share.mean(0)).amax(1).clamp(max=1 - 1e-6)  # each in its own best column, so that all are alike
    own, *others = (-0.5 * torch.log1p(-more)).tolist()
    return own, others


def _robust(rows: Tensor) -> Tensor:
    """Columns by their median and the median distance from it, a deviation of normal ones, no further than 5."""
    apart = rows - rows.median(0).values
    scale = 1.4826 * apart.abs().median(0).values
    scale = torch.where(scale > 0, scale, rows.std(0)).clamp(min=torch.finfo(torch.float64).tiny)
    return (apart / scale).clamp(-5, 5)


def _scores(side: Tensor) -> Tensor:
    """Columns' normal scores; an angle's cosine and sine as they are."""
    return Unturned()(side) if is_smooth_circle(side) else NormalScores(side)(side)


def matched(s: Tensor, number: int, generator: torch.Generator, sweeps: int = SWEEPS) -> Tensor:
    """Matchings [number, n] drawn with a chance in proportion to the product of exp(s[i, m(i)]), s [n, n].

    A chain of swaps leads from the identity to a hub, and one from there to each, so that all are exchangeable with the
    identity however short the chains are: `sweeps` steps, each of which tries to swap every row with another. (Besag &
    Clifford, 1989)
    """
    n = len(s)
    flat = s.flatten()
    found = torch.arange(n)[None]
    steps = torch.arange(1, (n - 1) // 2 + 1)
    for chains in (1, number):
        found = found.expand(chains, n).clone()
        for _ in range(min(2 * n, sweeps)):
            # Rows that lie as far on both sides of a random one, or of the gap behind it: any two can meet, and a
            # random order, which serves as well, costs more than all else here.
            centre = torch.randint(n, (chains, 1), generator=generator)
            gap = torch.randint(2, (chains, 1), generator=generator)
            i, j = (centre + steps) % n, (centre + gap - steps) % n
            a, b = found.gather(1, i), found.gather(1, j)
            at_i, at_j = i * n, j * n
            odds = flat.take(at_i + b) + flat.take(at_j + a) - flat.take(at_i + a) - flat.take(at_j + b)
            swap = torch.rand(odds.shape, generator=generator) < odds.sigmoid()
            found.scatter_(1, i, torch.where(swap, b, a)).scatter_(1, j, torch.where(swap, a, b))
    return found


def _products(hx: Tensor, hy: Tensor, drawn: Tensor) -> float:
    """Half the sum of squared differences, of means of products, that no drawn matching has."""
    own = hx.T @ hy / len(hx)
    each = torch.stack([hx.T @ hy[m] / len(hx) for m in drawn])
    # Each drawn matching is compared, as the pairs are, with the mean of all others: the pairs are one of these.
    mean = each.mean(0)
    largest = max(float((e - mean - (own - e) / len(each)).abs().max()) for e in each)
    difference = own - mean
    return float(difference[difference.abs() > largest].square().sum()) / 2


def _shares(label: Tensor) -> Tensor:
    """Indicators whose squared means with a standard column add up to chi2 / n."""
    share = label.mean(0).clamp(min=1 / len(label))
    return (label - share) / share.sqrt()
