"""Encoders: any timm model (timm), ResNets for small images (small_resnet), and the projector that follows them."""

from infomax.encoders.context import CausalGRU
from infomax.encoders.projector import Projector
from infomax.encoders.small_resnet import (
    SmallResNet,
    resnet10_small_gn,
    resnet10_tiny,
    resnet10t_small,
    resnet18_small,
    resnet34_small,
    resnet50_small,
)
from infomax.encoders.timm import encoder, encoder_config, encoder_from, features_of, save_timm

__all__ = [
    "CausalGRU", "Projector", "SmallResNet", "encoder", "encoder_config", "encoder_from", "features_of",
    "resnet10_small_gn", "resnet10_tiny", "resnet10t_small", "resnet18_small", "resnet34_small", "resnet50_small",
    "save_timm",
]  # fmt: skip
