#!/usr/bin/env bash
# torchmetrics: the AUROC of log likelihoods is .5, and that of cosines depends on the batch size.
#
# Expected: the area under the ROC curve depends on the order of the scores alone: any increasing function of them, a
#   constant added or another batch size changes nothing.
# Happens: scores outside 0 .. 1 go through a float32 sigmoid, which is written beside `preds`. What follows from it is
#   not: scores below -104 all become 0, those above 17 become 1, and classes that lie apart have .5. And each update
#   decides for itself: batches with a negative cosine are squashed to about .5, those without one keep their cosines,
#   and compute() ranks both together. Average precision shares that step.
# Version: torchmetrics 1.9.0.
# Why it matters: out-of-distribution scores are log likelihoods and distances; pairs are told apart by cosines and by
#   critics' scores. A detector looks like chance, or two papers differ by their batch size. Scores scaled to 0 .. 1
#   beforehand are ranked rightly.
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
import warnings

import torch
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

warnings.simplefilter("error")
torch.set_num_threads(1)


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rows = 2000
generator = torch.Generator().manual_seed(0)
label = (torch.rand(rows, generator=generator) < 0.5).long()
score = 2 * label + torch.randn(rows, generator=generator)
pairs = score[label == 1, None] - score[None, label == 0]
truth = (pairs > 0).double().mean().item()  # the share of pairs in the right order


def area(scores, size=rows, kind=BinaryAUROC):
    metric = kind()
    for start in range(0, rows, size):
        metric.update(scores[start : start + size], label[start : start + size])
    return metric.compute().item()


plain = area(score)
check(abs(plain - truth) < 1e-3, f"AUROC {plain:.3f}, and {truth:.3f} of all pairs are in order")
likelihood = area(score - 200)
check(likelihood == 0.5, f"200 lower, as log likelihoods are: {likelihood:.3f}")
high = area(score + 20)
check(abs(high - 0.5) < 0.05, f"20 higher: {high:.3f}")
precise = area(score - 200, kind=BinaryAveragePrecision)
check(abs(precise - label.double().mean().item()) < 1e-3, f"average precision is the share of positives, {precise:.3f}")

cosine = torch.tanh(score / 5)
whole, tens, twos = (area(cosine, size) for size in (rows, 10, 2))
check(abs(whole - truth) < 1e-3, f"as cosines from {cosine.min():.2f} to {cosine.max():.2f}, in one batch: {whole:.3f}")
check(abs(tens - whole) > 0.015, f"in batches of 10: {tens:.3f}")
check(twos < 0.7, f"in batches of 2: {twos:.3f}")
scaled = area((cosine + 1) / 2, 2)
check(abs(scaled - truth) < 1e-3, f"scaled to 0 .. 1, in batches of 2: {scaled:.3f}")
PYTHON
