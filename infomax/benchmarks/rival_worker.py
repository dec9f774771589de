# pyright: reportMissingImports=false
"""Another package's estimate of a sample: run by rivals.py in that package's environment, never imported there.

`python rival_worker.py NAME` reads the path of an .npz with x [n, dx] and y [n, dy] from each line of standard input, x
int64 where it is a label, and answers each by one line of JSON: {"mi", "interval", "good", "seconds", "error"}.
Nats, and seconds of processor time; null where the package gives no such thing. It imports nothing of infomax.
"""

import contextlib
import json
import os
import sys
import time
import warnings

import numpy as np


def is_label(side):
    return side.dtype.kind in "iu"


def one_hot(side):
    """Labels as columns of 0 and 1, numbers as they are, float32."""
    if not is_label(side):
        return side.astype(np.float32)
    return (side == np.unique(side)).astype(np.float32)


def scikit_learn(x, y):
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    of = mutual_info_classif if is_label(x) else mutual_info_regression
    return of(y, x[:, 0], random_state=0)[0], None, None


def ennemi(x, y):
    from ennemi import estimate_mi

    return estimate_mi(x[:, 0], y[:, 0], discrete_y=is_label(x), max_threads=1)[0, 0], None, None


def gmm_mi(x, y):
    """Its interval: 1.96 of the bootstrap's standard deviations that it gives. Good: its components converged."""
    from gmm_mi.mi import EstimateMI

    estimator = EstimateMI()
    if is_label(x):
        places = np.unique(x[:, 0], return_inverse=True)[1]
        estimator.fit_categorical(y[:, 0], places)
        mean, deviation = estimator.estimate_categorical()
        good = None
    else:
        mean, deviation = estimator.fit_estimate(x, y)
        good = bool(estimator.converged)
    return mean, (mean - 1.96 * deviation, mean + 1.96 * deviation), good


def bmi_ksg(x, y):
    from bmi.estimators import KSGEnsembleFirstEstimator

    return KSGEnsembleFirstEstimator(neighborhoods=(10,)).estimate(x, y), None, None


def bmi_cca(x, y):
    from bmi.estimators import CCAMutualInformationEstimator

    return CCAMutualInformationEstimator().estimate(x, y), None, None


def latentmi(x, y):
    from latentmi import lmi

    np.random.seed(0)  # its split
    points = lmi.estimate(x, y, device="cpu")[0]
    return np.nanmean(points) * np.log(2), None, None  # in bits


def infomeasure_ksg(x, y):
    from infomeasure import transfer_entropy

    return transfer_entropy(x[:, 0], y[:, 0], approach="metric", base="e"), None, None


def frites_copula(x, y):
    """Across trials, which are the windows of two rows."""
    from frites.conn import conn_te

    windows = np.stack([np.stack([side[:-1, 0], side[1:, 0]], 1) for side in (x, y)], 1)
    found = conn_te(windows, max_delay=1, verbose=False)
    return float(found.values[0, 0]) * np.log(2), None, None  # of roi 0 to roi 1, in bits


def frites_covariances(x, y):
    """Of one trial. method="gc" is in bits; method="gauss", of the same function, twice as much in nats."""
    from frites.conn import conn_covgc

    series = np.stack([x[:, 0], y[:, 0]])[None]
    found = conn_covgc(series, dt=len(x) - 2, lag=1, t0=[1], method="gc", n_jobs=1, verbose=False)
    return float(found.values.squeeze()[0]) * np.log(2), None, None


def torch_mist(name):
    """Four fifths of the pairs train, with the package's own validation tenth and early stopping; a fifth is read."""

    def read(x, y):
        import torch
        from torch_mist import estimate_mi

        torch.manual_seed(0)
        order = np.random.default_rng(0).permutation(len(x))
        cut = len(x) * 4 // 5
        sides = {"x": one_hot(x), "y": one_hot(y)}
        parts = [{key: side[rows] for key, side in sides.items()} for rows in (order[:cut], order[cut:])]
        value = estimate_mi(data=parts[0], test_data=parts[1], estimator=name, verbose=False, logger=False)
        return (value[0] if isinstance(value, tuple) else value), None, None

    return read


RIVALS = {
    "scikit-learn": scikit_learn,
    "ennemi": ennemi,
    "gmm-mi": gmm_mi,
    "benchmark-mi, KSG": bmi_ksg,
    "benchmark-mi, CCA": bmi_cca,
    "latentmi": latentmi,
    "infomeasure, KSG": infomeasure_ksg,
    "frites, Gaussian copula": frites_copula,
    "frites, covariances": frites_covariances,
    "torch-mist, MINE": torch_mist("mine"),
    "torch-mist, NWJ": torch_mist("nwj"),
    "torch-mist, SMILE": torch_mist("smile"),
    "torch-mist, InfoNCE": torch_mist("infonce"),
}


def answer(read, path):
    with np.load(path) as both:
        x, y = both["x"], both["y"]
    began = time.process_time()
    nothing = {"mi": None, "interval": None, "good": None}
    try:
        value, interval, good = read(x, y)
    except Exception as error:  # whatever the package raises on a sample is its answer to it
        first = (str(error).splitlines() or [""])[0]
        return nothing | {"seconds": time.process_time() - began, "error": f"{type(error).__name__}: {first}"[:200]}
    value = float(value)
    if not np.isfinite(value):
        return nothing | {"seconds": time.process_time() - began, "error": f"the value is {value}"}
    ends = None if interval is None else [float(end) for end in interval]
    return {"mi": value, "interval": ends, "good": good, "seconds": time.process_time() - began, "error": None}


def main():
    read = RIVALS[sys.argv[1]]
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the packages print is no answer
    with contextlib.suppress(ImportError):  # an environment's threads are its own; a core each is fair
        import torch

        torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1))
    with contextlib.suppress(Exception):  # what is imported and compiled once is not timed
        read(x, x + rng.standard_normal((60, 1)))
    for line in sys.stdin:
        print(json.dumps(answer(read, line.rstrip("\n"))), file=answers, flush=True)


if __name__ == "__main__":
    main()
