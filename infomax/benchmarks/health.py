"""Numbers without labels beside the linear probe: Kendall's tau over runs, collapses that are planted, and the cost.

Every run is a SimCLR of a small encoder, measured after each epoch as a recipe measures it. A run that trained well
must not be called collapsed; a planted collapse must be. At its end I(J; Z) is estimated, and once more where it is
known: of Gaussians with the means and covariances of its features, and of words of mosaics that it encodes.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomax import errors, objectives, training
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.critics import Cosine
from infomax.data import PairLoader, Views, dataset, views_for
from infomax.encoders import Projector, encoder, features_of
from infomax.errors import NonFinite, UserError
from infomax.evaluation import Monitor, Subject
from infomax.evaluation.features import features
from infomax.evaluation.identity import READ, VIEWS, Identity, of_rows, rows_of_views
from infomax.evaluation.mosaics import bit
from infomax.evaluation.probing import probe
from infomax.launch import make_accelerator
from infomax.models import InfoMax

NUMBERS = (
    "rankme",
    "alpha_req",
    "lidar",
    "alignment",
    "uniformity",
    "feature_std",
    "mi",
    "identity",
    "identity floor",
    "identity of 256",
)
OBJECTIVES = ("InfoNCE()", "SMILE(tau=5)", "JS()", "NWJ()", "SigLIP()")
PLANTED = ("temperature", "no negatives", "learning rate", "constant views")


class Positives(objectives.Objective):
    """The mean score of positives: no negatives, so that equal features of all samples are best."""

    def estimate(self, s: Any) -> Tensor:
        return s.positive.mean()


def command(
    names: tuple[str, ...] = OBJECTIVES,
    temperatures: tuple[float, ...] = (0.1, 0.2, 0.5),
    seeds: int = 2,
    epochs: int = 10,
    batch_size: int = 256,
    data: str = "mnist5k",
    limit: int | None = None,
    output: Path = Path("results/health"),
    json: bool = False,
) -> None:
    """Kendall's tau of each number of health with the linear probe's accuracy, planted collapses, false stops and cost.

    Args:
        names: Objectives as constructor calls.
        temperatures: Of the cosine critic, each with every objective.
        seeds: So many, from 0, of every objective and temperature.
        epochs: Of each run.
        batch_size: Pairs in a batch.
        data: A data set with labels, as the recipes take it.
        limit: Keep this many training images.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, epochs=epochs, batch_size=batch_size, limit=limit)
    for name in names:
        objectives.objective(name)
    if any(not t > 0 for t in temperatures) or len(names) * len(temperatures) * seeds < 3:
        raise UserError("Kendall's tau needs three runs or more, of positive --temperatures.")
    base = {"epochs": epochs, "batch_size": batch_size, "data": data, "limit": limit}
    healthy = [
        base | {"experiment": "health", "planted": "", "objective": name, "temperature": t, "seed": seed}
        for seed in range(seeds) for name in names for t in temperatures
    ]  # fmt: skip
    planted = [
        base | {"experiment": "collapse", "planted": kind, "objective": "InfoNCE()", "temperature": 0.2, "seed": seed}
        for seed in range(seeds) for kind in PLANTED
    ]  # fmt: skip

    def work(key: dict[str, Any]) -> Any:
        return cells.at_once(lambda: trained(key))

    found = cells.run([Cell(key, work(key)) for key in (*planted, *healthy)], output, not json)
    collapsed, well = found[: len(planted)], found[len(planted) :]
    made = {
        "Kendall's tau with linear accuracy": taus(well), "I(J; Z) where it is known": covered(well),
        "planted collapses": _caught(planted, collapsed),
    }  # fmt: skip
    stopped = [run for run in well if run["epoch"] is not None]
    share = 100 * sum(run["health"] for run in well) / sum(run["training"] for run in well)
    accuracies = sorted(100 * run["accuracy"] for run in well)
    protocol = (
        f"{len(well)} runs of {epochs} epochs on {data}, batches of {batch_size}: {', '.join(names)} at temperatures"
        f" {', '.join(f'{t:g}' for t in temperatures)}, {seeds} seeds. Linear accuracy {accuracies[0]:.1f} to"
        f" {accuracies[-1]:.1f} %. Of these, {len(stopped)} were called collapsed"
        f"{_named(healthy, well)}. Health took {share:.1f} % of the training's processor time."
    )
    cells.report(cells.write_tables(output, "health", protocol, made), made, output, json)


def trained(key: dict[str, Any]) -> dict[str, Any]:
    """One run: its last numbers, its linear accuracy, when and why it collapsed, and processor time in seconds."""
    torch.manual_seed(key["seed"])
    planted, images = key["planted"], dataset(key["data"], limit=key["limit"])
    views: Any = views_for(images)
    shown: Any = _Constant(views) if planted == "constant views" else views
    loader = PairLoader(images.train, shown, key["batch_size"])
    network = encoder("resnet10_tiny", in_chans=images.shape[0])
    temperature = 1000.0 if planted == "temperature" else key["temperature"]
    objective = Positives() if planted == "no negatives" else objectives.objective(key["objective"])
    model = InfoMax(
        network, Projector(features_of(network), hidden=256, out=64), Cosine(temperature, learn="bias"), objective
    )
    rate = 300.0 if planted == "learning rate" else 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    accelerator, steps = make_accelerator(None), key["epochs"] * len(loader)
    monitor = Monitor(model, loader, images, steps, key["seed"], accelerator, 1, 1)
    monitor.begin(None)
    numbers: dict[str, float] = {}
    result: dict[str, Any] = {"epoch": None, "told": "", "health": 0.0}
    began = time.process_time()
    try:
        for step in training.train(
            model, loader, optimizer, training.warmup_cosine(steps, steps // 10), accelerator, steps=steps
        ):
            if monitor.due(step.number):
                before = time.process_time()
                numbers = monitor.measure(step.number)
                told = monitor.collapse(numbers, step.number)
                result["health"] += time.process_time() - before
                if told is not None and result["epoch"] is None:
                    result |= {"epoch": step.epoch + 1, "told": told.partition(": ")[2].partition(". Try")[0]}
                    if planted:
                        break
    except NonFinite as error:
        result |= {"epoch": steps // len(loader), "told": str(error)}
    result["training"] = time.process_time() - began - result["health"]
    result |= {name.partition("/")[2]: value for name, value in numbers.items()}
    result["accuracy"] = math.nan if planted else probe(network, images, seed=0, views=views).accuracy
    if not planted:
        result |= _identified(Subject(network, None, images, None, views), key["seed"])
    return result


def _identified(about: Subject, seed: int) -> dict[str, Any]:
    """I(J; Z) of an encoder, and beside what is known: the truth's lower and upper end, and the estimate's numbers."""
    began = time.process_time()
    rows = rows_of_views(about, 256, VIEWS + READ, seed)
    own = of_rows(rows[:, :VIEWS], rows[:, VIEWS:], among=min(64, len(rows)), seed=seed)
    result: dict[str, Any] = {
        "identity": own.mi, "identity floor": own.floor, "identity of 256": own.curve[-1][1], "identity trusted":
        own.trusted, "identity seconds": time.process_time() - began, "known": {},
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for name, (truth, drawn) in {
        "Gaussians, 8 columns": gaussians(rows[:128], 8, 1.0, generator),
        "Gaussians, 32 columns, 2.5 times as wide": gaussians(rows[:128], 32, 2.5, generator),
        "words of mosaics": words(about, generator),
    }.items():
        found: Identity = of_rows(drawn[:, :VIEWS], drawn[:, VIEWS:], among=64, seed=seed)
        result["known"][name] = [*truth, found.floor, *found.interval, found.mi, found.trusted]
    return result


Known = tuple[tuple[float, float], Tensor]  # the truth's lower and upper end, in nats; views [n, VIEWS + READ, d]


def gaussians(rows: Tensor, columns: int, wide: float, generator: torch.Generator, draws: int = 200) -> Known:
    """Gaussians with the means and covariances of each image's rows [n, k, d], in their leading principal columns.

    wide: times the standard deviations. The truth among 64 is a mean over `draws` of each, by the densities themselves.
    """
    centred = (rows - rows.mean((0, 1))).double()
    axes = torch.linalg.eigh(centred.flatten(0, 1).T @ centred.flatten(0, 1))[1][:, -columns:]
    seen = centred @ axes
    means, n, k = seen.mean(1), len(rows), rows.shape[1]
    apart = seen - means[:, None]
    each = torch.einsum("nki,nkj->nij", apart, apart) / (k - 1)
    roots = torch.linalg.cholesky(wide**2 * (0.9 * each + 0.1 * each.mean(0)))

    def drawn(r: int) -> Tensor:
        noise = torch.randn(n, r, columns, generator=generator, dtype=torch.float64)
        return means[:, None] + torch.einsum("nij,nrj->nri", roots, noise)

    inverse, size = torch.linalg.inv(roots), roots.diagonal(dim1=1, dim2=2).log().sum(1)
    told = []
    fresh = drawn(draws)
    for first in range(0, n - n % 64, 64):
        at = fresh[first : first + 64].flatten(0, 1)
        scores = torch.stack(
            [-((at - means[j]) @ inverse[j].T).square().sum(1) / 2 - size[j] for j in range(first, first + 64)], 1
        ).log_softmax(1)
        told.append(scores.reshape(64, draws, 64).diagonal(dim1=0, dim2=2).mean())
    truth = math.log(64) + float(torch.stack(told).mean())
    return (truth, truth), drawn(VIEWS + READ).float()


def words(about: Subject, generator: torch.Generator, flips: float = 0.05) -> Known:
    """64 words of six bits: of a bit, a view shows an image of one of two classes, and of `flips` of them the other.

    Features know no more than the bits that are shown, so the truth is at most six times a flipped bit's; and as much
    as a nearest-mean classifier reads off them is there. Images to fit on are training images, to read held out.
    """
    pools = []
    for split in (about.data.train, about.data.test):
        assert split.labels is not None
        of = [torch.nonzero(split.labels == value).flatten() for value in (0, 1)]
        pools.append([features(about.encoder, split.subset(at), about.views.plain, "cpu") for at in of])  # type: ignore[union-attr]
    centres = [pool.mean(0) for pool in pools[0]]
    wrong = [
        float(((pool - centres[i]).norm(dim=1) > (pool - centres[1 - i]).norm(dim=1)).double().mean())
        for i, pool in enumerate(pools[1])
    ]
    misread = sum(wrong) / 2
    bits = (torch.arange(64)[:, None] >> torch.arange(6)) & 1
    drawn = []
    for pool, number in zip(pools, (VIEWS, READ), strict=True):
        shown = bits[:, None] ^ (torch.rand(64, number, 6, generator=generator) < flips)
        each = [side[torch.randint(len(side), shown.shape, generator=generator)] for side in pool]
        drawn.append(torch.where(shown[..., None] == 0, *each).flatten(2))
    low = 6 * bit(flips * (1 - misread) + misread * (1 - flips))
    return (low, 6 * bit(flips)), torch.cat(drawn, 1)


def covered(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a known truth: how many intervals and floors hold over the runs, how many are trusted, the mean error."""
    rows: list[dict[str, Any]] = []
    for name in runs[0]["known"]:
        found = [run["known"][name] for run in runs]
        rows.append({
            "of": name, "truth": f"{min(one[0] for one in found):.2f} to {max(one[1] for one in found):.2f}",
            "interval holds": f"{sum(one[3] <= one[1] and one[4] >= one[0] for one in found)} of {len(found)}",
            "floor holds": f"{sum(one[2] <= one[1] for one in found)} of {len(found)}",
            "trusted": f"{sum(one[6] for one in found)} of {len(found)}",
            "mean error": sum(max(one[0] - one[5], one[5] - one[1], 0.0) for one in found) / len(found),
            "mean width": sum(one[4] - one[3] for one in found) / len(found),
        })  # fmt: skip
    return rows


class _Constant:
    """Views that show nothing of the image: all samples look alike."""

    def __init__(self, views: Views):
        self.plain = views.plain

    def __call__(self, images: Tensor, ids: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        return torch.ones(images.shape)


def taus(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a number: Kendall's tau-b with the linear accuracy over the runs, its p-value, and the number's range."""
    from scipy.stats import kendalltau

    rows: list[dict[str, Any]] = []
    for name in (*NUMBERS, "knn"):
        values = [run[name] for run in runs]
        found: Any = kendalltau(values, [run["accuracy"] for run in runs])
        rows.append({
            "number": name, "tau": float(found.statistic), "p": f"{found.pvalue:.2g}", "least": min(values),
            "most": max(values),
        })  # fmt: skip
    return rows


def _caught(keys: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "planted": key["planted"], "seed": key["seed"], "stopped after epoch": run["epoch"] or "not caught",
            "why": run["told"],
        }
        for key, run in zip(keys, runs, strict=True)
    ]  # fmt: skip


def _named(keys: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    pairs = [
        f"{key['objective']} at {key['temperature']:g}, seed {key['seed']}, epoch {run['epoch']}: {run['told']}"
        for key, run in zip(keys, runs, strict=True) if run["epoch"] is not None
    ]  # fmt: skip
    return f" ({'; '.join(pairs)})" if pairs else ""
