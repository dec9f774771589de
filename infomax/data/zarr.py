"""Zarr stores: `zarr:PATH`, an array [n, h, w] or [n, h, w, c] of images, with its labels, read as asked for."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomax.data import folder
from infomax.data.choice import chosen, image_column, label_column, said
from infomax.data.folder import dataset_of_files
from infomax.data.listing import found_in_rows
from infomax.data.packed import File, Recent, packed_array
from infomax.data.source import Dataset
from infomax.data.splits import HELD, TRAIN, parts_of
from infomax.errors import UserError, extra

_OPTIONS = ("image", "label")
_ONE = "array"  # what the images of a store without names are called
_recent = Recent(1 << 28)


def read_zarr(
    name: str, rest: str, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of `zarr:PATH?image=NAME&label=NAME`: see infomax.data.dataset.

    PATH: a store that is an array [n, h, w], [n, h, w, c] or [n, c, h, w] of images, a group with such an array and,
    as it may be, one of labels [n]; or a group of such groups, named train and test as folders are. Raises UserError
    for a store that is not there or of other arrays, arrays of which several could be meant, and a missing package.
    """
    place, choice = chosen(rest, _OPTIONS)
    source, notes = f"zarr:{place}", list[str]()
    parts = _parts(place)
    first = next(iter(parts.values()))
    pictures = [called for called, array in first.items() if array.ndim in (3, 4)]
    image = image_column(source, place, pictures, list(first), choice.get("image"))
    others = {called: array.ndim == 1 and array.dtype.kind not in "fcV" for called, array in first.items()}
    others.pop(image)
    label = label_column(source, place, [], others, choice.get("label"))
    files, places, words, held = list[File](), list[int](), list[str](), list[bool]()
    for part, test in parts_of(place, list(parts), notes).items():
        images = _array(place, part, parts[part], image)
        if images.ndim not in (3, 4) or images.dtype.kind not in "biuf":
            raise UserError(
                f"The array {image} of {place} is {images.dtype} {list(images.shape)}: images are numbers [n, h, w] or "
                "[n, h, w, c]."
            )
        start = places[-1] + 1 if places else 0
        chunks = _Chunks(images)
        files += [chunks.image(f"{part}/{image}/{row}", row) for row in range(images.shape[0])]
        places += [start + row // chunks.per for row in range(images.shape[0])]
        held += [test] * images.shape[0]
        if label is not None:
            labels = _array(place, part, parts[part], label)
            if labels.shape != images.shape[:1]:
                raise UserError(
                    f"{place} has {images.shape[0]} images in {image} of {part} and labels {list(labels.shape)} in "
                    f"{label}: one label an image is needed."
                )
            words += [str(word) for word in labels[:].tolist()]
    if not files:
        raise UserError(f"{place} is empty: {image} holds no images.")
    in_turn = _in_turn(files, places, notes)
    found = found_in_rows(
        place, files, [str(file) for file in files], words if label is not None else None, None,
        np.array(held) if any(held) else None, notes, torch.tensor(places) if in_turn else None,
    )  # fmt: skip
    notes.insert(0, said(image, label, len(found.classes), "array"))
    return dataset_of_files(name, found, limit, size, skip, alpha)


def _parts(place: str) -> dict[str, dict[str, Any]]:
    # Part -> name -> array; one part, of any name, where the store has none.
    if not place:
        raise UserError("zarr:PATH names a zarr store, and none is named.")
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"There is no zarr store {path}: zarr:PATH names its folder.")
    zarr = extra("zarr", 'zarr: needs the package zarr, which is missing: pip install "infomax[tables]".')
    try:
        store = zarr.open(str(path), mode="r")
        if isinstance(store, zarr.Array):
            return {"store": {_ONE: store}}
        groups = {part: group for part, group in store.groups() if part.lower() in (*TRAIN, *HELD)}
        found = {part: dict(group.arrays()) for part, group in (groups or {"store": store}).items()}
        inside = sorted(called for called, _ in store.groups())
    except Exception as error:  # zarr raises many kinds for what is no store
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"{path} cannot be read as a zarr store ({reason}).") from error
    for part, arrays in found.items():
        if not arrays:
            has = f"; its groups are {', '.join(inside)}: name one, zarr:{place}/{inside[0]}" if inside else ""
            raise UserError(f"{path} has no arrays{f' in {part}' if groups else ''}{has}.")
    return found


def _array(place: str, part: str, arrays: dict[str, Any], called: str) -> Any:
    if called not in arrays:
        raise UserError(f"The part {part} of {place} has no array {called}: it has {', '.join(arrays)}.")
    return arrays[called]


class _Chunks:
    """An array's images, which are decompressed a chunk at a time: `per` images each."""

    def __init__(self, images: Any) -> None:
        self.images, self.per = images, max(int(images.chunks[0]), 1)

    def image(self, place: str, row: int) -> File:
        size = int(np.prod(self.images.shape[1:])) * self.images.dtype.itemsize
        return packed_array(place, size, partial(self._read, row))

    def _read(self, row: int) -> np.ndarray:
        start = row - row % self.per
        values = _recent.get((self, start), lambda: np.asarray(self.images[start : start + self.per]))
        return values[row - start]


def _in_turn(files: list[File], places: list[int], notes: list[str]) -> bool:
    # Whether an epoch goes through the chunks in turn: where they hold several images and memory not all of them.
    several = places[-1] + 1 < len(files)
    if not several or sum(file.size for file in files if not isinstance(file, Path)) <= folder.MEMORY_BUDGET:
        return False
    notes.append(
        f"{len(files)} images in {places[-1] + 1} chunks do not fit in memory: an epoch goes through the chunks in an "
        "order of its own, and mixes 8192 images in a row."
    )
    return True
