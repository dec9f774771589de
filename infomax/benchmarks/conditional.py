"""P-values of conditional independence: how often they are below 5 % where it holds, and where it does not."""

import json as _json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.series import LEVEL, interval, percent
from infomax.benchmarks.transfer import Var
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.estimation.evidence import surrogates
from infomax.estimation.pairs.reading import side
from infomax.files import finite, write_json

Three = tuple[np.ndarray, np.ndarray, np.ndarray]
BURN = 100  # rows before the first one that is kept


@dataclass(frozen=True)
class Kind:
    """x, y, z [n, ...]: what draws n rows. dependent: whether x and y are, given z. in_time: whether rows follow each
    other in time, and blocks are given."""

    sample: Callable[[int, np.random.Generator], Three]
    dependent: bool
    in_time: bool


def _transfer(x: np.ndarray, y: np.ndarray) -> Three:
    """The sides of a transfer entropy from x to y, history and lag 1: y, x a row before, y a row before."""
    return y[1:, None], x[:-1, None], y[:-1, None]


def _memory(n: int, rng: np.random.Generator, series: int) -> np.ndarray:
    z = rng.normal(size=(n, series))
    z[0] /= np.sqrt(1 - 0.9**2)
    for t in range(1, n):
        z[t] += 0.9 * z[t - 1]
    return z


def logistic(n: int, rng: np.random.Generator, coupling: float) -> tuple[np.ndarray, np.ndarray]:
    """Two logistic maps [n] of which x drives y, with noise of standard deviation .05, reflected into [0, 1]."""
    x, y = np.full((2, n + BURN), 0.4)
    for t in range(1, n + BURN):
        before = np.array([x[t - 1], (1 - coupling) * y[t - 1] + coupling * x[t - 1]])
        after = np.abs(3.9 * before * (1 - before) + 0.05 * rng.normal(size=2))
        x[t], y[t] = 1 - np.abs(1 - after)
    return x[BURN:], y[BURN:]


def _cause(
    n: int, rng: np.random.Generator, of_x: Callable[[np.ndarray], np.ndarray], of_y: Callable[[np.ndarray], np.ndarray]
) -> Three:
    z, noise = rng.normal(size=(n, 1)), rng.normal(size=(2, n, 1))
    return of_x(z) + 0.3 * noise[0], of_y(z) + 0.3 * noise[1], z


def _partial(n: int, rng: np.random.Generator) -> Three:
    z, u = rng.normal(size=(2, n, 1))
    return z + u, 2 * z + 0.15 * u + rng.normal(size=(n, 1)), z


def _labels(n: int, rng: np.random.Generator) -> Three:
    z = rng.integers(0, 3, n)
    x, y = ((z + (rng.random(n) < 0.3)) % 3 for _ in range(2))
    return x, y, z


def _signs(n: int, rng: np.random.Generator) -> Three:
    x, y, z = rng.normal(size=(3, n, 1))
    return x, y, np.sign(x * y) * np.abs(z)


def _slow(n: int, rng: np.random.Generator) -> Three:
    z = _memory(n, rng, 3)
    return z[:, :1] + z[:, 2:], z[:, 1:2] + z[:, 2:], z[:, 2:]


KINDS = {
    "transfer, AR(1) of .9, uncoupled": Kind(lambda n, rng: _transfer(*_memory(n, rng, 2).T), False, True),
    "transfer, logistic maps, y to x": Kind(lambda n, rng: _transfer(*logistic(n, rng, 0.5)[::-1]), False, True),
    "given, all three AR(1) of .9": Kind(_slow, False, True),
    "X <- Z -> Y, linear": Kind(lambda n, rng: _cause(n, rng, np.copy, np.copy), False, False),
    "X <- Z -> Y, sin and square": Kind(
        lambda n, rng: _cause(n, rng, lambda z: np.sin(2 * z), lambda z: np.exp(z / 2) + z**2), False, False
    ),
    "X <- Z -> Y, both sin(6 z)": Kind(
        lambda n, rng: _cause(n, rng, lambda z: np.sin(6 * z), lambda z: np.sin(6 * z)), False, False
    ),
    "X <- Z -> Y, labels": Kind(_labels, False, False),
    "transfer, AR(1) of .5, takes .1": Kind(
        lambda n, rng: _transfer(*Var(0.5, 0.5, 0.1).sample(n, rng)), True, True
    ),
    "transfer, logistic maps, .02": Kind(lambda n, rng: _transfer(*logistic(n, rng, 0.02)), True, True),
    "partial correlation of .15": Kind(_partial, True, False),
    "XOR of signs": Kind(_signs, True, False),
}  # fmt: skip


def _cell(kind: str, n: int, length: int, draw: int, alone: bool) -> Cell:
    of = KINDS[kind]

    def work() -> dict[str, Any]:
        x, y, z = of.sample(n, np.random.default_rng([draw, n, zlib.crc32(kind.encode())]))
        blocks = length if of.in_time else None
        began = time.process_time()
        first, second, third = (side(name, of).values for name, of in {"x": x, "y": y, "given": z}.items())
        p = surrogates.p_value(first, second, third, torch.arange(len(x)) // (blocks or 1), draw)
        line = {"kind": kind, "n": n, "seed": draw, "surrogates": p, "seconds": time.process_time() - began}
        if alone:
            return line
        began = time.process_time()
        found = estimate(x, y, given=z, blocks=blocks, seed=draw)
        p_values = found.protocol["p_values"]
        whole = {
            "seconds": time.process_time() - began,
            "p_value": found.p_value,
            "seconds_surrogates": line["seconds"],
        }
        return line | p_values | whole

    key = {"experiment": "conditional", "task": kind, "n": n, "length": length, "seed": draw, "alone": alone}
    return Cell(key, cells.at_once(work))


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each kind and number of rows. Of each p-value how many are <= .05, with the share's interval: the
    "surrogates", and unless these were run alone the critics' "scores" and "p_value", which joins both. "seconds": of
    processor time, the median."""
    lines = []
    for kind, n in dict.fromkeys((cell["kind"], cell["n"]) for cell in found):
        some = [cell for cell in found if (cell["kind"], cell["n"]) == (kind, n)]
        line: dict[str, Any] = {"kind": kind, "n": n, "dependent": KINDS[kind].dependent, "draws": len(some)}
        for name in ("surrogates", "scores", "p_value"):
            if name in some[0]:
                below = sum(cell[name] <= LEVEL for cell in some)
                line[name] = {"below": below, "share": below / len(some), "interval": interval(below, len(some))}
        lines.append(line | {"seconds": float(np.median([cell["seconds"] for cell in some]))})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table."""
    names = [name for name in ("surrogates", "scores", "p_value") if name in lines[0]]
    head = f"| x, y and z | given z | rows | draws | {' | '.join(f'{name} ≤ .05, %' for name in names)} | s |"
    rows = [head, "|---" * (5 + len(names)) + "|"]
    for line in lines:
        shares = []
        for name in names:
            shares.append(percent(line[name]["share"], line[name]["interval"]))
        truth = "dependent" if line["dependent"] else "independent"
        cells_of = f"| {line['kind']} | {truth} | {line['n']} | {line['draws']} | {' | '.join(shares)} "
        rows.append(cells_of + f"| {line['seconds']:.2g} |")
    return "\n".join(rows)


def command(
    rows: tuple[int, ...] = (600,),
    draws: int = 60,
    seed: int = 0,
    length: int = 20,
    names: tuple[str, ...] = (),
    alone: bool = False,
    output: Path = Path("results/conditional"),
    json: bool = False,
) -> None:
    """How often p-values of conditional independence are at most .05, where it holds and where it does not.

    Three p-values: of surrogates, of the critics' scores, and the estimate's, which joins both. Series are in blocks of
    --length rows. Each finished draw is kept in the folder: a run that was stopped goes on. The folder is given
    table.md and conditional.json too.

    Args:
        rows: Numbers of rows.
        draws: How many samples of each kind.
        seed: The number of the first draw: other numbers are other samples.
        length: Rows in a block of a series.
        names: Kinds of x, y and z, by their names in the table. By default all.
        alone: The p-value of surrogates alone, without an estimate: a hundredth of a second a draw.
        output: The results folder.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(draws=draws, rows=min(rows, default=0), length=length)
    errors.require_seed(seed)
    errors.require_seed(seed + draws - 1)
    for name in names:
        if name not in KINDS:
            raise UserError(f"There is no kind {name!r}.{errors.nearest(name, KINDS)}")
    planned = [
        _cell(kind, n, length, draw, alone)
        for draw in range(seed, seed + draws)
        for n in rows
        for kind in names or KINDS
    ]
    found = cells.run(planned, output, not json)
    lines = summary(found)
    text = table(lines)
    content = {"draws": draws, "seed": seed, "cells": found, "summary": lines, "load": os.getloadavg()[0]}
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    write_json(output / "conditional.json", finite(content))
    print(_json.dumps(finite(content), allow_nan=False) if json else text)
