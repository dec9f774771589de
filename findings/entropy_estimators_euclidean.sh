#!/usr/bin/env bash
# entropy-estimators: norm="euclidean" adds log 2 to an entropy for every column.
#
# Expected: the norm by which neighbours are found changes the estimate's error and not its target: a standard normal
#   column has 1.419 nats, in either norm.
# Happens: the volume of the unit ball is that of radius 1, and the distance is doubled as if it were a diameter, so
#   every column adds log 2 = .693 nats: one column has 2.11 nats, five have 10.5 instead of 7.1. With norm="max", the
#   default, the doubling is right. In the MI by the sum of entropies the error cancels, which hides it.
# Version: entropy-estimators 0.0.2.
# Why it matters: entropies of features are compared between encoders of different widths; here 512 dimensions differ
#   by 355 nats from what they have.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(entropy-estimators==0.0.2 numpy==2.4.6 scipy==1.17.1)
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
from entropy_estimators import continuous


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rows = np.random.default_rng(0).standard_normal((4000, 5))
for columns in (1, 2, 5):
    truth = columns * np.log(2 * np.pi * np.e) / 2
    values = [continuous.get_h(rows[:, :columns], k=5, norm=norm) for norm in ("max", "euclidean")]
    check(abs(values[0] - truth) < 0.2, f'{columns} columns, norm="max": {values[0]:.3f} nats; the truth is {truth:.3f}')
    excess = (values[1] - truth) / columns
    check(abs(excess - np.log(2)) < 0.05, f'norm="euclidean": {values[1]:.3f} nats, {excess:.3f} too many a column')
PYTHON
