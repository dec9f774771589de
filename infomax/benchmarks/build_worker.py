"""A build's default estimates: run by builds.py, a process for each build, never imported.

`python -P build_worker.py`, with the build's checkout first on PYTHONPATH, prints {"file"}, where its infomax is. Then
it reads the path of an .npz with x [n, dx] and y [n, dy] from each line of standard input, and answers each by one
line of JSON: {"mi", "interval", "trusted", "seconds", "error"}, nats and seconds of processor time, null where there is
an error. Of a build it uses infomax.estimation.estimate(x, y, seed=0) alone, which early ones have too.
"""

import contextlib
import json
import os
import sys
import time
import warnings

import numpy as np


def answer(estimate, path):
    with np.load(path) as both:
        x, y = both["x"], both["y"]
    nothing = {"mi": None, "interval": None, "trusted": None}
    began = time.process_time()
    try:
        estimated = estimate(x, y, seed=0)
    except Exception as error:  # whatever a build raises on a sample is its answer to it
        seconds = time.process_time() - began
        first = (str(error).splitlines() or [""])[0]
        return nothing | {"seconds": seconds, "error": f"{type(error).__name__}: {first}"[:200]}
    seconds = time.process_time() - began
    interval = [float(end) for end in estimated.interval]
    value = {"mi": float(estimated.mi), "interval": interval, "trusted": bool(estimated.trusted)}
    return value | {"seconds": seconds, "error": None}


def main():
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a build prints is no answer
    import infomax
    from infomax.estimation import estimate

    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1))
    y = x + rng.standard_normal((60, 1))
    for side in (x, (x > 0).astype(np.int64)):  # what is imported and compiled once is not timed
        with contextlib.suppress(Exception):
            estimate(side, y, seed=0)
    print(json.dumps({"file": infomax.__file__}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(estimate, line.rstrip("\n"))), file=answers, flush=True)


if __name__ == "__main__":
    main()
