"""P-values of independence for many pairs of columns, in closed form, and false-discovery control.

Under independence, products of functions of ranks that are orthonormal over the rows are uncorrelated over all orders
of one column, each of variance 1 / (n - 1): n - 1 times a sum of their squares is chi-squared. Sums over few low
frequencies see what is smooth, sums over many what is not; three of them are combined by Cauchy's law. (Pearson, 1900,
where the functions are indicators; Neyman, 1937; Liu & Xie, 2020; Benjamini & Hochberg, 1995)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.questions.columns import FUNCTIONS, Columns

UP_TO = (1, 3, FUNCTIONS)  # functions a side in each sum
PEAK = 4.0  # of a squared function of ranks, from which on a column has rare values; a cosine's is 2
EXPECTED = 5.0  # rows that a cell of rare values has to expect for chi-squared to hold (Cochran, 1954)
COLUMNS, ACROSS = 64, 512  # a tile of pairs
HELD = 1 << 22  # numbers of functions that a side holds at a time, or those of one column in AT_MOST
AT_MOST = 8
PAIRS, CELLS = 2048, 1 << 19  # of exact tests at a time, and of their tables


def p_values(x: Columns, y: Columns) -> np.ndarray:
    """Of independence of each column of x and each of another table y [p, q]: 1 where one of them is constant."""
    found = np.empty((x.p, y.p))
    for i, j, values in tiles_of_p_values(x, y):
        found[i, j] = values
    return found


def tiles_of_p_values(x: Columns, y: Columns) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of independence of column i[k] of x and j[k] of y [k], 1 where one of them is constant: i, j, and p-values of a
    tile of pairs at a time. x is y: of pairs of different columns, i below j."""
    sizes = [max(HELD // (FUNCTIONS * side.n), -(-side.p // AT_MOST), 1) for side in (x, y)]
    only = _Functions.of(y, 0, sizes[1]) if sizes[1] >= y.p else None
    for start in range(0, x.p, sizes[0]):
        some = only if x is y and only else _Functions.of(x, start, sizes[0])
        for other in range(start if x is y else 0, y.p, sizes[1]):
            if x is y and other == start:
                yield from _tiles(some, some)
            else:
                yield from _tiles(some, only or _Functions.of(y, other, sizes[1]))


@dataclass(frozen=True)
class _Functions:
    """Functions of the columns of a table from `start` on, how many there are, and the largest square of a column's."""

    side: Columns
    start: int
    values: Tensor
    ranks: np.ndarray
    peaks: np.ndarray

    @staticmethod
    def of(side: Columns, start: int, number: int) -> "_Functions":
        values, ranks = side.functions(slice(start, start + number))
        peaks = torch.maximum(values.amax((1, 2)), -values.amin((1, 2))).square_()
        return _Functions(side, start, values, ranks, peaks.numpy())


def _tiles(x: _Functions, y: _Functions) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    n = x.side.n
    for start in range(0, len(x.values), COLUMNS):
        for other in range(start if x is y else 0, len(y.values), ACROSS):
            some, across = slice(start, start + COLUMNS), slice(other, other + ACROSS)
            p = _approximate(x.values[some], y.values[across], x.ranks[some], y.ranks[across], n)
            i, j = (index.ravel() for index in np.indices(p.shape))
            if x is y and start == other:
                above = i < j
                i, j = i[above], j[above]
            p = p[i, j]
            i, j = i + start, j + other
            peaks = x.peaks[i], y.peaks[j]
            rare = (peaks[0] > PEAK) & (peaks[1] > PEAK) & (peaks[0] * peaks[1] > n / EXPECTED)
            i, j = i + x.start, j + y.start
            if rare.any():
                p[rare] = _all_exact(x.side, y.side, i[rare], j[rare])
            p[x.side.constant[i] | y.side.constant[j]] = 1.0
            yield i, j, p


def _approximate(fx: Tensor, fy: Tensor, rx: np.ndarray, ry: np.ndarray, n: int) -> np.ndarray:
    """By chi-squared sums of functions [p, FUNCTIONS, n] and [q, FUNCTIONS, n], of which there are so many [p, q]."""
    from scipy.stats import chi2

    products = (fx.flatten(0, 1) @ fy.flatten(0, 1).T).div_(n)
    squares = products.square_().view(len(fx), FUNCTIONS, len(fy), FUNCTIONS)
    scores = np.zeros((len(fx), len(fy)))
    for k in UP_TO:
        total = squares[:, :k, :, :k].sum((1, 3)).double().numpy() * (n - 1)
        freedom = rx[:, k][:, None] * ry[:, k][None]
        p = np.where(freedom > 0, chi2.sf(total, np.maximum(freedom, 1)), 1.0)
        scores += _cauchy(p) / len(UP_TO)
    return _from_cauchy(scores)


def _cauchy(p: np.ndarray) -> np.ndarray:
    return 1 / np.tan(np.pi * np.clip(p, 1e-300, 1 - 1e-12))


def _from_cauchy(score: np.ndarray) -> np.ndarray:
    return np.arctan2(1.0, score) / np.pi  # of a large score its inverse, to all digits


def _all_exact(x: Columns, y: Columns, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Exact tests of columns i of x and j of y [k], so many at a time that tables and rows stay small."""
    levels = max(int(np.where(s.discrete, s.numbers, 2)[c].max()) for s, c in ((x, i), (y, j)))
    size = max(1, min(PAIRS, CELLS // levels**2, 2 * CELLS // x.n))
    some = [slice(start, start + size) for start in range(0, len(i), size)]
    return np.concatenate([_exact(_few(x, i[k]), _few(y, j[k])) for k in some])


def _few(side: Columns, columns: np.ndarray) -> np.ndarray:
    """Codes [k, n] of few levels: a column's own, or, of one that has many, its commonest value and the rest."""
    which, back = np.unique(columns, return_inverse=True)
    codes = side.codes[which]
    for c in np.flatnonzero(~side.discrete[which]):
        codes[c] = codes[c] == np.bincount(codes[c]).argmax()
    return codes[back]


def _exact(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fisher's exact test of each level beside each, the smallest p-value times the number of them [b]."""
    from scipy.stats import hypergeom

    b, n = first.shape
    number = int(max(first.max(), second.max())) + 1
    index = torch.from_numpy((np.arange(b)[:, None] * number + first) * number + second).view(-1)
    counts = torch.bincount(index, minlength=b * number**2).view(b, number, number).numpy()
    one, other = counts.sum(2)[:, :, None], counts.sum(1)[:, None, :]
    tails = [hypergeom.cdf(counts, n, one, other), hypergeom.sf(counts - 1, n, one, other)]
    p = np.where((one > 0) & (other > 0), np.minimum(*tails) * 2, 1.0)
    levels = [(side > 0).sum((1, 2)) for side in (one, other)]
    tries = np.prod([np.where(k == 2, 1, k) for k in levels], axis=0)  # of two levels one says all
    return np.minimum(p.min((1, 2)) * tries, 1.0)


def q_values(p: np.ndarray) -> np.ndarray:
    """The false-discovery rate [k] at which each of p-values [k] is the last to be called a discovery."""
    order = np.argsort(p)
    rates = p[order]
    rates *= len(p)
    rates /= np.arange(1, len(p) + 1)
    rates = np.minimum.accumulate(rates[::-1])[::-1]
    q = np.empty(len(p))
    q[order] = np.minimum(rates, 1.0, out=rates)
    return q
