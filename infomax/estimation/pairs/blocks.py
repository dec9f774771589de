"""Blocks of rows that follow each other in time: their names, from a length that is given or chosen from the rows."""

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import torch

from infomax.errors import UserError
from infomax.estimation.pairs.arrays import tensor_of
from infomax.estimation.ranks import average_ranks
from infomax.estimation.result import Check

AUTO = "auto"
MOST = 64  # columns of a side that are looked at; of more, as many random sums of them
FEWEST_BLOCKS = 20  # four in each of the default's five folds
AT_ONCE = 1 << 24  # numbers of a side
TIMES = 2  # autocorrelation times in a block, at least
WINDOW = 3  # autocorrelation times over which lags are summed
FEW = 10  # values of a column that is regressed on by each of them
ROWS_A_PREDICTOR = 10  # at least
LEFT = 1e-6  # of a column's standard deviation, below which a regression has left nothing of it
QUIET = 5  # lags in a row, at least, at which nothing is beyond chance


@dataclass(frozen=True)
class Chosen:
    """length: rows in a block. time: the autocorrelation time of two sides, in rows; 1 where rows are independent."""

    length: int
    time: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, with the rule."""
        return {"length": self.length, "autocorrelation_time": self.time, "rule": "Politis & White, 2004"}


def of_blocks(blocks: Any, rows: int) -> Any:
    """A name of each row's block [n], from names or from the number of rows that follow each other in one.

    Raises UserError: no number of rows, nor a name for each. Whether there are blocks enough, splits say.
    """
    if isinstance(blocks, str):
        raise UserError(f"blocks is {blocks!r}: give a number of rows, a name for each row, or 'auto'.")
    if not isinstance(blocks, (int, np.integer)) or isinstance(blocks, bool):
        try:
            names = np.asarray(blocks.cpu() if isinstance(blocks, torch.Tensor) else blocks)
        except ValueError:  # rows of several lengths
            names = np.array(None)
        if names.dtype == object and names.size:
            names = _of_objects(names)
        if names.shape != (rows,) or names.dtype.kind not in "iubUSM":
            raise UserError(
                f"blocks are a number of rows, 'auto', or {rows} names, whole numbers, texts or times, one a row; they "
                f"are {names.dtype} {[*names.shape]}."
            )
        return names
    if blocks < 1:
        raise UserError(
            f"blocks is {blocks}, and a block has 1 row at least: give the number of rows beyond which rows are alike "
            "no more."
        )
    return np.arange(rows) // blocks


def _of_objects(names: np.ndarray) -> np.ndarray:
    """Texts and times that came as Python's objects, as NumPy's own; all else as it came."""
    if all(isinstance(name, str) for name in names.flat):
        return names.astype(str)
    if all(isinstance(name, date) for name in names.flat):  # a datetime is one, and so is pandas' Timestamp
        return np.array([str(name) for name in names.flat]).reshape(names.shape)
    return names


def chosen(x: Any, y: Any, there: np.ndarray | None = None, given: Any = None) -> tuple[Chosen, np.ndarray | None]:
    """The block length that the autocorrelation of two sides asks for, and the block of each row [m]; None of 1 row.

    x [m, ...], y [m, ...]: their rows in time. there [n]: where rows are missing, which of the n the m are. given
    [m, ...]: what the two are compared beside, or None.

    Of independent series, products of a function of x and one of y have the product r(k) of their autocorrelations, so
    that a mean of them has the variance of n / t independent rows, t = 1 + 2 (r(1) + r(2) + ...) (Bartlett, 1946). The
    functions are a column's ranks and their distance from the middle; of each side the one with the longest memory
    counts. Beside z, what a function of x and z has in common with one of y and z is beyond what z tells of either, so
    that a side's memory is also that of what a regression on z leaves of it: noise that z explains may hide it.
    Of that variance, blocks of L rows lack the share B / L, B = 2 (r(1) + 2 r(2) + 3 r(3) + ...) / t. What is
    lacking and the noise of few blocks together cost least at L = (3/2 B^2 n)^(1/3) (Politis & White, 2004; Patton,
    Politis & White, 2009). L is at least 2 t, and it is 1 where no r(k) is beyond chance.
    Raises UserError where fewer than 20 blocks would be left.
    """
    found = _asked(x, y, there, given)
    if found.length == 1:
        return found, None
    rows = len(x) if there is None else len(there)
    if FEWEST_BLOCKS * found.length > rows:
        raise UserError(
            f"blocks='auto' finds rows that are alike for so long that a block would have {found.length} of {rows} "
            f"rows, and {FEWEST_BLOCKS} blocks are needed at least: give differences of rows where a side wanders, or "
            "take off its trend or cycle, or give more rows."
        )
    names = of_blocks(found.length, rows)[slice(None) if there is None else there]
    if (left := len(np.unique(names))) < FEWEST_BLOCKS:
        raise UserError(
            f"blocks='auto' makes blocks of {found.length} rows, and the rows that miss no value are in {left} of them,"
            f" where {FEWEST_BLOCKS} are needed at least: give more rows, or fill what is missing."
        )
    return found, names


def too_short(blocks: Any, x: Any, y: Any, there: np.ndarray | None = None, given: Any = None) -> list[Check]:
    """What is said of blocks that are a number of rows and shorter than the autocorrelation time of two sides: rows of
    two blocks are then alike, as two neighbours are, and neither an interval nor a p-value knows.

    x, y, there, given: as chosen() takes them.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, (int, np.integer)):
        return []
    time = _asked(x, y, there, given).time
    if blocks >= time:
        return []
    sentence = (
        f"a block has {blocks} rows, and rows are alike for about {time:.0f}: give longer blocks, or differences of "
        "rows where a side wanders."
    )
    return [Check("block length", float(blocks), time, "fail", sentence)]


def _asked(x: Any, y: Any, there: np.ndarray | None, given: Any) -> Chosen:
    named = {"x": x, "y": y} | ({} if given is None else {"given": given})
    tensors = (tensor_of(name, side) for name, side in named.items())
    sides = [(t.float() if t.dtype == torch.bfloat16 else t).numpy() for t in tensors]
    there = np.ones(len(sides[0]), bool) if there is None else there
    rows, z = len(there), _predictors(sides[2], there) if given is not None else None
    first, second = (_slowest(side, there, z) for side in sides[:2])
    if first is None or second is None:
        return Chosen(1, 1.0)
    product = first.values * second.values
    heard = (np.abs(first.values) > first.chance) & (np.abs(second.values) > second.chance)
    last = min(_window(product), _last_heard(heard))
    if last == 0:
        return Chosen(1, 1.0)
    lags, r = np.arange(1, last + 1), product[1 : last + 1]
    # Series that alternate have less variance than independent rows, which blocks need not keep.
    time = max(1.0, 1 + 2 * float(r.sum()))
    lacking = 2 * abs(float((lags * r).sum())) / time
    length = max(round((1.5 * rows * lacking**2) ** (1 / 3)), math.ceil(TIMES * time) if time > 1 else 1, 1)
    return Chosen(length, time)


@dataclass(frozen=True)
class _Memory:
    """Autocorrelations at lags from 0 [n], and by how much they may differ from 0 by chance."""

    values: np.ndarray
    chance: float


def _slowest(side: np.ndarray, there: np.ndarray, z: np.ndarray | None) -> _Memory | None:
    """Of all functions of a side's columns, and of what predictors z [m, k] leave of these, the autocorrelation of the
    one with the longest memory; None of a side that does not vary or holds no numbers, which is refused elsewhere."""
    rows, table = len(there), _table(side, there)
    if table is None:
        return None
    functions = _functions(table)
    if z is not None:
        scores = _normal_scores(table)
        left = scores - z @ np.linalg.lstsq(z, scores, rcond=None)[0]
        # Of a function of z nothing is left but rounding.
        functions = np.concatenate([functions, _functions(left[:, left.std(0) > LEFT])])
    if not len(functions):
        return None
    # Politis & White's, for as many tries as there are functions and first lags.
    chance = 2 * math.sqrt(math.log10(rows * len(functions) * QUIET) / len(table))
    both = np.maximum(_lagged_products(there.astype(float)), 1)
    best, longest = None, -1.0
    for function in functions:
        series = np.zeros(rows)
        series[there] = function
        r = _lagged_products(series) / both * (1 - np.arange(rows) / rows)
        memory = float((r[1 : _window(r**2) + 1] ** 2).sum())
        if memory > longest:
            best, longest = r, memory
    assert best is not None
    return _Memory(best, chance)


def _table(side: np.ndarray, there: np.ndarray) -> np.ndarray | None:
    """A side's columns, MOST at most [m, d] in float64; None of what is refused elsewhere."""
    width = math.prod(side.shape[1:])
    if len(side) != there.sum() or len(side) < 2 or width == 0:
        return None
    table = side.reshape(len(side), width)
    if width > MOST:
        weights = np.random.default_rng(0).standard_normal((width, MOST))
        table = np.concatenate([some @ weights for some in np.array_split(table, -(-table.size // AT_ONCE))])
    table = table.astype(np.float64)
    return table if np.isfinite(table).all() else None


def _predictors(given: np.ndarray, there: np.ndarray) -> np.ndarray | None:
    """What is given, to regress on [m, k]: 1, normal scores and their squares, a tenth of the rows at most; of a column
    of few values its indicators."""
    table = _table(given, there)
    if table is None:
        return None
    columns = [np.ones((len(table), 1))]
    for column in table.T:
        values, codes = np.unique(column, return_inverse=True)
        if len(values) <= FEW:
            columns.append((codes[:, None] == np.arange(1, len(values))).astype(np.float64))
        else:
            scores = _normal_scores(column[:, None])
            columns.append(np.concatenate([scores, scores**2 - 1], 1))
    return np.concatenate(columns, 1)[:, : max(2, len(table) // ROWS_A_PREDICTOR)]


def _normal_scores(table: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri((average_ranks(table) - 0.5) / len(table))


def _functions(table: np.ndarray) -> np.ndarray:
    """Of columns [m, d] that vary: ranks, and how far they are from the middle, standardised [2 d, m]."""
    ranks = average_ranks(table) / len(table)
    both = np.concatenate([ranks, np.abs(ranks - ranks.mean(0))], 1).T
    both = both - both.mean(1, keepdims=True)
    spread = both.std(1, keepdims=True)
    varies = spread[:, 0] > 1e-9
    return both[varies] / spread[varies]


def _lagged_products(series: np.ndarray) -> np.ndarray:
    """The sum of series[t] series[t + k] at each lag k [n]."""
    n = len(series)
    spectrum = np.fft.rfft(series, 2 * n)
    return np.fft.irfft(np.abs(spectrum) ** 2, 2 * n)[:n]


def _window(r: np.ndarray) -> int:
    """The first lag that is WINDOW times as long as the autocorrelation time up to it. (Sokal, 1997)"""
    times = np.cumsum(2 * r) - r[0]  # 1 at lag 0
    reached = np.flatnonzero(np.arange(len(r)) >= WINDOW * times)
    return int(reached[reached > 0][0]) if (reached > 0).any() else len(r) - 1


def _last_heard(heard: np.ndarray) -> int:
    """Of lags from 0 [n], the last that is heard before as many lags, QUIET at least, at which none is; 0: none."""
    last = 0
    for lag in np.flatnonzero(heard):
        if lag - last > max(QUIET, last):
            break
        last = int(lag)
    return last
