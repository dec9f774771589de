"""pairwise(X): the mutual information of every pair of columns, in closed form, with intervals and p-values."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.pairs.indexes import require_one_index
from infomax.estimation.questions import densities
from infomax.estimation.questions.columns import Columns, Part, columns_of, complete, parts, require_same_rows
from infomax.estimation.questions.densities import Values
from infomax.estimation.questions.matrix import Matrix
from infomax.estimation.questions.significance import q_values, tiles_of_p_values

NUMBERS = 1 << 18  # in a batch's [pairs, rows] array
CELLS = 1 << 21  # of a batch's tables of levels
PAIRS, SIDE = 1 << 17, 512  # whose indices are held, and columns of a square that is mirrored
NORMAL = 1.959963984540054
ABOVE = 1.5  # gaps: kernels blur edges, which takes off what they do not see


def pairwise(X: Any, Y: Any = None, *, missing: str = "refuse") -> Matrix:
    """Estimates the mutual information of every column of X with every column of Y, or of X, in nats.

    X [n, p], and Y [n, q] or [n]: numpy, torch, lists, or data frames, whose names are kept; row i of both is one
    observation. Y None: every pair of different columns of X; the diagonal is NaN.
    No network is trained: columns are ranked once, and pairs are worked out in batches. Two columns of numbers have a
    Gaussian copula, or kernels about normal scores where rows that are left out prefer them. A column of few values
    (32 at most, of 10 rows each or more), whatever its type, is read as levels: names or numbers, it is the same; of
    one with more ties, rows of one value are ordered at random, which leaves the MI as it is. The MI of a constant
    column is 0. Beyond some 4 nats nothing is resolved. Memory: a few numbers a pair, besides the columns.
    The interval (95 %) is the infinitesimal jackknife's over rows, which are taken to be independent of each other, and
    half of how far a density's value on its own rows and on left-out ones lie apart, or, above, three quarters of it,
    as kernels blur edges. The p-value is that of
    independence, by chi-squared sums of functions of the ranks; q-values control the rate of false discoveries.
    missing: "refuse" missing values (NaN, None, null), or "drop": each pair is estimated from the rows in which neither
    of its columns misses a value, which are as many as `Matrix.rows` says; fewer than 20 give NaN. Columns that miss
    the same rows are worked out together, so that many patterns take longer.
    Raises UserError: X and Y of different lengths or indexes, fewer than 20 rows, missing values or infinity (in which
    columns), texts, objects.
    """
    x = columns_of("X", X, 0, missing)
    if Y is None:
        return matrix_of(x, x, symmetric=True)
    require_one_index({"X": X, "Y": Y})
    y = columns_of("Y", Y, 1, missing)
    require_same_rows(x, y)
    return matrix_of(x, y, symmetric=False)


def matrix_of(x: Columns, y: Columns, symmetric: bool) -> Matrix:
    """The same of columns that were read. symmetric: x and y are the same."""
    shape, gaps = (x.p, y.p), x.has_gaps or y.has_gaps
    p, tested = np.full(shape, np.nan), np.zeros(shape, bool)
    count = np.zeros(shape, np.int64) if gaps else None
    for part in parts(x, y):
        for i, j, values in tiles_of_p_values(part.x, part.y):
            at = _place(part, i, j, symmetric)
            p[at], tested[at] = values, ~(part.x.constant[i] | part.y.constant[j])
            if count is not None:
                count[at] = part.x.n
    # Before there are other results, as it takes as much memory as some of them.
    q = np.where(np.isnan(p), np.nan, 1.0)
    q[tested] = q_values(p[tested])
    del tested
    mi, low, high = (np.full(shape, np.nan) for _ in range(3))
    for part in parts(x, y):
        for i, j in _blocks(part.x.p, part.y.p, part.x is part.y):
            at = _place(part, i, j, symmetric)
            mi[at], low[at], high[at] = _information(part.x, part.y, i, j)
    if symmetric:
        for table in (mi, low, high, p, q, *([] if count is None else [count])):
            _mirror(table)
    return Matrix(
        mi=mi, interval=(low, high), p_value=p, q_value=q, n=x.n, x_names=x.names, y_names=y.names,
        symmetric=symmetric, rows=count,
    )  # fmt: skip


def _place(part: Part, i: np.ndarray, j: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where pairs of columns of a part are in the whole table; above the diagonal if symmetric."""
    i, j = part.first[i], part.second[j]
    return (np.minimum(i, j), np.maximum(i, j)) if symmetric else (i, j)


def _blocks(p: int, q: int, above: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All of p columns with all of q, or those above the diagonal, some PAIRS at a time."""
    size = max(1, PAIRS // q)
    for start in range(0, p, size):
        i, j = (index.ravel() for index in np.indices((min(size, p - start), q)))
        i += start
        yield (i[i < j], j[i < j]) if above else (i, j)


def _mirror(table: np.ndarray) -> None:
    """Makes a table [p, p] symmetric by what is above the diagonal, in place."""
    for start in range(0, len(table), SIDE):
        stop = start + SIDE
        square = table[start:stop, start:stop]
        below = np.tril_indices(len(square), -1)
        square[below] = square.T[below]
        table[stop:, start:stop] = table[start:stop, stop:].T


def information(x: Columns, y: Columns, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The MI of column rows[k] of x and column columns[k] of y [k], from the rows that miss neither; NaN of too few."""
    mi = np.full(len(rows), np.nan)
    for some in complete(x, y, rows, columns):
        mi[some.number] = _information(some.x, some.y, some.rows, some.columns)[0]
    return mi


def _information(x: Columns, y: Columns, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of columns without gaps the MI, and the ends of its interval: three arrays [k]."""
    mi, stderr, gap = (np.zeros(len(rows)) for _ in range(3))
    is_level = x.discrete[rows], y.discrete[columns]
    varies = ~(x.constant[rows] | y.constant[columns])

    def fill(which: np.ndarray, cells: int, values: Callable[[np.ndarray], Values]) -> None:
        size = max(1, min(NUMBERS // x.n, CELLS // cells))
        for k in np.array_split(which, -(-len(which) // size)) if len(which) else ():
            found = values(k)
            mi[k], stderr[k], gap[k] = found.mi.numpy(), found.stderr.numpy(), found.gap.numpy()

    def numbers(k: np.ndarray) -> Values:
        return densities.of_numbers(x.scores[rows[k]], y.scores[columns[k]])

    def levels(k: np.ndarray) -> Values:
        first, second = _codes(x, rows[k]), _codes(y, columns[k])
        return densities.of_levels(first, second, int(max(first.max(), second.max())) + 1)

    def first(k: np.ndarray) -> Values:
        codes = _codes(x, rows[k])
        return densities.of_levels_and_numbers(codes, int(codes.max()) + 1, y.scores[columns[k]])

    def second(k: np.ndarray) -> Values:
        codes = _codes(y, columns[k])
        return densities.of_levels_and_numbers(codes, int(codes.max()) + 1, x.scores[rows[k]])

    for a, b, values in ((False, False, numbers), (True, True, levels), (True, False, first), (False, True, second)):
        which = np.flatnonzero(varies & (is_level[0] == a) & (is_level[1] == b))
        # Tables are as wide as the most levels of a batch.
        width = np.where(a, x.numbers[rows[which]], 0) + np.where(b, y.numbers[columns[which]], 0)
        most = int(width.max(initial=1))  # of two columns of levels, more than there are of either
        cells = most**2 if a and b else most * densities.FINE.knots
        if a or b:
            fill(which[np.argsort(width, kind="stable")], cells, values)
        else:
            fill(which, 1, values)
    reach = NORMAL * stderr
    return mi, mi - reach - gap, mi + reach + ABOVE * gap


def _codes(side: Columns, which: np.ndarray) -> Tensor:
    return torch.from_numpy(side.codes[which])
