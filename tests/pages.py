"""Writes the pages of docs/ that are made from others: of the library reference/, a page a public module, and
objectives/; of tutorials/ notebooks/.

After a change of public names, an objective or a tutorial: .venv/bin/python tests/pages.py. tests/test_site.py holds
the pages to it. Pictures and numbers of objectives: infomax benchmark bias --pictures docs/objectives.
"""

import csv
import hashlib
import importlib
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Public modules, the most looked-up first; `infomax` has those that no other names.
MODULES = (
    "infomax.estimation", "infomax.objectives", "infomax.critics", "infomax.scores", "infomax.models",
    "infomax.encoders", "infomax.data", "infomax.training", "infomax.checkpoints", "infomax.evaluation",
    "infomax.sklearn", "infomax.launch", "infomax.errors", "infomax",
)  # fmt: skip


def public(module: ModuleType) -> list[str]:
    """A module's own list of names, or else the classes and functions that it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def home(value: Any) -> str | None:
    """Where a class or function is defined, as a dotted path; None of a module or of data."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    return f"{value.__module__}.{value.__qualname__}"


def described() -> dict[str, str]:
    """{home: page} of every public class and function: the first page whose module names it."""
    pages: dict[str, str] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for value in (getattr(module, each) for each in public(module)):
            if (path := home(value)) is not None:
                pages.setdefault(path, page_of(name))
    return pages


def page_of(module: str) -> str:
    return f"{module.rpartition('.')[2]}.md"


def summary(value: Any) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).split(". ")[0]
    return first.rstrip(".").replace("|", "\\|").replace("<", "\\<")


def data(name: str, value: Any) -> str:
    """A public name that is neither class nor function, in a line."""
    if isinstance(value, dict | tuple | set | frozenset):
        inside = sorted(value) if isinstance(value, set | frozenset) else value
        return f"- `{name}`: {', '.join(f'`{each}`' for each in inside)}"
    return f"- `{name}`: `{value!r}`"


def module_page(name: str) -> str:
    """A module's page: its docstring's first sentence, data, and a directive for each class and function."""
    module, pages, mine = importlib.import_module(name), described(), page_of(name)
    values = {each: getattr(module, each) for each in public(module)}
    here = {each: path for each, value in values.items() if (path := home(value)) and pages[path] == mine}
    there = {each: path for each, value in values.items() if (path := home(value)) and pages[path] != mine}
    plain = [data(each, value) for each, value in values.items() if home(value) is None and not inspect.ismodule(value)]
    parts = [f"# {name}", f"{summary(module)}."]
    if plain:
        parts.append("\n".join(plain))
    if there:
        links = ", ".join(f"[`{each}`]({pages[path]}#{path})" for each, path in sorted(there.items()))
        parts.append(f"On other pages: {links}.")
    parts += [f"::: {path}" for path in here.values()]
    return "\n\n".join(parts) + "\n"


def index_page() -> str:
    """Every name of `infomax`, with its first sentence and its page."""
    import infomax

    pages, rows = described(), []
    for name in infomax.__all__:
        value = getattr(infomax, name)
        if inspect.ismodule(value):
            target = page_of(value.__name__)
        else:
            path = home(value)
            assert path is not None, name
            target = f"{pages[path]}#{path}"
        rows.append(f"| [`im.{name}`]({target}) | {summary(value)} |")
    others = [f"[`{name}`]({page_of(name)})" for name in MODULES if name.partition(".")[2] not in infomax.__all__]
    head = [
        "# Reference",
        "Every public name, with the docstring that `help` shows. The pages are written out when the site is built;\n"
        "elsewhere they are lists of names. `import infomax as im` is meant; nothing is loaded before it is used.",
        "| name | what it is |\n|---|---|\n" + "\n".join(rows),
        f"More modules: {', '.join(others)}.",
    ]
    return "\n\n".join(head) + "\n"


def reference() -> dict[str, str]:
    """{path below docs/: text} of the reference."""
    return {"reference/index.md": index_page()} | {f"reference/{page_of(name)}": module_page(name) for name in MODULES}


def measured() -> dict[tuple[str, int, float], tuple[float, float]]:
    """{(objective, N, true MI): (mean, deviation)} of docs/objectives/bias.csv, in nats."""
    with open(DOCS / "objectives/bias.csv", encoding="utf-8") as file:
        return {
            (row["objective"], int(row["N"]), float(row["mi"])): (float(row["mean"]), float(row["deviation"]))
            for row in csv.DictReader(file)
        }


USE = (
    re.compile(r"^## When to use it\n\n(.+?) What encoders each trains:", re.MULTILINE),
    re.compile(r"^## Formula\n\n.+\n\n```text\n(.+?)\n```", re.MULTILINE | re.DOTALL),
)


def said(name: str) -> tuple[str, str]:
    """When to use an objective, and its formula, as somebody wrote them into its page; the rest is written here."""
    page = DOCS / f"objectives/{name}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    found = [pattern.search(text) for pattern in USE]
    if found[0] is None or found[1] is None:
        sys.exit(f"{page} needs its sections 'When to use it' and 'Formula' first, in the form of infonce.md's.")
    return found[0][1], found[1][1]


def table(call: str) -> list[str]:
    """Mean and deviation of one objective's values, rows of a table: a level a column."""
    numbers = measured()
    levels = sorted({mi for _, _, mi in numbers if mi >= 1 and mi % 2 == 0})
    lines = [f"| true MI, nats | {' | '.join(f'{mi:g}' for mi in levels)} |", "|---|" + "---|" * len(levels)]
    for n in sorted({n for _, n, _ in numbers}):
        cells = (numbers[call, n, mi] for mi in levels)
        lines.append(f"| N = {n} | {' | '.join(f'{mean:.2f} ± {deviation:.2f}' for mean, deviation in cells)} |")
    return lines


SCALE = (
    "Mean ± standard deviation over 1,000 batches of N pairs of normals with 20 equally correlated columns a side, the"
    " true log-ratios as scores, so that no error of a critic is in it"
)
RARE = (
    "Where a bound's deviation grows as e^MI / N, it comes from batches so rare that 1,000 of them show too few: from"
    " some 6 nats on the mean and the deviation of such a row are themselves uncertain."
)


def objective_page(row: dict[str, str]) -> str:
    from infomax import objectives

    kind = objectives.registry[row["name"]]
    use, formula = said(row["name"])
    optimum = "log r itself" if kind.normalised else "log r plus any constant"
    reads = {"rows": "a pair's score beside those of its own negatives", "plug-in": "the scores of pairs alone",
             "partition": "the scores of pairs, and the mean over all negatives"}[kind.value_from]  # fmt: skip
    methods = [getattr(kind, name) for name in ("estimate", "surrogate") if name in _defined(kind)]
    code = "\n\n\n".join(textwrap.dedent(inspect.getsource(method)).rstrip() for method in methods)
    lines = [
        f"# {kind.__name__}",
        row["words"],
        f"In Python `im.{row['call']}`, on a command line `--objective \"{row['call']}\"`"
        f" ([reference](../reference/objectives.md#infomax.objectives.{kind.__name__})).",
        "\n".join([
            f"| what it is | {row['summary']} |", "|---|---|", f"| ceiling | {row['ceiling']} |",
            f"| variance | {row['variance']} |", f"| best scores | {optimum} |", f"| read from | {reads} |",
            f"| source | {row['source']} |",
        ]),
        "## When to use it",
        f"{use} What encoders each trains:"
        " [Which objective?](../training.md#which-objective)",
        "## Formula",
        "s+ are the scores of pairs, s- those of negatives, means are over a batch, and the value is in nats:",
        f"```text\n{formula}\n```",
        "As the library has it:",
        f"```python\n{code}\n```",
        "## Bias and variance",
        f"![The value and its deviation against the true MI]({row['name']}.png)",
        "\n".join(table(row["call"])),
        f"{SCALE}: `infomax benchmark bias`. Left, the band is one deviation to each side; dotted is log N. {RARE}",
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def _defined(kind: type) -> set[str]:
    """The names that a class, or a base of it other than Objective, defines."""
    from infomax import objectives

    return {name for base in kind.__mro__ if issubclass(base, objectives.Objective) and base is not objectives.Objective
            for name in vars(base)}  # fmt: skip


def objectives_index(rows: list[dict[str, str]]) -> str:
    """All objectives beside each other: what each is, and its numbers."""
    numbers = measured()
    lines = ["| objective | in words | at 2 nats | at 6 nats | at 10 nats |", "|---|---|---|---|---|"]
    for row in rows:
        at = (numbers[row["call"], 64, mi] for mi in (2.0, 6.0, 10.0))
        cells = " | ".join(f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in at)
        lines.append(f"| [{row['call'].partition('(')[0]}]({row['name']}.md) | {row['words']} | {cells} |")
    return (
        "# Objectives\n\nA page for each, with its formula, its bias and variance, and when to use it. They differ in"
        " what they do to\nscores; any of them trains any model, and estimates MI of any pairs.\n\n"
        + "\n".join(lines)
        + f"\n\n{SCALE}; here N = 64 ([all numbers](bias.csv)). {RARE}\n\n"
        "![Value and deviation of each objective against the true MI](bias.png)\n\n"
        "How right a *trained* critic's values are: [Beside known MI](../accuracy.md), and"
        " [the laboratory](../estimation.md).\nOne of your own: [Add an objective](../tutorials/add-objective.md).\n"
    )


def objective_pages() -> dict[str, str]:
    """{path below docs/: text} of the objectives, read from the registry's docstrings."""
    from infomax import cli

    rows = cli.objective_rows()
    pages = {f"objectives/{row['name']}.md": objective_page(row) for row in rows}
    return {"objectives/index.md": objectives_index(rows)} | pages


RUNS = re.compile(r"^```(python|bash)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
BESIDE = re.compile(r"\]\((?![a-z]+:|#|\.\./)")  # a link to another tutorial begins


def notebook(page: Path) -> str:
    """A tutorial as a Jupyter notebook (nbformat 4.5): each block that runs is a cell, those of bash by %%bash, without
    outputs; what it prints stays in the text. A cell's id is of its content: when one changes, others keep theirs."""
    pieces = RUNS.split(page.read_text(encoding="utf-8"))
    found = [("markdown", BESIDE.sub("](../tutorials/", pieces[0]))]
    for language, code, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        found.append(("code", code if language == "python" else f"%%bash\n{code}"))
        found.append(("markdown", BESIDE.sub("](../tutorials/", text)))
    cells: list[dict[str, Any]] = []
    for kind, text in ((kind, text.strip("\n")) for kind, text in found if text.strip()):
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        cell = {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
        cells.append(cell if kind == "markdown" else cell | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    source = page.relative_to(ROOT).as_posix()
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "infomax": {"written_from": source}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def notebooks() -> dict[str, str]:
    """{path below docs/: text} of the tutorials' notebooks."""
    return {f"notebooks/{page.stem}.ipynb": notebook(page) for page in sorted((DOCS / "tutorials").glob("*.md"))}


def written() -> dict[str, str]:
    """All pages that are made from the library or from other pages."""
    return reference() | objective_pages() | notebooks()


if __name__ == "__main__":
    for path, text in written().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
        print(path, file=sys.stderr)
