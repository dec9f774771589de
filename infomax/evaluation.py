"""What a saved encoder is worth: probes beside their baselines, and the MI of its features with what they are made of.

A deterministic encoder's I(X; f(X)) is infinite, or log N on N images, and says nothing. What is estimated instead is
finite: I(Z1; Z2) of two views, I(Z; label), I(X; Z + noise), and a chain of layers against another view's features.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import Check, Estimate, audit_splits, checks, estimate_splits
from infomax.estimation.result import Verdict
from infomax.probing import Probe, features, probe

if TYPE_CHECKING:
    from infomax.data import Dataset, Split, Views

DRAWS = 2  # pairs of views a training image: more pairs to fit the critic on, at the price of encoding them
SELECT = 0.15  # of the training images: the critic stops on them
NOISE = 1 / 3  # of the features' root-mean-square distance from their mean, in every direction
COMPONENTS = 64  # of a layer, at most
COLUMNS = 1024  # of a layer before that, about: feature maps are averaged to fewer places
STAGES = 3  # of an encoder's, in the chain
SEVERITY = {"pass": 0, "warn": 1, "fail": 2}
PATCHES = 6  # of a mosaic: a bit each
MOSAICS = (3000, 750, 1000)  # fit, select, report
PATCH_COMPONENTS = 16
FEWEST_IMAGES = 10  # of a class, in a split, to make mosaics of


@dataclass(frozen=True)
class Probes:
    """The probes of an encoder, of raw pixels, and of an untrained encoder of its kind, None where it has no name."""

    trained: Probe
    pixels: Probe
    untrained: Probe | None

    def to_dict(self) -> dict[str, Any]:
        """The trained encoder's numbers and protocol, and under their names the baselines'."""
        untrained = None if self.untrained is None else self.untrained.to_dict()
        return {**self.trained.to_dict(), "pixels": self.pixels.to_dict(), "untrained": untrained}


@dataclass(frozen=True)
class Chain:
    """I(layer of view 1; Z of view 2), in nats, from pixels to projection: each layer is a function of the one before,
    so MI can only fall along it. `check` says whether the estimates do."""

    layers: tuple[tuple[str, Estimate], ...]
    check: Check

    def to_dict(self) -> dict[str, Any]:
        layers = [{"layer": name} | estimate.to_dict() for name, estimate in self.layers]
        return {"layers": layers, "check": self.check.to_dict()}


@dataclass(frozen=True)
class Terms:
    """The MI of an encoder's features, in nats: mi of two views, I(Z1; Z2); label, I(Z; label), capped by H(label);
    noise, I(X; Z + noise), capped by the Gaussian channel's capacity; and the chain. A text says why there is none.

    None for all but mi where they were not asked for.
    """

    mi: Estimate
    label: Estimate | str | None = None
    noise: Estimate | str | None = None
    chain: Chain | str | None = None

    def to_dict(self) -> dict[str, Any]:
        """mi's content, and under their names the others'; {"not_measured": why} where there is none."""
        others = {name: getattr(self, name) for name in ("label", "noise", "chain")}
        return self.mi.to_dict() | {
            name: {"not_measured": term} if isinstance(term, str) else term.to_dict()
            for name, term in others.items()
            if term is not None
        }


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: probes with their baselines, and MI, in nats; mi, label, noise and chain as in Terms."""

    probes: Probes
    terms: Terms
    checkpoint: dict[str, Any] | None = None  # step and checksum of what was evaluated, where that was a checkpoint

    @property
    def mi(self) -> Estimate:
        return self.terms.mi

    @property
    def label(self) -> Estimate | str | None:
        return self.terms.label

    @property
    def noise(self) -> Estimate | str | None:
        return self.terms.noise

    @property
    def chain(self) -> Chain | str | None:
        return self.terms.chain

    def to_dict(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "probe": self.probes.to_dict(), "estimate": self.terms.to_dict()}


@dataclass(frozen=True)
class Subject:
    """What an evaluation is about: an encoder, its projector where known, images, and the checkpoint it came from."""

    encoder: nn.Module
    projector: nn.Module | None
    data: "Dataset"
    checkpoint: dict[str, Any] | None  # {"step", "checksum"}


Source = str | Path | nn.Module | Subject


def evaluate(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    terms: bool = True,
    audit: bool = False,
) -> Evaluation:
    """Probes, kNN and the MI of a saved run's encoder, with their baselines and caps.

    checkpoint: a run or checkpoint folder, an InfoMax, or an encoder. dataset: a name or Dataset; a saved run's own by
    default. terms=False: of MI, I(Z1; Z2) alone, as a recipe prints it at its end. audit: I(Z1; Z2) with the checks of
    `infomax.estimation.audit`, nine more estimates, and with one more, of mosaics seen by the encoder.
    Raises UserError: a folder that cannot be read, an encoder without a dataset.
    """
    about = subject(checkpoint, dataset)
    found = mutual_information(about, None, seed, device, terms=terms, audit=audit)
    return Evaluation(probes(about, None, seed, device), found, about.checkpoint)


def probes(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Probes:
    """The probes of a saved run's encoder, of raw pixels, and of an untrained encoder of the same kind."""
    from infomax.encoders import encoder_config, encoder_from

    about = subject(checkpoint, dataset)
    try:
        config = encoder_config(about.encoder)
    except UserError:
        config = None
    untrained = None
    if config is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untrained = probe(encoder_from(config), about.data, seed=seed, device=device)
    pixels = probe(nn.Flatten(), about.data, seed=seed, device=device)
    return Probes(probe(about.encoder, about.data, seed=seed, device=device), pixels, untrained)


def subject(checkpoint: Source, dataset: "str | Dataset | None" = None) -> Subject:
    """The encoder and data that an evaluation is about, and which checkpoint was read. Raises as `evaluate` does.

    A saved run knows its data set. The encoder is read into memory whole, with its checksum compared, so a run may
    train, save and prune meanwhile.
    """
    from infomax import data
    from infomax.checkpoints import read_parts
    from infomax.models import InfoMax

    limit = identity = projector = None
    if isinstance(checkpoint, Subject):
        return checkpoint
    if isinstance(checkpoint, nn.Module):
        if dataset is None:
            raise UserError("An encoder that is not read from a run needs a dataset to be evaluated on.")
        encoder = checkpoint
        if isinstance(checkpoint, InfoMax):
            encoder, projector = checkpoint.encoder, checkpoint.projector
    else:
        found, encoder, projector = read_parts(checkpoint)
        identity = {"step": found.step, "checksum": found.checksum}
        if dataset is None:
            configuration = found.configuration
            dataset, limit = configuration.get("dataset"), configuration.get("limit")
            if not isinstance(dataset, str):
                raise UserError(f"{checkpoint} names no data set; say which with --dataset.")
    images = data.dataset(dataset, limit=limit) if isinstance(dataset, str) else dataset
    return Subject(encoder, projector, images, identity)


def mutual_information(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    terms: bool = True,
    audit: bool = False,
    said: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Terms:
    """The MI of a saved encoder's features, in nats.

    A critic is fitted on training images, stopped on others of them, and reports on test images: views of one image
    are never on two sides. options: objective, critic and budget, as estimate takes them. said: told what is next.
    """
    from infomax.data import views_for

    about = subject(checkpoint, dataset)
    images, views = about.data, views_for(about.data)
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(seed))
    select, fit = order[: round(SELECT * len(order))], order[round(SELECT * len(order)) :]
    # Test images are numbered after the training images, since an id names an image over all splits.
    parts = [(images.train, fit, DRAWS, 0), (images.train, select, DRAWS, 0),
             (images.test, torch.arange(len(images.test)), 1, len(order))]  # fmt: skip
    given: dict[str, Any] = {"seed": seed, "device": device or "cpu", **options}

    def seen(encoder: nn.Module, view: int | None) -> list[Tensor]:
        return [_features(encoder, split, at, views, seed, draws, view, device) for split, at, draws, _ in parts]

    ids = [(at + first).repeat(draws) for _, at, draws, first in parts]
    said("I(Z1; Z2) of two views")
    layers = _Layers(about.encoder, about.projector) if terms else None
    first, second = seen(layers or about.encoder, 0), seen(about.encoder, 1)
    named = {"features": first} if layers is None else layers.apart(first)
    mi = _estimated(named["features"], second, ids, given, audit_splits if audit else estimate_splits)
    if audit:
        said("mosaics")
        mi = replace(mi, checks=(*mi.checks, _mosaics(about, mi, views, fit, select, given)))
    if layers is None:
        return Terms(mi)
    plain = [_features(about.encoder, split, at, views, seed, 1, None, device) for split, at, _, _ in parts]
    own = [at + begin for _, at, _, begin in parts]
    said("I(Z; label)")
    label = _or_why(lambda: _label(plain, [(split, at) for split, at, _, _ in parts], own, given))
    said("I(X; Z + noise)")
    noise = _or_why(lambda: _noise(plain, own, given))
    chain = _or_why(lambda: _chain(named, mi, second, ids, given, said))
    return Terms(mi, label, noise, chain)


def views_mi(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    **options: Any,
) -> Estimate:
    """I(Z1; Z2), in nats, of a saved encoder's features of two augmented views of an image: mutual_information's mi."""
    return mutual_information(checkpoint, dataset, seed, device, terms=False, **options).mi


# The terms ------------------------------------------------------------------------------------------------------------


def _estimated(
    x: list[Tensor],
    y: list[Tensor],
    ids: list[Tensor],
    given: dict[str, Any],
    how: Callable[..., Estimate] = estimate_splits,
) -> Estimate:
    """Of the fit, select and report parts of two sides."""
    return how(*zip(x, y, ids, strict=True), **given)


def _or_why(term: Callable[[], Any]) -> Any:
    try:
        return term()
    except UserError as error:
        return str(error)


def _label(plain: list[Tensor], of: "list[tuple[Split, Tensor]]", ids: list[Tensor], given: dict[str, Any]) -> Estimate:
    labels: list[Tensor] = []
    for split, at in of:
        if split.labels is None:
            raise UserError("The data set has no labels.")
        labels.append(split.labels[at])
    return _estimated(plain, labels, ids, given)


def _noise(plain: list[Tensor], ids: list[Tensor], given: dict[str, Any]) -> Estimate:
    """I(X; Z + noise), with noise of a third of Z's root-mean-square distance from its mean in every direction.

    It equals I(Z; Z + noise), as the image says no more of the sum than its features do; so no image is modelled. Of
    both, 64 principal components are kept, which loses little and never adds. Whatever Z, it stays below the capacity
    1/2 sum log(1 + variance / noise variance) <= 4.5 nats, which 1,000 test images can certify. (Shannon, 1948)
    """
    everything = torch.cat(plain)
    scale = NOISE * float(everything.double().var(0).sum().sqrt())
    if scale == 0:
        raise UserError("The features are the same for every image.")
    generator = torch.Generator().manual_seed(given["seed"])
    noisy = [part + scale * torch.randn(part.shape, generator=generator) for part in plain]
    spectrum = torch.linalg.eigvalsh(everything.double().T.cov()).clamp(min=0)
    capacity = float(torch.log1p(spectrum / scale**2).sum() / 2)
    axes = _principal(plain[0], COMPONENTS, given["seed"])
    found = _estimated([axes(part) for part in plain], [axes(part) for part in noisy], ids, given)
    crossed = checks.bracket(*found.interval, found.floor, capacity)
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
    layers: list[tuple[str, Estimate]] = []
    for name, sides in named.items():
        if name == "features":
            layers.append((name, mi))
            continue
        said(f"I({name} of view 1; Z of view 2)")
        axes = _principal(sides[0], COMPONENTS, given["seed"])
        layers.append((name, _estimated([axes(part) for part in sides], second, ids, given)))
    return Chain(tuple(layers), processing(layers))


def processing(layers: Sequence[tuple[str, Estimate]]) -> Check:
    """No layer's MI exceeds an earlier one's. By 5 % passes, as that is how far each may be; by no more than both
    intervals warns. Of a layer and a later one above it, the first is too low (it needs more images, or its maps were
    cut short) or the second too high."""
    found = []
    for i, (early, before) in enumerate(layers):
        for late, after in layers[i + 1 :]:
            over = after.mi - before.mi
            slack = max(0.05 * abs(before.mi), 0.02)
            noise = math.hypot(before.reach[1], after.reach[0])
            verdict: Verdict = "pass"
            sentence = "MI falls along the layers, as it must."
            told = f"{late} ({after.mi:.2f}) is a function of {early} ({before.mi:.2f}) and cannot have more"
            if not over <= max(slack, noise):
                verdict, sentence = "fail", f"{told}: the value of {early} is too low or that of {late} too high."
            elif over > slack:
                verdict, sentence = "warn", f"{told}; it seems to, though by no more than the noise."
            found.append(Check("data processing", over, slack, verdict, sentence))
    # A certain violation is told before a larger one that may be noise.
    return max(found, key=lambda check: (SEVERITY[check.verdict], check.statistic - check.threshold))


def _mosaics(about: Subject, mi: Estimate, views: "Views", fit: Tensor, select: Tensor, given: dict[str, Any]) -> Check:
    """Mosaics of two classes' images, encoded patch by patch: each patch is a bit, and bits of x and y agree by chance.

    I(X; Y) is known, whatever the images; the features hold no more, and no less than what a linear classifier reads
    off them. Fails where the value is off both by a quarter of a nat and a tenth. Image pools of the splits differ.
    """
    name, data, seed = "mosaics", about.data, given["seed"]
    pools: list[list[Tensor]] = []
    for split, at in ((data.train, fit), (data.train, select), (data.test, torch.arange(len(data.test)))):
        if split.labels is None or len(split.classes) < 2:
            return Check(name, math.nan, math.nan, "warn", "could not be tested: the data set has no two classes.")
        of = [at[split.labels[at] == value] for value in (0, 1)]
        if min(map(len, of)) < FEWEST_IMAGES:
            return Check(name, math.nan, math.nan, "warn", "could not be tested: too few images of two classes.")
        pools.append([features(about.encoder, split.subset(i), views.plain, given["device"]) for i in of])
    axes = _principal(torch.cat(pools[0]), PATCH_COMPONENTS, seed)
    pools = [[axes(side) for side in pool] for pool in pools]
    known = min(max(mi.mi, 0.5), 0.9 * PATCHES * math.log(2)) if math.isfinite(mi.mi) else 2.0
    flips = _flips(known / PATCHES)
    misread = 1 - _read(pools[0], pools[2])
    low = PATCHES * _bit(_both(flips, _both(misread, misread)))
    generator = torch.Generator().manual_seed(seed)
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pool, number in zip(pools, MOSAICS, strict=True):
        bits = torch.rand(number, PATCHES, generator=generator) < 0.5
        other = bits ^ (torch.rand(number, PATCHES, generator=generator) < flips)
        for side, of in zip(sides, (bits, other), strict=True):
            side.append(_composed(pool, of, generator))
    found = _estimated(*sides, [torch.arange(n) + 10**6 * i for i, n in enumerate(MOSAICS)], given)
    off = max(low - found.mi, found.mi - known, 0.0) if math.isfinite(found.mi) else math.inf
    told = (
        f"{found.mi:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}] nats between encoded mosaics of "
        f"{data.classes[0]} and {data.classes[1]} with {known:.2f}, of which {low:.2f} can be read off the features"
    )
    fail = off > max(0.25, 0.1 * known)
    warn = off > max(0.05 + 0.05 * known, (found.interval[1] - found.interval[0]) / 2)
    told += ": the method does not find what this encoder's features hold." if fail else "."
    return Check(name, off, 0.25, "fail" if fail else "warn" if warn else "pass", told)


# Small parts ----------------------------------------------------------------------------------------------------------


class _Layers(nn.Module):
    """An encoder with what it passes through: images -> pixels, stages, features and projection in one row each.

    Maps [b, c, h, w] are averaged to fewer places, tokens [b, t, c] to their first and their mean: functions of the
    layer, so that MI with them is at most the layer's.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module | None):
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.stages = _stages(encoder)
        self.widths: dict[str, int] = {}

    def forward(self, images: Tensor) -> Tensor:
        caught: dict[str, Tensor] = {}

        def catch(name: str) -> Callable[..., None]:
            return lambda module, given, out: caught.__setitem__(name, out)

        hooks = [self.encoder.get_submodule(name).register_forward_hook(catch(name)) for name in self.stages]
        try:
            z = self.encoder(images).flatten(1)
        finally:
            for hook in hooks:
                hook.remove()
        rows = {"pixels": _summary(images, images.shape[1])}
        rows |= {name: _summary(caught[name], channels) for name, channels in self.stages.items() if name in caught}
        rows["features"] = z
        if self.projector is not None:
            rows["projection"] = self.projector(z)
        self.widths = {name: row.shape[1] for name, row in rows.items()}
        return torch.cat([row.float() for row in rows.values()], 1)

    def apart(self, parts: list[Tensor]) -> dict[str, list[Tensor]]:
        """The layers of rows that forward made, by name."""
        columns = [part.split(list(self.widths.values()), 1) for part in parts]
        return {name: [part[i] for part in columns] for i, name in enumerate(self.widths)}


def _stages(encoder: nn.Module) -> dict[str, int]:
    """A few of the stages that timm names, with their channels: evenly spaced, the last among them."""
    info = getattr(encoder, "feature_info", None)
    listed = getattr(info, "info", info)
    if not isinstance(listed, list):
        return {}
    known = [(one["module"], one["num_chs"]) for one in listed if "module" in one and "num_chs" in one]
    at = sorted({round(i) for i in torch.linspace(0, len(known) - 1, min(STAGES, len(known))).tolist()})
    return dict(known[i] for i in at)


def _summary(out: Tensor, channels: int) -> Tensor:
    if out.ndim == 4:
        out = out if out.shape[1] == channels else out.movedim(-1, 1)  # some transformers keep channels last
        side = max(1, math.isqrt(COLUMNS // channels))
        return nn.functional.adaptive_avg_pool2d(out, (min(side, out.shape[2]), min(side, out.shape[3]))).flatten(1)
    return torch.cat([out[:, 0], out.mean(1)], 1) if out.ndim == 3 else out.flatten(1)


def _features(
    encoder: nn.Module,
    split: "Split",
    indices: Tensor,
    views: "Views",
    seed: int,
    draws: int,
    view: int | None,
    device: str | torch.device | None,
) -> Tensor:
    """Features [draws * n, d] of images as they are, view None, or of their views, which training never saw."""
    images = split.subset(indices)
    made = (views.plain if view is None else _drawn(views, indices, seed, draw, view) for draw in range(draws))
    return torch.cat([features(encoder, images, make, device) for make in made])


def _drawn(views: "Views", indices: Tensor, seed: int, draw: int, view: int) -> Callable[[Tensor], Tensor]:
    """Views of a split's images in order, as `features` asks for them, keyed by an epoch that training never has."""
    done = 0

    def make(images: Tensor) -> Tensor:
        nonlocal done
        ids = indices[done : done + len(images)].to(images.device)
        done += len(images)
        return views(images, ids, seed, -1 - draw, view)

    return make


def _principal(fit: Tensor, components: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The map to the leading principal components of `fit`; all columns, as they are, where there are no more."""
    if fit.shape[1] <= components:
        return lambda rows: rows
    mean = fit.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        _, _, axes = torch.pca_lowrank(fit - mean, min(components, len(fit)), center=False)
    return lambda rows: (rows - mean) @ axes


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


def _bit(flips: float) -> float:
    """The MI of a fair bit with its copy that is flipped with this probability, in nats."""
    return math.log(2) + sum(p * math.log(p) for p in (flips, 1 - flips) if p > 0)


def _flips(nats: float) -> float:
    """The probability of a flip that leaves a fair bit so many nats, by bisection."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _bit(middle) > nats else (low, middle)
    return low
