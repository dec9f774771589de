"""Sides: which rows are scored against which columns and which queue, and which of those pairs are negatives."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from infomax.distributed import Ranks
from infomax.errors import UserError
from infomax.scores.face import refuse_other_than_tensors


def refuse_other_than_sides(sides: object) -> None:
    """Raises UserError for what is no Sides."""
    if not isinstance(sides, Sides):
        raise UserError(
            f"Scores.of takes a critic and Sides, and not a {type(sides).__name__}: give Sides(x, y), or both tensors"
            " to Scores(critic, x, y); a matrix of scores goes to Scores.from_matrix(matrix)."
        )


@dataclass(frozen=True)
class Sides:
    """What a critic scores: rows against columns, which pairs are joint draws, and which are negatives.

    x [n, dx]: anchors, the rows of this process. y [m, dy]: candidates, the columns of this process. ids [n] and
    column_ids [m]: the sample of each row and column, over all processes; a negative is a pair of two different
    samples, and what is neither positive nor negative is ignored. Without column_ids they are ids; without both,
    column j is sample j and all columns differ, and a row is of its positive's sample. positive [n]: the column, among
    this process's, of each row's positive; by default column i. extra [k, dy]: further columns, alike on all processes
    and without gradient (a queue). extra_ids [k]: the sample of each of these, which is no negative of a row of that
    sample; without them all are negatives of every row. sharded: extra and extra_ids are this process's share of such
    columns, as many on each, and all processes' shares are columns of every row. weight and name: of this term, where
    a model has several. Numbers of rows and of columns are equal on all processes.

    Negatives of the batch and of `extra` weigh the same in every mean over negatives: both are draws from p(x) p(y), so
    each term has one expectation, and a mean of more of them has the same one and less variance. The rows of a queue
    must be draws from p(y) for that: of the same data, of other samples than the row's (by extra_ids, or by what they
    are), and embedded alike, which a queue of a slowly moving copy of the encoder is nearly.
    """

    x: Tensor
    y: Tensor
    ids: Tensor | None = None
    column_ids: Tensor | None = None
    positive: Tensor | None = None
    extra: Tensor | None = None
    weight: float = 1.0
    name: str = ""
    extra_ids: Tensor | None = None
    sharded: bool = False


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
    ids: Tensor | None = None  # of columns less `extra`; None: all rows differ
    same: Pairs | None = None  # the pairs that are not; None where these are the positives alone, or too many to list
    unlisted: tuple[Tensor, Tensor] | None = None  # then, ids of rows and of columns
    own: Tensor | None = None  # [n]: ids of rows, where these are not those of this process's columns
    per_column: Tensor | None = None  # [n]: negatives of the column of each row's positive; None: as per_row
    extra: int = 0  # columns at the end that are no row's positive
    extra_ids: Tensor | None = None  # [extra]; None: they are negatives of every row
    sharded: bool = False  # each process holds a share of the extra columns

    def holders(self, ranks: Ranks) -> Ranks:
        """The processes whose extra columns are all that there are: all of them, or this one, where they are alike."""
        return ranks if self.sharded else Ranks()

    @property
    def first_extra(self) -> int:
        """The first extra column that is of another sample than the first row."""
        if self.ids is None or self.extra_ids is None:
            return 0
        return int((self.extra_ids != self.ids[0]).nonzero()[0])

    @staticmethod
    def distinct(n: int, ranks: Ranks, device: torch.device, extra: int = 0) -> "Samples":
        negatives = n * ranks.size - 1 + extra
        per_row = torch.full((n,), float(negatives), dtype=torch.float64, device=device)
        return Samples(per_row, negatives, n * ranks.size * negatives, extra=extra)

    @staticmethod
    def of(ids: Tensor, ranks: Ranks, extra: int = 0, extra_ids: Tensor | None = None) -> "Samples":
        """Of as many columns as rows, of the same ids. Raises UserError where a row has no negative."""
        everyone = ranks.gather(ids)
        if extra_ids is not None:
            return Samples._with_ids_of_extra(ids, everyone, everyone, ranks, extra_ids)
        total = len(everyone)
        _, inverse, counts = everyone.unique(return_inverse=True, return_counts=True)
        fewest = total - int(counts.max()) + extra
        if fewest < 1:
            raise UserError(f"All {total} rows have the same id, so no pair is a negative; ids name samples.")
        count = int(total**2 - counts.square().sum()) + total * extra
        same = pairs_of_equal(ids, everyone) if len(counts) < total else None
        listed = same is not None or len(counts) == total
        return Samples(
            (total - counts[ranks.own(inverse)] + extra).double(), fewest, count, everyone, same,
            None if listed else _names(ranks.own(everyone), everyone, extra), extra=extra,
        )  # fmt: skip

    @staticmethod
    def between(
        rows: Tensor, columns: Tensor, positive: Tensor, ranks: Ranks, extra: int = 0, extra_ids: Tensor | None = None
    ) -> "Samples":
        """Of rows and columns [n], [m] with ids of their own. Raises UserError where a row has no negative."""
        every_row, everyone = ranks.gather(rows), ranks.gather(columns)
        if extra_ids is not None:
            return Samples._with_ids_of_extra(rows, every_row, everyone, ranks, extra_ids)
        per_row = len(everyone) + extra - _equal(every_row, everyone)
        fewest = int(per_row.min())
        if fewest < 1:
            raise UserError(f"A row has the id of all {len(everyone)} columns, so no negative; ids name samples.")
        same = pairs_of_equal(rows, everyone)
        return Samples(
            ranks.own(per_row).double(), fewest, int(per_row.sum()), everyone, same,
            _names(rows, everyone, extra) if same is None else None, rows,
            (len(every_row) - _equal(columns[positive], every_row)).double(), extra,
        )  # fmt: skip

    @staticmethod
    def _with_ids_of_extra(
        rows: Tensor, every_row: Tensor, everyone: Tensor, ranks: Ranks, extra_ids: Tensor
    ) -> "Samples":
        """rows: own ids; every_row and everyone: those of all processes' rows and columns."""
        columns = torch.cat([everyone, extra_ids])
        rows, every_row, everyone = (t.to(columns) for t in (rows, every_row, everyone))  # of one dtype
        per_row = len(columns) - _equal(every_row, columns)
        fewest = int(per_row.min())
        if fewest < 1:
            raise UserError(f"A row has the id of all {len(columns)} columns, so no negative; ids name samples.")
        same = pairs_of_equal(rows, columns)
        return Samples(
            ranks.own(per_row).double(), fewest, int(per_row.sum()), everyone, same,
            (rows, columns) if same is None else None, rows, extra=len(extra_ids), extra_ids=columns[len(everyone) :],
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
    low, high = (torch.searchsorted(ordered, own.contiguous(), right=right) for right in (False, True))
    counts = high - low
    ends = counts.cumsum(0)
    if int(ends[-1]) > 16 * max(len(own), len(ids)):
        return None
    rows = torch.repeat_interleave(torch.arange(len(own), device=own.device), counts)
    place = torch.arange(len(rows), device=own.device) - (ends - counts)[rows] + low[rows]
    return Pairs(rows, order[place])


def _equal(ids: Tensor, among: Tensor) -> Tensor:
    """How many of `among` are equal to each id."""
    ordered = among.sort().values
    return torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)


def _names(rows: Tensor, columns: Tensor, extra: int) -> tuple[Tensor, Tensor]:
    """Ids of rows and of all columns, those of `extra` being no row's."""
    if not extra:
        return rows, columns
    _, numbers = torch.cat([rows, columns]).unique(return_inverse=True)
    return numbers[: len(rows)], torch.cat([numbers[len(rows) :], numbers.new_full((extra,), -1)])


def layout_of(sides: Sides, ranks: Ranks) -> Samples:
    """Which pairs are negatives. Raises UserError, on every process where they differ, for sides that do not fit."""
    found = _layout_of(sides, ranks)
    return replace(found, sharded=True) if sides.sharded and found.extra and ranks.size > 1 else found


def _layout_of(sides: Sides, ranks: Ranks) -> Samples:
    x, y, positive = sides.x, sides.y, sides.positive
    names = ("ids", "column_ids", "positive", "extra", "extra_ids")
    refuse_other_than_tensors(x=x, y=y, **{name: t for name in names if (t := getattr(sides, name)) is not None})
    n, m, extra = x.shape[0], y.shape[0], 0 if sides.extra is None else len(sides.extra)
    _check(sides, n, m)
    ranks.check_equal(n, x.device, m, extra)
    ids, column_ids, extra_ids = (
        None if t is None else t.to(x.device) for t in (sides.ids, sides.column_ids, sides.extra_ids)
    )
    if sides.sharded:  # who is whose negative is known of all of them on every process
        extra, extra_ids = extra * ranks.size, None if extra_ids is None else ranks.gather(extra_ids)
    if extra_ids is not None and ids is None and column_ids is None:  # column j is sample j
        column_ids = torch.arange(ranks.rank * m, (ranks.rank + 1) * m, device=x.device)
        ids = column_ids if positive is None else None
    if positive is None and (column_ids is None or column_ids is ids):
        if n * ranks.size < 2 and not extra:
            raise UserError(f"An objective needs at least 2 pairs, for a negative to exist; there is {n * ranks.size}.")
        return Samples.distinct(n, ranks, x.device, extra) if ids is None else Samples.of(ids, ranks, extra, extra_ids)
    own = torch.arange(n, device=x.device) if positive is None else positive.to(x.device)
    if column_ids is None:
        column_ids = torch.arange(ranks.rank * m, (ranks.rank + 1) * m, device=x.device) if ids is None else ids
    if ids is None:
        ids = column_ids[own]
    elif bool((wrong := ids != column_ids[own]).any()):
        i = int(wrong.nonzero()[0])
        raise UserError(
            f"Row {i} is of sample {int(ids[i])}, and its positive, column {int(own[i])}, of sample"
            f" {int(column_ids[own[i]])}; a positive is of its row's sample."
        )
    return Samples.between(ids, column_ids, own, ranks, extra, extra_ids)


def check_ids(name: str, ids: Tensor | None, size: int, what: str) -> None:
    """Raises UserError for ids, by their name, that are not one whole number [size] for each of `what`."""
    if ids is None:
        return
    refuse_other_than_tensors(**{name: ids})
    if ids.shape != (size,):
        raise UserError(f"{name} must be one number {what}, [{size}], and have shape {list(ids.shape)}.")
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype is torch.bool:
        kind = str(ids.dtype).removeprefix("torch.")
        raise UserError(f"{name} name samples by whole numbers, and are {kind}: give .long() of them.")


def _check(sides: Sides, n: int, m: int) -> None:
    x, y, positive, extra = sides.x, sides.y, sides.positive, sides.extra
    if n != m and positive is None:
        raise UserError(
            f"x has {n} rows and y has {m}; a pair is a row of each, or say in `positive` which column is each row's."
        )
    k = 0 if extra is None else len(extra)
    for name, ids, size, what in (
        ("ids", sides.ids, n, "a row"), ("column_ids", sides.column_ids, m, "a column"),
        ("extra_ids", sides.extra_ids, k, "an extra column"),
    ):  # fmt: skip
        check_ids(name, ids, size, what)
    if sides.ids is not None and sides.column_ids is None and n != m:
        raise UserError(f"ids are of x's {n} rows; y has {m}, so say in column_ids of which sample each is.")
    if positive is not None:
        kind = positive.dtype
        if positive.shape != (n,) or kind.is_floating_point or kind.is_complex or kind is torch.bool:
            raise UserError(
                f"positive must be one column a row, whole numbers [{n}], and is {list(positive.shape)} of"
                f" {str(positive.dtype).removeprefix('torch.')}."
            )
        outside = (positive < 0) | (positive >= m)
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            raise UserError(f"The positive of row {i} is column {int(positive[i])}, and y has columns 0 to {m - 1}.")
        if x is y and sides.ids is None:
            raise UserError("x and y are one tensor, so that a row is its own negative: say in ids whose each row is.")
    if extra is not None and (extra.shape[1:] != y.shape[1:] or extra.ndim != y.ndim):
        like = ", ".join(map(str, ("k", *y.shape[1:])))
        raise UserError(f"extra must be rows like y's, [{like}], not {list(extra.shape)}.")
    if extra is not None and extra.is_floating_point() != y.is_floating_point():
        kinds = [str(t.dtype).removeprefix("torch.") for t in (extra, y)]
        raise UserError(f"extra must be numbers like y's, and is {kinds[0]} where y is {kinds[1]}.")
