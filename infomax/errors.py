"""What went wrong, told in a sentence."""

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake: its message is one sentence for that user; the command line prints it and exits with 2."""


class NonFinite(ArithmeticError):
    """A loss, gradient or weight that is not finite, met before it was stepped on or saved; exit status 1."""


def signal_name(number: int) -> str:
    """SIGTERM, SIGINT, ... as people know them."""
    return signal.Signals(number).name


def nearest(name: str, choices: Iterable[str]) -> str:
    """A clause that names the closest choices, else all of them: " Did you mean 'smile'? ..."."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Known: {', '.join(choices)}." if len(choices) <= 40 else hint
