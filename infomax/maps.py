"""A feature map as rows, a row of channels for each of its places, whoever made it and wherever its channels stand."""

import math
from typing import Any

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
