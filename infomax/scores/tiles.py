"""Tiles: how the score matrix is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from infomax.errors import UserError
from infomax.scores.layout import Pairs

T = TypeVar("T")
# A tile of 512 rows and 512 columns, 1 MiB in fp32, stays in a CPU's caches between the passes over it, and is large
# enough for products at the hardware's rate. Where whole rows are held, fewer of them are, if columns are many. A
# smaller matrix has narrower tiles, so that up to 16 threads have one each. All of it depends on the matrix alone, and
# not on the number of threads, so that the walk's bits do not either.
TILE = 1 << 18  # scores
ROWS = (128, 512)
COLUMNS = 256  # at least
SHARES = 16  # tiles in a block of rows, if they are no narrower than that
HELD = 1 << 22  # scores in a block of whole rows: 16 MiB in fp32


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

    def __post_init__(self) -> None:
        for name, size in (("rows", self.rows), ("columns", self.columns)):
            if size is not None and not (isinstance(size, int) and size >= 1):
                raise UserError(f"{name} is how many {name} a tile has, 1 or more, or None for a choice; not {size!r}.")

    def blocks(self, columns: slice, held: bool) -> Iterator[tuple[slice, list[slice]]]:
        """Blocks of rows and the slices of columns of their tiles; `held`: where a block's tiles are kept."""
        larger = 32 if self.cuda else 1
        rows = larger * (min(max(HELD // self.total, ROWS[0]), ROWS[1]) if held else ROWS[1])
        rows = min(self.n, self.rows or (rows if self.width == 1 else 32))
        cut = _cut(columns, self._wide(rows))
        return ((r, cut) for r in _cut(slice(0, self.n), rows))

    def _wide(self, rows: int) -> int:
        """Columns of a tile of so many rows."""
        if self.columns:
            return self.columns
        if self.cuda:
            return max(1, 32 * TILE // (rows * self.width))
        return max(1, min(TILE // (rows * self.width), max(COLUMNS, -(-self.total // SHARES))))

    def upper(self) -> Iterator[tuple[slice, list[slice]]]:
        """Blocks of rows and the columns of their tiles on the diagonal, which are square, and above it."""
        for r, _ in self.blocks(slice(0, 0), held=False):
            yield r, [r, *_cut(slice(r.stop, self.total), self._wide(r.stop - r.start))]

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


def shares(tiles: Sequence[T]) -> Iterator[list[tuple[int, T]]]:
    """The tiles of a block of rows, numbered, so many at a time that what each adds to the rows' gradient, which lies
    apart until all are there, is little memory."""
    return (list(enumerate(tiles[i : i + SHARES])) for i in range(0, len(tiles), SHARES))


def _cut(whole: slice, size: int) -> list[slice]:
    return [slice(i, min(i + size, whole.stop)) for i in range(whole.start, whole.stop, size)]
