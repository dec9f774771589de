"""Data frames, series and missing values: a user's tables as arrays, with the names of their columns.

pandas, polars and pyarrow are read through narwhals. Arrays, tensors and lists pass unchanged, unless their missing
values are dropped.
"""

import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from infomax.errors import UserError, not_imported
from infomax.estimation.pairs.arrays import never_changes, tensor_of
from infomax.estimation.pairs.blocks import AUTO, Chosen, chosen, of_blocks, too_short
from infomax.estimation.pairs.columns import Column, codes_of, column_of, require_few, text_column
from infomax.estimation.pairs.indexes import require_one_index
from infomax.estimation.pairs.pairs import FEWEST
from infomax.estimation.pairs.reading import whole_numbers
from infomax.estimation.result import Check, Estimate

NAMED = "named by labels="  # a side of labels that no table's column says the kind of
MISSING = ("refuse", "drop")
TABLES = ("pandas", "polars", "pyarrow", "modin", "cudf")


@dataclass(frozen=True)
class Tables:
    """What the user's sides are as arrays.

    sides: by name ("x", "y"), what `prepared` reads. ids: of the rows that are left, or None. names: of the columns of
    each side that was a table. checks: what is said of them. kinds: of a side that is one label, in words. unordered:
    the sides that are labels without an order. blocks: the length of blocks that was chosen.
    """

    sides: dict[str, Any]
    ids: Any
    names: dict[str, list[str]]
    checks: tuple[Check, ...]
    kinds: dict[str, str]
    unordered: tuple[str, ...] = ()
    blocks: Chosen | None = None

    def described(self, estimate: Estimate) -> Estimate:
        """The estimate with columns by their names: in sentences and in `names`; and with the blocks that were chosen.
        Of plain arrays, as it is."""
        if self.blocks is not None:
            protocol = estimate.protocol | {"blocks": self.blocks.to_dict()}
            estimate = dataclasses.replace(estimate, protocol=protocol)
        if self.unordered:
            estimate = dataclasses.replace(estimate, protocol=estimate.protocol | {"labels": list(self.unordered)})
        if not self.names and not self.checks and not self.kinds:
            return estimate
        checks = tuple(dataclasses.replace(check, sentence=self._named(check.sentence)) for check in estimate.checks)
        protocol = estimate.protocol | ({"names": self.names} if self.names else {})
        return dataclasses.replace(estimate, checks=checks + self.checks, protocol=protocol)

    def _named(self, sentence: str) -> str:
        for side, names in self.names.items():
            kept = names
            if self.sides[side].ndim == 2:  # constant columns have left by the time that columns are numbered
                kept = [
                    name for name, column in zip(names, self.sides[side].T, strict=True) if column.min() < column.max()
                ]

            def name_of(match: re.Match[str], side: str = side, kept: list[str] = kept) -> str:
                return f"{side}[{kept[int(match[1])]!r}]"

            def names_of(match: re.Match[str], names: list[str] = names) -> str:
                return re.sub(r"\d+", lambda number: repr(names[int(number[0])]), match[0])

            sentence = re.sub(rf"\b{side}\[:, (\d+)\]", name_of, sentence)
            sentence = re.sub(rf"(?<=columns of {side} )\([\d, .]+\)", names_of, sentence)
        for side, kind in self.kinds.items():
            sentence = re.sub(
                rf"\b{side} is (a column of integers|{NAMED})", lambda _, k=kind, s=side: f"{s} is {k}", sentence
            )
        return sentence


def read(
    sides: Mapping[str, Any], ids: Any = None, blocks: Any = None, missing: str = "refuse", labels: str | None = None
) -> Tables:
    """The sides as arrays of numbers; row i of all is one sample.

    sides: by name, such as {"x": x, "y": y}: arrays, tensors, lists, or data frames and series. ids [n], blocks: as
    `estimate` takes them. missing: "refuse" or "drop", which leaves out every row that misses a value on any side.
    labels: as `estimate` takes it; each different row of such a side is a label, numbered in order.

    Of a table with one column on a side, texts, categories and booleans are labels, and whole numbers are read as those
    of an array are. Of several columns, whole numbers and booleans are quantities; labels alone are one label, their
    combination; labels beside numbers are one-hot.
    Raises UserError: missing values, with their number in each column; indexes that differ; dates, durations and what
    else is no number or label; too many different labels, or labels of a side that is not there.
    """
    named = _named_sides(labels, sides)
    if missing not in MISSING:
        raise UserError(f"missing is {missing!r}: give 'refuse', or 'drop' to leave out rows with missing values.")
    if blocks is not None and ids is not None:
        raise UserError("ids and blocks are both given: rows of one id belong in one block, so give blocks alone.")
    if isinstance(blocks, str) and blocks == AUTO:
        found, rows = _read(sides, None, None, missing, named)
        length, names = chosen(found.sides["x"], found.sides["y"], rows, found.sides.get("given"))
        return dataclasses.replace(found, ids=names, blocks=length)
    found, rows = _read(sides, ids, blocks, missing, named)
    told = too_short(blocks, found.sides["x"], found.sides["y"], rows, found.sides.get("given"))
    return dataclasses.replace(found, checks=(*found.checks, *told))


def _named_sides(labels: str | None, sides: Mapping[str, Any]) -> tuple[str, ...]:
    """The sides of a text such as "x" or "x,y", in their order."""
    if labels is None:
        return ()
    asked = [name.strip() for name in labels.split(",")] if isinstance(labels, str) else [repr(labels)]
    for name in asked:
        if name not in sides:
            without = " (nothing is given)" if name == "given" else ""
            raise UserError(
                f"labels is {labels!r}{without}: give the side whose values are names of classes, "
                f"{' or '.join(map(repr, sides))}, or several, as in 'x,y'."
            )
    return tuple(name for name in sides if name in asked)


def _read(
    sides: Mapping[str, Any], ids: Any, blocks: Any, missing: str, named: tuple[str, ...]
) -> tuple[Tables, np.ndarray | None]:
    """The same, and which of the rows are left [n]; None: all. named: the sides whose rows are labels."""
    columns = {side: columns_of(side, values) for side, values in sides.items()}
    for side in named:
        of_side = columns[side] or text_column(side, sides[side])
        columns[side] = None if of_side is None else [column.as_names() for column in of_side]
    found, there = _arrays(sides, columns, ids, blocks, missing)
    arrays, names, kinds = dict(found.sides), dict(found.names), dict(found.kinds)
    for side in named:
        arrays[side] = codes_of(side, arrays[side])
        kinds.setdefault(side, NAMED)
        if side in names:
            names[side] = [" x ".join(names[side])]
    unordered = tuple(side for side in sides if side in named or side in found.unordered)
    found = dataclasses.replace(found, sides=arrays, names=names, kinds=kinds, unordered=unordered)
    return found, there


def _arrays(
    sides: Mapping[str, Any], columns: Mapping[str, list[Column] | None], ids: Any, blocks: Any, missing: str
) -> tuple[Tables, np.ndarray | None]:
    """The sides as arrays. columns: of each side, None of one that is no table."""
    require_one_index({**sides, "ids": ids, "blocks": blocks})
    tables = {side: found for side, found in columns.items() if found is not None}
    plain = {side: values for side, values in sides.items() if side not in tables}
    if not tables and missing == "refuse":
        if blocks is not None:
            ids = of_blocks(names_of_rows("blocks", blocks), len(tensor_of("x", sides["x"])))
        return Tables(dict(sides), names_of_rows("ids", ids), {}, (), {}), None
    arrays = {side: _readable(side, values) if missing == "drop" else values for side, values in plain.items()}
    rows = {side: len(found[0].values) if found else 0 for side, found in tables.items()}
    rows |= {side: len(values) for side, values in arrays.items()}
    n = next(iter(rows.values()))
    for side, number in rows.items():
        if number != n:
            raise UserError(f"x has {n} rows and {side} has {number}: a pair is a row of each, so they must be equal.")
    ids = of_blocks(names_of_rows("blocks", blocks), n) if blocks is not None else names_of_rows("ids", ids)
    gaps = {(side, column.name): column.missing for side, found in tables.items() for column in found}
    if missing == "drop":
        gaps |= {(side, ""): _gaps(values) for side, values in arrays.items()}
    kept, checks = _kept(gaps, n, missing)
    if kept is not None:
        arrays = {side: values[kept] for side, values in arrays.items()}
        tables = {side: [column.rows(kept) for column in found] for side, found in tables.items()}
        if ids is not None:
            if len(ids) != n:
                raise UserError(f"ids must be {n}, one a pair; they are {len(ids)}.")
            ids = (ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids))[kept]
    names: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for side, found in tables.items():
        arrays[side], names[side], kind, more = _side(side, found)
        checks += more
        if kind:
            kinds[side] = kind
    there = None if kept is None else np.isin(np.arange(n), kept)
    unordered = tuple(side for side, found in tables.items() if all(column.is_unordered for column in found))
    return Tables({side: arrays[side] for side in sides}, ids, names, tuple(checks), kinds, unordered), there


def _is_table(values: Any) -> bool:
    """Whether values come from a library of tables, by their class or one of its bases."""
    return any(kind.__module__.partition(".")[0] in TABLES for kind in type(values).__mro__)


def columns_of(side: str, values: Any) -> list[Column] | None:
    """The columns of a data frame or series; None of what is neither. Raises UserError as `read` does."""
    if not _is_table(values):
        return None
    try:
        import narwhals.stable.v2 as nw
    except ImportError as error:
        missing = 'narwhals reads data frames and is missing: pip install "infomax[tables]".'
        raise not_imported("narwhals.stable.v2", error, missing) from error
    kind = f"{type(values).__module__.partition('.')[0]} {type(values).__name__}"
    if type(values).__name__ == "LazyFrame":
        raise UserError(f"{side} is a {kind}, whose rows are not there yet: give {side}.collect().")
    if kind.startswith("pandas") and not hasattr(values, "iloc") and hasattr(values, "__len__"):
        import pandas

        values = pandas.Series(values)  # an index, or an array of a type of pandas'
    elif kind.startswith("pyarrow") and hasattr(values, "validate") and not hasattr(values, "schema"):
        if type(values).__name__ != "ChunkedArray":
            values = importlib.import_module("pyarrow").chunked_array([values])
    elif kind == "pyarrow RecordBatch":
        values = importlib.import_module("pyarrow").Table.from_batches([values])
    try:
        table = nw.from_native(values, eager_only=True, allow_series=True)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{side} is a {kind}, which is no table of named columns: {' '.join(str(error).split())}."
        ) from None
    if isinstance(table, nw.Series):
        return [column_of(side, str(table.name or side), table)]
    if not table.columns:
        raise UserError(f"{side} is a table without columns.")
    return [column_of(side, str(name), table.get_column(name)) for name in table.columns]


def splits(*parts: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Splits that are given, (x, y) or (x, y, ids), as (x, y, ids or None). Raises UserError for indexes that differ
    within one."""
    for part in parts:
        if len(part) not in (2, 3):
            raise UserError(f"A split is (x, y) or (x, y, ids), and one has {len(part)} of them.")
    found = [(*part, None) if len(part) == 2 else tuple(part) for part in parts]
    for part in found:
        require_one_index(dict(zip(("x", "y", "ids"), part, strict=False)))
    return found


def names_of_rows(name: str, values: Any) -> Any:
    """ids or blocks of a table's column as an array; all else as it is. Raises UserError: several columns, missing
    values, floating-point numbers."""
    if values is None or not _is_table(values):
        return values
    columns = columns_of(name, values)
    if columns is None or len(columns) != 1:
        raise UserError(f"{name} must be one column, one value a pair.")
    if columns[0].missing.any():
        raise UserError(f"{name} has {int(columns[0].missing.sum())} missing values: each row needs its own.")
    if columns[0].levels is None and columns[0].values.dtype.kind == "f":
        raise UserError(
            f"{name} ({columns[0].name!r}) holds floating-point numbers: whole numbers or texts are needed."
        )
    return columns[0].values


def _readable(side: str, values: Any) -> Any:
    """An array [n, ...] whose rows can be chosen."""
    if isinstance(values, Tensor) and values.ndim:
        return values
    if isinstance(values, (list, tuple)) or hasattr(values, "__array__"):
        try:
            array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        except ValueError as error:
            raise UserError(f"{side} is no array of rows of one length: {error}.") from None
        if array.ndim:
            return array
    return np.asarray(tensor_of(side, values))  # which says why not


def require_all(series: Mapping[str, Any]) -> None:
    """Raises UserError for series, arrays or tables by their names, of which one misses a value: rows in time cannot be
    left out."""
    for side, values in series.items():
        columns = columns_of(side, values)
        if columns is None:
            gaps = {(side, ""): _gaps(_readable(side, values))}
        else:
            gaps = {(side, column.name): column.missing for column in columns}
        number = int(np.any(list(gaps.values()), axis=0).sum())
        if number:
            raise UserError(
                f"Values are missing in {number} of {len(values)} rows ({_listed(gaps)}), and a series has no rows to "
                "spare: fill them, or give a part without."
            )


def _gaps(values: Any) -> np.ndarray:
    """Which rows of an array miss a value [n]: NaN, None or masked."""
    if isinstance(values, Tensor):
        missing = values.detach().cpu().isnan().numpy() if values.is_floating_point() else np.zeros(len(values), bool)
    elif np.ma.is_masked(values):
        missing = np.ma.getmaskarray(values)
    elif values.dtype.kind == "f":
        missing = np.isnan(values)
    elif values.dtype.kind == "O":
        missing = np.array([each is None or each != each for each in values.flat], bool).reshape(values.shape)
    else:
        missing = np.zeros(len(values), bool)
    return np.asarray(missing.reshape(len(values), -1).any(1))


def _listed(gaps: dict[tuple[str, str], np.ndarray]) -> str:
    """How many values are missing where."""
    counts = {place: int(gap.sum()) for place, gap in gaps.items() if gap.any()}
    return ", ".join(f"{count} in {f'{name!r} of {side}' if name else side}" for (side, name), count in counts.items())


def _kept(gaps: dict[tuple[str, str], np.ndarray], n: int, missing: str) -> tuple[np.ndarray | None, list[Check]]:
    """The rows to keep [k], or None for all; and what is said of the others."""
    if not any(gap.any() for gap in gaps.values()):
        return None, []
    gone = np.any(list(gaps.values()), axis=0)
    number = int(gone.sum())
    told = _listed(gaps)
    if missing == "refuse":
        raise UserError(
            f"Values are missing in {number} of {n} rows ({told}): fill them, or leave those rows out (missing='drop')."
        )
    if n - number < FEWEST:
        raise UserError(
            f"Only {n - number} of {n} rows miss no value ({told}), and fewer than {FEWEST} say nothing about mutual "
            "information: leave out the columns that miss most."
        )
    sentence = f"{number} of {n} pairs were left out, as values are missing ({told}): the value is of the others."
    return np.flatnonzero(~gone), [Check("missing values", float(number), 0.0, "warn", sentence)]


def _side(side: str, columns: list[Column]) -> tuple[np.ndarray, list[str], str, list[Check]]:
    """The array of a table's columns, the name of each of its columns, what it is if it is one label, and checks."""
    for column in columns:
        if column.levels is None and np.isinf(column.values).any():
            rows = int(np.isinf(column.values).sum())
            raise UserError(f"{side} has infinity in {rows} rows of {column.name!r}: repair them.")
    constant = [column.name for column in columns if len(column.values) and (column.values == column.values[0]).all()]
    if len(constant) == len(columns):
        raise never_changes(side, f" ({', '.join(map(repr, constant))})")
    labels = [column for column in columns if column.levels is not None]
    for column in labels:
        require_few(side, column)
    names = [column.name for column in columns]
    if len(columns) == 1:
        kind = f"the column {names[0]!r} of {columns[0].kind}"
        return columns[0].values, names, kind if columns[0].values.dtype.kind in "iub" else "", []
    if len(labels) == len(columns):
        _, codes = np.unique(np.stack([column.values for column in columns], 1), axis=0, return_inverse=True)
        told = " and ".join(map(repr, names))
        return codes.reshape(-1), [" x ".join(names)], f"the combination of the labels {told}", []
    arrays: list[np.ndarray] = []
    wide: list[str] = []
    for column in columns:
        if column.levels is None:
            arrays.append(column.values.astype(np.float64)[:, None])
            wide.append(column.name)
            continue
        used, codes = np.unique(column.values, return_inverse=True)
        # Of k labels k - 1 columns say all.
        arrays.append((codes[:, None] == np.arange(1, len(used))).astype(np.float64))
        wide += [f"{column.name}={column.levels[level]}" for level in used[1:]]
    checks = []
    whole = [column.name for column in columns if column.levels is None and column.values.dtype.kind in "iub"]
    if whole:
        checks.append(whole_numbers(side, len(whole), whole))
    if labels:
        told = ", ".join(column.name for column in labels)
        sentence = f"labels beside numbers were read as a column of 0 and 1 for each but one of their values: {told}."
        checks.append(Check(f"labels of {side}", float(len(labels)), 0.0, "pass", sentence))
    return np.concatenate(arrays, 1), wide, "", checks
