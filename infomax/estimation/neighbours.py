"""Mutual information from distances to the k-th neighbour: one formula, and two ways to search. (Kraskov et al., 2004)

Trees search pairs of few columns, in any number. Where all distances are at hand already, and one side is only put in
other orders, they are compared as they are: twenty searches of 1,500 pairs of many columns would cost seconds.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError


def by_trees(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """MI in nats of x [n, dx] and y [n, dy] by the k-th neighbour (estimator 1).

    Raises UserError: k copies of a pair or more, among which there is no distance.
    """
    from sklearn.neighbors import KDTree

    both = np.concatenate([x, y], 1)
    distance = KDTree(both, metric="chebyshev").query(both, k + 1)[0][:, k]
    if not (distance > 0).all():
        rows = np.flatnonzero(distance == 0)
        raise UserError(
            f"{len(rows)} pairs have k={k} copies or more, and KSG measures distances between pairs: remove the "
            "copies, or raise k."
        )
    inside = np.nextafter(distance, 0)  # nearer than the k-th neighbour, and not as near
    return _value(k, [KDTree(s, metric="chebyshev").query_radius(s, inside, count_only=True) for s in (x, y)])


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
    """counts: for each side [n], how many pairs lie nearer than the k-th neighbour, with the pair itself."""
    from scipy.special import digamma

    near = sum(digamma(count) for count in counts)
    return float(np.mean(digamma(k)) + digamma(len(counts[0])) - np.mean(near))
