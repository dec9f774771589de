"""The staircase: estimators follow an MI that rises in steps, on pairs that come fresh with every step.

The protocol is Song & Ermon's (2020): 20 dimensions; 2, 4, 6, 8, 10 nats, 4,000 steps each; 64 fresh pairs a step; Adam
at 5e-4; separable critics 20-256-256-256-32 or joint ones 40-256-256-256-1. A value is read before the step on its
batch, so no critic has seen the pairs that it reports on.
"""

import functools
import itertools
import json as _json
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infomax import critics, errors, launch, objectives
from infomax.benchmarks import cells, tasks
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.stacked import Matrix, Stack, matrices
from infomax.benchmarks.stream import Copula, Flow, Follower, Stream
from infomax.errors import UserError, nearest
from infomax.objectives import Objective

LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)
D, BATCH, RATE = 20, 64, 5e-4
TASKS: dict[str, Callable[[int, float], tasks.Task]] = {
    "gaussian": tasks.gaussian, "cubic": tasks.cubic, "rotated cubic": tasks.rotated_cubic, "spiral": tasks.spirals,
    "student": tasks.student, "mixture of channels": tasks.mixed_channels,
}  # fmt: skip
DEFAULT = "default"
# Rows that are no critics of the stack, and learn from the stream each by itself: benchmarks/stream.py.
STREAMS: dict[str, Callable[[], Follower]] = {
    DEFAULT: lambda: Stream(D), "Gaussian copula": Copula, "BarberAgakov(density='MAF')": lambda: Flow(D, RATE),
}  # fmt: skip
SHOWN = ("InfoNCE(symmetric=False)", "NWJ()", "JS()", "SMILE(tau=1.0)", "SMILE(tau=5.0)", "SMILE(tau=inf)", *STREAMS)

# Bias and MSE at 10 nats of separable critics, one seed, last half of each step, on Gaussian and then on cubic pairs:
# what plain PyTorch forms gave under the same protocol.
REFERENCE: dict[str, tuple[float, float, float, float]] = {
    "InfoNCE(symmetric=False)": (-5.94, 35.3, -6.02, 36.3), "NWJ()": (-6.04, 39.0, -7.61, 58.3),
    "DV()": (-3.16, 32.8, -4.93, 26.0), "SMILE(tau=1.0)": (-0.17, 0.61, -0.93, 1.47),
    "SMILE(tau=5.0)": (-0.01, 0.51, -1.09, 1.68), "SMILE(tau=inf)": (-1.57, 4.85, -3.46, 17.7),
    "JSPlugin()": (-1.09, 1.78, -1.81, 3.9), "Anchor(nu=1.0)": (-0.35, 0.85, -1.19, 2.05),
}  # fmt: skip


def rows() -> list[Objective]:
    """Every objective of the registry, SMILE at the paper's three tau."""
    found = [kind() for name, kind in objectives.registry.items() if name != "smile"]
    return found + [objectives.SMILE(tau) for tau in (1.0, 5.0, math.inf)]


def trainings(wanted: Sequence[Objective]) -> dict[str, list[Objective]]:
    """Rows by what trains their critic: those of one training read one critic's scores."""
    found: dict[str, list[Objective]] = {}
    for row in wanted:
        found.setdefault(row.trained_by, []).append(row)
    return found


def stream(task: str, level: float, steps: int, seed: int, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 64 fresh pairs: x, y [64, 20] float32. Keyed by seed and level: a resumed run draws the same."""
    rng_seed = [seed, sorted(TASKS).index(task), round(1000 * level)]
    x, y = TASKS[task](D, level).sample(steps * BATCH, rng_seed)
    x, y = (torch.from_numpy(side).float().to(device) for side in (x, y))
    return zip(x.split(BATCH), y.split(BATCH), strict=True)


def _critics(kind: str, number: int, seed: int) -> list[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "joint":
            return [critics.Concat(D, D, layers=3) for _ in range(number)]
        return [critics.Separable(D, D, layers=3) for _ in range(number)]


def stacked_cells(folder: Path, names: Sequence[str], kind: str, steps: int, seed: int, device: str) -> list[Cell]:
    """A cell a level, which goes on from the state that the level before left.

    Separable critics: all trainings on all of the tasks `names` in one vectorised run. Joint ones, of which one fills a
    processor: a chain of cells a task and training, so that processes can share them.
    """
    if kind == "separable":
        return _chain(folder, names, kind, trainings(rows()), steps, seed, device)
    each = itertools.product(names, trainings(rows()).items())
    chains = [_chain(folder, [task], kind, dict([group]), steps, seed, device) for task, group in each]
    return list(itertools.chain.from_iterable(zip(*chains, strict=True)))  # low levels first


def _chain(
    folder: Path, names: Sequence[str], kind: str, groups: dict[str, list[Objective]], steps: int, seed: int,
    device: str,
) -> list[Cell]:  # fmt: skip
    shown = [row for group in groups.values() for row in group]
    shared = {"experiment": "staircase", "tasks": list(names), "critic": kind, "steps": steps, "seed": seed}
    keys = [{**shared, "level": level, "rows": [repr(r) for r in shown]} for level in LEVELS]

    def work(number: int) -> Generator[float, None, dict[str, Any]]:
        made = [c.to(device) for c in _critics(kind, len(groups) * len(names), seed)]
        goals = [group[0] for _ in names for group in groups.values()]
        stack: Any = Joint(made, goals) if kind == "joint" else Stack(made, goals, RATE)
        if number:
            before = cells.finished(folder, keys[number - 1])
            assert before is not None
            stack.load({name.removeprefix("state."): t for name, t in before.items() if name.startswith("state.")})
        # On the device, as bringing each number home would make it wait at every step.
        read = {f"{task}|{row!r}": torch.empty(steps, device=device) for task in names for row in shown}
        batches = zip(*(stream(task, LEVELS[number], steps, seed, device) for task in names), strict=True)
        for step, batch in enumerate(batches):
            x, y = (torch.stack(side).repeat_interleave(len(groups), 0) for side in zip(*batch, strict=True))
            found = stack.read(x, y)
            with torch.no_grad():
                for i, (task, group) in enumerate(itertools.product(names, groups.values())):
                    for row in group:
                        # A row with parameters of its own is read by those that were trained.
                        reader = stack.objectives[i] if row is group[0] else row
                        read[f"{task}|{row!r}"][step] = reader.estimate(found[i])
            stack.learn()
            if step % 50 == 0:
                yield step / steps
        return {name: t.cpu() for name, t in (read | {f"state.{k}": t for k, t in stack.state().items()}).items()}

    return [
        Cell(key, lambda number=number: work(number), keys[number - 1] if number else None)
        for number, key in enumerate(keys)
    ]


def stream_cell(name: str, row: str, steps: int, seed: int) -> Cell:
    """A row of STREAMS on all levels of one task."""
    key = {
        "experiment": "staircase",
        "row": row,
        "task": name,
        "levels": list(LEVELS),
        "steps": steps,
        "seed": seed,
    }

    def work() -> Generator[float, None, dict[str, Any]]:
        values: list[float] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = STREAMS[row]()
            for level in LEVELS:
                for x, y in stream(name, level, steps, seed):
                    values.append(learner.read(x, y))
                    learner.learn(x, y)
                    if len(values) % 50 == 0:
                        yield len(values) / (steps * len(LEVELS))
        return {"values": torch.tensor(values)}

    return Cell(key, work)


class Joint:
    """Joint critics, in the shape of a Stack: one after another, as each step of one fills a processor."""

    def __init__(self, made: Sequence[nn.Module], goals: Sequence[Objective]):
        device = next(made[0].parameters()).device
        pairs = (nn.ModuleList([c, deepcopy(o).to(device)]) for c, o in zip(made, goals, strict=True))
        self.modules = nn.ModuleList(pairs).train()
        self.objectives: list[Any] = [pair[1] for pair in self.modules]  # type: ignore[index]
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=RATE, fused=True)

    def read(self, x: Tensor, y: Tensor) -> list[Matrix]:
        self.graph = [pair[0](a, b) for pair, a, b in zip(self.modules, x, y, strict=True)]  # type: ignore[index]
        return matrices(torch.stack(self.graph).detach())

    def learn(self) -> None:
        self.optimizer.zero_grad()
        for s, goal in zip(self.graph, self.objectives, strict=True):
            (-goal.surrogate(matrices(s[None])[0])).backward()
        self.graph = []
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        found = {f"module.{k}": t for k, t in self.modules.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            found |= {f"adam.{i}.{name}": t for name, t in state.items()}
        return {name: t.clone() for name, t in found.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.modules.load_state_dict(
            {k.removeprefix("module."): t for k, t in state.items() if k.startswith("module.")}
        )
        held = self.optimizer.state_dict()
        number = len(self.optimizer.param_groups[0]["params"])
        names = ("step", "exp_avg", "exp_avg_sq")
        held["state"] = {i: {name: state[f"adam.{i}.{name}"] for name in names} for i in range(number)}
        self.optimizer.load_state_dict(held)


def staircase(
    folder: Path, names: Sequence[str], kinds: Sequence[str], steps: int, joint_steps: int, seed: int, device: str,
    shown: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Every row's values, "task|critic|row" -> [levels, steps]; pairs of tasks share a vectorised run."""
    found: dict[str, Tensor] = {}
    planned: list[tuple[Cell, Callable[[dict[str, Any]], None]]] = []

    def into(key: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
        def put(result: dict[str, Any]) -> None:
            for task, row in itertools.product(key["tasks"], key["rows"]):
                of = f"{task}|{key['critic']}|{row}"
                at = found.setdefault(of, torch.full((len(LEVELS), key["steps"]), math.nan))
                at[LEVELS.index(key["level"])] = result[f"{task}|{row}"]

        return put

    for kind in kinds:
        length = joint_steps if kind == "joint" else steps
        # Joint critics: the paper's two tasks, since each takes some fifty times a separable one's work.
        wanted = [name for name in names if kind == "separable" or name in ("gaussian", "cubic")]
        for together in _pairs(wanted) if kind == "separable" else [wanted]:
            chain = stacked_cells(folder, together, kind, length, seed, device)
            planned += [(cell, into(cell.key)) for cell in chain]
    for name, row in itertools.product(names, STREAMS if kinds else (DEFAULT,)):
        planned.append((stream_cell(name, row, steps, seed), functools.partial(_into_row, found, name, row)))
    for (_, put), result in zip(planned, cells.run([cell for cell, _ in planned], folder, shown), strict=True):
        put(result)
    return found


def _into_row(found: dict[str, Tensor], name: str, row: str, result: dict[str, Any]) -> None:
    found[f"{name}|separable|{row}"] = result["values"].reshape(len(LEVELS), -1)


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(names[i : i + 2]) for i in range(0, len(names), 2))


def error_of(values: Tensor, truth: float) -> tuple[float, float, float]:
    """Bias, variance and mean squared error of the values [steps] of one level, over its last half."""
    last = values[len(values) // 2 :].double()
    return float(last.mean() - truth), float(last.var(correction=0)), float((last - truth).square().mean())


def tables(found: dict[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    """A table a task and kind of critic: bias at every level, and variance and MSE at the highest."""
    made: dict[str, list[dict[str, Any]]] = {}
    for key, values in found.items():
        task, kind, row = key.split("|")
        each = [error_of(values[i], level) for i, level in enumerate(LEVELS)]
        line: dict[str, Any] = {"row": row}
        line |= {f"bias at {level:g}": bias for level, (bias, _, _) in zip(LEVELS, each, strict=True)}
        line |= {
            "variance at 10": each[-1][1],
            "MSE at 2": each[0][2],
            "MSE at 6": each[2][2],
            "MSE at 10": each[-1][2],
        }
        if kind == "separable" and task in ("gaussian", "cubic"):
            at = 0 if task == "gaussian" else 2
            reference = REFERENCE.get(row)
            line["reference: bias, MSE at 10"] = (
                "-" if reference is None else f"{reference[at]:.2f}, {reference[at + 1]:.2f}"
            )
        made.setdefault(f"{task}, {kind}", []).append(line)
    for lines in made.values():
        lines.sort(key=lambda line: math.inf if math.isnan(line["MSE at 10"]) else line["MSE at 10"])
    return made


def draw(found: dict[str, Tensor], path: Path) -> None:
    """The paper's figure: a column a row, a line a task and critic; raw, smoothed (span 200), truth, log 64 dashed.

    Rows that have no such critic stand in their task's line of separable ones, or where there is none, of joint ones.
    """
    of = [key.split("|") for key in found]
    critics = {task: list(dict.fromkeys(k for t, k, row in of if t == task and row not in STREAMS)) for task, *_ in of}
    lines = [(task, kind) for task, own in critics.items() for kind in own or [""]]
    shape = (len(lines), len(SHOWN))
    _, axes, save = cells.figure(path, *shape, figsize=(2 * shape[1], 1.7 * shape[0] + 0.4), squeeze=False,
                                 sharex=True, sharey=True)  # fmt: skip
    for axis, row in zip(axes[0], SHOWN, strict=True):
        axis.set_title(row.replace("symmetric=False", ""), fontsize=8)
    for (task, kind), line in zip(lines, axes, strict=True):
        stream_line = "separable" if "separable" in critics[task] else kind
        for row, axis in zip(SHOWN, line, strict=True):
            values = found.get(f"{task}|{'separable' if row in STREAMS else kind}|{row}")
            if values is None or (row in STREAMS and kind != stream_line):
                axis.spines[:].set_visible(False)
                axis.tick_params(left=False, labelleft=False)
                continue
            flat = values.flatten()
            truth = torch.tensor(LEVELS).repeat_interleave(values.shape[1])
            thin = max(1, len(flat) // 2000)
            steps = torch.arange(len(flat)) / len(flat)  # of the whole, as a line may have rows of more steps
            axis.plot(steps[::thin], flat.clamp(-5, 20)[::thin], color="C0", alpha=0.3, linewidth=0.4)
            drawn = smoothed(flat).masked_fill(flat.isnan(), math.nan)  # levels without values stay blank
            axis.plot(steps[::thin], drawn[::thin], color="C0", linewidth=1)
            axis.plot(steps[::thin], truth[::thin], color="k", linewidth=0.8)
            axis.axhline(math.log(BATCH), color="k", linewidth=0.6, linestyle="--")
            axis.set(ylim=(-0.5, 12.5), xticks=[])
        line[0].set_ylabel(f"{task}\n{kind}{', ' if kind else ''}nats", fontsize=7)
    save()


def draw_errors(found: dict[str, Tensor], path: Path) -> None:
    """The paper's other figure: bias, variance and mean squared error at each MI, a line a row."""
    of = [key.split("|") for key in found]
    lines = list(dict.fromkeys((task, kind) for task, kind, _ in of))
    figure, axes, save = cells.figure(
        path, len(lines), 3, figsize=(12, 2.6 * len(lines) + 0.4), squeeze=False, sharex=True
    )
    named: dict[str, Any] = {}
    for (task, kind), line in zip(lines, axes, strict=True):
        for row in SHOWN:
            values = found.get(f"{task}|{kind}|{row}")
            if values is None:
                continue
            each = [error_of(values[k], level) for k, level in enumerate(LEVELS)]
            for axis, of_levels in zip(line, zip(*each, strict=True), strict=True):
                (named[row.replace("symmetric=False", "")],) = axis.plot(
                    LEVELS, of_levels, "-o", markersize=3, linewidth=1, color=f"C{SHOWN.index(row)}"
                )
        for axis, what in zip(line, ("bias, nats", "variance, nats²", "mean squared error, nats²"), strict=True):
            axis.set(xlabel="true MI, nats", ylabel=what, xticks=LEVELS)
            if axis is line[0]:
                axis.axhline(0, color="k", linewidth=0.6)
                axis.set(title=f"{task}, {kind}", ylim=(-8, 3))
            elif any(value > 0 for drawn in axis.lines for value in drawn.get_ydata()):
                axis.set(yscale="log", ylim=(1e-3, 1e3))  # as JS's variance is that of e^(2 MI)
    figure.legend(named.values(), named.keys(), loc="outside right upper", fontsize=7)
    save()


def smoothed(values: Tensor, span: int = 200) -> Tensor:
    """The exponential moving average of a span, its weights summing to one; what is not finite is left out."""
    from scipy.signal import lfilter

    alpha = 2 / (span + 1)
    good = values.isfinite().double()
    top, bottom = (
        lfilter([alpha], [1, -(1 - alpha)], series.double().numpy()) for series in (values.nan_to_num(0, 0, 0), good)
    )
    return torch.from_numpy(np.asarray(top) / np.asarray(bottom).clip(min=1e-300))


# Speed ---------------------------------------------------------------------------------------------------------------


def one_at_a_time(row: str, steps: int, batches: Sequence[tuple[Tensor, Tensor]], device: str) -> Callable[[], None]:
    """A plain training of one row as it is usually written: nn.Linear, autograd, one Adam, one critic."""

    def mlp() -> nn.Sequential:
        sizes = (D, 256, 256, 256, 32)
        body = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*body[:-1]).to(device)

    g, h = mlp(), mlp()
    optimizer = torch.optim.Adam([*g.parameters(), *h.parameters()], lr=RATE)
    tau = float(row.partition("tau=")[2].rstrip(")")) if "tau" in row else math.inf

    def off_logmeanexp(s: Tensor) -> Tensor:
        n = len(s)
        return (s - torch.diag(torch.full((n,), math.inf, device=s.device))).logsumexp((0, 1)) - math.log(n * (n - 1))

    def js(s: Tensor) -> Tensor:
        n, positive = len(s), s.diagonal()
        return -F.softplus(-positive).mean() - (F.softplus(s).sum() - F.softplus(positive).sum()) / (n * (n - 1))

    def value(s: Tensor) -> Tensor:
        n, positive = len(s), s.diagonal()
        if row.startswith("InfoNCE"):
            return (positive - s.logsumexp(1)).mean() + math.log(n)
        if row.startswith(("DV", "MINE")):
            return positive.mean() - off_logmeanexp(s)
        if row.startswith("NWJ"):
            return 1 + positive.mean() - off_logmeanexp(s).exp()
        bound = js(s)
        with torch.no_grad():
            if row.startswith("SMILE"):
                read = positive.mean() - off_logmeanexp(s.clamp(-tau, tau))
            else:
                read = 1 + positive.mean() - off_logmeanexp(s).exp()
        return bound + (read - bound).detach()

    def train() -> None:
        for x, y in batches[:steps]:
            optimizer.zero_grad()
            found = value(g(x) @ h(y).T)
            (-found).backward()
            optimizer.step()
            found.item()

    return train


PAPER = ("InfoNCE", "NWJ", "JS", "SMILE(tau=1)", "SMILE(tau=5)", "SMILE(tau=inf)")  # the paper's discriminative rows


def speed(steps: int = 20, rounds: int = 9, device: str = "cpu") -> dict[str, Any]:
    """Time of the paper's separable figure, six rows on two tasks: stacked, and one row at a time, alternating.

    Per distinct critic: the stack trains every objective of the registry once on both tasks. Medians over rounds of
    the rounds' ratios.
    """
    batches = list(stream("gaussian", 4.0, steps, 0, device))
    x, y = (torch.stack([b[i] for b in batches]) for i in (0, 1))
    plain = {name: one_at_a_time(name, steps, batches, device) for name in PAPER}

    def stack(wanted: Sequence[Objective]) -> tuple[int, Callable[[], None]]:
        groups = trainings(wanted)
        made = Stack([c.to(device) for c in _critics("separable", 2 * len(groups), 0)],
                     [g[0] for _ in range(2) for g in groups.values()], RATE)  # fmt: skip

        def train() -> None:
            for a, b in zip(x, y, strict=True):
                found = made.read(a.expand(made.k, -1, -1), b.expand(made.k, -1, -1))
                with torch.no_grad():
                    values = [
                        row.estimate(m) for m, g in zip(found, list(groups.values()) * 2, strict=True) for row in g
                    ]
                torch.stack(values).tolist()
                made.learn()

        return made.k, train

    few, paper = stack([objectives.objective(name) for name in PAPER])
    many, everything = stack(rows())
    forms = {**plain, "paper": paper, "everything": everything}
    took: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + 1):
        for name, form in forms.items():
            began = time.perf_counter()
            form()
            if device == "cuda":
                torch.cuda.synchronize()
            took[name].append((time.perf_counter() - began) / steps * 1e3)
    took = {name: times[1:] for name, times in took.items()}  # the first round warms up
    one = [statistics.fmean(times) for times in zip(*(took[name] for name in PAPER), strict=True)]

    def ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(top, bottom, strict=True))

    return {
        "threads": torch.get_num_threads(), "device": device, "critics": {"paper": few, "everything": many},
        "ms a step and critic, one at a time": statistics.median(one),
        "ms a step and critic, stacked, the paper's": statistics.median(took["paper"]) / few,
        "ms a step and critic, stacked, all": statistics.median(took["everything"]) / many,
        "faster per distinct critic, the paper's": ratio([t * few for t in one], took["paper"]),
        "faster per distinct critic, all": ratio([t * many for t in one], took["everything"]),
        "faster for the paper's figure": ratio([2 * len(PAPER) * t for t in one], took["paper"]),
        "faster for the figure of all rows": ratio([2 * len(rows()) * t for t in one], took["everything"]),
    }  # fmt: skip


def command(
    task: tuple[str, ...] = tuple(TASKS),
    critic: tuple[str, ...] = ("separable", "joint"),
    steps: int = 4000,
    joint_steps: int = 4000,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int | None = None,
    only_default: bool = False,
    quick: bool = False,
    speed: bool = False,
    output: Path = Path("results/staircase"),
    json: bool = False,
) -> None:
    """The paper's first experiment: every row follows an MI of 2, 4, 6, 8, 10 nats, read on fresh batches of 64.

    Args:
        task: What the pairs are: gaussian and cubic are the paper's, the others are no Gaussian copulas.
        critic: separable, joint or both; joint critics follow the paper's two tasks, and take hours without a GPU.
        steps: At each level, of separable critics and of the rows that learn from the stream by themselves.
        joint_steps: At each level, of joint critics.
        seed: Of critics and pairs.
        device: Where critics are trained. The rows that are no critics learn on the CPU.
        threads: CPU threads. By default all cores.
        only_default: Leave out all rows but the default estimator.
        quick: 100 steps at each level, separable critics on the paper's two tasks.
        speed: Only time the stacked training beside one row at a time.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_seed(seed)
    launch.require_device(device)
    errors.require_positive(steps=steps, joint_steps=joint_steps, threads=threads)
    for what, given, known in (("task", task, TASKS), ("critic", critic, ("separable", "joint"))):
        for name in given:
            if name not in known:
                raise UserError(f"Unknown {what} {name!r}.{nearest(name, list(known))} There are {', '.join(known)}.")
    if threads is not None:
        torch.set_num_threads(threads)
    if speed:
        measured = globals()["speed"](device=device)
        print(_json.dumps(measured) if json else "\n".join(f"{k}: {v}" for k, v in measured.items()))
        return
    if quick:
        task, critic, steps = tuple(t for t in task if t in ("gaussian", "cubic")) or task[:2], ("separable",), 100
    if only_default:
        critic = ()
    found = staircase(output, task, critic, steps, joint_steps, seed, device, not json)
    made = tables(found)
    protocol = (
        f"{D} dimensions, {BATCH} fresh pairs a step, Adam {RATE}, {steps} steps a level ({joint_steps} with joint "
        f"critics), seed {seed}; over the last half of each level, in nats."
    )
    draw(found, output / "staircase.png")
    draw_errors(found, output / "staircase_errors.png")
    cells.report(cells.write_tables(output, "staircase", protocol, made), made, output, json)
