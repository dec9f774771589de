#!/usr/bin/env bash
# copent: an independent label and number have nats in common, and the more so the more rows there are.
#
# Expected: copula entropy is the negative of mutual information, so a label of five values and an independent
#   column of normals have about 0 nats, and never more than the label's entropy, log 5 = 1.61.
# Happens: equal values share one rank, so all rows lie on five lines of the unit square, and the neighbours' density
#   is that of the lines: 500 rows give 1.9 nats and 2,000 rows 3.3, log 4 = 1.39 more, without end. Noise against
#   ties is added only where some row has k others equal to it in all columns, which a column of different numbers
#   rules out. Ties broken at random beforehand give about 0.
# Version: copent 0.5.7.
# Why it matters: columns are selected by their copula entropy with a class, with counts or with ratings. Coarse columns
#   come first, whatever they hold.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(copent==0.5.7 numpy==2.4.6 scipy==1.17.1)
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
from copent import copent


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
values = []
for rows in (500, 2000):
    label, number = rng.integers(0, 5, rows), rng.standard_normal(rows)
    tied = copent(np.column_stack([label, number]))
    broken = copent(np.column_stack([label + rng.random(rows), number]))
    values.append(tied)
    check(tied > np.log(5), f"{rows} rows, independent label and number: {tied:.2f} nats of at most 1.61")
    check(abs(broken) < 0.15, f"the same with ties of the label broken at random: {broken:.2f}")
more = values[1] - values[0]
check(abs(more - np.log(4)) < 0.2, f"four times the rows: {more:.2f} more (log 4 = 1.39)")
PYTHON
