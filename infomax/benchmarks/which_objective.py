"""Which objective should an encoder be trained with? Every one on one budget, several seeds; one table, one page.

Of each run: probes with intervals; I(Z1; Z2) of held-out images by three estimators that know nothing of the objective,
each with its verdict; I(Z; label); the noise of its gradient; time and memory. What has run is kept.
"""

import html
import json as _json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from infomax import checkpoints, data, errors, objectives
from infomax.errors import UserError
from infomax.files import write_json, write_whole
from infomax.ui.recipes import place_of

ESTIMATORS = ("CopulaJS()", "InfoNCE()", "JSPlugin()")
BATCHES = 8  # of which the gradient's noise is the spread


def command(
    names: tuple[str, ...] = (),
    seeds: int = 3,
    epochs: int = 6,
    curve: int = 3,
    dataset: str = "mnist5k",
    folder: Path = Path("results/which_objective"),
    output: Path | None = None,
) -> None:
    """Every objective on the same budget: accuracy, MI with verdicts, gradient noise, time and memory.

    Args:
        names: Objectives as constructor calls; by default all that are registered.
        seeds: So many, from 0.
        epochs: Of each training.
        curve: Checkpoints of seed 0 that are looked at, evenly over its training, for MI against accuracy on the way.
        dataset: As the recipes take it.
        folder: Where the runs and what was found of them are kept; those that are finished are not run again.
        output: The page; by default which_objective.html in the folder.
    """
    errors.require_positive(seeds=seeds, epochs=epochs, curve=curve)
    calls = names or tuple(repr(kind()) for kind in objectives.registry.values())
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for call in calls:
            objectives.objective(call)
            runs.setdefault(call, []).append(_found(call, seed, epochs, curve if seed == 0 else 1, dataset, folder))
    rows = [_row(call, found) for call, found in runs.items()]
    rows.sort(key=lambda row: -row["shots_10"][0])
    print(table(rows))
    page = output or folder / "which_objective.html"
    content = _page(rows, runs, f"{dataset}, {epochs} epochs, {seeds} seeds")

    def write(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    write_whole(page, write)
    print(f"Written to {page}")


def _found(call: str, seed: int, epochs: int, curve: int, dataset: str, place: Path) -> dict[str, Any]:
    """What is known of one training, from its file where there is one."""
    name = "".join(c if c.isalnum() else "_" for c in call).strip("_").lower()
    folder = place / f"{name}-{epochs}-{seed}"
    kept = place / f"{folder.name}.json"
    if kept.exists():
        return _json.loads(kept.read_text())
    images = data.dataset(dataset)
    every = max(1, epochs * (len(images.train) // 256) // curve)
    words = [
        "--objective", call, "--epochs", epochs, "--seed", seed, "--dataset", dataset, "--run-dir", folder, "--resume",
        "--keep", curve, "--save-every", every,
    ]  # fmt: skip
    began = time.perf_counter()
    recipe = [sys.executable, str(place_of("simclr_smile"))]
    child = subprocess.Popen([*recipe, *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise UserError(f"{call} with seed {seed} did not end well; what it said is above.")
    seconds, processor = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    found = {"seconds": seconds, "processor": processor, "mib": usage.ru_maxrss / 1024}
    found |= _json.loads((folder / "run.json").read_text())["results"]["probe"]
    found["noise"] = _noise(folder, call, images, seed)
    found["label"] = _label(folder, images, seed)
    paths = sorted(path for path in folder.glob("step-*") if path.is_dir())[-curve:]
    found["curve"] = [_at(path, images, seed) for path in paths]
    write_json(kept, found)
    return found


def _at(path: Path, images: data.Dataset, seed: int) -> dict[str, Any]:
    """A checkpoint's linear accuracy and its I(Z1; Z2) by each estimator."""
    from infomax.evaluation import views_mi
    from infomax.evaluation.probing import probe

    mi = {}
    for estimator in ESTIMATORS:
        try:
            estimate = views_mi(path, images, seed, objective=estimator)
            mi[estimator] = {"mi": estimate.mi, "interval": list(estimate.interval), "trusted": estimate.trusted}
        except UserError as error:  # features of which an estimator cannot be asked, such as collapsed ones
            mi[estimator] = {"mi": math.nan, "interval": [math.nan, math.nan], "trusted": False, "why": str(error)}
    probed = probe(str(path), images, seed=seed)
    return {"step": checkpoints.read(path).step, "linear": probed.accuracy, "shots_10": probed.shots_10, "mi": mi}


def _label(folder: Path, images: data.Dataset, seed: int) -> dict[str, Any]:
    """I(Z; label) of held-out images, which the labels' entropy caps."""
    from infomax.estimation import estimate
    from infomax.evaluation.features import features

    encoder = checkpoints.load_encoder(folder)
    plain = data.views_for(images).plain
    z = features(encoder, images.test, plain)
    found = estimate(z, images.test.labels, seed=seed)
    return {"mi": found.mi, "interval": list(found.interval), "trusted": found.trusted}


def _noise(folder: Path, call: str, images: data.Dataset, seed: int) -> float | None:
    """Of the trained model's gradient over batches: its mean squared deviation over the square of its mean, from which
    the deviation's share is taken off; None where nothing is left, as so few batches do not tell the mean from 0."""
    model = checkpoints.load(folder).train()
    loader = data.PairLoader(images.train, data.views_for(images), 256, seed + 1)
    gradients = []
    for step in range(min(BATCHES, len(loader))):
        model.zero_grad()
        *inputs, ids = loader.at(step)
        (-model(inputs, ids=ids)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double())
    g = torch.stack(gradients)
    mean = g.mean(0)
    spread = float((g - mean).square().sum() / (len(g) - 1))
    square = float(mean.square().sum()) - spread / len(g)
    return spread / square if square > 0 else None


def _row(call: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    def over_seeds(value: Any) -> tuple[float, float, float]:
        values = [float(value(run)) for run in runs]
        return statistics.fmean(values), min(values), max(values)

    last = [run["curve"][-1]["mi"] for run in runs]
    noise = [math.inf if run["noise"] is None else run["noise"] for run in runs]
    return {
        "call": call, "linear": over_seeds(lambda run: run["accuracy"]), "interval": runs[0]["accuracy_interval"],
        "shots_10": over_seeds(lambda run: run["shots_10"]), "knn": over_seeds(lambda run: run["knn"]),
        "mi": {e: (statistics.fmean(float(m[e]["mi"]) for m in last), sum(m[e]["trusted"] for m in last))
               for e in ESTIMATORS},
        "label": over_seeds(lambda run: run["label"]["mi"]), "labels_trusted": sum(r["label"]["trusted"] for r in runs),
        "noise": statistics.median(noise), "seeds": len(runs),
        "processor": statistics.median(run["processor"] for run in runs),
        "mib": statistics.median(run["mib"] for run in runs),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown: means over seeds, with the lowest and the highest in brackets."""
    heads = ["objective", "linear, %", "10 images a class, %", "kNN, %"]
    heads += [f"I(Z1; Z2) by {e.partition('(')[0]}, nats (trusted)" for e in ESTIMATORS]
    heads += ["I(Z; label), nats (trusted)", "gradient noise", "processor s", "MiB"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [f"`{row['call']}`"]
        for key in ("linear", "shots_10", "knn"):
            mean, low, high = row[key]
            cells.append(f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        cells += [f"{mi:.2f} ({trusted} of {row['seeds']})" for mi, trusted in row["mi"].values()]
        cells.append(f"{row['label'][0]:.2f} ({row['labels_trusted']} of {row['seeds']})")
        cells.append(f"{row['noise']:.2g}" if row["noise"] < math.inf else "-")
        cells += [f"{row['processor']:.0f}", f"{row['mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def points(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """MI against accuracy: of every objective and seed at its end, and of seed 0 on its way."""
    return [
        {"call": call, "seed": seed, "final": place == len(run["curve"]) - 1, "mi": float(at["mi"]["CopulaJS()"]["mi"]),
         "linear": at["linear"]}
        for call, found in runs.items() for seed, run in enumerate(found) for place, at in enumerate(run["curve"])
    ]  # fmt: skip


def scatter(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The picture as SVG: I(Z1; Z2) by the default estimator against linear accuracy; lines are trainings."""
    import io

    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for call, found in runs.items():
        own = [p for p in points({call: found}) if math.isfinite(p["mi"])]
        way = [p for p in own if p["seed"] == 0]
        (line,) = axes.plot([p["mi"] for p in way], [100 * p["linear"] for p in way], "-", lw=0.8, alpha=0.6)
        last = [p for p in own if p["final"]]
        axes.plot([p["mi"] for p in last], [100 * p["linear"] for p in last], "o", color=line.get_color(), label=call)
    axes.set_xlabel("I(Z1; Z2) of held-out images by CopulaJS, nats")
    axes.set_ylabel("linear probe, % right")
    axes.legend(fontsize=7, loc="lower right")
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight")
    plt.close(figure)
    svg = out.getvalue()
    return svg[svg.index("<svg") :]


def _page(rows: list[dict[str, Any]], runs: dict[str, list[dict[str, Any]]], told: str) -> str:
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table(rows).splitlines()]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell.strip('`'))}</td>" for cell in line) + "</tr>" for line in lines[2:]
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Which objective</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}"
        "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;"
        "text-align:right}td:first-child,th:first-child{text-align:left}.scroll{overflow-x:auto}"
        "svg{max-width:100%;height:auto}</style></head>"
        f"<body><h1>Which objective</h1><p>{html.escape(told)}. Means over seeds, the lowest and the highest in"
        " brackets. Points are trainings at their end, lines the way of seed 0.</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{scatter(runs)}</body></html>\n"
    )
