#!/usr/bin/env bash
# infomeasure and npeet-plus: KSG adds noise of 1e-10 to the data whatever their unit, and buries small ones.
#
# Expected: MI does not change when both columns are measured in another unit, and an estimator that adds noise against
#   ties makes it small beside the data.
# Happens: both add noise of 1e-10 in absolute terms. Columns with a spread of 1e-12, as currents in amperes or lengths
#   of molecules in metres have, then are noise: an MI of .51 nats becomes 0. At 1e-10 most of it is gone in
#   infomeasure. scikit-learn's mutual_info_regression divides by the deviation first and gives the same number in
#   every unit.
# Version: infomeasure 0.6.3, npeet-plus 0.2.0, scikit-learn 1.9.1.
# Why it matters: 0 reads as "independent". Divide every column by its deviation before any neighbour-based estimate.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(infomeasure==0.6.3 npeet-plus==0.2.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys

import infomeasure
import numpy as np
from npeet_plus.estimators import mi
from sklearn.feature_selection import mutual_info_regression


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
np.random.seed(0)
x, e = rng.standard_normal((2, 2000))
y = 0.8 * x + 0.6 * e
truth = -np.log(1 - 0.8**2) / 2
methods = {
    "infomeasure": lambda x, y: float(infomeasure.mutual_information(x, y, approach="ksg")),
    "npeet-plus": lambda x, y: float(mi(x, y, base=np.e)),
    "scikit-learn": lambda x, y: float(mutual_info_regression(x[:, None], y, random_state=0)[0]),
}
for name, method in methods.items():
    values = [method(x * unit, y * unit) for unit in (1, 1e-10, 1e-12)]
    text = f"{name}: {values[0]:.3f} nats at a spread of 1, {values[1]:.3f} at 1e-10, {values[2]:.3f} at 1e-12"
    check(abs(values[0] - truth) < 0.08, f"{text}; the truth is {truth:.3f}")
    if name == "scikit-learn":
        check(max(values) - min(values) < 1e-6, f"{name} gives the same in every unit")
    else:
        check(abs(values[2]) < 0.08, f"{name} has lost all of it at 1e-12")
    if name == "infomeasure":
        check(values[1] < 0.2, f"{name} has lost most of it at 1e-10")
PYTHON
