"""Probes of targets: numbers by regression (R^2), several words an image by ranking (mAP), from frozen features.

Both are ridge regressions on standardised features, of the number or of 0 and 1 for each word. The penalty is chosen on
a fifth of the training images; test images are used once, for the score and its interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from infomax.errors import UserError
from infomax.evaluation.common import versions
from infomax.evaluation.features import Features, Floats, Ints, of_array
from infomax.evaluation.logistic import standardiser

if TYPE_CHECKING:
    from infomax.data.targets import Target

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the penalty, where a feature's variance is 1
HELD_OUT = 0.2  # of the training images, on which the penalty is chosen
LEAST = 10  # training images, and test images
COLUMNS = 4096  # of features, or else rows: beyond both, features are projected at random to so many
DRAWS = 500  # of the test images with replacement, for intervals

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class TargetProbe:
    """How well a target is predicted from frozen features of test images.

    name: the target's. kind: "R2", of a number: 1 is exact, 0 no better than the test images' mean; or "mAP", of
    several words: mean average precision over the words. score: its value; None where it could not be measured, and
    protocol["reason"] says why. interval: its 95 % interval, percentiles of 500 bootstrap draws of the test images.
    chance: the score that knows nothing, 0 of R2, of mAP what ranking the images at random has on average, which of a
    word on few images is far above its share of them. protocol: the penalty, what it was chosen on, and of mAP each
    word's average precision.
    """

    name: str
    kind: str
    score: float | None
    interval: tuple[float, float] | None
    chance: float
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return asdict(self)


@final
@dataclass(frozen=True)
class TargetProbes:
    """The probes of every target: of the trained encoder, raw pixels, and an untrained encoder of its kind, if it has a
    name; in the order of the data set's targets."""

    trained: tuple[TargetProbe, ...]
    pixels: tuple[TargetProbe, ...]
    untrained: tuple[TargetProbe, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """By target: the trained encoder's numbers, and under their names the baselines'."""
        found: dict[str, Any] = {}
        for i, trained in enumerate(self.trained):
            untrained = None if self.untrained is None else self.untrained[i].to_dict()
            found[trained.name] = {**trained.to_dict(), "pixels": self.pixels[i].to_dict(), "untrained": untrained}
        return found


def probe_targets(
    train_x: Tensor | Features,
    train: "Sequence[Target]",
    test_x: Tensor | Features,
    test: "Sequence[Target]",
    *,
    seed: int = 0,
) -> tuple[TargetProbe, ...]:
    """Probe features for targets: train_x [n, d] with targets train, test_x [m, d] with the same targets, test.

    Features are read block by block, so that those on disk need not fit in memory.
    seed: of the held-out part, of bootstrap draws, and of a random projection where n and d are both above 4,096. Same
    inputs and seed, same numbers. Raises UserError: features that are not finite, targets that differ.
    """
    from threadpoolctl import threadpool_limits

    if [(t.name, t.words) for t in train] != [(t.name, t.words) for t in test]:
        raise UserError("The training and the test part have other targets: give both the same, of the same words.")
    X, T = of_array(train_x, "The training features"), of_array(test_x, "The test features")
    columns = X.shape[1]
    X, T, projected = _narrowed(X, T, seed)
    order = np.random.default_rng([seed, 0]).permutation(len(X))
    held, fit = np.sort(order[: round(HELD_OUT * len(X))]), np.sort(order[round(HELD_OUT * len(X)) :])
    how = {
        "train_images": len(X), "test_images": len(T), "features": columns, "projected": projected,
        "grid": list(GRID), "held_out": {"images": len(held), "of": "train"}, "seed": seed, "draws": DRAWS,
        "standardised_with": "train", "test_used": "once, after every choice", "versions": versions(),
    }  # fmt: skip
    few = f"{len(X)} training and {len(T)} test images, {LEAST} are needed" if min(len(X), len(T)) < LEAST else None
    probes: list[TargetProbe | None] = []
    asked: dict[int, _Asked] = {}
    for i, (target, other) in enumerate(zip(train, test, strict=True)):
        y, t = target.values.numpy(), other.values.numpy()
        reason, kind = few or _unusable(y, t), "mAP" if target.words else "R2"
        probes.append(None if reason is None else TargetProbe(target.name, kind, None, None, 0.0, {"reason": reason}))
        if reason is None:
            asked[i] = _Asked.of(target, y, t)
    if asked:
        Y = np.concatenate([one.y for one in asked.values()], 1)
        ends = np.cumsum([one.y.shape[1] for one in asked.values()]).tolist()
        own = {i: slice(end - one.y.shape[1], end) for (i, one), end in zip(asked.items(), ends, strict=True)}
        with threadpool_limits(1, user_api="blas"):  # as probing.probe_features does, and for its reasons
            trials = _Ridge(X, Y[fit], fit).predict(X, GRID, held)
            chosen = {i: one.penalty(held, [part[:, own[i]] for part in trials]) for i, one in asked.items()}
            del trials
            grid = sorted({penalty for penalty, _ in chosen.values()})
            answers = dict(zip(grid, _Ridge(X, Y).predict(T, grid), strict=True))
        for i, one in asked.items():
            penalty, score = chosen[i]
            protocol = how | {"penalty": penalty, "held_out_score": score}
            probes[i] = one.probe(answers[penalty][:, own[i]], protocol, seed)
    return tuple(probe for probe in probes if probe is not None)


def _unusable(y: NDArray[Any], t: NDArray[Any]) -> str | None:
    """Why a target cannot be probed: it is the same for every image, or no word is on two images and off two."""
    if y.ndim == 1:
        same = "training" if np.ptp(y) == 0 else "test" if np.ptp(t) == 0 else None
        return None if same is None else f"it is the same for every {same} image"
    return None if _usable(y, t).any() else "no word is on some images and not on others, of both parts"


def _usable(y: Bools, t: Bools) -> Bools:
    counts = y.sum(0)
    return (counts >= 2) & (counts <= len(y) - 2) & t.any(0) & ~t.all(0)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A target that is probed: its columns of training and test images, y [n, k] and t [m, k], a number in units of its
    deviation, or 0 and 1 of each word of `words`; "left_out" has the words that some part lacks."""

    target: "Target"
    y: Doubles
    t: Doubles
    words: tuple[str, ...]

    @classmethod
    def of(cls, target: "Target", y: NDArray[Any], t: NDArray[Any]) -> "_Asked":
        if not target.words:
            scale = float(y.std())
            return cls(target, ((y - y.mean()) / scale)[:, None], ((t - y.mean()) / scale)[:, None], ())
        usable = np.flatnonzero(_usable(y, t))
        words = tuple(target.words[i] for i in usable)
        return cls(target, y[:, usable].astype(np.float64), t[:, usable].astype(np.float64), words)

    def scores(self, t: Doubles, answers: Doubles, weights: Doubles) -> Doubles:
        """R^2 or mAP of answers [m, k] to t [m, k], weights [b, m]: [b]."""
        if self.words:
            return _mean(_precisions(t > 0, answers, weights))
        return _r2(t[:, 0], answers[:, 0], weights)

    def penalty(self, held: Ints, trials: Sequence[Doubles]) -> tuple[float, float]:
        """The penalty of the best score on held-out images, and that score; trials: [held, k], of each penalty."""
        ones = np.ones((1, len(held)))
        scores = [float(self.scores(self.y[held], answers, ones)[0]) for answers in trials]
        best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else len(GRID) - 1
        return GRID[best], scores[best]

    def probe(self, answers: Doubles, protocol: dict[str, Any], seed: int) -> TargetProbe:
        """From answers [m, k] to test images."""
        ones, target = np.ones((1, len(self.t))), self.target
        score = float(self.scores(self.t, answers, ones)[0])
        interval = _percentiles(self.scores(self.t, answers, _draws(len(self.t), seed)))
        if not self.words:
            return TargetProbe(target.name, "R2", score, interval, 0.0, protocol)
        each = _precisions(self.t > 0, answers, ones)[0].tolist()
        protocol |= {"words": dict(zip(self.words, each, strict=True))}
        protocol |= {"left_out": [word for word in target.words if word not in self.words]}
        return TargetProbe(target.name, "mAP", score, interval, random_precision(self.t.sum(0), len(self.t)), protocol)


class _Ridge:
    """Ridge regressions of Y [n, t] on rows of X, standardised: all of them, or those at `of`. Penalties are of the
    mean squared error, so that n has no part in them.

    Held are the products of columns [d, d] and, while one penalty's weights are computed, a copy; or, of fewer rows
    than columns, 4,096 at most, the rows and their [n, n] and its copy. Rows are read twice.
    """

    def __init__(self, X: Features, Y: Doubles, of: Ints | None = None):
        from scipy.linalg import get_blas_funcs

        add: Any = get_blas_funcs("syrk", dtype=np.float64)  # to one triangle, in place; Cholesky reads no other
        n, d = len(Y), X.shape[1]
        self.scale, self.mean = standardiser(X, of), Y.mean(0)
        self.rows = np.empty((n, d), np.float32) if d > n else None
        self.gram = np.zeros((min(n, d), min(n, d)), order="F")
        self.right = np.zeros((d, Y.shape[1])) if self.rows is None else (Y - self.mean) / n
        self.step, done = X.block, 0
        for block in map(self.scale, X.blocks(of)):
            if self.rows is None:
                part = block.astype(np.float64)
                self.gram = add(1 / n, part.T, 1.0, self.gram, overwrite_c=True)
                self.right += part.T @ ((Y[done : done + len(block)] - self.mean) / n)
            else:
                self.rows[done : done + len(block)] = block
            done += len(block)
        for columns in self._columns():
            self.gram = add(1 / n, columns, 1.0, self.gram, overwrite_c=True)

    def predict(self, T: Features, penalties: Sequence[float], at: Ints | None = None) -> list[Doubles]:
        """Predictions [m, t] at rows of T, all or those at `at`, for each penalty."""
        weights = [self._weights(penalty) for penalty in penalties]
        parts = [[rows @ w + self.mean for w in weights] for rows in map(self.scale, T.blocks(at))]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _weights(self, penalty: float) -> Doubles:
        from scipy.linalg import cho_factor, cho_solve

        square = self.gram.copy(order="F")
        np.einsum("ii->i", square)[:] += penalty
        solved = cho_solve(cho_factor(square, overwrite_a=True, check_finite=False), self.right, check_finite=False)
        return solved if self.rows is None else np.concatenate([part.T @ solved for part in self._columns()])

    def _columns(self) -> Iterator[Doubles]:
        """Blocks of the columns of few rows, [n, c]."""
        if self.rows is not None:
            for start in range(0, self.rows.shape[1], self.step):
                yield self.rows[:, start : start + self.step].astype(np.float64)


def _narrowed(X: Features, T: Features, seed: int) -> tuple[Features, Features, bool]:
    """Features as they are, or a random projection of them where neither they nor the images are few."""
    if min(X.shape) <= COLUMNS:
        return X, T, False
    scale = standardiser(X)
    axes = np.random.default_rng([seed, 2]).standard_normal((X.shape[1], COLUMNS), dtype=np.float32)
    axes /= np.float32(COLUMNS**0.5)

    def narrow(rows: Floats) -> Floats:
        return scale(rows) @ axes

    return X.mapped(narrow), T.mapped(narrow), True


def _draws(n: int, seed: int) -> Doubles:
    """How often each of n test images is in each bootstrap draw, [DRAWS, n]."""
    return np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)


def _r2(t: Doubles, answers: Doubles, weights: Doubles) -> Doubles:
    """t, answers [m], weights [b, m] -> R^2 [b]; NaN where t is the same in all that is drawn."""
    total = weights.sum(1)
    t, error = t - t.mean(), np.square(t - answers)
    spread = weights @ np.square(t) - np.square(weights @ t) / total
    return np.where(spread > 1e-12 * total, 1 - weights @ error / np.maximum(spread, 1e-300), np.nan)


def _precisions(t: Bools, scores: Doubles, weights: Doubles) -> Doubles:
    """Average precision of each word: t, scores [m, k], weights [b, m] -> [b, k]; NaN where no drawn image has it.

    The sum over the scores that occur, from the highest, of precision times the rise of recall, as scikit-learn has it.
    """
    found = np.empty((len(weights), t.shape[1]))
    for k in range(t.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked, w = scores[order, k], weights[:, order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are one threshold
        hits, seen = np.cumsum(w * t[order, k], 1)[:, ends], np.cumsum(w, 1)[:, ends]
        rises = np.diff(hits, axis=1, prepend=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, k] = np.nansum(rises * hits / seen, 1) / hits[:, -1]
    return found


def random_precision(counts: ArrayLike, images: int) -> float:
    """The mean average precision of images ranked at random: its exact expectation over all orders of m images.

    counts [k]: images that each word has, 1 to m. images: m. The image at rank i has the word with probability r / m,
    and each of the i - 1 above it then with (r - 1) / (m - 1), so that of r such images the average precision is on
    average (1/m) sum over i of (1 + (i - 1)(r - 1) / (m - 1)) / i = (H + (m - H)(r - 1) / (m - 1)) / m, where H is
    1 + 1/2 + ... + 1/m. With r / m the same, it falls to r / m as m grows.
    """
    harmonic = float((1 / np.arange(1, images + 1)).sum())
    others = (np.asarray(counts, np.float64) - 1) / max(images - 1, 1)
    return float((harmonic + (images - harmonic) * others).mean()) / images


def _mean(precisions: Doubles) -> Doubles:
    """Over the words that have one: [b, k] -> [b]."""
    there = np.isfinite(precisions)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, precisions, 0).sum(1) / np.maximum(count, 1), np.nan)


def _percentiles(drawn: Doubles) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)
