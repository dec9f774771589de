"""What an encoder starts from: weights of a file, strictly, and stages that stay as they are."""

import hashlib
import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infomax.errors import UserError

_START = "_infomax_start"  # where sentences on what the encoder started from are left
_log = logging.getLogger("infomax")


def started_from(model: nn.Module) -> str | None:
    """What an encoder, `model`, started from and what of it is frozen, in words; None for one that starts untrained."""
    return getattr(model, _START, None)


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fills an encoder with the weights of a file; all of them, or none and a UserError.

    model: of infomax.encoder(). path: a .safetensors file, or a folder that holds model.safetensors, as save_timm() and
    timm write it, with or without "local-dir:" before it. A classifier's weights are left out, and those of the first
    convolution are brought to the encoder's number of channels as timm does. Raises UserError for a file that is not
    there, cannot be read, or holds weights of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(os.fspath(path).removeprefix("local-dir:")).expanduser()
    file = place / "model.safetensors" if place.is_dir() else place
    if not file.is_file():
        raise UserError(f"There is no file of weights {file}: name a .safetensors file or a folder that holds one.")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no .safetensors file; pickled weights, which may run code, are never read.")
    try:
        weights = load_file(file)
        with file.open("rb") as opened:
            checksum = hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"The weights {file} cannot be read ({str(error).splitlines()[0].rstrip('.')}).") from error
    weights = _adapted(model, weights)
    _require_fit(model, weights, file)
    model.load_state_dict(weights, strict=True)
    note(model, f"weights {file.name}, sha256 {checksum[:16]}")


def freeze(model: nn.Module, stages: int) -> None:
    """Freezes an encoder's stem and its first stages: their weights and BatchNorm's running statistics stay.

    model: an encoder of timm's, which groups its parameters. stages: how many of its stages, or blocks of a
    transformer, are frozen beside the stem; 0 freezes nothing. What is frozen is said in a warning of the logger
    "infomax". Raises UserError for more stages than there are, and for an encoder that does not tell its stages.
    """
    if not isinstance(stages, int) or stages < 0:
        raise UserError(f"The number of frozen stages is a whole number from 0, not {stages!r}.")
    if stages == 0:
        return
    groups = _stages(model)
    if stages >= len(groups):
        raise UserError(
            f"{stages} stages cannot be frozen: the encoder, a {type(model).__name__}, has a stem and "
            f"{len(groups) - 1}, {', '.join(list(groups)[1:])}."
        )
    chosen = list(groups)[: stages + 1]
    names = {name for stage in chosen for name in groups[stage]}
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    norms = tuple(
        name for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and all(f"{name}.{own}" in names for own, _ in module.named_parameters())
        and any(True for _ in module.named_parameters())
    )  # fmt: skip

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        type(self).train(self, mode)
        for name in norms:  # by name, as synchronised BatchNorm takes the place of the others
            self.get_submodule(name).training = False
        return self

    model.train = MethodType(train, model)
    model.train(model.training)
    count = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    said = f"frozen: {', '.join(chosen)} ({count:,} of {total:,} parameters)"
    note(model, said)
    if os.environ.get("RANK", "0") == "0":  # one of several processes tells
        _log.warning("F%s", said[1:])


def note(model: nn.Module, sentence: str) -> None:
    """Adds to what started_from() says of an encoder."""
    before = started_from(model)
    setattr(model, _START, sentence if before is None else f"{before}; {sentence}")


def _adapted(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # As timm does on loading: without the classifier, the first convolution for the encoder's channels.
    from timm.models import adapt_input_conv

    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    made, own = dict(weights), model.state_dict()
    for name in _several(config.get("classifier")):
        for key in (f"{name}.weight", f"{name}.bias"):
            if key not in own:
                made.pop(key, None)
    for name in _several(config.get("first_conv")):
        key = f"{name}.weight"
        there, here = made.get(key), own.get(key)
        if there is not None and here is not None and there.ndim == 4 and there.shape != here.shape:
            try:
                made[key] = adapt_input_conv(here.shape[1], there)
            except NotImplementedError:  # of a number of channels that nothing says how to bring to others
                continue
    return made


def _several(names: Any) -> tuple[str, ...]:
    return () if not names else (names,) if isinstance(names, str) else tuple(names)


def _require_fit(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    own = model.state_dict()
    missing, extra = [name for name in own if name not in weights], [name for name in weights if name not in own]
    other = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if not (missing or extra or other):
        return
    what = []
    if missing:
        what.append(f"{len(missing)} of {len(own)} are missing, as {missing[0]}")
    if other:
        first = other[0]
        what.append(f"{len(other)} have other shapes, as {first}, {list(weights[first].shape)} there and "
                    f"{list(own[first].shape)} here")  # fmt: skip
    if extra:
        what.append(f"{len(extra)} are others, as {extra[0]}")
    hint = "name the encoder that they are of"
    if any(name.startswith("encoder.") for name in extra):
        hint = "a checkpoint's folder holds its encoder alone in encoder/, which is what to name"
    raise UserError(f"The weights {file} are not those of this {type(model).__name__}: {'; '.join(what)}: {hint}.")


def _stages(model: nn.Module) -> dict[str, list[str]]:
    # Parameters of the stem and of each stage, or block, by the stage's name.
    from timm.models import group_parameters

    matcher = getattr(model, "group_matcher", None)
    try:
        grouped: Any = group_parameters(model, matcher(coarse=True)) if matcher is not None else {}
    except Exception:  # a model of the user's own may have another method of that name
        grouped = {}
    if len(grouped) < 2:
        raise UserError(f"The encoder, a {type(model).__name__}, does not tell its stages, so none can be frozen.")
    everything, groups = [name for names in grouped.values() for name in names], {}
    for place, number in enumerate(sorted(grouped)):
        names: list[str] = grouped[number]
        groups["the stem" if not place else _shared(names, set(everything) - set(names)) or f"stage {place}"] = names
    return groups


def _shared(names: list[str], others: set[str]) -> str:
    # The shortest start, in whole words, that all these names have and none of the others: layer1, blocks.3.
    found = ""
    for level in itertools.takewhile(
        lambda level: len(set(level)) == 1, zip(*(n.split(".") for n in names), strict=False)
    ):
        found = f"{found}.{level[0]}" if found else level[0]
        if not any(name.startswith(f"{found}.") for name in others):
            break
    return found
