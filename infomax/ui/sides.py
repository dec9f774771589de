"""What `infomax estimate` is asked about: two sides from files, and, of series, lags and transfer entropy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.estimation import Estimate
    from infomax.estimation.questions.lagged import Lagged

LAGS = "0:10 (both ends), 0:100:10 (in steps of 10), 0,5,20 or 3; before a minus sign =, as in --lags=-5:5"
MOST = 1000  # lags at once: minutes to hours


def read(file: Path, y_file: Path | None, x: str | None, y: str | None, given: str | None) -> tuple[list[Any], str]:
    """The sides that are asked about, [x, y] or [x, y, given], and what they are in words.

    file, y_file: of two arrays; given is then the file of a third. x, y, given: else the names of columns of one table,
    file. Raises UserError: files that are not there or not of their kind, names that no column has.
    """
    from infomax.estimation.pairs import tables

    if y_file is None:
        sides, title = tables.sides_of(file, x, y, given), f"{x} and {y} of {file.name}"
    elif x is not None or y is not None:
        raise UserError(f"--x and --y name columns of one table; {file} and {y_file} are two files.")
    else:
        sides, title = [array(file), array(y_file)], f"{file.name} and {y_file.name}"
        sides += [] if given is None else [array(Path(given))]
    return sides, title if given is None else f"{title} given {given}"


def blocks_of(text: str) -> int | str:
    """The blocks of a text: a number of rows, or "auto". Raises UserError for what is neither."""
    if text == "auto":
        return text
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise UserError(f"--blocks is {text!r}: give how many rows make a block, or auto.")
    return int(text)


def array(path: Path) -> Any:
    """The array of a file that numpy.save wrote. Raises UserError for what is none."""
    import numpy as np

    if path.suffix.lower() in {".csv", ".tsv", ".txt", ".tab"} and path.is_file():
        comma = ", delimiter=','" if path.suffix.lower() == ".csv" else ""
        made = f"numpy.save({path.with_suffix('.npy').name!r}, numpy.loadtxt({path.name!r}{comma}))"
        raise UserError(f"{path} is a text table, and arrays are read: {made} makes one (skiprows=1 skips its names).")
    try:
        # Mapped first: a header that names a shape larger than its file is refused before memory is asked for it.
        with np.errstate(over="raise"):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("an archive of arrays")
        return np.array(mapped)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError, SyntaxError, ArithmeticError, MemoryError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not an array that numpy.save wrote ({error}); objects are not read.") from None


# Over time ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """Transfer entropy both ways: what the past of x tells of y beyond y's own past, and the reverse."""

    x_to_y: "Estimate"
    y_to_x: "Estimate"

    def to_dict(self) -> dict[str, Any]:
        """{"x_to_y": ..., "y_to_x": ...}: both estimates as JSON-able values."""
        return {"x_to_y": self.x_to_y.to_dict(), "y_to_x": self.y_to_x.to_dict()}

    def shown(self, unit: Literal["nats", "bits"] = "nats") -> str:
        """A line each way: the statement in `unit`, "nats" or "bits", and the p-value of independence."""
        from infomax.estimation.questions.lagged import in_a_line

        return "\n".join(
            f"{way}  {in_a_line(of, unit)}" for way, of in (("x -> y", self.x_to_y), ("y -> x", self.y_to_x))
        )


@dataclass(frozen=True)
class OverTime:
    """A question about two series. lags: of which MI is asked, or the rows of the past that tell together. transfer:
    whether it is transfer entropy. history: how many rows of the other's own past are known then."""

    lags: tuple[int, ...]
    transfer: bool
    history: int

    @staticmethod
    def of(lags: str | None, transfer: bool, history: int | None) -> "OverTime | None":
        """What the options ask, or None where they ask nothing over time. Raises UserError: lags that cannot be read, a
        history without transfer."""
        if history is not None and not transfer:
            raise UserError("--history goes with --transfer: it is how many rows of the own past are known.")
        if lags is None and not transfer:
            return None
        return OverTime(lags_of("1" if lags is None else lags), transfer, 1 if history is None else history)

    @property
    def words(self) -> str:
        return (
            "the transfer entropy, both ways," if self.transfer else f"the mutual information at {len(self.lags)} lags"
        )

    def ask(self, x: Any, y: Any, **options: Any) -> "Lagged | Transfer":
        """The estimates. x, y [n, ...]: the series. options: as `lagged` and `transfer_entropy` take them."""
        from infomax.estimation.questions.lagged import lagged, transfer_entropy

        if not self.transfer:
            return lagged(x, y, self.lags, **options)
        both = [transfer_entropy(*pair, self.history, self.lags, **options) for pair in ((x, y), (y, x))]
        return Transfer(*both)


def lags_of(text: str) -> tuple[int, ...]:
    """The lags of a text: "0:10" with both ends, "0:100:10" in steps, "0,5,20". Raises UserError for what is none."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})(?::(-?\d{1,9}))?(?::(\d{1,9}))?\s*", part)
        first, last, step = (None, None, None) if match is None else match.groups()
        if first is None or (step is not None and int(step) == 0) or int(last or first) < int(first):
            raise UserError(f"--lags {text!r} names no lags: give {LAGS}.")
        lags = range(int(first), int(last or first) + 1, int(step or 1))
        if len(found) + len(lags) > MOST:
            raise UserError(f"--lags {text!r} names more than {MOST} lags, each of which is an estimate: take fewer.")
        found += lags
    return tuple(dict.fromkeys(found))
