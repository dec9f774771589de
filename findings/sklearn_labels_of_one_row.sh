#!/usr/bin/env bash
# scikit-learn: mutual_info_classif leaves out labels that occur once, and gives 0 where .67 nats are certain.
#
# Expected: mutual_info_classif(X, y) estimates I(X; y) of all rows. A finer label tells as much about x or more: from
#   "known or new" to "who of the new", MI cannot fall (data processing).
# Happens: rows whose label occurs once are taken out before anything is measured, of x as of y, without a warning. Of
#   1,000 rows 600 are background and 400 a new subject each, and x tells the two groups apart: the coarse label has .67
#   nats, its entropy, and the fine one 0, since one label is left. With two rows for each subject .67 is exceeded.
# Version: scikit-learn 1.9.1.
# Why it matters: labels of the long tail (species, cell types, speakers, products) have many classes of one row. Their
#   columns look useless, SelectKBest drops them, and the value is of other rows than those that were handed over.
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
import warnings

import numpy as np
from sklearn.feature_selection import mutual_info_classif

warnings.simplefilter("error")


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rows = 1000
x = np.random.default_rng(0).standard_normal((rows, 1))
new = np.arange(rows) >= 600
x[new] += 20  # the two groups do not overlap
entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))


def nats(label):
    return mutual_info_classif(x, label, discrete_features=False, random_state=0)[0]


coarse = nats(new.astype(int))
check(abs(coarse - entropy) < 0.02, f"background or new: {coarse:.3f} nats, of an entropy of {entropy:.3f}")
once = np.where(new, np.arange(rows), 0)
fine = nats(once)
check(fine < 1e-6, f"background, or which of {new.sum()} new subjects of one row each: {fine:.3f} nats, and no warning")
twice = nats(np.where(new, np.arange(rows) // 2, 0))
check(twice > entropy, f"the same with two rows each: {twice:.3f} nats")
half = np.where(np.arange(rows) % 4 == 3, np.arange(rows), new)  # every fourth row of each group has a label of its own
kept = np.arange(rows) % 4 != 3
same = mutual_info_classif(x[kept], new[kept].astype(int), discrete_features=False, random_state=0)[0]
check(abs(nats(half) - same) < 0.05, f"every fourth row a label: {nats(half):.3f}, without these {same:.3f}")
PYTHON
