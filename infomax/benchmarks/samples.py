"""Error against the number of pairs, at an MI that is fixed: what each row needs."""

import math
from pathlib import Path
from typing import Any

import torch

from infomax import errors, launch
from infomax.benchmarks import cells, readings, staircase
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError, nearest
from infomax.estimation import Budget

Readings = dict[tuple[str, float, int], list[float]]  # (row, MI, pairs) -> a value a seed


def plan(
    task: str, d: int, mi: tuple[float, ...], pairs: tuple[int, ...], seeds: int, steps: int, seed: int, device: str
) -> list[Cell]:
    """A cell for each training, MI, number of pairs and seed; few pairs first."""
    planned = []
    for n in sorted(pairs):
        for trained_by, rows in readings.groups().items():
            for level in mi:
                for repeat in range(seed, seed + seeds):
                    key = {"experiment": "samples", "row": trained_by, "rows": [repr(r) for r in rows], "task": task,
                           "d": d, "mi": level, "n": n, "steps": steps, "seed": repeat}  # fmt: skip

                    def work(
                        rows: Any = rows, level: float = level, n: int = n, repeat: int = repeat
                    ) -> dict[str, Any]:
                        x, y = staircase.TASKS[task](d, level).sample(n, [repeat, n])
                        parts = readings.split(x, y, repeat)
                        return {"values": readings.read(rows, *parts, Budget(steps=steps), repeat, device=device)}

                    planned.append(Cell(key, cells.at_once(work)))
    return planned


def command(
    task: str = "gaussian",
    dim: int = 20,
    mi: tuple[float, ...] = (2.0, 4.0, 6.0),
    pairs: tuple[int, ...] = (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000),
    seeds: int = 3,
    steps: int = 3000,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int | None = None,
    quick: bool = False,
    output: Path = Path("results/samples"),
    json: bool = False,
) -> None:
    """Error of every row against the number of pairs, at fixed MI, on held-out pairs.

    Args:
        task: One of the staircase's.
        dim: Columns a side.
        mi: True MI, in nats: a picture each.
        pairs: Numbers of pairs in all: 60 % fit, 15 % select, 25 % report.
        seeds: Repetitions, each with pairs of its own.
        steps: Training steps, at most.
        seed: The first one.
        device: Where critics are trained.
        threads: CPU threads. By default all cores.
        quick: 250, 1,000 and 4,000 pairs, 2 and 6 nats, one seed, 50 steps.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    launch.require_device(device)
    errors.require_positive(dim=dim, pairs=min(pairs, default=0), seeds=seeds, steps=steps, threads=threads)
    for level in mi:
        errors.require_positive(mi=level)
    if task not in staircase.TASKS:
        raise UserError(f"Unknown task {task!r}.{nearest(task, staircase.TASKS)}")
    if threads is not None:
        torch.set_num_threads(threads)
    if quick:
        mi, pairs, seeds, steps = (2.0, 6.0), (250, 1000, 4000), 1, 50
    planned = plan(task, dim, mi, pairs, seeds, steps, seed, device)
    results = cells.run(planned, output, not json)
    found: Readings = {}
    for cell, result in zip(planned, results, strict=True):
        for row, value in result["values"].items():
            if row != "default":
                found.setdefault((row, cell.key["mi"], cell.key["n"]), []).append(value)
    made = tables(found)
    protocol = (
        f"{task}, {dim} columns a side, {seeds} seed{'s' if seeds > 1 else ''}, at most {steps} steps of 256 pairs,"
        " read on 25 % of the pairs, rows that fit nothing (KSG, GCMI) on all; a cell: mean error over seeds, and (of"
        " several) their deviation, in nats."
    )
    draw(found, output / "samples.png")
    cells.report(cells.write_tables(output, "samples", protocol, made), made, output, json)


def tables(found: Readings) -> dict[str, list[dict[str, Any]]]:
    """A table an MI: a line a row, a column a number of pairs, error and its deviation over seeds."""
    made: dict[str, list[dict[str, Any]]] = {}
    for level in sorted({mi for _, mi, _ in found}):
        for row in dict.fromkeys(row for row, _, _ in found):
            line: dict[str, Any] = {"row": row}
            for n in sorted({n for _, _, n in found}):
                error, deviation = error_of(found[row, level, n], level)
                over = f" ({deviation:.2f})" if len(found[row, level, n]) > 1 else ""
                line[f"{n}"] = f"{error:.2f}{over}" if abs(error) < 1000 else f"{error:.0e}"
            made.setdefault(f"error at {level:g} nats", []).append(line)
    return made


def error_of(values: list[float], truth: float) -> tuple[float, float]:
    """Mean error over seeds, and the seeds' deviation (0 of one seed), in nats."""
    t = torch.tensor(values, dtype=torch.float64)
    return float(t.mean() - truth), float(t.std()) if len(t) > 1 else 0.0


def draw(found: Readings, path: Path) -> None:
    """Root mean squared error against the number of pairs, a picture an MI."""
    levels = sorted({mi for _, mi, _ in found})
    shape = (4 * len(levels) + 2.5, 3.8)
    figure, axes, save = cells.figure(path, 1, len(levels), figsize=shape, squeeze=False, sharey=True)
    sizes = sorted({n for _, _, n in found})
    for axis, level in zip(axes[0], levels, strict=True):
        for number, row in enumerate(dict.fromkeys(row for row, _, _ in found)):
            points = []
            for n in sorted({n for _, _, n in found}):
                rmse = math.sqrt(sum((v - level) ** 2 for v in found[row, level, n]) / len(found[row, level, n]))
                points.append((n, min(rmse, 100.0)))
            axis.plot(*zip(*points, strict=True), "-o" if number < 10 else "--s", markersize=3, label=row,
                      color="k" if number == 0 else f"C{number % 10}", linewidth=2 if number == 0 else 1)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="pairs", title=f"{level:g} nats", ylim=(0.01, 100))
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, fontsize=7)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("root mean squared error, nats")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=6, loc="outside right upper")
    save()
