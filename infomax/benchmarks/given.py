"""Conditional mutual information where it is known: error, coverage and verdict, beside what other packages give."""

import json as _json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.files import finite, write_json

Sample = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Known:
    """A distribution of x, y, z: its name, I(X; Y | Z) in nats, and what draws rows of it."""

    name: str
    mi: float
    sample: Sample


def known() -> list[Known]:
    """The distributions, each with its I(X; Y | Z) in closed form."""
    table = np.array([[[3, 1], [1, 2]], [[1, 1], [1, 4]], [[2, 2], [2, 2]]], float)  # z, x, y
    return [
        Known("partial correlation", -0.5 * math.log(1 - 0.6**2), _partial),
        # y and x share sqrt(.5) in each of two columns, given two columns of z.
        Known("two columns each", -math.log(1 - 0.5), _columns),
        Known("labels", _of_table(table / table.sum()), lambda n, rng: _labels(table / table.sum(), n, rng)),
        Known("numbers given a label", -0.5 * math.log(1 - 0.8**2), _given_label),
        Known("chain X -> Z -> Y, post-nonlinear", 0.0, _chain),
        Known("common cause, I(X; Y) = 1.3", 0.0, _cause),
        Known("XOR of labels", math.log(2), _xor),
        Known("XOR of signs of numbers", math.log(2), _signs),
    ]


def _normal(n: int, rng: np.random.Generator, columns: int = 1) -> np.ndarray:
    return rng.normal(size=(n, columns))


def _partial(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, u = _normal(n, rng), _normal(n, rng)
    return z + u, 2 * z + 0.6 * u + 0.8 * _normal(n, rng), z


def _columns(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, u, v = (_normal(n, rng, 2) for _ in range(3))
    return u + z, math.sqrt(0.5) * (u + v) - z[:, ::-1], z


def _of_table(p: np.ndarray) -> float:
    """I(X; Y | Z) of a table p [z, x, y]."""
    z, x, y = p.sum((1, 2), keepdims=True), p.sum(2, keepdims=True), p.sum(1, keepdims=True)
    return float((p * np.log(p * z / (x * y))).sum())


def _labels(p: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, x, y = np.unravel_index(rng.choice(p.size, n, p=p.ravel()), p.shape)
    return x, y, z


def _given_label(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, u = rng.integers(0, 3, n), _normal(n, rng)
    return u + 1.5 * z[:, None], 0.8 * u + 0.6 * _normal(n, rng) - z[:, None], z


def _chain(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = _normal(n, rng)
    z = np.tanh(x + 0.5 * _normal(n, rng))
    return x, np.exp(z**2 + z + 0.3 * _normal(n, rng)), z


def _cause(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, noise = _normal(n, rng), math.sqrt(1 / math.sqrt(1 - math.exp(-2.6)) - 1)  # correlation of x and y: .963
    return z + noise * _normal(n, rng), z + noise * _normal(n, rng), z


def _xor(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = rng.integers(0, 2, (2, n))
    return x, y, x ^ y


def _signs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = (_normal(n, rng) for _ in range(3))
    return x, y, np.sign(x * y) * np.abs(z)


# Other packages -------------------------------------------------------------------------------------------------------


def _ennemi(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Neighbours' conditional MI of single columns. (Frenzel & Pompe, 2007; Mesner & Shalizi, 2021)"""
    import ennemi  # pyright: ignore[reportMissingImports]

    labels = [side.dtype.kind == "i" for side in (x, y)]
    if max(side.shape[1] if side.ndim > 1 else 1 for side in (x, y)) > 1:
        return math.nan  # several columns of x are several variables there
    columns = [side.ravel() for side in (x, y)]
    return float(
        ennemi.estimate_mi(columns[1], columns[0], cond=z, discrete_x=labels[0], discrete_y=labels[1]).ravel()[0]
    )


def _cmiknn(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Neighbours' conditional MI, 5 neighbours, of numbers. (Runge, 2018)"""
    from tigramite.independence_tests.cmiknn import CMIknn  # pyright: ignore[reportMissingImports]

    if any(side.dtype.kind == "i" for side in (x, y, z)):
        return math.nan
    which = np.repeat(np.arange(3), [side.shape[1] for side in (x, y, z)])
    return float(CMIknn(knn=5, significance="fixed_thres").get_dependence_measure(np.hstack([x, y, z]).T, which))


PEERS = {"ennemi": _ennemi, "CMIknn": _cmiknn}


def others(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> dict[str, float | None]:
    """What each package that is installed gives, in nats; None of one that is not, or that does not read such rows."""
    found: dict[str, float | None] = {}
    for name, peer in PEERS.items():
        try:
            found[name] = peer(x, y, z)
        except ImportError:
            found[name] = None
    return found


# The benchmark --------------------------------------------------------------------------------------------------------


def _cell(of: Known, n: int, seed: int) -> Cell:
    def work() -> dict[str, Any]:
        x, y, z = of.sample(n, np.random.default_rng([seed, n, zlib.crc32(of.name.encode())]))
        began = time.process_time()
        found = estimate(x, y, given=z, seed=seed)
        return {
            "name": of.name, "n": n, "seed": seed, "true": of.mi, "mi": found.mi, "interval": list(found.interval),
            "trusted": found.trusted, "p_value": found.p_value, "seconds": time.process_time() - began,
            "failed": [check.name for check in found.checks if check.verdict == "fail"], "others": others(x, y, z),
        }  # fmt: skip

    return Cell({"experiment": "given", "task": of.name, "n": n, "seed": seed}, cells.at_once(work))


def given(sizes: Sequence[int], seeds: Sequence[int], names: Sequence[str] | None, folder: Path, shown: bool) -> Any:
    """Estimates I(X; Y | Z) of every distribution at every size and seed: {"cells"}, nats and processor seconds.

    Raises UserError: an unknown name, a folder that cannot be written.
    """
    there = {of.name: of for of in known()}
    for name in names or ():
        if name not in there:
            raise UserError(f"There is no distribution {name!r}; there are {'; '.join(there)}.")
    planned = [_cell(there[name], n, seed) for seed in seeds for n in sizes for name in names or there]
    return {"cells": cells.run(planned, folder, shown)}


def table(found: dict[str, Any]) -> str:
    """A line for each distribution and size, as a Markdown table: mean and spread over the seeds."""
    lines = [
        "| distribution | true | rows | infomax | covered | trusted | ennemi | CMIknn | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, n in dict.fromkeys((cell["name"], cell["n"]) for cell in found["cells"]):
        some = [cell for cell in found["cells"] if (cell["name"], cell["n"]) == (name, n)]
        true = some[0]["true"]
        covered = sum(cell["interval"][0] <= true <= cell["interval"][1] for cell in some)
        of_others = [_mean([cell["others"][peer] for cell in some]) for peer in PEERS]
        lines.append(
            f"| {name} | {true:.3f} | {n} | {_mean([cell['mi'] for cell in some])} | {covered} of {len(some)} "
            f"| {sum(cell['trusted'] for cell in some)} | {' | '.join(of_others)} "
            f"| {np.median([cell['seconds'] for cell in some]):.0f} |"
        )
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    spread = f" ({np.std(known, ddof=1):.3f})" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{spread}"


def command(
    pairs: tuple[int, ...] = (1000, 2000),
    seeds: int = 3,
    names: tuple[str, ...] = (),
    output: Path = Path("results/given"),
    json: bool = False,
) -> None:
    """Error, interval and verdict of I(X; Y | Z) where it is known, beside ennemi and tigramite, if installed.

    Each finished distribution is kept in the folder: a run that was stopped goes on, several processes share the work.
    The folder is given table.md and given.json too.

    Args:
        pairs: Numbers of rows.
        seeds: How many samples of each distribution.
        names: Distributions, by their names in the table. By default all.
        output: The results folder.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, pairs=min(pairs, default=0))
    found = given(pairs, range(seeds), names or None, output, shown=not json)
    found["load"] = os.getloadavg()[0]
    text = table(found)
    (output / "table.md").write_text(text + "\n")
    write_json(output / "given.json", finite(found))
    print(_json.dumps(finite(found), allow_nan=False) if json else text)
