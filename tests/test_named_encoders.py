"""Encoders that were not trained here: of a user's file, of timm, of a folder; and layers by name."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import infomax as im
from infomax import cli
from infomax.data import from_tensors
from infomax.errors import UserError
from infomax.estimation import Budget
from infomax.evaluation import mutual_information, subject
from infomax.evaluation.layers import Layers
from infomax.evaluation.named import named_encoder, names_encoder

CODE = """
import torch
from torch import nn

made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
number = 3


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 6, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()).mean((2, 3))


def build():
    torch.manual_seed(0)
    return Small()


def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "encoders.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def images():
    x = torch.randint(0, 256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(300) % 2
    x[y == 0, :, :4] //= 2
    return from_tensors(x[:200], y[:200], x[200:], y[200:], name="halves")


def test_what_names_an_encoder_and_what_a_run(tmp_path):
    assert names_encoder("a/b.py:build") and names_encoder("timm:resnet18") and names_encoder("local-dir:here")
    assert not names_encoder("checkpoints/simclr_smile") and not names_encoder(tmp_path)


def test_a_module_or_a_function_of_a_file(file, images):
    assert named_encoder(f"{file}:made", 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 8)
    about = subject(f"{file}:build", images)
    assert about.checkpoint is None and about.projector is None and not about.encoder.training
    assert about.encoder(torch.zeros(2, 1, 8, 8)).shape == (2, 6)
    with pytest.raises(UserError, match="needs a dataset to be evaluated on, --dataset"):
        subject(f"{file}:build")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nowhere.py:build", "There is no file nowhere.py"),
        ("{}:biuld", r"has no 'biuld'. Did you mean 'build'\? Known: broken, build, made, Small"),
        ("{}:number", "number of .* is int: an nn.Module"),
        ("{}:broken", r"broken\(\) of .* failed \(RuntimeError: no weights\)"),
        ("timm:resnet_of_mine", "timm has no model 'resnet_of_mine'"),
        ("local-dir:nowhere", "There is no folder nowhere"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_sentence(text, told, file):
    with pytest.raises(UserError, match=told):
        named_encoder(text.format(file), 1)
    file.write_text("import nothing_of_this_name")
    with pytest.raises(UserError, match=r"could not be run \(ModuleNotFoundError"):
        named_encoder(f"{file}:build", 1)


def test_a_file_with_a_dataclass_and_postponed_annotations_is_run(file):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text += "@dataclass\nclass Size:\n    width: int = 3\n"
    file.write_text(text + "from torch import nn\ndef build():\n    return nn.Linear(4, Size().width)\n")
    assert named_encoder(f"{file}:build", 1).out_features == 3


def test_layers_by_name(file):
    encoder = named_encoder(f"{file}:build", 1)
    layers = Layers(encoder, None, ["first", "second"])
    rows = layers(torch.rand(5, 1, 8, 8))
    named = layers.apart([rows])
    assert list(named) == ["pixels", "first", "second", "features"]
    assert torch.equal(named["features"][0], rows[:, -6:])
    with pytest.raises(UserError, match=r"no layer 'frist'. Did you mean 'first'"):
        Layers(encoder, None, ["frist"])

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0].flatten(1)

    with pytest.raises(UserError, match="layer 'pair' gives a tuple"):
        Layers(Odd(), None, ["pair"])(torch.rand(2, 1, 4, 4))


@pytest.mark.slow
def test_the_chain_has_the_layers_that_were_named(file, images):
    found = mutual_information(
        f"{file}:build", images, layers=["first"], objective="InfoNCE", critic="Separable(hidden=8, out=4)",
        budget=Budget(steps=40, learning_rate=0.02),
    )  # fmt: skip
    assert [name for name, _ in found.chain.layers] == ["pixels", "first", "features"]


def test_evaluate_takes_layers_by_name(file, images):
    with pytest.raises(UserError, match=r"no layer 'frist'. Did you mean 'first'"):
        im.evaluate(f"{file}:build", images, layers=["frist"])


def test_layers_go_with_an_encoder(tmp_path, monkeypatch, capsys):
    import numpy as np

    np.save(tmp_path / "x.npy", np.zeros((40, 1)))
    monkeypatch.setattr(
        sys, "argv", ["infomax", "estimate", str(tmp_path / "x.npy"), str(tmp_path / "x.npy"), "--layers", "a"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "--layers goes with a saved run or an encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_information_plane_of_a_users_network_in_one_call(file, tmp_path):
    command = [sys.executable, "-m", "infomax", "estimate", f"{file}:build", "--dataset", "digits", "--layers", "first"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for told in ("I(J; Z), which of 64 images a view shows", "pixels", "first", "features", "I(Z; label)"):
        assert told in ended.stdout
