"""Where a result is written: a file whole or not at all, a device or a pipe as it comes."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any


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
