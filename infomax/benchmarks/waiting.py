"""What waiting threads cost: a training step and estimates, by how OpenMP waits, beside busy processes or alone."""

import contextlib
import json as _json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from infomax import errors
from infomax.benchmarks.scores import beside
from infomax.errors import UserError

# What decides it is read once, when PyTorch is loaded, so that each form is a process of its own.
DECIDES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
FORMS = {
    "spin": {"GOMP_SPINCOUNT": "300000"},  # what GNU's OpenMP does where nothing is said
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},  # infomax's own choice (infomax/__init__.py)
    "one thread": {"OMP_NUM_THREADS": "1"},
}
TASKS = {
    "training step, 256 pairs": "caching.step_of('resnet10_tiny', 256, None, 28, 'cpu')",
    "estimate, 2,000 pairs of 3 columns": "estimate(2000, 3)",
    "estimate, 8,000 pairs of 8 columns": "estimate(8000, 8)",
}
WORKER = """
import sys, time
import infomax as im
import torch
from infomax.benchmarks import caching

def estimate(n, d):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, d, generator=generator)
    y = x.abs() + noise / 2  # no closed form has it, so that a critic is trained
    return lambda: im.estimate(x, y)

task = {task}
for _ in sys.stdin:  # a line asks for one more
    began, used = time.perf_counter(), time.process_time()
    task()
    print(time.perf_counter() - began, time.process_time() - used, flush=True)
"""


def waiting(names: tuple[str, ...], rounds: int, busy: int) -> list[dict[str, Any]]:
    """For each task and form: median seconds and processor seconds, and how many times as fast as spinning it is.

    names: of TASKS. rounds: that are counted, each form in turn, after one that is not. busy: other processes.
    """
    rows = []
    for name in names:
        with contextlib.ExitStack() as stack:
            workers = {form: stack.enter_context(_worker(TASKS[name], form)) for form in FORMS}
            for worker in workers.values():
                _once(worker)
            stack.enter_context(beside(busy))
            found = {form: [] for form in FORMS}
            for _ in range(rounds):
                for form, worker in workers.items():
                    found[form].append(_once(worker))
        for form, times in found.items():
            wall, used = zip(*times, strict=True)
            rows.append(
                {
                    "task": name, "form": form, "busy": busy,
                    "seconds": statistics.median(wall), "processor_seconds": statistics.median(used),
                    "times": statistics.median(spin / own for (spin, _), own in zip(found["spin"], wall, strict=True)),
                }
            )  # fmt: skip
    return rows


@contextlib.contextmanager
def _worker(task: str, form: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {name: value for name, value in os.environ.items() if name not in DECIDES} | FORMS[form]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER.format(task=task)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        try:
            yield worker
        finally:
            worker.kill()


def _once(worker: "subprocess.Popen[str]") -> tuple[float, float]:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise UserError("A worker of the benchmark ended; what it said stands above.")
    wall, used = map(float, line.split())
    return wall, used


def command(names: tuple[str, ...] = tuple(TASKS), rounds: int = 3, busy: int = 0, json: bool = False) -> None:
    """Whether threads that wait should spin or sleep: a training step and estimates, each way in turn.

    Args:
        names: Rows of the table.
        rounds: Of each form, in turn.
        busy: Processes that do nothing but count beside it, as on a shared machine.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(rounds=rounds)
    if busy < 0:
        raise UserError(f"busy is a number of processes, 0 or more, not {busy}.")
    if not names:
        raise UserError(f"Name a row at least: {', '.join(map(repr, TASKS))}.")
    for name in names:
        if name not in TASKS:
            raise UserError(f"There is no task {name!r}.{errors.nearest(name, TASKS)}")
    rows = waiting(names, rounds, busy)
    if json:
        print(_json.dumps({"rows": rows, "threads": torch.get_num_threads()}))
        return
    print("| task | beside it | threads that wait | s | processor s | times as fast as spinning |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['task']} | {row['busy']} | {row['form']} | {row['seconds']:.2f} | {row['processor_seconds']:.2f} |"
            f" {row['times']:.2f} |"
        )
