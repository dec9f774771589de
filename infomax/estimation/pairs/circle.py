"""Angles: two columns that are the cosine and the sine of one."""

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.pairs.pairs import has_density
from infomax.estimation.result import Check

ROUND = 1e-5  # of the squared radius, how far rows are from it at most
SECTORS = 5  # at least: two columns of 0 and 1 that are one label have two angles, two columns of -1 and 1 four
TIED = 1e-6  # radians within which two angles are one


def is_circle(side: Tensor) -> bool:
    """Whether rows [n, 2] lie on a circle about 0, as the cosine and the sine of an angle do."""
    if side.shape[1] != 2:
        return False
    square = side.double().square().sum(1)
    mean = float(square.mean())
    return mean > 0 and float((square - mean).abs().max()) <= ROUND * mean


def is_smooth_circle(side: Tensor) -> bool:
    """The same, of angles that seldom occur twice: of sectors, kernels narrower than these leave nothing between."""
    if not is_circle(side):
        return False
    turned = torch.from_numpy(angle(side)).div(TIED).round()[:, None]
    return has_density(turned)


def angle(side: Tensor) -> np.ndarray:
    """Of (cos, sin) [n, 2], in radians [n]."""
    values = side.double().numpy()
    return np.arctan2(values[:, 1], values[:, 0])


def sectors(name: str, side: Tensor) -> list[Check]:
    """What is said of angles of few values, such as a compass of 16 points: ranks and kernels make of them what they
    are not, by a little, and their intervals do not know."""
    if not is_circle(side) or is_smooth_circle(side):
        return []
    number = len(np.unique(np.round(angle(side) / TIED)))
    if number < SECTORS:
        return []
    sentence = (
        f"{name} is an angle of {number} values: give the number of the sector, a column of integers, which is a label."
    )
    return [Check(f"sectors of {name}", float(number), 0.0, "fail", sentence)]
