"""All pairs of columns in closed form, beside scikit-learn and ennemi: errors where the MI is known, and seconds."""

import importlib.util
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells, tasks
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.scores import peak_mib
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.estimation.questions.pairwise import pairwise

Array = np.ndarray
PEERS = ("scikit-learn", "ennemi")
NAMES = ("infomax", *PEERS)
MEMORY = ((500, 300), (500, 1000), (2000, 100), (20_000, 60), (100_000, 20))  # rows and columns
PARTS = ("errors", "seconds", "large", "memory", "independent", "estimate")
KINDS: tuple[Callable[[Array], Array], ...] = (lambda t: t, np.abs, lambda t: np.sin(2 * t), lambda t: t**3, np.tanh)


def narrow() -> list[tasks.Task]:
    """The distributions of `infomax benchmark accuracy` with one column a side."""
    return [
        task for task in (*tasks.the_set(), *tasks.held_out()) if {side.shape[1] for side in task.sample(2, 0)} == {1}
    ]


def known() -> list[tasks.Task]:
    """These, and more: curves, labels, and independence."""
    return [
        *narrow(),
        tasks.gaussian(1, 0.0), tasks.gaussian(1, 2.0), tasks.curve("saturated", lambda t: np.tanh(2 * t), 0.3),
        tasks.curve("waves", lambda t: np.sin(2 * t), 0.3), tasks.curve("cubes", lambda t: t**3, 1.0),
        tasks.curve("absolute values", np.abs, 0.3), tasks.labels("2 labels", np.arange(2.0)[:, None]),
        tasks.labels("5 labels", np.arange(5.0)[:, None]), tasks.labels("6 labels, independent", np.zeros((6, 1))),
    ]  # fmt: skip


def of_pair(name: str, x: Array, y: Array) -> float:
    """The MI of columns x [n] and y [n] by infomax or one of PEERS; x of whole numbers is labels."""
    labels = x.dtype.kind == "i"
    if name == "infomax":
        return float(pairwise(x, y).mi[0, 0])
    if name == "scikit-learn":
        from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

        return float((mutual_info_classif if labels else mutual_info_regression)(y[:, None], x, random_state=0)[0])
    from ennemi import estimate_mi  # type: ignore[import-not-found]

    return float(estimate_mi(x, y, discrete_y=labels)[0, 0])


def table_of(n: int, p: int, seed: int) -> Array:
    """Columns [n, p], each one of twenty causes by one of five curves, with noise: one pair in twenty depends."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((n, 20))
    of = rng.integers(20, size=p)
    return np.stack([KINDS[c % 5](causes[:, of[c]]) + 0.5 * rng.standard_normal(n) for c in range(p)], 1)


def all_pairs(name: str, table: Array) -> None:
    """Works out the MI of every pair of columns of a table, as a user of infomax or one of PEERS would."""
    if name == "infomax":
        pairwise(table)
    elif name == "ennemi":
        from ennemi import pairwise_mi  # type: ignore[import-not-found]

        pairwise_mi(table, max_threads=1)
    else:
        from sklearn.feature_selection import mutual_info_regression

        for c in range(1, table.shape[1]):
            mutual_info_regression(table[:, :c], table[:, c], random_state=0)


def _errors(task: tasks.Task, n: int, samples: int, names: list[str]) -> Cell:
    def work() -> dict[str, Any]:
        drawn = [task.sample(n, [seed, n, zlib.crc32(task.name.encode())]) for seed in range(samples)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = {name: [of_pair(name, x[:, 0], y[:, 0]) for x, y in drawn] for name in names}
        held = []
        for x, y in drawn:
            low, high = (float(end[0, 0]) for end in pairwise(x, y).interval)
            held.append(low <= task.mi <= high)
        return {"true": task.mi, "values": values, "coverage": float(np.mean(held))}

    key = {"experiment": "pairwise-errors", "task": task.name, "n": n, "samples": samples, "names": names}
    return Cell(key, cells.at_once(work))


def _seconds(n: int, p: int, repeats: int, names: list[str]) -> Cell:
    def work() -> dict[str, Any]:
        table = table_of(n, p, 0)
        found: dict[str, list[float]] = {name: [] for name in names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                all_pairs(name, table[:, :4])  # what is loaded and set up once
            for _ in range(repeats):
                for name in names:  # alternating
                    began = time.process_time()
                    all_pairs(name, table)
                    found[name].append(time.process_time() - began)
        return {"pairs": p * (p - 1) // 2, "seconds": {name: float(np.median(s)) for name, s in found.items()}}

    key = {"experiment": "pairwise-seconds", "n": n, "p": p, "repeats": repeats, "names": names}
    return Cell(key, cells.at_once(work))


def _large(n: int, p: int, q: int) -> Cell:
    def work() -> dict[str, Any]:
        table = table_of(n, p + q, 1)
        began, wall = time.process_time(), time.monotonic()
        found = pairwise(table[:, :p], table[:, p:]) if q else pairwise(table)
        pairs = p * q or p * (p - 1) // 2
        return {"pairs": pairs, "discoveries": found.discoveries(), "processor": time.process_time() - began,
                "wall": time.monotonic() - wall}  # fmt: skip

    return Cell({"experiment": "pairwise-large", "n": n, "p": p, "q": q}, cells.at_once(work))


def _memory(n: int, p: int) -> Cell:
    def work() -> dict[str, Any]:
        table = np.random.default_rng(0).normal(size=(n, p))
        pairwise(table[:200, :3])  # what is loaded once
        found: list[Any] = []
        peak = peak_mib(lambda: found.append(pairwise(table)), "cpu")
        return {"table": table.nbytes / 2**20, "values": found[0].mi.nbytes / 2**20, "peak": peak}

    return Cell({"experiment": "pairwise-memory", "n": n, "p": p}, cells.at_once(work))


def _independent(n: int, p: int, levels: int) -> Cell:
    def work() -> dict[str, Any]:
        rng = np.random.default_rng(n + levels)
        x = rng.standard_normal((n, p))
        y = rng.integers(0, levels, (n, p)) if levels else rng.standard_normal((n, p))
        found = pairwise(x, y)
        shares = {f"{level:g}": float((found.p_value < level).mean()) for level in (0.05, 0.01, 0.001)}
        return {"pairs": p * p, "shares": shares, "mean": float(found.mi.mean()), "largest": float(found.mi.max())}

    return Cell({"experiment": "pairwise-independent", "n": n, "p": p, "levels": levels}, cells.at_once(work))


def _beside_estimate(task: tasks.Task, n: int, seed: int) -> Cell:
    def work() -> dict[str, Any]:
        x, y = task.sample(n, [seed, n, zlib.crc32(task.name.encode())])
        whole = estimate(x, y)
        return {"true": task.mi, "mi": float(pairwise(x, y).mi[0, 0]), "estimate": whole.mi,
                "interval": list(whole.interval)}  # fmt: skip

    key = {"experiment": "pairwise-estimate", "task": task.name, "n": n, "seed": seed}
    return Cell(key, cells.at_once(work))


def command(
    rows: tuple[int, ...] = (500, 2000),
    samples: int = 20,
    estimates: int = 1,
    parts: tuple[str, ...] = PARTS,
    quick: bool = False,
    output: Path = Path("results/pairwise"),
    json: bool = False,
) -> None:
    """All pairs of columns beside scikit-learn and ennemi (where installed): errors, seconds, p-values, im.estimate.

    Seconds are of one process's processor time. Set OMP_NUM_THREADS=1 to compare single threads.

    Args:
        rows: Numbers of rows N.
        samples: Pairs of each distribution of known MI, at each N.
        estimates: Samples of each of the accuracy set's distributions that im.estimate is trained on, at each N.
        parts: Of errors, seconds, large tables, memory, independent columns and im.estimate. By default all.
        quick: Three samples, no trained estimates, small tables.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(samples=samples, rows=min(rows, default=0))
    for part in parts:
        if part not in PARTS:
            raise UserError(f"There is no part {part!r}.{errors.nearest(part, PARTS)}")
    if quick:
        samples, estimates = 3, 0
    names = [name for name in NAMES if name != "ennemi" or importlib.util.find_spec("ennemi")]
    known_, narrow_ = known(), narrow()
    shapes = ((500, 60, 0), (2000, 6, 8)) if quick else ((500, 1000, 0), (2000, 60, 80))
    plan = {
        "errors": [_errors(task, n, samples, names) for n in rows for task in known_],
        "seconds": [_seconds(n, 12 if quick else 40, 1 if quick else 5, names) for n in rows],
        "large": [_large(*shape) for shape in shapes],
        "memory": [_memory(*shape) for shape in (MEMORY[:1] if quick else MEMORY)],
        "independent": [_independent(n, 40 if quick else 100, levels) for n in rows for levels in (0, 2, 5)],
        "estimate": [_beside_estimate(task, n, s) for n in rows for task in narrow_ for s in range(estimates)],
    }
    plan = {part: some if part in parts else [] for part, some in plan.items()}
    results = iter(cells.run([cell for some in plan.values() for cell in some], output, not json))
    found = {part: [(cell.key, next(results)) for cell in some] for part, some in plan.items()}
    made = _tables(found, names)
    protocol = (
        f"Known MI: {len(known_)} distributions of one column a side, {samples} samples each. Seconds: processor time"
        " of one process, the median of alternating repeats; tables of columns that are five curves of twenty"
        " causes, so that one pair in twenty depends. scikit-learn: mutual_info_regression, or _classif of labels, a"
        " column at a time; ennemi: estimate_mi, and pairwise_mi of tables; both with their default of 3 neighbours."
    )
    cells.report(cells.write_tables(output, "pairwise", protocol, made), made, output, json)


def _tables(found: dict[str, list[tuple[Any, Any]]], names: list[str]) -> dict[str, list[dict[str, Any]]]:
    def error(result: Any, name: str) -> float:
        return float(np.mean(np.abs(np.array(result["values"][name]) - result["true"])))

    each = [
        {"distribution": key["task"], "N": key["n"], "true": f"{result['true']:.3f}"}
        | {name: f"{np.mean(result['values'][name]):.3f}" for name in names}
        | {f"error, {name}": f"{error(result, name):.3f}" for name in names}
        | {"coverage": f"{100 * result['coverage']:.0f} %"}
        for key, result in found["errors"]
    ]
    whole = []
    for n in dict.fromkeys(key["n"] for key, _ in found["errors"]):
        some = [result for key, result in found["errors"] if key["n"] == n]
        line = {"N": n} | {name: f"{np.mean([error(r, name) for r in some]):.4f}" for name in names}
        whole.append(line | {"coverage": f"{100 * np.mean([r['coverage'] for r in some]):.0f} %"})
    seconds = []
    for key, result in found["seconds"]:
        per_pair = {name: 1e3 * result["seconds"][name] / result["pairs"] for name in names}
        fastest = min(per_pair[name] for name in names if name != "infomax")
        seconds.append(
            {"N": key["n"], "columns": key["p"]} | {f"{name}, ms a pair": f"{per_pair[name]:.3f}" for name in names}
            | {"times the faster": f"{fastest / per_pair['infomax']:.1f}"}
        )  # fmt: skip
    large = [
        {"rows": key["n"], "columns": f"{key['p']} x {key['q']}" if key["q"] else key["p"], "pairs": result["pairs"],
         "processor seconds": f"{result['processor']:.1f}", "wall seconds": f"{result['wall']:.1f}"}
        for key, result in found["large"]
    ]  # fmt: skip
    memory = [
        {"rows": key["n"], "columns": key["p"], "table, MiB": f"{result['table']:.1f}",
         "values, MiB": f"{result['values']:.2f}", "result, MiB": f"{5 * result['values']:.2f}",
         "peak, MiB": "-" if result["peak"] is None else f"{result['peak']:.0f}"}
        for key, result in found["memory"]
    ]  # fmt: skip
    independent = [
        {"N": key["n"], "columns": f"numbers, and {key['levels']} levels" if key["levels"] else "numbers",
         "pairs": result["pairs"]}
        | {f"p < {level}": f"{100 * share:.2f} %" for level, share in result["shares"].items()}
        | {"mean MI": f"{result['mean']:.5f}", "largest": f"{result['largest']:.3f}"}
        for key, result in found["independent"]
    ]  # fmt: skip
    beside = []
    for n in dict.fromkeys(key["n"] for key, _ in found["estimate"]):
        some = [(key, r) for key, r in found["estimate"] if key["n"] == n]
        outside = [key["task"] for key, r in some if not r["interval"][0] <= r["mi"] <= r["interval"][1]]
        beside.append({
            "N": n, "pairs": len(some), "within the interval": f"{100 * (1 - len(outside) / len(some)):.0f} %",
            "outside": "; ".join(outside) or "-",
            "error, pairwise": f"{np.mean([abs(r['mi'] - r['true']) for _, r in some]):.3f}",
            "error, estimate": f"{np.mean([abs(r['estimate'] - r['true']) for _, r in some]):.3f}",
        })  # fmt: skip
    return {"mean error, nats": whole, "seconds": seconds, "large tables": large, "memory": memory,
            "independent columns": independent, "beside im.estimate": beside, "each distribution": each}  # fmt: skip
