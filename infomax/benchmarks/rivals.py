"""Other packages' estimators of pinned versions, in environments of their own that are made when first asked for."""

import atexit
import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infomax.errors import UserError
from infomax.files import lock

WORKER = Path(__file__).with_name("rival_worker.py")
INSTALLING = 480  # seconds at most for one environment
START = 180  # seconds at most until a worker has imported its package, which its first answer waits for
POLL = 0.5  # seconds between looks whether another process has made an environment


@dataclass(frozen=True)
class Rival:
    """An estimator of another package: what is installed for it, what it is asked, and which samples it can take.

    shares: the environment sees this one's packages too (torch, numpy), behind its own; its requirements are then
        installed without what they depend on.
    columns: takes several columns a side. labels: takes labels in x.
    every: it is slow, and asked about every so many of the sets' distributions alone, at these sizes.
    limit: wall seconds at most for a sample.
    """

    name: str
    requirements: tuple[str, ...]
    asked: str
    columns: bool = False
    labels: bool = False
    shares: bool = False
    every: int = 1
    sizes: tuple[int, ...] = ()
    limit: float = 300.0

    def takes(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether it can be asked of x [n, dx] and y [n, dy] at all."""
        narrow = x.shape[1] == y.shape[1] == 1
        return (self.labels or x.dtype.kind == "f") and (self.columns or narrow)


_NEIGHBOURS = ("scikit-learn==1.9.1", "ennemi==1.5.0", "numpy==2.4.6", "scipy==1.17.1")
_MIXTURES = ("gmm-mi==0.8.2", "scikit-learn==1.6.1", "numpy==2.4.6", "scipy==1.17.1")
_BENCHMARK = ("benchmark-mi==0.1.3", "jax==0.4.30", "jaxlib==0.4.30", "chex==0.1.86", "numpy==1.26.4")
_TRAINED = (
    "torch-mist==0.2.17", "hydra-core==1.3.8", "omegaconf==2.3.1", "antlr4-python3-runtime==4.9.3",
    "pyro-ppl==1.9.2", "pyro-api==0.1.2", "opt_einsum==3.4.0", "mpld3==0.5.12",
)  # fmt: skip
_LATENT = ("latentmi==0.1.3", "numpy==1.26.4", "scipy==1.13.1", "scikit-learn==1.5.2")
_MIST = "estimate_mi: 4/5 of the pairs train (a tenth of them validates), 1/5 is read; defaults, labels one-hot"

RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival("scikit-learn", _NEIGHBOURS, "mutual_info_regression, of labels _classif; 3 neighbours", labels=True),
        Rival("ennemi", _NEIGHBOURS, "estimate_mi; 3 neighbours", labels=True),
        Rival("gmm-mi", _MIXTURES, "EstimateMI.fit_estimate, of labels fit_categorical; defaults; interval:"
              " 1.96 of its bootstrap's deviations; good: converged", labels=True),
        Rival("benchmark-mi, KSG", _BENCHMARK, "KSGEnsembleFirstEstimator, 10 neighbours", columns=True),
        Rival("benchmark-mi, CCA", _BENCHMARK, "CCAMutualInformationEstimator", columns=True),
        *(
            Rival(f"torch-mist, {name}", _TRAINED, _MIST, columns=True, labels=True, shares=True, every=4,
                  sizes=(2000,))
            for name in ("MINE", "NWJ", "SMILE", "InfoNCE")
        ),
        Rival("latentmi", _LATENT, "lmi.estimate; defaults: half of the pairs train, the others are read", columns=True,
              shares=True, every=13, sizes=(500,), limit=400),
    )
}  # fmt: skip

UNABLE = {
    "mist-statinf 0.1.1": "a network trained in advance, whose weights are no part of the package: nothing to ask"
    " without a download from a model hub",
    "NeuralMI": "no package of this name, nor neural-mi, is on PyPI (2026-11)",
}
"""Packages that are not asked, and why."""


class Unavailable(Exception):
    """A rival's environment could not be made, or its worker does not start: a sentence."""


class Rivals:
    """Environments in a folder, and a running worker for each estimator that was asked; `close` ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._answered: set[str] = set()  # rivals whose worker has started and answered
        atexit.register(self.close)

    def prepare(self, rival: Rival) -> None:
        """Makes the rival's environment. Raises Unavailable: it cannot be made, with the reason."""
        environment(self.folder, rival.requirements, rival.shares)

    def ask(self, rival: Rival, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """The worker's answer of x [n, dx] and y [n, dy]: mi, interval, good, seconds, error.

        It ends a worker that takes longer than the rival's limit, to which START is added for a worker's first answer.
        Raises Unavailable: the rival's environment cannot be made.
        """
        worker = self._worker(rival)
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, x=x, y=y)
            file.flush()
            limit = rival.limit + (0 if rival.name in self._answered else START)
            line = _asked(worker, file.name, limit)
        if line is None:
            reason = f"not done in {limit:.0f} s" if worker.poll() is None else "its process ended"
            self._end(rival.name)
            line = json.dumps({"error": reason})
        else:
            self._answered.add(rival.name)
        return {"mi": None, "interval": None, "good": None, "seconds": None} | json.loads(line)

    def close(self) -> None:
        """Ends the workers."""
        for name in list(self._workers):
            self._end(name)

    def _end(self, name: str) -> None:
        worker = self._workers.pop(name)
        self._answered.discard(name)
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                stream.close()

    def _worker(self, rival: Rival) -> "subprocess.Popen[str]":
        if rival.name not in self._workers:
            python = environment(self.folder, rival.requirements, rival.shares)
            # Threads would be compared otherwise; what a shell sets for this interpreter is not the other's.
            kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
            # -P: the worker's folder has modules that are named as the standard library's are.
            self._workers[rival.name] = subprocess.Popen(
                [str(python), "-P", str(WORKER), rival.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, bufsize=1, env=kept | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        return self._workers[rival.name]


def _asked(worker: "subprocess.Popen[str]", path: str, limit: float) -> str | None:
    """The line that answers, or None where the process ended or took longer than `limit` seconds."""
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(path + "\n")
        worker.stdin.flush()
    except OSError:
        worker.wait()
        return None
    if not select.select([worker.stdout], [], [], limit)[0]:
        return None
    line = worker.stdout.readline()
    if not line:
        worker.wait()
    return line or None


def environment(folder: Path, requirements: Sequence[str], shares: bool) -> Path:
    """The interpreter of an environment with these requirements, made by pip where the folder has none yet.

    While another process makes it, this one waits. Raises Unavailable: pip could not install them. UserError: a folder
    that cannot be written.
    """
    place = place_of(folder, requirements, shares)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (place / "ready").exists():
        return python
    with _alone(place) as held:
        if (place / "ready").exists():  # another process has made it
            return python
        shutil.rmtree(place, ignore_errors=True)  # one that was not finished
        try:
            place.mkdir(parents=True)
            venv.create(place, with_pip=True, symlinks=os.name != "nt")
        except (OSError, subprocess.CalledProcessError) as error:
            raise _unwritable(folder, error) from error
        print(f"Installing {', '.join(requirements)}", file=sys.stderr)
        began = time.monotonic()
        _install(python, [*(["--no-deps"] if shares else []), *requirements], held)
        if shares:
            _share(place)
        (place / "ready").write_text(f"{', '.join(requirements)}\n{time.monotonic() - began:.0f} s\n")
    return python


def place_of(folder: Path, requirements: Sequence[str], shares: bool) -> Path:
    """Where the environment with these requirements is, or will be."""
    text = json.dumps([sys.version_info[:2], sys.prefix if shares else "", *requirements])
    return folder / hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[int | None]:
    """Waits until no other process makes the environment there; what holds its lock meanwhile, None without locks."""
    path, told = place.with_suffix(".lock"), False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = lock(path)
            break
        except BlockingIOError:
            if not told:
                print(f"Waiting for another process, which installs into {place}", file=sys.stderr)
            told = True
            time.sleep(POLL)
        except OSError as error:
            raise _unwritable(place.parent, error) from error
    try:
        yield held
    finally:
        if held is not None:
            os.close(held)


def _install(python: Path, what: Sequence[str], held: int | None) -> None:
    """Installs by that interpreter's pip. held: a lock that pip holds too, should this process be killed meanwhile."""
    pip = subprocess.Popen(
        [str(python), "-m", "pip", "install", "-q", *what], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True, pass_fds=() if held is None else (held,),
    )  # fmt: skip
    try:
        _, errors = pip.communicate(timeout=INSTALLING)
    except BaseException as error:  # Ctrl-C as well, which a session of its own does not get
        _end_all(pip)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unavailable(f"not installed in {INSTALLING} s") from None
        raise
    if pip.returncode:
        said = [line for line in errors.splitlines() if line.startswith("ERROR")]
        raise Unavailable(f"not installed: {(said or ['pip failed'])[-1].removeprefix('ERROR: ')}")


def _end_all(process: "subprocess.Popen[str]") -> None:
    """Kills the leader of a session with the processes that it started, such as pip's builds."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _unwritable(folder: Path, error: Exception) -> UserError:
    return UserError(f"No environment can be made in {folder}: {error}. Name another with --environments.")


def _share(place: Path) -> None:
    """Lets an environment see this interpreter's packages behind its own, torch foremost, which is large."""
    [own] = place.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    (own / "shared.pth").write_text(str(Path(np.__file__).parents[1]) + "\n")
