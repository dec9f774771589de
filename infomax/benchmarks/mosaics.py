"""Images whose MI is known: mosaics of digits, a bit a patch, and the bits of both sides differ as coins say."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infomax import data, errors, launch
from infomax.benchmarks import cells, readings
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.estimation import Budget

PATCHES, SIDE = (2, 5), 14
POOLS = (0.6, 0.15)  # of the images of a class: those whose mosaics fit and select; the rest report
BITS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
Pool = tuple[NDArray, NDArray]  # images of digit 0 and of digit 1, [n, 14, 14]


def pools(seed: int) -> tuple[Pool, Pool, Pool]:
    """mnist5k's zeros and ones at 14 x 14 in three disjoint pools: no image is in two splits' mosaics."""
    found = data.dataset("mnist5k")
    images, labels = (torch.cat([getattr(s, what) for s in (found.train, found.test)]) for what in ("images", "labels"))
    parts: list[list[NDArray]] = []
    for digit in (0, 1):
        own = torch.nn.functional.avg_pool2d(images[labels == digit].float() / 255, 2)[:, 0]
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))].numpy()
        parts.append(np.split(own, [round(POOLS[0] * len(own)), round(sum(POOLS) * len(own))]))
    return tuple(zip(*parts, strict=True))  # type: ignore[return-value]


def flips(bits: float, patches: int) -> float:
    """The probability p at which `patches` bits, each flipped with p, share `bits`: patches (1 - h2(p)) = bits."""
    low, high = 0.0, 0.5
    for _ in range(60):
        p = (low + high) / 2
        h2 = -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
        low, high = (p, high) if patches * (1 - h2) > bits else (low, p)
    return (low + high) / 2


def mosaics(
    n: int, bits: float, pool: Pool, rng: np.random.Generator, shape: tuple[int, int] = PATCHES
) -> readings.Part:
    """n pairs x, y [n, 14 rows, 14 columns] float32 with I(X; Y) = `bits`, if a patch tells its digit.

    Each patch of x is a random image of the digit that a fair bit names; y's bits are x's, flipped with probability p.
    """
    rows, columns = shape
    x = rng.integers(0, 2, (n, rows, columns))
    y = x ^ (rng.random(x.shape) < flips(bits, rows * columns))

    def side(which: NDArray) -> NDArray:
        zero, one = (p[rng.integers(0, len(p), which.shape)] for p in pool)
        images = np.where(which[..., None, None] == 1, one, zero)  # [n, rows, columns, 14, 14]
        return images.transpose(0, 1, 3, 2, 4).reshape(n, rows * SIDE, columns * SIDE).astype(np.float32)

    return side(x), side(y)


def splits(n: int, bits: float, seed: int, shape: tuple[int, int] = PATCHES) -> readings.Parts:
    """n mosaic pairs in three splits (60, 15, 25 %), from disjoint pools of images."""
    rng = np.random.default_rng([seed, round(1000 * bits), *shape])
    sizes = [round(0.6 * n), round(0.15 * n)]
    sizes.append(n - sum(sizes))
    fit, select, report = (mosaics(size, bits, pool, rng, shape) for size, pool in zip(sizes, pools(seed), strict=True))
    return fit, select, report


def plan(
    bits: tuple[float, ...], n: int, steps: int, seed: int, all_rows: bool, critic: str, device: str
) -> list[Cell]:
    """A cell for each level of MI and each training."""
    planned = []
    for trained_by, rows in list(readings.groups().items())[: None if all_rows else 1]:
        for level in bits:
            key = {"experiment": "mosaics", "row": trained_by, "rows": [repr(r) for r in rows], "bits": level, "n": n,
                   "steps": steps, "seed": seed, "critic": critic}  # fmt: skip

            def work(rows: Any = rows, level: float = level) -> dict[str, Any]:
                parts = splits(n, level, seed)
                return {"values": readings.read(rows, *parts, Budget(steps=steps), seed, critic, device)}

            planned.append(Cell(key, cells.at_once(work)))
    return planned


def command(
    bits: tuple[float, ...] = BITS,
    pairs: int = 20_000,
    steps: int = 3000,
    seed: int = 0,
    only_default: bool = False,
    critic: str = "ConvSeparable",
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int | None = None,
    quick: bool = False,
    output: Path = Path("results/mosaics"),
    json: bool = False,
) -> None:
    """Estimates of the MI of digit mosaics, which is known: 0 to 10 bits in ten patches.

    Args:
        bits: Of true MI, each a point of the curve.
        pairs: How many pairs of mosaics, in three splits whose images are disjoint.
        steps: Training steps, at most.
        seed: Of pools, mosaics and critics.
        only_default: Leave out all rows but the default estimator.
        critic: Of the rows that train one: ConvSeparable or ConvConcat (sized to the images), or Separable.
        device: Where critics are trained.
        threads: CPU threads. By default all cores.
        quick: 1,000 pairs, 0 and 3 bits, 50 steps of Separable.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    launch.require_device(device)
    errors.require_positive(pairs=pairs, steps=steps, threads=threads)
    readings.require_critic(critic)
    patches = math.prod(PATCHES)
    for level in bits:
        if not 0 <= level <= patches:
            raise UserError(f"--bits {level:g} is out of reach: {patches} patches share 0 to {patches} bits.")
    if threads is not None:
        torch.set_num_threads(threads)
    if quick:
        bits, pairs, steps, critic = (0.0, 3.0), 1000, 50, "Separable"
    planned = plan(tuple(sorted(set(bits))), pairs, steps, seed, not only_default, critic, device)
    found = cells.run(planned, output, not json)
    made = table([(dict(cell.key), result["values"]) for cell, result in zip(planned, found, strict=True)])
    protocol = (
        f"Mosaics of 2 x 5 digits 0 and 1 of 14 x 14 pixels, {pairs} pairs (60 % fit, 15 % select, 25 % report, of"
        f" disjoint images), critic {critic}, at most {steps} steps of 256 pairs, seed {seed}. In bits."
    )
    draw(made["value in bits"], output / "mosaics.png")
    cells.report(cells.write_tables(output, "mosaics", protocol, made), made, output, json)


def table(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """A line a row, a column a level, in bits; and a line a level for the default, with its interval and verdict."""
    lines: dict[str, dict[str, Any]] = {}
    verdicts = []
    for key, values in found:
        for row, value in values.items():
            if row != "default":
                lines.setdefault(row, {"row": row})[f"{key['bits']:g}"] = value / math.log(2)
        if "default" in values:
            own = {name: values["default"][name] / math.log(2) for name in ("mi", "low", "high")}
            truth = key["bits"]
            verdicts.append({
                "truth": f"{truth:g}", "value": own["mi"], "error": own["mi"] - truth, "low": own["low"],
                "high": own["high"], "covered": "yes" if own["low"] <= truth <= own["high"] else "no",
                "trusted": "yes" if values["default"]["trusted"] else "no",
            })  # fmt: skip
    return {"value in bits": list(lines.values()), "the default, in bits": verdicts}


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Value against truth, in bits."""
    _, axis, save = cells.figure(path, figsize=(6.5, 4.5))
    for number, line in enumerate(lines):
        points = [(float(name), value) for name, value in line.items() if name != "row"]
        first = number == 0
        axis.plot(*zip(*points, strict=True), "-o" if first else "-", color="k" if first else f"C{number % 10}",
                  linewidth=2 if first else 1, alpha=1 if first else 0.7, markersize=4, label=line["row"])  # fmt: skip
    top = max(float(name) for name in lines[0] if name != "row")
    axis.plot([0, top], [0, top], "k--", linewidth=0.8)
    axis.set(xlabel="true MI, bits", ylabel="estimate, bits", ylim=(-2, 1.3 * top + 1))
    axis.legend(fontsize=6, ncols=2)
    save()
