"""One column of a data frame: its numbers, or the numbers of its labels, and which rows miss a value."""

import math
import numbers
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.pairs.arrays import require_finite, tensor_of
from infomax.estimation.pairs.reading import most_labels


@dataclass(frozen=True)
class Column:
    """name: the table's. values [n]: numbers, or places in `levels`; 0 where missing. missing [n]: which rows have no
    value. levels: the labels in order, or None of numbers. kind: what it holds, in a word. ordered: whether their order
    is the user's."""

    name: str
    values: np.ndarray
    missing: np.ndarray
    levels: list[str] | None
    kind: str
    ordered: bool = False

    @property
    def is_unordered(self) -> bool:
        """Whether its values are names of classes, of which none is between two others."""
        return self.levels is not None and not self.ordered

    def as_names(self) -> "Column":
        """The same as names of classes: texts may then be those of numbers, as clusters' are."""
        return replace(self, kind="names" if self.kind == "texts" else self.kind, ordered=False)

    def rows(self, index: np.ndarray) -> "Column":
        return replace(self, values=self.values[index], missing=self.missing[index])


def column_of(side: str, name: str, series: Any) -> Column:
    """A column from a series of narwhals. side: "x", for sentences. Raises UserError: dates, durations, nested values,
    and what is neither a number nor a text."""
    import narwhals.stable.v2 as nw

    dtype = series.dtype
    where = f"{name!r} of {side}"
    missing = np.asarray(series.is_null().to_numpy(), bool)
    if dtype in (nw.Datetime, nw.Date, nw.Time, nw.Duration):
        what = "durations" if dtype == nw.Duration else "dates or times"
        raise UserError(
            f"{where} holds {what} ({dtype}): numbers are needed; give, say, the seconds since the first, or the hour "
            "or the weekday, whichever may matter."
        )
    if dtype in (nw.List, nw.Struct, nw.Array, nw.Binary):
        raise UserError(f"{where} holds {dtype}, several values a row: give each as a column of its own.")
    if missing.all() and len(missing):
        return Column(name, np.zeros(len(missing)), missing, None, "numbers")
    if dtype == nw.Boolean:
        return Column(name, np.asarray(series.fill_null(False).to_numpy(), bool), missing, None, "booleans")
    if dtype == nw.Decimal:
        series, dtype = series.cast(nw.Float64), nw.Float64
    if dtype.is_integer():
        values = np.asarray(series.fill_null(0).to_numpy() if missing.any() else series.to_numpy())
        if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise UserError(
                f"{where} has whole numbers beyond 2^63: give floating-point numbers if they are quantities."
            )
        return Column(name, values.astype(np.int64), missing, None, "whole numbers")
    if dtype.is_float():
        values = np.asarray(series.to_numpy())
        values = values.astype(np.float64 if values.dtype.kind != "f" else values.dtype)
        missing = missing | np.isnan(values)
        return Column(name, np.where(missing, values.dtype.type(0), values), missing, None, "numbers")
    if dtype in (nw.Categorical, nw.Enum):
        order = [str(label) for label in series.cat.get_categories().to_list()]
        texts = series.cast(nw.String).to_list()
        found = _labels(name, texts, missing, order, "categories")
        return replace(found, ordered=dtype == nw.Enum)
    return _objects(where, name, series.to_list(), missing)


def _objects(where: str, name: str, entries: list[Any], missing: np.ndarray) -> Column:
    """Texts, or numbers that are held as objects."""
    gone = missing | np.array([each is None or bool(each != each) for each in entries], bool)
    there = [each for each, absent in zip(entries, gone, strict=True) if not absent]
    if all(isinstance(each, str) for each in there):
        return _labels(name, entries, gone, sorted(set(there)), "texts")
    real = (numbers.Real, np.bool_, Decimal)
    if all(isinstance(each, real) for each in there):
        whole = all(isinstance(each, (numbers.Integral, np.bool_)) for each in there)
        values = np.array([0 if absent else each for each, absent in zip(entries, gone, strict=True)])
        return Column(name, values.astype(np.int64 if whole else np.float64), gone, None, "numbers")
    kinds = sorted({type(each).__name__ for each in there})
    if "str" in kinds:
        first = next(each for each in there if isinstance(each, str))
        raise UserError(
            f"{where} mixes texts with {' and '.join(k for k in kinds if k != 'str')}, such as {first!r}: give numbers "
            "or texts alone."
        )
    raise UserError(f"{where} holds {' and '.join(kinds)}, and numbers or labels are needed.")


def _labels(name: str, entries: list[Any], missing: np.ndarray, order: list[str], kind: str) -> Column:
    place = {label: number for number, label in enumerate(order)}
    codes = [0 if absent else place[str(each)] for each, absent in zip(entries, missing, strict=True)]
    return Column(name, np.array(codes, np.int64), missing, order, kind)


def text_column(side: str, values: Any) -> list[Column] | None:
    """The one column of an array or list [n] of texts, None among them where missing; None of what holds no texts."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths, which is said elsewhere
        return None
    if array.dtype.kind == "O" and not any(isinstance(each, str) for each in array.flat):
        return None
    if array.dtype.kind not in "OUT" or array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        return None
    entries = array.astype(object).reshape(-1).tolist()
    return [_objects(side, side, entries, np.array([each is None for each in entries], bool))]


def codes_of(side: str, values: Any) -> Tensor:
    """The number of each row's label int64 [n]: which of the different rows of values [n, ...] it is, in their order.

    side: "x", for sentences. Raises UserError: missing values or infinity, more different rows than labels may have.
    """
    rows = tensor_of(side, values)
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    if rows.dtype.is_floating_point:
        rows = rows.double()
        require_finite(side, rows)
    used, codes = rows.unique(dim=0, return_inverse=True)
    if len(used) > most_labels(len(rows)):
        kind = "floating-point numbers" if rows.dtype.is_floating_point else "whole numbers"
        raise UserError(
            f"labels names {side}, {kind} with {len(used)} different values in {len(rows)} rows: too many for names of "
            f"classes, of which {int(most_labels(len(rows)))} fit so many rows; leave {side} out of labels, or give "
            "fewer classes."
        )
    return codes


def require_few(side: str, column: Column) -> None:
    """Raises UserError for a column of labels that has too many different ones, or texts that look like numbers."""
    assert column.levels is not None
    used = [column.levels[code] for code in np.unique(column.values)]
    odd = [label for label in used if not _is_number(label)]
    if len(used) > most_labels(len(column.values)) or (column.kind == "texts" and len(odd) < len(used) / 2):
        where = f"{column.name!r} of {side}"
        if len(odd) < len(used) / 2:
            culprit = f", but for {', '.join(map(repr, odd[:3]))}" if odd else ""
            raise UserError(f"{where} holds texts that are numbers{culprit}: convert them, and mark what is missing.")
        raise UserError(
            f"{where} holds {column.kind} of {len(used)} different values in {len(column.values)} rows: too many for "
            f"labels, and {odd[0]!r} is no number."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
