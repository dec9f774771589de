"""The MI of an encoder's features, as terms that are finite.

A deterministic encoder's I(X; f(X)) is infinite, or log N on N images, and says nothing. What is estimated instead is
finite: I(Z1; Z2) of two views, I(Z; label), I(X; Z + noise), I(Z1 + noise; Z2 + noise), I(J; Z), and a chain of layers
against another view's features.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import Check, Estimate, audit_splits, estimate_splits
from infomax.estimation.bases.gaussian import GaussianCopula
from infomax.estimation.bases.normal_scores import NormalScores
from infomax.estimation.evidence import checks
from infomax.estimation.result import Verdict
from infomax.evaluation.certified import certify
from infomax.evaluation.common import or_why, require_enough, sample
from infomax.evaluation.identity import Identity, identity_mi
from infomax.evaluation.layers import COMPONENTS, Layers, estimated_on, features_of_views, principal_axes
from infomax.evaluation.mosaics import mosaics
from infomax.evaluation.result import Chain, Terms
from infomax.evaluation.subject import Source, Subject, subject

if TYPE_CHECKING:
    from infomax.data import Dataset, Split


DRAWS = 2  # pairs of views an image: more pairs to fit the critic on, and less noise in the floor, at a price
IMAGES = (60_000, 10_000)  # training and test images at most, drawn by the seed, whose features are held in memory
SELECT = 0.15  # of the training images: the critic stops on them
NOISE = 1 / 3  # of the features' root-mean-square distance from their mean, in every direction
SEVERITY = {"pass": 0, "warn": 1, "fail": 2}


def mutual_information(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    terms: bool = True,
    audit: bool = False,
    said: Callable[[str], None] = lambda text: None,
    layers: Sequence[str] | None = None,
    **options: Any,
) -> Terms:
    """The MI of a saved encoder's features, in nats.

    A critic is fitted on training images, stopped on others of them, and reports on test images: views of one image
    are never on two sides. Of more than 60,000 training or 10,000 test images so many are drawn by the seed.
    checkpoint, dataset, seed, device, terms, audit: as evaluate() takes them. options: objective, critic and budget, as
    estimate takes them. said: is called with the name of the next term. layers: names of the encoder's submodules that
    the chain has, in the order in which they run; by default stages that timm names. Of a term that cannot be
    estimated, as of too few images, a text says why.
    """
    from infomax.data import views_for

    about = subject(checkpoint, dataset)
    images, views = about.data, about.views or views_for(about.data)
    train, report = (
        sample(len(split), most, seed) for split, most in zip((images.train, images.test), IMAGES, strict=True)
    )
    order = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]
    select, fit = order[: round(SELECT * len(order))], order[round(SELECT * len(order)) :]
    # Test images are numbered after the training images, since an id names an image over all splits.
    parts = [(images.train, fit, DRAWS, 0), (images.train, select, DRAWS, 0),
             (images.test, report, DRAWS, len(images.train))]  # fmt: skip
    given: dict[str, Any] = {"seed": seed, "device": device or "cpu", **options}

    def seen(encoder: nn.Module, view: int | None) -> list[Tensor]:
        return [
            features_of_views(encoder, split, at, views, seed, draws, view, device) for split, at, draws, _ in parts
        ]

    ids = [(at + first).repeat(draws) for _, at, draws, first in parts[:2]] + [report + len(images.train)]
    said("I(Z1; Z2) of two views")
    passed = Layers(about.encoder, about.projector, layers) if terms else None
    first, second = seen(passed or about.encoder, 0), seen(about.encoder, 1)
    named = {"features": first} if passed is None else passed.apart(first)
    fitted, selected, reported = (
        (x.unflatten(0, (DRAWS, -1)), y.unflatten(0, (DRAWS, -1)))
        for x, y in zip(named["features"], second, strict=True)
    )
    # An estimate reports on one pair of views an image; the floor on all.
    named, second = {name: _once(sides) for name, sides in named.items()}, _once(second)

    def of_views() -> Estimate:
        require_enough("I(Z1; Z2)", images.train.what, len(order), len(report), SELECT, DRAWS)
        found = estimated_on(named["features"], second, ids, given, audit_splits if audit else estimate_splits)
        return certify(found, about, fitted, selected, reported, seed)

    mi: Estimate | str = or_why(of_views)
    if audit and isinstance(mi, Estimate):
        said("mosaics")
        mi = replace(mi, checks=(*mi.checks, mosaics(about, mi, views, (fit, select, report), given)))
    if passed is None:
        return Terms(mi)
    plain = [features_of_views(about.encoder, split, at, views, seed, 1, None, device) for split, at, _, _ in parts]
    own = [at + begin for _, at, _, begin in parts]

    def term(name: str, draws: int, estimated: Callable[[], Estimate]) -> Estimate | str:
        def enough() -> Estimate:
            require_enough(name, images.train.what, len(order), len(report), SELECT, draws)
            return estimated()

        said(name)
        return or_why(enough)

    label = term("I(Z; label)", 1, lambda: _label(plain, [(split, at) for split, at, _, _ in parts], own, given))
    noise = term("I(X; Z + noise)", 1, lambda: through_noise(plain, own, given))
    noisy = term("I(Z1 + noise; Z2 + noise)", DRAWS, lambda: views_through_noise(named["features"], second, ids, given))
    who = named_images(about, seed, device, said)
    chain = mi if isinstance(mi, str) else or_why(lambda: _chain(named, mi, second, ids, given, said))
    return Terms(mi, label, noise, chain, who, noisy)


def named_images(
    about: Subject, seed: int, device: str | torch.device | None, said: Callable[[str], None] = lambda text: None
) -> Identity | str:
    """I(J; Z) of an encoder, which of N held-out images a view shows, or why there is none.

    about, seed, device, said: as mutual_information takes them.
    """
    said("I(J; Z), which image a view shows")
    return or_why(lambda: identity_mi(about, None, seed, device))


def _once(parts: list[Tensor]) -> list[Tensor]:
    """Of the last part, the first draw of each image."""
    return [*parts[:-1], parts[-1][: len(parts[-1]) // DRAWS]]


def views_mi(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    **options: Any,
) -> Estimate:
    """I(Z1; Z2), in nats, of a saved encoder's features of two augmented views of an image: mutual_information's mi.

    checkpoint, dataset, seed, device, options: as mutual_information takes them. Raises UserError: too few images.
    """
    found = mutual_information(checkpoint, dataset, seed, device, terms=False, **options).mi
    if isinstance(found, str):
        raise UserError(found)
    return found


def _label(plain: list[Tensor], of: "list[tuple[Split, Tensor]]", ids: list[Tensor], given: dict[str, Any]) -> Estimate:
    labels: list[Tensor] = []
    for split, at in of:
        if split.labels is None:
            raise UserError("The data set has no labels.")
        labels.append(split.labels[at])
    return estimated_on(plain, labels, ids, given)


def through_noise(plain: list[Tensor], ids: list[Tensor], given: dict[str, Any]) -> Estimate:
    """I(X; Z + noise), with noise of a third of Z's root-mean-square distance from its mean in every direction.

    It equals I(Z; Z + noise), as the image says no more of the sum than its features do; so no image is modelled. Of
    both, 64 principal components are kept, which loses little and never adds. Whatever Z, it stays below the capacity
    1/2 sum log(1 + variance / noise variance) <= 4.5 nats, which 1,000 test images can certify. (Shannon, 1948)
    plain: training, validation and test features [n, d]. ids: their images'. given: seed, device and the like. Raises
    UserError: features that do not vary.
    """
    return _heard_through(plain, plain, (False, True), ids, given)


def views_through_noise(
    first: list[Tensor], second: list[Tensor], ids: list[Tensor], given: dict[str, Any]
) -> Estimate:
    """I(Z1 + noise; Z2 + noise) of two views, with noise as in I(X; Z + noise) on both sides.

    It is at most I(Z2; Z2 + noise), and so below the same capacity, of Z2; finite for any encoder and any views. first,
    second: training, validation and test features [n, d] of two views; ids, given: as through_noise takes them.
    """
    return _heard_through(first, second, (True, True), ids, given)


def _heard_through(
    x: list[Tensor], y: list[Tensor], noisy: tuple[bool, bool], ids: list[Tensor], given: dict[str, Any]
) -> Estimate:
    """The MI of two sides' features with noise added to the noisy ones, capped by the capacity of y's channel."""
    everything = torch.cat(y).double()
    covariance = torch.atleast_2d(everything.T.cov())
    scale = NOISE * float(covariance.diagonal().sum().sqrt())
    if scale == 0:
        raise UserError("The features are the same for every image.")
    generator = torch.Generator().manual_seed(given["seed"])
    sides = [
        [part + scale * torch.randn(part.shape, generator=generator) for part in parts] if adds else parts
        for parts, adds in zip((x, y), noisy, strict=True)
    ]
    capacity = float(torch.log1p(torch.linalg.eigvalsh(covariance).clamp(min=0) / scale**2).sum() / 2)
    axes = principal_axes(x[0], COMPONENTS, given["seed"])
    seen_x, seen_y = ([axes(part) for part in side] for side in sides)
    found = estimated_on(seen_x, seen_y, ids, given)
    crossed = checks.bracket(*found.interval, found.floor, capacity, found.mi)
    told = tuple(crossed if check.name == crossed.name else check for check in found.checks)
    protocol = {**found.protocol, "noise": {"deviation": scale, "of_rms": NOISE, "capacity": capacity}}
    return replace(found, cap=capacity, checks=told, protocol=protocol)


def _chain(
    named: dict[str, list[Tensor]],
    mi: Estimate,
    second: list[Tensor],
    ids: list[Tensor],
    given: dict[str, Any],
    said: Callable[[str], None],
) -> Chain:
    """The chain of layers against the other view's features, each by a critic of its own where that may read more.

    A layer before the features has the features' critic anyhow. One of its own is dear, and is fitted where a Gaussian
    copula of the layer, in closed form, reads more on validation pairs than that of the features.
    """
    layers: list[tuple[str, Estimate | float]] = []
    scores = NormalScores(second[0])
    other = [scores(part) for part in second[:2]]
    features = _heard(named["features"], other)
    after = False
    for name, sides in named.items():
        if name == "features":
            layers.append((name, mi))
            after = True
            continue
        said(f"I({name} of view 1; Z of view 2)")
        axes = principal_axes(sides[0], COMPONENTS, given["seed"])
        sides = [axes(part) for part in sides]
        own = math.nan if after else _heard(sides, other)
        layers.append((name, estimated_on(sides, second, ids, given) if after or own > features else own))
    return Chain(tuple(composed(layers)), processing(layers))


def _heard(x: Sequence[Tensor], y: Sequence[Tensor]) -> float:
    """What a Gaussian copula reads on validation pairs, in nats.

    x: the training and the validation part of a side, y: normal scores of the other side's.
    """
    scores = NormalScores(x[0])
    return GaussianCopula(scores(x[0]), y[0], scores(x[1]), y[1]).value_on_select


def composed(layers: Sequence[tuple[str, Estimate | float]]) -> list[tuple[str, Estimate]]:
    """The layers with, for each, the critic of the layer after it where that reads more, so that MI falls along them.

    layers: names and estimates, from pixels to projection; where no critic was fitted, what a Gaussian copula read on
    validation pairs. A critic of a later layer, after what leads from an earlier layer to it, is a critic of the
    earlier one, with the same scores on the same pairs: so its value, bounds and checks are those of an estimate of the
    earlier layer. protocol["composed"] names the layer whose critic was taken.
    """
    found: list[tuple[str, Estimate]] = []
    for name, own in reversed(layers):
        if isinstance(own, Estimate) and not (found and found[0][1].mi > own.mi):
            found.insert(0, (name, own))
            continue
        known = {"mi": own.mi, "trusted": own.trusted} if isinstance(own, Estimate) else {"gaussian_on_validation": own}
        after, later = found[0]
        protocol = {"composed": after, **later.protocol, "own_critic": known}
        found.insert(0, (name, replace(later, protocol=protocol)))
    return found


def processing(layers: Sequence[tuple[str, Estimate | float]]) -> Check:
    """The check that no layer's MI exceeds an earlier one's, of layers that have a critic of their own.

    layers: names and estimates, from pixels to projection; a number where no critic was fitted. A rise of 5 % passes,
    as that is how far each may be off; one within both intervals warns. Of a layer and a later one above it, the first
    is too low (it needs more images, or its maps were cut short) or the second too high.
    """
    own = [(name, found) for name, found in layers if isinstance(found, Estimate)]
    left = [name for name, found in layers if not isinstance(found, Estimate)]
    falls = "MI falls along the layers, as it must."
    if left:
        falls += (
            f" Of {', '.join(left)} no critic was fitted, as a Gaussian copula of them reads less than of features."
        )
    found = [Check("data processing", 0.0, 0.02, "pass", falls)]
    for i, (early, before) in enumerate(own):
        for late, after in own[i + 1 :]:
            over = after.mi - before.mi
            slack = max(0.05 * abs(before.mi), 0.02)
            noise = math.hypot(before.reach[1], after.reach[0])
            more = f"{late} ({after.mi:.2f}) is a function of {early} ({before.mi:.2f}) and cannot have more"
            if not over <= max(slack, noise):
                verdict: Verdict = "fail"
                sentence = f"{more}: the value of {early} is too low or that of {late} too high."
            elif over > slack:
                verdict, sentence = "warn", f"{more}; it seems to, though by no more than the noise."
            else:
                verdict, sentence = "pass", falls
            found.append(Check("data processing", over, slack, verdict, sentence))
    # A certain violation is told before a larger one that may be noise.
    return max(found[1:] or found, key=lambda check: (SEVERITY[check.verdict], check.statistic - check.threshold))
