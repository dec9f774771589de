#!/usr/bin/env bash
# torchvision: import torchvision, and so import timm, loads torch's compiler and sympy, and takes twice as long as torch.
#
# Expected: torch loads its compiler when something is compiled (import torch does not load torch._dynamo), and a library of
#   transforms and models is imported in little more time than torch itself.
# Happens: torchvision/__init__ imports models, these import ops, and ops/roi_align asks torch._dynamo.utils whether compilation
#   is supported. So torch._dynamo, symbolic shapes and sympy are in every process that imports torchvision; timm imports
#   torchvision for its feature extraction where it is installed, and has them too. The import takes twice torch's
#   processor time or more.
# Version: torch 2.15.0, torchvision 0.29.2, timm 1.0.31.
# Why it matters: each process of a training pays it before its first line of work, each worker of a DataLoader that is spawned
#   pays it again, and tests that start processes pay it hundreds of times. Nothing is compiled in any of them. What only needs
#   torch should not import torchvision or timm at its top.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1
packages=(timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
PYTHONPATH=$work/lib "$python" - <<'PYTHON'
import json
import statistics
import subprocess
import sys


def check(holds, sentence):
    if not holds:
        sys.exit(f"changed, not as stated any more: {sentence}")
    print(f"as stated: {sentence}")


PROGRAM = """
import importlib, json, sys, time
importlib.import_module(sys.argv[1])
loaded = [name for name in ("torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy") if name in sys.modules]
print(json.dumps([time.process_time(), loaded]))
"""


def imported(name):
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


for name in ("torch", "torchvision", "timm"):
    imported(name)  # bytecode is there then
rounds = [{name: imported(name) for name in ("torch", "torchvision", "timm")} for _ in range(3)]
seconds = {name: statistics.median(found[name][0] for found in rounds) for name in rounds[0]}
print("processor seconds: " + ", ".join(f"{name} {found:.1f}" for name, found in seconds.items()))
check("torch._dynamo" not in rounds[0]["torch"][1], "import torch does not load torch._dynamo")
for name in ("torchvision", "timm"):
    check(len(rounds[0][name][1]) == 3, f"import {name} loads {', '.join(rounds[0][name][1])}")
    check(seconds[name] > 1.5 * seconds["torch"], f"import {name} takes more than 1.5 times the time of import torch")
PYTHON
