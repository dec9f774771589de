"""P-values of independence for many pairs of columns, in closed form, and false-discovery control.

Under independence, products of functions of ranks that are orthonormal over the rows are uncorrelated over all orders
of one column, each of variance 1 / (n - 1): n - 1 times a sum of their squares is chi-squared. Sums over few low
frequencies see what is smooth, sums over many what is not; three of them are combined by Cauchy's law. (Pearson, 1900,
where the functions are indicators; Neyman, 1937; Liu & Xie, 2020; Benjamini & Hochberg, 1995)
"""

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.questions.columns import FUNCTIONS, Columns

UP_TO = (1, 3, FUNCTIONS)  # functions a side in each sum
PEAK = 4.0  # of a squared function of ranks, from which on a column has rare values; a cosine's is 2
EXPECTED = 5.0  # rows that a cell of rare values has to expect for chi-squared to hold (Cochran, 1954)
COLUMNS, PAIRS = 64, 2048  # at a time


def p_values(x: Columns, y: Columns) -> np.ndarray:
    """Of independence of each column of x and each of y [p, q]: 1 where one of them is constant."""
    from scipy.stats import chi2

    n = x.n
    (fx, rx), (fy, ry) = x.functions, y.functions
    found = np.empty((x.p, y.p))
    every = fy.flatten(0, 1).T.contiguous()  # [n, q * FUNCTIONS]
    for start in range(0, x.p, COLUMNS):
        some = slice(start, start + COLUMNS)
        part = fx[some]
        squares = ((part.flatten(0, 1) @ every) / n).square_().view(len(part), FUNCTIONS, y.p, FUNCTIONS)
        scores = np.zeros((len(part), y.p))
        for k in UP_TO:
            total = squares[:, :k, :, :k].sum((1, 3)).double().numpy() * (n - 1)
            freedom = rx[some, k][:, None] * ry[:, k][None]
            p = np.where(freedom > 0, chi2.sf(total, np.maximum(freedom, 1)), 1.0)
            scores += _cauchy(p) / len(UP_TO)
        found[some] = _from_cauchy(scores)
    peaks = [_peaks(side.functions[0]) for side in (x, y)]
    rare = (peaks[0][:, None] > PEAK) & (peaks[1] > PEAK) & (peaks[0][:, None] * peaks[1] > n / EXPECTED)
    rows, columns = np.nonzero(rare)
    for start in range(0, len(rows), PAIRS):
        i, j = rows[start : start + PAIRS], columns[start : start + PAIRS]
        found[i, j] = _exact(_few(x)[i], _few(y)[j])
    constant = x.constant[:, None] | y.constant
    return np.where(constant, 1.0, found)


def _cauchy(p: np.ndarray) -> np.ndarray:
    return 1 / np.tan(np.pi * np.clip(p, 1e-300, 1 - 1e-12))


def _from_cauchy(score: np.ndarray) -> np.ndarray:
    return np.arctan2(1.0, score) / np.pi  # of a large score its inverse, to all digits


def _peaks(functions: Tensor) -> np.ndarray:
    """The largest square of a column's functions [p]."""
    return functions.square().amax((1, 2)).numpy()


def _few(side: Columns) -> np.ndarray:
    """Codes [p, n] of few levels: a column's own, or, of one that has many, its commonest value and the rest."""
    codes = side.codes.copy()
    for c in np.flatnonzero(~side.discrete):
        codes[c] = codes[c] == np.bincount(codes[c]).argmax()
    return codes


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
    rates = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(rates[::-1])[::-1], 1.0)
    return q
