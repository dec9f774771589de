"""Two towers beside open_clip's loss: the same towers, data, batches and steps, in one run; and every objective's."""

import json as _json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import infomax as im
from infomax import data, encoders, errors, launch, objectives, training
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.evaluation.retrieval import evaluate_towers

PEER = "open_clip ClipLoss"


def command(
    names: tuple[str, ...] = (),
    seeds: int = 3,
    epochs: int = 15,
    dataset: str = "halves:mnist5k",
    batch_size: int = 256,
    temperature: float = 0.07,
    output: Path = Path("results/towers"),
    json: bool = False,
) -> None:
    """Retrieval and I(X; Y) of two modalities: open_clip's ClipLoss, where it is installed, and each objective.

    All start from the same weights and see the same batches; AdamW at 3e-3, weight decay 1e-3, 10 % of warm-up and a
    cosine. open_clip's loss has its own logit scale, learnt and clipped at 100 as its training does.

    Args:
        names: Objectives as constructor calls; by default all that are registered, and symmetric InfoNCE.
        seeds: So many, from 0.
        epochs: Of each training.
        dataset: Pairs, as recipes/clip.py takes them.
        batch_size: Pairs in a batch.
        temperature: Where the learnt temperature starts.
        output: The folder where each finished training is kept: a run that was stopped goes on, several share the work.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, epochs=epochs, batch_size=batch_size, temperature=temperature)
    calls = names or ("InfoNCE(symmetric=True)", *(repr(kind()) for kind in objectives.registry.values()))
    losses = [repr(objectives.objective(call)) for call in calls]
    pairs = data.paired(dataset)
    setting = {"dataset": dataset, "epochs": epochs, "batch_size": batch_size, "temperature": temperature}
    peer = _open_clip()

    def job(loss: str, seed: int) -> Cell:
        def work() -> dict[str, Any]:
            torch.manual_seed(seed)
            towers = _towers(pairs)
            loader = data.PairedLoader(pairs.train, batch_size, seed)
            steps = epochs * len(loader)
            if loss == PEER:
                return _peer(peer, towers, pairs, loader, steps, temperature)
            model = _model(towers, im.Cosine(temperature, learn=True), objectives.objective(loss))
            return _ours(model, pairs, loader, steps)

        return Cell({"experiment": "towers", "loss": loss, "seed": seed, **setting}, cells.at_once(work))

    planned = [*([] if peer is None else [PEER]), *losses]
    jobs = [job(loss, seed) for seed in range(seeds) for loss in planned]
    found: dict[str, list[dict[str, Any]]] = {loss: [] for loss in planned}
    for done, result in zip(jobs, cells.run(jobs, output, shown=not json), strict=True):
        found[done.key["loss"]].append(result)
    rows = [_row(name, runs) for name, runs in found.items()]
    if json:
        print(_json.dumps({"towers": rows, "pairs": len(pairs.test)}))
        return
    print(
        "| loss | recall@1, x to y, % | @5 | @10 | recall@1, y to x, % | I(X; Y), nats (trusted) | at least | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        shown = [f"{100 * m:.1f} ({100 * a:.1f} to {100 * b:.1f})" for m, a, b in row["recalls"]]
        shown += [f"{row['mi']:.2f} ({row['trusted']} of {seeds})", "{:.2f} ({:.2f} to {:.2f})".format(*row["floors"])]
        print(f"| {row['loss']} | {' | '.join(shown)} | {row['seconds']:.0f} |")


def _open_clip() -> Any:
    try:
        from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return ClipLoss


def _towers(pairs: data.Paired) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    if any(len(side.shape) != 3 for side in (pairs.train.x, pairs.train.y)):
        raise UserError("This benchmark is of two modalities that are images, such as halves:mnist5k.")
    x, y = (im.encoder("resnet10_tiny", in_chans=side.shape[0]) for side in (pairs.train.x, pairs.train.y))
    px, py = (encoders.Projector(encoders.features_of(e), hidden=256, out=64) for e in (x, y))
    return x, y, px, py


def _model(towers: Any, critic: im.Critic, objective: im.Objective) -> im.TwoTower:
    x, y, projector_x, projector_y = towers
    return im.TwoTower(x, y, projector_x, projector_y, critic, objective)


def _ours(model: Any, pairs: data.Paired, loader: Any, steps: int) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = training.warmup_cosine(steps, warmup=steps // 10)
    began = time.process_time()
    for _ in im.train(model, loader, optimizer, schedule, launch.make_accelerator(), steps=steps):
        pass
    return _read(model, pairs, time.process_time() - began)


def _peer(loss: Any, towers: Any, pairs: data.Paired, loader: Any, steps: int, temperature: float) -> dict[str, Any]:
    model = _model(towers, im.Cosine(temperature), im.InfoNCE())  # its towers alone are used
    scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
    optimizer = torch.optim.AdamW([*model.parameters(), scale], lr=3e-3, weight_decay=1e-3)
    schedule, criterion = training.warmup_cosine(steps, warmup=steps // 10), loss()
    model.train()
    began = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * schedule(step)
        x, y, _ = loader.at(step)
        zx, zy = (nn.functional.normalize(z, dim=-1) for z in model.features(x, y))
        optimizer.zero_grad()
        criterion(zx, zy, scale.exp()).backward()
        nn.utils.clip_grad_norm_([*model.parameters(), scale], 1.0)
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(0, math.log(100))
    return _read(model, pairs, time.process_time() - began)


def _read(model: im.TwoTower, pairs: data.Paired, seconds: float) -> dict[str, Any]:
    """What recipes/clip.py ends with: recall both ways, and the MI of the projections, which bounds the modalities'."""
    found = evaluate_towers(model, pairs)
    assert not isinstance(found.mi, str), found.mi
    recalls = [*found.x_to_y.values.values(), found.y_to_x.values[1]]
    mi = {"mi": found.mi.mi, "floor": found.mi.floor, "trusted": found.mi.trusted}
    return {"recalls": recalls, "seconds": seconds, **mi}


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, with the lowest and the highest."""
    columns = zip(*(run["recalls"] for run in runs), strict=True)
    recalls = [(statistics.fmean(values), min(values), max(values)) for values in columns]
    floors = [run["floor"] for run in runs]
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "loss": name,
        "recalls": recalls,
        "trusted": sum(run["trusted"] for run in runs),
        "seconds": seconds,
        "mi": statistics.fmean(run["mi"] for run in runs),
        "floors": (statistics.fmean(floors), min(floors), max(floors)),
    }
