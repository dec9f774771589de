"""Audit of MI estimates by known truth: an encoder's features of mosaics of two classes' images."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infomax.estimation import Check, Estimate
from infomax.evaluation.features import features
from infomax.evaluation.layers import estimated_on, principal_axes
from infomax.evaluation.subject import Subject

if TYPE_CHECKING:
    from infomax.data.views import AnyViews


PATCHES = 6  # of a mosaic: a bit each
MOSAICS = (3000, 750, 1000)  # fit, select, report
PATCH_COMPONENTS = 16
FEWEST_IMAGES = 10  # of a class, in a split, to make mosaics of


def mosaics(
    about: Subject, mi: Estimate, views: "AnyViews", parts: tuple[Tensor, Tensor, Tensor], given: dict[str, Any]
) -> Check:
    """Mosaics of two classes' images, encoded patch by patch: each patch is a bit, and bits of x and y agree by chance.

    I(X; Y) is known, whatever the images; the features hold no more, and no less than what a linear classifier reads
    off them. Fails where the value is off both by a quarter of a nat and a tenth. Image pools of the splits differ.
    parts: which training images fit and select, and which test images report.
    """
    name, data, seed = "mosaics", about.data, given["seed"]
    pools: list[list[Tensor]] = []
    for split, at in zip((data.train, data.train, data.test), parts, strict=True):
        if split.labels is None or len(split.classes) < 2:
            return Check(name, math.nan, math.nan, "warn", "could not be tested: the data set has no two classes.")
        of = [at[split.labels[at] == value] for value in (0, 1)]
        if min(map(len, of)) < FEWEST_IMAGES:
            return Check(name, math.nan, math.nan, "warn", "could not be tested: too few images of two classes.")
        pools.append([features(about.encoder, split.subset(i), views.plain, given["device"]) for i in of])
    axes = principal_axes(torch.cat(pools[0]), PATCH_COMPONENTS, seed)
    pools = [[axes(side) for side in pool] for pool in pools]
    known = min(max(mi.mi, 0.5), 0.9 * PATCHES * math.log(2)) if math.isfinite(mi.mi) else 2.0
    flips = _flips(known / PATCHES)
    misread = 1 - _read(pools[0], pools[2])
    low = PATCHES * bit(_both(flips, _both(misread, misread)))
    generator = torch.Generator().manual_seed(seed)
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pool, number in zip(pools, MOSAICS, strict=True):
        bits = torch.rand(number, PATCHES, generator=generator) < 0.5
        other = bits ^ (torch.rand(number, PATCHES, generator=generator) < flips)
        for side, of in zip(sides, (bits, other), strict=True):
            side.append(_composed(pool, of, generator))
    found = estimated_on(*sides, [torch.arange(n) + 10**6 * i for i, n in enumerate(MOSAICS)], given)
    off = max(low - found.mi, found.mi - known, 0.0) if math.isfinite(found.mi) else math.inf
    told = (
        f"{found.mi:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}] nats between encoded mosaics of "
        f"{data.classes[0]} and {data.classes[1]} with {known:.2f}, of which {low:.2f} can be read off the features"
    )
    fail = off > max(0.25, 0.1 * known)
    warn = off > max(0.05 + 0.05 * known, (found.interval[1] - found.interval[0]) / 2)
    told += ": the method does not find what this encoder's features hold." if fail else "."
    return Check(name, off, 0.25, "fail" if fail else "warn" if warn else "pass", told)


def _composed(pool: list[Tensor], bits: Tensor, generator: torch.Generator) -> Tensor:
    """Mosaics' features [n, patches * d]: for each bit [n, patches] a random image of its class."""
    pick = torch.rand(bits.shape, generator=generator)
    classes = [side[(pick * len(side)).long()] for side in pool]  # [n, patches, d] each
    return torch.where(bits[..., None], classes[1], classes[0]).flatten(1)


def _read(fit: list[Tensor], report: list[Tensor]) -> float:
    """How often a linear classifier of two classes is right on images that it did not see."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (t, u) = (
        (torch.cat(pool).double().numpy(), [0] * len(pool[0]) + [1] * len(pool[1])) for pool in (fit, report)
    )
    mean, scale = x.mean(0), x.std(0) + 1e-12
    return max(0.5, float(LogisticRegression(max_iter=1000).fit((x - mean) / scale, y).score((t - mean) / scale, u)))


def _both(p: float, q: float) -> float:
    """The probability that exactly one of two flips happens."""
    return p * (1 - q) + q * (1 - p)


def bit(flips: float) -> float:
    """The MI of a fair bit with its copy that is flipped with this probability, in nats."""
    return math.log(2) + sum(p * math.log(p) for p in (flips, 1 - flips) if p > 0)


def _flips(nats: float) -> float:
    """The probability of a flip that leaves a fair bit so many nats, by bisection."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if bit(middle) > nats else (low, middle)
    return low
