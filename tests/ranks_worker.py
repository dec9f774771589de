"""Run by torchrun on 3 processes: every objective x critic x ids, and x layout of sides, on 1, 2 and 3 processes
against one process.

Each leaves rankR.json in the folder it is given: how many comparisons it made, and those that failed.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

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
SHARED = ("extra", "many to one, extra of named samples", "one sample, extra of named samples")
made, failed = 0, []


def close(what, ours, theirs, tolerance=1e-10):
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


def compare(rank, world):
    torch.manual_seed(0)
    x = torch.randn(N, 4, dtype=torch.float64)
    y = x + torch.randn(N, 4, dtype=torch.float64)
    own = slice(rank * N // world, (rank + 1) * N // world)
    for critic_name, make in CRITICS.items():
        critic = make().double()
        for ids_name, ids in IDS.items():
            for text in dense.FORMS:
                value, dx, dy, inner = value_and_gradients(text, critic, x, y, ids, local=True)
                for ring in (False, True):
                    mine = value_and_gradients(
                        text,
                        critic,
                        x[own],
                        y[own],
                        None if ids is None else ids[own],
                        rows=1 + rank,
                        columns=5,
                        ring=ring,
                    )
                    mean = mine[0].clone()
                    dist.all_reduce(mean)
                    what = f"{text} {critic_name} {ids_name} on {world}{' in a ring' if ring else ''}"
                    close(what + " value", mean / world, value)
                    # A process's gradient is that of the sum of values: DDP divides it by the number of processes.
                    close(what + " d x", mine[1] / world, dx[own])
                    close(what + " d y", mine[2] / world, dy[own])
                    for ours, theirs in zip(mine[3], inner, strict=True):
                        dist.all_reduce(ours)
                        close(what + " d parameters", ours / world, theirs)


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


def close_parts(what, mine, alone, rows, columns, world):
    """A process's part of what of_layout gives beside all of it on one process."""
    close(what + " d x", mine[1] / world, alone[1][rows])
    close(what + " d y", mine[2] / world, alone[2][columns])
    for ours, theirs in zip((mine[0], *mine[3:]), (alone[0], *alone[3:]), strict=True):
        dist.all_reduce(ours)
        close(what + " value and d parameters", ours / world, theirs)


def compare_layouts(rank, world):
    torch.manual_seed(0)
    for critic_name, make in CRITICS.items():
        critic = make().double()
        for name, layout in LAYOUTS.items():
            if critic_name == "Bilinear" or ("Concat" in critic_name and "repeated" in name):  # more of the same
                continue
            if layout.extra_ids is not None and critic_name != ("Concat" if "many" in name else "Cosine"):
                continue
            x, y, extra = layout.features(4)
            rows, columns, part = layout.shard(rank, world)
            for text in dense.FORMS:
                if text == "InfoNCE(symmetric=True)" and layout.k:
                    continue
                alone = of_layout(text, critic, x, y, extra, layout, local=True)
                for ring in (False, True):
                    size = {"rows": 3 + rank, "columns": 5}
                    mine = of_layout(text, critic, x[rows], y[columns], extra, part, ring=ring, **size)
                    what = f"{text} {critic_name} {name} on {world}{' in a ring' if ring else ''}"
                    close_parts(what, mine, alone, rows, columns, world)


def compare_shares(rank, world):
    """Extra columns of which each process holds a share, beside all of them on one process."""
    torch.manual_seed(0)
    for critic_name in sorted(CRITICS.keys() - {"Bilinear"}):
        critic = CRITICS[critic_name]().double()
        for name, layout in LAYOUTS.items():
            if not layout.k or name not in (LAYOUTS if critic_name == "Cosine" else SHARED):  # more of the same
                continue
            ids = None if layout.extra_ids is None else layout.extra_ids[torch.arange(6) % layout.k]
            layout = replace(layout, k=6, extra_ids=ids)
            x, y, extra = layout.features(4)
            rows, columns, part = layout.shard(rank, world)
            own = slice(rank * 6 // world, (rank + 1) * 6 // world)
            part = replace(part, k=6 // world, extra_ids=None if ids is None else ids[own], sharded=True)
            for text in dense.FORMS:
                if text == "InfoNCE(symmetric=True)":
                    continue
                alone = of_layout(text, critic, x, y, extra, layout, local=True)
                for ring in (False, True):
                    size = {"rows": 3 + rank, "columns": 2}
                    mine = of_layout(text, critic, x[rows], y[columns], extra[own], part, ring=ring, **size)
                    what = f"{text} {critic_name} {name}, shared by {world}{' in a ring' if ring else ''}"
                    close_parts(what, mine, alone, rows, columns, world)


def train_a_step(rank, world):
    """DistributedDataParallel and SGD (Adam hides constant factors): the same weights as on one process."""
    for text in dense.FORMS:
        for ntxent, microbatch, ring in (
            (False, None, False),
            (True, None, False),
            (False, 3, False),
            (True, None, True),
        ):
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
            alone = InfoMax(*(_copy(m) for m in model.children()), ntxent)
            own = slice(rank * N // world, (rank + 1) * N // world)
            for module, batch, local in ((DistributedDataParallel(model), views[:, own], False), (alone, views, True)):
                optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
                value = _alone(module, batch) if local else module(batch[0], batch[1])
                (-value).backward()
                optimizer.step()
            for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
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


def main(folder):
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
    Path(folder, f"rank{rank}.json").write_text(json.dumps({"made": made, "failed": failed}))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(bool(failed))  # DDP was here: launch.leave() says why not by the interpreter's tear-down


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
