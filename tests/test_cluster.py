"""SLURM and Kubernetes: the scripts of configs/, and the rendezvous, preemption and resumption that they rely on."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import infomax as im

ROOT = Path(__file__).parents[1]
SLURM, KUBERNETES = ROOT / "configs" / "slurm.sbatch", ROOT / "configs" / "kubernetes.yaml"
# Options of sbatch that the script uses, and the form of their values (sbatch's manual page).
SBATCH = {
    "job-name": r"\w+", "nodes": r"\d+", "ntasks-per-node": r"1", "gpus-per-node": r"\d+", "cpus-per-task": r"\d+",
    "time": r"\d+:\d\d:\d\d", "signal": r"TERM@\d+", "requeue": None, "open-mode": "append|truncate", "output": r"\S+",
}  # fmt: skip


def test_sbatchs_options_come_before_the_first_command_and_are_its_own():
    lines = SLURM.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert options == [line for line in lines[:first] if line.startswith("#SBATCH")], "sbatch reads none after that"
    for option in options:
        match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", option)
        assert match is not None, option
        form, value = SBATCH[match[1]], match[2]
        assert value is None if form is None else value and re.fullmatch(form, value), option
    assert subprocess.run(["bash", "-n", str(SLURM)]).returncode == 0


SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
exit "$SRUN_STATUS"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
if [ "$1" = show ]; then echo node7; sleep 0.2; echo node8; fi
"""


@pytest.mark.parametrize(
    ("status", "after", "again"), [(0, -1, False), (143, -1, True), (1, -1, True), (1, 120, False)]
)
def test_the_slurm_script_starts_torchrun_and_queues_again_what_a_signal_ended(tmp_path, status, after, again):
    """srun and scontrol write down how they were called: no cluster is needed to see what the script asks of one."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "SRUN_STATUS": str(status),
        "REQUEUE_AFTER": str(after), "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
    }  # fmt: skip
    done = subprocess.run(["bash", str(SLURM), "recipes/moco.py", "--queue", "4096"], env=env, capture_output=True)
    assert done.returncode == status, done.stderr
    said = calls.read_text().splitlines()
    (srun,) = [line for line in said if line.startswith("srun")]
    assert "--nnodes=2 --nproc-per-node=8" in srun and "--rdzv-endpoint=node7:24711" in srun
    assert srun.endswith("recipes/moco.py --queue 4096 --run-dir checkpoints/slurm-4711 --resume")
    assert ("scontrol requeue 4711" in said) is again


def test_kubernetes_job_starts_a_pod_a_machine_which_meet_at_the_first():
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    options = dict(word.lstrip("-").split("=", 1) for word in container["command"] if "=" in word)
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == int(options["nnodes"])
    assert options["rdzv-endpoint"] == f"{job['metadata']['name']}-0.{pod['subdomain']}:29500"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(options["nproc-per-node"])
    assert container["command"][0] == "torchrun" and "--resume" in container["command"]
    recipe = next(word for word in container["command"] if word.endswith(".py"))
    assert (ROOT / recipe).is_file() and pod["terminationGracePeriodSeconds"] >= 60
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]} and options["run-dir"].startswith("/runs/")


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Terminates those that run, which torchrun passes on to its workers, and kills what has not ended after that."""
    for process in processes:
        process.terminate()  # nothing where it has ended
    for process in processes:
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_two_nodes_meet_train_are_preempted_and_go_on(tmp_path, unlabelled):
    """Two torchruns with a rendezvous at a port of this machine stand for two machines; one of them is preempted."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    assert torchrun is not None
    small = ["--encoder", "resnet10_small_gn", "--batch-size", "16", "--dataset", f"folder:{unlabelled}"]

    started: list[subprocess.Popen[bytes]] = []

    def nodes(steps: int) -> list[subprocess.Popen[bytes]]:
        words = [
            torchrun, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=job",
            f"--rdzv-endpoint=localhost:{port}", "--max-restarts=0", str(ROOT / "recipes" / "simclr.py"), *small,
            "--steps", str(steps), "--health-every", "0", "--run-dir", str(tmp_path / "run"), "--resume",
        ]  # fmt: skip
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (tmp_path / "out").open("ab") as out:
            for _ in range(2):
                started.append(subprocess.Popen(words, stdout=out, stderr=out, env=env, cwd=tmp_path))
        return started[-2:]

    try:
        both = nodes(100_000)
        log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 600
        while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < deadline and all(p.poll() is None for p in both), (tmp_path / "out").read_text()
            time.sleep(0.1)
        both[1].send_signal(signal.SIGTERM)
        ends = [p.wait(timeout=300) for p in both]
        assert all(ends), "a run that was preempted is not one that is done"
        saved = im.checkpoints.read(tmp_path / "run")
        assert saved.step >= 3 and saved.processes == 2
        both = nodes(saved.step + 2)
        assert [p.wait(timeout=600) for p in both] == [0, 0], (tmp_path / "out").read_text()
    finally:
        end(started)
    found = im.checkpoints.read(tmp_path / "run")
    assert (found.step, found.processes) == (saved.step + 2, 2)
