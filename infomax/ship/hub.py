"""The Hugging Face Hub, or one that speaks as it does (HF_ENDPOINT): a repository made, a folder sent in one commit."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infomax.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def require_name(to: str) -> None:
    """Raises UserError for what is no USER/NAME of a repository.

    to: the name.
    """
    if not NAME.fullmatch(to) or len(to) > 96 or ".." in to or "--" in to or to.endswith((".git", ".", "-")):
        raise UserError(f"--to {to} names no repository: it is USER/NAME, of letters, digits, '-', '_' and '.'.")


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, or the Hugging Face Hub's."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def require_token() -> None:
    """Raises UserError where nobody has logged in."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"{endpoint()} asks who you are: log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        )


def upload(folder: Path, to: str, private: bool, message: str) -> str:
    """Makes a repository where there is none, sends a folder's files in one commit; returns the repository's address.

    folder: of the files. to: USER/NAME. private: make it private, and send nothing to one that is public. message:
    of the commit. Raises UserError: no token, a hub that cannot be reached or refuses, a repository that is public. No
    file is sent then.
    """
    from huggingface_hub import HfApi

    require_name(to)
    require_token()
    api = HfApi(endpoint=endpoint())
    _asked(lambda: api.create_repo(to, private=private, exist_ok=True), f"{to} could not be made")
    if private and not _asked(lambda: api.model_info(to), f"{to} could not be looked at").private:
        raise UserError(f"{to} is there already and public, so nothing was sent: leave --private out, or take another.")
    _asked(
        lambda: api.upload_folder(repo_id=to, folder_path=folder, commit_message=message),
        f"{to} is there, but the files could not be sent, and none was",
    )
    return f"{endpoint()}/{to}"


def _asked(ask: Callable[[], Any], what: str) -> Any:
    """What a hub answers. Raises UserError, which begins with `what`, for a refusal or no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        why = {
            401: "the token is not known there: log in again with `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there: make one that may, or name a repository of yours with --to",
        }.get(status or 0)
        said = error.server_message or next(iter(str(error).splitlines()), "")
        raise UserError(f"{what} ({endpoint()} answers {status}): {why or said.rstrip('.')}.") from error
    except Exception as error:  # httpx and the operating system raise many kinds for a network that is not there
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{what}: {endpoint()} could not be reached ({reason.rstrip('.')}); --dry-run needs no network."
                        ) from error  # fmt: skip
