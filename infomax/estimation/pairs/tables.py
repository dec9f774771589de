"""Tables in files: a reader for each ending, each of which reads no more than the columns that are asked for.

Readers are libraries that are imported when used: pip install "infomax[tables]".
"""

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infomax.errors import UserError, extra, nearest
from infomax.estimation.pairs import cells

NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A"]
WIDEST = 10_000  # columns of one array


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The table of a file, a polars DataFrame.

    path: its ending says how it is read, as `ENDINGS` lists. columns: the names of those to read, by default all. An
    array [n, d] of a file of arrays has columns NAME.0, NAME.1, ...; its NAME stands for all of them. Those of X.npy,
    and of text without names, are 0, 1, ... Those of .h5ad are genes and columns of obs and obsm, as `cells` says.
    Raises UserError: a file that is not there or not of its kind, an unknown ending, a name that no column has (with
    the nearest ones), columns of different lengths, a library that is missing.
    """
    reader = ENDINGS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'!r}, and tables end in {', '.join(ENDINGS)}.")
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    try:
        return reader(path, columns)
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: name fewer columns.") from None
    except Exception as error:  # of the reader's own kinds, for damaged files and files of other kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as {path.suffix.lower()} ({reason}).") from None


def sides_of(path: Path, x: str | None, y: str | None, given: str | None = None) -> list[Any]:
    """The columns that texts such as "a,b" name, as data frames of one table: x, y and, where there is one, given. A
    name that holds a comma stands in quotes. Raises UserError as `read_table` does, where a side has no columns, and
    where two have one column."""
    if x is None or y is None:
        raise UserError(f"{path} is one table: name the columns of both sides, --x NAME,NAME --y NAME.")
    texts = {"--x": x, "--y": y} | ({} if given is None else {"--given": given})
    names = {option: names_of(option, text) for option, text in texts.items()}
    sides = {option: read_table(path, chosen) for option, chosen in names.items()}
    for (one, first), (other, second) in itertools.combinations(sides.items(), 2):
        require_apart(one, first.columns, other, second.columns)
        if len(first) != len(second):
            raise UserError(
                f"The columns of {one} have {len(first)} rows in {path} and those of {other} {len(second)}."
            )
    return list(sides.values())


def names_of(option: str, text: str) -> list[str]:
    """The names in a text such as "a,b", of which one that holds a comma stands in quotes. option: "--x", for the
    sentence. Raises UserError where there is none."""
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not names or "" in names:
        raise UserError(f"{option} names no column: give {option} NAME or {option} NAME,NAME.")
    return names


def require_apart(one: str, first: Sequence[str], other: str, second: Sequence[str]) -> None:
    """Raises UserError for a column that is on two sides, of the names one and other."""
    if both := [name for name in first if name in second]:
        raise UserError(f"{', '.join(map(repr, both))} is in {one} and in {other}: a column tells all of itself.")


def library(name: str) -> Any:
    """A library that reads tables. Raises UserError where it is missing, or cannot be imported."""
    return extra(name, f'{name.partition(".")[0]} is needed and missing: pip install "infomax[tables]".')


def _require_known(path: Path, columns: Iterable[str], known: Sequence[str]) -> None:
    for name in columns:
        if name not in known:
            raise UserError(f"{path} has no column {name!r}.{nearest(name, known)}")


# Tables ---------------------------------------------------------------------------------------------------------------


def _lazy(path: Path, lazy: Any, columns: Sequence[str] | None) -> Any:
    """The chosen columns of polars' lazy frame: no other is read."""
    names = lazy.collect_schema().names()
    _require_known(path, columns or (), names)
    return lazy.select(list(dict.fromkeys(names if columns is None else columns))).collect()


def _csv(path: Path, columns: Sequence[str] | None) -> Any:
    """Text with names in its first line; where that holds numbers alone, columns are 0, 1, ... Types are those of the
    whole column, and common marks are missing values."""
    polars = library("polars")
    how = {"separator": "," if path.suffix.lower() == ".csv" else "\t", "null_values": NULLS, "glob": False}
    names = polars.scan_csv(path, infer_schema=False, **how).collect_schema().names()
    if all(_is_number(name.partition("_duplicated_")[0]) for name in names):
        names = [str(k) for k in range(len(names))]
        how |= {"has_header": False, "new_columns": names}
    if columns is None or len(set(columns)) == len(names):
        return _lazy(path, polars.scan_csv(path, infer_schema_length=None, **how), columns)
    # Types of all columns would take a look at all cells: those asked for are picked as text, and typed by themselves.
    texts = io.BytesIO()
    _lazy(path, polars.scan_csv(path, infer_schema=False, **how), columns).write_csv(texts, null_value="NA")
    return polars.read_csv(texts.getvalue(), infer_schema_length=None, null_values=NULLS)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path, columns: Sequence[str] | None) -> Any:
    return _lazy(path, library("polars").scan_parquet(path, glob=False), columns)


def _feather(path: Path, columns: Sequence[str] | None) -> Any:
    return _lazy(path, library("polars").scan_ipc(path, glob=False), columns)


# Arrays by name -------------------------------------------------------------------------------------------------------


def _frame(
    path: Path,
    arrays: Mapping[str, Any],
    columns: Sequence[str] | None,
    read: Callable[[Any, int | None], np.ndarray] = lambda array, column: np.asarray(
        array[:] if column is None else array[:, column]
    ),
) -> Any:
    """A table of named arrays [n] or [n, d], of which each has a shape. read: one of them, or one column of it."""
    polars = library("polars")
    usable = {name: array for name, array in arrays.items() if len(array.shape) in (1, 2)}
    if not usable:
        raise UserError(f"{path} holds no arrays [n] or [n, columns].")
    places = {}
    for name, array in usable.items():
        if len(array.shape) == 1:
            places[name or "0"] = (name, None)
            continue
        if array.shape[1] > WIDEST and columns is None:
            raise UserError(f"{name or path} has {array.shape[1]} columns: name those that matter.")
        places |= {(f"{name}.{column}" if name else str(column)): (name, column) for column in range(array.shape[1])}
    whole = {name: [place for place, (of, _) in places.items() if of == name] for name in usable}
    wanted = list(places) if columns is None else []
    for name in columns or ():
        _require_known(path, [name], [*dict.fromkeys([*filter(None, usable), *places])])
        wanted += [name] if name in places else whole[name]
    lengths = {place: usable[places[place][0]].shape[0] for place in wanted}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{place} has {length}" for place, length in list(lengths.items())[:6])
        raise UserError(f"Columns of {path} have different lengths ({told}): name columns of one length.")
    made: dict[str, Any] = {}
    for place in dict.fromkeys(wanted):
        name, column = places[place]
        made[place] = _column(path, place, read(usable[name], column))
    return polars.DataFrame(made)


def _column(path: Path, name: str, array: np.ndarray) -> Any:
    """A column for polars, which takes neither half precision nor a foreign order of bytes."""
    kind = array.dtype.kind
    if kind in "SO":
        texts = [each.decode("utf-8") if isinstance(each, bytes) else each for each in array.tolist()]
        if not all(isinstance(each, (str, type(None))) for each in texts):
            raise UserError(f"{name!r} of {path} holds objects, and numbers or texts are needed.")
        return texts
    if kind in "UT":
        return array.tolist()
    if kind not in "biufmM" or array.dtype.itemsize > 8:
        raise UserError(f"{name!r} of {path} is of type {array.dtype}: real numbers of 64 bits at most are needed.")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))


class _Field:
    """One field of an array of records [n], which is read when it is asked for, and no other with it."""

    def __init__(self, records: Any, name: str):
        self.records, self.name = records, name
        self.dtype, shape = (records.dtype[name].base, records.dtype[name].shape)
        self.shape = (*records.shape, *shape)

    @cached_property
    def values(self) -> np.ndarray:
        if hasattr(self.records, "fields"):  # HDF5's
            return self.records.fields(self.name)[:]
        if isinstance(self.records, np.ndarray):
            return self.records[self.name]
        # Zarr's, which cannot read one field: a chunk at a time, of which no more is kept.
        values, step = np.empty(self.shape, self.dtype), self.records.chunks[0]
        for start in range(0, len(values), step):
            values[start : start + step] = self.records[start : start + step][self.name]
        return values

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.values[key]


def _fields(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of records as an array for each of their fields."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if getattr(array, "dtype", None) is None or array.dtype.names is None:
            found[name] = array
        elif len(array.shape) == 1:
            found |= {(f"{name}.{field}" if name else field): _Field(array, field) for field in array.dtype.names}
    return found


def _npy(path: Path, columns: Sequence[str] | None) -> Any:
    return _frame(path, _fields({"": np.load(path, mmap_mode="r", allow_pickle=False)}), columns)


def _npz(path: Path, columns: Sequence[str] | None) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        names = [n for n in archive.files if columns is None or any(c == n or c.startswith(f"{n}.") for c in columns)]
        return _frame(path, _fields({name: archive[name] for name in names or archive.files}), columns)


def _mat(path: Path, columns: Sequence[str] | None) -> Any:
    """MATLAB's files up to version 7. A variable [1, n] is a column as one [n, 1] is."""
    matlab = library("scipy.io")
    try:
        known = [name for name, *_ in matlab.whosmat(path)]
    except NotImplementedError:
        raise UserError(f"{path} is of MATLAB's version 7.3: save it with save(..., '-v7').") from None
    names = [n for n in known if columns is None or any(c == n or c.startswith(f"{n}.") for c in columns)]
    found = matlab.loadmat(path, variable_names=names or known, chars_as_strings=True)
    return _frame(path, {name: _of_matlab(found[name]) for name in names or known}, columns)


def _of_matlab(array: Any) -> Any:
    """A vector as [n], and a cell array of texts as texts."""
    array = np.asarray(array)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind == "O" and all(getattr(each, "size", 0) == 1 and each.dtype.kind == "U" for each in array.flat):
        return np.array([each.item() for each in array.flat]).reshape(array.shape)
    return array


def _h5(path: Path, columns: Sequence[str] | None) -> Any:
    """HDF5: data sets by their path, such as group/name."""
    h5py = library("h5py")
    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {}
        file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)

        def read(array: Any, column: int | None) -> np.ndarray:
            if isinstance(array, h5py.Dataset) and h5py.check_string_dtype(array.dtype) is not None:
                array = array.asstr()
            return np.asarray(array[:] if column is None else array[:, column])

        return _frame(path, _fields(arrays), columns, read)


def _h5ad(path: Path, columns: Sequence[str] | None) -> Any:
    """AnnData's files: genes, columns of obs and of obsm, a row a cell (`cells`)."""
    polars = library("polars")
    with library("h5py").File(path, "r") as file:
        found = cells.columns_in(path, file, columns, WIDEST)
    return polars.DataFrame(
        {
            name: values if isinstance(values, polars.Series) else _column(path, name, values)
            for name, values in found.items()
        }
    )


def _zarr(path: Path, columns: Sequence[str] | None) -> Any:
    """Zarr, of both versions of its format: arrays by their path."""
    zarr = library("zarr")
    opened = zarr.open(path, mode="r")
    arrays = {"": opened}
    if isinstance(opened, zarr.Group):
        arrays = {name: item for name, item in opened.members(max_depth=None) if isinstance(item, zarr.Array)}
    return _frame(
        path,
        _fields(arrays),
        columns,
        lambda array, column: np.asarray(array[:] if column is None else array[:, column]),
    )


ENDINGS: dict[str, Callable[[Path, Sequence[str] | None], Any]] = {
    ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".feather": _feather, ".npy": _npy, ".npz": _npz, ".mat": _mat,
    ".h5": _h5, ".hdf5": _h5, ".h5ad": _h5ad, ".zarr": _zarr,
}  # fmt: skip
