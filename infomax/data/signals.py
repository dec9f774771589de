"""Signals [n, channels, time] with labels: arrays in hand, and files, `signals:X.npy` and `signals:X.npy,Y.npy`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.listing import fifth
from infomax.data.memory import labels_of, worded
from infomax.data.source import Dataset, Split, checksum_of, finished, limited, varies
from infomax.data.targets import pair_of_targets
from infomax.errors import UserError


@final
class SignalSplit(Split):
    """Signals float32 [n, channels, time] held in memory, with labels int64 [n] or None."""

    in_memory = True
    what = "signals"

    def __init__(self, signals: Tensor, labels: Tensor | None, classes: Sequence[str]) -> None:
        self.signals, self.labels, self.classes = signals.contiguous(), labels, list(classes)
        self.shape = tuple(signals.shape[1:])

    def __len__(self) -> int:
        return len(self.signals)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        return self.signals[torch.as_tensor(indices, dtype=torch.int64)]

    def subset(self, indices: Tensor | Sequence[int]) -> "SignalSplit":
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        return self._handed(SignalSplit(self.signals[index], labels, self.classes), index)

    def checksum(self) -> str:
        return checksum_of(self, self.signals.numpy())


def from_signals(
    train: Any,
    train_labels: Any,
    test: Any,
    test_labels: Any,
    name: str = "signals",
    classes: Sequence[str] | None = None,
    targets: Any = None,
    target_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set of signals in hand, NumPy's or torch's: [n, channels, time], or [n, time] of one channel.

    train, test: the two parts. train_labels, test_labels: [n] each, numbers from 0 or words, or None. name: what
    reports call it. classes: the labels' names, by default the words in order, or the numbers. targets,
    target_names: as from_tensors() takes them. Signals are numbers of any unit; views are normalised by the
    mean and deviation of each channel of the training part. Raises UserError for other shapes, NaN or infinity, lengths
    that differ, or signals that never change.
    """
    parts = [_signals("training", train), _signals("test", test)]
    if parts[0].shape[1:] != parts[1].shape[1:]:
        raise UserError(
            f"Training signals of shape {list(parts[0].shape[1:])} and test signals of {list(parts[1].shape[1:])} "
            "(channels, time) do not go together."
        )
    train_labels, test_labels, classes = worded(train_labels, test_labels, classes)
    labels = [
        labels_of(what, of, len(part), "signals")
        for what, of, part in zip(("training", "test"), (train_labels, test_labels), parts, strict=True)
    ]
    highest = max((int(label.max()) for label in labels if label is not None and len(label)), default=-1)
    classes = [str(label) for label in range(highest + 1)] if classes is None else classes
    if len(classes) <= highest:
        raise UserError(f"There is a label {highest}, but only {len(classes)} classes are named.")
    splits = [SignalSplit(part, label, classes) for part, label in zip(parts, labels, strict=True)]
    splits[0].targets, splits[1].targets = pair_of_targets(targets, target_names, [len(part) for part in parts])
    return _made(name, splits[0], splits[1])


def read_signals(name: str, rest: str, limit: int | None, size: int | None) -> Dataset:
    """The data set of `signals:X.npy` or `signals:X.npy,Y.npy`: see infomax.data.dataset.

    X.npy: numbers [n, channels, time] or [n, time]. Y.npy: their labels [n], words or whole numbers. A fixed fifth of
    each class is the test part. Raises UserError as from_signals() does, and for files that cannot be read.
    """
    if size is not None:
        raise UserError(f"Signals have their own length: leave size={size} out.")
    paths = rest.split(",")
    if not all(paths) or len(paths) > 2:
        raise UserError(f"signals:X.npy or signals:X.npy,Y.npy names one or two files, and {rest!r} does not.")
    arrays = [_loaded(path) for path in paths]
    values = _signals("given", arrays[0])
    labels, classes = None, []
    if len(arrays) == 2:
        given, _, names = worded(arrays[1], arrays[1], None)
        labels = labels_of("given", given, len(values), "signals")
        assert labels is not None
        classes = [str(k) for k in range(int(labels.max()) + 1)] if names is None else list(names)
    held = torch.from_numpy(fifth([str(i) for i in range(len(values))], labels))
    if not held.any() or held.all():
        raise UserError(f"{paths[0]} has one signal in each class, so none is left for a test set: add signals.")
    whole = SignalSplit(values, labels, classes)
    train, test = (whole.subset(part.nonzero().flatten()) for part in (~held, held))
    return _made(name, limited(train, limit), test)


def _made(name: str, train: SignalSplit, test: SignalSplit) -> Dataset:
    made = finished(name, train, test, "signals", False)
    if not varies(made):
        raise UserError(f"The training signals of {name!r} never change: see whether this is the right array.")
    return made


def _loaded(path: str) -> np.ndarray:
    try:
        return np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a NumPy array ({str(error).splitlines()[0]}).") from error


def _signals(what: str, values: Any) -> Tensor:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "uif":
        raise UserError(f"The {what} signals must be numbers, and are {array.dtype}.")
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or array.shape[1] == 0 or array.shape[2] < 2:
        raise UserError(
            f"The {what} signals have shape {list(array.shape)}: [n, channels, time] or [n, time] is needed, of 2 "
            "times or more."
        )
    if len(array) == 0:
        raise UserError(f"The {what} signals are empty: shape {list(array.shape)}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold is said below
        numbers = np.array(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers).all((1, 2)))
    if len(bad):
        raise UserError(f"The {what} signals hold NaN or infinity in {len(bad)} rows, the first of them row {bad[0]}.")
    return torch.from_numpy(numbers)
