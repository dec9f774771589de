"""From features to a tile of scores, and from a tile's gradient back to features: inner products, or any critic."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.scores.face import refuse_shape

_precision: str = "fp32"


def set_precision(precision: str) -> None:
    """How the engine multiplies float32 features, by `precision`: "fp32", the default, or "bf16", faster with AMX.

    Inputs, outputs, sums, exponentials and positives stay float32 or better. torch's own setting is changed only
    while the engine runs. Raises UserError: another word.
    """
    global _precision
    if precision not in ("fp32", "bf16"):
        raise UserError(f'The precision of products is "fp32" or "bf16", not {precision!r}.')
    _precision = precision


def exact_products() -> bool:
    """Whether products are as exact as the features that they are of."""
    return _precision == "fp32"


@contextlib.contextmanager
def _settings(device: str) -> Iterator[None]:
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    try:
        if _precision == "bf16":
            setting.fp32_precision = "bf16"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        if _precision == "bf16":
            setting.fp32_precision = before


def products(t: Tensor) -> contextlib.AbstractContextManager[None]:
    """Around the engine's work on t's device: no autocast, and the chosen precision of products."""
    device = t.device.type
    if _precision == "fp32" and not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()  # a small batch would notice the rest
    return _settings(device)


class Gradient:
    """A running gradient of features and of the critic's parameters, these in float32 at least."""

    def __init__(self, parts: Sequence[Tensor | None]):
        self.parts = filled([None] * len(parts), parts)

    @property
    def ex(self) -> Tensor | None:
        return self.parts[0]

    @property
    def ey(self) -> Tensor | None:
        return self.parts[1]

    def scale_(self, factor: Tensor | float) -> None:
        for part in self.parts:
            if part is not None:
                part.mul_(factor)


def filled(parts: Sequence[Tensor | None], leaves: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Parts of a gradient, with zeros for those that are missing and wanted."""
    return [
        torch.zeros(leaf.shape, dtype=torch.promote_types(leaf.dtype, torch.float32), device=leaf.device)
        if part is None and leaf is not None else part
        for part, leaf in zip(parts, leaves, strict=True)
    ]  # fmt: skip


Part = tuple[Tensor | None, Tensor | None]  # of a tile's gradient: of its rows [b, d], of the offset 0-d
Into = Callable[[int, int], Tensor]


class InnerProduct:
    """Scores <ex, ey> + offset. A tile's gradient goes back by two products; scales of rows ride on the features.

    Tiles are stored by columns: then all three products run at the hardware's rate on a CPU, where S^T X would lose a
    sixth of it.
    """

    def __init__(self, offset: Tensor | float, ex: Tensor, ey: Tensor):
        self.ex, self.ey = ex, ey
        self.first = 0  # the number of ey's first row among all columns
        self.into = 0  # where the gradient of that row lies
        self.offset = None
        if isinstance(offset, Tensor) or offset != 0:
            self.offset = torch.as_tensor(offset, dtype=ex.dtype, device=ex.device)

    def largest(self) -> float:
        """No score is greater than this, in absolute value."""
        shift = 0.0 if self.offset is None else abs(float(self.offset.detach()))
        return _largest_norm(self.ex) * _largest_norm(self.ey) + shift

    def without_graph(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # it makes none

    def pair(self, ey: Tensor) -> Tensor:
        """ey [n, d], of each row's positive -> the scores of the positive pairs [n]."""
        pair = torch.cat([(x * y).sum(1) for x, y in zip(self.ex.split(4096), ey.split(4096), strict=True)])
        return pair if self.offset is None else pair + self.offset

    def scores(self, r: slice, c: slice, out: Tensor) -> Tensor:
        """Into out [b, c], which is stored by columns."""
        torch.mm(self.ey[_within(c, self.first)], self.ex[r].T, out=out.T)
        return out if self.offset is None else out.add_(self.offset)

    def pull(
        self, gradient: Gradient, tile: Tensor, r: slice, c: slice, rows: Tensor | None = None, *, into: Into
    ) -> Part:
        """The gradient that tile, [b, c], times a number a row, is d objective / d s of: columns' is added at once.

        Rows' and the offset's, of which tiles beside this one have a part, are given back for add(). into(b, d): memory
        for the rows'.
        """
        place = _moved(c, self.first - self.into, gradient.ey)
        c = _within(c, self.first)
        if gradient.ey is not None and place is not None:
            x = self.ex[r] if rows is None else self.ex[r] * rows.to(tile.dtype)[:, None]
            gradient.ey[place].addmm_(tile[:, : place.stop - place.start].T, x)
        y = self.ey[c]
        of_rows = None if gradient.ex is None else torch.mm(tile, y, out=into(len(tile), y.shape[1]))
        offset = None
        if len(gradient.parts) > 2 and gradient.parts[2] is not None:  # a sum over the tile
            offset = tile.sum() if rows is None else tile.sum(1) @ rows.to(tile.dtype)
        return of_rows, offset

    def add(self, gradient: Gradient, parts: Sequence[Part], r: slice, rows: Tensor | None = None) -> None:
        """Adds what pull() gave back of the tiles of a block of rows."""
        if gradient.ex is not None:
            total = gradient.ex[r] if rows is None else torch.zeros_like(gradient.ex[r])
            for of_rows, _ in parts:
                assert of_rows is not None
                total += of_rows
            if rows is not None:
                gradient.ex[r].addcmul_(total, rows.to(total.dtype)[:, None])
        for _, offset in parts:
            if offset is not None:
                gradient.parts[2].add_(offset)  # type: ignore[union-attr]

    def pull_pairs(self, parts: list[Tensor | None], ey: Tensor, pair: Tensor, positive: Tensor | None) -> None:
        """Adds the gradient that pair, [n], is d objective / d positive of; ey [m, d] are this process's columns."""
        pair = pair.to(self.ex.dtype)[:, None]
        if parts[0] is not None:
            parts[0].addcmul_(ey if positive is None else ey[positive], pair)
        if parts[1] is not None and positive is None:
            parts[1][: len(ey)].addcmul_(self.ex, pair)
        elif parts[1] is not None and positive is not None:
            # Several rows may share a column: index_put_ adds them in an order that repeats, on a GPU too.
            parts[1].index_put_((positive,), (self.ex * pair).to(parts[1].dtype), accumulate=True)
        if len(parts) > 2 and parts[2] is not None:
            parts[2] += pair.sum()


class AnyCritic:
    """Scores by critic.score, one tile with its autograd graph at a time."""

    def __init__(self, critic: Any, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], graph: bool):
        self.critic, self.ex, self.ey, self.parameters, self.graph = critic, ex, ey, parameters, graph
        self.first = self.into = 0
        self.kept: tuple[Tensor, list[Tensor | None]] | None = None

    def largest(self) -> float:
        return float("inf")

    def scores(self, r: slice, c: slice, out: Tensor) -> Tensor:
        leaves = [self.ex[r].detach(), self.ey[_within(c, self.first)].detach()]
        for leaf in leaves:
            leaf.requires_grad_(self.graph and leaf.is_floating_point())
        with torch.set_grad_enabled(self.graph):
            s = self.critic.score(*leaves)
        refuse_shape(self.critic, "score", s, (len(leaves[0]), len(leaves[1])))
        self.kept = s, [*leaves, *self.parameters]
        return s.detach().to(out.dtype)

    @contextlib.contextmanager
    def without_graph(self) -> Iterator[None]:
        before, self.graph = self.graph, False
        try:
            yield
        finally:
            self.graph = before

    def pull(
        self, gradient: Gradient, tile: Tensor, r: slice, c: slice, rows: Tensor | None = None, *, into: Into
    ) -> Part:
        """Adds the gradient that tile, [b, c], times a number a row, is d objective / d s of: all of it at once."""
        assert self.kept is not None
        s, leaves = self.kept
        place = _moved(c, self.first - self.into, gradient.ey)
        tile = tile if rows is None else tile * rows.to(tile.dtype)[:, None]
        wanted = [(leaf, part) for leaf, part in zip(leaves, gradient.parts, strict=True)
                  if part is not None and leaf is not None and leaf.requires_grad
                  and not (part is gradient.ey and place is None)]  # fmt: skip
        if not s.requires_grad:
            return None, None
        # The graph is kept: several reductions may each pull their own gradient through it.
        of = [leaf for leaf, _ in wanted]
        found = torch.autograd.grad(s, of, tile.to(s.dtype), allow_unused=True, retain_graph=True)
        for (_, part), piece in zip(wanted, found, strict=True):
            if piece is None:
                continue
            if part is gradient.ey and place is not None:
                part[place] += piece[: place.stop - place.start]
            else:
                part[r if part is gradient.ex else ...] += piece
        return None, None

    def add(self, gradient: Gradient, parts: Sequence[Part], r: slice, rows: Tensor | None = None) -> None:
        """Nothing: pull() has added it."""


def _within(c: slice, first: int) -> slice:
    return slice(c.start - first, c.stop - first) if first else c


def _moved(c: slice, by: int, gradient: Tensor | None) -> slice | None:
    """Where columns' gradient goes, as far as one is wanted; None where none is, as of a frozen queue's."""
    c = _within(c, by)
    if gradient is not None and c.stop > len(gradient):
        return slice(c.start, len(gradient)) if c.start < len(gradient) else None
    return c


def _largest_norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t, dim=1).amax()) if t.is_floating_point() and len(t) else float("inf")
