"""What is known of one fold, worked out when it is asked for, and once: all that checks say is pulled from here."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property

import numpy as np
import torch

from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.estimator import Estimator, Fitted
from infomax.estimation.estimators.classical import Neighbours
from infomax.estimation.evidence import floor, uncertainty
from infomax.estimation.pairs import Pairs, joined, shuffled
from infomax.estimation.registry import Variational
from infomax.estimation.result import half_width
from infomax.objectives import InfoNCE
from infomax.scores import Scores

COSTLY = 256  # pairs whose n^2 scores are looked at, where each costs a flow's pass


class Fold:
    """A fitted estimator beside its training, validation and test pairs: values in nats.

    method: what was asked to estimate. fitted: what it gave. parts: (train, validation, test), which no map has seen;
    `fitted` never saw the test pairs.
    """

    def __init__(self, method: Estimator, fitted: Fitted, parts: Sequence[Pairs], seed: int, device: str):
        self.method, self.fitted, self.seed, self.device = method, fitted, seed, device
        self.parts = parts

    # Pairs -----------------------------------------------------------------------------------------------------------

    @cached_property
    def raw(self) -> tuple[Pairs, Pairs, Pairs]:
        """The pairs by what they are read as: all are test pairs where nothing was trained on any."""
        train, validation, test = self.parts
        if not self.method.training_free:
            return train, validation, test
        return train.first(0), validation.first(0), joined(self.parts)

    @cached_property
    def train(self) -> Pairs:
        """As many as test pairs, since a value may depend on their number."""
        return self._read_by(self.fitted, self.raw[0].first(self.reported))

    @cached_property
    def mapped_train(self) -> Pairs:
        """All training pairs."""
        return self._read_by(self.fitted, self.raw[0])

    @cached_property
    def validation(self) -> Pairs:
        return self._read_by(self.fitted, self.raw[1])

    @cached_property
    def in_order(self) -> Pairs:
        """The test pairs, mapped, as they were given."""
        return self.fitted.mapped(self.raw[2])

    @cached_property
    def test(self) -> Pairs:
        """Shuffled, since a value on the first m pairs means nothing on rows that are in order."""
        return shuffled(self.in_order, self.seed).to(self.device)

    def _read_by(self, fitted: Fitted, part: Pairs) -> Pairs:
        return shuffled(fitted.mapped(part), self.seed).to(self.device)

    @property
    def sizes(self) -> tuple[int, int, int]:
        train, validation, test = self.raw
        return len(train), len(validation), len(test)

    @property
    def reported(self) -> int:
        return len(self.raw[2])

    # Values ----------------------------------------------------------------------------------------------------------

    @cached_property
    def mi(self) -> float:
        return self.fitted.value(self.test)

    @cached_property
    def pointwise(self) -> np.ndarray | None:
        """The score of each test pair [m], in nats, as they were given; what a value without a critic is the mean of,
        or None."""
        critic, pairs = self.fitted.critic, self.in_order.to(self.device)
        if critic is None:
            return self.method.each(pairs) if isinstance(self.method, Neighbours) else None
        with torch.no_grad():
            return critic.pair(*critic.embed(pairs.x, pairs.y)).double().cpu().numpy()

    @cached_property
    def error(self) -> tuple[float, int]:
        """The jackknife's standard error, and its degrees of freedom."""
        return uncertainty.jackknife(self.fitted, self.test, self.seed)

    @property
    def stderr(self) -> float:
        return self.error[0]

    @property
    def freedom(self) -> int:
        return self.error[1]

    @property
    def interval(self) -> tuple[float, float]:
        half = half_width(self.stderr, self.freedom)
        return self.mi - half, self.mi + half

    @cached_property
    def value_on(self) -> dict[str, float]:
        """The value on the test pairs (report), the training pairs (fit) and the validation pairs (select)."""
        if self.method.training_free:
            return {"report": self.mi}
        validation = self.validation.first(self.reported)
        return {"report": self.mi, "fit": self.fitted.value(self.train), "select": self.fitted.value(validation)}

    def value_of(self, other: Fitted) -> float:
        """The value that another fit of the estimator has on the same test pairs."""
        return other.value(self._read_by(other, self.raw[2]))

    # What the value is held against ----------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> Scores | None:
        """Of the test pairs, or of some where they are costly; None without a critic."""
        return self.fitted.scores(self.test.first(COSTLY) if self.fitted.costly else self.test)

    @cached_property
    def partition(self) -> tuple[float, float, float] | None:
        """Its logarithm, standard error and effective pairs; None where a value has no use for it."""
        if self.method.value_from == "rows" or self.scores is None:
            return None
        return uncertainty.partition(self.scores)

    @cached_property
    def null(self) -> float | None:
        """The p-value of independence."""
        if not self.method.cross_fits:
            return None
        return uncertainty.permutation(self.fitted, self.test, self.seed)

    @cached_property
    def learned(self) -> float:
        """What a network or kernels added to a closed form, which learn slowly."""
        if not self.method.cross_fits:
            return 0.0
        base = None if self.fitted.critic is None else self.fitted.critic.closed_form
        if base is None:
            return abs(self.mi)
        with torch.no_grad():
            return abs(self.mi - float(base.known.pair(*base.known.embed(self.test.x, self.test.y)).mean()))

    @cached_property
    def closed_form(self) -> Fitted:
        """The fitted critic's closed form, or else a Gaussian copula of the same pairs, which InfoNCE reads."""
        base = None if self.fitted.critic is None else self.fitted.critic.closed_form
        if base is not None:
            # A copy, as moving a module moves it for everyone.
            return Fitted(Variational(InfoNCE()), deepcopy(base).cpu(), self.fitted.maps, {})
        train, validation, _ = self.parts
        maps = NormalScores(train.x), NormalScores(train.y)
        sides = (side for part in (train, validation) for side in (maps[0](part.x), maps[1](part.y)))
        return Fitted(Variational(InfoNCE()), GaussianCopula(*sides), maps, {})

    @cached_property
    def rival(self) -> tuple[float, float]:
        """The closed form's lower bound on the test pairs, and its standard error."""
        if self.closed_form.maps is self.fitted.maps and not self.method.training_free:
            return uncertainty.infonce(self.closed_form.critic, self.in_order)
        return uncertainty.infonce(self.closed_form.critic, self.closed_form.mapped(self.parts[2]))

    @cached_property
    def certificate(self) -> floor.Certificate:
        """What test pairs certify: whatever bounds MI from below may score them, and where n^2 scores are none or
        costly that is the closed form. Validation pairs give the scale."""
        if self.fitted.critic is not None and not self.fitted.costly:
            # What was trained on nothing is read on all pairs, and its floor on the test pairs alone.
            parts = (self._read_by(self.fitted, part) for part in self.parts[1:])
            validation, test = parts if self.method.training_free else (self.validation, self.test)
            return floor.of_critic(self.fitted.critic, validation, test)
        validation, test = (shuffled(self.closed_form.mapped(part), self.seed) for part in self.parts[1:])
        return floor.of_critic(self.closed_form.critic, validation, test)

    @property
    def floor_values(self) -> np.ndarray:
        """The certified lower bound's pseudo-values, of each test sample."""
        return self.certificate.values

    @property
    def floor(self) -> float:
        """The certified lower bound, at 95 %, that this fold alone gives."""
        return floor.lower_bound(self.floor_values)
