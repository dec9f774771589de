"""The benchmark of two builds: its worker, what is refused, turns, what is kept, and the tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import infomax as im
from infomax.benchmarks import builds
from infomax.benchmarks.builds import Build

ROOT = Path(__file__).parents[1]
NAMES = ("normal 1", "normal 1, weak", "3 labels in 2")

PLAIN = """
from types import SimpleNamespace
import os

def estimate(x, y, *, seed):
    print("said")
    if x.dtype.kind == "i" and len(x) == 77:
        raise ValueError("no labels\\nat all")
    if len(x) == 78:
        import sys
        sys.exit("out of\\nmemory")
    if len(x) == 79:
        os.kill(os.getpid(), 9)
    threads = float(os.environ["OMP_NUM_THREADS"])
    return SimpleNamespace(mi=OFF + float(x.sum()), interval=(threads, float("inf")), trusted=seed == 0)
"""


def checkout(folder: Path, text: str = PLAIN, off: float = 0.0) -> Path:
    """A folder with a package infomax whose estimates are of this text."""
    (folder / "infomax").mkdir(parents=True)
    (folder / "infomax" / "__init__.py").write_text("")
    (folder / "infomax" / "estimation.py").write_text(text.replace("OFF", repr(off)))
    return folder


@pytest.fixture
def build(tmp_path):
    made = Build("before", checkout(tmp_path / "other"))
    yield made
    made.close()


def test_the_worker_answers_of_its_own_checkout_with_one_thread(build, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    x, labels = np.ones((50, 2)), np.ones((77, 1), dtype=np.int64)
    answer = build.ask(x, x)
    assert 0 <= answer.pop("seconds") < 5
    assert answer == {"mi": 100.0, "interval": [1.0, math.inf], "trusted": True, "error": None}
    failed = build.ask(labels, x[:1].repeat(77, 0))
    assert (failed["mi"], failed["error"]) == (None, "ValueError: no labels")
    assert build.ask(x + 1, x)["mi"] == 200.0  # and goes on


@pytest.mark.parametrize(("n", "says"), [(78, "ended with status 1: memory"), (79, r"ended by SIGKILL\.$")])
def test_a_worker_that_dies_is_a_sentence_with_its_last_line(build, n, says):
    x = np.ones((n, 1))
    with pytest.raises(im.UserError, match=f"^The worker of the build 'before', in .*other, {says}"):
        build.ask(x, x)
    assert build.ask(x[:5], x[:5])["mi"] == 5.0  # a new one


def test_a_build_that_does_not_import_is_a_sentence(tmp_path):
    broken = Build("before", checkout(tmp_path, "import nosuchpackage"))
    with pytest.raises(im.UserError, match="status 1: ModuleNotFoundError: No module named 'nosuchpackage'"):
        broken.start()
    other = tmp_path / "elsewhere" / "infomax"
    checkout(tmp_path / "elsewhere")
    (other / "__init__.py").write_text("__file__ = '/somewhere/infomax/__init__.py'")
    with pytest.raises(im.UserError, match=r"was to be imported from .*elsewhere, and came from .*somewhere"):
        Build("before", other.parent).start()


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("none", "there is no such folder"),
        (".", "it has no infomax/__init__.py"),
        ("early", "it has no infomax/estimation"),
        ("package", "it is the package itself: name the folder that has it"),
    ],
)
def test_a_folder_that_is_no_checkout_says_what_is_missing(folder, says, run, tmp_path):
    (tmp_path / "early" / "infomax").mkdir(parents=True)
    (tmp_path / "early" / "infomax" / "__init__.py").write_text("")
    (tmp_path / "package" / "estimation").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text("")
    words = ("--sizes", 20, "--names", "normal 1", "--output", "r")  # little, should it run after all
    ended = run("infomax", "benchmark", "builds", folder, *words)
    assert (ended.status, ended.out) == (2, "") and not (tmp_path / "r").exists()
    assert f"{folder} is not a checkout of infomax: {says}. `git worktree add" in " ".join(ended.err.split())


def test_the_order_is_drawn_and_a_part_of_it_is_the_same():
    whole = builds.plan(())
    assert len(whole) == 65 and {which for which, _ in whole[:9]} == {"set", "held out"}
    assert builds.plan((), 9) == whole[:9]
    some = builds.plan(NAMES)
    assert sorted(task.name for _, task in some) == sorted(NAMES)
    assert some == [(which, task) for which, task in whole if task.name in NAMES]
    with pytest.raises(im.UserError, match=r"no distribution 'normal 7'\. Did you mean 'normal"):
        builds.plan(("normal 7",))


def test_turns_alternate_and_finished_samples_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "HERE", checkout(tmp_path / "now", off=0.5))
    before = checkout(tmp_path / "before")

    def run(*sizes: int) -> list[dict]:
        return builds.measured(before, sizes, builds.plan(NAMES), tmp_path / "r")

    results = run(50)
    assert [line["first"] for line in results] == ["before", "now", "before"]
    for line, (which, task) in zip(results, builds.plan(NAMES), strict=True):
        assert (line["set"], line["name"], line["true"]) == (which, task.name, task.mi)
        assert line["now"]["mi"] == pytest.approx(line["before"]["mi"] + 0.5)  # the same samples
    assert len({line["before"]["mi"] for line in results}) == 3
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "cells").glob("*.json")}
    more = run(50, 77)
    assert more[:3] == results and len(more) == 6
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert {line["name"] for line in more if line["now"]["error"]} == {"3 labels in 2"}
    (before / "infomax" / "estimation.py").write_text(PLAIN.replace("OFF", "7.0"))
    changed = run(50)  # another build's are not taken for this one's
    assert all(line["before"]["mi"] == pytest.approx(line["now"]["mi"] + 6.5) for line in changed)


def result(name: str, true: float, before: tuple, now: tuple, which: str = "set", n: int = 500) -> dict:
    def answer(mi: float | None, seconds: float, trusted: bool = True) -> dict:
        if mi is None:
            return {"mi": None, "interval": None, "trusted": None, "seconds": seconds, "error": "ValueError: no"}
        return {"mi": mi, "interval": [mi - 0.2, mi + 0.2], "trusted": trusted, "seconds": seconds, "error": None}

    return {"set": which, "name": name, "n": n, "true": true, "before": answer(*before), "now": answer(*now)}


def test_the_tables_by_hand():
    made = builds.tables_of([
        result("b", 0.5, (0.5, 2.0), (0.6, 2.0), "held out"),
        result("a", 1.0, (1.1, 8.0), (1.0, 2.0)),
        result("c", 2.0, (3.0, 6.0), (2.5, 4.0, False)),
        result("d", 2.0, (2.0, 9.0), (None, 1.0)),
    ])  # fmt: skip
    before, now, held, _ = made["builds"]
    assert [line["set"] for line in made["builds"]] == ["set", "set", "held out", "held out"]
    assert (before["build"], before["distributions"], before["mean error, nats"]) == ("before", 3, "0.367")
    assert (before["coverage"], before["trusted"], before["wrong of trusted"]) == ("67 %", "100 %", "1 of 3")
    assert (before["s, median"], before["s, most"]) == ("8.00", "9.00")
    assert (now["mean error, nats"], now["trusted"], now["wrong of trusted"]) == ("0.250", "33 %", "0 of 1")
    assert held["N"] == 500 and held["distributions"] == 1
    of_set, of_held, of_both = made["ratios"]
    assert (of_set["set"], of_held["set"], of_both["set"]) == ("set", "held out", "set, held out")
    assert (of_both["distributions"], of_both["median"], of_both["quartiles"]) == (3, "1.50", "1.25, 2.75")
    assert (of_both["least"], of_both["most"], of_set["least"]) == ("1.00", "4.00", "1.50")
    assert (of_both["values differ by at most, nats"], of_both["verdicts differ"]) == ("0.500", 1)
    assert [line["distribution"] for line in made["distributions"]] == ["a", "c", "d", "b"]
    assert made["distributions"][1] | {"before": "3.00", "now": "2.50?", "ratio": "1.50"} == made["distributions"][1]
    assert made["distributions"][2] | {"now": "refused", "ratio": "-"} == made["distributions"][2]


def test_an_unknown_distribution_ends_before_anything_is_written(run, tmp_path):
    ended = run("infomax", "benchmark", "builds", checkout(tmp_path / "b"), "--names", "normal 9", "--output", "r")
    assert ended.status == 2 and "There is no distribution 'normal 9'" in ended.err
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_build_beside_itself_has_the_same_values(run, tmp_path):
    words = ("infomax", "benchmark", "builds", ROOT, "--sizes", 60, "--names", *NAMES, "--most", 2, "--output", "r")
    ended = run(*words, "--json")
    assert ended.status == 0, ended.err
    results = json.loads(ended.out)["tables"]["results"]
    assert len(results) == 2
    for line in results:
        assert line["before"]["error"] is None and line["before"]["seconds"] > 0
        assert {**line["before"], "seconds": 0} == {**line["now"], "seconds": 0}
    again = run(*words)
    assert again.status == 0 and "values differ by at most" in again.out
    assert (tmp_path / "r" / "builds.md").read_text().startswith("Before: ")
    assert len(list((tmp_path / "r").glob("builds-*.csv"))) == 3
