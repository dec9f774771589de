"""From a user's arrays to pairs that can be estimated on, with what was odd about them told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.result import Check

FEWEST = 50  # pairs; a twelve-pair report split has an interval of a nat
FEWEST_A_SPLIT = 10
NARROW = 8  # an image's height and width at least: smaller arrays have no places to speak of


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
    columns make an image, or None where they make none.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    images: tuple[Image | None, Image | None] = (None, None)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> "Pairs":
        return Pairs(self.x[index], self.y[index], self.ids[index], self.images)

    def first(self, number: int) -> "Pairs":
        return Pairs(self.x[:number], self.y[:number], self.ids[:number], self.images)

    def to(self, device: str | torch.device) -> "Pairs":
        return Pairs(self.x.to(device), self.y.to(device), self.ids.to(device), self.images)


def prepared(
    parts: Sequence[tuple[Any, Any, Any]], keep_constant: bool = False
) -> tuple[list[Pairs], list[Check], float | None]:
    """Checks and converts (x, y, ids or None) parts alike: a column of labels becomes one-hot, and constant columns
    leave unless they are kept.

    Returns the parts, the checks that the arrays gave rise to, and a cap in nats on MI where labels give one.
    Raises UserError as `estimate` says.
    """
    for x, y, _ in parts:
        try:
            numbers = np.ndim(x), np.ndim(y)
        except ValueError as error:
            raise UserError(f"x or y is no array of rows: {error}.") from None
        if 0 in numbers:
            raise UserError("x and y are arrays of rows, [n, ...], and one of them is a single number.")
        if len(x) != len(y):
            raise UserError(f"x has {len(x)} rows and y has {len(y)}: a pair is a row of each, so they must be equal.")
        if len(x) == 0:
            raise UserError("x and y are empty: there are no pairs to estimate from.")
    sizes = [len(x) for x, _, _ in parts]
    if sum(sizes) < FEWEST:
        raise UserError(f"There are {sum(sizes)} pairs, and fewer than {FEWEST} say nothing about mutual information.")
    checks: list[Check] = []
    sides: list[Tensor] = []
    caps: list[float] = []
    raw: list[Tensor] = []
    images: list[Image | None] = []
    for name, column in (("x", 0), ("y", 1)):
        whole = _joined(name, [_tensor(name, part[column]) for part in parts])
        images.append(_image({np.shape(part[column])[1:] for part in parts}, whole, keep_constant))
        side, found, cap = _side(name, whole, keep_constant)
        raw.append(whole)
        sides.append(side)
        checks += found
        caps += [] if cap is None else [cap]
    labels = [not side.dtype.is_floating_point for side in raw]
    # A label with itself has its entropy.
    if not all(labels) and raw[0].shape == raw[1].shape and bool((raw[0] == raw[1]).all()):
        sentence = "x and y are the same array: the MI of a continuous variable with itself is infinite, give two."
        checks.append(Check("identical", 1.0, 0.0, "fail", sentence))
    ids = _ids([part[2] for part in parts], sizes)
    checks += _duplicates(sides, labels, ids)
    if all(part[2] is None for part in parts):
        checks += _order(sides)
    both = (images[0], images[1])
    split_up = zip(sides[0].split(sizes), sides[1].split(sizes), ids.split(sizes), strict=True)
    pairs = [Pairs(x, y, i, both) for x, y, i in split_up]
    return pairs, checks, min(caps, default=None)


FEWEST_IDS = 4  # in a split: leaving a group of them out must leave a row with two negatives


def split(pairs: Pairs, parts: tuple[float, float, float], seed: int) -> list[Pairs]:
    """Three parts of the pairs, at random, every id in one part only."""
    _, groups = pairs.ids.unique(return_inverse=True)
    number = int(groups.max()) + 1
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(number))
    at = [round(parts[0] * number), round((parts[0] + parts[1]) * number)]
    found = [pairs[torch.isin(groups, some)] for some in order.tensor_split(at)]
    _require_enough(found, len(pairs), number)
    return found


def _require_enough(found: Sequence[Pairs], pairs: int, number: int) -> None:
    fewest = min(len(part.ids.unique()) for part in found)
    if fewest < FEWEST_IDS:
        raise UserError(
            f"{pairs} pairs with {number} different ids leave a split with {fewest}; negatives and errors need"
            f" {FEWEST_IDS} in each, so more ids are needed."
        )
    if min(map(len, found)) < FEWEST_A_SPLIT:
        raise UserError(
            f"{pairs} pairs with {number} different ids leave a split with {min(map(len, found))} pairs; "
            f"each needs {FEWEST_A_SPLIT}, so more ids are needed."
        )


def folds(pairs: Pairs, number: int, seed: int) -> list[tuple[Pairs, Pairs, Pairs]]:
    """(fit, select, report) of each of `number` folds, at random: a fold reports once, selects for one other, and fits
    for the rest. Every id is in one fold."""
    _, groups = pairs.ids.unique(return_inverse=True)
    count = int(groups.max()) + 1
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(count))
    parts = [torch.isin(groups, some).nonzero().squeeze(1) for some in order.tensor_split(number)]
    _require_enough([pairs[part] for part in parts], len(pairs), count)
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
    return Pairs(x, y, ids, parts[0].images)


def one_a_sample(pairs: Pairs) -> Pairs:
    """Of pairs with one id the first."""
    _, index = np.unique(pairs.ids.cpu().numpy(), return_index=True)
    return pairs if len(index) == len(pairs) else pairs[torch.from_numpy(np.sort(index)).to(pairs.x.device)]


def has_density(side: Tensor) -> bool:
    """Whether numbers are continuous: in no column does half or more of the rows share its value with another row."""
    return _tied(side) is None


def require_density(what: str, name: str, side: Tensor) -> None:
    """Refuses a side that is not continuous, of which a density, or a distance between ranks, says nothing."""
    column = _tied(side)
    if column is not None:
        raise UserError(
            f"{what} needs a continuous {name}, and in its column {column} most rows repeat another's value: labels, "
            "counts and rounded numbers have no density. Take a method that trains a critic, such as CopulaJS"
            + (", or give the sides in the other order." if name == "y" else ".")
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


def _tensor(name: str, array: Any) -> Tensor:
    if isinstance(array, Tensor):
        tensor = array.detach().cpu()
    else:
        if np.ma.is_masked(array):
            raise UserError(f"{name} is masked in places: leave those rows out, or fill them.")
        array = np.asarray(array)
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise UserError(f"{name} is of type {array.dtype}: numbers are needed.")
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if tensor.is_complex():
        raise UserError(f"{name} is complex: give real and imaginary parts as columns.")
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))


def _joined(name: str, tensors: list[Tensor]) -> Tensor:
    widths = {t.shape[1] for t in tensors}
    if len(widths) > 1:
        raise UserError(f"{name} has {' and '.join(map(str, sorted(widths)))} columns in different splits.")
    if widths == {0}:
        raise UserError(f"{name} has rows without any numbers.")
    if len({t.dtype.is_floating_point for t in tensors}) > 1:
        raise UserError(f"{name} holds integers in one split and floating-point numbers in another.")
    return torch.cat(tensors)


def _image(shapes: set[tuple[int, ...]], whole: Tensor, keep_constant: bool) -> Image | None:
    """The image that columns make, where rows were [height, width] or [channels, height, width], neither narrow."""
    if len(shapes) > 1 or not whole.dtype.is_floating_point:
        return None
    shape = next(iter(shapes))
    if len(shape) not in (2, 3) or min(shape[-2:]) < NARROW:
        return None
    kept = torch.arange(whole.shape[1])
    if not keep_constant:
        kept = kept[(whole != whole[:1]).any(0)]
    channels, height, width = (1, *shape)[-3:]
    return Image((channels, height, width), kept)


def _side(name: str, whole: Tensor, keep_constant: bool) -> tuple[Tensor, list[Check], float | None]:
    if not whole.dtype.is_floating_point:
        return _labels(name, whole)
    bad = (~whole.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise UserError(f"{name} has NaN or infinity in {len(bad)} of {len(whole)} rows ({rows}): repair them.")
    constant = (whole == whole[:1]).all(0)
    if bool(constant.all()):
        raise UserError(f"{name} is the same in every row, so its MI with anything is 0: nothing to estimate.")
    checks: list[Check] = []
    if bool(constant.any()) and not keep_constant:
        number = int(constant.sum())
        columns = ", ".join(map(str, constant.nonzero().flatten().tolist()[:5])) + (", ..." if number > 5 else "")
        sentence = f"{number} of {len(constant)} columns of {name} ({columns}) never change and were left out."
        checks.append(Check(f"constant columns of {name}", float(number), 0.0, "warn", sentence))
        whole = whole[:, ~constant]
    if float(whole.abs().max()) > 1e100:
        raise UserError(f"{name} has numbers beyond 1e100, which no statistic of it would survive: rescale it.")
    return whole if whole.dtype == torch.float64 else whole.float(), checks, None


def _labels(name: str, whole: Tensor) -> tuple[Tensor, list[Check], float | None]:
    """One column of integers is a label: one-hot, and its entropy caps the MI."""
    if whole.shape[1] > 1:
        raise UserError(
            f"{name} holds integers ({str(whole.dtype).removeprefix('torch.')}) in {whole.shape[1]} columns: give "
            "floating-point numbers if they are quantities (such as pixels), or one column if they are labels."
        )
    values, index, counts = whole.flatten().unique(return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise UserError(f"{name} is the same in every row, so its MI with anything is 0: nothing to estimate.")
    if len(values) > min(len(whole) / 5, 1000):
        raise UserError(
            f"{name} holds integers with {len(values)} different values in {len(whole)} rows: too many for labels; "
            "give floating-point numbers if they are quantities."
        )
    part = counts.double() / len(whole)
    entropy = float(-(part * part.log()).sum())
    sentence = f"{name} is a column of integers and was read as a label with {len(values)} values (one-hot)."
    check = Check(f"labels in {name}", float(len(values)), 0.0, "pass", sentence)
    return torch.nn.functional.one_hot(index, len(values)).float(), [check], entropy


def _keys(side: Tensor) -> Tensor:
    """A number for each row, equal where rows are: memory stays O(n)."""
    generator = torch.Generator().manual_seed(0)
    projected = side.double() @ torch.randn(side.shape[1], generator=generator, dtype=torch.float64)
    return projected.unique(return_inverse=True)[1]


def _told_by_a_column(side: Tensor, rows: int) -> bool:
    """Whether one column of several tells nearly all different rows apart: such rows repeat only by being copied."""
    if side.shape[1] < 2:
        return False
    return any(side[:, c].unique().numel() >= 0.8 * rows for c in range(min(side.shape[1], 32)))


def _duplicates(sides: Sequence[Tensor], labels: Sequence[bool], ids: Tensor) -> list[Check]:
    """Pairs that repeat another of another id. Labels and grids repeat by nature; where one side is a label, a repeat
    of the other is told, if it can be no grid; and pairs of few values whose sides tell each other are copies too."""
    keys = [_keys(side) for side in sides]
    if all(labels):
        return []
    # Copies of one id are views of one sample.
    once = np.unique(torch.stack([ids, *keys], 1).numpy(), axis=0, return_index=True)[1]
    x, y = (key[torch.from_numpy(np.sort(once))] for key in keys)
    n, different = len(x), [key.unique().numel() for key in (x, y)]
    told = torch.stack([x, y], 1)
    if any(labels):
        other = 1 if labels[0] else 0
        if not _told_by_a_column(sides[other], different[other]):
            return []
        told = (x, y)[other][:, None]
    _, index, counts = told.unique(dim=0, return_inverse=True, return_counts=True)
    extra = n - len(counts)
    few = not any(labels) and min(different) < n / 5
    if not extra or (few and (len(counts) > 1.5 * max(different) or len(counts) < FEWEST)):
        return []
    share = extra / n
    repeated = torch.from_numpy(np.sort(once))[counts[index] > 1].tolist()
    rows = ", ".join(map(str, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
    sentence = (
        f"{extra} of {n} pairs repeat another (rows {rows}): copies in two splits inflate the value; remove them, "
        "or give copies of one sample the same id."
    )
    return [Check("duplicated pairs", share, 0.01, "fail" if share > 0.01 else "warn", sentence)]


ALIKE = 0.1  # correlation of a row with the next, from which on rows are in some order


def _order(sides: Sequence[Tensor]) -> list[Check]:
    """Rows that resemble the next on both sides. Sorted rows do, and are harmless once they are shuffled; rows in time,
    or in blocks of one origin, share more than x tells of y, and a random split then has neighbours on both sides. One
    cannot be told from the other here, so it is a warning."""
    found = []
    generator = torch.Generator().manual_seed(1)
    for side in sides:
        t = side.double() @ torch.randn(side.shape[1], min(8, side.shape[1]), generator=generator, dtype=torch.float64)
        t = t.argsort(0).argsort(0).double()  # ranks: one far row decides nothing
        t = (t - t.mean(0)) / t.std(0)
        found.append(float((t[1:] * t[:-1]).mean()))
    least, allowed = min(found), max(ALIKE, 4 / math.sqrt(len(sides[0])))
    if least <= allowed:
        return []
    sentence = (
        f"each row is like the next on both sides (rank correlation {found[0]:.2f} and {found[1]:.2f}): harmless if the"
        " rows were sorted; if they come in time order or in blocks, give each block an id, or the value is too high."
    )
    return [Check("row order", least, allowed, "warn", sentence)]


def _ids(given: list[Any], sizes: list[int]) -> Tensor:
    if all(ids is None for ids in given):
        return torch.arange(sum(sizes))
    if any(ids is None for ids in given):
        raise UserError("ids are given for one split and not for another: give them for all, or for none.")
    arrays = [np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids) for ids in given]
    for array, size in zip(arrays, sizes, strict=True):
        if array.shape != (size,) or array.dtype.kind not in "iubUSM":
            raise UserError(
                f"ids must be {size} whole numbers, texts or times, one a pair; they are {array.dtype}"
                f" {[*array.shape]}."
            )
    names, numbers = np.unique(np.concatenate(arrays), return_inverse=True)
    tensors = torch.from_numpy(numbers.astype(np.int64)).split(sizes)
    for i, a in enumerate(tensors):
        for b in tensors[i + 1 :]:
            shared = a[torch.isin(a, b)]
            if len(shared):
                raise UserError(f"id {names[int(shared[0])]} is in two splits: views of one sample must stay in one.")
    return torch.cat(tensors)
