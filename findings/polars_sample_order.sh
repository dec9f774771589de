#!/usr/bin/env bash
# polars: sample(fraction=1) keeps the order of the rows, and a permutation test by it has no null.
#
# Expected: sample draws rows at random, and a sample of all of them is a permutation, as pandas' sample(frac=1) is, the
#   usual way to shuffle a frame. With fraction=.9 polars' rows do come in random order.
# Happens: with shuffle=False, the default, a sample of every row is the frame as it was, whatever the seed, for frames,
#   series and expressions. The documentation says of shuffle=False only that the order is "neither stable nor fully
#   random".
# Version: polars 2.1.0.
# Why it matters: y.sample(fraction=1) as a null keeps all dependence: every permuted value equals the observed one, and
#   p is 1. Shuffled before a split, a frame sorted by class is split by class: a test part with classes never seen.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(polars==2.1.0 numpy==2.4.6)
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
import polars as pl


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
rows = 500
x = rng.standard_normal(rows)
frame = pl.DataFrame({"x": x, "y": 0.8 * x + 0.6 * rng.standard_normal(rows)})


def null(**how):
    values = []
    for seed in range(99):
        permuted = frame["y"].sample(fraction=1.0, seed=seed, **how)
        values.append(abs(np.corrcoef(x, permuted.to_numpy())[0, 1]))
    return np.array(values)


observed = abs(np.corrcoef(x, frame["y"].to_numpy())[0, 1])
values = null()
p = (1 + (values >= observed - 1e-12).sum()) / 100
check(np.ptp(values) < 1e-12 and p == 1, f"a correlation of {observed:.2f} and 99 samples of all rows: p = {p:.2f}")
p = (1 + (null(shuffle=True) >= observed).sum()) / 100
check(p == 0.01, f"with shuffle=True p = {p:.2f}")
check(frame.sample(fraction=1.0, seed=1).equals(frame), "a frame's sample of all rows is the frame")
check(frame.select(pl.all().sample(fraction=1.0, seed=1)).equals(frame), "so is the expression's")
places = pl.Series(np.arange(rows))
part = places.sample(fraction=0.9, seed=1).to_numpy()
check(abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 0.2, "a sample of nine tenths comes in random order")
PYTHON
