"""Features in memory and on disk: nearest neighbours by blocks beside whole rows, and a walk of the linear probe."""

import json as _json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from infomax import critics, errors
from infomax.evaluation.features import Features, Floats, Store
from infomax.evaluation.logistic import path, rows_of, standardiser
from infomax.evaluation.nearest import QUERIES, nearest

K = 50
CLASSES = 10


def large(images: int, features: int, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of processor time and of the clock, medians over `repeats`, all ways in turn.

    Neighbours: the 50 nearest of 1,024 queries among `images` rows of so many features. First step: of L-BFGS, for
    the linear probe of 10 classes; two or three walks over all rows for the loss and its gradient.
    """
    rng = np.random.default_rng(seed)
    x, q = (rng.standard_normal((n, features), dtype=np.float32) for n in (images, QUERIES))
    y = rng.integers(0, CLASSES, images)
    kept = {"in memory": _held(x, 2**62), "on disk": _held(x, 0)}
    queries = _held(q, 2**62)

    def whole() -> None:
        bank, few = critics.Cosine(1.0).embed(torch.from_numpy(x), torch.from_numpy(q))
        (few @ bank.T).topk(K, dim=1)

    def neighbours(bank: Features) -> Callable[[], object]:
        return lambda: list(nearest(bank, queries, K))

    def walk(bank: Features) -> Callable[[], object]:
        blocks = rows_of(bank, None, standardiser(bank), CLASSES)
        return lambda: path(blocks, y, features, CLASSES, [1.0], iterations=1)

    ways: dict[str, Callable[[], object]] = {"neighbours, whole rows": whole}
    ways |= {f"neighbours, blocks {place}": neighbours(bank) for place, bank in kept.items()}
    ways |= {f"first step of the linear probe {place}": walk(bank) for place, bank in kept.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began, clock = time.process_time(), time.perf_counter()
            way()
            taken[name].append((time.process_time() - began, time.perf_counter() - clock))
    rows = [
        {
            "what": name,
            "processor": statistics.median(p for p, _ in both),
            "clock": statistics.median(c for _, c in both),
        }
        for name, both in taken.items()
    ]
    return {
        "images": images,
        "features": features,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "rows": rows,
    }


def _held(x: Floats, memory: int) -> Features:
    def blocks() -> Iterator[Floats]:
        for start in range(0, len(x), 2048):
            yield x[start : start + 2048]

    return Store(memory).hold(blocks(), len(x))


def command(images: int = 100_000, features: int = 512, repeats: int = 5, seed: int = 0, json: bool = False) -> None:
    """Time of probes of many features by blocks, in memory and on disk, beside neighbours by whole rows.

    Args:
        images: Rows of the bank, normal numbers.
        features: Of a row.
        repeats: Of each way, in turn; medians are shown.
        seed: Of the numbers.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(images=images, features=features, repeats=repeats)
    errors.require_seed(seed)
    found = large(max(images, K + 1), features, repeats, seed)
    if json:
        print(_json.dumps(found))
        return
    print(f"{found['images']} x {features} features, {QUERIES} queries, {found['threads']} threads\n")
    print("| what | s, processor | s, clock |\n|---|---|---|")
    for row in found["rows"]:
        print(f"| {row['what']} | {row['processor']:.2f} | {row['clock']:.2f} |")
