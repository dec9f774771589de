"""README and the documents it leads to are true: their Python runs, their tables are the registries', files exist.

After a change of the registry: .venv/bin/python tests/test_readme.py writes the tables anew.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCUMENTS = (README, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md")))
TABLES = {"objectives": README, "estimators": ROOT / "docs/estimates.md"}


def blocks(*paths: Path) -> list[str]:
    return [found for path in paths for found in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)]


ELSEWHERE = ("questions.md", "data.md")  # test_questions.py and test_given_views.py run theirs
BLOCKS = blocks(*(document for document in DOCUMENTS if document.name not in ELSEWHERE))
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


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_the_registries(name):
    assert between(TABLES[name].read_text(), name) == table(name)


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 180


def test_every_python_block_but_the_first_is_run():
    assert len(blocks(README)) == 4
    assert len(RUN) == len(BLOCKS) - 1 == 8


BY_NAME = ["loop", "estimate", "model", "scores", "tables", "labels", "questions", "mathematics"]


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=BY_NAME)
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
    tree = CONTRIBUTING.read_text().partition("## Layout")[2].partition("\n\nIn ")[0]
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
    for document in DOCUMENTS:
        text = document.read_text()
        for path in set(re.findall(r"(?:recipes|tests|infomax|docs)/[\w/]+\.(?:py|md)", text)):
            assert (ROOT / path).exists() or "NAME" in path, f"{document.name}: {path}"
        for link in set(re.findall(r"\]\((?!https?:)([^)]+)\)", text)):
            path, _, heading = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), f"{document.name}: {link}"
            assert not heading or heading in headings(target), f"{document.name}: {link}"


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_model_and_recipe_is_in_readme():
    from infomax import models

    text = README.read_text()
    assert [kind.__name__ for kind in models.registry.values() if f"`im.{kind.__name__}(" not in text] == []
    recipes = {path.name for path in (ROOT / "recipes").glob("*.py")} - {"simclr.py"}  # the body of simclr_*.py
    assert [name for name in sorted(recipes) if f"`recipes/{name}`" not in text] == []


def test_what_a_model_costs_is_what_it_costs():
    """Lines of models and recipes in docs/training.md, to a tenth."""
    from infomax import models

    section = (ROOT / "docs/training.md").read_text().partition("### What a model costs")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    seen = set()
    for row in rows:
        what, lines, recipes = row.strip("| ").split(" | ")
        (kind,) = (kind for kind in models.registry.values() if f"`{kind.__name__}`" in what)
        module = sys.modules[kind.__module__].__file__
        assert module is not None and abs(len(Path(module).read_text().splitlines()) / int(lines) - 1) < 0.1, row
        for number, name in re.findall(r"(\d+) \(`(\w+\.py)`\)", recipes):
            assert abs(len((ROOT / "recipes" / name).read_text().splitlines()) / int(number) - 1) < 0.1, row
        seen.add(kind)
    assert seen == set(models.registry.values())


def test_what_is_said_of_mi_and_accuracy_follows_from_the_table():
    """Kendall's tau in docs/training.md, to .05, from the rows of objectives above it."""
    from scipy.stats import kendalltau

    section = (ROOT / "docs/training.md").read_text().partition("\n## Which objective")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    means = [[float(cell.partition(" (")[0]) for cell in row[1:8]] for row in rows]
    linear, few, neighbours, *mi = zip(*means, strict=True)
    said = [line.strip("| ").split(" | ") for line in section.partition("| I(Z1; Z2) by |")[2].splitlines()[2:6]]
    assert [row[0] for row in said] == ["CopulaJS", "InfoNCE", "JSPlugin", "I(Z; label)"] and len(rows) == 9
    for row, values in zip(said, mi, strict=True):
        for text, accuracy in zip(row[1:], (linear, few, neighbours), strict=True):
            assert abs(float(text) - kendalltau(values, accuracy).statistic) < 0.05, row


if __name__ == "__main__":
    for name, document in TABLES.items():
        before, start, rest = document.read_text().partition(f"<!-- {name} -->\n")
        document.write_text(before + start + table(name) + "\n" + rest[rest.index(f"<!-- /{name} -->") :])
