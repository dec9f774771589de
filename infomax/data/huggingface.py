"""Hugging Face data sets: `hf:NAME_OR_PATH`, of the hub, a folder or file that `datasets` reads, or a saved one."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from infomax.data.choice import chosen, image_column, label_column, said
from infomax.data.folder import dataset_of_files
from infomax.data.huggingface_images import holds_images, image_columns, images_of
from infomax.data.huggingface_parts import hub_package, parts_at, streamed_rows
from infomax.data.listing import Found, found_in_rows
from infomax.data.packed import File
from infomax.data.source import Dataset
from infomax.data.splits import HELD, parts_of
from infomax.data.targets import Target
from infomax.errors import UserError, nearest

_OPTIONS = ("image", "label", "config", "target", "slices", "streaming", "rows")
_TARGET = "target:"  # before the name of a column that is a target, as in a table
_SLICES = ("images", "channels")


def read_huggingface(
    name: str, rest: str, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of `hf:NAME_OR_PATH?image=COLUMN&label=COLUMN&config=NAME&target=COLUMNS`: see infomax.data.dataset.

    target: columns with commas between, beside those named target:NAME: of numbers, or of lists of words. slices: of
    scans, "images" or "channels". streaming=yes&rows=N: the first N rows of each part are read, and held. Raises
    UserError for what datasets cannot read, columns that are not there or of which several could be meant, labels or
    targets that are missing, and a missing package.
    """
    place, choice = chosen(rest, _OPTIONS)
    source, notes = f"hf:{place}", list[str]()
    slices = _slices(source, choice.get("slices"))
    parts = parts_at(place, choice.get("config"), streamed_rows(source, choice), notes)
    first = next(iter(parts.values()))
    image, label, classes = _columns(source, place, first, choice)
    read = parts_of(place, list(parts), notes)
    words: list[str | None] = []
    images: list[list[File]] = []  # of each row
    held: list[bool] = []
    labelled = {part: _words(parts[part], label, classes) for part in parts if label is not None}
    read = _with_labels(read, labelled, notes)
    for part, test in read.items():
        if image not in parts[part].column_names:
            raise UserError(f"The part {part} of {place} has no column {image}: it is one of {next(iter(parts))}.")
        images += images_of(place, part, parts[part], image, slices == "channels")
        words += labelled.get(part, [None] * len(parts[part]))
        held += [test] * len(parts[part])
    if not images:
        raise UserError(f"{place} is empty: it has no rows.")
    files = [row[0] for row in images]
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
    scans = isinstance(first.features[image], hub_package().Nifti)
    if scans:
        found = _of_slices(source, found, images, slices)
    elif slices is not None:
        raise UserError(f"slices= is of scans, and the column {image} of {place} holds {first.features[image]}.")
    made = dataset_of_files(name, found, limit, size, skip, alpha)
    return replace(made, colour=False) if scans else made  # three slices, or times, are not red, green and blue


def _slices(source: str, asked: str | None) -> str | None:
    if asked is not None and asked not in _SLICES:
        raise UserError(f"{source}: slices is {' or '.join(_SLICES)}, not {asked!r}.{nearest(asked, _SLICES)}")
    return asked


def _of_slices(source: str, found: Found, images: list[list[File]], slices: str | None) -> Found:
    # From scans to their slices, each of its scan's part, label and targets.
    if slices == "channels":
        found.notes.append("Each scan is one image, whose channels are its slices along the third axis (up).")
        return found
    row = np.repeat(np.arange(len(images)), [len(files) for files in images])
    index = torch.from_numpy(row)
    found.notes.append(
        f"The slices of {len(images)} scans along their third axis (up) are {len(row)} images; those of a"
        f" scan are in one part and have its label. {source}?slices=channels makes one image of each scan."
    )
    return found._replace(
        files=[file for files in images for file in files],
        labels=None if found.labels is None else found.labels[index],
        held=found.held[row],
        targets=tuple(target.of(index) for target in found.targets),
        given=True,  # copies, as slices without anything, stay with their scan
    )


def _columns(source: str, place: str, part: Any, choice: dict[str, str]) -> tuple[str, str | None, list[str] | None]:
    # The columns of images and labels, and the classes where the latter names them.
    features, kinds = part.features, hub_package()
    image = image_column(source, place, image_columns(features), list(features), choice.get("image"))
    if not holds_images(features[image]):
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
