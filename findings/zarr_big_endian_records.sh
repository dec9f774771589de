#!/usr/bin/env bash
# zarr: records of big-endian numbers are written to format 3 without a word, and come back as other numbers.
#
# Expected: an array of records (a structured dtype) reads back equal, whatever the byte order of its fields, as plain arrays of
#   big-endian numbers do in format 3, and as such records do in format 2 and in HDF5.
# Happens: format 3 keeps the bytes as they are and forgets their order: the array comes back as little-endian records of
#   the same bytes. .5 is 2.8e-319, the counts 10 and 20 are 167772160 and 335544320. No error, no warning of the order.
# Version: zarr 3.1.6.
# Why it matters: recordings that come from big-endian formats (FITS, IDL, netCDF classic, many instruments) are tables of records,
#   and converting one to zarr is one line. Ranks of swapped integers are as good as random, so that a mutual information
#   of about 0 is found where there was dependence, and nothing tells.
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
import sys
import tempfile
import warnings

import numpy as np
import zarr


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def returned(array, version):
    folder = tempfile.mkdtemp(dir=".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that format 3 has no specification of records yet is said; of order nothing is
        made = zarr.create_array(store=folder, shape=array.shape, dtype=array.dtype, chunks=2, zarr_format=version)
        made[:] = array
        return zarr.open_array(folder, mode="r")[:]


def records(order):
    found = np.zeros(5, [("time", f"{order}f8"), ("count", f"{order}i4")])
    found["time"], found["count"] = np.arange(5) + 0.5, 10 * np.arange(5)
    return found


big = records(">")
check((returned(records("<"), 3) == big).all(), "little-endian records come back equal from format 3")
check((returned(big, 2) == big).all(), "big-endian records come back equal from format 2")
check((returned(big["time"].copy(), 3) == big["time"]).all(), "a plain big-endian array comes back equal from format 3")
found = returned(big, 3)
check(found["count"].tolist() == big["count"].byteswap().tolist(), f"big-endian counts come back as {found['count'].tolist()}")
check((found["time"] < 1e-300).all(), f"and times of .5 to 4.5 as {found['time'].tolist()}")
PYTHON
