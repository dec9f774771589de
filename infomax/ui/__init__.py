"""The user interface: options and mistakes (arguments), progress, tables, the report page (report), recipes."""

from infomax.ui.arguments import HIDDEN, arguments, sentences
from infomax.ui.output import write_result
from infomax.ui.progress import Progress, Stages, before_training
from infomax.ui.tables import accuracies, print_evaluation, print_results, print_terms

__all__ = [
    "HIDDEN",
    "Progress",
    "Stages",
    "accuracies",
    "arguments",
    "before_training",
    "print_evaluation",
    "print_results",
    "print_terms",
    "sentences",
    "write_result",
]
