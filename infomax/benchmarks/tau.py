"""SMILE's trade-off: the larger tau, the smaller the bias of the clipped partition, and the larger its variance."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError

PARTITION, DEVIATION, BOUND, BATCH = 1.25, 3.0, 10.0, 64
TAUS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, math.inf)


def mean_at() -> float:
    """The mean m at which scores f ~ N(m, 3^2), cut to |f| < 10, have the partition E[e^f] = 1.25."""
    from scipy.optimize import brentq

    return float(brentq(lambda m: moments(m, math.inf)[0] - PARTITION, -15.0, 0.0))  # type: ignore[arg-type]


def moments(mean: float, tau: float) -> tuple[float, float]:
    """E and variance of e^clip(f, -tau, tau) over the cut normal of that mean: in closed form.

    For an interval (a, b) of f: E[e^(k f); a < f < b] = e^(k m + k^2 s^2 / 2) (Phi(b') - Phi(a')), ends shifted by
    k s^2.
    """
    from scipy.stats import norm

    def part(k: int, a: float, b: float) -> float:
        ends = [(end - mean - k * DEVIATION**2) / DEVIATION for end in (a, b)]
        return math.exp(k * mean + k**2 * DEVIATION**2 / 2) * float(norm.cdf(ends[1]) - norm.cdf(ends[0]))

    tau = min(tau, BOUND)
    first, second = (
        (math.exp(-k * tau) * part(0, -BOUND, -tau) + part(k, -tau, tau) + math.exp(k * tau) * part(0, tau, BOUND))
        / part(0, -BOUND, BOUND)
        for k in (1, 2)
    )
    return first, second - first**2


def trade_off(tau: float, repeats: int, seed: int) -> dict[str, float]:
    """Bias, variance and MSE of the mean of e^clip(f) over 64 scores (exact), and of its logarithm, by simulation.

    bound: of the variance, (e^tau - e^-tau)^2 / (4 * 64). (Song & Ermon, 2020)
    """
    mean = mean_at()
    rng = np.random.default_rng(seed)
    f = np.empty(0)
    while len(f) < repeats * BATCH:  # the cut leaves nearly all
        drawn = mean + DEVIATION * rng.standard_normal(repeats * BATCH)
        f = np.concatenate([f, drawn[np.abs(drawn) < BOUND]])
    clipped = np.exp(np.clip(f[: repeats * BATCH], -tau, tau)).reshape(repeats, BATCH).mean(1)
    first, variance = moments(mean, tau)
    log = np.log(clipped) - math.log(PARTITION)
    reach = min(tau, BOUND)
    return {
        "partition": first, "bias": first - PARTITION, "variance": variance / BATCH,
        "bound": (math.exp(reach) - math.exp(-reach)) ** 2 / (4 * BATCH),
        "mse": (first - PARTITION) ** 2 + variance / BATCH,
        "simulated bias": float(clipped.mean()) - PARTITION, "simulated variance": float(clipped.var()),
        "value bias": -float(log.mean()), "value variance": float(log.var()), "value mse": float((log**2).mean()),
    }  # fmt: skip


def command(
    tau: tuple[float, ...] = TAUS,
    repeats: int = 100_000,
    seed: int = 0,
    quick: bool = False,
    output: Path = Path("results/tau"),
    json: bool = False,
) -> None:
    """Bias and variance of SMILE's partition against tau: batches of 64 scores, |f| < 10, true partition 1.25.

    Args:
        tau: Points of the curve; inf clips nothing.
        repeats: Batches simulated.
        seed: Of the scores.
        quick: 5,000 batches.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    errors.require_positive(repeats=repeats)
    for t in tau:
        if not t > 0:
            raise UserError(f"--tau must be positive numbers, or inf, not {t!r}.")
    repeats = min(repeats, 5000) if quick else repeats

    def work(t: float) -> Any:
        return cells.at_once(lambda: {"found": trade_off(t, repeats, seed)})

    planned = [Cell({"experiment": "tau", "tau": t, "repeats": repeats, "seed": seed}, work(t)) for t in tau]
    results = cells.run(planned, output, not json)
    lines = [{"tau": f"{t:g}", **result["found"]} for t, result in zip(tau, results, strict=True)]
    protocol = (
        f"Scores of independent pairs f ~ N(m, {DEVIATION:g}^2) cut to |f| < {BOUND:g}, with m such that E[e^f] ="
        f" {PARTITION}; batches of {BATCH} independent scores. Partition: exact, and by {repeats} batches; value: minus"
        " its logarithm."
    )
    made = {"trade-off": lines}
    draw(lines, output / "tau.png")
    cells.report(cells.write_tables(output, "tau", protocol, made), made, output, json)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Squared bias, variance and their sum against tau: of the partition, and of the value that takes its logarithm."""
    _, axes, save = cells.figure(path, 1, 2, figsize=(9, 3.6))
    finite = [line for line in lines if math.isfinite(float(line["tau"]))]
    at = [float(line["tau"]) for line in finite]
    for axis, title, names in (
        (axes[0], "partition", ("bias", "variance", "mse")),
        (axes[1], "value, nats", ("value bias", "value variance", "value mse")),
    ):
        axis.plot(at, [line[names[0]] ** 2 for line in finite], "-o", markersize=3, label="bias squared")
        axis.plot(at, [line[names[1]] for line in finite], "-o", markersize=3, label="variance")
        axis.plot(at, [line[names[2]] for line in finite], "k-", label="mean squared error")
        axis.set(xlabel="tau", yscale="log", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(1e-4, 1e4)
    axes[0].plot(at, [line["bound"] for line in finite], ":", color="C1", label="bound on the variance")
    axes[0].legend(fontsize=7)
    save()
