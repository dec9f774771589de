"""Models from saved runs, without trust in what the files say."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from infomax.checkpoints.checkpoint import ATTEMPTS, MODEL_FILE, Checkpoint, must_fit, read
from infomax.checkpoints.description import build, build_encoder, registries
from infomax.checkpoints.files import DamagedError, reason_of
from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.models import InfoMax


def load(path: str | os.PathLike[str], allow_imports: bool = False) -> "InfoMax":
    """A saved model, in evaluation mode on the CPU, from a run folder (its newest whole checkpoint) or a checkpoint.

    A critic or objective of the saver's own (`module:Class`) is imported only with allow_imports=True, which runs that
    module's code. Raises UserError as read() does, and where the model cannot be rebuilt.
    """
    checkpoint, weights = _read_weights(path)
    make = functools.partial(build, checkpoint.model, allow_imports)
    return _filled(make, weights, checkpoint.folder, trusted=allow_imports).eval()


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """The encoder alone of a saved model, in evaluation mode on the CPU; needs nothing of its objective and critic."""
    return read_encoder(path)[1]


def read_encoder(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module]:
    """load_encoder's, with the checkpoint that it was read from: one read, which pruning cannot come between."""
    checkpoint, weights = _read_weights(path)
    return checkpoint, _part(checkpoint, weights, "encoder", functools.partial(build_encoder, checkpoint.model))


def read_parts(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module, nn.Module | None]:
    """read_encoder's, and the projector; None for one of the saver's own class, which only load() may import."""
    from infomax.spelling import parse

    checkpoint, weights = _read_weights(path)
    encoder = _part(checkpoint, weights, "encoder", functools.partial(build_encoder, checkpoint.model))
    text, known = (checkpoint.model or {}).get("projector"), registries()["projector"]
    if not isinstance(text, str) or ":" in text:
        return checkpoint, encoder, None
    make = functools.partial(parse, text, known, "projector", allow_imports=False)
    return checkpoint, encoder, _part(checkpoint, weights, "projector", make)


def _part(checkpoint: Checkpoint, weights: Mapping[str, Tensor], name: str, make: Callable[[], nn.Module]) -> nn.Module:
    own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
    return _filled(make, own, checkpoint.folder).eval()


Module = TypeVar("Module", bound=nn.Module)


def _filled(make: Callable[[], Module], weights: Mapping[str, Tensor], folder: Path, trusted: bool = False) -> Module:
    """What `make` makes from a saved description, with saved weights; first without memory, unless that is trusted.

    A description may ask for more layers than there is time, and larger ones than there is memory.
    """
    if not trusted:
        with torch.device("meta"), _at_most(2 * len(weights) + 100, folder):
            try:
                must_fit(weights, make().state_dict(), folder)
            except UserError:
                raise
            except Exception as error:
                raise DamagedError(f"{folder} describes a model that cannot be made ({reason_of(error)}).") from None
    model = make()
    must_fit(weights, model.state_dict(), folder)
    model.load_state_dict(weights, strict=True)
    return model


@contextlib.contextmanager
def _at_most(parameters: int, folder: Path) -> Iterator[None]:
    """Within it, a module of more parameters cannot be made: raises DamagedError."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > parameters:
            raise DamagedError(f"{folder} describes a model of more parameters than it holds.")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
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
