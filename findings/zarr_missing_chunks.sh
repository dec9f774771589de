#!/usr/bin/env bash
# zarr: a copy that was broken off reads as zeros, and two independent arrays then have .69 nats in common.
#
# Expected: an array of which half the chunks are missing raises an error when they are read, as a cut HDF5 or .npy
#   file does.
# Happens: a chunk that is not there stands for the fill value, 0, by the format. A store copied half has the full
#   shape, and half of its rows are 0; no warning. nchunks_initialized beside nchunks shows it, unless whole chunks of
#   zeros were written, which are not stored either.
# Version: zarr 3.1.6.
# Why it matters: images and recordings are kept in zarr, and copied file by file. An encoder is trained on black
#   images, whose views are perfect positives. Two modalities cut at the same row share the bit "is there", log 2 nats,
#   whatever they hold.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(zarr==3.1.6 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import os
import sys

import numpy as np
import zarr


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rows = np.random.default_rng(0).standard_normal((2, 1000, 8)).astype(np.float32)
loaded = []
for name, values in zip(("x", "y"), rows, strict=True):
    store = zarr.create_array(f"{name}.zarr", shape=values.shape, chunks=(100, 8), dtype=values.dtype)
    store[:] = values
    for chunk in range(5, 10):  # what a copy that was broken off has not brought
        os.remove(f"{name}.zarr/c/{chunk}/0")
    array = zarr.open_array(f"{name}.zarr", mode="r")
    loaded.append(array[:])
check(array.shape == (1000, 8), f"with half of its chunks gone the array has the shape {array.shape}")
there = [(values != 0).all(1) for values in loaded]
check((there[0][:500]).all() and not there[0][500:].any(), "its last 500 rows are read as 0")
joint = np.histogram2d(there[0], there[1], 2)[0] / 1000
product = np.outer(joint.sum(1), joint.sum(0))
nats = (joint[joint > 0] * np.log((joint / product)[joint > 0])).sum()
check(abs(nats - np.log(2)) < 1e-9, f"two independent arrays have {nats:.3f} nats in common, by which rows are 0")
counts = array.nchunks_initialized, array.nchunks
check(counts == (5, 10), f"{counts[0]} of {counts[1]} chunks are said to be initialised")
PYTHON
