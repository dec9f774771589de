#!/usr/bin/env bash
# nibabel: a float map saved with a scan's header is rounded to the scan's type, and one outlier leaves seven values.
#
# Expected: Nifti1Image(values, scan.affine, scan.header) takes the place of the scan from the header and keeps float32
#   values as they are.
# Happens: the type on disk is the header's. With that of an int16 scan the values are rounded to 65,536 steps between
#   the file's own smallest and largest; with a uint8 mask's to 256. One voxel of 1e5 in a map of normal values leaves
#   fewer than ten different values. Read back, it is float64, so nothing shows. set_data_dtype(np.float32) keeps the
#   values.
# Version: nibabel 5.4.2.
# Why it matters: maps of features and activations are saved this way, since the header carries the place. Ties and
#   steps that differ from file to file take information away, and an estimator by neighbours or a copula finds MI
#   between ties.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(nibabel==5.4.2 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import nibabel
import numpy as np


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def written(values, kind, keep=False):
    """The number of different values in a map that is saved with the header of a scan of this type, and read again."""
    scan = nibabel.Nifti1Image(np.ones(values.shape, kind), np.eye(4))
    image = nibabel.Nifti1Image(values, scan.affine, scan.header)
    if keep:
        image.set_data_dtype(np.float32)
    nibabel.save(image, "map.nii")
    return len(np.unique(nibabel.load("map.nii").get_fdata()))


values = np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
there = len(np.unique(values))
outlier = values.copy()
outlier[0, 0, 0] = 1e5
counts = written(values, np.int16), written(values, np.uint8), written(outlier, np.int16)
check(counts[0] < there - 500, f"of {there} different values {counts[0]} are left with an int16 header")
check(counts[1] <= 256, f"{counts[1]} with a uint8 header")
check(counts[2] < 10, f"{counts[2]} with an int16 header where one voxel is 1e5")
check(written(outlier, np.int16, keep=True) == len(np.unique(outlier)), "all of them after set_data_dtype(np.float32)")
PYTHON
