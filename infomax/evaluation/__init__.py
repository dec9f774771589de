"""Evaluation of encoders: probing (the probes), information (MI of features), retrieval, layers, mosaics; health."""

from infomax.evaluation.evaluate import evaluate, probes
from infomax.evaluation.health import Health
from infomax.evaluation.identity import Identity, identity_mi
from infomax.evaluation.information import mutual_information, processing, views_mi
from infomax.evaluation.monitor import Monitor
from infomax.evaluation.result import Chain, Evaluation, Probes, Terms
from infomax.evaluation.retrieval import Recall, Towers, evaluate_towers, recall
from infomax.evaluation.subject import Subject, pairs_of, subject

__all__ = [
    "Chain", "Evaluation", "Health", "Identity", "Monitor", "Probes", "Recall", "Subject", "Terms", "Towers",
    "evaluate", "evaluate_towers", "identity_mi", "mutual_information", "pairs_of", "probes", "processing", "recall",
    "subject", "views_mi",
]  # fmt: skip
