"""Writes the pages of docs/ that are read from the library: docs/reference/, a page a public module.

After a change of public names: .venv/bin/python tests/pages.py. tests/test_site.py holds the pages to it.
"""

import importlib
import inspect
import sys
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


def written() -> dict[str, str]:
    """All pages that are read from the library."""
    return reference()


if __name__ == "__main__":
    for path, text in written().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text)
        print(path, file=sys.stderr)
