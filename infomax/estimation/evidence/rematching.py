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
from infomax.estimation.neighbours import by_distances
from infomax.estimation.pairs import Pairs, has_density, is_label, shuffled
from infomax.estimation.pairs.circle import is_smooth_circle

DRAWN = 19  # matchings: what is there exceeds all of them by chance in one of twenty cases
SWEEPS = 200
LARGEST = 1500  # pairs that are looked at: beyond, their n^2 distances cost more than they tell
NEIGHBOURS = 5


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

    Two statistics, as each is blind where the other sees: nearest neighbours' MI, in few columns at any shape of
    dependence (Kraskov et al., 2004); and means of products of Hermite polynomials of a column of each side, among
    many columns: half the sum of squares of those that differ by more than in any matching, which is a ratio's
    divergence to second order. Labels have no distances; their products are with indicators.
    """
    x, y = (torch.cat(sides) for sides in zip(*((test.x, test.y) for test in tests), strict=True))
    generator = torch.Generator().manual_seed(seed)
    matchings, start = [], 0
    for s in scores:
        matchings.append(start + matched(s, DRAWN, generator))
        start += len(s)
    drawn = torch.cat(matchings, 1)  # [DRAWN, n]
    moved = float((drawn != torch.arange(start)).double().mean())
    continuous = not (is_label(x) or is_label(y)) and has_density(x) and has_density(y)
    normal = [None if is_label(side) else _scores(side) for side in (x, y)]
    hx, hy = (_shares(side) if z is None else hermite(z) for side, z in zip((x, y), normal, strict=True))
    products = _products(hx, hy, drawn)
    if not continuous:
        return Misfit(products, products, moved)
    distances = [torch.cdist(z, z, p=math.inf) for z in normal if z is not None]
    own = by_distances(distances[0], distances[1], NEIGHBOURS)
    drawn_distances = (distances[1].index_select(0, m).index_select(1, m) for m in drawn)
    others = [by_distances(distances[0], each, NEIGHBOURS) for each in drawn_distances]
    gap = own - float(np.mean(others))
    noise = float(np.std(others, ddof=1)) * math.sqrt(1 + 1 / DRAWN)
    return Misfit(max(0.0, gap, products), max(products, gap if gap > 3 * noise else 0.0), moved)


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
