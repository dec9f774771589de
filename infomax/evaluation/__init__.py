"""Evaluation of encoders: probing (the probes), information (MI of features), retrieval, layers, mosaics; health."""

from infomax.evaluation.compare import Compared, compare
from infomax.evaluation.evaluate import evaluate, probe_all, probes
from infomax.evaluation.features import Features, Store
from infomax.evaluation.finetune import Finetuned, Finetunes, finetune
from infomax.evaluation.health import Health
from infomax.evaluation.identity import Identity, identity_mi
from infomax.evaluation.information import mutual_information, processing, views_mi
from infomax.evaluation.monitor import Monitor
from infomax.evaluation.result import Chain, Evaluation, Probed, Probes, Terms
from infomax.evaluation.retrieval import Recall, Towers, evaluate_towers, recall
from infomax.evaluation.subject import Subject, pairs_of, subject
from infomax.evaluation.targets import TargetProbe, TargetProbes, probe_targets

__all__ = [
    "Chain", "Compared", "Evaluation", "Features", "Finetuned", "Finetunes", "Health", "Identity", "Monitor", "Probed",
    "Probes", "Recall", "Store", "Subject", "TargetProbe", "TargetProbes", "Terms", "Towers", "compare", "evaluate",
    "evaluate_towers", "finetune", "identity_mi", "mutual_information", "pairs_of", "probe_all", "probe_targets",
    "probes", "processing", "recall", "subject", "views_mi",
]  # fmt: skip
