"""Benchmarks: the measurements of speed, memory and accuracy in README and docs/, as commands, a module each."""

from infomax.errors import UserError, nearest

# The modules that have a command: imported when one is asked for, as some take seconds.
BENCHMARKS = (
    "paper", "staircase", "consistency", "mosaics", "samples", "tau", "bias", "accuracy", "coverage", "scores",
    "waiting", "caching", "training", "steps", "models", "which_objective", "towers", "given", "pairwise", "select",
    "health", "encoders", "yardstick", "plan", "large", "series", "transfer", "until",
    "conditional", "builds",
)  # fmt: skip


def benchmark(what: str, /) -> None:
    """Measure the library on this machine: `infomax benchmark scores --help` and so on for each.

    Args:
        what: paper (the figures of Song & Ermon, 2020, in one go); staircase (every estimator follows a rising MI),
            consistency (independence, data processing, additivity), mosaics (images of known MI), samples (error
            against the number of pairs), tau (SMILE's trade-off), bias (every objective with a perfect critic),
            accuracy (an estimator where the MI is known), coverage (how often its intervals hold the truth, at every
            level); scores (the engine beside plain PyTorch), waiting (threads that spin or sleep, on a shared machine),
            caching (batches beyond the encoder's memory), training (what saving and deterministic algorithms cost),
            steps (a step beside lightly's, a folder beside timm's loader), models (every kind of model beside SimCLR,
            by its recipe), which_objective (every objective on one budget), towers (two modalities, beside open_clip's
            loss), given (I(X; Y | Z) where it is known, beside other packages); pairwise (all pairs of columns beside
            scikit-learn and ennemi), select (columns chosen for classifiers and regressions); health (which numbers go
            with accuracy, and planted collapses), encoders (what is said of encoders whose MI is known, and how often
            it is trusted); yardstick (our estimates beside other packages', which it installs in environments of their
            own); plan (infomax plan beside what steps take here, and on paper to 1,024 GPUs); large (probes of features
            in memory and on disk); series (how often independent series have a small p-value, with and without blocks);
            transfer (transfer entropy where it is known, beside other packages'); until (seconds of training until the
            kNN accuracy is as asked, images/s and the GPU's utilisation); conditional (p-values of conditional
            independence, where it holds and where it does not); builds (this build's estimates beside those of a
            checkout of another commit).
    """
    raise UserError(f"There is no benchmark {what!r}.{nearest(what, BENCHMARKS)}")
