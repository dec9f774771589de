"""The body of the SimCLR recipes (Chen et al., 2020): two augmented views of an image, one encoder, any objective.

Run one of simclr_smile.py, simclr_infonce.py, simclr_nwj.py; they differ in the objective that they hand to main().
"""

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import infomax as im
from infomax import checkpoints, data, encoders, errors, launch, training, ui
from infomax.errors import signal_name
from infomax.training.settings import DEFAULTS, LATER, LENGTH, MAY_DIFFER
from infomax.training.tracking import Tracker
from infomax.training.watchdog import Watch


@dataclass(frozen=True)
class Settings:
    epochs: int = 30
    """Passes over the training images."""
    steps: int | None = None
    """Optimiser steps in all; by default those of --epochs."""
    limit: int | None = None
    """Keep this many training images; by default all."""
    batch_size: int = 256
    """Pairs in a batch over all processes: the N of the objective and of its ceiling log N."""
    microbatch: int | None = None
    """Pairs that are encoded at once, twice, for a batch beyond the memory; the same gradient. By default all."""
    ring: bool = False
    """Across processes pass features around rather than gather them: less memory, the same gradient, more time."""
    lr: float = 3e-3
    """AdamW's largest learning rate, after 10 % of warm-up and before a cosine to 0."""
    temperature: float = 0.2
    """Of the cosine critic: scores are cos / temperature + bias, in nats; the bias starts at 0 and is learnt."""
    learn_temperature: bool = False
    """Learn the temperature too; --temperature is then where it starts."""
    objective: str | None = None
    """What is maximised, as its constructor call: "SMILE(tau=3)", NWJ, or module:Class. By default the recipe's own."""
    encoder: str = "resnet10_tiny"
    """Any timm model, or a small-image variant of infomax's: resnet10_tiny, resnet18_small, ..."""
    dataset: str = "mnist5k"
    """mnist5k, digits, mnist, fashionmnist, cifar10, cifar100, stl10, or folder:PATH for an ImageFolder."""
    seed: int = 0
    """Of weights, order and views."""
    run_dir: Path | None = None
    """Where the run is saved; by default checkpoints/<recipe>, or checkpoints/simclr_<objective> where --objective is
    of another class than the recipe's; with a suffix where that exists."""
    resume: bool = False
    """Go on from the newest whole checkpoint of --run-dir; without one, start."""
    save_every: int | None = None
    """Steps from one checkpoint to the next; by default those of an epoch."""
    keep: int = 2
    """Keep this many of the newest checkpoints."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """On a loss or gradient that is not finite: stop, or leave that batch out (20 in succession stop)."""
    timeout: float = 20.0
    """Seconds without a step, and 3 times the longest so far, after which several processes are given up as stuck."""
    deterministic: bool = False
    """Only algorithms whose result the seed decides, on GPUs too; what it costs is in docs/faults.md."""
    tracker: str | None = None
    """tensorboard, trackio or wandb, beside log.jsonl, which is always written."""
    mixed_precision: str | None = None
    """no, bf16 or fp16, of the encoder; scores are float32. By default the launcher's, else no."""
    sync_bn: bool = False
    """BatchNorm over all processes (GPUs only) rather than over each process's part of the batch."""


def main(doc: str | None, name: str, objective: im.Objective) -> None:
    with ui.sentences():
        settings: Settings = ui.arguments(Settings, prog=f"{name}.py", description=doc)
        errors.require_seed(settings.seed)
        errors.require_positive(
            epochs=settings.epochs, steps=settings.steps, lr=settings.lr, save_every=settings.save_every,
            keep=settings.keep, timeout=settings.timeout,
        )  # fmt: skip
        used = objective if settings.objective is None else im.objectives.objective(settings.objective)
        kind = type(used).__name__.lower()
        run(settings, name, name if type(used) is type(objective) or not kind.isascii() else f"simclr_{kind}", used)


def run(settings: Settings, name: str, folder: str, objective: im.Objective) -> None:
    launch.die_with_launcher()
    launch.set_threads()
    if settings.deterministic:
        launch.make_deterministic()
    accelerator = launch.make_accelerator(settings.mixed_precision)
    with Watch(accelerator, settings.timeout) as watch:
        stop = train(settings, name, folder, objective, accelerator, watch)
    launch.leave(accelerator, 128 + stop if stop else 0)


def train(settings: Settings, name: str, folder: str, objective: im.Objective, accelerator: Any, watch: Watch) -> int:
    """Returns the signal that ended it, or 0."""
    torch.manual_seed(settings.seed)

    dataset = data.dataset(settings.dataset, limit=settings.limit)
    loader = data.PairLoader(dataset.train, data.views_for(dataset), settings.batch_size, settings.seed)
    encoder = im.encoder(settings.encoder, in_chans=dataset.shape[0])
    projector = encoders.Projector(encoders.features_of(encoder), hidden=256, out=64)
    critic = im.Cosine(settings.temperature, learn=settings.learn_temperature or "bias")
    model = im.InfoMax(encoder, projector, critic, objective, microbatch=settings.microbatch, ring=settings.ring)
    model.to(memory_format=torch.channels_last)  # pyright: ignore  # convolutions are faster so, on CPUs and GPUs
    if settings.sync_bn:
        model = training.synchronise_batch_norm(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=1e-3)
    steps = settings.steps or settings.epochs * len(loader)
    schedule = training.warmup_cosine(steps, warmup=steps // 10)

    # Whatever can be refused is refused before a folder is made.
    own = loader.ids(0, accelerator.process_index, accelerator.num_processes)
    training.check_model(model, dataset.shape, pairs=min(len(own), 4))
    tracker = Tracker(settings.tracker)

    described = (checkpoints.describe(model) or {})["parts"]  # spells an objective of the user's own as module:Class
    resolved = {"steps": steps, "objective": described["objective"], "mixed_precision": accelerator.mixed_precision,
                "data": dataset.fingerprint}  # fmt: skip
    configuration = asdict(settings) | {"recipe": name} | resolved
    place: dict[str, Any] = {key: configuration.pop(key) for key in ("run_dir", "resume")}
    if place["resume"] and place["run_dir"] is None and folder != name:
        place["run_dir"] = named_after_recipe(name, folder, described["objective"])
    preprocessing = {**data.describe_views(loader.views), "input_size": dataset.shape}
    with checkpoints.open_run(
        place["run_dir"], folder, configuration, resume=place["resume"], preprocessing=preprocessing,
        keep=settings.keep, may_differ=MAY_DIFFER, length=LENGTH, later=LATER, defaults=DEFAULTS,
    ) as run:  # fmt: skip
        if run.finished:
            accelerator.print(f"{run.folder} is finished: its results are in run.json.")
            return 0
        start = stop = last = skipped = 0
        if run.checkpoint is not None:
            model.to(accelerator.device)
            state = run.checkpoint.restore(model, optimizer)
            if accelerator.scaler is not None and "scaler" in state:
                accelerator.scaler.load_state_dict(state["scaler"])
            start, skipped = run.checkpoint.step, state.get("skipped", 0)
            accelerator.print(f"Going on from {run.checkpoint.folder}.", file=sys.stderr)
        if accelerator.is_main_process:
            tracker.start(run.folder, configuration)
        progress = ui.Progress(steps, start, shown=accelerator.is_main_process)
        with watch.training(), progress:
            for step in im.train(
                model, loader, optimizer, schedule, accelerator,
                steps=steps, start=start, skipped=skipped, nonfinite=settings.nonfinite,
            ):  # fmt: skip
                skipped = skipped + 1 if step.skipped else 0
                progress.update(step)
                run.log(step.to_dict())
                tracker.log(step.to_dict(), step.number)
                stop = watch.step(step.number)
                if stop or step.number == steps or step.number % (settings.save_every or len(loader)) == 0:
                    scaler = accelerator.scaler  # of float16, None otherwise
                    with watch.paused():
                        state = {"skipped": skipped} | ({"scaler": scaler.state_dict()} if scaler else {})
                        run.save(step.number, model, optimizer, state, wait=False)
                if stop:
                    last = step.number
                    break
            with watch.paused():
                run.wait()
        tracker.finish()
        if stop:
            told = f"{signal_name(stop)}: saved after step {last}; go on with --resume --run-dir {run.folder}."
            accelerator.print(told, file=sys.stderr)
            return stop
        results = {}
        if accelerator.is_main_process:  # the others wait in run.finish
            try:
                found = im.evaluate(run.folder, dataset, device=accelerator.device, terms=False)
                ui.print_evaluation(found.probes, found.mi, saved=os.path.relpath(run.folder))
                results = found.to_dict()
            except checkpoints.DamagedError:
                raise
            except im.UserError as error:  # too few images; the encoder is trained and saved all the same
                print(f"Saved in {os.path.relpath(run.folder)}; not evaluated: {error}")
                results = {"not_evaluated": str(error)}
        run.finish(results)
    return 0


def named_after_recipe(name: str, folder: str, objective: str) -> Path | None:
    """Where there is no run in `folder`: the newest one of this objective in `name`, as older versions called them."""
    if checkpoints.default_folder(folder).exists():
        return None
    found: list[Path] = []
    for path in checkpoints.default_folder(name).parent.glob(f"{name}*/run.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged, or another's
            if json.loads(path.read_text())["configuration"]["objective"] == objective:
                found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None
