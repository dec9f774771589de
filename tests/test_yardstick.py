"""The yardstick: truths of other authors' tables, the worker's protocol, what cannot be installed, and the tables."""

import json
import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from scipy import integrate, special

import infomax as im
from infomax.benchmarks import published, rivals, transfer, yardstick
from infomax.benchmarks.rivals import RIVALS, Rival, Rivals, Unavailable
from infomax.files import lock

TASKS = [task for table in published.tables() for task in table.tasks]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_truths_are_the_means_of_the_log_ratios(task):
    ratios = task.log_ratio(*task.sample(40_000, 1))
    assert abs(ratios.mean() - task.mi) < 4 * ratios.std() / 200


@pytest.mark.parametrize(("inflated", "noted"), [(0.0, 0.3012), (0.15, 0.2298), (0.5, 0.1164)])
def test_counts_by_adaptive_integration(inflated, noted):
    k = np.arange(80)

    def conditional(x: float) -> np.ndarray:
        return (1 - inflated) * np.exp(special.xlogy(k, x) - x - special.gammaln(k + 1)) + inflated * (k == 0)

    def negative_entropy(x: float) -> float:
        p = conditional(x)
        return math.exp(-x) * special.xlogy(p, p).sum()

    marginal = (1 - inflated) * 0.5 ** (k + 1) + inflated * (k == 0)
    given = integrate.quad(negative_entropy, 0, 60, limit=400)[0]
    exact = given - special.xlogy(marginal, marginal).sum()
    assert abs(published.counts(inflated).mi - exact) < 1e-4
    assert abs(exact - noted) < 1e-4


def test_closed_forms_by_hand():
    gamma = np.euler_gamma
    logs = sum(math.log(k) * 0.5**k for k in range(1, 100))
    assert abs(published.counts(0.0).mi - (2 * math.log(2) - gamma - logs)) < 1e-4  # as the paper has it
    h = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    atoms = math.log(2) - 0.25 * math.log(1 - 0.81) + 0.5 * (math.log(2) - h)
    assert abs(published.atoms().mi - atoms) < 1e-12
    assert abs(published.smoothed_labels(5).mi - 1.0549) < 1e-4
    assert abs(published.erasures(55).mi - 0.5 * math.log(55)) < 1e-12


def here() -> Rival:
    """scikit-learn, in the environment of the tests."""
    return RIVALS["scikit-learn"]


@pytest.fixture
def asking(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "environment", lambda *_: sys.executable)
    asked = Rivals(tmp_path)
    yield asked
    asked.close()


@pytest.mark.slow
def test_the_worker_answers_a_line_a_sample(asking):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 1))
    answer = asking.ask(here(), x, x + 0.5 * rng.standard_normal((300, 1)))
    assert abs(answer["mi"] - 0.5 * math.log(5)) < 0.25
    assert (answer["interval"], answer["good"], answer["error"]) == (None, None, None)
    assert answer["seconds"] > 0
    label = rng.integers(0, 3, (300, 1))
    assert asking.ask(here(), label, label * 9 + rng.random((300, 1)))["mi"] == pytest.approx(math.log(3), abs=0.05)
    failed = asking.ask(here(), x, np.full((300, 1), np.nan))
    assert failed["mi"] is None and failed["error"].startswith("ValueError: Input X contains NaN")
    assert asking.ask(here(), x, x + 1.0)["error"] is None  # and goes on


def test_the_worker_imports_nothing_of_infomax():
    text = rivals.WORKER.read_text()
    assert "import infomax" not in text and "from infomax" not in text
    done = subprocess.run([sys.executable, "-P", "-S", rivals.WORKER], capture_output=True, text=True)
    assert done.returncode and "numpy" in done.stderr  # all that it needs at the start


def test_a_sample_that_takes_too_long_ends_the_worker(asking, monkeypatch):
    monkeypatch.setattr(rivals, "START", 0.0)
    slow = Rival("scikit-learn", (), "", limit=0.01)
    x = np.zeros((10, 1))
    assert asking.ask(slow, x, x)["error"] == "not done in 0 s"
    assert not asking._workers


def test_a_start_is_allowed_for_once(asking, monkeypatch, tmp_path):
    monkeypatch.setattr(rivals, "START", 60.0)
    monkeypatch.setattr(rivals, "WORKER", tmp_path / "worker.py")
    lines = ["import time", "time.sleep(0.2)", "input()", "print('{\"mi\": 1.0}', flush=True)", "time.sleep(60)"]
    rivals.WORKER.write_text("\n".join(lines))
    slow = Rival("scikit-learn", (), "", limit=0.05)
    x = np.zeros((10, 1))
    assert asking.ask(slow, x, x)["mi"] == 1.0
    began = time.monotonic()
    assert asking.ask(slow, x, x)["error"] == "not done in 0 s" and time.monotonic() - began < 50
    assert asking.ask(slow, x, x)["mi"] == 1.0  # a new worker, which starts again


def test_an_environment_that_another_process_makes_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "POLL", 0.05)
    place = rivals.place_of(tmp_path, ("a==1",), shares=False)
    place.mkdir()
    (place / "half").touch()
    held = lock(place.with_suffix(".lock"))
    if held is None:
        pytest.skip("no locks here")
    found = []
    other = threading.Thread(target=lambda: found.append(rivals.environment(tmp_path, ("a==1",), False)))
    other.start()
    time.sleep(0.3)
    assert other.is_alive() and (place / "half").exists()
    (place / "ready").touch()
    os.close(held)
    other.join(timeout=300)
    assert [python.parents[1] for python in found] == [place] and (place / "half").exists()


@pytest.mark.skipif(os.name != "posix", reason="a shell stands for pip")
def test_an_installation_that_takes_too_long_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "INSTALLING", 4)  # on a busy machine a shell takes its time
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/child\nwait\n")
    python.chmod(0o755)
    with pytest.raises(Unavailable, match="not installed in 4 s"):
        rivals._install(python, ["a==1"], None)
    child, deadline = int((tmp_path / "child").read_text()), time.monotonic() + 300
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_what_cannot_be_installed_is_a_sentence(tmp_path):
    absent = Rival("absent", ("no-such-package-of-infomax @ file:///nowhere/at-all-0.0.tar.gz",), "")
    with pytest.raises(Unavailable, match=r"not installed: .*(nowhere|No such file)"):
        Rivals(tmp_path).prepare(absent)
    assert not list(tmp_path.glob("*/ready"))


def test_a_rival_takes_what_it_can():
    numbers, label = np.zeros((2, 1)), np.zeros((2, 1), int)
    assert RIVALS["ennemi"].takes(label, numbers) and not RIVALS["ennemi"].takes(numbers, np.zeros((2, 2)))
    assert not RIVALS["benchmark-mi, KSG"].takes(label, numbers)
    assert RIVALS["benchmark-mi, KSG"].takes(np.zeros((2, 9)), numbers)
    assert set(RIVALS) | set(transfer.PEERS) == set(_worker_names())
    assert all("==" in requirement for rival in RIVALS.values() for requirement in rival.requirements)


def _worker_names() -> list[str]:
    from infomax.benchmarks import rival_worker

    return list(rival_worker.RIVALS)


def row(estimator: str, name: str, mi: float | None, half: float | None = None, good: bool | None = None, **other):
    interval = None if half is None or mi is None else [mi - half, mi + half]
    return {"table": "held out", "name": name, "n": 2000, "seed": 0, "estimator": estimator, "true": 1.0, "mi": mi,
            "interval": interval, "good": good, "seconds": 1.0,
            "error": "no" if mi is None else None} | other  # fmt: skip


ROWS = [
    row("infomax", "a", 1.1, 0.2, True), row("infomax", "b", 1.5, 0.1, False), row("infomax", "c", 0.9, 0.2, True),
    row("ennemi", "a", 1.3), row("ennemi", "c", 0.4),
    row("gmm-mi", "a", 1.05, 0.01, False), row("gmm-mi", "c", None),
]  # fmt: skip


def test_the_summary_by_hand():
    ours, ennemi, gmm = yardstick.summary(ROWS)
    assert (ours["asked"], ours["coverage"], ours["good"], ours["wrong"]) == (3, 2 / 3, 2 / 3, 0)
    assert ours["error"] == pytest.approx(0.7 / 3)
    assert (ennemi["interval"], ennemi["good"], ennemi["wrong"]) == (0, 1, 1)  # off by .3 and .6, without a verdict
    assert math.isnan(ennemi["coverage"])
    assert (gmm["failed"], gmm["good"], gmm["coverage"]) == (1, 0, 0)
    assert math.isnan(gmm["wrong"])


def test_a_rival_is_compared_on_what_it_gave():
    ennemi, gmm = yardstick.head_to_head(ROWS)
    assert (ennemi["samples"], ennemi["nearer"]) == (2, 1)
    assert (ennemi["theirs"], ennemi["ours"]) == (pytest.approx(0.45), pytest.approx(0.1))
    assert (gmm["samples"], gmm["theirs"], gmm["ours"]) == (1, pytest.approx(0.05), pytest.approx(0.1))


def test_aims_are_met_or_missed():
    lines = {line["aim"]: line for line in yardstick.aims(ROWS)}
    below = lines["held out, N = 2000: a mean error below every rival's on its samples"]
    assert below == {"aim": below["aim"], "measured": "gmm-mi 0.050, ours 0.100", "result": "**missed**"}
    half = lines["held out, N = 2000: at most half of every rival's on its samples"]
    assert half["measured"] == "0.22 of ennemi's (2 samples); 2.00 of gmm-mi's (1 samples)"
    assert half["result"] == "**missed**"
    assert lines["held out, N = 2000: coverage of 93 to 99 %"]["result"] == "**missed**"
    assert lines["held out, N = 2000: wrong of trusted at most 0 %"]["result"] == "met"
    atoms = [row("infomax", published.ATOMS_NAME, 1.01, 0.1, True, n=200, table="mixtures", seed=s) for s in (0, 1)]
    [line] = yardstick.aims(atoms)
    assert line["measured"] == "1.0e-04, 2 of 2 trusted" and line["result"] == "met"


def test_aims_count_samples_without_a_value_as_not_trusted():
    rows = [
        row("infomax", "a", 1.1, 0.2, True, n=500), row("infomax", "b", None, n=500), row("ennemi", "a", 1.3, n=500),
        row("ennemi", "b", 1.0, n=500), row("scikit-learn", "a", 1.4, n=500),
    ]  # fmt: skip
    below, coverage, wrong, trusted = yardstick.aims(rows)
    said = "; no value for 1 of 2 samples"
    assert (below["measured"], below["result"]) == (f"below each of 2{said}", "met")
    assert coverage["measured"] == f"100 %{said}" and wrong["measured"] == "0 of 1"
    assert (trusted["measured"], trusted["result"]) == (f"50 %{said}", "**missed**")
    atoms = [row("infomax", published.ATOMS_NAME, mi, 0.1, mi and True, n=200, table="mixtures") for mi in (1.0, None)]
    [line] = yardstick.aims(atoms)
    assert line["measured"] == f"0.0e+00, 1 of 2 trusted{said}" and line["result"] == "**missed**"
    [line] = yardstick.aims(atoms[1:])
    assert line["measured"].startswith("-, 0 of 1 trusted") and line["result"] == "**missed**"


def test_tables_mark_the_nearer_and_the_doubted(tmp_path):
    made = yardstick.tables_of(ROWS, {"latentmi": "not installed: no"}, ["ennemi", "gmm-mi", "latentmi"])
    assert [line["ours"] for line in made["on each rival's samples"]] == ["**0.100**", "0.100"]
    assert made["on each rival's samples"][1]["its mean error"] == "**0.050**"
    assert made["each distribution"][1]["infomax"] == "1.50?"
    assert made["each distribution"][2]["gmm-mi"] == "fails"
    assert made["each distribution"][1]["ennemi"] == "-"
    assert [line["not asked"] for line in made["rivals"]][2] == "not installed: no"
    assert "NeuralMI" in [line["rival"] for line in made["rivals"]]
    yardstick.draw(ROWS, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_run_goes_on_and_says_who_is_missing(tmp_path, monkeypatch):
    def unable(*_):
        raise Unavailable("not installed: no network")

    monkeypatch.setattr(rivals, "environment", unable)
    monkeypatch.setattr(yardstick, "ours", lambda x, y, seed: row("", "", float(len(x))))
    part = [("mixtures", ((0, published.atoms()),), 60, 2)]

    def run():
        return yardstick.measured(part, ["scikit-learn"], tmp_path / "cells", tmp_path)

    rows, reasons = run()
    assert [r["mi"] for r in rows] == [60.0, 60.0] and reasons == {"scikit-learn": "not installed: no network"}
    [kept, _] = sorted((tmp_path / "cells" / "cells").glob("*.json"))
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps(content | {"result": content["result"] | {"mi": 7.0}}))
    assert 7.0 in [r["mi"] for r in run()[0]]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(im.UserError, match="no table 'mixture'; there are set; held out; mixtures"):
        yardstick.plan((500,), ("mixture",))
    with pytest.raises(
        im.UserError, match=r"no distribution 'normals' in mixtures\. Did you mean 'normals with atoms'"
    ):
        yardstick.plan((500,), ("mixtures",), ("normals",))
    chosen = yardstick.plan((500,), ("mixtures", "set"), ("normals with atoms",))
    assert [(table, n) for table, _, n, _ in chosen] == [("mixtures", n) for n in (200, 400, 800, 1600, 3200)]
    assert chosen[0][1][0][0] == 1  # its place in the table, which says whether a slow rival is asked about it
    with pytest.raises(im.UserError, match=r"no rival 'enemi'. Did you mean 'ennemi'"):
        yardstick.command(rivals=("enemi",), output=tmp_path)
    with pytest.raises(im.UserError, match="Known: benchmark-mi, CCA; benchmark-mi, KSG; ennemi; "):
        yardstick.command(rivals=("foo",), output=tmp_path)
