"""What docs/faults.md promises, shown on the real recipes: killed, damaged, out of disk, and compared bitwise.

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
from conftest import RECIPES, wait_until_gone

from infomax import checkpoints

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and limits are Linux's"),
]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's `&` leaves it, for all that is started here
    signal.signal(signal.SIGINT, signal.default_int_handler)

FAULTY = Path(__file__).with_name("faulty.py")
BIN = Path(sys.executable).parent
STEPS, EVERY = 24, 3  # of 4 steps an epoch, so that most checkpoints lie inside one
# Seconds. No test may need a machine of a certain speed: what must not come too late is held at a known point (hold in
# faulty.py), and a limit is far above what was seen on a busy machine, and far below what it is there to tell apart.
PATIENT = 300  # for what takes a few seconds where nothing else runs
PROMPT = 120  # for what is over in 30 where nothing else runs, rather than in 10 minutes, 6 hours or never

# All that resuming could lose: BatchNorm's statistics, dropout and stochastic depth, an objective's own average.
OWN = """
from timm.models import register_model
from timm.models.resnet import BasicBlock
import infomax as im
from infomax.encoders.small_resnet import SmallResNet, _small

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
import functools, importlib
estimator = importlib.import_module("infomax.estimation.estimate")
estimator.Budget = functools.partial(estimator.Budget, steps=10)
"""

# After which a signal comes long before the last step.
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

    def wait(self, timeout: float = PATIENT) -> Ended:
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

    def pair(self, folder: Path, *arguments: object, code: str = "", script: str = "") -> list[Child]:
        """Two processes of one run, without a launcher to end one when the other ends."""
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
        return [
            self.start(folder, *arguments, code=code, script=script, RANK=str(rank), LOCAL_RANK=str(rank), **common)
            for rank in (0, 1)
        ]


def port() -> int:
    """One that is free, and below those that the system hands out by itself, which could take it meanwhile."""
    for number in PORTS:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", number))
            return number
    raise AssertionError("no port is free")


# Each is taken once; two runs of these tests side by side begin at different places.
PORTS = iter([*range(10_000 + os.getpid() % 20_000, 30_000), *range(10_000, 10_000 + os.getpid() % 20_000)])


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Nursery]:
    place = tmp_path_factory.mktemp("nursery")
    (place / "mine.py").write_text(OWN)
    nursery = Nursery(place)
    names = f"""
import atexit, json
atexit.register(lambda: open({str(place / "names")!r}, "w").write(json.dumps([*sys.modules])))
"""
    first = nursery.run(place, *arguments(images), "--steps", 2, code=names)
    assert first.status == 0, first.text
    loaded = json.loads((place / "names").read_text())
    loaded = [name for name in loaded if name.partition(".")[0] not in ("mine", "simclr", "__main__")]
    nursery.ask({"import": loaded})
    yield nursery
    assert nursery.process.stdin is not None and nursery.process.stdout is not None
    nursery.process.stdin.close()
    nursery.process.stdout.close()
    nursery.process.wait()


def arguments(images: Path) -> list[object]:
    return [
        "--encoder", "faults_tiny", "--objective", "mine:Mine(decay=0.9)", "--batch-size", 16, "--steps", STEPS,
        "--save-every", EVERY, "--learn-temperature", "--microbatch", 5, "--seed", 3, "--dataset", f"folder:{images}",
        "--run-dir", "run",
    ]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
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
    (place / "mine.py").write_text(OWN)
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
    (place / "mine.py").write_text(OWN)
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


def wait_for(child: Child, what: Callable[[], bool], seconds: float = PATIENT) -> None:
    """Until `what` is so, or the child has ended."""
    deadline = time.monotonic() + seconds
    while not what() and not ended(child):
        assert time.monotonic() < deadline, child.out.read_text()
        time.sleep(0.002)


def let_go(place: Path) -> None:
    (place / "go").touch()


# No kill can come too late.
UNENDING = "import infomax.run\ninfomax.run.evaluate = lambda *arguments, **options: hold()\n"


def at_a_random_moment(draw: random.Random, folder: Path, target: int, child: Child) -> None:
    """Some time after the start, or some time in step `target`, with the saving that goes on beside the steps."""
    if draw.random() < 0.15:
        time.sleep(draw.uniform(0, 0.5))
        return
    if saved_step(folder):
        wait_for(child, lambda: "Going on from" in child.out.read_text())  # the log has been cut back
    wait_for(child, lambda: steps_done(folder) >= target)
    time.sleep(draw.uniform(0, 0.03))


def targets(draw: random.Random, folder: Path) -> Iterator[int]:
    """In which step to kill a run next, until it has few left and is to end."""
    while (target := saved_step(folder) + draw.randint(1, 9)) <= STEPS:
        yield target


def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(nursery, images, place, expected, kills):
    draw, done, chains = random.Random(0), 0, 0
    while done < kills:
        shutil.rmtree(place / "run", ignore_errors=True)
        for target in targets(draw, place / "run"):
            child = nursery.start(place, *arguments(images), "--resume", code=UNENDING)
            at_a_random_moment(draw, place / "run", target, child)
            child.kill()
            end = child.wait()
            assert end.status == -signal.SIGKILL, end.text
            assert "does not match" not in end.text
            done += 1
        end = nursery.run(place, *arguments(images), "--resume")
        assert end.status == 0, end.text
        must_equal(place / "run", expected)
        chains += 1
    print(f"{done} kills, {chains} runs")


def test_one_of_two_processes_killed_anywhere(nursery, images, place, whole_pair, kills):
    draw, done, expected = random.Random(1), 0, outcome(whole_pair)
    code = soon_together(20) + UNENDING  # where one is killed before it has met the other
    while done < kills // 2:
        shutil.rmtree(place / "run", ignore_errors=True)
        for target in targets(draw, place / "run"):
            pair = nursery.pair(place, *arguments(images), "--resume", code=code)
            at_a_random_moment(draw, place / "run", target, pair[0])
            killed = draw.randrange(2)
            pair[killed].kill()
            at = time.monotonic()
            ends = [child.wait() for child in pair]
            assert time.monotonic() - at < PROMPT, ends
            assert ends[killed].status == -signal.SIGKILL and ends[1 - killed].status != 0, ends
            done += 1
        ends = [child.wait() for child in nursery.pair(place, *arguments(images), "--resume")]
        assert [end.status for end in ends] == [0, 0], ends
        must_equal(place / "run", expected)
    print(f"{done} kills")


def soon_together(seconds: int) -> str:
    """Processes wait for each other for so long at the start, rather than 10 minutes."""
    return f"import datetime\nfrom infomax import launch\nlaunch.START = datetime.timedelta(seconds={seconds})\n"


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


EVALUATED = """
import time
import infomax.run
found = infomax.run.evaluate
def evaluates(*arguments, **options):
    there()
    found(*arguments, **options)
    time.sleep(3600)  # the results are never written
infomax.run.evaluate = evaluates
"""


def test_a_kill_while_a_finished_run_is_evaluated(nursery, images, place, expected):
    """The probe and the estimate of the run that goes on are those of the one that was not killed."""

    def must_be_killed(child: Child) -> None:
        end = child.wait()
        assert end.status == -signal.SIGKILL, end.text
        assert saved_step(place / "run") == STEPS
        assert json.loads((place / "run/run.json").read_text())["results"] is None

    for module, function, nth in (
        ("layers", "features", 2), ("information", "estimate_splits", 1), ("evaluate", "probe_features", 2)
    ):  # fmt: skip
        code = f"kill_in('infomax.evaluation.{module}', {function!r}, {nth})"
        must_be_killed(nursery.start(place, *arguments(images), "--resume", code=code))
    draw = random.Random(2)
    for _ in range(3):
        child = nursery.start(place, *arguments(images), "--resume", code=EVALUATED)
        wait_for(child, (place / "there-0").exists)
        time.sleep(draw.uniform(0, 0.4))
        child.kill()
        must_be_killed(child)
        (place / "there-0").unlink()
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

    def until(self, what: Callable[[], bool], seconds: float = PATIENT) -> None:
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
        try:
            status = self.launcher.wait(seconds)
            for process in group:
                wait_until_gone(process, seconds)
        finally:
            for process in group:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        return status


def _is_at(process: psutil.Process, place: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cwd() == str(place)
    return False


def test_a_killed_process_ends_all_that_torchrun_started_and_is_named(nursery, images, place, whole_pair):
    launched = Launched(TORCHRUN, place, *arguments(images), "--timeout", PATIENT, code="at_step(9, hold, rank=1)")
    launched.until((place / "there-1").exists)
    launched.workers()[1].kill()
    assert launched.ended() != 0
    # Torchrun names it, and ends the other by a signal, which on a busy machine can come before that has noticed.
    assert re.search(r"rank +: 1 .*exitcode +: -9", launched.text(), re.DOTALL), launched.text()
    assert re.search(r"Process 1 is gone after step|SIGTERM: ended", launched.text()), launched.text()
    again = [child.wait() for child in nursery.pair(place, *arguments(images), "--resume")]
    assert [end.status for end in again] == [0, 0], again
    assert "Going on from run/step-" in again[0].text
    must_equal(place / "run", outcome(whole_pair))


# ------------------------------------------------------------------------------------- lost, slow and raising processes


def both_end(pair: list[Child], culprit: int = 1) -> list[str]:
    """What they said; all must be over in time, with a status that is not 0."""
    began = time.monotonic()
    ends = [child.wait() for child in pair]
    assert time.monotonic() - began < PROMPT, ends
    assert all(end.status != 0 for end in ends), ends
    assert ends[1 - culprit].status > 0, ends  # by itself, and not by a signal
    return [end.text for end in ends]


def test_a_slow_process_ends_all_and_is_named(nursery, images, place):
    code = "at_step(6, lambda batch: (saved(3), time.sleep(3600)), rank=1)"
    pair = nursery.pair(place, *arguments(images), "--timeout", 10, code=code)
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair)
    for text in texts:
        assert re.search(r"No step for \d+ s after step 5: process 1 is in <string>:\d+ <lambda>\.", text), texts
    assert checkpoints.read(place / "run").step == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_is_killed(nursery, images, place, rank):
    """The first one holds the store, which then answers nobody."""
    code = f"at_step(6, lambda batch: os.kill(os.getpid(), signal.SIGSTOP), rank={rank})"
    pair = nursery.pair(place, *arguments(images), "--timeout", 12, code=code)
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair, culprit=rank)
    assert f"after step 5: process {rank} gives no sign of life" in texts[1 - rank], texts


def test_a_process_that_never_comes_is_not_waited_for(nursery, images, place):
    dies = "if os.environ['RANK'] == '1':\n    die()\n"
    [text, _] = both_end(nursery.pair(place, *arguments(images), code=soon_together(5) + dies))
    assert text.splitlines()[-1].startswith("The 2 processes did not come together within 5 s"), text
    assert not (place / "run").exists()


# What one process does while the other waits: at the start, and at the end, where the main process evaluates.
DURING = """
import sys, time
def during(module, name, rank):
    module = sys.modules[module]
    make = getattr(module, name)
    def passes(*arguments, **options):
        there()
        return make(*arguments, **options)
    def waits(*arguments, **options):
        there()
        time.sleep(3600)
    setattr(module, name, waits if int(os.environ.get("RANK", "0")) == rank else passes)
import infomax.data, infomax.evaluation, infomax.run
import infomax as im
im.evaluate
"""


def test_an_evaluation_may_take_longer_than_coming_together(nursery, images, place, whole_pair):
    slow = "import time\nimport infomax.run\nfound = infomax.run.evaluate\n"
    slow += "infomax.run.evaluate = lambda *arguments, **options: (time.sleep(14), found(*arguments, **options))[1]\n"
    code = soon_together(10) + slow + "together()"
    ends = [child.wait() for child in nursery.pair(place, *arguments(images), code=code)]
    assert [end.status for end in ends] == [0, 0], ends
    must_equal(place / "run", outcome(whole_pair))


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize(("where", "busy"), [("'infomax.data', 'dataset'", 1), ("'infomax.run', 'evaluate'", 0)])
def test_a_process_killed_before_or_after_training_ends_the_other(nursery, images, place, where, busy, killed):
    pair = nursery.pair(place, *arguments(images), code=f"{DURING}during({where}, {busy})")
    for rank in (0, 1) if "dataset" in where else (0,):  # the first one alone evaluates
        wait_for(pair[rank], (place / f"there-{rank}").exists)
    time.sleep(0.5)
    pair[killed].kill()
    texts = both_end(pair, culprit=killed)
    step = f"after step {STEPS}" if "evaluate" in where else "before the first step"
    assert f"Process {1 - killed} of 2 ends: Process {killed} is gone {step}" in texts[1 - killed], texts


def test_a_raising_process_ends_all_and_is_named(nursery, images, place):
    pair = nursery.pair(place, *arguments(images), code="at_step(6, lambda batch: 1 / 0, rank=1)")
    wait_for(pair[0], lambda: steps_done(place / "run") == 5)
    texts = both_end(pair)
    assert "ZeroDivisionError" in texts[1]
    assert "Process 1 ended after step 5: ZeroDivisionError" in texts[0], texts


ON_DISK = "from infomax.data import folder\nfolder.MEMORY_BUDGET = 0\n"  # decode as the images are needed


def test_an_image_that_goes_bad_ends_all_and_is_named(nursery, images, place):
    """The thread that decodes is what reads it."""
    shutil.copytree(images, place / "images")
    broken = """
import shutil
def breaks(batch):
    Path("empty").touch()
    for path in Path("images").rglob("*.png"):
        os.replace(shutil.copy("empty", "copy"), path)  # at once: nobody reads a part of it
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
    words = (*arguments(images), "--save-every", 1000, "--timeout", PATIENT)
    launched = Launched(TORCHRUN, place, *words, code=SLOWLY + "at_step(4, until_orphaned)")
    launched.until(lambda: all((place / f"there-{rank}").exists() for rank in (0, 1)))
    launched.launcher.send_signal(signal.SIGKILL)
    launched.ended()
    done = saved_step(place / "run")
    assert 4 <= done == steps_done(place / "run") < STEPS, launched.text()
    assert f"SIGTERM: saved after step {done}" in launched.text()


@pytest.mark.parametrize("launched", [True, False])
def test_a_launcher_that_dies_while_its_processes_import_leaves_nobody(nursery, images, place, launched):
    orphaned = """
import time
parent = os.getpid()
if orphan := os.fork():
    Path("process").write_text(str(orphan))
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
"""
    environment = {"TORCHELASTIC_RUN_ID": "none"} if launched else {}
    assert nursery.run(place, *arguments(images), code=orphaned, **environment).status == 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it may be over
        wait_until_gone(psutil.Process(int((place / "process").read_text())), PATIENT)
    assert (place / "run").exists() is not launched


AS_LAUNCHED = """
import time
from infomax import launch
launch._launch_command = lambda words: (0, 1)
process = os.fork()
if process:  # stands for the launcher
    Path("written").write_text(str(process))
    os.rename("written", "process")
    time.sleep(3600)
"""


def test_a_launchers_death_is_no_second_signal(nursery, images, place):
    code = AS_LAUNCHED + SLOWLY + "at_step(6, hold)"
    launcher = nursery.start(place, *arguments(images), "--save-every", 1000, code=code)
    wait_for(launcher, lambda: (place / "there-0").exists() and (place / "process").exists())
    recipe = psutil.Process(int((place / "process").read_text()))
    recipe.terminate()
    time.sleep(2)  # more than what lies between two signals of one request
    launcher.kill()  # and the kernel sends the recipe another SIGTERM
    launcher.wait()
    let_go(place)
    wait_until_gone(recipe)
    text = launcher.out.read_text()
    assert "a second time" not in text and "SIGTERM: saved after step 6" in text, text
    assert checkpoints.read(place / "run").step == 6


def test_a_slow_save_after_a_signal_is_allowed_to_finish(nursery, images, place):
    slow = """
import time
from infomax.checkpoints import snapshot
from infomax.training import watchdog
watchdog.GRACE = 1.0  # as if saving took longer than 20 s
write = snapshot.Snapshot.write
snapshot.Snapshot.write = lambda *arguments: (time.sleep(9), write(*arguments))[1]
at_step(6, lambda batch: (os.kill(os.getpid(), signal.SIGTERM), batch)[1], rank=1)
"""
    pair = nursery.pair(place, *arguments(images), "--save-every", 1000, "--timeout", 5, code=slow)
    ends = [child.wait(PROMPT) for child in pair]
    assert [end.status for end in ends] == [143, 143], ends
    assert 6 <= checkpoints.read(place / "run").step == steps_done(place / "run") < STEPS


def test_without_a_launcher_a_run_outlives_its_shell(images, place):
    words = [sys.executable, FAULTY, BRIEFLY, RECIPES / "simclr_smile.py", *arguments(images)]
    subprocess.run(["sh", "-c", f"nohup {shlex.join(map(str, words))} >out 2>&1 &"], cwd=place, check=True, timeout=60)
    deadline = time.monotonic() + PATIENT
    while not (place / "run/run.json").exists() or json.loads((place / "run/run.json").read_text())["results"] is None:
        assert time.monotonic() < deadline, (place / "out").read_text()
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_status(nursery, images, place, expected, number, status):
    child = nursery.start(place, *arguments(images), "--save-every", 1000, code="at_step(20, hold)")
    wait_for(child, lambda: steps_done(place / "run") > 4)
    child.kill(number)
    let_go(place)
    end = child.wait(PROMPT)
    assert end.status == status, end.text
    step = checkpoints.read(place / "run").step
    assert 4 < step < STEPS
    assert end.text.splitlines()[-1] == (f"{number.name}: saved after step {step}; go on with --resume --run-dir run.")
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    must_equal(place / "run", expected)


def test_a_signal_after_the_last_step_is_not_lost(nursery, images, place, expected):
    """It comes while the last checkpoint is waited for, and ends the run before its evaluation."""
    late = """
from infomax import checkpoints
wait = checkpoints.Run.wait
def waits(self):
    wait(self)
    if (self.folder / "step-00000024").exists():
        os.kill(os.getpid(), signal.SIGTERM)
checkpoints.Run.wait = waits
"""
    ended = nursery.run(place, *arguments(images), code=late)
    assert ended.status == 143, ended.text
    assert ended.text.endswith("SIGTERM: ended; no step was under way, and --resume goes on.\n")
    assert checkpoints.read(place / "run").step == STEPS
    assert nursery.run(place, *arguments(images), "--resume").status == 0
    must_equal(place / "run", expected)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_the_final_evaluation_ends_it_with_its_status(nursery, images, place, expected, number, status):
    child = nursery.start(place, *arguments(images), code=DURING + "during('infomax.run', 'evaluate', 0)")
    wait_for(child, (place / "there-0").exists)
    child.kill(number)
    end = child.wait(PROMPT)
    assert end.status == status, end.text
    assert nursery.run(place, *arguments(images), "--resume").status == 0
    must_equal(place / "run", expected)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(nursery, images, place, whole_pair, asked):
    pair = nursery.pair(place, *arguments(images), code="at_step(20, hold)")
    wait_for(pair[0], lambda: steps_done(place / "run") > 4)
    pair[asked].kill(signal.SIGTERM)
    let_go(place)
    ends = [child.wait(PROMPT) for child in pair]
    assert [end.status for end in ends] == [143, 143], ends
    assert "".join(end.text for end in ends).count("SIGTERM: saved after step") == 1
    assert 4 < checkpoints.read(place / "run").step == steps_done(place / "run") < STEPS
    assert [child.wait().status for child in nursery.pair(place, *arguments(images), "--resume")] == [0, 0]
    must_equal(place / "run", outcome(whole_pair))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_signal_ends_at_once(nursery, images, place, processes):
    code = "at_step(6, lambda batch: (saved(3), there(), time.sleep(3600)))"
    if processes == 1:
        children = [nursery.start(place, *arguments(images), code=code)]
    else:
        children = nursery.pair(place, *arguments(images), code=code)
    for rank, child in enumerate(children):
        wait_for(child, (place / f"there-{rank}").exists)
    for wait in (4, 0):  # a second is told from the first by more than one second, in a thread that may be late
        for child in children:
            child.kill(signal.SIGTERM)
        time.sleep(wait)
    ends = [child.wait(PROMPT) for child in children]
    assert [end.status for end in ends] == [143] * processes, ends
    assert "came a second time: ended without saving" in ends[0].text
    assert checkpoints.read(place / "run").step == 3


def test_ctrl_c_on_accelerate_launch_saves(images, place):
    """The launcher gets it too, and dies at once: the recipe must not go with it before it has saved."""
    words = (*arguments(images), "--save-every", 1000)
    code = SLOWLY + "at_step(4, until_orphaned)"
    launched = Launched([str(BIN / "accelerate"), "launch"], place, *words, code=code)
    launched.until((place / "there-0").exists)
    os.killpg(launched.launcher.pid, signal.SIGINT)
    assert launched.ended() != 0
    assert re.search(r"SIGINT: saved after step \d+; go on with --resume", launched.text()), launched.text()
    assert 4 <= checkpoints.read(place / "run").step == steps_done(place / "run") < STEPS


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def stopped(nursery: Nursery, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed at step 11, with the checkpoints of steps 6 and 9. To be copied."""
    place = tmp_path_factory.mktemp("stopped")
    (place / "mine.py").write_text(OWN)
    saved = """
def last(batch):
    import os, time
    # Saved and pruned by a thread, which a busy machine may not have let finish: what it removes has a name until then.
    while sorted(name for name in os.listdir("run") if "step-" in name) != ["step-00000006", "step-00000009"]:
        time.sleep(0.01)
    die()
at_step(11, last)
"""
    ended = nursery.run(place, *arguments(images), code=saved)
    assert ended.status == -signal.SIGKILL
    assert sorted(path.name for path in (place / "run").glob("*step-*")) == ["step-00000006", "step-00000009"]
    return place / "run"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


DAMAGE = [cut, empty, Path.unlink, flip]
FILES = [
    "MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json", "encoder/config.json",
    "encoder/model.safetensors",
]  # fmt: skip


def test_the_files_that_are_damaged_are_all_there_are(stopped):
    newest = stopped / "step-00000009"
    assert sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()) == sorted(FILES)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_run_ends_the_same(nursery, images, place, stopped, expected, name, damage):
    """Of each file one damage, and of each damage one file or two, are followed to the end: all go on from one step."""
    followed = FILES.index(name) % len(DAMAGE) == DAMAGE.index(damage)
    ends = "at_step(8, lambda batch: (os.kill(os.getpid(), signal.SIGTERM), batch)[1])"
    shutil.copytree(stopped, place / "run")
    damage(place / "run/step-00000009" / name)
    then = nursery.run(place, *arguments(images), "--resume", code="" if followed else ends)
    assert then.status == (0 if followed else 143), then.text
    [told] = [line for line in then.text.splitlines() if "Taking the checkpoint of step 6 instead." in line]
    assert told.startswith(f"run/step-00000009/{name} ")
    assert "Going on from run/step-00000006." in then.text
    assert (place / "run/damaged-step-00000009").is_dir()
    if followed:
        shutil.rmtree(place / "run/damaged-step-00000009")
        must_equal(place / "run", expected)
    else:
        assert 7 <= checkpoints.read(place / "run").step < STEPS


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_json_or_log_costs_nothing_of_the_model(nursery, images, place, stopped, expected, damage):
    shutil.copytree(stopped, place / "run")
    damage(place / "run/run.json")
    damage(place / "run/log.jsonl")
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    if damage is flip:  # nobody reads the log but people
        (place / "run/log.jsonl").write_text("")
    found = outcome(place / "run")
    assert [name for name in expected if name != "content" and found[name] != expected[name]] == []
    if damage is not Path.unlink:
        assert "run.json" in then.text
    if damage in (cut, empty):
        assert "log.jsonl is shorter than when the checkpoint was saved" in then.text


def test_no_whole_checkpoint_is_refused_by_name_and_nothing_is_lost(nursery, images, place, stopped):
    shutil.copytree(stopped, place / "run")
    for step in (6, 9):
        flip(place / f"run/step-0000000{step}/model.safetensors")
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 2
    assert "No checkpoint in run is whole: run/step-00000009/model.safetensors" in then.text
    assert len(list((place / "run").glob("step-*"))) == 2


def test_a_file_that_cannot_be_read_now_is_left_alone(nursery, images, place, stopped, expected):
    """It may be whole: taking an older checkpoint in its place would lose what lies between."""
    shutil.copytree(stopped, place / "run")
    before = sorted(path.name for path in (place / "run").iterdir())
    for name in ("model.safetensors", "state.json", "MANIFEST.json"):
        file = place / "run/step-00000009" / name
        file.chmod(0)
        ended = nursery.run(place, *arguments(images), "--resume", code=POWERLESS)
        file.chmod(0o644)
        assert (ended.status, ended.text.splitlines()[-1]) == (
            2, f"run/step-00000009/{name} cannot be read now (Permission denied); nothing was changed."
        )  # fmt: skip
        assert sorted(path.name for path in (place / "run").iterdir()) == before
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    must_equal(place / "run", expected)


# --------------------------------------------------------------------------------------------- disks, folders, machines

FULL = """
import resource
import sys
def fills(batch):
    saved(6)
    sys.dont_write_bytecode = True  # Python 3.11 keeps bytecode that the limit has cut
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
    return batch
at_step(8, fills)
"""


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (20_000, "The checkpoint of step 9 could not be written to run"),  # the tensors do not fit
        (1_000, "run/log.jsonl could not be written"),
    ],
)
def test_a_full_disk_leaves_the_previous_checkpoint_whole(nursery, images, place, expected, size, told):
    ended = nursery.run(place, *arguments(images), code=FULL.format(size=size))
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.text
    assert told in ended.text.splitlines()[-1], ended.text
    assert sorted(path.name for path in (place / "run").glob("*step-*")) == ["step-00000003", "step-00000006"]
    then = nursery.run(place, *arguments(images), "--resume")
    assert then.status == 0, then.text
    assert "Going on from run/step-00000006." in then.text
    must_equal(place / "run", expected)


# To root any folder is writable, unless it gives its capabilities up; its own files it may still read.
POWERLESS = """
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of capset's header, this process
if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
    raise OSError(ctypes.get_errno(), "capset")
"""


def test_a_read_only_folder(nursery, images, place, expected):
    place.chmod(0o555)
    ended = nursery.run(place, *arguments(images), code=POWERLESS)
    place.chmod(0o755)
    assert ended.status == 2, ended.text
    assert ended.text.splitlines()[-1].startswith("run cannot hold a run ([Errno 13] Permission denied")
    assert not (place / "run").exists()

    shut = "def shut(batch):\n    saved(6)\n    os.chmod('run', 0o555)\n    return batch\nat_step(8, shut)\n"
    ended = nursery.run(place, *arguments(images), code=POWERLESS + shut)
    assert ended.status == 2, ended.text
    assert "The checkpoint of step 9 could not be written" in ended.text.splitlines()[-1]
    assert "step-00000003, step-00000006 is still there" in ended.text
    refused = nursery.run(place, *arguments(images), "--resume", code=POWERLESS)
    assert refused.status == 2 and "Permission denied" in refused.text, refused.text
    (place / "run").chmod(0o755)
    then = nursery.run(place, *arguments(images), "--resume", code=POWERLESS)
    assert then.status == 0, then.text
    must_equal(place / "run", expected)


def test_images_that_changed_are_refused(nursery, images, place):
    shutil.copytree(images, place / "images")
    words = [*arguments(images), "--dataset", "folder:images"]
    assert nursery.run(place, *words, code="at_step(8, lambda batch: die())").status == -signal.SIGKILL
    one, two = sorted((place / "images/0").iterdir())[:2]
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    ended = nursery.run(place, *words, "--resume")
    assert ended.status == 2, ended.text
    known = r"data is '64 \+ 16 images, sha256 \w+' there and '64 \+ 16 images, sha256 \w+' here"
    assert re.search(f"run holds a run of another configuration: {known}", ended.text), ended.text
    one.write_bytes(kept)
    assert nursery.run(place, *words, "--resume").status == 0


def test_two_runs_do_not_share_a_folder(nursery, images, place, expected):
    first = nursery.start(place, *arguments(images), code="at_step(8, lambda batch: time.sleep(3600))")
    wait_for(first, lambda: saved_step(place / "run") == 6)
    second = nursery.run(place, *arguments(images), "--resume")
    assert (second.status, second.text) == (2, "Another process is training in run; name another --run-dir.\n")
    assert nursery.run(place, *arguments(images)).status == 2
    first.kill()  # its lock dies with it
    assert first.wait().status == -signal.SIGKILL
    assert nursery.run(place, *arguments(images), "--resume").status == 0
    must_equal(place / "run", expected)


def test_runs_that_start_together_get_a_folder_each(nursery, images, place):
    unnamed = arguments(images)[:-2]
    children = [nursery.start(place, *unnamed, "--steps", 2) for _ in range(4)]
    assert [child.wait().status for child in children] == [0] * 4
    assert sorted(path.name for path in (place / "checkpoints").iterdir()) == [
        "simclr_mine", "simclr_mine-2", "simclr_mine-3", "simclr_mine-4",
    ]  # fmt: skip


# Clocks that run backwards and jump, by hours.
CLOCKS = """
import time
now, jump = time.time, [0]
def wrong():
    jump[0] = -7200 if jump[0] >= 0 else 3600
    return now() + jump[0]
time.time = wrong
"""
ELSEWHERE = {
    "TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "HOME": "/proc/nowhere",
    "XDG_CACHE_HOME": "/proc/nowhere", "TMPDIR": "/tmp",
}  # fmt: skip


def test_clocks_zones_locales_a_read_only_home_and_no_network_change_nothing(nursery, images, place, expected):
    killed = "offline()\nat_step(8, lambda batch: (saved(6), die()))"
    first = nursery.run(place, *arguments(images), code=CLOCKS + killed, **ELSEWHERE)
    assert first.status == -signal.SIGKILL, first.text
    for path in (place / "run").rglob("*"):
        os.utime(path, (2**33, 2**33))  # in the year 2242
    # In a new process, which imports everything so.
    words = [sys.executable, FAULTY, BRIEFLY + "offline()", RECIPES / "simclr_smile.py", *arguments(images), "--resume"]
    then = subprocess.run(
        [*map(str, words)], cwd=place, env={**os.environ, **ELSEWHERE, "TZ": "America/St_Johns"}, timeout=PATIENT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert then.returncode == 0, then.stderr
    must_equal(place / "run", expected)


REGISTERED = "import importlib, sys\nsys.path.append('.')\nimportlib.import_module('mine')\n"


def test_a_run_moved_or_copied_goes_on_and_probes(nursery, images, place, stopped, expected, tmp_path):
    (place / "far/away").mkdir(parents=True)
    (place / "far/mine.py").write_text(OWN)
    shutil.copytree(stopped, place / "copy")
    shutil.move(place / "copy", place / "far/away/renamed")
    words = [*arguments(images)[:-2], "--run-dir", "away/renamed", "--resume"]
    then = nursery.run(place / "far", *words)
    assert then.status == 0, then.text
    must_equal(place / "far/away/renamed", expected)
    shutil.copytree(place / "far/away/renamed/step-00000024", place / "alone")
    probe = nursery.run(place, "probe", "alone", "--output", "found.json", "--json", script="infomax", code=REGISTERED)
    assert probe.status == 0, probe.text
    results = json.loads((place / "far/away/renamed/run.json").read_text())["results"]
    assert json.loads(probe.text) == results["probe"]
    found = json.loads((place / "found.json").read_text())
    assert found == {"checkpoint": results["checkpoint"], "probe": results["probe"]}


# ---------------------------------------------------------------------------------------------------------- not finite

NAN = "at_step(8, not_a_number)\n"


def test_what_is_not_finite_stops_and_is_not_saved(nursery, images, place):
    for more in ([], ["--resume"]):
        ended = nursery.run(place, *arguments(images), *more, code=NAN)
        assert ended.status == 1, ended.text
        assert "Training stopped at step 8: the surrogate is nan" in ended.text.splitlines()[-1]
        found = checkpoints.read(place / "run")
        assert found.step == 6
        assert all(
            value.isfinite().all() for name, value in tensors(place / "run").items() if value.is_floating_point()
        )


def test_what_is_not_finite_is_skipped_counted_and_resumed_bitwise(nursery, images, place):
    skip = [*arguments(images), "--nonfinite", "skip"]
    ended = nursery.run(place, *skip, code=NAN)
    assert ended.status == 0, ended.text
    assert [line["number"] for line in log(place / "run") if line["skipped"]] == [8]
    assert all(value.isfinite().all() for value in tensors(place / "run").values() if value.is_floating_point())
    expected = outcome(place / "run")
    for name in ("run-2", "run-3"):  # killed before and after the step that is left out
        words = [*skip[:-4], "--run-dir", name, "--nonfinite", "skip"]
        at = 7 if name == "run-2" else 11
        assert nursery.run(place, *words, code=f"{NAN}at_step({at}, lambda batch: die())").status == -signal.SIGKILL
        assert nursery.run(place, *words, "--resume", code=NAN).status == 0
        must_equal(place / name, expected)


def test_those_skipped_before_a_kill_count_when_a_run_is_resumed(nursery, images, place):
    words = [*arguments(images), "--nonfinite", "skip", "--steps", 40]
    always = "for step in range(8, 41):\n    at_step(step, not_a_number)\n"
    killed = nursery.run(place, *words, code=always + "at_step(21, lambda batch: (saved(18), die()))")
    assert killed.status == -signal.SIGKILL and checkpoints.read(place / "run").step == 18
    ended = nursery.run(place, *words, "--resume", code=always)
    assert ended.status == 1, ended.text
    assert "Training stopped at step 28: the surrogate is nan" in ended.text.splitlines()[-1]


def test_skipping_is_agreed_by_two_processes(nursery, images, place):
    """One process meets the number; both leave the batch out."""
    words = [*arguments(images), "--nonfinite", "skip"]
    ends = [child.wait() for child in nursery.pair(place, *words, code="at_step(8, not_a_number, rank=1)")]
    assert [end.status for end in ends] == [0, 0], ends
    assert [line["number"] for line in log(place / "run") if line["skipped"]] == [8]


# -------------------------------------------------------------------------------------------------- determinism, load


def test_the_seed_alone_decides_a_deterministic_run(nursery, images, place):
    words = [*arguments(images)[:-2], "--deterministic"]
    disturbed = "import random, numpy\nrandom.seed(5); numpy.random.seed(6); torch = __import__('torch')\n"
    disturbed += "torch.manual_seed(7); torch.rand(9); x = torch.empty(10**6).fill_(3)\n"
    for name, code in (("one", ""), ("two", disturbed)):
        ended = nursery.run(place, *words, "--run-dir", name, code=code)
        assert ended.status == 0, ended.text
    must_equal(place / "two", outcome(place / "one"))
    other = nursery.run(place, *words, "--run-dir", "three", "--seed", 4)
    assert other.status == 0
    assert outcome(place / "three")["encoder.conv1.weight"] != outcome(place / "one")["encoder.conv1.weight"]


# Looked at by the run itself, in the same steps on any machine, while no checkpoint is being written.
MEASURED = """
import psutil
from infomax import checkpoints
log = checkpoints.Run.log
def logs(self, record):
    log(self, record)
    if record["number"] % 20 == 0:
        self.wait()
        here = psutil.Process()
        with open("measured", "a") as file:
            print(record["number"], here.memory_info().rss, here.num_fds(), file=file)
checkpoints.Run.log = logs
"""


def test_two_thousand_steps_leave_memory_and_files_as_they_were(nursery, images, place):
    words = [*arguments(images), "--steps", 2000, "--save-every", 50, "--microbatch", 8]
    child = nursery.start(place, *words, code=MEASURED)
    lines = 0
    while not ended(child):
        if steps_done(place / "run"):
            *whole, _ = (place / "run/log.jsonl").read_text().split("\n")  # the last may be under way
            assert [json.loads(line)["number"] for line in whole[lines:]] == list(range(lines + 1, len(whole) + 1))
            lines = len(whole)
        time.sleep(0.1)
    end = child.wait()
    assert end.status == 0, end.text
    assert (place / "run/log.jsonl").read_text().endswith("}\n") and len(log(place / "run")) == 2000
    measured = [[int(word) for word in line.split()] for line in (place / "measured").read_text().splitlines()]
    early, late = ([line[1:] for line in measured if first <= line[0] <= first + 400] for first in (200, 1600))
    assert len(early) == len(late) == 21
    (memory, files), (memory_late, files_late) = (
        (max(column) for column in zip(*part, strict=True)) for part in (early, late)
    )
    growth = (memory_late - memory) / 2**20
    print(f"resident memory: {memory / 2**20:.0f} MiB at most in steps 200-600, {growth:+.1f} MiB in 1600-2000")
    assert growth < 8
    assert files_late <= files
    assert len(list((place / "run").glob("step-*"))) == 2


# ------------------------------------------------------------------------------------------- evaluation while training


def test_evaluation_reads_whole_checkpoints_while_they_are_written_and_pruned(nursery, images, place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    import mine  # noqa: F401  # pyright: ignore

    # Every ten steps training waits for one more checkpoint to have been read, and before the end for the probe: so
    # neither leaves the other behind, whichever is faster.
    abreast = """
for seen in range(1, 15):
    at_step(10 * seen, lambda batch, name=f"seen-{seen}": (until(name), batch)[1])
at_step(149, lambda batch: (until("probed"), batch)[1])
"""
    child = nursery.start(place, *arguments(images), "--steps", 150, "--save-every", 1, "--keep", 1, code=abreast)
    wait_for(child, lambda: saved_step(place / "run") > 0)
    probe = nursery.start(place, "probe", "run", "--output", "live.json", script="infomax", code=REGISTERED)
    seen = set()
    while not ended(child):
        found, encoder = checkpoints.read_encoder(place / "run")
        seen.add(found.step)
        assert not encoder.training
        (place / f"seen-{len(seen)}").touch()
        if ended(probe):
            (place / "probed").touch()
    assert child.wait().status == 0
    assert len(seen) >= 14, seen
    assert probe.wait().status == 0
    live = json.loads((place / "live.json").read_text())
    assert live["checkpoint"]["step"] < 150 and live["probe"]["accuracy"] > 0


def test_an_evaluation_killed_and_run_again_gives_the_same_numbers(nursery, images, place, whole):
    command = ("probe", whole, "--output", "found.json")
    killed = nursery.run(place, *command, script="infomax", code=REGISTERED + "kill_at('before results', 1)")
    assert killed.status == -signal.SIGKILL, killed.text
    assert not (place / "found.json").exists()
    for environment in ({}, ELSEWHERE):
        assert nursery.run(place, *command, script="infomax", code=REGISTERED + "offline()", **environment).status == 0
        found = json.loads((place / "found.json").read_text())
        assert found["probe"] == json.loads((whole / "run.json").read_text())["results"]["probe"]
        assert found["checkpoint"] == {"step": STEPS, "checksum": checkpoints.read(whole).checksum}
    left = {path.name for path in place.iterdir() if not path.name.startswith(".tmp-")}  # the killed one's
    assert left == {"mine.py", "found.json"}


def test_an_output_goes_where_it_is_pointed(nursery, place, whole):
    """Through a link, into a device or a pipe, and where it cannot be written the result is printed all the same."""

    def probe(output: object) -> tuple[int, list[str]]:
        command = ("probe", whole, "--json", "--output", output)
        ended = nursery.run(place, *command, script="infomax", code=REGISTERED)
        return ended.status, ended.text.splitlines()

    (place / "there").mkdir()
    (place / "link").symlink_to("there/found.json")
    status, [shown] = probe("link")
    assert status == 0 and (place / "link").is_symlink()
    found = json.loads((place / "there/found.json").read_text())
    assert found["probe"] == json.loads(shown)
    assert probe("/dev/null") == (0, [shown]) and Path("/dev/null").is_char_device()
    status, lines = probe("/dev/stdout")  # here a file
    assert (status, [json.loads(line) for line in lines]) == (0, [found["probe"], found])
    status, lines = probe("nowhere/found.json")
    assert (status, lines[0]) == (2, shown) and lines[1].startswith("nowhere/found.json could not be written")
    os.mkfifo(place / "pipe")
    reader = os.open(place / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert probe("pipe") == (0, [shown])
    assert json.loads(os.read(reader, 2**16)) == found
    os.close(reader)
    assert (place / "pipe").is_fifo()


# ----------------------------------------------------------------------------------------- another number of processes

# A run of float32 without anything that sees the batch (GroupNorm, LayerNorm), resumed on `world` processes.
WORKER = """
import sys, torch
import infomax as im
from infomax import checkpoints, data, encoders, launch, training

images, steps, save_at, run_dir = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
by = launch.make_accelerator()
torch.manual_seed(0)
dataset = data.dataset(f"folder:{images}")
loader = data.PairLoader(dataset.train, data.views_for(dataset), 16, seed=1)
encoder = im.encoder("resnet10_small_gn", in_chans=1)
model = im.InfoMax(encoder, encoders.Projector(128, hidden=16, out=8, norm="layer"), im.Cosine(0.2, learn=True),
    im.MINE(0.9))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
with checkpoints.open_run(run_dir, "run", {"seed": 1}, resume=True) as run:
    start = 0
    if run.checkpoint is not None:
        run.checkpoint.restore(model, optimizer)
        start = run.checkpoint.step
    for step in im.train(model, loader, optimizer, training.warmup_cosine(8), by, steps=steps, start=start):
        batch = loader.at(step.number - 1, by.process_index, by.num_processes)
        sums = torch.stack([batch.ids.double(), *(v.double().sum((1, 2, 3)) for v in batch[:2])], 1)
        run.log({"number": step.number, "mi": step.mi, "surrogate": step.surrogate, "batch": by.gather(sums)})
        if step.number == save_at:
            run.save(step.number, model, optimizer)
launch.leave(by)
"""


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_on_another_number_of_processes_the_same_batches_follow(nursery, images, place, first, second):
    worker = place / "worker.py"
    worker.write_text(WORKER)

    def go(processes: int, *words: object) -> str:
        if processes == 1:
            ends = [nursery.run(place, images, *words, script=str(worker))]
        else:
            ends = [child.wait() for child in nursery.pair(place, images, *words, script=str(worker))]
        assert [end.status for end in ends] == [0] * processes, ends
        return "".join(end.text for end in ends)

    go(first, 8, 8, "alone")
    go(first, 4, 4, "run")
    said = go(second, 8, 8, "run")
    assert "not bitwise" in said and f"was saved by {first} process(es) and is resumed by {second}" in said
    alone, together = log(place / "alone"), log(place / "run")
    assert [line["number"] for line in together] == list(range(1, 9))
    for one, two in zip(alone, together, strict=True):
        assert one["batch"] == two["batch"]  # the same samples, the same views, to the bit, in the same order
        assert one["mi"] == pytest.approx(two["mi"], rel=1e-3, abs=1e-4)
        assert one["surrogate"] == pytest.approx(two["surrogate"], rel=1e-3, abs=1e-4)
