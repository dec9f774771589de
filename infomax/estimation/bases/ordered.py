"""Labels that are numbers in order, such as counts: p(label | other) by thresholds of what the other side predicts.

Names of classes need a mean each; counts need one direction and their thresholds. (Ordered probit: McKelvey & Zavoina,
1975; with uneven noise: Alvarez & Brehm, 1995)
"""

import numpy as np
import torch
from torch import Tensor, nn

REACH = 4.0  # of features
MOST = 2_000_000  # rows times labels that are fitted
WIDEST = 64  # columns
LABELS = (3, 100)  # fewer have no order that matters, more are numbers
RIDGE = 2.0  # rows, as which weights of 0 count
SMOOTH = 2.0  # rows, as which labels as wide as their neighbours count


class Ordered(nn.Module):
    """log p(label | z) - log p(label) of z [n, d], labels being intervals of z @ w + e^(z @ v) noise."""

    weights: Tensor  # [2, d], of place and of spread
    thresholds: Tensor  # [labels - 1]
    log_prior: Tensor  # [labels]

    def __init__(self, weights: Tensor, thresholds: Tensor, log_prior: Tensor):
        super().__init__()
        self.register_buffer("weights", weights.double())
        self.register_buffer("thresholds", thresholds.double())
        self.register_buffer("log_prior", log_prior.double())

    def forward(self, z: Tensor) -> Tensor:
        each = log_probabilities(z.double().clamp(-REACH, REACH), self.weights, self.thresholds)
        return (each - self.log_prior).float()


def log_probabilities(z: Tensor, weights: Tensor, thresholds: Tensor) -> Tensor:
    """Of each label [n, labels]."""
    place, spread = (z @ w for w in weights)
    below = torch.special.ndtr((thresholds - place[:, None]) * (-spread)[:, None].exp())
    one = below.new_ones(len(z), 1)
    return (torch.cat([below, one], 1) - torch.cat([0 * one, below], 1)).clamp(min=1e-12).log()


def ordered(z: Tensor, y: Tensor, log_prior: Tensor) -> Ordered | None:
    """The likeliest of labels y [n] that are numbered in order; None where they are too few, or too much to fit."""
    from scipy.optimize import minimize
    from scipy.special import ndtri

    labels, d = len(log_prior), z.shape[1]
    if not LABELS[0] <= labels <= LABELS[1] or d > WIDEST:
        return None
    number = MOST // labels
    z, y = z[:number].double().clamp(-REACH, REACH), y[:number]
    start = ndtri(np.clip(np.cumsum(log_prior.double().exp().numpy())[:-1], 1e-6, 1 - 1e-6))
    gaps = np.log(np.maximum(np.diff(start), 1e-4))

    def parts(t: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.cat([t[2 * d : 2 * d + 1], t[2 * d + 1 :].clamp(-20, 5).exp()])
        return t[: 2 * d].view(2, d), steps.cumsum(0)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.from_numpy(values).requires_grad_()
        weights, thresholds = parts(t)
        each = log_probabilities(z, weights, thresholds).gather(1, y[:, None])
        # A label that few rows have, or none, is as wide as its neighbours.
        rough = t[2 * d + 1 :].diff().square().sum()
        value = -each.mean() + (RIDGE * weights.square().sum() + SMOOTH * rough) / len(z)
        value.backward()
        assert t.grad is not None
        return float(value.detach()), t.grad.numpy()

    found = minimize(
        loss, np.concatenate([np.zeros(2 * d), start[:1], gaps]), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    weights, thresholds = parts(torch.from_numpy(found.x))
    return Ordered(weights, thresholds, log_prior)
