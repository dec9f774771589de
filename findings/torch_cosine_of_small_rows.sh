#!/usr/bin/env bash
# torch: cosine_similarity and the product of normalised rows disagree below a norm of 1e-8.
#
# Expected: F.cosine_similarity(x, y) and (F.normalize(x) * F.normalize(y)).sum(-1) are the same number, and the cosine
#   of a row with itself is 1, as long as float32 can hold its length.
# Happens: each has a floor for the norm, and not the same one: 1e-8 and 1e-12. A row of norm 3e-10 has cosine .001
#   with itself by the first and 1 by the second. Of large rows (norm above 1.8e19) both give 0: the sum of squares is
#   infinite.
# Version: torch 2.15.0.
# Why it matters: a loss written with one and a kNN probe written with the other rank the same features differently.
#   Rows as small come from encoders that collapse, from a projector scaled down by weight decay and from physical
#   units, and a cosine near 0 reads as "orthogonal", where it is the floor.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(torch==2.15.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import torch
from torch.nn import functional as F


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def cosines(scale):
    x = torch.full((1, 9), scale)  # its norm is three times the scale
    return F.cosine_similarity(x, x).item(), (F.normalize(x) * F.normalize(x)).sum(-1).item()


for scale in (1.0, 1e-6):
    one, other = cosines(scale)
    check(abs(one - 1) < 1e-5 and abs(other - 1) < 1e-5, f"norm {3 * scale:.0e}: {one:.4f} and {other:.4f}")
one, other = cosines(1e-10)
check(one < 0.01 and abs(other - 1) < 1e-5, f"norm 3e-10: cosine_similarity {one:.4f}, normalised rows {other:.4f}")
one, other = cosines(1e-14)
check(one < 1e-8 and other < 0.01, f"norm 3e-14: cosine_similarity {one:.1e}, normalised rows {other:.1e}")
one, other = cosines(1e19)
check(one == 0 and other == 0, f"norm 3e+19: cosine_similarity {one:.4f}, normalised rows {other:.4f}")
PYTHON
