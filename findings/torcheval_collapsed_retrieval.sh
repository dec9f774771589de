#!/usr/bin/env bash
# torcheval: an encoder that has collapsed to a point retrieves perfectly: hit rate 1, reciprocal rank 1.
#
# Expected: where all scores are equal, the right one of 100 is first once in 100 times by chance, and a metric of
#   retrieval says so, .01, or the worst, 0.
# Happens: hit_rate, reciprocal_rank and multiclass_accuracy with k above 1 count the scores that are larger than the
#   right one, and of equal ones none is: the rank is the best possible. With all features equal all three are 1, and
#   each query whose features are all zero is a hit. multiclass_accuracy with k=1 gives .01 of the same scores.
# Version: torcheval 0.0.7 with torch 2.15.0.
# Why it matters: collapse is the failure of contrastive and self-supervised training that these metrics are watched
#   for, and it reads as a perfect score. Scores in bfloat16 and features behind a ReLU that is dead for a part of the
#   inputs have ties as well.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(torcheval==0.0.7 torch==2.15.0 numpy==2.4.6)
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
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def metrics(x, y):
    scores, right = x @ y.T, torch.arange(len(x))
    hits, ranks = (values.mean().item() for values in (hit_rate(scores, right, k=1), reciprocal_rank(scores, right)))
    return hits, ranks, *(multiclass_accuracy(scores, right, k=k).item() for k in (5, 1))


names = "hit_rate(k=1) {:.2f}, reciprocal_rank {:.2f}, multiclass_accuracy(k=5) {:.2f}, multiclass_accuracy(k=1) {:.2f}"
torch.manual_seed(0)
x, y = torch.randn(2, 100, 32)
values = metrics(x, y)
check(max(values) < 0.15, f"100 unrelated pairs: {names.format(*values)}")
values = metrics(torch.ones(100, 32), torch.ones(100, 32))
check(values[:3] == (1, 1, 1), f"100 pairs of equal features: {names.format(*values)}")
check(abs(values[3] - 0.01) < 1e-6, "so the two accuracies differ by what they do with ties")
x[:10] = 0
values = metrics(x, y)
check(all(value > 0.1 for value in values[:3]), f"unrelated, ten of x's rows zero: {names.format(*values)}")
PYTHON
