"""AnnData's files, .h5ad, as tables with a row a cell: genes, columns of obs and columns of obsm, by name.

The file is HDF5 and is read as that: the forms of AnnData 0.7 and later (data frames as groups of encoded columns), and
the earlier one (data frames as arrays of records, categories in uns). No more is read than the columns asked for, where
the matrix allows: a dense one by columns, a csc one by its pointers, a csr one in one pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infomax.errors import UserError, nearest

BLOCK = 1 << 22  # numbers of a matrix that are read at once
SHARE = 8  # a span of dense columns is read whole where one in so many of it is wanted
OWN = ("obs", "X", "obsm")  # whose columns need no prefix


def columns_in(path: Path, file: Any, columns: Sequence[str] | None, widest: int) -> dict[str, Any]:
    """Columns of an AnnData file by the names that they were asked for: arrays [n], or series of polars.

    path: for sentences. file: the open h5py.File. columns: names of columns of obs, of genes (`GENE`, `X/GENE`,
    `raw/GENE`, `layers/NAME/GENE`), and of columns of obsm (`X_pca.0`, or `X_pca` for all of its); None: obs and all
    genes. widest: how many genes at most are read where none is named.
    Raises UserError: no AnnData file, a name that no column has (with the nearest), that several have, too many genes.
    """
    sources = _sources(path, file)
    if columns is None:
        genes = [source for source in sources if source.prefix == "X"]
        if genes and len(genes[0].names) > widest:
            raise UserError(f"{path} has {len(genes[0].names):,} genes: name those that matter.")
        chosen = [source for source in sources if source.prefix in ("obs", "X")]
        shared = set(chosen[0].names) & set(chosen[-1].names) if len(chosen) > 1 else set()
        columns = [f"{s.prefix}/{name}" if name in shared else name for s in chosen for name in s.names]
    wanted: dict[str, tuple[_Source, int]] = {}
    for name in columns:
        wanted |= _found(path, sources, name)
    values: dict[str, Any] = {}
    for source in sources:
        places = {name: place for name, (of, place) in wanted.items() if of is source}
        if places:
            values |= dict(zip(places, source.read(list(places.values())), strict=True))
    return {name: values[name] for name in wanted}


@dataclass(frozen=True)
class _Source:
    """One part of a file. prefix: what its columns' full names begin with. key: a name that stands for all of them, or
    "". names [k]: its columns'. read: the columns at these places."""

    prefix: str
    key: str
    names: list[str]
    read: Callable[[list[int]], list[Any]]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            found.setdefault(name, []).append(place)
        return found


def _found(path: Path, sources: list[_Source], name: str) -> dict[str, tuple[_Source, int]]:
    """Where the columns are that a name stands for, by their names."""
    hits: list[tuple[_Source, str]] = []
    for source in sources:
        own = {name} if source.prefix in OWN else set()
        if name.startswith(f"{source.prefix}/"):
            own.add(name.removeprefix(f"{source.prefix}/"))
        hits += [(source, each) for each in own if each in source.places or each == source.key != ""]
    if not hits:
        raise UserError(f"{path} has no column {name!r}.{_hint(sources, name)}")
    if len(hits) > 1:
        told = " or ".join(f"{source.prefix}/{each}" for source, each in hits)
        raise UserError(f"{name!r} stands for several columns of {path}: give {told}.")
    [(source, each)] = hits
    if each not in source.places:
        return {f"{name}{of.removeprefix(source.key)}": (source, place) for place, of in enumerate(source.names)}
    places = source.places[each]
    if len(places) > 1:
        raise UserError(
            f"{path} has {len(places)} columns that are named {name!r}: make names unique (AnnData's "
            "var_names_make_unique) and save it anew."
        )
    return {name: (source, places[0])}


def _hint(sources: list[_Source], name: str) -> str:
    """The nearest names of the part that a name is in, or what parts there are."""
    inside = [source for source in sources if name.startswith(f"{source.prefix}/")]
    near = [f"{source.prefix}/{each}" for source in inside for each in source.names]
    near = near or [each for source in sources if source.prefix in OWN for each in source.names]
    hint = nearest(name, near)
    if hint:
        return hint
    parts = [
        f"{source.prefix} ({', '.join(source.names[:12])}{', ...' if len(source.names) > 12 else ''})"
        if source.prefix == "obs"
        else f"obsm/{source.key}"
        if source.key
        else f"{source.prefix} ({len(source.names):,} genes)"
        for source in sources
    ]
    return f" There are {', '.join(parts)}."


def _sources(path: Path, file: Any) -> list[_Source]:
    """The parts of a file that hold columns of its cells."""
    if "obs" not in file or "var" not in file:
        raise UserError(f"{path} is not a file of AnnData, as it has no obs and var: if it is plain HDF5, name it .h5.")
    uns = file.get("uns", {})
    obs, var = _Frame(file["obs"], uns), _Frame(file["var"], uns)
    sources = [_Source("obs", "", obs.names, lambda places: [obs.column(obs.names[k]) for k in places])]
    raw = file.get("raw") or {name: file[f"raw.{name}"] for name in ("X", "var") if f"raw.{name}" in file}
    layers = file.get("layers", {})
    matrices = [("X", file, var)] + ([("raw", raw, _Frame(raw["var"], uns))] if "var" in raw else [])
    of_genes = [(prefix, group["X"], frame) for prefix, group, frame in matrices if "X" in group]
    of_genes += [(f"layers/{name}", layers[name], var) for name in layers]
    for prefix, item, frame in of_genes:
        if (matrix := _Matrix.of(item)) is not None:
            sources.append(_Source(prefix, "", frame.index, matrix.columns))
    obsm = file.get("obsm", {})
    return sources + [found for key in _keys(obsm) if (found := _of_obsm(key, obsm[key])) is not None]


def _keys(item: Any) -> list[str]:
    """The names in a group, or of the fields of an array of records."""
    names = item if hasattr(item, "keys") else item.dtype.names or ()
    return [str(name) for name in names]


def _of_obsm(key: str, item: Any) -> _Source | None:
    if _kind(item) == "dataframe":
        frame = _Frame(item, {})
        read = lambda places: [frame.column(frame.names[k]) for k in places]  # noqa: E731
        return _Source("obsm", key, [f"{key}.{name}" for name in frame.names], read)
    if (matrix := _Matrix.of(item)) is None:
        return None
    return _Source("obsm", key, [f"{key}.{k}" for k in range(matrix.shape[1])], matrix.columns)


def _kind(item: Any) -> str:
    """AnnData's word for how an item is encoded, or "" of earlier files."""
    found = getattr(item, "attrs", {}).get("encoding-type", "")
    return found.decode() if isinstance(found, bytes) else str(found)


# Data frames ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """A data frame: a group of columns, or, before AnnData 0.7, an array of records whose categories are in uns."""

    item: Any
    uns: Any

    @cached_property
    def names(self) -> list[str]:
        if not hasattr(self.item, "keys"):
            return [str(name) for name in self.item.dtype.names][1:]
        order = [each.decode() if isinstance(each, bytes) else str(each) for each in self.item.attrs["column-order"]]
        return [name for name in order if name in self.item]

    @cached_property
    def index(self) -> list[str]:
        """The names of the rows."""
        if hasattr(self.item, "keys"):
            name = self.item.attrs["_index"]
            return _names(_column(self.item[name.decode() if isinstance(name, bytes) else name]))
        return _names(_texts(self.item[next(iter(self.item.dtype.names))]))

    def column(self, name: str) -> Any:
        if hasattr(self.item, "keys"):
            return _column(self.item[name])
        values = _texts(self.item[name])
        categories = f"{name}_categories"
        if values.dtype.kind in "iu" and categories in self.uns:
            return _labels(values, _texts(self.uns[categories]))
        return values


def _column(item: Any) -> Any:
    """A column as an array [n], or, with labels or missing values, as a series of polars."""
    import polars

    if not hasattr(item, "keys"):
        if (reference := item.attrs.get("categories")) is not None:  # of AnnData 0.7: in the group's __categories
            return _labels(item[:], _texts(item.file[reference]))
        return _texts(item)
    if "codes" in item and "categories" in item:
        return _labels(item["codes"][:], _column(item["categories"]))
    if "values" in item and "mask" in item:
        values, mask = _texts(item["values"]), item["mask"][:]
        series = polars.Series(values.tolist() if values.dtype.kind in "OU" else values)
        return polars.select(polars.when(polars.Series(~mask)).then(series)).to_series()
    raise UserError(
        f"{item.name} of {item.file.filename} is encoded as {_kind(item)!r}, which is not read as a column."
    )


def _names(values: Any) -> list[str]:
    """The texts of an array or series."""
    return [str(each) for each in (values.to_list() if hasattr(values, "to_list") else values.tolist())]


def _labels(codes: np.ndarray, categories: Any) -> Any:
    """Labels in the order of their categories; a code below 0 is a missing value."""
    import polars

    names = _names(categories)
    return polars.Series([None if code < 0 else names[code] for code in codes.tolist()], dtype=polars.Enum(names))


def _texts(item: Any) -> np.ndarray:
    """An array whose texts are str, not bytes: of a data set, or of a field of records."""
    if hasattr(item, "asstr") and item.dtype.kind in "OS":
        return np.asarray(item.asstr("utf-8")[:])
    values = np.asarray(item[:])
    if values.dtype.kind in "OS":
        decoded = [each.decode("utf-8") if isinstance(each, bytes) else each for each in values.ravel().tolist()]
        return np.array(decoded, object).reshape(values.shape)
    return values


# Matrices -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matrix:
    """A matrix of cells and genes [n, p]: a data set, or a group of data, indices and indptr. form: "csr", "csc" or ""
    of a dense one."""

    item: Any
    shape: tuple[int, int]
    form: str

    @staticmethod
    def of(item: Any) -> "_Matrix | None":
        """None of what is no matrix."""
        if not hasattr(item, "keys"):
            shape = item.shape if len(item.shape) == 2 else (*item.shape, 1)
            return _Matrix(item, (shape[0], shape[1]), "") if len(shape) == 2 and item.dtype.kind in "biuf" else None
        form = item.attrs.get("h5sparse_format", _kind(item).removesuffix("_matrix"))
        form = form.decode() if isinstance(form, bytes) else str(form)
        if form not in ("csr", "csc"):
            return None
        n, p = item.attrs["shape"] if "shape" in item.attrs else item.attrs["h5sparse_shape"]
        return _Matrix(item, (int(n), int(p)), form)

    def columns(self, places: list[int]) -> list[np.ndarray]:
        """The columns at these places, each [n]."""
        read = {"": self._dense, "csc": self._by_pointers, "csr": self._in_one_pass}[self.form]
        which, back = np.unique(places, return_inverse=True)
        found = read(which)
        return [found[:, k] for k in back]

    def _dense(self, which: np.ndarray) -> np.ndarray:
        if len(self.item.shape) == 1:
            return np.asarray(self.item[:])[:, None]
        first, span = int(which[0]), int(which[-1] - which[0]) + 1
        if span > SHARE * len(which):
            return np.stack([self.item[:, int(k)] for k in which], 1)
        rows = max(1, BLOCK // span)
        blocks = [self.item[k : k + rows, first : first + span] for k in range(0, self.shape[0], rows)]
        return np.concatenate([block[:, which - first] for block in blocks])

    def _by_pointers(self, which: np.ndarray) -> np.ndarray:
        data, indices, pointers = self.item["data"], self.item["indices"], self.item["indptr"][:]
        found = np.zeros((self.shape[0], len(which)), data.dtype)
        for k, column in enumerate(which):
            at = slice(int(pointers[column]), int(pointers[column + 1]))
            np.add.at(found[:, k], indices[at], data[at])  # which adds up what stands twice, as SciPy does
        return found

    def _in_one_pass(self, which: np.ndarray) -> np.ndarray:
        data, indices, pointers = self.item["data"], self.item["indices"], self.item["indptr"][:]
        found = np.zeros((self.shape[0], len(which)), data.dtype)
        for start in range(0, len(indices), BLOCK):
            column = indices[start : start + BLOCK]
            place = np.searchsorted(which, column).clip(max=len(which) - 1)
            here = np.flatnonzero(which[place] == column)
            row = np.searchsorted(pointers, start + here, side="right") - 1
            np.add.at(found, (row, place[here]), data[start : start + BLOCK][here])
        return found
