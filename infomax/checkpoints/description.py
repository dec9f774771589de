"""A model in words, and the model that the words describe."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.models import InfoMax


def registries() -> dict[str, Mapping[str, Any]]:
    from infomax import critics, objectives
    from infomax.encoders import Projector

    projectors = {"projector": Projector, "linear": nn.Linear, "identity": nn.Identity}
    return {"projector": projectors, "critic": critics.registry, "objective": objectives.registry}


def describe(model: nn.Module) -> dict[str, Any] | None:
    """An InfoMax in words, for build(): its encoder's configuration, and the constructor calls of its other parts.

    A class of the user's own is `module:Class(...)`. An encoder that infomax.encoder() did not make is None: such a
    model is rebuilt by its owner and filled with Checkpoint.restore(). None for a module that is no InfoMax.
    """
    from infomax.models import InfoMax

    model = unwrapped(model)
    if not isinstance(model, InfoMax):
        return None
    from infomax.encoders import encoder_config

    description: dict[str, Any] = {"encoder": None, "ntxent": model.ntxent}
    with contextlib.suppress(UserError):
        description["encoder"] = encoder_config(model.encoder)
    for kind, registry in registries().items():
        part = getattr(model, kind)
        known = registry.get(type(part).__name__.lower()) is type(part)
        description[kind] = repr(part) if known else f"{type(part).__module__}:{part!r}"
    return description


def build(description: Mapping[str, Any] | None, allow_imports: bool = False) -> "InfoMax":
    """The untrained InfoMax that describe() put in words.

    Raises UserError where the words cannot be followed, and for a `module:Class` unless allow_imports.
    """
    from infomax.models import InfoMax
    from infomax.spelling import parse

    description = description or {}
    parts = {}
    try:
        encoder = build_encoder(description)
        for kind, registry in registries().items():
            text = description.get(kind)
            if not isinstance(text, str):
                raise UserError(f"The saved model names no {kind}.")
            parts[kind] = parse(text, registry, kind, allow_imports=allow_imports)
    except UserError as error:
        raise UserError(
            f"{error} Or build the model yourself and fill it: infomax.checkpoints.read(path).restore(model)."
        ) from error
    return InfoMax(encoder, **parts, ntxent=bool(description.get("ntxent")))


def build_encoder(description: Mapping[str, Any] | None) -> nn.Module:
    from infomax.encoders import encoder_from

    config = (description or {}).get("encoder")
    if config is None:
        raise UserError("The saved encoder was not made by infomax.encoder(), so it cannot be rebuilt from its name.")
    # timm would read weights from where these say, some of them pickles; none of them shapes a model.
    reading = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
    name, arguments = (config.get("name"), config.get("arguments")) if isinstance(config, dict) else (None, None)
    if not isinstance(name, str) or ":" in name or not isinstance(arguments, dict) or reading & set(arguments):
        raise UserError(f"The saved encoder's description {config!r} is not one that infomax writes.")
    return encoder_from(config)


def unwrapped(model: nn.Module) -> nn.Module:
    """Without DistributedDataParallel and torch.compile, whose state has other names."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
