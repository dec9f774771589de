"""Images inside other files, shards and tables, which are read as files of their own are."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np


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


def packed_array(place: str, size: int, read: Callable[[], np.ndarray]) -> Packed:
    """An image that is an array inside another file: it is read as a .npy file is.

    place: its name inside the other file's, to which .npy is added. size: in bytes. read: gives [h, w] or [h, w, c].
    """

    return Packed(f"{place}.npy", size, partial(_as_file, read))


def _as_file(read: Callable[[], np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.save(file, read(), allow_pickle=False)
    return file.getvalue()


@final
class Recent:
    """Arrays that were read last, of so many bytes together, so that pieces of one do not each read all of it.

    most: bytes; the last array is held whatever its size.
    """

    def __init__(self, most: int) -> None:
        self.most, self._arrays, self._lock = most, OrderedDict[Hashable, np.ndarray](), threading.Lock()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of the key, by `read` where it is not held."""
        with self._lock:  # two threads that want one array read it once
            if key not in self._arrays:
                self._arrays[key] = read()
                while len(self._arrays) > 1 and sum(array.nbytes for array in self._arrays.values()) > self.most:
                    self._arrays.popitem(last=False)
            self._arrays.move_to_end(key)
            return self._arrays[key]


def size_of(file: File) -> int:
    return file.size if isinstance(file, Packed) else file.stat().st_size


def readable(file: File) -> Any:
    """What decoders read: the path of a file, the bytes of an image inside another."""
    return file.open("rb") if isinstance(file, Packed) else file
