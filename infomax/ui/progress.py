"""Progress on standard error while work is done."""

import contextlib
import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomax.training import Step


SILENT = 20.0  # seconds, at most, between two lines of what is not on a terminal
FIRST = 5.0  # seconds after which a stage of a long command is named, where there is no terminal
FEW = 100  # steps: fewer of the default learning rate have hardly left the start


def before_training(dataset: Any, steps: int, epoch: int, pairs: int, asked: bool) -> str:
    """What a training is about to read, and whether its steps are few, in a line each.

    dataset: images, pairs or views, with train and test. steps: in all. epoch: steps of one. pairs: in a batch. asked:
    so many steps were asked for by number, so that few are no surprise.
    """
    train, test = dataset.train, dataset.test
    shape = f" {list(train.shape)}" if hasattr(train, "shape") else ""
    labels = ""
    if hasattr(train, "classes"):
        classes = "1 class" if len(train.classes) == 1 else f"{len(train.classes)} classes"
        unlabelled = ", with targets" if train.targets else ", without labels"
        labels = unlabelled if train.labels is None else f", in {classes}"
    what = getattr(train, "what", "samples")
    text = f"{dataset.name}: {len(train)} training and {len(test)} held-out {what}{shape}{labels}."
    if not asked and steps < FEW:
        text += (
            f"\n{steps} step{'s' * (steps > 1)} in all, {epoch} an epoch of {pairs} pairs each, are few to learn from:"
            " a smaller --batch-size or more --epochs makes more."
        )
    return text


class Progress:
    """A training's progress on standard error: a live bar on a terminal, else a line at the first step, at each tenth,
    and every SILENT seconds."""

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
        self.rate, self.last = 0.0, -math.inf
        self.health = ""  # of the last measurement, which stays until the next

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, step: "Step", health: str = "") -> None:
        """step: the latest. health: what was measured after it, in a few words, or nothing."""
        self.health = health or self.health
        self.rate = step.images_per_second if self.rate == 0 else 0.9 * self.rate + 0.1 * step.images_per_second
        mi = f"{step.mi:.3f}" if abs(step.mi) < 1000 else f"{step.mi:.2g}"  # an overflow must not push the rest away
        shown = f"{self.health}  " if self.health else ""
        numbers = f"MI {mi} of {step.ceiling:.3f} nats  {shown}{self.rate:.0f} images/s"
        left = "" if step.number == self.total else "left"
        self.bar.update(self.task, completed=step.number, numbers=numbers, left=left)
        tenth = step.number == self.total or step.number % max(1, self.total // 10) == 0
        if self.lines and (tenth or time.monotonic() - self.last > SILENT):  # the first step is always said
            self.last = time.monotonic()
            seconds = (self.total - step.number) * 2 * step.pairs / self.rate
            print(f"step {step.number}/{self.total}  {numbers}  {seconds:.0f} s left", file=sys.stderr, flush=True)


class Stages:
    """Says on standard error what a long command is at: at once on a terminal, else once a stage has taken FIRST
    seconds; then every SILENT seconds with the time that it has taken.

    A call names the next stage, and ends the one before.
    """

    def __init__(self, text: str | None = None, first: float = FIRST, every: float = SILENT):
        self.first, self.every = first, every
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.text, self.began, self.due = text, time.monotonic(), first
        self.thread = threading.Thread(target=self._watch, daemon=True, name="infomax-stages")

    def __enter__(self) -> "Stages":
        if self.text is not None:
            self(self.text)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def __call__(self, text: str) -> None:
        with self.lock:
            self.text, self.began, self.due = text, time.monotonic(), self.first
            if sys.stderr.isatty():
                self.due = self.every
                print(f"{text} ...", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self.ended.wait(min(0.5, self.first)):
            with self.lock:
                taken = time.monotonic() - self.began
                if self.text is not None and taken >= self.due and not self.ended.is_set():
                    self.due = taken + self.every
                    with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
                        print(f"{self.text} ... {taken:.0f} s", file=sys.stderr, flush=True)
