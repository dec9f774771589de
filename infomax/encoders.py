"""Encoders: any timm model as a feature extractor, ResNets for small images, and the projector that follows them.

Importing this module registers the small-image variants with timm, so that `timm.create_model("local-dir:...")` can
rebuild an encoder that was saved from one of them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from infomax.errors import UserError, nearest

__all__ = ["Projector", "SmallResNet", "encoder", "encoder_config", "encoder_from", "features_of", "save_timm"]

_SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")
_CONFIG = "_infomax_config"  # where encoder() leaves what encoder_from() needs


# ---------------------------------------------------------------------------------------------- small-image ResNets


@final
class SmallResNet(ResNet):
    """timm's ResNet with a 3x3 stem of stride `stem_stride` and no max-pool, for images of about 8 to 96 pixels.

    [b, in_chans, h, w] -> [b, channels[-1] * expansion] (with num_classes=0). (He et al., 2016, section 4.2: the
    CIFAR stem.) `stem_width` is the stem's number of channels; every other argument is timm's.
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        in_chans: int = 3,
        stem_width: int = 64,
        stem_stride: int = 1,
        **arguments: Any,
    ) -> None:
        # timm's plain stem is always 64 wide; asked for the deep stem, it sizes what follows from stem_width.
        super().__init__(
            block,  # pyright: ignore[reportArgumentType]
            tuple(layers),
            in_chans=in_chans,
            stem_type="deep",
            stem_width=stem_width // 2,
            **arguments,
        )
        like = next(self.parameters())
        width = 2 * (stem_width // 2)
        self.conv1 = nn.Conv2d(
            in_chans, width, 3, stride=stem_stride, padding=1, bias=False, device=like.device, dtype=like.dtype
        )
        if like.device.type != "meta":
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        # timm's account of the strides, which features_only=True reads, is of a stem that shrinks the image by 4.
        self.feature_info = [
            {**info, "reduction": int(info["reduction"]) * stem_stride // (2 if info["module"] == "act1" else 4)}
            for info in self.feature_info
        ]


def _small(variant: str, pretrained: bool, defaults: Mapping[str, Any], arguments: Mapping[str, Any]) -> SmallResNet:
    return build_model_with_cfg(SmallResNet, variant, pretrained, **{**defaults, **arguments})


def _cfg(size: int) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "first_conv": "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {
        "resnet10_tiny.untrained": _cfg(28),
        "resnet10_small_gn.untrained": _cfg(28),
        "resnet10t_small.untrained": _cfg(32),
        "resnet18_small.untrained": _cfg(32),
        "resnet34_small.untrained": _cfg(32),
        "resnet50_small.untrained": _cfg(32),
    }
)


@register_model
def resnet10_tiny(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-10 of widths 32-64-128-256 with a stride-2 3x3 stem: digits on a CPU."""
    defaults = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 32}
    return _small("resnet10_tiny", pretrained, {**defaults, "stem_stride": 2, "avg_down": True}, arguments)


@register_model
def resnet10_small_gn(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-10 of widths 16-32-64-128 with group normalisation: no sample's features depend on its batch."""
    defaults = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "stem_width": 16}
    return _small(
        "resnet10_small_gn", pretrained, {**defaults, "stem_stride": 2, "norm_layer": "groupnorm1"}, arguments
    )


@register_model
def resnet10t_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-10 with average-pooled shortcuts (timm's resnet10t), small-image stem."""
    return _small(
        "resnet10t_small", pretrained, {"block": BasicBlock, "layers": (1, 1, 1, 1), "avg_down": True}, arguments
    )


@register_model
def resnet18_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-18, small-image stem."""
    return _small("resnet18_small", pretrained, {"block": BasicBlock, "layers": (2, 2, 2, 2)}, arguments)


@register_model
def resnet34_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-34, small-image stem."""
    return _small("resnet34_small", pretrained, {"block": BasicBlock, "layers": (3, 4, 6, 3)}, arguments)


@register_model
def resnet50_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-50, small-image stem."""
    return _small("resnet50_small", pretrained, {"block": Bottleneck, "layers": (3, 4, 6, 3)}, arguments)


# ------------------------------------------------------------------------------------------------- making and saving


def encoder(name: str, in_chans: int = 3, pretrained: bool = False, **timm_arguments: Any) -> nn.Module:
    """A timm model as a feature extractor: images [b, in_chans, h, w] -> features [b, features_of(model)].

    `name` is any of `timm.list_models()`, with or without a weight tag, or `local-dir:PATH` / `hf-hub:ID`.
    `timm_arguments` go to the model's constructor (`drop_path_rate=0.1`, `img_size=32`, ...).
    Raises UserError for an unknown name, an argument that the model refuses, or weights that cannot be had.
    """
    if not isinstance(in_chans, int) or in_chans < 1:
        raise UserError(f"An encoder needs at least one input channel, in_chans={in_chans!r} was given.")
    if "num_classes" in timm_arguments:
        raise UserError("An encoder has no classifier (num_classes is always 0): leave num_classes out.")
    architecture, saved = _resolve(name)
    try:
        model = timm.create_model(name, pretrained=pretrained, in_chans=in_chans, num_classes=0, **timm_arguments)
    except Exception as error:  # timm and the hub raise many kinds; each is about what the user asked for
        if pretrained and not isinstance(error, TypeError):
            raise UserError(
                f"The pretrained weights of encoder {name!r} could not be loaded ({_first_line(error)}): check the "
                "connection and that timm has weights of that name, or start untrained with pretrained=False."
            ) from error
        raise UserError(
            f"timm cannot build encoder {name!r} with in_chans={in_chans} and {timm_arguments or 'no arguments'}: "
            f"{_first_line(error)}."
        ) from error
    arguments = {**saved, **timm_arguments}
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
    """The encoder, untrained, that encoder_config() described. Raises UserError for any other description."""
    if not isinstance(config, Mapping) or set(config) != {"name", "in_chans", "arguments"}:
        raise UserError(f"An encoder's description has the keys name, in_chans and arguments, not {config!r}.")
    return encoder(config["name"], in_chans=config["in_chans"], **config["arguments"])


def features_of(model: nn.Module) -> int:
    """The width d of the features [b, d] that an encoder returns.

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


# --------------------------------------------------------------------------------------------------------- projector


@final
class Projector(nn.Module):
    """Linear - norm - ReLU - Linear: [n, in_features] -> [n, out]. (Chen et al., 2020)

    norm: "batch" normalises over the batch, "layer" over each row, which does not see the batch.
    Raises UserError for a width below 1 or another norm.
    """

    def __init__(self, in_features: int, hidden: int = 512, out: int = 128, norm: str = "batch") -> None:
        super().__init__()
        for what, width in (("in_features", in_features), ("hidden", hidden), ("out", out)):
            if not isinstance(width, int) or width < 1:
                raise UserError(f"A projector's {what} is a whole number of at least 1, not {width!r}.")
        if norm not in ("batch", "layer"):
            raise UserError(f"A projector's norm is 'batch' or 'layer', not {norm!r}.")
        self.in_features, self.hidden, self.out, self.norm = in_features, hidden, out, norm
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden, bias=False),  # the norm's own bias follows
            nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)

    def __repr__(self) -> str:
        norm = "" if self.norm == "batch" else f", norm={self.norm!r}"
        return f"Projector({self.in_features}, hidden={self.hidden}, out={self.out}{norm})"
