"""What a walk is asked: which reductions, of which matrix, which of them carry a gradient, and with what weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infomax.distributed import Ranks
from infomax.scores.reductions import Reduction
from infomax.scores.tiles import Tiles

Results = dict[Reduction, Tensor]
# Rows, their reductions' results and all positives -> d objective / d result, as far as those rows say.
Head = Callable[[slice, Mapping[Reduction, Tensor], Tensor | None], Results]


@dataclass(frozen=True)
class Plan:
    """What a walk needs beside tensors that carry gradient."""

    critic: Any  # .score(ex [b, ...], ey [c, ...]) -> [b, c]
    offset: Tensor | float | None  # of a critic whose score is <ex, ey> + offset; None for any other
    ranks: Ranks
    tiles: Tiles
    requests: tuple[Reduction, ...]
    carried: tuple[Reduction, ...] = ()  # those from which a gradient is expected
    views: int | None = (
        None  # all 2 n views against all, of a symmetric critic: row i has its positive in i + n, modulo 2 n
    )
    ring: bool = False  # columns come around from process to process, rather than being gathered
    grad: bool = True  # whether a gradient may be asked for: autograd itself does not tell a Function under no_grad
    dtype: torch.dtype = torch.float32  # of scores
    positive: Tensor | None = None  # [n]: the own column of each row's positive; None: column i
    sharded: bool = False  # extra columns are a share of them; else all, alike on all processes
    divided: bool = False  # threads take tiles in turn

    def of_positives(self, ey: Tensor) -> Tensor:
        """Own columns [m, ...] -> that of each row's positive [n, ...]."""
        return ey if self.positive is None else ey[self.positive]

    def all_extra(self, extra: Tensor) -> Tensor:
        """Extra columns as this process has them -> all of them, [k, ...]."""
        return self.ranks.gather(extra) if self.sharded else extra

    @property
    def rest(self) -> bool:
        return all(q.rest for q in self.requests)


@dataclass(frozen=True)
class Term:
    """A reduction, its result over all processes, and d objective / d result."""

    q: Reduction
    result: Tensor
    weight: Tensor

    @property
    def mirrored(self) -> "Term":
        return Term(self.q.mirrored, self.result, self.weight)

    def scale(self, place: Any = ...) -> Tensor:
        """What the slope of e^fn(s), unshifted, is multiplied by."""
        weight = self.weight[place]
        return weight * (-self.result[place]).exp() if self.q.kind == "logsumexp" else weight
