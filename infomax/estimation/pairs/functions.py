"""Checks of the pairs, before they are split, for a relation without noise: what is a function of the other side has
infinite MI with it, or, where it has few values, its own entropy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.ranks import average_ranks
from infomax.estimation.result import Check

NAME = "function"
ROWS = 2000  # that are looked at for candidates; a candidate is looked at in all rows
WIDEST = 1000  # columns of both sides, among whose combinations a relation is sought
PRODUCTS = 16_000_000  # pairs of columns, among which copies are sought
FEW = 10  # values of a column, below which nothing is said: by chance they may be in the other side's order
NEAR = 3  # columns at most whose neighbours tell a curve
NOISY = (0.8, 0.8, 0.5)  # share of the squared errors, of 1 to 3 columns, below which noise counts as none
RESOLVED = 0.02  # of a column's deviation, what its neighbours leave of it at most: more may be noise


@dataclass(frozen=True)
class Relation:
    """sentence: which column is a function of what. values [n]: those of the column."""

    sentence: str
    values: Tensor


def functions(sides: Sequence[Tensor]) -> list[Check]:
    """One check of the first relation without noise between x [n, dx] and y [n, dy], or none.

    Without noise means: to less than 1 / n of a column's deviation, so that MI is beyond log n and no n pairs tell it
    from infinity. A column of few values has its entropy as MI, which the value is then held against.
    """
    x, y = (side.double() for side in sides)
    if len(x) < 20:
        return []
    x, y = ((side - side.mean(0)) / side.std(0).clamp(min=1e-300) for side in (x, y))
    for search in (_copy, _combination, _curve):
        relation = search(x, y)
        if relation is not None:
            return _check(relation)
    return []


def _has_dense_part(column: Tensor) -> bool:
    """Whether values do not recur, in a part of the rows at least."""
    _, counts = column.unique(return_counts=True)
    return len(counts) > len(column) / 5 or int((counts == 1).sum()) >= max(FEW, len(column) / 20)


def _alone(column: Tensor) -> Tensor:
    """Which values do not recur [n]."""
    _, index, counts = column.unique(return_inverse=True, return_counts=True)
    return counts[index] == 1


def _check(relation: Relation) -> list[Check]:
    _, counts = relation.values.unique(return_counts=True)
    n = len(relation.values)
    part = counts.double() / n
    entropy = float(-(part * part.log()).sum())
    if _has_dense_part(relation.values):
        sentence = (
            f"{relation.sentence}: their MI is infinite, and any value says how finely the pairs resolve it; leave "
            "such columns out, or add noise of a known size."
        )
        return [Check(NAME, math.inf, math.log(n), "fail", sentence)]
    if len(counts) < FEW:
        return []
    sentence = f"{relation.sentence}, of {len(counts)} values: MI is at least their entropy, {entropy:.2f} nats."
    return [Check(NAME, entropy, math.log(n), "pass", sentence)]


def _copy(x: Tensor, y: Tensor) -> Relation | None:
    """A column whose order is that of a column of the other side, upwards or downwards, ties and all."""
    if x.shape[1] * y.shape[1] > PRODUCTS:
        return None
    some = [side[:ROWS] for side in _shuffled(x, y)]
    ranks = [torch.from_numpy(average_ranks(side.numpy())) for side in some]
    ranks = [(r - r.mean(0)) / r.std(0, correction=0).clamp(min=1e-12) for r in ranks]
    rho = (ranks[0].T @ ranks[1] / len(some[0])).abs()
    for flat in rho.flatten().topk(min(20, rho.numel())).indices.tolist():
        i, j = divmod(flat, y.shape[1])
        if float(rho[i, j]) < 0.9:
            return None
        for one, other, names in ((x[:, i], y[:, j], ("x", i, "y", j)), (y[:, j], x[:, i], ("y", j, "x", i))):
            sign = 1 if float(torch.dot(one.argsort().argsort().double() - len(one) / 2, other)) > 0 else -1
            if _follows(one, sign * other):
                return Relation(f"{names[2]}[:, {names[3]}] is a function of {names[0]}[:, {names[1]}]", other)
    return None


def _follows(one: Tensor, other: Tensor) -> bool:
    """Whether `other` never falls as `one` rises, but for 1 / n of its deviation, where ranks agree as far."""
    order = np.lexsort((other.numpy(), one.numpy()))
    along = other[torch.from_numpy(order)]
    values, sizes = one[torch.from_numpy(order)].unique_consecutive(return_counts=True)
    if len(values) < 2 or (int((sizes == 1).sum()) < len(one) / 2 and not _constant_within(along, sizes)):
        return False
    falls = (along[:-1] - along[1:]).clamp(min=0)
    return not bool(falls.any()) or (_rank_distance(one, other) < 1 / len(one) ** 2)


def _constant_within(along: Tensor, sizes: Tensor) -> bool:
    """Whether rows of one value of `one` have one value of the other: else it is no function."""
    ends = sizes.cumsum(0)
    return bool((along[ends - 1] - along[ends - sizes] < 1e-9).all())


def _rank_distance(one: Tensor, other: Tensor) -> float:
    return 1 - float(np.corrcoef(average_ranks(one.numpy()), average_ranks(other.numpy()))[0, 1])


def _combination(x: Tensor, y: Tensor) -> Relation | None:
    """A column or a combination of columns that is a combination of the other side's: a canonical correlation of 1."""
    n, widths = len(x), (x.shape[1], y.shape[1])
    if sum(widths) > WIDEST or n <= 2 * sum(widths) or max(widths) < 2:
        return None
    some = [side[: max(ROWS, 4 * sum(widths))] for side in _shuffled(x, y)]
    bases = [_basis(side) for side in some]
    for k, (name, other) in enumerate((("y", "x"), ("x", "y"))):
        own, basis = some[1 - k], bases[k][0]
        own = own - own.mean(0)
        left = own - basis @ (basis.T @ own)
        share = (left.square().sum(0) / own.square().sum(0).clamp(min=1e-300)).sqrt()
        for j in (share < 1 / n).nonzero().flatten().tolist():
            whole = y[:, j] if name == "y" else x[:, j]
            if _explained(x if name == "y" else y, whole[:, None]):
                return Relation(f"{name}[:, {j}] is a sum of multiples of {other}'s columns", whole)
    left, rho, right = torch.linalg.svd(bases[0][0].T @ bases[1][0], full_matrices=False)
    if len(rho) and 1 - float(rho[0]) ** 2 < 1 / n**2:
        v = y @ (bases[1][1] @ right[0])
        if _explained(x, v[:, None]):
            values = (v / v.std()).mul(1e6).round()  # combinations of equal rows differ in their last digits
            return Relation("a combination of y's columns is one of x's columns", values)
    return None


def _basis(side: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the columns' span [n, k], and what makes it of the columns [d, k]."""
    centred = side - side.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    kept = s > 1e-5 * s[0]
    return u[:, kept], (v[kept] / s[kept, None]).T


def _explained(side: Tensor, column: Tensor) -> bool:
    """Whether all rows of a column [n, 1] are a combination of a side's columns, but for 1 / n of its deviation."""
    basis = _basis(side)[0]
    column = column - column.mean(0)
    left = column - basis @ (basis.T @ column)
    if float(left.norm() / column.norm().clamp(min=1e-300)) >= 1 / len(side):
        return False
    # A few far rows may have made up all of the deviation, and be all that agrees.
    low, high = column[:, 0].quantile(torch.tensor([0.25, 0.75]).double()).tolist()
    return high == low or float(left.abs().quantile(0.9)) < (high - low) / len(side)


def _curve(x: Tensor, y: Tensor) -> Relation | None:
    """A column that the other side's few columns predict the better the nearer their neighbours are, down to 0."""
    for name, own, other in (("y", y, x), ("x", x, y)):
        if other.shape[1] > NEAR:
            continue
        dense = [[_has_dense_part(column) for column in side.T] for side in (other, own)]
        if not all(dense[0]) or not any(dense[1]):
            continue
        places = [j for j, is_dense in enumerate(dense[1]) if is_dense]
        # Among values that recur, such as zeros, neighbours are at no distance, and tell nothing.
        rows = torch.stack([_alone(column) for column in [*other.T, *own[:, places].T]]).all(0)
        seen, columns = _shuffled(other[rows], own[rows][:, places])
        if len(seen) < 200:
            continue
        seen, columns = _robust(seen[:ROWS]), _robust(columns[:ROWS])
        few, d = max(50, len(seen) // 4), other.shape[1]
        near = _unpredicted(seen, columns)
        far = _unpredicted(seen[:few], columns[:few])
        shrinks = (few / len(seen)) ** (4 / d)  # of a smooth curve's squared errors
        noise = (near**2 - shrinks * far**2) / (1 - shrinks)
        for j in ((near < RESOLVED) & (noise < NOISY[d - 1] * near**2)).nonzero().flatten().tolist():
            return Relation(f"{name}[:, {places[j]}] is a function of {'x' if name == 'y' else 'y'}", own[:, places[j]])
    return None


def _unpredicted(seen: Tensor, columns: Tensor) -> Tensor:
    """The median error [k] with which columns [n, k] are predicted, each row by a plane through its neighbours'."""
    from scipy.spatial import KDTree  # of scikit-learn's, the import costs more than all searches

    d = seen.shape[1]
    near = np.asarray(KDTree(seen.numpy()).query(seen.numpy(), 2 * d + 4)[1], np.int64)
    index = torch.from_numpy(near[:, 1:].copy())
    design = torch.cat([torch.ones(*index.shape, 1).double(), seen[index] - seen[:, None]], 2)  # [n, neighbours, 1 + d]
    gram = design.transpose(1, 2) @ design
    gram = gram + 1e-9 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(1 + d).double()
    plane = torch.linalg.solve(gram, design.transpose(1, 2) @ columns[index])
    return (plane[:, 0] - columns).abs().median(0).values


def _robust(side: Tensor) -> Tensor:
    """Columns whose middle half of rows is as wide as a normal's: as they are, since ranks would add noise."""
    low, high = side.quantile(torch.tensor([0.25, 0.75]).double(), dim=0)
    return torch.where(high > low, side / ((high - low) / 1.349).clamp(min=1e-300), side)


def _shuffled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    return x[order], y[order]
