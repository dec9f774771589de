"""Processes: one side of the pairs is gathered, rows stay local.

The convention of every backward here: each process differentiates its own value, and what flows back is the gradient
of the SUM of the processes' values. DistributedDataParallel divides by the number of processes, which makes it the
gradient of their mean, the value that a Step reports.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from infomax.errors import NonFinite, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that share one score matrix."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current(local: bool = False) -> "Ranks":
        if local or not (dist.is_available() and dist.is_initialized()):
            return _ALONE
        return Ranks(dist.get_rank(), dist.get_world_size())

    def gather(self, t: Tensor) -> Tensor:
        """[n, ...] on each process -> [size n, ...] on all, in rank order; carries no gradient."""
        if self.size == 1:
            return t
        whole = t.new_empty((self.size * t.shape[0], *t.shape[1:]))
        dist.all_gather(list(whole.chunk(self.size)), t.contiguous())
        return whole

    def sum(self, t: Tensor) -> Tensor:
        if self.size > 1:
            t = t.clone()
            dist.all_reduce(t)
        return t

    def logsumexp(self, t: Tensor) -> Tensor:
        """Elementwise log-sum-exp over processes."""
        if self.size == 1:
            return t
        peak = t.clone()
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        shift = torch.where(peak.isfinite(), peak, 0)  # an all -inf or an infinite entry keeps its value
        return self.sum((t - shift).exp()).log() + shift

    def around(self, t: Tensor, gradients: Sequence[Tensor | None] = ()) -> Iterator[tuple[int, Tensor]]:
        """Yields the number of the first row among all processes' and the rows t [n, ...] of each process, own first.

        Each block is handed to a neighbour while the next is worked on, so that no process holds all of them. So are
        `gradients`, [n, ...] each, of which a turn sees those of the rows it is given; after the last they are home.
        """
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        t, held = t.contiguous(), [g for g in gradients if g is not None]
        for turn in range(self.size):
            last = turn == self.size - 1
            coming = None if last else torch.empty_like(t)
            travelling = [] if coming is None else self._pass(t, coming, before, after)
            yield ((self.rank + turn) % self.size) * len(t), t
            for request in travelling:
                request.wait()
            for g in held:
                arrived = torch.empty_like(g)
                for request in self._pass(g, arrived, before, after):
                    request.wait()
                g.copy_(arrived)
            if coming is not None:
                t = coming

    @staticmethod
    def _pass(t: Tensor, into: Tensor, to: int, source: int) -> list[dist.Work]:
        return dist.batch_isend_irecv([dist.P2POp(dist.isend, t, to), dist.P2POp(dist.irecv, into, source)])

    def own(self, t: Tensor) -> Tensor:
        """[size n, ...] -> this process's [n, ...]."""
        return t.chunk(self.size)[self.rank] if self.size > 1 else t

    def scatter_sum(self, t: Tensor) -> Tensor:
        """[size n, ...] on each process, summed over processes, -> this process's [n, ...]."""
        if self.size == 1:
            return t
        if dist.get_backend() == "nccl":
            own = torch.empty_like(self.own(t))
            dist.reduce_scatter_tensor(own, t.contiguous())
            return own
        return self.own(self.sum(t)).clone()

    def check_equal(self, n: int, device: torch.device, columns: int = 0, extra: int = 0) -> None:
        """Raises UserError on every process when their numbers of rows differ (a gather would hang or mix rows)."""
        if self.size == 1:
            return
        counts = self.gather(torch.tensor([[n, columns, extra]], device=device)).T.tolist()
        if len(set(counts[0])) > 1:
            raise UserError(f"Processes hold different numbers of pairs ({counts[0]}); drop the last, uneven batch.")
        for found, what in zip(counts[1:], ("columns, the rows of y,", "extra columns"), strict=True):
            if len(set(found)) > 1:
                raise UserError(f"Processes hold different numbers of {what} ({found}); they must be equal.")


_ALONE = Ranks()


def rows_of(ranks: Ranks, t: Tensor, rows: Tensor) -> Tensor:
    """t [n, ...] on each process, rows [m] of all processes' -> [m, ...], with gradient."""
    return _RowsOf.apply(ranks, t, rows) if t.is_floating_point() else ranks.gather(t)[rows]  # type: ignore[return-value]


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ranks: Ranks, t: Tensor, rows: Tensor):
        ctx.ranks, ctx.size = ranks, len(t)
        ctx.save_for_backward(rows)
        return ranks.gather(t)[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (rows,) = ctx.saved_tensors
        whole = gradient.new_zeros((ctx.ranks.size * ctx.size, *gradient.shape[1:]))
        return None, ctx.ranks.scatter_sum(whole.index_add_(0, rows, gradient)), None


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_objects(value: T) -> list[T]:
    """Every process's value, on every process. (Pickled in transit between our own processes, never in a file.)"""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def whole_tensors(value: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor that processes hold in shards made whole. Called by all of them.

    Only the main process keeps what was gathered, on the CPU; the others get None in its place. Anything else is
    returned as it is.
    """
    if isinstance(value, Mapping):
        return {key: whole_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole_tensors(item) for item in value)
    if not is_sharded(value):
        return value
    whole = value.full_tensor()
    return whole.detach().cpu() if rank() == 0 else None


def is_sharded(value: Any) -> bool:
    """Whether it is a tensor of which each process holds a shard (FSDP2's), or a module that has such parameters."""
    if isinstance(value, nn.Module):
        return any(is_sharded(parameter) for parameter in value.parameters())
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def full(t: Any) -> Tensor:
    """A tensor, whole. Called by all processes where it may be in shards."""
    return t.full_tensor() if is_sharded(t) else t


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Within it what FSDP2 shards with a whole model, rather than with one part of it, is whole, so that its parts can
    be called by themselves. Entered and left by all processes; any other model is left as it is."""
    if not hasattr(model, "unshard"):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


@contextlib.contextmanager
def own_classes(model: nn.Module) -> Iterator[None]:
    """Within it modules have the classes they were made of, not those that FSDP2 makes of them (FSDPInfoMax)."""
    changed = [(module, type(module)) for module in model.modules() if type(module).__name__.startswith("FSDP")]
    changed = [(module, kind) for module, kind in changed if kind.__bases__[0].__name__ == "FSDPModule"]
    for module, kind in changed:
        module.__class__ = kind.__bases__[1]
    try:
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


def as_main(action: Callable[[], T]) -> T:
    """All processes act, as they do so together; what the main one got, or its UserError, is what all of them get."""
    found: tuple[T | None, UserError | None]
    try:
        found = action(), None
    except UserError as error:
        found = None, error
    value, mistake = gather_objects(found)[0]
    if mistake is not None:
        raise mistake
    return value  # pyright: ignore[reportReturnType]


def on_main(action: Callable[[], T]) -> T:
    """The main process acts; all get its result, or its error, so that none waits for one that has stopped."""
    if world() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:
            told = isinstance(error, UserError | NonFinite)
            outcome[1] = error if told else RuntimeError(f"{type(error).__name__}: {error}")
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
