#!/usr/bin/env bash
# torch: fused AdamW on a CPU pairs weights and averages by memory, not by place, where their layouts differ.
#
# Expected: an optimiser's loaded state holds a number for each weight; how a tensor lies in memory changes no result,
#   as it does not with fused=False.
# Happens: the weights of a convolution are channels-last. Its averages are loaded as a file of tensors gives them, in
#   contiguous memory, with the same shape. step() then updates each weight with the averages of another one: after
#   three further steps at a learning rate of 0.01 weights are off by more than 0.01. No error, no warning.
# Version: torch 2.15.0.
# Why it matters: safetensors, NumPy and most checkpoint formats store row by row, channels-last is what makes
#   convolutions fast on a CPU, and training that goes on from such a file goes on with wrong steps and finite losses.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=""
packages=(torch==2.15.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
cat >layout.py <<'PYTHON'
import copy
import sys

import torch


def trained(fused, contiguous):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.01, fused=fused)
    images = torch.randn(16, 4, 8, 8)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(optimizer.state_dict())
            for averages in state["state"].values() if contiguous else ():
                averages.update({k: averages[k].contiguous() for k in ("exp_avg", "exp_avg_sq")})
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        conv(images).square().mean().backward()
        optimizer.step()
    return conv.weight.detach()


plain = trained(False, False)
off = {(f, c): float((trained(f, c) - plain).abs().max()) for f in (False, True) for c in (False, True)}
print({f"fused={f}, {'contiguous' if c else 'as the weights'}": f"{v:.1e}" for (f, c), v in off.items()})
if max(off[False, True], off[True, False]) > 1e-6 or off[True, True] < 0.01:
    print("changed, not as stated any more")
    sys.exit(1)
print("as stated: with fused=True and contiguous averages, and only so, weights come out otherwise")
PYTHON
PYTHONPATH=$work/lib "$python" layout.py
