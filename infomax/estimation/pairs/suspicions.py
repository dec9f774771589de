"""Checks of the pairs, before they are split: rows that are copies or in some order, a side told by one column.

Those of an estimate are in evidence/verdict.py.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from infomax.estimation.pairs.pairs import FEWEST, has_density, is_label
from infomax.estimation.ranks import average_ranks
from infomax.estimation.result import Check

ROWS = 1024  # at a time
COLUMNS = 64  # at a time in float64


def row_keys(side: Tensor) -> Tensor:
    """A number for each row, equal where rows are: memory stays O(n)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(side.shape[1], generator=generator, dtype=torch.float64)
    # A sum over each row alone, in one order: a product's last digits differ between equal rows.
    projected = torch.cat([(rows.double() * weights).sum(1) for rows in side.split(ROWS)])
    return projected.unique(return_inverse=True)[1]


def _told_by_a_column(side: Tensor, rows: int) -> bool:
    """Whether one column of several tells nearly all different rows apart: such rows repeat only by being copied."""
    if side.shape[1] < 2:
        return False
    return any(side[:, c].unique().numel() >= 0.8 * rows for c in range(min(side.shape[1], 32)))


def _atoms(side: Tensor) -> Tensor:
    """Rows of which every number recurs in its column in more than one of FEWEST rows, such as zeros [n].

    A value that so many rows have has a probability of its own: it says nothing about who copied whom.
    """
    often = max(3.0, len(side) / FEWEST)
    found = torch.ones(len(side), dtype=torch.bool)
    for column in side.T:
        _, index, counts = column.unique(return_inverse=True, return_counts=True)
        found &= counts[index] > often
        if not bool(found.any()):
            break
    return found


def _partners(key: Tensor, other: Tensor) -> Tensor:
    """How many different rows of the other side each row's own goes with [n]."""
    pairs = torch.stack([key, other], 1).unique(dim=0)
    return torch.bincount(pairs[:, 0], minlength=int(key.max()) + 1)[key]


def duplicates(sides: Sequence[Tensor], labels: Sequence[bool], ids: Tensor) -> list[Check]:
    """Pairs that repeat another of another id, as only copies do.

    Values with a probability of their own repeat by nature, and so do rounded ones: a pair of which both sides recur
    with other partners, or consist of such values, is no copy. Where one side is a label, a repeat of the other is
    told, if it can be no grid; and pairs of few values whose sides tell each other are copies too.
    """
    keys = [row_keys(side) for side in sides]
    if all(labels):
        return []
    # Copies of one id are views of one sample.
    once = torch.from_numpy(np.sort(np.unique(torch.stack([ids, *keys], 1).numpy(), axis=0, return_index=True)[1]))
    x, y = (key[once] for key in keys)
    n, different = len(x), [key.unique().numel() for key in (x, y)]
    atoms = [_atoms(side[once]) for side in sides]
    told = torch.stack([x, y], 1)
    if any(labels):
        other = 1 if labels[0] else 0
        if not _told_by_a_column(sides[other], different[other]):
            return []
        told = (x, y)[other][:, None]
        repeats = ~atoms[other]
    else:
        alone = _partners(x, y) == 1, _partners(y, x) == 1
        repeats = (alone[0] | atoms[0]) & (alone[1] | atoms[1]) & ~(atoms[0] & atoms[1])
    _, index, counts = told.unique(dim=0, return_inverse=True, return_counts=True)
    repeats &= counts[index] > 1
    extra = int(repeats.sum()) - index[repeats].unique().numel()
    few = not any(labels) and min(different) < n / 5
    if not extra or (few and (len(counts) > 1.5 * max(different) or len(counts) < FEWEST)):
        return []
    share = extra / n
    repeated = once[repeats].tolist()
    rows = ", ".join(map(str, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
    sentence = (
        f"{extra} of {n} pairs repeat another (rows {rows}): copies in two splits inflate the value; give copies of "
        "one sample the same id, or leave out those that were recorded twice."
    )
    return [Check("duplicated pairs", share, 0.01, "fail" if share > 0.01 else "warn", sentence)]


GROUP = 10  # rows of one sample, at most, that are looked for
ASKED = 100  # rows that are asked for their nearest
DIRECTIONS = 32  # at random, in which wider sides are looked at: what is near stays so


def near_copies(sides: Sequence[Tensor]) -> list[Check]:
    """Rows in small groups, on both sides ten times nearer to each other than to any other row, as repeated
    measurements of one sample are: fail, where half of the rows have such. Of one column, and y a function of x, a
    tenth has by chance. Sides with a density alone, as equal values are no copies."""
    n = len(sides[0])
    if n < 4 * GROUP or not all(map(has_density, sides)):
        return []
    generator = torch.Generator().manual_seed(2)
    some = torch.randperm(n, generator=generator)[:ASKED]
    grouped = torch.zeros(len(some), dtype=torch.bool)
    (dx, near_x), (dy, near_y) = (_nearest(side, some, generator) for side in sides)
    for size in range(1, GROUP):
        # NaN of equal rows, which are no nearer than others.
        apart = [d[:, size - 1] / d[:, size] < 0.1 for d in (dx, dy)]
        same = (near_x[:, :size].sort().values == near_y[:, :size].sort().values).all(1)
        grouped |= apart[0] & apart[1] & same
    share = float(grouped.double().mean())
    if share <= 0.5:
        return []
    sentence = (
        f"{share:.0%} of the rows are in groups of {GROUP} or fewer that lie on both sides ten times nearer to each"
        " other than to all others, as repeated measurements of one sample do: in two splits they inflate the value;"
        " give rows of one sample the same id, or keep one of each."
    )
    return [Check("near copies", share, 0.5, "fail", sentence)]


def _nearest(side: Tensor, some: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distances to the nearest other rows of `some` rows of a side, and which rows these are [k, GROUP] each."""
    wide = side.shape[1] > DIRECTIONS
    z = _standard_in_directions(side, DIRECTIONS, generator) if wide else _standard(side)
    found = []
    for rows in some.split(max(1, min(ASKED, 20_000_000 // len(z)))):
        # By differences: a product's rounding is larger than what lies between copies.
        d = torch.cdist(z[rows], z, compute_mode="donot_use_mm_for_euclid_dist")
        d[torch.arange(len(rows)), rows] = torch.inf  # itself
        found.append(d.topk(GROUP, largest=False))
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


ALIKE = 0.1  # correlation of a row with a later one, from which on rows are in some order
LATER = 0.3  # beyond the next row: below it, as where classes come in turns, little is shared
UNLIKE = 0.5  # negative: where labels come in random order once a block, rows are up to so unlike the next by design
LONGEST = 4  # lags go to this part of the rows


def order_of_rows(sides: Sequence[Tensor]) -> list[Check]:
    """Rows that resemble the next, or those some rows later, on both sides. Rows in time, in blocks of one origin or in
    a panel share more than x tells of y, and a random split then has alike ones on both sides: fail. Rows that were
    sorted by a column, grouped by a label, or in a cycle that was chosen, resemble each other for that alone, and are
    harmless once they are shuffled: a warning."""
    x, y = (_autocorrelations(_ranked(side)) for side in sides)
    both = np.where(x * y > 0, np.minimum(abs(x), abs(y)), 0.0)
    both[x < 0] -= UNLIKE - ALIKE
    n, lags = len(sides[0]), np.arange(1, len(both) + 1)
    # Of many lags the largest is looked at: what the noise of one of them exceeds once in some 10,000 draws.
    far = np.sqrt((2 * math.log(len(lags)) + 9) / (n - lags))
    allowed = np.where(lags == 1, max(ALIKE, 4 / math.sqrt(n)), np.maximum(LATER, far))
    clear = np.flatnonzero((both > allowed) & (both > 0.8 * (both / allowed).max() * allowed))
    if not len(clear):
        return []
    lag = 1 if both[0] > allowed[0] else 1 + int(clear[0])  # the first that is as clear as any
    least, of_x, of_y = float(both[lag - 1]), x[lag - 1], y[lag - 1]
    why_not = _chosen(sides, (x, y), allowed)
    if lag == 1 and of_x > 0:
        told = "each row is like the next"
        why = (
            "as in time order or in blocks of one origin, and the value is too high for such; give blocks, the number "
            "of rows beyond which they are alike no more, 'auto', or a block's name for each row."
        )
    else:
        told = f"each row goes with the {'next' if lag == 1 else f'one {lag} rows later'}"
        why = (
            "as in a panel, a season or a series that swings, and the value is too high for such; give blocks, best by "
            "a name for each row, such as its subject or its day."
        )
    sentence = f"{told} on both sides (rank correlation {of_x:.2f} and {of_y:.2f}), "
    sentence += why if why_not is None else f"and rows {why_not} give blocks."
    return [Check("row order", least, float(allowed[lag - 1]), "fail" if why_not is None else "warn", sentence)]


def _chosen(sides: Sequence[Tensor], r: Sequence[np.ndarray], allowed: np.ndarray) -> str | None:
    """By what an order of rows was chosen, so that it is harmless; None where nothing tells that it was.

    r: of each side, the correlations by lag; allowed: as large as chance has them. Of a label beside numbers it is
    asked whether these are in an order beyond the label's own: less the means of labels, subjects of two groups in
    turns still resemble themselves.
    """
    labels = [is_label(side) for side in sides]
    for name, label, other in (("x", *sides), ("y", *sides[::-1])):
        if is_label(label) and not all(labels):
            if bool((_autocorrelations(_ranked(_within(other, label))) > allowed).any()):
                return None
            return f"come in an order of {name}'s labels, and of nothing else: harmless where that was chosen; else"
    named = list(zip(("x", "y"), sides, r, strict=True))
    for name, side, _ in named:
        if _is_sorted(side):
            return f"are sorted by a column of {name}: harmless unless that is the time; then"
    for name, side, correlations in named:
        if _is_cycle(side, correlations):
            return f"of {name} come in one cycle: harmless where that was chosen; else"
    for name, side, _ in named:
        if _is_even(side):
            return f"of {name} are spread more evenly than chance has it: harmless in a design; else"
    return None


def _ranked(side: Tensor) -> np.ndarray:
    """Standardised ranks of up to eight random directions of a side [n, p]: one far row decides nothing.

    Of standardised columns, so that one in millions hides no other. Equal rows share their ranks, as they have no
    order. A product differs in its last digits between equal rows.
    """
    generator = torch.Generator().manual_seed(1)
    t = _standard_in_directions(side, min(8, side.shape[1]), generator, as_they_are=is_label(side))
    ranks = average_ranks(((t - t.mean(0)) / t.std(0)).float().numpy())
    ranks = ranks - ranks.mean(0)
    return ranks / ranks.std(0, ddof=1).clip(min=1e-12)


def _standard(side: Tensor) -> Tensor:
    t = side.double()
    return (t - t.mean(0)) / t.std(0).clamp(min=torch.finfo(torch.float64).tiny)


def _standard_in_directions(side: Tensor, number: int, generator: torch.Generator, as_they_are: bool = False) -> Tensor:
    """Standardised columns [n, d] in so many random directions [n, number]; some columns at a time in float64."""
    directions = torch.randn(side.shape[1], number, generator=generator, dtype=torch.float64)
    found = torch.zeros(len(side), number, dtype=torch.float64)
    for columns, weights in zip(side.split(COLUMNS, 1), directions.split(COLUMNS), strict=True):
        found += (columns.double() if as_they_are else _standard(columns)) @ weights
    return found


def _autocorrelations(ranks: np.ndarray) -> np.ndarray:
    """Of standardised columns [n, p], the mean product of a row and the one so many rows later: lags from 1 on."""
    n = len(ranks)
    lags = np.arange(1, max(n // LONGEST, 1) + 1)
    power = np.zeros(n + 1)
    for column in ranks.T:  # each by itself, as many rows of all at once are large
        power += np.abs(np.fft.rfft(column, 2 * n)) ** 2
    return np.fft.irfft(power, 2 * n)[lags] / (n - lags) / ranks.shape[1]


def _is_cycle(side: Tensor, r: np.ndarray) -> bool:
    """Whether nearly all rows come again, equal, after one number of rows; r: correlations by lag, from 1 on."""
    step = int((r > 0.8 * r.max()).argmax()) + 1
    return float((side[step:] == side[:-step]).all(1).double().mean()) > 0.9


def _within(side: Tensor, label: Tensor) -> Tensor:
    """Rows less the mean of their label's."""
    of = label.argmax(1)
    sums = torch.zeros(label.shape[1], side.shape[1], dtype=torch.float64).index_add_(0, of, side.double())
    return side.double() - (sums / label.sum(0).clamp(min=1)[:, None])[of]


def _is_even(side: Tensor) -> bool:
    """Whether values of a column, in no order, are spread as evenly as those of a Sobol sequence or a shuffled grid."""
    for column in side.double().T[:64]:
        values = column.sort().values
        span = values[-1] - values[0]
        even = torch.linspace(0, 1, len(values), dtype=torch.float64)
        if span > 0 and float(((values - values[0]) / span - even).abs().max()) < 0.2 / math.sqrt(len(values)):
            steps = column.diff()
            if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):  # a clock's are
                return True
    return False


def _is_sorted(side: Tensor) -> bool:
    """Whether a column never falls or never rises, or labels come one after the other; equal steps are a clock's."""
    if is_label(side):
        label = side.argmax(1)
        return len(label.unique_consecutive()) == len(label.unique())
    for column in side.double().T:
        steps = column.diff()
        even = float(steps.std()) < 1e-3 * float(steps.abs().mean())
        if not even and (bool((steps >= 0).all()) or bool((steps <= 0).all())):
            return True
    return False
