"""The report page: valid, whole, self-contained, true to the numbers; refused with a sentence where it cannot be."""

import math
import os
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from test_estimation import QUICK, SMALL, gauss

import infomax as im
from infomax.estimation import Check
from infomax.estimation.evidence.histogram import BINS, histogram
from infomax.estimation.pairs import Pairs
from infomax.evaluation import Chain, Identity, Probes, Terms
from infomax.evaluation.probing import Probe
from infomax.ui import report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Raises for a tag that is not closed in its place; gathers the text, the identifiers and what is fetched."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.ids, self.fetched = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        told = dict(attrs)
        self.ids += [told["id"]] if "id" in told else []
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not str(v).startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def found():
    return im.estimate(*gauss(200, 2, 1.0), critic=SMALL, budget=replace(QUICK, steps=25))


def flat(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


def test_the_page_of_an_estimate_says_it_all_and_fetches_nothing(found):
    page = report.of_pairs(found, "x.npy and <script>y</script>.npy")
    read = Reader(page)
    text = flat(page)
    assert (
        page.startswith("<!DOCTYPE html>") and "<script" not in page and "@import" not in page and "&lt;script" in page
    )
    assert read.fetched == [] and not re.search(r"url\((?!#)", page)
    assert len(read.ids) == len(set(read.ids))
    for number in (found.mi, *found.interval):
        assert f"{number:.3f}" in text
    for told in (f"value {found.mi:.2f}", f"floor {found.floor:.2f}", f"ceiling {found.ceiling:.2f}", "positives"):
        assert told in text
    for check in found.checks:
        assert check.name in text and " ".join(check.sentence.split()) in text
    assert "budget, steps 25" in text and found.critic in text
    assert "viewport" in page and f"in bits: {found.bits.statement.partition(';')[0]}" in text
    assert report.of_pairs(found, "x") == report.of_pairs(found, "x")


def test_the_protocol_is_a_line_a_number(found):
    fold = {"steps": 250, "copula": {"kind": "GaussianCopula", "dof": None}, "components": [True, False]}
    told = dict(report._leaves(replace(found, protocol={
        "training": [fold, fold | {"steps": 300, "best_step": 50}], "folds": [0.52508, 2.0], "scores": {}, "none": [],
    })))  # fmt: skip
    assert told == {
        "method": found.method, "critic": found.critic, "seed": "0", "training, steps": "250, 300",
        "training, copula, kind": "GaussianCopula", "training, copula, dof": "-", "training, components": "yes, no",
        "training, best step": "-, 50", "folds": "0.5251, 2", "none": "",
    }  # fmt: skip
    page = report.of_pairs(found, "x")
    assert not re.search(r"[{}]|None|True|False", flat(page).partition(" Protocol ")[2])


def test_numbers_that_are_not_finite_are_told(found):
    broken = replace(found, mi=math.nan, interval=(-math.inf, math.inf), floor=-math.inf, cap=1.0)
    text = flat(report.of_pairs(broken, "x"))
    assert "not finite nats" in text and "cap 1.00" in text


def test_the_page_of_a_run_has_curve_probes_terms_and_chain(found, tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    lines = [f'{{"number": {i}, "mi": {i / 10}, "ceiling": 5.5}}' for i in range(1, 1001)]
    lines[3:3] = ['{"number": 9, "mi": null, "ceiling": 5.5}', "[]", '{"number": 10, "mi": ']
    (run / "log.jsonl").write_text("\n".join(lines))
    row = Probe(0.9, (0.8, 0.95), None, None, 0.7, (0.6, 0.8), {"test_images": 16})
    check = Check("data processing", 0.1, 0.05, "warn", "seems to rise.")
    chain = Chain((("pixels", found), ("features", replace(found, checks=(replace(check, verdict="fail"),)))), check)
    told = Identity(1.0, 0.8, (0.79, 1.2), math.log(4), 4, 16, 64, ((2, 0.6), (4, 0.9), (8, 1.1), (16, 1.2)), (check,))
    terms = Terms(found, "The data set has no labels.", replace(found, cap=2.0), chain, told)
    page = report.of_run(terms, Probes(row, row, None), {"step": 7, "checksum": "abc" * 9}, run, "folder:<x>")
    text, read = flat(page), Reader(page)
    for told in (
        "Run my run", "Checkpoint of step 7", "folder:<x>", "trained encoder", "90.0 [80.0, 95.0]", "too few images",
        "Training", "Not measured: The data set has no labels.", "cap 2.00", "Along the layers", "seems to rise.",
        "which of 4 images a view shows", "at least 0.80 of 1.39 nats (95 %), about 1.00",
        "Value 1.000 nats, 95 % interval [0.790, 1.200]",
        "Of 16 held-out images in groups of 4",
    ):  # fmt: skip
        assert told in text, told
    assert page.count("<svg") == 7 and len(read.ids) == len(set(read.ids))
    bare = report.of_run(Terms(found), None, None, tmp_path / "none", "digits")
    assert "Training" not in flat(bare) and "Probes" not in flat(bare)
    without = flat(report.of_run(Terms(found), "There is <1> class.", None, tmp_path / "none", "digits"))
    assert "Probes Not measured: There is <1> class." in without and "trained encoder" not in without
    few = flat(report.of_run(Terms("too <few> images."), "No labels.", None, run, "digits"))
    assert "I(Z1; Z2) of two views Not measured: too <few> images." in few and "Training" in few


def test_a_page_is_dark_where_the_screen_is_its_tables_scroll_and_checks_that_passed_are_folded(found, tmp_path):
    passed = [Check(f"check {i}", 0.0, 1.0, "pass", f"sentence {i}.") for i in range(3)]
    mixed = replace(found, checks=(*passed, Check("doubted", 2.0, 1.0, "warn", "a doubt.")))
    row = Probe(0.9, (0.8, 0.95), 0.85, (0.8, 0.9), 0.7, (0.6, 0.8), {"test_images": 16})
    page = report.of_run(Terms(mixed), Probes(row, row, None), None, tmp_path / "none", "digits")
    head, _, body = page.partition("<body>")
    assert '<meta name="color-scheme" content="light dark">' in head
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{(.*?)\n\}", head, re.DOTALL)
    assert dark is not None and re.search(r"body \{ color: #\w+; background: #\w+ \}", dark[1])
    assert ".scroll { overflow-x: auto }" in head
    tables = [match.start() for match in re.finditer("<table", body)]
    assert tables and all(re.search(r'<div class="scroll" tabindex="0">\s*$', body[:start]) for start in tables)
    probes = body.partition("<h2>Probes</h2>")[2].partition("<h2>")[0]
    assert re.search(r'<div class="scroll" tabindex="0"><table>.*trained encoder.*</table></div>', probes, re.DOTALL)
    folded = re.findall(r"<details><summary>3 of 4 checks passed</summary>(.*?)</details>", body, re.DOTALL)
    assert len(folded) == 1 and all(f"sentence {i}." in folded[0] for i in range(3))
    assert "a doubt." in body and "a doubt." not in folded[0] and body.index("a doubt.") < body.index("sentence 0.")


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    report.write(path, "<p>é")
    assert path.read_bytes() == "<p>é".encode() and stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(UnicodeEncodeError):
        report.write(path, "a" * 10**6 + "\ud800")  # fails after much of it was written
    assert path.read_text(encoding="utf-8") == "<p>é" and os.listdir(tmp_path) == ["page.html"]
    for bad, told in (("page.png", "name it"), ("no/page.html", "is no folder"), ("x.html", "is a folder")):
        (tmp_path / "x.html").mkdir(exist_ok=True)
        with pytest.raises(im.UserError, match=told):
            report.write(tmp_path / bad, "")


def test_a_checkpoints_run_is_found(tmp_path):
    (tmp_path / "run" / "step-00000001").mkdir(parents=True)
    for file in ("run/run.json", "run/step-00000001/MANIFEST.json"):
        (tmp_path / file).write_text("{}")
    assert report.run_folder(tmp_path / "run" / "step-00000001") == tmp_path / "run"
    assert report.run_folder(tmp_path / "run") == tmp_path / "run"


class Products(torch.nn.Module):
    def embed(self, x, y):
        return x, y

    def score(self, ex, ey):
        return ex @ ey.T


def test_the_histogram_tells_pairs_from_the_rest():
    x = torch.randn(700, 4)
    made = histogram(Products(), Pairs(x, x, torch.arange(700) // 2))
    assert made is not None and len(made["edges"]) == BINS + 1 and made["pairs"] == 500
    for side in ("positive", "negative"):
        assert sum(made[side]) == pytest.approx(1, abs=1e-4)
    middle = np.array(made["edges"][1:]) + np.array(made["edges"][:-1])
    assert middle @ made["positive"] / 2 == pytest.approx(4, abs=0.6)
    assert middle @ made["negative"] / 2 == pytest.approx(0, abs=0.3)
    assert histogram(Products(), Pairs(x * math.inf, x, torch.arange(700))) is None
    assert histogram(Products(), Pairs(x * 0, x, torch.arange(700))) is not None
