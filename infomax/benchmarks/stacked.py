"""Many small critics trained in one vectorised run: their weights lie along a leading axis, a product for all.

K pairs of MLPs <g(x), h(y)> take a batched product a layer each way, written into buffers that live as long as the
stack, and one fused Adam step. Formulas stay those of the objectives, read on each critic's own matrix.
"""

import functools
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from infomax.critics import Separable
from infomax.distributed import Ranks
from infomax.errors import UserError
from infomax.objectives import Objective
from infomax.scores.functions import Function, Identity
from infomax.scores.layout import Samples
from infomax.scores.negatives import Negatives
from infomax.scores.reductions import Reduction


class Matrix:
    """One small score matrix [n, n], positives on its diagonal, in the shape of Scores: by plain autograd.

    Scores costs 0.6 ms for 64 pairs, which is half of what all else of a critic's step takes.
    """

    def __init__(self, s: Tensor, masked: Tensor, samples: Samples, first: Tensor):
        self._s, self._masked, self._first = s, masked, first
        self.positive, self.n, self.dtype = s.diagonal(), len(s), s.dtype
        self._made: dict[Reduction, Tensor] = {}
        self.negative = Negatives(samples, slice(None), self.n, self._result, self._first_scores)

    def walk_for(self, estimate: object, surrogate: object) -> "Matrix":
        return self

    def _first_scores(self) -> Tensor:
        return self._s.gather(1, self._first[:, None]).squeeze(1)

    def _result(self, q: Reduction) -> Tensor:
        found = self._made.get(q)
        if found is not None and (found.requires_grad or not torch.is_grad_enabled()):
            return found
        out = 0.0 if q.kind == "sum" else -torch.inf
        if isinstance(q.fn, Identity) and q.kind == "logsumexp":
            s = self._masked
        else:
            none = self._masked == -torch.inf
            s = (self._s if isinstance(q.fn, Identity) else _Applied.apply(self._s, q.fn)).masked_fill(none, out)  # type: ignore[union-attr]
        if q.rest:
            s = s.scatter(1, self._first[:, None], out)
        if q.dim is None:
            s = s.flatten()
        found = s.sum(q.dim or 0) if q.kind == "sum" else s.logsumexp(q.dim or 0)
        self._made[q] = found
        return found


class _Applied(torch.autograd.Function):
    """fn(s), with the derivative that it states."""

    @staticmethod
    def forward(ctx, s: Tensor, fn: Function) -> Tensor:
        ctx.fn = fn
        ctx.save_for_backward(s)
        return fn(s)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.fn.derivative(ctx.saved_tensors[0]), None


def matrices(s: Tensor) -> list[Matrix]:
    """s [K, n, n] -> what an objective reads of each."""
    n, device = s.shape[1], s.device
    diagonal, samples, first = _fixed(n, device)
    masked = s.masked_fill(diagonal, -torch.inf)
    return [Matrix(s[k], masked[k], samples, first) for k in range(len(s))]


@functools.cache
def _fixed(n: int, device: torch.device) -> tuple[Tensor, Samples, Tensor]:
    samples = Samples.distinct(n, Ranks.current(local=True), device)
    return torch.eye(n, dtype=torch.bool, device=device), samples, torch.arange(1, n + 1, device=device) % n


class Stack:
    """K separable critics of one shape with an objective each, and Adam's state of all.

    critics are copied. Raises UserError for critics of different shapes, or sides of different widths.
    """

    def __init__(self, critics: Sequence[Separable], objectives: Sequence[Objective], learning_rate: float = 5e-4):
        shapes = {tuple(tuple(p.shape) for p in c.parameters()) for c in critics}
        if len(shapes) != 1 or len(critics) != len(objectives):
            raise UserError(f"Critics of {len(shapes)} shapes and {len(objectives)} objectives cannot be stacked.")
        towers = [*(c.g for c in critics), *(c.h for c in critics)]
        sides = [[m for m in tower if isinstance(m, nn.Linear)] for tower in towers]
        if len({side[0].in_features for side in sides}) != 1:
            raise UserError("Both sides of a stacked critic need the same number of columns.")
        self.k = len(critics)
        layers = list(zip(*sides, strict=True))
        with torch.no_grad():
            self.weights = [nn.Parameter(torch.stack([m.weight.T for m in layer])) for layer in layers]
            self.biases = [nn.Parameter(torch.stack([m.bias[None] for m in layer])) for layer in layers]
        for p in (*self.weights, *self.biases):
            p.grad = torch.zeros_like(p)
        self.objectives = [deepcopy(o).to(self.weights[0].device).train() for o in objectives]
        self.own = [p for o in self.objectives for p in o.parameters() if p.requires_grad]  # TUBA's baseline, say
        self.optimizer = torch.optim.Adam([*self.weights, *self.biases, *self.own], lr=learning_rate, fused=True)

    @torch.no_grad()
    def scores(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x, y [K, n, d] -> scores [K, n, n], and each layer's input [2K, n, width]."""
        inputs = [torch.cat([x, y])]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.baddbmm(bias, inputs[-1], weight)
            inputs.append(z.relu_() if number + 1 < len(self.weights) else z)
        return inputs[-1][: self.k] @ inputs[-1][self.k :].transpose(1, 2), inputs

    def read(self, x: Tensor, y: Tensor) -> list[Matrix]:
        """x, y [K, n, d], which may still be unseen -> each critic's scores, with all that `learn` needs."""
        s, inputs = self.scores(x, y)
        s.requires_grad_()
        self._pending = s, inputs, matrices(s)
        return self._pending[2]

    def learn(self) -> None:
        """One step of all critics on the pairs that were read last."""
        s, inputs, read = self._pending
        total = torch.stack([o.surrogate(m) for o, m in zip(self.objectives, read, strict=True)]).sum()
        down, *own = torch.autograd.grad(-total, [s, *self.own])
        for p, gradient in zip(self.own, own, strict=True):
            p.grad = gradient
        ex, ey = inputs[-1][: self.k], inputs[-1][self.k :]
        with torch.no_grad():
            d = torch.cat([down @ ey, down.transpose(1, 2) @ ex])
            for number in reversed(range(len(self.weights))):
                weight, bias = self.weights[number], self.biases[number]
                torch.bmm(inputs[number].transpose(1, 2), d, out=weight.grad)  # type: ignore[arg-type]
                torch.sum(d, 1, keepdim=True, out=bias.grad)  # type: ignore[arg-type]
                if number:
                    d = torch.ops.aten.threshold_backward(d @ weight.transpose(1, 2), inputs[number], 0)
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors by name."""
        found = {f"weight.{i}": p.detach() for i, p in enumerate((*self.weights, *self.biases))}
        for i, o in enumerate(self.objectives):
            found |= {f"objective.{i}.{name}": t.detach() for name, t in o.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            found |= {f"adam.{i}.{name}": t for name, t in state.items()}
        return {name: t.clone() for name, t in found.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""
        with torch.no_grad():
            for i, p in enumerate((*self.weights, *self.biases)):
                p.copy_(state[f"weight.{i}"])
        for i, o in enumerate(self.objectives):
            start = f"objective.{i}."
            o.load_state_dict({k.removeprefix(start): t for k, t in state.items() if k.startswith(start)})
        held = self.optimizer.state_dict()
        names = ("step", "exp_avg", "exp_avg_sq")
        held["state"] = {
            i: {name: state[f"adam.{i}.{name}"] for name in names}
            for i in range(len(self.optimizer.param_groups[0]["params"]))
        }
        self.optimizer.load_state_dict(held)
