"""README tells the truth: its Python runs, its tables are the registries', its files exist.

After a change of the registry: .venv/bin/python tests/test_readme.py writes the tables anew.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
RUN = [block for block in BLOCKS if "import infomax" in block]


def table(name: str) -> str:
    from infomax import cli, objectives

    rows = cli.objective_rows() if name == "objectives" else cli.estimator_rows()
    if name == "estimators":
        rows = [row for row in rows if row["name"] not in objectives.registry]
    lines = [f"| {name[:-1]} | what it is | ceiling | variance | source |", "|---|---|---|---|---|"]
    cells = ("summary", "ceiling", "variance", "source")
    lines += [
        f"| `{row['call']}` | " + " | ".join(row[cell].replace("|", "\\|") for cell in cells) + " |" for row in rows
    ]
    return "\n".join(lines)


def between(text: str, name: str) -> str:
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0].strip()


@pytest.mark.parametrize("name", ["objectives", "estimators"])
def test_the_tables_are_the_registries(name):
    assert between(README.read_text(), name) == table(name)


def test_every_python_block_but_the_first_is_run():
    assert len(RUN) == len(BLOCKS) - 1 == 3


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=["loop", "estimate", "scores"])
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_the_formula_in_the_introduction_is_the_librarys():
    import inspect

    from infomax.objectives import DV

    body = BLOCKS[0].split("\n", 1)[1]
    assert " ".join(body.split()) in " ".join(inspect.getsource(DV).split())


def test_the_file_tree_names_what_exists_and_all_of_it():
    tree = README.read_text().partition("## Files")[2].partition("Licence")[0]
    named, folder = set(), Path()
    for line in tree.splitlines():
        if match := re.match(r"    (  )?([\w./]+\.\w+|\w+/) ", line):
            inside, name = bool(match[1]), match[2]
            folder = folder if inside else Path(name) if name.endswith("/") else Path()
            path = (folder / name) if inside else Path(name)
            assert (ROOT / path).exists(), path
            named.add(path.as_posix().rstrip("/"))
    library = {p.relative_to(ROOT).as_posix() for p in (ROOT / "infomax").iterdir() if not p.name.startswith("__")}
    assert library <= named, library - named


def test_internal_links_and_named_commands_exist():
    text = README.read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for path in set(re.findall(r"(?:recipes|tests)/\w+\.py", text)):
        assert (ROOT / path).exists(), path


if __name__ == "__main__":
    text = README.read_text()
    for name in ("objectives", "estimators"):
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        text = before + start + table(name) + "\n" + rest[rest.index(f"<!-- /{name} -->") :]
    README.write_text(text)
