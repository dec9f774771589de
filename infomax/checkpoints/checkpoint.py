"""One checkpoint folder: read with every file checked, and filled into a model, an optimiser and the generators."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from infomax import distributed
from infomax.checkpoints.description import migrated_description, unwrapped
from infomax.checkpoints.files import (
    DamagedError,
    UnusableError,
    children_of,
    digest_of,
    read_sealed,
    reason_of,
    warn_log,
)
from infomax.checkpoints.tensors import put_together
from infomax.errors import UserError, nearest
from infomax.models.base import Model
from infomax.randomness import random_state, set_random_state

if TYPE_CHECKING:
    pass


MANIFEST_FILE, STATE_FILE, MODEL_FILE, OPTIMIZER_FILE = (
    "MANIFEST.json",
    "state.json",
    "model.safetensors",
    "optimizer.safetensors",
)
RUN_FILE, LOG_FILE, LOCK_FILE = "run.json", "log.jsonl", ".lock"
STEP_NAME = re.compile(r"step-(\d{8,})")
ATTEMPTS = 5  # at reading a run folder that is being trained in


@final
@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose every file matched its checksum when it was read. Made by read() and latest().

    folder: where it lies. step: optimiser steps before it was saved. configuration: what open_run() was given.
    state: the content of state.json, which restore() reads.
    """

    folder: Path
    step: int
    configuration: dict[str, Any]
    preprocessing: dict[str, Any] | None  # as open_run() takes it; mean and std: a number a channel
    model: dict[str, Any] | None  # as describe() gives it
    checksum: str  # of all its content: equal checksums, equal checkpoints
    processes: int  # that trained it
    files: Mapping[str, str]  # sha256 by name
    state: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of its safetensors file `name`. Raises DamagedError: it changed since it was read."""
        path = self.folder / name
        try:
            content = path.read_bytes()  # what is checked is what is used, even if the file is pruned meanwhile
            if hashlib.sha256(content).hexdigest() != self.files[name]:
                raise DamagedError(f"{path} does not match its checksum: it was altered.")
            return load_safetensors(content)
        except DamagedError:
            raise
        except Exception as error:  # of a header that was made to harm: SafetensorError, KeyError, RuntimeError, ...
            raise DamagedError(f"{path} cannot be read ({reason_of(error)}).") from None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """Fill a model, an optimizer and the random generators with what was saved; returns the saved `state`.

        Everything is read and compared first: an error leaves model and optimizer as they were. Each process gets its
        own state and generators. On another number of processes there are none: batches and views are keyed by
        step, so they stay the same, but what draws from the generators (dropout) does not, and a line says so.
        Raises UserError where model or optimizer do not have the saved one's shape.
        """
        if distributed.is_sharded(unwrapped(model)):
            raise UserError("A checkpoint is restored before training begins: this model is in shards (FSDP2) by now.")
        weights = self.tensors(MODEL_FILE)
        others = self.tensors(OPTIMIZER_FILE)
        rank, world = distributed.rank(), distributed.world()
        try:
            saved = put_together(self.state["optimizer"], others)
            mine = put_together(self.state["ranks"][rank if rank < self.processes else 0], others)
            generators, state = mine["random"], dict(mine["state"])
        except Exception as error:  # as many kinds as there are forms that we do not write
            raise DamagedError(f"{self.folder / STATE_FILE} does not fit {OPTIMIZER_FILE} ({error!r}).") from None
        model = unwrapped(model)
        weights = fitted(model, weights)
        must_fit(weights, model.state_dict(), self.folder)
        if optimizer is not None:
            if saved is None:
                raise UserError(f"{self.folder} was saved without an optimizer, so training cannot go on from it.")
            _optimizer_must_fit(saved, optimizer, self.folder)
        before, held = random_state(), None if optimizer is None else optimizer.state_dict()
        try:
            if world == self.processes:
                set_random_state(generators)
            if optimizer is not None:
                optimizer.load_state_dict(saved)
                _lay_out_as_weights(optimizer)
        except Exception as error:
            set_random_state(before)
            if optimizer is not None and held is not None:  # which may be half filled
                optimizer.state.clear()
                optimizer.load_state_dict(held)
            raise DamagedError(f"{self.folder / STATE_FILE} does not fit {OPTIMIZER_FILE} ({error!r}).") from None
        model.load_state_dict(weights, strict=True)
        if rank == 0:
            self._say_what_differs(world, next((p.device.type for p in model.parameters()), "cpu"))
        return state

    def _say_what_differs(self, world: int, device: str) -> None:
        threads, saved = torch.get_num_threads(), self.state.get("threads")
        if world != self.processes:
            warn_log.warning(
                "%s was saved by %d process(es) and is resumed by %d: the same batches and views follow, but sums are"
                " rounded, and dropout drawn, in another way, so the result is not bitwise the same.",
                self.folder, self.processes, world,
            )  # fmt: skip
        elif device == "cpu" and isinstance(saved, int) and saved != threads:
            warn_log.warning(
                "%s was saved with %d thread(s) a process and is resumed with %d: sums are rounded in another way, so"
                " the result is not bitwise the same.", self.folder, saved, threads,
            )  # fmt: skip


def fitted(model: Any, saved: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A saved state as this version's class of the model takes it."""
    return model.fitted(saved) if isinstance(model, Model) else saved


def must_fit(saved: Mapping[str, Tensor], own: Mapping[str, Any], folder: Path) -> None:
    for name in sorted(saved.keys() ^ own.keys()):
        raise UserError(f"{folder} is of another model: {name} is only in {'it' if name in saved else 'yours'}.")
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise UserError(
                f"{folder} is of another model: {name} is {list(tensor.shape)} {tensor.dtype} in it and"
                f" {list(own[name].shape)} {own[name].dtype} in yours."
            )


_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")  # of a parameter's own shape


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Files hold tensors row by row; torch's fused loops pair memory with memory, whatever the strides say."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _optimizer_must_fit(saved: Any, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    def numbers(group: Mapping[str, Any]) -> set[str]:
        return {key for key, value in group.items() if type(value) in (int, float) and math.isfinite(value)}

    try:
        groups, entries = saved["param_groups"], saved["state"]
        theirs = [len(group["params"]) for group in groups]
        own = [len(group["params"]) for group in optimizer.param_groups]
        if theirs != own:
            raise UserError(f"{folder} is of another optimizer: its groups have {theirs} parameters, yours {own}.")
        for group, mine in zip(groups, optimizer.param_groups, strict=True):
            for key in sorted(numbers(mine) - numbers(group)):
                raise UserError(f"{folder} is of another optimizer: its {key} is {group.get(key)!r}.")
        order = [place for group in groups for place in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for place, parameter in zip(order, parameters, strict=True):
            for key, value in entries.get(place, {}).items():
                if key == "step" and not 0 <= float(value) < math.inf:
                    raise UserError(f"{folder} is of no optimizer: it has done {float(value)} steps.")
                if key in _LIKE_PARAMETERS and isinstance(value, Tensor) and value.shape != parameter.shape:
                    raise UserError(
                        f"{folder} is of another optimizer: {key} of parameter {place} is {list(value.shape)} in it,"
                        f" and the parameter {list(parameter.shape)}."
                    )
    except UserError:
        raise
    except Exception as error:
        raise DamagedError(f"{folder / STATE_FILE} holds no optimizer's state ({error!r}).") from None


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a checkpoint folder, or the newest whole one of a run folder; every file is checked.

    path: the folder, of a checkpoint or of a run.
    Raises UserError: nothing there, and DamagedError, which names the file: missing, altered, cut short, a link, or of
    another version.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        siblings = [p.name for p in children_of(folder.parent) if is_run(p)]
        raise UserError(f"{folder} {what}.{nearest(folder.name, siblings) if siblings else ''}")
    if (folder / MANIFEST_FILE).exists() or STEP_NAME.fullmatch(folder.name):
        return read_checkpoint(folder)
    found = latest(folder)
    if found is None:
        what = "has no checkpoint yet" if (folder / RUN_FILE).exists() else "is neither a run nor a checkpoint"
        raise UserError(f"{folder} {what}.")
    return found


def latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest whole checkpoint of a run folder; a line says which newer ones were damaged. None: none was saved.

    Raises DamagedError when there are some and none of them is whole.
    """
    for _ in range(ATTEMPTS):
        damage: list[DamagedError] = []
        pruned = False
        for _, path in reversed(saved_steps(Path(folder))):
            try:
                found = read_checkpoint(path)
            except DamagedError as error:
                if path.exists():
                    damage.append(error)
                pruned = pruned or not path.exists()  # by a trainer, while we read: newer ones have come
                continue
            for error in damage:
                warn_log.warning("%s Taking the checkpoint of step %d instead.", error, found.step)
            return found
        if damage:
            raise DamagedError(f"No checkpoint in {folder} is whole: {damage[0]}")
        if not pruned:
            break
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    if folder.is_symlink():
        raise DamagedError(f"{folder} is a link, and a run holds none.")
    manifest = read_sealed(folder / MANIFEST_FILE)
    files = manifest.get("files")
    if not isinstance(files, dict) or not {MODEL_FILE, OPTIMIZER_FILE, STATE_FILE} <= files.keys():
        raise DamagedError(f"{folder / MANIFEST_FILE} does not list what a checkpoint holds.")
    for name, known in files.items():
        _check_file(folder, name, known)
    path = folder / STATE_FILE
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != files[STATE_FILE]["sha256"]:
            raise DamagedError(f"{path} does not match its checksum: it was altered.")
        state = json.loads(content)
        checkpoint = Checkpoint(
            folder=folder,
            step=state["step"],
            configuration=state["configuration"],
            preprocessing=state["preprocessing"],
            model=state["model"] if manifest["format"] >= 3 else migrated_description(state["model"]),
            checksum=manifest["sha256"],
            processes=len(state["ranks"]),
            files={name: known["sha256"] for name, known in files.items()},
            state=state,
        )
    except DamagedError:
        raise
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except OSError as error:
        raise UnusableError(f"{path} cannot be read now ({error.strerror}); nothing was changed.") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is not what infomax writes ({error!r}).") from None
    kinds = (
        (state["ranks"], list), (checkpoint.configuration, dict), (checkpoint.step, int),
        (checkpoint.preprocessing, dict | None), (checkpoint.model, dict | None),
    )  # fmt: skip
    if not all(isinstance(value, kind) for value, kind in kinds) or not state["ranks"] or checkpoint.step < 0:
        raise DamagedError(f"{path} is not what infomax writes.")
    if (match := STEP_NAME.fullmatch(folder.name)) and int(match[1]) != checkpoint.step:
        raise DamagedError(f"{folder} holds the checkpoint of step {checkpoint.step}: it was renamed.")
    return checkpoint


def _check_file(folder: Path, name: str, known: Any) -> None:
    """Raises DamagedError where a file is not what the manifest knows of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise DamagedError(f"{folder / MANIFEST_FILE} names a file outside its folder: {name!r}.")
    path = folder.joinpath(*parts)
    try:
        if any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
            raise DamagedError(f"{path} is a link, and a checkpoint holds none.")
        if not path.is_file():
            raise DamagedError(f"{path} is missing.")
        size = path.stat().st_size
        if not isinstance(known, dict) or known.get("bytes") not in (size, None):
            raise DamagedError(f"{path} was altered or cut short: it has {size} bytes.")
        if digest_of(path)["sha256"] != known.get("sha256"):
            raise DamagedError(f"{path} does not match its checksum: it was altered or cut short.")
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None  # pruned meanwhile, say
    except OSError as error:
        raise UnusableError(f"{path} cannot be read now ({error.strerror}); nothing was changed.") from None


def saved_steps(folder: Path) -> list[tuple[int, Path]]:
    found = [(match, path) for path in children_of(folder) if (match := STEP_NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or bool(saved_steps(folder))


def step_name(step: int) -> str:
    return f"step-{step:08d}"
