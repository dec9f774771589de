"""What docs/faults.md promises, shown on the real recipes: killed, damaged, starved, and compared bitwise.

`pytest -m faults` is the short form; `pytest -m faults --kills 500` the long one, for a machine to itself.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faulty
import psutil
import pytest
import torch
from conftest import RECIPES

from infomax import checkpoints

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="signals and limits are Linux's")]

FAULTY = Path(__file__).with_name("faulty.py")
BIN = Path(sys.executable).parent
STEPS, EVERY = 24, 3  # of 4 steps an epoch, so that most checkpoints lie inside one
PROMPT = 30  # seconds within which all ends

# All that resuming could lose: BatchNorm's statistics, dropout and stochastic depth, an objective's own average.
OWN = """
from timm.models import register_model
from timm.models.resnet import BasicBlock
import infomax as im
from infomax.encoders import SmallResNet, _small

@register_model
def faults_tiny(pretrained=False, **arguments):
    widths = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8), "stem_width": 4, "stem_stride": 2}
    return _small("resnet10_tiny", pretrained, {"block": BasicBlock, **widths, "drop_rate": 0.2, "drop_path_rate": 0.2},
                  arguments)

class Mine(im.MINE):
    pass
"""


# The critic that estimates I(Z1; Z2) at the end of a run is fitted for a few steps.
BRIEFLY = """
import functools
from infomax.estimation import estimator
estimator.Budget = functools.partial(estimator.Budget, steps=10)
"""


@dataclass(frozen=True)
class Ended:
    status: int  # as subprocess has it: -9 for one that SIGKILL ended
    text: str  # standard output and standard error
    seconds: float


class Child:
    def __init__(self, nursery: "Nursery", process: int, out: Path):
        self.nursery, self.process, self.out, self.began = nursery, process, out, time.monotonic()

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.process, number)

    def wait(self, timeout: float = 120) -> Ended:
        late = threading.Timer(timeout, self.kill)
        late.start()
        status = self.nursery.ask({"wait": self.process})
        alive = late.is_alive()
        late.cancel()
        text = self.out.read_text(errors="replace")
        assert alive, f"still there after {timeout} s: {text}"
        return Ended(status, text, time.monotonic() - self.began)


class Nursery:
    """Starts recipes as processes of their own, forked from one that has imported what they import."""

    def __init__(self, place: Path):
        self.place, self.count = place, 0
        self.process = subprocess.Popen(
            [sys.executable, str(FAULTY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place
        )

    def ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, folder: Path, *arguments: object, code: str = "", script: str = "", **env: str) -> Child:
        self.count += 1
        out = self.place / f"out-{self.count}"
        out.touch(0o666)
        request = {
            "code": BRIEFLY + code, "script": script or str(RECIPES / "simclr_smile.py"),
            "arguments": [*map(str, arguments)], "cwd": str(folder), "env": env, "out": str(out),
        }  # fmt: skip
        return Child(self, self.ask(request), out)

    def run(self, folder: Path, *arguments: object, code: str = "", script: str = "", **env: str) -> Ended:
        return self.start(folder, *arguments, code=code, script=script, **env).wait()

    def pair(self, folder: Path, *arguments: object, code: str = "") -> list[Child]:
        """Two processes of one run, without a launcher to end one when the other ends."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [
            self.start(folder, *arguments, code=code, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in (0, 1)
        ]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Nursery]:
    place = tmp_path_factory.mktemp("nursery")
    (place / "own.py").write_text(OWN)
    nursery = Nursery(place)
    names = f"""
import atexit, json
atexit.register(lambda: open({str(place / "names")!r}, "w").write(json.dumps([*sys.modules])))
"""
    first = nursery.run(place, *arguments(images), "--steps", 2, code=names)
    assert first.status == 0, first.text
    loaded = json.loads((place / "names").read_text())
    loaded = [name for name in loaded if name.partition(".")[0] not in ("own", "simclr", "__main__")]
    nursery.ask({"import": loaded})
    yield nursery
    assert nursery.process.stdin is not None and nursery.process.stdout is not None
    nursery.process.stdin.close()
    nursery.process.stdout.close()
    nursery.process.wait()


def arguments(images: Path) -> list[object]:
    return [
        "--encoder", "faults_tiny", "--objective", "own:Mine(decay=0.9)", "--batch-size", 16, "--steps", STEPS,
        "--save-every", EVERY, "--learn-temperature", "--microbatch", 5, "--seed", 3, "--dataset", f"folder:{images}",
        "--run-dir", "run",
    ]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


# ---------------------------------------------------------------------------------------------------------- comparing


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, buffers, optimiser and torch's generators (Python's and NumPy's are seeded by nobody and not used)."""
    found = checkpoints.read(folder)
    everything = {**found.tensors("model.safetensors"), **found.tensors("optimizer.safetensors")}
    return {name: value for name, value in everything.items() if ".numpy" not in name and ".python" not in name}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, clocks aside."""
    found = checkpoints.read(folder)
    run = json.loads((folder / "run.json").read_text())
    if run["results"] and "checkpoint" in run["results"]:
        assert run["results"]["checkpoint"].pop("checksum") == found.checksum
    state = {key: value for key, value in found.state.items() if key not in ("log_bytes", "configuration")}
    for rank in state["ranks"]:
        rank["random"] = rank["random"]["torch"]
    content = json.dumps([found.step, state, run["results"], log(folder)])
    return {"content": content, **{name: value.numpy().tobytes() for name, value in tensors(folder).items()}}


def must_equal(folder: Path, expected: dict[str, Any]) -> None:
    found = outcome(folder)
    assert found.keys() == expected.keys()
    assert found["content"] == expected["content"]
    assert [name for name in expected if found[name] != expected[name]] == []
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith((".tmp", "damaged"))) == []


@pytest.fixture(scope="module")
def whole(nursery: Nursery, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run on one process."""
    place = tmp_path_factory.mktemp("whole")
    (place / "own.py").write_text(OWN)
    ended = nursery.run(place, *arguments(images))
    assert ended.status == 0, ended.text
    assert [line["number"] for line in log(place / "run")] == list(range(1, STEPS + 1))
    return place / "run"


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, Any]:
    return outcome(whole)


@pytest.fixture(scope="module")
def whole_pair(nursery: Nursery, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run on two processes."""
    place = tmp_path_factory.mktemp("whole-pair")
    (place / "own.py").write_text(OWN)
    for ended in [child.wait() for child in nursery.pair(place, *arguments(images))]:
        assert ended.status == 0, ended.text
    assert checkpoints.read(place / "run").processes == 2
    return place / "run"


# -------------------------------------------------------------------------------------------------------------- kills


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("kills")


def steps_done(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len((folder / "log.jsonl").read_bytes().splitlines())
    return 0


def saved_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def ended(child: Child) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(child.process).status() == psutil.STATUS_ZOMBIE
    return True


def wait_for(child: Child, what: Callable[[], bool], seconds: float = 60) -> None:
    """Until `what` is so, or the child has ended."""
    deadline = time.monotonic() + seconds
    while not what() and not ended(child):
        assert time.monotonic() < deadline, child.out.read_text()
        time.sleep(0.002)


def at_a_random_moment(draw: random.Random, folder: Path, child: Child) -> None:
    """Some time after the start, or some time in one of the next steps, with the saving that goes on beside them."""
    if draw.random() < 0.15:
        time.sleep(draw.uniform(0, 0.5))
        return
    before = saved_step(folder)
    if before:
        wait_for(child, lambda: "Going on from" in child.out.read_text())  # the log has been cut back
    target = before + draw.randint(1, 9)
    wait_for(child, lambda: steps_done(folder) >= target)
    time.sleep(draw.uniform(0, 0.03))


def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(nursery, images, place, expected, kills):
    draw, done, chains = random.Random(0), 0, 0
    while done < kills:
        shutil.rmtree(place / "run", ignore_errors=True)
        while True:
            child = nursery.start(place, *arguments(images), "--resume")
            at_a_random_moment(draw, place / "run", child)
            child.kill()
            end = child.wait()
            if end.status == 0:
                break  # it was done before
            assert end.status == -signal.SIGKILL, end.text
            assert "does not match" not in end.text
            done += 1
        must_equal(place / "run", expected)
        chains += 1
    assert done >= kills >= 2 * chains
    print(f"{done} kills, {chains} runs")


def test_one_of_two_processes_killed_anywhere(nursery, images, place, whole_pair, kills):
    draw, done, expected = random.Random(1), 0, outcome(whole_pair)
    while done < kills // 2:
        shutil.rmtree(place / "run", ignore_errors=True)
        while True:
            pair = nursery.pair(place, *arguments(images), "--resume")
            at_a_random_moment(draw, place / "run", pair[0])
            killed = draw.randrange(2)
            pair[killed].kill()
            at = time.monotonic()
            ends = [child.wait() for child in pair]
            if [end.status for end in ends] == [0, 0]:
                break
            assert time.monotonic() - at < PROMPT
            # One of them may have been done; the other then waits for nobody.
            assert ends[killed].status == -signal.SIGKILL or 0 in (end.status for end in ends), ends
            done += 1
        must_equal(place / "run", expected)
    print(f"{done} kills")


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("point", [*faulty.POINTS, *faulty.AFTER, "after rename"])
def test_a_kill_at_a_point_inside_saving(nursery, images, place, expected, point, nth):
    nth = min(nth, 2) if point == "before run.json" else nth  # it is written at the start and at the end
    first = nursery.run(place, *arguments(images), code=f"kill_at({point!r}, {nth})")
    assert first.status == -signal.SIGKILL, first.text
    left = [checkpoints.read(path).step for path in (place / "run").glob("step-*")]  # whole, each of them
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    assert ("Going on from" in then.text) == bool(left), then.text
    if left:
        assert f"Going on from run/step-{max(left):08d}." in then.text
    must_equal(place / "run", expected)
