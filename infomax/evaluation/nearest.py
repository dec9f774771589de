"""The search and vote behind the kNN probe of probing.py: exact, by blocks, so that neither side need be in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from infomax import critics
from infomax.evaluation.features import Features, Floats, Ints

QUERIES = 1024  # rows of a block at most
BANK = 8192
NUMBERS = 2**20  # of a block of either at most: 4 MiB
KNN_TEMPERATURE = 0.1  # of a neighbour's weight in the vote, exp(cosine / temperature)


def nearest(
    bank: Features, queries: Features, k: int, *, of: Ints | None = None, at: Ints | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The k rows of the bank with the highest cosine to each query, highest first; of equal ones the first comes first.

    bank [n, d], queries [m, d]: features; of, at: which rows of them, by default all. Yields, for a block of queries at
    a time, cosines [b, k] and places in the bank, int64 [b, k], counted along `of`. k: n at most. Two blocks are held,
    their cosines [b, c], and the best so far. Rows of zeros have cosine 0 with all.
    """
    d = bank.shape[1]
    few, many = (max(1, min(most, NUMBERS // d)) for most in (QUERIES, BANK))
    for rows in queries.blocks(at, few):
        query, start = unit(rows), 0
        best, places = torch.zeros(len(query), 0), torch.zeros(len(query), 0, dtype=torch.int64)
        for block in bank.blocks(of, many):
            values, index = _top(query @ unit(block).T, k)
            best, places = _better(torch.cat([best, values], 1), torch.cat([places, index + start], 1), k)
            start += len(block)
        yield best, places


def votes(
    bank: Features, y: Ints, queries: Features, ks: Sequence[int], classes: int, of: Ints | None = None,
    at: Ints | None = None,
) -> list[Ints]:  # fmt: skip
    """The class, int64 [m], that the k nearest rows of the bank give to each query, for every k of ks.

    bank, queries, of, at: as nearest() takes them. y: labels 0 .. classes - 1 of the bank's rows `of`.
    """
    labels, parts = torch.from_numpy(y), []
    for similar, index in nearest(bank, queries, max(ks), of=of, at=at):
        weight = ((similar - similar[:, :1]) / KNN_TEMPERATURE).exp()
        empty = torch.zeros(len(similar), classes)
        sums = [empty.scatter_add(1, labels[index[:, :k]], weight[:, :k]) for k in ks]
        parts.append([each.argmax(1).numpy() for each in sums])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def unit(rows: Floats) -> Tensor:
    """rows [b, d] -> [b, d] of length 1, a copy; rows of zeros stay zeros."""
    return critics.Cosine(1.0).embed_alike(torch.tensor(rows))


def _top(similar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row [b, c] and their columns; of those equal to the last, the first columns."""
    if similar.shape[1] <= k:
        return similar, torch.arange(similar.shape[1]).expand(similar.shape)
    values, index = similar.topk(k + 1, dim=1)
    tied = values[:, k - 1] == values[:, k]
    if bool(tied.any()):  # rare, and a sort is dear
        ranked, order = similar[tied].sort(dim=1, descending=True, stable=True)
        values[tied], index[tied] = ranked[:, : k + 1], order[:, : k + 1]
    return values[:, :k], index[:, :k]


def _better(values: Tensor, places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row [b, c] of few, highest first, of equal ones the lowest place first."""
    places, order = places.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values[:, :k], places.gather(1, order)[:, :k]
