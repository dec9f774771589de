"""What each pair says of a critic, so that two critics can be compared by means and standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

SHIFTS = 50  # by which rows are moved against each other, to meet negatives


def standard_error(each: Tensor) -> float:
    """Of the mean of independent rows [n]."""
    return float(each.std()) / math.sqrt(len(each))


def is_gain(each: Tensor) -> bool:
    """Whether what rows gain [n] is above 0 by one standard error of its mean: the best of many is better by luck.

    False for what is not a number.
    """
    return float(each.mean()) > standard_error(each)


def is_no_loss(each: Tensor) -> bool:
    """Whether what rows gain [n] is not below 0 by one standard error of its mean. False for what is not a number."""
    return float(each.mean()) >= -standard_error(each)


def jensen_shannon(s: Tensor, ids: Tensor | None = None) -> Tensor:
    """The Jensen-Shannon bound [k] of k matrices of scores s [k, n, n], positives on their diagonals.

    ids [k, n]: rows of one sample are no negatives of each other; None: all rows differ.
    """
    positive, n = s.diagonal(dim1=1, dim2=2), s.shape[1]
    if ids is not None:
        other = (ids[:, :, None] != ids[:, None]).to(s)
        negative = (softplus(s) * other).sum((1, 2)) / other.sum((1, 2)).clamp(min=1)
    else:  # off the diagonal all, less the diagonal: n (n - 1) negatives a matrix
        negative = (softplus(s).sum((1, 2)) - softplus(positive).sum(1)) / (n * (n - 1))
    return _told_apart(positive).mean(1) - negative


def jensen_shannon_slope(s: Tensor, ids: Tensor | None = None) -> Tensor:
    """The derivative of `jensen_shannon` by each score [k, n, n], in place of s, in a third of autograd's time. ids: as
    there."""
    n = s.shape[1]
    own = torch.sigmoid(-s.diagonal(dim1=1, dim2=2)) / n
    s.sigmoid_()
    if ids is not None:
        other = (ids[:, :, None] != ids[:, None]).to(s)
        s *= other / -other.sum((1, 2), keepdim=True).clamp(min=1)
    else:
        s /= -n * (n - 1)
    s.diagonal(dim1=1, dim2=2).copy_(own)
    return s


def _told_apart(positive: Tensor) -> Tensor:
    """log sigmoid, of the scores of pairs."""
    return -softplus(-positive)


@dataclass(frozen=True)
class RolledScores:
    """A critic's scores of pairs [n], and, with rows rolled against each other, of each x beside SHIFTS others' y."""

    own: Tensor  # [n]
    others: Sequence[Tensor]  # [n] each

    def js_shares(self) -> Tensor:
        """Each row's share of the Jensen-Shannon bound [n]: a proper score of log r at any height."""
        return _told_apart(self.own) - sum(softplus(other) for other in self.others) / len(self.others)

    def infonce_shares(self) -> Tensor:
        """Each row's share of InfoNCE among SHIFTS others [n]: a proper score of log r up to a constant of each x,
        which sees scores far above 0, where the Jensen-Shannon bound is flat, and where one row weighs no more than one
        row's share of the standard error."""
        return self.own - torch.stack([self.own, *self.others]).logsumexp(0) + math.log(1 + len(self.others))

    def log_partition(self) -> float:
        """The logarithm of the mean ratio e^s over SHIFTS negatives a row: 0 for a true ratio."""
        found = torch.stack(list(self.others)).double()
        return float(found.logsumexp((0, 1))) - math.log(found.numel())


@torch.no_grad()
def rolled_scores(critic: Any, x: Tensor, y: Tensor) -> RolledScores:
    """Of mapped pairs x [n, dx] and y [n, dy]."""
    ex, ey = critic.embed(x, y)
    return RolledScores(critic.pair(ex, ey), [critic.pair(ex, ey.roll(k, 0)) for k in shifts(len(x))])


def js_shares(critic: Any, x: Tensor, y: Tensor) -> Tensor:
    """Each row's share of the Jensen-Shannon bound [n], where nothing else is asked of a critic's rolled scores."""
    return rolled_scores(critic, x, y).js_shares()


def shifts(n: int) -> list[int]:
    """By how many places n rows are rolled, to meet negatives."""
    return sorted({max(1, (k * (n - 1)) // SHIFTS) for k in range(1, SHIFTS + 1)})
