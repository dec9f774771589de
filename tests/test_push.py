"""infomax push against a hub on this machine, by real requests: what is sent, what comes back, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
from hub import TOKEN, hub
from huggingface_hub import hf_hub_download

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub that HF_ENDPOINT names, and a user who has logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the other tests ask nothing of any network
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def test_what_was_sent_comes_back_byte_for_byte(run, finished, server, tmp_path):
    ended = run("infomax", "push", finished[0], "--to", "me/grey", "--into", "kept", "--license", "mit")
    assert (ended.status, ended.err) == (0, "") and f"Sent to {server.address}/me/grey" in ended.out
    assert sorted(server.files["me/grey"]) == FILES and not server.private
    assert server.messages == ["infomax: simclr_smile after step 6"]
    for name in FILES:
        file = hf_hub_download("me/grey", name, endpoint=server.address, cache_dir=tmp_path / "cache")
        with open(file, "rb") as opened:
            assert opened.read() == (tmp_path / "kept" / name).read_bytes()
    assert b"license: mit" in server.files["me/grey"]["README.md"]
    assert b'timm.create_model("hf-hub:me/grey", pretrained=True)' in server.files["me/grey"]["README.md"]


def test_a_second_push_replaces_what_it_sends_and_leaves_nothing_here(run, finished, server, tmp_path):
    server.files["me/grey"] = {"notes.txt": b"mine", "README.md": b"old"}
    ended = run("infomax", "push", finished[0], "--to", "me/grey")
    assert ended.status == 0, ended.err
    files = server.files["me/grey"]
    assert files["notes.txt"] == b"mine" and files["README.md"].startswith(b"---\n") and len(files) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_made_is_private_where_asked(run, finished, server):
    assert run("infomax", "push", finished[0], "--to", "me/own", "--private").status == 0
    assert server.private == {"me/own"} and len(server.files["me/own"]) == 3
    assert run("infomax", "push", finished[0], "--to", "me/own", "--private").status == 0  # and once more
    server.files["me/public"] = {}
    ended = run("infomax", "push", finished[0], "--to", "me/public", "--private")
    assert (ended.status, ended.out) == (2, "") and "me/public is there already and public" in ended.err
    assert server.files["me/public"] == {}


def test_a_dry_run_writes_the_folder_and_asks_nothing_of_the_network(run, finished, server, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    ended = run("infomax", "push", finished[0], "--to", "me/grey", "--dry-run")
    assert (ended.status, ended.err) == (0, "") and server.requests == [] and server.files == {}
    assert sorted(p.name for p in (tmp_path / "grey").iterdir()) == FILES
    assert "Nothing was sent." in ended.out and f"{server.address}/me/grey" in ended.out
    size = (tmp_path / "grey/model.safetensors").stat().st_size
    assert f"model.safetensors ({size:,} bytes)" in ended.out
    assert "hf-hub:me/grey" in (tmp_path / "grey/README.md").read_text()
    again = run("infomax", "push", finished[0], "--to", "me/grey", "--dry-run")
    assert again.status == 2 and "grey is not empty" in again.err


@pytest.mark.parametrize(
    "to", ["grey", "me/", "/grey", "me/gr ey", "me/grey/x", "me/a--b", "me/..", "me/x.git", "me/na\u00efve", "a" * 97]
)
def test_a_name_that_is_none_is_refused_before_anything(run, finished, server, tmp_path, to):
    ended = run("infomax", "push", finished[0], "--to", to)
    assert (ended.status, ended.out) == (2, "") and "--to" in ended.err and "USER/NAME" in ended.err
    assert server.requests == [] and list(tmp_path.iterdir()) == []


def test_nobody_is_refused_in_a_sentence(run, finished, server, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))  # of a machine where somebody has
    ended = run("infomax", "push", finished[0], "--to", "me/grey")
    assert (ended.status, ended.out, server.requests) == (2, "", [])
    assert ended.err == (
        f"{server.address} asks who you are: log in with `hf auth login`, or set HF_TOKEN to a token that may write.\n"
    )


def test_what_the_hub_refuses_is_a_sentence(run, finished, server, tmp_path, monkeypatch):
    server.refuse = "/commit/"
    ended = run("infomax", "push", finished[0], "--to", "me/grey")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "me/grey is there, but the files could not be sent, and none was" in ended.err
    assert "answers 403" in ended.err and server.files == {"me/grey": {}} and list(tmp_path.iterdir()) == []
    server.refuse = "/create"
    ended = run("infomax", "push", finished[0], "--to", "you/grey")
    assert ended.status == 2 and "you/grey could not be made" in ended.err and "may not write there" in ended.err
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    ended = run("infomax", "push", finished[0], "--to", "me/other")
    assert ended.status == 2 and "the token is not known there" in ended.err and "me/other" not in server.files


def test_a_hub_that_is_not_there_is_a_sentence(run, finished, server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ended = run("infomax", "push", finished[0], "--to", "me/grey")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "http://127.0.0.1:9 could not be reached" in ended.err and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_process_gives_and_a_third_has_the_same_features_by_timm(finished, server, tmp_path):
    env = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    words = [sys.executable, "-m", "infomax", "push", str(finished[0]), "--to", "me/grey"]
    sent = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert sent.returncode == 0, sent.stderr
    program = (
        "import json, sys, timm, torch, infomax.checkpoints, infomax.encoders\n"
        "own = infomax.checkpoints.load_encoder(sys.argv[1])\n"
        "again = timm.create_model('hf-hub:me/grey', pretrained=True).eval()\n"
        "images = torch.rand(3, 1, 8, 8)\n"
        "print(json.dumps([torch.equal(own(images), again(images)), list(again(images).shape)]))\n"
    )
    words = [sys.executable, "-c", program, str(finished[0])]
    read = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert read.returncode == 0, read.stderr
    equal, shape = json.loads(read.stdout)
    assert equal and shape[0] == 3
    assert ("GET", "/me/grey/resolve/main/model.safetensors") in server.requests
