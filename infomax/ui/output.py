"""Where a result is written: a file whole or not at all, a device or a pipe as it comes."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infomax.errors import UserError


def one_line(content: dict[str, Any]) -> str:
    """JSON in one line."""
    return json.dumps(content, allow_nan=False)


def require_file(path: Path | None) -> None:
    """Raises UserError for a folder, before anything is worked out for it; what else may fail is told at the end."""
    if path is not None and path.is_dir():
        raise UserError(f"--output {path} is a folder; name a file in it.")


def show_and_write(
    path: Path | None, checkpoint: dict[str, Any] | None, what: str, found: Any, show: Callable[[], None]
) -> None:
    """Shows a result and writes it, each whatever comes of the other: a full disk, a pipe that was closed.

    path: where to, if anywhere. checkpoint: its step and checksum. what: the result's key, found its content.
    """
    try:
        show()
        sys.stdout.flush()
    finally:
        if path is not None:
            try:
                write_result(path, {"checkpoint": checkpoint, what: found.to_dict()})
            except OSError as error:
                raise UserError(f"{path} could not be written ({error}).") from error


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON into a file, or the one at the end of a link, whole or not at all; a device or a pipe as it comes."""
    from infomax.files import write_json

    if path.exists() and not path.is_dir() and (not path.is_file() or _is_open(path)):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content, allow_nan=False) + "\n")
    else:
        write_json(os.path.realpath(path), content)


def _is_open(path: Path) -> bool:
    """/dev/stdout, where that is a file: replaced, it would lose what was and will be printed."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(stream)):
                return True
    return False
