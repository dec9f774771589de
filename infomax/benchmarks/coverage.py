"""How often an estimate's interval holds the truth, at every level: draws of ten distributions whose MI is known."""

import json as _json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells, tasks
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.estimation.registry import DEFAULT, row
from infomax.estimation.result import half_width
from infomax.files import finite, write_json

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
# One of each kind, all held out: nothing was tuned on them.
KINDS = {
    "normal": "normal 4, dense",
    "Student's tails": "student 4, 3 degrees, one pair",
    "added noise": "uniform noise .3",
    "columns bent": "wiggly 1",
    "columns mixed": "rotated cubic 8, 3 nats",
    "swiss roll": "swiss roll, log-normal",
    "two channels": "mixture of channels 3, 1.5 nats",
    "clusters": "three clusters of correlations, 3",
    "labels": "5 labels in 4",
    "independent": "gaussian 40, 0 nats",
}
SURE = 0.95  # of the binomial bands


def coverage(
    draws: int,
    pairs: int,
    seed: int,
    method: str,
    names: Sequence[str] | None,
    folder: Path,
    shown: bool = False,
) -> dict[str, Any]:
    """Draws each kind's distribution so many times, `pairs` at a time, and estimates it with its interval at LEVELS.

    Gives {"pairs", "cells", "summary"}; nats and seconds of processor time. Draws are numbered from `seed`, and made
    one of each kind in turn, so that what an ended run has is as much of each.
    Raises UserError: an unknown name or method, pairs that the method refuses, a folder that cannot be written.
    """
    for name in names or ():
        if name not in KINDS:
            raise UserError(f"There is no kind {name!r}.{errors.nearest(name, KINDS)}")
    row(method)
    there = {task.name: task for task in tasks.held_out()}
    planned = [
        _cell(kind, there[KINDS[kind]], pairs, draw, method)
        for draw in range(seed, seed + draws)
        for kind in names or KINDS
    ]
    found = cells.run(planned, folder, shown)
    return {"method": method, "pairs": pairs, "draws": draws, "seed": seed, "cells": found, "summary": summary(found)}


def _cell(kind: str, task: tasks.Task, n: int, draw: int, method: str) -> Cell:
    def work() -> dict[str, Any]:
        # No two distributions share their luck, nor a draw that of `infomax benchmark accuracy`.
        x, y = task.sample(n, [draw, n, zlib.crc32(task.name.encode()), 1])
        began = time.process_time()
        found = estimate(x, y, method, seed=draw)
        low, high = found.interval
        half = half_width(found.stderr, found.freedom)
        return {
            "kind": kind, "name": task.name, "n": n, "seed": draw, "true": task.mi, "mi": found.mi,
            "stderr": found.stderr, "freedom": found.freedom, "trusted": found.trusted,
            "intervals": [[level, *found.interval_at(level)] for level in LEVELS],
            "lowered": max(0.0, found.mi - half - low), "raised": max(0.0, high - found.mi - half),
            "seconds": time.process_time() - began,
        }  # fmt: skip

    return Cell({"experiment": "coverage", "row": method, "task": kind, "n": n, "seed": draw}, cells.at_once(work))


def side(cell: dict[str, Any], level: float, raised: bool = True) -> int:
    """Where the truth is: -1 below the interval at `level`, 0 in it, 1 above. raised: with what may have been missed,
    as intervals are made; else by sampling error alone."""
    [(low, high)] = [ends for at, *ends in cell["intervals"] if at == level]
    if not raised:
        low, high = low + cell["lowered"], high - cell["raised"]
    return -1 if cell["true"] < low else 1 if cell["true"] > high else 0


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a kind, then all together, those that are trusted, and all by sampling error alone.

    "held": of each level of LEVELS, the share of intervals that hold the truth. "below" and "above": the shares of
    truths on either side of the 95 % interval. "bias", "stderr", "raised": medians of value less truth, its error, and
    what the upper end is raised by, in nats.
    """
    groups: list[tuple[str, list[dict[str, Any]], bool]] = [
        (kind, [cell for cell in found if cell["kind"] == kind], True)
        for kind in dict.fromkeys(cell["kind"] for cell in found)
    ]
    groups += [("all", list(found), True), ("trusted", [cell for cell in found if cell["trusted"]], True)]
    groups += [("all, by sampling error alone", list(found), False)]
    return [_line(*group) for group in groups if group[1]]


def _line(kind: str, some: list[dict[str, Any]], raised: bool) -> dict[str, Any]:
    def median(of: Callable[[dict[str, Any]], float]) -> float:
        return float(np.median([of(cell) for cell in some]))

    sides = {level: np.array([side(cell, level, raised) for cell in some]) for level in LEVELS}
    return {
        "kind": kind, "draws": len(some), "held": [[level, float((at == 0).mean())] for level, at in sides.items()],
        "below": float((sides[0.95] < 0).mean()), "above": float((sides[0.95] > 0).mean()),
        "bias": median(lambda cell: cell["mi"] - cell["true"]), "stderr": median(lambda cell: cell["stderr"]),
        "raised": median(lambda cell: cell["raised"]) if raised else 0.0,
        "trusted": float(np.mean([cell["trusted"] for cell in some])),
        "seconds": median(lambda cell: cell["seconds"]),
    }  # fmt: skip


def band(level: float, n: int) -> tuple[float, float]:
    """Between which shares of n draws a level's coverage lies with 95 % chance where the level is right."""
    from scipy.stats import binom

    low, high = binom.interval(SURE, n, level)
    return float(low) / n, float(high) / n


def table(found: dict[str, Any]) -> str:
    """The summary as a Markdown table; a share outside of its binomial band is in bold."""
    head = " | ".join(f"{100 * level:.0f} %" for level in LEVELS)
    lines = [
        f"| kind | draws | {head} | truth below, above | value less truth | error | raised by | trusted | s |",
        "|---" * (len(LEVELS) + 8) + "|",
    ]
    for line in found["summary"]:
        shares = []
        for level, share in line["held"]:
            low, high = band(level, line["draws"])
            text = f"{100 * share:.0f}" if share in (0, 1) or line["draws"] < 200 else f"{100 * share:.1f}"
            shares.append(text if low <= share <= high else f"**{text}**")
        lines.append(
            f"| {line['kind']} | {line['draws']} | {' | '.join(shares)} "
            f"| {100 * line['below']:.1f}, {100 * line['above']:.1f} | {line['bias']:+.3f} | {line['stderr']:.3f} "
            f"| {line['raised']:.3f} | {100 * line['trusted']:.0f} % | {line['seconds']:.1f} |"
        )
    said = (
        "Shares in %: of intervals at each level that hold the truth; bold: outside of what chance allows a level that "
        f"is right ({100 * SURE:.0f} %, binomial); truths below and above the 95 % interval. Medians: nats; seconds of "
        "processor time."
    )
    return "\n".join([*lines, "", said])


def draw(found: dict[str, Any], path: Path) -> None:
    """A panel a kind, and all together: nominal level against the share that holds, with binomial bands."""
    from scipy.stats import norm

    lines = {line["kind"]: line for line in found["summary"]}
    kinds = [kind for kind in lines if kind in KINDS] + [kind for kind in ("all", "trusted") if kind in lines]
    columns = min(4, len(kinds))
    down = math.ceil(len(kinds) / columns)
    figure, axes, save = cells.figure(
        path, down, columns, figsize=(2.6 * columns, 2.5 * down + 0.3), squeeze=False, sharex=True, sharey=True
    )
    places = norm.ppf((1 + np.array(LEVELS)) / 2)  # a level's width in normal standard errors, which spreads the ticks
    fine = np.linspace(places[0] - 0.15, places[-1] + 0.15, 60)
    nominal = 2 * norm.cdf(fine) - 1
    for kind, axis in zip(kinds, axes.flat, strict=False):
        line = lines[kind]
        low, high = np.array([band(level, line["draws"]) for level in nominal]).T
        axis.fill_between(fine, 100 * low, 100 * high, color="0.85", lw=0, label="chance, 95 %")
        axis.plot(fine, 100 * nominal, color="0.4", lw=1, label="nominal")
        held = np.array([share for _, share in line["held"]])
        axis.plot(places, 100 * held, "o-", color="#0072b2", ms=4, lw=1.2, label="the interval")
        if kind == "all":
            other = [share for _, share in lines["all, by sampling error alone"]["held"]]
            axis.plot(places, 100 * np.array(other), "s--", color="#d55e00", ms=3.5, lw=1, label="sampling error alone")
        axis.set_title(f"{kind}, {line['draws']} draws", fontsize=9)
        axis.set_xticks(places, [f"{100 * level:.0f}" for level in LEVELS], fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    axes[0][0].set_ylim(min(38, 100 * min(s for line in lines.values() for _, s in line["held"]) - 3), 102)
    pooled = axes.flat[kinds.index("all")]
    # In the first panel, whose lower corner is empty; the pooled one alone has every line.
    axes[0][0].legend(*pooled.get_legend_handles_labels(), fontsize=6.5, loc="lower right")
    figure.supxlabel("level of the interval, %", fontsize=9)
    figure.supylabel("holds the truth, % of draws", fontsize=9)
    save()


def command(
    draws: int = 200,
    pairs: int = 500,
    seed: int = 0,
    method: str = DEFAULT,
    names: tuple[str, ...] = (),
    output: Path = Path("results/coverage"),
    json: bool = False,
) -> None:
    """How often the interval holds the truth at 50, 80, 90, 95 and 99 %: many draws of ten known distributions.

    Each finished draw is kept in the folder, one of each kind in turn: a run that was stopped goes on, several
    processes share the work, and --draws of as many as are finished gives their table at once. A changed estimator
    needs another folder. The folder is given table.md, coverage.json and coverage.png too.

    Args:
        draws: How many samples of each distribution.
        pairs: The number of pairs of a sample.
        seed: The number of the first draw: other numbers are other samples.
        method: What estimates, as in infomax estimate.
        names: Kinds, by their names in the table. By default all ten.
        output: The results folder.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(draws=draws, pairs=pairs)
    errors.require_seed(seed)
    errors.require_seed(seed + draws - 1)
    found = coverage(draws, pairs, seed, method, names or None, output, shown=not json)
    found["load"] = os.getloadavg()[0]
    text = table(found)
    (output / "table.md").write_text(text + "\n")
    write_json(output / "coverage.json", finite(found))
    draw(found, output / "coverage.png")
    print(_json.dumps(finite(found), allow_nan=False) if json else text)
