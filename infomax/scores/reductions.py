"""What is computed on one tile of scores: the summands of reductions and their slopes."""

from typing import NamedTuple

import torch
from torch import Tensor

from infomax.scores.functions import FromExponential, Function, Identity, Kind
from infomax.scores.tiles import Tiles


class Reduction(NamedTuple):
    """A sum or log-sum-exp of fn(s) over negatives: per row (dim=1), per column (dim=0) or over all (dim=None).

    `rest` leaves out each row's first negative.
    """

    kind: Kind
    fn: Function
    dim: int | None
    rest: bool = False

    def total(self, tile: Tensor) -> Tensor:
        """Sums of a tile's entries, in float64: of rows, of columns, or 0-d."""
        return (tile.sum() if self.dim is None else tile.sum(self.dim)).double()

    def along(self, t: Tensor) -> Tensor:
        """Broadcasts a number a row, a number a column, or one number over a tile."""
        return t[:, None] if self.dim == 1 else t

    def place(self, r: slice, c: slice):
        """Which part of the result a tile adds to."""
        return {1: r, 0: c, None: ...}[self.dim]

    @property
    def of(self) -> tuple[Kind, Function]:
        return self.kind, self.fn

    @property
    def mirrored(self) -> "Reduction":
        """The same of the transposed matrix."""
        return self if self.dim is None else self._replace(dim=1 - self.dim)


Forms = dict[tuple[Kind, Function], FromExponential]


def shared_forms(reductions: tuple[Reduction, ...], largest: float) -> Forms | None:
    """Each reduction as a function of e^s, |s| <= largest, computed once for all; None if any lacks such a form."""
    forms = {q.of: q.fn.from_exponential(q.kind, largest) for q in reductions}
    return None if None in forms.values() else forms  # type: ignore[return-value]


class Tile:
    """A tile of scores while it is worked on: s itself, or e = e^s where `forms` say how reductions follow from it."""

    def __init__(
        self, tiles: Tiles, s: Tensor, r: slice, c: slice, forms: Forms | None, room: Tensor, rest: bool
    ):  # fmt: skip
        self.tiles, self.r, self.c, self.forms = tiles, r, c, forms
        self.content = s
        self.room = room  # of the tile's shape
        self.rest = rest  # all reductions leave out first negatives: one mask serves them
        if forms is not None:
            self._fill(s.exp_(), 0.0, self.rest)

    def peak(self, q: Reduction) -> Tensor | None:
        """The greatest fn(s) of rows, columns or the tile, -inf where no negative; None: no shift is needed."""
        if self.forms is not None or q.kind == "sum":
            return None
        value = q.fn(self.content)
        value = self._fill(value.clone() if value is self.content else value, -torch.inf, q.rest)
        return value.max() if q.dim is None else value.amax(q.dim)

    def summand(self, q: Reduction, peak: Tensor | None) -> Tensor:
        """fn(s) for a sum, e^(fn(s) - peak) for a log-sum-exp, 0 where no negative. It may lie in `room`.

        Or fewer numbers, with the same sums along what the reduction runs over.
        """
        if self.forms is not None:
            e, form = self._shared(q), self.forms[q.of]
            value = form.value(e, self.room, 0 if q.dim == 0 else 1)
            return self._fill(value, 0.0, q.rest) if form.masked else value
        value = q.fn(self.content)
        if q.kind == "logsumexp":
            # What has no negative, or overflows, is not shifted.
            shift = 0.0 if peak is None else q.along(torch.where(peak.isfinite(), peak, 0.0))
            value = torch.sub(value, shift, out=self.room).exp_()
        elif value is self.content:
            value = value.clone()
        return self._fill(value, 0.0, q.rest)

    def slope(self, q: Reduction, peak: Tensor | None, summand: Tensor | None = None) -> Tensor:
        """d summand / d s. It may lie in `room`, in `summand`, or be the content of the tile: it is only read."""
        if self.forms is not None:
            return self.forms[q.of].slope(self._shared(q), self.room)
        if q.kind == "sum":
            return self._fill(q.fn.derivative(self.content), 0.0, q.rest)
        value = self.summand(q, peak) if summand is None else summand
        return value if isinstance(q.fn, Identity) else value.mul_(q.fn.derivative(self.content))

    def scaled(self, slope: Tensor, scale: Tensor) -> Tensor:
        """slope * scale, in `room`."""
        return torch.mul(slope, scale, out=self.room)

    def _shared(self, q: Reduction) -> Tensor:
        if q.rest == self.rest:
            return self.content
        return self._fill(self.content.clone(), 0.0, rest=True)

    def _fill(self, tile: Tensor, value: float, rest: bool) -> Tensor:
        return self.tiles.fill(tile, self.r, self.c, value, rest)
