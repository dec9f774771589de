"""Training: the loop that yields Steps (loop), signals and lost processes (watchdog), trackers (tracking).

The faults that a run survives, each with its test, are the table of docs/faults.md; tests/faulty.py makes them happen.
What is said where a disk refuses stands in checkpoints/folder.py.
"""

from infomax.training.loop import (
    NONFINITE,
    SKIPPED_AT_MOST,
    Loader,
    Step,
    check_inputs,
    check_model,
    synchronise_batch_norm,
    train,
    warmup_cosine,
)

__all__ = [
    "NONFINITE", "SKIPPED_AT_MOST", "Loader", "Step", "check_inputs", "check_model", "synchronise_batch_norm", "train",
    "warmup_cosine",
]  # fmt: skip
