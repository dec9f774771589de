"""Opens a run folder, a new one or one to resume, which must have the same configuration; saves without a recipe."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from infomax import distributed
from infomax.checkpoints.checkpoint import (
    LOCK_FILE,
    LOG_FILE,
    RUN_FILE,
    is_run,
    latest,
    read_checkpoint,
    saved_steps,
    step_name,
)
from infomax.checkpoints.files import DamagedError, children_of, read_sealed, warn_log
from infomax.checkpoints.folder import Run, sweep
from infomax.errors import UserError
from infomax.files import TEMPORARY, lock, plain
from infomax.training.settings import LATER, LENGTH, MAY_DIFFER

if TYPE_CHECKING:
    pass


def _set_aside(folder: Path, step: int) -> None:
    """Rename the damaged checkpoints after the one that training goes on from: their steps are about to come again."""
    for path in [path for number, path in saved_steps(folder) if number > step]:
        aside, number = folder / f"damaged-{path.name}", 2
        while aside.exists():  # removed by hand alone
            aside, number = folder / f"damaged-{path.name}-{number}", number + 1
        path.rename(aside)


def default_folder(name: str, root: str | os.PathLike[str] = "checkpoints") -> Path:
    """The folder `name` in `root`. Raises UserError for a name that is not one plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}", name):
        raise UserError(
            f"{name!r} cannot name a run: take letters, digits, '.', '_', '+' and '-', not starting with a dot."
        )
    return Path(root) / name


def open_run(
    named: str | os.PathLike[str] | None,
    default: str,
    configuration: Mapping[str, Any],
    *,
    resume: bool = False,
    preprocessing: Mapping[str, Any] | None = None,
    keep: int = 2,
    may_differ: Collection[str] | None = None,
    length: Collection[str] | None = None,
    later: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Run:
    """The run folder to train in. Called by all processes; needs a file system that all of them see.

    named: the folder that the user asked for (--run-dir). None takes checkpoints/<default>, with a fresh suffix if
    that exists (<default>-2, ...), or with `resume` the newest of these. A named folder that holds a run is refused
    without `resume`; with it, training goes on from Run.checkpoint, and log.jsonl is cut back to that moment. With
    nothing there yet `resume` starts at the beginning. preprocessing: mean, std, views (data.describe_views() gives
    these) and input_size (channels, height, width), for whoever evaluates it and for timm's form of the encoder.
    Of the configuration's keys: may_differ, which may differ from the saved one's; length, of these, which make a
    finished run go on; later, which an older configuration need not have; None: those of infomax.training.settings.
    defaults: the values, by key, of what older configurations did not have yet. keep: how many checkpoints, the newest.
    Raises UserError: a folder that holds something else, another configuration or preprocessing (the differing keys;
    those in may_differ may differ), another process at work in it, no checkpoint left that is whole.
    """
    may_differ = MAY_DIFFER if may_differ is None else may_differ
    length, later = LENGTH if length is None else length, LATER if later is None else later
    run = Run(Path(), configuration, preprocessing, keep)
    held: int | None = None

    def act() -> tuple[str, int | None, dict[str, Any] | None, bool]:
        nonlocal held
        folder = _claimed(None if named is None else Path(named), default, resume)
        try:
            for name in (RUN_FILE, LOG_FILE, LOCK_FILE):
                if (folder / name).is_symlink():
                    raise DamagedError(f"{folder / name} is a link, and a run holds none.")
            held = _held(folder)
            return prepare(folder)
        except BaseException as error:
            if held is not None:
                os.close(held)
            if isinstance(error, OSError):
                raise UserError(f"{folder} cannot hold a run ({error}).") from error
            raise

    def prepare(folder: Path) -> tuple[str, int | None, dict[str, Any] | None, bool]:
        sweep(folder)
        run.folder = folder
        found, saved = (latest(folder), _read_run(folder)) if resume else (None, None)
        if found is not None and saved is None:
            saved = {"configuration": found.configuration, "preprocessing": found.preprocessing, "results": None}
        results, finished = None, False
        if saved is not None:
            new = run.configuration
            old = {key: value for key, value in plain(defaults or {}).items() if key in new} | saved["configuration"]
            if saved["preprocessing"] is not None and run.preprocessing is not None:
                from infomax.data.views import same_views

                asked = {"views": None, **run.preprocessing}
                known = {"views": asked["views"], **saved["preprocessing"]}  # older ones do not say, and go on
                if same_views(known["views"], asked["views"], asked.get("mean")):
                    known["views"] = asked["views"]
                old, new = {**old, "preprocessing": known}, {**new, "preprocessing": asked}
            changed = _compare(old, new, folder, may_differ, later)
            finished = saved["results"] is not None and not changed & set(length)
            results = saved["results"] if finished else None
        if found is not None:
            _set_aside(folder, found.step)
        if not finished:
            _rewind(folder / LOG_FILE, found.state["log_bytes"] if found is not None else 0)
        run.results = results
        run._write_run()
        return os.fspath(folder), None if found is None else found.step, results, finished

    folder, step, run.results, run.finished = distributed.on_main(act)
    run.folder, run._lock = Path(folder), held
    run.checkpoint = None if step is None else read_checkpoint(run.folder / step_name(step))
    return run


def _claimed(named: Path | None, default: str, resume: bool) -> Path:
    """The folder to train in, made. Of two runs that start together without a name each gets its own."""
    while True:
        folder = _choose(named, default, resume)
        try:
            folder.mkdir(parents=True, exist_ok=named is not None or resume)
            return folder
        except OSError as error:
            if named is None and not resume and isinstance(error, FileExistsError) and folder.is_dir():
                continue
            raise UserError(f"{folder} cannot hold a run ({error}).") from error


def _choose(named: Path | None, default: str, resume: bool) -> Path:
    if named is not None:
        if named.exists() and not named.is_dir():
            raise UserError(f"{named} is a file; a run needs a folder.")
        if is_run(named) and not resume:
            raise UserError(f"{named} already holds a run: go on with --resume, or name another --run-dir.")
        ours = (RUN_FILE, LOG_FILE, LOCK_FILE)
        foreign = [p.name for p in children_of(named) if p.name not in ours and not p.name.startswith(TEMPORARY)]
        if foreign and not is_run(named):
            raise UserError(f"{named} holds something else ({foreign[0]}); name a new or an empty --run-dir.")
        return named
    first = default_folder(default)
    suffix = re.compile(re.escape(first.name) + r"-(\d+)")
    numbers = {int(match[1]) for path in children_of(first.parent) if (match := suffix.fullmatch(path.name))}
    if first.exists():
        numbers.add(1)
    newest = max(numbers, default=0)
    number = newest if resume and newest else newest + 1
    return first if number == 1 else first.with_name(f"{first.name}-{number}")


def _read_run(folder: Path) -> dict[str, Any] | None:
    """run.json, or None where there is none; a damaged one is told and done without, checkpoints hold its content."""
    if not (folder / RUN_FILE).exists():
        return None
    try:
        content = read_sealed(folder / RUN_FILE)
        return {key: content[key] for key in ("configuration", "preprocessing", "results")}
    except (DamagedError, KeyError) as error:
        if not saved_steps(folder):
            raise
        warn_log.warning("%s It is written anew from the checkpoint.", error)
        return None


def _held(folder: Path) -> int | None:
    """The lock of a folder, as lock() has it. Raises UserError where another holds it."""
    try:
        return lock(folder / LOCK_FILE)
    except BlockingIOError:
        raise UserError(f"Another process is training in {folder}; name another --run-dir.") from None


def _compare(
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    folder: Path,
    may_differ: Collection[str],
    later: Collection[str],
) -> set[str]:
    """The keys that differ and may. Raises UserError for those that may not."""

    def leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, item in value.items():
            if isinstance(item, Mapping) and item:
                yield from leaves(item, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", item

    old, new = dict(leaves(saved)), dict(leaves(asked))
    absent = object()
    different = {key for key in old.keys() | new.keys() if old.get(key, absent) != new.get(key, absent)}
    different -= {key for key in later if key not in old}
    refused = sorted(key for key in different if key.split(".")[0] not in may_differ)
    if refused:

        def shown(values: Mapping[str, Any], key: str) -> str:
            return repr(values[key]) if key in values else "not set"

        told = f" ({', '.join(sorted(may_differ))} may differ)" if may_differ else ""
        clauses = "; ".join(f"{key} is {shown(old, key)} there and {shown(new, key)} here" for key in refused)
        raise UserError(
            f"{folder} holds a run of another configuration: {clauses}."
            f" Ask for the same, or name another --run-dir{told}."
        )
    return {key.split(".")[0] for key in different}


def _rewind(log: Path, size: int) -> None:
    """Cut the log back to the checkpoint that training goes on from, so that no step stands in it twice."""
    if log.exists():
        if log.stat().st_size < size:
            warn_log.warning("%s is shorter than when the checkpoint was saved; it goes on from where it ends.", log)
            size = log.read_bytes().rfind(b"\n") + 1  # not within a line
        os.truncate(log, size)


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Save a model into a run folder without a recipe; returns the checkpoint's folder. load(path) gives it back.

    Called by all processes. The folder is made, or goes on: `step` is by default one more than its newest, and
    `configuration` and `preprocessing`, which is as open_run() takes it, are those of its newest. optimizer and state:
    as Run.save() takes them. keep: how many checkpoints are kept, the newest; the others are removed. Raises UserError
    as open_run() and Run.save() do.
    """

    def known() -> tuple[int, dict[str, Any], dict[str, Any] | None]:
        found = latest(path) if is_run(Path(path)) else None
        return (0, {}, None) if found is None else (found.step + 1, found.configuration, found.preprocessing)

    number, before, seen = distributed.on_main(known)
    run = open_run(
        path, "model", before if configuration is None else configuration,
        resume=True, preprocessing=preprocessing or seen, keep=keep,
    )  # fmt: skip
    try:
        return run.save(number if step is None else step, model, optimizer, state)
    finally:
        run.close()
