"""pairwise(X): the mutual information of every pair of columns, in closed form, with intervals and p-values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.pairs.indexes import require_one_index
from infomax.estimation.questions import densities
from infomax.estimation.questions.columns import Columns, columns_of, complete, require_same_rows
from infomax.estimation.questions.densities import Values
from infomax.estimation.questions.matrix import Matrix
from infomax.estimation.questions.significance import p_values, q_values

NUMBERS = 1 << 18  # in a batch's [pairs, rows] array
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
    rows, columns = np.triu_indices(x.p, 1) if symmetric else np.indices((x.p, y.p)).reshape(2, -1)
    mi, low, high, p = np.full((4, len(rows)), np.nan)
    count, tested = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    for some in complete(x, y, rows, columns):
        at = some.number
        mi[at], low[at], high[at] = _information(some.x, some.y, some.rows, some.columns)
        p[at] = p_values(some.x, some.y)[some.rows, some.columns]
        count[at], tested[at] = some.x.n, ~(some.x.constant[some.rows] | some.y.constant[some.columns])
    q = np.where(np.isnan(p), np.nan, 1.0)
    q[tested] = q_values(p[tested])

    def whole(values: np.ndarray, diagonal: float = np.nan) -> np.ndarray:
        table = np.full((x.p, y.p), diagonal, np.result_type(values, type(diagonal)))
        table[rows, columns] = values
        if symmetric:
            table[columns, rows] = values
        return table

    gaps = x.has_gaps or y.has_gaps
    return Matrix(
        mi=whole(mi), interval=(whole(low), whole(high)), p_value=whole(p), q_value=whole(q), n=x.n, x_names=x.names,
        y_names=y.names, symmetric=symmetric, rows=whole(count, 0) if gaps else None,
    )  # fmt: skip


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
    size = max(1, NUMBERS // x.n)

    def fill(which: np.ndarray, values: Callable[[np.ndarray], Values]) -> None:
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
        fill(which[np.argsort(width, kind="stable")] if a or b else which, values)
    reach = NORMAL * stderr
    return mi, mi - reach - gap, mi + reach + ABOVE * gap


def _codes(side: Columns, which: np.ndarray) -> Tensor:
    return torch.from_numpy(side.codes[which])
