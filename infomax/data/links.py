"""Walks through folders, and through symbolic links to folders that are not read otherwise."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


class Walk:
    """Goes through the folders of a data set, and through symbolic links to folders.

    roots: the folders that are read. A link to a folder inside a root, which is read where it lies, or to one that
    holds a root, is not followed; of several links to one folder elsewhere the first in the order of paths is. A class
    may be a link to any folder that holds no root. skipped: the links that were not followed.
    """

    def __init__(self) -> None:
        self.roots: list[str] = []
        self.skipped: list[str] = []
        self._seen: set[str] = set()  # folders that were reached by links, resolved

    def read(self, *roots: Path) -> None:
        """Names the folders that are read. roots: in any order; links among them are followed."""
        self.roots = [os.path.realpath(root) for root in roots]

    def below(self, folder: Path, left_out: Callable[[str], bool]) -> Iterator[tuple[Path, list[str]]]:
        """The folder and those below it, each with the names of its files.

        folder: in one of the roots; it may be a link, unless to a folder that holds a root. left_out: whether a folder
        of this name is passed over.
        """
        if os.path.islink(folder) and any(holds(os.path.realpath(folder), root) for root in self.roots):
            self.skipped.append(str(folder))
            return
        real = {str(folder): os.path.realpath(folder)}  # of the folders that are still to be gone through
        for place, folders, names in os.walk(folder, followlinks=True):
            here, kept = real.pop(place), []
            for name in sorted(folders):
                path = os.path.join(place, name)
                link = os.path.islink(path)
                target = os.path.realpath(path) if link else os.path.join(here, name)
                if left_out(name):
                    continue
                if (link or here in self._seen) and self._is_read(target):
                    self.skipped.append(path)
                    continue
                if link or here in self._seen:
                    self._seen.add(target)
                real[path] = target
                kept.append(name)
            folders[:] = kept
            yield Path(place), names

    def _is_read(self, target: str) -> bool:
        return target in self._seen or any(holds(root, target) or holds(target, root) for root in self.roots)


def holds(folder: str, other: str) -> bool:
    """Whether a folder is the other one or one above it. folder, other: resolved paths."""
    return other == folder or other.startswith(folder.rstrip(os.sep) + os.sep)
