"""What the engine reads of a critic: whether its score is an inner product, its dtype, a given matrix as a critic."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infomax.errors import UserError


class GivenMatrix(torch.nn.Module):
    """The critic of a given matrix: x's features are its rows, y's are column numbers."""

    width = 1

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex[:, ey]

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex.gather(1, ey[:, None]).squeeze(1)


@functools.cache
def _said(kind: type, what: str, *of: str) -> bool:
    """Whether a critic's word `what` was said of the methods `of` that it has: a subclass that changes one of them
    must say it anew."""
    for base in kind.__mro__:
        said = {what, *of} & vars(base).keys()
        if said:
            return len(said) == 1 + len(of)
    return False


def offset_of(critic: Any) -> Tensor | float | None:
    """Of a critic whose score is <ex, ey> + offset, and says so; None for any other."""
    return critic.offset if _said(type(critic), "offset", "score") else None


def symmetric_embedding(critic: Any) -> Callable[[Tensor], Tensor] | None:
    """critic.embed_alike, of a critic with score(x, y) = <e(x), e(y)> + offset; None for any other."""
    return critic.embed_alike if _said(type(critic), "embed_alike", "embed", "score", "offset") else None


def refuse_hidden_weights(critic: Any) -> None:
    """Raises UserError for a critic with tensors to train that is no module: their gradient would be lost."""
    plain = not isinstance(critic, torch.nn.Module)
    if plain and any(isinstance(t, Tensor) and t.requires_grad for t in vars(critic).values()):
        raise UserError(
            f"{type(critic).__name__} holds tensors to train, which only a torch.nn.Module can tell of:"
            " derive it from infomax.critics.Critic."
        )


def as_taken_by(critic: Any, t: Tensor) -> Tensor:
    """t as a critic whose parameters are float16 or bfloat16 takes it."""
    parameters = critic.parameters() if isinstance(critic, torch.nn.Module) else ()
    half = next((p.dtype for p in parameters if p.ndim and p.dtype in (torch.float16, torch.bfloat16)), None)
    return t if half is None or not t.is_floating_point() else t.to(half)


def at_least_float32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
