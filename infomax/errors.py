"""The exceptions that a user sees, UserError, NonFinite and Collapsed, and the checks of options that raise them."""

import contextlib
import contextvars
import difflib
import importlib
import importlib.util
import math
import signal
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any


class UserError(ValueError):
    """A user's mistake: its message is one sentence for that user; the command line prints it and exits with 2."""


class NonFinite(ArithmeticError):
    """A loss, gradient or weight that is not finite, met before it was stepped on or saved; exit status 1."""


class Collapsed(ArithmeticError):
    """Features that have collapsed while a run trained; what was saved stays, and the exit status is 1."""


def extra(module: str, missing: str) -> Any:
    """A module of a package that not everyone needs, imported.

    module: its name. missing: the sentence where its package is not installed. Raises UserError: that sentence, or, of
    a package that is installed and cannot be imported, its own words.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise not_imported(module, error, missing) from error


def not_imported(module: str, error: ImportError, missing: str) -> UserError:
    """What to say of a module that could not be imported.

    module: its name. error: that its import raised. missing: the sentence where its package is not installed; of one
    that is, the error's own words are said.
    """
    if isinstance(error, ModuleNotFoundError) and (f"{module}.".startswith(f"{error.name}.") or not _is_there(module)):
        return UserError(missing)
    words = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return UserError(
        f"The package {module.partition('.')[0]} is installed and cannot be imported ({words}): install it again, or"
        " what it asks for."
    )


def _is_there(module: str) -> bool:
    """Whether the package of a module is installed."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except ValueError:  # it is kept from being imported
        return False


MEETS_NONFINITE = contextvars.ContextVar("meets_nonfinite", default=False)


@contextlib.contextmanager
def meeting_nonfinite() -> Iterator[None]:
    """Within it a model takes inputs that are not finite: a training loop meets what comes of them by its own rule."""
    token = MEETS_NONFINITE.set(True)
    try:
        yield
    finally:
        MEETS_NONFINITE.reset(token)


def signal_name(number: int) -> str:
    """The name of the signal of this number: SIGTERM, SIGINT, ..."""
    return signal.Signals(number).name


def nearest(name: str, choices: Iterable[str]) -> str:
    """A clause with the choices closest to `name`, whatever their case, and all: " Did you mean 'SMILE'? ..."."""
    shown = {choice.lower(): choice for choice in sorted(choices, key=str.lower)}
    close = [shown[found] for found in difflib.get_close_matches(name.lower(), shown, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    apart = "; " if any("," in choice for choice in shown.values()) else ", "
    return f"{hint} Known: {apart.join(shown.values())}." if len(shown) <= 40 else hint


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number of at least 1; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def is_number(value: Any) -> bool:
    """Whether `value` is a real number, NaN and infinity included; True is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_flags(**flags: Any) -> None:
    """Raises UserError for one of `flags`, by its name, that is neither True nor False, be it NumPy's, or 1 or 0.

    A text, such as "no", would count as True.
    """
    for name, flag in flags.items():
        if isinstance(flag, str) or flag not in (True, False):
            raise UserError(f"{name} is True or False, not {flag!r}.")


def require_seed(seed: int) -> None:
    """Raises UserError for a seed that torch or numpy would refuse."""
    if not 0 <= seed < 2**32:
        raise UserError(f"A seed is a whole number from 0 to 2^32 - 1, not {seed}.")


def require_positive(**numbers: float | None) -> None:
    """Raises UserError for one of `numbers`, by its name, that is not positive and finite; None is allowed."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:  # nor NaN
            raise UserError(f"--{name.replace('_', '-')} must be a positive number, not {number!r}.")
