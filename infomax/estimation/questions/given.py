"""I(X; Y | Z) = I(X; YZ) - I(X; Z), from one split of the rows, so that what both values err by cancels."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation import pairs as inputs
from infomax.estimation.evidence import checks, surrogates, uncertainty
from infomax.estimation.evidence.evidence import Evidence
from infomax.estimation.evidence.fold import Fold
from infomax.estimation.evidence.independence import Products, share_as_high
from infomax.estimation.evidence.rematching import matched, scores_of
from infomax.estimation.evidence.verdict import verdict
from infomax.estimation.pairs import Pairs
from infomax.estimation.pairs.reading import Side
from infomax.estimation.result import Check, Estimate, half_width

DRAWS = 199  # matchings of the p-value
SWEEPS = 50  # of the chain that draws one
SAMPLES = 200  # of a fold's test pairs, among which it matches
SOME = 64  # rows, by which columns are told apart
MERGED = 1e-3
SAME = 1e-6  # deviations, by which standardised columns that are one may differ
APART = 1e4  # nats: what keeps pairs of different labels of Z from being matched

Read = Callable[[Tensor, Tensor, str], tuple[Evidence, tuple[Check, ...]]]


def conditional(x: Any, y: Any, given: Any, read: Read, unordered: Sequence[str] = ()) -> Estimate:
    """I(X; Y | Z) in nats, with an interval of its own and the checks of both parts.

    x [n, ...], y [n, ...], given [n, ...]: as `estimate` takes them. read: from two sides [n, ...], and which of
    them ("x", "y", "xy") are names without an order, to their evidence and what else there is to check; the same split
    of the rows each time. unordered: which of "x", "y" and "given" are labels that are names without an order.
    Raises UserError: as `estimate` does for each of the three; given holds x or y, or is of another length.
    """
    sides = _sides(x, y, given, unordered)
    of, other, z = _ordered(*sides)
    names = "I(X; YZ)", "I(X; Z)"
    if of is sides[1]:
        names = "I(Y; XZ)", "I(Y; Z)"
    named = "x" if of.unordered else ""
    whole, more = read(of.values, joined(other, z), named)  # joined to a label only beside one, which asks for no order
    part, less = read(of.values, z.values, named + ("y" if z.unordered else ""))
    entropies = [side.entropy for side in sides[:2] if side.entropy is not None]
    # The sides as they came in order: all three are read by functions of their own.
    rows = sides[0].values, sides[1].values, z.values
    found = Difference(whole, part, z.is_label, min(entropies, default=None), rows)
    noticed = [check for side in sides for check in side.checks]
    of_parts = [
        replace(check, name=f"{name}: {check.name}")
        for name, evidence, extra in ((names[0], whole, more), (names[1], part, less))
        for check in (*verdict(evidence), *extra)
    ]
    return found.estimate(names, (*noticed, *of_parts))


def _sides(x: Any, y: Any, given: Any, unordered: Sequence[str]) -> tuple[Side, Side, Side]:
    named = {"x": x, "y": y, "given": given}
    sides = [inputs.side(name, value, name in unordered) for name, value in named.items()]
    first, second, third = sides
    for side in (second, third):
        if len(side.raw) != len(first.raw):
            raise UserError(
                f"{side.name} has {len(side.raw)} rows and x has {len(first.raw)}: row i of x, y and given belong "
                "together, so they must be equal."
            )
    for side in (first, second):
        if not _is_held(side.raw, third.raw):
            continue
        what = f"holds all of {side.name}"
        if side.raw.shape == third.raw.shape:
            is_same = bool((side.raw == third.raw).all())
            what = f"is {side.name} itself" + ("" if is_same else ", but for scale and order of columns")
        raise UserError(
            f"given {what}, and of what is known nothing is left to share: I(X; Y | Z) is 0 by its definition; "
            "condition on another variable."
        )
    return first, second, third


def _is_held(side: Tensor, given: Tensor) -> bool:
    """Whether each column of a side [n, d] that varies is one of those of given [n, k], but for a one-to-one monotone
    change, or for scale alone where it only rises or falls along the rows, as any two such columns have the same ranks.
    Columns that differ among a few rows are not compared in all."""
    tables = [raw.double().numpy() for raw in (side, given)]
    some = np.random.default_rng(0).permutation(len(side))[:SOME]
    few = np.stack([_levels(column) for column in tables[1][some].T], 1)
    for column in tables[0].T:
        if column.min() == column.max():
            continue
        levels = _levels(column[some])[:, None]
        alike = (few == levels).all(0) | (few == levels.max() - levels).all(0)
        same = _is_affine if _is_sorted(column) else _is_rescaled
        if not any(same(column, other) for other in tables[1].T[alike]):
            return False
    return True


def _levels(column: np.ndarray) -> np.ndarray:
    """Of each value of a column [n] which of its different ones it is, in order."""
    return np.unique(column, return_inverse=True)[1]


def _is_sorted(column: np.ndarray) -> bool:
    """Whether a column [n] never falls along the rows, or never rises."""
    steps = np.diff(column)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _is_affine(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two columns [n] are the same but for place, scale and sign, to rounding."""
    first, second = ((column - column.mean()) / max(column.std(), 1e-300) for column in (one, other))
    return bool(min(np.abs(first - second).max(), np.abs(first + second).max()) < SAME)


def _is_rescaled(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether each of two columns [n] is a monotone function of the other, but for MERGED of their values, which
    rounding may have made equal."""
    for sign in (1, -1):
        first, second = _levels(one), _levels(sign * other)
        order = np.lexsort((second, first))
        rises, also = np.diff(first[order]), np.diff(second[order])
        if (also < 0).any():
            continue
        pairs = 1 + int(((rises > 0) | (also > 0)).sum())
        return pairs - 1 - min(first.max(), second.max()) <= MERGED * pairs
    return False


def _ordered(x: Side, y: Side, z: Side) -> tuple[Side, Side, Side]:
    """Which side is told by the other two: a label rather than numbers, as its probabilities need no density."""
    return (y, x, z) if y.is_label and not x.is_label else (x, y, z)


def joined(first: Side, second: Side) -> Tensor:
    """Two variables [n, k] as one: of two labels each pair of values, if they are few enough, else all columns."""
    if first.is_label and second.is_label:
        codes = first.values.argmax(1) * second.values.shape[1] + second.values.argmax(1)
        values, index = codes.unique(return_inverse=True)
        if len(values) <= inputs.most_labels(len(codes)):
            return index
    # Of a label one indicator follows from the others.
    columns = [side.values[:, 1:] if side.is_label else side.values.flatten(1) for side in (first, second)]
    return torch.cat([column.double() for column in columns], 1)


@dataclass(frozen=True)
class Difference:
    """Of two estimates on the same folds: their difference fold by fold, with the error of the difference.

    whole, part: what is subtracted from and what is subtracted. labels: whether Z is a label. entropy: of X or Y, the
    least, where one is a label; it bounds the difference. sides: x, y and z [n, ...], as they are read.
    """

    whole: Evidence
    part: Evidence
    labels: bool
    entropy: float | None
    sides: tuple[Tensor, Tensor, Tensor]

    @cached_property
    def folds(self) -> list[uncertainty.Reading]:
        """Each fold's difference. The jackknife leaves the same rows out of both."""
        found = []
        for first, second in zip(self.whole.folds, self.part.folds, strict=True):
            values = [
                np.array(uncertainty.jackknife_values(fold.fitted, fold.test, fold.seed)) for fold in (first, second)
            ]
            with np.errstate(invalid="ignore"):  # of two infinite values nothing is known
                stderr = inputs.jackknife_error((values[0] - values[1]).tolist())
            mi, freedom = first.mi - second.mi, len(values[0]) - 1
            half = half_width(stderr, freedom)
            on = {name: value - second.value_on[name] for name, value in first.value_on.items()}
            # What a critic missed is added to both ends below; no lower bound of a difference is certified.
            found.append(
                uncertainty.Reading(
                    first.sizes, mi, stderr, (mi - half, mi + half), on, 0.0, (0.0, 0.0), None, None, 0.0, freedom
                )
            )
        return found

    @cached_property
    def reading(self) -> uncertainty.Reading:
        """The folds as one. The upper end is raised by what the whole's critics may have missed beyond the part's, and
        the lower end is lowered by what the part's may have missed beyond the whole's."""
        found = uncertainty.combined(self.folds)
        first, second = self.whole.whole.missed, self.part.whole.missed
        low, high = found.interval
        return replace(
            found,
            interval=(low - max(0.0, second - first), high + max(0.0, first - second)),
            missed=first - second,
        )

    @property
    def rise(self) -> float | None:
        """By how much the difference rose at the last doubling of pairs."""
        rises = self.whole.rise, self.part.rise
        return None if rises[0] is None or rises[1] is None else rises[0] - rises[1]

    @property
    def cap(self) -> float | None:
        """I(X; Y | Z) is at most H(X), H(Y) and I(X; YZ)."""
        return min((cap for cap in (self.whole.cap, self.entropy) if cap is not None), default=None)

    def own_checks(self) -> tuple[Check, ...]:
        """What speaks against the difference itself."""
        r = self.reading
        found = [
            checks.finite(r.mi, r.stderr),
            checks.bracket(*r.interval, 0.0, self.cap),
            checks.negative(r.interval[1]),
            checks.width(*r.interval),
        ]
        if (few := checks.few_pairs(self.whole.request.number, r.mi, *r.interval)) is not None:
            found.append(few)
        if len(self.folds) > 1:
            found.append(checks.folds(r.spread, r.mi))
        if self.rise is not None:
            found.append(checks.learning_curve(self.rise, r.mi))
        return tuple(found)

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Of x and y independent given z. "surrogates": of signs that change in whole blocks. "scores": critics'."""
        return {
            "surrogates": surrogates.p_value(
                *self.sides, surrogates.in_order(self.whole.request.pairs), self.whole.request.seed
            ),
            "scores": self._of_scores(),
        }

    @property
    def p_value(self) -> float:
        """How likely x and y are as dependent as they are, if they are independent given z (`evidence.surrogates`)."""
        return surrogates.beside(**self.p_values)

    @torch.no_grad()
    def _of_scores(self) -> float:
        """How likely pairs score as high as they do: the larger of two p-values.

        The first asks whether the held-out mean of log p(x, y | z) / p(x | z) p(y | z) is above 0, which it is not
        where x and y are independent given z: one-sided, Student's, by the difference's jackknife over ids or blocks.
        The second matches the x of rows anew within each fold's test pairs, by the chance that p(x | z) gives: of a
        label z within its values alone, else by the density ratio that I(X; Z) was read from, and compares that mean
        (conditional permutation test: Berrett et al., 2020). Folds are combined by Bonferroni's bound, and folds whose
        critic says 0 ask simple products. Rows in blocks, or of one id, would have to move together, and hardly any
        could: they have the first alone. Either can fail where the critics are wrong, the second where they miss some
        of what z tells of x; both rarely do at once.
        """
        first = uncertainty.one_sided(self.reading.mi, self.reading.stderr, len(self.folds))
        if any(len(fold.parts[2].ids.unique()) < len(fold.parts[2]) for fold in self.whole.folds):
            return first
        seed = self.whole.request.seed
        second = len(self.folds) * min(self._of_fold(k, seed) for k in range(len(self.folds)))
        return min(1.0, max(first, second))

    def _of_fold(self, k: int, seed: int) -> float:
        first, second = self.whole.folds[k], self.part.folds[k]
        rows = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(first.parts[2]))[:SAMPLES])
        raw = [fold.parts[2][rows] for fold in (first, second)]
        whole, known = (_scores(fold, pairs) for fold, pairs in zip((first, second), raw, strict=True))
        if bool((whole == 0).all()):
            products = Products(first.parts[0])
            ex, ey = products.embed(raw[0].x, raw[0].y)
            whole = (ex @ ey.T).double()
        statistic = whole - known
        if self.labels:
            label = raw[1].y.argmax(1)
            known = torch.where(label[:, None] == label, 0.0, -APART).double()
        drawn = matched(known, DRAWS, torch.Generator().manual_seed(seed), SWEEPS)
        others = statistic.gather(1, drawn.T).sum(0) / len(rows)
        return share_as_high(float(statistic.diagonal().sum()) / len(rows), others.numpy())

    @cached_property
    def pointwise(self) -> tuple[np.ndarray, np.ndarray] | None:
        """log p(x, y | z) / p(x | z) p(y | z) of each test pair [m], and its row [m]."""
        first, second = self.whole.pointwise, self.part.pointwise
        return None if first is None or second is None else (first[0] - second[0], first[1])

    def estimate(self, names: Sequence[str], told: Sequence[Check]) -> Estimate:
        """The result. names: of whole and part. told: the checks of the arrays and of both parts."""
        request, r, pointwise = self.whole.request, self.reading, self.pointwise
        parts = {
            name: {
                "mi": e.whole.mi,
                "stderr": e.whole.stderr,
                "interval": list(e.whole.interval),
                "floor": e.whole.floor,
            }
            for name, e in zip(names, (self.whole, self.part), strict=True)
        }
        return Estimate(
            mi=r.mi,
            stderr=r.stderr,
            interval=r.interval,
            n=request.number,
            splits=r.sizes,
            ceiling=self.whole.ceiling,
            floor=0.0,
            cap=self.cap,
            checks=(*told, *self.own_checks()),
            method=repr(request.estimator),
            critic=self.whole.results[0].named,
            seed=request.seed,
            protocol={
                "budget": asdict(request.budget),
                "difference": " - ".join(names),
                "parts": parts,
                "training": [[fitted.protocol for fitted in e.results] for e in (self.whole, self.part)],
                "value_on": r.value_on,
                "folds": [fold.mi for fold in self.folds],
                "missed": r.missed,
                "rise": self.rise,
                "p_values": self.p_values,
                "interval": "delete-a-group jackknife of the difference over report ids, Student's t, and the spread of"
                " folds; an end is moved by what one part's critics may have missed beyond the other's",
                "floor": "0, as no distribution-free test certifies conditional dependence (Shah & Peters, 2020)",
                "torch": torch.__version__,
            },
            p_value=self.p_value,
            entropy=self.cap,
            freedom=r.freedom,
            quantity="I(X; Y | Z)",
            pointwise=None if pointwise is None else pointwise[0],
            rows=None if pointwise is None else pointwise[1],
        )


def _scores(fold: Fold, pairs: Pairs) -> Tensor:
    """Of pairs that no map has seen [n, n]; where no critic scores, or none that is cheap, by the closed form."""
    if fold.fitted.critic is None or fold.fitted.costly:
        return scores_of(fold.closed_form, fold.closed_form.mapped(pairs)).double()
    return scores_of(fold.fitted, fold.fitted.mapped(pairs).to(fold.device)).double()
