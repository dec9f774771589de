"""Walks through folders, and through symbolic links to folders that are not read otherwise."""

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path


class Walk:
    """Goes through the folders of a data set, and through symbolic links to folders.

    junk: names of folders, in lower case, that are passed over; directly in a root all that start with a dot are too.
    roots: the folders that are read. A link to a folder that is read where it lies, or as a class, or to one that holds
    a root, is not followed; of several links to one folder elsewhere the first in the order of paths is. A class may be
    a link to any folder that holds no root. skipped: the links that were not followed.
    """

    def __init__(self, junk: Container[str]) -> None:
        self.roots: list[str] = []
        self.skipped: list[str] = []
        self._junk = junk
        self._classes: list[str] = []  # folders that are read because a class is a link to them, resolved
        self._seen: set[str] = set()  # folders that were reached by other links, resolved

    def read(self, *roots: Path) -> None:
        """Names the folders that are read. roots: in any order; links among them are followed."""
        self.roots = [os.path.realpath(root) for root in roots]
        links = [path for root in self.roots for path in _links(root) if self._reads([os.path.basename(path)])]
        targets = [os.path.realpath(path) for path in links]
        self._classes = [target for target in targets if not any(holds(target, root) for root in self.roots)]

    def below(self, folder: Path) -> Iterator[tuple[Path, list[str]]]:
        """The folder and those below it, each with the names of its files.

        folder: in one of the roots; it may be a link, unless to a folder that holds a root.
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
                if name.lower() in self._junk:
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
        if target in self._seen or any(holds(folder, target) for folder in self._classes):
            return True
        return any(
            holds(target, root) or (holds(root, target) and self._reads(os.path.relpath(target, root).split(os.sep)))
            for root in self.roots
        )

    def _reads(self, names: Sequence[str]) -> bool:
        # Whether the folder of these names below a root is read where it lies: a store `.store` is by links alone.
        return not names[0].startswith(".") and not any(name.lower() in self._junk for name in names)


def _links(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_symlink() and os.path.isdir(entry.path)]


def holds(folder: str, other: str) -> bool:
    """Whether a folder is the other one or one above it. folder, other: resolved paths."""
    return other == folder or other.startswith(folder.rstrip(os.sep) + os.sep)
