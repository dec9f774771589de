"""infomax plan beside what steps take on this machine, and what it says of up to 1,024 GPUs, drawn."""

import json as _json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from infomax import critics, encoders, errors, objectives
from infomax.files import finite
from infomax.models import InfoMax, cost
from infomax.ui.plan import counted

WITHIN = 0.15


@dataclass(frozen=True)
class Case:
    """A step on one process: encoder, side of the images and their channels, pairs, pairs at once, projections."""

    encoder: str
    side: int
    channels: int
    pairs: int
    microbatch: int | None = None
    dim: int = 64


CASES = (
    Case("resnet10_tiny", 28, 1, 256),
    Case("resnet10_tiny", 28, 1, 512),
    Case("resnet10_tiny", 28, 1, 512, 64),
    Case("resnet10_tiny", 28, 1, 1024, 128, 128),
    Case("resnet18_small", 32, 3, 32),
    Case("resnet18_small", 32, 3, 64, 16),
    Case("resnet18", 64, 3, 64),
    Case("resnet50", 96, 3, 32),
    Case("vit_tiny_patch16_224", 96, 3, 64),
    Case("mobilenetv3_small_100", 64, 3, 128),
)
HIDDEN = 256
SMALL = (8, 32)  # pairs of the steps whose time is planned with
ROOM = 80.0  # GiB of a GPU on paper


def step_of(case: Case, scores: bool = True) -> Callable[[], None]:
    """A whole step, optimiser's too; without scores the mean of projections is maximised."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": case.side} if case.encoder.startswith("vit") else {}
    body = encoders.encoder(case.encoder, in_chans=case.channels, **options)
    projector = encoders.Projector(encoders.features_of(body), hidden=HIDDEN, out=case.dim)
    model = InfoMax(body, projector, critics.Cosine(0.2), objectives.InfoNCE(), microbatch=case.microbatch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        views = torch.randn(2, case.pairs, case.channels, case.side, case.side)
        if scores:
            (-model(list(views))).backward()
        else:
            projector(body(views.flatten(0, 1))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(case: Case, seconds: float = 2.0) -> dict[str, float]:
    """Bytes beyond weights and the optimiser's state, and processor seconds of a step: the least of a few.

    Bytes are NaN where the system has no high-water mark that starts anew, as all but Linux.
    """
    from infomax.benchmarks.scores import peak_mib

    step = step_of(case)
    step()  # makes the optimiser's state
    peak = peak_mib(step, "cpu")
    return {"bytes": float("nan") if peak is None else peak * 2**20, "seconds": _least(step, seconds)}


def _least(step: Callable[[], None], seconds: float) -> float:
    """Processor seconds, since other work on this machine is not the step's."""
    spent: list[float] = []
    while len(spent) < 2 or (sum(spent) < seconds and len(spent) < 20):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return min(spent)


def rates(case: Case) -> tuple[float, float]:
    """Operations a second of this encoder on this machine, and seconds that every step takes: by two small steps."""
    count = counted(case.encoder, case.channels, case.side, HIDDEN, case.dim, False)
    spent = []
    for pairs in SMALL:
        step = step_of(replace(case, pairs=pairs, microbatch=None), scores=False)
        step()
        spent.append(_least(step, 1.0))
    rate = (count(SMALL[1]).both - count(SMALL[0]).both) / max(spent[1] - spent[0], 1e-6)
    return rate, max(0.0, spent[0] - count(SMALL[0]).both / rate)


def scores_rate(pairs: int = 2048, dim: int = 128) -> float:
    """Operations a second of the engine on this machine, as cost.seconds counts them."""
    from infomax.scores import Scores

    x, y = (torch.randn(pairs, dim, requires_grad=True) for _ in range(2))
    critic, objective = critics.Cosine(0.2), objectives.InfoNCE()

    def step() -> None:
        objective(Scores(critic, x, y)).backward()

    step()
    return cost.SCORE_PRODUCTS * 2 * pairs * pairs * dim / _least(step, 1.0)


def planned(case: Case, encoder_rate: float, every: float, score_rate: float) -> dict[str, float]:
    """What infomax plan says of the same, and the seconds that every step takes."""
    setting = cost.Setting(case.pairs, 1, case.dim, case.microbatch)
    encoder = counted(case.encoder, case.channels, case.side, HIDDEN, case.dim, False)(setting.at_once)
    image = 4 * case.channels * case.side**2
    by = cost.memory(setting, encoder, image)
    spent = cost.seconds(setting, encoder, cost.Rates(encoder_rate, score_rate))
    return {"bytes": sum(by.values()) - by["weights"] - by["optimiser"], "seconds": every + sum(spent.values())}


def compare() -> list[dict[str, Any]]:
    """Each case measured and planned."""
    score_rate, found = scores_rate(), []
    for case in CASES:
        seen = in_a_child(case)
        rate, every = seen.pop("rates")
        found.append({"case": asdict(case), "measured": seen, "planned": planned(case, rate, every, score_rate)})
    return found


def in_a_child(case: Case) -> dict[str, Any]:
    """What `measured` and `rates` say in a process of its own, where freed memory is returned at once.

    Raises UserError: the step cannot be made or ends its process, with the last line of what that said.
    """
    program = (
        "import json, torch; torch.set_num_threads(1)\n"
        "from infomax.benchmarks.plan import Case, measured, rates\n"
        f"case = {case!r}\nprint(json.dumps({{**measured(case), 'rates': rates(case)}}))"
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"its process ended with {run.returncode}"])[-1]
        last = last.removeprefix("infomax.errors.UserError: ")
        raise errors.UserError(f"A step of {case.encoder} with {case.pairs} pairs could not be measured: {last}")
    return _json.loads(run.stdout)


# ------------------------------------------------------------------------------------------------------- on paper


def on_paper(own: int = 2048, microbatch: int = 256, dim: int = 128) -> dict[str, Any]:
    """A step of ResNet-50 in bf16, `own` pairs a GPU, gathered and in a ring, on 8 to 1,024 GPUs."""
    encoder = counted("resnet50", 3, 224, 2048, dim, True)(microbatch)
    rows, left = [], 0.0
    for gpus in (8, 16, 32, 64, 128, 256, 512, 1024):
        row: dict[str, Any] = {"gpus": gpus, "pairs": gpus * own}
        for ring in (False, True):
            setting = cost.Setting(gpus * own, gpus, dim, microbatch, ring)
            by = cost.memory(setting, encoder, 3 * 224 * 224 * 2)
            left = ROOM - (sum(by.values()) - by["scores"]) / 2**30
            row["ring" if ring else "gather"] = {
                "seconds": cost.seconds(setting, encoder, cost.Rates()), "scores_gib": by["scores"] / 2**30
            }  # fmt: skip
        rows.append(row)
    return {
        "own": own,
        "microbatch": microbatch,
        "dim": dim,
        "left_gib": left,
        "rates": asdict(cost.Rates()),
        "rows": rows,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Two panels: seconds a step by what takes them, and GiB of scores, against the number of GPUs."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    times, room = figure.subplots(1, 2)
    gpus = [row["gpus"] for row in found["rows"]]

    def of(way: str, *names: str) -> list[float]:
        return [sum(row[way]["seconds"][name] for name in names) for row in found["rows"]]

    times.plot(gpus, of("gather", "encoder"), "k-", label="encoder")
    for way, colour in (("gather", "tab:blue"), ("ring", "tab:orange")):
        times.plot(gpus, of(way, "scores"), color=colour, marker="o", label=f"scores, {way}")
        times.plot(gpus, of(way, "features"), color=colour, linestyle="--", marker="o", label=f"exchange, {way}")
        room.plot(gpus, [row[way]["scores_gib"] for row in found["rows"]], color=colour, marker="o", label=way)
    room.axhline(found["left_gib"], color="k", label=f"what {ROOM:.0f} GiB leave beside the encoder")
    times.set(ylabel="seconds a step", title="Time")
    room.set(ylabel="GiB a GPU for features and scores", title="Memory")
    for axes in (times, room):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(gpus, [f"{n:,}" for n in gpus])
        axes.set_xlabel(f"GPUs, {found['own']} pairs each, {found['dim']} numbers a projection")
        axes.grid(alpha=0.3)
    times.legend(fontsize=8, loc="lower right")
    room.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.93))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    path.write_bytes(buffer.getvalue())


def command(figure: Path | None = None, json: bool = False) -> None:
    """Memory and time of ten kinds of step on this CPU beside what infomax plan says of them (minutes, one thread).

    Args:
        figure: Instead, draw a step on 8 to 1,024 GPUs on paper into this file, NAME.png, and print its table.
        json: Print one JSON object, and nothing else.
    """
    if figure is not None:
        if figure.suffix != ".png" or not figure.parent.is_dir():
            raise errors.UserError(f"--figure {figure} is no place for a picture: NAME.png, in a folder that exists.")
        found = on_paper()
        draw(found, figure)
        print(_json.dumps(found)) if json else _show_paper(found)
        return
    torch.set_num_threads(1)
    rows = compare()
    if json:
        print(_json.dumps(finite({"rows": rows})))
        return
    print("| encoder | images | pairs | at once | MiB planned | measured | off | s planned | measured | off |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(line_of(row))


def line_of(row: dict[str, Any]) -> str:
    """A line of the table for a case of `compare`: '-' for what was not measured."""
    case, plan, seen = Case(**row["case"]), row["planned"], row["measured"]

    def beside(name: str, unit: int, digits: int) -> str:
        if not math.isfinite(seen[name]):
            return f"{plan[name] / unit:.{digits}f} | - | -"
        off = plan[name] / seen[name] - 1
        missed = "" if abs(off) <= WITHIN else " (missed)"
        return f"{plan[name] / unit:.{digits}f} | {seen[name] / unit:.{digits}f} | {100 * off:+.0f} %{missed}"

    return (
        f"| {case.encoder} | {case.channels} x {case.side} x {case.side} | {case.pairs} |"
        f" {case.microbatch or case.pairs} | {beside('bytes', 2**20, 0)} | {beside('seconds', 1, 2)} |"
    )


def _show_paper(found: dict[str, Any]) -> None:
    print("| GPUs | N | encoder, s | scores, s: gather / ring | exchange, s: gather / ring | GiB: gather / ring |")
    print("|---|---|---|---|---|---|")
    for row in found["rows"]:
        ways = [row["gather"], row["ring"]]
        cells = [" / ".join(f"{way['seconds'][name]:.3f}" for way in ways) for name in ("scores", "features")]
        print(
            f"| {row['gpus']:,} | {row['pairs']:,} | {ways[0]['seconds']['encoder']:.2f} | {cells[0]} | {cells[1]} |"
            f" {' / '.join(format(way['scores_gib'], '.2f') for way in ways)} |"
        )
