"""configs/: accelerate's own loader reads each file of its own, and its parser takes the command in the file's comment.

Those of the CPU and of FSDP2 also train, small and on two processes of a CPU.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import infomax as im

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
ACCELERATE = [path for path in CONFIGS if path.stem != "kubernetes"]


def command_of(path: Path) -> list[str]:
    """The words of the command in a file's comment."""
    lines = path.read_text().splitlines()
    (command,) = [line.removeprefix("#").strip() for line in lines if line.startswith("#   accelerate launch")]
    return shlex.split(command)


def run(words: list[str], folder: Path, images: Path, *more: str) -> subprocess.CompletedProcess[str]:
    # A user's own accelerate configuration must not decide this test.
    env = os.environ | {"HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    words = [str(Path(sys.executable).with_name(words[0])), *words[1:], *more]
    small = ["--dataset", f"folder:{images}", "--limit", "32", "--batch-size", "16", "--run-dir", str(folder / "run")]
    done = subprocess.run([*words, *small], capture_output=True, text=True, timeout=900, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_there_is_one_for_each_kind_of_machine():
    assert [path.stem for path in ACCELERATE] == ["cpu", "fsdp2", "one_gpu", "several_gpus", "several_nodes"]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerates_own_loader_reads_it_and_its_parser_takes_its_command(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config: Any = load_config_from_file(str(path))
    assert config.num_processes == {"cpu": 2, "one_gpu": 1, "several_nodes": 16}.get(path.stem, 8)
    words = command_of(path)
    arguments = launch_command_parser().parse_args(words[2:])
    assert arguments.config_file == f"configs/{path.name}" and (ROOT / arguments.training_script).is_file()
    if path.stem == "fsdp2":
        arguments.config_file = str(path)
        taken, *_ = _validate_launch_command(arguments)
        assert taken.use_fsdp and taken.fsdp_version == 2 and taken.num_processes == 8


@pytest.mark.slow
def test_two_processes_of_the_cpu_train(tmp_path, unlabelled):
    words = command_of(ROOT / "configs" / "cpu.yaml")
    run(words, tmp_path, unlabelled, "--steps", "2")
    assert im.checkpoints.read(tmp_path / "run").processes == 2


@pytest.mark.slow
def test_a_run_in_shards_loads_in_one_process_and_is_resumed_by_one(tmp_path, unlabelled):
    config = ROOT / "configs" / "fsdp2.yaml"
    by = ["accelerate", "launch", "--config_file", str(config), "--num_processes", "2", "--mixed_precision", "no"]
    recipe = [str(ROOT / "recipes" / "moco.py"), "--queue", "64", "--learn-temperature"]
    run([*by, "--fsdp_min_num_params", "1000", *recipe], tmp_path, unlabelled, "--steps", "2", "--health-every", "1")
    whole = run(
        [*by, *recipe], tmp_path / "whole", unlabelled, "--steps", "2", "--health-every", "1"
    )  # no part by itself
    assert "RankMe" in whole.stdout + whole.stderr
    checkpoint = im.checkpoints.read(tmp_path / "run")
    assert (checkpoint.step, checkpoint.processes) == (2, 2)
    model, seen = im.load(tmp_path / "run"), checkpoint.preprocessing or {}
    assert type(model) is im.MoCo and model(list(torch.rand(2, 8, *seen["input_size"]))).isfinite()
    run(["python", *recipe], tmp_path, unlabelled, "--steps", "3", "--resume")
    checkpoint = im.checkpoints.read(tmp_path / "run")
    assert (checkpoint.step, checkpoint.processes) == (3, 1)
