#!/usr/bin/env bash
# torchmetrics: R2 of targets far from zero is above 1, for a constant prediction too.
#
# Expected: R2 is at most 1, 0 for the mean as prediction, and does not change when a constant is added to targets and
#   predictions; R2Score in float32 has the digits of float32, as scikit-learn's r2_score has for the same arrays.
# Happens: the variance of the targets is the sum of squares less n times the squared mean, of float32 sums. At 10,000
#   standard deviations from zero nothing is left of it. Twenty times 5,000 targets of 10,000 +- 1 with an R2 of .75
#   have 0 to 1.04, and a constant prediction, truly 0, up to 1.15. ExplainedVariance does the same; float64 is right.
# Version: torchmetrics 1.9.0.
# Why it matters: times, positions and raw sensor counts are such targets of a regression probe, and a model's tensors
#   are float32. A probe that learned nothing gets 1, and only a value above 1 shows it.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(torchmetrics==1.9.0 torch==2.15.0 numpy==2.4.6 scikit-learn==1.9.1)
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
import torch
from sklearn.metrics import r2_score
from torchmetrics import ExplainedVariance, R2Score

warnings.simplefilter("error")
torch.set_num_threads(1)


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def r2(predicted, target, kind=R2Score):
    metric = kind()
    for start in range(0, len(target), 100):
        metric.update(predicted[start : start + 100], target[start : start + 100])
    return metric.compute().item()


def drawn(offset, spread, seed, dtype=torch.float32):
    noise = np.random.default_rng(seed).standard_normal((2, 5000))
    target = offset + spread * noise[0]
    return (torch.tensor(values, dtype=dtype) for values in (target + spread / 2 * noise[1], target))


for dtype, offset in ((torch.float32, 0), (torch.float64, 10_000)):
    predicted, target = drawn(offset, 1, 0, dtype)
    value = r2(predicted, target)
    check(abs(value - 0.75) < 0.02, f"targets of {offset} +- 1 in {dtype}: R2 {value:.3f}")
for what, offset, spread in (("10,000 +- 1", 1e4, 1), ("times of a month in seconds since 1970", 1.7e9, 7 * 86400)):
    sets = [tuple(drawn(offset, spread, seed)) for seed in range(20)]
    right = [r2_score(target.numpy(), predicted.numpy()) for predicted, target in sets]
    check(max(abs(v - 0.75) for v in right) < 0.03, f"{what}: scikit-learn has {min(right):.2f} to {max(right):.2f}")
    for kind in (R2Score, ExplainedVariance):
        values = np.array([r2(*pair, kind) for pair in sets])
        wrong = (abs(values - 0.75) > 0.05).sum()
        found = f"{kind.__name__} has {values.min():.2f} to {values.max():.2f}"
        check(wrong >= 14, f"{found}: {wrong} of 20 are wrong by over .05")
    constant = np.array([r2(torch.full_like(target, offset), target) for _, target in sets])
    off = (abs(constant) > 0.2).sum()
    check(off >= 10, f"a constant prediction has {constant.min():.2f} to {constant.max():.2f}, truly 0")
PYTHON
