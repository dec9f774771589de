"""Base class of MI estimators: fit on some pairs, evaluate on others. Its repr is its constructor call."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation.critic import FittedCritic, gated
from infomax.estimation.pairs import Pairs
from infomax.estimation.result import Check
from infomax.scores import Scores
from infomax.spelling import Renamed, Spelled

# What a value is read from, and with it which checks apply: "rows", each row's own negatives (never above log N);
# "partition", a mean of e^s over all negatives; "plug-in", a model of log r alone; "upper bound", a model of p(y|x)
# that bounds MI from above; "neighbours", distances between pairs.
ValueFrom = Literal["rows", "partition", "plug-in", "upper bound", "neighbours"]


@dataclass(frozen=True)
class Budget:
    """How long a critic may train.

    steps: at most, each of `batch_size` pairs, at Adam's learning_rate. every: steps from one evaluation on the
    validation pairs to the next. patience: how many evaluations in a row may bring nothing better before training
    stops. parts: the shares of the ids that are training, validation and test pairs (fit, select, report). folds: of an
    estimator that cross-fits, which has a rate of its own and takes 1,000 steps and a patience of 5 at most (where it
    reads images, three times 500 steps at most besides); 1 is one split by `parts`. Raises UserError: a number out of
    range.
    """

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 5e-4
    every: int = 50
    patience: int = 10
    parts: tuple[float, float, float] = (0.6, 0.15, 0.25)
    folds: int = 5

    def __post_init__(self):
        for name in ("steps", "batch_size", "every", "patience", "learning_rate"):
            least = {"batch_size": 3, "steps": 0}.get(name, 1)
            value = getattr(self, name)
            if not (value > 0 if name == "learning_rate" else value >= least):
                raise UserError(f"Budget's {name} is {value}; at least {least} is needed, and a positive rate.")
        if self.folds != 1 and not 3 <= self.folds <= 20:
            raise UserError(f"Budget's folds is {self.folds}: 1 for one split, or 3 to 20 folds.")
        if len(self.parts) != 3 or min(self.parts) <= 0 or abs(sum(self.parts) - 1) > 1e-6:
            raise UserError(f"Budget's parts must be three positive shares that sum to 1, and are {self.parts}.")


class Estimator(Spelled):
    """Base class of estimators: `fit` on some pairs gives a Fitted, to be read on others. Its repr parses back.

    A subclass gives fit, and estimate(s) if its value is read from scores, else read. An instance is never changed by
    being fitted. Earlier names of attributes (leans_on, fixes_constant, reads_all) are read and set alike.
    """

    value_from: ValueFrom = "plug-in"
    normalised = True  # whether the scores are log r itself; False where any s + constant has the same value
    cross_fits = False  # whether fit_folds fits folds together, so that all pairs report
    takes_critic = False  # whether it trains the critic that a user names
    training_free = False  # whether nothing is fitted that a value could have learnt by heart: all pairs are test pairs
    leans_on, fixes_constant, reads_all = Renamed("value_from"), Renamed("normalised"), Renamed("training_free")

    @property
    def trained_by(self) -> str:
        """How the critic is trained, as a text: estimators of one text read their values from one critic's scores."""
        return repr(self)

    def highest(self, number: int) -> float:
        """The highest value that `number` test pairs can have by its formula, in nats, where that is below log N."""
        return math.inf

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> "Fitted":
        """Fits on training pairs, and stops and chooses on validation pairs. Draws from torch's CPU generator.

        fit: training pairs, x [n, dx] and y [n, dy]. select: validation pairs. critic: the text or module of an
        estimator that takes_critic, None for its default. budget: how long it may train. seed: of what is drawn, beside
        torch's own generator, which is to be forked around. device: "cpu" or "cuda". Raises UserError: a critic that
        cannot score such pairs, sides that such an estimator has no meaning for.
        """
        raise TypeError(f"{type(self).__name__} defines no fit(...).")

    def fit_folds(self, folds: Sequence[tuple[Pairs, Pairs]], budget: Budget, seed: int, device: str) -> "list[Fitted]":
        """`fit` on each (training, validation) of `folds`, of an estimator that cross_fits; budget, seed and device as
        `fit` takes them."""
        raise TypeError(f"{type(self).__name__} does not cross-fit.")

    def estimate(self, s: Scores) -> Tensor:
        """The value read from the scores `s` of n pairs: 0-d, in nats."""
        raise TypeError(f"{type(self).__name__} reads no value from scores.")

    def read(self, critic: Any, pairs: Pairs) -> Tensor:
        """The value of mapped pairs, by a critic of log r or None: 0-d, in nats."""
        return self.estimate(scores(critic, pairs))

    def read_parts(self, critic: Any, pairs: Pairs, parts: Sequence[Tensor]) -> list[Tensor]:
        """The values [] that a fitted critic gives to some of the mapped pairs at a time: those that each index of
        `parts` picks."""
        return [self.read(critic, pairs[index]) for index in parts]

    def read_matched(self, critic: Any, pairs: Pairs, matchings: Tensor) -> list[Tensor]:
        """The values [] that a critic, or None, gives to mapped pairs whose sides are matched anew: x of row i meets y
        of row matchings[j, i], one value for each j."""
        return [self.read(critic, Pairs(pairs.x, pairs.y[rows], pairs.ids)) for rows in matchings]


class PlugIn(Estimator):
    """Base class of estimators whose value is the mean of log r over pairs: no negative is scored for it."""

    def estimate(self, s: Scores) -> Tensor:
        return s.positive.mean()

    def read(self, critic: Any, pairs: Pairs) -> Tensor:
        return self._log_ratio(critic, pairs).mean()

    def read_parts(self, critic: Any, pairs: Pairs, parts: Sequence[Tensor]) -> list[Tensor]:
        """The plug-in values of a fitted critic, on the mapped pairs that each index of `parts` picks."""
        each = self._log_ratio(critic, pairs)  # of a pair, whatever the others are
        return [each[index].mean() for index in parts]

    @staticmethod
    def _log_ratio(critic: Any, pairs: Pairs) -> Tensor:
        return critic.pair(*critic.embed(pairs.x, pairs.y)).double()


@dataclass(frozen=True)
class Fitted:
    """An estimator that is done learning.

    estimator: what reads the value. critic: scores mapped pairs by log r (embed, score, pair), or None where there is
    none; one that is no FittedCritic is made a part of one. maps: what x [n, dx] and y [n, dy] go through first.
    protocol: how it came about. checks: what there is to say of the data that it was fitted on.
    """

    estimator: Estimator
    critic: Any  # FittedCritic | None, once made
    maps: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
    protocol: dict[str, Any]
    checks: tuple[Check, ...] = field(default=())

    def __post_init__(self):
        if self.critic is not None and not isinstance(self.critic, FittedCritic):  # a user's estimator has its own
            object.__setattr__(self, "critic", gated(None, self.critic))

    @property
    def named(self) -> str:
        """The text of the critic that a user may choose or change."""
        return "none" if self.critic is None else self.critic.named

    @property
    def costly(self) -> bool:
        """Whether n^2 scores are too dear to be read lightly."""
        return self.critic is not None and self.critic.costly

    def mapped(self, pairs: Pairs) -> Pairs:
        """pairs, as the critic takes them: each side by its map."""
        return Pairs(self.maps[0](pairs.x), self.maps[1](pairs.y), pairs.ids)

    def scores(self, mapped: Pairs) -> Scores | None:
        """The scores of mapped pairs, of themselves and as negatives; None without a critic."""
        return None if self.critic is None else scores(self.critic, mapped)

    def value(self, mapped: Pairs) -> float:
        """The value on mapped pairs, which it has never seen unless it training_free; in nats."""
        with torch.no_grad():
            return float(self.estimator.read(self.critic, mapped))

    def values(self, mapped: Pairs, parts: Sequence[Tensor]) -> list[float]:
        """The values on some of the mapped pairs at a time, those that each index of `parts` picks; in nats."""
        with torch.no_grad():
            return [float(value) for value in self.estimator.read_parts(self.critic, mapped, parts)]

    def matched_values(self, mapped: Pairs, matchings: Tensor) -> list[float]:
        """The values of mapped pairs where x of row i meets y of row matchings[j, i], one for each j; in nats."""
        with torch.no_grad():
            return [float(value) for value in self.estimator.read_matched(self.critic, mapped, matchings)]


def scores(critic: Any, pairs: Pairs) -> Scores:
    """A critic's scores of mapped pairs."""
    # Each process estimates on its own: an estimate is the same under a launcher as without.
    ids = None if len(pairs.ids.unique()) == len(pairs) else pairs.ids  # without ids a tile's mask is its diagonal
    return Scores(critic, pairs.x, pairs.y, ids, local=True)
