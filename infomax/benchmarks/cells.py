"""Shared by the estimator benchmarks: jobs (cells) that a killed run need not repeat, and tables of results.

A results folder holds cells/, a file a finished cell, and what is made of them: NAME.md, NAME.csv, NAME.png.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from infomax import __version__
from infomax.errors import UserError
from infomax.files import finite, lock, plain, write_json, write_whole

Work = Callable[[], Generator[float, None, dict[str, Any]]]
"""Yields its progress in [0, 1] and returns what it found: numbers, texts, lists, and tensors at the top."""

POLL = 0.5  # seconds between looks at what other processes finished


@dataclass(frozen=True)
class Cell:
    """A piece of work, the configuration that decides its result, and that of a cell which it goes on from."""

    key: Mapping[str, Any]
    work: Work
    after: Mapping[str, Any] | None = None


def path_of(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where the cell of a configuration lies: its experiment's name and a digest of all of it."""
    digest = hashlib.sha256(_text(key).encode()).hexdigest()[:20]
    return folder / "cells" / f"{key.get('experiment', 'cell')}-{digest}.json"


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(plain(key, spell=float), sort_keys=True)


def finished(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a cell that was finished before; None where there is none, or none that can be read."""
    from safetensors.torch import load_file

    path = path_of(folder, key)
    try:
        content = json.loads(path.read_text())
        if _text(_numbers(content["key"])) != _text(key):
            return None
        found = _numbers(content["result"])
        return found | (load_file(path.with_suffix(".safetensors")) if content["tensors"] else {})
    except Exception:  # absent, or damaged by something else than a kill: safetensors raises an error of its own
        return None


def keep(folder: Path, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Writes a finished cell, whole or not at all: tensors first, since the JSON file says that they are there."""
    from safetensors.torch import save_file

    path = path_of(folder, key)
    tensors = {name: value.contiguous() for name, value in result.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in result.items() if not isinstance(value, Tensor)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tensors:
            write_whole(path.with_suffix(".safetensors"), lambda temporary: save_file(tensors, temporary))
        write_json(path, {"key": key, "result": rest, "tensors": bool(tensors)})
    except OSError as error:
        raise _unwritable(folder, error) from error


def run(cells: Iterable[Cell], folder: Path, shown: bool = True) -> list[dict[str, Any]]:
    """The results of all cells in order; those that an earlier run finished are read, not worked on again.

    Several processes may run the same cells in one folder: each takes what no other has taken, and waits for the rest.
    """
    cells = list(cells)
    _told_of_others(folder)
    results: dict[int, dict[str, Any]] = {}
    with _Bar(len(cells), shown) as bar:
        while len(results) < len(cells):
            before = len(results)
            for number, cell in enumerate(cells):
                if number in results:
                    continue
                known = finished(folder, cell.key)
                found = known or _result(cell, folder, bar, len(results))
                if found is not None:
                    results[number] = found
                    bar.at(len(results), _named(cell.key), known is not None)
            if len(results) == before:
                time.sleep(POLL)  # another process works on all that is left
    return [results[number] for number in range(len(cells))]


def _result(cell: Cell, folder: Path, bar: "_Bar", done: int) -> dict[str, Any] | None:
    """A cell's result, worked out if need be; None where another process is about it, or what it needs is not there."""
    if cell.after is not None and finished(folder, cell.after) is None:
        return None
    with _taken(folder, cell.key) as mine:
        if not mine:
            return None
        if (found := finished(folder, cell.key)) is not None:  # while this process came to it
            return found
        bar.at(done, _named(cell.key))
        work = cell.work()
        try:
            while True:
                bar.at(done + next(work), _named(cell.key))
        except StopIteration as end:
            keep(folder, cell.key, end.value)
        return finished(folder, cell.key)


def maker() -> str:
    """Which estimators and benchmarks these are: a digest of their files, with what they are made of."""
    library = Path(__file__).parents[1]
    parts = [library / name for name in ("estimation", "benchmarks", "scores")]
    kept = sorted([*library.glob("*.py"), *(path for part in parts for path in part.rglob("*.py"))])
    return hashlib.sha256(b"".join(path.read_bytes() for path in kept)).hexdigest()[:20]


def _told_of_others(folder: Path) -> None:
    """Says where a folder's cells were made by other estimators than today's, and writes down whose a new one's are."""
    today = maker()
    path = folder / "cells" / "version"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(today)
        except OSError as error:
            raise _unwritable(folder, error) from error
    elif path.read_text() != today:
        print(
            f"Some of what is finished in {folder} may be another version's: name another folder with --output to work"
            " everything out anew.", file=sys.stderr,
        )  # fmt: skip


@contextlib.contextmanager
def _taken(folder: Path, key: Mapping[str, Any]) -> Iterator[bool]:
    """Whether this process has a cell to itself: a lock of the system's, which ends with the process that holds it."""
    path = path_of(folder, key).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held, free = lock(path), True  # without locks, as on Windows, one process a folder
    except BlockingIOError:
        held, free = None, False
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield free
        if free:
            # Whoever waits at the old file finds the cell finished; had it not been, the file would still be there.
            path.unlink(missing_ok=True)
    finally:
        if held is not None:
            os.close(held)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} could not be written ({error}); name another folder with --output.")


def at_once(work: Callable[[], dict[str, Any]]) -> Work:
    """Work that has no progress to tell before its end."""

    def step() -> Generator[float, None, dict[str, Any]]:
        yield 0.0
        return work()

    return step


class _Bar:
    """Cells done, on standard error: a live bar on a terminal, else nothing but a line a tenth."""

    def __init__(self, total: int, shown: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.total, self.lines, self.console, self.told = total, shown and not console.is_terminal, console, 0
        self.bar = Progress(
            TextColumn("{task.percentage:>3.0f} %"), BarColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False), console=console, disable=not shown or self.lines,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=max(total, 1))

    def __enter__(self) -> "_Bar":
        self.began, self.found = time.monotonic(), 0.0  # and what an earlier run had done
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def at(self, done: float, what: str, found: bool = False) -> None:
        if found:
            self.found += 1
        self.bar.update(self.task, completed=done, description=what)
        tenth = int(10 * done / max(self.total, 1))
        if self.lines and tenth > self.told:
            self.told = tenth
            worked = done - self.found
            left = (time.monotonic() - self.began) * (self.total - done) / worked if worked > 0.01 else math.nan
            left = "" if math.isnan(left) else f"{left:.0f} s left  "
            told = f"{10 * tenth} %  {done:.3g} of {self.total} cells  {left}{what}"
            self.console.print(told, highlight=False, soft_wrap=True)


def _named(key: Mapping[str, Any]) -> str:
    words = [str(key[name]) for name in ("row", "task", "tasks", "test") if name in key]
    numbers = [f"{name} {key[name]:g}" for name in ("level", "mi", "n", "bits", "tau") if name in key]
    return ", ".join([*words, *numbers])[:100]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table, the keys its head."""
    if not rows:
        return ""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(_cell(row[name]) for name in head) + " |" for row in rows)])


def write_tables(folder: Path, name: str, protocol: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Each table as NAME.md (returned), NAME-TABLE.csv and, with unrounded numbers, NAME.json."""
    text = "\n\n".join([protocol, *(f"**{title}**\n\n{markdown(rows)}" for title, rows in tables.items() if rows)])
    write_page(folder, name, text)
    try:
        for title, rows in tables.items():
            if rows:
                buffer = io.StringIO()
                writer = csv.DictWriter(buffer, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
                slug = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
                (folder / f"{name}-{slug}.csv").write_text(buffer.getvalue(), encoding="utf-8")
        write_json(folder / f"{name}.json", {"protocol": protocol, "tables": tables})
    except OSError as error:
        raise _unwritable(folder, error) from error
    return text


def write_page(folder: Path, name: str, text: str) -> None:
    """Markdown as NAME.md in a results folder. Raises UserError: a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def report(text: str, tables: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """What a command prints at its end."""
    if as_json:
        print(json.dumps(finite({"output": str(folder), "tables": tables}), allow_nan=False))
    else:
        print(f"{text}\n\nPicture, tables and cells: {folder}")


def figure(path: Path, *shape: Any, **options: Any) -> "tuple[Any, Any, Callable[[], None]]":
    """A figure, its axes, and what saves it to `path`, small, with the library's version and maker() in the file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(*shape, layout="constrained", **options)

    def save() -> None:
        from PIL import Image, PngImagePlugin

        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        made = PngImagePlugin.PngInfo()
        made.add_text("Software", f"infomax {__version__}, {maker()}")
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True, pnginfo=made)

    return figure, axes, save


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "-" if math.isnan(value) else str(value)
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:.1e}"
    return str(value)


def _numbers(value: Any) -> Any:
    # The words that write_json has for numbers that JSON lacks.
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
