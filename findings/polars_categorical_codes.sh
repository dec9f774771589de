#!/usr/bin/env bash
# polars: the codes of a Categorical depend on the other columns that the process holds.
#
# Expected: to_physical of a Categorical column gives its labels as numbers 0 .. k-1, from the column alone, in order of
#   appearance or of the alphabet, as pandas' .cat.codes do; the same column gives the same codes.
# Happens: all Categoricals of a process share one table of strings for as long as one of them lives, and a code is a
#   string's place in it. The same column has [0, 1, 2, 0] in a new process and [1000, 1001, 1002, 1000] beside another
#   column of 1,000 names. Test labels read beside the training labels have other codes than those read alone.
# Version: polars 2.1.0.
# Why it matters: codes that are saved as targets, or made anew in the process that evaluates, name other classes: a
#   classifier that is right looks wrong, with no error as long as the numbers are in range. An Enum's codes are fixed.
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
import subprocess
import sys


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


read = """
import polars as pl
def column(labels):
    return pl.Series(labels).cast(pl.Categorical)
def codes(labels):
    return column(labels).to_physical().to_list()
train, test = ["cat", "dog", "emu", "cat"], ["emu", "dog", "cat", "cat"]
"""


def answer(last):
    made = subprocess.run([sys.executable, "-c", f"{read}\n{last}"], check=True, capture_output=True, text=True)
    if made.stderr:
        sys.exit(f"changed, not as stated any more: no warning, but {made.stderr}")
    return made.stdout.strip()


check(answer("print(codes(train))") == "[0, 1, 2, 0]", "in a new process cat, dog, emu have the codes 0, 1, 2")
beside = answer("kept = column(train); print(codes(test))")
check(beside == "[2, 1, 0, 0]", f"test labels, in a process that holds the training labels: {beside}")
evaluated = answer("print(codes(test))")
check(evaluated == "[0, 1, 2, 2]", f"the same in a process without them: {evaluated}; three of four differ")
after = answer("subjects = column([f's{k}' for k in range(1000)]); print(codes(train))")
check(after == "[1000, 1001, 1002, 1000]", f"training labels, beside a column of 1,000 names: {after}")
fixed = answer("print(pl.Series(test).cast(pl.Enum(['cat', 'dog', 'emu'])).to_physical().to_list())")
check(fixed == "[2, 1, 0, 0]", f"as an Enum, in any process: {fixed}")
PYTHON
