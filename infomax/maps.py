"""A feature map as rows, a row of channels for each of its places, whoever made it and wherever its channels stand."""

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from infomax.errors import UserError


def places_of(model: nn.Module, found: Any, layer: str | None = None) -> torch.Tensor:
    """A feature map as rows [n, p, c], a row of c channels for each of its p places.

    model: whose map it is, found: [n, c, h, w], [n, h, w, c] or tokens [n, t, c], layer: the part that gave it, None
    for timm's forward_features. Channels are last where timm's `output_fmt` says so, or where their number,
    `num_features`, stands there alone. Tokens that show no place, a class token and registers, are left out. Raises
    UserError for what is no map.
    """
    if not isinstance(found, torch.Tensor) or found.ndim not in (3, 4):
        shown = f"shape {list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise UserError(
            f"The local term needs a feature map [n, c, h, w] or tokens [n, t, c], and"
            f" {layer or 'forward_features'} of the encoder, a {type(model).__name__}, gives {shown}."
        )
    if found.ndim == 4:
        width = getattr(model, "num_features", None) if layer is None else None
        last = getattr(model, "output_fmt", None) == "NHWC" or (found.shape[3] == width != found.shape[1])
        return found.flatten(1, 2) if last else found.flatten(2).transpose(1, 2)
    extra = getattr(model, "num_prefix_tokens", int(getattr(model, "cls_token", None) is not None))
    grid = getattr(getattr(model, "patch_embed", None), "num_patches", None)
    # A part before the class token is added, or after it was taken away, has places alone.
    return found[:, extra:] if layer is None or found.shape[1] == extra + (grid or math.inf) else found


@final
class MapEncoder(nn.Module):
    """An encoder of images from a network that gives maps alone: the features [n, d] are the mean over the last map.

    network: images -> a map [n, c, h, w], or a list of maps, as timm's features_only=True networks give; channels may
    be last where timm's `output_fmt` says so. count: how many maps it gives; None: as many as timm names, or one.
    Each map passes a part of its own, "maps.0", "maps.1", ..., which im.DeepInfoMax(layer=...) can name; `patches` is
    the one that it takes by default, the last but one, or the only one. num_features is there where timm names the
    channels of the last map. Raises UserError: a network that gives anything else.
    """

    def __init__(self, network: nn.Module, count: int | None = None) -> None:
        super().__init__()
        info = getattr(network, "feature_info", None)
        channels = info.channels() if gives_maps_alone(network) and info is not None else []
        self.network = network
        self.maps = nn.ModuleList(nn.Identity() for _ in range(count or len(channels) or 1))
        self.patches = f"maps.{max(len(self.maps) - 2, 0)}"
        self.output_fmt = getattr(network, "output_fmt", "NCHW")
        width = channels[-1] if channels else getattr(network, "num_features", None)
        if width is not None:
            self.num_features: int = width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [n, c, h, w] -> [n, d]."""
        found = self.network(images)
        maps: Sequence[Any] = found if isinstance(found, list | tuple) else [found]
        if len(maps) != len(self.maps) or not all(isinstance(m, torch.Tensor) and m.ndim == 4 for m in maps):
            shown = [list(m.shape) if isinstance(m, torch.Tensor) else type(m).__name__ for m in maps]
            of = "a feature map" if len(self.maps) == 1 else f"{len(self.maps)} feature maps"
            raise UserError(
                f"The encoder, a {type(self.network).__name__}, shows no feature map for the local term: {of} [n, c, h,"
                f" w] is what it would have to give, and it gives {', '.join(map(str, shown))}. Name the part whose"
                " output is a map (layer=...), or take local=False."
            )
        last = [part(m) for part, m in zip(self.maps, maps, strict=True)][-1]
        return places_of(self, last, self.patches).mean(1)

    def part(self, layer: str | None) -> str:
        """The name, within this, of the network's part `layer`; None: of the map that patches are by default."""
        if layer is None:
            return self.patches
        own = dict(self.named_modules())
        return f"network.{layer}" if layer not in own and f"network.{layer}" in own else layer


def gives_maps_alone(network: nn.Module) -> bool:
    """Whether it was made with timm's features_only=True."""
    return hasattr(network, "feature_info") and not hasattr(network, "forward_head")


def of_maps(encoder: nn.Module, layer: str | None) -> nn.Module:
    """`encoder`, in a MapEncoder where it gives maps alone: timm's features_only=True, or where no layer names a map
    and nothing says that it gives features, as num_features, forward_features and forward_head do."""
    if isinstance(encoder, MapEncoder) or not isinstance(encoder, nn.Module):
        return encoder
    features = any(hasattr(encoder, name) for name in ("num_features", "forward_features", "forward_head"))
    return MapEncoder(encoder) if gives_maps_alone(encoder) or (layer is None and not features) else encoder
