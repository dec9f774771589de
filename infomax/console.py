"""What a person sees: options and their help, progress, tables, and a mistake as one sentence with exit status 2."""

import contextlib
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from infomax.errors import NonFinite, UserError

if TYPE_CHECKING:
    from infomax.estimation import Estimate
    from infomax.evaluation import Probes, Terms
    from infomax.probing import Probe
    from infomax.training import Step

# Imported where they are used, so that a machine may lack what it does not use. Module: what pip calls it.
_PACKAGES = {
    "accelerate": "accelerate", "jinja2": "jinja2", "matplotlib": "matplotlib", "mlxtend": "mlxtend",
    "psutil": "psutil", "rich": "rich", "sklearn": "scikit-learn", "timm": "timm", "torchvision": "torchvision",
    "tyro": "tyro",
}  # fmt: skip
_METAVARS = {"str": "TEXT"}


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turns a user's mistake into its sentence on standard error and exit status 2; a stopped training into 1."""
    try:
        yield
    except UserError as error:
        sys.exit(_fail(str(error), 2))
    except NonFinite as error:
        sys.exit(_fail(str(error), 1))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        sys.exit(_fail(f"The package {package} is needed and missing: pip install {_PACKAGES[package]}.", 2))
    except KeyboardInterrupt:
        sys.exit(_fail("Interrupted.", 130))
    except BrokenPipeError:
        # The reader has left (`| head`). Standard output is flushed once more at exit, where nothing could be caught.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(sentence: str, status: int) -> int:
    print(" ".join(sentence.split()), file=sys.stderr)
    return status


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
    return tyro.cli(target, prog=prog, description=description, config=config)


def _annotate(target: Callable[..., Any], arg: Callable[..., Any]) -> None:
    hints = typing.get_type_hints(target, include_extras=True)
    for name, parameter in inspect.signature(target).parameters.items():
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
        if parameter.default is None or parameter.default is False:
            shown["help_behavior_hint"] = ""
        hints[name] = Annotated[hints[name], arg(**shown)]
    target.__annotations__ = hints


def require_seed(seed: int) -> None:
    """Raises UserError for a seed that torch or numpy would refuse."""
    if not 0 <= seed < 2**32:
        raise UserError(f"A seed is a whole number from 0 to 2^32 - 1, not {seed}.")


def require_positive(**numbers: float | None) -> None:
    """Raises UserError for an option, by its name, that is not a positive finite number; None is not looked at."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:  # nor NaN
            raise UserError(f"--{name.replace('_', '-')} must be a positive number, not {number!r}.")


def require_device(device: str) -> None:
    """Raises UserError for a device that torch does not know, or that is not there."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {device} cannot be used here: {reason}. Give cpu or cuda.") from None


def chosen_device(device: str | None) -> str:
    """The device that is asked for, or a GPU where there is one. Raises UserError as require_device does."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    require_device(device)
    return device


class Progress:
    """A training's progress on standard error: a live bar on a terminal, else a line now and then."""

    def __init__(self, total: int, start: int = 0, shown: bool = True):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        def whole() -> Column:  # where the terminal is narrow, it is the bar that shrinks
            return Column(no_wrap=True)

        console = Console(stderr=True)
        self.total, self.lines = total, shown and not console.is_terminal
        self.bar = Bar(
            TextColumn("step"), MofNCompleteColumn(table_column=whole()), BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=whole()),
            TextColumn("{task.fields[left]}"), console=console, disable=not shown or self.lines, expand=True,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total, completed=start, numbers="starting", left="left")
        self.rate = 0.0

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, step: "Step") -> None:
        self.rate = step.images_per_second if self.rate == 0 else 0.9 * self.rate + 0.1 * step.images_per_second
        mi = f"{step.mi:.3f}" if abs(step.mi) < 1000 else f"{step.mi:.2g}"  # an overflow must not push the rest away
        numbers = f"MI {mi} of {step.ceiling:.3f} nats  {self.rate:.0f} images/s"
        left = "" if step.number == self.total else "left"
        self.bar.update(self.task, completed=step.number, numbers=numbers, left=left)
        if self.lines and (step.number == self.total or step.number % max(1, self.total // 10) == 0):
            seconds = (self.total - step.number) * 2 * step.pairs / self.rate
            print(f"step {step.number}/{self.total}  {numbers}  {seconds:.0f} s left", file=sys.stderr, flush=True)


def print_evaluation(probes: "Probes | None", mi: "Estimate | None", saved: Any = None) -> None:
    """The table at the end of a run and of `infomax probe`, on standard output, in at most 80 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False, markup=False)
    if probes is not None:
        images = probes.trained.protocol["test_images"]
        console.print(f"Probes on frozen features: % right of {images} test images, with 95 % intervals")
        table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
        for column in ("", "linear", "10 images a class", "kNN"):
            table.add_column(column, justify="left" if column == "" else "right")
        for name, row in (
            ("trained encoder", probes.trained), ("untrained encoder", probes.untrained), ("raw pixels", probes.pixels)
        ):  # fmt: skip
            if row is not None:
                table.add_row(name, *accuracies(row))
        console.print(table)
    if mi is not None:
        low, high = mi.interval
        console.print(
            f"I(Z1; Z2) of two views: {mi.mi:.2f} nats, 95 % interval [{low:.2f}, {high:.2f}], "
            f"{'trusted' if mi.trusted else 'NOT trusted'};\n"
            f"ceiling {mi.ceiling:.2f} nats, log of {mi.splits[2]} held-out pairs"
        )
        for reason in mi.reasons:
            console.print(f"  {reason}")
    if saved is not None:
        console.print(f"Saved in {saved}", soft_wrap=True)


def print_terms(terms: "Terms") -> None:
    """The MI of a run's features on standard output: two views' in full, the others a line each and why not trusted."""
    print(f"I(Z1; Z2) of two views\n{terms.mi}")
    for name, term, bound in (
        ("I(Z; label)", terms.label, "entropy of the label"),
        ("I(X; Z + noise), noise 1/3 of Z's rms", terms.noise, "capacity of the channel"),
    ):
        if isinstance(term, str):
            print(f"{name}: not measured: {term}")
        elif term is not None:
            cap = "" if term.cap is None else f", {bound} {term.cap:.2f}"
            print(f"{name}: {_nats(term)}{cap}")
            for reason in term.reasons:
                print(f"  {reason}")
    if isinstance(terms.chain, str):
        print(f"Chain of layers: not measured: {terms.chain}")
    elif terms.chain is not None:
        print("I(layer of view 1; Z of view 2), which can only fall along the layers")
        for layer, found in terms.chain.layers:
            print(f"  {layer:12} {_nats(found)}")
        check = terms.chain.check
        print(f"  {check.verdict:4}  {check.name}: {check.sentence}")


def _nats(found: "Estimate") -> str:
    low, high = found.interval
    return f"{found.mi:.2f} nats [{low:.2f}, {high:.2f}], {'trusted' if found.trusted else 'NOT trusted'}"


def say(text: str) -> None:
    """What a long command is at, on a terminal's standard error only."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)


def accuracies(row: "Probe") -> list[str]:
    """A probe's three accuracies as cells of a table, in %, with their intervals."""
    cells = []
    for name in ("accuracy", "shots_10", "knn"):
        value, interval = getattr(row, name), getattr(row, name + "_interval")
        cells.append("too few images" if value is None else f"{_percent(value)} [{', '.join(map(_percent, interval))}]")
    return cells


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("100.0", "100")
