"""The laboratory: cells survive a kill, stacked critics are what training one at a time gives, tables add up."""

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import infomax
from infomax import critics, objectives
from infomax.benchmarks import (
    bias,
    cells,
    consistency,
    mosaics,
    readings,
    samples,
    stacked,
    staircase,
    stream,
    tasks,
    tau,
)
from infomax.errors import UserError
from infomax.estimation import estimate
from infomax.scores import Scores


def test_a_cell_is_keyed_by_its_configuration_and_comes_back_whole(tmp_path):
    key = {"experiment": "e", "tau": math.inf, "levels": [1.0, 2.0]}
    cells.keep(tmp_path, key, {"values": [1.0, math.nan, -math.inf], "curve": torch.arange(3.0)})
    found = cells.finished(tmp_path, key)
    assert found is not None and found["values"][0] == 1 and math.isnan(found["values"][1])
    assert found["values"][2] == -math.inf and torch.equal(found["curve"], torch.arange(3.0))
    assert cells.finished(tmp_path, key | {"tau": 1.0}) is None
    cells.path_of(tmp_path, key).with_suffix(".safetensors").write_bytes(b"cut")
    assert cells.finished(tmp_path, key) is None
    cells.path_of(tmp_path, key).write_text("{")
    assert cells.finished(tmp_path, key) is None


def test_finished_cells_are_not_worked_on_again(tmp_path):
    done = []

    def cell(number):
        return cells.Cell({"n": number}, cells.at_once(lambda: done.append(number) or {"found": number}))

    assert cells.run([cell(1), cell(2)], tmp_path, shown=False) == [{"found": 1}, {"found": 2}]
    assert cells.run([cell(n) for n in (2, 3, 1)], tmp_path, shown=False)[1] == {"found": 3}
    assert done == [1, 2, 3]


SHARED = """
import sys, time
from pathlib import Path
from infomax.benchmarks import cells

def cell(number):
    def work():
        with open(folder / f"done-{number}", "a") as file:
            file.write("x")
        time.sleep(0.2)
        return {"found": number}
    return cells.Cell({"n": number}, cells.at_once(work), {"n": number - 1} if number % 3 else None)

folder = Path(sys.argv[1])
assert [r["found"] for r in cells.run([cell(n) for n in range(9)], folder, shown=False)] == list(range(9))
"""


@pytest.mark.slow
def test_processes_share_the_cells_of_a_folder(tmp_path):
    """Each cell is worked on once, whoever does it, and after the one that it goes on from."""
    command = [sys.executable, "-c", SHARED, str(tmp_path)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert [(tmp_path / f"done-{n}").read_text() for n in range(9)] == ["x"] * 9
    assert not list((tmp_path / "cells").glob("*.lock"))


@pytest.mark.slow
def test_a_cell_that_a_killed_process_held_is_taken_by_another(tmp_path):
    program = SHARED.replace("time.sleep(0.2)", "time.sleep(600)")
    killed = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while killed.poll() is None and not ((tmp_path / "done-0").exists() and (tmp_path / "done-0").read_text()):
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    subprocess.run([sys.executable, "-c", SHARED, str(tmp_path)], check=True, timeout=600)
    assert (tmp_path / "done-0").read_text() == "xx"


def test_progress_tells_what_is_left_of_what_this_run_does(tmp_path, capfd):
    def run(*numbers):
        made = (cells.Cell({"n": n}, cells.at_once(lambda: time.sleep(0.02) or {"found": 1})) for n in numbers)
        cells.run(made, tmp_path)
        return capfd.readouterr().err.splitlines()

    run(1, 2)
    known, *others = (line for line in run(1, 2, 3, 4) if not line.startswith("20 %"))
    assert "50 %  2 of 4 cells  n 2" in known, known
    assert others and " 0 s left" in others[-1] and all(len(line.split("s left")[0]) < 40 for line in others), others


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        cells.keep(tmp_path / "file", {"n": 1}, {"found": 1})


def test_tables_are_markdown_csv_and_json(tmp_path):
    rows = [{"row": "a", "value": 1.234}, {"row": "b", "value": math.nan}]
    text = cells.write_tables(tmp_path, "e", "Protocol.", {"the values": rows})
    assert "| a | 1.23 |" in text and "| b | - |" in text
    assert next(csv.DictReader((tmp_path / "e-the-values.csv").read_text().splitlines())) == {
        "row": "a",
        "value": "1.234",
    }
    assert json.loads((tmp_path / "e.json").read_text())["tables"]["the values"][0]["value"] == 1.234


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_stacked_critics_learn_as_they_do_one_at_a_time(double):
    """Every objective of the registry: the same values, to rounding, also after going on from a saved state."""
    torch.manual_seed(0)
    goals = [kind() for kind in objectives.registry.values()]
    made = [critics.Separable(3, 3, hidden=8, out=4, layers=2) for _ in goals]
    stack, half = (stacked.Stack(made, goals) for _ in range(2))
    optimizers = [
        torch.optim.Adam([*c.parameters(), *o.parameters()], lr=5e-4) for c, o in zip(made, goals, strict=True)
    ]
    for step in range(4):
        x = torch.randn(12, 3)
        y = x + torch.randn(12, 3)
        if step == 2:
            half.load(stack.state())
            stack = half
        read = stack.read(*(side.expand(len(goals), -1, -1) for side in (x, y)))
        for critic, goal, own, found, optimizer in zip(made, goals, stack.objectives, read, optimizers, strict=True):
            with torch.no_grad():
                assert float(own.estimate(found)) == pytest.approx(
                    float(goal.estimate(Scores(critic, x, y))), abs=1e-10
                )
            optimizer.zero_grad()
            (-goal.surrogate(Scores(critic, x, y))).backward()
            optimizer.step()
        stack.learn()


def test_critics_of_two_shapes_are_not_stacked():
    with pytest.raises(UserError, match="stacked"):
        stacked.Stack([critics.Separable(3, 3, hidden=h) for h in (4, 5)], [objectives.JS(), objectives.JS()])


def test_rows_of_one_training_share_it():
    groups = staircase.trainings(staircase.rows())
    assert sorted(map(len, groups.values()))[-1] == 5  # JS, its plug-in, SMILE at three tau
    assert {len(group) for group in groups.values()} == {1, 5}


def test_the_errors_of_a_level_are_of_its_last_half():
    bias, variance, mse = staircase.error_of(torch.tensor([99.0, 99.0, 1.0, 3.0]), 1.0)
    assert (bias, variance, mse) == (1.0, 1.0, 2.0)


def test_smoothing_leaves_a_constant_alone_and_skips_what_overflowed():
    values = torch.full((50,), 3.0)
    values[[0, 10]] = math.inf
    assert torch.allclose(staircase.smoothed(values)[1:], torch.tensor(3.0, dtype=torch.float64))


def followed(learner, task, steps, seed=0):
    """What is read of a stream, and whether a second look at a batch sees the same."""
    x, y = (torch.from_numpy(s).float() for s in task.sample(64 * steps, seed))
    values = []
    for a, b in zip(x.split(64), y.split(64), strict=True):
        values.append(learner.read(a, b))
        assert learner.read(a, b) == values[-1]
        learner.learn(a, b)
    return values


def test_the_latest_rows_are_kept_and_stay_together(monkeypatch):
    monkeypatch.setattr(stream, "WINDOW", 10)
    latest = stream.Latest()
    for at in range(0, 28, 4):
        rows = torch.arange(at, at + 4.0)[:, None]
        latest.take([rows, -rows])
        x, y = latest.all()
        assert torch.equal(x, -y)
        assert x[:, 0].sort().values.tolist() == [float(i) for i in range(max(0, at - 6), at + 4)]
    x, y = latest.beside([torch.zeros(2, 1), torch.zeros(2, 1)], 50)
    assert len(x) == 52 and torch.equal(x, -y) and not x[:2].any() and set(x[2:, 0].tolist()) <= set(range(18, 28))


@pytest.mark.slow
@pytest.mark.parametrize("row", [lambda: stream.Stream(3), stream.Copula], ids=["default", "copula"])
def test_a_stream_is_read_before_it_is_learnt_and_follows_a_change(row, monkeypatch):
    monkeypatch.setattr(stream, "EVERY", 20)
    monkeypatch.setattr(stream, "WINDOW", 1280)
    torch.manual_seed(0)
    learner = row()
    for level in (1.0, 3.0):
        assert np.mean(followed(learner, tasks.cubic(3, level), 60)[-20:]) == pytest.approx(level, abs=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("row", staircase.STREAMS)
def test_nothing_is_read_of_a_stream_without_dependence(row, monkeypatch):
    """A row that had learnt a batch before it reads it would find its pairs again."""
    monkeypatch.setattr(stream, "EVERY", 20)
    torch.manual_seed(0)
    d = staircase.D
    values = followed(staircase.STREAMS[row](), tasks.gaussian(d, 0.0), 120)
    assert np.mean(values[60:]) == pytest.approx(0, abs=0.1)


@pytest.mark.slow
def test_the_default_follows_what_does_not_correlate_and_a_gaussian_copula_does_not(monkeypatch):
    monkeypatch.setattr(stream, "EVERY", 50)
    torch.manual_seed(0)
    task = tasks.mixed_channels(3, 2.0)
    default, copula = (np.mean(followed(row, task, 400)[-200:]) for row in (stream.Stream(3), stream.Copula()))
    assert default == pytest.approx(2.0, abs=0.2)
    assert copula < 0.1


@pytest.mark.slow
def test_a_residual_that_knows_too_little_does_not_count(monkeypatch):
    """Gaussian pairs: all that a residual could add is noise, and the value is the copula's."""
    monkeypatch.setattr(stream, "EVERY", 50)
    torch.manual_seed(0)
    learner = stream.Stream(20)
    followed(learner, tasks.gaussian(20, 4.0), 120)
    assert not learner.open and list(learner.copulas) == ["plain"]


@pytest.mark.slow
def test_a_residual_that_went_wrong_is_left_out_after_few_batches(monkeypatch):
    monkeypatch.setattr(stream, "EVERY", 1000)
    torch.manual_seed(0)
    learner, task = stream.Stream(3), tasks.gaussian(3, 1.0)
    followed(learner, task, 70)
    for residual in (learner.residual, learner.average):
        residual.constant.data += 5.0
    learner.open, learner.gains = True, []
    values = followed(learner, task, stream.HEARD + 10, seed=1)
    assert not learner.open
    assert np.mean(values[-10:]) == pytest.approx(1.0, abs=0.35)


@pytest.mark.slow
def test_flows_learn_from_a_stream():
    torch.manual_seed(0)
    values = followed(stream.Flow(2, staircase.RATE), tasks.cubic(2, 1.0), 400)
    assert np.mean(values[-100:]) == pytest.approx(1.0, abs=0.2)


def test_a_mosaic_shares_the_bits_it_was_asked_for():
    for bits in (0.0, 1.0, 7.5, 10.0):
        p = mosaics.flips(bits, 10)
        h2 = -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
        assert 10 * (1 - h2) == pytest.approx(bits, abs=1e-9)


def test_the_splits_of_mosaics_share_no_image():
    zeros = [pool[0] for pool in mosaics.pools(0)]
    seen = [{image.tobytes() for image in part} for part in zeros]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    x, y = mosaics.mosaics(50, 10.0, mosaics.pools(0)[0], np.random.default_rng(0), (1, 2))
    assert x.shape == y.shape == (50, 14, 28)
    patches = {image.tobytes() for pool in mosaics.pools(0)[0] for image in pool}
    assert all(np.ascontiguousarray(m[:, :14]).tobytes() in patches for m in x)


@pytest.mark.parametrize("test", consistency.TESTS)
@pytest.mark.parametrize("source", consistency.SOURCES)
@pytest.mark.slow
def test_the_pairs_of_every_consistency_test_have_their_shapes(source, test):
    name = "baseline 14" if source == "images and their rows" and test == "baseline" else test
    parts = consistency.SOURCES[source].make(name, 100, 0)
    channels = 2 if test in ("data processing", "additivity") else 1
    assert all(side.shape[1] == channels for part in parts for side in part)
    assert all(len(x) == len(y) for x, y in parts)
    if test == "data processing":
        assert all(np.array_equal(x[:, 0], x[:, 1]) for x, _ in parts)


def test_noisy_images_have_the_information_of_their_factors():
    x, y = (torch.from_numpy(side).flatten(1).double() for side in consistency.noisy("baseline", 5000, 0)[0])
    _, _, axes = torch.linalg.svd(x, full_matrices=False)
    both = torch.cat([x @ axes[:9].T, y @ axes[:9].T], 1).T.cov()
    mi = 0.5 * (both[:9, :9].logdet() + both[9:, 9:].logdet() - both.logdet())
    assert float(mi) == pytest.approx(consistency.SOURCES["noisy images"].truth, abs=0.06)


def test_ticks_and_crosses():
    names = ("baseline", "independence", "data processing", "additivity")
    values = {("mosaics", "A", t): v for t, v in zip(names, (1.0, 0.01, 1.04, 1.8), strict=True)}
    [line] = consistency.tables(values, {"mosaics": (-0.1, 0.1)})["mosaics"]
    assert [line[t][-1] for t in names[1:]] == ["✓", "✓", "✗"]
    [line] = consistency.tables(values, {"mosaics": (0.005, 0.1)})["mosaics"]
    assert line["independence"].endswith("✗")


def test_the_error_over_seeds():
    assert samples.error_of([3.0, 5.0], 1.0) == (3.0, pytest.approx(math.sqrt(2)))


def test_the_partition_of_the_trade_off_is_what_it_says():
    mean = tau.mean_at()
    assert tau.moments(mean, math.inf)[0] == pytest.approx(1.25, abs=1e-9)
    found = tau.trade_off(3.0, 20_000, 0)
    assert found["simulated bias"] == pytest.approx(found["bias"], abs=0.02)
    assert found["simulated variance"] == pytest.approx(found["variance"], rel=0.1)
    assert found["variance"] < found["bound"]
    biases = [abs(tau.moments(mean, t)[0] - 1.25) for t in (3.0, 5.0, 7.0, 10.0)]
    assert biases == sorted(biases, reverse=True)


def test_the_scores_of_the_perfect_critic_are_the_true_log_ratios():
    matrix = bias.log_ratios(6, 3.0, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 6, bias.DIMENSION, generator=generator)
    r2 = 1 - math.exp(-6.0 / bias.DIMENSION)
    x, y = x.numpy(), (math.sqrt(r2) * x + math.sqrt(1 - r2) * noise).numpy()
    task = tasks.gaussian(bias.DIMENSION, 3.0)
    for i in range(6):
        expected = task.log_ratio(np.repeat(x[i : i + 1], 6, 0), y)
        np.testing.assert_allclose(matrix[i].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_an_objective_does_to_true_scores():
    """Bias and deviation have the signs that the objectives' docstrings give them."""
    texts = ["InfoNCE()", "NWJ()", "JSPlugin()", "TUBA()", "MINE()", "DV()"]
    steps = bias.measured(texts, 16, 4.0, 60, 0)()
    progress, found = [], {}
    while not found:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            found = end.value
    assert progress == sorted(progress) and progress[0] >= 0 and progress[-1] < 1
    assert found["InfoNCE()"]["mean"] < math.log(16) < found["JSPlugin()"]["mean"]
    assert found["JSPlugin()"]["mean"] == pytest.approx(4.0, abs=4 * found["JSPlugin()"]["deviation"] / math.sqrt(60))
    assert found["InfoNCE()"]["deviation"] < found["JSPlugin()"]["deviation"] < found["NWJ()"]["deviation"]
    assert found["TUBA()"] == pytest.approx(found["NWJ()"], abs=1e-4)
    assert found["MINE()"] == pytest.approx(found["DV()"], abs=1e-6)


def test_rows_of_the_registry_read_one_set_of_pairs():
    groups = readings.groups()
    assert {repr(r) for group in groups.values() for r in group} >= {
        "InfoNCE(symmetric=False)",
        "SMILE(tau=inf)",
        "JS()",
    }
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2))
    parts = readings.split(x, x + rng.standard_normal((400, 2)), 0)
    assert [len(part[0]) for part in parts] == [240, 60, 100]
    shared = next(group for group in groups.values() if len(group) == 5)
    found = readings.read(shared, *parts, readings.Budget(steps=40, every=10), 0)
    assert list(found) == [repr(row) for row in shared] and len(set(found.values())) > 1
    assert all(math.isfinite(value) and value < 3 for value in found.values())


def test_image_critics_take_the_shapes_of_their_arrays():
    x, y = np.zeros((3, 2, 14, 28)), np.zeros((3, 14, 14))
    assert readings.shaped("ConvSeparable", x, y) == "ConvSeparable(shape=(2, 14, 28), shape_y=(1, 14, 14))"
    assert readings.shaped("Separable", x, y) == "Separable" and readings.shaped(None, x, y) is None


def test_image_critics_read_images_with_constant_pixels():
    x, y = mosaics.mosaics(200, 2.0, mosaics.pools(0)[0], np.random.default_rng(0), (1, 2))
    x[:, 0] = 0
    group = readings.groups()["InfoNCE(symmetric=False)"]
    found = readings.read(group, *readings.split(x, y, 0), readings.Budget(steps=2), 0, "ConvSeparable")
    assert all(math.isfinite(value) for value in found.values())


def test_a_row_that_fits_nothing_is_read_on_all_pairs():
    """As im.estimate reads it: the benchmark may not take three quarters of its pairs away."""
    x, y = tasks.gaussian(3, 1.0).sample(400, 0)
    rows = readings.groups()["GCMI(shrinkage=None)"]
    found = readings.read(rows, *readings.split(x, y, 0), readings.Budget(), 0)
    assert found["GCMI(shrinkage=None)"] == pytest.approx(estimate(x, y, "GCMI").mi, abs=1e-9)


def test_a_critic_that_does_not_exist_is_no_refusal_of_pairs():
    x, y = mosaics.mosaics(200, 2.0, mosaics.pools(0)[0], np.random.default_rng(0), (1, 2))
    with pytest.raises(UserError, match="Seperable"):
        readings.read(readings.groups()["NWJ()"], *readings.split(x, y, 0), readings.Budget(steps=2), 0, "Seperable")
    with pytest.raises(UserError, match="Seperable"):
        readings.require_critic("Seperable")
    for critic in ("Separable", "ConvSeparable", "ConvConcat"):
        readings.require_critic(critic)


def test_a_folder_of_another_version_is_told(tmp_path, capfd):
    cell = cells.Cell({"n": 1}, cells.at_once(lambda: {"found": 1}))
    for _ in range(2):
        cells.run([cell], tmp_path, shown=False)
        assert not capfd.readouterr().err
    (tmp_path / "cells/version").write_text("older")
    cells.run([cell], tmp_path, shown=False)
    assert "another version" in capfd.readouterr().err


def test_no_tick_for_ratios_of_nothing():
    """A row that says -3, 0, -3, -6 keeps all ratios and is wrong."""
    values = {("mosaics", "row", test): v for test, v in zip(consistency.TESTS, (-3.0, 0.0, -3.0, -6.0), strict=True)}
    (line,) = consistency.tables(values, {})["mosaics"]
    assert "✓" in line["independence"] and (line["data processing"], line["additivity"]) == ("-", "-")


def test_joint_critics_follow_the_staircase_in_chains(tmp_path):
    """A chain a task and training: levels in turn, and what the stack of one row alone gives."""
    planned = staircase.stacked_cells(tmp_path, ["gaussian", "cubic"], "joint", 3, 0, "cpu")
    assert len(planned) == 5 * 2 * len(staircase.trainings(staircase.rows()))
    chain = [c for c in planned if c.key["tasks"] == ["cubic"] and "NWJ()" in c.key["rows"]]
    assert [c.key["level"] for c in chain] == list(staircase.LEVELS)
    assert [c.after for c in chain] == [None, *(c.key for c in chain[:-1])]
    found = cells.run(chain[:2], tmp_path, shown=False)
    assert all(torch.isfinite(result["cubic|NWJ()"]).all() for result in found)
    assert not torch.equal(found[0]["state.module.0.0.weight_x"], found[1]["state.module.0.0.weight_x"])


SHORT = ("staircase", "--steps", "12", "--task", "gaussian", "--critic", "separable", "--json")
KILLED = """
import os, signal, sys
from infomax import cli
from infomax.benchmarks import cells
keep, kept = cells.keep, []
def keeps(*arguments):
    if len(kept) == 2:  # the third cell is worked out, and not yet written
        os.kill(os.getpid(), signal.SIGKILL)
    kept.append(keep(*arguments))
cells.keep = keeps
sys.argv = ["infomax", "benchmark", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_killed_staircase_goes_on_to_the_same_numbers(run, tmp_path):
    words = [sys.executable, "-c", KILLED, *SHORT, "--output", "killed"]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("cells/*.json")}
    assert len(kept) == 2 and not (tmp_path / "killed/staircase.md").exists()
    then = run("infomax", "benchmark", *SHORT, "--output", "killed")
    assert json.loads(then.out)["tables"], then.err
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    run("infomax", "benchmark", *SHORT, "--output", "whole")
    for name in ("staircase.md", "staircase.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert (tmp_path / "whole/staircase.png").stat().st_size > 1000
    assert (tmp_path / "whole/staircase_errors.png").stat().st_size > 1000


@pytest.mark.slow
def test_joint_critics_follow_the_staircase(run):
    joint = run("infomax", "benchmark", "staircase", "--critic", "joint", "--joint-steps", 2, "--steps", 4,
                "--task", "gaussian", "--output", "joint")  # fmt: skip
    assert joint.status == 0 and "gaussian, joint" in joint.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("tau", "--quick"),
        ("samples", "--pairs", 200, "--mi", 2.0, "--seeds", 1, "--steps", 1, "--dim", 2),
        ("mosaics", "--pairs", 300, "--bits", 2.0, "--steps", 1, "--only-default"),
        ("consistency", "--source", "noisy images", "--pairs", 200, "--steps", 1),
        ("bias", "--batch-sizes", 8, "--mi", 1.0, "--repeats", 3, "--pictures", "bias/all"),
    ],
    ids=lambda words: words[0],
)
def test_every_experiment_writes_its_picture_and_tables(words, run, tmp_path, monkeypatch):
    # The default and two rows that share a critic: test_methods.py holds all rows to their contract.
    groups = {name: group for name, group in readings.groups().items() if name in ("CopulaJS()", "JensenShannon()")}
    monkeypatch.setattr(readings, "groups", lambda: groups)
    ended = run("infomax", "benchmark", *words, "--json", "--output", words[0])
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["tables"]
    assert (tmp_path / words[0] / f"{words[0]}.png").exists()


def test_an_unknown_figure_of_the_paper_has_those_there_are_once(run):
    ended = run("infomax", "benchmark", "paper", "--only", "taux")
    assert (ended.status, ended.out) == (2, "")
    known = "Unknown experiment 'taux'. Did you mean 'tau'? Known: consistency, staircase, tau."
    assert " ".join(ended.err.split()) == known


@pytest.mark.slow
def test_the_papers_figures_are_one_command(run, tmp_path):
    ended = run("infomax", "benchmark", "paper", "--only", "tau", "--quick", "--output", "paper")
    assert ended.status == 0 and "paper.md has them all" in ended.out, ended.err
    page = (tmp_path / "paper/paper.md").read_text()
    for picture in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (tmp_path / "paper" / picture).stat().st_size > 1000
    assert "| tau |" in page and infomax.__version__ in page
    again = run("infomax", "benchmark", "paper", "--only", "tau", "--quick", "--output", "paper", "--json")
    assert json.loads(again.out)["experiments"]["tau"]["tables"]["trade-off"]


@pytest.mark.parametrize(
    "words", [("staircase", "--task", "gausian"), ("samples", "--task", "x"), ("consistency", "--source", "x"),
              ("paper", "--only", "taw"),
              ("staircase", "--steps", "-1"), ("tau", "--tau", "-1"),
              ("tau", "--tau", "1", "nan"), ("mosaics", "--bits", "20"), ("mosaics", "--critic", "Seperable"),
              ("samples", "--mi", "nan"), ("consistency", "--device", "gpu"), ("bias", "--batch-sizes", "1"),
              ("bias", "--mi", "-1")]
)  # fmt: skip
def test_a_mistake_is_a_sentence(words, run):
    ended = run("infomax", "benchmark", *words)
    assert ended.status == 2 and ended.err.count("\n") == 1 and "Traceback" not in ended.err
