"""Images that lie in memory, and a data set of a user's own tensors."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.source import Dataset, Kind, Split, checksum_of, finished
from infomax.data.targets import pair_of_targets
from infomax.errors import UserError


@final
class MemorySplit(Split):
    """Images uint8 [n, c, h, w] held in memory, with labels int64 [n] or None."""

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor | None, classes: Sequence[str]) -> None:
        self.images, self.labels, self.classes = images.contiguous(), labels, list(classes)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]

    def subset(self, indices: Tensor | Sequence[int]) -> "MemorySplit":
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        return self._handed(MemorySplit(self.images[index], labels, self.classes), index)

    def checksum(self) -> str:
        return checksum_of(self, self.images.numpy())


def from_tensors(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    name: str = "tensors",
    kind: Kind = "natural",
    flip: bool = False,
    classes: Sequence[str] | None = None,
    targets: Any = None,
    target_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set of arrays in hand, NumPy's or torch's: images [n, c, h, w] or [n, h, w], labels [n] or None.

    train_images, train_labels, test_images, test_labels: the two parts. name: what reports call it. Images are uint8,
    or floating point in [0, 1], which is rounded to 256 levels. Labels count from 0, or are words, whose classes are
    then the words in order (or in the order of `classes`). kind and flip say what a view may do to the images (see
    Dataset). targets: (training, test), what else is known of each image: numbers [n] or [n, t], or bool [n, k], which
    of k words it has. target_names: of the t numbers or k words. Raises UserError for other values, lengths that
    differ, or no images.
    """
    if kind not in ("digits", "natural"):
        raise UserError(f"A data set's kind is 'digits' or 'natural', not {kind!r}.")
    images = [_images("training", train_images), _images("test", test_images)]
    if images[0].shape[1:] != images[1].shape[1:]:
        raise UserError(
            f"Training images of shape {list(images[0].shape[1:])} and test images of shape "
            f"{list(images[1].shape[1:])} (channels, height, width) do not go together."
        )
    train_labels, test_labels, classes = worded(train_labels, test_labels, classes)
    labels = [labels_of("training", train_labels, len(images[0])), labels_of("test", test_labels, len(images[1]))]
    highest = max((int(label.max()) for label in labels if label is not None), default=-1)
    if classes is None:
        classes = [str(label) for label in range(highest + 1)]
    elif len(classes) <= highest:
        raise UserError(f"There is a label {highest}, but only {len(classes)} classes are named.")
    train, test = (MemorySplit(image, label, classes) for image, label in zip(images, labels, strict=True))
    train.targets, test.targets = pair_of_targets(targets, target_names, [len(train), len(test)])
    return finished(name, train, test, kind, flip)


def _images(what: str, values: Any) -> Tensor:
    try:
        # A copy: the caller's array may change, be read-only (a memory map) or run backwards.
        images = (
            torch.from_numpy(_native(np.array(values))) if isinstance(values, np.ndarray) else torch.as_tensor(values)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The {what} images cannot be made a tensor ({error}).") from error
    images = images.detach().cpu()
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise UserError(f"The {what} images have shape {list(images.shape)}: [n, c, h, w] or [n, h, w] is needed.")
    if images.numel() == 0:
        raise UserError(f"The {what} images are empty: shape {list(images.shape)}.")
    if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
        raise UserError(
            f"The {what} images of shape {list(images.shape)} look like [n, h, w, c]: move the channels, "
            "images.transpose(0, 3, 1, 2), to [n, c, h, w]."
        )
    if images.dtype == torch.uint8:
        return images.clone()
    if not images.is_floating_point():
        raise UserError(f"The {what} images are {images.dtype}: uint8, or floating point in [0, 1], is needed.")
    bad = torch.nonzero(~torch.isfinite(images).flatten(1).all(dim=1)).flatten().tolist()
    if bad:
        raise UserError(f"The {what} images hold NaN or infinity in {len(bad)} rows: {_some(bad)}.")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise UserError(f"The {what} images reach from {low:.4g} to {high:.4g}: floating point has to lie in [0, 1].")
    return (images * 255).round().to(torch.uint8)


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)  # torch knows no other order of bytes


def worded(train: Any, test: Any, classes: Sequence[str] | None) -> tuple[Any, Any, Sequence[str] | None]:
    # Words as labels: their places among the classes, by default the words of the training labels in order.
    parts = [_words("training", train), _words("test", test)]
    worded = [part is not None for part in parts]
    if not any(worded):
        return train, test, classes
    for what, values, are_words in (("training", train, worded[0]), ("test", test, worded[1])):
        if values is not None and not are_words:
            other = "test" if what == "training" else "training"
            raise UserError(f"The {what} labels are numbers and the {other} labels words: make both the same.")
    words = sorted(set(parts[0] or parts[1] or ())) if classes is None else [str(name) for name in classes]
    index = {word: label for label, word in enumerate(words)}
    if len(index) != len(words):
        raise UserError(f"A class is named twice in classes={list(words)}.")
    for what, part in zip(("training", "test"), parts, strict=True):
        unknown = sorted(set(part or ()) - index.keys())
        if unknown:
            known = "the training labels" if classes is None else "classes"
            raise UserError(f"The {what} labels have words that {known} lack: {_some(unknown)}.")
    numbers = [None if part is None else np.array([index[word] for word in part], np.int64) for part in parts]
    return numbers[0], numbers[1], words


def _words(what: str, values: Any) -> list[str] | None:
    # The labels as text; None where they are no words.
    if values is None or isinstance(values, torch.Tensor):
        return None
    if isinstance(values, str | bytes):
        raise UserError(f"The {what} labels are one text, {values!r}, where one an image is needed.")
    try:
        items = np.asarray(values, dtype=None if isinstance(values, np.ndarray) else object)
    except ValueError:
        return None
    if items.dtype.kind == "S":
        items = np.char.decode(items)
    if items.dtype.kind == "O":
        text = [isinstance(item, str) for item in items.ravel()]
        if not any(text):
            return None
        if not all(text):
            odd = items.ravel()[text.index(False)]
            raise UserError(f"The {what} labels are words and other things, as {odd!r}: give all of them a word.")
    elif items.dtype.kind not in "UT":
        return None
    if items.ndim != 1:
        raise UserError(f"The {what} labels are words of shape {list(items.shape)}: one an image, [n], is needed.")
    return [str(item) for item in items]


def labels_of(what: str, values: Any, n: int, items: str = "images") -> Tensor | None:
    if values is None:
        return None
    try:
        if not isinstance(values, torch.Tensor):
            values = np.asarray(values)
            # Objects that are all numbers become numbers; others stay, and are refused.
            values = torch.from_numpy(_native(np.array(values.tolist() if values.dtype == object else values)))
        labels = values.detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The {what} labels are neither whole numbers nor words ({error}).") from error
    numbers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not (numbers or len(labels) == 0):  # an empty list has no kind
        raise UserError(f"The {what} labels are whole numbers [n], not {labels.dtype} {list(labels.shape)}.")
    if len(labels) != n:
        raise UserError(f"There are {n} {what} {items} but {len(labels)} labels.")
    labels = labels.to(torch.int64)
    if int(labels.min()) < 0:
        raise UserError(f"The {what} labels count from 0; the lowest is {int(labels.min())}.")
    return labels


def _some(rows: Sequence[int | str]) -> str:
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
