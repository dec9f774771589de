#!/usr/bin/env bash
# frites: the Gaussian-copula MI of two independent columns of mostly zeros is half a bit.
#
# Expected: GCMI ranks each column and measures the correlation of the normal scores, so independent columns of any
#   distribution give about 0 bits; ties might lose information and could not create any.
# Happens: equal values are ranked in the order in which they stand in the array. The zeros of both columns get the
#   same rising series of ranks, so two independent columns correlate through the row number. With 5 % ones in each of
#   two columns of 1,000 rows, mi_nd_gg after copnorm_nd gives about .5 bit. Shuffling the rows of one column changes
#   nothing, since its ties are ranked anew. Breaking ties at random does.
# Version: frites 0.4.6.
# Why it matters: spike counts, outputs of a ReLU and sparse features have many equal values. The MI of independent
#   features of this kind is positive, so features are ranked by their share of ties. Permuted columns give the same
#   number, and what dependence there is disappears beside it.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(frites==0.4.6 numpy==2.4.6 scipy==1.17.1)
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
from frites.core import copnorm_nd, mi_nd_gg


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def bits(a, b):
    a, b = (copnorm_nd(column[None], axis=-1) for column in (a, b))
    return mi_nd_gg(a, b, traxis=-1, mvaxis=None).item()


rng = np.random.default_rng(0)
n = 1000
a, b = (rng.random((2, n)) < 0.05).astype(float)
plain = abs(np.corrcoef(a, b)[0, 1])
check(plain < 0.1, f"the two columns of 0 and 1 are independent: their correlation is {plain:.3f}")
value = bits(a, b)
check(value > 0.3, f"their Gaussian-copula MI is {value:.3f} bits, and not 0")
shuffled = [bits(a, rng.permutation(b)) for _ in range(20)]
check(min(shuffled) > 0.3, f"with the rows of one column shuffled 20 times, it is {min(shuffled):.3f} bits or more")
broken = bits(a + 1e-9 * rng.random(n), b + 1e-9 * rng.random(n))
check(broken < 0.02, f"with ties broken at random it is {broken:.3f} bits")
x, y = rng.standard_normal((2, n))
none = bits(x, y)
check(none < 0.02, f"of two independent normal columns, without ties, it is {none:.3f} bits")
PYTHON
