"""Tiles: how the score matrix is cut, and which of its entries are negatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.scores.ranks import Ranks

# A tile of 256 rows and 2048 columns, 2 MiB in fp32, stays in a CPU's caches between the passes over it, and is large
# enough for products at the hardware's rate. Where whole rows are held, fewer of them are, if columns are many.
TILE = 1 << 19  # scores
ROWS = (128, 256)
HELD = 1 << 22  # scores in a block of whole rows: 16 MiB in fp32


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

    def within(self, r: slice, c: slice) -> tuple[Tensor, Tensor]:
        """Rows and columns, in a tile, of the pairs inside it."""
        bounds = self.bounds
        low, high = (bounds[min(i, len(bounds) - 1)] for i in (r.start, r.stop))
        rows, columns = self.rows[low:high] - r.start, self.columns[low:high] - c.start
        inside = (columns >= 0) & (columns < c.stop - c.start)
        return rows[inside], columns[inside]

    def fill(self, tile: Tensor, r: slice, c: slice, value: float) -> None:
        rows, columns = self.within(r, c)
        if tile.is_contiguous():
            tile.view(-1).index_fill_(0, rows * tile.shape[1] + columns, value)
        else:  # stored by columns
            tile.T.view(-1).index_fill_(0, columns * tile.shape[0] + rows, value)


@dataclass(slots=True)
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
    cuda: bool = False  # a GPU has no use for tiles that fit a CPU's caches

    def blocks(self, columns: slice, held: bool) -> Iterator[tuple[slice, list[slice]]]:
        """Blocks of rows and the slices of columns of their tiles; `held`: where a block's tiles are kept."""
        larger = 32 if self.cuda else 1
        rows = larger * (min(max(HELD // self.total, ROWS[0]), ROWS[1]) if held else ROWS[1])
        rows = min(self.n, self.rows or (rows if self.width == 1 else 32))
        wide = self.columns or max(1, larger * TILE // (rows * self.width))
        cut = _cut(columns, wide)
        return ((r, cut) for r in _cut(slice(0, self.n), rows))

    def tiles(self, columns: slice) -> Iterator[tuple[slice, slice]]:
        return ((r, c) for r, cut in self.blocks(columns, held=False) for c in cut)

    def upper(self) -> Iterator[tuple[slice, slice]]:
        """Tiles on the diagonal, which are square, and above it."""
        for r, _ in self.blocks(slice(0, 0), held=False):
            yield r, r
            for c in _cut(slice(r.stop, self.total), self.columns or TILE // (r.stop - r.start)):
                yield r, c

    def fill(self, tile: Tensor, r: slice, c: slice, value: float, rest: bool = False) -> Tensor:
        """Writes `value` where a tile's pair is no negative; in place."""
        if self.same is not None:
            self.same.fill(tile, r, c, value)
        elif self.ids is not None:
            tile.masked_fill_(self.ids[0][r, None] == self.ids[1][None, c], value)
        else:
            first = self.start + r.start  # the column of the first row's positive
            low, high = max(first, c.start), min(first + tile.shape[0], c.stop)
            if low < high:
                tile[low - first : high - first, low - c.start : high - c.start].fill_diagonal_(value)
        if rest and self.first is not None:
            self.first.fill(tile, r, c, value)
        return tile


def _cut(whole: slice, size: int) -> list[slice]:
    return [slice(i, min(i + size, whole.stop)) for i in range(whole.start, whole.stop, size)]


@dataclass(frozen=True)
class Samples:
    """Which pairs of a matrix of n rows and `total` columns are negatives: those of two different samples."""

    per_row: Tensor  # [n]: negatives of each row, float64
    fewest: int  # of any row of any process
    count: int  # over all processes
    ids: Tensor | None = None  # [total]; None: all rows differ
    same: Pairs | None = None  # the pairs that are not; None where these are the positives alone, or too many to list
    unlisted: tuple[Tensor, Tensor] | None = None  # then, ids of rows and of columns

    @staticmethod
    def distinct(n: int, ranks: Ranks, device: torch.device) -> "Samples":
        negatives = n * ranks.size - 1
        per_row = torch.full((n,), float(negatives), dtype=torch.float64, device=device)
        return Samples(per_row, negatives, n * ranks.size * negatives)

    @staticmethod
    def of(ids: Tensor, ranks: Ranks) -> "Samples":
        """Raises UserError where no pair is a negative."""
        everyone = ranks.gather(ids)
        total = len(everyone)
        _, inverse, counts = everyone.unique(return_inverse=True, return_counts=True)
        fewest = total - int(counts.max())
        if fewest < 1:
            raise UserError(f"All {total} rows have the same id, so no pair is a negative; ids name samples.")
        count = int(total**2 - counts.square().sum())
        same = pairs_of_equal(ids, everyone) if len(counts) < total else None
        listed = same is not None or len(counts) == total
        return Samples(
            (total - counts[ranks.own(inverse)]).double(), fewest, count, everyone, same,
            None if listed else (ranks.own(everyone), everyone),
        )  # fmt: skip

    @staticmethod
    def of_views(n: int, device: torch.device) -> "Samples":
        """Of both views of n different samples, on one process: as of([0 .. n - 1, 0 .. n - 1]), without sorting."""
        rows = torch.arange(2 * n, device=device)
        columns = torch.stack([rows % n, rows % n + n], 1).flatten()
        per_row = torch.full((2 * n,), 2.0 * n - 2, dtype=torch.float64, device=device)
        same = Pairs(rows.repeat_interleave(2), columns)
        return Samples(per_row, 2 * n - 2, 2 * n * (2 * n - 2), rows % n, same)


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
