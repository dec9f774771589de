"""What a row of the registry is: an estimator, told by its text, that is fitted on pairs and then read on others."""

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
from infomax.spelling import Spelled

# What a value leans on, and with it which checks apply: "rows" on each row's own negatives (never above log N),
# "partition" on a mean of e^s over all negatives, "plug-in" on a model of log r alone, "upper bound" on a model of
# p(y|x) that bounds MI from above, "neighbours" on distances between pairs.
Leaning = Literal["rows", "partition", "plug-in", "upper bound", "neighbours"]


@dataclass(frozen=True)
class Budget:
    """How long a critic may train: at most `steps` steps of `batch_size` pairs; it stops when `patience` evaluations on
    the select split, one every `every` steps, bring nothing better. `parts`: of the ids, how many fit, select, report.
    `folds`: of a row that cross-fits, which has a rate of its own, and 1,000 steps and a patience of 5 at most (where
    it reads images, three climbs of 500 steps at most each besides); 1 is one split by `parts`.
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
    """A row of the registry: `fit` on pairs gives a Fitted, whose value is read on others. Its repr parses back.

    A subclass gives fit, and estimate(s) if its value is read from scores, else read. An instance is never changed by
    being fitted.
    """

    leans_on: Leaning = "plug-in"
    fixes_constant = True  # whether the scores are log r itself; False where any s + constant has the same value
    cross_fits = False  # whether fit_folds fits folds together, so that all pairs report
    takes_critic = False  # whether it trains the critic that a user names
    reads_all = False  # whether it fits nothing that its value could have learnt by heart, so that all pairs report

    @property
    def trained_by(self) -> str:
        """How the critic is trained, as a text: rows of one text read their values from one critic's scores."""
        return repr(self)

    def fit(
        self, fit: Pairs, select: Pairs, critic: str | nn.Module | None, budget: Budget, seed: int, device: str
    ) -> "Fitted":
        """Fits on `fit`, and stops and chooses on `select`. Draws from torch's CPU generator: fork it around.

        critic: the text or module of a row that takes_critic, None for its default. Raises UserError: a critic that
        cannot score such pairs, sides that such an estimator has no meaning for.
        """
        raise TypeError(f"{type(self).__name__} defines no fit(...).")

    def fit_folds(self, folds: Sequence[tuple[Pairs, Pairs]], budget: Budget, seed: int, device: str) -> "list[Fitted]":
        """`fit` on each (fit, select), of a row that cross_fits."""
        raise TypeError(f"{type(self).__name__} does not cross-fit.")

    def estimate(self, s: Scores) -> Tensor:
        """The value read from scores: 0-d, in nats."""
        raise TypeError(f"{type(self).__name__} reads no value from scores.")

    def read(self, critic: Any, pairs: Pairs) -> Tensor:
        """The value of mapped pairs: 0-d, in nats."""
        return self.estimate(scores(critic, pairs))


@dataclass(frozen=True)
class Fitted:
    """An estimator that is done learning: the maps that sides go through first, and what it learnt.

    critic: scores pairs by log r (embed, score, pair), or None where there is none. protocol: how it came about.
    checks: what there is to say of the data that it was fitted on.
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
        return Pairs(self.maps[0](pairs.x), self.maps[1](pairs.y), pairs.ids)

    def scores(self, mapped: Pairs) -> Scores | None:
        """The scores of mapped pairs, of themselves and as negatives; None without a critic."""
        return None if self.critic is None else scores(self.critic, mapped)

    def value(self, mapped: Pairs) -> float:
        """The value on mapped pairs, which it has never seen unless it reads_all; in nats."""
        with torch.no_grad():
            return float(self.estimator.read(self.critic, mapped))


def plug_in(critic: Any, pairs: Pairs) -> Tensor:
    """The mean of log r over mapped pairs, 0-d, in nats: no negative is scored."""
    return critic.pair(*critic.embed(pairs.x, pairs.y)).double().mean()


def scores(critic: Any, pairs: Pairs) -> Scores:
    """A critic's scores of mapped pairs."""
    # Each process estimates on its own: an estimate is the same under a launcher as without.
    ids = None if len(pairs.ids.unique()) == len(pairs) else pairs.ids  # without ids a tile's mask is its diagonal
    return Scores(critic, pairs.x, pairs.y, ids, local=True)
