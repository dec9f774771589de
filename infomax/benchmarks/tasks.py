"""Distributions with a known mutual information and a known log-ratio: what estimators are measured on.

A task is a core in closed form (an elliptical law, channels, a mixture, noise that is added, labels), whose sides go
through invertible maps, which leave the MI as it is. (Such families: Czyż et al., 2023)
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize, signal, special

from infomax.errors import UserError

Array = NDArray[np.float64]
Draw = Callable[[int, Generator], tuple[NDArray, NDArray]]
LogRatio = Callable[[NDArray, NDArray], Array]

TRUTH_PAIRS, TRUTH_SEED = 1_000_000, 20_260_101


@dataclass(frozen=True)
class Task:
    """Pairs of a known law. log_ratio: log p(x, y) / p(x) p(y) of each row, in nats: what a perfect critic knows.

    formula: the MI in nats where there is one; else `mi` is the mean log-ratio of a million pairs, `mi_error` its
    standard error.
    """

    name: str
    draw: Draw
    log_ratio: LogRatio
    formula: float | None = None

    def sample(self, n: int, seed: int | Sequence[int] | Generator) -> tuple[NDArray, NDArray]:
        """x [n, dx] and y [n, dy], float64, or int64 [n, 1] where a side is a label. A Generator goes on."""
        return self.draw(n, np.random.default_rng(seed))

    @property
    def mi(self) -> float:
        """The true mutual information, in nats."""
        return self._monte_carlo[0] if self.formula is None else self.formula

    @property
    def mi_error(self) -> float:
        """The standard error of `mi`, in nats: 0 for a formula."""
        return self._monte_carlo[1] if self.formula is None else 0.0

    @cached_property
    def _monte_carlo(self) -> tuple[float, float]:
        rng, part = np.random.default_rng(TRUTH_SEED), 50_000
        each = np.concatenate([self.log_ratio(*self.draw(part, rng)) for _ in range(TRUTH_PAIRS // part)])
        return float(each.mean()), float(each.std() / math.sqrt(len(each)))


# Cores ---------------------------------------------------------------------------------------------------------------


def elliptical(name: str, covariance: Array, dx: int, dof: float = math.inf) -> Task:
    """A normal law, or Student's with `dof` degrees of freedom, of dispersion `covariance`; its first dx columns are x.

    Student's MI is the normal's plus a constant that its tails give, whatever the dispersion. (Arellano-Valle et al.,
    2013)
    """
    whole = np.asarray(covariance, dtype=float)
    dy = len(whole) - dx
    factor = np.linalg.cholesky(whole)
    roots = [np.linalg.inv(np.linalg.cholesky(part)) for part in (whole, whole[:dx, :dx], whole[dx:, dx:])]
    half_dets = [-np.log(np.diag(root)).sum() for root in roots]
    normal = half_dets[1] + half_dets[2] - half_dets[0]

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        z = rng.standard_normal((n, len(whole))) @ factor.T
        if dof < math.inf:
            z /= np.sqrt(rng.chisquare(dof, (n, 1)) / dof)
        return z[:, :dx], z[:, dx:]

    def log_ratio(x: Array, y: Array) -> Array:
        square = [((z @ root.T) ** 2).sum(1) for z, root in zip((np.hstack([x, y]), x, y), roots, strict=True)]
        if dof == math.inf:
            return normal - 0.5 * (square[0] - square[1] - square[2])
        logs = [0.5 * (dof + p) * np.log1p(q / dof) for p, q in zip((dx + dy, dx, dy), square, strict=True)]
        gammas = [special.gammaln((dof + p) / 2) for p in (dx + dy, dx, dy)]
        return normal + gammas[0] - gammas[1] - gammas[2] + special.gammaln(dof / 2) - logs[0] + logs[1] + logs[2]

    return Task(name, draw, log_ratio, float(normal + tails(dof, dx, dy)))


def tails(dof: float, dx: int, dy: int) -> float:
    """What Student's tails add to the normal's MI, in nats: also between uncorrelated sides."""
    if dof == math.inf:
        return 0.0

    def f(p: float) -> float:
        return float(special.gammaln(p / 2) - p / 2 * special.digamma(p / 2))

    return f(dof) + f(dof + dx + dy) - f(dof + dx) - f(dof + dy)


def channels(name: str, d: int, mi: float) -> Task:
    """d independent pairs of normals; each is correlated by +rho or by -rho, as a fair coin says: a mixture of two
    channels, uncorrelated in all, so that a Gaussian copula sees nothing. The MI is an integral in two dimensions."""
    rho = _correlation(name, mi / d, _channel_mi)

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x, e = rng.standard_normal((2, n, d))
        return x, rho * rng.choice([-1.0, 1.0], (n, d)) * x + math.sqrt(1 - rho**2) * e

    return Task(name, draw, lambda x, y: _channel_log_ratio(x, y, rho).sum(1), mi)


def _channel_log_ratio(x: Array, y: Array, rho: float) -> Array:
    cosh = np.logaddexp(rho * x * y / (1 - rho**2), -rho * x * y / (1 - rho**2)) - math.log(2)
    return -0.5 * np.log1p(-(rho**2)) - rho**2 * (x**2 + y**2) / (2 * (1 - rho**2)) + cosh


def _channel_mi(rho: float) -> float:
    grid = np.linspace(-9, 9, 601)  # the trapezoidal rule is exact to rounding for what is smooth and falls like this
    weight = np.exp(-(grid**2) / 2)
    x, e = grid[:, None], grid[None, :]
    each = _channel_log_ratio(x, rho * x + math.sqrt(1 - rho**2) * e, rho)  # by symmetry, the other channel's too
    return float((each * weight[:, None] * weight).sum() / weight.sum() ** 2)


def mixture(name: str, weights: Sequence[float], means: Array, covariances: Array, dx: int) -> Task:
    """A mixture of normals over (x, y): weights [k], means [k, dx + dy], covariances [k, dx + dy, dx + dy]."""
    w, mu, cov = np.asarray(weights, float), np.asarray(means, float), np.asarray(covariances, float)
    w = w / w.sum()
    factors = np.linalg.cholesky(cov)

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        k = rng.choice(len(w), n, p=w)
        z = mu[k] + np.einsum("nij,nj->ni", factors[k], rng.standard_normal((n, mu.shape[1])))
        return z[:, :dx], z[:, dx:]

    def log_ratio(x: Array, y: Array) -> Array:
        sides = ((np.hstack([x, y]), slice(None)), (x, slice(dx)), (y, slice(dx, None)))
        logs = [_log_mixture(z, w, mu[:, s], cov[:, s, s]) for z, s in sides]
        return logs[0] - logs[1] - logs[2]

    return Task(name, draw, log_ratio)


def _log_mixture(z: Array, weights: Array, means: Array, covariances: Array) -> Array:
    terms = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        square = (((z - mean) @ root.T) ** 2).sum(1)
        terms.append(
            math.log(weight) + np.log(np.diag(root)).sum() - 0.5 * (square + z.shape[1] * math.log(2 * math.pi))
        )
    return np.logaddexp.reduce(terms, axis=0)


def uniform_noise(name: str, width: float) -> Task:
    """x uniform on [0, 1], y = x + noise, uniform on [-width, width]. (Closed form: Czyż et al., 2023)"""

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x = rng.uniform(size=(n, 1))
        return x, x + rng.uniform(-width, width, (n, 1))

    def log_ratio(x: Array, y: Array) -> Array:
        # p(y) is the length of [0, 1] within [y - width, y + width], over 2 width; p(y | x) is 1 / 2 width.
        log_ratio = -np.log(np.minimum(1, y + width) - np.maximum(0, y - width))
        return np.where(np.abs(y - x) <= width, log_ratio, -math.inf)[:, 0]

    return Task(name, draw, log_ratio, width - math.log(2 * width) if width <= 0.5 else 1 / (4 * width))


def normal_noise(name: str, deviation: float, d: int = 1) -> Task:
    """x uniform on [0, 1]^d, y = x + normal noise."""

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x = rng.uniform(size=(n, d))
        return x, x + deviation * rng.standard_normal((n, d))

    def log_ratio(x: Array, y: Array) -> Array:
        conditional = -0.5 * ((y - x) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))
        return (conditional - _log_between(y, deviation)).sum(1)

    return Task(name, draw, log_ratio)


def curve(name: str, f: Callable[[Array], Array], deviation: float, d: int = 1) -> Task:
    """x normal, y = f(x) + normal noise, column by column. The density of y is an integral over x, on a grid."""

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        x, e = rng.standard_normal((2, n, d))
        return x, f(x) + deviation * e

    @functools.cache
    def marginal() -> tuple[Array, Array]:
        grid = np.linspace(-8, 8, 40_001)  # steps of f far below the noise
        middle, weight = f(grid), np.exp(-0.5 * grid**2) * (grid[1] - grid[0]) / math.sqrt(2 * math.pi)
        y = np.linspace(middle.min() - 9 * deviation, middle.max() + 9 * deviation, 20_001)
        counts = np.histogram(middle, np.append(y - (y[1] - y[0]) / 2, y[-1] + (y[1] - y[0]) / 2), weights=weight)[0]
        smooth = signal.fftconvolve(counts, np.exp(-0.5 * ((y - y.mean()) / deviation) ** 2), "same")
        return y, np.log(np.maximum(smooth / (deviation * math.sqrt(2 * math.pi)), 1e-300))

    def log_ratio(x: Array, y: Array) -> Array:
        conditional = -0.5 * ((y - f(x)) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))
        return (conditional - np.interp(y, *marginal())).sum(1)

    return Task(name, draw, log_ratio)


def _log_between(y: Array, deviation: float) -> Array:
    """log P(0 <= y - e <= 1) of normal e: the density of a uniform plus e."""
    near = np.abs(y - 0.5) - 0.5  # distance beyond the nearer end; negative inside
    a, b = special.log_ndtr(-near / deviation), special.log_ndtr(-(near + 1) / deviation)
    return a + np.log1p(-np.exp(b - a))


def labels(name: str, means: Array, deviation: float = 1.0, weights: Sequence[float] | None = None) -> Task:
    """x a label of len(means) values, int64 [n, 1]; y normal about the label's row of means [k, d]."""
    mu = np.asarray(means, float)
    w = np.full(len(mu), 1 / len(mu)) if weights is None else np.asarray(weights, float) / np.sum(weights)
    cov = np.broadcast_to(deviation**2 * np.eye(mu.shape[1]), (len(mu), mu.shape[1], mu.shape[1]))

    def draw(n: int, rng: Generator) -> tuple[NDArray, Array]:
        k = rng.choice(len(w), n, p=w)
        return k[:, None], mu[k] + deviation * rng.standard_normal((n, mu.shape[1]))

    def log_ratio(x: NDArray, y: Array) -> Array:
        square = ((y - mu[x[:, 0]]) ** 2).sum(1) / deviation**2
        own = -0.5 * (square + y.shape[1] * math.log(2 * math.pi)) - y.shape[1] * math.log(deviation)
        return own - _log_mixture(y, w, mu, cov)

    return Task(name, draw, log_ratio)


def staircase_labels(name: str, k: int) -> Task:
    """x a label uniform on 0 .. k - 1, y uniform on [x, x + 2]: log k - (k - 1) / k log 2 nats. (Gao et al., 2017)"""

    def draw(n: int, rng: Generator) -> tuple[NDArray, Array]:
        x = rng.integers(0, k, (n, 1))
        return x, x + rng.uniform(0, 2, (n, 1))

    def log_ratio(x: NDArray, y: Array) -> Array:
        labels_at = np.where((y < 1) | (y >= k), 1.0, 2.0)  # labels whose interval holds y
        return np.where((x <= y) & (y <= x + 2), math.log(k) - np.log(labels_at), -math.inf)[:, 0]

    return Task(name, draw, log_ratio, math.log(k) - (k - 1) / k * math.log(2))


# Dispersions ---------------------------------------------------------------------------------------------------------


def canonical(correlations: Sequence[float], dx: int, dy: int, mixed: int | None = None) -> Array:
    """Unit variances; x_i and y_i correlated as given, the rest independent. mixed: a seed of random invertible linear
    maps of both sides (condition number about 5), which spread the dependence over all columns."""
    c = np.eye(dx + dy)
    for i, rho in enumerate(correlations):
        c[i, dx + i] = c[dx + i, i] = rho
    if mixed is not None:
        rng = np.random.default_rng(mixed)
        maps = np.zeros_like(c)
        for s, d in ((slice(dx), dx), (slice(dx, None), dy)):
            left, right = _rotation(d, rng), _rotation(d, rng)
            maps[s, s] = left * np.geomspace(1, 5, d) @ right
        c = maps @ c @ maps.T
    return c


def dense(dx: int, dy: int, correlation: float) -> Array:
    """Unit variances, and every two columns, of one side or of both, equally correlated."""
    return np.full((dx + dy, dx + dy), correlation) + (1 - correlation) * np.eye(dx + dy)


def equal(d: int, mi: float, rank: int | None = None) -> list[float]:
    """The correlations of `rank` (of d, by default all) normal pairs that share `mi` nats equally."""
    rank = rank or d
    if mi < 0:
        raise UserError(f"Mutual information is never negative, and {mi} nats were asked for.")
    return [math.sqrt(-math.expm1(-2 * mi / rank))] * rank


def _rotation(d: int, rng: Generator) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def _correlation(name: str, mi: float, of: Callable[[float], float]) -> float:
    if mi <= 0:
        raise UserError(f"{name} needs a mutual information above 0 nats, not {mi}.")
    # In t = -log(1 - rho^2), in which the MI is nearly straight.
    found = optimize.brentq(lambda t: of(math.sqrt(-math.expm1(-t))) - mi, 0.0, 12.0)
    return math.sqrt(-math.expm1(-float(found)))  # type: ignore[arg-type]


# Maps of a side, with their inverses ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Map:
    """An invertible map of a side [n, d], and its inverse."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


CUBE = Map(lambda t: t**3, np.cbrt)
HALF_CUBE = Map(lambda t: np.sign(t) * np.abs(t) ** 1.5, lambda t: np.sign(t) * np.abs(t) ** (2 / 3))
ASINH = Map(np.arcsinh, np.sinh)
EXP = Map(np.exp, np.log)
CDF = Map(special.ndtr, special.ndtri)


def _wiggly(t: Array) -> Array:
    return t + 0.3 * np.sin(1.5 * t) + 0.2 * np.sin(2 * t + 1)  # its slope is at least 1 - .45 - .4


def _unwiggly(t: Array) -> Array:
    low, high = t - 0.5, t + 0.5
    for _ in range(50):
        middle = (low + high) / 2
        below = _wiggly(middle) < t
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


WIGGLY = Map(_wiggly, _unwiggly)


def rotation(d: int, seed: int) -> Map:
    """A random rotation or reflection of all columns."""
    q = _rotation(d, np.random.default_rng(seed))
    return Map(lambda t: t @ q.T, lambda t: t @ q)


def spiral(d: int, speed: float) -> Map:
    """Columns 0 and 1, 2 and 3, ... turn in their plane by `speed` radians times the row's squared length, which stays.
    (After Czyż et al., 2023)"""

    def turn(t: Array, by: float) -> Array:
        angle = by * (t**2).sum(1, keepdims=True)
        out, last = t.copy(), d - d % 2
        a, b = t[:, 0:last:2], t[:, 1:last:2]
        out[:, 0:last:2] = np.cos(angle) * a - np.sin(angle) * b
        out[:, 1:last:2] = np.sin(angle) * a + np.cos(angle) * b
        return out

    return Map(lambda t: turn(t, speed), lambda t: turn(t, -speed))


def _roll(t: Array) -> Array:
    angle = 1.5 * math.pi * (1 + 2 * special.ndtr(t))
    return np.hstack([angle * np.cos(angle), angle * np.sin(angle)]) / 21


# A normal column rolled up in the plane.
SWISS_ROLL = Map(_roll, lambda t: special.ndtri((21 * np.hypot(t[:, :1], t[:, 1:]) / (1.5 * math.pi) - 1) / 2))


def mapped(task: Task, name: str, x: Sequence[Map] = (), y: Sequence[Map] = ()) -> Task:
    """The task with its sides mapped, the first map first: the same MI."""

    def forward(t: NDArray, maps: Sequence[Map]) -> NDArray:
        return functools.reduce(lambda s, m: m.forward(s), maps, t)

    def back(t: NDArray, maps: Sequence[Map]) -> NDArray:
        return functools.reduce(lambda s, m: m.inverse(s), reversed(maps), t)

    def draw(n: int, rng: Generator) -> tuple[NDArray, NDArray]:
        a, b = task.draw(n, rng)
        return forward(a, x), forward(b, y)

    return Task(name, draw, lambda a, b: task.log_ratio(back(a, x), back(b, y)), task.formula)


def together(name: str, *tasks: Task) -> Task:
    """Independent tasks side by side, as columns of one: their MI adds up."""
    widths = np.cumsum([[side.shape[1] for side in task.sample(1, 0)] for task in tasks], axis=0)[:-1]

    def draw(n: int, rng: Generator) -> tuple[NDArray, NDArray]:
        sides = zip(*(task.draw(n, rng) for task in tasks), strict=True)
        x, y = (np.hstack(side) for side in sides)
        return x, y

    def log_ratio(x: NDArray, y: NDArray) -> Array:
        parts = zip(tasks, np.split(x, widths[:, 0], 1), np.split(y, widths[:, 1], 1), strict=True)
        return np.sum([task.log_ratio(a, b) for task, a, b in parts], axis=0)

    formulas = [task.formula for task in tasks if task.formula is not None]
    return Task(name, draw, log_ratio, sum(formulas) if len(formulas) == len(tasks) else None)


# By their MI, for staircases -----------------------------------------------------------------------------------------


def gaussian(d: int, mi: float) -> Task:
    """d equally correlated pairs of normals. (The staircase of Song & Ermon, 2020)"""
    return elliptical(f"gaussian {d}, {mi:g} nats", canonical(equal(d, mi), d, d), d)


def cubic(d: int, mi: float) -> Task:
    """`gaussian`, each column of y cubed. (Song & Ermon, 2020)"""
    return mapped(gaussian(d, mi), f"cubic {d}, {mi:g} nats", y=[CUBE])


def rotated_cubic(d: int, mi: float, seed: int = 0) -> Task:
    """`cubic`, then y rotated: no map of single columns makes it Gaussian."""
    return mapped(gaussian(d, mi), f"rotated cubic {d}, {mi:g} nats", y=[CUBE, rotation(d, seed)])


def spirals(d: int, mi: float, speed: float | None = None) -> Task:
    """`gaussian`, with x turned by an angle that grows with its squared length, by default a radian on average."""
    speed = 1.0 / d if speed is None else speed
    return mapped(gaussian(d, mi), f"spiral {d}, {mi:g} nats", x=[spiral(d, speed)])


def student(d: int, mi: float, dof: float = 5.0) -> Task:
    """d equally correlated pairs with Student's tails, which alone give `tails(dof, d, d)` nats."""
    normal = mi - tails(dof, d, d)
    if normal < 0:
        raise UserError(f"Student's tails alone give {tails(dof, d, d):.2f} nats, more than the {mi} asked for.")
    return elliptical(f"student {d}, {dof:g} degrees, {mi:g} nats", canonical(equal(d, normal), d, d), d, dof)


def mixed_channels(d: int, mi: float) -> Task:
    """`channels` by its dimensions and MI alone."""
    return channels(f"mixture of channels {d}, {mi:g} nats", d, mi)


# The set of `infomax benchmark accuracy` ------------------------------------------------------------------------------


def _xor(mean: float, correlation: float) -> Task:
    """Two modes a side, whose signs agree in three of four draws, and a correlation within each."""
    signs = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
    within = np.array([[1, correlation], [correlation, 1]])
    means = mean * np.array(signs, float)
    return mixture("two modes a side", (3, 3, 1, 1), means, np.stack([within] * 4), 1)


def _clusters(name: str, k: int, d: int, spread: float, within: float, seed: int) -> Task:
    """k clusters of (x, y) in d + d columns, each with a correlation of its own between the sides."""
    rng = np.random.default_rng(seed)
    covariances = [canonical([within * s] * d, d, d) for s in rng.choice([-1, 1], k)]
    return mixture(
        name, rng.uniform(1, 2, k).tolist(), spread * rng.standard_normal((k, 2 * d)), np.stack(covariances), d
    )


def _means(k: int, d: int, spread: float, seed: int) -> Array:
    return spread * np.random.default_rng(seed).standard_normal((k, d))


@functools.cache
def the_set() -> tuple[Task, ...]:
    """What the default is measured on, of every kind, from 1 to 100 dimensions."""
    return (
        elliptical("normal 1", canonical([0.75], 1, 1), 1),
        elliptical("normal 2, dense", dense(2, 2, 0.5), 2),
        elliptical("normal 3, two pairs", canonical([0.8, 0.8], 3, 3), 3),
        gaussian(5, 2.0),
        gaussian(20, 4.0),
        gaussian(20, 10.0),
        elliptical("normal 25, dense", dense(25, 25, 0.5), 25),
        elliptical("normal 50, dense", dense(50, 50, 0.5), 50),
        elliptical("normal 10 and 3, mixed", canonical([0.9, 0.6], 10, 3, mixed=1), 10),
        elliptical("normal 32, four of rank, mixed", canonical(equal(32, 3.0, 4), 32, 32, mixed=2), 32),
        elliptical("normal 100, two pairs", canonical([0.8, 0.8], 100, 100), 100),
        elliptical("Cauchy 1, uncorrelated", np.eye(2), 1, 1),
        elliptical("student 2, 2 degrees, uncorrelated", np.eye(4), 2, 2),
        elliptical("student 3, 3 degrees, two pairs", canonical([0.8, 0.8], 3, 3), 3, 3),
        elliptical("student 5, 2 degrees, two pairs", canonical([0.8, 0.8], 5, 5), 5, 2),
        student(10, 2.0, 5),
        uniform_noise("uniform noise .1", 0.1),
        uniform_noise("uniform noise .75", 0.75),
        mapped(normal_noise("", 0.2, 3), "normal noise on uniforms, rotated", x=[rotation(3, 1)], y=[rotation(3, 2)]),
        curve("cubes with noise 3", lambda t: t**3, 1.0, 3),
        cubic(5, 2.0),
        mapped(elliptical("", np.eye(4), 2, 1), "Cauchy 2, asinh", x=[ASINH], y=[ASINH]),
        mapped(elliptical("", dense(3, 3, 0.6), 3), "log-normal 3", x=[EXP], y=[EXP]),
        mapped(gaussian(5, 1.0), "normal 5 to uniforms", x=[CDF], y=[CDF]),
        rotated_cubic(5, 2.0),
        spirals(3, 1.0),
        mapped(
            elliptical("", canonical([0.8, 0.8], 25, 25), 25), "spiral 25, two pairs",
            x=[spiral(25, 1 / 25)], y=[spiral(25, -1 / 25)],
        ),
        mapped(elliptical("", canonical([0.8], 1, 1), 1), "swiss roll", x=[SWISS_ROLL]),
        together("one pair of channels of 30", channels("", 1, 0.4), elliptical("", np.eye(58), 29)),
        mixed_channels(1, 0.5),
        mixed_channels(5, 2.0),
        _xor(1.5, 0.5),
        _clusters("five clusters of correlations, 2", 5, 2, 2.0, 0.7, 3),
        labels("3 labels in 2", _means(3, 2, 1.5, 4)),
        labels("10 labels in 10", _means(10, 10, 1.0, 5)),
        labels("2 labels in 20", _means(2, 20, 0.3, 6), weights=(3, 1)),
        staircase_labels("5 labels, overlapping intervals", 5),
        gaussian(10, 0.0),
        together("independent Cauchys", elliptical("", np.eye(2), 1), _alone(1.0), _alone(1.0)),
    )  # fmt: skip


def _alone(dof: float) -> Task:
    """Student's columns, independent of each other."""

    def draw(n: int, rng: Generator) -> tuple[Array, Array]:
        return rng.standard_t(dof, (n, 1)), rng.standard_t(dof, (n, 1))

    return Task("", draw, lambda x, y: np.zeros(len(x)), 0.0)


@functools.cache
def held_out() -> tuple[Task, ...]:
    """Of the same kinds, in other dimensions, strengths and maps: nothing is tuned on these."""
    return (
        elliptical("normal 1, weak", canonical([0.4], 1, 1), 1),
        elliptical("normal 4, dense", dense(4, 4, 0.3), 4),
        elliptical("normal 15, three pairs", canonical([0.9, 0.7, 0.5], 15, 15), 15),
        elliptical("normal 64, three of rank, mixed", canonical(equal(64, 4.0, 3), 64, 64, mixed=11), 64),
        gaussian(10, 6.0),
        elliptical("Cauchy 2, uncorrelated", np.eye(4), 2, 1),
        elliptical("student 4, 3 degrees, one pair", canonical([0.8], 4, 4), 4, 3),
        elliptical("student 2, 2 degrees, dense", dense(2, 2, 0.5), 2, 2),
        uniform_noise("uniform noise .3", 0.3),
        normal_noise("normal noise on a uniform", 0.1),
        curve("saturated, with noise 2", lambda t: np.tanh(2 * t), 0.3, 2),
        curve("waves with noise 4", lambda t: np.sin(2 * t), 0.3, 4),
        mapped(elliptical("", canonical([0.8, 0.8], 25, 25), 25), "half-cubes 25", x=[HALF_CUBE], y=[HALF_CUBE]),
        mapped(elliptical("", canonical([0.75], 1, 1), 1), "wiggly 1", x=[WIGGLY], y=[WIGGLY]),
        mapped(elliptical("", dense(3, 3, 0.5), 3, 2), "student 3, asinh", x=[ASINH], y=[ASINH]),
        rotated_cubic(8, 3.0, 12),
        spirals(5, 2.0),
        mapped(elliptical("", canonical([0.6], 1, 1), 1), "swiss roll, log-normal", x=[SWISS_ROLL], y=[EXP]),
        together("two pairs of channels of 60", channels("", 2, 0.8), elliptical("", np.eye(116), 58)),
        mixed_channels(3, 1.5),
        _clusters("three clusters of correlations, 3", 3, 3, 1.5, 0.6, 13),
        labels("5 labels in 4", _means(5, 4, 1.2, 14)),
        labels("4 labels in 30", _means(4, 30, 0.4, 15)),
        staircase_labels("3 labels, overlapping intervals", 3),
        gaussian(40, 0.0),
        together("independent heavy tails", *[_alone(2.0)] * 5),
    )  # fmt: skip
