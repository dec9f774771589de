"""Shape annotations are checked here, and only here: the hook must come before anything imports infomax.

So must the surroundings: no test, and no process that a test starts, reads a user's settings, writes to a home folder
or asks the network for anything.
"""

import atexit
import contextlib
import gc
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HOME = tempfile.mkdtemp(prefix="infomax-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {"HOME": HOME, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
# One thread a process: the order of sums is fixed, and on a busy machine OpenMP's threads wait for each other by
# spinning, which was measured to make work this small fifty times slower.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests start hundreds of processes. Where Python is told to keep no bytecode, and the environment was installed without
# it, each of them compiles some 1,100 modules: most of what an import takes. Here it is kept, in pytest's own folder.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) or sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
LAUNCHED = ("ACCELERATE_", "MASTER_", "TORCHELASTIC_")  # what a launcher sets, and a user's settings of one
FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "COLUMNS")
for _name in [name for name in os.environ if name.startswith(LAUNCHED) or name in FOREIGN]:
    del os.environ[_name]

# What is imported stays: it is looked through for garbage neither while tests are collected nor after that.
gc.disable()

from jaxtyping import install_import_hook  # noqa: E402

# Only modules with shapes in their signatures: each call of each function is looked at, closures made anew included,
# which for all of infomax.scores was half of the suite's time.
LIBRARY = Path(__file__).parents[1] / "infomax"
SHAPED = [path for path in LIBRARY.rglob("*.py") if "\nfrom jaxtyping import" in path.read_text()]
NAMES = [".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in SHAPED]
install_import_hook(NAMES, "shapecheck.check")

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often `-m faults` kills runs at random moments")
    parser.addoption("--exhaustive", action="store_true", help="every combination, where a test takes a cover of them")


@pytest.fixture(scope="session")
def exhaustive(pytestconfig: pytest.Config) -> bool:
    """Whether to try every combination of what a test combines, rather than a cover with each pair of them."""
    return pytestconfig.getoption("exhaustive")


# A file goes to one process whole: these are the longest, and one of them begun last would leave the other idle.
LONGEST = ("test_faults.py", "test_fused.py", "test_tutorials.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # as extensions in C++ that are taken down call what is left a leak


@pytest.fixture(autouse=True)
def _drawn_anew() -> None:
    """What a test draws without a seed does not depend on the tests before it."""
    torch.manual_seed(0)


RECIPES = Path(__file__).parents[1] / "recipes"


def wait_until_gone(process: psutil.Process, seconds: float = 120) -> None:
    """Until a process has ended; whether its parent has asked how does not matter."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):  # between two looks, say
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, process
            time.sleep(0.05)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def _as_a_process(folder: Path, argv: list[str]) -> Iterator[None]:
    # What a command changes for its own process is put back, so that each starts as a new one does.
    from accelerate.state import AcceleratorState, GradientState

    for name, module in list(sys.modules.items()):  # another test's, imported outside of a command
        if str(getattr(module, "__file__", None) or "").startswith(f"{folder.parent}{os.sep}"):
            del sys.modules[name]
    before = (Path.cwd(), sys.argv, list(sys.path), set(sys.modules), torch.get_num_threads(), torch.get_rng_state())
    os.chdir(folder)
    sys.argv = argv
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv, sys.path[:] = before[1], before[2]
        for name in set(sys.modules) - before[3]:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith((str(folder), str(RECIPES))):
                del sys.modules[name]
        torch.set_num_threads(before[4])
        torch.set_rng_state(before[5])


def command(folder: Path, argv: list[str]) -> Ended:
    """Runs a recipe (its name first) or `infomax` in this process, in `folder`, as its own process would."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with _as_a_process(folder, argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if argv[0] == "infomax":
                from infomax.cli import main

                main()
            else:
                sys.path.insert(0, str(RECIPES))
                runpy.run_path(str(RECIPES / f"{argv[0]}.py"), run_name="__main__")
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    return Ended(status, out.getvalue(), err.getvalue())


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    """run("simclr_smile", "--steps", 2) or run("infomax", "probe", folder), in tmp_path; returns how it ended."""
    return lambda *argv: command(tmp_path, [str(argument) for argument in argv])


@pytest.fixture
def on_processes(tmp_path: Path) -> Callable[[int, str], None]:
    """Runs a test module as its own worker by torchrun, on so many processes; it is given the test's folder."""

    def run(processes: int, file: str) -> None:
        torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", str(processes)]
        done = subprocess.run(
            [*torchrun, file, str(tmp_path)], capture_output=True, text=True, timeout=600, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run


def saved_in(out: str) -> str:
    """The folder that a recipe's output names near its end; after it comes what there is to believe: of the MI, and
    last of I(J; Z), where that was measured."""
    lines = out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("Saved in ")]
    saved, believed, *identity = lines[at:]
    assert any(of in believed for of in ("I(Z1; Z2) of two views", "I(X; Y) of the modalities", "I(X; Y) of the first"))
    assert out.endswith("\n") and (
        not identity or (len(identity) == 1 and identity[0].startswith("I(J; Z), which of "))
    )
    return saved.removeprefix("Saved in ")


def write_images(folder: Path, classes: int, each: int, side: int = 8) -> Path:
    """An ImageFolder of grey images: one noisy pattern a class."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        pattern = generator.uniform(40, 215, (side, side))
        for number in range(each):
            pixels = np.clip(pattern + generator.normal(0, 40, (side, side)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of two classes: 64 for training, 16 for testing."""
    return write_images(tmp_path_factory.mktemp("images") / "two", classes=2, each=40)


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of one class, 64 for training: runs on them end without probes, and so soon."""
    return write_images(tmp_path_factory.mktemp("images") / "one", classes=1, each=80)


TINY = ("--encoder", "resnet10_small_gn", "--batch-size", "16")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Path, Ended]:
    """A finished run of simclr_smile.py, and how its command ended. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    ended = command(
        place, ["simclr_smile", *TINY, "--steps", "6", "--limit", "60", "--dataset", f"folder:{images}", "--seed", "3"]
    )
    return place / "checkpoints" / "simclr_smile", ended


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built in a copy of what it is made of, as a build writes into its tree."""
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("site")
    for name in ("docs", "infomax"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"
