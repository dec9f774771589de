"""What docs/faults.md promises, shown on the real recipes: killed, damaged, starved, and compared bitwise.

`pytest -m faults` is the short form; `pytest -m faults --kills 500` the long one, for a machine to itself.
"""

import contextlib
import json
import os
import random
import re
import shlex
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

SLOWLY = """
import time
from infomax.data import PairLoader
make = PairLoader.at
PairLoader.at = lambda self, *arguments: (time.sleep(0.3), make(self, *arguments))[1]
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


def test_a_kill_while_a_finished_run_is_evaluated(nursery, images, place, expected):
    """The probe and the estimate of the run that goes on are those of the one that was not killed."""
    draw = random.Random(2)
    for _ in range(3):
        child = nursery.start(place, *arguments(images), "--resume")
        wait_for(child, lambda: saved_step(place / "run") == STEPS)
        time.sleep(draw.uniform(0, 0.4))
        child.kill()
        assert child.wait().status == -signal.SIGKILL
    assert json.loads((place / "run/run.json").read_text())["results"] is None
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    must_equal(place / "run", expected)


TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]


class Launched:
    """A recipe under a real launcher: every process is started anew."""

    def __init__(self, launcher: list[str], place: Path, *arguments: object, code: str = ""):
        script = [str(FAULTY), BRIEFLY + code, str(RECIPES / "simclr_smile.py")]
        self.place, self.out = place, place / f"launched-{time.monotonic_ns()}"
        with self.out.open("w") as out:
            self.launcher = subprocess.Popen(
                [*launcher, *script, *map(str, arguments)], cwd=place, stdout=out, stderr=out, start_new_session=True
            )

    def text(self) -> str:
        return self.out.read_text(errors="replace")

    def until(self, what: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline and self.launcher.poll() is None, self.text()
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """In the order of their ranks."""
        found = psutil.Process(self.launcher.pid).children()
        return sorted(found, key=lambda process: int(process.environ().get("RANK", "0")))

    def ended(self, seconds: float = PROMPT) -> int:
        """The launcher's status. All that it started must be gone in time."""
        group = [p for p in psutil.process_iter() if _is_at(p, self.place)]
        deadline = time.monotonic() + seconds
        try:
            status = self.launcher.wait(seconds)
            while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in group):
                assert time.monotonic() < deadline, self.text()
                time.sleep(0.05)
        finally:
            for process in group:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        return status


def _is_at(process: psutil.Process, place: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cwd() == str(place)
    return False


def test_a_killed_process_ends_all_that_torchrun_started_and_is_named(images, place, whole_pair):
    launched = Launched(TORCHRUN, place, *arguments(images))
    launched.until(lambda: steps_done(place / "run") > 7)
    launched.workers()[1].kill()
    assert launched.ended() != 0
    assert "Process 1 is gone after step" in launched.text(), launched.text()
    assert re.search(r"rank +: 1 .*exitcode +: -9", launched.text(), re.DOTALL), launched.text()  # torchrun's own
    again = Launched(TORCHRUN, place, *arguments(images), "--resume")
    assert again.ended(150) == 0, again.text()
    assert "Going on from run/step-" in again.text()
    must_equal(place / "run", outcome(whole_pair))


# ------------------------------------------------------------------------------------- lost, slow and raising processes


def both_end(pair: list[Child], culprit: int = 1) -> list[str]:
    """What they said; all must be over in time, with a status that is not 0."""
    began = time.monotonic()
    ends = [child.wait(150) for child in pair]
    assert time.monotonic() - began < PROMPT, ends
    assert all(end.status != 0 for end in ends), ends
    assert ends[1 - culprit].status > 0, ends  # by itself, and not by a signal
    return [end.text for end in ends]


def test_a_slow_process_ends_all_and_is_named(nursery, images, place):
    code = "import time\nat_step(6, lambda batch: time.sleep(3600), rank=1)"
    pair = nursery.pair(place, *arguments(images), code=code)
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair)
    for text in texts:
        assert re.search(r"No step for \d+ s after step 5: process 1 is in <string>:\d+ <lambda>\.", text), texts
    assert checkpoints.read(place / "run").step == 3


def test_a_process_that_is_stopped_is_killed(nursery, images, place):
    code = "at_step(6, lambda batch: os.kill(os.getpid(), signal.SIGSTOP), rank=1)"
    pair = nursery.pair(place, *arguments(images), code=code)
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair)
    assert "process 1 gives no sign of life" in texts[0], texts


def test_a_raising_process_ends_all_and_is_named(nursery, images, place):
    pair = nursery.pair(place, *arguments(images), code="at_step(6, lambda batch: 1 / 0, rank=1)")
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair)
    assert "ZeroDivisionError" in texts[1]
    assert "Process 1 ended after step 5: ZeroDivisionError" in texts[0], texts


ON_DISK = "from infomax.data import datasets\ndatasets.MEMORY_BUDGET = 0\n"  # decode as the images are needed


def test_an_image_that_goes_bad_ends_all_and_is_named(nursery, images, place):
    """The thread that decodes is what reads it."""
    shutil.copytree(images, place / "images")
    broken = """
def breaks(batch):
    for path in Path("images").rglob("*.png"):
        path.write_bytes(b"")
    return batch
"""
    data = ["--dataset", "folder:images"]
    ended = nursery.run(place, *arguments(images), *data, code=ON_DISK + broken + "at_step(5, breaks)")
    assert ended.status == 2, ended.text
    assert re.search(r"The image images/\d/\d+\.png is empty \(0 bytes\)", ended.text.splitlines()[-1]), ended.text
    assert checkpoints.read(place / "run").step in (3, 6)  # the next batch had been decoded, or not

    shutil.rmtree(place / "images")
    shutil.copytree(images, place / "images")
    code = ON_DISK + broken + "at_step(8, breaks, rank=1)"
    pair = nursery.pair(place, *arguments(images), *data, "--resume", code=code)
    texts = both_end(pair)
    assert any("is empty (0 bytes)" in text for text in texts), texts


def test_a_dead_launcher_leaves_nobody_and_what_was_done_is_saved(images, place):
    launched = Launched(TORCHRUN, place, *arguments(images), "--save-every", 1000, code=SLOWLY)
    launched.until(lambda: steps_done(place / "run") > 2)
    launched.launcher.send_signal(signal.SIGKILL)
    launched.ended()
    done = saved_step(place / "run")
    assert 3 <= done == steps_done(place / "run") < STEPS, launched.text()
    assert f"SIGTERM: saved after step {done}" in launched.text()


def test_without_a_launcher_a_run_outlives_its_shell(images, place):
    words = [sys.executable, FAULTY, BRIEFLY, RECIPES / "simclr_smile.py", *arguments(images)]
    subprocess.run(["sh", "-c", f"nohup {shlex.join(map(str, words))} >out 2>&1 &"], cwd=place, check=True, timeout=60)
    deadline = time.monotonic() + 150
    while not (place / "run/run.json").exists() or json.loads((place / "run/run.json").read_text())["results"] is None:
        assert time.monotonic() < deadline, (place / "out").read_text()
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_status(nursery, images, place, expected, number, status):
    child = nursery.start(place, *arguments(images), "--save-every", 1000)
    wait_for(child, lambda: steps_done(place / "run") > 4)
    child.kill(number)
    end = child.wait(PROMPT)
    assert end.status == status, end.text
    step = checkpoints.read(place / "run").step
    assert 4 < step < STEPS
    assert end.text.splitlines()[-1] == (f"{number.name}: saved after step {step}; go on with --resume --run-dir run.")
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    must_equal(place / "run", expected)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(nursery, images, place, whole_pair, asked):
    pair = nursery.pair(place, *arguments(images))
    wait_for(pair[0], lambda: steps_done(place / "run") > 4)
    pair[asked].kill(signal.SIGTERM)
    ends = [child.wait(PROMPT) for child in pair]
    assert [end.status for end in ends] == [143, 143], ends
    assert "".join(end.text for end in ends).count("SIGTERM: saved after step") == 1
    assert 4 < checkpoints.read(place / "run").step == steps_done(place / "run") < STEPS
    assert [child.wait().status for child in nursery.pair(place, *arguments(images), "--resume")] == [0, 0]
    must_equal(place / "run", outcome(whole_pair))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_signal_ends_at_once(nursery, images, place, processes):
    code = "import time\nat_step(6, lambda batch: time.sleep(3600))"
    if processes == 1:
        children = [nursery.start(place, *arguments(images), code=code)]
    else:
        children = nursery.pair(place, *arguments(images), code=code)
    wait_for(children[0], lambda: steps_done(place / "run") == 5)
    for wait in (1.5, 0):
        time.sleep(0.3)
        for child in children:
            child.kill(signal.SIGTERM)
        time.sleep(wait)
    began = time.monotonic()
    ends = [child.wait(PROMPT) for child in children]
    assert time.monotonic() - began < 5
    assert [end.status for end in ends] == [143] * processes, ends
    assert "came a second time: ended without saving" in ends[0].text
    assert checkpoints.read(place / "run").step == 3


def test_ctrl_c_on_accelerate_launch_saves(images, place):
    """The launcher gets it too, and dies at once: the recipe must not go with it before it has saved."""
    launched = Launched(
        [str(BIN / "accelerate"), "launch"], place, *arguments(images), "--save-every", 1000, code=SLOWLY
    )
    launched.until(lambda: steps_done(place / "run") > 2)
    os.killpg(launched.launcher.pid, signal.SIGINT)
    assert launched.ended() != 0
    assert re.search(r"SIGINT: saved after step \d+; go on with --resume", launched.text()), launched.text()
    assert 3 <= checkpoints.read(place / "run").step == steps_done(place / "run") < STEPS
