"""Gradient caching: how large a contrastive batch fits, in which memory and time."""

import json as _json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from infomax import critics, encoders, errors, objectives
from infomax.models import InfoMax


def caching(
    encoder: str = "resnet10_tiny",
    microbatch: int = 128,
    times: int = 16,
    side: int = 28,
    repeats: int = 3,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> dict[str, Any]:
    """Peak memory beyond model and images, and time, of forward and backward: a batch of `microbatch` encoded at
    once, and `times` that batch encoded at once and in micro-batches. repeats: steps that are timed; of 0 `seconds` is
    None."""
    rows = []
    for pairs, size in ((microbatch, None), (times * microbatch, None), (times * microbatch, microbatch)):
        case = encoder, pairs, size, side, device
        spent = seconds(step_of(*case), repeats, device) if repeats else None
        rows.append({"pairs": pairs, "microbatch": size, "seconds": spent, "mib": _peak_alone(*case)})
    return {"encoder": encoder, "side": side, "device": device, "threads": torch.get_num_threads(), "rows": rows}


def seconds(step: Callable[[], None], repeats: int, device: str) -> float:
    """The median time of `repeats` steps, after one that is not counted."""
    step()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def step_of(encoder: str, pairs: int, microbatch: int | None, side: int, device: str) -> Callable[[], None]:
    """Forward and backward of `pairs` pairs of noise."""
    torch.manual_seed(0)
    body = encoders.encoder(encoder, in_chans=1)
    projector = encoders.Projector(encoders.features_of(body), hidden=256, out=64)
    model = InfoMax(body, projector, critics.Cosine(0.2), objectives.SMILE(), microbatch=microbatch).to(device)
    views = torch.randn(2, pairs, 1, side, side, device=device)

    def step() -> None:
        model.zero_grad()
        (-model(views[0], views[1])).backward()

    return step


def _peak_alone(*case: Any) -> float | None:
    """In a process of its own, where freed memory is returned at once: glibc keeps it, the more the more sizes of
    blocks there are, and it would count as memory in use."""
    program = f"""
from infomax.benchmarks.caching import step_of
from infomax.benchmarks.scores import peak_mib
step = step_of{case!r}
step()
print(peak_mib(step, {case[-1]!r}))
"""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return None if run.stdout.strip() == "None" else float(run.stdout)


def command(
    encoder: str = "resnet10_tiny", microbatch: int = 128, times: int = 16, side: int = 28, json: bool = False
) -> None:
    """Memory and time of a contrastive batch many times larger than what is encoded at once.

    Args:
        encoder: Any timm model, or a small-image variant of infomax's.
        microbatch: Pairs encoded at once.
        times: How many times that the large batch has.
        side: Of the square, grey images, in pixels.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(microbatch=microbatch, times=times, side=side)
    found = caching(encoder, microbatch, times, side)
    if json:
        print(_json.dumps(found))
        return
    print(f"{found['encoder']}, {side} x {side} images, {found['device']}, {found['threads']} threads\n")
    print("| pairs N | encoded at once | MiB beyond model and images | s a step |\n|---|---|---|---|")
    for row in found["rows"]:
        mib = "-" if row["mib"] is None else f"{row['mib']:.0f}"
        print(f"| {row['pairs']} | {row['microbatch'] or row['pairs']} | {mib} | {row['seconds']:.2f} |")
