"""WebDataset tar files: `shards:PATTERN`, whose samples are read by their place in a shard.

The tar files are read with Python's tarfile and not with the package webdataset, which reads a stream whose order
depends on how many processes and workers there are and where it began. A place in a file is exact: any process reads
its part of any step's batch, so a run resumes bit for bit and does not depend on the number of processes.
"""

import glob
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from infomax.data.choice import LABELS, chosen, image_column, label_column, said
from infomax.data.folder import dataset_of_files
from infomax.data.listing import IMAGES, found_in_rows
from infomax.data.packed import File, Packed
from infomax.data.source import Dataset
from infomax.data.splits import HELD, TRAIN, parts_of
from infomax.errors import UserError, extra

_OPTIONS = ("image", "label")
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # up to the first dot the sample, then the field
_TEXTS = 1 << 16  # bytes of a field that may be a label
_AFTER = 1 << 16  # bytes after the last member, which are zeros
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class _Field(NamedTuple):
    start: int
    size: int


class _Sample(NamedTuple):
    shard: int
    key: str
    fields: dict[str, _Field]


def read_shards(
    name: str, rest: str, limit: int | None, size: int | None, skip: bool, alpha: str | None = None
) -> Dataset:
    """The data set of `shards:PATTERN?image=FIELD&label=FIELD`: see infomax.data.dataset.

    Raises UserError for shards that are not there, are compressed or cut, samples without labels where others have one,
    and fields that are not there or of which several could be meant.
    """
    pattern, choice = chosen(rest, _OPTIONS)
    shards, notes = _expanded(pattern), []
    parts = _parts(pattern, shards, notes)
    kept = [shard for shard in shards if parts is None or shard in parts]
    samples = [sample for number, shard in enumerate(kept) for sample in _samples(number, shard)]
    if not samples:
        raise UserError(f"{pattern} is empty: {len(kept)} shards hold no sample.")
    source = f"shards:{pattern}"
    image, endings, samples = _images(source, pattern, kept, samples, choice.get("image"), notes)
    label, words = _labels(source, pattern, kept, samples, choice.get("label"), {image, *endings})
    files: list[File] = [_packed(kept, sample, next(e for e in endings if e in sample.fields)) for sample in samples]
    held = None if parts is None else np.array([parts[kept[sample.shard]] for sample in samples])
    places = torch.tensor([sample.shard for sample in samples], dtype=torch.int64)
    keys = [sample.key for sample in samples]
    found = found_in_rows(
        pattern, files, keys, words, None, held if held is None or held.any() else None, notes, places
    )
    notes.insert(0, f"{len(samples)} samples in {len(kept)} shards. {said(image, label, len(found.classes), 'field')}")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(kept) < processes:
        notes.append(
            f"{len(kept)} shards are fewer than {processes} processes: each process reads its samples of them."
        )
    return dataset_of_files(name, found, limit, size, skip, alpha)


def _expanded(pattern: str) -> list[Path]:
    # Braces as webdataset has them, several patterns with :: between them, a folder's tar files, or *.
    if not pattern:
        raise UserError("shards:PATTERN names tar files: PATH/train-{000..009}.tar, or a folder of them.")
    names: list[str] = []
    for part in pattern.split("::"):
        if re.match(r"[a-z0-9]+://|pipe:", part):
            raise UserError(
                f"{part} is not on this machine: shards are read by their place in a file, so copy them here."
            )
        for name in _braces(part) if "{" in part else [part]:
            path = Path(name).expanduser()
            if path.is_dir():
                inside = sorted(str(file) for file in path.iterdir() if file.name.endswith(".tar"))
                if not inside:
                    raise UserError(f"The folder {path} holds no tar files.")
                names += inside
            elif "*" in name and not path.exists():
                names += sorted(glob.glob(str(path))) or [str(path)]
            else:
                names.append(str(path))
    missing = [name for name in names if not Path(name).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(names)} shards of {pattern} are not there, for instance {missing[0]}.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{pattern} names {twice[0]} twice: name each shard once.")
    return [Path(name) for name in names]


def _braces(pattern: str) -> list[str]:
    missing = f'The braces of {pattern} need the package braceexpand: pip install "infomax[shards]".'
    expand = extra("braceexpand", missing)
    try:
        return list(expand.braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"The braces of {pattern} cannot be read ({error}).") from error


def _parts(pattern: str, shards: list[Path], notes: list[str]) -> dict[Path, bool] | None:
    # Which shards are read, and whether each is of the test part, by a word in its name or its folder. None: by none.
    named: dict[Path, str] = {}
    for shard in shards:
        words = [*re.split(r"[^a-z]+", shard.name.lower()), shard.parent.name.lower()]
        part = next((word for word in words if word in (*TRAIN, *HELD)), None)
        if part is not None:
            named[shard] = part
    if not any(part in TRAIN for part in named.values()):
        named = {}
    if not named:
        notes.append("No shard is called train or test, so a fixed fifth of the samples is held out.")
        return None
    bare = [shard for shard in shards if shard not in named]
    if bare:
        raise UserError(
            f"Of {len(shards)} shards of {pattern} {len(bare)} are called neither train nor test, as is {bare[0]}."
        )
    read = parts_of(pattern, list(dict.fromkeys(named.values())), notes)
    return {shard: read[part] for shard, part in named.items() if part in read}


def _samples(number: int, shard: Path) -> Iterator[_Sample]:
    # As webdataset groups them: members in a row whose names agree up to the first dot are the fields of one sample.
    key, fields = "", {}
    for member in _members(shard):
        match = _NAME.fullmatch(member.name)
        if not member.isfile() or match is None or Path(member.name).name.startswith((".", "__")):
            continue
        if match[1] != key:
            if fields:
                yield _Sample(number, key, fields)
            key, fields = match[1], {}
        field = match[2].lower()
        if field in fields:
            raise UserError(f"The shard {shard} holds {member.name} twice.")
        fields[field] = _Field(member.offset_data, member.size)
    if fields:
        yield _Sample(number, key, fields)


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    cut = f"The shard {shard} is cut or damaged ({{}}): copy it again."
    try:
        with shard.open("rb") as file:
            start = file.read(2)
            if not start:
                raise UserError(f"The shard {shard} is empty (0 bytes): copy it again.")
            for magic, kind in _MAGIC.items():
                if start == magic:
                    raise UserError(
                        f"The shard {shard} is compressed by {kind}, so nothing has a place in it: unpack it."
                    )
            file.seek(0)
            end = 0
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    yield member
                    end = tar.offset
            size = file.seek(0, os.SEEK_END)
            file.seek(end)
            if end + 2 * tarfile.BLOCKSIZE > size:
                raise UserError(cut.format("it has no end mark"))
            if any(file.read(_AFTER)):
                raise UserError(cut.format(f"what follows byte {end} is no member of it"))
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(cut.format(str(error) or type(error).__name__)) from error


def _images(
    source: str, pattern: str, shards: list[Path], samples: list[_Sample], asked: str | None, notes: list[str]
) -> tuple[str, list[str], list[_Sample]]:
    # What the field of images is called, the fields that it is, and the samples that have one. Where each sample has
    # one field of images, as jpg or png, these are one.
    counts = Counter(field for sample in samples for field in sample.fields)
    pictures = [field for field in sorted(counts) if f".{field.rpartition('.')[2]}" in IMAGES]
    pictures = [field for field in pictures if not field.endswith("npy")] or pictures
    if asked is None and pictures and all(sum(p in s.fields for p in pictures) <= 1 for s in samples):
        image, endings = " or ".join(sorted(pictures)), pictures
    else:
        image = image_column(source, pattern, pictures, list(counts), asked)
        endings = [image]
    without = [sample for sample in samples if not any(ending in sample.fields for ending in endings)]
    if without:
        first = f"{shards[without[0].shard].name}/{without[0].key}"
        notes.append(
            f"{len(without)} of {len(samples)} samples have no {image} and are left out, the first is {first}."
        )
    return image, endings, [sample for sample in samples if any(ending in sample.fields for ending in endings)]


def _labels(
    source: str, pattern: str, shards: list[Path], samples: list[_Sample], asked: str | None, images: set[str]
) -> tuple[str | None, list[str] | None]:
    # The field of labels, json.KEY for a key of its JSON, and each sample's label.
    columns = dict.fromkeys((f for s in samples for f in s.fields if f not in images), True)
    if "json" in columns:
        first = next(sample for sample in samples if "json" in sample.fields)
        keys = _json(shards, first)
        columns |= {f"json.{key}": isinstance(value, str | int) for key, value in keys.items()}
    usual = [f"json.{key}" for key in LABELS if f"json.{key}" in columns]
    label = label_column(source, pattern, [], columns, asked)
    if label is None and asked is None and usual:
        label = usual[0]
    if label is None:
        return None, None
    field, _, key = label.partition(".") if label.startswith("json.") else (label, "", "")
    words: list[str] = []
    for sample in samples:
        value: object = None
        if field in sample.fields:
            value = _json(shards, sample).get(key) if key else _text(shards, sample, field)
        words.append("" if value is None else str(value))
    missing = [sample for sample, word in zip(samples, words, strict=True) if not word]
    if missing:
        first = f"{shards[missing[0].shard].name}/{missing[0].key}"
        raise UserError(
            f"{len(missing)} of {len(words)} samples of {pattern} have no label in field {label}, the first of them "
            f"{first}: give all of them one, or take {source}?label= for none."
        )
    return label, words


def _json(shards: list[Path], sample: _Sample) -> Mapping[str, object]:
    place = f"{shards[sample.shard].name}/{sample.key}.json"
    try:
        found = json.loads(_text(shards, sample, "json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place} is no JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{place} holds no names with values, but {type(found).__name__}.")
    return found


def _text(shards: list[Path], sample: _Sample, field: str) -> str:
    place = f"{shards[sample.shard].name}/{sample.key}.{field}"
    if sample.fields[field].size > _TEXTS:
        raise UserError(f"{place} has {sample.fields[field].size} bytes: it is no label.")
    try:
        return _packed(shards, sample, field).open().read().decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is no text, so it is no label.") from error


def _packed(shards: list[Path], sample: _Sample, field: str) -> Packed:
    shard, place = shards[sample.shard], sample.fields[field]
    return Packed(f"{shard}/{sample.key}.{field}", place.size, partial(_bytes, shard, *place))


def _bytes(shard: Path, start: int, size: int) -> bytes:
    try:
        with shard.open("rb") as file:
            file.seek(start)
            found = file.read(size)
    except OSError as error:
        raise UserError(f"The shard {shard} cannot be read ({error.strerror}).") from error
    if len(found) < size:
        raise UserError(f"The shard {shard} has become shorter since it was opened.")
    return found
