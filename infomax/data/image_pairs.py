"""Two image files a sample, named by a table: `pairs:TABLE?x=LEFT&y=RIGHT`, a text file with two columns of paths."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from infomax.data.captions import side_of
from infomax.data.channels import require_alpha
from infomax.data.choice import chosen, whole_number
from infomax.data.folder import look, made_of
from infomax.data.listing import Found, Words, copies_together, found_in_rows
from infomax.data.modality import Modality, require_limit
from infomax.data.paired import Paired, PairedSplit
from infomax.data.readable import readable
from infomax.data.table import SEVERAL, columns_at, files_at, held_out, labels_of, read_table, require_files
from infomax.data.targets import Target
from infomax.errors import UserError

COLUMNS = ("x", "y", "label", "split")  # our names of them
_SHARED = Words(
    "pairs share an image with another pair, whose negatives they are in a batch, as {} and {} do",
    "such pairs with different labels",
    "test pairs share images with training pairs",
    "such pairs are in one part",
)

_Rows = list[tuple[int, dict[str, str]]]  # lines of the table with their numbers, by our names of the columns


def read_image_pairs(name: str, rest: str, limit: int | None, skip: bool) -> Paired:
    """The pairs of `pairs:TABLE?x=LEFT&y=RIGHT`: x and y images [n, c, h, w], each side of its own shape.

    rest: TABLE?x=NAME&y=NAME&label=NAME&split=NAME&size=N&alpha=KIND, of which TABLE alone is needed. x, y, label,
    split: what the table calls these columns; `label=` is none. Paths start from the table's folder. Without a column
    split a fixed fifth of the pairs, of each class where there are labels, is the test part. Pairs that share an image
    are in one part, and a fixed split stays. Each side has its own channels, size and scale of deep pixels, as a data
    set of `csv:` has. size: side in pixels, of both. limit: training pairs that are kept. skip: leave out pairs of
    which an image cannot be read. Raises UserError as `csv:` does, for a cell without a path, and for x and y of one
    column, or of one file.
    """
    place, asked = chosen(rest, (*COLUMNS, "size", "alpha"))
    require_limit(limit)
    size, alpha = whole_number(name, asked, "size", 4, 4096), asked.get("alpha")
    require_alpha(name, alpha)
    file, notes = Path(place).expanduser(), list[str]()
    rows, columns = _rows(file, place, asked)
    held = None
    if "split" in columns:
        parts = held_out(file, rows, notes)
        rows = [row for row, part in zip(rows, parts, strict=True) if part is not None]
        held = np.array([part for part in parts if part is not None], bool)
    words = _labels(file, rows, notes) if "label" in columns else None
    if held is None:
        notes.append("There is no column split, so a fixed fifth of the pairs is held out.")
    both = files_at(file, [row[side] for side in "xy" for _, row in rows])
    files = {"x": both[: len(rows)], "y": both[len(rows) :]}
    for side in "xy":
        require_files(file, rows, files[side], skip, side)
    _require_two(file, rows, files, columns)
    # Pairs of one image have one name, by which the fifth is drawn.
    groups = _together(*([os.path.normpath(path) for path in files[side]] for side in "xy"))
    of = [f"{row['x']}\0{row['y']}" for _, row in rows]
    first = dict(sorted(zip(groups.tolist(), of, strict=True), reverse=True))  # the least of a group's names
    found = found_in_rows(str(file), files["x"], [first[group] for group in groups.tolist()], words, None, held, notes)
    if not found.given:
        found = found._replace(held=_whole_groups(found.held, groups))
    sides = [found._replace(files=files[side], notes=[]) for side in "xy"]
    numbers, left_out = np.array([number for number, _ in rows]), ()
    if skip:
        sides, whole, left_out = _readable(name, sides, notes)
        numbers, groups = numbers[whole], groups[whole]
    looked = [look(side, size, alpha) for side in sides]
    order = np.argsort(sides[0].held, kind="stable")  # as look() has them
    copies = ([f"{side} {mark}" for mark in each.prints] for side, each in zip("xy", looked, strict=True))
    together = _together([f"group {group}" for group in groups[order]], *copies).tolist()
    lines = [f"line {number}" for number in numbers[order]]
    parts, told = copies_together(looked[0].held, found.given, together, looked[0].labels, lines, _SHARED)
    notes += told
    modalities, counts = list[Modality](), list[int]()
    for side in "xy":
        made = made_of(f"{columns[side]} of {name}", looked.pop(0), parts, limit, (), ())
        modalities.append(side_of(made))
        counts = [len(made.train), len(made.test)]
        notes += [f"{columns[side]}: {note}" for note in made.notes]
    split = (PairedSplit(modalities[0], modalities[1], rows) for rows in torch.arange(sum(counts)).split(counts))
    return Paired(name, *split, notes=tuple(notes), left_out=left_out)


def _rows(file: Path, place: str, asked: dict[str, str]) -> tuple[_Rows, dict[str, str]]:
    # The table's lines, and how it spells the columns that are read, both by our names.
    columns, lines = read_table(file, "pairs", "x and y, or others that ?x=NAME&y=NAME name")
    at = columns_at(f"pairs:{place}", file, columns, asked, ("x", "y"), ("label", "split"))
    spelt = {ours: columns[i] for ours, i in at.items()}
    if at["x"] == at["y"]:
        raise UserError(f"x and y are both the column {spelt['x']!r} of {file}: a pair is two images, of two columns.")
    if not lines:
        raise UserError(f"{file} is empty: it names no image.")
    rows = [(number, {ours: row[i] for ours, i in at.items()}) for number, row in lines]
    for number, row in rows:
        for side in "xy":
            if not row[side]:
                raise UserError(
                    f"Line {number} of {file} has no {spelt[side]}: name two images in every line, or leave it out."
                )
    return rows, spelt


def _labels(file: Path, rows: _Rows, notes: list[str]) -> list[str] | None:
    if any(SEVERAL in row["label"] for _, row in rows):
        notes.append("Labels of several words are not read: they are no classes.")
        return None
    return labels_of(file, rows, notes)


def _require_two(file: Path, rows: _Rows, files: dict[str, list[Path]], columns: dict[str, str]) -> None:
    # Raises UserError for one image twice in a line, and one pair in two lines.
    seen: dict[tuple[Path, Path], int] = {}
    for (number, _), *pair in zip(rows, files["x"], files["y"], strict=True):
        x, y = pair
        if x == y:
            raise UserError(f"Line {number} of {file} has one image as {columns['x']} and as {columns['y']}, {x}: "
                            "name two, or leave it out.")  # fmt: skip
        if (x, y) in seen:
            raise UserError(f"Lines {seen[x, y]} and {number} of {file} name the same pair, {x} and {y}: keep one.")
        seen[x, y] = number


def _together(*keys: Sequence[str]) -> np.ndarray:
    # Of each row the number of its group, int64 [n]: rows that share a key, directly or by way of others, are of one.
    root, first = list(range(len(keys[0]))), dict[str, int]()

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for column in keys:
        for row, key in enumerate(column):
            one, other = sorted((find(first.setdefault(key, row)), find(row)))
            root[other] = one
    return np.unique([find(row) for row in range(len(root))], return_inverse=True)[1]


def _whole_groups(held: np.ndarray, groups: np.ndarray) -> np.ndarray:
    # Groups of which half are held out, or the one of which most are, whole; as it was where that would be all rows.
    share = np.bincount(groups, held) / np.bincount(groups)
    whole = (share >= min(0.5, share.max()))[groups]
    return held if whole.all() else whole


def _readable(name: str, sides: Sequence[Found], notes: list[str]) -> tuple[list[Found], np.ndarray, tuple[str, ...]]:
    # Both sides without the rows of which an image cannot be read; which rows are left, bool [n]; these files.
    n = len(sides[0].files)
    of = Target("place", torch.arange(2 * n, dtype=torch.float64))
    both = Found([*sides[0].files, *sides[1].files], None, [], np.tile(sides[0].held, 2), True, [], None, (of,))
    found, left_out = readable(name, both)
    kept = np.zeros(2 * n, bool)
    kept[found.targets[0].values.long().numpy()] = True
    whole = kept[:n] & kept[n:]
    notes += found.notes
    for what, part in (("training", ~sides[0].held), ("test", sides[0].held)):
        if not (part & whole).any():
            raise UserError(f"Too few pairs of {name!r} are left, no {what} pair: {found.notes[0]}")
    if left_out:
        notes.append(f"With them {n - whole.sum()} of {n} pairs are left out.")
    places = np.flatnonzero(whole)
    labels = None if sides[0].labels is None else sides[0].labels[torch.from_numpy(places)]
    left = [each._replace(files=[each.files[i] for i in places.tolist()], labels=labels, held=each.held[places])
            for each in sides]  # fmt: skip
    return left, whole, tuple(dict.fromkeys(left_out))
