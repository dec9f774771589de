"""Health without labels beside the linear probe: Kendall's tau over runs, collapses that are planted, and the cost.

Every run is a SimCLR of a small encoder, measured after each epoch as a recipe measures it. A run that trained well
must not be called collapsed; a planted collapse must be.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomax import errors, objectives, training
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.critics import Cosine
from infomax.data import PairLoader, Views, dataset, views_for
from infomax.encoders import Projector, encoder, features_of
from infomax.errors import NonFinite, UserError
from infomax.evaluation import Monitor
from infomax.evaluation.probing import probe
from infomax.launch import make_accelerator
from infomax.models import InfoMax

NUMBERS = ("rankme", "alpha_req", "lidar", "alignment", "uniformity", "feature_std", "mi")
OBJECTIVES = ("InfoNCE()", "SMILE(tau=5)", "JS()", "NWJ()", "SigLIP()")
PLANTED = ("temperature", "no negatives", "learning rate", "constant views")


class Positives(objectives.Objective):
    """The mean score of positives: no negatives, so that equal features of all samples are best."""

    def estimate(self, s: Any) -> Tensor:
        return s.positive.mean()


def command(
    names: tuple[str, ...] = OBJECTIVES,
    temperatures: tuple[float, ...] = (0.1, 0.2, 0.5),
    seeds: int = 2,
    epochs: int = 10,
    batch_size: int = 256,
    data: str = "mnist5k",
    limit: int | None = None,
    output: Path = Path("results/health"),
    json: bool = False,
) -> None:
    """Kendall's tau of each number of health with the linear probe's accuracy, planted collapses, false stops and cost.

    Args:
        names: Objectives as constructor calls.
        temperatures: Of the cosine critic, each with every objective.
        seeds: So many, from 0, of every objective and temperature.
        epochs: Of each run.
        batch_size: Pairs in a batch.
        data: A data set with labels, as the recipes take it.
        limit: Keep this many training images.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, epochs=epochs, batch_size=batch_size, limit=limit)
    for name in names:
        objectives.objective(name)
    if any(not t > 0 for t in temperatures) or len(names) * len(temperatures) * seeds < 3:
        raise UserError("Kendall's tau needs three runs or more, of positive --temperatures.")
    base = {"epochs": epochs, "batch_size": batch_size, "data": data, "limit": limit}
    healthy = [
        base | {"experiment": "health", "planted": "", "objective": name, "temperature": t, "seed": seed}
        for seed in range(seeds) for name in names for t in temperatures
    ]  # fmt: skip
    planted = [
        base | {"experiment": "collapse", "planted": kind, "objective": "InfoNCE()", "temperature": 0.2, "seed": seed}
        for seed in range(seeds) for kind in PLANTED
    ]  # fmt: skip

    def work(key: dict[str, Any]) -> Any:
        return cells.at_once(lambda: trained(key))

    found = cells.run([Cell(key, work(key)) for key in (*planted, *healthy)], output, not json)
    collapsed, well = found[: len(planted)], found[len(planted) :]
    made = {"Kendall's tau with linear accuracy": taus(well), "planted collapses": _caught(planted, collapsed)}
    stopped = [run for run in well if run["epoch"] is not None]
    share = 100 * sum(run["health"] for run in well) / sum(run["training"] for run in well)
    accuracies = sorted(100 * run["accuracy"] for run in well)
    protocol = (
        f"{len(well)} runs of {epochs} epochs on {data}, batches of {batch_size}: {', '.join(names)} at temperatures"
        f" {', '.join(f'{t:g}' for t in temperatures)}, {seeds} seeds. Linear accuracy {accuracies[0]:.1f} to"
        f" {accuracies[-1]:.1f} %. Of these, {len(stopped)} were called collapsed"
        f"{_named(healthy, well)}. Health took {share:.1f} % of the training's processor time."
    )
    cells.report(cells.write_tables(output, "health", protocol, made), made, output, json)


def trained(key: dict[str, Any]) -> dict[str, Any]:
    """One run: its last numbers, its linear accuracy, when and why it collapsed, and processor time in seconds."""
    torch.manual_seed(key["seed"])
    planted, images = key["planted"], dataset(key["data"], limit=key["limit"])
    views: Any = views_for(images)
    shown: Any = _Constant(views) if planted == "constant views" else views
    loader = PairLoader(images.train, shown, key["batch_size"])
    network = encoder("resnet10_tiny", in_chans=images.shape[0])
    temperature = 1000.0 if planted == "temperature" else key["temperature"]
    objective = Positives() if planted == "no negatives" else objectives.objective(key["objective"])
    model = InfoMax(
        network, Projector(features_of(network), hidden=256, out=64), Cosine(temperature, learn="bias"), objective
    )
    rate = 300.0 if planted == "learning rate" else 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    accelerator, steps = make_accelerator(None), key["epochs"] * len(loader)
    monitor = Monitor(model, loader, images, steps, key["seed"], accelerator, 1, 1)
    monitor.begin(None)
    numbers: dict[str, float] = {}
    result: dict[str, Any] = {"epoch": None, "told": "", "health": 0.0}
    began = time.process_time()
    try:
        for step in training.train(
            model, loader, optimizer, training.warmup_cosine(steps, steps // 10), accelerator, steps=steps
        ):
            if monitor.due(step.number):
                before = time.process_time()
                numbers = monitor.measure(step.number)
                told = monitor.collapse(numbers, step.number)
                result["health"] += time.process_time() - before
                if told is not None and result["epoch"] is None:
                    result |= {"epoch": step.epoch + 1, "told": told.partition(": ")[2].partition(". Try")[0]}
                    if planted:
                        break
    except NonFinite as error:
        result |= {"epoch": steps // len(loader), "told": str(error)}
    result["training"] = time.process_time() - began - result["health"]
    result |= {name.partition("/")[2]: value for name, value in numbers.items()}
    result["accuracy"] = math.nan if planted else probe(network, images, seed=0, views=views).accuracy
    return result


class _Constant:
    """Views that show nothing of the image: all samples look alike."""

    def __init__(self, views: Views):
        self.plain = views.plain

    def __call__(self, images: Tensor, ids: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        return torch.ones(images.shape)


def taus(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a number: Kendall's tau-b with the linear accuracy over the runs, its p-value, and the number's range."""
    from scipy.stats import kendalltau

    rows: list[dict[str, Any]] = []
    for name in (*NUMBERS, "knn"):
        values = [run[name] for run in runs]
        found: Any = kendalltau(values, [run["accuracy"] for run in runs])
        rows.append({
            "number": name, "tau": float(found.statistic), "p": f"{found.pvalue:.2g}", "least": min(values),
            "most": max(values),
        })  # fmt: skip
    return rows


def _caught(keys: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "planted": key["planted"], "seed": key["seed"], "stopped after epoch": run["epoch"] or "not caught",
            "why": run["told"],
        }
        for key, run in zip(keys, runs, strict=True)
    ]  # fmt: skip


def _named(keys: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    pairs = [
        f"{key['objective']} at {key['temperature']:g}, seed {key['seed']}, epoch {run['epoch']}: {run['told']}"
        for key, run in zip(keys, runs, strict=True) if run["epoch"] is not None
    ]  # fmt: skip
    return f" ({'; '.join(pairs)})" if pairs else ""
