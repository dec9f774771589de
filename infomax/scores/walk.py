"""One walk over the tiles of a score matrix that never exists, for all the reductions that were asked for.

Forward keeps the reductions' results, vectors and scalars, and where it can their gradient too, so that scores are
computed once, 3 products in all:
- A scalar's gradient needs no more than the scalar: it is gathered unnormalised and divided at the end.
- A row's gradient needs its weight, d objective / d result. The walk holds whole rows, whose results are then
  complete, and asks the objective's formula for the weights of those rows alone, as if it were a mean over rows.
- Columns complete only at the end, as do rows of a symmetric matrix, of which half is visited, or of a critic that is
  no inner product: then a second walk follows, with weights from the formula on all rows.
Backward compares the weights that arrive with those foreseen. Where they are proportional, and for a mean over rows
they are, the gradient is there already; else the matrix is walked again with the weights that arrived. So what was
foreseen is checked by arithmetic and never believed. Memory is O(N d + tile).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infomax.scores.functions import LARGEST
from infomax.scores.kernels import Reduction, Tile, shared_forms
from infomax.scores.products import AnyCritic, Gradient, InnerProduct, products
from infomax.scores.ranks import Ranks
from infomax.scores.tiles import Pairs, Tiles

KEPT = 1 << 18  # up to so many scores, 512 x 512, the one tile there is stays in memory until backward

# Rows and their reductions' results -> d objective / d result, as far as those rows say.
Head = Callable[[slice, Mapping[Reduction, Tensor]], dict[Reduction, Tensor]]


@dataclass(frozen=True)
class Plan:
    """What a walk needs beside tensors that carry gradient."""

    critic: Any  # .score(ex [b, ...], ey [c, ...]) -> [b, c]
    offset: Tensor | float | None  # of a critic whose score is <ex, ey> + offset; None for any other
    ranks: Ranks
    tiles: Tiles
    requests: tuple[Reduction, ...]
    carried: tuple[Reduction, ...] = ()  # those from which a gradient is expected
    head: Head | None = None
    swap: int | None = None  # s[i, j + swap] is symmetric, column numbers modulo N: see `Symmetric`


class Walk(torch.autograd.Function):
    """(plan, ex [n, ...], ey [n, ...], *parameters of the score) -> a float64 tensor per request: [n] or 0-d."""

    @staticmethod
    def forward(ctx, plan: Plan, ex: Tensor, ey: Tensor, *parameters: Tensor):
        with products(ex):
            needs = ctx.needs_input_grad[1:]
            run = _Run(plan, ex, plan.ranks.gather(ey), parameters, needs)
            results, ready = run.values_and_gradients() if any(needs) else (run.values(), [])
            shared = [_over_ranks(plan.ranks, q, results[q]) for q in plan.requests]
            for part in ready:
                part.complete(plan, dict(zip(plan.requests, shared, strict=True)))
        results = [plan.ranks.own(t).clone() if q.dim == 0 else t for q, t in zip(plan.requests, shared, strict=True)]
        ctx.plan, ctx.ready = plan, ready
        ctx.parameters = len(parameters)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, *parameters, *results)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, *saved = ctx.saved_tensors
        parameters, results = saved[: ctx.parameters], saved[ctx.parameters :]
        arrived = {q: g for q, g in zip(plan.requests, gradients, strict=True) if g is not None}
        factors = _factors(plan.ranks, ctx.ready, arrived)
        if factors is not None:
            # Handed out, not copied: a loss that is used again walks again.
            ready, ctx.ready = ctx.ready, []
            return None, *(_combine(ready, factors, i) for i in range(2 + len(parameters)))
        with products(ex):
            run = _Run(plan, ex, plan.ranks.gather(ey), parameters, ctx.needs_input_grad[1:])
            terms = _terms(plan.ranks, dict(zip(plan.requests, results, strict=True)), arrived)
            return None, *_home(plan.ranks, run.gradient(terms))


class WalkOneTile(torch.autograd.Function):
    """Walk, where one tile is the matrix: small enough to be kept until backward, so that nothing is foreseen."""

    @staticmethod
    def forward(ctx, plan: Plan, ex: Tensor, ey: Tensor, *parameters: Tensor):
        r, c = slice(0, plan.tiles.n), slice(0, plan.tiles.total)
        with products(ex):
            s = InnerProduct(plan.offset or 0.0, ex, ey).scores(r, c, None)
            low, high = torch.aminmax(s.detach())
            forms = shared_forms(plan.requests) if low >= -LARGEST and high <= LARGEST else None
            tile = Tile(plan.tiles, s, r, c, forms, torch.empty_like(s))
            results = []
            for q in plan.requests:
                peak = tile.peak(q)
                total = q.total(tile.summand(q, peak))
                if q.kind == "logsumexp":
                    total = total.log_() if peak is None else total.log_().add_(peak)
                results.append(total)
        ctx.plan, ctx.forms = plan, forms
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, s, *results)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, s, *results = ctx.saved_tensors
        r, c = slice(0, plan.tiles.n), slice(0, plan.tiles.total)
        terms = [Term(q, t, g) for q, t, g in zip(plan.requests, results, gradients, strict=True) if g is not None]
        with products(ex):
            tile = Tile(plan.tiles, s, r, c, ctx.forms, torch.empty_like(s), done=True)
            slope, _, _, rows, columns = tile_gradient(tile, terms, r, c)  # type: ignore[arg-type]
            # As InnerProduct.pull, with nothing to add to.
            x, y = ex, ey
            if rows is not None:
                x = ex * (rows := rows.to(s.dtype)[:, None])
            if columns is not None:
                y = ey * (columns := columns.to(s.dtype)[:, None])
            d_ex = d_ey = d_offset = None
            _, need_x, need_y, *need_offset = ctx.needs_input_grad
            if need_x:
                d_ex = slope @ y if rows is None else (slope @ y).mul_(rows)
            if need_y:
                d_ey = slope.T @ x if columns is None else (slope.T @ x).mul_(columns)
            if any(need_offset):
                sums = slope.sum(1) if columns is None else (slope @ columns).squeeze(1)
                d_offset = (sums if rows is None else sums * rows.squeeze(1)).sum()
        return None, d_ex, d_ey, *([d_offset] if need_offset else [])


@dataclass
class _Ready:
    """A gradient that forward made: of one scalar result, or of results whose weights were foreseen."""

    gradient: Gradient
    scalar: Reduction | None = None
    peak: Tensor | None = None  # the scalar's gradient is multiplied by e^(scalar - peak)
    weights: dict[Reduction, Tensor] | None = None

    def complete(self, plan: Plan, results: Mapping[Reduction, Tensor]) -> None:
        """Normalises a scalar's gradient, and sends columns' gradients to the processes that own them."""
        if self.scalar is not None and self.scalar.kind == "logsumexp":
            result = results[self.scalar]
            self.gradient.scale_(((0.0 if self.peak is None else self.peak) - result).exp())
        self.gradient.parts = _home(plan.ranks, self.gradient)


class _Run:
    """The tensors of one walk."""

    def __init__(self, plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor], needs: Sequence[bool]):
        self.plan, self.tiles = plan, plan.tiles
        self.ex, self.ey = ex, ey
        self.dtype = ex.dtype if ex.is_floating_point() else torch.get_default_dtype()
        self.leaves = [t if need and t.is_floating_point() else None
                       for t, need in zip((ex, ey, *parameters), needs, strict=True)]  # fmt: skip
        offset = plan.offset
        if offset is None:
            self.critic: InnerProduct | AnyCritic = AnyCritic(plan.critic, ex, ey, parameters, any(needs))
        else:
            self.critic = InnerProduct(offset, ex, ey)
        self.forms = shared_forms(plan.requests) if self.critic.largest() <= LARGEST else None
        self.buffers: dict[str, Tensor] = {}
        self.symmetric = None
        if plan.swap is not None and isinstance(self.critic, InnerProduct):
            self.symmetric = Symmetric.found(self, plan.swap)

    def tile(self, r: slice, c: slice) -> Tile:
        shape = r.stop - r.start, c.stop - c.start
        s = self.critic.scores(r, c, self.buffer("scores", shape))
        return Tile(self.tiles, s, r, c, self.forms, self.buffer("room", shape))

    def buffer(self, name: str, shape: tuple[int, int]) -> Tensor:
        # Reused: a fresh tensor of this size costs more in page faults than the pass that fills it.
        size = shape[0] * shape[1]
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.ex.device)
        return self.buffers[name][:size].view(shape)

    def values(self) -> dict[Reduction, Tensor]:
        """All results, and no gradient: one product."""
        if self.symmetric is not None:
            return self.symmetric.values()
        results = self.start()
        for r, c in self.tiles.tiles():
            tile = self.tile(r, c)
            for q in self.plan.requests:
                peak = tile.peak(q)
                add(results[q][q.place(r, c)], q, q.total(tile.summand(q, peak)), peak)
        return results

    def start(self) -> dict[Reduction, Tensor]:
        sizes = {1: (self.tiles.n,), 0: (self.tiles.total,), None: ()}
        return {
            q: torch.full(
                sizes[q.dim], 0.0 if q.kind == "sum" else -math.inf, dtype=torch.float64, device=self.ex.device
            )
            for q in self.plan.requests
        }

    def values_and_gradients(self) -> tuple[dict[Reduction, Tensor], list[_Ready]]:
        """All results, and the gradient of what is carried."""
        plan = self.plan
        dims = {q.dim for q in plan.carried}
        if not plan.carried or (dims != {None} and plan.head is None):
            return self.values(), []
        holds_rows = isinstance(self.critic, InnerProduct) and self.tiles.whole_rows()
        if self.symmetric is None and (dims == {None} or (0 not in dims and holds_rows)):
            return self.one_pass(1 in dims)
        results = self.values()
        assert plan.head is not None
        complete = {q: _over_ranks(plan.ranks, q, t) for q, t in results.items()}
        own = {q: plan.ranks.own(t) if q.dim == 0 else t for q, t in complete.items()}
        weights = plan.head(slice(0, self.tiles.n), own)
        return results, [_Ready(self.gradient(_terms(plan.ranks, own, weights)), weights=weights)]

    def one_pass(self, rows: bool) -> tuple[dict[Reduction, Tensor], list[_Ready]]:
        plan, results = self.plan, self.start()
        scalars = {q: _Ready(Gradient(self.leaves), q) for q in plan.carried if q.dim is None}
        foreseen = [q for q in plan.carried if q.dim == 1]
        used = {q: torch.empty_like(results[q]) for q in foreseen}  # the weights
        by_rows = _Ready(Gradient(self.leaves if foreseen else []), weights=used)
        everything = slice(0, self.tiles.total)
        for r, c in ((r, everything) for r in self.tiles.row_blocks()) if rows else self.tiles.tiles():
            tile = self.tile(r, c)
            summands: dict[Reduction, tuple[Tensor | None, Tensor]] = {}
            # Carried ones last: what they leave in the tile's room is used at once.
            for q in sorted(plan.requests, key=plan.carried.__contains__):
                peak = tile.peak(q)
                summand = tile.summand(q, peak)
                add(results[q][q.place(r, c)], q, q.total(summand), peak)
                if q in scalars:
                    slope = tile.slope(q, peak, summand)
                    if peak is not None:
                        slope = slope.mul_(_rescaled(scalars[q], peak))
                    self.critic.pull(scalars[q].gradient, slope, r, c)
                elif q in foreseen:
                    summands[q] = peak, summand
            if foreseen:
                assert plan.head is not None
                weights = plan.head(r, {q: results[q][r] if q.dim == 1 else results[q] for q in plan.requests})
                for q in foreseen:
                    used[q][r] = scale = weights[q]
                    peak = summands[q][0]
                    if q.kind == "logsumexp":
                        scale = scale * ((0.0 if peak is None else peak) - results[q][r]).exp()
                    self.critic.pull(by_rows.gradient, tile.slope(q, *summands[q]), r, c, rows=scale)
        return results, [*scalars.values(), *([by_rows] if foreseen else [])]

    def gradient(self, terms: "Sequence[Term]") -> Gradient:
        """The gradient with the given weights of complete results: two products beside the scores' own."""
        if self.symmetric is not None:
            return self.symmetric.gradient(terms)
        total = Gradient(self.leaves)
        for r, c in self.tiles.tiles():
            self.critic.pull(total, *tile_gradient(self.tile(r, c), terms, r, c))
        return total


@dataclass(frozen=True)
class Term:
    """A reduction, its result over all processes, and d objective / d result."""

    q: Reduction
    result: Tensor
    weight: Tensor

    def scale(self, place: Any) -> Tensor:
        """What the slope of e^fn(s), unshifted, is multiplied by."""
        weight = self.weight[place]
        return weight * (-self.result[place]).exp() if self.q.kind == "logsumexp" else weight


def tile_gradient(tile: Tile, terms: Sequence[Term], r: slice, c: slice) -> tuple:
    """d objective / d s on one tile, as what `pull` takes: tile, r, c, a number a row and a number a column."""
    if tile.forms is not None and len({(t.q.kind, t.q.fn, t.q.rest) for t in terms}) == 1:
        slope = tile.slope(terms[0].q, None)
        scales = [t.scale(t.q.place(r, c)) for t in terms]
        if len(terms) == 1:
            if terms[0].q.dim == 0:
                return slope, r, c, None, scales[0]
            return slope, r, c, scales[0].expand(slope.shape[0]), None
        scale = sum(t.q.along(s.to(slope.dtype)) for t, s in zip(terms, scales, strict=True))
        return tile.scaled(slope, scale), r, c, None, None  # type: ignore[arg-type]
    total = None
    for t in terms:
        place = t.q.place(r, c)
        if tile.forms is None and t.q.kind == "logsumexp":
            scale, peak = t.weight[place], t.result[place].to(tile.content.dtype)
        else:
            scale, peak = t.scale(place), None
        piece = tile.slope(t.q, peak) * t.q.along(scale.to(tile.content.dtype))
        total = piece if total is None else total.add_(piece)
    return total, r, c, None, None


class Symmetric:
    """A matrix t[i, j] = s[i, j + swap] that is symmetric: tiles above its diagonal stand for those below.

    The scores of all views against all views are such (NT-Xent): y is x with its halves exchanged, and the critic
    gives both sides the same features but for a factor, ex = factor * ey, columns in the order of rows.
    """

    def __init__(self, run: _Run, ey: Tensor, factor: float, tiles: Tiles, swap: int):
        self.run, self.ey, self.factor, self.tiles, self.swap = run, ey, factor, tiles, swap

    @staticmethod
    def found(run: _Run, swap: int) -> "Symmetric | None":
        """Where the critic's features are so, to rounding; checked on one row first, which nearly always decides."""
        ex, ey, tiles = run.ex, run.ey, run.tiles
        allowed = 4 * torch.finfo(ex.dtype).eps
        for rows in (slice(0, 1), slice(0, None)):
            own, other = ex[rows], ey[swap : swap + 1] if rows.stop == 1 else ey.roll(-swap, 0)
            factor = float((own * other).double().sum() / other.square().double().sum())
            if not bool(((own - factor * other).abs() <= allowed * own.abs().amax(1, keepdim=True)).all()):
                return None
        if any(q.dim == 0 or q.rest for q in run.plan.requests):
            return None
        if tiles.ids is not None:
            return None
        arange = torch.arange(tiles.n, device=ex.device)
        same = tiles.same or Pairs(arange, arange)
        mapped = Pairs.sorted(same.rows, (same.columns - swap) % tiles.n)
        if tiles.same is not None and not mapped.equal(Pairs.sorted(mapped.columns, mapped.rows)):
            return None
        return Symmetric(run, other, factor, replace(tiles, same=mapped), swap)

    def _tile(self, r: slice, c: slice) -> Tile:
        run = self.run
        shape = r.stop - r.start, c.stop - c.start
        offset = run.critic.offset  # type: ignore[union-attr]
        out = run.buffer("scores", shape)
        if offset is None:
            torch.mm(run.ex[r], self.ey[c].T, out=out)
        else:
            torch.addmm(offset, run.ex[r], self.ey[c].T, out=out)
        return Tile(self.tiles, out, r, c, run.forms, run.buffer("room", shape))

    def values(self) -> dict[Reduction, Tensor]:
        results = self.run.start()
        for r, c in self.tiles.upper():
            tile = self._tile(r, c)
            for q in self.run.plan.requests:
                peak = tile.peak(q)
                summand = tile.summand(q, peak)
                total = q.total(summand)
                if q.dim is None:
                    add(results[q], q, total if r == c else 2 * total, peak)
                    continue
                add(results[q][r], q, total, peak)
                if r != c:
                    mirror = q._replace(dim=0)
                    if peak is not None:
                        peak = tile.peak(mirror)
                        summand = tile.summand(mirror, peak)
                    add(results[q][c], q, mirror.total(summand), peak)
        return results

    def gradient(self, terms: Sequence[Term]) -> Gradient:
        run = self.run
        total = Gradient(run.leaves)
        # A symmetric d objective / d t: each tile's own and its mirror's, summed.
        both = torch.zeros_like(self.ey)
        sums = torch.zeros((), dtype=torch.float64, device=both.device)
        for r, c in self.tiles.upper():
            tile = self._tile(r, c)
            mirrored = [Term(t.q._replace(dim=None if t.q.dim is None else 0), t.result, t.weight) for t in terms]
            # A shared form is of one reduction: the mirror's is the same function of e.
            if tile.forms is not None:
                tile.forms = tile.forms | {m.q: tile.forms[t.q] for m, t in zip(mirrored, terms, strict=True)}
            piece, *_ = tile_gradient(tile, [*terms, *mirrored], r, c)
            both[r].addmm_(piece, self.ey[c])
            if r != c:
                both[c].addmm_(piece.T, self.ey[r])
            if len(total.parts) > 2:
                sums += piece.sum() * (0.5 if r == c else 1.0)
        if total.ex is not None:
            total.ex.copy_(both).mul_(0.5)
        if total.ey is not None:
            total.ey.copy_(both.roll(self.swap, 0)).mul_(0.5 * self.factor)
        if len(total.parts) > 2 and total.parts[2] is not None:
            total.parts[2] += sums
        return total


def add(place: Tensor, q: Reduction, total: Tensor, peak: Tensor | None) -> None:
    """Adds a tile's sums, relative to peak in a log-sum-exp, to a running result; in place."""
    if q.kind == "sum":
        place += total
    else:
        torch.logaddexp(place, total.log_() if peak is None else total.log_().add_(peak), out=place)


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


def _home(ranks: Ranks, gradient: Gradient) -> list[Tensor | None]:
    ex, ey, *rest = gradient.parts
    return [ex, None if ey is None else ranks.scatter_sum(ey), *rest]


def _factors(ranks: Ranks, ready: Sequence[_Ready], arrived: Mapping[Reduction, Tensor]) -> list[Tensor] | None:
    """What each ready gradient is multiplied by; None where they are not what arrived asks for, on any process."""
    covered = {q for part in ready for q in ([part.scalar] if part.scalar is not None else part.weights or ())}
    zero = torch.zeros((), dtype=torch.float64, device=next(iter(arrived.values())).device)
    good = covered.issuperset(arrived) and bool(ready)
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


def walk(plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor]) -> dict[Reduction, Tensor]:
    """Runs a plan: its requests and their results."""
    tiles = plan.tiles
    if plan.offset is not None and (ex.is_cuda or "TRITON_INTERPRET" in os.environ):
        from infomax.scores import fused  # asks for Triton, which is slow to import and not everywhere

        if fused.applies(plan, ex, ey):
            found: tuple[Tensor, ...] = fused.FusedWalk.apply(plan, ex, ey, *parameters)  # type: ignore[assignment]
            return dict(zip(plan.requests, found, strict=True))
    small = tiles.rows is None and tiles.columns is None and tiles.n * tiles.total <= KEPT
    kind = WalkOneTile if small and plan.offset is not None and plan.ranks.size == 1 else Walk
    results: tuple[Tensor, ...] = kind.apply(plan, ex, ey, *parameters)  # type: ignore[assignment]
    return dict(zip(plan.requests, results, strict=True))
