"""infomax: representation learning by maximising mutual information, with any objective, at any batch size."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # the one place: pyproject.toml reads it

# GNU's OpenMP, which PyTorch's wheels carry, reads this once, when torch is loaded. By default a thread that waits for
# the others spins for about a millisecond at each operation: time that on a shared machine other processes, and often
# the very thread that is waited for, go without (docs/engine.md). Who has chosen, or has loaded torch, is left alone.
if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from infomax import checkpoints, critics, data, encoders, estimation, launch, objectives, scores, training
    from infomax.checkpoints import load
    from infomax.critics import Bilinear, Concat, ConvConcat, ConvSeparable, Cosine, Critic, Separable
    from infomax.encoders import encoder
    from infomax.errors import UserError
    from infomax.estimation import estimate, lagged, transfer_entropy
    from infomax.estimation.questions.matrix import Matrix
    from infomax.estimation.questions.pairwise import pairwise
    from infomax.estimation.questions.select import select
    from infomax.evaluation import evaluate
    from infomax.evaluation.health import health
    from infomax.evaluation.probing import probe
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
    from infomax.run import ImageSettings, Run, Settings
    from infomax.scores import Scores, Sides
    from infomax.training import train

# Everything is loaded when first asked for: `infomax --help` needs no torch, and im.InfoNCE no timm or scikit-learn.
_HOMES = {
    "infomax.objectives": (
        "InfoNCE", "NWJ", "CalibratedNWJ", "DV", "MINE", "SMILE", "JS", "JSPlugin", "TUBA", "SigLIP", "Anchor",
        "Objective",
    ),
    "infomax.critics": ("Cosine", "Bilinear", "Separable", "Concat", "ConvSeparable", "ConvConcat", "Critic"),
    "infomax.scores": ("Scores", "Sides"),
    "infomax.models": ("InfoMax", "MoCo", "DeepInfoMax", "CPC", "TwoTower", "Model"),
    "infomax.encoders": ("encoder",),
    "infomax.training": ("train",),
    "infomax.checkpoints": ("load",),
    "infomax.evaluation": ("evaluate",),
    "infomax.estimation": ("estimate", "lagged", "transfer_entropy"),
    "infomax.estimation.questions.matrix": ("Matrix",),
    "infomax.estimation.questions.pairwise": ("pairwise",),
    "infomax.estimation.questions.select": ("select",),
    "infomax.evaluation.probing": ("probe",),
    "infomax.evaluation.health": ("health",),
    "infomax.run": ("Run", "Settings", "ImageSettings"),
    "infomax.errors": ("UserError",),
}  # fmt: skip
_LATER = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    "benchmarks", "checkpoints", "cli", "critics", "data", "distributed", "encoders", "errors", "estimation",
    "evaluation", "files", "launch", "models", "objectives", "randomness", "run", "scores", "ship", "sklearn",
    "spelling", "training", "ui",
)  # fmt: skip
_MOVED = {"probing": "infomax.evaluation.probing", "report": "infomax.ui.report"}  # names that scripts may hold

__all__ = [
    "InfoNCE", "NWJ", "CalibratedNWJ", "DV", "MINE", "SMILE", "JS", "JSPlugin", "TUBA", "SigLIP", "Anchor",
    "Objective", "objectives",
    "Cosine", "Bilinear", "Separable", "Concat", "ConvSeparable", "ConvConcat", "Critic", "critics",
    "Scores", "Sides",
    "InfoMax", "MoCo", "DeepInfoMax", "CPC", "TwoTower", "Model", "encoder", "train", "load", "evaluate",
    "estimate", "lagged", "transfer_entropy", "pairwise", "Matrix", "select", "probe", "health", "Run", "Settings",
    "ImageSettings",
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
