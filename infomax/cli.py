"""The command line: infomax estimate | matrix | probe | report | export | push | recipe | plan | ...

What takes seconds to import (torch) is imported by the commands that compute, so that help and lists come at once.
"""

import importlib
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from infomax import __version__, errors, ui
from infomax.benchmarks import BENCHMARKS, benchmark
from infomax.errors import UserError
from infomax.ship.commands import export, push
from infomax.ui.matrix import matrix
from infomax.ui.output import one_line, require_file, show_and_write
from infomax.ui.plan import bytes_of, plan
from infomax.ui.recipes import recipe
from infomax.ui.registers import LEGEND, estimator_rows, in_words, objective_rows


def estimate(
    file: Path,
    y_file: Path | None = None,
    /,
    x: str | None = None,
    y: str | None = None,
    missing: str = "refuse",
    estimator: str | None = None,
    method: Annotated[str | None, ui.HIDDEN] = None,
    objective: Annotated[str | None, ui.HIDDEN] = None,
    critic: str | None = None,
    dataset: str | None = None,
    seed: int = 0,
    audit: bool = False,
    device: str | None = None,
    report: Path | None = None,
    output: Path | None = None,
    json: bool = False,
    given: str | None = None,
    blocks: str | None = None,
    bits: bool = False,
    skip_unreadable: bool = False,
    lags: str | None = None,
    transfer: bool = False,
    history: int | None = None,
    layers: str | None = None,
    labels: str | None = None,
) -> None:
    """Estimate mutual information, in nats, with its 95 % interval and whether to trust it.

    Of the pairs in two files, infomax estimate X.npy Y.npy; of columns of one table, infomax estimate TABLE.csv --x
    age,height --y weight; or, infomax estimate RUN, of a saved run's features of held-out images: I(Z1; Z2) of two
    views, I(J; Z), which of 64 images a view shows, I(Z; label), I(X; Z + noise), I(Z1 + noise; Z2 + noise), and a
    chain of layers from pixels to projection (a minute). JSON has them under mi, identity, label, noise, noisy_views
    and chain. So of an encoder that was not trained here: infomax estimate FILE.py:build --dataset NAME.

    Args:
        file: X.npy, an array [n, ...] that numpy.save wrote; a table, which ends in .csv, .tsv, .parquet, .feather,
            .npy, .npz, .mat, .h5, .hdf5, .h5ad or .zarr; or the folder of a run or of one checkpoint; or an encoder:
            FILE.py:NAME (a module, or a function that returns one), timm:NAME, local-dir:FOLDER.
        y_file: Y.npy, an array [n, ...]: row i of X and row i of Y are a pair.
        x: Columns of a table, by name: age,height; of .h5ad CD3D,louvain,X_pca.0. Texts and categories are labels.
        y: Columns of the other side.
        missing: What to do about missing values: refuse them, or drop the pairs that have some.
        estimator: What estimates: a name that `infomax estimators` lists, with its options or without: KSG,
            "SMILE(tau=3)". By default CopulaJS. (--method and --objective are earlier names of this option.)
        method: The same as --estimator, by an earlier name.
        objective: The same as --estimator, by an earlier name.
        critic: What scores pairs, as a constructor call: Concat, "Separable(hidden=64)". By default Separable.
        dataset: What to estimate a saved run's encoder on, as in its recipe. By default the run's own data set.
        seed: Of the split into train, validation and test pairs, of the critic, and of a run's views.
        audit: Estimate again, nine times, on changed pairs: deranged, repeated, folded, side by side, a Gaussian of
            this shape, other seeds; with --given also Gaussians that share Z alone, and other estimators; and of a
            run once more, on mosaics of known MI seen by its encoder.
        device: Where features are made and critics trained, cpu or cuda. By default a GPU where there is one.
        report: A page to write, NAME.html: the value among its bounds, each check, scores, protocol, in one file.
        output: A file to write the JSON object into, with the checksum of the checkpoint.
        json: Print one JSON object, and nothing else.
        given: What to condition on, I(X; Y | Z): Z.npy, an array [n, ...], or columns of the table.
        blocks: Of rows that follow each other in time: how many make a block, beyond which they are alike no more, or
            auto: as their autocorrelation asks for.
        bits: Print bits, not nats. JSON has both.
        skip_unreadable: Leave out image files that cannot be read; of a run's own data set by default as the run did.
        lags: Of two series, I(X at t - lag; Y at t) at each lag: 0:10 (both ends), 0:100:10 (in steps), 0,5,20;
            --lags=-5:5 where the first is negative. Give --blocks too. With --transfer: which rows of the past tell.
        transfer: Of two series, transfer entropy both ways: what the past of one tells of the other beyond its own.
        history: With --transfer: how many rows of the own past are known. By default 1.
        layers: Of a run or an encoder: modules whose outputs the chain has, by name, such as layer1,layer2.
        labels: Sides whose values are names of classes, whatever their type: x, y or x,y. By default whole numbers are
            names or in order, whichever validation pairs prefer.
    """
    from infomax import launch
    from infomax.ui import report as page
    from infomax.ui import sides as asked_of

    named = {"estimator": estimator, "method": method, "objective": objective}
    asked = {name: value for name, value in named.items() if value is not None}
    if len(asked) > 1:
        told = " and ".join(f"--{name} {value}" for name, value in asked.items())
        raise UserError(
            f"{told} are one option by {'two' if len(asked) == 2 else 'three'} names; give one, --estimator."
        )
    errors.require_seed(seed)
    if report is not None:
        page.require(report)
    require_file(output)
    options: dict[str, Any] = {"seed": seed, "device": launch.chosen_device(device)}
    named_options = (("estimator", next(iter(asked.values()), None)), ("critic", critic))
    options |= {key: value for key, value in named_options if value is not None}
    unit = "bits" if bits else "nats"
    of_arrays = {
        "given": given, "blocks": blocks, "lags": lags, "transfer": transfer or None, "history": history,
        "labels": labels,
    }  # fmt: skip
    for name, value in of_arrays.items():
        if value is not None and y_file is None and x is None and y is None:
            raise UserError(f"--{name} goes with two arrays, X.npy and Y.npy, or with columns of a table.")
        if value is not None and audit and name not in ("given", "blocks", "labels"):
            raise UserError(f"--{name} does not go with --audit: leave one of them out.")
    over_time = asked_of.OverTime.of(lags, transfer, history)
    if over_time is not None and labels is not None:
        raise UserError("--labels does not go with --lags and --transfer, where whole numbers and texts are labels.")
    if over_time is not None and (report is not None or missing != "refuse"):
        raise UserError(
            "--report is a page of one estimate: leave it out, or --lags and --transfer."
            if report is not None
            else f"--missing {missing} would leave rows out of a series: fill what is missing, or give a part without."
        )
    checkpoint = None
    if y_file is not None or x is not None or y is not None:
        from infomax import estimation

        if dataset is not None:
            raise UserError("--dataset goes with a saved run; X.npy and Y.npy are the data themselves.")
        if skip_unreadable or layers is not None:
            flag = "--skip-unreadable" if skip_unreadable else "--layers"
            raise UserError(f"{flag} goes with a saved run or an encoder, and its images.")
        (of_x, of_y, *rest), title = asked_of.read(file, y_file, x, y, given)
        options |= {"given": rest[0]} if rest else {}
        options |= {"blocks": asked_of.blocks_of(blocks)} if blocks is not None else {}
        options |= {"labels": labels} if labels is not None else {}
        what = "the mutual information" if over_time is None else over_time.words
        estimated: Any
        times = "" if not audit else ", ten times" if given is None else ", a dozen times"
        with ui.Stages(f"Estimating {what} of {title}{times}"):
            if over_time is not None:
                estimated = over_time.ask(of_x, of_y, **options)
            else:
                estimated = (estimation.audit if audit else estimation.estimate)(of_x, of_y, missing=missing, **options)

        def show() -> None:
            print(one_line(estimated.to_dict()) if json else estimated.shown(unit))

        found, html = estimated, lambda: page.of_pairs(estimated, title)
    elif missing != "refuse":
        raise UserError("--missing goes with arrays and tables, and a saved run's features have no missing values.")
    elif file.suffix == ".npy" or file.is_file() or file.suffix == ".zarr":
        raise UserError(
            f"{file} is one side of the pairs: name the other side's file too, infomax estimate X.npy Y.npy; or, of "
            "one table, the columns of both sides, --x NAME,NAME --y NAME."
        )
    else:
        from infomax.evaluation import evaluate_towers, mutual_information, pairs_of, subject

        if (pairs := pairs_of(file, dataset, skip_unreadable)) is not None:
            if audit:
                raise UserError("--audit goes with two arrays, or with a run of one encoder.")
            with ui.Stages() as stages:
                towers = evaluate_towers(file, pairs, said=stages, **options)
            if isinstance(known := towers.mi, str):
                raise UserError(known)

            def shown() -> None:
                print(one_line(known.to_dict()) if json else known.shown(unit))

            return _finished(output, report, towers, shown, file)
        about = subject(file, dataset, skip_unreadable)
        checkpoint = about.checkpoint
        with ui.Stages() as stages:
            names = None if layers is None else [name.strip() for name in layers.split(",") if name.strip()]
            terms = mutual_information(about, said=stages, audit=audit, layers=names, **options)
        known = (terms.mi, terms.label, terms.noise, terms.noisy_views, terms.identity, terms.chain)
        if isinstance(terms.mi, str) and all(isinstance(term, str) for term in known):
            raise UserError(terms.mi)

        def show() -> None:
            print(one_line(terms.to_dict())) if json else ui.print_terms(terms, unit)

        found, html = terms, lambda: page.of_run(terms, None, checkpoint, file, about.data.name)
    try:
        show_and_write(output, checkpoint, "estimate", found, show)
    finally:
        if report is not None:
            page.write(report, html())


def report(
    run: Path,
    others: tuple[Path, ...] = (),
    /,
    dataset: str | None = None,
    seed: int = 0,
    audit: bool = False,
    output: Path | None = None,
    json: bool = False,
    skip_unreadable: bool = False,
) -> None:
    """Write a page about a saved run: its training curve, its probes with baselines, its MI with bounds and checks.

    Of several runs, infomax report RUN RUN: a table of their numbers, with differences from the first and their
    intervals, and their curves over each other. Everything is measured anew (minutes), and the page is one file, which
    needs no network.

    Args:
        run: The folder of a run, checkpoints/NAME, or of one checkpoint.
        others: More runs, to be held beside the first.
        dataset: What to evaluate on, as in a recipe. By default the run's own data set.
        seed: Of what is drawn: splits, critics, views, held-out parts, the untrained encoder.
        audit: Estimate I(Z1; Z2) ten times more, as infomax estimate --audit.
        output: Where to write the page, NAME.html. By default report.html in the folder of the run, and of several
            comparison.html in that of the first.
        json: Print one JSON object, and nothing else: what the page says, and where it is.
        skip_unreadable: Leave out image files that cannot be read; of a run's own data set by default as the run did.
    """
    from infomax.evaluation import Evaluation, evaluate, evaluate_towers, pairs_of, subject
    from infomax.evaluation.named import names_encoder
    from infomax.ui import report as page

    errors.require_seed(seed)
    if output is None and names_encoder(run):
        raise UserError(f"{run} is no run, whose folder the page goes into: say where with --output NAME.html.")
    place = page.run_folder(run) / ("comparison.html" if others else "report.html") if output is None else output
    if others:
        if audit:
            raise UserError("--audit goes with one run.")
        from infomax.ui import side_by_side

        content = side_by_side.written(place, [run, *others], dataset, seed, skip_unreadable)
        return print(one_line(content) if json else f"Written to {place}")
    if (pairs := pairs_of(run, dataset, skip_unreadable)) is not None:
        if audit:
            raise UserError("--audit goes with a run of one encoder.")
        page.require(place)
        with ui.Stages() as stages:
            towers = evaluate_towers(run, pairs, seed, said=stages)
        page.write(place, page.of_towers(towers, run))
        print(one_line({"report": str(place), **towers.to_dict()}) if json else f"Written to {place}")
        return
    about = subject(run, dataset, skip_unreadable)
    page.require(place)
    with ui.Stages() as stages:
        found = evaluate(about, seed=seed, audit=audit, said=stages)
    assert isinstance(found, Evaluation)
    page.write(place, page.of_run(found.terms, found.probes, found.checkpoint, run, about.data.name, found.targets))
    print(one_line({"report": str(place), **found.to_dict()}) if json else f"Written to {place}")


def probe(
    run: Path,
    /,
    dataset: str | None = None,
    seed: int = 0,
    finetune: bool = False,
    output: Path | None = None,
    json: bool = False,
    skip_unreadable: bool = False,
    memory: str | None = None,
    scratch: Path | None = None,
    dtype: str | None = None,
) -> None:
    """Probe a saved encoder: linear, on 10 images a class, and kNN, beside raw pixels and the untrained encoder.

    Targets of the data set, numbers and labels of several words, are probed too: R2 and mean average precision.

    Args:
        run: The folder of a run, checkpoints/NAME, or of one checkpoint.
        dataset: What to probe on, as in a recipe: mnist5k, cifar10, folder:PATH, ... By default the run's own data set.
        seed: Of the part that chooses hyper-parameters, the draws of 10 a class, and the untrained encoder.
        finetune: Train copies of the encoder and of the untrained one with the labels too, all weights: with all labels
            and with 10 a class (minutes).
        output: A file to write the JSON object into, with the checksum of the checkpoint.
        json: Print one JSON object, and nothing else.
        skip_unreadable: Leave out image files that cannot be read; of a run's own data set by default as the run did.
        memory: What features of one part, training or test, may take in memory: 8GiB, 500MB; above it they are on disk,
            with the same numbers. By default a quarter of what is free. --memory, --scratch and --dtype go with a run
            of one encoder.
        scratch: A folder for features on disk, deleted when the command ends. By default that of temporary files.
        dtype: What features are kept as: float32, or float16, which halves their size and rounds them; features most
            of which are below 6.1e-5 are refused. By default float32.
    """
    from infomax.evaluation import Store, evaluate_towers, pairs_of, probe_all, subject

    errors.require_seed(seed)
    require_file(output)
    store = Store(None if memory is None else bytes_of(memory), scratch, dtype or "float32")
    if (pairs := pairs_of(run, dataset, skip_unreadable)) is not None:
        if finetune:
            raise UserError("--finetune goes with a run of one encoder, whose images have labels.")
        for name, value in {"memory": memory, "scratch": scratch, "dtype": dtype}.items():
            if value is not None:
                raise UserError(f"--{name} goes with a run of one encoder: two towers' projections stay in memory.")
        with ui.Stages() as stages:
            towers = evaluate_towers(run, pairs, seed, said=stages)

        def shown() -> None:
            print(one_line(towers.to_dict())) if json else ui.print_results(towers)

        return show_and_write(output, towers.checkpoint, "retrieval", towers, shown)
    about = subject(run, dataset, skip_unreadable)
    with ui.Stages() as stages:
        found = probe_all(about, seed=seed, said=stages, finetune=finetune, store=store)
    if isinstance(found.probes, str) and found.targets is None:
        raise UserError(found.probes)

    def show() -> None:
        print(one_line(found.to_dict())) if json else ui.print_evaluation(found.probes, None, targets=found.targets)

    show_and_write(output, about.checkpoint, "probe", found, show)


def objectives(json: bool = False) -> None:
    """List the objectives: the call that makes each, what it bounds, its ceiling, its variance, its source.

    Args:
        json: Print one JSON object, and nothing else.
    """
    _list("objectives", objective_rows(), json)


def estimators(json: bool = False) -> None:
    """List what --estimator takes, objectives and estimators that are not objectives, as `infomax objectives` does.

    Args:
        json: Print one JSON object, and nothing else.
    """
    _list("estimators", estimator_rows(), json)


def _list(what: str, rows: list[dict[str, str]], json: bool) -> None:
    if json:
        print(one_line({what: rows}))
        return
    width = min(shutil.get_terminal_size().columns if sys.stdout.isatty() else 80, 100)
    for row in rows:
        print(row["call"])
        for text in in_words(row):
            print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))
    print(textwrap.fill(LEGEND, width))


def _finished(output: Path | None, report: Path | None, towers: Any, show: Callable[[], None], run: Path) -> None:
    """What `infomax estimate` says of a run of two towers."""
    from infomax.ui import report as page

    try:
        show_and_write(output, towers.checkpoint, "estimate", towers.mi, show)
    finally:
        if report is not None:
            page.write(report, page.of_towers(towers, run))


COMMANDS: tuple[Callable[..., None], ...] = (
    estimate, matrix, probe, recipe, plan, report, export, push, objectives, estimators, benchmark,
)  # fmt: skip


def main() -> None:
    """Runs a command; a user's mistake ends in one sentence on standard error and exit status 2."""
    with ui.sentences():
        if sys.argv[1:] == ["--version"]:
            print(f"infomax {__version__}")
            return
        if sys.argv[1:2] == ["benchmark"] and sys.argv[2:3] and sys.argv[2] in BENCHMARKS:
            name = sys.argv[2]
            del sys.argv[1:3]  # a command line of its own
            command = importlib.import_module(f"infomax.benchmarks.{name}").command
            ui.arguments(command, prog=f"infomax benchmark {name}")
            return
        ui.arguments(
            {command.__name__: command for command in COMMANDS},
            prog="infomax",
            description="Mutual information that can be believed, and encoders that maximise it. infomax"
            " --version says which one this is.",
        )
