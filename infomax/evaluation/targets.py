"""Probes of targets: numbers by regression (R^2), several words an image by ranking (mAP), from frozen features.

Both are ridge regressions on standardised features, of the number or of 0 and 1 for each word. The penalty is chosen on
a fifth of the training images; test images are used once, for the score and its interval.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray
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
    chance: the score that knows nothing, 0 of R2, of mAP the mean share of images that a word has. protocol: the
    penalty, what it was chosen on, and of mAP each word's average precision.
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
    probes = []
    with threadpool_limits(1, user_api="blas"):  # as probing.probe_features does, and for its reasons
        few = min(len(X), len(T)) < LEAST
        parts = None if few else (_Ridge(X, X, fit, held), _Ridge(X, T))
        for target, other in zip(train, test, strict=True):
            y, t = target.values.numpy(), other.values.numpy()
            probe = _words if target.words else _number
            reason = f"{len(X)} training and {len(T)} test images, {LEAST} are needed" if few else _unusable(y, t)
            if reason is not None or parts is None:
                kind = "mAP" if target.words else "R2"
                probes.append(TargetProbe(target.name, kind, None, None, 0.0, {"reason": reason}))
            else:
                probes.append(probe(target, y, t, fit, held, parts, how, seed))
    return tuple(probes)


def _unusable(y: NDArray[Any], t: NDArray[Any]) -> str | None:
    """Why a target cannot be probed: it is the same for every image, or no word is on two images and off two."""
    if y.ndim == 1:
        same = "training" if np.ptp(y) == 0 else "test" if np.ptp(t) == 0 else None
        return None if same is None else f"it is the same for every {same} image"
    return None if _usable(y, t).any() else "no word is on some images and not on others, of both parts"


def _usable(y: Bools, t: Bools) -> Bools:
    counts = y.sum(0)
    return (counts >= 2) & (counts <= len(y) - 2) & t.any(0) & ~t.all(0)


def _number(
    target: "Target", y: Doubles, t: Doubles, fit: Any, held: Any, parts: "tuple[_Ridge, _Ridge]", how: Any, seed: int
) -> TargetProbe:
    scale = float(y.std())
    y, t = (y - y.mean()) / scale, (t - y.mean()) / scale
    ones = np.ones((1, len(held)))
    trials = parts[0].predict(y[fit, None], GRID)
    scores = [float(_r2(y[held], answers[:, 0], ones)[0]) for answers in trials]
    penalty = GRID[int(np.nanargmax(scores)) if np.isfinite(scores).any() else -1]
    answers = parts[1].predict(y[:, None], [penalty])[0][:, 0]
    drawn = _r2(t, answers, _draws(len(t), seed))
    return TargetProbe(
        target.name, "R2", float(_r2(t, answers, np.ones((1, len(t))))[0]), _percentiles(drawn), 0.0,
        how | {"penalty": penalty, "held_out_score": scores[GRID.index(penalty)]},
    )  # fmt: skip


def _words(
    target: "Target", y: Bools, t: Bools, fit: Any, held: Any, parts: "tuple[_Ridge, _Ridge]", how: Any, seed: int
) -> TargetProbe:
    usable = np.flatnonzero(_usable(y, t))
    y, t = y[:, usable], t[:, usable]
    numbers, ones = y.astype(np.float64), np.ones((1, len(held)))
    scores = [_mean(_precisions(y[held], answers, ones))[0] for answers in parts[0].predict(numbers[fit], GRID)]
    penalty = GRID[int(np.nanargmax(scores)) if np.isfinite(scores).any() else -1]
    [answers] = parts[1].predict(numbers, [penalty])
    each = _precisions(t, answers, np.ones((1, len(t))))
    drawn = _mean(_precisions(t, answers, _draws(len(t), seed)))
    words = [target.words[i] for i in usable]
    return TargetProbe(
        target.name, "mAP", float(_mean(each)[0]), _percentiles(drawn), float(t.mean()),
        how | {
            "penalty": penalty, "held_out_score": float(scores[GRID.index(penalty)]),
            "words": {word: float(value) for word, value in zip(words, each[0], strict=True)},
            "left_out": [word for i, word in enumerate(target.words) if i not in set(usable.tolist())],
        },
    )  # fmt: skip


class _Ridge:
    """Ridge regressions on rows of X [n, d], standardised, and their predictions at rows of T [m, d]: all of them, or
    those at `of` and `at`. Penalties are of the mean squared error, so that n has no part in them.

    Held are the products of columns [d, d]; or, of fewer rows than columns, 4,096 at most, the rows and their [n, n].
    """

    def __init__(self, X: Features, T: Features, of: Ints | None = None, at: Ints | None = None):
        self.X, self.T, self.of, self.at = X, T, of, at
        self.n = len(X) if of is None else len(of)
        self.scale = standardiser(X, of)
        self.few = self.scale(X.rows(np.arange(self.n) if of is None else of)) if X.shape[1] > self.n else None
        if self.few is None:
            self.gram = np.zeros((X.shape[1], X.shape[1]))
            for block in X.blocks(of):
                part = self.scale(block).astype(np.float64)
                self.gram += part.T @ part / self.n
        else:
            self.gram = np.zeros((self.n, self.n))
            for start in range(0, X.shape[1], X.block):
                part = self.few[:, start : start + X.block].astype(np.float64)
                self.gram += part @ part.T / self.n

    def predict(self, Y: Doubles, penalties: Sequence[float]) -> list[Doubles]:
        """Y [n, t] -> [m, t] for each penalty."""
        from scipy.linalg import cho_factor, cho_solve

        mean = Y.mean(0)
        right = (Y - mean) / self.n if self.few is not None else self._with_columns(Y - mean) / self.n
        weights: list[Doubles] = []
        for penalty in penalties:
            factor = cho_factor(self.gram + penalty * np.eye(len(self.gram)), check_finite=False)
            found = cho_solve(factor, right, check_finite=False)
            weights.append(found if self.few is None else self.few.T @ found)
        parts = [[rows @ w + mean for w in weights] for rows in map(self.scale, self.T.blocks(self.at))]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _with_columns(self, Y: Doubles) -> Doubles:
        """X^T Y of the standardised rows: [d, t]."""
        found, done = np.zeros((self.X.shape[1], Y.shape[1])), 0
        for block in self.X.blocks(self.of):
            found += self.scale(block).T @ Y[done : done + len(block)]
            done += len(block)
        return found


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


def _mean(precisions: Doubles) -> Doubles:
    """Over the words that have one: [b, k] -> [b]."""
    there = np.isfinite(precisions)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, precisions, 0).sum(1) / np.maximum(count, 1), np.nan)


def _percentiles(drawn: Doubles) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)
