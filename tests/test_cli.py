"""The command line: what it prints for people, what for programs, and what it says of mistakes."""

import functools
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import infomax as im
from infomax import checkpoints, ui
from infomax.errors import UserError
from infomax.estimation import Check, Estimate
from infomax.evaluation import Probes
from infomax.evaluation.probing import Probe
from infomax.training import Step

BIN = Path(sys.executable).parent
NUMBERS = {"accuracy", "shots_10", "knn"}
PROBE = NUMBERS | {f"{name}_interval" for name in NUMBERS} | {"protocol", "balance", "finetuned", "retrieval"}


def json_of(ended):
    """The one JSON object on standard output, strictly read."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert (ended.status, ended.out.count("\n")) == (0, 1), ended.err
    return json.loads(ended.out, parse_constant=refuse)


@pytest.fixture
def arrays(tmp_path):
    """x.npy and y.npy, 400 pairs whose MI is log 2 / 2."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 1))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x + generator.normal(size=(400, 1)))
    return tmp_path


@pytest.fixture
def briefly(monkeypatch):
    """briefly(): from here on critics are fitted for a few steps, where their values are not looked at."""
    module = importlib.import_module("infomax.estimation.estimate")
    budget = functools.partial(module.Budget, steps=20)
    return lambda: monkeypatch.setattr(module, "Budget", budget)


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.slow
def test_probe_gives_the_numbers_of_the_run(run, finished):
    folder, _ = finished
    ended = run("infomax", "probe", folder, "--json")
    found = json_of(ended)
    assert found.keys() == PROBE | {"pixels", "untrained"}
    for row in (found, found["pixels"], found["untrained"]):
        assert row.keys() >= PROBE
        for name in NUMBERS:
            low, high = row[f"{name}_interval"]
            assert 0 <= low <= row[name] <= high <= 1
        assert row["protocol"]["shots_10"]["draws"] == len(row["protocol"]["shots_10"]["accuracies"]) == 20
    assert found == json.loads((folder / "run.json").read_text())["results"]["probe"]


@pytest.mark.slow
def test_probe_prints_a_table_for_people(run, finished):
    folder, recipe = finished
    ended = run("infomax", "probe", folder / "step-00000006", "--seed", 0)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out in recipe.out  # the same table
    assert "Saved" not in ended.out and "I(Z1; Z2)" not in ended.out


@pytest.mark.slow
def test_estimate_of_a_run_is_the_mi_of_its_views(run, finished, briefly, tmp_path):
    folder, _ = finished
    found = json_of(run("infomax", "estimate", folder, "--json"))
    others = {name: found.pop(name) for name in ("label", "noise", "noisy_views", "chain")}
    assert found == json.loads((folder / "run.json").read_text())["results"]["estimate"]
    assert found["n"] == sum(found["splits"])
    for name in ("label", "noise"):  # of 60 training images, as they are
        told = "There are 60 training and 16 held-out images, and I"
        assert others[name]["not_measured"].startswith(told) and "64 and 10 or more" in others[name]["not_measured"]
    assert (
        others["noisy_views"]["cap"] == others["noisy_views"]["protocol"]["noise"]["capacity"]
    )  # two draws are enough
    layers = [layer["layer"] for layer in others["chain"]["layers"]]
    assert layers == ["pixels", "act1", "layer2", "layer4", "features", "projection"]
    assert others["chain"]["layers"][4]["mi"] == found["mi"]
    assert others["chain"]["check"]["name"] == "data processing"
    briefly()
    told = run("infomax", "estimate", folder, "--objective", "InfoNCE", "--report", "page.html")
    assert told.status == 0 and "InfoNCE(symmetric=False)" in told.out and told.err == ""
    for line in ("I(Z1; Z2) of two views", "I(Z; label): ", "I(X; Z + noise)", "  pixels ", "  projection "):
        assert line in told.out, told.out
    assert "Along the layers" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_report_of_a_run_is_one_page(run, finished, briefly, tmp_path):
    briefly()
    shutil.copytree(finished[0], tmp_path / "here")
    told = json_of(run("infomax", "report", "here", "--json"))
    assert told["report"] == "here/report.html"
    page = (tmp_path / "here" / "report.html").read_text()
    for part in ("Run here", "Probes", "raw pixels", "Training", "I(Z; label)", "I(X; Z + noise)", "Along the layers"):
        assert part in page
    assert len(list((tmp_path / "here").glob(".tmp*"))) == 0
    im.load(tmp_path / "here")  # the page is no part of the run


@pytest.mark.slow
def test_report_of_two_checkpoints_is_one_page(run, finished, briefly, tmp_path):
    briefly()
    shutil.copytree(finished[0], tmp_path / "here")
    steps = sorted(path.name for path in (tmp_path / "here").glob("step-*"))
    told = json_of(run("infomax", "report", "here", f"here/{steps[-1]}", f"here/{steps[0]}", "--json"))
    assert told["report"] == "here/comparison.html" and len(told["runs"]) == 3
    last = int(steps[-1].removeprefix("step-"))
    assert [one["label"] for one in told["runs"][:2]] == [f"here, step {last} (1)", f"here, step {last} (2)"]
    assert all(one["evaluation"]["probe"]["accuracy"] for one in told["runs"])
    for number in told["runs"][1]["numbers"]:  # the same weights
        assert number["difference"] is None or number["difference"]["value"] == 0, number
    assert "While they trained" in (tmp_path / "here" / "comparison.html").read_text()
    im.load(tmp_path / "here")


@pytest.mark.slow
def test_the_version_is_said(run):
    ended = run("infomax", "--version")
    assert (ended.status, ended.out) == (0, f"infomax {im.__version__}\n")


def test_a_training_says_what_it_reads_and_that_its_steps_are_few():
    labelled = im.data.dataset("digits")
    said = ui.before_training(labelled, 200, 5, 256, False)
    assert said == "digits: 1442 training and 355 held-out images [1, 8, 8], in 10 classes."
    pairs = im.data.pairs(np.random.default_rng(0).normal(size=(50, 3)), np.ones((50, 2)) * np.arange(50)[:, None] / 7)
    first, second = ui.before_training(pairs, 12, 3, 32, False).splitlines()
    assert first == "pairs: 40 training and 10 held-out samples." and second.startswith("12 steps in all, 3 an epoch")
    assert "\n" not in ui.before_training(pairs, 12, 3, 32, True)  # so many were asked for


def test_estimate_of_arrays(run, arrays):
    found = json_of(run("infomax", "estimate", "x.npy", "y.npy", "--critic", "Separable(hidden=8, out=2)", "--json"))
    assert {"mi", "stderr", "interval", "ceiling", "n", "trusted", "checks"} <= found.keys()
    low, high = found["interval"]
    assert low < found["mi"] < high and abs(found["mi"] - np.log(2) / 2) < 0.15
    assert found["n"] == 400 and found["ceiling"] == pytest.approx(np.log(found["splits"][2]))
    assert isinstance(found["trusted"], bool)
    assert all(check.keys() == {"name", "statistic", "threshold", "verdict", "sentence"} for check in found["checks"])


def test_given_blocks_and_bits_of_the_command_line_are_those_of_the_library(run, arrays):
    x, y = (np.load(arrays / f"{name}.npy") for name in ("x", "y"))
    z = y + np.random.default_rng(1).normal(size=y.shape)
    np.save(arrays / "z.npy", z)
    told = run("infomax", "estimate", "x.npy", "y.npy", "--given", "z.npy", "--method", "GCMI", "--bits")
    found = im.estimate(x, y, "GCMI", given=z)
    assert told.status == 0 and told.out == found.shown("bits") + "\n"
    assert told.out.splitlines()[0] == found.bits.statement and " bits [" in found.bits.statement
    saved = json_of(run("infomax", "estimate", "x.npy", "y.npy", "--blocks", 4, "--method", "GCMI", "--json"))
    again = im.estimate(x, y, "GCMI", blocks=4)
    assert next(iter(saved.items())) == ("statement", again.statement)
    assert (saved["mi"], saved["p_value"], saved["quantity"]) == (again.mi, again.p_value, "I(X; Y)")


@pytest.mark.slow
def test_options_of_estimate_reach_the_estimate(run, arrays, briefly):
    briefly()
    options = ("--method", "SMILE(tau=3)", "--critic", "Bilinear", "--seed", 1)
    ended = run("infomax", "estimate", "x.npy", "y.npy", *options)
    assert ended.status == 0, ended.err
    for told in ("SMILE(tau=3", "Bilinear(dx=1, dy=1)", "seed 1", "95 % interval", "ceiling"):
        assert told in ended.out, ended.out


def test_estimators_for_people_and_programs(run):
    rows = json_of(run("infomax", "estimators", "--json"))["estimators"]
    assert [row["name"] for row in rows] == list(im.estimation.registry)
    for row in rows:
        assert repr(im.estimation.row(row["call"])) == row["call"]
    ended = run("infomax", "estimators")
    assert ended.status == 0
    assert all(row["call"] in ended.out and row["source"].split(";")[0][:20] in ended.out for row in rows)


def test_a_method_that_cannot_read_such_arrays_is_a_sentence(run, arrays):
    ended = run("infomax", "estimate", "x.npy", "y.npy", "--method", "KSG", "--critic", "Concat")
    assert ended.status == 2
    assert "trains no critic of yours" in ended.err
    assert "Traceback" not in ended.err


def test_objectives_for_people_and_programs(run):
    rows = json_of(run("infomax", "objectives", "--json"))["objectives"]
    assert [row["name"] for row in rows] == list(im.objectives.registry)
    assert all(row.keys() == {"name", "call", "summary", "ceiling", "variance", "words", "source"} for row in rows)
    for row in rows:
        assert repr(im.objectives.objective(row["call"])) == row["call"]
    ended = run("infomax", "objectives")
    assert ended.status == 0 and ended.err == ""
    assert ended.out.isascii() and max(map(len, ended.out.splitlines())) <= 80
    flat = " ".join(ended.out.split())
    for row in rows:
        assert all(row[key].replace("- ", "-") in flat.replace("- ", "-") for key in ("call", "summary", "source"))


def test_each_is_said_in_one_plain_sentence(run):
    from infomax.ui import registers

    rows = registers.estimator_rows()
    flat = " ".join(run("infomax", "estimators").out.split())
    for row in rows:
        words = registers.in_words(row)[0]
        assert words.endswith(".") and words.count(". ") == 0 and len(words) < 100
        assert f"{row['call']} {words}" in flat
    assert flat.endswith("from batch to batch.") and "N: pairs in a batch." in flat


def test_help_shows_one_name_of_the_estimator_and_the_earlier_ones_still_work(run, arrays):
    text = run("infomax", "estimate", "--help").out
    options = re.findall(r"^\W+(--[a-z-]+) TEXT", text, re.M)
    assert "--estimator" in options and not {"--method", "--objective"} & {*options}
    values = [json_of(run("infomax", "estimate", "x.npy", "y.npy", name, "GCMI", "--json"))["mi"]
              for name in ("--estimator", "--method", "--objective")]  # fmt: skip
    assert len(set(values)) == 1


@pytest.mark.parametrize("words", [(), ("estimate",), ("probe",), ("report",), ("objectives",)])
def test_help_reads_well(words, run):
    ended = run("infomax", *words, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "None" not in ended.out and "default: False" not in ended.out and "(default: )" not in ended.out
    if words:
        assert "--json" in ended.out and "Print one JSON object" in ended.out
    else:
        assert all(command in ended.out for command in ("estimate", "probe", "report", "objectives", "benchmark"))
    if words in [("estimate",), ("probe",), ("report",)]:
        assert "By default the run's own data set" in " ".join(ended.out.replace("│", " ").split())
        assert "(default: 0)" in ended.out


# ----------------------------------------------------------------------------------------------------------- mistakes


def spoil(folder):
    """What the mistakes below are about, in `folder`."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 3))
    np.save(folder / "x.npy", x)
    np.save(folder / "short.npy", x[:90])
    np.save(folder / "empty.npy", x[:0])
    np.save(folder / "few.npy", x[:12])
    np.save(folder / "constant.npy", np.ones((100, 1)))
    np.save(folder / "objects.npy", np.array([{}] * 100, dtype=object), allow_pickle=True)
    np.save(folder / "words.npy", np.array(["a", "b"] * 50))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = x.copy()
        broken[[7, 31], 1] = value
        np.save(folder / f"{name}.npy", broken)
    (folder / "text.npy").write_text("1 2 3")
    (folder / "void.npy").write_bytes(b"")
    (folder / "file.txt").write_text("words")
    (folder / "nothing").mkdir()


MISTAKES = {
    "no such file": ("estimate nowhere.npy x.npy", r"nowhere\.npy does not exist"),
    "one side": ("estimate x.npy", r"x\.npy is one side of the pairs: name the other side's file too"),
    "one text": ("estimate file.txt", r"file\.txt is one side"),
    "lengths": ("estimate x.npy short.npy", r"x has 100 rows and y has 90"),
    "nan": ("estimate x.npy nan.npy", r"y has NaN .* 2 of 100 rows \(7, 31\): repair .* \(.*missing='drop'\)"),
    "inf": ("estimate inf.npy x.npy", r"x has NaN or infinity in 2 of 100 rows \(7, 31\)"),
    "empty": ("estimate empty.npy empty.npy", r"empty"),
    "few": ("estimate few.npy few.npy", r"12 pairs"),
    "constant": ("estimate constant.npy x.npy", r"x "),
    "objects": ("estimate objects.npy x.npy", r"objects\.npy is not an array.* objects are not read"),
    "words": ("estimate words.npy x.npy", r"x "),
    "text": ("estimate text.npy x.npy", r"text\.npy is not an array that numpy\.save wrote"),
    "void": ("estimate void.npy x.npy", r"void\.npy is not an array that numpy\.save wrote"),
    "folder": ("estimate nothing x.npy", r"nothing"),
    "data set of arrays": ("estimate x.npy x.npy --dataset digits", r"--dataset goes with a saved run"),
    "two names": ("estimate x.npy x.npy --method DV --objective DV", r"give one"),
    "method": ("estimate x.npy x.npy --method SMIL", r"'SMIL'\. Did you mean 'SMILE'"),
    "method's value": ("estimate x.npy x.npy --method SMILE(tau=0)", r"tau .*0"),
    "critic": ("estimate x.npy x.npy --critic Separabel", r"'Separabel'\. Did you mean 'Separable'"),
    "temperature": ("estimate x.npy x.npy --critic Cosine(temperature=0)", r"temperature must be a positive number"),
    "seed": ("estimate x.npy x.npy --seed -1", r"seed .*-1"),
    "no such run": ("probe checkpoint/simclr", r"checkpoint/simclr does not exist"),
    "no such run, estimated": ("estimate nowhere --json", r"nowhere does not exist"),
    "report's name": ("estimate x.npy x.npy --report page.pdf", r"name it page\.html, not page\.pdf"),
    "report's folder": ("estimate x.npy x.npy --report nowhere/page.html", r"nowhere is no folder"),
    "given of one side": ("estimate x.npy --given x.npy", r"--given goes with two arrays, X\.npy and Y\.npy"),
    "blocks of a run": ("estimate nothing --blocks 5", r"--blocks goes with two arrays"),
    "audit of lags": ("estimate x.npy x.npy --audit --lags 0:2", r"--lags does not go with --audit"),
    "audit of given that is x": ("estimate x.npy x.npy --audit --given x.npy", r"given is x itself"),
    "given is x": ("estimate x.npy x.npy --given x.npy --method GCMI", r"given is x itself"),
    "given is short": ("estimate x.npy x.npy --given short.npy --method GCMI", r"given has 90 rows and x has 100"),
    "few blocks": ("estimate x.npy x.npy --blocks 60", r"blocks is 60"),
    "output a folder": ("estimate x.npy x.npy --output nothing", r"--output nothing is a folder"),
    "device": ("estimate x.npy x.npy --device gpu", r"--device gpu cannot be used here"),
    "audit of two runs": ("report here there --audit", r"--audit goes with one run"),
    "no run to report": ("report nowhere", r"nowhere does not exist"),
    "no run": ("probe nothing --json", r"nothing is neither a run nor a checkpoint"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_sentence(what, run, tmp_path):
    arguments, told = MISTAKES[what]
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ended = run("infomax", *arguments.split())
    assert (ended.status, ended.out) == (2, ""), ended
    assert re.search(told, ended.err) and ended.err.count("\n") == 1 and ended.err.endswith(".\n"), ended.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "Missing subcommand"),
        ("estimat x y", "estimat"),
        ("estimate", "X"),
        ("probe", "RUN"),
        ("estimate a b c", "c"),
        ("probe run --sead 3", "Perhaps you meant"),
        ("probe run --seed three", "three"),
    ],
)
def test_a_command_that_cannot_be_read_is_told(arguments, told, run):
    ended = run("infomax", *arguments.split())
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err and "help" in ended.err and "Traceback" not in ended.err


@pytest.mark.slow
def test_what_is_wrong_with_a_checkpoint_is_told(run, finished, tmp_path, caplog):
    newest = tmp_path / "simclr" / "step-00000006"

    def said(change):
        shutil.rmtree(tmp_path / "simclr", ignore_errors=True)
        shutil.copytree(finished[0], tmp_path / "simclr")
        change()
        told = [run("infomax", command, newest, "--json") for command in ("probe", "estimate")]
        assert told[0] == told[1]
        assert (told[0].status, told[0].out) == (2, "")
        assert told[0].err.count("\n") == 1 and told[0].err.endswith(".\n")
        return told[0].err

    def truncate():
        os.truncate(newest / "model.safetensors", 1000)

    def age():
        text = (newest / "MANIFEST.json").read_text()
        assert '"format": 3' in text
        (newest / "MANIFEST.json").write_text(text.replace('"format": 3', '"format": 7'))

    assert "state.json is missing" in said((newest / "state.json").unlink)
    assert "has format 7, and this version of infomax reads formats 1 to 3: use the version that wrote it" in said(age)
    assert "model.safetensors was altered or cut short: it has 1000 bytes" in said(truncate)
    # Of the run, there is an earlier one.
    ended = run("infomax", "probe", "simclr", "--json")
    assert json_of(ended)["protocol"]["train_images"] == 60
    assert caplog.text.count("Taking the checkpoint of step 3 instead") == 1
    ended = run("infomax", "probe", "simclar")
    assert (ended.status, ended.err) == (2, "simclar does not exist. Did you mean 'simclr'? Known: simclr.\n")


def test_a_run_without_a_data_set_asks_for_one(run, tmp_path):
    model = im.InfoMax(im.encoder("resnet10_small_gn", in_chans=1), torch.nn.Identity(), im.Cosine(), im.DV())
    checkpoints.save(model, tmp_path / "by-hand")
    ended = run("infomax", "probe", "by-hand")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "by-hand names no data set; say which with --dataset.\n"


# ------------------------------------------------------------------------------------------------- what a person sees


class Terminal(io.StringIO):
    def isatty(self):
        return True


def a_probe(value, shots=0.5):
    interval = (max(0.0, value - 0.05), min(1.0, value + 0.05))
    return Probe(value, interval, shots, None if shots is None else (0.4, 0.6), value, interval, {"test_images": 10000})


def an_estimate(*verdicts):
    checks = tuple(Check("splits", 1.0, 0.5, verdict, "a long reason, " * 9 + "and its end.") for verdict in verdicts)
    return Estimate(
        6.0, 1.0, (-106.25, 106.25), 9000, (7000, 1000, 1000), 6.91, 0.1, None, checks, "DV()", "Separable()", 0, {}
    )


@pytest.mark.parametrize("width", [None, 80, 100, 200])
def test_nothing_of_the_table_is_cut(width, monkeypatch):
    out = Terminal() if width else io.StringIO()
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", out)
    probes = Probes(trained=a_probe(1.0), pixels=a_probe(0.877, shots=None), untrained=a_probe(0.0))
    saved = "a/very/long/path/" * 8
    ui.print_evaluation(probes, an_estimate("pass", "fail"), saved=saved)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert "…" not in out.getvalue()
    [path] = [line for line in lines if line.startswith("Saved in")]
    assert path == f"Saved in {saved}"  # whole, to be copied
    assert max(len(line) for line in lines if line != path) <= (width or 80)
    text = " ".join(" ".join(lines).split())
    for told in (
        "10000 test images", "100 [95.0, 100]", "87.7 [82.7, 92.7]", "0.0 [0.0, 5.0]", "too few images",
        "6.00 nats, 95 % interval [-106.25, 106.25], NOT trusted", "ceiling 6.91 nats, log of 1000", "and its end.",
        "At least 0.10 nats (95 %): I(Z1; Z2) of two views; 6.00 is not trusted",
    ):  # fmt: skip
        assert told in text, text
    rows = [line for line in lines if re.search(r"encoder|pixels", line)]
    assert len(rows) == 3 and all(len(re.findall(r"\[|too few", row)) == 3 for row in rows)


def test_a_piped_table_is_plain(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    ui.print_evaluation(Probes(a_probe(0.5), a_probe(0.5), None), an_estimate("pass"), saved="here")
    assert out.getvalue().isascii() and "untrained" not in out.getvalue() and " trusted" in out.getvalue()


def a_step(number, mi=12.345):
    return Step(number, 0, mi, mi, 65536, 11.09, 1.0, 1e-3, 1234567.0)


@pytest.mark.parametrize("mi", [12.345, -float("inf"), -1e30])
def test_the_progress_bar_shows_everything_in_80_columns(mi, monkeypatch):
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with ui.Progress(total=123456) as progress:
        progress.update(a_step(123455, mi))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue())
    assert "…" not in text
    last = [line for line in re.split(r"[\r\n]+", text) if line.strip()][-1]
    shown = f"{mi:.3f}" if mi == 12.345 else f"{mi:.2g}"
    assert re.search(rf"step +123455/123456 .*MI {re.escape(shown)} of 11\.090 nats +1234567 images/s .*left", last), (
        last
    )


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with ui.Progress(total=40) as progress:
        for number in range(1, 41):
            progress.update(a_step(number))
    lines = err.getvalue().splitlines()
    assert len(lines) == 11  # the first step, and each tenth
    assert lines[0].startswith("step 1/40  MI") and lines[1].startswith(
        "step 4/40  MI 12.345 of 11.090 nats  1234567 images/s"
    )
    with ui.Progress(total=40, shown=False) as progress:
        progress.update(a_step(40))
    assert len(err.getvalue().splitlines()) == 11


def test_a_slow_training_is_never_silent_for_long(monkeypatch):
    err, now = io.StringIO(), iter(range(0, 400, 8))
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    with ui.Progress(total=1000) as progress:
        for number in range(1, 11):
            progress.update(a_step(number))
    assert [int(line.split("/")[0].split()[1]) for line in err.getvalue().splitlines()] == [1, 4, 7, 10]


@pytest.mark.parametrize("error", [UserError("One\n thing."), KeyboardInterrupt()])
def test_sentences_are_lines(error, capsys):
    with pytest.raises(SystemExit) as ended, ui.sentences():
        raise error
    assert (ended.value.code, capsys.readouterr().err) in [(2, "One thing.\n"), (130, "Interrupted.\n")]


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError), ui.sentences():
        import infomax.nowhere  # noqa: F401  # pyright: ignore
    with pytest.raises(ZeroDivisionError), ui.sentences():
        _ = 1 / 0


@pytest.mark.slow
@pytest.mark.parametrize(("package", "pip"), [("tyro", "tyro"), ("rich", "rich"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named(package, pip, run, finished, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    ended = run("infomax", "probe", finished[0])
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"The package {package} is needed and missing: pip install {pip}.\n"


# ------------------------------------------------------------------------------------------------------ real processes

HEAVY = ["timm", "torchvision", "accelerate", "sklearn", "scipy", "mlxtend", "matplotlib", "rich", "tyro", "pandas"]


@pytest.mark.slow
def test_import_infomax_is_light_and_needs_no_optional_package():
    code = f"""
import sys, torch
before = set(sys.modules)
import infomax as im
print([name for name in {HEAVY} if name in sys.modules and name not in before])
for name in {HEAVY} + ["beartype", "zuko", "kornia", "trackio"]:
    sys.modules[name] = None
for name in [name for name in sys.modules if name.partition(".")[0] == "infomax"]:
    del sys.modules[name]
import infomax as im
x = torch.randn(8, 2, requires_grad=True)
im.SMILE()(im.Scores(im.Cosine(), x, x)).backward()
model = im.InfoMax(torch.nn.Linear(2, 2), torch.nn.Identity(), im.Cosine(), im.NWJ())
print(bool(model(x, x).isfinite()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout == "[]\nTrue\n", done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_is_installed_and_ends_as_it_should(arrays):
    def infomax(*words):
        return subprocess.run([BIN / "infomax", *words], capture_output=True, text=True, timeout=600, cwd=arrays)

    done = infomax("estimate", "x.npy", "y.npy", "--json", "--method", "GCMI")
    assert done.returncode == 0 and json.loads(done.stdout)["n"] == 400 and done.stdout.count("\n") == 1
    done = infomax("probe", "nowhere", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "nowhere does not exist.\n")
    # The reader of a pipe may leave early.
    head = subprocess.run(f"{BIN / 'infomax'} objectives | head -1", shell=True, capture_output=True, text=True)
    assert (head.stdout, head.stderr) == ("InfoNCE(symmetric=False)\n", "")


@pytest.mark.parametrize(("name", "how"), [("x.csv", "delimiter=','"), ("x.TSV", "loadtxt('x.TSV')")])
def test_a_text_table_is_called_one(run, arrays, name, how):
    (arrays / name).write_text("# a,b\n1,2\n3,4\n")
    for files in ((name, "y.npy"), ("y.npy", name)):
        ended = run("infomax", "estimate", *(arrays / file for file in files))
        assert ended.status == 2 and f"{name} is a text table" in ended.err and how in ended.err
        assert "pickle" not in ended.err


# ------------------------------------------------------------------------------------------------- stages, and silence


def test_stages_are_said_once_they_take_long_and_then_now_and_then(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with ui.Stages("Estimating", first=600.0):
        time.sleep(0.1)
    assert err.getvalue() == ""
    with ui.Stages("Estimating", first=0.2, every=0.3) as stages:
        until(lambda: len(re.findall(r"^Estimating \.\.\. \d+ s$", err.getvalue(), re.M)) >= 2)
        stages("Probing")
    assert "Probing" not in err.getvalue()
    before = err.getvalue()
    with ui.Stages(first=0.05):  # nothing is named yet
        time.sleep(0.2)
    assert err.getvalue() == before


def test_on_a_terminal_each_stage_is_said_at_once(monkeypatch):
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    with ui.Stages("Estimating") as stages:
        stages("Probing")
    assert err.getvalue() == "Estimating ...\nProbing ...\n"


def until(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_mistake_while_a_stage_is_said_ends_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(UserError), ui.Stages("Estimating", first=0.05) as stages:
        raise UserError("No.")
    assert not stages.thread.is_alive()


def test_an_estimate_on_a_terminal_says_what_it_does(arrays, monkeypatch, capsys):
    from infomax import cli

    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    cli.estimate(arrays / "x.npy", arrays / "y.npy", estimator="GCMI")
    assert err.getvalue() == "Estimating the mutual information of x.npy and y.npy ...\n"
    assert "nats" in capsys.readouterr().out


def test_an_evaluation_names_its_stages(monkeypatch):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (300, 1, 8, 8)).to(torch.uint8)
    labels = torch.arange(300) % 3
    data = im.data.from_tensors(images[:200], labels[:200], images[200:], labels[200:])
    said = []
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    im.evaluate(encoder, data, terms=False, said=said.append)
    assert said == [
        "I(Z1; Z2) of two views", "I(J; Z), which image a view shows", "Probing raw pixels", "Probing the encoder"
    ]  # fmt: skip
