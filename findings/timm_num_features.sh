#!/usr/bin/env bash
# timm: num_features is not the width of an encoder's output in MobileNetV3, GhostNet and HGNet.
#
# Expected: create_model(name, num_classes=0) gives an encoder whose output has model.num_features columns;
#   forward_features and a mean over places gives the same features.
# Happens: so it is for ResNets, ViTs and EfficientNets. Where a model has a layer between pooling and classifier, that
#   layer stays with num_classes=0: mobilenetv3_small_050 has num_features 288 and gives 1,024 columns, whose number is
#   head_hidden_size. The mean of forward_features has 288.
# Version: timm 1.0.31.
# Why it matters: a projector built with num_features fails at the first batch, which is the lucky case. "Linear probe
#   on timm features" means two layers' features by the two ways, one of them behind a further layer and its
#   activation.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import timm
import torch


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


images = torch.zeros(2, 3, 64, 64)


def widths(name):
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        places = model.forward_features(images)
        return model.num_features, model.head_hidden_size, model(images).shape[1], places.mean((2, 3)).shape[1]


for name in ("resnet18", "efficientnet_b0"):
    features, hidden, output, pooled = widths(name)
    check(features == hidden == output == pooled, f"{name}: num_features {features}, output {output}, pooled {pooled}")
for name in ("mobilenetv3_small_050", "ghostnet_050", "hgnetv2_b0"):
    features, hidden, output, pooled = widths(name)
    check(features == pooled < output == hidden, f"{name}: num_features {features}, output {output}, pooled {pooled}")
PYTHON
