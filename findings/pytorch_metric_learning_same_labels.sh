#!/usr/bin/env bash
# pytorch-metric-learning: with one tensor as labels and ref_labels the positive pairs are left out, and the loss is 0.
#
# Expected: loss(queries, labels, ref_emb=keys, ref_labels=labels) compares each query with the key of its label, and
#   depends on the values of the labels alone.
# Happens: if ref_labels is the same object as labels, the diagonal is left out, as if the keys were the queries
#   themselves. NTXentLoss of two modalities whose pairs have labels 0 .. n - 1 has then no positive pair: loss 0 and
#   gradient 0, for any features. With ref_labels=labels.clone() it is the cross-entropy of the cosines. With class
#   labels it is worse to see: each image's own pair is left out, and the loss is another number, not 0.
# Version: pytorch-metric-learning 2.9.0 with torch 2.15.0.
# Why it matters: it is the first call that one writes for image and text, query and document, two views. The first case
#   trains nothing; the second trains on all pairs of a class but the true ones.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(pytorch-metric-learning==2.9.0 torch==2.15.0 numpy==2.4.6 scikit-learn==1.9.1)
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
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


torch.manual_seed(0)
queries, keys = torch.randn(2, 64, 16)
queries.requires_grad_()
labels = torch.arange(64)
cosines = F.normalize(queries) @ F.normalize(keys).T
expected = F.cross_entropy(cosines / 0.1, labels).item()
for loss in (NTXentLoss(temperature=0.1), SupConLoss(temperature=0.1)):
    name = type(loss).__name__
    same = loss(queries, labels, ref_emb=keys, ref_labels=labels)
    slope = torch.autograd.grad(same, queries)[0].abs().max().item()
    copied = loss(queries, labels, ref_emb=keys, ref_labels=labels.clone()).item()
    zero = same.item() == 0 and slope == 0
    check(zero, f"{name}, 64 random pairs, ref_labels=labels: loss {same.item()}, gradient {slope}")
    check(abs(copied - expected) < 1e-4, f"ref_labels=labels.clone(): {copied:.3f}, as cross-entropy of the cosines")

classes = labels % 8
near = keys + 0.1 * torch.randn(64, 16)  # queries whose own keys are near
loss = NTXentLoss(temperature=0.1)
same, copied = (loss(near, classes, ref_emb=keys, ref_labels=other).item() for other in (classes, classes.clone()))
check(same > copied + 0.5, f"near pairs, eight classes: {same:.2f} with the same tensor, {copied:.2f} with a copy")
PYTHON
