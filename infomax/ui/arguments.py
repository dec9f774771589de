"""Command-line options with their help; a user's mistake ends as one sentence with exit status 2."""

import contextlib
import inspect
import os
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from infomax.errors import Collapsed, NonFinite, UserError, not_imported

# Imported where they are used, so that a machine may lack what it does not use. Module: what pip calls it.
_PACKAGES = {
    "accelerate": "accelerate", "jinja2": "jinja2", "matplotlib": "matplotlib", "mlxtend": "mlxtend",
    "psutil": "psutil", "rich": "rich", "sklearn": "scikit-learn", "timm": "timm", "torchvision": "torchvision",
    "tyro": "tyro",
}  # fmt: skip
_METAVARS = {"str": "TEXT"}
GRACE = 10.0  # seconds in which the first process of a machine says what is wrong, before another one does
INTERRUPTED = 130  # exit status
HIDDEN = "hidden"  # in a parameter's Annotated: an earlier name, which is read and not shown


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turns a user's mistake into its sentence on standard error and exit status 2; a stopped training into 1."""
    try:
        yield
    except UserError as error:
        sys.exit(_fail(str(error), 2))
    except (NonFinite, Collapsed) as error:
        sys.exit(_fail(str(error), 1))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        missing = f"The package {package} is needed and missing: pip install {_PACKAGES[package]}."
        sys.exit(_fail(str(not_imported(package, error, missing)), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("Interrupted.", INTERRUPTED))
    except BrokenPipeError:
        # The reader has left (`| head`). Standard output is flushed once more at exit, where nothing could be caught.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(sentence: str, status: int) -> int:
    # What is wrong is mostly wrong in every process: the first one of a machine says it, and its launcher ends the
    # others while they wait. A mistake that the first one has not made is said all the same.
    if _is_another() and status != INTERRUPTED:
        _wait()
    print(" ".join(sentence.split()), file=sys.stderr)
    return status


def _is_another() -> bool:
    """Whether a launcher started this process beside a first one on this machine."""
    return os.environ.get("LOCAL_RANK", "") not in ("", "0") and os.environ.get("WORLD_SIZE", "") not in ("", "1")


def _wait() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(GRACE)


def arguments(target: Any, prog: str, description: str | None = None) -> Any:
    """Reads the command line into the parameters of `target`, and calls it: a dataclass, a function, or a mapping of
    functions by command.

    A parameter whose default is None says in its help what that means, so the default is not shown.
    """
    import tyro

    for part in target.values() if isinstance(target, Mapping) else [target]:
        _annotate(part, tyro.conf.arg)
    # Appended, so that `--objective module:Class` finds a module of the user's and none of them hides a package.
    sys.path.append(os.getcwd())
    config = (tyro.conf.FlagCreatePairsOff,)
    if isinstance(target, Mapping):
        return tyro.extras.subcommand_cli_from_dict(dict(target), prog=prog, description=description, config=config)
    # What one process reads, all read: a wrong option, or --help, is said by the first. The others wait for it, as the
    # launcher ends all of them with the first that has ended.
    try:
        return tyro.cli(target, prog=prog, description=description, config=config, console_outputs=not _is_another())
    except SystemExit as ended:
        if ended.code and _is_another():
            _wait()
        raise


def _annotate(target: Callable[..., Any], arg: Callable[..., Any]) -> None:
    hints = typing.get_type_hints(target, include_extras=True)
    for name, parameter in inspect.signature(target).parameters.items():
        if HIDDEN in getattr(hints[name], "__metadata__", ()):
            from tyro.conf import Suppress

            # Where help is asked alone: tyro reads no option that it does not show.
            kind, help_asked = typing.get_args(hints[name])[0], bool({"-h", "--help"} & {*sys.argv})
            hints[name] = Annotated[kind, HIDDEN, *(Suppress[kind].__metadata__ if help_asked else ())]
            continue
        if hasattr(hints[name], "__metadata__"):  # annotated already, by its author or by an earlier call
            continue
        kinds: tuple[Any, ...] = (hints[name],)
        if type(None) in typing.get_args(hints[name]):  # tyro would show {None}|INT
            kinds = tuple(kind for kind in typing.get_args(hints[name]) if kind is not type(None))
        shown: dict[str, Any] = {}
        if parameter.kind is parameter.POSITIONAL_ONLY:
            shown["metavar"] = name.upper() if parameter.default is parameter.empty else f"[{name.upper()}]"
        elif len(kinds) == 1 and isinstance(kinds[0], type) and kinds[0] is not bool:
            shown["metavar"] = _METAVARS.get(kinds[0].__name__, kinds[0].__name__.upper())
        if parameter.default is None or parameter.default is False or parameter.default == ():
            shown["help_behavior_hint"] = ""
        hints[name] = Annotated[hints[name], arg(**shown)]
    target.__annotations__ = hints
