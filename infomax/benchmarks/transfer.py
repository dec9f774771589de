"""Transfer entropy of linear-Gaussian series, where it is known in closed form, beside other packages'."""

import json as _json
import math
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.rivals import Rival, Rivals, Unavailable
from infomax.errors import UserError
from infomax.estimation.questions.lagged import transfer_entropy
from infomax.files import finite, write_json

_PINNED = (
    "infomeasure==0.6.3", "frites==0.4.6", "mne==1.13.2", "numpy==2.4.6", "scipy==1.17.1", "xarray==2026.9.0",
    "numba==0.68.1",
)  # fmt: skip
PEERS = {
    peer.name: peer
    for peer in (
        Rival("infomeasure, KSG", _PINNED, "transfer_entropy(x, y, approach='metric'), base e; 4 neighbours", limit=60),
        Rival(
            "frites, Gaussian copula", _PINNED, "conn_te of windows of two rows, max_delay=1; bits made nats", limit=60
        ),
        Rival("frites, covariances", _PINNED, "conn_covgc(method='gc', lag=1) of one trial; bits made nats", limit=60),
    )
}
BURN = 500  # rows before the first one that is kept


@dataclass(frozen=True)
class Var:
    """Two series: x keeps `x_keeps` of its row before, y keeps `y_keeps` of its own and takes `takes` of x's, both with
    normal noise of standard deviation 1."""

    x_keeps: float
    y_keeps: float
    takes: float

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """x [n] and y [n]."""
        noise = rng.normal(size=(n + BURN, 2))
        z = np.zeros_like(noise)
        for t in range(1, len(z)):
            x, y = z[t - 1]
            z[t] = self.x_keeps * x + noise[t, 0], self.y_keeps * y + self.takes * x + noise[t, 1]
        return z[BURN:, 0], z[BURN:, 1]

    @property
    def forth(self) -> float:
        """The transfer entropy from x to y of a history and a lag of 1, nats.

        y at t given its row before has the variance 1 + takes^2 Var(x | y), given x's too it has 1, and half of the
        logarithm of their ratio is the transfer entropy (Barnett et al., 2009). The reverse is 0.
        """
        from scipy.linalg import solve_discrete_lyapunov

        step = np.array([[self.x_keeps, 0.0], [self.takes, self.y_keeps]])
        c = np.asarray(solve_discrete_lyapunov(step, np.eye(2)))
        return 0.5 * math.log1p(self.takes**2 * float(c[0, 0] - c[0, 1] ** 2 / c[1, 1]))


KINDS = {"weak": Var(0.5, 0.5, 0.3), "strong": Var(0.8, 0.5, 1.0)}
WAYS = ("x to y", "y to x")


def _cell(kind: str, way: str, n: int, draw: int, peers: Rivals | None) -> Cell:
    var = KINDS[kind]

    def work() -> dict[str, Any]:
        x, y = var.sample(n, np.random.default_rng([draw, n, zlib.crc32(kind.encode())]))
        source, target = (x, y) if way == "x to y" else (y, x)
        began = time.process_time()
        found = transfer_entropy(source, target, blocks="auto", seed=draw)
        line: dict[str, Any] = {
            "kind": kind, "way": way, "n": n, "seed": draw, "true": var.forth if way == "x to y" else 0.0,
            "infomax": {"mi": found.mi, "seconds": time.process_time() - began, "interval": list(found.interval),
                        "trusted": found.trusted, "p_value": found.p_value},
        }  # fmt: skip
        if peers is None:
            return line
        for name, peer in PEERS.items():
            try:
                line[name] = peers.ask(peer, source[:, None], target[:, None])
            except Unavailable as error:
                line[name] = {"mi": None, "seconds": None, "error": str(error)}
        return line

    key = {"experiment": "transfer", "task": kind, "way": way, "n": n, "seed": draw, "peers": peers is not None}
    return Cell(key, cells.at_once(work))


def transfer(
    sizes: Sequence[int], draws: Sequence[int], folder: Path, environments: Path | None, shown: bool = False
) -> dict[str, Any]:
    """Every kind and way at every size and draw: {"cells"}, nats and seconds of processor time.

    environments: the folder of the other packages' environments; None: they are not asked. Raises UserError: a folder
    that cannot be written.
    """
    peers = None if environments is None else Rivals(environments)
    try:
        planned = [_cell(kind, way, n, draw, peers) for n in sizes for draw in draws for kind in KINDS for way in WAYS]
        return {"cells": cells.run(planned, folder, shown)}
    finally:
        if peers is not None:
            peers.close()


def table(found: dict[str, Any]) -> str:
    """A line for each kind, way and size: of each package the mean less the truth, its spread over draws, seconds."""
    names = ["infomax", *(name for name in PEERS if any(name in cell for cell in found["cells"]))]
    lines = [
        f"| series | way | true | rows | draws | {' | '.join(names)} | covered, trusted | s: {' / '.join(names)} |",
        "|---" * (len(names) + 7) + "|",
    ]
    for kind, way, n in dict.fromkeys((c["kind"], c["way"], c["n"]) for c in found["cells"]):
        some = [c for c in found["cells"] if (c["kind"], c["way"], c["n"]) == (kind, way, n)]
        true, own = some[0]["true"], [c["infomax"] for c in some]
        covered = sum(e["interval"][0] <= true <= e["interval"][1] for e in own)
        values = [_less([c[name]["mi"] for c in some if name in c], true) for name in names]
        seconds = [_median([c[name]["seconds"] for c in some if name in c]) for name in names]
        lines.append(
            f"| {kind} | {way} | {true:.3f} | {n} | {len(some)} | {' | '.join(values)} "
            f"| {covered}, {sum(e['trusted'] for e in own)} | {' / '.join(seconds)} |"
        )
    return "\n".join(lines)


def _less(values: Sequence[float | None], true: float) -> str:
    known = [value - true for value in values if value is not None]
    return "-" if not known else f"{np.mean(known):+.3f} ({np.std(known, ddof=1) if len(known) > 1 else 0:.3f})"


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.2g}" if known else "-"


def command(
    rows: tuple[int, ...] = (1000, 3000),
    draws: int = 5,
    output: Path = Path("results/transfer"),
    environments: Path | None = None,
    alone: bool = False,
    json: bool = False,
) -> None:
    """Transfer entropy of two linear-Gaussian series, known in closed form, beside infomeasure's and frites'.

    Both ways, with a history and a lag of 1 and blocks="auto". The other packages are installed, in pinned versions,
    into an environment of their own when first asked (minutes, half a gigabyte). Each finished estimate is kept in the
    folder: a run that was stopped goes on. The folder is given table.md and transfer.json too.

    Args:
        rows: Numbers of rows of the series.
        draws: How many samples of each.
        output: The results folder.
        environments: Where the other packages' environment is, or is made. By default in the results folder.
        alone: Ask no other package.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(draws=draws, rows=min(rows, default=0))
    if min(rows) < 100:
        raise UserError(f"--rows has {min(rows)}: give 100 rows or more.")
    place = None if alone else environments or output / "environments"
    found = transfer(rows, range(draws), output, place, shown=not json)
    found["load"] = os.getloadavg()[0]
    text = table(found)
    (output / "table.md").write_text(text + "\n")
    write_json(output / "transfer.json", finite(found))
    print(_json.dumps(finite(found), allow_nan=False) if json else text)
