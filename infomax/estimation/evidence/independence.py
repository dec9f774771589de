"""The p-value of an estimate: are x and y independent, by test pairs whose sides are matched anew?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from infomax.critics import InnerProduct
from infomax.estimation.bases.normal_scores import NormalScores, hermite
from infomax.estimation.pairs import Pairs, is_label
from infomax.scores.face import offset_of

if TYPE_CHECKING:
    from infomax.estimation.evidence.fold import Fold

DRAWS = 999  # of an inner product, whose scores cost little
DEAR_DRAWS = 199  # of any other critic, and of values that no critic gives
DEAR_PAIRS = 400  # of which such values are read
LEAST_DEAR = 1 / (1 + DEAR_DRAWS)
LARGEST = 4_000_000  # numbers in a table
AT_ONCE = 500_000  # numbers in the features of matchings whose statistics are worked out together
TABLE = 2**24  # scores, at most, of all x beside all y, that are worked out once for all matchings


@dataclass(frozen=True)
class Units:
    """The samples of test pairs: rows of one id move together, in their order.

    own [n]: the sample of each row, numbered from 0. place [n]: which of its sample's rows it is. first, size [units]:
    where a sample's rows begin in `order` [n], and how many they are.
    """

    own: Tensor
    place: Tensor
    first: Tensor
    size: Tensor
    order: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> "Units":
        """From the id of each row [n]."""
        _, own = ids.cpu().unique(return_inverse=True)
        size = own.bincount()
        first = size.cumsum(0) - size
        order = own.argsort(stable=True)
        place = torch.empty_like(own)
        place[order] = torch.arange(len(own)) - first[own[order]]
        return cls(own, place, first, size, order)

    def __len__(self) -> int:
        return len(self.size)

    def moved(self, to: Tensor) -> Tensor:
        """For each row [..., n], the row that its partner comes from, where sample i meets sample to[..., i]: row r of
        one meets row r of the other, from the beginning again where that is shorter."""
        if len(self.order) == len(self):  # of one row each
            return self.order[to[..., self.own]]
        other = to[..., self.own]
        return self.order[self.first[other] + self.place % self.size[other]]


def p_value(folds: "Sequence[Fold]", seed: int) -> float | None:
    """How likely test pairs score as high as they do, if x and y are independent.

    The null hypothesis: the y of a sample (the rows of one id; a block of rows in time) is as likely beside the x of
    any other, given the critic, which never saw them. Samples, with all their rows, are matched anew at random within
    each fold's test pairs, and the mean score is compared: rows within a sample may depend on each other. Nothing is
    fitted again, so that the critic decides which dependence is seen, and the level holds whatever it is. One-sided,
    the pairs themselves counted (Phipson & Smyth, 2010). Folds' critics have seen each other's test pairs, so that
    their p-values are combined by Bonferroni's bound. Where every score is 0, as the critic lost on the validation
    pairs, simple products that training pairs suggest are asked instead. None where a fold has one sample.
    """
    found = [_of_fold(fold, seed) for fold in folds]
    known = [p for p in found if p is not None]
    return min(1.0, len(known) * min(known)) if known else None


@torch.no_grad()
def _of_fold(fold: "Fold", seed: int) -> float | None:
    critic: Any = fold.fitted.critic
    if critic is not None and critic.is_zero:
        critic, pairs = Products(fold.raw[0]), fold.raw[2]
    elif critic is None or fold.fitted.costly:
        pairs = _some(fold.in_order, DEAR_PAIRS, seed)
    else:
        pairs = fold.in_order
    units = Units.of(pairs.ids)
    if len(units) < 2:
        return None
    if critic is None:

        def value(rows: Tensor) -> Tensor:
            return torch.tensor(fold.fitted.matched_values(pairs, rows), dtype=torch.float64)

        return permuted(value, units, DEAR_DRAWS, seed, at_once=DEAR_DRAWS)
    pairs = pairs if isinstance(critic, Products) else pairs.to(fold.device)
    ex, ey = critic.embed(pairs.x, pairs.y)
    if (all_scores := table(critic, ex, ey)) is not None:

        def looked_up(rows: Tensor) -> Tensor:
            return all_scores.take(starts + rows.to(starts.device)).mean(1).cpu()

        starts = torch.arange(len(ex), device=ex.device) * len(ex)
        return permuted(looked_up, units, DRAWS, seed, max(1, AT_ONCE // len(ex)))

    def score(rows: Tensor) -> Tensor:
        met = ex[torch.arange(len(ex), device=ex.device).repeat(len(rows))] if len(rows) > 1 else ex
        return critic.pair(met, ey[rows.flatten().to(ey.device)]).double().view(len(rows), -1).mean(1).cpu()

    if not isinstance(critic, InnerProduct | Products):  # of which a row's score may round by which rows are beside it
        return permuted(score, units, DEAR_DRAWS, seed)
    return permuted(score, units, DRAWS, seed, max(1, AT_ONCE // max(1, ex.numel())))


def table(critic: Any, ex: Tensor, ey: Tensor) -> Tensor | None:
    """An inner product's scores of all x beside all y [n, n], but for its constant: one product, not one a matching.

    In float64, as equal scores may round apart in a product. None of other critics, and of more than TABLE scores.
    """
    inner = isinstance(critic, Products) or offset_of(critic) is not None
    return ex.double() @ ey.double().T if inner and len(ex) * len(ey) <= TABLE else None


def _some(pairs: Pairs, rows: int, seed: int) -> Pairs:
    """So many samples, at random, that they have about so many rows, in the order of rows."""
    if len(pairs) <= rows:
        return pairs
    _, own = pairs.ids.unique(return_inverse=True)
    number = int(own.max()) + 1
    kept = np.random.default_rng([seed, 5]).permutation(number)[: max(2, rows * number // len(pairs))]
    return pairs[torch.isin(own, torch.from_numpy(kept))]


class Products:
    """A critic for folds in which the fitted one scores 0: what a product of Hermite polynomials of normal scores, of a
    column of each side, was on average over training pairs, summed over the products. No log ratio; of labels
    indicators. It sees what is too weak for an estimate.
    """

    def __init__(self, train: Pairs):
        if len(train.x) * max(train.x.shape[1], train.y.shape[1]) > LARGEST:
            train = train.first(LARGEST // max(train.x.shape[1], train.y.shape[1]))
        self.maps = [None if is_label(side) else NormalScores(side) for side in (train.x, train.y)]
        hx, hy = self._features(train.x, train.y)
        self.narrow = hx.shape[1] * hy.shape[1] <= LARGEST
        self.kept: tuple[Tensor, ...] = (hx.T @ hy / len(hx),) if self.narrow else (hx, hy)

    def _features(self, x: Tensor, y: Tensor) -> list[Tensor]:
        pairs = zip((x, y), self.maps, strict=True)
        return [side.float() if of is None else hermite(of(side)) for side, of in pairs]

    def embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, dx], y [n, dy], which no map has seen, to features [n, k], whose products are summed."""
        hx, hy = self._features(x, y)
        if self.narrow:
            return hx @ self.kept[0], hy
        return hx @ self.kept[0].T, hy @ self.kept[1].T / len(self.kept[0])

    def pair(self, ex: Tensor, ey: Tensor) -> Tensor:
        """The score of each row of features [n]."""
        return (ex * ey).sum(1)


def permuted(statistic: Callable[[Tensor], Tensor], units: Units, draws: int, seed: int, at_once: int = 1) -> float:
    """The share of `draws` random matchings, and of the pairs themselves, whose statistic is as high as the pairs' own.

    statistic: of which row's y each x meets, some matchings at a time [m, n] to [m]. at_once: how many those are.
    """
    generator = torch.Generator().manual_seed(seed)
    own = float(statistic(torch.arange(len(units.own))[None]))
    others = []
    for start in range(0, draws, at_once):
        drawn = [torch.randperm(len(units), generator=generator) for _ in range(min(at_once, draws - start))]
        others.append(statistic(units.moved(torch.stack(drawn))))
    return share_as_high(own, torch.cat(others).numpy())


def share_as_high(own: float, others: np.ndarray) -> float:
    """The p-value of `own` among the values [draws] under the null hypothesis: none is below 1 / (1 + draws)."""
    if not math.isfinite(own):
        return 1.0
    rounding = 1e-9 * max(1.0, abs(own))  # sums in another order differ in their last digits
    return float(1 + (others >= own - rounding).sum()) / (1 + len(others))
