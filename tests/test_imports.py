"""Imports go one way: no module imports one of a higher layer, and no two modules import each other.

What is imported for types alone (under TYPE_CHECKING) does not count: results are known by their types everywhere.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. A module imports its own layer and those before it.
LAYERS = (
    ("errors", "spelling", "files", "randomness", "threads"),
    ("distributed", "launch"),
    ("scores",),
    ("objectives", "critics", "maps"),
    ("encoders", "data", "models", "estimation", "training"),
    ("checkpoints",),
    ("evaluation",),
    ("sklearn",),
    ("ui",),
    ("ship",),
    ("benchmarks",),
    ("run", "cli", "__main__"),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
# Packages of one layer that know nothing of each other, but for these.
KNOWS = {
    "training": {"training"},
    "models": {"models"},
    "encoders": {"encoders"},
    "data": {"data"},
    "estimation": {"estimation"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "infomax").rglob("*.py"))
}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The library's modules that a module imports, at its top or inside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    visit(other)
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                inside = {f"{child.module}.{alias.name}" for alias in child.names}
                found.update(name if name in MODULES else child.module for name in inside)
            else:
                visit(child)

    visit(ast.parse(MODULES[module].read_text()))
    return frozenset(name for name in found if name in MODULES and name != module)


def part(module: str) -> str:
    """infomax.scores.walk -> scores"""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "infomax"])
def test_imports_go_down(module):
    assert part(module) in HEIGHT, f"{module} has no layer: name its part in LAYERS"
    for other in imports(module) - {"infomax"}:
        assert HEIGHT[part(other)] <= HEIGHT[part(module)], f"{module} imports {other}, which is above it"
        if part(module) in KNOWS and HEIGHT[part(other)] == HEIGHT[part(module)]:
            assert part(other) in KNOWS[part(module)], f"{module} imports {other}, its neighbour"


def test_no_modules_import_each_other():
    # A package's __init__ is its table of contents, which its own modules do not read.
    graph = {m: imports(m) - {"infomax"} for m in MODULES if m != "infomax"}
    state: dict[str, int] = {}
    circles: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for other in sorted(graph[module]):
            if state.get(other) == 1:
                circles.append([*path[path.index(other) :], other] if other in path else [module, other])
            elif other not in state:
                visit(other, [*path, other])
        state[module] = 2

    for module in graph:
        if module not in state:
            visit(module, [module])
    assert circles == []


@pytest.mark.parametrize("module", list(MODULES))
def test_no_file_is_a_drawer(module):
    """At most 390 lines, but for kernels of a GPU and benchmarks, each of which is one protocol from end to end."""
    if ".gpu" in module or part(module) == "benchmarks":
        return
    assert len(MODULES[module].read_text().splitlines()) <= 390
