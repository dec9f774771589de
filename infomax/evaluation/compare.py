"""Runs side by side: each number's difference from the first run's, with an interval, paired over what both share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from infomax.errors import UserError
from infomax.evaluation.common import t_interval
from infomax.evaluation.identity import Identity
from infomax.evaluation.probing import COLUMNS
from infomax.evaluation.result import Evaluation, Probes

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Another run's number less the first run's, and its 95 % interval, or None where there is none.

    how: "paired over test images", "paired over draws", "paired over held-out images", "from the two intervals" or "no
    interval".
    """

    value: float
    interval: Interval | None
    how: str


@dataclass(frozen=True)
class Number:
    """One number of one run: value and 95 % interval, None where there is none; unit: "%", "nats" or "".

    difference: from the first run, None for the first, and where the two were not measured on the same images. trusted:
    False where a check of the value failed.
    """

    name: str
    value: float | None
    interval: Interval | None
    unit: str
    difference: Difference | None = None
    trusted: bool = True


@dataclass(frozen=True)
class Compared:
    """A run beside the first. label: what it is called. dataset: what it was evaluated on. numbers: the same for all.

    why_apart: why no difference, or none of some numbers, is taken; "" where all are.
    """

    label: str
    dataset: str
    numbers: tuple[Number, ...]
    why_apart: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """What a run was evaluated on: the data set's name, checksums of training and test images, the views spelled."""

    name: str
    train: str
    test: str
    views: str = ""


def paired_accuracy(first: Sequence[bool], other: Sequence[bool]) -> Interval:
    """The 95 % interval of the difference of two accuracies on the same images, other less first.

    first, other [n]: which images each gets right. Wald's interval after half an image is added to each of the four
    ways in which two answers can be right or wrong, which covers as it should where they hardly differ. (Agresti & Min,
    2005) Raises UserError: different numbers of images.
    """
    a, b = np.asarray(first, bool), np.asarray(other, bool)
    if a.shape != b.shape:
        raise UserError(f"{len(a)} and {len(b)} answers are not to the same images.")
    gained, lost, n = float((b & ~a).sum()) + 0.5, float((a & ~b).sum()) + 0.5, len(a) + 2.0
    centre = (gained - lost) / n
    half = 1.959964 * math.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    return max(-1.0, centre - half), min(1.0, centre + half)


def apart(first: float, of_first: Interval, other: float, of_other: Interval) -> Interval:
    """The 95 % interval of other less first, from the intervals of two numbers as if they were independent.

    Each end's distances add up as squares (Newcombe, 1998, method 10). Of numbers on the same images, which rise and
    fall together, it is too wide.
    """
    low = math.hypot(other - of_other[0], of_first[1] - first)
    high = math.hypot(of_other[1] - other, first - of_first[0])
    return other - first - low, other - first + high


def compare(
    found: Sequence[Evaluation], labels: Sequence[str], data: Sequence[Seen], health: Sequence[Mapping[str, float]]
) -> tuple[Compared, ...]:
    """The numbers of evaluations side by side, and their differences from the first.

    found: one evaluation a run, of one seed. labels: of the runs. data: what each was evaluated on; where its images
    are not the first's, no difference is taken, and where its views are not, none of I(Z1; Z2) and I(J; Z), which are
    about them. health: of each, numbers by name as log.jsonl has them for its step, without intervals. Raises
    UserError: fewer than two runs.
    """
    if len(found) < 2:
        raise UserError("Runs are compared with each other: name two or more.")
    columns = [_numbers(one, last) for one, last in zip(found, health, strict=True)]
    result = []
    first = data[0]
    for i, (label, seen, numbers) in enumerate(zip(labels, data, columns, strict=True)):
        why = ""
        if (seen.test, seen.train) != (first.test, first.train):
            part = "test" if seen.test != first.test else "training"
            other = seen.name if seen.name != first.name else f"other {part} images of {seen.name}"
            why = f"{label} was evaluated on {other}, and {labels[0]} on {first.name}: no difference is taken."
        if i and not why:
            answers = [_known(one) for one in (found[0], found[i])]
            numbers = [
                b if seen.views != first.views and b.name in OF_VIEWS else _beside(a, b, *answers)
                for a, b in zip(columns[0], numbers, strict=True)
            ]
            if seen.views != first.views:
                why = f"{label} has other views than {labels[0]}: I(Z1; Z2) and I(J; Z) are about other quantities."
        result.append(Compared(label, seen.name, tuple(numbers), why))
    return tuple(result)


NAMES = {  # of a run's numbers: what they are called
    **COLUMNS,
    "accuracy": "linear probe",
    "floor": "I(Z1; Z2), at least",
    "identity": "I(J; Z)",
    "identity_floor": "I(J; Z), at least",
}
OF_VIEWS = {NAMES["floor"], NAMES["identity"], NAMES["identity_floor"]}  # what other views make another quantity
HEALTH = {
    "health/rankme": "RankMe", "health/alignment": "alignment", "health/uniformity": "uniformity",
    "health/feature_std": "deviation",
}  # fmt: skip


def _numbers(found: Evaluation, health: Mapping[str, float]) -> list[Number]:
    trained = found.probes.trained if isinstance(found.probes, Probes) else None
    numbers = []
    for name in COLUMNS:
        value, interval = (getattr(trained, n, None) for n in (name, f"{name}_interval"))
        numbers.append(Number(NAMES[name], value, interval, "%"))
    who = found.identity if isinstance(found.identity, Identity) else None
    numbers += [
        Number(NAMES["floor"], None if isinstance(found.mi, str) else _finite(found.mi.floor), None, "nats"),
        Number(NAMES["identity_floor"], None if who is None else who.floor, None, "nats"),
        Number(
            NAMES["identity"],
            None if who is None else who.mi,
            None if who is None else who.interval,
            "nats",
            trusted=who is None or who.trusted,
        ),
    ]
    return numbers + [Number(word, health.get(name), None, "") for name, word in HEALTH.items()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _answers(found: Evaluation) -> dict[str, Any]:
    if not isinstance(found.probes, Probes):
        return {}
    trained = found.probes.trained
    right = {NAMES[name]: answers for name, answers in (trained.right or {}).items()}
    return right | {NAMES["shots_10"]: trained.protocol.get("shots_10", {}).get("accuracies")}


def _known(found: Evaluation) -> Mapping[str, Any]:
    """What can be paired, by a number's name: of each test image whether it was right, of each draw the accuracy, of
    each held-out image its share of I(J; Z)."""
    who = found.identity
    return _answers(found) | ({NAMES["identity"]: who.each or None} if isinstance(who, Identity) else {})


def _beside(first: Number, other: Number, of_first: Mapping[str, Any], of_other: Mapping[str, Any]) -> Number:
    if first.value is None or other.value is None:
        return other
    by = other.value - first.value
    a, b = of_first.get(other.name), of_other.get(other.name)
    difference = Difference(by, None, "no interval")
    if a is not None and b is not None and len(a) == len(b):
        if other.name in (NAMES["shots_10"], NAMES["identity"]):
            what = "draws" if other.name == NAMES["shots_10"] else "held-out images"
            gains = [y - x for x, y in zip(a, b, strict=True)]
            difference = Difference(by, t_interval(gains), f"paired over {what}")
        else:
            difference = Difference(by, paired_accuracy(a, b), "paired over test images")
    elif first.interval is not None and other.interval is not None:
        difference = Difference(
            by, apart(first.value, first.interval, other.value, other.interval), "from the two intervals"
        )
    return replace(other, difference=difference)
