"""infomax matrix: the MI of all pairs of columns of a table, or of two, as a file, a heat map, and a list."""

import json as _json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax import errors
from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.estimation.questions.columns import Columns

MOST_NAMES = 32  # different texts in a column that is read as names of levels


def matrix(
    table: Path,
    other: Path | None = None,
    /,
    output: Path | None = None,
    top: int = 10,
    json: bool = False,
    x: str | None = None,
    y: str | None = None,
    missing: str = "refuse",
) -> None:
    """Estimate the MI, in nats, of every pair of columns, with 95 % intervals and the rate of false discoveries.

    Writes NAME.csv or NAME.parquet, a row a pair, and NAME.png, a clustered heat map, and prints the strongest pairs.
    Nothing is trained: a thousand columns take a minute.

    Args:
        table: A table, which ends in .csv, .tsv, .parquet, .feather, .npy, .npz, .mat, .h5, .hdf5, .h5ad or .zarr.
            Columns of few values, or of texts, are levels.
        other: A second table of as many rows: columns of the first are paired with its columns.
        output: NAME, NAME.csv or NAME.parquet, which is what the pairs are written as; NAME alone means CSV. By default
            TABLE-mi in this folder.
        top: How many pairs to print.
        json: Print one JSON object, and nothing else.
        x: Columns of the table, by name: age,height. By default all, but those of --y.
        y: Columns to pair them with, of the second table where there is one: weight, or names of classes.
        missing: What to do about missing values: refuse them, or drop, for each pair of columns, the rows with some.
    """
    from infomax.estimation.questions.columns import require_same_rows
    from infomax.estimation.questions.pairwise import matrix_of
    from infomax.files import finite, write_whole

    errors.require_positive(top=top)
    name, ending = _named(table, output)
    sides = [_columns(number, *side, missing) for number, side in enumerate(_frames(table, other, x, y))]
    if len(sides) > 1:
        require_same_rows(sides[0], sides[1])
    elif sides[0].p < 2:
        raise UserError(f"There is one column of {table}: give two or more, a second table, or --y.")
    found = matrix_of(sides[0], sides[-1], symmetric=len(sides) == 1)
    write = found.write_csv if ending == ".csv" else found.write_parquet
    files = _files(name, ending)
    table_file, picture = files
    for file in files:
        try:
            if file is table_file:
                write(file)
            else:
                write_whole(file, lambda temporary: found.plot().savefig(temporary, dpi=110, format="png"))
        except OSError as error:  # whose own words name the file that it was to become, as it is written
            reason = error.strerror or type(error).__name__
            raise UserError(f"{file} could not be written ({reason}); name another file with --output.") from error
    if json:
        content = {"n": found.n, "shape": list(found.mi.shape), "discoveries": found.discoveries(),
                   "strongest": found.strongest(top), "table": str(table_file), "picture": str(picture)}  # fmt: skip
        print(_json.dumps(finite(content), allow_nan=False))
        return
    print(found.summary(top))
    print(f"All pairs: {table_file}; heat map: {picture}")
    sys.stdout.flush()


def _columns(number: int, path: Path, frame: Any, missing: str) -> "Columns":
    """Side `number` of columns as they are estimated; of what was read nothing is held afterwards."""
    from infomax.estimation.questions.columns import columns_of

    values, names, are_labels = columns_in(path, frame, missing)
    return replace(columns_of(str(path), values, number, missing), names=names, levels=True if are_labels else None)


def _named(table: Path, output: Path | None) -> tuple[Path, str]:
    """What is written, without its ending, and the ending of the table. Raises UserError: a folder, or a file in none,
    another ending, a library that is missing, before anything is worked out."""
    name, ending = Path(f"{table.stem}-mi") if output is None else output, ".csv"
    if name.is_dir():
        raise UserError(f"--output {name} is a folder; name a file in it, without an ending.")
    if name.suffix.lower() in (".csv", ".parquet"):
        name, ending = name.with_suffix(""), name.suffix.lower()
    elif output is not None and any(letter.isalpha() for letter in name.suffix):  # a number's .5 is no ending
        raise UserError(
            f"--output {name} ends in {name.suffix}, and pairs are written as .csv or .parquet, with a picture .png "
            f"beside them: name it {name.with_suffix('.csv').name} or {name.with_suffix('.parquet').name}."
        )
    if not name.parent.is_dir():
        raise UserError(f"--output {output}: {name.parent} is no folder; make it first, or name a file in another.")
    for file in _files(name, ending):
        if file.is_dir():
            raise UserError(f"{file}, which is to be written, is a folder; name another file with --output.")
    if not os.access(name.parent, os.W_OK):
        raise UserError(f"{name.parent} cannot be written in; name a file in another folder with --output.")
    if ending == ".parquet":
        from infomax.estimation.pairs.tables import library

        library("polars")
    return name, ending


def _files(name: Path, ending: str) -> tuple[Path, Path]:
    """The table and the picture."""
    return name.with_name(name.name + ending), name.with_name(name.name + ".png")


def _frames(table: Path, other: Path | None, x: str | None, y: str | None) -> list[tuple[Path, Any]]:
    """The sides as data frames, each with its file: one, or two to be paired. Raises UserError as `sides_of` does."""
    from infomax.estimation.pairs.tables import names_of, read_table, require_apart

    first = None if x is None else names_of("--x", x)
    second = None if y is None else names_of("--y", y)
    if other is not None:
        return [(table, read_table(table, first)), (other, read_table(other, second))]
    frame = read_table(table, first)
    if second is None:
        return [(table, frame)]
    paired = read_table(table, second)
    if first is None:
        frame = frame.drop(paired.columns, strict=False)
        if not frame.columns:
            raise UserError(f"{table} has no column but those of --y, and one is not paired with itself: name fewer.")
    require_apart("--x", frame.columns, "--y", paired.columns)
    return [(table, frame), (table, paired)]


def columns_in(path: Path, frame: Any, missing: str = "refuse") -> tuple[Any, tuple[str, ...], bool]:
    """The columns of a table as numbers [n, p], texts as levels, their names, and whether all are texts.

    path: for sentences. frame: a polars DataFrame. missing: "refuse", or "drop", which keeps missing values as NaN.
    Raises UserError: missing values, with their number; a column of many different texts.
    """
    import numpy as np

    table, texts = np.full(frame.shape, np.nan), 0
    for c, name in enumerate(frame.columns):
        column = frame[name]
        gone = column.is_null().to_numpy()
        if gone.any() and missing == "refuse":
            raise UserError(
                f"{path} misses {gone.sum()} values in column {name}: leave those rows out, or fill them, or take"
                " --missing drop."
            )
        there = column.drop_nulls().to_numpy()
        if there.dtype.kind not in "biuf" and len(there):
            cells = [str(cell) for cell in there]
            levels, there = np.unique(cells, return_inverse=True)
            if len(levels) > MOST_NAMES:
                raise UserError(
                    f"{path} has {len(levels)} different texts in column {name}, such as {cells[0]!r}: columns are"
                    f" numbers, or names of at most {MOST_NAMES} levels."
                )
            texts += 1
        table[~gone, c] = there.astype(float, copy=False)
    return table, tuple(frame.columns), texts == frame.shape[1]
