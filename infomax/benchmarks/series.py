"""Independent series that look dependent: how often p_value is below 5 %, without blocks and with them."""

import json as _json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.estimation import estimate, transfer_entropy
from infomax.files import finite, write_json

KINDS = {"AR(1) of .9": 0.9, "AR(1) of .98": 0.98, "random walk": 1.0}  # what a row keeps of the one before it
BLOCKS = ("none", "fixed", "auto")
LEVEL = 0.05
SURE = 0.95  # of binomial intervals


def independent(n: int, memory: float, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Two independent autoregressive series [n], stationary from their first row on, or random walks for memory 1."""
    noise = np.random.default_rng(seed).normal(size=(n, 2))
    z = noise.copy()
    z[0] /= np.sqrt(1 - memory**2) if memory < 1 else 1.0
    for t in range(1, n):
        z[t] += memory * z[t - 1]
    return z[:, 0], z[:, 1]


def _cell(kind: str, n: int, blocks: str, length: int, draw: int, transfer: bool) -> Cell:
    def work() -> dict[str, Any]:
        x, y = independent(n, KINDS[kind], [draw, n, zlib.crc32(kind.encode())])
        began = time.process_time()
        asked = {"none": None, "fixed": length, "auto": "auto"}[blocks]
        line: dict[str, Any] = {"kind": kind, "n": n, "blocks": blocks, "seed": draw}
        try:
            if transfer:
                found = transfer_entropy(x, y, blocks=asked, seed=draw)
            else:
                found = estimate(x, y, blocks=asked, seed=draw)
        except UserError as error:
            return line | {"refused": str(error), "seconds": time.process_time() - began}
        chosen = found.protocol.get("blocks", {}).get("length", asked)
        return line | {
            "refused": None, "p_value": found.p_value, "trusted": found.trusted, "mi": found.mi, "length": chosen,
            "interval": list(found.interval), "seconds": time.process_time() - began,
        }  # fmt: skip

    key = {"experiment": "series", "task": kind, "n": n, "row": blocks, "length": length, "seed": draw}
    return Cell(key | ({"quantity": "transfer entropy"} if transfer else {}), cells.at_once(work))


def interval(hits: int, draws: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `hits` of `draws` were seen. (Clopper & Pearson, 1934)"""
    from scipy.stats import beta

    low = 0.0 if hits == 0 else float(beta.ppf((1 - SURE) / 2, hits, draws - hits + 1))
    high = 1.0 if hits == draws else float(beta.ppf((1 + SURE) / 2, hits + 1, draws - hits))
    return low, high


def percent(share: float, interval: tuple[float, float]) -> str:
    """A share and its interval for a table, in %."""
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each kind of series, number of rows and kind of blocks.

    "refused": draws of which no estimate was made; the others are "estimated", to which all else belongs. "below": how
    many have p <= .05, "share" and "share_interval" of it. "trusted", and "trusted_wrong": trusted, with an interval
    that lies above 0. "length": rows in a block, the median. "seconds": of processor time, the median.
    """
    lines = []
    for kind, n, blocks in dict.fromkeys((cell["kind"], cell["n"], cell["blocks"]) for cell in found):
        some = [cell for cell in found if (cell["kind"], cell["n"], cell["blocks"]) == (kind, n, blocks)]
        made = [cell for cell in some if cell["refused"] is None]
        below = sum(cell["p_value"] is not None and cell["p_value"] <= LEVEL for cell in made)
        trusted = [cell for cell in made if cell["trusted"]]
        lengths = [cell["length"] for cell in made if cell["length"] is not None]
        lines.append({
            "kind": kind, "n": n, "blocks": blocks, "draws": len(some), "refused": len(some) - len(made),
            "estimated": len(made), "below": below, "share": below / len(made) if made else None,
            "share_interval": interval(below, len(made)) if made else None, "trusted": len(trusted),
            "trusted_wrong": sum(cell["interval"][0] > 0 for cell in trusted),
            "length": float(np.median(lengths)) if lengths else None,
            "seconds": float(np.median([cell["seconds"] for cell in some])),
        })  # fmt: skip
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table."""
    head = "| series | rows | blocks | draws | refused | p ≤ .05, % of the others | trusted | trusted, 0 outside | s |"
    rows = [head, "|---" * 9 + "|"]
    for line in lines:
        length = "" if line["length"] is None else f", {line['length']:.0f} rows"
        share = "-"
        if line["share"] is not None:
            share = percent(line["share"], line["share_interval"])
        counts = [f"{line[name]}" if line["estimated"] else "-" for name in ("trusted", "trusted_wrong")]
        rows.append(
            f"| {line['kind']} | {line['n']} | {line['blocks']}{length} | {line['draws']} | {line['refused']} "
            f"| {share} | {' | '.join(counts)} | {line['seconds']:.1f} |"
        )
    return "\n".join(rows)


def command(
    rows: tuple[int, ...] = (600,),
    draws: int = 200,
    seed: int = 0,
    length: int = 20,
    names: tuple[str, ...] = (),
    blocks: tuple[str, ...] = BLOCKS,
    transfer: bool = False,
    output: Path = Path("results/series"),
    json: bool = False,
) -> None:
    """Two independent series that keep .9 or .98 of the row before, and random walks: how often p_value is below 5 %.

    Each series is estimated without blocks, with blocks of --length rows, and with blocks="auto". Each finished draw is
    kept in the folder, one of each kind in turn: a run that was stopped goes on, and --draws of as many as are finished
    gives their table at once. The folder is given table.md and series.json too.

    Args:
        rows: Numbers of rows.
        draws: How many samples of each kind of series.
        seed: The number of the first draw: other numbers are other samples.
        length: Rows in a block where blocks are fixed.
        names: Kinds of series, by their names in the table. By default all three.
        blocks: Of none, fixed and auto. By default all three.
        transfer: Ask for the transfer entropy of one to the other, a row later, rather than for their MI.
        output: The results folder.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(draws=draws, rows=min(rows, default=0), length=length)
    errors.require_seed(seed)
    errors.require_seed(seed + draws - 1)
    for what, asked, known in (("kind of series", names, KINDS), ("kind of blocks", blocks, BLOCKS)):
        for name in asked:
            if name not in known:
                raise UserError(f"There is no {what} {name!r}.{errors.nearest(name, known)}")
    planned = [
        _cell(kind, n, way, length, draw, transfer)
        for draw in range(seed, seed + draws)
        for n in rows
        for kind in names or KINDS
        for way in blocks
    ]
    found = cells.run(planned, output, not json)
    lines = summary(found)
    text = table(lines)
    content = {"draws": draws, "seed": seed, "cells": found, "summary": lines, "load": os.getloadavg()[0]}
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    write_json(output / "series.json", finite(content))
    print(_json.dumps(finite(content), allow_nan=False) if json else text)
