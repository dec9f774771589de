"""infomax: representation learning by maximising mutual information, with any objective, at any batch size."""

from infomax import critics, objectives
from infomax.critics import Bilinear, Concat, Cosine, Critic, Separable
from infomax.errors import UserError
from infomax.models import InfoMax
from infomax.objectives import DV, JS, MINE, NWJ, SMILE, TUBA, Anchor, CalibratedNWJ, InfoNCE, Objective, SigLIP
from infomax.scores import Scores

__all__ = [
    "DV", "JS", "MINE", "NWJ", "SMILE", "TUBA", "Anchor", "Bilinear", "CalibratedNWJ", "Concat", "Cosine", "Critic",
    "InfoMax", "InfoNCE", "Objective", "Scores", "Separable", "SigLIP", "UserError", "critics", "objectives",
]  # fmt: skip
