"""What a critic in closed form leaves over: a score test for it, and a residual of random features that takes it up.

Features of a side are the leading principal components of many random ramps of its columns, so that a residual
<A f(x), g(y)> is a kernel machine whose fit is concave in A. Whether there is anything to fit is asked first, and costs
a hundredth: the slope of the Jensen-Shannon bound at A = 0, which held-out pairs confirm or do not.
(Score test: Rao, 1948; random features: Rahimi & Recht, 2007; early stopping as shrinkage: Yao et al., 2007)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.estimation.bases.gains import jensen_shannon, shifts, standard_error
from infomax.estimation.pairs import Pairs

RAMPS = 256  # random functions of a side
KEPT = 64  # principal components of them, at most
SPREAD = 2000  # rows, at most, spread over all, that components are found from
SHARE = 1e-6  # of the first one's variance, below which a component is rounding
BLOCK = 500  # rows that are each other's negatives while fitting
STEPS, EVERY, PATIENCE = 400, 5, 6
TESTED = 1000  # rows that are each other's negatives in the test's slope


class Features(nn.Module):
    """Principal components of random ramps silu(w z + b) of a side's columns, by the rows [n, d] they are made from.

    number: of components, at most. strength: of a component's standard deviation, the power that is kept of it: at 0
    all weigh the same, at 1 a residual is a kernel machine, in which those that vary little count for little.
    """

    def __init__(self, rows: Tensor, generator: torch.Generator, number: int, strength: float):
        super().__init__()
        d = rows.shape[1]
        bound = math.sqrt(6 / d)
        self.register_buffer("weight", (torch.rand(d, RAMPS, generator=generator) * 2 - 1).to(rows) * bound)
        self.register_buffer("bias", (torch.rand(RAMPS, generator=generator) * 2 - 1).to(rows) * bound)
        ramps = self._ramps(rows[:: math.ceil(len(rows) / SPREAD)])
        mean = ramps.mean(0)
        centred = (ramps - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(ramps))
        values, vectors = values.flip(0)[:number], vectors.flip(1)[:, :number]
        kept = values > SHARE * values[0].clamp(min=1e-300)
        values, vectors = values[kept], vectors[:, kept]
        scaled = vectors * (values.rsqrt() * (values / values[:1]) ** (strength / 2))
        self.register_buffer("mean", mean)
        self.register_buffer("components", scaled.to(rows))

    weight: Tensor
    bias: Tensor
    mean: Tensor
    components: Tensor  # [ramps, k]

    def _ramps(self, rows: Tensor) -> Tensor:
        return F.silu(torch.addmm(self.bias, rows, self.weight))

    def forward(self, rows: Tensor) -> Tensor:
        return (self._ramps(rows) - self.mean) @ self.components


def _generator(seed: int, role: int) -> torch.Generator:
    return torch.Generator().manual_seed(2 * seed + role)


@dataclass(frozen=True)
class _Block:
    """Rows that are each other's negatives: their numbers, the critic's scores of them, and ids where these repeat."""

    rows: Tensor  # [b]
    s: Tensor  # [b, b]
    ids: Tensor | None  # [b]

    def slope(self, added: Tensor | None = None) -> Tensor:
        """The Jensen-Shannon bound's derivative by each of the scores, and what is added to them, times b [b, b]."""
        s = self.s if added is None else self.s + added
        slope, b = -s.sigmoid(), len(s)
        if self.ids is None:
            slope /= b - 1
        else:
            other = self.ids[:, None] != self.ids
            slope *= other * (b / max(1, int(other.sum())))
        slope.diagonal().copy_(torch.sigmoid(-s.diagonal()))
        return slope

    def bound(self, added: Tensor) -> float:
        return float(jensen_shannon((self.s + added)[None], None if self.ids is None else self.ids[None]))


def _blocks(critic: Any, pairs: Pairs, size: int) -> list[_Block]:
    ex, ey = critic.embed(pairs.x, pairs.y)
    ids = None if len(pairs.ids.unique()) == len(pairs) else pairs.ids.to(pairs.x.device)
    numbers = torch.arange(len(pairs), device=pairs.x.device).tensor_split(max(1, round(len(pairs) / size)))
    return [_Block(part, critic.score(ex[part], ey[part]), None if ids is None else ids[part]) for part in numbers]


@torch.no_grad()
def evidence(critic: Any, columns: Sequence[Callable], fit: Pairs, held_out: Pairs, seed: int) -> float:
    """How sure held-out pairs are that something can be added to a critic's scores, in standard errors.

    The steepest direction of the Jensen-Shannon bound in <A f(x), g(y)> is found on training pairs, and its slope is
    read on held-out pairs: about a standard normal number, never far above 0 where scores are log r.
    columns: what features are made of, of x and of y. fit, held_out: mapped pairs. seed: of the features.
    """
    generator = _generator(seed, 0)
    x, y, n = columns[0](fit.x), columns[1](fit.y), len(fit)
    number = _tested(n)
    f, g = (Features(side, generator, number, 0.25).to(x.device) for side in (x, y))
    fx, gy = f(x), g(y)
    slope = fx.new_zeros(fx.shape[1], gy.shape[1])
    for block in _blocks(critic, fit, TESTED):
        slope += fx[block.rows].T @ (block.slope() @ gy[block.rows])
    fx, gy = f(columns[0](held_out.x)) @ slope, g(columns[1](held_out.y))
    ex, ey = critic.embed(held_out.x, held_out.y)
    negative, moves = torch.zeros_like(ex[:, 0]), shifts(len(fx))
    for k in moves:
        negative += torch.sigmoid(critic.pair(ex, ey.roll(k, 0))) * (fx * gy.roll(k, 0)).sum(1) / len(moves)
    each = (torch.sigmoid(-critic.pair(ex, ey)) * (fx * gy).sum(1) - negative).double()
    # Rows of one sample, or of one block in time, are alike: what they say counts once.
    samples, own = held_out.ids.to(each.device).unique(return_inverse=True)
    total = each.new_zeros(len(samples)).index_add(0, own, each - each.mean())
    error = float(total.square().sum().sqrt()) / len(each)
    return float(each.mean()) / error if error > 0 else 0.0


def _tested(rows: int) -> int:
    """How many features of a side are asked about: all weigh nearly the same, and more of them are noise."""
    return max(6, round(math.sqrt(rows) / 1.5))


@torch.no_grad()
def label_evidence(fit: Tensor, surprise: Tensor, held_out: Tensor, its_surprise: Tensor, seed: int) -> float:
    """`evidence` for a classifier of labels: the slope of the labels' likelihood along the direction in which features
    of the other side raise it most on training rows, read on held-out rows.

    fit [n, d], held_out [m, d]: what features are made of. surprise [n, labels], its_surprise [m, labels]: 1 for the
    label that is there and 0 for others, less their chances.
    """
    f = Features(fit, _generator(seed, 0), _tested(len(fit)), 0.25).to(fit.device)
    each = ((f(held_out) @ (f(fit).T @ surprise)) * its_surprise).sum(1).double()
    error = standard_error(each)
    return float(each.mean()) / error if error > 0 else 0.0


class Kernels(nn.Module):
    """A side of a fitted residual: columns -> features, those of one side times A."""

    matrix: Tensor | None

    def __init__(self, features: Features, matrix: Tensor | None = None):
        super().__init__()
        self.features = features
        self.register_buffer("matrix", matrix)

    def forward(self, rows: Tensor) -> Tensor:
        found = torch.cat([rows.new_ones(len(rows), 1), self.features(rows)], 1)
        return found if self.matrix is None else found @ self.matrix

    def __repr__(self) -> str:
        return f"Kernels(ramps={RAMPS}, components={KEPT})"


@torch.no_grad()
def fitted(
    critic: Any, columns: Sequence[Callable], fit: Pairs, select: Pairs, seed: int, patience: int = PATIENCE
) -> tuple[tuple[Kernels, Kernels], dict[str, Any]]:
    """The two sides of <A f(x), g(y)>, added to a critic's scores, and how it was fitted.

    A ascends the Jensen-Shannon bound of the training pairs by accelerated gradients, restarted where they turn
    (O'Donoghue & Candes, 2015), and is that of the best value on the validation pairs; f and g hold a constant too. It
    is never 0: whoever keeps it compares, and what lost to 0 says how little such pairs could show. patience: looks at
    the validation pairs, EVERY steps apart, that may bring nothing better.
    """
    generator = _generator(seed, 1)
    x, y, n = columns[0](fit.x), columns[1](fit.y), len(fit)
    sides = [Kernels(Features(side, generator, KEPT, 1.0)).to(x.device) for side in (x, y)]
    fx, gy = sides[0](x), sides[1](y)
    other_x, other_y = sides[0](columns[0](select.x)), sides[1](columns[1](select.y))
    training, validation = _blocks(critic, fit, BLOCK), _blocks(critic, select, 2 * BLOCK)

    def value(a: Tensor) -> float:
        each = [block.bound(other_x[block.rows] @ a @ other_y[block.rows].T) for block in validation]
        return sum(len(block.rows) * own for block, own in zip(validation, each, strict=True)) / len(select)

    a = fx.new_zeros(fx.shape[1], gy.shape[1])
    ahead, momentum = a, 1.0
    # The curvature is about the share of negatives that are taken for pairs.
    step = 0.5 / max(1e-3, sum(float(block.s.sigmoid().mean()) * len(block.rows) / n for block in training))
    best, best_step, kept, number = -math.inf, 0, a, 0
    for number in range(1, STEPS + 1):
        slope = torch.zeros_like(a)
        for block in training:
            own = fx[block.rows], gy[block.rows]
            slope += own[0].T @ (block.slope(own[0] @ ahead @ own[1].T) @ own[1]) / n
        moved = ahead + step * slope
        if float((slope * (moved - a)).sum()) < 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead, a, momentum = moved + (momentum - 1) / following * (moved - a), moved, following
        if number % EVERY == 0 or number < EVERY:
            if (found := value(a)) > best:
                best, best_step, kept = found, number, a
            if number - best_step >= EVERY * patience:
                break
    protocol = {"steps": number, "best_step": best_step}
    return (Kernels(sides[0].features, kept), sides[1]), protocol
