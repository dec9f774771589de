"""ResNets for small images, with a stem that shrinks them less.

Importing this module registers them with timm, so that `timm.create_model("local-dir:...")` can rebuild an encoder
that was saved from one of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from infomax.encoders.small_maps import with_small_maps


@final
class SmallResNet(ResNet):
    """timm's ResNet with a 3x3 stem of stride `stem_stride` and no max-pool, for images of about 8 to 96 pixels.

    [b, in_chans, h, w] -> [b, channels[-1] * expansion] (with num_classes=0). (He et al., 2016, section 4.2: the
    CIFAR stem.) block, layers: the residual block's class, and how many blocks each stage has. stem_width: the stem's
    number of channels. arguments: timm's others.
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
        with_small_maps(self)  # the last stages' are of 2x2 pixels, for images of 28 to 32
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
    """ResNet-10 of widths 32-64-128-256 with a stride-2 3x3 stem: digits on a CPU.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    defaults = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 32}
    return _small("resnet10_tiny", pretrained, {**defaults, "stem_stride": 2, "avg_down": True}, arguments)


@register_model
def resnet10_small_gn(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-10 of widths 16-32-64-128 with group normalisation: no sample's features depend on its batch.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    defaults = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "stem_width": 16}
    return _small(
        "resnet10_small_gn", pretrained, {**defaults, "stem_stride": 2, "norm_layer": "groupnorm1"}, arguments
    )


@register_model
def resnet10t_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-10 with average-pooled shortcuts (timm's resnet10t), small-image stem.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    return _small(
        "resnet10t_small", pretrained, {"block": BasicBlock, "layers": (1, 1, 1, 1), "avg_down": True}, arguments
    )


@register_model
def resnet18_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-18, small-image stem.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    return _small("resnet18_small", pretrained, {"block": BasicBlock, "layers": (2, 2, 2, 2)}, arguments)


@register_model
def resnet34_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-34, small-image stem.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    return _small("resnet34_small", pretrained, {"block": BasicBlock, "layers": (3, 4, 6, 3)}, arguments)


@register_model
def resnet50_small(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """ResNet-50, small-image stem.

    pretrained: refused, as there are no weights. arguments: SmallResNet's, instead of the defaults.
    """
    return _small("resnet50_small", pretrained, {"block": Bottleneck, "layers": (3, 4, 6, 3)}, arguments)
