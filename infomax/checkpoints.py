"""What lies in checkpoints/: run folders, written atomically, read without trust, resumed exactly.

    <run>/run.json              configuration, versions, results (null until finished)
    <run>/log.jsonl             one JSON object a line
    <run>/step-00000150/        a checkpoint: model.safetensors, optimizer.safetensors, state.json, encoder/ (in timm's
                                form) and MANIFEST.json, the sha256 of every file

A step-* folder is whole or damaged from outside, never half-written: it is made under a temporary name, flushed to the
disk and renamed. Nothing is pickled or unpickled: tensors lie in safetensors, the rest in JSON. Every file that is read
is first checked against the manifest. A checkpoint folder can be moved, copied or read alone. Format 2 added sizes to
the manifest and the number of threads to state.json; format 1 is read and its runs go on.

Across processes `open_run`, `Run.save` and `Run.finish` are called by all of them; the main one writes, the others wait
and see its errors. `Run.log` may be called by any: only the main process's lines are written.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file as save_safetensors
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from infomax.errors import NonFinite, UserError, nearest

if TYPE_CHECKING:
    from infomax.models import InfoMax

__all__ = [
    "MAY_DIFFER", "Checkpoint", "DamagedError", "Run", "UnusableError", "build", "default_folder", "describe", "latest",
    "load", "load_encoder", "open_run", "read", "read_encoder", "read_parts", "save", "write_json",
]  # fmt: skip

FORMAT = 2
MAY_DIFFER = frozenset({
    "epochs", "steps", "keep", "log_every", "save_every", "tracker", "progress", "run_dir", "resume", "nonfinite",
    "timeout",
})  # fmt: skip
_LENGTH = frozenset({"epochs", "steps"})  # of those, what makes a finished run go on
_LATER = frozenset({"data"})  # not in the configurations of older checkpoints, which cannot tell and go on
_MANIFEST, _STATE, _MODEL, _OPTIMIZER = "MANIFEST.json", "state.json", "model.safetensors", "optimizer.safetensors"
_RUN, _LOG, _LOCK = "run.json", "log.jsonl", ".lock"
_TEMPORARY, _REPLACED = ".tmp-", ".tmp-replaced-"
_STEP = re.compile(r"step-(\d{8,})")
_ATTEMPTS = 5  # at reading a run folder that is being trained in
_JSON_BYTES = 256 * 1024**2  # a larger one is not ours

_say = logging.getLogger("infomax")  # unconfigured, its warnings are plain lines on standard error
T = TypeVar("T")


class UnusableError(UserError):
    """What cannot be read here and now, though it may be whole: nothing is done to it, and nothing in its place."""


class DamagedError(UserError):
    """A file of a run or checkpoint is missing, altered, cut short, or written by another version."""


# -------------------------------------------------------------------------------------------------------------- files


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically: a reader, and a kill at any moment, sees the old one or the new one whole.

    Numbers that JSON has no word for are written as "inf", "-inf" and "nan".
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    try:
        _flush_to(temporary, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and needs no flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path, flush: bool = False) -> dict[str, Any]:
    """What a manifest says of a file: {"bytes", "sha256"}."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _seal_of(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    plain = _plain({"format": FORMAT, **content})
    return {**plain, "sha256": _seal_of(plain)}


def _read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object that carries its own checksum, in this version's format. Raises DamagedError with its name."""
    if path.is_symlink():
        raise DamagedError(f"{path} is a link, and a run holds none.")
    try:
        if not path.exists():
            raise DamagedError(f"{path} is missing.")
        if not path.is_file():
            raise DamagedError(f"{path} is no file.")
        if path.stat().st_size > _JSON_BYTES:
            raise DamagedError(f"{path} is not what infomax writes: it has {path.stat().st_size} bytes.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except DamagedError:
        raise
    except OSError as error:
        raise UnusableError(f"{path} cannot be read now ({error.strerror}); nothing was changed.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is not what infomax writes.")
    version = content.get("format")
    if type(version) is int and version > FORMAT and _is_sealed(content):
        raise UnusableError(
            f"{path} has format {version!r}, and this version of infomax reads formats 1 to {FORMAT}:"
            " use the version that wrote it."
        )
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise DamagedError(
            f"{path} has format {version!r}, and this version of infomax reads formats 1 to {FORMAT}:"
            " use the version that wrote it."
        )
    if not _is_sealed(content):
        raise DamagedError(f"{path} does not match its own checksum: it was altered.")
    return _migrated(content) if version < FORMAT else content


def _is_sealed(content: Mapping[str, Any]) -> bool:
    try:
        return content.get("sha256") == _seal_of(content)
    except (ValueError, RecursionError):
        return False


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """What a file of format 1 says, in format 2."""
    content = dict(content)
    if isinstance(files := content.get("files"), dict):
        content["files"] = {name: {"bytes": None, "sha256": digest} for name, digest in files.items()}
    if "configuration" in content:
        content["configuration"] = _migrated_configuration(content["configuration"])
    return content


def _migrated_configuration(configuration: Any) -> Any:
    """A recipe's, with the switches that it did not have yet as they were; others are their owners' affair."""
    if isinstance(configuration, dict) and "recipe" in configuration:
        return {"deterministic": False, "ring": False, **configuration}
    return configuration


def _plain(value: Any) -> Any:
    """What JSON can hold, from configurations, log records and results: scalars of torch and numpy, paths, tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be written as JSON.")


# ------------------------------------------------------------------------------------------------ state without pickle


def _take_apart(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A JSON form of nested dicts, lists, tuples and scalars; its tensors and arrays are put into `tensors` by name."""
    if isinstance(value, Tensor | np.ndarray):
        array = isinstance(value, np.ndarray)
        # A copy: safetensors wants contiguous tensors that share no memory, and training may go on while it is written.
        source = torch.from_numpy(value) if array else value.detach()
        tensors[name] = source.to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"$array" if array else "$tensor": name}
    if isinstance(value, np.generic):
        return _take_apart(value.item(), tensors, name)
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _take_apart(item, tensors, f"{name}.{key}") for key, item in value.items()}
        return {"$dict": [[_take_apart(k, {}, ""), _take_apart(v, tensors, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_take_apart(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_take_apart(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} cannot be saved; use tensors, numbers, text, lists and dicts.")


def _put_together(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(form, list):
        return [_put_together(item, tensors) for item in form]
    if not isinstance(form, dict):
        return form
    match form:
        case {"$tensor": name}:
            return tensors[name]
        case {"$array": name}:
            return tensors[name].numpy()
        case {"$tuple": items}:
            return tuple(_put_together(item, tensors) for item in items)
        case {"$float": text}:
            return float(text)
        case {"$dict": pairs}:
            return {_put_together(key, tensors): _put_together(item, tensors) for key, item in pairs}
    return {key: _put_together(item, tensors) for key, item in form.items()}


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        # int64, since older safetensors know no uint32
        "numpy": {"name": numpy[0], "words": torch.tensor(numpy[1].tolist()), "rest": list(numpy[2:])},
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    numpy = state["numpy"]
    np.random.set_state((numpy["name"], numpy["words"].numpy().astype(np.uint32), *numpy["rest"]))
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# ------------------------------------------------------------------------------------------------- a model in words


def _registries() -> dict[str, Mapping[str, Any]]:
    from infomax import critics, objectives
    from infomax.encoders import Projector

    projectors = {"projector": Projector, "linear": nn.Linear, "identity": nn.Identity}
    return {"projector": projectors, "critic": critics.registry, "objective": objectives.registry}


def describe(model: nn.Module) -> dict[str, Any] | None:
    """An InfoMax in words, for build(): its encoder's configuration, and the constructor calls of its other parts.

    A class of the user's own is `module:Class(...)`. An encoder that infomax.encoder() did not make is None: such a
    model is rebuilt by its owner and filled with Checkpoint.restore(). None for a module that is no InfoMax.
    """
    from infomax.models import InfoMax

    model = _unwrapped(model)
    if not isinstance(model, InfoMax):
        return None
    from infomax.encoders import encoder_config

    description: dict[str, Any] = {"encoder": None, "ntxent": model.ntxent}
    with contextlib.suppress(UserError):
        description["encoder"] = encoder_config(model.encoder)
    for kind, registry in _registries().items():
        part = getattr(model, kind)
        known = registry.get(type(part).__name__.lower()) is type(part)
        description[kind] = repr(part) if known else f"{type(part).__module__}:{part!r}"
    return description


def build(description: Mapping[str, Any] | None, allow_imports: bool = False) -> "InfoMax":
    """The untrained InfoMax that describe() put in words.

    Raises UserError where the words cannot be followed, and for a `module:Class` unless allow_imports.
    """
    from infomax.models import InfoMax
    from infomax.parsing import parse

    description = description or {}
    parts = {}
    try:
        encoder = _build_encoder(description)
        for kind, registry in _registries().items():
            text = description.get(kind)
            if not isinstance(text, str):
                raise UserError(f"The saved model names no {kind}.")
            parts[kind] = parse(text, registry, kind, allow_imports=allow_imports)
    except UserError as error:
        raise UserError(
            f"{error} Or build the model yourself and fill it: infomax.checkpoints.read(path).restore(model)."
        ) from error
    return InfoMax(encoder, **parts, ntxent=bool(description.get("ntxent")))


def _build_encoder(description: Mapping[str, Any] | None) -> nn.Module:
    from infomax.encoders import encoder_from

    config = (description or {}).get("encoder")
    if config is None:
        raise UserError("The saved encoder was not made by infomax.encoder(), so it cannot be rebuilt from its name.")
    # timm would read weights from where these say, some of them pickles; none of them shapes a model.
    reading = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
    name, arguments = (config.get("name"), config.get("arguments")) if isinstance(config, dict) else (None, None)
    if not isinstance(name, str) or ":" in name or not isinstance(arguments, dict) or reading & set(arguments):
        raise UserError(f"The saved encoder's description {config!r} is not one that infomax writes.")
    return encoder_from(config)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without DistributedDataParallel and torch.compile, whose state has other names."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


# ------------------------------------------------------------------------------------------------------------ reading


@final
@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose every file matched its checksum when it was read. Made by read() and latest()."""

    folder: Path
    step: int
    configuration: dict[str, Any]
    preprocessing: dict[str, Any] | None  # mean, std (a number a channel, of images in [0, 1]), input_size
    model: dict[str, Any] | None  # as describe() gives it
    checksum: str  # of all its content: equal checksums, equal checkpoints
    processes: int  # that trained it
    files: Mapping[str, str]  # sha256 by name
    state: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its safetensors files. Raises DamagedError when it changed since it was read."""
        path = self.folder / name
        try:
            content = path.read_bytes()  # what is checked is what is used, even if the file is pruned meanwhile
            if hashlib.sha256(content).hexdigest() != self.files[name]:
                raise DamagedError(f"{path} does not match its checksum: it was altered.")
            return load_safetensors(content)
        except DamagedError:
            raise
        except Exception as error:  # of a header that was made to harm: SafetensorError, KeyError, RuntimeError, ...
            raise DamagedError(f"{path} cannot be read ({_reason(error)}).") from None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """Fill a model, an optimizer and the random generators with what was saved; returns the saved `state`.

        Everything is read and compared first: an error leaves model and optimizer as they were. Each process gets its
        own state and generators. On another number of processes there are none: batches and views are keyed by
        step, so they stay the same, but what draws from the generators (dropout) does not, and a line says so.
        Raises UserError where model or optimizer do not have the saved one's shape.
        """
        weights = self.tensors(_MODEL)
        others = self.tensors(_OPTIMIZER)
        rank, world = _rank(), _world()
        try:
            saved = _put_together(self.state["optimizer"], others)
            mine = _put_together(self.state["ranks"][rank if rank < self.processes else 0], others)
            generators, state = mine["random"], dict(mine["state"])
        except Exception as error:  # as many kinds as there are forms that we do not write
            raise DamagedError(f"{self.folder / _STATE} does not fit {_OPTIMIZER} ({error!r}).") from None
        model = _unwrapped(model)
        _must_fit(weights, model.state_dict(), self.folder)
        if optimizer is not None:
            if saved is None:
                raise UserError(f"{self.folder} was saved without an optimizer, so training cannot go on from it.")
            _optimizer_must_fit(saved, optimizer, self.folder)
        before, held = _random_state(), None if optimizer is None else optimizer.state_dict()
        try:
            if world == self.processes:
                _set_random_state(generators)
            if optimizer is not None:
                optimizer.load_state_dict(saved)
        except Exception as error:
            _set_random_state(before)
            if optimizer is not None and held is not None:  # which may be half filled
                optimizer.state.clear()
                optimizer.load_state_dict(held)
            raise DamagedError(f"{self.folder / _STATE} does not fit {_OPTIMIZER} ({error!r}).") from None
        model.load_state_dict(weights, strict=True)
        if rank == 0:
            self._say_what_differs(world, next((p.device.type for p in model.parameters()), "cpu"))
        return state

    def _say_what_differs(self, world: int, device: str) -> None:
        threads, saved = torch.get_num_threads(), self.state.get("threads")
        if world != self.processes:
            _say.warning(
                "%s was saved by %d process(es) and is resumed by %d: the same batches and views follow, but sums are"
                " rounded, and dropout drawn, in another way, so the result is not bitwise the same.",
                self.folder, self.processes, world,
            )  # fmt: skip
        elif device == "cpu" and isinstance(saved, int) and saved != threads:
            _say.warning(
                "%s was saved with %d thread(s) a process and is resumed with %d: sums are rounded in another way, so"
                " the result is not bitwise the same.", self.folder, saved, threads,
            )  # fmt: skip


def _reason(error: Exception) -> str:
    """An error's first line, which may be a parser's and long."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")[:200]


def _must_fit(saved: Mapping[str, Tensor], own: Mapping[str, Any], folder: Path) -> None:
    for name in sorted(saved.keys() ^ own.keys()):
        raise UserError(f"{folder} is of another model: {name} is only in {'it' if name in saved else 'yours'}.")
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise UserError(
                f"{folder} is of another model: {name} is {list(tensor.shape)} {tensor.dtype} in it and"
                f" {list(own[name].shape)} {own[name].dtype} in yours."
            )


_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")  # of a parameter's own shape


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
        raise DamagedError(f"{folder / _STATE} holds no optimizer's state ({error!r}).") from None


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a checkpoint folder, or the newest whole one of a run folder; every file is checked.

    Raises UserError: nothing there, and DamagedError, which names the file: missing, altered, cut short, a link, or of
    another version.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        siblings = [p.name for p in _children(folder.parent) if _is_run(p)]
        raise UserError(f"{folder} {what}.{nearest(folder.name, siblings) if siblings else ''}")
    if (folder / _MANIFEST).exists() or _STEP.fullmatch(folder.name):
        return _read_checkpoint(folder)
    found = latest(folder)
    if found is None:
        what = "has no checkpoint yet" if (folder / _RUN).exists() else "is neither a run nor a checkpoint"
        raise UserError(f"{folder} {what}.")
    return found


def latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest whole checkpoint of a run folder; a line says which newer ones were damaged. None: none was saved.

    Raises DamagedError when there are some and none of them is whole.
    """
    for _ in range(_ATTEMPTS):
        damage: list[DamagedError] = []
        pruned = False
        for _, path in reversed(_steps(Path(folder))):
            try:
                found = _read_checkpoint(path)
            except DamagedError as error:
                if path.exists():
                    damage.append(error)
                pruned = pruned or not path.exists()  # by a trainer, while we read: newer ones have come
                continue
            for error in damage:
                _say.warning("%s Taking the checkpoint of step %d instead.", error, found.step)
            return found
        if damage:
            raise DamagedError(f"No checkpoint in {folder} is whole: {damage[0]}")
        if not pruned:
            break
    return None


def load(path: str | os.PathLike[str], allow_imports: bool = False) -> "InfoMax":
    """A saved model, in evaluation mode on the CPU, from a run folder (its newest whole checkpoint) or a checkpoint.

    A critic or objective of the saver's own (`module:Class`) is imported only with allow_imports=True, which runs that
    module's code. Raises UserError as read() does, and where the model cannot be rebuilt.
    """
    checkpoint, weights = _read_weights(path)
    make = functools.partial(build, checkpoint.model, allow_imports)
    return _filled(make, weights, checkpoint.folder, trusted=allow_imports).eval()


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """The encoder alone of a saved model, in evaluation mode on the CPU; needs nothing of its objective and critic."""
    return read_encoder(path)[1]


def read_encoder(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module]:
    """load_encoder's, with the checkpoint that it was read from: one read, which pruning cannot come between."""
    checkpoint, weights = _read_weights(path)
    return checkpoint, _part(checkpoint, weights, "encoder", functools.partial(_build_encoder, checkpoint.model))


def read_parts(path: str | os.PathLike[str]) -> tuple[Checkpoint, nn.Module, nn.Module | None]:
    """read_encoder's, and the projector; None for one of the saver's own class, which only load() may import."""
    from infomax.parsing import parse

    checkpoint, weights = _read_weights(path)
    encoder = _part(checkpoint, weights, "encoder", functools.partial(_build_encoder, checkpoint.model))
    text, known = (checkpoint.model or {}).get("projector"), _registries()["projector"]
    if not isinstance(text, str) or ":" in text:
        return checkpoint, encoder, None
    make = functools.partial(parse, text, known, "projector", allow_imports=False)
    return checkpoint, encoder, _part(checkpoint, weights, "projector", make)


def _part(checkpoint: Checkpoint, weights: Mapping[str, Tensor], name: str, make: Callable[[], nn.Module]) -> nn.Module:
    own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
    return _filled(make, own, checkpoint.folder).eval()


Module = TypeVar("Module", bound=nn.Module)


def _filled(make: Callable[[], Module], weights: Mapping[str, Tensor], folder: Path, trusted: bool = False) -> Module:
    """What `make` makes from a saved description, with saved weights; first without memory, unless that is trusted.

    A description may ask for more layers than there is time, and larger ones than there is memory.
    """
    if not trusted:
        with torch.device("meta"), _at_most(2 * len(weights) + 100, folder):
            try:
                _must_fit(weights, make().state_dict(), folder)
            except UserError:
                raise
            except Exception as error:
                raise DamagedError(f"{folder} describes a model that cannot be made ({_reason(error)}).") from None
    model = make()
    _must_fit(weights, model.state_dict(), folder)
    model.load_state_dict(weights, strict=True)
    return model


@contextlib.contextmanager
def _at_most(parameters: int, folder: Path) -> Iterator[None]:
    """Within it, a module of more parameters cannot be made: raises DamagedError."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > parameters:
            raise DamagedError(f"{folder} describes a model of more parameters than it holds.")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _read_weights(path: str | os.PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    for _ in range(_ATTEMPTS):
        checkpoint = read(path)
        try:
            return checkpoint, checkpoint.tensors(_MODEL)
        except DamagedError:
            if checkpoint.folder.exists():
                raise  # else it was pruned while we read, and a newer one has come
    raise UserError(f"{path} changes faster than it can be read.")


def _read_checkpoint(folder: Path) -> Checkpoint:
    if folder.is_symlink():
        raise DamagedError(f"{folder} is a link, and a run holds none.")
    manifest = _read_sealed(folder / _MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict) or not {_MODEL, _OPTIMIZER, _STATE} <= files.keys():
        raise DamagedError(f"{folder / _MANIFEST} does not list what a checkpoint holds.")
    for name, known in files.items():
        _check_file(folder, name, known)
    path = folder / _STATE
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != files[_STATE]["sha256"]:
            raise DamagedError(f"{path} does not match its checksum: it was altered.")
        state = json.loads(content)
        configuration = state["configuration"]
        checkpoint = Checkpoint(
            folder=folder,
            step=state["step"],
            configuration=configuration if manifest["format"] == FORMAT else _migrated_configuration(configuration),
            preprocessing=state["preprocessing"],
            model=state["model"],
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
    if (match := _STEP.fullmatch(folder.name)) and int(match[1]) != checkpoint.step:
        raise DamagedError(f"{folder} holds the checkpoint of step {checkpoint.step}: it was renamed.")
    return checkpoint


def _check_file(folder: Path, name: str, known: Any) -> None:
    """Raises DamagedError where a file is not what the manifest knows of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise DamagedError(f"{folder / _MANIFEST} names a file outside its folder: {name!r}.")
    path = folder.joinpath(*parts)
    try:
        if any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
            raise DamagedError(f"{path} is a link, and a checkpoint holds none.")
        if not path.is_file():
            raise DamagedError(f"{path} is missing.")
        size = path.stat().st_size
        if not isinstance(known, dict) or known.get("bytes") not in (size, None):
            raise DamagedError(f"{path} was altered or cut short: it has {size} bytes.")
        if _digest(path)["sha256"] != known.get("sha256"):
            raise DamagedError(f"{path} does not match its checksum: it was altered or cut short.")
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None  # pruned meanwhile, say
    except OSError as error:
        raise UnusableError(f"{path} cannot be read now ({error.strerror}); nothing was changed.") from None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # taken for empty, it would start a run again and cut its log
        raise UnusableError(f"{folder} cannot be read now ({error.strerror}); nothing was changed.") from None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    found = [(match, path) for path in _children(folder) if (match := _STEP.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def _is_run(folder: Path) -> bool:
    return (folder / _RUN).is_file() or bool(_steps(folder))


# ------------------------------------------------------------------------------------------------------ many processes


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(value: T) -> list[T]:
    """Every process's value, on every process. (Pickled in transit between our own processes, never in a file.)"""
    if _world() == 1:
        return [value]
    values: list[Any] = [None] * _world()
    dist.all_gather_object(values, value)
    return values


def _on_main(action: Callable[[], T]) -> T:
    """The main process acts; all get its result, or its error, so that none waits for one that has stopped."""
    if _world() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if _rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:
            told = isinstance(error, UserError | NonFinite)
            outcome[1] = error if told else RuntimeError(f"{type(error).__name__}: {error}")
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


# ------------------------------------------------------------------------------------------------------------ writing


@final
class Run:
    """A run folder that is open for training, locked until finish(), close() or this process's end. Made by open_run().

    folder; configuration; checkpoint: where to go on from, or None at the start; finished: nothing is left to do;
    results: what finish() was given. `with open_run(...) as run:` closes it.
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
        self.configuration: dict[str, Any] = _plain(configuration)
        self.preprocessing: dict[str, Any] | None = None if preprocessing is None else _plain(preprocessing)
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
        if _rank() == 0:
            line = json.dumps(_plain(record), allow_nan=False) + "\n"
            try:
                with (self.folder / _LOG).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise UserError(f"{self.folder / _LOG} could not be written ({error}); --resume goes on.") from error

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Path:
        """Save a checkpoint after `step` steps; returns its folder. Called by all processes; the main one writes.

        `state`: what this process needs besides, of dicts, lists, numbers, text and tensors; Checkpoint.restore()
        returns it. Random generators are saved of themselves. Older checkpoints go once the new one is whole, down to
        `keep`. wait=False: copy what is to be saved, and let a thread write it while training goes on; what it met is
        raised by the next save(), wait() or finish().
        Raises UserError when it cannot be written (a full disk), NonFinite for weights that are not finite; those
        before it stay whole.
        """
        self.wait()
        ranks = _gather({"random": _random_state(), "state": dict(state or {})})
        _on_main(lambda: self._begin(_snapshot(step, _unwrapped(model), optimizer, ranks, self)))
        self._pending = True
        if wait:
            self.wait()
        return self.folder / _step_name(step)

    def wait(self) -> None:
        """Until the checkpoint that is being written is whole. Called by all processes; raises as save() does."""
        if self._pending:
            self._pending = False
            _on_main(self._join)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results into run.json: the run is done, and `--resume` will say so. Closes it."""
        self.wait()
        self.results, self.finished = _plain(results), True
        _on_main(self._write_run)
        self.close()

    def close(self) -> None:
        """Let another Run train in this folder; the end of this process does so too."""
        try:
            self._join()
        except UserError as error:  # nobody will ask for it any more
            _say.warning("%s", error)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_run(self) -> None:
        content = {"configuration": self.configuration, "preprocessing": self.preprocessing, "versions": _versions()}
        try:
            write_json(self.folder / _RUN, _sealed({**content, "results": self.results}))
        except OSError as error:
            raise UserError(f"{self.folder / _RUN} could not be written ({error}).") from error

    def _begin(self, snapshot: "_Snapshot") -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="infomax-save")
        self._writing = pool.submit(self._write, snapshot)
        pool.shutdown(wait=False)  # its one thread ends when it has written, which the interpreter's end waits for

    def _join(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, snapshot: "_Snapshot") -> None:
        target = self.folder / _step_name(snapshot.step)
        temporary = self.folder / f"{_TEMPORARY}{target.name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            snapshot.write(temporary)
            _seal_folder(temporary)
            if target.exists():  # saved twice; a kill between the two renames is mended by _sweep
                target.rename(self.folder / f"{_REPLACED}{target.name}")
            temporary.rename(target)
            _flush_folder(self.folder)
            self._prune(snapshot.step)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = [path.name for _, path in _steps(self.folder)]
            raise UserError(
                f"The checkpoint of step {snapshot.step} could not be written to {self.folder} ({error});"
                f" {', '.join(kept) + ' is still there' if kept else 'no earlier one was saved'}."
            ) from error

    def _prune(self, written: int) -> None:
        earlier = [path for step, path in _steps(self.folder) if step < written]
        for path in earlier[: len(earlier) - (self.keep - 1)]:
            # Renamed first, so that a kill half-way through leaves nothing that looks like a damaged checkpoint.
            path.rename(self.folder / f"{_TEMPORARY}old-{path.name}")
        _sweep(self.folder)


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


@final
@dataclass(frozen=True)
class _Snapshot:
    """All that a checkpoint will hold, copied: training may go on while it is written."""

    step: int
    weights: dict[str, Tensor]
    others: dict[str, Tensor]
    state: dict[str, Any]
    model: nn.Module  # of which only what training does not change is read

    def write(self, folder: Path) -> None:
        save_safetensors(self.weights, folder / _MODEL)
        save_safetensors(self.others, folder / _OPTIMIZER)
        (folder / _STATE).write_text(json.dumps(self.state, allow_nan=False), encoding="utf-8")
        weights = {n.removeprefix("encoder."): w for n, w in self.weights.items() if n.startswith("encoder.")}
        _save_encoder(self.model, weights, folder / "encoder", self.state["preprocessing"])


def _snapshot(
    step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None, ranks: list[dict[str, Any]], run: Run
) -> _Snapshot:
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} of the model is a {type(value).__name__}; only tensors are saved.")
        _take_apart(value, weights, name)
    others: dict[str, Tensor] = {}
    state = {
        "step": step,
        "configuration": run.configuration,
        "preprocessing": run.preprocessing,
        "model": describe(model),
        "optimizer": None if optimizer is None else _take_apart(optimizer.state_dict(), others, "optimizer"),
        "ranks": [_take_apart(rank, others, f"rank{i}") for i, rank in enumerate(ranks)],
        "log_bytes": _size(run.folder / _LOG),
        "threads": torch.get_num_threads(),
    }
    _must_be_finite(step, {name for name, _ in model.named_parameters()}, weights, others, run.folder)
    return _Snapshot(step, weights, others, state, model)


def _must_be_finite(
    step: int, parameters: set[str], weights: Mapping[str, Tensor], others: Mapping[str, Tensor], folder: Path
) -> None:
    """Raises NonFinite: a parameter, a running statistic or the optimiser is not finite, or another buffer is NaN."""
    for name, value in [*weights.items(), *others.items()]:
        if not (value.is_floating_point() or value.is_complex()):
            continue
        # An average in the log domain starts at -inf; elsewhere infinity is an overflow.
        strict = name in parameters or name.startswith("optimizer.") or "running_" in name
        if not bool((value.isfinite() if strict else ~value.isnan()).all()):
            kept = [path.name for _, path in _steps(folder)]
            raise NonFinite(
                f"After step {step} {name} is not finite, so it is not saved"
                f" ({kept[-1] + ' is the newest checkpoint' if kept else 'there is no earlier checkpoint'})."
                " Try a lower learning rate, a higher temperature, or an objective with a bounded gradient (InfoNCE,"
                " JS, CalibratedNWJ)."
            )


def _seal_folder(folder: Path) -> None:
    """Flush every file and folder to the disk, and write the manifest last."""
    paths = sorted(path for path in folder.rglob("*"))
    files = {path.relative_to(folder).as_posix(): _digest(path, flush=True) for path in paths if path.is_file()}
    for path in paths:
        if path.is_dir():
            _flush_folder(path)
    _flush_to(folder / _MANIFEST, json.dumps(_sealed({"files": files}), indent=2) + "\n")
    _flush_folder(folder)


def _save_encoder(
    model: nn.Module, weights: dict[str, Tensor], folder: Path, preprocessing: Mapping[str, Any] | None
) -> None:
    """timm's own form of an InfoMax's encoder, where it is one that timm can rebuild."""
    description = describe(model)
    if description is None or description["encoder"] is None:
        return
    from infomax.encoders import save_timm

    encoder: Any = model.encoder
    given = preprocessing or getattr(encoder, "pretrained_cfg", None) or {}
    mean, std, size = given.get("mean"), given.get("std"), given.get("input_size")
    channels = description["encoder"]["in_chans"]
    if not (mean and std and size and len(mean) == len(std) == size[0] == channels):
        # Nothing is known of the images but their channels: [0, 1] as it is, and the size that timm gives its model.
        mean, std, size = (0.0,) * channels, (1.0,) * channels, (channels, *(size or (0, 224, 224))[1:])
    save_timm(encoder, folder, mean, std, size, weights)


def _sweep(folder: Path) -> None:
    """Remove what an earlier process left half-written or half-removed. Its folders are ours by the lock."""
    for path in _children(folder):
        before = folder / path.name.removeprefix(_REPLACED)
        if path.name.startswith(_REPLACED) and not before.exists():
            path.rename(before)  # it is whole, and what was to replace it did not come
        elif path.name.startswith(_TEMPORARY):
            if path.is_dir() and not path.is_symlink():
                if _STEP.fullmatch(path.name.removeprefix(_TEMPORARY)):
                    _say.warning("%s was being written when its run ended; it is removed.", path)
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


def _set_aside(folder: Path, step: int) -> None:
    """Rename the damaged checkpoints after the one that training goes on from: their steps are about to come again."""
    for path in [path for number, path in _steps(folder) if number > step]:
        aside, number = folder / f"damaged-{path.name}", 2
        while aside.exists():  # removed by hand alone
            aside, number = folder / f"damaged-{path.name}-{number}", number + 1
        path.rename(aside)


def _size(path: Path) -> int:
    """In bytes, flushed to the disk; 0 where there is no such file."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("infomax", "torch", "torchvision", "timm", "accelerate", "numpy", "safetensors", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def default_folder(name: str, root: str | os.PathLike[str] = "checkpoints") -> Path:
    """checkpoints/<name>. Raises UserError for a name that is not one plain folder name."""
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
) -> Run:
    """The run folder to train in. Called by all processes; needs a file system that all of them see.

    named: the folder that the user asked for (--run-dir). None takes checkpoints/<default>, with a fresh suffix if
    that exists (<default>-2, ...), or with `resume` the newest of these. A named folder that holds a run is refused
    without `resume`; with it, training goes on from Run.checkpoint, and log.jsonl is cut back to that moment. With
    nothing there yet `resume` starts at the beginning. preprocessing: mean, std and input_size (channels, height,
    width), for timm's form of the encoder and for whoever evaluates it.
    Raises UserError: a folder that holds something else, another configuration or preprocessing (the differing keys;
    those in MAY_DIFFER may differ), another process at work in it, no checkpoint left that is whole.
    """
    run = Run(Path(), configuration, preprocessing, keep)
    lock: int | None = None

    def act() -> tuple[str, int | None, dict[str, Any] | None, bool]:
        nonlocal lock
        folder = _claimed(None if named is None else Path(named), default, resume)
        try:
            for name in (_RUN, _LOG, _LOCK):
                if (folder / name).is_symlink():
                    raise DamagedError(f"{folder / name} is a link, and a run holds none.")
            lock = _lock(folder)
            return prepare(folder)
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, OSError):
                raise UserError(f"{folder} cannot hold a run ({error}).") from error
            raise

    def prepare(folder: Path) -> tuple[str, int | None, dict[str, Any] | None, bool]:
        _sweep(folder)
        run.folder = folder
        found, saved = (latest(folder), _read_run(folder)) if resume else (None, None)
        if found is not None and saved is None:
            saved = {"configuration": found.configuration, "preprocessing": found.preprocessing, "results": None}
        results, finished = None, False
        if saved is not None:
            old, new = saved["configuration"], run.configuration
            if saved["preprocessing"] is not None and run.preprocessing is not None:
                old, new = ({**c, "preprocessing": p} for c, p in (
                    (old, saved["preprocessing"]), (new, run.preprocessing)
                ))  # fmt: skip
            changed = _compare(old, new, folder)
            finished = saved["results"] is not None and not changed & _LENGTH
            results = saved["results"] if finished else None
        if found is not None:
            _set_aside(folder, found.step)
        if not finished:
            _rewind(folder / _LOG, found.state["log_bytes"] if found is not None else 0)
        run.results = results
        run._write_run()
        return os.fspath(folder), None if found is None else found.step, results, finished

    folder, step, run.results, run.finished = _on_main(act)
    run.folder, run._lock = Path(folder), lock
    run.checkpoint = None if step is None else _read_checkpoint(run.folder / _step_name(step))
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
        if _is_run(named) and not resume:
            raise UserError(f"{named} already holds a run: go on with --resume, or name another --run-dir.")
        ours = (_RUN, _LOG, _LOCK)
        foreign = [p.name for p in _children(named) if p.name not in ours and not p.name.startswith(_TEMPORARY)]
        if foreign and not _is_run(named):
            raise UserError(f"{named} holds something else ({foreign[0]}); name a new or an empty --run-dir.")
        return named
    first = default_folder(default)
    suffix = re.compile(re.escape(first.name) + r"-(\d+)")
    numbers = {int(match[1]) for path in _children(first.parent) if (match := suffix.fullmatch(path.name))}
    if first.exists():
        numbers.add(1)
    newest = max(numbers, default=0)
    number = newest if resume and newest else newest + 1
    return first if number == 1 else first.with_name(f"{first.name}-{number}")


def _read_run(folder: Path) -> dict[str, Any] | None:
    """run.json, or None where there is none; a damaged one is told and done without, checkpoints hold its content."""
    if not (folder / _RUN).exists():
        return None
    try:
        content = _read_sealed(folder / _RUN)
        return {key: content[key] for key in ("configuration", "preprocessing", "results")}
    except (DamagedError, KeyError) as error:
        if not _steps(folder):
            raise
        _say.warning("%s It is written anew from the checkpoint.", error)
        return None


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed, which the end of this process does, however it ends.

    None where the system or the file system has no such locks. Raises UserError where another holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise UserError(f"Another process is training in {folder}; name another --run-dir.") from None
        return None
    return descriptor


def _compare(saved: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> set[str]:
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
    different -= {key for key in _LATER if key not in old}
    refused = sorted(key for key in different if key.split(".")[0] not in MAY_DIFFER)
    if refused:

        def shown(values: Mapping[str, Any], key: str) -> str:
            return repr(values[key]) if key in values else "not set"

        clauses = "; ".join(f"{key} is {shown(old, key)} there and {shown(new, key)} here" for key in refused)
        raise UserError(
            f"{folder} holds a run of another configuration: {clauses}."
            f" Ask for the same, or name another --run-dir ({', '.join(sorted(MAY_DIFFER))} may differ)."
        )
    return {key.split(".")[0] for key in different}


def _rewind(log: Path, size: int) -> None:
    """Cut the log back to the checkpoint that training goes on from, so that no step stands in it twice."""
    if log.exists():
        if log.stat().st_size < size:
            _say.warning("%s is shorter than when the checkpoint was saved; it goes on from where it ends.", log)
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
    `configuration` that of its newest. Raises UserError as open_run() and Run.save() do.
    """

    def known() -> tuple[int, dict[str, Any], dict[str, Any] | None]:
        found = latest(path) if _is_run(Path(path)) else None
        return (0, {}, None) if found is None else (found.step + 1, found.configuration, found.preprocessing)

    number, before, seen = _on_main(known)
    run = open_run(
        path, "model", before if configuration is None else configuration,
        resume=True, preprocessing=preprocessing or seen, keep=keep,
    )  # fmt: skip
    try:
        return run.save(number if step is None else step, model, optimizer, state)
    finally:
        run.close()
