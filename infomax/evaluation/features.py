"""Features of a split's images, held in memory or in a file on disk, and read by blocks: the same numbers from either.

What reads features reads them by blocks, or a few rows by number, so that no stage of an evaluation holds a copy of all
of them. The file has no name: it is deleted when the process ends, whatever ends that, and no other user can read it.
"""

import contextlib
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from infomax.errors import UserError, nearest

if TYPE_CHECKING:
    from infomax.data.source import Split

SHARE = 0.25  # of the memory that is free: what one part's features may take there
DTYPES = ("float32", "float16")
TINY = float(np.finfo(np.float16).tiny)  # 6.1e-5: below it float16 has fewer digits, and below 3e-8 none
ELEMENTS = 2**20  # numbers of a block, about: 4 MiB
WINDOW = 2**23  # bytes of a file that are mapped at once, about
CGROUPS = Path("/sys/fs/cgroup")

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@final
@dataclass(frozen=True)
class Store:
    """Where features are kept while they are probed: in memory, or in a nameless file where they take more than that.

    memory: bytes that the features of one part, training or test, may take in memory; by default a quarter of what is
    free, or of what a container's limit leaves. folder: of the file; by default the system's folder of temporary files.
    dtype: "float32", or "float16", which takes half the room; features are rounded to it wherever they are kept.
    Raises UserError: another dtype, a folder that is missing or cannot be written into, a negative memory.
    """

    memory: int | None = None
    folder: Path | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"Features are kept as float32 or float16, not {self.dtype}.{nearest(self.dtype, DTYPES)}")
        if self.memory is not None and self.memory < 0:
            raise UserError(f"Features cannot take {self.memory} bytes of memory: give 0 or more.")
        if self.folder is not None:
            self._file().close()

    def hold(self, blocks: Iterable[NDArray[Any] | Tensor], n: int, what: str = "features") -> "Features":
        """Features [n, d] from blocks of their rows, in order; kept in memory or written to disk as they come.

        blocks: [b, d] each, of any floating dtype. n: rows in all. what: is named by errors. Raises UserError: blocks
        of another shape, more rows than n or fewer; rows that are not finite, or not in float16, or features that are
        mostly too small for it; a disk that has no room for all of them.
        """
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            raise UserError(f"There are no images to compute features of: {what} are empty.")
        _require_shape(first.shape, first.shape, 0, n, what)
        half = self.dtype == "float16"
        into = self._room(n, first.shape[1])
        try:
            bad, done, beyond, tiny, some = [], 0, half, 0, 0
            for given in itertools.chain([first], blocks):
                _require_shape(given.shape, first.shape, done, n, what)
                with np.errstate(over="ignore", under="ignore"):
                    whole = given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given
                    whole = np.ascontiguousarray(whole, dtype=np.float32)
                    block = whole.astype(self.dtype, copy=False)
                finite = np.isfinite(block).all(axis=1)
                if not finite.all():
                    beyond = beyond and bool(np.isfinite(whole[~finite]).all())
                    bad.append(done + np.flatnonzero(~finite))
                if half:
                    some += np.count_nonzero(whole)
                    tiny += np.count_nonzero((np.abs(whole) < TINY) & (whole != 0))
                if isinstance(into, np.ndarray):
                    into[done : done + len(block)] = block
                else:
                    self._write(into, block, n * block.shape[1])
                done += len(block)
            if done < n:
                raise UserError(f"{what} have {done} rows for {n} images: one row per image, [n, d], is needed.")
            require_none(bad, n, what, beyond)
            if 2 * tiny > some:
                raise UserError(
                    f"{what} are too small for float16: of those that are not 0, {tiny / some:.0%} are below"
                    f" {TINY:.2g}, where it keeps fewer digits or none: keep them as float32."
                )
        except BaseException:
            if not isinstance(into, np.ndarray):
                with contextlib.suppress(OSError):  # of what could not be written
                    into.close()
            raise
        return Features(into, (n, first.shape[1]), self)

    def _room(self, n: int, columns: int) -> NDArray[Any] | IO[bytes]:
        size = n * columns * np.dtype(self.dtype).itemsize
        if size <= (SHARE * free_memory() if self.memory is None else self.memory):
            return np.empty((n, columns), self.dtype)
        left = shutil.disk_usage(self._where).free
        if size > left:
            raise UserError(
                f"{n} x {columns} features as {self.dtype} take {_gib(size)} of disk, and {self._where} has"
                f" {_gib(left)} left: {self._advice}."
            )
        return self._file()

    def _file(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._where, prefix="infomax-")
        except OSError as error:
            raise UserError(
                f"Features cannot be written into {self._where} ({error.strerror}): name a folder on a disk, which is"
                " there and may be written into, --scratch FOLDER."
            ) from None

    def _write(self, file: IO[bytes], block: NDArray[Any], numbers: int) -> None:
        try:
            file.write(block.data)
            file.flush()
        except OSError as error:
            raise UserError(
                f"Features, {_gib(numbers * block.itemsize)} of them, could not be written into {self._where}"
                f" ({error.strerror}): {self._advice}."
            ) from None

    @property
    def _where(self) -> Path:
        return Path(tempfile.gettempdir()) if self.folder is None else self.folder

    @property
    def _advice(self) -> str:
        half = "" if self.dtype == "float16" else ", or keep them as float16, --dtype float16"
        return f"name a folder on another disk, --scratch FOLDER{half}"


@final
@dataclass(frozen=True, eq=False)
class Features:
    """Features [n, d], in memory or on disk, which are read as float32. Store.hold makes them, and held() of images.

    values: an array [n, d], or a file of its bytes. shape: (n, d). store: how they are kept, and what is made of them.
    """

    values: NDArray[Any] | IO[bytes] = field(repr=False)
    shape: tuple[int, int]
    store: Store = field(default_factory=Store)

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray):
            weakref.finalize(self, self.values.close)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def on_disk(self) -> bool:
        """Whether they are in a file rather than in memory."""
        return not isinstance(self.values, np.ndarray)

    def __str__(self) -> str:
        size = self.shape[0] * self.shape[1] * np.dtype(self.store.dtype).itemsize
        return f"{self.shape[0]} x {self.shape[1]} features {'on disk' if self.on_disk else 'in memory'}, {_gib(size)}"

    def rows(self, at: Ints) -> Floats:
        """The rows at `at` [k], whole numbers in any order: float32 [k, d], a copy."""
        if isinstance(self.values, np.ndarray):
            return self.values[at].astype(np.float32, copy=False)
        found = np.empty((len(at), self.shape[1]), np.float32)
        order = np.argsort(at, kind="stable")
        ends = np.flatnonzero(np.diff(at[order] // self._window, append=-1))
        start = 0
        for end in ends + 1:
            part = order[start:end]
            low, high = int(at[part[0]]), int(at[part[-1]]) + 1
            found[part] = self._mapped(low, high)[at[part] - low]
            start = end
        return found

    def blocks(self, at: Ints | None = None, rows: int | None = None) -> Iterator[Floats]:
        """All rows in order, or those at `at` [k] in its order: float32 [b, d], a block at a time, not to be written.

        rows: of a block; by default as many as hold a million numbers. Blocks are alike wherever the features are kept.
        """
        rows = self.block if rows is None else rows
        for start in range(0, len(self) if at is None else len(at), rows):
            stop = min(start + rows, len(self))
            if at is not None:
                yield self.rows(at[start : start + rows])
            elif isinstance(self.values, np.ndarray):
                yield self.values[start:stop].astype(np.float32, copy=False)
            else:
                block = np.empty((stop - start, self.shape[1]), np.float32)
                for low in range(start, stop, self._window):
                    high = min(low + self._window, stop)
                    block[low - start : high - start] = self._mapped(low, high)
                yield block

    @property
    def block(self) -> int:
        """Rows of a block that holds about a million numbers."""
        return max(1, ELEMENTS // self.shape[1])

    def mapped(self, change: Callable[[Floats], Floats]) -> "Features":
        """Features [n, e] that `change` makes of blocks of rows, float32 [b, d] -> [b, e]; kept as these are."""
        return self.store.hold((change(block) for block in self.blocks()), len(self))

    @property
    def _window(self) -> int:
        return max(1, WINDOW // (self.shape[1] * np.dtype(self.store.dtype).itemsize))

    def _mapped(self, low: int, high: int) -> NDArray[Any]:
        # A window of the file and never all of it, so that neither addresses nor resident pages grow with the file.
        size = self.shape[1] * np.dtype(self.store.dtype).itemsize
        return np.memmap(self.values, self.store.dtype, "r", low * size, (high - low, self.shape[1]))  # type: ignore[call-overload]


def of_array(x: "ArrayLike | Tensor | Features", what: str) -> Features:
    """An array or tensor [n, d] as Features, without a copy where it is float32; Features as they are.

    what: is named by errors. Raises UserError: another shape, rows that are not finite.
    """
    if isinstance(x, Features):
        return x
    rows = x.detach().cpu().float().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float32)
    if rows.ndim != 2:
        raise UserError(f"{what} have shape {list(rows.shape)}: one row per image, [n, d], is needed.")
    found = Features(np.ascontiguousarray(rows), (rows.shape[0], rows.shape[1]))
    finite = (np.isfinite(block).all(axis=1) for block in found.blocks()) if rows.size else ()
    require_none([np.flatnonzero(~np.concatenate([*finite, np.ones(0, bool)]))], len(rows), what)
    return found


def require_none(bad: list[Ints], n: int, what: str, beyond: bool = False) -> None:
    """Raises UserError where there are rows that are not finite. bad: their numbers, of n; beyond: of float16 alone."""
    rows = np.concatenate([*bad, np.zeros(0, np.int64)])
    if len(rows):
        some = ", ".join(map(str, rows[:5].tolist())) + (", ..." if len(rows) > 5 else "")
        where = f"in {len(rows)} of {n} rows ({some})"
        if beyond:
            raise UserError(f"{what} are beyond float16, which ends at 65504, {where}: keep them as float32.")
        raise UserError(f"{what} hold NaN or infinity {where}.")


def _require_shape(shape: Sequence[int], first: Sequence[int], done: int, n: int, what: str) -> None:
    """Raises UserError where a block after `done` rows of n is not [b, d], as the first was, or has rows too many."""
    if len(shape) != 2 or shape[1] < 1:
        raise UserError(f"{what} have shape {list(shape)}: one row of one number or more per image, [n, d], is needed.")
    if shape[1] != first[1]:
        raise UserError(
            f"{what} have {first[1]} columns at first and {shape[1]} from row {done} on: give as many for every image."
        )
    if done + shape[0] > n:
        raise UserError(f"{what} have {done + shape[0]} rows or more for {n} images: one row per image is needed.")


def encoded(
    encoder: nn.Module,
    split: "Split",
    plain: Callable[[Tensor], Tensor],
    device: str | torch.device | None = None,
    batch_size: int = 256,
) -> Generator[Tensor, None, None]:
    """Features float32 [b, d] on the CPU of a split's images, a batch at a time, in evaluation mode.

    device: the encoder's own by default. `encoder` comes back where it was, every submodule in the mode it had.
    """
    modes = [(module, module.training) for module in encoder.modules()]
    home = next((t.device for t in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    device = home if device is None else torch.device(device)
    try:
        if device != home:
            encoder.to(device)
        encoder.eval()
        for start in range(0, len(split), batch_size):
            indices = torch.arange(start, min(start + batch_size, len(split)))
            with torch.no_grad():  # not around a yield, where the caller's own mode would change
                out = encoder(plain(split.batch(indices).to(device)))
            if not isinstance(out, Tensor) or out.ndim < 2:
                shown = f"shape {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
                raise UserError(
                    f"The encoder, a {type(encoder).__name__}, returns {shown} for {len(indices)}"
                    f" {'images' if len(indices) > 1 else 'image'}, where one tensor with a row for each is needed,"
                    " [n, d]: take one entry of a dictionary or tuple."
                )
            yield out.flatten(1).float().cpu()
    finally:
        if device != home:
            encoder.to(home)
        for module, training in modes:
            module.training = training  # not .train(): that would also set the children


def held(
    encoder: nn.Module,
    split: "Split",
    plain: Callable[[Tensor], Tensor],
    device: str | torch.device | None = None,
    batch_size: int = 256,
    store: Store | None = None,
) -> Features:
    """Features of every image of a split, without augmentation, kept as `store` says, by default as Store() does.

    Pixels are `held(nn.Flatten(), ...)`. Raises UserError: no images, features that are not finite, no room on disk.
    """
    batches = encoded(encoder, split, plain, device, batch_size)
    with contextlib.closing(batches):  # so that the encoder comes back at once, whatever is raised
        return (store or Store()).hold(batches, len(split), "The encoder's features")


def features(
    encoder: nn.Module,
    split: "Split",
    plain: Callable[[Tensor], Tensor],
    device: str | torch.device | None = None,
    batch_size: int = 256,
) -> Tensor:
    """As held(), of a sample of images, in memory: float32 [n, d]."""
    found = held(encoder, split, plain, device, batch_size, Store(memory=2**62))
    return torch.from_numpy(found.values)


def free_memory() -> int:
    """Bytes of memory that are free, or that the limits of this process's container (cgroup 2) leave."""
    import psutil

    own = ""
    with contextlib.suppress(OSError):  # where there are no control groups
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    return min([int(psutil.virtual_memory().available), *left_by_limits(CGROUPS / own)])


def left_by_limits(group: Path, root: Path = CGROUPS) -> list[int]:
    """Bytes that memory limits leave: of a control group's folder and those it lies in, up to `root`, that have one.

    Pages of files that nothing has read lately (inactive_file) are counted as free, as the kernel drops them first.
    """
    found = []
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # no such files, or "max"
                limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                found.append(max(0, limit - used + int(pages["inactive_file"])))
    return found


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
