"""infomax export: timm's own form, whole or not at all, a card true to its run, graphs with the same features."""

import importlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import infomax as im
from infomax.ship import folder as folders
from infomax.ship import graphs
from infomax.ship import record as records

FILES = ["README.md", "config.json", "model.safetensors"]


def images_for(encoder, count=3, size=(1, 8, 8)):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The folder of the session's run, in timm's form."""
    place = tmp_path_factory.mktemp("exported") / "grey"
    folders.write(place, records.read(finished[0]), license="mit")
    return place


def section(card: str, name: str) -> str:
    return card.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@torch.no_grad()
def test_timm_reads_the_same_features_from_the_folder(run, finished, tmp_path):
    ended = run("infomax", "export", finished[0], "--into", "out/grey", "--json")
    assert (ended.status, ended.err) == (0, "")
    said = json.loads(ended.out)
    place = tmp_path / "out/grey"
    assert said["into"] == "out/grey" and sorted(p.name for p in place.iterdir()) == FILES
    assert said["checkpoint"] == json.loads((finished[0] / "run.json").read_text())["results"]["checkpoint"]
    assert [p.name for p in place.parent.iterdir()] == ["grey"]
    config = json.loads((place / "config.json").read_text())
    own = im.checkpoints.load_encoder(finished[0])
    assert config["architecture"] == "resnet10_small_gn" and config["num_features"] == own.num_features
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8] and config["pretrained_cfg"]["num_classes"] == 0
    again = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    x = images_for(own)
    assert torch.equal(again(x), own(x))
    assert len({(place / name).stat().st_mode for name in FILES}) == 1  # all as a new file is, for others to read


def test_the_cards_metadata_is_read_back_and_has_the_runs_numbers(finished, exported):
    data = ModelCard.load(exported / "README.md").data
    results = json.loads((finished[0] / "run.json").read_text())["results"]
    expected = {"library_name": "timm", "license": "mit", "pipeline_tag": "image-feature-extraction"}
    assert {name: data[name] for name in expected} == expected
    assert {"timm", "infomax"} <= set(data.tags)
    found = {r.metric_name: (r.metric_value, r.metric_type, r.dataset_type, r.dataset_split) for r in data.eval_results}
    probe = results["probe"]
    measured = {"linear": probe["accuracy"], "10 images a class": probe["shots_10"], "kNN": probe["knn"]}
    assert found == {
        f"{name} probe on frozen features": (value, "accuracy", "two", "test")
        for name, value in measured.items()
        if value is not None
    }
    assert len(found) >= 2


def test_the_card_says_what_the_run_knows(finished, images, exported):
    card = (exported / "README.md").read_text()
    saved = json.loads((finished[0] / "run.json").read_text())
    results, about = saved["results"], saved["configuration"]
    training = section(card, "Training")
    for known in (about["data"], about["objective"], results["checkpoint"]["checksum"], "6 steps of 16 pairs, seed 3"):
        assert known in training
    assert f"torch {saved['versions']['torch']}" in training
    low, high = (f"{100 * v:.1f}" for v in results["probe"]["accuracy_interval"])
    probes = section(card, "Probes")
    assert f"| the encoder | {100 * results['probe']['accuracy']:.1f} [{low}, {high}] |" in probes
    assert "| raw pixels |" in probes and "| an untrained encoder |" in probes
    protocol = results["probe"]["protocol"]
    assert f"C = {protocol['linear']['C']}" in probes and f"k = {protocol['knn']['k']}" in probes
    information = section(card, "Mutual information")
    estimate = results["estimate"]
    assert estimate["statement"] in information
    assert f"Verdict: {'trusted' if estimate['trusted'] else 'NOT trusted'}." in information
    assert all(reason in information for reason in estimate["reasons"])
    identity = estimate["identity"]
    assert (
        "I(J; Z)" in information and (identity.get("statement") or identity["not_measured"]).rstrip(".") in information
    )
    assert section(card, "Limits").count("\n- ") >= 2
    assert str(images.parent) not in card and "folder:two" in card  # no folder of this machine is given away


def test_the_cards_code_runs_where_the_folder_lies(finished, exported, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(code) == 1 and "import infomax.encoders" in code[0]
    own = im.checkpoints.load_encoder(finished[0])
    names = {"images": images_for(own)}
    monkeypatch.chdir(exported.parent)
    exec(code[0], names)
    assert torch.equal(names["features"], own(names["images"]))


@pytest.mark.slow
def test_the_cards_command_starts_the_same_run(run, finished, images, exported, tmp_path):
    card = (exported / "README.md").read_text()
    lines = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)[0].replace("\\\n", " ").splitlines()
    assert lines[0] == "infomax recipe simclr_smile"
    words = shlex.split(lines[1])
    assert words[:3] == ["accelerate", "launch", "simclr_smile.py"]
    (tmp_path / "two").symlink_to(images)
    ended = run("simclr_smile", *words[3:])
    assert ended.status == 0, ended.err
    places = (next((tmp_path / "checkpoints").iterdir()), finished[0])
    again, first = (json.loads((place / "run.json").read_text()) for place in places)
    for each in (again, first):
        assert each["configuration"].pop("dataset").startswith("folder:")
        assert each["configuration"].pop("epochs")
    assert again["configuration"] == first["configuration"]
    assert again["results"]["checkpoint"]["step"] == first["results"]["checkpoint"]["step"]


def test_a_checkpoint_alone_and_a_run_that_goes_on_say_what_is_not_known(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    step = max((tmp_path / "run").glob("step-*"))
    shutil.copytree(step, tmp_path / "alone")
    assert records.read(tmp_path / "alone").results == "the checkpoint was exported without its run"
    folders.write(tmp_path / "out", records.read(tmp_path / "alone"))
    card = (tmp_path / "out/README.md").read_text()
    assert "Not measured: the checkpoint was exported without its run." in section(card, "Mutual information")
    assert "Not measured." in section(card, "Health") and ModelCard(card).data.eval_results is None
    whole = records.read(step)  # of its run
    assert isinstance(whole.results, dict) and whole.run == tmp_path / "run"
    older = min((tmp_path / "run").glob("step-*"))
    assert older != step and "of another checkpoint" in str(records.read(older).results)


def test_the_cards_health_is_the_last_before_the_checkpoint(finished, tmp_path):
    from infomax.ship.card import card

    shutil.copytree(finished[0], tmp_path / "run")
    with (tmp_path / "run/log.jsonl").open("a") as log:
        for step, rank in ((3, 5.0), (4, 41.25), (7, 9.0)):
            log.write(
                json.dumps({"number": step, "health/rankme": rank, "health/x/lidar": 3.5, "probe/knn": 0.5}) + "\n"
            )
        log.write('{"number": 8, "health/ran')
    record = records.read(tmp_path / "run")
    assert record.health == (4, {"health/rankme": 41.25, "health/x/lidar": 3.5, "probe/knn": 0.5})
    text = card(record, "hf-hub:me/grey")
    health = section(text, "Health")
    assert "after step 4" in health and "| RankMe | 41.2 |" in health and "| LiDAR of x | 3.5 |" in health
    assert "Its health was measured 2 steps before its end." in section(text, "Limits")


def test_a_damaged_run_is_refused(run, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run/run.json"
    path.write_text(path.read_text().replace('"accuracy": ', '"accuracy": 1'))
    ended = run("infomax", "export", "run", "--into", "out")
    assert (ended.status, ended.out) == (2, "") and "run.json" in ended.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say what to write: --into FOLDER"),
        (["--into", "full"], "full is not empty, it holds a.txt"),
        (["--into", "full/a.txt"], "full/a.txt is a file"),
        (["--into", "full/a.txt/b"], "full/a.txt/b could not be written"),
        (["--into", "RUN/export"], "lies in the run's own folder"),
        (["--into", "out", "--part", "critic"], "--part is encoder_x or encoder_y"),
        (["--into", "out", "--part", "encoder_y"], "encoder_y"),
        (["--into", "out", "--onnx", "a.bin"], "--onnx a.bin: name the file with the ending .onnx"),
        (["--into", "out", "--torch-export", "a.onnx"], "ending .pt2, as a.pt2"),
        (["--into", "out", "--onnx", "none/a.onnx"], "none is no folder"),
        (["--into", "out", "--onnx", "full.onnx"], "full.onnx is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_written_is_a_sentence_and_leaves_nothing(run, finished, tmp_path, words, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full.onnx").mkdir()
    (tmp_path / "full/a.txt").write_text("mine")
    before = sorted(finished[0].iterdir())
    ended = run("infomax", "export", finished[0], *(w.replace("RUN", str(finished[0])) for w in words))
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1) and said in ended.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "full.onnx"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["a.txt"] and sorted(finished[0].iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--into out", "--onnx a.onnx", "--torch-export a.pt2"])
def test_a_disk_that_takes_no_more_is_a_sentence_and_leaves_nothing(finished, tmp_path, words):
    def few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a file of more cannot be written

    argv = [sys.executable, "-m", "infomax", "export", str(finished[0]), *words.split()]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # Python 3.11 keeps bytecode that the limit has cut
    done = subprocess.run(
        argv, cwd=tmp_path, preexec_fn=few_bytes, env=env, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"{words.split()[1]} could not be written (" in done.stderr and "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_kill_leaves_no_folder_of_that_name(finished, tmp_path):
    argv = [sys.executable, "-m", "infomax", "export", str(finished[0]), "--into", "out"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob(".tmp-out-*/model.safetensors")):  # it is being filled
            assert process.poll() is None and time.monotonic() < deadline
        process.kill()
    assert not (tmp_path / "out").exists()
    folders.write(tmp_path / "out", records.read(finished[0]))  # what was left hinders nobody
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


def test_packages_that_are_too_old_for_torch_are_named(finished):
    with pytest.raises(im.UserError, match=r"--onnx: torch \S+ cannot use .*_2_11.*--upgrade \"infomax\[onnx\]\""):
        # What onnxscript 0.5.4 meets with torch 2.15.
        graphs._traced(lambda: importlib.import_module("onnxruntime.torch_2_11"), "--onnx", records.read(finished[0]))


def test_an_empty_folder_is_taken(finished, tmp_path):
    (tmp_path / "out").mkdir()
    folders.write(tmp_path / "out", records.read(finished[0]))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(run, finished, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as Python has a module that cannot be imported
    ended = run("infomax", "export", finished[0], "--into", "out", "--onnx", "a.onnx")
    assert (ended.status, ended.out) == (2, "") and list(tmp_path.iterdir()) == []
    assert ended.err == f'--onnx needs the package {package}: pip install "infomax[onnx]".\n'


@pytest.mark.slow
@torch.no_grad()
def test_onnx_gives_the_same_features_for_any_number_of_images(run, finished, tmp_path):
    import onnxruntime

    ended = run("infomax", "export", finished[0], "--onnx", "a.onnx", "--json")
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["onnx"]["difference"] <= 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    own = im.checkpoints.load_encoder(finished[0])
    for count in (1, 3, 9):
        x = images_for(own, count)
        found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        assert (found - own(x)).abs().max() <= 1e-4 * own(x).abs().max()
    about = session.get_modelmeta().custom_metadata_map
    config = json.loads((next(finished[0].glob("step-*")) / "encoder/config.json").read_text())["pretrained_cfg"]
    assert {k: json.loads(about[k]) for k in ("mean", "std", "input_size")} == {
        k: config[k] for k in ("mean", "std", "input_size")
    }


@pytest.mark.slow
@torch.no_grad()
def test_torch_export_gives_the_same_features_for_any_number_of_images(run, finished, tmp_path):
    ended = run("infomax", "export", finished[0], "--torch-export", "a.pt2")
    assert (ended.status, ended.err) == (0, "") and "a.pt2" in ended.out
    files = {"infomax.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=files).module()
    own = im.checkpoints.load_encoder(finished[0])
    for count in (1, 3, 9):
        x = images_for(own, count)
        assert (program(x) - own(x)).abs().max() <= 1e-6 * own(x).abs().max()
    assert json.loads(json.loads(files["infomax.json"])["input_size"]) == [1, 8, 8]


@pytest.mark.slow
def test_an_encoder_that_is_not_timms_goes_as_a_graph(run, tmp_path):
    ended = run("signals", "--dataset", "waves", "--limit", 64, "--batch-size", 16, "--steps", 2, "--health-every", 0)
    assert ended.status == 0, ended.err
    place = next((tmp_path / "checkpoints").iterdir())
    refused = run("infomax", "export", place, "--into", "out")
    assert refused.status == 2 and "ResNet1d" in refused.err and "--torch-export" in refused.err
    ended = run("infomax", "export", place, "--torch-export", "a.pt2")
    assert ended.status == 0, ended.err
    own = im.checkpoints.load_encoder(place)
    size = records.read(place).input_size
    assert size is not None
    x = images_for(own, 4, size)
    with torch.no_grad():
        assert (torch.export.load(tmp_path / "a.pt2").module()(x) - own(x)).abs().max() <= 1e-5 * own(x).abs().max()


@pytest.mark.slow
def test_of_two_encoders_each_can_be_had(run, tmp_path):
    ended = run("clip", "--limit", 64, "--batch-size", 16, "--steps", 2, "--health-every", 0)
    assert ended.status == 0, ended.err
    place = next((tmp_path / "checkpoints").iterdir())
    for part in (None, "encoder_y"):
        into = part or "first"
        ended = run("infomax", "export", place, "--into", into, *(["--part", part] if part else []))
        assert ended.status == 0, ended.err
        own = im.checkpoints.read_part(place, part or "encoder_x")[1]
        x = images_for(own, 3, (1, 28, 14))
        again = timm.create_model(f"local-dir:{tmp_path / into}", pretrained=True).eval()
        assert torch.equal(again(x), own(x))
        side = "xy"[part is not None]
        mean = json.loads((place / "run.json").read_text())["preprocessing"][side]["mean"]
        assert json.loads((tmp_path / into / "config.json").read_text())["pretrained_cfg"]["mean"] == mean
    results = json.loads((place / "run.json").read_text())["results"]
    recall = 100 * results["retrieval"]["x_to_y"]["recall@1"]
    card = (tmp_path / "first/README.md").read_text()
    assert f"| y found by x, recall@1 | {recall:.1f} [" in section(card, "Retrieval")
    assert results["estimate"]["statement"] in section(card, "Mutual information")
    refused = run("infomax", "export", place, "--torch-export", "a.pt2")
    assert refused.status == 2 and "does not say how large its inputs are" in refused.err


def test_paths_are_shortened_to_their_last_part():
    for text, shown in {
        "folder:/home/me/cats?size=32": "folder:cats?size=32",
        "folder:cats": "folder:cats",
        "signals:/home/me/X.npy,/home/me/Y.npy": "signals:X.npy,Y.npy",
        "of-tomorrow:/home/me/X.npy": "of-tomorrow:X.npy",
        "folder:cats?labels=/home/me/l.csv&size=32": "folder:cats?labels=l.csv&size=32",
        "captions:data/t.csv": "captions:t.csv",
        "halves:folder:/home/me/cats?size=32": "halves:folder:cats?size=32",
        "wandb:me/project": "wandb:me/project",
        "hf-hub:timm/resnet18.a1_in1k": "hf-hub:timm/resnet18.a1_in1k",
        "https://example.org/a/b": "https://example.org/a/b",
        "csv:~/t.csv": "csv:t.csv",
        "pairs:/a/x.npy,/b/y.npy": "pairs:x.npy,y.npy",
        "pairs:/a/t.csv?x=left&y=right": "pairs:t.csv?x=left&y=right",
        "hf:ylecun/mnist": "hf:ylecun/mnist",
        "hf:/data/mnist": "hf:mnist",
        "shards:/data/{00..10}.tar": "shards:{00..10}.tar",
        "/a/w.safetensors": "w.safetensors",
        "mnist5k": "mnist5k",
        "SMILE(tau=5.0)": "SMILE(tau=5.0)",
    }.items():
        assert records.shortened(text) == shown


def test_every_option_of_a_run_is_in_its_command():
    configuration = {
        "epochs": 3, "steps": 9, "limit": None, "ring": False, "deterministic": True, "crop_scale": [0.25, 0.6],
        "objective": "SMILE(tau=3)", "recipe": "multicrop", "data": "4 images", "start": None,
    }  # fmt: skip
    words = records.command(configuration)
    assert words == ["--steps", "9", "--deterministic", "--crop-scale", "0.25", "0.6", "--objective", "SMILE(tau=3)"]
    assert records.started_by(configuration)[0].startswith("accelerate launch multicrop.py --steps 9")
    assert records.started_by({"steps": 9}) == []


def test_a_card_of_unbalanced_classes_and_of_targets(finished, tmp_path):
    from dataclasses import replace

    from infomax.ship.card import card

    record = records.read(finished[0])
    assert isinstance(record.results, dict)
    results = json.loads(json.dumps(record.results))
    probe = results["probe"]
    balance = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "shots_10": None, "knn": 0.55,
               "knn_interval": [0.45, 0.65], "unbalanced": True, "majority": "cats", "share": 0.9}  # fmt: skip
    for each in (probe, probe["pixels"], probe["untrained"]):
        each["balance"] = balance
    target = {"score": 0.81, "interval": [0.7, 0.9], "kind": "number", "chance": 0.0}
    probe["targets"] = {"age": {**target, "pixels": target | {"score": 0.3}, "untrained": None}}
    text = card(replace(record, results=results), "hf-hub:me/cats")
    assert "always answering cats is right 90.0 % of the time" in text and "| 50.0 [40.0, 60.0] |" in text
    assert "Classes of one training image" not in text
    probe["protocol"]["left_out"] = {"classes": ["lynx"], "train_images": 1, "test_images": 2}
    text = card(replace(record, results=results), "hf-hub:me/cats")
    assert "\n\nClasses of one training image are left out, and 2 test images with them: lynx.\n" in text
    assert "| age, number | 0.81 [0.70, 0.90] | not measured | 0.30 [0.70, 0.90] | 0.00 |" in text
    assert 'timm.create_model("hf-hub:me/cats", pretrained=True)' in text and "No interval" not in text
    rare = target | {"interval": None, "protocol": {"interval": "none: few images"}}
    probe["targets"] = {"age": {**rare, "pixels": rare, "untrained": None}}
    assert card(replace(record, results=results), "hf-hub:me/cats").count("\n\nNo interval of age: few images.") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("mobilenetv3_small_050", {"in_chans": 1}),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
        ("convnext_atto", {"drop_path_rate": 0.1}),
        ("resnet10_tiny", {"in_chans": 1}),
    ],
)
@torch.no_grad()
def test_every_kind_of_timms_encoder_comes_back_to_0_difference(tmp_path, name, arguments):
    encoder = im.encoder(name, **arguments)
    channels = arguments.get("in_chans", 3)
    model = im.InfoMax(encoder, torch.nn.Identity(), im.Cosine(0.2), im.InfoNCE())
    said = {"mean": [0.4] * channels, "std": [0.25] * channels, "input_size": [channels, 32, 32]}
    im.checkpoints.save(model, tmp_path / "run", preprocessing=said)
    folders.write(tmp_path / "out", records.read(tmp_path / "run"))
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = images_for(encoder, 2, (channels, 32, 32))
    assert torch.equal(again(x), im.checkpoints.load_encoder(tmp_path / "run")(x))
    card = (tmp_path / "out/README.md").read_text()
    assert ("import infomax" in card) == (name == "resnet10_tiny")  # only the names that timm does not have
    assert f"-> [n, {again(x).shape[1]}]" in card
    assert "The run does not say what it was trained on." in card and "`InfoNCE(" in card and "None" not in card
