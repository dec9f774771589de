"""Labels that are numbers in order, such as counts: p(label | other) by thresholds of what the other side predicts.

Names of classes need a mean each; counts need one direction and their thresholds. (Ordered probit: McKelvey & Zavoina,
1975; with uneven noise: Alvarez & Brehm, 1995)
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

REACH = 4.0  # of features
MOST = 2_000_000  # rows times labels that are fitted
WIDEST = 64  # columns
LABELS = (3, 100)  # fewer have no order that matters, more are numbers
RIDGE = 2.0  # rows, as which weights of 0 count
SMOOTH = 2.0  # rows, as which labels as wide as their neighbours count
FAR = 40.0  # deviations, where a normal density is 0 in float64; of what spreads are logarithms of, too
LEAST = 1e-12  # probability of a label
PRECISE = 1e-7  # of the likelihood, from which on a step gains nothing: values keep their fourth digit
LOG_GAPS = (-20.0, 5.0)  # of thresholds


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
    return (torch.cat([below, one], 1) - torch.cat([0 * one, below], 1)).clamp(min=LEAST).log()


def ordered(z: Tensor, y: Tensor, log_prior: Tensor) -> Ordered | None:
    """The likeliest of labels y [n] that are numbered in order; None where they are too few, or too much to fit."""
    from scipy.optimize import minimize
    from scipy.special import ndtri

    labels, d = len(log_prior), z.shape[1]
    if not LABELS[0] <= labels <= LABELS[1] or d > WIDEST:
        return None
    number = MOST // labels
    rows, own = z[:number].double().clamp(-REACH, REACH).numpy(), y[:number].numpy()
    start = ndtri(np.clip(np.cumsum(log_prior.double().exp().numpy())[:-1], 1e-6, 1 - 1e-6))
    gaps = np.log(np.maximum(np.diff(start), 1e-4))
    found = minimize(
        _loss, np.concatenate([np.zeros(2 * d), start[:1], gaps]), (rows, own), jac=True, method="L-BFGS-B",
        options={"maxiter": 200, "ftol": PRECISE},
    )  # fmt: skip
    weights, thresholds = _parts(found.x, d)
    return Ordered(torch.from_numpy(weights), torch.from_numpy(thresholds), log_prior)


def _parts(values: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [2, d], and thresholds [labels - 1], of which the first and the logarithms of the gaps are given."""
    steps = np.concatenate([values[2 * d : 2 * d + 1], np.exp(np.clip(values[2 * d + 1 :], *LOG_GAPS))])
    return values[: 2 * d].reshape(2, d), np.cumsum(steps)


def _loss(values: np.ndarray, z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the mean log-likelihood of labels y [n] of rows z [n, d], with its ridges, and the gradient by hand, which
    takes a tenth of autograd's time."""
    from scipy.special import ndtr

    n, d = z.shape
    weights, thresholds = _parts(values, d)
    place, narrow = z @ weights[0], np.exp(np.clip(-(z @ weights[1]), -FAR, FAR))
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    # Beyond FAR, as at the outer ends, the density is 0, and nothing moves.
    above, below = (np.clip((ends[y + side] - place) * narrow, -FAR, FAR) for side in (1, 0))
    share = ndtr(above) - ndtr(below)
    by_share = np.where(share > LEAST, -1 / (n * np.maximum(share, LEAST)), 0.0)
    by_above, by_below = (by_share * np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi) for t in (above, below))
    by_place = -(by_above - by_below) * narrow
    by_spread = by_below * below - by_above * above
    by_ends = np.bincount(y + 1, by_above * narrow, len(ends)) - np.bincount(y, by_below * narrow, len(ends))
    by_steps = np.cumsum(by_ends[-2:0:-1])[::-1]  # a step moves all thresholds from its own on
    logs = values[2 * d + 1 :]
    inside = (logs >= LOG_GAPS[0]) & (logs <= LOG_GAPS[1])
    by_logs = np.where(inside, by_steps[1:] * np.exp(np.clip(logs, *LOG_GAPS)), 0.0)
    # A label that few rows have, or none, is as wide as its neighbours.
    rough = np.diff(logs)
    by_rough = np.zeros(len(logs))
    by_rough[1:] += rough
    by_rough[:-1] -= rough
    value = -np.log(np.maximum(share, LEAST)).mean()
    value += (RIDGE * np.square(weights).sum() + SMOOTH * np.square(rough).sum()) / n
    by_weights = np.stack([by_place @ z, by_spread @ z]) + 2 * RIDGE / n * weights
    return float(value), np.concatenate([by_weights.ravel(), by_steps[:1], by_logs + 2 * SMOOTH / n * by_rough])
