#!/usr/bin/env bash
# webdataset: big-endian arrays in .ten fields come back with other values, and in .npy fields with their own.
#
# Expected: an array that is written to a shard is read back with its values, in whatever order its bytes lie.
# Happens: the tensor format names a type without its order of bytes, and writes the bytes as they lie. A big-endian
#   float32 array comes back as numbers of the right shape and type, 1.0 as 4.6e-41, and big-endian int16 grey values
#   with their bytes swapped, 1 as 256. Nothing warns, in encoding or in decoding. A .npy field keeps the order. Native
#   arrays come back right from both.
# Version: webdataset 1.0.2.
# Why it matters: FITS, netCDF 3 and many NIfTI and MATLAB files are read as big-endian arrays, and .ten is the faster
#   field for features and volumes. Swapped integers look like noise with structure, on which an encoder trains. Call
#   array.astype(array.dtype.newbyteorder("=")) first.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(webdataset==1.0.2 numpy==2.4.6)
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
import webdataset


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def kept(array, field):
    with webdataset.TarWriter("shard.tar") as shard:
        shard.write({"__key__": "0", field: [array] if field == "ten" else array})
    (sample,) = webdataset.WebDataset("shard.tar", shardshuffle=False).decode()
    return sample[field][0] if field == "ten" else sample[field]


for name, first in (("f4", "4.6e-41"), ("i2", "256")):
    native = np.arange(1, 7, dtype=f"<{name}").reshape(2, 3)
    swapped = native.astype(f">{name}")
    check(np.array_equal(native, swapped), f"{native.dtype}, both orders of bytes: numpy has them as equal")
    check(np.array_equal(kept(native, "ten"), native), "the native one comes back from a .ten field")
    check(np.array_equal(kept(swapped, "npy"), native), "the big-endian one comes back from a .npy field")
    read = kept(swapped, "ten")
    alike = read.dtype == native.dtype and read.shape == native.shape
    check(alike, f"from a .ten field it is {read.dtype} {read.shape}")
    check(f"{read[0, 0]:.3g}" == first, f"and its first number, 1, is {read[0, 0]:.3g}")
PYTHON
