"""docs/tutorials/ are true: the blocks of each page run in order in one folder, and print what the page says.

Blocks of Python share their names, as in one session; blocks of bash are commands beside it. What is printed below a
block is compared as docs/questions.md is. They run as where `pip install infomax` was all: what an extra alone brings
cannot be imported, unless the page names that extra. After a change:
MPLBACKEND=Agg PYTHONPATH=. .venv/bin/python tests/test_tutorials.py [PAGE] writes it anew.
"""

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Collection
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_package import EXTRAS, PROJECT
from test_questions import differences

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"```(python|bash)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
LONGEST = 80  # lines of a page


def blocks(page: Path) -> list[tuple[str, str, str | None]]:
    """(language, code, what the page says is printed) of each block that runs, in order."""
    return [(match[1], match[2], match[3]) for match in BLOCK.finditer(page.read_text())]


def installed_by(requirements: Collection[str]) -> set[str]:
    """The packages that pip installs for these, with all that they require here, by their normalised names."""
    met: set[tuple[str, str]] = set()  # (package, one of its extras or none)
    left = [(Requirement(text), "") for text in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for each in ("", *requirement.extras):
            pair = canonicalize_name(requirement.name), each
            if pair not in met:
                met.add(pair)
                with contextlib.suppress(metadata.PackageNotFoundError):
                    left += [(Requirement(text), each) for text in metadata.requires(pair[0]) or []]
    return {name for name, _ in met}


def hidden_from(text: str) -> set[str]:
    """What a reader of this page cannot import who installed infomax and the extras that it names."""
    named = {extra for found in re.findall(r"pip install .*infomax\[([\w,]+)\]", text) for extra in found.split(",")}
    there = installed_by([*PROJECT["dependencies"], *(r for extra in named for r in EXTRAS[extra])])
    optional = {canonicalize_name(Requirement(r).name) for e in set(EXTRAS) - {"dev", "docs"} for r in EXTRAS[e]}
    return {module for module, names in modules() if {*map(canonicalize_name, names)} & (optional - there)}


@functools.cache
def modules() -> list[tuple[str, list[str]]]:
    """Each module or package that can be imported here, and what it was installed as."""
    return list(metadata.packages_distributions().items())


HIDING = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
hide = lambda cls, name, *others: None if name.partition(".")[0] in {hidden} else find_spec(name, *others)
PathFinder.find_spec = classmethod(hide)
"""


@pytest.fixture
def hide(tmp_path_factory, monkeypatch):
    """A function that hides packages from imports, in this process and in those that a test starts, until it ends."""

    def those(hidden: set[str]) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] in hidden]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(PathFinder, "find_spec", PathFinder.find_spec)  # so that the test's end puts it back
        exec(HIDING.format(hidden=hidden), {})
        folder = tmp_path_factory.mktemp("hiding")
        (folder / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return those


def ran(language: str, code: str, names: dict) -> str:
    """What a block prints, in the current folder. names: those of the page's session."""
    if language == "python":
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "tutorial", "exec"), names)
        return out.getvalue()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    modules = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": modules, "PATH": path}
    ended = subprocess.run(
        ["bash", "-euc", code], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_each_question_has_its_page():
    assert [page.stem for page in PAGES] == [
        "add-objective", "believe", "columns", "layers", "many-gpus", "own-images", "own-pairs", "which-objective",
    ]  # fmt: skip
    for page in PAGES:
        lines = page.read_text().splitlines()
        assert len(lines) <= LONGEST and re.match(r"# .*\?$", lines[0]), page.name
        assert blocks(page) and page.read_text().count("```") == 2 * sum(1 + (b[2] is not None) for b in blocks(page))
        index = (ROOT / "docs/index.md").read_text()
        assert f"(tutorials/{page.name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_is_a_notebook_as_well(page):
    place = ROOT / f"docs/notebooks/{page.stem}.ipynb"
    notebook = json.loads(place.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    names = [cell["id"] for cell in cells]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in names)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert ["".join(cell["source"]) for cell in code] == [
        ("%%bash\n" if language == "bash" else "") + block.strip() for language, block, _ in blocks(page)
    ]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "```python" not in text and text.startswith(page.read_text().splitlines()[0])
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (place.parent / link).exists(), link


def test_a_page_that_names_no_extra_has_none_of_their_packages(hide):
    """But what a package that is always there requires as well, as mlxtend requires pandas."""
    hidden = hidden_from("# A page\n\n    pip install infomax\n")
    assert {"polars", "h5py", "zarr", "tifffile", "datasets", "onnx", "tensorboard"} <= hidden
    assert not {"pandas", "numpy", "pytest"} & hidden
    named = hidden_from('# A page\n\n    pip install "infomax[tables,images]"\n')
    assert hidden - named >= {"polars", "h5py", "zarr", "tifffile"} and "datasets" in named
    code = textwrap.dedent("""
        import importlib.util
        try:
            import polars
        except ModuleNotFoundError as error:
            print(error.name, importlib.util.find_spec("h5py"), importlib.util.find_spec("pandas") is not None)
    """)
    hide(hidden)
    assert ran("python", code, {}) == "polars None True\n"
    assert ran("bash", f"python -c '{code}'", {}) == "polars None True\n"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, hide):
    hide(hidden_from(page.read_text()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": "tutorial"}
    for language, code, said in blocks(page):
        found = ran(language, code, names)
        assert said is None or differences(said, found) == []


if __name__ == "__main__":
    for page in PAGES:
        if page.stem not in sys.argv[1:] and sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            sys.path.insert(0, folder)
            names: dict = {"__name__": "tutorial"}

            def anew(match: re.Match, names: dict = names) -> str:
                found = ran(match[1], match[2], names)
                print(found)
                return (
                    match[0]
                    if match[3] is None
                    else match[0].replace(f"```text\n{match[3]}```", f"```text\n{found}```")
                )

            page.write_text(BLOCK.sub(anew, page.read_text()))
