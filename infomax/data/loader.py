"""Batches of pairs of views, each a function of the step number alone: nothing to save, nothing to skip on resuming."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, final

import torch
from torch import Tensor

from infomax.data.keyed import permutation
from infomax.data.source import Split
from infomax.data.views import Views
from infomax.errors import UserError

__all__ = ["Batch", "PairLoader"]


class Batch(NamedTuple):
    """One process's part of a global batch of pairs: two views of each sample and the sample's number."""

    view1: Tensor  # float32 [b, c, h, w], normalised
    view2: Tensor  # float32 [b, c, h, w]
    ids: Tensor  # int64 [b], the samples' places in the split


@final
class PairLoader:
    """Pairs of views of a split's images in a shuffled order that (seed, step) fix.

    batch_size is the global number of pairs, whatever the number of processes; the last, short batch of an epoch is
    left out. Raises UserError for a batch of fewer than 2 pairs, or of more than the split holds.
    """

    def __init__(self, split: Split, views: Views, batch_size: int, seed: int = 0) -> None:
        if not isinstance(batch_size, int) or batch_size < 2:
            raise UserError(
                f"A batch needs at least 2 pairs, for without another pair there is no negative: {batch_size!r}."
            )
        if batch_size > len(split):
            raise UserError(
                f"A batch of {batch_size} pairs is larger than the data set, which has {len(split)} training images: "
                f"choose at most {len(split)}."
            )
        self.split, self.views, self.batch_size, self.seed = split, views, batch_size, seed
        self._order: tuple[int, Tensor] | None = None  # of the last epoch asked for; a cache, not a state
        self._ahead: tuple[tuple[int, int, int], Future[Tensor]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.split) // self.batch_size

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
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(len(self.split), self.seed, epoch)
        start = (step % len(self)) * self.batch_size + rank * share
        return self._order[1][start : start + share]

    def at(self, step: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu") -> Batch:
        """The batch of `step`, counted from 0 over all epochs: this process's part, its views made on `device`."""
        ids = self.ids(step, rank, world)
        images = self._images(step, rank, world, ids).to(device, non_blocking=True)
        places, epoch = ids.to(device), self.epoch(step)
        view1, view2 = (self.views(images, places, self.seed, epoch, view) for view in (0, 1))
        return Batch(view1, view2, places)

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
