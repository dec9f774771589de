"""Retrieval by label from frozen features: each test image is a query, and all others are what it is compared with."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.evaluation.common import shown, wilson
from infomax.evaluation.features import Features, Ints
from infomax.evaluation.jackknife import Doubles, jackknife, log_odds, of_log_odds
from infomax.evaluation.nearest import unit
from infomax.evaluation.targets import random_precision

KS = (1, 5, 10)
COSINES = 2**24  # of a block of queries with all images at most: 64 MiB
RANKED = 2**19  # of these at a time are ranked
QUERIES, BANK, NUMBERS = 1024, 8192, 2**22  # rows of a block at most, and numbers of its rows: 16 MiB
# Numbers of LabelRetrieval that tables show, and what they are called there.
SHOWN = {"recall_1": "recall@1", "recall_5": "recall@5", "recall_10": "recall@10", "mean_average_precision": "mAP"}


@final
@dataclass(frozen=True, slots=True)
class LabelRetrieval:
    """Retrieval of test images by test images of their label, by the cosine of features, in [0, 1].

    Each test image is a query, all others are its gallery, and those of its label are relevant. recall_1, recall_5,
    recall_10: the share of queries with a relevant image among the 1, 5 and 10 nearest; None where the gallery has
    fewer. Of equal cosines each is as likely to come first. mean_average_precision: the mean over queries of average
    precision over the whole gallery, where equal cosines are one threshold, as scikit-learn has it.
    Intervals of 95 %, of the mean value of other test parts of as many images: of recall Wilson's, at fewer images
    where two that are nearest each other are right or wrong together (it covers recall_1 in 92 to 96 %, and at all
    queries in 85 to 92); of mAP the jackknife over images, both as queries and in galleries, on the scale of
    log(mAP / (1 - mAP)). That one is 1.3 to 1.5 times too wide where classes have few images or features know nothing,
    and None where mAP is 1, or is without some image.
    chance: of each number, what ranking at random has on average. queries: how many. gallery: images that each is
    compared with. left_out: test images that are alone in their class, which are no queries.
    """

    recall_1: float | None
    recall_1_interval: tuple[float, float] | None
    recall_5: float | None
    recall_5_interval: tuple[float, float] | None
    recall_10: float | None
    recall_10_interval: tuple[float, float] | None
    mean_average_precision: float
    mean_average_precision_interval: tuple[float, float] | None
    chance: dict[str, float]
    queries: int
    gallery: int
    left_out: int

    def __str__(self) -> str:
        cells = []
        for key, name in SHOWN.items():
            value, interval = getattr(self, key), getattr(self, f"{key}_interval")
            if value is not None:
                cells.append(f"{name} {f'{value:.3f} [no interval]' if interval is None else shown(value, interval)}")
        return "  ".join(cells)

    @property
    def said(self) -> str | None:
        """A sentence on the images that are no queries; None where there are none."""
        if not self.left_out:
            return None
        if self.left_out == 1:
            return "1 test image, alone in its class, is left out as a query of retrieval."
        return f"{self.left_out} test images, each alone in its class, are left out as queries of retrieval."


def retrieval_by_label(x: Features, y: Ints) -> LabelRetrieval | None:
    """How well images x [m, d] of labels y [m], 0 or more, find those of their label; None where no two have one.

    Features are read by blocks: the queries once, and all of them again for each block of queries.
    """
    counts = np.bincount(y)
    relevant = counts[y] - 1
    queries, gallery = np.flatnonzero(relevant > 0), len(y) - 1
    if not len(queries):
        return None
    found = _Found(len(y))
    for at, cosines in _cosines(x, queries):
        step = max(1, RANKED // len(y))
        for part, block in zip(at.split(step), cosines.split(step), strict=True):
            found.add(part, block, torch.from_numpy(y))
    values: dict[str, Any] = {}
    chance: dict[str, float] = {}
    r = torch.from_numpy(relevant[queries]).double()
    for k in KS:
        name, enough = f"recall_{k}", k <= gallery
        hits = torch.cat(found.recalls[k]).numpy()
        values[name] = float(hits.mean()) if enough else None
        values[f"{name}_interval"] = _interval(hits, queries, found) if enough else None
        if enough:
            chance[name] = float(recalled(torch.zeros_like(r), torch.full_like(r, gallery), r, k).mean())
    precision = float(torch.cat(found.precisions).mean())
    with np.errstate(invalid="ignore", divide="ignore"):
        without = found.without / found.among
    interval = jackknife(precision, without, log_odds, of_log_odds)
    chance["mean_average_precision"] = random_precision(relevant[queries], gallery)
    return LabelRetrieval(
        **values,
        mean_average_precision=precision,
        mean_average_precision_interval=None if isinstance(interval, str) else interval,
        chance=chance, queries=len(queries), gallery=gallery, left_out=len(y) - len(queries),
    )  # fmt: skip


def _cosines(x: Features, queries: Ints) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of queries [b] and their cosines [b, m] with all images, a block at a time."""
    d = x.shape[1]
    rows = max(1, min(QUERIES, NUMBERS // d, COSINES // len(x)))
    for at, block in zip(torch.from_numpy(queries).split(rows), x.blocks(queries, rows), strict=True):
        query, cosines, done = unit(block), torch.empty(len(block), len(x)), 0
        for others in x.blocks(rows=max(1, min(BANK, NUMBERS // d))):
            cosines[:, done : done + len(others)] = query @ unit(others).T
            done += len(others)
        yield at, cosines


class _Found:
    """What the queries retrieve, a block of them after the other.

    recalls, precisions: of each query, in order. nearest, first [m]: of each query the image that is nearest, and the
    nearest relevant one; -1 where it is no query. without, among [m]: without each image, the sum of the others'
    average precision and the number of queries.
    """

    def __init__(self, m: int):
        self.recalls: dict[int, list[Tensor]] = {k: [] for k in KS}
        self.precisions: list[Tensor] = []
        self.nearest, self.first = np.full(m, -1), np.full(m, -1)
        self.without, self.among = np.zeros(m), np.zeros(m)

    def add(self, at: Tensor, cosines: Tensor, y: Tensor) -> None:
        """at [b]: queries, by number. cosines [b, m]: of each with all images; overwritten. y [m]: labels."""
        far = cosines.neg_().scatter_(1, at[:, None], math.inf)  # the lower, the nearer; an image does not find itself
        members, r = _members(y, y[at])
        place = torch.arange(members.shape[1])
        relevant = (place <= r[:, None]) & (members != at[:, None])
        own = far.gather(1, members).masked_fill_(~relevant, math.inf)
        self.nearest[at] = far.argmin(1).numpy()
        self.first[at] = members.gather(1, own.argmin(1, keepdim=True))[:, 0].numpy()
        own, inside = torch.from_numpy(np.sort(own.numpy(), 1)), place < r[:, None]  # from the nearest relevant one on
        # How many relevant images are nearer than each image; and up to each relevant one, relevant images and all.
        nearer = torch.searchsorted(own, far)
        among = nearer.gather(1, members)
        seen, hits = (_up_to(of, len(place)) for of in (nearer, among.masked_fill(~relevant, len(place))))
        part = (hits / seen.clamp(min=1)).masked_fill_(~inside, 0)
        fewer = (seen - 1).clamp(min=1)
        total, left = part.sum(1, keepdim=True), (r[:, None] - 1).double()
        self.precisions.append(total[:, 0] / r)
        # Without an image that is not relevant, one image fewer is seen from its place on; without a relevant one also
        # one hit fewer, and its own part is gone. Both by the place, nearer.
        rest = _from_here_on((hits / fewer).masked_fill_(~inside, 0) - part)
        unlike = (total + rest) / r[:, None]
        one_less = ((hits - 1) / fewer).masked_fill_(~inside, 0)
        alike = total + _from_here_on(one_less - part) - torch.nn.functional.pad(one_less, (0, 1))
        alike = torch.where(left > 0, alike / left.clamp(min=1), 0)
        self.without += unlike.gather(1, nearer).sum(0).numpy()
        self.among += len(at)
        who, m = members[relevant].numpy(), len(y)
        self.without += np.bincount(who, (alike - unlike).gather(1, among)[relevant].numpy(), m)
        self.among -= np.bincount(who, (left == 0).expand_as(relevant)[relevant].numpy(), m)
        self.without[at] -= unlike.gather(1, nearer.gather(1, at[:, None]))[:, 0].numpy()  # a query without itself
        self.among[at] -= 1
        equal = (far == own[:, :1]).sum(1)
        for k in KS:
            self.recalls[k].append(recalled(seen[:, 0] - equal, equal, hits[:, 0], k))


def _members(y: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Of each label in `of` [b] the images that have it [b, w], filled up with others, and how many there are, less
    one [b]."""
    order, counts = y.argsort(stable=True), y.bincount()
    start = counts.cumsum(0) - counts
    place = start[of][:, None] + torch.arange(int(counts[of].max()))
    return order[place.clamp(max=len(y) - 1)], counts[of] - 1


def _up_to(places: Tensor, width: int) -> Tensor:
    """places [b, c], of 0 to width -> how many of each row are at a place or before it, float64 [b, width]."""
    b = len(places)
    flat = places + torch.arange(b)[:, None] * (width + 1)
    return torch.bincount(flat.flatten(), minlength=b * (width + 1)).view(b, -1).cumsum(1)[:, :-1].double()


def _from_here_on(x: Tensor) -> Tensor:
    """x [b, w] -> the sums of what is at each place and after it, and 0 [b, w + 1]."""
    return torch.cat([x.flip(1).cumsum(1).flip(1), torch.zeros(len(x), 1).double()], 1)


def recalled(above: Tensor, equal: Tensor, right: Tensor, k: int) -> Tensor:
    """How likely one of the right is among the first k [b], where equal ones come in any order.

    above [b]: how many come before the first right one for sure. equal [b]: how many are equal to it, itself among
    them. right [b]: how many of these are right.
    """
    missed = torch.ones(len(above), dtype=torch.float64)
    for i in range(k):
        wrong = (equal - right - i).clamp(min=0) / (equal - i).clamp(min=1)
        missed *= torch.where(i < torch.minimum(k - above, equal), wrong, 1)
    return 1 - missed


def _interval(hits: Doubles, queries: Ints, found: _Found) -> tuple[float, float]:
    """Wilson's interval of recall, the mean of hits [q], at as many independent queries as would vary as much.

    Two images that are each other's nearest, or nearest relevant, share the pair that decides: the products of their
    deviations add to the variance. Where all hits are alike these are unknown, and each such pair counts as one query.
    """
    mean, e = float(hits.mean()), np.zeros(len(found.first))
    e[queries] = hits - mean
    near, first = found.nearest[queries], found.first[queries]
    mutual, of_label = found.nearest[near] == queries, (found.first[first] == queries)
    of_label &= ~(mutual & (near == first))  # a pair counts once
    shared = (e[queries] * (e[near] * mutual + e[first] * of_label)).sum()
    spread = np.square(e).sum()
    factor = max(float(shared / spread), 0.0) if spread > 0 else float((mutual | of_label).mean())
    return wilson(mean, len(queries) / (1 + factor))
