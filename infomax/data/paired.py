"""Two modalities of the same samples: paired arrays, halves of images, or any two sources of equal length."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.characters import of_length
from infomax.data.loader import Order
from infomax.data.modality import Modality, drawn, notes_on, rows_of, standardised
from infomax.data.source import Opened, tell
from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data.given import GivenSplit, GivenViews
    from infomax.data.source import Dataset

MOST_TOKENS = 1 << 24  # of a vocabulary: beyond, numbers are not words, and no memory holds a row for each


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

    @property
    def sides(self) -> dict[str, Modality]:
        """Both, by their names."""
        return {"x": self.x, "y": self.y}


@final
@dataclass(frozen=True)
class Paired:
    """Paired data by its name: `train`, pairs to train on, and `test`, pairs held out. Made by pairs(), halves() and
    infomax.data.paired().

    notes, left_out: those of the data set that the pairs are halves of. opened: name, limit and skip_unreadable by
    which infomax.data.paired opens these very pairs; None of pairs that are made or changed in a script.
    """

    name: str
    train: PairedSplit
    test: PairedSplit
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    opened: Opened | None = field(default=None, init=False, repr=False, compare=False)  # replace() drops it

    @property
    def fingerprint(self) -> str:
        """How many pairs there are and a checksum of them: resuming compares it with the data of the run's start."""
        return fingerprint_of(self.train, self.test, "pairs", self.left_out)


def fingerprint_of(
    train: "PairedSplit | GivenSplit", test: "PairedSplit | GivenSplit", what: str, left_out: Sequence[str] = ()
) -> str:
    digest = hashlib.sha256(train.indices.numpy().tobytes() + test.indices.numpy().tobytes())
    for side in train.sides.values():
        digest.update(side.checksum().encode())
    digest.update("\0".join(left_out).encode())
    return f"{len(train)} + {len(test)} {what}, sha256 {digest.hexdigest()[:16]}"


@final
class PairedLoader:
    """Batches (x, y, ids) of paired data by step number, in a shuffled order that (seed, step) fix; or, of given views,
    (view1, view2, ..., ids).

    split: the pairs, or a part of given_views(). batch_size: the global number of pairs. seed: of the order. Raises
    UserError as Order does.
    """

    def __init__(self, split: "PairedSplit | GivenSplit", batch_size: int, seed: int = 0) -> None:
        self.order = Order(len(split), batch_size, seed, what="pairs" if isinstance(split, PairedSplit) else "samples")
        self.split, self.batch_size = split, batch_size

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.order)

    def at(self, step: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> Sequence[Tensor]:
        """The batch of `step`: this process's part of x and y, or of all views, [b, ...], and their numbers, int64 [b].

        step: counted from 0 over all epochs. rank, world: the number of this process, and how many there are. device:
        where the batch is put.
        """
        ids = self.order.ids(step, rank, world)
        return *(rows.to(device) for rows in self.split.batch(ids)), ids.to(device)


def pairs(
    x: Any, y: Any, *, test: float | int = 0.2, limit: int | None = None, seed: int = 0, name: str = "pairs",
    vocabulary: Mapping[str, int | None] | None = None,
) -> Paired:  # fmt: skip
    """Two modalities of the same samples: row i of x and row i of y are a pair.

    x, y: NumPy or torch arrays [n, ...] of any shapes, or `Split`s of images. Quantities, and uint8 as pixels, are
    standardised by the training rows. test: the part of the pairs, or how many of them, that are held out, drawn by
    `seed`. limit: keep so many training pairs, the first of the drawn order. name: what messages call the data.
    vocabulary: {"y": 97}, rows of y are tokens, whole numbers [n, length] from 0 that name words or characters, and
    there are 97 of them; {"y": None}, whole numbers of y are quantities. Rows [n] or [n, length] of whole numbers
    other than uint8 may be either, so one of them has to be said. Tokens that no training row has are counted in a
    line. Raises UserError: lengths that differ, NaN or infinity, too few pairs, whole numbers that nothing is said of,
    tokens that the vocabulary lacks, in training or held-out rows.
    """
    sizes = _vocabulary(vocabulary)
    rows = [
        rows_of(
            side, given, sizes,
            f'say which, vocabulary={{"{side}": SIZE}} or {{"{side}": None}}; of pairs:X.npy,Y.npy,'
            f" ?tokens={side} or ?numbers={side}",
        )
        for side, given in (("x", x), ("y", y))
    ]  # fmt: skip
    if len(rows[0]) != len(rows[1]):
        raise UserError(f"x has {len(rows[0])} rows and y has {len(rows[1])}; a pair is a row of each.")
    train, tested = drawn(len(rows[0]), test, limit, seed)
    one, other = (standardised(side, train, sizes.get(key)) for key, side in zip("xy", rows, strict=True))
    notes = [note for key, side in (("x", one), ("y", other)) for note in notes_on(key, side, sizes, train, tested)]
    tell(name, notes)
    return Paired(name, PairedSplit(one, other, train), PairedSplit(one, other, tested), tuple(notes))


def _vocabulary(given: Any) -> Mapping[str, int | None]:
    sizes = {} if given is None else given
    if not isinstance(sizes, Mapping) or not set(sizes) <= {"x", "y"}:
        raise UserError(f'vocabulary says of which side rows are tokens, and of how many, {{"y": 97}}; not {given!r}.')
    for side, size in sizes.items():
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if size is not None and (not whole or not 1 <= size <= MOST_TOKENS):
            raise UserError(
                f"The vocabulary of {side} is a number of tokens from 1 to {MOST_TOKENS:,}, or None; not {size!r}."
            )
    return {side: None if size is None else int(size) for side, size in sizes.items()}


def halves(dataset: "Dataset") -> Paired:
    """The top and the bottom half of each image as two modalities: x [n, c, h / 2, w], y alike.

    dataset: images with their own training and test part, which stay. An odd middle row belongs to the bottom half.
    """
    images = [split.batch(torch.arange(len(split))) for split in (dataset.train, dataset.test)]
    whole, middle, n = torch.cat(images), dataset.shape[1] // 2, len(dataset.train)
    if middle < 1:
        raise UserError(f"Images of {dataset.shape[1]} pixels in height have no halves.")
    train = torch.arange(n)
    top, bottom = (standardised(side.contiguous(), train) for side in (whole[:, :, :middle], whole[:, :, middle:]))
    tested = torch.arange(n, len(whole))
    parts = PairedSplit(top, bottom, train), PairedSplit(top, bottom, tested)
    return Paired(f"halves:{dataset.name}", *parts, notes=dataset.notes, left_out=dataset.left_out)


def describe_pairs(pairs: "Paired | GivenViews") -> dict[str, Any]:
    """What a checkpoint's `preprocessing` says of the pairs that a model was trained on; pairs_from() reads it.

    pairs: of whose modalities "x" and "y", or views "view1", "view2", ..., the mean and deviation that rows are
    standardised by are given, or null; of modalities the shape of a row too, of tokens [length]; and of tokens that are
    bytes of UTF-8 "tokens": "bytes".
    """
    described: dict[str, Any] = {
        name: {key: None if numbers is None else numbers.tolist() for key, numbers in found}
        for name, side in pairs.train.sides.items()
        for found in [(("mean", side.mean), ("std", side.std))]
    }
    if isinstance(pairs, Paired):
        for name, side in pairs.train.sides.items():
            described[name]["shape"] = list(side.shape)
            if side.tokens == "bytes":  # said of these alone: what older checkpoints say of others stays as it is
                described[name]["tokens"] = side.tokens
    return described


def _as_long(source: str, side: str, rows: Tensor, length: int, vocabulary: str | None) -> Tensor:
    lost = int((rows[:, length:] != 0).any(1).sum())
    if lost:
        tell(source, [f"{lost} of {len(rows)} rows of {side} are cut to the {length} tokens that training had."])
    return of_length(rows, length, vocabulary)


def pairs_from(preprocessing: Mapping[str, Any] | None, pairs: "Paired | GivenViews") -> Paired:
    """Pairs standardised as those were that a saved model was trained on, to evaluate it; of given views the first two.

    preprocessing: a checkpoint's; what it does not say, as older ones do not, is as `pairs` has it. Tokens get the
    length of training, with 0 after their end or cut, since a tower's features of a text depend on it; a line counts
    the cut ones. Raises UserError: one that describe_pairs() did not write, rows of other columns or channels, texts
    read as bytes where those of training were not, or the reverse.
    """
    if not isinstance(pairs, Paired):
        known = preprocessing or {}
        trained = known.keys() == pairs.train.sides.keys()  # on as many views, in this order
        preprocessing = {"x": known["view1"], "y": known["view2"]} if trained else None
        pairs = pairs.first_two()
    sides: dict[str, Modality] = {}
    for name, side in pairs.train.sides.items():
        known = (preprocessing or {}).get(name)
        if known is None:
            sides[name] = side
            continue
        try:
            mean, std = (
                None if known[key] is None else torch.tensor(known[key], dtype=torch.float64) for key in ("mean", "std")
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(f"The saved standardisation of {name}, {known!r}, is no mean and std.") from None
        if mean is not None and side.vocabulary is not None:
            raise UserError(f"The towers were trained on {name} of quantities, and these pairs have tokens there.")
        if side.tokens is not None and (side.tokens == "bytes") != (known.get("tokens") == "bytes"):
            was = "bytes of UTF-8" if side.tokens == "characters" else "other tokens than bytes"
            raise UserError(
                f"The towers were trained on {name} of {was}, and these pairs have {side.tokens} there: "
                f"{pairs.name.split('?')[0]}?tokens={'bytes' if side.tokens == 'characters' else 'characters'}."
            )
        if mean is not None and side.mean is not None and mean.shape != side.mean.shape:
            raise UserError(
                f"The towers were trained on {name} of {len(mean)} columns or channels, and these pairs have"
                f" {len(side.mean)}."
            )
        rows, shape = side.rows, known.get("shape")
        if side.vocabulary is not None and isinstance(rows, Tensor) and isinstance(shape, list) and len(shape) == 1:
            rows = _as_long(pairs.name, name, rows, shape[0], known.get("tokens"))
        sides[name] = Modality(rows, mean, std, side.vocabulary, side.tokens)
    parts = (PairedSplit(sides["x"], sides["y"], split.indices) for split in (pairs.train, pairs.test))
    return Paired(pairs.name, *parts, notes=pairs.notes, left_out=pairs.left_out)
