"""A table's columns for closed forms: ranked once, as normal scores, as levels, and as orthonormal functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.pairs.arrays import tensor_of

FEWEST = 20  # rows, below which no interval means anything
MOST_LEVELS = 32  # values of a column that is read as levels
ROWS_A_LEVEL = 10  # on average, at least
FUNCTIONS = 10  # cosines of a column's ranks
SPARE = 1e-6  # of a function's square, which an orthonormal basis has left of it at least


@dataclass(frozen=True)
class Columns:
    """The columns of a table: values [n, p] in float64 without NaN, their names, and what closed forms read of them.

    levels: whether they are read as levels; None: those of few values are. side: 0 or 1; ties of two sides are broken
    independently of each other.
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

    @cached_property
    def functions(self) -> tuple[Tensor, np.ndarray]:
        """Cosines of the ranks, of ever higher frequency, orthonormal over the rows and to 1 [p, FUNCTIONS, n],
        float32, and how many of the first k there are [p, FUNCTIONS + 1]: a column of m values has m - 1, the rest 0.
        """
        table = np.zeros((self.p, FUNCTIONS, self.n), np.float32)
        ranks = np.zeros((self.p, FUNCTIONS + 1), np.int64)
        frequency = np.arange(1, FUNCTIONS + 1)[:, None]
        every = math.sqrt(2) * np.cos(math.pi * frequency * ((np.arange(self.n) + 0.5) / self.n))
        for c, codes in enumerate(self.codes):
            number = int(self.numbers[c])
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


def columns_of(name: str, table: Any, side: int = 0) -> Columns:
    """A table [n, p], or one column [n], of numbers: numpy, torch, lists, or a data frame, whose names are kept.

    name: "X" or "Y", for the sentences. side: 0 or 1, which of two tables it is. A categorical column of a data frame
    is read by its codes.
    Raises UserError: texts or other objects, more than two dimensions, NaN or infinity, fewer than FEWEST rows.
    """
    names: Sequence[Any] | None = None
    if hasattr(table, "columns") and hasattr(table, "dtypes"):
        names = [str(column) for column in table.columns]
        sides = [_numbers(f"column {each} of {name}", table[each]) for each in table.columns]
        if not sides:
            raise UserError(f"{name} has no columns: give a table [n, p] of numbers.")
        values = np.stack(sides, 1)
    else:
        values = _numbers(name, table)
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise UserError(f"{name} has the shape {[*values.shape]}: give a table [n, p], a row an observation.")
        if values.shape[1] == 0:
            raise UserError(f"{name} has no columns: give a table [n, p] of numbers.")
    if len(values) < FEWEST:
        raise UserError(f"{name} has {len(values)} rows, and {FEWEST} are needed at least: give more rows.")
    if (bad := ~np.isfinite(values)).any():
        which = np.flatnonzero(bad.any(0))
        shown = ", ".join(str(names[c]) if names else str(c) for c in which[:5]) + (", ..." if len(which) > 5 else "")
        raise UserError(
            f"{name} has NaN or infinity in {int(bad.any(1).sum())} of {len(values)} rows (columns {shown}): leave"
            " those rows or columns out, or fill them."
        )
    return Columns(values, tuple(names) if names else tuple(str(c) for c in range(values.shape[1])), side=side)


def _numbers(name: str, given: Any) -> np.ndarray:
    return tensor_of(name, given).numpy().astype(np.float64)


def require_same_rows(x: Columns, y: Columns, name: str = "Y") -> None:
    """Raises UserError for X and the table of this name where their lengths differ."""
    if x.n != y.n:
        raise UserError(f"X has {x.n} rows and {name} has {y.n}: row i of both is one observation, so give as many.")
