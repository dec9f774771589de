#!/usr/bin/env bash
# scikit-image: normalised mutual information runs from 1 to 2, and small independent images have 1.14.
#
# Expected: normalized_mutual_information is 0 for independent images and 1 for equal ones, as scikit-learn's function
#   of the same name is for labels.
# Happens: it is (H(X) + H(Y)) / H(X, Y), which is 1 and 2. And as it fills 100 x 100 bins without a correction, two
#   images of 64 x 64 random pixels reach 1.14; of 1,000 x 1,000 pixels 1.0005.
# Version: scikit-image 0.26.0.
# Why it matters: 1.0 reads as "the same" and is "nothing in common". Crops and views of different sizes cannot be
#   compared: the smaller has more, whatever it shows.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0)
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
from skimage.metrics import normalized_mutual_information


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
one, other = rng.random((2, 1000, 1000))
value = normalized_mutual_information(one, one)
check(abs(value - 2) < 1e-9, f"an image and itself: {value:.4f}")
value = normalized_mutual_information(one, other)
check(abs(value - 1) < 0.01, f"two independent images of 1,000 x 1,000 pixels: {value:.4f}")
value = normalized_mutual_information(one[:64, :64], other[:64, :64])
check(1.1 < value < 1.2, f"their corners of 64 x 64 pixels: {value:.4f}")
PYTHON
