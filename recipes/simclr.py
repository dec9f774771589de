"""The body of the SimCLR recipes (Chen et al., 2020): two augmented views of an image, one encoder, any objective.

Run one of simclr_smile.py, simclr_infonce.py, simclr_nwj.py; they differ in the objective that they hand to main().
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

import infomax as im
from infomax import checkpoints, console, data, encoders, launch, tracking, training


@dataclass(frozen=True)
class Settings:
    epochs: int = 25
    """Passes over the training images."""
    steps: int | None = None
    """Optimiser steps in all; by default those of --epochs."""
    limit: int | None = None
    """Keep this many training images; by default all."""
    batch_size: int = 256
    """Pairs in a batch over all processes: the N of the objective and of its ceiling log N."""
    lr: float = 3e-3
    """AdamW's largest learning rate, after 10 % of warm-up and before a cosine to 0."""
    temperature: float = 0.2
    """Of the cosine critic, at the start: scores are cos / temperature + bias, in nats; the bias starts at 0."""
    fixed_temperature: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep temperature and bias as they are; by default the critic learns both."""
    objective: str | None = None
    """What is maximised, as its constructor call: "SMILE(tau=3)", NWJ, or module:Class. By default the recipe's own."""
    encoder: str = "resnet10_tiny"
    """Any timm model, or a small-image variant of infomax's: resnet10_tiny, resnet18_small, ..."""
    dataset: str = "mnist5k"
    """mnist5k, digits, mnist, fashionmnist, cifar10, cifar100, stl10, or folder:PATH for an ImageFolder."""
    seed: int = 0
    """Of weights, order and views."""
    run_dir: Path | None = None
    """Where the run is saved; by default checkpoints/<recipe>, with a suffix where that exists."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the newest whole checkpoint of --run-dir; without one, start."""
    tracker: str | None = None
    """tensorboard, trackio or wandb, beside log.jsonl, which is always written."""
    mixed_precision: str | None = None
    """no, bf16 or fp16, of the encoder; scores are float32. By default the launcher's, else no."""
    sync_bn: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """BatchNorm over all processes (GPUs only) rather than over each process's part of the batch."""


def main(doc: str | None, name: str, objective: im.Objective) -> None:
    settings = tyro.cli(Settings, prog=f"{name}.py", description=doc)
    with console.sentences():
        run(settings, name, objective if settings.objective is None else im.objectives.objective(settings.objective))


def run(settings: Settings, name: str, objective: im.Objective) -> None:
    launch.die_with_launcher()
    launch.set_threads()
    accelerator = launch.make_accelerator(settings.mixed_precision)
    torch.manual_seed(settings.seed)

    dataset = data.dataset(settings.dataset, limit=settings.limit)
    loader = data.PairLoader(dataset.train, data.views_for(dataset), settings.batch_size, settings.seed)
    encoder = im.encoder(settings.encoder, in_chans=dataset.shape[0])
    projector = encoders.Projector(encoders.features_of(encoder), hidden=256, out=64)
    critic = im.Cosine(settings.temperature, learn=not settings.fixed_temperature)
    model = im.InfoMax(encoder, projector, critic, objective)
    model.to(memory_format=torch.channels_last)  # pyright: ignore  # convolutions are faster so, on CPUs and GPUs
    if settings.sync_bn:
        model = training.synchronise_batch_norm(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=1e-3)
    steps = settings.steps or settings.epochs * len(loader)
    schedule = training.warmup_cosine(steps, warmup=steps // 10)

    configuration = asdict(settings) | {"objective": repr(objective), "recipe": name}
    preprocessing = {"mean": dataset.mean, "std": dataset.std, "input_size": dataset.shape}
    place = {key: configuration.pop(key) for key in ("run_dir", "resume")}
    main_process = accelerator.is_main_process
    with checkpoints.open_run(
        place["run_dir"], name, configuration, resume=place["resume"], preprocessing=preprocessing
    ) as run:
        if run.finished:
            if main_process:
                print(f"{run.folder} is finished: its results are in run.json.")
            return
        start = 0
        if run.checkpoint is not None:
            model.to(accelerator.device)
            run.checkpoint.restore(model, optimizer)
            start = run.checkpoint.step
        tracker = tracking.Tracker(settings.tracker if main_process else None, run.folder, configuration)
        with console.Progress(steps, start, shown=main_process) as progress:
            for step in im.train(model, loader, optimizer, schedule, accelerator, steps=steps, start=start):
                progress.update(step)
                run.log(step.to_dict())
                tracker.log(step.to_dict(), step.number)
                if step.number % len(loader) == 0 or step.number == steps:
                    run.save(step.number, model, optimizer)
        tracker.finish()
        results = None
        if main_process:  # the others wait in run.finish
            found = im.evaluate(run.folder, dataset, device=accelerator.device)
            console.print_evaluation(found.probes, found.mi, saved=os.path.relpath(run.folder))
            results = found.to_dict()
        run.finish(results or {})
    accelerator.end_training()
