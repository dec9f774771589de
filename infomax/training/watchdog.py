"""The watchdog of a training: ends it on a signal after saving, and at once where a process hangs or is lost."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
import torch.distributed as dist

from infomax.errors import signal_name
from infomax.launch import launcher

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Watch"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FIRST_STEP = 600.0  # seconds that the first step may take: libraries tune and compile in it
PATIENCE = 3.0  # a step may take so many times the longest so far
ONE_REQUEST = 1.0  # seconds within which a launcher passes a signal on: not a second one
GRACE = 20.0  # seconds from a signal to the end, where a launcher kills after 30
_TICK = 0.25
_LOOK = 1.0  # seconds from one look at the other processes of this machine to the next
_GAP = 5.0  # a thread that did not run for so long was stopped, and all else with it
_SILENT = 10.0  # seconds in which a store that is alive answers
_WAITING = ("/torch/distributed/", "/torch/nn/parallel/", "/torch/autograd/")  # where one waits for the others
_counts = 0  # of Watches so far, the same in all processes: each has its own keys


@final
class Watch:
    """Watches over a run, from its first moment: `with Watch(accelerator) as watch`. Called by all processes.

    In it, around the training loop, `with watch.training()`, and `watch.step(number)` after every step, which returns
    the signal, SIGTERM or SIGINT, that any process was sent, and 0 otherwise, the same on all processes: save and leave
    the loop then. A second signal, and one before or after the training, ends this process at once, with status 128 +
    signal. A process that a launcher started ends within 20 s of the launcher's death.
    With several processes, one that raises ends the others, and so does one of this machine that dies, and in training
    one that is late: none has got through a step for `timeout` seconds and 3 times the longest step so far (for the
    first, 10 minutes). What the processes are found doing is printed, and their status is 1.
    Threads do this, since the main one may be waiting for a process that is gone. All processes leave it together.
    """

    def __init__(self, accelerator: "Accelerator", timeout: float = 20.0):
        global _counts
        _counts += 1
        self.signal, self.timeout = 0, timeout
        self._rank, self._world, self._device = accelerator.process_index, accelerator.num_processes, accelerator.device
        self._store = None
        self._homes = [(_machine(), os.getpid())]
        if self._world > 1:
            store = dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore(f"infomax/watch/{_counts}", store)  # pyright: ignore[reportPrivateImportUsage]
            homes: list[Any] = [None] * self._world
            dist.all_gather_object(homes, self._homes[0])
            self._homes = homes
        self._parent = os.getppid() if launcher() is not None else None
        self._orphan, self._over, self._told = False, False, False
        self._asked = 0.0  # when the first signal came
        self._orphaned = 0.0  # when the launcher was found dead: what the kernel then sends is no second signal
        self._training = False
        self._beat: float | None = None  # when the last step was done; None while nothing is late
        self._limit, self._longest, self._number = max(FIRST_STEP, timeout), 0.0, 0
        self._answered = time.monotonic()  # when the store last did
        self._main = threading.main_thread().ident
        self._pipe: tuple[int, int] = (-1, -1)
        self._handlers: dict[signal.Signals, object] = {}
        self._wakeup: int | None = None  # what was told of signals before
        self._noted, self._heeded = 0, False
        self._threads = [threading.Thread(target=self._run, name="infomax-watch", daemon=True)]
        if self._store is not None:  # whose calls wait as long as its process is stopped
            self._threads.append(threading.Thread(target=self._look_at_the_others, name="infomax-others", daemon=True))

    def __enter__(self) -> "Watch":
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        if threading.current_thread() is threading.main_thread():
            # The interpreter writes the signal's number here at once, while a handler of Python's waits for main.
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` leave it
                    self._handlers[number] = signal.signal(number, self._note)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._beat = None
        if error is None and self._world > 1:
            try:
                dist.barrier()  # one that ends sooner would be missed by those that still watch
            except RuntimeError as lost:
                error = lost
                raise
            finally:
                self._end(error)
        else:
            self._end(error)

    def _note(self, number: int, _: object) -> None:
        self._noted = number

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While in here the first signal is a request, which step() returns, and a step may be late."""
        self._training, self._beat = True, time.monotonic()
        try:
            yield
        finally:
            self._training, self._beat = False, None
        if self._noted and not self._heeded:  # it came after the last step
            self._leave_untrained(self._noted)

    def step(self, number: int) -> int:
        """Say that step `number` is done; returns the signal that asks all processes to stop, or 0."""
        now = time.monotonic()
        elapsed = 0.0 if self._beat is None else now - self._beat
        if self._number:  # the first step, in which things are compiled, counts for the second alone
            self._longest = max(self._longest, elapsed)
        self._limit = max(self.timeout, PATIENCE * (self._longest or elapsed))
        self._number, self._beat = number, now
        asked = self.signal
        if self._world > 1:
            seen = torch.tensor([asked], device=self._device)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            asked = int(seen)
        self._heeded = self._heeded or asked > 0
        return asked

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While in here nothing is late: for saving, which may wait for a disk."""
        self._beat = None
        yield
        self._beat = time.monotonic()

    def _end(self, error: BaseException | None) -> None:
        if error is not None and self._store is not None:
            self._tell_or_fail(error)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._over = True
        for thread in self._threads:
            thread.join(10 * _TICK)
        if not self._threads[0].is_alive():
            for end in self._pipe:
                os.close(end)

    def _tell_or_fail(self, error: BaseException) -> None:
        # What is raised here may be of a collective that another process has left: then it is the other that is told.
        of_another = isinstance(error, RuntimeError)
        # A dying process closes its connections before it counts as dead; one that raises tells so before it closes.
        deadline = time.monotonic() + (2 if of_another else 0)
        while True:
            told, gone = self._asked_the_store(self._failure), self._gone()
            if told or gone or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if told:
            if of_another:
                self._tell(told)
            return
        told = f"Process {min(gone)} is gone" if gone else f"Process {self._rank} ended"
        told += f" {self._when()}: {type(error).__name__}: {' '.join(str(error).split())}"
        if gone:
            self._tell(told)
        self._asked_the_store(lambda store: store.set("failed", told))

    def _asked_the_store(self, what: Callable[[Any], Any]) -> Any:
        """What the store says, or None where it is gone or says nothing in time."""
        answer: list[Any] = [None]

        def ask() -> None:
            with contextlib.suppress(Exception):  # of a store that is gone
                answer[0] = what(self._store)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(3)
        return answer[0]

    # ------------------------------------------------------------------------------------------------------ the threads

    def _run(self) -> None:
        before = time.monotonic()
        poll = select.poll()  # select.select takes no descriptor above 1023
        poll.register(self._pipe[0], select.POLLIN)
        while not self._over:
            ready = poll.poll(1000 * _TICK)
            now = time.monotonic()
            if now - before > _GAP:  # Ctrl-Z and fg, a laptop's lid
                self._answered = now
                if self._beat is not None:
                    self._beat = now
            before = now
            for number in os.read(self._pipe[0], 64) if ready else b"":
                self._signalled(number, now)
            self._look_at_the_deadline(now)
            if self._store is not None and self._late() and now - self._answered > _SILENT:
                self._give_up(self._lost_store())

    def _signalled(self, number: int, now: float) -> None:
        if number not in SIGNALS:
            return
        by_launcher = not self._orphan and self._has_lost_its_launcher()
        if by_launcher:
            self._orphan, self._orphaned = True, now
        if not self.signal:
            self.signal, self._asked = number, now
        elif now - max(self._asked, self._orphaned) > ONE_REQUEST and not by_launcher:
            self._leave(128 + number, f"{signal_name(number)} came a second time: ended without saving.")

    def _look_at_the_deadline(self, now: float) -> None:
        if not self._orphan and self._has_lost_its_launcher():
            self._signalled(signal.SIGTERM, now)  # where the kernel sends none
        if self.signal and not (self._training or self._heeded or self._over):
            self._leave_untrained(self.signal)
        if self.signal and (self._orphan or self._world > 1):
            allowed = GRACE if self._orphan else max(GRACE, self._limit)
            saving = self._heeded or self._beat is None  # which may wait for a disk: only a dead launcher hurries it
            if now - self._asked > allowed and (self._orphan or not saving):
                self._leave(
                    128 + self.signal, f"Ended without saving: no step was done in {allowed:.0f} s of a signal."
                )

    def _look_at_the_others(self) -> None:
        missing: set[int] = set()
        looked = time.monotonic()
        while not self._over:
            time.sleep(_TICK)
            own = True
            try:
                told = self._failure(self._store)
                own = told is None
                if told is None and self._late():
                    told = self._who_is_late()
                if told is None and time.monotonic() - looked > _LOOK:
                    before, missing, looked = missing, self._gone(), time.monotonic()
                    if twice := before & missing:  # not of one that has just left with us
                        told = f"Process {min(twice)} is gone {self._when()}."
                        self._fail(told)
                self._answered = time.monotonic()
            except Exception:  # of the store: each backend has its own kind
                deadline = time.monotonic() + 1
                while time.monotonic() < deadline:  # a dying launcher closes its connections before it counts as dead
                    if self._has_lost_its_launcher():
                        self._store = None  # torchrun held it: all that it started are stopping
                        return
                    time.sleep(0.05)
                told = self._lost_store()
            if told is not None:
                self._give_up(told, quietly=not own)

    def _failure(self, store: Any) -> str | None:
        return store.get("failed").decode() if store.check(["failed"]) else None

    def _fail(self, told: str) -> None:
        assert self._store is not None
        self._store.set("failed", told)

    def _give_up(self, told: str, quietly: bool = False) -> None:
        """Ends this process. One that has met the same, or has a sentence of its own, is about to end by itself."""
        if not quietly:
            self._tell(told)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not self._over:
            time.sleep(_TICK)
        if not self._over:
            self._tell(told)
            os._exit(1)  # the main thread may be in a collective that never returns

    def _late(self) -> bool:
        beat = self._beat
        return beat is not None and time.monotonic() - beat > self._limit

    def _who_is_late(self) -> str | None:
        """What every process is doing, told to all; one of this machine that cannot say is killed."""
        assert self._store is not None
        self._store.set(f"place/{self._rank}", _place(self._main))
        time.sleep(2)  # the others' clocks started when they passed the last step, as ours did
        if not self._late():
            return None
        places, silent = {}, []
        for rank in range(self._world):
            if self._store.check([f"place/{rank}"]):
                places[rank] = self._store.get(f"place/{rank}").decode()
            else:
                silent.append(rank)
        late = [f"process {r} is in {p}" for r, p in places.items() if not p.startswith("waits")]
        late += [f"process {r} gives no sign of life" for r in silent]
        late = late or [f"process {r} {p}" for r, p in places.items()]
        told = f"No step for {self._limit:.0f} s {self._when()}: {', '.join(late)}."
        try:
            self._fail(told)  # first, or another process could say that the killed one is gone, and not why
        finally:
            for rank in silent:
                self._kill(rank)
        return told

    def _lost_store(self) -> str:
        """Why the store says nothing: torchrun's own process holds it, or the first of all."""
        if gone := self._gone():
            return f"Process {min(gone)} is gone {self._when()}."
        if not self._late():
            return "The process that holds the others together, of the first machine, is gone."
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            silent = "the launcher"
        else:
            silent = "process 0"
            self._kill(0)
        return f"No step for {self._limit:.0f} s {self._when()}: {silent} gives no sign of life."

    def _gone(self) -> set[int]:
        """The processes of this machine that have ended."""
        here = _machine()
        return {rank for rank, (machine, process) in enumerate(self._homes) if machine == here and _is_gone(process)}

    def _kill(self, rank: int) -> None:
        machine, process = self._homes[rank]
        if machine == _machine() and rank != self._rank and _is_sibling(process):
            os.kill(process, signal.SIGKILL)

    def _has_lost_its_launcher(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent

    def _when(self) -> str:
        return f"after step {self._number}" if self._number else "before the first step"

    def _tell(self, told: str) -> None:
        if not self._told:
            self._told = True
            os.write(2, f"Process {self._rank} of {self._world} ends: {told}\n".encode())

    def _leave_untrained(self, number: int) -> None:
        self._leave(128 + number, f"{signal_name(number)}: ended; no step was under way, and --resume goes on.")

    def _leave(self, status: int, told: str) -> None:
        os.write(2, f"{told}\n".encode())
        os._exit(status)  # the main thread may be in a collective that never returns


def _machine() -> str:
    """What tells apart machines, and containers on one, whose processes have numbers of their own."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        words += [os.readlink("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    return " ".join(words)


def _place(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)
    if frame is None:
        return "nowhere"
    path = frame.f_code.co_filename
    waits = any(part in path for part in _WAITING)
    return f"{'waits in ' if waits else ''}{Path(path).name}:{frame.f_lineno} {frame.f_code.co_name}"


def _is_gone(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _is_sibling(process: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(process).ppid() == os.getppid()
    return False
