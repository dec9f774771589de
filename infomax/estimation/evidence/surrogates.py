"""The p-value of conditional independence by surrogates: what z leaves of x changes its sign, whole blocks at a time.

If x and y are independent given z, a function of x less its regression on z, times one of y less its own, is 0 on
average, for any z, and for any weight that depends on z (generalised covariance measure: Shah & Peters, 2020;
weighted: Scheidegger, Hoerrmann & Buehlmann, 2022). A surrogate flips the sign of what z leaves of x in groups of rows,
at random, which keeps both sides' dependence on z, dependence within a group, and noise whose size depends on z (wild
bootstrap by clusters: Cameron, Gelbach & Miller, 2008; few groups: Canay, Romano & Shaikh, 2017). x that is put in
another order, in whole blocks or not, would test x against y and z together.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from infomax.estimation.pairs import Pairs, is_label
from infomax.estimation.ranks import average_ranks

DRAWS = 999
GROUPS = 32  # of rows that change sign together: of so many Student's t is nearly normal
TOGETHER = 2  # blocks that follow each other and change sign together, as the rows where they meet are alike
FEWEST_GROUPS = 6
DEGREE = 3  # of Hermite polynomials of normal scores
COLUMNS = 8  # of x and of y that are read; of more, as many principal components of normal scores
CROSSED = 4  # columns of a side, up to which products of two are read
WEIGHTS = 3  # columns of z that weigh products, or components; of a label COLUMNS values
LEVELS = 24  # values of a label that are read, the commonest
BASIS = 200  # kernels around rows of z, at most
ROWS_A_KERNEL = 3
PREDICTORS = 100  # columns of z that are regressed on, or components
ROWS_A_PREDICTOR = 10
WIDE = 256  # columns, above which components are taken before ranks, which cost more
WIDTHS = (0.1, 0.5, 2.0)  # of kernels: squared, in medians of squared distances
PENALTIES = np.geomspace(1e-4, 1e2, 9)
NOTHING = 0.01  # of a function's deviation, below which z has left nothing of it but what regressions miss
ROUNDING = 1e-6  # of a sum of products of standardised functions
CLIPPED = 3.0  # deviations of normal scores
SHARE = 0.9  # of the level


@dataclass(frozen=True)
class Regression:
    """Least squares on columns, and on Gaussian kernels by generalised cross-validation, of each function by itself.

    A fit that is too close costs power alone, as its error is made of a side's own noise and of z. One that is too
    smooth may leave both sides the same function of z. So kernels are many.

    linear: orthonormal columns [n, k]. kernels: of each width, left and singular values of what kernels add.
    """

    linear: np.ndarray
    kernels: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def on(cls, z: Tensor, rng: np.random.Generator) -> "Regression":
        """On z [n, d], numbers or a label."""
        n = len(z)
        if _names(z):
            return cls(np.linalg.qr(z.double().numpy()[:, z.sum(0).numpy() > 0])[0], ())
        scores = normal_scores(z, min(PREDICTORS, n // ROWS_A_PREDICTOR), rng)
        linear = np.linalg.qr(np.concatenate([np.ones((n, 1)), scores], 1))[0]
        chosen = scores[rng.permutation(n)[: min(BASIS, n // ROWS_A_KERNEL)]]
        square = (scores**2).sum(1)[:, None] + (chosen**2).sum(1) - 2 * scores @ chosen.T
        among = (chosen**2).sum(1)[:, None] + (chosen**2).sum(1) - 2 * chosen @ chosen.T
        middle = float(np.median(square))
        kernels = []
        for width in WIDTHS:
            values, vectors = np.linalg.eigh(np.exp(-among.clip(min=0) / (2 * width * middle)))
            kept = values > 1e-8 * values[-1]
            columns = np.exp(-square.clip(min=0) / (2 * width * middle)) @ (vectors[:, kept] / np.sqrt(values[kept]))
            columns -= linear @ (linear.T @ columns)
            left, size, _ = np.linalg.svd(columns, full_matrices=False)
            kept = size > 1e-6 * max(size[0], 1e-12)
            kernels.append((left[:, kept], size[kept]))
        return cls(linear, tuple(kernels))

    def left(self, functions: np.ndarray) -> np.ndarray:
        """What is left of functions [n, m], by the width and penalty that suit each best."""
        n = len(functions)
        rest = functions - self.linear @ (self.linear.T @ functions)
        found, best = rest.copy(), self._loss((rest**2).sum(0), self.linear.shape[1], n)
        for basis, size in self.kernels:
            weights = basis.T @ rest
            beyond = (rest**2).sum(0) - (weights**2).sum(0)
            for penalty in PENALTIES:
                kept = size**2 / (size**2 + penalty)
                error = beyond + (((1 - kept)[:, None] * weights) ** 2).sum(0)
                loss = self._loss(error, self.linear.shape[1] + float(kept.sum()), n)
                better = loss < best
                best[better] = loss[better]
                found[:, better] = rest[:, better] - basis @ (kept[:, None] * weights[:, better])
        return found

    @staticmethod
    def _loss(error: np.ndarray, freedom: float, n: int) -> np.ndarray:
        return error / max(1 - freedom / n, 1e-3) ** 2


def normal_scores(side: Tensor, most: int, rng: np.random.Generator) -> np.ndarray:
    """Columns that vary [n, d] to normal scores, standardised; of more than `most` as many principal components of
    these, and of more than WIDE columns those of the numbers themselves, to normal scores."""
    table = side.flatten(1).double().numpy()
    table = table[:, (table != table[:1]).any(0)]
    if table.shape[1] <= WIDE:
        return _components(_ranked(table), most, rng)
    deviation = table.std(0)
    varies = deviation > 1e-12 * np.abs(table).max()
    return _ranked(_components((table[:, varies] - table[:, varies].mean(0)) / deviation[varies], most, rng))


def _ranked(table: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    scores = ndtri((average_ranks(table) - 0.5) / len(table))
    return (scores - scores.mean(0)) / scores.std(0)


def _components(scores: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Columns [n, d] as they are, or `most` principal components, standardised. (Halko et al., 2011)"""
    if scores.shape[1] <= most:
        return scores
    basis = np.linalg.qr(scores @ rng.normal(size=(scores.shape[1], most + 8)))[0]
    for _ in range(3):
        basis = np.linalg.qr(scores @ (scores.T @ basis))[0]
    left, size, _ = np.linalg.svd(basis.T @ scores, full_matrices=False)
    return (basis @ left)[:, :most][:, size[:most] > 1e-9 * size[0]] * math.sqrt(len(scores))


def functions(side: Tensor, rng: np.random.Generator) -> list[np.ndarray]:
    """Of x or y [n, ...] by degree, each [n, m]: columns, their squares with products of two, cubes; of a label
    indicators alone."""
    if _names(side):
        return [_indicators(side, LEVELS)]
    z = normal_scores(side, COLUMNS, rng).clip(-CLIPPED, CLIPPED)
    d = z.shape[1]
    products = [z[:, i] * z[:, j] for i in range(d) for j in range(i) if d <= CROSSED]
    return [z, np.concatenate([z**2, *(p[:, None] for p in products)], 1), z**3 - 3 * z][:DEGREE]


def _names(side: Tensor) -> bool:
    return side.ndim == 2 and is_label(side)


def _indicators(label: Tensor, most: int) -> np.ndarray:
    return label.double().numpy()[:, label.sum(0).argsort(descending=True, stable=True)[:most].numpy()]


def groups_of(ids: Tensor) -> np.ndarray:
    """Which group of rows each belongs to [n], from the id of each, rows in their order: blocks, or rows, that follow
    each other. Rows of one id are in one group."""
    _, first, own = np.unique(ids.cpu().numpy(), return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    number = min(GROUPS, max(len(first) // TOGETHER, min(len(first), FEWEST_GROUPS)))
    return place[own] * number // len(first)


def p_value(x: Tensor, y: Tensor, z: Tensor, ids: Tensor, seed: int) -> float:
    """How often surrogates are as dependent as x and y are, if these are independent given z.

    x, y, z [n, ...]: numbers, or one-hot labels, rows in their order. ids [n]: rows of one id change sign together.
    Three sums of squared means of products, each over its deviation between groups: of the columns; of all functions;
    of these and of those up to the second degree times columns of z, which sees what changes sign with z. The smallest
    of their p-values is compared with the smallest of each surrogate's (Westfall & Young, 1993). The sample itself is
    counted. 1 where z leaves nothing of x or of y.
    """
    rng = np.random.default_rng([seed, 6])
    regression = Regression.on(z, rng)
    sides = [_left(regression, functions(side, rng)) for side in (x, y)]
    if any(sum(part.shape[1] for part in side) == 0 for side in sides):
        return 1.0
    groups = groups_of(ids)
    sums = _sums(sides, _weights(z, rng), groups)
    signs = np.concatenate([np.ones((1, int(groups.max()) + 1)), rng.choice([-1.0, 1.0], (DRAWS, groups.max() + 1))])
    scores = np.stack([((signs @ part) ** 2).sum(1) for part in sums], 1)
    least = np.stack([_share_as_high(score) for score in scores.T]).min(0)
    return float((least <= least[0]).mean())


def _left(regression: Regression, parts: list[np.ndarray]) -> list[np.ndarray]:
    found = []
    for part in parts:
        spread = part.std(0)
        part = part[:, spread > 1e-6] / spread[spread > 1e-6]
        rest = regression.left(part) if part.shape[1] else part
        deviation = rest.std(0)
        found.append(rest[:, deviation > NOTHING] / deviation[deviation > NOTHING])
    return found


def _weights(z: Tensor, rng: np.random.Generator) -> np.ndarray:
    if _names(z):
        return _indicators(z, COLUMNS)
    return normal_scores(z, WEIGHTS, rng).clip(-CLIPPED, CLIPPED)


def _sums(sides: list[list[np.ndarray]], weights: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """Of each of three sets of products the sums over groups [groups, products], each over its length."""
    names = [np.flatnonzero(groups == k) for k in range(int(groups.max()) + 1)]

    def table(degrees: int, weight: np.ndarray | None = None) -> np.ndarray:
        x, y = (np.concatenate(side[:degrees], 1) for side in sides)
        x = x if weight is None else x * weight[:, None]
        sums = np.stack([(x[rows].T @ y[rows]).ravel() for rows in names])
        length = np.sqrt((sums**2).sum(0))
        kept = length > ROUNDING * math.sqrt(len(groups))  # within a value of z a label may have one value alone
        return sums[:, kept] / length[kept]

    every = table(DEGREE)
    return [table(1), every, np.concatenate([every, *(table(2, weight) for weight in weights.T)], 1)]


def _share_as_high(scores: np.ndarray) -> np.ndarray:
    """The share [m] of scores that are as high as each, itself counted; sums may differ in their last digits."""
    ordered = np.sort(scores)
    return (len(scores) - np.searchsorted(ordered, scores - 1e-9 * np.abs(scores))) / len(scores)


def in_order(pairs: Pairs) -> Tensor:
    """The id of each of a user's rows [n]."""
    assert pairs.rows is not None
    return pairs.ids.cpu()[pairs.rows.argsort()]


def beside(surrogates: float, scores: float) -> float:
    """Two p-values as one, by Bonferroni's bound: nine tenths of the level are the surrogates', which see what few
    functions see, and a tenth is that of the critics' scores, which see what critics learned."""
    return min(1.0, surrogates / SHARE, scores / (1 - SHARE))
