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
        timeout=600,
    )
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    assert run.returncode == 0, ([answer["failed"][:20] for answer in found], run.stderr[-3000:])
    assert len(found) == 3, "three processes answered"
    assert max(answer["made"] for answer in found) > 2 * 3 * 14 * 4 * 2 * 3, "all comparisons were made"
    assert not any(answer["failed"] for answer in found)
