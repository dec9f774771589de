#!/usr/bin/env bash
# frites: two methods of one function give Granger causality in other units, and one of them twice of it.
#
# Expected: conn_covgc(method="gc") and method="gauss" differ in how covariances are estimated; of two linear-Gaussian
#   series both are the transfer entropy, .5 log(restricted variance / full variance), in one unit.
# Happens: "gc" gives it in bits, as the rest of the package does; "gauss" gives twice as many nats, which is Geweke's
#   measure. Their ratio is 2 log 2 = 1.39 whatever the data. Where the transfer entropy is .143 nats, "gc" is .206 and
#   "gauss" .285.
# Version: frites 0.4.6, with mne 1.13.2.
# Why it matters: one of the two is chosen as a matter of speed or of taste. Values of both, or of one beside another
#   package's, are then apart by 39 % or by a factor of 2, and a scientist reads a difference between methods.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(frites==0.4.6 mne==1.13.2 numpy==2.4.6 scipy==1.17.1 xarray==2026.9.0)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import math
import sys

import numpy as np
from frites.conn import conn_covgc


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
n = 3000
x, y = np.zeros(n), np.zeros(n)
for t in range(1, n):
    x[t] = 0.5 * x[t - 1] + rng.standard_normal()
    y[t] = 0.5 * y[t - 1] + 0.5 * x[t - 1] + rng.standard_normal()


def left(target, *past):
    """The variance that a regression on a constant and these leaves."""
    columns = np.column_stack([np.ones(len(target)), *past])
    return np.square(target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]).mean()


nats = 0.5 * math.log(left(y[1:], y[:-1]) / left(y[1:], y[:-1], x[:-1]))
found = {}
for method in ("gc", "gauss"):
    made = conn_covgc(np.stack([x, y])[None], dt=n - 2, lag=1, t0=[1], method=method, n_jobs=1, verbose=False)
    found[method] = float(made.values.squeeze()[0])
check(abs(found["gc"] - nats / math.log(2)) < 0.01, f"of {nats:.3f} nats, method gc gives {found['gc']:.3f}, which is bits")
check(abs(found["gauss"] - 2 * nats) < 0.01, f"method gauss gives {found['gauss']:.3f}, which is twice the nats")
ratio = found["gauss"] / found["gc"]
check(abs(ratio - 2 * math.log(2)) < 0.02, f"their ratio is {ratio:.3f}, and 2 log 2 is {2 * math.log(2):.3f}")
PYTHON
