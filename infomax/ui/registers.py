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
WORDS = {
    "infonce": "How well each x picks its own y out of a batch; steady, and never more than log N.",
    "nwj": "A lower bound without that limit; with few pairs and much MI it jumps from batch to batch.",
    "calibratednwj": "NWJ with its scores kept in range, so that it can also be trained with.",
    "dv": "The classical lower bound; on one batch it tends to say too much.",
    "mine": "DV, with steadier gradients by memory of earlier batches.",
    "smile": "DV with large scores cut off: far steadier, and sometimes too high.",
    "js": "A stable way to train, whose value is a lower bound as jumpy as NWJ's.",
    "jsplugin": "A stable way to train, whose value is as right as what was learnt, too high or too low.",
    "tuba": "NWJ with a learnt reference level for each x, which makes it steadier if that is learnt well.",
    "siglip": "Each pair is judged by itself, real or not; the value is as right as what was learnt.",
    "anchor": "InfoNCE with the further answer 'none of these', so that scores mean something by themselves.",
    "copulajs": "The default: a formula for the simple part of the dependence, a network for the rest.",
    "barberagakov": "Learns how y is distributed, with x known and without; the gain is the MI.",
    "differenceofentropies": "Learns the spread of x, of y and of both, and subtracts.",
    "club": "Meant as an upper bound: it is one where the learnt distribution of y for an x is right.",
    "leaveoneout": "Meant as an upper bound, as CLUB; the other pairs stand for y's distribution without x.",
    "ksg": "Counts near neighbours: nothing is trained, quick, for a few columns on each side.",
    "gcmi": "Correlations of ranks: in an instant, and blind to whatever no correlation shows.",
}


def objective_rows() -> list[dict[str, str]]:
    """A row for each registered objective, read from its docstring: name, call, summary, ceiling, variance, source."""
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
    return [WORDS[row["name"]], row["summary"], ceiling, f"({row['source']})"]


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
    parts = {key: re.search(rf"{key}: (.*?)[.:]( |$)", doc) for key in ("Ceiling", "Variance")}
    if not sources or not all(parts.values()):
        raise AssertionError(f"The docstring of {name} lacks its source, Ceiling or Variance.")
    ceiling, variance = (match[1] for match in parts.values() if match)
    return {"name": name.lower(), "call": _call(name, classes), "summary": summary.rstrip(".") + ".",
            "ceiling": ceiling, "variance": variance, "source": "; ".join(sources)}  # fmt: skip
