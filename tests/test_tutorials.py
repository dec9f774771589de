"""docs/tutorials/ are true: the blocks of each page run in order in one folder, and print what the page says.

Blocks of Python share their names, as in one session; blocks of bash are commands beside it. What is printed below a
block is compared as docs/questions.md is. After a change:
MPLBACKEND=Agg PYTHONPATH=. .venv/bin/python tests/test_tutorials.py [PAGE] writes it anew.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from test_questions import differences

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"```(python|bash)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
LONGEST = 80  # lines of a page


def blocks(page: Path) -> list[tuple[str, str, str | None]]:
    """(language, code, what the page says is printed) of each block that runs, in order."""
    return [(match[1], match[2], match[3]) for match in BLOCK.finditer(page.read_text())]


def ran(language: str, code: str, names: dict) -> str:
    """What a block prints, in the current folder. names: those of the page's session."""
    if language == "python":
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "tutorial", "exec"), names)
        return out.getvalue()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
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


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
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
