#!/usr/bin/env bash
# anndata: a mask that is a pandas Series selects by place, and not by the names of its cells.
#
# Expected: adata[mask] with a boolean Series whose index holds the cells' names selects those cells, as a DataFrame's
#   .loc[mask] does and as adata.obs["kept"] = mask aligns it; or it is refused, as adata.obsm["x"] = frame refuses a
#   frame in another order.
# Happens: the Series' index is not looked at. A mask in another order of the cells, as another table or a sort gives
#   it, selects other cells, without a warning. So it is with a DataFrame that becomes a layer.
# Version: anndata 0.12.19.
# Why it matters: quality control and annotations come as tables of their own, sorted by their own key. Bad cells are
#   kept and good ones dropped, in the right number. A layer's rows are paired with other cells: the MI of two
#   modalities is that of shuffled pairs.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(anndata==0.12.19 pandas==2.3.3 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys
import warnings

import anndata
import numpy as np
import pandas as pd

warnings.simplefilter("error")


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


rng = np.random.default_rng(0)
rows = 1000
cells = [f"cell{k}" for k in range(rows)]
counts = pd.DataFrame(rng.standard_normal((rows, 2)), index=cells, columns=["a", "b"])
data = anndata.AnnData(counts)

quality = pd.DataFrame({"share": rng.random(rows)}, index=cells).sort_values("share")  # worst cells first
good = quality["share"] > 0.5
wanted = set(good.index[good])
check(set(data.obs.loc[good].index) == wanted, f"obs.loc[mask] selects the {len(wanted)} good cells")
data.obs["good"] = good
check(set(data.obs_names[data.obs["good"]]) == wanted, "obs[name] = mask puts the mask in the cells' order")
selected = data[good].obs_names
right = len(wanted.intersection(selected))
check(len(selected) == len(wanted), f"data[mask] selects {len(selected)} cells too, and warns of nothing")
check(right < 0.6 * len(wanted), f"{right} of them are good ones: half, as by chance")
check(list(selected) == cells[rows - len(wanted) :], "they are the last ones, as the mask's places are")

sorted_counts = counts.loc[quality.index]
try:
    data.obsm["copy"] = sorted_counts
    refused = False
except ValueError:
    refused = True
check(refused, "obsm[name] = frame refuses a frame in another order")
data.layers["copy"] = sorted_counts
correlation = np.corrcoef(data.layers["copy"][:, 0], data.X[:, 0])[0, 1]
check(abs(correlation) < 0.1, f"layers[name] = frame goes by place: a gene correlates {correlation:.2f} with itself")
PYTHON
