"""The monitor of a training: a fixed held-out sample through the model every few epochs, and when to call it collapsed.

What is measured leaves no trace in the run: no gradient, no statistic, no random number of it is touched.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from infomax import distributed
from infomax.data import Dataset, GivenViews, Paired, Split
from infomax.errors import UserError
from infomax.evaluation.health import effective_rank, health, spread
from infomax.models import Model
from infomax.randomness import random_state, set_random_state
from infomax.scores import Scores, Sides

if TYPE_CHECKING:
    from accelerate import Accelerator

    from infomax.training import Loader

SAMPLES = 256  # of the held-out images or pairs, the first of an order that the seed draws
CHUNK = 64  # samples encoded at once
SHARE = 0.025  # of the training's passes through the encoder that a measurement may cost, by default
PASSES = 3  # that a training step is worth, for forward and backward
NEIGHBOURS = 10
EPOCH = -1000  # of the held-out views: one that neither training nor evaluation has

RANK = 2.0  # RankMe below it, and half as far from 1 as at the start or less: all samples lie about on one line
LINE = 1.001  # RankMe below it, whatever the start
DEVIATION = 0.01  # of the start's: what is left then is rounding and the running statistics of BatchNorm
NOTHING = 0.01  # of the ceiling: held-out MI that is no more counts as 0
STEPS = 10  # for so many of them and an epoch: in fewer, small data have taught nothing yet
WARMUP = 0.1  # of the steps, in which MI may still be 0


@final
class Monitor:
    """Measures a model on held-out samples between two steps, and says when it has collapsed. Used by all processes.

    model, loader, dataset: those of the training. steps: of the run. seed: of the sample and its views. accelerator: of
    the run; the main process measures, all get the same numbers. every, probe_every: epochs from one measurement to the
    next, of health and of kNN; 0 for none; None for one epoch, or as many as keep it at 2.5 % of the training's passes
    through the encoder. Where there are no two held-out samples, or images without the loader's views (its `every`),
    nothing is measured.
    Measured are features of the sample in two views, in evaluation mode: of images the encoder's features of whole
    views (for CPC as probes read them), of sequences the mean over time, of a TwoTower each tower's features, of given
    views the first two. MI is the
    model's own objective on the sample, with the critic as it is, beside its ceiling. Of what the critic compares there
    are RankMe and deviation, as a projection can collapse while features do not. kNN: the label of each sample by its
    10 nearest others.
    Raises UserError: a negative number of epochs, what was asked for and has no held-out samples, kNN without labels.
    """

    def __init__(
        self,
        model: Model,
        loader: "Loader",
        dataset: Any,
        steps: int,
        seed: int,
        accelerator: "Accelerator",
        every: int | None = None,
        probe_every: int | None = None,
    ):
        for name, number in (("health-every", every), ("probe-every", probe_every)):
            if number is not None and number < 0:
                raise UserError(f"--{name} is a number of epochs, 1 or more, or 0 for never; not {number}.")
        self._model, self._accelerator, self._steps, self._seed = model, accelerator, steps, seed
        self._epoch = len(loader)
        self._views = getattr(loader, "every", None)
        self._split = getattr(dataset, "test", None)
        self._towers = ("encoder", "encoder") if hasattr(model, "encoder") else ("encoder_x", "encoder_y")
        usable = isinstance(dataset, Paired | GivenViews) or (isinstance(dataset, Dataset) and self._views is not None)
        usable = usable and self._split is not None and all(hasattr(model, name) for name in self._towers)
        held_out = len(self._split) if usable and self._split is not None else 0
        count = min(held_out, SAMPLES, max(CHUNK, loader.batch_size))  # what memory has room for
        if count < 2:
            for name, number in (("health-every", every), ("probe-every", probe_every)):
                if number:
                    raise UserError(
                        f"--{name} {number} needs an encoder and two held-out samples or more, in the loader's"
                        " views: take 0, or more data."
                    )
            every = probe_every = 0
        self._asked = every is not None
        labels = getattr(self._split, "labels", None)
        if probe_every and labels is None:
            raise UserError(f"--probe-every {probe_every} needs labels, and {dataset.name} has none: take 0.")
        affordable = math.ceil(2 * count / (SHARE * PASSES * 2 * self._epoch * loader.batch_size))
        self._every = max(1, affordable) if every is None else every
        self._probe_every = (self._every if probe_every is None else probe_every) if labels is not None else 0
        self._at = torch.randperm(held_out, generator=torch.Generator().manual_seed(seed))[:count]
        self._labels = None if labels is None or not count else labels[self._at]
        self._images: Tensor | None = None  # uint8, read once
        self._start: dict[str, float] = {}  # ranks and deviations, by name, before the first step
        self._nothing = 0  # the step from which on MI was 0 at every measurement; 0 where it was not

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"start": dict(self._start), "nothing": self._nothing}

    def begin(self, state: Mapping[str, Any] | None, start: int = 0) -> None:
        """Before the first step of this process: measures the start, or takes it from what state() gave.

        start: steps done so far. A run that was saved without a start is compared with what it is resumed with.
        """
        if state:
            self._start, self._nothing = dict(state["start"]), int(state["nothing"])
        self._model.to(self._accelerator.device)
        if self._every and not self._start and (start // self._span + 1) * self._span <= self._steps:
            start_at = self._measured(True, False)
            self._start = {k: v for k, v in start_at.items() if k.endswith(("rankme", "feature_std"))}

    @property
    def _span(self) -> int:
        """Steps from one measurement of health to the next."""
        return self._every * self._epoch

    def due(self, step: int) -> bool:
        """Whether anything is measured after `step` steps."""
        return bool((self._every and step % self._span == 0) or self._probes(step))

    def _probes(self, step: int) -> bool:
        return bool(self._probe_every and step % (self._probe_every * self._epoch) == 0)

    def measure(self, step: int) -> dict[str, float]:
        """The numbers after `step` steps, by name: "health/rankme", ...; of two towers "health/x/rankme", ... too."""
        return self._measured(bool(self._every and step % self._span == 0), self._probes(step))

    def collapse(self, numbers: Mapping[str, float], step: int) -> str | None:
        """What says that the run has collapsed, in a sentence, or None. numbers: measure(step)'s, once a step."""
        told = None
        for name, rank in numbers.items():
            if not name.endswith("rankme"):
                continue
            what = "projections" if "projection" in name else "features"
            began = self._start.get(name, math.inf)  # an untrained encoder's may be below 2 and rise
            if rank < max(min(RANK, 1 + (began - 1) / 2), LINE):
                told = f"RankMe of the {what} is {rank:.2f}, below {RANK:g}: those of all samples lie about on one line"
            deviation = numbers[name.replace("rankme", "feature_std")]
            before = self._start.get(name.replace("rankme", "feature_std"))
            if before is not None and not deviation >= DEVIATION * before:
                part = 100 * deviation / before if before else 0.0
                told = f"the deviation of {what} is {part:.2g} % of the start's: all samples look alike"
        if "health/mi" in numbers:
            late = step > WARMUP * self._steps
            nothing = late and abs(numbers["health/mi"]) <= NOTHING * numbers["health/ceiling"]
            self._nothing = (self._nothing or step) if nothing else 0
            if nothing and step >= self._nothing + max(STEPS, self._epoch) and told is None:
                told = f"MI on held-out samples is {numbers['health/mi']:.3f} nats, and 0 since step {self._nothing}"
        if told is None:
            return None
        return (
            f"Collapsed at step {step}: {told}. Try a lower learning rate, a temperature nearer to 0.2, stronger"
            " views (they must differ, and still show the sample), or an objective with negatives."
        )

    # ------------------------------------------------------------------------------------------------- measuring

    def _measured(self, of_health: bool, of_labels: bool) -> dict[str, float]:
        try:
            with self._model.whole():  # one process measures, on what all of them hold
                if distributed.is_sharded(self._model):  # of which a forward needs all processes
                    with distributed.gathered(self._model):  # BatchNorm's statistics are each one's own
                        return distributed.as_main(lambda: self._measure(of_health, of_labels))
                return distributed.on_main(lambda: self._measure(of_health, of_labels))
        except UserError as error:
            if self._asked:
                raise
            self._every = self._probe_every = 0
            self._accelerator.print(f"The features' health is not measured: {error}", file=sys.stderr)
            return {}

    @torch.no_grad()
    def _measure(self, of_health: bool, of_labels: bool) -> dict[str, float]:
        model = self._model
        modes = [(module, module.training) for module in model.modules()]
        kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
        before = random_state()
        try:
            model.eval()
            inputs = self._inputs()
            found = self._features(inputs)
            if not all(bool(side.isfinite().all()) for side in found.values()):
                raise UserError("Features of held-out samples are not finite: try a lower learning rate, or float32.")
            numbers: dict[str, float] = {}
            if of_health:
                numbers |= self._health(found)
                numbers |= self._information(inputs)
            if of_labels and self._labels is not None:
                numbers["probe/knn"] = _neighbours(found["1"], found["2"], self._labels)
            return numbers
        finally:
            for buffer, value in kept:
                buffer.copy_(value)
            for module, training in modes:
                module.training = training
            set_random_state(before)

    def _inputs(self) -> list[Tensor]:
        """The sample as the model takes it, two views or two modalities, the same at every call."""
        device, split = self._accelerator.device, self._split
        assert split is not None
        if self._views is None or not isinstance(split, Split):
            return [side.to(device) for side in split.batch(self._at)]
        if self._images is None:
            self._images = split.batch(self._at)
        images, at = self._images.to(device), self._at.to(device)
        return [view(images, at, self._seed, EPOCH, number) for number, view in enumerate(self._views[:2])]

    def _features(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """By view "1", "2", or by tower "x", "y": [n, d] each, of the encoder alone."""
        parts = [getattr(self._model, name) for name in self._towers]
        names = ("1", "2") if self._towers[0] == "encoder" else ("x", "y")
        with self._accelerator.autocast():
            return {
                name: torch.cat([_pooled(part(chunk)) for chunk in given.split(CHUNK)]).float().cpu()
                for name, part, given in zip(names, parts, inputs[:2], strict=True)
            }

    def _health(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        def shown(prefix: str, *sides: Tensor) -> dict[str, float]:
            of = health(sides[0], views=list(sides[1:]) or None).to_dict()
            del of["n"]
            del of["d"]
            return {f"health/{prefix}{name}": float(v) for name, v in of.items() if v is not None}

        if "x" in found:  # two spaces: views of one sample are not to be compared
            return {name: v for tower in ("x", "y") for name, v in shown(f"{tower}/", found[tower]).items()}
        return shown("", found["1"], found["2"])

    def _information(self, inputs: list[Tensor]) -> dict[str, float]:
        """The objective's value on the sample and its ceiling, nats, as Model.forward has them of a batch, and whether
        what the critic compares, the rows of the first term, has collapsed."""
        model, value, ceiling = self._model, 0.0, 0.0
        with self._accelerator.autocast():
            sides = model.sides(inputs, torch.arange(len(self._at), device=inputs[0].device))
        sides = [sides] if isinstance(sides, Sides) else sides
        rows = sides[0].x.float().flatten(1).cpu()
        rows = rows[:: max(1, len(rows) // (2 * SAMPLES))].double()  # of patches there are many
        unit = nn.functional.normalize(rows, dim=1)
        numbers = {
            "health/projection/rankme": effective_rank(torch.linalg.svdvals(rows)),
            "health/projection/feature_std": spread(unit),
        }
        for each in sides:
            critic, objective = model.term(each.name)
            scores = Scores.of(critic, _float(each), local=True)
            value += each.weight * float(objective.value_and_surrogate(scores)[0])
            ceiling += each.weight * math.log(scores.negative.per_positive + 1)
        return numbers | {"health/mi": value, "health/ceiling": ceiling}


def shown(numbers: Mapping[str, float]) -> str:
    """A measurement in a few words, for a line of progress; of two towers, the worse one's."""
    words = []
    for name, word in (("rankme", "RankMe"), ("feature_std", "deviation")):
        values = [v for k, v in numbers.items() if k in _shown_as(name)]
        if values:
            words.append(f"{word} {min(values):.3g}")
    if "health/mi" in numbers:
        words.append(f"held-out MI {numbers['health/mi']:.2f} of {numbers['health/ceiling']:.2f}")
    if "probe/knn" in numbers:
        words.append(f"kNN {100 * numbers['probe/knn']:.0f} %")
    return "  ".join(words)


def _shown_as(name: str) -> tuple[str, ...]:
    return f"health/{name}", f"health/x/{name}", f"health/y/{name}"


def _float(sides: Sides) -> Sides:
    """As they were encoded under autocast, in float32, in which scores are computed."""
    extra = None if sides.extra is None else sides.extra.float()
    return replace(sides, x=sides.x.float(), y=sides.x.float() if sides.y is sides.x else sides.y.float(), extra=extra)


def _pooled(out: Any) -> Tensor:
    """[n, d] of what an encoder gives: rows, or the mean over the times of [n, t, d] or the places of [n, d, h, w]."""
    if not isinstance(out, Tensor):
        raise UserError(
            f"The encoder returns a {type(out).__name__}, of which no health is measured: --health-every 0."
        )
    return out.flatten(2).mean(2) if out.ndim == 4 else out.mean(1) if out.ndim == 3 else out.flatten(1)


def _neighbours(first: Tensor, second: Tensor, labels: Tensor) -> float:
    """Accuracy, in [0, 1], of the first view of each sample by the second views of its 10 nearest other samples."""
    similar = nn.functional.normalize(first, dim=1) @ nn.functional.normalize(second, dim=1).T
    nearest = similar.fill_diagonal_(-math.inf).topk(min(NEIGHBOURS, len(labels) - 1), dim=1).indices
    votes = nn.functional.one_hot(labels[nearest], int(labels.max()) + 1).sum(1)
    return float((votes.argmax(1) == labels).double().mean())
