"""Intervals of what has no formula for its variance: from its values with each image left out."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

WIDEST = 4.0  # half an interval, on a scale of logarithms: more, a factor above 55 up and down, says nothing


def jackknife(
    score: float, without: Doubles, scale: Callable[[Doubles], Doubles], back: Callable[[Doubles], Doubles]
) -> tuple[float, float] | Literal["undefined", "wide"]:
    """The 95 % interval of a score of m images, or why there is none.

    score: of all images. without [m]: its values with each image left out. scale, back: to a logarithm without
    ends, and from there. There the jackknife's variance (Tukey, 1958) makes an interval of Student's t, whose
    degrees of freedom are those of the variance itself, 2m / (kurtosis - 1) of the images' shares (Satterthwaite,
    1946): few, where few images carry most of it, and m - 1 at most. An image has all its words, so that words may
    depend on each other.
    "undefined": a score, or one without an image, at an end of the scale or undefined; no variance. "wide": half of it
    is more than WIDEST. Few degrees of freedom are no reason: such intervals are wide and cover, and of R2 those that
    are left cover less often without them.
    """
    from scipy.stats import t as student

    m = len(without)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole, rest = scale(np.array([score])), scale(without)
    if not (np.isfinite(whole).all() and np.isfinite(rest).all()):
        return "undefined"
    squares = np.square((m - 1) * (rest - rest.mean()))
    total = float(squares.sum())
    if total <= 1e-18 * m:  # rounding alone
        return "undefined"
    excess = m * float(np.square(squares / total).sum()) - 1  # kurtosis - 1
    degrees = min(max(2 * m / excess, 1.0), m - 1) if excess > 0 else m - 1
    half = float(student.ppf(0.975, degrees)) * math.sqrt(total / (m * (m - 1)))
    if half > WIDEST:
        return "wide"
    with np.errstate(over="ignore"):
        low, high = sorted(back(whole[0] + np.array([-half, half])).tolist())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else "undefined"


def log_odds(share: Doubles) -> Doubles:
    """share, in [0, 1] -> log(share / (1 - share)), the scale on which intervals of mAP are made."""
    return np.log(share / np.maximum(1 - share, 0))


def of_log_odds(value: Doubles) -> Doubles:
    """The inverse of log_odds."""
    return 1 / (1 + np.exp(-value))
