"""What a saved encoder is worth: evaluate (probes and MI), probing, information (the MI terms), layers, mosaics."""

from infomax.evaluation.evaluate import evaluate, probes
from infomax.evaluation.information import mutual_information, processing, views_mi
from infomax.evaluation.result import Chain, Evaluation, Probes, Terms
from infomax.evaluation.subject import Subject, subject

__all__ = [
    "Chain", "Evaluation", "Probes", "Subject", "Terms", "evaluate", "mutual_information", "probes", "processing",
    "subject", "views_mi",
]  # fmt: skip
