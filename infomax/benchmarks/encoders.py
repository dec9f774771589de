"""What is said of encoders, untrained and trained, where it is known: I(label; Z), I(J; Z) and MI through noise.

Small encoders are trained on procedural scenes and looked at after some epochs. Of each, features are drawn anew from
normal distributions with its own moments: of each class a mean, a covariance between images and one within an image's
views. Then every density is known, and with it the MI, and the very functions that `infomax estimate RUN` calls are
asked for it.
"""

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomax import errors, objectives, training
from infomax.benchmarks import cells
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.health import covered, gaussians
from infomax.critics import Cosine
from infomax.data import PairLoader, dataset, views_for
from infomax.encoders import Projector, encoder, features_of
from infomax.errors import UserError
from infomax.estimation import Estimate
from infomax.evaluation import Subject
from infomax.evaluation.identity import READ, VIEWS, of_rows, rows_of_views
from infomax.evaluation.information import through_noise, views_through_noise
from infomax.evaluation.layers import estimated_on
from infomax.launch import make_accelerator
from infomax.models import InfoMax

OBJECTIVES = ("InfoNCE()", "SMILE(tau=5)")  # by turns, a seed each
COLUMNS = 16  # leading principal components of the features
IMAGES, SEEN = 512, 4  # held-out images whose views give the moments, and views of each
PAIRS = (3400, 600, 1000)  # training, validation, test: as of a run on mnist5k
DRAWS = 40_000  # for the mean of a log ratio that is the truth


def command(
    seeds: int = 5,
    epochs: tuple[int, ...] = (0, 1, 3, 8),
    data: str = "scenes:2000",
    batch_size: int = 256,
    output: Path = Path("results/encoders"),
    json: bool = False,
) -> None:
    """Coverage of intervals and lower bounds of what is said of an encoder, and how often it is trusted.

    Args:
        seeds: So many encoders are trained, from seed 0: InfoNCE and SMILE by turns.
        epochs: After which each is looked at; 0 is the untrained one.
        data: A data set with labels, as the recipes take it.
        batch_size: Pairs in a batch.
        output: The results folder. What a killed run finished there is not done again.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(seeds=seeds, batch_size=batch_size)
    if not epochs or sorted(set(epochs)) != list(epochs) or epochs[0] < 0:
        raise UserError(f"--epochs are numbers that rise, such as 0 1 3 8, not {' '.join(map(str, epochs))}.")
    keys = [
        {"experiment": "encoders", "seed": seed, "objective": OBJECTIVES[seed % len(OBJECTIVES)],
         "epochs": list(epochs), "data": data, "batch_size": batch_size, "pairs": list(PAIRS)}
        for seed in range(seeds)
    ]  # fmt: skip

    def work(key: dict[str, Any]) -> Any:
        return lambda: measured(key)

    found = cells.run([Cell(key, work(key)) for key in keys], output, not json)
    looked_at = [one for result in found for one in result["encoders"]]
    made = {"where the MI is known": covered(looked_at), "of what was trusted": _trusted(looked_at)}
    protocol = (
        f"{len(looked_at)} encoders: resnet10_tiny on {data}, {seeds} trained by {' and '.join(OBJECTIVES)} in turn,"
        f" after {', '.join(map(str, epochs))} epochs. Features in {COLUMNS} columns,"
        f" {' / '.join(map(str, PAIRS))} pairs."
        f" {sum(result['seconds'] for result in found) / len(looked_at):.0f} s of processor time an encoder."
    )
    cells.report(cells.write_tables(output, "encoders", protocol, made), made, output, json)


def measured(key: dict[str, Any]) -> Generator[float, None, dict[str, Any]]:
    """Trains one encoder, and asks what is said of it after each of the epochs: what `covered` reads of each."""
    torch.manual_seed(key["seed"])
    images = dataset(key["data"])
    views = views_for(images)
    loader = PairLoader(images.train, views, key["batch_size"])
    network = encoder("resnet10_tiny", in_chans=images.shape[0])
    model = InfoMax(
        network, Projector(features_of(network), hidden=256, out=64), Cosine(0.2, learn="bias"),
        objectives.objective(key["objective"]),
    )  # fmt: skip
    about, seed, began = Subject(network, None, images, None, views), key["seed"], time.process_time()
    after = {epoch * len(loader): epoch for epoch in key["epochs"]}
    found: list[dict[str, Any]] = []

    def looked(step: int) -> float:
        modes = [(module, module.training) for module in network.modules()]
        found.append({"epoch": after[step], "known": known(about, seed)})
        for module, was in modes:
            module.training = was
        return len(found) / len(after)

    yield 0.0
    if 0 in after:
        yield looked(0)
    if steps := max(after):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = training.warmup_cosine(steps, steps // 10)
        for step in training.train(model, loader, optimizer, schedule, make_accelerator(None), steps=steps):
            if step.number in after:
                yield looked(step.number)
    return {"encoders": found, "seconds": time.process_time() - began}


def known(about: Subject, seed: int) -> dict[str, list[Any]]:
    """By quantity: the truth's lower and upper end, and the floor, interval, value and verdict, in nats."""
    generator = torch.Generator().manual_seed(seed)
    labels = about.data.test.labels
    if labels is None:
        raise UserError(f"{about.data.name} has no labels, and classes are what features are drawn of.")
    rows = rows_of_views(about, min(IMAGES, len(about.data.test)), SEEN, seed)
    at = torch.randperm(len(about.data.test), generator=torch.Generator().manual_seed(seed))[: len(rows)]
    mixture = Mixture.of(rows, labels[at], COLUMNS)
    parts = [mixture.drawn(number, generator) for number in PAIRS]
    ids, first = [], 0
    for number in PAIRS:
        ids.append(torch.arange(first, first + number))
        first += number
    given: dict[str, Any] = {"seed": seed, "device": "cpu"}
    one, two, names = ([part[i] for part in parts] for i in range(3))
    fresh = mixture.drawn(DRAWS, generator)
    label = estimated_on(one, names, ids, given)
    noise = through_noise(one, ids, given)
    both = views_through_noise(one, two, ids, given)
    images, drawn = gaussians(rows_of_views(about, 128, 24, seed), 8, 1.0, generator)
    who = of_rows(drawn[:, :VIEWS], drawn[:, VIEWS : VIEWS + READ], among=64, seed=seed)
    truths = {
        "I(label; Z)": (mixture.of_label(fresh), label),
        "I(Z; Z + noise)": (mixture.of_noise(fresh, _scale(noise), generator), noise),
        "I(Z1 + noise; Z2 + noise)": (mixture.of_views(fresh, _scale(both), generator), both),
    }
    result: dict[str, list[Any]] = {
        name: [truth, truth, e.floor, *e.interval, e.mi, e.trusted] for name, (truth, e) in truths.items()
    }
    return result | {"I(J; Z) among 64": [*images, who.floor, *who.interval, who.mi, who.trusted]}


def _scale(found: Estimate) -> float:
    return found.protocol["noise"]["deviation"]


@dataclass(frozen=True)
class Mixture:
    """Of k classes, each as likely: features of a view are a mean, an image's part and a view's part, both normal.

    means [k, p]; between, within [k, p, p]: covariances of images, and of an image's views.
    """

    means: Tensor
    between: Tensor
    within: Tensor

    @staticmethod
    def of(rows: Tensor, labels: Tensor, columns: int) -> "Mixture":
        """With the moments of features rows [n, views, d] of images of labels [n], in their leading components."""
        flat = rows.double().flatten(0, 1)
        axes = torch.linalg.eigh((flat - flat.mean(0)).T @ (flat - flat.mean(0)))[1][:, -columns:]
        seen = (rows.double() - flat.mean(0)) @ axes
        seen = seen / seen.std()  # numbers of order 1: no MI depends on it
        means, between, within = [], [], []
        ridge = 1e-3 * torch.eye(columns, dtype=torch.float64)
        for name in labels.unique():
            own = seen[labels == name]
            centres = own.mean(1)
            apart = (own - centres[:, None]).flatten(0, 1)
            inner = apart.T @ apart / (len(own) * (own.shape[1] - 1))
            values, vectors = torch.linalg.eigh(centres.T.cov() - inner / own.shape[1])  # what views leave in a mean
            means.append(centres.mean(0))
            between.append(vectors * values.clamp(min=0) @ vectors.T + ridge)
            within.append(inner + ridge)
        return Mixture(torch.stack(means), torch.stack(between), torch.stack(within))

    def drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Features of two views of n images, [n, p] each, and their classes [n]."""
        names = torch.randint(len(self.means), (n,), generator=generator)
        roots = [torch.linalg.cholesky(each) for each in (self.between, self.within)]

        def part(root: Tensor) -> Tensor:
            noise = torch.randn(n, root.shape[1], generator=generator, dtype=torch.float64)
            return torch.einsum("nij,nj->ni", root[names], noise)

        image = self.means[names] + part(roots[0])
        return (image + part(roots[1])).float(), (image + part(roots[1])).float(), names

    def of_label(self, fresh: tuple[Tensor, Tensor, Tensor]) -> float:
        """I(label; Z), in nats, by the densities at fresh draws."""
        scores = self._densities(fresh[0].double(), self.means, self.between + self.within)
        own = scores.log_softmax(1).gather(1, fresh[2][:, None])
        return math.log(len(self.means)) + float(own.mean())

    def of_noise(self, fresh: tuple[Tensor, Tensor, Tensor], scale: float, generator: torch.Generator) -> float:
        """I(Z; Z + noise): the entropy of the sum, a mixture too, less that of the noise."""
        z, p = fresh[0].double(), self.means.shape[1]
        noise = scale * torch.randn(z.shape, generator=generator, dtype=torch.float64)
        of_sum = self._log_density(z + noise, self.means, self._noisy(scale))
        of_noise = -noise.square().sum(1) / (2 * scale**2) - p * math.log(scale * math.sqrt(2 * math.pi))
        return float((of_noise - of_sum).mean())

    def of_views(self, fresh: tuple[Tensor, Tensor, Tensor], scale: float, generator: torch.Generator) -> float:
        """I(Z1 + noise; Z2 + noise): jointly, of a class, normal with covariance `between` across the views."""
        sides = [
            side.double() + scale * torch.randn(side.shape, generator=generator, dtype=torch.float64)
            for side in fresh[:2]
        ]
        own = self._noisy(scale)
        joint = torch.cat([torch.cat([own, self.between], 2), torch.cat([self.between, own], 2)], 1)
        together = self._log_density(torch.cat(sides, 1), self.means.repeat(1, 2), joint)
        alone = sum(self._log_density(side, self.means, own) for side in sides)
        return float((together - alone).mean())

    def _noisy(self, scale: float) -> Tensor:
        return self.between + self.within + scale**2 * torch.eye(self.means.shape[1], dtype=torch.float64)

    def _log_density(self, z: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
        return self._densities(z, means, covariances).logsumexp(1) - math.log(len(means))

    @staticmethod
    def _densities(z: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
        """The log density of rows z [n, p] in each class, [n, k]."""
        return torch.stack(
            [
                torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
                for mean, covariance in zip(means, covariances, strict=True)
            ],
            1,
        )


def _trusted(looked_at: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a quantity: of encoders whose value is trusted, how many intervals hold the truth; the largest error."""
    rows: list[dict[str, Any]] = []
    for name in looked_at[0]["known"]:
        trusted = [one["known"][name] for one in looked_at if one["known"][name][6]]
        errors_of = [max(one[0] - one[5], one[5] - one[1], 0.0) for one in trusted]
        rows.append({
            "of": name, "trusted, %": 100 * len(trusted) / len(looked_at),
            "interval holds": f"{sum(one[3] <= one[1] and one[4] >= one[0] for one in trusted)} of {len(trusted)}",
            "largest error": max(errors_of, default=math.nan),
        })  # fmt: skip
    return rows
