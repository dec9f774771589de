"""Multinomial logistic regression on features that need not be in memory: the whole data's gradient, block by block.

The same penalised likelihood and the same solver (L-BFGS) as scikit-learn's LogisticRegression, so the same optimum.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from infomax.evaluation.features import ELEMENTS, Features, Floats, Ints

KEPT = 2**24  # standardised numbers that are kept between walks: 64 MiB

Doubles = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Scale:
    """Standardisation of features: (x - mean) / deviation, both float32 [d]; a column that does not vary is 0."""

    mean: Floats
    deviation: Floats

    def __call__(self, rows: Floats) -> Floats:
        """rows [b, d] -> standardised [b, d]."""
        return (rows - self.mean) / self.deviation


def standardiser(X: Features, at: Ints | None = None) -> Scale:
    """The standardisation of all rows of X, or of those at `at` [k], from one walk over them in float64."""
    n, mean, squares = 0, np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for block in X.blocks(at):  # (Chan, Golub & LeVeque, 1983)
        own = block.mean(0, dtype=np.float64)
        apart = np.square(block - own).sum(0)
        squares += apart + np.square(own - mean) * (n * len(block) / (n + len(block)))
        n += len(block)
        mean += (own - mean) * (len(block) / n)
    deviation = np.sqrt(squares / n)
    deviation = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, 1.0)
    return Scale(mean.astype(np.float32), deviation.astype(np.float32))


@final
@dataclass(frozen=True, eq=False)
class Linear:
    """Scores of k classes, weight [k, d] times features plus bias [k], in float32; of two classes, of the second."""

    weight: Floats
    bias: Floats

    def answers(self, rows: Floats) -> Ints:
        """rows [b, d] -> the class of the highest score of each, [b]; the first of equals."""
        scores = rows @ self.weight.T + self.bias
        return scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(np.int64)


def rows_of(X: Features, at: Ints | None, scale: Scale, classes: int) -> Callable[[], Iterator[Floats]]:
    """Each call walks over the standardised rows of X, all or those at `at`, in blocks that scores of `classes` fit.

    Few of them are standardised once, of more each block whenever it is read: the same blocks of the same numbers.
    """
    rows = max(1, ELEMENTS // max(X.shape[1], classes))
    if (len(X) if at is None else len(at)) * X.shape[1] <= KEPT:
        kept = [scale(block) for block in X.blocks(at, rows)]
        return lambda: iter(kept)
    return lambda: (scale(block) for block in X.blocks(at, rows))


def path(
    blocks: Callable[[], Iterable[Floats]],
    y: Ints,
    d: int,
    classes: int,
    grid: Sequence[float],
    tolerance: float = 1e-4,
    iterations: int = 300,
) -> list[Linear]:
    """The fit for every C of a rising grid; each starts from the one before.

    blocks: each call walks over the rows, [b, d] at a time. y [n]: their classes, 0 to classes - 1, in the same order.
    tolerance: of the largest part of the gradient of the mean loss. iterations: of a fit at most; an unpenalised fit of
    separable classes never converges, and its accuracy settled long before.
    """
    from scipy.optimize import minimize

    found: list[Linear] = []
    loss = _Loss(blocks, y, d, classes if classes > 2 else 1)
    start = np.zeros(loss.free * (d + 1))
    options: dict[str, Any] = {"maxiter": iterations, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    for C in grid:
        penalty = 1 / (C * len(y))
        start = minimize(loss, start, (penalty,), "L-BFGS-B", jac=True, options=options).x
        found.append(Linear(*loss.parts(start)))
    return found


class _Loss:
    """Mean cross-entropy plus the penalty of weights, and its gradient: products in float32, sums in float64.

    free: columns that are fitted; of two classes that of the second alone, as the other's scores are 0.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]], y: Ints, d: int, free: int):
        self.blocks, self.y, self.d, self.free = blocks, y, d, free

    def parts(self, at: Doubles) -> tuple[Floats, Floats]:
        both = at.reshape(self.free, self.d + 1).astype(np.float32)
        return np.ascontiguousarray(both[:, :-1]), both[:, -1].copy()  # not a view, which would keep them all

    def __call__(self, at: Doubles, penalty: float) -> tuple[float, Doubles]:
        weight, bias = self.parts(at)
        gradient = np.zeros((self.free, self.d + 1))
        loss, done = 0.0, 0
        for block in self.blocks():
            rows, y = np.arange(len(block)), self.y[done : done + len(block)]
            scores = block @ weight.T + bias
            if self.free == 1:
                scores = np.concatenate([np.zeros_like(scores), scores], 1)
            scores -= scores.max(1, keepdims=True)
            right = scores[rows, y]
            np.exp(scores, out=scores)
            total = scores.sum(1, keepdims=True)
            loss += float((np.log(total[:, 0]) - right).sum(dtype=np.float64))
            scores /= total
            scores[rows, y] -= 1
            apart = np.ascontiguousarray(scores[:, -self.free :])
            gradient[:, :-1] += apart.T @ block
            gradient[:, -1] += apart.sum(0, dtype=np.float64)
            done += len(block)
        weights = at.reshape(gradient.shape)[:, :-1]
        gradient /= done
        gradient[:, :-1] += penalty * weights
        return loss / done + penalty / 2 * float(np.square(weights).sum()), gradient.ravel()
