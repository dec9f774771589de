"""One process or several: the same value and gradient. One torchrun for all of it, since importing torch is slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.mark.slow
def test_1_2_and_3_processes_give_the_same_value_and_gradient(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3", "--standalone", WORKER, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    totals = [line for line in lines if "made" in line]
    assert run.returncode == 0, (lines, run.stderr[-3000:])
    assert len(totals) == 3, "three processes answered"
    assert max(t["made"] for t in totals) > 2 * 3 * 14 * 4 * 2 * 3, "all comparisons were made"
    assert sum(t["failed"] for t in totals) == 0
