"""Models from saved runs, without trust in what the files say."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from infomax.checkpoints.checkpoint import ATTEMPTS, MODEL_FILE, Checkpoint, fitted, must_fit, read
from infomax.checkpoints.description import build, build_part, encoder_name, part_of
from infomax.checkpoints.files import DamagedError, reason_of
from infomax.errors import UserError
from infomax.models import OF_VIEWS, registry


def load(path: str | os.PathLike[str], allow_imports: bool = False) -> Any:
    """A saved model, of the class that was saved, in evaluation mode on the CPU.

    path: a run folder (its newest whole checkpoint) or a checkpoint. A class of the saver's own (`module:Class`: the
    model's, its critic's, its objective's) is imported only with allow_imports=True, which runs that module's code.
    Raises UserError as read() does, and where the model cannot be rebuilt.
    """
    checkpoint, weights = _read_weights(path)
    make = functools.partial(build, checkpoint.model, allow_imports)
    return _filled(make, weights, checkpoint.folder, trusted=allow_imports).eval()


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """The encoder alone of a saved model, in evaluation mode on the CPU; needs nothing of its objective and critic.

    path: a run or checkpoint folder. Of a model of two encoders, encoder_x; read_part() gives the other.
    """
    return read_encoder(path)[1]


def read_encoder(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module]:
    """The checkpoint of `path`, and load_encoder's encoder of it: one read, which pruning cannot come between."""
    checkpoint, weights = _read_weights(path)
    return checkpoint, _part(checkpoint, weights, encoder_name(checkpoint.model))


def read_part(path: str | os.PathLike[str], name: str) -> tuple[Checkpoint, nn.Module]:
    """One part of a saved model by its constructor's name for it, as read_encoder() gives the encoder.

    path: of a run or checkpoint. name: projector, critic, encoder_y, ... Raises UserError as load() does, where there
    is no such part, and for one of the saver's own class, which only load() may import.
    """
    checkpoint, weights = _read_weights(path)
    return checkpoint, _part(checkpoint, weights, name)


def read_parts(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module, nn.Module | None]:
    """read_encoder's of `path`, and the projector; None where there is none, or one of the saver's own class."""
    return read_critic(path)[:3]


def read_critic(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module, nn.Module | None, nn.Module | None]:
    """read_parts's of `path`, and the critic, where it scores two projections, else None."""
    checkpoint, weights = _read_weights(path)
    name = encoder_name(checkpoint.model)
    encoder = _part(checkpoint, weights, name)
    description: Mapping[str, Any] = checkpoint.model or {}

    def known(name: str) -> nn.Module | None:
        text = description["parts"].get(name)
        return None if not isinstance(text, str) or ":" in text else _part(checkpoint, weights, name)

    of_views = registry.get(str(description.get("model")).lower()) in OF_VIEWS
    critic = known("critic") if of_views else None
    return checkpoint, encoder, known(name.replace("encoder", "projector")), critic


def _part(checkpoint: Checkpoint, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    form = part_of(checkpoint.model, name)
    own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
    return _filled(functools.partial(build_part, name, form), own, checkpoint.folder).eval()


Module = TypeVar("Module", bound=nn.Module)


def _filled(make: Callable[[], Module], weights: Mapping[str, Tensor], folder: Path, trusted: bool = False) -> Module:
    """What `make` makes from a saved description, with saved weights; first without memory, unless that is trusted.

    A description may ask for more layers than there is time, and larger ones than there is memory.
    """
    if not trusted:
        with torch.device("meta"), _at_most(2 * len(weights) + 100, folder):
            try:
                must_fit(fitted(empty := make(), weights), empty.state_dict(), folder)
            except UserError:
                raise
            except Exception as error:
                raise DamagedError(f"{folder} describes a model that cannot be made ({reason_of(error)}).") from None
    model = make()
    weights = fitted(model, weights)
    must_fit(weights, model.state_dict(), folder)
    model.load_state_dict(weights, strict=True)
    return model


@contextlib.contextmanager
def _at_most(parameters: int, folder: Path) -> Iterator[None]:
    """Within it, more parameters, or far more modules, cannot be made: raises DamagedError."""
    made = {"parameters": 0, "modules": 0}
    most = {"parameters": parameters, "modules": 20 * parameters}  # a module without parameters is cheap, not free

    def count(what: str, *_: object) -> None:
        made[what] += 1
        if made[what] > most[what]:
            raise DamagedError(f"{folder} describes a model of more {what} than it holds.")

    hooks = (
        register_module_parameter_registration_hook(functools.partial(count, "parameters")),
        register_module_module_registration_hook(functools.partial(count, "modules")),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read_weights(path: str | os.PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    for _ in range(ATTEMPTS):
        checkpoint = read(path)
        try:
            return checkpoint, checkpoint.tensors(MODEL_FILE)
        except DamagedError:
            if checkpoint.folder.exists():
                raise  # else it was pruned while we read, and a newer one has come
    raise UserError(f"{path} changes faster than it can be read.")
