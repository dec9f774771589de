"""Pairs that an estimator can read: two sides of numbers, the sample of each pair, and how they are split."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError

FEWEST = 50  # pairs; a twelve-pair report split has an interval of a nat
FEWEST_A_SPLIT = 10


@dataclass(frozen=True)
class Image:
    """How columns make an image: its channels, height and width, and where in it, flattened, each column stands.

    Constant columns may have been left out: nothing stands where they were.
    """

    shape: tuple[int, int, int]
    places: Tensor  # int64 [columns]

    def __call__(self, columns: Tensor) -> Tensor:
        """columns [n, d] -> images [n, channels, height, width], 0 where no column stands."""
        if len(self.places) == math.prod(self.shape):
            return columns.unflatten(1, self.shape)
        whole = columns.new_zeros(len(columns), math.prod(self.shape))
        return whole.index_copy_(1, self.places.to(columns.device), columns).unflatten(1, self.shape)


@dataclass(frozen=True)
class Pairs:
    """x [n, dx], y [n, dy], ids int64 [n]: rows of one id are views of one sample, never negatives of each other.

    float32; or float64, as given, until the fit split's statistics have standardised it. images: of each side how its
    columns make an image, or None where they make none. rows int64 [n]: which row of the user's arrays each is, where
    that is known. unordered: "x", "y" or "xy", the sides whose labels are names of classes, without an order.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    images: tuple[Image | None, Image | None] = (None, None)
    rows: Tensor | None = None
    unordered: str = ""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> "Pairs":
        rows = None if self.rows is None else self.rows[index.to(self.rows.device)]
        return Pairs(self.x[index], self.y[index], self.ids[index], self.images, rows, self.unordered)

    def first(self, number: int) -> "Pairs":
        rows = None if self.rows is None else self.rows[:number]
        return Pairs(self.x[:number], self.y[:number], self.ids[:number], self.images, rows, self.unordered)

    def to(self, device: str | torch.device) -> "Pairs":
        return replace(self, x=self.x.to(device), y=self.y.to(device), ids=self.ids.to(device))


FEWEST_IDS = 4  # in a split: leaving a group of them out must leave a row with two negatives


def split(pairs: Pairs, parts: tuple[float, float, float], seed: int, blocks: Any = None) -> list[Pairs]:
    """Three parts of the pairs, at random, every id in one part only. blocks: for the sentence, as `estimate` took
    them, where the ids are those of blocks."""
    _, groups = pairs.ids.unique(return_inverse=True)
    number = int(groups.max()) + 1
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(number))
    found = [pairs[torch.isin(groups, some)] for some in order.tensor_split(_ends(parts, number))]
    _require_enough(found, number, lambda: _least(parts), blocks)
    return found


def _ends(parts: tuple[float, float, float], number: int) -> list[int]:
    """Where, among so many ids, the first and the second part end."""
    return [round(parts[0] * number), round((parts[0] + parts[1]) * number)]


def _least(parts: tuple[float, float, float]) -> int:
    """Of how many ids every part has FEWEST_IDS."""
    number = max(3 * FEWEST_IDS, int((FEWEST_IDS - 1) / min(parts)))
    while min(np.diff([0, *_ends(parts, number), number])) < FEWEST_IDS:
        number += 1
    return number


def _require_enough(found: Sequence[Pairs], number: int, least: Callable[[], int], blocks: Any) -> None:
    """least: of how many ids every part has enough."""
    pairs, fewest = sum(map(len, found)), min(len(part.ids.unique()) for part in found)
    if blocks is not None:
        told = f"blocks is {blocks}: " if isinstance(blocks, (int, np.integer, str)) else ""
        told += f"{pairs} rows are in {number} block{'' if number == 1 else 's'}"
        if fewest < FEWEST_IDS:
            raise UserError(
                f"{told}, and {least()} are needed at least, {FEWEST_IDS} in each part of the rows: give shorter ones, "
                "or more rows."
            )
        told += f", which leave a part with {min(map(len, found))} rows"
        advice = "shorter ones, or more rows, are needed"
    else:
        kind = "pairs" if number == pairs else "ids"
        told = f"{pairs} pairs" + ("" if kind == "pairs" else f" with {number} different ids")
        if fewest < FEWEST_IDS:
            raise UserError(
                f"{told} leave a split with {fewest}; negatives and errors need {FEWEST_IDS} in each, so {least()} "
                f"{kind} are needed at least."
            )
        told += f" leave a split with {min(map(len, found))} pairs"
        advice = f"more {kind} are needed"
    if min(map(len, found)) < FEWEST_A_SPLIT:
        raise UserError(f"{told}; each needs {FEWEST_A_SPLIT}, so {advice}.")


def folds(pairs: Pairs, number: int, seed: int, blocks: Any = None) -> list[tuple[Pairs, Pairs, Pairs]]:
    """(fit, select, report) of each of `number` folds, at random: a fold reports once, selects for one other, and fits
    for the rest. Every id is in one fold. blocks: as `split` takes them."""
    _, groups = pairs.ids.unique(return_inverse=True)
    count = int(groups.max()) + 1
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(count))
    parts = [torch.isin(groups, some).nonzero().squeeze(1) for some in order.tensor_split(number)]
    _require_enough([pairs[part] for part in parts], count, lambda: FEWEST_IDS * number, blocks)
    found = []
    for k in range(number):
        fit = torch.cat([parts[(k + j) % number] for j in range(2, number)])
        found.append((pairs[fit.sort().values], pairs[parts[(k + 1) % number]], pairs[parts[k]]))
    return found


def is_label(side: Tensor) -> bool:
    """Whether a side is one-hot: a column of integers was read as a label."""
    return side.shape[1] > 1 and bool(((side == 0) | (side == 1)).all()) and bool((side.sum(1) == 1).all())


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all parts, one after the other."""
    x, y, ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "ids"))
    numbers = [part.rows for part in parts if part.rows is not None]
    rows = torch.cat(numbers) if len(numbers) == len(parts) else None
    return Pairs(x, y, ids, parts[0].images, rows, parts[0].unordered)


def one_of_each(ids: Tensor) -> Tensor:
    """Of rows with one id [n] the first: their indices, in order."""
    return torch.from_numpy(np.sort(np.unique(ids.cpu().numpy(), return_index=True)[1]))


def one_a_sample(pairs: Pairs) -> Pairs:
    """Of pairs with one id the first."""
    index = one_of_each(pairs.ids)
    return pairs if len(index) == len(pairs) else pairs[index.to(pairs.x.device)]


def has_density(side: Tensor) -> bool:
    """Whether numbers are continuous: in no column does half or more of the rows share its value with another row."""
    return _tied(side) is None


def require_density(what: str, pairs: Pairs, names: Sequence[str] = ("x", "y")) -> None:
    """Refuses sides that are not continuous, of which a density, or a distance between ranks, says nothing. what: the
    method, for the sentence. names: the sides that need a density."""
    for name in names:
        side = getattr(pairs, name)
        column = _tied(side)
        if column is None:
            continue
        found = (
            f"it is a label of {side.shape[1]} values" if is_label(side)
            else f"in its column {column} most rows repeat another's value"
        )  # fmt: skip
        raise UserError(
            f"{what} needs a continuous {name}, and {found}: labels, counts and rounded numbers have no density. Take "
            "a method that trains a critic, such as CopulaJS"
            + (", or give the sides in the other order." if len(names) == 1 else ".")
        )


def _tied(side: Tensor) -> int | None:
    for column in range(side.shape[1]):
        _, counts = side[:, column].unique(return_counts=True)
        if 2 * int(counts[counts > 1].sum()) >= len(side):
            return column
    return None


def shuffled(pairs: Pairs, seed: int) -> Pairs:
    """The same pairs in another order."""
    return pairs[torch.from_numpy(np.random.default_rng([seed, 3]).permutation(len(pairs)))]


def without_a_group(pairs: Pairs, groups: int, seed: int) -> list[Tensor]:
    """Indices of the rows that stay when each of `groups` random groups of ids is left out."""
    _, samples = pairs.ids.cpu().unique(return_inverse=True)
    number = int(samples.max()) + 1
    groups = min(groups, number)
    group = torch.from_numpy(np.random.default_rng([seed, 2]).permutation(number) % groups)[samples]
    return [(group != g).nonzero().squeeze(1).to(pairs.x.device) for g in range(groups)]


def jackknife_error(values: Sequence[float]) -> float:
    """The standard error of a statistic, from its values without each group; infinite where one is not finite."""
    found = np.array(values)
    if not np.isfinite(found).all():
        return math.inf
    return math.sqrt(float((len(found) - 1) / len(found) * np.sum((found - found.mean()) ** 2)))
