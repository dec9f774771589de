#!/usr/bin/env bash
# datasets: with_format("numpy") gives float32 of a float64 column, and 1,000 time stamps become one.
#
# Expected: the numpy format gives arrays of the column's own type: the features say float64, and Arrow holds float64.
# Happens: every floating-point column comes as float32, and every whole-number one as int64 (uint16 too). Time stamps
#   of today, 10 ms apart, are all equal in float32, whose steps there are 128 s. Without a format the numbers are
#   exact.
# Version: datasets 5.2.0.
# Why it matters: features and signals kept in datasets are read in this format by estimators. Ties and lost digits
#   change MI by neighbours, and joins of two modalities by their times pair wrong rows. Ask for the type:
#   with_format("numpy", dtype="float64").
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(datasets==5.2.0 numpy==2.4.6 pyarrow==26.0.1)
python=${PYTHON:-python3}
"$python" -m venv --without-pip "$work/venv"
if ! "$python" -m pip --python "$work/venv/bin/python" install -qq --no-compile "${packages[@]}" \
    2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import datasets
import numpy as np


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


times = 1.7e9 + np.arange(1000) * 0.01
data = datasets.Dataset.from_dict({"time": times, "count": np.arange(1000, dtype=np.uint16)})
check(data.features["time"].dtype == "float64", "the features say float64")
plain = np.array(data[:]["time"])
check(len(np.unique(plain)) == 1000, "without a format, the column holds 1,000 different time stamps")
made = data.with_format("numpy")[:]["time"]
check(made.dtype == np.float32, f"in the numpy format it is {made.dtype}")
check(len(np.unique(made)) == 1, f"and holds {len(np.unique(made))} different time stamp")
asked = data.with_format("numpy", dtype="float64")[:]["time"]
check(asked.dtype == np.float64 and len(np.unique(asked)) == 1000, "with dtype=float64 all 1,000 are there")
PYTHON
