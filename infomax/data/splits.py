"""The training and test part of a data set, by the names of its folders, files, groups or rows."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from infomax.errors import UserError

TRAIN = ("train", "training", "trn")
HELD = (  # the first of them that there is, is the test part
    *("test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout", "heldout"),
)
# What a folder's name may hold beside the word, as in train_set, images_val and TestData.
_BESIDE = ("dataset", "datasets", "data", "sets", "set", "split", "part", "images", "image", "imgs", "img", "pictures",
           "photos", "files", "samples")  # fmt: skip


def parts_of(where: str, parts: Sequence[str], notes: list[str]) -> dict[str, bool]:
    """Which of the parts are read, by name: whether it is the test part. One part, of any name, is split by a fifth.

    where: of what, in messages. parts: their names, in any case. Raises UserError where none is for training.
    """
    train = [part for part in parts if part.lower() in TRAIN]
    held = sorted((part for part in parts if part.lower() in HELD), key=lambda part: HELD.index(part.lower()))
    if len(train) > 1 or (len(parts) > 1 and not train):
        has = f"several training parts, {' and '.join(train)}" if train else f"{', '.join(parts)} but no part train"
        raise UserError(f"{where} has {has}: rename one of them train.")
    if not train:
        train = list(parts)
        held = []
    if not held:
        notes.append(_no_test_part(train[0]))
    read = dict.fromkeys(train, False) | dict.fromkeys(held[:1], True)
    unread = [part for part in parts if part not in read]
    if held and unread:
        notes.append(f"{held[0]} is the test part; not read: {', '.join(unread)}.")
    elif unread:
        notes.append(f"Not read: {', '.join(unread)}.")
    return read


def split_of(
    path: Path, folders: Sequence[Path], notes: list[str], has_images: Callable[[Path], bool]
) -> tuple[Path | None, Path | None]:
    """The training and the test part among a folder's folders: (None, None) without a split, (train, None) of train
    alone, of which a fifth is to be held out.

    path: the folder, in messages. notes: gets a line on what is not read. has_images: asked of folders beside a
    training part alone. Raises UserError: several training parts, no training part, several folders of images
    of which none is the test part, folders that are a split under other names.
    """
    train, held = (named(folders, words, exactly=True) for words in (TRAIN, HELD))
    if not (train and held):
        wider = [named(folders, words, exactly=False) for words in (TRAIN, HELD)]
        if all(wider):
            train, held = wider
            notes.append(f"By their names {train[0].name} is the training and {held[0].name} the test part.")
    if len(train) > 1:
        raise UserError(
            f"{path} has several training parts, {' and '.join(f.name for f in train)}: rename all but one."
        )
    others = [f.name for f in folders if f not in (*train[:1], *held[:1])]
    if train and held:
        if others:
            notes.append(f"{held[0]} is the test part; not read: {', '.join(others)}.")
        return train[0], held[0]
    if train and (others := [f.name for f in folders if f.name in others and has_images(f)]):
        raise UserError(
            f"{path} has a folder {train[0].name}, and beside it {_listed(others)}, which is neither test nor val by"
            f" name: rename the test part test. Without one, take them away, and a fifth of {train[0].name} is held"
            f" out; where {train[0].name} is a class, give it another name."
        )
    if train:
        notes.append(_no_test_part(train[0].name))
        return train[0], None
    if held and len(held) == len(folders):
        raise UserError(
            f"{path} has {' and '.join(f.name for f in held)} but no folder train: add one, or name one of them."
        )
    _require_classes(path, folders)
    return None, None


def _no_test_part(train: str) -> str:
    return f"There is no test part, so a fixed fifth of {train} is held out."


def named(folders: Sequence[Path], words: Sequence[str], *, exactly: bool) -> list[Path]:
    """The folders of one of these names, in the order of the names; not exactly: also train_set, val2017."""
    order: dict[Path, int] = {}
    for folder in folders:
        found, rest = ([folder.name.lower()], []) if exactly else _words(folder.name)
        if len(found) == 1 and not rest and found[0] in words:
            order[folder] = words.index(found[0])
    return sorted(order, key=lambda folder: order[folder])


def _words(name: str) -> tuple[list[str], list[str]]:
    # Of a name the words that say which part it is, and what is left; without numbers and words as images and set.
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().replace("trainval", "train val")
    name = re.sub(r"\b(hold|held)[\W_]*out(?![^\W\d_])", "holdout", name.replace("_", " "))
    found, rest = [], []
    for word in re.findall(r"[^\W\d_]+", name):
        bare = [word, *(word.removesuffix(end) for end in _BESIDE), *(word.removeprefix(start) for start in _BESIDE)]
        part = next((each for each in bare if each in (*TRAIN, *HELD)), None)
        if part is not None:
            found.append(part)
        elif word not in _BESIDE:
            rest.append(word)
    return found, rest


def _require_classes(path: Path, folders: Sequence[Path]) -> None:
    # Raises UserError where folders, which would be classes, are a split: cats_train and cats_test, or others that name
    # parts and hold the same folders; unless another word differs, and a class beside them names no part: freight_train
    # and crash_test beside car.
    words = {folder: _words(folder.name) for folder in folders}
    train, held = (
        [(folder, *of) for folder, of in words.items() if any(word in known for word in of[0])]
        for known in (TRAIN, HELD)
    )
    all_name_parts = all(found for found, _ in words.values())
    for one, first, rest in train:
        for other, second, left in held:
            if one == other:
                continue
            a, b = ({f.name for f in each.iterdir() if f.is_dir()} for each in (one, other))
            nested = bool(a and b) and (a <= b or b <= a)
            if (nested and (rest == left or all_name_parts)) or (rest == left and first != second):
                same = f" and hold the same folders ({_listed(sorted(a & b))})" if a & b else ""
                raise UserError(
                    f"{path} has {one.name} and {other.name}, which name parts of a split{same}, so that they are no"
                    " classes: rename them train and test, or leave such words out of the names of classes."
                )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
