"""infomax matrix: the MI of all pairs of columns of a table, or of two, as a CSV file, a heat map, and a list."""

import csv
import json as _json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from infomax import errors
from infomax.errors import UserError

MOST_NAMES = 32  # different texts in a column that is read as names of levels


def matrix(
    table: Path,
    other: Path | None = None,
    /,
    output: Path | None = None,
    top: int = 10,
    json: bool = False,
) -> None:
    """Estimate the MI, in nats, of every pair of columns, with 95 % intervals and the rate of false discoveries.

    Writes NAME.csv, a row a pair, and NAME.png, a clustered heat map, and prints the strongest pairs. Nothing is
    trained: a thousand columns take a minute.

    Args:
        table: An array [n, p] that numpy.save wrote, an .npz archive of columns, a .csv file with names in its first
            line, or a table that ends in .tsv, .parquet, .feather, .mat, .h5 or .zarr. Columns of few values, or of
            texts, are levels.
        other: A second table of as many rows: columns of the first are paired with its columns.
        output: NAME, without an ending. By default TABLE-mi in this folder.
        top: How many pairs to print.
        json: Print one JSON object, and nothing else.
    """
    from infomax.estimation.questions.columns import columns_of, require_same_rows
    from infomax.estimation.questions.pairwise import matrix_of
    from infomax.files import finite, write_whole

    errors.require_positive(top=top)
    name = Path(f"{table.stem}-mi") if output is None else output
    if name.is_dir():
        raise UserError(f"--output {name} is a folder; name a file in it, without an ending.")
    sides = []
    for number, path in enumerate(path for path in (table, other) if path is not None):
        values, names = read_table(path)
        side = columns_of(str(path), values, number)
        sides.append(side if names is None else replace(side, names=names))
    if other is not None:
        require_same_rows(*sides)
    elif sides[0].p < 2:
        raise UserError(f"{table} has one column: give a table of two or more, or a second table.")
    found = matrix_of(sides[0], sides[-1], symmetric=other is None)
    table_file, picture = (name.with_name(name.name + ending) for ending in (".csv", ".png"))
    try:
        found.write_csv(table_file)
        write_whole(picture, lambda temporary: found.plot().savefig(temporary, dpi=110, format="png"))
    except OSError as error:
        raise UserError(f"{name} could not be written ({error}); name another file with --output.") from error
    if json:
        content = {"n": found.n, "shape": list(found.mi.shape), "discoveries": found.discoveries(),
                   "strongest": found.strongest(top), "table": str(table_file), "picture": str(picture)}  # fmt: skip
        print(_json.dumps(finite(content), allow_nan=False))
        return
    print(found.summary(top))
    print(f"All pairs: {table_file}; heat map: {picture}")
    sys.stdout.flush()


def read_table(path: Path) -> tuple[Any, tuple[str, ...] | None]:
    """The columns of a file [n, p], and their names where it has some.

    Raises UserError: no such file, another kind of file, an array that is not a table, rows of different lengths, a
    column of many different texts.
    """
    import numpy as np

    from infomax.estimation.pairs import tables

    kind = path.suffix.lower()
    if kind in tables.ENDINGS and kind not in (".npy", ".npz", ".csv"):
        return _of_frame(path, tables.read_table(path))
    if not path.is_file():
        raise UserError(f"{path} does not exist." if not path.exists() else f"{path} is a folder, and no table.")
    try:
        if kind == ".npy":
            return np.load(path, allow_pickle=False), None
        if kind == ".npz":
            return _of_archive(path)
        if kind == ".csv":
            return _of_csv(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise UserError(f"{path} could not be read as a table ({error}).") from None
    raise UserError(f"{path} is none of the tables that are read: {', '.join(sorted(tables.ENDINGS))} are.")


def _of_frame(path: Path, frame: Any) -> tuple[Any, tuple[str, ...]]:
    """Of a polars frame: numbers as they are, texts as levels."""
    import numpy as np

    columns = []
    for name in frame.columns:
        column = frame[name]
        if column.null_count():
            raise UserError(f"{path} has empty cells in column {name}: leave those rows out, or fill them.")
        values = column.to_numpy()
        if values.dtype.kind not in "biuf":
            values = _levels(path, name, [str(cell) for cell in values])
        columns.append(np.asarray(values, float))
    return np.stack(columns, 1), tuple(frame.columns)


def _levels(path: Path, name: object, cells: list[str]) -> Any:
    """Texts as numbers of levels."""
    import numpy as np

    if len(set(cells)) > MOST_NAMES:
        raise UserError(
            f"{path} has {len(set(cells))} different texts in column {name}, such as {cells[0]!r}: columns are numbers,"
            f" or names of at most {MOST_NAMES} levels."
        )
    return np.unique(cells, return_inverse=True)[1]


def _of_archive(path: Path) -> tuple[Any, tuple[str, ...]]:
    import numpy as np

    columns, names = [], []
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name]
            if array.ndim not in (1, 2):
                raise UserError(f"{path} has an array {name} {[*array.shape]}: columns are [n], and tables [n, p].")
            wide = array if array.ndim == 2 else array[:, None]
            columns.append(wide)
            names += [name] if wide.shape[1] == 1 else [f"{name}[{c}]" for c in range(wide.shape[1])]
    if len({len(array) for array in columns}) > 1:
        raise UserError(
            f"{path} has arrays of {' and '.join(str(len(a)) for a in columns)} rows: give as many of each."
        )
    if not columns:
        raise UserError(f"{path} holds no arrays.")
    return np.concatenate(columns, 1), tuple(names)


def _of_csv(path: Path) -> tuple[Any, tuple[str, ...] | None]:
    import numpy as np

    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise UserError(f"{path} is empty.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path} has {len(row)} values in row {number}, and {len(rows[0])} in its first.")
    names = tuple(cell.strip() for cell in rows[0])
    has_names = all(_number(cell) is None for cell in names)
    if has_names:
        rows = rows[1:]
    columns = []
    for c, name in enumerate(names):
        cells = [row[c].strip() for row in rows]
        numbers = [_number(cell) for cell in cells]
        if None in numbers:
            title = name if has_names else c
            if not all(cells):
                raise UserError(f"{path} has empty cells in column {title}: leave those rows out, or fill them.")
            odd = numbers.index(None)
            numbers = _levels(path, title, [*cells[odd:], *cells[:odd]])
            numbers = [*numbers[len(cells) - odd :], *numbers[: len(cells) - odd]]
        columns.append(numbers)
    return np.array(columns, dtype=float).T.reshape(len(rows), len(names)), names if has_names else None


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
