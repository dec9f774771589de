"""The documentation site and the report pages in headless Chromium: a phone's and a desktop's width, light and dark.

axe-core finds no fault of any kind in them, nothing is cut off at the side, nothing is asked of another host, and no
error is logged. Where the system has no Chromium, or Python no playwright, nothing of it is run.
"""

import contextlib
import functools
import http.server
import json
import math
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_site import PAGES

import infomax as im
from infomax.evaluation import Chain, Evaluation, Identity, Probes, Terms, compare
from infomax.evaluation.balance import balance
from infomax.evaluation.by_label import retrieval_by_label
from infomax.evaluation.compare import Seen
from infomax.evaluation.features import of_array
from infomax.evaluation.probing import Probe
from infomax.ui import report, side_by_side

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium and no google-chrome on PATH")]

PHONE, DESKTOP = 390, 1280  # CSS pixels
VIEWS = [(width, scheme) for width in (PHONE, DESKTOP) for scheme in ("light", "dark")]
# A page of each kind. axe-core takes a second or two for one: the others are seen by it with --exhaustive.
KINDS = (
    "index.html", "tutorials/believe.html", "objectives/smile.html", "accuracy.html", "questions.html",
    "reference/objectives.html", "reference/index.html",
)  # fmt: skip
# Of the theme's search, which is in a closed shadow root, where no style sheet of ours reaches: the rule, and the part.
# The path of a result has a contrast of 3.4, and stands below a title of more. The results are reached by the arrow
# keys from the field, not by the tabulator.
THEMES = (("color-contrast", "-path >"), ("scrollable-region-focusable", ".k"))


def of_two_kinds(number: int) -> list[tuple[int, str]]:
    """Two of the four views for a page: each width and each scheme once, and in turn each of the two ways to do so."""
    return [VIEWS[0], VIEWS[3]] if number % 2 == 0 else [VIEWS[1], VIEWS[2]]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def home(site) -> Iterator[str]:
    """The address at which the site is served."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    """Debian's or Google's Chromium, which finds no other host than this one."""
    with playwright.sync_playwright() as driver:
        only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=[only_here])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def opened(browser, width: int, scheme: str):
    """A page to go to addresses with, and what was wrong while it did: errors logged, files missing, other hosts."""
    phone = width == PHONE
    size = {"width": width, "height": 844 if phone else 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, is_mobile=phone, has_touch=phone)
    context.set_default_timeout(120_000)  # ten times what a busy machine took
    # The theme's search is in a closed shadow root, which neither a test nor axe-core could look into.
    context.add_init_script(
        "const attach = Element.prototype.attachShadow;"
        "Element.prototype.attachShadow = function (how) { return attach.call(this, {...how, mode: 'open'}); };"
    )
    page, wrong = context.new_page(), []

    def asked(request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
            wrong.append(f"asks for {request.url}")

    def logged(message) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"logs {message.text}")

    page.on("request", asked)
    page.on("console", logged)
    page.on("pageerror", lambda error: wrong.append(f"raises {error}"))
    page.on("response", lambda answer: answer.status < 400 or wrong.append(f"{answer.status} for {answer.url}"))
    try:
        yield page, wrong
    finally:
        context.close()


SHAPE = """async () => {
    const wrong = [];
    const width = document.documentElement.clientWidth;
    if (Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth) > width)
        wrong.push(`scrolls sideways: ${document.documentElement.scrollWidth} of ${width} pixels`);
    const scrolls = part =>
        part && (/auto|scroll/.test(getComputedStyle(part).overflowX) || scrolls(part.parentElement));
    for (const part of document.querySelectorAll("main *, body > :not(main, script) *")) {
        const { right, width: wide } = part.getBoundingClientRect();
        const text = [...part.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (text && wide > 1 && right > width + 1 && part.checkVisibility({ visibilityProperty: true })
            && getComputedStyle(part).position !== "fixed" && !scrolls(part.parentElement) && !part.closest("svg"))
            wrong.push(`cut off at the side: ${part.outerHTML.slice(0, 120)}`);
    }
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => wrong.push(`no picture: ${image.src}`));
    }
    return wrong;
}"""


def shape(page, width: int) -> list[str]:
    """What is wrong with how a page lies in a window of that width, with all that is folded open."""
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = page.evaluate(SHAPE)
    seen = page.evaluate("document.documentElement.clientWidth")
    return found if abs(seen - width) <= 20 else [*found, f"laid out for {seen} pixels, not {width}"]  # a scroll bar


def violations(page) -> list[str]:
    """What axe-core finds, of every rule that it has, best practices included; a line a part of the page."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']}: {json.dumps(node['target'])} {node['html'][:160]}" for each in found for node in each["nodes"]
    ]


def test_what_is_wrong_with_a_page_is_caught(browser, tmp_path):
    """The tests below would notice."""
    (tmp_path / "bad.html").write_text(
        """<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width"><title>x</title></head><body>
        <main><h1>x</h1><p style="color: #bbb; background: #fff">faint</p><img src="none.png">
        <div style="overflow: hidden"><p style="width: 500px">cut</p></div>
        <div style="overflow: auto" tabindex="0"><p style="width: 500px">scrolls</p></div>
        <img alt="" src="https://example.org/a.png"><script>nothing()</script></main></body></html>"""
    )
    with opened(browser, PHONE, "light") as (page, wrong):
        page.goto((tmp_path / "bad.html").as_uri())
        found = shape(page, PHONE)
        assert [line[:12] for line in found] == ["cut off at t", "no picture: ", "no picture: "] and "cut<" in found[0]
        rules = {line.partition(":")[0] for line in violations(page)}
        assert {"color-contrast", "image-alt", "html-has-lang"} <= rules
        assert any("example.org" in line for line in wrong) and any("nothing is not defined" in line for line in wrong)
        page.set_content("<main><p style='width: 500px'>wide</p></main>")
        assert any("scrolls sideways" in line for line in shape(page, PHONE))


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_site_fits_the_window_and_axe_finds_nothing(browser, home, width, scheme, exhaustive):
    """Every page's layout on a phone; by axe-core a page of each kind, in two of the four views as `of_two_kinds` has
    them, so that each pair of page, width and scheme is seen."""
    every = [*(str(Path(page).with_suffix(".html")) for page in PAGES), "404.html"]
    assert set(KINDS) <= set(every)
    looked = [name for i, name in enumerate(KINDS) if (width, scheme) in of_two_kinds(i)]
    whole = (width, scheme) == VIEWS[0]
    with opened(browser, width, scheme) as (page, wrong):
        for name in every if whole or exhaustive else looked:
            page.goto(home + name)
            worn = page.locator("body").get_attribute("data-md-color-scheme")
            assert worn == {"light": "default", "dark": "slate"}[scheme]
            assert shape(page, width) == [], name
            if name in looked or exhaustive:
                assert violations(page) == [], name
            assert wrong == [], name
    assert {view for i in range(len(KINDS)) for view in of_two_kinds(i)} == set(VIEWS)


@pytest.mark.parametrize(("width", "scheme"), [VIEWS[0], VIEWS[3]])
def test_the_search_finds_a_page_and_the_menu_opens(browser, home, width, scheme):
    with opened(browser, width, scheme) as (page, wrong):
        page.goto(home + "index.html")
        page.locator("label[for=__search], .md-search__button").filter(visible=True).first.click()
        page.keyboard.type("copula")
        first = page.get_by_role("option").filter(has_text=re.compile("copula", re.IGNORECASE)).first
        first.wait_for()  # results for "co" may come first
        page.get_by_role("option").nth(5).wait_for()
        left = [
            line
            for line in violations(page)
            if not any(line.startswith(f"{rule}:") and part in line for rule, part in THEMES)
        ]
        assert left == []
        first.click()
        page.wait_for_url(lambda url: "index.html" not in url and url.startswith(home))
        assert "copula" in page.locator("main").inner_text().lower()
        if width == PHONE:
            page.locator("label[for=__drawer]").filter(visible=True).first.click()
            page.get_by_role("link", name="Home").first.wait_for()
            assert shape(page, width) == violations(page) == []
        assert wrong == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """The page of an estimate, of a run with all that a page can hold, and of three runs side by side."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    estimate = im.estimate(x, x + rng.normal(size=x.shape))
    found = {"estimate": report.of_pairs(estimate, "measured_concentrations.npy and questionnaire_answers_of_2026.npy")}
    names = ["a name of many words for a class", "b", "c"]
    labels, answers = np.repeat([0, 1, 2], [60, 20, 10]), rng.integers(0, 3, 90)
    right = tuple(bool(each) for each in labels == answers)
    row = Probe(
        0.9, (0.8, 0.95), 0.75, (0.6, 0.9), 0.7, (0.6, 0.8),
        {"test_images": 90, "shots_10": {"accuracies": [0.7, 0.8, 0.75]}},
        balance=balance(labels, labels, answers, [answers, labels, answers], answers, names),
        right={"accuracy": right, "knn": right},
        retrieval=retrieval_by_label(of_array(rng.normal(size=(90, 3)), "features"), labels),
    )  # fmt: skip
    who = Identity(1.0, 0.8, (0.79, 1.2), math.log(4), 4, 16, 64, ((2, 0.6), (4, 0.9), (8, 1.1), (16, 1.2)), ())
    chain = Chain((("pixels", estimate), ("layer4.1.drop_block", estimate)), estimate.checks[0])
    runs = [folder / f"simclr_smile_of_photographs_{i}" for i in range(3)]
    for run in runs:
        run.mkdir()
        lines = [{"number": n, "mi": n / 50, "ceiling": 5.5} for n in range(1, 101)]
        lines[49] |= {"health/rankme": 20.0, "probe/knn": 0.9, "health/mi": 1.0, "health/alignment": 0.3}
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    terms = Terms(estimate, "The data set has no labels.", replace(estimate, cap=2.0), chain, who)
    saved = {"step": 7, "checksum": "abc" * 9}
    found["run"] = report.of_run(terms, Probes(row, row, row), saved, runs[0], "folder:photographs")
    each = [Evaluation(Probes(row, row, None), Terms(estimate, identity=who))] * 3
    seen, health = [Seen("photographs", "a", "b")] * 3, [{"health/rankme": 20.0}] * 3
    compared = compare(each, [run.name for run in runs], seen, health)
    found["comparison"] = side_by_side.page(compared, each, runs)
    for name, text in found.items():
        report.write(folder / f"{name}.html", text)
    return {name: folder / f"{name}.html" for name in found}


@pytest.mark.parametrize(("width", "scheme"), VIEWS[:3])
def test_report_pages_fit_the_window_and_axe_finds_nothing(browser, reports, width, scheme):
    """From their files, as one opens them: on a phone light and dark, and on a desktop."""
    with opened(browser, width, scheme) as (page, wrong):
        for name, path in reports.items():
            page.goto(path.as_uri())
            assert shape(page, width) == violations(page) == wrong == [], name
