"""What an objective sees: the scores of positive pairs, and reductions over the negatives."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
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
    embedded,
    offset_of,
    refuse_features,
    refuse_hidden_weights,
    refuse_other_than_tensors,
    refuse_shape,
    symmetric_embedding,
)
from infomax.scores.layout import Pairs, Samples, Sides, check_ids, layout_of, refuse_other_than_sides
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

    _own: Tensor | None = None  # [n]: the column of each row's positive, among this process's; None: column i
    _extra: Tensor | None = None  # [k, ...]: embedded columns beside those of processes

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
        self._make(critic, Sides(x, y, ids), rows, columns, local, ring)

    def _make(
        self, critic: Any, sides: Sides, rows: int | None = None, columns: int | None = None, local: bool = False,
        ring: bool = False,
    ) -> None:  # fmt: skip
        ranks, extra = Ranks.current(local), sides.extra
        samples = layout_of(sides, ranks)
        self._x, self._y = at_least_float32(sides.x), at_least_float32(sides.y)
        with products(sides.x):
            self._ex, self._ey = embedded(critic, self._x, self._y)
            if extra is not None and len(extra):
                # By itself, with a row that is not used: whether it has a gradient, by the critic's parameters, then
                # shows, and where it has none no product is spent on it.
                self._extra = embedded(critic, self._x[:1].detach(), extra.detach().to(self._y.dtype))[1]
        self._own = None if sides.positive is None else sides.positive.to(sides.x.device).long()
        self._begin(critic, ranks, samples, rows, columns, ring)
        if self._dense is None or not math.isfinite(self._dense.largest):  # a small batch need not be asked
            refuse_features(critic, sides.x, sides.y, extra)

    def _begin(
        self, critic: Any, ranks: Ranks, samples: Samples, rows: int | None = None, columns: int | None = None,
        ring: bool = False, views: int | None = None,
    ) -> None:  # fmt: skip
        self.n, self.total = len(self._ex), len(self._ex) * ranks.size
        self._gathered = len(self._ey) * ranks.size
        self._critic, self._ranks, self._samples = critic, ranks, samples
        self._offset, self._views, self._ring = offset_of(critic), views, ring and ranks.size > 1
        self._tiles = Tiles(
            self.n, self._gathered + samples.extra, ranks.rank * self.n, rows, columns,
            max(1, getattr(critic, "width", 1)), samples.same, samples.unlisted, cuda=self._ex.is_cuda,
        )  # fmt: skip
        self._results: dict[Reduction, Tensor] = {}
        self._positive: Tensor | None = None
        self._first: Tensor | None = None
        if self._offset is None:  # what autograd of the critic itself is needed for
            refuse_hidden_weights(critic)
            with products(self._ex):
                pair = critic.pair(self._ex, self._of_positives(self._ey))
            refuse_shape(critic, "pair", pair, (self.n,))
            self.dtype, self._positive = torch.promote_types(pair.dtype, torch.float32), pair.double()
        else:
            self.dtype = torch.promote_types(torch.promote_types(self._ex.dtype, self._ey.dtype), torch.float32)
            self._ex, self._ey = self._ex.to(self.dtype), self._ey.to(self.dtype)
            self._extra = None if self._extra is None else self._extra.to(self.dtype)
        self._dense = self._small()

    def _of_positives(self, t: Tensor) -> Tensor:
        """Of own columns [m, ...], that of each row's positive [n, ...]."""
        return t if self._own is None else t[self._own]

    def _small(self) -> dense.Dense | None:
        """The matrix itself, where it is small and nothing was asked of its tiles."""
        tiles, offset = self._tiles, self._offset
        if offset is None or self._ranks.size > 1 or tiles.rows or tiles.columns or not exact_products():
            return None
        if self.n * tiles.total > (dense.KEPT if self._views is None else 4 * dense.KEPT):  # symmetry saves a product
            return None
        with products(self._ex):
            made = dense.Dense(tiles, self._ex, self._ey, offset, self._views, self._extra, self._own)
        self._positive = made.positive
        return made

    def _with_gradient(self) -> dense.Dense | None:
        """The matrix, made again where it was made without the gradient that is wanted now."""
        if self._dense is not None and not self._usable(self._dense.s):
            self._dense = self._small()
        return self._dense

    @classmethod
    def from_matrix(
        cls, matrix: Tensor, ids: Tensor | None = None, *, positive: Tensor | None = None,
        column_ids: Tensor | None = None, **options: Any,
    ) -> "Scores":  # fmt: skip
        """Scores that are given: matrix [n, n], positives on its diagonal; or [n, m] with `positive` [n], the column of
        each row's. ids [n] and column_ids [m]: as `Sides` has them. options: rows and columns, of a tile."""
        refuse_other_than_tensors(matrix=matrix)
        if matrix.ndim != 2 or (matrix.shape[0] != matrix.shape[1] and positive is None):
            raise UserError(
                f"A score matrix is square, or comes with `positive`, the column of a row; it is {list(matrix.shape)}."
            )
        matrix = matrix if matrix.is_floating_point() else matrix.to(torch.get_default_dtype())
        sides = Sides(matrix, torch.arange(matrix.shape[1], device=matrix.device), ids, column_ids, positive)
        return cls.of(GivenMatrix(), sides, local=True, **options)

    @classmethod
    def of(cls, critic: Any, sides: Sides, **options: Any) -> "Scores":
        """A critic's scores of `sides`, a Sides. options: rows, columns, local and ring, as the constructor has them.
        One tensor [2n, d] for both, of the first and then the second view of n samples as ids and positive say, is
        scored as `of_views` does. Raises UserError: no Sides."""
        refuse_other_than_sides(sides)
        if sides.y is sides.x and _are_views(sides):
            z, n = sides.x, len(sides.x) // 2
            ids = None if sides.ids is None else sides.ids.to(z.device)
            together = symmetric_embedding(critic) if Ranks.current(options.get("local", False)).size == 1 else None
            if together is None:
                return cls(critic, z, z.roll(-n, 0), ids, **options)
            return cls._of_views(critic, together, z, ids, n, **options)
        scores = cls.__new__(cls)
        scores._make(critic, sides, **options)
        return scores

    @classmethod
    def of_views(cls, critic: Any, z1: Tensor, z2: Tensor, ids: Tensor | None = None, **options: Any) -> "Scores":
        """All 2n views against all, z1, z2 [n, d], ids [n]: NT-Xent's scores. options as `of`. (Chen et al., 2020)

        A view's positive is its other view, and its negatives are both views of all other samples. Half of the matrix
        is visited where it is symmetric: where the critic has an `embed_alike`, on one process.
        """
        refuse_other_than_tensors(z1=z1, z2=z2)
        if z1.shape != z2.shape:
            raise UserError(f"The two views must have one shape; they have {list(z1.shape)}, {list(z2.shape)}.")
        check_ids("ids", ids, len(z1), "a sample")
        ranks, n = Ranks.current(options.get("local", False)), len(z1)
        together = symmetric_embedding(critic) if ranks.size == 1 and n > 1 else None
        if together is None:
            if ids is None:
                ids = torch.arange(ranks.rank * n, (ranks.rank + 1) * n, device=z1.device)
            return cls(critic, torch.cat([z1, z2]), torch.cat([z2, z1]), torch.cat([ids, ids]), **options)
        ids = None if ids is None else torch.cat([ids, ids]).to(z1.device)
        return cls._of_views(critic, together, torch.cat([z1, z2]), ids, n, **options)

    @classmethod
    def _of_views(
        cls, critic: Any, together: Callable[[Tensor], Tensor], z: Tensor, ids: Tensor | None, n: int,
        local: bool = False, **options: Any,
    ) -> "Scores":  # fmt: skip
        scores = cls.__new__(cls)
        scores._x, scores._y = at_least_float32(z), None
        with products(z):
            scores._ex = scores._ey = together(as_taken_by(critic, scores._x))
        samples = Samples.of_views(n, z.device) if ids is None else Samples.of(ids, Ranks.current(True))
        scores._begin(critic, Ranks.current(True), samples, views=n, **options)
        if scores._dense is None or not math.isfinite(scores._dense.largest):
            refuse_features(critic, z[:n], z[n:])
        return scores

    @property
    def x(self) -> Shaped[Tensor, "n ..."]:
        """[n, dx]: what the critic is given, in float32 at least; for formulas that read it."""
        return self._x

    @property
    def y(self) -> Shaped[Tensor, "n ..."]:
        """[n, dy]: as x, of each row's positive."""
        return self._other_views(self._x) if self._y is None else self._of_positives(self._y)

    @property
    def positive(self) -> Float[Tensor, " n"]:
        """[n]: the scores of the pairs."""
        if not self._usable(self._positive):
            with products(self._ex):
                ex, ey = self._sides()
                self._positive = self._critic.pair(ex, self._of_positives(ey)).double()
        assert self._positive is not None
        return self._positive

    @property
    def negative(self) -> "Negatives":
        return Negatives(self._samples, slice(None), self.total, self._of_rows, self._first_scores)

    def walk_for(self, estimate: Formula, surrogate: Formula) -> "Scores":
        """Walks the matrix once for all the reductions that estimate and surrogate will ask for; returns self.

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
        extra = () if self._extra is None else (self._extra,)
        return any(t.requires_grad for t in (self._ex, self._ey, *extra, *self._parameters()))

    def _parameters(self) -> Sequence[Tensor]:
        if self._offset is not None:
            return (self._offset,) if isinstance(self._offset, Tensor) else ()
        return tuple(self._critic.parameters()) if isinstance(self._critic, torch.nn.Module) else ()

    def _of_rows(self, q: Reduction) -> Tensor:
        """A result as formulas read it, a number a row or one: a column's is that of the rows it is the positive of."""
        result = self._result(q)
        return self._of_positives(result) if q.dim == 0 else result

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
            self._views if symmetric else None, self._ring, torch.is_grad_enabled(), self.dtype, self._own,
            # Another critic has one autograd graph at a time, and a GPU has threads of its own.
            self._samples.sharded, divided=self._offset is not None and self._ex.device.type == "cpu",
        )  # fmt: skip
        ex, ey = (self._ex, self._ex) if symmetric else self._sides()
        positive, results = walk(plan, head if surrogate is not None else None, ex, ey, self._extra, self._parameters())
        if positive is not None and not self._usable(self._positive):
            self._positive = positive
        self._results.update(results)

    def _sides(self) -> tuple[Tensor, Tensor]:
        return self._ex, self._ey if self._views is None else self._other_views(self._ey)

    def _other_views(self, t: Tensor) -> Tensor:
        return t.roll(-(self._views or 0), 0)

    def _weights(
        self, surrogate: Formula, r: slice, results: Mapping[Reduction, Tensor], positive: Tensor | None,
        carried: Sequence[Reduction],
    ) -> dict[Reduction, Tensor]:  # fmt: skip
        """d surrogate / d result, as far as rows r say, if it is a mean over rows."""
        leaves = {q: t.detach().requires_grad_() for q, t in results.items() if q in carried}
        with torch.enable_grad(), left_unchanged(getattr(surrogate, "__self__", None)):
            read = {q: self._of_positives(leaf) if q.dim == 0 else leaf for q, leaf in leaves.items()}
            view = SomeRows(self, r, {**results, **read}, self.positive.detach() if positive is None else positive)
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
                    if self._extra is not None and self._only_extra():
                        other = rows_of(self._samples.holders(self._ranks), self._extra, columns - self._gathered)
                    else:
                        other = rows_of(self._ranks, ey, columns)
                    self._first = self._critic.pair(ex, other).double()
        assert self._first is not None
        return self._first

    def _only_extra(self) -> bool:
        """Whether the columns of all processes are of one sample, so that negatives are extra ones alone."""
        ids = self._samples.ids
        return self._gathered == 1 if ids is None else bool((ids == ids[0]).all())

    def _first_columns(self) -> Int[Tensor, " n"]:
        """[n]: the column of one negative of each row: the next row's, or, with ids, the next greater id's, cyclically.

        By ids and not by place, since the order of columns differs between one process and several. The first extra
        one that is a negative where no other column is.
        """
        columns = torch.arange(self._gathered, device=self._ex.device)
        samples = self._samples
        if samples.extra and self._only_extra():
            return columns.new_full((self.n,), self._gathered + samples.first_extra)
        if samples.ids is None:
            return self._ranks.own((columns + 1) % self._gathered)
        values, inverse = samples.ids.unique(return_inverse=True)
        earliest = columns.new_full((len(values),), self._gathered).scatter_reduce(0, inverse, columns, "amin")
        own = self._ranks.own(inverse) if samples.own is None else torch.searchsorted(values, samples.own)
        return earliest[(own + 1) % len(values)]


def _are_views(sides: Sides) -> bool:
    """Whether both sides are all views of n samples, the first view of each and then the second: NT-Xent's form."""
    ids, positive, n = sides.ids, sides.positive, len(sides.x) // 2
    if ids is None or positive is None or sides.extra is not None:
        return False
    if n < 2 or len(sides.x) % 2 or not ids.shape == positive.shape == (2 * n,):
        return False
    rows = torch.arange(2 * n, device=positive.device)
    alike = sides.column_ids is None or sides.column_ids is ids or torch.equal(sides.column_ids, ids)
    return alike and torch.equal(ids[:n], ids[n:]) and torch.equal(positive, (rows + n) % (2 * n))
