"""Accuracy where classes are unbalanced: recall by class, their mean with an interval, and the confusion of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from infomax.evaluation.common import Ints, t_interval, wilson

RATIO = 2  # the commonest class has so many times the test images of the rarest: then accuracy alone misleads
FEW = 10  # test images of a class
CONFUSION = 100  # classes at most, beyond which a table of all pairs of them is not kept


@final
@dataclass(frozen=True, slots=True)
class Recall:
    """One class. recall: the share of its test images that the linear probe gets right, in [0, 1], with its 95 %
    interval (Wilson, 1927); None where it has no test image. precision: the share of the images taken for it that are
    of it; None where none is. name: of the class. train, test: how many images of it there are.
    """

    name: str
    train: int
    test: int
    recall: float | None
    recall_interval: tuple[float, float] | None
    precision: float | None


@final
@dataclass(frozen=True, slots=True)
class Balance:
    """Balanced accuracy, the mean over classes of their recall, in [0, 1], of the three probes: of a classifier that
    knows nothing it is 1 / classes, whatever their shares.

    accuracy: of the linear probe, shots_10: of ten images a class (None where that was not measured), knn: of nearest
    neighbours. Intervals of 95 %: of accuracy and knn `balanced`'s; of
    shots_10 as Probe has it. Classes without test images are left out of the mean. majority: the class with most test
    images. share: its part of the test images, which is the accuracy of always answering it. unbalanced: whether it
    has at least twice the test images of the rarest class. classes: each class, by the linear probe. confusion: test
    images by true class (rows) and answer (columns), in the order of `classes`; None for more than 100 classes.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    shots_10: float | None
    shots_10_interval: tuple[float, float] | None
    knn: float
    knn_interval: tuple[float, float]
    majority: str
    share: float
    unbalanced: bool
    classes: tuple[Recall, ...]
    confusion: tuple[tuple[int, ...], ...] | None


def balance(
    y: Ints, t: Ints, linear: Ints, shots: Sequence[Ints] | None, knn: Ints, names: Sequence[str] | None = None
) -> Balance:
    """The balance of three probes' answers.

    y [n], t [m]: labels 0 .. k - 1 of training and test images. linear, knn [m]: the answers to the test images; shots:
    those of each draw of ten images a class, or None. names: of the k classes, by default their numbers.
    """
    train, test = np.bincount(y), np.bincount(t, minlength=int(y.max()) + 1)
    names = [str(c) for c in range(len(train))] if names is None else names
    table = np.zeros((len(train), len(train)), np.int64)
    np.add.at(table, (t, linear), 1)
    answered = table.sum(0)
    classes = []
    for c, name in enumerate(names):
        right, of = int(table[c, c]), int(test[c])
        recall = right / of if of else None
        classes.append(
            Recall(
                name=name, train=int(train[c]), test=of, recall=recall,
                recall_interval=None if recall is None else wilson(recall, of),
                precision=right / int(answered[c]) if answered[c] else None,
            )
        )  # fmt: skip
    few = None if shots is None else [balanced(t, answers)[0] for answers in shots]
    (accuracy, interval), (neighbours, reach) = balanced(t, linear), balanced(t, knn)
    return Balance(
        accuracy=accuracy,
        accuracy_interval=interval,
        shots_10=None if few is None else float(np.mean(few)),
        shots_10_interval=None if few is None else t_interval(few),
        knn=neighbours,
        knn_interval=reach,
        majority=names[int(test.argmax())],
        share=float(test.max() / test.sum()),
        unbalanced=bool(test.max() >= RATIO * test.min()),
        classes=tuple(classes),
        confusion=tuple(map(tuple, table.tolist())) if len(train) <= CONFUSION else None,
    )


def balanced(t: Ints, answers: Ints) -> tuple[float, tuple[float, float]]:
    """The mean over the classes in t [m] of the share of their images that `answers` [m] gets right, and its 95 %
    interval: Wilson's at as many images as would say as much were they one class.

    Where one or two classes of fewer than 10 images carry most of the variance, the mean takes few values, of which
    Wilson's interval misses some: there it is from the classes' own exact intervals (Clopper & Pearson, 1934),
    whose distances add up as squares (Zou & Donner, 2008). Where many share it, those cover less often. Else the
    images are the fewer of two: k^2 / sum of 1 / (images of a class), as if every class had the mean recall, and
    what the variance of the recalls says, each drawn to the mean by one image.
    """
    from scipy.stats import beta

    _, y = np.unique(t, return_inverse=True)
    counts = np.bincount(y)
    right = np.bincount(y, answers == t)
    mean = float((right / counts).mean())
    rarest = np.sort(counts)[:2]
    if (1 / rarest[rarest < FEW]).sum() > (1 / counts).sum() / 2:
        wrong = counts - right  # where none is right or wrong, the end is 0 or 1
        low = np.where(right > 0, beta.ppf(0.025, np.maximum(right, 1), wrong + 1), 0)
        high = np.where(wrong > 0, beta.ppf(0.975, right + 1, np.maximum(wrong, 1)), 1)
        reach = [float(np.sqrt(np.square(right / counts - end).sum())) / len(counts) for end in (low, high)]
        return mean, (max(0.0, mean - reach[0]), min(1.0, mean + reach[1]))
    images = len(counts) ** 2 / float((1 / counts).sum())
    if 0 < mean < 1:
        drawn = (right + mean) / (counts + 1)
        images = min(images, mean * (1 - mean) * len(counts) ** 2 / float((drawn * (1 - drawn) / counts).sum()))
    return mean, wilson(mean, images)
