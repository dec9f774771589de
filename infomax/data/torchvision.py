"""Reader of torchvision's data sets, which are downloaded at first use."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infomax.data.memory import MemorySplit
from infomax.data.source import Kind, Parts
from infomax.errors import UserError


def from_torchvision_by(name: str, kind: Kind, flip: bool) -> Callable[[Path], Parts]:
    def read(root: Path) -> Parts:
        import torchvision.datasets

        maker = {
            "mnist": torchvision.datasets.MNIST,
            "fashionmnist": torchvision.datasets.FashionMNIST,
            "cifar10": torchvision.datasets.CIFAR10,
            "cifar100": torchvision.datasets.CIFAR100,
            "stl10": torchvision.datasets.STL10,
        }[name]

        def make(download: bool) -> list[Any]:
            parts = ({"split": "train"}, {"split": "test"}) if name == "stl10" else ({"train": True}, {"train": False})
            return [maker(str(root), download=download, **part) for part in parts]

        # Standard output may be one JSON object's: torchvision's words go to standard error.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                made = make(download=False)
            except Exception:  # not there, or not whole
                made = _downloaded(name, root, make)
        splits = [_from_torchvision(name, part) for part in made]
        return splits[0], splits[1], kind, flip

    return read


def _downloaded(name: str, root: Path, make: Callable[[bool], list[Any]]) -> list[Any]:
    from filelock import FileLock

    fresh, lock = not root.exists(), root / f".{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # processes of one run would write into the same file
            return make(True)
    except Exception as error:  # connection, disk, archive: each library below raises its own kind
        lock.unlink(missing_ok=True)
        if fresh:  # leave no empty folders behind
            for place, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(place)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")
        raise UserError(
            f"The data set {name!r} is not whole in {root} and could not be downloaded ({reason}): connect this "
            "machine, or copy torchvision's files there from another one; mnist5k and digits need no download."
        ) from error


def _from_torchvision(name: str, part: Any) -> MemorySplit:
    images = torch.as_tensor(np.asarray(part.data))
    if images.ndim == 3:
        images = images[:, None]  # MNIST: [n, h, w]
    elif name.startswith("cifar"):
        images = images.permute(0, 3, 1, 2)  # [n, h, w, c]
    labels = torch.as_tensor(np.asarray(part.labels if name == "stl10" else part.targets), dtype=torch.int64)
    if len(images) != len(labels) or not len(images):
        raise UserError(
            f"The files of {name!r} hold {len(images)} images and {len(labels)} labels: download them again."
        )
    return MemorySplit(images, labels, list(part.classes))
