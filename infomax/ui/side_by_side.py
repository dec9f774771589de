"""Runs side by side on one page: a table of their numbers with differences from the first, and their curves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax import __version__
from infomax.errors import UserError
from infomax.ui.page import COMPARISON
from infomax.ui.pictures import compared_curves, health_at
from infomax.ui.progress import Stages
from infomax.ui.report import require, run_folder, write

if TYPE_CHECKING:
    from infomax.evaluation import Evaluation
    from infomax.evaluation.compare import Compared, Number

HOW = {  # what to know of each kind of difference that is on the page
    "paired over test images": "Linear probe and kNN: paired over the same test images (Agresti & Min, 2005).",
    "paired over draws": "10 images a class: paired over the same draws of training images, on one test set; the luck"
    " of the test images is left out, so never bold.",
    "paired over held-out images": "I(J; Z): paired over the same held-out images; what more views may bring is in the"
    " runs' own intervals alone.",
    "from the two intervals": "I(J; Z): from the two intervals, as if they were of different images, so too wide.",
    "no interval": "Lower bounds, and numbers of health, have no interval, and their difference has none.",
}


@dataclass(frozen=True)
class Cell:
    """A number as the page shows it. trusted: whether no check of it failed. sure: whether both numbers are, and their
    difference's interval, of test images too, leaves 0 out."""

    value: str
    difference: str = ""
    sure: bool = False
    trusted: bool = True


def labels(runs: Sequence[Path], steps: Sequence[int | None]) -> list[str]:
    """What the runs are called: their folders' names, with what tells two of one name apart: their step, or a number.

    steps: of the checkpoint of each.
    """
    names = [run_folder(run).resolve().name for run in runs]
    many = Counter(names)
    names = [
        name if many[name] == 1 or step is None else f"{name}, step {step}"
        for name, step in zip(names, steps, strict=True)
    ]
    many = Counter(names)
    return [name if many[name] == 1 else f"{name} ({1 + names[:i].count(name)})" for i, name in enumerate(names)]


def page(
    compared: "Sequence[Compared]", found: "Sequence[Evaluation]", runs: Sequence[Path], notes: Sequence[str] = ()
) -> str:
    """The page of runs side by side. compared, found: of each run its numbers and its evaluation. runs: folders. notes:
    of each, what is to be said of its health; by default nothing."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    rows = [
        {"name": _called(number), "cells": [_cell(one.numbers[i], number) for one in compared]}
        for i, number in enumerate(compared[0].numbers)
        if any(one.numbers[i].value is not None for one in compared)
    ]
    differences = [number.difference for one in compared for number in one.numbers if number.difference is not None]
    logs = {one.label: run_folder(run) / "log.jsonl" for one, run in zip(compared, runs, strict=True)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    names = ", ".join(dict.fromkeys(one.dataset for one in compared))
    return environment.from_string(COMPARISON).render(
        title=f"{compared[0].label} beside {' and '.join(one.label for one in compared[1:])}",
        subtitle=f"Evaluated on {names}; held-out images, one seed.",
        runs=[
            {"label": one.label, "why_apart": one.why_apart, "reasons": f"{_unmeasured(evaluation)} {note}".strip()}
            for one, evaluation, note in zip(compared, found, notes or [""] * len(compared), strict=True)
        ],
        rows=rows,
        bold=any(cell.sure for row in rows for cell in row["cells"]),
        hows=[f"{sentence} " for how, sentence in HOW.items() if any(d.how == how for d in differences)],
        curves=Markup(compared_curves(logs)),
        version=__version__,
    )


def written(place: Path, runs: Sequence[Path], dataset: str | None, seed: int, skip_unreadable: bool) -> dict[str, Any]:
    """Evaluates runs, writes their page to `place`, and returns what it says, as JSON has it.

    dataset, seed, skip_unreadable: as `evaluate` and `subject` take them. Raises UserError: a run that cannot be read,
    or is of pairs; a page that cannot be written.
    """
    from infomax.evaluation import Evaluation, compare, evaluate, pairs_of, subject
    from infomax.evaluation.compare import Seen

    for run in runs:
        if pairs_of(run, dataset, skip_unreadable) is not None:
            raise UserError(
                f"{run} is a run of pairs or given views: runs side by side are of one encoder of images each."
            )
    subjects = [subject(run, dataset, skip_unreadable) for run in runs]
    require(place)
    called = labels(runs, [(about.checkpoint or {}).get("step") for about in subjects])
    found: list[Evaluation] = []
    with Stages() as stages:
        for about, label in zip(subjects, called, strict=True):
            one = evaluate(about, seed=seed, terms=False, said=lambda stage, label=label: stages(f"{label}: {stage}"))
            assert isinstance(one, Evaluation)  # pairs were refused
            found.append(one)
    images = [
        Seen(about.data.name, about.data.train.checksum(), about.data.test.checksum(), repr(about.views))
        for about in subjects
    ]
    measured = [
        _health(run, (about.checkpoint or {}).get("step"), dataset) for run, about in zip(runs, subjects, strict=True)
    ]
    health, notes = zip(*measured, strict=True)
    compared = compare(found, called, images, health)
    write(place, page(compared, found, runs, notes))
    each = zip(compared, found, runs, notes, strict=True)
    return {
        "report": str(place),
        "runs": [
            {"run": str(run), **one.to_dict(), "of_health": note, "evaluation": of.to_dict()}
            for one, of, run, note in each
        ],
    }


def _health(run: Path, step: int | None, dataset: str | None) -> tuple[dict[str, float], str]:
    """The numbers of health that a run's log has for a step, and what is to be said of them: they are of another step,
    or left out, being of another data set than the one that the runs are evaluated on."""
    from infomax.evaluation.subject import saved_in

    own = saved_in(run).get("configuration", {}).get("dataset")
    found = health_at(run_folder(run) / "log.jsonl", step)
    if found and dataset is not None and dataset != own:
        return {}, f"Health is left out: the log has it of {own}, not of {dataset}."
    steps = sorted({at for at, _ in found.values() if step is not None and at != step})
    note = f"Health is of step {' and '.join(map(str, steps))}, the last measured up to step {step}." if steps else ""
    return {name: value for name, (_, value) in found.items()}, note


def _unmeasured(found: "Evaluation") -> str:
    reasons = {"Probes": found.probes, "I(Z1; Z2)": found.mi, "I(J; Z)": found.identity}
    said = [f"{what}: not measured: {why}" for what, why in reasons.items() if isinstance(why, str)]
    if found.identity is not None and not isinstance(found.identity, str) and not found.identity.trusted:
        failed = [check.sentence for check in found.identity.checks if check.verdict == "fail"]
        said.append(f"I(J; Z) is not trusted: {' '.join(failed)}")
    return " ".join(said)


def _called(number: "Number") -> str:
    return f"{number.name}, {number.unit}" if number.unit else number.name


def _cell(number: "Number", first: "Number | None" = None) -> Cell:
    """first: the first run's, from which the difference is."""
    if number.value is None:
        return Cell("-")
    times, digits = (100, 1) if number.unit == "%" else (1, 2)

    def shown(value: float, sign: str = "") -> str:
        return f"{times * value:{sign}z.{digits}f}"  # z: no negative zero

    value = shown(number.value)
    if number.interval is not None:
        value += f" [{', '.join(map(shown, number.interval))}]"
    by = number.difference
    if by is None:
        return Cell(value, trusted=number.trusted)
    told = shown(by.value, "+")
    if by.interval is None:
        return Cell(value, told, trusted=number.trusted)
    low, high = by.interval
    believed = number.trusted and (first is None or first.trusted)
    sure = believed and (low > 0 or high < 0) and by.how != "paired over draws"
    return Cell(value, f"{told} [{shown(low, '+')}, {shown(high, '+')}]", sure, number.trusted)
