"""docs/questions.md is true: every block runs, prints what the page says to within a tolerance, and draws its picture.

After a change: MPLBACKEND=Agg PYTHONPATH=. .venv/bin/python tests/test_questions.py [PART OF A HEADING] writes what is
printed and the pictures anew. The block on cells reads a file that scanpy carries; where that is missing, a stand-in of
the same form shows that the block runs, and its numbers are not compared.
"""

import contextlib
import importlib.util
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cells import Labels, write_cells

PAGE = Path(__file__).parents[1] / "docs/questions.md"
SECTION = re.compile(r"^## (.*?)\n.*?```python\n(.*?)```\n\n```text\n(.*?)```\n\n!\[.*?\]\((.*?)\)", re.S | re.M)
SECTIONS = [match.groups() for match in SECTION.finditer(PAGE.read_text())]
NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")
# Another processor or version of torch moves a value by less than its interval: nats, and shares of numbers above 1.
WITHIN, SHARE = 0.04, 0.05


def printed(block: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, PAGE.name, "exec"), {"__name__": "questions"})
    return out.getvalue()


def differences(said: str, found: str) -> list[str]:
    """Lines of the page whose words are others, or whose numbers are off by more than the tolerance."""
    lines, others = said.splitlines(), found.splitlines()
    if len(lines) != len(others):
        return [f"{len(lines)} lines in the page, and {len(others)} are printed:\n{found}"]
    off = []
    for line, other in zip(lines, others, strict=True):
        words = [" ".join(NUMBER.sub("#", text).split()) for text in (line, other)]
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (line, other)]
        near = [abs(a - b) <= WITHIN + SHARE * abs(a) for a, b in zip(*numbers, strict=False)]
        if words[0] != words[1] or not all(near):
            off.append(f"{line!r} is in the page, and {other!r} is printed")
    return off


def a_stand_in(folder: Path) -> None:
    """A package `scanpy` with a file of the form of its 10x_pbmc68k_reduced.h5ad, of 300 drawn cells."""
    rng = np.random.default_rng(0)
    kinds = ["CD19+ B", "CD56+ NK", "Dendritic"]
    kind = rng.integers(0, 3, 300)
    genes = ["CD79A", "NKG7", "FCER1A", "CD74", "CST3", "LYZ"]
    X = rng.normal(size=(300, 6)).astype(np.float32) + (kind[:, None] == np.arange(6)[None] % 3)
    (folder / "scanpy/datasets").mkdir(parents=True)
    (folder / "scanpy/__init__.py").write_text("raise ImportError('this is found, and not imported')")
    labels = Labels([kinds[each] for each in kind], kinds)
    obs = {"bulk_labels": labels, "louvain": Labels([str(each) for each in kind], ["0", "1", "2"])}
    pca = rng.normal(size=(300, 50)).astype(np.float32)
    write_cells(
        folder / "scanpy/datasets/10x_pbmc68k_reduced.h5ad", obs, genes, X, "0.6", obsm={"X_pca": pca}, raw=(genes, X)
    )


def test_the_page_has_its_sections():
    assert len(SECTIONS) >= 9
    assert PAGE.read_text().count("\n## ") == PAGE.read_text().count("```python") == len(SECTIONS)
    assert all((PAGE.parent / picture).exists() for *_, picture in SECTIONS)


def test_the_tolerance_is_one():
    said = "0.18 nats [0.13, 0.23], p = 0.005\n"
    assert differences(said, said) == differences(said, "0.20 nats [0.13, 0.24], p = 0.01\n") == []
    assert len(differences(said, "0.28 nats [0.13, 0.23], p = 0.005\n")) == 1
    assert len(differences(said, "0.18 bits [0.13, 0.23], p = 0.005\n")) == 1
    assert len(differences(said, said + said)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title, *_ in SECTIONS])
def test_a_block_prints_what_the_page_says(title, tmp_path, monkeypatch):
    _, block, said, picture = next(section for section in SECTIONS if section[0] == title)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    real = "scanpy" not in block or importlib.util.find_spec("scanpy") is not None
    if not real:
        a_stand_in(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
    found = printed(block)
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert real or len(found.splitlines()) == len(said.splitlines())
    assert not real or differences(said, found) == []


if __name__ == "__main__":
    os.chdir(PAGE.parent)
    for title, block, said, _ in SECTIONS:
        if all(word.lower() in title.lower() for word in sys.argv[1:]):
            print(f"## {title}", flush=True)
            found = printed(block)
            print(found)
            PAGE.write_text(PAGE.read_text().replace(f"```text\n{said}```", f"```text\n{found}```", 1))
