"""Our estimates beside other packages' on the same samples of known MI: errors, intervals, verdicts, seconds."""

import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infomax import errors
from infomax.benchmarks import accuracy, cells, published, rivals, tasks
from infomax.benchmarks.cells import Cell
from infomax.benchmarks.rivals import RIVALS, Rival, Rivals, Unavailable
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.files import finite

OURS = "infomax"
CACHE = Path("~/.cache/infomax/rivals")
Answer = dict[str, Any]
Part = tuple[str, tuple[tuple[int, tasks.Task], ...], int, int]
"""A table, its distributions with their places in it, N, samples of each."""
Asked = Callable[[np.ndarray, np.ndarray], Answer]


def sample_of(task: tasks.Task, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The sample that everyone is asked about: that of `infomax benchmark accuracy`."""
    return task.sample(n, [seed, n, zlib.crc32(task.name.encode())])


def ours(x: np.ndarray, y: np.ndarray, seed: int) -> Answer:
    """infomax's answer in a rival's form; good is its verdict."""
    began = time.process_time()
    try:
        found = estimate(x, y, seed=seed)
    except UserError as error:
        return {"mi": None, "interval": None, "good": None, "error": str(error), "seconds": time.process_time() - began}
    return {"mi": found.mi, "interval": list(found.interval), "good": found.trusted, "error": None,
            "seconds": time.process_time() - began, "reasons": list(found.reasons)}  # fmt: skip


def _cell(table: str, task: tasks.Task, n: int, seed: int, name: str, asked: Asked) -> Cell:
    def work() -> dict[str, Any]:
        return {"true": task.mi} | asked(*sample_of(task, n, seed))

    pinned = [*RIVALS[name].requirements, RIVALS[name].asked] if name in RIVALS else []
    key = {"experiment": "yardstick", "estimator": name, "pinned": pinned, "table": table, "task": task.name, "n": n,
           "seed": seed}  # fmt: skip
    return Cell(key, cells.at_once(work))


def plan(sizes: Sequence[int], only: Sequence[str], names: Sequence[str] = ()) -> "list[Part]":
    """Tables as (name, distributions, N, samples of each): those of `only`, and of these the distributions in `names`,
    where they name some. Raises UserError: a table or a distribution that is not there."""
    known = {name: [(size, 1) for size in sizes] for name in accuracy.SETS}
    known |= {table.name: [(size, table.seeds) for size in table.sizes] for table in published.tables()}
    of = {name: make() for name, make in accuracy.SETS.items()} | {t.name: t.tasks for t in published.tables()}
    for name in only:
        if name not in known:
            raise UserError(f"There is no table {name!r}; there are {'; '.join(known)}.")
    tables = [name for name in known if not only or name in only]
    there = {task.name for table in tables for task in of[table]}
    for name in names:
        if name not in there:
            raise UserError(f"There is no distribution {name!r} in {'; '.join(tables)}.{errors.nearest(name, there)}")
    chosen = {table: tuple((i, task) for i, task in enumerate(of[table]) if not names or task.name in names)
              for table in tables}  # fmt: skip
    return [(name, chosen[name], n, seeds) for name in tables if chosen[name] for n, seeds in known[name]]


def _asks(rival: Rival, table: str, n: int, place: int, x: np.ndarray, y: np.ndarray, whole: bool) -> bool:
    """Whether a rival is asked about the distribution at this place of its table. Slow ones: some of both sets."""
    if not rival.takes(x, y):
        return False
    if whole or rival.every == 1:
        return True
    return n in rival.sizes and place % rival.every == 0 and table in accuracy.SETS


def measured(
    plan: Iterable[Part],
    names: Sequence[str],
    folder: Path,
    environments: Path,
    whole: bool = False,
    shown: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Everyone's answers: rows of table, name, n, seed, estimator, true, mi, interval, good, seconds, error; and a
    reason for each rival that cannot be asked. whole: slow rivals are asked about everything, too.

    Finished ones are read from the folder. Raises UserError: a folder that cannot be written.
    """
    asking, asked, reasons = Rivals(environments), [], {}
    for name in names:
        try:
            asking.prepare(RIVALS[name])
            asked.append(RIVALS[name])
        except Unavailable as reason:
            reasons[name] = str(reason)
    jobs: list[Cell] = []
    for table, of, n, seeds in plan:  # a table and a size are finished before the next is begun
        for seed in range(seeds):
            jobs += [_cell(table, task, n, seed, OURS, lambda x, y, seed=seed: ours(x, y, seed)) for _, task in of]
        for rival in asked:
            for place, task in of:
                if _asks(rival, table, n, place, *task.sample(2, 0), whole=whole):
                    jobs += [_cell(table, task, n, seed, rival.name, _asker(asking, rival)) for seed in range(seeds)]
    try:
        answers = cells.run(jobs, folder, shown)
    finally:
        asking.close()
    rows = [
        {"table": job.key["table"], "name": job.key["task"], "n": job.key["n"], "seed": job.key["seed"],
         "estimator": job.key["estimator"]} | answer
        for job, answer in zip(jobs, answers, strict=True)
    ]  # fmt: skip
    return rows, reasons


def _asker(asking: Rivals, rival: Rival) -> Asked:
    return lambda x, y: asking.ask(rival, x, y)


# What is made of the answers ------------------------------------------------------------------------------------------


def _error(row: dict[str, Any]) -> float:
    return abs(row["mi"] - row["true"])


def _is_wrong(row: dict[str, Any]) -> bool:
    return accuracy.is_wrong(row)


def _called_good(row: dict[str, Any]) -> bool:
    """Whether the estimator stands by its value: all values of one that gives no verdict."""
    return row["mi"] is not None and row["good"] is not False


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each table, N and estimator: mean error of its values, nats, coverage of its intervals, shares of
    samples with an interval and that it calls good, wrong of these, median seconds, and how many it was asked about.
    """
    lines = []
    for table, n, estimator in dict.fromkeys((row["table"], row["n"], row["estimator"]) for row in rows):
        some = [row for row in rows if (row["table"], row["n"], row["estimator"]) == (table, n, estimator)]
        values = [row for row in some if row["mi"] is not None]
        held = [row["interval"][0] <= row["true"] <= row["interval"][1] for row in some if row["interval"]]
        good = [row for row in values if _called_good(row)]
        seconds = [row["seconds"] for row in some if row["seconds"] is not None]
        lines.append({
            "table": table, "n": n, "estimator": estimator, "asked": len(some), "failed": len(some) - len(values),
            "error": _mean([_error(row) for row in values]), "coverage": _mean(held), "interval": len(held) / len(some),
            "good": len(good) / len(some), "wrong": _mean([_is_wrong(row) for row in good]),
            "seconds": float(np.median(seconds)) if seconds else math.nan,
        })  # fmt: skip
    return lines


def head_to_head(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each table, N and rival: mean errors of both on the samples for which the rival gave a value."""
    by_us = {(row["table"], row["n"], row["name"], row["seed"]): row for row in rows if row["estimator"] == OURS}
    lines = []
    others = [row for row in rows if row["estimator"] != OURS and row["mi"] is not None]
    for table, n, rival in dict.fromkeys((row["table"], row["n"], row["estimator"]) for row in others):
        some = [row for row in others if (row["table"], row["n"], row["estimator"]) == (table, n, rival)]
        both = [(row, by_us[table, n, row["name"], row["seed"]]) for row in some]
        both = [(row, own) for row, own in both if own["mi"] is not None]
        lines.append({
            "table": table, "n": n, "rival": rival, "samples": len(both),
            "theirs": _mean([_error(row) for row, _ in both]), "ours": _mean([_error(own) for _, own in both]),
            "nearer": _mean([_error(own) < _error(row) for row, own in both]),
        })  # fmt: skip
    return lines


def _without_a_value(rows: Sequence[dict[str, Any]]) -> str:
    failed = sum(row["mi"] is None for row in rows)
    return f"; no value for {failed} of {len(rows)} samples" if failed else ""


def aims(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What is aimed at, as measured, and whether it is met. An aim whose samples were not drawn is left out.

    A sample for which infomax gave no value is not trusted, and has no part in errors and coverage, which is said.
    """
    lines: list[dict[str, str]] = []

    def say(aim: str, measured: str, met: bool) -> None:
        lines.append({"aim": aim, "measured": measured, "result": "met" if met else "**missed**"})

    own = [row for row in rows if row["estimator"] == OURS and row["table"] in accuracy.SETS]
    pairs = [line for line in head_to_head(rows) if line["table"] == "held out"]
    for n in dict.fromkeys(line["n"] for line in pairs):
        at = [line for line in pairs if line["n"] == n]
        without = _without_a_value([row for row in own if row["table"] == "held out" and row["n"] == n])
        lost = [line for line in at if not line["ours"] < line["theirs"]]
        words = "; ".join(f"{line['rival']} {line['theirs']:.3f}, ours {line['ours']:.3f}" for line in lost)
        words = (words or f"below each of {len(at)}") + without
        say(f"held out, N = {n}: a mean error below every rival's on its samples", words, not lost)
        if n == 2000:
            shares = "; ".join(
                f"{line['ours'] / line['theirs']:.2f} of {line['rival']}'s ({line['samples']} samples)" for line in at
            )
            met = all(line["ours"] <= 0.5 * line["theirs"] for line in at)
            say("held out, N = 2000: at most half of every rival's on its samples", shares + without, met)
    for n in dict.fromkeys(row["n"] for row in own):
        some = [row for row in own if row["n"] == n]
        without = _without_a_value(some)
        which = " and ".join(dict.fromkeys(row["table"] for row in some))
        held = _mean([row["interval"][0] <= row["true"] <= row["interval"][1] for row in some if row["interval"]])
        say(f"{which}, N = {n}: coverage of 93 to 99 %", _percent(held) + without, 0.93 <= held <= 0.99)
        trusted = [row for row in some if row["good"]]
        wrong = [row for row in trusted if _is_wrong(row)]
        share, most = len(trusted) / len(some), 0.03 if n < 2000 else 0.0
        words = f"{len(wrong)} of {len(trusted)}"
        if wrong:
            words += ": " + "; ".join(f"{row['name']} {row['mi']:.2f} of {row['true']:.2f}" for row in wrong)
        few = bool(trusted) and len(wrong) <= most * len(trusted)
        say(f"{which}, N = {n}: wrong of trusted at most {100 * most:.0f} %", words, few)
        if n < 2000:
            say(f"{which}, N = {n}: at least 75 % trusted", _percent(share) + without, share >= 0.75)
    atoms = [row for row in rows if row["estimator"] == OURS and row["name"] == published.ATOMS_NAME]
    for n, theirs in published.ATOMS_ERRORS.items():
        some = [row for row in atoms if row["n"] == n]
        if some:
            square = _mean([_error(row) ** 2 for row in some if row["mi"] is not None])
            trusted = sum(bool(row["good"]) for row in some)
            words = f"{'-' if math.isnan(square) else f'{square:.1e}'}, {trusted} of {len(some)} trusted"
            words += _without_a_value(some)
            aim = f"{published.ATOMS_NAME}, N = {n}: mean squared error below {theirs:g}, and trusted"
            say(aim, words, square < theirs and trusted == len(some))
    return lines


def tables_of(rows: Sequence[dict[str, Any]], reasons: dict[str, str], names: Sequence[str]) -> dict[str, list[dict]]:
    """The summary, the comparison on each rival's samples (the nearer in bold), the aims, each distribution, and what
    each rival is: as tables of words."""

    def number(value: float, digits: int = 3) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    whole = [
        {"table": line["table"], "N": line["n"], "estimator": line["estimator"], "asked": line["asked"],
         "no value": line["failed"], "mean error": number(line["error"]), "coverage": _percent(line["coverage"]),
         "gives an interval": _percent(line["interval"]), "calls good": _percent(line["good"]),
         "wrong of good": _percent(line["wrong"]), "s": number(line["seconds"], 2)}
        for line in summary(rows)
    ]  # fmt: skip

    def bold(value: float, other: float) -> str:
        return f"**{value:.3f}**" if value <= other else f"{value:.3f}"

    duels = [
        {"table": line["table"], "N": line["n"], "rival": line["rival"], "samples": line["samples"],
         "its mean error": bold(line["theirs"], line["ours"]), "ours": bold(line["ours"], line["theirs"]),
         "ours is nearer": _percent(line["nearer"])}
        for line in head_to_head(rows)
    ]  # fmt: skip
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    each = []
    for table, name, n in dict.fromkeys((row["table"], row["name"], row["n"]) for row in rows):
        some = [row for row in rows if (row["table"], row["name"], row["n"]) == (table, name, n)]
        line = {"table": table, "distribution": name, "N": n, "true": number(some[0]["true"])}
        for estimator in estimators:
            own = [row for row in some if row["estimator"] == estimator]
            words = [number(row["mi"], 2) + ("" if _called_good(row) else "?") for row in own if row["mi"] is not None]
            line[estimator] = ", ".join(words) or ("fails" if own else "-")
        each.append(line)
    who = []
    for rival in (RIVALS[name] for name in names):
        several = "any columns" if rival.columns else "one column a side"
        part = (
            "" if rival.every == 1 else f"; every {rival.every}th of the sets, N = {', '.join(map(str, rival.sizes))}"
        )
        who.append({"rival": rival.name, "versions": ", ".join(rival.requirements), "asked": rival.asked,
                    "takes": several + (", labels" if rival.labels else "") + part,
                    "not asked": reasons.get(rival.name, "")})  # fmt: skip
    who += [{"rival": name, "versions": "", "asked": "", "takes": "", "not asked": why} for name, why in
            rivals.UNABLE.items()]  # fmt: skip
    failures = [
        {"estimator": row["estimator"], "distribution": row["name"], "N": row["n"], "says": row["error"]}
        for row in rows if row["error"]
    ]  # fmt: skip
    return {"aims": aims(rows), "summary": whole, "on each rival's samples": duels, "rivals": who,
            "no value": failures, "each distribution": each}  # fmt: skip


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Mean errors on each rival's samples beside ours, a panel a number of pairs, both sets together."""
    merged = [row | {"table": "both"} for row in rows if row["table"] in accuracy.SETS]
    duels = head_to_head(merged)
    sizes = sorted({line["n"] for line in duels})
    if not sizes:
        return
    _, axes, save = cells.figure(path, 1, len(sizes), figsize=(4.8 * len(sizes), 3.6), squeeze=False)
    for axis, n in zip(axes[0], sizes, strict=True):
        at = [line for line in duels if line["n"] == n]
        for place, line in enumerate(at):
            axis.plot([line["ours"], line["theirs"]], [place, place], color="0.75", lw=1, zorder=1)
            axis.plot(line["theirs"], place, "s", color="#d55e00", label="the rival" if not place else None)
            axis.plot(line["ours"], place, "o", color="#0072b2", label="infomax" if not place else None)
        axis.set_yticks(range(len(at)), [f"{line['rival']} ({line['samples']})" for line in at], fontsize=7)
        axis.set(title=f"N = {n:,}", xlabel="mean error, nats", xscale="log", ylim=(len(at) - 0.5, -0.5))
        axis.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"])
        ends = [line[whose] for line in duels for whose in ("ours", "theirs")]
        axis.set(xlim=(min(0.015, max(1e-3, 0.8 * min(ends))), max(2.5, 1.2 * max(ends))))
        axis.minorticks_off()
        axis.grid(alpha=0.3, axis="x")
    axes[0][-1].legend(fontsize=7)
    save()


def command(
    sizes: tuple[int, ...] = (500, 2000, 10_000),
    rivals: tuple[str, ...] = tuple(RIVALS),
    only: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    environments: Path = CACHE,
    output: Path = Path("results/yardstick"),
    whole: bool = False,
    quick: bool = False,
    json: bool = False,
) -> None:
    """infomax's estimates beside other packages' on one set of samples whose mutual information is known.

    The first run installs the packages by pip, each with its own pinned versions, in environments under a cache folder
    (1.5 GB); torch is this environment's. Each finished sample is kept in the results folder: a run that was stopped
    goes on. Seconds are of processor time. A whole run takes hours; OMP_NUM_THREADS=1 keeps infomax to one core, as the
    rivals are.

    Args:
        sizes: Numbers of pairs N of the sets; other authors' tables have their own.
        rivals: Estimators to compare with, by their names in the table; "none" for none.
        only: Tables: set, "held out", mixtures, "smoothed discrete uniform", erasures, "2 nats a dimension". By default
            all.
        names: Distributions, by their names in the table. By default all.
        environments: Where the packages' environments are kept.
        output: The results folder.
        whole: Ask the slow rivals about every distribution at every N: days.
        quick: The set held out at N = 500, beside scikit-learn.
        json: Print one JSON object, and nothing else.
    """
    errors.require_positive(sizes=min(sizes, default=0))
    if quick:
        sizes, rivals, only = (500,), ("scikit-learn",), ("held out",)
    others = [name for name in rivals if name != "none"]
    for name in others:
        if name not in RIVALS:
            raise UserError(f"There is no rival {name!r}.{errors.nearest(name, list(RIVALS))}")
    rows, reasons = measured(plan(sizes, only, names), others, output, environments.expanduser(), whole, not json)
    made = tables_of(rows, reasons, others)
    draw(rows, output / "yardstick.png")
    protocol = (
        "One sample of each distribution, two of each mixture, the same for all. An error is of the values that are"
        " given. Wrong is off by more than .25 nat and 10 %. Good is what an estimator's own verdict lets pass, and all"
        " values of one without a verdict. Seconds: processor time, median. '-': not asked. On each rival's samples the"
        " nearer is bold."
        f" Load at the end: {os.getloadavg()[0]:.1f}."
    )
    cells.report(cells.write_tables(output, "yardstick", protocol, made), finite(made), output, json)
