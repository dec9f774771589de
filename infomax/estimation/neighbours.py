"""Mutual information from distances to the k-th neighbour: one formula, and two ways to search. (Kraskov et al., 2004)

Trees search pairs of few columns, in any number. Where all distances are at hand already, and one side is only put in
other orders, they are compared as they are: twenty searches of 1,500 pairs of many columns would cost seconds.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError

NEARER = 1e-9  # of a distance, by how much what is nearer is nearer: a sum's rounding is less


def by_trees(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """MI in nats of x [n, dx] and y [n, dy] by the k-th neighbour (estimator 1).

    Raises UserError: k copies of a pair or more, among which there is no distance.
    """
    reach = _reach(x, y, k)
    if not (reach > 0).all():
        rows = np.flatnonzero(reach == 0)
        raise UserError(
            f"{len(rows)} pairs have k={k} copies or more, and KSG measures distances between pairs: remove the "
            "copies, or raise k."
        )
    return float(_each(k, [_within(side, reach) for side in (x, y)]).mean())


def of_each(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """What each pair of x [n, dx] and y [n, dy] adds to the mean that is MI [n], in nats, by the k-th neighbour, where
    no value repeats."""
    reach = _reach(x, y, k)
    return _each(k, [_within(side, reach) for side in (x, y)])


def of_copies(x: np.ndarray, y: np.ndarray, least: int) -> np.ndarray:
    """The same of pairs that have `least` copies or more, which are counted on both sides and on each (Gao et al.,
    2017): [n], NaN of all others."""
    from scipy.special import digamma

    both = _copies(np.concatenate([x, y], 1))
    atoms, found = both >= least, np.full(len(x), np.nan)
    if atoms.any():
        own = digamma(_copies(x)[atoms]) + digamma(_copies(y)[atoms])
        found[atoms] = digamma(both[atoms]) + digamma(len(x)) - own
    return found


def _copies(side: np.ndarray) -> np.ndarray:
    """How many rows [n] are as each is, itself counted."""
    _, own, count = np.unique(side, axis=0, return_inverse=True, return_counts=True)
    return count[own.reshape(-1)]


def _reach(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """The distance of each pair's k-th neighbour [n], by the side that is further."""
    from scipy.spatial import KDTree

    both = np.concatenate([x, y], 1)
    return KDTree(both).query(both, k + 1, p=math.inf)[0][:, k]


def _within(side: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """How many rows of a side lie nearer than the reach of each row [n], with itself."""
    near = reach * (1 - NEARER)
    if side.shape[1] > 1:
        from scipy.spatial import KDTree

        return KDTree(side).query_ball_point(side, near, p=math.inf, return_length=True)
    value, order = side[:, 0], np.sort(side[:, 0])
    return order.searchsorted(value + near, "right") - order.searchsorted(value - near, "left")


def by_distances(dx: Tensor, dy: Tensor, k: int) -> float:
    """The same from the distances [n, n] within each side. Pairs that have k copies or more count their copies on both
    sides and on each. (Gao et al., 2017)"""
    k = min(k, len(dx) - 1)
    both = torch.maximum(dx, dy)
    nearest = both.topk(k + 1, dim=1, largest=False).values  # in a seventh of kthvalue's time
    reach = nearest[:, -1:].numpy()
    counts = [np.count_nonzero(d.numpy() < reach, axis=1).clip(min=1) for d in (dx, dy)]
    copied = reach[:, 0] == 0
    if not copied.any():
        return _value(k, counts)
    near = [np.count_nonzero(d.numpy()[copied] == 0, axis=1) for d in (both, dx, dy)]
    for count, own in zip(counts, near[1:], strict=True):
        count[copied] = own
    within = np.full(len(dx), k)
    within[copied] = near[0]
    return _value(within, counts)


def by_codes(d: Tensor, codes: Tensor, k: int) -> float:
    """MI in nats of rows at distances d [n, n] and of whole numbers, codes [n], by the k-th neighbour of a row's own
    code. (Ross, 2014) Rows whose code is a row's alone are left out."""
    from scipy.special import digamma

    alike = codes[:, None] == codes
    count = alike.sum(1)
    most = min(k, int(count.max()) - 1)
    if most < 1:
        return 0.0
    nearest = torch.where(alike, d, torch.inf).topk(most + 1, dim=1, largest=False).values.numpy()
    place = np.minimum(count.numpy() - 1, most)
    kept = place > 0
    reach = nearest[np.arange(len(d)), place][:, None]
    near = np.count_nonzero(d.numpy() < reach, axis=1).clip(min=1)
    each = digamma(len(d)) + digamma(place[kept]) - digamma(count.numpy()[kept]) - digamma(near[kept])
    return float(np.mean(each))


def _value(k: int | np.ndarray, counts: Sequence[np.ndarray]) -> float:
    return float(_each(k, counts).mean())


def _each(k: int | np.ndarray, counts: Sequence[np.ndarray]) -> np.ndarray:
    """k: how many neighbours of a pair are looked at, or of each pair [n]. counts: for each side [n], how many pairs
    lie nearer than the last of them, with the pair itself."""
    from scipy.special import digamma

    return digamma(k) + digamma(len(counts[0])) - sum(digamma(count) for count in counts)
