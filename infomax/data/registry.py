"""Data sets by name or prefix:PLACE. A new reader of images is a module beside this one, and lines in here."""

import os
from collections.abc import Callable
from pathlib import Path

from infomax.data.channels import require_alpha
from infomax.data.emoji import emoji_parts
from infomax.data.folder import read_folder
from infomax.data.huggingface import read_huggingface
from infomax.data.packaged import digits_of_sklearn, mnist5k
from infomax.data.scenes import read_scenes, scenes_parts
from infomax.data.shards import read_shards
from infomax.data.signals import read_signals
from infomax.data.source import Dataset, Parts, finished, limited, opened_as, tell
from infomax.data.table import read_csv
from infomax.data.torchvision import from_torchvision_by
from infomax.data.waves import read_waves, waves_parts
from infomax.data.zarr import read_zarr
from infomax.errors import UserError, nearest

# What the names of paired data, and of given views, start with: paired_registry.py.
KINDS = ("halves:", "pairs:", "captions:", "names:", "views:")
_PLACES = "folder:PATH, csv:PATH, hf:NAME_OR_PATH, shards:PATTERN and zarr:PATH"


def dataset(
    name: str, root: str | os.PathLike[str] = "data", limit: int | None = None, size: int | None = None,
    *, skip_unreadable: bool = False,
) -> Dataset:  # fmt: skip
    """A data set by name: one of `registry`, `folder:PATH` for a folder of images, `csv:PATH` for a table of them,
    `hf:NAME_OR_PATH` for what Hugging Face's datasets reads, `shards:PATTERN` for WebDataset tar files, `zarr:PATH` for
    an array of images, `scenes:N` or `waves:N` for N drawn scenes or signals with known factors, or
    `signals:X.npy,Y.npy` for arrays [n, channels, time].

    root: where torchvision's data sets lie or are downloaded to. limit: keep this many training images, as even over
    the classes as can be, the first of each. size: the side in pixels of the images of a folder or table,
    which may also stand in the name, folder:PATH?size=64. There alpha stands alone: folder:PATH?alpha=white composes
    transparent pixels onto white, alpha=channel reads alpha as a fourth channel. By default it is composed, but for
    TIFFs whose fourth channel is marked as alpha and does not look like it, which is a channel.
    skip_unreadable: leave out image files that are empty or cannot be read, rather than refuse them. Each file is
    decoded once to see; those left out are counted in `notes`, listed in `left_out`, and part of the fingerprint.
    A folder is PATH/train and PATH/test (or val), each with a folder a class, or PATH with a folder a class, of whose
    images every class gives a fixed fifth to the test set. Images in no folder of a class have no labels. A table has
    the columns path (from its own folder), label (words or numbers; may be left out) and split (may be left out). Of
    hf:, shards: and zarr: the columns are known by their types, or named: hf:PATH?image=img&label=fine&target=age (of
    hf: alone; what probes predict beside the label, numbers or lists of words); parts are named as folders are. The
    order of shards: goes through one after another. Of hf: alone, the slices of NIfTI scans are images, or channels
    (slices=channels), and of a stream the first rows are read and held (streaming=yes&rows=N).
    Images that differ in size are cut to a square, where most are over twice as long as wide scaled to fit one shape,
    with black around them. Pixels of more than 8 bits are scaled to 0 .. 255 between the 0.1 and 99.9 percentiles of
    the training pixels, by channel. The copies of a picture are in one part
    (they are not looked for in folders of over 50,000 images and 2 GiB). What was left out or scaled is in `notes`,
    also printed on standard error.
    Raises UserError for an unknown name, data that cannot be had, nothing to read, or an unreadable image;
    with skip_unreadable, where too few images are left, and for data that are not files.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"The limit is a number of training images, at least 1, not {limit!r}.")
    if size is not None and (not isinstance(size, int) or not 4 <= size <= 4096):
        raise UserError(f"The size is a side in pixels from 4 to 4096, not {size!r}.")
    made = _opened(name, root, limit, size, skip_unreadable)
    tell(name, made.notes)
    return made if size is not None else opened_as(made, name, limit, skip_unreadable)  # a size beside the name is lost


def _opened(name: str, root: str | os.PathLike[str], limit: int | None, size: int | None, skip: bool) -> Dataset:
    prefix, colon, rest = name.partition(":")
    if colon:
        if prefix in readers_of_files:
            rest, size = _sized(name, rest, size)
            rest, alpha = _with_alpha(name, rest)
            return readers_of_files[prefix](name, rest, limit, size, skip, alpha)
        if name.startswith(KINDS):
            raise UserError(
                f"{name!r} names pairs of two modalities, which recipes/clip.py trains on (infomax recipe clip) and "
                f"im.data.paired opens; images alone are {_PLACES}."
            )
        if prefix not in readers:
            known = ", ".join(f"{prefix}:" for prefix in [*readers_of_files, *readers])
            raise UserError(f"No data set {name!r}: a source starts with one of {known}, and none with {prefix}:.")
        _refuse_skip(name, skip)
        return readers[prefix](name, rest, limit, size)
    _refuse_skip(name, skip)
    if size is not None:
        raise UserError(f"A size can be asked for with {_PLACES} only; the images of {name!r} have theirs.")
    if name not in registry:
        raise UserError(f"Unknown data set {name!r}.{nearest(name, registry)} Or {_PLACES}.")
    train, test, kind, flip = registry[name](Path(root).expanduser())
    return finished(name, limited(train, limit), test, kind, flip)


def _sized(name: str, rest: str, size: int | None) -> tuple[str, int | None]:
    # "PATH?size=32&label=x" -> "PATH?label=x", 32: part of the name, so that whoever reads a run's data reads the same.
    rest, asked = _without(rest, "size")
    if not asked:
        return rest, size
    if (
        len(asked) > 1
        or not asked[0].isdecimal()
        or not 4 <= int(asked[0]) <= 4096
        or size not in (None, int(asked[0]))
    ):
        raise UserError(f"{name!r}: the size is one side in pixels, from 4 to 4096, as in ?size=64.")
    return rest, int(asked[0])


def _with_alpha(name: str, rest: str) -> tuple[str, str | None]:
    # "PATH?alpha=channel&label=x" -> "PATH?label=x", "channel".
    rest, asked = _without(rest, "alpha")
    if len(asked) > 1:
        raise UserError(f"{name!r} chooses alpha twice: keep one.")
    require_alpha(name, asked[0] if asked else None)
    return rest, asked[0] if asked else None


def _without(rest: str, option: str) -> tuple[str, list[str]]:
    # What stands after a prefix without an option, and the option's values.
    place, _, choices = rest.rpartition("?")
    pairs, start = choices.split("&"), f"{option}="
    asked = [pair.removeprefix(start) for pair in pairs if place and pair.startswith(start)]
    if not asked:
        return rest, []
    others = "&".join(pair for pair in pairs if not pair.startswith(start))
    return f"{place}?{others}" if others else place, asked


def _refuse_skip(name: str, skip: bool) -> None:
    if skip:
        raise UserError(f"--skip-unreadable goes with {_PLACES}; {name!r} is not read from files of images.")


# What opens `prefix:REST`: (name, REST, limit, size) -> Dataset. A new source is its file and a line here; one of image
# files is also handed whether to leave out those that cannot be read, and what becomes of alpha.
readers_of_files: dict[str, Callable[[str, str, int | None, int | None, bool, str | None], Dataset]] = {
    "folder": read_folder,
    "csv": read_csv,
    "hf": read_huggingface,
    "shards": read_shards,
    "zarr": read_zarr,
}
readers: dict[str, Callable[[str, str, int | None, int | None], Dataset]] = {
    "scenes": read_scenes,
    "signals": read_signals,
    "waves": read_waves,
}


registry: dict[str, Callable[[Path], Parts]] = {
    "mnist5k": mnist5k,
    "digits": digits_of_sklearn,
    "scenes": scenes_parts,
    "waves": waves_parts,
    "emoji": emoji_parts,
    "mnist": from_torchvision_by("mnist", "digits", False),
    "fashionmnist": from_torchvision_by("fashionmnist", "natural", True),
    "cifar10": from_torchvision_by("cifar10", "natural", True),
    "cifar100": from_torchvision_by("cifar100", "natural", True),
    "stl10": from_torchvision_by("stl10", "natural", True),
}
