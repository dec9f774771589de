"""Mutual information from samples, with the reasons to believe it or not."""

from infomax.estimation.default import CopulaJS
from infomax.estimation.estimator import estimate, estimate_splits
from infomax.estimation.methods import DEFAULT, Variational, registry, row
from infomax.estimation.result import Check, Estimate
from infomax.estimation.rows import Budget, Estimator, Fitted

__all__ = [
    "DEFAULT", "Budget", "Check", "CopulaJS", "Estimate", "Estimator", "Fitted", "Variational",
    "estimate", "estimate_splits", "registry", "row",
]  # fmt: skip
