"""Pairs changed in ways whose effect on MI is known, and Gaussians of their shape whose MI is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infomax.errors import UserError
from infomax.estimation.pairs import Pairs
from infomax.estimation.pairs.reading import Side
from infomax.estimation.result import Check

SHAPE_ROWS = 512  # that lend a Gaussian their covariance
Rows = tuple[Any, ...]  # x, y, z where it is given, ids


@dataclass(frozen=True)
class Part:
    """The pairs of one split, or of all. A label is a column of integers; `labels` counts its values, 0 for numbers.

    sides: x and y, and z where it is given, which goes with y.
    """

    sides: tuple[Tensor, ...]
    labels: tuple[int, ...]
    ids: Tensor

    def rows(self, index: Tensor) -> Rows:
        return (*(side[index] for side in self.sides), self.ids[index])

    def deranged(self, generator: torch.Generator) -> Rows:
        """Every x with a y of another id: ids in a random order, the rows of each in their own, so that blocks stay
        series; y moved on by the most rows that an id has."""
        _, sample, counts = self.ids.unique(return_inverse=True, return_counts=True)
        most = int(counts.max())
        if 2 * most > len(sample):
            raise UserError(f"one id has {most} of {len(sample)} pairs, so its rows cannot all be given another's.")
        order = torch.randperm(len(counts), generator=generator)[sample].argsort(stable=True)
        return (self.sides[0][order], *(side[order.roll(most)] for side in self.sides[1:]), self.ids[order])

    def doubled(self) -> Rows:
        """x twice, y beside a function of itself. A label stays alone, as integers have one column."""
        if all(self.labels[:2]):
            raise UserError("both sides are labels, which cannot be given twice.")
        x, y, *z = self.sides
        x = x if self.labels[0] else torch.cat([x, x], 1)
        return (x, y if self.labels[1] else torch.cat([y, _folded(y)], 1), *z, self.ids)

    def folded(self) -> Rows:
        """One side by a function that loses something: y, or x where y is a label of two values."""
        x, y, *z = self.sides
        if self.labels[1] != 2:
            return (x, y // 2 if self.labels[1] else _folded(y), *z, self.ids)
        if self.labels[0] != 2:
            return (x // 2 if self.labels[0] else _folded(x), y, *z, self.ids)
        raise UserError("both sides are labels of two values, and a function of one loses all or nothing.")

    def halves(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows i and j of two halves without a common id: the samples with most rows first, by turns, row by row."""
        _, sample, counts = self.ids.unique(return_inverse=True, return_counts=True)
        shuffled = torch.randperm(len(counts), generator=generator)
        shuffled = shuffled[counts[shuffled].argsort(descending=True, stable=True)]
        shuffled = shuffled[: len(shuffled) // 2 * 2]
        rows = sample.argsort(stable=True)
        start = counts.cumsum(0) - counts
        size = counts[shuffled[1::2]]  # the smaller of each two
        within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
        left, right = (rows[start[half].repeat_interleave(size) + within] for half in (shuffled[::2], shuffled[1::2]))
        return left, right

    def beside(self, left: Tensor, right: Tensor) -> Rows:
        """Columns of two rows next to each other; of two labels, their pair as one label."""
        both = (
            side[left] * number + side[right] if number else torch.cat([side[left], side[right]], 1)
            for side, number in zip(self.sides, self.labels, strict=True)
        )
        return (*both, self.ids[left])


def _folded(columns: Tensor) -> Tensor:
    # Not at the mean: a column of as many 1s as -1s would fold into a constant.
    return (columns - columns.mean(0) - columns.std(0) / 2).abs()


def parts_of(pairs: Sequence[Pairs], told: Sequence[Check], z: Side | None = None) -> list[Part]:
    names = {check.name for check in told}
    labelled = [f"labels in {name}" in names for name in ("x", "y")]
    found: list[Part] = []
    for part in pairs:
        # Images stay images, that they may be read as such again: columns next to each other are then channels.
        both = tuple(
            side if image is None else image(side) for side, image in zip((part.x, part.y), part.images, strict=True)
        )
        sides = [
            side.argmax(1, keepdim=True) if is_label else side for side, is_label in zip(both, labelled, strict=True)
        ]
        labels = [side.shape[1] if is_label else 0 for side, is_label in zip(both, labelled, strict=True)]
        if z is not None:
            sides.append(z.values.argmax(1, keepdim=True) if z.is_label else z.values)
            labels.append(z.values.shape[1] if z.is_label else 0)
        found.append(Part(tuple(sides), tuple(labels), part.ids))
    return found


def gaussians(pairs: Sequence[Pairs], nats: float, generator: torch.Generator) -> list[Rows]:
    """Normal pairs with these sizes and each side's covariance, whose MI is `nats`: as many of the largest principal
    components are correlated, all alike, as the flatter side's spectrum is wide (its participation ratio)."""
    shapes = [_shape(torch.cat([getattr(part, side) for part in pairs]), generator) for side in ("x", "y")]
    width = max(1, round(min(float(scale.square().sum() ** 2 / scale.pow(4).sum()) for scale, _ in shapes)))
    rho = math.sqrt(-math.expm1(-2 * nats / width))
    made: list[Rows] = []
    for part in pairs:
        u, v = (torch.randn(len(part), len(scale), generator=generator) for scale, _ in shapes)
        v[:, :width] = rho * u[:, :width] + math.sqrt(1 - rho**2) * v[:, :width]
        x, y = (white @ (scale[:, None] * axes) for white, (scale, axes) in zip((u, v), shapes, strict=True))
        made.append((x, y, part.ids))
    return made


def gaussians_about(z: Side, pairs: Pairs, nats: float, generator: torch.Generator) -> Rows:
    """Rows of these z, with normal x and y about what a linear regression on z predicts: as spread as what it leaves,
    and I(X; Y | Z) = `nats`, whatever z is."""
    columns = z.values.flatten(1).double()
    columns = columns[:, (columns != columns[:1]).any(0)]
    columns = torch.cat([(columns - columns.mean(0)) / columns.std(0), torch.ones(len(columns), 1)], 1)
    if 2 * columns.shape[1] > len(columns):
        raise UserError(f"given has {columns.shape[1] - 1} columns and {len(columns)} rows, too few to regress on it.")
    sides = [side.double() for side in (pairs.x, pairs.y)]
    known = [columns @ torch.linalg.lstsq(columns, side, driver="gelsd").solution for side in sides]
    left = [side - predicted for side, predicted in zip(sides, known, strict=True)]
    for name, side, rest in zip(("x", "y"), sides, left, strict=True):
        if not bool((rest.std(0) > 1e-6 * side.std(0)).any()):
            raise UserError(f"given predicts {name} without error, so nothing of it is left to share.")
    [(u, v, ids)] = gaussians([Pairs(left[0], left[1], pairs.ids)], nats, generator)
    x, y = (fit + white * rest.std(0) for fit, white, rest in zip(known, (u, v), left, strict=True))
    return x, y, z.values.argmax(1, keepdim=True) if z.is_label else z.values, ids


def _shape(side: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Deviations [r], largest first, and axes [r, d] of the standardised columns of some rows: their covariance."""
    rows = side[torch.randperm(len(side), generator=generator)[:SHAPE_ROWS]].double()
    rows = rows - rows.mean(0)
    deviation = rows.std(0)
    rows = rows / torch.where(deviation > 0, deviation, 1.0)
    _, scale, axes = torch.linalg.svd(rows / math.sqrt(len(rows) - 1), full_matrices=False)
    keep = scale > 1e-6 * scale[0]
    return scale[keep].float(), axes[keep].float()
