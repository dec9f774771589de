"""Describes a model as text and numbers that JSON holds, and builds a model from such a description.

{"model": "InfoMax", "parts": {"encoder": {...}, "critic": "Cosine(...)", ...}, "options": {"ntxent": false, ...}}: the
arguments of its constructor, each read from the attribute of that name. Modules are parts, whatever else is an option.
"""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from infomax.checkpoints.tensors import put_together, take_apart
from infomax.distributed import own_classes
from infomax.errors import UserError, nearest
from infomax.spelling import is_readable

_CALL = "Or build the model yourself and fill it: infomax.checkpoints.read(path).restore(model)."
_ABSENT = object()
_READING = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


def registry_of(part: str) -> Mapping[str, Any]:
    """The classes that a part of this name may be of, without a module's name before theirs."""
    from infomax import critics, encoders, models, objectives

    kinds: dict[str, Mapping[str, Any]] = {
        "projector": {**encoders.parts, **models.parts},
        "critic": critics.registry,
        "objective": objectives.registry,
    }
    everything = {name: made for kind in kinds.values() for name, made in kind.items()}
    return kinds.get(_kind(part), everything)


def _nested() -> Mapping[str, Any]:
    """The classes that an argument of a part may be of, as TUBA's baseline."""
    from infomax import encoders, models

    return {**encoders.parts, **models.parts}


def _kind(part: str) -> str:
    """projector_x -> projector"""
    return part.partition("_")[0]


def is_model(module: nn.Module) -> bool:
    """Whether it is of a registered class, or of a class made from one or from what infomax.models has beneath them."""
    from infomax import models

    known = set(models.registry.values())
    bases = {base for kind in known for base in kind.__mro__ if base.__module__.startswith("infomax.models")}
    return isinstance(module, (*known, *bases))


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters by name; with **keywords, those of the constructor that these are handed to."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is nn.Module or base is object:
            continue
        own = list(inspect.signature(base.__init__).parameters.values())[1:]
        found |= {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in found}
        if not any(p.kind == p.VAR_KEYWORD for p in own):
            break
    return found


def describe(model: nn.Module) -> dict[str, Any] | None:
    """A model in words, for build(): {"model", "parts", "options"}. None for a module that is no model of infomax's.

    model: a name in infomax.models.registry, or `module:Class`. parts: an encoder's configuration, the constructor call
    of another module (`module:Class(...)` for a class of the user's own), or a list of these; None where nothing says
    how to make it again, as for an encoder that infomax.encoder() did not make: such a model is rebuilt by its owner
    and filled with Checkpoint.restore(). options: whatever else its constructor takes.
    """
    model = unwrapped(model)
    with own_classes(model):
        return _described_model(model)


def _described_model(model: nn.Module) -> dict[str, Any] | None:
    from infomax.models import registry

    if not is_model(model):
        return None
    kind = type(model)
    parts: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name in parameters_of(kind):
        value, tensors = getattr(model, name, _ABSENT), {}
        if isinstance(value, nn.Module):
            parts[name] = _described(name, value)
            continue
        try:
            form = take_apart(value, tensors, name)
        except TypeError:  # a function, say, or no such attribute
            form = _ABSENT
        if tensors or form is _ABSENT:
            parts[name] = None
        else:
            options[name] = form
    known = registry.get(kind.__name__.lower()) is kind
    return {
        "model": kind.__name__ if known else f"{kind.__module__}:{kind.__name__}",
        "parts": parts,
        "options": options,
    }


def _described(name: str, part: nn.Module) -> Any:
    from infomax.encoders import encoder_config

    with contextlib.suppress(UserError):
        return encoder_config(part)
    if registry_of(name).get(type(part).__name__.lower()) is type(part):
        return repr(part) if is_readable(repr(part), _nested()) else None
    if _kind(name) == "encoder":
        return None
    if type(part) is nn.ModuleList:
        return [_described(name, item) for item in part]
    return f"{type(part).__module__}:{part!r}"


def build(description: Mapping[str, Any] | None, allow_imports: bool = False) -> Any:
    """The untrained model that describe() put in words.

    description: as Checkpoint.model holds it. allow_imports: import what is spelled `module:Class`, which runs that
    module's code. An option that it does not name has the constructor's default. Raises UserError where the words
    cannot be followed.
    """
    try:
        parts, options = _sections(description)
        kind = _class_of((description or {}).get("model"), allow_imports)
        known = parameters_of(kind)
        for name in sorted({*parts, *options} - known.keys()):
            raise UserError(f"The saved model has {name!r}, which {kind.__name__} does not take.{nearest(name, known)}")
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in parts and name not in options:
                raise UserError(f"The saved model names no {name}.")
        arguments: dict[str, Any] = {name: build_part(name, parts[name], allow_imports) for name in parts}
        try:
            return kind(**arguments, **{name: put_together(form, {}) for name, form in options.items()})
        except UserError:
            raise
        except Exception as error:  # as many kinds as there are constructors and options that we do not write
            raise UserError(f"{kind.__name__} cannot be made with the options {options!r} ({error!r}).") from error
    except UserError as error:
        raise UserError(f"{error} {_CALL}") from error


def migrated_description(description: Any) -> Any:
    """What formats 1 and 2 said of a model, an InfoMax with its parts side by side, as format 3 says it."""
    if not isinstance(description, dict):
        return description
    names = ("encoder", "projector", "critic", "objective")
    parts = {name: description[name] for name in names if name in description}
    return {"model": "InfoMax", "parts": parts, "options": {"ntxent": bool(description.get("ntxent"))}}


def _sections(description: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    if description is None:
        raise UserError("What was saved is no model of infomax's, so nothing says how to build it.")
    found = [description.get(section) for section in ("parts", "options")]
    parts, options = (section if isinstance(section, dict) else None for section in found)
    if parts is None or options is None or parts.keys() & options.keys():
        raise UserError(f"The saved model's description {description!r} is not one that infomax writes.")
    return parts, options


def _class_of(text: Any, allow_imports: bool) -> type[nn.Module]:
    from infomax.models import registry
    from infomax.spelling import found

    if not isinstance(text, str):
        raise UserError(f"The saved model's class {text!r} is not one that infomax writes.")
    module, _, name = text.rpartition(":")
    kind = found(module, name, text, registry, "model", allow_imports)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"model {text!r} is no class of models.")
    return kind


def part_of(description: Mapping[str, Any] | None, name: str) -> Any:
    """What a description says of a part. Raises UserError where it names no such part."""
    parts, _ = _sections(description)
    if name not in parts:
        raise UserError(f"The saved model has no part {name!r}.{nearest(name, parts)}")
    return parts[name]


def build_part(name: str, form: Any, allow_imports: bool = False, inside: bool = False) -> Any:
    """A part that describe() put in words: the module, or a ModuleList of modules. Raises UserError as build() does."""
    from infomax.encoders import encoder_from
    from infomax.spelling import parse

    if form is None and _kind(name) == "encoder":
        raise UserError("The saved encoder was not made by infomax.encoder(), so it cannot be rebuilt from its name.")
    if form is None:
        raise UserError(f"Nothing was saved that says how to build the model's {name}.")
    if isinstance(form, list) and not inside and _kind(name) != "encoder":
        return nn.ModuleList([build_part(name, item, allow_imports, inside=True) for item in form])
    if isinstance(form, str):
        made = parse(form, registry_of(name), name, allow_imports=allow_imports, parts=_nested())
        if not isinstance(made, nn.Module):
            raise UserError(f"The saved {name} {form!r} is no module.")
        return made
    # timm would read weights from where these say, some of them pickles; none of them shapes a model.
    config: dict[str, Any] = form if isinstance(form, dict) else {}
    model, arguments = config.get("name"), config.get("arguments")
    if not isinstance(model, str) or ":" in model or not isinstance(arguments, dict) or _READING & set(arguments):
        raise UserError(f"The saved {name}'s description {form!r} is not one that infomax writes.")
    return encoder_from(config)


def encoder_name(description: Mapping[str, Any] | None) -> str:
    """The part that is evaluated and saved in timm's form: encoder, or encoder_x of a model of two."""
    parts = (description or {}).get("parts")
    return "encoder_x" if isinstance(parts, dict) and "encoder" not in parts and "encoder_x" in parts else "encoder"


def unwrapped(model: nn.Module) -> nn.Module:
    """Without DistributedDataParallel and torch.compile, whose state has other names."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
