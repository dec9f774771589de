"""infomax: representation learning by maximising mutual information, with any objective, at any batch size."""

import importlib
from typing import TYPE_CHECKING, Any

from infomax import critics, objectives, scores, training
from infomax.critics import Bilinear, Concat, ConvConcat, ConvSeparable, Cosine, Critic, Separable
from infomax.errors import UserError
from infomax.models import CPC, DeepInfoMax, InfoMax, MoCo, Model, TwoTower
from infomax.objectives import (
    DV,
    JS,
    MINE,
    NWJ,
    SMILE,
    TUBA,
    Anchor,
    CalibratedNWJ,
    InfoNCE,
    JSPlugin,
    Objective,
    SigLIP,
)
from infomax.scores import Scores
from infomax.training import train

if TYPE_CHECKING:
    from infomax import checkpoints, data, encoders, estimation, launch
    from infomax.checkpoints import load
    from infomax.encoders import encoder
    from infomax.estimation import estimate
    from infomax.evaluation import evaluate
    from infomax.evaluation.health import health
    from infomax.evaluation.probing import probe
    from infomax.run import ImageSettings, Run, Settings

# In the order of a user's day. What needs timm, scikit-learn and the like is loaded when first asked for.
_LATER = {
    "encoder": "infomax.encoders",
    "load": "infomax.checkpoints",
    "evaluate": "infomax.evaluation",
    "estimate": "infomax.estimation",
    "probe": "infomax.evaluation.probing",
    "health": "infomax.evaluation.health",
    "Run": "infomax.run",
    "Settings": "infomax.run",
    "ImageSettings": "infomax.run",
}
_MODULES = ("checkpoints", "data", "encoders", "estimation", "evaluation", "launch", "training", "ui")
_MOVED = {"probing": "infomax.evaluation.probing", "report": "infomax.ui.report"}  # names that scripts may hold

__all__ = [
    "InfoNCE", "NWJ", "CalibratedNWJ", "DV", "MINE", "SMILE", "JS", "JSPlugin", "TUBA", "SigLIP", "Anchor",
    "Objective", "objectives",
    "Cosine", "Bilinear", "Separable", "Concat", "ConvSeparable", "ConvConcat", "Critic", "critics",
    "Scores",
    "InfoMax", "MoCo", "DeepInfoMax", "CPC", "TwoTower", "Model", "encoder", "train", "load", "evaluate",
    "estimate", "probe", "health", "Run", "Settings", "ImageSettings",
    "checkpoints", "data", "encoders", "estimation", "launch", "scores", "training", "UserError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        # A submodule's import sets its own name here, so a function of that name is set after it, for good.
        value = getattr(importlib.import_module(_LATER[name]), name)
        globals()[name] = value
        return value
    if name in _MOVED:
        return importlib.import_module(_MOVED[name])
    if name in _MODULES:
        return importlib.import_module(f"infomax.{name}")
    raise AttributeError(f"module 'infomax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
