"""Images named by a table: `csv:PATH`, a text file with the columns path, label, split and target:NAME."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from infomax.data.folder import dataset_of_files
from infomax.data.listing import found_in_rows
from infomax.data.source import Dataset
from infomax.data.splits import HELD, TRAIN
from infomax.data.targets import Target, tagged
from infomax.errors import UserError, nearest

_COLUMNS = ("path", "label", "split")
_TARGET = "target:"  # before the name of a column of numbers
SEVERAL = "|"  # between words, where an image has several


def read_csv(
    name: str, path: str, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of `csv:PATH`: see infomax.data.dataset.

    path: of an image, from the table's own folder unless it is absolute. label: a word or a whole number; without that
    column the data set has no labels. split: train and test, in the spellings of folders; without that column a fixed
    fifth of each class is the test part. target:NAME: a number, which probes predict. Labels of several words,
    cat|dog, are a target as well, and no classes. Raises UserError for a missing column, file, label, split or number,
    named with its line; with skip a file that is not there is one of the unreadable ones.
    """
    if not path:
        raise UserError("csv:PATH names a table of images, and none is named.")
    file = Path(path).expanduser()
    rows, columns = _rows(file)
    names = [row["path"] for _, row in rows]
    files = files_at(file, names)
    check_files(file, rows, files, skip)
    notes: list[str] = []
    held = held_out(file, rows, notes) if "split" in columns else None
    if held is not None:  # rows of a part that is not read have none
        kept = [i for i, part in enumerate(held) if part is not None]
        rows, names, files = [rows[i] for i in kept], [names[i] for i in kept], [files[i] for i in kept]
        held = np.array([held[i] for i in kept], bool)
    targets = tuple(_numbers(file, rows, column) for column in columns if column.startswith(_TARGET))
    words = None
    if "label" in columns and any(SEVERAL in row["label"] for _, row in rows):
        tags = tagged("label", [row["label"] for _, row in rows], SEVERAL)
        targets = (tags, *targets)
        notes.append(
            f"Labels of several words, {len(tags.words)} of them, are a target of probes; there are no classes."
        )
    elif "label" in columns:
        words = labels_of(file, rows, notes)
    if "label" not in columns:
        notes.append("The table has no column label, so the images have no labels.")
    found = found_in_rows(str(file), files, names, words, None, held, notes)._replace(targets=targets)
    if found.labels is not None:  # class by class
        order = torch.argsort(found.labels, stable=True)
        files = [files[i] for i in order.tolist()]
        targets = tuple(target.of(order) for target in targets)
        found = found._replace(files=files, labels=found.labels[order], held=found.held[order.numpy()], targets=targets)
    return dataset_of_files(name, found, limit, size, skip, alpha)


def read_table(file: Path, kind: str, needs: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns of a text file of cells, as its first line spells them, and its other lines with their numbers.

    kind: the prefix that names tables of this sort, and needs: their columns, in messages. Cells stand between commas,
    semicolons or tabs, whichever the first line has most of. Raises UserError: what cannot be read, is empty, or has a
    line of more or fewer cells.
    """
    try:
        if file.is_dir():
            raise UserError(
                f"{file} is a folder; {kind}:PATH names a table, and folder:{file} reads the images inside."
            )
        with file.open(newline="", encoding="utf-8-sig") as opened:
            sample = opened.read(4096)
            opened.seek(0)
            head = sample.splitlines()[0] if sample.strip() else ""
            comma = max(",;\t", key=head.count)
            reader = csv.reader(opened, delimiter=comma, strict=True)
            columns = [column.strip() for column in next(reader, [])]
            lines = [
                (reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)
            ]
    except FileNotFoundError as error:
        raise UserError(f"There is no file {file}: {kind}:PATH names a table of images.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a table ({error}).") from error
    if not any(columns):
        raise UserError(f"{file} is empty: a table names its columns {needs} in its first line.")
    for number, row in lines:
        if len(row) != len(columns):
            raise UserError(f"Line {number} of {file} has {len(row)} cells where the first has {len(columns)}.")
    return columns, lines


def _rows(file: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    # Lines of the file with their numbers, as columns that have a name of ours.
    spelt, lines = read_table(file, "csv", "path, label and split")
    columns = [_name(column) for column in spelt]
    known = [column for column in columns if column in _COLUMNS or column.startswith(_TARGET)]
    if "path" not in known or ("label" not in known and set(columns) - set(known)):
        missing = "path" if "path" not in known else "label"
        shown = ", ".join(columns) or "none"
        raise UserError(f"{file} has no column {missing}; its columns are {shown}: name them path, label and split, "
                        "and columns of numbers target:NAME.")  # fmt: skip
    if len(set(known)) != len(known):
        raise UserError(f"{file} has a column twice: {', '.join(columns)}.")
    if not lines:
        raise UserError(f"{file} is empty: it names no image.")
    return [(n, dict(zip(columns, row, strict=True))) for n, row in lines], known


def _name(column: str) -> str:
    # As it is in any case, but for the name of a target, which is the user's own.
    column = column.strip()
    if column.lower().startswith(_TARGET):
        return _TARGET + column[len(_TARGET) :].strip()
    return column.lower()


def _numbers(file: Path, rows: list[tuple[int, dict[str, str]]], column: str) -> Target:
    values = []
    for number, row in rows:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"Line {number} of {file} has {row[column]!r} in the column {column}, which is no number: give every "
                "image one, or leave the column out."
            )
        values.append(value)
    return Target(column.removeprefix(_TARGET), torch.tensor(values, dtype=torch.float64))


def files_at(file: Path, names: Sequence[str]) -> list[Path]:
    """The files that a table names, from its own folder; all of them absolute where one is, to have a folder above."""
    absolute = any(Path(name).is_absolute() for name in names)
    folder = file.parent.absolute() if absolute else file.parent
    return [folder / name for name in names]


def check_files(file: Path, rows: list[tuple[int, dict[str, str]]], files: list[Path], skip: bool) -> None:
    """Raises UserError: files that rows name and that are not there, unless unreadable ones are left out (skip); one
    that two rows name."""
    require_files(file, rows, files, skip)
    seen: dict[Path, int] = {}
    for (number, _), image in zip(rows, files, strict=True):
        if image in seen:
            raise UserError(f"Lines {seen[image]} and {number} of {file} name the same image, {image}: keep one.")
        seen[image] = number


def require_files(
    file: Path, rows: list[tuple[int, dict[str, str]]], files: list[Path], skip: bool, column: str = "path"
) -> None:
    """Raises UserError for files that rows name and that are not there, unless unreadable ones are left out (skip).

    column: of the rows, that names them.
    """
    missing = [i for i, image in enumerate(files) if not rows[i][1][column] or not (skip or image.is_file())]
    if missing:
        number, first = rows[missing[0]][0], files[missing[0]]
        raise UserError(
            f"{len(missing)} of {len(files)} images that {file} names are not there, for instance {first} in line "
            f"{number}: paths start from the table's folder; --skip-unreadable (skip_unreadable=True) leaves them out."
        )


def columns_at(
    name: str, file: Path, columns: list[str], asked: Mapping[str, str], needs: Sequence[str], may: Sequence[str]
) -> dict[str, int]:
    """The places of a table's columns by our names of them, which it may call otherwise.

    name: the source, as the user spelt it without its choices. columns: as the table spells them; case does not count.
    asked: by our name, the table's; "" for none where that may be. needs, may: our names of columns that there must be,
    and that there may be. Raises UserError for one that is not there, or twice.
    """
    lowered = [column.lower() for column in columns]
    at: dict[str, int] = {}
    for ours in (*needs, *may):
        column = asked.get(ours, ours).lower()
        if column in lowered:
            if lowered.count(column) > 1:
                raise UserError(f"{file} has the column {column} twice.")
            at[ours] = lowered.index(column)
        elif ours in needs or asked.get(ours):
            lacking = [each for each in (*needs, *may) if each == ours or (each in needs and each not in asked
                       and each not in lowered)]  # fmt: skip
            ones = "ones that hold" if len(lacking) > 1 else "one that holds"
            raise UserError(
                f"{file} has no column {column!r}; its columns are {', '.join(columns)}: {name}"
                f"?{'&'.join(f'{each}=NAME' for each in lacking)} names the {ones} the {' and the '.join(lacking)}."
                f"{nearest(column, lowered) if ours in asked else ''}"
            )
    return at


def held_out(file: Path, rows: list[tuple[int, dict[str, str]]], notes: list[str]) -> list[bool | None]:
    """Of each row, by its column split, whether it is of the test part; None of a part that is not read.

    file: the rows' table, in messages. notes: gets a line on parts that are not read. Raises UserError: another word,
    one part alone.
    """
    parts = [row["split"].lower() for _, row in rows]
    for (number, row), part in zip(rows, parts, strict=True):
        if part not in (*TRAIN, *HELD):
            raise UserError(
                f"The split {row['split']!r} in line {number} of {file} is neither train nor test (or val)."
            )
    tests = sorted({part for part in parts if part in HELD}, key=HELD.index)
    if not tests or not any(part in TRAIN for part in parts):
        raise UserError(f"The column split of {file} has rows of {' and '.join(sorted(set(parts)))} alone: "
                        "mark some train and some test, or leave the column out.")  # fmt: skip
    for part in tests[1:]:
        notes.append(f"{tests[0]} is the test part; not read: {parts.count(part)} rows of {part}.")
    return [None if part in tests[1:] else part in HELD for part in parts]


def labels_of(file: Path, rows: list[tuple[int, dict[str, str]]], notes: list[str]) -> list[str] | None:
    """The words of the column label; None, and a note, where it is empty. Raises UserError: some rows have none."""
    words = [row["label"] for _, row in rows]
    empty = [number for (number, _), word in zip(rows, words, strict=True) if not word]
    if len(empty) == len(words):
        notes.append("The column label is empty, so the images have no labels.")
        return None
    if empty:
        raise UserError(f"{len(empty)} of {len(words)} images of {file} have no label, the first in line {empty[0]}: "
                        "give all of them one, or none.")  # fmt: skip
    return words
