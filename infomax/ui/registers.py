"""The rows of `infomax objectives` and `infomax estimators`, read from the source of the classes.

Importing torch to print a list would take seconds. tests/test_cli.py compares the rows with the registries.
"""

import ast
import re
from pathlib import Path

LIBRARY = Path(__file__).parents[1]
ESTIMATORS = ("copula_js", "generative", "classical")  # modules, in the registry's order


LEGEND = (
    "N: pairs in a batch. s: a score of a pair. r: how many times likelier a pair is than x and y by themselves, whose"
    " log a score learns. Ceiling: the most that the value can show. Variance: how much it changes from batch to batch."
)


def objective_rows() -> list[dict[str, str]]:
    """A row for each registered objective, read from its docstring: name, call, summary, ceiling, variance, words (one
    plain sentence), source."""
    classes = _classes(LIBRARY / "objectives.py")
    names = [name for name in classes if not name.startswith("_") and "Objective" in _lineage(name, classes)[1:]]
    return [_row(name, classes) for name in names]


def estimator_rows() -> list[dict[str, str]]:
    """The same for each row of the registry of estimators, objectives first."""
    rows = objective_rows()
    for module in ESTIMATORS:
        path = LIBRARY / "estimation" / "estimators" / f"{module}.py"
        classes = _classes(path)
        rows += [_row(name, classes) for name in _listed(path) or classes if not name.startswith("_")]
    return rows


def in_words(row: dict[str, str]) -> list[str]:
    """What a list says of a row below its call: first, for a reader who does not know its paper, one plain sentence."""
    ceiling = f"Ceiling: {row['ceiling']}. Variance: {row['variance']}."
    return [row["words"], row["summary"], ceiling, f"({row['source']})"]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    """The classes of a module by name, in their order."""
    return {node.name: node for node in _tree(path).body if isinstance(node, ast.ClassDef)}


def _listed(path: Path) -> list[str]:
    """The names in a module's ESTIMATORS, a tuple of classes; none where it has no such tuple."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ESTIMATORS":
            return [name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)]
    return []


def _lineage(name: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    """A class and its bases of the same module, depth first."""
    bases = [ast.unparse(base) for base in classes[name].bases]
    return [name, *(found for base in bases if base in classes for found in _lineage(base, classes))]


def _call(name: str, classes: dict[str, ast.ClassDef]) -> str:
    """The constructor call with the defaults of the nearest __init__, as the object's repr spells it."""
    for ancestor in _lineage(name, classes):
        for node in classes[ancestor].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                parameters = node.args.args[1:]
                defaults = [ast.literal_eval(default) for default in node.args.defaults]
                pairs = zip(parameters, defaults, strict=True)
                return f"{name}({', '.join(f'{parameter.arg}={default!r}' for parameter, default in pairs)})"
    return f"{name}()"


def _row(name: str, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    doc = " ".join((ast.get_docstring(classes[name]) or "").split())
    summary = re.sub(r" \([^()]*\d{4}[^()]*\)", "", doc.split(". ")[0])
    sources = re.findall(r"\(([^()]*\d{4}[^()]*)\)", doc)
    parts = [re.search(rf"{key}: (.*?)[.:]( |$)", doc) for key in ("Ceiling", "Variance")]
    parts.append(re.search(r"In words: (.*?\.)( |$)", doc))
    if not sources or not all(parts):
        raise AssertionError(f"The docstring of {name} lacks its source, Ceiling, Variance or In words.")
    ceiling, variance, words = (match[1] for match in parts if match)
    return {"name": name.lower(), "call": _call(name, classes), "summary": summary.rstrip(".") + ".",
            "ceiling": ceiling, "variance": variance, "words": words, "source": "; ".join(sources)}  # fmt: skip
