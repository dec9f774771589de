"""What is known of an estimate, from all its folds: checks pull from it, and what none asks for is not worked out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from infomax.estimation.bases import kernels
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.estimators.classical import Neighbours
from infomax.estimation.evidence import independence, rematching, uncertainty
from infomax.estimation.evidence.fold import Fold
from infomax.estimation.evidence.histogram import histogram
from infomax.estimation.pairs import Pairs, joined
from infomax.estimation.result import Check

CURVE = 500  # test pairs, on which the value from half of the pairs is read: more folds are not fitted again


@dataclass(frozen=True)
class Request:
    """What is to be estimated, by what.

    parts: one (train, validation, test), or one for each fold, whose test pairs then differ. number: of pairs in all.
    noticed: checks of the arrays themselves. cap: an upper bound on MI that they give, in nats. untrained: whether
    networks take no step.
    """

    parts: Sequence[Sequence[Pairs]]
    number: int
    noticed: Sequence[Check]
    cap: float | None
    estimator: Estimator
    critic: str | nn.Module | None
    seed: int
    budget: Budget
    device: str
    untrained: bool = False

    @property
    def steps(self) -> Budget:
        """The budget that networks have."""
        return replace(self.budget, steps=0) if self.untrained else self.budget

    @property
    def pairs(self) -> Pairs:
        """All pairs."""
        return joined([part[2] for part in self.parts] if len(self.parts) > 1 else self.parts[0])

    @property
    def columns(self) -> int:
        """Of both sides."""
        pairs = self.parts[0][0]
        return pairs.x.shape[1] + pairs.y.shape[1]

    def fitted(self) -> list[Fitted]:
        """Fits each fold. Seeds torch's generator, as modules initialise and drop out by it: fork it around."""
        torch.default_generator.manual_seed(self.seed)
        if len(self.parts) == 1:
            [(train, validation, _)] = self.parts
            return [self.estimator.fit(train, validation, self.critic, self.steps, self.seed, self.device)]
        return self.fitted_folds([(part[0], part[1]) for part in self.parts])

    def fitted_folds(self, folds: Sequence[tuple[Pairs, Pairs]]) -> list[Fitted]:
        """Fits each (train, validation) from the same start."""
        torch.default_generator.manual_seed(self.seed)
        return self.estimator.fit_folds(folds, self.steps, self.seed, self.device)


class Evidence:
    """All folds of a request: `request`, `results` (what was fitted, by fold), and the properties below.

    beside: what critics know of the same pairs, where none gives the value: theirs is what is certified.
    """

    def __init__(self, request: Request, results: Sequence[Fitted], beside: "Evidence | None" = None):
        self.request, self.results, self.estimator, self.cap = request, results, request.estimator, request.cap
        self.beside = beside

    @cached_property
    def folds(self) -> list[Fold]:
        r = self.request
        return [
            Fold(r.estimator, fitted, parts, r.seed, r.device)
            for fitted, parts in zip(self.results, r.parts, strict=True)
        ]

    @cached_property
    def whole(self) -> uncertainty.Reading:
        """The folds as one: value, error, interval."""
        found = uncertainty.combined(self.folds, self.to_come, 0.0 if self.misfit is None else self.misfit.mean)
        return found if self.beside is None else replace(found, floor=self.beside.whole.floor)

    @property
    def wants_networks(self) -> bool:
        """Whether kernels left something over, in any fold, for networks to learn."""
        return any("evidence_after_kernels" in fitted.protocol for fitted in self.results)

    @property
    def ceiling(self) -> float:
        """Log of the number of test pairs."""
        return math.log(self.whole.reported)

    @property
    def columns(self) -> int:
        """Of both sides."""
        return self.request.columns

    @cached_property
    def share_read(self) -> float | None:
        """The least share of a side's variance that a fold's copula read; None where none left any of it out."""
        found = [fitted.protocol["copula"]["share_read"] for fitted in self.results if "copula" in fitted.protocol]
        return min(found) if found and min(found) < 0.999 else None

    @cached_property
    def rise(self) -> float | None:
        """By how much the value on the same test pairs is higher from all pairs than from half of them, in nats, on as
        many folds as it takes; None of one split, and of too few pairs to halve."""
        r = self.request
        if isinstance(self.estimator, Neighbours):
            return self.estimator.rise(self.folds[0].test, r.seed)
        if len(r.parts) == 1:
            return None
        folds = self.folds[: math.ceil(CURVE / self.folds[0].reported)]
        halves = [uncertainty.halved(fold.parts[0], fold.parts[1], r.seed) for fold in folds]
        found = [half for half in halves if half is not None]
        if len(found) < len(folds):
            return None
        gains = [fold.mi - fold.value_of(less) for fold, less in zip(folds, r.fitted_folds(found), strict=True)]
        return float(np.average(gains, weights=[fold.reported for fold in folds]))

    @property
    def to_come(self) -> float | None:
        """By how much the value is still to rise, in nats, as its rise tells."""
        if self.rise is None or not isinstance(self.estimator, Neighbours):
            return self.rise
        return self.rise * self.estimator.to_come(self.columns)

    @cached_property
    def finer(self) -> tuple[float, float] | None:
        """What nearer neighbours tell more, and its standard error; None of critics."""
        return self.estimator.finer(self.folds[0].test) if isinstance(self.estimator, Neighbours) else None

    @cached_property
    def left_over(self) -> float | None:
        """How sure test pairs are, in standard errors, that something can be added to the folds' critics; None of
        critics whose residuals read no columns."""
        each = [
            kernels.evidence(critic, critic.columns, fold.mapped_train, fold.test, self.request.seed)
            for fold in self.folds
            if (critic := fold.fitted.critic) is not None and critic.columns is not None
        ]
        return sum(each) / math.sqrt(len(each)) if each else None

    @cached_property
    def misfit(self) -> rematching.Misfit | None:
        """What test pairs have that pairs matched by the critic's own ratio lack; None where it cannot be told."""
        if not self.estimator.cross_fits or self.results[0].critic is None:
            return None
        looked_at = rematching.looked_at([fold.raw[2] for fold in self.folds], self.request.seed)
        if looked_at is None:
            return None
        of_folds = zip(self.folds, looked_at, strict=True)
        # A fold's test pairs are shuffled alike.
        scores = [rematching.scores_of(fold.fitted, fold.test.first(len(pairs))) for fold, pairs in of_folds]
        return rematching.misfit_of(looked_at, scores, self.request.seed)

    @cached_property
    def p_value(self) -> float | None:
        """Of independence, by test pairs that are matched anew."""
        if self.beside is None:
            return independence.p_value(self.folds, self.request.seed)
        known = self.beside.p_value
        if known is None or known > independence.LEAST_DEAR:  # which no value of neighbours is below
            own = independence.p_value(self.folds, self.request.seed)
            known = min(each for each in (known, own, 1.0) if each is not None)
        return min(1.0, 2 * known)

    @cached_property
    def pointwise(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Each test pair's log ratio [m], in nats, and its row [m], in the order of rows; None where scores are no log
        ratios or rows are not known."""
        each = [fold.pointwise for fold in self.folds if self.estimator.normalised]
        known = [scores for scores in each if scores is not None]
        if not known:
            return None
        rows = [fold.raw[2].rows for fold in self.folds]
        found = [each.numpy() for each in rows if each is not None]
        if len(found) < len(rows):
            return None
        order = np.concatenate(found).argsort(kind="stable")
        return np.concatenate(known)[order], np.concatenate(found)[order]

    @cached_property
    def histogram(self) -> dict[str, Any] | None:
        """How the first fold's scores are spread; None without a critic, and where scores are costly."""
        if self.beside is not None:
            return self.beside.histogram
        first = self.results[0]
        return None if first.critic is None or first.costly else histogram(first.critic, self.folds[0].test)
