"""The subject of an evaluation: an encoder, its projector and images, from a saved run or from the caller."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.data import Dataset, Paired
    from infomax.data.views import AnyViews


@dataclass(frozen=True)
class Subject:
    """What an evaluation is about: an encoder, its projector where known, images, the checkpoint it came from, views.

    views: those that it was trained on; None for those that suit the data set. critic: what scores two projections;
    None where there is none.
    """

    encoder: nn.Module
    projector: nn.Module | None
    data: "Dataset"
    checkpoint: dict[str, Any] | None  # {"step", "checksum"}
    views: "AnyViews | None" = None
    critic: nn.Module | None = None


Source = str | Path | nn.Module | Subject


def subject(checkpoint: Source, dataset: "str | Dataset | None" = None) -> Subject:
    """The encoder and data that an evaluation is about, and which checkpoint was read. Raises as `evaluate` does.

    checkpoint, dataset: as `evaluate` takes them.
    A saved run knows its data set, its views and their mean and deviation. The encoder is read into memory whole, with
    its checksum compared, so a run may train, save and prune meanwhile.
    """
    from infomax import data
    from infomax.checkpoints.description import is_model
    from infomax.checkpoints.loading import read_critic
    from infomax.models import InfoMax, MoCo

    limit = identity = projector = preprocessing = critic = None
    if isinstance(checkpoint, Subject):
        return checkpoint
    if isinstance(checkpoint, nn.Module):
        if dataset is None:
            raise UserError("An encoder that is not read from a run needs a dataset to be evaluated on.")
        encoder = checkpoint
        if is_model(checkpoint):
            side = "" if hasattr(checkpoint, "encoder") else "_x"  # of a model of two encoders, the first
            encoder, projector = getattr(checkpoint, f"encoder{side}"), getattr(checkpoint, f"projector{side}", None)
            critic = checkpoint.critic if isinstance(checkpoint, InfoMax | MoCo) else None
    else:
        found, encoder, projector, critic = read_critic(checkpoint)
        preprocessing = found.preprocessing
        identity = {"step": found.step, "checksum": found.checksum}
        if dataset is None:
            configuration = found.configuration
            dataset, limit = configuration.get("dataset"), configuration.get("limit")
            if not isinstance(dataset, str):
                raise UserError(f"{checkpoint} names no data set; say which with --dataset.")
    images = data.dataset(dataset, limit=limit) if isinstance(dataset, str) else dataset
    return Subject(encoder, projector, images, identity, data.views_from(preprocessing, images), critic)


def pairs_of(checkpoint: Source, dataset: Any = None) -> "Paired | None":
    """The paired data that an evaluation is about; None where it is about images.

    checkpoint: a run's folder knows the name of its pairs. dataset: pairs, or their name, which come before.
    """
    from infomax import data

    limit = None
    if dataset is None and isinstance(checkpoint, str | Path):
        dataset, limit = _named_in(Path(checkpoint))
    if isinstance(dataset, data.Paired):
        return dataset
    if isinstance(dataset, str) and dataset.startswith(("halves:", "pairs:", "names:")):
        return data.paired(dataset, limit=limit)
    return None


def _named_in(folder: Path) -> tuple[Any, Any]:
    """The data set and the limit that a run or a checkpoint names; a look alone, as whoever reads it checks it."""
    for path in (folder / "run.json", folder / "state.json"):
        try:
            configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
            return configuration.get("dataset"), configuration.get("limit")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None, None
