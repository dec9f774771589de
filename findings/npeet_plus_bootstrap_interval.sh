#!/usr/bin/env bash
# npeet-plus: the bootstrap interval of a nearest-neighbour MI leaves out both the estimate and the truth.
#
# Expected: mi_confidence_interval(x, y) gives an estimate and a 95 % interval around it.
# Happens: rows drawn with replacement hold copies. A copied row's nearest neighbours are its copies, in both columns,
#   and the estimator takes them for dependence. For 500 pairs of independent normals the estimate is near 0 bits and
#   the interval starts far above it: dependence is "significant" where there is none. Where there is some, the
#   interval lies above it as well.
# Version: npeet-plus 0.2.0.
# Why it matters: an interval that cannot hold the truth reads like proof. Neighbour-based estimates need subsamples
#   without replacement. The same trap waits for anyone who puts scipy.stats.bootstrap around such an estimator.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(npeet-plus==0.2.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import numpy as np
from npeet_plus.estimators import mi_confidence_interval


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
x, e = rng.standard_normal((2, 500))
for rho in (0.0, 0.8):
    y = rho * x + np.sqrt(1 - rho**2) * e
    truth = abs(np.log2(1 - rho**2) / 2)
    value, low, high, _ = mi_confidence_interval(x, y, n_bootstraps=200, random_state=0)
    check(abs(value - truth) < 0.25, f"correlation {rho}: the estimate is {value:.3f} bits, the truth {truth:.3f}")
    check(low > max(value, truth) + 0.2, f"its 95 % interval is [{low:.3f}, {high:.3f}], above both")
PYTHON
