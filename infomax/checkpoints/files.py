"""Checksums and formats of a run's files, and the reading of files that may be damaged."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax.errors import UserError
from infomax.files import TEMPORARY, plain

if TYPE_CHECKING:
    pass


FORMAT = 3
REPLACED = f"{TEMPORARY}replaced-"
_JSON_BYTES = 256 * 1024**2  # a larger one is not ours
warn_log = logging.getLogger("infomax")  # unconfigured, its warnings are plain lines on standard error


class UnusableError(UserError):
    """What cannot be read here and now, though it may be whole: nothing is done to it, and nothing in its place."""


class DamagedError(UserError):
    """A file of a run or checkpoint is missing, altered, cut short, or written by another version."""


def digest_of(path: Path, flush: bool = False) -> dict[str, Any]:
    """What a manifest says of a file: {"bytes", "sha256"}."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def seal_of(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    content = plain({"format": FORMAT, **content})
    return {**content, "sha256": seal_of(content)}


def read_sealed(path: Path) -> dict[str, Any]:
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
        return content.get("sha256") == seal_of(content)
    except (ValueError, RecursionError):
        return False


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """What run.json or a manifest of an older format says, in this one; what has changed of a model is state.json's."""
    content = dict(content)
    if content["format"] == 1 and isinstance(files := content.get("files"), dict):
        content["files"] = {name: {"bytes": None, "sha256": digest} for name, digest in files.items()}
    return content


def reason_of(error: Exception) -> str:
    """An error's first line, which may be a parser's and long."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")[:200]


def children_of(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # taken for empty, it would start a run again and cut its log
        raise UnusableError(f"{folder} cannot be read now ({error.strerror}); nothing was changed.") from None


def size_of(path: Path) -> int:
    """In bytes, flushed to the disk; 0 where there is no such file."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0
