#!/usr/bin/env bash
# neurokit2: mutual_information gives .05 by default where the truth is .74 bits; its methods have different units.
#
# Expected: the methods of one function estimate one quantity: for a correlation of .8, .74 bits (.51 nats).
# Happens: the default, "varoquaux", is (H(X) + H(Y)) / H(X, Y) - 1 of a smoothed histogram: a ratio, .05 here. "max"
#   is another ratio, .26. "nolitsa" and "knn" are in bits: .70 and .73. At a correlation of .95 the default gives .13
#   for 1.68 bits.
# Version: neurokit2 0.3.0.
# Why it matters: signals of two sensors are paired, and lags chosen, by this number. The default grows with the number
#   of bins, and so with the number of rows: it serves a comparison within one recording at most.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(neurokit2==0.3.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import neurokit2
import numpy as np


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


x, e = np.random.default_rng(0).standard_normal((2, 2000))
y = 0.8 * x + 0.6 * e
truth = -np.log2(1 - 0.8**2) / 2
for method in ("knn", "nolitsa"):
    value = float(neurokit2.mutual_information(x, y, method=method))
    check(abs(value - truth) < 0.1, f'"{method}": {value:.3f}; the truth is {truth:.3f} bits')
value = float(neurokit2.mutual_information(x, y, method="max"))
check(0.2 < value < 0.35, f'"max": {value:.3f}')
value = float(neurokit2.mutual_information(x, y))
check(value < 0.1, f"by default: {value:.3f}")
plain = float(neurokit2.mutual_information(x, y, sigma=0, normalized=False))
nats = truth * np.log(2)
check(abs(plain - nats) < 0.1, f"without its ratio and its smoothing: {plain:.3f}; the truth is {nats:.3f} nats")
check(float(neurokit2.mutual_information(x, y, bins=8)) < 0.6 * value, "with 8 bins it gives about half of that")
PYTHON
