"""Training: the loop that yields Steps (loop), signals and lost processes (watchdog), trackers (tracking)."""

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
