"""Run by torchrun on 3 processes: objectives x critics x ids, and x layouts of sides, on 1, 2 and 3 processes against
one process: a cover in which every pair of these occurs, or with `--exhaustive` every combination.

Each leaves rankR.json in the folder it is given: how many comparisons it made, of which cases, and those that failed.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import dense
import torch
import torch.distributed as dist
from layouts import LAYOUTS
from torch.nn.parallel import DistributedDataParallel

from infomax import InfoMax, critics, objectives
from infomax.scores import Scores, Sides

N = 12  # divisible by 1, 2 and 3
IDS = {"distinct": None, "repeated": torch.tensor([0, 1, 2, 3, 0, 5, 6, 6, 6, 9, 10, 11])}
CRITICS = {
    "Cosine": lambda: critics.Cosine(temperature=0.5, bias=0.2, learn=True),
    "Bilinear": lambda: critics.Bilinear(4, 4),
    "Separable": lambda: critics.Separable(4, 4, hidden=6, out=3),
    "Concat": lambda: critics.Concat(4, 4, hidden=6),
}
TRAINED = ((False, None, False), (True, None, False), (False, 3, False), (True, None, True))  # ntxent, microbatch, ring
SHARED = ("extra", "many to one, extra of named samples", "one sample, extra of named samples")
EXHAUSTIVE = False
RINGS = (False, True)
made, failed, seen = 0, [], []
_whole = {}


class Case(NamedTuple):
    """What is compared: sides of `layout`, which `kind` of function compares (pairs, layouts or shares of a queue)."""

    kind: str
    layout: str
    critic: str
    text: str
    world: int
    ring: bool


def _critics_of(kind: str, name: str) -> list[str]:
    """Those that a layout is compared with; others would be more of the same."""
    if kind == "pairs":
        return list(CRITICS)
    layout, others = LAYOUTS[name], [critic for critic in CRITICS if critic != "Bilinear"]
    if kind == "shares":
        return others if name in SHARED else ["Cosine"]
    if layout.extra_ids is not None:
        return ["Concat" if "many" in name else "Cosine"]
    return [critic for critic in others if "Concat" not in critic or "repeated" not in name]


def _covered(text: int, layout: int, critic: int, turns: int, world: int, ring: bool) -> bool:
    """Whether a comparison is in the cover. Every objective meets every layout in a ring and gathered, once on 2 and
    once on 3 processes, with critics by turns: so every critic meets every objective, layout, number and path."""
    if (text + layout - critic) % turns:
        return False
    if world == 1:
        return (text + layout // turns + critic) % 3 == 0 and ring == bool((text // 3 + layout) % 2)
    return ring == bool((text // 4 + layout // 4 + world) % 2)


def cases(kind: str, world: int, exhaustive: bool) -> Iterator[Case]:
    names = list(IDS) if kind == "pairs" else [name for name in LAYOUTS if kind == "layouts" or LAYOUTS[name].k]
    taken = {name: [critic for critic in _critics_of(kind, name) if critic in CRITICS] for name in names}
    for name in names:
        alike = [other for other in names if taken[other] == taken[name]]
        for i, critic in enumerate(taken[name]):
            for j, text in enumerate(dense.FORMS):
                if text == "InfoNCE(symmetric=True)" and kind != "pairs" and LAYOUTS[name].k:
                    continue  # refused
                for ring in RINGS:
                    turns = min(len(alike), len(taken[name]))
                    if exhaustive or _covered(j, alike.index(name), i, turns, world, ring):
                        yield Case(kind, name, critic, text, world, ring)


def alone(case: Case, function, *arguments):
    """What one process finds, which depends neither on the number of processes nor on the path."""
    key = case[:4]
    if key not in _whole:
        _whole[key] = function(*arguments, local=True)
    return _whole[key]


def close(what, ours, theirs, tolerance=1e-12):
    global made
    made += 1
    error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-2))
    if not error < tolerance:
        failed.append({"what": what, "error": error, "rank": dist.get_rank()})


def value_and_gradients(text, critic, x, y, ids, **options):
    objective = objectives.objective(text).double()
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    sides = (torch.nn.functional.pad(t, (1, 1))[:, 1:-1] for t in (x, y))  # not contiguous
    value = objective(Scores(critic, *sides, ids, **options))
    inner = [*critic.parameters(), *objective.parameters()]
    found = torch.autograd.grad(value, [x, y, *inner], allow_unused=True)
    return value.detach(), found[0], found[1], [torch.zeros_like(p) if g is None else g
                                                for p, g in zip(inner, found[2:], strict=True)]  # fmt: skip


def _critics() -> dict:
    """The same on every process and for every number of them."""
    torch.manual_seed(0)
    return {name: make().double() for name, make in CRITICS.items()}


def compare(rank, world):
    made_of = _critics()
    x = torch.randn(N, 4, dtype=torch.float64)
    y = x + torch.randn(N, 4, dtype=torch.float64)
    own = slice(rank * N // world, (rank + 1) * N // world)
    for case in cases("pairs", world, EXHAUSTIVE):
        ids, critic = IDS[case.layout], made_of[case.critic]
        value, dx, dy, inner = alone(case, value_and_gradients, case.text, critic, x, y, ids)
        part = None if ids is None else ids[own]
        size = {"rows": 1 + rank, "columns": 5}
        mine = value_and_gradients(case.text, critic, x[own], y[own], part, ring=case.ring, **size)
        mean = mine[0].clone()
        dist.all_reduce(mean)
        close((*case, "value"), mean / world, value)
        # A process's gradient is that of the sum of values: DDP divides it by the number of processes.
        close((*case, "d x"), mine[1] / world, dx[own])
        close((*case, "d y"), mine[2] / world, dy[own])
        for ours, theirs in zip(mine[3], inner, strict=True):
            dist.all_reduce(ours)
            close((*case, "d parameters"), ours / world, theirs)
        seen.append(case)


def of_layout(text, critic, x, y, extra, layout, **options):
    """Value, and gradients of x, y and parameters; of a tensor that is both sides, of x alone."""
    objective = objectives.objective(text).double()
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    y = x if layout.alike else y
    value = objective(Scores.of(critic, layout.sides(x, y, extra), **options))
    inner = [*critic.parameters(), *objective.parameters()]
    found = torch.autograd.grad(value, [x, y, *inner], allow_unused=True)
    return [value.detach(), *(torch.zeros_like(t) if g is None else g
                              for t, g in zip((x, y, *inner), found, strict=True))]  # fmt: skip


def close_parts(case, mine, whole, rows, columns, world):
    """A process's part of what of_layout gives beside all of it on one process."""
    close((*case, "d x"), mine[1] / world, whole[1][rows])
    close((*case, "d y"), mine[2] / world, whole[2][columns])
    for ours, theirs in zip((mine[0], *mine[3:]), (whole[0], *whole[3:]), strict=True):
        dist.all_reduce(ours)
        close((*case, "value and d parameters"), ours / world, theirs)
    seen.append(case)


def compare_layouts(rank, world):
    made_of = _critics()
    for case in cases("layouts", world, EXHAUSTIVE):
        layout, critic = LAYOUTS[case.layout], made_of[case.critic]
        x, y, extra = layout.features(4)
        rows, columns, part = layout.shard(rank, world)
        whole = alone(case, of_layout, case.text, critic, x, y, extra, layout)
        size = {"rows": 3 + rank, "columns": 5}
        mine = of_layout(case.text, critic, x[rows], y[columns], extra, part, ring=case.ring, **size)
        close_parts(case, mine, whole, rows, columns, world)


def compare_shares(rank, world):
    """Extra columns of which each process holds a share, beside all of them on one process."""
    made_of = _critics()
    for case in cases("shares", world, EXHAUSTIVE):
        layout, critic = LAYOUTS[case.layout], made_of[case.critic]
        ids = None if layout.extra_ids is None else layout.extra_ids[torch.arange(6) % layout.k]
        layout = replace(layout, k=6, extra_ids=ids)
        x, y, extra = layout.features(4)
        rows, columns, part = layout.shard(rank, world)
        own = slice(rank * 6 // world, (rank + 1) * 6 // world)
        part = replace(part, k=6 // world, extra_ids=None if ids is None else ids[own], sharded=True)
        whole = alone(case, of_layout, case.text, critic, x, y, extra, layout)
        size = {"rows": 3 + rank, "columns": 2}
        mine = of_layout(case.text, critic, x[rows], y[columns], extra[own], part, ring=case.ring, **size)
        close_parts(case, mine, whole, rows, columns, world)


def train_a_step(rank, world):
    """DistributedDataParallel and SGD (Adam hides constant factors): the same weights as on one process."""
    for i, text in enumerate(dense.FORMS):
        for j, (ntxent, microbatch, ring) in enumerate(TRAINED):
            if not EXHAUSTIVE and ((i + j) % 4 if world == 1 else (i + j + world) % 2):
                continue  # every objective is trained in all four ways, on 2 processes or on 3
            torch.manual_seed(1)
            views = torch.randn(2, N, 5, dtype=torch.float64)
            encoder, projector = torch.nn.Linear(5, 6), torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(6, 4))
            model = InfoMax(
                encoder,
                projector,
                critics.Cosine(0.5, learn=True),
                objectives.objective(text),
                ntxent,
                microbatch,
                ring,
            ).double()
            single = InfoMax(*(_copy(m) for m in model.children()), ntxent)
            own = slice(rank * N // world, (rank + 1) * N // world)
            for module, batch, local in ((DistributedDataParallel(model), views[:, own], False), (single, views, True)):
                optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
                value = _alone(module, batch) if local else module(batch[0], batch[1])
                (-value).backward()
                optimizer.step()
            for (name, ours), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
                close(
                    f"SGD step {text} ntxent={ntxent} microbatch={microbatch} ring={ring} {name} on {world}",
                    ours.detach(),
                    theirs.detach(),
                )


def _copy(module):
    import copy

    return copy.deepcopy(module)


def _alone(model, views):
    """The forward of InfoMax on this process alone, written out."""
    z1, z2 = (model.projector(model.encoder(view)) for view in views)
    ids = torch.arange(len(z1))
    if model.ntxent:
        z1, z2, ids = torch.cat([z1, z2]), torch.cat([z2, z1]), torch.cat([ids, ids])
    return model.objective(Scores(model.critic, z1, z2, ids, local=True))


def uneven(rank, world):
    global made
    made += 1
    x = torch.randn(2 + rank, 4)
    try:
        Scores(critics.Cosine(), x, x)
    except ValueError as error:
        if "different numbers of pairs" in str(error):
            return
    failed.append({"what": "uneven shards were not refused", "rank": rank})


def uneven_columns(rank, world):
    global made
    x = torch.randn(4, 4)
    for sides, words in (
        (Sides(x, torch.randn(4 + rank, 4), positive=torch.arange(4)), "different numbers of columns"),
        (Sides(x, x, extra=torch.randn(1 + rank, 4)), "different numbers of extra columns"),
    ):
        made += 1
        try:
            Scores.of(critics.Cosine(), sides)
        except ValueError as error:
            if words in str(error):
                continue
        failed.append({"what": f"{words} were not refused", "rank": rank})


def main(folder, exhaustive=False):
    global EXHAUSTIVE
    EXHAUSTIVE = exhaustive
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for world in (1, 2, 3):
        if rank < world:
            store = f"file://{folder}/world{world}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
            assert dist.get_world_size() == world
            compare(rank, world)
            compare_layouts(rank, world)
            train_a_step(rank, world)
            if world > 1:
                compare_shares(rank, world)
                uneven(rank, world)
                uneven_columns(rank, world)
            dist.barrier()
            dist.destroy_process_group()
    # A file each: three processes that print to one pipe can end up on one line.
    Path(folder, f"rank{rank}.json").write_text(json.dumps({"made": made, "failed": failed, "seen": seen}))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(bool(failed))  # DDP was here: launch.leave() says why not by the interpreter's tear-down


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(), "--exhaustive" in sys.argv)
