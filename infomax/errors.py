"""What a user did wrong, told in a sentence."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake: its message is one sentence for that user; the command line prints it and exits with 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A clause that names the closest choices, else all of them: " Did you mean 'smile'? ..."."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Known: {', '.join(choices)}." if len(choices) <= 40 else hint
