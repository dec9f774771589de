"""What a person sees: progress, tables, and a user's mistake as one sentence with exit status 2."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from infomax.errors import UserError

if TYPE_CHECKING:
    from infomax.estimation import Estimate
    from infomax.evaluation import Probes
    from infomax.probing import Probe
    from infomax.training import Step


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turns a user's mistake into its sentence on standard error and exit status 2; a stopped training into 1."""
    from infomax.training import NonFinite

    try:
        yield
    except UserError as error:
        sys.exit(_fail(str(error), 2))
    except NonFinite as error:
        sys.exit(_fail(str(error), 1))
    except KeyboardInterrupt:
        sys.exit(_fail("Interrupted.", 130))


def _fail(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


class Progress:
    """A training's progress on standard error: a live bar on a terminal, else a line now and then."""

    def __init__(self, total: int, start: int = 0, shown: bool = True):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.total, self.lines = total, shown and not console.is_terminal
        self.bar = Bar(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=24),
            TextColumn("MI {task.fields[mi]:.3f} of at most {task.fields[ceiling]:.3f} nats"),
            TextColumn("{task.fields[rate]:.0f} images/s"), TimeRemainingColumn(elapsed_when_finished=True),
            console=console, disable=not shown or self.lines,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total, completed=start, mi=0.0, ceiling=0.0, rate=0.0)
        self.rate = 0.0

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, step: "Step") -> None:
        self.rate = step.images_per_second if self.rate == 0 else 0.9 * self.rate + 0.1 * step.images_per_second
        self.bar.update(self.task, completed=step.number, mi=step.mi, ceiling=step.ceiling, rate=self.rate)
        if self.lines and (step.number == self.total or step.number % max(1, self.total // 10) == 0):
            left = (self.total - step.number) * 2 * step.pairs / self.rate
            print(
                f"step {step.number}/{self.total}  MI {step.mi:.3f} of at most {step.ceiling:.3f} nats"
                f"  {self.rate:.0f} images/s  {left:.0f} s left",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def print_evaluation(probes: "Probes | None", mi: "Estimate | None", saved: Any = None) -> None:
    """The table at the end of a run and of `infomax probe`, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    if probes is not None:
        table = Table(title="Probes on frozen features: test accuracy and its 95 % interval, %", title_justify="left")
        for column in ("", "linear", "10 images a class", "kNN"):
            table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
        for name, row in (
            ("trained encoder", probes.trained), ("untrained encoder", probes.untrained), ("raw pixels", probes.pixels)
        ):  # fmt: skip
            if row is not None:
                table.add_row(name, *_accuracies(row))
        console.print(table)
    if mi is not None:
        low, high = mi.interval
        console.print(
            f"I(Z1; Z2) of two views: {mi.mi:.2f} nats, 95 % interval [{low:.2f}, {high:.2f}], ceiling"
            f" {mi.ceiling:.2f} (log of {mi.splits[2]} held-out pairs), {'trusted' if mi.trusted else 'NOT trusted'}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        for reason in mi.reasons:
            console.print(f"  {reason}", highlight=False, markup=False, soft_wrap=True)
    if saved is not None:
        console.print(f"Saved in {saved}", highlight=False, markup=False, soft_wrap=True)


def _accuracies(row: "Probe") -> list[str]:
    cells = []
    for name in ("accuracy", "shots_10", "knn"):
        value, interval = getattr(row, name), getattr(row, name + "_interval")
        if value is None:
            cells.append("too few images")
        else:
            cells.append(f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]")
    return cells
