"""Probes of targets: numbers by regression (R^2), several words an image by ranking (mAP), from frozen features.

Both are ridge regressions on standardised features, of the number or of 0 and 1 for each word. The penalty is chosen on
a fifth of the training images; test images are used once, for the score and its interval.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from infomax.errors import UserError
from infomax.evaluation.common import versions
from infomax.evaluation.features import Features, Floats, Ints, of_array
from infomax.evaluation.jackknife import WIDEST, Doubles, jackknife, log_odds, of_log_odds
from infomax.evaluation.logistic import standardiser
from infomax.threads import one_blas_thread

if TYPE_CHECKING:
    from infomax.data.targets import Target

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the penalty, where a feature's variance is 1
HELD_OUT = 0.2  # of the training images, on which the penalty is chosen
LEAST = 10  # training images, and test images
COLUMNS = 4096  # of features, or else rows: beyond both, features are projected at random to so many
WORD = 20  # test images that have a word, or lack it: their harmonic mean over words, below which no interval covers
RARE, OF_RARE = 0.01, 200  # and how many are needed where they are a smaller share than this
VARIED = 10  # test images without a number's commonest value, where half or more have it: with fewer no interval covers

Bools = NDArray[np.bool_]
Interval = tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class TargetProbe:
    """How well a target is predicted from frozen features of test images.

    name: the target's. kind: "R2", of a number: 1 is exact, 0 no better than the test images' mean; or "mAP", of
    several words: mean average precision over the words. score: its value; None where it could not be measured, and
    protocol["reason"] says why. interval: the 95 % interval of the mean score of other test parts of as many images, by
    the jackknife over images on the scale of log(1 - R2) or log(mAP / (1 - mAP)); None where none is known to cover, or
    it says nothing, as protocol["interval"] says: words on fewer than 20 test images, or on less than 1 % of them and
    fewer than 200, of which 75 to 95 % would cover; a number of which half the images or more have one value, and fewer
    than 10 another; a score that a single image decides; an interval that spans a factor of 55 up and down. Of R2 93 %
    and more cover from 10 images on where errors are normal, of Student's t with 3 degrees of freedom, or log-normal;
    less where the images need not show what matters: errors that grow with the number 84 % of 10 images and 92 % of 50;
    a far log-normal number (deviation of its logarithm 1.4) 75 % of 10, 88 % of 20 and 93 % of 50; a prediction in 100
    that is off by 10 deviations 2 to 13 % of 10 to 50 images, 41 % of 100, 81 % of 200 and 98 % of 500.
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
    seed: of the held-out part, and of a random projection where n and d are both above 4,096. Same inputs and seed,
    same numbers. Raises UserError: features that are not finite, targets that differ.
    """
    if [(t.name, t.words) for t in train] != [(t.name, t.words) for t in test]:
        raise UserError("The training and the test part have other targets: give both the same, of the same words.")
    X, T = of_array(train_x, "The training features"), of_array(test_x, "The test features")
    columns = X.shape[1]
    X, T, projected = _narrowed(X, T, seed)
    order = np.random.default_rng([seed, 0]).permutation(len(X))
    held, fit = np.sort(order[: round(HELD_OUT * len(X))]), np.sort(order[round(HELD_OUT * len(X)) :])
    how = {
        "train_images": len(X), "test_images": len(T), "features": columns, "projected": projected,
        "grid": list(GRID), "held_out": {"images": len(held), "of": "train"}, "seed": seed,
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
        with one_blas_thread():
            trials = _Ridge(X, Y[fit], fit).predict(X, GRID, held)
            chosen = {i: one.penalty(held, [part[:, own[i]] for part in trials]) for i, one in asked.items()}
            del trials
            grid = sorted({penalty for penalty, _ in chosen.values()})
            answers = dict(zip(grid, _Ridge(X, Y).predict(T, grid), strict=True))
        for i, one in asked.items():
            penalty, score = chosen[i]
            protocol = how | {"penalty": penalty, "held_out_score": score if math.isfinite(score) else None}
            probes[i] = one.probe(answers[penalty][:, own[i]], protocol)
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

    def score(self, t: Doubles, answers: Doubles) -> float:
        """R^2 or mAP of answers [m, k] to t [m, k]."""
        return _mean(_precisions(t > 0, answers)) if self.words else _r2(t[:, 0], answers[:, 0])

    def penalty(self, held: Ints, trials: Sequence[Doubles]) -> tuple[float, float]:
        """The penalty of the best score on held-out images, and that score; trials: [held, k], of each penalty."""
        scores = [self.score(self.y[held], answers) for answers in trials]
        best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else len(GRID) - 1
        return GRID[best], scores[best]

    def probe(self, answers: Doubles, protocol: dict[str, Any]) -> TargetProbe:
        """From answers [m, k] to test images."""
        score, target = self.score(self.t, answers), self.target
        if not self.words:
            found = jackknife(score, r2_without(self.t[:, 0], answers[:, 0]), _log_left, _of_log_left)
            protocol |= {"interval": "jackknife over test images, of log(1 - R2)"}
            apart = len(self.t) - int(np.unique(self.t, return_counts=True)[1].max())
            few = apart < VARIED and 2 * apart <= len(self.t) and found != "undefined"
            lacks = f"{apart} test images lack the number's commonest value, and {VARIED} are needed" if few else None
            interval, why = _or_why(found, lacks, "a test image alone decides the score, or none changes it", "1 - R2")
            return TargetProbe(target.name, "R2", score, interval, 0.0, protocol | why)
        has, m = self.t > 0, len(self.t)
        counts = has.sum(0)
        fewest = len(counts) / float((1 / np.minimum(counts, m - counts)).sum())
        needed = WORD if fewest >= RARE * m else OF_RARE
        lacks = f"words are on (or off) {fewest:.1f} test images, their harmonic mean, and {needed} are needed"
        lacks = lacks if fewest < needed else None
        found = "undefined" if lacks else jackknife(score, _mean_without(has, answers), log_odds, of_log_odds)
        all_first = "without a test image, or with all, each word's images come first"
        interval, why = _or_why(found, lacks, all_first, "mAP / (1 - mAP)")
        protocol |= {"interval": "jackknife over test images, of log(mAP / (1 - mAP))"} | why
        protocol |= {"words": dict(zip(self.words, _precisions(has, answers).tolist(), strict=True))}
        protocol |= {"left_out": [word for word in target.words if word not in self.words]}
        return TargetProbe(target.name, "mAP", score, interval, random_precision(counts, m), protocol)


def _or_why(
    found: Interval | str, lacks: str | None, undefined: str, of: str
) -> tuple[Interval | None, dict[str, str]]:
    """An interval, or None and the protocol's reason: what the images lack, or that it is undefined or wide."""
    if lacks is None and not isinstance(found, str):
        return found, {}
    wide = f"test images leave {of} uncertain by a factor above {math.exp(WIDEST):.0f}"
    return None, {"interval": f"none: {lacks or (wide if found == 'wide' else undefined)}"}


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


def _r2(t: Doubles, answers: Doubles) -> float:
    """t, answers [m] -> R^2; NaN where t is the same for all."""
    spread = float(np.square(t - t.mean()).sum())
    return 1 - float(np.square(t - answers).sum()) / spread if spread > 1e-12 * len(t) else math.nan


def r2_without(t: Doubles, answers: Doubles) -> Doubles:
    """t, answers [m] -> R^2 without each of the images [m]; NaN where the rest of t is the same for all."""
    m, error = len(t), np.square(t - answers)
    spread = np.square(t - t.mean()).sum() - np.square(t - t.mean()) * m / (m - 1)
    known = spread > 1e-12 * m
    return np.where(known, 1 - (error.sum() - error) / np.where(known, spread, 1), np.nan)


def _thresholds(t: Bools, scores: Doubles) -> tuple[Ints, Ints, Doubles, Doubles, Doubles]:
    """Of t, scores [m]: images from the highest score; the threshold of each in that order; of each threshold, the
    images at it that t has, those at it or above that t has, and all of those. Equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(t[order])[ends].astype(np.float64)
    return (
        order,
        np.searchsorted(ends, np.arange(len(t))),
        np.diff(hits, prepend=0),
        hits,
        (ends + 1).astype(np.float64),
    )


def _precisions(t: Bools, scores: Doubles) -> Doubles:
    """Average precision of each word: t, scores [m, k] -> [k]; NaN where no image has it.

    The sum over the scores that occur, from the highest, of precision times the rise of recall, as scikit-learn has it.
    """
    found = np.full(t.shape[1], np.nan)
    for k in np.flatnonzero(t.any(0)):
        _, _, rises, hits, seen = _thresholds(t[:, k], scores[:, k])
        found[k] = (rises * hits / seen).sum() / hits[-1]
    return found


def precision_without(t: Bools, scores: Doubles) -> Doubles:
    """Average precision of a word without each of the images: t, scores [m] -> [m]; NaN where no other has it.

    Without an image, thresholds above its own stay; at its own and below, one image fewer is seen, and one hit fewer
    where it has the word. So all of them are had from sums over thresholds above and below. m is 2 or more.
    """
    order, own, rises, hits, seen = _thresholds(t, scores)
    has = t[order].astype(np.float64)
    above = np.cumsum(rises * hits / seen) - rises * hits / seen
    fewer = np.maximum(seen - 1, 1)  # at a first threshold of one image nothing is left: its rise is 0 then
    below = [part.sum() - np.cumsum(part) for part in (rises * hits / fewer, rises / fewer)]
    at = (rises[own] - has) * (hits[own] - has) / fewer[own]
    total, left = above[own] + at + below[0][own] - has * below[1][own], hits[-1] - has
    found = np.empty(len(t))
    found[order] = np.where(left > 0, total / np.maximum(left, 1), np.nan)
    return found


def _mean_without(t: Bools, scores: Doubles) -> Doubles:
    """mAP without each of the images: t, scores [m, k] -> [m]; a word that no other image has is left out."""
    total, count = np.zeros(len(t)), np.zeros(len(t))
    for k in range(t.shape[1]):
        found = precision_without(t[:, k], scores[:, k])
        total += np.nan_to_num(found)
        count += np.isfinite(found)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


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


def _mean(precisions: Doubles) -> float:
    """Over the words that have one: [k] -> their mean; NaN where none has."""
    there = precisions[np.isfinite(precisions)]
    return float(there.mean()) if len(there) else math.nan


def _log_left(r2: Doubles) -> Doubles:
    return np.log(np.maximum(1 - r2, 0))


def _of_log_left(value: Doubles) -> Doubles:
    return 1 - np.exp(value)
