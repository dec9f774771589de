"""Starting processes: as many as were asked for, their threads, and no silent change of the batch.

A recipe calls `make_accelerator` first; everything else here is what that checks, apart for those who write their own.
What launchers do silently and is refused here: `accelerate launch --cpu --num_processes 2` starts one process;
`torchrun` with a plain `Accelerator()` on a machine without a GPU starts trainers that know nothing of each other.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from infomax.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "Launcher", "chosen_device", "die_with_launcher", "launch_guard", "launcher", "leave", "make_accelerator",
    "make_deterministic", "require_device", "set_threads",
]  # fmt: skip

PRECISIONS = ("no", "bf16", "fp16")
START = timedelta(minutes=10)  # in which all processes must have come together
PATIENCE = timedelta(hours=6)  # of the collectives from then on


@final
@dataclass(frozen=True)
class Launcher:
    """The process that started this one, if that is accelerate or torchrun."""

    command: str  # as typed: ".venv/bin/accelerate launch"
    arguments: tuple[str, ...]  # what followed it
    environment: Mapping[str, str]  # the launcher's own, before it set variables for its children

    @property
    def is_accelerate(self) -> bool:
        return self.command.endswith("launch")

    def flag(self, name: str) -> str | None:
        """The value of the option `name`, where it stands before the script; launchers read - and _ alike."""
        for i, argument in enumerate(self.arguments):
            if argument.endswith(".py"):
                return None  # what follows is the script's own
            key, equals, value = argument.partition("=")
            if key.lstrip("-").replace("-", "_") == name and key.startswith("-"):
                return value if equals else next(iter(self.arguments[i + 1 : i + 2]), None)
        return None


def launcher() -> Launcher | None:
    """The launcher that is this process's parent; None for `python recipe.py`, and where the parent cannot be read."""
    import psutil

    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent is not None else []
        found = _launch_command(words)
        if parent is None or found is None:
            return None
        try:
            environment = parent.environ()
        except psutil.Error:
            environment = {}
    except psutil.Error:
        return None
    start, end = found
    # words[0] is the interpreter that a console script was started with: nobody typed it.
    return Launcher(shlex.join(words[start:end]), tuple(words[end:]), environment)


def _launch_command(words: list[str]) -> tuple[int, int] | None:
    """Where the launcher's own words start and end in a command line."""
    for i, word in enumerate(words[:8]):  # an interpreter and its options come first, the script's words much later
        name, following = Path(word).name, words[i + 1 : i + 2]
        if name in ("torchrun", "accelerate-launch"):
            return i, i + 1
        if name == "accelerate" and following == ["launch"]:
            return i, i + 2
        if word == "-m" and following in (["torch.distributed.run"], ["accelerate.commands.launch"]):
            return 0, i + 2
    return None


def make_accelerator(mixed_precision: str | None = None) -> "Accelerator":
    """An Accelerator of exactly the processes that were asked for, on their GPUs or else on the CPU.

    mixed_precision: "no", "bf16" or "fp16"; None takes the launcher's (`accelerate launch --mixed_precision`).
    Raises UserError: another number of processes than asked for (with the command that starts them), gradient
    accumulation, a precision that this machine does not have, more processes than GPUs, processes that have not all
    come within 10 minutes, a way of sharding that is not taken (docs/large.md).
    """
    import torch.distributed as dist
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    by = launcher()
    _refuse_accumulation(by)
    _refuse_one_for_many(by)
    mixed_precision = mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    told_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    on_gpu = torch.cuda.is_available() and not told_cpu
    if mixed_precision not in PRECISIONS:
        raise UserError(f"Mixed precision {mixed_precision!r} is not offered; choose from {', '.join(PRECISIONS)}.")
    if mixed_precision == "fp16" and not on_gpu:
        raise UserError("fp16 needs a GPU, and none is available here; take --mixed-precision bf16 or no.")
    sharding = _sharding(mixed_precision)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_gpu and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes were started on a machine where {torch.cuda.device_count()} GPU(s) can be seen;"
            " start one process for each GPU."
        )
    # A plain Accelerator() would take torchrun's processes on a CPU for one independent trainer each.
    patience = InitProcessGroupKwargs(timeout=START)
    try:
        accelerator = Accelerator(
            cpu=not on_gpu, mixed_precision=mixed_precision, kwargs_handlers=[patience], fsdp_plugin=sharding
        )
        launch_guard(accelerator)
        _shard(accelerator, sharding)
        if accelerator.num_processes > 1:
            accelerator.wait_for_everyone()
    except dist.DistError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"The {os.environ.get('WORLD_SIZE', 'other')} processes did not come together within"
            f" {START.total_seconds():.0f} s ({reason}): look for one that has ended or was not started."
        ) from error
    if accelerator.num_processes > 1:
        # The others wait in a collective while the main process evaluates, which may take longer than NCCL's ten
        # minutes. A process that is lost or late is stopping.Watch's, which ends all of them in seconds.
        _set_patience(PATIENCE)
    return accelerator


def _sharding(mixed_precision: str) -> Any:
    """The FSDP2 that accelerate's launcher was asked for, or None. Raises UserError for what of FSDP is not taken."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    from accelerate import FullyShardedDataParallelPlugin

    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise UserError(f"FSDP version {version} is not taken: ask for version 2 (fsdp_version: 2, --fsdp_version 2).")
    try:
        plugin = FullyShardedDataParallelPlugin()
    except (ValueError, KeyError) as error:
        raise UserError(f"accelerate refuses this FSDP configuration: {error}.") from error
    refused = {
        "fsdp_offload_params": (os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true", "it was never tried"),
        "fsdp_activation_checkpointing": (
            plugin.activation_checkpointing,
            "BatchNorm would see each batch twice; --microbatch saves the same memory",
        ),
        "fsdp_ignored_modules": (plugin.ignored_modules, "what cannot be sharded is left out by itself"),
        "mixed precision fp16": (mixed_precision == "fp16", "its loss scale was never tried on shards; take bf16"),
    }
    for name, (asked, reason) in refused.items():
        if asked:
            raise UserError(f"{name} is not taken together with FSDP2: {reason}.")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # one process has nothing to share out
        os.environ["ACCELERATE_USE_FSDP"] = "false"  # or Accelerate would cast parameters and scores by its own policy
        return None
    return plugin


def _shard(accelerator: "Accelerator", sharding: Any) -> None:
    """Make accelerate shard, on CPUs too, and in the precision of scores and autocast rather than one of its own."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if sharding is None:
        return
    # Accelerate 1.15 takes FSDP from its launcher on GPUs alone; on CPUs it would train whole copies without a word.
    if accelerator.distributed_type is DistributedType.MULTI_CPU:
        state: Any = accelerator.state
        state.fsdp_plugin, state.distributed_type = sharding, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    # Its own policy casts all parameters and the loss to bfloat16, of which scores and the temperature would be too.
    sharding.mixed_precision_policy = None
    sharding.cpu_ram_efficient_loading = False  # every process has all weights already, by the seed or a checkpoint


def _set_patience(patience: timedelta) -> None:
    import torch.distributed as dist

    # Before torch 2.15 it had no public name.
    change = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    change(patience)


def launch_guard(accelerator: "Accelerator") -> None:
    """Refuse to start (UserError, with the right command) what would not be the training that was asked for.

    accelerator: what the training would use. Refused are a number of processes other than the launcher's, and gradient
    accumulation. Called by make_accelerator.
    """
    by = launcher()
    _refuse_accumulation(by, accelerator.gradient_accumulation_steps)
    _refuse_one_for_many(by, accelerator.num_processes)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"{world} processes were started, but this Accelerator counts {accelerator.num_processes}, so each would"
            " train alone and write to the same folder. Without GPUs, make it with"
            " infomax.launch.make_accelerator() or Accelerator(cpu=True)."
        )


def _refuse_accumulation(by: Launcher | None, steps: int = 1) -> None:
    asked = (
        os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
        by.flag("gradient_accumulation_steps") if by and by.is_accelerate else None,
        str(steps),
    )
    for value in asked:
        if value not in (None, "", "1"):
            raise UserError(
                f"Gradient accumulation ({value} steps) is refused: it adds no negatives, so the objective would be of"
                " the small batch, with its ceiling log N. Raise --batch-size instead, and take more processes where"
                " it does not fit into memory."
            )


def _refuse_one_for_many(by: Launcher | None, started: int | None = None) -> None:
    """accelerate launch --num_processes 2 without GPUs starts one process, and only its command line tells."""
    asked = _asked(by)
    started = started or int(os.environ.get("WORLD_SIZE", "1"))
    if by is None or asked is None or asked == started:
        return
    script = shlex.join(sys.argv)
    raise UserError(
        f"{by.command} was asked for {asked} processes and started {started}."
        f" Start them with: {by.command} --multi_gpu --num_processes {asked} {script}"
        f" (works without GPUs too), or: torchrun --nproc_per_node {asked} {script}"
    )


def _asked(by: Launcher | None) -> int | None:
    """How many processes accelerate was told to start, by its command or its configuration file."""
    if by is None or not by.is_accelerate:
        return None  # torchrun starts what it is asked for, and WORLD_SIZE says it
    asked = by.flag("num_processes")
    if asked is None:
        from accelerate.commands.config.config_args import default_config_file, load_config_from_file

        named = by.flag("config_file")
        # With --cpu and no file named, accelerate itself does not read its default one.
        if named is None and (by.flag("cpu") is not None or not Path(default_config_file).is_file()):
            return None
        asked = getattr(load_config_from_file(named), "num_processes", None)
    try:
        return max(int(asked), 1) if asked is not None else None  # 0 and -1 mean "as many as there are GPUs"
    except ValueError:
        return None


def set_threads() -> int:
    """Give this process its share of the cores, cores / local processes, unless the user chose; returns the number.

    The user chose by OMP_NUM_THREADS or MKL_NUM_THREADS, or by accelerate's --num_cpu_threads_per_process. A launcher
    also sets OMP_NUM_THREADS=1 for its children by itself, so under one it is the launcher's own environment that
    tells. Cores are physical ones, within this process's affinity and its container's CPU quota.
    """
    by = launcher()
    environment = by.environment if by else os.environ
    chosen = any(environment.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    if not chosen and not (by and by.is_accelerate and by.flag("num_cpu_threads_per_process")):
        torch.set_num_threads(max(_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1))
    return torch.get_num_threads()


def _cores() -> int:
    import psutil

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(affinity, psutil.cpu_count(logical=False) or affinity)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(min(cores, int(quota) // int(period)), 1)
    except (OSError, ValueError):
        return cores


def die_with_launcher() -> bool:
    """Under a launcher, ask the kernel (Linux) for SIGTERM when the launcher dies; returns whether it will come.

    If torchrun, or accelerate with several processes, has died already, this process ends. A launcher killed with
    SIGKILL leaves its processes training otherwise. Without a launcher nothing is asked, so a `nohup python recipe.py`
    outlives its shell. SIGTERM ends a process in whatever it waits; inside stopping.Watch it saves first, and has 20 s
    for that: Ctrl-C on `accelerate launch` kills the launcher at once.
    """
    if sys.platform != "linux":
        return False
    if launcher() is None:
        if "TORCHELASTIC_RUN_ID" in os.environ and _is_adopted():  # it died while this process imported
            os.kill(os.getpid(), signal.SIGTERM)
        return False
    import ctypes

    parent = os.getppid()
    set_parent_death_signal = 1
    if ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0) != 0:
        return False
    if os.getppid() != parent:  # it died between the look and the request
        os.kill(os.getpid(), signal.SIGTERM)
    return True


def _is_adopted() -> bool:
    """Whether the launcher is gone: its children are the first process's then, or some such, and no Python's."""
    import psutil

    for process in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):  # of another user's, which is no launcher of ours
            if "python" in Path(process.exe()).name:
                return False
    return True


def make_deterministic() -> None:
    """Only algorithms whose result the inputs decide, on a GPU as on a CPU; before anything runs on a GPU.

    An operation that has none raises RuntimeError. With it on, the seed alone decides a run on one machine, with one
    number of processes and threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore  # a search for faults, which costs time
    torch.backends.cudnn.benchmark = False


def leave(accelerator: "Accelerator", status: int = 0) -> None:
    """The last call of a recipe: ends trackers and, where there are several processes, this process, with `status`.

    accelerator: whose trackers and processes these are.
    A process that wrapped a model in DistributedDataParallel sometimes aborts while the interpreter is torn down
    (torch 2.15, gloo, on a busy machine: "terminate called without an active exception"), and the launcher would call
    a finished run failed. So once every process is done, this one leaves without the tear-down.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.num_processes > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def require_device(device: str) -> None:
    """Raises UserError for a device that torch does not know, or that is not there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {device} cannot be used here: {reason}. Give cpu or cuda.") from None


def chosen_device(device: str | None) -> str:
    """The device that is asked for, or a GPU where there is one. Raises UserError as require_device does."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    require_device(device)
    return device
