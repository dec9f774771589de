"""What a walk gathers, tile by tile: results, gradients ready before they are asked for, memory used again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infomax.distributed import Ranks
from infomax.scores.critic_tiles import Gradient, Into
from infomax.scores.plan import Head, Plan, Results, Term
from infomax.scores.reductions import Forms, Reduction, Tile

if TYPE_CHECKING:
    from infomax.scores.rectangular import Rectangular
    from infomax.scores.symmetric import Symmetric


@dataclass
class Ready:
    """A gradient that forward made: of one scalar result, or of results whose weights were foreseen."""

    gradient: Gradient
    scalar: Reduction | None = None
    peak: Tensor | None = None  # the scalar's gradient is multiplied by e^(scalar - peak)
    weights: Results | None = None

    def complete(self, run: "Rectangular | Symmetric", results: Mapping[Reduction, Tensor]) -> None:
        """Normalises a scalar's gradient, and sends columns' gradients to the processes that own them."""
        if self.scalar is not None and self.scalar.kind == "logsumexp":
            result = results[self.scalar]
            self.gradient.scale_(((0.0 if self.peak is None else self.peak) - result).exp())
        self.gradient.parts = run.home(self.gradient)


Sums = list[tuple[Reduction, Tensor, Tensor | None]]  # of a tile: a reduction's sums, relative to which peak


class Running:
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

    def add_all(self, sums: Sums, r: slice, c: slice) -> None:
        """The sums of the tile of rows r and columns c."""
        for q, total, peak in sums:
            self.add(q, q.place(r, c), total, peak)

    def finished(self, q: Reduction, place: Any = ...) -> Tensor:
        total = self.totals[q][place]
        return total.log() if self.plain and q.kind == "logsumexp" else total

    def results(self) -> Results:
        return {q: self.finished(q) for q in self.totals}


class Buffers:
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

    def part(self, *name: object) -> Into:
        """Memory of that name for a part of a gradient."""
        return lambda rows, columns: self.tile(f"part {name}", rows, columns)


def by_two_passes(run: "Rectangular | Symmetric", plan: Plan, head: Head | None) -> tuple[Results, list[Ready]]:
    """Values, then the gradient with the weights that the formula gives on all rows."""
    results = run.values()
    assert head is not None
    complete = {q: over_ranks(plan.ranks, q, t) for q, t in results.items()}
    own = {q: plan.ranks.own(t) if q.dim == 0 else t for q, t in complete.items()}
    weights = head(slice(0, plan.tiles.n), own, run.positive)
    return results, [Ready(run.gradient(terms_of(plan.ranks, own, weights)), weights=weights)]


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


def rescaled(part: Ready, peak: Tensor) -> Tensor:
    """Moves a running gradient to the greater of its peak and a tile's; what the tile's is then multiplied by."""
    before = part.peak
    part.peak = peak.double() if before is None else torch.maximum(before, peak.double())
    if before is not None and bool(part.peak > before):
        part.gradient.scale_((before - part.peak).exp())
    return (peak.double() - part.peak).exp().to(peak.dtype)


def over_ranks(ranks: Ranks, q: Reduction, t: Tensor) -> Tensor:
    if q.dim == 1:
        return t
    return ranks.sum(t) if q.kind == "sum" else ranks.logsumexp(t)


def terms_of(ranks: Ranks, results: Mapping[Reduction, Tensor], weights: Mapping[Reduction, Tensor]) -> list[Term]:
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


def factors_of(ranks: Ranks, ready: Sequence[Ready], arrived: Mapping[Reduction, Tensor]) -> list[Tensor] | None:
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


def combined(ready: Sequence[Ready], factors: Sequence[Tensor], i: int) -> Tensor | None:
    pieces = [(part.gradient.parts[i], f) for part, f in zip(ready, factors, strict=True)]
    total = None
    for piece, factor in pieces:
        if piece is not None:
            factor = factor.to(piece.dtype)
            total = piece.mul_(factor) if total is None else total.addcmul_(piece, factor)
    return total
