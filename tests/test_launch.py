"""Launching: as many processes as were asked for, or a refusal with the command that works."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from conftest import wait_until_gone

from infomax import launch
from infomax.errors import UserError
from infomax.launch import Launcher

BIN = Path(sys.executable).parent
WORKER = """
import sys, time
from infomax.errors import UserError
from infomax import launch

try:
    if "plain" in sys.argv:  # what a script does that knows nothing of launch.py
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        for arguments in ({}, {"cpu": True, "gradient_accumulation_steps": 2}):
            try:
                launch.launch_guard(Accelerator(**arguments))
                print("NOT REFUSED", flush=True)
            except UserError as error:
                print(f"refused: {error}\\n", end="", flush=True)  # one write: two processes share the line
            AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = launch.make_accelerator()
    threads = launch.set_threads()
    dies = launch.die_with_launcher()
    model = accelerator.prepare(__import__("torch").nn.Linear(2, 2))
    total = accelerator.reduce(__import__("torch").ones(1)).item()
    print(f"started {accelerator.num_processes} sum {total:.0f} threads {threads} dies {dies}\\n", end="", flush=True)
    accelerator.wait_for_everyone()
    if "stay" in sys.argv:
        time.sleep(600)
    launch.leave(accelerator)
except UserError as error:
    print(f"refused: {error}\\n", end="", flush=True)  # one write: two processes share the line
"""


def started(command: list[str], tmp_path: Path, *arguments: str, **environment: str) -> str:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    env = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # A user's own accelerate configuration must not decide this test.
    env |= {"HF_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(
        [*command, str(script), *arguments], capture_output=True, text=True, timeout=600, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------- reading a launcher


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("/v/python /v/bin/accelerate launch --cpu --num_processes 2 a.py --lr 1", "/v/bin/accelerate launch"),
        ("/v/python /v/bin/accelerate-launch --num-processes=2 a.py", "/v/bin/accelerate-launch"),
        ("python -m accelerate.commands.launch --num_processes 2 a.py", "python -m accelerate.commands.launch"),
        ("python /v/torchrun --nproc_per_node 2 a.py", "/v/torchrun"),
        ("python -m torch.distributed.run --nproc_per_node 2 a.py", "python -m torch.distributed.run"),
        ("bash -c accelerate", None),
        ("accelerate config", None),
        ("python launch.py accelerate", None),
        ("", None),
    ],
)
def test_a_launcher_is_known_by_its_command_line(words, command):
    found = launch._launch_command(words.split())
    assert (found and " ".join(words.split()[found[0] : found[1]])) == command


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("--cpu --num_processes 2 a.py", 2),
        ("--num-processes=3 --cpu a.py", 3),
        ("--num_processes 0 a.py", 1),
        ("--cpu a.py --num_processes 7", None),  # the script's own
        ("--cpu a.py", None),
        ("--config_file CONFIG a.py", 4),
        ("--config_file CONFIG --num_processes 2 a.py", 2),
    ],
)
def test_what_accelerate_was_asked_for(tmp_path, arguments, asked):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 4\nuse_cpu: true\n"
        "machine_rank: 0\nnum_machines: 1\nmixed_precision: 'no'\n"
    )
    by = Launcher("accelerate launch", tuple(arguments.replace("CONFIG", str(config)).split()), {})
    assert launch._asked(by) == asked
    assert launch._asked(Launcher("torchrun", by.arguments, {})) is None
    if asked and asked > 1:
        with pytest.raises(UserError, match=f"asked for {asked} processes and started 1"):
            launch._refuse_one_for_many(by, 1)
        launch._refuse_one_for_many(by, asked)


def test_gradient_accumulation_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match=r"4 steps.*log N"):
        launch.make_accelerator()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    launch._refuse_accumulation(None)
    with pytest.raises(UserError, match="8 steps"):
        launch._refuse_accumulation(Launcher("accelerate launch", ("--gradient_accumulation_steps", "8", "a.py"), {}))


@pytest.mark.parametrize("precision", ["fp8", "float16", pytest.param("fp16", id="fp16-without-a-GPU")])
def test_a_precision_that_is_not_there(monkeypatch, precision):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match=precision):
        launch.make_accelerator(precision)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP version 1 is not taken"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not taken"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "--microbatch saves the same memory"),
        ({"FSDP_IGNORED_MODULES": "encoder"}, "fsdp_ignored_modules is not taken"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "accelerate refuses this FSDP configuration"),
    ],
)
def test_forms_of_sharding_that_are_not_taken(monkeypatch, environment, said):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        launch.make_accelerator()


def test_one_process_that_is_asked_for_shards_trains_whole(monkeypatch):
    """On a GPU Accelerate would else cast its parameters and scores by its own policy."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert launch._sharding("bf16") is None and os.environ["ACCELERATE_USE_FSDP"] == "false"


def test_float16_in_shards_is_not_taken(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="fp16 is not taken together with FSDP2"):
        launch._sharding("fp16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch._sharding("bf16").fsdp_version == 2


def test_threads_are_this_processes_share_unless_the_user_chose(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(3)
        assert launch.set_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
        assert launch.set_threads() == launch._cores() >= 1
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
        assert launch.set_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_a_launcher_nothing_dies_with_the_parent():
    assert launch.launcher() is None
    assert launch.die_with_launcher() is False


# ------------------------------------------------------------------------------------------------------ real launchers


@pytest.mark.slow
def test_one_process_for_two_is_refused_and_the_command_named_instead_works(tmp_path):
    said = started([str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "2"], tmp_path)
    assert "was asked for 2 processes and started 1" in said
    found = re.search(r"with: (\S+ launch --multi_gpu --num_processes 2) \S+worker.py ", said)
    assert found, said
    said = started(shlex.split(found[1]), tmp_path)
    share = max(launch._cores() // 2, 1)
    assert said.count(f"started 2 sum 2 threads {share} dies True\n") == 2, said


@pytest.mark.slow
def test_trainers_that_do_not_know_each_other_are_refused(tmp_path):
    said = started([str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"], tmp_path, "plain")
    assert said.count("refused: 2 processes were started, but this Accelerator counts 1") == 2, said
    assert said.count("refused: Gradient accumulation (2 steps)") == 2, said
    assert "NOT REFUSED" not in said
    assert said.count("started 2 sum 2 ") == 2, said


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "threads"), [({}, None), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_accelerates_single_thread_is_not_the_users_choice(tmp_path, environment, threads):
    said = started([str(BIN / "accelerate"), "launch"], tmp_path, **environment)
    assert f"started 1 sum 1 threads {threads or launch._cores()} dies True" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_dead_launcher_leaves_no_trainers(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    process = subprocess.Popen(
        [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", str(tmp_path / "worker.py"), "stay"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for _ in range(2):
            line = process.stdout.readline()
            while "started" not in line:
                assert line or process.poll() is None
                line = process.stdout.readline()
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for worker in workers:
        wait_until_gone(worker)
