#!/usr/bin/env bash
# scikit-learn: the "normal" output of QuantileTransformer puts the two extreme rows at 5.2 standard deviations.
#
# Expected: QuantileTransformer(output_distribution="normal") gives normal scores: of 100 rows the largest lies near
#   2.3, the columns have variance 1, and the correlation of two columns is that of the Gaussian copula.
# Happens: the smallest and the largest row have the quantiles 0 and 1, whose normal scores would be infinite. They are
#   cut at 5.199, whatever the number of rows. Of 100 rows these two carry more than a third of the column's sum of
#   squares, and MI by the copula's formula, -log(1 - r^2) / 2, comes out a fifth too low. At 10,000 rows the
#   difference is gone.
# Version: scikit-learn 1.9.1.
# Why it matters: it is the obvious one-liner for a Gaussian-copula MI and for columns made normal before a critic or a
#   probe. With a few hundred rows, two of them decide the number.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1)
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
from scipy.stats import norm, rankdata
from sklearn.preprocessing import QuantileTransformer


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def nats(scores):
    return -np.log1p(-(np.corrcoef(scores.T)[0, 1] ** 2)) / 2


def scores(n, seed, rho=0.9):
    rng = np.random.default_rng(seed)
    x, e = rng.standard_normal((2, n))
    pairs = np.c_[x, rho * x + np.sqrt(1 - rho**2) * e]
    made = QuantileTransformer(n_quantiles=min(n, 1000), output_distribution="normal").fit_transform(pairs)
    return made, norm.ppf(rankdata(pairs, axis=0) / (n + 1))


made, ranked = scores(100, 0)
check(abs(made.max() - 5.199) < 0.01, f"the largest of 100 rows is put at {made.max():.3f}")
check(ranked.max() < 2.5, f"its normal score, from rank / (n + 1), is {ranked.max():.3f}")
share = 2 * made.max() ** 2 / (made[:, 0] ** 2).sum()
check(share > 1 / 3, f"two of 100 rows carry {share:.0%} of the column's sum of squares")
truth = -np.log(1 - 0.9**2) / 2
transformer, ranks = np.array([[nats(s) for s in scores(100, seed)] for seed in range(100)]).mean(0)
check(abs(ranks - truth) < 0.06, f"MI by rank / (n + 1): {ranks:.3f} nats, mean of 100 draws; the truth is {truth:.3f}")
check(transformer < 0.8 * truth, f"MI by QuantileTransformer: {transformer:.3f} nats, mean of the same draws")
transformer, ranks = (nats(s) for s in scores(10_000, 0))
check(abs(transformer - ranks) < 0.01, f"with 10,000 rows they are {transformer:.3f} and {ranks:.3f} nats")
PYTHON
