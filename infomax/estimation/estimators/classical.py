"""Estimators without a critic, which read all pairs at once: neighbours, and the Gaussian copula's closed form."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import neighbours
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.pairs import Pairs, one_a_sample, require_density


class _Classical(Estimator):
    """Those that learn nothing beforehand. Their error is the jackknife's, each value without a group of pairs."""

    training_free = True
    widest = 0  # columns a side

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        require_density(repr(self), fit)  # first, as a label is one column of a user's, however wide it is here
        for name in ("x", "y"):
            side = getattr(fit, name)
            if side.shape[1] > self.widest:
                raise UserError(
                    f"{self!r} is for at most {self.widest} columns a side, and {name} has {side.shape[1]}: give "
                    "fewer, such as principal components, or take another method, such as CopulaJS."
                )
        return Fitted(self, None, (_as_it_is, _as_it_is), {"fitted": "nothing"})

    def read(self, critic: Any, pairs: Pairs) -> Tensor:
        return torch.tensor(self.of_normal_scores(*_normal_scores(one_a_sample(pairs))))

    def read_matched(self, critic: Any, pairs: Pairs, matchings: Tensor) -> list[Tensor]:
        """The values [] where x of row i meets y of row matchings[j, i]. Where each row is a sample, a matching only
        puts y in another order, and so its normal scores, which are worked out once."""
        if len(one_a_sample(pairs)) < len(pairs):
            return super().read_matched(critic, pairs, matchings)
        x, y = _normal_scores(pairs)
        return [torch.tensor(self.of_normal_scores(x, y[rows])) for rows in matchings.numpy()]

    def of_normal_scores(self, x: np.ndarray, y: np.ndarray) -> float:
        """The value, in nats, of x [n, dx] and y [n, dy] that have been mapped to normal scores."""
        raise TypeError(f"{type(self).__name__} defines no value.")


class KSG(_Classical):
    """From distances to the k-th neighbour, for low dimension; nothing is learnt. (Kraskov et al., 2004, estimator 1)

    No bound: it understates where columns are many or dependence is strong. Columns go to normal scores first. Its
    error is the jackknife's, which leaves pairs out and never repeats any (Holmes & Nemenman, 2019). Ceiling: about
    log N. Variance: about that of log r over pairs. Raises UserError: more than 10 columns a side, a side without a
    density (labels, quantised numbers), k too large, more than k copies of a pair.

    In words: Counts near neighbours: nothing is trained, quick, for a few columns on each side.
    """

    value_from = "neighbours"
    widest = 10

    def __init__(self, k: int = 5):
        if not isinstance(k, int) or k < 1:
            raise UserError(f"k must be a whole number of neighbours, at least 1, and is {k!r}; 3 to 10 are usual.")
        self.k = k

    def highest(self, number: int) -> float:
        from scipy.special import digamma

        return float(digamma(number) - digamma(self.k))  # no neighbour of a side is nearer than the k-th of the pairs

    def of_normal_scores(self, x: np.ndarray, y: np.ndarray) -> float:
        n, k = len(x), self.k
        if n <= k + 1:
            raise UserError(f"KSG's k={k} neighbours need more than {n} different pairs.")
        return neighbours.by_trees(x, y, k)


class Neighbours(_Classical):
    """What the default holds itself against, and reads where a critic lacks something: KSG's estimator of three
    neighbours, of ranks in which equal values are put in a random order.

    Nothing tells of that order, so that MI stays, and rows have distances: without, counts and rounded numbers of which
    each pair of values has few rows are read far too high (docs/estimation.md). Pairs that have many copies, as of
    values with a probability of their own, are counted instead. (Gao et al., 2017)
    """

    value_from = "neighbours"
    widest = 2
    k = 3
    many = 20  # copies
    halvings = 4
    orders = 4  # of equal values, over which a value is averaged

    def __init__(self, seed: int = 0):
        self.seed = seed

    @staticmethod
    def to_come(columns: int) -> float:
        """What is missing at most, as a multiple of the rise from half of the pairs, of an error that falls as the
        distance of neighbours does among columns of both sides: N^(-1/2) of two, N^(-1/4) of four."""
        return 1 / (2 ** (1 / columns) - 1)

    def highest(self, number: int) -> float:
        return KSG(self.k).highest(number)

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> Fitted:
        return Fitted(self, None, (_as_it_is, _as_it_is), {"fitted": "nothing"})

    def rise(self, pairs: Pairs, seed: int) -> float:
        """By how much the value on pairs is higher than on half of them, drawn by the seed, in nats."""
        whole, halves = float(self.read(None, pairs)), []
        for number in range(self.halvings):
            order = torch.from_numpy(np.random.default_rng([seed, 6, number]).permutation(len(pairs)))
            halves += [float(self.read(None, pairs[half.sort().values])) for half in order.tensor_split(2)]
        return whole - float(np.mean(halves))

    def finer(self, pairs: Pairs) -> tuple[float, float]:
        """By how much one neighbour tells more than three, in nats, and the standard error of that: what varies within
        the distance of three is lost to them."""
        more = self.each(pairs, 1) - self.each(pairs)
        return float(more.mean()), float(more.std() / math.sqrt(len(more)))

    def each(self, pairs: Pairs, k: int | None = None) -> np.ndarray:
        """What each pair adds to the mean that is the value [n], in nats; by k neighbours, or three."""
        x, y = (side.cpu().double().numpy() for side in (pairs.x, pairs.y))
        ties = any(len(np.unique(column)) < len(column) for side in (x, y) for column in side.T)
        found = np.zeros(len(x))
        for order in range(self.orders if ties else 1):
            zx, zy = (self._ranked(side, pairs.ids.cpu().numpy(), [order, at]) for at, side in enumerate((x, y)))
            found += neighbours.of_each(zx, zy, self.k if k is None else k)
        counted = neighbours.of_copies(x, y, self.many)
        return np.where(np.isnan(counted), found / (self.orders if ties else 1), counted)

    def _ranked(self, side: np.ndarray, ids: np.ndarray, of: list[int]) -> np.ndarray:
        """Normal scores of columns' ranks [n, d], equal values in an order that each id has for good: what is left out
        or shuffled leaves it to the others."""
        from scipy.special import ndtri

        scores = np.empty(side.shape)
        for at, column in enumerate(side.T):
            key = np.random.default_rng([self.seed, 7, *of, at]).random(int(ids.max()) + 1)[ids]
            scores[np.lexsort((key, column)), at] = ndtri((np.arange(len(column)) + 0.5) / len(column))
        return scores

    def read(self, critic: Any, pairs: Pairs) -> Tensor:
        return torch.tensor(self.each(pairs).mean())

    def read_matched(self, critic: Any, pairs: Pairs, matchings: Tensor) -> list[Tensor]:
        """The values [] where x of row i meets y of row matchings[j, i]."""
        return [self.read(critic, Pairs(pairs.x, pairs.y[rows], pairs.ids)) for rows in matchings]


class GCMI(_Classical):
    """The Gaussian copula's MI in closed form: -1/2 log det of normal scores' correlations. (Ince et al., 2017)

    A lower bound on MI over the population where the marginals are all that is not normal about it; else no bound.
    shrinkage: of correlations towards 0, in [0, 1]; None: 0 with the exact correction of the bias of log det for normal
    columns, and where a column has fewer than 10 pairs the analytic amount. (Schaefer & Strimmer, 2005) Ceiling: none.
    Variance: about that of log r over pairs. Raises UserError: more than 256 columns a side, a side without a
    density (labels, quantised numbers).

    In words: Correlations of ranks: in an instant, and blind to whatever no correlation shows.
    """

    widest = 256

    def __init__(self, shrinkage: float | None = None):
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise UserError(f"shrinkage must be in [0, 1], or None for what fits the data, and is {shrinkage!r}.")
        self.shrinkage = shrinkage

    def of_normal_scores(self, x: np.ndarray, y: np.ndarray) -> float:
        from scipy.special import digamma

        if len(x) < 2 * (x.shape[1] + y.shape[1]):
            raise UserError(
                f"GCMI needs two pairs a column at least, and there are {len(x)} pairs of {x.shape[1] + y.shape[1]} "
                "columns: give more pairs or fewer columns, or take another method, such as CopulaJS."
            )
        x, y = _uncorrelated(x), _uncorrelated(y)  # MI stays, and columns that are sums of others go
        n, dx, dy = len(x), x.shape[1], y.shape[1]
        cross = x.T @ y / n  # all else is the unit matrix, so log det is a sum over singular values
        amount = self.shrinkage
        if amount is None:
            # The variance of a correlation of uncorrelated columns is 1 / n; their squares' excess over that is signal.
            amount = 0.0 if n >= 10 * (dx + dy) else min(1.0, dx * dy / n / max(float((cross**2).sum()), 1e-300))
        rho = np.linalg.svd((1 - amount) * cross, compute_uv=False)
        with np.errstate(divide="ignore"):
            value = -0.5 * float(np.log1p(-(np.minimum(rho, 1.0) ** 2)).sum())
        if amount > 0:
            return value
        terms = digamma((n - np.arange(1, dx + dy + 1)) / 2)
        return value - 0.5 * float(terms[:dx].sum() + terms[:dy].sum() - terms.sum())


def _normal_scores(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    x, y = (NormalScores(side.cpu())(side.cpu()).double().numpy() for side in (pairs.x, pairs.y))
    return x, y


def _uncorrelated(side: np.ndarray) -> np.ndarray:
    side = side - side.mean(0)
    values, vectors = np.linalg.eigh(side.T @ side / len(side))
    keep = values > 1e-8 * values[-1]
    return side @ vectors[:, keep] / np.sqrt(values[keep])


def _as_it_is(t: Tensor) -> Tensor:
    return t


ESTIMATORS = (KSG, GCMI)
