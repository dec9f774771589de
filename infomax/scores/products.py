"""From features to a tile of scores, and from a tile's gradient back to features: inner products, or any critic."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from infomax.errors import UserError

_precision: str = "fp32"


def set_precision(precision: str) -> None:
    """How the engine multiplies float32 features: "fp32", the default, or "bf16", faster where the CPU has bf16 units.

    Inputs, outputs, sums, exponentials and positives stay float32 or better. torch's own setting is changed only
    while the engine runs. Raises UserError: another word.
    """
    global _precision
    if precision not in ("fp32", "bf16"):
        raise UserError(f'The precision of products is "fp32" or "bf16", not {precision!r}.')
    _precision = precision


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
    """A running gradient of features and of the critic's parameters."""

    def __init__(self, parts: Sequence[Tensor | None]):
        self.parts = [None if part is None else torch.zeros_like(part) for part in parts]

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


class InnerProduct:
    """Scores <ex, ey> + offset. A tile's gradient goes back by two products; scales of rows ride on the features."""

    def __init__(self, offset: Tensor | float, ex: Tensor, ey: Tensor):
        self.ex, self.ey = ex, ey
        self.offset = None
        if isinstance(offset, Tensor) or offset != 0:
            self.offset = torch.as_tensor(offset, dtype=ex.dtype, device=ex.device)

    def largest(self) -> float:
        """No score is greater than this, in absolute value."""
        shift = 0.0 if self.offset is None else abs(float(self.offset.detach()))
        return _largest_norm(self.ex) * _largest_norm(self.ey) + shift

    def scores(self, r: slice, c: slice, out: Tensor | None) -> Tensor:
        x, y = self.ex[r], self.ey[c]
        if self.offset is None:
            return torch.mm(x, y.T, out=out)
        return torch.addmm(self.offset, x, y.T, out=out)

    def pull(
        self, gradient: Gradient, tile: Tensor, r: slice, c: slice,
        rows: Tensor | None = None, columns: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Adds the gradient that tile, [b, c], times a number a row and a number a column, is d objective / d s of."""
        x, y = self.ex[r], self.ey[c]
        rows = None if rows is None else rows.to(tile.dtype)[:, None]
        columns = None if columns is None else columns.to(tile.dtype)[:, None]
        if gradient.ex is not None:
            y = y if columns is None else y * columns
            if rows is None:
                gradient.ex[r].addmm_(tile, y)
            else:
                gradient.ex[r].addcmul_(tile @ y, rows)
        if gradient.ey is not None:
            x = x if rows is None else x * rows
            if columns is None:
                gradient.ey[c].addmm_(tile.T, x)
            else:
                gradient.ey[c].addcmul_(tile.T @ x, columns)
        if len(gradient.parts) > 2 and gradient.parts[2] is not None:  # the offset's, a sum over the tile
            sums = tile.sum(1) if columns is None else tile @ columns.squeeze(1)
            gradient.parts[2] += (sums if rows is None else sums * rows.squeeze(1)).sum()


class AnyCritic:
    """Scores by critic.score, one tile with its autograd graph at a time."""

    def __init__(self, critic: Any, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], graph: bool):
        self.critic, self.ex, self.ey, self.parameters, self.graph = critic, ex, ey, parameters, graph
        self.kept: tuple[Tensor, list[Tensor | None]] | None = None

    def largest(self) -> float:
        return float("inf")

    def scores(self, r: slice, c: slice, out: Tensor | None) -> Tensor:
        leaves = [self.ex[r].detach(), self.ey[c].detach()]
        for leaf in leaves:
            leaf.requires_grad_(self.graph and leaf.is_floating_point())
        with torch.set_grad_enabled(self.graph):
            s = self.critic.score(*leaves)
        self.kept = s, [*leaves, *self.parameters]
        return s.detach()

    def pull(
        self, gradient: Gradient, tile: Tensor, r: slice, c: slice,
        rows: Tensor | None = None, columns: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Adds the gradient that tile, [b, c], times a number a row and a number a column, is d objective / d s of."""
        assert self.kept is not None
        s, leaves = self.kept
        tile = tile if rows is None else tile * rows.to(tile.dtype)[:, None]
        tile = tile if columns is None else tile * columns.to(tile.dtype)
        wanted = [(leaf, part) for leaf, part in zip(leaves, gradient.parts, strict=True)
                  if part is not None and leaf is not None and leaf.requires_grad]  # fmt: skip
        if not s.requires_grad:
            return
        # The graph is kept: several reductions may each pull their own gradient through it.
        found = torch.autograd.grad(s, [leaf for leaf, _ in wanted], tile, allow_unused=True, retain_graph=True)
        for (_, part), piece in zip(wanted, found, strict=True):
            if piece is not None:
                place = r if part is gradient.ex else c if part is gradient.ey else ...
                part[place] += piece


def _largest_norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t, dim=1).amax()) if t.is_floating_point() and len(t) else float("inf")
