"""Which files of a folder are images, of which class, and which of them are the test part."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from infomax.data.links import Walk, holds
from infomax.data.packed import File
from infomax.data.splits import HELD, TRAIN, named, split_of
from infomax.data.targets import Target
from infomax.errors import UserError

TEST_PART = 5  # one in so many images of each class is a test image where no split is given
# With one of these endings a file is an image, and one that cannot be read is an error. Others are looked into.
IMAGES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
     ".jp2", ".j2k", ".avif", ".npy")
)  # fmt: skip
# TIFFs whose first page is a thumbnail.
_RAW = frozenset((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".raf", ".srw"))
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"8BPS", b"qoif"),
    *(b"\0\0\1\0", b"DDS ", b"\1\xda", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \n\t\r"),
)
_ZARR = ("zarr.json", ".zgroup", ".zarray")  # what a store's folder holds, by the formats 3 and 2
_Item = TypeVar("_Item")
_JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # what systems leave beside images, as names with a dot are


class Found(NamedTuple):
    """Images by class, then name; labels int64 [n] or None; which are held out, bool [n]; what is to be told."""

    files: Sequence[File]
    labels: Tensor | None
    classes: list[str]
    held: np.ndarray
    given: bool  # whether the split is the user's own
    notes: list[str]
    shards: Tensor | None = None  # int64 [n]: the file, read from its start, that each lies in
    targets: tuple[Target, ...] = ()


class _Images:
    """Lists a folder's images, and counts what it leaves out."""

    def __init__(self) -> None:
        self.left: Counter[str] = Counter()
        self.walk = Walk(_JUNK)

    def under(self, folder: Path) -> list[Path]:
        """The images in a folder, however deep, in the order of their paths; each folder is read once (links.py)."""
        return sorted(
            place / file for place, names in self.walk.below(folder) for file in names if self._is_image(place, file)
        )

    def any_under(self, folder: Path, root: Path) -> bool:
        """Whether there is an image in a folder of the root, however deep."""
        self.walk.read(root)
        return any(self._is_image(place, file) for place, names in self.walk.below(folder) for file in names)

    def directly(self, folder: Path) -> list[Path]:
        """The images in a folder itself."""
        return sorted(folder / e.name for e in os.scandir(folder) if e.is_file() and self._is_image(folder, e.name))

    def _is_image(self, place: Path, name: str) -> bool:
        ending = os.path.splitext(name)[1].lower()
        if name.startswith(".") or name.lower() in _JUNK:
            return False
        if ending in IMAGES:
            return True
        why = "no image" if ending not in _RAW else "a camera's raw file"
        if ending not in _RAW:
            kind = _looked_into(place / name)
            if kind == "image":
                return True
            why = kind
        self.left[f"{ending or 'without an ending'}: {why}"] += 1
        return False

    def of_one_kind(self, listing: dict[str, list[Path]]) -> dict[str, list[Path]]:
        """Without .npy files where there are others: beside pictures an array is something else, as features are."""
        arrays = sum(file.suffix.lower() == ".npy" for files in listing.values() for file in files)
        if not arrays or arrays == sum(map(len, listing.values())):
            return listing
        self.left[".npy: arrays beside pictures"] += arrays
        kept = {name: [f for f in files if f.suffix.lower() != ".npy"] for name, files in listing.items()}
        return {name: files for name, files in kept.items() if files}

    def note(self) -> list[str]:
        notes, total, links = [], sum(self.left.values()), self.walk.skipped
        if total:
            kinds = ", ".join(f"{count} {what}" for what, count in self.left.most_common())
            notes.append(f"{total} {'file is' if total == 1 else 'files are'} left out: {kinds}.")
        if links:
            notes.append(
                f"{len(links)} {'link' if len(links) == 1 else 'links'} to folders that are read already, or that hold "
                f"the images' folder, are not followed, the first is {links[0]}."
            )
        return notes


def _looked_into(path: Path) -> str:
    # "image", or why not. The first bytes say; where they are few, Pillow does.
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"unreadable ({error.strerror})"
    if start[:6] == b"\x93NUMPY":
        return "a NumPy array, which as an image ends in .npy"
    boxed = start[4:8] == b"ftyp"
    if boxed and start[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "HEIF, to be converted to PNG or JPEG"
    if not (start.startswith(_STARTS) or (boxed and start[8:11] == b"avi") or start[8:12] == b"WEBP"):
        return "no image"
    from PIL import Image

    try:
        with Image.open(path):
            return "image"
    except Exception:
        return "no image that can be read"


def found_in(path: Path) -> Found:
    """The images of a folder, with classes and split. Raises UserError for a folder without any, or half a split."""
    if not path.is_dir():
        there = f"{path} is a file" if path.is_file() else f"There is no folder {path}"
        raise UserError(f"{there}: folder:PATH names a folder of images, or of a folder of images per class.")
    if any((path / name).is_file() for name in _ZARR):
        raise UserError(
            f"{path} is a zarr store, and no folder of image files: zarr:PATH reads an array of images [n, h, w] or "
            "[n, h, w, c]; or write each image as .npy or TIFF into a folder."
        )
    images, notes = _Images(), []
    path = _through(path, notes)
    train, held = split_of(path, _folders(path), notes, lambda folder: _Images().any_under(folder, path))
    beside = _Images().directly(path) if train else []  # beside the parts
    train, held = _halves(train, held, notes)
    if train is None or held is None:
        above, path = path, train or path
        images.walk.read(path)
        listing, loose = _classes(path, images)
        files, labels = _flat(listing)
        held_out = fifth(_relative(files, path), labels)
        if not held_out.any():
            has = "one image" if labels is None else "one image in each class"
            raise UserError(f"{path} has {has}, so none is left for a test set: add images.")
        notes += _beside(above, beside, files) + _loose(path, loose) + images.note() + _deeper(path, listing)
        classes = [] if labels is None else list(listing)
        return Found(files, labels, classes, held_out, False, notes)
    images.walk.read(train, held)
    parts = [_classes(part, images) for part in (train, held)]
    if any("" in listing for listing, _ in parts):  # one has no classes, so neither has
        if not all("" in listing for listing, _ in parts):
            notes.append(f"One of {train} and {held} has no folders of classes: neither part has labels.")
        both = [sorted(file for files in listing.values() for file in files) for listing, _ in parts]
        files, labels, classes = [*both[0], *both[1]], None, []
        sizes = [len(part) for part in both]
    else:
        classes = list(parts[0][0])
        unknown = [name for name in parts[1][0] if name not in parts[0][0]]
        if unknown:
            raise UserError(f"{held} has classes that {train} lacks: {', '.join(unknown)}.")
        pairs = [[(f, k) for k, name in enumerate(classes) for f in listing.get(name, ())] for listing, _ in parts]
        files = [file for part in pairs for file, _ in part]
        labels = torch.tensor([label for part in pairs for _, label in part], dtype=torch.int64)
        sizes = [len(part) for part in pairs]
        notes += _deeper(train, parts[0][0])
    notes += _beside(path, beside, files)
    for part, (_, loose) in zip((train, held), parts, strict=True):
        notes += _loose(part, loose)
    return Found(files, labels, classes, np.repeat([False, True], sizes), True, notes + images.note())


def fifth(names: Sequence[str], labels: Tensor | None) -> np.ndarray:
    """Which images are the test part, bool [n]: a fifth of each class, at least one of two or more.

    By a hash of the file's name, so that neighbours (the frames of a film) spread over both parts.
    """
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(os.fsencode(names[i])).digest())
    of = [0] * len(names) if labels is None else labels.tolist()
    left = [max(count // TEST_PART, 1) if count > 1 else 0 for count in np.bincount(of).tolist()]
    held = np.zeros(len(names), bool)
    for i in order:
        if left[of[i]]:
            left[of[i]] -= 1
            held[i] = True
    return held


def places_by(values: Sequence[_Item]) -> dict[_Item, list[int]]:
    """The places of each value, in the order of their first."""
    found = defaultdict(list)
    for place, value in enumerate(values):
        found[value].append(place)
    return found


class Words(NamedTuple):
    """What copies_together() says of copies, or of whatever else belongs in one part."""

    alike: str = "images are copies of another, as {} is of {}"
    differ: str = "copies with different labels"
    both: str = "test images are also training images"
    together: str = "copies are in one part"


COPIES = Words()


def copies_together(
    held: np.ndarray, given: bool, prints: Sequence[Hashable], labels: Tensor | None, files: Sequence[object],
    words: Words = COPIES,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Copies of one picture in one part: those in both become training images, and as many pictures go back, whole, as
    keep the test part of their class no larger than it was. The lines that say so are beside them.

    held: bool [n], which are of the test part. given: that is the user's own, and stays. prints: equal of copies.
    labels: int64 [n], or None. files: their names, and words, for the lines.
    """
    copies = [places for places in places_by(prints).values() if len(places) > 1]
    if not copies:
        return held, []
    more = sum(map(len, copies)) - len(copies)
    note = f"{more} of {len(files)} {words.alike.format(files[copies[0][1]], files[copies[0][0]])}"
    of = np.zeros(len(files), np.int64) if labels is None else labels.numpy()
    if differ := [places for places in copies if (of[places] != of[places[0]]).any()]:
        one, other = differ[0][0], next(place for place in differ[0] if of[place] != of[differ[0][0]])
        note += f"; {words.differ}: {len(differ)}, as {files[one]} and {files[other]}"
    split = [places for places in copies if len(set(held[places])) > 1]
    if given:
        inside = int(sum(held[places].sum() for places in split))
        return held, [f"{note}; {inside} {words.both}, for the split is kept as it is."]
    changed, wanted = held.copy(), np.bincount(of[held], minlength=int(of.max()) + 1)
    for places in split:
        changed[places] = False
    counts = np.bincount(of[changed], minlength=len(wanted))
    for places in split:
        kind = of[places[0]]
        if counts[kind] + len(places) <= wanted[kind]:
            counts[kind] += len(places)
            changed[places] = True
    if not changed.any() or changed.all():
        return held, [f"{note}; kept in one part, they would leave the other empty, so they are in both."]
    return changed, [f"{note}; {words.together}, training or test."]


def found_in_rows(
    where: str,
    files: Sequence[File],
    names: Sequence[str],
    words: Sequence[str] | None,
    classes: list[str] | None,
    held: np.ndarray | None,
    notes: list[str],
    shards: Tensor | None = None,
) -> Found:
    """Images that rows name, with their labels and split.

    where: the rows' source, in messages. names: of the images, by which a fifth is drawn where held, bool [n], is None.
    words: each image's label, as text, or None. classes: the words in the order of their numbers; by default sorted.
    Raises UserError for one image in each class, and a test part with labels that the training part lacks.
    """
    labels, classes = (None, []) if words is None else numbered(words, classes)
    given = held is not None
    if held is None:
        held = fifth(names, labels)
        if not held.any():
            raise UserError(f"{where} has one image in each class, so none is left for a test set: add images.")
    elif labels is not None:
        unknown = sorted(set(labels[held].tolist()) - set(labels[~held].tolist()))
        if unknown:
            missing = ", ".join(classes[label] for label in unknown)
            raise UserError(f"The test rows of {where} have labels that its training rows lack: {missing}.")
    return Found(files, labels, classes, held, given, notes, shards)


def numbered(words: Sequence[str], classes: Sequence[str] | None = None) -> tuple[Tensor, list[str]]:
    """Labels, int64 [n], and the classes' names, sorted (numbers by size) or in the order of `classes`."""
    if classes is None:
        numbers = all(word.removeprefix("-").isdecimal() for word in words)
        classes = sorted(set(words), key=(lambda word: (int(word), word)) if numbers else None)
    index = {word: label for label, word in enumerate(classes)}
    return torch.tensor([index[word] for word in words], dtype=torch.int64), list(classes)


def _relative(files: list[Path], root: Path) -> list[str]:
    # file.relative_to(root).as_posix(), ten times as fast
    start = len(root.as_posix().rstrip("/")) + 1 if root != Path() else 0
    return [file.as_posix()[start:] for file in files]


def _folders(path: Path) -> list[Path]:
    return sorted(
        e for e in path.iterdir() if e.is_dir() and not e.name.startswith(".") and e.name.lower() not in _JUNK
    )


def _through(path: Path, notes: list[str]) -> Path:
    # PATH/images/cat, PATH/images/dog: the folder that holds the classes, or the splits, is the one meant.
    place = path
    while True:
        folders, loose = _folders(place), _Images().directly(place)
        if place != path and not loose and (len(folders) > 1 or any(f.name.lower() in TRAIN for f in folders)):
            notes.append(f"The images are those of {place}.")
            return place
        if loose or len(folders) != 1 or folders[0].name.lower() in (*TRAIN, *HELD):
            return path  # of one class, if any
        if holds(os.path.realpath(folders[0]), os.path.realpath(place)):
            return path  # a link back
        place = folders[0]


def _halves(train: Path | None, held: Path | None, notes: list[str]) -> tuple[Path | None, Path | None]:
    # train_set/train/cat, test_set/test/cat: through a folder too many, where the classes of both then go together.
    inner = [half and _half(half, words) for half, words in ((train, TRAIN), (held, HELD))]
    if inner != [train, held]:
        classes = [{folder.name for folder in _folders(half)} for half in inner if half]
        if classes[-1] <= classes[0]:
            notes += [f"The images are those of {one}." for one in inner if one not in (None, train, held)]
            train, held = inner
    return train, held


def _half(part: Path, words: Sequence[str]) -> Path:
    place, folders = part, _folders(part)
    while len(folders) == 1 and named(folders, words, exactly=False) and not _Images().directly(place):
        if holds(os.path.realpath(folders[0]), os.path.realpath(place)):
            break  # a link back
        place, folders = folders[0], _folders(folders[0])
    return _through(place, []) if len(folders) == 1 else place


def _classes(path: Path, images: _Images) -> tuple[dict[str, list[Path]], int]:
    # Class folder -> its image files, however deep, in the order of their names; and how many lie beside the folders.
    # Where no folder holds any, the images of the folder itself, under no name.
    listing, loose = {}, images.directly(path)
    for folder in _folders(path):
        files = images.under(folder)
        if files:
            listing[folder.name] = files
    if listing:
        return images.of_one_kind(listing), len(loose)
    if loose:
        return images.of_one_kind({"": loose}), 0
    raise UserError(
        f"{path} is empty: no folder in it holds an image ({', '.join(sorted(e[1:] for e in IMAGES))}); "
        "images lie in a folder per class, or, without classes, in the folder itself."
        + (f" {images.note()[0]}" if images.left else "")
    )


def _flat(listing: dict[str, list[Path]]) -> tuple[list[Path], Tensor | None]:
    if "" in listing:
        return listing[""], None
    pairs = [(file, label) for label, files in enumerate(listing.values()) for file in files]
    return [file for file, _ in pairs], torch.tensor([label for _, label in pairs], dtype=torch.int64)


def _beside(path: Path, beside: list[Path], read: Sequence[Path]) -> list[str]:
    # To be told of images beside the parts; arrays beside parts of pictures are something else, as labels are.
    arrays = read[0].suffix.lower() == ".npy"
    count = sum((file.suffix.lower() == ".npy") == arrays for file in beside)
    return [f"Images that lie in {path} beside the folders of its parts, {count}, are left out."] if count else []


def _loose(path: Path, count: int) -> list[str]:
    return [f"Images that lie in {path} beside the folders of classes, {count}, are left out."] if count else []


def _deeper(path: Path, listing: dict[str, list[Path]]) -> list[str]:
    # Classes are the first level of folders: to be told where one holds several further folders.
    for name, files in listing.items():
        inner = (file.split("/") for file in _relative(files, path))
        below = {parts[1] for parts in inner if len(parts) > 2}
        if name and len(below) > 1:
            return [
                f"Classes are the {len(listing)} folders directly in {path}; folders inside them, as {name}'s "
                f"{', '.join(sorted(below)[:3])}, are parts of a class."
            ]
    return []
