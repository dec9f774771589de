"""The registry of parts that checkpoints can rebuild, beside encoders, critics and objectives; `@part` adds one."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Made = TypeVar("Made", bound=Callable[..., nn.Module])

# A saved model's parts are made anew from their text by these names; infomax.encoders' Projector is known too.
parts: dict[str, Callable[..., nn.Module]] = {"linear": nn.Linear, "identity": nn.Identity}


def part(made: Made) -> Made:
    """Register a class whose repr is its constructor call, so that checkpoints of models with it can be loaded.

    To be written above the class, `@part`. made: the class; it is returned as it is.
    """
    parts[getattr(made, "__name__", repr(made)).lower()] = made
    return made
