"""docs/faults.md tells the truth: every test that it names exists, and every fault that is tested is in it."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs/faults.md").read_text().partition("## The table")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
NAMED = re.findall(r"`(tests/\w+\.py)::(\w+)`", TABLE)


@functools.cache
def defined_in(path: str) -> set[str]:
    body = ast.parse((ROOT / path).read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_a_test():
    assert len(ROWS) > 40
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 3 and all(cells), row
        assert re.findall(r"`(tests/\w+\.py)::(\w+)`", cells[2]), row
        assert "::" not in cells[0] + cells[1], row


def test_every_named_test_exists():
    missing = [f"{path}::{name}" for path, name in NAMED if name not in defined_in(path)]
    assert missing == []


def test_every_test_of_a_fault_is_in_the_table():
    for path in ("tests/test_faults.py", "tests/test_fuzz.py"):
        assert defined_in(path) - {name for _, name in NAMED} == set()
