"""Leaves image files out that cannot be read, where that is asked for."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from infomax.data.listing import Found
from infomax.data.packed import File
from infomax.data.pixels import Unreadable, require_readable
from infomax.errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def readable(name: str, found: Found) -> tuple[Found, tuple[str, ...]]:
    """What is found without the files that cannot be read, each decoded once to see; and these, as paths from the
    folder that holds all. Each of the others keeps its part, training or test.

    name: of the data set, in messages. Raises UserError: a part, or a class's training part, of which none is left.
    """

    def reads(file: File) -> bool:
        try:
            require_readable(file)
        except Unreadable:
            return False
        return True

    whole = np.array(in_threads(reads, found.files))
    bad = np.flatnonzero(~whole).tolist()
    if not bad:
        return found, ()
    root = os.path.commonpath([file.parent for file in found.files])
    names = tuple(Path(os.path.relpath(str(found.files[i]), root)).as_posix() for i in bad)
    first = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    told = f"{len(bad)} of {len(whole)} images are left out, as they cannot be read: {first}"
    of = np.zeros(len(whole), np.int64) if found.labels is None else found.labels.numpy()
    for what, part in (("training", ~found.held), ("test", found.held)):
        if not (part & whole).any():
            raise UserError(f"Too few images of {name!r} are left, no {what} image: {told}.")
    lost = sorted(set(of[~found.held].tolist()) - set(of[~found.held & whole].tolist()))
    if lost:
        lost_classes = ", ".join(found.classes[label] for label in lost)
        raise UserError(f"Too few images of {name!r} are left, no training image of {lost_classes}: {told}.")
    kept = np.flatnonzero(whole).tolist()
    places = torch.tensor(kept)
    return found._replace(
        files=[found.files[i] for i in kept],
        labels=None if found.labels is None else found.labels[places],
        held=found.held[kept],
        notes=[*found.notes, f"{told}."],
        shards=None if found.shards is None else found.shards[places],
        targets=tuple(target.of(places) for target in found.targets),
    ), names


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """work of each of the items, in their order, a few at once in threads."""
    threads = min(8, os.cpu_count() or 1)
    # A thread is handed so many at a time: to hand one over takes as long as to look at a file's size.
    size = max(1, min(64, len(items) // (8 * threads)))
    ended = False  # by an error or Ctrl-C: who has been handed some items stops at the next

    def done(place: int) -> list[_Result]:
        return [work(item) for item in items[place : place + size] if not ended]

    with ThreadPoolExecutor(threads, thread_name_prefix="infomax-images") as pool:
        try:
            return [result for part in pool.map(done, range(0, len(items), size)) for result in part]
        finally:
            ended = True
