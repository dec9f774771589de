#!/usr/bin/env bash
# accelerate: a configuration of type MULTI_CPU for two processes on one machine starts one.
#
# Expected: `accelerate launch --config_file FILE` with distributed_type: MULTI_CPU and num_processes: 2 starts two
#   processes, as MULTI_GPU with num_processes: 2 does.
# Happens: one process, without RANK and WORLD_SIZE, and status 0; nothing is said. Type MULTI_GPU with use_cpu: true
#   starts two on the same machine.
# Version: accelerate 1.15.0 with torch 2.15.0.
# Why it matters: a test of a distributed loop on CPUs that is launched so passes on one process and has tested nothing of
#   it; a batch of all processes is half of what was asked for.
#
# Exit status: 0 as stated; 1 changed, with a sentence; 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONHOME PYTHONPATH RANK WORLD_SIZE
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" HF_HOME=$work/home
packages=(accelerate==1.15.0 torch==2.15.0 numpy==2.4.6)
python=${PYTHON:-python3}
if ! "$python" -m pip install -qq --no-compile --target "$work/lib" "${packages[@]}" 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    echo "could not install ${packages[*]}" >&2
    exit 2
fi
cd "$work"
echo 'import os; open("seen", "a").write(os.environ.get("WORLD_SIZE", "-") + "\n")' >note.py
started() { # the WORLD_SIZE that each process saw, in a line
    rm -f seen
    printf '%s\n' "compute_environment: LOCAL_MACHINE" "distributed_type: $1" "num_machines: 1" "machine_rank: 0" \
        "num_processes: 2" "mixed_precision: 'no'" "use_cpu: true" >config.yaml
    PYTHONPATH=$work/lib "$python" -m accelerate.commands.launch --config_file config.yaml note.py >launch.log 2>&1
    sort seen | tr '\n' ' '
}
check() {
    found=$(started "$1")
    if [ "$found" != "$2" ]; then
        echo "changed, not as stated any more: $1 starts processes that see WORLD_SIZE $found"
        exit 1
    fi
    echo "as stated: $1, num_processes: 2, starts processes that see WORLD_SIZE $found"
}
check MULTI_CPU "- "
check MULTI_GPU "2 2 "
