"""Data sets of image files: FileSplit decodes them as they are asked for; a folder is a data set."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.channels import channels_of, require_one_kind
from infomax.data.listing import Found, copies_together, found_in, places_by
from infomax.data.memory import MemorySplit
from infomax.data.packed import File, size_of
from infomax.data.pixels import (
    Header,
    as_channels,
    decode,
    header,
    own_depth,
    unreadable,
)
from infomax.data.readable import in_threads, readable
from infomax.data.scale import Sampled, Scale, learned, sampled
from infomax.data.source import Dataset, Split, checksum_of, finished, limited, varies
from infomax.errors import UserError

MEMORY_BUDGET = 2 * 1024**3  # bytes of decoded images held in memory; a larger folder is decoded as it is needed
_MAX_SIDE = 224  # of the common size that a folder's images are brought to, unless another is asked for
_LONG = 2  # times as long as wide, and a square would lose more than half of a picture
_HEADERS = 50_000  # files whose headers are read to learn size and colour; of more, an even sample
_EVERY = 61  # of an image's numbers, one in so many is compared first
_END = 4096  # bytes at the end of a file, where two pictures of one camera differ
_SCALED = 4096  # training images that the scale of deep pixels is learned on; of more, an even sample


@final
class FileSplit(Split):
    """Images decoded from their files each time they are asked for, a few at once in threads.

    whole: they are scaled to fit inside the shape, with black around them, rather than cut to it. scale: brings pixels
    of more than 8 bits to bytes.
    """

    in_memory = False
    shape: tuple[int, int, int]

    def __init__(
        self,
        files: Sequence[File],
        labels: Tensor | None,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        whole: bool = False,
        scale: Scale | None = None,
    ) -> None:
        self.files, self.labels, self.classes, self.shape = list(files), labels, list(classes), shape
        self.whole, self.scale = whole, scale

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        files = [self.files[i] for i in torch.as_tensor(indices, dtype=torch.int64).tolist()]
        images = torch.empty(len(files), *self.shape, dtype=torch.uint8)

        def read(place: int) -> None:
            images[place] = decode(files[place], self.shape, self.whole, self.scale)

        in_threads(read, range(len(files)))
        return images

    def subset(self, indices: Tensor | Sequence[int]) -> "FileSplit":
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        files = [self.files[i] for i in index.tolist()]
        return self._handed(FileSplit(files, labels, self.classes, self.shape, self.whole, self.scale), index)

    def checksum(self) -> str:
        """Of the files' names, from the folder that holds all of them, and sizes: reading them would take too long."""
        root = os.path.commonpath([file.parent for file in self.files]) if self.files else ""
        how = [repr(self.scale).encode()] if self.scale is not None else []
        try:
            lines = (b"%s\0%d\0" % (os.fsencode(str(file))[len(os.fsencode(root)) :], size_of(file))
                     for file in self.files)  # fmt: skip
            return checksum_of(self, *how, *lines)
        except OSError as error:
            raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def loaded(self) -> MemorySplit:
        """The same images, all decoded."""
        return self._handed(MemorySplit(self.batch(range(len(self))), self.labels, self.classes))


def read_folder(
    name: str, path: str, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of `folder:PATH`: see infomax.data.dataset."""
    if not path:
        raise UserError("folder:PATH names a folder of images, and none is named.")
    return dataset_of_files(name, found_in(Path(path).expanduser()), limit, size, skip, alpha)


def dataset_of_files(
    name: str, found: Found, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of images in files: one shape and one number of channels for all, deep pixels brought to bytes,
    copies of a picture in one part. limit, size, skip (unreadable): infomax.data.dataset's. alpha: "white", "channel",
    or by its values. Raises UserError for an unreadable image unless it is to be left out, and where then too few are
    left."""
    found, left_out = readable(name, found) if skip else (found, ())
    looked = look(found, size, alpha)
    held, told = copies_together(looked.held, found.given, looked.prints, looked.labels, looked.files)
    return made_of(name, looked, held, limit, told, left_out)


class Looked(NamedTuple):
    """Image files as look() found them: training images, then test images by `held`; what else they are is looked at
    once, before copies are moved from one part to the other.

    prints: what of two files is equal where they are copies. images: all of them, uint8 [n, c, h, w], where they fit in
    memory and are bytes. samples: some pixels of the deep ones.
    """

    files: list[File]
    labels: Tensor | None
    held: np.ndarray
    everything: FileSplit
    form: "_Form"
    images: Tensor | None
    prints: list[str]
    samples: dict[File, Sampled]
    notes: list[str]


def look(found: Found, size: int | None, alpha: str | None) -> Looked:
    """Looks at the files: the shape that all come out in, their copies, and those that are held in memory. size, alpha:
    as dataset_of_files() takes them. Raises UserError for an unreadable image."""
    form = _form(found.files, size, alpha)
    notes = [*found.notes, *form.notes]
    # Training images, then test images: as copies are rare, each part is then one piece of memory.
    order = np.argsort(found.held, kind="stable")
    files = [found.files[i] for i in order]
    labels = None if found.labels is None else found.labels[torch.from_numpy(order)]
    held, everything = found.held[order], FileSplit(files, labels, found.classes, form.shape, form.whole)
    everything.shards = None if found.shards is None else found.shards[torch.from_numpy(order)]
    everything.targets = tuple(target.of(torch.from_numpy(order)) for target in found.targets)
    in_reach = len(files) * int(np.prod(form.shape)) <= MEMORY_BUDGET
    images, samples = None, {}
    if not in_reach:
        prints = _prints_of_bytes(files)
        if len(files) > _HEADERS:
            notes.append(
                f"Copies of an image were not looked for, among more than {_HEADERS:,} images that are not held in"
                " memory: where there are some, they may be in both parts, training and test."
            )
    elif form.deep:
        prints, samples = _prints_in_own_depth(files, form.shape[0])
    else:
        images, prints = _decoded(everything)
    return Looked(files, labels, held, everything, form, images, prints, samples, notes)


def made_of(
    name: str, looked: Looked, held: np.ndarray, limit: int | None, told: Sequence[str], left_out: tuple[str, ...]
) -> Dataset:
    """The data set of files that were looked at. held: which of them are the test part. told: lines on copies.
    left_out: the unreadable ones beside them. Raises UserError where all training images are alike."""
    files, form, everything, images = looked.files, looked.form, looked.everything, looked.images
    notes = [*looked.notes, *told]
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    if form.deep:
        everything.scale, note = _scale([files[i] for i in train], [files[i] for i in test], looked.samples, form)
        notes.append(note)
    splits: list[Split] = []
    for index, most in ((train, limit), (test, None)):
        part: Split = everything.subset(index.tolist()) if images is None else _rows(images, everything, index, limit)
        splits.append(limited(part, most))
    if sum(map(len, splits)) * int(np.prod(form.shape)) <= MEMORY_BUDGET:
        splits = [split.loaded() if isinstance(split, FileSplit) else split for split in splits]
    splits[0].left_out = len(left_out)
    made = finished(name, splits[0], splits[1], "natural", True, tuple(notes), left_out, form.colour)
    if not varies(made):
        raise UserError(
            f"The pixels of all training images of {name!r} come out alike: see whether these are the right files."
        )
    return made


def _rows(images: Tensor, everything: FileSplit, index: np.ndarray, limit: int | None) -> MemorySplit:
    # A piece of memory as it is, unless most of what is in it is about to be left out.
    rows = torch.from_numpy(index)
    one_piece = limit is None and len(index) > 0 and np.ptp(index) + 1 == len(index)
    piece = slice(int(index[0]), int(index[-1]) + 1) if one_piece else rows
    labels = None if everything.labels is None else everything.labels[rows]
    return everything._handed(MemorySplit(images[piece], labels, everything.classes), rows)


class _Form:
    """What all images of a data set are brought to: shape, whether whole; whether their channels are a colour, and some
    pixels deeper than bytes."""

    def __init__(
        self, shape: tuple[int, int, int], whole: bool, colour: bool, depths: set[str], notes: list[str]
    ) -> None:
        self.shape, self.whole, self.colour, self.notes = shape, whole, colour, notes
        self.deep, self.beside_bytes = bool(depths - {""}), "" in depths


def _form(files: Sequence[File], size: int | None, alpha: str | None) -> _Form:
    looked = files[:: max(1, -(-len(files) // _HEADERS))]
    headers = in_threads(header, looked)
    counts = Counter(h.note for h in headers if h.note)
    notes = [f"{count} of {len(looked)} images: {note}." for note, count in counts.items()]
    require_one_kind(looked, headers)
    channels, colour = channels_of(looked, headers, alpha, notes)
    (height, width), whole = _size(headers, size)
    shown = {(h.width, h.height) for h in headers}
    if len(shown) > 1 and not whole:
        (w, h), (wide, high) = min(shown, key=_area), max(shown, key=_area)
        notes.append(
            f"Images differ in size, from {w} x {h} to {wide} x {high} pixels: all are scaled and cut to {width} x "
            f"{height}; ?size=N after the name (size=N) takes another side."
        )
    if whole:
        notes.append(f"These long images are kept whole: scaled to fit {width} x {height} pixels, black around them.")
    return _Form((channels, height, width), whole, colour, {h.depth for h in headers}, notes)


def _area(size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return size[0] * size[1], size


def _size(headers: list[Header], size: int | None) -> tuple[tuple[int, int], bool]:
    # (height, width), and whether images are kept whole. The files' own size when they share one that is not too large;
    # a square that they are cut to; long ones keep their shape.
    middle = len(headers) // 2
    height, width = (sorted(sides)[middle] for sides in ([h.height for h in headers], [h.width for h in headers]))
    long = sorted(max(h.height, h.width) / max(min(h.height, h.width), 1) for h in headers)[middle] > _LONG
    same = len({(h.height, h.width) for h in headers}) == 1
    if size is None and same and (max(height, width) <= _MAX_SIDE or (long and height * width <= _MAX_SIDE**2)):
        return (height, width), False
    if long:
        by = (_MAX_SIDE**2 / (height * width)) ** 0.5 if size is None else size / min(height, width)
        by = min(by, 1.0) if size is None else by
        return (max(round(height * by), 1), max(round(width * by), 1)), True
    if size is None:
        size = min(_MAX_SIDE, sorted(min(h.height, h.width) for h in headers)[middle])
    return (size, size), False


def _scale(train: list[File], test: list[File], samples: dict[File, Sampled], form: _Form) -> tuple[Scale, str]:
    # Learned on training images; only where none of them is deep, on those test images that are.
    for files in (train, test):
        if samples:
            chosen = [samples[file] for file in files if file in samples]
        else:
            some = _sampled_all(files[:: max(1, -(-len(files) // _SCALED))], form.shape[0])
            chosen = [sample for _, sample in some if sample is not None]
        if chosen:
            return learned(chosen, form.beside_bytes)
    return Scale((0.0,) * form.shape[0], (255.0,) * form.shape[0]), "Too few images have more than 8 bits to be scaled."


def _sampled_all(files: list[File], channels: int) -> list[tuple[str, Sampled | None]]:
    # Of each file a hash of its pixels and, where they are deeper than bytes, some of them.
    def look(file: File) -> tuple[str, Sampled | None]:
        pixels = own_depth(file, channels)
        if pixels is None:
            return "", None
        try:
            taken = sampled(as_channels(pixels, channels), len(files))
        except ValueError as error:
            raise unreadable(file, error) from error
        mark = hashlib.blake2b(repr((pixels.shape, pixels.dtype)).encode(), digest_size=16)
        mark.update(np.ascontiguousarray(pixels).data)
        return mark.hexdigest(), taken if pixels.dtype != np.uint8 else None

    return in_threads(look, files)


def _prints_in_own_depth(files: list[File], channels: int) -> tuple[list[str], dict[File, Sampled]]:
    looked = _sampled_all(files, channels)
    shallow = [file for file, (mark, _) in zip(files, looked, strict=True) if not mark]
    others = iter(_prints_of_bytes(shallow))
    prints = [mark or next(others) for mark, _ in looked]
    return prints, {file: sample for file, (_, sample) in zip(files, looked, strict=True) if sample is not None}


def _decoded(split: FileSplit) -> tuple[Tensor, list[str]]:
    # All images uint8 [n, c, h, w], and a hash of each: of some pixels, and of all where some agree.
    images = torch.empty(len(split), *split.shape, dtype=torch.uint8)
    flat = images.flatten(1).numpy()

    def read(place: int) -> str:
        images[place] = decode(split.files[place], split.shape, split.whole)
        return _hash(flat[place, ::_EVERY])

    marks = in_threads(read, range(len(split)))
    for places in places_by(marks).values():
        if len(places) > 1:
            for place in places:
                marks[place] = _hash(flat[place])
    return images, marks


def _hash(values: np.ndarray) -> str:
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()


def _prints_of_bytes(files: list[File]) -> list[str]:
    # Of files that are not decoded: those of one size whose last bytes agree are compared whole. Of very many, whose
    # reading would take longer than anything else, none are.
    if len(files) > _HEADERS:
        return [str(place) for place in range(len(files))]

    def size(file: File) -> tuple[int, str]:
        try:
            return size_of(file), ""
        except OSError as error:
            raise unreadable(file, error) from error

    def end(place: int) -> tuple[int, str]:
        with files[place].open("rb") as file:
            file.seek(max(0, marks[place][0] - _END))
            return marks[place][0], hashlib.blake2b(file.read(), digest_size=16).hexdigest()

    def all_of_it(place: int) -> tuple[int, str]:
        with files[place].open("rb") as file:
            return marks[place][0], hashlib.file_digest(file, "blake2b").hexdigest()

    marks = [size(file) for file in files]
    for look in (end, all_of_it):
        alike = [place for places in places_by(marks).values() if len(places) > 1 for place in places]
        for place, mark in zip(alike, in_threads(look, alike), strict=True):
            marks[place] = mark
    return [f"{size} {mark}" for size, mark in marks]
