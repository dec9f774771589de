"""select(X, y, k): the columns of X that say most of y, one after the other, each beside those that are chosen.

Brown et al. (2012) put the criteria on one footing: mim takes I(x; y) alone; mrmr takes off the mean I(x; s) over the
chosen s (Peng et al., 2005); jmi is the mean of I(x; y | s) (Yang & Moody, 1999), and cmim the least of it (Fleuret,
2004). The latter two see columns that say something of y only together, once one of them is chosen. So that one is,
pairs of columns that say more together than one by one, beyond chance, are candidates too.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError, nearest
from infomax.estimation.pairs.indexes import require_one_index
from infomax.estimation.questions.columns import FEWEST, Columns, columns_of, require_same_rows
from infomax.estimation.questions.pairwise import information

Method = Literal["mim", "mrmr", "jmi", "cmim"]
METHODS: tuple[Method, ...] = ("mim", "mrmr", "jmi", "cmim")
ROWS_A_CELL = 5  # of a table of two columns and y, on average, at least
MOST_BINS = 8
PAIRED = 2000  # columns at most whose pairs are all looked at
CHANCE = 0.05  # of any pair that says nothing together to be a candidate
LAST = -1e300  # below every score, and above a column's that is chosen already
CELLS = 1 << 20  # of the tables in a batch
PAIRS = 1 << 17  # whose interaction is worked out at a time


class Selection(NamedTuple):
    """indices [k]: columns, in the order in which they were chosen. scores [k], nats: of each when it was chosen."""

    indices: np.ndarray
    scores: np.ndarray


def select(
    X: Any, y: Any, k: int, method: Method = "jmi", *, labels: bool | None = None, missing: str = "refuse"
) -> Selection:
    """Chooses the k columns of X that say most of y, with their scores in nats.

    X [n, p]: numpy, torch, lists, or a data frame. y [n]: of few values, classes, or numbers. k: how many columns.
    method: "mim", by I(x; y) alone; "mrmr", less the mean I(x; s) over chosen s; "jmi", the mean of I(x; y | s) over
    them; "cmim", the least of it. I(x; y) and I(x; s) are those of `pairwise`; I(x; y | s) is that of tables of equally
    frequent bins, at most 8 a column and so many that a cell has 5 rows on average, corrected for their bias. Of jmi
    and cmim, two columns whose interaction information is above what chance makes of all pairs count as one candidate
    with half of what both gain, so that XOR is seen; that looks at p^2 / 2 tables, up to 2,000 columns. labels: whether
    y is classes (True) or quantities (False); None: as `pairwise` reads a column of so many values. missing: "refuse"
    missing values, or "drop": rows without y are left out, and each term is that of the rows in which none of its
    columns misses a value. Of fewer than 20 it is not known, and the mean or least of the others is taken; a column of
    which no term is known comes after all others, with a score of NaN.
    Raises UserError as `pairwise` does, and for k not in 1 .. p, y of several columns or constant, an unknown method.
    """
    require_one_index({"X": X, "y": y})
    x, target = columns_of("X", X, 0, missing), columns_of("y", y, 1, missing)
    require_same_rows(x, target, "y")
    if target.p != 1:
        raise UserError(f"y has {target.p} columns: give one, [n].")
    if target.has_gaps:
        [there], every = target.patterns[0], np.arange(x.p)
        x, target = x.part(there, every), target.part(there, np.array([0]))
    if bool(target.constant[0]):
        raise UserError("y is the same in every row: there is nothing to say of it.")
    if method not in METHODS:
        raise UserError(f"There is no method {method!r}.{nearest(str(method), METHODS)}")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= x.p:
        raise UserError(f"k is {k!r}: give how many of the {x.p} columns of X to choose, 1 to {x.p}.")
    return chosen(x, replace(target, levels=labels), int(k), method)


def chosen(x: Columns, y: Columns, k: int, method: Method) -> Selection:
    """The same of columns that were read; y is one that varies."""
    relevance = information(x, y, np.arange(x.p), np.zeros(x.p, int))
    if method == "mim":
        order = np.argsort(-relevance, kind="stable")[:k]
        return Selection(order, relevance[order])
    if method == "mrmr":
        return _greedy(relevance, k, lambda s: relevance - _redundancy(x, s), _mean, [])
    tables = _Tables.of(x, y)
    terms = _mean if method == "jmi" else np.fmin.reduce  # which leaves NaN out
    synergies = tables.synergies() if x.p <= PAIRED and k > 1 else []
    return _greedy(relevance, k, tables.beside, terms, synergies)


def _mean(terms: np.ndarray) -> np.ndarray:
    """Of terms [k, p] the mean of those that are known [p]; NaN of none."""
    known = (~np.isnan(terms)).sum(0)
    return np.where(known > 0, np.nansum(terms, axis=0) / np.maximum(known, 1), np.nan)


def _redundancy(x: Columns, s: int) -> np.ndarray:
    return information(x, x, np.arange(x.p), np.full(x.p, s))


def _greedy(
    relevance: np.ndarray, k: int, term: Any, of_terms: Any, synergies: list[tuple[int, int, float]]
) -> Selection:
    """One column after the other by `of_terms` of term(s) [p] over the chosen s, or two by that and their synergy."""
    indices: list[int] = []
    scores: list[float] = []
    terms: list[np.ndarray] = []
    while len(indices) < k:
        score = of_terms(np.stack(terms)) if terms else relevance.copy()
        score[indices] = -math.inf
        best = int(np.where(np.isnan(score), LAST, score).argmax())
        take, value = (best,), float(score[best])
        for i, j, both in synergies if len(indices) + 2 <= k else ():
            half = 0.5 * float(score[i] + score[j] + both)
            if half > value:
                take, value = (i, j), half
        for each in take:
            indices.append(each)
            scores.append(value)
            if len(indices) < k:
                terms.append(term(each))
    return Selection(np.array(indices), np.array(scores))


@dataclass(frozen=True)
class _Tables:
    """Columns of X as bins [p, n], -1 where missing, of so many each [p], and y as levels or bins [n] of one number."""

    bins: Tensor  # int8
    numbers: np.ndarray
    y: Tensor
    classes: int

    @staticmethod
    def of(x: Columns, y: Columns) -> "_Tables":
        n = x.n
        if bool(y.discrete[0]):
            levels, classes = y.codes[0], int(y.numbers[0])
            most = math.sqrt(n / (ROWS_A_CELL * classes))
        else:
            most = (n / ROWS_A_CELL) ** (1 / 3)
            classes = _even(most)
            levels = _binned(y, 0, classes)
        bins = np.full((x.p, n), -1, np.int8)
        patterns, of = x.patterns
        for pattern, there in enumerate(patterns):
            which = np.flatnonzero(of == pattern)
            part = x.part(there, which) if x.has_gaps else x
            for c, column in enumerate(which):
                bins[column, there] = _binned(part, c, _even(most))
        return _Tables(
            torch.from_numpy(bins), bins.max(1).astype(int) + 1, torch.from_numpy(levels.astype(np.int64)), classes
        )

    def beside(self, s: int) -> np.ndarray:
        """I(x; y | s) of every column x [p], 0 of s itself."""
        first = np.arange(len(self.bins))
        found = self._information(first, np.full(len(first), s))[0]
        found[s] = 0.0
        return found

    def synergies(self) -> list[tuple[int, int, float]]:
        """Pairs (i, j, I(i; y | j) - I(i; y)), where that is above what chance makes of all pairs; largest first."""
        from scipy.stats import chi2

        p = len(self.bins)
        found: list[tuple[int, int, float]] = []
        size = max(1, PAIRS // p)
        for start in range(0, p, size):
            rows, columns = np.triu_indices(min(size, p - start), 1, p - start)
            rows, columns = rows + start, columns + start
            conditional, alone, n = self._information(rows, columns)
            gain = conditional - alone
            freedom = (self.numbers[rows] - 1) * (self.numbers[columns] - 1) * (self.classes - 1)
            least = (chi2.isf(CHANCE / (p * (p - 1) / 2), np.maximum(freedom, 1)) - freedom) / (2 * n)
            heard = np.flatnonzero((gain > least) & (freedom > 0))
            found += [(int(rows[k]), int(columns[k]), float(gain[k])) for k in heard]
        return sorted(found, key=lambda each: -each[2])

    def _information(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """I(first; y | second) and I(first; y) of pairs of columns [b], from tables, corrected for their bias, and how
        many rows they have; of too few both are NaN."""
        conditional, alone, complete = np.empty((3, len(first)))
        bins = int(self.numbers.max())
        cells, n = bins * bins * self.classes, self.bins.shape[1]
        size = max(1, CELLS // max(cells, n))
        for start in range(0, len(first), size):
            i, j = first[start : start + size], second[start : start + size]
            one, other = self.bins[i].long(), self.bins[j].long()
            index = (other * bins + one) * self.classes + self.y
            # One more cell, of the rows in which either is missing.
            index = torch.where((one < 0) | (other < 0), cells, index)
            offset = (torch.arange(len(i)) * (cells + 1))[:, None]
            counts = torch.bincount((index + offset).view(-1), minlength=len(i) * (cells + 1))
            counts = counts.view(len(i), cells + 1)[:, :cells].view(len(i), bins, bins, self.classes).double()
            complete[start : start + size] = counts.sum((1, 2, 3)).numpy()
            conditional[start : start + size] = _corrected(counts).numpy()
            alone[start : start + size] = _corrected(counts.sum(1, keepdim=True)).numpy()
        few = complete < min(FEWEST, n)
        return np.where(few, np.nan, conditional), np.where(few, np.nan, alone), np.maximum(complete, 1)


def _corrected(counts: Tensor) -> Tensor:
    """I(x; y | s) in nats of counts [b, s, x, y], less the (x - 1)(y - 1) / 2n of each s that chance adds to it
    (Miller, 1955)."""
    n = counts.sum((1, 2, 3)).clamp(min=1)
    x, y, both = counts.sum(3, keepdim=True), counts.sum(2, keepdim=True), counts.sum((2, 3), keepdim=True)
    each = torch.xlogy(counts, counts * both) - torch.xlogy(counts, x * y)
    freedom = ((x > 0).sum((2, 3)) - 1).clamp(min=0) * ((y > 0).sum((2, 3)) - 1).clamp(min=0)
    return (each.sum((1, 2, 3)) - 0.5 * freedom.sum(1)) / n


def _even(most: float) -> int:
    """A number of bins of which one edge is the median."""
    return max(2, 2 * int(min(most, MOST_BINS) / 2))


def _binned(side: Columns, c: int, number: int) -> np.ndarray:
    """A column's equally frequent bins [n], or its own values where these are no more; equal values share a bin."""
    codes = side.codes[c].astype(np.int64)
    if side.numbers[c] <= number:
        return codes
    counts = np.bincount(codes)
    middle = (np.cumsum(counts) - counts / 2) / side.n
    bins = np.minimum((middle * number).astype(np.int64), number - 1)
    return np.unique(bins, return_inverse=True)[1][codes]
