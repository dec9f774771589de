"""What an objective sees: the scores of positive pairs, and reductions over the negatives."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from infomax.distributed import Ranks, rows_of
from infomax.errors import UserError
from infomax.scores import dense
from infomax.scores.backend import walk
from infomax.scores.critic_tiles import exact_products, products
from infomax.scores.face import (
    GivenMatrix,
    as_taken_by,
    at_least_float32,
    offset_of,
    refuse_hidden_weights,
    symmetric_embedding,
)
from infomax.scores.layout import Pairs, Samples, Sides
from infomax.scores.negatives import Negatives
from infomax.scores.plan import Plan
from infomax.scores.recording import Formula, Recorder, SomeRows, left_unchanged
from infomax.scores.reductions import Reduction
from infomax.scores.tiles import Tiles

# What a formula asked for on placeholders: objective -> {(formula's function, N, negatives): reductions}.
_learnt: "weakref.WeakKeyDictionary[Any, dict[Any, list[Reduction]]]" = weakref.WeakKeyDictionary()


class Scores:
    """The matrix of critic scores of n pairs, s[i, j] = critic(x_i, y_j), which is never stored.

    x [n, dx], y [n, dy]: row i of both is a positive pair. ids [n]: which sample a row is from; a negative is a pair
    of two different samples, and what is neither positive nor negative is ignored. Without ids all rows differ.
    Across processes, `positive` holds this process's rows and negatives span all processes, unless `local`.
    rows, columns: the tile's size; by default one is chosen. It changes memory and time, and numbers by rounding
    alone. So does `ring`: y comes around from process to process rather than being gathered, in memory of O(n d) a
    process, at one more product for objectives of rows.
    Scores are computed in float32 at least, whatever the inputs; `positive` and reductions are float64, so that a
    formula of them loses nothing. `dtype` is that of scores, and of an objective's value.

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
        ring: bool = False,
    ):
        if x.shape[0] != y.shape[0]:
            raise UserError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; a pair is a row of each.")
        if ids is not None and ids.shape != (x.shape[0],):
            raise UserError(f"ids must be one number a row, [{x.shape[0]}], and have shape {list(ids.shape)}.")
        ranks, n = Ranks.current(local), x.shape[0]
        ranks.check_equal(n, x.device)
        if n * ranks.size < 2:
            raise UserError(f"An objective needs at least 2 pairs, for a negative to exist; there is {n * ranks.size}.")
        samples = Samples.distinct(n, ranks, x.device) if ids is None else Samples.of(ids.to(x.device), ranks)
        self._x, self._y = at_least_float32(x), at_least_float32(y)
        with products(x):
            self._ex, self._ey = critic.embed(as_taken_by(critic, self._x), as_taken_by(critic, self._y))
        self._begin(critic, ranks, samples, rows, columns, ring)

    def _begin(
        self, critic: Any, ranks: Ranks, samples: Samples, rows: int | None = None, columns: int | None = None,
        ring: bool = False, views: int | None = None,
    ) -> None:  # fmt: skip
        self.n, self.total = len(self._ex), len(self._ex) * ranks.size
        self._critic, self._ranks, self._samples = critic, ranks, samples
        self._offset, self._views, self._ring = offset_of(critic), views, ring and ranks.size > 1
        self._tiles = Tiles(
            self.n, self.total, ranks.rank * self.n, rows, columns, max(1, getattr(critic, "width", 1)),
            samples.same, samples.unlisted, cuda=self._ex.is_cuda,
        )  # fmt: skip
        self._results: dict[Reduction, Tensor] = {}
        self._positive: Tensor | None = None
        self._first: Tensor | None = None
        if self._offset is None:  # what autograd of the critic itself is needed for
            refuse_hidden_weights(critic)
            with products(self._ex):
                pair = critic.pair(self._ex, self._ey)
            self.dtype, self._positive = torch.promote_types(pair.dtype, torch.float32), pair.double()
        else:
            self._ex, self._ey = at_least_float32(self._ex), at_least_float32(self._ey)
            self.dtype = torch.promote_types(self._ex.dtype, self._ey.dtype)
        self._dense = self._small()

    def _small(self) -> dense.Dense | None:
        """The matrix itself, where it is small and nothing was asked of its tiles."""
        tiles, offset = self._tiles, self._offset
        if offset is None or self._ranks.size > 1 or tiles.rows or tiles.columns or not exact_products():
            return None
        if self.n * self.total > (dense.KEPT if self._views is None else 4 * dense.KEPT):  # symmetry saves a product
            return None
        with products(self._ex):
            made = dense.Dense(tiles, self._ex, self._ey, offset, self._views)
        self._positive = made.positive
        return made

    def _with_gradient(self) -> dense.Dense | None:
        """The matrix, made again where it was made without the gradient that is wanted now."""
        if self._dense is not None and not self._usable(self._dense.s):
            self._dense = self._small()
        return self._dense

    @classmethod
    def from_matrix(cls, matrix: Tensor, ids: Tensor | None = None, **options: Any) -> "Scores":
        """Scores that are given: matrix [n, n], positives on its diagonal."""
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise UserError(f"A score matrix is square, a row and a column a pair; this one is {list(matrix.shape)}.")
        if not matrix.is_floating_point():
            matrix = matrix.to(torch.get_default_dtype())
        return cls(GivenMatrix(), matrix, torch.arange(len(matrix), device=matrix.device), ids, local=True, **options)

    @classmethod
    def of(cls, critic: Any, sides: Sides, **options: Any) -> "Scores":
        """The scores of a model's `Sides`. options: rows, columns, local and ring, as the constructor takes them."""
        if sides.x is sides.y and sides.positive is not None and sides.ids is not None:
            n = len(sides.x) // 2
            return cls.of_views(critic, sides.x[:n], sides.x[n:], sides.ids[:n], **options)
        if sides.column_ids is not None or sides.positive is not None or sides.extra is not None:
            raise UserError("Scores.of takes square sides so far.")
        return cls(critic, sides.x, sides.y, sides.ids, **options)

    @classmethod
    def of_views(cls, critic: Any, z1: Tensor, z2: Tensor, ids: Tensor | None = None, **options: Any) -> "Scores":
        """All 2n views against all, z1 [n, d], z2 [n, d]: NT-Xent's scores. (Chen et al., 2020)

        A view's positive is its other view, and its negatives are both views of all other samples. Half of the matrix
        is visited where it is symmetric: where the critic has an `embed_alike`, on one process.
        """
        if z1.shape != z2.shape:
            raise UserError(f"The two views must have one shape; they have {list(z1.shape)}, {list(z2.shape)}.")
        if ids is not None and ids.shape != (len(z1),):
            raise UserError(f"ids must be one number a sample, [{len(z1)}], and have shape {list(ids.shape)}.")
        ranks, n = Ranks.current(options.get("local", False)), len(z1)
        together = symmetric_embedding(critic) if ranks.size == 1 and n > 1 else None
        if together is None:
            if ids is None:
                ids = torch.arange(ranks.rank * n, (ranks.rank + 1) * n, device=z1.device)
            return cls(critic, torch.cat([z1, z2]), torch.cat([z2, z1]), torch.cat([ids, ids]), **options)
        scores = cls.__new__(cls)
        scores._x, scores._y = at_least_float32(torch.cat([z1, z2])), None
        with products(z1):
            scores._ex = scores._ey = together(as_taken_by(critic, scores._x))
        if ids is None:
            samples = Samples.of_views(n, z1.device)
        else:
            samples = Samples.of(torch.cat([ids, ids]).to(z1.device), ranks)
        options.pop("local", None)
        scores._begin(critic, ranks, samples, views=n, **options)
        return scores

    @property
    def x(self) -> Shaped[Tensor, "n ..."]:
        """[n, dx]: what the critic is given, in float32 at least; for formulas that read it."""
        return self._x

    @property
    def y(self) -> Shaped[Tensor, "n ..."]:
        """[n, dy]: as x."""
        return self._other_views(self._x) if self._y is None else self._y

    @property
    def positive(self) -> Float[Tensor, " n"]:
        """[n]: the scores of the pairs."""
        if not self._usable(self._positive):
            with products(self._ex):
                self._positive = self._critic.pair(*self._sides()).double()
        assert self._positive is not None
        return self._positive

    @property
    def negative(self) -> "Negatives":
        return Negatives(self._samples, slice(None), self.total, self._result, self._first_scores)

    def walk_for(self, estimate: Formula, surrogate: Formula) -> "Scores":
        """Walks the matrix once for all the reductions that the formulas will ask for; returns self.

        They are learnt by evaluating each formula on two rows of placeholders: nothing of the matrix is touched.
        What the surrogate asks for is expected to be differentiated.
        """
        if self._with_gradient() is not None and self._views is None:
            return self
        carried, others = self._asked(surrogate), self._asked(estimate)
        if self._dense is not None and not any(self._apart(q) for q in (*carried, *others)):
            return self
        missing = [q for q in dict.fromkeys([*carried, *others]) if not self._usable(self._results.get(q))]
        self._run(missing, [q for q in missing if q in carried], surrogate)
        return self

    def _asked(self, formula: Formula) -> list[Reduction]:
        owner, function = getattr(formula, "__self__", None), getattr(formula, "__func__", None)
        known = _learnt.setdefault(owner, {}) if isinstance(owner, torch.nn.Module) else {}
        key = function, self.total, self._samples.count
        if key not in known:
            if len(known) > 100:  # ids that repeat at random give every batch its own number of negatives
                known.clear()
            recorder = Recorder(self)
            with torch.no_grad(), left_unchanged(owner):
                formula(recorder)
            known[key] = recorder.asked
        return known[key]

    def _usable(self, found: Tensor | None) -> bool:
        """A result that was made without gradient does not serve where one is wanted."""
        return found is not None and (found.requires_grad or not (torch.is_grad_enabled() and self._has_gradient()))

    def _has_gradient(self) -> bool:
        return any(t.requires_grad for t in (self._ex, self._ey, *self._parameters()))

    def _parameters(self) -> Sequence[Tensor]:
        if self._offset is not None:
            return (self._offset,) if isinstance(self._offset, Tensor) else ()
        return tuple(self._critic.parameters()) if isinstance(self._critic, torch.nn.Module) else ()

    def _result(self, q: Reduction) -> Tensor:
        if not self._usable(self._results.get(q)):
            matrix = self._with_gradient()
            if matrix is not None and not self._apart(q):
                self._results[q] = matrix.result(q, self._first_columns() if q.rest else None)
            else:  # not foreseen: an objective whose formula has changed is learnt anew
                _learnt.clear()
                self._run([q], [q] if q.dim is None else [], None)
        return self._results[q]

    def _apart(self, q: Reduction) -> bool:
        """Whether it tells rows from columns, of which a symmetric matrix knows nothing."""
        return self._views is not None and (q.dim == 0 or q.rest)

    def _run(self, requests: list[Reduction], carried: list[Reduction], surrogate: Formula | None) -> None:
        if not requests:
            return
        tiles = self._tiles
        if any(q.rest for q in requests):
            columns = self._first_columns()
            tiles = replace(tiles, first=Pairs(torch.arange(self.n, device=columns.device), columns))

        def head(r: slice, results: Mapping[Reduction, Tensor], positive: Tensor | None) -> dict[Reduction, Tensor]:
            assert surrogate is not None
            return self._weights(surrogate, r, results, positive, carried)

        symmetric = self._views is not None and not any(self._apart(q) for q in requests)
        plan = Plan(
            self._critic, self._offset, self._ranks, tiles, tuple(requests), tuple(carried),
            self._views if symmetric else None, self._ring, torch.is_grad_enabled(), self.dtype,
        )  # fmt: skip
        ex, ey = (self._ex, self._ex) if symmetric else self._sides()
        positive, results = walk(plan, head if surrogate is not None else None, ex, ey, self._parameters())
        if positive is not None and not self._usable(self._positive):
            self._positive = positive
        self._results.update(results)

    def _sides(self) -> tuple[Tensor, Tensor]:
        """Embedded rows and columns, of which equal numbers are positive pairs."""
        return self._ex, self._ey if self._views is None else self._other_views(self._ey)

    def _other_views(self, t: Tensor) -> Tensor:
        return t.roll(-(self._views or 0), 0)

    def _weights(
        self, surrogate: Formula, r: slice, results: Mapping[Reduction, Tensor], positive: Tensor | None,
        carried: Sequence[Reduction],
    ) -> dict[Reduction, Tensor]:  # fmt: skip
        """d surrogate / d result, as far as rows r say, if it is a mean over rows."""
        leaves = {q: t.detach().requires_grad_() for q, t in results.items() if q in carried}
        view = SomeRows(self, r, {**results, **leaves}, self.positive.detach() if positive is None else positive)
        with torch.enable_grad(), left_unchanged(getattr(surrogate, "__self__", None)):
            value = surrogate(view) * (view.n / self.n)
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if value.requires_grad:
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {q: torch.zeros_like(leaf) if g is None else g
                for (q, leaf), g in zip(leaves.items(), found, strict=True)}  # fmt: skip

    def _first_scores(self) -> Tensor:
        """[n]: the score of one negative of each row, with gradient."""
        if not self._usable(self._first):
            columns = self._first_columns()
            matrix = self._with_gradient()
            if matrix is not None and self._views is None:
                self._first = matrix.at(columns)
            else:
                with products(self._ex):
                    ex, ey = self._sides()
                    self._first = self._critic.pair(ex, rows_of(self._ranks, ey, columns)).double()
        assert self._first is not None
        return self._first

    def _first_columns(self) -> Int[Tensor, " n"]:
        """[n]: the column of one negative of each row: the next row's, or, with ids, the next greater id's, cyclically.

        By ids and not by place, since the order of columns differs between one process and several.
        """
        columns = torch.arange(self.total, device=self._ex.device)
        if self._samples.ids is None:
            return self._ranks.own((columns + 1) % self.total)
        values, inverse = self._samples.ids.unique(return_inverse=True)
        earliest = columns.new_full((len(values),), self.total).scatter_reduce(0, inverse, columns, "amin")
        return earliest[(self._ranks.own(inverse) + 1) % len(values)]
