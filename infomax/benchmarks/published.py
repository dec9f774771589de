"""Distributions of other authors' tables, with their exact MI: discrete sides, mixed ones, and many nats.

Written anew from what the papers say. Truths are closed forms or sums, not the tables' own where those are off.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from infomax.benchmarks import tasks
from infomax.benchmarks.tasks import Array, Task

ATOMS = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], float)
MASSES = np.array([0.45, 0.45, 0.05, 0.05])
ATOMS_NAME = "normals with atoms"
ATOMS_ERRORS = {200: 2e-3, 800: 3e-4, 3200: 6e-5}
"""Mean squared errors of Gao et al.'s estimator on `atoms`, nats squared, read off their figure's logarithmic axes."""
LARGEST = 60  # counts beyond have a probability below 2^-60


@dataclass(frozen=True)
class Table:
    """Distributions that are measured together at these numbers of pairs; seeds: samples of each at least."""

    name: str
    tasks: tuple[Task, ...]
    sizes: tuple[int, ...]
    seeds: int = 1


def atoms() -> Task:
    """Half of the pairs are normals of correlation .9, half are four points: 1.2923 nats. (Gao et al., 2017)

    A side tells which half it is of, log 2 nats, and beyond that each half has its own MI.
    """
    normal = tasks.elliptical("", tasks.canonical([0.9], 1, 1), 1)
    discrete = math.log(2) + 2 * float(special.xlogy(MASSES[[0, 2]], 2 * MASSES[[0, 2]]).sum())
    assert normal.formula is not None
    half = 0.5

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x, y = normal.draw(n, rng)
        points = ATOMS[rng.choice(4, n, p=MASSES)]
        discretely = rng.random((n, 1)) < half
        return np.where(discretely, points[:, :1], x), np.where(discretely, points[:, 1:], y)

    def log_ratio(x: Array, y: Array) -> Array:
        at = np.abs(x[:, 0]) == 1
        # p(x, y) / p(x) p(y) of a half is its own ratio over the half's share.
        points = np.log(np.where(x[:, 0] == y[:, 0], MASSES[0], MASSES[2]) / 0.25)
        return math.log(2) + np.where(at, points, normal.log_ratio(x, y))

    return Task(ATOMS_NAME, draw, log_ratio, math.log(2) + half * (normal.formula + discrete))


def counts(inflated: float) -> Task:
    """x exponential, y Poisson of mean x, but 0 with probability `inflated`. (Gao et al., 2017)

    H(Y) - H(Y | X) by sums over counts and Gauss and Laguerre's quadrature over x. The paper's closed form, (1 - p) of
    the MI without inflation, takes the branch for known, and a zero does not tell it.
    """
    k = np.arange(LARGEST)
    marginal = (1 - inflated) * 0.5 ** (k + 1)
    marginal[0] += inflated

    def conditional(x: Array) -> Array:
        p = (1 - inflated) * np.exp(special.xlogy(k, x) - x - special.gammaln(k + 1))
        return p + np.where(k == 0, inflated, 0)

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x = rng.exponential(size=(n, 1))
        return x, np.where(rng.random((n, 1)) < inflated, 0, rng.poisson(x)).astype(float)

    def log_ratio(x: Array, y: Array) -> Array:
        at = np.minimum(y[:, 0].astype(int), LARGEST - 1)
        return np.log(conditional(x)[np.arange(len(x)), at]) - np.log(marginal[at])

    x, weight = np.polynomial.laguerre.laggauss(100)
    p = conditional(x[:, None])
    mi = float(weight @ special.xlogy(p, p).sum(1) - special.xlogy(marginal, marginal).sum())
    return Task(f"counts of exponentials, {inflated:g} more zeros", draw, log_ratio, mi)


def smoothed_labels(k: int) -> Task:
    """`tasks.staircase_labels` with the label as a number in [0, 1]: a discrete uniform, smoothed. (As of mutinfo)"""
    of = tasks.staircase_labels("", k)

    def draw(n: int, rng: Generator) -> tuple[NDArray, Array]:
        x, y = of.draw(n, rng)
        return x / k, y / k

    def log_ratio(x: Array, y: Array) -> Array:
        return of.log_ratio(np.rint(x * k).astype(np.int64), y * k)

    return Task(f"smoothed discrete uniform, {k} values", draw, log_ratio, of.formula)


def erasures(k: int, failure: float = 0.5) -> Task:
    """x one of k equally likely numbers; y = x, or -1 with probability `failure`: (1 - failure) log k nats.

    A channel whose events are rare, as mutinfo's tables have one.
    """

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x = rng.integers(0, k, (n, 1)) / k
        return x, np.where(rng.random((n, 1)) < failure, -1.0, x)

    def log_ratio(x: Array, y: Array) -> Array:
        through = np.where(x == y, math.log(k), -math.inf)
        return np.where(y == -1, 0.0, through)[:, 0]

    return Task(f"erasures of {k} values", draw, log_ratio, (1 - failure) * math.log(k))


@functools.cache
def tables() -> tuple[Table, ...]:
    """Gao et al.'s mixtures (2017), and tables after those of mutinfo 0a34663."""
    mixed = (tasks.staircase_labels("5 labels, uniform", 5), atoms(), *(counts(p) for p in (0.0, 0.15, 0.5)))
    return (
        Table("mixtures", mixed, (200, 400, 800, 1600, 3200), 2),
        Table("smoothed discrete uniform", tuple(smoothed_labels(k) for k in (5, 15, 110, 807)), (10_000,)),
        Table("erasures", tuple(erasures(k) for k in (7, 55, 2981)), (1000,)),
        Table("2 nats a dimension", (tasks.gaussian(4, 8.0),), (100, 316, 1000, 3162, 10_000)),
    )
