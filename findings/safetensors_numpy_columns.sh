#!/usr/bin/env bash
# safetensors: an array in Fortran order, as pandas hands out, is saved with its values in wrong places, in silence.
#
# Expected: safetensors.numpy.save_file keeps every array's values in their places, or refuses one whose layout it cannot
#   write, as save_file of safetensors.torch does.
# Happens: the array's memory is written as it lies, under the array's shape. A table of two columns that correlate at
#   .9, from DataFrame.to_numpy(), lies column after column; in the file each row holds two successive values of one
#   column, and the correlation is 0. The shape, the type and the set of values are right, and nothing warns. So it is
#   of any transposed array. The docstring asks for contiguous arrays; np.ascontiguousarray makes them.
# Version: safetensors 0.8.0, pandas 2.3.3.
# Why it matters: features, tables and labels are kept in this format beside an encoder. Pairs read back are pairs of
#   other things, and an MI of .83 nats is 0.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(safetensors==0.8.0 pandas==2.3.3 numpy==2.4.6)
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
import pandas as pd
from safetensors.numpy import load_file, save_file


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def kept(array):
    save_file({"pairs": array}, "pairs.safetensors")
    return load_file("pairs.safetensors")["pairs"]


x, e = np.random.default_rng(0).standard_normal((2, 1000))
pairs = pd.DataFrame({"x": x, "y": 0.9 * x + np.sqrt(1 - 0.9**2) * e}).to_numpy()
loaded = kept(pairs)
before, after = (np.corrcoef(array.T)[0, 1] for array in (pairs, loaded))
check(loaded.shape == pairs.shape and loaded.dtype == pairs.dtype, f"{pairs.dtype} {pairs.shape} is read back as such")
check(np.array_equal(np.sort(loaded, None), np.sort(pairs, None)), "and holds the same values")
check(before > 0.85 and abs(after) < 0.1, f"correlation of the columns: {before:.2f} before, {after:.2f} read back")
small = np.arange(6.0).reshape(2, 3)
check(kept(small.T).tolist() == [[0, 1], [2, 3], [4, 5]], f"{small.T.tolist()} is read back as {kept(small.T).tolist()}")
check(np.array_equal(kept(np.ascontiguousarray(pairs)), pairs), "after np.ascontiguousarray every value is in its place")
PYTHON
