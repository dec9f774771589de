"""The figures of Song & Ermon (2020) by one command: each of its experiments in turn, and a page with what it shows."""

import contextlib
import io
import json as _json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infomax import __version__, errors
from infomax.benchmarks import cells, consistency, staircase, tau
from infomax.errors import UserError


@dataclass(frozen=True)
class Experiment:
    """One of the paper's: its name, its pictures, what the paper found, and the command that measures."""

    name: str
    pictures: tuple[str, ...]
    title: str
    shows: str
    run: Callable[..., None]


EXPERIMENTS = (
    Experiment(
        "tau", ("tau.png",), "SMILE's bias and variance",
        "A partition function that a batch estimates has a variance that grows as e^(2 MI). Clipping log-ratios at tau"
        " trades it for bias, and the sum of both is least in between.",
        tau.command,
    ),
    Experiment(
        "staircase", ("staircase.png", "staircase_errors.png"), "Estimators on a rising MI",
        "20-dimensional Gaussian pairs, and their cubes, of 2, 4, 6, 8 and 10 nats. InfoNCE stays below log 64 = 4.16;"
        " NWJ and JS vary more the higher the MI is; SMILE's tau decides between the two; flows are right on Gaussian"
        " pairs and low on cubic ones. The default of this library, which the paper does not have, is beside them.",
        staircase.command,
    ),
    Experiment(
        "consistency", ("consistency.png",), "Self-consistency on images",
        "The MI of independent images is 0, rows of an image add nothing to more rows of it, and two independent pairs"
        " have twice the MI of one. No estimator of the paper passes all three. The two other sources have a known MI.",
        consistency.command,
    ),
)  # fmt: skip


def command(
    only: tuple[str, ...] = tuple(e.name for e in EXPERIMENTS),
    joint: bool = False,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int | None = None,
    quick: bool = False,
    output: Path = Path("results/paper"),
    json: bool = False,
) -> None:
    """The paper's figures, all by this one command: its three experiments in turn, and a page of what they show.

    Args:
        only: Which of tau, staircase and consistency.
        joint: The staircase with joint critics too, as the paper has it: hours without a GPU.
        seed: Of pairs and critics.
        device: Where critics are trained.
        threads: CPU threads. By default all cores.
        quick: A small form of each, two minutes together on two cores.
        output: The results folder: paper.md and a folder an experiment. What a killed run finished is not done again.
        json: Print one JSON object, and nothing else.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    for name in only:
        if name not in known:
            raise UserError(f"Unknown experiment {name!r}.{errors.nearest(name, known)}")
    errors.require_positive(threads=threads)
    more: dict[str, dict[str, Any]] = {
        "tau": {},
        "staircase": {
            "device": device,
            "threads": threads,
            "task": ("gaussian", "cubic"),
            "critic": ("separable", "joint") if joint else ("separable",),
        },
        "consistency": {"device": device, "threads": threads},
    }
    found, pages = {}, [f"# The figures of Song & Ermon (2020)\n\ninfomax {__version__}, build {cells.maker()}."]
    for experiment in EXPERIMENTS:
        if experiment.name not in only:
            continue
        folder, began, said = output / experiment.name, time.monotonic(), io.StringIO()
        if not json:
            print(f"\n== {experiment.title}\n", flush=True)
        with contextlib.redirect_stdout(said) if json else contextlib.nullcontext():
            experiment.run(seed=seed, quick=quick, output=folder, json=json, **more[experiment.name])
        found[experiment.name] = {
            "pictures": [str(folder / name) for name in experiment.pictures],
            "seconds": time.monotonic() - began,
            **(_json.loads(said.getvalue()) if json else {}),
        }
        tables = (folder / f"{experiment.name}.md").read_text(encoding="utf-8").strip()
        pictures = [f"![{experiment.title}]({experiment.name}/{name})" for name in experiment.pictures]
        pages.append("\n\n".join([f"## {experiment.title}", experiment.shows, *pictures, tables]))
    cells.write_page(output, "paper", "\n\n".join(pages))
    if json:
        print(_json.dumps({"output": str(output), "experiments": found}))
        return
    print(f"\n{output / 'paper.md'} has them all:")
    for one in found.values():
        print(f"  {one['seconds']:.0f} s: {', '.join(one['pictures'])}")
