"""Scores: the matrix s[i, j] = critic(x_i, y_j), read through its positives and its reductions over negatives."""

from infomax.scores.critic_tiles import set_precision
from infomax.scores.functions import Clip, Identity, Softplus, Square, identity, softplus, square
from infomax.scores.layout import Sides
from infomax.scores.negatives import Negatives
from infomax.scores.scores import Scores

__all__ = [
    "Clip", "Identity", "Negatives", "Scores", "Sides", "Softplus", "Square", "identity", "set_precision", "softplus",
    "square",
]  # fmt: skip
