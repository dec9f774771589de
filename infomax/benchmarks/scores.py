"""Speed, memory and accuracy of the engine beside plain PyTorch and other libraries, alternating in one process."""

import contextlib
import ctypes
import functools
import gc
import json as _json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from infomax import critics, errors, objectives
from infomax.benchmarks import queues
from infomax.benchmarks.peers import LIBRARIES, PEERS, Peer
from infomax.errors import UserError
from infomax.scores import Scores, set_precision

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One objective at one size: medians of forward and backward, for features [n, dim] on both sides."""

    objective: str
    pairs: int
    dim: int
    ms: float
    naive_ms: float | None  # None where the plain form was left out: its matrices would not fit
    ratio: float | None  # median over rounds of naive / ours
    ratio_quartiles: list[float] | None
    mib: float | None  # peak memory beyond the inputs and before the run; None where it cannot be read
    naive_mib: float | None
    share: float  # of the measured rate of matrix products, counted as 3 products of n x n x dim
    error: float | None  # of the gradient, relative to that in float64; None above 8192 pairs
    naive_error: float | None
    others: dict[str, dict[str, float | None]]  # by library: ms, error


def scores(
    sizes: Sequence[int] = (128, 256, 512, 1024, 2048, 4096, 8192),
    dim: int = 128,
    names: Sequence[str] = tuple(PEERS),
    temperature: float = 0.1,
    seconds: float = 2.0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    precision: str = "fp32",
    compiled: bool = True,
) -> dict[str, Any]:
    """Times the engine and the plain forms, a round of one run each in turn, for about `seconds` a form and size.

    Gives {"machine", "rate" (FLOP/s of products), "rows"}. The plain form stops where its matrices pass half of the
    memory. precision: of the engine's products, "fp32" or "bf16"; the plain form stays float32. compiled: on a GPU,
    time the plain form under torch.compile too.
    Raises UserError: an unknown name.
    """
    for name in names:
        if name not in PEERS:
            raise UserError(f"There is no plain form of {name!r}; there are {', '.join(PEERS)}.")
    rate = product_rate(device, torch.bfloat16 if device == "cuda" and precision == "bf16" else torch.float32)
    rows = [
        _row(name, n, dim, temperature, seconds, device, precision, rate, compiled) for n in sizes for name in names
    ]
    machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"machine": machine, "torch": torch.__version__, "precision": precision, "temperature": temperature,
            "rate": rate, "load": os.getloadavg()[0], "rows": [asdict(row) for row in rows]}  # fmt: skip


def _row(
    name: str, n: int, dim: int, temperature: float, seconds: float, device: str, precision: str, rate: float,
    compiled: bool,
) -> Row:  # fmt: skip
    text, views, peer = PEERS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, generator=generator)
    y = x + torch.randn(n, dim, generator=generator)
    x, y = (t.to(device).requires_grad_() for t in (x, y))
    forms: dict[str, Run] = {"ours": lambda: ours(text, views, x, y, temperature, precision)}
    scores_held = (2 * n if views else n) ** 2
    if scores_held * 4 * 5 < _memory(device) / 2:
        forms["naive"] = lambda: plain(peer, x, y, temperature)
        if device == "cuda" and compiled:
            fused = torch.compile(peer)
            forms["torch.compile"] = lambda: plain(fused, x, y, temperature)
    for library, (of, make) in LIBRARIES.items():
        if of == name and n > 512 and (found := make(device)) is not None:
            form = functools.partial(plain, found, x, y, temperature)
            try:
                form()
            except Exception as error:  # another library's: its own limits end no comparison
                print(f"{library} cannot run {n} pairs of {dim}: {error}", file=sys.stderr)
            else:
                forms[library] = form
    times = alternate(forms, seconds * len(forms), device)
    medians = {form: statistics.median(found) * 1e3 for form, found in times.items()}
    ratios = [b / a for a, b in zip(times["ours"], times.get("naive", ()), strict=False)]
    peaks = {form: peak_mib(run, device) for form, run in forms.items() if form in ("ours", "naive")}
    errors: dict[str, float] = {}
    if n <= 8192:
        exact_x, exact_y = (t.detach().double().requires_grad_() for t in (x, y))
        exact = torch.cat(ours(text, views, exact_x, exact_y, temperature))
        errors = {form: _error(torch.cat(run()), exact) for form, run in forms.items()}  # type: ignore[arg-type]
    flop = 3 * 2 * scores_held * dim
    return Row(
        name, n, dim, medians["ours"], medians.get("naive"), statistics.median(ratios) if ratios else None,
        [_quantile(ratios, 0.25), _quantile(ratios, 0.75)] if ratios else None,
        peaks["ours"], peaks.get("naive"), flop / (medians["ours"] / 1e3) / rate,
        errors.get("ours"), errors.get("naive"),
        {form: {"ms": medians[form], "error": errors.get(form)} for form in forms if form not in ("ours", "naive")},
    )  # fmt: skip


def _quantile(numbers: Sequence[float], q: float) -> float:
    return float(torch.tensor(numbers, dtype=torch.float64).quantile(q))


def _error(found: Tensor, exact: Tensor) -> float:
    """Relative, of a gradient up to its sign: a loss descends what an objective ascends."""
    found = found.detach().double()
    return min(float((found - sign * exact).norm() / exact.norm()) for sign in (1, -1))


def ours(text: str, views: bool, x: Tensor, y: Tensor, temperature: float, precision: str = "fp32") -> list[Tensor]:
    """The gradient through the library, from features to inputs."""
    objective, critic = _objective(text), _critic(temperature)
    set_precision(precision)
    try:
        value = objective(Scores.of_views(critic, x, y) if views else Scores(critic, x, y))
        return list(torch.autograd.grad(value, [x, y]))
    finally:
        set_precision("fp32")


def plain(peer: Peer, x: Tensor, y: Tensor, temperature: float) -> list[Tensor]:
    """The gradient through a plain form."""
    loss = peer(F.normalize(x, dim=-1), F.normalize(y, dim=-1), temperature)
    return list(torch.autograd.grad(loss, [x, y]))


# Made once, as in training.
_objective = functools.cache(objectives.objective)
_critic = functools.cache(critics.Cosine)


def alternate(forms: dict[str, Run], seconds: float, device: str) -> dict[str, list[float]]:
    """Seconds of each run, forms in turn, so that a slow spell of the machine meets all of them."""
    for run in forms.values():
        run()
        run()
    times: dict[str, list[float]] = {form: [] for form in forms}
    began = time.perf_counter()
    while len(times["ours"]) < 3 or (time.perf_counter() - began < seconds and len(times["ours"]) < 2000):
        for form, run in forms.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times[form].append(time.perf_counter() - start)
    return times


@contextlib.contextmanager
def beside(busy: int) -> Iterator[None]:
    """So many other processes that keep a core busy each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def product_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a square product: the best of several, the machine's rate when it is left alone."""
    side = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    best = math.inf
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def peak_mib(run: Run, device: str) -> float | None:
    """Most memory that one run takes beyond what was held before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _status("VmRSS")
        run()
        return max(0.0, (_status("VmHWM") - before) / 1024)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _memory(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[1])
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable")), 8 * 2.0**30)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def table(found: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"{found['machine']}, torch {found['torch']}, products {found['precision']}, measured rate"
        f" {found['rate'] / 1e9:.0f} GFLOP/s, load {found['load']:.2f}",
        "",
        "| objective | N | d | ms | plain, ms | ratio [quartiles] | MiB | plain, MiB | share of the rate"
        " | error | plain's error | others |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for row in found["rows"]:
        ratio = "-"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.2f} [{row['ratio_quartiles'][0]:.2f}, {row['ratio_quartiles'][1]:.2f}]"
        others = "; ".join(f"{k} {v['ms']:.2f} ms, {number(v['error'], '.0e')}" for k, v in row["others"].items())
        lines.append(
            f"| {row['objective']} | {row['pairs']} | {row['dim']} | {row['ms']:.2f} | {number(row['naive_ms'], '.2f')}"
            f" | {ratio} | {number(row['mib'], '.0f')} | {number(row['naive_mib'], '.0f')}"
            f" | {100 * row['share']:.0f} % | {number(row['error'], '.0e')} | {number(row['naive_error'], '.0e')}"
            f" | {others or '-'} |"
        )
    if found.get("queue"):
        lines += queues.lines(found["queue"], found["queue_step"])
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Time and memory against N, both axes logarithmic: ours solid, the plain form dashed until it ran out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["objective"] for row in found["rows"]))
    for axis, (key, naive, label) in zip(
        axes,
        (("ms", "naive_ms", "forward + backward, ms"), ("mib", "naive_mib", "extra peak memory, MiB")),
        strict=True,
    ):
        for i, name in enumerate(names):
            rows = [row for row in found["rows"] if row["objective"] == name]
            for which, style in ((key, "-o"), (naive, "--x")):
                seen = [(row["pairs"], row[which]) for row in rows if row[which]]
                axis.plot(*zip(*seen, strict=True) if seen else ([], []), style, color=f"C{i}", markersize=4,
                          label=name if which == key else None)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="pairs N", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle("Scores engine (solid) and plain PyTorch (dashed)")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def command(
    pairs: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192),
    dim: int = 128,
    objective: tuple[str, ...] = tuple(PEERS),
    temperature: float = 0.1,
    seconds: float = 2.0,
    precision: str = "fp32",
    compiled: bool = True,
    threads: int | None = None,
    queue: int = 65_536,
    busy: int = 0,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Time, memory and accuracy of the scores engine beside plain PyTorch and other libraries, forward and backward.

    Args:
        pairs: Numbers of pairs N. The plain form is left out where its N x N matrices would not fit.
        dim: Of the features.
        objective: Rows of the table.
        temperature: Of the cosine critic.
        seconds: For each form and size.
        precision: Of the products of float32 features in the engine, fp32 or bf16; the plain form stays float32.
        compiled: Whether to time the plain form under torch.compile as well, on a GPU.
        threads: CPU threads. By default all cores.
        queue: Columns of a queue beside 256 pairs, for further rows: with it, without it, and plain; and for a training
            step of MoCo. 0 for none.
        busy: Processes that do nothing but count beside it, as on a shared machine.
        picture: Where to save time and memory against N, both axes logarithmic.
        json: Print one JSON object, and nothing else.
    """
    if busy < 0:
        raise UserError(f"busy is a number of processes, 0 or more, not {busy}.")
    errors.require_positive(dim=dim, temperature=temperature, threads=threads, **{"pairs": min(pairs, default=0)})
    if threads is not None:
        torch.set_num_threads(threads)
    with beside(busy):
        found = scores(pairs, dim, objective, temperature, seconds, precision=precision, compiled=compiled)
        if queue:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            found["queue"] = [
                asdict(row) for row in queues.queued(alternate, queue, 256, dim, temperature, seconds, device)
            ]
            found["queue_step"] = asdict(queues.trained(alternate, queue, 256, dim, temperature, seconds, device))
    if picture is not None:
        draw(found, picture)
    print(_json.dumps(found) if json else table(found))
