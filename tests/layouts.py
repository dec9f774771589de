"""Layouts of sides, with what each means in plain form: for the engine's contracts on one process and several."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infomax import critics
from infomax.scores import Scores, Sides
from infomax.scores.face import GivenMatrix


@dataclass(frozen=True)
class Layout:
    """n rows, m columns over all processes and k extra ones; alike: both sides are one tensor."""

    n: int
    m: int
    k: int = 0
    ids: Tensor | None = None
    column_ids: Tensor | None = None
    positive: Tensor | None = None
    alike: bool = False
    extra_ids: Tensor | None = None
    sharded: bool = False

    @property
    def own(self) -> Tensor:
        """[n]: the column of each row's positive."""
        return torch.arange(self.n) if self.positive is None else self.positive

    @property
    def names(self) -> Tensor:
        """[m]: the ids of columns."""
        ids = self.ids if self.column_ids is None else self.column_ids
        return torch.arange(self.m) if ids is None else ids

    @property
    def negative(self) -> Tensor:
        """[n, m + k]"""
        rows = self.names[self.own] if self.ids is None else self.ids
        extra = torch.ones(self.n, self.k, dtype=torch.bool)
        if self.extra_ids is not None:
            extra = rows[:, None] != self.extra_ids[None]
        return torch.cat([rows[:, None] != self.names[None], extra], 1)

    def features(self, d: int = 6, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [n, d], y [m, d] and extra [k, d]; a row is near its positive."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randn(self.m, d, generator=generator, dtype=dtype)
        x = y if self.alike else y[self.own] + torch.randn(self.n, d, generator=generator, dtype=dtype)
        return x, y, torch.randn(self.k, d, generator=generator, dtype=dtype) if self.k else None

    def sides(self, x: Tensor, y: Tensor, extra: Tensor | None) -> Sides:
        return Sides(
            x, y, self.ids, self.column_ids, self.positive, extra, extra_ids=self.extra_ids, sharded=self.sharded
        )  # fmt: skip

    def shard(self, rank: int, world: int) -> tuple[Tensor, Tensor, "Layout"]:
        """A process's rows and columns, and the layout of them: of samples, or of views, a part that goes along."""

        def part(size: int) -> Tensor:
            if self.alike:
                half = size // 2
                own = torch.arange(rank * half // world, (rank + 1) * half // world)
                return torch.cat([own, half + own])
            return torch.arange(rank * size // world, (rank + 1) * size // world)

        rows, columns = part(self.n), part(self.m)
        positive = None
        if self.positive is not None:
            positive = (columns[None] == self.positive[rows][:, None]).nonzero()[:, 1]
            assert len(positive) == len(rows)
        ids, names = (None if t is None else t[i] for t, i in ((self.ids, rows), (self.column_ids, columns)))
        return rows, columns, Layout(len(rows), len(columns), self.k, ids, names, positive, self.alike, self.extra_ids)


_repeated = torch.tensor([0, 1, 2, 3, 0, 5, 6, 6, 6, 9, 10, 11])
_views = torch.arange(6).repeat(2)
_two = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]).repeat_interleave(4)

# Every number of rows and columns is divisible by 1, 2 and 3, and every positive on its row's process.
LAYOUTS = {
    "square": Layout(12, 12),
    "repeated": Layout(12, 12, ids=_repeated),
    "rectangular": Layout(12, 18, positive=3 * torch.arange(12) // 2),
    "rectangular, repeated": Layout(
        12, 18, ids=(3 * torch.arange(12) // 2) // 2, column_ids=torch.arange(18) // 2,
        positive=3 * torch.arange(12) // 2,
    ),
    "extra": Layout(12, 12, 7),
    "repeated, extra": Layout(12, 12, 7, ids=_repeated),
    "two ids, extra": Layout(48, 48, 5, ids=_two),  # more equal pairs than are worth a list
    "many to one": Layout(24, 12, positive=torch.arange(24) // 2),
    "many to one, extra": Layout(24, 12, 7, positive=torch.arange(24) // 2),
    "two ids, many to one": Layout(
        48, 24, ids=_two, column_ids=_two[::2], positive=torch.arange(48) // 2
    ),
    "views": Layout(12, 12, ids=_views, positive=torch.arange(12).roll(6), alike=True),
    "one sample, extra": Layout(12, 6, 3, ids=torch.zeros(12).long(), column_ids=torch.zeros(6).long(),
                                positive=torch.arange(12) // 2),
    "extra of named samples": Layout(12, 12, 7, extra_ids=torch.tensor([40, 3, 7, 41, 3, 0, 42])),
    "extra of other samples": Layout(12, 12, 3, ids=torch.arange(12) + 5, extra_ids=torch.tensor([40, 3, 4])),
    "repeated, extra of named samples": Layout(
        12, 12, 7, ids=_repeated, extra_ids=torch.tensor([6, 3, 7, 6, 3, 0, 42])
    ),
    "two ids, extra of named samples": Layout(48, 48, 5, ids=_two, extra_ids=torch.tensor([1, 0, 7, 0, 0])),
    "many to one, extra of named samples": Layout(
        24, 12, 7, positive=torch.arange(24) // 2, extra_ids=torch.tensor([1, 3, 7, 6, 3, 0, 42])
    ),
    "one sample, extra of named samples": Layout(
        12, 6, 4, ids=torch.zeros(12).long(), column_ids=torch.zeros(6).long(), positive=torch.arange(12) // 2,
        extra_ids=torch.tensor([0, 5, 7, 0]),
    ),
}  # fmt: skip

CRITICS = {
    "Cosine": lambda: critics.Cosine(temperature=0.5),
    "Cosine, learnt": lambda: critics.Cosine(temperature=0.5, bias=0.3, learn=True),
    "Bilinear": lambda: critics.Bilinear(6, 6),
    "Separable": lambda: critics.Separable(6, 6, hidden=5, out=4),
    "Concat": lambda: critics.Concat(6, 6, hidden=5),
}


def of_matrix(layout: Layout, matrix: Tensor, **options) -> Scores:
    if not layout.k:
        ids = {"positive": layout.positive, "column_ids": layout.column_ids}
        return Scores.from_matrix(matrix, layout.ids, **ids, **options)
    columns = torch.arange(layout.m + layout.k)
    sides = layout.sides(matrix, columns[: layout.m], columns[layout.m :])
    return Scores.of(GivenMatrix(), sides, local=True, **options)
