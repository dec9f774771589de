"""Every kind of model beside SimCLR: recipes on one data set with one budget, several seeds; what has run is kept."""

import json as _json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from infomax import errors
from infomax.errors import UserError
from infomax.ui.recipes import place_of

# Epochs of each that take the processor time of SimCLR's 30, by alternating steps of all in one process.
BUDGETS: dict[str, tuple[str, int]] = {
    "simclr": ("simclr_infonce", 30),
    "moco": ("moco", 46),
    "deep_infomax": ("deep_infomax", 25),
    "multicrop": ("multicrop", 13),
    "cpc": ("cpc", 9),
}


def command(
    models: tuple[str, ...] = tuple(BUDGETS),
    seeds: int = 3,
    times: float = 1.0,
    objective: str | None = None,
    dataset: str = "mnist5k",
    folder: Path = Path("results/models"),
    json: bool = False,
) -> None:
    """Every kind of model beside SimCLR, each by its recipe and with about one budget of processor time.

    Args:
        models: Which, of simclr, moco, deep_infomax, multicrop and cpc.
        seeds: So many, from 0.
        times: The budget, in those of SimCLR's 30 epochs.
        objective: What all maximise, as the recipes take it; by default each recipe's own, InfoNCE.
        dataset: As the recipes take it.
        folder: Where the runs are kept; those that are finished are not run again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, times=times)
    for name in models:
        if name not in BUDGETS:
            raise UserError(f"There is no model {name!r}.{errors.nearest(name, BUDGETS)}")
    rows = []
    for name in models:
        runs = [_run(name, seed, times, objective, dataset, folder) for seed in range(seeds)]
        rows.append(_row(name, runs))
    if json:
        print(_json.dumps({"models": rows}))
        return
    print("| model | epochs | linear | 10 images a class | kNN | seconds |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})" for mean, low, high in row["accuracies"]]
        print(f"| {row['model']} | {row['epochs']} | {' | '.join(cells)} | {row['seconds']:.0f} |")


def _run(name: str, seed: int, times: float, objective: str | None, dataset: str, place: Path) -> dict[str, Any]:
    recipe, epochs = BUDGETS[name]
    epochs = max(1, round(epochs * times))
    folder = place / "-".join(map(str, (name, *([] if objective is None else [objective]), epochs, seed)))
    words = [] if objective is None else ["--objective", objective]
    words += ["--epochs", epochs, "--seed", seed, "--dataset", dataset, "--run-dir", folder, "--resume"]
    done = subprocess.run([sys.executable, str(place_of(recipe)), *map(str, words)], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise UserError(f"{recipe} with seed {seed} ended with status {done.returncode}; what it said is above.")
    results = _json.loads((folder / "run.json").read_text())["results"]
    steps = [_json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    views = 2 + 4 * (name == "multicrop")
    seconds = sum(views * step["pairs"] / step["images_per_second"] for step in steps)
    return {"epochs": epochs, "probe": results["probe"], "seconds": seconds}


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, with the lowest and the highest."""
    accuracies = []
    for key in ("accuracy", "shots_10", "knn"):
        values = [run["probe"][key] for run in runs]
        accuracies.append((statistics.fmean(values), min(values), max(values)))
    seconds = statistics.median(run["seconds"] for run in runs)
    assert math.isfinite(seconds)
    return {"model": name, "epochs": runs[0]["epochs"], "accuracies": accuracies, "seconds": seconds}
