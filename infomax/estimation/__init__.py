"""Mutual information from samples, with the reasons to believe it or not."""

from infomax.estimation.audit import audit, audit_splits
from infomax.estimation.estimator import estimate, estimate_splits
from infomax.estimation.methods import DEFAULT, Budget, CopulaJS, registry
from infomax.estimation.result import Check, Estimate

__all__ = [
    "DEFAULT",
    "Budget",
    "Check",
    "CopulaJS",
    "Estimate",
    "audit",
    "audit_splits",
    "estimate",
    "estimate_splits",
    "registry",
]
