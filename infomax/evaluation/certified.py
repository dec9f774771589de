"""The certified lower bound (floor) of I(Z1; Z2): the run's own critic and a Gaussian one, weighed on training images.

What is chosen is chosen on views of training images. Each held-out image is read once, in several views.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.estimation import Estimate
from infomax.estimation.evidence import checks, floor
from infomax.evaluation.layers import principal_axes
from infomax.evaluation.subject import Subject

RIDGE = 0.1  # of the features' mean variance, added to all: chosen on one run
AXES = 256  # principal components of the features, at most
STEPS = 25  # of Newton's method, which needs five
Score = Callable[[Tensor, Tensor], Tensor]  # features [n, d], [m, d] -> [n, m]
Views = tuple[Tensor, Tensor]  # features [draws, n, d] of the first view of n images, and of the second


@torch.no_grad()
def certify(mi: Estimate, about: Subject, fit: Views, select: Views, report: Views, seed: int) -> Estimate:
    """`mi` with the higher floor: its own, or that of the run's critic plus a Gaussian one, as training images say.

    mi: I(Z1; Z2), estimated from the same images. about: where the run's projector and critic are. fit, select, report:
    features of views. seed: of the order of images. Every first view of a held-out image is paired with every second,
    and other views of an image are no negatives of it. The error is that of leaving images out.
    """
    order = torch.randperm(report[0].shape[1], generator=torch.Generator().manual_seed(seed))
    few = [side[:, : floor.CALIBRATED_ON] for side in select]
    named = {"gaussian": gaussian(fit[0].flatten(0, 1), fit[1].flatten(0, 1), seed), "own critic": own(about)}
    scorers = {name: score for name, score in named.items() if score is not None}
    if not scorers:
        return mi
    found = [_matrices(score, *few) for score in scorers.values()]
    by = weights(found)
    on_select = sum(map(floor.infonce, _sums(found, by))) / len(found[0])
    protocol: dict[str, Any] = {**mi.protocol, "floor_critic": "the estimate's own"}
    if not on_select >= mi.protocol["floor_on_validation"]:
        return replace(mi, protocol=protocol)
    values = []
    for part in order.tensor_split(math.ceil(len(order) / floor.BLOCK)):
        each = [_matrices(score, report[0][:, part], report[1][:, part]) for score in scorers.values()]
        values.append(floor.pseudo_values(_sums(each, by)))
    bound = floor.lower_bound(np.concatenate(values))
    protocol |= {
        "floor": floor.PROTOCOL.replace("test pairs of a fold", "held-out images"),
        "floor_critic": dict(zip(scorers, by.tolist(), strict=True)),
        "floor_on_validation": on_select,
        "floor_views": [len(side) for side in report],
    }
    crossed = checks.bracket(*mi.interval, bound, mi.cap, mi.mi)
    told = tuple(crossed if check.name == crossed.name else check for check in mi.checks)
    return replace(mi, floor=bound, checks=told, protocol=protocol)


def own(about: Subject) -> Score | None:
    """The run's own critic of projections, as a score of features; None where it has none."""
    if about.critic is None or about.projector is None:
        return None
    # Copies, as moving a module moves it for everyone.
    critic: Any = deepcopy(about.critic).cpu().eval()
    projector = deepcopy(about.projector).cpu().eval()
    return lambda x, y: critic.score(*critic.embed(projector(x), projector(y)))


def gaussian(x: Tensor, y: Tensor, seed: int) -> Score | None:
    """The log ratio of normal views that share a normal part, from features x, y [n, d] of two views of images.

    Of canonical pairs of correlation rho it is rho ab / (1 - rho^2) - rho^2 (a^2 + b^2) / 2 (1 - rho^2), and a
    constant. (Probabilistic linear discriminant analysis; Ioffe, 2006) None where features do not vary.
    """
    axes = principal_axes(torch.cat([x, y]), AXES, seed)
    x, y = axes(x).double(), axes(y).double()
    mean = (x.mean(0) + y.mean(0)) / 2
    x, y = x - mean, y - mean
    within, between = (x.T @ x + y.T @ y) / (2 * len(x)), (x.T @ y + y.T @ x) / (2 * len(x))
    size = float(within.diagonal().mean())
    if not size > 0:
        return None
    root = torch.linalg.cholesky(within + RIDGE * size * torch.eye(len(within), dtype=torch.float64))
    half = torch.linalg.solve_triangular(root, between, upper=False)
    rho, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.T, upper=False))
    rho = rho.clamp(-0.999, 0.999)
    canonical = torch.linalg.solve_triangular(root.T, vectors, upper=True)
    product, square = rho / (1 - rho**2), rho**2 / (2 * (1 - rho**2))

    def score(x: Tensor, y: Tensor) -> Tensor:
        a, b = ((axes(side).double() - mean) @ canonical for side in (x, y))
        return ((a * product) @ b.T - (a**2 @ square)[:, None] - b**2 @ square).float()

    return score


def weights(scores: Sequence[Sequence[Tensor]]) -> Tensor:
    """The factors [k] of k critics whose weighted sum has the highest InfoNCE, which is concave in them.

    scores: of each critic, matrices [n, n] whose positives are the diagonal. Newton's method, its step halved until it
    does not lose; a little of the identity keeps critics that are alike apart.
    """
    s = torch.stack([torch.stack(list(each)).double() for each in scores])  # [k, m, n, n]
    spread = s.std((1, 2, 3)).clamp(min=1e-12)
    s = s / spread[:, None, None, None]
    positive = s.diagonal(dim1=2, dim2=3)
    by = torch.zeros(len(s), dtype=torch.float64)

    def value(by: Tensor) -> float:
        return float(torch.tensordot(by, s, 1).log_softmax(-1).diagonal(dim1=1, dim2=2).mean())

    for _ in range(STEPS):
        p = torch.tensordot(by, s, 1).softmax(-1)
        mean = (p * s).sum(-1)
        slope = (positive - mean).mean((1, 2))
        second = torch.stack([(p * each * s).sum(-1).mean((1, 2)) for each in s])
        second = second - torch.einsum("amn,bmn->ab", mean, mean) / mean[0].numel()
        step = torch.linalg.solve(second + 1e-6 * torch.eye(len(s), dtype=torch.float64), slope)
        step = step * min(1.0, 4 / float(step.abs().max().clamp(min=1e-12)))
        before = value(by)
        while value(by + step) < before and float(step.abs().max()) > 1e-4:
            step = step / 2
        by = by + step
        if float(step.abs().max()) < 1e-3:
            break
    return (by / spread).float()


def _matrices(score: Score, first: Tensor, second: Tensor) -> list[Tensor]:
    """Of every first view with every second, [n, n] each."""
    return [score(x, y) for x in first for y in second]


def _sums(scores: Sequence[Sequence[Tensor]], by: Tensor) -> list[Tensor]:
    return [sum(weight * each for weight, each in zip(by, of, strict=True)) for of in zip(*scores, strict=True)]  # type: ignore[misc]
