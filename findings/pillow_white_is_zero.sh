#!/usr/bin/env bash
# Pillow: a TIFF whose 0 is white is turned at 8 bits, not at 16 or in float32; tifffile and scikit-image never turn it.
#
# Expected: PhotometricInterpretation 0 (WhiteIsZero) says that 0 is white. A reader turns such an image, as Pillow
#   does, or leaves all of them alone; how many bits a sample has changes nothing.
# Happens: one image, saved by its 8 upper bits and in 16, comes back from Pillow as two that correlate -1: at 8 bits
#   dark and light change places, at 16 bits and in float32 they stay. tifffile, and with it scikit-image, gives the
#   stored numbers of all three; of the 8-bit file that is the negative of what Pillow gives.
# Version: Pillow 13.0.0, tifffile 2026.3.3.
# Why it matters: scanners of gels and films write such files, and 16 bits are reduced to 8 for training. A model sees
#   negatives for one part of the data, or in deployment, where another reader is used, and nothing says so.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(pillow==13.0.0 tifffile==2026.3.3 scikit-image==0.26.0 numpy==2.4.6)
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
import tifffile
from PIL import Image
from skimage import io

warnings.simplefilter("error")


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


deep = np.random.default_rng(0).integers(0, 2**16, (64, 64)).astype(np.uint16)
kinds = {"8 bits": (deep >> 8).astype(np.uint8), "16 bits": deep, "float32": deep.astype(np.float32)}
for kind, values in kinds.items():
    for photometric in ("minisblack", "miniswhite"):
        tifffile.imwrite(f"{photometric}.tif", values, photometric=photometric)
        with Image.open(f"{photometric}.tif") as image:
            read = np.asarray(image)
        correlation = np.corrcoef(read.ravel().astype(float), values.ravel().astype(float))[0, 1]
        turned = kind == "8 bits" and photometric == "miniswhite"
        said = f"{photometric}, {kind}: what Pillow reads correlates {correlation:+.3f} with what is stored"
        check(abs(correlation - (-1 if turned else 1)) < 1e-6, said)
    stored = np.array_equal(tifffile.imread("miniswhite.tif"), values)
    check(stored, f"miniswhite, {kind}: tifffile reads what is stored")
    check(np.array_equal(io.imread("miniswhite.tif"), values), f"miniswhite, {kind}: so does scikit-image")
PYTHON
