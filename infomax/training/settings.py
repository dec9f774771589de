"""Which settings a resumed run may change, which make it longer, and which older runs did not have.

checkpoints.open_run() takes these, and a script with settings of its own gives its own.
"""

MAY_DIFFER = frozenset({
    "epochs", "steps", "keep", "log_every", "save_every", "tracker", "progress", "run_dir", "resume", "nonfinite",
    "timeout", "data_notes", "data_left_out", "health_every", "probe_every", "on_collapse",
})  # fmt: skip
LENGTH = frozenset({"epochs", "steps"})  # of those, what makes a finished run go on
# Not in the configurations of older checkpoints, which cannot tell and go on.
LATER = frozenset({"data", "preprocessing.x.shape", "preprocessing.y.shape"})
DEFAULTS = {
    "deterministic": False,
    "ring": False,
    "pretrained": None,
    "freeze": 0,
    "start": None,
    "skip_unreadable": False,
}  # switches that came later, as they were when there were none
