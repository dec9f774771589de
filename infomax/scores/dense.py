"""A matrix small enough to exist: what the walk computes, by autograd's own operations, which cost less there."""

import math

import torch
from torch import Tensor

from infomax.scores.functions import LARGEST, FromExponential, Function, Identity
from infomax.scores.reductions import Reduction
from infomax.scores.tiles import Tiles

KEPT = 1 << 18  # scores, 512 x 512: larger matrices are walked tile by tile


class Dense:
    """Scores <ex, ey> + offset [n, total], masked, with e^s where that is safe; results are made as they are asked for.

    extra [k, d]: columns beside ey's. columns [n]: that of each row's positive; None: column i.
    views: n, where ex is ey and both are of all 2 n views, row i having its positive in column i + n, modulo 2 n.
    """

    def __init__(
        self, tiles: Tiles, ex: Tensor, ey: Tensor, offset: Tensor | float, views: int | None,
        extra: Tensor | None = None, columns: Tensor | None = None,
    ):  # fmt: skip
        self.tiles, self.columns = tiles, columns
        s: Tensor = ex @ ey.T if views is None else _Gram.apply(ex)  # type: ignore[assignment]
        if extra is not None:  # a product of its own: none is spent on the gradient of a frozen queue
            s = torch.cat([s, ex @ extra.T], 1)
        if isinstance(offset, Tensor) or offset:
            s += offset
        if columns is None:
            positive = s.diagonal(views or 0).to(torch.float64, copy=True)  # before s is masked
        else:
            positive = s[torch.arange(len(s), device=s.device), columns].double()  # gather would keep s
        self.positive = positive if views is None else torch.cat([positive, positive])
        least, most = torch.aminmax(s.detach())
        self.largest = max(-float(least), float(most))
        self.s = self._masked(s, -math.inf)
        self.e = self.s.exp() if self.largest <= LARGEST else None

    def at(self, columns: Tensor) -> Tensor:
        """columns [n], of negatives -> their scores, one a row [n]."""
        return self.s.gather(1, columns[:, None]).squeeze(1).double()

    def result(self, q: Reduction, first: Tensor | None) -> Tensor:
        """first [n]: the column of each row's first negative, for reductions over the rest."""
        s, e = self.s, self.e
        if q.rest:
            assert first is not None
            left_out = first[:, None]
            s = s.scatter(1, left_out, -math.inf)
            e = None if e is None else e.scatter(1, left_out, 0.0)
        form = None if e is None else q.fn.from_exponential(q.kind, self.largest)
        if e is None or form is None:
            value: Tensor = _Applied.apply(s, q.fn, q.kind == "logsumexp")  # type: ignore[assignment]
            if q.kind == "sum":
                return q.total(value)
            return (value.flatten().logsumexp(0) if q.dim is None else value.logsumexp(q.dim)).double()
        if q.kind == "logsumexp" and isinstance(q.fn, Identity):
            return q.total(e).log()
        total: Tensor = _Total.apply(s, e.detach(), q, form)  # type: ignore[assignment]
        return total.log() if q.kind == "logsumexp" else total

    def _masked(self, t: Tensor, value: float) -> Tensor:
        return self.tiles.fill(t, slice(0, self.tiles.n), slice(0, self.tiles.total), value)


class _Gram(torch.autograd.Function):
    """e [n, d] -> e e^T, with one product in backward."""

    @staticmethod
    def forward(ctx, e: Tensor) -> Tensor:
        ctx.save_for_backward(e)
        return e @ e.T

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (e,) = ctx.saved_tensors
        return (gradient + gradient.T) @ e


class _Applied(torch.autograd.Function):
    """fn(s) with its own derivative; where s = -inf, no negative, it is -inf for a log-sum-exp and 0 for a sum."""

    @staticmethod
    def forward(ctx, s: Tensor, fn: Function, logsumexp: bool) -> Tensor:
        ctx.fn = fn
        ctx.save_for_backward(s)
        none = s == -math.inf
        return fn(s.masked_fill(none, 0.0)).masked_fill_(none, -math.inf if logsumexp else 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        (s,) = ctx.saved_tensors
        none = s == -math.inf
        return (ctx.fn.derivative(s.masked_fill(none, 0.0)) * gradient).masked_fill_(none, 0.0), None, None


class _Total(torch.autograd.Function):
    """A reduction's sum by the form that follows from e = e^s, 0 where no negative."""

    @staticmethod
    def forward(ctx, s: Tensor, e: Tensor, q: Reduction, form: FromExponential) -> Tensor:
        ctx.q, ctx.form = q, form
        ctx.save_for_backward(e)
        value = form.value(e, torch.empty_like(e), 0 if q.dim == 0 else 1)
        return q.total(value.masked_fill(e == 0, 0.0) if form.masked else value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        (e,) = ctx.saved_tensors
        slope = ctx.form.slope(e, torch.empty_like(e))
        return slope * ctx.q.along(gradient.to(e.dtype)), None, None, None
