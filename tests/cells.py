"""Writes small files in AnnData's on-disk forms by h5py: what `tests/test_cells.py` reads back.

FORMS: "now", data frames as groups of encoded columns; "0.7", categories in __categories; "0.6", data frames as arrays
of records and categories in uns, as scanpy's 10x_pbmc68k_reduced.h5ad.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

FORMS = ("now", "0.7", "0.6")
MATRICES = ("dense", "csr", "csc")


class Labels:
    """A categorical column: texts, and None where missing; categories in an order of their own."""

    def __init__(self, values: Sequence[str | None], categories: Sequence[str]):
        self.categories = list(categories)
        self.codes = np.array([-1 if value is None else self.categories.index(value) for value in values], np.int8)


def write_cells(
    path: Path,
    obs: Mapping[str, Any],
    genes: Sequence[str],
    X: np.ndarray | None,
    form: str = "now",
    matrix: str = "dense",
    obsm: Mapping[str, np.ndarray] | None = None,
    layers: Mapping[str, np.ndarray] | None = None,
    raw: tuple[Sequence[str], np.ndarray] | None = None,
) -> None:
    """A file of AnnData's. obs: columns by name, arrays [n], `Labels`, masked arrays (nullable numbers), or lists of
    texts. genes [p] and X [n, p]. matrix: "dense", "csr" or "csc". raw: genes and matrix."""
    n = len(
        next(iter(obs.values())).codes if isinstance(next(iter(obs.values())), Labels) else next(iter(obs.values()))
    )
    cells = [f"cell{i}" for i in range(n)]
    with h5py.File(path, "w") as file:
        if form != "0.6":
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        if X is not None:
            _matrix(file, "X", X, form, matrix)
        uns = file.create_group("uns")
        _frame(file, "obs", cells, obs, form, uns)
        _frame(file, "var", genes, {}, form, uns)
        if raw is not None:
            group, names = (file, ("raw.X", "raw.var")) if form == "0.6" else (file.create_group("raw"), ("X", "var"))
            _matrix(group, names[0], raw[1], form, matrix)
            _frame(group, names[1], raw[0], {}, form, uns)
        for name, values in (layers or {}).items():
            _matrix(file.require_group("layers"), name, values, form, matrix)
        if obsm and form == "0.6":
            file["obsm"] = np.rec.fromarrays([*obsm.values()], [(k, v.dtype, v.shape[1:]) for k, v in obsm.items()])
        elif obsm:
            for name, values in obsm.items():
                _array(file.require_group("obsm"), name, values)


def _kind(item: Any, kind: str, version: str = "0.2.0") -> Any:
    item.attrs.update({"encoding-type": kind, "encoding-version": version})
    return item


def _array(group: Any, name: str, values: Any) -> Any:
    if not isinstance(values, np.ndarray) or values.dtype.kind in "OU":
        item = group.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype())
        return _kind(item, "string-array")
    return _kind(group.create_dataset(name, data=values), "array")


def _matrix(group: Any, name: str, values: np.ndarray, form: str, matrix: str) -> None:
    if matrix == "dense":
        _array(group, name, values)
        return
    sparse = getattr(scipy.sparse, f"{matrix}_matrix")(values)
    item = group.create_group(name)
    if form == "0.6":
        item.attrs.update({"h5sparse_format": matrix, "h5sparse_shape": values.shape})
    else:
        _kind(item, f"{matrix}_matrix", "0.1.0").attrs["shape"] = values.shape
    for part in ("data", "indices", "indptr"):
        item[part] = getattr(sparse, part)


def _frame(group: Any, name: str, index: Sequence[str], columns: Mapping[str, Any], form: str, uns: Any) -> None:
    if form == "0.6":
        fields: dict[str, Any] = {"index": np.array(index, "S")}
        for each, values in columns.items():
            fields[each] = values.codes if isinstance(values, Labels) else np.asarray(values)
            if fields[each].dtype.kind in "OU":
                fields[each] = np.array([text.encode() for text in values])
            if isinstance(values, Labels):
                uns[f"{each}_categories"] = np.array([label.encode() for label in values.categories])
        group[name] = np.rec.fromarrays([*fields.values()], [(k, v.dtype) for k, v in fields.items()])
        return
    frame = _kind(group.create_group(name), "dataframe")
    frame.attrs.update({"_index": "_index", "column-order": np.array(list(columns), h5py.string_dtype())})
    _array(frame, "_index", list(index))
    for each, values in columns.items():
        if isinstance(values, np.ma.MaskedArray):
            kind = "boolean" if values.dtype.kind == "b" else "integer"
            item = _kind(frame.create_group(each), f"nullable-{kind}", "0.1.0")
            item["values"], item["mask"] = values.data, np.ma.getmaskarray(values)
        elif isinstance(values, Labels) and form == "0.7":
            frame[each] = values.codes
            frame[f"__categories/{each}"] = np.array(values.categories, h5py.string_dtype())
            frame[each].attrs["categories"] = frame[f"__categories/{each}"].ref
        elif isinstance(values, Labels):
            item = _kind(frame.create_group(each), "categorical")
            item.attrs["ordered"] = False
            _array(item, "codes", values.codes)
            _array(item, "categories", values.categories)
        else:
            _array(frame, each, values)
