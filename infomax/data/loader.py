"""Batches of samples, each a function of the step number alone: nothing to save, nothing to skip on resuming."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, final

import torch
from torch import Tensor

from infomax.data.keyed import permutation
from infomax.data.source import Split
from infomax.data.views import AnyViews
from infomax.errors import UserError

__all__ = ["Batch", "Order", "PairLoader"]


class Batch(NamedTuple):
    """One process's part of a global batch of pairs: two views of each sample and the sample's number."""

    view1: Tensor  # float32 [b, c, h, w], normalised
    view2: Tensor  # float32 [b, c, h, w]
    ids: Tensor  # int64 [b], the samples' places in the split


@final
class Order:
    """Which samples come at which step, in a shuffled order that (seed, step) fix.

    count: of samples. batch_size: the global number of samples of a step, whatever the number of processes; the last,
    short batch of an epoch is left out. seed: of the order. what: the samples' name in messages. order: all samples,
    int64 [count], in the order of (seed, epoch); by default a permutation. Raises UserError for a batch of fewer than
    2, or of more than there are.
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0, what: str = "images",
                 order: Callable[[int, int], Tensor] | None = None) -> None:  # fmt: skip
        if not isinstance(batch_size, int) or batch_size < 2:
            raise UserError(
                f"A batch needs at least 2 pairs, for without another pair there is no negative: {batch_size!r}."
            )
        if count < 2:
            raise UserError(f"A batch needs at least 2 training {what}, and there is only {count}: add some.")
        if batch_size > count:
            raise UserError(
                f"A batch of {batch_size} pairs is larger than the data set, which has {count} training {what}: "
                f"choose at most {count} (--batch-size {count}, batch_size={count})."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._order = order or (lambda seed, epoch: permutation(count, seed, epoch))
        self._last: tuple[int, Tensor] | None = None  # of the last epoch asked for; a cache, not a state

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.count // self.batch_size

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step, from 0, belongs to."""
        return step // len(self)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """The samples, int64 [batch_size / world] on the CPU, that process `rank` of `world` sees at `step`.

        The ranks' parts, one after another, are the global batch, the same for any `world`.
        Raises UserError when batch_size is not a multiple of `world`.
        """
        if step < 0 or not 0 <= rank < world:
            raise ValueError(f"No step {step} of rank {rank} in a world of {world}.")
        if self.batch_size % world:
            raise UserError(
                f"A global batch of {self.batch_size} pairs cannot be shared evenly by {world} processes: choose a "
                f"multiple of {world}, for instance {max(self.batch_size // world, 1) * world}."
            )
        epoch, share = self.epoch(step), self.batch_size // world
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, self._order(self.seed, epoch)
        start = (step % len(self)) * self.batch_size + rank * share
        return self._last[1][start : start + share]


@final
class PairLoader:
    """Pairs of views of a split's images in a shuffled order that (seed, step) fix; or any number of views.

    split: the images. views: of both views of a sample, or a sequence of two or more, one for each (multi-crop).
    batch_size is the global number of samples, whatever the number of processes; the last, short batch of an epoch is
    left out. seed: of order and views. Raises UserError for a batch of fewer than 2 pairs, or of more than the split
    holds, and for fewer than two views.
    """

    def __init__(self, split: Split, views: AnyViews | Sequence[AnyViews], batch_size: int, seed: int = 0) -> None:
        without = f" ({split.left_out} that cannot be read are left out)" if split.left_out else ""
        self.order = Order(len(split), batch_size, seed, f"{split.what}{without}", split.order)
        self.every = tuple(views) if isinstance(views, Sequence) else (views, views)
        if len(self.every) < 2:
            raise UserError(f"A sample needs two views or more, to be compared with each other; not {len(self.every)}.")
        self.split, self.views, self.batch_size, self.seed = split, self.every[0], batch_size, seed
        self._ahead: tuple[tuple[int, int, int], Future[Tensor]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.order)

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step, from 0, belongs to."""
        return self.order.epoch(step)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """The samples, int64 [batch_size / world] on the CPU, that process `rank` of `world` sees at `step`.

        The ranks' parts, one after another, are the global batch, the same for any `world`.
        Raises UserError when batch_size is not a multiple of `world`.
        """
        return self.order.ids(step, rank, world)

    def at(self, step: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> Sequence[Tensor]:
        """The batch of `step`, counted from 0 over all epochs: this process's part, its views made on `device`.

        rank, world: the number of this process, and how many there are.
        A Batch of two views and the ids, or, of more views, all of them and the ids.
        """
        ids = self.ids(step, rank, world)
        images = self._images(step, rank, world, ids).to(device, non_blocking=True)
        places, epoch = ids.to(device), self.epoch(step)
        made = [views(images, places, self.seed, epoch, number) for number, views in enumerate(self.every)]
        return Batch(made[0], made[1], places) if len(made) == 2 else (*made, places)

    def _images(self, step: int, rank: int, world: int, ids: Tensor) -> Tensor:
        if self.split.in_memory:
            return self.split.batch(ids)
        # Decoding takes time: while this batch is worked on, a thread decodes the next.
        with self._lock:
            here, ahead = (step, rank, world), self._ahead
            images = ahead[1].result() if ahead is not None and ahead[0] == here else self.split.batch(ids)
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="infomax-decode")
            following = self.ids(step + 1, rank, world)
            self._ahead = (step + 1, rank, world), self._thread.submit(self.split.batch, following)
            return images
