"""The images of a column of a Hugging Face table: encoded, arrays, paths of files, or the slices of scans."""

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infomax.data.huggingface_parts import hub_package, needs
from infomax.data.packed import File, Packed, packed_array
from infomax.data.scans import Scan
from infomax.errors import UserError, extra

PATHS = ("image", "img", "path", "file", "file_name", "filename", "image_path")  # names of a column of paths


def image_columns(features: Any) -> list[str]:
    """The columns that can be the images: those of images or scans; else of arrays; else of paths, by their names.

    features: the table's datasets.Features.
    """
    hub = hub_package()
    for kinds in ((hub.Image, hub.Nifti), (hub.Array2D, hub.Array3D)):
        found = [name for name, kind in features.items() if isinstance(kind, kinds)]
        if found:
            return found
    return [name for name, kind in features.items() if is_text(kind) and name.lower() in PATHS]


def is_text(kind: Any) -> bool:
    """Whether a column of this feature holds words or paths."""
    return isinstance(kind, hub_package().Value) and "string" in kind.dtype


def holds_images(kind: Any) -> bool:
    """Whether a column of this feature can be asked for as the images."""
    hub = hub_package()
    return is_text(kind) or isinstance(kind, hub.Image | hub.Nifti | hub.Array2D | hub.Array3D)


def images_of(place: str, part: str, rows: Any, image: str, channels: bool) -> list[list[File]]:
    """The images of each row of a part: one, or of a scan its slices.

    place, part: in messages. rows: a datasets.Dataset. image: the column. channels: whether a scan is one image, whose
    channels are the slices. Raises UserError for a row without an image and for files that are not there.
    """
    hub, kind = hub_package(), rows.features[image]
    if is_text(kind):
        return [[file] for file in _named(place, part, rows.with_format(None).select_columns([image])[image], image)]
    if isinstance(kind, hub.Array2D | hub.Array3D):
        return [[file] for file in _arrays(place, part, rows.select_columns([image]), image, tuple(kind.shape))]
    files = _encoded(place, part, rows, image, type(kind))
    if not isinstance(kind, hub.Nifti):
        return [[file] for file in files]
    extra("nibabel", str(needs(f"The column {image} of {place}, scans,", "nibabel")))
    return [list(Scan(file).images(channels)) for file in files]


def _encoded(place: str, part: str, rows: Any, image: str, kind: Any) -> list[File]:
    rows = rows.select_columns([image]).cast_column(image, kind(decode=False)).with_format("arrow")
    compute = importlib.import_module("pyarrow.compute")
    files: list[File] = []
    for start in range(0, len(rows), 1000):
        column = rows[start : start + 1000].column(image).combine_chunks()
        sizes = compute.binary_length(column.field("bytes")).to_pylist()
        for row, (size, path) in enumerate(zip(sizes, column.field("path").to_pylist(), strict=True), start):
            if size is not None:
                ending = Path(path).name if path else "image"
                files.append(Packed(f"{part}/{row}/{ending}", size, partial(_bytes, rows, image, row)))
            elif path is not None:
                # Of gzip://scan.nii::PATH.gz the file itself.
                files.append(Path(path.rpartition("::")[2] if "://" in path else path))
            else:
                raise UserError(f"Row {row} of the part {part} of {place} has no image in column {image}: drop it.")
    absent = [file for file in files if isinstance(file, Path) and not file.is_file()]
    if absent:
        raise UserError(f"{len(absent)} of {len(files)} images of {place} are not there, for instance {absent[0]}.")
    return files


def _bytes(rows: Any, image: str, row: int) -> bytes:
    return rows[row : row + 1].column(image)[0]["bytes"].as_py()


def _arrays(place: str, part: str, rows: Any, image: str, shape: tuple[int | None, ...]) -> list[File]:
    # Out of Arrow's lists: in datasets' own NumPy format bytes come as int64.
    rows = rows.with_format("arrow")
    empty = [row for start in range(0, len(rows), 1000)
             for row, there in enumerate(rows[start : start + 1000].column(image).is_valid().to_pylist(), start)
             if not there]  # fmt: skip
    if empty:
        raise UserError(f"Row {empty[0]} of the part {part} of {place} has no image in column {image}: drop it.")

    def read(row: int) -> np.ndarray:
        values = rows[row : row + 1].column(image).combine_chunks().storage
        while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            values = values.flatten()
        return values.to_numpy(zero_copy_only=False).reshape(-1, *(side or -1 for side in shape[1:]))

    size = read(0).nbytes if len(rows) else 0
    return [packed_array(f"{part}/{row}/{image}", size, partial(read, row)) for row in range(len(rows))]


def _named(place: str, part: str, paths: list[str | None], image: str) -> list[File]:
    # Paths are of the table's own folder, unless they are absolute.
    root = Path(place).expanduser()
    root = root if root.is_dir() else root.parent
    files: list[File] = [root / (path or "") for path in paths]
    missing = [row for row, file in enumerate(files) if not paths[row] or not Path(str(file)).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images that column {image} of {place} names are not there, for instance "
            f"{files[missing[0]]} in row {missing[0] + 1} of {part}: paths start from the table's folder."
        )
    return files
