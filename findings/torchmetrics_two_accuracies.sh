#!/usr/bin/env bash
# torchmetrics: Accuracy(task="multiclass") and MulticlassAccuracy differ: .9 and .5 for the same predictions.
#
# Expected: the first makes the second, and both give the share of rows that are right.
# Happens: Accuracy's default is average="micro", the share of rows; MulticlassAccuracy's is "macro", the mean of the
#   classes' shares. A probe that always says the larger of two classes, of 90 and 10 rows, has .9 by the one and .5 by
#   the other.
# Version: torchmetrics 1.9.0.
# Why it matters: two papers' linear probes on long-tailed labels cannot be compared unless they say the average, and a
#   refactoring from one name to the other moves the number by tens of percent with no error.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(torchmetrics==1.9.0 torch==2.15.0 numpy==2.4.6)
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
from torchmetrics.classification import Accuracy, MulticlassAccuracy


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


labels = torch.tensor([0] * 90 + [1] * 10)
guesses = torch.zeros_like(labels)
by_task = Accuracy(task="multiclass", num_classes=2)
by_name = MulticlassAccuracy(num_classes=2)
check(isinstance(by_task, MulticlassAccuracy), "Accuracy(task=...) makes a MulticlassAccuracy")
values = by_task(guesses, labels).item(), by_name(guesses, labels).item()
check(abs(values[0] - 0.9) < 1e-6, f"it gives {values[0]:.2f}")
check(abs(values[1] - 0.5) < 1e-6, f"MulticlassAccuracy itself gives {values[1]:.2f}")
PYTHON
