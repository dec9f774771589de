#!/usr/bin/env bash
# scipy: MATLAB's doubles come back as uint8 where they happen to be small whole numbers, and differences wrap.
#
# Expected: loadmat gives the types that MATLAB had: a variable of class double is float64.
# Happens: MATLAB stores doubles that are whole numbers from 0 to 255 as bytes, to save room, and keeps their class
#   beside them. loadmat gives the stored type, so 3 - 200 is 59. One variable has another type in another file of the
#   same study, as soon as a single value is .5, negative or above 255. whosmat says "double" of either; mat_dtype=True
#   gives float64.
# Version: scipy 1.17.1.
# Why it matters: counts, grey values and ratings in .mat files are doubles of this kind. Differences of two columns or
#   frames, squares and sums of squares wrap in silence, and MI and contrastive pairs made of them are those of wrapped
#   numbers.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(scipy==1.17.1 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import io
import struct
import sys

import numpy as np
from scipy.io import loadmat, whosmat


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def mat_file(name, values):
    """A MAT-file of level 5, by the format's rules: one variable of class double, its numbers stored as bytes."""

    def element(kind, data):
        return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    double, int8, uint8, int32, uint32, matrix = 6, 1, 2, 5, 6, 14
    parts = element(uint32, struct.pack("<II", double, 0)) + element(int32, struct.pack("<ii", *values.shape))
    parts += element(int8, name.encode()) + element(uint8, values.astype(np.uint8).tobytes(order="F"))
    header = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM"
    return io.BytesIO(header + element(matrix, parts))


values = np.array([[3, 200], [250, 10]])
file = mat_file("ratings", values)
check(whosmat(file) == [("ratings", (2, 2), "double")], "whosmat says that the variable is a double")
file.seek(0)
loaded = loadmat(file)["ratings"]
check((loaded == values).all() and loaded.dtype == np.uint8, f"loadmat gives its numbers as {loaded.dtype}")
difference = (loaded[:, 0] - loaded[:, 1]).tolist()
check(difference == [59, 240], f"its first column less its second is {difference}, and not [-197, 240]")
file.seek(0)
loaded = loadmat(file, mat_dtype=True)["ratings"]
check(loaded.dtype == np.float64, f"with mat_dtype=True it gives {loaded.dtype}")
PYTHON
