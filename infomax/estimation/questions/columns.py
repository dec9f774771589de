"""A table's columns for closed forms: ranked once, as normal scores, as levels, and as orthonormal functions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.pairs import frames
from infomax.estimation.pairs.arrays import tensor_of

FEWEST = 20  # rows, below which no interval means anything
MOST_LEVELS = 32  # values of a column that is read as levels
ROWS_A_LEVEL = 10  # on average, at least
FUNCTIONS = 10  # cosines of a column's ranks
SPARE = 1e-6  # of a function's square, which an orthonormal basis has left of it at least


@dataclass(frozen=True)
class Columns:
    """The columns of a table: values [n, p] in float64, their names, and what closed forms read of them.

    NaN where a value is missing: such columns are read on the rows of a pair, as `complete` gives them. levels: whether
    they are read as levels; None: those of few values are. side: 0 or 1; ties of two sides are broken independently of
    each other.
    """

    values: np.ndarray
    names: tuple[str, ...]
    levels: bool | None = None
    side: int = 0

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def p(self) -> int:
        return self.values.shape[1]

    @cached_property
    def patterns(self) -> tuple[np.ndarray, np.ndarray]:
        """The different patterns of rows that have a value [k, n], and which of them each column has [p]."""
        there = ~np.isnan(self.values).T
        if there.all():
            return np.ones((1, self.n), bool), np.zeros(self.p, np.int64)
        numbers: dict[bytes, int] = {}
        which = np.array([numbers.setdefault(bits.tobytes(), len(numbers)) for bits in np.packbits(there, axis=1)])
        return there[np.unique(which, return_index=True)[1]], which

    @property
    def has_gaps(self) -> bool:
        return not bool(self.patterns[0].all())

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Columns":
        """Some rows, bool [n], of some columns [k]."""
        names = tuple(self.names[c] for c in columns)
        return Columns(self.values[np.ix_(rows, columns)], names, self.levels, self.side)

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each column, which of its values in order each row has [p, n], and how many values there are [p]."""
        codes = np.empty((self.p, self.n), np.int32)
        numbers = np.empty(self.p, np.int64)
        for c, column in enumerate(self.values.T):
            values, codes[c] = np.unique(column, return_inverse=True)
            numbers[c] = len(values)
        return codes, numbers

    @property
    def codes(self) -> np.ndarray:
        return self._ranked[0]

    @property
    def numbers(self) -> np.ndarray:
        return self._ranked[1]

    @property
    def constant(self) -> np.ndarray:
        """[p]"""
        return self.numbers < 2

    @property
    def discrete(self) -> np.ndarray:
        """[p]: read as levels, whatever their type: few values, each of several rows."""
        if self.levels is not None:
            return np.full(self.p, self.levels) & (self.numbers > 1)
        return (self.numbers <= min(MOST_LEVELS, self.n // ROWS_A_LEVEL)) | (self.numbers <= 2)

    @cached_property
    def scores(self) -> Tensor:
        """Normal scores of the ranks [p, n], float32, each of mean 0 and mean square 1.

        Rows of one value are put in random order, by a seed of its own for each column: what is drawn without a look
        at the other column leaves the MI as it is.
        """
        from scipy.special import ndtri

        table = ndtri((np.arange(self.n) + 0.5) / self.n)
        table /= math.sqrt(float(np.mean(table**2)))
        scores = np.empty((self.p, self.n), np.float32)
        for c in range(self.p):
            order = np.arange(self.n)
            if self.numbers[c] < self.n:
                order = np.random.default_rng([self.side, c]).permutation(self.n)
            scores[c, order[np.argsort(self.codes[c][order], kind="stable")]] = table
        return torch.from_numpy(scores)

    def functions(self, some: slice) -> tuple[Tensor, np.ndarray]:
        """Of some columns, k, cosines of the ranks, of ever higher frequency, orthonormal over the rows and to 1
        [k, FUNCTIONS, n], float32, and how many of the first there are [k, FUNCTIONS + 1]: a column of m values has
        m - 1, the rest 0. Those of all columns would be five times the table.
        """
        numbers = self.numbers[some]
        table = np.zeros((len(numbers), FUNCTIONS, self.n), np.float32)
        ranks = np.zeros((len(numbers), FUNCTIONS + 1), np.int64)
        frequency = np.arange(1, FUNCTIONS + 1)[:, None]
        every = math.sqrt(2) * np.cos(math.pi * frequency * ((np.arange(self.n) + 0.5) / self.n))
        for c, codes in enumerate(self.codes[some]):
            number = int(numbers[c])
            if number == self.n:  # no ties: cosines at the middle of n steps are orthonormal already
                table[c] = every[:, codes]
                ranks[c] = np.arange(FUNCTIONS + 1)
            elif number > 1:
                counts = np.bincount(codes, minlength=number)
                basis, ranks[c] = _orthonormal(every, counts)
                table[c] = basis[:, codes]
        return torch.from_numpy(table), ranks


def _orthonormal(every: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functions of the values [FUNCTIONS, m], value k having counts[k] rows: means over ties, then Gram-Schmidt."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    weights = counts / counts.sum()
    means = np.add.reduceat(every, starts, axis=1) / counts
    found = [np.ones(len(counts))]
    basis, ranks = np.zeros_like(means), [0]
    for k, function in enumerate(means):
        left = function
        for _ in range(2):  # twice, as one pass loses digits
            left = left - sum((left * weights * f).sum() * f for f in found)
        size = float((left**2 * weights).sum())
        if size > SPARE * max(float((function**2 * weights).sum()), 1e-300) and len(found) < len(counts):
            basis[k] = left / math.sqrt(size)
            found.append(basis[k])
        ranks.append(len(found) - 1)
    return basis, np.array(ranks)


@dataclass(frozen=True)
class Part:
    """Columns that have the same complete rows, and hold these alone: those of x are columns first [k] of a table,
    those of y columns second [m] of the other; pairs of all with all. x is y: pairs of different ones of x."""

    x: Columns
    y: Columns
    first: np.ndarray
    second: np.ndarray


def parts(x: Columns, y: Columns) -> Iterator[Part]:
    """All columns of x with all of y, or pairs of different columns where x is y, those of the same rows together.

    Without missing values that is one part. Pairs with fewer than FEWEST complete rows are left out.
    """
    if not x.has_gaps and not y.has_gaps:
        yield Part(x, y, np.arange(x.p), np.arange(y.p))
        return
    (there, of_x), (also, of_y) = x.patterns, y.patterns
    for a in range(len(there)):
        for b in range(a if x is y else 0, len(also)):
            first, second = np.flatnonzero(of_x == a), np.flatnonzero(of_y == b)
            both = there[a] & also[b]
            if both.sum() >= FEWEST and not (x is y and a == b and len(first) < 2):
                yield Part(*_both(x, y, both, first, first if x is y and a == b else second), first, second)


def _both(x: Columns, y: Columns, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[Columns, Columns]:
    """Some rows of columns first of x and second of y; ranked once where these are the same."""
    part = x.part(rows, first)
    # Of one table with other gaps, columns of one number meet: as two sides, whose ties are broken apart.
    return part, part if first is second else replace(y.part(rows, second), side=1)


@dataclass(frozen=True)
class Complete:
    """Pairs of columns that have the same complete rows: number[k] of those that were asked about is of column rows[k]
    of x and columns[k] of y, which hold these rows alone."""

    number: np.ndarray
    x: Columns
    y: Columns
    rows: np.ndarray
    columns: np.ndarray


def complete(x: Columns, y: Columns, rows: np.ndarray, columns: np.ndarray) -> Iterator[Complete]:
    """Pairs of column rows[k] of x and columns[k] of y, those of the same complete rows together.

    Without missing values that is all of them at once, as they came. Pairs with fewer than FEWEST complete rows are
    left out.
    """
    if not x.has_gaps and not y.has_gaps:
        yield Complete(np.arange(len(rows)), x, y, rows, columns)
        return
    (there, of_x), (also, of_y) = x.patterns, y.patterns
    if x is y:  # either of two columns may be the first
        swap = of_x[rows] > of_y[columns]
        rows, columns = np.where(swap, columns, rows), np.where(swap, rows, columns)
    kind = of_x[rows] * len(also) + of_y[columns]
    order = np.argsort(kind, kind="stable")
    for number in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
        if not len(number):
            continue
        both = there[of_x[rows[number[0]]]] & also[of_y[columns[number[0]]]]
        if both.sum() < FEWEST:
            continue
        i, j = rows[number], columns[number]
        first, second = np.unique(i), np.unique(j)
        if x is y and of_x[i[0]] == of_x[j[0]]:  # ranked once
            first = second = np.union1d(first, second)
        part, other = _both(x, y, both, first, second)
        yield Complete(number, part, other, np.searchsorted(first, i), np.searchsorted(second, j))


def columns_of(name: str, table: Any, side: int = 0, missing: str = "refuse") -> Columns:
    """A table [n, p], or one column [n], of numbers: numpy, torch, lists, or a data frame, whose names are kept.

    name: "X" or "Y", for the sentences. side: 0 or 1, which of two tables it is. A categorical column of a data frame
    is read by its codes. missing: "refuse" missing values, or "drop", which keeps them as NaN.
    Raises UserError: texts or other objects, more than two dimensions, missing values and infinity with their number,
    fewer than FEWEST rows; with "drop", fewer than FEWEST values in a column.
    """
    if missing not in frames.MISSING:
        raise UserError(f"missing is {missing!r}: give 'refuse', or 'drop' to leave out rows by pair of columns.")
    names, values = _with_gaps(name, table) if missing == "drop" else _without(name, table)
    if len(values) < FEWEST:
        raise UserError(f"{name} has {len(values)} rows, and {FEWEST} are needed at least: give more rows.")
    odd, what = ~np.isfinite(values), "NaN or infinity"
    if missing == "drop":
        odd, what = np.isinf(values), "infinity"
    shown = names or tuple(str(c) for c in range(values.shape[1]))
    if odd.any():
        advice = "leave those rows or columns out, or fill them" + ("" if missing == "drop" else ", or missing='drop'")
        raise UserError(
            f"{name} has {what} in {int(odd.any(1).sum())} of {len(values)} rows (columns {_listed(shown, odd)}):"
            f" {advice}."
        )
    few = (~np.isnan(values)).sum(0) < FEWEST
    if few.any():
        raise UserError(
            f"{name} has fewer than {FEWEST} values in {int(few.sum())} of {len(few)} columns ({_listed(shown, few)}):"
            " leave those columns out."
        )
    return Columns(values, shown, side=side)


def _listed(names: tuple[str, ...], odd: np.ndarray) -> str:
    which = np.flatnonzero(odd.reshape(-1, len(names)).any(0))
    return ", ".join(names[c] for c in which[:5]) + (", ..." if len(which) > 5 else "")


def _without(name: str, table: Any) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Names, of a data frame, and numbers."""
    if hasattr(table, "columns") and hasattr(table, "dtypes"):
        names = tuple(str(column) for column in table.columns)
        if not names:
            raise UserError(f"{name} has no columns: give a table [n, p] of numbers.")
        values = np.empty((len(table), len(names)))
        for c, each in enumerate(table.columns):
            values[:, c] = _numbers(f"column {each} of {name}", table[each])
        return names, values
    return None, _two_dimensions(name, _numbers(name, table))


def _with_gaps(name: str, table: Any) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """The same, NaN where a value is missing: NaN, None, null, or masked."""
    found = frames.columns_of(name, table)
    if found is not None:
        for column in found:
            if column.kind == "texts":
                raise UserError(f"column {column.name} of {name} holds texts, and numbers or categories are needed.")
        values = [np.where(column.missing, np.nan, column.values.astype(np.float64)) for column in found]
        return tuple(column.name for column in found), np.stack(values, 1)
    if isinstance(table, np.ma.MaskedArray):
        table = np.ma.filled(table.astype(np.float64), np.nan)
    elif isinstance(table, (list, tuple, np.ndarray)):
        try:
            array = np.asarray(table)
        except ValueError as error:
            raise UserError(f"{name} is no array of rows of one length: {error}.") from None
        if array.dtype.kind == "O":
            table = np.array([np.nan if each is None else each for each in array.flat], object).reshape(array.shape)
    return None, _two_dimensions(name, _numbers(name, table))


def _two_dimensions(name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise UserError(f"{name} has the shape {[*values.shape]}: give a table [n, p], a row an observation.")
    if values.shape[1] == 0:
        raise UserError(f"{name} has no columns: give a table [n, p] of numbers.")
    return values


def _numbers(name: str, given: Any) -> np.ndarray:
    return tensor_of(name, given).numpy().astype(np.float64, copy=False)


def require_same_rows(x: Columns, y: Columns, name: str = "Y") -> None:
    """Raises UserError for X and the table of this name where their lengths differ."""
    if x.n != y.n:
        raise UserError(f"X has {x.n} rows and {name} has {y.n}: row i of both is one observation, so give as many.")
