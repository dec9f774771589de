"""Images with a text each, named by a table: `captions:TABLE`, a text file with the columns path, text and split."""

from pathlib import Path

import numpy as np
import torch

from infomax.data.channels import require_alpha
from infomax.data.characters import Texts, read_texts, vocabulary_of
from infomax.data.choice import chosen, whole_number
from infomax.data.folder import FileSplit, dataset_of_files
from infomax.data.listing import found_in_rows
from infomax.data.memory import MemorySplit
from infomax.data.modality import Modality, require_limit
from infomax.data.paired import Paired, PairedSplit
from infomax.data.source import Dataset, Split
from infomax.data.table import check_files, columns_at, files_at, held_out, read_table
from infomax.data.targets import Target
from infomax.errors import UserError

_COLUMNS = ("path", "text", "split")

_Rows = list[tuple[int, dict[str, str]]]  # lines of the table with their numbers, by our names of the columns


def read_captions(name: str, rest: str, limit: int | None, skip: bool) -> Paired:
    """The pairs of `captions:TABLE`: x images [n, c, h, w], y their captions as tokens int64 [n, length].

    rest: TABLE?path=NAME&text=NAME&split=NAME&size=N&length=N&tokens=KIND, of which TABLE alone is needed. path, text,
    split: what the table calls these columns. Paths start from the table's folder; without a column split a fixed fifth
    of the images is the test part. size: side in pixels, as of `csv:`. tokens: characters, or bytes of UTF-8; by
    default bytes where most characters of all captions would share a token. length: tokens that are read of a caption,
    by default all of the longest training caption, at most 256 characters or 768 bytes. Of several captions of one
    image the first is read. limit: training pairs that are kept. skip: leave out images that cannot be read. Raises
    UserError as `csv:` does, for a caption that is empty, and where characters are asked for and most share a token.
    """
    place, asked = chosen(rest, (*_COLUMNS, "size", "length", "tokens", "alpha"))
    if not place:
        raise UserError("captions:TABLE names a table of images and texts, and none is named.")
    require_limit(limit)
    size, length = whole_number(name, asked, "size", 4, 4096), whole_number(name, asked, "length", 1, 4096)
    require_alpha(name, asked.get("alpha"))
    file, notes = Path(place).expanduser(), list[str]()
    rows, held = _rows(file, rest, asked), None
    if "split" in rows[0][1]:
        part_of = dict(zip((line for line, _ in rows), held_out(file, rows, notes), strict=True))
        rows = _first_of_each([row for row in rows if part_of[row[0]] is not None], notes)
        held = np.array([part_of[line] for line, _ in rows], bool)
    else:
        rows = _first_of_each(rows, notes)
        notes.append("There is no column split, so a fixed fifth of the images is held out.")
    vocabulary, chosen_by = vocabulary_of(f"{file}'s texts", [row["text"] for _, row in rows], asked.get("tokens"))
    names = [row["path"] for _, row in rows]
    files = files_at(file, names)
    check_files(file, rows, files, skip)
    # Which row an image is of goes with it as a target does, through all that leaves out, moves and cuts.
    of = Target("row", torch.arange(len(rows), dtype=torch.float64))
    found = found_in_rows(str(file), files, names, None, None, held, notes)._replace(targets=(of,))
    images = dataset_of_files(name, found, limit, size, skip, asked.get("alpha"))
    train, test = ([rows[i][1]["text"] for i in _row_numbers(split)] for split in (images.train, images.test))
    return _made(name, images, read_texts("captions", train, test, vocabulary, length), chosen_by)


def _made(name: str, images: Dataset, texts: Texts, chosen_by: list[str]) -> Paired:
    x, y = side_of(images), texts.modality
    both = torch.arange(len(y)).split([len(images.train), len(images.test)])
    parts = (PairedSplit(x, y, rows) for rows in both)
    return Paired(name, *parts, notes=(*images.notes, *chosen_by, *texts.notes), left_out=images.left_out)


def side_of(images: Dataset) -> Modality:
    """One side of pairs, of a data set of image files: both of its parts, training first, without labels."""
    train, test = images.train, images.test
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (images.mean, images.std))
    if isinstance(train, MemorySplit) and isinstance(test, MemorySplit):
        return Modality(MemorySplit(torch.cat([train.images, test.images]), None, ()), mean, std)
    assert isinstance(train, FileSplit) and isinstance(test, FileSplit)  # dataset_of_files() makes both alike
    whole = FileSplit([*train.files, *test.files], None, (), train.shape, train.whole, train.scale)
    return Modality(whole, mean, std)


def _row_numbers(split: Split) -> list[int]:
    return split.targets[0].values.long().tolist()


def _rows(file: Path, rest: str, asked: dict[str, str]) -> _Rows:
    columns, lines = read_table(file, "captions", "path, text and split")
    at = columns_at(f"captions:{rest.split('?')[0]}", file, columns, asked, ("path", "text"), ("split",))
    if not lines:
        raise UserError(f"{file} is empty: it names no image.")
    rows = [(number, {ours: row[place] for ours, place in at.items()}) for number, row in lines]
    for number, row in rows:
        row["text"] = " ".join(row["text"].split())
        if not row["text"]:
            raise UserError(f"Line {number} of {file} has no text: give every image one, or leave its line out.")
    return rows


def _first_of_each(rows: _Rows, notes: list[str]) -> _Rows:
    # Pairs of one image would be negatives of each other.
    seen: dict[str, tuple[int, dict[str, str]]] = {}
    for row in rows:
        seen.setdefault(row[1]["path"] or f"\0{row[0]}", row)
    if len(seen) < len(rows):
        notes.append(f"{len(rows) - len(seen)} of {len(rows)} captions are left out: of each image the first is read.")
    return list(seen.values())
