"""Run, the body of a recipe: reads options, starts processes, opens or resumes a folder, trains, writes results.

    with im.Run(Settings, __doc__) as run:
        ...
        for step in run.train(model, loader, optimizer, dataset): ...
        run.evaluate(dataset)

`Run` owns the order of these and no logic of theirs: that is in launch, training, checkpoints, evaluation and ui.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, final

import torch

from infomax import checkpoints, data, encoders, errors, launch, objectives, training, ui
from infomax.encoders.coverage import require_whole_image
from infomax.evaluation import Monitor, evaluate
from infomax.evaluation.monitor import shown
from infomax.models import Model
from infomax.training.batches import batch_at
from infomax.training.settings import DEFAULTS, LATER, LENGTH, MAY_DIFFER
from infomax.training.tracking import Tracker
from infomax.training.watchdog import Watch
from infomax.training.wrapping import is_sharding, refuse_sharding

__all__ = ["ImageSettings", "Run", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The options that every recipe has."""

    epochs: int = 30
    """Passes over the training samples."""
    steps: int | None = None
    """Optimiser steps in all; by default those of --epochs."""
    limit: int | None = None
    """Keep this many training samples; by default all."""
    batch_size: int = 256
    """Pairs in a batch over all processes: the N of the objective and of its ceiling log N."""
    microbatch: int | None = None
    """Pairs encoded at once, each twice, for a batch that does not fit in memory; the same gradient. By default all."""
    ring: bool = False
    """Across processes pass features around rather than gather them: less memory, the same gradient, more time."""
    lr: float = 3e-3
    """AdamW's largest learning rate, after 10 % of warm-up and before a cosine to 0."""
    objective: str | None = None
    """What is maximised, as its constructor call: "SMILE(tau=3)", NWJ, or module:Class. By default the recipe's own."""
    dataset: str = "mnist5k"
    """mnist5k, digits, mnist, fashionmnist, cifar10, cifar100, stl10, folder:PATH, csv:TABLE,
    hf:NAME_OR_PATH (Hugging Face), shards:PATTERN (WebDataset) or zarr:PATH; docs/data.md has each."""
    skip_unreadable: bool = False
    """Leave out image files that are empty or cannot be read, counted in a line and listed in run.json, rather than
    stop at the first. A resumed run has to leave out the same ones."""
    seed: int = 0
    """Random seed of weights, order and views."""
    run_dir: Path | None = None
    """Folder of the run; by default checkpoints/<recipe>, or <recipe>_<objective> for another, numbered if taken."""
    resume: bool = False
    """Go on from the newest whole checkpoint of --run-dir. Where there is none, start at the beginning."""
    save_every: int | None = None
    """Steps from one checkpoint to the next; by default one epoch."""
    keep: int = 2
    """Keep this many of the newest checkpoints."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """On a loss or gradient that is not finite: stop, or leave that batch out (20 in succession stop)."""
    health_every: int | None = None
    """Epochs from one measurement of held-out features' health to the next; 0 for none. By default what costs 2.5 %."""
    probe_every: int | None = None
    """Epochs from one kNN accuracy of the held-out sample to the next, where there are labels. By default as above."""
    on_collapse: Literal["stop", "warn"] = "warn"
    """On features that have collapsed: say so, with what to try, and go on; or stop, with exit status 1."""
    timeout: float = 20.0
    """With several processes: stop as stuck after so many seconds, and 3 times the longest step, without a step."""
    deterministic: bool = False
    """Only algorithms whose result the seed decides, on GPUs too; what it costs is in docs/faults.md."""
    tracker: str | None = None
    """Also log to tensorboard, trackio or wandb. log.jsonl is always written."""
    mixed_precision: str | None = None
    """Precision of the encoder: no, bf16 or fp16. Scores are float32. By default the launcher's setting, else no."""
    sync_bn: bool = False
    """BatchNorm over all processes (GPUs only) rather than over each process's part of the batch."""

    def maximised(self) -> objectives.Objective:
        """The objective that --objective names, or else the recipe's own. Raises UserError: one that is not there."""
        if self.objective is None:
            raise errors.UserError("Which objective is maximised? Run() says so, or --objective.")
        return objectives.objective(self.objective)


@dataclass(frozen=True)
class ImageSettings(Settings):
    """The options of recipes that compare views of images by a cosine."""

    temperature: float = 0.2
    """Temperature of the cosine critic: scores are cos / temperature + bias, in nats. The bias is learnt, from 0."""
    learn_temperature: bool = False
    """Learn the temperature too; --temperature is then where it starts."""
    encoder: str = "resnet10_tiny"
    """Any timm model, or a small-image variant of infomax's: resnet10_tiny, resnet18_small, ..."""
    pretrained: str | None = None
    """Start from weights: timm (those of --encoder's name), local-dir:PATH, or a .safetensors file. By default none."""
    freeze: int = 0
    """Stages, or blocks of a transformer, that keep the weights they start with, beside the stem; 0: nothing does."""

    def make_encoder(self, in_chans: int) -> torch.nn.Module:
        """The encoder that --encoder, --pretrained and --freeze name. in_chans: channels of the images.

        Raises UserError as encoders.encoder(), load_weights() and freeze() do, and for --freeze without weights.
        """
        if self.freeze < 0:
            raise errors.UserError(
                f"--freeze {self.freeze} is no number of stages: 0 freezes nothing, and N the stem and N stages."
            )
        if self.freeze and self.pretrained is None:
            raise errors.UserError(
                f"--freeze {self.freeze} keeps the weights that --pretrained gives: name them, or leave it out."
            )
        weights = self.pretrained == "timm" or self.pretrained or False
        model = encoders.encoder(self.encoder, in_chans, pretrained=weights)
        encoders.freeze(model, self.freeze)
        return model


S = TypeVar("S", bound=Settings)


@final
class Run(Generic[S]):
    """A run of a recipe, from its command line to its results: `with Run(Settings, __doc__) as run`.

    kind: the recipe's options, a dataclass derived from Settings. doc: the recipe's docstring, shown by --help.
    objective: what is maximised unless --objective names another. name: of the recipe, by default its file's.
    A user's mistake inside the with-block is one sentence on standard error and exit status 2; a signal saves first.
    """

    settings: S  # as they were typed; `objective` is the text of the one that is used

    def __init__(self, kind: type[S], doc: str | None, objective: objectives.Objective, name: str | None = None):
        self._kind, self._doc, self._default = kind, doc, objective
        self._name = name or Path(sys.argv[0]).stem
        self._trained: checkpoints.Run | None = None  # the folder of a training that came to its end
        self._stop = 0  # the signal that ended the training
        self._health: str | None = None  # what was last measured of held-out features, in a line

    def __enter__(self) -> "Run[S]":
        self._context = self._around()
        return self._context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)

    @contextlib.contextmanager
    def _around(self) -> Iterator["Run[S]"]:
        with ui.sentences():
            self.settings = _read(self._kind, f"{self._name}.py", self._doc, self._default)
            launch.die_with_launcher()
            launch.set_threads()
            if self.settings.deterministic:
                launch.make_deterministic()
            self._accelerator = launch.make_accelerator(self.settings.mixed_precision)
            with (
                Watch(self._accelerator, self.settings.timeout) as self._watch,
                contextlib.ExitStack() as self._folders,
            ):
                torch.manual_seed(self.settings.seed)
                yield self
            launch.leave(self._accelerator, 128 + self._stop if self._stop else 0)

    def steps(self, loader: training.Loader) -> int:
        """How many optimiser steps there are in all, by --steps or by --epochs of the loader's."""
        return self.settings.steps or self.settings.epochs * len(loader)

    def train(
        self,
        model: Model,
        loader: training.Loader,
        optimizer: torch.optim.Optimizer | None,
        dataset: Any,
        schedule: Callable[[int], float] | None = None,
    ) -> Iterator[training.Step]:
        """Trains, or goes on; yields a Step after each optimiser step, and logs, shows and saves by the settings.

        model: any Model. loader: its batches. optimizer: None takes AdamW at --lr, with decay 1e-3. dataset: what the
        loader reads, which a resumed run must find unchanged. schedule: of the learning rate, by default 10 % of
        warm-up and a cosine to 0. Whatever can be refused is refused before a folder is made.
        """
        settings, accelerator, watch = self.settings, self._accelerator, self._watch
        model.to(memory_format=torch.channels_last)  # pyright: ignore  # convolutions are faster so, on CPUs and GPUs
        model = training.synchronise_batch_norm(model) if settings.sync_bn else model
        optimizer = optimizer or _adamw(model, settings.lr, accelerator)
        steps, every = self.steps(loader), settings.save_every or len(loader)
        schedule = schedule or training.warmup_cosine(steps, warmup=steps // 10)
        _check(model, loader, accelerator)
        tracker = Tracker(settings.tracker)
        monitor = Monitor(
            model, loader, dataset, steps, settings.seed, accelerator, settings.health_every, settings.probe_every
        )
        run = self._folders.enter_context(self._opened(model, loader, dataset, steps))
        if run.finished:
            accelerator.print(f"{run.folder} is finished: its results are in run.json.")
            return
        start, skipped, health = _restored(run, model, optimizer, accelerator)
        told = ui.before_training(dataset, steps, len(loader), settings.batch_size, settings.steps is not None)
        accelerator.print(told, file=sys.stderr)
        monitor.begin(health, start)
        if accelerator.is_main_process:
            tracker.start(run.folder, run.configuration)
        progress = ui.Progress(steps, start, shown=accelerator.is_main_process)
        with watch.training(), progress:
            for step in training.train(
                model, loader, optimizer, schedule, accelerator,
                steps=steps, start=start, skipped=skipped, nonfinite=settings.nonfinite,
            ):  # fmt: skip
                skipped = skipped + 1 if step.skipped else 0
                numbers: dict[str, float] = {}
                if monitor.due(step.number):
                    with watch.paused():
                        numbers = monitor.measure(step.number)
                collapse = monitor.collapse(numbers, step.number)
                if words := shown(numbers):
                    self._health = (
                        f"Health of held-out features after step {step.number}: {words.replace('  ', ', ')};"
                        f" {'COLLAPSED, as said above' if collapse else 'not collapsed'}"
                    )
                progress.update(step, shown(numbers))
                run.log(step.to_dict() | numbers)
                tracker.log(step.to_dict() | numbers, step.number)
                yield step
                self._stop = watch.step(step.number)
                ends = collapse is not None and settings.on_collapse == "stop"
                last = self._stop or ends or step.number == steps
                if last or step.number % every == 0:
                    with watch.paused():
                        run.save(step.number, model, optimizer, _state(skipped, monitor, accelerator), wait=False)
                if collapse is not None and not ends:
                    accelerator.print(collapse, file=sys.stderr)
                elif collapse is not None:
                    with watch.paused():
                        run.wait()
                    raise errors.Collapsed(f"{collapse.removesuffix('.')}. It is saved in {run.folder}.")
                if self._stop:
                    start = step.number
                    break
            with watch.paused():
                run.wait()
        tracker.finish()
        if self._stop:
            told = f"{errors.signal_name(self._stop)}: saved after step {start}; go on with --resume --run-dir"
            accelerator.print(f"{told} {run.folder}.", file=sys.stderr)
        else:
            self._trained = run

    def evaluate(self, dataset: data.Dataset | data.Paired | data.GivenViews) -> None:
        """What the trained model is worth on held-out data, printed and written into run.json, which ends the run.

        dataset: images, for probes and the MI of two views; or pairs, or given views, for retrieval and MI.
        Nothing is done where the run was stopped by a signal, or had been finished before.
        """
        run = self._trained
        if run is None:
            return
        results: dict[str, Any] = {}
        if self._accelerator.is_main_process:  # the others wait in run.finish
            place = os.path.relpath(run.folder)
            try:
                with ui.Stages("Evaluating") as stages:
                    found = evaluate(run.folder, dataset, device=self._accelerator.device, terms=False, said=stages)
                ui.print_results(found, place, self._health)
                results = found.to_dict()
            except checkpoints.DamagedError:
                raise
            except errors.UserError as error:  # too few images; the encoder is trained and saved all the same
                print(*([self._health] if self._health else []), f"Saved in {place}; not evaluated: {error}", sep="\n")
                results = {"not_evaluated": str(error)}
        run.finish(results)

    def print(self, *words: Any) -> None:
        """Prints `words` on standard output, once however many processes there are."""
        self._accelerator.print(*words)

    def _opened(self, model: Model, loader: Any, dataset: Any, steps: int) -> checkpoints.Run:
        described = (checkpoints.describe(model) or {"parts": {}})["parts"].get("objective", self.settings.objective)
        resolved = {
            "steps": steps, "objective": described, "mixed_precision": self._accelerator.mixed_precision,
            "data": dataset.fingerprint, "data_notes": list(getattr(dataset, "notes", ())),
            "data_left_out": list(getattr(dataset, "left_out", ())),
            "start": encoders.started_from(getattr(model, "encoder", model)),
        }  # fmt: skip
        configuration = asdict(self.settings) | {"recipe": self._name} | resolved
        asked = self.settings.dataset, self.settings.limit, self.settings.skip_unreadable
        if getattr(dataset, "opened", None) != asked:
            configuration["dataset"] = None  # that name does not open it: who evaluates the run says on what
        unnamed = {"dataset"} if configuration["dataset"] is None else set[str]()  # then its fingerprint alone counts
        place: dict[str, Any] = {key: configuration.pop(key) for key in ("run_dir", "resume")}
        folder = _folder(self._name, self._default, model.objective)
        if place["resume"] and place["run_dir"] is None and folder != self._name:
            place["run_dir"] = _older_folder(self._name, folder, described)
        preprocessing = None
        if isinstance(dataset, data.Dataset):
            preprocessing = {
                **data.describe_views(getattr(loader, "views", None) or data.views_for(dataset)),
                "input_size": dataset.shape,
            }
        elif isinstance(dataset, data.Paired | data.GivenViews):
            preprocessing = data.describe_pairs(dataset)
        return checkpoints.open_run(
            place["run_dir"], folder, configuration, resume=place["resume"], preprocessing=preprocessing,
            keep=self.settings.keep, may_differ=MAY_DIFFER | unnamed, length=LENGTH, later=LATER, defaults=DEFAULTS,
        )  # fmt: skip


def _read(kind: type[S], prog: str, doc: str | None, default: objectives.Objective) -> S:
    """The options as they were typed, looked at; `objective` names the one that is used."""
    settings: S = ui.arguments(kind, prog=prog, description=doc)
    errors.require_seed(settings.seed)
    errors.require_positive(
        epochs=settings.epochs, steps=settings.steps, lr=settings.lr, save_every=settings.save_every,
        keep=settings.keep, timeout=settings.timeout,
    )  # fmt: skip
    if settings.objective is not None:
        objectives.objective(settings.objective)  # refused before anything is read; a module of the user's is imported
    return replace(settings, objective=repr(default) if settings.objective is None else settings.objective)


def _adamw(model: Model, lr: float, accelerator: Any) -> torch.optim.Optimizer:
    # Fused, one pass over all weights, where it may be: Accelerate cannot see that float16's scaler had it leave a step
    # out, and torch's fused loop takes no list of shards and whole parameters.
    fused = accelerator.scaler is None and not is_sharding(accelerator)
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3, fused=fused or None)


def _check(model: Model, loader: training.Loader, accelerator: Any) -> None:
    """Tries the model on black inputs of the loader's shapes. Raises UserError for what it cannot be trained on."""
    refuse_sharding(model, accelerator)
    model.check_batch(loader.batch_size)
    inputs, _ = batch_at(loader, 0, accelerator.process_index, accelerator.num_processes, "cpu")
    training.check_inputs(model, [torch.zeros_like(t[:4]) for t in inputs])
    encoders = [part for name, part in model.named_children() if name in ("encoder", "encoder_x", "encoder_y")]
    for encoder, given in zip(encoders, inputs, strict=False):
        side = getattr(model, "patch", None)  # a model of patches shows its encoder no more than one
        if given.ndim == 4:
            height, width = (side, side) if side is not None else given.shape[2:]
            require_whole_image(encoder, (given.shape[1], height, width), accelerator.device)


def _restored(
    run: checkpoints.Run, model: Model, optimizer: torch.optim.Optimizer, accelerator: Any
) -> tuple[int, int, dict[str, Any] | None]:
    """Fills what was saved; the step to go on from, how many before it were skipped, the monitor's state."""
    if run.checkpoint is None:
        return 0, 0, None
    model.to(accelerator.device)
    state = run.checkpoint.restore(model, optimizer)
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    accelerator.print(f"Going on from {run.checkpoint.folder}.", file=sys.stderr)
    return run.checkpoint.step, state.get("skipped", 0), state.get("health")


def _state(skipped: int, monitor: Monitor, accelerator: Any) -> dict[str, Any]:
    scaler = accelerator.scaler  # of float16, None otherwise
    return {"skipped": skipped, "health": monitor.state()} | ({"scaler": scaler.state_dict()} if scaler else {})


def _folder(name: str, default: objectives.Objective, used: objectives.Objective) -> str:
    """simclr_smile with its own objective; simclr_nwj with --objective NWJ; cpc_signals_nwj for cpc_signals."""
    kind, own = type(used).__name__.lower(), type(default).__name__.lower()
    return name if kind == own or not kind.isascii() else f"{name.removesuffix(f'_{own}')}_{kind}"


def _older_folder(name: str, folder: str, objective: str | None) -> Path | None:
    """Where there is no run in `folder`: the newest one of this objective in `name`, as older versions called them."""
    if checkpoints.default_folder(folder).exists():
        return None
    found: list[Path] = []
    for path in checkpoints.default_folder(name).parent.glob(f"{name.split('_')[0]}*/run.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged, or another's
            known = json.loads(path.read_text())["configuration"]
            if known["objective"] == objective and known.get("recipe", name) == name:
                found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None
