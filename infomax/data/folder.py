"""Folders of image files, one folder a class, with or without a split of their own."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from infomax.data.memory import MemorySplit
from infomax.data.source import Dataset, Split, checksum_of, finished, limited
from infomax.errors import UserError

MEMORY_BUDGET = 2 * 1024**3  # bytes of decoded images held in memory; a larger folder is decoded as it is needed
MAX_PIXELS = 64 * 1024**2  # of one image file: a small file can claim to be larger than memory
_MAX_SIDE = 224  # of the common size that a folder's images are brought to, unless another is asked for
_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
TEST_PART = 5  # one in so many images of each class is a test image where no split is given
_HEADERS = 50_000  # files whose headers are read to learn size and colour; of more, an even sample
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
            return checksum_of(self, *lines)
        except OSError as error:
            raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def loaded(self) -> MemorySplit:
        """The same images, all decoded."""
        return MemorySplit(self.batch(range(len(self))), self.labels, self.classes)


def read_folder(name: str, path: Path, limit: int | None, size: int | None) -> Dataset:
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
    splits[0] = limited(splits[0], limit)
    if sum(map(len, splits)) * int(np.prod(shape)) <= MEMORY_BUDGET:
        return finished(name, splits[0].loaded(), splits[1].loaded(), "natural", True)
    return finished(name, splits[0], splits[1], "natural", True)


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
        count = max(len(files) // TEST_PART, 1) if len(files) > 1 else 0
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
