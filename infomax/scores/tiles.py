"""Tiles: how the score matrix is cut, and which of its entries are no negatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TILE = 1 << 19  # scores in a tile: 2 MiB in fp32, which stays in a CPU's cache between the passes over it
ROW_BLOCK = 1 << 22  # scores in a block of whole rows: 16 MiB in fp32
# Rows of a block: with fewer, products run below the hardware's rate, and the formula is asked for weights too often.
ROWS = (256, 512)


@dataclass(frozen=True)
class Pairs:
    """The entries that are no negatives beside a matrix's own diagonal, as sorted rows and their columns."""

    rows: Tensor  # [p]
    columns: Tensor  # [p]

    @cached_property
    def bounds(self) -> list[int]:
        """Where each row's pairs begin; one past the last row at the end."""
        last = int(self.rows[-1]) + 1 if len(self.rows) else 0
        return torch.searchsorted(self.rows, torch.arange(last + 1, device=self.rows.device)).tolist()

    @staticmethod
    def sorted(rows: Tensor, columns: Tensor) -> "Pairs":
        order = (rows * (columns.max() + 1) + columns).argsort()
        return Pairs(rows[order], columns[order])

    def equal(self, other: "Pairs") -> bool:
        return torch.equal(self.rows, other.rows) and torch.equal(self.columns, other.columns)

    def within(self, r: slice, c: slice) -> Tensor:
        """The flat positions in a tile of the pairs inside it."""
        bounds = self.bounds
        low, high = (bounds[min(i, len(bounds) - 1)] for i in (r.start, r.stop))
        rows, columns = self.rows[low:high] - r.start, self.columns[low:high] - c.start
        inside = (columns >= 0) & (columns < c.stop - c.start)
        return (rows * (c.stop - c.start) + columns)[inside]


@dataclass(frozen=True)
class Tiles:
    """A matrix of n rows and `total` columns, whose row i has its positive in column start + i."""

    n: int
    total: int
    start: int
    rows: int | None  # of a tile, as the caller asks
    columns: int | None
    width: int  # numbers of working memory per score
    same: Pairs | None = None  # pairs that are no negatives; None: the positives alone
    ids: tuple[Tensor, Tensor] | None = None  # of rows and of columns, where such pairs are too many to list
    first: Pairs | None = None  # each row's first negative, which reductions over the `rest` leave out

    def whole_rows(self) -> bool:
        """Whether a block of rows over all columns may be held: not if tiles were asked to be narrower."""
        return self.columns is None or self.columns >= self.total

    def row_blocks(self) -> Iterator[slice]:
        most = self.rows or min(max(ROW_BLOCK // self.total, ROWS[0]), ROWS[1])
        for r in range(0, self.n, most):
            yield slice(r, min(r + most, self.n))

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        rows = self.rows or max(1, min(self.n, ROWS[1] if self.width == 1 else 32))
        columns = self.columns or max(1, min(self.total, TILE // (rows * self.width)))
        for r in range(0, self.n, rows):
            for c in range(0, self.total, columns):
                yield slice(r, min(r + rows, self.n)), slice(c, min(c + columns, self.total))

    def upper(self) -> Iterator[tuple[slice, slice]]:
        """Square tiles on and above the diagonal."""
        side = self.rows or 1024
        for r in range(0, self.n, side):
            for c in range(r, self.n, side):
                yield slice(r, min(r + side, self.n)), slice(c, min(c + side, self.n))

    def fill(self, tile: Tensor, r: slice, c: slice, value: float, rest: bool = False) -> Tensor:
        """Writes `value` where a tile's pair is no negative; in place."""
        if self.same is not None:
            tile.view(-1).index_fill_(0, self.same.within(r, c), value)
        elif self.ids is not None:
            tile.masked_fill_(self.ids[0][r, None] == self.ids[1][None, c], value)
        else:
            first = self.start + r.start  # the column of the first row's positive
            low, high = max(first, c.start), min(first + tile.shape[0], c.stop)
            if low < high:
                tile[low - first : high - first, low - c.start : high - c.start].fill_diagonal_(value)
        if rest and self.first is not None:
            tile.view(-1).index_fill_(0, self.first.within(r, c), value)
        return tile


def pairs_of_equal(own: Tensor, ids: Tensor) -> Pairs | None:
    """The pairs (i, j) with own[i] == ids[j]; None where they are too many to list."""
    ordered, order = ids.sort(stable=True)
    low, high = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
    counts = high - low
    ends = counts.cumsum(0)
    if int(ends[-1]) > 16 * len(ids):
        return None
    rows = torch.repeat_interleave(torch.arange(len(own), device=own.device), counts)
    place = torch.arange(len(rows), device=own.device) - (ends - counts)[rows] + low[rows]
    return Pairs(rows, order[place])
