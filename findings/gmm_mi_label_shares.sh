#!/usr/bin/env bash
# gmm-mi: the MI of a number and a label takes every label for equally frequent, and exceeds the label's entropy.
#
# Expected: EstimateMI.fit_categorical(x, y) estimates I(X; Y) of the rows that it is given, at most the entropy of y.
# Happens: a mixture is fitted to the rows of each label, and the densities are averaged with weights 1 / number of
#   labels, whatever share of the rows a label has. Nine in ten rows of one label and one in ten of the other, far
#   apart, share the label's entropy, .325 nats; the estimate is log 2 = .693, with a bootstrap error below .01. That is
#   the MI of other data, in which both labels are equally frequent. No warning is given.
# Version: gmm-mi 0.8.2 with scikit-learn 1.6.1 (with 1.9.1, which its requirements allow, every fit ends in an
#   AttributeError).
# Why it matters: cell types, diagnoses and defects are rarely balanced. A rare class's information comes out too
#   large, and columns are ranked by it.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(gmm-mi==0.8.2 scikit-learn==1.6.1 numpy==2.4.6 scipy==1.17.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" -W ignore - <<'PYTHON' 2>"$work/progress.log"
import sys

import numpy as np
from gmm_mi.mi import EstimateMI


def check(holds, sentence):
    if not holds:
        print(f"changed, not as stated any more: {sentence}")
        sys.exit(1)
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
for shares, equal in (((0.5, 0.5), True), ((0.9, 0.1), False)):
    y = np.repeat([0, 1], [round(1000 * share) for share in shares])
    x = rng.standard_normal(1000) + 20 * y  # y can be read off x: I(X; Y) = H(Y)
    entropy = -sum(share * np.log(share) for share in shares)
    value, error = EstimateMI().fit_estimate_categorical(x, y)
    sentence = f"shares {shares}: {value:.3f} +- {error:.3f} nats; the label's entropy is {entropy:.3f}"
    check(abs(value - np.log(2)) < 0.01 and (value < entropy + 0.01) == equal, sentence)
PYTHON
