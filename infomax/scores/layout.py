"""Which pairs of a score matrix are negatives: those of two different samples."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from infomax.distributed import Ranks
from infomax.errors import UserError


@dataclass(frozen=True)
class Sides:
    """What a critic scores: rows against columns, which pairs are joint draws, and which are negatives.

    x [n, dx]: anchors, the rows of this process. y [m, dy]: candidates, the columns of this process. ids [n] and
    column_ids [m]: the sample of each row and column, over all processes; a negative is a pair of two different
    samples, and what is neither positive nor negative is ignored. Without them row i and column i are of one sample
    and all samples differ. positive [n]: the column, among this process's, of each row's positive; by default column
    i. extra [k, dy]: further columns that are negatives of every row, alike on all processes and without gradient (a
    queue). weight and name: of this term, where a model has several.
    """

    x: Tensor
    y: Tensor
    ids: Tensor | None = None
    column_ids: Tensor | None = None
    positive: Tensor | None = None
    extra: Tensor | None = None
    weight: float = 1.0
    name: str = ""


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
