"""Validates the user's arrays, turns them into `Pairs`, and reports anything suspicious as checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.pairs.arrays import never_changes, require_finite, tensor_of
from infomax.estimation.pairs.circle import sectors
from infomax.estimation.pairs.compositions import coordinates
from infomax.estimation.pairs.functions import functions
from infomax.estimation.pairs.pairs import FEWEST, Image, Pairs, is_label
from infomax.estimation.pairs.suspicions import duplicates, near_copies, order_of_rows, row_keys
from infomax.estimation.result import Check

MOST_COUNTS = 100  # different numbers
STATES = 4  # different rows a column, at most, that are read as labels
RECUR = 20  # times that a row of several columns comes, on average, from which on it may be meant as a name
NARROW = 8  # an image's height and width at least: smaller arrays have no places to speak of


def prepared(
    parts: Sequence[tuple[Any, Any, Any]],
    keep_constant: bool = False,
    classes: str = "",
    log_ratios: bool = True,
    unordered: str = "",
) -> tuple[list[Pairs], list[Check], float | None]:
    """Checks and converts (x, y, ids or None) parts alike: a column of labels becomes one-hot, and constant columns
    leave unless they are kept. classes: "x", "y" or "xy", the sides whose few different rows are labels, though they
    are floating-point numbers. log_ratios: whether parts of a whole become their log-ratios, a column fewer. unordered:
    likewise, the sides whose labels are names of classes, without an order.

    Returns the parts, the checks that the arrays gave rise to, and a cap in nats on MI where labels give one.
    Raises UserError as `estimate` says.
    """
    parts = [(tensor_of("x", x), tensor_of("y", y), ids) for x, y, ids in parts]
    for x, y, _ in parts:
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
        whole = _joined(
            name, [part[column].flatten(1) if part[column].ndim > 1 else part[column][:, None] for part in parts]
        )
        images.append(_image({tuple(part[column].shape[1:]) for part in parts}, whole, keep_constant))
        side, found, cap = _side(name, whole, keep_constant, name in classes)
        if is_label(side):
            images[-1] = None
        raw.append(whole)
        sides.append(side)
        checks += found
        caps += [] if cap is None else [cap]
    labels = [is_label(side) for side in sides]
    # A label with itself has its entropy.
    if not all(labels) and raw[0].shape == raw[1].shape and bool((raw[0] == raw[1]).all()):
        sentence = "x and y are the same array: the MI of a continuous variable with itself is infinite, give two."
        checks.append(Check("identical", 1.0, 0.0, "fail", sentence))
    ids = _ids([part[2] for part in parts], sizes)
    checks += duplicates(sides, labels, ids)
    if not any(labels):
        checks += functions(sides)
    if all(part[2] is None for part in parts):
        checks += order_of_rows(sides)
        checks += [] if any(labels) else near_copies(sides)
    for k, name in enumerate(("x", "y")):
        if log_ratios and not keep_constant and not labels[k] and images[k] is None:
            sides[k], found = coordinates(name, sides[k])
            checks += found
    both = (images[0], images[1])
    split_up = zip(
        sides[0].split(sizes), sides[1].split(sizes), ids.split(sizes), torch.arange(len(ids)).split(sizes), strict=True
    )
    pairs = [Pairs(x, y, i, both, rows, unordered) for x, y, i, rows in split_up]
    return pairs, checks, min(caps, default=None)


@dataclass(frozen=True)
class Side:
    """One of a user's arrays by itself: its name, its rows as they came [n, d], and as they are read [n, ...].

    is_label: whether values are one-hot. checks: what there is to say of it. entropy: of its different rows, in nats,
    where they are few. unordered: whether it is a label whose values are names of classes, without an order.
    """

    name: str
    raw: Tensor
    values: Tensor
    is_label: bool
    checks: list[Check]
    entropy: float | None
    unordered: bool = False


def side(name: str, given: Any, unordered: bool = False) -> Side:
    """Reads one array [n, ...] by itself. name: for the sentences. unordered: whether its labels have no order. Raises
    UserError as `estimate` says."""
    raw = tensor_of(name, given)
    if len(raw) == 0:
        raise UserError(f"{name} is empty: there is nothing to estimate from.")
    whole = _joined(name, [raw.flatten(1) if raw.ndim > 1 else raw[:, None]])
    values, checks, entropy = _side(name, whole, False, False)
    label = is_label(values)
    if not label:
        # It is read again beside another side, where parts of a whole would be known as such no more, and images by the
        # places of their pixels.
        image = _image({tuple(raw.shape[1:])}, whole, False) is not None
        values, found = (values, []) if image else coordinates(name, values)
        checks += found
        values = values if found else raw if raw.ndim > 1 else whole
    return Side(name, whole, values, label, checks, entropy, label and unordered)


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
    if len(shapes) > 1:
        return None
    shape = next(iter(shapes))
    if len(shape) not in (2, 3) or min(shape[-2:]) < NARROW:
        return None
    kept = torch.arange(whole.shape[1])
    if not keep_constant:
        kept = kept[(whole != whole[:1]).any(0)]
    channels, height, width = (1, *shape)[-3:]
    return Image((channels, height, width), kept)


def _side(name: str, whole: Tensor, keep_constant: bool, classes: bool) -> tuple[Tensor, list[Check], float | None]:
    checks: list[Check] = []
    if not whole.dtype.is_floating_point:
        if whole.shape[1] == 1:
            return _labels(name, whole)
        whole = whole.double()
        if not is_label(whole):  # one-hot, as get_dummies writes it
            checks.append(whole_numbers(name, whole.shape[1]))
    require_finite(name, whole)
    constant = (whole == whole[:1]).all(0)
    if bool(constant.all()):
        raise never_changes(name)
    if bool(constant.any()) and not keep_constant:
        number = int(constant.sum())
        columns = ", ".join(map(str, constant.nonzero().flatten().tolist()[:5])) + (", ..." if number > 5 else "")
        sentence = f"{number} of {len(constant)} columns of {name} ({columns}) never change and were left out."
        checks.append(Check(f"constant columns of {name}", float(number), 0.0, "warn", sentence))
        whole = whole[:, ~constant]
    if float(whole.abs().max()) > 1e100:
        raise UserError(f"{name} has numbers beyond 1e100, which no statistic of it would survive: rescale it.")
    side = whole if whole.dtype == torch.float64 and not is_label(whole) else whole.float()
    if keep_constant:
        return side, checks, None
    checks += sectors(name, side)
    found = states(side)
    if len(found.counts) > most_labels(len(side)):
        return side, checks, None
    few = side.shape[1] > 1 and len(found.counts) <= STATES * side.shape[1]
    if (few or classes) and not is_label(side):
        # Columns of so few different rows have no covariance to speak of, and which row it is says as much.
        sentence = f"{name} has {len(found.counts)} different rows, which were read as so many labels (one-hot)."
        checks.append(Check(f"states of {name}", float(len(found.counts)), 0.0, "pass", sentence))
        side = torch.nn.functional.one_hot(found.index, len(found.counts)).float()
    elif side.shape[1] > 1 and not is_label(side) and RECUR * len(found.counts) <= len(side):
        sentence = (
            f"{name} has {len(found.counts)} different rows, which were read as numbers; if they are names, such as"
            f" genotypes or codes of places, labels='{name}' reads them so."
        )
        checks.append(Check(f"different rows of {name}", float(len(found.counts)), 0.0, "pass", sentence))
    return side, checks, found.entropy


@dataclass(frozen=True)
class States:
    """The different rows of a side: which one each row is [n], how often each occurs, and their entropy in nats."""

    index: Tensor
    counts: Tensor

    @property
    def entropy(self) -> float:
        part = self.counts.double() / len(self.index)
        return float(-(part * part.log()).sum())


def states(side: Tensor) -> States:
    _, index, counts = row_keys(side).unique(return_inverse=True, return_counts=True)
    return States(index, counts)


def counts(sides: Sequence[Tensor]) -> list[str]:
    """Of x [n, dx] and y [n, dy], which one is a column of few floating-point numbers, such as counts, beside numbers
    that are many."""
    few = []
    for side in sides:
        number = 0 if is_label(side) else len(states(side).counts)
        few.append(side.shape[1] == 1 and 3 <= number <= min(MOST_COUNTS, most_labels(len(side))))
    other = [is_label(side) or few[k] for k, side in enumerate(sides)]
    return [name for k, name in enumerate(("x", "y")) if few[k] and not other[1 - k]]


def most_labels(rows: int) -> float:
    return min(rows / 5, 1000)


def _labels(name: str, whole: Tensor) -> tuple[Tensor, list[Check], float | None]:
    """One column of integers is a label: one-hot, and its entropy caps the MI."""
    values, index, counts = whole.flatten().unique(return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise never_changes(name)
    if len(values) > most_labels(len(whole)):
        raise UserError(
            f"{name} holds integers with {len(values)} different values in {len(whole)} rows: too many for labels; "
            "give floating-point numbers if they are quantities."
        )
    entropy = States(index, counts).entropy
    sentence = f"{name} is a column of integers and was read as a label with {len(values)} values (one-hot)."
    check = Check(f"labels in {name}", float(len(values)), 0.0, "pass", sentence)
    return torch.nn.functional.one_hot(index, len(values)).float(), [check], entropy


def whole_numbers(name: str, number: int, columns: Sequence[str] = ()) -> Check:
    """Says that whole numbers of a side are quantities, as it has several columns. number: of columns of them.
    columns: their names, where they have some."""
    sentence = f"whole numbers were read as quantities, as {name} has several columns"
    sentence += f": {', '.join(columns)}." if columns else "."
    return Check(f"whole numbers of {name}", float(number), 0.0, "pass", sentence)


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
