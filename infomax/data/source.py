"""What every data set is: splits that give images by index, uint8 [b, c, h, w], with their labels and classes."""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.keyed import permutation, shard_by_shard
from infomax.data.targets import Target
from infomax.errors import UserError

_log = logging.getLogger("infomax")  # without a handler its warnings are lines on standard error
_STATISTICS = 1024  # images that mean and deviation are taken from when they are not in memory
_NO_DEVIATION = 1.0  # of a channel that never changes; of pixels in [0, 1] no other is above 0.5
Kind = Literal["digits", "natural", "signals"]
Opened = tuple[str, int | None, bool]  # name, limit, skip_unreadable
SplitType = TypeVar("SplitType", bound="Split")
AnyData = TypeVar("AnyData")


class Split(ABC):
    """Images `.batch(indices)` of one `.shape` (c, h, w), or signals of (c, time); `.labels`, int64 [n] or None, and
    `.classes`.

    shards: where images lie one after another in files that are best read in turn, the file of each, int64 [n].
    targets: what else is known of each sample, numbers or several words, which probes predict; by default nothing.
    """

    shape: tuple[int, ...]
    labels: Tensor | None
    classes: list[str]
    in_memory: bool
    shards: Tensor | None = None
    left_out = 0  # files that could not be read, beside these
    targets: tuple[Target, ...] = ()
    what = "images"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The images at `indices`, uint8 [b, c, h, w], or signals float32 [b, c, time], on the CPU. Raises UserError
        for an unreadable file."""

    @abstractmethod
    def subset(self, indices: Tensor | Sequence[int]) -> "Split":
        """The split of the images at `indices`, in that order."""

    @abstractmethod
    def checksum(self) -> str:
        """Hexadecimal, of the images, labels and classes, not of targets: another one where they are others."""

    def _handed(self, part: SplitType, index: Tensor | None = None) -> SplitType:
        """`part`, of the samples at `index` (all by default), with their shards and targets."""
        part.shards = self.shards if self.shards is None or index is None else self.shards[index]
        part.targets = self.targets if index is None else tuple(target.of(index) for target in self.targets)
        return part

    def order(self, seed: int, epoch: int) -> Tensor:
        """All indices, int64 [n], in the order of an epoch: a permutation that (seed, epoch) fix.

        seed: of the run. epoch: counted from 0. With shards it goes from one to the next, in an order of its own.
        """
        if self.shards is None:
            return permutation(len(self), seed, epoch)
        return shard_by_shard(self.shards, seed, epoch)

    def __repr__(self) -> str:
        where = "in memory" if self.in_memory else "on disk"
        return f"{type(self).__name__}({len(self)} {self.what} {'x'.join(map(str, self.shape))}, {where})"


@final
@dataclass(frozen=True)
class Dataset:
    """Images: train and test, of a data set by its name. mean, std: per channel, of the training images in [0, 1].

    kind says what a view may do: "digits" are bright strokes on black that a mirror would change, "natural" are
    photographs, "signals" are signals, whose mean and std are in their own units; flip, whether a mirrored image is as
    good. notes: sentences on what of the source was left out, scaled or changed; infomax.data.dataset prints them on
    standard error as it opens a data set. left_out: the files that could not be read and were left out, as
    `skip_unreadable` asked, as paths from the folder that holds all images. opened: name, limit and skip_unreadable by
    which infomax.data.dataset opens this very data set; None of one that is made or changed in a script. colour: False
    where three channels are not red, green and blue, as pages of a TIFF are not, so that views leave hue alone.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Kind = "natural"
    flip: bool = True
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    colour: bool = True
    opened: Opened | None = field(default=None, init=False, repr=False, compare=False)  # replace() drops it

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of every image, (c, time) of every signal."""
        return self.train.shape

    @property
    def classes(self) -> list[str]:
        """The classes' names, by label."""
        return self.train.classes

    @property
    def fingerprint(self) -> str:
        """How many images there are, and a checksum of them: resuming compares it with the data of the run's start.

        Of pixels and labels; of a folder that is not held in memory, of names, sizes and labels. And of the names of
        the files that were left out.
        """
        both = f"{self.train.checksum()}{self.test.checksum()}"
        what = self.train.what
        if self.left_out:
            both, what = both + "\0".join(self.left_out), f"{what} without {len(self.left_out)} left out"
        return f"{len(self.train)} + {len(self.test)} {what}, sha256 {hashlib.sha256(both.encode()).hexdigest()[:16]}"


def opened_as(made: AnyData, name: str, limit: int | None, skip_unreadable: bool) -> AnyData:
    """`made`, which keeps how it was asked for: whoever asks for that again has the same."""
    object.__setattr__(made, "opened", (name, limit, skip_unreadable))  # of a frozen dataclass, before it is given away
    return made


def tell(name: str, notes: Sequence[str]) -> None:
    """Prints the lines on standard error, by one of several processes. name: what they are about."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            _log.warning("%s: %s", name, note)


Parts = tuple[Split, Split, Kind, bool]  # train, test, kind, flip


def finished(
    name: str, train: Split, test: Split, kind: Kind, flip: bool, notes: tuple[str, ...] = (),
    left_out: tuple[str, ...] = (), colour: bool = True,
) -> Dataset:  # fmt: skip
    for what, split in (("training", train), ("test", test)):
        if len(split) == 0:
            raise UserError(f"The data set {name!r} is empty: it has no {what} {split.what}.")
    mean, std = _statistics(train)
    return Dataset(name, train, test, mean, std, kind, flip, notes, left_out, colour)


def varies(dataset: Dataset) -> bool:
    return any(deviation != _NO_DEVIATION for deviation in dataset.std)


def limited(split: Any, limit: int | None) -> Any:
    # The first of each class in turn: sorted by (how many of its class came before, class), cut, in file order again.
    if limit is None or limit >= len(split):
        return split
    if split.labels is None:
        return split.subset(range(limit))
    labels = split.labels.numpy()
    earlier = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        earlier[where] = np.arange(len(where))
    return split.subset(torch.from_numpy(np.sort(np.lexsort((labels, earlier))[:limit])))


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if split.batch([0]).is_floating_point():
        return _of_numbers(split)
    # By counts of each value: exact, so the same in every process and on every machine, and faster than squares.
    chosen = torch.arange(len(split))
    if not split.in_memory:
        chosen = chosen[:: max(1, -(-len(split) // _STATISTICS))]
    counts, values = torch.zeros(split.shape[0], 256, dtype=torch.int64), torch.arange(256)
    for part in chosen.split(128):  # a few, for photographs are large
        for channel, pixels in zip(counts, split.batch(part).transpose(0, 1), strict=True):
            channel += torch.bincount(pixels.flatten(), minlength=256)
    total, square = counts @ values, counts @ values.square()
    count = len(chosen) * split.shape[1] * split.shape[2]
    mean = [value / count for value in total.tolist()]
    variance = [value / count - m * m for value, m in zip(square.tolist(), mean, strict=True)]
    # A channel that never changes has no deviation to divide by.
    std = [v**0.5 / 255 if v > 1e-9 else _NO_DEVIATION for v in variance]
    return tuple(m / 255 for m in mean), tuple(std)


def _of_numbers(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # By NumPy, whose sums do not depend on how many threads there are.
    values = split.batch(range(len(split))).numpy().astype(np.float64)
    mean, deviation = values.mean((0, 2)), values.std((0, 2))
    scale = np.abs(mean) * 1e-6 + 1e-30
    return tuple(mean.tolist()), tuple(
        float(d) if d > s else _NO_DEVIATION for d, s in zip(deviation, scale, strict=True)
    )


def checksum_of(split: Split, *content: Any) -> str:
    digest = hashlib.sha256(repr((len(split), split.shape, split.classes)).encode())
    for part in content:
        digest.update(part)
    digest.update(b"" if split.labels is None else split.labels.numpy().tobytes())
    if split.shards is not None:  # they decide the order
        digest.update(split.shards.numpy().tobytes())
    return digest.hexdigest()
