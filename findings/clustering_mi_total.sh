#!/usr/bin/env bash
# clustering-mi: mutual_information is a sum over the rows, in bits, and can be 100 times what other packages give.
#
# Expected: the MI of two labelings is at most log2 of the number of classes, 2.3 bits for five of them, and does not
#   grow with the number of rows.
# Happens: the default is the reduced MI of a description length, of the whole data set: 300 rows of five classes have
#   about 685 bits with themselves, 600 rows twice that. variation="traditional" is a sum over the rows as well.
# Version: clustering-mi 0.2.2.
# Why it matters: clusters of an encoder's features are scored by their MI with the labels. Divide by the number of
#   rows, or compare the normalised form alone.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(clustering-mi==0.2.2 numpy==2.4.6 scipy==1.17.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import clustering_mi
import numpy as np


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


for rows in (300, 600):
    labels = np.tile(np.arange(5), rows // 5)
    reduced = clustering_mi.mutual_information(labels, labels)
    plain = clustering_mi.mutual_information(labels, labels, variation="traditional")
    check(2.2 < plain / rows < np.log2(5), f"{rows} rows of 5 classes: {plain:.1f} bits, {plain / rows:.2f} a row")
    check(0.9 * plain < reduced < 1.1 * plain, f"by default {reduced:.1f} bits")
PYTHON
