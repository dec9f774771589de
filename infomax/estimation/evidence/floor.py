"""The certified lower bound (floor): what MI is at least, at 95 %, whatever the critic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infomax.estimation.pairs import Pairs, one_a_sample

LEVEL = 0.05
UNIFORM = 0.02  # the share of a uniform guess in the classifier, which bounds its loss
LOWEST = math.log(UNIFORM)  # of a pair's value
BLOCK = 1024  # candidates at most, so that the cost grows as the pairs and not as their square
SCALES = tuple(2.0 ** (j / 2) for j in range(-12, 5))
CALIBRATED_ON = 512  # pairs
PROTOCOL = (
    "one-sided 95 %: InfoNCE among all test pairs of a fold (1,024 at most), of scores times a scale that validation"
    " pairs choose; delete-one jackknife, Student's t, less the rule of three"
)


@dataclass(frozen=True)
class Certificate:
    """Pseudo-values [n] of report pairs, the scale that select pairs chose, and InfoNCE on those, in nats."""

    values: NDArray[np.float64]
    scale: float
    on_select: float


def infonce(scores: Tensor) -> float:
    """The mean log(n q_i), in nats, of scores [n, n] whose positives are the diagonal: see pseudo_values."""
    own = scores.log_softmax(1).diagonal().double()
    return float(torch.log(UNIFORM + (1 - UNIFORM) * len(scores) * own.exp()).mean())


def pseudo_values(scores: Sequence[Tensor]) -> NDArray[np.float64]:
    """InfoNCE's pseudo-values, a number for each sample [n]: their mean is its value, in nats, their spread its error.

    scores: matrices [n, n] of the same n samples, whose positives are the diagonal; their values are averaged. In each,
    a classifier finds y_i among all n: the softmax of the row, mixed with a uniform guess. The mean of log(n q_i) is at
    most I in expectation, as any classifier's that sums to one (van den Oord et al., 2018). A sample is left out as a
    row and as a column. The squared error by leaving out is in expectation not below the true one (Efron & Stein,
    1981). Tukey's values have the jackknife's correction in their mean, which nothing bounds by I: here it is left out.
    """
    n, whole = len(scores[0]), 0.0
    without = np.zeros(n)
    for each in scores:
        p = each.double().softmax(1)
        own = p.diagonal()[:, None].clone()
        # Without candidate c, row r is divided by 1 - p_rc, of which its own share is a part.
        left = own / torch.maximum(1 - p, own).clamp(min=1e-300)
        values = torch.log(UNIFORM + (1 - UNIFORM) * (n - 1) * left.fill_diagonal_(0))
        whole += float(torch.log(UNIFORM + (1 - UNIFORM) * n * own).mean())
        without += ((values.sum(0) - LOWEST) / (n - 1)).cpu().numpy()
    return (whole + (n - 1) * (without.mean() - without)) / len(scores)


def lower_bound(values: NDArray[np.float64], level: float = LEVEL) -> float:
    """A one-sided lower confidence bound on the mean that pseudo-values [n] have in expectation.

    Student's t, less what failures could lower the mean by that are too rare to be seen: of n values none of which
    failed, -log(level) / n of all may (the rule of three), each down to LOWEST.
    """
    from scipy.special import stdtrit

    n, mean = len(values), float(values.mean())
    unseen = -math.log(level) / n * max(0.0, mean - LOWEST)
    return mean - float(stdtrit(n - 1, 1 - level)) * float(values.std(ddof=1)) / math.sqrt(n) - unseen


def calibrated(scores: Sequence[Tensor]) -> tuple[float, float]:
    """The factor that makes scores [n, n] the best classifier, and InfoNCE with it, in nats: of pairs not reported on.

    A log ratio that was fitted to too few pairs is too steep; times a factor it is a critic as good as any.
    """
    value, scale = max((sum(infonce(scale * each) for each in scores) / len(scores), scale) for scale in SCALES)
    return scale, value


@torch.no_grad()
def of_critic(critic: Any, select: Pairs, report: Pairs) -> Certificate:
    """What mapped report pairs certify, by a critic whose scale mapped select pairs choose.

    It assumes independent samples; of rows with one id, the first is used. Both parts are in random order.
    """
    select, report = one_a_sample(select).first(CALIBRATED_ON), one_a_sample(report)
    scale, on_select = calibrated([critic.score(*critic.embed(select.x, select.y))])
    ex, ey = critic.embed(report.x, report.y)
    # Blocks of candidates, as alike in size as can be.
    parts = torch.arange(len(report), device=ex.device).tensor_split(math.ceil(len(report) / BLOCK))
    values = [pseudo_values([scale * critic.score(ex[part], ey[part])]) for part in parts]
    return Certificate(np.concatenate(values), scale, on_select)
