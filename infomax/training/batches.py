"""A loader's batch, taken apart into inputs and ids, and refused in a sentence where it cannot be."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from infomax.errors import UserError


def batch_at(loader: Any, step: int, rank: int, world: int, device: Any) -> tuple[list[Tensor], Tensor | None]:
    """The inputs of a loader's batch, [n, ...] each, and the ids [n].

    loader: as training.Loader. step, rank, world, device: as its `at` takes them. Raises UserError: a loader without
    `at`, such as torch's DataLoader; a batch that is a dictionary, or holds something else than tensors.
    """
    if not callable(getattr(loader, "at", None)):
        raise UserError(
            f"A {type(loader).__name__} does not give batches by step number, by which a run resumes: take"
            " data.PairLoader, or give it at(step, rank, world, device), batch_size and a length (training.Loader)."
        )
    batch = loader.at(step, rank, world, device)
    if isinstance(batch, Mapping):
        names = [f"batch[{name!r}]" for name in batch]
        raise UserError(
            f"The loader gives a dictionary, of {', '.join(map(repr, batch)) or 'nothing'}: let its at() return a"
            f" tuple, the inputs one by one and last the ids, as ({', '.join([*names[:3], 'ids'])})."
        )
    if not isinstance(batch, Sequence | Tensor):
        raise UserError(f"A batch is a tuple, the inputs and last the ids; the loader gives a {type(batch).__name__}.")
    *inputs, ids = batch
    for what, t in [*(("inputs", t) for t in inputs), ("ids", ids)]:
        if not isinstance(t, Tensor) and not (what == "ids" and t is None):
            advice = "give its tensors one by one, and last the ids" if isinstance(t, Mapping) else "give tensors"
            raise UserError(f"The {what} of a batch are tensors [n, ...], and the loader gives a {_kind(t)}: {advice}.")
    return inputs, ids


def _kind(t: Any) -> str:
    return f"dictionary, of {', '.join(map(repr, t))}" if isinstance(t, Mapping) else type(t).__name__
