"""On a machine with a GPU: what gpu_contracts.py holds. In a process of its own, as the other tests see no GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def contracts(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider", "gpu_contracts.py", *words],
        capture_output=True, text=True, cwd=HERE, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_contracts_can_be_read_without_a_gpu():
    """Where there is none, which is nearly everywhere, they are at least imported, and are as many as they were."""
    pytest.importorskip("triton", reason="Triton is not on this system")
    run = contracts("--collect-only", **os.environ)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert int(run.stdout.split(" tests collected")[0].split()[-1]) >= 128, run.stdout[-200:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no NVIDIA GPU")
def test_the_contracts_hold_on_the_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    run = contracts(**environment)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
