#!/usr/bin/env bash
# accelerate: asked for FSDP where there is no GPU, it trains whole copies, and says nothing.
#
# Expected: `accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2` shards parameters, or is refused:
#   torch's fully_shard itself works over gloo.
# Happens: both processes run; the plugin is dropped, the distributed type is MULTI_CPU, and prepare() wraps the model
#   in DistributedDataParallel, with all of the parameters in each process. No warning, status 0.
# Version: accelerate 1.15.0 with torch 2.15.0.
# Why it matters: shards are tried out on a laptop or in CI before GPUs are paid for. Memory, checkpoints and the
#   equality of losses that are seen there are those of whole copies, and say nothing of shards.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" HF_HOME=$work/home
packages=(accelerate==1.15.0 torch==2.15.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
cat >two.py <<'PYTHON'
import os
import sys

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

accelerator = Accelerator(cpu=sys.argv[1] == "cpu")
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters())
if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
itself = fully_shard(torch.nn.Linear(64, 64), mesh=torch.distributed.init_device_mesh("cpu", (2,)))
own = sum(p.to_local().numel() for p in itself.parameters())
with open(f"rank{os.environ['RANK']}", "w") as out:
    print(accelerator.num_processes, accelerator.distributed_type.value, type(model).__name__, held, own, file=out)
PYTHON
for form in cpu plain; do
    status=0
    PYTHONPATH=$work/lib "$python" -m accelerate.commands.launch --use_fsdp --fsdp_version 2 --num_processes 2 \
        --num_machines 1 --mixed_precision no --dynamo_backend no two.py $form >launch.log 2>&1 || status=$?
    if [ "$status" != 0 ] || grep -qi fsdp launch.log; then
        cat launch.log
        echo "changed, not as stated any more: status $status, or something is said of FSDP"
        exit 1
    fi
    stated="2 MULTI_CPU DistributedDataParallel 4160 2080"
    [ $form = cpu ] || stated="1 NO Linear 4160 2080"
    for rank in 0 1; do
        if [ "$(cat "rank$rank")" != "$stated" ]; then
            echo "changed, not as stated any more: process $rank, $form, has $(cat "rank$rank")"
            exit 1
        fi
    done
    echo "as stated, $form: both have (processes, type, class, numbers held, numbers in torch's own shard) $stated"
done
