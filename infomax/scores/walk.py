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

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infomax.scores.accumulate import combined, factors_of, over_ranks, terms_of
from infomax.scores.critic_tiles import products
from infomax.scores.plan import Head, Plan
from infomax.scores.rectangular import Rectangular
from infomax.scores.symmetric import Symmetric
from infomax.scores.workers import Workers, at_work


class Walk(torch.autograd.Function):
    """(plan, head, ex [n, ...], ey [m, ...], extra [k, ...], *parameters) -> positives, a float64 tensor per request.

    head is not kept: it knows the Scores that will hold the results, and the circle would outlive a step.
    Positives [n] are those of an inner product, None for any other critic. Requests are [n], [m] or 0-d. extra: None
    where there are no columns beside those of processes.
    """

    @staticmethod
    def forward(ctx, plan: Plan, head: Head | None, ex: Tensor, ey: Tensor, extra: Tensor | None, *parameters: Tensor):
        needs = [need and plan.grad for need in ctx.needs_input_grad[2:]]
        with products(ex), at_work(plan.divided) as workers:
            run = run_of(plan, workers, ex, ey, extra, parameters, needs)
            results, ready = run.values_and_gradients(head) if any(needs) else (run.values(), [])
            shared = {q: over_ranks(plan.ranks, q, t) for q, t in results.items()}
            for part in ready:
                part.complete(run, shared)
        results = [plan.ranks.own(shared[q]).clone() if q.dim == 0 else shared[q] for q in plan.requests]
        if not plan.grad:
            return None if run.positive is None else run.positive.double(), *results
        ctx.plan, ctx.ready = plan, ready
        ctx.parameters = len(parameters)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ex, ey, extra, *parameters, *results)
        return None if run.positive is None else run.positive.double(), *results

    @staticmethod
    @once_differentiable
    def backward(ctx, positive: Tensor | None, *gradients: Tensor | None):
        plan: Plan = ctx.plan
        ex, ey, extra, *saved = ctx.saved_tensors
        parameters, results = saved[: ctx.parameters], saved[ctx.parameters :]
        arrived = {q: g for q, g in zip(plan.requests, gradients, strict=True) if g is not None}
        factors = factors_of(plan.ranks, ctx.ready, arrived)
        with products(ex), at_work(plan.divided) as workers:
            needs = ctx.needs_input_grad[2:]
            run = run_of(plan, workers, ex, ey, extra, parameters, needs, only_gradient=factors is not None)
            if factors is not None:
                # Handed out, not copied: a loss that is used again walks again.
                ready, ctx.ready = ctx.ready, []
                parts = [combined(ready, factors, i) for i in range(2 + len(parameters))]
            else:
                ctx.ready = []
                terms = terms_of(plan.ranks, dict(zip(plan.requests, results, strict=True)), arrived)
                parts = run.home(run.gradient(terms))
            if positive is not None:
                parts = run.pull_pairs(parts, positive)
        parts = [
            part if part is None else part.to(t.dtype) for part, t in zip(parts, (ex, ey, *parameters), strict=True)
        ]
        return None, None, *by_input(parts, len(ey), ctx.needs_input_grad[2:])


def by_input(parts: Sequence[Tensor | None], own: int, needs: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x, of columns with extra ones after the `own`, and of parameters -> of x, y, extra, parameters."""
    ex, ey, *others = parts
    if ey is None or not needs[2]:
        return [ex, ey, None, *others]
    return [ex, ey[:own] if needs[1] else None, ey[own:], *others]


def run_of(
    plan: Plan, workers: Workers, ex: Tensor, ey: Tensor, extra: Tensor | None, parameters: Sequence[Tensor],
    needs: Sequence[bool], only_gradient: bool = False,
) -> "Rectangular | Symmetric":  # fmt: skip
    kind = Rectangular if plan.views is None else Symmetric
    return kind(plan, workers, ex, ey, extra, parameters, needs, only_gradient)
