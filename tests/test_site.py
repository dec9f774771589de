"""The documentation site builds without a warning, needs nothing from the network, and has every page."""

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pages
import pytest
import test_docstrings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def named(entries: list) -> list[str]:
    """The pages of a navigation, in its order."""
    pages = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += [value] if isinstance(value, str) else named(value)
    return pages


def test_every_page_is_in_the_navigation_once():
    assert sorted(named(CONFIG["nav"])) == PAGES


def test_the_pages_that_are_made_from_the_library_and_from_others_are_as_these_are():
    """In a process of its own, as other tests add to the registries."""
    program = "import json, pages; print(json.dumps({str(path): text for path, text in pages.written().items()}))"
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "tests", capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(made.stdout)
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.ipynb")} == {p for p in found if ".ipynb" in p}
    for path, text in found.items():
        assert (DOCS / path).read_text() == text, f"docs/{path}: .venv/bin/python tests/pages.py writes it anew"


def test_every_public_name_is_on_a_page_of_the_reference():
    """By the modules whose docstrings are held to name every parameter, and without regard to how pages are made."""
    texts = {path.stem: path.read_text() for path in (DOCS / "reference").glob("*.md")}
    assert set(test_docstrings.MODULES) <= set(pages.MODULES)
    directives = set(re.findall(r"^::: (\S+)$", "\n".join(texts.values()), re.MULTILINE))
    for name in pages.MODULES:
        module = importlib.import_module(name)
        for each in test_docstrings.public(module):
            value = getattr(module, each)
            if inspect.ismodule(value):
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                assert f"{value.__module__}.{value.__qualname__}" in directives, f"{name}.{each}"
            else:
                assert f"- `{each}`: " in texts[name.rpartition(".")[2]], f"{name}.{each}"
    index = texts["index"]
    import infomax

    assert [name for name in infomax.__all__ if f"[`im.{name}`](" not in index] == []


def test_links_of_the_pages_lead_to_files():
    """On a code host as on the site, which has nothing from outside docs/; anchors are zensical's to check."""
    for page in PAGES:
        assert dead(page, (DOCS / page).read_text()) == [], f"docs/{page}"


def dead(page: str, text: str) -> list[str]:
    """The links of a page that lead to no file, or out of docs/."""
    links = sorted(set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)))
    ends = [(link, (DOCS / page).parent.joinpath(link).resolve()) for link in links]
    return [link for link, end in ends if not (end.exists() and end.is_relative_to(DOCS.resolve()))]


def test_a_link_out_of_the_pages_is_caught():
    text = "[a](data.md) [b](../README.md) [c](nothing.md) [d](https://a.org) [e](tutorials/../data.md#x)"
    assert dead("index.md", text) == ["../README.md", "nothing.md"]


def test_calls_on_the_pages_for_users_are_the_librarys():
    """Each `im.name.name` of the tutorials and of docs/migration.md is there."""
    import infomax

    for page in [DOCS / "migration.md", DOCS / "index.md", *(DOCS / "tutorials").glob("*.md")]:
        for path in set(re.findall(r"(?<![\w/.])im\.(\w+(?:\.\w+)*)", page.read_text())):
            value = infomax
            for name in path.split("."):
                assert hasattr(value, name), f"{page.name}: im.{path}"
                value = getattr(value, name)


def test_every_picture_says_in_words_what_it_shows():
    """To those who do not see it: axe-core (tests/test_browser.py) takes any text."""
    for page in PAGES:
        for said in re.findall(r"!\[([^\]]*)\]", (DOCS / page).read_text()):
            assert len(said.split()) >= 3, f"docs/{page}: {said!r}"


class Fetched(HTMLParser):
    """What a browser loads by itself to show a page: scripts, styles, pictures, frames; not links to follow."""

    def __init__(self, text: str):
        super().__init__()
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.urls.append(named.get("src") or "")
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(named.get("href") or "")


def elsewhere(urls: list[str]) -> list[str]:
    return [url for url in urls if re.match(r"(https?:)?//", url)]


def test_a_page_that_loads_something_from_elsewhere_is_caught():
    text = '<a href="https://a.org"></a><link rel="stylesheet" href="//b.org/x"><script src="https://c.org"></script>'
    assert elsewhere(Fetched(text).urls) == ["//b.org/x", "https://c.org"]
    assert elsewhere(Fetched('<script src="assets/a.js"></script>').urls) == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    for page in PAGES:
        text = (site / page).with_suffix(".html").read_text()
        assert elsewhere(Fetched(text).urls) == [], page
        for url in Fetched(text).urls:
            assert not url or url.startswith("data:") or (site / page).parent.joinpath(url.split("?")[0]).exists(), url
    for sheet in site.rglob("*.css"):
        assert elsewhere(re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text())) == [], sheet


@pytest.mark.slow
def test_the_reference_shows_every_name_with_its_docstring(site):
    """Each directive has become a heading with the anchor that links lead to, with words of the docstring below it."""
    for home, page in pages.described().items():
        text = (site / "reference" / page).with_suffix(".html").read_text()
        assert f'id="{home}"' in text, home
        module, _, name = home.rpartition(".")
        doc = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
        longest = max(re.findall(r"[A-Za-z]+", doc.splitlines()[0]), key=len)
        below = re.sub(r"<[^>]*>", "", text.partition(f'id="{home}"')[2])
        assert longest in below[:9000], home


@pytest.mark.slow
def test_a_broken_link_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    text = (tmp_path / "zensical.toml").read_text()
    (tmp_path / "zensical.toml").write_text(re.sub(r"(?s)^nav = \[.*?^\]", "nav = []", text, flags=re.MULTILINE))
    (tmp_path / "docs/index.md").write_text("# Page\n\n[there](nothing.md)\n")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode != 0 and "does not exist" in built.stdout + built.stderr
