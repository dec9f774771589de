"""Starts the real recipes with faults in them. No test: what test_faults.py runs.

    python tests/faulty.py CODE recipe.py ARGUMENTS     one process: CODE is executed, then the recipe as __main__
    python tests/faulty.py                              a nursery: forks such processes, without the seconds of imports

CODE runs in this module, so it can say kill_at("before rename", nth=2). Nothing in infomax knows of it: the moments are
seen by an audit hook, which the interpreter calls before it renames, removes, opens or makes anything.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTS = {
    # name: (audit event, what its arguments must be)
    "before the manifest": ("open", lambda path, mode, _: path.endswith("MANIFEST.json") and mode == "w"),
    "before rename": ("os.rename", lambda old, new, *_: "/.tmp-step-" in old and "/.tmp" not in new),
    "before pruning": ("os.rename", lambda old, new, *_: "/.tmp-old-" in new),
    "while pruning": ("os.remove", lambda path, _: "/" not in path),  # rmtree removes by name, within a folder
    "at the end of pruning": ("os.rmdir", lambda path, _: "/.tmp-old-" in path or path.startswith(".tmp-old-")),
    "before run.json": ("os.rename", lambda old, new, *_: new.endswith("/run.json")),
    "while state is written": ("open", lambda path, mode, _: path.endswith("state.json") and mode == "w"),
    "while the encoder is written": ("os.mkdir", lambda path, *_: path.endswith("/encoder")),
}
RESULTS = {"before results": ("os.rename", lambda old, new, *_: new.endswith("found.json"))}
AFTER = {"after the model": "model.safetensors", "after the optimizer": "optimizer.safetensors"}
PARENT = os.getppid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: str, nth: int = 1) -> None:
    """SIGKILL this process when it comes to a point inside saving for the nth time."""
    left = nth

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    if point in AFTER:
        from infomax.checkpoints import snapshot

        save = snapshot.save_safetensors

        def saved(tensors, path) -> None:
            save(tensors, path)
            if path.name == AFTER[point] and path.parent.name != "encoder":
                passed()

        snapshot.save_safetensors = saved
        return
    if point == "after rename":  # the next thing done to the run's folder is that it is opened, to be flushed
        renamed = False

        def after(event: str, arguments: tuple) -> None:
            nonlocal renamed
            if event == "open" and renamed:
                renamed = False
                passed()
            renamed = renamed or (event == "os.rename" and POINTS["before rename"][1](*map(str, arguments)))

        sys.addaudithook(after)
        return
    awaited, fits = (POINTS | RESULTS)[point]

    def hook(event: str, arguments: tuple) -> None:
        if event == awaited and fits(*map(str, arguments)):
            passed()

    sys.addaudithook(hook)


def at_step(number: int, action: Callable[[Any], Any], rank: int | None = None) -> None:
    """When the batch of step `number`, from 1, is asked for, in one process or all: action(batch) stands in for it."""
    from infomax.data import PairLoader

    make = PairLoader.at

    def at(self, step, *arguments):
        batch = make(self, step, *arguments)
        return action(batch) if step + 1 == number and rank in (None, int(os.environ.get("RANK", "0"))) else batch

    PairLoader.at = at


def kill_in(module: str, name: str, nth: int = 1) -> None:
    """SIGKILL this process when it calls a module's function for the nth time."""
    found, left = importlib.import_module(module), nth
    call = getattr(found, name)

    def called(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            die()
        return call(*arguments, **options)

    setattr(found, name, called)


def there() -> None:
    """Say, by a file, that this process is at the point that a test waits for."""
    Path(f"there-{os.environ.get('RANK', '0')}").touch()


def until(name: str) -> None:
    """Returns when there is such a file."""
    while not Path(name).exists():
        time.sleep(0.01)


def hold(batch: Any = None) -> Any:
    """Say so, and stay at this point until a file lets go: however fast or slow the machine, nothing comes too late."""
    there()
    until("go")
    return batch


def together() -> None:
    """Returns when both processes of a pair are here."""
    Path(f"here-{os.environ['RANK']}").touch()
    for rank in (0, 1):
        until(f"here-{rank}")


def until_orphaned(batch: Any) -> Any:
    """Say that this process is here, and stay until the one that started it is gone."""
    there()
    while os.getppid() == PARENT:
        time.sleep(0.01)
    return batch


def saved(step: int) -> None:
    """Returns when the checkpoint of `step`, which a thread is writing, has its name."""
    until(f"run/step-{step:08d}")


def not_a_number(batch: Any) -> Any:
    return batch._replace(view1=batch.view1 * float("nan"))


def offline() -> None:
    """End this process with status 77 when it would reach beyond this machine."""

    def hook(event: str, arguments: tuple) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            outside = str(arguments[0]) not in ("localhost", "127.0.0.1", "::1", "None")
        elif event == "socket.connect":
            outside = isinstance(arguments[1], tuple) and not str(arguments[1][0]).startswith(("127.", "::1"))
        else:
            return
        if outside:
            os.write(2, f"reached out: {event} {arguments[1:]}\n".encode())
            os._exit(77)

    sys.addaudithook(hook)


def start(code: str, script: str, arguments: list[str]) -> None:
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    exec(code, globals())
    if script == "infomax":
        from infomax.cli import main

        main()
    else:
        runpy.run_path(script, run_name="__main__")


def nursery() -> None:
    """Reads requests, a line of JSON each: {"code", "script", "arguments", "cwd", "env", "out"} is answered with the
    child's number, {"wait": number} with how it ended, as subprocess has it; {"import": names} with how many."""
    for line in sys.stdin:
        request = json.loads(line)
        if "import" in request:
            for name in request["import"]:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            answer = len(sys.modules)
        elif "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                # From here on it is the recipe's own process.
                os.setsid()
                out = os.open(request["out"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
                for stream in (1, 2):
                    os.dup2(out, stream)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.chdir(request["cwd"])
                os.environ |= request["env"]
                _run_and_end(request["code"], request["script"], request["arguments"])
        print(answer, flush=True)


def _run_and_end(code: str, script: str, arguments: list[str]) -> None:
    """Ends as an interpreter does, but for taking all modules apart, which takes seconds after a fork."""
    status = 0
    try:
        start(code, script, arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that save
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        import torch

        import infomax.training.watchdog  # noqa: F401

        torch.set_num_threads(1)
        nursery()
    else:
        start(sys.argv[1], sys.argv[2], sys.argv[3:])
