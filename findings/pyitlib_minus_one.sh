#!/usr/bin/env bash
# pyitlib: a label of -1 is a missing value, and the rows that hold it are left out with no word.
#
# Expected: entropy and MI of discrete columns depend on which rows have equal labels, and not on what the labels are
#   called.
# Happens: fill_value=-1 is the default of every function, so rows with -1 are dropped. A fair coin written as -1 and
#   +1 has an entropy of 0 bits and an MI of 0 with itself; written as 0 and 1 it has 1 bit. Labels of a clustering
#   whose noise is -1 lose their noise.
# Version: pyitlib 0.3.1.
# Why it matters: +1 and -1 are the usual names of two classes, of spins and of signs, and DBSCAN and HDBSCAN call
#   their noise -1. The result is a plausible number. Pass fill_value, or recode the labels from 0.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(pyitlib==0.3.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1)
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
from pyitlib import discrete_random_variable as drv


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


bits = np.tile([0, 1], 500)
signs = 2 * bits - 1
values = [float(drv.information_mutual(labels, labels)) for labels in (bits, signs)]
check(abs(values[0] - 1) < 1e-9, f"a fair coin named 0 and 1 has {values[0]:.3f} bits of MI with itself")
check(values[1] == 0, f"named -1 and 1 it has {values[1]:.3f} bits")
value = float(drv.information_mutual(signs, signs, fill_value=-99))
check(abs(value - 1) < 1e-9, f"with another fill_value it has {value:.3f} bits")
four = np.tile([0, 1, 2, 3], 250)
values = [float(drv.entropy(four - shift)) for shift in (0, 1)]
check(abs(values[0] - 2) < 1e-9, f"four equal classes from 0 have an entropy of {values[0]:.3f} bits")
check(abs(values[1] - np.log2(3)) < 1e-9, f"four equal classes from -1 have {values[1]:.3f} bits, that of three")
PYTHON
