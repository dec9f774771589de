"""Experiment trackers beside log.jsonl, by name: those that Accelerate knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infomax.errors import UserError

TRACKERS = ("tensorboard", "trackio", "wandb")


class Tracker:
    """Passes a run's numbers on to a tracker; None passes them nowhere. Use it on the main process alone.

    Raises UserError: an unknown tracker, or one whose package is not installed.
    """

    def __init__(self, name: str | None, folder: Path, configuration: Mapping[str, Any]):
        self._inner: Any = None
        if name is None:
            return
        if name not in TRACKERS:
            raise UserError(f"Unknown tracker {name!r}. Known: {', '.join(TRACKERS)}; log.jsonl is always written.")
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        if name not in [str(getattr(t, "value", t)) for t in get_available_trackers()]:
            raise UserError(f"The tracker {name!r} is not installed: pip install {name}. log.jsonl is always written.")
        kind = LOGGER_TYPE_TO_CLASS[name]
        where = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
        self._inner = kind(folder.name, **where)
        self._inner.start()
        plain = {key: v if isinstance(v, int | float | str | bool) else str(v) for key, v in configuration.items()}
        self._inner.store_init_configuration(plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._inner is not None:
            self._inner.log(dict(values), step=step)

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
