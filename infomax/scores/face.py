"""What the engine reads of a critic: whether its score is an inner product, its dtype, a given matrix as a critic."""

import functools
import math
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
    if not isinstance(critic, torch.nn.Module) or not (critic._parameters or critic._modules):
        return t  # a small batch would feel the walk over parameters
    half = next((p.dtype for p in critic.parameters() if p.ndim and p.dtype in (torch.float16, torch.bfloat16)), None)
    return t if half is None or not t.is_floating_point() else t.to(half)


def at_least_float32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def refuse_shape(critic: Any, method: str, found: Tensor, wanted: tuple[int, ...]) -> None:
    """Raises UserError for scores of another shape than that of their pairs."""
    if found.shape != wanted:
        given = " rows of x and ".join(map(str, wanted)) + (" rows of y" if len(wanted) > 1 else " pairs")
        raise UserError(
            f"{type(critic).__name__}.{method} gave {list(found.shape)} for {given}; it must give {list(wanted)}."
        )


def refuse_other_than_tensors(**sides: Any) -> None:
    """Raises UserError for one of `sides`, by its name, that is no tensor, or a sparse one."""
    for name, t in sides.items():
        if not isinstance(t, Tensor):
            raise UserError(
                f"{name} is a {type(t).__name__}, and scores are of tensors: give torch.as_tensor(...) of it."
            )
        if t.layout is not torch.strided:
            raise UserError(f"{name} is a sparse tensor, and scores are of dense ones: give .to_dense() of it.")


def refuse_features(critic: Any, x: Tensor, y: Tensor, extra: Tensor | None = None) -> None:
    """Raises UserError for data that are not finite.

    Data alone: what has a gradient comes from a network that trains, whose failure is the training loop's to see, and
    so is what is scored where no gradient is made. On a GPU nothing is asked, for that is to wait for it. Of scores
    that are given -inf is taken, a pair that cannot be, and +inf is not.
    """
    if not torch.is_grad_enabled():
        return
    given = isinstance(critic, GivenMatrix)
    for name, t in (("matrix" if given else "x", x), ("y", y), ("extra", extra)):
        # A sum is the cheapest to ask: it is finite where all is, but for numbers near the largest.
        if t is None or t.requires_grad or t.is_cuda or not t.is_floating_point() or math.isfinite(float(t.sum())):
            continue
        wrong = t.isnan() | t.isposinf() if given else ~t.isfinite()
        what = "NaN or infinite numbers" if not given else "NaN" if bool(t.isnan().any()) else "+inf"
        refuse_rows(name, wrong, what)


def refuse_rows(name: str, wrong: Tensor, what: str = "NaN or infinite numbers") -> None:
    """Raises UserError where numbers [n, ...] of `name` are wrong, with the rows that have some; what: they are."""
    rows = wrong.flatten(1).any(1).nonzero().flatten().tolist() if wrong.ndim > 1 else []
    if rows:
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise UserError(f"{name} has {what} in {len(rows)} of {len(wrong)} rows ({shown}); leave those rows out.")


def dense(critic: Any, x: Tensor, y: Tensor) -> Tensor:
    """critic.score of all pairs of rows [n, m]. Raises UserError for rows that are no tensors, are not finite, or do
    not fit."""
    refuse_other_than_tensors(x=x, y=y)
    refuse_features(critic, x, y)
    ex, ey = embedded(critic, x, y)
    if offset_of(critic) is not None and ex.dtype != ey.dtype:
        kinds = [str(t.dtype).removeprefix("torch.") for t in (x, y)]
        raise UserError(f"x is {kinds[0]} and y is {kinds[1]}: bring them to one dtype, as by .float().")
    return critic.score(ex, ey)


def a_number_a_row(network: torch.nn.Module, name: str, rows: Tensor) -> Tensor:
    """network(rows [n, d]) as [n]. Raises UserError, which calls it by `name`, for what cannot read them, or gives
    other than one number a row."""
    try:
        found = network(rows)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"The {name} cannot read x, rows of {list(rows.shape[1:])} numbers: {why}.") from error
    if not isinstance(found, Tensor) or found.numel() != len(rows):
        shown = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"The {name} gives one number for each of the {len(rows)} rows of x, and not {shown}.")
    return found.reshape(-1)


def embedded(critic: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """critic.embed; raises UserError for what is no critic, and where features and the critic's parameters are on
    several devices or of several dtypes."""
    if isinstance(critic, type) or not hasattr(critic, "embed"):
        shown = f"the class {critic.__name__}" if isinstance(critic, type) else f"a {type(critic).__name__}"
        raise UserError(
            f"A critic is an object with embed and score, such as infomax.Cosine(0.1), and not {shown}: derive one of"
            " your own from infomax.critics.Critic."
        )
    try:
        return critic.embed(as_taken_by(critic, x), as_taken_by(critic, y))
    except RuntimeError as error:
        parameters = list(critic.parameters()) if isinstance(critic, torch.nn.Module) else []
        found = {str(t.device) for t in (x, y, *parameters)}
        if len(found) > 1:
            raise UserError(
                f"The features and the critic are on several devices, {', '.join(sorted(found))}; move them to one."
            ) from error
        dtypes = {str(t.dtype).removeprefix("torch.") for t in (x, y, *(p for p in parameters if p.ndim))}
        if len(dtypes) > 1:
            raise UserError(
                f"The features and the critic's parameters are of several dtypes, {', '.join(sorted(dtypes))}; bring"
                " them to one, as by .float()."
            ) from error
        raise
