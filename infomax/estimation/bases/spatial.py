"""Images: a critic of what stands at which place, learned from zero, where columns have no closed form.

What a digit or an edge is does not depend on where it stands, so the convolutions of a side are shared by all places;
and which place of x speaks of which place of y is one matrix, which starts as "the same". That leaves little to learn
by heart: a network of all pixels, given the same pairs, learns them instead of their dependence.
"""

import itertools
import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infomax.critics import Embedded, InnerProduct
from infomax.estimation import fitting
from infomax.estimation.bases.gains import is_gain, js_shares
from infomax.estimation.critic import gated
from infomax.estimation.estimator import Budget, Estimator, Fitted, scores
from infomax.estimation.pairs import Image, Pairs
from infomax.objectives import Anchor, JSPlugin, Objective

WIDTHS, OUT = (16, 32, 32), 8  # channels after each halving, and numbers at each place
FIRST, REST = 5, 3  # pixels that a convolution is wide
PLACES = 64  # a side, at most
RATE, DECAY = 2e-3, 1e-2
STEPS, EVERY, PATIENCE = 500, 25, 5
SHIFT = 2  # pixels, by which images are moved while a critic learns from them
NU = 64.0  # of Anchor, and negatives a positive for its scale: both look at scores near log NU, 4 nats, then
CALIBRATED, NEWTON = 2000, 25  # select rows, and steps, at most, that scale what was learned
MEMORY = 20  # steps that the running average of the weights looks back
ROWS = 512  # at a time through a network, so that its maps stay small


class Pixels:
    """An image's columns to one mean 0 and deviation 1 a channel, by the statistics of the rows that it is made from;
    columns that were left out stand at the mean."""

    def __init__(self, fit: Tensor, image: Image):
        self.image = image
        size = math.prod(image.shape[1:])
        channel = image.places.div(size, rounding_mode="floor")
        self.mean, self.scale = torch.zeros(fit.shape[1]), torch.ones(fit.shape[1])
        for c in channel.unique():
            own = fit[:, channel == c].double()
            self.mean[channel == c] = own.mean().float()
            self.scale[channel == c] = own.std().float() if bool(own.std() > 0) else 1.0

    def __call__(self, t: Tensor) -> Tensor:
        return self.image(((t - self.mean) / self.scale).float()).flatten(1)


class Tower(nn.Module):
    """Rows of pixels [n, c h w] -> numbers at each place [n, OUT, places]: convolutions that halve height and width."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.shape, self.grid = shape, shape[1:]
        channels = [shape[0]]
        while len(channels) <= len(WIDTHS) or math.prod(self.grid) > PLACES:
            channels.append(WIDTHS[min(len(channels), len(WIDTHS)) - 1])
            self.grid = ((self.grid[0] + 1) // 2, (self.grid[1] + 1) // 2)
        sizes = [FIRST] + [REST] * (len(channels) - 2)
        layers = [
            nn.Conv2d(a, b, size, stride=2, padding=size // 2)
            for (a, b), size in zip(itertools.pairwise(channels), sizes, strict=True)
        ]
        self.convolutions = nn.ModuleList(layers)
        self.last = nn.Conv2d(channels[-1], OUT, 1)
        for layer in (*layers, self.last):
            # Wide enough a start for functions that bend, as the default's other networks have it.
            bound = math.sqrt(6 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            layer.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, t: Tensor) -> Tensor:
        t = t.unflatten(1, self.shape)
        for convolution in self.convolutions:
            t = F.silu(convolution(t))
        return self.last(t).flatten(2)


class SpatialCritic(InnerProduct):
    """A convolutional critic that compares two images location by location. It starts at 0 and needs no copula.

    The sum over k, p, q of g(x)[k, p] a[p, q] h(y)[k, q], plus a constant: numbers k, locations p of x and q of y.
    x, y: channels, height and width of each side's images.
    """

    def __init__(self, x: tuple[int, int, int], y: tuple[int, int, int]):
        super().__init__()
        self.g, self.h = Tower(x), Tower(y)
        nn.init.zeros_(self.h.last.weight)  # so that scores start at 0
        # Each place of x with the nearest of y.
        nearest = torch.eye(math.prod(self.h.grid)).unflatten(1, self.h.grid)[None]
        self.places = nn.Parameter(F.interpolate(nearest, self.g.grid)[0].flatten(1).T.contiguous())  # [p, q]
        self.constant = nn.Parameter(torch.zeros(()))

    def embed(self, x: Tensor, y: Tensor) -> Embedded:
        g = torch.cat([self.g(rows).flatten(1) for rows in x.split(ROWS)])
        h = torch.cat([(self.h(rows) @ self.places.T).flatten(1) for rows in y.split(ROWS)])
        h = h / math.sqrt(len(self.places))
        return torch.cat([g, self.constant.expand(len(g), 1)], 1), torch.cat([h, h.new_ones(len(h), 1)], 1)

    def __repr__(self) -> str:
        return f"SpatialCritic(channels={WIDTHS}, out={OUT}), SiLU"


def fitted(estimator: Estimator, fit: Pairs, select: Pairs, budget: Budget, seed: int, device: str) -> Fitted:
    """Learned on `fit` by the Jensen-Shannon bound, then by Anchor's, stopped on `select`. Both sides are images."""
    maps = [Pixels(side, image) for side, image in zip((fit.x, fit.y), fit.images, strict=True) if image is not None]
    fit, select = (Pairs(maps[0](p.x), maps[1](p.y), p.ids).to(device) for p in (fit, select))
    critic = SpatialCritic(maps[0].image.shape, maps[1].image.shape).to(device)
    towers = [*critic.g.parameters(), *critic.h.parameters(), critic.constant]
    # Most pairs of images lie on each other. Where that is so, a learned matrix of places only adds what is learned by
    # heart; where it is not, it is what there is to learn.
    protocol: dict[str, Any] = {
        "same places": _learn(JSPlugin(), critic, towers, fit, select, budget, seed),
        "any places": _learn(JSPlugin(), critic, list(critic.parameters()), fit, select, budget, seed),
    }
    learned = deepcopy(critic.state_dict())
    protocol["scale"] = _calibrate(critic, select)
    size = min(budget.batch_size, len(fit))
    if all(_leaves_two(part, min(size, len(part))) for part in (fit, select)):
        # The Jensen-Shannon bound has its gradient where log r is near 0, Anchor's up to the logarithm of a batch. Both
        # are compared with scores of the right scale, as a scale alone would tell one from the other.
        shares, before = js_shares(critic, select.x, select.y), deepcopy(critic.state_dict())
        critic.load_state_dict(learned)
        protocol["high scores"] = _learn(Anchor(NU), critic, list(critic.parameters()), fit, select, budget, seed)
        scale = _calibrate(critic, select, NU)
        if is_gain(js_shares(critic, select.x, select.y) - shares):
            protocol["scale"] = scale
        else:
            critic.load_state_dict(before)
            protocol["high scores"]["kept"] = "before"
    return Fitted(estimator, gated(None, critic).to(device).eval(), (maps[0], maps[1]), protocol)


def _leaves_two(pairs: Pairs, size: int) -> bool:
    """Whether each of any `size` rows has two negatives among them, which Anchor needs."""
    return int(pairs.ids.unique(return_counts=True)[1].max()) + 2 <= size


def _learn(
    objective: Objective,
    critic: SpatialCritic,
    parameters: list[nn.Parameter],
    fit: Pairs,
    select: Pairs,
    budget: Budget,
    seed: int,
) -> dict[str, Any]:
    """Leaves the running average of the weights with the best bound on select: one step's weights are too noisy."""
    how = fitting.Ascent(
        min(budget.steps, STEPS), budget.batch_size, RATE, min(budget.every, EVERY), min(budget.patience, PATIENCE),
        DECAY, scheduled=True,
    )  # fmt: skip
    moves = torch.Generator().manual_seed(seed)
    average = deepcopy(critic).requires_grad_(False)
    # Parts of a batch's size: what Anchor weighs depends on the number of negatives.
    number = max(len(select) // min(how.batch_size, len(fit)), 1)
    held_out = [select[rows] for rows in torch.arange(len(select)).tensor_split(number)]

    def bound(index: Tensor) -> Tensor:
        batch = fit[index.to(fit.x.device)]
        # A pixel's move changes no digit, and makes more of few images.
        x, y = _moved(batch.x, critic.g.shape, moves), _moved(batch.y, critic.h.shape, moves)
        return objective.surrogate(scores(critic, Pairs(x, y, batch.ids)))

    @torch.no_grad()
    def criterion() -> Tensor:
        value = sum(len(p) * float(objective.surrogate(scores(average, p))) for p in held_out) / len(select)
        return torch.tensor(value, dtype=torch.float64)

    @torch.no_grad()
    def averaged(step: int) -> None:
        for mean, p in zip(average.parameters(), critic.parameters(), strict=True):
            mean.lerp_(p, max(1 / MEMORY, 1 / step))

    result = fitting.ascend(
        parameters, bound, criterion, lambda: list(average.parameters()), len(fit), how, seed, criterion(), averaged
    )
    critic.load_state_dict(average.state_dict())
    best_step = int(result.best_step)
    return {"steps": result.steps, "best_step": best_step, "kept": "trained" if best_step else "zero"}


@torch.no_grad()
def _calibrate(critic: SpatialCritic, select: Pairs, negatives: float = 1.0) -> dict[str, float]:
    """Multiplies scores by a and adds b that best tell select pairs from others, by Newton's method; returns them.

    Best is by the likelihood of a classifier with so many `negatives` a positive: at 1 the Jensen-Shannon bound, which
    looks at scores near 0, at K one that looks at scores near log K. What was learned by heart is too sure of itself,
    and what was learned from moved images not sure enough. (Platt, 1999; Gutmann & Hyvärinen, 2010)
    """
    protocol = {"scale": 1.0, "constant": 0.0, "negatives": negatives}
    select = select.first(CALIBRATED)
    s = critic.score(*critic.embed(select.x, select.y)).double()
    other = select.ids[:, None] != select.ids[None, :]
    n, s = len(s), torch.cat([s.diagonal(), s[other]])
    if not float(s.std()) > 0:
        return protocol
    design = torch.stack([s, torch.ones_like(s)], 1)  # [pairs and others, 2]
    sign = torch.where(torch.arange(len(s), device=s.device) < n, 1.0, -1.0).double()
    weight = torch.where(sign > 0, 1 / n, negatives / (len(s) - n)).double()
    found = design.new_tensor([1.0, 0.0])

    def loss(found: Tensor) -> float:
        return float(weight @ F.softplus(-sign * (design @ found - math.log(negatives))))

    first = least = loss(found)
    for _ in range(NEWTON):
        wrong = (-sign * (design @ found - math.log(negatives))).sigmoid()
        gradient, curved = design.T @ (weight * sign * wrong), weight * wrong * (1 - wrong)
        ridge = 1e-9 * torch.eye(2, dtype=s.dtype, device=s.device)  # scores that separate all have no curvature
        step = torch.linalg.solve(design.T @ (curved[:, None] * design) + ridge, gradient)
        # A whole step from far away ends farther away; the loss is convex, so that shorter ones arrive.
        while (reached := loss(found + step)) > least and float(step.abs().max()) > 1e-6:
            step = step / 2
        if not reached < least:
            break
        found, least = found + step, reached
    a, b = found.tolist()
    # Scores that tell nothing have no scale, and those that tell all can have any.
    if not (0.5 < a < 2 and least < first):
        return protocol
    for p in (*critic.g.last.parameters(), critic.constant):
        p.mul_(a)
    critic.constant.add_(b)
    return protocol | {"scale": a, "constant": b}


def _moved(rows: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Images [n, c h w], all moved alike, by SHIFT pixels at most each way."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    return F.pad(rows.unflatten(1, shape), (right, -right, down, -down)).flatten(1)


@torch.no_grad()
def gain(of: Fitted, over: Fitted, select: Pairs, device: str) -> Tensor:
    """By how much each select row's share of the Jensen-Shannon bound is better [n]."""
    shares = [js_shares(f.critic, *_on(f, select, device)) for f in (of, over)]
    return shares[0] - shares[1]


def _on(f: Fitted, pairs: Pairs, device: str) -> tuple[Tensor, Tensor]:
    mapped = f.mapped(pairs).to(device)
    return mapped.x, mapped.y
