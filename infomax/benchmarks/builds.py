"""This build's default estimates beside those of a checkout of another commit, on the same samples, in turns."""

import hashlib
import json as _json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import accuracy, cells, tasks
from infomax.benchmarks.cells import Cell
from infomax.errors import UserError
from infomax.files import finite

WORKER = Path(__file__).with_name("build_worker.py")
HERE = Path(__file__).parents[2]  # the folder that has this build's package
BUILDS = ("before", "now")
SEED = 0  # of the order of the distributions
SEVERAL = "set, held out"


class Build:
    """A build of infomax and its worker, a process that starts when it is first asked and that `close` ends.

    name: before or now. folder: has the package infomax.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder.resolve()
        self._worker: subprocess.Popen[str] | None = None
        self._errors: Any = None

    def ask(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Its answer of x [n, dx] and y [n, dy]: mi, interval, trusted, seconds, error.

        Raises UserError: the worker cannot start or ends, with its last line.
        """
        self.start()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pairs.npz"
            np.savez(path, x=x, y=y)
            return self._answer(f"{path}\n")

    def start(self) -> None:
        """Starts the worker where there is none: it imports the build's package, and estimates once, untimed."""
        if self._worker is not None:
            return
        others = os.environ.get("PYTHONPATH")
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join([str(self.folder), *([others] if others else [])])
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the worker
        # -P: the worker's folder has modules that are named as the standard library's are.
        self._worker = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=os.environ | one | {"PYTHONPATH": path},
        )  # fmt: skip
        imported = Path(self._answer("")["file"]).resolve()
        if not imported.is_relative_to((self.folder / "infomax").resolve()):
            self.close()
            raise UserError(f"The build {self.name!r} was to be imported from {self.folder}, and came from {imported}.")

    def _answer(self, line: str) -> dict[str, Any]:
        worker = self._worker
        assert worker is not None and worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            said = worker.stdout.readline()
        except OSError:
            said = ""
        if said:
            return _json.loads(said)
        status = worker.wait()
        self._errors.seek(0)
        lines = [text.strip() for text in self._errors if text.strip()]
        how = f"ended by {errors.signal_name(-status)}" if status < 0 else f"ended with status {status}"
        last = f": {lines[-1]}" if lines else "."
        self.close()
        raise UserError(f"The worker of the build {self.name!r}, in {self.folder}, {how}{last}")

    def close(self) -> None:
        """Ends the worker."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout, self._errors):
            if stream is not None:
                stream.close()


def require_checkout(folder: Path) -> None:
    """Raises UserError for a folder without the package infomax and its estimates, with what is missing."""
    if not folder.is_dir():
        missing = "there is no such folder"
    elif (folder / "__init__.py").exists() and (folder / "estimation").exists():
        missing = "it is the package itself: name the folder that has it"
    elif not (folder / "infomax" / "__init__.py").exists():
        missing = "it has no infomax/__init__.py"
    elif not any((folder / "infomax" / name).exists() for name in ("estimation", "estimation.py")):
        missing = "it has no infomax/estimation"
    else:
        return
    raise UserError(
        f"{folder} is not a checkout of infomax: {missing}. `git worktree add FOLDER COMMIT`, in a clone, makes one of"
        " an earlier commit."
    )


def digest(folder: Path) -> str:
    """Of all that a build's estimates may depend on: its package's files, but for the benchmarks."""
    package = folder / "infomax"
    files = [path.relative_to(package) for path in package.rglob("*.py")]
    kept = sorted(path for path in files if path.parts[0] != "benchmarks")
    whole = b"".join(str(path).encode() + b"\0" + (package / path).read_bytes() for path in kept)
    return hashlib.sha256(whole).hexdigest()[:20]


def commit(folder: Path) -> str:
    """Which commit is checked out, "-dirty" behind it where files were changed, or the digest where git cannot say."""
    git = shutil.which("git")
    if git and (folder / ".git").exists():
        words = [git, "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
        said = subprocess.run(words, capture_output=True, text=True)
        if said.returncode == 0:
            return f"commit {said.stdout.strip()}"
    return f"digest {digest(folder)}"


def plan(names: Sequence[str], most: int | None = None) -> list[tuple[str, tasks.Task]]:
    """The distributions of these names, or all, with their sets, in the order that is drawn; the first `most` of them.

    Raises UserError: an unknown name.
    """
    everything = [(which, task) for which, of in accuracy.SETS.items() for task in of()]
    known = [task.name for _, task in everything]
    for name in names:
        if name not in known:
            raise UserError(f"There is no distribution {name!r}.{errors.nearest(name, known)}")
    random.Random(SEED).shuffle(everything)
    return [(which, task) for which, task in everything if not names or task.name in names][:most]


def measured(
    checkout: Path, sizes: Sequence[int], chosen: Sequence[tuple[str, tasks.Task]], folder: Path, shown: bool = False
) -> list[dict[str, Any]]:
    """Both builds' answers to every distribution at every size, a dictionary each.

    checkout: the build before. chosen: distributions with their sets, in the order in which they are estimated.
    Results {"set", "name", "n", "true", "first", "before", "now"}: nats, and the answers of `Build.ask`.
    """
    pair = tuple(Build(name, where) for name, where in zip(BUILDS, (checkout, HERE), strict=True))
    digests = {build.name: digest(build.folder) for build in pair}
    planned = []
    for n in dict.fromkeys(sizes):
        for which, task in chosen:
            key = {"experiment": "builds", "task": task.name, "set": which, "n": n} | digests
            planned.append(_cell(key, which, task, n, pair[::-1] if len(planned) % 2 else pair))
    try:
        return cells.run(planned, folder, shown)
    finally:
        for build in pair:
            build.close()


def _cell(key: dict[str, Any], which: str, task: tasks.Task, n: int, turns: Sequence[Build]) -> Cell:
    def work() -> dict[str, Any]:
        x, y = task.sample(n, [0, n, zlib.crc32(task.name.encode())])  # as the accuracy benchmark's
        for build in turns:
            build.start()
        answers = {build.name: build.ask(x, y) for build in turns}
        return {"set": which, "name": task.name, "n": n, "true": task.mi, "first": turns[0].name} | answers

    return Cell(key, cells.at_once(work))


def of_build(results: Sequence[dict[str, Any]], build: str) -> list[dict[str, Any]]:
    """A build's answers as cells of the accuracy benchmark, NaN and not trusted where it gave an error."""
    nan = {"mi": math.nan, "interval": [math.nan, math.nan], "trusted": False, "failed": ["refused"]}
    found = []
    for line in results:
        given = line[build]
        cell = {key: line[key] for key in ("set", "name", "n", "true")} | {"seconds": given["seconds"]}
        values = {key: given[key] for key in ("mi", "interval", "trusted")} | {"failed": []}
        found.append(cell | (nan if given["error"] else values))
    return found


def ratio(line: dict[str, Any]) -> float:
    """Seconds of the build before over seconds of this one; NaN where either gave an error."""
    if any(line[build]["error"] for build in BUILDS):
        return math.nan
    return line["before"]["seconds"] / max(line["now"]["seconds"], 1e-9)


def tables_of(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Each build beside the truth, the ratios of their seconds, and every distribution: tables of words."""
    return {"builds": _beside_the_truth(results), "ratios": _ratios(results), "distributions": _each(results)}


def _beside_the_truth(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    own = {build: of_build(results, build) for build in BUILDS}
    summaries = {build: accuracy.summary(own[build]) for build in BUILDS}
    lines = []
    for which, n in dict.fromkeys((line["set"], line["n"]) for line in sorted(results, key=_place)):
        for build in BUILDS:
            [of] = [line for line in summaries[build] if (line["set"], line["n"]) == (which, n)]
            trusted = [cell for cell in own[build] if (cell["set"], cell["n"]) == (which, n) and cell["trusted"]]
            wrong = sum(accuracy.is_wrong(cell) for cell in trusted)
            lines.append({
                "N": n, "set": which, "build": build, "distributions": of["distributions"],
                "mean error, nats": _number(of["mae"], 3), "coverage": f"{100 * of['coverage']:.0f} %",
                "trusted": f"{100 * of['trusted']:.0f} %", "wrong of trusted": f"{wrong} of {len(trusted)}",
                "s, median": _number(of["seconds"], 2), "s, most": _number(of["slowest"], 2),
            })  # fmt: skip
    return lines


def _ratios(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for n in dict.fromkeys(line["n"] for line in results):
        at = [line for line in results if line["n"] == n]
        sets = [which for which in accuracy.SETS if any(line["set"] == which for line in at)]
        for which in [*sets, *([SEVERAL] if len(sets) > 1 else [])]:
            some = [line for line in at if which in (line["set"], SEVERAL) and not math.isnan(ratio(line))]
            if not some:
                continue
            ratios = [ratio(line) for line in some]
            quartiles = np.quantile(ratios, [0.25, 0.5, 0.75])
            apart = max(abs(line["now"]["mi"] - line["before"]["mi"]) for line in some)
            lines.append({
                "N": n, "set": which, "distributions": len(some), "median": _number(quartiles[1], 2),
                "quartiles": f"{_number(quartiles[0], 2)}, {_number(quartiles[2], 2)}",
                "least": _number(min(ratios), 2), "most": _number(max(ratios), 2),
                "values differ by at most, nats": _number(apart, 3),
                "verdicts differ": sum(line["now"]["trusted"] != line["before"]["trusted"] for line in some),
            })  # fmt: skip
    return lines


def _each(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for line in sorted(results, key=_place):
        words = {build: _value(line[build]) for build in BUILDS}
        seconds = {f"s, {build}": _number(line[build]["seconds"], 2) for build in BUILDS}
        of = {"N": line["n"], "set": line["set"], "distribution": line["name"], "true": _number(line["true"], 2)}
        lines.append(of | words | seconds | {"ratio": _number(ratio(line), 2)})
    return lines


def _place(line: dict[str, Any]) -> tuple[int, int]:
    return line["n"], list(accuracy.SETS).index(line["set"])


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _value(of: dict[str, Any]) -> str:
    return "refused" if of["error"] else f"{of['mi']:.2f}{'' if of['trusted'] else '?'}"


def command(
    checkout: Path,
    /,
    sizes: tuple[int, ...] = (500, 2000, 10_000),
    names: tuple[str, ...] = (),
    most: int | None = None,
    output: Path = Path("results/builds"),
    quick: bool = False,
    json: bool = False,
) -> None:
    """This build's default estimate beside that of another commit, on the same samples of known mutual information.

    Both estimate each sample in turns, in a worker each with one thread; who goes first alternates. Seconds are of
    processor time, without imports. The order of the distributions is drawn, the same one each time, so that those that
    a stopped run has done are an even part. Each is kept in the results folder when it is done: a run that was stopped
    goes on, and `--most` of as many as are done gives their tables. A changed build is estimated anew.

    Args:
        checkout: A folder with the other build, as `git worktree add FOLDER COMMIT` makes one. Its dependencies are
            this environment's.
        sizes: Numbers of pairs N.
        names: Distributions, by their names in the table. By default all.
        most: So many distributions at each size, the first in the order that is drawn. By default all.
        output: The results folder.
        quick: Five distributions at N = 500.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(sizes=min(sizes, default=0), most=most)
    require_checkout(checkout)
    if quick:
        sizes, names = (500,), accuracy.QUICK
    results = measured(checkout, sizes, plan(names, most), output, not json)
    protocol = (
        f"Before: {commit(checkout)}; now: {commit(HERE)}. Both estimate the same samples in turns, one thread each."
        " Seconds: processor time. Wrong is off by more than .25 nat and 10 %. Ratios: seconds before over seconds now."
        f" ? is not trusted. Load at the end: {os.getloadavg()[0]:.1f}."
    )
    made = tables_of(results)
    text = cells.write_tables(output, "builds", protocol, made)
    cells.report(text, finite(made | {"results": results}), output, json)
