"""A step with a queue of negatives, beside the same without it and beside plain PyTorch, alternating in one process."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from infomax import critics, encoders, objectives
from infomax.models import MoCo
from infomax.scores import Scores, Sides


def infonce(s: Tensor, pairs: int) -> Tensor:
    return F.cross_entropy(s, torch.arange(pairs, device=s.device))


def nwj(s: Tensor, pairs: int) -> Tensor:
    positive = s.diagonal()
    return (s.exp().sum() - positive.exp().sum()) / (s.numel() - pairs) - positive.mean() - 1


# Plain forms of scores [n, n + k], of which the last k columns are the queue's: losses to descend.
PLAIN: dict[str, Callable[[Tensor, int], Tensor]] = {"InfoNCE": infonce, "NWJ": nwj}


@dataclass(frozen=True)
class Queued:
    """Medians of forward and backward, in milliseconds, for n pairs and `extra` columns of a queue."""

    objective: str
    pairs: int
    extra: int
    dim: int
    ms: float
    without_ms: float  # without the queue
    naive_ms: float  # plain PyTorch, one matrix
    to_without: float  # medians over rounds of ours / without, and of ours / plain
    to_naive: float
    error: float  # largest difference of the gradient from plain PyTorch's, relative to it


@dataclass(frozen=True)
class Trained:
    """Medians of a training step of MoCo, in milliseconds: with a queue of `extra` keys, and before there are any."""

    encoder: str
    pairs: int
    extra: int
    dim: int
    ms: float
    without_ms: float
    to_without: float  # the median over rounds


def gradient(objective: objectives.Objective, critic: critics.Critic, sides: Sides) -> list[Tensor]:
    """The gradient of x and of y through the library."""
    return list(torch.autograd.grad(objective(Scores.of(critic, sides)), [sides.x, sides.y]))


def plain(form: Callable[[Tensor, int], Tensor], x: Tensor, y: Tensor, extra: Tensor, t: float) -> list[Tensor]:
    """The same, up to its sign, through one dense matrix."""
    a, b, c = (F.normalize(z, dim=-1) for z in (x, y, extra))
    s = torch.cat([a @ b.T, a @ c.T], 1) / t  # two products: none is spent on the queue's gradient
    return list(torch.autograd.grad(form(s, len(x)), [x, y]))


def queued(
    alternate: Callable[[dict[str, Callable[[], object]], float, str], dict[str, list[float]]], extra: int,
    pairs: int, dim: int, temperature: float, seconds: float, device: str, names: Sequence[str] = tuple(PLAIN),
) -> list[Queued]:  # fmt: skip
    """Times each objective with `extra` columns, without them, and in its plain form, in turn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pairs, dim, generator=generator)
    y = x + torch.randn(pairs, dim, generator=generator)
    queue = torch.randn(extra, dim, generator=generator).to(device)
    x, y = (t.to(device).requires_grad_() for t in (x, y))
    critic, rows = critics.Cosine(temperature), []
    for name in names:
        objective, form = objectives.objective(name), PLAIN[name]
        forms: dict[str, Callable[[], object]] = {
            "ours": lambda o=objective: gradient(o, critic, Sides(x, y, extra=queue)),
            "without": lambda o=objective: gradient(o, critic, Sides(x, y)),
            "naive": lambda f=form: plain(f, x, y, queue, temperature),
        }
        times = alternate(forms, seconds * len(forms), device)
        ours, without, naive = (times[key] for key in ("ours", "without", "naive"))
        of_ours, of_plain = (
            torch.cat(gradient(objective, critic, Sides(x, y, extra=queue))),
            torch.cat(plain(form, x, y, queue, temperature)),
        )
        rows.append(Queued(
            name, pairs, extra, dim, statistics.median(ours) * 1e3, statistics.median(without) * 1e3,
            statistics.median(naive) * 1e3,
            statistics.median(a / b for a, b in zip(ours, without, strict=True)),
            statistics.median(a / b for a, b in zip(ours, naive, strict=True)),
            float((of_ours + of_plain).norm() / of_plain.norm()),
        ))  # fmt: skip
    return rows


def trained(
    alternate: Callable[[dict[str, Callable[[], object]], float, str], dict[str, list[float]]], extra: int,
    pairs: int, dim: int, temperature: float, seconds: float, device: str, encoder: str = "resnet10_tiny",
) -> Trained:  # fmt: skip
    """Times a training step of MoCo by InfoNCE on grey images of 28 pixels, with all of its queue and with none of it.

    `extra` is rounded down to a multiple of `pairs`, of which a queue is made, and is one batch at least.
    """
    extra = max(pairs, extra - extra % pairs)
    torch.manual_seed(0)
    network = encoders.encoder(encoder, 1)
    projector = encoders.Projector(encoders.features_of(network), hidden=256, out=dim)
    model = MoCo(network, projector, critics.Cosine(temperature), objectives.InfoNCE(), queue=extra).to(device).train()
    model.keys.normal_()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    views = [*torch.randn(2, pairs, 1, 28, 28, device=device)]

    def step(filled: int) -> None:
        model.filled.fill_(filled)
        (-model(views)).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()

    times = alternate({"ours": lambda: step(extra), "without": lambda: step(0)}, 2 * seconds, device)
    ours, without = times["ours"], times["without"]
    return Trained(
        encoder, pairs, extra, dim, statistics.median(ours) * 1e3, statistics.median(without) * 1e3,
        statistics.median(a / b for a, b in zip(ours, without, strict=True)),
    )  # fmt: skip


def lines(rows: Sequence[dict], step: dict | None = None) -> list[str]:
    """The rows, and a training step, as Markdown tables."""
    return [
        "",
        "| with a queue | N | extra | d | ms | without it, ms | plain, ms | to without | to plain | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['objective']} | {r['pairs']} | {r['extra']} | {r['dim']} | {r['ms']:.2f} | {r['without_ms']:.2f} |"
            f" {r['naive_ms']:.2f} | {r['to_without']:.1f} | {r['to_naive']:.2f} | {r['error']:.0e} |"
            for r in rows
        ),
        *(
            [
                "",
                "| a training step of MoCo | N | queue | d | ms | before there are keys, ms | to that |",
                "|---|---|---|---|---|---|---|",
                f"| {step['encoder']} | {step['pairs']} | {step['extra']} | {step['dim']} | {step['ms']:.0f} |"
                f" {step['without_ms']:.0f} | {step['to_without']:.2f} |",
            ]
            if step
            else []
        ),
    ]
