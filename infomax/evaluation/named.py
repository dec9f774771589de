"""Encoders that were not trained here, by name: a function of a user's file, a timm model, a folder of timm's form."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from infomax.errors import UserError, nearest

PREFIXES = ("timm:", "local-dir:", "hf-hub:")


def names_encoder(text: str | Path) -> bool:
    """Whether a text names an encoder rather than the folder of a run: FILE.py:NAME, or one of the prefixes."""
    return str(text).startswith(PREFIXES) or ".py:" in str(text)


def named_encoder(text: str | Path, channels: int) -> nn.Module:
    """The encoder that a text names, in evaluation mode. channels: of the images, for a timm model.

    FILE.py:NAME: an nn.Module of that file, or a function without arguments that returns one; the file is run.
    timm:NAME: that model with its public weights, and no classifier. local-dir:FOLDER, hf-hub:USER/NAME: as timm reads
    them. Raises UserError: no such file, name or model, what is no module, weights that cannot be had.
    """
    name = str(text)
    made = _of_timm(name, channels) if name.startswith(PREFIXES) else _of_file(name)
    return made.eval()


def _of_file(text: str) -> nn.Module:
    place, _, name = text.rpartition(":")
    file = Path(place)
    if not file.is_file():
        raise UserError(f"There is no file {file}: FILE.py:NAME names an encoder, or a function that makes it.")
    spec = importlib.util.spec_from_file_location(f"infomax_user_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # a name that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        del sys.modules[spec.name]
        raise UserError(f"{file} could not be run ({type(error).__name__}: {error}).") from error
    if not hasattr(module, name):
        own = {key: getattr(value, "__module__", "") == spec.name for key, value in vars(module).items()}
        known = [key for key, value in vars(module).items() if own[key] or isinstance(value, nn.Module)]
        raise UserError(f"{file} has no {name!r}.{nearest(name, known)}")
    made: Any = getattr(module, name)
    if not isinstance(made, nn.Module) and callable(made):
        try:
            made = made()
        except Exception as error:
            raise UserError(f"{name}() of {file} failed ({type(error).__name__}: {error}).") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{name} of {file} is {type(made).__name__}: an nn.Module, or a function that returns one.")
    return made


def _of_timm(text: str, channels: int) -> nn.Module:
    import timm

    name = text.removeprefix("timm:")
    if text.startswith("timm:") and not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}.{nearest(name.partition('.')[0], timm.list_models())}")
    if text.startswith("local-dir:") and not Path(text.removeprefix("local-dir:")).is_dir():
        raise UserError(f"There is no folder {text.removeprefix('local-dir:')}.")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, in_chans=channels)
    except Exception as error:  # no network, no such repository, a file that is no model
        raise UserError(f"{text} could not be read by timm ({type(error).__name__}: {error}).") from error
