"""Mutual information from samples, with the reasons to believe it or not."""

from infomax.estimation.audit import audit, audit_splits
from infomax.estimation.estimate import estimate, estimate_splits
from infomax.estimation.estimator import Budget, Estimator, Fitted
from infomax.estimation.estimators.copula_js import CopulaJS
from infomax.estimation.questions.lagged import Lagged, lagged, transfer_entropy
from infomax.estimation.registry import DEFAULT, Variational, registry, row
from infomax.estimation.result import Bits, Check, Estimate

__all__ = [
    "DEFAULT", "Bits", "Budget", "Check", "CopulaJS", "Estimate", "Estimator", "Fitted", "Lagged", "Variational",
    "audit", "audit_splits", "estimate", "estimate_splits", "lagged", "registry", "row", "transfer_entropy",
]  # fmt: skip
