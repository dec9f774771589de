"""Two modalities of the same samples: paired arrays, halves of images, or any two sources of equal length."""

import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.keyed import permutation
from infomax.data.loader import Order
from infomax.data.source import Split
from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data.source import Dataset


@final
class Modality:
    """One side of the pairs: rows by index, as an encoder takes them.

    rows: numbers [n, ...], or a Split of images. mean, std: what floating-point rows are standardised by, one number a
    column of [n, d] and one a channel of [n, c, ...], in float64, as numbers far from 0 (times, large counts) differ in
    digits that float32 does not have; None leaves them as they are, as whole numbers (tokens) are. vocabulary: where
    rows are tokens, how many there are, from 0.
    """

    def __init__(self, rows: "Tensor | Split", mean: Tensor | None = None, std: Tensor | None = None,
                 vocabulary: int | None = None):  # fmt: skip
        self.rows, self.mean, self.std, self.vocabulary = rows, mean, std, vocabulary

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """indices int64 [b] -> float32 [b, ...], standardised; whole numbers other than uint8 stay as they are."""
        found = self.given(indices)
        if not found.is_floating_point():
            return found
        if self.mean is None or self.std is None:
            return found.float()
        shape = (1, -1, *[1] * (found.ndim - 2))
        return ((found.double() - self.mean.view(shape)) / self.std.view(shape)).float()

    def given(self, indices: Tensor) -> Tensor:
        """indices int64 [b] -> the rows before they are standardised; bytes as numbers in [0, 1]."""
        found = self.rows.batch(indices) if isinstance(self.rows, Split) else self.rows[indices]
        return found.float() / 255 if found.dtype == torch.uint8 else found

    def checksum(self) -> str:
        """A checksum of all rows."""
        if isinstance(self.rows, Split):
            return self.rows.checksum()
        return hashlib.sha256(self.rows.contiguous().numpy().tobytes()).hexdigest()

    @property
    def numbers(self) -> int:
        """In one row."""
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.rows.shape) if isinstance(self.rows, Split) else tuple(self.rows.shape[1:])


@final
@dataclass(frozen=True)
class PairedSplit:
    """Pairs (x_i, y_i): row i of both modalities, x and y, is one sample."""

    x: Modality
    y: Modality
    indices: Tensor  # int64 [n]: which rows of the modalities these are; they are the samples' numbers

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """places int64 [b], within this split -> x [b, ...] and y [b, ...]."""
        rows = self.indices[places]
        return self.x.batch(rows), self.y.batch(rows)


@final
@dataclass(frozen=True)
class Paired:
    """Paired data by its name: `train`, pairs to train on, and `test`, pairs held out. Made by pairs() and halves().

    notes, left_out: those of the data set that the pairs are halves of.
    """

    name: str
    train: PairedSplit
    test: PairedSplit
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """How many pairs there are and a checksum of them: resuming compares it with the data of the run's start."""
        digest = hashlib.sha256(self.train.indices.numpy().tobytes() + self.test.indices.numpy().tobytes())
        for side in (self.train.x, self.train.y):
            digest.update(side.checksum().encode())
        digest.update("\0".join(self.left_out).encode())
        return f"{len(self.train)} + {len(self.test)} pairs, sha256 {digest.hexdigest()[:16]}"


@final
class PairedLoader:
    """Batches (x, y, ids) of paired data by step number, in a shuffled order that (seed, step) fix.

    split: the pairs. batch_size: the global number of pairs. seed: of the order. Raises UserError as Order does.
    """

    def __init__(self, split: PairedSplit, batch_size: int, seed: int = 0) -> None:
        self.order = Order(len(split), batch_size, seed, what="pairs")
        self.split, self.batch_size = split, batch_size

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.order)

    def at(self, step: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> Sequence[Tensor]:
        """The batch of `step`: this process's part of x and y [b, ...] and the samples' numbers, int64 [b].

        step: counted from 0 over all epochs. rank, world: the number of this process, and how many there are. device:
        where the batch is put.
        """
        ids = self.order.ids(step, rank, world)
        x, y = self.split.batch(ids)
        return x.to(device), y.to(device), ids.to(device)


def pairs(
    x: Any, y: Any, *, test: float | int = 0.2, limit: int | None = None, seed: int = 0, name: str = "pairs"
) -> Paired:
    """Two modalities of the same samples: row i of x and row i of y are a pair.

    x, y: NumPy or torch arrays [n, ...] of any shapes, or `Split`s of images. Floating-point and uint8 rows are
    standardised by the training rows, whole numbers of another type (tokens) stay. test: the part of the pairs, or how
    many of them, that are held out, drawn by `seed`. limit: keep so many training pairs, the first of the drawn order.
    name: what messages call the data. Raises UserError: lengths that differ, NaN or infinity, too few pairs.
    """
    if isinstance(test, bool) or not isinstance(test, float | int):
        raise UserError(f"test is a part of the pairs, such as 0.2, or how many of them, and not {test!r}.")
    if limit is not None and limit < 2:
        raise UserError(f"limit keeps at least 2 training pairs, and not {limit!r}.")
    rows = [_rows("x", x), _rows("y", y)]
    if len(rows[0]) != len(rows[1]):
        raise UserError(f"x has {len(rows[0])} rows and y has {len(rows[1])}; a pair is a row of each.")
    n = len(rows[0])
    held = round(test * n) if isinstance(test, float) else test
    if not 1 <= held <= n - 2:
        raise UserError(f"Of {n} pairs {held} cannot be held out for testing: 1 or more, with 2 left to train on.")
    order = permutation(n, seed, 0x7E57)
    train, tested = order[held:], order[:held]
    if limit is not None:
        train = train[:limit]
    train, tested = train.sort().values, tested.sort().values
    one, other = (_standardised(side, train) for side in rows)
    return Paired(name, PairedSplit(one, other, train), PairedSplit(one, other, tested))


def halves(dataset: "Dataset") -> Paired:
    """The top and the bottom half of each image as two modalities: x [n, c, h / 2, w], y alike.

    dataset: images with their own training and test part, which stay. An odd middle row belongs to the bottom half.
    """
    images = [split.batch(torch.arange(len(split))) for split in (dataset.train, dataset.test)]
    whole, middle, n = torch.cat(images), dataset.shape[1] // 2, len(dataset.train)
    if middle < 1:
        raise UserError(f"Images of {dataset.shape[1]} pixels in height have no halves.")
    train = torch.arange(n)
    top, bottom = (_standardised(side.contiguous(), train) for side in (whole[:, :, :middle], whole[:, :, middle:]))
    tested = torch.arange(n, len(whole))
    parts = PairedSplit(top, bottom, train), PairedSplit(top, bottom, tested)
    return Paired(f"halves:{dataset.name}", *parts, notes=dataset.notes, left_out=dataset.left_out)


def read_pairs(text: str, limit: int | None = None) -> Paired:
    """`X.npy,Y.npy`: two arrays of equal length, as pairs() takes them. Raises UserError: files that cannot be read."""
    paths = text.split(",")
    if len(paths) != 2 or not all(paths):
        raise UserError(f"pairs:X.npy,Y.npy names two files, and {text!r} does not.")
    arrays = []
    for path in paths:
        try:
            arrays.append(np.load(Path(path).expanduser(), allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read as a NumPy array ({error}).") from None
        if not isinstance(arrays[-1], np.ndarray):
            raise UserError(f"{path} is an archive of arrays; save the one that is meant as .npy.")
    return pairs(*arrays, limit=limit, name=f"pairs:{text}")


def emoji_names(root: Path, limit: int | None = None) -> Paired:
    """Pairs of drawing and name: x float32 [n, 3, 32, 32], y tokens int64 [n, 40]; the parts are those of `emoji`.

    root: the folder that the drawings are kept in. limit: keep this many training pairs, drawn at random, always the
    same. Raises UserError for packages that are missing or cannot be read.
    """
    from infomax.data.emoji import VOCABULARY, emoji_with_names, tokens

    whole, held, names = emoji_with_names(root)
    train, test = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    if limit is not None:
        train = train[permutation(len(train), 0)[:limit]].sort().values
    x = _standardised(whole.images, train)
    y = Modality(torch.stack([tokens(name) for name in names]), vocabulary=VOCABULARY)
    return Paired("names:emoji", PairedSplit(x, y, train), PairedSplit(x, y, test))


def paired(
    name: str, root: str | os.PathLike[str] = "data", limit: int | None = None, *, skip_unreadable: bool = False
) -> Paired:
    """Paired data by name: `halves:NAME` of a data set of images, `pairs:X.npy,Y.npy`, or `names:emoji`.

    root, limit and skip_unreadable (of halves alone): as `dataset` takes them. Raises UserError: another name, and as
    `dataset` and pairs() do.
    """
    from infomax.data.registry import dataset

    kind, colon, rest = name.partition(":")
    if colon and kind == "halves":
        return halves(dataset(rest, root, limit, skip_unreadable=skip_unreadable))
    if skip_unreadable:
        raise UserError(
            f"--skip-unreadable goes with halves:NAME of image files; {name!r} is not read from such files."
        )
    if colon and kind == "pairs":
        return read_pairs(rest, limit)
    if name == "names:emoji":
        return emoji_names(Path(root).expanduser(), limit)
    raise UserError(f"{name!r} names no pairs: take halves:NAME, of a data set of images, pairs:X.npy,Y.npy, or "
                    "names:emoji.")  # fmt: skip


def describe_pairs(pairs: Paired) -> dict[str, Any]:
    """What a checkpoint's `preprocessing` says of the pairs that a model was trained on; pairs_from() reads it.

    pairs: of whose modalities "x" and "y" the mean and deviation that rows are standardised by are given, or null.
    """
    return {
        name: {key: None if numbers is None else numbers.tolist() for key, numbers in found}
        for name, side in (("x", pairs.train.x), ("y", pairs.train.y))
        for found in [(("mean", side.mean), ("std", side.std))]
    }


def pairs_from(preprocessing: Mapping[str, Any] | None, pairs: Paired) -> Paired:
    """Pairs standardised as those were that a saved model was trained on, to evaluate it.

    preprocessing: a checkpoint's; what it does not say, as older ones do not, is as `pairs` has it. Raises UserError:
    one that describe_pairs() did not write, rows of other columns or channels.
    """
    sides: dict[str, Modality] = {}
    for name, side in (("x", pairs.train.x), ("y", pairs.train.y)):
        known = (preprocessing or {}).get(name)
        if known is None:
            sides[name] = side
            continue
        try:
            mean, std = (None if known[key] is None else torch.tensor(known[key]).double() for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"The saved standardisation of {name}, {known!r}, is no mean and std.") from None
        if mean is not None and side.mean is not None and mean.shape != side.mean.shape:
            raise UserError(
                f"The towers were trained on {name} of {len(mean)} columns or channels, and these pairs have"
                f" {len(side.mean)}."
            )
        sides[name] = Modality(side.rows, mean, std, side.vocabulary)
    parts = (PairedSplit(sides["x"], sides["y"], split.indices) for split in (pairs.train, pairs.test))
    return Paired(pairs.name, *parts, notes=pairs.notes, left_out=pairs.left_out)


def _rows(name: str, given: Any) -> "Tensor | Split":
    if isinstance(given, Split):
        return given
    if isinstance(given, Tensor):
        rows = given.detach().cpu()
    else:
        try:
            array = np.asarray(given)
        except ValueError:
            raise UserError(f"{name} must be rows of one length each, and they differ.") from None
        if array.dtype.kind not in "uifb":
            raise UserError(f"{name} must hold numbers, and has {array.dtype}.")
        native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
        rows = torch.from_numpy(native).reshape(array.shape)  # contiguous, one number alone has become a row
    if rows.ndim < 1 or not len(rows):
        raise UserError(f"{name} must be rows of numbers [n, ...], and has shape {list(rows.shape)}.")
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.is_floating_point():
        bad = (~rows.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise UserError(f"{name} has NaN or infinity in {len(bad)} rows, the first of them row {bad[0]}.")
        return rows
    return rows if rows.dtype == torch.uint8 else rows.long()


def _standardised(rows: "Tensor | Split", train: Tensor) -> Modality:
    """By the mean and deviation of all training rows."""
    plain = Modality(rows)
    if not plain.given(train[:1]).is_floating_point():
        return plain
    parts = train.split(4096)

    def total(of: Callable[[Tensor], Tensor], how: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = (of(plain.given(part).double().movedim(1, -1).flatten(0, -2)) for part in parts)
        return functools.reduce(how, found)

    # Divided by the largest first, of which no square leaves a float's range.
    largest = total(lambda t: t.abs().amax(0), torch.maximum)
    scale = largest.where(largest > 0, 1.0)
    count = len(train) * math.prod(plain.given(train[:1]).shape[2:])
    mean = total(lambda t: (t / scale).sum(0), torch.add) / count
    std = (total(lambda t: (t / scale - mean).square().sum(0), torch.add) / count).sqrt()
    return Modality(rows, mean * scale, (std * scale).where(std > 1e-14, 1.0))  # below, rounding of one number
