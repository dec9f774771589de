"""Workers of one thread each, which take tiles in turn: no operation on a tile waits for every thread of the machine.

An operation that is split over all threads ends when the slowest has its share done. A walk makes hundreds of them, and
on a machine with other work each waits for a thread that has no processor. A tile in the hands of one thread waits for
nobody, and its numbers do not depend on how many threads there are. What follows one thread alone, as torch's modes and
profilers do, sees the tiles that this thread takes.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """So many workers, of which the thread that has them is one; at_work() makes them."""

    def __init__(self, count: int = 1):
        self.count = count

    def in_turn(self, work: Callable[[Item, int], Result], items: Sequence[Item]) -> list[Result]:
        """work(item, worker) of each item, by whichever worker is free. Results are in the items' order.

        worker: its number, from 0, for memory of its own. The first exception ends it, once all workers have stopped.
        """
        helpers = min(self.count, len(items)) - 1
        if helpers < 1:
            return [work(item, 0) for item in items]
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        places, lock = iter(range(len(items))), threading.Lock()

        def lane(worker: int) -> None:
            try:
                while not failures:
                    with lock:
                        place = next(places, None)
                    if place is None:
                        return
                    results[place] = work(items[place], worker)
            except BaseException as error:
                failures.append(error)

        ended = _pool.start(lane, helpers)
        lane(0)
        while not all(event.is_set() for event in ended):
            try:
                for event in ended:
                    event.wait()
            except BaseException as error:  # Ctrl-C, which ends a walk when nobody writes into its memory any more
                failures.append(error)
        if failures:
            raise next((error for error in failures if not isinstance(error, Exception)), failures[0])
        return results


@contextlib.contextmanager
def at_work(divided: bool) -> Iterator[Workers]:
    """Workers, as many as torch has threads here where work is to be `divided`; within it no operation is split.

    One, and everything as it is, where work is not divided or torch has one thread.
    """
    threads = torch.get_num_threads()
    if not divided or threads == 1:
        yield Workers()
        return
    found = Workers(1 + _pool.grown(threads - 1))
    torch.set_num_threads(1)
    try:
        _pool.keep(threads)
        yield found
    finally:
        torch.set_num_threads(threads)


class _Pool:
    """Threads that end with the process, for each of which torch has one thread."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[tuple[Callable[[int], None], int, threading.Event]] = queue.SimpleQueue()
        self.defaults: queue.SimpleQueue[tuple[int, threading.Event]] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.size = -1  # without the keeper

    def grown(self, size: int) -> int:
        """Starts threads until there are so many, as far as the system lets; how many there are."""
        with self.lock, contextlib.suppress(RuntimeError):  # "can't start new thread"
            while self.size < size:
                self._begin(self._keeper if self.size < 0 else self._serve)
                self.size += 1
        return max(0, min(self.size, size))

    def start(self, lane: Callable[[int], None], count: int) -> list[threading.Event]:
        """lane(1) ... lane(count), and what is set when each has ended."""
        ended = [threading.Event() for _ in range(count)]
        for worker, event in enumerate(ended, 1):
            self.jobs.put((lane, worker, event))
        return ended

    def keep(self, threads: int) -> None:
        """Threads that start from now on have so many of torch's, whatever a thread has set for itself.

        torch has one number for both; a thread that computes nothing says the second anew.
        """
        if self.size >= 0:
            done = threading.Event()
            self.defaults.put((threads, done))
            done.wait()

    def _begin(self, target: Callable[[threading.Event], None]) -> None:
        ready = threading.Event()
        threading.Thread(target=target, args=(ready,), name="infomax-tiles", daemon=True).start()
        ready.wait()

    def _keeper(self, ready: threading.Event) -> None:
        torch.get_num_threads()  # what is set before this first question is forgotten at it
        ready.set()
        while True:
            threads, done = self.defaults.get()
            torch.set_num_threads(threads)
            done.set()

    def _serve(self, ready: threading.Event) -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        ready.set()
        while True:
            lane, worker, ended = self.jobs.get()
            lane(worker)
            ended.set()
            del lane  # and with it a walk's memory, until the next job


_pool = _Pool()


def _renew() -> None:
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_renew)  # a child has none of its parent's threads
