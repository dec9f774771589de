"""What a saved run knows of itself: its encoder, how it was trained, what was measured, and what nothing was."""

import contextlib
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from infomax.checkpoints import Checkpoint, read_encoder, read_part
from infomax.checkpoints.checkpoint import LOG_FILE, RUN_FILE
from infomax.checkpoints.description import encoder_name
from infomax.checkpoints.files import read_sealed
from infomax.data.registry import KINDS, readers, readers_of_files
from infomax.errors import UserError
from infomax.ui.report import run_folder

RESOLVED = ("recipe", "data", "data_notes", "data_left_out", "start")  # of a configuration: found, and not asked for
PREFIX = re.compile(r"[a-z][\w-]+:(?!//)")  # folder:, signals: or local-dir:, after which a path may stand
# After these a path without a start, too; after hf: it is a name with a slash.
PLACES = {*KINDS, "local-dir:", *(f"{kind}:" for kind in (*readers_of_files, *readers) if kind != "hf")}


@final
@dataclass(frozen=True)
class Record:
    """A saved run as it is shipped.

    run: its folder. checkpoint: that was read. encoder: of it, in evaluation mode on the CPU. part: its name in the
    model: encoder, encoder_x or encoder_y. mean, std: a number a channel, None where the run does not say. input_size:
    (channels, height, width), or None. results: what the run measured of this very checkpoint, as run.json has it;
    a text says why there are none. health: the step and the numbers, by name, that were last measured of held-out
    features up to this checkpoint, or None. versions: of the packages that the run used, by name.
    """

    run: Path
    checkpoint: Checkpoint
    encoder: nn.Module
    part: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_size: tuple[int, ...] | None
    results: dict[str, Any] | str
    health: tuple[int, dict[str, float]] | None
    versions: dict[str, str]

    @property
    def config(self) -> dict[str, Any] | None:
        """timm's words for the encoder, as encoder_config() has them; None where it is not one of timm's."""
        found = self.described
        return found if isinstance(found, dict) else None

    @property
    def described(self) -> Any:
        """The encoder as the checkpoint describes it: timm's words, or the constructor call of another."""
        return ((self.checkpoint.model or {}).get("parts") or {}).get(self.part)

    @property
    def configuration(self) -> dict[str, Any]:
        """The run's options and what they came to."""
        return self.checkpoint.configuration


def read(run: Path, part: str | None = None) -> Record:
    """The record of a run or checkpoint folder.

    run: the folder. part: the encoder to take of a model of two, encoder_x or encoder_y; None for the first.
    Raises UserError: a folder that cannot be read, a part that is not there or is no encoder.
    """
    if part is None:
        checkpoint, encoder = read_encoder(run)
        part = encoder_name(checkpoint.model)
    elif part in ("encoder", "encoder_x", "encoder_y"):
        checkpoint, encoder = read_part(run, part)
    else:
        raise UserError(f"--part is encoder_x or encoder_y, of a model of two encoders; not {part!r}.")
    mean, std, size = _prepared(checkpoint, part)
    folder = run_folder(run)
    about = read_sealed(folder / RUN_FILE) if (folder / RUN_FILE).exists() else None
    return Record(
        folder, checkpoint, encoder, part, mean, std, size, _results(about, checkpoint),
        _health(folder / LOG_FILE, checkpoint.step), (about or {}).get("versions") or {},
    )  # fmt: skip


def _prepared(checkpoint: Checkpoint, part: str) -> tuple[Any, Any, Any]:
    """mean, std and input_size of what the encoder was shown."""
    known: Mapping[str, Any] = checkpoint.preprocessing or {}
    if part in ("encoder_x", "encoder_y"):
        known = known.get(part[-1]) or {}
    return tuple(
        tuple(known[key]) if isinstance(known.get(key), list | tuple) else None for key in ("mean", "std", "input_size")
    )  # type: ignore[return-value]


def _results(about: Mapping[str, Any] | None, checkpoint: Checkpoint) -> dict[str, Any] | str:
    if about is None:
        return "the checkpoint was exported without its run"
    results = about.get("results")
    if not isinstance(results, dict):
        return "the run had not ended when it was exported"
    if "not_evaluated" in results:
        return str(results["not_evaluated"]).rstrip(".")
    if (results.get("checkpoint") or {}).get("checksum") != checkpoint.checksum:
        return f"what the run measured is of another checkpoint than that of step {checkpoint.step}"
    return results


def _health(log: Path, step: int) -> tuple[int, dict[str, float]] | None:
    found = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # a line that is being written
                record = json.loads(line)
                numbers = {key: float(v) for key, v in record.items() if key.startswith(("health/", "probe/"))}
                numbers = {key: value for key, value in numbers.items() if math.isfinite(value)}
                if numbers and int(record["number"]) <= step:
                    found = int(record["number"]), numbers
    return found


def command(configuration: Mapping[str, Any]) -> list[str]:
    """The options that start such a run, as words of a command line: all of them, as defaults may change.

    configuration: a run's. Of --epochs and --steps the latter, which a configuration always has.
    """
    words: list[str] = []
    for name, value in configuration.items():
        if name in RESOLVED or value is None or value is False or (name == "epochs" and configuration.get("steps")):
            continue
        words.append(f"--{name.replace('_', '-')}")
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [] if value is True else [value]
        words += [str(each) for each in values]
    return words


def started_by(configuration: Mapping[str, Any]) -> list[str]:
    """The lines of a shell that start such a run, with options a few a line and paths shortened.

    configuration: a run's.
    """
    name = configuration.get("recipe")
    words = [shlex.quote(shortened(word)) for word in command(configuration)]
    if not isinstance(name, str) or not words:
        return []
    groups: list[str] = []
    for word in words:
        if word.startswith("--"):
            groups.append(word)
        else:
            groups[-1] += f" {word}"
    lines, line = [], f"accelerate launch {name}.py"
    for group in groups:
        if len(line) + len(group) > 100:
            lines.append(line + " \\")
            line = "   "
        line += f" {group}"
    return [*lines, line]


def shortened(text: str) -> str:
    """A name of data or weights without the folders of the machine that holds it: folder:cats of folder:/home/me/cats.

    text: as an option has it. What is no path is returned as it is.
    """
    found = PREFIX.match(text)
    prefix = found[0] if found else ""
    rest = text.removeprefix(prefix)
    if prefix and PREFIX.match(rest):  # halves:folder:PATH
        return prefix + shortened(rest)
    place, mark, options = rest.partition("?")
    if prefix in PLACES and "/" in place:
        place = ",".join(Path(part).name or part for part in place.split(","))
    values = (option.partition("=") for option in options.split("&"))
    options = "&".join(name + equals + _last(value) for name, equals, value in values)
    return prefix + ",".join(map(_last, place.split(","))) + mark + options


def _last(path: str) -> str:
    """The last part of what starts as a path does; all else as it is."""
    return Path(path).name or path if path.startswith(("/", "~", "./", "../")) else path
