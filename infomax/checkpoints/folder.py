"""A run folder open for training: locked, logged to, saved into by a thread; and what is said where a disk refuses."""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors import SafetensorError
from torch import nn

from infomax import __version__, distributed
from infomax.checkpoints.checkpoint import LOG_FILE, RUN_FILE, STEP_NAME, Checkpoint, saved_steps, step_name
from infomax.checkpoints.description import unwrapped
from infomax.checkpoints.files import REPLACED, children_of, sealed, warn_log
from infomax.checkpoints.snapshot import Snapshot, seal_folder, take_snapshot
from infomax.errors import UserError
from infomax.files import TEMPORARY, flush_folder, plain, write_json
from infomax.models.base import Model
from infomax.randomness import random_state

if TYPE_CHECKING:
    pass


@final
class Run:
    """A run folder that is open for training, locked until finish(), close() or this process's end. Made by open_run().

    folder, configuration, preprocessing: as open_run() takes them. keep: how many of the newest checkpoints are kept.
    checkpoint: where to go on from, or None at the start. finished: nothing is left to do. results: what finish() was
    given. Raises UserError: keep below 1. `with open_run(...) as run:` closes it.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any],
        preprocessing: Mapping[str, Any] | None = None,
        keep: int = 2,
        checkpoint: Checkpoint | None = None,
        results: dict[str, Any] | None = None,
        finished: bool = False,
    ):
        if keep < 1:
            raise UserError(f"At least one checkpoint must be kept; keep={keep} was asked for.")
        self.folder, self.keep = folder, keep
        self.configuration: dict[str, Any] = plain(configuration)
        self.preprocessing: dict[str, Any] | None = None if preprocessing is None else plain(preprocessing)
        self.checkpoint, self.results, self.finished = checkpoint, results, finished
        self._lock: int | None = None  # a file descriptor
        self._writing: Future[None] | None = None  # of the main process
        self._pending = False  # of all processes: a save has begun, and none has waited for it

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to log.jsonl; it is there for readers when this returns."""
        if distributed.rank() == 0:
            line = json.dumps(plain(record), allow_nan=False) + "\n"
            try:
                with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise UserError(
                    f"{self.folder / LOG_FILE} could not be written ({error}); --resume goes on."
                ) from error

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Path:
        """Save a checkpoint after `step` steps; returns its folder. Called by all processes; the main one writes.

        model, optimizer: whose parameters and state are saved; without an optimiser, those of the model alone. state:
        what this process needs besides, of dicts, lists, numbers, text and tensors; Checkpoint.restore()
        returns it. Random generators are saved of themselves. Older checkpoints go once the new one is whole, down to
        `keep`. wait=False: copy what is to be saved, and let a thread write it while training goes on; what it met is
        raised by the next save(), wait() or finish().
        Raises UserError when it cannot be written (a full disk), NonFinite for weights that are not finite; those
        before it stay whole.
        """
        self.wait()
        ranks = distributed.gather_objects({"random": random_state(), "state": dict(state or {})})
        bare = unwrapped(model)
        # What processes share is saved once, and whole: queues, and parameters in shards.
        with bare.whole() if isinstance(bare, Model) else contextlib.nullcontext():
            weights = distributed.whole_tensors(bare.state_dict())
            others = None if optimizer is None else distributed.whole_tensors(optimizer.state_dict())
            held = (weights, others, ranks)
            distributed.on_main(
                lambda: self._begin(
                    take_snapshot(step, bare, *held, self.folder, self.configuration, self.preprocessing)
                )
            )
        self._pending = True
        if wait:
            self.wait()
        return self.folder / step_name(step)

    def wait(self) -> None:
        """Until the checkpoint that is being written is whole. Called by all processes; raises as save() does."""
        if self._pending:
            self._pending = False
            distributed.on_main(self._join)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results into run.json: the run is done, and `--resume` will say so. Closes it."""
        self.wait()
        self.results, self.finished = plain(results), True
        distributed.on_main(self._write_run)
        self.close()

    def close(self) -> None:
        """Let another Run train in this folder; the end of this process does so too."""
        try:
            self._join()
        except UserError as error:  # nobody will ask for it any more
            warn_log.warning("%s", error)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_run(self) -> None:
        content = {"configuration": self.configuration, "preprocessing": self.preprocessing, "versions": _versions()}
        try:
            write_json(self.folder / RUN_FILE, sealed({**content, "results": self.results}))
        except OSError as error:
            raise UserError(f"{self.folder / RUN_FILE} could not be written ({error}).") from error

    def _begin(self, snapshot: "Snapshot") -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="infomax-save")
        self._writing = pool.submit(self._write, snapshot)
        pool.shutdown(wait=False)  # its one thread ends when it has written, which the interpreter's end waits for

    def _join(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, snapshot: "Snapshot") -> None:
        target = self.folder / step_name(snapshot.step)
        temporary = self.folder / f"{TEMPORARY}{target.name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            snapshot.write(temporary)
            seal_folder(temporary)
            if target.exists():  # saved twice; a kill between the two renames is mended by sweep
                target.rename(self.folder / f"{REPLACED}{target.name}")
            temporary.rename(target)
            flush_folder(self.folder)
            self._prune(snapshot.step)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = [path.name for _, path in saved_steps(self.folder)]
            raise UserError(
                f"The checkpoint of step {snapshot.step} could not be written to {self.folder} ({error});"
                f" {', '.join(kept) + ' is still there' if kept else 'no earlier one was saved'}."
            ) from error

    def _prune(self, written: int) -> None:
        earlier = [path for step, path in saved_steps(self.folder) if step < written]
        for path in earlier[: len(earlier) - (self.keep - 1)]:
            # Renamed first, so that a kill half-way through leaves nothing that looks like a damaged checkpoint.
            path.rename(self.folder / f"{TEMPORARY}old-{path.name}")
        sweep(self.folder)


def sweep(folder: Path) -> None:
    """Remove what an earlier process left half-written or half-removed. Its folders are ours by the lock."""
    for path in children_of(folder):
        before = folder / path.name.removeprefix(REPLACED)
        if path.name.startswith(REPLACED) and not before.exists():
            path.rename(before)  # it is whole, and what was to replace it did not come
        elif path.name.startswith(TEMPORARY):
            if path.is_dir() and not path.is_symlink():
                if STEP_NAME.fullmatch(path.name.removeprefix(TEMPORARY)):
                    warn_log.warning("%s was being written when its run ended; it is removed.", path)
                shutil.rmtree(path, ignore_errors=True)
            elif not _alive(path.name.rpartition("-")[2]):  # else an evaluation that is writing its results
                path.unlink(missing_ok=True)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    return True


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "infomax": __version__}
    for name in ("torch", "torchvision", "timm", "accelerate", "numpy", "safetensors", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
