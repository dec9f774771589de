"""What lies in checkpoints/ is whole or refused by name, whatever kills its writer or alters it; never a pickle."""

import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from infomax import checkpoints, data
from infomax.checkpoints import Checkpoint, DamagedError, Run, files, latest, open_run, read
from infomax.errors import NonFinite, UserError
from infomax.training.settings import DEFAULTS

CONFIGURATION = {"objective": "SMILE(tau=5.0)", "lr": 0.001, "epochs": 3, "data": {"name": "mnist5k", "limit": None}}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = model[:2](torch.randn(5, 4))  # pyright: ignore
        model[2](hidden.double()).square().mean().backward()  # pyright: ignore
        optimizer.step()


@pytest.fixture(autouse=True)
def _runs_are_closed(monkeypatch):
    opened: list[Run] = []
    first = checkpoints.Run.__init__

    def remember(run: Run, *arguments, **keywords) -> None:
        first(run, *arguments, **keywords)
        opened.append(run)

    monkeypatch.setattr(checkpoints.Run, "__init__", remember)
    yield
    for run in opened:
        run.close()


def saved(folder: Path, steps: tuple[int, ...] = (10, 20), keep: int = 2) -> Run:
    run = open_run(folder, "run", CONFIGURATION, keep=keep)
    for step in steps:
        run.save(step, network(step))
    run.close()
    return run


def infomax_model():
    import infomax as im
    from infomax.encoders import Projector, encoder
    from infomax.models import InfoMax

    torch.manual_seed(0)
    return InfoMax(encoder("resnet10_tiny", in_chans=1), Projector(256, hidden=8, out=4), im.Cosine(), im.SMILE(tau=3))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


# ----------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(
            [{"params": p[:2], "lr": 0.1}, {"params": p[2:], "betas": (0.5, 0.9)}], amsgrad=True
        ),
        lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1), momentum=0.9, nesterov=True),
    ],
    ids=["AdamW", "SGD"],
)
def test_training_goes_on_bitwise(tmp_path, make):
    model = network()
    optimizer = make(list(model.parameters()))
    trained(model, optimizer)
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.save(2, model, optimizer, {"seen": 7, "nested": [torch.arange(3), (1.5, None)], "inf": {3: float("inf")}})
    at_save = pickle.dumps(optimizer.state_dict())
    trained(model, optimizer)
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())

    again = network(seed=1)
    other = make(list(again.parameters()))
    random.seed(5)
    np.random.seed(5)
    state = read(tmp_path / "run").restore(again, other)
    assert state["seen"] == 7
    assert state["nested"][0].tolist() == [0, 1, 2]
    assert state["nested"][1] == (1.5, None)
    assert state["inf"] == {3: float("inf")}
    mine, theirs = other.state_dict(), pickle.loads(at_save)
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys() != set()
    for index, entries in theirs["state"].items():
        for name, value in entries.items():
            torch.testing.assert_close(mine["state"][index][name], value, rtol=0, atol=0)
    trained(again, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())


def test_a_fused_step_goes_on_bitwise_where_weights_are_channels_last(tmp_path):
    """A file has tensors row by row, and torch's fused step pairs memory with memory: findings/ has it alone."""

    def made():
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        return conv, torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True)

    def steps(conv, optimizer):
        for seed in range(3):
            optimizer.zero_grad()
            conv(torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
            optimizer.step()

    conv, optimizer = made()
    steps(conv, optimizer)
    open_run(tmp_path / "run", "run", CONFIGURATION).save(3, conv, optimizer, {})
    steps(conv, optimizer)
    again, other = made()
    read(tmp_path / "run").restore(again, other)
    steps(again, other)
    assert all(torch.equal(a, b) for a, b in zip(conv.parameters(), again.parameters(), strict=True))


def test_restore_refuses_another_model_or_optimizer_and_touches_neither(tmp_path):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.save(1, model, optimizer)
    checkpoint = read(run.folder)
    before = network(seed=3)
    for mine, message in [
        (nn.Linear(4, 3), "only in"),
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64)), r"\[3, 4\]"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), "torch.float64"),
    ]:
        with pytest.raises(UserError, match=message):
            checkpoint.restore(mine)
    with pytest.raises(UserError, match="groups"):
        checkpoint.restore(before, torch.optim.AdamW(list(before.parameters())[:2]))
    for name, value in network(seed=3).state_dict().items():
        assert torch.equal(before.state_dict()[name], value), name


def test_a_model_is_rebuilt_from_its_folder(tmp_path):
    import timm

    import infomax as im

    model = infomax_model()
    model(torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28)).backward()  # moves BatchNorm's statistics
    path = checkpoints.save(
        model, tmp_path / "run", preprocessing={"mean": [0.1], "std": [0.3], "input_size": [1, 28, 28]}
    )
    images = torch.randn(3, 1, 28, 28)
    model.eval()
    expected = model.encoder(images)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / path.name
    for place in (tmp_path / "elsewhere", path, str(path)):
        loaded = checkpoints.load(place)
        assert torch.equal(loaded.encoder(images), expected)
        assert isinstance(loaded.objective, im.SMILE)
        assert (repr(loaded.objective), repr(loaded.critic)) == (repr(model.objective), repr(model.critic))
        assert repr(loaded.projector) == repr(model.projector)
        assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(checkpoints.load_encoder(path)(images), expected)
    by_timm = timm.create_model(f"local-dir:{path / 'encoder'}", pretrained=True).eval()
    assert torch.equal(by_timm(images), expected)
    assert list(by_timm.pretrained_cfg["mean"]) == [0.1]  # pyright: ignore
    assert read(path).preprocessing == {"mean": [0.1], "std": [0.3], "input_size": [1, 28, 28]}
    assert checkpoints.save(model, tmp_path / "elsewhere").name == "step-00000001"


def test_a_saved_class_of_someone_elses_is_imported_only_when_allowed(tmp_path, monkeypatch):
    trap = tmp_path / "trap_objective.py"
    trap.write_text(
        "import pathlib\nfrom infomax.objectives import DV\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Mine(DV):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import trap_objective  # pyright: ignore[reportMissingImports]

    model = infomax_model()
    model.objective = trap_objective.Mine()
    checkpoints.save(model, tmp_path / "run")
    del sys.modules["trap_objective"]
    (tmp_path / "ran").unlink()
    with pytest.raises(UserError, match=r"trap_objective:Mine.*allow_imports"):
        checkpoints.load(tmp_path / "run")
    assert isinstance(checkpoints.load_encoder(tmp_path / "run"), nn.Module)
    assert not (tmp_path / "ran").exists()
    assert type(checkpoints.load(tmp_path / "run", allow_imports=True).objective).__name__ == "Mine"
    assert (tmp_path / "ran").exists()


THEIRS = """
import torch
import infomax as im

class Theirs(im.models.Model):
    \"\"\"Rows against their mean so far, which moves after each step.\"\"\"

    def __init__(self, encoder, critic, objective, pace=0.5):
        super().__init__(critic, objective, encoder=encoder)
        self.pace = pace
        self.register_buffer("mean", torch.zeros(4))

    def sides(self, inputs, ids):
        x, y = self.encode(lambda *views: tuple(self.encoder(view) for view in views), *inputs)
        self.seen = x.detach().mean(0)
        return im.scores.Sides(x - self.mean, y - self.mean, ids)

    def after_step(self):
        self.mean.lerp_(self.seen, self.pace)
"""


def test_a_plain_model_of_ones_own_comes_back_where_its_module_is_trusted_and_goes_on_bitwise(tmp_path, monkeypatch):
    import infomax as im

    (tmp_path / "their_plain_model.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    import their_plain_model  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    model = their_plain_model.Theirs(im.encoders.MLP(3, 8, 4), im.Cosine(0.3, learn=True), im.NWJ(), pace=0.25)
    views = [*torch.randn(2, 12, 3)]

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (-model(views)).backward()
            optimizer.step()
            model.after_step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    steps(model, optimizer, 3)
    with open_run(tmp_path / "run", "run", CONFIGURATION) as run:
        run.save(3, model, optimizer)
    assert (checkpoints.describe(model) or {})["model"] == "their_plain_model:Theirs"
    del sys.modules["their_plain_model"]
    with pytest.raises(UserError, match=r"their_plain_model:Theirs.*allow_imports"):
        checkpoints.load(tmp_path / "run")
    assert "their_plain_model" not in sys.modules
    found = checkpoints.load(tmp_path / "run", allow_imports=True)
    assert type(found).__name__ == "Theirs" and found.pace == 0.25
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    other = torch.optim.AdamW(found.train().parameters(), lr=0.05)
    checkpoints.read(tmp_path / "run").restore(found, other)
    assert torch.equal(found(views), model(views))
    steps(model, optimizer, 3)
    steps(found, other, 3)
    assert float(model.mean.abs().sum()) > 0
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "local-dir:/tmp", "in_chans": 1, "arguments": {}},
        {"name": "resnet10_tiny", "in_chans": 1, "arguments": {"checkpoint_path": "weights.pth"}},
        {"name": "resnet10_tiny", "in_chans": 1, "arguments": {"pretrained": True}},
        {"name": "resnet10_tiny", "in_chans": 1, "arguments": []},
        ["resnet10_tiny"],
    ],
)
def test_a_saved_description_reads_no_other_weights(encoder):
    described = checkpoints.describe(infomax_model()) or {}
    with pytest.raises(UserError, match="not one that infomax writes"):
        checkpoints.build({**described, "parts": {**described["parts"], "encoder": encoder}})


def test_an_encoder_of_ones_own_is_filled_by_its_owner(tmp_path):
    model = infomax_model()
    model.encoder = nn.Flatten()
    linear = nn.Linear(4, 4)
    model.projector = nn.Sequential(linear)
    checkpoints.save(model, tmp_path / "run")
    with pytest.raises(UserError, match=r"restore\(model\)"):
        checkpoints.load(tmp_path / "run")
    before = linear.weight.clone()
    nn.init.zeros_(linear.weight)
    read(tmp_path / "run").restore(model)
    assert torch.equal(linear.weight, before)


def test_no_pickle_is_read_under_any_name(tmp_path):
    saved(tmp_path / "run", (10,))

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    bomb = pickle.dumps(Bomb())
    folder = tmp_path / "run" / "step-00000010"
    for name in [*names(folder), "pytorch_model.bin", "random_states_0.pkl", "optimizer.bin", "model.pt"]:
        copy = tmp_path / f"copy-{name}"
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(bomb)
        if (folder / name).exists():
            with pytest.raises(DamagedError, match=name):
                read(copy)
        else:
            read(copy).restore(network())
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # the bomb is a live one


# --------------------------------------------------------------------------------------------------- an older format


OLD = (1, 2)


@pytest.fixture(params=OLD)
def old(tmp_path, request) -> Path:
    """A run as an older format wrote it: 2 of 4 steps."""
    shutil.copytree(Path(__file__).with_name(f"format-{request.param}"), tmp_path / "old")
    return tmp_path / "old"


# Value and surrogate of their next two steps, as the version that wrote them went on. Format 2's is NT-Xent, with
# --ring and micro-batches, which its description did not name.
NEXT = {
    1: [(0.09505514800548553, 2.2450978755950928), (0.05154819041490555, 2.2034454345703125)],
    2: [(-0.009203179739415646, 1.8358787298202515), (0.05187423154711723, 1.9436638355255127)],
}


def test_a_run_of_an_older_format_is_read_and_goes_on(old, monkeypatch):
    from dataclasses import asdict

    import infomax as im
    from infomax import data, launch, training

    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "recipes")
    import simclr  # pyright: ignore[reportMissingImports]

    version = json.loads((old / "run.json").read_text())["format"]
    assert version in OLD and version < files.FORMAT
    found = read(old)
    assert (found.step, found.processes) == (2, 1)
    assert repr(checkpoints.load(old).objective) == "MINE(decay=0.99)"
    assert checkpoints.load(old).ntxent is (version == 2)
    assert isinstance(checkpoints.read_parts(old)[2], im.encoders.Projector)
    images = torch.randint(0, 256, (48, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = data.from_tensors(images, None, images[:2], None)
    # What the recipe asks for today: its switches that came later have the value that they had when there were none.
    resolved = {"recipe": "simclr_smile", "steps": 4, "objective": "MINE(decay=0.99)", "mixed_precision": "no"}
    resolved |= {"ring": True, "data": split.fingerprint} if version == 2 else {}
    configuration = asdict(simclr.Settings()) | resolved
    for key in ("run_dir", "resume"):
        configuration.pop(key)
    with pytest.raises(UserError, match="deterministic is False there and True here"):
        open_run(old, "run", {**configuration, "deterministic": True}, resume=True, defaults=DEFAULTS)
    if version == 1:
        words = (
            "deterministic is not set there and False here; freeze is not set there and 0 here; "
            "pretrained is not set there and None here; ring is not set there"
        )
        with pytest.raises(UserError, match=words):
            open_run(old, "run", configuration, resume=True)
    run = open_run(old, "run", configuration, resume=True, preprocessing=found.preprocessing, defaults=DEFAULTS)
    assert run.checkpoint is not None
    torch.manual_seed(5)
    model = checkpoints.build(found.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    run.checkpoint.restore(model, optimizer)
    loader = data.PairLoader(split.train, data.views_for(split), 16, seed=0)
    by = launch.make_accelerator()
    values = []
    for step in im.train(model, loader, optimizer, training.warmup_cosine(4), by, steps=4, start=2):
        values.append((step.mi, step.surrogate))
        run.save(step.number, model, optimizer)
    assert values == [pytest.approx(pair, rel=1e-4) for pair in NEXT[version]]
    assert json.loads((old / "run.json").read_text())["format"] == files.FORMAT
    assert json.loads((old / "step-00000004/MANIFEST.json").read_text())["format"] == files.FORMAT
    assert len((old / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_damage_to_an_older_format_is_seen(old, name):
    flip(old / "step-00000002" / name)
    with pytest.raises(DamagedError, match=name):
        read(old)


# ------------------------------------------------------------------------------------------------------------ poison


@pytest.mark.parametrize("where", ["parameter", "buffer", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_saved(tmp_path, where, value):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    trained(model, optimizer)
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.save(1, model, optimizer)
    with torch.no_grad():
        match where:
            case "parameter":
                model[0].weight[1, 2] = value  # pyright: ignore
            case "buffer":
                model[1].running_var[0] = value  # pyright: ignore
            case "optimizer":
                optimizer.state[model[0].weight]["exp_avg_sq"][0, 0] = value  # pyright: ignore
    with pytest.raises(NonFinite, match=r"After step 2 .* is not finite.*step-00000001 is the newest"):
        run.save(2, model, optimizer)
    assert names(run.folder) == ["run.json", "step-00000001"]
    assert read(run.folder).step == 1


def test_an_average_of_nothing_in_the_log_domain_is_saved(tmp_path):
    import infomax as im

    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.save(1, im.MINE())
    assert read(run.folder).step == 1


def test_a_run_that_a_newer_version_touched_is_refused_and_left_as_it_is(tmp_path):
    model = network()
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.save(1, model)
    run.save(2, model)
    run.close()
    path = run.folder / "step-00000002" / "MANIFEST.json"
    content = json.loads(path.read_text()) | {"format": files.FORMAT + 1}
    path.write_text(json.dumps(content | {"sha256": files.seal_of(content)}))
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="use the version that wrote it"):
        open_run(tmp_path / "run", "run", CONFIGURATION, resume=True)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


def test_a_pipe_in_place_of_a_manifest_is_refused(tmp_path):
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    path = run.save(1, network()) / "MANIFEST.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file"):
        read(run.folder / "step-00000001")


# ------------------------------------------------------------------------------------------------------------ damage


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, link, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_file_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage, name):
    run = saved(tmp_path / "run")
    damage(run.folder / "step-00000020" / name)
    with pytest.raises(DamagedError, match=name):
        read(run.folder / "step-00000020")
    with caplog.at_level(logging.WARNING):
        found = latest(run.folder)
    assert found is not None
    assert found.step == 10
    (line,) = caplog.messages
    assert name in line
    assert "step 10" in line

    again = open_run(run.folder, "run", CONFIGURATION, resume=True, keep=1)
    caplog.clear()
    assert again.checkpoint is not None
    assert again.checkpoint.step == 10
    again.save(15, network())
    assert names(run.folder) == ["damaged-step-00000020", "run.json", "step-00000015"]
    assert read(run.folder).step == 15


def test_none_whole_is_an_error_and_none_at_all_is_not(tmp_path):
    run = saved(tmp_path / "run")
    for step in (10, 20):
        flip(run.folder / f"step-000000{step}" / "model.safetensors")
    with pytest.raises(DamagedError, match="No checkpoint in"):
        open_run(run.folder, "run", CONFIGURATION, resume=True)
    assert open_run(tmp_path / "new", "run", CONFIGURATION, resume=True).checkpoint is None
    assert latest(tmp_path / "new") is None
    with pytest.raises(UserError, match="no checkpoint yet"):
        read(tmp_path / "new")


def test_other_formats_and_places_outside_are_refused(tmp_path):
    run = saved(tmp_path / "run", (10,))
    manifest = run.folder / "step-00000010" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    for change, message in [
        ({"format": None}, "format None"),
        ({"format": "2"}, "format '2'"),
        ({"format": True}, "format True"),
        ({"files": {**content["files"], "../run.json": {"bytes": 1, "sha256": "0"}}}, "outside its folder"),
        ({"files": {**content["files"], "/etc/passwd": {"bytes": 1, "sha256": "0"}}}, "outside its folder"),
        ({"files": {**content["files"], "encoder/../../run.json": "0"}}, "outside its folder"),
        ({"files": {**content["files"], "..\\run.json": "0"}}, "outside its folder"),
        ({"files": {**content["files"], "": "0"}}, "outside its folder"),
        ({"files": {}}, "does not list"),
    ]:
        altered = {**content, **change}
        manifest.write_text(json.dumps({**altered, "sha256": files.seal_of(altered)}))
        with pytest.raises(DamagedError, match=message):
            read(run.folder / "step-00000010")
    manifest.write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="cannot be read"):
        read(run.folder / "step-00000010")


def test_reading_what_is_not_there(tmp_path):
    saved(tmp_path / "simclr_smile")
    (tmp_path / "empty").mkdir()
    for path, message in [
        ("simclr_smlie", "does not exist.*simclr_smile"),
        ("empty", "neither a run nor a checkpoint"),
        ("simclr_smile/run.json", "is not a folder"),
        ("simclr_smile/step-00000030", "does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            checkpoints.load(tmp_path / path)


def test_a_damaged_run_json_is_written_anew(tmp_path, caplog):
    run = saved(tmp_path / "run")
    before = (run.folder / "run.json").read_text()
    flip(run.folder / "run.json")
    assert open_run(run.folder, "run", CONFIGURATION, resume=True).configuration == CONFIGURATION
    assert "run.json" in caplog.text
    assert (run.folder / "run.json").read_text() == before


# ----------------------------------------------------------------------------------------------------- folders and logs


def test_a_default_folder_gets_a_fresh_suffix_and_a_named_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        run = open_run(None, "simclr_smile", CONFIGURATION)
        run.close()
        folders.append(os.fspath(run.folder))
    assert folders == ["checkpoints/simclr_smile", "checkpoints/simclr_smile-2", "checkpoints/simclr_smile-3"]
    resumed = open_run(None, "simclr_smile", CONFIGURATION, resume=True)
    assert os.fspath(resumed.folder) == folders[-1]
    with pytest.raises(UserError, match="--resume"):
        open_run("checkpoints/simclr_smile", "simclr_smile", CONFIGURATION)
    Path("file").touch()
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    for name in ("file", "full"):
        for resume in (False, True):
            with pytest.raises(UserError):
                open_run(name, "simclr_smile", CONFIGURATION, resume=resume)
    assert names(Path("full")) == ["thesis.tex"]
    for name in ("../up", "a/b", "", ".hidden", "..", "a\0b", "/abs", "a\nb"):
        with pytest.raises(UserError, match="cannot name a run"):
            open_run(None, name, CONFIGURATION)


def test_data_of_another_fingerprint_or_preprocessing_are_refused_where_the_saved_ones_are_known(tmp_path):
    kind = {"mean": (0.1,), "std": (0.3,), "input_size": (1, 8, 8)}
    noted = {key: value for key, value in CONFIGURATION.items() if key != "data"}
    old = tmp_path / "old"
    run = open_run(old, "run", noted)  # as an older version did
    run.save(1, network())
    run.close()
    for number in (1, 2):  # the second time there is something to compare with
        run = open_run(old, "run", {**noted, "data": "64 + 16 images, sha256 1"}, resume=True, preprocessing=kind)
        run.save(1 + number, network())
        run.close()
    for lost in (False, True):  # the checkpoint knows it too
        if lost:
            (old / "run.json").unlink()
        with pytest.raises(UserError, match=r"data is '64 .* sha256 1' there and '63 .* sha256 2' here"):
            open_run(old, "run", {**noted, "data": "63 + 16 images, sha256 2"}, resume=True, preprocessing=kind)
        other = {**kind, "mean": (0.2,)}
        with pytest.raises(UserError, match=r"preprocessing\.mean is \[0\.1\] there and \[0\.2\] here"):
            open_run(old, "run", {**noted, "data": "64 + 16 images, sha256 1"}, resume=True, preprocessing=other)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_runs_saved_with_hues_that_never_acted_go_on_and_no_others(tmp_path, channels):
    of_colours = data.policies["natural"]()
    bare = replace(of_colours, hue=0.0, saturation=0.0, gray=0.0)

    def opened(policy: data.Policy, resume: bool = True) -> None:
        views = data.Views(policy, [0.4] * channels, [0.2] * channels)
        told = {**data.describe_views(views), "input_size": (channels, 8, 8)}
        with open_run(tmp_path / "run", "run", CONFIGURATION, resume=resume, preprocessing=told) as run:
            run.save(1, network())

    opened(of_colours, resume=False)
    if channels == 3:
        with pytest.raises(UserError, match=r"preprocessing\.views is .*hue=0\.1.* there and .*hue=0\.0.* here"):
            opened(bare)
        return
    opened(bare)
    with pytest.raises(UserError, match=r"preprocessing\.views is .*brightness=0\.4.* there and .*brightness=0\.3"):
        opened(replace(bare, brightness=0.3))


def test_which_keys_may_differ_is_the_callers_affair(tmp_path):
    def opened(**configuration) -> Run:
        return open_run(
            tmp_path / "run", "run", configuration, resume=True,
            may_differ={"pages"}, length={"pages"}, later={"paper"}, defaults={"ink": "black"},
        )  # fmt: skip

    run = opened(pages=3, lr=1)
    run.save(1, network())
    run.finish({"ok": 1})
    same_again = opened(pages=3, lr=1, ink="black", paper="A4")
    assert same_again.finished and same_again.results == {"ok": 1}
    same_again.close()
    longer = opened(pages=4, lr=1, ink="black", paper="A4")
    assert not longer.finished and longer.results is None
    longer.close()
    with pytest.raises(UserError, match=r"steps is not set there and 1 here\. .*\(pages may differ\)"):
        opened(pages=4, lr=1, ink="black", paper="A4", steps=1)
    with pytest.raises(UserError, match="ink is 'black' there and 'red' here"):
        opened(pages=4, lr=1, ink="red", paper="A4")
    with pytest.raises(UserError, match="paper is 'A4' there and 'A5' here"):
        opened(pages=4, lr=1, ink="black", paper="A5")


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path):
    """No file can be opened: a run that took this for a beginning would cut its log and train anew."""
    import resource

    saved(tmp_path / "run")
    before = names(tmp_path / "run")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        with pytest.raises(checkpoints.UnusableError, match=r"run cannot be read now \(Too many open files\)"):
            latest(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert names(tmp_path / "run") == before
    assert read(tmp_path / "run").step == 20


def test_another_configuration_is_refused_with_its_keys(tmp_path):
    run = saved(tmp_path / "run")
    other = {**CONFIGURATION, "lr": 0.1, "data": {"name": "digits"}, "seed": 1, "epochs": 5}
    with pytest.raises(UserError) as caught:
        open_run(run.folder, "run", other, resume=True)
    message = str(caught.value)
    for clause in (
        "lr is 0.001 there and 0.1 here",
        "data.name is 'mnist5k' there and 'digits' here",
        "data.limit is None there and not set here",
        "seed is not set there and 1 here",
    ):
        assert clause in message
    assert "epochs is" not in message
    assert json.loads((run.folder / "run.json").read_text())["configuration"] == CONFIGURATION


def test_finished_until_more_is_asked(tmp_path):
    run = saved(tmp_path / "run")
    run.finish({"mi": torch.tensor(1.5), "ceiling": float("inf")})
    again = open_run(run.folder, "run", CONFIGURATION, resume=True)
    again.close()
    assert again.finished
    assert again.results == {"mi": 1.5, "ceiling": "inf"}
    content = json.loads((run.folder / "run.json").read_text())
    assert content["results"] == again.results
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    longer = open_run(run.folder, "run", {**CONFIGURATION, "epochs": 4}, resume=True)
    longer.close()
    assert not longer.finished
    assert not open_run(run.folder, "run", {**CONFIGURATION, "epochs": 4}, resume=True).finished


def test_a_log_that_lost_its_end_goes_on_at_a_whole_line(tmp_path):
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    for step in range(3):
        run.log({"step": step})
    run.save(3, network())
    run.close()
    os.truncate(run.folder / "log.jsonl", 16)
    again = open_run(run.folder, "run", CONFIGURATION, resume=True)
    again.log({"step": 3})
    assert [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()] == [0, 3]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    run.log({"step": 1, "mi": torch.tensor(0.5), "surrogate": float("nan")})
    run.save(1, network())
    run.log({"step": 2})
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "m')  # killed in the middle of a line
    run.close()
    again = open_run(run.folder, "run", CONFIGURATION, resume=True)
    again.log({"step": 2, "again": True})
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "mi": 0.5, "surrogate": "nan"}, {"step": 2, "again": True}]


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", ".lock", "step-00000010"])
def test_a_link_out_of_a_run_is_neither_read_nor_written(tmp_path, name):
    run = saved(tmp_path / "run", (10,))
    outside = tmp_path / "outside"
    if name.startswith("step"):
        (run.folder / name).rename(outside)
    else:
        outside.write_text("mine")
        (run.folder / name).unlink(missing_ok=True)
    (run.folder / name).symlink_to(outside)
    with pytest.raises(DamagedError, match="is a link"):
        open_run(run.folder, "run", CONFIGURATION, resume=True)
    assert outside.is_dir() or outside.read_text() == "mine"


def test_a_checkpoint_under_another_steps_name_is_refused(tmp_path):
    run = saved(tmp_path / "run", (10,))
    (run.folder / "step-00000010").rename(run.folder / "step-00000099")
    with pytest.raises(DamagedError, match="holds the checkpoint of step 10: it was renamed"):
        read(run.folder)
    (run.folder / "step-00000099").rename(tmp_path / "alone")
    assert read(tmp_path / "alone").step == 10


def test_saving_in_a_thread_saves_what_was_there_and_tells_later(tmp_path):
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    model = network()
    before = model.state_dict()["0.weight"].clone()
    run.save(1, model, wait=False)
    with torch.no_grad():
        model[0].weight.zero_()  # pyright: ignore
    run.wait()
    assert torch.equal(read(run.folder).tensors("model.safetensors")["0.weight"], before)
    (run.folder / ".tmp-step-00000002").write_text("in the way")
    run.save(2, model, wait=False)
    with pytest.raises(UserError, match=r"step 2 could not be written.*step-00000001 is still there"):
        run.save(3, model)
    (run.folder / ".tmp-step-00000002").unlink()
    run.save(3, model)
    assert read(run.folder).step == 3


def test_another_number_of_threads_is_told(tmp_path, caplog):
    run = saved(tmp_path / "run", (10,))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with caplog.at_level(logging.WARNING):
            read(run.folder).restore(network())
    finally:
        torch.set_num_threads(before)
    assert f"with {before} thread(s) a process and is resumed with {before + 1}" in caplog.text
    assert "not bitwise" in caplog.text


def test_two_trainers_do_not_share_a_folder(tmp_path):
    run = open_run(tmp_path / "run", "run", CONFIGURATION)
    with pytest.raises(UserError, match="Another process"):
        open_run(tmp_path / "run", "run", CONFIGURATION, resume=True)
    run.close()
    open_run(tmp_path / "run", "run", CONFIGURATION, resume=True)


def test_only_the_newest_are_kept(tmp_path):
    run = saved(tmp_path / "run", (1, 2, 3, 4), keep=3)
    assert names(run.folder) == ["run.json", "step-00000002", "step-00000003", "step-00000004"]
    with pytest.raises(UserError, match="keep=0"):
        saved(tmp_path / "other", keep=0)


def test_a_failed_save_says_so_and_leaves_what_was(tmp_path, monkeypatch):
    run = saved(tmp_path / "run")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python 3.11 keeps bytecode that the limit has cut
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk: no file can grow beyond that
    try:
        with pytest.raises(UserError, match=r"step 30 could not be written.*step-00000020 is still there"):
            run.save(30, network())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(run.folder) == ["run.json", "step-00000010", "step-00000020"]
    found = latest(run.folder)
    assert found is not None
    assert found.step == 20


# ------------------------------------------------------------------------------------------------------------- kills

NURSERY = """
import itertools, os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from infomax import checkpoints, data
from infomax.checkpoints import checkpoint, files, opening, snapshot
from infomax.checkpoints import folder as run_folder
from infomax import files as whole

folder = Path(sys.argv[1])
import infomax.models  # loaded once; each trainer is a fork

def model(step):
    net = nn.Linear(200, 100)
    nn.init.constant_(net.weight, step)
    nn.init.constant_(net.bias, -step)
    return net

def train(point, nth):
    run = checkpoints.open_run(folder, "run", {"a": 1}, resume=True)
    count = 0
    def wrapped(function):
        def call(*args, **kwargs):
            nonlocal count
            result = function(*args, **kwargs)
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
    if point == "replace":
        Path.rename = wrapped(Path.rename)
    elif point:
        for module in (whole, files, checkpoint, snapshot, run_folder, opening):
            if hasattr(module, point):
                setattr(module, point, wrapped(getattr(module, point)))
    first = 1 + (run.checkpoint.step if run.checkpoint else 0)
    # Where the kill comes from outside, at any moment, it must not find this finished.
    for step in range(first, first + 400) if point else itertools.count(first):
        if point == "replace" and step > 3:
            step = first - 1
        run.log({"step": step})
        run.save(step, model(step))

def check(before, what):
    run_folder.sweep(folder)  # what open_run does first
    found = checkpoints.latest(folder)
    step = found.step if found else 0
    assert step >= before, (what, step, before)
    for _, path in checkpoint.saved_steps(folder):
        checkpoints.read(path)
    if found:
        net = model(0)
        found.restore(net)
        assert (net.weight == step).all() and (net.bias == -step).all(), what
    return step

def kill_one(point, nth, awaited=0, wait=None):
    child, ended = os.fork(), (0, 0)
    if not child:
        try:
            train(point, nth)
        finally:
            os._exit(3)
    if wait is not None:
        while not ended[0] and max([0, *dict(checkpoint.saved_steps(folder))]) < awaited:
            time.sleep(0.002)
            ended = os.waitpid(child, os.WNOHANG)
        time.sleep(wait)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
    _, status = ended if ended[0] else os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (point, nth, status)

draw = random.Random(0)
step, kills = 0, 0
points = ["save_safetensors", "_save_encoder", "seal_folder", "flush_to", "flush_folder", "digest_of", "sweep"]
for point in points:
    for nth in (1, 2, 5):
        kill_one(point, nth)
        step = check(step, (point, nth))
        kills += 1
for nth in range(1, 7):
    kill_one("replace", nth)
    step = check(step, ("rename", nth))
    kills += 1
for _ in range(int(sys.argv[2])):
    awaited, wait = step + draw.randrange(4), draw.uniform(0, 0.05)  # when some more are saved, and a little later
    kill_one("", 0, awaited, wait)
    step = check(max(step, awaited), (awaited, wait))
    kills += 1
print(kills, step)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_newest_checkpoint_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(tmp_path / "run"), "20"],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, step = map(int, done.stdout.split())
    assert kills == 47
    assert step > 20  # the kills came while it was making progress
    assert "damaged" not in done.stderr
    assert "checksum" not in done.stderr


WORKERS = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
from infomax import checkpoints, data
from infomax.errors import UserError

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
folder = sys.argv[1]
run = checkpoints.open_run(None, folder, {"a": 1})
model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
run.log({"rank": rank})
run.save(5, model, None, {"rank": rank})
drawn = torch.rand(3)
torch.manual_seed(9)
assert checkpoints.read(run.folder).restore(model)["rank"] == rank
assert torch.equal(torch.rand(3), drawn)
try:
    checkpoints.open_run(run.folder, folder, {"a": 1})
except UserError as error:
    assert "--resume" in str(error)
else:
    raise SystemExit("not refused")
run.finish({"ok": 1})
print("rank", rank, "done", flush=True)
dist.barrier()
os._exit(0)  # launch.leave() says why
"""


@pytest.mark.slow
def test_two_processes_write_once_and_keep_their_own_state(tmp_path, caplog):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), "pair"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2
    folder = tmp_path / "checkpoints" / "pair"
    assert names(tmp_path / "checkpoints") == ["pair"]
    assert names(folder) == ["log.jsonl", "run.json", "step-00000005"]
    assert (folder / "log.jsonl").read_text() == '{"rank": 0}\n'
    found: Checkpoint = read(folder)
    assert found.processes == 2
    with caplog.at_level(logging.WARNING):
        assert found.restore(nn.Linear(2, 2)) == {"rank": 0}
    assert "not bitwise" in caplog.text
