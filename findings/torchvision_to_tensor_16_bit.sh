#!/usr/bin/env bash
# torchvision: ToTensor turns a 16-bit grey image into negative whole numbers; transforms.v2 scales it to 0 .. 1.
#
# Expected: ToTensor gives float32 from 0 to 1, and the v2 pair that its documentation names as the replacement,
#   ToImage and ToDtype(torch.float32, scale=True), gives the same.
# Happens: of a 16-bit grey PNG, as microscopes and scanners write them, ToTensor gives int16, unscaled, with the
#   bright half wrapped to negative numbers: 32,768 becomes -32,768. No warning. The v2 pair gives float32 from 0 to 1.
# Version: torchvision 0.29.2, Pillow 13.0.0.
# Why it matters: Normalize refuses whole numbers, but `ToTensor()(image).float()` in one's own Dataset does not. The
#   encoder then sees bright as dark, and two recipes that differ in nothing but the transforms' version train on
#   different pictures.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6)
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
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


pixels = np.array([[0, 1000, 32767, 32768, 60000, 65535]], np.uint16)
Image.fromarray(pixels).save("grey.png")
image = Image.open("grey.png")
check(image.mode == "I;16" and (np.asarray(image) == pixels).all(), "Pillow reads the 16-bit grey PNG exactly")
old = transforms.ToTensor()(image)
check(old.dtype == torch.int16, f"ToTensor gives {old.dtype}")
check(old.flatten().tolist() == pixels.astype(np.int16)[0].tolist(), f"its pixels are {old.flatten().tolist()}")
new = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(image)
right = torch.from_numpy(pixels / 65535).float()
check(new.dtype == torch.float32 and torch.allclose(new[0], right, atol=1e-4), f"v2 gives {new.dtype} from 0 to 1")
PYTHON
