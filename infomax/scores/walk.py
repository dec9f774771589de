"""One walk over the tiles of a score matrix that never exists, for all the reductions that were asked for.

Forward keeps the reductions' results, vectors and scalars, and where it can their gradient too, so that scores are
computed once, 3 products in all:
- A scalar's gradient needs no more than the scalar: it is gathered unnormalised and divided at the end.
- A row's gradient needs its weight, d objective / d result. The walk holds whole rows, whose results are then
  complete, and asks the objective's formula for the weights of those rows alone, as if it were a mean over rows.
- Columns complete only at the end, as do rows of a symmetric matrix, of which half is visited, of a critic that is no
  inner product, or where columns come around from other processes: then a second walk follows, with weights from the
  formula on all rows.
Backward compares the weights that arrive with those foreseen. Where they are proportional, and for a mean over rows
they are, the gradient is there already; else the matrix is walked again with the weights that arrived. So what was
foreseen is checked by arithmetic and never believed. Memory is O(N d + tile).
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infomax.scores.functions import LARGEST
from infomax.scores.kernels import Forms, Reduction, Tile, shared_forms
from infomax.scores.products import AnyCritic, Gradient, InnerProduct, filled, products
from infomax.scores.ranks import Ranks
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

    @property
    def rest(self) -> bool:
        return all(q.rest for q in self.requests)


class Walk(torch.autograd.Function):
    """(plan, head, ex [n, ...], ey [n, ...], *parameters) -> positives, and a float64 tensor per request.

    head is not kept: it knows the Scores that will hold the results, and the circle would outlive a step.
    Positives [n] are those of an inner product, None for any other critic. Requests are [n] or 0-d.
    """

    @staticmethod
    def forward(ctx, plan: Plan, head: Head | None, ex: Tensor, ey: Tensor, *parameters: Tensor):
        needs = [need and plan.grad for need in ctx.needs_input_grad[2:]]
        with products(ex):
            run = _run(plan, ex, ey, parameters, needs)
            results, ready = run.values_and_gradients(head) if any(needs) else (run.values(), [])
            shared = {q: _over_ranks(plan.ranks, q, t) for q, t in results.items()}
            for part in ready:
                part.complete(run, shared)
        results = [plan.ranks.own(shared[q]).clone() if q.dim == 0 else shared[q] for q in plan.requests]
        if not plan.grad:
            return None if run.positive is None else run.positive.double(), *results
        ctx.plan, ctx.ready = plan, ready
        ctx.parameters = len(parameters)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, *parameters, *results)
        return None if run.positive is None else run.positive.double(), *results

    @staticmethod
    @once_differentiable
    def backward(ctx, positive: Tensor | None, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, *saved = ctx.saved_tensors
        parameters, results = saved[: ctx.parameters], saved[ctx.parameters :]
        arrived = {q: g for q, g in zip(plan.requests, gradients, strict=True) if g is not None}
        factors = _factors(plan.ranks, ctx.ready, arrived)
        with products(ex):
            run = _run(plan, ex, ey, parameters, ctx.needs_input_grad[2:], only_gradient=factors is not None)
            if factors is not None:
                # Handed out, not copied: a loss that is used again walks again.
                ready, ctx.ready = ctx.ready, []
                parts = [_combine(ready, factors, i) for i in range(2 + len(parameters))]
            else:
                ctx.ready = []
                terms = _terms(plan.ranks, dict(zip(plan.requests, results, strict=True)), arrived)
                parts = run.home(run.gradient(terms))
            if positive is not None:
                parts = run.pull_pairs(parts, positive)
        parts = [
            part if part is None else part.to(t.dtype) for part, t in zip(parts, (ex, ey, *parameters), strict=True)
        ]
        return None, None, *parts


@dataclass
class _Ready:
    """A gradient that forward made: of one scalar result, or of results whose weights were foreseen."""

    gradient: Gradient
    scalar: Reduction | None = None
    peak: Tensor | None = None  # the scalar's gradient is multiplied by e^(scalar - peak)
    weights: Results | None = None

    def complete(self, run: "_Run | _Views", results: Mapping[Reduction, Tensor]) -> None:
        """Normalises a scalar's gradient, and sends columns' gradients to the processes that own them."""
        if self.scalar is not None and self.scalar.kind == "logsumexp":
            result = results[self.scalar]
            self.gradient.scale_(((0.0 if self.peak is None else self.peak) - result).exp())
        self.gradient.parts = run.home(self.gradient)


class _Running:
    """Results while they are added up, tile by tile."""

    def __init__(self, plan: Plan, device: torch.device, forms: Forms | None):
        # Where e^s is shared nothing is shifted, and a log-sum-exp is a sum until it is finished.
        self.plain = forms is not None
        sizes = {1: (plan.tiles.n,), 0: (plan.tiles.total,), None: ()}
        self.totals = {
            q: torch.full(sizes[q.dim], 0.0 if self.plain or q.kind == "sum" else -math.inf,
                          dtype=torch.float64, device=device)
            for q in plan.requests
        }  # fmt: skip

    def add(self, q: Reduction, place: Any, total: Tensor, peak: Tensor | None) -> None:
        """A tile's sums, relative to peak in a log-sum-exp."""
        if self.plain or q.kind == "sum":
            self.totals[q][place] += total
        else:
            own = self.totals[q][place]
            torch.logaddexp(own, total.log_() if peak is None else total.log_().add_(peak), out=own)

    def finished(self, q: Reduction, place: Any = ...) -> Tensor:
        total = self.totals[q][place]
        return total.log() if self.plain and q.kind == "logsumexp" else total

    def results(self) -> Results:
        return {q: self.finished(q) for q in self.totals}


class _Buffers:
    """Memory that is used again: a fresh tile costs more in page faults than the pass that fills it."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.found: dict[str, Tensor] = {}

    def tile(self, name: str, rows: int, columns: int, start: int = 0, of: int = 0) -> Tensor:
        """[rows, columns], stored by columns, `start` numbers into a buffer of at least `of`."""
        size = rows * columns
        if name not in self.found or self.found[name].numel() < max(of, start + size):
            self.found[name] = torch.empty(max(of, start + size), dtype=self.dtype, device=self.device)
        return self.found[name][start : start + size].view(columns, rows).T


def _run(
    plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], needs: Sequence[bool], only_gradient: bool = False
) -> "_Run | _Views":
    kind = _Run if plan.views is None else _Views
    return kind(plan, ex, ey, parameters, needs, only_gradient)


class _Run:
    """One walk over a matrix of rows x and columns y."""

    def __init__(
        self, plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], needs: Sequence[bool],
        only_gradient: bool,
    ):  # fmt: skip
        self.plan, self.tiles, self.own = plan, plan.tiles, ey
        self.positive: Tensor | None = None
        self.leaves = [t if need and t.is_floating_point() else None
                       for t, need in zip((ex, ey, *parameters), needs, strict=True)]  # fmt: skip
        whole = ey
        if not only_gradient and not plan.ring:
            whole = plan.ranks.gather(ey)
            if self.leaves[1] is not None:
                self.leaves[1] = whole
        if plan.offset is None:
            self.critic: InnerProduct | AnyCritic = AnyCritic(plan.critic, ex, whole, parameters, any(needs))
        else:
            self.critic = InnerProduct(plan.offset, ex, whole)
            if not only_gradient:
                self.positive = self.critic.pair(ey)
        if not only_gradient:
            self.forms = self._forms()
            self.buffers = _Buffers(plan.dtype, ex.device)

    def _forms(self) -> Forms | None:
        largest = self.critic.largest()
        if self.plan.ring:  # of the columns that come around, too
            largest = float(self.plan.ranks.gather(torch.tensor([largest], device=self.own.device)).max())
        return shared_forms(self.plan.requests, largest) if largest <= LARGEST else None

    def tile(self, r: slice, c: slice, held: int | None = None) -> Tile:
        """held: where in the block of rows it begins, if all its tiles are kept."""
        rows, columns = r.stop - r.start, c.stop - c.start
        if held is None:
            out = self.buffers.tile("scores", rows, columns)
        else:
            out = self.buffers.tile("held", rows, columns, held * rows, self.tiles.total * rows)
        s = self.critic.scores(r, c, out)
        return Tile(self.tiles, s, r, c, self.forms, self.buffers.tile("room", rows, columns), rest=self.plan.rest)

    def turns(self, gradients: Sequence[Gradient] = ()) -> Iterator[slice]:
        """The columns that are at hand, all at once or those of one process after another's."""
        if not self.plan.ring:
            yield slice(0, self.tiles.total)
            return
        for first, block in self.plan.ranks.around(self.own, [g.ey for g in gradients]):
            self.critic.first, self.critic.ey = first, block
            yield slice(first, first + len(block))

    def values(self) -> Results:
        """All results, and no gradient: one product."""
        running = _Running(self.plan, self.own.device, self.forms)
        with self.critic.without_graph():
            for columns in self.turns():
                for r, c in self.tiles.tiles(columns):
                    tile = self.tile(r, c)
                    for q in self.plan.requests:
                        peak = tile.peak(q)
                        running.add(q, q.place(r, c), q.total(tile.summand(q, peak)), peak)
        return running.results()

    def values_and_gradients(self, head: Head | None) -> tuple[Results, list[_Ready]]:
        """All results, and the gradient of what is carried."""
        plan = self.plan
        dims = {q.dim for q in plan.carried}
        if not plan.carried:
            return self.values(), []
        if plan.ring:  # whole rows are never at hand, nor a shift by a maximum that all processes share
            once = dims == {None} and self.forms is not None
        else:
            once = dims == {None} or (0 not in dims and plan.offset is not None)
        if once:
            return self.one_pass(head)
        if head is None:
            return self.values(), []
        return _by_two_passes(self, self.plan, head)

    def one_pass(self, head: Head | None) -> tuple[Results, list[_Ready]]:
        plan, running = self.plan, _Running(self.plan, self.own.device, self.forms)
        scalars = {q: _Ready(Gradient(self.leaves), q) for q in plan.carried if q.dim is None}
        foreseen = [q for q in plan.carried if q.dim == 1]
        used = {q: torch.empty_like(running.totals[q]) for q in foreseen}  # the weights
        by_rows = _Ready(Gradient(self.leaves if foreseen else []), weights=used)
        # Carried ones last: what they leave in the tile's room is used at once.
        requests = sorted(plan.requests, key=plan.carried.__contains__)
        for columns in self.turns([part.gradient for part in scalars.values()]):
            for r, cut in self.tiles.blocks(columns, held=bool(foreseen)):
                held = []
                for c in cut:
                    tile = self.tile(r, c, c.start if foreseen else None)
                    for q in requests:
                        peak = tile.peak(q)
                        summand = tile.summand(q, peak)
                        running.add(q, q.place(r, c), q.total(summand), peak)
                        if q in scalars and (peak is None or bool(peak > -math.inf)):  # else no negative is in it
                            slope = tile.slope(q, peak, summand)
                            if peak is not None:
                                slope = slope.mul_(_rescaled(scalars[q], peak))
                            self.critic.pull(scalars[q].gradient, slope, r, c)
                    held.append(tile)
                if not foreseen:
                    continue
                assert head is not None
                done = {q: running.finished(q, r if q.dim == 1 else ...) for q in plan.requests}
                weights = head(r, done, self.positive)
                for q in foreseen:
                    used[q][r] = weights[q]
                    terms = Term(q, done[q], weights[q])
                    for tile in held:
                        peak = done[q].to(tile.content.dtype) if self.forms is None else None
                        scale = weights[q] if self.forms is None else terms.scale(...)
                        self.critic.pull(by_rows.gradient, tile.slope(q, peak), tile.r, tile.c, rows=scale)
        return running.results(), [*scalars.values(), *([by_rows] if foreseen else [])]

    def gradient(self, terms: "Sequence[Term]") -> Gradient:
        """The gradient with the given weights of complete results: two products beside the scores' own."""
        total = Gradient(self.leaves)
        for columns in self.turns([total]):
            for r, c in self.tiles.tiles(columns):
                tile = self.tile(r, c)
                rows = None
                if len(terms) == 1 and terms[0].q.dim == 1 and tile.forms is not None:
                    slope, rows = tile.slope(terms[0].q, None), terms[0].scale(r)
                else:
                    slope = tile_gradient(tile, terms, r, c)
                self.critic.pull(total, slope, r, c, rows)
        return total

    def home(self, gradient: Gradient) -> list[Tensor | None]:
        ex, ey, *rest = gradient.parts
        return [ex, ey if ey is None or self.plan.ring else self.plan.ranks.scatter_sum(ey), *rest]

    def pull_pairs(self, parts: list[Tensor | None], positive: Tensor) -> list[Tensor | None]:
        assert isinstance(self.critic, InnerProduct)
        parts = filled(parts, self._own_leaves())
        self.critic.pull_pairs(parts, self.own, positive)
        return parts

    def _own_leaves(self) -> list[Tensor | None]:
        ex, ey, *rest = self.leaves
        return [ex, None if ey is None else self.own, *rest]


def _by_two_passes(run: "_Run | _Views", plan: Plan, head: Head | None) -> tuple[Results, list[_Ready]]:
    """Values, then the gradient with the weights that the formula gives on all rows."""
    results = run.values()
    assert head is not None
    complete = {q: _over_ranks(plan.ranks, q, t) for q, t in results.items()}
    own = {q: plan.ranks.own(t) if q.dim == 0 else t for q, t in complete.items()}
    weights = head(slice(0, plan.tiles.n), own, run.positive)
    return results, [_Ready(run.gradient(_terms(plan.ranks, own, weights)), weights=weights)]


class _Views:
    """One walk over the scores of all 2 n views against all, for a critic that is symmetric: t = e e^T + offset.

    Tiles above the diagonal stand for those below.
    """

    def __init__(
        self, plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], needs: Sequence[bool],
        only_gradient: bool,
    ):  # fmt: skip
        assert plan.offset is not None and plan.views is not None
        self.plan, self.tiles, self.e, self.n = plan, plan.tiles, ex, plan.views
        self.critic = InnerProduct(plan.offset, ex, ex)
        self.leaves = [ex if needs[0] else None, None, *(p if need else None for p, need in
                                                         zip(parameters, needs[2:], strict=True))]  # fmt: skip
        if not only_gradient:
            half = InnerProduct(plan.offset, ex[: self.n], ex).pair(ex[self.n :])
            self.positive = torch.cat([half, half])
            largest = self.critic.largest()
            self.forms = shared_forms(plan.requests, largest) if largest <= LARGEST else None
            self.buffers = _Buffers(plan.dtype, ex.device)

    def tile(self, r: slice, c: slice) -> Tile:
        rows, columns = r.stop - r.start, c.stop - c.start
        s = self.critic.scores(r, c, self.buffers.tile("scores", rows, columns))
        return Tile(self.tiles, s, r, c, self.forms, self.buffers.tile("room", rows, columns), rest=self.plan.rest)

    def values(self) -> Results:
        running = _Running(self.plan, self.e.device, self.forms)
        for r, c in self.tiles.upper():
            tile = self.tile(r, c)
            for q in self.plan.requests:
                for which, place in ((q, r), (q.mirrored, c)) if r != c else ((q, r),):
                    peak = tile.peak(which)
                    total = which.total(tile.summand(which, peak))
                    running.add(q, ... if q.dim is None else place, total, peak)
        return running.results()

    def values_and_gradients(self, head: Head | None) -> tuple[Results, list[_Ready]]:
        if not self.plan.carried or head is None:
            return self.values(), []
        return _by_two_passes(self, self.plan, head)

    def gradient(self, terms: "Sequence[Term]") -> Gradient:
        total = Gradient(self.leaves)
        for r, c in self.tiles.upper():
            tile = self.tile(r, c)
            ds = tile_gradient(tile, [*terms, *(t.mirrored for t in terms)], r, c)  # of s[i, j] and s[j, i] together
            if total.ex is not None:
                total.ex[r].addmm_(ds, self.e[c])
                if r != c:
                    total.ex[c].addmm_(ds.T, self.e[r])
            if len(total.parts) > 2 and total.parts[2] is not None:
                total.parts[2] += ds.sum() * (0.5 if r == c else 1.0)
        return total

    def home(self, gradient: Gradient) -> list[Tensor | None]:
        return list(gradient.parts)

    def pull_pairs(self, parts: list[Tensor | None], positive: Tensor) -> list[Tensor | None]:
        parts = filled(parts, self.leaves)
        n, (one, other) = self.n, positive.to(self.e.dtype)[:, None].split(self.n)
        if (gradient := parts[0]) is not None:
            gradient[:n].addcmul_(self.e[n:], one + other)
            gradient[n:].addcmul_(self.e[:n], one + other)
        if len(parts) > 2 and parts[2] is not None:
            parts[2] += positive.sum()
        return parts


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


def tile_gradient(tile: Tile, terms: Sequence[Term], r: slice, c: slice) -> Tensor:
    """d objective / d s on one tile, outside its content."""
    if tile.forms is not None and len({(t.q.kind, t.q.fn, t.q.rest) for t in terms}) == 1:
        slope = tile.slope(terms[0].q, None)
        scales = [t.q.along(t.scale(t.q.place(r, c)).to(slope.dtype)) for t in terms]
        if len(scales) == 2 and slope is tile.content:
            return torch.add(scales[0].expand(slope.shape), scales[1], out=tile.room).mul_(slope)
        return tile.scaled(slope, sum(scales[1:], scales[0]))
    total = None
    for t in terms:
        place = t.q.place(r, c)
        if tile.forms is None and t.q.kind == "logsumexp":
            scale, peak = t.weight[place], t.result[place].to(tile.content.dtype)
        else:
            scale, peak = t.scale(place), None
        piece = tile.slope(t.q, peak) * t.q.along(scale.to(tile.content.dtype))
        total = piece if total is None else total.add_(piece)
    return torch.zeros_like(tile.content) if total is None else total


def _rescaled(part: _Ready, peak: Tensor) -> Tensor:
    """Moves a running gradient to the greater of its peak and a tile's; what the tile's is then multiplied by."""
    before = part.peak
    part.peak = peak.double() if before is None else torch.maximum(before, peak.double())
    if before is not None and bool(part.peak > before):
        part.gradient.scale_((before - part.peak).exp())
    return (peak.double() - part.peak).exp().to(peak.dtype)


def _over_ranks(ranks: Ranks, q: Reduction, t: Tensor) -> Tensor:
    if q.dim == 1:
        return t
    return ranks.sum(t) if q.kind == "sum" else ranks.logsumexp(t)


def _terms(ranks: Ranks, results: Mapping[Reduction, Tensor], weights: Mapping[Reduction, Tensor]) -> list[Term]:
    """Scalars are shared by all processes, and columns by all rows: their gradients come from every process."""
    terms = []
    for q, weight in weights.items():
        result, weight = results[q], weight.double()
        if q.dim is None:
            weight = ranks.sum(weight)
        elif q.dim == 0:
            result, weight = ranks.gather(result), ranks.gather(weight)
        terms.append(Term(q, result, weight))
    return terms


def _factors(ranks: Ranks, ready: Sequence[_Ready], arrived: Mapping[Reduction, Tensor]) -> list[Tensor] | None:
    """What each ready gradient is multiplied by; None where they are not what arrived asks for, on any process."""
    covered = {q for part in ready for q in ([part.scalar] if part.scalar is not None else part.weights or ())}
    good = covered.issuperset(arrived) and bool(ready)
    if not arrived:
        return [torch.zeros(())] * len(ready) if ready else None
    zero = torch.zeros((), dtype=torch.float64, device=next(iter(arrived.values())).device)
    factors, foreseen = [], []
    for part in ready:
        if part.scalar is not None:
            factors.append(arrived.get(part.scalar, zero).double())
            continue
        factor, same = _ratio(arrived, part.weights or {})
        good = good and same
        foreseen.append(len(factors))
        factors.append(zero + factor)
    if ranks.size == 1:
        return factors if good else None
    everyone = ranks.gather(torch.stack([zero + float(good), *factors])[None])
    if not bool((everyone[:, 0] == 1).all()):
        return None
    for i in foreseen:
        if not bool((everyone[:, 1 + i] - factors[i]).abs().max() <= 1e-14 * factors[i].abs()):
            return None
    return [everyone[0, 1 + i] if i in foreseen else everyone[:, 1 + i].sum() for i in range(len(factors))]


def _ratio(arrived: Mapping[Reduction, Tensor], weights: Mapping[Reduction, Tensor]) -> tuple[float, bool]:
    """arrived = factor * weights, to rounding?"""
    if not arrived.keys() & weights.keys():
        return 0.0, True
    foreseen = torch.cat([w.double().reshape(-1) for w in weights.values()])
    found = torch.cat([
        (arrived[q].double() if q in arrived else torch.zeros_like(w, dtype=torch.float64)).reshape(-1)
        for q, w in weights.items()
    ])  # fmt: skip
    place = foreseen.abs().argmax()
    if not bool(foreseen[place]):
        return 0.0, not bool(found.any())
    factor = found[place] / foreseen[place]
    same = (found - factor * foreseen).abs().max() <= 1e-13 * found.abs().max()
    return float(factor), bool(same)


def _combine(ready: Sequence[_Ready], factors: Sequence[Tensor], i: int) -> Tensor | None:
    pieces = [(part.gradient.parts[i], f) for part, f in zip(ready, factors, strict=True)]
    total = None
    for piece, factor in pieces:
        if piece is not None:
            factor = factor.to(piece.dtype)
            total = piece.mul_(factor) if total is None else total.addcmul_(piece, factor)
    return total


def walk(
    plan: Plan, head: Head | None, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor | None, Results]:
    """Runs a plan: the positives [n] of an inner product, and all requests with their results."""
    if ex.is_cuda or "TRITON_INTERPRET" in os.environ:
        from infomax.scores import fused  # asks for Triton, which is slow to import and not everywhere

        if fused.applies(plan, ex, ey):
            positive, *results = fused.FusedWalk.apply(plan, ex, ey, *parameters)  # type: ignore[misc]
            return positive, dict(zip(plan.requests, results, strict=True))
    positive, *results = Walk.apply(plan, head, ex, ey, *parameters)  # type: ignore[misc]
    return positive, dict(zip(plan.requests, results, strict=True))
