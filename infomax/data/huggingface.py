"""Hugging Face data sets: `hf:NAME_OR_PATH`, of the hub, a folder or file that `datasets` reads, or a saved one."""

import contextlib
import importlib
import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomax.data.choice import chosen, image_column, label_column, said
from infomax.data.folder import dataset_of_files
from infomax.data.listing import HELD, IMAGES, found_in_rows, parts_of
from infomax.data.packed import File, Packed
from infomax.data.source import Dataset
from infomax.data.targets import Target
from infomax.errors import UserError, nearest

_OPTIONS = ("image", "label", "config", "target")
_TARGET = "target:"  # before the name of a column that is a target, as in a table
_PATHS = ("image", "img", "path", "file", "file_name", "filename", "image_path")  # names of a column of paths
_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow",
          ".tar": "webdataset"}  # fmt: skip
# What datasets reads and hf: does not, by a name's ending, and what is read instead.
_NOT_READ = {
    (".h5", ".hdf5"): ("HDF5, arrays and no image files", "write each image as .npy or TIFF and take folder:PATH, or"
                       " hand the arrays to im.data.from_tensors"),
    (".lance",): ("a Lance table", "write its rows as Parquet, which hf: reads"),
    (".nii", ".nii.gz"): ("NIfTI, scans in three dimensions", "write slices as .npy or TIFF and take folder:PATH"),
}  # fmt: skip


def read_huggingface(name: str, rest: str, limit: int | None, size: int | None, skip: bool) -> Dataset:
    """The data set of `hf:NAME_OR_PATH?image=COLUMN&label=COLUMN&config=NAME&target=COLUMNS`: see infomax.data.dataset.

    target: columns with commas between, beside those named target:NAME: of numbers, or of lists of words. Raises
    UserError for what datasets cannot read, columns that are not there or of which several could be meant, labels or
    targets that are missing, and a missing package.
    """
    _refuse_streaming(name, rest)
    place, choice = chosen(rest, _OPTIONS)
    parts = _parts(place, choice.get("config"))
    first = next(iter(parts.values()))
    image, label, classes = _columns(f"hf:{place}", place, first, choice)
    notes: list[str] = []
    read = parts_of(place, list(parts), notes)
    words: list[str | None] = []
    files: list[File] = []
    held: list[bool] = []
    labelled = {part: _words(parts[part], label, classes) for part in parts if label is not None}
    read = _with_labels(read, labelled, notes)
    for part, test in read.items():
        if image not in parts[part].column_names:
            raise UserError(f"The part {part} of {place} has no column {image}: it is one of {next(iter(parts))}.")
        files += _files(place, part, parts[part], image)
        words += labelled.get(part, [None] * len(parts[part]))
        held += [test] * len(parts[part])
    if not files:
        raise UserError(f"{place} is empty: it has no rows.")
    missing = [i for i, word in enumerate(words) if word is None]
    if missing and len(missing) < len(words):
        raise UserError(
            f"{len(missing)} of {len(words)} images of {place} have no label in column {label}, the first of them "
            f"{files[missing[0]]}: give all of them one, or take hf:{place}?label= for none."
        )
    labels = None if missing else [str(word) for word in words]
    split = np.array(held) if any(held) else None
    found = found_in_rows(place, files, [str(file) for file in files], labels, classes, split, notes)
    asked = [column.strip() for column in choice.get("target", "").split(",") if column.strip()]
    named = [column for column in first.column_names if column.startswith(_TARGET) and column not in asked]
    targets = [_target(place, {part: parts[part] for part in read}, column) for column in (*asked, *named)]
    found = found._replace(targets=tuple(targets))
    notes.insert(0, said(image, None if labels is None else label, len(found.classes)))
    return dataset_of_files(name, found, limit, size, skip)


def _parts(place: str, config: str | None) -> dict[str, Any]:
    # Split name -> datasets.Dataset.
    if not place:
        raise UserError("hf:NAME_OR_PATH names a data set of the Hugging Face hub, a folder or a file.")
    path = Path(place).expanduser()
    _refuse_kind(path)
    with _quiet() as hub:
        try:
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                made = hub.load_from_disk(str(path))
            elif path.is_dir():
                made = hub.load_dataset(str(path), config)
            elif path.is_file():
                if path.suffix.lower() not in _KINDS:
                    raise UserError(f"{path} is no kind of file that hf: reads ({', '.join(_KINDS)}).")
                options: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
                made = hub.load_dataset(_KINDS[path.suffix.lower()], config, data_files=str(path), **options)
            elif place.startswith(("/", "~", ".")) or place.count("/") > 1:
                raise UserError(f"There is no file or folder {path}: hf:NAME_OR_PATH names one, or a hub's data set.")
            else:
                made = hub.load_dataset(place, config)
        except UserError:
            raise
        except Exception as error:  # as many kinds as there are builders, and of the hub and pyarrow
            reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__).rstrip(".")
            if isinstance(error, IndexError) or "corresponds to no data" in reason:  # of files without rows
                raise UserError(f"{place} is empty: it has no rows.") from error
            what = "of this machine" if path.exists() else "of this machine or the hub"
            raise UserError(f"{place}, {what}, cannot be read as a data set ({reason}).") from error
    return dict(made) if isinstance(made, dict) else {"train": made}


def _refuse_streaming(name: str, rest: str) -> None:
    if "streaming" in [choice.partition("=")[0] for choice in rest.rpartition("?")[2].split("&")]:
        raise UserError(
            f"{name!r}: hf: does not stream, since every epoch reads all images in an order of its own: without the"
            " option the data set is downloaded once and read from disk, and shards:PATTERN reads tar files by place."
        )


def _refuse_kind(path: Path) -> None:
    # By the name of a file or folder, or of the first thousand below it, if none of these is read.
    there = [path, *itertools.islice(path.rglob("*"), 1000)] if path.exists() else []
    if any(each.suffix.lower() in IMAGES or each.suffix.lower() in _KINDS for each in there):
        return
    for each in there:
        for endings, (what, instead) in _NOT_READ.items():
            if each.name.lower().endswith(endings):
                raise UserError(f"{each} is {what}, which hf: does not read: {instead}.")


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    # datasets, without bars and warnings on standard error, where notes are printed.
    datasets = _datasets()
    logging = datasets.utils.logging
    level, bars = logging.get_verbosity(), datasets.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise UserError(
            f'hf: needs the package datasets, and there is no module {error.name}: pip install "infomax[hf]".'
        ) from error


def _columns(source: str, place: str, part: Any, choice: dict[str, str]) -> tuple[str, str | None, list[str] | None]:
    # The columns of images and labels, and the classes where the latter names them.
    features, kinds = part.features, _datasets()
    images = [name for name, kind in features.items() if isinstance(kind, kinds.Image)]
    texts = [name for name, kind in features.items() if isinstance(kind, kinds.Value) and "string" in kind.dtype]
    if not images:  # a table of paths, as of a csv file
        images = [name for name in texts if name.lower() in _PATHS]
    image = image_column(source, place, images, list(features), choice.get("image"))
    if image not in images and image not in texts:
        raise UserError(f"The column {image} of {place} holds {features[image]}: neither images nor paths.")
    worded = [name for name, kind in features.items() if isinstance(kind, kinds.ClassLabel)]
    possible = {name: name in worded or _may_label(kind) for name, kind in features.items() if name != image}
    label = label_column(source, place, worded, possible, choice.get("label"))
    return image, label, list(features[label].names) if label in worded else None


def _may_label(kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return type(kind).__name__ == "Value" and (dtype == "bool" or any(word in dtype for word in ("int", "string")))


def _words(part: Any, label: str | None, classes: list[str] | None) -> list[str | None]:
    # Each row's label as text; None for a missing one, which ClassLabel writes as -1.
    if label not in part.column_names:
        return [None] * len(part)
    values = part.with_format(None).select_columns([label])[label]
    if classes is None:
        return [None if value is None or value == "" else str(value) for value in values]
    return [None if value is None or value < 0 else classes[value] for value in values]


def _target(place: str, parts: dict[str, Any], column: str) -> Target:
    # Of the rows of all parts that are read, in their order.
    values: list[Any] = []
    kind = next(iter(parts.values())).features.get(column)
    for part, rows in parts.items():
        if column not in rows.column_names:
            raise UserError(
                f"The part {part} of {place} has no column {column!r} to be a target."
                f"{nearest(column, rows.column_names)}"
            )
        if rows.features[column] != kind:
            raise UserError(
                f"The column {column} of {place} holds {kind} in {next(iter(parts))} and {rows.features[column]} in "
                f"{part}: a target is of one kind."
            )
        values += rows.with_format(None).select_columns([column])[column]
    inner, dtype = getattr(kind, "feature", None), str(getattr(kind, "dtype", ""))
    name = column.removeprefix(_TARGET)
    if (
        inner is not None
        and not isinstance(inner, dict)
        and (hasattr(inner, "names") or "string" in str(getattr(inner, "dtype", "")))
    ):
        words = getattr(inner, "names", None)
        kept = [[w for w in row or [] if w is not None and w != -1] for row in values]  # -1: a class that is not known
        sets = [{words[w] if words else str(w) for w in row} for row in kept]
        known = tuple(words or sorted(set[str]().union(*sets)))
        return Target(name, torch.tensor([[word in row for word in known] for row in sets], dtype=torch.bool), known)
    if type(kind).__name__ != "Value" or not any(word in dtype for word in ("int", "float", "bool", "decimal")):
        raise UserError(
            f"The column {column} of {place} holds {kind}: a target is a number, or a list of words, of each image."
        )
    numbers = torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float64)
    bad = (~numbers.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"{len(bad)} of {len(numbers)} images of {place} have no number in the target {column}, the first of them "
            f"in row {bad[0] + 1} of {', '.join(parts)}: give every image one, or do not name the column."
        )
    return Target(name, numbers)


def _with_labels(read: dict[str, bool], labelled: dict[str, list[str | None]], notes: list[str]) -> dict[str, bool]:
    # Many a published test part has no labels, or a -1 for each: another held-out part that has them takes its place.
    def bare(part: str) -> bool:
        return bool(labelled[part]) and all(word is None for word in labelled[part])

    test = next((part for part, held in read.items() if held), None)
    train = next(part for part, held in read.items() if not held)
    if test is None or test not in labelled or bare(train) or not bare(test):
        return read
    others = [part for part in labelled if part.lower() in HELD and not bare(part)]
    if not others:
        notes.append(f"The part {test} has no labels, so a fixed fifth of {train} is held out instead.")
        return {train: False}
    notes[:] = [note for note in notes if not note.startswith(f"{test} is the test part")]
    notes.append(f"{others[0]} is the test part, as {test} has no labels.")
    return {train: False, others[0]: True}


def _files(place: str, part: str, rows: Any, image: str) -> list[File]:
    kind = _datasets().Image
    if not isinstance(rows.features[image], kind):
        return _named(place, part, rows.with_format(None).select_columns([image])[image], image)
    rows = rows.select_columns([image]).cast_column(image, kind(decode=False)).with_format("arrow")
    compute = importlib.import_module("pyarrow.compute")
    files: list[File] = []
    for start in range(0, len(rows), 1000):
        column = rows[start : start + 1000].column(image).combine_chunks()
        sizes = compute.binary_length(column.field("bytes")).to_pylist()
        for row, (size, path) in enumerate(zip(sizes, column.field("path").to_pylist(), strict=True), start):
            if size is not None:
                ending = Path(path).name if path else "image"
                files.append(Packed(f"{part}/{row}/{ending}", size, partial(_bytes, rows, image, row)))
            elif path is not None:
                files.append(Path(path))
            else:
                raise UserError(f"Row {row} of the part {part} of {place} has no image in column {image}: drop it.")
    absent = [file for file in files if isinstance(file, Path) and not file.is_file()]
    if absent:
        raise UserError(f"{len(absent)} of {len(files)} images of {place} are not there, for instance {absent[0]}.")
    return files


def _bytes(rows: Any, image: str, row: int) -> bytes:
    return rows[row : row + 1].column(image)[0]["bytes"].as_py()


def _named(place: str, part: str, paths: list[str | None], image: str) -> list[File]:
    # Paths are of the table's own folder, unless they are absolute.
    root = Path(place).expanduser()
    root = root if root.is_dir() else root.parent
    files: list[File] = [root / (path or "") for path in paths]
    missing = [row for row, file in enumerate(files) if not paths[row] or not Path(str(file)).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images that column {image} of {place} names are not there, for instance "
            f"{files[missing[0]]} in row {missing[0] + 1} of {part}: paths start from the table's folder."
        )
    return files
