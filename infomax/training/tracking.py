"""Experiment trackers beside log.jsonl, by name: those that Accelerate knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infomax.errors import UserError, nearest

TRACKERS = ("tensorboard", "trackio", "wandb")


class Tracker:
    """Passes a run's numbers on to a tracker, from `start` on; None passes them nowhere.

    Raises UserError, before anything is written: an unknown tracker, or one whose package is not installed.
    """

    def __init__(self, name: str | None):
        self.name = name
        self._inner: Any = None
        if name is None:
            return
        if name not in TRACKERS:
            raise UserError(f"Unknown tracker {name!r}.{nearest(name, TRACKERS)} log.jsonl is always written.")
        from accelerate.tracking import get_available_trackers

        if name not in [str(getattr(t, "value", t)) for t in get_available_trackers()]:
            raise UserError(f"The tracker {name!r} is not installed: pip install {name}. log.jsonl is always written.")

    def start(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        """Opens the tracker for the run in `folder`. For the main process alone; the others log nothing."""
        if self.name is None:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[self.name]
        if kind.requires_logging_directory:
            self._inner = kind(self.name, logging_dir=str(folder))  # written to <folder>/<tracker>
        else:
            self._inner = kind("infomax", name=folder.name)  # a project of runs
        self._inner.start()
        plain = {key: v if isinstance(v, int | float | str | bool) else str(v) for key, v in configuration.items()}
        self._inner.store_init_configuration(plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._inner is not None:
            self._inner.log(dict(values), step=step)

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
