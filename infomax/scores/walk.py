"""One walk over the tiles of a score matrix that never exists, for all the reductions that were asked for.

Forward keeps the reductions' results (vectors and scalars), backward visits each tile again, turns the results'
gradients into the tile's, and lets the critic carry that to features and parameters. Memory is O(N d + tile).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infomax.scores.functions import Function
from infomax.scores.ranks import Ranks

TILE = 1 << 22  # numbers in a tile: 16 MiB in fp32, which a CPU's cache and a GPU's launch cost both accept


@dataclass(frozen=True)
class Reduction:
    """A sum or log-sum-exp of fn(s) over negatives: per row (dim=1), per column (dim=0) or over all (dim=None).

    `rest` leaves out each row's first negative.
    """

    kind: Literal["sum", "logsumexp"]
    fn: Function
    dim: int | None
    rest: bool = False


class First:
    """Asks for the score of each row's first negative."""


FIRST = First()
Request = Reduction | First


@dataclass(frozen=True)
class Plan:
    """What a walk needs beside tensors that carry gradient."""

    critic: Any  # .score(ex [b, ...], ey [c, ...]) -> [b, c], .pair(ex [n, ...], ey [n, ...]) -> [n], .width
    ranks: Ranks
    ids: Tensor | None  # [n], this process's rows
    all_ids: Tensor | None  # [N], all processes' columns
    first: Tensor | None  # [n], the column of each row's first negative
    rows: int | None
    columns: int | None
    requests: tuple[Request, ...]

    def tiles(self, n: int, total: int) -> Iterator[tuple[slice, slice]]:
        width = max(1, self.critic.width)
        rows = self.rows or max(min(n, TILE // (total * width)), min(n, 32))
        columns = self.columns or max(min(total, TILE // (rows * width)), 1)
        for r in range(0, n, rows):
            for c in range(0, total, columns):
                yield slice(r, min(r + rows, n)), slice(c, min(c + columns, total))

    def fill(self, tile: Tensor, r: slice, c: slice, n: int, rest: bool, value: float) -> Tensor:
        """Writes `value` where a tile's pair is no negative; in place."""
        if self.ids is None or self.all_ids is None:
            start = self.ranks.rank * n + r.start  # the column of the first row's positive
            low, high = max(start, c.start), min(start + tile.shape[0], c.stop)
            if low < high:
                tile[low - start : high - start, low - c.start : high - c.start].fill_diagonal_(value)
        else:
            tile.masked_fill_(self.ids[r, None] == self.all_ids[None, c], value)
        if rest and self.first is not None:
            column = self.first[r] - c.start
            inside = ((column >= 0) & (column < tile.shape[1])).nonzero().squeeze(1)
            tile[inside, column[inside]] = value
        return tile


class Walk(torch.autograd.Function):
    """(plan, ex [n, ...], ey [n, ...], *parameters of the critic) -> a tensor per request: [n] or 0-d."""

    @staticmethod
    def forward(ctx, plan: Plan, ex: Tensor, ey: Tensor, *parameters: Tensor):
        n, ranks = ex.shape[0], plan.ranks
        all_ey = ranks.gather(ey)
        total = all_ey.shape[0]
        with _no_autocast(ex):
            results = [_start(request, n, total, ex) for request in plan.requests]
            for r, c in plan.tiles(n, total):
                s = plan.critic.score(ex[r], all_ey[c])
                for request, result in zip(plan.requests, results, strict=True):
                    if isinstance(request, Reduction):
                        _accumulate(plan, request, result, s, r, c, n)
            for i, request in enumerate(plan.requests):
                if isinstance(request, First):
                    assert plan.first is not None
                    results[i] = plan.critic.pair(ex, all_ey[plan.first])
                elif request.dim != 1:
                    whole = ranks.sum(results[i]) if request.kind == "sum" else ranks.logsumexp(results[i])
                    results[i] = whole if request.dim is None else ranks.own(whole).clone()
                results[i] = results[i].to(_score_dtype(ex))
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, *parameters, *results)
        ctx.parameters = len(parameters)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, *saved = ctx.saved_tensors
        parameters, results = saved[: ctx.parameters], list(saved[ctx.parameters :])
        n, ranks = ex.shape[0], plan.ranks
        all_ey = ranks.gather(ey)
        # Scalars are shared by all processes, and columns by all rows: their gradients come from every process.
        weights: list[Tensor | None] = []
        for i, (request, gradient) in enumerate(zip(plan.requests, gradients, strict=True)):
            if gradient is not None and isinstance(request, Reduction) and request.dim != 1:
                gradient = ranks.sum(gradient) if request.dim is None else ranks.gather(gradient)
                results[i] = results[i] if request.dim is None else ranks.gather(results[i])
            weights.append(gradient)

        d_ex = torch.zeros_like(ex) if ex.is_floating_point() and ctx.needs_input_grad[1] else None
        d_ey = torch.zeros_like(all_ey) if ey.is_floating_point() and ctx.needs_input_grad[2] else None
        d_parameters = [torch.zeros_like(p) if need else None
                        for p, need in zip(parameters, ctx.needs_input_grad[3:], strict=True)]  # fmt: skip

        def carry(score, rows: slice, columns: Any, weigh) -> None:
            """Through the critic: adds d score -> d ex[rows], d all_ey[columns], d parameters."""
            leaf_x = ex[rows].detach().requires_grad_(d_ex is not None)
            leaf_y = all_ey[columns].detach().requires_grad_(d_ey is not None)
            leaves = [leaf for leaf in (leaf_x, leaf_y, *parameters) if leaf.requires_grad]
            with torch.enable_grad():
                s = score(leaf_x, leaf_y)
            pieces = iter(torch.autograd.grad(s, leaves, weigh(s.detach()), allow_unused=True))
            if leaf_x.requires_grad and (piece := next(pieces)) is not None:
                assert d_ex is not None
                d_ex[rows] += piece
            if leaf_y.requires_grad and (piece := next(pieces)) is not None:
                assert d_ey is not None
                if isinstance(columns, Tensor):
                    d_ey.index_add_(0, columns, piece)
                else:
                    d_ey[columns] += piece
            for parameter, total in zip(parameters, d_parameters, strict=True):
                if parameter.requires_grad and (piece := next(pieces)) is not None and total is not None:
                    total += piece

        with _no_autocast(ex):
            wanted = [
                (request, result, weight)
                for request, result, weight in zip(plan.requests, results, weights, strict=True)
                if weight is not None
            ]
            reductions = [(q, value, weight) for q, value, weight in wanted if isinstance(q, Reduction)]
            if reductions:
                for r, c in plan.tiles(n, all_ey.shape[0]):
                    carry(plan.critic.score, r, c, lambda s, r=r, c=c: _tile_gradient(plan, reductions, s, r, c, n))
            for request, _, weight in wanted:
                if isinstance(request, First):
                    carry(plan.critic.pair, slice(None), plan.first, lambda s, weight=weight: weight.to(s.dtype))
            d_ey = ranks.scatter_sum(d_ey) if d_ey is not None else None
        return None, d_ex, d_ey, *d_parameters


def _score_dtype(ex: Tensor) -> torch.dtype:
    return ex.dtype if ex.is_floating_point() else torch.get_default_dtype()


def _no_autocast(t: Tensor):
    return torch.autocast(t.device.type, enabled=False)


def _start(request: Request, n: int, total: int, ex: Tensor) -> Tensor:
    if isinstance(request, First):
        return ex.new_empty(0)
    shape = {1: (n,), 0: (total,), None: ()}[request.dim]
    # Sums of up to N^2 terms are kept in float64: it costs a number a tile.
    if request.kind == "sum":
        return torch.zeros(shape, dtype=torch.float64, device=ex.device)
    return torch.full(shape, -torch.inf, dtype=_score_dtype(ex), device=ex.device)


def _accumulate(plan: Plan, q: Reduction, result: Tensor, s: Tensor, r: slice, c: slice, n: int) -> None:
    value = q.fn(s)
    value = value.clone() if value is s else value
    plan.fill(value, r, c, n, q.rest, 0.0 if q.kind == "sum" else -torch.inf)
    place = result[{1: r, 0: c, None: ...}[q.dim]]
    if q.kind == "sum":
        place += value.sum(dtype=torch.float64) if q.dim is None else value.sum(q.dim, dtype=torch.float64)
    else:
        tile = value.flatten().logsumexp(0) if q.dim is None else value.logsumexp(q.dim)
        place.copy_(torch.logaddexp(place, tile))


def _tile_gradient(
    plan: Plan, reductions: Sequence[tuple[Reduction, Tensor, Tensor]], s: Tensor, r: slice, c: slice, n: int
) -> Tensor:
    """d objective / d s on one tile: weight fn'(s) for a sum, weight e^(fn(s) - result) fn'(s) for a log-sum-exp."""
    gradient = torch.zeros_like(s)
    for q, result, weight in reductions:
        if q.dim == 1:
            result, weight = result[r, None], weight[r, None]
        elif q.dim == 0:
            result, weight = result[None, c], weight[None, c]
        piece = q.fn.derivative(s)
        if q.kind == "logsumexp":
            piece = piece * (q.fn(s) - result).exp()
        gradient += plan.fill(piece * weight.to(s.dtype), r, c, n, q.rest, 0.0)
    return gradient


def walk(plan: Plan, ex: Tensor, ey: Tensor, parameters: Sequence[Tensor]) -> dict[Request, Tensor]:
    """Runs a plan: its requests and their results."""
    results: tuple[Tensor, ...] = Walk.apply(plan, ex, ey, *parameters)  # type: ignore[assignment]
    return dict(zip(plan.requests, results, strict=True))
