"""Results of an evaluation: probes beside their baselines, and the MI terms of an encoder's features."""

from dataclasses import dataclass
from typing import Any

from infomax.estimation import Check, Estimate
from infomax.evaluation.common import left_out, shown
from infomax.evaluation.identity import Identity
from infomax.evaluation.probing import COLUMNS, Probe
from infomax.evaluation.targets import TargetProbes


@dataclass(frozen=True)
class Probes:
    """The probes of the trained encoder, of raw pixels, and of an untrained encoder of its kind, if it has a name."""

    trained: Probe
    pixels: Probe
    untrained: Probe | None

    def to_dict(self) -> dict[str, Any]:
        """The trained encoder's numbers and protocol, and under their names the baselines'."""
        untrained = None if self.untrained is None else self.untrained.to_dict()
        return {**self.trained.to_dict(), "pixels": self.pixels.to_dict(), "untrained": untrained}

    def __str__(self) -> str:
        rows = {"trained encoder": self.trained, "untrained encoder": self.untrained, "raw pixels": self.pixels}
        lines = [f"{name}: {_accuracies(probe)}" for name, probe in rows.items() if probe is not None]
        return "\n".join([*lines, *([said] if (said := left_out(self.trained.protocol)) else [])])


def _accuracies(probe: Probe) -> str:
    """In one line, each with its interval."""
    cells = [
        f"{name} {_scored(getattr(probe, key), getattr(probe, f'{key}_interval'))}" for key, name in COLUMNS.items()
    ]
    return ", ".join(cells)


@dataclass(frozen=True)
class Probed:
    """probes: of labels, or a text that says why there are none. targets: of the data set's targets, if it has some."""

    probes: Probes | str
    targets: TargetProbes | None = None

    def to_dict(self) -> dict[str, Any]:
        """probes' content, or {"not_measured": why}; and "targets", where there are some."""
        found = {"not_measured": self.probes} if isinstance(self.probes, str) else self.probes.to_dict()
        return found if self.targets is None else found | {"targets": self.targets.to_dict()}


@dataclass(frozen=True)
class Chain:
    """I(layer of view 1; Z of view 2), in nats, from pixels to projection.

    layers: names and estimates. Each layer is a function of the one before, so MI can only fall along them. Where the
    critic of a later layer reads more, it was taken for the earlier one (protocol["composed"]). check: says whether the
    estimates by each layer's own critic fall.
    """

    layers: tuple[tuple[str, Estimate], ...]
    check: Check

    def to_dict(self) -> dict[str, Any]:
        layers = [{"layer": name} | estimate.to_dict() for name, estimate in self.layers]
        return {"layers": layers, "check": self.check.to_dict()}


@dataclass(frozen=True)
class Terms:
    """The MI of an encoder's features, in nats: mi of two views, I(Z1; Z2); label, I(Z; label), capped by H(label);
    noise, I(X; Z + noise), capped by the Gaussian channel's capacity; the chain; identity, I(J; Z), which of N held-out
    images a view shows; and noisy_views, I(Z1 + noise; Z2 + noise), capped as noise is. A text says why there is none.
    None for all but mi where they were not asked for.
    """

    mi: Estimate | str
    label: Estimate | str | None = None
    noise: Estimate | str | None = None
    chain: Chain | str | None = None
    identity: Identity | str | None = None
    noisy_views: Estimate | str | None = None

    def to_dict(self) -> dict[str, Any]:
        """mi's content, and under their names the others'; {"not_measured": why} where there is none."""
        others = {name: getattr(self, name) for name in ("label", "noise", "chain", "identity", "noisy_views")}
        mi = {"not_measured": self.mi} if isinstance(self.mi, str) else self.mi.to_dict()
        return mi | {
            name: {"not_measured": term} if isinstance(term, str) else term.to_dict()
            for name, term in others.items()
            if term is not None
        }

    def __str__(self) -> str:
        """What there is to believe of each term, a line each."""
        named = {"I(Z1; Z2)": self.mi, "I(J; Z)": self.identity, "I(Z; label)": self.label,
                 "I(X; Z + noise)": self.noise, "I(Z1 + noise; Z2 + noise)": self.noisy_views}  # fmt: skip
        if isinstance(self.chain, Chain):
            named |= {f"I({layer} of view 1; Z of view 2)": found for layer, found in self.chain.layers}
        elif self.chain is not None:
            named["chain of layers"] = self.chain
        told = {
            name: term if isinstance(term, str) else term.statement for name, term in named.items() if term is not None
        }
        return "\n".join(f"{name}: {text}" for name, text in told.items())


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: probes with their baselines, and MI in nats; mi, label and so on as in Terms.

    terms: the MI. checkpoint: which one was read. probes is a text that says why where none could be measured: no
    labels, one class, too few images of a class; so is mi, of too few images. targets: the probes of the data set's
    targets, if it has some.
    """

    probes: Probes | str
    terms: Terms
    checkpoint: dict[str, Any] | None = None  # step and checksum of what was evaluated, where that was a checkpoint
    targets: TargetProbes | None = None

    @property
    def mi(self) -> Estimate | str:
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

    @property
    def identity(self) -> Identity | str | None:
        return self.terms.identity

    @property
    def noisy_views(self) -> Estimate | str | None:
        return self.terms.noisy_views

    def to_dict(self) -> dict[str, Any]:
        """checkpoint, probe (as Probed has it) and estimate, each as JSON has it."""
        probed = Probed(self.probes, self.targets)
        return {"checkpoint": self.checkpoint, "probe": probed.to_dict(), "estimate": self.terms.to_dict()}

    def __str__(self) -> str:
        """The probes, the targets' where there are some, and what there is to believe of each MI."""
        probed = f"not probed: {self.probes}" if isinstance(self.probes, str) else str(self.probes)
        targets = [] if self.targets is None else _of_targets(self.targets)
        return "\n".join([probed, *targets, str(self.terms)])


def _of_targets(found: TargetProbes) -> list[str]:
    """A line a target, the trained encoder's score before the baselines'."""
    sides = {"trained encoder": found.trained, "untrained encoder": found.untrained, "raw pixels": found.pixels}

    def line(i: int) -> str:
        of = {side: probes[i] for side, probes in sides.items() if probes is not None}
        trained = found.trained[i]
        if trained.score is None:
            return f"{trained.name}: not measured: {trained.protocol['reason']}"
        cells = [f"{side} {_scored(probe.score, probe.interval)}" for side, probe in of.items()]
        return f"{trained.name}, {trained.kind}: {', '.join(cells)}, chance {trained.chance:.3f}"

    return [line(i) for i in range(len(found.trained))]


def _scored(score: float | None, interval: tuple[float, float] | None) -> str:
    if score is None:
        return "not measured"
    return f"{score:.3f} [no interval]" if interval is None else shown(score, interval)
