"""Small models of every kind, their batches, and each one's sides in plain form: for contracts on one process or more.

A plain side is a matrix [rows, columns] of scores with its negatives' mask, made by loops over samples, views and
places, and not by the library's own layouts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import infomax as im
from infomax import encoders

SIDE = 8
QUEUE = 24


def images_encoder(width: int = 6) -> nn.Sequential:
    """A convolution with GroupNorm and pooling; its part "1" gives a map of 4 x 4 places."""
    made = nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1), nn.GroupNorm(2, width), nn.Tanh(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    made.num_features = width  # pyright: ignore[reportArgumentType]
    return made


class InTime(nn.Module):
    """Sequences [n, time, 3] -> [n, time, out], each time alone."""

    def __init__(self, out: int):
        super().__init__()
        self.linear = nn.Linear(3, out)

    def forward(self, sequences: Tensor) -> Tensor:
        return self.linear(sequences).tanh()


def projector(width: int = 6) -> nn.Module:
    return encoders.Projector(width, hidden=8, out=5, norm="layer")


def cosine() -> im.critics.Critic:
    return im.Cosine(0.5, learn=True)


@dataclass(frozen=True)
class Term:
    """One term in plain form: scores with gradient, their negatives, and each row's positive column."""

    matrix: Tensor
    negative: Tensor
    positive: Tensor
    names: Tensor
    weight: float
    owner: tuple[nn.Module, nn.Module]  # critic and objective

    @property
    def where(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.negative, self.positive, self.names


@dataclass(frozen=True)
class Kind:
    """How a model is made with an objective and options, a batch of n samples, and its plain terms."""

    make: Callable[..., im.models.Model]
    batch: Callable[[int], list[Tensor]]
    terms: Callable[..., list[Term]]


def views(count: int, small: int = 0) -> Callable[[int], list[Tensor]]:
    def batch(n: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        whole = torch.randn(n, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
        noise = [torch.randn(n, 1, SIDE, SIDE, generator=generator, dtype=torch.float64) for _ in range(count)]
        return [(whole + x)[:, :, : SIDE - 2, : SIDE - 2] if i >= count - small else whole + x
                for i, x in enumerate(noise)]  # fmt: skip

    return batch


def sequences(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 5, 3, generator=generator, dtype=torch.float64).cumsum(1)]


def modalities(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return [x, x[:, :3] + torch.randn(n, 3, generator=generator, dtype=torch.float64)]


def _term(
    scores: Tensor, rows: Sequence[int], columns: Sequence[int], positive: Sequence[int], extra: int, weight: float,
    owner: tuple[nn.Module, nn.Module],
) -> Term:  # fmt: skip
    """rows and columns name what each is of; what has another name is a negative, and so is all of a queue."""
    negative = torch.tensor([[row != column for column in columns] + [True] * extra for row in rows])
    return Term(scores, negative, torch.tensor(positive), torch.tensor(columns), weight, owner)


def _of_views(model, inputs, ids):
    z = [model.projector(model.encoder(view)) for view in inputs]
    n, targets = len(z[0]), len(z) if model.targets is None or len(z) == 2 else model.targets
    rows, of, positive = [], [], []
    for row in range(len(z)):
        for column in range(targets):
            if row != column and (len(z) > 2 or (row, column) == (0, 1)):
                for i in range(n):
                    rows.append(z[row][i])
                    of.append(int(ids[i]))
                    positive.append(i + (column * n if len(z) > 2 else 0))
    columns = z[:targets] if len(z) > 2 else z[1:]
    names = [int(i) for _ in columns for i in ids]
    scores = model.critic(torch.stack(rows), torch.cat(columns))
    return [_term(scores, of, names, positive, 0, 1.0, (model.critic, model.objective))]


def _ntxent(model, inputs, ids):
    z = [model.projector(model.encoder(view)) for view in inputs]
    names = [int(i) for _ in z for i in ids]
    n = len(z[0])
    # Columns as those of the other view, so that each row's positive is on the diagonal: Anchor leaves out the first.
    scores = model.critic(torch.cat(z), torch.cat(z[::-1]))
    return [_term(scores, names, names, range(2 * n), 0, 1.0, (model.critic, model.objective))]


def _moco(model, inputs, ids):
    queries = model.projector(model.encoder(inputs[0]))
    with torch.no_grad():
        keys = model.key_projector(model.key_encoder(inputs[1]))
    there = min(int(model.filled), model.queue)
    scores = model.critic(queries, torch.cat([keys, model.keys[:there]]))
    names = [int(i) for i in ids]
    term = _term(scores, names, names, range(len(names)), there, 1.0, (model.critic, model.objective))
    for row, name in enumerate(names):
        for column, earlier in enumerate(model.key_ids[:there].tolist()):
            term.negative[row, len(names) + column] = name != earlier
    return [term]


def _deep_infomax(model, inputs, ids):
    n, count = len(inputs[0]), len(inputs)
    maps = [model.encoder[:2](view) for view in inputs]
    z = [model.projector(model.encoder(view)) for view in inputs]
    names = [int(i) for i in ids]
    terms = []
    if model.globally and count == 2:
        owner = model.critic, model.objective
        scores = model.critic(*z)
        terms.append(_term(scores, names, names, range(n), 0, model.global_weight, owner))
    if model.local:
        owner = (model.local_critic, model.local_objective) if model.globally else (model.critic, model.objective)
        rows, of, positive = [], [], []
        for view in range(count):
            for i in range(n):
                for a in range(maps[view].shape[2]):
                    for b in range(maps[view].shape[3]):
                        rows.append(maps[view][i, :, a, b])
                        of.append(names[i])
                        positive.append(i + n * ((view + 1) % count))
        scores = owner[0](model.patch_projector(torch.stack(rows)), torch.cat(z))
        terms.append(_term(scores, of, names * count, positive, 0, model.local_weight, owner))
    return terms


def _cpc(model, inputs, ids):
    """Of each column of places: z [t, d] and contexts [t, c], with a name for each place."""
    chains = []
    for view in inputs:
        for i in range(len(view)):
            if model.patch is None:
                chains.append((int(ids[i]), 0, model.encoder(view[i][None])[0]))
                continue
            starts = range(0, view.shape[2] - model.patch + 1, model.stride)
            for c, left in enumerate(starts):
                cut = [view[i, :, top : top + model.patch, left : left + model.patch] for top in starts]
                chains.append((int(ids[i]), c, model.encoder(torch.stack(cut))))
    terms = []
    for ahead in range(1, model.steps + 1):
        owner = (model.critic, model.objective) if ahead == 1 else tuple(model.later[ahead - 2])
        rows, columns, names = [], [], []
        for sample, c, z in chains:
            contexts = model.context(z[None])[0]
            for t in range(len(z) - ahead):
                rows.append(contexts[t])
                columns.append(z[t + ahead])
                names.append(sample * 1000 + c * 100 + t + ahead)
        scores = owner[0](torch.stack(rows), torch.stack(columns))
        terms.append(_term(scores, names, names, range(len(names)), 0, 1 / model.steps, owner))
    return terms


def _two_tower(model, inputs, ids):
    zx = model.projector_x(model.encoder_x(inputs[0]))
    zy = model.projector_y(model.encoder_y(inputs[1]))
    names = [int(i) for i in ids]
    return [_term(model.critic(zx, zy), names, names, range(len(names)), 0, 1.0, (model.critic, model.objective))]


def infomax(objective, **options):
    return im.InfoMax(images_encoder(), projector(), cosine(), objective, **options)


def moco(objective, **options):
    return im.MoCo(images_encoder(), projector(), cosine(), objective, **{"queue": QUEUE, "momentum": 0.9} | options)


def deep_infomax(objective, **options):
    options = {"layer": "1", "local_weight": 0.7, "global_weight": 1.5} | options
    return im.DeepInfoMax(images_encoder(), projector(), projector(), cosine(), objective, **options)


def cpc_of_images(objective, **options):
    context = encoders.CausalGRU(6, 7)
    return im.CPC(images_encoder(), context, im.Bilinear(7, 6), objective, steps=2, patch=4, stride=2, **options)


def cpc_of_sequences(objective, **options):
    return im.CPC(InTime(6), encoders.CausalGRU(6, 7), im.Bilinear(7, 6), objective, steps=3, **options)


def two_tower(objective, **options):
    x, y = (nn.Sequential(nn.Linear(width, 6), nn.Tanh()) for width in (4, 3))
    return im.TwoTower(x, y, projector(), projector(), cosine(), objective, **options)


KINDS = {
    "InfoMax": Kind(infomax, views(2), _of_views),
    "NT-Xent": Kind(lambda objective, **options: infomax(objective, ntxent=True, **options), views(2), _ntxent),
    "InfoMax, three views": Kind(infomax, views(3), _of_views),
    "multi-crop": Kind(lambda objective, **options: infomax(objective, targets=2, **options), views(4, 2), _of_views),
    "MoCo": Kind(moco, views(2), _moco),
    "DeepInfoMax": Kind(deep_infomax, views(2), _deep_infomax),
    "DeepInfoMax, one view": Kind(deep_infomax, views(1), _deep_infomax),
    "DeepInfoMax, local": Kind(
        lambda objective, **options: deep_infomax(objective, globally=False, **options), views(2), _deep_infomax
    ),
    "DeepInfoMax, global": Kind(
        lambda objective, **options: deep_infomax(objective, local=False, **options), views(2), _deep_infomax
    ),
    "CPC of images": Kind(cpc_of_images, views(2), _cpc),
    "CPC of sequences": Kind(cpc_of_sequences, sequences, _cpc),
    "TwoTower": Kind(two_tower, modalities, _two_tower),
}


def made(name: str, objective: str, **options) -> im.models.Model:
    """A model of a kind in float64, seeded; a MoCo's queue is full, as earlier batches would leave it."""
    torch.manual_seed(1)
    model = KINDS[name].make(im.objectives.objective(objective), **options).double()
    if isinstance(model, im.MoCo):
        fill(model)
    return model


def fill(model: im.MoCo) -> None:
    model.keys.copy_(torch.randn(model.keys.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    model.filled.fill_(model.queue)
    # Every third key is an earlier one of a sample that may be in the batch, as after an epoch.
    for place in range(0, model.queue, 3):
        model.key_ids[place] = place // 2
    with torch.no_grad():  # a key network of its own, as momentum leaves it
        for parameter in (*model.key_encoder.parameters(), *model.key_projector.parameters()):
            parameter.mul_(1.1)


def ceiling(terms: Sequence[Term]) -> float:
    """Nats: the weighted log of the mean number of negatives a row, and one."""
    return sum(t.weight * math.log(float(t.negative.sum()) / len(t.negative) + 1) for t in terms)
