"""Any timm model as a feature extractor: made by name, described by its configuration, saved in timm's form."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from infomax.encoders import small_resnet  # noqa: F401  # registers its variants with timm
from infomax.encoders.start import load_weights, note, started_from
from infomax.errors import UserError, nearest
from infomax.maps import MapEncoder, gives_maps_alone, of_maps, places_of

_SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")
_CONFIG = "_infomax_config"  # where encoder() leaves what encoder_from() needs


def encoder(name: str, in_chans: int = 3, pretrained: bool | str = False, **timm_arguments: Any) -> nn.Module:
    """A timm model as a feature extractor: images [b, in_chans, h, w] -> features [b, features_of(model)].

    `name` is any of `timm.list_models()`, with or without a weight tag, or `local-dir:PATH` / `hf-hub:ID`. pretrained:
    start from timm's weights, which are downloaded, or, as text, from those of a .safetensors file or of a
    local-dir:PATH (load_weights). `timm_arguments` go to the model's constructor
    (`drop_path_rate=0.1`, `img_size=32`, ...). With features_only=True it is a MapEncoder: the mean over the last of
    timm's maps, which im.DeepInfoMax takes its patches from. Raises UserError for an unknown name, an argument that the
    model refuses, or weights that cannot be had.
    """
    if not isinstance(in_chans, int) or in_chans < 1:
        raise UserError(f"An encoder needs at least one input channel, in_chans={in_chans!r} was given.")
    if "num_classes" in timm_arguments:
        raise UserError("An encoder has no classifier (num_classes is always 0): leave num_classes out.")
    architecture, saved = _resolve(name)
    downloaded = pretrained if isinstance(pretrained, bool) else False
    try:
        model = timm.create_model(name, pretrained=downloaded, in_chans=in_chans, num_classes=0, **timm_arguments)
    except Exception as error:  # timm and the hub raise many kinds; each is about what the user asked for
        if downloaded and not isinstance(error, TypeError):
            raise UserError(
                f"The pretrained weights of encoder {name!r} could not be loaded ({_first_line(error)}): check the "
                "connection and that timm has weights of that name, or start untrained with pretrained=False."
            ) from error
        raise UserError(
            f"timm cannot build encoder {name!r} with in_chans={in_chans} and {timm_arguments or 'no arguments'}: "
            f"{_first_line(error)}."
        ) from error
    arguments = {**saved, **timm_arguments}
    if isinstance(pretrained, str):
        load_weights(model, pretrained)
    elif downloaded:
        note(model, f"timm's weights of {name}")
    if gives_maps_alone(model):
        started, model = started_from(model), MapEncoder(model)
        if started is not None:
            note(model, started)
    setattr(model, _CONFIG, {"name": architecture, "in_chans": in_chans, "arguments": arguments})
    return model


def encoder_config(model: nn.Module) -> dict[str, Any]:
    """What encoder_from() needs to build the same architecture again: name, in_chans, arguments; JSON can hold it.

    Raises UserError when `model` was not built by encoder(), or from arguments that JSON cannot hold.
    """
    config = getattr(model, _CONFIG, None)
    if config is None:
        raise UserError(
            f"This encoder, a {type(model).__name__}, was not built by infomax.encoder(), so nothing says how to "
            "rebuild it: build it with infomax.encoder(name, ...), or hand the module in again when loading."
        )
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The arguments {config['arguments']} of encoder {config['name']!r} cannot be written as JSON ({error}): "
            "name layers by timm's words, for instance norm_layer='groupnorm'."
        ) from error


def encoder_from(config: Mapping[str, Any]) -> nn.Module:
    """The encoder, untrained, that encoder_config() described as `config`. Raises UserError for other descriptions."""
    if not isinstance(config, Mapping) or set(config) != {"name", "in_chans", "arguments"}:
        raise UserError(f"An encoder's description has the keys name, in_chans and arguments, not {config!r}.")
    return encoder(config["name"], in_chans=config["in_chans"], **config["arguments"])


def features_of(model: nn.Module) -> int:
    """The width d of the features [b, d] that an encoder, `model`, returns.

    timm's num_features is the last feature map's width, which for some models (MobileNetV3) a further layer changes.
    Raises UserError for a module that states neither head_hidden_size nor num_features.
    """
    for attribute in ("head_hidden_size", "num_features"):
        width = getattr(model, attribute, None)
        if isinstance(width, int) and width > 0:
            return width
    raise UserError(
        f"The encoder, a {type(model).__name__}, has no attribute num_features: set it to its output width."
    )


@torch.no_grad()
def map_width(model: nn.Module, shape: Sequence[int], layer: str | None = None) -> int:
    """The number of channels of an encoder's feature map. model: the encoder. shape: (c, h, w) of its images.

    layer: the part, by name, whose output is the map; None: what timm's forward_features gives, or the map that a
    MapEncoder takes patches from. Raises UserError: no such part, an output that is no map (places_of), or images that
    the encoder cannot take.
    """
    image = torch.zeros(1, *shape, device=next((p.device for p in model.parameters()), None))
    caught: list[Any] = []
    model = of_maps(model, layer)
    layer = model.part(layer) if isinstance(model, MapEncoder) else layer
    if layer is not None and layer not in dict(model.named_modules()):
        raise UserError(f"The encoder, a {type(model).__name__}, has no part {layer!r}.{nearest(layer, _parts(model))}")
    if layer is None and not hasattr(model, "forward_features"):
        raise UserError(f"The encoder, a {type(model).__name__}, shows no feature map: name the part that gives one.")
    training = model.training
    model.eval()
    try:
        if layer is None:
            caught.append(model.forward_features(image))  # pyright: ignore[reportCallIssue]
        else:
            hook = model.get_submodule(layer).register_forward_hook(lambda _, given, out: caught.append(out))
            try:
                model(image)
            finally:
                hook.remove()
    except Exception as error:  # an encoder may raise anything
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".") or type(error).__name__
        raise UserError(
            f"The encoder, a {type(model).__name__}, cannot take images of {'x'.join(map(str, shape))} (channels,"
            f" height, width): {reason}. Choose another, such as resnet18_small or resnet18."
        ) from error
    finally:
        model.train(training)
    return places_of(model, caught[-1] if caught else None, layer).shape[2]


def _parts(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children()]


def save_timm(
    model: nn.Module,
    folder: str | os.PathLike[str],
    mean: Sequence[float],
    std: Sequence[float],
    input_size: Sequence[int],
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write an encoder in timm's own form, config.json and model.safetensors, into `folder` (made if missing).

    mean, std: one number a channel, for images in [0, 1]; input_size: (channels, height, width). weights: a state_dict
    to write in place of the encoder's own, contiguous and on the CPU. Afterwards
    `timm.create_model("local-dir:<folder>", pretrained=True)` gives the same features. Raises UserError for a module
    that encoder() did not build, or numbers that do not fit its channels.
    """
    from safetensors.torch import save_file

    config = encoder_config(model)
    if isinstance(model, MapEncoder):
        raise UserError("An encoder of timm's features_only=True gives maps there, and not these features: it is not"
                        " saved in timm's form.")  # fmt: skip
    channels = config["in_chans"]
    if len(input_size) != 3 or input_size[0] != channels or len(mean) != channels or len(std) != channels:
        raise UserError(
            f"An encoder of {channels} channels is saved with as many means and deviations and an input size "
            f"(channels, height, width), not mean={list(mean)}, std={list(std)}, input_size={list(input_size)}."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors refuses what is not contiguous, which channels_last weights are not.
    if weights is None:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    source: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    kept = ("interpolation", "first_conv", "classifier", "fixed_input_size", "license")
    written = {
        "architecture": source["architecture"],
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {**config["arguments"], "in_chans": channels},
        "pretrained_cfg": {
            **{key: source[key] for key in kept if source.get(key) is not None},
            "num_classes": 0,
            "input_size": list(input_size),
            "crop_pct": 1.0,
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
        },
    }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")


def _resolve(name: str) -> tuple[str, dict[str, Any]]:
    # The architecture behind a name and the constructor arguments that came with it. A place such as local-dir:PATH
    # may be gone when the encoder is rebuilt, so it is the architecture that is remembered.
    if not isinstance(name, str):
        raise UserError(f"An encoder's name is text, not {name!r}.")
    if not name.startswith(_SOURCES):
        if not timm.is_model(name):
            known = timm.list_models()
            raise UserError(f"Unknown encoder {name!r}.{nearest(name, known)} timm.list_models() lists all.")
        return name, {}
    try:
        if name.startswith("local-dir:"):
            config = json.loads((Path(name.removeprefix("local-dir:")) / "config.json").read_text())
            architecture, arguments = config["architecture"], config.get("model_args") or {}
        else:
            from timm.models import load_model_config_from_hf

            _, architecture, arguments = load_model_config_from_hf(name.split(":", 1)[1])
    except Exception as error:
        raise UserError(f"No timm model could be read from {name!r} ({_first_line(error)}).") from error
    return architecture, {k: v for k, v in (arguments or {}).items() if k not in ("in_chans", "num_classes")}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".:")
