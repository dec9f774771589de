"""Self-consistency: 0 where sides are independent, no gain by processing, and independent copies that add up.

On images as the paper has it (X an image, Y its top rows; Song & Ermon, 2020), where MI is infinite and only ratios can
be looked at, and on pairs whose MI is known: mosaics of digits, and images with noise added at a stated level.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infomax import data, errors, launch
from infomax.benchmarks import cells, mosaics, readings
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError, nearest
from infomax.estimation import Budget

ROWS = (0, 3, 7, 14, 21, 28)  # t, of 28
AT, LESS = 14, 3  # t of data processing and additivity, and by how much less the function keeps
NOTHING = 0.05  # nat: a value below it has no ratios worth a tick
TESTS = ("baseline", "independence", "data processing", "additivity")


@dataclass(frozen=True)
class Source:
    """Pairs for each test, as fit, select and report splits of disjoint samples; truth: of the baseline, in nats."""

    make: Callable[[str, int, int], readings.Parts]  # test, number of pairs, seed
    truth: float | None


def _stacked(*sides: NDArray) -> NDArray:
    """Images [n, h, w] each -> [n, c, h, w]: joined as channels."""
    return np.stack(sides, 1)


def _masked(images: NDArray, rows: int) -> NDArray:
    """The top rows of images [n, h, w], the rest 0."""
    out = np.zeros_like(images)
    out[:, :rows] = images[:, :rows]
    return out


def _images(seed: int) -> tuple[NDArray, ...]:
    """mnist5k in three pools of disjoint images, [n, 28, 28] in [0, 1]."""
    found = data.dataset("mnist5k")
    whole = torch.cat([split.images for split in (found.train, found.test)])[:, 0].float() / 255  # type: ignore[attr-defined]
    whole = whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))].numpy()
    return tuple(np.split(whole, [round(0.6 * len(whole)), round(0.75 * len(whole))]))


def raw_rows(test: str, n: int, seed: int) -> readings.Parts:
    """X an image, Y its top rows: the paper's. "baseline t" for t rows. n is the number of images at most."""
    parts: list[readings.Part] = []
    for pool in _images(seed):
        rng = np.random.default_rng([seed, len(pool)])
        x = pool[: max(2, round(n * len(pool) / 5000))]
        other = x[_deranged(len(x), rng)]
        parts.append({
            "independence": lambda x=x, other=other: (_stacked(x), _stacked(_masked(other, AT))),
            "data processing": lambda x=x: (_stacked(x, x), _stacked(_masked(x, AT), _masked(x, AT - LESS))),
            "additivity": lambda x=x, other=other: (
                _stacked(x, other), _stacked(_masked(x, AT), _masked(other, AT))
            ),
        }.get(test, lambda x=x: (_stacked(x), _stacked(_masked(x, int(test.split()[-1])))))())  # fmt: skip
    return parts[0], parts[1], parts[2]


def _deranged(n: int, rng: np.random.Generator) -> NDArray:
    """A random cyclic order: no row stays where it was."""
    order, found = rng.permutation(n), np.empty(n, dtype=int)
    found[order] = np.roll(order, 1)
    return found


def noisy(test: str, n: int, seed: int) -> readings.Parts:
    """X a sum of 9 patterns, digits' leading principal components, with normal factors; Y that of noisy factors.

    Orthogonal patterns make each image an invertible map of its factors, so that I(X; Y) = -9/2 log(1 - rho^2).
    """
    found = torch.from_numpy(_images(seed)[0]).flatten(1)
    patterns = torch.linalg.svd(found - found.mean(0), full_matrices=False)[2][:9].numpy()
    rng = np.random.default_rng([seed, n])

    def draw(size: int) -> tuple[NDArray, NDArray]:
        factors, noise = rng.standard_normal((2, size, 9))
        y = RHO * factors + math.sqrt(1 - RHO**2) * noise
        return tuple((side @ patterns).reshape(size, 28, 28).astype(np.float32) for side in (factors, y))  # type: ignore[return-value]

    fit, select, report = (_arranged(test, draw, size) for size in _sizes(n))
    return fit, select, report


RHO = 0.45  # I = 1.02 nats


def of_mosaics(test: str, n: int, seed: int) -> readings.Parts:
    """Mosaics of 2 digits that share 1 bit; additivity: two such pairs."""
    rng = np.random.default_rng([seed, n, 2])
    fit, select, report = (
        _arranged(test, lambda size, pool=pool: mosaics.mosaics(size, 1.0, pool, rng, (1, 2)), size)
        for size, pool in zip(_sizes(n), mosaics.pools(seed), strict=True)
    )
    return fit, select, report


def _sizes(n: int) -> list[int]:
    return [round(0.6 * n), round(0.15 * n), n - round(0.6 * n) - round(0.15 * n)]


def _arranged(test: str, draw: Callable[[int], tuple[NDArray, NDArray]], size: int) -> readings.Part:
    x, y = draw(size)
    if test == "independence":
        return _stacked(x), _stacked(draw(size)[1])
    if test == "data processing":  # the second channel is a function of the first: it adds nothing
        return _stacked(x, x), _stacked(y, _masked(y, y.shape[1] // 2))
    if test == "additivity":
        x2, y2 = draw(size)
        return _stacked(x, x2), _stacked(y, y2)
    return _stacked(x), _stacked(y)


SOURCES = {
    "mosaics": Source(of_mosaics, math.log(2)),
    "noisy images": Source(noisy, -4.5 * math.log1p(-(RHO**2))),
    "images and their rows": Source(raw_rows, None),
}


def plan(names: tuple[str, ...], pairs: int, steps: int, seed: int, critic: str, device: str) -> list[Cell]:
    """A cell for each data set, test and training."""
    planned = []
    for name in names:
        source = SOURCES[name]
        baselines = ("baseline",) if source.truth is not None else tuple(f"baseline {t}" for t in ROWS[1:])
        for test in (*baselines, *TESTS[1:]):
            for trained_by, rows in readings.groups().items():
                key = {"experiment": "consistency", "row": trained_by, "rows": [repr(r) for r in rows], "task": name,
                       "test": test, "n": pairs, "steps": steps, "seed": seed, "critic": critic}  # fmt: skip

                def work(rows: Any = rows, make: Any = source.make, test: str = test) -> dict[str, Any]:
                    parts: readings.Parts = make(test, pairs, seed)
                    return {"values": readings.read(rows, *parts, Budget(steps=steps), seed, critic, device)}

                planned.append(Cell(key, cells.at_once(work)))
    return planned


def command(
    source: tuple[str, ...] = tuple(SOURCES),
    pairs: int = 10_000,
    steps: int = 3000,
    seed: int = 0,
    critic: str = "ConvSeparable",
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int | None = None,
    quick: bool = False,
    output: Path = Path("results/consistency"),
    json: bool = False,
) -> None:
    """The paper's three tests of self-consistency, of every row: independence, data processing, additivity.

    Args:
        source: "mosaics" and "noisy images", whose MI is known, and "images and their rows", the paper's.
        pairs: Of each test; of the paper's, images of mnist5k, of which there are 5,000.
        steps: Training steps, at most.
        seed: Of pairs and critics.
        critic: Of the rows that train one: ConvSeparable or ConvConcat (sized to the images), or Separable.
        device: Where critics are trained.
        threads: CPU threads. By default all cores.
        quick: Mosaics alone, 1,000 pairs, 50 steps of Separable.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    launch.require_device(device)
    errors.require_positive(pairs=pairs, steps=steps, threads=threads)
    readings.require_critic(critic)
    for name in source:
        if name not in SOURCES:
            raise UserError(f"Unknown source {name!r}.{nearest(name, SOURCES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    if quick:
        source, pairs, steps, critic = ("mosaics",), 1000, 50, "Separable"
    planned = plan(source, pairs, steps, seed, critic, device)
    results = cells.run(planned, output, not json)
    values: dict[tuple[str, str, str], float] = {}
    covered: dict[str, tuple[float, float]] = {}
    for cell, result in zip(planned, results, strict=True):
        for row, value in result["values"].items():
            if row != "default":
                values[cell.key["task"], row, cell.key["test"]] = value
            elif cell.key["test"] == "independence":
                covered[cell.key["task"]] = (value["low"], value["high"])
    made = tables(values, covered)
    protocol = (
        f"{pairs} pairs (60 % fit, 15 % select, 25 % report, of disjoint images; at most 5,000 images in the paper's"
        f" test), critic {critic}, at most {steps} steps of 256 pairs, seed {seed}. Ticks: independence |I| < .05,"
        " and the default's interval covers 0; data processing within 5 % of 1; additivity within 5 % of 2,"
        " of a baseline above .05. In nats."
    )
    draw(values, output / "consistency.png")
    cells.report(cells.write_tables(output, "consistency", protocol, made), made, output, json)


def tables(
    values: dict[tuple[str, str, str], float], covered: dict[str, tuple[float, float]]
) -> dict[str, list[dict[str, Any]]]:
    """A table a data set, with ticks and crosses: a row's baseline, its value at independence, and its two ratios."""
    made: dict[str, list[dict[str, Any]]] = {}
    for name in dict.fromkeys(name for name, _, _ in values):
        truth = SOURCES[name].truth
        rows = list(dict.fromkeys(row for other, row, _ in values if other == name))
        for number, row in enumerate(rows):
            of = {test: value for (other, own, test), value in values.items() if (other, own) == (name, row)}
            base = of["baseline"] if truth is not None else of[f"baseline {AT}"]
            low, high = covered.get(name, (-math.inf, math.inf)) if number == 0 else (-math.inf, math.inf)
            line: dict[str, Any] = {"row": row}
            if truth is None:
                line |= {f"{t} rows": of[f"baseline {t}"] for t in ROWS[1:]}
            else:
                line |= {f"baseline (truth {truth:.2f})": base}
            passed = abs(of["independence"]) < NOTHING and low <= 0 <= high
            line["independence"] = _told(of["independence"], passed)
            for test, right in (("data processing", 1.0), ("additivity", 2.0)):
                ratio = _ratio(of[test], base)
                line[test] = _told(ratio, abs(ratio / right - 1) <= 0.05)
            made.setdefault(name, []).append(line)
    return made


def _ratio(value: float, base: float) -> float:
    return value / base if base > NOTHING else math.nan


def _told(value: float, passed: bool) -> str:
    """With a tick or a cross; "-" for a row that refuses such pairs, or has no ratio."""
    return "-" if math.isnan(value) else f"{value:.3f} {'✓' if passed else '✗'}"


def draw(values: dict[tuple[str, str, str], float], path: Path) -> None:
    """The two ratios of every row, a line a data set, with what they should be dashed."""
    names = list(dict.fromkeys(name for name, _, _ in values))
    _, axes, save = cells.figure(path, len(names), 2, figsize=(10, 3 * len(names)), squeeze=False)
    for name, line in zip(names, axes, strict=True):
        rows = [row for (other, row, test), value in values.items()
                if other == name and test == "independence" and not math.isnan(value)]  # fmt: skip
        baseline = "baseline" if SOURCES[name].truth is not None else f"baseline {AT}"
        for axis, (test, right) in zip(line, (("data processing", 1.0), ("additivity", 2.0)), strict=True):
            ratios = [_ratio(values[name, row, test], values[name, row, baseline]) for row in rows]
            axis.bar(range(len(rows)), np.clip(np.nan_to_num(ratios), -1, 2 * right + 1),
                     color=["k", *["C0"] * (len(rows) - 1)])  # fmt: skip
            axis.axhline(right, color="C3", linestyle="--", linewidth=0.8)
            axis.set_title(f"{name}: {test}, should be {right:g}", fontsize=8)
            axis.set_xticks(range(len(rows)), [row.partition("(")[0] if "tau" not in row else row for row in rows],
                            rotation=60, fontsize=6, ha="right")  # fmt: skip
    save()
