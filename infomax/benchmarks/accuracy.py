"""The default estimator, or any, on distributions whose MI is known: error, coverage, and what its verdict is worth."""

import json as _json
import math
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infomax import __version__, errors
from infomax.benchmarks import cells, tasks
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.estimation.registry import DEFAULT, row
from infomax.files import finite, write_json

SETS = {"set": tasks.the_set, "held out": tasks.held_out}
QUICK = ("normal 3, two pairs", "student 3, 3 degrees, two pairs", "3 labels in 2", "gaussian 10, 0 nats",
         "swiss roll, log-normal")  # fmt: skip


def accuracy(
    sizes: Sequence[int],
    seeds: Sequence[int],
    method: str,
    names: Sequence[str] | None,
    folder: Path,
    largest: int = 12,
    shown: bool = False,
) -> dict[str, Any]:
    """Estimates every distribution of the set, and those held out from tuning, at every size and seed.

    Gives {"method", "cells", "summary"}; nats and seconds of processor time. Of sizes above 10,000, every few of the
    distributions, `largest` at most of each set. What a method refuses is NaN, and not trusted.
    Raises UserError: an unknown name or method, a folder that cannot be written.
    """
    known = {task.name for of in SETS.values() for task in of()}
    for name in names or ():
        if name not in known:
            raise UserError(f"There is no distribution {name!r}; there are {'; '.join(sorted(known))}.")
    row(method)
    planned = []
    for size in sizes:
        for which, of in SETS.items():
            chosen = [task for task in of() if names is None or task.name in names]
            if size > 10_000:
                chosen = chosen[:: max(1, math.ceil(len(chosen) / largest))]
            planned += [_cell(which, task, size, seed, method) for seed in seeds for task in chosen]
    found = cells.run(planned, folder, shown)
    return {"method": method, "cells": found, "summary": summary(found)}


def _cell(which: str, task: tasks.Task, n: int, seed: int, method: str) -> Cell:
    def work() -> dict[str, Any]:
        x, y = task.sample(n, [seed, n, zlib.crc32(task.name.encode())])  # no two distributions share their luck
        of = {"set": which, "name": task.name, "n": n, "seed": seed, "true": task.mi}
        began = time.process_time()
        try:
            found = estimate(x, y, method, seed=seed)
        except UserError:  # the method's, of such pairs: its name and arguments were read before
            nan = math.nan
            return of | {"mi": nan, "interval": [nan, nan], "trusted": False, "seconds": 0.0, "failed": ["refused"]}
        return of | {
            "mi": found.mi, "interval": list(found.interval), "trusted": found.trusted,
            "seconds": time.process_time() - began,
            "failed": [check.name for check in found.checks if check.verdict == "fail"],
            "statistics": {check.name: check.statistic for check in found.checks},
        }  # fmt: skip

    key = {"experiment": "accuracy", "row": method, "task": task.name, "set": which, "n": n, "seed": seed}
    return Cell(key, cells.at_once(work))


def is_wrong(cell: dict[str, Any]) -> bool:
    """Off by more than a quarter nat and a tenth of the truth."""
    error = abs(cell["mi"] - cell["true"])
    return not error <= max(0.25, 0.1 * cell["true"])


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each set and size: mean absolute error, coverage of the 95 % interval in all and where trusted, shares."""
    rows = []
    for which, n in dict.fromkeys((cell["set"], cell["n"]) for cell in results):
        some = [cell for cell in results if (cell["set"], cell["n"]) == (which, n)]
        trusted = [cell for cell in some if cell["trusted"]]

        errors = [abs(cell["mi"] - cell["true"]) for cell in some if "refused" not in cell["failed"]]

        def coverage(of: list[dict[str, Any]]) -> float | None:
            held = [cell["interval"][0] <= cell["true"] <= cell["interval"][1] for cell in of]
            return float(np.mean(held)) if of else None

        rows.append({
            "set": which, "n": n, "distributions": len({cell["name"] for cell in some}), "runs": len(some),
            "mae": float(np.mean(errors)) if errors else math.nan,
            "coverage": coverage(some), "coverage_trusted": coverage(trusted),
            "wrong": float(np.mean([is_wrong(cell) for cell in some])),
            "wrong_trusted": float(np.mean([is_wrong(cell) for cell in trusted])) if trusted else None,
            "trusted": len(trusted) / len(some),
            "seconds": float(np.median([cell["seconds"] for cell in some])),
            "slowest": float(max(cell["seconds"] for cell in some)),
        })  # fmt: skip
    return rows


def table(found: dict[str, Any]) -> str:
    """The summary, and every distribution's truth and values, as Markdown tables."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f} %"

    lines = [
        "| set | N | runs | mean error, nats | coverage | where trusted | wrong | wrong of trusted | trusted |"
        " s, median (most) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in found["summary"]:
        lines.append(
            f"| {line['set']} | {line['n']} | {line['runs']} | {line['mae']:.3f} | {percent(line['coverage'])}"
            f" | {percent(line['coverage_trusted'])} | {percent(line['wrong'])} | {percent(line['wrong_trusted'])}"
            f" | {percent(line['trusted'])} | {line['seconds']:.0f} ({line['slowest']:.0f}) |"
        )
    sizes = list(dict.fromkeys(cell["n"] for cell in found["cells"]))
    lines += ["", f"| distribution | true | {' | '.join(f'N = {n}' for n in sizes)} |", "|---" * (len(sizes) + 2) + "|"]
    for which, name in dict.fromkeys((cell["set"], cell["name"]) for cell in found["cells"]):
        some = [cell for cell in found["cells"] if (cell["set"], cell["name"]) == (which, name)]
        values = []
        for n in sizes:
            at = [cell for cell in some if cell["n"] == n]
            values.append(" ".join(f"{cell['mi']:.2f}{'' if cell['trusted'] else '?'}" for cell in at) or "-")
        held = " (held out)" if which == "held out" else ""
        lines.append(f"| {name}{held} | {some[0]['true']:.2f} | {' | '.join(values)} |")
    return "\n".join([*lines, "", "? not trusted"])


def draw(found: dict[str, Any], path: Path) -> None:
    """Each value's error with its interval against the truth, a panel a size; hollow where it is not trusted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(cell["n"] for cell in found["cells"]))
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(3.6 * len(sizes), 3.8), layout="constrained", squeeze=False)
    for axis, n in zip(axes[0], sizes, strict=True):
        for i, which in enumerate(SETS):
            for trusted in (True, False):
                some = [
                    cell for cell in found["cells"]
                    if (cell["n"], cell["set"], cell["trusted"]) == (n, which, trusted)
                ]  # fmt: skip
                if not some:
                    continue
                true = np.array([cell["true"] for cell in some])
                error = np.array([cell["mi"] for cell in some]) - true
                ends = np.abs(np.array([cell["interval"] for cell in some]).T - true - error)
                axis.errorbar(true + 0.02, error, ends, fmt="os"[i], ms=4, lw=0.8, color=("#0072b2", "#d55e00")[i],
                              mfc=None if trusted else "white",
                              label=which + ("" if trusted else ", not trusted"))  # fmt: skip
        axis.axhline(0, color="0.3", lw=0.8)
        axis.set(title=f"N = {n:,}", xlabel="true MI, nats", ylim=(-1, 1))
        axis.set_xscale("symlog", linthresh=0.5)
        axis.set_xticks([0, 0.5, 1, 2, 5, 10], ["0", ".5", "1", "2", "5", "10"])  # its own, 0 and .1, touch
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("estimate less truth, nats")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": f"infomax {__version__}, {cells.maker()}"})
    pyplot.close(figure)


def command(
    pairs: tuple[int, ...] = (500, 2000, 10_000, 50_000),
    seeds: int = 1,
    method: str = DEFAULT,
    names: tuple[str, ...] = (),
    output: Path = Path("results/accuracy"),
    quick: bool = False,
    json: bool = False,
) -> None:
    """Error, interval and verdict of an estimator on distributions whose mutual information is known.

    Each finished distribution is kept in the folder: a run that was stopped goes on, several processes share the work,
    and a changed estimator needs another folder. The folder is given table.md, accuracy.json and accuracy.png too.

    Args:
        pairs: Numbers of pairs N. Above 10,000, a dozen of the distributions of each set.
        seeds: How many samples of each distribution.
        method: What estimates, as in infomax estimate.
        names: Distributions, by their names in the table. By default all.
        output: The results folder.
        quick: Five distributions at N = 500 and 2,000.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, pairs=min(pairs, default=0))
    if quick:
        pairs, names = (500, 2000), QUICK
    found = accuracy(pairs, range(seeds), method, names or None, output, shown=not json)
    found["load"] = os.getloadavg()[0]
    text = table(found)
    (output / "table.md").write_text(text + "\n")
    write_json(output / "accuracy.json", finite(found))
    draw(found, output / "accuracy.png")
    print(_json.dumps(finite(found), allow_nan=False) if json else text)
