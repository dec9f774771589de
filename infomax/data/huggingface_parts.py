"""The parts of a Hugging Face data set, by name: of the hub, a folder, a file, a saved one, or the head of a stream."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infomax.errors import UserError, extra

_KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow",
          ".tar": "webdataset", ".h5": "hdf5", ".hdf5": "hdf5", ".nii": "niftifolder",
          ".nii.gz": "niftifolder"}  # fmt: skip
_EXTRAS = {"h5py": "tables", "nibabel": "nifti", "lance": "lance"}  # what datasets reads these kinds with
_YES = ("yes", "true", "1")


def parts_at(place: str, config: str | None, rows: int | None, notes: list[str]) -> dict[str, Any]:
    """Part -> datasets.Dataset. place: of the hub, a folder or a file. config: one of a hub's configurations. rows: of
    a stream, that many of each part are read from its start and held. notes: what is to be said is added.

    Raises UserError for what datasets cannot read, and a missing package.
    """
    if not place:
        raise UserError("hf:NAME_OR_PATH names a data set of the Hugging Face hub, a folder or a file.")
    path = Path(place).expanduser()
    with _quiet() as hub:
        try:
            made = _opened(hub, place, path, config, rows is not None)
            parts = dict(made) if isinstance(made, dict) else {"train": made}
            return parts if rows is None else _heads(hub, parts, rows, notes)
        except UserError:
            raise
        except Exception as error:  # as many kinds as there are builders, and of the hub and pyarrow
            raise _refused(place, path, error) from error


def streamed_rows(source: str, choice: dict[str, str]) -> int | None:
    """How many rows of a stream are asked for by `streaming=yes&rows=N`; None where nothing is streamed.

    source: as the user spelt it, without its choices. Raises UserError for one of the two alone, and other values.
    """
    streaming, rows = choice.get("streaming"), choice.get("rows")
    if streaming is None and rows is None:
        return None
    if streaming is None:
        raise UserError(f"rows= goes with a stream, {source}?streaming=yes&rows={rows}: else --limit is meant.")
    if streaming.lower() not in _YES:
        raise UserError(f"{source}: streaming is yes, or is left out, not {streaming!r}.")
    if rows is None:
        raise UserError(
            f"{source}: a stream has no end that is known, and every epoch reads its images in an order of its own: say"
            f" how many rows of each part are read and held in memory, {source}?streaming=yes&rows=10000."
        )
    if not rows.isdecimal() or int(rows) < 1:
        raise UserError(f"{source}: rows is how many rows of each part are read, a whole number from 1, not {rows!r}.")
    return int(rows)


def hub_package() -> Any:
    """The package datasets. Raises UserError where it is not installed, or is older than all that is read by it."""
    found = extra("datasets", 'hf: needs the package datasets, which is missing: pip install "infomax[hf]".')
    if not hasattr(found, "Nifti"):
        raise UserError(f'hf: needs datasets 4.5 or newer, and this is {found.__version__}: pip install "infomax[hf]".')
    return found


def needs(place: str, module: str | None) -> UserError:
    """The sentence on a module that is not installed, without which `place` cannot be read."""
    extra = f', or "infomax[{_EXTRAS[module]}]"' if module in _EXTRAS else ""
    package = {"lance": "pylance"}.get(module or "", module)
    return UserError(f"{place} cannot be read without the module {module}: pip install {package}{extra}.")


def _opened(hub: Any, place: str, path: Path, config: str | None, stream: bool) -> Any:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        if stream:
            raise UserError(f"{place} lies on this machine as save_to_disk wrote it: leave out streaming=yes.")
        return hub.load_from_disk(str(path))
    if path.is_dir():
        found = hub.load_dataset(str(path), config, streaming=stream)
        return found if stream else _with_classes(hub, found)
    if path.is_file():
        kind = next((kind for ending, kind in _KINDS.items() if path.name.lower().endswith(ending)), None)
        if kind is None:
            raise UserError(f"{path} is no kind of file that hf: reads ({', '.join(_KINDS)}, and .lance folders).")
        options: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
        return hub.load_dataset(kind, config, data_files=str(path), streaming=stream, **options)
    if place.startswith(("/", "~", ".")) or place.count("/") > 1:
        raise UserError(f"There is no file or folder {path}: hf:NAME_OR_PATH names one, or a hub's data set.")
    return hub.load_dataset(place, config, streaming=stream)


def _with_classes(hub: Any, parts: Any) -> Any:
    # Scans that came without labels, with the names of their folders where each part has several, all as deep: datasets
    # 5.2 sees no folders where all scans are packed by gzip, which are archives to it.
    names: dict[str, list[str]] = {}
    for part, rows in parts.items():
        if not isinstance(rows.features.get("nifti"), hub.Nifti) or "label" in rows.features:
            return parts
        scans = rows.cast_column("nifti", hub.Nifti(decode=False))["nifti"]
        places = [Path((scan["path"] or "").rpartition("::")[2]).parent for scan in scans]
        names[part] = [place.name for place in places]
        if len(set(names[part])) < 2 or len({len(place.parts) for place in places}) > 1:
            return parts
    return {part: rows.add_column("label", names[part]) for part, rows in parts.items()}


def _refused(place: str, path: Path, error: Exception) -> UserError:
    cause = error.__cause__ or error
    if isinstance(cause, ModuleNotFoundError):
        return needs(place, cause.name)
    reason = next(iter(str(cause).strip().splitlines()), type(error).__name__).rstrip(".")
    if isinstance(error, IndexError) or "corresponds to no data" in reason:  # of files without rows
        return UserError(f"{place} is empty: it has no rows.")
    what = "of this machine" if path.exists() else "of this machine or the hub"
    instead = ""
    if "has length" in reason:
        instead = ": the data sets at the top of an HDF5 file are columns of one length, so give each part its own file"
    return UserError(f"{place}, {what}, cannot be read as a data set ({reason}){instead}.")


def _heads(hub: Any, parts: dict[str, Any], rows: int, notes: list[str]) -> dict[str, Any]:
    # The first rows of each part, as they come, encoded, with what lies elsewhere fetched.
    heads, size = {}, 0
    for part, stream in parts.items():
        encoded = stream if stream.features is None else stream.decode(False)
        read = [{name: _fetched(hub, value) for name, value in row.items()} for row in itertools.islice(encoded, rows)]
        heads[part] = hub.Dataset.from_list(read, features=encoded.features)
        size += heads[part].data.nbytes
    lengths = ", ".join(f"{len(head)} of {part}" for part, head in heads.items())
    notes.append(
        f"Of a stream the first rows are read and held in memory as they are encoded, {size / 1e6:.1f} MB: {lengths}; "
        "what follows them is not read."
    )
    return heads


def _fetched(hub: Any, value: Any) -> Any:
    # An image of a stream whose file is not on this machine, or lies in an archive.
    if isinstance(value, dict) and value.get("bytes", b"") is None and "://" in (value.get("path") or ""):
        with hub.utils.file_utils.xopen(value["path"], "rb") as file:
            return {**value, "bytes": file.read()}
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    # datasets, without bars and warnings on standard error, where notes are printed.
    datasets = hub_package()
    logging = datasets.utils.logging
    level, bars = logging.get_verbosity(), datasets.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
