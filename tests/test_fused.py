"""The Triton kernels, without a GPU: their numbers by Triton's interpreter, and their machine code for Hopper.

In processes of their own: the interpreter is on or off from the import of the kernels on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytest.importorskip("triton", reason="Triton is not on this system")


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=HERE, env=os.environ | environment
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_kernels_keep_their_contracts_in_the_interpreter(exhaustive):
    words = "-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider", "fused_contracts.py"
    run = python(*words, TRITON_INTERPRET="1", EXHAUSTIVE="1" * exhaustive)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = int(run.stdout.split(" passed")[0].split()[-1])
    assert passed >= 250, run.stdout[-500:]


@pytest.mark.slow
def test_the_kernels_compile_for_hopper_and_keep_in_its_registers_and_memory():
    run = python("fused_compile.py")
    assert run.returncode == 0, run.stderr[-8000:]
    built = [json.loads(line) for line in run.stdout.splitlines()]
    assert {b["kernel"] for b in built} == {"reduce", "pull", "reduce_block", "slope_block"}
    assert {b["features"] for b in built} == {"*bf16", "*fp32", None}
    for b in built:
        assert b["shared"] <= 227 * 1024, b
        assert b["spilt"] <= 16, b  # a few numbers at a loop's edge, not a tile
        assert not b["serialised"], b
        assert (b["wgmma"] > 0) == (b["kernel"] in ("reduce", "pull")), b


@pytest.mark.slow
def test_without_triton_the_other_walk_runs():
    program = """
import sys
sys.modules["triton"] = None  # as where it is not installed
import torch
from infomax import InfoNCE, critics
from infomax.scores import Scores
x = torch.randn(8, 4, requires_grad=True)
InfoNCE()(Scores(critics.Cosine(), x, torch.randn(8, 4), rows=4)).backward()
assert x.grad.isfinite().all() and "infomax.scores.gpu.kernels" not in sys.modules
"""
    run = python("-c", program, TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stderr
