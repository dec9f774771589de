"""Images inside other files, shards and tables, which are read as files of their own are."""

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, final


@final
class Packed:
    """An image inside another file: what is asked of its Path where it has a file of its own.

    place: its name inside the other file's, "shard-000.tar/0001.png". size: in bytes. read: gives the bytes.
    """

    def __init__(self, place: str, size: int, read: Callable[[], bytes]) -> None:
        self.place, self.size, self._read = PurePosixPath(place), size, read

    def __str__(self) -> str:
        return str(self.place)

    @property
    def parent(self) -> PurePosixPath:
        """The place without its last part."""
        return self.place.parent

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The bytes, as a file that is open for reading. mode: "rb", as an image is read."""
        return io.BytesIO(self._read())


File = Path | Packed


def size_of(file: File) -> int:
    return file.size if isinstance(file, Packed) else file.stat().st_size


def readable(file: File) -> Any:
    """What decoders read: the path of a file, the bytes of an image inside another."""
    return file.open("rb") if isinstance(file, Packed) else file
