"""Reductions over negative pairs, as a formula asks for them."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from infomax.errors import UserError
from infomax.scores.functions import Function, identity
from infomax.scores.layout import Samples
from infomax.scores.reductions import Reduction


class Negatives:
    """Reductions over negative pairs. Each returns a tensor with gradient, in nats where the score is.

    Made by Scores. samples: which pairs are negatives. r: the rows it is of. total: rows of all processes. result: what
    gives a reduction's result, first: the score of each row's first negative. rest: without these.
    """

    def __init__(
        self, samples: Samples, r: slice, total: int, result: Callable[[Reduction], Tensor],
        first: Callable[[], Tensor], rest: bool = False,
    ):  # fmt: skip
        self._samples, self._rows, self._total = samples, r, total
        self._result, self._first, self._rest = result, first, rest

    @property
    def per_row(self) -> Float[Tensor, " n"]:
        """[n]: how many negatives each row has, over all processes."""
        per_row = self._samples.per_row[self._rows]
        return per_row - 1 if self._rest else per_row

    @property
    def per_column(self) -> Float[Tensor, " n"]:
        """[n]: how many negatives the column of each row's positive has, over all processes."""
        self._refuse_columns()
        per_column = self._samples.per_column
        return self._samples.per_row[self._rows] if per_column is None else per_column[self._rows]

    @property
    def per_positive(self) -> float:
        """How many negatives there are to each positive, over all processes."""
        return self._count / self._total

    @property
    def _count(self) -> int:
        return self._samples.count - self._total if self._rest else self._samples.count

    def mean(self, fn: Function = identity, dim: int | None = None) -> Float[Tensor, "*n"]:
        """Mean of fn(s): over all negatives, 0-d; of each row (dim=1) or its positive's column (dim=0), [n]."""
        self._refuse(fn, dim)
        return self._result(Reduction("sum", fn, dim, self._rest)) / self._number(dim)

    def logmeanexp(self, fn: Function = identity, dim: int | None = None) -> Float[Tensor, "*n"]:
        """Log-mean-exp of fn(s): over all negatives, 0-d; of each row (dim=1) or its positive's column (dim=0), [n]."""
        self._refuse(fn, dim)
        lse = self._result(Reduction("logsumexp", fn, dim, self._rest))
        number = self._number(dim)
        return lse - (number.log() if isinstance(number, Tensor) else math.log(number))

    @property
    def first(self) -> Float[Tensor, " n"]:
        """[n]: the score of one negative of each row: the next row's, or the next greater id's, cyclically."""
        return self._first()

    @property
    def rest(self) -> "Negatives":
        """The negatives without each row's `first`: k - 1 of k. Raises UserError where a row has only one."""
        if self._samples.fewest < 2:
            raise UserError("This objective needs two negatives in each row; use 3 pairs or more.")
        return Negatives(self._samples, self._rows, self._total, self._result, self._first, rest=True)

    def _refuse(self, fn: object, dim: int | None) -> None:
        if isinstance(fn, type) or not hasattr(fn, "from_exponential"):
            raise UserError(
                "A reduction is of a function of infomax.scores.functions, which knows its derivative, such as softplus"
                f" or Clip(tau), and not of {fn!r}."
            )
        if dim == 0:
            self._refuse_columns()

    def _number(self, dim: int | None) -> int | Tensor:
        if dim is None:
            return self._count
        if self._rest and dim == 0:
            raise UserError("Which column lacks a row's first negative varies: reduce `rest` over rows or over all.")
        return self.per_column if dim == 0 else self.per_row

    def _refuse_columns(self) -> None:
        if self._samples.extra:
            raise UserError(
                "This objective reads columns, and a queue's columns have no positives: use symmetric=False."
            )
