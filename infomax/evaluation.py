"""What a saved encoder is worth: probes beside their baselines, and the MI between its views of held-out images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.estimation import Estimate, estimate_splits
from infomax.probing import Probe, features, probe

if TYPE_CHECKING:
    from infomax.data import Dataset, Split, Views

DRAWS = 2  # pairs of views a training image: more pairs to fit the critic on, at the price of encoding them
SELECT = 0.15  # of the training images: the critic stops on them


@dataclass(frozen=True)
class Probes:
    """The probes of an encoder, of raw pixels, and of an untrained encoder of its kind, None where it has no name."""

    trained: Probe
    pixels: Probe
    untrained: Probe | None

    def to_dict(self) -> dict[str, Any]:
        """The trained encoder's numbers and protocol, and under their names the baselines'."""
        untrained = None if self.untrained is None else self.untrained.to_dict()
        return {**self.trained.to_dict(), "pixels": self.pixels.to_dict(), "untrained": untrained}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: probes with their baselines, and I(Z1; Z2) of two views of held-out images, in nats."""

    probes: Probes
    mi: Estimate
    checkpoint: dict[str, Any] | None = None  # step and checksum of what was evaluated, where that was a checkpoint

    def to_dict(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "probe": self.probes.to_dict(), "estimate": self.mi.to_dict()}


def evaluate(
    checkpoint: str | Path | nn.Module,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Probes, kNN and I(Z1; Z2) of a saved run's encoder, with their baselines: what a recipe prints at its end.

    checkpoint: a run or checkpoint folder, or an encoder. dataset: a name or Dataset; a saved run's own by default.
    Raises UserError: a folder that cannot be read, an encoder without a dataset.
    """
    encoder, data, found = encoder_and_data(checkpoint, dataset)
    return Evaluation(_probes(encoder, data, seed, device), _views_mi(encoder, data, seed, device), found)


def probes(
    checkpoint: str | Path | nn.Module,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Probes:
    """The probes of a saved run's encoder, of raw pixels, and of an untrained encoder of the same kind."""
    return _probes(*encoder_and_data(checkpoint, dataset)[:2], seed, device)


def views_mi(
    checkpoint: str | Path | nn.Module,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    **options: Any,
) -> Estimate:
    """I(Z1; Z2), in nats, of a saved encoder's features of two augmented views of an image.

    The critic is fitted on views of training images, stopped on others of them, and reports on test images, one pair
    an image: no image is on two sides. options: objective, critic and budget, as estimate takes them.
    """
    return _views_mi(*encoder_and_data(checkpoint, dataset)[:2], seed, device, **options)


def encoder_and_data(
    checkpoint: str | Path | nn.Module, dataset: "str | Dataset | None"
) -> "tuple[nn.Module, Dataset, dict[str, Any] | None]":
    """The encoder and data that an evaluation is about, and {"step", "checksum"} of the checkpoint that was read.

    A saved run knows its data set. The encoder is read into memory whole, with its checksum compared, so a run may
    train, save and prune meanwhile.
    """
    from infomax import data
    from infomax.checkpoints import read_encoder

    limit = identity = None
    if isinstance(checkpoint, nn.Module):
        if dataset is None:
            raise UserError("An encoder that is not read from a run needs a dataset to be evaluated on.")
        encoder = checkpoint
    else:
        found, encoder = read_encoder(checkpoint)
        identity = {"step": found.step, "checksum": found.checksum}
        if dataset is None:
            configuration = found.configuration
            dataset, limit = configuration.get("dataset"), configuration.get("limit")
            if not isinstance(dataset, str):
                raise UserError(f"{checkpoint} names no data set; say which with --dataset.")
    return encoder, data.dataset(dataset, limit=limit) if isinstance(dataset, str) else dataset, identity


def _probes(encoder: nn.Module, data: "Dataset", seed: int, device: str | torch.device | None) -> Probes:
    from infomax.encoders import encoder_config, encoder_from

    try:
        config = encoder_config(encoder)
    except UserError:
        config = None
    untrained = None
    if config is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untrained = probe(encoder_from(config), data, seed=seed, device=device)
    pixels = probe(nn.Flatten(), data, seed=seed, device=device)
    return Probes(probe(encoder, data, seed=seed, device=device), pixels, untrained)


def _views_mi(
    encoder: nn.Module, data: "Dataset", seed: int, device: str | torch.device | None, **options: Any
) -> Estimate:
    from infomax.data import views_for

    views = views_for(data)
    train, report = len(data.train), len(data.test)
    order = torch.randperm(train, generator=torch.Generator().manual_seed(seed))
    select, fit = order[: round(SELECT * train)], order[round(SELECT * train) :]

    def pairs(split: "Split", indices: Tensor, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        sides = [
            torch.cat([
                features(encoder, split.subset(indices), _drawn(views, indices, seed, draw, view), device)
                for draw in range(draws)
            ])
            for view in (0, 1)
        ]  # fmt: skip
        return sides[0], sides[1], indices.repeat(draws)

    return estimate_splits(
        pairs(data.train, fit, DRAWS),
        pairs(data.train, select, DRAWS),
        # Numbered after the training images, since an id names an image over all splits.
        (*pairs(data.test, torch.arange(report), 1)[:2], torch.arange(report) + train),
        seed=seed,
        device=device or "cpu",
        **options,
    )


def _drawn(views: "Views", indices: Tensor, seed: int, draw: int, view: int) -> Callable[[Tensor], Tensor]:
    """Views of a split's images in order, as `features` asks for them, keyed by an epoch that training never has."""
    done = 0

    def make(images: Tensor) -> Tensor:
        nonlocal done
        ids = indices[done : done + len(images)].to(images.device)
        done += len(images)
        return views(images, ids, seed, -1 - draw, view)

    return make
