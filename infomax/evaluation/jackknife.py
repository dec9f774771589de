"""Intervals of what has no formula for its variance: from its values with each image left out."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def jackknife(
    score: float, without: Doubles, scale: Callable[[Doubles], Doubles], back: Callable[[Doubles], Doubles]
) -> tuple[float, float] | None:
    """The 95 % interval of a score of m images; None where they say nothing of how it varies.

    score: of all images. without [m]: its values with each image left out. scale, back: to a scale without ends, and
    from there. There the jackknife's variance (Tukey, 1958) makes an interval of Student's t, whose degrees of freedom
    are those of the variance itself, 2m / (kurtosis - 1) of the images' shares (Satterthwaite, 1946): few, where few
    images carry most of it, and m - 1 at most. An image has all its words, so that words may depend on each other.
    None: a score, or one without an image, at an end of the scale or undefined; no variance.
    """
    from scipy.stats import t as student

    m = len(without)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole, rest = scale(np.array([score])), scale(without)
    if not (np.isfinite(whole).all() and np.isfinite(rest).all()):
        return None
    squares = np.square((m - 1) * (rest - rest.mean()))
    total = float(squares.sum())
    if total <= 1e-18 * m:  # rounding alone
        return None
    excess = m * float(np.square(squares / total).sum()) - 1  # kurtosis - 1
    degrees = min(max(2 * m / excess, 1.0), m - 1) if excess > 0 else m - 1
    half = float(student.ppf(0.975, degrees)) * math.sqrt(total / (m * (m - 1)))
    low, high = sorted(back(whole[0] + np.array([-half, half])).tolist())
    return low, high
