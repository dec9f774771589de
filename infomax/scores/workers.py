"""Workers of one thread each, which take tiles in turn: no operation on a tile waits for every thread of the machine.

An operation that is split over all threads ends when the slowest has its share done. A walk makes hundreds of them, and
on a machine with other work each waits for a thread that has no processor. A tile in the hands of one thread waits for
nobody, and its numbers do not depend on how many threads there are.
"""

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """So many workers, of which this thread is one while at_work()."""

    def __init__(self, count: int = 1):
        self.count = count

    @classmethod
    def of(cls, device: torch.device, products: bool) -> "Workers":
        """As many as torch has threads, where scores are inner `products` on a CPU; else one.

        Another critic has one autograd graph at a time, and a GPU has threads of its own.
        """
        return cls(torch.get_num_threads() if products and device.type == "cpu" else 1)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it torch splits no operation of this thread."""
        if self.count == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self.count)

    def in_turn(self, work: Callable[[Item, int], Result], items: Sequence[Item]) -> list[Result]:
        """work(item, worker) of each item, by whichever worker is free; in the items' order.

        worker: its number, from 0, for memory of its own. The first exception ends it, once all workers have stopped.
        """
        helpers = min(self.count, len(items)) - 1
        if helpers < 1:
            return [work(item, 0) for item in items]
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        places, lock = iter(range(len(items))), threading.Lock()

        def lane(worker: int) -> None:
            while not failures:
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                try:
                    results[place] = work(items[place], worker)
                except BaseException as error:
                    failures.append(error)

        done = _pool(self.count - 1).start(lane, helpers)
        lane(0)
        for _ in range(helpers):
            done.get()
        if failures:
            raise failures[0]
        return results


Done = queue.SimpleQueue[None]


class _Pool:
    """Threads that end with the process, for each of which torch has one thread."""

    def __init__(self, size: int):
        self.jobs: queue.SimpleQueue[tuple[Callable[[int], None], int, Done]] = queue.SimpleQueue()
        ready: Done = queue.SimpleQueue()
        for number in range(size):
            threading.Thread(target=self._serve, args=(ready,), name=f"infomax-tiles-{number}", daemon=True).start()
        for _ in range(size):
            ready.get()

    def start(self, lane: Callable[[int], None], count: int) -> Done:
        """lane(1) ... lane(count); what it gives has an entry for each that has ended."""
        done: Done = queue.SimpleQueue()
        for worker in range(1, count + 1):
            self.jobs.put((lane, worker, done))
        return done

    def _serve(self, ready: Done) -> None:
        torch.get_num_threads()  # what is set before this first question is forgotten at it
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        ready.put(None)
        while True:
            lane, worker, done = self.jobs.get()
            lane(worker)
            done.put(None)


@functools.cache
def _pool(size: int) -> _Pool:
    return _Pool(size)  # made within at_work(), whose end says again what threads that start later begin with


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads
