"""MoCo (He et al., 2020): a momentum encoder makes the keys; a queue of earlier ones, in shares, adds negatives.

The queue is filled and shared out here; that a row is scored against all shares is `Sides.sharded` (scores/layout.py).
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.distributed import Ranks
from infomax.errors import UserError, is_count, is_number, require_flags
from infomax.models.base import Model, features_of_rows, projected, require_parts
from infomax.objectives import Objective
from infomax.scores import Sides

UNKNOWN = torch.iinfo(torch.int64).min  # the id of a key whose sample has none: no row's


class MoCo(Model):
    """Momentum contrast: queries of one view against keys of the other, and against a queue of earlier batches' keys.

    encoder, projector, critic, objective: as InfoMax has them; any objective that reads rows. A second encoder and
    projector, the key network, follow the first by an exponential moving average and get no gradient. Keys of this
    batch and of the queue are all draws of p(y), so an objective's mean over negatives weighs them alike, and NWJ, DV
    and SMILE estimate what they do without a queue, from more negatives.
    queue: how many earlier keys, the same for all processes; a multiple of the batch and no smaller. They lie in
    `keys` [queue, d], their samples' ids in `key_ids` [queue], both part of a checkpoint. An earlier key of a row's own
    sample is no negative of it: a queue longer than an epoch holds some of every row. Without ids all keys are
    negatives. Until the queue has been filled once, what is in it alone counts.
    Across W processes each holds 1 / W of the queue from the first training step on, and a step gathers it, or with
    `ring` lets the shares come around one by one. A checkpoint holds all of it, and goes on on another number of
    processes. `state_dict()` has this process's share; within `whole()` it has the queue.
    momentum: of the key network, in [0, 1). shuffle: across processes each key is encoded in another process's batch,
    so that BatchNorm's statistics do not tell a key from its query's batch; without it BatchNorm sees each process's
    own keys. ring and microbatch: as Model has them; keys are encoded in micro-batches too, once.
    Raises UserError: a queue below 1, a momentum outside [0, 1), a batch that the queue is no multiple of.
    """

    encoder: nn.Module
    projector: nn.Module
    key_encoder: nn.Module
    key_projector: nn.Module
    keys: Tensor
    key_ids: Tensor
    filled: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        critic: Critic,
        objective: Objective,
        queue: int = 4096,
        momentum: float = 0.99,
        shuffle: bool = False,
        microbatch: int | None = None,
        ring: bool = False,
    ):
        super().__init__(critic, objective, microbatch, ring, encoder=encoder, projector=projector)
        require_parts(encoder=encoder, projector=projector)
        require_flags(shuffle=shuffle)
        if not is_count(queue):
            raise UserError(f"A queue holds a whole number of keys, 1 or more, not {queue!r}.")
        if not (is_number(momentum) and 0 <= momentum < 1):
            raise UserError(f"momentum must be in [0, 1), and {momentum!r} is not; 0.99 and 0.999 are usual.")
        self.queue, self.momentum, self.shuffle = queue, momentum, shuffle
        self.key_encoder, self.key_projector = copy.deepcopy(encoder), copy.deepcopy(projector)
        for parameter in (*self.key_encoder.parameters(), *self.key_projector.parameters()):
            parameter.requires_grad_(False)
        self.register_buffer("keys", torch.zeros(queue, _width(projector, encoder)))
        self.register_buffer("key_ids", torch.full((queue,), UNKNOWN))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # keys that ever came in
        self._latest: tuple[Tensor, Tensor] | None = None  # keys of this batch and their ids, of all processes
        self._shares = 1  # processes that hold the queue: slot s is row s // shares of process s % shares
        # The queue is the same for all processes, or shared: nothing of it may be sent over the others' before a step.
        self._ddp_params_and_buffers_to_ignore = ["keys", "key_ids", "filled"]

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> Sides:
        """inputs: two views [n, c, h, w], the query's and the key's; ids [n] -> n queries, n keys and the queue."""
        if len(inputs) != 2:
            raise UserError(f"MoCo takes two views, a query's and a key's; there are {len(inputs)}.")
        ranks = Ranks.current()
        if self.training:
            self.check_batch(len(inputs[0]) * ranks.size)
            self.share()
            room, size = self.queue - int(self.filled) % self.queue, len(inputs[0]) * ranks.size
            if size > room:
                raise UserError(
                    f"Batches of one MoCo have one size: to the end of its queue of {self.queue} keys there is room for"
                    f" {room}, and this batch has {size}."
                )
        (queries,) = self.encode(self._encode, inputs[0])
        keys = self._keys(inputs[1], ranks)
        there = min(int(self.filled), self.queue) // self._shares
        if not there and self.keys.shape[1:] != keys.shape[1:]:  # which only a forward can tell for sure
            self.keys = self.keys.new_zeros(len(self.keys), *keys.shape[1:])
        if self.training:
            names = self.key_ids.new_full((len(keys),), UNKNOWN) if ids is None else ids.to(self.key_ids)
            self._latest = ranks.gather(keys), ranks.gather(names)
        if not there:
            return Sides(queries, keys, ids)
        # Without ids all rows differ, and from all earlier ones.
        extra_ids = None if ids is None else self.key_ids[:there].clone()
        extra, sharded = self.keys[:there].clone(), self._shares > 1
        return Sides(queries, keys, ids, extra=extra, extra_ids=extra_ids, sharded=sharded)

    def share(self) -> None:
        ranks = Ranks.current()
        if self._shares == ranks.size or self.queue % ranks.size or int(self.filled) % ranks.size:
            return
        if self._shares > 1:
            raise UserError(
                f"This MoCo holds a share of its queue, that of one of {self._shares} processes, and there are"
                f" {ranks.size} now: save it on {self._shares}, and load it."
            )
        self._shares = ranks.size
        self.keys, self.key_ids = (t[ranks.rank :: ranks.size].clone() for t in (self.keys, self.key_ids))

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        share = self._shares, self.keys, self.key_ids
        if self._shares > 1:
            self.keys, self.key_ids = (_in_turn(Ranks.current(), t) for t in share[1:])
        self._shares = 1
        try:
            yield
        finally:
            self._shares, self.keys, self.key_ids = share

    @torch.no_grad()
    def try_later(self, inputs: Sequence[Tensor]) -> None:
        trial = copy.deepcopy(self)  # an objective or encoder of one's own may count what it was shown
        trial.sides(inputs, None)  # the queue is as wide as keys are from here on
        trial.filled.fill_(self.queue)
        trial(inputs)

    def fitted(self, saved: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        keys = saved.get("keys")
        if keys is not None and keys.ndim == self.keys.ndim and len(keys) == self.queue:
            # As wide as a forward made it, and whole, however many processes shared this one's.
            self.keys, self.key_ids = self.keys.new_zeros(keys.shape), self.key_ids.new_full((self.queue,), UNKNOWN)
            self._shares = 1
        if "key_ids" in saved or keys is None:
            return saved
        return {**saved, "key_ids": torch.full((self.queue,), UNKNOWN)}  # of a version that kept none

    def check_batch(self, size: int) -> None:
        if self.queue < size or self.queue % size:
            raise UserError(
                f"A queue of {self.queue} keys cannot be filled by batches of {size}: choose a multiple of the batch,"
                f" such as {max(1, round(self.queue / size)) * size}."
            )

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the key network towards the trained one, and this batch's keys into the queue, over the oldest."""
        for key, query in (
            (self.key_encoder, self.encoder), (self.key_projector, self.projector)
        ):  # fmt: skip
            for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.momentum)
        if self._latest is not None:
            (keys, names), place = self._latest, int(self.filled) % self.queue // self._shares
            self.filled += len(keys)
            if self._shares > 1:
                keys, names = (t[Ranks.current().rank :: self._shares] for t in (keys, names))
            self.keys[place : place + len(keys)] = keys.to(self.keys)
            self.key_ids[place : place + len(keys)] = names
            self._latest = None

    def _encode(self, views: Tensor) -> tuple[Tensor, ...]:
        return (projected(self.projector, features_of_rows(self.encoder, views)),)

    def _encode_keys(self, views: Tensor) -> tuple[Tensor, ...]:
        return (projected(self.key_projector, features_of_rows(self.key_encoder, views)),)

    @torch.no_grad()
    def _keys(self, views: Tensor, ranks: Ranks) -> Tensor:
        if not self.shuffle or ranks.size == 1 or not self.training:
            return self.encode(self._encode_keys, views)[0]
        # The same permutation on all processes, drawn from what they share: how many keys have come so far.
        n = len(views) * ranks.size
        order = torch.randperm(n, generator=torch.Generator().manual_seed(int(self.filled))).to(views.device)
        mixed = ranks.own(ranks.gather(views)[order])
        keys = ranks.gather(self.encode(self._encode_keys, mixed)[0])
        return ranks.own(torch.empty_like(keys).index_copy_(0, order, keys))


def _in_turn(ranks: Ranks, share: Tensor) -> Tensor:
    """Shares [k, ...] of all processes -> [size k, ...], a row of each in turn."""
    whole = ranks.gather(share)
    return whole.unflatten(0, (ranks.size, len(share))).transpose(0, 1).flatten(0, 1)


def _width(projector: nn.Module, encoder: nn.Module) -> int:
    """A guess at how many numbers the projector gives, which the first forward puts right; 0 where there is none."""
    for network in (projector, encoder):
        widths = [part.out_features for part in network.modules() if isinstance(part, nn.Linear)]
        if widths:
            return widths[-1]
        if isinstance(found := getattr(network, "num_features", None), int):
            return found
    return 0
