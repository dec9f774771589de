#!/usr/bin/env bash
# scikit-learn: from 16 columns on, NearestNeighbors is wrong for data far from zero, with no warning.
#
# Expected: neighbours in float64 are exact, and a constant added to all rows changes no distance. Going from 15
#   columns to 16 changes nothing.
# Happens: algorithm="auto" takes a k-d tree up to 15 columns and brute force from 16 on, and brute force expands |a -
#   b|^2 to |a|^2 - 2 a.b + |b|^2. With an offset of 1e8 and a spread of 1 the difference is lost in rounding:
#   distances are 0 and neighbours are wrong. With 15 columns all are right.
# Version: scikit-learn 1.9.1.
# Why it matters: MI by k-th neighbours, kNN probes and estimates of intrinsic dimension start here. Time stamps in
#   seconds, positions in metres and detector counts have such offsets. Subtract the mean before any neighbour search.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1)
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
from sklearn.neighbors import NearestNeighbors


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def right(columns, offset):
    """The share of rows whose neighbours are those of the same rows about zero; the median distance to the nearest."""
    rows = np.random.default_rng(0).standard_normal((500, columns))
    wanted = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(rows).kneighbors(rows)[1]
    distances, chosen = NearestNeighbors(n_neighbors=5).fit(rows + offset).kneighbors(rows + offset)
    same = [set(a) == set(b) for a, b in zip(wanted, chosen, strict=True)]
    return np.mean(same), np.median(distances[:, 1])


for columns in (15, 16):
    share, distance = right(columns, 0)
    check(share == 1, f"{columns} columns about zero: all neighbours right, median distance {distance:.2f}")
share, distance = right(15, 1e8)
check(share > 0.99, f"15 columns about 1e8: {share:.0%} of the rows right, median distance {distance:.2f}")
share, distance = right(16, 1e8)
check(share < 0.05, f"16 columns about 1e8: {share:.0%} of the rows right, median distance {distance:.2f}")
PYTHON
