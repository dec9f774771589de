"""The subject of an evaluation: an encoder, its projector and images, from a saved run or from the caller."""

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.evaluation.common import channels, refusal, require_dataset, require_reads, sized
from infomax.evaluation.named import named_encoder, names_encoder

if TYPE_CHECKING:
    from infomax.data import Dataset, GivenViews, Paired
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


def subject(checkpoint: Source, dataset: "str | Dataset | None" = None, skip_unreadable: bool = False) -> Subject:
    """The encoder and data that an evaluation is about, and which checkpoint was read. Raises as `evaluate` does.

    checkpoint, dataset: as `evaluate` takes them. skip_unreadable: as infomax.data.dataset takes it, for a dataset that
    is a name; that of a saved run's own data set is the run's, or this.
    A saved run knows its data set, its views and their mean and deviation. The encoder is read into memory whole, with
    its checksum compared, so a run may train, save and prune meanwhile. Of another data set the images must have the
    channels that it was trained on, and a size that the encoder reads; what another encoder reads is tried with one
    image of zeros.
    """
    from infomax import data
    from infomax.checkpoints.description import is_model
    from infomax.checkpoints.loading import read_critic
    from infomax.models import OF_VIEWS

    limit = identity = projector = preprocessing = critic = None
    if isinstance(checkpoint, Subject):
        return checkpoint
    foreign = isinstance(checkpoint, str | Path) and names_encoder(checkpoint)
    if foreign and isinstance(dataset, str):
        dataset = data.dataset(dataset, skip_unreadable=skip_unreadable)
    if foreign and dataset is not None:
        checkpoint = named_encoder(checkpoint, dataset.shape[0])  # type: ignore[union-attr,arg-type]
    if isinstance(checkpoint, nn.Module) or foreign:
        if dataset is None:
            raise UserError(
                "An encoder that is not read from a run needs a dataset to be evaluated on, --dataset NAME."
            )
        assert isinstance(checkpoint, nn.Module)
        encoder = checkpoint
        if is_model(checkpoint):
            side = "" if hasattr(checkpoint, "encoder") else "_x"  # of a model of two encoders, the first
            encoder, projector = getattr(checkpoint, f"encoder{side}"), getattr(checkpoint, f"projector{side}", None)
            critic = checkpoint.critic if isinstance(checkpoint, OF_VIEWS) else None
    else:
        found, encoder, projector, critic = read_critic(checkpoint)
        preprocessing = found.preprocessing
        identity = {"step": found.step, "checksum": found.checksum}
        if dataset is None:
            configuration = found.configuration
            dataset, limit = configuration.get("dataset"), configuration.get("limit")
            skip_unreadable = skip_unreadable or configuration.get("skip_unreadable", False)
            if not isinstance(dataset, str):
                raise UserError(f"{checkpoint} names no data set; say which with --dataset.")
    if isinstance(dataset, str):
        images = data.dataset(dataset, limit=limit, skip_unreadable=skip_unreadable)
    else:
        images = require_dataset(dataset)

    def plain(read: Tensor) -> Tensor:  # made when asked for, as there are no such views of every other data set
        return data.views_from(preprocessing, images).plain(read)

    if preprocessing is not None:
        _require_fit(encoder, preprocessing.get("input_size"), images, checkpoint, plain)
    else:
        require_reads(encoder, images, plain)
    return Subject(encoder, projector, images, identity, data.views_from(preprocessing, images), critic)


def _require_fit(
    encoder: nn.Module, trained: Any, images: "Dataset", run: Any, plain: Callable[[Tensor], Tensor]
) -> None:
    """Raises UserError where a run's encoder cannot read the images of another data set; other sizes that it can read
    are a line on standard error. trained: the shape of what it was trained on, (c, h, w) or (c, time)."""
    shape = tuple(images.shape)
    if not isinstance(trained, list | tuple) or tuple(trained) == shape:
        return
    if len(trained) != len(shape):
        kinds = {2: "signals", 3: "images"}
        raise UserError(f"{run} was trained on {kinds.get(len(trained))}, and {images.name} holds {images.train.what}.")
    if trained[0] != shape[0]:
        grey = ", such as grey images" if trained[0] == 1 else ", such as colour images" if trained[0] == 3 else ""
        raise UserError(
            f"{run} was trained on {images.train.what} of {channels(trained[0])}, and those of {images.name} have "
            f"{channels(shape[0])}: give a data set of {channels(trained[0])}{grey}."
        )
    was, now = sized(trained), sized(shape)
    unit = "pixels" if len(shape) == 3 else "times"
    error = refusal(encoder, images, plain)
    if error is not None:
        sides = (
            f"; --dataset folder:PATH?size={trained[1]} reads a folder's (csv:, hf:, shards:, zarr: alike) at that size"
        )
        raise UserError(
            f"The encoder of {run} was trained on {was} {unit} and does not read those of {images.name}, {now}: give "
            f"{images.train.what} of its size{sides if len(shape) == 3 and trained[1] == trained[2] else ''}."
        ) from error
    logging.getLogger("infomax").warning(
        "%s was trained on %s %s and is evaluated on %s, as %s has them.", run, was, unit, now, images.name
    )


def untrained_like(encoder: nn.Module, seed: int) -> nn.Module | None:
    """An encoder of the same kind with weights that the seed draws; None where nothing says how it was built."""
    from infomax.encoders import encoder_config, encoder_from

    try:
        config = encoder_config(encoder)
    except UserError:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return encoder_from(config)


def pairs_of(checkpoint: Source, dataset: Any = None, skip_unreadable: bool = False) -> "Paired | GivenViews | None":
    """The paired data, or given views, that an evaluation is about; None where it is about images.

    checkpoint: a run's folder knows the name of its pairs. dataset: pairs, or their name, which come before.
    skip_unreadable: as subject() takes it.
    """
    from infomax import data
    from infomax.data.registry import KINDS

    limit, saved = None, saved_in(Path(checkpoint)) if isinstance(checkpoint, str | Path) else {}
    if dataset is None:
        configuration = saved.get("configuration", {})
        dataset, limit = configuration.get("dataset"), configuration.get("limit")
        skip_unreadable = skip_unreadable or bool(configuration.get("skip_unreadable"))
    elif isinstance(dataset, str):
        dataset = _as_read(dataset, saved.get("preprocessing"))
    if isinstance(dataset, data.Paired | data.GivenViews):
        return dataset
    if isinstance(dataset, str) and dataset.startswith("views:"):
        return data.named_views(dataset, limit=limit, skip_unreadable=skip_unreadable)
    if isinstance(dataset, str) and dataset.startswith(KINDS):
        return data.paired(dataset, limit=limit, skip_unreadable=skip_unreadable)
    return None


def _as_read(name: str, preprocessing: Any) -> str:
    """Captions of another table, read by the tokens that the towers of a run read, and as far: their features depend on
    the length."""
    place, mark, options = name.partition("?")
    if not place.startswith("captions:"):
        return name
    try:
        (length,) = preprocessing["y"]["shape"]
        vocabulary = preprocessing["y"].get("tokens", "characters")
    except (KeyError, TypeError, ValueError):  # older runs, and those of other pairs, do not say
        return name
    missing = [f"{option}={value}" for option, value in (("length", length), ("tokens", vocabulary))
               if f"{option}=" not in options]  # fmt: skip
    return name if not missing else f"{name}{'&' if mark else '?'}{'&'.join(missing)}"


def saved_in(folder: Path) -> dict[str, Any]:
    """What a run or checkpoint says of itself, its configuration for one; who reads them checks them."""
    for path in (folder / "run.json", folder / "state.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and isinstance(found.get("configuration"), dict):
                return found
    return {}
