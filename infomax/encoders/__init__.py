"""Encoders: any timm model (timm), ResNets for small images (small_resnet), and the projector that follows them."""

from infomax.encoders.context import CausalGRU
from infomax.encoders.mlp import MLP, ResNet1d, Times, Tokens
from infomax.encoders.places import StridedConv1d
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
from infomax.encoders.start import freeze, load_weights, started_from
from infomax.encoders.timm import encoder, encoder_config, encoder_from, features_of, map_width, save_timm
from infomax.maps import MapEncoder

__all__ = [
    "MLP", "CausalGRU", "MapEncoder", "Projector", "ResNet1d", "SmallResNet", "StridedConv1d", "Times", "Tokens",
    "encoder", "encoder_config", "encoder_from", "features_of", "freeze", "load_weights",
    "resnet10_small_gn", "resnet10_tiny", "resnet10t_small", "resnet18_small", "resnet34_small", "resnet50_small",
    "map_width", "parts", "save_timm", "started_from",
]  # fmt: skip

# By lower-case name: what saved models are made of anew from its text.
parts = {kind.__name__.lower(): kind for kind in (Projector, CausalGRU, MLP, ResNet1d, StridedConv1d, Times, Tokens)}
