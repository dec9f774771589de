#!/usr/bin/env bash
# datasets: scans in folders of classes have labels as .nii, and none as .nii.gz, the form that most scans have.
#
# Expected: the niftifolder builder takes labels from the folders' names, as imagefolder does, and takes both endings.
#   drop_labels=False asks for labels where the builder would leave them out.
# Happens: of train/cat/*.nii and train/dog/*.nii there is a column "label" of cat and dog. The same scans as .nii.gz
#   give the column "nifti" alone, without a word: to the builder a .gz is an archive, and folders that hold archives
#   alone are no classes. drop_labels=False ends in "Invalid string class label cat", as the classes are none.
# Version: datasets 5.2.0 with nibabel 5.4.2.
# Why it matters: dcm2niix and public sets of scans write .nii.gz. Who trains or probes on such a folder has no labels, or
#   an error about a name that is a right one. What helps: read the folder's name from each file's path.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HOME=$work/home HF_DATASETS_DISABLE_PROGRESS_BARS=1
packages=(datasets==5.2.0 nibabel==5.4.2 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import sys
from pathlib import Path

import nibabel
import numpy as np
from datasets import load_dataset


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


def read(ending, **options):
    """The training part of two scans in each of the folders cat and dog."""
    root = Path(ending.strip("."))
    for kind in ("cat", "dog"):
        folder = root / "train" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(2):
            scan = nibabel.Nifti1Image(np.full((4, 4, 4), k, np.float32), np.eye(4))
            nibabel.save(scan, folder / f"{k}{ending}")
    return load_dataset("niftifolder", data_dir=str(root), cache_dir=str(root / "cache"), **options)["train"]


plain, packed = read(".nii"), read(".nii.gz")
check(len(plain) == len(packed) == 4, "4 scans are found with each ending")
check(plain.features["label"].names == ["cat", "dog"], "as .nii they have a label, cat or dog")
check(packed.column_names == ["nifti"], f"as .nii.gz their columns are {packed.column_names}")
check(packed[3]["nifti"].get_fdata().sum() == 64, "though the packed scans themselves are read")
try:
    read(".nii.gz", drop_labels=False)
except Exception as error:
    said = str(error.__cause__ or error)
else:
    said = "nothing"
check("Invalid string class label" in said, f"and with drop_labels=False the error is: {said}")
PYTHON
