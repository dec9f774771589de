"""The command line: infomax estimate | probe | objectives."""

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from infomax import console
from infomax.errors import UserError

Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def estimate(
    source: tyro.conf.Positional[tuple[Path, ...]],
    /,
    objective: str | None = None,
    critic: str | None = None,
    dataset: str | None = None,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Estimate mutual information, in nats: of the pairs in X.npy Y.npy, or I(Z1; Z2) of a saved run's encoder.

    Args:
        source: X.npy Y.npy, arrays [n, ...] whose equal rows are pairs; or the folder of a run or checkpoint.
        objective: Any of infomax.estimation.registry, as a constructor call: "SMILE(tau=3)". By default the best known.
        critic: As a constructor call: Separable, Concat, "Separable(hidden=64)". By default Separable.
        dataset: What to estimate a saved run's encoder on. By default the run's own data set.
        seed: Of the split into fit, select and report pairs, and of the critic.
        json: Print one JSON object, and nothing else.
    """
    options: dict[str, Any] = {"seed": seed}
    options |= {key: value for key, value in (("objective", objective), ("critic", critic)) if value is not None}
    if len(source) == 1 and source[0].suffix != ".npy":
        from infomax.evaluation import views_mi

        found = views_mi(source[0], dataset, **options)
    elif len(source) == 2:
        from infomax.estimation import estimate as estimate_pairs

        if dataset is not None:
            raise UserError("--dataset goes with a saved run; X.npy and Y.npy are the data themselves.")
        x, y = (_array(path) for path in source)
        found = estimate_pairs(x, y, **options)
    else:
        raise UserError(f"estimate takes X.npy Y.npy or one run folder, not {len(source)} path(s).")
    print(_one_line(found.to_dict()) if json else found)


def probe(
    checkpoint: tyro.conf.Positional[Path], /, dataset: str | None = None, seed: int = 0, json: Json = False
) -> None:
    """Probe a saved encoder: linear, on 10 images a class, and kNN, beside raw pixels and the untrained encoder.

    Args:
        checkpoint: The folder of a run or of one checkpoint.
        dataset: What to probe on. By default the run's own data set.
        seed: Of the held-out part that chooses hyper-parameters, the draws of 10 a class, and the untrained encoder.
        json: Print one JSON object, and nothing else.
    """
    from infomax.evaluation import probes

    found = probes(checkpoint, dataset, seed)
    print(_one_line(found.to_dict())) if json else console.print_evaluation(found, None)


def objectives(json: Json = False) -> None:
    """List the objectives, what each bounds, its ceiling and its variance.

    Args:
        json: Print one JSON object, and nothing else.
    """
    rows = objective_rows()
    if json:
        print(_one_line({"objectives": rows}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in ("objective", "what it is", "ceiling", "variance", "source"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["call"], row["summary"], row["ceiling"], row["variance"], row["source"])
    Console(width=None if sys.stdout.isatty() else 140).print(table, markup=False)


def objective_rows() -> list[dict[str, str]]:
    """A row for each registered objective, read from its docstring: name, call, summary, ceiling, variance, source."""
    from infomax.objectives import registry

    rows = []
    for name, found in registry.items():
        doc = " ".join(inspect.getdoc(found).split())  # type: ignore[union-attr]
        summary = re.sub(r" \([^()]*\d{4}[^()]*\)", "", doc.split(". ")[0])
        sources = re.findall(r"\(([^()]*\d{4}[^()]*)\)", doc)
        parts = {key: re.search(rf"{key}: (.*?)[.:]( |$)", doc) for key in ("Ceiling", "Variance")}
        if not sources or not all(parts.values()):
            raise AssertionError(f"The docstring of {found.__name__} lacks its source, Ceiling or Variance.")
        ceiling, variance = (match[1] for match in parts.values() if match)
        rows.append({"name": name, "call": repr(found()), "summary": summary.rstrip(".") + ".",
                     "ceiling": ceiling, "variance": variance, "source": "; ".join(sources)})  # fmt: skip
    return rows


def _array(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not an array that numpy.save wrote ({error}); objects are not read.") from None


def _one_line(content: dict[str, Any]) -> str:
    return json.dumps(content, allow_nan=False)


def main() -> None:
    """Runs a command; a user's mistake ends in one sentence on standard error and exit status 2."""
    with console.sentences():
        tyro.extras.subcommand_cli_from_dict(
            {"estimate": estimate, "probe": probe, "objectives": objectives},
            prog="infomax",
            description="Mutual information that can be believed, and encoders that maximise it.",
        )
