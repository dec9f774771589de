"""Other packages' estimators of pinned versions, in environments of their own that are made when first asked for."""

import atexit
import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infomax.errors import UserError

WORKER = Path(__file__).with_name("rival_worker.py")
INSTALLING = 480  # seconds at most for one environment
START = 180  # seconds at most until a worker has imported its package


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
        atexit.register(self.close)

    def prepare(self, rival: Rival) -> None:
        """Makes the rival's environment. Raises Unavailable: it cannot be made, with the reason."""
        environment(self.folder, rival.requirements, rival.shares)

    def ask(self, rival: Rival, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """The worker's answer of x [n, dx] and y [n, dy]: mi, interval, good, seconds, error.

        Raises Unavailable: the rival's environment cannot be made.
        """
        worker = self._worker(rival)
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, x=x, y=y)
            file.flush()
            line = _asked(worker, file.name, rival.limit)
        if line is None:
            reason = f"not done in {rival.limit:.0f} s" if worker.poll() is None else "its process ended"
            self._end(rival.name)
            line = json.dumps({"error": reason})
        return {"mi": None, "interval": None, "good": None, "seconds": None} | json.loads(line)

    def close(self) -> None:
        """Ends the workers."""
        for name in list(self._workers):
            self._end(name)

    def _end(self, name: str) -> None:
        worker = self._workers.pop(name)
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
    """The line that answers, or None where the process ended or took longer than `limit` and a start."""
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(path + "\n")
        worker.stdin.flush()
    except OSError:
        worker.wait()
        return None
    if not select.select([worker.stdout], [], [], limit + START)[0]:
        return None
    line = worker.stdout.readline()
    if not line:
        worker.wait()
    return line or None


def environment(folder: Path, requirements: Sequence[str], shares: bool) -> Path:
    """The interpreter of an environment with these requirements, made by pip where the folder has none yet.

    Raises Unavailable: pip could not install them. UserError: a folder that cannot be written.
    """
    text = json.dumps([sys.version_info[:2], sys.prefix if shares else "", *requirements])
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (place / "ready").exists():
        return python
    shutil.rmtree(place, ignore_errors=True)  # one that was not finished
    try:
        place.mkdir(parents=True)
        venv.create(place, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"No environment can be made in {folder}: {error}. Name another with --environments."
        ) from error
    print(f"Installing {', '.join(requirements)}", file=sys.stderr)
    began = time.monotonic()
    alone = ["--no-deps"] if shares else []
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *alone, *requirements],
            capture_output=True, text=True, timeout=INSTALLING,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not installed in {INSTALLING} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(f"not installed: {(said or ['pip failed'])[-1].removeprefix('ERROR: ')}")
    if shares:
        _share(place)
    (place / "ready").write_text(f"{', '.join(requirements)}\n{time.monotonic() - began:.0f} s\n")
    return python


def _share(place: Path) -> None:
    """Lets an environment see this interpreter's packages behind its own, torch foremost, which is large."""
    [own] = place.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    (own / "shared.pth").write_text(str(Path(np.__file__).parents[1]) + "\n")
