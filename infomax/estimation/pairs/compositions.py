"""Compositions: rows of parts of a whole, which sum to one number, as centred log-ratios.

A part follows from the others, so that the columns have no density and no covariance of full rank, and a sum that is
fixed makes parts depend that have nothing to do with each other. Log-ratios have neither fault, and the map can be
undone, so that MI stays as it is. (Aitchison, 1982)
"""

import torch
from torch import Tensor

from infomax.estimation.result import Check

CLOSED = 1e-5  # of the sum, how far rows are from it at most: rounding of float32, and no rounding of one's own
VARIES = 1e-3  # of the columns' deviation, likewise: columns far from 0 are no parts for that
WIDE = 64  # parts, above which log-ratios are not turned to their principal axes: few of many may depend
FIRST = 100  # rows, that are looked at first
POSITIVE = 0.5  # share of the entries, above which zeros are raised: indicators of several labels have no more
RAISED = 0.5  # of the least positive part of its column, by which a column with zeros is raised


def is_composition(side: Tensor) -> bool:
    """Whether rows [n, d] are parts, none negative, that sum to the same in every row: of two columns at least."""
    if side.shape[1] < 2:
        return False
    for part in (side[:FIRST], side):  # most sides are seen not to be one by few rows
        total = part.double().sum(1)
        off, mean = float((total - total.mean()).abs().max()), float(total.mean())
        if bool((part < 0).any()) or off > CLOSED * mean:
            return False
    return off <= VARIES * float(side.double().var(0).mean().sqrt())


def coordinates(name: str, side: Tensor) -> tuple[Tensor, list[Check]]:
    """Of a composition [n, d] its centred log-ratios but the last, which follows from them [n, d - 1], and what to say
    of it; of all else the side as it is. name: "x" or "y".

    A column with zeros, which have no logarithm, is raised by half of its least positive part first: that can be undone
    too, and zeros stay equal. A side of which half of the entries or more are zeros is left as it is.
    """
    if not is_composition(side):
        return side, []
    zeros = side == 0
    rows, told = int(zeros.any(1).sum()), f"rows of {name} are parts of a whole (each sums to {_total(side)})"
    if float(zeros.double().mean()) >= POSITIVE:
        sentence = f"{told}, and most parts are 0, so that they were read as they are; give sums of parts that belong "
        return side, [Check(f"composition of {name}", float(rows), 0.0, "warn", sentence + "together.")]
    parts = side.double()
    sentence = f"{told}, and were read as their log-ratios"
    if rows:
        least = torch.where(zeros, torch.inf, parts).amin(0)
        parts = parts + torch.where(zeros.any(0), RAISED * least, 0.0)
        sentence += f"; {rows} rows have zeros, so columns with zeros were raised by half of their least part first"
    found = _principal(parts.log())
    check = Check(f"composition of {name}", float(rows), 0.0, "warn" if rows else "pass", sentence + ".")
    return found.to(side.dtype), [check]


def _principal(logs: Tensor) -> Tensor:
    """Centred log-ratios [n, d] along their principal axes but the last, along which there is nothing [n, d - 1]. Of
    very many parts, all but the last of them.

    Ratios of parts that rise and fall together are almost the same column twice, and what is left between two such
    columns is less than the noise of their ranks.
    """
    centred = logs - logs.mean(1, keepdim=True)
    if centred.shape[1] > WIDE:
        return centred[:, :-1]
    centred = centred - centred.mean(0)
    found = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, 1:].flip(1)
    different, index = logs.unique(dim=0, return_inverse=True)
    if len(different) == len(logs):
        return found
    first = torch.full((len(different),), len(logs)).scatter_reduce(0, index, torch.arange(len(logs)), "amin")
    return found[first[index]]  # equal rows stay equal to the last digit, which a product does not promise


def _total(side: Tensor) -> str:
    return f"{float(side.double().sum(1).mean()):.4g}"
