"""What an objective sees: the scores of positive pairs, and reductions over the negatives."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from infomax.errors import UserError
from infomax.scores.functions import Function, identity
from infomax.scores.ranks import Ranks
from infomax.scores.walk import FIRST, Plan, Reduction, Request, walk


class Scores:
    """The matrix of critic scores of n pairs, s[i, j] = critic(x_i, y_j), which is never stored.

    x [n, dx], y [n, dy]: row i of both is a positive pair. ids [n]: which sample a row is from; a negative is a pair
    of two different samples, and what is neither positive nor negative is ignored. Without ids all rows differ.
    Across processes, `positive` holds this process's rows and negatives span all processes, unless `local`.
    rows, columns: the tile's size; by default one is chosen. It changes memory and time, never a number.
    Scores are computed in float32 at least, whatever the inputs.

    Raises UserError: x and y of different lengths, fewer than 2 pairs, a row without a negative, processes with
    different numbers of rows.
    """

    def __init__(
        self,
        critic: Any,
        x: Shaped[Tensor, "n ..."],
        y: Shaped[Tensor, "m ..."],
        ids: Int[Tensor, " k"] | None = None,
        *,
        rows: int | None = None,
        columns: int | None = None,
        local: bool = False,
    ):
        if x.shape[0] != y.shape[0]:
            raise UserError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; a pair is a row of each.")
        if ids is not None and ids.shape != (x.shape[0],):
            raise UserError(f"ids must be one number a row, [{x.shape[0]}], and have shape {list(ids.shape)}.")
        ranks = Ranks.current(local)
        n = x.shape[0]
        ranks.check_equal(n, x.device)
        if n * ranks.size < 2:
            raise UserError(f"An objective needs at least 2 pairs, for a negative to exist; there is {n * ranks.size}.")
        self.x, self.y = x, y
        self.n, self.total = n, n * ranks.size  # rows here, rows over all processes
        with torch.autocast(x.device.type, enabled=False):
            self._ex, self._ey = critic.embed(_at_least_float32(x), _at_least_float32(y))
            self.positive: Float[Tensor, " n"] = critic.pair(self._ex, self._ey)  # [n]
        self._ids = None if ids is None else ids.to(x.device)
        self._plan = Plan(critic, ranks, self._ids, None, None, rows, columns, ())
        self._parameters = tuple(critic.parameters()) if isinstance(critic, torch.nn.Module) else ()
        per_row = torch.full((n,), self.total - 1, device=x.device)
        if self._ids is not None:
            all_ids = ranks.gather(self._ids)
            _, inverse, counts = all_ids.unique(return_inverse=True, return_counts=True)
            per_row = self.total - counts[ranks.own(inverse)]
            if self.total - int(counts.max()) < 1:
                raise UserError(f"All {self.total} rows have the same id, so no pair is a negative; ids name samples.")
            self._plan = dataclasses.replace(self._plan, all_ids=all_ids)
            self._count = int(self.total**2 - counts.square().sum())
        else:
            self._count = self.total * (self.total - 1)
        self._per_row = per_row.to(self.positive.dtype)
        self._results: dict[Request, Tensor] = {}

    @classmethod
    def from_matrix(cls, matrix: Tensor, ids: Tensor | None = None, **options: Any) -> "Scores":
        """Scores that are given: matrix [n, n], positives on its diagonal."""
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise UserError(f"A score matrix is square, a row and a column a pair; this one is {list(matrix.shape)}.")
        return cls(_Given(), matrix, torch.arange(len(matrix), device=matrix.device), ids, local=True, **options)

    @property
    def negative(self) -> "Negatives":
        return Negatives(self._per_row, self._count, self.total, self._result)

    def walk_for(self, *formulas: Callable[[Any], Tensor]) -> "Scores":
        """Walks the matrix once for all the reductions that the formulas will ask for; returns self.

        They are learnt by evaluating each formula on two rows of placeholders: nothing of the matrix is touched.
        """
        recorder = _Recorder(self)
        with torch.no_grad():
            for formula in formulas:
                formula(recorder)
        self._run([request for request in recorder.asked if request not in self._results])
        return self

    def _result(self, request: Request) -> Tensor:
        if request not in self._results:
            self._run([request])
        return self._results[request]

    def _run(self, requests: list[Request]) -> None:
        if not requests:
            return
        plan = dataclasses.replace(self._plan, requests=tuple(requests))
        if any((isinstance(request, Reduction) and request.rest) or request is FIRST for request in requests):
            plan = dataclasses.replace(plan, first=self._first())
        self._results |= walk(plan, self._ex, self._ey, self._parameters)

    def _first(self) -> Int[Tensor, " n"]:
        """[n]: the column of one negative of each row: the next row's, or, with ids, the next greater id's, cyclically.

        By ids and not by place, since the order of columns differs between one process and several.
        """
        ranks, all_ids = self._plan.ranks, self._plan.all_ids
        columns = torch.arange(self.total, device=self.x.device)
        if all_ids is None:
            return ranks.own((columns + 1) % self.total)
        values, inverse = all_ids.unique(return_inverse=True)
        earliest = columns.new_full((len(values),), self.total).scatter_reduce(0, inverse, columns, "amin")
        return earliest[(ranks.own(inverse) + 1) % len(values)]


class Negatives:
    """Reductions over negative pairs. Each returns a tensor with gradient, in nats where the score is."""

    def __init__(
        self,
        per_row: Tensor,
        count: int,
        total: int,
        result: Callable[[Request], Tensor],
        rest: bool = False,
    ):
        self._all_per_row, self._all_count, self._total = per_row, count, total
        self._result, self._rest = result, rest

    @property
    def per_row(self) -> Float[Tensor, " n"]:
        """[n]: how many negatives each row has, over all processes."""
        return self._all_per_row - 1 if self._rest else self._all_per_row

    @property
    def per_positive(self) -> float:
        """How many negatives there are to each positive, over all processes."""
        return self._count / self._total

    @property
    def _count(self) -> int:
        return self._all_count - self._total if self._rest else self._all_count

    def mean(self, fn: Function = identity, dim: int | None = None) -> Float[Tensor, "*n"]:
        """Mean of fn(s): over all negatives, 0-d; of each row (dim=1) or column (dim=0), [n]."""
        return self._result(Reduction("sum", fn, dim, self._rest)) / self._number(dim)

    def logmeanexp(self, fn: Function = identity, dim: int | None = None) -> Float[Tensor, "*n"]:
        """Log-mean-exp of fn(s): over all negatives, 0-d; of each row (dim=1) or column (dim=0), [n]."""
        lse = self._result(Reduction("logsumexp", fn, dim, self._rest))
        number = self._number(dim)
        return lse - (number.log() if isinstance(number, Tensor) else math.log(number))

    @property
    def first(self) -> Float[Tensor, " n"]:
        """[n]: the score of one negative of each row: the next row's, or the next greater id's, cyclically."""
        return self._result(FIRST)

    @property
    def rest(self) -> "Negatives":
        """The negatives without each row's `first`: k - 1 of k. Raises UserError where a row has only one."""
        if bool((self._all_per_row < 2).any()):
            raise UserError("This objective needs two negatives in each row; use 3 pairs or more.")
        return Negatives(self._all_per_row, self._all_count, self._total, self._result, rest=True)

    def _number(self, dim: int | None) -> int | Tensor:
        # Ids are the same for rows and columns, so a column has as many negatives as the row of the same number.
        if dim is None:
            return self._count
        if self._rest and dim == 0:
            raise UserError("Which column lacks a row's first negative varies: reduce `rest` over rows or over all.")
        return self.per_row


class _Given(torch.nn.Module):
    """The critic of a given matrix: x's features are its rows, y's are column numbers."""

    width = 1

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y

    def score(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex[:, ey]

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        return ex.gather(1, ey[:, None]).squeeze(1)


class _Recorder:
    """Two placeholder rows in the shape of Scores, which note what a formula asks for."""

    def __init__(self, scores: Scores):
        self.asked: list[Request] = []
        self.n = 2
        self.positive = scores.positive.detach()[:2]
        self.x, self.y = scores.x.detach()[:2], scores.y.detach()[:2]
        self.negative = Negatives(scores._per_row[:2], scores._count, scores.total, self._note)

    def _note(self, request: Request) -> Tensor:
        if request not in self.asked:
            self.asked.append(request)
        scalar = isinstance(request, Reduction) and request.dim is None
        return self.positive.new_zeros(()) if scalar else self.positive.new_zeros(len(self.positive))


def _at_least_float32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
