"""What an objective does by itself: its bias and deviation over batches where the critic is the true log-ratio.

No critic is trained, so what is measured is the formula: how far its value lies from the true MI on average over
batches, and how much it changes from batch to batch.
"""

import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from infomax import errors, objectives
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.scores import Scores

DIMENSION = 20  # of x and of y: the staircase's of Song & Ermon (2020)
BATCHES = (64, 512)
LEVELS = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # nats
WARM_UP = 20  # batches that a running mean sees before its objective is read


def log_ratios(n: int, mi: float, generator: torch.Generator) -> torch.Tensor:
    """The true log-ratios [n, n], in nats, of n pairs of normals with 20 equally correlated columns and MI `mi`."""
    r2 = -math.expm1(-2 * mi / DIMENSION)  # squared correlation of a pair of columns
    x, noise = torch.randn(2, n, DIMENSION, generator=generator)
    y = math.sqrt(r2) * x + math.sqrt(1 - r2) * noise
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None]
    return mi + (math.sqrt(r2) * (x @ y.T) - 0.5 * r2 * squares) / (1 - r2)


def measured(texts: Sequence[str], n: int, mi: float, repeats: int, seed: int) -> cells.Work:
    """Work that gives {objective: mean and standard deviation}, in nats, of values on batches of n pairs of known MI.

    Every objective sees the same batches, and its running means see them in order, as in a training. The baseline of a
    TUBA stays 0, which is its optimum here.
    """

    def work() -> Generator[float, None, dict[str, Any]]:
        made = {text: objectives.objective(text) for text in texts}
        generator = torch.Generator().manual_seed(seed)
        values: dict[str, list[float]] = {text: [] for text in texts}
        for batch in range(WARM_UP + repeats):
            matrix = log_ratios(n, mi, generator)
            for text, objective in made.items():
                value, _ = objective.value_and_surrogate(Scores.from_matrix(matrix))
                values[text].append(float(value.detach()))
            yield batch / (WARM_UP + repeats)
        read = {text: torch.tensor(each[WARM_UP:], dtype=torch.float64) for text, each in values.items()}
        return {text: {"mean": float(each.mean()), "deviation": float(each.std())} for text, each in read.items()}

    return work


def command(
    batch_sizes: tuple[int, ...] = BATCHES,
    mi: tuple[float, ...] = LEVELS,
    repeats: int = 1000,
    seed: int = 0,
    quick: bool = False,
    output: Path = Path("results/bias"),
    pictures: Path | None = None,
    json: bool = False,
) -> None:
    """Bias and deviation of every objective with the true log-ratio as its critic, on correlated normals of known MI.

    Args:
        batch_sizes: Pairs in a batch.
        mi: True values, in nats.
        repeats: Batches of each size and level.
        seed: Of the pairs.
        quick: 20 batches, of three levels.
        output: The results folder. What a killed run finished there is not done again.
        pictures: A folder for a picture of each objective, and for all numbers, bias.csv: docs/objectives.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    errors.require_positive(repeats=repeats, **{f"batch_sizes {n}": n for n in batch_sizes})
    for n in batch_sizes:
        if n < 2:
            raise UserError(f"--batch-sizes must be 2 or more, as a pair has no negatives alone, not {n}.")
    for level in mi:
        if not 0 <= level < math.inf:
            raise UserError(f"--mi must be numbers of nats from 0 on, not {level!r}.")
    repeats, mi = (20, mi[::2]) if quick else (repeats, mi)
    repeats = max(repeats, 2)
    texts = [repr(kind()) for kind in objectives.registry.values()]
    jobs = [(n, level) for n in batch_sizes for level in mi]
    planned = [
        Cell(
            {"experiment": "bias", "rows": texts, "n": n, "mi": level, "repeats": repeats, "seed": seed},
            measured(texts, n, level, repeats, seed),
        )
        for n, level in jobs
    ]
    results = dict(zip(jobs, cells.run(planned, output, not json), strict=True))
    lines = [{"objective": t, "N": n, "mi": level, **results[n, level][t]} for t in texts for n, level in jobs]
    made = {"mean, nats": _table(lines, "mean"), "deviation, nats": _table(lines, "deviation")}
    protocol = (
        f"Values of {repeats} batches of N pairs of normals with {DIMENSION} equally correlated columns a side (columns"
        " of the tables: true MI, nats), with the true log-ratios as scores; after 20 batches that running means see."
    )
    draw(lines, output / "bias.png")
    if pictures is not None:
        keep(lines, pictures)
    cells.report(cells.write_tables(output, "bias", protocol, made), made, output, json)


def _table(lines: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """A row for each objective and batch size, a column for each level."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault((line["objective"], line["N"]), {"objective": line["objective"], "N": line["N"]})
        row[f"{line['mi']:g}"] = line[what]
    return list(rows.values())


def keep(lines: list[dict[str, Any]], folder: Path) -> None:
    """In `folder` a picture NAME.png of each objective, bias.png of all, and bias.csv, all numbers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = "objective,N,mi,mean,deviation\n" + "".join(
            f'"{line["objective"]}",{line["N"]},{line["mi"]:g},{line["mean"]:.4f},{line["deviation"]:.4f}\n'
            for line in lines
        )
        (folder / "bias.csv").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--pictures {folder} cannot be written to: {error.strerror or error}.") from error
    draw(lines, folder / "bias.png")
    for text in dict.fromkeys(line["objective"] for line in lines):
        draw(lines, folder / f"{text.partition('(')[0].lower()}.png", text)


def draw(lines: list[dict[str, Any]], path: Path, only: str | None = None) -> None:
    """Value, with its deviation as a band, and deviation against the true MI: `only` one at each batch size, or all."""
    sizes = list(dict.fromkeys(line["N"] for line in lines))
    _, axes, save = cells.figure(path, 1, 2, figsize=(8, 3.1))
    truth = sorted({line["mi"] for line in lines})
    axes[0].plot(truth, truth, color="black", lw=0.8, label="true")
    curves = {f"N = {n}": _curve(lines, only, n) for n in sizes} if only else _alike(lines, sizes[0])
    for place, (label, (at, mean, deviation)) in enumerate(curves.items()):
        axes[0].plot(at, mean, "-o", markersize=3, color=f"C{place}", label=label)
        axes[1].plot(at, deviation, "-o", markersize=3, color=f"C{place}")
        if only:
            band = [[m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1)]
            axes[0].fill_between(at, *band, color=f"C{place}", alpha=0.2, lw=0)
            axes[0].axhline(math.log(sizes[place]), color=f"C{place}", lw=0.8, ls=":", label=f"log {sizes[place]}")
    axes[0].set(xlabel="true MI, nats", ylabel="value, nats", ylim=(-1, max(13.0, 1.3 * truth[-1])))
    axes[1].set(xlabel="true MI, nats", ylabel="deviation over batches, nats", yscale="log", ylim=(1e-2, 1e2))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7, loc="upper left")
    save()


Curve = tuple[list[float], list[float], list[float]]


def _curve(lines: list[dict[str, Any]], text: str, n: int) -> Curve:
    """The true values, means and deviations of one objective at one batch size."""
    mine = [line for line in lines if line["objective"] == text and line["N"] == n]
    at, mean, deviation = ([line[key] for line in mine] for key in ("mi", "mean", "deviation"))
    return at, mean, deviation


def _alike(lines: list[dict[str, Any]], n: int) -> dict[str, Curve]:
    """Curves of all objectives, those of equal values as one: {names: curve}."""
    groups: dict[tuple[str, ...], tuple[list[str], Curve]] = {}
    for text in dict.fromkeys(line["objective"] for line in lines):
        curve = _curve(lines, text, n)
        key = tuple(f"{value:.3f}" for value in (*curve[1], *curve[2]))
        groups.setdefault(key, ([], curve))[0].append(text.partition("(")[0])
    return {", ".join(names): curve for names, curve in groups.values()}
