"""Files that are whole or absent, what JSON can hold, and a lock that ends with the process that holds it."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

TEMPORARY = ".tmp-"  # what a file is called until it is whole


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a file atomically: a reader, and a kill at any moment, sees the old one or the new one whole.

    path: the file. write: writes the path that it is given, beside it. What it raises leaves nothing behind.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Replaces a JSON file atomically: a reader, and a kill at any moment, sees the old one or the new one whole.

    path: the file. content: what it then holds.
    Numbers that JSON has no word for are written as "inf", "-inf" and "nan".
    """
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_whole(Path(path), lambda temporary: write_text(temporary, text))


def write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)


def flush_to(path: Path, text: str) -> None:
    write_text(path, text)
    flush(path)


def flush(path: Path) -> None:
    """To the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and needs no flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any, spell: Callable[[float], Any] = str) -> Any:
    """What JSON can hold, from configurations, log records and results: scalars of torch and numpy, paths, tuples.

    spell: what stands for a number that is not finite. Raises TypeError for anything else.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, spell) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, spell) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist(), spell)
    if isinstance(value, float):
        return value if math.isfinite(value) else spell(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be written as JSON.")


def finite(value: Any) -> Any:
    """plain()'s, with None for a number that is not finite, which JSON has no word for."""
    return plain(value, lambda _: None)


def lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file, made if missing, until it is closed or this process ends, however.

    None where the system or the file system has no such locks. Raises BlockingIOError where another holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def write_whole_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Makes a folder with all its content or not at all; one that is there must be empty, and is replaced.

    path: the folder; those above it are made. write: fills the empty folder that it is given, beside it. What it raises
    leaves nothing behind.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    try:
        write(temporary)
        for file in temporary.rglob("*"):
            flush(file) if file.is_file() else flush_folder(file)
        flush_folder(temporary)
        if os.name != "posix" and path.exists():  # elsewhere no rename replaces a folder
            path.rmdir()
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
